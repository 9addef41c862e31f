"What a command would run, why, and how long it takes."

import pickle
import shlex
from types import SimpleNamespace

import numpy as np
import pytest

from erc.data.registry import converted
from erc.data_commands import _convert_step
from erc.runs.keys import RunKey
from erc.runs.plan import _ran_on, fill_estimates, plan_runs, recorded_seconds
from erc.runs.recipes import wanted_runs


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


def test_estimates_come_from_records():
    records = [
        SimpleNamespace(key=key(text), seconds=seconds)
        for text, seconds in (('p/a:paper@x', 10.0), ('p/a:paper@y', 30.0), ('p/a:tuned@y', 100.0))
    ]

    def seconds(text):
        return recorded_seconds(key(text), records)

    assert seconds('p/a:paper@x') == 10 and seconds('p/a:paper@z') == 20
    assert seconds('p/a:tuned@x') == 100 and seconds('p/a:other@x') == 30
    assert np.isnan(seconds('p/b:paper@x'))


def test_times_of_another_kind_of_machine_tell_nothing():
    on = [SimpleNamespace(environments=[{'device': d}]) for d in ('cpu', 'NVIDIA H200')]
    assert [_ran_on(r, 'cpu') for r in on] == [True, False]
    assert [_ran_on(r, 'cuda') for r in on] == [False, True]


def test_unknown_times_are_measured(tmp_path):
    plan = plan_runs('sagru/S4:tuned@iemocap4', home=tmp_path)
    filled = fill_estimates(plan.rename(index=lambda k: k.replace('iemocap4', 'demo')), seeds=1)
    assert filled.seconds.item() > 0


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
    assert list(plan.index) == [f'mmspcl/meld_text:{v}@meld_mmgcn' for v in ('paper', 'tuned')]
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
