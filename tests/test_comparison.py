"Comparisons: every number of ours out of a record, every printed one out of the reference files."

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from toy_report import (
    COLUMNS,
    ROWS,
    RUNS,
    counts,
    draw,
    entries,
    fresh,
    recipe,
    save_toy,
    toy_record,
)

from erc.data.sources import pins
from erc.report.artefacts import reference
from erc.report.comparison import (
    _artefact_status,
    _records_of,
    comparison,
)
from erc.report.lines import _comparison_lines, _record_cell
from erc.report.standing import _training_end, standing
from erc.report.tables import _to_html, _to_latex, _to_markdown
from erc.runs.keys import RunKey
from erc.runs.recipe_files import papers
from erc.runs.recipes import ArtefactSpec, Column, Row, load_recipe
from erc.runs.records import find_record


def line_of(table, system, variant):
    data = table.data
    return data[(data.system == system) & (data.variant == variant)].set_index('column')


def status(home, spec, stale=fresh):
    def find(key):
        return find_record(key, home)

    return _artefact_status('shapes', 'table6', spec, find, stale, home)


def test_cells_are_the_records_means_and_intervals(tmp_path):
    c = save_toy(tmp_path)
    table = draw(tmp_path)
    ours = line_of(table, 'net', 'paper')
    accuracy = np.mean([np.trace(x) / x.sum() for x in c.sum(1)])
    assert ours.loc['Accuracy', 'mean'] == pytest.approx(100 * accuracy, abs=1e-4)
    assert ours.loc['Accuracy', 'low'] < 100 * accuracy < ours.loc['Accuracy', 'high']
    two = c[:, :20].sum(1)
    f1 = np.mean([2 * x[0, 0] / (x[0].sum() + x[:, 0].sum()) for x in two])
    assert ours.loc['shift', 'mean'] == pytest.approx(100 * f1, abs=1e-4)
    shown = table.frame[(table.frame.line == 'the network') & (table.frame.variant == 'paper')]
    low, high = ours.loc['Accuracy', ['low', 'high']]
    assert shown.Accuracy.item() == f'{100 * accuracy:.1f} [{low:.1f}, {high:.1f}]'
    assert (shown.seeds.item(), shown.basis.item()) == ('3', 'own features')


def test_printed_lines_are_the_reference_files_text(tmp_path):
    numbers, table = reference('shapes'), draw(tmp_path)
    own = table.data[table.data.kind == 'printed']
    for row in ('CMU-MOSEI', 'IEMOCAP 4-label'):
        for column in ('Accuracy', 'F1'):
            query = 'artefact == "table6" and row == @row and column == @column'
            want = numbers.query(query).value.item()
            assert own[(own.row == row) & (own.column == column)].printed.item() == want
    assert not (own.row == 'ours alone').any()
    assert set(own[own.column == 'shift'].printed) == {''}, 'the paper has no such column'


def test_a_printed_dash_and_trailing_zeros_stay(tmp_path):
    toy = recipe([Row('TBJE'), Row('Graph-MFN')], [COLUMNS[1]], artefact='table2')
    table = comparison('shapes', 'table2', home=tmp_path, recipe=toy, stale=fresh)
    numbers = reference('shapes').query('artefact == "table2" and column == "F1"')
    value = numbers.set_index('row').value['Graph-MFN']
    assert table.frame.F1.tolist() == ['-', value] and value.endswith('0')
    assert f'|{value}|' in _to_markdown(table).replace(' ', '')


def test_a_removed_record_turns_its_cells_into_not_run(tmp_path):
    for run in RUNS:
        save_toy(tmp_path, run)
    whole = draw(tmp_path)
    assert (whole.state, whole.badge) == ('drawn', 'drawn') and 'not run' not in _to_html(whole)
    RunKey.parse('shapes/net:tuned@a').path(tmp_path).unlink()
    table = draw(tmp_path)
    gone = table.data[whole.data.ne(table.data).any(axis=1)]
    assert gone.variant.unique().tolist() == ['tuned'] and gone.corpus.unique().tolist() == ['a']
    assert len(gone) == 3 and set(gone.state) == {'not run'}
    assert set(gone[['mean', 'low', 'high', 'printed']].to_numpy().ravel()) == {''}
    assert table.badge == 'partly: 1 of 6 lines not run'
    for text in (_to_html(table), _to_markdown(table), _to_latex(table)):
        assert 'not run' in text and 'erc run shapes' in text


def test_no_record_no_number_of_ours(tmp_path):
    table = draw(tmp_path)
    assert table.state == 'not run'
    ours = table.frame[table.frame.line != 'paper prints']
    assert set(ours[['Accuracy', 'F1', 'shift']].to_numpy().ravel()) == {'not run'}


def test_stale_is_shown_with_its_reason(tmp_path):
    save_toy(tmp_path)
    table = draw(tmp_path, stale=lambda record: 'settings changed: args')
    assert table.frame.line.tolist().count('the network (stale)') == 1
    assert table.notes[0] == 'Stale, 1 line: settings changed: args.'
    assert 'settings changed: args' in _to_html(table) and table.kinds[1] == 'stale'


def test_a_table_of_new_and_stale_records_says_which_is_which(tmp_path):
    for run in ('net:paper@a', 'net:tuned@a', 'rule:fixed@a'):
        save_toy(tmp_path, run)
    rows = [Row('CMU-MOSEI', entries=entries('net:paper@a', 'net:tuned@a', 'rule:fixed@a'))]
    old = {'shapes/net:tuned@a', 'shapes/rule:fixed@a'}
    table = draw(tmp_path, recipe(rows), stale=lambda r: 'other args' * (str(r.key) in old))
    assert (table.state, table.badge) == ('drawn', 'drawn: 2 of 3 lines stale')
    assert table.command == 'erc run shapes --missing', 'new runs complete it'
    assert table.notes == ['Stale, 2 lines: other args.'], 'one sentence a reason'
    for text in (_to_html(table), _to_markdown(table), _to_latex(table)):
        assert '2 of 3 lines stale' in text and 'erc run shapes' in text
    h = table.headline
    assert h['line'] == 'the network, paper', 'a record that holds goes before a stale one'
    assert '(stale)' not in h['ours'] and h['floor'].endswith('(stale)')


def test_runs_of_another_recipe_are_completed_by_its_own_command(tmp_path):
    rows = [Row('CMU-MOSEI', entries=entries('net:paper@a', 'baselines/majority:fixed@a'))]
    both = 'erc run shapes --missing; erc run baselines --missing'
    assert draw(tmp_path, recipe(rows)).command == both
    assert status(tmp_path, ArtefactSpec(rows=rows)).command == both
    save_toy(tmp_path, 'net:paper@a')
    floors = 'erc run baselines --missing'
    assert draw(tmp_path, recipe(rows)).command == floors
    assert status(tmp_path, ArtefactSpec(rows=rows)).command == floors


def test_stale_is_asked_of_the_recipes(tmp_path):
    save_toy(tmp_path)
    table = draw(tmp_path, stale=None)  # no recipe has shapes/net
    assert 'its system is in no recipe' in table.notes[0]


FETCHED = Row('CMU-MOSEI', needs='features of MOSEI', get='erc data get mosei_features')


def test_needs_data(tmp_path):
    table = draw(tmp_path, recipe([FETCHED]))
    assert (table.state, table.frame.line[1]) == ('needs data', 'needs features of MOSEI')
    assert table.frame.F1[1] == 'needs data'
    assert table.command == 'erc data get mosei_features' and table.command in _to_html(table)


def test_status_of_what_needs_data(tmp_path):
    s = status(tmp_path, ArtefactSpec(rows=[FETCHED]))
    assert (s.state, s.command, s.wanted, s.beyond) == ('needs data', FETCHED.get, 0, [])
    more = ArtefactSpec(rows=[FETCHED, Row('AVEC', needs='AVEC, given out on request')])
    s = status(tmp_path, more)
    assert (s.command, s.beyond) == (FETCHED.get, ['AVEC, given out on request'])


def test_each_gap_is_filled_in_its_own_way(tmp_path):
    save_toy(tmp_path)
    rows = [FETCHED, Row('IEMOCAP 4-label', entries=entries('net:paper@a'))]
    both = draw(tmp_path, recipe(rows))
    assert (both.badge, both.command) == ('partly: 1 of 2 lines without data', FETCHED.get)
    rows[1] = Row('IEMOCAP 4-label', entries=entries('net:paper@a', 'big:paper@a'))
    more = draw(tmp_path, recipe(rows))
    assert more.badge == 'partly: 1 of 3 lines not run, 1 of 3 lines without data'
    assert more.command == f'{FETCHED.get}; erc run shapes --missing'


def test_a_demonstration_has_blocks_of_its_own(tmp_path):
    save_toy(tmp_path, 'net:paper@demo')
    save_toy(tmp_path, 'rule:fixed@demo', 1)
    table = draw(tmp_path, profile='demo', stale=lambda record: 1 / 0)
    ours = table.data[table.data.kind != 'printed']
    assert ours.corpus.unique().tolist() == ['demo'] and table.basis == ['demo']
    lines = ['paper prints'] * 2 + ['the network', 'the network', 'a rule']
    assert table.frame.line.tolist() == lines, 'big takes no part; a system appears once a variant'
    assert [start for start, _ in table.blocks] == [0, 2] and table.headline == {'column': 'F1'}
    assert 'demo corpus' in table.caption and table.command == 'erc reproduce --profile demo'
    assert table.badge == 'partly: 1 of 3 lines not run'


def test_no_demonstration_stands_in_a_table_with_a_printed_number(tmp_path):
    save_toy(tmp_path, 'net:paper@demo')
    table = draw(tmp_path, profile='demo')
    blocks = _to_html(table).split('<table>')[1:]
    assert len(blocks) == 2 and 'paper prints' in blocks[0] and 'the network' not in blocks[0]
    assert 'paper prints' not in blocks[1] and 'nothing here compares' in _to_html(table)
    assert _to_markdown(table).count('\n|:') == 2, 'two tables'


def test_slice_or_class_that_a_record_lacks(tmp_path):
    save_toy(tmp_path, confusions={'all': counts()})
    assert line_of(draw(tmp_path), 'net', 'paper').state['shift'] == 'not counted'
    assert _record_cell(toy_record(), Column('x', 'class_f1:happy')).state == 'not counted'
    empty = toy_record(confusions={'all': np.zeros((2, 3, 2, 2), int)})
    assert str(_record_cell(empty, Column('x', 'accuracy'))) == 'not counted'


def test_a_score_of_classes_says_nothing_about_values():
    values = replace(toy_record(), task='regression')
    assert str(_record_cell(values, Column('x', 'accuracy'))) == ''
    assert str(_record_cell(toy_record(), Column('x', 'pearson_r'))) == ''


def test_baselines_have_no_seeds_to_count(tmp_path):
    save_toy(tmp_path, 'rule:fixed@a')
    table = draw(tmp_path)
    assert table.frame[table.frame.line == 'a rule'].seeds.tolist()[0] == '-'


@pytest.mark.parametrize(
    'rows,columns,words',
    [
        ([Row('CMU-MOSE')], COLUMNS, "did you mean 'CMU-MOSEI'"),
        (ROWS, [Column('F', 'accuracy', 'F2')], 'Known: Accuracy, F1'),
        ([Row('CMU-MOSEI', entries=entries('nett:paper@a'))], COLUMNS, "did you mean 'net'"),
        (ROWS, [Column('F1', 'f1', 'F1')], 'unknown metric'),
    ],
)
def test_wrong_recipes_are_named(tmp_path, rows, columns, words):
    save_toy(tmp_path)
    with pytest.raises(ValueError, match=words):
        draw(tmp_path, recipe(rows, columns))


def test_unknown_artefact(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'table6'"):
        comparison('shapes', 'tabel6', home=tmp_path, recipe=recipe())


def test_headline_is_the_papers_best_row_and_our_best_trained_line_in_it(tmp_path):
    for seed, run in enumerate(RUNS):
        save_toy(tmp_path, run, seed)
    table = draw(tmp_path)
    data = table.data[table.data.column == 'F1']
    numbers = pd.to_numeric(data.printed, errors='coerce')
    h = table.headline
    own = data[(data.row == 'CMU-MOSEI') & data.system.isin(['net', 'big'])]
    best = own.loc[own['mean'].astype(float).idxmax()]
    assert (h['column'], h['row']) == ('F1', 'CMU-MOSEI'), 'the other row has a stand-in alone'
    assert h['printed'] == data.printed[numbers[data.row == 'CMU-MOSEI'].idxmax()]
    assert (
        h['ours'].startswith(f'{best["mean"]:.1f} [')
        and h['line'] == f'{best.line}, {best.variant}'
    )
    rule = data[(data.system == 'rule') & (data.corpus == 'a')].iloc[0]
    assert h['floor'].startswith(f'{rule["mean"]:.1f} [')


def test_a_headline_without_a_number_of_ours(tmp_path):
    h = draw(tmp_path).headline
    assert (h['column'], h['ours'], h['line'], h['floor']) == ('F1', '', '', '')
    column = reference('shapes').query('artefact == "table6" and column == "F1"')
    best = column.value[pd.to_numeric(column.value).idxmax()]
    assert h['printed'] in set(column.value) and float(h['printed']) <= float(best)


def test_records_and_status(tmp_path):
    spec = recipe().artefacts['table6']
    assert [str(key) for key in _records_of(spec)] == [f'shapes/{run}' for run in RUNS]
    key = RunKey.parse('shapes/net:tuned@iemocap6_polarity_paper')
    assert _records_of(ArtefactSpec(records=[key])) == [key]
    save_toy(tmp_path)
    s = status(tmp_path, spec, stale=lambda record: 'old')
    assert (s.state, len(s.records), s.wanted) == ('partly', 1, 6)
    assert s.stale == ['shapes/net:paper@a: old'] and s.command == 'erc run shapes --missing'
    assert [str(record.key) for record in s.records] == ['shapes/net:paper@a']
    draw(tmp_path).save(tmp_path)
    assert status(tmp_path, None).state == 'partly', 'in no recipe: as it was last saved'
    assert status(tmp_path / 'none', None).state == 'not run'


def test_wired_rows_open_with_their_first_record(tmp_path):
    wired = entries('net:paper@it', 'big:paper@it', basis='fetched')
    rows = [Row('CMU-MOSEI', needs='its features', get='erc data get it', wired=wired)]
    before, s = draw(tmp_path, recipe(rows)), status(tmp_path, ArtefactSpec(rows=rows))
    assert before.state == s.state == 'needs data' and not s.basis
    assert before.command == s.command == 'erc data get it; erc run shapes --missing'
    save_toy(tmp_path, 'net:paper@it')
    after, s = draw(tmp_path, recipe(rows)), status(tmp_path, ArtefactSpec(rows=rows))
    assert after.kinds == ['printed', 'ours', 'not run'] and after.state == s.state == 'partly'
    assert (len(s.records), s.wanted, s.basis) == (1, 2, ['fetched'])
    assert after.command == s.command == 'erc run shapes --missing'


def test_lines_follow_the_recipe():
    lines = _comparison_lines(ArtefactSpec(rows=ROWS))
    kinds = [(line.row, line.kind) for line in lines]
    assert kinds[0] == ('CMU-MOSEI', 'printed') and kinds[1:5] == [('CMU-MOSEI', 'ours')] * 4
    assert kinds[-1] == ('ours alone', 'ours')
    assert (lines[6].label, lines[6].key.corpus) == ('renamed', 'c')
    for_demo = Row('x', printed=False, entries=entries('net:paper'))
    assert _comparison_lines(ArtefactSpec(rows=[for_demo])) == [], 'a run without corpus'


def test_every_recipe_can_be_drawn_without_records(tmp_path):
    "Rows, columns and systems that recipes name exist."
    drawn = [
        comparison(paper, name, home=tmp_path, profile=profile)
        for paper in papers()
        for name, spec in load_recipe(paper).artefacts.items()
        if spec.rows
        for profile in ('recorded', 'demo')
    ]
    assert drawn and all(table.state in ('not run', 'needs data', 'partly') for table in drawn)


def test_floors_of_another_recipe_stand_in_a_table():
    "Majority and TF-IDF come from the baselines' recipe, and from its records."
    table = comparison('shapes', 'table10', stale=fresh)
    lines = table.data[table.data.system == 'majority']
    assert len(lines) and (lines.state == 'drawn').all(), 'the records of the floors are committed'
    wanted = {str(key) for key in _records_of(load_recipe('shapes').artefacts['table10'])}
    assert {'baselines/majority:fixed@iemocap6', 'shapes/gruarc:tuned@iemocap6'} <= wanted


def test_what_would_fetch_a_row_can_be_fetched():
    specs = [spec for paper in papers() for spec in load_recipe(paper).artefacts.values()]
    rows = [row for spec in specs for row in spec.rows if row.needs]
    get = {row.get for row in rows if row.get}
    assert len(rows) > 30 and all(pins(command.removeprefix('erc data get ')) for command in get)
    rest = [row.needs for row in rows if not row.get]
    assert all('on request' in needs or 'to be extracted' in needs for needs in rest), (
        'a row that no command fetches says why'
    )


@pytest.mark.parametrize(
    'dev,rose',
    [([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 20), ([0.5] * 8, 0), ([0.5] * 6 + [0.4] * 2, -10)],
)
def test_how_a_training_ended(dev, rose):
    stops = [0.9] * 5 + [np.nan] * 3  # says nothing about the end
    loss = [[8.0, 7, 6, 5, 4, 3, 2, 1], [9.0] * 8]
    end = _training_end(
        SimpleNamespace(curves={'dev': [dev, stops], 'loss': loss}, selected=[2, 7])
    )
    assert end['rose'] == pytest.approx(rose) and end['loss'] == (3.5, 1.5)
    assert [end[name] for name in ('epochs', 'first', 'last', 'stopped')] == [8, 3, 8, 1]
    all_stopped = SimpleNamespace(curves={'dev': [stops] * 2, 'loss': [stops] * 2}, selected=[0, 1])
    assert _training_end(all_stopped)['rose'] == pytest.approx(0)
    alone = SimpleNamespace(curves={'dev': [dev], 'loss': [[1.0] * 8]}, selected=[0])
    assert _training_end(alone)['rose'] == pytest.approx(rose)


@pytest.mark.parametrize(
    'hits,floor,side',
    [
        (3, 9, 'below the floor'),
        (9, 3, 'above the floor'),
        (6, 6, 'not distinguishable from the floor'),
    ],
)
def test_which_side_of_the_floor(hits, floor, side):
    def correct(n, seeds):
        return np.tile(np.array([[n, 10 - n], [10 - n, n]]), (seeds, 9, 1, 1))

    climbing = {'dev': [[0.1, 0.2, 0.3, 0.4]] * 2, 'loss': [[4.0, 3, 2, 1]] * 2}
    scores = dict(test=[hits / 10] * 2, dev=[0.5, 0.4], selected=[1, 3])
    net = SimpleNamespace(confusions={'all': correct(hits, 2)}, curves=climbing, **scores)
    base = SimpleNamespace(confusions={'all': correct(floor, 1)}, test=[floor / 10], dev=[0.6])
    words = standing('a net', net, base)
    assert words.startswith(f'- a net: {10 * hits}.0 on test, the floor {10 * floor}.0')
    assert f'*{side}*' in words and 'dev still rises' in words and 'stopped early' not in words
    net.curves = {**climbing, 'dev': [[0.4, 0.3, 0.2, 0.2], [0.4, 0.3, np.nan, np.nan]]}
    flat = standing('a net', net, base)
    assert 'dev has stopped rising' in flat and '1 of 2 stopped early' in flat
    assert standing('a net', None, base) == standing('a net', net, None) == '- a net: not run.'
