"GRUarc against the authors' numbers, and what must hold of any model of conversations."

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from gruarc_by_turn import dialogue
from helpers import close, toy_batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import erc.models.gruarc as gruarc
import erc.models.shift as shift
from erc.data.batches import Batch, from_padded
from erc.data.reading import convert
from erc.models.arc import GRUArcCell, _ModalityNet, emotion_arcs
from erc.models.gruarc import (
    GRUArcModel,
    _fusion_scores,
    _pad_batch,
    _pairwise_fusion,
    _released_name,
)
from erc.models.shift import shift_gate
from erc.nn.cells import weighted_nll
from erc.nn.recurrences import PastAttention, RunningAttention, party_states
from erc.report.artefacts import reference
from erc.runs.recipes import find_system, load_recipe
from erc.runs.run import run_system
from erc.training.bench import _operations, _toy_dialogues
from erc.training.engine import Single, Stack, Steps
from erc.training.settings import complete, criterion

T = torch.from_numpy
SIZES = {'text': 6, 'audio': 5, 'visual': 4, 'sentence': 7, 'previous': 7}


def of(g, prefix):
    return {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}


def golden_batch(g):
    "Pack the (T, B, .) inputs of a golden file."
    names = {
        'text': 'text',
        'audio': 'audio',
        'visual': 'video',
        'sentence': 'sbert_cur',
        'previous': 'sbert_prev',
    }
    features = {k: T(g[f'in.{v}']).transpose(0, 1) for k, v in names.items()}
    targets = {'emotion': T(g['in.label']), 'shift': T(g['in.shift_label'])}
    return from_padded(features, T(g['in.qmask']).argmax(-1).T, g['in.lengths'], targets)


def released(g, prefix='param.', **options):
    model = GRUArcModel.from_released(of(g, prefix), **options)
    model.shift_weights = T(g['in.shift_class_weight'])
    return model


def toy(lengths=(5, 3, 1, 4), speakers=2):
    batch = toy_batch(SIZES, lengths, classes=4, speakers=speakers)
    g = torch.Generator().manual_seed(1)
    batch.targets['shift'] = torch.randint(0, 2, (len(batch),), generator=g)
    return batch


def make_model(sizes=SIZES, **options):
    torch.manual_seed(3)
    return GRUArcModel(sizes, 4, party=5, context=6, emotion=4, hidden=3, **options).double()


# the authors' numbers


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
    if m is None:
        past = RunningAttention(w[None])
    else:
        earlier = [torch.zeros_like(history[:1])] * len(history)
        past = PastAttention([*earlier, (m @ w.T)[None]], chunk)
    for c in history:
        past.attend()
        past.add(c[None])
    x = past.attend()[0]
    close(x, g['out.x'])
    (x * T(g['in.cotangent'])).sum().backward()
    close(history.grad, g['grad_in.history'])
    if m is not None:
        close(m.grad, g['grad_in.m_t'])
    close(w.grad, next(v for k, v in g.items() if k.startswith('grad.')))


@pytest.mark.parametrize('name', ['text', 'audio'])
def test_modality_net(golden, name):
    g = golden(f'shapes/modality_net_{name}_2party')
    sizes = g['in.m'].shape[-1], g['in.context'].shape[-1]
    net = _ModalityNet(*sizes, 5, 6, 4, 'query_free').double()
    net.load_state_dict({_released_name(k): T(v) for k, v in of(g, 'param.').items()})
    given = {k: T(g[f'in.{k}']).requires_grad_() for k in ('m', 'context')}
    features = {k: v.transpose(0, 1) for k, v in given.items()}
    b = from_padded(features, T(g['in.speaker']).T, g['in.lengths'], {'p': T(g['in.p_shift']).T})
    s, c = party_states([net], [b.features['m']], [b.features['context']], b, 'before')
    e = emotion_arcs([net], s, b.targets['p'], b)
    real = g['in.umask'] > 0
    close(b.to_padded(e[0])[T(real)], g['truth.e'].transpose(1, 0, 2)[real])
    close(b.to_padded(c[0])[T(real)], g['truth.c'].transpose(1, 0, 2)[real])
    (b.to_padded(e[0]) * T(g['in.cotangent']).transpose(0, 1)).sum().backward()
    for k, v in given.items():
        close(v.grad, g[f'grad_in.{k}'])
    theirs = {_released_name(k): v for k, v in of(g, 'grad.').items()}
    for k, v in net.named_parameters():
        close(v.grad, theirs[k])


def test_equations_as_printed(golden):
    "Eq. 1 to 3, 5, 6, 10 and 11 as the paper prints them, computed by a loop of their own."
    g = golden('shapes/paper_equations_modality_net_own_oracle')
    p = of(g, 'param.')
    state = {
        f'{ours}.{k}': T(p[f'{theirs}.{k}'])
        for ours, theirs in (('g_cell', 'GRU_c'), ('p_cell', 'GRU_s'))
        for k in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')
    }
    state['attention.weight'] = T(p['W_alpha'].T.copy())
    state['e_cell.w_hi.weight'] = T(p['GRU_arc.W'])
    state['e_cell.u_hh.weight'] = T(p['GRU_arc.U'])
    net = _ModalityNet(7, 7, 5, 6, 4, 'eq5', bias=False).double()
    net.load_state_dict(state)
    features, targets = {'m': T(g['in.m']).transpose(0, 1)}, {'p': T(g['in.p_shift']).T}
    b = from_padded(features, T(g['in.speaker']).T, g['in.lengths'], targets)
    m, real = b.features['m'], g['in.umask'] > 0
    s, c = party_states([net], [m], [m], b, 'updated')
    e = emotion_arcs([net], s, b.targets['p'], b)
    for ours, k in ((e, 'e'), (c, 'c'), (s, 's')):
        close(b.to_padded(ours[0])[T(real)], g[f'truth.{k}'].transpose(1, 0, 2)[real])


@pytest.mark.parametrize('padding', ['truth', 'out_padded'])
def test_fusion(golden, padding):
    "Pairs, what the output layer reads, its log-probabilities and all gradients."
    g = golden('shapes/pairwise_fusion')
    given = {k: T(g[f'in.hidden_{k}']).requires_grad_() for k in 'tav'}
    out = torch.nn.Linear(54, 4).double()
    out.load_state_dict({k: T(v) for k, v in of(g, 'param.smax_fc.').items()})
    h, real = {k: v.transpose(0, 1) for k, v in given.items()}, T(g['in.umask']) > 0
    mask = real if padding == 'truth' else None
    # the authors' names of pairs, and the modalities that they are made of
    named = {'at': 'ta', 'va': 'va', 'tv': 'tv'}
    pairs = {name: _pairwise_fusion(h[x], h[y], mask) for name, (x, y) in named.items()}
    z = torch.cat([*pairs.values(), *h.values()], -1)
    log_prob = out(z).log_softmax(-1)
    for name, ours in {**pairs, 'z': z, 'log_prob': log_prob}.items():
        close(ours[real], g[f'{padding}.{name}'].transpose(1, 0, 2)[real.numpy()])
    loss = (log_prob * T(g['in.cotangent']).transpose(0, 1))[real].sum()
    close(loss, g[f'{padding}.loss'])
    loss.backward()
    theirs = of(g, 'grad_truth.' if padding == 'truth' else 'grad_padded.')
    ours = {f'hidden_{k}': v.grad for k, v in given.items()}
    ours |= {'smax_fc.weight': out.weight.grad, 'smax_fc.bias': out.bias.grad}
    assert set(theirs) == set(ours)
    for k, v in ours.items():
        close(v, theirs[k])


def test_scores_of_blocks_are_those_of_the_output_layer(golden):
    "What the model computes block by block instead of building z."
    g = golden('shapes/pairwise_fusion')
    features = {k: T(g[f'in.hidden_{k}']).transpose(0, 1) for k in 'tav'}
    b = from_padded(features, torch.zeros(3, 5), g['in.lengths'])
    out = torch.nn.Linear(54, 4).double()
    out.load_state_dict({k: T(v) for k, v in of(g, 'param.smax_fc.').items()})
    h, pairs = torch.stack([b.features[k] for k in 'tav']), [(0, 1), (2, 1), (0, 2)]
    log_prob = b.to_padded(_fusion_scores(h, pairs, b, out).log_softmax(-1))
    real = g['in.umask'] > 0
    close(log_prob[T(real)], g['truth.log_prob'].transpose(1, 0, 2)[real])


@pytest.mark.parametrize(
    'name', ['full_model_4class_2party', 'full_model_6class_2party', 'full_model_dropout_probe']
)
@pytest.mark.parametrize('padding', ['masked', 'released'])
def test_full_model(golden, name, padding, monkeypatch):
    """Made with Exploration-Lab/Shapes-of-Emotion@f3ad768 in float64.

    Each dialogue alone, and the padded batch with its leak. In the probe every dropout of rate p
    is x (1 - p), there and here.
    """
    g = golden(f'shapes/{name}')
    if 'probe' in name:

        def mask(units, p, batch, place):
            return torch.full((len(batch), units), 1 - p, dtype=torch.float64)

        monkeypatch.setattr(gruarc, 'dropout', lambda x, p, *a, **k: x * (1 - p))
        monkeypatch.setattr(gruarc, 'dropout_mask', mask)
    b, m = golden_batch(g), released(g, padding=padding)
    at, grads = ('truth', 'grad_truth.') if padding == 'masked' else ('out_padded', 'grad_padded.')
    out, real = m(b), g['in.umask'] > 0
    log_prob = out.logits.log_softmax(-1)
    close(b.to_padded(log_prob)[T(real)], g[f'{at}.log_prob'].transpose(1, 0, 2)[real])
    loss = weighted_nll(log_prob, b.targets['emotion'], T(g['in.class_weight']))
    loss = loss + out.losses['shift']
    close(loss, g[f'{at}.loss'])
    close(out.losses['shift'], g[f'{at}.loss_shift'])
    loss.backward()
    theirs = {_released_name(k): v for k, v in of(g, grads).items()}
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
    """All weights after three steps.

    No gradient reaches the second direction; only the decay of the released optimiser moves it.
    """
    g, end = golden('shapes/train_3_steps_padded'), golden(f'shapes/{file}')
    b, m = golden_batch(g), released(g, 'param0.', padding=padding)
    start = {k: v.detach().clone() for k, v in m.named_parameters()}
    lr, decay = float(g['in.lr']), float(g['in.weight_decay'])
    optimiser, losses = torch.optim.Adam(m.parameters(), lr, weight_decay=decay), []
    for _ in range(3):
        optimiser.zero_grad()
        out = m(b)
        log_prob = out.logits.log_softmax(-1)
        loss = weighted_nll(log_prob, b.targets['emotion'], T(g['in.class_weight']))
        loss = loss + out.losses['shift']
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    close(np.array(losses), end['out.loss'])
    theirs = {_released_name(k): v for k, v in of(end, 'param3.').items()}
    assert set(theirs) == set(start)
    for k, v in m.named_parameters():
        if k.startswith('backward_nets'):
            close(start[k], theirs[k], 3 * lr * 1.001)
        else:
            close(v, theirs[k])


def test_released_weights_without_their_shift_head(golden):
    "The released code saves its model without the head, which then keeps its random start."
    g = golden('shapes/full_model_4class_2party')
    own = of(g, 'param.model.')
    with pytest.warns(UserWarning, match='no shift head'):
        m = GRUArcModel.from_released(own, sentence=8)
    assert m.shift.classifier.weight.shape == (2, 24) and m.shift.classifier.weight.abs().max() > 0
    for k, v in own.items():
        close(m.state_dict()[_released_name(k)], v)
    m.shift.load_state_dict({k: T(v) for k, v in of(g, 'param.shift.').items()})
    b, whole = golden_batch(g), released(g)
    close(m(b).logits, whole(b).logits.detach())
    with pytest.warns(UserWarning):
        as_wide_as_text = GRUArcModel.from_released(own)
    assert as_wide_as_text.shift.classifier.weight.shape == (2, 3 * 12)


def test_weights_of_another_model_are_named(golden):
    g = golden('shapes/full_model_4class_2party')
    own = of(g, 'param.')

    def without_names(word):
        return {k: v for k, v in own.items() if word not in k}

    with pytest.raises(ValueError, match='lacks forward_nets.text.g_cell.weight_hh; it has bert.x'):
        GRUArcModel.from_released({'bert.x': np.zeros(1)})
    with pytest.raises(ValueError, match='it has nothing'):
        GRUArcModel.from_released({})
    with pytest.raises(ValueError, match='lacks smax_fc.bias'):
        GRUArcModel.from_released(without_names('smax_fc.bias'))
    with pytest.raises(ValueError, match='lacks shift.classifier.bias'):
        GRUArcModel.from_released(without_names('classifier.bias'))
    with pytest.raises(ValueError, match='lacks backward_nets.text.g_cell.weight_ih'):
        GRUArcModel.from_released(without_names('net_r_'))
    with pytest.raises(ValueError, match='it also has siamese.w'):
        GRUArcModel.from_released({**own, 'siamese.w': np.zeros(1)})


def test_parameter_counts():
    "Counted from the official class; 5,578,803 is a three-class instance, which no corpus has."

    def count(m):
        return sum(p.numel() for k, p in m.named_parameters() if not k.startswith('shift'))

    def dead(m):
        second = sum(p.numel() for p in m.backward_nets.parameters())
        return second + m.linear.weight[:, m.emotion :].numel()

    mosei = dict(text=768, audio=384, visual=711, sentence=768, previous=768)
    iemocap = dict(text=768, audio=100, visual=512, sentence=768, previous=768)
    assert count(GRUArcModel(mosei, 3, preset='released_mosei')) == 5_578_803
    two = GRUArcModel(mosei, 2, preset='released_mosei')
    assert (dead(two), round(100 * dead(two) / count(two), 1)) == (2_786_600, 50.0)
    six, four = (GRUArcModel(iemocap, k, preset='released_iemocap') for k in (6, 4))
    assert [count(six), count(four)] == [5_149_506, 5_145_904]
    assert dead(six) == dead(four) == 2_569_250


def test_the_released_second_direction_is_zero():
    "Its nets, run: a gate that never shifts lets nothing in."
    m, b = make_model(preset='released_iemocap'), toy()
    e = m.backward_nets(b, torch.zeros(len(b), dtype=torch.float64))
    assert e.shape == (3, 13, 4) and e.abs().max() == 0
    woken = m.backward_nets(b, torch.full((len(b),), 0.1, dtype=torch.float64))
    assert woken.abs().max() > 0


# what must hold of any reading

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
FORWARD = [o for o in OPTIONS if o.get('direction') != 'repaired']
PREVIOUS = pytest.mark.parametrize('gone', [(), ('previous',)], ids=['previous', 'looked_up'])


def name(options):
    return '-'.join(map(str, options.values())) or 'paper'


def without(b, *names):
    return dataclasses.replace(b, features={k: v for k, v in b.features.items() if k not in names})


def gradients(total, tensors):
    found = torch.autograd.grad(total, tensors, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(tensors, found)]


@pytest.mark.parametrize('options', OPTIONS + MIXED, ids=name)
def test_model_is_what_one_would_write_down(options):
    "Scores, shift loss and all gradients, of weights and of inputs, beside a loop over turns."
    b, m = without(toy((6, 4, 1, 3), speakers=3), 'previous'), make_model(**options)
    given = {k: v.requires_grad_() for k, v in b.features.items() if k in (*m.modalities, *m.head)}
    tensors = [*m.parameters(), *given.values()]
    g = torch.Generator().manual_seed(1)
    cotangent = torch.randn(len(b), 4, generator=g, dtype=torch.float64)
    out = m(b)
    ours = gradients((out.logits * cotangent).sum() + out.losses.get('shift', 0), tensors)
    total, losses = torch.zeros(()), []
    for rows in b.where():
        r = rows[rows < len(b)]
        scores, pairs = dialogue(m, {k: v[r] for k, v in given.items()}, b.speakers[r].tolist())
        close(out.logits[r], scores.detach())
        total = total + (scores * cotangent[r]).sum()
        if pairs is not None:
            own = -pairs[torch.arange(len(r)), b.targets['shift'][r]]
            losses.append(own[0 if m.options['first'] == 'released' else 1 :])
    assert len(losses) == 4 * (m.shift is not None)
    if losses:
        shift_loss = torch.cat(losses).mean()
        close(out.losses['shift'], shift_loss.detach())
        total = total + shift_loss
    theirs = gradients(total, tensors)
    assert any(g.abs().max() > 1e-3 for g in theirs)
    for x, y in zip(ours, theirs):
        close(x, y)


def alone(b, d, n):
    "Return the first n turns of one dialogue."
    features = {k: b.to_padded(v)[d : d + 1, :n] for k, v in b.features.items()}
    return from_padded(features, b.to_padded(b.speakers)[d : d + 1, :n], [n])


@PREVIOUS
@pytest.mark.parametrize('options', OPTIONS + MIXED[:-1], ids=name)
def test_a_dialogue_does_not_see_its_neighbours(options, gone):
    b, m = without(toy(), *gone), make_model(**options)
    together = b.to_padded(m(b).logits)
    for d, n in enumerate(b.lengths.tolist()):
        one = alone(b, d, n)
        close(one.to_padded(m(one).logits)[0], together[d, :n].detach(), 1e-12)


def later(b, t):
    "Change every turn from t on."
    features = {k: torch.where((b.turn >= t)[:, None], v + 1, v) for k, v in b.features.items()}
    return dataclasses.replace(b, features=features)


@PREVIOUS
@pytest.mark.parametrize('options', FORWARD, ids=name)
def test_states_do_not_see_the_future(options, gone):
    "The recurrences only look back; the pairwise fusion looks both ways by construction."
    b, m = without(toy((5,)), *gone), make_model(**options)

    def states(b):
        p = torch.ones(len(b), dtype=torch.float64)
        if m.shift is not None:
            p, _ = shift_gate(m.shift, b, m.head, m.options['first'])
        return m.emotion_states(b, p)

    before = states(b)
    for t in range(1, 5):
        after = states(later(b, t))
        close(after[:, :t], before[:, :t].detach(), 1e-12)
        assert (after[:, t] - before[:, t]).abs().max() > 1e-9


@PREVIOUS
@pytest.mark.parametrize('options', FORWARD, ids=name)
def test_predictions_of_one_modality_do_not_see_the_future(options, gone):
    sizes = {k: v for k, v in SIZES.items() if k not in ('audio', 'visual')}
    b, m = without(toy((5, 3)), *gone), make_model(sizes, **options)
    before = m(b).logits
    for t in range(1, 5):
        after = m(later(b, t)).logits
        close(after[b.turn < t], before[b.turn < t].detach(), 1e-12)
        assert (after[b.turn == t] - before[b.turn == t]).abs().max() > 1e-9


@pytest.mark.parametrize('some', [('text', 'audio'), ('text', 'audio', 'visual')])
def test_predictions_of_several_modalities_see_later_turns(some):
    "The fusion attends over the whole conversation."
    sizes = {k: v for k, v in SIZES.items() if k in (*some, 'sentence', 'previous')}
    b, m = toy((5,)), make_model(sizes)
    assert (m(later(b, 4)).logits - m(b).logits)[b.turn < 4].abs().max() > 1e-6


@pytest.mark.parametrize('options', PADDED, ids=name)
def test_released_padding_runs_in_all_readings(options):
    "A dialogue alone has no padding; beside a longer one its predictions change."
    b, leaky = toy(), make_model(**options)
    ours, wide = make_model(**{**options, 'padding': 'masked'}), _pad_batch(b)
    out = leaky(b)
    (out.logits.sum() + sum(out.losses.values())).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in leaky.parameters())
    assert ('shift' in out.losses) == (leaky.shift is not None)
    half = torch.tensor(0.5, dtype=torch.float64)
    e_wide, e = (m.emotion_states(x, half.expand(len(x))) for m, x in ((leaky, wide), (ours, b)))
    close(wide.to_padded(e_wide[0])[b.dialogue, b.turn], e[0].detach(), 1e-12)
    behind = e_wide[:, wide.targets['padding'], 4:]
    assert behind.abs().sum() == 0, 'the released code fills the end of reversed dialogues with 0'
    one = alone(b, 1, 3)
    close(leaky(one).logits, ours(one).logits.detach(), 1e-12)
    assert (b.to_padded(leaky(b).logits)[1, :3] - ours(one).logits).abs().max() > 1e-6


def test_repaired_direction_is_the_forward_one_run_backwards():
    "With the same weights, a reversed dialogue with the gate of the next pair."
    b, m = toy((4,)), make_model(direction='repaired')
    m.backward_nets.load_state_dict(m.forward_nets.state_dict())
    p = torch.tensor([1.0, 0.3, 0.6, 0.9], dtype=torch.float64)
    e = m.emotion_states(b, p)
    features = {k: v.flip(0) for k, v in b.features.items()}
    flipped = dataclasses.replace(b, features=features, speakers=b.speakers.flip(0))
    gate = torch.tensor([1.0, 0.9, 0.6, 0.3], dtype=torch.float64)
    close(e[..., 4:], m.forward_nets(flipped, gate).flip(1).detach(), 1e-12)


@pytest.mark.parametrize('options', OPTIONS + PADDED, ids=name)
def test_seeds_stack(options):
    "vmap over seeds equals the plain module, dropout included."
    b, loss = toy(), criterion('emotion')

    def make():
        return GRUArcModel(SIZES, 4, party=5, context=6, emotion=4, hidden=3, **options)

    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    ours, alone = stack.loss(b, torch.tensor(2), loss), single.loss(b, torch.tensor(2), loss)
    assert abs(ours[1] - alone[0]) < 1e-12
    ours.sum().backward()
    alone.sum().backward()
    for k, v in single.model.named_parameters():
        if v.grad is not None:
            close(stack.params[k].grad[1], v.grad, 1e-12)


@pytest.mark.parametrize('some', [('text',), ('text', 'audio'), ('audio', 'visual')])
def test_fewer_modalities(some):
    m = make_model({k: v for k, v in SIZES.items() if k in (*some, 'sentence', 'previous')})
    assert m(toy()).logits.shape == (13, 4) and len(m.pairs) == (len(some) > 1)


def test_speakers_beyond_two_and_one_turn_dialogues():
    assert make_model()(toy((1, 1), speakers=1)).logits.shape == (2, 4)
    assert make_model()(toy((9,), speakers=5)).logits.isfinite().all()


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="unknown context_order 'befor'; did you mean 'before'"):
        make_model(context_order='befor')
    with pytest.raises(ValueError, match="unknown option 'gates'; did you mean 'gate'"):
        make_model(gates='gru')
    with pytest.raises(ValueError, match='unknown preset'):
        make_model(preset='mine')
    with pytest.raises(ValueError, match="needs feature 'text'; it was given audio"):
        GRUArcModel({'audio': 3, 'sentence': 4, 'previous': 4}, 2, context_input='text')
    with pytest.raises(ValueError, match="unknown feature of the shift network 'sentence'"):
        GRUArcModel({'text': 3}, 2)
    assert GRUArcModel({'text': 3}, 2, gate='gru').shift is None


def test_what_a_batch_lacks_is_named():
    with pytest.raises(ValueError, match="unknown feature of the batch 'audio'"):
        make_model()(without(toy(), 'audio'))
    with pytest.raises(ValueError, match="unknown feature of the batch 'sentence'"):
        make_model()(without(toy(), 'sentence'))
    with pytest.raises(ValueError, match="'previous' has 7 columns, sentence . audio 12"):
        make_model(head=['sentence', 'audio'])(toy())


def test_the_turn_before_is_looked_up_only_where_the_batch_lacks_it(monkeypatch):
    looked_up, real = [], shift.previous_turn
    monkeypatch.setattr(shift, 'previous_turn', lambda b, x: looked_up.append(x) or real(b, x))
    make_model()(toy())
    assert not looked_up
    make_model()(without(toy(), 'previous'))
    assert len(looked_up) == 1


def test_scores_do_not_depend_on_the_blocks():
    m, b = make_model(), toy(lengths=tuple(range(1, 20)))
    whole = m(b).logits
    for most in (1, 4, 100):
        b.blocks = lambda most=most: Batch.blocks(b, most)
        close(m(b).logits, whole.detach(), 1e-12)


def test_the_printed_equations_have_no_biases_and_the_released_code_has():
    assert make_model().forward_nets['text'].e_cell.w_hi.bias is None
    assert make_model(preset='released_iemocap').forward_nets['text'].e_cell.w_hi.bias is not None


def test_a_shift_network_that_reads_other_modalities():
    narrow, wide = make_model(), make_model(head=['sentence', 'audio', 'visual'])
    assert wide.shift.classifier.weight.shape[1] == 3 * (7 + 5 + 4)
    assert narrow.shift.classifier.weight.shape[1] == 3 * 7
    b = without(toy(), 'previous')
    louder = dataclasses.replace(b, features={**b.features, 'audio': b.features['audio'] + 1})

    def hears(m):
        return not torch.equal(m(b).probes['p_shift'], m(louder).probes['p_shift'])

    assert hears(wide) and not hears(narrow)


@pytest.mark.parametrize('structure', ['multilogue9', 'mmgcn9'])
def test_a_converted_pickle_with_three_modalities_runs(tmp_path, monkeypatch, structure):
    "What rows without data would take: a converted pickle under a recipe's system, run to a record."
    from test_families import KINDS, family

    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(family(structure, KINDS[structure]), protocol=4))
    classes = 'sentiment' if structure == 'multilogue9' else 'iemocap6'
    folder = tmp_path / 'data' / 'fetched'
    convert(tmp_path / 'x.pkl', folder, name='fetched', classes=classes)
    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'data'))
    system = dataclasses.replace(find_system('shapes/gruarc_mosi'), encoder='hashing')
    record = run_system(
        system,
        system.key('paper', 'fetched'),
        seeds=[0, 1],
        home=tmp_path,
        demo={'epochs': 1, 'class_weights': 'none'},
        progress=False,
    )
    assert record.key.corpus == 'fetched' and len(record.test) == 2
    assert record.task == ('sentiment' if structure == 'multilogue9' else 'emotion')
    assert 'shift_network' in record.confusions


# tables and work


def printed_cells(spec):
    "Return (row, column) of every reference number that a table draws."
    for row in spec.rows:
        for column in spec.columns if row.printed else []:
            at = row.printed_as.get(column.name, column.printed)
            if isinstance(at, dict):
                yield at.get('row', row.row), at['column']
            elif at:
                yield row.row, at


def test_every_printed_number_of_its_tables_is_drawn():
    "Numbers that the paper prints of other systems are drawn too."
    recipe, numbers = load_recipe('shapes'), reference('shapes')
    for table in (f'table{i}' for i in range(2, 13)):
        own = numbers[numbers.artefact == table]
        drawn = set(printed_cells(recipe.artefacts[table]))
        assert drawn == {(x.row, x.column) for x in own.itertuples()}, table


class Work(TorchDispatchMode):
    "Count operations, and the numbers that they write; views write none."

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
    """Count what a step does beside its products; its time would say more of the machine.

    IEMOCAP's shapes: 108 dialogues, 5361 turns, longest 110; 768/100/512. `erc bench training`
    times it.
    """
    sizes = dict(text=768, audio=100, visual=512, sentence=768)
    batch = _toy_dialogues(sizes, 'emotion', (108, 5361, 110), 6)

    def make():
        return GRUArcModel(sizes, 6, preset=preset)

    steps = Steps(Single(make, [0]), [batch], criterion('emotion'), complete({'clip': 1.0}))
    steps(0, 0)
    with Work() as work:
        steps(0, 1)
    assert work.operations <= 220 * 110, 'a time step takes more operations'
    most = _operations(make, batch, 'emotion') / 70
    assert work.numbers <= most, 'more is written for the same products'
