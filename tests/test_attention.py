"Attention over packed dialogues is attention over each dialogue alone; a layer is the library's layer."

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from erc.nn.attention import (
    Attention,
    Encoder,
    EncoderLayer,
    attend,
    attention,
    from_blocks,
    in_blocks,
    inside,
    look,
)
from erc.data.batches import from_padded

LENGTHS = (5, 9, 1, 3, 9, 2)


def toy(lengths=LENGTHS, D=8, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return from_padded(
        {'x': torch.randn(len(lengths), max(lengths), D, generator=g, dtype=dtype)},
        torch.zeros(len(lengths), max(lengths)),
        lengths,
    )


def band(T, K):
    return torch.ones(T, T).tril().bool() & ~torch.ones(T, T).tril(-K - 1).bool()


def encoder(**k):
    torch.manual_seed(1)
    return Encoder(8, 2, 2, 16, **{'dropout': 0.0, **k}).double()


@pytest.mark.parametrize('most', [1, 2, 16])
@pytest.mark.parametrize('K', [None, 2])
def test_packed_is_each_dialogue_alone(most, K):
    b, net = toy(), encoder()
    allow = None if K is None else band(9, K)
    y = net(b.features['x'], inside(b, allow, most))
    for i, n in enumerate(LENGTHS):
        own = b.features['x'][b.dialogue == i]
        alone = net(own[None], partial(attend, allow=None if K is None else allow[:n, :n]))[0]
        assert (y[b.dialogue == i] - alone).abs().max() < 1e-12


def test_layers_are_the_librarys():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    ref = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for p in ref.parameters():
        p.data += 0.1 * torch.randn_like(p)
    ours = Encoder(8, 2, 3, 16).double()
    ours.load_state_dict(ref.state_dict())
    x, blocked = torch.randn(4, 7, 8).double(), ~band(7, 2)
    assert (ours(x, partial(attend, allow=~blocked)) - ref(x, mask=blocked)).abs().max() < 1e-12
    pre = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True).double().eval()
    mine = EncoderLayer(8, 2, 16, pre=True).double()
    mine.load_state_dict(pre.state_dict())
    assert (mine(x) - pre(x)).abs().max() < 1e-12


def test_key_mask_and_source_are_the_librarys():
    torch.manual_seed(0)
    ref, ours = nn.MultiheadAttention(8, 2, batch_first=True).double(), Attention(8, 2).double()
    ours.load_state_dict(ref.state_dict())
    x, y, gone = (
        torch.randn(3, 4, 8).double(),
        torch.randn(3, 6, 8).double(),
        torch.tensor([[0] * 6, [0] * 3 + [1] * 3, [0] + [1] * 5]).bool(),
    )
    want, w = ref(x, y, y, key_padding_mask=gone, average_attn_weights=False)
    assert (ours(x, partial(attend, allow=~gone[:, None]), y) - want).abs().max() < 1e-12
    q, k, _ = ours.project(x, y)
    assert (attention(q, k, 2, ~gone[:, None]) - w).abs().max() < 1e-12


def test_answers_from_other_rows():
    "Questions of three, answers of five rows a sequence, packed apart."
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(4, 8, generator=g),
        torch.randn(7, 8, generator=g),
        torch.randn(7, 8, generator=g),
    )
    asks, answers = (
        [torch.tensor([[2, 0, 1], [3, 4, 4]])],
        [torch.tensor([[6, 1, 0, 2, 7], [3, 5, 4, 7, 7]])],
    )
    y = look(q, k, v, asks, 2, keys=answers)
    assert (
        y[[2, 0, 1]] - attend(q[[2, 0, 1]], k[[6, 1, 0, 2]], v[[6, 1, 0, 2]], 2)
    ).abs().max() < 1e-6
    assert (y[3] - attend(q[[3]], k[[3, 5, 4]], v[[3, 5, 4]], 2)[0]).abs().max() < 1e-6


def test_nobody_to_ask_breaks_no_gradient():
    "Padded rows of a banded mask may ask nobody."
    b, net = toy((9, 1, 2)), encoder()
    x = b.features['x'].clone().requires_grad_()
    net(x, inside(b, band(9, 1))).square().sum().backward()
    assert torch.isfinite(x.grad).all() and all(
        torch.isfinite(p.grad).all() for p in net.parameters()
    )


def test_context_free_is_the_diagonal_mask():
    b, net = toy(), encoder()
    x = b.features['x']
    a, c = net(x, None), net(x, inside(b, torch.eye(9).bool()))
    assert (a - c).abs().max() < 1e-12 and (
        a - torch.cat([net(r[None, None])[0] for r in x])
    ).abs().max() < 1e-12


@pytest.mark.parametrize('how', ['packed', 'dense', 'alone'])
def test_seeds_side_by_side_equal_each_alone(how):
    from torch.func import functional_call, stack_module_state

    b, nets = toy(), []
    for s in range(3):
        torch.manual_seed(s)
        nets.append(Encoder(8, 2, 2, 16, dropout=0.3).double())
    x = b.features['x'] if how != 'dense' else b.features['x'][:, None].expand(-1, 3, -1)
    layout = {'packed': inside(b, band(9, 2)), 'dense': attend, 'alone': None}[how]
    params, _ = stack_module_state(nets)
    got = torch.vmap(lambda p, s: functional_call(nets[0], p, (x, layout), {'batch': b.at(s, 4)}))(
        params, torch.arange(3)
    )
    for i, net in enumerate(nets):
        assert (got[i] - net(x, layout, batch=b.at(i, 4))).abs().max() < 1e-12
    assert (got[0] - nets[0](x, layout)).abs().max() > 0.01


def test_dropout_of_weights_is_keyed_by_turns():
    "Neighbours in the batch do not change what is dropped."
    net, b = encoder(dropout=0.4), toy((4, 3))
    a = net(b.features['x'], inside(b, None, 1), batch=b.at(1, 2))
    assert (a - net(b.features['x'], inside(b, None, 16), batch=b.at(1, 2))).abs().max() < 1e-12
    mask = net.layers[0].self_attn(b.features['x'], inside(b), drop=lambda units: None)
    dropped = net.layers[0].self_attn(
        b.features['x'], inside(b), drop=lambda units: torch.zeros(len(b), units)
    )
    assert (dropped - net.layers[0].self_attn.out_proj.bias).abs().max() < 1e-12 and (
        mask - dropped
    ).abs().max() > 0.01


def test_blocks_go_there_and_back():
    b = toy()
    x = b.features['x'].requires_grad_()
    parts = in_blocks(x, b.blocks(2))
    assert [tuple(p.shape) for p in parts] == [(2, 9, 8), (2, 5, 8), (2, 2, 8)]
    assert (
        torch.equal(from_blocks(parts, b.blocks(2), len(b)), x)
        and float(parts[1][1, 3:].detach().abs().max()) == 0
    )


def test_bad_input():
    with pytest.raises(ValueError, match='3 heads do not divide a width of 8'):
        Encoder(8, 3, 1)
    with pytest.raises(ValueError, match='heads'):
        Attention(8, 0)
    with pytest.raises(ValueError, match='layers=-1'):
        Encoder(8, 2, -1)


def test_first_layers_differ():
    net = Encoder(8, 2, 2)
    assert not torch.equal(net.layers[0].linear1.weight, net.layers[1].linear1.weight)
    assert (
        copy.deepcopy(net).state_dict().keys()
        == nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2, enable_nested_tensor=False)
        .state_dict()
        .keys()
    )
    assert np.isclose(float(net.layers[0].self_attn.in_proj_bias.detach().abs().sum()), 0)
