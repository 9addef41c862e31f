"The losses of MultiEMO against the authors' numbers, and where the authors' code breaks."

import time
from functools import partial

import pytest
import torch
from helpers import close

from erc.models.swfc import _focal_terms, _sample_weights, soft_hgr, swfc_loss

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


def select_case(arrays, case):
    prefix = f'{case}.'
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def loss_and_gradient(c, **options):
    defaults = dict(alpha=0.8, gamma=2.0, tau=0.8)
    options = {**{k: float(c.get(k, v)) for k, v in defaults.items()}, **options}
    z = T(c['z']).requires_grad_()
    loss = swfc_loss(z, T(c['y']).long(), c['class_counts'], **options)
    loss.backward()
    return loss, z.grad


@pytest.mark.parametrize('case', CASES)
def test_swfc_matches_the_authors(golden, case):
    "Made with TaoShi1998/MultiEMO@e96458b in float64; where it fails, what it should have been."
    c = select_case(golden('multiemo/a_swfc'), case)
    loss, gradient = loss_and_gradient(c)
    close(loss, next(c[k] for k in ('loss', 'loss_expected', 'loss_safe') if k in c))
    close(gradient, next(c[k] for k in ('dz', 'dz_expected', 'dz_safe') if k in c))
    theirs = c.get('class_weights_safe', c.get('class_weights'))
    if theirs is not None:
        counts, alpha = T(c['class_counts']).double(), float(c.get('alpha', 0.8))
        close(_sample_weights(counts, alpha, normalise=True), theirs)


def test_swfc_as_printed(golden):
    c = select_case(golden('multiemo/a_swfc'), 'mixed')
    loss, gradient = loss_and_gradient(c, alpha=0.8, gamma=2.0, tau=0.8, variant='paper')
    close(loss, c['paper_loss_sum'])
    close(gradient, c['paper_dz'])
    y = T(c['y']).long()
    close(_sample_weights(torch.bincount(y).double(), 0.8)[y], c['paper_sample_weight'])


def test_swfc_as_printed_of_unit_vectors(golden):
    "The gradient is that of z before it is normalised."
    c = select_case(golden('multiemo/a_swfc'), 'mixed')
    z = T(c['z']).requires_grad_()
    unit, options = z / z.norm(dim=1, keepdim=True), dict(alpha=0.8, gamma=2.0, tau=0.8)
    loss = swfc_loss(unit, T(c['y']).long(), variant='paper', **options)
    loss.backward()
    close(loss, c['paper_normalised_loss_sum'])
    close(z.grad, c['paper_normalised_dz'])


def test_swfc_with_large_products(golden):
    "z*60: a softmax whose logarithm is taken afterwards is minus infinity."
    c = select_case(golden('multiemo/a_swfc'), 'paper_large_logits')
    options = dict(alpha=0.8, gamma=2.0, tau=0.8, variant='paper')
    loss, gradient = loss_and_gradient({**c, 'class_counts': None}, **options)
    close(loss / float(c['loss_sum']), 1)
    close(gradient / abs(c['dz']).max(), c['dz'] / abs(c['dz']).max())


@pytest.mark.parametrize('gamma', [0.0, 1.0, 2.0, 2.4])
def test_focal_terms_return_their_gradient(gamma):
    torch.manual_seed(0)
    scores = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    positive = torch.rand(4, 6) < 0.4
    s = scores.softmax(1)
    plain = -torch.where(positive, (1 - s) ** gamma * s.log(), 0).sum(1)
    value, gradient = _focal_terms(scores.detach().log_softmax(1), positive, gamma)
    close(value, plain, 1e-12)
    close(gradient, torch.autograd.grad(plain.sum(), scores)[0], 1e-12)


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
    three = [x.detach().requires_grad_() for x in (z, z.flip(0), z**2)]
    options = dict(gamma=2.4, alpha=1.1)
    for variant in ('released', 'paper'):
        swfc = partial(swfc_loss, labels=y, class_counts=[9, 4, 2], variant=variant, **options)
        assert torch.autograd.gradcheck(swfc, z)
        hgr = partial(soft_hgr, variant=variant)
        assert torch.autograd.gradcheck(hgr, three)


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
    for N in (0, 1, 3):  # no utterance, or none with a label
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
def test_soft_hgr_matches_the_authors(golden, case):
    c = select_case(golden('multiemo/b_softhgr'), case)
    names = {
        'released': ('loss', 'df_{}'),
        'paper': ('paper_loss_unordered_pairs', 'paper_df_{}_unordered'),
    }
    for variant, (loss, gradient) in names.items():
        features = [T(c[f'f_{m}']).requires_grad_() for m in 'tav']
        ours = soft_hgr(*features, variant=variant)
        ours.backward()
        close(ours, c[loss])
        for m, x in zip('tav', features):
            close(x.grad, c[gradient.format(m)])


def test_losses_stack():
    "vmap over seeds equals one seed at a time."
    torch.manual_seed(0)
    z, y = torch.randn(3, 9, 4, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2, 2, -1, 0])
    for variant in ('released', 'paper'):

        def both(z, variant=variant):
            swfc = swfc_loss(z, y, [4, 3, 3], variant=variant)
            return swfc + soft_hgr(z, z.flip(0), variant=variant)

        close(torch.vmap(both)(z), [both(x).item() for x in z], 1e-12)


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
            swfc = partial(swfc_loss, z, y, [500] * 6, gamma=gamma)
            assert min(seconds(swfc) for _ in range(4)) < 0.5
        assert min(seconds(lambda: soft_hgr(z, z * 2, z.flip(0))) for _ in range(4)) < 0.25
    finally:
        torch.set_num_threads(threads)


def test_no_pair_is_kept_for_the_way_back():
    "A million pairs are processed in blocks: what is kept for the backward pass is a few copies of z."
    z, y, kept = torch.randn(1000, 16, requires_grad=True), torch.randint(0, 6, (1000,)), {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        swfc_loss(z, y, [500] * 6)
    assert sum(kept.values()) < 10 * z.nbytes < 1000 * 1000
