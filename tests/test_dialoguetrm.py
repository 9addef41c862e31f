"DialogueTRM: contexts, masks and receptive fields as specified; no turn depends on what it must not."

import dataclasses
from functools import partial, partialmethod
from inspect import signature

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import close, toy_batch
from test_mgif import encoder_state

import erc.nn.encoders
import erc.runs.fold
import erc.runs.plan
import erc.studies.dialoguetrm as study
from erc.data.batches import from_padded, make_batches
from erc.data.registry import load_corpus
from erc.data.sentence_encoders import toy_encoder
from erc.evidence.metrics import moments, pearson_r
from erc.models.dialoguetrm import (
    DialogueTRM,
    _band_mask,
    _chunk_blocks,
    _chunk_mask,
    _context_free_mask,
    _receptive_field,
    _resolve_options,
    _strict_mask,
    _strict_pass,
)
from erc.nn.attention import Encoder, _attention_weights, attend, within_dialogues
from erc.report.artefacts import reference
from erc.report.comparison import comparison
from erc.report.lines import _record_cell
from erc.runs.keys import RunKey
from erc.runs.plan import _fill_estimates, _measured_seconds
from erc.runs.prepare import _prepare
from erc.runs.recipes import Column, _follows_protocol, find_system, load_recipe
from erc.runs.records import Fold, Record, find_record
from erc.runs.run import run_system
from erc.studies.dialoguetrm import (
    _encode_pairs,
    _rectified,
    _short_cases,
    _windows,
    cases,
    cases_figure,
    conv_context,
    indi_context,
    load_dialogues,
    shift_counts,
    vector_ridge,
)
from erc.training.engine import Single, Stack, Steps
from erc.training.settings import criterion

T = torch.from_numpy
SIZES = {'text': 6, 'audio': 4, 'visual': 5}
SMALL = dict(preset='frozen', width=8, ffn=16, heads=2, fusion_heads=2, K=2)


def toy(lengths=(9, 4, 1, 9, 3), sizes=SIZES, values=False):
    return toy_batch(sizes, lengths, classes=None if values else 3)


def model(classes=3, sizes=SIZES, seed=1, **options):
    torch.manual_seed(seed)
    return DialogueTRM(sizes, classes, **{**SMALL, 'dropout': 0.0, **options}).double().eval()


# ---- golden numbers


def test_contexts(golden):
    g = golden('dialoguetrm/dialoguetrm_contexts')
    speakers, K, target = g['speakers'], int(g['K']), int(g['table1_target']) - 1
    indi, conv = indi_context(speakers, K), conv_context(len(speakers), K)
    assert (indi.numpy() == g['indi_context']).all()
    assert (conv.numpy() == g['conv_context']).all()
    assert (indi[target].nonzero()[:, 0].numpy() + 1 == g['table1_indi']).all()
    assert (conv[target].nonzero()[:, 0].numpy() + 1 == g['table1_conv']).all()


def test_masks(golden):
    g = golden('dialoguetrm/dialoguetrm_masks')
    L, K = int(g['L']), int(g['K'])
    banded = _band_mask(L, K).numpy()
    assert (banded == g['context_dependent']).all()
    assert (~banded == g['torch_bool_attn_mask_context_dependent']).all()
    assert (_context_free_mask(L).numpy() == g['context_free']).all()
    assert (_band_mask(L, 2).numpy() == g['context_dependent_L8_K2']).all()
    for n in range(6):
        assert (_receptive_field(L, K, n + 1).numpy() == g['receptive_field_after_layers'][n]).all()
        assert (_receptive_field(L, 2, n + 1).numpy() == g['receptive_field_L8_K2'][n]).all()


@pytest.mark.parametrize(
    'kind,longest,options',
    [
        ('roomy', 24, {}),
        ('tight_drop_oldest', 11, {}),
        ('tight_drop_newest', 11, {'drop': 'newest'}),
    ],
)
def test_pairs(golden, kind, longest, options):
    g = golden('dialoguetrm/dialoguetrm_bert_pairs')
    starts = [1000 + 10 * (n + 1) for n in range(len(g['utterance_lengths']))]
    ids = [list(range(start, start + m)) for start, m in zip(starts, g['utterance_lengths'])]
    special = dict(cls=101, sep=102, longest=longest)
    for name, x in _encode_pairs(ids, g['speakers'], int(g['K']), **special, **options).items():
        expected, width = g[f'{kind}_{name}'], x.shape[1]
        assert (x == expected[:, :width]).all() and not expected[:, width:].any(), name


def test_masked_transformer(golden):
    g = golden('dialoguetrm/dialoguetrm_masked_transformer')
    x, K, heads = T(g['x']), int(g['K']), int(g['heads'])
    net = Encoder(8, heads, 2, 16, 0.0).double()
    net.load_state_dict(encoder_state(g, 'layer'))
    batch = from_padded({'x': x[None]}, torch.zeros(1, 8), [8])
    close(net(x, within_dialogues(batch, _band_mask(8, K))), g['y_banded'])
    close(net(x, None), g['y_context_free'])
    close(net(x, within_dialogues(batch)), g['y_unmasked'])
    close(_strict_pass(net, x, batch, K), g['y_strict_per_target'])
    hidden = x[None]
    for i, layer in enumerate(net.layers):
        q, k, _ = layer.self_attn.project(hidden)
        close(_attention_weights(q, k, heads, _band_mask(8, K))[0], g['attn_banded'][i])
        hidden = layer(hidden, partial(attend, allow=_band_mask(8, K)))


# ---- what must hold

READINGS = {
    'banded': {},
    'strict': {'window': 'strict'},
    'one layer': {'layers': 1},
    'all dependent': {'dependent': ['text', 'audio', 'visual']},
    'none': {'dependent': []},
    'six layers': {'layers': 6, 'K': 1},
    'mult': {'fusion': 'mult', 'layers': 1, 'fusion_layers': 1},
}
REACH = {'six layers': 6, 'banded': 4, 'strict': 2, 'one layer': 2, 'all dependent': 4, 'none': 0}


def changed_at(batch, turn, names=None):
    "A batch in which one turn of its first dialogue differs, and which rows those are."
    at = (batch.dialogue == 0) & (batch.turn == turn)
    changed = {k: v + at[:, None] for k, v in batch.features.items() if names is None or k in names}
    return dataclasses.replace(batch, features={**batch.features, **changed}), at


@pytest.mark.parametrize('name', READINGS)
def test_nothing_flows_back_and_nothing_flows_too_far(name):
    net, batch = model(**READINGS[name]), toy()
    before, first = net(batch).logits, batch.dialogue == 0
    for turn in (0, 3, 8):
        changed, at = changed_at(batch, turn)
        moved = (net(changed).logits - before).abs().amax(1)
        assert moved[~first].max() < 1e-12, 'another dialogue moved'
        assert moved[first & (batch.turn < turn)].sum() < 1e-12 and moved[at] > 1e-6
        if name in REACH:
            last = turn + REACH[name]
            assert moved[first & (batch.turn > last)].sum() < 1e-12
            assert moved[first & (batch.turn == min(8, last))] > 1e-9


def test_pictures_of_the_masks_are_what_the_model_reads():
    x, net = torch.randn(1, 9, 8).double(), Encoder(8, 2, 2, 16, 0.0).double()
    batch = from_padded({'x': x}, torch.zeros(1, 9), [9])
    x = batch.features['x']
    for target in range(9):
        allow = partial(attend, allow=_strict_mask(9, 3, target))
        close(_strict_pass(net, x, batch, 3)[target], net(x, allow)[target])
    chunks = partial(within_dialogues(batch), blocks=_chunk_blocks(batch, 4))
    close(net(x, chunks), net(x, partial(attend, allow=_chunk_mask(9, 4))))


def test_chunks_look_ahead_and_not_before():
    net, batch = model(window='chunks', unmasked_chunks=4, layers=1), toy()
    changed, _ = changed_at(batch, 5, names=['text'])
    moved = (net(changed).logits - net(batch).logits).abs().amax(1)[batch.dialogue == 0]
    assert (moved > 1e-9).tolist() == [False] * 4 + [True] * 4 + [False]


@pytest.mark.parametrize('name', [*READINGS, 'chunks'])
def test_neighbours_and_padding_never_matter(name):
    "A dialogue alone gives what it gives among others, and junk beyond its end is not read."
    net, batch = model(**READINGS.get(name, {'window': 'chunks'})), toy()
    together = net(batch).logits
    for i, turns in enumerate(batch.lengths.tolist()):
        own = {k: v[batch.dialogue == i] for k, v in batch.features.items()}
        padded = {k: nn_pad(v, rows=3, value=1e3)[None] for k, v in own.items()}
        alone = from_padded(padded, torch.zeros(1, turns + 3), [turns])
        close(net(alone).logits, together[batch.dialogue == i], 1e-10)


def nn_pad(x, rows, value):
    return torch.nn.functional.pad(x, (0, 0, 0, rows), value=value)


def test_context_free_is_runs_of_length_one():
    net, batch = model(dependent=[]), toy()

    def alone(i):
        x = {k: v[i][None, None] for k, v in batch.features.items()}
        return net(from_padded(x, torch.zeros(1, 1), [1])).logits

    close(net(batch).logits, torch.cat([alone(i) for i in range(len(batch))]), 1e-12)


def test_strict_is_the_window_alone():
    text = {'text': 6}
    net, batch = model(window='strict', sizes=text), toy((9,), text)
    unmasked = model(window='chunks', unmasked_chunks=99, sizes=text)
    for i in range(9):
        x = batch.features['text'][max(0, i - 2) : i + 1][None]
        window = from_padded({'text': x}, torch.zeros(1, x.shape[1]), [x.shape[1]])
        close(net(batch).logits[i], unmasked(window).logits[-1], 1e-12)


@pytest.mark.parametrize(
    'names',
    [['text'], ['audio', 'visual'], ['text', 'audio'], ['text', 'audio', 'visual']],
    ids='+'.join,
)
@pytest.mark.parametrize('window', ['banded', 'strict', 'chunks'])
def test_seeds_stack(names, window):
    sizes = {k: SIZES[k] for k in names}
    make = partial(DialogueTRM, sizes, 3, **SMALL, dropout=0.3, window=window)
    batch, loss_of = toy(sizes=sizes), criterion('emotion')
    stack = Stack(make, [0, 5], torch.float64)
    stacked = stack.loss(batch, torch.tensor(3), loss_of)
    stacked.sum().backward()
    for i, seed in enumerate((0, 5)):
        single = Single(make, [seed], torch.float64)
        alone = single.loss(batch, torch.tensor(3), loss_of)
        alone.sum().backward()
        close(stacked[i], alone[0], 1e-10)
        for name, parameter in single.params.items():
            if parameter.grad is not None:
                close(stack.params[name].grad[i], parameter.grad, 1e-8)


def test_values():
    net, batch = model(0), toy(values=True)
    assert net(batch).logits.shape == (len(batch),)
    criterion('emotion')(net(batch), batch).backward()
    with pytest.raises(ValueError, match='labels are classes, the head is dimensional'):
        net(toy())
    with pytest.raises(ValueError, match='labels are values, the head is categorical'):
        model()(batch)
    with pytest.raises(ValueError, match='categorical head does not fit labels that are values'):
        model(0, head='categorical')
    with pytest.raises(ValueError, match='dimensional head does not fit labels that are classes'):
        model(3, head='dimensional')


@pytest.mark.parametrize(
    'make',
    [
        lambda: indi_context('AB', 0),
        lambda: conv_context(3, 0),
        lambda: _band_mask(3, -1),
        lambda: model(K=0),
        lambda: load_dialogues('demo', K=0),
    ],
)
def test_a_window_needs_a_turn(make):
    with pytest.raises(ValueError, match='at least one turn'):
        make()


@pytest.mark.parametrize(
    'options,message',
    [
        (dict(sizes={'sound': 3}), 'modality'),
        (dict(sizes={}), 'no modality'),
        (dict(fusoin='mgif'), "did you mean 'fusion'"),
        (dict(fusion='sum'), 'fusion'),
        (dict(sizes={'text': 6}, fusion='sum'), "'sum'"),
        (dict(unmasked_chunks=3), "unmasked_chunks=3 is read with window='chunks' alone"),
        (
            dict(unmasked_chunks=3, window='strict'),
            "unmasked_chunks=3 is read with window='chunks' alone",
        ),
        (
            dict(fusion='additive', fusion_options={'heads': 1}),
            "'additive' has no option 'heads'; it has none",
        ),
        (
            dict(fusion='mcb', fusion_options={'bnis': 1}),
            "'mcb' has no option 'bnis'; it has bins",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_options_reach_the_fusion():
    assert model(fusion='mcb', fusion_options={'bins': 2}).fusion.size == 16
    encoder = model(fusion_options={'heads': 1}).fusion.encoder
    assert encoder.layers[0].self_attn.heads == 1


def test_bad_input():
    with pytest.raises(ValueError, match='sep=None'):
        _encode_pairs([[5]], 'A', 3, cls=1, sep=None)
    with pytest.raises(ValueError, match='no room'):
        _encode_pairs([[5]], 'A', 3, cls=1, sep=2, longest=3)
    with pytest.raises(ValueError, match='unknown feature'):
        model()(toy(sizes={'text': 6, 'audio': 4}))
    with pytest.raises(ValueError, match='attribute of demo'):
        load_dialogues('demo', attribute='loudness')
    with pytest.raises(ValueError, match='classes'):
        vector_ridge(load_corpus('demo'))


def test_sizes_of_the_paper():
    audio = DialogueTRM({'audio': 100}, 6).intra['audio']
    assert sum(p.numel() for p in audio.parameters()) == 6 * 5_513_984
    assert audio.layers[0].self_attn.heads == 12


# ---- text that is encoded in the model


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    "A small text encoder."
    texts = load_corpus('demo').table.text.tolist()
    return str(toy_encoder(tmp_path_factory.mktemp('encoder'), texts, width=32, length=64))


def system_with(folder, name, **changes):
    return dataclasses.replace(find_system(f'dialoguetrm/{name}'), encoder=folder, **changes)


def test_contexts_of_a_corpus():
    table = load_dialogues('demo', K=3).table
    for _, dialogue in list(table.groupby('dialogue', sort=False))[:5]:
        speakers, texts = dialogue.speaker.tolist(), dialogue.text.tolist()
        for i, context in enumerate(dialogue.context):
            own = [j for j in range(max(0, i - 3), i) if speakers[j] == speakers[i]]
            assert context == ' '.join(texts[j] for j in own)


def test_cut_utterances_are_counted_in_a_warning():
    with pytest.warns(UserWarning, match='1 of 2 sentences are longer than 3 tokens'):
        x = _encode_pairs([[7, 7, 7, 7], [8]], 'AA', 3, cls=1, sep=2, longest=6)
    assert x['input_ids'].tolist() == [[1, 7, 7, 7, 2, 2], [1, 8, 2, 7, 7, 2]]


def test_turns_without_a_label_are_context(monkeypatch):
    def some_unlabelled(name, keep_unlabelled=False):
        corpus = load_corpus('demo')
        if not keep_unlabelled:
            return corpus
        labels = corpus.table.label.mask(corpus.table.turn % 3 == 1, -1)
        return corpus.replace(table=corpus.table.assign(label=labels), features={}, has={})

    monkeypatch.setattr(study, 'load_corpus', some_unlabelled)
    kept = load_dialogues('demo', keep_unlabelled=True).table
    assert (kept.label == -1).sum() > 100
    assert kept.context.tolist() == load_dialogues('demo').table.context.tolist()


def test_unlabelled_turns_of_the_real_corpus(data):
    own = load_dialogues('iemocap6', K=1).table
    kept = load_dialogues('iemocap6', K=1, keep_unlabelled=True).table
    assert (own.label >= 0).all() and len(own) == (kept.label >= 0).sum() < len(kept)
    for table in (own, kept):
        turns = list(table[table.dialogue == kept.dialogue[0]].itertuples())
        contexts = [a.text if a.speaker == b.speaker else '' for a, b in zip(turns, turns[1:])]
        assert [turn.context for turn in turns] == [''] + contexts
    labelled = kept.context[kept.label >= 0].tolist()
    assert own.context.tolist() != labelled, 'a turn without a label comes between'


def test_fine_tuned_on_pairs(folder, tmp_path, monkeypatch):
    """One tiny run through the recipe's own system: two rates, batches of tokens, one seed at a time.

    Interrupted in its second epoch it goes on to the same record.
    """
    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    frequent = partial(erc.runs.fold.fit, every=0.0)  # a checkpoint at each step
    monkeypatch.setattr(erc.runs.fold, 'fit', frequent)
    size = dict(width=32, heads=2, ffn=32, fusion_heads=2, layers=1, fusion_layers=1)
    tuned = dict(lr=1e-3, epochs=2, encoder_lr=1e-3, tokens=8000, warmup=0.1, decay=True, clip=1.0)
    args = {'preset': 'small', 'encoder': folder, **size}
    system = system_with(folder, 'M_ft', args=args, variants={'tuned': tuned})
    key, steps, step = system.key('tuned', 'demo'), [], Steps.run

    def counted(self, batch, interrupted_at=None):
        steps.append(batch)
        if len(steps) == interrupted_at:
            raise KeyboardInterrupt
        return step(self, batch)

    def run(home, interrupted_at=None):
        steps.clear()
        monkeypatch.setattr(Steps, 'run', partialmethod(counted, interrupted_at=interrupted_at))
        return run_system(system, key, seeds=[0], home=tmp_path / home, progress=False)

    whole, n = run('whole'), len(steps)
    with pytest.raises(KeyboardInterrupt):
        run('halved', interrupted_at=n // 2 + 2)
    assert find_record(key, tmp_path / 'halved') is None
    record = run('halved')
    assert len(steps) == n - (n // 2 + 1)
    assert np.array_equal(record.predictions, whole.predictions) and record.dev == whole.dev
    assert all(np.array_equal(record.curves[k], v) for k, v in whole.curves.items())
    assert len(record.dev) == 1 and not record.fingerprint
    assert record.encoders['text']['context'] == 'context'
    assert record.settings['hyperparameters']['encoder_lr'] == 1e-3
    net = DialogueTRM({'text': 64, 'audio': 24}, 6, **system.args)
    assert isinstance(net.inputs['text'], torch.nn.Identity)
    assert sum(name.startswith('encoder.') for name, _ in net.named_parameters()) > 10


def test_every_text_row_of_table_3_reads_something_else(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    whole, no_segment, no_separator, alone = (
        _prepare(system_with(folder, name), 'demo')[0].features['text']
        for name in ('U_ft', 'u_nosegment_ft', 'u_nosep_ft', 'u_free_ft')
    )
    assert (whole < 0).any(), 'the second segment is negative'
    assert not any((x < 0).any() for x in (no_segment, no_separator, alone))
    assert (abs(whole) == no_segment).all()
    tokens = [(x != 0).sum(1) for x in (no_segment, no_separator, alone)]
    assert (tokens[0] >= tokens[1]).all() and tokens[2].sum() < tokens[1].sum()


def test_frozen_rows_of_table_3_average_the_same_words(folder, tmp_path, monkeypatch):
    """What an ablation takes away is hidden from the encoder.

    The mean is over the utterance's own tokens in each row.
    """
    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    tokenizer, pool = erc.nn.encoders._tokenizer_of(folder), erc.nn.encoders._pooled
    averaged, vectors = {}, {}

    def spied(hidden, ids, how, mask_id=None):
        shares = pool(torch.eye(ids.shape[1]).expand(len(ids), -1, -1), ids, how, mask_id)
        for row, share in zip(ids.abs(), shares):
            tokens = [int(v) - 1 for v in row[share > 0]]
            rows.append(tuple(v for v in tokens if v != tokenizer.sep_token_id))
        return pool(hidden, ids, how, mask_id)

    monkeypatch.setattr(erc.nn.encoders, '_pooled', spied)
    for name in ('U', 'u_bare', 'u_nosegment', 'u_nosep'):
        rows = averaged[name] = []
        vectors[name] = _prepare(system_with(folder, name), 'demo')[0].features['text']
    texts = load_dialogues('demo').table.text.tolist()
    words = {tuple(ids[:-1]) for ids in tokenizer(texts)['input_ids']}  # [CLS] and the words
    assert set(averaged['U']) == words
    assert sorted(averaged['U']) == sorted(averaged['u_nosegment']) == sorted(averaged['u_nosep'])
    assert not averaged['u_bare'], 'the same vectors, from the cache'
    assert np.array_equal(vectors['U'], vectors['u_bare'])
    assert not np.allclose(vectors['U'], vectors['u_nosegment'])
    assert not np.allclose(vectors['u_nosegment'], vectors['u_nosep'])


# ---- recipe and records


def hashed(name, **changes):
    return system_with('hashing', name, **changes)


def test_values_leave_records(tmp_path):
    demo = dict(epochs=2, lr=3e-3, batch=8)
    system = hashed('valence_M')
    key = system.key('tuned', 'demo')
    run = partial(run_system, system, key, home=tmp_path, demo=demo, progress=False)
    record = run(seeds=[0, 1])
    corpus = load_dialogues('demo', attribute='valence')
    test = corpus.rows('test')
    labels = corpus.table.label.to_numpy()[test]
    close(record.test, pearson_r(labels, record.predictions), 1e-6)
    assert record.task == 'regression' and record.predictions.dtype == np.float32
    dialogues = corpus.table.dialogue[test].nunique()
    assert record.confusions['all'].shape == (2, dialogues, 6)
    r, error = record.interval('pearson_r'), record.interval('mse')
    assert -1 <= r.low < r.mean < r.high <= 1
    assert abs(error.mean - ((record.predictions - labels) ** 2).mean()) < 1e-5
    assert np.array_equal(find_record(key, tmp_path).predictions, record.predictions)
    more = run(seeds=[0, 1, 2])
    assert more.seeds == [0, 1, 2] and len(more.confusions['all']) == 3
    ridge = hashed('valence_ridge')
    floor = run_system(ridge, ridge.key('tuned', 'demo'), home=tmp_path)
    assert floor.test[0] > 0.3 and len(floor.facts['tried']) == 4


@pytest.mark.parametrize(
    'name,metric,labels',
    [('valence_U', 'weighted_f1', 'values'), ('U', 'pearson_r', 'classes')],
)
def test_a_metric_must_fit_the_labels(tmp_path, name, metric, labels):
    system = hashed(name, metric=metric)
    key = system.key('tuned', 'demo')
    with pytest.raises(ValueError, match=f'labels are {labels}'):
        run_system(system, key, seeds=[0], home=tmp_path, progress=False)


WHOLE = ('U', 'M', 'M_mosi', 'U_ft', 'M_ft')  # the full systems of the tables


def test_recipe_is_whole():
    "Every printed row of Tables 2 to 6 is there; each trained system has its variants."
    recipe, printed = load_recipe('dialoguetrm'), reference('dialoguetrm')
    for system in recipe.systems.values():
        if system.kind == 'model':
            own = ['tuned', 'paper'] if system.name in WHOLE else ['tuned']
            assert list(system.variants) == own, system.id
            assert _follows_protocol(system, 'tuned') == system.vectorise, system.id
    for table in ('table2', 'table3', 'table4', 'table5', 'table6'):
        rows = set(printed[printed.artefact == table].row) - {'header'}
        assert rows <= {row.row for row in recipe.artefact(table).rows}, table
        assert comparison('dialoguetrm', table, stale=lambda record: None).kinds
    assert recipe.seeds == 5


def test_what_a_recipe_says_twice_agrees():
    """The encoder that makes tokens is the one that reads them.

    The window of the contexts is the model's.
    """
    K = signature(load_dialogues).parameters['K'].default
    for system in load_recipe('dialoguetrm').systems.values():
        tokens = [e for e in system.encode.values() if isinstance(e, dict) and e.get('tokens')]
        assert system.args.get('encoder', '') == (system.encoder if tokens else ''), system.id
        if system.kind == 'model':
            options = {k: v for k, v in system.args.items() if k != 'preset'}
            resolved = _resolve_options(system.args['preset'], options)
            assert resolved['K'] == system.data_args.get('K', K), system.id


# ---- the study


def test_cases_by_rule():
    corpus = load_dialogues('demo')
    truth = corpus.table.label.to_numpy()[corpus.rows('test')]
    right, wrong = np.stack([truth] * 2), np.stack([(truth + 1) % 6] * 2)
    half = wrong.copy()
    half[:, :10] = truth[:10]
    assert _windows(corpus, wrong, half)[0]['dialogue'] == 0
    assert _rectified(corpus, wrong, half)['count'] == 10
    found = _rectified(corpus, wrong, right)
    assert abs(sum(v['share'] for k, v in found.items() if k != 'count') - 1) < 1e-9
    utterance = corpus.table.text.iloc[corpus.rows('test')].iloc[0].strip().lower()
    scores = _short_cases(corpus, {'right': right, 'wrong': wrong}, utterance)
    assert scores['count'] >= 1
    assert scores['right'] == [1.0, 1.0] and scores['wrong'] == [0.0, 0.0]
    absent = _short_cases(corpus, {'right': right}, 'no such words')
    assert absent == {'count': 0, 'right': []}
    with pytest.raises(FileNotFoundError, match='run them first'):
        cases(corpus, home='nowhere')


def test_cases_figure_has_a_panel_per_window():
    corpus = load_dialogues('demo')
    truth = corpus.table.label.to_numpy()[corpus.rows('test')]
    right, wrong = np.stack([truth] * 2), np.stack([(truth + 1) % 6] * 2)
    fig = cases_figure(_windows(corpus, wrong, right, most=3), corpus.classes)
    assert len(fig.axes) == 3
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels == ['gold', 'text', 'text and audio']


def test_counts_of_table_6(data):
    "The specification's counts on the 31 test dialogues; the corpus here has one labelled turn more."
    counts = shift_counts(load_corpus('iemocap6'))
    specified = {
        'same_speaker': 13.16,
        'adjacent_any': 21.97,
        'adjacent_other': 18.87,
        'last_other': 27.10,
        'same_speaker, unlabelled turns kept': 8.84,
    }
    for rule, value in specified.items():
        assert abs(counts[rule] - value) < 0.1, (rule, counts[rule])


def test_values_of_the_real_corpus(data):
    corpus = load_dialogues('iemocap_vad', attribute='dominance')
    low, high = np.nanmin(corpus.table.label), np.nanmax(corpus.table.label)
    assert corpus.task == 'regression' and -1.3 < low < -0.5 < 0.5 < high < 1.3
    cut = dict(size=4, features=['audio'], targets={'emotion': 'label'})
    batch = make_batches(corpus, 'dev', **cut)[0]
    assert batch.targets['emotion'].is_floating_point()


# ---- estimates of time


def test_time_is_estimated_from_steps(tmp_path):
    epochs = {'short': 2, 'long': 40}
    system = hashed('U', variants={k: {'epochs': n, 'batch': 8} for k, n in epochs.items()})
    short, long = (
        _measured_seconds(system, system.key(variant, 'demo'), seeds=range(2)) for variant in epochs
    )
    assert 0 < short < long < 40 * short * 6
    counts = find_system('dialoguetrm/cases')
    assert np.isnan(_measured_seconds(counts, counts.key('fixed', 'demo')))
    key = system.key('short', 'demo')
    record = run_system(system, key, seeds=[0, 1], home=tmp_path, progress=False)
    assert short < 8 * record.seconds


def test_one_long_step_is_estimate_enough(monkeypatch):
    system = hashed('U', variants={'short': {'epochs': 2, 'batch': 8}})
    key, taken, run = system.key('short', 'demo'), [], Steps.run
    monkeypatch.setattr(Steps, 'run', lambda self, b: taken.append(b) or run(self, b))
    assert _measured_seconds(system, key, seeds=range(2), enough=0.0) > 0
    assert len(taken) == 2, 'the first warms up and never counts'
    _measured_seconds(system, key, seeds=range(2))
    assert len(taken) > 3


def test_each_missing_run_is_timed_by_itself(monkeypatch):
    "The costs of two systems of one model may be far apart."
    keys = [
        f'dialoguetrm/{run}@demo' for run in ('U:tuned', 'u_bare:tuned', 'M:tuned', 'cases:fixed')
    ]
    timed = []

    def sixty(system, key, **options):
        timed.append(str(key))
        return np.nan if system.kind == 'facts' else 60.0

    monkeypatch.setattr(erc.runs.plan, '_measured_seconds', sixty)
    plan = _fill_estimates(pd.DataFrame({'why': 'absent', 'seconds': np.nan}, index=keys))
    assert timed == keys and plan.seconds.sum() == 180 and plan.seconds.isna().sum() == 1


def test_cells_of_values():
    "A table shows values by value metrics alone."
    g = np.random.default_rng(0)
    truth = g.normal(size=40)
    predictions = truth + g.normal(size=(3, 40))
    counts = moments(truth, predictions, np.repeat(range(8), 5))
    fold = Fold(seeds=[0, 1, 2], confusions={'all': counts})
    record = Record(RunKey('a', 'b', 'c', 'd'), task='regression', folds={'paper': fold})
    cell = _record_cell(record, Column('r', 'pearson_r', scale=1, digits=2))
    assert str(cell).count('.') == 3
    assert abs(cell.mean - pearson_r(truth, predictions).mean()) < 1e-4
    assert str(_record_cell(record, Column('F1', 'weighted_f1'))) == ''
