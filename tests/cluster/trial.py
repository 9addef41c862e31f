"""The workflow on a real SLURM of one node, and what it costs beside plain commands.

    python tests/cluster/trial.py             everything; or one of: slurm, together, overhead, predict
    make test-cluster                         the same, after `pip install .[cluster] in a clone`

`slurm` runs 23 real runs in 34 jobs, and kills a job, the controller daemon and Snakemake itself, each
once, with SIGKILL; records must equal those of one plain `erc run` byte for byte but for times.
`together` lets two workflows write one folder of results at once. `overhead` counts the processor time
of a job beside that of the run in it. `predict` scores a file in four parts, a million turns by default.
What cannot be done here is skipped with the reason. SNAKEMAKE names another snakemake than that of
this environment, TURNS another number of turns, PLAIN a folder of results to compare with (and to make,
if it is not there)."""

import hashlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from slurm import Slurm, installed

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / 'tests' / 'cluster' / 'small.toml'
ERC = Path(sys.executable).parent / 'erc'
FAST = ('--slurm-init-seconds-before-status-checks', '2', '--seconds-between-status-checks', '2')


def snakemake() -> str:
    "Return the command, or '' where it is not installed."
    beside = Path(sys.executable).parent / 'snakemake'
    named = os.environ.get('SNAKEMAKE', '')
    return named or (str(beside) if beside.exists() else shutil.which('snakemake') or '')


def environment(home: Path) -> dict:
    own = {'ERC_CACHE': home / 'cache', 'ERC_DATA': home / 'data', 'XDG_CACHE_HOME': home / 'xdg'}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH', '')]))
    return {
        **os.environ,
        **{k: str(v) for k, v in own.items()},
        'PYTHONPATH': paths,
        'OMP_NUM_THREADS': '1',
    }


def workflow(work: Path, results: Path, target: str, profile: str, *options, split=600) -> list:
    "Return the words that start the workflow on the small recipe."
    config = {
        'target': target,
        'recipes': [str(RECIPE)],
        'home': str(results),
        'split': split,
        'erc': str(ERC),
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / 'config.json').write_text(json.dumps(config))
    where = ['--directory', str(work), '--configfile', str(work / 'config.json')]
    profile = str(ROOT / 'workflow' / 'profiles' / profile)
    command = [snakemake(), '--snakefile', str(ROOT / 'workflow' / 'Snakefile')]
    return [*command, '--workflow-profile', profile, *where, *options]


def plain(results: Path, target: str, home: Path) -> float:
    "Run a target by one plain command; return its seconds."
    start = time.time()
    command = [ERC, 'run', target, '--recipe', RECIPE, '--home', results, '--quiet']
    subprocess.run(command, check=True, env=environment(home), stdout=subprocess.DEVNULL)
    return time.time() - start


def contents(results: Path) -> dict:
    "Return the bytes of each record but for times: seconds, and the checksum that covers them."
    timed = re.compile(rb'^ +"seconds": .*\n|^ "checksum": .*\n', re.M)
    files = sorted(results.glob('records/*/*.json'))
    return {
        path.name: hashlib.sha256(timed.sub(b'', path.read_bytes())).hexdigest() for path in files
    }


def compare(found: Path, expected: Path, least=1) -> list[str]:
    "Return a sentence for each record that differs or is missing."
    one, other = contents(found), contents(expected)
    wrong = [f'{name} differs' for name in one.keys() & other.keys() if one[name] != other[name]]
    wrong += [f'{name} is on one side alone' for name in one.keys() ^ other.keys()]
    return wrong + ([f'{len(one)} records, fewer than {least}'] if len(one) < least else [])


# ---- SLURM, with three kills


def marks(work: Path) -> int:
    return len(list((work / 'done').glob('run--*')))


def wait_for(condition, process, seconds=3600):
    "Wait until a condition holds; RuntimeError if the process ends before."
    end = time.time() + seconds
    while not condition():
        if process.poll() is not None or time.time() > end:
            raise RuntimeError(f'Snakemake ended with {process.poll()} before its kill')
        time.sleep(0.5)


def running_jobs(results: Path) -> list:
    "Return the processes of `erc run` that write a folder of results."
    processes = list(psutil.process_iter(['cmdline']))
    words = [process.info['cmdline'] or [''] for process in processes]
    return [
        process
        for process, own in zip(processes, words)
        if 'python' in own[0] and 'run' in own and str(results) in own
    ]


def kill_job(results: Path, process):
    "Kill the process of a run with SIGKILL."
    wait_for(lambda: running_jobs(results), process)
    victim = running_jobs(results)[0]
    print(f'  killed a job: erc {" ".join(victim.cmdline()[2:4])}', flush=True)
    victim.kill()


def start(command: list, env: dict, log: Path):
    with open(log, 'ab') as file:
        return subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)


def with_kills(slurm: Slurm, work: Path, results: Path, home: Path) -> int:
    "Run the workflow, and kill each part once; return the exit code of the last call."
    env, log = {**environment(home), **slurm.environment}, home / 'snakemake.log'
    options = ['--slurm-status-command', 'squeue', *FAST, '--latency-wait', '20', '--jobs', '2']
    command = workflow(
        work,
        results,
        'small',
        'slurm',
        *options,
        '--default-resources',
        'slurm_partition=main',
        split=0,
    )
    process = start(command, env, log)
    wait_for(lambda: marks(work) >= 3, process)
    kill_job(results, process)
    wait_for(lambda: marks(work) >= 8, process)
    slurm.kill_controller()
    print('  killed the controller daemon, and started it again', flush=True)
    wait_for(lambda: marks(work) >= 14, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    print(f'  killed Snakemake with {marks(work)} jobs done', flush=True)
    subprocess.run([*command, '--unlock'], env=env, capture_output=True)
    return start(command, env, log).wait()


def attempts(log: Path) -> int:
    return log.read_text().count('Trying to restart job')


def trial_slurm(home: Path) -> list[str]:
    if reason := installed():
        print(f'slurm: skipped: {reason}')
        return []
    expected = Path(os.environ.get('PLAIN') or home / 'plain')
    if not expected.exists():
        seconds = plain(expected, 'small', home)
        print(f'slurm: one plain `erc run small`: {seconds:.0f} s', flush=True)
    slurm, begin = Slurm(home / 'slurm').up(), time.time()
    try:
        code = with_kills(slurm, home / 'work', home / 'results', home)
    finally:
        slurm.down()
    jobs, again = marks(home / 'work'), attempts(home / 'snakemake.log')
    print(
        f'slurm: {jobs} jobs in {time.time() - begin:.0f} s, {again} started again, exit code {code}'
    )
    wrong = compare(home / 'results', expected, least=20)
    print(
        f'slurm: {len(contents(home / "results"))} records, {len(wrong)} differ from the plain ones'
    )
    return wrong + ([f'exit code {code}'] if code else [])


# ---- two workflows, one folder of results


def trial_together(home: Path) -> list[str]:
    target, env = 'small/crossed', environment(home)
    plain(home / 'plain', target, home)
    works = [home / 'one', home / 'two']
    calls = [workflow(work, home / 'results', target, 'local', '--cores', '1') for work in works]
    running = [start(call, env, home / f'{work.name}.log') for call, work in zip(calls, works)]
    codes = [process.wait() for process in running]
    wrong = compare(home / 'results', home / 'plain')
    print(
        f'together: two workflows ended with {codes}; {len(wrong)} records differ from plain ones'
    )
    return wrong + [f'exit code {code}' for code in codes if code]


# ---- what a job costs


def processor(call) -> float:
    "Return the processor seconds of the children that a call starts and waits for."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def trial_overhead(home: Path) -> list[str]:
    "Compare a workflow with a plain command; one that finds nothing to do tells what it costs once."
    target, env, seconds = 'small/crossed', environment(home), []
    alone = processor(lambda: plain(home / 'plain', target, home))
    for work in (home / 'work', home / 'again'):
        call = workflow(work, home / 'results', target, 'local', '--cores', '1')
        seconds.append(processor(lambda call=call: start(call, env, home / 'log').wait()))
    (whole, once), jobs = seconds, marks(home / 'work')
    each = (whole - once - alone) / jobs
    print(f'overhead: plain {alone:.1f} s of the processor, workflow {whole:.1f} s for {jobs} jobs')
    print(f'overhead: {once:.1f} s once, for plan, ledger and Snakemake, and {each:.1f} s a job')
    return compare(home / 'results', home / 'plain') + ([f'{each:.1f} s a job'] if each > 5 else [])


# ---- predictions in parts


def write_turns(path: Path, turns: int):
    "Write conversations of one to forty turns, a turn a line."
    lengths = np.random.default_rng(0).integers(1, 41, turns)
    dialogue = np.repeat(np.arange(turns), lengths)[:turns]
    words = ['great', 'lost', 'so', 'rain', 'never', 'fine']
    with open(path, 'w', encoding='utf-8') as file:
        for i, d in enumerate(dialogue.tolist()):
            text = f'it was {words[i % 6]} {words[d % 5]} {i % 997}'
            row = {'dialogue': d, 'speaker': 'AB'[i % 2], 'text': text}
            file.write(json.dumps(row) + '\n')


def timed(call) -> tuple:  # what it returned, seconds
    start = time.time()
    return call(), time.time() - start


def is_close(one: bytes, other: bytes) -> bool:
    "Return whether two predictions are the same but for the last of six digits, which a batch may round."
    a, b = json.loads(one or '{}'), json.loads(other or '{}')
    numbers = [(x, b[k]) for k, x in a.items() if isinstance(x, float) and k in b]
    same = a.keys() == b.keys() and all(isinstance(x, float) or x == b[k] for k, x in a.items())
    return same and all(abs(x - y) < 2e-6 for x, y in numbers)


def lines_that_differ(one: Path, other: Path) -> tuple[int, int]:
    "Count the lines that are not the same bytes, and those of them that say something else."
    with open(one, 'rb') as a, open(other, 'rb') as b:
        pairs = [(x, y) for x, y in itertools.zip_longest(a, b) if x != y]
    return len(pairs), sum(not is_close(x, y) for x, y in pairs)


def parts_with_a_kill(home: Path, out: Path, env: dict) -> int:
    "Predict four parts by the workflow, whose first two jobs are killed once; return its exit code."
    (home / 'work').mkdir()
    about = {'sources': [str(home / 'turns.jsonl')], 'parts': 4, 'model': str(home / 'model')}
    config = {'erc': str(ERC), 'predict': {**about, 'out': str(out)}}
    (home / 'work' / 'config.json').write_text(json.dumps(config))
    command = [snakemake(), '--snakefile', str(ROOT / 'workflow' / 'Snakefile'), 'done/predict']
    command += ['--workflow-profile', str(ROOT / 'workflow' / 'profiles' / 'local'), '--cores', '2']
    command += [
        '--directory',
        str(home / 'work'),
        '--configfile',
        str(home / 'work' / 'config.json'),
    ]
    process = start(command, env, home / 'snakemake.log')
    wait_for(lambda: len(list((home / 'work').glob('parts/*.part.json'))) >= 2, process)
    for child in psutil.Process(process.pid).children(recursive=True):
        if 'predict' in child.cmdline() and 'python' in child.cmdline()[0]:
            child.kill()
    return process.wait()


def trial_predict(home: Path) -> list[str]:
    sys.path.insert(0, str(ROOT / 'tests'))
    from own_chats import trained

    turns, env = int(os.environ.get('TURNS', 1_000_000)), environment(home)
    trained(seeds=1).save(home / 'model')
    write_turns(home / 'turns.jsonl', turns)
    whole, joined = home / 'whole.jsonl', home / 'joined.jsonl'
    command = [
        ERC,
        'predict',
        home / 'turns.jsonl',
        '--model',
        home / 'model',
        '--out',
        whole,
        '-q',
    ]
    _, alone = timed(lambda: subprocess.run(command, check=True, env=env, capture_output=True))
    held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(
        f'predict: {turns} turns in one process: {alone:.0f} s, {turns / alone:.0f} a second, peak {held} MB',
        flush=True,
    )
    code, seconds = timed(lambda: parts_with_a_kill(home, joined, env))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(
        f'predict: in four parts on two cores, two of them killed once: {seconds:.0f} s, '
        f'{turns / seconds:.0f} a second, peak of a process {peak} MB, exit code {code}'
    )
    print(
        f'predict: {(home / "work" / "logs" / "predict.log").read_text().strip().rpartition("/")[2]}'
    )
    bytes_, wrong = lines_that_differ(whole, joined)
    print(
        f'predict: {bytes_} of {turns} lines differ in the sixth digit from those of one process, '
        f'{wrong} in more'
    )
    return ([f'exit code {code}'] if code else []) + ([f'{wrong} lines differ'] if wrong else [])


TRIALS = {
    'slurm': trial_slurm,
    'together': trial_together,
    'overhead': trial_overhead,
    'predict': trial_predict,
}


def main(names) -> int:
    if not snakemake():
        print('skipped: snakemake is not installed; pip install .[cluster] in a clone')
        return 0
    wrong = []
    for name in names or TRIALS:
        with tempfile.TemporaryDirectory(prefix=f'erc-{name}-') as home:
            found = TRIALS[name](Path(home))
            if os.environ.get('KEEP'):
                shutil.copytree(
                    home,
                    os.environ['KEEP'],
                    dirs_exist_ok=True,
                    symlinks=True,
                    ignore=shutil.ignore_patterns('*.socket'),
                )
        wrong += [f'{name}: {sentence}' for sentence in found]
    print('\n'.join(wrong) or 'all as it should be')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
