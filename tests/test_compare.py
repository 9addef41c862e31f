"Two systems by their records, and beside what a paper claims of them."

import re

import numpy as np
import pandas as pd
import pytest

import erc
from erc.prediction.named import _remark
from erc.report.claims import read_claims
from erc.runs.keys import RunKey
from erc.runs.records import Fold, Record

BETTER, WORSE = 'shapes/gruarc:tuned@iemocap6', 'shapes/without_shift:tuned@iemocap6'


def record(name, right, slices=('all',)):
    "Return a record of two classes on four dialogues, each with so many of ten turns right."
    counts = np.array([[[[hits, 10 - hits], [10 - hits, hits]] for hits in right]], np.int8)
    fold = Fold([0], [{}], [1.0], [0], [0.5], [0.5], confusions=dict.fromkeys(slices, counts))
    return Record(RunKey.parse(name), classes=['a', 'b'], folds={'paper': fold})


def test_keys_and_records_are_the_same_side():
    by_text = erc.compare(BETTER, WORSE)
    assert by_text == erc.compare(RunKey.parse(BETTER), erc.record(WORSE))
    assert by_text.claim is None


def test_a_claim_stands_beside_ours():
    claim = next(c for c in read_claims() if c.id == 'shapes/table10/5')
    found = erc.compare(BETTER, WORSE, claim=claim.id)
    row = erc.claims().loc[claim.id]
    ours = '' if pd.isna(row.ours) else f'{row.ours}, '
    assert not ours or found.difference.mean * claim.scale == pytest.approx(row['mean'])
    assert found.claim.verdict == row.verdict
    assert f'paper {claim.printed:+g}; ledger: {ours}{row.verdict}' in repr(found)


def test_a_claim_that_nothing_can_test_says_why():
    claim = next(c for c in read_claims() if c.why and c.slice == 'all' and c.metric == 'accuracy')
    found = erc.compare(
        record('x/a:v@demo', [9] * 4), record('x/b:v@demo', [1] * 4), claim=claim.id
    )
    says = f'not testable here, {claim.why}; it takes {claim.remedy}'
    assert repr(found).endswith(says) and found.metric == 'accuracy'
    assert found.verdict == 'x/a:v@demo is better'


def test_a_claim_about_a_slice_needs_the_slice():
    claim = next(c for c in read_claims() if c.slice == 'intra_es' and not c.against)
    a, b = record('x/a:v@demo', [9] * 4), record('x/b:v@demo', [1] * 4)
    with pytest.raises(ValueError, match=f'do not both count intra_es, as {claim.id} asks'):
        erc.compare(a, b, claim=claim.id)


def test_a_claim_about_four_runs_is_not_a_pair():
    a, b = record('x/a:v@demo', [9] * 4), record('x/b:v@demo', [1] * 4)
    with pytest.raises(ValueError, match='more than two runs'):
        erc.compare(a, b, claim='multiemo/table2/20')


def test_two_records_of_every_dialogue_are_compared_on_all():
    a, b = record('x/a:v@demo', [9] * 4), record('x/b:v@demo', [1] * 4)
    for side in (a, b):
        side.folds['fold1'], side.cross = side.folds['paper'], ['paper', 'fold1']
    assert erc.compare(a, b).difference.dialogues == 8
    b.cross = []
    assert erc.compare(a, b).difference.dialogues == 4, "then on the paper's split"


def test_a_verdict_comes_with_its_power():
    row = {'verdict': 'open', 'note': '', 'reason': '', 'decide': '9 dialogues', 'power': 0.92}
    assert _remark(pd.Series(row)) == 'power at the printed effect 0.92'
    assert _remark(pd.Series({**row, 'verdict': 'not run'})) == '9 dialogues'
    undecided = {**row, 'verdict': 'not decidable', 'reason': 'blind', 'power': ''}
    assert _remark(pd.Series(undecided)) == 'blind; it takes 9 dialogues'


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match='the nearest: shapes/table10/5'):
        erc.compare(BETTER, WORSE, claim='shapes/table10/55')
    with pytest.raises(ValueError, match=re.escape(BETTER)):
        erc.compare('shapes/gruarcs:tuned@iemocap6', WORSE)


def test_other_test_sets_are_refused():
    a = record('x/a:v@demo', [9] * 4)
    with pytest.raises(
        ValueError, match='not scored on the same test set: 4 dialogues.* and 5 dialogues'
    ):
        erc.compare(a, record('x/b:v@demo', [9] * 5))
    other = record('x/b:v@demo', [9] * 4)
    other.confusions['all'][..., 0] += 1
    with pytest.raises(ValueError, match='different labels'):
        erc.compare(a, other)


def test_values_are_compared_as_moments():
    "Sums of real values are not cut to whole numbers, and a correlation is not printed in percent."
    rng = np.random.default_rng(0)
    y = rng.normal(size=(6, 8))
    sides = []
    for name, noise in (('a', 0.1), ('b', 2.0)):
        p = y + noise * rng.normal(size=y.shape)
        sums = [np.ones_like(y), y, p, y * y, p * p, y * p]
        moments = np.stack([x.sum(-1) for x in sums], -1)[None]  # (1, 6, 6)
        fold = Fold([0], [{}], [1.0], [0], [0.5], [0.5], confusions={'all': moments})
        key = RunKey.parse(f'x/{name}:v@demo')
        sides.append(Record(key, task='regression', metric='pearson_r', folds={'paper': fold}))
    found = erc.compare(*sides)
    assert found.difference.low > 0 and re.search(r'pearson_r: \+0\.\d\d \[0\.', repr(found))
