"Models train, captured, on a CPU that passes for a CUDA device; what stays uncaptured says why."

import copy
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from pretend_device import DEVICE, Graph, Refused, place, pretended_device
from torch import nn
from toy_training import DEV, SETTINGS, Net, train

from erc.core import resolve
from erc.data.batches import from_padded
from erc.data.registry import load_corpus
from erc.data.sentence_encoders import toy_encoder
from erc.nn.cells import Out
from erc.nn.encoders import TextEncoder
from erc.report.section import Section, _section_jobs
from erc.runs import device_check, plan
from erc.runs.device_check import _check_training, _distinct_systems
from erc.runs.recipe_files import papers
from erc.runs.recipes import find_system, load_recipe
from erc.training import engine as engine_module
from erc.training.bench import _fine_tuning_speed
from erc.training.captured import Captured, _make_steps
from erc.training.engine import Single
from erc.training.fit import fit
from erc.training.settings import Settings, criterion

# ---- the device


def test_tensors_know_their_place():
    with pretended_device():
        x, w = torch.randn(4, 3, device='cuda'), torch.nn.Linear(3, 2).to('cuda')
        y = w(x)
        assert x.device.type == y.device.type == 'cuda' and y.is_cuda and not torch.ones(3).is_cuda
        y.sum().backward()
        assert w.weight.grad.is_cuda and x.to(torch.float64).is_cuda and not x.cpu().is_cuda
        mapped = torch.vmap(lambda a: a @ w.weight.T)(torch.randn(2, 4, 3, device='cuda'))
        assert mapped.is_cuda and x.new_zeros(2).is_cuda and torch.zeros_like(x).is_cuda
        assert (x + 1.0).is_cuda and torch.where(x > 0, x, 0).is_cuda
    assert place(x) == DEVICE


REFUSALS = {
    'mix': lambda x: x + torch.ones(3),
    'numpy': lambda x: x.numpy(),
    'kernel': lambda x: x.long()[None] @ x.long()[:, None],
}


@pytest.mark.parametrize('kind', REFUSALS)
def test_what_cuda_refuses_is_refused(kind):
    with pretended_device(), pytest.raises(Refused, match=kind):
        REFUSALS[kind](torch.randn(3, device='cuda'))


BREAKS = {
    'reads': lambda x: float(x.sum()),
    'a mask': lambda x: x[x > 0],
    'host indices': lambda x: x[torch.arange(2)],
    'numbers': lambda x: x.new_tensor(3.0),
    'moves': lambda x: torch.arange(3).to('cuda'),
    'nonzero': lambda x: x.nonzero(),
}


@pytest.mark.parametrize('what', BREAKS)
def test_what_breaks_a_capture_is_counted_outside_of_one(what):
    with pretended_device() as device:
        x = torch.randn(3, device='cuda')
        BREAKS[what](x)
        assert sum(device.notes.values()) == 1
        with pytest.raises(Refused, match='previous error') as error, torch.cuda.graph(Graph()):
            BREAKS[what](x)
        assert 'not permitted when stream is capturing' in str(error.value.__context__)


def test_a_replay_runs_the_operations_again():
    "Memory is fixed, a capture computes nothing, and a number read on the host stays frozen."
    with pretended_device():
        x, total, step = (torch.zeros(2, device='cuda') for _ in range(3))
        graph, count = torch.cuda.CUDAGraph(), 5
        with torch.cuda.graph(graph):
            total += (x * 2 + step) * count
        assert total.eq(0).all()
        x.fill_(1)
        count = 7
        graph.replay()
        graph.replay()
        assert total.eq(20).all()


def test_a_refused_capture_breaks_the_generator():
    with pretended_device() as device:
        x = torch.ones(3, device='cuda')
        with pytest.raises(Refused), torch.cuda.graph(torch.cuda.CUDAGraph(), (0, 1)):
            x.nonzero()
        with pytest.raises(Refused, match='Offset increment'):
            torch.randn(3, device='cuda')
        again = torch.cuda.graph(torch.cuda.CUDAGraph(), (0, 1))
        with pytest.raises(Refused, match='already recording'), again:
            x.clone()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            x.clone()
        assert torch.randn(3, device='cuda').is_cuda and device.open_pools == {(0, 1)}


# ---- training


LONGER = {**SETTINGS, 'epochs': 4}  # as much as captured steps repay


class Reads(Net):
    "A model that reads a number from the device in each step."

    def forward(self, batch):
        scale = 1.0 if int(batch.dialogue.sum()) >= 0 else 2.0
        out = super().forward(batch)
        return Out(out.logits * scale)


@pytest.mark.parametrize('seeds', [(0,), (0, 1)])
def test_a_refused_step_runs_uncaptured_and_breaks_nothing(seeds):
    "It says why, the generator draws again, and the allocator returns memory."
    with pretended_device() as device, pytest.warns(UserWarning, match='wait: _local_scalar_dense'):
        fitted = train(Reads, seeds, LONGER, device='cuda', seeds_per_group=2)
        torch.randn(3, device='cuda')
    assert not device.open_pools and fitted.engines[0].replayed is None
    np.testing.assert_allclose(fitted.losses, train(Reads, seeds, LONGER).losses, rtol=1e-5)


class Frozen(Net):
    "A model that draws on the host, without saying so."

    def forward(self, batch):
        out = super().forward(batch)
        return Out(out.logits * (1 + np.random.default_rng(len(self.drawn)).random()))

    def __init__(self):
        super().__init__()
        self.drawn = []

    def on_epoch_start(self, encode):
        self.drawn.append(0)


def test_a_number_that_a_graph_froze_shows():
    with pretended_device():
        captured = train(Frozen, (0,), LONGER, device='cuda')
    assert not np.allclose(captured.losses, train(Frozen, (0,), LONGER).losses, rtol=1e-5)


class Wrong(Net):
    "A model whose class depends on a number that is read on the host when it predicts."

    def predict(self, out):
        return out.logits.argmax(-1) + int(out.logits.sum() > 1e9)


def test_predictions_that_cannot_be_captured_are_computed():
    with pretended_device(), pytest.warns(UserWarning, match='^predictions cannot be captured'):
        fitted = train(Wrong, (0,), LONGER, device='cuda')
    np.testing.assert_array_equal(fitted.dev, train(Net, (0,), LONGER).dev)


def watched(device) -> list:
    "Predict two batches of the same rows after each epoch of a training."
    other = replace(DEV[0], features={'text': -DEV[0].features['text']})
    given, seen = [b.to(device) for b in (DEV[0], other)], []

    def watch(engine, epoch):
        seen.extend(engine.predict(b).cpu() for b in given)

    train(Net, (0,), LONGER, device=device, watch=watch)
    return seen


def test_replayed_predictions_are_of_their_own_batch_and_epoch():
    with pretended_device() as device:
        replayed = watched('cuda')
    assert device.captures == 5 + 2 + 2, 'steps, dev, and what is watched'
    assert len({tuple(x[0].tolist()) for x in replayed}) > 2
    assert all(torch.equal(a, b) for a, b in zip(replayed, watched('cpu'), strict=True))


# ---- all systems of all recipes

SMALL = {  # what keeps a step of a model short
    'DialogueTRM': dict(width=8, heads=2, ffn=8, layers=1, fusion_layers=1, fusion_heads=2),
    'MultiEMO': dict(width=8, heads=2, ffn=8, hidden=8, layers=2),
    'OneStage': dict(width=8, heads=2, ffn=8, hidden=8, layers=2),
    'GRUArcModel': dict(party=6, context=6, emotion=4, hidden=4),
    'SPCL': dict(width=8, length=8, support=2, rows=400),
    'SAGRU': dict(width=8, units=6, heads=2),
    'ContextGRU': dict(hidden=6),
    'DialogueRNNClassifier': dict(hidden=6),
}
TRAINED = [
    s for paper in papers() for s in load_recipe(paper).systems.values() if s.kind == 'model'
]


def toy_batch(system, features: dict, size=(3, 5)):
    rng = np.random.default_rng(1)
    targets = {k: rng.integers(0, 2, size) for k in (system.target, *system.targets)}
    return from_padded(features, rng.integers(0, 2, size), [5, 3, 1], targets)


def train_toy(system, make, batch, device='cpu', seeds=(0,), **settings):
    "Train on one batch for four epochs, which is as much as one captured step repays."
    settings = dict(epochs=4, lr=2**-8, clip=1.0, **settings)
    about = dict(seeds=seeds, target=system.target, vectorise=system.vectorise, device=device)
    score = lambda predictions: (predictions == 0).mean(1)  # noqa: E731
    return fit(make, [batch], [batch], score, settings=settings, progress=False, **about)


def maker(system):
    name = system.model.partition(':')[2]
    args = {**system.args, **SMALL.get(name, {})}
    if name == 'fused_model' and args.get('loss') == 'spcl':
        args['contrast'] = dict(length=8, support=2, rows=400, **args.get('contrast', {}))
    sizes = {name: system.toy for name in system.features}
    return partial(resolve(system.model), sizes=sizes, classes=2, **args)


KEYED = [s for s in _distinct_systems() if s.vectorise]


@pytest.mark.parametrize('system', KEYED, ids=lambda s: s.id)
def test_captured_training_equals_that_on_a_cpu(system):
    "Losses, predictions and the selected epoch: of a plain module, and of a stack on the CPU."
    rng = np.random.default_rng(0)
    features = {k: torch.from_numpy(rng.normal(size=(3, 5, system.toy))) for k in system.features}
    batch, make = toy_batch(system, features), maker(system)
    with pretended_device() as device, warnings.catch_warnings():
        warnings.simplefilter('error')
        captured = train_toy(system, make, batch, 'cuda', dtype='float64')
    plain = train_toy(system, make, batch, dtype='float64')
    assert device.captures == 2, 'the step, and the predictions of dev'
    assert np.isfinite(plain.losses).all()
    np.testing.assert_allclose(captured.losses, plain.losses, atol=1e-9)
    np.testing.assert_array_equal(captured.dev, plain.dev)


STACKED = [s for s in KEYED if s.name in ('gruarc', 'multiemo', 'm_mult', 'spcl', 'S5')]


@pytest.mark.parametrize('system', STACKED, ids=lambda s: s.id)
def test_captured_stacks_equal_seeds_on_a_cpu(system):
    rng = np.random.default_rng(0)
    features = {k: torch.from_numpy(rng.normal(size=(3, 5, system.toy))) for k in system.features}
    args = system, maker(system), toy_batch(system, features)
    with pretended_device() as device:
        captured = train_toy(*args, 'cuda', seeds=(0, 1), dtype='float64')
    assert device.captures == 2
    plain = train_toy(*args, seeds=(0, 1), dtype='float64')
    np.testing.assert_allclose(captured.losses, plain.losses, atol=1e-9)


def test_what_stays_uncaptured():
    "Systems of MSVE in which the host draws who votes; a module of unknown randomness."
    keyed = [s for s in TRAINED if s.vectorise and not s.token_features]
    models = {s.id: maker(s)() for s in keyed}
    uncaptured = {name for name, model in models.items() if not getattr(model, 'capture', True)}
    assert uncaptured == {
        f'mmspcl/{name}' for name in ('msve_dropout', 'mosi_msve_dropout', 'meld_msve_dropout')
    }
    assert {find_system(name).args['k'] for name in uncaptured} == {2}
    tuned = [resolve(s.model) for s in TRAINED if not s.vectorise]
    assert all(model.capture for model in tuned) and len(set(tuned)) == 4
    assert not Single(Net, [0]).can_be_captured


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    "A small text encoder."
    texts = load_corpus('demo').table.text.tolist()
    return str(toy_encoder(tmp_path_factory.mktemp('encoder'), texts, width=32, length=512))


ONE_OF_EACH = [s for s in _distinct_systems(every=False) if not s.vectorise]


def token_features(system, mask_id) -> dict:
    "Return token ids with a [MASK], those of one dialogue padded, and vectors for other features."
    rng, features = np.random.default_rng(0), {}
    for i, name in enumerate(system.features):
        if i == 0 or name in ('text', 'sentence', 'previous', 'prompt'):
            x = rng.integers(5, 30, (3, 5, 512))
            x[..., 2] = mask_id + 1
            x[0, :, 16:] = 0
            features[name] = torch.from_numpy(x).float()
        else:
            features[name] = torch.from_numpy(rng.normal(size=(3, 5, system.toy))).float()
    return features


def token_batch(system, features):
    "Return a batch whose four long and five short turns are encoded in two blocks."
    widths = {k: (512,) * 4 + (16,) * 5 for k, x in features.items() if x.shape[-1] == 512}
    return replace(toy_batch(system, features), widths=widths)


def tuned_module(system, encoder, features, dropout=True):
    "Build a model with a small encoder, whose token 4 is [MASK]."
    args = {**system.args, **SMALL.get(system.model.partition(':')[2], {}), 'encoder': encoder}
    module = resolve(system.model)({k: x.shape[-1] for k, x in features.items()}, 2, **args)
    for part in module.modules():
        if isinstance(part, nn.Dropout) and not dropout:
            part.p = 0.0
        if getattr(part, 'mask_id', None) is not None:
            part.mask_id = 4
    return module


@pytest.mark.parametrize('memory, recomputes', [(80 << 30, False), (1 << 14, True)])
@pytest.mark.parametrize('system', ONE_OF_EACH, ids=lambda s: s.id)
def test_a_fine_tuned_encoder_trains_on_a_device(system, encoder, memory, recomputes, monkeypatch):
    """In bfloat16, next to a head in float32; it is no further from the CPU than that.

    Activations are computed again, uncaptured, only where the device has little memory."""
    again, enable = [], TextEncoder._recompute_activations
    monkeypatch.setattr(
        TextEncoder, '_recompute_activations', lambda self: again.append(1) or enable(self)
    )
    features = token_features(system, 4)
    module = tuned_module(system, encoder, features, dropout=False)
    batch = token_batch(system, features)
    with pretended_device() as device, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda *_: (memory, memory))
        tuned = train_toy(system, lambda: copy.deepcopy(module), batch, 'cuda')
        monkeypatch.undo()
    assert bool(again) == recomputes
    refused = [str(w.message) for w in said if 'cannot be captured' in str(w.message)]
    assert len(refused) == recomputes and all('need their dropout restored' in w for w in refused)
    plain = train_toy(system, lambda: copy.deepcopy(module), batch)
    assert np.isfinite(tuned.losses).all()
    np.testing.assert_allclose(tuned.losses, plain.losses, atol=0.02)
    waits = [
        n for what, n in device.notes.items() if what.startswith('wait') and 'encoders' in what
    ]
    assert sum(waits) <= 2, device.notes  # of dev, and before the first epoch


@pytest.mark.parametrize('system', ONE_OF_EACH, ids=lambda s: s.id)
def test_a_captured_encoder_equals_one_on_a_cpu(system, encoder, monkeypatch):
    "In float64, which nothing rounds to bfloat16."
    features = token_features(system, 4)
    module = tuned_module(system, encoder, features, dropout=False)
    args = system, lambda: copy.deepcopy(module), token_batch(system, features)
    shapes, block = set(), TextEncoder.block
    monkeypatch.setattr(
        TextEncoder, 'block', lambda self, x: shapes.add(tuple(x.shape)) or block(self, x)
    )
    with pretended_device() as device:
        captured = train_toy(*args, 'cuda', dtype='float64')
    assert device.captures == 2
    towers = 2 if 'previous' in features else 1
    assert shapes == {(4 * towers, 512), (5 * towers, 16)}, 'long and short rows apart'
    plain = train_toy(*args, dtype='float64')
    np.testing.assert_allclose(captured.losses, plain.losses, atol=1e-9)
    np.testing.assert_array_equal(captured.dev, plain.dev)


@pytest.mark.parametrize('system', ONE_OF_EACH, ids=lambda s: s.id)
def test_a_captured_encoder_drops_what_a_step_drops(system, encoder):
    "The library's dropout is seeded before each replay; batches of one shape share a graph."
    features = token_features(system, 4)
    shorter = {k: x * (torch.arange(x.shape[-1]) < 4) for k, x in features.items()}
    module = tuned_module(system, encoder, features)
    batches = [token_batch(system, x) for x in (features, shorter)]
    about = dict(seeds=[3], target=system.target, vectorise=False, device='cuda', progress=False)
    settings = dict(epochs=3, lr=2**-8, clip=1.0)

    def losses(train, **options):
        score = lambda predictions: (predictions == 0).mean(1)  # noqa: E731
        make = lambda: copy.deepcopy(module)  # noqa: E731
        return fit(make, train, batches[:1], score, settings=settings, **about, **options).losses

    with pretended_device() as device, warnings.catch_warnings():
        warnings.simplefilter('error')
        captured = losses(batches)
        assert device.captures == 2, 'the step, and the predictions of dev'
        eager, other = losses(batches, capture=False), losses(batches[:1] * 2, capture=False)
    np.testing.assert_allclose(captured, eager, atol=1e-6)
    assert np.abs(eager - other).max() > 1e-4, 'what the second batch holds matters'


# ---- the command that checks a real device


def test_a_full_section_reaches_its_first_step(monkeypatch, tmp_path, data):
    "What papermill runs with `-p profile full -p device cuda`, up to what a GPU computes."
    key = 'shapes/gruarc:tuned@iemocap6'
    monkeypatch.setattr('erc.report.section.results_home', lambda: tmp_path)
    one = Section('shapes', '410_gruarc', profile='full', corpora='iemocap6', device='cuda')
    jobs = [job for job in _section_jobs(one) if str(job.key) == key]
    monkeypatch.setattr('erc.report.section._section_jobs', lambda section: jobs)

    def stop(steps, batch):
        assert batch.features and all(x.is_cuda for x in batch.features.values())
        assert all(p.is_cuda for p in steps.engine.params.values())
        raise InterruptedError('the first step')

    monkeypatch.setattr(engine_module.Steps, 'train_on', stop)
    with pretended_device(), pytest.raises(RuntimeError, match='InterruptedError: the first step'):
        one.run()


def only(monkeypatch, *names):
    systems = [s for s in TRAINED if s.name in names]
    monkeypatch.setattr(device_check, '_distinct_systems', lambda every=True: systems)
    monkeypatch.setattr(device_check, '_check_limits', lambda device: [])  # of whole corpora


def test_the_check_holds_steps_to_limits(monkeypatch):
    only(monkeypatch)
    lines = [{'what': 'a step of x', 'seeds': 1, 'ms': 9.0, 'limit ms': 5.0, 'ok': False}]
    monkeypatch.setattr(device_check, '_checks', lambda *_: [])
    monkeypatch.setattr(device_check, '_check_limits', lambda device: lines)
    table = _check_training(progress=False)
    assert table[['what', 'ms', 'limit ms', 'ok', 'error']].values.tolist() == [
        ['a step of x', 9.0, 5.0, False, '']
    ]


def test_the_check_passes_on_a_pretended_device(monkeypatch):
    only(monkeypatch, 'context_gru', 'spcl')
    with pretended_device() as device:
        table = _check_training('cuda', progress=False)
    assert table.ok.all(), table.to_string()
    assert table.captured.notna().sum() == 6 and device.captures > 9
    assert not device.open_pools


def test_the_check_says_what_falls_short(monkeypatch):
    only(monkeypatch, 'context_gru', 'shift_paper')
    compute = device_check._losses

    def losses(steps):
        value, seconds = compute(steps)
        return value + 2e-4 * isinstance(steps, Captured), seconds

    def broken(system):
        raise RuntimeError('CUDA error: device-side assert triggered\nand so on')

    monkeypatch.setattr(device_check, '_losses', losses)
    with pretended_device():
        table = _check_training('cuda', progress=False)
    assert table.ok.tolist() == [False] * 5 + [True, True]
    monkeypatch.setattr(device_check, '_compare', lambda trial, *how: broken(trial))
    table = _check_training(progress=False)
    assert not table.ok[:4].any() and 'device-side assert triggered' in table.error[0]


# ---- how long it takes


def test_what_is_timed_on_a_device_is_captured(encoder, monkeypatch):
    "Each batch is captured before it is timed, and what it then takes is a replay's."
    system = next(s for s in ONE_OF_EACH if s.name == 'shift_finetuned')
    features = token_features(system, 4)
    module = tuned_module(system, encoder, features)
    batch, steps = token_batch(system, features), []
    monkeypatch.setattr(
        plan, '_timed_step', lambda run, i, device: steps.append(i) or run(i, i) or 6.0
    )
    with pretended_device() as device:
        engine = Single(lambda: module, [0], device='cuda')
        some = [batch.to('cuda')] * 2
        run = _make_steps(engine, some, criterion(system.target), Settings(epochs=4))
        assert plan._row_seconds(run, some, 'cuda', 100.0) == 12 / (2 * len(batch))
        assert steps == [0, 1, 0, 1] and device.captures == 1
        speed = _fine_tuning_speed(lambda: module, [batch], system.target, {}, 'cuda', steps=1)
        assert device.captures == 2 and speed['pairs'] == len(batch)
