"Shift rules equal the authors' numbers, a plain loop over turns, and the rates of the real corpora."

import numpy as np
import pandas as pd
import pytest

from erc.evidence import shifts as S

IEMOCAP = ('happy', 'sad', 'neutral', 'angry', 'excited', 'frustrated')


def test_authors_shifts(golden):
    z = golden('common/metrics')
    e, s = z['shift_emotions'], z['shift_speakers']
    for rule, name in dict(
        same_speaker='intra_es',
        adjacent_any='inter_es_adjacent_any_speaker',
        adjacent_other='inter_es_adjacent_other_speaker',
        last_other='inter_es_last_turn_of_other_speaker',
    ).items():
        assert np.array_equal(S.is_shift(e, s, rule), z[name].astype(bool)), rule


def test_released_iemocap_table(golden):
    z = golden('shapes/shift_label_table_iemocap')['out.no_shift']
    pol = S._polarities(IEMOCAP)
    for i in range(6):
        for j in range(6):
            assert S.is_shift([i, j], 'AB', 'polarity_released', polarity=pol)[1] == (z[i, j] == 0)


def test_released_loader_invents_the_first_predecessor(golden):
    z = golden('shapes/data_loaders')
    for d in range(3):
        for key, pol, out in (
            ('labels6', S._polarities(IEMOCAP), 'out_iemocap'),
            ('labels2', (-1, 1), 'out_mosei_sentiment'),
        ):
            e = z[f'in.{key}_d{d}']
            want = z[f'{out}.shift_label'][d, : len(e)] == 0
            assert np.array_equal(
                S.is_shift(e, [0] * len(e), 'polarity_released_first', polarity=pol), want
            )
            assert np.array_equal(
                S.is_shift(e, [0] * len(e), 'polarity_released', polarity=pol, first='in'), want
            )
            out_of = S.is_shift(e, [0] * len(e), 'polarity_released', polarity=pol)
            assert not out_of[0] and np.array_equal(out_of[1:], want[1:])


def by_loop(e, s, rule, pol, unlabelled):
    "Return the shifts of one dialogue by a plain loop over turns."
    out = []
    for i in range(len(e)):
        past = [j for j in range(i) if unlabelled == 'keep' or e[j] >= 0]
        if rule == 'same_speaker':
            past = [j for j in past if s[j] == s[i]]
        if rule == 'last_other':
            past = [j for j in past if s[j] != s[i]]
        j = past[-1] if past else None
        if j is not None and rule == 'adjacent_other' and s[j] == s[i]:
            j = None
        if j is None or e[i] < 0 or e[j] < 0:
            out.append(False)
            continue
        if rule == 'polarity_paper':
            out.append(pol[e[i]] * pol[e[j]] < 0)
        elif rule == 'polarity_released':
            out.append((pol[e[i]] >= 0) != (pol[e[j]] >= 0))
        else:
            out.append(e[i] != e[j])
    return out


@pytest.mark.parametrize('unlabelled', ['skip', 'keep'])
@pytest.mark.parametrize('rule', [r for r in S.SHIFT_RULES if r != 'polarity_released_first'])
def test_rules_equal_a_loop_and_dialogues_do_not_mix(rule, unlabelled):
    g = np.random.default_rng(3)
    pol = S._polarities(IEMOCAP)
    rows = pd.concat(
        [
            pd.DataFrame(
                dict(
                    dialogue=f'd{k}',
                    turn=np.arange(n),
                    speaker=g.choice(list('ABC'), n),
                    label=g.choice([-1, 0, 1, 2, 3, 4, 5], n),
                )
            )
            for k, n in enumerate(g.integers(1, 25, 40))
        ],
        ignore_index=True,
    )
    flags = S.shift_flags(rows, rule, IEMOCAP, unlabelled=unlabelled)
    for _, d in rows.groupby('dialogue'):
        want = by_loop(d['label'].tolist(), d['speaker'].tolist(), rule, pol, unlabelled)
        assert flags[d.index].tolist() == want
        assert (
            S.is_shift(d['label'], d['speaker'], rule, polarity=pol, unlabelled=unlabelled).tolist()
            == want
        )
    shuffled = rows.sample(frac=1, random_state=0)
    assert np.array_equal(
        S.shift_flags(shuffled, rule, IEMOCAP, unlabelled=unlabelled), flags[shuffled.index]
    )


def test_directions_split_the_shifts():
    g = np.random.default_rng(4)
    e, s, pol = g.integers(0, 6, 400), g.integers(0, 2, 400), S._polarities(IEMOCAP)
    for rule in ('polarity_released', 'polarity_paper'):
        down, up = (
            S.is_shift(e, s, rule, polarity=pol, direction=d) for d in ('pos_to_neg', 'neg_to_pos')
        )
        assert not (down & up).any() and np.array_equal(
            down | up, S.is_shift(e, s, rule, polarity=pol)
        )
        assert (pol[e[down]] < 0).all() and (pol[e[up]] >= 0).all()


def test_names_serve_as_well_as_codes():
    g = np.random.default_rng(5)
    e, s = g.integers(0, 6, 50), g.integers(0, 3, 50)
    for rule in S.SHIFT_RULES:
        a = S.is_shift(e, s, rule, polarity=S._polarities(IEMOCAP))
        assert np.array_equal(
            a,
            S.is_shift(
                [IEMOCAP[i] for i in e], [f'speaker{i}' for i in s], rule, first_label='happy'
            ),
        ), rule


@pytest.mark.parametrize('kind', ['string', 'object', 'str'])
def test_frames_of_names_and_codes(kind):
    names, who = ['happy', 'sad', 'happy', 'neutral'], pd.Series(list('ABAB'), dtype=kind)
    want = S.is_shift(names, list('ABAB'), 'polarity_paper')
    assert want.any() and np.array_equal(
        S.is_shift(pd.Series(names, dtype=kind), who, 'polarity_paper'), want
    )
    assert np.array_equal(S.is_shift(np.array(names, object), who, 'polarity_paper'), want)
    assert np.array_equal(
        S.is_shift(pd.Series([0, 1, 1, -1], dtype=object), who), S.is_shift([0, 1, 1, -1], 'ABAB')
    )
    with pytest.raises(ValueError, match='mixes names'):
        S.is_shift(np.array(['happy', None], object), 'AB')


def test_empty_and_single():
    assert S.is_shift([], []).shape == (0,) and S.is_shift(
        pd.Series([], dtype='string'), []
    ).shape == (0,)
    for rule in S.SHIFT_RULES:
        assert S.is_shift(np.array([], int), [], rule, polarity=(1, -1)).shape == (0,)
    assert S.is_shift([1], 'A', 'polarity_released_first', polarity=(1, -1)).tolist() == [True]
    assert S.is_shift([-1, 1], 'AB', 'adjacent_any', first='in').tolist() == [
        False,
        True,
    ]  # the first labelled turn is the first
    assert S.is_shift(
        [1], 'A', 'polarity_released_first', polarity=(1, -1), first='out'
    ).tolist() == [False]


@pytest.mark.parametrize(
    'kw,says',
    [
        (dict(emotions=[0, 1], speakers=['A']), 'speakers has 1 turns'),
        (dict(emotions=[0, 1], speakers='AB', rule='same_speakers'), "did you mean 'same_speaker'"),
        (dict(emotions=[0, 1], speakers='AB', rule='polarity_paper'), 'polarity'),
        (dict(emotions=[0, 2], speakers='AB', rule='polarity_paper', polarity=(1, -1)), 'class 2'),
        (dict(emotions=[0, 1], speakers='AB', direction='pos_to_neg'), 'needs a polarity rule'),
        (
            dict(
                emotions=[0, 1],
                speakers='AB',
                rule='polarity_paper',
                polarity=(1, -1),
                direction='down',
            ),
            'unknown direction',
        ),
        (dict(emotions=[0, 1], speakers='AB', first='maybe'), 'first turns'),
        (dict(emotions=[0, 1], speakers='AB', unlabelled='drop'), 'unlabelled turns'),
        (dict(emotions=['happy', 'odd'], speakers='AB', rule='polarity_paper'), "'odd'"),
    ],
)
def test_bad_shift_arguments_are_named(kw, says):
    with pytest.raises(ValueError, match=says):
        S.is_shift(**kw)


def test_bad_tables_are_named():
    t = pd.DataFrame(dict(dialogue=['a', 'a'], turn=[0, 1], speaker=['A', 'B'], label=[0, 1]))
    with pytest.raises(ValueError, match="no column 'speaker'"):
        S.shift_flags(t.drop(columns='speaker'))
    with pytest.raises(ValueError, match='names of the classes'):
        S.shift_flags(t, 'polarity_paper')
    with pytest.raises(ValueError, match='unknown shift option'):
        S.shift_flags(t, frist='in')
    with pytest.raises(ValueError, match='real values'):
        S.shift_flags(t.assign(label=[0.5, 1.0]))
    with pytest.raises(ValueError, match='unknown slice'):
        S.slices(t, ['intra'], ['negative', 'positive'])


def test_slices_of_a_table():
    t = pd.DataFrame(
        dict(dialogue=list('aaab'), turn=[0, 1, 2, 0], speaker=list('ABAA'), label=[0, 1, 1, 0])
    )
    s = S.slices(t, classes=['happy', 'sad'])
    assert set(s) == set(S._SLICES) and all(f.dtype == bool and f.shape == (4,) for f in s.values())
    assert s['inter_es'].tolist() == [False, True, False, False] and s['intra_es'].tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert s['pos_to_neg'].tolist() == [False, True, False, False] and not s['neg_to_pos'].any()


@pytest.fixture(scope='module')
def iemocap(data):
    t = pd.read_csv(data / 'iemocap_text' / 'iemocap_utterances.csv')
    return t.assign(dialogue=t.dialogue_id, turn=t.position)


def test_real_shift_rates(iemocap):
    "Rates of the released pairs, and of the paper's own definition (data README)."
    label = (
        iemocap.label6.map(dict(hap=0, sad=1, neu=2, ang=3, exc=4, fru=5)).fillna(-1).astype(int)
    )
    t = iemocap.assign(label=label)
    pairs = (label >= 0) & (t[label >= 0].groupby('dialogue').cumcount().reindex(t.index) > 0)
    test = t.split == 'test'
    assert (pairs & ~test).sum() == 5690 and (pairs & test).sum() == 1592
    released, paper = (
        S.shift_flags(t, 'polarity_released', IEMOCAP),
        S.shift_flags(t, 'polarity_paper', IEMOCAP),
    )

    def rate(flags, rows):
        return round(100 * flags[rows].mean(), 2)

    assert (rate(released, pairs & ~test), rate(released, pairs & test)) == (22.99, 22.61)
    assert (rate(paper, (label >= 0) & ~test), rate(paper, (label >= 0) & test)) == (2.41, 2.28)


def test_real_shifts_per_conversation(iemocap):
    "Counts per test conversation as DialogueTRM prints them, on the corpus's own labels."
    names = ['hap', 'sad', 'neu', 'ang', 'exc', 'fru']
    t = iemocap[iemocap.split == 'test'].assign(
        label=lambda d: d.emoeval.map({n: i for i, n in enumerate(names)}).fillna(-1).astype(int)
    )
    got = {
        r: round(S.shift_flags(t, r).sum() / t.dialogue.nunique(), 2)
        for r in ('same_speaker', 'adjacent_any', 'adjacent_other', 'last_other')
    }
    assert got == dict(
        same_speaker=13.16, adjacent_any=21.97, adjacent_other=18.87, last_other=27.10
    )
    assert (
        round(S.shift_flags(t, 'same_speaker', unlabelled='keep').sum() / t.dialogue.nunique(), 2)
        == 8.84
    )
