"What several tests share: comparing arrays, and batches of random dialogues."

import numpy as np
import torch

from erc.data.batches import Batch, from_padded


def close(a, b, eps=1e-9):
    "Assert that two arrays or tensors differ by less than `eps` everywhere."
    a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (a, b))
    assert a.shape == b.shape or 1 in (a.size, b.size), (a.shape, b.shape)
    assert np.abs(a - b).max(initial=0) < eps


def toy_batch(
    sizes: dict,  # feature -> D
    lengths=(5, 3, 1, 4),  # turns of each dialogue
    classes=3,  # labels of target `emotion`; None for real values
    speakers=1,
    seed=0,
    dtype=torch.float64,
) -> Batch:
    "Random dialogues, packed."
    g = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(lengths)
    features = {k: torch.randn(*shape, d, generator=g, dtype=dtype) for k, d in sizes.items()}
    speaker = torch.randint(0, speakers, shape, generator=g)
    label = torch.randint(0, classes or 2, shape, generator=g)
    if classes is None:
        label = torch.randn(*shape, generator=g, dtype=dtype)
    return from_padded(features, speaker, lengths, {'emotion': label})
