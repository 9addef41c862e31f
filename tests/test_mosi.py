"MOSI: damaged files."

import numpy as np
import pandas as pd
import pytest
from corpus_files import linked

from erc.data.mosi import MOSI
from erc.data.registry import load_corpus


def test_wrong_numbers_of_mosi_are_named(data, tmp_path):
    root = linked(data, tmp_path, MOSI.joined[0])
    for column in ('sentiment', 'valence'):
        t = pd.read_csv(data / MOSI.joined[0], dtype=str, keep_default_na=False)
        t.loc[3, column] = 'much'
        t.to_csv(root / MOSI.joined[0], index=False)
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
