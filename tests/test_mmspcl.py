"Fusions and pruning against numbers computed apart from them, and what the printed equations lack."

import dataclasses
import pickle

import numpy as np
import pytest
import torch

import erc.models.mmspcl as M
import erc.models.msve as V
from erc.nn.attention import Encoder, EncoderLayer, attend
from erc.data.batches import from_padded
from erc.data.families import convert
from erc.data.registry import load_corpus
from erc.runs.recipes import load_recipe, settings_of, system, wanted, wired
from erc.runs.run import replaced, run_system, toy_fingerprint
from erc.models.mmspcl import (
    Bottleneck,
    CrossModal,
    Fused,
    LinearProjection,
    bottleneck_step,
    fused_model,
    prune_heads,
)
from erc.runs.records import PROBE_LIMIT, find_record
from erc.report.artefacts import reference
from erc.report.tables import comparison, records_of
from erc.training.engine import Single, Stack
from erc.training.settings import criterion

T = torch.from_numpy
SIZES = {'text': 6, 'audio': 4, 'visual': 5}
SMALL = {'width': 8, 'heads': 2}
FUSIONS = [
    dict(fusion='linear'),
    dict(fusion='linear', prune=2),
    dict(fusion='cross', **SMALL),
    dict(fusion='cross', prune=4, **SMALL),
    dict(fusion='bottleneck', nodes=3, **SMALL),
    dict(fusion='bottleneck', nodes=2, start=0, update='mean', **SMALL),
    dict(fusion='bottleneck', nodes=2, start=4, update='printed', **SMALL),
]
Layer = lambda width=8, heads=2, ffn=32: EncoderLayer(
    width, heads, ffn, dropout=0.0, pre=True
).double()
name = lambda o: '-'.join(map(str, o.values()))


def close(a, b, eps=1e-9):
    assert (
        np.abs(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) - np.asarray(b)).max()
        < eps
    )


def toy(lengths=(5, 3, 1, 4), seed=0, dtype=torch.float64, sizes=SIZES):
    g = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(lengths)
    x = {k: torch.randn(B, L, d, generator=g, dtype=dtype) for k, d in sizes.items()}
    return from_padded(
        x, torch.zeros(B, L), lengths, {'emotion': torch.randint(0, 3, (B, L), generator=g)}
    )


def layer(g, prefix, heads):
    "A layer with the weights of the file."
    m = Layer(8, heads, len(g[f'{prefix}linear1_bias']))
    m.load_state_dict(
        {k: T(g[prefix + k.removeprefix('self_attn.').replace('.', '_')]) for k in m.state_dict()}
    )
    return m


# ---- golden numbers ---------------------------------------------------------------------------------------


def test_linear_projection(golden):
    g = golden('mmspcl/linear_projection')
    m = LinearProjection({'v': 5, 't': 6, 'a': 4}).double()  # in any order
    m.load_state_dict({'W.weight': T(g['W']), 'W.bias': T(g['b'])})
    close(m({k: T(g[k]) for k in 'vat'}), g['out'])


def test_pruning_by_hand(golden):
    g = golden('mmspcl/pruning')
    for case in ('hand', 'ragged', 'tie', 'zero'):
        base, other, K = T(g[f'{case}_base']), T(g[f'{case}_mod']), int(g[f'{case}_K'])
        got, kept = prune_heads(base, other, K)
        close(got, g[f'{case}_pruned'])
        if f'{case}_similarity' in g:
            close(M.similarities(base, other, K), g[f'{case}_similarity'])
        if f'{case}_pick' in g:
            assert M.similarities(base, other, K).argmax(-1).tolist() == g[f'{case}_pick'].tolist()
    close(prune_heads(T(g['hand_base']), T(g['hand_mod']), 2)[1], g['hand_keep'].mean())


@pytest.mark.parametrize('K', [4, 8, 16])
def test_pruning_of_a_batch(golden, K):
    g = golden('mmspcl/pruning')
    for m in ('audio', 'video'):
        base, other = T(g['batch_text']), T(g[f'batch_{m}'])
        close(prune_heads(base, other, K)[0], g[f'batch_{m}_pruned_K{K}'])
        assert (
            M.similarities(base, other, K).argmax(-1).numpy() == g[f'batch_{m}_pick_K{K}']
        ).all()


def test_bottleneck_step(golden):
    g = golden('mmspcl/bottleneck_step')
    one, two = (layer(g, f'mod{i}_', int(g['heads'])) for i in (1, 2))
    z = [T(g[k]) for k in ('z1', 'z2', 'z_fsn')]
    z1, z2, nodes = bottleneck_step(one, two, *z)
    close(z1, g['sequential_z1_next'])
    close(z2, g['sequential_z2_next'])
    close(nodes, g['sequential_fsn_next'])
    close(two(torch.cat(z[1:]))[1:], g['sequential_fsn_hat'])
    z1, z2, nodes = bottleneck_step(one, two, *z, 'mean')
    close(z1, g['mean_z1_next'])
    close(z2, g['mean_z2_next'])
    close(nodes, g['mean_fsn_next'])
    z1, _, nodes = bottleneck_step(one, two, *z, 'printed')
    close(z1, g['printed_eq9_z1_next'])
    close(nodes, g['printed_eq9_fsn_next'])


def mult(g):
    "MulT's encoder of two layers, and its inputs as it scales and positions them."
    m = Encoder(8, 2, 2, 32, 0.0, pre=True).double()
    theirs = lambda k: (
        'w__'
        + k.replace('linear', 'fc')
        .replace('norm1', 'layer_norms.0')
        .replace('norm2', 'layer_norms.1')
        .replace('.', '_')
        if k.startswith('layers')
        else 'w__layer_' + k.replace('.', '_')
    )
    m.load_state_dict({k: T(g[theirs(k)]) for k in m.state_dict()})
    at = torch.arange(1, 6, dtype=torch.float64)[:, None] * torch.exp(
        -torch.arange(4, dtype=torch.float64) * np.log(10000) / 3
    )
    place = torch.cat([at.sin(), at.cos()], 1)
    return m, lambda x: 8**0.5 * T(x) + place[: len(x)]


def test_an_encoder_is_that_of_mult(golden):
    "Over sequences, and over one vector each, where attention is a linear map."
    g = golden('dialoguetrm/mult_crossmodal')
    m, ready = mult(g)
    close(m(ready(g['target']), attend, ready(g['source'])), g['cross_out'])
    close(m(ready(g['target'][:1]), None, ready(g['source'][:1])), g['cross_len1_out'])


# ---- what the equations hide ------------------------------------------------------------------------------


def test_one_key_leaves_nothing_to_ask():
    "The fusion is the one that attends over sequences of one vector, and queries and keys have no gradient."
    torch.manual_seed(0)
    fuse, z = CrossModal(SIZES, **SMALL).double(), M.modalities_of(toy().features)
    got = fuse(z)
    x = {m: v[:, None] for m, v in fuse.entered(z).items()}
    long = {
        p: fuse.alone[p](e(x[p.split('>')[0]], attend, x[p.split('>')[1]]), attend)[:, 0]
        for p, e in fuse.cross.items()
    }
    close(got, fuse.leave(torch.cat([*long.values()], -1)).detach(), 1e-12)
    assert list(long) == [
        'text>audio',
        'text>visual',
        'audio>text',
        'audio>visual',
        'visual>text',
        'visual>audio',
    ]
    fuse(z)[:, 0].sum().backward()
    for k, p in fuse.named_parameters():
        if 'in_proj' in k:
            assert not p.grad[:16].any() and p.grad[16:].any()
    assert (
        len(CrossModal(SIZES).cross['text>audio'].layers) == 5
        and len(CrossModal(SIZES).alone['text>audio'].layers) == 2
    )


@pytest.mark.parametrize('update,deaf', [('sequential', False), ('mean', False), ('printed', True)])
def test_what_reaches_the_first_modality(update, deaf):
    "As Eq. 9 is printed, nothing of modality 2 reaches modality 1, however deep."
    torch.manual_seed(0)
    bridge = M.Bridge(8, 2, nodes=3, start=1, update=update).double()
    z1, z2 = (torch.randn(4, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    grad = torch.autograd.grad(bridge(z1, z2)[0][..., 0].sum(), z2, allow_unused=True)[0]
    assert (grad is None or not grad.any()) == deaf


def test_mean_takes_a_layer_longer():
    torch.manual_seed(0)
    one, two = Layer(), Layer()
    z1, z2, n = (torch.randn(k, 8, dtype=torch.float64) for k in (1, 1, 3))
    moved = lambda update: (
        (
            bottleneck_step(one, two, z1, z2, n, update)[0]
            - bottleneck_step(one, two, z1, z2.flip(-1), n, update)[0]
        )
        .abs()
        .max()
    )
    assert moved('mean') == moved('printed') == 0 and moved('sequential') > 1e-4


def test_start_layer():
    "Below it a modality is alone; with all layers alone only self-attention over the nodes is left."
    torch.manual_seed(0)
    for start in range(5):
        bridge = M.Bridge(8, 2, nodes=3, start=start).double()
        z = [torch.randn(2, 8, dtype=torch.float64) for _ in range(2)]
        sum(e[:, 0].sum() for e in bridge(*z)).backward()
        asked = [
            [bool(l.self_attn.in_proj_weight.grad[:8].any()) for l in side] for side in bridge.deep
        ]
        assert asked == [[i >= start for i in range(5)]] * 2
        assert all(
            l.self_attn.in_proj_weight.grad[:8].any() for e in bridge.alone for l in e.layers
        )


def test_what_survives_pruning():
    "The shares of the specification, for random vectors; and everything at most once."
    g = torch.Generator().manual_seed(0)

    def share(text, other, K):
        return float(
            prune_heads(
                torch.randn(300, text, generator=g), torch.randn(300, other, generator=g), K
            )[1].mean()
        )

    assert (
        abs(share(1024, 512, 16) - 0.12) < 0.03
        and abs(share(1024, 1611, 16) - 0.53) < 0.04
        and share(1024, 300, 16) < 0.06
    )
    assert (
        abs(share(384, 300, 16) - 0.28) < 0.04
        and abs(share(384, 512, 16) - 0.46) < 0.04
        and abs(share(384, 1611, 16) - 0.79) < 0.04
    )
    for K in (16, 32, 64):
        assert share(768, 47, min(K, 47)) < 0.02  # the sound of IEMOCAP: all of it goes


def test_pruning_details():
    x, y = torch.randn(5, 12), torch.randn(5, 10, requires_grad=True)
    out, kept = prune_heads(x, y, 4)
    assert ((out != 0).sum(-1) <= 10).all() and ((kept * 3).round() == kept * 3).all()
    out.sum().backward()
    assert ((y.grad == 0) == (out == 0)).all() and set(y.grad.unique().tolist()) == {
        0.0,
        1.0,
    }  # only through what is kept
    lone, _ = prune_heads(x[2:3], y[2:3].detach(), 4)
    close(lone[0], out[2].detach(), 1e-7)  # each turn by itself
    rest, share = prune_heads(x, y.detach(), 4, remainder='keep')
    assert (rest[:, 8:] == y[:, 8:]).all() and set((share * 2).tolist()) <= {0.0, 1.0, 2.0}
    opposed = prune_heads(torch.tensor([-1.0, -1]), torch.tensor([1.0, 1, 3, 2]), 2)[0]
    assert opposed.tolist() == [1, 1, 0, 0]  # nothing is alike, and yet one goes
    same = torch.vmap(lambda a, b: prune_heads(a, b, 4)[0])(
        x[None].repeat(2, 1, 1), y.detach()[None].repeat(2, 1, 1)
    )
    close(same[1], out.detach(), 1e-7)


def test_text_is_never_pruned():
    z = {k: torch.randn(3, n) for k, n in (('text', 8), ('audio', 8), ('visual', 12))}
    out, kept = M.pruned(z, 4)
    assert out['text'] is z['text'] and set(kept) == {'audio', 'visual'}
    alone, _ = M.pruned({k: z[k] for k in ('text', 'audio')}, 4)
    assert torch.equal(alone['audio'], out['audio'])  # independently of the picture


# ---- the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('o', FUSIONS, ids=name)
@pytest.mark.parametrize('mods', ['ta', 'tv', 'tav'])
def test_seeds_stack(o, mods):
    "vmap over seeds equals the plain module; a turn does not see another."
    sizes = {k: n for k, n in SIZES.items() if k[0] in mods}
    b = toy(sizes=sizes)
    make = lambda: fused_model(sizes, 3, **o)
    loss = criterion('emotion')
    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    a, c = stack.loss(b, torch.tensor(2), loss), single.loss(b, torch.tensor(2), loss)
    assert abs(a[1] - c[0]) < 1e-12
    a.sum().backward()
    c.sum().backward()
    for k, v in single.model.named_parameters():
        assert (v.grad is None) == (stack.params[k].grad is None), k
        if v.grad is not None:
            close(stack.params[k].grad[1], v.grad, 1e-12)
    whole = single.model(b).logits
    close(single.model(toy((1,), sizes=sizes)).logits.shape, (1, 3))
    one = dataclasses.replace(b, features={k: v[4:5] for k, v in b.features.items()})
    close(single.model(one).logits[0], whole[4].detach(), 1e-12)
    assert Fused(sizes, **o).width == 6


@pytest.mark.parametrize('o', FUSIONS[::2], ids=name)
def test_in_front_of_the_contrastive_loss(o):
    "The fused vector is what is contrasted, and the class is that of the nearest centre."
    b = toy()
    m = fused_model(SIZES, 3, loss='spcl', **o).double()
    with torch.no_grad():
        m.on_epoch_start(lambda: [(m(b), b)])
    out = m(b.at(0, 1))
    assert set(out.losses) == {'spcl'} and out.probes['z'].shape == (13, 6)
    out.losses['spcl'].backward()
    assert (
        m.encoder.fusion.W.weight.grad.any()
        if o['fusion'] == 'linear'
        else m.encoder.fusion.leave.weight.grad.any()
    )
    m.zero_grad()
    m(b.at(0, 1)).logits.logsumexp(-1).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in m.encoder.parameters()), (
        'the predictor shapes nothing'
    )
    assert m.predict(m(b)).shape == (13,)


def test_context_belongs_to_the_text():
    x = {'text': torch.ones(2, 3), 'context': torch.zeros(2, 3), 'audio': torch.ones(2, 2)}
    assert M.modalities_of(x)['text'].tolist() == [[1, 1, 1, 0, 0, 0]] * 2 and list(
        M.modalities_of(x)
    ) == ['text', 'audio']
    assert M.modalities_of({'text': 3, 'context': 3, 'audio': 2}) == {'text': 6, 'audio': 2}
    assert fused_model({'text': 3, 'context': 3, 'audio': 2}, 4).out.in_features == 6


def test_before():
    c = M.load_fused('demo', past=2)
    t = c.table
    for d, g in t.groupby('dialogue', sort=False):
        says = [f'{s}: {u}' for s, u in zip(g.speaker, g.text)]
        assert g.before.tolist() == [
            ' '.join(reversed(says[max(0, i - 2) : i])) for i in range(len(g))
        ]


# ---- bad input --------------------------------------------------------------------------------------------


def test_bad_input():
    with pytest.raises(ValueError, match='heads of K=5 numbers cannot be cut from a modality of 4'):
        fused_model(SIZES, 3, prune=5)
    with pytest.raises(ValueError, match='K=9 .* modality of 8'):
        prune_heads(torch.ones(8), torch.ones(20), 9)
    with pytest.raises(ValueError, match='K=0'):
        prune_heads(torch.ones(8), torch.ones(8), 0)
    with pytest.raises(ValueError, match="unknown fusion 'croos'; did you mean 'cross'"):
        fused_model(SIZES, 3, fusion='croos')
    with pytest.raises(ValueError, match='3 heads do not divide a width of 8'):
        fused_model(SIZES, 3, fusion='cross', width=8, heads=3)
    with pytest.raises(ValueError, match='two modalities or more; given was text'):
        CrossModal({'text': 4}, **SMALL)
    with pytest.raises(ValueError, match='start=5: of 5 layers'):
        Bottleneck(SIZES, start=5, **SMALL)
    with pytest.raises(ValueError, match='nodes=0'):
        Bottleneck(SIZES, nodes=0, **SMALL)
    with pytest.raises(ValueError, match='unknown update of the nodes'):
        Bottleneck(SIZES, update='avg', **SMALL)
    with pytest.raises(ValueError, match="unknown modality 'gesture'"):
        fused_model({'gesture': 3}, 3)
    with pytest.raises(ValueError, match='both begin with'):
        LinearProjection({'visual': 3, 'video': 3})
    with pytest.raises(ValueError, match='nothing to prune against'):
        fused_model({'audio': 4, 'visual': 4}, 3, prune=2)(toy())
    m = fused_model(SIZES, 3).double()
    with pytest.raises(ValueError, match='audio missing: this model fuses text, audio, visual'):
        m(M.without(toy(), 'audio', 'gone'))
    for fusion in (LinearProjection(SIZES), CrossModal(SIZES, **SMALL), Bottleneck(SIZES, **SMALL)):
        with pytest.raises(
            ValueError, match='audio and visual missing: this model fuses text, audio, visual'
        ):
            fusion({'text': torch.ones(2, 6)})
    with pytest.raises(ValueError, match='unknown way to lack'):
        M.without(toy(), 'audio', 'noise')


# ---- recipe, records, tables ------------------------------------------------------------------------------

RECIPE = load_recipe('mmspcl')
OURS = [s for s in RECIPE['systems'].values() if s.notebook in ('810_mmspcl', '820_msve')]


def test_every_system_has_a_model_and_a_fingerprint():
    "Also those of pruning, whose toy has to be as wide as a head."
    seen = set()
    for s in OURS:
        key = (s.model, str(s.args), tuple(s.features))
        if (
            s.kind != 'model'
            or key in seen
            or s.args.get('fusion') == 'bottleneck'
            and len(s.features) > 2
        ):
            continue
        seen.add(key)
        assert np.isfinite(toy_fingerprint(s)).all() and len(toy_fingerprint(s)) == 3, s.id
        assert {'paper', 'tuned'} == set(s.settings)


def test_every_row_of_a_table_has_a_system():
    for k, a in RECIPE['artefacts'].items():
        for system_id, corpus, setting in records_of(a, 'mmspcl'):
            s = system(system_id)
            assert setting in s.settings and (corpus in s.corpora or not s.corpora), (
                k,
                system_id,
                corpus,
            )
        for row in a.get('rows', []):
            for e in row.get('wired', []):
                assert system(f'mmspcl/{e["system"].split("/")[0]}').corpora == []
    floors = lambda k: {
        e['system'] if isinstance(e, dict) else e
        for r in RECIPE['artefacts'][k]['rows']
        if r['row'].startswith('floors')
        for e in r['systems']
    }
    assert all(
        {'baselines/majority/fixed', 'baselines/tfidf/tuned'} <= floors(f'table{i}')
        for i in range(1, 6)
    )


def test_wired_rows_are_what_the_paper_prints():
    "In front of the loss of SPCL, of the row's modalities, and in Table 1 with the heads whose score Table 4 prints."
    letters = lambda s: ''.join(m[0] for m in ('text', 'audio', 'visual') if m in s.features)
    wired = lambda row: [
        system(f'mmspcl/{e["system"].split("/")[0]}') for e in row.get('wired', [])
    ]
    for k in range(1, 5):
        for row in RECIPE['artefacts'][f'table{k}']['rows']:
            fusions = [s for s in wired(row) if 'combinations' not in s.args]
            if not fusions:
                continue
            assert [s.args.get('loss', 'ce') for s in fusions] == [
                'spcl',
                'spcl',
                'ce',
                'ce',
            ] and len({(letters(s), str({**s.args, 'loss': ''})) for s in fusions}) == 1
            if '{' in row['row']:
                assert letters(fusions[0]) == ''.join(c for c in row['row'] if c in 'tav')
            if k == 4:
                assert row['label'].endswith(f'K={fusions[0].args["prune"]}')
    ref = reference('mmspcl')
    printed = ref[
        (ref.artefact == 'table1')
        & ref.row.str.startswith('MM-SPCL-CMPr')
        & ref.column.str.startswith('F1')
    ].value.item()
    (same,) = ref[(ref.artefact == 'table4') & (ref.value == printed)].itertuples()
    best = wired(
        next(
            r for r in RECIPE['artefacts']['table1']['rows'] if r['row'].startswith('MM-SPCL-CMPr')
        )
    )[0]
    assert (f'{{{letters(best)}}}', f'F1 K={best.args["prune"]}') == (same.row, same.column)


SHORT = dict(epochs=2, batch=64, lr=3e-3)


@pytest.mark.parametrize(
    's,corpus',
    [
        ('prune16_ta', 'demo'),
        ('linear_ta_spcl', 'demo'),
        ('msve_dropout', 'demo'),
        ('mosi_msve_uni_bi_tri', 'demo'),
    ],
)
def test_a_record(tmp_path, s, corpus):
    "What figures and tables read is there: every modality missing in turn, by seed, scored as the whole is."
    own = dataclasses.replace(system(f'mmspcl/{s}'), encoder='hashing')
    rec = run_system(own, corpus, 'paper', seeds=[0, 1], home=tmp_path, demo=SHORT, progress=False)
    mods = (
        ['text', 'audio']
        if s.endswith('ta') or s in ('linear_ta_spcl', 'msve_dropout')
        else ['text', 'audio', 'visual']
    )
    hows = ['', '_gone'] if 'msve' in s else ['']
    for m in mods:
        for how in hows:
            counts = rec.probes[f'without_{m}{how}_by_seed']
            assert (
                counts.shape == rec.confusions['all'].shape
                and counts.dtype == np.uint8
                and counts.nbytes < PROBE_LIMIT
            )
            assert (counts.sum(-1) == rec.confusions['all'].sum(-1)).all() and (
                s == 'prune16_ta' and m == 'audio' or (counts != rec.confusions['all']).any()
            )
            drop = V.fallen(rec, m, how)
            assert drop.low <= drop.mean <= drop.high
    assert V.fallen(rec, 'smell') is None
    if s == 'prune16_ta':
        assert (
            set(rec.probes) == {'without_text_by_seed', 'without_audio_by_seed', 'kept_audio'}
            and 0 <= rec.probes['kept_audio'][0] < 0.5
        )
    more = run_system(
        own, corpus, 'paper', seeds=[0, 1, 2], home=tmp_path, demo=SHORT, progress=False
    )
    assert more.seeds == [0, 1, 2] and len(more.probes['without_text_by_seed']) == 3
    assert (more.probes['without_text_by_seed'][:2] == rec.probes['without_text_by_seed']).all()


def test_what_needs_a_modality_is_not_asked_without_it(tmp_path):
    own = dataclasses.replace(system('mmspcl/msve_bi'), encoder='hashing')
    rec = run_system(own, 'demo', 'paper', seeds=[0], home=tmp_path, demo=SHORT, progress=False)
    assert set(rec.probes) == {'without_text_by_seed', 'without_audio_by_seed'}


def public_meld(path):
    "A pickle laid out as MELD's public trimodal features: ten items, 600 / 300 / 342 numbers, made up."
    g = np.random.default_rng(0)
    ids = {d: [f'dia{d}_utt{i}' for i in range(4)] for d in range(30)}
    of = lambda f: {d: [f() for _ in u] for d, u in ids.items()}
    vec = lambda n: of(lambda: g.standard_normal(n))
    speakers, label = of(lambda: [1] + [0] * 8), of(lambda: int(g.integers(0, 7)))
    data = (
        ids,
        speakers,
        label,
        vec(600),
        vec(300),
        vec(342),
        of(lambda: 'hm'),
        list(range(24)),
        list(range(24, 30)),
        of(lambda: 0),
    )
    path.write_bytes(pickle.dumps(data))
    return path


def test_public_features_of_meld_fill_their_rows(tmp_path, monkeypatch):
    "From a pickle of the public structure to a record to the line of a table; before that the row needs data."
    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'data'))
    before = comparison('mmspcl', 'table4', home=tmp_path)
    assert 'needs data' in before.kinds and not any(
        'MELD' in str(x) and 'needs' not in str(x) for x in before.frame['line']
    )
    convert(public_meld(tmp_path / 'meld.pkl'), tmp_path / 'data' / 'meld_mmgcn', name='meld_mmgcn')
    due = {s.id for s, c, _ in wanted('mmspcl') if c == 'meld_mmgcn'}
    assert 'mmspcl/meld_prune64_tav_spcl' in due == {s for s, _ in wired('mmspcl', RECIPE)}, (
        'what is wired is run once its corpus is there'
    )
    rec = run_system(
        system('mmspcl/meld_prune64_tav_spcl'),
        'meld_mmgcn',
        'paper',
        seeds=[0],
        home=tmp_path,
        demo=SHORT,
        progress=False,
    )
    assert len(rec.classes) == 7 and set(rec.probes) >= {
        'kept_audio',
        'kept_visual',
        'without_visual_by_seed',
    }
    after = comparison('mmspcl', 'table4', home=tmp_path, stale=False)
    lines = after.data[after.data.corpus == 'meld_mmgcn']
    assert (
        list(lines.system) == ['meld_prune64_tav_spcl'] * 2 + ['meld_prune64_tav'] * 2
        and list(lines.state) == ['drawn'] + ['not run'] * 3
    )
    assert after.kinds.count('needs data') == before.kinds.count('needs data') - 1


# ---- disagreements ----------------------------------------------------------------------------------------


def test_disagreements_follow_the_rule():
    c = load_corpus('demo')
    n, C = len(c.rows('test')), len(c.classes)
    g = np.random.default_rng(0)
    one, two = g.integers(0, C, (5, n)), g.integers(0, C, (5, n))
    d = V.answers(c, one, two)
    t = c.table.iloc[c.rows('test')]
    assert (d.label.to_numpy() == t.label.to_numpy()).all() and (
        d.turn.to_numpy() == t.turn.to_numpy()
    ).all()
    most = [np.bincount(x, minlength=C).argmax() for x in one.T]
    assert d.one.tolist() == most
    apart = V.picked(d, 'disagreements')
    assert (
        len(apart) == 8
        and (apart.one != apart.other).all()
        and apart.dialogue.is_unique
        and apart.strength.is_monotonic_decreasing
    )
    assert (
        apart.strength.min()
        >= d[(d.one != d.other) & ~d.dialogue.isin(apart.dialogue)].strength.max()
    )
    near = V.picked(d, 'around')
    assert (
        set(near.dialogue) == set(apart.dialogue[:4])
        and (near.groupby('dialogue').turn.agg(np.ptp) <= 4).all()
    )
    wrong = V.picked(d, 'agreements in error')
    assert (wrong.one == wrong.other).all() and (wrong.one != wrong.label).all()
    with pytest.raises(ValueError, match="unknown rule 'agreement'"):
        V.picked(d, 'agreement')


def test_stored_examples_are_shown_without_the_corpus(tmp_path):
    "And hold no words of anybody."
    c = load_corpus('demo')
    g = np.random.default_rng(0)
    d = V.answers(c, *g.integers(0, len(c.classes), (2, 3, len(c.rows('test')))))
    lines = V.printed_examples(V_reference(), 'table6') + V.example_lines(
        c, d, 'disagreements', 'demo corpus'
    )
    t = V.example_table(lines, 'table6', 'As drawn.', state='drawn', basis=['demo'])
    t.save(tmp_path)
    again = V.stored_examples('table6', tmp_path)
    assert (
        again._repr_html_() == t._repr_html_()
        and again.kinds == t.kinds
        and t.kinds.count('printed') == 7
    )
    assert V.stored_examples('table7', tmp_path) is None
    text = (tmp_path / 'tables/mmspcl_table6.csv').read_text()
    assert 'Push' not in text and not any(u in text for u in c.table.text if len(u) > 12)


def V_reference():
    from erc.report.artefacts import reference

    return reference('mmspcl')
