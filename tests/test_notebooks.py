"Every notebook runs in a clone without corpora or network, and gives what is committed."

import os
import re
import subprocess
import sys

import nbformat
import pytest

from erc.core import results_home, root
from erc.report.artefacts import artefacts
from erc.report.notebooks import _cores, _format_result, _notebooks, _parameters_of
from erc.report.reproduction import reproduce

SHELF = _notebooks(root() / 'nbs')
SECTIONS = [p for p in SHELF if _parameters_of(p)]


def name(path):
    return path.stem


@pytest.fixture(scope='session')
def run(tmp_path_factory):
    "All notebooks in the profile `recorded`, with an empty folder of corpora."
    out, before = tmp_path_factory.mktemp('recorded'), dict(os.environ)
    os.environ.update(
        ERC_DATA=str(tmp_path_factory.mktemp('no_corpora')),
        HF_HUB_OFFLINE='1',
        TRANSFORMERS_OFFLINE='1',
    )
    try:
        return out, reproduce(
            'recorded', jobs=min(2, _cores()), out=out, every=True, progress=False
        )
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize('path', SHELF, ids=name)
def test_notebook_runs(run, path):
    r = next(n for n in run[1]['notebooks'] if n['name'] == path.stem)
    assert r['status'] == 'ok', _format_result(r)


def tables(path):
    "The tables in a notebook's outputs, cell by cell."
    html = [
        ''.join(o['data'].get('text/html', ''))
        for c in nbformat.read(path, 4).cells
        for o in c.get('outputs', [])
        if 'data' in o
    ]
    return [
        re.findall(r'<td[^>]*>(.*?)</td>', h, re.S) for h in html if 'class="erc-artefact"' in h
    ]


@pytest.mark.parametrize('path', SECTIONS, ids=name)
def test_section_shows_the_tables_that_are_committed(run, path):
    shown, again = tables(path), tables(run[0] / 'notebooks' / path.name)
    expected = artefacts().query('notebook == @path.stem and kind == "table"')
    assert shown == again and len(shown) >= len(expected)


def test_results_hold_what_the_records_draw(run):
    out, _ = run
    drawn = {p.name: p.read_text() for p in (out / 'tables').glob('*.csv')}
    assert drawn, 'nothing was drawn'
    for n, text in drawn.items():
        assert (results_home() / 'tables' / n).read_text() == text, (
            f'results/tables/{n} is not what results/records give: run the section notebook again'
        )
    assert {p.stem for p in (out / 'figures').glob('*.svg')} <= {
        p.stem for p in (results_home() / 'figures').glob('*.svg')
    }


def test_recorded_writes_no_record(run):
    assert not list(run[0].rglob('records'))


def test_size_of_committed_notebooks():
    big = {p.stem: p.stat().st_size for p in SHELF if p.stat().st_size > 500_000}
    assert not big


def test_a_section_runs_in_demo(tmp_path):
    "One notebook trains, from nothing: no corpus, no downloaded encoder."
    env = {k: v for k, v in os.environ.items() if k not in ('ERC_DATA', 'ERC_MINILM')} | {
        'ERC_DATA': str(tmp_path / 'none'),
        'HF_HUB_OFFLINE': '1',
    }
    run = subprocess.run(
        [
            sys.executable,
            '-m',
            'papermill',
            str(root() / 'nbs/400_shift.ipynb'),
            str(tmp_path / 'out.ipynb'),
            '-p',
            'profile',
            'demo',
            '-p',
            'out',
            str(tmp_path),
        ],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    from erc.runs.records import read_records

    records = read_records(tmp_path)[0]
    trained = [record for record in records.values() if record.fingerprint]
    assert trained and all(r.key.corpus == 'demo' and len(r.seeds) == 2 for r in trained)
    floor = next(r for key, r in records.items() if key.system == 'always_inertia')
    assert max(r.test[0] for r in trained) > floor.test[0] + 0.05, (
        'the network learns what was planted'
    )
    tables = {path.name for path in (tmp_path / 'tables').iterdir()}
    assert {'shapes_table1.html', 'shapes_table6.tex'} <= tables
    assert (tmp_path / 'figures/shapes_fig1.svg').exists()
