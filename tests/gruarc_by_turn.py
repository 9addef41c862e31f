"""GRUarc as one would write it down: one dialogue, one turn at a time, a dict of parties.

Slow on purpose; it takes nothing from the package but the weights.
"""

import torch
from torch import cat, stack


def gru(cell, x, h):
    weights = cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh
    return torch.gru_cell(x[None], h[None], *weights)[0]


def shift_network(model, u):  # (T, D) -> probability of a shift (T,), log-probabilities (T, 2)
    before = cat([torch.zeros_like(u[:1]), u[:-1]])
    scores = model.shift.classifier(cat([before, u, (before - u).abs()], 1))
    if model.options['reading'] == 'released':
        scores = scores[:, 1:] - scores[:, :1]
    inertia = scores.sigmoid()[:, 0]
    fresh = (torch.arange(len(u)) == 0) & (model.options['first'] == 'fresh')
    return torch.where(fresh, 1.0, 1 - inertia), stack([1 - inertia, inertia], 1).log()


def look_back(options, net, past, m):  # contexts before this turn, what it says -> (H,)
    if not past:
        return torch.zeros(net.g_cell.hidden_size, dtype=m.dtype)
    past, weight = stack(past), net.attention.weight
    query = weight @ m if options['attention'] == 'eq5' else weight[0]
    return (past @ query).softmax(0) @ past


def arc_step(options, cell, s, e, p):  # party state, emotion state, probability of a shift
    if options['gate'] == 'gru':
        return gru(cell, s, e)
    kept = (1 - p) * e
    return kept + p * (cell.w_hi(s) + cell.u_hh(kept)).tanh()


def arc(model, net, x, context, speakers, p):  # x, context (T, D) -> emotion states (T, H)
    options, party, past, states = model.options, {}, [], []
    c, e = context.new_zeros(net.g_cell.hidden_size), context.new_zeros(model.emotion)
    for t, name in enumerate(speakers):
        s = party.get(name, x.new_zeros(net.p_cell.hidden_size))
        if options['context_order'] == 'before':
            c = gru(net.g_cell, cat([context[t], s]), c)
        s = gru(net.p_cell, cat([x[t], look_back(options, net, past, x[t])]), s)
        if options['context_order'] == 'updated':
            c = gru(net.g_cell, cat([context[t], s]), c)
        party[name] = s
        past.append(c)
        e = arc_step(options, net.e_cell, s, e, p[t])
        states.append(e)
    return stack(states)


def both_directions(model, name, x, speakers, p):  # -> (T, H) or (T, 2H)
    context = x['text' if model.options['context_input'] == 'text' else name]
    e = arc(model, model.forward_nets[name], x[name], context, speakers, p)
    if model.options['direction'] == 'forward':
        return e
    gate = torch.zeros_like(p)
    if model.options['direction'] == 'repaired':
        gate = cat([p.new_ones(1), p[1:].flip(0)])
    net, x, context = model.backward_nets[name], x[name].flip(0), context.flip(0)
    return cat([e, arc(model, net, x, context, speakers[::-1], gate).flip(0)], 1)


def attend(a, b):
    return (a @ b.T).softmax(1) @ b * a


def dialogue(model, x, speakers):  # name -> (T, D), (T,) -> scores (T, C), pairs (T, 2) or None
    p, pairs = torch.ones(len(speakers), dtype=torch.float64), None
    if model.shift is not None:
        p, pairs = shift_network(model, cat([x[name] for name in model.head], 1))
    h = {
        name: model.linear(both_directions(model, name, x, speakers, p)).relu()
        for name in model.modalities
    }
    fused = [part for a, b in model.pairs for part in (attend(h[a], h[b]), attend(h[b], h[a]))]
    return model.smax_fc(cat([*fused, *h.values()], 1)), pairs
