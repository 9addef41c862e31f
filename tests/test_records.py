"Records: whole or refused, merged under a lock, and never confused with temporary files."

import dataclasses
import json
import multiprocessing
import sys

import numpy as np
import pytest

from erc.core import root
from erc.runs.keys import RunKey
from erc.runs.records import (
    Fold,
    Record,
    _add_to_record,
    _load_record,
    _merge,
    _record_files,
    find_record,
    read_records,
    save_record,
    score_of,
)

KEY = RunKey.parse('toy/net:paper@demo')


def record(seeds=(0, 1), value=3, **changes):
    n = len(seeds)
    counts = np.zeros((n, 4, 2, 2), np.int16)
    counts[..., 0, 0], counts[..., 1, 0], counts[..., 1, 1] = value, 1, 2
    score = score_of('weighted_f1', ['a', 'b'])
    test = [float(score(c.sum(0))) for c in counts]
    fold = Fold(
        list(seeds),
        [{'device': 'cpu'}] * n,
        [1.5] * n,
        [4] * n,
        [0.8] * n,
        test,
        curves={'dev': np.full((n, 5), 0.5, np.float32)},
        predictions=np.zeros((n, 9), np.int8),
        confusions={'all': counts},
        probes={'z_by_seed': np.full((n, 2), 1.0), 'fixed': np.arange(3)},
    )
    made = Record(KEY, {'lr': 1e-3}, classes=['a', 'b'], folds={'paper': fold}, task='emotion')
    return dataclasses.replace(made, **changes)


def test_a_record_comes_back_as_it_was(tmp_path):
    made = record(folds={'paper': record().folds['paper'], 'session1': Fold(test=[0.5])})
    path = save_record(made, tmp_path)
    again = find_record('toy/net:paper@demo', tmp_path)
    np.testing.assert_equal(dataclasses.asdict(again), dataclasses.asdict(made))
    assert path.read_text() == save_record(again, tmp_path).read_text()
    assert again.test == made.folds['paper'].test and again.folds['session1'].test == [0.5]


def test_its_repr_is_short():
    assert len(repr(record())) < 400 and 'toy/net:paper@demo' in repr(record())
    assert len(record()._repr_html_()) < 2000


@pytest.mark.parametrize('cut', [0.3, 0.9])
def test_a_cut_record_is_refused(tmp_path, cut):
    path = save_record(record(), tmp_path)
    path.write_text(path.read_text()[: int(cut * path.stat().st_size)])
    with pytest.raises(ValueError, match='not a whole record.*run its system again'):
        _load_record(path)


def test_an_edited_record_is_refused_and_the_others_are_read(tmp_path):
    save_record(record(), tmp_path)
    other = save_record(record(key=RunKey.parse('toy/net:tuned@demo')), tmp_path)
    data = json.loads(other.read_text())
    data['folds']['paper']['test'][0] = 0.99
    other.write_text(json.dumps(data))
    with pytest.raises(ValueError, match='never edited'):
        _load_record(other)
    sound, broken = read_records(tmp_path)
    assert list(sound) == [KEY] and len(broken) == 1
    assert broken[0].startswith(f'toy/{other.name}') and str(tmp_path) not in broken[0]


def test_a_large_probe_is_refused(tmp_path):
    fold = dataclasses.replace(record().folds['paper'], probes={'z': np.zeros((300, 300))})
    with pytest.raises(ValueError, match="probe 'z'"):
        save_record(record(folds={'paper': fold}), tmp_path)
    assert not _record_files(tmp_path)


def test_temporary_files_are_never_taken_for_records(tmp_path):
    path = save_record(record(), tmp_path)
    for name in (f'.{path.name}.x1.tmp', f'.{path.name}', f'{path.name}.tmp', 'notes.json'):
        path.with_name(name).write_text('{"cut')
    assert _record_files(tmp_path) == [path]
    assert read_records(tmp_path)[1] == []


def test_seeds_join(tmp_path):
    _add_to_record(record([0, 1]), tmp_path)
    both = _add_to_record(record([1, 2], value=5), tmp_path)
    assert both.seeds == [0, 1, 2] and both.confusions['all'].shape == (3, 4, 2, 2)
    assert both.confusions['all'][1, 0, 0, 0] == 3, 'a seed that was there stays as it was'
    assert both.probes['z_by_seed'].shape == (3, 2) and both.probes['fixed'].shape == (3,)
    assert both.seconds == 4.5 and len(both.environments) == 3


def test_folds_join():
    other = record(folds={'session1': Fold([0], [{}], [1.0], [1], [0.5], [0.4])})
    assert list(_merge(record(), other).folds) == ['paper', 'session1']
    assert list(_merge(other, record()).folds) == ['paper', 'session1'], 'whichever came first'


def test_folds_of_several_processes_join_in_the_file(tmp_path):
    "Also while the paper's split is still missing."
    for seed in (0, 1):
        for name in ('session2', 'session1', 'paper'):
            own = record([seed]).folds['paper']
            _add_to_record(
                record(folds={name: own}, cross=['paper', 'session1', 'session2']), tmp_path
            )
    found = find_record(KEY, tmp_path)
    seeds = {name: fold.seeds for name, fold in found.folds.items()}
    assert seeds == dict.fromkeys(('paper', 'session1', 'session2'), [0, 1])
    assert found.cross == list(seeds) and found.seconds == 6 * 1.5


def test_facts_take_the_place_of_facts(tmp_path):
    for number in (1, 2):
        _add_to_record(Record(KEY, folds={'paper': Fold(facts={'n': number})}), tmp_path)
    assert find_record(KEY, tmp_path).facts == {'n': 2}


@pytest.mark.parametrize(
    'field,value',
    [
        ('settings', {'lr': 1}),
        ('data_digest', 'x'),
        ('encoders', {'t': {}}),
        ('fingerprint', [1.0]),
    ],
)
def test_another_experiment_does_not_join(tmp_path, field, value):
    other = record([5], **{field: value})
    named = 'settings_hash' if field == 'settings' else field
    with pytest.raises(ValueError, match=f'{named} differs'):
        _merge(record(), other)
    _add_to_record(record(), tmp_path)
    assert _add_to_record(other, tmp_path).seeds == [5], 'it takes its place'


def add(job):
    home, seed = job
    _add_to_record(record([seed]), home)


@pytest.mark.skipif(sys.platform == 'win32', reason='spawned workers cannot import this module')
def test_three_writers_lose_nothing(tmp_path):
    with multiprocessing.get_context('spawn').Pool(3) as pool:
        for turn in range(4):
            pool.map(add, [(tmp_path, 3 * turn + k) for k in range(3)])
    assert sorted(find_record(KEY, tmp_path).seeds) == list(range(12))


def test_committed_records_are_sound_and_their_scores_are_their_confusions():
    records, broken = read_records(root() / 'results')
    assert not broken and len(records) > 300
    for key, r in records.items():
        score = score_of(r.metric, r.classes)
        for fold in r.folds.values():
            if fold.confusions:
                counts = fold.confusions['all']
                assert [float(score(c.sum(0))) for c in counts] == fold.test, key
            assert len(fold.environments) == max(1, len(fold.seeds)), key
            assert all(e['arithmetic'] for e in fold.environments), key
