"Maps and gates: numbers that can fail, seeds that hold, and what a wrong input is told."

from types import SimpleNamespace

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, silhouette_score

from erc.data.batches import from_padded, make_batches
from erc.data.registry import load_corpus
from erc.nn.dialoguernn import emotion_states
from erc.runs.recipes import load_recipe, settings_of, system
from erc.runs.run import run_system
from erc.models.gruarc import GRUArcModel
from erc.studies.shapes import load_arcs
from erc.runs.records import find_record
from erc.report.artefacts import artefacts
from erc.report.tables import records_of
from erc.studies.tsne_and_gates import (
    NUMBERS,
    SENTIMENTS,
    auc,
    auc_interval,
    binned,
    compared,
    embedding_map,
    example,
    gate_mean,
    gate_probe,
    gate_sentence,
    gates_figure,
    gates_frame,
    learned_gates,
    map_sentence,
    mean_gates,
    neighbour_purity,
    points_of,
    roc,
    sentiments,
    separation,
    separation_frame,
    sums_of,
    text_over_audio,
    tsne,
    tsne_figure,
)


@pytest.fixture(scope='module')
def demo():
    return load_arcs('demo')


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


def clouds(n=240, gap=0.0, classes=3, seed=0, per=4):
    "Points, labels and dialogues; `gap` moves the classes apart."
    g = np.random.default_rng(seed)
    y = g.integers(0, classes, n)
    return g.standard_normal((n, classes)) + gap * np.eye(classes)[y], y, np.arange(n) // per


def gaps(x):
    return np.linalg.norm(x[:, None] - x, axis=-1)


# which utterances


def test_every_kth_utterance(demo):
    rows, step = points_of(demo, 'audio', most=100)
    assert step == -(-len(demo) // 100) and len(rows) <= 100 and set(np.diff(rows)) == {step}
    assert points_of(demo, 'audio', most=10**6)[1] == 1


def test_beside_keeps_the_same_utterances(demo):
    half = np.arange(len(demo)) % 2 == 0
    c = demo.with_features(half=(np.zeros((len(demo), 2)), half))
    assert points_of(c, 'half')[0].tolist() == points_of(c, 'text', beside='half')[0].tolist()
    assert half[points_of(c, 'text', beside='half')[0]].all()


def test_unlabelled_turns_are_left_out(demo):
    t = demo.table.copy()
    t.loc[::2, 'label'] = -1
    c = demo.replace(table=t)
    assert (c.table.label.to_numpy()[points_of(c, 'text')[0]] >= 0).all() and (
        sentiments(c)[::2] == -1
    ).all()


@pytest.mark.parametrize(
    'kw, says',
    [
        (dict(feature='audoi'), "did you mean 'audio'"),
        (dict(feature='audio', beside='speech'), 'speech'),
    ],
)
def test_unknown_feature(demo, kw, says):
    with pytest.raises(ValueError, match=says):
        points_of(demo, **kw)


def test_too_few(demo):
    few = demo.with_features(rare=(np.zeros((len(demo), 2)), np.arange(len(demo)) < 5))
    with pytest.raises(ValueError, match='5 labelled utterances'):
        points_of(few, 'rare')


def test_sentiment_of_an_emotion(demo):
    named = {demo.classes[y]: SENTIMENTS[s] for y, s in zip(demo.table.label, sentiments(demo))}
    assert (
        named['excited'] == 'positive'
        and named['neutral'] == 'neutral'
        and named['frustrated'] == 'negative'
    )


def test_a_corpus_with_its_own_sentiment(demo):
    c = demo.replace(table=demo.table.assign(sentiment='positive'))
    assert set(sentiments(c)) == {2}


# the two numbers


def test_silhouette_is_the_one_of_scikit_learn():
    x, y, g = clouds(gap=2.0)
    assert separation(sums_of(x, y, g), 'silhouette').mean == pytest.approx(
        silhouette_score(x, y), abs=1e-5
    )


def test_purity_by_hand():
    "Five points on a line, two neighbours each; the first two are of one dialogue."
    x = np.array([[0.0], [1], [2], [10], [11]])
    near, chance = neighbour_purity(gaps(x), [0, 0, 0, 1, 1], [0, 0, 1, 2, 3], neighbours=2)
    assert near.tolist() == [
        0.5,
        0.5,
        1,
        0.5,
        0.5,
    ]  # the first sees the third and the fourth, the third the first two
    assert chance.tolist() == [1 / 3, 1 / 3, 2 / 4, 1 / 4, 1 / 4]


def test_purity_by_hand_is_what_is_said():
    "The same by brute force."
    x, y, g = clouds(60)
    near, chance = neighbour_purity(gaps(x), y, g, 5)
    for i in range(60):
        others = [j for j in range(60) if g[j] != g[i]]
        best = sorted(others, key=lambda j: np.linalg.norm(x[i] - x[j]))[:5]
        assert near[i] == pytest.approx(np.mean(y[best] == y[i])) and chance[i] == pytest.approx(
            np.mean(y[others] == y[i])
        )


def test_separation_sees_what_is_there_and_not_what_is_not():
    mixed, apart = (sums_of(*clouds(400, gap)) for gap in (0.0, 3.0))
    assert separation(mixed, 'lift').low < 0 < separation(mixed, 'lift').high
    assert (
        separation(apart, 'lift').low > 0.3
        and separation(apart, 'silhouette').low > 0.2 > separation(mixed, 'silhouette').high
    )
    assert separation(apart, 'purity').mean - separation(apart, 'chance').mean == pytest.approx(
        separation(apart, 'lift').mean, abs=1e-6
    )


def test_interval_of_nothing_covers_zero():
    "Labels that say nothing: zero lies in the interval in about 95 of 100."
    hits = [
        (i := separation(sums_of(*clouds(120, 0.0, seed=s)), 'lift')).low <= 0 <= i.high
        for s in range(60)
    ]
    assert np.mean(hits) > 0.85


def test_neighbours_of_the_own_dialogue_do_not_count():
    "Dialogues are tight clouds with one label each, labels say nothing beyond them."
    g = np.random.default_rng(0)
    d = np.arange(300) // 10
    x, y = (
        g.standard_normal((30, 3))[d] * 5 + 0.01 * g.standard_normal((300, 3)),
        g.integers(0, 2, 30)[d],
    )
    lift = separation(sums_of(x, y, d), 'lift')
    every = neighbour_purity(gaps(x), y, np.arange(300), 9)[0].mean()
    assert every > 0.99 and lift.low < 0 < lift.high


def test_wrong_input():
    x, y, g = clouds(30)
    with pytest.raises(ValueError, match='one class alone'):
        sums_of(x, 0 * y, g)
    with pytest.raises(ValueError, match='others outside its dialogue'):
        neighbour_purity(gaps(x), y, 0 * g)
    with pytest.raises(ValueError, match='did you mean'):
        separation(sums_of(x, y, g), 'silhouete')
    with pytest.raises(ValueError, match='perplexity of 30'):
        tsne(x)


# maps


def test_the_same_seed_gives_the_same_map(demo):
    a, b = (embedding_map(demo, 'audio', most=150, perplexity=10) for _ in range(2))
    assert (a['points'] == b['points']).all() and all(
        (a['sums'][k] == b['sums'][k]).all() for k in a['sums']
    )


def test_a_map_finds_planted_clouds():
    x, y, g = clouds(150, 8.0)
    assert separation(sums_of(tsne(x, 10), y, g), 'purity').mean > 0.95


def test_a_map_does_not_say_which_utterance_is_where(demo):
    m = embedding_map(demo, 'text', most=150, perplexity=10)
    y, s, p = m['emotion'].astype(int), m['sentiment'].astype(int), m['points'].astype(float)
    rank = list(zip(y, s))
    assert rank == sorted(rank) and len(p) == m['utterances']
    assert not (y == demo.table.label.to_numpy()[points_of(demo, 'text', most=150)[0]]).all()
    assert (
        np.bincount(y).tolist()
        == np.bincount(demo.table.label.to_numpy()[points_of(demo, 'text', most=150)[0]]).tolist()
    )


def test_a_constant_column_is_harmless(demo):
    x = np.c_[demo.features['audio'], np.full(len(demo), 7.0)]
    a, b = (
        embedding_map(demo.with_features(x=v), 'x', most=150, perplexity=10)
        for v in (x, demo.features['audio'])
    )
    assert np.isfinite(a['points']).all() and separation(
        a['sums']['emotion features'], 'lift'
    ).mean == pytest.approx(separation(b['sums']['emotion features'], 'lift').mean)


def test_text_against_audio_needs_the_same_utterances(demo):
    maps = {('d', f): embedding_map(demo, f, most=150, perplexity=10) for f in ('audio', 'text')}
    same = {**maps, ('d', 'text'): maps['d', 'audio']}
    assert text_over_audio(same, 'd', 'emotion').mean == 0 and 'not confirmed' in map_sentence(same)
    with pytest.raises(ValueError, match='same utterances'):
        text_over_audio(
            {**maps, ('d', 'text'): embedding_map(demo, 'text', most=100, perplexity=10)},
            'd',
            'emotion',
        )
    assert len(separation_frame(maps)) == 4 and len(compared(maps)) == 4
    fig = tsne_figure({'one': maps['d', 'audio'], 'two': maps['d', 'text']})
    assert len(fig.axes) == 4 and all(
        'purity over chance' in (ax.get_title('left') or ax.get_title()) for ax in fig.axes
    )


def test_a_map_runs_as_a_system_and_is_small(tmp_path):
    r = run_system(system('mmspcl/map_audio'), 'demo', 'fixed', home=tmp_path)
    again = find_record('mmspcl/map_audio', 'demo', 'fixed', tmp_path).facts
    assert (again['points'] == r.facts['points']).all() and set(again['sums']) == {
        f'{b} {w}' for b in ('sentiment', 'emotion') for w in ('features', 'picture')
    }
    assert max(p.stat().st_size for p in tmp_path.rglob('*.json')) < 300_000
    words = set(load_corpus('demo').table.text)
    assert not any(w in next(tmp_path.rglob('*.json')).read_text() for w in list(words)[:50])


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
    assert auc(counts) == value


def test_auc_without_one_kind():
    assert np.isnan(auc([[1, 2], [0, 0]])) and np.isnan(auc([[0, 0], [1, 1]]))


@pytest.mark.parametrize('move', [0.0, 0.3, -0.5, 2.0])
def test_binned_auc_is_near_the_exact_one(move):
    g = np.random.default_rng(3)
    shift = g.random(4000) < 0.3
    v = g.standard_normal(4000) - move * shift
    ours = auc(binned(v, shift, np.arange(4000) // 10, 400).sum(0))
    assert ours == pytest.approx(roc_auc_score(shift, -v), abs=0.006)


def test_auc_interval_of_a_gate_that_knows_nothing_covers_a_half():
    g = np.random.default_rng(0)
    made = lambda move: np.stack(
        [
            binned(g.standard_normal(600) - move * s, s, np.arange(600) // 10, 60)
            for s in [g.random(600) < 0.3] * 3
        ]
    )
    none, some = auc_interval(made(0)), auc_interval(made(1.5))
    assert none.low < 0.5 < none.high and some.low > 0.7 and some.high <= 1


def test_constant_gate_is_a_half():
    c = binned(np.full(50, 0.5), np.arange(50) % 3 == 0, np.arange(50) // 5, 10)
    assert c.sum() == 50 and auc(c.sum(0)) == 0.5


def test_wrong_gates():
    with pytest.raises(ValueError, match='not a finite number'):
        binned(np.array([np.nan, 1.0]), np.array([True, False]), np.array([0, 0]), 1)
    with pytest.raises(ValueError, match='more than 255'):
        binned(np.zeros(300), np.zeros(300, bool), np.zeros(300, int), 1)


def test_roc_ends_in_the_corners():
    x, y = roc([[1, 2, 3], [0, 2, 2]])
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and y.tolist() == [0, 0, 0.5, 1]


# gates


def plain(classes=2, **o):
    return (
        GRUArcModel(
            {'text': 6, 'audio': 4},
            classes,
            preset='without_shift',
            party=5,
            context=5,
            emotion=3,
            hidden=4,
            **o,
        )
        .double()
        .requires_grad_(False)
        .eval()
    )


def toy():
    g = np.random.default_rng(0)
    x = {k: torch.from_numpy(g.standard_normal((3, 4, d))) for k, d in (('text', 6), ('audio', 4))}
    return from_padded(x, g.integers(0, 2, (3, 4)), [4, 3, 1], {})


def test_learned_gates_make_the_emotion_states():
    "Reset, update and the candidate put together are the states that the model has."
    from erc.nn.dialoguernn import party_states
    from erc.models.gruarc import before

    torch.manual_seed(0)
    m, b = plain(), toy()
    nets, x = list(m.forward_nets.values()), [b.features[k] for k in m.modalities]
    s, _ = party_states(nets, x, x, b, m.options['context_order'])
    e = emotion_states(nets, s, b)
    r, z = learned_gates(m, b)
    for i, net in enumerate(nets):
        c, H = net.e_cell, 3
        old = before(b, e[i])
        n = (
            s[i] @ c.weight_ih[2 * H :].T
            + c.bias_ih[2 * H :]
            + r[i] * (old @ c.weight_hh[2 * H :].T + c.bias_hh[2 * H :])
        ).tanh()
        assert torch.allclose((1 - z[i]) * n + z[i] * old, e[i], atol=1e-12)


def test_gate_with_the_signal_is_one_minus_the_shift():
    torch.manual_seed(0)
    b = toy()
    m = (
        GRUArcModel({'text': 6, 'sentence': 6}, 2, party=5, context=5, emotion=3, hidden=4)
        .double()
        .eval()
    )
    b.features['sentence'] = b.features['text']
    reset, update = mean_gates(m, b)
    assert (
        torch.equal(reset, 1 - m(b).probes['p_shift'])
        and torch.equal(reset, update)
        and (reset[b.turn == 0] == 0).all()
    )


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
    assert example(list(dialogue), shift) == at


def test_probe_follows_the_utterances_however_batches_are_cut(demo):
    torch.manual_seed(0)
    sizes = {k: demo.features[k].shape[1] for k in ('text', 'audio')}
    m = (
        GRUArcModel(
            sizes,
            len(demo.classes),
            preset='without_shift',
            party=5,
            context=5,
            emotion=3,
            hidden=4,
        )
        .requires_grad_(False)
        .eval()
    )
    cut = lambda n: make_batches(
        demo, 'test', size=n, features=list(sizes), targets={'emotion': 'label'}
    )
    a, b = (
        gate_probe(SimpleNamespace(modules=lambda: iter([m, m])), demo, cut(n)) for n in (64, 3)
    )
    t = demo.table.iloc[demo.rows('test')]
    D = t.dialogue.nunique()
    assert (
        a['reset_counts_by_seed'].shape == (2, D, 2, 20)
        and a['reset_counts_by_seed'].sum() == 2 * (t.turn > 0).sum()
    )
    assert a['reset_counts_by_seed'][0].sum((0, 2)).tolist() == [
        (t.turn.gt(0) & t.inertia.eq(k)).sum() for k in (1, 0)
    ]
    assert set(a) == set(b) and all(
        np.allclose(a[k], b[k], atol=1e-5) for k in a if 'sums' in k or 'example' in k
    )
    assert gate_mean(a['reset_sums_by_seed'], 1).mean == pytest.approx(0.5, abs=0.2)
    record = SimpleNamespace(probes=a)
    assert (
        'not confirmed' in gate_sentence({'demo': (record, record)})
        and len(gates_frame({'demo': (record, record)})) == 3
    )
    assert len(gates_figure({'demo': (record, record)}).axes) == 3


# the recipe


def test_recipes_feed_the_three_figures():
    owed = artefacts().query("notebook=='900_tsne_and_gates'")
    assert sorted(owed.paper + '/' + owed.id) == ['mmspcl/fig6', 'mmspcl/fig7', 'shapes/fig3']
    for x in owed.itertuples():
        recipe = load_recipe(x.paper)
        for name, corpus, setting in records_of(recipe['artefacts'][x.id], x.paper):
            s = recipe['systems'][name]
            assert s.notebook == x.notebook and corpus in s.corpora and setting in s.settings


def test_gates_are_those_of_the_models_in_the_tables():
    "The systems whose gates are kept train as those of the section do."
    for ours, theirs in (
        ('gates_mosi', 'gruarc_mosi'),
        ('without_gates_mosi', 'without_shift_mosi'),
        ('gates_mosei', 'gruarc_mosei'),
        ('without_gates_mosei', 'without_shift_mosei'),
    ):
        a, b = system(f'shapes/{ours}'), system(f'shapes/{theirs}')
        for setting in ('paper', 'tuned'):
            x, y = settings_of(a, setting), settings_of(b, setting)
            for k in ('slices', 'decisions'):
                x.pop(k, None)
                y.pop(k, None)
            assert x == y, (ours, setting)


def test_numbers_are_named():
    assert set(NUMBERS) == {'silhouette', 'purity', 'chance', 'lift'}


def test_committed_maps_hold_no_text_and_are_small():
    from erc.core import results_home

    made = [
        *results_home().glob('records/mmspcl/map_*.json'),
        *results_home().glob('records/shapes/*gates_*.json'),
    ]
    if not made:
        pytest.skip('no records are committed')
    assert all(p.stat().st_size < 300_000 for p in made)
