"Features that stay in their file give the same batches and the same training, to the last bit."

import numpy as np
import pytest
import torch

import erc
import erc.data.saved
from erc.data.batches import make_batches, map_batch
from erc.data.corpus import _by_name
from erc.data.mapped import _Lazy, _map_of
from erc.data.scaling import _scaling_of
from erc.training.fit import fit


@pytest.fixture
def both(tmp_path, monkeypatch):
    "The demonstration corpus, read into memory and left in its file."
    folder = erc.load_corpus('demo').save(tmp_path / 'demo')
    inside = erc.load_corpus(folder)
    monkeypatch.setattr(erc.data.saved, '_MAPPED', 0)
    return inside, erc.load_corpus(folder)


def batches(corpus, split='train'):
    scaling = _scaling_of(corpus, ['text', 'audio'])
    how = dict(size=16, features=['text', 'audio'], targets={'emotion': 'label'}, scaling=scaling)
    return make_batches(corpus, split, **how)


def tensors(batch) -> list:
    found = []
    map_batch(batch, lambda x: found.append(x) or x)
    return found


def test_batches_are_equal_and_not_kept(both):
    inside, outside = both
    assert _map_of(inside.features['text']) is None
    assert _map_of(outside.features['text']) is not None
    assert inside.digest() == outside.digest()
    for split in ('train', 'dev', 'test'):
        one, other = batches(inside, split), batches(outside, split)
        assert isinstance(one, list) and isinstance(other, _Lazy) and len(one) == len(other)
        for a, b in zip(one, other):
            assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))
    assert other[0] is not other[0]


def test_another_order_is_written_into_another_file(both):
    _, outside = both
    turned = outside.replace(
        table=outside.table.assign(dialogue=[f'd{999 - int(d[1:]):03}' if d[1:].isdigit() else d[::-1] for d in outside.table.dialogue])
    )  # fmt: skip
    ordered, order = _by_name(turned), np.argsort(turned.table.dialogue.astype(str), kind='stable')
    assert (np.asarray(order) != np.arange(len(order))).any()
    assert _map_of(ordered.features['text']) is not None
    np.testing.assert_equal(
        np.array(ordered.features['text']), np.array(outside.features['text'])[order]
    )


def test_training_is_equal(both, tmp_path):
    from functools import partial

    from erc.models.recurrent import ContextGRU

    sizes = {'text': 32, 'audio': 24}
    found = []
    for i, corpus in enumerate(both):
        labels = corpus.table.label.to_numpy()[corpus.rows('dev')]
        fitted = fit(
            partial(ContextGRU, sizes=sizes, classes=6),
            batches(corpus),
            batches(corpus, 'dev'),
            lambda p, labels=labels: (p == labels).mean(1),
            seeds=[0],
            settings={'epochs': 2, 'lr': 1e-3},
            target='emotion',
            checkpoint=tmp_path / f'{i}.safetensors',
            progress=False,
        )
        found.append((fitted.losses, fitted.dev, fitted.predict(batches(corpus, 'test'))))
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)
