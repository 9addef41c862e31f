"Tests of pairs against exact distributions; verdicts by the table of the rule."

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from worlds import dialogues_of, folds_of, true_score, world

from erc.evidence import verdicts as V
from erc.evidence.intervals import Interval, interval, paired
from erc.evidence.metrics import accuracy, weighted_f1
from erc.evidence.power import _minimal_detectable_effect, _power
from erc.evidence.standard_errors import StandardError


def test_randomisation_finds_a_difference_that_is_there():
    found = 0
    for i in range(60):
        g = np.random.default_rng([8, i])
        a, same = world(g, 280, gain=0.04, seed_sd=0.01)
        b, _ = world(g, 280, same=same, seed_sd=0.01)
        p = V._randomised(a, b, weighted_f1, resamples=400, seed=i)
        found += p < 0.05
        assert np.isclose(p, V._randomised(b, a, weighted_f1, resamples=400, seed=i), atol=0.05), (
            'two-sided'
        )
    assert found >= 50, found


def test_randomisation_at_the_edges():
    a, _ = world(np.random.default_rng(1), 31)
    assert (
        V._randomised(a, a, 'accuracy') == 1.0
        and V._randomised(a[:2], a[:2], 'accuracy', seed=3) == 1.0
    )
    assert math.isnan(V._randomised(np.zeros((1, 3, 2, 2)), np.zeros((1, 3, 2, 2)), 'accuracy'))
    right, wrong = np.zeros((1, 12, 2, 2), int), np.zeros((1, 12, 2, 2), int)
    right[..., 0, 0] = wrong[..., 0, 1] = 5
    assert V._randomised(right, wrong, 'accuracy', resamples=4000) <= 0.01, (
        'twelve dialogues, all won: 2 of 4096 exchanges are as large'
    )
    with pytest.raises(ValueError, match='all but the seeds must agree'):
        V._randomised(a, a[:, :5], 'accuracy')


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
    assert math.isclose(V._randomised(a, b, 'accuracy', resamples=20_000), exact, abs_tol=0.015)


@pytest.mark.parametrize('only_a,only_b', [(0, 0), (5, 5), (10, 2), (1, 9), (30, 11)])
def test_mcnemar_equals_the_binomial_test(only_a, only_b):
    a = np.r_[np.ones(only_a), np.zeros(only_b), np.ones(7), np.zeros(4)].astype(bool)
    b = np.r_[np.zeros(only_a), np.ones(only_b), np.ones(7), np.zeros(4)].astype(bool)
    want = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert (
        V._mcnemar(a, b)[:2] == (only_a, only_b)
        and math.isclose(V._mcnemar(a, b)[2], want)
        and math.isclose(V._mcnemar(b, a)[2], want)
    )


def test_mcnemar_needs_the_same_utterances():
    with pytest.raises(ValueError, match='not the same utterances'):
        V._mcnemar([True], [True, False])


def test_holm_of_a_known_table():
    "Factors of Holm's steps; corrected values never decrease and stay at most one."
    assert np.allclose(V._holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    got = V._holm([0.2, np.nan, 0.04, 0.9])
    assert (
        math.isnan(got[1])
        and np.allclose(got[[0, 2, 3]], [0.4, 0.12, 0.9])
        and not len(V._holm([]))
    )
    p = np.random.default_rng(0).uniform(size=40)
    assert (
        (V._holm(p) >= p).all()
        and (V._holm(p) <= np.minimum(1, 40 * p) + 1e-12).all()
        and (np.diff(V._holm(p)[np.argsort(p)]) >= 0).all()
    )
    errors = (
        sum(
            (V._holm(np.random.default_rng([4, i]).uniform(size=10)) < 0.05).any()
            for i in range(2000)
        )
        / 2000
    )
    assert errors < 0.06, 'ten true nulls: a table with any false positive is rare'


# ---- folds


def test_randomisation_of_folds_is_that_of_their_dialogues():
    "One deterministic system each: folds change nothing but the order of dialogues."
    a, _ = world(np.random.default_rng(2), 12, seeds=1)
    b, _ = world(np.random.default_rng(3), 12, seeds=1)
    folds = [[x[:, f::3] for f in range(3)] for x in (a, b)]
    whole = V._randomised(a, b, 'accuracy', resamples=8000)
    assert math.isclose(V._randomised(*folds, 'accuracy', resamples=8000), whole, abs_tol=0.02)
    with pytest.raises(ValueError, match='all but the seeds must agree'):
        V._randomised(folds[0], b, 'accuracy')


# ---- the rule


def finding(mean, half, df=60, **options):
    "Return a finding in points whose interval reaches `half` to both sides."
    error = StandardError(half / 100 / stats.t.ppf(0.975, df), 0.0, df, half / 50)
    ends = (mean / 100, (mean - half) / 100, (mean + half) / 100)
    return V.Finding(Interval(*ends, 5, 31, True, error=error), **options)


@pytest.mark.parametrize(
    'mean,half,options,call,note',
    [
        (3.0, 1.0, {}, 'confirmed', ''),
        (3.0, 1.0, {'printed': 2.0}, 'confirmed', ''),
        (3.0, 1.0, {'printed': 7.9}, 'confirmed', ''),  # 4.0 is not below 3.95
        (3.0, 1.0, {'printed': 8.1}, 'confirmed', 'smaller than printed'),
        (3.0, 1.0, {'printed': 8.1, 'basis': 'stand-in'}, 'confirmed', 'smaller than printed'),
        (3.0, 1.0, {'printed': 2.0, 'p': 0.06}, 'open', ''),  # the interval alone does not do
        (1.0, 1.1, {'printed': 2.0, 'p': 0.01}, 'open', ''),  # nor does p
        (-3.0, 1.0, {'printed': 2.0}, 'reversed', ''),
        (-3.0, 1.0, {'printed': 2.0, 'p': 0.06}, 'refuted as printed', ''),
        (0.0, 1.0, {'printed': 2.0}, 'refuted as printed', ''),
        (
            0.0,
            1.0,
            {'printed': 2.0, 'basis': 'own features'},
            'refuted as printed',
            'on this basis',
        ),
        (0.2, 1.0, {'printed': 2.0}, 'open', ''),
        (0.0, 0.1, {'printed': 0.49}, 'open', ''),  # under half a point
        (0.0, 0.1, {'printed': 0.5}, 'refuted as printed', ''),
        (0.0, 0.1, {}, 'open', ''),  # no size to refute
        (0.0, 0.1, {'printed': -2.0}, 'open', ''),
        (3.0, 1.0, {'reasons': ('dev is blind', 'a seed collapsed')}, 'not decidable', None),
        (3.0, 1.0, {'printed': 300.0, 'scale': 10_000}, 'confirmed', ''),
        (0.0, 1.0, {'printed': 0.02, 'scale': 1}, 'refuted as printed', ''),  # a correlation
        (0.0, 0.1, {'printed': 0.004, 'scale': 1}, 'open', ''),
    ],
)
def test_first_line_that_holds(mean, half, options, call, note):
    (got,) = V.judge([finding(mean, half, **options)])
    expected = '; '.join(options['reasons']) if note is None else note
    assert (got.call, got.note) == (call, expected) and call in V.Judgement.CALLS


def test_nothing_scored_and_nothing_that_varies():
    nothing = V.Finding(interval(np.zeros((1, 2, 2, 2)), 'accuracy'), printed=2)
    assert V.judge([nothing])[0].note == 'nothing was scored'
    flat = finding(0.0, 0.0, printed=4)
    assert V.judge([flat])[0].call == 'open' and math.isnan(V.judge([flat])[0].power)
    assert V.judge([]) == []


def test_families_are_corrected_apart_and_count_what_is_decidable():
    two = [finding(3, 2.8, family='a'), finding(0, 2, family='a')]
    assert V.judge(two)[0].call == 'open' and V.judge(two[:1])[0].call == 'confirmed'
    apart = [two[0], finding(0, 2, family='b')]
    assert [j.call for j in V.judge(apart)] == ['confirmed', 'open']
    gone = [two[0], finding(0, 2, family='a', reasons=('dev is blind',))]
    assert [j.call for j in V.judge(gone)] == ['confirmed', 'not decidable']
    assert math.isnan(V.judge(gone)[1].p)
    p = [V._p_of_zero(f) for f in two]
    assert np.allclose([j.p for j in V.judge(two)], V._holm(p))
    mixed = [finding(0, 1, printed=2, family='a'), finding(0, 1, family='a')]
    halves = [j.p_half for j in V.judge(mixed)]
    assert halves[0] == V._p_of_half(mixed[0]) and math.isnan(halves[1])  # one test of a half


def test_power_at_the_printed_effect_stands_beside():
    error = finding(0, 2, printed=5).effect.error
    assert math.isclose(
        V.judge([finding(0, 2, printed=5)])[0].power, _power(error, 0.05), abs_tol=0.03
    )
    family = V.judge([finding(0, 2, printed=5), finding(0, 2), finding(0, 2, reasons=('x',))])
    assert math.isclose(family[0].power, _power(error, 0.05, family=2), abs_tol=0.03)
    assert math.isnan(family[1].power) and math.isnan(family[2].power)


# ---- the rule in simulated corpora: 93 dialogues in three folds of two seeds, one baseline

TURNS, FOLDS = (10, 40), (2, 2, 2)


def compare_with_baseline(i, gains, dialogues=93):
    "Return findings of several systems against one baseline in world i."
    g = np.random.default_rng([30, i])
    same = dialogues_of(g, dialogues, TURNS)
    baseline = folds_of(g, same, FOLDS, seed_sd=0.01)
    findings = []
    for gain in gains:
        system = folds_of(g, same, FOLDS, seed_sd=0.01, gain=gain)
        options = dict(metric=weighted_f1, resamples=300, seed=i)
        p = V._randomised(system, baseline, **options)
        findings.append(V.Finding(paired(system, baseline, **options), p=p))
    return findings


def true_effect(gain):
    "Return the true difference of a system with that gain from the baseline."
    return true_score(TURNS, seed_sd=0.01, gain=gain) - true_score(TURNS, seed_sd=0.01)


def test_false_confirmations_in_a_family():
    "Four systems as good as their baseline: a family with a side taken is rare."
    wrong = [[j.call for j in V.judge(compare_with_baseline(i, [0.0] * 4))] for i in range(250)]
    assert np.mean(['confirmed' in calls for calls in wrong]) <= 0.05
    assert np.mean([bool({'confirmed', 'reversed'} & set(calls)) for calls in wrong]) <= 0.06


def test_power_is_what_it_says_and_half_an_effect_is_rarely_refuted():
    """An effect of the size that should be found in 80 % is found in 75 to 85 %.

    So says the power that each world computes for itself. Where a paper prints twice the truth, at
    most about 5 % of the worlds refute it; where the truth is nothing, nearly all do."""
    pilot = [compare_with_baseline(i, [0.0])[0].effect.error for i in range(1000, 1050)]
    wanted = np.mean([_minimal_detectable_effect(error) for error in pilot])
    gain = wanted * 0.03 / true_effect(0.03)
    effect = true_effect(gain)
    assert np.isclose(effect, wanted, rtol=0.03)
    found = [compare_with_baseline(i, [gain])[0] for i in range(600)]
    printed = [replace(f, printed=200 * effect) for f in found]
    calls = [[V.judge([f])[0].call for f in group] for group in (found, printed)]
    assert 0.75 <= calls[0].count('confirmed') / 600 <= 0.85
    assert abs(np.mean([_power(f.effect.error, effect) for f in found]) - 0.8) < 0.05
    half = [V._p_of_half(f) < 0.05 for f in printed]
    assert np.mean(half) <= 0.065 and calls[1].count('refuted as printed') <= 0.05 * 600
