"The whole model against the authors' numbers, and what must hold of any model of conversations."

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import erc.models.gruarc as G
from erc.data.batches import Batch, from_padded, make_batches
from erc.nn.cells import weighted_nll
from erc.data.families import convert
from erc.nn.dialoguernn import PastAttention, RunningAttention, party_states
from erc.runs.recipes import load_recipe, system
from erc.runs.run import batches_of, prepare, run_system
from erc.models.gruarc import GRUArcCell, GRUArcModel, ModalityNet, emotion_arcs, pairwise_fusion
from erc.report.artefacts import reference
from erc.training.bench import operations
from erc.training.engine import Single, Stack, Steps
from erc.training.settings import complete, criterion
from gruarc_by_turn import dialogue

T = torch.from_numpy
SIZES = {'text': 6, 'audio': 5, 'visual': 4, 'sentence': 7, 'previous': 7}


def close(a, b, eps=1e-9):
    assert (
        np.abs(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) - np.asarray(b)).max()
        < eps
    )


def of(g, prefix):
    return {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}


def golden_batch(g):
    "The (T, B, .) inputs of a golden file, packed."
    first = lambda k: T(g[f'in.{k}']).transpose(0, 1)
    names = {
        'text': 'text',
        'audio': 'audio',
        'visual': 'video',
        'sentence': 'sbert_cur',
        'previous': 'sbert_prev',
    }
    return from_padded(
        {k: first(v) for k, v in names.items()},
        T(g['in.qmask']).argmax(-1).T,
        g['in.lengths'],
        {'emotion': T(g['in.label']), 'shift': T(g['in.shift_label'])},
    )


def released(g, prefix='param.', **options):
    model = GRUArcModel.from_released(of(g, prefix), **options)
    model.shift_weights = T(g['in.shift_class_weight'])
    return model


def toy(lengths=(5, 3, 1, 4), seed=0, speakers=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(lengths)
    x = {k: torch.randn(B, L, d, generator=g, dtype=dtype) for k, d in SIZES.items()}
    return from_padded(
        x,
        torch.randint(0, speakers, (B, L), generator=g),
        lengths,
        {
            'emotion': torch.randint(0, 4, (B, L), generator=g),
            'shift': torch.randint(0, 2, (B, L), generator=g),
        },
    )


def model(sizes=SIZES, **options):
    torch.manual_seed(3)
    return GRUArcModel(sizes, 4, party=5, context=6, emotion=4, hidden=3, **options).double()


# ---- the authors' numbers ---------------------------------------------------------------------------------


def test_cell(golden):
    g = golden('shapes/gruarc_cell')
    cell = GRUArcCell(5, 4).double()
    cell.load_state_dict({k: T(v) for k, v in of(g, 'param.').items()})
    s, e = T(g['in.s']).requires_grad_(), T(g['in.e_prev']).requires_grad_()
    out = cell(s, e, T(g['in.p_shift']))
    close(out, g['out.e'])
    close(cell(s, e, T(g['in.p_shift'])[:, 0]), g['out.e'])
    (out * T(g['in.cotangent'])).sum().backward()
    close(s.grad, g['grad_in.s'])
    close(e.grad, g['grad_in.e_prev'])
    for k, v in cell.named_parameters():
        close(v.grad, g[f'grad.{k}'])


@pytest.mark.parametrize('name', ['simple_attention', 'general_attention_eq5'])
@pytest.mark.parametrize('chunk', [1, 2, 100])
def test_attention(golden, name, chunk):
    g = golden(f'shapes/{name}')
    history = T(g['in.history']).requires_grad_()  # (t, B, H)
    w = T(next(v for k, v in g.items() if k.startswith('param.'))).requires_grad_()
    m = T(g['in.m_t']).requires_grad_() if 'in.m_t' in g else None
    asked = [torch.zeros_like(history[:1])] * len(history)
    past = (
        RunningAttention(w[None]) if m is None else PastAttention([*asked, (m @ w.T)[None]], chunk)
    )
    for c in history:
        past.look()
        past.add(c[None])
    x = past.look()[0]
    close(x, g['out.x'])
    (x * T(g['in.cotangent'])).sum().backward()
    close(history.grad, g['grad_in.history'])
    if m is not None:
        close(m.grad, g['grad_in.m_t'])
    close(w.grad, next(v for k, v in g.items() if k.startswith('grad.')))


@pytest.mark.parametrize('name', ['text', 'audio'])
def test_modality_net(golden, name):
    g = golden(f'shapes/modality_net_{name}_2party')
    p = {G.released_name(k): T(v) for k, v in of(g, 'param.').items()}
    net = ModalityNet(
        g['in.m'].shape[-1], g['in.context'].shape[-1], 5, 6, 4, 'query_free'
    ).double()
    net.load_state_dict(p)
    given = {k: T(g[f'in.{k}']).requires_grad_() for k in ('m', 'context')}
    b = from_padded(
        {k: v.transpose(0, 1) for k, v in given.items()},
        T(g['in.speaker']).T,
        g['in.lengths'],
        {'p': T(g['in.p_shift']).T},
    )
    m, context = b.features['m'], b.features['context']
    s, c = party_states([net], [m], [context], b, 'before')
    e = emotion_arcs([net], s, b.targets['p'], b)
    real = g['in.umask'] > 0
    close(b.to_padded(e[0])[T(real)], g['truth.e'].transpose(1, 0, 2)[real])
    close(b.to_padded(c[0])[T(real)], g['truth.c'].transpose(1, 0, 2)[real])
    (b.to_padded(e[0]) * T(g['in.cotangent']).transpose(0, 1)).sum().backward()
    for k, v in given.items():
        close(v.grad, g[f'grad_in.{k}'])
    for k, v in net.named_parameters():
        close(v.grad, next(r for q, r in of(g, 'grad.').items() if G.released_name(q) == k))


def test_equations_as_printed(golden):
    "Eq. 1 to 3, 5, 6, 10 and 11 as the paper prints them, from a loop of their own."
    g = golden('shapes/paper_equations_modality_net_own_oracle')
    p = of(g, 'param.')
    net = ModalityNet(7, 7, 5, 6, 4, 'eq5', bias=False).double()
    gru = lambda short, long: {
        f'{short}.{k}': T(p[f'{long}.{k}'])
        for k in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')
    }
    net.load_state_dict(
        {
            **gru('g_cell', 'GRU_c'),
            **gru('p_cell', 'GRU_s'),
            'attention.weight': T(p['W_alpha'].T.copy()),
            'e_cell.w_hi.weight': T(p['GRU_arc.W']),
            'e_cell.u_hh.weight': T(p['GRU_arc.U']),
        }
    )
    b = from_padded(
        {'m': T(g['in.m']).transpose(0, 1)},
        T(g['in.speaker']).T,
        g['in.lengths'],
        {'p': T(g['in.p_shift']).T},
    )
    m, real = b.features['m'], g['in.umask'] > 0
    s, c = party_states([net], [m], [m], b, 'updated')
    e = emotion_arcs([net], s, b.targets['p'], b)
    for ours, k in ((e, 'e'), (c, 'c'), (s, 's')):
        close(b.to_padded(ours[0])[T(real)], g[f'truth.{k}'].transpose(1, 0, 2)[real])


@pytest.mark.parametrize('padding', ['truth', 'out_padded'])
def test_fusion(golden, padding):
    "Pairs, what the output layer reads, its log-probabilities and all gradients."
    g = golden('shapes/pairwise_fusion')
    given, out = (
        {k: T(g[f'in.hidden_{k}']).requires_grad_() for k in 'tav'},
        torch.nn.Linear(54, 4).double(),
    )
    out.load_state_dict({k: T(v) for k, v in of(g, 'param.smax_fc.').items()})
    h, real = {k: v.transpose(0, 1) for k, v in given.items()}, T(g['in.umask']) > 0
    pairs = {
        a + b: pairwise_fusion(h[x], h[y], real if padding == 'truth' else None)
        for (a, b), (x, y) in {'at': 'ta', 'va': 'va', 'tv': 'tv'}.items()
    }
    at = lambda x: x.transpose(1, 0, 2)[real.numpy()]
    for k, v in pairs.items():
        close(v[real], at(g[f'{padding}.{k}']))
    z = torch.cat([*pairs.values(), *h.values()], -1)
    lp = out(z).log_softmax(-1)
    close(z[real], at(g[f'{padding}.z']))
    close(lp[real], at(g[f'{padding}.log_prob']))
    loss = (lp * T(g['in.cotangent']).transpose(0, 1))[real].sum()
    close(loss, g[f'{padding}.loss'])
    loss.backward()
    theirs = of(g, 'grad_truth.' if padding == 'truth' else 'grad_padded.')
    ours = {
        **{f'hidden_{k}': v.grad for k, v in given.items()},
        'smax_fc.weight': out.weight.grad,
        'smax_fc.bias': out.bias.grad,
    }
    assert set(theirs) == set(ours)
    for k, v in ours.items():
        close(v, theirs[k])


def test_pairs_are_scored_as_they_stand_in_the_output_layer(golden):
    "What the model computes block by block instead of building z."
    g = golden('shapes/pairwise_fusion')
    b = from_padded(
        {k: T(g[f'in.hidden_{k}']).transpose(0, 1) for k in 'tav'},
        torch.zeros(3, 5),
        g['in.lengths'],
    )
    w, m, h = T(g['param.smax_fc.weight']), model(), torch.stack([b.features[k] for k in 'tav'])
    scores = (
        G.pair_scores(m, b, h, w[:, :36])
        + torch.cat(list(h), 1) @ w[:, 36:].T
        + T(g['param.smax_fc.bias'])
    )
    real = g['in.umask'] > 0
    close(
        b.to_padded(scores.log_softmax(-1))[T(real)], g['truth.log_prob'].transpose(1, 0, 2)[real]
    )


@pytest.mark.parametrize(
    'name', ['full_model_4class_2party', 'full_model_6class_2party', 'full_model_dropout_probe']
)
@pytest.mark.parametrize('padding', ['masked', 'released'])
def test_full_model(golden, name, padding, monkeypatch):
    "Made with Exploration-Lab/Shapes-of-Emotion@f3ad768 in float64; each dialogue alone, and the padded batch with its leak. In the probe every dropout of rate p is x (1 - p), there and here."
    g = golden(f'shapes/{name}')
    if 'probe' in name:
        monkeypatch.setattr(G, 'dropout', lambda x, p, *a, **k: x * (1 - p))
        monkeypatch.setattr(
            G,
            'dropout_mask',
            lambda units, p, batch, place: torch.full(
                (len(batch), units), 1 - p, dtype=torch.float64
            ),
        )
    b, m, at = (
        golden_batch(g),
        released(g, padding=padding),
        'truth' if padding == 'masked' else 'out_padded',
    )
    out, real = m(b), g['in.umask'] > 0
    lp = out.logits.log_softmax(-1)
    close(b.to_padded(lp)[T(real)], g[f'{at}.log_prob'].transpose(1, 0, 2)[real])
    loss = weighted_nll(lp, b.targets['emotion'], T(g['in.class_weight'])) + out.losses['shift']
    close(loss, g[f'{at}.loss'])
    close(out.losses['shift'], g[f'{at}.loss_shift'])
    loss.backward()
    theirs = {
        G.released_name(k): v
        for k, v in of(g, 'grad_truth.' if padding == 'masked' else 'grad_padded.').items()
    }
    assert set(theirs) == {k for k, _ in m.named_parameters()}
    for k, v in m.named_parameters():
        if k.startswith('backward_nets'):
            assert v.grad is None and np.abs(theirs[k]).max() == 0, 'the second direction is dead'
        else:
            close(v.grad, theirs[k])


@pytest.mark.parametrize(
    'padding,file', [('masked', 'train_3_steps_truth'), ('released', 'train_3_steps_padded')]
)
def test_three_adam_steps(golden, padding, file):
    "All weights, the second direction's apart: no gradient reaches them, and only the decay of the released optimiser moves them."
    g, end = golden('shapes/train_3_steps_padded'), golden(f'shapes/{file}')
    b, m = golden_batch(g), released(g, 'param0.', padding=padding)
    start = {k: v.detach().clone() for k, v in m.named_parameters()}
    opt, losses = (
        torch.optim.Adam(
            m.parameters(), float(g['in.lr']), weight_decay=float(g['in.weight_decay'])
        ),
        [],
    )
    for _ in range(3):
        opt.zero_grad()
        out = m(b)
        loss = (
            weighted_nll(out.logits.log_softmax(-1), b.targets['emotion'], T(g['in.class_weight']))
            + out.losses['shift']
        )
        loss.backward()
        opt.step()
        losses.append(loss.item())
    close(np.array(losses), end['out.loss'])
    theirs = {G.released_name(k): v for k, v in of(end, 'param3.').items()}
    assert set(theirs) == set(start)
    for k, v in m.named_parameters():
        if k.startswith('backward_nets'):
            close(start[k], theirs[k], 3 * float(g['in.lr']) * 1.001)
        else:
            close(v, theirs[k])


def test_released_weights_without_their_shift_head(golden):
    "The released code saves its model without the head; that one then keeps its random start, and all else is theirs."
    g = golden('shapes/full_model_4class_2party')
    own = {k: v for k, v in of(g, 'param.model.').items()}
    with pytest.warns(UserWarning, match='no shift head'):
        m = GRUArcModel.from_released(own, sentence=8)
    assert m.shift.classifier.weight.shape == (2, 24) and m.shift.classifier.weight.abs().max() > 0
    for k, v in own.items():
        close(m.state_dict()[G.released_name(k)], v)
    m.shift.load_state_dict({k: T(v) for k, v in of(g, 'param.shift.').items()})
    b, whole = golden_batch(g), released(g)
    close(m(b).logits, whole(b).logits.detach())
    with pytest.warns(UserWarning):
        assert GRUArcModel.from_released(own).shift.classifier.weight.shape == (2, 3 * 12), (
            'as wide as the text'
        )


def test_weights_of_another_model_are_named(golden):
    g = golden('shapes/full_model_4class_2party')
    own = of(g, 'param.')
    less = lambda word: {k: v for k, v in own.items() if word not in k}
    with pytest.raises(ValueError, match='lacks forward_nets.text.g_cell.weight_hh; it has bert.x'):
        GRUArcModel.from_released({'bert.x': np.zeros(1)})
    with pytest.raises(ValueError, match='it has nothing'):
        GRUArcModel.from_released({})
    with pytest.raises(ValueError, match='lacks smax_fc.bias'):
        GRUArcModel.from_released(less('smax_fc.bias'))
    with pytest.raises(ValueError, match='lacks shift.classifier.bias'):
        GRUArcModel.from_released(less('classifier.bias'))
    with pytest.raises(ValueError, match='lacks backward_nets.text.g_cell.weight_ih'):
        GRUArcModel.from_released(less('net_r_'))
    with pytest.raises(ValueError, match='it has siamese.w besides'):
        GRUArcModel.from_released({**own, 'siamese.w': np.zeros(1)})


def test_parameter_counts():
    "Counted from the official class; 5,578,803 is a three-class instance, which no corpus of the paper has."
    count = lambda m: sum(p.numel() for k, p in m.named_parameters() if not k.startswith('shift'))
    dead = lambda m: (
        sum(p.numel() for p in m.backward_nets.parameters())
        + m.linear.weight[:, m.emotion :].numel()
    )
    mosei = dict(text=768, audio=384, visual=711, sentence=768, previous=768)
    iemocap = dict(text=768, audio=100, visual=512, sentence=768, previous=768)
    assert count(GRUArcModel(mosei, 3, preset='released_mosei')) == 5_578_803
    two = GRUArcModel(mosei, 2, preset='released_mosei')
    assert (dead(two), round(100 * dead(two) / count(two), 1)) == (2_786_600, 50.0)
    six, four = (GRUArcModel(iemocap, k, preset='released_iemocap') for k in (6, 4))
    assert [count(six), count(four)] == [5_149_506, 5_145_904] and dead(six) == dead(
        four
    ) == 2_569_250


def test_the_released_second_direction_is_zero():
    "Its nets, run: a gate that never shifts lets nothing in."
    m, b = model(preset='released_iemocap'), toy()
    e = G.run_nets(
        m, list(m.backward_nets.values()), b, torch.zeros(len(b), dtype=torch.float64), 'backward'
    )
    assert e.shape == (3, 13, 4) and e.abs().max() == 0
    assert (
        G.run_nets(
            m,
            list(m.backward_nets.values()),
            b,
            torch.full((len(b),), 0.1, dtype=torch.float64),
            'backward',
        )
        .abs()
        .max()
        > 0
    )


# ---- what must hold of any of them ------------------------------------------------------------------------

OPTIONS = [
    {},
    dict(preset='released_iemocap'),
    dict(preset='without_shift'),
    dict(direction='repaired'),
    dict(attention='query_free'),
    dict(context_order='before'),
    dict(context_input='text'),
    dict(first='released'),
    dict(bias='released'),
]
MIXED = [
    dict(gate='gru', direction='repaired', context_order='before'),
    dict(preset='released_iemocap', direction='repaired'),
    dict(preset='released_iemocap', gate='gru'),
    dict(direction='released', reading='released'),
    dict(
        preset='released_iemocap',
        first='fresh',
        attention='eq5',
        context_input='own',
        direction='forward',
    ),
    dict(direction='repaired', head=('sentence', 'audio'), first='released', context_input='text'),
]
PADDED = [
    dict(padding='released'),
    dict(padding='released', preset='without_shift'),
    dict(padding='released', direction='repaired'),
    dict(padding='released', preset='released_iemocap', gate='gru'),
    dict(padding='released', preset='released_iemocap'),
]
name = lambda o: '-'.join(map(str, o.values())) or 'paper'


def without(b, *names):
    return dataclasses.replace(b, features={k: v for k, v in b.features.items() if k not in names})


@pytest.mark.parametrize('o', OPTIONS + MIXED, ids=name)
def test_model_is_what_one_would_write_down(o):
    "Scores, shift loss and all gradients, of weights and of inputs, beside a loop over turns."
    b, m = without(toy((6, 4, 1, 3), speakers=3), 'previous'), model(**o)
    given = {k: v.requires_grad_() for k, v in b.features.items() if k in (*m.modalities, *m.head)}
    cot, losses = (
        torch.randn(len(b), 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        [],
    )
    out = m(b)
    ours = torch.autograd.grad(
        (out.logits * cot).sum() + out.losses.get('shift', 0),
        [*m.parameters(), *given.values()],
        allow_unused=True,
    )
    total = torch.zeros(())
    for rows in b.where():
        r = rows[rows < len(b)]
        scores, pair = dialogue(m, {k: v[r] for k, v in given.items()}, b.speakers[r].tolist())
        close(out.logits[r], scores.detach())
        total = total + (scores * cot[r]).sum()
        y, t = b.targets['shift'][r], torch.arange(len(r))
        if pair is not None:
            losses.append(-pair[t, y][0 if m.options['first'] == 'released' else 1 :])
    if losses:
        close(out.losses['shift'], torch.cat(losses).mean().detach())
    theirs = torch.autograd.grad(
        total + (torch.cat(losses).mean() if losses else 0),
        [*m.parameters(), *given.values()],
        allow_unused=True,
    )
    assert len(losses) == 4 * (m.shift is not None) and any(
        g is not None and g.abs().max() > 1e-3 for g in theirs
    )
    for p, x, y in zip([*m.parameters(), *given.values()], ours, theirs):
        close(*(torch.zeros_like(p) if g is None else g for g in (x, y)))


@pytest.mark.parametrize('gone', [(), ('previous',)], ids=['previous', 'looked_up'])
@pytest.mark.parametrize('o', OPTIONS + MIXED[:-1], ids=name)
def test_a_dialogue_does_not_see_its_neighbours(o, gone):
    b, m = without(toy(), *gone), model(**o)
    together = b.to_padded(m(b).logits)
    for d, n in enumerate(b.lengths.tolist()):
        one = alone(b, d, n)
        close(one.to_padded(m(one).logits)[0], together[d, :n].detach(), 1e-12)


def alone(b, d, n):
    "The first n turns of one dialogue."
    return from_padded(
        {k: b.to_padded(v)[d : d + 1, :n] for k, v in b.features.items()},
        b.to_padded(b.speakers)[d : d + 1, :n],
        [n],
    )


def later(b, t):
    "Every turn from t on says something else."
    return dataclasses.replace(
        b,
        features={k: torch.where((b.turn >= t)[:, None], v + 1, v) for k, v in b.features.items()},
    )


FORWARD = [o for o in OPTIONS if o.get('direction') != 'repaired']


@pytest.mark.parametrize('gone', [(), ('previous',)], ids=['previous', 'looked_up'])
@pytest.mark.parametrize('o', FORWARD, ids=name)
def test_states_do_not_see_the_future(o, gone):
    "The recurrences; the pairwise fusion looks both ways by construction."
    b, m = without(toy((5,)), *gone), model(**o)
    p = lambda b: (
        G.shift_gate(m.shift, b, m.head, m.options['first'])[0]
        if m.shift
        else torch.ones(len(b), dtype=torch.float64)
    )
    run = lambda b: G.emotion_states(m, b, p(b))
    before = run(b)
    for t in range(1, 5):
        after = run(later(b, t))
        close(after[:, :t], before[:, :t].detach(), 1e-12)
        assert (after[:, t] - before[:, t]).abs().max() > 1e-9


@pytest.mark.parametrize('gone', [(), ('previous',)], ids=['previous', 'looked_up'])
@pytest.mark.parametrize('o', FORWARD, ids=name)
def test_predictions_of_one_modality_do_not_see_the_future(o, gone):
    b, m = (
        without(toy((5, 3)), *gone),
        model({k: v for k, v in SIZES.items() if k not in ('audio', 'visual')}, **o),
    )
    before = m(b).logits
    for t in range(1, 5):
        after = m(later(b, t)).logits
        close(after[b.turn < t], before[b.turn < t].detach(), 1e-12)
        assert (after[b.turn == t] - before[b.turn == t]).abs().max() > 1e-9


@pytest.mark.parametrize('some', [('text', 'audio'), ('text', 'audio', 'visual')])
def test_predictions_of_several_modalities_see_later_turns(some):
    "The fusion attends over the whole conversation."
    b, m = (
        toy((5,)),
        model({k: v for k, v in SIZES.items() if k in (*some, 'sentence', 'previous')}),
    )
    assert (m(later(b, 4)).logits - m(b).logits)[b.turn < 4].abs().max() > 1e-6


@pytest.mark.parametrize('o', PADDED, ids=name)
def test_released_padding_runs_in_all_readings(o):
    "Gradients and all; a dialogue alone has no padding, one beside a longer one hears of it."
    b, leaky, ours = toy(), model(**o), model(**{**o, 'padding': 'masked'})
    out, wide = leaky(b), G.padded_out(b)
    (out.logits.sum() + sum(out.losses.values())).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in leaky.parameters()) and (
        'shift' in out.losses
    ) == (leaky.shift is not None)
    e = [
        G.emotion_states(m, x, torch.full((len(x),), 0.5, dtype=torch.float64))
        for m, x in ((leaky, wide), (ours, b))
    ]
    close(wide.to_padded(e[0][0])[b.dialogue, b.turn], e[1][0].detach(), 1e-12)
    assert e[0][:, wide.targets['nobody'], 4:].abs().sum() == 0, (
        'the released code fills what lies behind a reversed dialogue with zeros'
    )
    close(leaky(alone(b, 1, 3)).logits, ours(alone(b, 1, 3)).logits.detach(), 1e-12)
    assert (b.to_padded(leaky(b).logits)[1, :3] - ours(alone(b, 1, 3)).logits).abs().max() > 1e-6


def test_repaired_direction_is_the_forward_one_run_backwards():
    "With the same weights, a reversed dialogue with the gate of the next pair."
    b, m = toy((4,)), model(direction='repaired')
    m.backward_nets.load_state_dict(m.forward_nets.state_dict())
    p = torch.tensor([1.0, 0.3, 0.6, 0.9], dtype=torch.float64)
    e = G.emotion_states(m, b, p)
    flipped = dataclasses.replace(
        b, features={k: v.flip(0) for k, v in b.features.items()}, speakers=b.speakers.flip(0)
    )
    again = G.run_nets(
        m,
        list(m.forward_nets.values()),
        flipped,
        torch.tensor([1.0, 0.9, 0.6, 0.3], dtype=torch.float64),
        'x',
    )
    close(e[..., 4:], again.flip(1).detach(), 1e-12)


@pytest.mark.parametrize('o', OPTIONS + PADDED, ids=name)
def test_seeds_stack(o):
    "vmap over seeds equals the plain module, dropout included."
    b = toy()
    make = lambda: GRUArcModel(SIZES, 4, party=5, context=6, emotion=4, hidden=3, **o)
    loss = criterion('emotion')
    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    a, c = stack.loss(b, torch.tensor(2), loss), single.loss(b, torch.tensor(2), loss)
    assert abs(a[1] - c[0]) < 1e-12
    a.sum().backward()
    c.sum().backward()
    for k, v in single.model.named_parameters():
        if v.grad is not None:
            close(stack.params[k].grad[1], v.grad, 1e-12)


@pytest.mark.parametrize('some', [('text',), ('text', 'audio'), ('audio', 'visual')])
def test_fewer_modalities(some):
    m = GRUArcModel(
        {k: v for k, v in SIZES.items() if k in some or k in ('sentence', 'previous')},
        4,
        party=5,
        context=6,
        emotion=4,
        hidden=3,
    ).double()
    assert m(toy()).logits.shape == (13, 4) and len(m.pairs) == (len(some) > 1)


def test_speakers_beyond_two_and_one_turn_dialogues():
    assert model()(toy((1, 1), speakers=1)).logits.shape == (2, 4)
    assert model()(toy((9,), speakers=5)).logits.isfinite().all()


def test_bad_options():
    with pytest.raises(ValueError, match="unknown context_order 'befor'; did you mean 'before'"):
        model(context_order='befor')
    with pytest.raises(ValueError, match="unknown option 'gates'; did you mean 'gate'"):
        model(gates='gru')
    with pytest.raises(ValueError, match='unknown preset'):
        model(preset='mine')
    with pytest.raises(ValueError, match="needs 'text'; it was given audio"):
        GRUArcModel({'audio': 3, 'sentence': 4, 'previous': 4}, 2, context_input='text')
    with pytest.raises(
        ValueError, match="unknown feature of the shift network 'sentence'. Known: text"
    ):
        GRUArcModel({'text': 3}, 2)
    assert GRUArcModel({'text': 3}, 2, gate='gru').shift is None


def test_what_a_batch_lacks_is_named():
    with pytest.raises(ValueError, match="unknown feature of the batch 'audio'. Known: text"):
        model()(without(toy(), 'audio'))
    with pytest.raises(ValueError, match="unknown feature of the batch 'sentence'"):
        model()(without(toy(), 'sentence'))
    with pytest.raises(
        ValueError, match="'previous' has 7 columns and sentence . audio 12: leave it out"
    ):
        model(head=['sentence', 'audio'])(toy())


def test_the_turn_before_is_looked_up_only_where_nobody_gives_it(monkeypatch):
    looked = []
    monkeypatch.setattr(G, 'before', lambda b, x, real=G.before: looked.append(x) or real(b, x))
    model()(toy())
    assert not looked
    model()(without(toy(), 'previous'))
    assert len(looked) == 1


def test_scores_do_not_depend_on_the_blocks():
    m, b = model(), toy(lengths=tuple(range(1, 20)))
    whole = m(b).logits
    blocks = Batch.blocks
    for most in (1, 4, 100):
        b.blocks = lambda most=most: blocks(b, most)
        close(m(b).logits, whole.detach(), 1e-12)


def test_the_printed_equations_have_no_biases_and_the_released_code_has():
    assert model().forward_nets['text'].e_cell.w_hi.bias is None
    assert model(preset='released_iemocap').forward_nets['text'].e_cell.w_hi.bias is not None


def test_a_shift_network_that_reads_other_modalities():
    narrow, wide = model(), model(head=['sentence', 'audio', 'visual'])
    assert (
        wide.shift.classifier.weight.shape[1] == 3 * (7 + 5 + 4)
        and narrow.shift.classifier.weight.shape[1] == 3 * 7
    )
    b, other = toy(), toy()
    other.features['audio'] = other.features['audio'] + 1
    for b_ in (b, other):
        del b_.features['previous']
    p = lambda m, x: m(x).probes['p_shift']
    assert torch.equal(p(narrow, b), p(narrow, other)) and not torch.equal(
        p(wide, b), p(wide, other)
    )


class Trained:
    "What `fit` gives, of models that were not trained."

    def __init__(self, *models):
        self.models = models

    def modules(self):
        yield from self.models


def demo_test(seed=0):
    s = dataclasses.replace(system('shapes/gruarc_released'), encoder='hashing')
    c, _ = prepare(s, 'demo')
    sizes = {f: c.features[f].shape[1] for f in s.features}
    made = []
    for k in (0, 1):
        torch.manual_seed(k)
        made.append(GRUArcModel(sizes, len(c.classes), preset='released_iemocap').eval())
    return (
        c,
        [b.to(dtype=torch.float32) for b in batches_of(s, c, {'batch': 16})[2]],
        Trained(*made),
    )


def test_decisions_of_the_shift_network_stand_in_corpus_order():
    c, test, fit = demo_test()
    t = c.table.iloc[c.rows('test')].reset_index(drop=True)
    y, decided = G.shift_decisions(fit, c, test)['shift_network']
    assert (
        decided.shape == (2, len(t))
        and (y[t.turn == 0] == -1).all()
        and (y[t.turn > 0] == t.inertia[t.turn > 0]).all()
    )
    one = test[0]
    at = {int(i): k for k, i in enumerate(c.rows('test'))}
    p = fit.models[1](one).probes['p_shift']
    assert all(decided[1, at[int(i)]] == int(v <= 0.5) for i, v in zip(one.ids, p))


def test_leak_probe_counts_what_padding_changes():
    c, test, fit = demo_test()
    probe = G.leak_probe(fit, c, test)
    m = fit.models[0]
    assert m.options['padding'] == 'masked', 'the model is left as it was'
    a = torch.cat([m(b).logits for b in test]).detach()
    m.options = {**m.options, 'padding': 'released'}
    b = torch.cat([m(b).logits for b in test]).detach()
    assert np.isclose(
        probe['leak_changed_by_seed'][0], (a.argmax(-1) != b.argmax(-1)).float().mean()
    )
    assert (
        np.isclose(probe['leak_largest_by_seed'][0], (a.softmax(-1) - b.softmax(-1)).abs().max())
        and probe['leak_largest_by_seed'][0] > 0
    )
    alone = G.leak_probe(fit, c, batches_of_one(c))
    assert alone['leak_largest_by_seed'].max() < 1e-6, 'a dialogue alone has no padding'


def batches_of_one(c):
    cut = make_batches(
        c, 'test', size=1, features=['text', 'audio', 'sentence'], targets={'emotion': 'label'}
    )
    return [b.to(dtype=torch.float32) for b in cut]


@pytest.mark.parametrize('structure', ['multilogue9', 'mmgcn9'])
def test_a_converted_pickle_with_three_modalities_runs(tmp_path, monkeypatch, structure):
    "What rows without data would take: the pickle of the family, converted, under a recipe's system, from training to record."
    from test_corpora import KINDS, family

    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(family(structure, KINDS[structure]), protocol=4))
    convert(tmp_path / 'x.pkl', tmp_path / 'data' / 'fetched', name='fetched')
    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'data'))
    s = dataclasses.replace(system('shapes/gruarc_mosi'), encoder='hashing')
    rec = run_system(
        s,
        'fetched',
        'paper',
        seeds=[0, 1],
        home=tmp_path,
        demo={'epochs': 1, 'class_weights': 'none'},
        progress=False,
    )
    assert (
        rec.corpus == 'fetched'
        and rec.task == ('sentiment' if structure == 'multilogue9' else 'emotion')
        and len(rec.test) == 2
    )
    assert 'shift_network' in rec.confusions


# ---- tables and work --------------------------------------------------------------------------------------


def test_every_printed_number_of_its_tables_is_drawn():
    "What the paper prints of others stands there too."
    recipe, ref = load_recipe('shapes')['artefacts'], reference('shapes')
    for a in (f'table{i}' for i in range(2, 13)):
        drawn = set()
        for row in recipe[a]['rows']:
            for c in recipe[a]['columns'] if row.get('printed', True) else []:
                at = row.get('printed_as', {}).get(c['name'], c.get('printed'))
                if at:
                    drawn.add(
                        (row['row'], at)
                        if isinstance(at, str)
                        else (at.get('row', row['row']), at['column'])
                    )
        assert drawn == {(x.row, x.column) for x in ref[ref.artefact == a].itertuples()}, a


class Work(TorchDispatchMode):
    "Counts operations, and the numbers that they write; views write none."

    def __init__(self):
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        if not f.is_view:
            self.operations += 1
            self.numbers += sum(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))
        return out


@pytest.mark.parametrize('preset', ['paper', 'released_iemocap'])
def test_work_of_a_step(preset):
    "What a step does beside its products, counted, since its time says more of the machine: IEMOCAP's shapes (108 dialogues, 5361 turns, longest 110; 768/100/512). `erc bench training` times it."
    from erc.cli import toy_dialogues

    sizes = dict(text=768, audio=100, visual=512, sentence=768)
    batch, make = (
        toy_dialogues(sizes, 'emotion', (108, 5361, 110), 6),
        lambda: GRUArcModel(sizes, 6, preset=preset),
    )
    steps = Steps(Single(make, [0]), [batch], criterion('emotion'), complete({'clip': 1.0}))
    steps(0, 0)
    with Work() as w:
        steps(0, 1)
    assert w.operations <= 220 * 110, 'a time step takes more operations'
    assert 70 * w.numbers <= operations(make, batch, 'emotion'), (
        'more is written for the same products'
    )
