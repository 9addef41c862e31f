"Keyed dropout is a fixed function; recurrent cells and losses equal the library's, alone and in a stack."

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import close, toy_batch
from torch.func import functional_call, stack_module_state

from erc.data.batches import from_padded
from erc.nn.cells import (
    GRUCell,
    Out,
    Products,
    _hash_int32,
    _random_key,
    dropout,
    dropout_mask,
    weighted_nll,
)


def lowbias32(x):
    "Return Wellons' hash of one integer in plain Python."
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_hash_is_lowbias32():
    x = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31), 123456789], dtype=torch.int32)
    want = [lowbias32(v % 2**32) for v in x.tolist()]
    assert [v % 2**32 for v in _hash_int32(x).tolist()] == want


def test_masks_stay_what_they_were():
    "The masks that every recorded run was trained with; a change here would make all runs stale."
    b = from_padded({'x': torch.ones(3, 2, 4)}, torch.zeros(3, 2, dtype=torch.long), [2, 1, 2])
    assert _random_key(b.at(3, 7), 'place') == 218154367
    kept = dropout_mask(8, 0.5, b.at(3, 7), 'place') > 0
    assert [''.join(str(int(v)) for v in row) for row in kept] == [
        '10110000',
        '11010101',
        '11000001',
        '11101100',
        '10100111',
    ]


def test_masks_depend_on_seed_step_place_row_and_unit():
    b = toy_batch({'x': 4})
    mask = dropout_mask(64, 0.5, b.at(0, 0), 'here')
    others = [
        dropout_mask(64, 0.5, b.at(1, 0), 'here'),
        dropout_mask(64, 0.5, b.at(0, 1), 'here'),
        dropout_mask(64, 0.5, b.at(0, 0), 'there'),
        mask.roll(1, 0),
        mask.roll(1, 1),
    ]
    for other in others:  # independent masks agree on half of their units
        assert 0.4 < (mask == other).double().mean() < 0.6
    some = torch.tensor([5, 2])
    assert torch.equal(dropout_mask(64, 0.5, b.at(0, 0), 'here', some), mask[some])


@pytest.mark.parametrize('p', [0.1, 0.5, 0.9])
def test_share_and_scale_of_kept_units(p):
    mask = dropout_mask(20_000, p, toy_batch({'x': 2}).at(0, 0), 'place')
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    sd = math.sqrt(p * (1 - p) / mask.numel())
    assert abs((mask > 0).double().mean() - (1 - p)) < 5 * sd


def test_evaluation_drops_nothing():
    b = toy_batch({'x': 4})
    x = b.features['x']
    assert dropout(x, 0.5, b, 'place') is x and dropout(x, 0, b.at(0, 0), 'place') is x
    for p in (1, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="dropout 'place' has p="):
            dropout(x, p, b, 'place')


def test_stacked_dropout_equals_each_seed():
    b = toy_batch({'x': 4})
    stacked = torch.vmap(lambda s: dropout(b.features['x'], 0.5, b.at(s, 3), 'p'))(torch.arange(3))
    for s in range(3):
        assert torch.equal(stacked[s], dropout(b.features['x'], 0.5, b.at(s, 3), 'p'))


def test_gru_cell_equals_the_library():
    torch.manual_seed(0)
    cells = [GRUCell(5, 3).double() for _ in range(2)]
    x, h = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    params, _ = stack_module_state(cells)
    stacked = torch.vmap(lambda p: functional_call(cells[0], p, (x, h)))(params)
    for cell, got in zip(cells, stacked):
        reference = torch.nn.GRUCell(5, 3).double()
        reference.load_state_dict(cell.state_dict())
        close(cell(x, h), reference(x, h), 1e-12)
        close(got, reference(x, h), 1e-12)


def recurrence(product, sizes, h):
    "Return all states (M, N, K) of h' = tanh(product(h)) over steps of `sizes` rows."
    states = []
    for n in sizes:
        h = product(h[:, :n]).tanh()
        states.append(h)
    return torch.cat(states, 1)


@pytest.mark.parametrize('stacked', [False, True])
def test_products_have_the_gradients_of_autograd(stacked):
    g, sizes = torch.Generator().manual_seed(0), (3, 3, 2, 1)
    rows, weight = (
        torch.randn(2, n, 4, generator=g, dtype=torch.float64).requires_grad_() for n in (9, 4)
    )
    h = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    target = torch.randn(2, 9, 4, generator=g, dtype=torch.float64)

    def ours(rows, weight, h):
        return recurrence(Products(rows, weight, sizes), sizes, h)

    def plain(rows, weight, h):
        left = list(rows.split(sizes, 1))
        return recurrence(lambda x: left.pop(0) + x @ weight, sizes, h)

    if stacked:  # as the engine does: seeds by vmap, one cell each
        one = ours

        def ours(*tensors):
            run = torch.vmap(lambda *t: one(*(x[None] for x in t))[0])
            return run(*tensors)

    results = []
    for run in (ours, plain):
        y = run(rows, weight, h)
        results.append((y, *torch.autograd.grad((y * target).sum(), (rows, weight))))
    for a, b in zip(*results):
        close(a, b, 1e-12)
    with torch.no_grad():
        close(ours(rows, weight, h), results[1][0], 1e-12)


def test_loss_equals_the_library():
    torch.manual_seed(0)
    log_prob, y = torch.randn(6, 3).double().log_softmax(-1), torch.tensor([0, 2, -1, 1, 1, 0])
    for weight in (None, torch.tensor([1.0, 2.0, 5.0]).double()):
        close(weighted_nll(log_prob, y, weight), F.nll_loss(log_prob, y, weight, ignore_index=-1))


def test_loss_without_labels_is_zero():
    log_prob = torch.randn(2, 3).log_softmax(-1).requires_grad_()
    loss = weighted_nll(log_prob, torch.tensor([-1, -1]))
    loss.backward()
    assert loss == 0 and torch.isfinite(log_prob.grad).all()


def test_out_is_a_tree_of_tensors():
    out = torch.vmap(lambda x: Out(x, {'aux': x.sum()}, {'gate': x}))(torch.ones(2, 3, 4))
    assert isinstance(out, Out) and out.logits.shape == (2, 3, 4)
    assert out.losses['aux'].tolist() == [12, 12] and out.probes['gate'].shape == (2, 3, 4)
