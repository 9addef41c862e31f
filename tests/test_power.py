"Power against plain simulation and closed forms."

import math

import numpy as np
import pytest
from scipy import stats

from erc.evidence import power as P
from erc.evidence.standard_errors import StandardError


def error_of(total, df=40):
    return StandardError(total, 0.0, df, 2 * total)


@pytest.mark.parametrize('df', [2.5, 8, 60, math.inf])
@pytest.mark.parametrize('family', [1, 7])
def test_power_is_that_of_a_t_test(df, family):
    g = np.random.default_rng(1)
    error, effect, draws = error_of(0.01, df), 0.03, 200_000
    spread = np.sqrt(g.chisquare(df, draws) / df) if math.isfinite(df) else 1.0
    t = (effect / 0.01 + g.normal(size=draws)) / spread
    critical = stats.t.ppf(1 - 0.025 / family, min(df, 1e6))
    assert math.isclose(P._power(error, effect, family), (t > critical).mean(), abs_tol=0.005)


@pytest.mark.parametrize('df', [1, 4.2, 150, math.inf])
@pytest.mark.parametrize('wanted', [0.5, 0.8])
def test_minimal_detectable_effect_inverts_power(df, wanted):
    for family in (1, 22):
        error = error_of(0.013, df)
        effect = P._minimal_detectable_effect(error, family, wanted)
        assert math.isclose(P._power(error, effect, family), wanted, abs_tol=1e-4)


def test_nothing_varies():
    flat = error_of(0.0)
    assert math.isnan(P._power(flat, 0.1)) and math.isnan(P._minimal_detectable_effect(flat))
    both = P._power_in_family([flat, error_of(0.01)], [0.1, 0.1])
    assert math.isnan(both[0]) and both[1] > 0.99
    assert P._power_in_family([], []).shape == (0,)


def test_family_lies_between_its_bounds():
    "Holm relents: at least Bonferroni's power, at most that of a claim alone."
    errors = [error_of(x) for x in (0.01, 0.012, 0.02, 0.03)]
    effects = np.array([0.03, 0.035, 0.04, math.nan])
    got = P._power_in_family(errors, effects, draws=20_000)
    for power, error, effect in zip(got[:3], errors, effects):
        assert P._power(error, effect, 4) - 0.01 < power < P._power(error, effect) + 0.01
    assert got[3] < 0.025  # no effect


def test_a_shared_baseline_changes_little():
    "Estimates that share one of two systems correlate by a half."
    errors, effects = [error_of(0.01)] * 8, np.linspace(0.0, 0.045, 8)
    shared = P._power_in_family(errors, effects, 0.5 + 0.5 * np.eye(8), draws=20_000)
    assert np.abs(shared - P._power_in_family(errors, effects, draws=20_000)).max() < 0.035


def test_one_run():
    assert math.isclose(P._one_run_effect(error_of(0.01)), 1.959964 * 0.02, rel_tol=1e-6)


def test_holm_of_many_families_at_once():
    p = np.random.default_rng(0).uniform(size=(50, 6))
    p[::3, 2] = np.nan
    assert np.allclose(P._holm(p), [P._holm(row) for row in p], equal_nan=True)
