"Several models on a corpus of one's own: run once, kept by key, judged in pairs, written in every format."

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_readme import chats
from typer.testing import CliRunner

import erc
from erc.cli import app
from erc.prediction.comparing import _as_corpus, _is_small, _pair_table, _readable
from erc.runs import recipes

MODEL = """
import torch
from torch import nn
from erc.nn.cells import Out


class Mine(nn.Module):
    def __init__(self, sizes, classes):
        super().__init__()
        self.net = nn.Linear(sum(sizes.values()), classes)

    def forward(self, batch):
        return Out(self.net(torch.cat(list(batch.features.values()), -1)))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with conversations and a model of one's own; training is short."
    chats().to_csv(tmp_path / 'chats.csv', index=False)
    (tmp_path / 'my_module.py').write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('ERC_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setitem(recipes._PROTOCOL, 'epochs', 2)
    monkeypatch.setitem(recipes._SEARCH, 'epochs', 1)
    return tmp_path


def compare(*more):
    models = ['--models', 'context_gru,my_module:Mine', '--seeds', '2', '-q']
    return CliRunner().invoke(app, ['compare', 'chats.csv', *models, *more])


def test_command_writes_tables_verdicts_and_figures(here):
    done = compare('--encoder', 'hashing', '--out', 'out')
    assert done.exit_code == 0, done.output
    names = {path.name for path in (here / 'out').iterdir()}
    for table in ('systems', 'pairs'):
        assert {f'{table}{suffix}' for suffix in ('.md', '.csv', '.tex', '.html')} <= names
    assert {'confusions.png', 'confusions.svg'} <= names
    systems = pd.read_csv(here / 'out' / 'systems.csv', index_col=0)
    labels = {'context_gru', 'Mine', 'majority', 'vector_logreg', 'tfidf_logreg'}
    assert set(systems.index) == {f'{label}, hashing' for label in labels}
    assert (systems.dialogues == 12).all(), 'few are tested: every dialogue is, in folds'
    assert re.fullmatch(r'\d+\.\d \[\d+\.\d, \d+\.\d\]', systems.weighted_f1.iloc[0])
    pairs = pd.read_csv(here / 'out' / 'pairs.csv', index_col=0)
    assert len(pairs) == 10 and pairs['p (Holm)'].dropna().between(0, 1).all()
    assert pairs.index.name == 'system'


def test_p_is_read_in_three_digits():
    pairs = pd.DataFrame({'p (Holm)': [0.0, 0.0123, 1, None]})
    assert _readable(pairs)['p (Holm)'].tolist() == ['below 0.001', '0.012', '1.000', '']


def test_what_is_odd_and_the_folds_are_said_in_lines(here):
    table = pd.read_csv(here / 'chats.csv')
    pd.concat([table, table.iloc[-1:]]).to_csv(here / 'chats.csv', index=False)
    models = ['--models', 'context_gru', '--encoder', 'hashing', '--seeds', '1']
    done = CliRunner().invoke(app, ['compare', 'chats.csv', *models])
    assert done.exit_code == 0, done.output
    assert 'erc: warning: chats: 1 row like an earlier one' in done.stderr
    assert 'UserWarning' not in done.stderr and 'in five folds' in done.stdout


def test_records_have_the_encoders_key_and_nothing_is_run_twice(here):
    compare('--encoder', 'hashing', '--out', 'out')
    found = erc.record('own/context_gru:hashing@chats', home=here / 'out')
    assert found.encoders['text']['encoder'] == 'hashing' and len(found.cross) == 5
    path = found.key.path(here / 'out')
    before = path.read_bytes()
    assert compare('--encoder', 'hashing', '--out', 'out').exit_code == 0
    assert path.read_bytes() == before


def test_without_folds_the_own_split_decides(here):
    assert compare('--encoder', 'hashing', '--no-folds').exit_code == 0
    systems = pd.read_csv(here / 'comparison' / 'systems.csv', index_col=0)
    assert (systems.dialogues == 2).all()


def test_unknown_names_are_one_line(here):
    done = CliRunner().invoke(
        app, ['compare', 'chats.csv', '--models', 'context_gruu', '-q', '--encoder', 'hashing']
    )
    assert done.exit_code == 2 and "did you mean 'context_gru'" in done.output
    done = CliRunner().invoke(
        app, ['compare', 'chats.csv', '--models', 'my_module:Nobody', '-q', '--encoder', 'hashing']
    )
    assert done.exit_code == 2 and "cannot find 'my_module:Nobody'" in done.output


@pytest.fixture
def outside(tmp_path):
    "A function that runs `erc` in another process, in a folder of its own."
    chats().to_csv(tmp_path / 'chats.csv', index=False)
    (tmp_path / 'my_module.py').write_text(MODEL)
    (tmp_path / 'talk.csv').write_text('speaker,text\nA,it was great\nB,it was lost\n')
    (tmp_path / 'elsewhere').mkdir()
    package = str(Path(erc.__file__).parents[1])
    env = {**os.environ, 'PYTHONPATH': package, 'ERC_CACHE': str(tmp_path / 'cache')}
    start = 'import sys; sys.path.remove(""); from erc.cli import app; app()'

    def run(*args, where='.'):
        command = [sys.executable, '-c', start, *map(str, args)]
        options = dict(cwd=tmp_path / where, env=env, capture_output=True, text=True)
        return subprocess.run(command, **options)

    return run


TRAIN = ('train', 'chats.csv', '--encoder', 'hashing', '--seeds', 1, '-q', '--out', 'mine')


@pytest.mark.slow
def test_a_class_of_ones_own_is_trained_kept_and_predicts(outside, tmp_path):
    done = outside(*TRAIN, '--model', 'my_module:Mine', '--licence', 'mit')
    assert done.returncode == 0 and 'weighted_f1' in done.stdout, done.stderr
    predict = ('predict', 'talk.csv', '--model', 'mine', '--json')
    own = ('--class', 'my_module:Mine')
    refused = outside(*predict)
    assert refused.returncode == 2 and refused.stderr.count('\n') == 1
    assert '--class my_module:Mine on the command line' in refused.stderr
    for args in ((*predict, *own), (*predict[:-1], *own, '--out', 'x.csv')):
        found = outside(*args)
        assert found.returncode == 0, found.stderr
    assert len(pd.read_csv(tmp_path / 'x.csv')) == 2
    lost = outside('predict', '../talk.csv', '--model', '../mine', *own, where='elsewhere')
    assert lost.returncode == 2 and "cannot find 'my_module:Mine'" in lost.stderr
    assert 'run it in the folder of that module' in lost.stderr
    other = outside(*TRAIN, '--model', 'context_gru')
    assert other.returncode == 2 and 'holds another model (Mine on chats' in other.stderr
    wrong = outside(*predict, '--class', 'my_module:Nobody')
    assert wrong.returncode == 2 and 'Nobody' in wrong.stderr and wrong.stderr.count('\n') == 1


def test_a_class_that_cannot_be_found_again_is_refused(here):
    class Mine:
        pass

    corpus = erc.encode(erc.read_corpus('chats.csv'), 'hashing')
    with pytest.raises(ValueError, match='cannot find|another class'):
        erc.compare_systems(corpus, Mine, out=here / 'out', progress=False)


def test_two_encoders_stand_beside_each_other(here):
    corpus = erc.read_corpus('chats.csv')
    options = dict(hyperparameters={'epochs': 1, 'lr': 1e-2}, folds=False, progress=False)
    folder = erc.data.sentence_encoders.toy_encoder(here / 'toy', corpus.table.text)
    found = erc.compare_systems(
        corpus, 'context_gru', encoder=['hashing', folder], seeds=1, out=here / 'out', **options
    )
    assert {'context_gru, hashing', 'context_gru, toy'} <= set(found.table.index)
    assert len(repr(found)) < 400 and found._repr_html_().startswith('<table')


def test_many_pairs_need_more_than_one():
    "A difference that would be one of a pair is none of fifteen."
    rng = np.random.default_rng(3)

    def counts(share):
        hits = rng.binomial(10, share, 60)
        return [np.array([[[[h, 10 - h], [10 - h, h]] for h in hits]] * 2)]

    alike = {name: counts(0.6) for name in 'abcde'}
    apart = {**alike, 'f': counts(0.9)}
    table = _pair_table(apart, 'weighted_f1', ['x', 'y'])
    with_f = table.over == 'f'
    assert (table.verdict[with_f] == 'f is better').all()
    assert (table.verdict[~with_f] == 'not decided').all()


def test_what_is_small():
    assert _is_small(erc.load_corpus('demo'))


def test_a_corpus_is_compared_on_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_DATA', str(tmp_path))
    erc.load_corpus('demo').replace(name='own').save(tmp_path / 'own')
    assert _as_corpus('demo').name == 'demo' and _as_corpus('own').name == 'own'
