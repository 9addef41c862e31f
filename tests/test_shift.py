"The shift network against the authors' numbers, and the pairs against what they released."

import numpy as np
import pandas as pd
import pytest
import torch

from erc.nn.cells import weighted_nll
from erc.core import package_file
from erc.data.registry import load_corpus
from erc.evidence.shifts import polarities, shift_flags
from erc.nn.encoders import token_ids
from erc.models.shift import ShiftEncoder, ShiftHead, ShiftNet, p_shift, pair_features
from erc.studies.shapes import (
    always_inertia,
    corpus_statistics,
    empty_is_shift,
    load_pairs,
    load_token_pairs,
    pair_statistics,
    rebuild_pairs,
)

T = torch.from_numpy


def close(a, b, eps=1e-9):
    assert np.abs(np.asarray(a) - np.asarray(b)).max() < eps


def test_siamese_head_matches_authors(golden):
    "Made with Exploration-Lab/Shapes-of-Emotion@f3ad768 in float64; (T, B) inputs, padded rows masked from the loss."
    g = golden('shapes/siamese_head')
    net = ShiftNet.from_released(
        {k.removeprefix('param.'): v for k, v in g.items() if k.startswith('param.')}
    )
    prev, cur = (T(g[f'in.{k}']).requires_grad_() for k in ('prev', 'cur'))
    mask = T(g['in.umask']).T.bool()
    flat = lambda x: x.flatten(0, 1)
    close(torch.cat(pair_features(prev, cur), -1)[mask].detach(), g['out.features'][mask], 1e-12)
    scores = net.head(flat(prev), flat(cur))
    close(scores.detach().view(5, 3, 2)[mask], g['out.logits'][mask])
    close(p_shift(scores).detach().view(5, 3)[mask], g['out.p_shift'][mask])
    y = T(g['in.shift_label']).T.masked_fill(~mask, -1)
    loss = weighted_nll(scores.log_softmax(-1), flat(y), T(g['in.class_weight']))
    close(loss.item(), g['out.loss'])
    loss.backward()
    close(net.head.classifier.weight.grad, g['grad.classifier.weight'])
    close(net.head.classifier.bias.grad, g['grad.classifier.bias'])
    close(prev.grad, g['grad_in.prev'])
    close(cur.grad, g['grad_in.cur'])


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
        lp = T(g['in.log_prob']).requires_grad_()
        loss = weighted_nll(lp, y, w)
        loss.backward()
        close(loss.item(), g[f'out.{name}'])
        close(lp.grad, g[f'grad_{name}.log_prob'])


def dialogues(g, labels):
    "The made-up dialogues of the golden loader file as a table."
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
    "Their loader compares a first utterance with class 0; ours calls this rule polarity_released_first."
    g = golden('shapes/data_loaders')
    t = dialogues(g, labels)
    flags, real = shift_flags(t, 'polarity_released_first', classes), g[f'{out}.umask'] > 0
    assert np.array_equal(1 - flags.astype(int), g[f'{out}.shift_label'][real])
    prior = t.groupby('dialogue').label.shift(fill_value=0)
    assert np.array_equal(prior, g[f'{out}.prior_label'][real])


def test_loader_sentences_match_authors(golden):
    "sbert_prev is the vector of the turn before, zero at the first; ours packs the same rows."
    from erc.data.batches import from_padded

    g = golden('shapes/data_loaders')
    x = {k: T(g[f'out_iemocap.{k}']).transpose(0, 1) for k in ('sbert_cur', 'sbert_prev')}
    b = from_padded(
        x,
        T(g['out_iemocap.qmask'][..., 1].T.astype(int)),
        [7, 3, 1],
        {'shift': T(g['out_iemocap.shift_label'])},
    )
    for d in range(3):
        own = b.dialogue == d
        close(b.features['sbert_cur'][own], g[f'in.sbert_d{d}'], 1e-6)
        close(
            b.features['sbert_prev'][own], np.vstack([np.zeros(5), g[f'in.sbert_d{d}'][:-1]]), 1e-6
        )
        assert np.array_equal(b.speakers[own], 1 - g[f'in.speaker_is_M_d{d}'])


def test_shift_table_matches_authors(golden):
    "All 36 pairs of IEMOCAP classes; neutral counts as positive."
    table = golden('shapes/shift_label_table_iemocap')['out.no_shift']
    classes = ['happy', 'sad', 'neutral', 'angry', 'excited', 'frustrated']
    for a in range(6):
        for b in range(6):
            t = pd.DataFrame({'dialogue': 'd', 'turn': [0, 1], 'speaker': 'A', 'label': [a, b]})
            assert shift_flags(t, 'polarity_released', classes)[1] == 1 - table[a, b]
    assert polarities(classes)[2] == 0


# ---- pairs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name,corpus', [('mosei', 'mosei'), ('iemocap4', 'iemocap4_shapes'), ('iemocap6', 'iemocap6')]
)
def test_released_pairs_counts(data, name, corpus):
    "What erc/reference/corpora.csv documents, counted from the files."
    facts = (
        pd.read_csv(package_file('reference/corpora.csv'))
        .set_index(['corpus', 'split', 'fact'])
        .expected
    )
    s = pair_statistics(load_pairs(f'released_{name}'))
    for split in ('train', 'test'):
        assert s[split]['pairs'] == float(facts[corpus, split, 'pairs'])
        assert round(100 * s[split]['shift'], 2) == float(facts[corpus, split, 'pair shift %'])


def test_mosei_without_the_empty_predecessor(data):
    s = pair_statistics(load_pairs('released_mosei'))
    assert [round(100 * s[k]['shift_of_two'], 2) for k in ('train', 'test')] == [26.67, 27.81]
    assert [s[k]['empty_shifts'] for k in ('train', 'test')] == [1941, 505]
    rebuilt = pair_statistics(load_pairs('mosei'))
    assert [round(100 * rebuilt[k]['shift'], 2) for k in ('train', 'test')] == [26.67, 27.81]
    assert (
        rebuilt['train']['empty'] == 0
        and rebuilt['train']['pairs'] == s['train']['pairs'] - s['train']['empty']
    )


def test_empty_predecessor_rule(data):
    from erc.evidence.metrics import accuracy, confusion, weighted_f1

    c = load_pairs('released_mosei')
    i = c.rows('test')
    score = lambda f: [
        round(100 * float(m(confusion(c.table.label.to_numpy()[i], f(c)[i], 2))), 2)
        for m in (accuracy, weighted_f1)
    ]
    assert score(empty_is_shift) == [72.57, 68.78]
    assert score(always_inertia) == [65.37, 51.68]


@pytest.mark.parametrize(
    'released,corpus', [('released_iemocap6', 'iemocap6'), ('released_iemocap4', 'iemocap4_shapes')]
)
def test_pairs_rebuilt_from_the_corpus_are_the_released_ones(data, released, corpus):
    "Same sentences, same labels, same splits, dialogue by dialogue."
    a, b = load_pairs(released).table, load_pairs(corpus).table
    key = ['split', 'previous', 'text', 'label']
    order = lambda t: (
        t[key].assign(split=t.split.replace('dev', 'train')).sort_values(key).reset_index(drop=True)
    )
    pd.testing.assert_frame_equal(order(a), order(b), check_dtype=False)


def test_paper_rule_on_iemocap(data):
    "Neutral never shifts, as the paper words it: then hardly anything does."
    s = corpus_statistics(load_corpus('iemocap6'))
    assert [
        round(100 * s[k]['shift']['polarity_paper']['of_all'], 2) for k in ('train', 'test')
    ] == [2.41, 2.28]


def test_released_protocol_selects_where_the_authors_did(data):
    for name, split in (('released_mosei', 'train'), ('released_iemocap6', 'test')):
        honest, theirs = load_pairs(name), load_pairs(name, protocol='released')
        assert len(theirs.rows('test')) == len(honest.rows('test'))
        assert len(theirs.rows('train')) == len(honest.rows('train')) + len(honest.rows('dev'))
        assert len(theirs.rows('dev')) == len(theirs.rows(split))


# ---- without corpora --------------------------------------------------------------------------------------


def test_rebuilt_pairs_do_not_cross_dialogues():
    t = load_pairs('demo').table
    c = load_corpus('demo').table
    texts = {d: list(g.text) for d, g in c.groupby('dialogue')}
    for r in t.itertuples():
        assert r.previous == texts[r.dialogue][r.turn] and r.text == texts[r.dialogue][r.turn + 1]


def test_unknown_names_are_answered():
    with pytest.raises(ValueError, match='unknown shift rule'):
        load_pairs('demo@polarity_released_frist')
    with pytest.raises(ValueError, match='unknown corpus'):
        load_pairs('demoo')
    with pytest.raises(ValueError, match='unknown protocol'):
        load_pairs('demo', protocol='theirs')
    with pytest.raises(ValueError, match='unknown reading'):
        ShiftHead(4, 'mine')
    with pytest.raises(ValueError, match='2 classes, not 3'):
        ShiftNet({'sentence': 4, 'previous': 4}, classes=3)


def test_a_unlabelled_corpus_or_real_valued_one_is_refused():
    c = load_corpus('demo')
    with pytest.raises(ValueError, match='real values|class'):
        rebuild_pairs(
            c.replace(task='regression', classes=(), table=c.table.assign(label=c.table.valence))
        )


def test_fine_tuned_encoder_learns(tmp_path):
    "Token ids in, a loss that falls, gradients in the encoder; the padding of the batch does not matter."
    from erc.data.batches import make_batches
    from erc.data.sentence_encoders import toy_encoder
    from erc.training.fit import fit

    c = load_pairs('demo')
    toy_encoder(tmp_path, list(c.table.text) + list(c.table.previous), width=16)
    c = load_token_pairs('demo', encoder=str(tmp_path), longest=24)
    cut = lambda split: make_batches(
        c,
        split,
        size=64,
        features=['sentence', 'previous'],
        targets={'shift': 'label'},
        unit='turn',
    )
    make = lambda: ShiftEncoder({'sentence': 24, 'previous': 24}, encoder=str(tmp_path))
    y = c.table.label.to_numpy()[c.rows('dev')]
    run = lambda: fit(
        make,
        cut('train'),
        cut('dev'),
        lambda p: (p == y).mean(1),
        seeds=[0],
        settings={'epochs': 3, 'lr': 3e-3},
        target='shift',
        vectorise=False,
        progress=False,
    )
    f = run()
    assert f.losses[0, -1] < f.losses[0, 0] - 0.02
    assert np.array_equal(f.losses, run().losses), 'the same seed twice'
    m = next(f.modules()).eval()
    ids = torch.from_numpy(token_ids(['My sandwich.', 'My sandwich. ' * 3], str(tmp_path), 24))
    close(m.encoder(ids)[0].detach(), m.encoder(ids[:1])[0].detach(), 1e-6)


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
