"GRUarc as one would write it down: one dialogue, one turn at a time, a dict of parties, a growing list of contexts. Slow on purpose; nothing of ours but the weights."

import torch
from torch import cat, stack


def gru(c, x, h):
    return torch.gru_cell(x[None], h[None], c.weight_ih, c.weight_hh, c.bias_ih, c.bias_hh)[0]


def shift(
    m, u
):  # u (T, D) -> probability of a shift (T,), log-probabilities of shift and inertia (T, 2)
    before = cat([torch.zeros_like(u[:1]), u[:-1]])
    scores = m.shift.classifier(cat([before, u, (before - u).abs()], 1))
    inertia = (
        scores if m.options['reading'] == 'paper' else scores[:, 1:] - scores[:, :1]
    ).sigmoid()[:, 0]
    first = torch.arange(len(u)) == 0
    return torch.where(first & (m.options['first'] == 'fresh'), 1.0, 1 - inertia), stack(
        [1 - inertia, inertia], 1
    ).log()


def arc(m, net, x, context, who, p):  # x, context (T, D), who (T,), p (T,) -> emotion states (T, H)
    o, party, past, out = m.options, {}, [], []
    c, e = context.new_zeros(net.g_cell.hidden_size), context.new_zeros(m.emotion)
    for t, name in enumerate(who):
        s = party.get(name, x.new_zeros(net.p_cell.hidden_size))
        if o['context_order'] == 'before':
            c = gru(net.g_cell, cat([context[t], s]), c)
        seen, W = torch.zeros_like(c), net.attention.weight
        if past:
            seen = (stack(past) @ (W @ x[t] if o['attention'] == 'eq5' else W[0])).softmax(
                0
            ) @ stack(past)
        s = party[name] = gru(net.p_cell, cat([x[t], seen]), s)
        if o['context_order'] == 'updated':
            c = gru(net.g_cell, cat([context[t], s]), c)
        past.append(c)
        if o['gate'] == 'gru':
            e = gru(net.e_cell, s, e)
        else:
            e = (1 - p[t]) * e + p[t] * (
                net.e_cell.w_hi(s) + net.e_cell.u_hh((1 - p[t]) * e)
            ).tanh()
        out.append(e)
    return stack(out)


def dialogue(
    m, x, who
):  # features, name -> (T, D), and speakers (T,) -> scores (T, C), log-probabilities of the shift network or None
    o, h = m.options, {}
    p, pair = shift(m, cat([x[f] for f in m.head], 1)) if m.shift else (torch.ones(len(who)), None)
    following = {
        'released': torch.zeros_like(p),
        'repaired': cat([p.new_ones(1), p[1:].flip(0)]),
    }.get(o['direction'])
    for k in m.modalities:
        told = x['text' if o['context_input'] == 'text' else k]
        e = arc(m, m.forward_nets[k], x[k], told, who, p)
        if following is not None:
            e = cat(
                [
                    e,
                    arc(
                        m, m.backward_nets[k], x[k].flip(0), told.flip(0), who[::-1], following
                    ).flip(0),
                ],
                1,
            )
        h[k] = m.linear(e).relu()
    asks = lambda a, b: (a @ b.T).softmax(1) @ b * a
    z = cat(
        [part for a, b in m.pairs for part in (asks(h[a], h[b]), asks(h[b], h[a]))]
        + list(h.values()),
        1,
    )
    return m.smax_fc(z), pair
