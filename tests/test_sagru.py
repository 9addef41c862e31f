"Every equation against numbers computed apart from it, and what must hold of any model of conversations."

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import erc.models.sagru as S
from erc.data.batches import from_padded, make_batches
from erc.data.registry import load_corpus
from erc.runs.recipes import load_recipe, system
from erc.runs.run import run_system
from erc.evidence.metrics import accuracy, confusion, macro_f1, unweighted_accuracy, weighted_f1
from erc.runs.records import PROBE_LIMIT, find_record
from erc.models.sagru import ADD, ATSFusion, SAGRU, SAGRUCell, SYSTEMS, SelfAttention
from erc.training.engine import Single, Stack
from erc.training.settings import criterion

T = torch.from_numpy
SIZES = {'audio': 6, 'text': 5, 'speaker': 4}
SYSTEM = sorted(SYSTEMS)


def close(a, b, eps=1e-9):
    assert (
        np.abs(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) - np.asarray(b)).max()
        < eps
    )


@pytest.fixture(scope='session')
def every(golden):
    "All weights and inputs of the three golden files, which make one model of width 8 with 4 units a direction and 4 heads."
    return {
        **golden('sagru/sagru_ats_fusion'),
        **golden('sagru/sagru_gru'),
        **golden('sagru/sagru_attention'),
    }


def weights(g):
    return {
        k: v
        for k, v in g.items()
        if k in ('W_a', 'W_t', 'W_s', 'W_F', 'w_F', 'WQ', 'WK', 'WV', 'W_out', 'b_out')
        or k[:3] in ('fw_', 'bw_')
    }


def dialogue(g, n=6):
    return from_padded(
        {k: T(g[k])[None, :n] for k in ('audio', 'text', 'speaker')}, torch.zeros(1, n), [n]
    )


def toy(lengths=(5, 3, 1, 4), seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(lengths)
    x = {k: torch.randn(B, L, d, generator=g, dtype=dtype) for k, d in SIZES.items()}
    return from_padded(
        x, torch.zeros(B, L), lengths, {'emotion': torch.randint(0, 4, (B, L), generator=g)}
    )


def model(preset='S5', **options):
    torch.manual_seed(3)
    return SAGRU(SIZES, 4, **{'preset': preset, 'width': 8, 'units': 3, **options}).double()


# ---- golden numbers ---------------------------------------------------------------------------------------


def test_fusion(golden):
    g = golden('sagru/sagru_ats_fusion')
    x = {k: T(g[k]) for k in ('audio', 'text', 'speaker')}
    m = SAGRU.from_released(
        {
            **weights(g),
            'W_out': np.zeros((4, 8)),
            'b_out': np.zeros(4),
            'WQ': np.zeros((4, 8, 2)),
            'WK': np.zeros((4, 8, 2)),
            'WV': np.zeros((4, 8, 2)),
        },
        'S3',
    )
    u = m.fusion.columns(x)
    close(u.mT, g['u_cat'])
    close(m.fusion.W_F(u).tanh().mT, g['P_F'])
    f, alpha = m.fusion(x)
    close(alpha, g['alpha'])
    close(f, g['fused_ATS'])
    two = ATSFusion({'audio': 11, 'text': 7}, 8).double()
    two.load_state_dict({k: v for k, v in m.fusion.state_dict().items() if 'speaker' not in k})
    close(two(x)[1], g['alpha_AT'])
    close(two(x)[0], g['fused_AT'])
    add = ADD({'audio': 11, 'text': 7, 'speaker': 5}, 8).double()
    add.load_state_dict({k: v for k, v in m.fusion.state_dict().items() if k.startswith('W.')})
    close(add(x)[0], g['fused_ADD'])


def cells(g, form='paper'):
    made = [SAGRUCell(8, 4, form).double() for _ in 'fb']
    for c, d in zip(made, ('fw', 'bw')):
        own = {
            ours: torch.cat([T(g[f'{d}_{k}{gate}']) for gate in 'rzh'])
            for ours, k in (('weight_ih', 'W'), ('weight_hh', 'U'), ('bias_ih', 'b'))
        }
        c.load_state_dict(own | ({'bias_hh': torch.zeros(12)} if form == 'torch' else {}))
    return made


def test_unit(golden):
    g = golden('sagru/sagru_gru')
    x, made = T(g['x']), cells(g)
    close(S.both_ways(made, x, (1,) * 6), g['H'])
    h = torch.zeros(1, 4, dtype=torch.float64)
    for t in range(6):
        h = made[0](x[t : t + 1], h)
        close(h[0], g['H_forward'][t])
    h = torch.zeros(1, 4, dtype=torch.float64)
    for t in reversed(range(6)):
        h = made[1](x[t : t + 1], h)
        close(h[0], g['H_backward'][t])


def test_unit_of_the_library(golden):
    "The same numbers in `torch.nn.GRU`, the gate z turned around, give what the file says they give, and not Eq. 7."
    g = golden('sagru/sagru_gru')
    cell = cells(g, 'torch')[0]
    with torch.no_grad():
        for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih):
            p[4:8] *= -1
    gi = F.linear(T(g['x']), cell.weight_ih, cell.bias_ih)[None]
    h = S.run_units([cell], gi, gi.new_zeros(1, 1, 4), (1,) * 6)[0]
    close(h, g['torch_nn_gru_forward_same_numbers'])
    assert 0.01 < np.abs(g['torch_nn_gru_forward_same_numbers'] - g['H_forward']).max()


def test_library_unit_is_the_library():
    lib, x = torch.nn.GRU(8, 4, bidirectional=True).double(), torch.randn(6, 8, dtype=torch.float64)
    made = [SAGRUCell(8, 4, 'torch').double() for _ in 'fb']
    for c, d in zip(made, ('', '_reverse')):
        c.load_state_dict(
            {
                k: getattr(lib, f'{k.replace("ih", "ih_l0").replace("hh", "hh_l0")}{d}')
                for k in c.state_dict()
            }
        )
    close(S.both_ways(made, x, (1,) * 6), lib(x)[0].detach())


@pytest.mark.parametrize('wide', ['', '_2d'])
def test_attention(golden, wide):
    g = golden('sagru/sagru_attention')
    h, w = (
        T(g[f'H{wide}']),
        torch.cat([T(g[f'{k}{wide}']).transpose(1, 2).flatten(0, 1) for k in ('WQ', 'WK', 'WV')]),
    )
    for scaled, k in ((False, ''), (True, '_scaled_for_contrast')):
        if scaled and wide:
            continue
        a = SelfAttention(h.shape[1], 8, 4, scaled).double()
        a.load_state_dict({'qkv.weight': w})
        r, alpha = a(h)
        close(r, g[f'R{k}' if scaled else f'R{wide}'])
        close(alpha, g[f'weights{k}' if scaled else f'weights{wide}'])
        order = T(g['permutation'])
        close(a(h[order])[0], r[order].detach())


def test_whole_systems(every):
    g, w = every, weights(every)
    b = dialogue(g)
    s5 = SAGRU.from_released(w)
    close(s5(b).logits, g['logits'])
    close(s5(b).logits.softmax(-1), g['prob'])
    close(s5(b).probes['attention'].transpose(0, 1), g['weights'])
    close(s5(b).probes['alpha'], g['alpha'])
    close(SAGRU.from_released(w, 'S3')(b).logits, g['S3_logits_attention_on_fused'])
    close(SAGRU.from_released(w, 'S4')(b).logits, g['S4_logits_bigru_only'])


def test_a_shorter_dialogue_in_a_padded_batch(every):
    "The backward unit starts at the fourth turn and attention ends there, whatever stands in the padding."
    g, n = every, int(every['padded_mask'].sum())
    m, full = (
        SAGRU.from_released(weights(g)),
        {k: T(g[k])[None].repeat(2, 1, 1) for k in ('audio', 'text', 'speaker')},
    )
    for junk in (0.0, 1e3):
        for v in full.values():
            v[1, n:] = junk
        b = from_padded(full, torch.zeros(2, 6), [6, n])
        both = b.to_padded(m(b).logits)
        close(both[0], g['logits'])
        close(both[1, :n], g['logits_first4_turns_only'])


def test_metrics(golden):
    g = golden('common/metrics')
    classes = int(max(g['y_true'].max(), g['y_pred'].max())) + 1
    c = confusion(g['y_true'], g['y_pred'], classes)
    for f in (unweighted_accuracy, accuracy, weighted_f1, macro_f1):
        close(f(c), g[f.__name__])


# ---- what must hold of any of them ------------------------------------------------------------------------

OPTIONS = [dict(preset=s) for s in SYSTEM] + [
    dict(form='torch'),
    dict(scaled=True),
    dict(units=4),
    dict(bias=True, activation='relu'),
]
name = lambda o: '-'.join(map(str, o.values()))


@pytest.mark.parametrize('o', OPTIONS, ids=name)
def test_a_dialogue_does_not_see_its_neighbours(o):
    b, m = toy(), model(**o)
    together = b.to_padded(m(b).logits)
    for d, n in enumerate(b.lengths.tolist()):
        alone = from_padded(
            {k: b.to_padded(v)[d : d + 1, :n] for k, v in b.features.items()},
            torch.zeros(1, n),
            [n],
        )
        close(alone.to_padded(m(alone).logits)[0], together[d, :n].detach(), 1e-12)


@pytest.mark.parametrize('o', OPTIONS, ids=name)
def test_seeds_stack(o):
    "vmap over seeds equals the plain module, dropout included."
    b = toy()
    make = lambda: SAGRU(SIZES, 4, **{'width': 8, 'units': 3, **o})
    loss = criterion('emotion')
    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    a, c = stack.loss(b, torch.tensor(2), loss), single.loss(b, torch.tensor(2), loss)
    assert abs(a[1] - c[0]) < 1e-12
    a.sum().backward()
    c.sum().backward()
    for k, v in single.model.named_parameters():
        close(stack.params[k].grad[1], v.grad, 1e-12)
    assert (stack.predict(b)[1] == single.predict(b)[0]).all()


@pytest.mark.parametrize('preset', SYSTEM)
def test_order(preset):
    "Only the system without a recurrence is blind to the order of turns."
    b, m, order = toy((6,)), model(preset), torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = dataclasses.replace(b, features={k: v[order] for k, v in b.features.items()})
    moved = (m(shuffled).logits - m(b).logits[order]).abs().max()
    assert moved < 1e-12 if preset == 'S3' else moved > 1e-4


def test_backward_pass_starts_at_the_last_real_turn():
    "In a batch of several lengths, the last turn's backward state is one step from zero."
    b, made = toy(), [SAGRUCell(6, 3).double() for _ in 'fb']
    h = b.to_padded(S.both_ways(made, b.features['audio'], b.sizes))
    x = b.to_padded(b.features['audio'])
    for d, n in enumerate(b.lengths.tolist()):
        close(
            h[d, n - 1, 3:],
            made[1](x[d, n - 1 : n], torch.zeros(1, 3, dtype=torch.float64))[0].detach(),
            1e-12,
        )
        close(
            h[d, 0, :3],
            made[0](x[d, :1], torch.zeros(1, 3, dtype=torch.float64))[0].detach(),
            1e-12,
        )


@pytest.mark.parametrize('per', [1, 2, 3, 7])
def test_blocks_change_nothing(per):
    b = toy((5, 3, 1, 4, 4, 2, 6))
    a = SelfAttention(6, 8, 4).double()
    r, w = S.over_dialogues(a, b.features['audio'], b, per, keep=True)
    r1, w1 = S.over_dialogues(a, b.features['audio'], b, 7, keep=True)
    close(r, r1.detach(), 1e-12)
    close(w, w1.detach(), 1e-12)
    close(w.sum(-1), np.ones(w.shape[:2]), 1e-12)
    for row in range(len(b)):
        assert (w[row, :, b.lengths[b.dialogue[row]] :] == 0).all()


def test_width_readings():
    "100 units a direction under attention of width 100, or 50 a direction, so that H has the width the equations give it."
    sizes = {'audio': 3, 'text': 3, 'speaker': 3}
    assert SAGRU(sizes, 4).attention.qkv.weight.shape == (300, 200) and SAGRU(
        sizes, 4, units=50
    ).attention.qkv.weight.shape == (300, 100)
    assert (
        SAGRU(sizes, 4).out.in_features == 100
        and SAGRU(sizes, 4, preset='S4').out.in_features == 200
    )


def test_dropout_stands_where_it_is_said_to(monkeypatch):
    "After the projections, after the recurrence where attention follows, before the last layer; nowhere twice."
    seen = []
    monkeypatch.setattr(S, 'dropout', lambda x, p, batch, place: seen.append((place, p)) or x)
    for preset in SYSTEM:
        model(preset)(toy())
    full = [('columns', 0.2), ('states', 0.2), ('last', 0.2)]
    assert seen == full + full + [full[0], full[2]] + [full[0], full[2]] + full


def test_attention_is_probed_in_evaluation_only():
    b = toy()
    assert (
        'attention' in model()(b).probes
        and 'attention' not in model()(b.at(0, 0)).probes
        and 'attention' not in model('S4')(b).probes
    )


# ---- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'preset,gone',
    [('S1', 'text'), ('S1', 'audio'), ('S2', 'speaker'), ('S5', 'speaker'), ('S3', 'text')],
)
def test_a_missing_modality_is_named(preset, gone):
    rest = {k: v for k, v in SIZES.items() if k != gone}
    with pytest.raises(ValueError, match=f'{preset} reads .*{gone} missing'):
        SAGRU(rest, 4, preset=preset)
    b = toy()
    with pytest.raises(ValueError, match=f'{gone} missing'):
        model(preset)(
            dataclasses.replace(b, features={k: v for k, v in b.features.items() if k != gone})
        )


def test_s1_needs_no_speaker():
    assert SAGRU({'audio': 6, 'text': 5}, 4, preset='S1', width=8).double()(toy()).logits.shape == (
        13,
        4,
    )


def test_bad_options():
    with pytest.raises(ValueError, match="unknown system 'S6'"):
        SAGRU(SIZES, 4, preset='S6')
    with pytest.raises(ValueError, match="unknown fusion 'mean'"):
        SAGRU(SIZES, 4, fusion='mean')
    with pytest.raises(ValueError, match="unknown option 'fuson'; did you mean 'fusion'"):
        SAGRU(SIZES, 4, fuson='add')
    with pytest.raises(ValueError, match='cannot be cut into 3 heads'):
        SAGRU(SIZES, 4, heads=3)
    with pytest.raises(ValueError, match='form of the unit'):
        SAGRU(SIZES, 4, form='lstm')


def test_a_corpus_without_the_four_classes():
    c = load_corpus('demo')
    with pytest.raises(ValueError, match='corpus demo has no class sad, neutral'):
        S.four_classes(
            c.replace(classes=('happy', 'blue', 'dull', 'angry', 'excited', 'frustrated'))
        )
    with pytest.raises(ValueError, match='real-valued'):
        S.four_classes(c.replace(task='regression', classes=()))


def test_meld_has_other_classes(data):
    with pytest.raises(ValueError, match='corpus meld has no class happy, sad, angry'):
        S.load_four('meld')


def test_constant_features():
    c = load_corpus('demo')
    x = c.features['audio'].copy()
    x[:, 2] = 7
    x[c.rows('train'), 3] = 1
    z = S.bounded(c.with_features(audio=x), 'audio')
    assert np.isfinite(z).all() and (z[:, 2:4] == 0).all() and z[:, 4].std() > 0.5
    with pytest.raises(ValueError, match="demo: no column of 'audio' varies"):
        S.bounded(c.with_features(audio=np.ones_like(x)), 'audio')


def test_outliers_are_cut():
    c = load_corpus('demo')
    x = c.features['audio'].copy()
    x[c.rows('test')[0]] = 1e6
    assert np.abs(S.bounded(c.with_features(audio=x), 'audio')).max() == 10


# ---- data -------------------------------------------------------------------------------------------------


def test_four_of_six():
    c = load_corpus('demo')
    four, kept = S.four_classes(c), S.four_classes(c, 'kept')
    old, of = c.table.label.to_numpy(), np.array([0, 1, 2, 3, 0, -1])
    assert (kept.table.label == of[old]).all() and len(kept.table) == len(c.table)
    assert (
        len(four.table) == (of[old] >= 0).sum()
        and (four.table.label == of[old][of[old] >= 0]).all()
    )
    assert (four.features['audio'] == c.features['audio'][of[old] >= 0]).all()
    assert four.table.groupby('dialogue').turn.apply(lambda t: (t == np.arange(len(t))).all()).all()


def test_iemocap(data):
    "The counts of section 3.1, and eight speakers against two."
    c = S.load_four('iemocap4')
    assert dict(c.table.label.map(dict(enumerate(S.FOUR))).value_counts()) == {
        'happy': 1636,
        'angry': 1103,
        'sad': 1084,
        'neutral': 1708,
    }
    assert set(c.table[c.table.split == 'test'].session) == {5} and set(
        c.table[c.table.split != 'test'].session
    ) == {1, 2, 3, 4}
    assert c.features['speaker'].shape == (5531, 94) and np.isfinite(c.features['speaker']).all()
    kept = S.load_four('iemocap4', others='kept')
    assert len(kept.table) > 9000 and (kept.table.label >= 0).sum() == 5531


def test_speaker_statistics():
    "From the turns of the same speaker in the same dialogue; no label, and nothing of another dialogue."
    c = load_corpus('demo')
    v, t = S.speaker_statistics(c), c.table
    rows = np.flatnonzero((t.dialogue == t.dialogue[0]) & (t.speaker == t.speaker[0]))
    x = c.features['audio'][rows].astype(float)
    close(v[rows[0]], np.r_[x.mean(0), x.std(0)], 1e-5)
    other = c.features['audio'].copy()
    other[(t.dialogue != t.dialogue[0]).to_numpy()] += 3
    again = S.speaker_statistics(c.with_features(audio=other).replace(table=t.assign(label=0)))
    first = (t.dialogue == t.dialogue[0]).to_numpy()
    assert (again[first] == v[first]).all() and not (again[~first] == v[~first]).all()
    has = c.has['audio'].copy()
    has[rows] = False
    assert (S.speaker_statistics(c.replace(has={**c.has, 'audio': has}))[rows] == 0).all()
    with pytest.raises(ValueError, match="made of 'sound', which demo does not have"):
        S.speaker_statistics(c, 'sound')


def test_a_speaker_feature_of_ones_own(monkeypatch):
    "x-vectors, or anything else, take the substitute's place."
    c = load_corpus('demo')
    own = np.random.default_rng(0).normal(size=(len(c.table), 5)).astype(np.float32)
    monkeypatch.setattr(S, 'load_corpus', lambda name, **k: c.with_features(speaker=own))
    assert S.load_four('demo').features['speaker'].shape[1] == 5


# ---- runs -------------------------------------------------------------------------------------------------


def demo(name, home):
    s = dataclasses.replace(system(f'sagru/{name}'), encoder='hashing')
    return run_system(
        s,
        'demo',
        'paper',
        seeds=[0, 1],
        home=home,
        demo=load_recipe('sagru')['demo']['settings'],
        progress=False,
    )


@pytest.mark.parametrize('preset', SYSTEM)
def test_demo_learns_and_keeps_what_figures_draw(preset, tmp_path):
    rec = demo(preset, tmp_path)
    assert min(rec.test) > 0.4 and rec.classes == list(S.FOUR), 'four classes: chance is a quarter'
    M = len(SYSTEMS[preset]['modalities'])
    assert set(rec.probes) == {'who'} | ({'alpha_by_seed'} if preset != 'S2' else set()) | (
        {'attention_by_seed'} if preset != 'S4' else set()
    )
    assert max(v.nbytes for v in rec.probes.values()) < PROBE_LIMIT
    if preset != 'S2':
        a = rec.probes['alpha_by_seed']
        assert a.shape == (2, 4, M, len(S.LEVELS)) and (np.diff(a, axis=-1) >= 0).all(), (
            'quantiles, which say nothing about single turns'
        )
    if preset != 'S4':
        a, T = rec.probes['attention_by_seed'].astype(float), len(rec.probes['who'])
        assert a.shape == (2, 4, T, T) and np.abs(a.sum(-1) - 1).max() < 2e-3


def test_the_dialogue_that_is_drawn_is_seen_as_if_alone():
    c = S.load_four('demo')
    m = SAGRU(
        {k: c.features[k].shape[1] for k in ('audio', 'text', 'speaker')}, 4, width=8, units=3
    )
    fit = SimpleNamespace(modules=lambda: [m])
    batches = make_batches(
        c, 'test', size=5, features=['audio', 'text', 'speaker'], targets={'emotion': 'label'}
    )
    got = S.look(fit, c, batches)['attention_by_seed'][0]
    t = c.table.iloc[c.rows('test')]
    rows = c.rows('test')[S.drawn_dialogue(t)]
    alone = from_padded(
        {k: c.features[k][rows][None] for k in ('audio', 'text', 'speaker')},
        torch.zeros(1, len(rows)),
        [len(rows)],
    )
    with torch.no_grad():
        close(m(alone).probes['attention'].transpose(0, 1), got.astype(np.float32), 2e-3)


def test_a_claim_without_records_says_so():
    assert S.claim_sentence(S.CLAIMS[0], lambda name, setting: None, 'paper').endswith(
        '(S5 over S1, `paper`): not run.'
    )


def test_recorded_runs():
    "Twenty seeds of each system, as the paper ran, and in the time that was promised."
    recs = [find_record(f'sagru/{s}', 'iemocap4', 'paper') for s in SYSTEM]
    if None in recs:
        pytest.skip('the real runs are not here')
    assert (
        all(len(r.seeds) == 20 and r.corpus == 'iemocap4' for r in recs)
        and sum(r.seconds for r in recs) < 1800
    )
