"The audit of the released MOSEI pairs: known worlds, and what it finds in the real one."

import numpy as np
import pandas as pd
import pytest

from erc.data.registry import load_corpus
from erc.report.mosei_audit import (
    _agreement,
    _audit_frame,
    _audit_sentence,
    _concordance,
    _match_segments,
    _shift_frame,
    _what_it_does,
)
from erc.runs.records import find_record, read_records


def world(seed=0, videos=400):
    "Videos of eight sentences whose scores know the official labels; the released ones are shuffled."
    rng = np.random.default_rng(seed)
    official = rng.random((videos, 8)) < 0.6
    return pd.DataFrame(
        {
            'dialogue': np.repeat(np.arange(videos).astype(str), 8),
            'turn': np.tile(np.arange(8), videos),
            'official': official.ravel().astype(int),
            'released': rng.permuted(official, axis=1).ravel().astype(int),
            'start': np.tile(np.arange(8.0), videos),
            'score': (official + rng.normal(size=official.shape)).ravel(),
        }
    )


def test_shuffled_labels_agree_by_chance_and_fit_no_text():
    rows = world()
    found = _agreement(rows)
    assert found['videos whose positives agree'] == 1
    assert abs(found['of these, rows that agree'] - found['of these, by chance']) < 0.02
    assert abs(_concordance(rows, 'released') - 0.5) < 0.03 < _concordance(rows, 'official') - 0.6
    assert found['videos not in the order of time'] == 0


def test_right_labels_are_not_accused():
    rows = world().assign(released=lambda t: t['official'])
    found = _agreement(rows)
    assert found['rows that agree'] == found['of these, all rows agree'] == 1
    assert found['of these, by chance'] < 0.6
    backwards = rows.assign(start=-rows['start'])
    assert _agreement(backwards)['videos not in the order of time'] == 1


def test_the_real_pairs(data):
    released, official = (load_corpus(n, root=data) for n in ('mosei_released', 'mosei'))
    rows = _match_segments(released, official, root=data)
    record = find_record('ledger/mosei_labels:fixed@mosei_released')
    assert _agreement(rows) == record.facts['labels'], 'the record is not of these files'
    text = record.facts['text']
    assert abs(text['within videos, released'] - 0.5) < 0.02
    assert text['within videos, official'] > 0.63
    assert text['area, official'] - text['area, released'] > 0.08
    words = [set(t.lower().split()) for t in rows['text'][:50]]
    segments = official.table.set_index(['dialogue', 'segment'])['text']
    theirs = [set(segments[key].lower().split()) for key in zip(rows['video_id'], rows['segment'])][
        :50
    ]
    assert np.mean([len(a & b) / len(a | b) for a, b in zip(words, theirs)]) > 0.5


def test_what_is_shown():
    record = find_record('ledger/mosei_labels:fixed@mosei_released')
    assert len(_audit_frame(record.facts)) > 10 and len(_shift_frame(record.facts)) == 7
    assert 'permuted' in _audit_sentence(record.facts) and 'Not run' in _audit_sentence(None)
    assert _audit_frame(None).empty and _shift_frame(None).empty
    both = _what_it_does(read_records()[0])
    assert 'baselines/tfidf' in set(both['system']) and _what_it_does({}).empty


def test_a_map_of_other_rows_is_refused(data):
    released = load_corpus('mosei_released', root=data)
    fewer = released.replace(table=released.table.iloc[:-1])
    with pytest.raises(ValueError, match='not those of the released pairs'):
        _match_segments(fewer, load_corpus('mosei', root=data), root=data)
