"MMGCN and MM-DFN: the authors' numbers (hujingwen6666/MMGCN at 85732d9, zerohd4869/MM-DFN at da97036)."

import pytest
import torch
from baseline_golden import (
    T,
    alone,
    check_dialogues_are_independent,
    check_gradients,
    check_seeds_stack,
    flat,
    part,
    time_major_batch,
)
from helpers import close, toy_batch

from erc.data.batches import from_padded
from erc.models.mmgcn import MMDFN, MMGCN, _focal_loss, _released_focal_loss
from erc.nn.cells import weighted_nll

SIZES = {'audio': 3, 'text': 4}
FILES = ['al_2party', 'avl_2party']


def batch_of(g):
    names = [name for name in ('audio', 'visual', 'text') if f'in.{name}' in g]
    return time_major_batch(g, names)


def by_modality(batch, x):
    "Order nodes (N, M, ...) as the authors do: all of one modality, dialogue after dialogue."
    return flat(batch, x).transpose(0, 1).flatten(0, 1)


def whole_adjacency(batch, a):
    "Return one matrix in the authors' order of nodes from one for each dialogue."
    lengths, M = batch.lengths.tolist(), a.shape[1] // len(batch.sizes)
    N = sum(lengths)
    whole, start = a.new_zeros(M, N, M, N), 0
    for block, n in zip(a, lengths):
        block = block.unflatten(0, (-1, M)).unflatten(2, (-1, M))[:n, :, :n]
        whole[:, start : start + n, :, start : start + n] = block.permute(1, 0, 3, 2)
        start += n
    return whole.reshape(M * N, M * N)


def check_graph(model, batch, g):
    a, nodes = model.nodes(batch)
    close(whole_adjacency(batch, a), g['out.adjacency'])
    close(by_modality(batch, nodes), g['out.nodes'])


@pytest.mark.parametrize('name', FILES)
def test_mmgcn_is_the_authors(golden, name):
    g = golden(f'baselines/mmgcn_{name}')
    batch = batch_of(g)
    build = lambda state: MMGCN.from_released(state, padding='released')  # noqa: E731
    model = build(part(g, 'param.'))
    check_graph(model, batch, g)
    log_prob = model(batch).logits.log_softmax(-1)
    close(flat(batch, log_prob), g['out.log_prob'])
    loss = weighted_nll(log_prob, batch.targets['emotion'], T(g['in.class_weight']))
    close(loss, g['out.loss'])
    loss.backward()
    check_gradients(model, part(g, 'grad.'), build)
    clean = MMGCN.from_released(part(g, 'param.'))(batch)
    close(flat(batch, clean.logits.log_softmax(-1)), g['out.log_prob_alone'])


@pytest.mark.parametrize('name', FILES)
def test_the_loss_that_is_called_focal(golden, name):
    g = golden(f'baselines/mmgcn_{name}')
    log_prob = T(g['out.log_prob']).requires_grad_()
    loss = _released_focal_loss(log_prob, T(g['in.label']))
    close(loss, g['out.focal_meld'])
    loss.backward()
    close(log_prob.grad, g['out.focal_meld_grad'])


@pytest.mark.parametrize('name', FILES)
def test_mmdfn_is_the_authors(golden, name):
    g = golden(f'baselines/mmdfn_{name}')
    batch = batch_of(g)
    weights = dict(zip(('audio', 'visual', 'text'), g['in.speaker_weights'].tolist()))

    def build(state):
        return MMDFN.from_released(state, padding='released', speaker_weights=weights)

    model = build(part(g, 'param.'))
    check_graph(model, batch, g)
    log_prob = model(batch).logits.log_softmax(-1)
    close(flat(batch, log_prob), g['out.log_prob'])
    loss = _focal_loss(log_prob, batch.targets['emotion'], 0.5, T(g['in.class_weight']))
    close(loss, g['out.loss'])
    loss.backward()
    check_gradients(model, part(g, 'grad.'), build)
    single = torch.cat([model(one).logits.log_softmax(-1) for one in alone(batch)])
    close(single, g['out.log_prob_alone'])


MODELS = [
    (MMGCN, {}),
    (MMGCN, {'speaker_on': 'all', 'layers': 2}),
    (MMDFN, {'layers': 3}),
]


@pytest.mark.parametrize('sizes', [SIZES, {'text': 4}], ids=len)
@pytest.mark.parametrize('model,options', MODELS)
def test_what_holds_of_any_model(model, options, sizes):
    batch = toy_batch(sizes, speakers=3)

    def make(**more):
        return model(sizes, 3, width=6, graph=5, **options, **more)

    check_dialogues_are_independent(make().double(), batch)
    check_seeds_stack(make, batch)
    check_seeds_stack(lambda: make(padding='released'), batch)


def test_party_sequences_of_the_clean_reading_end_with_the_last_turn():
    "Another speaker's turns at the end leave a speaker's states as they are."
    torch.manual_seed(0)
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    model = MMDFN({'text': 4}, 3, width=6, graph=5, layers=1).double()
    model.speaker_weights, seen = {'text': 1.0}, []
    for turns in (3, 5):
        batch = from_padded({'text': x[:, :turns]}, [[0, 1, 0, 1, 1][:turns]], [turns])
        model._text_context = lambda batch: 0
        seen.append(model.contexts(batch)[[0, 2]])
    close(*seen, 1e-12)


@pytest.mark.parametrize(
    'sizes,layers,count',
    [
        ({'audio': 1582, 'visual': 342, 'text': 100}, 64, 2_194_506),
        ({'audio': 47, 'text': 384}, 64, 1_873_906),
        ({'audio': 47, 'text': 384}, 4, 673_906),
    ],
)
def test_parameters_of_mmgcn(sizes, layers, count):
    model = MMGCN(sizes, 6, layers=layers, speakers=2)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize('text,count', [(384, 1_235_906), (768, 1_312_706)])
def test_parameters_of_mmdfn(text, count):
    model = MMDFN({'audio': 47, 'text': text}, 6)
    assert sum(p.numel() for p in model.parameters()) == count
