"Stated counts are found, wrong ones are seen, damaged corpora are listed."

import json

import pandas as pd
import pytest
from corpus_files import linked

from erc.core import package_file
from erc.data import checks
from erc.data.checks import _expected, _listing, check
from erc.data.registry import CORPORA


def absent(data) -> set:
    "Return the corpora of which no file is there: nobody may pass them on."
    return {name for name in ('m3ed', 'emowoz') if not (data / name).is_dir()}


@pytest.mark.parametrize('name', CORPORA)
def test_every_stated_fact_is_found(data, name):
    if name in absent(data):
        pytest.skip(f'{name} is not in {data}')
    t = check(name, root=data)
    wrong = t[~t['ok'].fillna(False)]
    assert len(t) and wrong.empty, wrong.to_string()


def test_a_wrong_count_is_seen(data, monkeypatch):
    stated = _expected('mosi')
    stated.loc[0, 'expected'] += 1
    monkeypatch.setattr(checks, '_expected', lambda name: stated.copy())
    assert list(check('mosi', root=data)['ok'][:2]) == [False, True]


def test_listing(data, tmp_path):
    here, away = (
        _listing(root=data).set_index('corpus'),
        _listing(root=tmp_path).set_index('corpus'),
    )
    assert list(here.index) == list(CORPORA)
    assert {name for name in CORPORA if here['here'][name] != 'yes'} == absent(data)
    assert (here.loc['meld', 'dialogues'], here.loc['mosei_released', 'utterances']) == (
        1432,
        22846,
    )
    assert (
        'signed agreement' in here.loc['iemocap6', 'lacks']
        and 'visual' in here.loc['iemocap6', 'lacks']
        and 'dev' not in here.loc['mosi', 'missing']
    )
    assert (
        list(away.index[away['here'] == 'yes']) == ['demo']
        and 'meld/dev_sent_emo.csv' in away.loc['meld', 'missing']
    )
    assert here.loc['meld', 'missing'] == '' and here.loc['meld', 'get'] == ''
    assert (
        away.loc['meld', 'utterances'] == 13708 and away.loc['meld', 'get'] == 'erc data get meld'
    )


def test_a_damaged_corpus_is_listed_beside_the_others(data, tmp_path):
    root = linked(data, tmp_path, 'meld/dev_sent_emo', 'mosi/mosi_features')
    (root / 'meld/dev_sent_emo.csv').write_bytes(
        (data / 'meld/dev_sent_emo.csv').read_bytes()[:5000] + b'"'
    )
    (root / 'mosi/mosi_features.npz').write_bytes(b'PK')
    t = _listing(root=root).set_index('corpus')
    expected = dict.fromkeys(CORPORA, 'yes') | dict.fromkeys(absent(data), 'no')
    expected |= {n: 'damaged' for n in CORPORA if n.split('_')[0] in ('meld', 'mosi')}
    assert t['here'].to_dict() == expected
    assert (
        'dev_sent_emo.csv' in t.loc['meld', 'missing']
        and t.loc['mosi', 'get'] == 'erc data get mosi'
        and t.loc['meld', 'utterances'] == 13708
    )


def test_reference_counts_are_of_known_corpora():
    t = pd.read_csv(package_file('reference/corpora.csv'))
    assert (
        list(t.columns) == ['corpus', 'split', 'fact', 'expected', 'source']
        and set(t['corpus']) == {*CORPORA} - {'m3ed', 'emowoz'}  # whose counts are not at hand
        and not t.isna().any().any()
    )
    assert not t.duplicated(['corpus', 'split', 'fact']).any()
    json.loads(package_file('reference/pins.json').read_text(encoding='utf-8'))
