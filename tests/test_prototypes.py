"Prototype queues: golden numbers of the authors' module, and the same results as plain lists."

import numpy as np
import pytest
import torch
from helpers import close

from erc.nn.prototypes import PrototypeQueues

T = torch.from_numpy


@pytest.fixture(scope='session')
def g(golden):
    return golden('mmspcl/spcl_loss')


def filled(g, vectors):
    "Return queues that hold these vectors and nothing else."
    queues = PrototypeQueues(3, 5, length=16, support=4).double()
    queues.restart(T(g['centers']))
    queues.arrived.fill_(-1)
    for k, v in enumerate(vectors):
        queues.push(T(v), torch.full((len(v),), k))
    return queues


def lengths_after(queues, g):
    queues.push(T(g['reps']), T(g['labels']))
    return queues.counts().tolist()


def test_prototypes_of_full_queues(g):
    queues = filled(g, g['queues'])
    prototypes, few = queues.prototypes()
    close(prototypes, g['caseA_prototypes'])
    assert not few.any()
    assert lengths_after(queues, g) == g['caseA_queue_len_after'].tolist()


def test_prototypes_of_given_support_sets(g):
    queues = filled(g, g['long_queues'])
    draws = torch.zeros(3, 16, dtype=torch.long)
    for k, own in enumerate(g['support_idx']):
        draws[k, own] = torch.arange(1, 5)
    close(queues.prototypes(draws)[0], g['caseB_prototypes'])
    assert lengths_after(queues, g) == g['caseB_queue_len_after'].tolist()


def test_prototypes_of_a_short_queue(g):
    queues = filled(g, [g['queues'][0], g['queues'][1][:3], g['queues'][2]])
    prototypes, few = queues.prototypes()
    close(prototypes, g['caseC_prototypes'])
    assert few.tolist() == [False, True, False] and queues.fallen.tolist() == [0, 1, 0]
    assert lengths_after(queues, g) == g['caseC_queue_len_after'].tolist()


@pytest.mark.parametrize('evict', ['fifo', 'random'])
def test_queues_against_lists(evict):
    "The same vectors as in lists: the oldest leaves first, none is kept twice."
    rng, lists = np.random.default_rng(0), [[-1.0], [-2.0], [-3.0]]
    queues = PrototypeQueues(3, 1, length=7, support=3, evict=evict)
    queues.restart(torch.tensor([[-1.0], [-2.0], [-3.0]]))
    for step in range(40):
        labels = rng.integers(-1, 3 if step % 5 else 1, rng.integers(1, 20))
        z = np.arange(len(labels)) + 100.0 * step
        queues.push(T(z[:, None]).float(), T(labels))
        for k in range(3):
            lists[k] += z[labels == k].tolist()
            kept = queues.vectors[:-1].view(3, 7)[k][queues.arrivals[k] >= 0].tolist()
            assert len(kept) == len(set(kept)) == min(7, len(lists[k]))
            assert set(kept) <= set(lists[k])
            lists[k] = lists[k][-7:] if evict == 'fifo' else kept
            assert set(kept) == set(lists[k])


def test_random_eviction_is_even():
    "Old and new vectors leave with the same probability."
    stayed = np.zeros(12)
    torch.manual_seed(0)
    for _ in range(3000):
        queues = PrototypeQueues(1, 1, length=6, support=2, evict='random')
        queues.push(torch.arange(6.0)[:, None], torch.zeros(6, dtype=torch.long))
        queues.push(torch.arange(6.0, 12)[:, None], torch.zeros(6, dtype=torch.long))
        stayed[queues.vectors[:-1, 0].long()] += 1
    assert np.abs(stayed / 3000 - 0.5).max() < 0.04


def test_support_is_drawn_without_replacement():
    queues, seen = PrototypeQueues(1, 8, length=8, support=3), np.zeros(8)
    queues.push(torch.eye(8), torch.zeros(8, dtype=torch.long))
    torch.manual_seed(0)
    for _ in range(2000):
        prototype = queues.prototypes()[0][0]
        assert sorted(prototype.tolist()) == pytest.approx([0] * 5 + [1 / 3] * 3)
        seen += prototype.numpy()
    assert np.abs(seen / 2000 - 1 / 8).max() < 0.02


def test_a_class_mean_stands_in_and_is_counted():
    queues = PrototypeQueues(3, 2, length=32, support=8)
    centres = torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    queues.restart(centres, torch.tensor([100, 100, 0]))
    for _ in range(10):
        prototypes, _few = queues.prototypes()
        queues.push(torch.randn(4, 2), torch.zeros(4, dtype=torch.long))
    assert queues.calls == 10 and queues.fallen[1] == 10 and 1 < queues.fallen[0] < 4
    assert (prototypes[1] == centres[1]).all() and not prototypes[2].any()


def test_the_support_set_of_a_small_class():
    queues = PrototypeQueues(4, 2)
    queues.restart(torch.ones(4, 2), torch.tensor([271, 40, 3, 0]))
    assert queues.least.tolist() == [64, 10, 1, 1]


def test_bad_options():
    with pytest.raises(ValueError, match="unknown eviction 'lifo'"):
        PrototypeQueues(3, 4, evict='lifo')
    with pytest.raises(ValueError, match='support=64, length=10'):
        PrototypeQueues(3, 4, length=10)
