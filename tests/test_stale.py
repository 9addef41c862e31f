"When a record no longer holds, and what is missing."

import dataclasses

import pytest

import erc.runs.stale as S
from erc.core import root
from erc.runs.fingerprints import _fingerprints
from erc.runs.keys import RunKey
from erc.runs.recipes import find_system, settings_of, wanted_runs
from erc.runs.records import Fold, Record, _record_files, read_records, save_record
from erc.runs.stale import _missing_runs, _stale, stale_records

KEY = RunKey.parse('shapes/shift_paper:paper@released_mosei')


def recorded(seeds=(0, 1, 2, 3, 4), **changes):
    system = find_system(KEY.system_id)
    n = len(seeds)
    fold = Fold(list(seeds), [{}] * n, [0.0] * n, [0] * n, [0.5] * n, [0.5] * n)
    made = Record(
        KEY,
        settings_of(system, KEY.variant),
        fingerprint=_fingerprints([system])[system.id],
        folds={'paper': fold},
    )
    return dataclasses.replace(made, **changes)


def test_stale():
    made = recorded()
    assert _stale(made) is None
    other = {**made.settings, 'metric': 'accuracy'}
    assert _stale(dataclasses.replace(made, settings=other)) == 'settings changed: metric'
    moved = [x * 1.0001 for x in made.fingerprint]
    assert 'something else' in _stale(dataclasses.replace(made, fingerprint=moved))
    gone = [dataclasses.replace(KEY, system='gone'), dataclasses.replace(KEY, variant='gone')]
    assert all('no recipe' in _stale(dataclasses.replace(made, key=key)) for key in gone)


def test_fingerprints_are_kept_and_taken_again_when_sources_change(tmp_path, monkeypatch):
    from erc.runs import fingerprints as F

    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    system, taken, take = find_system(KEY.system_id), [], F._take
    monkeypatch.setattr(F, '_take', lambda s: (taken.append(s.id), take(s))[1])
    first = _fingerprints([system])
    assert _fingerprints([system]) == first and len(taken) == 1
    monkeypatch.setattr(F, '_sources_digest', lambda module: 'another source')
    assert _fingerprints([system]) == first and len(taken) == 2
    (tmp_path / 'fingerprints.json').write_text('{"cut')
    assert _fingerprints([system]) == first and len(taken) == 3, 'a broken cache counts as empty'


@pytest.fixture
def no_corpora(tmp_path, monkeypatch):
    "As in a clone without corpora."
    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'none'))
    S._data_digest.cache_clear()
    yield
    S._data_digest.cache_clear()


def test_missing(tmp_path, no_corpora):
    wanted = {str(k) for k in wanted_runs('shapes')}

    def found():
        return _missing_runs('shapes', home=tmp_path).why.to_dict()

    assert set(found()) == wanted and set(found().values()) == {'absent'}
    save_record(recorded([0]), tmp_path)
    assert found()[str(KEY)] == '1 of 5 seeds of paper'
    save_record(recorded(fingerprint=[1.0, 2.0, 3.0]), tmp_path)
    assert 'something else' in found()[str(KEY)]
    save_record(recorded(), tmp_path)
    assert set(found()) == wanted - {str(KEY)}


def test_changed_data_or_encoder_makes_a_record_stale(monkeypatch, data):
    from erc.studies.shapes import load_pairs

    key = dataclasses.replace(KEY, corpus='released_iemocap4')
    made = recorded(data_digest=load_pairs('released_iemocap4').digest(), key=key)
    assert _stale(made, data=True) is None
    other = dataclasses.replace(made, data_digest='0' * 64)
    assert _stale(other) is None, 'a quick look does not load corpora'
    assert _stale(other, data=True) == 'the corpus changed'
    monkeypatch.setattr(S, 'encoder_path', lambda name: name)
    monkeypatch.setattr(S, 'encoder_identity', lambda path: 'b')
    for files, reason in (('a', 'the encoder of sentence changed'), ('b', None)):
        encoded = dataclasses.replace(made, encoders={'sentence': {'files': files}})
        assert _stale(encoded, data=True) == reason


def test_folds_that_lack_seeds_are_named(tmp_path, no_corpora):
    key = dataclasses.replace(KEY, variant='tuned')
    made = recorded(range(5), cross=['paper', 'session1', 'session2'])
    made = dataclasses.replace(
        made, key=key, settings=settings_of(find_system(key.system_id), 'tuned')
    )
    made.folds['session2'] = dataclasses.replace(made.folds['paper'], seeds=[0])
    save_record(made, tmp_path)
    why = _missing_runs('shapes', home=tmp_path).why[str(key)]
    assert why == '0 of 2 seeds of session1, 1 of 2 seeds of session2'


def test_no_committed_record_is_of_a_run_that_recipes_lack():
    for path in _record_files(root() / 'results'):
        key = RunKey.from_path(path)
        assert key.variant in find_system(key.system_id).variants, key


def test_committed_records_hold():
    """Every record in results/ belongs to a recipe and a model as they are now.

    Those of the first edition, whose settings name what is standardised, wait for their runs under
    the protocol; tables mark them as stale, and no claim is judged on one.
    """
    records, _ = read_records(root() / 'results')
    protocol = [r for r in records.values() if 'standardise' not in r.settings]
    assert len(protocol) > 20
    assert {str(k): why for k, why in stale_records(protocol).items()} == {}


def test_every_committed_record_is_of_a_run_that_a_recipe_has():
    records, _ = read_records(root() / 'results')
    wanted = set(map(str, wanted_runs()))
    assert [str(key) for key in records if str(key) not in wanted] == []
