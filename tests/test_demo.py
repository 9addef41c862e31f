"The demo corpus: repeatable, well formed, and with its planted effects for any seed."

import os
import subprocess
import sys
import time
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from erc.data import demo as D

SEEDS = range(4)


@pytest.fixture(scope='module')
def corpora():
    return {s: D.make_demo(s) for s in SEEDS}


def before(table, by=('dialogue',)):
    return table.groupby(list(by))['label'].shift()


def test_same_seed_same_corpus(corpora):
    table, features = D.make_demo(0)
    pd.testing.assert_frame_equal(table, corpora[0][0])
    for m, x in features.items():
        assert x.dtype == np.float32 and x.tobytes() == corpora[0][1][m].tobytes()


def test_another_process_gives_the_same_corpus(corpora):
    "No dependence on Python's hash seed."
    code = "import zlib,erc.data.demo as D; t,f=D.make_demo(0); print(zlib.crc32(t.to_csv().encode()+b''.join(f[m].tobytes() for m in sorted(f))))"
    out = [
        subprocess.run(
            [sys.executable, '-c', code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, 'PYTHONHASHSEED': h},
        ).stdout
        for h in '12'
    ]
    t, f = corpora[0]
    assert (
        out[0]
        == out[1]
        == f'{crc32(t.to_csv().encode() + b"".join(f[m].tobytes() for m in sorted(f)))}\n'
    )


def test_other_seeds_differ(corpora):
    texts = [tuple(t['text']) for t, _ in corpora.values()]
    assert len(set(texts)) == len(SEEDS)
    assert not np.array_equal(corpora[0][1]['audio'][:100], corpora[1][1]['audio'][:100])


def test_quick():
    start = time.perf_counter()
    D.make_demo(11)
    assert time.perf_counter() - start < 5


def test_form(corpora):
    for table, features in corpora.values():
        assert list(table.columns)[:6] == [
            'dialogue',
            'turn',
            'speaker',
            'text',
            'label',
            'split',
        ] and {'valence', 'planted'} <= set(table)
        assert table.index.equals(pd.RangeIndex(len(table))) and not table.isna().any().any()
        assert table['dialogue'].nunique() == 120 and table['dialogue'].is_monotonic_increasing
        sizes = table.groupby('dialogue').size()
        assert sizes.min() >= 6 and sizes.max() <= 20
        assert (table['turn'] == table.groupby('dialogue').cumcount()).all()
        assert set(table.groupby('dialogue')['speaker'].nunique()) == {2, 3}
        assert (table.groupby('dialogue')['split'].nunique() == 1).all()
        assert table.groupby('split')['dialogue'].nunique().to_dict() == dict(
            train=84, dev=12, test=24
        )
        assert set(table['label']) == set(range(6)) and table['valence'].between(-1, 1).all()
        assert (
            set(table.loc[table['split'] == 'train', 'label'])
            == set(table.loc[table['split'] == 'test', 'label'])
            == set(range(6))
        )
        assert {m: x.shape for m, x in features.items()} == dict(
            text=(len(table), 32), audio=(len(table), 24), visual=(len(table), 16)
        )
        assert all(np.isfinite(x).all() for x in features.values())
        assert (
            all(s[0].isupper() or not s[0].isalpha() for s in table['text'])
            and not table['text'].str.contains(r'[{}\n|]|  ').any()
        )


def test_test_speakers_are_unheard(corpora):
    for table, _ in corpora.values():
        heard, tested = (
            set(table.loc[table['split'].isin(s), 'speaker']) for s in (['train', 'dev'], ['test'])
        )
        assert not heard & tested


@pytest.mark.parametrize('n', [10, 33, 60])
def test_other_sizes(n):
    table, features = D.make_demo(1, n)
    assert (
        table['dialogue'].nunique() == n
        and set(table['split']) == {'train', 'dev', 'test'}
        and len(features['text']) == len(table)
    )


def test_too_small_is_refused():
    with pytest.raises(ValueError, match='at least 10'):
        D.make_demo(dialogues=9)


def test_classes_are_imbalanced(corpora):
    for table, _ in corpora.values():
        share = table['label'].value_counts(normalize=True)
        assert (
            share.idxmax() == 2
            and share.max() > 0.28
            and share.idxmin() == 4
            and 0.02 < share.min() < 0.1
        )


def test_inertia_is_planted(corpora):
    for table, _ in corpora.values():
        own = before(table, ['dialogue', 'speaker'])
        free = own.notna() & (table['planted'] != 'context')
        assert abs((own == table['label'])[free].mean() - D._P_KEEP) < 0.04
        base = (table['label'].value_counts(normalize=True) ** 2).sum()  # what chance would keep
        assert (own == table['label'])[own.notna()].mean() > base + 0.3


def test_polarity_shifts_are_neither_rare_nor_the_rule(corpora):
    for table, _ in corpora.values():
        b = before(table)
        there = b.notna()
        turned = D._POSITIVE[table['label'][there]] != D._POSITIVE[b[there].astype(int)]
        assert 0.18 < turned.mean() < 0.35
        cue = (
            table['text'][there]
            .str.match('|'.join(c.replace('?', r'\?') for c in D._CUES[True]))
            .to_numpy()
        )
        plain = (table['planted'][there] == 'plain').to_numpy()
        assert cue[turned & plain].mean() > 0.4 and cue[~turned & plain].mean() < 0.06


def test_context_lines_take_the_emotion_of_the_turn_before(corpora):
    for table, _ in corpora.values():
        needs = table['planted'] == 'context'
        assert 0.13 < needs.mean() < 0.22 and (before(table) == table['label'])[needs].all()
        assert set(table.loc[needs, 'text']) <= set(D._CONTEXT_LINES) and not set(
            table.loc[~needs, 'text']
        ) & set(D._CONTEXT_LINES)
        assert (
            table.loc[needs].groupby('text')['label'].nunique() >= 3
        ).all()  # the line itself says nothing


def without_topics(texts):
    spellings = [v for topic in D._TOPICS for v in (topic, topic[0].upper() + topic[1:])]
    longest_first = sorted(spellings, key=len, reverse=True)
    return texts.str.replace('|'.join(longest_first), '_', regex=True)


def test_voiced_lines_are_neutral_in_words_only(corpora):
    for table, _ in corpora.values():
        voiced = table['planted'] == 'audio'
        assert 0.09 < voiced.mean() < 0.2 and (table.loc[voiced, 'label'] != 2).all()
        neutral = table.loc[(table['label'] == 2) & (table['planted'] == 'plain'), 'text']
        opening = r'^(?:[A-Z][a-z ]*[.?] )(?=[A-Z])'
        known = pd.concat([neutral, neutral.str.replace(opening, '', regex=True)])
        assert set(without_topics(table.loc[voiced, 'text'])) <= set(without_topics(known))


def fitted(table, x):
    fit, held = ((table['split'] == s).to_numpy() for s in ('train', 'test'))
    guess = (
        make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=200))
        .fit(x[fit], table['label'][fit])
        .predict(x[held])
    )
    return (guess == table['label'][held]).groupby(table['planted'][held]).mean()


def test_each_modality_and_the_context_find_what_is_theirs(corpora):
    gain = dict(heard=[], context=[], plain=[], words=[])
    for table, f in corpora.values():
        both = np.hstack([f[m] for m in ('text', 'audio', 'visual')])
        past = np.where(before(table).notna().to_numpy()[:, None], np.roll(both, 1, 0), 0)
        words, all_, more = (
            fitted(table, f['text']),
            fitted(table, both),
            fitted(table, np.hstack([both, past])),
        )
        gain['words'].append(words['audio'])
        gain['heard'].append(all_['audio'] - words['audio'])
        gain['plain'].append(words['plain'])
        gain['context'].append(more['context'] - all_['context'])
    assert np.max(gain['words']) < 0.2 and np.min(gain['heard']) > 0.4
    assert (
        np.min(gain['plain']) > 0.55
        and np.mean(gain['context']) > 0.1
        and np.min(gain['context']) > 0.05
    )


def test_voices_have_offsets(corpora):
    "The speakers' means in the voice differ by far more than noise would, and taking them away helps with new speakers."
    gain = []
    for table, f in corpora.values():
        a = pd.DataFrame(f['audio'])
        mean = a.groupby(table['speaker']).transform('mean')
        n = table.groupby('speaker').size()
        assert a.groupby(table['speaker']).mean().var().mean() > 10 * (a.var().mean() / n).mean()
        gain.append(fitted(table, (a - mean).to_numpy()).mean() - fitted(table, f['audio']).mean())
    assert np.mean(gain) > 0.05


def test_valence_follows_emotion(corpora):
    for table, _ in corpora.values():
        assert np.corrcoef(table['valence'], D._VALENCE[table['label']])[0, 1] > 0.9


def test_bag_of_words_is_the_same_for_the_same_words():
    a, b, c = D._bag_of_words(['Just the keys.', 'the keys, just', 'Again.'])
    assert np.allclose(a, b, atol=1e-6) and abs(np.corrcoef(a, c)[0, 1]) < 0.6
    assert (
        np.array_equal(D._bag_of_words(['Again.', 'x'])[0], c)
        and np.isfinite(D._bag_of_words(['', '...'])).all()
    )
