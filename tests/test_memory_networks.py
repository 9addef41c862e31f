"CMN and ICON: the authors' numbers (declare-lab/conv-emotion at 6128ca2), and what must hold of any model."

import pytest
import torch
from baseline_golden import (
    check_dialogues_are_independent,
    check_gradients,
    check_seeds_stack,
    flat,
    flat_batch,
    part,
)
from helpers import close, toy_batch

from erc.models.memory_networks import CMN, ICON, _histories
from erc.nn.cells import weighted_nll

SIZES = {'text': 4, 'audio': 3}
MODELS = pytest.mark.parametrize('kind,name', [(CMN, 'cmn'), (ICON, 'icon')])


@MODELS
@pytest.mark.parametrize('window', [4, 7])
def test_the_model_is_the_authors(golden, kind, name, window):
    g = golden(f'baselines/{name}')
    build = lambda state: kind.from_released(state, window, hops=int(g['in.hops']))  # noqa: E731
    batch, model = flat_batch(g), build(part(g, 'param.'))
    out = model(batch)
    log_prob = out.logits.log_softmax(-1)
    close(flat(batch, log_prob), g[f'out.log_prob_K{window}'])
    loss = weighted_nll(log_prob, batch.targets['emotion'])
    close(loss, g[f'out.cross_entropy_K{window}'])
    close(loss + out.losses['weights'], g[f'out.loss_K{window}'])
    close(out.losses['weights'], 0.001 * g['out.regularization'])
    if window == 4:
        loss.backward()
        check_gradients(model, part(g, 'grad.'), build)


@MODELS
def test_the_histories_are_the_authors(golden, kind, name):
    g = golden(f'baselines/{name}')
    batch = flat_batch(g)
    rows, mine = _histories(batch, 4)
    x = torch.cat([batch.features['text'], torch.zeros(1, 7)])[rows]
    for role, where in zip(('own', 'other'), mine):
        close(flat(batch, where), g[f'in.hist_{role}_mask'])
        close(flat(batch, x * where[..., None]), g[f'in.hist_{role}'])


@MODELS
@pytest.mark.parametrize('hops', [1, 3])
def test_what_holds_of_any_model(kind, name, hops):
    batch = toy_batch(SIZES, speakers=3)

    def make():
        return kind(SIZES, 3, width=5, window=3, hops=hops)

    check_dialogues_are_independent(make().double(), batch)
    check_seeds_stack(make, batch)


@MODELS
@pytest.mark.parametrize('text,count', [(100, 251_906), (384, 450_706), (815, 752_406)])
def test_parameters(kind, name, text, count):
    assert sum(p.numel() for p in kind({'text': text}, 6).parameters()) == count
