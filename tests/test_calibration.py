"Calibration errors and temperatures, against ones that are known."

import numpy as np
import pytest
from scipy.special import softmax

from erc.evidence.calibration import _fit_temperature, _with_temperature
from erc.evidence.metrics import ece


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    p = softmax(rng.normal(size=(3000, 3)) * 2, 1)
    return p, (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)


def test_error_of_one_bin_by_hand():
    p = np.array([[0.8, 0.2], [0.8, 0.2], [0.3, 0.7], [0.3, 0.7]])
    # 0.8: both right, a gap of 0.2; 0.7: one of two right, a gap of 0.2
    assert ece([0, 0, 1, 0], p) == pytest.approx(0.2)
    assert ece([0, 0, -1, -1], p) == pytest.approx(0.2), 'turns without label'
    assert np.isnan(ece([-1] * 4, p))
    assert ece([0], [[1.0, 0.0]]) == 0, 'a probability of one'


@pytest.mark.parametrize('factor', [0.5, 1.0, 4.0])
def test_temperature_is_found_again(drawn, factor):
    p, labels = drawn
    assert _fit_temperature(_with_temperature(p, 1 / factor), labels) == pytest.approx(
        factor, rel=0.1
    )


def test_temperature_changes_no_decision_and_lowers_the_error(drawn):
    p, labels = drawn
    sharp = _with_temperature(p, 0.25)
    soft = _with_temperature(sharp, _fit_temperature(sharp, labels))
    assert (soft.argmax(1) == sharp.argmax(1)).all() and np.allclose(soft.sum(1), 1)
    assert ece(labels, soft) < ece(labels, sharp) / 3


def test_nothing_to_fit():
    assert _fit_temperature([[0.5, 0.5]], [-1]) == 1
    assert np.isfinite(_fit_temperature([[1.0, 0.0], [1.0, 0.0]], [0, 1])), (
        'a zero for what happened'
    )
