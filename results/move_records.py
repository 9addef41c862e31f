"""Move the records of the first edition to the names of the second, and prove that nothing but names changed.

python results/move_records.py OLD NEW   (two folders that hold `records/`)

`moved.json` maps old names to new ones. For each record the script checks that its settings, mapped, are those of the
recipe now; that arrays, curves, facts and scores are the same; that scores recomputed from the confusions agree; and
writes old name, new key, and both checksums into `moved.csv`.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np

from erc.core import digest
from erc.runs.keys import RunKey
from erc.runs.recipes import find_system, settings_of
from erc.runs.records import Fold, Record, find_record, save_record, score_of, unpack

HERE = Path(__file__).parent
MOVED = json.loads((HERE / 'moved.json').read_text(encoding='utf-8'))


def renamed(x):
    "Return JSON with every old name replaced."
    if isinstance(x, list):
        return [renamed(v) for v in x]
    if isinstance(x, dict):
        return {MOVED['settings'].get(k, k): renamed(v) for k, v in x.items()}
    return MOVED['names'].get(x, x) if isinstance(x, str) else x


def read_old(path: Path) -> dict:
    "Read a record of the first edition; raise ValueError if it does not match its checksum."
    data = json.loads(path.read_text(encoding='utf-8'))
    if data.pop('checksum') != digest(data):
        raise ValueError(f'{path} does not match its checksum')
    return data


def moved(old: dict) -> Record:
    "Return an old record in the new form."
    paper, name = old['system'].split('/')
    key = RunKey(paper, name, old['setting'], MOVED['corpora'].get(old['corpus'], old['corpus']))
    n = max(1, len(old['seeds']))
    settings = renamed(old['settings'])
    dtype = settings['hyperparameters'].get('dtype', 'float64')
    where = {
        **old['environment'],
        'arithmetic': f'{dtype}, products highest',
    }  # never set otherwise
    fold = Fold(
        old['seeds'],
        [where] * n,
        [old['seconds'] / n] * n,
        *(old[k] for k in ('selected', 'dev', 'test')),
        **{k: unpack(old[k]) for k in ('curves', 'predictions', 'confusions', 'facts', 'probes')},
    )
    same = {
        k: old[k] for k in ('data_digest', 'encoders', 'fingerprint', 'task', 'classes', 'metric')
    }
    return Record(key, settings, folds={'paper': fold}, **same)


def same(a, b) -> bool:
    "Return whether two unpacked fields are equal to the bit."
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def check(old: dict, new: Record):
    "Raise AssertionError unless only names differ."
    for k in (
        'seeds',
        'selected',
        'dev',
        'test',
        'curves',
        'predictions',
        'confusions',
        'facts',
        'probes',
    ):
        assert same(unpack(old[k]), getattr(new, k)), f'{new.key}: {k} differs'
    for k in ('data_digest', 'encoders', 'fingerprint', 'task', 'classes', 'metric'):
        assert old[k] == getattr(new, k), f'{new.key}: {k} differs'
    recipe = settings_of(find_system(new.key.system_id), new.key.variant)
    assert digest(recipe) == new.settings_hash, (
        f'{new.key}: its settings are not those of the recipe'
    )
    if new.confusions:
        score = score_of(new.metric, new.classes)
        again = [float(score(counts.sum(0))) for counts in new.confusions['all']]
        assert again == new.test, f'{new.key}: recomputed scores differ'


def main(old_home: Path, new_home: Path):
    rows = []
    for path in sorted((old_home / 'records').rglob('*.json')):
        old = read_old(path)
        written = save_record(moved(old), new_home)
        new = find_record(moved(old).key, new_home)
        check(old, new)
        sums = [json.loads(p.read_text(encoding='utf-8'))['checksum'] for p in (path, written)]
        rows.append([f'{path.parent.name}/{path.stem}', str(new.key), *sums])
    with open(HERE / 'moved.csv', 'w', newline='', encoding='utf-8') as f:
        csv.writer(f, lineterminator='\n').writerows(
            [['old', 'key', 'old_checksum', 'checksum'], *rows]
        )
    print(f'{len(rows)} records moved; settings, arrays and recomputed scores agree')


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]))
