"Flags of records that cannot carry a verdict."

import warnings

import numpy as np
import pytest
from worlds import world

from erc.evidence import gate as G

FLAT = 0.5 - 0.2 * np.exp(-np.arange(40.0))
RISING = np.linspace(0.3, 0.5, 40)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


@pytest.mark.parametrize(
    'curves,want',
    [
        (np.array([RISING, RISING, FLAT]), True),
        (np.array([RISING, FLAT]), True),  # half is enough
        (np.array([RISING, FLAT, FLAT]), False),
        ([np.array([RISING, RISING]), np.array([FLAT, FLAT])], True),  # two of four runs
        ([np.array([RISING, FLAT]), np.array([FLAT[:12], FLAT[:12]])], False),
        (np.array([np.where(np.arange(40) < 25, RISING, np.nan)]), False),  # stopped early
        (np.array([np.full(40, np.nan)]), False),
        (np.array([[0.3]]), False),
        (np.array([np.where(np.arange(40) == 38, 0.504, 0.5)]), False),  # under half a point
        (np.array([np.where(np.arange(40) == 38, 0.506, 0.5)]), True),
        (np.array([np.where(np.arange(40) == 29, 0.506, 0.5)]), False),  # in the third quarter
    ],
)
def test_still_rising(curves, want):
    assert G._still_rising(curves) is want


def test_a_best_epoch_at_the_end_is_no_sign():
    "The best of many equal, noisy epochs is a late one now and then, and gains little."
    noise = np.random.default_rng(0).normal(0.5, 0.01, (2000, 40))
    gains = np.array([G._late_gain(run) for run in noise])
    assert (noise.argmax(1) >= 36).mean() > 0.05 and (gains > 0.005).mean() < 0.2


def test_collapsed():
    c, _ = world(np.random.default_rng(1), 30, seed_sd=0.001)
    assert not G._collapsed(c).any()
    constant = np.zeros_like(c[:1])
    constant[..., 0] = c[:1].sum(-1)
    assert G._collapsed(np.concatenate([c, constant])).tolist() == [False] * 5 + [True]
    assert G._collapsed([c, np.concatenate([constant, c[:1]])]).tolist() == [False] * 5 + [
        True,
        False,
    ]
    poor, _ = world(np.random.default_rng(2), 30, seeds=1, seed_sd=0.001, gain=-0.2)
    assert G._collapsed(np.concatenate([poor, c[:1]])).tolist() == [True, False]
    sums = np.ones((3, 4, 6))
    assert not G._collapsed(sums, lambda s: s[..., 0] / 100).any()  # moments have no classes


def test_below_floor():
    c, same = world(np.random.default_rng(3), 60)
    poor, _ = world(np.random.default_rng(4), 60, gain=-0.15, same=same)
    assert G._below_floor(poor, c) and not G._below_floor(c, poor) and not G._below_floor(c, c)
    folds = [[x[:, f::2] for f in range(2)] for x in (poor, c)]
    assert G._below_floor(*folds)


def test_blind_dev():
    g = np.random.default_rng(5)
    dev = FLAT + g.normal(0, 0.005, (3, 40))
    assert not G._blind_dev(dev, dev - 0.1 + g.normal(0, 0.005, dev.shape))
    assert G._blind_dev(dev, dev - 0.16)
    assert G._blind_dev(dev, g.normal(0.4, 0.01, dev.shape))
    assert not G._blind_dev([dev, dev], [dev, dev - 0.2])  # ten points on average
    assert not G._blind_dev(dev, np.full(dev.shape, 0.5))  # test does not move: unknown
    stopped = np.where(np.arange(40) < 25, dev, np.nan)
    assert not G._blind_dev(stopped, stopped)
    assert G._blind_dev(np.array([[0.9]]), np.array([[0.7]]))


def test_never_predicted():
    c, _ = world(np.random.default_rng(6), 20, seeds=2)
    silent = c.copy()
    silent[..., 0] += silent[..., 3]
    silent[..., 3] = 0
    assert G._never_predicted(silent, 3) and not G._never_predicted(c, 3)
    assert not G._never_predicted([c, silent], 3) and G._never_predicted([c, silent, silent], 3)
