"The cross-attention streams of MultiEMO against the authors' numbers."

import pytest
import torch
from helpers import close
from test_dialoguernn import unpack

from erc.data.batches import from_padded
from erc.models.cross_attention import MODALITIES, MultiAttn
from erc.models.multiemo import _convert_released

LETTERS = dict(zip('tav', MODALITIES))


@pytest.fixture
def arrays(golden):
    "Made with TaoShi1998/MultiEMO@e96458b in float64: 3 dialogues of up to 5 turns, 2 layers."
    return golden('multiemo/c_multiattn_h4')


def released_net(arrays):
    net = MultiAttn(8, 4, 2, ffn=12).double()
    net.load_state_dict(_convert_released(unpack(arrays, 'sd')))
    return net


def contexts_of(arrays):
    return {m: torch.from_numpy(arrays[f'C_{letter}']) for letter, m in LETTERS.items()}


def real_turns(arrays):  # (3, 5) bool
    return torch.arange(5) < torch.from_numpy(arrays['lengths'])[:, None]


@pytest.mark.parametrize('padding', ['released', 'masked'])
def test_outputs_and_gradients_match_the_authors(arrays, padding):
    prefix, real = ('truth_', real_turns(arrays)) if padding == 'masked' else ('', ...)
    net = released_net(arrays)
    contexts = {m: x.clone().requires_grad_() for m, x in contexts_of(arrays).items()}
    out = net.padded(contexts, arrays['lengths'], padding=padding)
    for letter, m in LETTERS.items():
        close(out[m][real], arrays[f'{prefix}F_{letter}'][real])
    cotangents = {m: torch.from_numpy(arrays[f'cot_{letter}']) for letter, m in LETTERS.items()}
    sum((out[m] * cotangents[m])[real].sum() for m in MODALITIES).backward()
    for letter, m in LETTERS.items():
        close(contexts[m].grad[real], arrays[f'{prefix}dC_{letter}'][real])
    theirs = _convert_released(unpack(arrays, f'{prefix}grad'))
    assert set(theirs) == {name for name, _ in net.named_parameters()}
    for name, parameter in net.named_parameters():
        close(parameter.grad, theirs[name])


def test_every_sublayer_matches_the_authors(arrays):
    "Eq. 5, 9 and 12 of both layers of the text stream."
    net = released_net(arrays)
    flat = {m: x.flatten(0, 1) for m, x in contexts_of(arrays).items()}
    steps = list(net.sublayers(flat, [torch.arange(15).view(3, 5)]))
    names = [f'text_F_{part}_layer{layer}' for layer in (1, 2) for part in ('ta', 'tav', 't')]
    assert len(steps) == len(names)
    for step, name in zip(steps, names):
        close(step[0], arrays[name].reshape(15, 8))


def test_packed_dialogues_match_the_authors(arrays):
    net, contexts, real = released_net(arrays), contexts_of(arrays), real_turns(arrays)
    batch = from_padded(contexts, torch.zeros(3, 5), arrays['lengths'])
    out = net(batch.features, batch)
    for letter, m in LETTERS.items():
        close(batch.to_padded(out[m])[real], arrays[f'truth_F_{letter}'][real])


def random_contexts():
    torch.manual_seed(0)
    net = MultiAttn(8, 2, 4, ffn=12).double()
    return net, {m: torch.randn(2, 4, 8, dtype=torch.float64) for m in MODALITIES}


def test_keys_and_values_come_from_contexts_alone():
    "Visual reaches text through visual's context, never by way of audio."
    net, contexts = random_contexts()
    for layer in net.streams['text']:
        torch.nn.init.zeros_(layer.attn[1].out.weight)
    shifted = {**contexts, 'visual': contexts['visual'] + 1}
    before, after = net.padded(contexts, [4, 4]), net.padded(shifted, [4, 4])
    close(after['text'], before['text'], 1e-12)
    assert (before['audio'] - after['audio']).abs().max() > 1e-3


def test_padding_is_attended_to_only_on_request():
    "A dialogue's rows are those it has without padding, unless the leak is asked for."
    net, contexts = random_contexts()
    short = net.padded({m: x[1:, :2] for m, x in contexts.items()}, [2])
    masked, leaking = net.padded(contexts, [4, 2]), net.padded(contexts, padding='released')
    for m in MODALITIES:
        close(masked[m][1, :2], short[m][0], 1e-12)
        assert (leaking[m][1, :2] - short[m][0]).abs().max() > 1e-3


def test_bad_input():
    net, contexts = random_contexts()
    for lengths in (None, [4]):
        message = "lengths of the 2 dialogues: give one each, or padding='released'"
        with pytest.raises(ValueError, match=message):
            net.padded(contexts, lengths)
    with pytest.raises(ValueError, match="unknown padding 'mask'; did you mean 'masked'"):
        net.padded(contexts, [4, 2], padding='mask')
    with pytest.raises(ValueError, match="'audio' has shape"):
        net.padded({**contexts, 'audio': torch.zeros(2, 3, 8)}, [4, 3])
    for heads in (0, -2):  # 8 is divisible by -2
        message = f'{heads} heads do not divide a width of 8: give a divisor of it, 1 or more'
        with pytest.raises(ValueError, match=message):
            MultiAttn(8, heads)
    with pytest.raises(ValueError, match='layers=-1: give 0 or more'):
        MultiAttn(8, 2, -1)
