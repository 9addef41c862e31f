"MOSI: damaged files, features that know labels."

import numpy as np
import pandas as pd
import pytest
from corpus_files import linked

from erc.data.mosi import _KNOWS_LABELS, _MOSI
from erc.data.registry import load_corpus

JOINED = _MOSI['mosi'].joined


def test_wrong_numbers_of_mosi_are_named(data, tmp_path):
    root = linked(data, tmp_path, JOINED[0])
    for column in ('sentiment', 'valence'):
        t = pd.read_csv(data / JOINED[0], dtype=str, keep_default_na=False)
        t.loc[3, column] = 'much'
        t.to_csv(root / JOINED[0], index=False)
        with pytest.raises(
            ValueError, match=rf"mosi_utterances\.csv: column '{column}', row 3: 'much'"
        ):
            load_corpus('mosi', root=root)


def test_features_of_other_rows_are_refused(data, tmp_path):
    root = linked(data, tmp_path, 'mosi/mosi_features')
    z = dict(np.load(data / 'mosi/mosi_features.npz'))
    np.savez(root / 'mosi/mosi_features.npz', **{**z, 'audio': z['audio'][:-1]})
    with pytest.raises(
        ValueError,
        match=r"mosi_features\.npz: array 'audio' has shape \(2198, \d+\), expected 2199 rows",
    ):
        load_corpus('mosi', root=root)
    np.savez(root / 'mosi/mosi_features.npz', **{**z, 'audio': z['audio'].astype(object)})
    with pytest.raises(ValueError, match='member audio.npy: an array of objects'):
        load_corpus('mosi', root=root)


def test_features_that_know_labels_stay_with_videos_whose_labels_they_do_not_know(data):
    names = ('mosi', 'mosi_within', 'mosi_released')
    mosi, within, released = (load_corpus(name, root=data) for name in names)
    assert set(mosi.features) == {'audio'}
    assert set(_KNOWS_LABELS) == set(released.features) - {'audio'}
    assert mosi.table.equals(released.table)
    tested = released.table[released.table['split'] == 'test'].reset_index(drop=True)
    assert within.table.drop(columns='split').equals(tested.drop(columns='split'))
    assert np.array_equal(within.features['text'], released.features['text'][released.rows('test')])
    parts = within.table.groupby('split')['dialogue'].nunique()
    assert parts.to_dict() == {'train': 19, 'dev': 2, 'test': 10}
    assert any('know' in note for note in released.provenance['notes'])
