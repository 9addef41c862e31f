"`erc run` killed half way leaves the record of an uninterrupted one."

import dataclasses
import os
from functools import partial
from pathlib import Path  # noqa: F401 (for the process that is killed)

import numpy as np
import pytest
from toy_recipe import KEY, toy_recipe
from toy_training import die_at, killed  # noqa: F401

import erc.runs.fold as F
from erc.core import cache_home
from erc.runs.recipes import find_system
from erc.runs.records import find_record
from erc.runs.run import run_system
from erc.training.engine import Steps
from erc.training.fit import fit

TOY = toy_recipe(epochs=2)


def toy_project(home):
    "A project with a tiny recipe of its own, which writes a checkpoint at every step."
    (home / 'recipes').mkdir(parents=True, exist_ok=True)
    (home / 'recipes' / 'toy.toml').write_text(TOY)
    where = {'ERC_ROOT': home, 'ERC_RECIPES': home / 'recipes', 'ERC_CACHE': home / 'cache'}
    os.environ.update({k: str(v) for k, v in where.items()})
    F.fit = partial(fit, every=0.0)


def run_missing(home):
    from typer.testing import CliRunner

    from erc.cli import app

    toy_project(home)
    return CliRunner().invoke(app, ['run', 'toy', '--missing', '--seeds', '2'])


def without_times(record):
    fold = dataclasses.replace(record.folds['paper'], seconds=[])
    return dataclasses.asdict(dataclasses.replace(record, folds={'paper': fold}))


@pytest.mark.parametrize('share, kept', [(1 / 2, []), (5 / 6, [0])])
def test_a_killed_run_leaves_the_record_of_an_uninterrupted_one(tmp_path, monkeypatch, share, kept):
    """`erc run toy --missing`, killed in the second point of its grid or in its second seed, and again.

    The best point, of seed 0, is as long as the final run and trained once: three runs in all.
    """
    for name in ('ERC_ROOT', 'ERC_RECIPES', 'ERC_CACHE'):
        monkeypatch.setenv(name, '')
    monkeypatch.setattr(F, 'fit', fit)
    monkeypatch.setattr(
        'erc.runs.plan._measured_seconds', lambda *a, **k: 1.0
    )  # it takes steps too
    homes, ran, step = (tmp_path / 'a', tmp_path / 'b'), [], Steps.run
    toy_project(homes[0])
    monkeypatch.setattr(Steps, 'run', lambda self, b: (ran.append(b), step(self, b))[1])
    run_system(find_system('toy/net'), KEY, seeds=[0, 1], home=homes[0] / 'results', progress=False)
    whole = len(ran)
    at = int(whole * share)
    code = f'import erc.runs.plan as P; P._measured_seconds = lambda *a, **k: 1.0; die_at({at}); '
    killed('test_resume', code + f'run_missing(Path({str(homes[1])!r}))')
    checkpoints = homes[1] / 'cache' / 'checkpoints'
    written = find_record(KEY, homes[1] / 'results')
    assert (written.seeds if written else []) == kept and list(checkpoints.rglob('*.safetensors'))
    result = run_missing(homes[1])
    assert result.exit_code == 0 and '1 runs' in result.output, result.output
    assert len(ran) - whole == whole - (at - 1), 'only what was missing was trained'
    a, b = (find_record(KEY, home / 'results') for home in homes)
    assert b.seconds > 0
    np.testing.assert_equal(without_times(a), without_times(b))
    assert not list((cache_home() / 'checkpoints').rglob('*.safetensors')), (
        'checkpoints go with the record written'
    )
    assert 'nothing is missing' in run_missing(homes[1]).output
