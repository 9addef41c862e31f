"Corpora by name: counts, shape, dev splits, the same from public files, missing files."

import time

import numpy as np
import pandas as pd
import pytest
from corpus_files import linked

from erc.data.registry import CORPORA, load_corpus
from erc.data.shift_pairs import shift_pairs

REAL = [n for n in CORPORA if n != 'demo']
ABSENT = ('m3ed', 'emowoz')  # given out on request, or too large: read from invented files
OFFICIAL_MOSEI = [n for n in CORPORA if n.startswith('mosei') and n != 'mosei_released']


COUNTS = {  # dialogues, then utterances: train (with what became dev), dev if official, test
    'meld': ((1038, 114, 280), (9989, 1109, 2610)),
    'iemocap6': ((120, 31), (5810, 1623)),
    'iemocap4': ((120, 31), (4290, 1241)),
    'iemocap4_shapes': ((120, 31), (3600, 943)),
    'mosi': ((62, 31), (1447, 752)),
    'mosi_released': ((62, 31), (1447, 752)),
    'mosei_released': ((2546, 675), (18191, 4655)),
    'emorynlp': ((659, 89, 79), (7551, 954, 984)),
    'dailydialog': ((994 - 55, 995 - 13, 996), (6898, 7907, 7716)),
}


@pytest.mark.parametrize('name', COUNTS)
def test_counts(data, name):
    c = load_corpus(name, root=data)
    own_dev = c.provenance['own_dev']
    split = c.table['split'] if own_dev else c.table['split'].replace('dev', 'train')
    order = [s for s in ('train', 'dev', 'test') if s in set(split)]
    assert tuple(c.table.groupby(split)['dialogue'].nunique()[order]) == COUNTS[name][0]
    assert tuple(split.value_counts()[order]) == COUNTS[name][1]


@pytest.mark.parametrize('name', [n for n in CORPORA if n not in ABSENT])
def test_shape_speed_and_provenance(data, name):
    start = time.perf_counter()
    c = load_corpus(name, root=data)
    assert time.perf_counter() - start < 2
    assert c.provenance['stands_for'] is None and c.provenance['licence'] and c.provenance['notes']
    assert all(len(h) == 64 for h in c.provenance['files'].values()) and (
        name == 'demo' or c.provenance['files']
    )
    assert (
        c.table.index.equals(pd.RangeIndex(len(c)))
        and not c.table.drop(columns=['valence', 'activation', 'dominance'], errors='ignore')
        .isna()
        .any()
        .any()
    )
    for k, x in c.features.items():
        assert x.dtype == np.float32 and x.shape[0] == len(c) and c.has[k].dtype == bool
    assert c.digest() == load_corpus(name, root=data).digest()


@pytest.mark.parametrize('name,n', [('iemocap6', 12), ('mosi', 6), ('mosei_released', 255)])
def test_dev_is_a_tenth_of_training_dialogues(data, name, n):
    t = load_corpus(name, root=data).table
    assert t.loc[t['split'] == 'dev', 'dialogue'].nunique() == n
    assert t.groupby('dialogue')['split'].nunique().max() == 1
    train, dev = (
        t.loc[t['split'] == s, 'label'].value_counts(normalize=True) for s in ('train', 'dev')
    )
    assert (train - dev).abs().max() < (0.15 if n == 6 else 0.1)  # six videos allow no better


@pytest.mark.parametrize(
    'name', [n for n in REAL if n not in (*OFFICIAL_MOSEI, *ABSENT, 'dailydialog')]
)
def test_public_files_give_the_same_corpus(data, public, name):
    a, b = load_corpus(name, root=data), load_corpus(name, root=public)
    same = [k for k in a.table if k not in ('id', 'text', 'valence', 'position', 'agreement')]
    pd.testing.assert_frame_equal(a.table[same], b.table[same])
    if 'id' in a.table:
        assert (a.table['id'] == b.table['id']).all()
    if 'position' in a.table:
        assert (a.table['position'] != b.table['position']).sum() <= (
            name == 'iemocap_vad'
        )  # one unlabelled turn is a guess
    squeezed = [t['text'].str.split().str.join(' ') for t in (a.table, b.table)]
    assert (squeezed[0] == squeezed[1]).mean() > 0.93 and (
        name == 'iemocap_vad' or (a.table['text'] == b.table['text']).all()
    )
    if 'valence' in a.table:
        np.testing.assert_allclose(a.table['valence'], b.table['valence'], atol=1e-4)
    for k in b.features:
        np.testing.assert_allclose(
            b.features[k][b.has[k]], a.features[k][b.has[k]], rtol=1e-5, atol=1e-6
        )
    assert set(b.features) == set(a.features) - {'text_roberta', 'audio_wav2vec2'}
    for k in b.features:
        where = (
            a.table['split'] == 'dev' if name == 'meld' else slice(None)
        )  # MELD's test features are not in the folder
        assert (a.has[k][where] == b.has[k][where]).all() and b.has[k].any()


def test_missing_files_say_what_to_do(data, tmp_path):
    for name in REAL:
        with pytest.raises(FileNotFoundError, match=f'erc data get {name}'):
            load_corpus(name, root=tmp_path)
    root = linked(data, tmp_path / 'some', 'meld/test_', 'shift_pairs/IEMOCAP')
    with pytest.raises(FileNotFoundError, match='meld/test_sent_emo.csv is not in'):
        load_corpus('meld', root=root)
    with pytest.raises(FileNotFoundError, match='erc data get shift_pairs'):
        shift_pairs('iemocap6', root=root)


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown corpus 'iemocap_6'; did you mean 'iemocap6'"):
        load_corpus('iemocap_6')
    with pytest.raises(ValueError, match='set of shift pairs'):
        shift_pairs('mosi')
