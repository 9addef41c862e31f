"""Commands that are killed at random points: what was done is kept, and the next call goes on.

A point is a share of the processor time that the whole command takes, so that it does not depend on
how busy the machine is. Half of the kills are SIGKILL to the command's own process, half are what
Ctrl-C sends. `COMMANDS` says for each command how its folder is prepared and what must be the same
afterwards; a new command is an entry there."""

import dataclasses
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
from toy_recipe import toy_recipe

from erc.cli import app
from erc.core import sha256_of

HERE = Path(__file__).resolve().parent
ERC = [sys.executable, '-c', 'from erc.cli import app; app()']
MARK = 'ERC_ENDURANCE'
RECIPE = toy_recipe(epochs=12, seeds=2)
DRAWS = """import pandas as pd
from erc.report.tables import facts_table
facts_table(pd.DataFrame({'x': [NAME], 'n': [1]}), 'shapes', NAME).save(out)"""


# ---- folders, and what must be in them afterwards


def environment(home: Path) -> dict:
    "Return the variables that keep a command within a folder."
    own = {
        'ROOT': home,
        'DATA': home / 'data',
        'CACHE': home / 'cache',
        'RECIPES': home / 'recipes',
    }
    paths = [str(HERE.parent), os.environ.get('PYTHONPATH', '')]
    return {
        **os.environ,
        **{f'ERC_{name}': str(path) for name, path in own.items()},
        MARK: str(home),
        'PYTHONPATH': os.pathsep.join(filter(None, paths)),
        'OMP_NUM_THREADS': '1',
        'HF_HUB_OFFLINE': '1',
    }


def prepare_run(home: Path):
    (home / 'recipes').mkdir(parents=True)
    (home / 'recipes' / 'toy.toml').write_text(RECIPE)


def record_of(home: Path) -> str:
    "Return everything that a record says, but for times."
    from erc.runs.records import find_record

    record = find_record('toy/net:paper@demo', home / 'results')
    fold = dataclasses.replace(record.folds['paper'], seconds=[])
    with np.printoptions(threshold=sys.maxsize):
        return repr(dataclasses.asdict(dataclasses.replace(record, folds={'paper': fold})))


def write_notebook(path: Path, source: str):
    cells = [
        nbformat.v4.new_code_cell("profile = 'demo'\nout = ''"),
        nbformat.v4.new_code_cell(source),
    ]
    cells[0].metadata['tags'] = ['parameters']
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata['kernelspec'] = dict(name='python3', language='python', display_name='python3')
    nbformat.write(book, path)


def prepare_reproduce(home: Path):
    (home / 'nbs').mkdir(parents=True)
    for number, name in enumerate(('table1', 'table2', 'table3')):
        source = DRAWS.replace('NAME', repr(name))
        write_notebook(home / 'nbs' / f'{number + 1}00_{name}.ipynb', source)


def build_of(home: Path) -> tuple:
    "Return what a build folder holds, but for times."
    folder = home / '_build' / 'demo'
    manifest = json.loads((folder / 'manifest.json').read_text())
    ends = {entry['name']: entry['status'] for entry in manifest['notebooks']}
    tables = {p.name: sha256_of(p) for p in (folder / 'tables').iterdir()}
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())
    return ends, manifest['failed'], manifest.get('unfinished'), tables, files


def prepare_report(home: Path):
    "Lay out the build folder of a run."
    prepare_reproduce(home)
    done = subprocess.run(
        [*ERC, 'reproduce', '--quiet'], env=environment(home), cwd=home, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ('report.html', 'REPORT.md'):
        (home / '_build' / 'demo' / name).unlink()


def report_of(home: Path) -> list:
    return [sha256_of(home / '_build' / 'demo' / name) for name in ('report.html', 'REPORT.md')]


def own_corpus(dialogues: int, turns: int, seed=0):
    "Make a corpus whose sentences are all different."
    from erc.data.corpus import Corpus

    rng = np.random.default_rng(seed)
    words = ['oh', 'no', 'yes', 'we', 'you', 'they', 'came', 'left', 'late', 'again', 'now', 'why']
    n = dialogues * turns
    text = [f'{" ".join(rng.choice(words, 1 + i % 9))} {i}' for i in range(n)]
    dialogue = np.repeat([f'd{i:05d}' for i in range(dialogues)], turns)
    split = np.where(np.arange(n) // turns % 5 == 4, 'test', 'train')
    split = np.where(np.arange(n) // turns % 5 == 3, 'dev', split)
    columns = dict(dialogue=dialogue, turn=np.tile(np.arange(turns), dialogues))
    columns |= dict(speaker=np.where(np.arange(n) % 2, 'A', 'B'), text=text)
    table = pd.DataFrame({**columns, 'label': rng.integers(0, 3, n), 'split': split})
    return Corpus('own', 'emotion', ('glad', 'glum', 'calm'), table)


def write_corpus(corpus, folder: Path):
    from erc.data.saved import _save

    folder.parent.mkdir(parents=True, exist_ok=True)
    _save(corpus, folder)


def prepare_features(home: Path):
    from erc.data.sentence_encoders import toy_encoder

    corpus = own_corpus(900, 10)
    write_corpus(corpus, home / 'data' / 'own')
    toy_encoder(home / 'encoder', corpus.table.text[:200])


def shards_of(home: Path) -> list:
    "Return the names of the shards, each the hash of its bytes."
    return sorted(p.name for p in (home / 'cache' / 'features').rglob('*.safetensors'))


@dataclass
class Command:
    "A command line, its folder, and what it leaves."

    arguments: list
    prepare: Callable
    outcome: Callable
    fork: bool = True  # False for a command that starts processes of its own


COMMANDS = {
    'run': Command(['run', 'toy', '--quiet'], prepare_run, record_of),
    'reproduce': Command(['reproduce', '--quiet'], prepare_reproduce, build_of, fork=False),
    'report': Command(['report', '_build/demo'], prepare_report, report_of),
    'features': Command(['features', 'own', '--encoder', 'encoder'], prepare_features, shards_of),
}


# ---- killing


def processes_of(home: Path) -> list:
    "Return the living processes that a command started for a folder, itself included."
    found = []
    for process in psutil.process_iter():
        try:
            ended = process.status() == psutil.STATUS_ZOMBIE
            if not ended and process.environ().get(MARK) == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def seconds_of(process: psutil.Process) -> float:
    "Return the processor time of a process and its children so far."
    total = 0.0
    try:
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            total += times.user + times.system
        times = process.cpu_times()
        return total + times.children_user + times.children_system
    except psutil.Error:
        return total


def forked(arguments: list, home: Path, output) -> psutil.Process:
    """Start a command in a copy of this process, which has imported everything already, so that
    every kill hits the command's own work."""
    pid = os.fork()
    if pid:
        return psutil.Process(pid)
    code = 1
    try:
        os.setsid()
        os.chdir(home)
        os.environ.update(environment(home))
        sys.argv = ['erc', *arguments]
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        app()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    finally:
        os._exit(code or 0)


def started(arguments: list, home: Path, output) -> psutil.Process:
    "Start a command as a shell does."
    return psutil.Popen(
        [*ERC, *arguments],
        cwd=home,
        env=environment(home),
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def preload():
    "Import what commands import, so that forked ones need not."
    for module in (
        'torch',
        'sklearn.linear_model',
        'transformers',
        'erc.prediction',
        'erc.studies.shapes',
    ):
        importlib.import_module(module)


def interrupt(process: psutil.Process, how) -> int | str:
    "Send a signal, and return the exit code."
    if how == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, how)  # Ctrl-C reaches the whole group
    try:
        return process.wait(30)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
        return 'hangs after Ctrl-C'


def attempt(command: Command, home: Path, limit=float('inf'), how=signal.SIGKILL) -> tuple:
    "Run a command, killed after so much processor time; return its exit code, output and that time."
    with tempfile.TemporaryFile('w+') as output:
        process = (forked if command.fork else started)(command.arguments, home, output)
        used, code = 0.0, None
        while code is None:
            used = max(used, seconds_of(process))
            if used > limit:
                code = interrupt(process, how)
                break
            try:
                code = process.wait(0.01)
            except psutil.TimeoutExpired:
                continue
        output.seek(0)
        return code, output.read(), used


def left_behind(home: Path, patience=10.0) -> list:
    "Return the processes that are still there after some seconds."
    end = time.monotonic() + patience
    while (found := processes_of(home)) and time.monotonic() < end:
        time.sleep(0.05)
    return [' '.join(p.cmdline())[:100] for p in found if p.is_running()]


def leftovers(home: Path) -> list:
    "Return the files that a finished command should not leave."
    patterns = ('.*.erc.tmp', '*.part', '.*.part.ipynb')
    files = [p for pattern in patterns for p in home.rglob(pattern)]
    return files + list((home / 'cache' / 'checkpoints').rglob('*.safetensors'))


def trial(command: Command, home: Path, total: float, expected, kills: int, rng) -> tuple:
    "Kill a command several times, let it finish, and return the kills and what is wrong afterwards."
    wrong, killed, code, output = [], 0, None, ''
    while killed < kills and code != 0:
        how = rng.choice((signal.SIGKILL, signal.SIGINT))
        code, output, _ = attempt(command, home, rng.uniform(0.05, 1.0) * total, how)
        killed += code != 0
        wrong += [f'after {how.name} lives: {text}' for text in left_behind(home)]
        if isinstance(code, str):
            wrong.append(code)
    if code != 0:
        code, output, _ = attempt(command, home)
    if code != 0:
        return killed, [*wrong, f'exit code {code}: {output[-500:]}']
    if command.outcome(home) != expected:
        wrong.append('the outcome is another one')
    return killed, [*wrong, *(f'left: {path.relative_to(home)}' for path in leftovers(home))]


def kill_often(name: str, kills: int, seed=0, each=10):
    "Kill a command so many times, a few in each folder; print and return what went wrong."
    command, rng, wrong, done = COMMANDS[name], random.Random(seed), [], 0
    preload()
    with tempfile.TemporaryDirectory() as scratch:
        fresh, undisturbed = Path(scratch, 'fresh'), Path(scratch, 'undisturbed')
        command.prepare(fresh)
        shutil.copytree(fresh, undisturbed)
        code, output, total = attempt(command, undisturbed)
        assert code == 0, output
        expected, trials = command.outcome(undisturbed), 0
        while done < kills:
            home = Path(scratch, f'trial{trials}')
            shutil.copytree(fresh, home)
            killed, found = trial(command, home, total, expected, min(each, kills - done), rng)
            done, trials = done + killed, trials + 1
            wrong += [f'{name}, trial {trials}: {sentence}' for sentence in found]
            shutil.rmtree(home)
    print(
        f'{name}: {done} kills in {trials} folders, {len(wrong)} wrong ({total:.1f} s undisturbed)'
    )
    for sentence in wrong:
        print(f'  {sentence}')
    return wrong
