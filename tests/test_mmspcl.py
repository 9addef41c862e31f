"Fusions and pruning: golden numbers, what the printed equations lack, and the recipe's systems."

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from helpers import close, toy_batch

from erc.data.reading import convert
from erc.models.mmspcl import (
    Bottleneck,
    CrossModal,
    FusedEncoder,
    _bottleneck_step,
    _BottleneckPair,
    _head_similarities,
    _LinearProjection,
    _prune_heads,
    _prune_modalities,
    fused_model,
    modalities_of,
)
from erc.nn.attention import Encoder, EncoderLayer, attend
from erc.report.artefacts import reference
from erc.report.comparison import comparison
from erc.runs.fingerprints import _fingerprints
from erc.runs.recipes import find_system, load_recipe, wanted_runs
from erc.runs.run import run_system
from erc.studies.mmspcl import _without_modality, load_fused, modality_loss
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


def name_of(options):
    return '-'.join(map(str, options.values()))


def make_layer(heads=2, ffn=32):
    return EncoderLayer(8, heads, ffn, dropout=0.0, pre=True).double()


def randn(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


# ---- golden numbers ----------------------------------------------------------------------------


def test_linear_projection(golden):
    g = golden('mmspcl/linear_projection')
    fuse = _LinearProjection({'v': 5, 't': 6, 'a': 4}).double()  # in any order
    fuse.load_state_dict({'W.weight': T(g['W']), 'W.bias': T(g['b'])})
    close(fuse({k: T(g[k]) for k in 'vat'}), g['out'])


def test_pruning_by_hand(golden):
    g = golden('mmspcl/pruning')
    for case in ('hand', 'ragged', 'tie', 'zero'):
        base, other, K = T(g[f'{case}_base']), T(g[f'{case}_mod']), int(g[f'{case}_K'])
        close(_prune_heads(base, other, K)[0], g[f'{case}_pruned'])
        similarity = _head_similarities(base, other, K)
        if f'{case}_similarity' in g:
            close(similarity, g[f'{case}_similarity'])
        if f'{case}_pick' in g:
            assert similarity.argmax(-1).tolist() == g[f'{case}_pick'].tolist()
    _, kept = _prune_heads(T(g['hand_base']), T(g['hand_mod']), 2)
    close(kept, g['hand_keep'].mean())


@pytest.mark.parametrize('K', [4, 8, 16])
@pytest.mark.parametrize('modality', ['audio', 'video'])
def test_pruning_of_a_batch(golden, modality, K):
    g = golden('mmspcl/pruning')
    base, other = T(g['batch_text']), T(g[f'batch_{modality}'])
    close(_prune_heads(base, other, K)[0], g[f'batch_{modality}_pruned_K{K}'])
    selected = _head_similarities(base, other, K).argmax(-1).numpy()
    assert (selected == g[f'batch_{modality}_pick_K{K}']).all()


def released_layer(g, prefix):
    "Return a layer with the weights of a golden file."
    layer = make_layer(int(g['heads']), len(g[f'{prefix}linear1_bias']))
    names = {k: k.removeprefix('self_attn.').replace('.', '_') for k in layer.state_dict()}
    layer.load_state_dict({k: T(g[prefix + name]) for k, name in names.items()})
    return layer


def test_bottleneck_step(golden):
    g = golden('mmspcl/bottleneck_step')
    layer1, layer2 = (released_layer(g, f'mod{i}_') for i in (1, 2))
    z1, z2, nodes = (T(g[k]) for k in ('z1', 'z2', 'z_fsn'))
    close(layer2(torch.cat([z2, nodes]))[1:], g['sequential_fsn_hat'])
    for update in ('sequential', 'mean'):
        step = _bottleneck_step(layer1, layer2, z1, z2, nodes, update)
        for ours, name in zip(step, ('z1', 'z2', 'fsn')):
            close(ours, g[f'{update}_{name}_next'])
    own, _, nodes = _bottleneck_step(layer1, layer2, z1, z2, nodes, 'printed')
    close(own, g['printed_eq9_z1_next'])
    close(nodes, g['printed_eq9_fsn_next'])


def name_in_mult(name):
    if not name.startswith('layers'):
        return 'w__layer_' + name.replace('.', '_')
    for ours, theirs in (('linear', 'fc'), ('norm1', 'layer_norms.0'), ('norm2', 'layer_norms.1')):
        name = name.replace(ours, theirs)
    return 'w__' + name.replace('.', '_')


def positioned(x):
    "Scale inputs and add sinusoidal positions, as MulT does."
    frequency = torch.exp(-torch.arange(4, dtype=torch.float64) * np.log(10000) / 3)
    angle = torch.arange(1, 6, dtype=torch.float64)[:, None] * frequency
    return 8**0.5 * T(x) + torch.cat([angle.sin(), angle.cos()], 1)[: len(x)]


def test_an_encoder_is_that_of_mult(golden):
    "Over sequences, and over one vector each, where attention is a linear map."
    g = golden('dialoguetrm/mult_crossmodal')
    encoder = Encoder(8, 2, 2, 32, 0.0, pre=True).double()
    encoder.load_state_dict({k: T(g[name_in_mult(k)]) for k in encoder.state_dict()})
    target, source = positioned(g['target']), positioned(g['source'])
    close(encoder(target, attend, source), g['cross_out'])
    close(encoder(target[:1], None, source[:1]), g['cross_len1_out'])


# ---- what the equations leave out --------------------------------------------------------------


def test_with_one_key_the_query_has_no_effect():
    "The fusion equals attention over sequences of one vector; queries and keys have no gradient."
    torch.manual_seed(0)
    fuse, z = CrossModal(SIZES, **SMALL).double(), toy_batch(SIZES).features
    x = {modality: v[:, None] for modality, v in fuse.entered(z).items()}
    results = {}
    for pair, encoder in fuse.cross.items():
        query, source = (x[modality] for modality in pair.split('>'))
        results[pair] = fuse.alone[pair](encoder(query, attend, source), attend)[:, 0]
    ours = fuse(z)
    close(ours, fuse.leave(torch.cat([*results.values()], -1)), 1e-12)
    assert list(results) == [f'{a}>{b}' for a in SIZES for b in SIZES if a != b]
    ours[:, 0].sum().backward()
    for name, p in fuse.named_parameters():
        if 'in_proj' in name:
            assert not p.grad[:16].any() and p.grad[16:].any()


def test_layers_of_the_cross_modal_fusion():
    fuse = CrossModal(SIZES)
    assert len(fuse.cross['text>audio'].layers) == 5 and len(fuse.alone['text>audio'].layers) == 2


@pytest.mark.parametrize(
    'update,blocked', [('sequential', False), ('mean', False), ('printed', True)]
)
def test_what_reaches_the_first_modality(update, blocked):
    "As Eq. 9 is printed, nothing of modality 2 reaches modality 1, however deep."
    torch.manual_seed(0)
    pair = _BottleneckPair(8, 2, nodes=3, start=1, update=update).double()
    z1, z2 = randn(4, 8, requires_grad=True), randn(4, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(pair(z1, z2)[0][..., 0].sum(), z2, allow_unused=True)
    assert (grad is None or not grad.any()) == blocked


def test_the_average_takes_a_layer_longer():
    torch.manual_seed(0)
    layer1, layer2, z1, z2, nodes = (
        make_layer(),
        make_layer(),
        randn(1, 8),
        randn(1, 8),
        randn(3, 8),
    )

    def influence(update):
        steps = [_bottleneck_step(layer1, layer2, z1, z, nodes, update) for z in (z2, z2.flip(-1))]
        return (steps[0][0] - steps[1][0]).abs().max()

    assert influence('mean') == influence('printed') == 0 and influence('sequential') > 1e-4


@pytest.mark.parametrize('start', range(5))
def test_start_layer(start):
    "Layers below it are alone; the self-attention after them always reads the nodes."
    torch.manual_seed(0)
    pair = _BottleneckPair(8, 2, nodes=3, start=start).double()
    sum(z[:, 0].sum() for z in pair(randn(2, 8), randn(2, 8))).backward()

    def attends(layer):
        return bool(layer.self_attn.in_proj_weight.grad[:8].any())

    for side in pair.deep:
        assert [attends(layer) for layer in side] == [i >= start for i in range(5)]
    assert all(attends(layer) for encoder in pair.alone for layer in encoder.layers)


def test_what_survives_pruning():
    "Shares of random vectors that survive, as the specification gives them."
    generator = torch.Generator().manual_seed(0)

    def survival(text, other, K):
        base, pruned = (torch.randn(300, n, generator=generator) for n in (text, other))
        return float(_prune_heads(base, pruned, K)[1].mean())

    assert abs(survival(1024, 512, 16) - 0.12) < 0.03
    assert abs(survival(1024, 1611, 16) - 0.53) < 0.04
    assert survival(1024, 300, 16) < 0.06
    assert abs(survival(384, 300, 16) - 0.28) < 0.04
    assert abs(survival(384, 512, 16) - 0.46) < 0.04
    assert abs(survival(384, 1611, 16) - 0.79) < 0.04
    for K in (16, 32, 47):
        assert survival(768, 47, K) < 0.02, 'the sound of IEMOCAP'


def test_pruning_has_a_gradient_only_through_what_is_kept():
    base, other = torch.randn(5, 12), torch.randn(5, 10, requires_grad=True)
    pruned, kept = _prune_heads(base, other, 4)
    assert ((kept * 3).round() == kept * 3).all()
    pruned.sum().backward()
    assert ((other.grad == 0) == (pruned == 0)).all()
    assert set(other.grad.unique().tolist()) == {0.0, 1.0}


def test_every_turn_is_pruned_by_itself():
    base, other = torch.randn(5, 12), torch.randn(5, 10)
    pruned, _ = _prune_heads(base, other, 4)
    close(_prune_heads(base[2:3], other[2:3], 4)[0][0], pruned[2], 1e-7)
    stacked = [x[None].repeat(2, 1, 1) for x in (base, other)]
    close(torch.vmap(lambda a, b: _prune_heads(a, b, 4)[0])(*stacked)[1], pruned, 1e-7)


def test_pruning_details():
    base, other = torch.randn(5, 12), torch.randn(5, 10)
    rest, kept = _prune_heads(base, other, 4, remainder='keep')
    assert (rest[:, 8:] == other[:, 8:]).all() and set((kept * 2).tolist()) <= {0.0, 1.0, 2.0}
    opposed, _ = _prune_heads(torch.tensor([-1.0, -1]), torch.tensor([1.0, 1, 3, 2]), 2)
    assert opposed.tolist() == [1, 1, 0, 0], 'a head goes even if none is similar'


def test_text_is_never_pruned():
    z = {k: torch.randn(3, n) for k, n in (('text', 8), ('audio', 8), ('visual', 12))}
    pruned, kept = _prune_modalities(z, 4)
    assert pruned['text'] is z['text'] and set(kept) == {'audio', 'visual'}
    alone, _ = _prune_modalities({k: z[k] for k in ('text', 'audio')}, 4)
    assert torch.equal(alone['audio'], pruned['audio']), 'whatever other modalities there are'


# ---- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize('options', FUSIONS, ids=name_of)
@pytest.mark.parametrize('letters', ['ta', 'tv', 'tav'])
def test_seeds_stack(options, letters):
    "vmap over seeds equals the plain module; a turn does not see another."
    sizes = {k: n for k, n in SIZES.items() if k[0] in letters}
    batch, step, loss_of = toy_batch(sizes), torch.tensor(2), criterion('emotion')

    def make():
        return fused_model(sizes, 3, **options)

    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    stacked, alone = stack.loss(batch, step, loss_of), single.loss(batch, step, loss_of)
    assert abs(stacked[1] - alone[0]) < 1e-12
    stacked.sum().backward()
    alone.sum().backward()
    for name, p in single.model.named_parameters():
        assert (p.grad is None) == (stack.params[name].grad is None), name
        if p.grad is not None:
            close(stack.params[name].grad[1], p.grad, 1e-12)
    row = {k: x[4:5] for k, x in batch.features.items()}
    one = single.model(dataclasses.replace(batch, features=row)).logits
    close(one[0], single.model(batch).logits[4], 1e-12)
    assert FusedEncoder(sizes, **options).width == 6


@pytest.mark.parametrize('options', FUSIONS[::2], ids=name_of)
def test_with_the_contrastive_loss(options):
    "The loss shapes the fused vector, the predictor does not."
    batch, model = toy_batch(SIZES), fused_model(SIZES, 3, loss='spcl', **options).double()
    with torch.no_grad():
        model.on_epoch_start(lambda: [(model(batch), batch)])
    out = model(batch.at(0, 1))
    assert set(out.losses) == {'spcl'} and out.probes['z'].shape == (13, 6)
    out.losses['spcl'].backward()
    fusion = model.encoder.fusion
    assert (fusion.W if options['fusion'] == 'linear' else fusion.leave).weight.grad.any()
    model.zero_grad()
    model(batch.at(0, 1)).logits.logsumexp(-1).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())
    assert model.predict(model(batch)).shape == (13,)


def test_context_belongs_to_the_text():
    x = {'text': torch.ones(2, 3), 'context': torch.zeros(2, 3), 'audio': torch.ones(2, 2)}
    assert modalities_of(x)['text'].tolist() == [[1, 1, 1, 0, 0, 0]] * 2
    assert list(modalities_of(x)) == ['text', 'audio']
    sizes = {'text': 3, 'context': 3, 'audio': 2}
    assert modalities_of(sizes) == {'text': 6, 'audio': 2}
    assert fused_model(sizes, 4).out.in_features == 6


def test_turns_before():
    table = load_fused('demo', past=2).table
    for _, turns in table.groupby('dialogue', sort=False):
        said = [f'{speaker}: {text}' for speaker, text in zip(turns.speaker, turns.text)]
        expected = [' '.join(reversed(said[max(0, i - 2) : i])) for i in range(len(turns))]
        assert turns.before.tolist() == expected


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'sizes,options,message',
    [
        (SIZES, dict(prune=5), 'heads of K=5 numbers cannot be cut from a modality of 4'),
        (SIZES, dict(fusion='croos'), "unknown fusion 'croos'; did you mean 'cross'"),
        (SIZES, dict(fusion='cross', width=8, heads=3), '3 heads do not divide a width of 8'),
        (SIZES, dict(fusion='bottleneck', start=5, **SMALL), 'start=5: with 5 layers'),
        (SIZES, dict(fusion='bottleneck', nodes=0, **SMALL), 'nodes=0'),
        (SIZES, dict(fusion='bottleneck', update='avg', **SMALL), 'unknown update of the nodes'),
        ({'text': 4}, dict(fusion='cross'), 'pairs need two modalities or more; given: text'),
        ({'gesture': 3}, {}, "unknown modality 'gesture'"),
        ({'visual': 3, 'video': 3}, {}, 'both begin with'),
    ],
)
def test_bad_options(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        fused_model(sizes, 3, **options)


@pytest.mark.parametrize('K', [0, 9])
def test_bad_heads(K):
    with pytest.raises(ValueError, match=f'K={K} .* modality of 8'):
        _prune_heads(torch.ones(8), torch.ones(20), K)


def test_missing_modalities():
    with pytest.raises(ValueError, match='no modality to prune against'):
        fused_model({'audio': 4, 'visual': 4}, 3, prune=2)(toy_batch(SIZES))
    model, batch = fused_model(SIZES, 3).double(), toy_batch(SIZES)
    with pytest.raises(ValueError, match='audio missing: this model fuses text, audio, visual'):
        model(_without_modality(batch, 'audio', 'gone'))
    with pytest.raises(ValueError, match='unknown way to lack'):
        _without_modality(batch, 'audio', 'noise')


@pytest.mark.parametrize('fusion', [_LinearProjection, CrossModal, Bottleneck])
def test_a_fusion_names_what_is_missing(fusion):
    fuse = fusion(SIZES, **({} if fusion is _LinearProjection else SMALL))
    with pytest.raises(ValueError, match='audio and visual missing: this model fuses text, audio'):
        fuse({'text': torch.ones(2, 6)})


# ---- recipe, records, tables -------------------------------------------------------------------


@pytest.fixture(scope='module')
def recipe():
    return load_recipe('mmspcl')


def test_every_system_has_a_model_and_a_fingerprint(recipe):
    "Pruning too, whose toy batch has to be as wide as a head."
    sections = ('810_mmspcl', '820_msve')
    ours = [s for s in recipe.systems.values() if s.notebook in sections and s.kind == 'model']
    assert [s.name for s in ours if 'paper' in s.variants] == ['msve_uni_bi']
    assert all('tuned' in s.variants for s in ours)
    distinct = {(s.model, str(s.args), tuple(s.features)): s for s in ours}.values()
    slow = [s for s in distinct if s.args.get('fusion') == 'bottleneck' and len(s.features) > 2]
    quick = [s for s in distinct if s not in slow]
    for id, losses in _fingerprints(quick, progress=False).items():
        assert len(losses) == 3 and np.isfinite(losses).all(), id


def test_rows_name_systems_that_run_on_their_corpus(recipe):
    for artefact in recipe.artefacts.values():
        for row in artefact.rows:
            for entry in row.entries:
                system = find_system(entry.key.system_id)
                assert entry.key.variant in system.variants
                assert entry.key.corpus in system.corpora or not system.corpora, entry.key
            for entry in row.wired:
                assert find_system(entry.key.system_id).corpora == []


@pytest.mark.parametrize('number', range(1, 6))
def test_tables_have_floors(recipe, number):
    rows = recipe.artefacts[f'table{number}'].rows
    floors = {e.key.system_id for row in rows if row.row.startswith('floors') for e in row.entries}
    assert {'baselines/majority', 'baselines/tfidf'} <= floors


def letters_of(system):
    return ''.join(m[0] for m in ('text', 'audio', 'visual') if m in system.features)


def wired_fusions(row):
    systems = [find_system(entry.key.system_id) for entry in row.wired]
    return [system for system in systems if 'combinations' not in system.args]


@pytest.mark.parametrize('number', range(1, 5))
def test_wired_rows_are_what_the_paper_prints(recipe, number):
    "Of the row's modalities, with the loss of SPCL first, then with cross entropy."
    for row in recipe.artefacts[f'table{number}'].rows:
        systems = wired_fusions(row)
        if not systems:
            continue
        losses = [system.args.get('loss', 'ce') for system in systems]
        assert losses == ['spcl', 'ce']
        assert len({(letters_of(s), str({**s.args, 'loss': ''})) for s in systems}) == 1
        if '{' in row.row:
            assert letters_of(systems[0]) == ''.join(c for c in row.row if c in 'tav')
        if number == 4:
            assert row.label.endswith(f'K={systems[0].args["prune"]}')


def test_the_pruned_row_of_table_1_is_the_one_of_table_4_with_its_score(recipe):
    printed, pruned = reference('mmspcl'), 'MM-SPCL-CMPr'
    table1 = printed[(printed.artefact == 'table1') & printed.column.str.startswith('F1')]
    value = table1[table1.row.str.startswith(pruned)].value.item()
    table4 = printed[(printed.artefact == 'table4') & (printed.value == value)]
    rows = recipe.artefacts['table1'].rows
    system = wired_fusions(next(row for row in rows if row.row.startswith(pruned)))[0]
    assert f'{{{letters_of(system)}}}' == table4.row.item()
    assert f'F1 K={system.args["prune"]}' == table4.column.item()


SHORT = dict(epochs=2, batch=64, lr=3e-3)


def run_short(name, home, seeds, corpus='demo'):
    system = find_system(f'mmspcl/{name}')
    system = dataclasses.replace(system, encoder='hashing') if corpus == 'demo' else system
    options = dict(seeds=seeds, home=home, demo=SHORT, progress=False)
    return run_system(system, system.key('tuned', corpus), **options)


@pytest.mark.parametrize(
    'name,modalities',
    [
        ('prune16_ta', ['text', 'audio']),
        ('linear_ta_spcl', ['text', 'audio']),
        ('msve_dropout', ['text', 'audio']),
        ('mosi_msve_uni_bi_tri', ['text', 'audio', 'visual']),
    ],
)
def test_records_keep_what_tables_read(tmp_path, name, modalities):
    "Confusions without each modality, by seed, which can be scored like those with all."
    record = run_short(name, tmp_path, [0, 1])
    whole = record.confusions['all']
    for modality in modalities:
        for suffix in ['', '_gone'] if 'msve' in name else ['']:
            counts = record.probes[f'without_{modality}{suffix}_by_seed']
            assert counts.shape == whole.shape and counts.dtype == np.uint8
            assert (counts.sum(-1) == whole.sum(-1)).all()
            pruned = name == 'prune16_ta' and modality == 'audio'
            assert pruned or (counts != whole).any()
            loss = modality_loss(record, modality, suffix)
            assert loss.low <= loss.mean <= loss.high
    assert modality_loss(record, 'smell') is None


def test_records_of_pruning_keep_what_survived(tmp_path):
    record = run_short('prune16_ta', tmp_path, [0])
    assert set(record.probes) == {'without_text_by_seed', 'without_audio_by_seed', 'kept_audio'}
    assert 0 <= record.probes['kept_audio'][0] < 0.5


def test_further_seeds_add_to_the_probes(tmp_path):
    first = run_short('linear_ta_spcl', tmp_path, [0, 1])
    more = run_short('linear_ta_spcl', tmp_path, [0, 1, 2])
    name = 'without_text_by_seed'
    assert more.seeds == [0, 1, 2] and len(more.probes[name]) == 3
    assert (more.probes[name][:2] == first.probes[name]).all()


def test_what_needs_a_modality_is_not_run_without_it(tmp_path):
    record = run_short('msve_bi', tmp_path, [0])
    assert set(record.probes) == {'without_text_by_seed', 'without_audio_by_seed'}


def write_public_meld(path):
    "Write a pickle laid out as MELD's public trimodal features, 600, 300 and 342 numbers wide."
    rng = np.random.default_rng(0)
    ids = {d: [f'dia{d}_utt{i}' for i in range(4)] for d in range(30)}

    def of_turns(make):
        return {d: [make() for _ in turns] for d, turns in ids.items()}

    def vectors(width):
        return of_turns(lambda: rng.standard_normal(width))

    speakers, labels = of_turns(lambda: [1] + [0] * 8), of_turns(lambda: int(rng.integers(0, 7)))
    features = vectors(600), vectors(300), vectors(342)
    text, sentiment = of_turns(lambda: 'hm'), of_turns(lambda: 0)
    split = list(range(24)), list(range(24, 30))
    path.write_bytes(pickle.dumps((ids, speakers, labels, *features, text, *split, sentiment)))
    return path


def test_public_features_of_meld_fill_their_rows(recipe, tmp_path, monkeypatch):
    "From a pickle of the public structure to a record to a line of a table."
    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'data'))
    before = comparison('mmspcl', 'table4', home=tmp_path)
    assert 'needs data' in before.kinds
    folder = tmp_path / 'data' / 'meld_mmgcn'
    convert(write_public_meld(tmp_path / 'meld.pkl'), folder, name='meld_mmgcn', classes='meld')
    wanted = {key.system for key in wanted_runs('mmspcl') if key.corpus == 'meld_mmgcn'}
    rows = [row for artefact in recipe.artefacts.values() for row in artefact.rows]
    wired = {entry.key.system for row in rows for entry in row.wired}
    assert 'meld_prune64_tav_spcl' in wanted == wired, 'they run once their corpus is there'
    record = run_short('meld_prune64_tav_spcl', tmp_path, [0], 'meld_mmgcn')
    assert len(record.classes) == 7
    assert set(record.probes) >= {'kept_audio', 'kept_visual', 'without_visual_by_seed'}
    after = comparison('mmspcl', 'table4', home=tmp_path, stale=lambda record: None)
    lines = after.data[after.data.corpus == 'meld_mmgcn']
    assert list(lines.system) == ['meld_prune64_tav_spcl', 'meld_prune64_tav']
    assert list(lines.state) == ['drawn', 'not run']
    assert after.kinds.count('needs data') == before.kinds.count('needs data') - 1
