"Scores against scikit-learn and scipy; shift rules against the authors' numbers, brute force and the real corpora."

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from erc import metrics as M
from erc.evidence.intervals import interval

IEMOCAP = ('happy', 'sad', 'neutral', 'angry', 'excited', 'frustrated')


@pytest.fixture(params=range(4))
def labelled(request):
    "True and predicted classes, some classes absent from one or both."
    g = np.random.default_rng(request.param)
    y = g.choice(7, 300, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0])
    p = np.where(g.random(300) < 0.6, y, g.choice(5, 300))
    return y, p


def test_scores_equal_scikit_learn(labelled):
    y, p = labelled
    c, labels = M.confusion(y, p, 7), list(range(7))
    assert np.array_equal(c, sk.confusion_matrix(y, p, labels=labels))
    kw = dict(labels=labels, zero_division=0)
    assert np.isclose(M.weighted_f1(c), sk.f1_score(y, p, average='weighted', **kw), atol=1e-12)
    assert np.isclose(M.macro_f1(c), sk.f1_score(y, p, average='macro', **kw), atol=1e-12)
    assert np.allclose(M.class_f1(c), sk.f1_score(y, p, average=None, **kw), atol=1e-12)
    assert np.allclose(M.class_recall(c), sk.recall_score(y, p, average=None, **kw), atol=1e-12)
    assert np.isclose(M.accuracy(c), sk.accuracy_score(y, p), atol=1e-12)
    keep = np.isin(p, y)  # scikit-learn warns of classes that are predicted and never true
    assert np.isclose(
        M.unweighted_accuracy(M.confusion(y[keep], p[keep], 7)),
        sk.balanced_accuracy_score(y[keep], p[keep]),
        atol=1e-12,
    )


def test_leading_dimensions_are_only_loops(labelled):
    y, _ = labelled
    g = np.random.default_rng(9)
    p, groups = g.integers(0, 7, (3, len(y))), g.choice(list('zyx'), len(y))
    c = M.confusion(y, p, 7, groups)
    order = list(dict.fromkeys(groups))
    assert c.shape == (3, 3, 7, 7)
    for name, f in M.METRICS.items():
        for s in range(3):
            for d, which in enumerate(order):
                rows = groups == which
                assert np.array_equal(c[s, d], M.confusion(y[rows], p[s, rows], 7))
                assert np.allclose(f(c)[s, d], f(c[s, d])), name
    assert np.array_equal(M.confusion(y, p, 7), c.sum(1))


def test_authors_scores(golden):
    z = golden('common/metrics')
    c = M.confusion(z['y_true'], z['y_pred'], 4)
    assert np.allclose(M.class_recall(c), z['recall_per_class'], atol=1e-12)
    for name in ('unweighted_accuracy', 'accuracy', 'weighted_f1', 'macro_f1'):
        assert abs(M.METRICS[name](c) - z[name]) < 1e-12


def test_unlabelled_turns_do_not_count():
    y = np.array([0, -1, 1, -1])
    assert np.array_equal(M.confusion(y, np.int8([0, 1, 1, 0]), 2), [[1, 0], [0, 1]])
    assert np.array_equal(
        M.confusion(y, [0, -1, 1, 99], 2), [[1, 0], [0, 1]]
    )  # what is predicted there does not matter
    c = M.confusion(y, [0, 1, 1, 0], 2, groups=list('abca'))
    assert c.shape == (3, 2, 2) and c[1].sum() == 0  # dialogue b keeps its place


@pytest.mark.parametrize('y,n', [([], 0), ([-1, -1], 2)])
def test_an_empty_slice_counts_zero(y, n):
    p, groups = [0, 1][:n], list('ab')[:n]
    assert np.array_equal(M.confusion(y, p, 3), np.zeros((3, 3)))
    assert np.array_equal(M.confusion(y, np.zeros((5, n)), 3), np.zeros((5, 3, 3)))
    assert np.array_equal(M.confusion(y, p, 3, groups), np.zeros((n, 3, 3)))
    c = M.confusion(y, np.zeros((5, n), np.int8), 3, groups)
    assert (
        c.shape == (5, n, 3, 3) and c.dtype.kind == 'i' and np.isnan(M.weighted_f1(c.sum(1))).all()
    )
    assert M.confusion([0, 1], np.zeros((0, 2), int), 3, list('ab')).shape == (0, 2, 3, 3)


def test_int8_predictions_do_not_overflow():
    y = np.zeros(500, int) + 6
    c = M.confusion(y, np.full((5, 500), 6, np.int8), 7, groups=np.repeat(np.arange(250), 2))
    assert c.shape == (5, 250, 7, 7) and (c[..., 6, 6] == 2).all()


def test_nothing_counted_is_nan_not_zero():
    for name in ('accuracy', 'weighted_f1', 'macro_f1', 'unweighted_accuracy'):
        assert np.isnan(M.METRICS[name](np.zeros((4, 4), int))), name


@pytest.mark.parametrize(
    'y,p,kw,says',
    [
        ([0, 1], [0, 1, 1], {}, 'one prediction per row'),
        ([0, 1], [0, 2], {}, 'p has class 2'),
        ([0, 3], [0, 1], {}, 'y has class 3'),
        ([0, -2], [0, 1], {}, 'y has class -2'),
        ([0, 1], [0, -1], {}, 'p has class -1'),
        ([0, 1], [0, 1], dict(groups=['a']), 'groups has 1 rows'),
    ],
)
def test_bad_counts_are_named(y, p, kw, says):
    with pytest.raises(ValueError, match=says):
        M.confusion(y, p, 2, **kw)


def test_metric_by_name():
    c = M.confusion([0, 0, 1, 2, 2], [0, 1, 1, 2, 2], 3)
    assert M.metric('weighted_f1') is M.weighted_f1
    assert M.metric('class_f1:b', 'abc')(c) == M.class_f1(c)[1]
    with pytest.raises(ValueError, match="unknown class 'x'"):
        M.metric('class_f1:x', 'abc')
    with pytest.raises(ValueError, match='unknown metric'):
        M.metric('f1')
    with pytest.raises(ValueError, match="say 'class_f1:NAME' with one of a, b, c"):
        M.metric('class_f1', 'abc')
    with pytest.raises(ValueError, match="leave ':b' out"):
        M.metric('accuracy:b', 'abc')
    with pytest.raises(ValueError, match="say 'class_recall:NAME'"):
        interval(c[None, None], 'class_recall')
    assert M.METRICS['class_f1'](c).shape == (3,)


def test_no_values_have_no_correlation():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.isnan(M.pearson_r([], [])) and np.isnan(M.pearson_r([np.nan], [1.0]))
        assert np.isnan(M.pearson_r([], np.zeros((3, 0)))).all() and M.pearson_r(
            [], np.zeros((3, 0))
        ).shape == (3,)
        assert np.isnan(M.pearson_of(np.zeros(6)))


def test_pearson_equals_scipy():
    g = np.random.default_rng(0)
    y = g.normal(3, 1, 200)
    p = np.stack([y + g.normal(0, 1, 200), g.normal(size=200), -y])
    want = [stats.pearsonr(y, q)[0] for q in p]
    assert np.allclose(M.pearson_r(y, p), want, atol=1e-12)
    groups = g.integers(0, 9, 200)
    assert np.allclose(M.pearson_of(M.moments(y, p, groups).sum(-2)), want, atol=1e-10)
    assert np.allclose(M.pearson_r(y + 1e6, p - 1e6), want, atol=1e-6)
    hole = y.copy()
    hole[:50] = np.nan
    assert np.allclose(M.pearson_r(hole, p[0]), stats.pearsonr(y[50:], p[0, 50:])[0])
    assert np.allclose(
        M.pearson_of(M.moments(hole, p, groups).sum(-2)), M.pearson_r(hole, p), atol=1e-10
    )
    assert M.pearson_r(y, np.full(200, 0.3)) == 0
    with pytest.raises(ValueError, match='one prediction per row'):
        M.pearson_r(y, y[1:])


# ---- shifts


def test_authors_shifts(golden):
    z = golden('common/metrics')
    e, s = z['shift_emotions'], z['shift_speakers']
    for rule, name in dict(
        same_speaker='intra_es',
        adjacent_any='inter_es_adjacent_any_speaker',
        adjacent_other='inter_es_adjacent_other_speaker',
        last_other='inter_es_last_turn_of_other_speaker',
    ).items():
        assert np.array_equal(M.is_shift(e, s, rule), z[name].astype(bool)), rule


def test_released_iemocap_table(golden):
    z = golden('shapes/shift_label_table_iemocap')['out.no_shift']
    pol = M.polarities(IEMOCAP)
    for i in range(6):
        for j in range(6):
            assert M.is_shift([i, j], 'AB', 'polarity_released', polarity=pol)[1] == (z[i, j] == 0)


def test_released_loader_invents_the_first_predecessor(golden):
    z = golden('shapes/data_loaders')
    for d in range(3):
        for key, pol, out in (
            ('labels6', M.polarities(IEMOCAP), 'out_iemocap'),
            ('labels2', (-1, 1), 'out_mosei_sentiment'),
        ):
            e = z[f'in.{key}_d{d}']
            want = z[f'{out}.shift_label'][d, : len(e)] == 0
            assert np.array_equal(
                M.is_shift(e, [0] * len(e), 'polarity_released_first', polarity=pol), want
            )
            assert np.array_equal(
                M.is_shift(e, [0] * len(e), 'polarity_released', polarity=pol, first='in'), want
            )
            out_of = M.is_shift(e, [0] * len(e), 'polarity_released', polarity=pol)
            assert not out_of[0] and np.array_equal(out_of[1:], want[1:])


def plain(e, s, rule, pol, unlabelled):
    "The rules once more, as a loop over turns."
    out = []
    for i in range(len(e)):
        past = [j for j in range(i) if unlabelled == 'keep' or e[j] >= 0]
        if rule == 'same_speaker':
            past = [j for j in past if s[j] == s[i]]
        if rule == 'last_other':
            past = [j for j in past if s[j] != s[i]]
        j = past[-1] if past else None
        if j is not None and rule == 'adjacent_other' and s[j] == s[i]:
            j = None
        if j is None or e[i] < 0 or e[j] < 0:
            out.append(False)
            continue
        if rule == 'polarity_paper':
            out.append(pol[e[i]] * pol[e[j]] < 0)
        elif rule == 'polarity_released':
            out.append((pol[e[i]] >= 0) != (pol[e[j]] >= 0))
        else:
            out.append(e[i] != e[j])
    return out


@pytest.mark.parametrize('unlabelled', ['skip', 'keep'])
@pytest.mark.parametrize('rule', [r for r in M.RULES if r != 'polarity_released_first'])
def test_rules_equal_a_loop_and_dialogues_do_not_mix(rule, unlabelled):
    g = np.random.default_rng(3)
    pol = M.polarities(IEMOCAP)
    rows = pd.concat(
        [
            pd.DataFrame(
                dict(
                    dialogue=f'd{k}',
                    turn=np.arange(n),
                    speaker=g.choice(list('ABC'), n),
                    label=g.choice([-1, 0, 1, 2, 3, 4, 5], n),
                )
            )
            for k, n in enumerate(g.integers(1, 25, 40))
        ],
        ignore_index=True,
    )
    flags = M.shift_flags(rows, rule, IEMOCAP, unlabelled=unlabelled)
    for _, d in rows.groupby('dialogue'):
        want = plain(d['label'].tolist(), d['speaker'].tolist(), rule, pol, unlabelled)
        assert flags[d.index].tolist() == want
        assert (
            M.is_shift(d['label'], d['speaker'], rule, polarity=pol, unlabelled=unlabelled).tolist()
            == want
        )
    shuffled = rows.sample(frac=1, random_state=0)
    assert np.array_equal(
        M.shift_flags(shuffled, rule, IEMOCAP, unlabelled=unlabelled), flags[shuffled.index]
    )


def test_directions_split_the_shifts():
    g = np.random.default_rng(4)
    e, s, pol = g.integers(0, 6, 400), g.integers(0, 2, 400), M.polarities(IEMOCAP)
    for rule in ('polarity_released', 'polarity_paper'):
        down, up = (
            M.is_shift(e, s, rule, polarity=pol, direction=d) for d in ('pos_to_neg', 'neg_to_pos')
        )
        assert not (down & up).any() and np.array_equal(
            down | up, M.is_shift(e, s, rule, polarity=pol)
        )
        assert (pol[e[down]] < 0).all() and (pol[e[up]] >= 0).all()


def test_names_serve_as_well_as_codes():
    g = np.random.default_rng(5)
    e, s = g.integers(0, 6, 50), g.integers(0, 3, 50)
    for rule in M.RULES:
        a = M.is_shift(e, s, rule, polarity=M.polarities(IEMOCAP))
        assert np.array_equal(
            a,
            M.is_shift(
                [IEMOCAP[i] for i in e], [f'speaker{i}' for i in s], rule, first_label='happy'
            ),
        ), rule


@pytest.mark.parametrize('kind', ['string', 'object', 'str'])
def test_frames_of_names_and_codes(kind):
    names, who = ['happy', 'sad', 'happy', 'neutral'], pd.Series(list('ABAB'), dtype=kind)
    want = M.is_shift(names, list('ABAB'), 'polarity_paper')
    assert want.any() and np.array_equal(
        M.is_shift(pd.Series(names, dtype=kind), who, 'polarity_paper'), want
    )
    assert np.array_equal(M.is_shift(np.array(names, object), who, 'polarity_paper'), want)
    assert np.array_equal(
        M.is_shift(pd.Series([0, 1, 1, -1], dtype=object), who), M.is_shift([0, 1, 1, -1], 'ABAB')
    )
    with pytest.raises(ValueError, match='mixes names'):
        M.is_shift(np.array(['happy', None], object), 'AB')


def test_empty_and_single():
    assert M.is_shift([], []).shape == (0,) and M.is_shift(
        pd.Series([], dtype='string'), []
    ).shape == (0,)
    for rule in M.RULES:
        assert M.is_shift(np.array([], int), [], rule, polarity=(1, -1)).shape == (0,)
    assert M.is_shift([1], 'A', 'polarity_released_first', polarity=(1, -1)).tolist() == [True]
    assert M.is_shift([-1, 1], 'AB', 'adjacent_any', first='in').tolist() == [
        False,
        True,
    ]  # the first labelled turn is the first
    assert M.is_shift(
        [1], 'A', 'polarity_released_first', polarity=(1, -1), first='out'
    ).tolist() == [False]


@pytest.mark.parametrize(
    'kw,says',
    [
        (dict(emotions=[0, 1], speakers=['A']), 'speakers has 1 turns'),
        (dict(emotions=[0, 1], speakers='AB', rule='same_speakers'), "did you mean 'same_speaker'"),
        (dict(emotions=[0, 1], speakers='AB', rule='polarity_paper'), 'polarity'),
        (dict(emotions=[0, 2], speakers='AB', rule='polarity_paper', polarity=(1, -1)), 'class 2'),
        (dict(emotions=[0, 1], speakers='AB', direction='pos_to_neg'), 'needs a polarity rule'),
        (
            dict(
                emotions=[0, 1],
                speakers='AB',
                rule='polarity_paper',
                polarity=(1, -1),
                direction='down',
            ),
            'unknown direction',
        ),
        (dict(emotions=[0, 1], speakers='AB', first='maybe'), 'first turns'),
        (dict(emotions=[0, 1], speakers='AB', unlabelled='drop'), 'unlabelled turns'),
        (dict(emotions=['happy', 'odd'], speakers='AB', rule='polarity_paper'), "'odd'"),
    ],
)
def test_bad_shift_arguments_are_named(kw, says):
    with pytest.raises(ValueError, match=says):
        M.is_shift(**kw)


def test_bad_tables_are_named():
    t = pd.DataFrame(dict(dialogue=['a', 'a'], turn=[0, 1], speaker=['A', 'B'], label=[0, 1]))
    with pytest.raises(ValueError, match="no column 'speaker'"):
        M.shift_flags(t.drop(columns='speaker'))
    with pytest.raises(ValueError, match='names of the classes'):
        M.shift_flags(t, 'polarity_paper')
    with pytest.raises(ValueError, match='unknown shift option'):
        M.shift_flags(t, frist='in')
    with pytest.raises(ValueError, match='real values'):
        M.shift_flags(t.assign(label=[0.5, 1.0]))
    with pytest.raises(ValueError, match='unknown slice'):
        M.slices(t, ['intra'], ['negative', 'positive'])


def test_slices_of_a_table():
    t = pd.DataFrame(
        dict(dialogue=list('aaab'), turn=[0, 1, 2, 0], speaker=list('ABAA'), label=[0, 1, 1, 0])
    )
    s = M.slices(t, classes=['happy', 'sad'])
    assert set(s) == set(M.SLICES) and all(f.dtype == bool and f.shape == (4,) for f in s.values())
    assert s['inter_es'].tolist() == [False, True, False, False] and s['intra_es'].tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert s['pos_to_neg'].tolist() == [False, True, False, False] and not s['neg_to_pos'].any()


@pytest.fixture(scope='module')
def iemocap(data):
    t = pd.read_csv(data / 'iemocap_text' / 'iemocap_utterances.csv')
    return t.assign(dialogue=t.dialogue_id, turn=t.position)


def test_real_shift_rates(iemocap):
    "The released pairs' rates, and what the paper's own words give (data README)."
    label = (
        iemocap.label6.map(dict(hap=0, sad=1, neu=2, ang=3, exc=4, fru=5)).fillna(-1).astype(int)
    )
    t = iemocap.assign(label=label)
    pairs = (label >= 0) & (t[label >= 0].groupby('dialogue').cumcount().reindex(t.index) > 0)
    test = t.split == 'test'
    assert (pairs & ~test).sum() == 5690 and (pairs & test).sum() == 1592
    released, paper = (
        M.shift_flags(t, 'polarity_released', IEMOCAP),
        M.shift_flags(t, 'polarity_paper', IEMOCAP),
    )
    rate = lambda flags, rows: round(100 * flags[rows].mean(), 2)
    assert (rate(released, pairs & ~test), rate(released, pairs & test)) == (22.99, 22.61)
    assert (rate(paper, (label >= 0) & ~test), rate(paper, (label >= 0) & test)) == (2.41, 2.28)


def test_real_shifts_per_conversation(iemocap):
    "DialogueTRM's counts per test conversation, on the copy with the corpus's own labels."
    names = ['hap', 'sad', 'neu', 'ang', 'exc', 'fru']
    t = iemocap[iemocap.split == 'test'].assign(
        label=lambda d: d.emoeval.map({n: i for i, n in enumerate(names)}).fillna(-1).astype(int)
    )
    got = {
        r: round(M.shift_flags(t, r).sum() / t.dialogue.nunique(), 2)
        for r in ('same_speaker', 'adjacent_any', 'adjacent_other', 'last_other')
    }
    assert got == dict(
        same_speaker=13.16, adjacent_any=21.97, adjacent_other=18.87, last_other=27.10
    )
    assert (
        round(M.shift_flags(t, 'same_speaker', unlabelled='keep').sum() / t.dialogue.nunique(), 2)
        == 8.84
    )
