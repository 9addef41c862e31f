"Recurrent baselines: seeds stack, and the context GRU equals torch's."

import pytest
import torch
from helpers import close, toy_batch

from erc.models.recurrent import ContextGRU, DialogueRNNClassifier
from erc.training.engine import Single, Stack
from erc.training.settings import criterion

KINDS = [dict(bidirectional=b, attention=a) for b in (True, False) for a in ('simple', 'general')]


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: '-'.join(map(str, kind.values())))
def test_seeds_stack(kind):
    "vmap over seeds equals the plain module, dropout included."
    batch, loss, step = toy_batch({'text': 4}, speakers=3), criterion('emotion'), torch.tensor(2)

    def make():
        return DialogueRNNClassifier({'text': 4}, 3, hidden=5, dropout=0.3, **kind)

    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    a, b = stack.loss(batch, step, loss), single.loss(batch, step, loss)
    assert abs(a[1] - b[0]) < 1e-12
    a.sum().backward()
    b.sum().backward()
    for name, parameter in single.model.named_parameters():
        close(stack.params[name].grad[1], parameter.grad, 1e-12)


def test_context_gru_is_a_packed_bidirectional_one():
    torch.manual_seed(0)
    batch = toy_batch({'text': 4}, speakers=3)
    net = ContextGRU({'text': 4}, 3, hidden=5).double()
    reference, weights = torch.nn.GRU(4, 5, bidirectional=True, batch_first=True).double(), {}
    for ending, cell in (('', net.ahead), ('_reverse', net.back)):
        weights |= {f'{name}_l0{ending}': value for name, value in cell.state_dict().items()}
    reference.load_state_dict(weights)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        batch.to_padded(batch.features['text']),
        batch.lengths.tolist(),
        batch_first=True,
        enforce_sorted=False,
    )
    states, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    ours, real = batch.to_padded(net(batch).logits), torch.arange(5)[None] < batch.lengths[:, None]
    close(ours[real], net.out(states)[real], 1e-12)


def test_speakers_matter_to_dialoguernn_alone():
    torch.manual_seed(0)
    three, one = toy_batch({'text': 4}, speakers=3), toy_batch({'text': 4}, speakers=3)
    one.speakers = one.speakers * 0
    for model, matters in ((DialogueRNNClassifier, True), (ContextGRU, False)):
        net = model({'text': 4}, 3, hidden=5).double()
        assert ((net(three).logits - net(one).logits).abs().max() > 1e-4) == matters
