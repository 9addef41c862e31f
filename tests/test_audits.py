"Audits: what selection and settings are worth, and counts about the corpora."

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from erc.core import root
from erc.report.audits import (
    _AUDITS,
    _audit_sentences,
    _audit_tables,
    _repeated_sentences,
    audit,
)
from erc.report.selection import (
    _PROTOCOLS,
    _selection_sentence,
    _selection_table,
    _tuning_sentence,
    _tuning_table,
)
from erc.runs.keys import RunKey
from erc.runs.records import find_record, read_records


@pytest.fixture(scope='module')
def found():
    return read_records(root() / 'results')[0]


def test_selection_of_known_curves():
    curves = {'test': np.array([[0.4, 0.5, 0.7], [0.6, 0.8, np.nan]])}
    record = SimpleNamespace(metric='accuracy', seeds=[0, 1], test=[0.5, 0.6], curves=curves)
    row = _selection_table({RunKey.parse('p/a:paper@c'): record}).iloc[0]
    assert np.allclose([row[p] for p in _PROTOCOLS], [55, 75, 75, 60, 80])
    assert not len(_selection_table({RunKey.parse('p/a:paper@demo'): record}))
    assert 'No record' in _selection_sentence(_selection_table({}))


def test_choosing_on_test_never_loses(found):
    table = _selection_table(found)
    best = table[['best test epoch', 'best seed', 'chosen on dev']].max(axis=1)
    assert len(table) and (table['best of both'] >= best - 1e-4).all()
    assert (table['best test epoch'] >= table['last epoch'] - 1e-4).all()
    assert (table['best seed'] >= table['chosen on dev'] - 1e-9).all()


def test_price_of_settings(found):
    table = _tuning_table(found)
    row = table.iloc[0]
    paper, tuned = (
        find_record(f'{row.system}:{v}@{row.corpus}', root() / 'results')
        for v in ('paper', 'tuned')
    )
    assert np.isclose(row.gain, 100 * (np.mean(tuned.test) - np.mean(paper.test)))
    assert f'{len(table)} systems' in _tuning_sentence(table)


def test_repeated_sentences_are_counted():
    table = pd.DataFrame(
        dict(
            text=['Yes.', 'go on, please do', 'no', 'YES', 'yes', 'go on please do', 'new here'],
            label=[0, 1, 0, 0, 1, 1, -1],
            split=['train', 'dev', 'train', 'train', 'test', 'test', 'test'],
        )
    )
    assert _repeated_sentences(table) == {'test': 2, 'repeated': 2, 'same label': 1}
    assert _repeated_sentences(table, 4) == {'test': 1, 'repeated': 1, 'same label': 1}


def test_audits_count_what_the_corpora_hold(found, data):
    from erc.data.registry import load_corpus

    corpus = load_corpus('iemocap6')
    facts = audit(corpus)
    assert facts == found[RunKey.parse('ledger/audit:fixed@iemocap6')].facts, 'run `erc run ledger`'
    test = corpus.table[(corpus.table.split == 'test') & (corpus.table.label >= 0)]
    assert sum(facts['counts']['test'].values()) == len(test) == facts['repeated']['1']['test']
    assert len(facts['scripted']) == facts['dialogues']['test'] == 31


def test_sentences_follow_the_counts(found):
    tables = _audit_tables(found)
    words = _audit_sentences(tables)
    assert set(words) == set(_AUDITS) and not any('Not run' in w for w in words.values())
    meld = tables['repeated'].query("corpus == 'meld' and words == '4 or more'").iloc[0]
    assert f'{meld["share, %"]} % of MELD' in words['repeated']
    nothing = {name: table.iloc[:0] for name, table in tables.items()}
    assert all('Not run' in w for w in _audit_sentences(nothing).values())
