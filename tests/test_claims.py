"Claims: they say what the papers print, name runs that recipes have, and are judged by one rule."

import re

import numpy as np
import pytest

import erc.report.claims as C
from erc.core import root
from erc.evidence.intervals import Interval
from erc.evidence.shifts import SLICES
from erc.report.artefacts import artefacts
from erc.report.claims import VERDICTS, Claim, Measured, judge_claims, read_claims
from erc.runs.keys import RunKey
from erc.runs.recipes import find_system, wanted_runs
from erc.runs.records import VALUE_METRICS, Fold, Record, read_records, score_of

CLAIMS = read_claims()
PAPERS = [p for p in artefacts().paper.unique()]


@pytest.fixture(scope='module')
def found():
    records, broken = read_records(root() / 'results')
    assert records and not broken
    return records


# ---- the claims


def test_claims_have_names_of_their_own():
    ids = [c.id for c in CLAIMS]
    assert len(ids) == len(set(ids)) >= 60
    assert all(c.id.startswith(f'{c.paper}/{c.artefact}/') for c in CLAIMS)
    assert len({(c.paper, c.claim, c.metric) for c in CLAIMS}) == len(CLAIMS), (
        'a claim stands twice'
    )
    known = {(a.paper, a.id) for a in artefacts().itertuples()}
    assert all((c.paper, c.artefact) in known or c.artefact == 'text' for c in CLAIMS)
    assert {c.paper for c in CLAIMS} == set(PAPERS)


@pytest.mark.parametrize('paper', PAPERS)
def test_claims_say_what_the_paper_prints(paper):
    "The printed number of the better side is the larger one: a claim that the paper's numbers deny would be ours."
    own = [c for c in CLAIMS if c.paper == paper]
    assert sum(c.printed is not None for c in own) >= 4
    for c in own:
        assert c.printed is None or c.printed > 0, c.id
        place = re.fullmatch(r'table(\d+)', c.artefact)
        assert not place or c.place in (f'Table {place[1]}', 'section 6.4'), c.id


def test_claims_name_runs_that_recipes_have():
    wanted = set(wanted_runs())
    for c in CLAIMS:
        assert bool(c.pairs) != bool(c.why), f'{c.id}: either runs, or a reason why there are none'
        assert not c.why or len(c.why) > 10, c.id
        for better, worse, basis in c.pairs:
            assert better in wanted and worse in wanted, c.id
            assert better.corpus == worse.corpus, f'{c.id}: two corpora'
            assert better != worse or c.against, f'{c.id}: a system against itself'
            assert basis == basis.strip() and basis.split(',')[0] in (
                'same',
                'own features',
                'stand-in',
            ), c.id


def test_both_sides_of_a_claim_read_the_same():
    "Text that both read is encoded alike, unless the claim or its basis is about the encoder."
    for c in CLAIMS:
        for better, worse, basis in c.pairs:
            a, b = (find_system(k.system_id).encode for k in (better, worse))
            if any(a[k] != b[k] for k in a.keys() & b.keys()):
                about_text = c.artefact in ('table3', 'table4') or 'fine-tuned' in basis
                assert c.paper == 'dialoguetrm' and about_text, c.id


def test_claims_ask_for_scores_that_exist(found):
    for c in CLAIMS:
        slices = [s.removeprefix('-') for s in (c.slice, c.against) if s]
        assert set(slices) <= {'all', 'shift_network', *SLICES}, c.id
        assert c.scale == (1 if c.metric in VALUE_METRICS else 100), c.id
        for record in (found[k] for pair in c.pairs for k in pair[:2] if k in found):
            assert score_of(c.metric, record.classes), c.id
            assert (c.metric in VALUE_METRICS) == (record.task == 'regression'), c.id
            assert set(slices) <= set(record.confusions), f'{c.id}: {record.key}'


def test_every_slice_of_a_claim_adds_up(found):
    "A slice and what it leaves are all utterances; scoring slices side by side is scoring each alone."
    c = next(c for c in CLAIMS if c.against and C._found(c, found)[0])
    better, worse, _ = C._found(c, found)[0][0]
    x, y = C._slice_counts(better, c.slice), C._slice_counts(worse, c.against)
    assert (x + y == better.confusions['all']).all()
    a, b, score = C._sides(c, better, worse)
    alone = score_of(c.metric, better.classes)
    assert np.allclose(score(a.sum(1)), alone(x.sum(1))) and np.allclose(
        score(b.sum(1)), alone(y.sum(1))
    )


# ---- pairs of records


def claim(pairs=(), **changes):
    fields = dict(
        id='p/table1/1',
        paper='sagru',
        artefact='table1',
        place='Table 1',
        claim='new beats old',
        pairs=tuple((RunKey.parse(a), RunKey.parse(b), basis) for a, b, basis in pairs),
        metric='accuracy',
        slice='all',
        against='',
        scale=100.0,
        printed=2.0,
        why='',
    )
    return Claim(**{**fields, **changes})


def record(key, *right, n=20):
    "A record of five seeds that has so many of n turns right in each of 30 dialogues."
    counts = np.tile([[[k, n - k], [0, 0]] for k in right], (5, 30 // len(right), 1, 1))
    fold = Fold(list(range(5)), confusions={'all': counts})
    return Record(RunKey.parse(key), classes=['a', 'b'], task='emotion', folds={'paper': fold})


def test_the_first_pair_with_both_records_decides():
    c = claim([('p/a:tuned@c', 'p/b:tuned@c', 'one'), ('p/a:paper@c', 'p/b:paper@c', 'two')])
    records = {
        r.key: r for r in (record(k, 5) for k in ('p/a:paper@c', 'p/b:paper@c', 'p/a:tuned@c'))
    }
    pairs, lacks = C._found(c, records)
    assert [(str(a.key), basis) for a, _, basis in pairs] == [('p/a:paper@c', 'two')] and not lacks
    records[RunKey.parse('p/b:tuned@c')] = record('p/b:tuned@c', 5)
    assert [basis for *_, basis in C._found(c, records)[0]] == ['one', 'two']
    assert C._found(c, {}) == ([], 'p/a:tuned@c and p/b:tuned@c')


def test_settings_as_printed_are_named_in_the_basis():
    assert all(basis.endswith(', settings as printed') == (better.variant == 'paper') for c in CLAIMS for better, _, basis in c.pairs)  # fmt: skip


def test_other_pairs_stand_beside_the_first():
    def pair(a, b, variant):
        return record(f'p/new:{variant}@c', *a), record(f'p/old:{variant}@c', *b), ''

    better, same, worse = (
        pair((16, 18), (8, 10), 'tuned'),
        pair((9, 11), (9, 11), 'paper'),
        pair((8, 10), (16, 18), 'paper'),
    )
    assert C._measure_others(claim(), [], 200) == {
        'others': '',
        'others_above': True,
        'others_below': True,
    }
    shown = C._measure_others(claim(), [better, same], 200)
    assert shown['others'].startswith('new over old, tuned on c: +40.0 [')
    assert '; new over old, paper on c: +0.0 [' in shown['others']
    assert not shown['others_above'] and not shown['others_below']
    assert C._measure_others(claim(), [better], 200)['others_above']
    assert C._measure_others(claim(), [worse], 200)['others_below']


# ---- verdicts


def measured(mean=0.02, low=0.01, high=0.03, **changes):
    effect = Interval(mean, low, high, 5, 31, signed=True)
    return Measured(effect, changes.pop('p', 0.01), changes.pop('flat', False), **changes)


@pytest.mark.parametrize(
    'ours,holm,printed,verdict,size',
    [
        ({}, 0.01, 2.0, 'confirmed', 'as printed'),
        ({}, 0.06, 2.0, 'not confirmed', 'as printed'),  # the interval alone is not enough
        ({}, np.nan, 2.0, 'confirmed', 'as printed'),  # nothing to exchange: the interval decides
        (dict(low=-0.01), 0.01, 2.0, 'not confirmed', 'as printed'),
        (
            dict(mean=-0.02, low=-0.03, high=-0.01),
            0.01,
            2.0,
            'contradicted',
            'smaller than printed',
        ),
        (
            dict(mean=-0.02, low=-0.03, high=-0.01),
            0.5,
            2.0,
            'not confirmed',
            'smaller than printed',
        ),
        ({}, 0.01, 9.0, 'confirmed', 'smaller than printed'),
        ({}, 0.01, 0.5, 'confirmed', 'larger than printed'),
        ({}, 0.01, None, 'confirmed', ''),
        (dict(mean=np.nan, low=np.nan, high=np.nan), 0.01, 2.0, 'not run', ''),
    ],
)
def test_the_rule(ours, holm, printed, verdict, size):
    got = C._judge(claim(printed=printed), measured(**ours), '', holm, 'same')
    assert (got['verdict'], got['size']) == (verdict, size)
    decided = verdict in VERDICTS[:3]
    assert bool(got['ours']) == decided and bool(got['reason']) != decided


def test_claims_that_cannot_be_judged_say_why():
    assert (
        C._judge(claim(why='no run of it here'), None, '', np.nan, '')['verdict']
        == 'not testable here'
    )
    got = C._judge(claim(), None, 'p/b:tuned@c', np.nan, '')
    assert (got['verdict'], got['reason']) == ('not run', 'no record of p/b:tuned@c')


def test_correlations_are_not_in_percent():
    ours = measured(mean=0.2, low=0.1, high=0.3)
    assert C._judge(claim(scale=1.0, printed=0.25), ours, '', 0.01, 'same')['size'] == 'as printed'


def test_two_systems_that_always_decide_alike_are_named():
    one, two = np.zeros((5, 3, 2, 2), int), np.ones((5, 3, 2, 2), int)
    one[..., 1] = 4  # every turn is taken for the second class
    assert C._one_class(one) and not C._one_class(two)
    got = C._judge(claim(), measured(flat=True, mean=0.0, low=0.0, high=0.0), '', 1.0, 'same')
    assert got['note'] == 'both sides always decide for one class'


def test_a_verdict_that_hangs_on_the_choice_of_pair_says_so():
    def judged(ours, **changes):
        return C._judge(claim(**changes), measured(**ours), '', 0.01, 'same')

    assert not judged({})['mixed']
    got = judged({'others_above': False})
    assert (got['verdict'], got['mixed']) == ('confirmed', True), 'the first pair still decides'
    assert got['note'] == 'as printed; other records do not agree'
    against = dict(mean=-0.02, low=-0.03, high=-0.01)
    assert judged({**against, 'others_below': False})['mixed']
    assert not judged({**against, 'others_above': False})['mixed']
    assert not judged({'low': -0.01, 'others_above': False})['mixed'], (
        'nothing that others could deny'
    )


def test_committed_claims_are_what_the_records_say(found):
    "The verdicts that are shown follow from the records alone, and twice the same."
    from erc.report.browse import claims

    table = judge_claims(records=found)
    assert len(table) == len(CLAIMS) and set(table.verdict) <= set(VERDICTS)
    confirmed, against = (table[table.verdict == v] for v in ('confirmed', 'contradicted'))
    assert (confirmed.low > 0).all() and not (confirmed.holm >= 0.05).any()
    assert (against.high < 0).all() and not (against.holm >= 0.05).any()
    assert (table.holm.dropna() >= table.p[table.holm.notna()] - 1e-12).all(), (
        'a correction makes nothing smaller'
    )
    committed = claims(root() / 'results')
    assert committed.verdict.to_dict() == table.verdict.to_dict(), 'run `erc report`'
    assert np.allclose(
        committed['mean'].to_numpy(float), table['mean'].to_numpy(float), equal_nan=True
    )
