"Dev alone selects, seeds do not know each other, and an interrupted run ends as an uninterrupted one."

import dataclasses
import warnings
from unittest.mock import patch

import numpy as np
import pytest
import torch
import toy_training
from toy_training import (
    DEV,
    SETTINGS,
    TRAIN,
    Centres,
    Curves,
    Net,
    accuracy,
    assert_same,
    batches,
    killed,
    train,
    truth_of,
)

from erc.nn.cells import Out
from erc.training import fit as fit_module
from erc.training.engine import Keyed, Stack, Steps
from erc.training.fit import Fit, _fingerprint, fit, predict
from erc.training.settings import Settings, _select


def train_stacked(make=Net, seeds=(0, 1, 2), size=3, **how):
    "Train in groups on a CPU, as on a GPU."
    with patch.object(fit_module, '_one_by_one', lambda task: False):
        return train(make, seeds, seeds_per_group=size, **how)


# ---- seeds


GROUPINGS = {
    'together': [(0, 1, 2, 3, 4)],
    'in three calls': [(3, 1), (0,), (4, 2)],
    'alone': [(0,), (1,), (2,), (3,), (4,)],
}


@pytest.mark.parametrize('vectorise', [True, False])
@pytest.mark.parametrize('make', [Net, Centres])
def test_a_seed_is_the_same_bit_for_bit_in_any_grouping(make, vectorise):
    "With dropout, hooks, clipping and decay."
    results = {}
    for name, calls in GROUPINGS.items():
        for seeds in calls:
            f = train(make, seeds, vectorise=vectorise)
            for i, module in enumerate(f.modules()):
                state = {k: v.clone() for k, v in module.state_dict().items()}
                results[name, f.seeds[i]] = f.losses[i], f.dev[i], state
    for (_, seed), (losses, dev, state) in results.items():
        own = results['together', seed]
        np.testing.assert_array_equal(losses, own[0])
        np.testing.assert_array_equal(dev, own[1])
        assert all(torch.equal(v, own[2][k]) for k, v in state.items())


@pytest.mark.parametrize('size', [1, 2, 5, 'auto'])
def test_the_size_of_a_group_changes_nothing_on_a_cpu(size):
    assert_same(train(seeds=range(5), seeds_per_group=size), train(seeds=range(5)))


@pytest.mark.parametrize('dtype, eps', [('float32', 1e-5), ('float64', 1e-10)])
@pytest.mark.parametrize('optimiser', ['adam', 'adamw'])
def test_five_seeds_in_a_stack_equal_five_alone(dtype, eps, optimiser):
    "To rounding, which differs within a stack."
    settings = {**SETTINGS, 'dtype': dtype, 'optimiser': optimiser}
    together = train_stacked(seeds=range(5), size=5, settings=settings)
    alone = train(seeds=range(5), settings=settings)
    assert np.abs(alone.losses - together.losses).max() < eps
    assert np.array_equal(alone.selected, together.selected)


def test_stacks_of_two_sizes_agree():
    a, b = train_stacked(size=3), train_stacked(size=2)
    assert np.abs(a.losses - b.losses).max() < 1e-5
    assert np.array_equal(a.predict(DEV), b.predict(DEV))


def test_same_seed_twice_is_bit_identical():
    assert_same(train(), train())


def test_seeds_differ():
    a = train()
    assert np.abs(a.losses[0] - a.losses[1]).max() > 1e-3


@pytest.mark.parametrize('vectorise', [True, False])
def test_the_global_random_stream_is_left_alone(vectorise):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(seeds=[0], vectorise=vectorise)
    assert torch.equal(before, torch.get_rng_state())


# ---- selection


def test_weights_are_those_of_the_selected_epoch():
    f = train(seeds=[0, 1, 2], settings={**SETTINGS, 'epochs': 6, 'lr': 5e-2})
    assert np.allclose(accuracy(f.predict(DEV)), f.dev.max(1))
    assert np.array_equal(f.selected, _select(f.dev))


def test_selection_cannot_see_test_labels():
    "The same epochs and weights whatever the test labels are, watched or not."

    def watched(labels_seed):
        test, seen = batches(12, 2), []
        for b in test:
            g = torch.Generator().manual_seed(labels_seed)
            b.targets['emotion'] = b.targets['emotion'][torch.randperm(len(b), generator=g)]

        def watch(engine, epoch):
            seen.append((predict(engine, test) == truth_of(test)).mean())
            return 1e9

        return train(settings={'epochs': 4, 'lr': 2e-2}, watch=watch), seen

    (a, seen_a), (b, seen_b) = watched(0), watched(1)
    assert seen_a != seen_b and len(seen_a) == 4 * 2
    assert_same(a, b)
    assert_same(a, train(settings={'epochs': 4, 'lr': 2e-2}))


def test_a_short_run_is_the_beginning_of_a_longer_one():
    "At a constant rate; that is why a grid over epochs trains only the longest."
    constant = {**SETTINGS, 'warmup': 0.0, 'decay': False}
    short, long = (train(settings={**constant, 'epochs': n}) for n in (3, 7))
    assert np.array_equal(short.dev, long.dev[:, :3])
    assert np.array_equal(short.losses, long.losses[:, :3])
    short, long = (train(settings={**SETTINGS, 'epochs': n}) for n in (3, 7))
    assert not np.array_equal(short.losses, long.losses[:, :3]), 'not where the rate falls'


def test_patience_stops_a_seed():
    f = train(seeds=[0, 1, 2], settings={**SETTINGS, 'epochs': 40, 'lr': 5e-2, 'patience': 2})
    for curve, chosen in zip(f.dev, f.selected):
        last = np.flatnonzero(np.isfinite(curve))[-1]
        assert last - chosen <= 3 and last < 39


def test_stopped_seeds_no_longer_count():
    "A seed that stopped trains on beside the others of its stack, but its curves have ended."
    settings = {**SETTINGS, 'epochs': 30, 'lr': 5e-2, 'patience': 1}
    f, alone = (how(seeds=range(3), settings=settings) for how in (train_stacked, train))
    assert np.array_equal(np.isnan(f.losses), np.isnan(f.dev)) and np.isnan(f.dev).any()
    np.testing.assert_array_equal(f.dev, alone.dev)


def test_a_loss_that_is_not_finite_names_seed_and_epoch_and_spares_the_others():
    class Breaks(Net):
        def __init__(self):
            super().__init__()
            if torch.initial_seed() == 1:
                self.b.weight.data.fill_(float('nan'))

    for how in (train, train_stacked):
        with pytest.warns(UserWarning, match='seed 1: loss is not finite in epoch 0'):
            f = how(Breaks, seeds=[0, 1], settings={'epochs': 2})
        assert np.isnan(f.dev[1]).all() and np.isfinite(f.dev[0]).all()


# ---- what goes in


def test_settings_may_be_a_dataclass():
    assert_same(train(settings=SETTINGS), train(settings=Settings(**SETTINGS)))


def test_unknown_settings_and_targets_name_the_nearest():
    with pytest.raises(ValueError, match="unknown training setting 'epoch'; did you mean 'epochs'"):
        train(settings={'epoch': 1})
    with pytest.raises(ValueError, match="unknown target 'emotio'; did you mean 'emotion'"):
        train(target='emotio')


def test_nothing_to_train_is_an_error():
    how = {'settings': {'epochs': 1}, 'target': 'emotion', 'progress': False}
    with pytest.raises(ValueError, match='no seeds to train'):
        fit(Net, TRAIN, DEV, accuracy, seeds=[], **how)
    with pytest.raises(ValueError, match='no training batches'):
        fit(Net, [], DEV, accuracy, seeds=[0], **how)
    with pytest.raises(ValueError, match='no dev batches'):
        fit(Net, TRAIN, [], accuracy, seeds=[0], **how)


def test_a_real_target_needs_one_value_a_row(monkeypatch):
    train_batches = batches(40, 0)
    for b in train_batches:
        b.targets['valence'] = b.features['text'][:, 0]
    monkeypatch.setattr(toy_training, 'TRAIN', train_batches)
    with pytest.raises(ValueError, match="'valence' has shape .*, but the model returns"):
        train(target='valence')


@pytest.mark.parametrize('vectorise', [True, False])
def test_training_begins_from_weights_that_were_trained_before(vectorise):
    begin = {s: {'b.bias': torch.full((3,), float(s))} for s in (0, 1)}
    still = {'epochs': 1, 'lr': 0.0, 'optimiser': 'adam'}
    f = train(settings=still, begin=begin, vectorise=vectorise)
    plain = train(settings=still, vectorise=vectorise)
    assert [m.b.bias[0].item() for m in f.modules()] == [0.0, 1.0]
    (a, *_), (b, *_) = ([m.a.weight.clone() for m in f.modules()] for f in (f, plain))
    assert torch.equal(a, b), 'the rest begins as always'
    with pytest.raises(RuntimeError, match='nonsense'):
        train(settings=still, begin={0: {'nonsense': torch.zeros(1)}, 1: {}})


def test_predictions_after_a_double_fit():
    f = train(seeds=[0], settings={**SETTINGS, 'dtype': 'float64'})
    assert f.predict(DEV).shape == (1, len(toy_training.TRUTH))


# ---- hooks


def test_hooks_are_called_for_every_seed():
    settings = {'epochs': 3, 'lr': 1e-2}
    both = train_stacked(Centres, [0, 1], settings=settings)
    alone = train(Centres, [1], settings=settings, vectorise=False)
    assert np.array_equal(both.dev[1], alone.dev[0]), 'nearest centres, stacked and single'
    calls = [int(m.calls) for m in both.modules()]
    assert calls == [int(e) + 1 for e in both.selected], 'buffers are restored with the weights'


class After(Centres):
    "Centres of the epoch's last weights."

    def on_epoch_start(self, encode):
        pass

    def on_epoch_end(self, encode):
        assert encode.epochs == 3
        Centres.on_epoch_start(self, encode)


@pytest.mark.parametrize('vectorise', [True, False])
def test_the_hook_at_the_end_sees_the_weights_that_are_scored(vectorise):
    f = train(After, settings={'epochs': 3, 'lr': 1e-2}, vectorise=vectorise)
    for m, epoch in zip(f.modules(), f.selected):
        before, calls = m.centres.clone(), int(m.calls)
        with torch.no_grad():
            Centres.on_epoch_start(m, lambda m=m: [(m(b), b) for b in TRAIN])
        assert torch.allclose(m.centres, before, atol=1e-6) and calls == epoch + 1


class Draws(Net):
    "Keeps what its hooks draw, epoch after epoch."

    def __init__(self):
        super().__init__()
        self.register_buffer('drawn', torch.zeros(2, 3))
        self.register_buffer('epoch', torch.zeros(()))

    def on_epoch_start(self, encode):
        self.draw(0)

    def on_epoch_end(self, encode):
        self.draw(1)
        self.epoch += 1

    def draw(self, i):
        self.drawn[i] = torch.where(torch.arange(3) == self.epoch, torch.rand(()), self.drawn[i])


def test_hooks_draw_by_seed_and_epoch():
    def drawn(how, seeds, **more):
        epochs = iter(range(9))
        rising = patch.object(toy_training, 'accuracy', lambda p: np.full(len(p), next(epochs)))
        with rising:  # every epoch is better than the last
            f = how(Draws, seeds, settings={'epochs': 3}, **more)
        return [m.drawn.clone() for m in f.modules()]

    both = drawn(train_stacked, [3, 4])
    distinct = {float(x) for d in both for x in d.flatten()}
    assert len(distinct) == 12, 'two seeds, two hooks, three epochs'
    assert torch.equal(both[1], drawn(train, [4], vectorise=False)[0])


class Replaces(Net):
    "A hook that puts a new tensor into its buffers, persistent or not."

    def __init__(self):
        super().__init__()
        self.register_buffer('centre', torch.zeros(2))
        self.register_buffer('loose', torch.zeros(2), persistent=False)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def on_epoch_start(self, encode):
        self.centre, self.loose = self.centre + 1, self.loose + 1

    def forward(self, batch):
        return Out(super().forward(batch).logits * self.scale)


@pytest.mark.parametrize('vectorise', [True, False])
def test_a_hook_may_replace_a_buffer(vectorise):
    "And a scalar parameter can be clipped."
    settings = {'epochs': 4, 'lr': 2e-2, 'clip': 1.0}
    f = train(Replaces, [0], settings=settings, vectorise=vectorise)
    last = int(f.selected[0]) + 1
    assert [(int(m.centre[0]), int(m.loose[0])) for m in f.modules()] == [(last, last)]


# ---- the result


def test_a_fit_without_some_seeds():
    for f in (train(seeds=[0, 1, 2]), train_stacked(seeds=[0, 1, 2])):
        predictions = f.predict(DEV)
        rest = f.without([1])
        assert isinstance(rest, Fit) and rest.seeds == [0, 2] and len(rest.dev) == 2
        assert np.array_equal(rest.predict(DEV), predictions[[0, 2]])
        assert len([*rest.modules()]) == 2


def test_the_repr_of_a_fit_is_short():
    assert repr(train(settings={'epochs': 2})).startswith('Fit: 2 seeds, 2 epochs, best dev scores')
    many = Fit([*range(99)], np.zeros(99), np.zeros((99, 2)), np.zeros((99, 2)), [])
    assert len(repr(many)) < 400


def test_fingerprint_notices_mathematics_not_names():
    b = batches(4, 5)[0]

    class Same(Net):
        pass

    class Other(Net):
        def forward(self, batch):
            return Out(super().forward(batch).logits * 1.001)

    same, other = (_fingerprint(m, b, 'emotion') for m in (Same, Other))
    assert _fingerprint(Net, b, 'emotion') == same != other


# ---- interruptions


class Heavy(Centres):
    "Buffers, hooks and torch's own dropout, as a fine-tuned encoder has."

    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.3)

    def forward(self, batch):
        out = super().forward(batch)
        return dataclasses.replace(out, logits=self.drop(out.logits))


def run(kind, checkpoint=None, **more):
    "Train one of several kinds of task, writing a checkpoint after every step."
    how, options = {
        'alone': (train, {'make': Net, 'seeds': [0, 1, 2]}),
        'stack': (train_stacked, {'make': Net, 'seeds': [0, 1, 2]}),
        'groups': (train_stacked, {'make': Centres, 'seeds': [4, 5, 6], 'size': 2}),
        'single': (train, {'make': Heavy, 'seeds': [0, 1], 'vectorise': False}),
    }[kind]
    return how(**{**options, 'checkpoint': checkpoint, 'every': 0.0, **more})


@pytest.fixture
def ran(monkeypatch):
    "How many seeds each training step had."
    ran, step = [], Steps.run
    count = lambda self, b: (ran.append(len(self.engine.seeds)), step(self, b))[1]  # noqa: E731
    monkeypatch.setattr(Steps, 'run', count)
    return ran


@pytest.mark.parametrize('kind, at', [('alone', 22), ('stack', 8), ('groups', 22), ('single', 22)])
def test_a_killed_fit_continues(tmp_path, ran, kind, at):
    path = tmp_path / 'c.safetensors'
    killed(
        'test_fit', f'from toy_training import die_at; die_at({at}); run({kind!r}, {str(path)!r})'
    )
    resumed, done = run(kind, path), len(ran)
    whole = run(kind)
    assert_same(resumed, whole)
    assert done == len(ran) - done - (at - 1), 'no step that was saved is done again'
    assert resumed.earlier > 0 and whole.earlier == 0
    assert [m.training for m in resumed.modules()] == [m.training for m in whole.modules()]


def interrupted(kind, path, stop, **more):
    "Run until `stop(engine, epoch)`."
    with pytest.raises(KeyboardInterrupt):
        run(kind, path, watch=Curves(range(9), 99, stop), **more)


def test_a_killed_fit_continues_in_the_groups_it_had(tmp_path, ran):
    "Other programs may leave more memory, or less, when it is called again."
    path = tmp_path / 'c.safetensors'
    whole = run('stack', size=2)
    interrupted('stack', path, lambda e, epoch: e.seeds.tolist() == [2] and epoch == 1, size=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['c-0x2.safetensors', 'c-2x1.safetensors']
    ran.clear()
    assert_same(run('stack', path, size=3, watch=Curves(range(9), 99)), whole)
    assert set(ran) == {1}, 'the first two seeds are read, the third continues'


def test_a_finished_fit_is_read_not_trained(tmp_path, monkeypatch):
    path = tmp_path / 'c.safetensors'
    first = run('single', path)
    monkeypatch.setattr(Steps, 'run', None)
    assert_same(run('single', path), first)


@pytest.mark.parametrize('kind', ['alone', 'stack'])
def test_the_watch_is_resumed_too(tmp_path, kind):
    whole, resumed = Curves([0, 1, 2], 3), Curves([0, 1, 2], 3)
    with pytest.raises(KeyboardInterrupt):
        run(kind, tmp_path / 'c', watch=Curves([0, 1, 2], 3, lambda e, epoch: epoch == 1))
    f = run(kind, watch=whole)
    assert_same(f, run(kind, tmp_path / 'c', watch=resumed))
    assert np.array_equal(whole.curves, f.dev) and np.array_equal(resumed.curves, f.dev)


@pytest.mark.parametrize('kind', ['alone', 'stack'])
def test_patience_survives_an_interruption(tmp_path, kind):
    long = {**SETTINGS, 'epochs': 12, 'lr': 0.05, 'patience': 1}
    interrupted(kind, tmp_path / 'c', lambda e, epoch: epoch == 3, settings=long)
    assert_same(run(kind, tmp_path / 'c', settings=long), run(kind, settings=long))


@pytest.mark.parametrize(
    'change',
    [
        {'settings': {**SETTINGS, 'lr': 2e-2}},
        {'seeds': [0, 1]},
        {'make': Centres},
        {'weight': [1.0, 2.0, 3.0]},
        'data',
    ],
)
def test_another_run_does_not_continue(tmp_path, change, monkeypatch):
    path = tmp_path / 'c'
    run('stack', path)
    before = path.read_bytes()
    if change == 'data':
        change = {}
        monkeypatch.setattr(toy_training, 'TRAIN', batches(40, 7))
    with pytest.warns(UserWarning, match='belongs to another run .* training starts anew'):
        got = run('stack', path, **change)
    assert_same(got, run('stack', **change))
    assert path.read_bytes() != before
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        run('stack', path, **change)


def test_a_damaged_checkpoint_is_not_used(tmp_path):
    path = tmp_path / 'c'
    whole = run('stack', path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match='is damaged: training starts anew'):
        assert_same(run('stack', path), whole)
    assert run('stack', path).earlier > 0


def test_a_checkpoint_that_cannot_be_written_changes_nothing(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.warns(UserWarning, match='cannot write checkpoint'):
        f = run('stack', tmp_path / 'file' / 'c')
    assert_same(f, run('stack'))


# ---- memory


class SmallDevice:
    "A device that holds so many seeds."

    def __init__(self, monkeypatch, fits):
        def limited(loss):
            def check(engine, *args):
                if len(engine.seeds) > fits:
                    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')
                return loss(engine, *args)

            return check

        for engine in (Stack, Keyed):  # several seeds, one seed
            monkeypatch.setattr(engine, 'loss', limited(engine.loss))


@pytest.mark.parametrize('fits', [1, 2])
def test_groups_get_smaller_where_memory_runs_out(monkeypatch, tmp_path, fits):
    SmallDevice(monkeypatch, fits)
    watch = Curves(range(5), 3)
    with pytest.warns(UserWarning, match='out of memory') as warned:
        f = run('stack', tmp_path / 'c', seeds=range(5), size=5, watch=watch)
    assert len(warned) == 4 - fits and f.seeds == [0, 1, 2, 3, 4]
    assert [len(e.seeds) for e in f.engines] == ([2, 2, 1] if fits == 2 else [1] * 5)
    monkeypatch.undo()
    whole = run('alone', seeds=range(5))
    assert np.abs(f.losses - whole.losses).max() < 1e-5 and np.array_equal(watch.curves, f.dev)


def test_one_seed_that_does_not_fit_is_an_error(monkeypatch):
    SmallDevice(monkeypatch, 0)
    for how in (train, train_stacked):
        with (
            warnings.catch_warnings(action='ignore'),
            pytest.raises(RuntimeError, match='out of memory with one seed and batches of 32'),
        ):
            how(seeds=range(3))


def test_groups_are_sized_by_free_memory(monkeypatch):
    "With a stand-in for a GPU on which a seed takes one byte."
    monkeypatch.setattr(fit_module, '_bytes_of_a_seed', lambda *task: 1.0)
    for free, size in {100: 3, 4: 2, 0.1: 1}.items():
        monkeypatch.setattr(fit_module, '_free_bytes', lambda device, free=free: free)
        f = train_stacked(size='auto', settings={'epochs': 1})
        assert len(f.engines[0].seeds) == size


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')


@cuda
def test_captured_runs_continue(tmp_path):
    path = tmp_path / 'c'
    interrupted('alone', path, lambda e, epoch: epoch == 1, device='cuda')
    a, b = run('alone', path, device='cuda'), run('alone', device='cuda')
    assert np.abs(a.losses - b.losses).max() < 1e-5


# ---- threads


def threads_in_training(**how):
    "Return how many threads torch has while it trains, of two before."
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(Net, (0,), watch=lambda *_: seen.append(torch.get_num_threads()), **how)
        return set(seen), torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_one_thread_trains_unless_more_are_asked_for(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    assert threads_in_training() == ({1}, 2)
    assert threads_in_training(vectorise=False) == ({2}, 2)
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    assert threads_in_training() == ({2}, 2)
