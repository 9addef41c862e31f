"A run killed half way gives what an uninterrupted one gives, bit for bit; memory that runs out is answered with fewer seeds."

import dataclasses
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_training import Centres, Net, batches

import erc.runs.run as X
import erc.training.fit as T
from erc.core import cache_home
from erc.runs.recipes import system
from erc.runs.run import run_system
from erc.runs.records import find_record
from erc.training.checkpoint import Checkpoint
from erc.training.engine import Single, Stack, Steps
from erc.training.fit import fit

TESTS = Path(__file__).parent
SETTINGS = {
    'epochs': 3,
    'lr': 1e-2,
    'clip': 1.0,
    'weight_decay': 0.01,
    'warmup': 0.1,
    'decay': True,
}
TRAIN, DEV = batches(40, 0), batches(12, 1)
TRUTH = torch.cat([b.targets['emotion'] for b in DEV])[
    torch.cat([b.ids for b in DEV]).argsort()
].numpy()


class Heavy(Centres):
    "Buffers, hooks and torch's own dropout, which lone encoders use."

    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.3)

    def forward(self, batch):
        out = super().forward(batch)
        return dataclasses.replace(out, logits=self.drop(out.logits))


KINDS = {
    'stack': dict(make=Net, seeds=[0, 1, 2]),
    'groups': dict(make=Centres, seeds=[4, 5, 6], seeds_per_group=2),
    'single': dict(make=Heavy, seeds=[0, 1], vectorise=False),
}


def run(kind, checkpoint=None, settings=SETTINGS, **more):
    args = {**KINDS[kind], **more}
    return fit(
        args.pop('make'),
        TRAIN,
        DEV,
        lambda p: (p == TRUTH).mean(1),
        settings=settings,
        target='emotion',
        checkpoint=checkpoint,
        every=0.0,
        progress=False,
        **args,
    )


def result(f):
    weights = {
        f'{i}.{k}': v.detach().numpy()
        for i, e in enumerate(f.engines)
        for k, v in {**e.params, **e.buffers}.items()
    }
    return {
        'dev': f.dev,
        'losses': f.losses,
        'selected': f.selected,
        'predicted': f.predict(DEV),
        **weights,
    }


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


def die_at(n):
    "SIGKILL in the n-th update of this process (the fingerprint uses Adam, it does not count)."
    step, count = torch.optim.AdamW.step, iter(range(1, 10**6))

    def dying(self, *args, **kw):
        if next(count) == n:
            os.kill(os.getpid(), 9)
        return step(self, *args, **kw)

    torch.optim.AdamW.step = dying


def killed(code):
    "Run code in a process that must end by SIGKILL."
    r = subprocess.run(
        [sys.executable, '-c', 'from test_resume import *\n' + code],
        cwd=TESTS,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    )
    assert r.returncode == -9, r.stderr


@pytest.mark.parametrize('kind,at', [('stack', 8), ('groups', 22), ('single', 22)])
def test_a_killed_fit_goes_on(tmp_path, monkeypatch, kind, at):
    path = tmp_path / 'c.safetensors'
    killed(f'die_at({at}); run({kind!r}, {str(path)!r})')
    ran, step = [], Steps.run
    monkeypatch.setattr(Steps, 'run', lambda self, b: (ran.append(b), step(self, b))[1])
    resumed, n = run(kind, path), len(ran)
    whole = run(kind)
    assert equal(result(resumed), result(whole)) and n == len(ran) - n - (at - 1), (
        'no step that was saved is done again'
    )
    assert resumed.earlier > 0 and whole.earlier == 0
    assert [m.training for m in resumed.modules()] == [m.training for m in whole.modules()]


def test_a_killed_fit_goes_on_in_the_groups_it_had(tmp_path, monkeypatch):
    "Other programs may leave more memory, or less, when it is called again."
    path, ran, step = tmp_path / 'c.safetensors', [], Steps.run
    room = lambda n: monkeypatch.setattr(T, '_group_size', lambda wanted, *a, **k: n)
    room(2)
    whole = run('stack')

    def stop(engine, epoch):
        if engine.seeds.tolist() == [2] and epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run('stack', path, watch=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['c-0x2.safetensors', 'c-2x1.safetensors']
    room(3)
    monkeypatch.setattr(
        Steps, 'run', lambda self, b: (ran.append(len(self.engine.seeds)), step(self, b))[1]
    )
    assert equal(result(run('stack', path)), result(whole)) and set(ran) == {1}, (
        'the first two seeds are read, the third goes on'
    )


def test_a_finished_fit_is_read_not_trained(tmp_path, monkeypatch):
    path = tmp_path / 'c.safetensors'
    first = run('single', path)
    monkeypatch.setattr(Steps, 'run', None)
    assert equal(result(run('single', path)), result(first))


def test_the_watch_is_resumed_too(tmp_path):
    class Dies(X.Watch):
        def __call__(self, engine, epoch):
            if epoch == 1:
                raise KeyboardInterrupt
            super().__call__(engine, epoch)

    judge = lambda p: (p == TRUTH).mean(1)
    a, b, c = (
        X.Watch([0, 1, 2], 3, judge, DEV),
        Dies([0, 1, 2], 3, judge, DEV),
        X.Watch([0, 1, 2], 3, judge, DEV),
    )
    whole = run('stack', watch=a)
    with pytest.raises(KeyboardInterrupt):
        run('stack', tmp_path / 'c', watch=b)
    resumed = run('stack', tmp_path / 'c', watch=c)
    assert (
        np.array_equal(a.curves, c.curves)
        and np.array_equal(a.curves, whole.dev)
        and equal(result(whole), result(resumed))
    )


def test_patience_survives_an_interruption(tmp_path):
    long = {**SETTINGS, 'epochs': 12, 'lr': 0.05, 'patience': 1}

    def stop(engine, epoch):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run('stack', tmp_path / 'c', long, watch=stop)
    assert equal(result(run('stack', tmp_path / 'c', long)), result(run('stack', settings=long)))


@pytest.mark.parametrize(
    'change',
    [
        dict(settings={**SETTINGS, 'lr': 2e-2}),
        dict(seeds=[0, 1]),
        dict(make=Centres),
        dict(weight=[1.0, 2.0, 3.0]),
        'data',
    ],
)
def test_another_run_is_not_gone_on_from(tmp_path, change, monkeypatch):
    path = tmp_path / 'c'
    run('stack', path)
    before = path.read_bytes()
    if change == 'data':
        change = {}
        monkeypatch.setattr(sys.modules[__name__], 'TRAIN', batches(40, 7))
    with pytest.warns(UserWarning, match='is of another run .* training starts anew'):
        got = run('stack', path, **change)
    assert equal(result(got), result(run('stack', **change))) and path.read_bytes() != before
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        run('stack', path, **change)


@pytest.mark.parametrize(
    'damage',
    [
        lambda b: b[: len(b) // 2],
        lambda b: b'',
        lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:],
        lambda b: b'x' * 99,
    ],
)
def test_a_damaged_checkpoint_is_not_used(tmp_path, damage):
    path = tmp_path / 'c'
    whole = run('stack', path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match='is damaged: training starts anew'):
        assert equal(result(run('stack', path)), result(whole))
    assert run('stack', path).earlier > 0


def test_writing_is_rare_and_its_failure_harmless(tmp_path):
    c, n = Checkpoint(tmp_path / 'a', 'x', 60.0), []
    for _ in range(100):
        c.write(lambda: n.append(1) or {})
    assert not n and not (tmp_path / 'a').exists()
    (tmp_path / 'file').write_text('')
    with pytest.warns(UserWarning, match='no checkpoint can be written'):
        f = run('stack', tmp_path / 'file' / 'c')
    assert equal(result(f), result(run('stack')))


# ---- records

TOY = """title = "Toy"
[systems.net]
label = "net"
notebook = "400_shift"
model = "erc.models.shift:ShiftNet"
data = "erc.studies.shapes:load_pairs"
encode = {sentence = "text", previous = "previous"}
encoder = "hashing"
features = ["sentence", "previous"]
target = "shift"
unit = "turn"
corpora = ["demo"]
settings.paper = {epochs = 2, batch = 64, lr = [1e-3, 1e-2]}
"""


def toy_project(home):
    "A project whose only recipe is a tiny one."
    (home / 'recipes').mkdir(parents=True, exist_ok=True)
    (home / 'recipes' / 'toy.toml').write_text(TOY)
    os.environ['ERC_ROOT'], X.package_file, X.fit = (
        str(home),
        lambda name: home / name,
        partial(fit, every=0.0),
    )
    os.environ['ERC_CACHE'] = str(home / 'cache')
    X.timed = lambda *args, **how: 1.0  # an estimate would take steps too


def run_missing(home):
    from typer.testing import CliRunner

    from erc.cli import app

    toy_project(home)
    return CliRunner().invoke(app, ['run', 'toy', '--missing', '--seeds', '2'])


def test_a_killed_run_leaves_the_record_of_an_uninterrupted_one(tmp_path, monkeypatch):
    "`erc run toy --missing`, killed in the second point of its grid, and again."
    for k in ('ERC_ROOT', 'ERC_CACHE'):
        monkeypatch.setenv(k, '')
    for k in ('package_file', 'fit', 'timed'):
        monkeypatch.setattr(X, k, getattr(X, k))
    homes, ran, step = (tmp_path / 'a', tmp_path / 'b'), [], Steps.run
    toy_project(homes[0])
    monkeypatch.setattr(Steps, 'run', lambda self, b: (ran.append(b), step(self, b))[1])
    run_system(
        system('toy/net'), 'demo', 'paper', seeds=[0, 1], home=homes[0] / 'results', progress=False
    )
    whole = len(ran)
    killed(f'die_at({whole * 3 // 4}); run_missing(Path({str(homes[1])!r}))')
    assert (
        not (homes[1] / 'results').exists()
        and len(list((homes[1] / 'cache' / 'checkpoints').rglob('*.safetensors'))) == 2
    )
    r = run_missing(homes[1])
    assert (
        r.exit_code == 0
        and '1 runs' in r.output
        and len(ran) - whole == whole - (whole * 3 // 4 - 1)
    )
    a, b = (find_record('toy/net', 'demo', 'paper', h / 'results') for h in homes)
    assert b.seconds > 0 and dataclasses.asdict(a).keys() == dataclasses.asdict(b).keys()
    a.seconds = b.seconds = 0.0
    np.testing.assert_equal(dataclasses.asdict(a), dataclasses.asdict(b))
    assert not list((cache_home() / 'checkpoints').rglob('*.safetensors')), (
        'the checkpoints are gone with the record written'
    )
    assert 'nothing is missing' in run_missing(homes[1]).output


# ---- memory


class Small:
    "A stand-in for a device that holds two seeds."

    def __init__(self, fits):
        self.fits, self.tried, self.loss = fits, [], Stack.loss

    def __call__(self, engine, batch, step, criterion):
        self.tried.append(len(engine.seeds))
        if len(engine.seeds) > self.fits:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')
        return self.loss(engine, batch, step, criterion)


@pytest.mark.parametrize('fits', [1, 2])
def test_out_of_memory_is_answered_with_fewer_seeds(monkeypatch, tmp_path, fits):
    small = Small(fits)
    monkeypatch.setattr(Stack, 'loss', lambda *a: small(*a))
    watch = X.Watch([0, 1, 2, 3, 4], 3, lambda p: (p == TRUTH).mean(1), DEV)
    with pytest.warns(UserWarning, match='out of memory') as said:
        f = run('stack', tmp_path / 'c', seeds=range(5), watch=watch)
    assert [str(w.message) for w in said] == [
        f'out of memory with {n} seeds at once: trying {(n + 1) // 2}'
        for n in (5, 3, 2)[: 4 - fits]
    ]
    assert (
        small.tried[0] == 1
        and f.seeds == [0, 1, 2, 3, 4]
        and [len(e.seeds) for e in f.engines] == ([2, 2, 1] if fits == 2 else [1] * 5)
    )
    monkeypatch.undo()
    whole = run('stack', seeds=range(5))
    assert np.abs(f.losses - whole.losses).max() < 1e-5 and np.array_equal(watch.curves, f.dev)


def test_one_seed_that_does_not_fit_is_an_error(monkeypatch):
    monkeypatch.setattr(Stack, 'loss', lambda *a, small=Small(0): small(*a))
    for n in (1, 3):
        with pytest.raises(
            RuntimeError,
            match='out of memory with one seed and batches of 32: take a smaller `batch`',
        ):
            run('stack', seeds=range(n))
    monkeypatch.setattr(Stack, 'loss', lambda *a: 1 / torch.zeros(2, 3) @ torch.zeros(2))
    with pytest.raises(RuntimeError, match='size mismatch'):
        run('stack', seeds=range(3), seeds_per_group=3)


def test_seeds_are_grouped_by_free_memory(monkeypatch):
    need = T.bytes_of_a_seed(Net, 0, TRAIN[0], T.criterion('emotion'), T.complete({}), 'cpu')
    weights = 4 * sum(p.numel() for p in Net().parameters())
    assert need > 5 * weights + 4 * len(TRAIN[0]) * 24, 'weights, and at least the hidden layer'
    assert T.free_bytes('cpu') > 1e6
    group = lambda free, seeds: (
        monkeypatch.setattr(T, 'free_bytes', lambda d: free * need),
        T._group_size('auto', Net, seeds, TRAIN[:1], T.criterion('emotion'), T.complete({}), 'cpu'),
    )[1]
    assert (
        group(100, [0, 1, 2]) == 3
        and group(4, [0, 1, 2, 3]) == 2
        and group(0.1, [0, 1]) == 1
        and group(0.1, [0]) == 1
    )
    assert T._group_size(2, Net, [0, 1, 2], TRAIN, None, {}, 'cpu') == 2


# ---- captured steps: on a stand-in for CUDA, and on CUDA


class Fake:
    "What `Captured` uses of `torch.cuda`. In a capture nothing is computed, so the stand-in puts back what was; a replay runs the step."

    def __init__(self, monkeypatch, refuses=()):
        self.refuses, self.run, optimiser = refuses, Steps.run, T._optimiser
        monkeypatch.setattr(T, '_optimiser', lambda engine, s, capturable: optimiser(engine, s))
        monkeypatch.setattr(Steps, 'run', lambda steps, b: self.note(steps, b))
        stream = SimpleNamespace(wait_stream=lambda s: None, synchronize=lambda: None, device='cpu')
        for k, v in dict(
            Stream=lambda d: stream,
            stream=lambda s: nullcontext(),
            current_stream=lambda d: None,
            graph_pool_handle=lambda: None,
            CUDAGraph=SimpleNamespace,
            graph=self.graph,
        ).items():
            monkeypatch.setattr(torch.cuda, k, v)

    def note(self, steps, b):
        self.steps, self.batch = steps, b
        self.run(steps, b)

    @contextmanager
    def graph(self, graph, pool, stream):
        steps, b, before = (
            self.steps,
            self.batch,
            {k: v.clone() for k, v in self.steps.state().items()},
        )
        if b in self.refuses:
            raise RuntimeError('operation not permitted when stream is capturing\nand so on')
        yield
        for k, v in steps.state().items():
            v.copy_(before[k])
        graph.replay = lambda: self.run(steps, b)


@pytest.mark.parametrize('refuses', [(), (3,)])
def test_capturing_leaves_no_trace(monkeypatch, refuses):
    "Warming up before each capture changes neither weights, nor moments, nor losses; one refusal and the rest runs step by step."
    s, loss, order = T.complete(SETTINGS), T.criterion('emotion'), [2, 0, 3, 2, 1, 4, 0]
    plain = Steps(Stack(Centres, [0, 1]), TRAIN, loss, s)
    for i, b in enumerate(order):
        plain(b, i)
    Fake(monkeypatch, refuses)
    captured = T.Captured(Stack(Centres, [0, 1]), TRAIN, loss, s)
    with (
        pytest.warns(
            UserWarning,
            match='cannot be captured, it runs uncaptured: operation not permitted when stream is capturing$',
        )
        if refuses
        else nullcontext()
    ):
        for i, b in enumerate(order):
            captured(b, i)
    assert captured.graphs is None if refuses else sorted(captured.graphs) == [0, 1, 2, 3, 4]
    a, b = plain.state(), captured.state()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('when', ['warming up', 'capturing'])
def test_memory_that_runs_out_in_a_capture_is_not_taken_for_a_refusal(monkeypatch, when):
    "Leaving a broken capture raises an error of its own, which hides the first."
    fake = Fake(monkeypatch)

    @contextmanager
    def broken(*args, **kw):
        try:
            yield
        finally:
            raise RuntimeError('capture failed due to a previous error')

    monkeypatch.setattr(torch.cuda, 'graph', broken)
    captured, small = (
        T.Captured(Stack(Net, [0, 1, 2]), TRAIN, T.criterion('emotion'), T.complete(SETTINGS)),
        Small(2),
    )
    small.fits = 2 if when == 'warming up' else 3

    def loss(*args):
        out = small(*args)
        small.fits = 2
        return out

    monkeypatch.setattr(Stack, 'loss', loss)
    with pytest.raises(torch.OutOfMemoryError):
        captured(0, 0)
    assert len(small.tried) == (1 if when == 'warming up' else 2) and fake.batch == 0


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')


@cuda
@pytest.mark.parametrize('optimiser', ['adam', 'adamw'])
def test_captured_steps_equal_eager_ones(optimiser):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        s = {**SETTINGS, 'optimiser': optimiser}
        a, b = (run('stack', device='cuda', settings=s, capture=c) for c in (True, False))
    assert np.abs(a.losses - b.losses).max() < 1e-5 and np.array_equal(a.selected, b.selected)
    assert np.abs(b.losses - run('stack', settings=s).losses).max() < 1e-4


@cuda
def test_captured_runs_resume(tmp_path):
    def stop(engine, epoch):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run('stack', tmp_path / 'c', device='cuda', watch=stop)
    assert (
        np.abs(
            run('stack', tmp_path / 'c', device='cuda').losses - run('stack', device='cuda').losses
        ).max()
        < 1e-5
    )


@cuda
def test_what_cannot_be_captured_runs_eagerly():
    class Asks(Net):
        def forward(self, batch):
            if int(batch.dialogue.sum()) < 0:
                raise ValueError
            return super().forward(batch)

    with pytest.warns(UserWarning, match='cannot be captured'):
        f = run('stack', make=Asks, device='cuda')
    assert np.abs(f.losses - run('stack', device='cuda', capture=False).losses).max() < 1e-5


@cuda
def test_memory_of_a_seed_on_cuda():
    batch = TRAIN[0].to('cuda')
    assert (
        T.bytes_of_a_seed(Net, 0, batch, T.criterion('emotion'), T.complete({}), 'cuda') > 0
        and T.free_bytes('cuda') > 0
    )
