"""Unusual places: no HOME, another locale, odd paths, links, folders that cannot be written to, a full
disk, a clock that goes backwards. A command works, or ends in a sentence that says what to do."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from interruptions import ERC, environment, own_corpus, prepare_run, write_corpus


def command(home: Path, *arguments, wrap=(), code='', **changes) -> subprocess.CompletedProcess:
    "Run a command in a folder; a variable that is changed to None is taken away."
    variables = {k: v for k, v in {**environment(home), **changes}.items() if v is not None}
    line = [*wrap, *([sys.executable, '-c', code] if code else ERC), *arguments]
    return subprocess.run(line, cwd=home, env=variables, capture_output=True, text=True)


def expect(done, works=True, *words) -> list:
    "Return what is wrong with how a command ended."
    text = done.stdout + done.stderr
    wrong = ['a traceback'] if 'Traceback' in text else []
    if (done.returncode == 0) != works:
        wrong.append(f'exit code {done.returncode}')
    wrong += [f'no {word!r}' for word in words if word not in text]
    return [f'{", ".join(wrong)}: {text[-400:]}'] if wrong else []


UNKNOWN = """import pwd
def nobody(*_):
    raise KeyError('unknown user')
pwd.getpwuid = pwd.getpwnam = nobody
from erc.cli import app
app()"""


def no_home(home: Path) -> list:
    "Without HOME the system's own list of users counts; without that too, a variable is asked for."
    prepare_run(home)
    run = ['run', 'toy', '--seeds', '1', '--quiet']
    gone = dict.fromkeys(('HOME', 'XDG_CACHE_HOME', 'XDG_DATA_HOME', 'ERC_CACHE', 'ERC_DATA'))
    unknown = command(home, *run, code=UNKNOWN, **gone)
    found = expect(unknown, False, 'home', 'set ')
    found += expect(command(home, *run, code=UNKNOWN, **{**gone, **own_folders(home)}))
    return found + expect(command(home, *run, **gone))


def own_folders(home: Path) -> dict:
    return {'ERC_CACHE': str(home / 'cache'), 'ERC_DATA': str(home / 'data')}


def c_locale(home: Path) -> list:
    write_corpus(own_corpus(10, 3).replace(name='Grüße'), home / 'data' / 'own')
    plain = dict(
        LC_ALL='C', LANG='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING=None
    )
    return [
        *expect(command(home, 'data', 'list', **plain)),
        *expect(command(home, 'data', 'check', 'own', **plain)),
        *expect(command(home, 'status', '--home', str(home), **plain)),
        *expect(command(home, 'features', 'own', '--encoder', 'hashing', **plain)),
    ]


def odd_paths(home: Path) -> list:
    odd = home / "a b 'ü' 漢字 #1%"
    prepare_run(odd)
    write_corpus(own_corpus(10, 3), odd / 'data' / 'own')
    return [
        *expect(command(odd, 'run', 'toy', '--seeds', '1', '--quiet')),
        *expect(command(odd, 'features', 'own', '--encoder', 'hashing')),
        *expect(command(odd, 'data', 'list')),
    ]


def links(home: Path) -> list:
    write_corpus(own_corpus(10, 3), home / 'elsewhere' / 'own')
    (home / 'data').symlink_to(home / 'elsewhere')
    (home / 'other').mkdir()
    (home / 'other' / 'linked').symlink_to(home / 'elsewhere' / 'own')
    found = expect(command(home, 'features', 'own', '--encoder', 'hashing'))
    other = command(
        home, 'features', 'linked', '--encoder', 'hashing', ERC_DATA=str(home / 'other')
    )
    return found + expect(other)


def read_only(home: Path) -> list:
    "Results that cannot be written to are refused before anything is trained."
    prepare_run(home)
    (home / 'results').mkdir(0o555)
    wrap = ()
    if os.geteuid() == 0:  # for whom every folder can be written to, but without capabilities
        if not shutil.which('setpriv'):
            print('  root without setpriv: left out')
            return []
        wrap = ['setpriv', '--bounding-set', '-all', '--inh-caps', '-all']
    done = command(home, 'run', 'toy', '--seeds', '1', '--quiet', wrap=wrap)
    (home / 'results').chmod(0o755)
    return expect(done, False, 'results', 'choose another folder')


def cache_is_a_file(home: Path) -> list:
    "Without a cache everything works; nothing is kept."
    prepare_run(home)
    (home / 'cache').write_text('')
    return expect(command(home, 'run', 'toy', '--seeds', '1', '--quiet'))


def full_disk(home: Path) -> list:
    "What does not fit is named; what was there stays, and with space the same command goes on."
    prepare_run(home)
    run = ['run', 'toy', '--quiet']
    limit = 'import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)); '
    limit += 'os.execv(sys.argv[1], sys.argv[1:])'
    done = command(home, *run, wrap=[sys.executable, '-c', limit])
    found = expect(done, False, 'net--paper--demo.json', 'then give the command again')
    return found + expect(command(home, *run))


def fill(path: Path):
    "Write a file until nothing is left."
    with contextlib.suppress(OSError), open(path, 'wb', buffering=0) as file:
        while True:
            file.write(bytes(4096))


def small_disk(home: Path) -> list:
    "The same on a disk of 20 MB, where the system lets one be mounted."
    disk = home / 'disk'
    disk.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=20m', 'tmpfs', disk], capture_output=True
    )
    if mounted.returncode:
        print('  no disk of 20 MB could be mounted: left out')
        return []
    try:
        prepare_run(disk)
        fill(disk / 'filler')
        done = command(disk, 'run', 'toy', '--quiet', ERC_CACHE=str(home / 'cache'))
        found = expect(done, False, 'free some space, then give the command again')
        (disk / 'filler').unlink()
        found += expect(command(disk, 'run', 'toy', '--quiet', ERC_CACHE=str(home / 'cache')))
        return found
    finally:
        subprocess.run(['umount', '-l', disk], check=True)


BACKWARDS = """import itertools, time
now, steps = time.time, itertools.count()
time.time = lambda: now() - 3600 * next(steps)
from erc.cli import app
app()"""


def clock_goes_backwards(home: Path) -> list:
    prepare_run(home)
    found = expect(command(home, 'run', 'toy', '--seeds', '1', '--quiet', code=BACKWARDS))
    record = json.loads(next((home / 'results').rglob('net--*.json')).read_text())
    seconds = record['folds']['paper']['seconds']
    return found + [f'{s} seconds' for s in seconds if s < 0]


PLACES = [no_home, c_locale, odd_paths, links, read_only, cache_is_a_file, full_disk, small_disk]
PLACES = {place.__name__: place for place in [*PLACES, clock_goes_backwards]}


def try_places(only=()) -> list:
    "Try each place; print and return what went wrong."
    wrong = []
    for name in only or PLACES:
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch).chmod(0o755)
            found = PLACES[name](Path(scratch))
        print(f'{name}: {found or "works"}', flush=True)
        wrong += [f'{name}: {sentence}' for sentence in found]
    return wrong
