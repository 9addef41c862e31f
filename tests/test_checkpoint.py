"A file of tensors is read by its own run alone, whole or not at all."

import warnings

import pytest
import torch

from erc.training.checkpoint import Checkpoint, _hash_tensors


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'run.safetensors'


def tensors():
    return {'x': torch.arange(3.0), 'n': torch.tensor(2)}


def test_what_is_written_is_read(path):
    checkpoint = Checkpoint(path, 'run', 0.0)
    assert checkpoint.read() == {}
    checkpoint.write(tensors)
    found = checkpoint.read()
    assert found.keys() == {'x', 'n'} and torch.equal(found['x'], tensors()['x'])


def test_writing_waits_until_it_is_due(path):
    checkpoint, asked = Checkpoint(path, 'run', 60.0), []
    for _ in range(100):
        checkpoint.write(lambda: asked.append(1) or {})
    assert not asked and not path.exists()
    checkpoint.write(tensors, now=True)
    assert path.exists()


def test_without_a_path_nothing_is_written():
    checkpoint = Checkpoint(None, 'run', 0.0)
    checkpoint.write(tensors, now=True)
    assert checkpoint.read() == {}


def test_a_file_that_cannot_be_written_is_only_a_warning(tmp_path):
    (tmp_path / 'file').write_text('')
    checkpoint = Checkpoint(tmp_path / 'file' / 'run.safetensors', 'run', 0.0)
    with pytest.warns(UserWarning, match='cannot write checkpoint'):
        checkpoint.write(tensors)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        checkpoint.write(tensors)


def test_another_run_does_not_read_it(path):
    Checkpoint(path, 'run', 0.0).write(tensors)
    with pytest.warns(UserWarning, match='belongs to another run .* training starts anew'):
        assert Checkpoint(path, 'other', 0.0).read() == {}


@pytest.mark.parametrize(
    'damage',
    [
        lambda b: b[: len(b) // 2],
        lambda b: b'',
        lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:],
        lambda b: b'x' * 99,
    ],
)
def test_a_damaged_file_is_not_used(path, damage):
    Checkpoint(path, 'run', 0.0).write(tensors)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match='is damaged: training starts anew'):
        assert Checkpoint(path, 'run', 0.0).read() == {}


def test_hash_knows_type_shape_bytes_and_order():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    same = _hash_tensors([a.clone(), b]), _hash_tensors([torch.stack([a, a], 1)[:, 0], b])
    assert set(same) == {_hash_tensors([a, b])}, 'memory layout does not count'
    others = [[b, a], [a[:, None], b], [a.double(), b], [a + 1, b]]
    assert len({_hash_tensors(x) for x in [[a, b], *others]}) == 5
