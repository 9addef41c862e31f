"Turns on which two systems disagree: the rules that pick them, and tables without transcripts."

import numpy as np
import pytest

from erc.data.registry import load_corpus
from erc.report.artefacts import reference
from erc.studies.disagreements import (
    _pick_turns,
    _printed_examples,
    _stored_examples,
    compare_predictions,
    describe_counts,
    example_rows,
    example_table,
)


@pytest.fixture(scope='module')
def corpus():
    return load_corpus('demo')


@pytest.fixture(scope='module')
def predictions(corpus):
    "Random predictions of five seeds of two systems."
    shape = 5, len(corpus.rows('test'))
    rng = np.random.default_rng(0)
    return [rng.integers(0, len(corpus.classes), shape) for _ in range(2)]


def test_every_test_turn_is_compared(corpus, predictions):
    compared = compare_predictions(corpus, *predictions)
    test = corpus.table.iloc[corpus.rows('test')]
    assert (compared.label.to_numpy() == test.label.to_numpy()).all()
    assert (compared.turn.to_numpy() == test.turn.to_numpy()).all()
    counts = [np.bincount(x, minlength=len(corpus.classes)) for x in predictions[0].T]
    assert compared.one.tolist() == [n.argmax() for n in counts]
    assert describe_counts(compared).startswith(f'Of {len(test)} test turns')


def test_disagreements_follow_the_rule(corpus, predictions):
    compared = compare_predictions(corpus, *predictions)
    apart = _pick_turns(compared, 'disagreements')
    assert len(apart) == 8 and (apart.one != apart.other).all() and apart.dialogue.is_unique
    assert apart.strength.is_monotonic_decreasing
    differ = compared[compared.one != compared.other]
    others = differ[~differ.dialogue.isin(apart.dialogue)]
    assert apart.strength.min() >= others.strength.max()
    near = _pick_turns(compared, 'around')
    assert set(near.dialogue) == set(apart.dialogue[:4])
    assert (near.groupby('dialogue').turn.agg(np.ptp) <= 4).all()
    wrong = _pick_turns(compared, 'agreements in error')
    assert (wrong.one == wrong.other).all() and (wrong.one != wrong.label).all()
    with pytest.raises(ValueError, match="unknown rule 'agreement'"):
        _pick_turns(compared, 'agreement')


def test_stored_examples_need_no_corpus_and_hold_no_words(corpus, predictions, tmp_path):
    compared = compare_predictions(corpus, *predictions)
    rows = _printed_examples(reference('mmspcl'), 'table6')
    rows += example_rows(corpus, compared, 'disagreements', 'demo corpus')
    table = example_table(rows, 'table6', 'As drawn.', state='drawn', basis=['demo'])
    table.save(tmp_path)
    again = _stored_examples('table6', tmp_path)
    assert again._repr_html_() == table._repr_html_() and again.kinds == table.kinds
    assert table.kinds.count('printed') == 7
    assert _stored_examples('table7', tmp_path) is None
    text = (tmp_path / 'tables/mmspcl_table6.csv').read_text()
    assert 'Push' not in text
    assert not any(words in text for words in corpus.table.text if len(words) > 12)
