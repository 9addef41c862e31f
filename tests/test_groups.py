"Groups of seeds get smaller where memory runs out."

import pytest
import torch
from toy_training import TRAIN, Net

from erc.training.groups import _bytes_of_a_seed, _free_bytes, _halved, _in_groups, _seeds_that_fit
from erc.training.settings import Settings, criterion

FULL = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')


@pytest.mark.parametrize('fits', [1, 2, 5])
def test_groups_are_halved_until_they_fit(recwarn, fits):
    tried = []

    def train(group):
        tried.append(len(group))
        if len(group) > fits:
            raise FULL
        return group

    groups = _in_groups(train, [0, 1, 2, 3, 4], 5, 32)
    assert sum(groups, []) == [0, 1, 2, 3, 4]
    assert [len(g) for g in groups] == {1: [1] * 5, 2: [2, 2, 1], 5: [5]}[fits]
    sizes = [n for n in (5, 3, 2) if n > fits]
    assert [str(w.message) for w in recwarn] == [
        f'out of memory with {n} seeds at once: trying {(n + 1) // 2}' for n in sizes
    ]
    assert tried[: len(sizes)] == sizes


@pytest.mark.parametrize(
    'message', ['HIP out of memory', "DefaultCPUAllocator: can't allocate memory"]
)
def test_memory_errors_of_other_devices_count(message):
    with pytest.warns(UserWarning, match='out of memory with 4 seeds at once: trying 2'):
        assert _halved([0, 1, 2, 3], RuntimeError(message), 32) == 2


def test_one_seed_that_does_not_fit_is_an_error():
    with pytest.raises(
        RuntimeError, match='out of memory with one seed and batches of 32: use a smaller `batch`'
    ) as error:
        _halved([3], FULL, 32)
    assert error.value.__cause__ is FULL


def test_other_errors_are_raised_as_they_are():
    with pytest.raises(RuntimeError, match='size mismatch'):
        _in_groups(lambda group: torch.zeros(2, 3) @ torch.zeros(2), [0, 1, 2], 3, 32)


def test_seeds_that_fit_into_a_share_of_free_memory():
    fit = [_seeds_that_fit(free, 1.0) for free in (100, 4, 0.1)]
    assert fit == [60, 2, 1], 'one seed is always tried'


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_memory_of_a_seed_on_cuda():
    batch, loss = TRAIN[0].to('cuda'), criterion('emotion')
    assert _bytes_of_a_seed(Net, 0, batch, loss, Settings(), 'cuda') > 0
    assert _free_bytes('cuda') > 0
