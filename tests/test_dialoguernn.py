"DialogueRNN against the authors' numbers, and what must hold of any recurrence over conversations."

import numpy as np
import pytest
import torch

from erc.data.batches import from_padded
from erc.models.recurrent import ContextGRU, DialogueRNNClassifier
from erc.nn.dialoguernn import (
    DialogueRNN,
    PastAttention,
    RunningAttention,
    contexts,
    our_parameter_name,
    padded_contexts,
    party_states,
)
from erc.training.engine import Single, Stack
from erc.training.settings import criterion

T = torch.from_numpy


def close(a, b, eps=1e-9):
    assert np.abs(np.asarray(a.detach()) - np.asarray(b)).max() < eps


def unpack(g, group):
    out, at = {}, 0
    for name, shape in zip(g[f'{group}_names'], g[f'{group}_shapes']):
        shape = tuple(int(n) for n in shape if n)
        out[str(name)] = T(g[f'{group}_flat'][at : at + int(np.prod(shape))].reshape(shape).copy())
        at += int(np.prod(shape))
    assert at == len(g[f'{group}_flat'])
    return out


@pytest.mark.parametrize('name,both', [('bi', True), ('uni', False)])
def test_authors_numbers(golden, name, both):
    "Made with TaoShi1998/MultiEMO@e96458b in float64: values, states and gradients."
    g = golden(f'multiemo/d_dialoguernn_{name}')
    rnn = DialogueRNN.from_released(unpack(g, 'sd'), bidirectional=both)
    u = T(g['U']).transpose(0, 1).clone().requires_grad_()
    b = from_padded({'u': u}, T(g['speaker']).clamp(min=0), g['lengths'])
    out, real = b.to_padded(rnn(b, b.features['u'])), g['umask'] > 0
    close(out[T(real)], g['C'].transpose(1, 0, 2)[real])
    close(out[T(real)], g['truth_C'].transpose(1, 0, 2)[real])
    s, c = party_states([rnn.ahead], [b.features['u']], [b.features['u']], b)
    close(b.to_padded(c[0])[T(real)], g['fwd_g'].transpose(1, 0, 2)[real])
    spoken = np.take_along_axis(g['fwd_q'], g['speaker'].T[..., None, None].clip(0), 2)[:, :, 0]
    close(b.to_padded(s[0])[T(real)], spoken.transpose(1, 0, 2)[real])
    (out * T(g['cot']).transpose(0, 1)).sum().backward()
    close(u.grad[T(real)], g['dU'].transpose(1, 0, 2)[real])
    theirs = {our_parameter_name(k): v for k, v in unpack(g, 'grad').items()}
    for k, v in rnn.named_parameters():
        close(v.grad, theirs[k])
    if not both:
        assert not any(our_parameter_name(k).startswith('ahead') for k in g['params_without_grad'])


@pytest.mark.parametrize('name,both', [('bi', True), ('uni', False)])
def test_padded_rows_are_the_authors(golden, name, both):
    g = golden(f'multiemo/d_dialoguernn_{name}')
    rnn = DialogueRNN.from_released(unpack(g, 'sd'), bidirectional=both)
    b = from_padded({'u': T(g['U']).transpose(0, 1)}, T(g['speaker']).clamp(min=0), g['lengths'])
    close(padded_contexts([rnn], [b.features['u']], b)[0], g['C'].transpose(1, 0, 2))


def toy(lengths=(5, 3, 1, 4), speakers=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(lengths)
    return from_padded(
        {'text': torch.randn(B, L, 4, generator=g, dtype=torch.float64)},
        torch.randint(0, speakers, (B, L), generator=g),
        lengths,
        {'emotion': torch.randint(0, 3, (B, L), generator=g)},
    )


KINDS = [dict(bidirectional=b, attention=a) for b in (True, False) for a in ('simple', 'general')]
name = lambda o: '-'.join(map(str, o.values()))


@pytest.mark.parametrize('o', KINDS, ids=name)
def test_a_dialogue_does_not_see_its_neighbours(o):
    torch.manual_seed(0)
    b, rnn = toy(), DialogueRNN(4, 5, **o).double()
    together = b.to_padded(rnn(b, b.features['text']))
    for d, n in enumerate(b.lengths.tolist()):
        alone = from_padded(
            {'text': b.to_padded(b.features['text'])[d : d + 1, :n]},
            b.to_padded(b.speakers)[d : d + 1, :n],
            [n],
        )
        close(
            alone.to_padded(rnn(alone, alone.features['text']))[0], together[d, :n].detach(), 1e-12
        )


@pytest.mark.parametrize('o', KINDS, ids=name)
def test_lanes_equal_networks_one_by_one(o):
    torch.manual_seed(0)
    b = toy()
    rnns, x = (
        [DialogueRNN(4, 5, **o).double() for _ in range(3)],
        [torch.randn(len(b), 4, dtype=torch.float64) for _ in range(3)],
    )
    for r, m, c in zip(rnns, x, contexts(rnns, x, b)):
        close(c, r(b, m).detach(), 1e-12)


@pytest.mark.parametrize('o', KINDS, ids=name)
def test_seeds_stack(o):
    "vmap over seeds equals the plain module, dropout included."
    b, loss = toy(), criterion('emotion')
    make = lambda: DialogueRNNClassifier({'text': 4}, 3, hidden=5, dropout=0.3, **o)
    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    a, c = stack.loss(b, torch.tensor(2), loss), single.loss(b, torch.tensor(2), loss)
    assert abs(a[1] - c[0]) < 1e-12
    a.sum().backward()
    c.sum().backward()
    for k, v in single.model.named_parameters():
        close(stack.params[k].grad[1], v.grad, 1e-12)


def test_dropout_of_the_second_direction_follows_its_rows():
    "An utterance's own masks do not depend on who stands beside its dialogue."
    torch.manual_seed(0)
    b, rnn = toy(), DialogueRNN(4, 5, rec_dropout=0.4, dropout=0.2).double()
    t = b.at(1, 2)
    alone = from_padded(
        {'text': b.to_padded(b.features['text'])[1:2, :3]}, b.to_padded(b.speakers)[1:2, :3], [3]
    ).at(1, 2)
    alone.ids = b.to_padded(b.ids)[1, :3]
    close(
        alone.to_padded(rnn(alone, alone.features['text']))[0],
        b.to_padded(rnn(t, t.features['text']))[1, :3].detach(),
        1e-12,
    )


def test_forward_only_does_not_see_the_future():
    torch.manual_seed(0)
    b, rnn = toy((5,)), DialogueRNN(4, 5, bidirectional=False).double()
    x = b.features['text']
    for t in range(1, 5):
        later = torch.where((b.turn >= t)[:, None], x + 1, x)
        close(rnn(b, later)[:t], rnn(b, x)[:t].detach(), 1e-12)


def test_many_speakers_and_short_dialogues():
    torch.manual_seed(0)
    rnn = DialogueRNN(4, 5).double()
    for b in (toy((1, 1), 1), toy((12,), 9), toy((2, 9), 6)):
        assert rnn(b, b.features['text']).isfinite().all()


def test_simple_attention_keeps_its_ranking_and_does_not_overflow():
    w = torch.ones(1, 1, 1, dtype=torch.float64)
    past = RunningAttention(w)
    for v in (-2000.0, 0.0, 3000.0, 2999.0):
        past.add(torch.full((1, 1, 1), v, dtype=torch.float64))
    close(past.look()[0, 0], [(3000 + 2999 * np.exp(-1)) / (1 + np.exp(-1))])
    assert PastAttention([]).look() is None


def test_bad_input():
    b = toy()
    with pytest.raises(ValueError, match='3 rows for a batch of 13'):
        DialogueRNN(4).double()(b, b.features['text'][:3])
    with pytest.raises(ValueError, match="unknown attention 'generl'"):
        DialogueRNN(4, attention='generl')
    with pytest.raises(ValueError, match='forward and bidirectional'):
        contexts([DialogueRNN(4), DialogueRNN(4, bidirectional=False)], [b.features['text']] * 2, b)


def test_context_gru_is_a_packed_bidirectional_one():
    torch.manual_seed(0)
    b, net = toy(), ContextGRU({'text': 4}, 3, hidden=5).double()
    ref = torch.nn.GRU(4, 5, bidirectional=True, batch_first=True).double()
    ref.load_state_dict(
        {
            f'{k}_l0{end}': v
            for end, c in (('', net.ahead), ('_reverse', net.back))
            for k, v in c.state_dict().items()
        }
    )
    x = torch.nn.utils.rnn.pack_padded_sequence(
        b.to_padded(b.features['text']), b.lengths.tolist(), batch_first=True, enforce_sorted=False
    )
    want = net.out(torch.nn.utils.rnn.pad_packed_sequence(ref(x)[0], batch_first=True)[0])
    got, real = b.to_padded(net(b).logits), torch.arange(5)[None] < b.lengths[:, None]
    close(got[real], want[real].detach(), 1e-12)
