"The whole model against the authors' numbers, and what must hold of any model of conversations."
import dataclasses
import pickle

import numpy as np
import pytest
import torch

import erc.gruarc as G
from erc.batches import Batch, from_padded, make_batches
from erc.cells import weighted_nll
from erc.corpora import convert
from erc.dialoguernn import PastAttention, RunningAttention, party_states
from erc.experiments import batches_of, prepare, run_system, system
from erc.gruarc import GRUArcCell, GRUArcModel, ModalityNet, emotion_arcs, pairwise_fusion
from erc.training import Single, Stack, criterion

T = torch.from_numpy
SIZES = {'text': 6, 'audio': 5, 'visual': 4, 'sentence': 7, 'previous': 7}


def close(a, b, eps=1e-9): assert np.abs(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a)-np.asarray(b)).max() < eps
def of(g, prefix): return {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}


def golden_batch(g):
    "The (T, B, .) inputs of a golden file, packed."
    first = lambda k: T(g[f'in.{k}']).transpose(0, 1)
    names = {'text': 'text', 'audio': 'audio', 'visual': 'video', 'sentence': 'sbert_cur', 'previous': 'sbert_prev'}
    return from_padded({k: first(v) for k, v in names.items()}, T(g['in.qmask']).argmax(-1).T, g['in.lengths'], {'emotion': T(g['in.label']), 'shift': T(g['in.shift_label'])})


def released(g, prefix='param.', **options):
    model = GRUArcModel.from_released(of(g, prefix), **options)
    model.shift_weights = T(g['in.shift_class_weight'])
    return model


def toy(lengths=(5, 3, 1, 4), seed=0, speakers=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(lengths)
    x = {k: torch.randn(B, L, d, generator=g, dtype=dtype) for k, d in SIZES.items()}
    return from_padded(x, torch.randint(0, speakers, (B, L), generator=g), lengths, {'emotion': torch.randint(0, 4, (B, L), generator=g), 'shift': torch.randint(0, 2, (B, L), generator=g)})


def model(**options):
    torch.manual_seed(3)
    return GRUArcModel(SIZES, 4, party=5, context=6, emotion=4, hidden=3, **options).double()


# ---- the authors' numbers ---------------------------------------------------------------------------------

def test_cell(golden):
    g = golden('shapes/gruarc_cell')
    cell = GRUArcCell(5, 4).double()
    cell.load_state_dict({k: T(v) for k, v in of(g, 'param.').items()})
    s, e = T(g['in.s']).requires_grad_(), T(g['in.e_prev']).requires_grad_()
    out = cell(s, e, T(g['in.p_shift']))
    close(out, g['out.e']); close(cell(s, e, T(g['in.p_shift'])[:, 0]), g['out.e'])
    (out*T(g['in.cotangent'])).sum().backward()
    close(s.grad, g['grad_in.s']); close(e.grad, g['grad_in.e_prev'])
    for k, v in cell.named_parameters(): close(v.grad, g[f'grad.{k}'])


@pytest.mark.parametrize('name', ['simple_attention', 'general_attention_eq5'])
@pytest.mark.parametrize('chunk', [1, 2, 100])
def test_attention(golden, name, chunk):
    g = golden(f'shapes/{name}')
    history = T(g['in.history']).requires_grad_()                    # (t, B, H)
    w = T(next(v for k, v in g.items() if k.startswith('param.'))).requires_grad_()
    asked = [torch.zeros_like(history[:1])]*len(history)
    past = RunningAttention(w[None]) if name == 'simple_attention' else PastAttention([*asked, (T(g['in.m_t'])@w.T)[None]], chunk)
    for c in history:
        past.look()
        past.add(c[None])
    x = past.look()[0]
    close(x, g['out.x'])
    (x*T(g['in.cotangent'])).sum().backward()
    close(history.grad, g['grad_in.history'])
    close(w.grad, next(v for k, v in g.items() if k.startswith('grad.')))


@pytest.mark.parametrize('name', ['text', 'audio'])
def test_modality_net(golden, name):
    g = golden(f'shapes/modality_net_{name}_2party')
    p = {G.released_name(k): T(v) for k, v in of(g, 'param.').items()}
    net = ModalityNet(g['in.m'].shape[-1], g['in.context'].shape[-1], 5, 6, 4, 'query_free').double()
    net.load_state_dict(p)
    b = from_padded({k: T(g[f'in.{k}']).transpose(0, 1).requires_grad_() for k in ('m', 'context')}, T(g['in.speaker']).T, g['in.lengths'], {'p': T(g['in.p_shift']).T})
    m, context = b.features['m'], b.features['context']
    s, c = party_states([net], [m], [context], b, 'before')
    e = emotion_arcs([net], s, b.targets['p'], b)
    real = g['in.umask'] > 0
    close(b.to_padded(e[0])[T(real)], g['truth.e'].transpose(1, 0, 2)[real]); close(b.to_padded(c[0])[T(real)], g['truth.c'].transpose(1, 0, 2)[real])
    (b.to_padded(e[0])*T(g['in.cotangent']).transpose(0, 1)).sum().backward()
    for k, v in net.named_parameters(): close(v.grad, next(r for q, r in of(g, 'grad.').items() if G.released_name(q) == k))


def test_equations_as_printed(golden):
    "Eq. 1 to 3, 5, 6, 10 and 11 as the paper prints them, from a loop of their own."
    g = golden('shapes/paper_equations_modality_net_own_oracle')
    p = of(g, 'param.')
    net = ModalityNet(7, 7, 5, 6, 4, 'eq5', bias=False).double()
    gru = lambda short, long: {f'{short}.{k}': T(p[f'{long}.{k}']) for k in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')}
    net.load_state_dict({**gru('g_cell', 'GRU_c'), **gru('p_cell', 'GRU_s'), 'attention.weight': T(p['W_alpha'].T.copy()),
                         'e_cell.w_hi.weight': T(p['GRU_arc.W']), 'e_cell.u_hh.weight': T(p['GRU_arc.U'])})
    b = from_padded({'m': T(g['in.m']).transpose(0, 1)}, T(g['in.speaker']).T, g['in.lengths'], {'p': T(g['in.p_shift']).T})
    m, real = b.features['m'], g['in.umask'] > 0
    s, c = party_states([net], [m], [m], b, 'updated')
    e = emotion_arcs([net], s, b.targets['p'], b)
    for ours, k in ((e, 'e'), (c, 'c'), (s, 's')): close(b.to_padded(ours[0])[T(real)], g[f'truth.{k}'].transpose(1, 0, 2)[real])


@pytest.mark.parametrize('padding', ['truth', 'out_padded'])
def test_fusion(golden, padding):
    g = golden('shapes/pairwise_fusion')
    h = {k: T(g[f'in.hidden_{k}']).transpose(0, 1) for k in 'tav'}
    real = T(g['in.umask']) > 0
    for k, (a, b) in {'at': 'ta', 'va': 'va', 'tv': 'tv'}.items():
        ours = pairwise_fusion(h[a], h[b], real if padding == 'truth' else None)
        close(ours[real], g[f'{padding}.{k}'].transpose(1, 0, 2)[real.numpy()])


@pytest.mark.parametrize('name', ['full_model_4class_2party', 'full_model_6class_2party'])
@pytest.mark.parametrize('padding', ['masked', 'released'])
def test_full_model(golden, name, padding):
    "Made with Exploration-Lab/Shapes-of-Emotion@f3ad768 in float64; each dialogue alone, and the padded batch with its leak."
    g = golden(f'shapes/{name}')
    b, m, at = golden_batch(g), released(g, padding=padding), 'truth' if padding == 'masked' else 'out_padded'
    out, real = m(b), g['in.umask'] > 0
    lp = out.logits.log_softmax(-1)
    close(b.to_padded(lp)[T(real)], g[f'{at}.log_prob'].transpose(1, 0, 2)[real])
    loss = weighted_nll(lp, b.targets['emotion'], T(g['in.class_weight']))+out.losses['shift']
    close(loss, g[f'{at}.loss']); close(out.losses['shift'], g[f'{at}.loss_shift'])
    loss.backward()
    theirs = {G.released_name(k): v for k, v in of(g, 'grad_truth.' if padding == 'masked' else 'grad_padded.').items()}
    assert set(theirs) == {k for k, _ in m.named_parameters()}
    for k, v in m.named_parameters():
        if k.startswith('backward_nets'): assert v.grad is None and np.abs(theirs[k]).max() == 0, 'the second direction is dead'
        else: close(v.grad, theirs[k])


def test_dropout_sits_where_the_authors_have_it(golden, monkeypatch):
    "Every dropout of rate p replaced by x (1 - p), here and there."
    g = golden('shapes/full_model_dropout_probe')
    monkeypatch.setattr(G, 'dropout', lambda x, p, *a, **k: x*(1-p))
    monkeypatch.setattr(G, 'dropout_mask', lambda units, p, batch, place: torch.full((len(batch), units), 1-p, dtype=torch.float64))
    b, m, real = golden_batch(g), released(g), g['in.umask'] > 0
    out = m(b)
    close(b.to_padded(out.logits.log_softmax(-1))[T(real)], g['truth.log_prob'].transpose(1, 0, 2)[real])


@pytest.mark.parametrize('padding,file', [('masked', 'train_3_steps_truth'), ('released', 'train_3_steps_padded')])
def test_three_adam_steps(golden, padding, file):
    g, end = golden('shapes/train_3_steps_padded'), golden(f'shapes/{file}')
    b, m = golden_batch(g), released(g, 'param0.', padding=padding)
    opt, losses = torch.optim.Adam(m.parameters(), float(g['in.lr']), weight_decay=float(g['in.weight_decay'])), []
    for _ in range(3):
        opt.zero_grad()
        out = m(b)
        loss = weighted_nll(out.logits.log_softmax(-1), b.targets['emotion'], T(g['in.class_weight']))+out.losses['shift']
        loss.backward(); opt.step(); losses.append(loss.item())
    close(np.array(losses), end['out.loss'])
    theirs = {G.released_name(k): v for k, v in of(end, 'param3.').items()}
    for k, v in m.named_parameters():
        if k in theirs and not k.startswith('backward_nets'): close(v, theirs[k])


def test_parameter_counts():
    "Counted from the official class; 5,578,803 is a three-class instance, which no corpus of the paper has."
    count = lambda m: sum(p.numel() for k, p in m.named_parameters() if not k.startswith('shift'))
    mosei = dict(text=768, audio=384, visual=711, sentence=768, previous=768)
    iemocap = dict(text=768, audio=100, visual=512, sentence=768, previous=768)
    assert count(GRUArcModel(mosei, 3, preset='released_mosei')) == 5_578_803
    assert [count(GRUArcModel(iemocap, k, preset='released_iemocap')) for k in (6, 4)] == [5_149_506, 5_145_904]


# ---- what must hold of any of them ------------------------------------------------------------------------

OPTIONS = [{}, dict(preset='released_iemocap'), dict(preset='without_shift'), dict(direction='repaired'), dict(attention='query_free'), dict(context_order='before'),
           dict(context_input='text'), dict(first='released'), dict(bias="released")]
name = lambda o: '-'.join(map(str, o.values())) or 'paper'


@pytest.mark.parametrize('o', OPTIONS, ids=name)
def test_a_dialogue_does_not_see_its_neighbours(o):
    b, m = toy(), model(**o)
    together = b.to_padded(m(b).logits)
    for d, n in enumerate(b.lengths.tolist()):
        alone = from_padded({k: b.to_padded(v)[d:d+1, :n] for k, v in b.features.items()}, b.to_padded(b.speakers)[d:d+1, :n], [n])
        close(alone.to_padded(m(alone).logits)[0], together[d, :n].detach(), 1e-12)


@pytest.mark.parametrize('o', [o for o in OPTIONS if o.get('direction') != 'repaired'], ids=name)
def test_states_do_not_see_the_future(o):
    "The recurrences; the pairwise fusion looks both ways by construction."
    b, m = toy((5,)), model(**o)
    run = lambda b: G.emotion_states(m, b, G.shift_gate(m, b)[0])
    before = run(b)
    for t in range(1, 5):
        later = dataclasses.replace(b, features={k: torch.where((b.turn >= t)[:, None], v+1, v) for k, v in b.features.items()})
        after = run(later)
        close(after[:, :t], before[:, :t].detach(), 1e-12)
        assert (after[:, t]-before[:, t]).abs().max() > 1e-9


def test_released_padding_leaks_and_ours_does_not():
    b, released_padding = toy(), model(preset='released_iemocap', padding='released')
    alone = from_padded({k: b.to_padded(v)[1:2, :3] for k, v in b.features.items()}, b.to_padded(b.speakers)[1:2, :3], [3])
    assert (b.to_padded(released_padding(b).logits)[1, :3]-alone.to_padded(released_padding(alone).logits)[0]).abs().max() > 1e-6


def test_repaired_direction_is_the_forward_one_run_backwards():
    "With the same weights, a reversed dialogue with the gate of the next pair."
    b, m = toy((4,)), model(direction='repaired')
    m.backward_nets.load_state_dict(m.forward_nets.state_dict())
    p = torch.tensor([1., .3, .6, .9], dtype=torch.float64)
    e = G.emotion_states(m, b, p)
    flipped = dataclasses.replace(b, features={k: v.flip(0) for k, v in b.features.items()}, speakers=b.speakers.flip(0))
    again = G.run_nets(m, list(m.forward_nets.values()), flipped, torch.tensor([1., .9, .6, .3], dtype=torch.float64), 'x')
    close(e[..., 4:], again.flip(1).detach(), 1e-12)


@pytest.mark.parametrize('o', OPTIONS, ids=name)
def test_seeds_stack(o):
    "vmap over seeds equals the plain module, dropout included."
    b = toy()
    make = lambda: GRUArcModel(SIZES, 4, party=5, context=6, emotion=4, hidden=3, **o)
    loss = criterion('emotion')
    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    a, c = stack.loss(b, torch.tensor(2), loss), single.loss(b, torch.tensor(2), loss)
    assert abs(a[1]-c[0]) < 1e-12
    a.sum().backward(); c.sum().backward()
    for k, v in single.model.named_parameters():
        if v.grad is not None: close(stack.params[k].grad[1], v.grad, 1e-12)


@pytest.mark.parametrize('some', [('text',), ('text', 'audio'), ('audio', 'visual')])
def test_fewer_modalities(some):
    m = GRUArcModel({k: v for k, v in SIZES.items() if k in some or k in ('sentence', 'previous')}, 4, party=5, context=6, emotion=4, hidden=3).double()
    assert m(toy()).logits.shape == (13, 4) and len(m.pairs) == (len(some) > 1)


def test_speakers_beyond_two_and_one_turn_dialogues():
    assert model()(toy((1, 1), speakers=1)).logits.shape == (2, 4)
    assert model()(toy((9,), speakers=5)).logits.isfinite().all()


def test_bad_options():
    with pytest.raises(ValueError, match="unknown context_order 'befor'; did you mean 'before'"): model(context_order='befor')
    with pytest.raises(ValueError, match="unknown option 'gates'; did you mean 'gate'"): model(gates='gru')
    with pytest.raises(ValueError, match='unknown preset'): model(preset='mine')
    with pytest.raises(ValueError, match="needs 'text'; it was given audio"): GRUArcModel({'audio': 3, 'sentence': 4, 'previous': 4}, 2, context_input='text')


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
    assert wide.shift.classifier.weight.shape[1] == 3*(7+5+4) and narrow.shift.classifier.weight.shape[1] == 3*7
    b, other = toy(), toy()
    other.features['audio'] = other.features['audio']+1
    for b_ in (b, other): del b_.features['previous']
    p = lambda m, x: m(x).probes['p_shift']
    assert torch.equal(p(narrow, b), p(narrow, other)) and not torch.equal(p(wide, b), p(wide, other))


class Trained:
    "What `fit` gives, of models that were not trained."
    def __init__(self, *models): self.models = models
    def modules(self): yield from self.models


def demo_test(seed=0):
    s = dataclasses.replace(system('shapes/gruarc_released'), encoder='hashing')
    c, _ = prepare(s, 'demo')
    sizes = {f: c.features[f].shape[1] for f in s.features}
    made = []
    for k in (0, 1):
        torch.manual_seed(k)
        made.append(GRUArcModel(sizes, len(c.classes), preset='released_iemocap').eval())
    return c, [b.to(dtype=torch.float32) for b in batches_of(s, c, {'batch': 16})[2]], Trained(*made)


def test_decisions_of_the_shift_network_stand_in_corpus_order():
    c, test, fit = demo_test()
    t = c.table.iloc[c.rows('test')].reset_index(drop=True)
    y, decided = G.shift_decisions(fit, c, test)['shift_network']
    assert decided.shape == (2, len(t)) and (y[t.turn == 0] == -1).all() and (y[t.turn > 0] == t.inertia[t.turn > 0]).all()
    one = test[0]
    at = {int(i): k for k, i in enumerate(c.rows('test'))}
    p = fit.models[1](one).probes['p_shift']
    assert all(decided[1, at[int(i)]] == int(v <= .5) for i, v in zip(one.ids, p))


def test_leak_probe_counts_what_padding_changes():
    c, test, fit = demo_test()
    probe = G.leak_probe(fit, c, test)
    m = fit.models[0]
    assert m.options['padding'] == 'masked', 'the model is left as it was'
    a = torch.cat([m(b).logits for b in test]).detach()
    m.options = {**m.options, 'padding': 'released'}
    b = torch.cat([m(b).logits for b in test]).detach()
    assert np.isclose(probe['leak_changed_by_seed'][0], (a.argmax(-1) != b.argmax(-1)).float().mean())
    assert np.isclose(probe['leak_largest_by_seed'][0], (a.softmax(-1)-b.softmax(-1)).abs().max()) and probe['leak_largest_by_seed'][0] > 0
    alone = G.leak_probe(fit, c, batches_of_one(c))
    assert alone['leak_largest_by_seed'].max() < 1e-6, 'a dialogue alone has no padding'


def batches_of_one(c):
    cut = make_batches(c, 'test', size=1, features=['text', 'audio', 'sentence'], targets={'emotion': 'label'})
    return [b.to(dtype=torch.float32) for b in cut]


@pytest.mark.parametrize('structure', ['multilogue9', 'mmgcn9'])
def test_a_converted_pickle_with_three_modalities_runs(tmp_path, monkeypatch, structure):
    "What rows without data would take: the pickle of the family, converted, under a recipe's system, from training to record."
    from test_corpora import KINDS, family
    (tmp_path/'x.pkl').write_bytes(pickle.dumps(family(structure, KINDS[structure]), protocol=4))
    convert(tmp_path/'x.pkl', tmp_path/'data'/'fetched', name='fetched')
    monkeypatch.setenv('ERC_DATA', str(tmp_path/'data'))
    s = dataclasses.replace(system('shapes/gruarc_mosi'), encoder='hashing')
    rec = run_system(s, 'fetched', 'paper', seeds=[0, 1], home=tmp_path, demo={'epochs': 1, 'class_weights': 'none'}, progress=False)
    assert rec.corpus == 'fetched' and rec.task == ('sentiment' if structure == 'multilogue9' else 'emotion') and len(rec.test) == 2
    assert 'shift_network' in rec.confusions
