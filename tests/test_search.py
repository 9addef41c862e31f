"A grid is every combination of its lists; dev alone decides which point wins."

import pytest

from erc.training.search import _varied, grid, search
from erc.training.settings import complete


def test_a_grid_is_every_combination():
    points = grid({'lr': [1, 2], 'epochs': [3, 4], 'clip': 0.5, 'class_weights': [1.0, 2.0]})
    assert [(p['lr'], p['epochs']) for p in points] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert all(p['clip'] == 0.5 and p['class_weights'] == [1.0, 2.0] for p in points)
    assert grid({'lr': 1}) == [{'lr': 1}]


def test_what_varies_in_a_grid():
    hyperparameters = {'lr': [1, 2], 'clip': 0.5, 'betas': [0.9, 0.99]}
    assert [_varied(hyperparameters, p) for p in grid(hyperparameters)] == [{'lr': 1}, {'lr': 2}]


def test_the_best_point_wins_and_the_first_among_equals():
    scores, trained = {1: 0.3, 2: 0.7, 3: 0.7}, []

    def dev_of(point):
        trained.append((point['batch'], point['epochs']))
        return scores[point['batch']]

    best = search(complete({'batch': [1, 2, 3], 'epochs': 9}), dev_of, epochs=4)
    assert trained == [(1, 4), (2, 4), (3, 4)], 'short runs'
    assert (best.point['batch'], best.point['epochs']) == (2, 9), 'the point keeps its own length'
    assert best.tried == [{'dev': scores[b], 'batch': b} for b in (1, 2, 3)]


def test_one_point_is_not_run():
    best = search(complete({'lr': 0.1}), lambda point: pytest.fail('trained'))
    assert best.point['lr'] == 0.1 and best.tried == []


@pytest.mark.parametrize(
    'scores, tried, winner',
    [
        ({1e-4: 0.1, 1e-3: 0.2, 3e-3: 0.5, 1e-2: 0.6}, [1e-4, 1e-3, 3e-3, 1e-2], 1e-2),
        ({1e-4: 0.1, 1e-3: 0.2, 3e-3: 0.5, 1e-2: 0.4}, [1e-4, 1e-3, 3e-3, 1e-2], 3e-3),
        ({1e-4: 0.5, 1e-3: 0.2, 3e-3: 0.1, 3e-5: 0.9}, [1e-4, 1e-3, 3e-3, 3e-5], 3e-5),
        ({1e-4: 0.1, 1e-3: 0.495, 3e-3: 0.5}, [1e-4, 1e-3, 3e-3], 3e-3),
        ({1e-4: 0.1, 1e-3: 0.5, 3e-3: 0.2}, [1e-4, 1e-3, 3e-3], 1e-3),
    ],
)
def test_an_edge_that_wins_clearly_widens_the_grid_by_one(scores, tried, winner):
    best = search({'lr': [1e-4, 1e-3, 3e-3]}, lambda p: scores[p['lr']], margin=0.01)
    assert [t['lr'] for t in best.tried] == tried and best.point['lr'] == winner
