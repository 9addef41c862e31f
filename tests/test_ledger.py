"The ledger: its page follows the records, and it covers what the papers owe, both ways."

import ast
import html
import json
import re
import shutil
import socket

import pytest

import erc.report.ledger as L
import erc.report.summary as S
from erc.core import results_home, root
from erc.report.artefacts import _STATES, artefacts
from erc.report.audits import _AUDITS
from erc.report.claims import read_claims
from erc.report.comparison import _records_of
from erc.report.judgements import judge_claims
from erc.report.status import artefact_table
from erc.runs.keys import RunKey
from erc.runs.recipes import find_system, load_recipe
from erc.runs.records import read_records

PAPERS = list(artefacts().paper.unique())


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A copy of the records, and of what was drawn from them, which no test changes."
    out = tmp_path_factory.mktemp('results')
    for part in ('records', 'tables', 'figures'):
        shutil.copytree(results_home() / part, out / part)
    return out


@pytest.fixture(scope='module')
def found(home):
    return read_records(home)[0]


# ---- records that go, records that were edited


def test_a_deleted_record_turns_into_not_run_and_nothing_else_changes(home, found, tmp_path):
    key = next(k for k in found if str(k).startswith('sagru/S3:tuned@'))
    other = tmp_path / 'without'
    shutil.copytree(home, other)
    key.path(other).unlink()
    after, broken = read_records(other)
    assert not broken and set(found) - set(after) == {key}
    a, b = (
        artefact_table(h, '', r, stale={}).set_index(['paper', 'artefact'])
        for h, r in ((home, found), (other, after))
    )
    hit = [i for i in a.index if str(key) in a.records[i]]
    assert hit and all(a.present[i] == b.present[i] + 1 and b.state[i] == 'partly' for i in hit)
    rest = a.index.difference(hit)
    same = ['state', 'present', 'wanted', 'seeds', 'basis']
    assert a.loc[rest, same].equals(b.loc[rest, same])
    x, y = judge_claims(records=found), judge_claims(records=after)
    touched = [c.id for c in read_claims() if any(key in pair.keys for pair in c.pairs)]
    assert touched and not (set(y.loc[touched].better + y.loc[touched].worse) & {str(key)})
    columns = ['better', 'worse', 'mean', 'low', 'high', 'p', 'ours']
    assert x.drop(index=touched)[columns].equals(y.drop(index=touched)[columns])
    ledgers = [
        S._Ledger(h, r, [], {}, t, s.reset_index())
        for h, r, t, s in ((home, found, x, a), (other, after, y, b))
    ]
    table = next(i for i in hit if i[1].startswith('table'))
    shown = [json.dumps(L._page_artefact(next(r for r in g.artefacts.itertuples() if (r.paper, r.artefact) == table), g)['table']) for g in ledgers]  # fmt: skip
    assert shown[1].count('not run') > shown[0].count('not run'), 'the table is drawn again'


def test_an_edited_record_is_named(home, tmp_path):
    other = tmp_path / 'edited'
    shutil.copytree(home / 'records' / 'sagru', other / 'records' / 'sagru')
    path = next((other / 'records' / 'sagru').glob('S5--tuned--*.json'))
    data = json.loads(path.read_text())
    data['folds']['paper']['test'][0] += 0.1
    path.write_text(json.dumps(data))
    (path.parent / 'S4--tuned--iemocap4.json').write_text('{"cut')
    good, broken = read_records(other)
    assert len(broken) == 2 and RunKey.from_path(path) not in good
    assert path.name in ' '.join(broken) and 'does not match its checksum' in ' '.join(broken)
    page = L._write_report(other).read_text()
    assert 'Not a sound record' in page and path.name in page
    assert path.name in (other / 'REPORT.md').read_text()


# ---- the page


@pytest.fixture(scope='module')
def page(home):
    "The report, written while nothing can be reached."

    def refuse(*_, **__):
        raise OSError('no network in this test')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, 'connect', refuse)
        readme = (root() / 'README.md').read_text()
        path = L._write_report(home)
        assert (root() / 'README.md').read_text() == readme, (
            'a report of another folder is not the project summary'
        )
    return path.read_text()


def test_the_page_stands_alone(page):
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page) and '<link' not in page
    assert not re.search(r'<script[^>]+src', page)
    pictures = re.findall(r'<img[^>]*src="([^"]*)"', page)
    assert len(pictures) > 15 and all(
        p.startswith('data:image/') and len(p) > 500 for p in pictures
    )
    assert all(re.search(r'alt="[^"]{5,}"', i) for i in re.findall(r'<img[^>]*>', page))


def test_the_page_has_all_of_it(page, found):
    for a in artefacts().itertuples():
        assert f'id="{a.paper}-{a.id}"' in page and f'href="#{a.paper}-{a.id}"' in page
    text = html.unescape(page)
    for c in read_claims():
        assert c.claim in text, c.id
    first = text[: text.index('Contents</h2>')]
    counts = judge_claims(records=found).verdict.value_counts()
    assert all(f'<b>{n}</b> {verdict}' in first for verdict, n in counts.items()), (
        'verdicts come first'
    )
    assert all(title in text for title in _AUDITS.values())
    assert 'erc reproduce --profile recorded --only 700_sagru' in text
    assert 'Not run: `erc run ledger' not in text


def test_diagrams_are_in_the_page(page):
    for a in artefacts().query("kind == 'diagram'").itertuples():
        part = page[page.index(f'id="{a.paper}-{a.id}"') :]
        assert 'src="data:image/' in part[: part.index('</section>')], (
            f'{a.paper} {a.id} is not drawn'
        )


def test_a_folder_without_records_has_a_page(tmp_path):
    assert 'not run' in L._write_report(tmp_path).read_text()


def test_summary_of_the_readme_is_that_of_the_report():
    "Both are written by `erc report`, so one of them cannot be left behind."
    readme, report = ((root() / n).read_text() for n in ('README.md', 'results/REPORT.md'))
    block = readme.partition(S._MARKS[0])[2].partition(S._MARKS[1])[0].strip()
    assert block and block.replace('(results/', '(') in report, 'run `erc report`'
    linked = [
        p for p in re.findall(r'\]\((results/[^)]*)\)', readme) if not p.endswith('report.html')
    ]
    assert all((root() / p).exists() for p in linked)


def test_fill_keeps_the_rest(tmp_path):
    path = tmp_path / 'a.md'
    path.write_text(f'above\n{S._MARKS[0]}\nold\n{S._MARKS[1]}\nbelow\n')
    assert S._fill_summary(path, 'new') and S._fill_summary(path, 'newer')
    assert path.read_text() == f'above\n{S._MARKS[0]}\n\nnewer\n\n{S._MARKS[1]}\nbelow\n'
    path.write_text('no marks\n')
    assert not S._fill_summary(path, 'new') and path.read_text() == 'no marks\n'
    assert not S._fill_summary(tmp_path / 'absent.md', 'x')


# ---- ledger, notebooks and artefacts.csv cover each other


def test_every_artefact_is_listed_and_says_what_completes_it(found, home):
    table = artefact_table(home, '', found, stale={})
    assert list(zip(table.paper, table.artefact)) == list(zip(artefacts().paper, artefacts().id))
    assert len(table) == 52 and set(table.state) <= set(_STATES)
    for row in table.itertuples():
        assert row.state == 'drawn' or row.command or row.beyond, f'{row.paper} {row.artefact}'
        if row.kind == 'table':
            assert row.anchor, f'{row.notebook} has no heading for {row.paper} {row.artefact}'


def drawn_in(path) -> set:
    "The artefacts that a notebook's code draws, by their names in calls."
    cells = [
        ''.join(c['source'])
        for c in json.loads(path.read_text())['cells']
        if c['cell_type'] == 'code'
    ]
    text = '\n'.join(s for s in cells if not re.match(r'#\|\s*export', s))
    return set(
        re.findall(
            r"'((?:table|fig|case_)\w+|shifts|fusions|combinations|systems|alpha|attention|spcl)'",
            text,
        )
    )


def test_notebooks_draw_what_they_owe():
    for a in artefacts().itertuples():
        path = root() / 'nbs' / f'{a.notebook}.ipynb'
        assert path.exists(), f'{a.paper} {a.id}: there is no notebook {a.notebook}'
        assert a.id in drawn_in(path), f'{a.notebook} does not draw {a.id}'


def saved_by(path) -> set:
    "The (paper, artefact) that a notebook saves through its section, by constant names."
    cells = [
        ''.join(c['source'])
        for c in json.loads(path.read_text())['cells']
        if c['cell_type'] == 'code'
    ]
    text = '\n'.join(s for s in cells if not re.match(r'#\|\s*export', s) and not s.startswith('%'))
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    papers = {n.args[0].value for n in calls if getattr(n.func, 'id', '') == 'Section' and n.args}
    names = {
        a.value
        for n in calls
        if getattr(n.func, 'attr', '') in ('table', 'figure', 'missing_figure')
        for a in n.args
        if isinstance(a, ast.Constant) and isinstance(a.value, str)
    }
    return {(paper, name) for paper in papers for name in names} if len(papers) == 1 else set()


def test_notebooks_save_nothing_that_no_list_has():
    owed = {(a.paper, a.id) for a in artefacts().itertuples()}
    for path in sorted((root() / 'nbs').glob('[4-9]*.ipynb')):
        extra = {
            x for x in saved_by(path) if x[0] in PAPERS and re.match(r'table|fig|case_', x[1])
        } - owed
        assert not extra, f'{path.name} draws {sorted(extra)}'


def test_recipes_feed_artefacts_that_exist():
    known = {(a.paper, a.id) for a in artefacts().itertuples()}
    for paper in PAPERS:
        for id, spec in load_recipe(paper).artefacts.items():
            assert (paper, id) in known, f'{paper}.toml feeds {id}, which no paper has'
            for key in _records_of(spec):
                assert key.variant in find_system(key.system_id).variants
