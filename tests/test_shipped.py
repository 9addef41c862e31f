"The model that is part of the package: chosen on dev, as good as its card says, and at hand in two lines."

import csv
import json
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from own_chats import trained
from typer.testing import CliRunner

import erc
from erc.cli import app
from erc.core import package_file
from erc.data.sentence_encoders import encoder_path
from erc.prediction.shipped import _find_model, _shipped_models, _smallest_of_the_best

HOME = package_file('weights/meld')
TALK = [('Ann', 'You came! I am so happy to see you!'), ('Ben', 'Leave me alone, you idiot!')]


@pytest.fixture(scope='module')
def minilm():
    try:
        return encoder_path('minilm')
    except ValueError as e:
        pytest.skip(str(e))


def run(*args):
    return CliRunner().invoke(app, list(map(str, args)))


def test_it_is_small_and_stands_in_a_folder_of_its_own_with_its_licence():
    assert _shipped_models() == ['meld']
    assert sum(path.stat().st_size for path in HOME.iterdir()) < 8_000_000
    assert 'GNU GENERAL PUBLIC LICENSE' in (HOME / 'LICENSE').read_text()
    card = (HOME / 'README.md').read_text()
    assert 'GPL-3.0' in card and '## Choice' in card
    model = _find_model('meld')
    assert (model.seeds, model.features, model.encoders) == (5, ['text'], {'text': 'minilm'})


def test_it_is_the_smallest_of_the_best_on_dev():
    candidates = json.loads((HOME / 'candidates.json').read_text())
    assert len(candidates) >= 3
    assert _smallest_of_the_best(candidates)['name'] == _find_model('meld').name
    best = max(c['dev'] for c in candidates)
    [own] = [c for c in candidates if c['name'] == _find_model('meld').name]
    assert own['dev'] >= best - 0.01


def test_unknown_models_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'meld'"):
        erc.predict(TALK, model='mled')
    with pytest.raises(ValueError):
        erc.predict(TALK, model=tmp_path)


def test_a_model_of_ones_own_is_found_by_its_folder(tmp_path):
    model = trained(seeds=1)
    folder = model.save(tmp_path / 'mine')
    pd.testing.assert_frame_equal(
        pd.DataFrame(erc.predict(TALK, folder)), pd.DataFrame(model.predict(TALK)), atol=1e-5
    )


# ---- with the encoder


def test_two_lines(minilm):
    found = erc.predict(TALK)
    assert list(found.emotion) == ['joy', 'anger']


def test_an_encoder_that_is_not_there_is_named(monkeypatch):
    import erc.data.features as F

    def absent(name):
        raise ValueError(f'unknown encoder {name!r}: tried folder')

    monkeypatch.setattr(F, 'encoder_path', absent)
    with pytest.raises(ValueError, match="unknown encoder 'minilm'"):
        erc.predict(TALK)


def test_one_by_one_or_among_a_thousand(minilm):
    many = [[(who, f'{text} {i}') for who, text in TALK] for i in range(500)]
    together = erc.predict(many)
    alone = pd.concat([erc.predict(one) for one in many[:5]])
    assert list(alone.emotion) == list(together.emotion[:10])
    np.testing.assert_allclose(alone.confidence, together.confidence[:10], atol=1e-4)


def test_another_language_is_said(minilm):
    german = ('Ann', 'Ich habe dir doch gesagt, dass ich heute nicht kommen kann. ' * 4)
    with pytest.warns(UserWarning, match='does not look English'):
        erc.predict([german])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        erc.predict(TALK)


@pytest.fixture(scope='module')
def meld_test(data):
    return data / 'meld' / 'test_sent_emo.csv'


def weighted_f1(emotions, path):
    from sklearn.metrics import f1_score

    with open(path, encoding='utf-8') as file:
        truth = [row['Emotion'] for row in csv.DictReader(file)]
    return f1_score(truth, list(emotions), average='weighted')


@pytest.mark.slow
def test_meld_through_the_command_line(minilm, meld_test, tmp_path):
    "The csv as it is published gives the score of the card."
    out, start = tmp_path / 'out.csv', time.process_time()
    assert run('predict', meld_test, '--out', out, '--quiet').exit_code == 0
    seconds = time.process_time() - start
    found = weighted_f1(pd.read_csv(out).emotion, meld_test)
    card = _find_model('meld').info.scores['test']['average']['weighted_f1']['mean']
    assert abs(found - card) < 0.003, (found, card)
    assert seconds < 20, seconds


# ---- the command


@pytest.fixture
def mine(tmp_path):
    return trained(seeds=1).save(tmp_path / 'mine')


def test_the_command(mine, tmp_path):
    chat = tmp_path / 'chat.csv'
    chat.write_text('who,said,day\nA,it was <b>great</b>,1\nB,"so, it was lost",1\nA,,2\n')
    columns = ['--speaker', 'who', '--text', 'said', '--dialogue', 'day', '--model', mine]
    shown = run('predict', chat, *columns)
    assert shown.exit_code == 0 and 'joy' in shown.stdout and '1 of 3 turns' in shown.stderr
    rows = json.loads(run('predict', chat, *columns, '--json').stdout)
    assert [row['speaker'] for row in rows] == ['A', 'B', 'A']
    for kind in ('csv', 'jsonl', 'html'):
        out = tmp_path / f'out.{kind}'
        assert run('predict', chat, *columns, '--out', out).exit_code == 0
        assert '<b>' not in out.read_text() or kind != 'html'
    assert len(pd.read_csv(tmp_path / 'out.csv')) == 3


def test_a_stream_on_the_command_line(mine, tmp_path):
    chat, out = tmp_path / 'chat.jsonl', tmp_path / 'out.jsonl'
    chat.write_text('\n'.join(['{"user": "A", "text": "it was great"}'] * 50))
    done = run('predict', chat, '--model', mine, '--out', out, '--quiet')
    assert done.exit_code == 0 and '50 turns' in done.stderr and 'turns a second' in done.stderr
    assert len(out.read_text().splitlines()) == 50


@pytest.mark.parametrize(
    'args, message',
    [
        (['nothing.csv'], 'there is no file nothing.csv'),
        (['chat.csv'], 'no column of texts is known by its name'),
        (['chat.csv', '--text', 'sad'], "did you mean 'said'"),
        (['chat.csv', '--model', 'med'], "did you mean 'meld'"),
        (['chat.csv', '--out', 'x.pdf'], 'written as .csv, .jsonl or .html'),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'chat.csv').write_text('who,said\nA,x\n')
    done = run('predict', *args)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count('\n') == 1


def test_the_front_door_stays_light():
    code = 'import erc, sys; erc.predict; assert "transformers" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_the_card_of_what_is_shipped_states_its_licence():
    from huggingface_hub import ModelCard

    from erc.core import package_file

    card = ModelCard.load(package_file('weights/meld/README.md'), ignore_metadata_errors=False)
    assert card.data.license == 'gpl-3.0' == _find_model('meld').info.licence
    found = {r.metric_name: r.metric_value for r in card.data.eval_results}
    scores = _find_model('meld').info.scores['test']['average']
    assert found['weighted F1'] == scores['weighted_f1']['mean']
    assert '## Notice' in card.content and 'GPL-3.0' in card.content
