"MOSEI: the rebuilt videos, damaged pairs."

import pickle

import pandas as pd
import pytest
from corpus_files import linked

from erc.data.mosei import MOSEI
from erc.data.registry import load_corpus
from erc.data.unpickle import safe_unpickle


def test_mosei_is_the_rebuilt_videos(data):
    t, v = (
        load_corpus('mosei', root=data).table,
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
    p = MOSEI.public[1]
    root = linked(
        data / 'shift_pairs', tmp_path / 'shift_pairs', 'MOSEI/siamese_data/siamese_test'
    ).parent
    (root / p).write_bytes(pickle.dumps(change(safe_unpickle(data / p))))
    with pytest.raises(ValueError, match=r'siamese_test\.pickle: .*' + message):
        load_corpus('mosei', root=root)
