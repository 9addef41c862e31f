"Ranks: intervals against plain loops, and no difference among equals."

import numpy as np
import pytest

from erc.evidence.intervals import paired
from erc.evidence.metrics import metric
from erc.evidence.ranks import _differences, _pair_p, _race, _rank_intervals, _ranks


def counts(right, seed, seeds=3, dialogues=40):
    "Counts of two classes, (S, D, 2, 2), of a system that has such a share right."
    hits = np.random.default_rng(seed).binomial(10, right, (seeds, dialogues, 2))
    cells = [hits[..., 0], 10 - hits[..., 0], 10 - hits[..., 1], hits[..., 1]]
    return np.stack(cells, -1).reshape(seeds, dialogues, 2, 2)


def folds(right, seed):
    return [counts(right, 10 * seed + f, seeds=(5, 2)[f]) for f in range(2)]


def test_all_systems_see_the_same_draws():
    "Means and deviations are those of each system alone; a difference has the interval's error."
    systems = [folds(p, i) for i, p in enumerate((0.7, 0.66, 0.6))]
    race = _race(systems, 'weighted_f1', 400)
    score = metric('weighted_f1')
    pooled = [np.concatenate([np.resize(f, (10, *f.shape[1:])) for f in x], 1) for x in systems]
    assert np.allclose(race.means, [score(x.sum(1)).mean() for x in pooled])
    alone = paired(systems[0], systems[1], 'weighted_f1', resamples=400)
    spread = (race.deviations[0] - race.deviations[1]).std()
    assert spread == pytest.approx(alone.error.dialogues, rel=1e-6)


def test_equals_share_every_rank_and_better_ones_keep_theirs():
    equals = _race([counts(0.7, i) for i in range(6)], 'accuracy')
    ends = _rank_intervals(equals)
    assert (ends[:, 1] <= ends[:, 0]).all() and (ends[:, 0] <= ends[:, 2]).all()
    assert (ends[:, 2] - ends[:, 1]).mean() > 2.5
    assert not (_differences(equals) < 0.05).any()
    far = _race([counts(p, i) for i, p in enumerate((0.9, 0.7, 0.5))], 'accuracy')
    assert _rank_intervals(far).tolist() == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    p = _differences(far)
    assert (p[np.triu_indices(3, 1)] < 1e-6).all() and np.isnan(np.diag(p)).all()
    assert np.array_equal(p, p.T, equal_nan=True)


def test_false_differences_among_equals_are_as_rare_as_said():
    found = [
        _pair_p(_race([counts(0.7, 2 * i), counts(0.7, 2 * i + 1)], 'accuracy', 300, seed=i), 0, 1)
        for i in range(300)
    ]
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.09


def test_seeds_widen_ranks():
    "Two systems whose seeds differ a lot are not told apart, however many dialogues there are."
    wild = [np.concatenate([counts(p, i, 1, 400) for p in (0.6, 0.7, 0.8)]) for i in (1, 2)]
    wild[1] = np.concatenate([counts(p, 9, 1, 400) for p in (0.63, 0.73, 0.83)])
    race = _race(wild, 'accuracy')
    assert _rank_intervals(race)[:, 1:].tolist() == [[1, 2], [1, 2]] and _pair_p(race, 0, 1) > 0.3


def test_ties_and_strangers():
    assert _ranks(np.array([0.5, 0.9, 0.5, 0.1])).tolist() == [2, 1, 2, 4]
    same = counts(0.7, 1)
    assert np.isnan(_pair_p(_race([same[:1], same[:1]], 'accuracy'), 0, 1))
    with pytest.raises(ValueError, match='system 1 was tested on other dialogues'):
        _race([same, counts(0.7, 2, dialogues=39)], 'accuracy')
