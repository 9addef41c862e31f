"""Every reader, fed with damaged and hostile files: `make torture`, or a short form in the tests.

A case fails if code of the file ran, the interpreter ended, an error names no file or no remedy, is
a bare traceback, or the case took more than ten seconds or a gigabyte. Cases run in child
processes, which say what they are about to read, so that the last one is known if they end."""

import argparse
import contextlib
import faulthandler
import functools
import hashlib
import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import handed_files
import numpy as np
from corpus_files import KINDS, family
from hostile_files import (
    BLANK,
    DTYPE,
    FROM_BUFFER,
    MARK,
    NDARRAY,
    SCALAR,
    array,
    data,
    dtype,
    hostile,
    named,
    number,
    shape,
    text,
)

SECONDS, GIGABYTE = 10, 1 << 30
REMEDY = 'again|expected|did you mean|Known: |write |starts anew|save |correct it|needs? |put texts'
REMEDY = re.compile(f'{REMEDY}|each line is|[Nn]ame it|give |say |a csv of vectors has')
RUN_EVENTS = ('os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.startfile', 'socket.connect')
RUN_EVENTS += ('subprocess.Popen', 'pickle.find_class', 'ctypes.dlopen', 'exec', 'shutil.rmtree')


# ---- what reads


def _convert(path):
    from erc.data.reading import convert

    with contextlib.redirect_stdout(io.StringIO()):
        return convert(path, path.with_suffix('.out'))


def _read_csv(path):
    from erc.data.files import _label_codes, numeric_column, read_table

    table = read_table(path, ('text', 'label', 'turn'))
    numeric_column(table, 'turn', path)
    return _label_codes(table['label'], ('glad', 'glum'), path)


def _load_converted(path):
    "Replace one file of a converted corpus, named before ' of ', and let the checksums agree."
    from erc.data.registry import load_corpus

    folder = path.with_suffix('.folder')
    for name, raw in _good_corpus().items():
        write(folder / name, raw)
    part = path.name.split(' of ')[0]
    write(folder / part, path.read_bytes())
    if part != 'corpus.json':
        about = json.loads((folder / 'corpus.json').read_text(encoding='utf-8'))
        about['sha256'][part] = hashlib.sha256(path.read_bytes()).hexdigest()
        write(folder / 'corpus.json', json.dumps(about).encode())
    return load_corpus(folder)


def _read_record_file(path):
    "A record, under the name that its key has."
    from erc.runs.records import _load_record

    return _load_record(path)


def _read_recipe_file(path):
    "A recipe, up to the runs that it asks for; nothing that it names is imported."
    from erc.runs.recipes import _read_recipe, settings_of

    recipe = _read_recipe(path)
    return recipe, [settings_of(s, v) for s in recipe.systems.values() for v in s.variants]


def _read_checkpoint(path):
    "A checkpoint that cannot be used is a warning, and training starts anew."
    from erc.training.checkpoint import Checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        try:
            return Checkpoint(path, 'run', 60).read()
        except UserWarning as warning:
            raise ValueError(str(warning)) from None


def readers() -> dict:
    from erc.data.array_files import _safe_load_npz, safe_load_npy
    from erc.data.mosei import _read_pairs
    from erc.data.unpickle import safe_unpickle

    return {
        'pickle': safe_unpickle,
        'family': _convert,
        'pairs': _read_pairs,
        'npy': safe_load_npy,
        'npz': _safe_load_npz,
        'csv': _read_csv,
        'converted': _load_converted,
        'record': _read_record_file,
        'recipe': _read_recipe_file,
        'checkpoint': _read_checkpoint,
        **handed_files.READERS,
    }


def write(path: Path, raw: bytes):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(raw)


# ---- good files, which are damaged


def _good_values():
    rng = np.random.default_rng(0)
    yield {'Ses01': [rng.normal(size=5)], 'Ses02': [np.float32(rng.normal(size=(2, 3)))]}
    yield [np.float64(0.5), np.int32(7), np.bool_(True), np.array(['é', 'abc']), np.dtype('<i4')]
    yield np.array([{'emo': 2, 'val': -1.5}, None, ['a', 'b']], object)
    yield ({'a', 'b'}, frozenset([1]), b'\xff\0', bytearray(b'z'), 1 + 2j, 'Ã©', 1 << 40, None)


@functools.cache
def _good_corpus() -> dict:
    from erc.data.reading import convert

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / 'x.pkl', pickle.dumps(family('dialoguernn9', (4, 3, 2))))
        with contextlib.redirect_stdout(io.StringIO()):
            convert(Path(folder) / 'x.pkl', Path(folder) / 'out')
        return {path.name: path.read_bytes() for path in (Path(folder) / 'out').iterdir()}


@functools.cache
def _good_record() -> bytes:
    from erc.runs.keys import RunKey
    from erc.runs.records import Fold, Record, save_record

    fold = Fold([0], [{'device': 'cpu'}], [1.5], [3], [0.5], [0.4])
    fold.predictions = np.array([[0, 1, 1]], np.int8)
    fold.confusions = {'all': np.ones((1, 2, 2, 2), np.int16)}
    fold.curves = {'dev': np.array([[0.1, np.nan]], np.float32)}
    record = Record(RunKey('toy', 'net', 'paper', 'demo'), {'lr': 1e-3}, classes=['glad', 'glum'])
    record.folds = {'paper': fold}
    with tempfile.TemporaryDirectory() as folder:
        return save_record(record, folder).read_bytes()


def _good_checkpoint() -> bytes:
    import torch

    from erc.training.checkpoint import Checkpoint

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'x.safetensors')
        tensors = {'a': torch.arange(6.0).reshape(2, 3), 'best': torch.tensor([True, False])}
        Checkpoint(path, 'run', 0).write(lambda: tensors, now=True)
        return path.read_bytes()


_RECIPE = """title = "Toy"
seeds = 2
[choices.modalities]
t = {label = "text", features = ["text"]}
ta = {label = "text and audio", features = ["text", "audio"]}
[grid.pooled]
modalities = ["t", "ta"]
name = "pooled_{modalities}"
label = "Pooled, {modalities}"
notebook = ""
model = "posix:system"
corpora = ["demo"]
variants.tuned = {epochs = 2, batch = 16, lr = [1e-3, 3e-3]}
[systems.other]
like = "pooled_t"
label = "Other"
[artefacts.table1]
rows_are = "model"
corpus = "demo"
columns = [{name = "weighted F1", metric = "weighted_f1"}]
rows = [{row = "Pooled", printed = false, systems = ["pooled_t", "other"]}]
"""


def _saved(save, *arrays, **named) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


@functools.cache
def good() -> dict:
    "Sound files by reader: lists of (name, bytes)."
    pairs = [('', 'Hm.', 1), ('Hm.', 'No!', 0)]
    arrays = [np.arange(12.0).reshape(3, 4), np.array(['a', 'bcd']), np.array([True, False])]
    arrays += [np.array({'u1': {'emo': 1}}, object), np.asfortranarray(np.ones((2, 3), '>f4'))]
    table = 'text,label,turn\n"Ha, ha!",glad,0\nNo.,glum,1\n'
    python2 = b"(dp0\nS'caf\\xe9'\np1\n(lp2\nI1\naF2.5\naL3L\nas."
    found = {
        'pickle': [
            (f'{i}-{protocol}.pkl', pickle.dumps(value, protocol))
            for i, value in enumerate(_good_values())
            for protocol in range(6)
        ]
        + [('old.pkl', python2)],
        'family': [
            (f'{kind}.pkl', pickle.dumps(family(kind, sizes), 2 + 2 * (i % 2)))
            for i, (kind, sizes) in enumerate({k: (4, 3, 2) for k in KINDS}.items())
        ],
        'pairs': [(f'{p}.pickle', pickle.dumps(pairs, p)) for p in (0, 3, 4)],
        'npy': [(f'{i}.npy', _saved(np.save, a)) for i, a in enumerate(arrays)],
        'npz': [
            ('stored.npz', _saved(np.savez, *arrays)),
            ('packed.npz', _saved(np.savez_compressed, *arrays)),
        ],
        'csv': [('x.csv', table.encode())],
        'converted': [(f'{name} of x', raw) for name, raw in _good_corpus().items()],
        'record': [('net--paper--demo.json', _good_record())],
        'recipe': [('toy.toml', _RECIPE.encode())],
        'checkpoint': [('x.safetensors', _good_checkpoint())],
        **handed_files.good_files(),
    }
    return found


_TELLING = (b'\xff' * 4, bytes(4), b'\xff' * 8, b'\x7f\xff\xff\xff', b'O', b'|O', b'.', b'(', b'R')
_TELLING += (
    b'b',
    b't',
    b'h\0',
    b'\x94',
    b'cnumpy\nndarray\n',
    b'cposix\nsystem\n',
    b'-1',
    b'"',
    b',',
)


def damaged(raw: bytes, rng: random.Random, others: list) -> bytes:
    "Damage a file in one to four places."
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(raw) + 1)
        to = min(len(raw), at + rng.choice((1, 2, 4, 8, 64)))
        telling = rng.choice(_TELLING)
        other = rng.choice(others)[1]
        start = rng.randrange(len(other) + 1)
        flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in raw[at : at + 1])
        raw = rng.choice(
            (
                raw[:at] + flipped + raw[at + 1 :],
                raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
                raw[:at] + telling + raw[at + len(telling) :],
                raw[:at] + telling + raw[at:],
                raw[:at] + raw[to:],
                raw[:at] + raw[at:to] * rng.choice((2, 3, 50)) + raw[to:],
                raw[:at] + other[start : start + 40] + raw[at:],
                raw[:at] if rng.random() < 0.3 else raw[:at] + flipped + raw[at + 1 :],
            )
        )
    return raw


PIECES = [BLANK, DTYPE, FROM_BUFFER, NDARRAY, SCALAR, array(), dtype(), dtype('O8', '|', flags=63)]
PIECES += [data(bytes(8)), number(3), shape(1), shape(2, 0), text('f8'), text('latin1'), text('O')]
PIECES += [named(f'builtins.{name}') for name in ('set', 'list', 'bytearray', 'complex')]
PIECES += [named('collections.defaultdict'), named('_codecs.encode'), b'(K\x01', b'\x89', b'\x88']
PIECES += [bytes([code]) for code in b'])}(Nltdeaus\x85\x86\x87Rb\x8f\x90\x91\x94\x93'] * 3
PIECES += [b'q\0', b'q\1', b'h\0', b'h\1', b'h\2', b'\x85R', b'tb', b'h\0h\1', b'\x86R', b'tR']


def program(rng: random.Random) -> bytes:
    "Make a pickle of operations that are allowed, in any order."
    return b''.join(rng.choices(PIECES, k=rng.randrange(2, 25))) + b'.'


# ---- cases


WEIGHTS = (6, 3, 1, 3, 3, 1, 3, 2, 3, 2)  # how often each reader gets a case, as `good` lists them
WEIGHTS += (3, 1, 1, 3, 3, 3, 2, 1, 1, 1, 2, 3)


def mutated_case(number: int) -> tuple:  # reader, name, bytes
    "Make one damaged file; the same number gives the same one."
    rng = random.Random(number)
    reader = rng.choices(list(good()), weights=WEIGHTS)[0]
    name, raw = rng.choice(good()[reader])
    if reader == 'pickle' and rng.random() < 0.5:
        return reader, 'program.pkl', program(rng)
    raw = damaged(raw, rng, good()[reader])
    return reader, name, _with_checksum(raw) if reader in CHECKED else raw


CHECKED = ('record', 'submission')


def _with_checksum(raw: bytes) -> bytes:
    "Make a damaged record's checksum agree, so that what stands behind it is read."
    from erc.core import digest

    try:
        record = json.loads(raw)
        record.pop('checksum', None)
        return json.dumps({**record, 'checksum': digest(record)}).encode()
    except (ValueError, AttributeError, TypeError):
        return raw


def peak_memory() -> int:  # bytes; 0 where the platform does not say
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def seconds_used() -> float:
    "Return the processor time of this process and its ended children; a busy machine changes none."
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def complaint(error: BaseException, path: Path) -> str:
    "Return what is wrong with an error's message, '' if nothing."
    message = str(error)
    if not isinstance(error, ValueError | OSError):
        return f'traceback {type(error).__name__}: {message[:150]}'
    if path.stem.split(' of ')[0] not in message:
        return f'no file in {message[:150]!r}'
    if not REMEDY.search(message):
        return f'no remedy in {message[:200]!r}'
    return ''


def read_case(read, path: Path) -> str:  # 'read', 'refused', or a complaint
    try:
        repr(read(path))
    except Exception as error:
        return complaint(error, path) or 'refused'
    return 'read'


HOSTILE_NAMES = {'record': 'net--paper--demo.json', 'recipe': 'toy.toml'}  # which have to fit


def child(kind: str, start: int, stop: int):
    "Read cases, and say of each its number, then how it ended."
    cases = hostile() if kind == 'hostile' else None
    reads, events = readers(), []
    for reader, files in good().items():  # so that every import is done before code is watched
        for name, raw in files:
            write(Path(name), raw)
            assert read_case(reads[reader], Path(name).absolute()) == 'read', (reader, name)
    sys.addaudithook(lambda event, _: events.append(event) if event in RUN_EVENTS else None)
    for case in range(start, stop):
        reader, name, raw = cases[case] if cases else mutated_case(case)
        print(case, flush=True)
        path = Path(f'{kind}-{case}' if kind == 'hostile' else name).absolute()
        if kind == 'hostile' and reader == 'converted':
            path, raw = Path(f'{raw[0]} of {case}').absolute(), raw[1]
        path = path.with_name(HOSTILE_NAMES.get(reader, path.name)) if cases else path
        write(path, raw)
        before, began = peak_memory(), seconds_used()
        faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
        events.clear()
        end = read_case(reads[reader], path)
        faulthandler.cancel_dump_traceback_later()
        if events or Path(MARK).exists():
            end = f'code ran: {events[:3]}'
        seconds, grown = seconds_used() - began, peak_memory() - before
        if seconds > SECONDS or grown > GIGABYTE:
            end = f'{seconds:.0f} s, {grown >> 20} MB'
        print(json.dumps([reader, end, round(seconds, 3), grown, name]), flush=True)


def watch(kind: str, start: int, stop: int):
    "Yield how each case of a range ended; start a new process where one ended with it."
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONFAULTHANDLER': '1'}
    here = Path(__file__).resolve()
    environment['PYTHONPATH'] = os.pathsep.join(
        [str(here.parent.parent), os.environ.get('PYTHONPATH', '')]
    )
    while start < stop:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, here, '--child', kind, str(start), str(stop)]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
        lines = done.stdout.splitlines()
        for case, end in zip(lines[::2], lines[1::2]):
            yield kind, int(case), *json.loads(end)
        if done.returncode == 0:
            return
        if not lines or len(lines) % 2 == 0:
            raise RuntimeError(done.stderr[-2000:])
        start = int(lines[-1])
        yield (
            kind,
            start,
            '?',
            f'the interpreter ended ({done.returncode})',
            0,
            0,
            done.stderr[-300:],
        )
        start += 1


def torture(mutated: int):
    """Read the hostile files and so many damaged ones.

    Return counts of ends by reader, the failures, and the slowest and the largest case."""
    ends, failures, slowest, largest = Counter(), [], (0,), (0,)
    ranges = [('hostile', 0, len(hostile()))]
    ranges += [('mutated', at, min(at + 5000, mutated)) for at in range(0, mutated, 5000)]
    for cases in ranges:
        for kind, case, reader, end, seconds, grown, name in watch(*cases):
            ends[kind, reader, end if end in ('read', 'refused') else 'failed'] += 1
            slowest, largest = max(slowest, (seconds, case)), max(largest, (grown, case))
            if end not in ('read', 'refused'):
                failures.append((kind, case, reader, name, end))
        print(
            f'{cases}: {ends.total()} cases, {len(failures)} failures', file=sys.stderr, flush=True
        )
    return ends, failures, slowest, largest


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--mutated', type=int, default=50_000, help='damaged files to read')
    parser.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, start, stop = arguments.child
        return child(kind, int(start), int(stop))
    ends, failures, slowest, largest = torture(arguments.mutated)
    for (kind, reader, end), count in sorted(ends.items()):
        print(f'{kind:8} {reader:10} {end:8} {count}')
    for failure in failures[:100]:
        print(*failure)
    print(f'slowest {slowest[0]:.2f} s; largest growth {largest[0] >> 20} MB')
    print(f'{ends.total()} cases, {len(failures)} failures')
    return int(bool(failures))


if __name__ == '__main__':
    sys.exit(main())
