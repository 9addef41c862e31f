"AGHMN: the authors' numbers (wxjiao/AGHMN at 8cb2134), and what must hold of any model."

import pytest
import torch
from baseline_golden import (
    check_dialogues_are_independent,
    check_gradients,
    check_seeds_stack,
    flat,
    gradients,
    numbered,
    part,
    word_batch,
)
from helpers import close, toy_batch

from erc.data.batches import from_padded
from erc.data.sentence_encoders import toy_encoder
from erc.models.aghmn import AGHMN
from erc.nn.encoders import token_ids

SIZES = {'text': 4, 'audio': 3}
PRESETS = ['bif_agru', 'unif_biagru']


def loss_by_dialogue(batch, log_prob):
    "Return -log p(y) / C of each dialogue, averaged over its turns."
    nll = -log_prob.gather(1, batch.targets['emotion'][:, None])[:, 0] / log_prob.shape[1]
    return batch.to_padded(nll).sum(1) / batch.lengths


@pytest.mark.parametrize('preset', PRESETS)
def test_the_model_is_the_authors(golden, preset):
    g = golden(f'baselines/aghmn_{preset}')
    batch, window = word_batch(g), int(g['in.window'])

    def build(state):
        return AGHMN.from_released(state, preset, window=window)

    model = build(part(g, 'param.'))
    close(flat(batch, model.turns(batch)), numbered(g, 'out.utterance'))
    out = model(batch)
    log_prob = out.logits.log_softmax(-1)
    close(flat(batch, log_prob), numbered(g, 'out.log_prob'))
    losses = loss_by_dialogue(batch, log_prob)
    attention = batch.to_padded(out.probes['attention'])
    for d, n in enumerate(g['in.dialogue_lengths'].tolist()):
        close(losses[d], g[f'out.loss_{d}'])
        if n > 1:
            close(attention[d, 1:n], g[f'out.attention_{d}'])
    losses.sum().backward()
    check_gradients(model, gradients(g), build)


@pytest.mark.parametrize('options', [{'preset': p} for p in PRESETS] + [{'attention': 'mean'}])
@pytest.mark.parametrize('padding', ['masked', 'released'])
def test_what_holds_of_any_model(options, padding):
    batch = toy_batch(SIZES)

    def make():
        return AGHMN(SIZES, 3, width=4, window=3, padding=padding, **options)

    check_dialogues_are_independent(make().double(), batch)
    check_seeds_stack(make, batch)


def test_words_stack_too():
    g = torch.Generator().manual_seed(0)
    words = torch.randint(0, 6, (2, 4, 5), generator=g)
    batch = from_padded({'words': words}, torch.zeros(2, 4), [4, 3], {'emotion': words[..., 0] % 3})
    table = torch.randn(6, 3, generator=g)
    make = lambda: AGHMN({'words': 5}, 3, width=4, window=2, words='words', embeddings=table)  # noqa: E731
    check_seeds_stack(make, batch)


def test_an_encoder_lends_its_words(tmp_path):
    texts = ['you came back', 'leave me', 'why', 'no']
    folder = toy_encoder(tmp_path, texts, width=6)
    ids = token_ids(texts, folder)[None]
    batch = from_padded({'text': ids}, torch.zeros(1, 4), [4], {'emotion': [[0, 1, 2, 0]]})
    make = lambda: AGHMN({'text': 9}, 3, width=4, window=2, words='text', embeddings=str(folder))  # noqa: E731
    assert make().reader.gru.weight_ih_l0.shape == (12, 6)
    check_seeds_stack(make, batch)


def test_word_padding_and_a_short_past_leave_no_trace():
    "More columns of padding, or a window longer than the dialogue, change nothing."
    torch.manual_seed(0)
    words = torch.randint(1, 6, (1, 4, 3))
    table = torch.randn(6, 3)
    options = dict(width=4, words='words', embeddings=table)
    short = AGHMN({'words': 3}, 3, window=3, **options).double()
    long = AGHMN({'words': 3}, 3, window=9, **options).double()
    long.load_state_dict(short.state_dict())
    wide = torch.nn.functional.pad(words, (0, 4))
    a, b = (from_padded({'words': w}, torch.zeros(1, 4), [4]) for w in (words, wide))
    close(short(a).logits, long(b).logits, 1e-12)


@pytest.mark.parametrize('preset,count', [('bif_agru', 423_506), ('unif_biagru', 403_306)])
def test_parameters(preset, count):
    model = AGHMN({'words': 1}, 6, preset=preset, words='words', embeddings=torch.zeros(2, 300))
    assert sum(p.numel() for p in model.parameters()) == count
