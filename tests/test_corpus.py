"What a corpus may be, what is refused, the dev split, what is shown."

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from erc.data.corpus import Corpus, Source, _dev_dialogues, validate


def test_import_needs_no_torch():
    code = "import sys; import erc.data.corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.fixture
def toy():
    t = pd.DataFrame(
        [
            ('a', 0, 'x', 'Hm.', 0, 'train'),
            ('a', 1, 'y', 'Ha!', 1, 'train'),
            ('b', 0, 'x', 'Oh.', -1, 'dev'),
            ('c', 0, 'x', 'No.', 1, 'test'),
        ],
        columns=['dialogue', 'turn', 'speaker', 'text', 'label', 'split'],
    )
    return validate(
        Corpus(
            'toy',
            'emotion',
            ('glum', 'glad'),
            t,
            {'audio': np.zeros((4, 2), np.float32)},
            {'audio': np.ones(4, bool)},
        )
    )


@pytest.mark.parametrize(
    'change,message',
    [
        (lambda t: t.drop(columns='speaker'), "no column 'speaker'"),
        (lambda t: t.assign(label=[0, 2, -1, 1]), 'unknown label 2 in row 1'),
        (lambda t: t.assign(label=[0, 1, -2, 1]), 'unknown label -2 in row 2'),
        (lambda t: t.assign(label=[0.5, 1, 0, 1]), 'labels are float64'),
        (lambda t: t.assign(split=['train', 'test', 'dev', 'test']), "dialogue 'a' is in 2 splits"),
        (
            lambda t: t.assign(split=['training'] * 2 + ['dev', 'test']),
            "unknown split 'training'; did you mean 'train'",
        ),
        (lambda t: t.assign(turn=[1, 0, 0, 0]), "dialogue 'a' row 0 is turn 1, expected 0"),
        (
            lambda t: t.iloc[[0, 2, 1, 3]].reset_index(drop=True),
            "rows of dialogue 'a' are not contiguous",
        ),
        (lambda t: t.assign(dialogue=['a', 'a', '', 'c']), 'row 2 has no dialogue name'),
        (lambda t: t.assign(dialogue=['a', 'a', 'b', np.nan]), 'row 3 has no dialogue name'),
        (lambda t: t.iloc[::-1], 'not 0..N-1'),
    ],
)
def test_bad_tables(toy, change, message):
    with pytest.raises(ValueError, match=f'corpus toy.*{message}'):
        validate(toy.replace(table=change(toy.table)))


def test_regression_labels_are_finite(toy):
    real = toy.replace(task='regression', classes=(), table=toy.table.assign(label=[0.5, 1, 2, 3]))
    validate(real)
    with pytest.raises(ValueError, match='unknown label nan in row 1'):
        validate(real.replace(table=real.table.assign(label=[0.5, np.nan, 2, 3])))


def test_bad_features(toy):
    x = np.zeros((4, 2), np.float32)
    x[2, 1] = np.nan
    for bad, message in (
        (x, "features 'audio': nan in row 2, column 1"),
        (np.zeros((3, 2)), r'shape \(3, 2\), but the table has 4 rows'),
        (np.zeros(4), 'shape'),
    ):
        with pytest.raises(ValueError, match=message):
            toy.with_features(audio=bad)
    with pytest.raises(ValueError, match='float64, expected float32'):
        validate(toy.replace(features={'audio': np.zeros((4, 2))}))
    with pytest.raises(ValueError, match='flags'):
        validate(toy.replace(has={}))
    with pytest.raises(ValueError, match='flags'):
        validate(toy.replace(has={'audio': np.ones(3, bool)}))
    assert (
        toy.with_features(text=(np.ones((4, 3)), [True, False, True, True])).has['text'].sum() == 3
    )


def test_digest_sees_everything(toy):
    x = np.zeros((4, 2), np.float32)
    x[0, 0] = 1
    changed = [
        toy,
        toy.replace(table=toy.table.assign(label=[1, 1, -1, 1])),
        toy.replace(features={'audio': x}),
        toy.replace(has={'audio': np.array([True] * 3 + [False])}),
        toy.replace(classes=('glad', 'glum')),
        toy.with_features(text=x),
    ]
    assert len({c.digest() for c in changed}) == len(changed)
    assert toy.replace(name='other', provenance={'licence': 'x'}).digest() == toy.digest()


def test_dev_cut_is_keyed():
    t = pd.DataFrame(
        [(f'd{i}', 'train' if i < 50 else 'test', i % 3) for i in range(60) for _ in range(3)],
        columns=['dialogue', 'split', 'label'],
    )
    np.random.seed(1)
    a = _dev_dialogues(t)
    np.random.seed(2)
    assert (
        a == _dev_dialogues(t) == _dev_dialogues(t.sample(frac=1, random_state=3)) and len(a) == 5
    )
    assert a != _dev_dialogues(t, seed=1) and not {int(d[1:]) for d in a} & set(range(50, 60))


# ---- what is shown ---------------------------------------------------------------------


def test_repr_is_short(toy):
    assert repr(toy) == (
        'Corpus toy: emotion, 2 classes; 4 utterances (train 2, dev 1, test 1) in 3 dialogues; '
        'audio 2'
    )
    many = toy.with_features(**{f'feature_{i}': np.zeros((4, 3)) for i in range(99)})
    assert len(repr(many.replace(name='x' * 999))) < 400 and repr(many).endswith(' ...')
    real = toy.replace(task='regression', classes=(), features={}, has={})
    assert 'regression, real values' in repr(real) and repr(real).endswith('no features')


def table_rows(html):
    return [re.findall('<t[hd].*?>(.*?)</t[hd]>', row) for row in re.split('<tr', html)[1:]]


def test_html_shows_counts_and_coverage(toy):
    flags = [True, False, True, True]
    html = (
        toy.with_features(**{'<b>': (np.ones((4, 3)), flags)}).replace(name='<toy>')._repr_html_()
    )
    rows = table_rows(html.replace('\n', ''))
    assert rows[0][-3:] == ['train', 'dev', 'test']
    assert ['utterances', '2', '1', '1'] in rows and ['glad', '1', '0', '1'] in rows
    assert ['&lt;b&gt;', '3', '50%', '100%', '100%'] in rows
    assert '<toy>' not in html and '<b>' not in html


def test_an_invalid_corpus_can_be_looked_at(toy):
    broken = toy.replace(table=toy.table.drop(columns=['split', 'label']))
    assert 'no column label, split' in repr(broken) and 'not valid' in broken._repr_html_()
    wrong = toy.replace(table=toy.table.assign(label=[0, 7, 0, 1], split=['a', 'b', 'c', 'test']))
    assert '4 utterances' in repr(wrong) and '<table' in wrong._repr_html_()


def test_unknown_split_is_one_sentence(toy):
    with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'?"):
        toy.rows('tset')


# ---- where it comes from -----------------------------------------------------------------


def test_source_prefers_joined_files_and_the_first_alternative(tmp_path):
    source = Source(
        None, public=('a', 'b'), joined=('ab',), optional=(('x', 'y'), ('z',)), notes=('n',)
    )
    for name in ('a', 'y'):
        (tmp_path / name).write_text(name)
    assert source.missing(tmp_path) == ['b'] and source.missing_features(tmp_path) == ['z']
    (tmp_path / 'ab').write_text('ab')
    assert source.missing(tmp_path) == [] and source.files(tmp_path) == ['ab', 'y']
    provenance = source.provenance(tmp_path)
    assert list(provenance['files']) == ['ab', 'y'] and provenance['notes'] == ['n']
