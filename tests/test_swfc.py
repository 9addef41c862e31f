"The losses of MultiEMO against the authors' numbers, and where theirs break."

import time

import numpy as np
import pytest
import torch

from erc.data.registry import load_corpus
from erc.models.swfc import sample_weights, soft_hgr, swfc_loss
from erc.studies.multiemo import class_statistics
from erc.report.artefacts import reference

T = torch.from_numpy
CASES = [
    'mixed',
    'mixed_iemocap_sh',
    'mixed_gamma0',
    'mixed_alpha0',
    'mixed_tau1p4',
    'meld',
    'pair',
    'duplicates',
    'nopos',
    'class_absent_from_training',
]


def close(a, b, eps=1e-9):
    assert np.abs(np.asarray(a.detach()) - np.asarray(b)).max() < eps


def of(g, case):
    return {k.removeprefix(f'{case}.'): v for k, v in g.items() if k.startswith(f'{case}.')}


def run(c, **how):
    how = {
        **{k: float(c.get(k, d)) for k, d in (('alpha', 0.8), ('gamma', 2.0), ('tau', 0.8))},
        **how,
    }
    z = T(c['z']).requires_grad_()
    loss = swfc_loss(z, T(c['y']).long(), c['class_counts'], **how)
    loss.backward()
    return loss, z.grad


@pytest.mark.parametrize('case', CASES)
def test_swfc_is_the_authors(golden, case):
    "Made with TaoShi1998/MultiEMO@e96458b in float64; where it fails, what it should have been."
    c = of(golden('multiemo/a_swfc'), case)
    loss, dz = run(c)
    want = next(c[k] for k in ('loss', 'loss_expected', 'loss_safe') if k in c)
    close(loss, want)
    close(dz, next(c[k] for k in ('dz', 'dz_expected', 'dz_safe') if k in c))
    theirs = c.get('class_weights_safe', c.get('class_weights'))
    if theirs is not None:
        close(
            sample_weights(
                T(c['class_counts']).double(), float(c.get('alpha', 0.8)), normalise=True
            ),
            theirs,
        )


def test_swfc_as_printed(golden):
    c = of(golden('multiemo/a_swfc'), 'mixed')
    loss, dz = run(c, alpha=0.8, gamma=2.0, tau=0.8, variant='paper')
    close(loss, c['paper_loss_sum'])
    close(dz, c['paper_dz'])
    y = T(c['y']).long()
    close(sample_weights(torch.bincount(y).double(), 0.8)[y], c['paper_sample_weight'])


def test_swfc_as_printed_of_unit_vectors(golden):
    "The gradient is that of z before it is normalised."
    c = of(golden('multiemo/a_swfc'), 'mixed')
    z = T(c['z']).requires_grad_()
    loss = swfc_loss(
        z / z.norm(dim=1, keepdim=True),
        T(c['y']).long(),
        alpha=0.8,
        gamma=2.0,
        tau=0.8,
        variant='paper',
    )
    loss.backward()
    close(loss, c['paper_normalised_loss_sum'])
    close(z.grad, c['paper_normalised_dz'])


def test_swfc_with_large_products(golden):
    "z*60: a softmax whose logarithm is taken afterwards is minus infinity."
    c = of(golden('multiemo/a_swfc'), 'paper_large_logits')
    loss, dz = run({**c, 'class_counts': None}, alpha=0.8, gamma=2.0, tau=0.8, variant='paper')
    close(loss / float(c['loss_sum']), 1)
    close(dz / abs(c['dz']).max(), c['dz'] / abs(c['dz']).max())


@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0, 2.4])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_gradient_is_finite_where_s_is_one(gamma, dtype):
    z = torch.tensor([[50.0, 0], [50.0, 0], [-50.0, 0]], dtype=dtype, requires_grad=True)
    for variant in ('released', 'paper'):
        loss = swfc_loss(z, torch.tensor([0, 0, 1]), [2, 1], gamma=gamma, tau=0.01, variant=variant)
        (grad,) = torch.autograd.grad(loss, z)
        assert loss.isfinite() and grad.isfinite().all(), (gamma, variant)


def test_gradients_by_differences():
    torch.manual_seed(0)
    y = torch.tensor([0, 1, 1, 2, 0, -1, 2])
    z = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    for variant in ('released', 'paper'):
        assert torch.autograd.gradcheck(
            lambda z: swfc_loss(z, y, [9, 4, 2], gamma=2.4, alpha=1.1, variant=variant), z
        )
        assert torch.autograd.gradcheck(lambda z: soft_hgr(z, z.flip(0), z**2, variant=variant), z)


def test_rows_without_a_label_take_no_part():
    torch.manual_seed(0)
    z, y = torch.randn(8, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 1, -1, -1, 0])
    for variant in ('released', 'paper'):
        close(
            swfc_loss(z, y, [5, 5], variant=variant),
            swfc_loss(z[y >= 0], y[y >= 0], [5, 5], variant=variant).item(),
            1e-12,
        )


def test_small_batches():
    one = torch.randn(1, 4, requires_grad=True)
    for variant in ('released', 'paper'):
        for loss in (
            swfc_loss(one, torch.tensor([0]), [3], variant=variant),
            soft_hgr(one, one * 2, variant=variant),
            soft_hgr(one, variant=variant),
        ):
            assert loss.item() == 0 and torch.autograd.grad(loss, one)[0].abs().max() == 0
    for N in (0, 1, 3):  # nobody, or nobody with a label
        z, y = torch.ones(N, 4, requires_grad=True), torch.full((N,), -1)
        for variant, counts in (('released', [3]), ('paper', [3]), ('paper', None)):
            loss = swfc_loss(z, y, counts, variant=variant)
            assert loss.item() == 0 and (torch.autograd.grad(loss, z)[0] == 0).all()


def test_bad_input():
    z, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    with pytest.raises(ValueError, match='label 2 is outside the 2 classes'):
        swfc_loss(z, y, [1, 1])
    with pytest.raises(ValueError, match='label -2'):
        swfc_loss(z, y - 2, [1, 1, 1])
    with pytest.raises(ValueError, match='label -2: give a class of 0 or more, or -1 for none'):
        swfc_loss(z, y - 2, variant='paper')
    with pytest.raises(ValueError, match='4 rows, labels 3'):
        swfc_loss(z, y[:3], [1, 1, 1])
    with pytest.raises(ValueError, match='temperature'):
        swfc_loss(z, y, [1, 1, 1], tau=0)
    with pytest.raises(ValueError, match="unknown variant 'relased'; did you mean 'released'"):
        swfc_loss(z, y, [1, 1, 1], variant='relased')
    with pytest.raises(ValueError, match='needs class_counts'):
        swfc_loss(z, y)
    with pytest.raises(ValueError, match='differ in shape'):
        soft_hgr(z, z[:3])
    with pytest.raises(ValueError, match='unknown variant'):
        soft_hgr(z, z, variant='mine')


@pytest.mark.parametrize('case', ['n9d6', 'n4d8', 'n2d3'])
def test_soft_hgr(golden, case):
    c = of(golden('multiemo/b_softhgr'), case)
    for variant, loss, grad in (
        ('released', 'loss', 'df_{}'),
        ('paper', 'paper_loss_unordered_pairs', 'paper_df_{}_unordered'),
    ):
        f = [T(c[f'f_{m}']).requires_grad_() for m in 'tav']
        ours = soft_hgr(*f, variant=variant)
        ours.backward()
        close(ours, c[loss])
        for m, x in zip('tav', f):
            close(x.grad, c[grad.format(m)])


def test_losses_stack():
    "vmap over seeds equals one at a time."
    torch.manual_seed(0)
    z, y = torch.randn(3, 9, 4, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2, 2, -1, 0])
    for variant in ('released', 'paper'):
        f = lambda z: (
            swfc_loss(z, y, [4, 3, 3], variant=variant) + soft_hgr(z, z.flip(0), variant=variant)
        )
        close(torch.vmap(f)(z), [f(x).item() for x in z], 1e-12)


def test_losses_are_fast():
    "Forward and backward at 3,000 utterances on one core: SWFC below half a second, and no N x N covariance."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        z, y = torch.randn(3000, 256, requires_grad=True), torch.randint(0, 6, (3000,))

        def seconds(f):
            start = time.process_time()
            f().backward()
            return time.process_time() - start

        for gamma in (2.0, 2.4):
            assert (
                min(seconds(lambda: swfc_loss(z, y, [500] * 6, gamma=gamma)) for _ in range(4))
                < 0.5
            )
        assert min(seconds(lambda: soft_hgr(z, z * 2, z.flip(0))) for _ in range(4)) < 0.25
    finally:
        torch.set_num_threads(threads)


def test_counts_are_the_known_ones(data):
    "Against counts made from the distributed files by other means."
    known = reference('multiemo').query("artefact=='fig2_derived'")
    names = {'angry': 'anger'}
    same = lambda n: {names.get(k.lower(), k.lower()): v for k, v in n.items()}
    meld = class_statistics(load_corpus('meld'))
    assert {
        names.get(r.row.lower(), r.row.lower()): int(r.value)
        for r in known[known.dataset == 'MELD'].itertuples()
    } == same({k: meld['train'][k] + meld['test'][k] for k in meld['train']})
    test = sorted(class_statistics(load_corpus('iemocap6'))['test'].values())
    assert test == sorted(int(v) for v in known[known.dataset == 'IEMOCAP'].value)


def test_no_pair_is_kept_for_the_way_back():
    "A million pairs are worked off in blocks: what waits for the backward pass is a few copies of z."
    z, y, kept = torch.randn(1000, 16, requires_grad=True), torch.randint(0, 6, (1000,)), {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t,
        lambda t: t,
    ):
        swfc_loss(z, y, [500] * 6)
    assert sum(kept.values()) < 10 * z.nbytes < 1000 * 1000
