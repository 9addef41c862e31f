"Algorithm 1 against numbers computed apart from it; who is not drawn is not touched."

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from erc.data.batches import from_padded
from erc.nn.cells import weighted_nll
from erc.models.msve import ABLATION, ALL, HIDDEN, MSVE, SIX, drawn, ensemble, those_of
from erc.training.engine import Single, Stack, Steps
from erc.training.fit import fit
from erc.training.settings import complete, criterion

T = torch.from_numpy
SIZES = {'text': 6, 'audio': 4, 'visual': 5}
PAPER = {'text': 1024, 'audio': 300, 'visual': 512}


def close(a, b, eps=1e-9):
    assert (
        np.abs(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) - np.asarray(b)).max()
        < eps
    )


def released(g, combinations=ALL, k=None):
    "The ensemble with the weights of the file."
    hidden = {'ta': (len(g['ta_b0']),), 'tav': (len(g['tav_b0']), len(g['tav_b1']))}
    m = MSVE({'t': 6, 'a': 4, 'v': 5}, 7, combinations, k, hidden=hidden).double()
    with torch.no_grad():
        for c in m.names:
            layers = [x for x in m.voters[c] if isinstance(x, torch.nn.Linear)]
            for i, l in enumerate(layers):
                l.weight.copy_(T(g[f'{c}_W{i}']))
                l.bias.copy_(T(g[f'{c}_b{i}']))
    return m


def batch(g):
    return from_padded(
        {k: T(g[k])[None] for k in 'tav'}, torch.zeros(1, 8), [8], {'emotion': T(g['labels'])[None]}
    )


def toy(lengths=(5, 3, 1, 4), seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(lengths)
    x = {k: torch.randn(B, L, d, generator=g, dtype=dtype) for k, d in SIZES.items()}
    return from_padded(
        x, torch.zeros(B, L), lengths, {'emotion': torch.randint(0, 7, (B, L), generator=g)}
    )


def test_golden(golden):
    g = golden('mmspcl/msve')
    m, b = released(g), batch(g)
    for c, v in m.votes(b.features).items():
        close(v, g[f'logits_{c}'])
    close(m(b).logits, g['inference_sum_seven'])
    close(released(g, SIX)(b).logits, g['inference_sum_six'])
    assert (released(g, SIX)(b).logits.argmax(-1).numpy() == g['pred_six']).all()
    for row, names in ABLATION.items():
        k, own = row.replace(',', '_'), released(g, names)(b).logits
        close(F.cross_entropy(own, b.targets['emotion']), g[f'loss_{k}'])
        assert (own.argmax(-1).numpy() == g[f'pred_{k}']).all()


def test_golden_training_step(golden):
    "The two combinations of the file: their sum, its loss and the loss's gradient; nobody else has one."
    g = golden('mmspcl/msve')
    pair, b = [str(c) for c in g['train_sampled']], batch(g)
    step = next(s for s in range(1000) if set(drawn(SIX, 2, s)) == set(pair))
    m = released(g, SIX, k=2)
    z = m(b.at(0, step)).logits
    close(z, g['train_logits_sampled'])
    z.retain_grad()
    loss = weighted_nll(z.log_softmax(-1), b.targets['emotion'])
    close(loss, g['train_loss_sampled'])
    loss.backward()
    close(z.grad, g['grad_of_loss_wrt_summed_logits'])
    assert {c for c in SIX if m.voters[c][0].weight.grad is not None} == set(pair)


def test_size():
    count = lambda dims, names=SIX, **k: sum(
        p.numel() for p in MSVE(dims, 7, names, **k).parameters()
    )
    assert count(PAPER) == 352_734 and count(PAPER, hidden={}) == 45_766
    assert count({**PAPER, 'text': 384}) == 220_894
    assert count({**PAPER, 'audio': 1611}, hidden={'a': (64,), 'tav': (64, 64)}) == 349_687
    assert [
        len([x for x in MSVE(PAPER, 7).voters[c] if isinstance(x, torch.nn.Linear)]) for c in SIX
    ] == [1, 1, 1, 2, 1, 3]


def test_one_combination_is_a_plain_network():
    torch.manual_seed(0)
    m, b = MSVE(SIZES, 7, ['tav'], k=1).double(), toy()
    plain = torch.nn.Sequential(
        torch.nn.Linear(15, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 7),
    ).double()
    plain.load_state_dict({k.removeprefix('voters.tav.'): v for k, v in m.state_dict().items()})
    y = plain(torch.cat([b.features[k] for k in SIZES], 1))
    close(m(b).logits, y.detach(), 1e-12)
    close(m(b.at(3, 5)).logits, y.detach(), 1e-12)


# ---- sampling ---------------------------------------------------------------------------------------------


def test_draws():
    "k different ones, each as often as the others, by the step alone."
    sets = [drawn(ALL, 3, s) for s in range(2000)]
    assert all(len(set(d)) == 3 and list(d) == sorted(d, key=ALL.index) for d in sets)
    assert all(abs(sum(c in d for d in sets) / 2000 - 3 / 7) < 0.04 for c in ALL)
    assert drawn(SIX, 6, 0) == SIX and drawn(SIX, 2, torch.tensor(5)) == drawn(SIX, 2, 5)


def test_the_draw_is_shared_by_seeds_and_turns():
    b, m = toy(), MSVE(SIZES, 7).double()
    for step in range(5):
        close(m(b.at(0, step)).logits, m(b.at(9, step)).logits.detach(), 1e-14)
    stack = Stack(lambda: MSVE(SIZES, 7), [0, 7], torch.float64)
    single, loss = Single(lambda: MSVE(SIZES, 7), [7], torch.float64), criterion('emotion')
    for step in range(6):
        a, c = stack.loss(b, torch.tensor(step), loss), single.loss(b, torch.tensor(step), loss)
        assert abs(a[1] - c[0]) < 1e-12
        got = torch.autograd.grad(a.sum(), list(stack.params.values()), allow_unused=True)
        names = {k.split('.')[1] for k, g in zip(stack.params, got) if g is not None}
        assert names == set(drawn(SIX, 2, step))
    assert (stack.predict(b)[1] == single.predict(b)[0]).all()


@pytest.mark.parametrize('engine', [Stack, Single])
@pytest.mark.parametrize('optimiser', ['adam', 'adamw'])
def test_who_is_not_drawn_is_not_touched(engine, optimiser):
    "Neither weight nor moment moves, with decay, clipping and a history that would push it on."
    b, seeds = toy(), [0, 1, 2] if engine is Stack else [0]
    e = engine(lambda: MSVE(SIZES, 7), seeds, torch.float64)
    steps = Steps(
        e,
        [b],
        criterion('emotion'),
        complete(dict(optimiser=optimiser, lr=0.05, weight_decay=0.3, clip=1.0)),
    )
    of, seen = (lambda k: k.split('.')[1]), set()
    for step in range(40):
        before = {k: v.clone() for k, v in steps.state().items()}
        steps(0, step)
        names = set(drawn(SIX, 2, step))
        keys = list(e.params)
        order = [
            keys.index(k)
            for g in steps.opt.param_groups
            for p in g['params']
            for k in keys
            if e.params[k] is p
        ]
        for k, v in steps.state().items():
            if k.startswith('weight.'):
                assert (not torch.equal(v, before[k])) == (
                    of(k.removeprefix('weight.')) in names
                ), (step, k)
            elif k.startswith('optimiser.'):
                owner = of(keys[order[int(k.split('.')[1])]])
                if owner not in names:
                    assert torch.equal(v, before[k]), (step, k)
        seen |= names
    assert seen == set(SIX), 'every voter had a history'


def test_gradient_of_zero_would_move_them():
    "What the engine avoids: the same steps with zeros in place of no gradient."
    b = toy()
    e = Stack(lambda: MSVE(SIZES, 7), [0], torch.float64)
    steps = Steps(
        e, [b], criterion('emotion'), complete(dict(optimiser='adamw', lr=0.05, weight_decay=0.3))
    )
    steps(0, 0)
    before = {k: v.detach().clone() for k, v in e.params.items()}
    for p in e.params.values():
        p.grad = torch.zeros_like(p)
    steps.opt.step()
    first = drawn(SIX, 2, 0)[0]
    assert not torch.equal(e.params[f'voters.{first}.0.weight'], before[f'voters.{first}.0.weight'])


def test_without_dropout_everybody_learns():
    m, b = MSVE(SIZES, 7, k=None).double(), toy()
    for step in range(4):
        close(m(b.at(0, step)).logits, m(b).logits.detach(), 1e-14)
    m(b.at(0, 0)).logits.sum().backward()
    assert all(p.grad is not None for p in m.parameters())


def test_a_resumed_run_draws_the_same(tmp_path):
    "Steps are counted over epochs, also by a run that goes on from a checkpoint."
    b = [toy(seed=s, dtype=torch.float32) for s in range(3)]
    how = dict(
        seeds=[0, 1],
        settings=dict(epochs=3, lr=0.01, optimiser='adam'),
        target='emotion',
        progress=False,
    )

    class Stop(Exception):
        pass

    def stop(engine, epoch):
        if epoch == 1:
            raise Stop

    score = lambda p: np.linspace(0, 1, len(p))
    whole = fit(lambda: MSVE(SIZES, 7), b, b, score, **how)
    with pytest.raises(Stop):
        fit(
            lambda: MSVE(SIZES, 7),
            b,
            b,
            score,
            watch=stop,
            checkpoint=tmp_path / 'c',
            every=0,
            **how,
        )
    again = fit(lambda: MSVE(SIZES, 7), b, b, score, checkpoint=tmp_path / 'c', **how)
    for k, v in whole.engines[0].params.items():
        close(v, again.engines[0].params[k].detach(), 1e-12)


# ---- inference --------------------------------------------------------------------------------------------


def test_mean_changes_probabilities_and_no_class():
    b, m = toy(), MSVE(SIZES, 7).double()
    calm = MSVE(SIZES, 7, vote='mean').double()
    calm.load_state_dict(m.state_dict())
    close(calm(b).logits * 3, m(b).logits.detach(), 1e-12)
    close(calm(b.at(0, 1)).logits, m(b.at(0, 1)).logits.detach(), 1e-14)


@pytest.mark.parametrize('gone', sorted(SIZES))
def test_a_missing_modality_has_no_vote(gone):
    b, m = toy(), MSVE(SIZES, 7).double()
    rest = dataclasses.replace(b, features={k: v for k, v in b.features.items() if k != gone})
    others = [c for c in SIX if gone[0] not in c]
    close(m(rest).logits, sum(m.votes(b.features, others).values()).detach(), 1e-12)
    with pytest.raises(ValueError, match=f'{gone} missing'):
        for step in range(10):
            m(rest.at(0, step))


# ---- bad input --------------------------------------------------------------------------------------------


def test_bad_input():
    with pytest.raises(ValueError, match='k=7 of 6 combinations'):
        MSVE(SIZES, 7, k=7)
    with pytest.raises(ValueError, match='k=0 of 6'):
        MSVE(SIZES, 7, k=0)
    with pytest.raises(ValueError, match=r'k=1\.5 of 6 .* a whole number from 1 to 6'):
        MSVE(SIZES, 7, k=1.5)
    with pytest.raises(ValueError, match="unknown combination in `hidden` 'tva'; did you mean"):
        MSVE(SIZES, 7, hidden={'tva': (8,)})
    assert MSVE(SIZES, 7, 'uni').names == ('t', 'a', 'v'), (
        'the default sizes name combinations that are not asked for'
    )
    with pytest.raises(ValueError, match="unknown combination 'tva'; did you mean 'tv'"):
        MSVE(SIZES, 7, ['t', 'tva'])
    with pytest.raises(ValueError, match="unknown set of combinations 'un'"):
        MSVE(SIZES, 7, 'un')
    with pytest.raises(
        ValueError, match='none of the combinations tav can be had from text, audio'
    ):
        MSVE({'text': 3, 'audio': 3}, 7, 'tri')
    with pytest.raises(ValueError, match="unknown modality 'gesture'"):
        MSVE({'gesture': 3}, 7)
    with pytest.raises(ValueError, match="unknown way to vote 'product'"):
        MSVE(SIZES, 7, vote='product')
    only = MSVE({'text': 6}, 7, ['t'], k=1).double()
    with pytest.raises(ValueError, match='text missing'):
        only(dataclasses.replace(toy(), features={'audio': toy().features['audio']}))


def test_two_modalities():
    m = ensemble({'audio': 4, 'text': 6}, 7)
    assert m.names == ('t', 'a', 'ta') and m.k == 2 and those_of(SIX, ['text']) == ('t',)
    with pytest.raises(ValueError, match='k=2 of 1'):
        MSVE({'text': 6}, 7)
