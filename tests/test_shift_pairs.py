"The released pairs of the shift network, rebuilt."

import pickle
from collections import Counter

import pandas as pd
import pytest
from corpus_files import linked

from erc.core import sha256_of
from erc.data.registry import load_corpus
from erc.data.shift_pairs import _PAIR_FILES, _pair_provenance, shift_pairs
from erc.data.unpickle import safe_unpickle


@pytest.mark.parametrize(
    'name,train,test', [('mosei', 18191, 4655), ('iemocap4', 3480, 912), ('iemocap6', 5690, 1592)]
)
def test_shift_pairs_are_the_released_ones(data, name, train, test):
    p = shift_pairs(name, root=data)
    assert ((p['split'] != 'test').sum(), (p['split'] == 'test').sum()) == (train, test)
    for split in ('train', 'test'):
        released = safe_unpickle(data / _PAIR_FILES[name].format(split))
        mine = p[(p['split'] == 'test') == (split == 'test')]
        assert Counter(map(tuple, released)) == Counter(
            mine[['previous', 'text', 'label']].itertuples(index=False, name=None)
        )
    c = load_corpus(
        {'iemocap4': 'iemocap4_shapes', 'mosei': 'mosei_released'}.get(name, name), root=data
    ).table.set_index(['dialogue', 'turn'])
    here = c.loc[pd.MultiIndex.from_frame(p[['dialogue', 'turn']])]
    assert (here['text'].to_numpy() == p['text'].to_numpy()).all() and (
        here['split'].to_numpy() == p['split'].to_numpy()
    ).all()


def test_changed_pairs_are_refused(data, tmp_path):
    root = linked(data, tmp_path, 'shift_pairs/IEMOCAP/six_class/siamese_data/siamese_test')
    path = root / _PAIR_FILES['iemocap6'].format('test')
    pairs = safe_unpickle(data / _PAIR_FILES['iemocap6'].format('test'))
    path.write_bytes(pickle.dumps([(pairs[0][0], pairs[0][1], 1 - pairs[0][2]), *pairs[1:]]))
    with pytest.raises(ValueError, match='1 of its pairs are not in iemocap6'):
        shift_pairs('iemocap6', root=root)


@pytest.mark.parametrize('name', _PAIR_FILES)
def test_provenance_of_pairs(data, name):
    p = _pair_provenance(name, root=data)
    assert {_PAIR_FILES[name].format(s) for s in ('train', 'test')} <= set(
        p['files']
    ) and 'CC BY-NC 4.0' in p['licence']
    assert all(sha256_of(data / f) == h for f, h in p['files'].items()) and p['stands_for'] is None
