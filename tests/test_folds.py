"Folds: every dialogue is tested once, shared clips stay together, the same cut in every run."

import numpy as np
import pandas as pd
import pytest

from erc.data.corpus import Corpus, validate
from erc.data.folds import _clip_groups, folds, with_fold
from erc.data.registry import load_corpus

CORPORA = ('demo', 'meld', 'iemocap6', 'iemocap4', 'iemocap_vad', 'mosi', 'mosi_within', 'mosei')


def load(name, request):
    root = None if name == 'demo' else request.getfixturevalue('data')
    return load_corpus(name, root=root)


def parts(corpus):
    return {s: set(d) for s, d in corpus.table.groupby('split')['dialogue']}


@pytest.mark.parametrize('name', CORPORA)
def test_every_dialogue_is_tested_once(name, request):
    corpus = load(name, request)
    names, tested = folds(corpus), []
    groups = _clip_groups(corpus.table)
    for fold in names:
        cut = with_fold(corpus, fold)
        split = parts(cut)
        tested += split['test']
        assert sum(map(len, split.values())) == corpus.table['dialogue'].nunique()
        share = len(split['dev']) / (len(split['dev']) + len(split['train']))
        assert 0.08 < share < 0.13
        assert cut.table.drop(columns='split').equals(corpus.table.drop(columns='split'))
        side = cut.table.groupby(cut.table['dialogue'].map(groups))['split'].nunique()
        assert side.max() == 1, 'dialogues that share a clip are on two sides'
    assert sorted(tested) == sorted(corpus.table['dialogue'].unique())


@pytest.mark.parametrize('name', ['demo', 'meld', 'mosei'])
def test_folds_are_alike(name, request):
    corpus = load(name, request)
    tests = [with_fold(corpus, f).table.query('split == "test"') for f in folds(corpus)]
    sizes = [t['dialogue'].nunique() for t in tests]
    assert max(sizes) - min(sizes) <= 5
    shares = np.array([t['label'].value_counts(normalize=True).sort_index() for t in tests])
    assert np.ptp(shares, 0).max() < 0.12


@pytest.mark.parametrize('name', ['iemocap6', 'iemocap4', 'iemocap4_shapes', 'iemocap_vad', 'mosi'])
def test_the_papers_split_is_a_fold(name, data):
    corpus = load_corpus(name, root=data)
    fold = folds(corpus)[-1]
    assert fold == ('fold3' if name == 'mosi' else 'session5')
    assert with_fold(corpus, fold).table.equals(corpus.table)
    assert len(folds(corpus)) == (3 if name == 'mosi' else 5)


def test_dev_follows_its_seed(data):
    corpus = load_corpus('iemocap6', root=data)
    cut = [parts(with_fold(corpus, 'session2', seed)) for seed in (0, 1, 1)]
    assert cut[1] == cut[2] and cut[0]['test'] == cut[1]['test'] and cut[0]['dev'] != cut[1]['dev']
    paper = [parts(with_fold(corpus, 'paper', seed)) for seed in (0, 1)]
    assert paper[0] == parts(corpus) and paper[0]['test'] == paper[1]['test']
    assert paper[0]['dev'] != paper[1]['dev']
    assert parts(with_fold(corpus, 'session5', 1)) == paper[1]
    meld = load_corpus('meld', root=data)  # its dev part is official
    assert with_fold(meld, 'paper', 3).table.equals(meld.table)


def test_order_of_dialogues_does_not_matter():
    demo = load_corpus('demo')
    table = demo.table.sort_values(['dialogue', 'turn'], ascending=[False, True], ignore_index=True)
    other = Corpus('demo', demo.task, demo.classes, table)
    assert all(parts(with_fold(other, f)) == parts(with_fold(demo, f)) for f in folds(demo))


def test_shared_clips_of_meld(data):
    groups = _clip_groups(load_corpus('meld', root=data).table)
    assert groups['train_490'] == groups['train_491'], 'one clip by time'
    assert groups['train_39'] == groups['train_518'], 'one scene by its words'
    assert groups['train_12'] == groups['test_85'], 'across the official split'
    assert groups.value_counts().max() <= 4


def test_too_few_dialogues():
    table = pd.DataFrame(
        {
            'dialogue': [*'abc'],
            'turn': 0,
            'speaker': 'x',
            'text': 'Hm.',
            'label': 0,
            'split': ['train', 'dev', 'test'],
        }
    )
    corpus = validate(Corpus('small', 'emotion', ('a',), table))
    with pytest.raises(ValueError, match='3 dialogues cannot be cut into 5 folds'):
        folds(corpus)
    assert with_fold(corpus, 'paper').table.equals(table)
