"Seeds together equal seeds alone, steps follow their settings, captured steps equal plain ones."

import math
import warnings
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toy_training import SETTINGS, TRAIN, Centres, Net, batches, train

from erc.data.batches import from_padded
from erc.nn.cells import Out, dropout
from erc.training import captured as captured_module
from erc.training import engine as engine_module
from erc.training.captured import Captured, _make_steps
from erc.training.engine import Keyed, Single, Stack, Steps, _build
from erc.training.settings import Settings, criterion

LOSS = criterion('emotion')


# ---- engines


def test_stack_equals_single():
    "The stacked model and the plain module compute the same, dropout included."
    batch = TRAIN[0].to(dtype=torch.float64)
    loss = criterion('emotion', torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    stack, single = Stack(Net, [3, 4], torch.float64), Single(Net, [4], torch.float64)
    step = torch.tensor(5)
    difference = stack.loss(batch, step, loss)[1] - single.loss(batch, step, loss)[0]
    assert abs(difference.item()) < 1e-12
    assert torch.equal(stack.predict(batch)[1], single.predict(batch)[0])


def test_single_refuses_several_seeds():
    with pytest.raises(ValueError, match='one seed at a time, not 2'):
        Single(Net, [0, 1])


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = _build(Net, 3, torch.float32, 'cpu')
    assert torch.equal(before, torch.get_rng_state()), 'the global random stream is left alone'
    torch.manual_seed(6)
    again = _build(Net, 3, torch.float32, 'cpu')
    other = _build(Net, 4, torch.float32, 'cpu')
    assert torch.equal(first.a.weight, again.a.weight)
    assert not torch.equal(first.a.weight, other.a.weight)


@pytest.mark.parametrize('engine', [Stack(Net, [0, 1, 2]), Single(Net, [0])])
def test_a_snapshot_keeps_the_seeds_that_were_updated(engine):
    S = len(engine.seeds)
    which = torch.arange(S) != 1
    first = engine.snapshot()
    with torch.no_grad():
        for v in engine.tensors.values():
            v.add_(1)
    snapshot = {k: v.clone() for k, v in first.items()}
    engine.update(snapshot, which)
    moved = torch.stack([(snapshot[k] - v).reshape(S, -1).mean(1) for k, v in first.items()])
    assert torch.allclose(moved, which.float().expand(len(first), S), atol=1e-5)
    engine.restore(first)
    assert all(torch.equal(v, first[k]) for k, v in engine.tensors.items())


def test_clipping_bounds_the_norm_of_each_seed():
    for engine in (Stack(Net, [0, 1]), Single(Net, [0])):
        engine.loss(TRAIN[0], torch.tensor(0), LOSS).sum().backward()
        grads = [p.grad for p in engine.params.values()]
        for g in grads:
            g.mul_(100)
        engine.clip(0.5)
        flat = torch.cat([g.reshape(len(engine.seeds), -1) for g in grads], 1)
        assert torch.allclose(flat.norm(dim=1), torch.tensor(0.5), atol=1e-4)


# ---- keyed dropout


def test_dropout_of_rows_and_places():
    b = batches(6, 3)[0].at(torch.tensor(2), torch.tensor(9))
    x = torch.ones(len(b), 5, 4)
    full = dropout(x, 0.5, b, 'place')
    rows = torch.tensor([3, 0, 7])
    assert torch.equal(dropout(x[rows], 0.5, b, 'place', rows), full[rows])
    assert not torch.equal(dropout(x, 0.5, b, 'elsewhere'), full)
    assert torch.equal(dropout(x, 0.5, batches(6, 3)[0], 'place'), x), 'no dropout in evaluation'


@pytest.mark.parametrize('p', [0.1, 0.5, 0.9])
def test_dropout_rate_and_independence(p):
    "The share kept is right over utterances, units, steps and seeds; neighbours are uncorrelated."
    b = from_padded({'x': torch.ones(50, 20, 64)}, torch.zeros(50, 20, dtype=torch.long), [20] * 50)
    keys = [(torch.tensor(seed), torch.tensor(step)) for seed in range(3) for step in range(3)]
    masks = torch.stack([dropout(b.features['x'], p, b.at(*key), 'p') > 0 for key in keys]).float()
    assert abs(masks.mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / masks.numel())
    z = (masks - (1 - p)) / math.sqrt(p * (1 - p))
    for a, c in ((z[:, 1:], z[:, :-1]), (z[..., 1:], z[..., :-1]), (z[1:], z[:-1])):
        assert abs((a * c).mean()) < 5 / math.sqrt(a.numel())


# ---- steps


class WithEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.out = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, batch):
        return Out(self.out(self.encoder(batch.features['x'])))


@pytest.mark.parametrize('optimiser', ['adam', 'adamw'])
@pytest.mark.parametrize('engine', [Stack, Single])
def test_an_encoder_has_its_own_rate(optimiser, engine):
    "The part called `encoder` takes it, biases too; nothing else does."
    engine = engine(WithEncoder, [0])
    before = engine.snapshot()
    x, y = torch.randn(2, 3, 3), torch.randint(0, 2, (2, 3))
    batch = from_padded({'x': x}, torch.zeros(2, 3), [3, 2], {'y': y})
    rates = {'lr': 1e-2, 'encoder_lr': 1e-4, 'warmup': 2, 'epochs': 9}
    Steps(engine, [batch], criterion('y'), {'optimiser': optimiser, **rates})(0, 0)
    for k, v in engine.tensors.items():
        moved = (v.detach() - before[k]).abs().max().item()
        expected, tolerance = (5e-5, 2e-5) if k.startswith('encoder') else (5e-3, 2e-4)
        assert abs(moved - expected) < tolerance, k


def test_the_rate_drops_every_so_many_epochs():
    settings = Settings(epochs=5, lr=1.0, optimiser='adam', drop=0.5, drop_every=2)
    steps, seen = Steps(Stack(Net, [0]), batches(4, 0, 2), LOSS, settings), []
    steps.run = lambda b: seen.append(steps.opt.param_groups[0]['lr'])
    for i in range(10):  # two batches an epoch
        steps(i % 2, i)
    assert seen == [1.0] * 4 + [0.5] * 4 + [0.25] * 2


def test_betas_reach_the_optimiser():
    def betas(**settings):
        return Steps(Stack(Net, [0]), TRAIN, LOSS, settings).opt.param_groups[0]['betas']

    assert betas(betas=[0.9, 0.99]) == (0.9, 0.99) and betas() == (0.9, 0.999)


def test_weight_decay_spares_vectors_under_adamw_only():
    def decayed(optimiser):
        settings = {'optimiser': optimiser, 'weight_decay': 0.1}
        groups = Steps(Stack(Net, [0]), TRAIN, LOSS, settings).opt.param_groups
        return [(g['weight_decay'], len(g['params'])) for g in groups]

    assert decayed('adamw') == [(0.1, 2), (0.0, 2)] and decayed('adam') == [(0.1, 4)]


# ---- captured steps: on a stand-in for CUDA, and on CUDA


class FakeCuda:
    """What `Captured` uses of `torch.cuda`.

    In a capture nothing is computed, so the stand-in puts back what was; a replay runs the step.
    A refused capture leaves `broken` behind until one succeeds, as torch 2.11 does.
    """

    def __init__(self, monkeypatch, refuses=()):
        self.refuses, self.broken, self.pools = refuses, False, []
        self.train_on, optimiser = Steps.train_on, engine_module._optimiser
        monkeypatch.setattr(engine_module, '_optimiser', lambda e, s, capturable: optimiser(e, s))
        monkeypatch.setattr(Steps, 'train_on', lambda steps, batch: self.note(steps, batch))
        stream = SimpleNamespace(wait_stream=lambda s: None, synchronize=lambda: None, device='cpu')
        for name, fake in {
            'Stream': lambda device: stream,
            'stream': lambda s: nullcontext(),
            'current_stream': lambda device: None,
            'graph_pool_handle': lambda: 'pool',
            'CUDAGraph': SimpleNamespace,
            'graph': self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def note(self, steps, batch):
        self.steps, self.batch = steps, batch
        self.train_on(steps, batch)

    @contextmanager
    def graph(self, graph, pool=None, stream=None):
        steps, batch = self.steps, self.batch
        self.pools.append(pool)
        before = {k: v.clone() for k, v in steps.state().items()}
        if pool and any(batch is steps.batches[b] for b in self.refuses):
            self.broken = True
            raise RuntimeError('operation not permitted when stream is capturing\nand so on')
        yield
        self.broken = False
        for k, v in steps.state().items():
            v.copy_(before[k])
        graph.replay = lambda: self.train_on(steps, batch)


REFUSED = 'training steps cannot be captured, they run uncaptured: operation not permitted when stream is capturing$'


@pytest.mark.parametrize('refuses', [(), (3,)])
def test_capturing_changes_nothing(monkeypatch, refuses):
    "The step before each capture leaves no trace; after one refusal the rest runs uncaptured."
    order = [2, 0, 3, 2, 1, 4, 0]
    plain = Steps(Stack(Centres, [0, 1]), TRAIN, LOSS, SETTINGS)
    for i, b in enumerate(order):
        plain(b, i)
    fake = FakeCuda(monkeypatch, refuses)
    captured = Captured(Stack(Centres, [0, 1]), TRAIN, LOSS, SETTINGS)
    with pytest.warns(UserWarning, match=REFUSED) if refuses else nullcontext():
        for i, b in enumerate(order):
            captured(b, i)
    if refuses:
        assert captured.graphs is None and not fake.broken
        assert fake.pools == ['pool'] * 3 + [None], 'a refusal is followed by a capture elsewhere'
    else:
        assert len(captured.graphs) == 5
    a, b = plain.state(), captured.state()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('when', ['warming up', 'capturing'])
def test_memory_that_runs_out_in_a_capture_is_not_a_refusal(monkeypatch, when):
    "Leaving a broken capture raises an error of its own, which hides the first."
    fake = FakeCuda(monkeypatch)

    @contextmanager
    def broken(graph, pool=None, stream=None):
        try:
            yield
        finally:
            if pool:
                raise RuntimeError('capture failed due to a previous error')

    monkeypatch.setattr(torch.cuda, 'graph', broken)
    captured = Captured(Stack(Net, [0, 1, 2]), TRAIN, LOSS, SETTINGS)
    plain_loss, calls = Stack.loss, []

    def loss(*args):
        calls.append(args)
        if len(calls) == (1 if when == 'warming up' else 2):
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')
        return plain_loss(*args)

    monkeypatch.setattr(Stack, 'loss', loss)
    with pytest.raises(torch.OutOfMemoryError):
        captured(0, 0)
    assert len(calls) == (1 if when == 'warming up' else 2) and fake.batch is TRAIN[0]


def test_batches_of_one_layout_share_a_graph(monkeypatch):
    "Each is copied to where the graph reads; none of them is changed."
    x, y = torch.randn(4, 5, 3, 6), torch.randint(0, 3, (4, 5, 3))
    lengths = [[3] * 5, [3] * 5, [3, 3, 3, 2, 1], [3] * 5]
    parts = zip(x, lengths, y)
    given = [from_padded({'text': f}, torch.zeros(5, 3), n, {'emotion': t}) for f, n, t in parts]
    before = [b.features['text'].clone() for b in given]
    plain = Steps(Stack(Net, [0, 1]), given, LOSS, SETTINGS)
    FakeCuda(monkeypatch)
    captured = Captured(Stack(Net, [0, 1]), given, LOSS, SETTINGS)
    for i, b in enumerate([0, 2, 1, 3, 0, 2]):
        for steps in (plain, captured):
            steps(b, i)
    assert len(captured.graphs) == 2
    a, b = plain.state(), captured.state()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert all(torch.equal(b.features['text'], old) for b, old in zip(given, before))


def test_a_keyed_seed_alone_equals_a_stack():
    "The plain module and the stack of one take the same steps; hooks keep buffers where they are."
    stack, keyed = (kind(Centres, [4], torch.float64) for kind in (Stack, Keyed))
    data = [b.to(dtype=torch.float64) for b in TRAIN]
    for engine in (stack, keyed):
        steps = Steps(engine, data, LOSS, {'clip': 1.0})
        for i in range(6):
            steps(i % 3, i)
    for k, v in keyed.tensors.items():
        assert torch.allclose(v, stack.tensors[k][0], atol=1e-12), k
    held = keyed.buffers['centres']
    for module in keyed.modules():
        module.centres = torch.ones_like(module.centres)
    assert keyed.buffers['centres'] is held and held.eq(1).all()


@pytest.mark.parametrize('kind, unknown', [(Single, False), (Keyed, True), (Stack, True)])
def test_a_model_says_whether_its_steps_can_be_captured(kind, unknown):
    "One whose randomness is not keyed has to say so; any other is captured unless it objects."
    assert kind(Net, [0]).can_be_captured == unknown
    for said in (True, False):
        model = type('Saying', (Net,), {'capture': said})
        assert kind(model, [0]).can_be_captured == said


def test_buffers_that_a_hook_swaps_are_swapped():
    class Two(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer('first', torch.zeros(2))
            self.register_buffer('second', torch.ones(2))

    for engine in (Single(Two, [0]), Keyed(Two, [0]), Stack(Two, [0])):
        for module in engine.modules():
            module.first, module.second = module.second, module.first
        values = [engine.buffers[name].flatten().tolist() for name in ('first', 'second')]
        assert values == [[1, 1], [0, 0]]


def test_a_buffer_of_another_shape_takes_the_place_of_the_old_one():
    single = Single(Centres, [4])
    for module in single.modules():
        module.centres = torch.ones(1)
    assert single.buffers['centres'].shape == (1,)


@pytest.mark.parametrize(
    ('how', 'kind'),
    [
        ({}, Captured),
        ({'capture': False}, Steps),
        ({'can_be_captured': False}, Steps),
    ],
)
def test_steps_are_captured_where_that_is_possible(monkeypatch, how, kind):
    FakeCuda(monkeypatch)
    engine = SimpleNamespace(
        seeds=SimpleNamespace(is_cuda=True, device='cpu', __len__=lambda: 1),
        can_be_captured=how.get('can_be_captured', True),
    )
    made = []
    for name in ('Captured', 'Steps'):
        cls = getattr(captured_module, name)
        monkeypatch.setattr(captured_module, name, lambda *a, cls=cls: made.append(cls))
    _make_steps(engine, TRAIN, LOSS, Settings(epochs=4), how.get('capture', True))
    assert made == [kind]


def test_a_capture_that_saves_nothing_is_left_out(monkeypatch):
    monkeypatch.setattr(captured_module, 'Steps', lambda *a: 'uncaptured')
    engine = SimpleNamespace(
        seeds=SimpleNamespace(is_cuda=True), can_be_captured=True, model=SimpleNamespace()
    )
    with pytest.warns(UserWarning, match='3 epochs of 5 batches do not repay capturing'):
        assert _make_steps(engine, TRAIN, LOSS, Settings(epochs=3)) == 'uncaptured'


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')


@cuda
@pytest.mark.parametrize('optimiser', ['adam', 'adamw'])
def test_captured_steps_equal_plain_ones(optimiser):
    settings = {**SETTINGS, 'epochs': 4, 'optimiser': optimiser}  # as many as repay capturing
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        a, b = (train(settings=settings, device='cuda', capture=c) for c in (True, False))
    assert np.abs(a.losses - b.losses).max() < 1e-5 and np.array_equal(a.selected, b.selected)
    assert np.abs(b.losses - train(settings=settings).losses).max() < 1e-4


@cuda
def test_a_step_that_cannot_be_captured_runs_plain():
    class Reads(Net):
        def forward(self, batch):
            if int(batch.dialogue.sum()) < 0:
                raise ValueError
            return super().forward(batch)

    longer = {**SETTINGS, 'epochs': 4}
    with pytest.warns(UserWarning, match='cannot be captured'):
        f = train(Reads, settings=longer, device='cuda')
    assert torch.rand(1, device='cuda') < 1, 'the random generator draws again'
    plain = train(settings=longer, device='cuda', capture=False)
    assert np.abs(f.losses - plain.losses).max() < 1e-5
