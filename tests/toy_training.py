"Small models and batches on which training is tested in under a second."

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from erc.data.batches import from_padded
from erc.nn.cells import Out, dropout
from erc.training.fit import Fit, fit, predict

SETTINGS = {
    'epochs': 3,
    'lr': 1e-2,
    'clip': 1.0,
    'weight_decay': 0.01,
    'warmup': 0.1,
    'decay': True,
}


class Net(nn.Module):
    "Two layers, two keyed dropouts, and a loss of its own."

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, batch):
        h = dropout(self.a(batch.features['text']).tanh(), 0.4, batch, 'h')
        small = 1e-3 * self.b.weight.pow(2).sum()
        return Out(self.b(dropout(h, 0.2, batch, 'again')), {'small': small})


class Centres(Net):
    "Predicts the nearest class centre, which a hook keeps in a buffer."

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


def batches(n, seed, size=8):
    "Batches of n random dialogues of at most 7 turns, whose class depends on their features."
    g = torch.Generator().manual_seed(seed)
    x, lengths = torch.randn(n, 7, 6, generator=g), torch.randint(1, 8, (n,), generator=g)
    y = (x[..., 0] + 0.3 * x[..., 1] * x[..., 2] > 0).long() + (x[..., 3] > 1).long()
    speakers = torch.zeros(n, 7, dtype=torch.long)
    parts = zip(*(v.split(size) for v in (x, speakers, lengths, y)))
    out = [from_padded({'text': x}, s, lengths, {'emotion': y}) for x, s, lengths, y in parts]
    for i, b in enumerate(out):
        b.ids += 1000 * i
    return out


def truth_of(batches):
    "The labels in corpus order."
    order = torch.cat([b.ids for b in batches]).argsort()
    return torch.cat([b.targets['emotion'] for b in batches])[order].numpy()


TRAIN, DEV = batches(40, 0), batches(12, 1)
TRUTH = truth_of(DEV)


def accuracy(predictions):
    return (predictions == TRUTH).mean(1)


def train(make=Net, seeds=(0, 1), settings=SETTINGS, **how) -> Fit:
    "Call `fit` on the toy task."
    how = {'target': 'emotion', 'progress': False, **how}
    return fit(make, TRAIN, DEV, accuracy, seeds=seeds, settings=settings, **how)


def weights(fit):
    "Every tensor of every seed, as arrays by name."
    tensors = ((i, k, v) for i, e in enumerate(fit.engines) for k, v in e.tensors.items())
    return {f'{i}.{k}': v.detach().numpy() for i, k, v in tensors}


def assert_same(a: Fit, b: Fit):
    "Assert that two fits agree bit for bit: curves, epochs, predictions, weights."
    for name in ('dev', 'losses', 'selected'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    np.testing.assert_array_equal(a.predict(DEV), b.predict(DEV))
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


class Curves:
    "A watch that keeps the scores of each epoch, and survives an interruption."

    def __init__(self, seeds, epochs, stop=lambda engine, epoch: False):
        self.seeds, self.stop = list(seeds), stop
        self.curves = np.full((len(self.seeds), epochs), np.nan)

    def rows(self, engine):
        return [self.seeds.index(k) for k in engine.seeds.tolist()]

    def __call__(self, engine, epoch):
        if self.stop(engine, epoch):
            raise KeyboardInterrupt
        self.curves[self.rows(engine), epoch] = accuracy(predict(engine, DEV))

    def state(self, engine):
        return {'scores': self.curves[self.rows(engine)]}

    def load(self, engine, arrays):
        self.curves[self.rows(engine)] = arrays['scores']


def die_at(n):
    "Send SIGKILL in the n-th update of this process (a fingerprint uses Adam and does not count)."
    step, count = torch.optim.AdamW.step, iter(range(1, 10**6))

    def dying(self, *args, **kw):
        if next(count) == n:
            os.kill(os.getpid(), 9)
        return step(self, *args, **kw)

    torch.optim.AdamW.step = dying


def killed(module, code):
    "Run code, with the names of a test module, in a process that must end by SIGKILL."
    r = subprocess.run(
        [sys.executable, '-c', f'from {module} import *\n{code}'],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    )
    assert r.returncode == -9, r.stderr
