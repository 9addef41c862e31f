"Seeds together equal seeds alone; selection sees dev and nothing else."

import copy

import numpy as np
import pytest
import torch
from torch import nn

from erc.data.batches import from_padded
from erc.nn.cells import Out, dropout
from erc.training.engine import Single, Stack
from erc.training.fit import fingerprint, fit, predict
from erc.training.settings import complete, criterion, rate, select


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, batch):
        h = dropout(self.a(batch.features['text']).tanh(), 0.4, batch, 'h')
        return Out(
            self.b(dropout(h, 0.2, batch, 'again')), {'small': 1e-3 * self.b.weight.pow(2).sum()}
        )


def batches(n, seed, size=8):
    g = torch.Generator().manual_seed(seed)
    x, lengths = torch.randn(n, 7, 6, generator=g), torch.randint(1, 8, (n,), generator=g)
    y = (x[..., 0] + 0.3 * x[..., 1] * x[..., 2] > 0).long() + (x[..., 3] > 1).long()
    speakers = torch.zeros(n, 7, dtype=torch.long)
    out = [
        from_padded(
            {'text': x[i : i + size]},
            speakers[i : i + size],
            lengths[i : i + size],
            {'emotion': y[i : i + size]},
        )
        for i in range(0, n, size)
    ]
    for i, b in enumerate(out):
        b.ids += 1000 * i
    return out


@pytest.fixture(scope='module')
def task():
    train, dev = batches(40, 0), batches(12, 1)
    truth = torch.cat([b.targets['emotion'] for b in dev])[
        torch.cat([b.ids for b in dev]).argsort()
    ].numpy()
    return train, dev, lambda p: (p == truth).mean(1)


def run(task, seeds, **settings):
    train, dev, score = task
    return fit(
        Net,
        train,
        dev,
        score,
        seeds=seeds,
        settings={
            'epochs': 3,
            'lr': 1e-2,
            'clip': 1.0,
            'weight_decay': 0.01,
            'warmup': 0.1,
            'decay': True,
            **settings,
        },
        target='emotion',
        progress=False,
    )


@pytest.mark.parametrize('dtype,eps', [('float32', 1e-5), ('float64', 1e-10)])
@pytest.mark.parametrize('optimiser', ['adam', 'adamw'])
def test_five_seeds_together_equal_five_alone(task, dtype, eps, optimiser):
    together = run(task, [0, 1, 2, 3, 4], dtype=dtype, optimiser=optimiser)
    for s in range(5):
        alone = run(task, [s], dtype=dtype, optimiser=optimiser)
        assert np.abs(alone.losses[0] - together.losses[s]).max() < eps
        assert alone.selected[0] == together.selected[s]


def test_grouping_does_not_matter(task):
    train, dev, score = task
    a = run(task, [0, 1, 2])
    b = fit(
        Net,
        train,
        dev,
        score,
        seeds=[0, 1, 2],
        seeds_per_group=2,
        settings={
            'epochs': 3,
            'lr': 1e-2,
            'clip': 1.0,
            'weight_decay': 0.01,
            'warmup': 0.1,
            'decay': True,
        },
        target='emotion',
        progress=False,
    )
    assert np.abs(a.losses - b.losses).max() < 1e-5 and np.array_equal(
        a.predict(dev), b.predict(dev)
    )


def test_stack_equals_single(task):
    "The seed-batched engine and the plain module compute the same, dropout included."
    train = [b.to(dtype=torch.float64) for b in task[0]]
    loss = criterion('emotion', torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    stack, single = Stack(Net, [3, 4], torch.float64), Single(Net, [4], torch.float64)
    assert (
        abs(
            stack.loss(train[0], torch.tensor(5), loss)[1]
            - single.loss(train[0], torch.tensor(5), loss)[0]
        ).item()
        < 1e-12
    )


def test_same_seed_twice_is_bit_identical(task):
    a, b = run(task, [0, 1]), run(task, [0, 1])
    assert np.array_equal(a.losses, b.losses) and np.array_equal(a.dev, b.dev)
    assert all(
        torch.equal(a.engines[0].params[k], b.engines[0].params[k]) for k in a.engines[0].params
    )


def test_seeds_differ(task):
    a = run(task, [0, 1])
    assert np.abs(a.losses[0] - a.losses[1]).max() > 1e-3


def test_weights_are_those_of_the_selected_epoch(task):
    f = run(task, [0, 1, 2], epochs=6, lr=5e-2)
    score = task[2](predict(f.engines[0], task[1]))
    assert np.allclose(score, f.dev.max(1)) and np.array_equal(f.selected, select(f.dev))


def test_selection_cannot_see_test_labels(task):
    "The same epochs and weights whatever the test labels are, watched or not."
    train, dev, score = task

    def watched(labels_seed):
        test = batches(12, 2)
        for b in test:
            b.targets['emotion'] = b.targets['emotion'][
                torch.randperm(len(b), generator=torch.Generator().manual_seed(labels_seed))
            ]
        seen = []

        def watch(engine, epoch):
            p = predict(engine, test)
            truth = torch.cat([b.targets['emotion'] for b in test])[
                torch.cat([b.ids for b in test]).argsort()
            ].numpy()
            seen.append((p == truth).mean())
            return 1e9

        f = fit(
            Net,
            train,
            dev,
            score,
            seeds=[0, 1],
            settings={'epochs': 4, 'lr': 2e-2},
            target='emotion',
            watch=watch,
            progress=False,
        )
        return f, seen

    (a, seen_a), (b, seen_b) = watched(0), watched(1)
    plain = fit(
        Net,
        train,
        dev,
        score,
        seeds=[0, 1],
        settings={'epochs': 4, 'lr': 2e-2},
        target='emotion',
        progress=False,
    )
    assert seen_a != seen_b and len(seen_a) == 4
    for f in (b, plain):
        assert np.array_equal(a.selected, f.selected)
        assert all(
            torch.equal(a.engines[0].params[k], f.engines[0].params[k]) for k in f.engines[0].params
        )


def test_select_is_given_dev_alone():
    assert select([0.1, 0.4, 0.4]) == 1 and list(select([[np.nan, 0.2], [0.5, np.nan]])) == [1, 0]


def test_a_short_run_is_the_beginning_of_a_longer_one(task):
    "At a constant rate; that is why a grid over epochs trains the longest alone."
    short, long = (run(task, [0, 1], epochs=n, warmup=0.0, decay=False) for n in (3, 7))
    assert np.array_equal(short.dev, long.dev[:, :3]) and np.array_equal(
        short.losses, long.losses[:, :3]
    )
    assert not np.array_equal(
        run(task, [0], epochs=3).losses, run(task, [0], epochs=7).losses[:, :3]
    )  # not where the rate falls


def test_a_part_that_was_trained_before_is_where_training_begins(task):
    train, dev, score = task
    begin = {s: {'b.bias': torch.full((3,), float(s))} for s in (0, 1)}
    go = lambda **k: fit(
        Net,
        train,
        dev,
        score,
        seeds=[0, 1],
        settings={'epochs': 1, 'lr': 0.0, 'optimiser': 'adam'},
        target='emotion',
        progress=False,
        **k,
    )
    for vectorise in (True, False):
        assert [m.b.bias[0].item() for m in go(begin=begin, vectorise=vectorise).modules()] == [
            0.0,
            1.0,
        ]
    (a, *_), (b, *_) = ([m.a.weight.clone() for m in f.modules()] for f in (go(begin=begin), go()))
    assert torch.equal(a, b)  # the rest begins as always
    with pytest.raises(RuntimeError, match='nonsense'):
        go(begin={0: {'nonsense': torch.zeros(1)}, 1: {}})


def test_patience_stops_a_seed(task):
    f = run(task, [0, 1, 2], epochs=40, lr=5e-2, patience=2)
    for curve, chosen in zip(f.dev, f.selected):
        last = np.flatnonzero(np.isfinite(curve))[-1]
        assert last - chosen <= 3 and last < 39


def test_nan_loss_names_the_seed_and_spares_the_others(task):
    class Breaks(Net):
        def __init__(self):
            super().__init__()
            if torch.initial_seed() == 1:
                self.b.weight.data.fill_(float('nan'))

    train, dev, score = task
    with pytest.warns(UserWarning, match='seed 1: loss is not finite in epoch 0'):
        f = fit(
            Breaks,
            train,
            dev,
            score,
            seeds=[0, 1],
            settings={'epochs': 2},
            target='emotion',
            progress=False,
        )
    assert np.isnan(f.dev[1]).all() and np.isfinite(f.dev[0]).all()


def test_unknown_setting_is_refused(task):
    with pytest.raises(ValueError, match="unknown training setting 'learning_rate'"):
        run(task, [0], learning_rate=1.0)
    with pytest.raises(ValueError, match='optimiser'):
        run(task, [0], optimiser='sgd')


def test_dropout_alone_or_in_company_and_by_rows():
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
    masks = torch.stack(
        [
            dropout(b.features['x'], p, b.at(torch.tensor(s), torch.tensor(t)), 'p') > 0
            for s in range(3)
            for t in range(3)
        ]
    ).float()
    assert abs(masks.mean() - (1 - p)) < 4 * (p * (1 - p) / masks.numel()) ** 0.5
    z = (masks - (1 - p)) / (p * (1 - p)) ** 0.5
    for a, c in ((z[:, 1:], z[:, :-1]), (z[..., 1:], z[..., :-1]), (z[1:], z[:-1])):
        assert abs((a * c).mean()) < 5 / a.numel() ** 0.5


class Centres(Net):
    "A model with both hooks: predicts the nearest class centre, kept in a buffer."

    def __init__(self):
        super().__init__()
        self.register_buffer('centres', torch.zeros(3, 24))
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, batch):
        out = super().forward(batch)
        return Out(out.logits, out.losses, {'h': self.a(batch.features['text']).tanh()})

    def on_epoch_start(self, encode):
        h, y = zip(*((o.probes['h'], b.targets['emotion']) for o, b in encode()))
        h, y = torch.cat(h), torch.cat(y)
        for k in range(3):
            self.centres[k] = h[y == k].mean(0)
        self.calls += 1

    def predict(self, out):
        return torch.cdist(out.probes['h'], self.centres).argmin(-1)


def test_hooks_are_called_for_every_seed(task):
    train, dev, score = task
    settings = {'epochs': 3, 'lr': 1e-2}
    both = fit(
        Centres,
        train,
        dev,
        score,
        seeds=[0, 1],
        settings=settings,
        target='emotion',
        progress=False,
    )
    alone = fit(
        Centres,
        train,
        dev,
        score,
        seeds=[1],
        settings=settings,
        target='emotion',
        progress=False,
        vectorise=False,
    )
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
def test_the_hook_at_the_end_sees_the_weights_that_are_scored(task, vectorise):
    train, dev, score = task
    f = fit(
        After,
        train,
        dev,
        score,
        seeds=[0, 1],
        settings={'epochs': 3, 'lr': 1e-2},
        target='emotion',
        progress=False,
        vectorise=vectorise,
    )
    for m, epoch in zip(f.modules(), f.selected):
        before, calls = m.centres.clone(), int(m.calls)
        with torch.no_grad():
            Centres.on_epoch_start(m, lambda: [(m(b), b) for b in train])
        assert torch.allclose(m.centres, before, atol=1e-6) and calls == epoch + 1


def test_rate():
    from erc.training.settings import rate

    assert [rate(i, 10, 0.2, True) for i in range(10)] == [0.5, 1, 1] + [
        (10 - i) / 8 for i in range(3, 10)
    ] and rate(9, 10, 0.0, False) == 1
    cosine = [rate(i, 20, 0.1, 'epochs', 5) for i in range(20)]
    assert (
        cosine[:3] == [0.5, 1, 1]
        and np.allclose(cosine[2:5], 0.5 + 0.5 * np.cos(np.pi * np.arange(3) / 3))
        and np.allclose(cosine[5:10], 0.5 + 0.5 * np.cos(np.pi * np.arange(5) / 5))
    )
    assert cosine[5:10] == cosine[10:15] == cosine[15:]
    with pytest.raises(ValueError, match="unknown decay 'epoch'; did you mean 'epochs'"):
        complete({'decay': 'epoch'})


def test_fingerprint_notices_mathematics_not_names():
    b = batches(4, 5)[0]

    class Same(Net):
        pass

    class Other(Net):
        def forward(self, batch):
            return Out(super().forward(batch).logits * 1.001)

    assert (
        fingerprint(Net, b, 'emotion')
        == fingerprint(Same, b, 'emotion')
        != fingerprint(Other, b, 'emotion')
    )


def test_complete_keeps_defaults_untouched():
    from erc.training.settings import SETTINGS

    before = copy.deepcopy(SETTINGS)
    complete({'epochs': 1})
    assert SETTINGS == before


class Reassigns(Net):
    "A hook that puts a new tensor into its buffer, persistent or not."

    def __init__(self):
        super().__init__()
        self.register_buffer('centre', torch.zeros(2))
        self.register_buffer('loose', torch.zeros(2), persistent=False)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def on_epoch_start(self, encode):
        self.centre, self.loose = self.centre + 1, self.loose + 1

    def forward(self, batch):
        return Out(super().forward(batch).logits * self.scale)


@pytest.mark.parametrize('vectorise', [True, False])
def test_a_hook_may_put_a_new_tensor_into_a_buffer(task, vectorise):
    "And a scalar parameter can be clipped."
    train, dev, score = task
    f = fit(
        Reassigns,
        train,
        dev,
        score,
        seeds=[0],
        settings={'epochs': 4, 'lr': 2e-2, 'clip': 1.0},
        target='emotion',
        vectorise=vectorise,
        progress=False,
    )
    assert [(int(m.centre[0]), int(m.loose[0])) for m in f.modules()] == [
        (int(f.selected[0]) + 1,) * 2
    ]


def test_stopped_seeds_no_longer_count(task):
    f = run(task, [0, 1, 2], epochs=30, lr=5e-2, patience=1)
    assert np.array_equal(np.isnan(f.losses), np.isnan(f.dev)) and np.isnan(f.dev).any()
    for s in range(3):
        assert np.array_equal(
            run(task, [s], epochs=30, lr=5e-2, patience=1).dev[0][: len(f.dev[s])],
            f.dev[s],
            equal_nan=True,
        )


def test_a_real_valued_target_needs_one_value_a_row(task):
    train = [b for b in task[0]]
    for b in train:
        b.targets['valence'] = b.features['text'][:, 0]
    with pytest.raises(ValueError, match="'valence' has shape .*, the model gives"):
        fit(
            Net,
            train,
            task[1],
            task[2],
            seeds=[0],
            settings={'epochs': 1},
            target='valence',
            progress=False,
        )


@pytest.mark.parametrize(
    'bad,message',
    [
        ({'epochs': 0}, 'epochs=0'),
        ({'batch': 0}, 'batch=0'),
        ({'dtype': 'float31'}, "unknown dtype 'float31'; did you mean 'float32'"),
    ],
)
def test_settings_out_of_range(task, bad, message):
    with pytest.raises(ValueError, match=message):
        run(task, [0], **bad)
    with pytest.raises(ValueError, match='no seeds'):
        run(task, [])


def test_predictions_after_a_double_fit(task):
    assert run(task, [0], dtype='float64').predict(task[1]).shape[0] == 1


def test_the_global_random_stream_is_left_alone(task):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train, dev, score = task
    fit(
        Net,
        train,
        dev,
        score,
        seeds=[0],
        settings={'epochs': 1},
        target='emotion',
        vectorise=False,
        progress=False,
    )
    assert torch.equal(before, torch.get_rng_state())


def test_warmup_counted_in_steps():
    assert [rate(i, 100, 4, False) for i in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert rate(1199, 3240, 1200, True) == 1 and rate(0, 3240, 1200, True) == 1 / 1200


@pytest.mark.parametrize('optimiser', ['adam', 'adamw'])
def test_an_encoder_has_its_own_rate(optimiser):
    "Only the part called `encoder` takes it, with biases too; a record names it only where it was given."
    from erc.training.engine import Steps

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.out = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)

        def forward(self, batch):
            return Out(self.out(self.encoder(batch.features['x'])))

    for engine in (Stack(Two, [0, 1]), Single(Two, [0])):
        before = {k: v.detach().clone() for k, v in engine.params.items()}
        b = from_padded(
            {'x': torch.randn(2, 3, 3)},
            torch.zeros(2, 3),
            [3, 2],
            {'y': torch.randint(0, 2, (2, 3))},
        )
        steps = Steps(
            engine,
            [b],
            criterion('y'),
            complete(
                {'optimiser': optimiser, 'lr': 1e-2, 'encoder_lr': 1e-4, 'warmup': 2, 'epochs': 9}
            ),
        )
        steps(0, 0)
        moved = {k: float((v.detach() - before[k]).abs().max()) for k, v in engine.params.items()}
        for k, m in moved.items():
            assert abs(m - (5e-5 if k.startswith('encoder') else 5e-3)) < 2e-5 * (
                1 if k.startswith('encoder') else 10
            ), (k, m)
    assert 'encoder_lr' not in complete({}) and complete({'encoder_lr': 2e-5})['encoder_lr'] == 2e-5


class Draws(Net):
    "What hooks draw, epoch after epoch."

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


def test_hooks_draw_by_seed_and_epoch(task):
    train, dev, _ = task
    count = lambda: iter(range(9))

    def drawn(seeds, **how):
        n = count()  # every epoch is better than the last
        return [
            m.drawn.clone()
            for m in fit(
                Draws,
                train,
                dev,
                lambda p: np.full(len(p), next(n)),
                seeds=seeds,
                settings={'epochs': 3},
                target='emotion',
                progress=False,
                **how,
            ).modules()
        ]

    both = drawn([3, 4])
    assert len({float(x) for d in both for x in d.flatten()}) == 12, (
        'two seeds, two hooks, three epochs: all differ'
    )
    assert torch.equal(both[1], drawn([4], vectorise=False)[0])


def test_the_rate_drops_every_so_many_epochs():
    from erc.training.engine import Steps

    b = batches(4, 0, 2)
    steps = Steps(
        Stack(Net, [0]),
        b,
        criterion('emotion'),
        complete(
            {
                'epochs': 5,
                'lr': 1.0,
                'optimiser': 'adam',
                'drop': 0.5,
                'drop_every': 2,
                'betas': [0.9, 0.99],
            }
        ),
    )
    seen = []
    for epoch in range(5):
        steps.run = lambda b: seen.append(steps.opt.param_groups[0]['lr'])
        for i in range(2):
            steps(i, 2 * epoch + i)
    assert seen == [1.0] * 4 + [0.5] * 4 + [0.25] * 2 and steps.opt.param_groups[0]['betas'] == (
        0.9,
        0.99,
    )
    assert 'betas' not in complete({}) and Steps(
        Stack(Net, [0]), b, criterion('emotion'), complete({})
    ).opt.param_groups[0]['betas'] == (0.9, 0.999)
    with pytest.raises(ValueError, match='two numbers from 0'):
        complete({'betas': [0.9, 1.0]})
    with pytest.raises(ValueError, match='drop_every=3 needs `drop`'):
        complete({'drop_every': 3})
