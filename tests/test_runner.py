"The runner: failures are named and stop nobody, wrong parameters are refused, the report needs nothing but itself."

import json
import os
import re
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from erc.core import root, sha256_of
from erc.report.notebooks import (
    Result,
    artefacts_in,
    as_page,
    checked,
    execute,
    forget,
    notebooks,
    parameters_of,
    read_manifest,
    report,
    reproduce,
    run_all,
    told,
)
from erc.report.tables import facts_table

PARAMETERS = "profile = 'recorded'\ncorpora = ''\nseeds = 5\ndevice = 'cpu'\nout = ''"
DRAWS = """import pandas as pd, matplotlib.pyplot as plt
from erc.report.tables import facts_table
from erc.report.figures import save_figure
facts_table(pd.DataFrame({'x':['<b>',None],'n':[seeds,None]}),'shapes','table1',profile=profile).save(out)
fig,ax = plt.subplots(); ax.plot([1,2])
save_figure(fig,'shapes','fig1',out,'A line & more.',profile=profile); plt.close(fig)
print(profile, seeds, device)"""


def write(folder, name, *cells, tags=(), markdown='# Title'):
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(markdown), *map(nbformat.v4.new_code_cell, cells)]
    )
    for i in tags:
        nb.cells[i + 1].metadata['tags'] = ['parameters']
    nb.metadata['kernelspec'] = {'name': 'python3', 'language': 'python', 'display_name': 'x'}
    path = Path(folder) / f'{name}.ipynb'
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


@pytest.fixture(scope='module')
def shelf(tmp_path_factory):
    "Four notebooks: one draws, one fails, one has no parameters, one comes last."
    d = tmp_path_factory.mktemp('nbs')
    write(
        d,
        '10_draws',
        PARAMETERS,
        DRAWS,
        tags=[0],
        markdown='$$x^2$$\n```mermaid\ngraph LR; A-->B\n```',
    )
    write(d, '20_fails', 'x = 1', '# a comment\nx / 0', 'print("not reached")')
    write(
        d,
        '30_plain',
        'import sys, os, time; time.sleep(.5); print(sys.executable); open("seen","w").write("x")',
        '"fine"',
    )
    write(d, '90_last', 'import os; print("30 ran before:", os.path.exists("seen"))')
    write(d, 'scratch', '1/0')
    return d


@pytest.fixture(scope='module')
def ran(shelf, tmp_path_factory):
    out = tmp_path_factory.mktemp('build')
    here = os.getcwd()
    os.chdir('/')
    try:
        m = reproduce('demo', seeds=3, jobs=2, out=out, nbs=shelf, progress=False)
    finally:
        os.chdir(here)
    return out, m


def text_of(path):
    return '\n'.join(
        o.get('text', '') for c in nbformat.read(path, 4).cells for o in c.get('outputs', [])
    )


def test_all_but_the_failing_one_are_ok(ran):
    out, m = ran
    assert [(n['name'], n['status']) for n in m['notebooks']] == [
        ('10_draws', 'ok'),
        ('20_fails', 'failed'),
        ('30_plain', 'ok'),
        ('90_last', 'ok'),
    ]
    assert m['failed'] == 1 and m == read_manifest(out)


@pytest.mark.parametrize('taken,status', [(1, 'ok'), (99, 'failed')], ids=['once', 'always'])
def test_a_kernel_whose_port_is_taken_meanwhile_is_started_once_more(
    tmp_path, monkeypatch, taken, status
):
    from jupyter_client.provisioning.local_provisioner import LocalPortCache

    free, asked = LocalPortCache.find_available_port, []
    with socket.create_server(('127.0.0.1', 0)) as other:
        monkeypatch.setattr(
            LocalPortCache,
            'find_available_port',
            lambda self, ip: (
                asked.append(ip)
                or (other.getsockname()[1] if len(asked) <= taken else free(self, ip))
            ),
        )
        r = execute(write(tmp_path, 'n', '1'), tmp_path / 'out/n.ipynb')
    assert r.status == status and len(asked) == 10, 'five ports a kernel, two kernels'
    assert status == 'ok' or 'Kernel died before replying' in r.error


def test_the_failure_is_named_with_cell_source_and_traceback(ran):
    out, m = ran
    bad = m['notebooks'][1]
    assert (
        bad['cell'] == 2
        and bad['error'] == 'ZeroDivisionError: division by zero'
        and bad['source'] == '# a comment\nx / 0'
    )
    assert 'x / 0' in bad['trace'] and '\x1b' not in bad['trace']
    for words in ('FAILED  20_fails, cell 2: ZeroDivisionError', '# a comment', 'division by zero'):
        assert words in told(bad)
    kept = out / 'notebooks/20_fails.failed.ipynb'
    assert (
        kept.exists()
        and not (out / 'notebooks/20_fails.ipynb').exists()
        and 'not reached' not in text_of(kept)
    )
    for page in ('report.html', 'REPORT.md'):
        said = (out / page).read_text()
        assert '20_fails' in said and 'ZeroDivisionError' in said and 'x / 0' in said


def test_parameters_reach_only_notebooks_that_have_them(ran):
    out, m = ran
    assert m['notebooks'][0]['parameters'] == {
        'profile': 'demo',
        'device': 'cpu',
        'out': str(out),
        'seeds': 3,
    }
    assert all(n['parameters'] == {} for n in m['notebooks'][1:])
    assert 'demo 3 cpu' in text_of(out / 'notebooks/10_draws.ipynb')


def test_kernel_is_this_python_and_folder_is_the_notebooks(ran, shelf):
    out, _ = ran
    assert sys.executable in text_of(out / 'notebooks/30_plain.ipynb') and (shelf / 'seen').exists()


def test_what_reads_the_others_runs_last(ran):
    assert '30 ran before: True' in text_of(ran[0] / 'notebooks/90_last.ipynb')


def test_nothing_unfinished_is_left(ran):
    names = {p.name for p in (ran[0] / 'notebooks').iterdir()}
    assert names == {
        f'{n}.{s}'
        for n in ('10_draws', '20_fails.failed', '30_plain', '90_last')
        for s in ('ipynb', 'html')
    }


def test_manifest_has_checksums_and_states(ran):
    out, m = ran
    files = [f for n in m['notebooks'] + m['artefacts'] for f in n['files']]
    assert len(files) == 8 + 5 + 3 and all(sha256_of(out / f['path']) == f['sha256'] for f in files)
    assert [(a['artefact'], a['state']) for a in m['artefacts']] == [
        ('table1', 'partly'),
        ('fig1', 'drawn'),
    ]
    assert m['versions']['python'] == sys.version.split()[0] and re.fullmatch(
        '[0-9a-f]{40}', m['source'].get('commit', '0' * 40)
    )


class Loads(HTMLParser):
    "What a page would ask the network for."

    def __init__(self, page):
        super().__init__()
        self.found, self.ids, self.links = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if 'id' in a:
            self.ids.append(a['id'])
        if tag == 'a':
            self.links.append(a['href'])
        elif tag in ('script', 'link', 'iframe', 'object', 'embed') or any(
            not v.startswith('data:') for k, v in a.items() if k in ('src', 'srcset', 'poster')
        ):
            self.found.append((tag, a))


def test_report_is_one_self_contained_page(ran):
    out, m = ran
    page = (out / 'report.html').read_text()
    p = Loads(page)
    assert p.found == [] and not re.search(r'(@import|url\()', page)
    assert (
        page.count('src="data:image/') == 1
        and 'A line &amp; more.' in page
        and '&lt;b&gt;' in page
        and 'not run' in page
    )
    assert 'name="viewport"' in page and 'prefers-color-scheme' in page
    inside = [x[1:] for x in p.links if x.startswith('#')]
    assert inside and set(inside) <= set(p.ids) and len(p.ids) == len(set(p.ids))
    assert all((out / x).exists() for x in p.links if not x.startswith('#'))
    assert not any(x.startswith(('http', '/')) for x in p.links)


def test_pages_of_notebooks_load_nothing_but_mathjax(ran):
    page = (ran[0] / 'notebooks/10_draws.html').read_text()
    src = [a.get('src', a.get('href', '')) for _, a in Loads(page).found]
    assert (
        all('mathjax' in s.lower() for s in src if s.startswith('http'))
        and 'mermaid.esm' not in page
    )


def test_markdown_report_has_tables_and_images(ran):
    said = (ran[0] / 'REPORT.md').read_text()
    assert (
        '![Shapes of Emotions, Figure 1](figures/shapes_fig1.png)' in said
        and '| x ' in said
        and '3 ok, 1 failed' in said
    )


def test_report_again_is_the_same(ran):
    out, _ = ran
    before = {n: (out / n).read_bytes() for n in ('report.html', 'REPORT.md')}
    for n in before:
        (out / n).unlink()
    assert report(out) == out / 'report.html' and before == {
        n: (out / n).read_bytes() for n in before
    }
    with pytest.raises(FileNotFoundError, match='erc reproduce'):
        report(out / 'notebooks')


def test_only_keeps_the_others_lines(shelf, tmp_path):
    for d in ('10_draws', '30_plain'):
        (tmp_path / 'nbs').mkdir(exist_ok=True)
        (tmp_path / 'nbs' / f'{d}.ipynb').write_bytes((shelf / f'{d}.ipynb').read_bytes())
    kw = dict(jobs=0, out=tmp_path / 'b', nbs=tmp_path / 'nbs', progress=False)
    first = reproduce('demo', **kw)
    (tmp_path / 'b/tables/mine.csv').write_text('kept')
    m = reproduce('demo', only=['plain'], **kw)
    assert [n['name'] for n in m['notebooks']] == ['10_draws', '30_plain'] and m['notebooks'][
        0
    ] == first['notebooks'][0]
    assert (
        len(m['artefacts']) == 2
        and m['notebooks'][1]['seconds'] != first['notebooks'][1]['seconds']
    )
    write(tmp_path / 'nbs', '10_draws', PARAMETERS, tags=[0])
    m = reproduce('demo', **kw)
    assert [(a['artefact'], a['state']) for a in m['artefacts']] == [], (
        'what the earlier run drew is gone'
    )
    assert (tmp_path / 'b/tables/mine.csv').exists() and not (
        tmp_path / 'b/tables/shapes_table1.csv'
    ).exists()


def test_a_section_that_draws_nothing_is_told(tmp_path):
    write(tmp_path / 'nbs', '400_shift', PARAMETERS, tags=[0])
    m = reproduce('recorded', jobs=0, out=tmp_path / 'b', nbs=tmp_path / 'nbs', progress=False)
    assert {(a['artefact'], a['state']) for a in m['artefacts']} == {
        ('table1', 'not drawn'),
        ('table6', 'not drawn'),
        ('fig1', 'not drawn'),
    }
    assert 'not drawn' in (tmp_path / 'b/report.html').read_text()


def test_full_hands_over_no_folder(tmp_path):
    nb = write(tmp_path / 'nbs', '40_x', PARAMETERS, 'print(repr(out), profile)', tags=[0])
    m = reproduce('full', jobs=0, out=tmp_path / 'b', nbs=nb.parent, progress=False)
    assert m['notebooks'][0]['parameters']['out'] == '' and "'' full" in text_of(
        tmp_path / 'b/notebooks/40_x.ipynb'
    )


# ---- names and parameters


def test_which_notebooks(shelf, tmp_path):
    assert [p.stem for p in notebooks(shelf)] == ['10_draws', '20_fails', '30_plain', '90_last'], (
        'scratch has no number'
    )
    for name in ('20', 'fails', '20_fails', '20_fails.ipynb', 'nbs/20_fails.ipynb'):
        assert [p.stem for p in notebooks(shelf, [name])] == ['20_fails']
    assert [p.stem for p in notebooks(shelf, ['90', '10'])] == ['10_draws', '90_last']
    with pytest.raises(ValueError, match="did you mean '20_fails'"):
        notebooks(shelf, ['20_fail'])
    with pytest.raises(FileNotFoundError, match='source checkout'):
        notebooks(tmp_path)
    assert (
        [p.stem for p in notebooks()][:2] == ['index', '000_core']
        if (root() / 'nbs/index.ipynb').exists()
        else True
    )


def test_parameters_are_literals_in_one_cell(tmp_path):
    assert parameters_of(write(tmp_path, 'a', PARAMETERS, 'y = 2', tags=[0])) == dict(
        profile='recorded', corpora='', seeds=5, device='cpu', out=''
    )
    assert parameters_of(write(tmp_path, 'b', 'x = 1')) == {}
    with pytest.raises(ValueError, match='line 2 of the parameters cell'):
        parameters_of(write(tmp_path, 'c', 'a = 1\nb = a+1', tags=[0]))
    with pytest.raises(ValueError, match='line 1 of the parameters cell'):
        parameters_of(write(tmp_path, 'c', 'print(1)', tags=[0]))
    with pytest.raises(ValueError, match='2 cells tagged parameters'):
        parameters_of(write(tmp_path, 'd', 'a = 1', 'b = 1', tags=[0, 1]))


def test_unknown_parameter_is_refused_before_anything_is_written(tmp_path):
    nb = write(tmp_path, 'a', PARAMETERS, tags=[0])
    with pytest.raises(
        ValueError, match="unknown parameter of a.ipynb 'profle'; did you mean 'profile'"
    ):
        execute(nb, tmp_path / 'out/a.ipynb', {'profle': 'demo'})
    with pytest.raises(ValueError, match='no cell tagged parameters'):
        checked(write(tmp_path, 'b', 'x = 1'), {'x': 2})
    assert not (tmp_path / 'out').exists()


def test_wrong_profile_and_notebook(tmp_path, shelf):
    with pytest.raises(ValueError, match="did you mean 'demo'"):
        reproduce('dmo', nbs=shelf, out=None)
    with pytest.raises(ValueError, match='Known'):
        reproduce('demo', only=['nope'], nbs=shelf, out=tmp_path / 'x')
    assert not (tmp_path / 'x').exists()


# ---- one notebook


def test_output_appears_under_its_name_only_when_done(tmp_path):
    "While it runs the output has another name; a later failure takes the former success away."
    look = 'import glob,os; print(sorted(os.path.basename(p) for p in glob.glob("out/*")+glob.glob("out/.*.ipynb")))'
    nb, out = write(tmp_path, 'a', look, '1'), tmp_path / 'out/a.ipynb'
    r = execute(nb, out)
    assert (
        r.status == 'ok'
        and "['.a.part.ipynb']" in text_of(out)
        and [p.name for p in out.parent.iterdir()] == ['a.ipynb']
    )
    write(tmp_path, 'a', 'raise KeyError("k")')
    r = execute(nb, out)
    assert (r.status, r.cell, r.error) == ('failed', 1, "KeyError: 'k'") and [
        p.name for p in out.parent.iterdir()
    ] == ['a.failed.ipynb']
    write(tmp_path, 'a', '1')
    assert execute(nb, out).status == 'ok' and [p.name for p in out.parent.iterdir()] == ['a.ipynb']


def test_a_dead_kernel_is_a_failure_like_any_other(tmp_path):
    nb = write(tmp_path, 'a', 'import os; os._exit(3)')
    r = execute(nb, tmp_path / 'out/a.ipynb')
    assert r.status == 'failed' and 'ied' in r.error and told(r).startswith('FAILED  a')


def test_a_broken_file_stops_nobody(tmp_path):
    (tmp_path / '10_broken.ipynb').write_text('{"cells": ')
    write(tmp_path, '20_good', '1')
    jobs = [(str(p), str(tmp_path / 'out' / p.name), {}) for p in notebooks(tmp_path)]
    a, b = run_all(jobs, jobs=0, done=lambda r: None)
    assert (a.status, b.status) == ('failed', 'ok') and 'before its first cell' in told(a)


def test_forget_touches_only_what_a_manifest_names(tmp_path):
    assert forget(tmp_path, ['a']) == []
    for n in ('mine.txt', 'notebooks_a.ipynb'):
        (tmp_path / n).write_text('x')
    (tmp_path.parent / 'outside.txt').write_text('x')
    m = {
        'notebooks': [{'name': 'a', 'files': [{'path': 'notebooks_a.ipynb'}]}],
        'artefacts': [{'files': [{'path': '../outside.txt'}]}],
    }
    (tmp_path / 'manifest.json').write_text(json.dumps(m))
    assert (
        forget(tmp_path, ['a']) == []
        and (tmp_path / 'mine.txt').exists()
        and (tmp_path.parent / 'outside.txt').exists()
    )
    assert not (tmp_path / 'notebooks_a.ipynb').exists()


def test_artefacts_are_in_the_papers_order(tmp_path):
    for a in ('table10', 'table2', 'table1'):
        facts_table(pd.DataFrame({'x': [1]}), 'shapes', a).save(tmp_path)
    assert [a['artefact'] for a in artefacts_in(tmp_path, tmp_path)] == [
        'table1',
        'table2',
        'table10',
    ]


def test_a_page_keeps_the_outputs(tmp_path):
    nb = write(tmp_path, 'a', 'print(6*7)')
    execute(nb, tmp_path / 'out/a.ipynb')
    assert '42' in as_page(tmp_path / 'out/a.ipynb').read_text()


def test_results_in_lines():
    assert told(Result('000_core', 'ok', 3.2)) == 'ok      000_core  3 s'


# ---- the real shelf


def test_committed_outputs_hold_no_temporary_path():
    nb = root() / 'nbs/35_runner.ipynb'
    if not nb.exists():
        pytest.skip('380_notebooks is not here')
    said = json.dumps([c.get('outputs') for c in nbformat.read(nb, 4).cells])
    assert 'toys/01_bad.ipynb takes no parameters' in said and not re.search(
        r'/tmp|[\\/]T[\\/]tmp', said
    )


def test_papermill_itself_runs_the_section(tmp_path):
    "`papermill nbs/40_shift.ipynb out.ipynb -p profile demo`, from another folder."
    nb = root() / 'nbs/40_shift.ipynb'
    if not nb.exists():
        pytest.skip('400_shift is not here')
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}
    args = [
        sys.executable,
        '-m',
        'papermill',
        str(nb),
        str(tmp_path / 'out.ipynb'),
        '-p',
        'profile',
        'demo',
        '-p',
        'out',
        str(tmp_path / 'b'),
        '--no-progress-bar',
    ]
    done = subprocess.run(args, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {p.stem for p in (tmp_path / 'b').glob('*/shapes_*.json')} == {
        'shapes_table1',
        'shapes_table6',
        'shapes_fig1',
    }
    assert list((tmp_path / 'b/records/shapes').glob('*--demo--*.json'))
