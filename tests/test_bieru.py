"BiERU: the authors' numbers (Maxwe11y/BiERU at 6e044f8), and what must hold of any model."

import pytest
import torch
from baseline_golden import (
    T,
    check_dialogues_are_independent,
    check_gradients,
    check_seeds_stack,
    part,
)
from helpers import close, toy_batch

from erc.data.batches import from_padded
from erc.models.bieru import BiERU
from erc.nn.cells import weighted_nll

SIZES = {'text': 4, 'audio': 3}
FILES = [
    ('bieru_lc', {}),
    ('bieru_lc_zero_tensor', {}),
    ('bieru_gc_commented_variant', {'context': 'global'}),
]


def batch_of(g):
    lengths = g['in.lengths'].tolist()

    def padded(name):
        parts = [T(g[f'in.{name}_{d}']) for d in range(len(lengths))]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    text, labels = padded('text'), padded('label')
    return from_padded({'text': text}, torch.zeros_like(labels), lengths, {'emotion': labels})


@pytest.mark.parametrize('name,options', FILES)
def test_the_model_is_the_authors(golden, name, options):
    g = golden(f'baselines/{name}')
    build = lambda state: BiERU.from_released(state, **options)  # noqa: E731
    batch, model = batch_of(g), build(part(g, 'param.'))
    log_prob, y = batch.to_padded(model(batch).logits.log_softmax(-1)), batch.targets['emotion']
    y, total = batch.to_padded(y), 0
    for d, n in enumerate(g['in.lengths'].tolist()):
        close(log_prob[d, :n], g[f'out.log_prob_{d}'])
        loss = weighted_nll(log_prob[d, :n], y[d, :n], T(g['in.class_weight']))
        close(loss, g[f'out.loss_{d}'])
        total = total + loss
    total.backward()
    check_gradients(model, part(g, 'grad.'), build)


def test_without_the_tensor_that_is_zero(golden):
    g = golden('baselines/bieru_lc_zero_tensor')
    model, batch = BiERU.from_released(part(g, 'param.'), 'released'), batch_of(g)
    log_prob = batch.to_padded(model(batch).logits.log_softmax(-1))
    close(log_prob[0], g['out.log_prob_0'])
    close(log_prob[1, :1], g['out.log_prob_1'])


@pytest.mark.parametrize(
    'options', [{}, {'preset': 'released'}, {'context': 'global', 'backward': 'fresh'}], ids=str
)
def test_what_holds_of_any_model(options):
    batch = toy_batch(SIZES)

    def make():
        return BiERU(SIZES, 3, width=5, **options)

    check_dialogues_are_independent(make().double(), batch)
    check_seeds_stack(make, batch)


def test_parameters():
    for preset, count in (('paper', 4_102_736), ('released', 102_736)):
        model = BiERU({'text': 100}, 6, preset=preset)
        assert sum(p.numel() for p in model.parameters()) == count
