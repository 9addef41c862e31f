"Features that know the labels of the training dialogues are found, honest ones are not accused."

import numpy as np
import pandas as pd
import pytest

from erc.data.corpus import Corpus, validate
from erc.data.features import encode
from erc.data.leaks import _label_leaks, _leak_warnings
from erc.data.mosi import _KNOWS_LABELS
from erc.data.registry import load_corpus


def test_the_vectors_of_mosi_know_its_labels(data):
    leaks = _label_leaks(load_corpus('mosi_released', root=data))
    assert set(leaks.index[leaks['knows_labels']]) == set(_KNOWS_LABELS)
    assert leaks.loc['text', 'gap'] > 20 and leaks.loc['visual', 'gap'] > 30
    assert (leaks.loc[[*_KNOWS_LABELS], 'gap'] > 8 * leaks.loc[[*_KNOWS_LABELS], 'error']).all()


@pytest.mark.parametrize(
    'name', ['mosi', 'mosi_within', 'iemocap6', 'iemocap4', 'iemocap_vad', 'meld', 'demo']
)
def test_honest_features_are_not_accused(name, request):
    root = None if name == 'demo' else request.getfixturevalue('data')
    corpus = encode(load_corpus(name, root=root), 'hashing', feature='words')
    leaks = _label_leaks(corpus)
    assert 'words' in leaks.index and not leaks['knows_labels'].any()
    assert leaks['gap'].max() < 6 and _leak_warnings(corpus) == []


def test_a_shift_of_class_shares_is_no_leak():
    rng = np.random.default_rng(0)
    turns = 1000
    split = np.where(np.arange(turns) < 700, 'train', 'test')
    label = (rng.random(turns) < np.where(split == 'train', 0.5, 0.9)).astype(int)
    table = pd.DataFrame(
        {
            'dialogue': [f'd{i // 10:03d}' for i in range(turns)],
            'turn': np.arange(turns) % 10,
            'speaker': 'a',
            'text': '',
            'label': label,
            'split': split,
        }
    )
    honest = rng.normal(size=(turns, 20)) + label[:, None] * 0.4
    knows = rng.normal(size=(turns, 20)) + (label * (split == 'train'))[:, None]
    corpus = validate(Corpus('toy', 'sentiment', ('bad', 'good'), table))
    corpus = corpus.with_features(honest=honest, knows=knows)
    assert _label_leaks(corpus)['knows_labels'].to_dict() == {'honest': False, 'knows': True}
    assert _leak_warnings(corpus)[0].startswith("toy: 'knows' knows the labels")


def test_what_cannot_be_judged_is_left_out(data):
    meld = _label_leaks(load_corpus('meld', root=data))  # features of dev alone have no test
    assert 'text_roberta' not in meld.index
    demo = load_corpus('demo')
    absent = demo.with_features(none=(np.zeros((len(demo), 2)), np.zeros(len(demo))))
    assert 'none' not in _label_leaks(absent).index
    assert list(_label_leaks(demo.replace(features={}, has={})).columns)[-1] == 'knows_labels'
