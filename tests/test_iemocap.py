"IEMOCAP: ratings, unlabelled turns, three readings of happy, one dev split, ids from public files."

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from corpus_files import linked

from erc.data.iemocap import _IEMOCAP, _IEMOCAP4, _IEMOCAP6, _all_turns, _vote_shares
from erc.data.registry import load_corpus

TABLE = _IEMOCAP['iemocap6'].joined[0]


def test_all_turns_of_iemocap_with_a_rating(data):
    c = load_corpus('iemocap_vad', root=data)
    assert len(c) == 10039 and c.task == 'regression' and c.classes == () and c.has['audio'].all()
    assert (
        np.isfinite(c.table[['label', 'valence', 'activation', 'dominance']]).all().all()
        and (c.table['label'] == c.table['valence']).all()
    )
    y = np.load(data / 'iemocap_audio/y_egemaps.npy')
    rows = (
        pd.read_csv(data / 'iemocap_audio/row_ids.csv')
        .set_index('utterance_id')['row'][c.table['id']]
        .to_numpy()
    )
    np.testing.assert_allclose(c.table[['valence', 'activation', 'dominance']], y[rows])
    np.testing.assert_array_equal(
        c.features['audio'], np.load(data / 'iemocap_audio/feat_ws_3.npy')[rows].astype(np.float32)
    )


@pytest.mark.parametrize(
    'name,classes',
    [('iemocap6', _IEMOCAP6), ('iemocap4', _IEMOCAP4), ('iemocap4_shapes', _IEMOCAP4)],
)
def test_unlabelled_turns_are_context(data, name, classes):
    full, c = load_corpus(name, root=data, keep_unlabelled=True), load_corpus(name, root=data)
    assert (
        len(full) == 10087
        and (full.table['label'] >= 0).sum() == len(c)
        and set(full.table['label']) == {-1, *range(len(classes))}
    )
    assert (~full.has['audio']).sum() == 48 and not full.features['audio'][~full.has['audio']].any()
    said = full.table[full.table['label'] >= 0].reset_index(drop=True)
    assert (said['id'] == c.table['id']).all() and (said['split'] == c.table['split']).all()
    assert (full.table['turn'] == full.table['position']).all()


def test_the_three_happy_sets(data):
    six, four, shapes = (
        load_corpus(n, root=data).table.set_index('id')['label']
        for n in ('iemocap6', 'iemocap4', 'iemocap4_shapes')
    )
    merged = six[six.isin([0, 4])].index
    assert len(set(merged) - set(four.index)) == 53 and set(four[four == 0].index) <= set(merged)
    assert set(shapes[shapes == 0].index) == set(six[six == 0].index)


def test_one_dev_cut_for_all_of_iemocap(data):
    tables = [load_corpus(name, root=data).table for name in _IEMOCAP]
    dev, *others = [set(t.loc[t['split'] == 'dev', 'dialogue']) for t in tables]
    assert all(dev == other for other in others)
    assert Counter(name[4] for name in dev) == {'1': 3, '2': 3, '3': 3, '4': 3}


def test_joining_iemocap_gets_the_ids_right(data, public):
    a, b = _all_turns(data, 'iemocap6'), _all_turns(public, 'iemocap6')
    assert (a['dialogue'] == b['dialogue']).all() and (a['label4'] == b['label4']).all()
    wrong = a['audio_row'] != b['audio_row']
    assert (
        wrong.sum() == 2 and not a['label6'][wrong].any()
    )  # one turn of a speaker without an id changed places with its neighbour
    assert (a['id'] != b['id'])[a['audio_row'] >= 0].sum() == 1


@pytest.mark.parametrize('name', ['iemocap4', 'iemocap4_shapes', 'iemocap6'])
@pytest.mark.parametrize('column', ['label6', 'label4', 'valence', 'position'])
def test_a_wrong_cell_of_iemocap_is_named(data, tmp_path, name, column):
    root = linked(data, tmp_path, TABLE)
    t = pd.read_csv(data / TABLE, dtype=str, keep_default_na=False)
    t.loc[7, column] = 'hapy'
    t.to_csv(root / TABLE, index=False)
    if column == 'label4' and name != 'iemocap4':
        assert len(load_corpus(name, root=root))  # it is not read
    else:
        message = (
            r"unknown label 'hapy'; did you mean 'happy'"
            if column.startswith('label')
            else rf"column '{column}', row 7: 'hapy' is not a"
        )
        with pytest.raises(ValueError, match=r'iemocap_utterances\.csv(, row 7)?: ' + message):
            load_corpus(name, root=root)


def test_agreement_is_the_share_of_votes_for_the_label(data, tmp_path):
    votes = pd.read_csv(data / 'iemocap_text/iemocap_votes.csv').set_index('utterance_id')
    six, four = (load_corpus(name, root=data) for name in ('iemocap6', 'iemocap4'))
    short = {'happy': 'hap', 'frustrated': 'fru', 'excited': 'exc'}
    for corpus in (six, four):
        rows = corpus.table.iloc[::97]
        for row in rows.itertuples():
            name = corpus.classes[row.label]
            share = votes.loc[row.id, short.get(name, name[:3])]
            if corpus is four and name == 'happy':
                share += votes.loc[row.id, 'exc']
            assert abs(row.agreement - share) < 1e-3
    shares = _vote_shares(six, root=data)
    assert shares.shape == (len(six), 6) and shares.sum(1).max() < 1.001
    picked = shares[np.arange(len(six)), six.table['label']]
    assert np.allclose(picked, six.table['agreement'], atol=1e-4)
    bare = load_corpus('iemocap6', root=linked(data, tmp_path, 'iemocap_text/iemocap_votes'))
    assert bare.table['agreement'].isna().all()
    with pytest.raises(FileNotFoundError, match='iemocap_votes'):
        _vote_shares(bare, root=tmp_path)
    with pytest.raises(ValueError, match='corpus of votes'):
        _vote_shares(load_corpus('demo'))
