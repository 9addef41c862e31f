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
import time
from collections import Counter
from pathlib import Path

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
REMEDY = re.compile('again|expected|did you mean|Known: ')
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
    from erc.data.reading import load_converted

    folder = path.with_suffix('.folder')
    for name, raw in _good_corpus().items():
        write(folder / name, raw)
    part = path.name.split(' of ')[0]
    write(folder / part, path.read_bytes())
    if part != 'corpus.json':
        about = json.loads((folder / 'corpus.json').read_text(encoding='utf-8'))
        about['sha256'][part] = hashlib.sha256(path.read_bytes()).hexdigest()
        write(folder / 'corpus.json', json.dumps(about).encode())
    return load_converted(folder)


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


def mutated_case(number: int) -> tuple:  # reader, name, bytes
    "Make one damaged file; the same number gives the same one."
    rng = random.Random(number)
    reader = rng.choices(list(good()), weights=(6, 3, 1, 3, 3, 1, 3))[0]
    name, raw = rng.choice(good()[reader])
    if reader == 'pickle' and rng.random() < 0.5:
        return reader, 'program.pkl', program(rng)
    return reader, name, damaged(raw, rng, good()[reader])


def peak_memory() -> int:  # bytes; 0 where the platform does not say
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


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
        write(path, raw)
        before, began = peak_memory(), time.monotonic()
        faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
        events.clear()
        end = read_case(reads[reader], path)
        faulthandler.cancel_dump_traceback_later()
        if events or Path(MARK).exists():
            end = f'code ran: {events[:3]}'
        seconds, grown = time.monotonic() - began, peak_memory() - before
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
    for failure in failures[:40]:
        print(*failure)
    print(f'slowest {slowest[0]:.2f} s; largest growth {largest[0] >> 20} MB')
    print(f'{ends.total()} cases, {len(failures)} failures')
    return int(bool(failures))


if __name__ == '__main__':
    sys.exit(main())
