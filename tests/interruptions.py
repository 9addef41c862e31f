"""Commands that are killed at random points: what was done is kept, and the next call goes on.

A point is a share of the processor time that the whole command takes, so that it does not depend on
how busy the machine is. Half of the kills are SIGKILL to the command's own process, half are what
Ctrl-C sends; half hit a command that was started as a shell does, which may not have imported
anything yet, half one that has imported everything. `COMMANDS` says for each command how its folder is prepared and what must be the same
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
import traceback
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


def prepare_chat(home: Path):
    "Save a small model, and conversations for it as a table and a line for each turn."
    from own_chats import chats, trained

    trained(seeds=1).save(home / 'model')
    table = chats(dialogues=700).table[['dialogue', 'speaker', 'text']]
    table.to_csv(home / 'chat.csv', index=False)
    table.to_json(home / 'chat.jsonl', orient='records', lines=True)


def prepare_table(home: Path):
    "Write conversations with features as files that are not a corpus yet."
    corpus = own_corpus(900, 10)
    home.mkdir(parents=True)
    names = np.array(corpus.classes)[corpus.table.label]
    corpus.table.assign(label=names).to_csv(home / 'chat.csv', index=False)
    np.save(home / 'audio.npy', np.random.default_rng(0).normal(size=(9000, 300)))


def prepare_corpus(home: Path):
    write_corpus(own_corpus(900, 10), home / 'own')
    write_corpus(own_corpus(900, 10, seed=1), home / 'saved')


def prepare_models(home: Path):
    from own_chats import trained

    for name, seeds in (('model', 2), ('saved', 1)):
        trained(seeds=seeds).save(home / name)


def spoken(home: Path, dialogues: int, turns=5) -> Path:
    "Write a recording whose turns are high or low hums, and their transcript with labels."
    from media_files import tones

    from erc.media.decode import _toy_recording

    count = dialogues * turns
    label = np.random.default_rng(0).integers(0, 2, count)
    table = own_corpus(dialogues, turns).table[['dialogue', 'speaker', 'text', 'split']]
    start = np.arange(count, dtype=float)
    table = table.assign(start=start, end=start + 1, label=np.array(['low', 'high'])[label])
    table.to_csv(home / 'talk.csv', index=False)
    return _toy_recording(home / 'talk.wav', tones(110 + 90 * label))


def prepare_recording(home: Path):
    "Write a film, its transcript, and tiny models that read sound and scenes."
    from media_files import noise_pictures, tones

    from erc.media.audio import _toy_speech
    from erc.media.decode import _toy_recording
    from erc.media.faces import _toy_vision

    home.mkdir(parents=True)
    spoken(home, 20).unlink()
    _toy_recording(home / 'talk.mkv', tones(range(110, 210)), pictures=noise_pictures(2500))
    _toy_speech(home / 'ear')
    _toy_vision(home / 'eye')


def recorded_corpus_of(home: Path):
    "Return what a corpus of a recording holds, but for times; None where there is none yet."
    import erc
    from erc.data.files import _restored

    folder = _restored(home / 'corpus')
    if not folder.exists():
        return None
    corpus = erc.load_corpus(folder)
    arrays = {
        name: (x.tobytes(), corpus.has[name].tobytes()) for name, x in corpus.features.items()
    }
    about = {k: v for k, v in corpus.provenance.items() if k != 'seconds'}
    return corpus.table.to_csv(), arrays, repr(about)


def prepare_speech(home: Path):
    "Save a model that reads sound, and a recording for it."
    import erc
    from erc.media.audio import _toy_speech
    from erc.media.features import with_media

    home.mkdir(parents=True)
    path, ear = spoken(home, 20), _toy_speech(home / 'ear')
    corpus = with_media(
        home / 'talk.csv', path, audio=str(ear), progress=False, cache=home / 'kept'
    )
    settings = dict(seeds=1, hyperparameters={'epochs': 2}, progress=False, hidden=8)
    erc.train('context_gru', corpus, ['audio'], **settings).save(home / 'model')
    shutil.rmtree(home / 'kept')


def prepare_parts(home: Path):
    "Write two parts of predictions, and what they were made of."
    home.mkdir(parents=True)
    lines = [
        json.dumps({'turn': i, 'text': f'{i} ' * 20, 'emotion': 'calm'}) for i in range(200_000)
    ]
    for name, part in {'all': lines, 'a': lines[:90_000], 'b': lines[90_000:]}.items():
        (home / f'{name}.jsonl').write_text('\n'.join(part) + '\n')


SAVE_CORPUS = """import erc
corpus = erc.load_corpus('./own')
for _ in range(5):
    corpus.save('saved')"""
SAVE_MODEL = """import erc
model = erc.load('model')
for _ in range(50):
    model.save('saved')"""


def bytes_of(*names) -> Callable:
    "Return a function from a folder to the hashes of the files of these names in it, or below."

    def outcome(home: Path) -> dict:
        from erc.data.files import _restored

        paths = [_restored(home / name) for name in names]  # as whoever reads them does first
        files = [path for top in paths for path in [top, *top.rglob('*')] if path.is_file()]
        return {path.relative_to(home).as_posix(): sha256_of(path) for path in files}

    return outcome


@dataclass
class Command:
    "A command line, its folder, and what it leaves."

    arguments: list
    prepare: Callable
    outcome: Callable
    fork: bool = True  # False for a command that starts processes of its own
    whole: bool = False  # after each kill the outcome is that of before, or the whole new one
    code: str = ''  # Python, in place of a command line

    @property
    def line(self) -> list:
        "What a shell starts."
        return [sys.executable, '-c', self.code] if self.code else [*ERC, *self.arguments]


TWO = ['--workers', '2']
READERS = ['--audio', 'ear', '--visual', 'eye']
PREDICT = ['predict', '--model', 'model', '--quiet']
ADD = ['data', 'add', 'chat.csv', '--name', 'mine', '--features', 'audio=audio.npy']
COMMANDS = {
    'run': Command(['run', 'toy', '--quiet'], prepare_run, record_of),
    'reproduce': Command(['reproduce', '--quiet'], prepare_reproduce, build_of, fork=False),
    'report': Command(['report', '_build/demo'], prepare_report, report_of),
    'features': Command(['features', 'own', '--encoder', 'encoder'], prepare_features, shards_of),
    'predict': Command(
        [*PREDICT, 'chat.csv', '--out', 'out.html'], prepare_chat, bytes_of('out.html'), whole=True
    ),
    'predict_stream': Command(
        [*PREDICT, 'chat.jsonl', '--out', 'out.jsonl'],
        prepare_chat,
        bytes_of('out.jsonl'),
        whole=True,
    ),
    'features_of_recording': Command(
        ['features', 'talk.mkv', '--turns', 'talk.csv', *READERS, '--out', 'corpus'],
        prepare_recording,
        recorded_corpus_of,
        whole=True,
    ),
    'features_of_recording_shared': Command(
        ['features', 'talk.mkv', '--turns', 'talk.csv', *READERS, '--out', 'corpus', *TWO],
        prepare_recording,
        recorded_corpus_of,
        fork=False,
        whole=True,
    ),
    'predict_recording': Command(
        [*PREDICT, 'talk.wav', '--turns', 'talk.csv', '--out', 'out.csv'],
        prepare_speech,
        bytes_of('out.csv'),
        whole=True,
    ),
    'join': Command(
        ['join', 'out.jsonl', 'a.jsonl', 'b.jsonl', '--of', 'all.jsonl'],
        prepare_parts,
        bytes_of('out.jsonl'),
        whole=True,
    ),
    'data_add': Command(ADD, prepare_table, bytes_of('data/mine'), whole=True),
    'save_corpus': Command([], prepare_corpus, bytes_of('saved'), whole=True, code=SAVE_CORPUS),
    'save_model': Command([], prepare_models, bytes_of('saved'), whole=True, code=SAVE_MODEL),
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


def forked(command: Command, home: Path, output) -> psutil.Process:
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
        sys.argv = ['erc', *command.arguments]
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        exec(command.code, {}) if command.code else app()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code or 0)


def started(command: Command, home: Path, output) -> psutil.Process:
    "Start a command as a shell does."
    return psutil.Popen(
        command.line,
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
        'erc.prediction.named',
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


def attempt(
    command: Command, home: Path, limit=float('inf'), how=signal.SIGKILL, start=None
) -> tuple:
    "Run a command, killed after so much processor time; return its exit code, output and that time."
    start = start or (forked if command.fork else started)
    with tempfile.TemporaryFile('w+') as output:
        process = start(command, home, output)
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
    patterns = ('.*.tmp', '*.part', '*.part.json', '.*.part.ipynb')
    files = [p for pattern in patterns for p in home.rglob(pattern)]
    return files + list((home / 'cache' / 'checkpoints').rglob('*.safetensors'))


@dataclass
class Undisturbed:
    "What a command gives, and takes, when nothing disturbs it."

    before: object  # the outcome of a folder that was only prepared; None where there is none
    after: object
    seconds: dict  # of the processor, by way of starting


def undisturbed(command: Command, fresh: Path, scratch: Path) -> Undisturbed:
    "Run a command in each way in which it can be started; all have to give the same."
    before, seconds, outcomes = command.outcome(fresh) if command.whole else None, {}, []
    for start in (forked, started) if command.fork else (started,):
        home = scratch / f'undisturbed-{start.__name__}'
        shutil.copytree(fresh, home)
        code, output, seconds[start] = attempt(command, home, start=start)
        assert code == 0, output
        outcomes.append(command.outcome(home))
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    assert outcomes[0] and outcomes[0] != before
    return Undisturbed(before, outcomes[0], seconds)


def kill(command: Command, home: Path, calm: Undisturbed, rng) -> tuple:
    "Kill a command at a random point; return its exit code, output and what is wrong then."
    how, start = rng.choice((signal.SIGKILL, signal.SIGINT)), rng.choice(list(calm.seconds))
    limit = rng.uniform(0.0, 1.0) * calm.seconds[start]
    code, output, _ = attempt(command, home, limit, how, start)
    wrong = [f'after {how.name} lives: {text}' for text in left_behind(home)]
    wrong += [code] if isinstance(code, str) else []
    if command.whole and command.outcome(home) not in (calm.before, calm.after):
        wrong.append(f'after {how.name} there is neither the old output nor the whole new one')
    return code, output, wrong


def trial(command: Command, home: Path, calm: Undisturbed, kills: int, rng) -> tuple:
    "Kill a command several times, let it finish, and return the kills and what is wrong afterwards."
    wrong, killed, code, output = [], 0, None, ''
    while killed < kills and code != 0:
        code, output, found = kill(command, home, calm, rng)
        killed += code != 0
        wrong += found
    if code != 0:
        code, output, _ = attempt(command, home)
    if code != 0:
        return killed, [*wrong, f'exit code {code}: {output[-500:]}']
    if command.outcome(home) != calm.after:
        wrong.append('the outcome is another one')
    return killed, [*wrong, *(f'left: {path.relative_to(home)}' for path in leftovers(home))]


def kill_often(name: str, kills: int, seed=0, each=10):
    "Kill a command so many times, a few in each folder; print and return what went wrong."
    command, rng, wrong, done, trials = COMMANDS[name], random.Random(seed), [], 0, 0
    each = min(each, 3) if command.whole else each  # what is done once needs many beginnings
    preload()
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch, 'fresh')
        command.prepare(fresh)
        calm = undisturbed(command, fresh, Path(scratch))
        while done < kills:
            home = Path(scratch, f'trial{trials}')
            shutil.copytree(fresh, home)
            killed, found = trial(command, home, calm, min(each, kills - done), rng)
            done, trials = done + killed, trials + 1
            wrong += [f'{name}, trial {trials}: {sentence}' for sentence in found]
            shutil.rmtree(home)
    seconds = ' and '.join(f'{s:.1f} s {way.__name__}' for way, s in calm.seconds.items())
    print(f'{name}: {done} kills in {trials} folders, {len(wrong)} wrong ({seconds}, undisturbed)')
    for sentence in wrong:
        print(f'  {sentence}')
    return wrong
