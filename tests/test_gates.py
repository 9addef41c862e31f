"Gates of GRUarc and of a plain GRU, and how well they tell shifts from other turns."

from types import SimpleNamespace

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import toy_batch
from sklearn.metrics import roc_auc_score

from erc.data.batches import make_batches
from erc.models.arc import emotion_arcs
from erc.models.gruarc import GRUArcModel
from erc.models.shift import previous_turn
from erc.report.artefacts import artefacts
from erc.runs.recipes import find_system, load_recipe, settings_of
from erc.studies.gates import (
    _auc,
    _auc_interval,
    _bin_gates,
    _find_example,
    _gate_mean,
    _gate_sentence,
    _gates_figure,
    _gates_frame,
    _learned_gates,
    _mean_gates,
    _roc,
    gate_probe,
)
from erc.studies.shapes import load_arcs

SMALL = dict(party=5, context=5, emotion=3, hidden=4)


@pytest.fixture(scope='module')
def demo():
    return load_arcs('demo')


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


def frozen(model):
    return model.requires_grad_(False).eval()


# AUC


@pytest.mark.parametrize(
    'counts, value',
    [
        ([[0, 0, 3], [2, 0, 0]], 1),
        ([[2, 0, 0], [0, 0, 3]], 0),
        ([[4, 4], [1, 1]], 0.5),
        ([[0, 1, 0], [0, 5, 0]], 0.5),
        ([[1, 0, 3], [0, 2, 0]], 0.75),
    ],
)
def test_auc_of_known_counts(counts, value):
    assert _auc(counts) == value


def test_auc_without_one_kind():
    assert np.isnan(_auc([[1, 2], [0, 0]])) and np.isnan(_auc([[0, 0], [1, 1]]))


@pytest.mark.parametrize('move', [0.0, 0.3, -0.5, 2.0])
def test_binned_auc_is_near_the_exact_one(move):
    g = np.random.default_rng(3)
    shift = g.random(4000) < 0.3
    gate = g.standard_normal(4000) - move * shift
    ours = _auc(_bin_gates(gate, shift, np.arange(4000) // 10, 400).sum(0))
    assert ours == pytest.approx(roc_auc_score(shift, -gate), abs=0.006)


def test_auc_interval_of_a_gate_that_knows_nothing_covers_a_half():
    g = np.random.default_rng(0)

    def seeds(move):
        shifts = [g.random(600) < 0.3] * 3
        gates = [g.standard_normal(600) - move * shift for shift in shifts]
        about = np.arange(600) // 10, 60
        return np.stack([_bin_gates(gate, s, *about) for gate, s in zip(gates, shifts)])

    none, some = _auc_interval(seeds(0)), _auc_interval(seeds(1.5))
    assert none.low < 0.5 < none.high and some.low > 0.7 and some.high <= 1


def test_constant_gate_is_a_half():
    counts = _bin_gates(np.full(50, 0.5), np.arange(50) % 3 == 0, np.arange(50) // 5, 10)
    assert counts.sum() == 50 and _auc(counts.sum(0)) == 0.5


def test_wrong_gates():
    with pytest.raises(ValueError, match='not a finite number'):
        _bin_gates(np.array([np.nan, 1.0]), np.array([True, False]), np.array([0, 0]), 1)
    with pytest.raises(ValueError, match='more than 255'):
        _bin_gates(np.zeros(300), np.zeros(300, bool), np.zeros(300, int), 1)


def test_roc_ends_in_the_corners():
    x, y = _roc([[1, 2, 3], [0, 2, 2]])
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and y.tolist() == [0, 0, 0.5, 1]


# gates


def test_learned_gates_make_the_emotion_states():
    "Reset, update and the candidate, put together, are the states that the model has."
    torch.manual_seed(0)
    m = frozen(GRUArcModel({'text': 6, 'audio': 4}, 2, preset='without_shift', **SMALL).double())
    b = toy_batch({'text': 6, 'audio': 4}, (4, 3, 1), speakers=2)
    nets, s = list(m.forward_nets.values()), m.forward_nets.party_states(b)
    e, (r, z) = emotion_arcs(nets, s, None, b), _learned_gates(m, b)
    rows = slice(2 * 3, None)  # of the candidate
    for i, net in enumerate(nets):
        cell, before = net.e_cell, previous_turn(b, e[i])
        from_state = before @ cell.weight_hh[rows].T + cell.bias_hh[rows]
        new = (s[i] @ cell.weight_ih[rows].T + cell.bias_ih[rows] + r[i] * from_state).tanh()
        assert torch.allclose((1 - z[i]) * new + z[i] * before, e[i], atol=1e-12)


def test_gate_with_the_signal_is_one_minus_the_shift():
    torch.manual_seed(0)
    m = frozen(GRUArcModel({'text': 6, 'sentence': 6}, 2, **SMALL).double())
    b = toy_batch({'text': 6, 'sentence': 6}, (4, 3, 1), speakers=2)
    reset, update = _mean_gates(m, b)
    assert torch.equal(reset, 1 - m(b).probes['p_shift']) and torch.equal(reset, update)
    assert (reset[b.turn == 0] == 0).all()


@pytest.mark.parametrize(
    'dialogue, shift, at',
    [
        ('aaaabbbb', [0, 0, 1, 0, 1, 0, 1, 1], 4),
        ('aaaaabbbb', [0, 0, 1, 1, 0, 0, 0, 1, 1], 5),
        ('aaaaabb', [0, 0, 0, 1, 1, 0, 1], 1),
        ('aabb', [0, 0, 1, 1], None),
        ('aaaa', [0, 1, 1, 1], None),
        ('aaa', [0, 1, 1], None),
    ],
)
def test_example_by_rule(dialogue, shift, at):
    assert _find_example(list(dialogue), shift) == at


def test_probe_follows_the_utterances_however_batches_are_cut(demo):
    torch.manual_seed(0)
    sizes = {k: demo.features[k].shape[1] for k in ('text', 'audio')}
    m = frozen(GRUArcModel(sizes, len(demo.classes), preset='without_shift', **SMALL))
    two_seeds = SimpleNamespace(modules=lambda: iter([m, m]))

    def probe(size):
        targets = {'emotion': 'label'}
        batches = make_batches(demo, 'test', size=size, features=list(sizes), targets=targets)
        return gate_probe(two_seeds, demo, batches)

    a, b = probe(64), probe(3)
    test = demo.table.iloc[demo.rows('test')]
    counts = a['reset_counts_by_seed']
    assert counts.shape == (2, test.dialogue.nunique(), 2, 20)
    later = test[test.turn > 0]
    assert counts[0].sum((0, 2)).tolist() == [later.inertia.eq(k).sum() for k in (1, 0)]
    assert set(a) == set(b)
    for name in a:
        if 'sums' in name or 'example' in name:
            assert np.allclose(a[name], b[name], atol=1e-5), name
    assert _gate_mean(a['reset_sums_by_seed'], 1).mean == pytest.approx(0.5, abs=0.2)
    lines = {'demo': (SimpleNamespace(probes=a), SimpleNamespace(probes=a))}
    assert 'around zero' in _gate_sentence(lines), 'a gate equals itself'
    assert len(_gates_frame(lines)) == 3 and len(_gates_figure(lines).axes) == 3


# the recipe


def test_the_recipe_feeds_the_figure():
    due = artefacts().query("notebook == '905_gates'")
    assert (due.paper + '/' + due.id).tolist() == ['shapes/fig3']
    recipe = load_recipe('shapes')
    for key in recipe.artefacts['fig3'].records:
        system = recipe.systems[key.system]
        assert system.notebook == '905_gates' and key.corpus in system.corpora
        assert key.variant in system.variants


@pytest.mark.parametrize(
    'ours, theirs',
    [
        ('gates_mosi', 'gruarc'),
        ('without_gates_mosi', 'without_shift'),
        ('gates_mosei', 'gruarc_mosei'),
        ('without_gates_mosei', 'without_shift_mosei'),
    ],
)
def test_gates_are_those_of_the_models_in_the_tables(ours, theirs):
    "The systems whose gates are kept train as those of the section do."
    systems = [find_system(f'shapes/{name}') for name in (ours, theirs)]
    a, b = (settings_of(system, 'tuned') for system in systems)
    kept = [k for k in {**a, **b} if k not in ('slices', 'decisions')]
    assert {k: a.get(k) for k in kept} == {k: b.get(k) for k in kept}
