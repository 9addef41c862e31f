"What holds of all published baselines: steps are captured on a device, names train, bad input is told."

import warnings

import numpy as np
import pytest
import torch
from pretend_device import pretended_device

from erc.core import resolve
from erc.data.batches import from_padded
from erc.data.registry import load_corpus
from erc.prediction.named import train
from erc.training.fit import fit

TEXT, BOTH = {'text': 4}, {'text': 4, 'audio': 3}
TABLE = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
BY_WORDS = dict(words='words', embeddings=TABLE, window=2)
MODELS = [
    ('bclstm:BcLSTM', BOTH, dict(hidden=4, attention=True)),
    ('bclstm:BcLSTM', TEXT, dict(hidden=4, padding='released')),
    ('chfusion:CHFusion', BOTH, dict(width=4, units=4, feature=3)),
    ('chfusion:CHFusion', {**BOTH, 'visual': 2}, dict(width=4, units=4, feature=3)),
    ('dialoguegcn:DialogueGCN', BOTH, dict(hidden=4, graph=4, past=2)),
    ('dialoguegcn:DialogueGCN', TEXT, dict(hidden=4, graph=4, base='dialoguernn')),
    ('dialoguegcn:DialogueGCN', TEXT, dict(hidden=4, graph=4, preset='paper')),
    ('memory_networks:CMN', BOTH, dict(width=4, window=3)),
    ('memory_networks:ICON', BOTH, dict(width=4, window=3)),
    ('mmgcn:MMGCN', BOTH, dict(width=4, graph=4, layers=2)),
    ('mmgcn:MMDFN', BOTH, dict(width=4, graph=4, layers=2)),
    ('mmgcn:MMDFN', BOTH, dict(width=4, graph=4, layers=2, padding='released')),
    ('bieru:BiERU', BOTH, dict(width=4)),
    ('bieru:BiERU', TEXT, dict(width=4, context='global')),
    ('aghmn:AGHMN', BOTH, dict(width=4, window=2)),
    ('aghmn:AGHMN', {'words': 4}, dict(width=4, **BY_WORDS, preset='unif_biagru')),
    ('mvn:MVN', TEXT, dict(width=4, window=2)),
    ('mvn:MVN', {'words': 4}, dict(width=4, **BY_WORDS, longest=5)),
    ('dialoguecrn:DialogueCRN', BOTH, dict(hidden=4, steps=(1, 2))),
]
NAMES = {name.partition(':')[2].lower() for name, *_ in MODELS}


def batch_of(sizes):
    rng = np.random.default_rng(1)
    features = {k: torch.from_numpy(rng.normal(size=(3, 5, d))) for k, d in sizes.items()}
    if 'words' in sizes:
        features['words'] = torch.from_numpy(rng.integers(0, 6, (3, 5, 4)))
    labels = {'emotion': rng.integers(0, 2, (3, 5))}
    return from_padded(features, rng.integers(0, 2, (3, 5)), [5, 3, 1], labels)


def train_toy(name, sizes, options, device):
    make = lambda: resolve(f'erc.models.{name}')(sizes, 2, **options)  # noqa: E731
    settings = dict(epochs=4, lr=2**-8, clip=1.0, dtype='float64')
    score = lambda predictions: (predictions == 0).mean(1)  # noqa: E731
    batch = batch_of(sizes)
    about = dict(seeds=(0, 1), target='emotion', settings=settings, progress=False)
    return fit(make, [batch], [batch], score, device=device, **about)


@pytest.mark.parametrize('name,sizes,options', MODELS)
def test_captured_stacks_equal_seeds_on_a_cpu(name, sizes, options):
    with pretended_device() as device, warnings.catch_warnings():
        warnings.simplefilter('error')
        captured = train_toy(name, sizes, options, 'cuda')
    assert device.captures == 2, 'the step, and the predictions of dev'
    plain = train_toy(name, sizes, options, 'cpu')
    assert np.isfinite(plain.losses).all()
    np.testing.assert_allclose(captured.losses, plain.losses, atol=1e-9)
    np.testing.assert_array_equal(captured.dev, plain.dev)


def few_dialogues():
    "Four dialogues of each split of the demo corpus."
    demo = load_corpus('demo')
    some = demo.table.groupby('split').dialogue.unique().map(lambda names: names[:4]).explode()
    keep = demo.table.dialogue.isin(some).to_numpy()
    table = demo.table[keep].reset_index(drop=True)
    arrays = {name: (x[keep], demo.has[name][keep]) for name, x in demo.features.items()}
    return demo.replace(table=table, features={}, has={}).with_features(**arrays)


@pytest.mark.parametrize('name', sorted(NAMES))
def test_names_train(name):
    features = ['text', 'audio'] if name == 'chfusion' else ['text']
    settings = dict(epochs=1, batch=32)
    demo = few_dialogues()
    model = train(name, demo, features, seeds=1, hyperparameters=settings, progress=False)
    assert model.name == name and model.predictions('test').shape == (1, len(demo.rows('test')))
