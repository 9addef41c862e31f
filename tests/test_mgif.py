"Every fusion equals numbers computed independently of it, in a stack of seeds and on any processor."

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import close, toy_batch
from torch.func import functional_call, stack_module_state

from erc.models.mgif import (
    _FUSIONS,
    _GMU,
    _MCB,
    _MODALITIES,
    MGIF,
    Gate,
    _check_fusion,
    _CrossModalEncoder,
    _Discriminator,
    _make_fusion,
    _modality_pairs,
    _sinusoids,
)
from erc.nn.attention import attend, within_dialogues

T = torch.from_numpy
LETTERS = {'text': 'u', 'audio': 'a', 'visual': 'v'}  # of the golden arrays


def encoder_state(g, prefix):
    "Return golden arrays (`mgif0_linear1_weight`) under the names of `Encoder`."
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
    return {m: T(g[f'r_{letter}']) for m, letter in LETTERS.items()}


def mgif_of(g, modalities=_MODALITIES, **k):
    m = MGIF(8, modalities, heads=int(g['heads']), layers=2, ffn=16, dropout=0.0, **k).double()
    state = {f'encoder.{n}': v for n, v in encoder_state(g, 'mgif').items()} | {
        'e_cls': T(g['e_cls'])
    }
    for a, b in _modality_pairs(modalities):
        for n in ('W1', 'W2', 'Wz'):
            state[f'gates.{a}_{b}.{n}.weight'] = T(g[f'{n}_{LETTERS[a]}{LETTERS[b]}'])
    own = m.state_dict()
    m.load_state_dict({k: state[k] for k in own})
    return m


def test_gates(g):
    r, m = r_of(g), mgif_of(g)
    for (a, b), (x, y) in zip(_modality_pairs(_MODALITIES), ('ua', 'uv', 'av')):
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
    d = _Discriminator(8, 8, 0 if values else 6).double()
    d.load_state_dict({'W_O.weight': T(g['W_O']), 'out.weight': T(g['W_D' if values else 'W_C'])})
    y = d(T(g['o_mgif']))
    if values:
        close(y[:, None], g['pred_dimensional'])
    else:
        close(y.softmax(-1), g['prob_categorical'])
        assert (y.argmax(-1).numpy() == g['pred_categorical']).all()


def test_alternatives(golden):
    g = golden('dialoguetrm/fusion_alternatives')
    r = {m: T(g[letter]) for m, letter in LETTERS.items()}
    for name in ('additive', 'concat', 'max'):
        close(_make_fusion(name, 8, _MODALITIES)(r), g[name])
    bil = _make_fusion('bilinear', 8, _MODALITIES).double()
    bil.load_state_dict({f'W.{m}.weight': T(g[f'W_bil_{x}']) for m, x in LETTERS.items()})
    close(bil(r), g['bilinear_hadamard'])
    mcb = _MCB(8, bins=2).double()
    for m, x in LETTERS.items():
        mcb.set_sketch(m, g[f'mcb_hash_{x}'], g[f'mcb_sign_{x}'])
    mcb.double()
    close(mcb.convolution(r), g['mcb_raw'])
    close(mcb(r), g['mcb'])
    gmu = _GMU(8).double()
    gmu.load_state_dict(
        {f'W.{m}.weight': T(g[f'gmu_W_{x}']) for m, x in LETTERS.items()}
        | {f'Wz.{m}.weight': T(g[f'gmu_Wz_{x}']) for m, x in LETTERS.items()}
    )
    close(gmu(r), g['gmu_tri'])
    two = _GMU(8, ('text', 'audio')).double()
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
    m, state = _CrossModalEncoder(8, int(g['heads']), 2, 0.0).double(), {}
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
    out = {
        'cross_out': m(x, y),
        'self_out': m(x),
        'cross_len1_out': m(x[:, :1], y[:, :1]),
        'cross_out_future_mask': m(x, y, partial(attend, allow=~ahead)),
    }
    for k, v in out.items():
        close(v[0], g[k])
        close(v[0], g[f'official_{k}'], 1e-6)  # the official code's sinusoids are float32


def toy(lengths=(4, 2, 1), modalities=_MODALITIES):
    return toy_batch({m: 8 for m in modalities}, lengths)


def small_fusion(name, names, seed):
    torch.manual_seed(seed)
    return _make_fusion(name, 8, names, heads=2, layers=1, ffn=16, dropout=0.2).double()


@pytest.mark.parametrize(
    'names', [_MODALITIES, ('text', 'audio'), ('audio', 'visual')], ids='+'.join
)
@pytest.mark.parametrize('name', sorted(_FUSIONS))
def test_seeds_stack_and_turns_stay_apart(name, names):
    b, fusions = toy(modalities=names), [small_fusion(name, names, s) for s in range(2)]
    within = within_dialogues(b)

    def forward(params, buffers, seed):
        return functional_call(fusions[0], (params, buffers), (b.features, b.at(seed, 0), within))

    params, buffers = stack_module_state(fusions)
    got = torch.vmap(forward)(params, buffers, torch.arange(2))
    assert got.shape == (2, 7, fusions[0].size)
    for i, fusion in enumerate(fusions):
        close(got[i], fusion(b.features, b.at(i, 0), within).detach(), 1e-12)
    if name != 'mult':
        one_turn = {k: v[3:4] for k, v in b.features.items()}
        close(fusions[0](one_turn), fusions[0](b.features)[3:4].detach(), 1e-12)
    x = {k: v.clone().requires_grad_() for k, v in b.features.items()}
    fusions[0](x, b, within).square().sum().backward()
    assert all(torch.isfinite(v.grad).all() for v in x.values())


def reached_bins(mcb):
    "Return which bins (D,) receive a product of numbers of two modalities."
    first, second = (getattr(mcb, f'sketch_{m}').abs().argmax(1) for m in mcb.names)
    bins = (first[:, None] + second) % mcb.size
    return torch.zeros(mcb.size, dtype=torch.bool).index_fill(0, bins.flatten(), True)


def round_differently(mcb, seed):
    "Let the transforms of a fusion round as they might on another processor."
    g = torch.Generator().manual_seed(seed)

    def elsewhere(r):
        y = _MCB.convolution(mcb, r)
        error = torch.randn(y.shape, generator=g, dtype=y.dtype)
        return y + torch.finfo(y.dtype).eps * y.norm(dim=-1, keepdim=True) * error

    mcb.convolution = elsewhere


def value_and_gradients(fusion, features):
    x = {k: v.clone().requires_grad_() for k, v in features.items()}
    y = fusion(x)
    target = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (y * target).sum().backward()
    return y.detach(), torch.cat([v.grad for v in x.values()])


@pytest.mark.parametrize('names', [('text', 'audio'), ('audio', 'visual')], ids='+'.join)
def test_pooling_does_not_depend_on_how_transforms_round(names):
    "Bins that no product reaches are zero but for rounding, which the root must not enlarge."
    features, mcb = toy((9, 4, 2), names).features, _MCB(8, names).double()
    value, gradients = value_and_gradients(mcb, features)
    reached = reached_bins(mcb)
    assert 0 < (~reached).sum() < 16
    assert (value[:, ~reached] == 0).all() and (value[:, reached] != 0).all()
    for seed in range(5):
        round_differently(mcb, seed)
        other_value, other_gradients = value_and_gradients(mcb, features)
        close(value, other_value, 1e-12)
        close(gradients, other_gradients, 1e-9)


def test_gradient_of_pooling_equals_finite_differences():
    torch.manual_seed(0)
    mcb, (x, y) = _MCB(4, ('text', 'audio'), bins=2).double(), torch.randn(2, 3, 4).double()

    def pooled(x, y):
        return mcb({'text': x, 'audio': y})

    assert torch.autograd.gradcheck(pooled, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_pooling_of_zeros_is_zero_with_gradient_zero(dtype):
    r = {m: torch.zeros(2, 8, dtype=dtype) for m in _MODALITIES}
    value, gradients = value_and_gradients(_MCB(8).to(dtype), r)
    assert (value == 0).all() and (gradients == 0).all()


def test_sketches_are_the_same_for_all_seeds():
    torch.manual_seed(1)
    a = _MCB(8)
    torch.manual_seed(2)
    b = _MCB(8)
    assert torch.equal(a.sketch_text, b.sketch_text) and not torch.equal(
        a.sketch_text, a.sketch_audio
    )


def test_shared_maps_are_one_each():
    small = dict(heads=2, layers=1, ffn=16)
    m, own = MGIF(8, share_maps=True, **small), MGIF(8, **small)
    assert (
        m.gates['text_audio'].W1 is m.gates['text_visual'].W1
        and m.gates['text_audio'].W2 is m.gates['audio_visual'].W1
    )
    assert (
        sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in m.parameters()) == 3 * 64
    )


def test_sizes_of_the_paper():
    "Counted in the specification, at a width of 768."

    def count(module):
        return sum(p.numel() for p in module.parameters())

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
    assert torch.equal(_sinusoids(t, 64), torch.cat([x.sin(), x.cos()], -1)) and torch.equal(
        _sinusoids(t, 64, torch.float32), _sinusoids(t, 64)
    )
    exact = np.arange(1, 111)[:, None] * np.exp(np.arange(32) * (-np.log(10000) / 31))
    close(
        _sinusoids(t, 64, torch.float64), np.concatenate([np.sin(exact), np.cos(exact)], -1), 1e-12
    )


@pytest.mark.parametrize('positions', [True, False])
def test_positions_tell_the_order(positions):
    "Another order of the vectors of a turn changes the result only with learned positions."
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
    with pytest.raises(ValueError, match='at least two modalities; given: text'):
        MGIF(8, ['text'])
    with pytest.raises(ValueError, match='given: none'):
        _modality_pairs([])
    with pytest.raises(ValueError, match="did you mean 'visual'"):
        _modality_pairs(['visuel', 'text'])
    with pytest.raises(ValueError, match='part to leave out'):
        MGIF(8, without='gates')
    with pytest.raises(ValueError, match='heads'):
        MGIF(9)
    assert Gate(4, bias=True).W1.bias is not None


def test_fusions_by_name():
    with pytest.raises(ValueError, match="did you mean 'mult'"):
        _make_fusion('mulT', 8, _MODALITIES)
    with pytest.raises(ValueError, match="'additive' has no option 'heads'; it has none"):
        _make_fusion('additive', 8, _MODALITIES, {'heads': 1})
    with pytest.raises(ValueError, match="no option 'bnis'; it has bins"):
        _make_fusion('mcb', 8, _MODALITIES, bnis=3)
    known = 'it has heads, layers, ffn, dropout, share_maps'
    with pytest.raises(ValueError, match=f"no option 'share_map'; {known}"):
        _make_fusion('mgif', 8, _MODALITIES, share_map=True)
    with pytest.raises(ValueError, match="no option 'without'"):
        _check_fusion('mgif_without_prototype', ['without'])
    _check_fusion('gmu')
    assert _make_fusion('mcb', 8, _MODALITIES, {'bins': 3}, heads=2).size == 24
