"What a command would run, why, and how long it takes."

import dataclasses
import pickle
import shlex

import numpy as np
import pytest

from erc.commands.data import _convert_step
from erc.data.registry import converted
from erc.runs.keys import RunKey
from erc.runs.plan import (
    _fill_estimates,
    _folds_of,
    _measured_seconds,
    _ran_on,
    _recorded_seconds,
    plan_runs,
)
from erc.runs.recipes import find_system, settings_of, wanted_runs
from erc.runs.records import Fold, Record, save_record


def key(text):
    return RunKey.parse(text)


def test_a_plan_says_what_and_why(tmp_path):
    plan = plan_runs('shapes', corpora=['mosi'], variant='tuned', home=tmp_path)
    keys = [key(k) for k in plan.index]
    assert keys and {(k.corpus, k.variant) for k in keys} == {('mosi', 'tuned')}
    assert set(plan.why) == {'absent'} and plan.seconds.isna().all()
    one = plan_runs('shapes/shift_paper', home=tmp_path)
    assert {key(k).system for k in one.index} == {'shift_paper'}
    alone = plan_runs('shapes/shift_paper:tuned@mosi', home=tmp_path)
    assert list(alone.index) == ['shapes/shift_paper:tuned@mosi']
    assert len(plan_runs('all', home=tmp_path)) == len(wanted_runs())


@pytest.mark.parametrize(
    'target,options,words',
    [
        ('shape', {}, 'not a run key'),
        ('shapes/shift_papr', {}, "did you mean 'shift_paper'"),
        ('shapes', {'corpora': ['mossi']}, "did you mean 'mosi'"),
        ('shapes', {'variant': 'papr'}, "did you mean 'paper'"),
        ('shapes/shift_paper:tuned@mossi', {}, "did you mean 'mosi'"),
    ],
)
def test_unknown_targets_are_answered_with_the_nearest(target, options, words):
    with pytest.raises(ValueError, match=words):
        plan_runs(target, **options)


def recorded(text, seconds, cross=(), settings=None, device='cpu'):
    "A record whose folds took so many seconds a seed: {fold: [10.0, 5.0]}."
    run = key(text)
    settings = settings or settings_of(find_system(run.system_id), run.variant)
    folds = {
        name: Fold(list(range(len(own))), [{'device': device}] * len(own), own)
        for name, own in seconds.items()
    }
    return Record(run, settings, cross=list(cross), folds=folds)


def test_estimates_come_from_records_with_the_same_settings():
    run, paper = key('sagru/S5:tuned@iemocap4'), key('sagru/S5:paper@iemocap4')
    made = recorded('sagru/S5:tuned@iemocap4', {'paper': [30.0, 10.0]})
    assert _recorded_seconds(run, [made], seeds=2) == 40
    assert _recorded_seconds(run, [made]) == 20 * 3, 'the seeds that are missing'
    elsewhere = dataclasses.replace(run, corpus='demo')
    assert _recorded_seconds(elsewhere, [made], seeds=3) == 60, 'another corpus tells too'
    assert np.isnan(_recorded_seconds(paper, [made])), 'another variant does not'
    old = {**made.settings, 'hyperparameters': {'lr': 1.0}}
    stale = dataclasses.replace(made, settings=old)
    assert np.isnan(_recorded_seconds(run, [stale])), 'neither does a stale record'


def test_estimates_count_the_seeds_of_each_fold():
    cross = ['session1', 'session2', 'paper']
    seconds = {'paper': [10.0] * 5, 'session1': [10.0]}
    made, run = recorded('sagru/S5:tuned@iemocap4', seconds, cross), key('sagru/S5:tuned@iemocap4')
    assert _recorded_seconds(run, [made], seeds=5) == 30, 'a seed of session1, two of session2'
    assert _recorded_seconds(run, [made], 5, ['session2']) == 20
    assert _recorded_seconds(run, [made], 5, ['paper']) == 50, 'what it took; nothing is missing'
    facts = Record(key('shapes/corpus_counts:fixed@demo'), folds={'paper': Fold(seconds=[7.0])})
    facts.settings = settings_of(find_system('shapes/corpus_counts'), 'fixed')
    assert _recorded_seconds(facts.key, [facts]) == 7


def test_a_plan_takes_no_estimate_from_a_stale_record(tmp_path):
    text = 'shapes/shift_paper:tuned@mosi'
    save_record(recorded(text, {'paper': [99.0] * 5}, settings={'lr': 1}), tmp_path)
    row = plan_runs(text, home=tmp_path).loc[text]
    assert row.why.startswith('settings changed') and np.isnan(row.seconds)
    save_record(recorded(text, {'paper': [99.0] * 5}), tmp_path)
    assert plan_runs(text, home=tmp_path).seconds.item() == 5 * 99


def test_runs_of_the_papers_split_alone_have_no_other_fold(tmp_path):
    tuned, paper = (f'sagru/S5:{v}@iemocap4' for v in ('tuned', 'paper'))
    assert _folds_of(key(tuned), ['paper', 'session1']) == ['paper', 'session1']
    assert _folds_of(key(paper), ['paper', 'session1']) == ['paper']
    for folds, runs in {(): 2, ('paper',): 2, ('session1',): 1}.items():
        assert len(plan_runs('sagru/S5', home=tmp_path, folds=folds)) == runs


def test_times_of_another_kind_of_machine_tell_nothing():
    text = 'sagru/S5:tuned@iemocap4'
    seconds = {'session1': [1.0]}  # of a process that ran one fold
    on = [recorded(text, seconds, device=d) for d in ('cpu', 'NVIDIA H200')]
    assert [_ran_on(r, 'cpu') for r in on] == [True, False]
    assert [_ran_on(r, 'cuda') for r in on] == [False, True]


def test_unknown_times_are_measured_without_an_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr('erc.data.features.encoder_path', lambda *a: pytest.fail('it encodes'))
    plan = plan_runs('sagru/S4:tuned@iemocap4', home=tmp_path)
    plan = plan.rename(index=lambda k: k.replace('iemocap4', 'demo'))
    assert _fill_estimates(plan, seeds=1).seconds.item() > 0
    assert _fill_estimates(plan, seeds=1, within=0).seconds.isna().all()  # no time to ask


def test_measured_times_count_folds_and_seeds(monkeypatch):
    "A step costs the same whatever the fold: time is in proportion to epochs."
    monkeypatch.setattr('erc.runs.plan._row_seconds', lambda *a: 1.0)
    run = key('sagru/S4:tuned@demo')
    system = find_system(run.system_id)

    def epochs(**options):
        return _measured_seconds(system, run, seeds=range(5), **options) / epoch

    epoch = 1
    point = settings_of(system, 'tuned')
    searched = point['search']['epochs'] * len(point['hyperparameters']['lr'])
    epoch = epochs(folds=['paper']) / (searched + 5 * 30)
    assert epochs(folds=['fold1']) == pytest.approx(searched + 2 * 30)
    assert epochs() == pytest.approx(6 * searched + (5 + 5 * 2) * 30)


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    "A folder of corpora with one pickle that was fetched."
    from test_families import KINDS, family

    from erc.data.sources import pins

    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'data'))
    path = tmp_path / 'data' / pins('meld_mmgcn')[0].rel
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(family('mmgcn9', KINDS['mmgcn9'])))
    return tmp_path


def convert(step):
    from typer.testing import CliRunner

    from erc.cli import app

    result = CliRunner().invoke(app, shlex.split(step)[1:])
    assert result.exit_code == 0, result.output


def test_a_fetched_pickle_is_converted_and_its_rows_are_due(fetched):
    convert(_convert_step('meld_mmgcn'))
    assert converted() == ['meld_mmgcn']
    plan = plan_runs('mmspcl/meld_text', corpora=['meld_mmgcn'], home=fetched)
    assert list(plan.index) == ['mmspcl/meld_text:tuned@meld_mmgcn']
    due = plan_runs('mmspcl', only_missing=True, home=fetched)
    assert 'meld_mmgcn' in {key(k).corpus for k in due.index}
    assert _convert_step('meld') == _convert_step('avec') == ''
    assert len(shlex.split(_convert_step('iemocap_multiemo'))) == 3 + 4 + 3


def test_a_converted_corpus_runs_under_every_system_that_can_read_it(fetched):
    convert(
        _convert_step('meld_mmgcn')
        .replace('--name meld_mmgcn', '--name mine')
        .replace('data/meld_mmgcn', 'data/mine')
    )
    plan = plan_runs('shapes/gruarc_mosi', corpora=['mine'], home=fetched)
    assert list(plan.index) == [f'shapes/gruarc_mosi:{v}@mine' for v in ('paper', 'tuned')]
    assert wanted_runs('sagru', ['mine'])
    assert 'mine' not in {k.corpus for k in wanted_runs('shapes')}, 'unless it is asked for'
    with pytest.raises(ValueError, match='unknown corpus of shapes/gruarc_mosi'):
        plan_runs('shapes/gruarc_mosi', corpora=['mien'])
    with pytest.raises(
        ValueError, match='no system of shapes/always_inertia can be trained on mine'
    ):
        plan_runs('shapes/always_inertia', corpora=['mine'])
