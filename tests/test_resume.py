"`erc run` killed half way leaves the record of an uninterrupted one."

import dataclasses
import os
from functools import partial
from pathlib import Path  # noqa: F401 (for the process that is killed)

import numpy as np
from toy_training import die_at, killed  # noqa: F401

import erc.runs.run as X
from erc.core import cache_home
from erc.runs.recipes import system
from erc.runs.records import find_record
from erc.runs.run import run_system
from erc.training.engine import Steps
from erc.training.fit import fit

TOY = """title = "Toy"
[systems.net]
label = "net"
notebook = "400_shift"
model = "erc.models.shift:ShiftNet"
data = "erc.studies.shapes:load_pairs"
encode = {sentence = "text", previous = "previous"}
encoder = "hashing"
features = ["sentence", "previous"]
target = "shift"
unit = "turn"
corpora = ["demo"]
settings.paper = {epochs = 2, batch = 64, lr = [1e-3, 1e-2]}
"""


def toy_project(home):
    "A project whose only recipe is a tiny one."
    (home / 'recipes').mkdir(parents=True, exist_ok=True)
    (home / 'recipes' / 'toy.toml').write_text(TOY)
    os.environ['ERC_ROOT'], X.package_file, X.fit = (
        str(home),
        lambda name: home / name,
        partial(fit, every=0.0),
    )
    os.environ['ERC_CACHE'] = str(home / 'cache')
    X.timed = lambda *args, **how: 1.0  # an estimate would take steps too


def run_missing(home):
    from typer.testing import CliRunner

    from erc.cli import app

    toy_project(home)
    return CliRunner().invoke(app, ['run', 'toy', '--missing', '--seeds', '2'])


def test_a_killed_run_leaves_the_record_of_an_uninterrupted_one(tmp_path, monkeypatch):
    "`erc run toy --missing`, killed in the second point of its grid, and again."
    for k in ('ERC_ROOT', 'ERC_CACHE'):
        monkeypatch.setenv(k, '')
    for k in ('package_file', 'fit', 'timed'):
        monkeypatch.setattr(X, k, getattr(X, k))
    homes, ran, step = (tmp_path / 'a', tmp_path / 'b'), [], Steps.run
    toy_project(homes[0])
    monkeypatch.setattr(Steps, 'run', lambda self, b: (ran.append(b), step(self, b))[1])
    run_system(
        system('toy/net'), 'demo', 'paper', seeds=[0, 1], home=homes[0] / 'results', progress=False
    )
    whole = len(ran)
    killed('test_resume', f'die_at({whole * 3 // 4}); run_missing(Path({str(homes[1])!r}))')
    assert (
        not (homes[1] / 'results').exists()
        and len(list((homes[1] / 'cache' / 'checkpoints').rglob('*.safetensors'))) == 2
    )
    r = run_missing(homes[1])
    assert (
        r.exit_code == 0
        and '1 runs' in r.output
        and len(ran) - whole == whole - (whole * 3 // 4 - 1)
    )
    a, b = (find_record('toy/net', 'demo', 'paper', h / 'results') for h in homes)
    assert b.seconds > 0 and dataclasses.asdict(a).keys() == dataclasses.asdict(b).keys()
    a.seconds = b.seconds = 0.0
    np.testing.assert_equal(dataclasses.asdict(a), dataclasses.asdict(b))
    assert not list((cache_home() / 'checkpoints').rglob('*.safetensors')), (
        'the checkpoints are gone with the record written'
    )
    assert 'nothing is missing' in run_missing(homes[1]).output
