"Maps of features: measures that can fail, seeds that hold, and what a wrong input is told."

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from erc.core import results_home
from erc.data.registry import load_corpus
from erc.report.artefacts import artefacts
from erc.runs.recipes import find_system, load_recipe
from erc.runs.records import find_record
from erc.runs.run import run_system
from erc.studies.tsne_and_gates import (
    _SENTIMENTS,
    _map_sentence,
    _neighbour_purity,
    _select_points,
    _sentiments,
    _separation,
    _separation_frame,
    _separation_sums,
    _text_against_audio,
    _text_minus_audio,
    _tsne,
    _tsne_figure,
    embedding_map,
)


@pytest.fixture(scope='module')
def demo():
    return load_corpus('demo')


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


def clouds(n=240, gap=0.0, classes=3, seed=0, per=4):
    "Points, labels and dialogues; `gap` moves the classes apart."
    g = np.random.default_rng(seed)
    y = g.integers(0, classes, n)
    return g.standard_normal((n, classes)) + gap * np.eye(classes)[y], y, np.arange(n) // per


def distances(x):
    return np.linalg.norm(x[:, None] - x, axis=-1)


def small_map(corpus, feature, most=150):
    return embedding_map(corpus, feature, most=most, perplexity=10)


# which utterances


def test_every_kth_utterance(demo):
    rows, step = _select_points(demo, 'audio', most=100)
    assert step == -(-len(demo) // 100) and len(rows) <= 100 and set(np.diff(rows)) == {step}
    assert _select_points(demo, 'audio', most=10**6)[1] == 1


def test_beside_keeps_the_same_utterances(demo):
    half = np.arange(len(demo)) % 2 == 0
    corpus = demo.with_features(half=(np.zeros((len(demo), 2)), half))
    beside = _select_points(corpus, 'text', beside='half')[0]
    assert _select_points(corpus, 'half')[0].tolist() == beside.tolist() and half[beside].all()


def test_unlabelled_turns_are_left_out(demo):
    table = demo.table.copy()
    table.loc[::2, 'label'] = -1
    corpus = demo.replace(table=table)
    assert (corpus.table.label.to_numpy()[_select_points(corpus, 'text')[0]] >= 0).all()
    assert (_sentiments(corpus)[::2] == -1).all()


@pytest.mark.parametrize(
    'kw, says',
    [
        (dict(feature='audoi'), "did you mean 'audio'"),
        (dict(feature='audio', beside='speech'), 'speech'),
    ],
)
def test_unknown_feature(demo, kw, says):
    with pytest.raises(ValueError, match=says):
        _select_points(demo, **kw)


def test_too_few_utterances(demo):
    few = demo.with_features(rare=(np.zeros((len(demo), 2)), np.arange(len(demo)) < 5))
    with pytest.raises(ValueError, match='5 labelled utterances'):
        _select_points(few, 'rare')


def test_sentiment_of_an_emotion(demo):
    named = {demo.classes[y]: _SENTIMENTS[s] for y, s in zip(demo.table.label, _sentiments(demo))}
    expected = {'excited': 'positive', 'neutral': 'neutral', 'frustrated': 'negative'}
    assert {name: named[name] for name in expected} == expected


def test_a_corpus_with_its_own_sentiment(demo):
    corpus = demo.replace(table=demo.table.assign(sentiment='positive'))
    assert set(_sentiments(corpus)) == {2}


# the two measures


def test_silhouette_is_the_one_of_scikit_learn():
    x, y, g = clouds(gap=2.0)
    ours = _separation(_separation_sums(x, y, g), 'silhouette').mean
    assert ours == pytest.approx(silhouette_score(x, y), abs=1e-5)


def test_purity_by_hand():
    "Five points on a line, two neighbours each; the first two are of one dialogue."
    x = np.array([[0.0], [1], [2], [10], [11]])
    groups = [0, 0, 1, 2, 3]
    purity, chance = _neighbour_purity(distances(x), [0, 0, 0, 1, 1], groups, neighbours=2)
    # the first sees the third and the fourth, the third the first two
    assert purity.tolist() == [0.5, 0.5, 1, 0.5, 0.5]
    assert chance.tolist() == [1 / 3, 1 / 3, 2 / 4, 1 / 4, 1 / 4]


def test_purity_by_brute_force():
    x, y, g = clouds(60)
    purity, chance = _neighbour_purity(distances(x), y, g, 5)
    for i in range(60):
        others = [j for j in range(60) if g[j] != g[i]]
        best = sorted(others, key=lambda j: np.linalg.norm(x[i] - x[j]))[:5]
        assert purity[i] == pytest.approx(np.mean(y[best] == y[i]))
        assert chance[i] == pytest.approx(np.mean(y[others] == y[i]))


def test_separation_finds_planted_classes_and_no_others():
    mixed, apart = (_separation_sums(*clouds(400, gap)) for gap in (0.0, 3.0))
    assert _separation(mixed, 'lift').low < 0 < _separation(mixed, 'lift').high
    assert _separation(apart, 'lift').low > 0.3
    assert _separation(apart, 'silhouette').low > 0.2 > _separation(mixed, 'silhouette').high
    lift = _separation(apart, 'purity').mean - _separation(apart, 'chance').mean
    assert lift == pytest.approx(_separation(apart, 'lift').mean, abs=1e-6)


def test_interval_of_nothing_covers_zero():
    "Random labels: zero lies in the interval in about 95 of 100."
    lifts = [_separation(_separation_sums(*clouds(120, seed=s)), 'lift') for s in range(60)]
    assert np.mean([lift.low <= 0 <= lift.high for lift in lifts]) > 0.85


def test_neighbours_of_the_own_dialogue_do_not_count():
    "Dialogues are tight clouds with one label each; labels say nothing beyond them."
    g = np.random.default_rng(0)
    dialogue = np.arange(300) // 10
    x = g.standard_normal((30, 3))[dialogue] * 5 + 0.01 * g.standard_normal((300, 3))
    y = g.integers(0, 2, 30)[dialogue]
    lift = _separation(_separation_sums(x, y, dialogue), 'lift')
    every = _neighbour_purity(distances(x), y, np.arange(300), 9)[0].mean()
    assert every > 0.99 and lift.low < 0 < lift.high


def test_wrong_input():
    x, y, g = clouds(30)
    with pytest.raises(ValueError, match='one class is not separable'):
        _separation_sums(x, 0 * y, g)
    with pytest.raises(ValueError, match='others outside its dialogue'):
        _neighbour_purity(distances(x), y, 0 * g)
    with pytest.raises(ValueError, match='did you mean'):
        _separation(_separation_sums(x, y, g), 'silhouete')
    with pytest.raises(ValueError, match='perplexity of 30'):
        _tsne(x)


# maps


def test_the_same_seed_gives_the_same_map(demo):
    a, b = (small_map(demo, 'audio') for _ in range(2))
    assert (a['points'] == b['points']).all()
    assert all((a['sums'][k] == b['sums'][k]).all() for k in a['sums'])


def test_a_map_finds_planted_clouds():
    x, y, g = clouds(150, 8.0)
    assert _separation(_separation_sums(_tsne(x, 10), y, g), 'purity').mean > 0.95


def test_a_map_does_not_say_which_utterance_is_where(demo):
    facts = small_map(demo, 'text')
    emotion, sentiment = facts['emotion'].astype(int), facts['sentiment'].astype(int)
    rank = list(zip(emotion, sentiment))
    assert rank == sorted(rank) and len(facts['points']) == facts['utterances']
    in_order = demo.table.label.to_numpy()[_select_points(demo, 'text', most=150)[0]]
    assert not (emotion == in_order).all()
    assert np.bincount(emotion).tolist() == np.bincount(in_order).tolist()


def test_a_constant_column_is_harmless(demo):
    audio = demo.features['audio']
    with_constant = demo.with_features(x=np.c_[audio, np.full(len(demo), 7.0)])
    a, b = small_map(with_constant, 'x'), small_map(demo.with_features(x=audio), 'x')
    assert np.isfinite(a['points']).all()
    lifts = [_separation(facts['sums']['emotion features'], 'lift').mean for facts in (a, b)]
    assert lifts[0] == pytest.approx(lifts[1])


def test_text_against_audio_needs_the_same_utterances(demo):
    maps = {('d', f): small_map(demo, f) for f in ('audio', 'text')}
    same = {**maps, ('d', 'text'): maps['d', 'audio']}
    assert _text_minus_audio(same, 'd', 'emotion').mean == 0
    assert 'around zero' in _map_sentence(same)
    with pytest.raises(ValueError, match='same utterances'):
        fewer = small_map(demo, 'text', most=100)
        _text_minus_audio({**maps, ('d', 'text'): fewer}, 'd', 'emotion')
    assert len(_separation_frame(maps)) == 4 and len(_text_against_audio(maps)) == 4
    figure = _tsne_figure({'one': maps['d', 'audio'], 'two': maps['d', 'text']})
    assert len(figure.axes) == 4
    for axis in figure.axes:
        assert 'purity over chance' in (axis.get_title('left') or axis.get_title())


def test_a_map_runs_as_a_system_and_is_small(tmp_path):
    system = find_system('mmspcl/map_audio')
    record = run_system(system, system.key('fixed', 'demo'), home=tmp_path)
    facts = find_record('mmspcl/map_audio:fixed@demo', tmp_path).facts
    assert (facts['points'] == record.facts['points']).all()
    assert set(facts['sums']) == {
        f'{by} {where}' for by in ('sentiment', 'emotion') for where in ('features', 'picture')
    }
    (path,) = tmp_path.rglob('map_audio*.json')
    assert path.stat().st_size < 300_000
    text = path.read_text()
    assert not any(sentence in text for sentence in load_corpus('demo').table.text[:50])


# the recipe


def test_recipes_feed_the_figures():
    due = artefacts().query("notebook == '900_tsne_and_gates'")
    assert sorted(due.paper + '/' + due.id) == ['mmspcl/fig6', 'mmspcl/fig7']
    for x in due.itertuples():
        recipe = load_recipe(x.paper)
        for key in recipe.artefacts[x.id].records:
            system = recipe.systems[key.system]
            assert system.notebook == x.notebook and key.corpus in system.corpora
            assert key.variant in system.variants


def test_committed_maps_hold_no_text_and_are_small():
    made = [
        *results_home().glob('records/mmspcl/map_*.json'),
        *results_home().glob('records/shapes/*gates_*.json'),
    ]
    if not made:
        pytest.skip('no records are committed')
    assert all(p.stat().st_size < 300_000 for p in made)
