"Packing loses no row, mixes no dialogues and refuses unusable input."

import dataclasses

import numpy as np
import pytest
import torch

from erc.data import scaling
from erc.data.batches import _packed_order, from_padded, make_batches
from erc.data.scaling import standardise, standardised


def padded(lengths, T=None, D=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    B, T = len(lengths), T or max(lengths)
    return (
        {'text': torch.randn(B, T, D, generator=g)},
        torch.randint(0, 2, (B, T), generator=g),
        lengths,
        {'emotion': torch.randint(0, 4, (B, T), generator=g)},
    )


@pytest.mark.parametrize('lengths', [[1], [5, 3, 1], [1, 3, 5], [4, 4, 4], [2, 7, 7, 1, 3]])
@pytest.mark.parametrize('extra', [0, 2])
def test_round_trip(lengths, extra):
    x, s, n, y = padded(lengths, max(lengths) + extra)
    b = from_padded(x, s, n, y)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    assert len(b) == sum(lengths) and b.lengths.tolist() == lengths
    assert torch.equal(b.to_padded(b.features['text'])[real], x['text'][:, : max(lengths)][real])
    assert torch.equal(
        b.to_padded(b.targets['emotion'], fill=-1)[~real], torch.full((int((~real).sum()),), -1)
    )


def test_steps_are_slices_of_running_dialogues():
    x, s, n, y = padded([2, 5, 3])
    b = from_padded(x, s, n, y)
    steps = b.steps()
    for t, rows in enumerate(steps):
        assert (b.turn[rows] == t).all()
        before = b.dialogue[steps[max(0, t - 1)]]
        assert torch.equal(b.dialogue[rows], before[: rows.stop - rows.start])


@pytest.mark.parametrize(
    'lengths,message',
    [([0, 2], 'dialogue 0 of the batch is empty'), ([], 'at least one dialogue')],
)
def test_refused_lengths(lengths, message):
    with pytest.raises(ValueError, match=message):
        _packed_order(lengths)


def test_refused_shapes():
    x, s, n, y = padded([2, 3])
    with pytest.raises(ValueError, match='emotion has shape'):
        from_padded(x, s, n, {'emotion': y['emotion'][:, :2]})
    with pytest.raises(ValueError, match='speaker -1 is out of range'):
        from_padded(x, s - 1, n, y)


@pytest.fixture(scope='module')
def demo():
    from erc.data.registry import load_corpus

    return load_corpus('demo')


@pytest.mark.parametrize('unit', ['dialogue', 'turn'])
def test_every_row_once(demo, unit):
    for split in ('train', 'dev', 'test'):
        bs = make_batches(
            demo, split, size=7, features=['text', 'audio'], targets={'emotion': 'label'}, unit=unit
        )
        ids = torch.cat([b.ids for b in bs]).numpy()
        assert np.array_equal(np.sort(ids), demo.rows(split))
        for b in bs:
            assert np.array_equal(b.features['audio'], demo.features['audio'][b.ids])
            assert np.array_equal(b.targets['emotion'], demo.table.label.to_numpy()[b.ids])
            if unit == 'dialogue':
                t = demo.table.iloc[b.ids.numpy()]
                assert np.array_equal(t.turn, b.turn)
                assert (t.dialogue.groupby(b.dialogue.numpy()).nunique() == 1).all()
            else:
                assert b.sizes == (len(b),) and b.parties == 1


def test_batches_are_cut_the_same_each_time(demo):
    def cut(key):
        return [
            b.ids.tolist()
            for b in make_batches(demo, 'train', size=7, features=['text'], targets={}, key=key)
        ]

    assert cut(0) == cut(0) != cut(1)


def test_speakers_are_numbered_within_the_dialogue(demo):
    for b in make_batches(demo, 'dev', size=3, features=['text'], targets={}):
        for k in b.dialogue.unique():
            s = b.speakers[b.dialogue == k]
            assert s[0] == 0 and set(s.tolist()) == set(range(int(s.max()) + 1))


def test_missing_feature_is_named(demo):
    with pytest.raises(ValueError, match="unknown feature of corpus demo 'smell'"):
        make_batches(demo, 'train', size=7, features=['smell'], targets={})
    with pytest.raises(ValueError, match='no training row'):
        standardise(
            demo.with_features(x=(np.ones((len(demo), 2), np.float32), np.zeros(len(demo), bool))),
            ['x'],
        )


def test_standardise_uses_training_rows_only(demo):
    c = standardise(demo, ['audio'])
    x = c.features['audio'][c.rows('train')]
    assert np.abs(x.mean(0)).max() < 1e-4 and np.abs(x.std(0) - 1).max() < 1e-3
    flat = demo.with_features(
        audio=np.concatenate([demo.features['audio'], np.full((len(demo), 1), 7, np.float32)], 1)
    )
    assert np.abs(standardise(flat, ['audio']).features['audio'][:, -1]).max() == 0


def test_scales_do_not_depend_on_how_many_rows_are_read_at_once(demo, monkeypatch):
    x, has, rows = demo.features['audio'], demo.has['audio'], demo.rows('train')
    whole, ready = scaling._column_scale(x, has, rows), standardise(demo, ['audio'])
    monkeypatch.setattr(scaling, '_BLOCK', 5 * x.shape[1])
    for a, b in zip(whole, scaling._column_scale(x, has, rows)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        ready.features['audio'], standardise(demo, ['audio']).features['audio']
    )


def test_batches_are_scaled_as_a_corpus_is(demo):
    cut = dict(size=7, features=['audio', 'text'], targets={})
    scale = scaling._scaling_of(demo, ['audio'])
    ready = make_batches(standardise(demo, ['audio']), 'train', **cut)
    for a, b in zip(ready, make_batches(demo, 'train', **cut, scaling=scale), strict=True):
        assert all(torch.equal(a.features[name], b.features[name]) for name in a.features)


def test_numerical_noise_is_not_standardised():
    "A column at the limit of floating point is noise, whatever its relative spread."
    x = np.random.default_rng(0).normal(size=(50, 2)) * [1, 1e-33]
    z = standardised(x, np.ones(50, bool), np.arange(50))
    assert (z[:, 1] == 0).all() and abs(z[:, 0].std() - 1) < 1e-9


def test_lists_arrays_and_small_integers_are_taken():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::-1]
    b = from_padded(
        {'text': x, 'audio': x.tolist()},
        [[0, 1, -1], [0, 0, 0]],
        (2, 3),
        {'emotion': np.array([[1, 2, 9], [0, 1, 2]], np.int8)},
    )
    assert b.targets['emotion'].dtype == b.speakers.dtype == torch.long and b.speakers.min() == 0, (
        'what stands at padding does not matter'
    )
    assert torch.equal(b.features['text'], b.features['audio']) and torch.equal(
        b.to_padded(b.features['text'])[1], torch.tensor(x[1].copy())
    )


def test_unusable_cuts_are_refused(demo):
    def cut(**kw):
        return make_batches(
            demo,
            'train',
            **{'size': 7, 'features': ['text'], 'targets': {'emotion': 'label'}, **kw},
        )

    with pytest.raises(ValueError, match='at least one dialogue'):
        cut(size=0)
    with pytest.raises(ValueError, match='unknown unit of a batch'):
        cut(unit='turns')
    with pytest.raises(
        ValueError, match="unknown column of corpus demo 'lable'; did you mean 'label'"
    ):
        cut(targets={'emotion': 'lable'})


def test_to_padded_under_vmap_and_gradients():
    x, s, n, y = padded([3, 1])
    b = from_padded(x, s, n)
    z = torch.randn(2, len(b), 3, requires_grad=True)
    both = torch.vmap(b.to_padded)(z)
    assert (
        torch.equal(both[1], b.to_padded(z[1]))
        and torch.autograd.grad(both.sum(), z)[0].eq(1).all()
    )


def test_plain_numbers_key_a_batch():
    from erc.nn.cells import dropout

    x, s, n, y = padded([3, 1], D=50)
    b = from_padded(x, s, n)
    assert torch.equal(
        dropout(b.features['text'], 0.5, b.at(1, 2), 'p'),
        dropout(b.features['text'], 0.5, b.at(torch.tensor(1), torch.tensor(2)), 'p'),
    )
    assert dropout(torch.ones(0, 4), 0.5, b.at(0, 0), 'p', rows=slice(0, 0)).shape == (0, 4)


@pytest.mark.parametrize('most', [1, 2, 3, 16])
def test_blocks_hold_every_turn_once(most):
    lengths = [3, 1, 5, 2, 5, 4]
    b = from_padded({'x': torch.arange(30.0).view(6, 5, 1)}, torch.zeros(6, 5), lengths)
    blocks = b.blocks(most)
    assert all(len(r) <= most for r in blocks) and sum(map(len, blocks)) == 6
    for block in blocks:
        assert (block < len(b)).sum(1).max() == block.shape[1], 'as wide as its longest dialogue'
        for row in block:
            row = row[row < len(b)]
            assert len(set(b.dialogue[row].tolist())) == 1, 'one dialogue'
            assert b.turn[row].tolist() == list(range(len(row)))
    assert sorted(torch.cat([r[r < len(b)] for r in blocks]).tolist()) == list(range(20))
    assert b.parties == 1 and b.lengths.tolist() == lengths


def test_batches_by_cost(demo):
    "Whole dialogues up to a budget; every row once."
    c = demo
    cost = np.char.str_len(c.table.text.to_numpy().astype(str))
    options = dict(features=['text'], targets={'emotion': 'label'}, cost=cost)
    cut = make_batches(c, 'train', size=1500, **options)
    total = [cost[b.ids].sum() for b in cut]
    assert sorted(np.concatenate([b.ids for b in cut])) == sorted(c.rows('train'))
    assert len({b.sizes[0] for b in cut}) > 1
    assert all(t <= 1500 or b.sizes[0] == 1 for t, b in zip(total, cut))
    assert min(a + b for a, b in zip(total, total[1:])) > 700
    assert all(b.sizes[0] == 1 for b in make_batches(c, 'train', size=1, **options))


@pytest.mark.parametrize('unit, size', [('turn', 6), ('dialogue', 2)])
def test_widths_hold_the_tokens_of_every_batch_of_a_shape(demo, unit, size):
    n = np.random.default_rng(0).integers(1, 75, len(demo))
    read = demo.with_features(text=(np.arange(80) < n[:, None]).astype(np.float32))
    cut = dict(size=size, unit=unit, features=['text', 'audio'], targets={})
    batches, shapes = make_batches(read, 'train', **cut, tokens=['text']), {}
    for b, plain in zip(batches, make_batches(read, 'train', **cut), strict=True):
        widths, own = b.widths['text'], (b.features['text'] != 0).sum(1)
        assert all(a <= w for a, w in zip(sorted(own.tolist(), reverse=True), widths, strict=True))
        assert own.tolist() == n[b.ids].tolist(), 'no token is lost'
        assert b.features['text'].shape[1] == widths[0] and set(widths) <= {16, 32, 48, 64, 80}
        assert plain.widths == {} and plain.features['text'].shape[1] == 80
        assert torch.equal(b.features['audio'], plain.features['audio'])
        assert b.at(0, 1).to(dtype=torch.float64).widths == b.widths
        shapes.setdefault(b.sizes, set()).add(widths)
    assert {len(found) for found in shapes.values()} == {1}
    assert len(shapes) < len(batches)


@pytest.mark.parametrize('number,turn', [(2, 1), (-1, 0), (1_000_000, 2)])
def test_speakers_out_of_range_are_named(number, turn):
    x, who = torch.zeros(3, 4, 2), torch.zeros(3, 4, dtype=torch.long)
    who[0, 0] = 1  # two parties
    who[2, turn] = number
    with pytest.raises(
        ValueError, match=rf'dialogue 2, turn {turn}: speaker {number} is out of range'
    ):
        b = from_padded({'text': x}, who, [4, 2, 3])
        if number == 2:
            dataclasses.replace(b, parties=2)


def test_speakers_in_range_pass():
    who = torch.tensor([[0, 5, 63]])
    assert from_padded({'text': torch.zeros(1, 3, 2)}, who, [3]).parties == 64
