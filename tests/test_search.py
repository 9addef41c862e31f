"A grid is every combination of its lists; dev alone decides which point wins."

import numpy as np
import pytest

from erc.training.fit import Fit
from erc.training.search import dev_score, distinct, grid, search, varied
from erc.training.settings import complete


def test_a_grid_is_every_combination():
    points = grid({'lr': [1, 2], 'epochs': [3, 4], 'clip': 0.5, 'class_weights': [1.0, 2.0]})
    assert [(p['lr'], p['epochs']) for p in points] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert all(p['clip'] == 0.5 and p['class_weights'] == [1.0, 2.0] for p in points)
    assert grid({'lr': 1}) == [{'lr': 1}]


def test_what_varies_in_a_grid():
    hyperparameters = {'lr': [1, 2], 'clip': 0.5, 'betas': [0.9, 0.99]}
    assert [varied(hyperparameters, p) for p in grid(hyperparameters)] == [{'lr': 1}, {'lr': 2}]


@pytest.mark.parametrize(
    'more, epochs', [({}, [30]), ({'decay': True}, [10, 30]), ({'warmup': 0.1}, [10, 30])]
)
def test_a_shorter_run_at_a_constant_rate_is_not_distinct(more, epochs):
    points = distinct(grid(complete({'lr': [1e-3, 1e-2], 'epochs': [10, 30], **more})))
    assert sorted(p['epochs'] for p in points) == sorted(epochs * 2)


def fit_with(dev):
    dev = np.array(dev, float)
    return Fit([*range(len(dev))], np.zeros(len(dev)), dev, dev, [])


def test_a_seed_without_a_finite_score_counts_as_the_worst():
    assert dev_score(fit_with([[0.2, 0.6], [0.4, np.nan]])) == pytest.approx(0.5)
    assert dev_score(fit_with([[0.2, 0.6], [np.nan, np.nan]])) == pytest.approx(-0.2)


def test_the_best_point_wins_and_the_first_among_equals():
    scores = {1: 0.3, 2: 0.7, 3: 0.7}
    hyperparameters = complete({'batch': [1, 2, 3], 'epochs': [5, 9]})
    trained = []

    def train(point):
        trained.append((point['batch'], point['epochs']))
        return fit_with([[scores[point['batch']]]])

    best = search(hyperparameters, train)
    assert trained == [(1, 9), (2, 9), (3, 9)]
    assert best.point['batch'] == 2 and dev_score(best.result) == 0.7
    assert [t['dev'] for t in best.tried] == [0.3, 0.7, 0.7]
    assert best.tried[0] == {'dev': 0.3, 'batch': 1, 'epochs': 9}


def test_any_result_can_be_scored():
    best = search(complete({'batch': [1, 3, 2]}), lambda p: p['batch'], score=lambda n: -abs(n - 3))
    assert best.result == 3
