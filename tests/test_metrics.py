"Scores equal those of scikit-learn, scipy and the authors; bad input is named."

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from erc.evidence import metrics as M
from erc.evidence.intervals import interval


@pytest.fixture(params=range(4))
def labelled(request):
    "Return true and predicted classes; some classes are absent from one or both."
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


def test_leading_axes_equal_a_loop(labelled):
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
    # predictions for unlabelled turns do not matter, not even impossible ones
    assert np.array_equal(M.confusion(y, [0, -1, 1, 99], 2), [[1, 0], [0, 1]])
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
    with pytest.raises(ValueError, match="'class_f1:b' needs the names of the classes"):
        interval(c[None, None], 'class_f1:b')
    with pytest.raises(ValueError, match="unknown class 'x'"):
        M.metric('class_f1:x', 'abc')
    with pytest.raises(ValueError, match='unknown metric'):
        M.metric('f1')
    with pytest.raises(ValueError, match="write 'class_f1:NAME' with one of a, b, c"):
        M.metric('class_f1', 'abc')
    with pytest.raises(ValueError, match="write it without ':b'"):
        M.metric('accuracy:b', 'abc')
    with pytest.raises(ValueError, match="write 'class_recall:NAME'"):
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
        M.pearson_of(M.moments(hole, p, groups).sum(-2)),
        M.pearson_r(hole, p),
        atol=1e-10,
    )
    assert M.pearson_r(y, np.full(200, 0.3)) == 0
    with pytest.raises(ValueError, match='one prediction per row'):
        M.pearson_r(y, y[1:])


# scores of other corpora


def test_micro_f1_without_a_class_is_scikit_learns():
    from sklearn.metrics import f1_score

    from erc.evidence.metrics import confusion, metric

    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    counts, names = confusion(y, p, 4), ('neutral', 'joy', 'anger', 'fear')
    for k, name in enumerate(names):
        others = [c for c in range(4) if c != k]
        expected = f1_score(y, p, labels=others, average='micro')
        np.testing.assert_allclose(metric(f'micro_f1:-{name}', names)(counts), expected)
    np.testing.assert_allclose(metric('micro_f1')(counts), f1_score(y, p, average='micro'))
    for wrong in ('micro_f1:joy', 'weighted_f1:-joy'):
        with pytest.raises(ValueError, match='single score'):
            metric(wrong, names)
    with pytest.raises(ValueError, match="did you mean 'joy'"):
        metric('micro_f1:-jyo', names)


@pytest.mark.parametrize(
    'y,p', [([0, 1], [0.2, 0.9]), ([0, 1.7], [0, 1]), ([0, 1], [0, np.nan]), ([0, 1], ['0', '1'])]
)
def test_codes_that_are_not_whole_are_refused(y, p):
    with pytest.raises(ValueError, match='whole numbers'):
        M.confusion(y, p, 3)


def test_concordance_and_correlation_do_not_hide_what_is_not_finite():
    from erc.evidence.metrics import ccc, moments, pearson_of, pearson_r

    rng = np.random.default_rng(0)
    y, p = rng.normal(size=50), rng.normal(size=50)
    expected = 2 * np.cov(y, p, bias=True)[0, 1]
    expected /= y.var() + p.var() + (y.mean() - p.mean()) ** 2
    np.testing.assert_allclose(ccc(y, p), expected)
    for bad in (np.nan, np.inf):
        broken = np.r_[bad, p[1:]]
        for score in (pearson_r, ccc):
            assert np.isnan(score(y, broken)) and np.isfinite(score(y, p))
        assert np.isnan(pearson_of(moments(y, broken)))


def test_values_by_both_customs_and_by_hand():
    from erc.evidence.metrics import acc2, acc7, mae

    y = np.array([-2, -0.4, 0, 0, 0.2, 1.6, 3, np.nan])
    p = np.array([-1.5, 0.3, -0.1, 0.2, 0.1, 2.4, 5.2, 9])
    assert acc2(y, p) == pytest.approx(5 / 7) and acc2(y, p, zero=False) == pytest.approx(4 / 5)
    assert acc7(y, p) == pytest.approx(7 / 7) and mae(y, p) == pytest.approx(4.6 / 7)
    with pytest.raises(ValueError, match='not finite'):
        mae(y, p * np.nan)


def test_calibration_error_is_that_of_torchmetrics():
    "Values of torchmetrics 1.9.0, multiclass_calibration_error, norm l1, of the same arrays."
    from erc.evidence.metrics import ece

    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4) / 3, 300)
    y = np.where(rng.random(300) < 0.7, p.argmax(1), rng.integers(0, 4, 300))
    for bins, expected in {15: 0.165177, 10: 0.167168}.items():
        assert ece(y, p, bins) == pytest.approx(expected, abs=2e-6)
    with pytest.raises(ValueError, match='no probabilities'):
        ece(y, p * 2)
    with pytest.raises(ValueError, match='one row of probabilities'):
        ece(y, p[:5])
