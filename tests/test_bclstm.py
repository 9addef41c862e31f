"bc-LSTM: the authors' numbers (declare-lab/conv-emotion at 6128ca2), and what must hold of any model."

import pytest
from baseline_golden import (
    T,
    check_dialogues_are_independent,
    check_gradients,
    check_seeds_stack,
    flat,
    flat_batch,
    part,
)
from helpers import close, toy_batch

from erc.models.bclstm import BcLSTM
from erc.nn.cells import weighted_nll

SIZES = {'text': 4, 'audio': 3}


@pytest.mark.parametrize('name', ['bclstm', 'bclstm_attention'])
def test_the_model_is_the_authors(golden, name):
    g = golden(f'baselines/{name}')
    batch, model = flat_batch(g), BcLSTM.from_released(part(g, 'param.'))
    out = model(batch)
    log_prob = out.logits.log_softmax(-1)
    close(flat(batch, log_prob), g['out.log_prob'])
    loss = weighted_nll(log_prob, batch.targets['emotion'])
    close(loss, g['out.loss'])
    loss.backward()
    check_gradients(model, part(g, 'grad.'), BcLSTM.from_released)
    for d, n in enumerate(g['in.lengths'].tolist()):
        if 'attention' in out.probes:
            close(batch.to_padded(out.probes['attention'])[d, :n, :n], g[f'out.alpha{d}'])
    if 'in.class_weight' in g:
        weighted = weighted_nll(log_prob, batch.targets['emotion'], T(g['in.class_weight']))
        close(weighted, g['out.weighted_loss'])
    padded = BcLSTM.from_released(part(g, 'param.'), padding='released')(batch)
    close(flat(batch, padded.logits.log_softmax(-1)), g['out_padded.log_prob'])


@pytest.mark.parametrize('options', [{}, {'attention': True}], ids=str)
def test_what_holds_of_any_model(options):
    batch = toy_batch(SIZES, speakers=2)
    check_dialogues_are_independent(BcLSTM(SIZES, 3, hidden=5, **options).double(), batch)
    check_seeds_stack(lambda: BcLSTM(SIZES, 3, hidden=5, **options), batch)


def test_released_padding_stacks_too():
    batch = toy_batch(SIZES)
    check_seeds_stack(lambda: BcLSTM(SIZES, 3, hidden=5, padding='released'), batch)


def test_parameters():
    count = sum(p.numel() for p in BcLSTM({'text': 384}, 6).parameters())
    assert count == 651_106
