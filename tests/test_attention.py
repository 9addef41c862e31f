"Attention over packed dialogues equals attention over each dialogue alone; a layer equals the library's."

import copy
from functools import partial

import pytest
import torch
from helpers import close, toy_batch
from torch import nn
from torch.func import functional_call, stack_module_state

from erc.nn.attention import (
    Attention,
    Encoder,
    EncoderLayer,
    _attention_weights,
    _from_blocks,
    _to_blocks,
    attend,
    attend_packed,
    within_dialogues,
)

LENGTHS = (5, 9, 1, 3, 9, 2)


def toy(lengths=LENGTHS):
    return toy_batch({'x': 8}, lengths)


def band(T, K):
    "Return the mask (T, T) of the turn itself and the K turns before it."
    return torch.ones(T, T).tril().bool() & ~torch.ones(T, T).tril(-K - 1).bool()


def encoder(**k):
    torch.manual_seed(1)
    return Encoder(8, 2, 2, 16, **{'dropout': 0.0, **k}).double()


@pytest.mark.parametrize('most', [1, 2, 16])
@pytest.mark.parametrize('K', [None, 2])
def test_packed_equals_each_dialogue_alone(most, K):
    b, net = toy(), encoder()
    allow = None if K is None else band(9, K)
    y = net(b.features['x'], within_dialogues(b, allow, most))
    for i, n in enumerate(LENGTHS):
        own = b.features['x'][b.dialogue == i]
        alone = net(own[None], partial(attend, allow=None if K is None else allow[:n, :n]))[0]
        close(y[b.dialogue == i], alone.detach(), 1e-12)


def test_layers_equal_the_library():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    reference = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for p in reference.parameters():
        p.data += 0.1 * torch.randn_like(p)
    ours = Encoder(8, 2, 3, 16).double()
    ours.load_state_dict(reference.state_dict())
    x, blocked = torch.randn(4, 7, 8).double(), ~band(7, 2)
    close(ours(x, partial(attend, allow=~blocked)), reference(x, mask=blocked).detach(), 1e-12)


def test_layers_with_norms_first_equal_the_library():
    torch.manual_seed(0)
    reference = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    reference = reference.double().eval()
    ours = EncoderLayer(8, 2, 16, pre=True).double()
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(4, 7, 8).double()
    close(ours(x), reference(x).detach(), 1e-12)


def test_key_mask_and_source_equal_the_library():
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(8, 2, batch_first=True).double()
    ours = Attention(8, 2).double()
    ours.load_state_dict(reference.state_dict())
    x, source = torch.randn(3, 4, 8).double(), torch.randn(3, 6, 8).double()
    padding = torch.tensor([[0] * 6, [0] * 3 + [1] * 3, [0] + [1] * 5]).bool()
    want, weights = reference(
        x, source, source, key_padding_mask=padding, average_attn_weights=False
    )
    allow = ~padding[:, None]
    close(ours(x, partial(attend, allow=allow), source), want.detach(), 1e-12)
    q, k, _ = ours.project(x, source)
    close(_attention_weights(q, k, 2, allow), weights.detach(), 1e-12)


def test_keys_from_other_rows():
    "Sequences of three and one queries, and of four and three keys, packed apart."
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, 8, generator=g) for n in (4, 7, 7))
    query_rows = [torch.tensor([[2, 0, 1], [3, 4, 4]])]
    key_rows = [torch.tensor([[6, 1, 0, 2, 7], [3, 5, 4, 7, 7]])]
    y = attend_packed(q, k, v, query_rows, 2, keys=key_rows)
    first, second = [6, 1, 0, 2], [3, 5, 4]
    close(y[[2, 0, 1]], attend(q[[2, 0, 1]], k[first], v[first], 2), 1e-6)
    close(y[3], attend(q[[3]], k[second], v[second], 2)[0], 1e-6)


def test_blocked_rows_have_finite_gradients():
    "All keys of a padded row are blocked by a banded mask."
    b, net = toy((9, 1, 2)), encoder()
    x = b.features['x'].clone().requires_grad_()
    net(x, within_dialogues(b, band(9, 1))).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_context_free_equals_the_diagonal_mask():
    b, net = toy(), encoder()
    x = b.features['x']
    y = net(x, None)
    close(y, net(x, within_dialogues(b, torch.eye(9).bool())).detach(), 1e-12)
    close(y, torch.cat([net(row[None, None])[0] for row in x]).detach(), 1e-12)


@pytest.mark.parametrize('layout', ['packed', 'dense', 'alone'])
def test_stacked_seeds_equal_each_alone(layout):
    b, nets = toy(), []
    for s in range(3):
        torch.manual_seed(s)
        nets.append(Encoder(8, 2, 2, 16, dropout=0.3).double())
    x = b.features['x'] if layout != 'dense' else b.features['x'][:, None].expand(-1, 3, -1)
    attention = {'packed': within_dialogues(b, band(9, 2)), 'dense': attend, 'alone': None}[layout]

    def forward(params, seed):
        return functional_call(nets[0], params, (x, attention), {'batch': b.at(seed, 4)})

    params, _ = stack_module_state(nets)
    got = torch.vmap(forward)(params, torch.arange(3))
    for i, net in enumerate(nets):
        close(got[i], net(x, attention, batch=b.at(i, 4)).detach(), 1e-12)
    assert (got[0] - nets[0](x, attention)).abs().max() > 0.01  # dropout acted


def test_dropout_of_weights_is_keyed_by_turns():
    "Other dialogues of a block do not change what is dropped."
    net, b = encoder(dropout=0.4), toy((4, 3))
    x = b.features['x']
    small, large = (net(x, within_dialogues(b, None, n), batch=b.at(1, 2)) for n in (1, 16))
    close(small, large.detach(), 1e-12)


def test_dropped_weights_leave_the_bias():
    net, b = encoder(dropout=0.4).layers[0].self_attn, toy((4, 3))
    x, attention = b.features['x'], within_dialogues(b)
    kept = net(x, attention, drop=lambda units: None)
    dropped = net(x, attention, drop=lambda units: torch.zeros(len(b), units))
    assert (dropped - net.out_proj.bias).abs().max() < 1e-12
    assert (kept - dropped).abs().max() > 0.01


def test_blocks_and_back():
    b = toy()
    x = b.features['x'].requires_grad_()
    parts = _to_blocks(x, b.blocks(2))
    assert [tuple(p.shape) for p in parts] == [(2, 9, 8), (2, 5, 8), (2, 2, 8)]
    assert torch.equal(_from_blocks(parts, b.blocks(2), len(b)), x)
    assert float(parts[1][1, 3:].detach().abs().max()) == 0


def test_bad_input():
    with pytest.raises(ValueError, match='3 heads do not divide a width of 8'):
        Encoder(8, 3, 1)
    with pytest.raises(ValueError, match='heads'):
        Attention(8, 0)
    with pytest.raises(ValueError, match='layers=-1'):
        Encoder(8, 2, -1)


def test_layers_start_apart_with_the_names_of_the_library():
    net = Encoder(8, 2, 2)
    assert not torch.equal(net.layers[0].linear1.weight, net.layers[1].linear1.weight)
    layer = nn.TransformerEncoderLayer(8, 2)
    library = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    assert copy.deepcopy(net).state_dict().keys() == library.state_dict().keys()
    assert net.layers[0].self_attn.in_proj_bias.abs().sum() == 0
