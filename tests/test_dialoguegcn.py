"DialogueGCN: the authors' numbers (declare-lab/conv-emotion at 6128ca2), and what must hold of any model."

import pytest
import torch
from baseline_golden import (
    check_dialogues_are_independent,
    check_gradients,
    check_seeds_stack,
    flat,
    flat_batch,
    gradients,
    part,
)
from helpers import close, toy_batch

from erc.models.dialoguegcn import _PRESETS, DialogueGCN, _relation
from erc.nn.cells import weighted_nll

RELEASED = [
    ('lstm', 'nodal'),
    ('lstm', 'plain'),
    ('gru_3speakers', 'nodal'),
    ('gru_3speakers', 'plain'),
    ('none_all', 'nodal'),
    ('rnn', 'nodal'),
]


def load(g, kind, **options):
    past, future = g['in.window'].tolist()
    preset = {'nodal': 'released'}.get(kind, kind)

    def of(state):
        return DialogueGCN.from_released(state, preset, past=past, future=future, **options)

    return of


@pytest.mark.parametrize('name,kind', RELEASED)
def test_the_model_is_the_authors(golden, name, kind):
    g = golden(f'baselines/dialoguegcn_{name}')
    build, batch = load(g, kind), flat_batch(g)
    model = build(part(g, 'param.'))
    log_prob = model(batch).logits.log_softmax(-1)
    close(flat(batch, log_prob), g[f'out.log_prob_{kind}'])
    loss = weighted_nll(log_prob, batch.targets['emotion'])
    close(loss, g[f'out.loss_{kind}'])
    if f'grad_{kind}.lstm.bias_ih_l0' in g or kind == 'nodal':
        loss.backward()
        check_gradients(model, gradients(g, f'grad_{kind}.'), build)
    padded = load(g, kind, padding='released')(part(g, 'param.'))
    close(flat(batch, padded(batch).logits.log_softmax(-1)), g[f'out_padded.log_prob_{kind}'])


@pytest.mark.parametrize('name', ['lstm', 'gru_3speakers', 'none_all', 'rnn', 'mianzhang'])
def test_the_graph_is_the_authors(golden, name):
    g = golden(f'baselines/dialoguegcn_{name}')
    batch = flat_batch(g)
    model = load(g, 'content' if name == 'mianzhang' else 'nodal')(part(g, 'param.'))
    nodes = model.contexts(batch)
    edges, weights = model.graph(nodes, batch)
    for mine, theirs in zip(model.convolve(nodes, batch), ('conv1', 'conv2')):
        close(flat(batch, mine), g[f'out.{theirs}'])
    close(flat(batch, nodes), g['out.nodes'])
    found = edges.nonzero()  # dialogue, sender, receiver
    starts = torch.tensor([0, *g['in.lengths']]).cumsum(0)
    close(found[:, 1:].T + starts[found[:, 0]], g['out.edge_index'])
    close(weights[edges], g['out.edge_norm'])
    dialogue, sender, receiver = found.T
    speakers = batch.to_padded(batch.speakers)
    later = (sender >= receiver).long()
    types = _relation(
        speakers[dialogue, sender],
        speakers[dialogue, receiver],
        later,
        model.relational.speakers,
    )
    close(types, g['out.edge_type'])


def test_the_newer_code(golden):
    g = golden('baselines/dialoguegcn_mianzhang')
    build, batch = load(g, 'content'), flat_batch(g)
    model = build(part(g, 'param.'))
    log_prob = model(batch).logits.log_softmax(-1)
    close(flat(batch, log_prob), g['out.log_prob'])
    weighted_nll(log_prob, batch.targets['emotion']).backward()
    check_gradients(model, part(g, 'grad.'), build)


SIZES = {'text': 4, 'audio': 3}
OPTIONS = [{'preset': preset} for preset in _PRESETS] + [
    {'base': 'dialoguernn'},
    {'base': 'none', 'past': -1, 'future': 0},
]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_what_holds_of_any_model(options):
    batch = toy_batch(SIZES, speakers=3)

    def make():
        return DialogueGCN(SIZES, 3, **{'hidden': 4, 'graph': 5, 'past': 2, 'future': 1, **options})

    check_dialogues_are_independent(make().double(), batch)
    check_seeds_stack(make, batch)


def test_released_padding_stacks_too():
    batch = toy_batch(SIZES, speakers=3)
    check_seeds_stack(lambda: DialogueGCN(SIZES, 3, hidden=4, graph=5, padding='released'), batch)


def test_parameters():
    model = DialogueGCN({'text': 100}, 6, preset='released', speakers=2)
    assert sum(p.numel() for p in model.parameters()) == 1_186_646
