"Judgements: invented records go through the gate and the rule, each claim by the first line that holds."

import math

import numpy as np
import pytest
from test_claims import claim, pair
from worlds import dialogues_of, folds_of

import erc.report.judgements as J
from erc.core import root
from erc.report.claims import read_claims
from erc.report.judgements import (
    _JUDGED,
    _VERDICTS,
    _claims_frame,
    _Evidence,
    _examine,
    judge_claims,
)
from erc.runs.fitness import Reason, _floor_key
from erc.runs.keys import RunKey
from erc.runs.records import Fold, Record, read_records

A, B = 'sagru/S5:tuned@iemocap4', 'sagru/S4:tuned@iemocap4'
FLOOR = 'baselines/text_context_audio:tuned@iemocap4'
CLASSES = ['happy', 'sad', 'neutral', 'angry']
FOLDS = ['session1', 'session2', 'session3', 'session4', 'paper']
EVEN = (np.arange(40) % 2 == 0).astype(int)[:, None, None]  # a part of the test set
SAME = dialogues_of(np.random.default_rng(0), 150, turns=(30, 80))


def record(key, gain=0.0, seed=0, seeds=2, folds=FOLDS, rising=False, lead=0.03, **options):
    "A record of five sessions; `gain` is its true score over the others."
    g = np.random.default_rng(seed)
    counts = folds_of(g, SAME, (seeds,) * len(FOLDS), gain=gain, seed_sd=0.005, **options)
    epochs = np.arange(30.0)
    dev = 0.3 + 0.01 * epochs if rising else 0.6 - 0.2 * np.exp(-epochs)
    curves = {'dev': np.tile(dev, (seeds, 1)), 'test': np.tile(dev - lead, (seeds, 1))}
    made = {
        name: Fold(
            [*range(seeds)],
            dev=[0.6] * seeds,
            test=[0.57] * seeds,
            curves=curves,
            confusions={'all': x, 'intra_es': x * EVEN[: x.shape[1]]},
        )
        for name, x in zip(FOLDS, counts)
        if name in folds
    }
    about = dict(classes=CLASSES, task='emotion', metric='weighted_f1', cross=FOLDS)
    return Record(RunKey.parse(key), folds=made, **about)


def judged(*records, claims=None, stale=None, **changes):
    "Judge one claim, that A beats B, or several."
    known = {r.key: r for r in records}
    evidence = _Evidence(known, stale or {}, resamples=400)
    claims = claims or [claim(pair(A, B), metric='weighted_f1', **changes)]
    frame = _claims_frame([_examine(evidence, c) for c in claims])
    return frame.iloc[0] if len(frame) == 1 else frame


@pytest.fixture(scope='module')
def floor():
    return record(FLOOR, gain=-0.1, seed=9, seeds=1)


# ---- outside the rule


def test_what_cannot_be_tested_says_what_it_takes(floor):
    row = judged(claims=[claim(why='no run of it here', remedy='a run of it')])
    assert (row.verdict, row.reason, row.decide) == ('not testable here', 'no run of it here', 'a run of it')  # fmt: skip


def test_a_record_of_the_papers_split_alone_is_not_judged(floor):
    a, b = record(A), record(B, folds=['paper'])
    row = judged(a, b, floor)
    assert row.verdict == 'not run' and not row.ours
    assert row.reason == f'{B} was run without session1, session2, session3, session4'
    assert row.decide == f'`erc run {B} --missing`'
    assert math.isfinite(row.one_run), 'the paper split tells what one run could have shown'


def test_a_stale_record_counts_as_not_run(floor):
    stale = {RunKey.parse(A): 'settings changed: search'}
    row = judged(record(A), record(B), floor, stale=stale)
    assert (row.verdict, row.reason) == ('not run', f'{A} was not run under the protocol')
    assert math.isnan(row.one_run), 'nothing is read from it'


def test_nothing_is_judged_without_its_floor():
    row = judged(record(A, 0.1), record(B))
    assert (row.verdict, row.decide) == ('not run', f'`erc run {FLOOR} --missing`')


def test_an_encoder_in_training_is_outside_the_protocol():
    ft = 'dialoguetrm/M_ft:tuned@iemocap6', 'dialoguetrm/U_ft:tuned@iemocap6'
    row = judged(claims=[claim(pair(*ft))])
    assert row.verdict == 'not run' and f'{ft[0]} does not follow the protocol' in row.reason


def test_floors_are_regressions_on_the_same_vectors():
    floors = {A: FLOOR, 'dialoguetrm/u_free:tuned@iemocap6': 'baselines/text:tuned@iemocap6'}
    floors['multiemo/meld_rnn:tuned@meld'] = 'baselines/text_context:tuned@meld'
    floors['dialoguetrm/u_bare:tuned@iemocap6'] = 'baselines/pairs:tuned@iemocap6'
    floors['dialoguetrm/u_nosegment:tuned@iemocap6'] = 'baselines/pairs_one_segment:tuned@iemocap6'
    floors['dialoguetrm/M:tuned@iemocap6'] = 'baselines/text_context_audio:tuned@iemocap6'
    assert {k: str(_floor_key(RunKey.parse(k))) for k in floors} == floors
    assert _floor_key(RunKey.parse('dialoguetrm/valence_M:tuned@iemocap_vad')) is None


# ---- the gate


@pytest.mark.parametrize(
    'better,worse,why',
    [
        (dict(rising=True), {}, f'dev of {A} still rises'),
        ({}, dict(rising=True), f'dev of {B} still rises'),
        (dict(lead=0.2), {}, f'dev of {A} does not know what test will say'),
        (dict(seeds=1), {}, f'{A} has fewer than two seeds in session1'),
        (dict(gain=-0.25), {}, f'{A} is below {FLOOR}'),
    ],
)
def test_a_flaw_keeps_a_claim_undecided(floor, better, worse, why):
    row = judged(record(A, **{'gain': 0.1, **better}), record(B, seed=1, **worse), floor)
    assert row.verdict == 'not decidable' and why in row.reason and row.decide
    assert row.ours, 'what was measured stands beside the reason'
    assert math.isnan(row.holm) and math.isnan(row.power)


def test_an_ablation_may_fall_below_the_floor(floor):
    "S5 and S4 are one model; another model has to reach the floor as well."
    row = judged(record(A, 0.1), record(B, -0.25, seed=1), floor)
    assert row.verdict == 'confirmed'
    multi, rnn = 'multiemo/multiemo_released:tuned@iemocap6', 'multiemo/dialoguernn:tuned@iemocap6'
    assert J._held_to_floor(pair(multi, rnn)) == [RunKey.parse(multi), RunKey.parse(rnn)]
    assert J._held_to_floor(pair(A, B)) == [RunKey.parse(A)]


def test_a_collapsed_seed_is_named(floor):
    bad = record(A, 0.1)
    counts = bad.folds['session2'].confusions['all']
    counts[1, ..., 0], counts[1, ..., 1:] = counts[1].sum(-1), 0
    row = judged(bad, record(B, seed=1), floor)
    assert f'{A} collapsed in seed 1 of session2' in row.reason


def test_a_class_that_is_never_said_compares_nothing(floor):
    silent = record(B, seed=1)
    for fold in silent.folds.values():
        counts = fold.confusions['all']
        counts[..., 0] += counts[..., 3]
        counts[..., 3] = 0
    row = judged(record(A, 0.1), silent, floor, claims=[claim(pair(A, B), metric='class_f1:angry')])
    assert (row.verdict, row.reason) == ('not decidable', f'most runs of {B} never say angry')
    assert row.decide == f'runs of {B} that say angry'


def test_a_claim_about_what_is_not_read_is_undecided(floor):
    row = judged(record(A, 0.1), record(B, seed=1), floor, needs=('visual',), remedy='its pictures')
    assert row.verdict == 'not decidable' and row.decide == 'its pictures'
    assert row.reason == 'the claim is about visual, and the runs read audio and text alone'


# ---- the rule


@pytest.mark.parametrize(
    'gain,printed,verdict,note',
    [
        (0.08, 6.0, 'confirmed', ''),
        (0.05, 60.0, 'confirmed', 'smaller than printed'),
        (0.08, None, 'confirmed', ''),
        (-0.08, 5.0, 'reversed', ''),
        (0.0, 30.0, 'refuted as printed', 'on this basis'),
        (0.0, 1.0, 'open', ''),
        (0.0, None, 'open', ''),
    ],
)
def test_the_rule(floor, gain, printed, verdict, note):
    row = judged(record(A, gain), record(B, seed=1), floor, printed=printed)
    assert (row.verdict, row.note, row.reason) == (verdict, note, '')
    assert row.dialogues == 150 and row.by_session and row.seeds == 2
    assert (printed is None) == math.isnan(row.power)
    assert 0 < row.one_run < 20 and row.low < row['mean'] < row.high
    assert bool(row.decide) == (verdict == 'open')


def test_an_open_claim_says_how_many_dialogues(floor):
    row = judged(record(A), record(B, seed=1), floor, printed=1.0)
    n, what = row.decide.split(' test dialogues (')
    assert int(n.replace(',', '')) > 150 and what.endswith('for the printed effect')
    assert row.power < 0.8


def test_undecidable_claims_do_not_count_in_the_correction(floor):
    "Of twenty claims, those that cannot be decided cost the others nothing; another kind neither."
    records = record(A, 0.03), record(B, seed=1), floor
    blind = claim(pair(A, B), metric='weighted_f1', needs=('visual',))
    plain = claim(pair(A, B), metric='weighted_f1')
    part = claim(pair(A, B), metric='weighted_f1', slice='intra_es')
    alone = judged(*records, claims=[plain])
    beside = judged(*records, claims=[plain, *[blind] * 10, *[part] * 10])
    assert beside.holm.iloc[0] == alone.holm
    crowded = judged(*records, claims=[plain] * 5)
    assert crowded.holm.iloc[0] == pytest.approx(min(1, 5 * alone.holm))
    assert crowded.power.iloc[0] <= alone.power


def test_other_pairs_stand_beside_the_first(floor):
    s3 = 'sagru/S3:tuned@iemocap4'
    pairs = pair(A, B), pair(A, s3, 'other'), pair(A, 'sagru/S1:tuned@iemocap4')
    both = [claim(*pairs, metric='weighted_f1')]
    records = record(A, 0.08), record(B, seed=1), floor
    agrees = judged(*records, record(s3, 0.0, seed=2), claims=both)
    denies = judged(*records, record(s3, 0.16, seed=2), claims=both)
    assert (agrees.verdict, agrees.mixed, denies.verdict, denies.mixed) == ('confirmed', False, 'confirmed', True)  # fmt: skip
    assert denies.note == J._DISAGREE and denies.others.startswith('S5 over S3, iemocap4: -')
    assert ';' not in denies.others, 'what was not run is not shown'
    later = judged(records[0], floor, record(s3, seed=2), claims=both)
    assert (later.basis, later.worse) == ('other', s3), 'the first pair that was run decides'


def test_one_system_on_two_slices_has_no_swaps(floor):
    within = claim(pair(A, A), metric='accuracy', slice='all', against='intra_es')
    row = judged(record(A), floor, claims=[within])
    assert row.verdict in _JUDGED and math.isnan(row.p) and math.isfinite(row.holm)


def test_a_contrast_of_four_is_judged(floor):
    s3, s1 = (f'sagru/{name}:tuned@iemocap4' for name in ('S3', 'S1'))
    four = claim(pair(f'{A} + {s1}', f'{B} + {s3}'), metric='weighted_f1', printed=5.0)
    rows = [record(k, gain, seed=i) for i, (k, gain) in enumerate({A: 0.1, B: 0.0, s3: 0.0, s1: 0.0}.items())]  # fmt: skip
    row = judged(*rows, floor, claims=[four])
    assert row.verdict == 'confirmed' and math.isnan(row.p) and row.holm < 0.05
    assert row.better == f'{A} + {s1}' and not row.by_session


def test_remedies_are_named_once():
    twice = J._Case(
        claim(), reasons=[Reason('one', 'a run'), Reason('two', 'a run'), Reason('x', '')]
    )
    assert J._decides(twice, 'not run', 1) == 'a run'


# ---- the committed state


@pytest.fixture(scope='module')
def found():
    records, broken = read_records(root() / 'results')
    assert records and not broken
    return records


def test_committed_claims_are_what_the_records_say(found):
    "The verdicts that are shown follow from the records alone, each claim with exactly one."
    from erc.report.browse import claims

    table = judge_claims(records=found)
    assert list(table.index) == [c.id for c in read_claims()]
    assert set(table.verdict) <= set(_VERDICTS)
    above, below = (table[table.verdict == v] for v in ('confirmed', 'reversed'))
    assert (above.low > 0).all() and (above.holm < 0.05).all()
    assert (below.high < 0).all() and (below.holm < 0.05).all()
    assert (table.p_half[table.verdict == 'refuted as printed'] < 0.05).all()
    outside = ~table.verdict.isin(_JUDGED)
    assert (table.reason[outside] != '').all() and (table.reason[~outside] == '').all()
    waiting = table.verdict.isin(['not run', 'not testable here', 'open'])
    assert (table.decide[waiting] != '').all()
    committed = claims(root() / 'results')
    assert committed.verdict.to_dict() == table.verdict.to_dict(), 'run `erc report`'
    columns = ['mean', 'power', 'one_run']
    same = np.allclose(
        committed[columns].astype(float), table[columns].astype(float), equal_nan=True
    )
    assert same


def test_every_run_that_a_claim_waits_for_can_be_asked_for():
    import re

    from erc.runs.recipes import wanted_runs

    wanted = {str(key) for key in wanted_runs()}
    table = judge_claims(records={})
    asked = {key for text in table.decide for key in re.findall(r'`erc run (\S+) --missing`', text)}
    assert asked and asked <= wanted
