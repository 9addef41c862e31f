"The ensemble: golden numbers, and that a combination that is not drawn does not move."

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import close, toy_batch
from torch import nn

from erc.data.batches import from_padded
from erc.models.msve import (
    _ABLATION,
    _ALL_COMBINATIONS,
    _FINAL_COMBINATIONS,
    MSVE,
    _available_combinations,
    _drawn_combinations,
    ensemble,
)
from erc.nn.cells import weighted_nll
from erc.training.engine import Single, Stack, Steps
from erc.training.fit import fit
from erc.training.settings import complete, criterion

T = torch.from_numpy
SIZES = {'text': 6, 'audio': 4, 'visual': 5}
PAPER = {'text': 1024, 'audio': 300, 'visual': 512}


def make_model(combinations=_FINAL_COMBINATIONS, k=2, **options):
    return MSVE(SIZES, 7, combinations, k, **options).double()


def make_batch(seed=0, dtype=torch.float64):
    return toy_batch(SIZES, classes=7, seed=seed, dtype=dtype)


def drawn(step, k=2):
    return _drawn_combinations(_FINAL_COMBINATIONS, k, step)


def linear_layers(network):
    return [layer for layer in network if isinstance(layer, nn.Linear)]


# ---- golden numbers ----------------------------------------------------------------------------


def released(g, combinations=_ALL_COMBINATIONS, k=None):
    "Return the ensemble with the weights of the golden file."
    hidden = {'ta': (len(g['ta_b0']),), 'tav': (len(g['tav_b0']), len(g['tav_b1']))}
    model = MSVE({'t': 6, 'a': 4, 'v': 5}, 7, combinations, k, hidden=hidden).double()
    with torch.no_grad():
        for name in model.names:
            for i, layer in enumerate(linear_layers(model.voters[name])):
                layer.weight.copy_(T(g[f'{name}_W{i}']))
                layer.bias.copy_(T(g[f'{name}_b{i}']))
    return model


def golden_batch(g):
    features = {k: T(g[k])[None] for k in 'tav'}
    return from_padded(features, torch.zeros(1, 8), [8], {'emotion': T(g['labels'])[None]})


def test_votes_and_ablation(golden):
    g = golden('mmspcl/msve')
    batch = golden_batch(g)
    for name, vote in released(g).votes(batch.features).items():
        close(vote, g[f'logits_{name}'])
    close(released(g)(batch).logits, g['inference_sum_seven'])
    final = released(g, _FINAL_COMBINATIONS)(batch).logits
    close(final, g['inference_sum_six'])
    assert (final.argmax(-1).numpy() == g['pred_six']).all()
    for row, combinations in _ABLATION.items():
        name, logits = row.replace(',', '_'), released(g, combinations)(batch).logits
        close(F.cross_entropy(logits, batch.targets['emotion']), g[f'loss_{name}'])
        assert (logits.argmax(-1).numpy() == g[f'pred_{name}']).all()


def test_training_step(golden):
    "The two combinations of the file: their sum, its loss and gradient; no other has a gradient."
    g = golden('mmspcl/msve')
    pair, batch = {str(c) for c in g['train_sampled']}, golden_batch(g)
    step = next(step for step in range(1000) if set(drawn(step)) == pair)
    model = released(g, _FINAL_COMBINATIONS, k=2)
    logits = model(batch.at(0, step)).logits
    close(logits, g['train_logits_sampled'])
    logits.retain_grad()
    loss = weighted_nll(logits.log_softmax(-1), batch.targets['emotion'])
    close(loss, g['train_loss_sampled'])
    loss.backward()
    close(logits.grad, g['grad_of_loss_wrt_summed_logits'])
    assert {c for c in model.names if model.voters[c][0].weight.grad is not None} == pair


def parameters(dims, **options):
    return sum(p.numel() for p in MSVE(dims, 7, **options).parameters())


def test_size():
    assert parameters(PAPER) == 352_734 and parameters(PAPER, hidden={}) == 45_766
    assert parameters({**PAPER, 'text': 384}) == 220_894
    hidden = {'a': (64,), 'tav': (64, 64)}
    assert parameters({**PAPER, 'audio': 1611}, hidden=hidden) == 349_687
    voters = MSVE(PAPER, 7).voters
    assert [len(linear_layers(voters[c])) for c in _FINAL_COMBINATIONS] == [1, 1, 1, 2, 1, 3]


def test_one_combination_is_a_plain_network():
    torch.manual_seed(0)
    model, batch = make_model(['tav'], k=1), make_batch()
    widths = (15, 128, 64, 7)
    layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
    plain = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).double()
    state = model.state_dict().items()
    plain.load_state_dict({k.removeprefix('voters.tav.'): v for k, v in state})
    expected = plain(torch.cat([batch.features[k] for k in SIZES], 1))
    close(model(batch).logits, expected, 1e-12)
    close(model(batch.at(3, 5)).logits, expected, 1e-12)


# ---- sampling ----------------------------------------------------------------------------------


def test_draws():
    "k different combinations, each as often as the others, by the step alone."
    draws = [_drawn_combinations(_ALL_COMBINATIONS, 3, step) for step in range(2000)]
    for draw in draws:
        assert len(set(draw)) == 3 and list(draw) == sorted(draw, key=_ALL_COMBINATIONS.index)
    for name in _ALL_COMBINATIONS:
        assert abs(sum(name in draw for draw in draws) / 2000 - 3 / 7) < 0.04
    assert drawn(0, k=6) == _FINAL_COMBINATIONS and drawn(torch.tensor(5)) == drawn(5)


def test_the_draw_is_shared_by_seeds():
    batch, model = make_batch(), make_model()
    for step in range(5):
        close(model(batch.at(0, step)).logits, model(batch.at(9, step)).logits, 1e-14)


def test_seeds_stack():
    "A stack equals single seeds, and only what is drawn has a gradient."
    batch, loss_of = make_batch(), criterion('emotion')
    stack = Stack(lambda: MSVE(SIZES, 7), [0, 7], torch.float64)
    single = Single(lambda: MSVE(SIZES, 7), [7], torch.float64)
    for step in range(6):
        losses = stack.loss(batch, torch.tensor(step), loss_of)
        assert abs(losses[1] - single.loss(batch, torch.tensor(step), loss_of)[0]) < 1e-12
        parameters = list(stack.params.values())
        gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        moved = [k.split('.')[1] for k, g in zip(stack.params, gradients) if g is not None]
        assert set(moved) == set(drawn(step))
    assert (stack.predict(batch)[1] == single.predict(batch)[0]).all()


def owners(steps):
    "Return the combination of each tensor of the training state that belongs to one."
    names = {id(p): name for name, p in steps.engine.params.items()}
    order = [names[id(p)] for group in steps.opt.param_groups for p in group['params']]
    owner = {}
    for key in steps.state():
        kind, _, rest = key.partition('.')
        if kind == 'weight':
            owner[key] = rest.split('.')[1]
        elif kind == 'optimiser':
            owner[key] = order[int(rest.split('.')[0])].split('.')[1]
    return owner


@pytest.mark.parametrize('engine', [Stack, Single])
@pytest.mark.parametrize('optimiser', ['adam', 'adamw'])
def test_what_is_not_drawn_does_not_move(engine, optimiser):
    "Neither weights nor moments, with decay, clipping and a history that would move them."
    batch, seeds = make_batch(), [0, 1, 2] if engine is Stack else [0]
    settings = complete(dict(optimiser=optimiser, lr=0.05, weight_decay=0.3, clip=1.0))
    own = engine(lambda: MSVE(SIZES, 7), seeds, torch.float64)
    steps, seen = Steps(own, [batch], criterion('emotion'), settings), set()
    for step in range(40):
        before = {key: x.clone() for key, x in steps.state().items()}
        steps(0, step)
        now, seen = steps.state(), seen | set(drawn(step))
        for key, name in owners(steps).items():
            moved = key not in before or not torch.equal(now[key], before[key])
            if key.startswith('weight.'):
                assert moved == (name in drawn(step)), (step, key)
            else:
                assert name in drawn(step) or not moved, (step, key)
    assert seen == set(_FINAL_COMBINATIONS), 'every voter had a history'


def test_a_gradient_of_zero_would_move_them():
    "The case that the engine avoids."
    batch, own = make_batch(), Stack(lambda: MSVE(SIZES, 7), [0], torch.float64)
    settings = complete(dict(optimiser='adamw', lr=0.05, weight_decay=0.3))
    steps = Steps(own, [batch], criterion('emotion'), settings)
    steps(0, 0)
    name = f'voters.{drawn(0)[0]}.0.weight'
    before = own.params[name].detach().clone()
    for p in own.params.values():
        p.grad = torch.zeros_like(p)
    steps.opt.step()
    assert not torch.equal(own.params[name], before)


def test_without_dropout_every_voter_learns():
    model, batch = make_model(k=None), make_batch()
    for step in range(4):
        close(model(batch.at(0, step)).logits, model(batch).logits, 1e-14)
    model(batch.at(0, 0)).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_resumed_run_draws_the_same(tmp_path):
    "Steps are counted over epochs, also by a run that continues from a checkpoint."
    batches = [make_batch(seed, torch.float32) for seed in range(3)]
    settings = dict(epochs=3, lr=0.01, optimiser='adam')

    class Stop(Exception):
        pass

    def stop(engine, epoch):
        if epoch == 1:
            raise Stop

    def train(**options):
        score = lambda predictions: np.linspace(0, 1, len(predictions))  # noqa: E731
        common = dict(seeds=[0, 1], settings=settings, target='emotion', progress=False)
        return fit(lambda: MSVE(SIZES, 7), batches, batches, score, **common, **options)

    whole = train()
    with pytest.raises(Stop):
        train(watch=stop, checkpoint=tmp_path / 'c', every=0)
    again = train(checkpoint=tmp_path / 'c')
    for name, weight in whole.engines[0].params.items():
        close(weight, again.engines[0].params[name], 1e-12)


# ---- inference ---------------------------------------------------------------------------------


def test_the_mean_scales_the_sum():
    batch, model, mean = make_batch(), make_model(), make_model(vote='mean')
    mean.load_state_dict(model.state_dict())
    close(mean(batch).logits * 3, model(batch).logits, 1e-12)
    close(mean(batch.at(0, 1)).logits, model(batch.at(0, 1)).logits, 1e-14)


@pytest.mark.parametrize('gone', sorted(SIZES))
def test_a_missing_modality_has_no_vote(gone):
    batch, model = make_batch(), make_model()
    features = {k: x for k, x in batch.features.items() if k != gone}
    rest = dataclasses.replace(batch, features=features)
    others = [c for c in _FINAL_COMBINATIONS if gone[0] not in c]
    close(model(rest).logits, sum(model.votes(batch.features, others).values()), 1e-12)
    with pytest.raises(ValueError, match=f'{gone} missing'):
        for step in range(10):
            model(rest.at(0, step))


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'dims,options,message',
    [
        (SIZES, dict(k=7), 'k=7 of 6 combinations'),
        (SIZES, dict(k=0), 'k=0 of 6'),
        (SIZES, dict(k=1.5), r'k=1\.5 of 6 .* a whole number from 1 to 6'),
        (SIZES, dict(hidden={'tva': (8,)}), "unknown combination in `hidden` 'tva'; did you mean"),
        (SIZES, dict(combinations=['t', 'tva']), "unknown combination 'tva'; did you mean 'tv'"),
        (SIZES, dict(combinations='un'), "unknown set of combinations 'un'"),
        (SIZES, dict(vote='product'), "unknown way to vote 'product'"),
        ({'text': 3, 'audio': 3}, dict(combinations='tri'), 'combinations tav is possible with'),
        ({'gesture': 3}, {}, "unknown modality 'gesture'"),
        ({'text': 6}, {}, 'k=2 of 1'),
    ],
)
def test_bad_options(dims, options, message):
    with pytest.raises(ValueError, match=message):
        MSVE(dims, 7, **options)


def test_default_widths_may_name_other_combinations():
    assert MSVE(SIZES, 7, 'uni').names == ('t', 'a', 'v')


def test_no_modality_at_all():
    model, batch = MSVE({'text': 6}, 7, ['t'], k=1).double(), make_batch()
    audio = {'audio': batch.features['audio']}
    with pytest.raises(ValueError, match='text missing'):
        model(dataclasses.replace(batch, features=audio))


def test_two_modalities():
    model = ensemble({'audio': 4, 'text': 6}, 7)
    assert model.names == ('t', 'a', 'ta') and model.k == 2
    assert _available_combinations(_FINAL_COMBINATIONS, ['text']) == ('t',)
