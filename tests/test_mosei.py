"MOSEI: official labels in the order of time, the rebuilt videos, damaged files."

import pickle

import numpy as np
import pandas as pd
import pytest
from corpus_files import linked

from erc.data.mosei import _EMOTIONS, _MOSEI
from erc.data.registry import load_corpus
from erc.data.unpickle import safe_unpickle


@pytest.fixture(scope='module')
def segments(data):
    path = data / 'mosei/mosei_segments.csv'
    table = pd.read_csv(path, dtype={'video_id': str}, keep_default_na=False)
    return table[(table['split'] != 'none') & (table['text'] != '')]


def test_mosei_has_the_official_labels_in_the_order_of_time(data, segments):
    t = load_corpus('mosei', root=data).table
    rows = segments.set_index(['video_id', 'segment'])
    official = rows.loc[[*zip(t['dialogue'], t['segment'].astype(int))]]
    assert len(t) == len(rows) and official.index.is_unique
    assert (t['text'].to_numpy() == official['text']).all()
    assert np.array_equal(t['valence'], official['sentiment'])
    assert np.array_equal(t['label'], official['sentiment'] >= 0)
    assert np.array_equal(t['split'].replace('dev', 'valid'), official['split'])
    later = t['start'].diff().to_numpy()[1:] >= 0
    assert later[(t['dialogue'] == t['dialogue'].shift()).to_numpy()[1:]].all()
    assert _MOSEI['mosei'].own_dev


def test_emotions_of_mosei_are_six_tasks(data, segments):
    corpora = {name: load_corpus(f'mosei_{name}', root=data) for name in ('emotions', *_EMOTIONS)}
    table = corpora['emotions'].table
    for name in _EMOTIONS:
        binary = corpora[name]
        assert binary.classes == ('absent', 'present')
        assert binary.table['label'].sum() == (segments[name] > 0).sum()
        assert np.array_equal(binary.table['label'], table[name])
    classes = corpora['emotions'].classes
    assert classes == ('none', *_EMOTIONS)
    nothing = (table[list(_EMOTIONS)] == 0).all(axis=1)
    assert np.array_equal(table['label'] == 0, nothing)
    present = table[~nothing]
    assert all(present[classes[code]].loc[i] == 1 for i, code in present['label'].items())


def test_mosei_released_is_the_rebuilt_videos(data):
    t, v = (
        load_corpus('mosei_released', root=data).table,
        pd.read_csv(data / 'shift_pairs/mosei_videos.csv', keep_default_na=False),
    )
    for ours, theirs in (
        ('text', 'text'),
        ('label', 'sentiment'),
        ('sentiment', 'sentiment'),
        ('shift', 'shift_as_released'),
        ('pair_row', 'pair_row'),
        ('turn', 'position'),
        ('ambiguous', 'ambiguous_chain'),
    ):
        assert (t[ours] == v[theirs]).all(), ours
    assert (t['split'].replace('dev', 'train') == v['split']).all()


@pytest.mark.parametrize(
    'change,message',
    [
        (lambda x: x[:-1], 'pairs belong to no video'),
        (lambda x: dict(enumerate(x)), 'a dict, expected a list of pairs'),
        (lambda x: [p[:2] for p in x], 'pair 0 is not'),
        (lambda x: [*x[:5], (*x[5][:2], 7)], 'pair 5 is not'),
    ],
)
def test_bad_pairs_are_named(data, tmp_path, change, message):
    p = _MOSEI['mosei_released'].public[1]
    root = linked(
        data / 'shift_pairs', tmp_path / 'shift_pairs', 'MOSEI/siamese_data/siamese_test'
    ).parent
    (root / p).write_bytes(pickle.dumps(change(safe_unpickle(data / p))))
    with pytest.raises(ValueError, match=r'siamese_test\.pickle: .*' + message):
        load_corpus('mosei_released', root=root)
