"Intervals: arithmetic against plain loops, coverage in simulated worlds of IEMOCAP's and MELD's size, speed."

import math
import time

import numpy as np
import pytest
from scipy import stats
from worlds import truth, world

from erc.evidence import intervals as I
from erc.evidence.metrics import (
    accuracy,
    confusion,
    moments,
    pearson_from_moments,
    pearson_r,
    weighted_f1,
)
from erc.evidence.verdicts import randomised


@pytest.mark.parametrize('seed_sd', [0.01, 0.02])
@pytest.mark.parametrize('dialogues', [31, 280])
def test_coverage_and_false_positives(dialogues, seed_sd):
    """In 1,000 worlds of five seeds the interval contains the truth in at least 93 %.

    Of two equally good systems, fewer than 6 % come out different: by the interval, by
    randomisation, by both."""
    want, sims = truth(dialogues, seed_sd), 1000
    covered, covered_alone, excluded, small_p = np.zeros((4, sims), bool)
    for i in range(sims):
        g = np.random.default_rng([5, i])
        a, same = world(g, dialogues, seed_sd=seed_sd)
        b, _ = world(g, dialogues, seed_sd=seed_sd, same=same)
        options = dict(metric=weighted_f1, resamples=400, seed=i)
        both, alone = I.interval(a, **options), I.interval(a.sum(0, keepdims=True), **options)
        difference = I.paired(a, b, **options)
        covered[i] = both.low <= want <= both.high
        covered_alone[i] = alone.low <= want <= alone.high
        excluded[i] = not difference.low <= 0 <= difference.high
        small_p[i] = randomised(a, b, **options) < 0.05
    assert 0.93 <= covered.mean() <= 0.985
    assert max(excluded.mean(), small_p.mean(), (excluded & small_p).mean()) < 0.06
    assert covered_alone.sum() < covered.sum()  # the interval over dialogues alone is worse


def test_coverage_of_differences():
    """Of two systems 3 points apart, the paired interval contains the true difference.

    It also finds the difference more often than two separate intervals do."""
    diff = truth(280, gain=0.03, worlds=25) - truth(280, worlds=25)
    covered = found = apart = 0
    for i in range(200):
        g = np.random.default_rng([6, i])
        a, same = world(g, 280, gain=0.03, seed_sd=0.01)
        b, _ = world(g, 280, same=same, seed_sd=0.01)
        p = I.paired(a, b, weighted_f1, resamples=400, seed=i)
        ia, ib = (I.interval(x, weighted_f1, resamples=400, seed=i) for x in (a, b))
        covered += p.low <= diff <= p.high
        found += p.low > 0
        apart += ia.low > ib.high
    assert 0.91 <= covered / 200 <= 0.995, covered / 200
    assert found > apart


def test_ten_thousand_resamples_of_meld_are_quick():
    g = np.random.default_rng(0)
    d = np.repeat(np.arange(280), g.integers(1, 18, 280))
    y = g.integers(0, 7, len(d))
    a, b = (confusion(y, g.integers(0, 7, (5, len(d))), 7, d) for _ in 'ab')
    begun = time.perf_counter()
    I.paired(a, b, 'weighted_f1', resamples=10_000)
    assert time.perf_counter() - begun < 2


def test_resampling_equals_a_loop():
    g = np.random.default_rng(1)
    c, w = g.integers(0, 9, (3, 6, 4, 4)), I._draws(6, 50, g)
    assert (w.sum(1) == 6).all() and np.array_equal(w, np.round(w))
    got = I._resampled(c, weighted_f1, w, chunk=7)
    for r in range(50):
        rows = np.repeat(np.arange(6), w[r].astype(int))
        for s in range(3):
            assert np.isclose(got[r, s], weighted_f1(c[s, rows].sum(0)), atol=1e-6)


def test_draws_are_uniform():
    w = I._draws(5, 20_000, np.random.default_rng(2))
    assert np.allclose(w.mean(0), 1, atol=0.03) and np.allclose(w.var(0), 0.8, atol=0.03)


def test_mean_is_the_mean_over_seeds_and_the_result_repeats():
    c, _ = world(np.random.default_rng(3), 40)
    i = I.interval(c, 'weighted_f1')
    assert np.isclose(i.mean, np.mean([weighted_f1(x.sum(0)) for x in c])) and (
        i.seeds,
        i.dialogues,
    ) == (5, 40)
    assert (
        i.low < i.mean < i.high
        and i == I.interval(c, 'weighted_f1')
        and i != I.interval(c, 'weighted_f1', seed=1)
    )
    j = I.interval(c[::-1], 'weighted_f1')  # the order of seeds is irrelevant but for the draw
    assert abs(j.low - i.low) < 0.005 and abs(j.high - i.high) < 0.005


def width(interval):
    return interval.high - interval.low


def test_more_seeds_and_dialogues_narrow_it():
    c, _ = world(np.random.default_rng(4), 200, seeds=20, seed_sd=0.03)
    assert width(I.interval(c, accuracy)) < width(I.interval(c[:5], accuracy))
    assert width(I.interval(c, accuracy)) < width(I.interval(c[:, :30], accuracy))


def test_dialogue_part_equals_the_known_standard_error():
    "Accuracy with one turn per dialogue: the binomial standard error."
    right = np.random.default_rng(5).random(400) < 0.7
    c = np.stack([right, ~right, ~right * 0, right * 0], -1).reshape(1, 400, 2, 2).astype(int)
    i = I.interval(c, accuracy, resamples=20_000)
    se = math.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert i.seeds == 1 and np.isclose(
        (i.high - i.low) / 2, stats.t.ppf(0.975, 399) * se, rtol=0.04
    )


def test_seed_part_equals_students_t():
    "Dialogues all alike: what is left is the t interval of five numbers, bootstrap shape aside."
    n = np.array([60, 64, 65, 67, 71])
    c = np.zeros((5, 50, 2, 2), int)
    c[..., 0, 0] = n[:, None]
    c[..., 0, 1] = 100 - n[:, None]
    i = I.interval(c, accuracy, resamples=20_000)
    half = stats.t.ppf(0.975, 4) * n.std(ddof=1) / 100 / math.sqrt(5)
    assert np.isclose(i.mean, n.mean() / 100) and np.isclose((i.high - i.low) / 2, half, rtol=0.06)


def test_identical_systems_differ_by_nothing():
    c, _ = world(np.random.default_rng(6), 31)
    p = I.paired(c, c, accuracy, paired_seeds=True)
    assert (p.mean, p.low, p.high) == (0, 0, 0) and str(p) == '+0.0 [0.0, 0.0]'
    q = I.paired(c, c, accuracy)  # seeds drawn apart: it says that another five could differ
    assert q.mean == 0 and q.low < 0 < q.high
    one = c[:1]
    r = I.paired(one, one, accuracy)
    assert (r.low, r.high, r.seeds) == (0, 0, 1)


def test_paired_seeds_keep_shared_luck_out():
    g = np.random.default_rng(7)
    luck = g.integers(-8, 9, (5, 1))
    n = 60 + luck + g.integers(-2, 3, (5, 30))
    a, b = (np.stack([n, 100 - n, 0 * n, 0 * n], -1).reshape(*n.shape, 2, 2) for n in (n + 2, n))
    tied, free = I.paired(a, b, accuracy, paired_seeds=True), I.paired(a, b, accuracy)
    assert (
        tied.high - tied.low < 0.001 < free.high - free.low
        and np.isclose(tied.mean, 0.02)
        and np.isclose(free.mean, 0.02)
    )


def test_against_a_deterministic_baseline():
    g = np.random.default_rng(8)
    a, same = world(g, 60)
    b, _ = world(g, 60, seeds=1, same=same)
    assert I.paired(a, b, accuracy).seeds == (5, 1)
    assert np.isclose(I.paired(b, a, accuracy).mean, -I.paired(a, b, accuracy).mean)


def test_other_additive_statistics():
    g = np.random.default_rng(9)
    y = g.normal(size=600)
    p = y + g.normal(size=(5, 600))
    d = np.repeat(np.arange(60), 10)
    i = I.interval(moments(y, p, d), pearson_from_moments, resamples=2000)
    assert (
        np.isclose(i.mean, pearson_r(y, p).mean())
        and i.low < i.mean < i.high
        and i.high - i.low < 0.15
    )


def test_slices_that_are_rare():
    c = np.zeros((5, 20, 2, 2), int)
    c[:, 3] = [[2, 1], [0, 0]]
    c[:, 7] = [[1, 1], [0, 0]]
    i = I.interval(c, 'accuracy')
    assert (
        np.isclose(i.mean, 0.6) and 0 <= i.low <= 0.6 <= i.high <= 1
    )  # resamples that miss both dialogues are left out
    nothing = I.interval(c * 0, 'accuracy')
    assert math.isnan(nothing.mean) and str(nothing) == 'no score'
    perfect = np.zeros((2, 5, 2, 2), int)
    perfect[..., 0, 0] = 9
    perfect[0, 0] = [[8, 1], [0, 0]]
    assert I.interval(perfect, 'accuracy').high <= 1


@pytest.mark.parametrize(
    'call,says',
    [
        (lambda c: I.interval(c[0, 0], 'accuracy'), 'conf has shape'),
        (lambda c: I.interval(c[:0], 'accuracy'), 'conf has shape'),
        (lambda c: I.interval(c * np.nan, accuracy), 'conf has a value that is not finite'),
        (lambda c: I.interval(c, 'f1'), 'unknown metric'),
        (lambda c: I.paired(c, c[:, :5], accuracy), 'conf_b has shape'),
        (lambda c: I.paired(c, c[:2], accuracy, paired_seeds=True), 'conf_a has 5 seeds, conf_b 2'),
        (lambda c: I.paired(c, np.roll(c, 1, axis=1), accuracy), 'not the same test set'),
    ],
)
def test_bad_counts_are_named(call, says):
    c, _ = world(np.random.default_rng(0), 12)
    with pytest.raises(ValueError, match=says):
        call(c)


def test_intervals_print_in_percent():
    assert repr(I.Interval(0.582, 0.507, 0.644, 5, 31)) == '58.2 [50.7, 64.4]'
    assert str(I.Interval(0.731, 0.72, 0.742, 5, 280)) == '73.1 [72.0, 74.2]'
    assert str(I.Interval(-0.0004, -0.01, 0.01, 5, 31, signed=True)) == '+0.0 [-1.0, 1.0]'
    assert I.Interval(0.4123, 0.4, 0.42, 5, 31).text(3, 1) == '0.412 [0.400, 0.420]'


def test_cached_draws_are_those_of_a_fresh_generator():
    a, _ = world(np.random.default_rng(1), 31)
    rng = np.random.default_rng(7)
    m = I._resampled(a, weighted_f1, I._draws(31, 500, rng))
    want = I._two_level([I._Scores(m, weighted_f1(a.sum(1)))], 31, rng)
    for _ in range(2):
        got = I.interval(a, weighted_f1, resamples=500, seed=7)
        assert (got.mean, got.low, got.high) == want
