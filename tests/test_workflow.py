"The workflow's rules, profiles and requirements; `make test-cluster` runs them."

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from erc.cli import app

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / 'workflow'
RECIPE = ROOT / 'tests' / 'cluster' / 'small.toml'
PROFILES = ('local', 'slurm', 'gpu')


def config(name: str) -> dict:
    yaml = pytest.importorskip('yaml', reason='PyYAML reads the profiles, and is not installed')
    return yaml.safe_load((WORKFLOW / name).read_text(encoding='utf-8'))


@pytest.mark.parametrize('profile', PROFILES)
def test_a_profile_keeps_going_and_tries_again(profile):
    found = config(f'profiles/{profile}/config.yaml')
    assert found['keep-going'] and found['rerun-incomplete'] and found['retries'] >= 1
    assert 'mtime' in found['rerun-triggers'] and 'code' not in found['rerun-triggers']


def test_every_setting_is_read():
    text = (WORKFLOW / 'Snakefile').read_text(encoding='utf-8')
    read = set(re.findall(r"config\['(\w+)'\]", text))
    assert read == set(config('config.yaml'))


def test_every_job_is_a_command_of_erc():
    text = (WORKFLOW / 'Snakefile').read_text(encoding='utf-8')
    shells = re.findall(r"shell:\s+'([^']+)'", text)
    assert len(shells) == text.count('shell:') and all(
        s.startswith('{params.command} ') for s in shells
    )
    commands = set(re.findall(r"(?:command\(|words = \[|\*\[)'(\w+)'", text))
    assert {'plan', 'reproduce', 'report', 'predict', 'join'} <= commands
    known = {c.name or c.callback.__name__.strip('_') for c in app.registered_commands}
    assert commands <= known, commands - known


def test_the_extra_is_written_in_settings():
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    assert 'snakemake-executor-plugin-slurm' in ini['DEFAULT']['cluster_requirements']
    assert "'cluster'" in (ROOT / 'setup.py').read_text(encoding='utf-8')


def test_the_trial_has_twenty_runs_and_one_that_is_cut(tmp_path):
    words = ['plan', 'small', '--recipe', str(RECIPE), '--home', str(tmp_path), '--split', '0']
    made = CliRunner().invoke(app, [*words, '--json'])
    jobs = json.loads(made.stdout)
    assert len({job['key'] for job in jobs}) >= 20
    assert sum(bool(job['inputs']) for job in jobs) == 6  # the second seeds of six folds


def dry_run(folder, profile: str, *config, target='all') -> str:
    "Return what Snakemake would do."
    snakemake = os.environ.get('SNAKEMAKE') or shutil.which('snakemake')
    if not snakemake:
        pytest.skip('snakemake is not installed: pip install .[cluster] in a clone')
    command = [snakemake, target, '--snakefile', WORKFLOW / 'Snakefile', '--directory', folder]
    command += ['-np', '--workflow-profile', WORKFLOW / 'profiles' / profile]
    options = ['--config', f'erc={Path(sys.executable).parent / "erc"}', *config]
    made = subprocess.run([*command, *options], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return made.stdout + made.stderr


def test_the_rules_are_read(tmp_path):
    shown = dry_run(tmp_path, 'local', 'target=sagru')
    assert re.search('erc plan sagru --json .*--device cpu', shown)


def test_the_profile_of_a_gpu_gives_each_run_the_gpu(tmp_path):
    words = ['plan', 'small/crossed', '--recipe', str(RECIPE), '--home', str(tmp_path)]
    plan = CliRunner().invoke(app, [*words, '--device', 'cuda', '--json']).stdout
    asked = ['target=small/crossed', f'home={tmp_path}', f'recipes=["{RECIPE}"]']
    assert '--device cuda' in dry_run(tmp_path, 'gpu', *asked)  # whatever else is configured
    (tmp_path / 'plan.json').write_text(plan)
    shown = dry_run(tmp_path, 'gpu', *asked, target=f'done/{json.loads(plan)[0]["name"]}')
    rules = dict(re.findall(r'^rule (\w+):.*?^ +resources: (.*?)$', shown, re.M | re.S))
    assert 'gpu=1' in rules['job'], shown
