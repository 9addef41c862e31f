"Tests of pairs against exact distributions; verdicts by the table of the rule."

import math

import numpy as np
import pytest
from scipy import stats
from worlds import world

from erc.evidence import verdicts as V
from erc.evidence.intervals import Interval, interval
from erc.evidence.metrics import accuracy, weighted_f1


@pytest.mark.parametrize(
    'low,high,printed,call,size',
    [
        (0.01, 0.03, 2, 'confirmed', 'as printed'),
        (0.01, 0.03, '+5.36', 'confirmed', 'smaller than printed'),
        (0.05, 0.09, 2, 'confirmed', 'larger than printed'),
        (-0.01, 0.03, 2, 'not confirmed', 'as printed'),
        (-0.01, 0.01, '2.0', 'not confirmed', 'smaller than printed'),
        (-0.03, -0.01, 2, 'contradicted', 'smaller than printed'),
        (-0.03, -0.01, '−2', 'confirmed', 'as printed'),
        (-0.09, -0.05, -2, 'confirmed', 'larger than printed'),
        (0.01, 0.03, -2, 'contradicted', 'smaller than printed'),
    ],
)
def test_verdicts(low, high, printed, call, size):
    v = V.verdict(
        Interval((low + high) / 2, low, high, 5, 31, signed=True), printed, basis='own features'
    )
    assert (v.call, v.size, v.seeds, v.basis) == (call, size, 5, 'own features')


def test_verdict_without_a_number():
    i = Interval(0.02, 0.01, 0.03, 5, 31, signed=True)
    assert (
        V.verdict(i, direction=1).call == 'confirmed'
        and V.verdict(i, direction=-1).call == 'contradicted'
        and V.verdict(i, direction=1).size == ''
    )
    assert V.verdict(interval(np.zeros((1, 2, 2, 2)), 'accuracy'), 1).call == 'no score'
    for bad in ({}, dict(printed=0), dict(direction=0)):
        with pytest.raises(ValueError, match='direction'):
            V.verdict(i, **bad)


def test_randomisation_finds_a_difference_that_is_there():
    found = 0
    for i in range(60):
        g = np.random.default_rng([8, i])
        a, same = world(g, 280, gain=0.04, seed_sd=0.01)
        b, _ = world(g, 280, same=same, seed_sd=0.01)
        p = V.randomised(a, b, weighted_f1, resamples=400, seed=i)
        found += p < 0.05
        assert np.isclose(p, V.randomised(b, a, weighted_f1, resamples=400, seed=i), atol=0.05), (
            'two-sided'
        )
    assert found >= 50, found


def test_randomisation_at_the_edges():
    a, _ = world(np.random.default_rng(1), 31)
    assert (
        V.randomised(a, a, 'accuracy') == 1.0
        and V.randomised(a[:2], a[:2], 'accuracy', seed=3) == 1.0
    )
    assert math.isnan(V.randomised(np.zeros((1, 3, 2, 2)), np.zeros((1, 3, 2, 2)), 'accuracy'))
    right, wrong = np.zeros((1, 12, 2, 2), int), np.zeros((1, 12, 2, 2), int)
    right[..., 0, 0] = wrong[..., 0, 1] = 5
    assert V.randomised(right, wrong, 'accuracy', resamples=4000) <= 0.01, (
        'twelve dialogues, all won: 2 of 4096 exchanges are as large'
    )
    with pytest.raises(ValueError, match='all but the seeds must agree'):
        V.randomised(a, a[:, :5], 'accuracy')


def test_randomisation_of_one_seed_equals_all_exchanges():
    "Eight dialogues can change sides in 256 ways; one deterministic system each."
    a, _ = world(np.random.default_rng(2), 8, seeds=1)
    b, _ = world(np.random.default_rng(3), 8, seeds=1)

    def f(counts):
        return accuracy(counts.sum(1))[0]

    real, null = f(a) - f(b), []
    for m in range(256):
        side = np.array([(m >> k) & 1 for k in range(8)], bool)[None, :, None, None]
        null.append(f(np.where(side, a, b)) - f(np.where(side, b, a)))
    sd = np.std(null)
    wider = sd * stats.t.ppf(
        stats.norm.cdf(np.abs(null) / sd), 7
    )  # few dialogues: the tails of Student's t
    exact = np.mean(wider >= abs(real) - 1e-12)
    assert math.isclose(V.randomised(a, b, 'accuracy', resamples=20_000), exact, abs_tol=0.015)


@pytest.mark.parametrize('only_a,only_b', [(0, 0), (5, 5), (10, 2), (1, 9), (30, 11)])
def test_mcnemar_equals_the_binomial_test(only_a, only_b):
    a = np.r_[np.ones(only_a), np.zeros(only_b), np.ones(7), np.zeros(4)].astype(bool)
    b = np.r_[np.zeros(only_a), np.ones(only_b), np.ones(7), np.zeros(4)].astype(bool)
    want = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert (
        V.mcnemar(a, b)[:2] == (only_a, only_b)
        and math.isclose(V.mcnemar(a, b)[2], want)
        and math.isclose(V.mcnemar(b, a)[2], want)
    )


def test_mcnemar_needs_the_same_utterances():
    with pytest.raises(ValueError, match='not the same utterances'):
        V.mcnemar([True], [True, False])


def test_holm_of_a_known_table():
    "Factors of Holm's steps; corrected values never decrease and stay at most one."
    assert np.allclose(V.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    got = V.holm([0.2, np.nan, 0.04, 0.9])
    assert (
        math.isnan(got[1]) and np.allclose(got[[0, 2, 3]], [0.4, 0.12, 0.9]) and not len(V.holm([]))
    )
    p = np.random.default_rng(0).uniform(size=40)
    assert (
        (V.holm(p) >= p).all()
        and (V.holm(p) <= np.minimum(1, 40 * p) + 1e-12).all()
        and (np.diff(V.holm(p)[np.argsort(p)]) >= 0).all()
    )
    errors = (
        sum(
            (V.holm(np.random.default_rng([4, i]).uniform(size=10)) < 0.05).any()
            for i in range(2000)
        )
        / 2000
    )
    assert errors < 0.06, 'ten true nulls: a table with any false positive is rare'


@pytest.mark.parametrize(
    'p,call',
    [(None, 'confirmed'), (0.049, 'confirmed'), (0.05, 'not confirmed'), (0.7, 'not confirmed')],
)
def test_verdict_with_a_corrected_p(p, call):
    assert V.verdict(Interval(0.02, 0.01, 0.03, 5, 31, signed=True), 2, p=p).call == call
    against = V.verdict(Interval(-0.02, -0.03, -0.01, 5, 31, signed=True), 2, p=p).call
    assert against == ('contradicted' if call == 'confirmed' else 'not confirmed')
