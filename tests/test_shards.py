"A plan is cut into jobs whose records merge into what one run gives, whatever the order."

import dataclasses
import itertools
import json
import math
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from erc.cli import app
from erc.runs import run as R
from erc.runs.keys import RunKey
from erc.runs.recipes import find_system
from erc.runs.records import Fold, Record, find_record, save_record
from erc.runs.run import run_system
from erc.runs.shards import _jobs, _makespan
from erc.runs.stale import _too_few_seeds
from erc.training.checkpoint import OutOfTime, _stop_after

KEY = 'sagru/S5:tuned@demo'
FEW = {'epochs': 1, 'lr': 3e-3}
SYSTEM = dataclasses.replace(find_system('sagru/S5'), encoder='hashing')


def planned(tmp_path, key=KEY, seconds=4000.0, **options):
    plan = pd.DataFrame({'why': ['absent'], 'seconds': [seconds]}, index=[key])
    return _jobs(plan, home=tmp_path, **options)


def seeds_of(jobs) -> set:
    return {(job.fold, seed) for job in jobs for seed in job.seeds or ()}


def test_a_long_run_is_cut_into_folds_and_seeds(tmp_path):
    jobs = planned(tmp_path, split=300)
    assert [j.name for j in jobs] == [j.name for j in planned(tmp_path, split=300)]
    assert len({j.name for j in jobs}) == len(jobs)
    assert sum(j.seconds for j in jobs) == pytest.approx(4000, abs=1)
    assert seeds_of(jobs) >= {('paper', k) for k in range(5)}
    first = {j.fold: j for j in jobs if j.seeds == [0]}
    for job in jobs:
        assert job.inputs == ([] if job.seeds == [0] else [first[job.fold].name])
        assert job.outputs == [str(RunKey.parse(KEY).path(tmp_path))]
        assert job.command[:2] == ['run', KEY] and job.command[-2:] == ['--home', str(tmp_path)]
        if job.seeds != [0]:
            assert job.seconds < first[job.fold].seconds  # which searches


def test_a_short_run_is_one_job_and_one_of_unknown_length_a_job_a_fold(tmp_path):
    whole = planned(tmp_path, seconds=30.0)
    assert [(j.fold, j.seeds) for j in whole] == [('', None)]
    folds = planned(tmp_path, seconds=math.nan)
    assert [j.fold for j in folds] == ['paper', 'fold1', 'fold2', 'fold3', 'fold4', 'fold5']
    assert {j.seconds for j in folds} == {None}


def test_only_what_is_missing_is_planned_and_chosen_settings_are_not_searched_again(tmp_path):
    record = run_system(
        SYSTEM, KEY, seeds=[0], folds=['paper'], home=tmp_path, demo=FEW, progress=False
    )
    whole = Record(record.key, settings={}, cross=['fold1'], folds={'paper': record.folds['paper']})
    save_record(dataclasses.replace(record, cross=whole.cross), tmp_path)
    plan = pd.DataFrame({'why': ['x'], 'seconds': [4000.0]}, index=[KEY])
    plan['why'] = _too_few_seeds(find_record(KEY, tmp_path), find_system('sagru/S5'), None)
    jobs = _jobs(plan, home=tmp_path, split=1)
    own = [j for j in jobs if j.fold == 'paper']
    assert [j.seeds for j in own] == [[1], [2], [3], [4]]
    assert all(not j.inputs for j in own)  # side by side: the record says what was chosen


def test_what_is_not_here_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'nothing'))
    plan = pd.DataFrame({'why': ['absent'], 'seconds': [10.0]}, index=['sagru/S5:tuned@iemocap4'])
    jobs = _jobs(plan, home=tmp_path)
    assert [j.name for j in jobs] == [
        'features--minilm--iemocap4',
        'run--sagru--S5--tuned--iemocap4',
    ]
    assert jobs[1].inputs == [jobs[0].name] and all('iemocap4' in j.lacks for j in jobs)


def but_for_times(record) -> str:
    folds = {k: dataclasses.replace(f, seconds=[]) for k, f in record.folds.items()}
    with np.printoptions(threshold=10**9):
        return repr(dataclasses.asdict(dataclasses.replace(record, folds=folds)))


def test_seeds_that_run_apart_in_any_order_give_the_record_of_one_run(tmp_path):
    how = dict(seeds=range(2), demo=FEW, progress=False)
    whole = run_system(SYSTEM, KEY, home=tmp_path / 'whole', **how)
    for i, order in enumerate(itertools.permutations([0, 1])):
        for seed in order:
            apart = run_system(SYSTEM, KEY, only=[seed], home=tmp_path / str(i), **how)
        assert apart.seeds == [0, 1]
        assert but_for_times(apart) == but_for_times(whole)


def fold(seeds) -> Fold:
    "What some seeds gave, each value saying whose it is."
    n = len(seeds)
    x = np.array(seeds, float)[:, None]
    return Fold(
        list(seeds), [{'seed': k} for k in seeds], [1.0] * n, list(seeds), [0.1 * k for k in seeds],
        [0.2 * k for k in seeds], {'dev': x}, x.astype(np.int8), {'all': x[..., None, None]},
        {'chosen': 1}, {'map': np.array([min(seeds)]), 'a_by_seed': x},
    )  # fmt: skip


@pytest.mark.parametrize('order', list(itertools.permutations([(0, 3), (1,), (2, 3)])))
def test_folds_merge_into_the_same_whatever_comes_first(order):
    merged = fold(order[0])
    for seeds in order[1:]:
        merged = merged.add(fold(seeds))
    expected = fold([0, 1, 2, 3])
    for name, value in vars(expected).items():
        np.testing.assert_equal(getattr(merged, name), value, err_msg=name)


def test_time_on_many_nodes_is_bounded_by_the_longest_chain(tmp_path):
    jobs = planned(tmp_path, split=300)
    longest = max(
        j.seconds + max((k.seconds for k in jobs if j.name in k.inputs), default=0) for j in jobs
    )
    assert _makespan(jobs, 1) == pytest.approx(sum(j.seconds for j in jobs))
    assert _makespan(jobs, 100) == pytest.approx(longest)
    assert _makespan(jobs, 1) > _makespan(jobs, 2) > _makespan(jobs, 100)


def test_commands(tmp_path):
    runner = CliRunner()
    made = runner.invoke(
        app, ['plan', 'sagru/S5:tuned@iemocap4', '--home', str(tmp_path), '--json']
    )
    assert made.exit_code == 0 and {
        'name',
        'inputs',
        'outputs',
        'seconds',
        'memory',
        'device',
    } <= set(json.loads(made.stdout)[0])
    wrong = runner.invoke(app, ['run', KEY, '--only-seeds', 'x', '--home', str(tmp_path)])
    assert wrong.exit_code == 2 and "'x' is not a seed" in wrong.output


def test_folds_that_are_on_record_are_no_job(tmp_path):
    fold = Fold([0], seconds=[1.0])
    system = find_system('sagru/S5')
    record = Record(RunKey.parse(KEY), cross=['paper'], folds={'paper': fold})
    save_record(record, tmp_path)
    why = _too_few_seeds(record, system, 1)
    plan = pd.DataFrame({'why': [why], 'seconds': [1.0]}, index=[KEY])
    asked = dict(home=tmp_path, seeds=1)
    assert _jobs(plan, folds=['paper'], **asked) == []
    assert [j.fold for j in _jobs(plan, folds=['paper', 'fold1'], split=0, **asked)] == ['fold1']


def watched(monkeypatch) -> list:  # of (fold, seeds), as they are run
    ran, run_fold = [], R._run_fold

    def noted(new, job, seeds, facts, home):
        ran.append((job.fold, seeds))
        run_fold(new, job, seeds, facts, home)

    monkeypatch.setattr(R, '_run_fold', noted)
    return ran


def run_small(home):
    variants = {'tuned': {**SYSTEM.variants['tuned'], **FEW}}
    system = dataclasses.replace(SYSTEM, variants=variants)
    return run_system(system, KEY, seeds=[0], folds=['paper', 'fold1', 'fold2'], home=home)


def test_what_another_process_runs_comes_last(tmp_path, monkeypatch):
    ran, claim, wait = watched(monkeypatch), R._claim, R._claim_in_time
    other = []

    def claimed(folder, fold, seeds):
        if not other:
            other.append(claim(folder, 'paper', [0]))
        return claim(folder, fold, seeds)

    def waited(folder, fold, seeds):
        assert [f for f, _ in ran] == ['fold1', 'fold2']  # what is free was run meanwhile
        with _stop_after(0), pytest.raises(OutOfTime, match='still runs fold paper'):
            wait(folder, fold, seeds)
        other[0].close()
        return wait(folder, fold, seeds)

    monkeypatch.setattr(R, '_claim', claimed)
    monkeypatch.setattr(R, '_claim_in_time', waited)
    with pytest.warns(UserWarning, match='fold paper: another process runs it'):
        record = run_small(tmp_path)
    assert [f for f, _ in ran] == ['fold1', 'fold2', 'paper']
    assert list(record.folds) == list(run_small(tmp_path).folds)


def test_two_that_run_the_same_at_once_run_each_seed_once(tmp_path, monkeypatch):
    ran, records = watched(monkeypatch), []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        threads = [
            threading.Thread(target=lambda: records.append(run_small(tmp_path))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
    assert sorted(f for f, _ in ran) == ['fold1', 'fold2', 'paper']
    assert len(records) == 2 and {frozenset(r.folds) for r in records} == {
        frozenset(['paper', 'fold1', 'fold2'])
    }
