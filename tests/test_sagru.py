"SA-GRU: golden numbers of every equation, and what must hold of any model of conversations."

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import close, toy_batch

import erc.models.sagru
import erc.studies.sagru
from erc.data.batches import from_padded, make_batches
from erc.data.registry import load_corpus
from erc.evidence.metrics import accuracy, confusion, macro_f1, unweighted_accuracy, weighted_f1
from erc.models.sagru import (
    _SYSTEMS,
    ADD,
    SAGRU,
    ATSFusion,
    SAGRUCell,
    SelfAttention,
    _attend_in_dialogues,
    _both_ways,
    _run_units,
)
from erc.runs.recipes import find_system, load_recipe
from erc.runs.records import find_record
from erc.runs.run import run_system
from erc.studies.sagru import (
    _FOUR_CLASSES,
    _LEVELS,
    _clipped_feature,
    _drawn_dialogue,
    _four_classes,
    _speaker_statistics,
    attention_probe,
    load_four,
)
from erc.training.engine import Single, Stack
from erc.training.settings import criterion

T = torch.from_numpy
SIZES = {'audio': 6, 'text': 5, 'speaker': 4}
MODALITIES = ('audio', 'text', 'speaker')
PRESETS = sorted(_SYSTEMS)


def make_batch(lengths=(5, 3, 1, 4)):
    return toy_batch(SIZES, lengths, classes=4)


def make_model(preset='S5', **options):
    torch.manual_seed(3)
    return SAGRU(SIZES, 4, **{'preset': preset, 'width': 8, 'units': 3, **options}).double()


# ---- golden numbers ----------------------------------------------------------------------------


@pytest.fixture(scope='session')
def every(golden):
    "All arrays of the three golden files: one model of width 8, 4 units a direction, 4 heads."
    names = ('sagru_ats_fusion', 'sagru_gru', 'sagru_attention')
    return {k: v for name in names for k, v in golden(f'sagru/{name}').items()}


def weights_of(g):
    names = {'W_a', 'W_t', 'W_s', 'W_F', 'w_F', 'WQ', 'WK', 'WV', 'W_out', 'b_out'}
    return {k: v for k, v in g.items() if k in names or k[:3] in ('fw_', 'bw_')}


def test_fusion(golden):
    g = golden('sagru/sagru_ats_fusion')
    x = {k: T(g[k]) for k in MODALITIES}
    heads = {k: np.zeros((4, 8, 2)) for k in ('WQ', 'WK', 'WV')}
    rest = {'W_out': np.zeros((4, 8)), 'b_out': np.zeros(4)}
    fusion = SAGRU.from_released({**weights_of(g), **rest, **heads}, 'S3').fusion
    u = fusion.columns(x)
    close(u.mT, g['u_cat'])
    close(fusion.W_F(u).tanh().mT, g['P_F'])
    f, alpha = fusion(x)
    close(alpha, g['alpha'])
    close(f, g['fused_ATS'])
    state = fusion.state_dict()
    two = ATSFusion({'audio': 11, 'text': 7}, 8).double()
    two.load_state_dict({k: v for k, v in state.items() if 'speaker' not in k})
    f, alpha = two(x)
    close(alpha, g['alpha_AT'])
    close(f, g['fused_AT'])
    add = ADD({'audio': 11, 'text': 7, 'speaker': 5}, 8).double()
    add.load_state_dict({k: v for k, v in state.items() if k.startswith('W.')})
    close(add(x)[0], g['fused_ADD'])


def released_cells(g, form='paper'):
    cells = [SAGRUCell(8, 4, form).double() for _ in range(2)]
    for cell, direction in zip(cells, ('fw', 'bw')):
        state = {} if form == 'paper' else {'bias_hh': torch.zeros(12)}
        for name, symbol in (('weight_ih', 'W'), ('weight_hh', 'U'), ('bias_ih', 'b')):
            state[name] = torch.cat([T(g[f'{direction}_{symbol}{gate}']) for gate in 'rzh'])
        cell.load_state_dict(state)
    return cells


def test_unit(golden):
    g = golden('sagru/sagru_gru')
    x, cells = T(g['x']), released_cells(g)
    close(_both_ways(cells, x, (1,) * 6), g['H'])
    h = torch.zeros(2, 1, 4, dtype=torch.float64)
    for forward, backward in zip(range(6), reversed(range(6))):
        steps = zip(cells, (forward, backward), h)
        h = torch.stack([cell(x[t : t + 1], state) for cell, t, state in steps])
        close(h[0, 0], g['H_forward'][forward])
        close(h[1, 0], g['H_backward'][backward])


def test_unit_of_the_library(golden):
    "The same numbers in `torch.nn.GRU`, with the sign of z turned around, do not give Eq. 7."
    g = golden('sagru/sagru_gru')
    cell = released_cells(g, 'torch')[0]
    with torch.no_grad():
        for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih):
            p[4:8] *= -1
    inputs = F.linear(T(g['x']), cell.weight_ih, cell.bias_ih)[None]
    h = _run_units([cell], inputs, inputs.new_zeros(1, 1, 4), (1,) * 6)[0]
    close(h, g['torch_nn_gru_forward_same_numbers'])
    difference = np.abs(g['torch_nn_gru_forward_same_numbers'] - g['H_forward'])
    assert difference.max() > 0.01


def test_the_form_of_the_library_is_the_library():
    x, reference = torch.randn(6, 8, dtype=torch.float64), torch.nn.GRU(8, 4, bidirectional=True)
    reference.double()
    cells = [SAGRUCell(8, 4, 'torch').double() for _ in range(2)]
    for cell, suffix in zip(cells, ('', '_reverse')):
        names = {k: k.replace('ih', 'ih_l0').replace('hh', 'hh_l0') for k in cell.state_dict()}
        cell.load_state_dict({k: getattr(reference, n + suffix) for k, n in names.items()})
    close(_both_ways(cells, x, (1,) * 6), reference(x)[0])


@pytest.mark.parametrize(
    'size,scaled,names',
    [
        ('', False, ('R', 'weights')),
        ('_2d', False, ('R_2d', 'weights_2d')),
        ('', True, ('R_scaled_for_contrast', 'weights_scaled_for_contrast')),
    ],
)
def test_attention(golden, size, scaled, names):
    g = golden('sagru/sagru_attention')
    h = T(g[f'H{size}'])
    blocks = [T(g[f'{k}{size}']).transpose(1, 2).flatten(0, 1) for k in ('WQ', 'WK', 'WV')]
    attention = SelfAttention(h.shape[1], 8, 4, scaled).double()
    attention.load_state_dict({'qkv.weight': torch.cat(blocks)})
    r, alpha = attention(h)
    close(r, g[names[0]])
    close(alpha, g[names[1]])
    order = T(g['permutation'])
    close(attention(h[order])[0], r[order])


def golden_batch(g, turns=6):
    features = {k: T(g[k])[None, :turns] for k in MODALITIES}
    return from_padded(features, torch.zeros(1, turns), [turns])


def test_whole_systems(every):
    batch, weights = golden_batch(every), weights_of(every)
    out = SAGRU.from_released(weights)(batch)
    close(out.logits, every['logits'])
    close(out.logits.softmax(-1), every['prob'])
    close(out.probes['attention'].transpose(0, 1), every['weights'])
    close(out.probes['alpha'], every['alpha'])
    for preset, name in (('S3', 'attention_on_fused'), ('S4', 'bigru_only')):
        logits = SAGRU.from_released(weights, preset)(batch).logits
        close(logits, every[f'{preset}_logits_{name}'])


@pytest.mark.parametrize('padding', [0.0, 1e3])
def test_a_shorter_dialogue_in_a_padded_batch(every, padding):
    "The backward unit starts at the fourth turn and attention ends there."
    n, model = int(every['padded_mask'].sum()), SAGRU.from_released(weights_of(every))
    features = {k: T(every[k])[None].repeat(2, 1, 1) for k in MODALITIES}
    for x in features.values():
        x[1, n:] = padding
    batch = from_padded(features, torch.zeros(2, 6), [6, n])
    logits = batch.to_padded(model(batch).logits)
    close(logits[0], every['logits'])
    close(logits[1, :n], every['logits_first4_turns_only'])


def test_metrics(golden):
    g = golden('common/metrics')
    classes = int(max(g['y_true'].max(), g['y_pred'].max())) + 1
    counts = confusion(g['y_true'], g['y_pred'], classes)
    for metric in (unweighted_accuracy, accuracy, weighted_f1, macro_f1):
        close(metric(counts), g[metric.__name__])


# ---- what must hold of any of them -------------------------------------------------------------

OPTIONS = [dict(preset=preset) for preset in PRESETS] + [
    dict(form='torch'),
    dict(scaled=True),
    dict(units=4),
    dict(bias=True, activation='relu'),
]


def name_of(options):
    return '-'.join(map(str, options.values()))


@pytest.mark.parametrize('options', OPTIONS, ids=name_of)
def test_dialogues_of_a_batch_are_independent(options):
    batch, model = make_batch(), make_model(**options)
    together = batch.to_padded(model(batch).logits)
    for d, n in enumerate(batch.lengths.tolist()):
        features = {k: batch.to_padded(x)[d : d + 1, :n] for k, x in batch.features.items()}
        alone = from_padded(features, torch.zeros(1, n), [n])
        close(alone.to_padded(model(alone).logits)[0], together[d, :n], 1e-12)


@pytest.mark.parametrize('options', OPTIONS, ids=name_of)
def test_seeds_stack(options):
    "vmap over seeds equals the plain module, dropout included."
    batch, step, loss_of = make_batch(), torch.tensor(2), criterion('emotion')

    def make():
        return SAGRU(SIZES, 4, **{'width': 8, 'units': 3, **options})

    stack, single = Stack(make, [0, 7], torch.float64), Single(make, [7], torch.float64)
    stacked, alone = stack.loss(batch, step, loss_of), single.loss(batch, step, loss_of)
    assert abs(stacked[1] - alone[0]) < 1e-12
    stacked.sum().backward()
    alone.sum().backward()
    for name, p in single.model.named_parameters():
        close(stack.params[name].grad[1], p.grad, 1e-12)
    assert (stack.predict(batch)[1] == single.predict(batch)[0]).all()


@pytest.mark.parametrize('preset', PRESETS)
def test_order(preset):
    "Only the system without a recurrence is independent of the order of turns."
    batch, model, order = make_batch((6,)), make_model(preset), torch.tensor([3, 0, 5, 1, 4, 2])
    features = {k: x[order] for k, x in batch.features.items()}
    shuffled = model(dataclasses.replace(batch, features=features)).logits
    moved = (shuffled - model(batch).logits[order]).abs().max()
    assert moved < 1e-12 if preset == 'S3' else moved > 1e-4


def test_backward_pass_starts_at_the_last_turn():
    "In a batch of several lengths, the last turn's backward state is one step from zero."
    batch, cells = make_batch(), [SAGRUCell(6, 3).double() for _ in range(2)]
    h = batch.to_padded(_both_ways(cells, batch.features['audio'], batch.sizes))
    x, zeros = batch.to_padded(batch.features['audio']), torch.zeros(1, 3, dtype=torch.float64)
    for d, n in enumerate(batch.lengths.tolist()):
        close(h[d, n - 1, 3:], cells[1](x[d, n - 1 : n], zeros)[0], 1e-12)
        close(h[d, 0, :3], cells[0](x[d, :1], zeros)[0], 1e-12)


@pytest.mark.parametrize('most', [1, 2, 3, 7])
def test_blocks_change_nothing(most):
    batch, attention = make_batch((5, 3, 1, 4, 4, 2, 6)), SelfAttention(6, 8, 4).double()
    h = batch.features['audio']
    r, weights = _attend_in_dialogues(attention, h, batch, most, keep=True)
    expected_r, expected_weights = _attend_in_dialogues(attention, h, batch, 7, keep=True)
    close(r, expected_r, 1e-12)
    close(weights, expected_weights, 1e-12)
    close(weights.sum(-1), np.ones(weights.shape[:2]), 1e-12)
    for row, n in enumerate(batch.lengths[batch.dialogue]):
        assert (weights[row, :, n:] == 0).all()


def test_widths():
    "100 units a direction as the sentence says, or 50 as the equation has it."
    sizes = dict.fromkeys(MODALITIES, 3)
    assert SAGRU(sizes, 4).attention.qkv.weight.shape == (300, 200)
    assert SAGRU(sizes, 4, units=50).attention.qkv.weight.shape == (300, 100)
    assert SAGRU(sizes, 4).out.in_features == 100
    assert SAGRU(sizes, 4, preset='S4').out.in_features == 200


def test_places_of_dropout(monkeypatch):
    "After the projections, after the recurrence where attention follows, before the last layer."
    seen = []
    record = lambda x, p, batch, place: seen.append((place, p)) or x  # noqa: E731
    monkeypatch.setattr(erc.models.sagru, 'dropout', record)
    for preset in PRESETS:
        make_model(preset)(make_batch())
    columns, states, last = ('columns', 0.2), ('states', 0.2), ('last', 0.2)
    whole, short = [columns, states, last], [columns, last]
    assert seen == whole + whole + short + short + whole


def test_attention_is_probed_in_evaluation_only():
    batch = make_batch()
    assert 'attention' in make_model()(batch).probes
    assert 'attention' not in make_model()(batch.at(0, 0)).probes
    assert 'attention' not in make_model('S4')(batch).probes


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'preset,gone',
    [('S1', 'text'), ('S1', 'audio'), ('S2', 'speaker'), ('S5', 'speaker'), ('S3', 'text')],
)
def test_a_missing_modality_is_named(preset, gone):
    with pytest.raises(ValueError, match=f'{preset} reads .*{gone} missing'):
        SAGRU({k: n for k, n in SIZES.items() if k != gone}, 4, preset=preset)
    batch = make_batch()
    features = {k: x for k, x in batch.features.items() if k != gone}
    with pytest.raises(ValueError, match=f'{gone} missing'):
        make_model(preset)(dataclasses.replace(batch, features=features))


def test_s1_needs_no_speaker():
    model = SAGRU({'audio': 6, 'text': 5}, 4, preset='S1', width=8).double()
    assert model(make_batch()).logits.shape == (13, 4)


@pytest.mark.parametrize(
    'options,message',
    [
        (dict(preset='S6'), "unknown system 'S6'"),
        (dict(fusion='mean'), "unknown fusion 'mean'"),
        (dict(fuson='add'), "unknown option 'fuson'; did you mean 'fusion'"),
        (dict(heads=3), 'cannot be divided into 3 heads'),
        (dict(form='lstm'), 'form of the unit'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SAGRU(SIZES, 4, **options)


# ---- data --------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def demo():
    return load_corpus('demo')


def test_a_corpus_without_the_four_classes(demo):
    other = demo.replace(classes=('happy', 'blue', 'dull', 'angry', 'excited', 'frustrated'))
    with pytest.raises(ValueError, match='corpus demo has no class sad, neutral'):
        _four_classes(other)
    with pytest.raises(ValueError, match='real-valued'):
        _four_classes(demo.replace(task='regression', classes=()))


def test_meld_has_other_classes(data):
    with pytest.raises(ValueError, match='corpus meld has no class happy, sad, angry'):
        load_four('meld')


def test_constant_features(demo):
    x = demo.features['audio'].copy()
    x[:, 2] = 7
    x[demo.rows('train'), 3] = 1
    z = _clipped_feature(demo.with_features(audio=x), 'audio')
    assert np.isfinite(z).all() and (z[:, 2:4] == 0).all() and z[:, 4].std() > 0.5
    with pytest.raises(ValueError, match="demo: no column of 'audio' varies"):
        _clipped_feature(demo.with_features(audio=np.ones_like(x)), 'audio')


def test_outliers_are_clipped(demo):
    x = demo.features['audio'].copy()
    x[demo.rows('test')[0]] = 1e6
    assert np.abs(_clipped_feature(demo.with_features(audio=x), 'audio')).max() == 10


def test_four_of_six_classes(demo):
    four, kept = _four_classes(demo), _four_classes(demo, 'kept')
    label = np.array([0, 1, 2, 3, 0, -1])[demo.table.label.to_numpy()]
    assert (kept.table.label == label).all()
    assert (four.table.label == label[label >= 0]).all()
    assert (four.features['audio'] == demo.features['audio'][label >= 0]).all()
    for _, turns in four.table.groupby('dialogue'):
        assert turns.turn.tolist() == list(range(len(turns)))


def test_iemocap(data):
    "The counts of section 3.1, and the speakers of session 5 against eight others."
    corpus = load_four('iemocap4')
    counts = corpus.table.label.map(dict(enumerate(_FOUR_CLASSES))).value_counts()
    assert dict(counts) == {'happy': 1636, 'angry': 1103, 'sad': 1084, 'neutral': 1708}
    test = corpus.table.split == 'test'
    assert set(corpus.table[test].session) == {5}
    assert set(corpus.table[~test].session) == {1, 2, 3, 4}
    speaker = corpus.features['speaker']
    assert speaker.shape == (5531, 94) and np.isfinite(speaker).all()
    kept = load_four('iemocap4', others='kept').table
    assert len(kept) > 9000 and (kept.label >= 0).sum() == 5531


def test_speaker_statistics(demo):
    "From the turns of a speaker in a dialogue; no label, and nothing of another dialogue."
    table, vectors = demo.table, _speaker_statistics(demo)
    first = (table.dialogue == table.dialogue[0]).to_numpy()
    rows = np.flatnonzero(first & (table.speaker == table.speaker[0]))
    x = demo.features['audio'][rows].astype(float)
    close(vectors[rows[0]], np.r_[x.mean(0), x.std(0)], 1e-5)
    changed = demo.features['audio'].copy()
    changed[~first] += 3
    other = demo.with_features(audio=changed).replace(table=table.assign(label=0))
    again = _speaker_statistics(other)
    assert (again[first] == vectors[first]).all()
    assert not (again[~first] == vectors[~first]).all()


def test_speaker_statistics_without_audio(demo):
    has = demo.has['audio'].copy()
    rows = np.flatnonzero(demo.table.speaker == demo.table.speaker[0])
    has[rows] = False
    silent = demo.replace(has={**demo.has, 'audio': has})
    assert (_speaker_statistics(silent)[rows] == 0).all()
    with pytest.raises(ValueError, match="computed from 'sound', which demo does not have"):
        _speaker_statistics(demo, 'sound')


def test_a_speaker_feature_takes_the_place_of_the_substitute(demo, monkeypatch):
    own = np.random.default_rng(0).normal(size=(len(demo.table), 5)).astype(np.float32)
    load = lambda name, **_: demo.with_features(speaker=own)  # noqa: E731
    monkeypatch.setattr(erc.studies.sagru, 'load_corpus', load)
    assert load_four('demo').features['speaker'].shape[1] == 5


# ---- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize('preset', PRESETS)
def test_demo_learns_and_keeps_what_figures_draw(preset, tmp_path):
    system = dataclasses.replace(find_system(f'sagru/{preset}'), encoder='hashing')
    small = load_recipe('sagru').demo['settings']
    options = dict(seeds=[0, 1], home=tmp_path, demo=small, progress=False)
    record = run_system(system, system.key('tuned', 'demo'), **options)
    assert min(record.test) > 0.4, 'chance is a quarter'
    assert record.classes == list(_FOUR_CLASSES)
    probes = {'who'}
    if preset != 'S2':
        probes.add('alpha_by_seed')
        alpha = record.probes['alpha_by_seed']
        assert alpha.shape == (2, 4, len(_SYSTEMS[preset]['modalities']), len(_LEVELS))
        assert (np.diff(alpha, axis=-1) >= 0).all(), 'quantiles, not single turns'
    if preset != 'S4':
        probes.add('attention_by_seed')
        attention, turns = record.probes['attention_by_seed'], len(record.probes['who'])
        assert attention.shape == (2, 4, turns, turns)
        close(attention.astype(float).sum(-1), np.ones((2, 4, turns)), 2e-3)
    assert set(record.probes) == probes


def test_attention_of_the_drawn_dialogue_is_that_of_the_dialogue_alone():
    corpus = load_four('demo')
    sizes = {k: corpus.features[k].shape[1] for k in MODALITIES}
    model = SAGRU(sizes, 4, width=8, units=3)
    columns = dict(features=MODALITIES, targets={'emotion': 'label'})
    batches = make_batches(corpus, 'test', size=5, **columns)
    fit = SimpleNamespace(modules=lambda: [model])
    attention = attention_probe(fit, corpus, batches)['attention_by_seed'][0]
    rows = corpus.rows('test')
    rows = rows[_drawn_dialogue(corpus.table.iloc[rows])]
    features = {k: corpus.features[k][rows][None] for k in MODALITIES}
    alone = from_padded(features, torch.zeros(1, len(rows)), [len(rows)])
    expected = model(alone).probes['attention'].transpose(0, 1)
    close(attention.astype(np.float32), expected, 2e-3)


def test_recorded_runs():
    "The seeds of the recipe on the paper's split, two on each other fold, in less than half an hour."
    seeds = {find_system(f'sagru/{name}').seeds for name in _SYSTEMS}
    records = [find_record(f'sagru/{name}:tuned@iemocap4') for name in _SYSTEMS]
    if None in records:
        pytest.skip('the records are missing')
    for record in records:
        counts = {name: len(fold.seeds) for name, fold in record.folds.items()}
        assert {counts.pop('paper')} == seeds and set(counts.values()) == {2} and len(counts) == 4
    assert sum(sum(record.folds['paper'].seconds) for record in records) < 1800
