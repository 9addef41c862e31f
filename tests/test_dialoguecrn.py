"DialogueCRN: the authors' numbers (zerohd4869/DialogueCRN at 2c2070d), and what must hold of any model."

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

from erc.models.dialoguecrn import DialogueCRN
from erc.models.mmgcn import _focal_loss

SIZES = {'text': 4, 'audio': 3}


def test_the_model_is_the_authors(golden):
    g = golden('baselines/dialoguecrn_2party')
    batch, steps = time_major_batch(g, ['text']), g['in.steps'].tolist()
    build = lambda state: DialogueCRN.from_released(state, steps, padding='released')  # noqa: E731
    model = build(part(g, 'param.'))
    log_prob, y = model(batch).logits.log_softmax(-1), batch.targets['emotion']
    close(flat(batch, log_prob), g['out.log_prob'])
    close(_focal_loss(log_prob, y, gamma=1), g['out.loss_gamma1_unweighted'])
    loss = _focal_loss(log_prob, y, 0, T(g['in.class_weight']))
    close(loss, g['out.loss'])
    loss.backward()
    check_gradients(model, part(g, 'grad.'), build)
    single = torch.cat([model(one).logits.log_softmax(-1) for one in alone(batch)])
    close(single, g['out.log_prob_alone'])


@pytest.mark.parametrize('steps', [(1, 2), (0, 3)])
def test_what_holds_of_any_model(steps):
    batch = toy_batch(SIZES, speakers=3)

    def make(**options):
        return DialogueCRN(SIZES, 3, hidden=4, steps=steps, **options)

    check_dialogues_are_independent(make().double(), batch)
    check_seeds_stack(make, batch)
    check_seeds_stack(lambda: make(padding='released'), batch)


def test_a_speaker_is_read_as_torch_reads_its_turns():
    batch = toy_batch(SIZES, (5, 3), speakers=2)
    model = DialogueCRN(SIZES, 3, hidden=4).double()
    reference = torch.nn.LSTM(7, 4, 2, bidirectional=True).double()
    reference.load_state_dict(model.parties.state_dict())
    x = torch.cat([batch.features[name] for name in SIZES], -1)
    _, states = model.banks(batch)
    for d in range(2):
        for s in range(2):
            turns = (batch.dialogue == d) & (batch.speakers == s)
            if turns.any():
                close(states[turns], reference(x[turns])[0], 1e-12)


@pytest.mark.parametrize('text,count', [(100, 1_854_806), (384, 2_309_206), (768, 2_923_606)])
def test_parameters(text, count):
    assert sum(p.numel() for p in DialogueCRN({'text': text}, 6).parameters()) == count
