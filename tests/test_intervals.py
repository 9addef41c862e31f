"Intervals: arithmetic against plain loops, coverage in simulated worlds of IEMOCAP's and MELD's size, speed."

import math
import time

import numpy as np
import pytest
from scipy import stats
from worlds import dialogues_of, folds_of, true_score, truth, world

from erc.evidence import intervals as I
from erc.evidence import standard_errors as errors
from erc.evidence.metrics import (
    accuracy,
    confusion,
    metric,
    moments,
    pearson_of,
    pearson_r,
    weighted_f1,
)
from erc.evidence.verdicts import _randomised


@pytest.mark.parametrize('seed_sd', [0.01, 0.02])
@pytest.mark.parametrize('dialogues', [31, 280])
def test_coverage_and_false_positives(dialogues, seed_sd):
    """In 500 worlds of five seeds the interval contains the truth in at least 93 %.

    Of two equally good systems, about 5 % come out different: by the interval, by
    randomisation, by both."""
    want, sims = truth(dialogues, seed_sd, worlds=25), 500
    covered, covered_alone, excluded, small_p = np.zeros((4, sims), bool)
    for i in range(sims):
        g = np.random.default_rng([5, i])
        a, same = world(g, dialogues, seed_sd=seed_sd)
        b, _ = world(g, dialogues, seed_sd=seed_sd, same=same)
        options = dict(metric=weighted_f1, resamples=300, seed=i)
        both, alone = I.interval(a, **options), I.interval(a.sum(0, keepdims=True), **options)
        difference = I.paired(a, b, **options)
        covered[i] = both.low <= want <= both.high
        covered_alone[i] = alone.low <= want <= alone.high
        excluded[i] = not difference.low <= 0 <= difference.high
        small_p[i] = _randomised(a, b, **options) < 0.05
    assert 0.93 <= covered.mean() <= 0.985
    assert max(excluded.mean(), small_p.mean(), (excluded & small_p).mean()) < 0.07
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
    c, w = g.integers(0, 9, (3, 6, 4, 4)), errors._draws(6, 50, g)
    assert (w.sum(1) == 6).all() and np.array_equal(w, np.round(w))
    got = errors._resampled(c, weighted_f1, w, chunk=7)
    for r in range(50):
        rows = np.repeat(np.arange(6), w[r].astype(int))
        for s in range(3):
            assert np.isclose(got[r, s], weighted_f1(c[s, rows].sum(0)), atol=1e-6)


@pytest.mark.parametrize('name', ['weighted_f1', 'class_f1:b', 'micro_f1:-a', 'accuracy'])
@pytest.mark.parametrize('classes', [3, 4])
def test_margins_decide_what_whole_counts_decide(name, classes):
    "Three classes too, of which the margins have the shape of counts."
    g = np.random.default_rng(4)
    score = metric(name, 'abcd'[:classes])
    a, b = (g.integers(0, 9, (3, 20, classes, classes)) for _ in 'ab')
    b = np.take_along_axis(a, g.random(a.shape).argsort(-1), -1)  # the same truth
    for whole, quick in (
        (I.interval(a, lambda c: score(c)), I.interval(a, score)),
        (I.paired([a, b], [b, a], lambda c: score(c)), I.paired([a, b], [b, a], score)),
    ):
        for key in ('mean', 'low', 'high'):
            assert abs(getattr(whole, key) - getattr(quick, key)) < 1e-12


def test_an_interval_of_500_classes_takes_no_table_of_them():
    g = np.random.default_rng(5)
    y, dialogue = g.integers(0, 500, 2000), np.repeat(np.arange(200), 10)
    c = confusion(y, np.where(g.random((1, 2000)) < 0.5, y, 0), 500, dialogue, np.int16)
    begun = time.process_time()
    I.interval(c, 'macro_f1')
    assert time.process_time() - begun < 5


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    whole, state = np.random.default_rng(6), np.random.default_rng(6)
    want = errors._draws(31, 500, whole)
    monkeypatch.setattr(errors, '_CELLS', 100)
    assert (errors._draws(31, 500, state) == want).all()
    assert whole.bit_generator.state == state.bit_generator.state


def test_draws_are_uniform():
    w = errors._draws(5, 20_000, np.random.default_rng(2))
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
    i = I.interval(moments(y, p, d), pearson_of, resamples=2000)
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
    fresh = np.random.default_rng(7)
    want = errors._draws(31, 500, fresh)
    for _ in range(2):
        got, rng = errors._cached_draws(31, 500, 7)
        assert (got == want).all() and rng.bit_generator.state == fresh.bit_generator.state


# ---- folds


def split(counts, folds):
    "Deal the dialogues of counts (S, D, ...) to folds in turn."
    return [counts[:, f::folds] for f in range(folds)]


def test_one_fold_is_a_plain_split_and_folds_of_one_run_are_pooled():
    c, _ = world(np.random.default_rng(10), 60)
    assert I.interval([c], weighted_f1) == I.interval(c, weighted_f1)
    folds = I.interval(split(c, 4), weighted_f1)
    assert np.isclose(folds.mean, I.interval(c, weighted_f1).mean)
    assert (folds.seeds, folds.dialogues, folds.folds) == (5, 60, 4)


def test_seeds_of_folds_take_turns():
    "Two seeds and three: six pooled runs, in which each seed occurs equally often."
    c, _ = world(np.random.default_rng(11), 40)
    one, two = c[:2, :20], c[:3, 20:]
    runs = [one[i].sum(0) + two[j].sum(0) for i in range(2) for j in range(3)]
    found = I.interval([one, two], weighted_f1)
    assert np.isclose(found.mean, weighted_f1(np.array(runs)).mean()) and found.seeds == 2


def test_variance_of_nested_seeds_is_that_of_an_analysis_of_variance():
    """Accuracy with equally long dialogues is a mean: the parts have closed forms.

    Per fold, mean squares of seeds and of seeds by dialogues; of the mean over all dialogues a
    fold moves only its share."""
    g = np.random.default_rng(12)
    x = [g.normal(0.6, 0.1, (S, D)) + g.normal(0, 0.05, (S, 1)) for S, D in ((2, 12), (3, 20))]
    folds = [np.stack([k, 1 - k, 0 * k, 0 * k], -1).reshape(*k.shape, 2, 2) for k in x]
    want, interaction, runs = 0, 0, 0
    for k in x:
        S, D = k.shape
        share = D / 32
        residual = k - k.mean(0) - k.mean(1, keepdims=True) + k.mean()
        crossed = (residual**2).sum() / ((S - 1) * (D - 1)) / D
        interaction += share**2 * crossed / S
        runs += share**2 * (k.mean(1).var(ddof=1) - crossed / S)
        want += share**2 * k.mean(1).var(ddof=1) / S
    groups = errors._seeds_by_fold(folds, accuracy)
    assert np.isclose(sum(s.variance for s in groups), want)
    assert np.isclose(sum(s.interaction for s in groups), interaction, rtol=0.02)
    error = I.interval(folds, accuracy).error
    assert np.isclose(error.seeds**2, max(0, want - interaction), rtol=0.05)
    means = np.concatenate([k.mean(0) for k in x])
    assert np.isclose(error.dialogues**2, means.var(ddof=1) / 32, rtol=0.05)
    assert np.isclose(error.one_run**2, error.dialogues**2 + runs, rtol=0.02)
    assert np.isclose(error.total**2, error.dialogues**2 + error.seeds**2)


def test_one_run_is_as_uncertain_as_a_single_seed_turns_out():
    "The spread of single runs on fresh dialogues, known from many seeds of each of many worlds."
    single, parts = [], []
    for i in range(300):
        g = np.random.default_rng([14, i])
        same = dialogues_of(g, 60)
        a, b = (folds_of(g, same, [3])[0] for _ in 'ab')
        single.append(weighted_f1(a[0].sum(0)) - weighted_f1(b[0].sum(0)))
        parts.append(I.paired(a, b, weighted_f1, resamples=200).error.one_run ** 2)
    assert np.isclose(np.mean(parts) ** 0.5, np.std(single), rtol=0.1)


def test_degrees_of_freedom_stay_between_those_of_the_parts():
    assert errors._degrees_of_freedom([]) == math.inf
    assert np.isclose(errors._degrees_of_freedom([(3.0, 4)]), 4)
    assert np.isclose(errors._degrees_of_freedom([(2.0, 4), (0.0, 1)]), 4)
    g = np.random.default_rng(15)
    drawn = g.chisquare(1, (4000, 10))
    df = [errors._degrees_of_freedom([(v, 1) for v in row]) for row in drawn]
    assert min(df) >= 1 and max(df) <= 10 and 7 < np.median(df) < 11  # ten folds of two seeds


@pytest.mark.parametrize(
    'dialogues,seeds,turns',
    [
        (31, (5,), (30, 80)),
        (93, (2,) * 3, (10, 40)),
        (151, (2,) * 4 + (5,), (30, 80)),
        (280, (2,) * 5, (5, 15)),
    ],
)
def test_coverage_of_cross_validation(dialogues, seeds, turns):
    """In 600 worlds at least 93 % of the intervals contain the truth, of scores and of differences.

    Counts are overdispersed: dialogues differ in difficulty and classes, systems in dialogues."""
    want, worlds = true_score(turns), 600
    covered = np.zeros((worlds, 2))
    for i in range(worlds):
        g = np.random.default_rng([16, i])
        same = dialogues_of(g, dialogues, turns)
        a, b = (folds_of(g, same, seeds) for _ in 'ab')
        score = I.interval(a, weighted_f1, resamples=250, seed=i)
        difference = I.paired(a, b, weighted_f1, resamples=250, seed=i)
        covered[i] = score.low <= want <= score.high, difference.low <= 0 <= difference.high
    assert (covered.mean(0) >= 0.93).all() and (covered.mean(0) <= 0.985).all(), covered.mean(0)


def test_lucky_training_sets_are_seen_by_folds_alone():
    """Each fold of a system has luck that its seeds share: two points.

    The pooled interval knows seeds and dialogues and covers too rarely; that over folds does."""
    covered = np.zeros((250, 2))
    for i in range(250):
        g = np.random.default_rng([21, i])
        d, y, base, noise = dialogues_of(g, 100, (20, 40))
        lucky = [(d, y, base + g.normal(0, 0.02, 5)[d % 5], noise) for _ in 'ab']
        a, b = (folds_of(g, same, (2,) * 5, seed_sd=0.01) for same in lucky)
        pooled = I.paired(a, b, weighted_f1, resamples=200, seed=i)
        by_fold, _ = I._interval_by_fold(a, b, weighted_f1)
        covered[i] = pooled.low <= 0 <= pooled.high, by_fold.low <= 0 <= by_fold.high
    assert covered[:, 0].mean() < 0.85 and covered[:, 1].mean() >= 0.92, covered.mean(0)


def test_folds_of_a_pair_must_agree():
    c, _ = world(np.random.default_rng(17), 12)
    with pytest.raises(ValueError, match='all but the seeds must agree'):
        I.paired(split(c, 2), c, accuracy)
    with pytest.raises(ValueError, match='not the same test set'):
        I.paired(split(c, 2), split(c, 2)[::-1], accuracy)
    with pytest.raises(ValueError, match='no fold'):
        I.interval([], accuracy)


def test_a_contrast_of_independent_test_sets_adds_variances():
    g = np.random.default_rng(18)
    pairs = []
    for dialogues in (40, 90):
        a, same = world(g, dialogues, gain=0.03)
        pairs.append((a, world(g, dialogues, same=same)[0]))
    (a, b), (c, d) = pairs
    terms = [(1, a, accuracy), (-1, b, accuracy), (-1, c, weighted_f1), (1, d, weighted_f1)]
    found = I.contrast(terms, tests=['x', 'x', 'y', 'y'])
    here, there = I.paired(a, b, accuracy), I.paired(c, d, weighted_f1)
    assert np.isclose(found.mean, here.mean - there.mean) and found.dialogues == 130
    both = math.hypot(here.error.dialogues, there.error.dialogues)
    assert np.isclose(found.error.dialogues, both, rtol=0.05)


def test_a_contrast_on_one_test_set():
    "Two terms are a paired difference; a shared system cancels where it is named once."
    g = np.random.default_rng(19)
    a, same = world(g, 60, gain=0.03)
    b, c = (world(g, 60, same=same)[0] for _ in 'bc')
    assert I.contrast([(1, a, accuracy), (-1, b, accuracy)]) == I.paired(a, b, accuracy)
    three = I.contrast([(1, a, accuracy), (-2, b, accuracy), (1, c, accuracy)])
    assert np.isclose(
        three.mean, I.paired(a, b, accuracy).mean - I.paired(b, c, accuracy).mean, atol=1e-9
    )
    with pytest.raises(ValueError, match='add up to 0'):
        I.contrast([(1, a, accuracy)])
    with pytest.raises(ValueError, match='tests has 1 names'):
        I.contrast([(1, a, accuracy), (-1, b, accuracy)], tests=['x'])
    with pytest.raises(ValueError, match='all but the seeds must agree'):
        I.contrast([(1, a, accuracy), (-1, b[:, :9], accuracy)])


def test_interval_by_fold_is_students_of_the_effects():
    c, _ = world(np.random.default_rng(20), 50, seeds=2)
    found, effects = I._interval_by_fold(split(c, 5), metric='accuracy')
    want = stats.t.interval(0.95, 4, effects.mean(), stats.sem(effects))
    assert np.allclose((found.low, found.high), want) and len(effects) == found.folds == 5
    same, _ = I._interval_by_fold(split(c, 5), split(c, 5), accuracy)
    assert (same.low, same.high, same.signed) == (0, 0, True)
    with pytest.raises(ValueError, match='two folds'):
        I._interval_by_fold(c)
