"The ledger: its claims are sound, its page follows the records, and it covers what the papers owe, both ways."

import json
import re
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from erc import ledger as L
from erc.core import results_home, root
from erc.evidence.verdicts import CALLS
from erc.runs.recipes import papers, system, wanted
from erc.evidence.shifts import SLICES
from erc.runs.records import VALUE_METRICS, load_record, record_path, score_of
from erc.report.artefacts import artefacts, reference
from erc.report.tables import STATES, recipe_of, records_of

CLAIMS = [*L.claims().itertuples()]
PAPERS = [*artefacts().paper.unique()]
HOME = results_home()


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A copy of the records, and of what was drawn from them: nobody changes it while the tests run."
    out = tmp_path_factory.mktemp('results')
    for part in ('records', 'tables', 'figures'):
        shutil.copytree(HOME / part, out / part)
    return out


@pytest.fixture(scope='module')
def found(home):
    records, broken = L.sound_records(home)
    assert records and not broken
    return records


# ---- the claims


def test_claims_have_names_of_their_own():
    ids = [c.id for c in CLAIMS]
    assert len(ids) == len(set(ids)) >= 60 and all(
        c.id.startswith(f'{c.paper}/{c.artefact}/') for c in CLAIMS
    )
    assert len({(c.paper, c.claim, c.metric) for c in CLAIMS}) == len(CLAIMS), (
        'a claim stands twice'
    )
    known = {(a.paper, a.id) for a in artefacts().itertuples()}
    assert all((c.paper, c.artefact) in known or c.artefact == 'text' for c in CLAIMS) and {
        c.paper for c in CLAIMS
    } == set(PAPERS)


@pytest.mark.parametrize('paper', PAPERS)
def test_claims_say_what_the_paper_prints(paper):
    "Both printed numbers are found, and the one of the better side is the larger one: a claim that the paper's own numbers deny would be ours."
    ref, seen = reference(paper), 0
    for c in CLAIMS:
        if c.paper != paper:
            continue
        assert bool(c.printed_better) == bool(c.printed_worse), c.id
        effect = L.printed_effect(c, ref)
        seen += effect is not None
        assert effect is None or effect > 0, f'{c.id}: {effect}'
        place = re.fullmatch(r'table(\d+)', c.artefact)
        assert not place or c.place in (f'Table {place[1]}', 'section 6.4'), c.id
    assert seen >= 4


@pytest.mark.parametrize('paper', PAPERS)
def test_claims_name_systems_that_recipes_have(paper):
    asked = {(s.id, corpus, setting) for p in papers() for s, corpus, setting in wanted(p)}
    for c in CLAIMS:
        if c.paper != paper:
            continue
        assert bool(c.better) != bool(c.why), (
            f'{c.id}: either systems or a reason why there are none'
        )
        if c.why:
            assert not c.worse and len(c.why) > 10, c.id
            continue
        better, worse, bases = (x.split(';') for x in (c.better, c.worse, c.basis))
        assert (
            len(better) == len(worse)
            and len(bases) in (1, len(better))
            and all(b == b.strip() and b for b in bases)
        ), c.id
        for pair in zip(better, worse):
            names = [re.fullmatch(r'(.+)/([^/@]+)@(.+)', x).groups() for x in pair]
            for s, setting, corpus in names:
                assert (s, corpus, setting) in asked, f'{c.id}: {s} ({setting}) on {corpus}'
            assert names[0][2] == names[1][2], f'{c.id}: two corpora'
            assert pair[0] != pair[1] or c.against, f'{c.id}: a system against itself'
        assert all(b.split(',')[0] in ('same', 'own features', 'stand-in') for b in bases), c.id


def test_both_sides_of_a_claim_read_the_same():
    "Whatever text both read is encoded alike, unless the claim is about that, or its basis says that an encoder was trained on one side."
    for c in CLAIMS:
        for a, b in zip(c.better.split(';'), c.worse.split(';')):
            if not a:
                continue
            x, y = (system(e.rsplit('/', 1)[0]).encode for e in (a, b))
            if any(x[k] != y[k] for k in x.keys() & y.keys()):
                assert c.paper == 'dialoguetrm' and (
                    c.artefact in ('table3', 'table4') or 'fine-tuned' in c.basis
                ), c.id


def test_claims_ask_for_scores_that_exist(found):
    for c in CLAIMS:
        for x in filter(None, f'{c.better};{c.worse}'.split(';')):
            r = L.record_of(found, x)
            if not r:
                continue
            assert score_of(c.metric, r.classes) and (c.metric in VALUE_METRICS) == (
                r.task == 'regression'
            ), c.id
            for slice in filter(None, (c.slice, c.against)):
                assert slice.removeprefix('-') in r.confusions, (
                    f'{c.id}: {r.name} counts no {slice}'
                )
        assert float(c.scale) == (1 if c.metric in VALUE_METRICS else 100), c.id
        for slice in filter(None, (c.slice, c.against)):
            assert slice.removeprefix('-') in {'all', 'shift_network', *SLICES}, c.id


def test_every_slice_of_a_claim_adds_up(found):
    "A slice and what it leaves are all utterances, and scoring the slices side by side is scoring each alone."
    c = next(c for c in CLAIMS if c.against)
    pairs = L.pairs_of(c, found)
    if not pairs:
        pytest.skip('its records are not there')
    pair = pairs[0]
    x, y = L.counts_of(pair['better'], c.slice), L.counts_of(pair['worse'], c.against)
    assert (x + y == pair['better'].confusions['all']).all()
    a, b, f = L.both_sides(c, pair)
    alone = score_of(c.metric, pair['better'].classes)
    assert np.allclose(f(a.sum(1)), alone(x.sum(1))) and np.allclose(f(b.sum(1)), alone(y.sum(1)))


def test_pairs_come_in_their_order_of_preference():
    Fake = lambda name: SimpleNamespace(name=name)
    records = {n: Fake(n) for n in ('p/a--c--paper', 'p/b--c--paper', 'p/a--c--tuned')}
    c = SimpleNamespace(
        better='p/a/tuned@c;p/a/paper@c', worse='p/b/tuned@c;p/b/paper@c', basis='one;two'
    )
    (pair,) = L.pairs_of(c, records)
    assert (pair['better'].name, pair['worse'].name, pair['basis']) == (
        'p/a--c--paper',
        'p/b--c--paper',
        'two, settings as printed',
    ), 'both sides under one setting'
    assert L.pairs_of(c, {}) == [] and [
        p['basis'] for p in L.pairs_of(c, {'p/b--c--tuned': Fake('x'), **records})
    ] == ['one', 'two, settings as printed']


def right(*of, n=20):
    "A record of five seeds that has so many of n turns right in each of 30 dialogues."
    return SimpleNamespace(
        confusions={'all': np.tile([[[k, n - k], [0, 0]] for k in of], (5, 30 // len(of), 1, 1))},
        classes=['a', 'b'],
        task='emotion',
    )


def test_the_other_pairs_of_a_claim_stand_beside_the_first():
    c = SimpleNamespace(slice='all', against='', metric='accuracy', scale='100')
    pair = lambda a, b, setting: {
        'better': a,
        'worse': b,
        'names': (f'p/new/{setting}@c', f'p/old/{setting}@c'),
    }
    more, same, less = (
        pair(right(16, 18), right(8, 10), 'tuned'),
        pair(right(9, 11), right(9, 11), 'paper'),
        pair(right(8, 10), right(16, 18), 'paper'),
    )
    assert L.beside(c, []) == {'others': '', 'above': True, 'below': True}, (
        'nothing else there: nothing that could disagree'
    )
    got = L.beside(c, [more, same], resamples=200)
    assert (
        got['others'].startswith('new over old, tuned on c: +40.0 [')
        and '; new over old, paper on c: +0.0 [' in got['others']
        and not got['above']
        and not got['below']
    )
    assert (
        L.beside(c, [more], resamples=200)['above'] and L.beside(c, [less], resamples=200)['below']
    )


# ---- verdicts


def line(**over):
    return SimpleNamespace(
        **{
            'why': '',
            'pair': 'a against b',
            'mean': 0.02,
            'low': 0.01,
            'high': 0.03,
            'seeds': 5,
            'dialogues': 31,
            'holm': 0.01,
            'printed': 2.0,
            'scale': '100',
            'used': 'same',
            'lacks': 'p/b/tuned@c',
            'flat': False,
            'above': True,
            'below': True,
            **over,
        }
    )


@pytest.mark.parametrize(
    'over,call,size',
    [
        ({}, 'confirmed', 'as printed'),
        (dict(holm=0.06), 'not confirmed', 'as printed'),  # the interval alone does not do
        (dict(holm=np.nan), 'confirmed', 'as printed'),  # nothing to exchange: the interval decides
        (dict(low=-0.01), 'not confirmed', 'as printed'),
        (dict(mean=-0.02, low=-0.03, high=-0.01), 'contradicted', 'smaller than printed'),
        (
            dict(mean=-0.02, low=-0.03, high=-0.01, holm=0.5),
            'not confirmed',
            'smaller than printed',
        ),
        (dict(printed=9.0), 'confirmed', 'smaller than printed'),
        (dict(printed=0.5), 'confirmed', 'larger than printed'),
        (dict(printed=None), 'confirmed', ''),
        (dict(pair=''), 'not run', ''),
        (dict(mean=np.nan), 'not run', ''),
        (dict(why='no run of it here'), 'not testable here', ''),
        (
            dict(scale='1', mean=0.2, low=0.1, high=0.3, printed=0.25),
            'confirmed',
            'as printed',
        ),  # correlations are not in percent
    ],
)
def test_verdicts_of_the_ledger(over, call, size):
    got = L._call(line(**over))
    assert (got['call'], got['size']) == (call, size) and (bool(got['ours']) == (call in CALLS[:3]))
    assert got['reason'] if call in CALLS[3:] else not got['reason']


def test_two_systems_that_decide_nothing_are_named():
    one, two = np.zeros((5, 3, 2, 2), int), np.ones((5, 3, 2, 2), int)
    one[..., 1] = 4  # every turn is taken for the second class
    assert L.one_class(one) and not L.one_class(two)
    assert (
        L._call(line(flat=True, mean=0.0, low=0.0, high=0.0))['note']
        == 'both sides always decide for one class'
    )
    assert 'no record of p/b/tuned@c' in L._call(line(pair=''))['reason']


def test_a_verdict_that_hangs_on_the_choice_of_pair_says_so():
    assert not L._call(line())['mixed']
    got = L._call(line(above=False))
    assert (got['call'], got['mixed'], got['note']) == (
        'confirmed',
        True,
        'as printed; other records do not agree',
    ), 'the first pair still decides'
    assert L._call(line(printed=None, above=False))['note'] == 'other records do not agree'
    against = dict(mean=-0.02, low=-0.03, high=-0.01)
    assert (
        L._call(line(**against, below=False))['mixed']
        and not L._call(line(**against, above=False))['mixed']
    )
    assert not L._call(line(low=-0.01, above=False))['mixed'], (
        'nothing was said that others could deny'
    )


def test_claims_are_judged(found):
    t = L.judged(records=found)
    assert len(t) == len(CLAIMS) and set(t.call) <= set(CALLS)
    assert ((t.call == 'not testable here') == (t.why != '')).all()
    for r in t.itertuples():
        have = any(
            L.record_of(found, a) and L.record_of(found, b)
            for a, b in zip(r.better.split(';'), r.worse.split(';'))
            if a
        )
        assert (r.call in CALLS[:3]) == (not r.why and have), f'{r.id}: {r.call}'
        if r.call == 'confirmed':
            assert r.low > 0 and not r.holm >= 0.05, r.id
        if r.call == 'contradicted':
            assert r.high < 0 and not r.holm >= 0.05, r.id
    assert (t.holm.dropna() >= t.p[t.holm.notna()] - 1e-12).all(), (
        'a correction makes nothing smaller'
    )
    assert t.equals(L.judged(records=found)), 'the same records give the same page'


# ---- records that go, records that were edited


def without(home, tmp_path, name):
    "A copy of a folder of results without one record."
    out = tmp_path / 'without'
    shutil.copytree(home, out)
    (out / 'records' / f'{name}.json').unlink()
    return out


def test_a_deleted_record_turns_into_not_run_and_nothing_else_changes(home, tmp_path):
    before, _ = L.sound_records(home)
    name = next(n for n in before if n.startswith('sagru/S3--') and n.endswith('tuned'))
    other = without(home, tmp_path, name)
    after, broken = L.sound_records(other)
    assert not broken and set(before) - set(after) == {name}
    a, b = (
        {(e['paper'], e['artefact']): e for e in L.entries(h, r, stale={})}
        for h, r in ((home, before), (other, after))
    )
    reads = {k for k, e in a.items() if any(p.endswith(f'{name}.json') for p in e['from'])}
    assert reads and all(
        a[k]['present'] == b[k]['present'] + 1 and b[k]['state'] == 'partly' for k in reads
    )
    same = lambda e: {
        k: v for k, v in e.items() if k not in ('oldest', 'newest')
    }  # a copy has no commits, so days are those of copying
    assert all(same(a[k]) == same(b[k]) for k in a.keys() - reads)
    x, y = L.judged(home, before).set_index('id'), L.judged(other, after).set_index('id')
    hit = {
        c.id
        for c in CLAIMS
        if any(L._name(e) == name for e in filter(None, f'{c.better};{c.worse}'.split(';')))
    }
    assert hit and not (set(y.loc[list(hit)].pair) & set(x.loc[list(hit)].pair))
    cols = ['pair', 'mean', 'low', 'high', 'p', 'ours']
    assert x.drop(index=hit)[cols].equals(y.drop(index=hit)[cols])
    key = next(k for k in reads if a[k]['files'].startswith('tables'))
    drawn = L.table_html(b[key], after, other)
    assert drawn.count('not run') > L.table_html(a[key], before, home).count('not run')


def test_an_edited_record_is_named(home, tmp_path):
    other = tmp_path / 'edited'
    shutil.copytree(home / 'records', other / 'records')
    path = next((other / 'records' / 'sagru').glob('S5--*--tuned.json'))
    d = json.loads(path.read_text())
    d['test'][0] += 0.1
    path.write_text(json.dumps(d))
    (other / 'records' / 'sagru' / 'S4--iemocap4--tuned.json').write_text('{"cut')
    good, broken = L.sound_records(other)
    assert len(broken) == 2 and all(
        f'sagru/{n}' in ' '.join(broken) for n in (path.name, 'S4--iemocap4--tuned.json')
    )
    assert 'does not match its checksum' in ' '.join(broken) and str(tmp_path) not in ' '.join(
        broken
    )
    assert f'sagru/{path.stem}' not in good
    t = L.judged(other, good).set_index('id')
    assert t.loc['sagru/table1/1'].pair != 'sagru/S5/tuned@iemocap4 against sagru/S1/tuned@iemocap4'
    page = L.write_report(other)
    assert (
        'Not a sound record' in page.read_text()
        and path.name in page.read_text()
        and path.name in (other / 'REPORT.md').read_text()
    )


# ---- the page


@pytest.fixture(scope='module')
def page(home):
    "The report, written while nothing can be reached."

    def refuse(*_, **__):
        raise OSError('no network in this test')

    with pytest.MonkeyPatch.context() as m:
        m.setattr(socket.socket, 'connect', refuse)
        readme = (root() / 'README.md').read_text()
        out = L.write_report(home)
        assert (root() / 'README.md').read_text() == readme, (
            "a report of another folder is not the project's summary"
        )
    return out.read_text()


def test_the_page_stands_alone(page):
    assert (
        not re.search(r'(?:src|href)="(?:https?:)?//', page)
        and '<script' not in page
        and '<link' not in page
    )
    pictures = re.findall(r'<img[^>]*src="([^"]*)"', page)
    assert len(pictures) > 15 and all(
        p.startswith('data:image/') and len(p) > 500 for p in pictures
    )
    assert all(re.search(r'alt="[^"]{5,}"', i) for i in re.findall(r'<img[^>]*>', page))


def test_the_page_has_all_of_it(page, home):
    for a in artefacts().itertuples():
        assert f'id="{a.paper}-{a.id}"' in page and f'href="#{a.paper}-{a.id}"' in page
    import html

    text = html.unescape(page)
    for c in CLAIMS:
        assert c.claim in text, c.id
    first = text[: text.index('What stands')]
    counts = L.judged(home).call.value_counts()
    assert all(f'<b>{n}</b>{k}' in first for k, n in counts.items()), (
        'the first screen counts the verdicts'
    )
    for title in L.AUDITS.values():
        assert title in text
    assert (
        'erc reproduce --profile recorded --only 700_sagru' in text
        and 'Not run: `erc run ledger' not in text
    )


def test_diagrams_are_in_the_page(page):
    for a in artefacts().query("kind=='diagram'").itertuples():
        part = page[page.index(f'<div id="{a.paper}-{a.id}"') :]
        assert 'src="data:image/' in part[: part.index('</div>')], f'{a.paper} {a.id} is not drawn'


def test_summary_of_the_readme_is_that_of_the_report():
    "Both are written by `erc report`, so one of them cannot be left behind."
    readme, report = ((root() / n).read_text() for n in ('README.md', 'results/REPORT.md'))
    block = readme[
        readme.index(L.MARKS_OF[0]) + len(L.MARKS_OF[0]) : readme.index(L.MARKS_OF[1])
    ].strip()
    assert block and block.replace('(results/', '(') in report, (
        'run `erc report` and commit README.md with results/REPORT.md'
    )
    assert all(
        (root() / p).exists()
        for p in re.findall(r'\]\((results/[^)]*)\)', readme)
        if not p.endswith('report.html')
    )


def test_fill_keeps_the_rest(tmp_path):
    p = tmp_path / 'a.md'
    p.write_text(f'above\n{L.MARKS_OF[0]}\nold\n{L.MARKS_OF[1]}\nbelow\n')
    assert L.fill(p, 'new') and L.fill(p, 'newer')
    assert p.read_text() == f'above\n{L.MARKS_OF[0]}\n\nnewer\n\n{L.MARKS_OF[1]}\nbelow\n'
    p.write_text('no marks\n')
    assert (
        not L.fill(p, 'new')
        and p.read_text() == 'no marks\n'
        and not L.fill(tmp_path / 'absent.md', 'x')
    )


# ---- ledger, notebooks and artefacts.csv cover each other


def code(notebook):
    return '\n'.join(
        ''.join(c['source'])
        for c in json.loads((root() / 'nbs' / f'{notebook}.ipynb').read_text())['cells']
        if c['cell_type'] == 'code'
    )


def drawn_in(notebook) -> set:
    "What a notebook draws, by the calls that draw it: ('sagru', 'table1')."
    text = code(notebook)
    out = set(
        re.findall(
            r"(?:save_figure|comparison|facts_table)\([^\n]*?'([a-z]+)','((?:table|fig|case_)\w+)'",
            text,
        )
    )
    named = {
        m[1]: {*re.findall(r"'(\w+)',artefact", m[2])}
        for m in re.finditer(r'^def (\w+)\((?:[^)]*)\).*\n((?: .*\n|\n)+)', text, re.M)
    }  # its own helpers, and the papers they draw for
    only = {*re.findall(r"Section\('(\w+)'", text)}
    for f, a in re.findall(r"\b(\w+)\('((?:table|fig|case_)\w+)'", text):
        if f in named:
            out |= {(p, a) for p in named[f] or only}
    return {(p, a) for p, a in out if p in PAPERS}


def test_ledger_lists_the_artefacts_and_nothing_else(found, home):
    lines = L.entries(home, found, stale={})
    assert [(e['paper'], e['artefact']) for e in lines] == [
        (a.paper, a.id) for a in artefacts().itertuples()
    ] and len(lines) == 52
    assert {e['state'] for e in lines} <= set(STATES)
    for e in lines:
        assert e['state'] == 'drawn' or e['command'] or e['beyond'], (
            f'{e["paper"]} {e["artefact"]} does not say what would fill it'
        )
        assert not e['files'] or (home / f'{e["files"]}.json').exists()
        assert all((home / f).exists() for f in e['from'])


def test_notebooks_draw_what_artefacts_name_and_the_other_way_round():
    owed = {(a.paper, a.id): a.notebook for a in artefacts().itertuples()}
    drawn = {}
    for p in sorted((root() / 'nbs').glob('[0-9]*.ipynb')):
        for x in drawn_in(p.stem):
            drawn.setdefault(x, set()).add(p.stem)
    assert not drawn.keys() - owed.keys(), (
        f'drawn, but in no list: {sorted(drawn.keys() - owed.keys())}'
    )
    assert all(owed[x] in drawn.get(x, ()) for x in owed), (
        f'owed, but not drawn there: {sorted(x for x in owed if owed[x] not in drawn.get(x, ()))}'
    )


def test_recipes_feed_artefacts_that_exist():
    known = {(a.paper, a.id) for a in artefacts().itertuples()}
    for p in PAPERS:
        for a, spec in recipe_of(p).get('artefacts', {}).items():
            assert (p, a) in known, f'{p}.toml feeds {a}, which no paper has'
            for s, corpus, setting in records_of(spec, p):
                assert setting in system(s).settings, f'{p} {a}: {s}/{setting}'


def test_every_table_has_its_section():
    for a in artefacts().itertuples():
        if a.kind == 'table':
            assert L.section_of(a), f'{a.notebook} has no heading for {a.paper} {a.id}'


# ---- selection and settings


def test_inflation_of_known_curves():
    r = SimpleNamespace(
        system='p/a',
        corpus='c',
        setting='paper',
        metric='accuracy',
        seeds=[0, 1],
        test=[0.5, 0.6],
        curves={'test': np.array([[0.4, 0.5, 0.7], [0.6, 0.8, np.nan]])},
    )
    row = L.inflation({'x': r}).iloc[0]
    assert np.allclose([row[p] for p in L.PROTOCOLS], [55, 75, 75, 60, 80])
    demo = SimpleNamespace(**{**vars(r), 'corpus': 'demo'})
    assert not len(L.inflation({'x': demo})) and 'No record' in L.selection_sentence(
        L.inflation({})
    )


def test_choosing_on_test_never_loses(found):
    x = L.inflation(found)
    assert (
        len(x)
        and (
            x['best of both']
            >= x[['best test epoch', 'best seed', 'chosen on dev']].max(axis=1) - 1e-4
        ).all()
    )
    assert (x['best test epoch'] >= x['last epoch'] - 1e-4).all() and (
        x['best seed'] >= x['chosen on dev'] - 1e-9
    ).all()


def test_price_of_settings(found, home):
    t = L.tuning(found)
    row = t.iloc[0]
    a, b = (load_record(record_path(row.system, row.corpus, k, home)) for k in ('paper', 'tuned'))
    assert np.isclose(
        row.gain, 100 * (np.mean(b.test) - np.mean(a.test))
    ) and f'{len(t)} systems' in L.settings_sentence(t)


# ---- audits


def test_repeated_sentences_are_counted():
    t = pd.DataFrame(
        dict(
            text=['Yes.', 'go on, please do', 'no', 'YES', 'yes', 'go on please do', 'new here'],
            label=[0, 1, 0, 0, 1, 1, -1],
            split=['train', 'dev', 'train', 'train', 'test', 'test', 'test'],
        )
    )
    assert L.repeated(t) == {'test': 2, 'repeated': 2, 'same label': 1}
    assert L.repeated(t, 4) == {'test': 1, 'repeated': 1, 'same label': 1}


def test_audits_count_what_the_corpora_hold(found, data):
    from erc.data.registry import load_corpus

    c = load_corpus('iemocap6')
    facts = L.audit(c)
    assert facts == found['ledger/audit--iemocap6--fixed'].facts, 'run `erc run ledger`'
    test = c.table[(c.table.split == 'test') & (c.table.label >= 0)]
    assert (
        sum(facts['counts']['test'].values()) == len(test)
        and len(facts['scripted']) == facts['dialogues']['test'] == 31
    )
    assert facts['repeated']['1']['test'] == len(test)


def test_audit_sentences_follow_the_counts(found):
    t = L.audits(found)
    words = L.audit_sentences(t)
    assert set(words) == set(L.AUDITS) and not any('Not run' in w for w in words.values())
    meld = t['repeated'].query("corpus=='meld' and words=='4 or more'").iloc[0]
    assert f'{meld["share, %"]} % of MELD' in words['repeated']
    assert all(
        'Not run' in w for w in L.audit_sentences({k: v.iloc[:0] for k, v in t.items()}).values()
    )
