"Folders, atomic writes, digests, names."

import numpy as np
import pytest

from erc import core
from erc.core import atomic_path, choose, digest, resolve, root, write_atomic


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
