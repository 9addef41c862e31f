"MVN: the authors' numbers (butterfliesss/MVN at 5022a08), and what must hold of any model."

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
from erc.models.mvn import MVN, _past_words
from erc.training.settings import criterion

SIZES = {'text': 4, 'audio': 3}


def toy_words(lengths=(4, 3, 1), seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(lengths)
    words = torch.randint(1, 6, (*shape, 5), generator=g)
    count = torch.randint(1, 6, shape, generator=g)
    words = words * (torch.arange(5) < count[..., None])
    return from_padded(
        {'words': words}, torch.zeros(shape), lengths, {'emotion': words[..., 0] % 3}
    )


def make(**options):
    table = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    options = {'width': 6, 'window': 2, **options}
    return MVN({'words': 5}, 3, words='words', embeddings=table, **options)


def build(g):
    return lambda state: MVN.from_released(state, int(g['in.window']))


def test_the_model_is_the_authors(golden):
    g = golden('baselines/mvn_text')
    batch, model = word_batch(g), build(g)(part(g, 'param.'))
    utterance, word = model.views(batch)
    close(flat(batch, word), numbered(g, 'out.view_word'))
    close(flat(batch, utterance), numbered(g, 'out.view_utterance'))
    score = model(batch).logits
    close(flat(batch, score), numbered(g, 'out.score'))
    y = batch.targets['emotion']
    nll = -score.gather(1, y[:, None])[:, 0] / score.shape[1]
    losses = batch.to_padded(nll).sum(1) / batch.lengths
    for d, loss in enumerate(losses):
        close(loss, g[f'out.loss_{d}'])
    losses.sum().backward()
    check_gradients(model, gradients(g), build(g))


def test_the_words_are_the_authors(golden):
    g = golden('baselines/mvn_text')
    batch, model = word_batch(g), build(g)(part(g, 'param.'))
    states, real = model.reader(batch.features['words'])
    states = flat(batch, states * real[..., None])
    expected = numbered(g, 'out.word_states')
    close(states[:, : expected.shape[1]], expected)


def test_the_loss_is_the_sum_of_both_views():
    batch, model = toy_words(), make(dropout=0.0).double()
    out = model(batch.at(0, 0))
    y = batch.targets['emotion']
    loss = criterion('emotion')(out, batch) + out.losses['score']
    close(loss, -out.logits.gather(1, y[:, None]).mean(), 1e-12)


@pytest.mark.parametrize('padding', ['masked', 'released'])
def test_what_holds_of_any_model(padding):
    check_dialogues_are_independent(make(padding=padding).double(), toy_words())
    check_seeds_stack(lambda: make(padding=padding), toy_words())
    turns = lambda: MVN(SIZES, 3, width=6, window=2, padding=padding)  # noqa: E731
    check_dialogues_are_independent(turns().double(), toy_batch(SIZES))
    check_seeds_stack(turns, toy_batch(SIZES))


def test_room_for_all_words_changes_nothing():
    batch, whole = toy_words(), make().double()
    states, real = whole.reader(batch.features['words'])
    most = int(_past_words(states, real, batch, window=2)[1].sum(1).max())
    assert most < 10  # the slots of two turns
    kept = make(longest=most).double()
    kept.load_state_dict(whole.state_dict())
    close(kept(batch).logits, whole(batch).logits, 1e-12)
    check_seeds_stack(lambda: make(longest=3), batch)


def test_columns_of_padding_change_nothing():
    torch.manual_seed(0)
    batch, model = toy_words(), make(padding='released').double()
    wide = toy_words()
    wide.features['words'] = torch.nn.functional.pad(wide.features['words'], (0, 3))
    close(model(wide).logits, model(batch).logits, 1e-12)


def test_parameters():
    model = MVN({'words': 1}, 6, words='words', embeddings=torch.zeros(2, 300))
    assert sum(p.numel() for p in model.parameters()) == 3_024_912
