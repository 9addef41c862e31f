"Tables: every number of ours out of a record, every number of theirs out of the reference files, gaps that say so."

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from erc.runs.records import Record, record_path, save_record
from erc.report.artefacts import artefacts, printed, reference
from erc.report.tables import (
    Table,
    cell,
    comparison,
    ending,
    facts_table,
    lines_of,
    records_of,
    shown,
    standing,
    state_of,
    status_of,
    tex,
    to_html,
    to_latex,
    to_markdown,
)

SYSTEMS = {
    f'shapes/{k}': SimpleNamespace(label=label, kind=kind, demo=demo, metric='weighted_f1')
    for k, label, kind, demo in [
        ('net', 'the network', 'model', True),
        ('rule', 'a rule', 'baseline', True),
        ('big', 'the large one', 'model', False),
    ]
}
COLUMNS = [
    dict(name='Accuracy', metric='accuracy', printed='Accuracy'),
    dict(name='F1', metric='weighted_f1', printed='F1'),
    dict(name='shift', metric='class_f1:shift', slice='two'),
]
ROWS = [
    dict(
        row='CMU-MOSEI',
        corpus='a',
        basis='own features',
        systems=['net/paper', 'net/tuned', 'rule/fixed', 'big/paper'],
    ),
    dict(
        row='IEMOCAP 4-label',
        corpus='b',
        basis='stand-in',
        systems=[dict(system='net/tuned', label='renamed', corpus='c')],
    ),
    dict(row='ours alone', printed=False, corpus='b', basis='own features', systems=['rule/fixed']),
]


def recipe(**over):
    return {
        'title': 'Shapes',
        'systems': SYSTEMS,
        'artefacts': {'table6': {'columns': COLUMNS, 'rows': ROWS, **over}},
    }


def counts(seed=0, seeds=3):
    return np.random.default_rng(seed).integers(0, 3, (seeds, 25, 2, 2)) + 3 * np.eye(2, dtype=int)


def put(home, system='net', corpus='a', setting='paper', seed=0, **over):
    "A toy record; returns its counts."
    c = counts(seed)
    rec = Record(
        f'shapes/{system}',
        corpus,
        setting,
        classes=['shift', 'inertia'],
        seeds=[0, 1, 2],
        confusions={'all': c, 'two': c[:, :20]},
    )
    for k, v in over.items():
        setattr(rec, k, v)
    save_record(rec, home)
    return c


def draw(home, **kw):
    return comparison(
        'shapes',
        'table6',
        home=home,
        recipe=kw.pop('recipe', recipe()),
        stale=kw.pop('stale', False),
        **kw,
    )


def test_cells_are_the_records_means_and_intervals(tmp_path):
    c = put(tmp_path)
    t = draw(tmp_path)
    ours = t.data[(t.data.system == 'net') & (t.data.setting == 'paper')].set_index('column')
    accuracy = np.mean([np.trace(x) / x.sum() for x in c.sum(1)])
    assert ours.loc['Accuracy', 'mean'] == pytest.approx(100 * accuracy, abs=1e-4)
    assert ours.loc['Accuracy', 'low'] < 100 * accuracy < ours.loc['Accuracy', 'high']
    two = c[:, :20].sum(1)
    f1 = np.mean([2 * x[0, 0] / (x[0].sum() + x[:, 0].sum()) for x in two])
    assert ours.loc['shift', 'mean'] == pytest.approx(100 * f1, abs=1e-4)
    line = t.frame[(t.frame.line == 'the network') & (t.frame.setting == 'paper')].iloc[0]
    assert (
        line.Accuracy
        == f'{100 * accuracy:.1f} [{ours.loc["Accuracy", "low"]:.1f}, {ours.loc["Accuracy", "high"]:.1f}]'
    )
    assert (line.seeds, line.basis) == ('3', 'own features')


def test_printed_lines_are_the_reference_files_text(tmp_path):
    ref, t = reference('shapes'), draw(tmp_path)
    own = t.data[t.data.kind == 'printed']
    for row in ('CMU-MOSEI', 'IEMOCAP 4-label'):
        for column in ('Accuracy', 'F1'):
            want = ref.query('artefact=="table6" and row==@row and column==@column').value.item()
            assert own[(own.row == row) & (own.column == column)].printed.item() == want
    assert not (own.row == 'ours alone').any()
    assert set(own[own.column == 'shift'].printed) == {''}, (
        'a column the paper does not have stays empty'
    )


def test_a_printed_dash_and_trailing_zeros_stay(tmp_path):
    spec = dict(
        columns=[dict(name='F1', metric='weighted_f1', printed='F1')],
        rows=[dict(row='TBJE'), dict(row='Graph-MFN')],
    )
    t = comparison(
        'shapes',
        'table2',
        home=tmp_path,
        recipe={'systems': SYSTEMS, 'artefacts': {'table2': spec}},
    )
    ref = reference('shapes').query('artefact=="table2" and column=="F1"').set_index('row').value
    assert t.frame.F1.tolist() == ['-', ref['Graph-MFN']] and ref['Graph-MFN'].endswith('0')
    assert f'| {ref["Graph-MFN"]} |'.replace(' ', '') in to_markdown(t).replace(' ', '')


def test_removed_record_turns_its_cells_into_not_run(tmp_path):
    for args in [
        ('net', 'a', 'paper'),
        ('net', 'a', 'tuned'),
        ('rule', 'a', 'fixed'),
        ('big', 'a', 'paper'),
        ('net', 'c', 'tuned'),
        ('rule', 'b', 'fixed'),
    ]:
        put(tmp_path, *args)
    whole = draw(tmp_path)
    assert (whole.state, whole.badge) == ('drawn', 'drawn') and 'not run' not in to_html(whole)
    record_path('shapes/net', 'a', 'tuned', tmp_path).unlink()
    t = draw(tmp_path)
    changed = whole.data.ne(t.data).any(axis=1)
    assert t.data[changed].setting.unique().tolist() == ['tuned'] and t.data[
        changed
    ].corpus.unique().tolist() == ['a']
    gone = t.data[changed]
    assert (
        len(gone) == 3
        and set(gone.state) == {'not run'}
        and set(gone['mean']) | set(gone.low) | set(gone.high) | set(gone.printed) == {''}
    )
    assert t.badge == 'partly: 1 of 6 lines not run' and t.command == 'erc run shapes --missing'
    for text in (to_html(t), to_markdown(t), to_latex(t)):
        assert 'not run' in text and 'erc run shapes' in text


def test_no_record_no_number_of_ours(tmp_path):
    t = draw(tmp_path)
    assert t.state == 'not run' and set(t.data[t.data.kind == 'not run'].state) == {'not run'}
    assert set(
        t.frame[t.frame.line != 'paper prints'][['Accuracy', 'F1', 'shift']].to_numpy().ravel()
    ) == {'not run'}


def test_stale_is_shown_with_its_reason(tmp_path):
    put(tmp_path)
    t = draw(tmp_path, stale=lambda r: 'settings changed: args' if r.setting == 'paper' else None)
    assert t.frame.line.tolist().count('the network (stale)') == 1
    assert t.notes[0] == 'Stale: the network, paper, a: settings changed: args.'
    assert 'settings changed: args' in to_html(t) and t.kinds[1] == 'stale'


def test_stale_defaults_to_the_experiments(tmp_path):
    put(tmp_path)
    t = draw(tmp_path, stale=None)  # no recipe knows shapes/net
    assert 'its system is in no recipe' in t.notes[0]


def test_needs_data(tmp_path):
    rows = [dict(row='CMU-MOSEI', needs='features of MOSEI', get='erc data get mosei_features')]
    t = draw(tmp_path, recipe=recipe(rows=rows))
    assert (t.state, t.frame.line[1], t.frame.F1[1]) == (
        'needs data',
        'needs features of MOSEI',
        'needs data',
    )
    assert t.command == 'erc data get mosei_features' and t.command in to_html(t)
    s = status_of('shapes', 'table6', 'table', {'rows': rows}, tmp_path)
    assert (s['state'], s['command'], s['wanted'], s['beyond']) == (
        'needs data',
        'erc data get mosei_features',
        0,
        [],
    )
    s = status_of(
        'shapes',
        'table6',
        'table',
        {'rows': rows + [dict(row='AVEC', needs='AVEC, given out on request')]},
        tmp_path,
    )
    assert s['command'] == 'erc data get mosei_features' and s['beyond'] == [
        'AVEC, given out on request'
    ]
    put(tmp_path)
    both = draw(
        tmp_path,
        recipe=recipe(rows=rows + [dict(row='IEMOCAP 4-label', corpus='a', systems=['net/paper'])]),
    )
    assert both.state == 'partly' and (both.badge, both.command) == (
        'partly: 1 of 2 lines without data',
        'erc data get mosei_features',
    )
    more = draw(
        tmp_path,
        recipe=recipe(
            rows=rows
            + [dict(row='IEMOCAP 4-label', corpus='a', systems=['net/paper', 'big/paper'])]
        ),
    )
    assert more.badge == 'partly: 1 of 3 lines not run, 1 of 3 lines without data'
    assert more.command == 'erc data get mosei_features; erc run shapes --missing', (
        'each is filled in its own way'
    )


@pytest.mark.parametrize(
    'kinds,state',
    [
        (['printed', 'ours'], 'drawn'),
        (['printed'], 'not run'),
        (['ours', 'not run'], 'partly'),
        (['stale', 'stale'], 'drawn'),
        (['printed', 'not run'], 'not run'),
        (['needs data', 'not run'], 'not run'),
        (['needs data'], 'needs data'),
        (['needs data', 'ours'], 'partly'),
    ],
)
def test_state(kinds, state):
    assert state_of(kinds) == state


def test_demo_has_one_corpus_and_says_so(tmp_path):
    put(tmp_path, corpus='demo')
    put(tmp_path, 'rule', 'demo', 'fixed', 1)
    t = draw(tmp_path, profile='demo', stale=lambda r: 1 / 0)
    assert t.data[t.data.kind != 'printed'].corpus.unique().tolist() == ['demo'] and t.basis == [
        'demo'
    ]
    assert t.frame.line.tolist() == ['paper prints'] * 2 + [
        'the network',
        'the network',
        'a rule',
    ], 'big takes no part in a demonstration; a system appears once a setting'
    assert (
        'demo corpus' in t.caption
        and t.command == 'erc reproduce --profile demo'
        and t.badge == 'partly: 1 of 3 lines not run'
    )


def test_slice_or_class_the_record_lacks(tmp_path):
    put(tmp_path, confusions={'all': counts()})
    t = draw(tmp_path)
    assert (
        t.data[
            (t.data.setting == 'paper') & (t.data.column == 'shift') & (t.data.system == 'net')
        ].state.item()
        == 'not counted'
    )
    rec = Record('x/y', 'a', 'paper', classes=['p', 'q'], confusions={'all': counts()})
    assert cell(rec, {'metric': 'class_f1:happy'}) == {'state': 'not counted'}
    empty = Record(
        'x/y', 'a', 'paper', classes=['p', 'q'], confusions={'all': np.zeros((2, 3, 2, 2), int)}
    )
    assert shown(cell(empty, {'metric': 'accuracy'})) == 'not counted'


def test_baselines_have_no_seeds_to_count(tmp_path):
    put(tmp_path, 'rule', 'a', 'fixed')
    t = draw(tmp_path)
    assert t.frame[t.frame.line == 'a rule'].seeds.tolist()[0] == '-'


@pytest.mark.parametrize(
    'over,words',
    [
        (dict(rows=[dict(row='CMU-MOSE', corpus='a', systems=[])]), "did you mean 'CMU-MOSEI'"),
        (dict(columns=[dict(name='F', metric='accuracy', printed='F2')]), 'Known: Accuracy, F1'),
        (dict(rows=[dict(row='CMU-MOSEI', corpus='a', systems=['net'])]), "write 'system/setting'"),
        (
            dict(rows=[dict(row='CMU-MOSEI', corpus='a', systems=['nett/paper'])]),
            "did you mean 'net'",
        ),
        (dict(columns=[dict(name='F1', metric='f1', printed='F1')]), 'unknown metric'),
    ],
)
def test_wrong_recipes_are_named(tmp_path, over, words):
    put(tmp_path)
    with pytest.raises(ValueError, match=words):
        draw(tmp_path, recipe=recipe(**over))


def test_unknown_paper_and_artefact(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'shapes'"):
        reference('shapess')
    with pytest.raises(ValueError, match="did you mean 'table6'"):
        comparison('shapes', 'tabel6', home=tmp_path, recipe=recipe())
    with pytest.raises(ValueError, match='Known'):
        printed(reference('shapes'), 'table99', 'a', 'b')
    with pytest.raises(ValueError, match='say which dataset'):
        printed(reference('shapes'), 'appendixb', 'text', 'input dim')
    assert printed(reference('shapes'), 'appendixb', 'text', 'input dim', 'IEMOCAP').isdigit()


def test_files(tmp_path):
    put(tmp_path)
    t = draw(tmp_path)
    stem = t.save(tmp_path / 'x')
    assert sorted(p.name for p in stem.parent.iterdir()) == [
        f'shapes_table6.{s}' for s in ('csv', 'html', 'json', 'md', 'tex')
    ]
    back = pd.read_csv(f'{stem}.csv')
    assert back['mean'].notna().sum() == 3 and back[back['mean'].notna()].seeds.eq(3).all()
    said = json.loads(open(f'{stem}.json').read())
    assert (said['state'], said['kind'], said['command'], said['basis']) == (
        'partly',
        'table',
        'erc run shapes --missing',
        ['own features', 'stand-in'],
    )
    page = open(f'{stem}.html').read()
    assert page.startswith('<!doctype html>') and 'http' not in page and '<script' not in page
    first = {p.name: p.read_bytes() for p in stem.parent.iterdir()}
    draw(tmp_path).save(tmp_path / 'x')
    assert first == {p.name: p.read_bytes() for p in stem.parent.iterdir()}, (
        'drawn twice, the same bytes'
    )


def test_two_tables_on_one_page_do_not_share_styles(tmp_path):
    a = draw(tmp_path)
    put(tmp_path)
    b = draw(tmp_path)
    ids = [set(x.split('"')[1] for x in to_html(t).split('<table')[1:]) for t in (a, b)]
    assert not ids[0] & ids[1]
    assert to_html(a) == to_html(a)


def test_text_is_escaped():
    t = Table(
        pd.DataFrame({'a_b': ['<script>x</script>', '50 % & more | _x_']}),
        'shapes',
        'table6',
        'a < b & c_d',
    )
    assert (
        '<script>' not in to_html(t)
        and '&lt;script&gt;' in to_html(t)
        and 'a &lt; b &amp; c_d' in to_html(t)
    )
    assert (
        r'50 \% \& more | \_x\_' in to_latex(t)
        and r'c\_d' in to_latex(t)
        and r'a\_b' in to_latex(t)
    )
    assert '50 % & more \\| _x_' in to_markdown(t)
    assert tex('~^') == r'\textasciitilde{}\textasciicircum{}'


def test_latex_has_the_rules_of_booktabs(tmp_path):
    s = to_latex(draw(tmp_path))
    assert all(
        x in s for x in (r'\toprule', r'\bottomrule', r'\caption{', r'\label{tab:shapes-table6}')
    )
    assert s.count(r'\midrule') == 3, 'below the head and before the second and the third group'


def test_facts_table(tmp_path):
    f = pd.DataFrame(
        {
            'corpus': ['a', 'b', 'paper prints'],
            'n': pd.array([12345, None, 1], dtype='Int64'),
            'share': [0.5, np.nan, 2],
            'flag': [True, False, None],
        }
    )
    t = facts_table(f, 'shapes', 'table1', printed=[2])
    assert t.frame.iloc[0].tolist() == ['a', '12345', '0.50', 'yes'] and t.frame.iloc[
        1
    ].tolist() == ['b', 'not run', 'not run', 'no']
    assert t.kinds == ['ours', 'not run', 'printed'] and t.state == 'partly'
    assert (
        facts_table(f.iloc[:1], 'shapes', 'table1').state == 'drawn'
        and facts_table(f.iloc[1:2], 'shapes', 'table1').state == 'not run'
    )
    assert facts_table(f, 'shapes', 'table1', missing='').state == 'drawn'
    assert facts_table(
        f.iloc[:0], 'shapes', 'table1'
    ).state == 'not run' and 'erc run shapes' in to_html(
        facts_table(f.iloc[:0], 'shapes', 'table1')
    )
    assert 'generated demo corpus' in facts_table(f, 'shapes', 'table1', profile='demo').caption
    with pytest.raises(ValueError, match='Known: drawn'):
        facts_table(f, 'shapes', 'table1', state='fine')


def test_records_of_and_status(tmp_path):
    spec = recipe()['artefacts']['table6']
    assert len(records_of(spec, 'shapes')) == 6 and ('shapes/net', 'c', 'tuned') in records_of(
        spec, 'shapes'
    )
    assert records_of({'records': ['net/tuned@iemocap6@polarity_paper']}, 'shapes') == [
        ('shapes/net', 'iemocap6@polarity_paper', 'tuned')
    ]
    with pytest.raises(ValueError, match="write 'system/setting@corpus'"):
        records_of({'records': ['net@a']}, 'shapes')
    put(tmp_path)
    x = status_of('shapes', 'table6', 'table', spec, tmp_path, stale=lambda r: 'old')
    assert (x['state'], x['present'], x['wanted'], x['stale'], x['command']) == (
        'partly',
        1,
        6,
        ['shapes/net--a--paper: old'],
        'erc run shapes --missing',
    )
    assert [r.name for r in x['records']] == ['shapes/net--a--paper']
    draw(tmp_path).save(tmp_path)
    assert status_of('shapes', 'table6', 'table', {}, tmp_path)['state'] == 'partly', (
        'in no recipe, as it was last drawn'
    )


def test_wired_rows_open_with_their_first_record(tmp_path):
    rows = [
        dict(
            row='CMU-MOSEI',
            needs='its features',
            get='erc data get it',
            wired=[
                dict(system='net/paper', corpus='it', basis='fetched'),
                dict(system='big/paper', corpus='it', basis='fetched'),
            ],
        )
    ]
    of = lambda: (
        draw(tmp_path, recipe=recipe(rows=rows)),
        status_of('shapes', 'table6', 'table', {'rows': rows}, tmp_path, stale=False),
    )
    t, s = of()
    assert (
        t.state == s['state'] == 'needs data'
        and t.command == s['command'] == 'erc data get it; erc run shapes --missing'
        and not s['basis']
    )
    put(tmp_path, corpus='it')
    t, s = of()
    assert (
        t.kinds == ['printed', 'ours', 'not run']
        and t.state == s['state'] == 'partly'
        and (s['present'], s['wanted'], s['basis']) == (1, 2, ['fetched'])
    )
    assert t.command == s['command'] == 'erc run shapes --missing'


def test_lines_follow_the_recipe():
    kinds = [(x['row'], x['kind']) for x in lines_of({'rows': ROWS})]
    assert (
        kinds[0] == ('CMU-MOSEI', 'printed')
        and kinds[1:5] == [('CMU-MOSEI', 'ours')] * 4
        and kinds[-1] == ('ours alone', 'ours')
    )
    assert (
        lines_of({'rows': ROWS})[6]['label'] == 'renamed'
        and lines_of({'rows': ROWS})[6]['corpus'] == 'c'
    )


def test_every_recipe_can_be_drawn_without_records(tmp_path):
    "Rows, columns and systems that recipes name exist."
    from erc.runs.recipes import load_recipe, papers

    drawn = [
        comparison(p, k, home=tmp_path, profile=profile)
        for p in papers()
        for k, v in load_recipe(p).get('artefacts', {}).items()
        if 'rows' in v
        for profile in ('recorded', 'demo')
    ]
    assert drawn and all(t.state in ('not run', 'needs data', 'partly') for t in drawn)


def test_floors_of_another_recipe_stand_in_a_table():
    "Majority and TF-IDF come from the baselines' recipe, and from its records."
    from erc.runs.recipes import load_recipe

    t = comparison('shapes', 'table10', stale=False)
    lines = t.data[t.data.system == 'majority']
    assert len(lines) and (lines.state == 'drawn').all(), 'the records of the floors are committed'
    wanted = load_recipe('shapes')['artefacts']['table10']
    assert {
        ('baselines/majority', 'iemocap6', 'fixed'),
        ('shapes/gruarc', 'iemocap6', 'tuned'),
    } <= set(records_of(wanted, 'shapes'))
    with pytest.raises(ValueError, match='names no setting'):
        records_of({'rows': [{'row': 'a', 'corpus': 'b', 'systems': ['majority']}]}, 'shapes')


def test_what_would_fetch_a_row_can_be_fetched():
    from erc.runs.recipes import load_recipe, papers
    from erc.data.sources import pins

    rows = [
        r
        for p in papers()
        for a in load_recipe(p).get('artefacts', {}).values()
        for r in a.get('rows', [])
        if r.get('needs')
    ]
    get = {r['get'] for r in rows if 'get' in r}
    assert len(rows) > 30 and all(pins(g.removeprefix('erc data get ')) for g in get)
    assert all(
        'on request' in r['needs'] or 'to be extracted' in r['needs']
        for r in rows
        if 'get' not in r
    ), 'a row that no command fetches says why'


@pytest.mark.parametrize(
    'dev,rose',
    [([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 20), ([0.5] * 8, 0), ([0.5] * 6 + [0.4] * 2, -10)],
)
def test_how_a_training_ended(dev, rose):
    stops = [0.9] * 5 + [np.nan] * 3  # says nothing about the end
    record = SimpleNamespace(
        curves={'dev': [dev, stops], 'loss': [[8.0, 7, 6, 5, 4, 3, 2, 1], [9.0] * 8]},
        selected=[2, 7],
    )
    e = ending(record)
    assert (e['epochs'], e['first'], e['last'], e['stopped'], e['loss']) == (
        8,
        3,
        8,
        1,
        (3.5, 1.5),
    ) and e['rose'] == pytest.approx(rose)
    assert ending(
        SimpleNamespace(curves={'dev': [stops] * 2, 'loss': [stops] * 2}, selected=[0, 1])
    )['rose'] == pytest.approx(0)
    assert ending(SimpleNamespace(curves={'dev': [dev], 'loss': [[1.0] * 8]}, selected=[0]))[
        'rose'
    ] == pytest.approx(rose)


@pytest.mark.parametrize(
    'hits,floor,side',
    [(3, 9, 'below the floor'), (9, 3, 'above the floor'), (6, 6, 'not told apart from the floor')],
)
def test_which_side_of_the_floor(hits, floor, side):
    counts = lambda n, S: np.tile(np.array([[n, 10 - n], [10 - n, n]]), (S, 9, 1, 1))
    climbing = {'dev': [[0.1, 0.2, 0.3, 0.4]] * 2, 'loss': [[4.0, 3, 2, 1]] * 2}
    net = lambda curves: SimpleNamespace(
        confusions={'all': counts(hits, 2)},
        test=[hits / 10] * 2,
        dev=[0.5, 0.4],
        selected=[1, 3],
        curves=curves,
    )
    base = SimpleNamespace(confusions={'all': counts(floor, 1)}, test=[floor / 10], dev=[0.6])
    said = standing('a net', net(climbing), base)
    assert (
        said.startswith(f'- a net: {10 * hits}.0 on test, the floor {10 * floor}.0')
        and f'*{side}*' in said
        and 'dev still rises' in said
        and 'stopped' not in said
    )
    flat = standing(
        'a net', net({**climbing, 'dev': [[0.4, 0.3, 0.2, 0.2], [0.4, 0.3, np.nan, np.nan]]}), base
    )
    assert 'more epochs would not lift it' in flat and '1 of 2 stopped early' in flat
    assert (
        standing('a net', None, base)
        == standing('a net', net(climbing), None)
        == '- a net: not run.'
    )
