"Sections: what a profile runs, where it writes, and what it leaves alone."

import dataclasses
import json
import shutil

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from erc.core import results_home
from erc.report.figures import Figure
from erc.report.section import Section, _section_jobs
from erc.runs.keys import RunKey
from erc.runs.recipes import load_recipe


def shift(**options):
    return Section('shapes', '400_shift', **options)


def seeds_of(section):
    return {len(job.seeds) for job in _section_jobs(section) if job.system.kind == 'model'}


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'demo'"):
        shift(profile='demos')
    with pytest.raises(ValueError, match="did you mean 'shapes'"):
        Section('shape', '400_shift')
    with pytest.raises(ValueError, match='unknown corpus of 400_shift'):
        shift(corpora='released_mosei,meld')
    with pytest.raises(ValueError, match='seeds=-1'):
        shift(seeds=-1)


def test_number_of_seeds():
    "As asked for; else the profile's; else what the recipe says."
    assert seeds_of(shift(profile='demo')) == {load_recipe('shapes').demo['seeds']}
    assert seeds_of(shift(profile='full')) == {5}
    assert (
        seeds_of(shift(profile='full', seeds=3)) == seeds_of(shift(profile='demo', seeds=3)) == {3}
    )
    sagru = load_recipe('sagru')
    assert seeds_of(Section('sagru', '700_sagru', profile='full')) == {sagru.seeds}
    assert seeds_of(Section('sagru', '700_sagru', profile='demo')) == {sagru.demo['seeds']}


def test_what_profiles_run():
    assert _section_jobs(shift()) == []
    demo = _section_jobs(shift(profile='demo'))
    assert {job.key.corpus for job in demo} == {'demo'}
    assert {job.system.encoder for job in demo} == {'hashing'}, 'no encoder is downloaded'
    full = _section_jobs(shift(profile='full', corpora='mosi'))
    assert {job.key.corpus for job in full} == {'mosi'} and all(job.demo is None for job in full)


def test_where_profiles_write(tmp_path):
    demo = shift(profile='demo', out=tmp_path)
    assert (demo.out, demo.home, demo.basis) == (tmp_path, tmp_path, 'demo')
    recorded = shift(out=tmp_path)
    assert (recorded.out, recorded.home) == (tmp_path, results_home())
    assert shift(profile='full').out == results_home() and recorded.basis == 'own features'


def test_records_of_a_demonstration_stand_for_every_corpus(tmp_path):
    section = shift(profile='demo', out=tmp_path)
    section.systems = [s for s in section.systems if s.name == 'empty_is_shift']
    section.run()
    record = section.record('empty_is_shift:fixed@released_mosei')
    assert record.key == RunKey('shapes', 'empty_is_shift', 'fixed', 'demo')
    assert section.record('always_inertia:fixed@mosi') is None


def test_a_failing_system_is_named_and_the_others_go_on(tmp_path):
    section = shift(profile='demo', out=tmp_path)
    by_name = {system.name: system for system in section.systems}
    broken = dataclasses.replace(by_name['always_inertia'], model='erc.models.shift:nothing')
    section.systems = [broken, by_name['empty_is_shift']]
    words = (
        "1 systems failed:\nshapes/always_inertia:fixed@demo: ValueError: cannot find 'erc.models"
    )
    with pytest.raises(RuntimeError, match=words):
        section.run()
    assert section.record('empty_is_shift:fixed@mosei') is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_missing_device_is_said_once_and_before_anything_runs(monkeypatch):
    monkeypatch.setattr('erc.report.section._attempt', lambda *_: pytest.fail('something ran'))
    with pytest.raises(ValueError, match="^device 'cuda' is unavailable .*; use 'cpu'$"):
        shift(profile='full', device='cuda').run()
    shift(profile='recorded', device='cuda').run()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    "A copy of the project's records, in place of `results/`."
    home = tmp_path / 'results'
    shutil.copytree(results_home() / 'records/shapes', home / 'records/shapes')
    monkeypatch.setattr('erc.report.section.results_home', lambda: home)
    return home


def test_a_removed_record_turns_into_not_run(copy):
    key = RunKey.parse('shapes/always_inertia:fixed@released_mosei')
    if not key.path(copy).exists():
        pytest.skip('no committed record')
    before = shift().table('table6')
    key.path(copy).unlink()
    after = shift().table('table6')
    assert after.kinds.count('not run') == before.kinds.count('not run') + 1
    assert after.state == 'partly' and after.command == 'erc run shapes --missing'
    data = after.data
    gone = (data.system == key.system) & (data.corpus == key.corpus)
    assert set(data[gone].state) == {'not run'} and gone.sum() == 3
    assert data[~gone].equals(before.data[~gone]), 'nothing else changes'


def draw_all(section):
    section.table('table6')
    section.table('table1', pd.DataFrame({'corpus': ['a'], 'n': [1]}))
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    section.figure(fig, 'fig1', caption='A line.', basis='own features')


def test_drawing_twice_changes_no_byte(copy):
    draw_all(shift())
    first = contents(copy)
    draw_all(shift())
    assert contents(copy) == first


def test_full_leaves_alone_what_it_did_not_run(copy):
    draw_all(shift())
    path = copy / 'tables/shapes_table6.md'
    path.write_text('drawn before')
    section = shift(profile='full')
    draw_all(section)
    assert path.read_text() == 'drawn before'
    section.changed = {RunKey.parse('shapes/gruarc:tuned@iemocap6')}  # which Table 6 does not read
    section.table('table6')
    assert path.read_text() == 'drawn before'
    section.changed = {RunKey.parse('shapes/shift_paper:tuned@released_mosei')}
    section.table('table6')
    assert path.read_text() != 'drawn before'
    path.with_suffix('.json').unlink()
    section.changed = set()
    section.table('table6')
    assert path.with_suffix('.json').exists(), 'what was never drawn is drawn'


def test_figures_close_and_show_themselves(tmp_path):
    section = shift(out=tmp_path)
    fig, ax = plt.subplots()
    figure = section.figure(fig, 'fig1', state='partly', notes=['Some are missing.'])
    assert isinstance(figure, Figure) and not plt.fignum_exists(fig.number)
    assert figure._repr_png_().startswith(b'\x89PNG')
    facts = json.loads((tmp_path / 'figures/shapes_fig1.json').read_text())
    assert (facts['state'], facts['notes']) == ('partly', ['Some are missing.'])


def test_a_figure_without_records_is_a_placeholder(tmp_path):
    section = shift(out=tmp_path)
    for figure in (section.figure(None, 'fig1'), section.missing_figure('fig1')):
        assert figure.state == 'not run' and figure.command == 'erc run shapes --missing'
    assert (tmp_path / 'figures/shapes_fig1.png').exists()


def test_summary(tmp_path):
    table = shift(out=tmp_path).summary()
    assert len(table.frame) == 3 and not list(tmp_path.iterdir()), 'a summary is not an artefact'
    line = table.frame.iloc[1]
    headline = shift(out=tmp_path).table('table6').headline
    assert line['measured here'] == headline['ours'] and line['paper prints'] == headline['printed']
    demo = shift(profile='demo', out=tmp_path).summary()
    assert list(demo.frame) == ['artefact', 'state'], 'nothing compares with a printed number'
    assert 'demonstration' in demo.caption
