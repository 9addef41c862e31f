"Claims: they say what the papers print, and name runs that recipes have."

import re

import numpy as np
import pytest

from erc.core import root
from erc.data.families import MODALITIES
from erc.evidence.shifts import _SLICES
from erc.report.artefacts import artefacts
from erc.report.claims import (
    Pair,
    _Claim,
    _measure,
    _sides_of,
    difference,
    on_paper_split,
    read_claims,
)
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
        assert bool(c.why) <= bool(c.remedy), f'{c.id}: what would it take?'
        for pair in c.pairs:
            assert set(pair.keys) <= wanted, c.id
            assert all(key.variant == 'tuned' for key in pair.keys), f'{c.id}: not the protocol'
            assert pair.better != pair.worse or c.against, f'{c.id}: a system against itself'
            assert sum(pair.signs.values()) == 0, f'{c.id}: signs do not cancel'
            corpora = {key.corpus for key in pair.keys}
            assert len(corpora) == 1 or len(pair.better) > 1, f'{c.id}: two corpora'
            assert pair.basis == pair.basis.strip(), c.id
            assert pair.basis.split(',')[0] in ('same', 'own features', 'stand-in'), c.id


def test_both_sides_of_a_claim_read_the_same():
    "Text that both read is encoded alike, unless the claim or its basis is about the encoder."
    for c in CLAIMS:
        for pair in c.pairs:
            if len(pair.better) > 1:
                continue
            a, b = (find_system(k.system_id).encode for k in (pair.better[0], pair.worse[0]))
            if any(a[k] != b[k] for k in a.keys() & b.keys()):
                about_text = c.artefact in ('table3', 'table4') or 'fine-tuned' in pair.basis
                assert c.paper == 'dialoguetrm' and about_text, c.id


def test_a_table_is_read_in_one_reading():
    "The full system of a table's ablations is the one that is compared with the other models."
    for table, full in (('table1', 'multiemo_released'), ('table2', 'meld_released')):
        own = [c for c in CLAIMS if (c.paper, c.artefact) == ('multiemo', table) and c.pairs]
        ablations = [c for c in own if 'SWFC helps' in c.claim and 'more' not in c.claim]
        assert {c.pairs[0].better[0].system for c in ablations} == {full}


def test_what_a_claim_needs_are_modalities():
    needs = {c.id: c.needs for c in CLAIMS}
    assert all(set(x) <= set(MODALITIES) for x in needs.values())
    assert needs['multiemo/table2/2'] == ('text', 'audio')  # attention with nothing to attend to
    assert needs['multiemo/table2/14'] == ()  # a loss works on text alone


def test_what_no_paper_says_is_no_claim():
    gone = ['shapes/table8/2', 'shapes/table8/4', 'shapes/table9/1', 'shapes/table9/2']
    assert not {*gone, 'mmspcl/table2/6', 'mmspcl/table5/6'} & {c.id for c in CLAIMS}
    about_rnn = next(c for c in CLAIMS if c.id == 'shapes/text/1')
    assert {key.system for key in about_rnn.pairs[0].keys} == {'dialoguernn_by_slice'}


def test_differences_of_differences_have_printed_effects():
    "Segment over [SEP] in Table 3, and MELD over IEMOCAP across Tables 1 and 2, from their cells."
    found = {c.id: c for c in CLAIMS if c.pairs and len(c.pairs[0].better) > 1}
    assert set(found) == {'dialoguetrm/table3/8', 'multiemo/table2/20'}
    assert sorted(found['dialoguetrm/table3/8'].pairs[0].signs.values()) == [-2, 1, 1]
    assert len(found['multiemo/table2/20'].pairs[0].keys) == 4
    assert all(0.5 < c.printed < 2 for c in found.values())


def test_claims_ask_for_scores_that_exist(found):
    for c in CLAIMS:
        slices = [s.removeprefix('-') for s in (c.slice, c.against) if s]
        assert set(slices) <= {'all', 'shift_network', *_SLICES}, c.id
        assert c.scale == (1 if c.metric in VALUE_METRICS else 100), c.id
        for record in (found[k] for pair in c.pairs for k in pair.keys if k in found):
            assert score_of(c.metric, record.classes), c.id
            assert (c.metric in VALUE_METRICS) == (record.task == 'regression'), c.id


# ---- what is measured


def claim(*pairs, **changes):
    fields = dict(
        id='p/table1/1',
        paper='sagru',
        artefact='table1',
        place='Table 1',
        claim='new beats old',
        pairs=pairs,
        metric='accuracy',
        slice='all',
        against='',
        needs=(),
        scale=100.0,
        printed=2.0,
        why='',
        remedy='',
    )
    return _Claim(**{**fields, **changes})


def pair(better, worse, basis='own features'):
    return Pair(*(tuple(map(RunKey.parse, side.split(' + '))) for side in (better, worse)), basis)


def record(key, right, folds=('session1', 'paper'), seeds=2, seed=0):
    "A record whose seeds have so large a share of 20 turns of 15 dialogues a fold right."
    rng = np.random.default_rng(seed)
    parts = {}
    for name in folds:
        hits = rng.binomial(20, right, (seeds, 15))
        counts = np.stack([hits, 20 - hits, 0 * hits, 0 * hits], -1).reshape(seeds, 15, 2, 2)
        half = np.where(np.arange(15)[:, None, None] < 8, counts, 0)
        parts[name] = Fold([*range(seeds)], confusions={'all': counts, 'part': half})
    about = dict(classes=['a', 'b'], task='emotion', cross=[*folds])
    return Record(RunKey.parse(key), folds=parts, **about)


def test_families_are_of_a_table_and_a_kind():
    assert claim().family == 'sagru/table1/overall'
    parts = claim(slice='intra_es'), claim(metric='class_f1:sad')
    assert {c.family for c in parts} == {'sagru/table1/class or slice'}


def test_folds_are_pooled():
    from erc.report.claims import tested

    a, b = record('p/a:tuned@c', 0.8), record('p/b:tuned@c', 0.6, seed=1)
    found = difference(claim(), tested(a), tested(b), 200)
    assert (found.dialogues, found.folds) == (30, 2) and found.low > 0
    on_split = difference(claim(), on_paper_split(a), on_paper_split(b), 200)
    assert (on_split.dialogues, on_split.folds) == (15, 1)
    effect, p = _measure(claim(), pair('p/a:tuned@c', 'p/b:tuned@c'), {a.key: tested(a), b.key: tested(b)}, 200)  # fmt: skip
    assert effect.mean == found.mean and p < 0.05


def test_parts_laid_side_by_side_are_scored_alone():
    from erc.report.claims import tested

    c = claim(slice='part', against='-part')
    side = tested(record('p/a:tuned@c', 0.7))
    x, y = side.counts('part'), side.counts('-part')
    assert all((p + q == w).all() for p, q, w in zip(x, y, side.counts('all')))
    a, b, score = _sides_of(c, side, side)
    alone = score_of('accuracy')
    for laid, own in ((a, x), (b, y)):
        assert np.allclose(score(laid[0].sum(1)), alone(own[0].sum(1)))
    assert _sides_of(claim(slice='nowhere'), side, side) is None


def test_a_contrast_adds_its_runs():
    from erc.report.claims import tested

    shares = {'p/a:tuned@c': 0.8, 'p/b:tuned@c': 0.7, 'p/x:tuned@d': 0.6, 'p/y:tuned@d': 0.6}
    records = [record(key, right, seed=i) for i, (key, right) in enumerate(shares.items())]
    sides = {r.key: tested(r) for r in records}
    double = pair('p/a:tuned@c + p/y:tuned@d', 'p/b:tuned@c + p/x:tuned@d')
    effect, p = _measure(claim(), double, sides, 200)
    means = [
        score_of('accuracy')(sum(x.sum((0, 1)) for x in s.counts('all'))) for s in sides.values()
    ]
    assert p is None and np.isclose(effect.mean, means[0] - means[1] - means[2] + means[3])
    assert effect.dialogues == 60
