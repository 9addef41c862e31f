"A trained model on conversations: whole, one or many, long or odd; the answer is the same however it is asked."

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from own_chats import chats, trained
from typer.testing import CliRunner

import erc
from erc.cli import app
from erc.data.sentence_encoders import toy_encoder
from erc.prediction.conversations import _NOBODY
from erc.prediction.predictor import _is_emoji_alone, _language_problem, _pieces, predict_turns
from erc.prediction.streams import predict_stream

TALK = [
    ('Ann', 'well it was great'),
    ('Ben', 'you see it was lost'),
    ('Ann', 'and then it was rain'),
    ('Ben', 'it was sunny'),
]
VALUES = ['emotion', 'confidence', 'p_joy', 'p_sadness', 'p_neutral', 'p_shift']


@pytest.fixture(scope='module')
def model():
    return trained()


def close(a, b, tolerance=1e-4):
    assert list(a.emotion) == list(b.emotion)
    for column in VALUES[1:]:
        np.testing.assert_allclose(a[column], b[column], atol=tolerance, rtol=0)


def test_columns_and_what_they_hold(model):
    found = model.predict(TALK)
    assert list(found) == ['turn', 'speaker', 'text', *VALUES]
    assert list(found.turn) == [0, 1, 2, 3] and list(zip(found.speaker, found.text)) == TALK
    p = found[['p_joy', 'p_sadness', 'p_neutral']].to_numpy()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(found.confidence, p.max(1))
    assert [model.classes[i] for i in p.argmax(1)] == list(found.emotion)
    assert list(found.emotion) == ['joy', 'sadness', 'sadness', 'joy']
    assert found.p_shift.isna().tolist() == [True, True, False, False]
    assert found.p_shift[2:].between(0, 1).all()


def test_it_is_what_the_model_gives_for_the_corpus(model):
    corpus = erc.encode(chats(), 'hashing', progress=False)
    found = model.predict(corpus)
    p = model.probabilities(corpus)
    np.testing.assert_allclose(found[[f'p_{c}' for c in model.classes]], p, atol=1e-6)
    np.testing.assert_allclose(found.p_shift, model.shift_probabilities(corpus), atol=1e-6)
    right = (found.emotion == [corpus.classes[i] for i in corpus.table.label])[corpus.rows('test')]
    assert right.mean() > 0.9  # it was trained: the word tells the emotion


def test_one_by_one_or_among_a_thousand(model):
    many = [[(f'{who}', f'{text} {i}') for who, text in TALK[: 1 + i % 4]] for i in range(400)]
    together = model.predict(many)
    assert len(together) == sum(map(len, many)) == 1000
    parts = [model.predict(one) for one in many[:8]]
    close(pd.concat(parts), together[: sum(map(len, parts))], 1e-6)


def test_turns_of_several_conversations_may_be_mixed(model):
    mixed = pd.DataFrame(
        {
            'dialogue': [d for _ in TALK for d in ('x', 'y')],
            'speaker': [who for who, _ in TALK for _ in range(2)],
            'text': [text for _, text in TALK for _ in range(2)],
        }
    )
    found, alone = model.predict(mixed), model.predict(TALK)
    assert list(found.dialogue) == list(mixed.dialogue) and list(found.text) == list(mixed.text)
    for name in 'xy':
        close(found[found.dialogue == name], alone)


def test_context_and_speakers_matter(model):
    alone = model.predict(TALK[2:3])
    assert abs(alone.p_sadness[0] - model.predict(TALK).p_sadness[2]) > 1e-6
    same = model.predict([('A', text) for _, text in TALK])
    assert same.p_shift.isna().tolist() == [True, False, False, False]


# ---- long conversations


@pytest.mark.parametrize('n', [1, 899, 900, 901, 1700, 1701, 5000])
def test_pieces_predict_each_turn_once_with_its_context(n):
    cut = list(_pieces(range(n)))
    assert [i for p in cut for i in p.items[p.own]] == list(range(n))
    for piece in cut:
        assert piece.items == list(range(piece.first, piece.first + len(piece.items)))
        assert piece.first == max(0, piece.items[piece.own][0] - 100)
        assert piece.items[-1] == min(n - 1, piece.items[piece.own][-1] + 100)
    assert [p.last for p in cut] == [False] * (len(cut) - 1) + [True]


def test_five_thousand_turns(model):
    talk = [('AB'[i % 2], TALK[i % 4][1]) for i in range(5000)]
    found = model.predict(talk)
    assert list(found.turn) == list(range(5000)) and found.p_shift.isna().sum() == 2
    whole = erc.Corpus('x', 'emotion', tuple(model.classes), chats().table[:0])
    table = pd.DataFrame(talk, columns=['speaker', 'text'])
    table = table.assign(dialogue='d', turn=range(5000), label=-1, split='test')
    whole = erc.encode(whole.replace(table=table), 'hashing', progress=False)
    p = model.probabilities(whole)  # never cut
    np.testing.assert_allclose(found[[f'p_{c}' for c in model.classes]], p, atol=1e-4)


def test_more_speakers_than_a_model_tells_apart(model):
    talk = [(f'guest {i % 90}', 'it was great') for i in range(180)]
    with pytest.warns(UserWarning, match='90 speakers; a model tells 64 apart'):
        found = model.predict(talk)
    assert [who for who, _ in talk] == list(found.speaker)  # names are kept


# ---- odd input


def test_empty_text_is_kept_and_counts_as_missing(model):
    with pytest.warns(UserWarning, match='1 of 3 turns'):
        found = model.predict([('A', 'it was great'), ('B', ' '), ('A', 'it was lost')])
    assert list(found.text) == ['it was great', ' ', 'it was lost']
    with pytest.warns(UserWarning):
        none = model.predict([('A', 'it was great'), ('B', None), ('A', 'it was lost')])
    close(found, none, 1e-9)


def test_no_speaker(model):
    with pytest.warns(UserWarning, match='name no speaker'):
        found = model.predict([(None, 'it was great'), ('', 'so')])
    assert list(found.speaker) == [_NOBODY] * 2


@pytest.mark.parametrize('text', ['🙂🙂', 'שלום', '<b>&amp;</b>', '\ud83d', 'x' * 50_000, 'a\0b'])
def test_odd_texts_have_an_answer_and_a_page(model, text, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = model.predict([('A', text), ('<i>B</i>', 'it was great')])
    assert len(found) == 2 and np.isfinite(found.confidence).all()
    for kind in ('csv', 'jsonl', 'html'):
        found.save(tmp_path / f'x.{kind}')
    assert '<i>B' not in (tmp_path / 'x.html').read_text(encoding='utf-8')
    back = pd.read_json(tmp_path / 'x.jsonl', lines=True)
    assert list(back.text) == list(found.text)


def test_an_unknown_kind_of_file_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r'written as \.csv, \.jsonl or \.html'):
        model.predict(TALK).save(tmp_path / 'x.xlsx')


@pytest.mark.parametrize(
    'text, said',
    [
        ('I was going to tell you but you were not there and I had to go. ' * 3, ''),
        ('Ich wollte es dir sagen, aber du warst nicht da und ich musste gehen. ' * 3, 'words'),
        ('Quería decírtelo, pero no estabas y tuve que irme a casa de mi madre. ' * 3, 'words'),
        ('Je voulais te le dire mais tu étais absente et je devais partir. ' * 3, 'words'),
        ('Wo warst du denn die ganze Nacht? Ich habe auf dich gewartet.', '0% of 12 words'),
        ('Neden beni aramadın? Hastaydım, özür dilerim. Tamam, yarın görüşürüz.', '0% of 9 words'),
        (
            '¿Por qué no me llamaste? Estaba muy cansado y me fui a dormir, lo siento mucho, de verdad.',
            'words',
        ),
        ('Thanks! See you tomorrow, Mr. Geller, Monica, Ross.', ''),
        ('Я хотел тебе сказать', 'Latin'),
        ('你好吗', 'Latin'),
        ('lol ok', ''),
        ('🙂 !!! 12', ''),
    ],
)
def test_languages(text, said):
    assert said in _language_problem([text]) and bool(said) == bool(_language_problem([text]))


def test_letters_are_judged_turn_by_turn():
    texts = ['I was going to tell you'] * 9 + ['Я хотел тебе сказать', 'ok 🙂', 'Ça va, café', '12']
    assert _language_problem(texts).startswith('1 of 13 turns (row 9) are mostly in letters')
    assert _language_problem(texts[:9]) == ''


@pytest.fixture
def short_sighted(model, tmp_path, monkeypatch):
    "A model whose encoder reads 16 tokens."
    toy_encoder(tmp_path / 'toy', ['so it goes'], length=16)
    monkeypatch.chdir(tmp_path)
    corpus = erc.encode(chats(), 'toy', progress=False, cache=tmp_path / 'cache')
    settings = {'epochs': 1, 'lr': 1e-2}
    return erc.train('context_gru', corpus, seeds=1, hyperparameters=settings, progress=False)


LONG = ' '.join(['so it goes'] * 6)


def test_turns_that_are_longer_than_the_encoder_reads_are_said(short_sighted):
    for _ in range(2):  # also where the sentence is known already
        with pytest.warns(UserWarning) as caught:
            short_sighted.predict([('A', 'so'), ('B', LONG), ('A', 'so ' * 14), ('B', LONG)])
        said = [str(w.message) for w in caught]
        assert len(said) == 1 and said[0].startswith('2 of 4 turns (row 1, 3) are longer')
        assert 'first 16 tokens' in said[0]


def test_a_stream_counts_turns_that_are_longer_than_the_encoder_reads(short_sighted, tmp_path):
    lines = [json.dumps({'speaker': 'A', 'text': text}) for text in ('so', LONG, LONG)]
    (tmp_path / 'chat.jsonl').write_text('\n'.join(lines))
    found = predict_stream(
        short_sighted, tmp_path / 'chat.jsonl', tmp_path / 'out.csv', progress=False
    )
    assert found.cut == 2 and '2 turns are longer than the encoder reads' in str(found)


def test_only_an_english_encoder_warns_of_other_languages(model, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.predict([('A', 'Я хотел тебе сказать')])


# ---- features


@pytest.fixture(scope='module')
def with_audio():
    corpus = erc.encode(chats(), 'hashing', progress=False)
    sad = (corpus.table.label == 1).to_numpy()[:, None]
    corpus = corpus.with_features(audio=np.c_[sad, ~sad].astype(np.float32))
    settings = {'epochs': 2, 'lr': 1e-2, 'batch': 4}
    model = erc.train(
        'context_gru', corpus, ['text', 'audio'], seeds=1, hyperparameters=settings, progress=False
    )
    return model, corpus


def test_features_of_a_corpus_are_read_and_missing_ones_are_said(with_audio):
    model, corpus = with_audio
    np.testing.assert_allclose(
        model.predict(corpus)[[f'p_{c}' for c in model.classes]],
        model.probabilities(corpus),
        atol=1e-6,
    )
    with pytest.warns(UserWarning, match='also reads audio, which the conversation lacks'):
        found = model.predict(TALK)
    absent = np.zeros((4, 2), np.float32), np.zeros(4, bool)
    table = pd.DataFrame(TALK, columns=['speaker', 'text']).assign(
        dialogue='d', turn=range(4), label=-1, split='test'
    )
    same = erc.encode(corpus.replace(table=table, features={}, has={}), 'hashing', progress=False)
    p = model.probabilities(same.with_features(audio=absent))
    np.testing.assert_allclose(found[[f'p_{c}' for c in model.classes]], p, atol=1e-6)


def test_a_model_of_which_nothing_can_be_made_is_refused():
    corpus = chats().with_features(face=np.eye(3)[chats().table.label])
    settings = {'epochs': 1, 'lr': 1e-2}
    model = erc.train(
        'context_gru', corpus, ['face'], seeds=1, hyperparameters=settings, progress=False
    )
    with pytest.raises(ValueError, match='reads face, which no encoder makes of text'):
        model.predict(TALK)


def test_predictions_are_a_frame_with_an_arc(model):
    found = model.predict(TALK)
    assert 'erc-arc' in found._repr_html_() and 'erc-arc' not in found[['turn']]._repr_html_()
    assert type(found[found.turn > 1]) is pd.DataFrame
    assert predict_turns(model, TALK).equals(found)


def test_a_csv_of_predictions_is_not_evaluated_by_a_spreadsheet(model, tmp_path):
    path = tmp_path / 'out.csv'
    model.predict([('=A', '=1+1'), ('B', 'fine')]).save(path)
    saved = pd.read_csv(path)
    assert list(saved.text) == ["'=1+1", 'fine'] and saved.speaker[0] == "'=A"


def test_a_file_is_not_written_over_itself(tmp_path):
    chat = tmp_path / 'chat.csv'
    chat.write_text('speaker,text\nAnn,hello\n')
    result = CliRunner().invoke(app, ['predict', str(chat), '--out', str(chat)])
    assert result.exit_code and 'choose another --out' in result.output
    assert chat.read_text().startswith('speaker,text')


def test_what_a_chat_joins_or_cannot_close_is_said(model, tmp_path):
    chat = tmp_path / 'chat.txt'
    chat.write_text('Ann: hello\nand more\nBen: hi\n')
    with pytest.warns(UserWarning, match="1 lines without 'Speaker: ' continue .*line 2"):
        assert model.predict(chat).text.tolist() == ['hello\nand more', 'hi']
    broken = tmp_path / 'chat.csv'
    broken.write_text('speaker,text\nAnn,"unfinished\nBen,hello\n')
    with pytest.raises(ValueError, match='line 2: a quotation mark is opened and never closed'):
        model.predict(broken)


def test_a_terminal_shows_the_emotions(model):
    shown = repr(model.predict(TALK))
    assert 'emotion' in shown and 'p_shift' in shown.split('\n')[0]
    assert shown.endswith('[4 turns; also p_joy, p_sadness, p_neutral]')


@pytest.mark.parametrize(
    'text, alone',
    [
        ('\U0001f480', True),
        ('\u2764\ufe0f !', True),
        ('ok \U0001f480', False),
        ('\u2026', False),
        ('', False),
    ],
)
def test_emoji_alone(text, alone):
    assert _is_emoji_alone(text) == alone


def test_turns_of_emoji_alone_are_said():
    import erc

    with pytest.warns(UserWarning, match=r'1 of 2 turns \(row 1\) are emoji alone'):
        erc.predict([('A', 'hello you'), ('B', '\U0001f62d')])
