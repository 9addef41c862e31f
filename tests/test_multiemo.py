"MultiEMO against the authors' numbers, and what must hold of any model of conversations."

import dataclasses
import time

import numpy as np
import pytest
import torch
from helpers import close
from test_dialoguernn import unpack

from erc.data.batches import from_padded, make_batches
from erc.data.registry import load_corpus
from erc.data.sentence_encoders import toy_encoder
from erc.models.cross_attention import MODALITIES
from erc.models.multiemo import _PRESETS, MultiEMO, OneStage, _convert_released
from erc.nn.cells import Out, weighted_nll
from erc.nn.text_features import _with_context
from erc.report.artefacts import reference
from erc.report.comparison import comparison
from erc.runs.fingerprints import _fingerprints
from erc.runs.keys import RunKey
from erc.runs.recipes import find_system, load_recipe, settings_of
from erc.runs.records import Fold, Record
from erc.runs.run import run_system
from erc.studies.multiemo import (
    _fusion_figure,
    _leak_row,
    _negative_loss_row,
    _readout,
    _selection_row,
    class_statistics,
    contribution,
    fusion_probe,
    leak_probe,
    load_one_stage,
)
from erc.training.bench import _operations
from erc.training.engine import Single, Stack, Steps
from erc.training.fit import fit
from erc.training.settings import complete, criterion

T = torch.from_numpy


# ---- the authors' numbers


@pytest.fixture
def arrays(golden):
    "Made with TaoShi1998/MultiEMO@e96458b in float64."
    return golden('multiemo/e_multiemo_iemocap')


def packed(arrays):
    "The (T, B, .) inputs of the golden file, packed."
    x = {m: T(arrays[f'{m}s']).transpose(0, 1) for m in MODALITIES}
    speakers = T(arrays['qmask']).argmax(-1).T
    return from_padded(x, speakers, arrays['lengths'], {'emotion': T(arrays['labels'])})


def in_order(arrays, batch, x):
    "Packed rows in (dialogue, time) order."
    return batch.to_padded(x)[T(arrays['umask']) > 0]


def coefficients(arrays):
    return [float(arrays[f'mu_{k}']) for k in ('swfc', 'hgr', 'ce')]


def released_model(arrays, **options):
    focus = {k: float(arrays[k]) for k in ('tau', 'gamma', 'alpha')}
    return MultiEMO.from_released(
        unpack(arrays, 'sd'),
        preset='released_iemocap',
        class_counts=arrays['class_counts'],
        mu=coefficients(arrays),
        **focus,
        **options,
    )


def cross_entropy(out, batch):
    return weighted_nll(out.logits.log_softmax(-1), batch.targets['emotion'])


@pytest.mark.parametrize('padding', ['released', 'masked'])
def test_full_model_matches_the_authors(arrays, padding):
    "Features, scores, three losses and gradients: each dialogue alone, or the padded batch with its leak."
    model, batch = released_model(arrays, padding=padding), packed(arrays)
    out, prefix = model(batch), 'truth_' if padding == 'masked' else ''
    close(in_order(arrays, batch, out.logits), arrays[f'{prefix}logits'])
    close(in_order(arrays, batch, out.probes['z']), arrays[f'{prefix}z'])
    for i, letter in enumerate('tav'):
        fused = out.probes['fused'][:, i]
        close(in_order(arrays, batch, fused), arrays[f'{prefix}F_{letter}'])
    swfc, hgr, ce = coefficients(arrays)
    close(out.losses['swfc'] / swfc, arrays[f'{prefix}loss_swfc'])
    close(out.losses['soft_hgr'] / hgr, arrays[f'{prefix}loss_hgr'])
    close(cross_entropy(out, batch), arrays[f'{prefix}loss_ce'])
    close(out.losses['cross_entropy'] / (ce - 1), arrays[f'{prefix}loss_ce'])
    loss = cross_entropy(out, batch) + sum(out.losses.values())
    close(loss, arrays[f'{prefix}loss_total'])
    loss.backward()
    theirs = _convert_released(unpack(arrays, f'{prefix}grad'))
    assert set(theirs) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        close(parameter.grad, theirs[name])


def test_four_adam_steps_match_the_authors(arrays):
    "The padded model, as trained by the released code."
    model, batch, trace = released_model(arrays, padding='released'), packed(arrays), []
    rate, decay = float(arrays['adam_lr']), float(arrays['adam_weight_decay'])
    optimiser = torch.optim.Adam(model.parameters(), rate, weight_decay=decay)
    swfc, hgr, _ = coefficients(arrays)
    for _ in range(4):
        optimiser.zero_grad()
        out = model(batch)
        entropy = cross_entropy(out, batch)
        loss = entropy + sum(out.losses.values())
        parts = out.losses['soft_hgr'] / hgr, out.losses['swfc'] / swfc, entropy, loss
        trace.append([part.item() for part in parts])
        loss.backward()
        optimiser.step()
    close(torch.tensor(trace, dtype=torch.float64), arrays['adam_trace'])
    own = dict(model.named_parameters())
    for name, value in _convert_released(unpack(arrays, 'adam_after')).items():
        close(own[name], value)


def test_meld_drops_what_never_learns(arrays):
    "The same weights read as MELD's model: what has no gradient there is not made."
    counts, batch = arrays['class_counts'], packed(arrays)
    model = MultiEMO.from_released(
        unpack(arrays, 'sd'), preset='released_meld', class_counts=counts
    )
    assert set(model.rnns) == {'audio', 'visual'} and not hasattr(model.rnns['audio'], 'back')
    out = model(batch)
    (out.logits.sum() + sum(out.losses.values())).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_parameter_counts():
    "Counted from the official class: 29.67 million for IEMOCAP; 10.39 of 17.10 million used for MELD."
    sizes = dict(text=768, audio=512, visual=1000)

    def millions(classes, **options):
        model = MultiEMO(sizes, classes, **options)
        return round(sum(p.numel() for p in model.parameters()) / 1e6, 2)

    assert millions(6, preset='released_iemocap') == 29.67
    assert millions(7, preset='released_meld') == 10.39
    unused = dict(text_context=True, direction='both')  # these never receive a gradient there
    assert millions(7, preset='released_meld', **unused) == 17.1


# ---- what must hold of any model of conversations

SIZES = {'text': 6, 'audio': 5, 'visual': 4}
OPTIONS = [dict(preset=preset) for preset in _PRESETS] + [
    dict(fusion='concat'),
    dict(direction='forward'),
    dict(text_context=True),
    dict(mu=(0, 0.3, 0.7)),
    dict(mu=(0.4, 0, 0.6)),
]
LEAKS = [dict(padding='released'), dict(preset='released_meld', padding='released')]


def name_of(options):
    return '-'.join(map(str, options.values()))


def toy(lengths=(5, 3, 1, 4), seed=0, speakers=3):
    "Random dialogues with labels -1 to 3, packed."
    g = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(lengths)
    x = {m: torch.randn(B, L, d, generator=g, dtype=torch.float64) for m, d in SIZES.items()}
    speaker = torch.randint(0, speakers, (B, L), generator=g)
    return from_padded(x, speaker, lengths, {'emotion': torch.randint(-1, 4, (B, L), generator=g)})


def make(sizes=SIZES, **options):
    return MultiEMO(sizes, 4, width=8, heads=2, ffn=12, **options)


def made(sizes=SIZES, **options):
    torch.manual_seed(3)
    return make(sizes, **options).double()


def alone(batch, dialogue, turns):
    "One dialogue of a batch as a batch of its own."
    x = {m: batch.to_padded(v)[[dialogue], :turns] for m, v in batch.features.items()}
    return from_padded(x, batch.to_padded(batch.speakers)[[dialogue], :turns], [turns])


def test_without_multiattn_features_cannot_grow():
    "Or Soft-HGR as released, which has no lower bound, is all that is learnt."
    model = made(fusion='concat', preset='released_iemocap')
    with torch.no_grad():
        for layer in model.inputs.values():
            layer.weight *= 1000
        fused = model(toy()).probes['fused']
    assert 0.9 < fused.square().mean(-1).sqrt().max() < 1 + 1e-6


@pytest.mark.parametrize('options', OPTIONS, ids=name_of)
def test_a_dialogue_does_not_see_its_neighbours(options):
    batch, model = toy(), made(**options)
    together = batch.to_padded(model(batch).logits)
    for dialogue, turns in enumerate(batch.lengths.tolist()):
        one = alone(batch, dialogue, turns)
        close(one.to_padded(model(one).logits)[0], together[dialogue, :turns], 1e-12)


@pytest.mark.parametrize('preset', ['released_iemocap', 'released_meld'])
def test_released_padding_leaks_but_not_for_a_lone_dialogue(preset):
    batch = toy()
    leaking, masked = made(preset=preset, padding='released'), made(preset=preset)
    one = alone(batch, 1, 3)
    among_others = batch.to_padded(leaking(batch).logits)[1, :3]
    assert (among_others - leaking(one).logits).abs().max() > 1e-6
    close(leaking(one).logits, masked(one).logits, 1e-12)


@pytest.mark.parametrize('options', OPTIONS + LEAKS, ids=name_of)
def test_seeds_stack(options):
    "vmap over seeds equals the plain module, dropout included."
    batch, loss_of = toy(), criterion('emotion')

    def build():
        return make(**{'dropout': 0.2, **options})

    stack, single = Stack(build, [0, 7], torch.float64), Single(build, [7], torch.float64)
    stacked, alone = (e.loss(batch, torch.tensor(2), loss_of) for e in (stack, single))
    assert abs(stacked[1] - alone[0]) < 1e-12
    stacked.sum().backward()
    alone.sum().backward()
    for name, parameter in single.model.named_parameters():
        if parameter.grad is not None:
            close(stack.params[name].grad[1], parameter.grad, 1e-12)


@pytest.mark.parametrize(
    'some',
    [['text'], ['audio'], ['visual'], ['text', 'audio'], ['text', 'visual'], ['audio', 'visual']],
    ids='+'.join,
)
@pytest.mark.parametrize('preset', _PRESETS)
def test_fewer_modalities(some, preset):
    model, batch = made({m: SIZES[m] for m in some}, preset=preset), toy()
    out = model(batch)
    assert out.logits.shape == (13, 4) and ('soft_hgr' in out.losses) == (len(some) > 1)
    (out.logits.sum() + sum(out.losses.values())).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_class_counts_are_those_of_training():
    batch = toy()
    model = made(preset='released_meld')
    model.on_epoch_start(lambda: [(model(batch), batch), (model(batch), batch)])
    labels = batch.targets['emotion']
    counts = torch.bincount(labels[labels >= 0], minlength=4)
    assert model.class_counts.tolist() == (2 * counts).tolist()
    model.on_epoch_start(lambda: pytest.fail('counted twice'))
    given = made(preset='released_meld', class_counts=(2 * counts).tolist())
    close(sum(model(batch).losses.values()), sum(given(batch).losses.values()), 1e-12)
    with torch.no_grad():
        assert model(batch).losses == {}, 'no loss is computed where none is needed'


@pytest.mark.parametrize(
    'options,message',
    [
        (dict(class_counts=[1, 2]), '2 entries for 4 classes'),
        (dict(preset='papr'), "unknown preset 'papr'; did you mean 'paper'"),
        (dict(layer=2), "unknown option 'layer'"),
        (dict(padding='mask'), "unknown padding 'mask'"),
        (dict(losses='papers'), 'unknown losses'),
        (dict(sizes={'texts': 3}), 'unknown modality'),
        (dict(sizes={}), 'no modality'),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


@pytest.mark.parametrize(
    'mu', [(0.4, 0.6), 'abc', '123', 0.3, None, (0.4, -0.1, 0.7), (0.4, 0.3, float('nan'))]
)
def test_coefficients_must_be_three_numbers(mu):
    with pytest.raises(ValueError, match='give three coefficients of 0 or more'):
        made(mu=mu)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='3 heads do not divide a width of 8'):
        MultiEMO(SIZES, 4, width=8, heads=3)


def test_bad_batches():
    batch = toy()
    batch.features['audio'] = batch.features['audio'][:-1]
    with pytest.raises(ValueError, match="'audio' has 12 rows, the batch 13"):
        made()(batch)
    x = {'text': torch.randn(2, 4, 3), 'audio': torch.randn(2, 3, 3)}
    with pytest.raises(ValueError, match='audio'):
        from_padded(x, torch.zeros(2, 4), [4, 2])
    batch = toy()
    batch.targets['emotion'] = batch.targets['emotion'].clamp(min=0) + 4
    with pytest.raises(ValueError, match='label 6 is outside the 4 classes'):
        made(mu=(0, 0, 1))(batch)


def test_only_released_weights_are_converted():
    with pytest.raises(ValueError, match='unknown preset'):
        MultiEMO.from_released({}, preset='mine')
    message = (
        "not the weights of the authors' MultiEMO.*without fc.bias"
        "|without mlp.linear_1.bias: give the model's state_dict"
    )
    gru = torch.nn.GRU(3, 4).state_dict()
    for other in ({}, {'state_dict': {}}, gru, made().state_dict()):
        with pytest.raises(ValueError, match=message):
            MultiEMO.from_released(other)


def test_a_step_is_little_more_than_its_products():
    """At MELD's shapes (100 dialogues, 2 layers, 768/512/1000 inputs) on one thread.

    At most 3 times one product of the same work, in processor time.
    """
    threads, g = torch.get_num_threads(), np.random.default_rng(0)
    torch.set_num_threads(1)
    try:
        lengths, sizes = np.r_[24, g.integers(3, 17, 99)], dict(text=768, audio=512, visual=1000)
        x = {m: torch.randn(100, 24, d) for m, d in sizes.items()}
        speakers, labels = g.integers(0, 5, (100, 24)), g.integers(0, 7, (100, 24))
        batch = from_padded(x, speakers, lengths, {'emotion': labels})
        counts = [5000, 1300, 300, 800, 1900, 290, 1200]

        def build():
            return MultiEMO(sizes, 7, preset='released_meld', class_counts=counts)

        step = Steps(Single(build, [0]), [batch], criterion('emotion'), complete({}))
        n = round((_operations(build, batch, 'emotion') / 2) ** (1 / 3))
        p, q = torch.randn(2, n, n)

        def seconds(function):
            start = time.process_time()
            function()
            return time.process_time() - start

        step(0, 0)
        took = [(seconds(lambda: step(0, 0)), seconds(lambda: p @ q)) for _ in range(4)]
        assert min(a for a, _ in took) <= 3 * min(c for _, c in took), took
    finally:
        torch.set_num_threads(threads)


# ---- the encoder trained too


def test_one_stage_input():
    table = load_one_stage('demo', window=2).table
    d = table[table.dialogue == table.dialogue.iloc[0]].reset_index(drop=True)
    past, future = f'{d.text[0]} {d.text[1]}', f'{d.text[3]} {d.text[4]}'
    current = f'{d.speaker[2].upper()}: {d.text[2]}'
    assert d.in_context[2] == f'{past} [SEP] {current} [SEP] {future}'
    assert d.in_context[0].startswith('[SEP] ') and d.in_context.iloc[-1].endswith('[SEP]')


def test_one_stage_trains_its_encoder(tmp_path):
    "Token ids in, a loss that falls, gradients in the encoder; the padding of the batch does not matter."
    corpus = load_one_stage('demo')
    toy_encoder(tmp_path, list(corpus.table.in_context), width=16)
    encoder = str(tmp_path)
    corpus = _with_context(corpus, encoder, 'text', column='in_context', tokens=True, longest=60)

    def cut(split):
        return make_batches(corpus, split, size=16, features=['text'], targets={'emotion': 'label'})

    def build():
        small = dict(width=16, heads=2, ffn=16, preset='released_meld')
        return OneStage({'text': 60}, len(corpus.classes), encoder=encoder, **small)

    before = {k: v.clone() for k, v in build().encoder.state_dict().items()}
    labels = corpus.table.label.to_numpy()
    dev = labels[corpus.rows('dev')]
    trained = fit(
        build,
        cut('train'),
        cut('dev'),
        lambda predictions: (predictions == dev).mean(1),
        seeds=[0],
        settings={'epochs': 3, 'lr': 1e-3},
        target='emotion',
        vectorise=False,
        progress=False,
    )
    assert trained.losses[0, -1] < trained.losses[0, 0]
    model = next(trained.modules()).eval()
    moved = [(v - before[k]).abs().max() > 1e-4 for k, v in model.encoder.state_dict().items()]
    assert any(moved), 'the encoder learns too'
    assert model.model.class_counts.sum() == (labels[corpus.rows('train')] >= 0).sum()
    with pytest.raises(ValueError, match="needs the feature 'text'"):
        OneStage({'audio': 3}, 2, encoder=encoder)


# ---- recipe


def trained_systems():
    return [s for s in load_recipe('multiemo').systems.values() if s.kind == 'model']


def test_recipe_is_whole():
    "Every system of the recipe can be made, and every printed row of the tables is there."
    recipe, printed = load_recipe('multiemo'), reference('multiemo')
    systems = [s for s in trained_systems() if s.vectorise]
    assert all(_fingerprints(systems, progress=False).values())
    for table in ('table1', 'table2'):
        rows = [row.row for row in recipe.artefact(table).rows if row.printed]
        assert rows == printed[printed.artefact == table].row.drop_duplicates().tolist()
    shown = {(row.row, row.dataset) for row in recipe.artefact('table3').rows if row.printed}
    table3 = printed[printed.artefact == 'table3']
    assert shown == set(zip(table3.row, table3.dataset))
    for table in ('table1', 'table2', 'table3'):
        assert comparison('multiemo', table, stale=lambda record: None).kinds


def test_baselines_read_what_multiemo_reads():
    """For each text of a MultiEMO in Tables 1 and 2 a line of each baseline reads the same.

    Labels say which text that is.
    """
    recipe = load_recipe('multiemo')

    def inputs(system):
        lists = (system.corpora, system.features, system.standardised)
        return system.data, str(system.encode), *map(tuple, lists)

    for table in ('table1', 'table2'):
        rows = {row.row: row.entries for row in recipe.artefact(table).rows}
        systems = {
            name: [find_system(entry.key.system_id) for entry in rows[name]]
            for name in ('BC-LSTM', 'DialogueRNN', 'MultiEMO')
        }
        for system in systems['MultiEMO']:
            for name in ('BC-LSTM', 'DialogueRNN'):
                same = [inputs(system) == inputs(other) for other in systems[name]]
                assert any(same) or not system.vectorise, system.id
    for system in trained_systems():
        if 'text' in system.encode:
            in_context = 'in_context' in str(system.encode)
            assert ('text in context' in system.label) == in_context, system.id
    row = next(row for row in recipe.artefact('table3').rows if row.label == 'MELD, text')
    shown = {(entry.key.system, entry.key.variant) for entry in row.entries}
    whole, names = ('meld', 'meld_released', 'meld_finetuned'), ('meld_rnn',)
    assert shown == {(n, 'tuned') for n in whole + names} | {(n, 'paper') for n in whole}


def test_paper_settings_are_those_printed():
    """Section 4: Adam's second moment and the decay of the rate, for every whole MultiEMO.

    No tuned system takes them over.
    """
    printed = [system for system in trained_systems() if system.as_printed]
    assert all(system.model.startswith('erc.models.multiemo') for system in printed)
    whole = {'multiemo', 'multiemo_released', 'meld', 'meld_released', 'meld_finetuned'}
    assert whole <= {system.name for system in printed}
    for system in printed:
        batch = 100 if system.name.startswith('meld') else 64
        expected = dict(epochs=100, lr=1e-4, weight_decay=1e-5, batch=batch)
        expected |= dict(betas=[0.9, 0.99], drop=0.95, drop_every=10)
        paper = settings_of(system, 'paper')['hyperparameters']
        assert {k: paper.get(k) for k in expected} == expected, system.id
    for system in trained_systems():
        tuned = settings_of(system, 'tuned')['hyperparameters']
        assert not {'betas', 'drop', 'drop_every'} & set(tuned), system.id


def test_a_system_runs_from_training_to_record(tmp_path):
    small = {'preset': 'released_iemocap', 'layers': 1, 'width': 16, 'ffn': 16, 'heads': 2}
    system = find_system('multiemo/multiemo_released')
    system = dataclasses.replace(system, encoder='hashing', args=small)
    record = run_system(
        system,
        system.key('paper', 'demo'),
        seeds=[0, 1],
        home=tmp_path,
        demo={'epochs': 2, 'lr': 1e-2},
        progress=False,
    )
    assert len(record.test) == 2 and 'test' in record.curves
    assert np.isfinite(record.curves['loss']).all()


# ---- probes and analyses


class Trained:
    "Stand-in for what `fit` returns."

    def __init__(self, *models):
        self.models = models

    def modules(self):
        yield from self.models


def test_leak_probe_counts_what_padding_changes():
    batch, model = toy((9, 3, 1, 4)), made(preset='released_iemocap')
    probe = leak_probe(Trained(model), None, [batch])
    assert model.options['padding'] == 'masked', 'the model is left as it was'
    leaking = made(preset='released_iemocap', padding='released')
    p, q = (m(batch).logits.softmax(-1) for m in (model, leaking))
    largest = probe['leak_largest_by_seed'][0]
    assert np.isclose(largest, (p - q).abs().max().item()) and largest > 0
    changed = (p.argmax(-1) != q.argmax(-1)).double().mean().item()
    assert np.isclose(probe['leak_changed_by_seed'][0], changed)
    lone = leak_probe(Trained(model), None, [alone(batch, 1, 3)])
    assert lone['leak_largest_by_seed'].max() < 1e-12, 'a dialogue alone has no padding'


class Shown(torch.nn.Module):
    "A model whose context is the first number of each feature, and whose fusion is the second."

    inputs = {'text': None, 'audio': None}

    def __init__(self, helps=True):
        super().__init__()
        self.helps, self.fc, self.mlp2 = helps, torch.nn.Linear(1, 1), torch.nn.Linear(1, 2)

    def forward(self, batch):
        x = torch.stack([batch.features[m] for m in self.inputs], 1)
        fused = x[..., 1:2] if self.helps else x[..., :1]
        return Out(None, {}, {'context': x[..., :1], 'fused': fused, 'z': x.sum(1)})


def two_classes(test):
    """The demo corpus with two classes, and batches of its test rows.

    Training rows show their class before and after fusion; `test` gives (label, before, after).
    """
    corpus = load_corpus('demo')
    table = corpus.table.assign(label=np.arange(len(corpus)) % 2)
    x = np.random.default_rng(0).normal(0, 3, (len(table), 1))
    x = x + 2 * table.label.to_numpy()[:, None] - 1
    x, rows = np.hstack([x, x]).astype(np.float32), corpus.rows('test')
    table.loc[rows, 'label'], x[rows] = -1, 0
    table.loc[rows[: len(test)], 'label'] = [label for label, *_ in test]
    x[rows[: len(test)]] = [shown for _, *shown in test]
    corpus = corpus.replace(table=table, classes=('no', 'yes')).with_features(text=x, audio=x)
    batches = make_batches(
        corpus, 'test', size=64, features=['text', 'audio'], targets={'emotion': 'label'}
    )
    return corpus, rows, batches


def test_fusion_probe_shows_the_utterance_that_gains_most():
    "Missed before, found after, by the probability of the right class, of the first seed."
    shown = [(1, -0.5, 2.5), (1, 0.5, 9), (1, -9, -0.5), (0, 0.5, -1), (0, 3, -1.5), (0, -0.5, 1.5)]
    corpus, rows, test = two_classes(shown)
    probe = fusion_probe(Trained(Shown(), Shown(helps=False)), corpus, test)
    assert probe['fusion_row'].tolist() == [rows[4]]
    assert probe['fusion_context'].tolist() == [[3], [3]]
    assert probe['fusion_joined'].tolist() == [6, -3]
    read = probe['fusion_read']
    assert read.shape == (4, 2) and (read[:3, 0] < 0.5).all() and read[3, 0] > 0.5
    train = corpus.rows('train')
    x, labels = corpus.features['text'][train, :1], corpus.table.label.to_numpy()[train]

    def p(value):
        return _readout(np.hstack([x, x]), labels, [[value, value]])[0]

    gain = [(p(after) - p(before))[label] for label, before, after in shown]
    assert min(gain[1], gain[2]) > gain[4] > max(gain[0], gain[3], gain[5]), (
        'an utterance that was right before, or is wrong after, gains more and does not count'
    )
    assert np.isclose(read[3, 0] - read[2, 0], gain[4], atol=1e-5)


def test_fusion_probe_is_empty_where_no_utterance_is_helped():
    corpus, _, test = two_classes([(1, -0.5, 1)])
    assert fusion_probe(Trained(Shown(helps=False), Shown()), corpus, test) == {}
    assert fusion_probe(Trained(Shown()), *two_classes([(1, 0.5, 1), (0, -1, -2)])[::2]) == {}
    one_class = corpus.replace(table=corpus.table.assign(label=corpus.table.label.clip(upper=0)))
    assert fusion_probe(Trained(Shown()), one_class, test) == {}, (
        'a class that training does not have cannot be read'
    )


def record(system='multiemo', scores=(0.5, 0.7), loss=(2.0, -1.0)):
    "A record of one dialogue, two classes and three epochs."
    counts = np.array([[[[10 * s, 10 - 10 * s], [10 - 10 * s, 10 * s]]] for s in scores])
    curves = {
        'loss': np.array([[*loss, np.nan] for _ in scores]),
        'dev': np.array([[0.1, s, np.nan] for s in scores]),
        'test': np.array([[0.1, s + 0.05, np.nan] for s in scores]),
    }
    by_seed = {
        'leak_changed_by_seed': np.array([0.02, 0.04]),
        'leak_largest_by_seed': np.array([0.3, 0.5]),
    }
    fold = Fold(test=list(scores), confusions={'all': counts}, curves=curves, probes=by_seed)
    return Record(RunKey('multiemo', system, 'tuned', 'demo'), folds={'paper': fold})


def test_analyses_of_records():
    where = {'system': 'multiemo', 'corpus': 'demo', 'variant': 'tuned'}
    row = contribution(record(), record('without_swfc', (0.3, 0.6)), resamples=50)
    assert row['against'] == 'without_swfc' and row['of medians'] == '+15.0'
    assert row['difference of means'].startswith('+15.0')
    row = _selection_row(record())
    assert row == where | {
        'chosen on dev': '60.0',
        'best test epoch (as released)': '65.0',
        'difference': '+5.0',
    }
    row = _negative_loss_row(record())
    assert row['seeds below zero'] == '2 of 2' and row['lowest loss'] == '-1.0'
    assert row['dev, chosen epoch'] == row['dev, last epoch'] == '60.0'
    assert _negative_loss_row(record(loss=(2.0, 0.5))) is None
    row = _leak_row(record())
    assert row == where | {
        'predictions changed, %': '3.0',
        'largest change of a probability': '0.50',
    }


def test_fusion_figure_needs_a_fitting_shape():
    read = np.full((3, 2), 0.5)
    probes = dict(fusion_context=np.zeros((1, 6)), fusion_joined=np.zeros(6), fusion_read=read)
    shown = record()
    shown.folds['paper'].probes = probes
    shown.classes, shown.settings = ['no', 'yes'], {'features': ['text']}
    assert len(_fusion_figure(shown, (2, 3)).axes) == 2
    with pytest.raises(ValueError, match=r'6 numbers cannot be folded into \(2, 4\)'):
        _fusion_figure(shown, (2, 4))


def test_class_counts_are_the_known_ones(data):
    "Against counts made from the distributed files by other means."
    known = reference('multiemo').query("artefact == 'fig2_derived'")

    def named(counts):
        return {{'angry': 'anger'}.get(k.lower(), k.lower()): int(n) for k, n in counts}

    meld = class_statistics(load_corpus('meld'))
    rows = known[known.dataset == 'MELD']
    totals = [(k, n + meld['test'][k]) for k, n in meld['train'].items()]
    assert named(zip(rows.row, rows.value)) == named(totals)
    test = class_statistics(load_corpus('iemocap6'))['test']
    assert sorted(test.values()) == sorted(int(v) for v in known[known.dataset == 'IEMOCAP'].value)
