"Intervals: arithmetic against plain loops, coverage in simulated worlds of IEMOCAP's and MELD's size, speed, verdicts."

import math
import time

import numpy as np
import pytest
from scipy import stats

from erc import evidence as E
from erc.evidence.metrics import accuracy, confusion, moments, pearson_of, pearson_r, weighted_f1


def world(g, dialogues, seeds=5, seed_sd=0.02, C=4, gain=0.0, turns=None, same=None):
    "Counts (S, D, C, C): imbalanced classes, dialogues and classes of unequal difficulty, errors partly shared by seeds."
    turns = turns or ((5, 15) if dialogues > 100 else (30, 80))
    if same is None:
        T = g.integers(*turns, dialogues)
        d = np.repeat(np.arange(dialogues), T)
        y = g.choice(C, len(d), p=[0.45, 0.3, 0.15, 0.1])
        same = (
            d,
            y,
            0.65 + g.normal(0, 0.08, dialogues)[d] + np.array([0.1, 0, -0.1, -0.15])[y],
            g.normal(size=len(d)),
        )
    d, y, base, noise = same
    u = stats.norm.cdf(math.sqrt(0.6) * noise + math.sqrt(0.4) * g.normal(size=(seeds, len(d))))
    right = u < np.clip(base + gain + g.normal(0, seed_sd, (seeds, 1)), 0.01, 0.99)
    p = np.where(right, y, (y + g.integers(1, C, (seeds, len(d)))) % C)
    cell = ((np.arange(seeds)[:, None] * dialogues + d) * C + y) * C + p
    return np.bincount(cell.ravel(), minlength=seeds * dialogues * C * C).reshape(
        seeds, dialogues, C, C
    ), same


def truth(dialogues, seed_sd=0.02, gain=0.0, worlds=60):
    "The metric of the mean seed on endlessly many dialogues of that kind."
    turns = (5, 15) if dialogues > 100 else (30, 80)
    return np.mean(
        [
            weighted_f1(
                world(
                    np.random.default_rng([99, i]),
                    800 if dialogues > 100 else 250,
                    60,
                    seed_sd,
                    gain=gain,
                    turns=turns,
                )[0].sum(1)
            ).mean()
            for i in range(worlds)
        ]
    )


@pytest.mark.parametrize('seed_sd', [0.01, 0.02])
@pytest.mark.parametrize('dialogues', [31, 280])
def test_coverage_and_false_positives(dialogues, seed_sd):
    "1,000 worlds of five seeds: the interval holds the truth in at least 93 %; of two systems that are equally good, fewer than 6 % come out different, by the interval, by randomisation, by both."
    want, sims, held, alone, out, small, both = truth(dialogues, seed_sd), 1000, 0, 0, 0, 0, 0
    for i in range(sims):
        g = np.random.default_rng([5, i])
        a, same = world(g, dialogues, seed_sd=seed_sd)
        b, _ = world(g, dialogues, seed_sd=seed_sd, same=same)
        got, one = (
            E.interval(a, weighted_f1, resamples=400, seed=i),
            E.interval(a.sum(0, keepdims=True), weighted_f1, resamples=400, seed=i),
        )
        d, p = (
            E.paired(a, b, weighted_f1, resamples=400, seed=i),
            E.randomised(a, b, weighted_f1, resamples=400, seed=i),
        )
        held += got.low <= want <= got.high
        alone += one.low <= want <= one.high
        apart = not d.low <= 0 <= d.high
        out += apart
        small += p < 0.05
        both += apart and p < 0.05
    assert 0.93 <= held / sims <= 0.985 and max(out, small, both) / sims < 0.06, (
        held,
        out,
        small,
        both,
    )
    assert alone < held  # the interval over dialogues alone is the worse one


def test_coverage_of_differences():
    "Same world, second system 3 points better: the paired interval holds the true difference, and finds it more often than two intervals apart."
    diff = truth(280, gain=0.03, worlds=25) - truth(280, worlds=25)
    held = found = apart = 0
    for i in range(200):
        g = np.random.default_rng([6, i])
        a, same = world(g, 280, gain=0.03, seed_sd=0.01)
        b, _ = world(g, 280, same=same, seed_sd=0.01)
        p = E.paired(a, b, weighted_f1, resamples=400, seed=i)
        ia, ib = (E.interval(x, weighted_f1, resamples=400, seed=i) for x in (a, b))
        held += p.low <= diff <= p.high
        found += p.low > 0
        apart += ia.low > ib.high
    assert 0.91 <= held / 200 <= 0.995, held / 200
    assert found > apart


def test_ten_thousand_resamples_of_meld_are_quick():
    g = np.random.default_rng(0)
    d = np.repeat(np.arange(280), g.integers(1, 18, 280))
    y = g.integers(0, 7, len(d))
    a, b = (confusion(y, g.integers(0, 7, (5, len(d))), 7, d) for _ in 'ab')
    begun = time.perf_counter()
    E.paired(a, b, 'weighted_f1', resamples=10_000)
    assert time.perf_counter() - begun < 2


def test_resampling_equals_a_loop():
    g = np.random.default_rng(1)
    c, w = g.integers(0, 9, (3, 6, 4, 4)), E.draws(6, 50, g)
    assert (w.sum(1) == 6).all() and np.array_equal(w, np.round(w))
    got = E.resampled(c, weighted_f1, w, chunk=7)
    for r in range(50):
        rows = np.repeat(np.arange(6), w[r].astype(int))
        for s in range(3):
            assert np.isclose(got[r, s], weighted_f1(c[s, rows].sum(0)), atol=1e-6)


def test_draws_are_uniform():
    w = E.draws(5, 20_000, np.random.default_rng(2))
    assert np.allclose(w.mean(0), 1, atol=0.03) and np.allclose(w.var(0), 0.8, atol=0.03)


def test_mean_is_the_mean_over_seeds_and_the_result_repeats():
    c, _ = world(np.random.default_rng(3), 40)
    i = E.interval(c, 'weighted_f1')
    assert np.isclose(i.mean, np.mean([weighted_f1(x.sum(0)) for x in c])) and (
        i.seeds,
        i.dialogues,
    ) == (5, 40)
    assert (
        i.low < i.mean < i.high
        and i == E.interval(c, 'weighted_f1')
        and i != E.interval(c, 'weighted_f1', seed=1)
    )
    j = E.interval(c[::-1], 'weighted_f1')  # the order of seeds is of no account but for the draw
    assert abs(j.low - i.low) < 0.005 and abs(j.high - i.high) < 0.005


def test_more_seeds_and_dialogues_narrow_it():
    width = lambda i: i.high - i.low
    c, _ = world(np.random.default_rng(4), 200, seeds=20, seed_sd=0.03)
    assert width(E.interval(c, accuracy)) < width(E.interval(c[:5], accuracy))
    assert width(E.interval(c, accuracy)) < width(E.interval(c[:, :30], accuracy))


def test_dialogue_part_equals_the_known_standard_error():
    "Accuracy with one turn per dialogue: the binomial standard error."
    right = np.random.default_rng(5).random(400) < 0.7
    c = np.stack([right, ~right, ~right * 0, right * 0], -1).reshape(1, 400, 2, 2).astype(int)
    i = E.interval(c, accuracy, resamples=20_000)
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
    i = E.interval(c, accuracy, resamples=20_000)
    half = stats.t.ppf(0.975, 4) * n.std(ddof=1) / 100 / math.sqrt(5)
    assert np.isclose(i.mean, n.mean() / 100) and np.isclose((i.high - i.low) / 2, half, rtol=0.06)


def test_identical_systems_differ_by_nothing():
    c, _ = world(np.random.default_rng(6), 31)
    p = E.paired(c, c, accuracy, paired_seeds=True)
    assert (p.mean, p.low, p.high) == (0, 0, 0) and str(p) == '+0.0 [0.0, 0.0]'
    q = E.paired(c, c, accuracy)  # seeds drawn apart: it says that another five could differ
    assert q.mean == 0 and q.low < 0 < q.high
    one = c[:1]
    assert (lambda r: (r.low, r.high, r.seeds))(E.paired(one, one, accuracy)) == (0, 0, 1)


def test_paired_seeds_keep_shared_luck_out():
    g = np.random.default_rng(7)
    luck = g.integers(-8, 9, (5, 1))
    n = 60 + luck + g.integers(-2, 3, (5, 30))
    make = lambda n: np.stack([n, 100 - n, 0 * n, 0 * n], -1).reshape(*n.shape, 2, 2)
    a, b = make(n + 2), make(n)
    tied, free = E.paired(a, b, accuracy, paired_seeds=True), E.paired(a, b, accuracy)
    assert (
        tied.high - tied.low < 0.001 < free.high - free.low
        and np.isclose(tied.mean, 0.02)
        and np.isclose(free.mean, 0.02)
    )


def test_against_a_deterministic_baseline():
    g = np.random.default_rng(8)
    a, same = world(g, 60)
    b, _ = world(g, 60, seeds=1, same=same)
    assert E.paired(a, b, accuracy).seeds == (5, 1)
    assert np.isclose(E.paired(b, a, accuracy).mean, -E.paired(a, b, accuracy).mean)


def test_other_additive_statistics():
    g = np.random.default_rng(9)
    y = g.normal(size=600)
    p = y + g.normal(size=(5, 600))
    d = np.repeat(np.arange(60), 10)
    i = E.interval(moments(y, p, d), pearson_of, resamples=2000)
    assert (
        np.isclose(i.mean, pearson_r(y, p).mean())
        and i.low < i.mean < i.high
        and i.high - i.low < 0.15
    )


def test_slices_that_are_rare():
    c = np.zeros((5, 20, 2, 2), int)
    c[:, 3] = [[2, 1], [0, 0]]
    c[:, 7] = [[1, 1], [0, 0]]
    i = E.interval(c, 'accuracy')
    assert (
        np.isclose(i.mean, 0.6) and 0 <= i.low <= 0.6 <= i.high <= 1
    )  # resamples that miss both dialogues are left out
    nothing = E.interval(c * 0, 'accuracy')
    assert math.isnan(nothing.mean) and str(nothing) == 'no score'
    perfect = np.zeros((2, 5, 2, 2), int)
    perfect[..., 0, 0] = 9
    perfect[0, 0] = [[8, 1], [0, 0]]
    assert E.interval(perfect, 'accuracy').high <= 1


@pytest.mark.parametrize(
    'call,says',
    [
        (lambda c: E.interval(c[0, 0], 'accuracy'), 'conf has shape'),
        (lambda c: E.interval(c[:0], 'accuracy'), 'conf has shape'),
        (lambda c: E.interval(c * np.nan, accuracy), 'conf has a value that is not finite'),
        (lambda c: E.interval(c, 'f1'), 'unknown metric'),
        (lambda c: E.paired(c, c[:, :5], accuracy), 'conf_b has shape'),
        (lambda c: E.paired(c, c[:2], accuracy, paired_seeds=True), 'conf_a has 5 seeds, conf_b 2'),
        (lambda c: E.paired(c, np.roll(c, 1, axis=1), accuracy), 'not the same test set'),
    ],
)
def test_bad_counts_are_named(call, says):
    c, _ = world(np.random.default_rng(0), 12)
    with pytest.raises(ValueError, match=says):
        call(c)


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
    v = E.verdict(
        E.Interval((low + high) / 2, low, high, 5, 31, signed=True), printed, basis='own features'
    )
    assert (v.call, v.size, v.seeds, v.basis) == (call, size, 5, 'own features')


def test_verdict_without_a_number():
    i = E.Interval(0.02, 0.01, 0.03, 5, 31, signed=True)
    assert (
        E.verdict(i, direction=1).call == 'confirmed'
        and E.verdict(i, direction=-1).call == 'contradicted'
        and E.verdict(i, direction=1).size == ''
    )
    assert E.verdict(E.interval(np.zeros((1, 2, 2, 2)), 'accuracy'), 1).call == 'no score'
    for bad in ({}, dict(printed=0), dict(direction=0)):
        with pytest.raises(ValueError, match='direction'):
            E.verdict(i, **bad)


def test_intervals_print_in_percent():
    assert str(E.Interval(0.731, 0.72, 0.742, 5, 280)) == '73.1 [72.0, 74.2]'
    assert str(E.Interval(-0.0004, -0.01, 0.01, 5, 31, signed=True)) == '+0.0 [-1.0, 1.0]'
    assert E.Interval(0.4123, 0.4, 0.42, 5, 31).text(3, 1) == '0.412 [0.400, 0.420]'


# ---- tests of pairs


def test_randomisation_finds_a_difference_that_is_there():
    found = 0
    for i in range(60):
        g = np.random.default_rng([8, i])
        a, same = world(g, 280, gain=0.04, seed_sd=0.01)
        b, _ = world(g, 280, same=same, seed_sd=0.01)
        p = E.randomised(a, b, weighted_f1, resamples=400, seed=i)
        found += p < 0.05
        assert np.isclose(p, E.randomised(b, a, weighted_f1, resamples=400, seed=i), atol=0.05), (
            'two-sided'
        )
    assert found >= 50, found


def test_randomisation_at_the_edges():
    a, _ = world(np.random.default_rng(1), 31)
    assert (
        E.randomised(a, a, 'accuracy') == 1.0
        and E.randomised(a[:2], a[:2], 'accuracy', seed=3) == 1.0
    )
    assert math.isnan(E.randomised(np.zeros((1, 3, 2, 2)), np.zeros((1, 3, 2, 2)), 'accuracy'))
    right, wrong = np.zeros((1, 12, 2, 2), int), np.zeros((1, 12, 2, 2), int)
    right[..., 0, 0] = wrong[..., 0, 1] = 5
    assert E.randomised(right, wrong, 'accuracy', resamples=4000) <= 0.01, (
        'twelve dialogues, all won: 2 of 4096 exchanges are as large'
    )
    with pytest.raises(ValueError, match='all but the seeds must agree'):
        E.randomised(a, a[:, :5], 'accuracy')


def test_randomisation_of_one_seed_equals_all_exchanges():
    "Eight dialogues can change sides in 256 ways; one deterministic system each."
    a, _ = world(np.random.default_rng(2), 8, seeds=1)
    b, _ = world(np.random.default_rng(3), 8, seeds=1)
    f = lambda c: E.METRICS['accuracy'](c.sum(1))[0]
    real, null = f(a) - f(b), []
    for m in range(256):
        side = np.array([(m >> k) & 1 for k in range(8)], bool)[None, :, None, None]
        null.append(f(np.where(side, a, b)) - f(np.where(side, b, a)))
    sd = np.std(null)
    wider = sd * stats.t.ppf(
        stats.norm.cdf(np.abs(null) / sd), 7
    )  # few dialogues: the tails of Student's t
    exact = np.mean(wider >= abs(real) - 1e-12)
    assert math.isclose(E.randomised(a, b, 'accuracy', resamples=20_000), exact, abs_tol=0.015)


@pytest.mark.parametrize('only_a,only_b', [(0, 0), (5, 5), (10, 2), (1, 9), (30, 11)])
def test_mcnemar_equals_the_binomial_test(only_a, only_b):
    a = np.r_[np.ones(only_a), np.zeros(only_b), np.ones(7), np.zeros(4)].astype(bool)
    b = np.r_[np.zeros(only_a), np.ones(only_b), np.ones(7), np.zeros(4)].astype(bool)
    want = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert (
        E.mcnemar(a, b)[:2] == (only_a, only_b)
        and math.isclose(E.mcnemar(a, b)[2], want)
        and math.isclose(E.mcnemar(b, a)[2], want)
    )


def test_mcnemar_wants_the_same_utterances():
    with pytest.raises(ValueError, match='same utterances'):
        E.mcnemar([True], [True, False])


def test_holm_of_a_known_table():
    "Holm's own steps: 4 x .01, 3 x .015, then nothing smaller than what stands before, nothing above one."
    assert np.allclose(E.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    got = E.holm([0.2, np.nan, 0.04, 0.9])
    assert (
        math.isnan(got[1]) and np.allclose(got[[0, 2, 3]], [0.4, 0.12, 0.9]) and not len(E.holm([]))
    )
    p = np.random.default_rng(0).uniform(size=40)
    assert (
        (E.holm(p) >= p).all()
        and (E.holm(p) <= np.minimum(1, 40 * p) + 1e-12).all()
        and (np.diff(E.holm(p)[np.argsort(p)]) >= 0).all()
    )
    errors = (
        sum(
            (E.holm(np.random.default_rng([4, i]).uniform(size=10)) < 0.05).any()
            for i in range(2000)
        )
        / 2000
    )
    assert errors < 0.06, 'ten true nulls: a table with any false positive is rare'


@pytest.mark.parametrize(
    'p,call',
    [(None, 'confirmed'), (0.049, 'confirmed'), (0.05, 'not confirmed'), (0.7, 'not confirmed')],
)
def test_a_verdict_heeds_the_corrected_p(p, call):
    assert E.verdict(E.Interval(0.02, 0.01, 0.03, 5, 31, signed=True), 2, p=p).call == call
    against = E.verdict(E.Interval(-0.02, -0.03, -0.01, 5, 31, signed=True), 2, p=p).call
    assert against == ('contradicted' if call == 'confirmed' else 'not confirmed')


def test_intervals_that_share_their_draws_are_those_of_a_fresh_generator():
    a, _ = world(np.random.default_rng(1), 31)
    rng = np.random.default_rng(7)
    m = E.resampled(a, weighted_f1, E.draws(31, 500, rng))
    want = E._two_level([(m, weighted_f1(a.sum(1)))], 31, rng)
    for _ in range(2):
        got = E.interval(a, weighted_f1, resamples=500, seed=7)
        assert (got.mean, got.low, got.high) == want
