"Folders, atomic writes, digests, names."

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from erc import core
from erc.core import _locked, atomic_path, choose, digest, resolve, root, write_atomic


def test_root_prefers_the_variable_then_the_checkout_then_the_working_folder(tmp_path, monkeypatch):
    checkout = tmp_path / 'checkout'
    (checkout / 'nbs').mkdir(parents=True)
    (checkout / 'settings.ini').touch()
    monkeypatch.delenv('ERC_ROOT', raising=False)
    monkeypatch.chdir(checkout / 'nbs')
    assert root() == checkout
    monkeypatch.setenv('ERC_ROOT', str(tmp_path))
    assert root() == tmp_path
    monkeypatch.setenv('ERC_ROOT', '')
    monkeypatch.setattr(core, '__file__', str(tmp_path / 'site' / 'erc' / 'core.py'))
    monkeypatch.chdir(tmp_path)
    assert root() == tmp_path


def test_folders_of_the_user_follow_their_variables(tmp_path, monkeypatch):
    for function, variable in ((core.data_home, 'ERC_DATA'), (core.cache_home, 'ERC_CACHE')):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        assert function() == tmp_path / variable
        monkeypatch.setenv(variable, '')
        assert function().name and tmp_path not in function().parents


@pytest.mark.parametrize('name', ['a.json', 'a.npz', 'a.safetensors', 'a'])
def test_a_temporary_file_is_never_taken_for_the_real_one(tmp_path, name):
    "Not by a glob, not after a crash inside the write."
    write_atomic(tmp_path / name, 'old')
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / name) as temporary:
        temporary.write_text('half')
        assert temporary.parent == tmp_path and temporary.name.startswith('.')
        for pattern in ('*.json', '*.npz', '*.safetensors', 'a*'):
            assert temporary not in tmp_path.glob(pattern)
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == 'old'


def test_writers_that_look_at_the_suffix_take_an_open_file(tmp_path):
    with atomic_path(tmp_path / 'new' / 'x.npy') as temporary, open(temporary, 'wb') as file:
        np.save(file, np.arange(3))
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['x.npy']
    assert np.load(tmp_path / 'new' / 'x.npy').tolist() == [0, 1, 2]


def test_digest_depends_on_values_only():
    assert digest({'a': 1, 'b': [1.0, None]}) == digest({'b': [1.0, None], 'a': 1})
    assert digest({'a': 1}) != digest({'a': 1.0}) and len(digest(0)) == 16
    with pytest.raises(ValueError):
        digest(float('nan'))


def test_choose_suggests_the_nearest_name_in_any_case():
    assert choose('meld', ('meld', 'mosi'), 'corpus') == 'meld'
    with pytest.raises(ValueError, match="unknown corpus 'MELD'; did you mean 'meld'?"):
        choose('MELD', ('meld', 'mosi'), 'corpus')
    with pytest.raises(ValueError, match=r'unknown corpus 7\. Known: meld, mosi$'):
        choose(7, ('meld', 'mosi'), 'corpus')


@pytest.mark.parametrize(
    'spec,message',
    [
        ('digest', "write 'module:name'"),
        ('erc.core:nothing', "cannot find 'erc.core:nothing'"),
        ('erc.nothing:x', "cannot find 'erc.nothing:x'"),
    ],
)
def test_resolve_names_what_it_cannot_import(spec, message):
    assert resolve('erc.core:digest') is digest
    with pytest.raises(ValueError, match=message):
        resolve(spec)


# ---- files that several processes share


WRITER = """import sys, time
from erc.core import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text('half')
    print('writing', flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_goes_and_what_a_living_one_holds_stays(tmp_path):
    def writer(name):
        command = [sys.executable, '-c', WRITER, str(tmp_path / name)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == 'writing\n'
        return process

    dead, living = writer('a.json'), writer('b.json')
    try:
        dead.kill()
        dead.wait()
        foreign = tmp_path / '.theirs.tmp'
        foreign.write_text('not ours')
        assert len(list(tmp_path.iterdir())) == 3
        write_atomic(tmp_path / 'c.json', '{}')
        names = sorted(p.name for p in tmp_path.iterdir())
        assert len(names) == 3 and names[0].startswith('.b.json') and names[1:] == [
            '.theirs.tmp',
            'c.json',
        ]
    finally:
        living.kill()
        living.wait()


@pytest.mark.parametrize('code', ['ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS'])
def test_a_write_that_fails_names_the_file_and_the_remedy(tmp_path, code):
    number = getattr(errno, code)
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / 'a.json') as temporary:
        temporary.write_text('half')
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number and caught.value.filename == str(tmp_path / 'a.json')
    assert '; ' in caught.value.strerror and not list(tmp_path.iterdir())


def test_a_limit_on_file_sizes_and_a_file_in_place_of_a_folder_are_named(tmp_path):
    code = (
        'import resource, sys; from erc.core import write_atomic\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n'
        'write_atomic(sys.argv[1], bytes(100_000))'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'a.bin')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert 'ulimit -f' in done.stderr and f"'{tmp_path / 'a.bin'}'" in done.stderr
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='a file stands where a folder is needed.*file/a.json'):
        write_atomic(tmp_path / 'file' / 'a.json', '{}')
    assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_errors_of_other_files_pass_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / 'a' / 'b') as _:
        open(tmp_path / 'missing')
    assert caught.value.filename == str(tmp_path / 'missing')


HOLDER = """import sys, time
from erc.core import _locked
with _locked(sys.argv[1]):
    print('held', flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path):
    command = [sys.executable, '-c', HOLDER, str(tmp_path / 'a')]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == 'held\n'
        with pytest.raises(RuntimeError, match='another process'), _locked(tmp_path / 'a', False):
            pass
        holder.kill()
        holder.wait()
        with _locked(tmp_path / 'a', wait=False):
            pass
