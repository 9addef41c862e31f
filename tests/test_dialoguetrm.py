"Contexts, masks and receptive fields as specified; no turn hears what it must not."

import dataclasses

import numpy as np
import pytest
import torch
from functools import partial, partialmethod

import erc.models.dialoguetrm as D
from erc.nn.attention import Encoder, attend, attention, inside
from erc.data.batches import from_padded, make_batches
from erc.data.registry import load_corpus
from erc.models.dialoguetrm import (
    DialogueTRM,
    band_mask,
    chunk_mask,
    context_free_mask,
    conv_context,
    indi_context,
    receptive_field,
    strict,
    strict_mask,
)
from erc.studies.dialoguetrm import (
    encode_pairs,
    load_dialogues,
    rectified,
    shift_counts,
    short_cases,
    vector_ridge,
    windows,
)
from erc.runs.recipes import load_recipe, system
from erc.runs.run import run_system
from erc.runs.stale import stale
from erc.data.sentence_encoders import toy_encoder
from erc.evidence.metrics import pearson_r
from erc.runs.records import find_record
from erc.training.engine import Single, Stack
from erc.training.settings import criterion
from test_mgif import encoder_state

T = torch.from_numpy
SIZES = {'text': 6, 'audio': 4, 'visual': 5}
SMALL = dict(preset='frozen', width=8, ffn=16, heads=2, fusion_heads=2, K=2)


def close(a, b, eps=1e-9):
    assert (
        np.abs(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) - np.asarray(b)).max()
        < eps
    )


def toy(lengths=(9, 4, 1, 9, 3), sizes=SIZES, seed=0, values=False):
    g = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(lengths)
    y = (
        torch.randn(B, L, generator=g).double()
        if values
        else torch.randint(0, 3, (B, L), generator=g)
    )
    return from_padded(
        {k: torch.randn(B, L, d, generator=g).double() for k, d in sizes.items()},
        torch.zeros(B, L),
        lengths,
        {'emotion': y},
    )


def model(classes=3, sizes=SIZES, seed=1, **k):
    torch.manual_seed(seed)
    return DialogueTRM(sizes, classes, **{**SMALL, 'dropout': 0.0, **k}).double().eval()


# ---- golden numbers ---------------------------------------------------------------------------------------


def test_contexts(golden):
    g = golden('dialoguetrm/dialoguetrm_contexts')
    K = int(g['K'])
    assert (indi_context(g['speakers'], K).numpy() == g['indi_context']).all() and (
        conv_context(len(g['speakers']), K).numpy() == g['conv_context']
    ).all()
    i = int(g['table1_target']) - 1
    assert (
        indi_context(g['speakers'], K)[i].nonzero()[:, 0].numpy() + 1 == g['table1_indi']
    ).all() and (conv_context(8, K)[i].nonzero()[:, 0].numpy() + 1 == g['table1_conv']).all()


def test_masks(golden):
    g = golden('dialoguetrm/dialoguetrm_masks')
    L, K = int(g['L']), int(g['K'])
    assert (band_mask(L, K).numpy() == g['context_dependent']).all() and (
        context_free_mask(L).numpy() == g['context_free']
    ).all()
    assert (band_mask(L, 2).numpy() == g['context_dependent_L8_K2']).all() and (
        ~band_mask(L, K).numpy() == g['torch_bool_attn_mask_context_dependent']
    ).all()
    for n in range(6):
        assert (receptive_field(L, K, n + 1).numpy() == g['receptive_field_after_layers'][n]).all()
        assert (receptive_field(L, 2, n + 1).numpy() == g['receptive_field_L8_K2'][n]).all()


@pytest.mark.parametrize(
    'kind,longest,how',
    [
        ('roomy', 24, {}),
        ('tight_drop_oldest', 11, {}),
        ('tight_drop_newest', 11, {'drop': 'newest'}),
    ],
)
def test_pairs(golden, kind, longest, how):
    g = golden('dialoguetrm/dialoguetrm_bert_pairs')
    ids = [
        [1000 + 10 * (n + 1) + k for k in range(m)] for n, m in enumerate(g['utterance_lengths'])
    ]
    x = encode_pairs(ids, g['speakers'], int(g['K']), cls=101, sep=102, longest=longest, **how)
    for k, v in x.items():
        assert (v == g[f'{kind}_{k}'][:, : v.shape[1]]).all() and not g[f'{kind}_{k}'][
            :, v.shape[1] :
        ].any(), k


def test_masked_transformer(golden):
    g = golden('dialoguetrm/dialoguetrm_masked_transformer')
    x, K = T(g['x']), int(g['K'])
    net = Encoder(8, int(g['heads']), 2, 16, 0.0).double()
    net.load_state_dict(encoder_state(g, 'layer'))
    b = from_padded({'x': x[None]}, torch.zeros(1, 8), [8])
    close(net(x, inside(b, band_mask(8, K))), g['y_banded'])
    close(net(x, None), g['y_context_free'])
    close(net(x, inside(b)), g['y_unmasked'])
    close(strict(net, x, b, K), g['y_strict_per_target'])
    h = x[None]
    for i, layer in enumerate(net.layers):
        q, k, _ = layer.self_attn.project(h)
        close(attention(q, k, int(g['heads']), band_mask(8, K))[0], g['attn_banded'][i])
        h = layer(h, partial(attend, allow=band_mask(8, K)))


# ---- what must hold ---------------------------------------------------------------------------------------

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


@pytest.mark.parametrize('name', READINGS)
def test_nothing_flows_back_and_nothing_flows_too_far(name):
    m, b = model(**READINGS[name]), toy()
    y = m(b).logits
    for j in (0, 3, 8):
        x = {k: v.clone() for k, v in b.features.items()}
        at = (b.dialogue == 0) & (b.turn == j)
        for v in x.values():
            v[at] += 1
        d = (m(dataclasses.replace(b, features=x)).logits - y).abs().amax(1)
        assert (
            d[b.dialogue != 0].max() < 1e-12
            and d[(b.dialogue == 0) & (b.turn < j)].sum() < 1e-12
            and d[at] > 1e-6
        )
        if name in REACH:
            beyond = (b.dialogue == 0) & (b.turn > j + REACH[name])
            within = (b.dialogue == 0) & (b.turn == min(8, j + REACH[name]))
            assert d[beyond].sum() < 1e-12 and d[within] > 1e-9


def test_pictures_of_the_masks_are_what_the_model_reads():
    b, net = (
        from_padded({'x': torch.randn(1, 9, 8).double()}, torch.zeros(1, 9), [9]),
        Encoder(8, 2, 2, 16, 0.0).double(),
    )
    x = b.features['x']
    for i in range(9):
        close(
            strict(net, x, b, 3)[i], net(x, partial(attend, allow=strict_mask(9, 3, i)))[i].detach()
        )
    blocks = partial(inside(b), blocks=D.chunks(b, 4))
    close(net(x, blocks), net(x, partial(attend, allow=chunk_mask(9, 4))).detach())


def test_chunks_hear_ahead_and_nothing_before():
    m, b = model(window='chunks', unmasked_chunks=4, layers=1), toy()
    x = {k: v.clone() for k, v in b.features.items()}
    x['text'][(b.dialogue == 0) & (b.turn == 5)] += 1
    d = (m(dataclasses.replace(b, features=x)).logits - m(b).logits).abs().amax(1)[b.dialogue == 0]
    assert (d > 1e-9).tolist() == [False] * 4 + [True] * 4 + [False]


@pytest.mark.parametrize('name', [*READINGS, 'chunks'])
def test_company_and_padding_never_matter(name):
    "A dialogue alone gives what it gives among others, and junk beyond the ends is not read."
    m, b = model(**(READINGS[name] if name != 'chunks' else {'window': 'chunks'})), toy()
    y = m(b).logits
    for i, n in enumerate(b.lengths.tolist()):
        own = {k: v[b.dialogue == i][None] for k, v in b.features.items()}
        junk = {
            k: torch.cat([v, torch.full((1, 3, v.shape[2]), 1e3).double()], 1)
            for k, v in own.items()
        }
        close(
            m(from_padded(junk, torch.zeros(1, n + 3), [n])).logits,
            y[b.dialogue == i].detach(),
            1e-10,
        )


def test_context_free_is_runs_of_length_one():
    m, b = model(dependent=[]), toy()
    alone = torch.cat(
        [
            m(
                from_padded(
                    {k: v[i][None, None] for k, v in b.features.items()}, torch.zeros(1, 1), [1]
                )
            ).logits
            for i in range(len(b))
        ]
    )
    close(m(b).logits, alone.detach(), 1e-12)


def test_strict_is_the_window_alone():
    m, b = model(window='strict', sizes={'text': 6}), toy((9,), {'text': 6})
    for i in range(9):
        x = b.features['text'][max(0, i - 2) : i + 1][None]
        one = model(window='chunks', unmasked_chunks=99, sizes={'text': 6})
        close(
            m(b).logits[i],
            one(from_padded({'text': x}, torch.zeros(1, x.shape[1]), [x.shape[1]]))
            .logits[-1]
            .detach(),
            1e-12,
        )


@pytest.mark.parametrize(
    'sizes',
    [['text'], ['audio', 'visual'], ['text', 'audio'], ['text', 'audio', 'visual']],
    ids='+'.join,
)
@pytest.mark.parametrize('window', ['banded', 'strict', 'chunks'])
def test_seeds_stack(sizes, window):
    make = lambda: DialogueTRM({k: SIZES[k] for k in sizes}, 3, **SMALL, dropout=0.3, window=window)
    b, loss = toy(sizes={k: SIZES[k] for k in sizes}), criterion('emotion')
    s = Stack(make, [0, 5], torch.float64)
    got = s.loss(b, torch.tensor(3), loss)
    got.sum().backward()
    for i, k in enumerate((0, 5)):
        one = Single(make, [k], torch.float64)
        want = one.loss(b, torch.tensor(3), loss)
        want.sum().backward()
        close(got[i].detach(), want[0].detach(), 1e-10)
        for n, p in one.params.items():
            if p.grad is not None:
                close(s.params[n].grad[i], p.grad, 1e-8)


def test_values():
    m, b = model(0), toy(values=True)
    assert m(b).logits.shape == (len(b),)
    criterion('emotion')(m(b), b).backward()
    with pytest.raises(ValueError, match='labels are classes, the head is dimensional'):
        m(toy())
    with pytest.raises(ValueError, match='labels are values, the head is categorical'):
        model()(b)
    with pytest.raises(ValueError, match='categorical head does not fit labels that are values'):
        model(0, head='categorical')
    with pytest.raises(ValueError, match='dimensional head does not fit labels that are classes'):
        model(3, head='dimensional')


def test_bad_input():
    for f in (
        lambda: indi_context('AB', 0),
        lambda: conv_context(3, 0),
        lambda: band_mask(3, -1),
        lambda: model(K=0),
        lambda: load_dialogues('demo', K=0),
    ):
        with pytest.raises(ValueError, match='at least one turn'):
            f()
    with pytest.raises(ValueError, match='modality'):
        DialogueTRM({'sound': 3}, 2)
    with pytest.raises(ValueError, match='no modality'):
        DialogueTRM({}, 2)
    with pytest.raises(ValueError, match="did you mean 'fusion'"):
        model(fusoin='mgif')
    with pytest.raises(ValueError, match='fusion'):
        model(fusion='sum')
    with pytest.raises(ValueError, match="'sum'"):
        DialogueTRM({'text': 6}, 3, fusion='sum')
    for k in ({}, {'window': 'strict'}):
        with pytest.raises(
            ValueError, match="unmasked_chunks=3 is read with window='chunks' alone"
        ):
            model(unmasked_chunks=3, **k)
    with pytest.raises(ValueError, match="'additive' has no option 'heads'; it has none"):
        model(fusion='additive', fusion_options={'heads': 1})
    with pytest.raises(ValueError, match="'mcb' has no option 'bnis'; it has bins"):
        model(fusion='mcb', fusion_options={'bnis': 1})
    assert (
        model(fusion='mcb', fusion_options={'bins': 2}).fusion.size == 16
        and model(fusion_options={'heads': 1}).fusion.encoder.layers[0].self_attn.heads == 1
    )
    with pytest.raises(ValueError, match='sep=None'):
        encode_pairs([[5]], 'A', 3, cls=1, sep=None)
    with pytest.raises(ValueError, match='no room'):
        encode_pairs([[5]], 'A', 3, cls=1, sep=2, longest=3)
    with pytest.raises(ValueError, match='unknown feature'):
        model()(toy(sizes={'text': 6, 'audio': 4}))
    with pytest.raises(ValueError, match='attribute of demo'):
        load_dialogues('demo', attribute='loudness')
    with pytest.raises(ValueError, match='classes'):
        vector_ridge(load_corpus('demo'))


def test_sizes_of_the_paper():
    m = DialogueTRM({'audio': 100}, 6)
    assert (
        sum(p.numel() for p in m.intra['audio'].parameters()) == 6 * 5_513_984
        and m.intra['audio'].layers[0].self_attn.heads == 12
    )


# ---- text that is read along ------------------------------------------------------------------------------


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    return str(
        toy_encoder(
            tmp_path_factory.mktemp('enc'),
            load_corpus('demo').table.text.tolist(),
            width=32,
            length=64,
        )
    )


def test_contexts_of_a_corpus():
    c = load_dialogues('demo', K=3)
    for _, g in list(c.table.groupby('dialogue', sort=False))[:5]:
        who, text = g.speaker.tolist(), g.text.tolist()
        for i, said in enumerate(g.context):
            assert said == ' '.join(text[j] for j in range(max(0, i - 3), i) if who[j] == who[i])


def test_utterances_that_overflow_are_told():
    with pytest.warns(UserWarning, match='1 of 2 sentences are longer than 3 tokens'):
        x = encode_pairs([[7, 7, 7, 7], [8]], 'AA', 3, cls=1, sep=2, longest=6)
    assert x['input_ids'].tolist() == [[1, 7, 7, 7, 2, 2], [1, 8, 2, 7, 7, 2]]


def test_turns_without_a_label_are_context(monkeypatch):
    def some(name, keep_unlabelled=False):
        t = load_corpus('demo').table
        t = t.assign(label=t.label.mask(t.turn % 3 == 1, -1))
        return (
            load_corpus('demo').replace(table=t, features={}, has={})
            if keep_unlabelled
            else load_corpus('demo')
        )

    monkeypatch.setattr(D, 'load_corpus', some)
    c = load_dialogues('demo', keep_unlabelled=True)
    assert (c.table.label == -1).sum() > 100 and c.table.context.tolist() == load_dialogues(
        'demo'
    ).table.context.tolist()


def test_unlabelled_turns_of_the_real_corpus(data):
    own, kept = (
        load_dialogues('iemocap6', K=1),
        load_dialogues('iemocap6', K=1, keep_unlabelled=True),
    )
    assert (own.table.label >= 0).all() and len(own.table) == (kept.table.label >= 0).sum() < len(
        kept.table
    )
    for c in (own, kept):
        t = c.table[c.table.dialogue == kept.table.dialogue[0]]
        assert t.context.tolist() == [''] + [
            a.text if a.speaker == b.speaker else ''
            for a, b in zip(t.itertuples(), t[1:].itertuples())
        ]
    assert own.table.context.tolist() != kept.table.context[kept.table.label >= 0].tolist(), (
        'a turn without a label comes between'
    )


def test_fine_tuned_on_pairs(folder, tmp_path, monkeypatch):
    "One tiny run through the recipe's own system: two rates, batches of tokens, one seed at a time; interrupted in its second epoch it goes on to the same record."
    import erc.runs.run as X
    from erc.training.engine import Steps

    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    monkeypatch.setattr(X, 'fit', partial(X.fit, every=0.0))  # a checkpoint a step
    s = dataclasses.replace(
        system('dialoguetrm/M_ft'),
        encoder=folder,
        args={
            'preset': 'small',
            'encoder': folder,
            'width': 32,
            'heads': 2,
            'ffn': 32,
            'fusion_heads': 2,
            'layers': 1,
            'fusion_layers': 1,
        },
        settings={
            'tuned': {
                'lr': 1e-3,
                'epochs': 2,
                'encoder_lr': 1e-3,
                'tokens': 8000,
                'warmup': 0.1,
                'decay': True,
                'clip': 1.0,
            }
        },
    )
    ran, step = [], Steps.run

    def dies(self, b, at=None):
        ran.append(b)
        if len(ran) == at:
            raise KeyboardInterrupt
        return step(self, b)

    go = lambda home: run_system(
        s, 'demo', 'tuned', seeds=[0], home=tmp_path / home, progress=False
    )
    monkeypatch.setattr(Steps, 'run', dies)
    whole, n = go('whole'), len(ran)
    ran.clear()
    monkeypatch.setattr(Steps, 'run', partialmethod(dies, at=n // 2 + 2))
    with pytest.raises(KeyboardInterrupt):
        go('halved')
    assert find_record(s.id, 'demo', 'tuned', tmp_path / 'halved') is None
    ran.clear()
    monkeypatch.setattr(Steps, 'run', dies)
    r = go('halved')
    assert (
        len(ran) == n - (n // 2 + 1)
        and np.array_equal(r.predictions, whole.predictions)
        and r.dev == whole.dev
        and all(np.array_equal(r.curves[k], v) for k, v in whole.curves.items())
    )
    assert (
        len(r.dev) == 1
        and r.encoders['text']['context'] == 'context'
        and r.settings['setting']['encoder_lr'] == 1e-3
        and not r.fingerprint
    )
    m = DialogueTRM({'text': 64, 'audio': 24}, 6, **s.args)
    assert (
        isinstance(m.inputs['text'], torch.nn.Identity)
        and sum(k.startswith('encoder.') for k, _ in m.named_parameters()) > 10
    )


def test_every_text_row_of_table_3_reads_something_else(folder, tmp_path, monkeypatch):
    from erc.runs.run import prepare

    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    x = {}
    for k in ('U_ft', 'u_nosegment_ft', 'u_nosep_ft', 'u_free_ft'):
        s = dataclasses.replace(system(f'dialoguetrm/{k}'), encoder=folder)
        x[k] = prepare(s, 'demo')[0].features['text']
    n = {k: (v != 0).sum(1) for k, v in x.items()}
    assert (x['U_ft'] < 0).any() and not any(
        (x[k] < 0).any() for k in ('u_nosegment_ft', 'u_nosep_ft', 'u_free_ft')
    )
    assert (
        (abs(x['U_ft']) == x['u_nosegment_ft']).all()
        and (n['u_nosegment_ft'] >= n['u_nosep_ft']).all()
        and n['u_free_ft'].sum() < n['u_nosep_ft'].sum()
    )


def test_frozen_rows_of_table_3_average_the_same_words(folder, tmp_path, monkeypatch):
    "What an ablation takes away is hidden from the encoder; the mean is over the utterance's own tokens in each row."
    import erc.nn.encoders as E
    from erc.runs.run import prepare

    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    real, tok, words, given = E.pooled, E.tokenizer_of(folder), {}, {}
    for k in ('U', 'u_bare', 'u_nosegment', 'u_nosep'):
        rows = words[k] = []

        def spy(
            h, x, how, mask_id=None
        ):  # pools ones where a token is averaged: whatever `how` says
            share = real(torch.eye(x.shape[1]).expand(len(x), -1, -1), x, how, mask_id)
            rows.extend(
                tuple(v - 1 for v in r[s > 0].tolist() if v != tok.sep_token_id + 1)
                for r, s in zip(x.abs(), share)
            )
            return real(h, x, how, mask_id)

        monkeypatch.setattr(E, 'pooled', spy)
        given[k] = prepare(dataclasses.replace(system(f'dialoguetrm/{k}'), encoder=folder), 'demo')[
            0
        ].features['text']
    said = {
        tuple(ids[:-1]) for ids in tok(load_dialogues('demo').table.text.tolist())['input_ids']
    }  # [CLS] and the words
    assert set(words['U']) == said and sorted(words['U']) == sorted(words['u_nosegment']) == sorted(
        words['u_nosep']
    )
    assert not words['u_bare'] and np.array_equal(given['U'], given['u_bare']), (
        'the same vectors, from the cache'
    )
    assert not np.allclose(given['U'], given['u_nosegment']) and not np.allclose(
        given['u_nosegment'], given['u_nosep']
    )


# ---- records ----------------------------------------------------------------------------------------------


def test_values_leave_records(tmp_path):
    s = dataclasses.replace(system('dialoguetrm/valence_M'), encoder='hashing')
    r = run_system(
        s,
        'demo',
        'tuned',
        seeds=[0, 1],
        home=tmp_path,
        demo=dict(epochs=2, lr=3e-3, batch=8),
        progress=False,
    )
    c = load_dialogues('demo', attribute='valence')
    y = c.table.label.to_numpy()[c.rows('test')]
    close(r.test, pearson_r(y, r.predictions), 1e-6)
    assert (
        r.task == 'regression'
        and r.confusions['all'].shape == (2, c.table.dialogue[c.rows('test')].nunique(), 6)
        and r.predictions.dtype == np.float32
    )
    i, e = r.interval('pearson_r'), r.interval('mse')
    assert (
        -1 <= i.low < i.mean < i.high <= 1
        and abs(e.mean - ((r.predictions - y) ** 2).mean()) < 1e-5
    )
    again = find_record(r.system, 'demo', 'tuned', tmp_path)
    assert np.array_equal(again.predictions, r.predictions)
    more = run_system(
        s,
        'demo',
        'tuned',
        seeds=[0, 1, 2],
        home=tmp_path,
        demo=dict(epochs=2, lr=3e-3, batch=8),
        progress=False,
    )
    assert more.seeds == [0, 1, 2] and len(more.confusions['all']) == 3
    floor = run_system(
        dataclasses.replace(system('dialoguetrm/valence_ridge'), encoder='hashing'),
        'demo',
        'tuned',
        home=tmp_path,
    )
    assert floor.test[0] > 0.3 and len(floor.facts['tried']) == 4


def test_a_metric_must_fit_the_labels(tmp_path):
    s = dataclasses.replace(
        system('dialoguetrm/valence_U'), encoder='hashing', metric='weighted_f1'
    )
    with pytest.raises(ValueError, match='labels are values'):
        run_system(s, 'demo', 'tuned', seeds=[0], home=tmp_path, progress=False)
    with pytest.raises(ValueError, match='labels are classes'):
        run_system(
            dataclasses.replace(system('dialoguetrm/U'), encoder='hashing', metric='pearson_r'),
            'demo',
            'tuned',
            seeds=[0],
            home=tmp_path,
            progress=False,
        )


def test_cells_of_values():
    from erc.runs.records import Record
    from erc.evidence.metrics import moments
    from erc.report.tables import cell, shown

    g = np.random.default_rng(0)
    y = g.normal(size=40)
    p = y + g.normal(size=(3, 40))
    r = Record(
        'a/b',
        'c',
        'd',
        task='regression',
        confusions={'all': moments(y, p, np.repeat(range(8), 5))},
    )
    c = cell(r, dict(name='r', metric='pearson_r', scale=1, digits=2))
    assert shown(c).count('.') == 3 and abs(c['mean'] - pearson_r(y, p).mean()) < 1e-4
    assert shown(cell(r, dict(name='F1', metric='weighted_f1'))) == ''


def test_recipe_is_whole():
    "Every printed row of tables 2 to 6 is there; each trained system has both settings."
    from erc.report.artefacts import reference

    r, ref = load_recipe('dialoguetrm'), reference('dialoguetrm')
    for s in r['systems'].values():
        if s.kind == 'model':
            assert (
                set(s.settings) == {'paper', 'tuned'}
                and (s.settings['tuned']['grid'] == 'common') == s.vectorise
            ), s.id
    for a in ('table2', 'table3', 'table4', 'table5', 'table6'):
        assert set(ref[ref.artefact == a].row) - {'header'} <= {
            x['row'] for x in r['artefacts'][a]['rows']
        }, a
    assert r['seeds'] == 10


def test_what_a_recipe_says_twice_agrees():
    "The encoder that makes tokens is the one that reads them; the window of the contexts is the model's."
    from inspect import signature

    K = signature(load_dialogues).parameters['K'].default
    for s in load_recipe('dialoguetrm')['systems'].values():
        if any(isinstance(e, dict) and e.get('tokens') for e in s.encode.values()):
            assert s.args['encoder'] == s.encoder, s.id
        else:
            assert not s.args.get('encoder'), s.id
        if s.kind == 'model':
            assert D.options_of(
                s.args['preset'], {k: v for k, v in s.args.items() if k != 'preset'}
            )['K'] == s.data_args.get('K', K), s.id


def test_cases_by_rule():
    c = load_dialogues('demo')
    y = c.table.label.to_numpy()[c.rows('test')]
    wrong = np.stack([(y + 1) % 6] * 2)
    half = wrong.copy()
    half[:, :10] = y[:10]
    assert [w['dialogue'] for w in windows(c, wrong, half)][0] == 0 and rectified(c, wrong, half)[
        'count'
    ] == 10
    f = rectified(c, wrong, np.stack([y] * 2))
    assert abs(sum(v['share'] for k, v in f.items() if k != 'count') - 1) < 1e-9
    said = c.table.text.iloc[c.rows('test')].iloc[0].strip().lower()
    s = short_cases(c, {'right': np.stack([y] * 2), 'wrong': wrong}, said)
    assert s['count'] >= 1 and s['right'] == [1.0, 1.0] and s['wrong'] == [0.0, 0.0]
    with pytest.raises(FileNotFoundError, match='run them first'):
        D.cases(c, home='nowhere')


def test_counts_of_table_6(data):
    "The specification's counts on the 31 test dialogues; the corpus here has one labelled turn more."
    n = shift_counts(load_corpus('iemocap6'))
    for k, v in {
        'same_speaker': 13.16,
        'adjacent_any': 21.97,
        'adjacent_other': 18.87,
        'last_other': 27.10,
        'same_speaker, unlabelled turns kept': 8.84,
    }.items():
        assert abs(n[k] - v) < 0.1, (k, n[k])


def test_committed_records_hold():
    from erc.runs.records import all_records

    for r in all_records():
        if r.system.startswith('dialoguetrm/'):
            assert stale(r) is None


def test_batches_of_the_real_corpus(data):
    c = load_dialogues('iemocap_vad', attribute='dominance')
    assert (
        c.task == 'regression'
        and -1.3 < np.nanmin(c.table.label) < -0.5 < 0.5 < np.nanmax(c.table.label) < 1.3
    )
    assert (
        make_batches(c, 'dev', size=4, features=['audio'], targets={'emotion': 'label'})[0]
        .targets['emotion']
        .is_floating_point()
    )


def test_time_is_estimated_from_steps(tmp_path):
    from erc.runs.run import timed

    s = dataclasses.replace(
        system('dialoguetrm/U'),
        encoder='hashing',
        settings={k: {'epochs': n, 'batch': 8} for k, n in (('short', 2), ('long', 40))},
    )
    short, long = (timed(s, 'demo', k, seeds=range(2)) for k in ('short', 'long'))
    assert (
        0 < short < long < 40 * short * 6
        and timed(system('dialoguetrm/cases'), 'demo', 'fixed') is None
    )
    r = run_system(s, 'demo', 'short', seeds=[0, 1], home=tmp_path, progress=False)
    assert short < 8 * r.seconds


def test_one_long_step_is_estimate_enough(monkeypatch):
    from erc.runs.run import timed
    from erc.training.engine import Steps

    s = dataclasses.replace(
        system('dialoguetrm/U'), encoder='hashing', settings={'short': {'epochs': 2, 'batch': 8}}
    )
    taken, run = [], Steps.run
    monkeypatch.setattr(Steps, 'run', lambda self, b: taken.append(b) or run(self, b))
    assert timed(s, 'demo', 'short', seeds=range(2), enough=0.0) > 0 and len(taken) == 1
    timed(s, 'demo', 'short', seeds=range(2))
    assert len(taken) > 3


def test_missing_tells_its_time_first(monkeypatch, tmp_path):
    import erc.runs.run as X
    import pandas as pd
    from typer.testing import CliRunner
    from erc.cli import app

    monkeypatch.setenv('ERC_ROOT', str(tmp_path))  # no record tells how long anything takes
    lacks = [
        ('dialoguetrm/U', 'demo', 'tuned'),
        ('dialoguetrm/u_bare', 'demo', 'tuned'),
        ('dialoguetrm/M', 'demo', 'tuned'),
        ('dialoguetrm/cases', 'demo', 'fixed'),
    ]
    every = [(dataclasses.replace(system(s), encoder='hashing'), c, k) for s, c, k in lacks]
    monkeypatch.setattr(X, 'wanted', lambda *a, **k: every)
    monkeypatch.setattr(
        X,
        'missing',
        lambda *a, **k: pd.DataFrame(
            [(*x, 'absent') for x in lacks], columns=['system', 'corpus', 'setting', 'why']
        ),
    )
    calls, ran = [], []
    monkeypatch.setattr(
        X,
        'timed',
        lambda s, corpus, setting, **k: calls.append(s.id) or (None if s.kind == 'facts' else 60.0),
    )
    monkeypatch.setattr(X, 'run_system', lambda *a, **k: ran.append(a) or 1 / 0)
    out = CliRunner().invoke(app, ['run', 'dialoguetrm', '--missing', '--dry-run']).output
    assert (
        calls == [s for s, *_ in lacks] and 'about 180 s (3 min) for the 3' in out and not ran
    )  # the costs of two systems of one model may be far apart
