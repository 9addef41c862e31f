"MELD: order of classes, features, encodings, damaged files."

import os
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from corpus_files import linked

from erc.data.meld import _MELD_CLASSES
from erc.data.registry import load_corpus
from erc.data.unpickle import safe_unpickle


def test_meld_order_is_the_pickles(data):
    emotions = safe_unpickle(data / 'meld/meld.pkl')[1]
    t = load_corpus('meld', root=data).table
    assert list(t.loc[t['dialogue'] == 'train_0', 'label']) == list(emotions[0])
    assert list(t.loc[t['dialogue'] == 'test_279', 'label']) == list(emotions[1432])
    assert _MELD_CLASSES[0] == 'neutral' and _MELD_CLASSES[6] == 'anger'


def test_meld_features_are_where_they_are(data):
    c = load_corpus('meld', root=data)
    at = {k: Counter(c.table['split'][h]) for k, h in c.has.items()}
    assert at == {
        'visual': {'dev': 1102, 'test': 2599},
        'text_roberta': {'dev': 1108},
        'audio_wav2vec2': {'dev': 1108},
    }
    aus = safe_unpickle(data / 'meld/dev_vis_3_35_intervals_aus.pickle')
    i = int(np.flatnonzero(c.table['id'] == 'dev_dia47_utt4')[0])
    np.testing.assert_allclose(c.features['visual'][i], aus['47_4'], rtol=1e-5)


def test_old_encoding_of_meld_dev_gives_the_same_table(data, tmp_path):
    root = linked(data / 'meld', tmp_path / 'meld', 'dev_sent_emo')
    os.symlink(data / 'meld/old_encoding/dev_sent_emo.csv', root / 'dev_sent_emo.csv')
    old, new = load_corpus('meld', root=tmp_path), load_corpus('meld', root=data)
    pd.testing.assert_frame_equal(old.table, new.table)
    assert old.digest() == new.digest()
    assert (
        not old.table['text'].str.contains('[\x80-\x9f]', regex=True).any()
        and old.table['text'].str.contains('’').sum() > 1000
    )


@pytest.mark.parametrize(
    'change,message',
    [
        (lambda s: s.replace('Emotion', 'Feeling', 1), r"dev_sent_emo\.csv: no column 'Emotion'"),
        (
            lambda s: s.replace(',anger,', ',angry,', 1),
            r"dev_sent_emo\.csv, row \d+: unknown label 'angry'; did you mean 'anger'",
        ),
        (
            lambda s: s.replace(',anger,', ',,', 1),
            r"dev_sent_emo\.csv, row \d+: unknown label ''",
        ),
        (
            lambda s: re.sub(
                r'(,(?:positive|negative|neutral),\d+,\d+),\d+,', r'\1,two,', s, count=1
            ),
            r"dev_sent_emo\.csv: column 'Season', row 0: 'two' is not a whole number",
        ),
        (lambda s: s[: s.index('"') + 4], r'dev_sent_emo\.csv: damaged.*download it again'),
        (lambda s: '', r'dev_sent_emo\.csv: damaged.*download it again'),
        (lambda s: s.splitlines()[0] + '\n', r'dev_sent_emo\.csv: a header and no rows'),
    ],
)
def test_bad_csv_is_named(data, tmp_path, change, message):
    root = linked(data / 'meld', tmp_path / 'meld', 'dev_sent_emo')
    (root / 'dev_sent_emo.csv').write_text(
        change((data / 'meld/dev_sent_emo.csv').read_text(encoding='utf-8')), encoding='utf-8'
    )
    with pytest.raises(ValueError, match=message):
        load_corpus('meld', root=tmp_path)


def test_features_of_other_rows_are_refused(data, tmp_path):
    root = linked(data, tmp_path, 'meld/features_dev')
    z = dict(np.load(data / 'meld/features_dev.npz'))
    np.savez(
        root / 'meld/features_dev.npz', **{k: v[:-1] if len(v) == 1109 else v for k, v in z.items()}
    )
    with pytest.raises(
        ValueError, match="features_dev.npz: array 'dialogue_id' has shape .*expected 1109 rows"
    ):
        load_corpus('meld', root=root)
    np.savez(root / 'meld/features_dev.npz', **{**z, 'utterance_id': z['utterance_id'][::-1]})
    with pytest.raises(ValueError, match='features_dev.npz: its rows are not those of'):
        load_corpus('meld', root=root)
    np.savez(root / 'meld/features_dev.npz', **{**z, 'audio_wav2vec2': z['audio_wav2vec2'][:-1]})
    with pytest.raises(
        ValueError, match="features_dev.npz: array 'audio_wav2vec2' has shape .*expected 1109 rows"
    ):
        load_corpus('meld', root=root)
    np.savez(root / 'meld/features_dev.npz', **{k: v for k, v in z.items() if k != 'has_audio'})
    with pytest.raises(ValueError, match="features_dev.npz: no array 'has_audio'"):
        load_corpus('meld', root=root)
