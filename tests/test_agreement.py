"What one annotator scores, and where annotators agree."

import numpy as np
import pytest

from erc.data.iemocap import _vote_shares
from erc.data.registry import load_corpus
from erc.evidence.shifts import slices
from erc.report.agreement import (
    _agreement_sentence,
    _annotator_confusion,
    _ceiling_frame,
    _scores_by_agreement,
    agreement_audit,
)
from erc.runs.records import find_record, score_of

CORPORA = ('iemocap6', 'iemocap4', 'iemocap4_shapes')


def test_expected_confusions_are_the_mean_of_draws():
    rng = np.random.default_rng(0)
    votes, labels = rng.dirichlet([1, 1, 1], 40), rng.integers(0, 3, 40)
    expected, drawn = _annotator_confusion(votes, labels), np.zeros((3, 3))
    for _ in range(2000):
        said = (rng.random((40, 1)) > votes.cumsum(1)[:, :2]).sum(1)
        np.add.at(drawn, (labels, said), 1 / 2000)
    assert np.allclose(expected, drawn, atol=0.3) and np.isclose(expected.sum(), 40)
    assert np.allclose(_annotator_confusion([[0, 0]], [1]), [[0, 0], [0.5, 0.5]])


@pytest.mark.parametrize('name', CORPORA)
def test_the_record_is_what_the_votes_say(data, monkeypatch, name):
    monkeypatch.setenv('ERC_DATA', str(data))
    corpus = load_corpus(name)
    record = find_record(f'ledger/agreement:fixed@{name}')
    assert record.facts == agreement_audit(corpus)
    unanimous = np.flatnonzero(slices(corpus)['unanimous'])
    confusion = _annotator_confusion(
        _vote_shares(corpus)[unanimous], corpus.table['label'][unanimous]
    )
    assert score_of('accuracy', list(corpus.classes))(confusion) == 1


def test_slices_are_disjoint_and_stand_in_every_run(data):
    found = slices(load_corpus('iemocap6', root=data))
    assert {'unanimous', 'majority', 'intra_es'} <= set(found)
    assert not (found['unanimous'] & found['majority']).any()
    assert 'unanimous' not in slices(load_corpus('demo'))


def test_what_is_shown():
    facts = {name: find_record(f'ledger/agreement:fixed@{name}').facts for name in CORPORA}
    frame = _ceiling_frame(facts)
    assert len(frame) == 6 and frame['annotator, weighted_f1'].between(70, 95).all()
    assert 'annotator' in _agreement_sentence(facts['iemocap6'])
    assert 'Not run' in _agreement_sentence(None) and _scores_by_agreement({}).empty
