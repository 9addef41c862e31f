"Sentence vectors: equal to the transformer's, encoded once, and no error passes silently."

import io
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest

import erc.data.features as F
import erc.data.sentence_encoders as S
from erc.data.corpus import Corpus
from erc.data.features import _encode_text, _hashed_words, context_mean, encode
from erc.data.registry import load_corpus
from erc.data.sentence_encoders import encoder_identity, encoder_path, toy_encoder
from erc.data.sentence_store import _find_sentences, _text_keys

LINES = [
    'Hey!',
    'I lost my keys.',
    '',
    'You lost them where?',
    'Hey!',
    'in the car , I think , with my sandwich',
]


@pytest.fixture(scope='session')
def toy(tmp_path_factory):
    return toy_encoder(tmp_path_factory.mktemp('toy') / 'enc', LINES)


@pytest.fixture(scope='session')
def minilm():
    try:
        return encoder_path('minilm')
    except ValueError as e:
        pytest.skip(str(e))


def vectors(texts, enc, cache, *args, **kw):
    "Encode texts with a store under `cache`."
    return _encode_text(texts, enc, *args, progress=False, cache=cache, **kw)


def shards(cache):
    return sorted(cache.rglob('*.safetensors'))


def by_hand(path, text):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tok, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    with torch.inference_mode():
        return model(**tok(text, return_tensors='pt')).last_hidden_state[0].numpy()


# the numbers


@pytest.mark.parametrize('pooling', ['mean', 'cls'])
def test_is_the_transformer_sentence_by_sentence(toy, tmp_path, pooling):
    x = vectors(LINES, toy, tmp_path, pooling, normalise=False)
    assert x.dtype == np.float32
    for v, t in zip(x, LINES):
        h = by_hand(toy, t)
        np.testing.assert_allclose(v, h.mean(0) if pooling == 'mean' else h[0], atol=1e-5)


def test_minilm_is_what_sentence_transformers_gives(minilm, tmp_path):
    x = vectors(LINES, 'minilm', tmp_path)
    raw = np.stack([by_hand(minilm, t).mean(0) for t in LINES])
    np.testing.assert_allclose(x, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)
    assert x.shape == (6, 384)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return
    np.testing.assert_allclose(
        x,
        SentenceTransformer(str(minilm), device='cpu').encode(LINES, show_progress_bar=False),
        atol=1e-5,
    )


def test_minilm_knows_language(minilm, tmp_path):
    a, b, c = vectors(
        ['I am so happy.', 'What a joy!', 'The train leaves at nine.'], 'minilm', tmp_path
    )
    assert a @ b > a @ c + 0.1


def test_order_repeats_and_batch_size_do_not_matter(toy, tmp_path):
    x = vectors(LINES, toy, tmp_path / 'a')
    np.testing.assert_array_equal(x[0], x[4])
    np.testing.assert_allclose(
        vectors(LINES[::-1], toy, tmp_path / 'b', batch_tokens=1)[::-1], x, atol=1e-6
    )
    np.testing.assert_allclose(
        vectors(pd.Series(LINES), toy, tmp_path / 'c', batch_tokens=10**6), x, atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)


def test_the_number_of_threads_does_not_matter(toy, tmp_path):
    import torch

    n, xs = torch.get_num_threads(), []
    try:
        for k in (1, 3):
            torch.set_num_threads(k)
            xs.append(
                vectors(
                    [f'my keys {i} {"car " * (i % 7)}' for i in range(200)],
                    toy,
                    tmp_path / str(k),
                    batch_tokens=50,
                )
            )
            assert torch.get_num_threads() == k
    finally:
        torch.set_num_threads(n)
    np.testing.assert_array_equal(*xs)


def test_a_long_sentence_is_cut_with_a_warning(toy, tmp_path):
    with pytest.warns(UserWarning, match='1 of 2 sentences have more than 64 tokens'):
        x = vectors(['my keys', 'keys ' * 200], toy, tmp_path)
    np.testing.assert_allclose(x[1], vectors(['keys ' * 62], toy, tmp_path)[0], atol=1e-6)


# the store


def no_encoder(*args):
    raise AssertionError('the encoder was loaded')


def test_second_call_loads_no_encoder(toy, tmp_path, monkeypatch):
    x = vectors(LINES, toy, tmp_path)
    monkeypatch.setattr(F, '_kept_encoder', no_encoder)
    np.testing.assert_array_equal(vectors(LINES[::-1], toy, tmp_path)[::-1], x)
    with pytest.raises(AssertionError):
        vectors([*LINES, 'new'], toy, tmp_path)


def test_only_new_sentences_are_encoded(toy, tmp_path, monkeypatch):
    seen, real = [], F._tokenise
    monkeypatch.setattr(
        F,
        '_tokenise',
        lambda tok, model, texts: seen.append(sorted(texts)) or real(tok, model, texts),
    )
    vectors(LINES, toy, tmp_path)
    vectors([*LINES, 'my car'], toy, tmp_path)
    assert seen == [sorted(set(LINES)), ['my car']]


def test_raw_and_normalised_share_the_store_but_poolings_do_not(toy, tmp_path):
    raw = vectors(LINES, toy, tmp_path, normalise=False)
    n = len(shards(tmp_path))
    np.testing.assert_allclose(
        vectors(LINES, toy, tmp_path), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6
    )
    assert len(shards(tmp_path)) == n
    assert np.abs(vectors(LINES, toy, tmp_path, 'cls', normalise=False) - raw).max() > 0.01


def test_a_stopped_run_goes_on(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(F, '_SHARD', 2)
    real, calls = S._encode_batch, []

    def stops(*args):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(S, '_encode_batch', stops)
    with pytest.raises(KeyboardInterrupt):
        vectors(LINES, toy, tmp_path, batch_tokens=1)
    assert len(shards(tmp_path)) == 1
    monkeypatch.setattr(S, '_encode_batch', real)
    vectors(LINES, toy, tmp_path)
    assert len(shards(tmp_path)) == 3


def spoil_bytes(p):
    p.write_bytes(p.read_bytes()[:-3] + b'xyz')


def truncate(p):
    p.write_bytes(p.read_bytes()[:40])


def empty(p):
    p.write_bytes(b'')


def other_tensors(p):
    import hashlib

    from safetensors.numpy import save

    data = save({'a': np.zeros(3)})
    p.unlink()
    (p.parent / f'{hashlib.sha256(data).hexdigest()[:32]}.safetensors').write_bytes(data)


@pytest.mark.parametrize('spoil', [spoil_bytes, truncate, empty, other_tensors])
def test_a_damaged_shard_is_named_and_made_again(toy, tmp_path, spoil):
    x = vectors(LINES, toy, tmp_path)
    [p] = shards(tmp_path)
    spoil(p)
    with pytest.warns(UserWarning, match='is damaged'):
        y = vectors(LINES, toy, tmp_path)
    np.testing.assert_array_equal(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        vectors(LINES, toy, tmp_path)


def test_two_processes_at_once(toy, tmp_path):
    code = """
import sys
from erc.data.features import _encode_text
texts = [f'my keys {i}' for i in range(300)]
_encode_text(texts, sys.argv[1], cache=sys.argv[2], progress=False)
"""
    both = [
        subprocess.Popen(
            [sys.executable, '-W', 'error::UserWarning', '-c', code, str(toy), str(tmp_path)]
        )
        for _ in range(2)
    ]
    assert [p.wait() for p in both] == [0, 0]
    [folder] = {p.parent for p in shards(tmp_path)}
    keys = _text_keys([f'my keys {i}' for i in range(300)])
    assert len(_find_sentences(folder, keys)) == 300
    assert not [p for p in folder.iterdir() if p.suffix != '.safetensors' or p.name.startswith('.')]


def test_the_store_follows_the_weights_not_the_path(toy, tmp_path):
    moved, cache = shutil.copytree(toy, tmp_path / 'moved'), tmp_path / 'cache'
    x = vectors(LINES, toy, cache)
    n = len(shards(cache))
    vectors(LINES, moved, cache)
    assert len(shards(cache)) == n
    shutil.rmtree(moved)
    toy_encoder(moved, LINES, seed=5)
    assert np.abs(vectors(LINES, moved, cache) - x).max() > 0.01


# bad input


def test_nan_is_refused_and_not_stored(tmp_path):
    import torch
    from transformers import BertModel

    bad = toy_encoder(tmp_path / 'enc', LINES)
    model = BertModel.from_pretrained(bad)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7] = float('nan')
    model.save_pretrained(bad)
    with pytest.raises(ValueError, match='returns NaN'):
        vectors(LINES, bad, tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(
    'kw,message',
    [(dict(pooling='max'), "unknown pooling 'max'"), (dict(dtype='int8'), "unknown dtype 'int8'")],
)
def test_wrong_settings_are_named(toy, tmp_path, kw, message):
    with pytest.raises(ValueError, match=message):
        vectors(LINES, toy, tmp_path, **kw)


@pytest.mark.parametrize(
    'texts,message',
    [(['a', None], 'text 1 is None'), ([float('nan')], 'text 0 is nan'), ([], 'no texts')],
)
def test_wrong_texts_are_named(toy, tmp_path, texts, message):
    with pytest.raises(ValueError, match=message):
        vectors(texts, toy, tmp_path)


def test_half_precision_has_its_own_store(toy, tmp_path):
    x, h = vectors(LINES, toy, tmp_path), vectors(LINES, toy, tmp_path, dtype='bfloat16')
    assert h.dtype == np.float32 and 0 < np.abs(x - h).max() < 0.05
    assert len({p.parent for p in shards(tmp_path)}) == 2


# manners


def test_importing_needs_neither_torch_nor_transformers():
    code = """
import sys
import erc.data.features
assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)
"""
    subprocess.run([sys.executable, '-c', code], check=True)


def test_no_output_and_no_trace_in_global_state(toy, tmp_path, capfd):
    import torch
    from transformers.utils import logging

    before = (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.initial_seed(),
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
    )
    state = torch.get_rng_state()
    vectors(LINES, toy, tmp_path)
    toy_encoder(tmp_path / 'other', LINES)
    assert before == (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.initial_seed(),
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
    )
    assert torch.equal(state, torch.get_rng_state())
    assert capfd.readouterr() == ('', '')


def test_the_bar_shows_on_a_terminal_alone(toy, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return self.terminal

    shown = []
    for terminal in (True, False):
        monkeypatch.setattr(sys, 'stderr', Terminal())
        sys.stderr.terminal = terminal
        _encode_text([f'a new line {terminal}'], toy, cache=tmp_path)
        shown.append('encoding with' in sys.stderr.getvalue())
    assert shown == [True, False]


# on a corpus


def small(task='emotion'):
    t = pd.DataFrame(
        dict(
            dialogue=list('aaabbb'),
            turn=[0, 1, 2] * 2,
            speaker='s',
            text=LINES,
            label=[0, 1] * 3,
            split=['train'] * 3 + ['test'] * 3,
        )
    )
    return Corpus('small', task, ('x', 'y'), t, provenance={'notes': ['n']})


def test_encode_adds_a_feature_and_records_its_encoder(toy, tmp_path):
    corpus, options = small(), dict(cache=tmp_path, progress=False)
    out = encode(corpus, toy, **options)
    out = encode(out, toy, feature='first', pooling='cls', normalise=False, **options)
    assert corpus.features == {} and set(out.features) == set(out.has) == {'text', 'first'}
    np.testing.assert_array_equal(out.features['text'], vectors(LINES, toy, tmp_path))
    assert out.has['text'].all() and out.provenance['notes'] == ['n']
    made = dict(encoder='enc', files=encoder_identity(toy), column='text')
    assert out.provenance['encoders'] == {
        'text': dict(made, pooling='mean', normalise=True),
        'first': dict(made, pooling='cls', normalise=False),
    }


def test_encode_concatenates_columns(toy, tmp_path):
    corpus = small()
    corpus = corpus.replace(table=corpus.table.assign(previous=['', *LINES[:-1]]))
    out = encode(corpus, toy, column=['text', 'previous'], cache=tmp_path, progress=False)
    both = [vectors(corpus.table[name], toy, tmp_path) for name in ('text', 'previous')]
    np.testing.assert_array_equal(out.features['text'], np.concatenate(both, 1))


def test_encode_with_hashed_words_needs_no_encoder(monkeypatch):
    monkeypatch.setattr(F, 'encoder_path', no_encoder)
    out = encode(small(), 'hashing')
    np.testing.assert_array_equal(out.features['text'], _hashed_words(LINES))
    assert out.provenance['encoders']['text']['encoder'] == 'hashing'


def test_encode_names_what_it_does_not_know(toy):
    with pytest.raises(ValueError, match="unknown column of corpus small 'previous'"):
        encode(small(), toy, column='previous')
    with pytest.raises(
        ValueError, match="unknown column of corpus small 'txt'; did you mean 'text'"
    ):
        encode(small(), toy, column='txt')
    with pytest.raises(ValueError, match=r"unknown encoder 'hashng' \(did you mean 'hashing'\?\)"):
        encode(small(), 'hashng')


def loop_mean(names, x, past):
    out = np.zeros_like(x)
    for i in range(len(x)):
        before = [j for j in range(max(0, i - past), i) if names[j] == names[i]]
        if before:
            out[i] = x[before].mean(0)
    return out


@pytest.mark.parametrize('past', [1, 2, 6, 100])
def test_context_mean_is_the_plain_loop(past):
    rng = np.random.default_rng(past)
    names = np.repeat([f'd{i}' for i in range(9)], rng.integers(1, 12, 9))
    x = rng.normal(size=(len(names), 5)).astype(np.float32)
    out = context_mean(pd.DataFrame({'dialogue': names}), x, past)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, loop_mean(names, x, past), atol=1e-6)


def test_context_mean_refuses_unusable_input():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match='not contiguous'):
        context_mean({'dialogue': list('aba')}, x)
    with pytest.raises(ValueError, match='3 vectors for a table of 2'):
        context_mean({'dialogue': list('ab')}, x)
    with pytest.raises(ValueError, match='past=0'):
        context_mean({'dialogue': list('abc')}, x, 0)
    assert context_mean({'dialogue': []}, np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.slow
def test_sentences_of_meld_in_time(data, minilm):
    "A tenth of MELD is encoded in 20 s of processor time, and read from the store in 1 s."
    texts = load_corpus('meld').table['text'][::10]
    folder = F.cache_home() / 'features' / f'{encoder_identity(minilm)}-mean'
    cold, start = not _find_sentences(folder, _text_keys(list(texts))), time.process_time()
    x = _encode_text(texts, progress=False)
    if cold:
        assert time.process_time() - start < 20
    start = time.perf_counter()
    np.testing.assert_array_equal(_encode_text(texts, progress=False), x)
    assert time.perf_counter() - start < 1


def test_sentences_that_are_cut_are_said_each_time(toy, tmp_path):
    for _ in range(2):
        with pytest.warns(UserWarning, match='1 of 2 sentences have more than 64 tokens'):
            _encode_text(['my keys', 'keys ' * 100], toy, cache=tmp_path, progress=False)
