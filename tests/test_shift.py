"The shift network against the authors' numbers, and the gate that it gives each turn."

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import close

from erc.data.batches import from_padded, make_batches
from erc.data.sentence_encoders import toy_encoder
from erc.evidence.shifts import _polarities, shift_flags
from erc.models.shift import (
    ShiftEncoder,
    ShiftHead,
    ShiftNet,
    _p_shift,
    _pair_features,
    previous_turn,
    shift_gate,
    shift_loss,
)
from erc.nn.cells import weighted_nll
from erc.nn.encoders import token_ids
from erc.studies.shapes import load_pairs, load_token_pairs
from erc.training.fit import fit

T = torch.from_numpy


# the authors' numbers


def test_siamese_head_matches_authors(golden):
    """Made with Exploration-Lab/Shapes-of-Emotion@f3ad768 in float64.

    Inputs are (T, B); padded rows are masked from the loss.
    """
    g = golden('shapes/siamese_head')
    net = ShiftNet.from_released(
        {k.removeprefix('param.'): v for k, v in g.items() if k.startswith('param.')}
    )
    previous, current = (T(g[f'in.{k}']).requires_grad_() for k in ('prev', 'cur'))
    mask = T(g['in.umask']).T.bool()
    features = torch.cat(_pair_features(previous, current), -1)
    close(features[mask], g['out.features'][mask], 1e-12)
    scores = net.head(previous.flatten(0, 1), current.flatten(0, 1))
    close(scores.view(5, 3, 2)[mask], g['out.logits'][mask])
    close(_p_shift(scores).view(5, 3)[mask], g['out.p_shift'][mask])
    label = T(g['in.shift_label']).T.masked_fill(~mask, -1).flatten(0, 1)
    loss = weighted_nll(scores.log_softmax(-1), label, T(g['in.class_weight']))
    close(loss.item(), g['out.loss'])
    loss.backward()
    close(net.head.classifier.weight.grad, g['grad.classifier.weight'])
    close(net.head.classifier.bias.grad, g['grad.classifier.bias'])
    close(previous.grad, g['grad_in.prev'])
    close(current.grad, g['grad_in.cur'])


def test_one_logit_is_two_logits(golden):
    g = golden('shapes/siamese_head')
    w, b = T(g['param.classifier.weight']), T(g['param.classifier.bias'])
    one = ShiftHead(8, 'paper').double()
    with torch.no_grad():
        one.classifier.weight.copy_(w[1:] - w[:1])
    h = one(T(g['in.prev']).flatten(0, 1), T(g['in.cur']).flatten(0, 1))[:, 1] + b[1] - b[0]
    mask = g['in.umask'].T.astype(bool)
    close(h.sigmoid().detach().view(5, 3).numpy()[mask], g['out.p_inertia'][mask])


def test_masked_nll_matches_authors(golden):
    g = golden('shapes/masked_nll')
    y = T(np.where(g['in.mask'] > 0, g['in.target'], -1))
    for name, w in (('weighted', T(g['in.class_weight'])), ('unweighted', None)):
        log_prob = T(g['in.log_prob']).requires_grad_()
        loss = weighted_nll(log_prob, y, w)
        loss.backward()
        close(loss.item(), g[f'out.{name}'])
        close(log_prob.grad, g[f'grad_{name}.log_prob'])


def dialogues(g, labels):
    "Return the made-up dialogues of the golden loader file as a table."
    rows = [
        (str(d), t, 'M', '', int(y), 'train')
        for d in range(3)
        for t, y in enumerate(g[f'in.{labels}_d{d}'])
    ]
    return pd.DataFrame(rows, columns=['dialogue', 'turn', 'speaker', 'text', 'label', 'split'])


@pytest.mark.parametrize(
    'labels,out,classes',
    [
        ('labels6', 'out_iemocap', ['happy', 'sad', 'neutral', 'angry', 'excited', 'frustrated']),
        ('labels2', 'out_mosei_sentiment', ['negative', 'positive']),
    ],
)
def test_loader_labels_match_authors(golden, labels, out, classes):
    "Their loader compares a first utterance with class 0, as our polarity_released_first does."
    g = golden('shapes/data_loaders')
    t = dialogues(g, labels)
    flags, real = shift_flags(t, 'polarity_released_first', classes), g[f'{out}.umask'] > 0
    assert np.array_equal(1 - flags.astype(int), g[f'{out}.shift_label'][real])
    prior = t.groupby('dialogue').label.shift(fill_value=0)
    assert np.array_equal(prior, g[f'{out}.prior_label'][real])


def test_loader_sentences_match_authors(golden):
    "sbert_prev is the vector of the turn before, zero at the first turn; ours packs the same rows."
    g = golden('shapes/data_loaders')
    x = {k: T(g[f'out_iemocap.{k}']).transpose(0, 1) for k in ('sbert_cur', 'sbert_prev')}
    speakers = T(g['out_iemocap.qmask'][..., 1].T.astype(int))
    b = from_padded(x, speakers, [7, 3, 1], {'shift': T(g['out_iemocap.shift_label'])})
    close(previous_turn(b, b.features['sbert_cur']), b.features['sbert_prev'], 1e-6)
    for d in range(3):
        own, sentences = b.dialogue == d, g[f'in.sbert_d{d}']
        close(b.features['sbert_cur'][own], sentences, 1e-6)
        close(b.features['sbert_prev'][own], np.vstack([np.zeros(5), sentences[:-1]]), 1e-6)
        assert np.array_equal(b.speakers[own], 1 - g[f'in.speaker_is_M_d{d}'])


def test_shift_table_matches_authors(golden):
    "All 36 pairs of IEMOCAP classes; neutral counts as positive."
    table = golden('shapes/shift_label_table_iemocap')['out.no_shift']
    classes = ['happy', 'sad', 'neutral', 'angry', 'excited', 'frustrated']
    for a in range(6):
        for b in range(6):
            t = pd.DataFrame({'dialogue': 'd', 'turn': [0, 1], 'speaker': 'A', 'label': [a, b]})
            assert shift_flags(t, 'polarity_released', classes)[1] == 1 - table[a, b]
    assert _polarities(classes)[2] == 0


# without golden numbers


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='unknown reading'):
        ShiftHead(4, 'mine')
    with pytest.raises(ValueError, match='2 classes, shift and inertia, not 3'):
        ShiftNet({'sentence': 4, 'previous': 4}, classes=3)


def test_released_weights_are_found_in_a_whole_checkpoint():
    state = {
        'classifier.weight': torch.randn(2, 12),
        'classifier.bias': torch.zeros(2),
        'bert.embeddings': torch.zeros(3),
    }
    assert ShiftNet.from_released(state, preset='released').head.classifier.weight.shape == (2, 12)
    with pytest.raises(ValueError, match='no classifier.weight and classifier.bias; it has bert'):
        ShiftNet.from_released({'bert.x': torch.zeros(1)})
    with pytest.raises(ValueError, match='unknown preset'):
        ShiftNet.from_released(state, preset='mine')


def test_first_turns_have_no_label_unless_released():
    "The loss of a fresh first turn is the loss without it."
    g = torch.Generator().manual_seed(0)
    x = {'sentence': torch.randn(2, 3, 4, generator=g, dtype=torch.float64)}
    b = from_padded(x, torch.zeros(2, 3), [3, 2], {'shift': torch.tensor([[0, 1, 0], [1, 0, 1]])})
    p, scores = shift_gate(ShiftHead(4).double(), b)
    later, log_prob = b.turn > 0, scores.log_softmax(-1)
    assert (p[~later] == 1).all() and (p[later] < 1).all()
    fresh, released = (shift_loss(scores, b, first)['shift'] for first in ('fresh', 'released'))
    close(fresh, weighted_nll(log_prob[later], b.targets['shift'][later]).detach(), 1e-12)
    close(released, weighted_nll(log_prob, b.targets['shift']).detach(), 1e-12)
    del b.targets['shift']
    assert shift_loss(scores, b) == {}


def test_fine_tuned_encoder_learns(tmp_path):
    "Token ids in, a falling loss, the same seed twice; the padding of the batch does not matter."
    pairs = load_pairs('demo')
    toy_encoder(tmp_path, list(pairs.table.text) + list(pairs.table.previous), width=16)
    pairs = load_token_pairs('demo', encoder=str(tmp_path), longest=24)
    names, truth = ['sentence', 'previous'], pairs.table.label.to_numpy()[pairs.rows('dev')]

    def batches(split):
        targets = {'shift': 'label'}
        return make_batches(pairs, split, size=64, features=names, targets=targets, unit='turn')

    def run():
        return fit(
            lambda: ShiftEncoder(dict.fromkeys(names, 24), encoder=str(tmp_path)),
            batches('train'),
            batches('dev'),
            lambda predictions: (predictions == truth).mean(1),
            seeds=[0],
            settings={'epochs': 3, 'lr': 3e-3},
            target='shift',
            vectorise=False,
            progress=False,
        )

    trained = run()
    assert trained.losses[0, -1] < trained.losses[0, 0] - 0.02
    assert np.array_equal(trained.losses, run().losses), 'the same seed twice'
    model = next(trained.modules()).eval()
    ids = torch.from_numpy(token_ids(['My sandwich.', 'My sandwich. ' * 3], str(tmp_path), 24))
    close(model.encoder(ids)[0], model.encoder(ids[:1])[0].detach(), 1e-6)
