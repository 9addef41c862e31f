"Every fusion against numbers computed apart from it."

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call, stack_module_state

from erc.nn.attention import attend, attention, inside
from erc.data.batches import from_padded
from erc.models.mgif import (
    CrossModal,
    Discriminator,
    FUSIONS,
    GMU,
    Gate,
    MCB,
    MGIF,
    MODALITIES,
    fusion,
    knobs,
    pairs,
    sinusoids,
    there,
)

T = torch.from_numpy


def close(a, b, eps=1e-9):
    assert (
        np.abs(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) - np.asarray(b)).max()
        < eps
    )


def encoder_state(g, prefix):
    "Golden names (`mgif0_linear1_weight`) as `Encoder`'s."
    out = {}
    for k, v in g.items():
        if not k.startswith(prefix) or not k[len(prefix) :][:1].isdigit():
            continue
        i, _, name = k[len(prefix) :].partition('_')
        name = name.replace('in_proj_', 'self_attn.in_proj_').replace(
            'out_proj_', 'self_attn.out_proj.'
        )
        for part in ('linear1', 'linear2', 'norm1', 'norm2'):
            name = name.replace(part + '_', part + '.')
        out[f'layers.{i}.{name}'] = T(v)
    return out


@pytest.fixture(scope='session')
def g(golden):
    return golden('dialoguetrm/dialoguetrm_gate_mgif')


def r_of(g):
    return {m: T(g[f'r_{m[0] if m != "text" else "u"}']) for m in MODALITIES}


def mgif_of(g, modalities=MODALITIES, **k):
    m = MGIF(8, modalities, heads=int(g['heads']), layers=2, ffn=16, dropout=0.0, **k).double()
    state = {f'encoder.{n}': v for n, v in encoder_state(g, 'mgif').items()} | {
        'e_cls': T(g['e_cls'])
    }
    letter = {'text': 'u', 'audio': 'a', 'visual': 'v'}
    for a, b in pairs(modalities):
        for n in ('W1', 'W2', 'Wz'):
            state[f'gates.{a}_{b}.{n}.weight'] = T(g[f'{n}_{letter[a]}{letter[b]}'])
    own = m.state_dict()
    m.load_state_dict({k: state[k] for k in own})
    return m


def test_gates(g):
    r, m = r_of(g), mgif_of(g)
    for (a, b), (x, y) in zip(pairs(MODALITIES), ('ua', 'uv', 'av')):
        h, k = m.gates[f'{a}_{b}'](r[a], r[b])
        close(h, g[f'h_{x}{y}'])
        close(k, g[f'h_{y}{x}'])
        close(m.gates[f'{a}_{b}'].share(r[a], r[b]), g[f'z_{x}{y}'])
    close(m.sequence(r), np.stack([g[f'h_{k}'] for k in ('ua', 'au', 'uv', 'vu', 'av', 'va')], 1))


def test_mgif_and_its_forms(g):
    r = r_of(g)
    close(mgif_of(g)(r), g['o_mgif'])
    close(mgif_of(g, ('text', 'audio'))(r), g['o_mgif_ua_only'])
    close(mgif_of(g, without='prototype')(r), g['o_without_prototype'])
    close(mgif_of(g, without='representation')(r), g['o_without_representation'])


@pytest.mark.parametrize('values', [False, True])
def test_discriminator(g, values):
    d = Discriminator(8, 8, 0 if values else 6).double()
    d.load_state_dict({'W_O.weight': T(g['W_O']), 'out.weight': T(g['W_D' if values else 'W_C'])})
    y = d(T(g['o_mgif']))
    if values:
        close(y[:, None], g['pred_dimensional'])
    else:
        close(y.softmax(-1), g['prob_categorical'])
        assert (y.argmax(-1).numpy() == g['pred_categorical']).all()


def test_alternatives(golden):
    g = golden('dialoguetrm/fusion_alternatives')
    r = {m: T(g[m[0] if m != 'text' else 'u']) for m in MODALITIES}
    letter = {'text': 'u', 'audio': 'a', 'visual': 'v'}
    for name in ('additive', 'concat', 'max'):
        close(fusion(name, 8, MODALITIES)(r), g[name])
    bil = fusion('bilinear', 8, MODALITIES).double()
    bil.load_state_dict({f'W.{m}.weight': T(g[f'W_bil_{x}']) for m, x in letter.items()})
    close(bil(r), g['bilinear_hadamard'])
    mcb = MCB(8, bins=2).double()
    for m, x in letter.items():
        mcb.tables(m, g[f'mcb_hash_{x}'], g[f'mcb_sign_{x}'])
    mcb.double()
    close(mcb.raw(r), g['mcb_raw'])
    close(mcb(r), g['mcb'])
    gmu = GMU(8).double()
    gmu.load_state_dict(
        {f'W.{m}.weight': T(g[f'gmu_W_{x}']) for m, x in letter.items()}
        | {f'Wz.{m}.weight': T(g[f'gmu_Wz_{x}']) for m, x in letter.items()}
    )
    close(gmu(r), g['gmu_tri'])
    two = GMU(8, ('text', 'audio')).double()
    two.load_state_dict(
        {
            'W.text.weight': T(g['gmu_W_u']),
            'W.audio.weight': T(g['gmu_W_a']),
            'Wz.text.weight': T(g['gmu_bi_Wz']),
        }
    )
    close(two(r), g['gmu_bi_ua'])


def test_mult(golden):
    g = golden('dialoguetrm/mult_crossmodal')
    m, state = CrossModal(8, int(g['heads']), 2, 0.0).double(), {}
    for k, v in g.items():
        if not k.startswith('w__'):
            continue
        name = k[3:].replace('layers_0_', 'layers.0.').replace('layers_1_', 'layers.1.')
        for theirs, ours in (
            ('self_attn_in_proj_', 'self_attn.in_proj_'),
            ('self_attn_out_proj_', 'self_attn.out_proj.'),
            ('fc1_', 'linear1.'),
            ('fc2_', 'linear2.'),
            ('layer_norms_0_', 'norm1.'),
            ('layer_norms_1_', 'norm2.'),
            ('layer_norm_', 'norm.'),
        ):
            name = name.replace(theirs, ours)
        state[f'encoder.{name}'] = T(v)
    m.load_state_dict(state)
    x, y = T(g['target'])[None], T(g['source'])[None]
    ahead = torch.arange(3)[None] > torch.arange(4)[:, None] + 1
    from functools import partial

    out = {
        'cross_out': m(x, y),
        'self_out': m(x),
        'cross_len1_out': m(x[:, :1], y[:, :1]),
        'cross_out_future_mask': m(x, y, partial(attend, allow=~ahead)),
    }
    for k, v in out.items():
        close(v[0], g[k])
        close(v[0], g[f'official_{k}'], 1e-6)  # the official code's sinusoids are float32


def toy(lengths=(4, 2, 1), modalities=MODALITIES, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return from_padded(
        {
            m: torch.randn(len(lengths), max(lengths), 8, generator=g, dtype=dtype)
            for m in modalities
        },
        torch.zeros(len(lengths), max(lengths)),
        lengths,
    )


@pytest.mark.parametrize(
    'names', [MODALITIES, ('text', 'audio'), ('audio', 'visual')], ids='+'.join
)
@pytest.mark.parametrize('name', sorted(FUSIONS))
def test_seeds_stack_and_turns_stay_apart(name, names):
    b, made = toy(modalities=names), []
    for s in range(2):
        torch.manual_seed(s)
        made.append(fusion(name, 8, names, heads=2, layers=1, ffn=16, dropout=0.2).double())
    how = inside(b)
    params, buffers = stack_module_state(made)
    got = torch.vmap(
        lambda p, q, s: functional_call(made[0], (p, q), (b.features, b.at(s, 0), how))
    )(params, buffers, torch.arange(2))
    for i, m in enumerate(made):
        close(got[i], m(b.features, b.at(i, 0), how).detach(), 1e-12)
    assert got.shape == (2, 7, made[0].size)
    if name != 'mult':
        close(
            made[0]({k: v[3:4] for k, v in b.features.items()}),
            made[0](b.features)[3:4].detach(),
            1e-12,
        )
    x = {k: v.clone().requires_grad_() for k, v in b.features.items()}
    made[0](x, b, how).square().sum().backward()
    assert all(torch.isfinite(v.grad).all() for v in x.values())


def test_sketches_are_the_same_for_all_seeds():
    torch.manual_seed(1)
    a = MCB(8)
    torch.manual_seed(2)
    b = MCB(8)
    assert torch.equal(a.sketch_text, b.sketch_text) and not torch.equal(
        a.sketch_text, a.sketch_audio
    )
    assert torch.isfinite(
        MCB(8).double()({m: torch.zeros(2, 8).double().requires_grad_() for m in MODALITIES})
    ).all()


def test_shared_maps_are_one_each():
    m, own = MGIF(8, heads=2, layers=1, ffn=16, share_maps=True), MGIF(8, heads=2, layers=1, ffn=16)
    assert (
        m.gates['text_audio'].W1 is m.gates['text_visual'].W1
        and m.gates['text_audio'].W2 is m.gates['audio_visual'].W1
    )
    assert (
        sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in m.parameters()) == 3 * 64
    )


def test_sizes_of_the_paper():
    "Counted in the specification, at a width of 768."
    count = lambda m: sum(p.numel() for p in m.parameters())
    m = MGIF(768)
    assert (
        count(m.encoder.layers[0]) == 5_513_984
        and round(count(m.encoder) / 1e6, 1) == 22.1
        and round(count(m.gates) / 1e6, 1) == 7.1
    )


def test_positions_are_as_precise_as_what_they_are_added_to():
    t = torch.arange(1, 111)
    before = torch.exp(
        torch.arange(32) * (-math.log(10000) / 31)
    )  # how the rates were always made in float32
    x = t[:, None].float() * before
    assert torch.equal(sinusoids(t, 64), torch.cat([x.sin(), x.cos()], -1)) and torch.equal(
        sinusoids(t, 64, torch.float32), sinusoids(t, 64)
    )
    exact = np.arange(1, 111)[:, None] * np.exp(np.arange(32) * (-np.log(10000) / 31))
    close(
        sinusoids(t, 64, torch.float64), np.concatenate([np.sin(exact), np.cos(exact)], -1), 1e-12
    )


@pytest.mark.parametrize('positions', [True, False])
def test_positions_tell_the_order(positions):
    "The vectors of a turn in another order: nobody notices but learned positions."
    torch.manual_seed(0)
    m, r = (
        MGIF(8, heads=2, layers=1, ffn=16, dropout=0.0, positions=positions).double(),
        toy().features,
    )
    y, M = m(r), m.sequence(r)
    m.sequence = lambda r: M[:, [1, 0, 2, 3, 4, 5]]
    assert (m(r) - y).abs().max() > 1e-4 if positions else (m(r) - y).abs().max() < 1e-12
    if positions:
        m.positions.data.zero_()
        swapped = m(r)
        m.sequence = lambda r: M
        close(swapped, m(r).detach(), 1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match='text: there is nothing to fuse'):
        MGIF(8, ['text'])
    with pytest.raises(ValueError, match='nothing'):
        there([])
    with pytest.raises(ValueError, match="did you mean 'visual'"):
        there(['visuel', 'text'])
    with pytest.raises(ValueError, match="did you mean 'mult'"):
        fusion('mulT', 8, MODALITIES)
    with pytest.raises(ValueError, match="'additive' has no option 'heads'; it has none"):
        fusion('additive', 8, MODALITIES, {'heads': 1})
    with pytest.raises(ValueError, match="no option 'bnis'; it has bins"):
        fusion('mcb', 8, MODALITIES, bnis=3)
    with pytest.raises(
        ValueError, match="no option 'share_map'; it has heads, layers, ffn, dropout, share_maps"
    ):
        fusion('mgif', 8, MODALITIES, share_map=True)
    assert (
        fusion('mcb', 8, MODALITIES, {'bins': 3}, heads=2).size == 24
        and knobs('gmu') == []
        and 'without' not in knobs('mgif_without_prototype')
    )
    with pytest.raises(ValueError, match='part to leave out'):
        MGIF(8, without='gates')
    with pytest.raises(ValueError, match='heads'):
        MGIF(9)
    assert (
        attention(torch.zeros(1, 2, 8), torch.zeros(1, 3, 8), 2).shape == (1, 2, 2, 3)
        and Gate(4, bias=True).W1.bias is not None
    )
