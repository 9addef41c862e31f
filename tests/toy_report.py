"A toy recipe of Shapes of Emotions, Table 6, and its records: shared by the tests of the report."

import numpy as np

from erc.report.comparison import comparison
from erc.runs.keys import RunKey
from erc.runs.recipes import ArtefactSpec, Column, Entry, Recipe, Row, System
from erc.runs.records import Fold, Record, save_record


def _system(name, label, kind='model', demo=True):
    return System('shapes', name, label, '400_shift', f'toy:{name}', kind, demo=demo)


SYSTEMS = {
    'net': _system('net', 'the network'),
    'rule': _system('rule', 'a rule', 'baseline'),
    'big': _system('big', 'the large one', demo=False),
}
COLUMNS = [
    Column('Accuracy', 'accuracy', 'Accuracy'),
    Column('F1', 'weighted_f1', 'F1'),
    Column('shift', 'class_f1:shift', slice='two'),
]


def entries(*runs, basis='own features', label=''):
    "Entries of a row, from 'net:paper@a'."
    return [Entry(RunKey.parse(run, 'shapes'), basis, label) for run in runs]


ROWS = [
    Row(
        'CMU-MOSEI',
        entries=entries('net:paper@a', 'net:tuned@a', 'rule:fixed@a', 'big:paper@a'),
    ),
    Row('IEMOCAP 4-label', entries=entries('net:tuned@c', basis='stand-in', label='renamed')),
    Row('ours alone', printed=False, entries=entries('rule:fixed@b')),
]
RUNS = ('net:paper@a', 'net:tuned@a', 'rule:fixed@a', 'big:paper@a', 'net:tuned@c', 'rule:fixed@b')


def recipe(rows=ROWS, columns=COLUMNS, artefact='table6', **spec):
    "A recipe with one artefact."
    artefacts = {artefact: ArtefactSpec('', '', columns, rows, **spec)}
    return Recipe('shapes', 'Shapes', demo={'seeds': 2}, systems=SYSTEMS, artefacts=artefacts)


def counts(seed=0, seeds=3):
    "Confusion counts of 25 dialogues."
    return np.random.default_rng(seed).integers(0, 3, (seeds, 25, 2, 2)) + 3 * np.eye(2, dtype=int)


def toy_record(run='net:paper@a', seed=0, **fold):
    "A record with the slices 'all' and 'two'."
    c = counts(seed)
    fold = {'seeds': [0, 1, 2], 'confusions': {'all': c, 'two': c[:, :20]}, **fold}
    key = RunKey.parse(run, 'shapes')
    return Record(key, classes=['shift', 'inertia'], folds={'paper': Fold(**fold)})


def save_toy(home, run='net:paper@a', seed=0, **fold):
    "Save a toy record; return its counts."
    record = toy_record(run, seed, **fold)
    save_record(record, home)
    return record.confusions['all']


def fresh(record):
    "No record is stale."
    return None


def draw(home, toy=None, stale=fresh, **options):
    "The toy recipe's table."
    return comparison('shapes', 'table6', home=home, recipe=toy or recipe(), stale=stale, **options)
