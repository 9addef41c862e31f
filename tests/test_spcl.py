"SPCL against numbers of the authors' module, and what must hold of queues, curriculum and prompts."

import ast
import dataclasses
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

import erc.models.spcl as S
from erc.data.batches import from_padded, make_batches
from erc.core import root
from erc.data.registry import load_corpus
from erc.runs.recipes import load_recipe, system
from erc.runs.run import run_system
from erc.models.spcl import (
    Curriculum,
    PrototypeQueues,
    SPCL,
    curriculum_keep_prob,
    spcl_anchors,
    spcl_loss,
    supcon_loss,
)
from erc.studies.mmspcl import Words, build_prompts
from erc.report.artefacts import artefacts
from erc.report.tables import comparison
from erc.training.engine import Single, Stack, Steps
from erc.training.fit import fit
from erc.training.settings import criterion

T = torch.from_numpy
CASES = ('caseA', 'caseB', 'caseC')


def close(a, b, eps=1e-9):
    assert (
        np.abs(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) - np.asarray(b)).max()
        < eps
    )


@pytest.fixture(scope='session')
def g(golden):
    return golden('mmspcl/spcl_loss')


def loss_and_grad(reps, *a, **k):
    x = T(reps).clone().requires_grad_()
    loss = spcl_loss(x, *a, **k)
    loss.backward()
    return loss, x.grad


# ---- golden numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('case', CASES)
def test_loss(g, case):
    reps, y, P = g['reps'], T(g['labels']), T(g[f'{case}_prototypes'])
    for variant in ('coupled', 'decoupled'):
        loss, grad = loss_and_grad(reps, y, P, tau=0.08, variant=variant)
        close(loss, g[f'{case}_{variant}_loss'])
        close(grad, g[f'{case}_{variant}_grad'])
        close(
            spcl_anchors(T(reps), y, P, tau=0.08, variant=variant)[0],
            g[f'{case}_{variant}_per_sample'],
        )
    close(spcl_anchors(T(reps), y, P, tau=0.08)[1], g['n_pos_incl_prototype'])
    per = spcl_anchors(T(reps), y, P, tau=0.08, denominator='paper')[0]
    close(per, g[f'{case}_paper_eq_per_sample'])
    close(spcl_loss(T(reps), y, P, tau=0.08, denominator='paper'), g[f'{case}_paper_eq_mean'])


def test_easy_and_filtered(g):
    y = T(g['easy_labels'])
    P = T(g['easy_queues']).mean(1)
    loss, grad = loss_and_grad(g['easy_reps'], y, P, tau=0.08)
    close(loss, g['easy_coupled_loss_thr0.3'])
    close(grad, g['easy_coupled_grad_thr0.3'])
    close(spcl_loss(T(g['easy_reps']), y, P, tau=0.08, threshold=0), g['easy_coupled_loss_thr0'])
    per = spcl_anchors(T(g['easy_reps']), y, P, tau=0.08)[0]
    close(per, g['easy_per_sample'])
    close(per.mean(), g['easy_coupled_loss_mean_nofilter'])
    loss, grad = loss_and_grad(g['easy_reps'], y, P, tau=0.08, variant='decoupled')
    close(loss, g['easy_decoupled_loss_thr0'])
    close(grad, g['easy_decoupled_grad_thr0'])
    y = T(g['filter_labels'])
    loss, grad = loss_and_grad(g['filter_reps'], y, P, tau=0.08)
    close(loss, g['filter_loss_thr03'])
    close(grad, g['filter_grad_thr03'])
    per = spcl_anchors(T(g['filter_reps']), y, P, tau=0.08)[0]
    close(per, g['filter_per_sample'])
    assert ((per > 0.3) == T(g['filter_kept']).bool()).all()
    close(
        spcl_anchors(T(g['filter_reps']), y, P, tau=0.08, denominator='paper')[0],
        g['filter_paper_eq_per_sample'],
    )


def test_a_batch_without_in_batch_positives(g):
    P = T(g['queues']).mean(1)
    loss, grad = loss_and_grad(g['reps'][:3], T(g['single_labels']), P, tau=0.08)
    close(loss, g['single_coupled_loss'])
    close(grad, g['single_coupled_grad'])
    close(
        spcl_anchors(T(g['reps'][:3]), T(g['single_labels']), P, tau=0.08)[0],
        g['single_per_sample'],
    )


def test_without_prototypes_it_is_eq_6(g):
    per, n = spcl_anchors(
        T(g['reps']), T(g['labels']), torch.zeros(3, 5), tau=0.08, denominator='paper'
    )
    want = g['sup_per_sample_nan_if_no_positive']
    has = ~np.isnan(want)
    close(per[has], want[has])
    assert (n.numpy() > 0).tolist() == has.tolist()


def filled(g, vectors, **how):
    "Queues that hold just these vectors."
    q = PrototypeQueues(3, 5, **{'length': 16, 'support': 4, **how}).double()
    q.restart(T(g['centers']))
    q.arrived.fill_(-1)
    for k, v in enumerate(vectors):
        q.push(T(v), torch.full((len(v),), k))
    return q


def test_prototypes_and_lengths(g):
    q = filled(g, g['queues'])
    P, few = q.prototypes()
    close(P, g['caseA_prototypes'])
    assert not few.any()
    q.push(T(g['reps']), T(g['labels']))
    assert q.counts().tolist() == g['caseA_queue_len_after'].tolist()
    q = filled(g, g['long_queues'])
    draws = torch.zeros(3, 16, dtype=torch.long)
    for k, own in enumerate(g['support_idx']):
        draws[k, own] = torch.arange(1, 5)
    close(q.prototypes(draws)[0], g['caseB_prototypes'])
    q.push(T(g['reps']), T(g['labels']))
    assert q.counts().tolist() == g['caseB_queue_len_after'].tolist()
    q = filled(g, [g['queues'][0], g['queues'][1][:3], g['queues'][2]])
    P, few = q.prototypes()
    close(P, g['caseC_prototypes'])
    assert few.tolist() == [False, True, False] and q.fallen.tolist() == [0, 1, 0]
    q.push(T(g['reps']), T(g['labels']))
    assert q.counts().tolist() == g['caseC_queue_len_after'].tolist()


def test_prediction(g):
    s = S.similarity(T(g['reps']), T(g['caseA_prototypes']))
    close(s, g['eval_similarity_caseA'])
    assert s.argmax(1).tolist() == g['eval_pred_caseA'].tolist()


def test_curriculum(golden):
    c = golden('mmspcl/spcl_curriculum')
    z, y = T(c['reps']), T(c['labels'])
    centres, n = S.class_means(z, y, 3)
    close(centres, c['centers'])
    assert n.tolist() == np.bincount(c['labels']).tolist()
    close(S.distance(z, centres), c['distance'])
    close(S.difficulty(z, y, centres), c['difficulty'])
    assert S.difficulty(z, y, centres).argsort().tolist() == c['order_easy_to_hard'].tolist()
    for e, p in enumerate(c['keep_prob_by_rank']):
        close(curriculum_keep_prob(11, e, 4), p)
        close(p.sum(), c['expected_size'][e])


def turns(lines):
    who, text, label = zip(
        *(str(x).rsplit('|', 2) if x.count('|') == 2 else x.split('|') for x in lines)
    )
    return pd.DataFrame(
        dict(
            dialogue='d',
            turn=range(len(who)),
            speaker=who,
            text=text,
            label=[int(k) for k in label],
            split='train',
        )
    )


def padded(prompts, width):
    return np.array([[*k, *[1] * (width - len(k))] for k in prompts.ids])


def test_prompts(golden):
    p = golden('mmspcl/spcl_prompt')
    t, words = turns(p['dialogue']), Words(p['vocab'].tolist())
    for kind, n in (('short', 64), ('tight', 40)):
        made = build_prompts(t, words, max_len=n)
        assert (padded(made, n) == p[f'{kind}_input_ids']).all() and t.label[
            made.row
        ].tolist() == p[f'{kind}_labels'].tolist()
    w = p['window_input_ids']
    made = build_prompts(turns(p['window_dialogue']), words)
    assert (padded(made, w.shape[1]) == w).all() and (made['at'] - made['first']).max() == 8


# ---- the loss ---------------------------------------------------------------------------------------------


def toy(n=9, d=4, classes=3, seed=0):
    r = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=r, dtype=torch.float64),
        torch.randint(0, classes, (n,), generator=r),
        torch.randn(classes, d, generator=r, dtype=torch.float64),
    )


def test_own_prototype_stands_on_both_sides():
    "A lone anchor with its own prototype: the ratio stays below one, and pulling the prototype closer lowers the loss to 0, not below."
    z, _, P = toy(1)
    y = torch.tensor([1])
    for a in (0.5, 0.9, 0.999):
        P[1] = a * z[0] / z[0].norm() + (1 - a) * P[1]
        assert spcl_anchors(z, y, P)[0] >= 0
    P[1] = z[0]
    assert spcl_anchors(z, y, P, denominator='paper')[0] < 0 <= spcl_anchors(z, y, P)[0]
    s = (S.similarity(z, P) / 0.05).exp()[0]
    close(spcl_anchors(z, y, P)[0], -(s[1] / s.sum()).log(), 1e-6)


@pytest.mark.parametrize('denominator', S.DENOMINATORS)
@pytest.mark.parametrize('variant', S.VARIANTS)
@pytest.mark.parametrize('labels', [[0] * 5, [2], [-1] * 4, [0, -1, -1], [0, 1, 2]])
@pytest.mark.parametrize('known', ['all', 'none', 'one'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_never_nan(labels, known, denominator, variant, dtype):
    z, _, P = toy(len(labels))
    P = (
        P
        * {'all': torch.ones(3), 'none': torch.zeros(3), 'one': torch.tensor([1.0, 0, 0])}[known][
            :, None
        ]
    )
    for tau in (0.05, 1e-3):
        x = z.to(dtype).requires_grad_()
        for loss in (
            spcl_loss(
                x,
                torch.tensor(labels),
                P.to(dtype),
                tau=tau,
                denominator=denominator,
                variant=variant,
            ),
            supcon_loss(x, torch.tensor(labels), tau=tau),
        ):
            x.grad = None
            loss.backward()
            assert loss.isfinite() and x.grad.isfinite().all()


def test_rows_of_zeros():
    z, y, P = toy()
    z[0] = 0
    x = z.requires_grad_()
    loss = spcl_loss(x, y, P)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


def test_unlabelled_rows_are_as_if_absent():
    z, y, P = toy(12)
    gone = torch.arange(12) % 3 == 0
    close(spcl_loss(z, torch.where(gone, -1, y), P), spcl_loss(z[~gone], y[~gone], P), 1e-12)
    close(supcon_loss(z, torch.where(gone, -1, y)), supcon_loss(z[~gone], y[~gone]), 1e-12)


def test_no_gradient_reaches_prototypes():
    z, y, P = toy()
    P.requires_grad_()
    spcl_loss(z.requires_grad_(), y, P).backward()
    assert P.grad is None


def test_the_constant_has_no_gradient_and_keeps_anchors():
    "log(positives): one in-batch positive is enough to stay above the threshold."
    z = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1]]
    per, n = spcl_anchors(
        z, torch.tensor([0, 0, 1, 1]), torch.eye(3, dtype=torch.float64), tau=0.01
    )
    close(per, n.double().log(), 1e-6)
    assert (per > 0.3).all()


def test_supcon_against_its_definition():
    z, y, _ = toy(8)
    s = S.similarity(z, z) / 0.05
    want = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        P = [j for j in others if y[j] == y[i]]
        if P:
            want.append(-np.mean([float(s[i, j] - s[i, others].logsumexp(0)) for j in P]))
    close(supcon_loss(z, y), np.mean(want), 1e-9)


# ---- queues -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('evict', S.EVICTION)
def test_queue_against_lists(evict):
    "The same as lists of vectors: who stays (oldest out), how many, nobody twice."
    g, q, lists = (
        np.random.default_rng(0),
        PrototypeQueues(3, 1, length=7, support=3, evict=evict),
        [[-1.0], [-2.0], [-3.0]],
    )
    q.restart(torch.tensor([[-1.0], [-2.0], [-3.0]]))
    for step in range(40):
        y = g.integers(-1, 3 if step % 5 else 1, g.integers(1, 20))
        z = np.arange(len(y)) + 100.0 * step
        q.push(torch.from_numpy(z[:, None]).float(), torch.from_numpy(y))
        for k in range(3):
            lists[k] += z[y == k].tolist()
            have = q.vectors[:-1].view(3, 7)[k][q.arrivals[k] >= 0].tolist()
            assert len(have) == len(set(have)) == min(7, len(lists[k])) and set(have) <= set(
                lists[k]
            )
            lists[k] = lists[k][-7:] if evict == 'fifo' else have
            assert set(have) == set(lists[k])


def test_random_eviction_is_even():
    "Old and new leave with one probability."
    stayed = np.zeros(12)
    torch.manual_seed(0)
    for _ in range(3000):
        q = PrototypeQueues(1, 1, length=6, support=2, evict='random')
        q.push(torch.arange(6.0)[:, None], torch.zeros(6, dtype=torch.long))
        q.push(torch.arange(6.0, 12)[:, None], torch.zeros(6, dtype=torch.long))
        stayed[q.vectors[:-1, 0].long()] += 1
    assert np.abs(stayed / 3000 - 0.5).max() < 0.04


def test_support_is_drawn_without_replacement():
    q, seen = PrototypeQueues(1, 8, length=8, support=3), np.zeros(8)
    q.push(torch.eye(8), torch.zeros(8, dtype=torch.long))
    torch.manual_seed(0)
    for _ in range(2000):
        P = q.prototypes()[0][0]
        assert sorted(P.tolist()) == pytest.approx([0] * 5 + [1 / 3] * 3)
        seen += P.numpy()
    assert np.abs(seen / 2000 - 1 / 8).max() < 0.02


def test_queues_and_predictor_are_detached():
    m, b = model(), batch()
    out = m(b.at(0, 0))
    out.logits.logsumexp(-1).sum().backward()
    assert (
        all(p.grad is None or not p.grad.any() for p in m.encoder.parameters())
        and m.predictor.weight.grad.any()
    )
    m.zero_grad()
    m(b.at(0, 1)).losses['spcl'].backward()
    assert m.encoder.outer.weight.grad.any() and (
        m.predictor.weight.grad is None or not m.predictor.weight.grad.any()
    )
    assert not m.queues.vectors.requires_grad and m.queues.counts().sum() > 3


def test_prototypes_are_drawn_before_the_push():
    m, b = model(), batch()
    m.on_epoch_start(over(m, [b]))
    want = spcl_loss(
        m(b).probes['z'],
        torch.where(m.curriculum.keep[b.ids], b.targets['emotion'], -1),
        m.queues.centres,
        **m.how,
    )  # a new epoch: class means
    m.encoder.rate = 0
    close(m(b.at(0, 0)).losses['spcl'], want.detach(), 1e-9)
    assert not m.queues.centres[3].any(), 'the fourth class has no member'


def test_prototypes_drawn_after_the_push():
    "The batch is then among those they are drawn from: with one vector in each queue, the prototype is that vector."
    m, b = model(prototypes='after', rate=0.0, length=64, support=64), batch()
    m.on_epoch_start(over(m, [b]))
    m.queues.arrived.fill_(-1)
    m.queues.least.fill_(1)
    z, y = (
        m(b).probes['z'].detach(),
        torch.where(m.curriculum.keep[b.ids], b.targets['emotion'], -1),
    )
    first = torch.tensor([int((y == k).nonzero()[0]) if (y == k).any() else -1 for k in range(4)])
    m.curriculum.keep.zero_()
    m.curriculum.keep[b.ids[first[first >= 0]]] = True
    y = torch.where(m.curriculum.keep[b.ids], b.targets['emotion'], -1)
    P = torch.where((first >= 0)[:, None], z[first], 0)
    close(m(b.at(0, 0)).losses['spcl'], spcl_loss(z, y, P, **m.how), 1e-9)


def test_a_linear_layer_behind_the_encoder():
    "What is contrasted, asked for its centre and read by the predictor is g of the encoder's vector."
    m, b = model(linear=True, rate=0.0), batch()
    m.on_epoch_start(over(m, [b]))
    out = m(b)
    close(out.probes['z'], m.g(m.encoder(b)).detach(), 1e-12)
    close(out.logits, m.predictor(out.probes['z']).detach(), 1e-12)
    y = torch.where(m.curriculum.keep[b.ids], b.targets['emotion'], -1)
    step = m(b.at(0, 0))
    close(
        step.losses['spcl'], spcl_loss(out.probes['z'], y, m.queues.centres, **m.how).detach(), 1e-9
    )
    step.losses['spcl'].backward()
    assert m.g.weight.grad.any() and m.encoder.outer.weight.grad.any()
    assert not any(k.startswith('g.') for k in model().state_dict()), (
        'off by default, and then without weights'
    )


def test_a_rare_class_falls_back_and_is_reported():
    q = PrototypeQueues(3, 2, length=32, support=8)
    centres = torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    q.restart(centres, torch.tensor([100, 100, 0]))
    for _ in range(10):
        P, few = q.prototypes()
        q.push(torch.randn(4, 2), torch.zeros(4, dtype=torch.long))
    assert (
        q.calls == 10
        and q.fallen[1] == 10
        and 1 < q.fallen[0] < 4
        and (P[1] == centres[1]).all()
        and not P[2].any()
    )


def test_the_support_set_of_a_small_class():
    q = PrototypeQueues(4, 2)
    q.restart(torch.ones(4, 2), torch.tensor([271, 40, 3, 0]))
    assert q.least.tolist() == [64, 10, 1, 1]


def over(m, batches, epochs=16):
    "What the training loop gives to a hook."

    def encode():
        return [(m(b), b) for b in batches]

    encode.epochs = epochs
    return encode


# ---- the model and the engine -----------------------------------------------------------------------------


def batch(n=24, classes=3, seed=0, extra=None, dtype=torch.float64):
    r = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (1, n), generator=r)
    x = torch.randn(1, n, 6, generator=r, dtype=dtype) + 2 * torch.eye(6, dtype=dtype)[y]
    return from_padded(
        {'text': x},
        torch.zeros(1, n),
        [n],
        {'emotion': y, **({} if extra is None else {'extra': extra[None]})},
    )


def model(classes=4, dtype=torch.float64, seed=0, **how):
    torch.manual_seed(seed)
    return SPCL(
        {'text': 6}, classes, **{'width': 8, 'length': 16, 'support': 4, 'rows': 100, **how}
    ).to(dtype)


@pytest.mark.parametrize('loss', S.LOSSES)
@pytest.mark.parametrize('evict', S.EVICTION)
def test_stacked_seeds_equal_lone_ones(loss, evict):
    b, make = batch(), lambda: model(loss=loss, evict=evict)
    stack = Stack(make, [3, 5], torch.float64)
    alone = [Single(make, [k], torch.float64) for k in (3, 5)]
    for step in range(6):
        want = torch.cat([e.loss(b, torch.tensor(step), criterion('emotion')) for e in alone])
        close(stack.loss(b, torch.tensor(step), criterion('emotion')), want.detach(), 1e-9)
    for k, v in stack.buffers.items():
        for i, e in enumerate(alone):
            close(v[i].double(), e.buffers[k].double(), 1e-9)


def test_rows_that_take_no_part():
    "Neither loss has a gradient from them."
    m, b = model(rate=0.0), batch()
    m.curriculum.keep[b.ids[::2]] = False
    x = b.features['text'].requires_grad_()
    out = m(b.at(0, 0))
    (criterion('emotion')(out, b) + sum(out.losses.values())).backward()
    assert not x.grad[::2].any() and x.grad[1::2].any()
    assert m.queues.counts().sum() == len(b) // 2


@pytest.mark.parametrize('loss', S.LOSSES)
@pytest.mark.parametrize('engine', [Single, Stack])
def test_the_mean_is_over_rows_that_take_part(engine, loss):
    "The gradient of a batch, rows of which are left out or have no label, is that of the others as a batch of their own."

    def made(keep):
        m = model(loss=loss, rate=0.0)
        m.curriculum.keep[:] = keep
        return m

    b, keep = batch(), torch.arange(100) % 3 != 0
    b.targets['emotion'][1] = -1
    on = keep[b.ids]
    alone = batch()
    alone.targets['emotion'] = torch.where(on, b.targets['emotion'], -1)

    def grads(make, batch):
        e = engine(make, [3], torch.float64)
        e.loss(batch, torch.tensor(0), criterion('emotion')).sum().backward()
        return {k: p.grad for k, p in e.params.items()}

    got, want = grads(lambda: made(keep), b), grads(lambda: made(True), alone)
    assert got['predictor.weight'].any()
    for k in want:
        close(
            torch.zeros(1) if got[k] is None else got[k],
            torch.zeros(1) if want[k] is None else want[k],
            1e-12,
        )
    everybody = made(True)(b.at(3, 0)).logits
    assert torch.equal(everybody, made(keep)(b.at(3, 0)).logits), 'the numbers stay'


def test_extra_queries_take_part_at_random():
    extra = torch.arange(60) % 2
    m, b = model(curriculum='all'), batch(60, extra=extra)
    shares = []
    for _ in range(200):
        m.on_epoch_end(over(m, [b]))
        m.on_epoch_start(over(m, [b]))
        on = m.curriculum.keep[b.ids]
        assert on[extra == 0].all()
        shares.append(float(on[extra == 1].double().mean()))
    assert abs(np.mean(shares) - 0.5) < 0.03


def test_centres_are_the_means_of_rows_that_take_part():
    y = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(1))
    m, b = model(), batch(60, extra=torch.arange(60) % 2)
    m.on_epoch_end(over(m, [b]))
    use, z = m.curriculum.hard[b.ids] >= 0, m(b).probes['z']
    for k in range(3):
        close(m.centres[k], z[use & (b.targets['emotion'] == k)].mean(0).detach(), 1e-9)
    assert not m.centres[3].any() and (m.predict(m(b)) < 3).all(), (
        'a class without training rows is never predicted'
    )


def test_curriculum_past_its_end_and_of_one():
    close(curriculum_keep_prob(5, 9, 4), np.full(5, 0.5))
    close(curriculum_keep_prob(1, 0, 4), [0.5])
    assert len(curriculum_keep_prob(0, 0, 4)) == 0


def few(c, split):
    return make_batches(
        c,
        split,
        size=60,
        features=['text'],
        targets={'emotion': 'label', 'extra': 'extra'},
        unit='turn',
    )


@pytest.fixture(scope='module')
def corpus():
    "The demo corpus's prompts, with its sound in place of vectors of text."
    c = S.load_prompts('demo')
    return c.with_features(text=c.features['audio'])


def trained(c, seeds=(0, 1), checkpoint=None, **how):
    truth = c.table.label.to_numpy()[c.rows('dev')]
    make = lambda: SPCL(
        {'text': c.features['text'].shape[1]},
        len(c.classes),
        **{'width': 16, 'length': 64, 'support': 16, 'rows': 3000, 'epochs': 3, **how},
    )
    return fit(
        make,
        few(c, 'train'),
        few(c, 'dev'),
        lambda p: (p == truth).mean(1),
        seeds=seeds,
        settings={'epochs': 3, 'lr': 3e-3, 'clip': 5.0},
        target='emotion',
        checkpoint=checkpoint,
        every=0.0,
        progress=False,
    )


@pytest.mark.parametrize(
    'how', [{}, {'evict': 'random'}, {'loss': 'supcon', 'curriculum': 'random'}]
)
def test_an_interrupted_run_goes_on(corpus, tmp_path, monkeypatch, how):
    "Queues, difficulties and the epoch's rows are part of the state."
    whole, step, count = trained(corpus, **how), Steps.run, iter(range(10**6))

    def dying(self, b):
        if next(count) == len(few(corpus, 'train')) + 5:
            raise KeyboardInterrupt
        return step(self, b)

    monkeypatch.setattr(Steps, 'run', dying)
    with pytest.raises(KeyboardInterrupt):
        trained(corpus, checkpoint=tmp_path / 'c.safetensors', **how)
    monkeypatch.setattr(Steps, 'run', step)
    again = trained(corpus, checkpoint=tmp_path / 'c.safetensors', **how)
    assert (whole.dev == again.dev).all() and (whole.losses == again.losses).all()
    for a, b in zip(whole.modules(), again.modules()):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_centres_belong_to_the_selected_weights(corpus):
    "What prediction asks are class means of training vectors under the very weights that were kept, not those of the epoch's start."
    for m in trained(corpus).modules():
        with torch.no_grad():
            z, ids, y = (
                torch.cat([f(b) for b in few(corpus, 'train')])
                for f in (
                    lambda b: m(b).probes['z'],
                    lambda b: b.ids,
                    lambda b: b.targets['emotion'],
                )
            )
        use = m.curriculum.hard[ids] >= 0
        close(m.centres, S.class_means(z, torch.where(use, y, -1), 6)[0], 1e-5)
        close(m.curriculum.hard[ids[use]], S.difficulty(z[use], y[use], m.centres), 1e-5)


def test_the_curriculum_is_as_long_as_the_run(corpus):
    "Unless the model says how long: easy at first, hard in the last epoch."
    m = SPCL({'text': 6}, 3, rows=1000)
    m.centres[:] = 1
    seen = []
    for e in range(5):
        m.curriculum.epoch.fill_(e)
        m.curriculum.measured(torch.arange(1000), torch.linspace(0, 1, 1000))
        torch.manual_seed(0)
        if e:
            m.on_epoch_start(over(m, [], 5))
            seen.append(float(m.curriculum.keep[:200].float().mean()))
    p = [float(curriculum_keep_prob(1000, e, 5)[:200].mean()) for e in range(1, 5)]
    assert np.abs(np.array(seen) - p).max() < 0.12


def test_seeds_differ_and_learn(corpus):
    f = trained(corpus)
    assert f.dev.max(1).min() > 0.25 and not (f.losses[0] == f.losses[1]).any(), 'six classes'


@pytest.mark.parametrize('name', ['spcl', 'spcl_random', 'spcl_supcon', 'spcl_ce'])
def test_recipe_in_demo(name, tmp_path):
    s = dataclasses.replace(system(f'mmspcl/{name}'), encoder='hashing')
    rec = run_system(
        s,
        'demo',
        'paper',
        seeds=[0, 1],
        home=tmp_path,
        demo=load_recipe('mmspcl')['demo']['settings'],
        progress=False,
    )
    assert (
        min(rec.test) > 0.5
        and rec.probes['fallen_by_seed'].shape == (2, 6)
        and rec.probes['predictor_by_seed'].shape == (2,)
    )
    assert (rec.probes['members'] > 50).all() and np.abs(
        rec.probes['angles_by_seed'].diagonal(axis1=1, axis2=2) - 1
    ).max() < 1e-5


# ---- an encoder that is trained -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def tuned(tmp_path_factory):
    "A tiny random BERT and the demo corpus's prompts as its token ids."
    from erc.data.sentence_encoders import toy_encoder

    folder = tmp_path_factory.mktemp('toy')
    words = [
        w
        for x in S.load_prompts('demo').table.prompt
        for w in x.replace('[SEP]', '').replace('[MASK]', '').split()
    ]
    toy_encoder(folder, sorted(set(words)), width=16, length=300)
    return str(folder), S.load_prompts('demo', tokens=str(folder), max_len=128)


def prompt_batches(c, split, size=70):
    return make_batches(
        c,
        split,
        size=size,
        features=['prompt'],
        targets={'emotion': 'label', 'extra': 'extra'},
        unit='turn',
    )


def tuned_model(folder, loss='spcl', **how):
    torch.manual_seed(0)
    return SPCL(
        {'prompt': 128}, 6, loss=loss, encoder=folder, rows=3000, length=32, support=8, **how
    )


def test_token_ids_are_the_prompts(tuned):
    from erc.nn.encoders import tokenizer_of

    folder, c = tuned
    tok, x = tokenizer_of(folder), c.features['prompt']
    for i in (0, 7, len(x) - 1):
        ids = x[i][x[i] > 0].astype(int) - 1
        assert (ids == tok.mask_token_id).sum() == 1 and ids[-2:].tolist() == [
            tok.mask_token_id,
            tok.sep_token_id,
        ]
        if x[i][0] - 1 == tok.cls_token_id:
            assert ids.tolist() == tok(c.table.prompt[i])['input_ids']
    assert (x >= 0).all() and x.shape[1] <= 128, 'segment 0 alone'
    with pytest.raises(FileNotFoundError, match='no encoder'):
        S.load_prompts('demo', tokens='not/an/encoder')


def test_an_encoder_without_a_mask(tmp_path):
    "It is here, so that it must not be called missing: what it lacks is named, and what would do."
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({'end': 0}, unk_token='end')), eos_token='end'
    ).save_pretrained(tmp_path)
    (tmp_path / 'config.json').write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        ValueError,
        match="no mask token: the prompt asks a masked-language model .* such as 'minilm'",
    ):
        S.load_prompts('demo', tokens=str(tmp_path))


@pytest.mark.parametrize('loss', S.LOSSES)
def test_rows_that_take_no_part_are_not_encoded(tuned, loss):
    "And the losses are those of the rows that do."
    folder, c = tuned
    b = prompt_batches(c, 'train')[0]
    m = tuned_model(folder, loss).eval()
    m.curriculum.keep[b.ids[::3]] = False
    on = m.curriculum.keep[b.ids]
    out, all_of = m(b.at(0, 0)), m(b).probes['z']
    close(out.probes['z'][on], all_of[on].detach(), 1e-4)
    assert not out.probes['z'][~on].any()
    y = torch.where(on, b.targets['emotion'], -1)
    if loss == 'supcon':
        close(out.losses['supcon'], supcon_loss(all_of, y).detach(), 1e-3)
    (criterion('emotion')(out, b) + sum(out.losses.values())).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters()) and any(
        p.grad is not None and p.grad.any() for p in m.encoder.parameters()
    )
    m.curriculum.keep.zero_()
    nobody = m(b.at(0, 1))
    (criterion('emotion')(nobody, b) + sum(nobody.losses.values())).backward()


@pytest.mark.parametrize('loss', S.LOSSES)
def test_fine_tuning(tuned, loss):
    "One seed at a time, through the same loop."
    folder, c = tuned
    truth = c.table.label.to_numpy()[c.rows('dev')]
    f = fit(
        lambda: tuned_model(folder, loss, epochs=2),
        prompt_batches(c, 'train')[:6],
        prompt_batches(c, 'dev', 4096),
        lambda p: (p == truth).mean(1),
        seeds=[0, 1],
        settings={'epochs': 2, 'lr': 3e-3, 'clip': 5.0, 'warmup': 0.1, 'decay': 'epochs'},
        target='emotion',
        vectorise=False,
        progress=False,
    )
    assert (
        f.dev.shape == (2, 2)
        and np.isfinite(f.losses).all()
        and not (f.losses[0] == f.losses[1]).any()
    )
    for m in f.modules():
        assert m.centres.any(1).all() and m.members.min() > 0


# ---- bad input --------------------------------------------------------------------------------------------


def test_bad_input():
    class NoMask:
        cls_token_id = sep_token_id = 1
        mask_token_id = None

    with pytest.raises(ValueError, match='no mask token'):
        build_prompts(load_corpus('demo').table, NoMask())
    with pytest.raises(ValueError, match='support=64, length=10'):
        SPCL({'text': 6}, 3, length=10)
    with pytest.raises(ValueError, match="unknown denominator 'both'"):
        SPCL({'text': 6}, 3, denominator='both')
    with pytest.raises(ValueError, match="unknown denominator 'both'"):
        spcl_loss(*toy(), denominator='both')
    with pytest.raises(ValueError, match="unknown loss 'triplet'"):
        SPCL({'text': 6}, 3, loss='triplet')
    with pytest.raises(ValueError, match="unknown curriculum 'hard'"):
        SPCL({'text': 6}, 3, curriculum='hard')
    with pytest.raises(ValueError, match="unknown eviction 'lifo'"):
        PrototypeQueues(3, 4, evict='lifo')
    with pytest.raises(ValueError, match='epochs=0'):
        curriculum_keep_prob(3, 0, 0)
    m, b = model(rows=10), batch()
    with pytest.raises(ValueError, match='row 23 of the corpus, but rows=10'):
        m.on_epoch_start(over(m, [b]))
    t = load_corpus('demo').table
    with pytest.raises(ValueError, match='speakers, 1 names'):
        build_prompts(t, Words(), pool=('Roy',))
    with pytest.raises(ValueError, match="unknown moment to draw prototypes 'later'"):
        SPCL({'text': 6}, 3, prototypes='later')
    for extra in (-0.1, 2):
        with pytest.raises(ValueError, match=f'extra={extra}: a share of the extra queries'):
            SPCL({'text': 6}, 3, extra=extra)


@pytest.mark.parametrize('tau', [0, -0.05, float('nan')])
def test_a_temperature_is_positive(tau):
    z, y, P = toy()
    for made in (
        lambda: spcl_loss(z, y, P, tau=tau),
        lambda: spcl_loss(z, y, P, tau=tau, variant='decoupled'),
        lambda: supcon_loss(z, y, tau=tau),
        lambda: SPCL({'text': 6}, 3, tau=tau),
    ):
        with pytest.raises(ValueError, match='a temperature is greater than 0'):
            made()


@pytest.mark.parametrize(
    'how,says',
    [
        (dict(max_len=0), 'max_len=0'),
        (dict(max_len=1), 'the mask and the end'),
        (dict(past=-1), 'past=-1'),
        (dict(past=2.5), 'past=2.5'),
        (dict(extra=2), 'extra=2: a share of turns'),
        (dict(extra=-0.1), 'extra=-0.1'),
        (dict(past=0, extra=0.2), 'past=0: an extra query asks about an earlier turn'),
    ],
)
def test_prompts_that_cannot_be(how, says):
    with pytest.raises(ValueError, match=says):
        S.load_prompts('demo', **{'extra': 0.0, **how})
    assert S.load_prompts('demo', past=0, extra=0.0, max_len=2).table.extra.sum() == 0


# ---- prompts ----------------------------------------------------------------------------------------------


def test_extra_queries():
    "Of training alone, after the fourth turn, about a fifth; they ask about an earlier turn of their window."
    t = load_corpus('demo').table
    p = build_prompts(t, Words(), extra=0.2)
    own, more = p[p.extra == 0], p[p.extra == 1]
    assert (own.row == own['at']).all() and own.row.tolist() == t.index[t.label >= 0].tolist()
    at = more['at'].to_numpy()
    assert (
        (t.split[at] == 'train').all()
        and (t.turn[at] > 3).all()
        and (more.row < more['at']).all()
        and (more.row >= more['first']).all()
    )
    assert (t.dialogue[more.row].to_numpy() == t.dialogue[at].to_numpy()).all()
    can = ((t.split == 'train') & (t.turn > 3) & (t.label >= 0)).sum()
    assert abs(len(more) / can - 0.2) < 0.05


def test_no_prompt_but_an_extra_one_sees_the_future():
    c = S.load_prompts('demo')
    t = c.table[(c.table.extra == 0) & (c.table.split != 'train')]
    later = t.text.groupby(t.dialogue).shift(-1)
    unique = ~t.text.duplicated(keep=False) & ~later.duplicated(keep=False) & later.notna()
    assert unique.sum() > 5 and not any(
        S.cleaned(b) in a for a, b in zip(t.prompt[unique], later[unique])
    )


def test_speakers_and_cleaning():
    t = turns(['F|It’s "fine".|0', 'M|ok|1', 'F|so|0'])
    p = build_prompts(t, Words(), pool=S.NAMES)
    assert (
        p.text[1]
        == "Roy:It's fine. </s> Weldon:ok </s> For utterance:Weldon:ok </s> Weldon feels <mask>"
    )
    assert p.text[2].endswith('Roy feels <mask>')


def test_text_and_ids_are_the_same_prompt(data):
    "The text of a prompt, through the sentence encoder's own tokenizer, gives the ids."
    from erc.data.sentence_encoders import encoder_path

    transformers = pytest.importorskip('transformers')
    try:
        tok = transformers.AutoTokenizer.from_pretrained(encoder_path('minilm'))
    except ValueError:
        pytest.skip('MiniLM is not installed')
    p = build_prompts(load_corpus('meld').table[:200], tok)
    for ids, text in zip(p.ids, p.text):
        assert tok(text)['input_ids'] == ids


def test_meld(data):
    c = S.load_prompts('meld')
    own = c.table.extra == 0
    assert (
        own.sum() == 9989 + 1109 + 2610
        and abs((~own).sum() / 6221 - 0.4) < 0.03
        and (c.table.split[~own] == 'train').all()
    )


# ---- the section ------------------------------------------------------------------------------------------


def test_text_alone_is_text_on_meld(tmp_path):
    "No fusion, no ensemble, no other corpus; what Table 1 prints of SPCL stays."
    recipe = load_recipe('mmspcl')
    whole, t = (
        comparison('mmspcl', 'table1', home=tmp_path, recipe=r).data
        for r in (recipe, S.text_alone(recipe))
    )
    assert set(t.corpus) <= {'', 'meld'} < set(whole.corpus)
    assert {
        s.removeprefix('spcl').split('_')[0]
        for s in t.system
        if s and s not in ('majority', 'tfidf', 'text', 'text_context')
    } == {''}
    assert (t[t.kind == 'printed'].row.str.startswith('Unimodal SPCL')).all() and (
        t.kind == 'printed'
    ).any()


def test_the_section_leaves_table_1_to_its_owner_and_claims_what_it_trains():
    code = [
        c.source
        for c in nbformat.read(root() / 'nbs' / '800_spcl.ipynb', 4).cells
        if c.cell_type == 'code'
    ]
    assert artefacts().query(
        "paper == 'mmspcl' and id == 'table1'"
    ).notebook.item() != '800_spcl' and not any('table.save(' in c for c in code)
    claims = ast.literal_eval(
        next(c for c in code if 'CLAIMS =' in c).partition('CLAIMS = ')[2].partition('\n\n')[0]
    )
    systems = load_recipe('mmspcl')['systems']
    beside = {(a, f'{a}_{b}') for a in ('spcl', 'spcl_minilm') for b in ('ce', 'supcon')}
    assert beside <= {c[:2] for c in claims} and all(
        f'mmspcl/{k}' in systems for c in claims for k in c[:2]
    )
