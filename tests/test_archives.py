"A run that is stopped, carried to a machine without the corpus and finished there is as one that stayed."

import dataclasses
import shutil
from functools import partial
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy_recipe import KEY, toy_recipe
from typer.testing import CliRunner

import erc.runs.fold as F
import erc.runs.plan
from erc.cli import app
from erc.data.folds import folds, with_fold
from erc.data.registry import load_corpus
from erc.data.sentence_encoders import encoder_identity, encoder_path, toy_encoder
from erc.nn.encoders import TextEncoder
from erc.runs.archives import (
    _cut_into_pieces,
    _encoder_parts,
    _pack_runs,
    _position,
    _take_checkpoints,
    _unpack_archive,
    _what_is_read,
)
from erc.runs.carried import (
    _carried_folder,
    _carried_name,
    _find_carried,
    _save_carried,
    _without_texts,
)
from erc.runs.keys import RunKey
from erc.runs.prepare import _load_encoded
from erc.runs.recipes import _pretraining_system, find_system
from erc.runs.records import find_record
from erc.training.checkpoint import _end_of_time
from erc.training.engine import Steps
from erc.training.fit import fit

MEASURED = erc.runs.plan._measured_seconds  # before a fixture replaces it


class Machine:
    "A project with the toy recipe, records and a cache of its own."

    def __init__(self, home, monkeypatch):
        self.home, self.patch = home, monkeypatch
        (home / 'recipes').mkdir(parents=True)
        (home / 'recipes' / 'toy.toml').write_text(toy_recipe(epochs=2))
        (home / 'settings.ini').write_text('[DEFAULT]\n')

    def invoke(self, *options):
        where = {'ROOT': '', 'RECIPES': 'recipes', 'CACHE': 'cache'}
        for name, folder in where.items():
            self.patch.setenv(f'ERC_{name}', str(self.home / folder))
        command = ['run', 'toy', '--seeds', '2', '--quiet', *map(str, options)]
        return CliRunner().invoke(app, command)

    def run(self, *options):
        result = self.invoke(*options)
        assert result.exit_code == 0, result.output
        return result.output

    @property
    def record(self):
        return find_record(KEY, self.home / 'results')


def without_times(record):
    fold = dataclasses.replace(record.folds['paper'], seconds=[])
    return repr(dataclasses.asdict(dataclasses.replace(record, folds={'paper': fold})))


@pytest.fixture
def machines(tmp_path, monkeypatch):
    "Two machines, the second of which has no corpus; a checkpoint is written at every step."
    for name in ('ERC_ROOT', 'ERC_RECIPES', 'ERC_CACHE'):
        monkeypatch.setenv(name, '')
    monkeypatch.setattr(F, 'fit', partial(fit, every=0.0))
    monkeypatch.setattr('erc.runs.plan._measured_seconds', lambda *a, **k: 1.0)
    return Machine(tmp_path / 'a', monkeypatch), Machine(tmp_path / 'b', monkeypatch)


def without_corpora(patch):
    "Let no corpus have files."

    def read(*_):
        raise FileNotFoundError('no corpus here')

    for module in ('erc.runs.prepare', 'erc.runs.archives'):
        patch.setattr(f'{module}._read_encoded', read)


def stop_in(monkeypatch, share: float, steps: int):
    "Let time be over after a share of all steps."
    run, taken = Steps.run, []

    def counted(self, *args):
        taken.append(1)
        if len(taken) == round(share * steps):
            _end_of_time.set(0.0)
        return run(self, *args)

    monkeypatch.setattr(Steps, 'run', counted)


@pytest.mark.parametrize('share, kept', [(0.5, 0), (0.9, 1)])
def test_a_carried_run_leaves_the_record_of_one_that_stayed(machines, tmp_path, share, kept):
    a, b = machines
    steps, run = [], Steps.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, 'run', lambda *args: steps.append(1) or run(*args))
        a.run('--home', tmp_path / 'whole')
    whole, archive = find_record(KEY, tmp_path / 'whole'), tmp_path / 'runs.zip'
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, share, len(steps))
        said = a.run('--budget', 1000, '--export', archive)
    assert '1000 s are over' in said and 'runs.zip: 1 runs' in said
    assert (len(a.record.seeds) if a.record else 0) == kept
    without_corpora(a.patch)
    b.run('--import', archive, '--budget', 0)
    for folder in (b.home / 'cache' / 'checkpoints').glob('*/*/*'):
        shutil.rmtree(folder)  # an earlier run of other folds leaves its folder, empty
    said = b.run('--import', archive, '--budget', 1000)
    assert f', 0 encoders, {kept} records, 1 checkpoints' in said
    assert without_times(b.record) == without_times(whole)
    assert not [p for p in (b.home / 'cache' / 'checkpoints').rglob('*') if p.is_file()]


def test_of_two_checkpoints_the_one_that_is_further_is_kept(tmp_path, monkeypatch):
    "One that is absent here is taken, one that is older than ours is not."

    def write(folder, name, *position):
        path = folder / 'paper' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({'position': torch.tensor(position)}, path)
        return path

    carried = tmp_path / 'toy' / 'net--tuned--demo'
    ours, names = tmp_path / 'ours', ('a', 'b', 'c', 'd')
    monkeypatch.setattr('erc.runs.archives._checkpoints_of', lambda key, home: ours)
    for name, position in zip(names, [(5, 0, 0), (1, 0, 0), (4, 0, 1), (2, 1, 0)]):
        write(carried, f'{name}.safetensors', *position)
    for name, position in zip(names, [(1, 3, 0), (1, 2, 0), (9, 0, 0)]):
        write(ours, f'{name}.safetensors', *position)
    assert _take_checkpoints(carried, tmp_path) == ''
    paths = [ours / 'paper' / f'{name}.safetensors' for name in names]
    assert list(map(_position, paths)) == [(0, 5, 0), (0, 1, 2), (1, 4, 0), (0, 2, 1)]
    paths[0].write_bytes(b'cut')
    assert _position(paths[0]) == ()


class Killed(BaseException):
    "Ends a run where it stands, as SIGKILL does."


def test_a_run_that_was_killed_is_carried_and_finished(machines, tmp_path):
    a, b = machines
    a.run('--home', tmp_path / 'whole')
    run, taken = Steps.run, []

    def killed(self, *args):
        taken.append(1)
        if len(taken) > 7:
            raise Killed
        return run(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, 'fit', partial(fit, every=0.0))
        patch.setattr(Steps, 'run', killed)
        with pytest.raises(Killed):
            a.invoke('--budget', 1000)
    a.run('--budget', 0, '--export', tmp_path / 'x.zip')
    without_corpora(a.patch)
    said = b.run('--import', tmp_path / 'x.zip', '--budget', 1000)
    assert '1 checkpoints' in said
    assert without_times(b.record) == without_times(find_record(KEY, tmp_path / 'whole'))


def test_no_time_runs_nothing_and_packs_what_is_read(machines, tmp_path):
    a, b = machines
    a.run('--budget', 0, '--export', tmp_path / 'x.zip')
    assert a.record is None
    without_corpora(a.patch)
    b.run('--import', tmp_path / 'x.zip', '--export', tmp_path / 'back.zip')
    _unpack_archive(tmp_path / 'back.zip', a.home / 'results')
    assert without_times(a.record) == without_times(b.record)
    with ZipFile(tmp_path / 'back.zip') as archive:
        assert archive.namelist() == ['records/toy/net--paper--demo.json']


def test_carried_runs_are_timed(machines, tmp_path, monkeypatch):
    from erc.runs import plan

    a, b = machines
    a.run('--budget', 0, '--export', tmp_path / 'x.zip')
    without_corpora(a.patch)
    b.run('--import', tmp_path / 'x.zip', '--budget', 0)
    monkeypatch.setattr(plan, '_measured_seconds', MEASURED)
    found = plan._fill_estimates(plan.plan_runs('toy', home=b.home / 'results'), seeds=1)
    assert (found.seconds > 0).all()


def test_what_cannot_be_carried_is_left_out_and_a_failed_run_loses_nothing(machines, tmp_path):
    a, _ = machines
    recipe = a.home / 'recipes' / 'toy.toml'
    counted = '[systems.counted]\nlike = "net"\nkind = "facts"\nas_printed = true\n'
    recipe.write_text(recipe.read_text() + counted)
    result = a.invoke('--export', tmp_path / 'x.zip')
    assert result.exit_code == 1, result.output
    assert '1 of 2 runs failed' in result.output
    assert 'left out: toy/counted:paper@demo may read the words' in result.output
    with ZipFile(tmp_path / 'x.zip') as archive:
        assert 'records/toy/net--paper--demo.json' in archive.namelist()


def test_what_is_trained_before_is_carried_too(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_CACHE', str(tmp_path / 'cache'))
    system = dataclasses.replace(find_system('shapes/gruarc'), encoder='hashing')
    monkeypatch.setattr('erc.runs.archives.find_system', lambda _: system)
    folders = _what_is_read(RunKey.parse('shapes/gruarc:tuned@demo'), tmp_path)
    names = [_carried_name(s, 'demo') for s in (system, _pretraining_system(system))]
    assert [folder.name for folder in folders] == names and names[0] != names[1]


def test_no_baseline_gets_a_corpus_without_texts(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    model, baseline = find_system('shapes/without_shift'), find_system('baselines/tfidf')
    for system in (model, baseline):
        demo = load_corpus('demo')
        _save_carried(demo, demo.digest(), _carried_folder(system, 'demo'))
    assert _find_carried(model, 'demo') and _find_carried(baseline, 'demo') is None


def test_no_text_is_carried(machines, tmp_path):
    a, _ = machines
    a.run('--budget', 0, '--export', tmp_path / 'x.zip')
    with ZipFile(tmp_path / 'x.zip') as archive:
        everything = b''.join(map(archive.read, archive.namelist()))
    table = load_corpus('demo').table
    long = table.text[table.text.str.split().str.len() > 3]
    assert len(long) > 100 and not [text for text in long if text.encode() in everything]


def test_folds_do_not_depend_on_what_texts_say():
    demo = load_corpus('demo')
    hidden = _without_texts(demo)
    assert folds(hidden) == folds(demo) and not (hidden.table.text == demo.table.text).any()
    for fold in ('paper', *folds(demo)):
        for seed in (0, 1):
            a, b = (with_fold(corpus, fold, seed).table.split for corpus in (demo, hidden))
            assert (a == b).all()


def test_a_record_of_another_experiment_is_left_alone(machines, tmp_path):
    a, b = machines
    a.run('--export', tmp_path / 'x.zip')
    (b.home / 'recipes' / 'toy.toml').write_text(toy_recipe(epochs=1))
    b.run()
    before = (b.home / 'results/records/toy/net--paper--demo.json').read_bytes()
    taken = _unpack_archive(tmp_path / 'x.zip', b.home / 'results')
    assert taken['records'] == 0 and 'settings_hash differs' in taken['refused'][0]
    assert (b.home / 'results/records/toy/net--paper--demo.json').read_bytes() == before


def test_a_record_that_holds_replaces_a_stale_one(machines, tmp_path):
    a, b = machines
    (b.home / 'recipes' / 'toy.toml').write_text(toy_recipe(epochs=1))
    b.run()
    (b.home / 'recipes' / 'toy.toml').write_text(toy_recipe(epochs=2))  # theirs is stale now
    a.run('--export', tmp_path / 'x.zip')
    b.run('--import', tmp_path / 'x.zip', '--budget', 0)
    assert find_record(KEY, b.home / 'results').curves['loss'].shape[1] == 2


@pytest.mark.parametrize(
    'name',
    [
        '../x',
        '/etc/x',
        'records/../../x.json',
        'records/a/b.py',
        'carried/0/x',
        'C:/x',
        'records\\a',
    ],
)
def test_a_foreign_name_is_refused_before_anything_is_written(tmp_path, name):
    with ZipFile(tmp_path / 'x.zip', 'w') as archive:
        archive.writestr('records/toy/net--paper--demo.json', '{}')
        archive.writestr(name, 'x')
    with pytest.raises(ValueError, match='x.zip holds .* which no archive of runs has'):
        _unpack_archive(tmp_path / 'x.zip', tmp_path / 'home')
    assert not (tmp_path / 'home').exists()


def test_a_bomb_and_a_damaged_archive_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('erc.runs.archives._LARGEST', 10**6)
    with ZipFile(tmp_path / 'x.zip', 'w', ZIP_DEFLATED) as archive:
        archive.writestr('records/toy/net--paper--demo.json', b'0' * 10**7)
    with pytest.raises(ValueError, match='are allowed'):
        _unpack_archive(tmp_path / 'x.zip', tmp_path / 'home')
    data = (tmp_path / 'x.zip').read_bytes()
    (tmp_path / 'cut.zip').write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match='cut.zip is no whole archive of runs'):
        _unpack_archive(tmp_path / 'cut.zip', tmp_path / 'home')


@pytest.mark.parametrize(
    'key',
    [
        'dialoguetrm/U_ft:tuned@iemocap6',
        'baselines/mvn_words:tuned@iemocap6',
        'baselines/tfidf:tuned@iemocap6',
    ],
)
def test_systems_that_read_words_are_not_packed(tmp_path, key):
    with pytest.raises(ValueError, match='words of its corpus'):
        _pack_runs([key], tmp_path / 'x.zip')
    assert not (tmp_path / 'x.zip').exists()


# ---- runs that train an encoder


@pytest.fixture
def words(monkeypatch, tmp_path):
    "The run of a system that reads token ids, with an encoder in a folder."
    monkeypatch.setenv('ERC_CACHE', str(tmp_path / 'here'))
    folder = toy_encoder(tmp_path / 'bert', load_corpus('demo').table.text)
    system = find_system('dialoguetrm/u_free_ft')
    own = {'encoder': str(folder), 'args': {**system.args, 'encoder': str(folder)}}
    system = dataclasses.replace(system, **own)
    for module in ('archives', 'plan'):
        monkeypatch.setattr(f'erc.runs.{module}.find_system', lambda _: system)
    return system, RunKey.parse('dialoguetrm/u_free_ft:tuned@demo'), folder


def test_token_ids_and_their_encoder_are_carried_where_that_is_asked_for(
    words, tmp_path, monkeypatch
):
    system, key, folder = words
    archive = tmp_path / 'x.zip'
    with pytest.raises(ValueError, match='reads token ids.*--tokens'):
        _pack_runs([key], archive)
    assert _pack_runs([key], archive, tmp_path / 'home', tokens=True) == []
    pieces = _cut_into_pieces(archive, 40_000)
    assert len(pieces) > 2 and max(p.stat().st_size for p in pieces) == 40_000
    here, digest_here = _load_encoded(system, 'demo')
    identity = encoder_identity(folder)

    monkeypatch.setenv('ERC_CACHE', str(tmp_path / 'there'))
    without_corpora(monkeypatch)
    shutil.rmtree(folder)
    taken = _unpack_archive(archive, tmp_path / 'home')
    assert taken['carried'] == taken['encoders'] == 1 and not taken['refused']
    there, digest_there = _load_encoded(system, 'demo')
    assert digest_there == digest_here and there.classes == here.classes
    np.testing.assert_array_equal(there.features['text'], here.features['text'])
    assert encoder_identity(encoder_path(str(folder))) == identity
    assert TextEncoder(str(folder)).size == 32
    pieces[1].unlink()
    with pytest.raises(ValueError, match=r'x.zip.002 is missing beside x.zip.003'):
        _unpack_archive(archive, tmp_path / 'home')


def test_no_pickled_encoder_is_packed_or_taken_in(words, tmp_path):
    _, key, folder = words
    next(folder.glob('*.safetensors')).rename(folder / 'pytorch_model.bin')
    with pytest.raises(ValueError, match='has pickled weights'):
        _encoder_parts(str(folder))
    with ZipFile(tmp_path / 'x.zip', 'w') as archive:
        archive.writestr('encoders/' + '0' * 16 + '/pytorch_model.bin', b'')
    with pytest.raises(ValueError, match='which no archive of runs has'):
        _unpack_archive(tmp_path / 'x.zip', tmp_path / 'home')
    with pytest.raises(FileNotFoundError, match='there is no archive .*, and no piece y.zip.001'):
        _unpack_archive(tmp_path / 'y.zip', tmp_path / 'home')
