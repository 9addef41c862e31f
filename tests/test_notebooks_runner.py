"The runner: failures are named and stop no other, wrong parameters are refused, the report stands alone."

import json
import os
import re
import socket
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from erc.core import root, sha256_of
from erc.report.notebooks import (
    _check_parameters,
    _execute,
    _format_result,
    _notebook_page,
    _NotebookResult,
    _notebooks,
    _parameters_of,
    _run_notebooks,
)
from erc.report.reproduction import (
    _artefacts_in,
    _read_manifest,
    _remove_previous,
    _write_run_report,
    reproduce,
)
from erc.report.tables import facts_table

PARAMETERS = "profile = 'recorded'\ncorpora = ''\nseeds = 5\ndevice = 'cpu'\nout = ''"
DRAWS = """import pandas as pd, matplotlib.pyplot as plt
from erc.report.tables import facts_table
from erc.report.figures import Figure
frame = pd.DataFrame({'x': ['<b>', None], 'n': [seeds, None]})
facts_table(frame, 'shapes', 'table1', profile=profile).save(out)
fig, ax = plt.subplots()
ax.plot([1, 2])
Figure('shapes', 'fig1', fig, caption='A line & more.', profile=profile).save(out)
plt.close(fig)
print(profile, seeds, device)"""
NAMES = ('100_draws', '200_fails', '300_plain', '900_last')


def write(folder, name, *cells, tags=(), markdown='# Title'):
    "Write a notebook; `tags` are the positions of cells tagged parameters."
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown), *code])
    for i in tags:
        code[i].metadata['tags'] = ['parameters']
    book.metadata['kernelspec'] = {'name': 'python3', 'language': 'python', 'display_name': 'x'}
    path = Path(folder) / f'{name}.ipynb'
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.fixture(scope='module')
def shelf(tmp_path_factory):
    "Four notebooks: one draws, one fails, one has no parameters, one comes last."
    folder = tmp_path_factory.mktemp('nbs')
    formula = '$$x^2$$\n```mermaid\ngraph LR; A-->B\n```'
    slow = 'import sys, time; time.sleep(.5); print(sys.executable); open("seen", "w").write("x")'
    write(folder, '100_draws', PARAMETERS, DRAWS, tags=[0], markdown=formula)
    write(folder, '200_fails', 'x = 1', '# a comment\nx / 0', 'print("not reached")')
    write(folder, '300_plain', slow, '"fine"')
    write(folder, '900_last', 'import os; print("300 ran before:", os.path.exists("seen"))')
    write(folder, 'scratch', '1/0')
    return folder


@pytest.fixture(scope='module')
def ran(shelf, tmp_path_factory):
    "A run of the four, started from another folder."
    out = tmp_path_factory.mktemp('build')
    here = os.getcwd()
    os.chdir('/')
    try:
        return out, reproduce(
            'demo', seeds=3, jobs=2, out=out, every=True, nbs=shelf, progress=False
        )
    finally:
        os.chdir(here)


def text_of(path):
    "Everything that a notebook printed."
    cells = nbformat.read(path, 4).cells
    return '\n'.join(o.get('text', '') for cell in cells for o in cell.get('outputs', []))


def test_all_but_the_failing_one_are_ok(ran):
    out, manifest = ran
    statuses = [(entry['name'], entry['status']) for entry in manifest['notebooks']]
    assert statuses == list(zip(NAMES, ('ok', 'failed', 'ok', 'ok')))
    assert manifest['failed'] == 1 and manifest == _read_manifest(out)


@pytest.mark.parametrize('taken,status', [(1, 'ok'), (99, 'failed')], ids=['once', 'always'])
def test_a_kernel_whose_port_is_taken_meanwhile_is_started_once_more(
    tmp_path, monkeypatch, taken, status
):
    from jupyter_client.provisioning.local_provisioner import LocalPortCache

    free, asked = LocalPortCache.find_available_port, []
    with socket.create_server(('127.0.0.1', 0)) as other:

        def find(self, ip):
            asked.append(ip)
            return other.getsockname()[1] if len(asked) <= taken else free(self, ip)

        monkeypatch.setattr(LocalPortCache, 'find_available_port', find)
        result = _execute(write(tmp_path, 'n', '1'), tmp_path / 'out/n.ipynb')
    assert result.status == status and len(asked) == 10, 'five ports a kernel, two kernels'
    assert status == 'ok' or 'Kernel died before replying' in result.error


def test_the_failure_is_named_with_cell_source_and_traceback(ran):
    out, manifest = ran
    bad = manifest['notebooks'][1]
    assert bad['cell'] == 2 and bad['error'] == 'ZeroDivisionError: division by zero'
    assert bad['source'] == '# a comment\nx / 0'
    assert 'x / 0' in bad['trace'] and '\x1b' not in bad['trace']
    first = 'FAILED  200_fails, cell 2: ZeroDivisionError'
    for words in (first, '# a comment', 'division by zero'):
        assert words in _format_result(bad)
    kept = out / 'notebooks/200_fails.failed.ipynb'
    assert kept.exists() and 'not reached' not in text_of(kept)
    assert not (out / 'notebooks/200_fails.ipynb').exists()
    for page in ('report.html', 'REPORT.md'):
        text = (out / page).read_text()
        assert '200_fails' in text and 'ZeroDivisionError' in text and 'x / 0' in text


def test_parameters_reach_only_notebooks_that_have_them(ran):
    out, manifest = ran
    want = {'profile': 'demo', 'device': 'cpu', 'out': str(out), 'seeds': 3}
    assert manifest['notebooks'][0]['parameters'] == want
    assert all(entry['parameters'] == {} for entry in manifest['notebooks'][1:])
    assert 'demo 3 cpu' in text_of(out / 'notebooks/100_draws.ipynb')


def test_kernel_is_this_python_and_folder_is_the_notebooks(ran, shelf):
    assert sys.executable in text_of(ran[0] / 'notebooks/300_plain.ipynb')
    assert (shelf / 'seen').exists()


def test_what_reads_the_others_runs_last(ran):
    assert '300 ran before: True' in text_of(ran[0] / 'notebooks/900_last.ipynb')


def test_nothing_unfinished_is_left(ran):
    names = {path.name for path in (ran[0] / 'notebooks').iterdir()}
    stems = [name.replace('fails', 'fails.failed') for name in NAMES]
    assert names == {f'{stem}.ipynb' for stem in stems} | {'100_draws.html'}


def test_manifest_has_checksums_and_states(ran):
    out, manifest = ran
    entries = manifest['notebooks'] + manifest['artefacts']
    files = [file for entry in entries for file in entry['files']]
    assert len(files) == 4 + 1 + 5 + 3
    assert all(sha256_of(out / file['path']) == file['sha256'] for file in files)
    states = [(facts['artefact'], facts['state']) for facts in manifest['artefacts']]
    assert states == [('table1', 'partly'), ('fig1', 'drawn')]
    assert manifest['versions']['python'] == sys.version.split()[0]
    assert re.fullmatch('[0-9a-f]{40}', manifest['source'].get('commit', '0' * 40))


class Loads(HTMLParser):
    "What a page would ask the network for."

    def __init__(self, page):
        super().__init__()
        self.found, self.ids, self.links = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if 'id' in a:
            self.ids.append(a['id'])
        if tag == 'a':
            self.links.append(a['href'])
        sources = [a[name] for name in ('src', 'srcset', 'poster') if name in a]
        outside = any(not source.startswith('data:') for source in sources)
        if tag in ('link', 'iframe', 'object', 'embed') or outside:
            self.found.append((tag, a))


def test_report_is_one_self_contained_page(ran):
    out, _ = ran
    page = (out / 'report.html').read_text()
    loads = Loads(page)
    assert loads.found == [] and not re.search(r'(@import|url\()', page)
    assert page.count('src="data:image/') == 1
    assert all(text in page for text in ('A line &amp; more.', '&lt;b&gt;', 'not run'))
    assert 'name="viewport"' in page and 'prefers-color-scheme' in page
    inside = {link[1:] for link in loads.links if link.startswith('#')}
    assert inside and inside <= set(loads.ids) and len(loads.ids) == len(set(loads.ids))
    outside = [link for link in loads.links if not link.startswith('#')]
    assert all((out / link).exists() for link in outside)
    assert not any(link.startswith(('http', '/')) for link in outside)


def test_a_demonstration_compares_with_nothing(ran):
    page = (ran[0] / 'report.html').read_text()
    first = page[: page.index('id="contents"')]
    assert 'measured here' not in first and 'Its numbers say nothing about the papers' in first


def test_pages_of_notebooks_load_nothing_but_mathjax(ran):
    page = (ran[0] / 'notebooks/100_draws.html').read_text()
    addresses = [a.get('src', a.get('href', '')) for _, a in Loads(page).found]
    assert all('mathjax' in a.lower() for a in addresses if a.startswith('http'))
    assert 'mermaid.esm' not in page


def test_markdown_report_has_tables_and_images(ran):
    text = (ran[0] / 'REPORT.md').read_text()
    assert '![Shapes of Emotions, Figure 1](figures/shapes_fig1.png)' in text
    assert '| x ' in text and '3 ok, 1 failed' in text


def test_report_again_is_the_same(ran):
    out, _ = ran
    before = {name: (out / name).read_bytes() for name in ('report.html', 'REPORT.md')}
    for name in before:
        (out / name).unlink()
    assert _write_run_report(out) == out / 'report.html'
    assert before == {name: (out / name).read_bytes() for name in before}
    with pytest.raises(FileNotFoundError, match='erc reproduce'):
        _write_run_report(out / 'notebooks')


def test_only_keeps_the_others_lines(shelf, tmp_path):
    nbs, out = tmp_path / 'nbs', tmp_path / 'b'
    nbs.mkdir()
    for name in ('100_draws', '300_plain'):
        (nbs / f'{name}.ipynb').write_bytes((shelf / f'{name}.ipynb').read_bytes())
    options = dict(jobs=0, out=out, every=True, nbs=nbs, progress=False)
    first = reproduce('demo', **options)
    (out / 'tables/mine.csv').write_text('kept')
    again = reproduce('demo', only=['plain'], **options)
    assert [entry['name'] for entry in again['notebooks']] == ['100_draws', '300_plain']
    assert again['notebooks'][0] == first['notebooks'][0] and len(again['artefacts']) == 2
    assert again['notebooks'][1]['seconds'] != first['notebooks'][1]['seconds']
    write(nbs, '100_draws', PARAMETERS, tags=[0])
    assert reproduce('demo', **options)['artefacts'] == [], 'what the earlier run drew is gone'
    assert (out / 'tables/mine.csv').exists()
    assert not (out / 'tables/shapes_table1.csv').exists()


def test_without_a_wish_only_notebooks_that_draw_run(shelf, tmp_path):
    manifest = reproduce('demo', jobs=0, out=tmp_path / 'b', nbs=shelf, progress=False)
    assert [entry['name'] for entry in manifest['notebooks']] == ['100_draws']
    write(tmp_path / 'nbs', '100_plain', '1')
    with pytest.raises(FileNotFoundError, match='--every'):
        reproduce('demo', out=tmp_path / 'c', nbs=tmp_path / 'nbs', progress=False)


def test_a_section_that_draws_nothing_is_not_run(tmp_path):
    write(tmp_path / 'nbs', '400_shift', PARAMETERS, tags=[0])
    options = dict(jobs=0, out=tmp_path / 'b', nbs=tmp_path / 'nbs', progress=False)
    artefacts = reproduce('recorded', **options)['artefacts']
    assert {facts['artefact'] for facts in artefacts} == {'table1', 'table6', 'fig1'}
    assert {facts['state'] for facts in artefacts} == {'not run'}
    command = 'erc reproduce --profile recorded --only 400_shift'
    assert {facts['command'] for facts in artefacts} == {command}
    assert command in (tmp_path / 'b/report.html').read_text()


def test_full_hands_over_no_folder(tmp_path):
    book = write(tmp_path / 'nbs', '400_x', PARAMETERS, 'print(repr(out), profile)', tags=[0])
    manifest = reproduce('full', jobs=0, out=tmp_path / 'b', nbs=book.parent, progress=False)
    assert manifest['notebooks'][0]['parameters']['out'] == ''
    assert "'' full" in text_of(tmp_path / 'b/notebooks/400_x.ipynb')


# ---- names and parameters


def test_which_notebooks(shelf, tmp_path):
    def stems(*only, folder=shelf):
        return [path.stem for path in _notebooks(folder, only)]

    assert stems() == list(NAMES), 'scratch has no number'
    for name in ('200', 'fails', '200_fails', '200_fails.ipynb', 'nbs/200_fails.ipynb'):
        assert stems(name) == ['200_fails']
    assert stems('900', '100') == ['100_draws', '900_last']
    with pytest.raises(ValueError, match="did you mean '200_fails'"):
        stems('200_fail')
    with pytest.raises(FileNotFoundError, match='source checkout'):
        _notebooks(tmp_path)


def test_the_projects_notebooks_begin_with_the_map():
    if not (root() / 'nbs/index.ipynb').exists():
        pytest.skip('the notebooks are not here')
    assert [path.stem for path in _notebooks()][:2] == ['index', '000_core']


def test_parameters_are_literals_in_one_cell(tmp_path):
    want = dict(profile='recorded', corpora='', seeds=5, device='cpu', out='')
    assert _parameters_of(write(tmp_path, 'a', PARAMETERS, 'y = 2', tags=[0])) == want
    assert _parameters_of(write(tmp_path, 'b', 'x = 1')) == {}
    with pytest.raises(ValueError, match='line 2 of the parameters cell'):
        _parameters_of(write(tmp_path, 'c', 'a = 1\nb = a+1', tags=[0]))
    with pytest.raises(ValueError, match='line 1 of the parameters cell'):
        _parameters_of(write(tmp_path, 'c', 'print(1)', tags=[0]))
    with pytest.raises(ValueError, match='2 cells tagged parameters'):
        _parameters_of(write(tmp_path, 'd', 'a = 1', 'b = 1', tags=[0, 1]))


def test_unknown_parameter_is_refused_before_anything_is_written(tmp_path):
    book = write(tmp_path, 'a', PARAMETERS, tags=[0])
    words = "unknown parameter of a.ipynb 'profle'; did you mean 'profile'"
    with pytest.raises(ValueError, match=words):
        _execute(book, tmp_path / 'out/a.ipynb', {'profle': 'demo'})
    with pytest.raises(ValueError, match='no cell tagged parameters'):
        _check_parameters(write(tmp_path, 'b', 'x = 1'), {'x': 2})
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
    look = 'import glob, os; print([os.path.basename(p) for p in glob.glob("out/.*.ipynb")])'
    book, out = write(tmp_path, 'a', look, '1'), tmp_path / 'out/a.ipynb'

    def names():
        return [path.name for path in out.parent.iterdir()]

    assert _execute(book, out).status == 'ok' and names() == ['a.ipynb']
    assert "['.a.part.ipynb']" in text_of(out)
    write(tmp_path, 'a', 'raise KeyError("k")')
    result = _execute(book, out)
    assert (result.status, result.cell, result.error) == ('failed', 1, "KeyError: 'k'")
    assert names() == ['a.failed.ipynb']
    write(tmp_path, 'a', '1')
    assert _execute(book, out).status == 'ok' and names() == ['a.ipynb']


def test_a_dead_kernel_is_a_failure_like_any_other(tmp_path):
    book = write(tmp_path, 'a', 'import os; os._exit(3)')
    result = _execute(book, tmp_path / 'out/a.ipynb')
    assert result.status == 'failed' and 'ied' in result.error
    assert _format_result(result).startswith('FAILED  a')


def test_a_broken_file_stops_no_other(tmp_path):
    (tmp_path / '100_broken.ipynb').write_text('{"cells": ')
    write(tmp_path, '200_good', '1')
    tasks = [(str(p), str(tmp_path / 'out' / p.name), {}) for p in _notebooks(tmp_path)]
    broken, good = _run_notebooks(tasks, workers=0, done=lambda result: None)
    assert (broken.status, good.status) == ('failed', 'ok')
    assert 'before its first cell' in _format_result(broken)


def manifest_of(folder, *paths):
    "Write a manifest of one notebook with these files."
    files = [{'path': str(path), 'sha256': ''} for path in paths]
    notebook = {'name': '100_a', 'status': 'ok', 'files': files}
    manifest = {'profile': 'demo', 'notebooks': [notebook], 'artefacts': []}
    (folder / 'manifest.json').write_text(json.dumps(manifest))


def test_only_what_a_manifest_names_is_removed(tmp_path):
    assert _remove_previous(tmp_path, ['100_a']) == []
    for path in (tmp_path / 'mine.txt', tmp_path / 'a.ipynb'):
        path.write_text('x')
    manifest_of(tmp_path, 'a.ipynb')
    assert _remove_previous(tmp_path, ['100_a']) == []
    assert (tmp_path / 'mine.txt').exists() and not (tmp_path / 'a.ipynb').exists()


@pytest.mark.parametrize('path', ['../outside.txt', 'tables/../../outside.txt', None])
def test_no_path_of_a_manifest_leads_out_of_its_folder(tmp_path, path):
    outside, folder = tmp_path / 'outside.txt', tmp_path / 'build'
    outside.write_text('x')
    folder.mkdir()
    manifest_of(folder, path or outside)
    for read in (lambda f: _remove_previous(f, ['100_a']), _write_run_report):
        with pytest.raises(ValueError, match='manifest.json.*leads out of.*reproduce. again'):
            read(folder)
    assert outside.exists()


@pytest.mark.parametrize(
    'text', ['{"x": 1}', '[]', '{"profile"', '', '{"profile": "demo"}', 'null']
)
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / 'manifest.json').write_text(text)
    with pytest.raises(ValueError, match='manifest.json.*delete it and run `erc reproduce` again'):
        _write_run_report(tmp_path)


def test_artefacts_are_in_the_papers_order(tmp_path):
    for paper, artefact in (('sagru', 'table1'), ('shapes', 'table10'), ('shapes', 'table2')):
        facts_table(pd.DataFrame({'x': [1]}), paper, artefact).save(tmp_path)
    found = [(facts['paper'], facts['artefact']) for facts in _artefacts_in(tmp_path, tmp_path)]
    assert found == [('shapes', 'table2'), ('shapes', 'table10'), ('sagru', 'table1')]


def test_a_page_keeps_the_outputs(tmp_path):
    _execute(write(tmp_path, 'a', 'print(6 * 7)'), tmp_path / 'out/a.ipynb')
    assert '42' in _notebook_page(tmp_path / 'out/a.ipynb').read_text()


def test_results_in_lines():
    assert _format_result(_NotebookResult('000_core', 'ok', 3.2)) == 'ok      000_core  3 s'


def test_committed_outputs_hold_no_temporary_path():
    book = root() / 'nbs/380_notebooks.ipynb'
    if not book.exists():
        pytest.skip('380_notebooks is not here')
    text = json.dumps([cell.get('outputs') for cell in nbformat.read(book, 4).cells])
    assert 'toys/010_bad.ipynb takes no parameters' in text
    assert not re.search(r'/tmp|[\\/]T[\\/]tmp', text)
