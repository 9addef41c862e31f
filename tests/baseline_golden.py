"What the tests of published baselines share: golden arrays, and what must hold of any of them."

import torch
from helpers import close

from erc.data.batches import from_padded
from erc.training.engine import Single, Stack
from erc.training.settings import criterion

T = torch.from_numpy


def part(g, prefix):
    "Return the arrays whose names begin with a prefix, without it."
    return {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}


def gradients(g, prefix='grad.'):
    "Return the gradients of a golden file under the names of its weights; a fixed table is kept."
    return {k: g.get(prefix + k, v) for k, v in part(g, 'param.').items()}


def flat_batch(g):
    "Return the dialogues of a golden file that lie one after the other without padding."
    lengths = g['in.lengths'].tolist()

    def padded(x):
        return torch.nn.utils.rnn.pad_sequence(T(x).split(lengths), batch_first=True)

    speakers, labels = padded(g['in.speaker']), padded(g['in.label'])
    return from_padded({'text': padded(g['in.features'])}, speakers, lengths, {'emotion': labels})


def time_major_batch(g, names):
    "Return the dialogues of a golden file with arrays (T, B, D), labels flat over real turns."
    lengths = g['in.lengths'].tolist()
    labels = torch.nn.utils.rnn.pad_sequence(T(g['in.label']).split(lengths), batch_first=True)
    features = {name: T(g[f'in.{name}']).transpose(0, 1) for name in names}
    speakers = T(g['in.qmask']).argmax(-1).T
    return from_padded(features, speakers, lengths, {'emotion': labels})


def word_batch(g):
    "Return the dialogues of a golden file of word numbers as one batch."
    lengths = g['in.dialogue_lengths'].tolist()

    def padded(name):
        parts = [T(g[f'in.{name}_{d}']) for d in range(len(lengths))]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    words, labels = padded('words'), padded('label')
    return from_padded({'words': words}, torch.zeros_like(labels), lengths, {'emotion': labels})


def numbered(g, name):
    "Join the arrays NAME_0, NAME_1, ... of a golden file."
    return torch.cat([T(g[f'{name}_{d}']) for d in range(len(g['in.dialogue_lengths']))])


def flat(batch, x):
    "Return packed rows dialogue after dialogue."
    padded = batch.to_padded(x)
    return torch.cat([padded[d, :n] for d, n in enumerate(batch.lengths.tolist())])


def alone(batch):
    "Yield each dialogue of a batch as a batch of its own."
    for d, n in enumerate(batch.lengths.tolist()):
        features = {k: batch.to_padded(x)[d : d + 1, :n] for k, x in batch.features.items()}
        yield from_padded(features, batch.to_padded(batch.speakers)[d : d + 1, :n], [n])


def check_gradients(model, released, load, eps=1e-9):
    """Compare the gradients of a model with released ones, under the model's names.

    `load` builds the same model from a dict of arrays: from gradients in place of weights."""
    expected = dict(load(released).named_parameters())
    for name, p in model.named_parameters():
        close(torch.zeros_like(p) if p.grad is None else p.grad, expected[name], eps)


def check_dialogues_are_independent(model, batch):
    "A dialogue alone has the logits that it has in the batch."
    together = batch.to_padded(model(batch).logits)
    for d, n in enumerate(batch.lengths.tolist()):
        features = {k: batch.to_padded(x)[d : d + 1, :n] for k, x in batch.features.items()}
        alone = from_padded(features, batch.to_padded(batch.speakers)[d : d + 1, :n], [n])
        close(alone.to_padded(model(alone).logits)[0], together[d, :n], 1e-12)


def check_seeds_stack(make, batch, target='emotion'):
    "vmap over seeds equals the plain module, dropout included."
    step, loss_of = torch.tensor(2), criterion(target)
    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    stacked, alone = stack.loss(batch, step, loss_of), single.loss(batch, step, loss_of)
    assert abs(stacked[1] - alone[0]) < 1e-12
    stacked.sum().backward()
    alone.sum().backward()
    trained = [p for p in single.model.parameters() if p.grad is not None]
    assert len({p.grad.data_ptr() for p in trained}) == len(trained), 'gradients share memory'
    for name, p in single.model.named_parameters():
        if p.grad is not None:
            close(stack.params[name].grad[1], p.grad, 1e-11)
    assert (stack.predict(batch)[1] == single.predict(batch)[0]).all()
