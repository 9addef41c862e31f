"DialogueRNN: equal to the authors' code, and independent of a batch's other dialogues."

import numpy as np
import pytest
import torch
from helpers import close, toy_batch

from erc.data.batches import from_padded
from erc.nn.dialoguernn import (
    DialogueRNN,
    _contexts,
    _our_parameter_name,
    _padded_contexts,
)
from erc.nn.recurrences import _PastAttention, _RunningAttention, party_states

T = torch.from_numpy


def unpack(g, group):
    "Return the parameters that a golden file stores as one flat array."
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
    theirs = {_our_parameter_name(k): v for k, v in unpack(g, 'grad').items()}
    for k, v in rnn.named_parameters():
        close(v.grad, theirs[k])
    if not both:
        assert not any(_our_parameter_name(k).startswith('ahead') for k in g['params_without_grad'])


@pytest.mark.parametrize('name,both', [('bi', True), ('uni', False)])
def test_padded_rows_are_the_authors(golden, name, both):
    "Made with TaoShi1998/MultiEMO@e96458b in float64."
    g = golden(f'multiemo/d_dialoguernn_{name}')
    rnn = DialogueRNN.from_released(unpack(g, 'sd'), bidirectional=both)
    b = from_padded({'u': T(g['U']).transpose(0, 1)}, T(g['speaker']).clamp(min=0), g['lengths'])
    close(_padded_contexts([rnn], [b.features['u']], b)[0], g['C'].transpose(1, 0, 2))


def toy(lengths=(5, 3, 1, 4), speakers=3):
    return toy_batch({'text': 4}, lengths, speakers=speakers)


def one_dialogue(batch, d, n):
    "Return dialogue d, of n turns, as a batch of its own."
    text, speakers = batch.to_padded(batch.features['text']), batch.to_padded(batch.speakers)
    return from_padded({'text': text[d : d + 1, :n]}, speakers[d : d + 1, :n], [n])


KINDS = [dict(bidirectional=b, attention=a) for b in (True, False) for a in ('simple', 'general')]
each_kind = pytest.mark.parametrize(
    'kind', KINDS, ids=lambda kind: '-'.join(map(str, kind.values()))
)


@each_kind
def test_a_dialogue_does_not_depend_on_the_others(kind):
    torch.manual_seed(0)
    b, rnn = toy(), DialogueRNN(4, 5, **kind).double()
    together = b.to_padded(rnn(b, b.features['text']))
    for d, n in enumerate(b.lengths.tolist()):
        alone = one_dialogue(b, d, n)
        close(rnn(alone, alone.features['text']), together[d, :n], 1e-12)


@each_kind
def test_lanes_equal_networks_one_by_one(kind):
    torch.manual_seed(0)
    b, rnns = toy(), [DialogueRNN(4, 5, **kind).double() for _ in range(3)]
    x = [torch.randn(len(b), 4, dtype=torch.float64) for _ in range(3)]
    for rnn, lane, context in zip(rnns, x, _contexts(rnns, x, b)):
        close(context, rnn(b, lane), 1e-12)


def test_dropout_of_the_second_direction_follows_its_rows():
    "An utterance has the same masks whatever dialogues share its batch."
    torch.manual_seed(0)
    b, rnn = toy(), DialogueRNN(4, 5, rec_dropout=0.4, dropout=0.2).double()
    training, alone = b.at(1, 2), one_dialogue(b, 1, 3).at(1, 2)
    alone.ids = b.to_padded(b.ids)[1, :3]
    together = b.to_padded(rnn(training, training.features['text']))
    close(rnn(alone, alone.features['text']), together[1, :3], 1e-12)


def test_forward_only_does_not_see_the_future():
    torch.manual_seed(0)
    b, rnn = toy((5,)), DialogueRNN(4, 5, bidirectional=False).double()
    x = b.features['text']
    for t in range(1, 5):
        later = torch.where((b.turn >= t)[:, None], x + 1, x)
        close(rnn(b, later)[:t], rnn(b, x)[:t], 1e-12)


def test_many_speakers_and_short_dialogues():
    torch.manual_seed(0)
    rnn = DialogueRNN(4, 5).double()
    for b in (toy((1, 1), 1), toy((12,), 9), toy((2, 9), 6)):
        assert rnn(b, b.features['text']).isfinite().all()


def test_simple_attention_keeps_its_ranking_and_does_not_overflow():
    past = _RunningAttention(torch.ones(1, 1, 1, dtype=torch.float64))
    for v in (-2000.0, 0.0, 3000.0, 2999.0):
        past.add(torch.full((1, 1, 1), v, dtype=torch.float64))
    close(past.attend()[0, 0], [(3000 + 2999 * np.exp(-1)) / (1 + np.exp(-1))])
    assert _PastAttention([]).attend() is None


def test_bad_input():
    b = toy()
    with pytest.raises(ValueError, match='3 rows for a batch of 13'):
        DialogueRNN(4).double()(b, b.features['text'][:3])
    with pytest.raises(ValueError, match="unknown attention 'generl'"):
        DialogueRNN(4, attention='generl')
    with pytest.raises(ValueError, match='forward and bidirectional'):
        _contexts(
            [DialogueRNN(4), DialogueRNN(4, bidirectional=False)], [b.features['text']] * 2, b
        )
