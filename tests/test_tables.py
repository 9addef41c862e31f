"Tables: the same cells as html, Markdown, LaTeX and csv; gaps that say so."

import csv
import io
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from toy_report import draw, save_toy

from erc.data.files import _csv_text, _from_csv_text
from erc.report.tables import (
    Table,
    _escape_latex,
    _table_layout,
    _to_html,
    _to_latex,
    _to_markdown,
    facts_table,
)


class Tags(HTMLParser):
    "Start tags of a page, with their attributes."

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_files(tmp_path):
    save_toy(tmp_path)
    table = draw(tmp_path)
    path = table.save(tmp_path / 'x')
    names = [f'shapes_table6.{suffix}' for suffix in ('csv', 'html', 'json', 'md', 'tex')]
    assert sorted(p.name for p in path.parent.iterdir()) == names
    back = pd.read_csv(f'{path}.csv')
    drawn = back[back['mean'].notna()]
    assert len(drawn) == 3 and drawn.seeds.eq(3).all()
    facts = json.loads(path.with_suffix('.json').read_text())
    assert (facts['state'], facts['kind']) == ('partly', 'table')
    assert facts['command'] == 'erc run shapes --missing'
    assert facts['basis'] == ['own features', 'stand-in']
    assert facts['table'] == _table_layout(table)


def test_a_saved_page_needs_nothing_else(tmp_path):
    page = draw(tmp_path).content()['.html']
    assert page.lstrip().startswith('<!doctype html>') and 'http' not in page
    assert '<script' not in page and 'prefers-color-scheme' in page


def test_drawn_twice_gives_the_same_bytes(tmp_path):
    save_toy(tmp_path)
    first = draw(tmp_path).content()
    assert first == draw(tmp_path).content()
    assert _to_html(draw(tmp_path)) == _to_html(draw(tmp_path))


def test_html_has_a_header_for_each_cell(tmp_path):
    save_toy(tmp_path)
    tags = Tags(_to_html(draw(tmp_path))).found
    scopes = [attributes['scope'] for tag, attributes in tags if tag == 'th']
    lines = len(draw(tmp_path).frame)
    assert scopes.count('row') == lines and scopes.count('rowgroup') == 3
    assert scopes.count('col') == 1 + 3, 'what describes a line is small print below its label'
    assert sum(tag == 'td' for tag, _ in tags) == lines * 3


def test_layout_has_the_headline_first_and_ours_below_the_papers_line(tmp_path):
    save_toy(tmp_path)
    layout = _table_layout(draw(tmp_path))
    assert [column['name'] for column in layout['columns']] == ['F1', 'Accuracy', 'shift']
    group = layout['blocks'][0]['groups'][0]
    assert group['heading'] == 'CMU-MOSEI'
    assert [line['kind'] for line in group['lines'][:2]] == ['printed', 'ours']
    assert group['lines'][1]['details'] == 'paper · own features · 3 seeds'
    assert group['lines'][1]['cells'][0]['interval'].startswith('[')
    assert group['lines'][2]['cells'][0] == {'text': 'not run', 'interval': '', 'gap': True}


def test_links_and_details():
    frame = pd.DataFrame({'artefact': ['a', 'b'], 'state': ['drawn', '12 drawn, 1 partly']})
    table = Table('shapes', 'summary', frame, links={1: '#there'})
    page = _to_html(table)
    assert '<a href="#there">b</a>' in page and page.count('<a ') == 1
    assert _table_layout(table)['columns'] == [{'name': 'state', 'style': 'erc-text'}]


def test_text_is_escaped():
    frame = pd.DataFrame({'a_b': ['<script>x</script>', '50 % & more | _x_']})
    table = Table('shapes', 'table6', frame, caption='a < b & c_d', notes=['x > y'])
    page = _to_html(table)
    assert '<script>' not in page and '&lt;script&gt;' in page
    assert 'a &lt; b &amp; c_d' in page and 'x &gt; y' in page
    latex = _to_latex(table)
    assert r'50 \% \& more | \_x\_' in latex and r'c\_d' in latex and r'a\_b' in latex
    assert '50 % & more \\| _x_' in _to_markdown(table)
    assert _escape_latex('~^') == r'\textasciitilde{}\textasciicircum{}'


def test_latex_has_the_rules_of_booktabs(tmp_path):
    latex = _to_latex(draw(tmp_path))
    wanted = r'\toprule', r'\bottomrule', r'\caption{', r'\label{tab:shapes-table6}'
    assert all(text in latex for text in wanted)
    assert latex.count(r'\midrule') == 3, 'below the head and before the second and third group'


def test_kinds_fit_lines():
    with pytest.raises(ValueError, match='2 kinds for 1 lines'):
        Table('shapes', 'table6', pd.DataFrame({'x': [1]}), kinds=['ours', 'ours'])
    with pytest.raises(ValueError, match='unknown kind of a line'):
        Table('shapes', 'table6', pd.DataFrame({'x': [1]}), kinds=['theirs'])


FACTS = pd.DataFrame(
    {
        'corpus': ['a', 'b', 'paper prints'],
        'n': pd.array([12345, None, 1], dtype='Int64'),
        'share': [0.5, np.nan, 2],
        'flag': [True, False, None],
    }
)


def test_facts_are_formatted_and_gaps_are_not_run():
    table = facts_table(FACTS, 'shapes', 'table1', printed=[2])
    assert table.frame.iloc[0].tolist() == ['a', '12345', '0.50', 'yes']
    assert table.frame.iloc[1].tolist() == ['b', 'not run', 'not run', 'no']
    assert table.kinds == ['ours', 'not run', 'printed'] and table.state == 'partly'
    assert table.badge == 'partly: 1 of 2 lines not run'


def test_state_of_facts_follows_from_gaps():
    def state(frame, **options):
        return facts_table(frame, 'shapes', 'table1', **options).state

    assert state(FACTS.iloc[:1]) == 'drawn' and state(FACTS.iloc[1:2]) == 'not run'
    assert state(FACTS, missing='') == 'drawn' and state(FACTS, state='partly') == 'partly'
    assert state(FACTS.iloc[:0]) == 'not run'
    with pytest.raises(ValueError, match='Known: drawn'):
        state(FACTS, state='fine')


def test_an_empty_table_names_its_command():
    table = facts_table(FACTS.iloc[:0], 'shapes', 'table1')
    assert 'erc run shapes' in _to_html(table) and '*not run*' in _to_markdown(table)


def test_facts_of_a_demonstration_say_so():
    table = facts_table(FACTS, 'shapes', 'table1', profile='demo', caption='Counts.')
    assert table.caption.startswith('Counts. ') and 'generated demo corpus' in table.caption


HOSTILE = [
    '<script>alert(1)</script>',
    '=HYPERLINK("x")',
    '@SUM(A1)',
    '-2+3+cmd|x',
    '+1+1',
    '[a](javascript:b)',
]


def test_heads_and_cells_are_escaped_everywhere():
    frame = pd.DataFrame({text: HOSTILE for text in HOSTILE})
    table = Table('shapes', 'table6', frame, title='<i>t</i>', links={0: 'javascript:alert(1)'})
    content = table.content()
    assert '<script>alert' not in content['.html'] and '<script>alert' not in content['.md']
    assert 'href="javascript:' not in content['.html'] and '](javascript:' not in content['.md']
    assert '<i>' not in content['.md']
    cells = list(csv.reader(content['.csv'].splitlines()))
    assert len(cells) == 7 and all(cell[0] in "<['" for row in cells for cell in row)


def test_numbers_in_a_csv_stay_numbers_and_text_comes_back():
    frame = pd.DataFrame({'a': ['-1.5 [-2.0, -1.0]', '-', '-x'], 'b': [-1.0, 2.0, 3.5]})
    text = _csv_text(frame)
    assert text.splitlines()[1:] == ['"-1.5 [-2.0, -1.0]",-1.0', '-,2.0', "'-x,3.5"]
    assert _from_csv_text(pd.read_csv(io.StringIO(text))).equals(frame)
