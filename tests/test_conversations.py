"Whatever holds a conversation becomes one table of turns; what does not is named."

import json
import warnings

import pandas as pd
import pytest

from erc.prediction.conversations import _NOBODY, conversation_table

TALK = [('Ann', 'You came!'), ('Ben', 'Leave me alone.'), ('Ann', 'Why? 🙂')]


def turns(table):
    return list(zip(table.speaker, table.text))


def test_every_form_gives_the_same_turns(tmp_path):
    frame = pd.DataFrame(TALK, columns=['Speaker', 'Utterance'])
    dicts = [{'user': who, 'message': text} for who, text in TALK]
    frame.to_csv(tmp_path / 'a.csv', index=False)
    frame.to_csv(tmp_path / 'b.tsv', index=False, sep='\t')
    (tmp_path / 'bom.csv').write_bytes(frame.to_csv(index=False, sep=';').encode('utf-8-sig'))
    (tmp_path / 'c.json').write_text(json.dumps(dicts))
    (tmp_path / 'd.json').write_text(json.dumps({'monday': TALK}))
    (tmp_path / 'e.jsonl').write_text('\n\n'.join(map(json.dumps, dicts)))
    (tmp_path / 'bom.jsonl').write_bytes('\n'.join(map(json.dumps, dicts)).encode('utf-8-sig'))
    (tmp_path / 'f.txt').write_text('\n'.join(f'{who}: {text}' for who, text in TALK))
    (tmp_path / 'g.csv').write_bytes(frame.to_csv(index=True, sep='|').encode('utf-16'))
    (tmp_path / 'h.jsonl').write_text(json.dumps(dicts))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 10
    for source in [TALK, tuple(TALK), iter(TALK), dicts, frame, {'monday': TALK}, *files]:
        assert turns(conversation_table(source)) == TALK, source


def test_several_conversations_keep_their_order_and_their_turns():
    frame = pd.DataFrame(
        {'dialogue_id': [1, 2, 1, 2], 'speaker': list('abab'), 'text': ['w', 'x', 'y', 'z']}
    )
    table = conversation_table(frame)
    assert list(table.dialogue) == ['1', '2', '1', '2'] and list(table.turn) == [0, 0, 1, 1]
    assert list(table.text) == ['w', 'x', 'y', 'z']
    lists = conversation_table([TALK, TALK[:1]])
    assert list(lists.turn) == [0, 1, 2, 0] and lists.dialogue.nunique() == 2
    assert conversation_table([frame, frame]).dialogue.nunique() == 2
    splits = {'train': {'monday': TALK}, 'test': {'monday': TALK}}
    assert list(conversation_table(splits).dialogue.unique()) == ['train/monday', 'test/monday']


def test_quotes_separators_and_odd_line_ends_stay_in_the_text(tmp_path):
    odd = ['a, b', 'he said "no"', 'two\nlines', 'one\u2028line\x0b', '; | \t', '<b>שלום</b>']
    path = tmp_path / 'a.csv'
    pd.DataFrame({'speaker': 'A', 'text': odd}).to_csv(path, index=False)
    assert list(conversation_table(path).text) == odd


def test_missing_text_and_speakers_are_kept_and_said():
    source = [('A', 'x'), ('A', ''), (None, 'y'), ('  ', None), ('A', float('nan'))]
    with pytest.warns(UserWarning) as caught:
        table = conversation_table(source)
    said = [str(w.message) for w in caught]
    assert len(table) == 5 and list(table.speaker) == ['A', 'A', _NOBODY, _NOBODY, 'A']
    assert any('3 of 5 turns (row 1, 3, 4) have no text' in s for s in said)
    assert any('2 of 5 turns (row 2, 3) name no speaker' in s for s in said)


def test_half_a_character_stops_nothing(tmp_path):
    "Messengers cut texts in the middle of an emoji; Arrow's strings, where pandas has them, refuse that."
    lines = [json.dumps({'speaker': 'A', 'text': text}) for text in ('half \ud83d', 'whole')]
    (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
    table = conversation_table(tmp_path / 'a.jsonl')
    assert table.text[0].startswith('half ') and table.text[1] == 'whole'


@pytest.mark.parametrize(
    'source, message',
    [
        ([], 'no turn to predict'),
        (['You came!'], r"turn 0 is 'You came!'; expected a pair \(speaker, text\)"),
        ([('A', 'x'), ('A', 5)], r'turn 1: the text is 5 \(int\), not a string'),
        ([('A', b'x')], 'turn 0: the text is .*bytes'),
        ([('A', ['x'])], 'turn 0: the text is .*list'),
        ([(['A'], 'x')], 'is'),
        ([('A', 'x', 1)], 'turn 0 is'),
        (
            [{'who': 'A', 'text': 'x'}],
            'no column of speakers is known by its name; the columns are',
        ),
        (pd.DataFrame({'a': ['x']}), 'no column of texts'),
        (5, 'is not a conversation'),
        ('chat.xlsx', "unknown kind of file .*'.xlsx'"),
    ],
)
def test_what_is_no_conversation_is_named(source, message):
    with pytest.raises(ValueError, match=message):
        conversation_table(source)


def test_a_wrong_column_is_answered_with_the_nearest():
    frame = pd.DataFrame({'who': ['A'], 'words': ['x']})
    assert turns(conversation_table(frame, speaker='who', text='words')) == [('A', 'x')]
    with pytest.raises(ValueError, match="did you mean 'words'"):
        conversation_table(frame, speaker='who', text='word')


@pytest.mark.parametrize(
    'name, data, message',
    [
        ('a.csv', b'', 'an empty file'),
        ('a.csv', b'speaker,text\n', 'no rows'),
        ('a.csv', b'speaker,text\nA,x,y\n', 'line 2: row 0 has 3 columns, the header 2'),
        ('a.csv', 'speaker,text\nA,é'.encode('latin1'), r'line 2 is not utf-8 \(byte 0xe9\)'),
        ('a.csv', 'speaker,text\nA,x'.encode('utf-16-le'), 'not a text file'),
        (
            'a.csv',
            b'speaker,text\nA,"x\nB,y\n',
            'line 2: a quotation mark is opened and never closed',
        ),
        ('a.csv', b'speaker,text,text\nA,x,y\n', "two columns 'text'"),
        ('a.jsonl', b'{"speaker": "A", "text": "x"}\n{"speaker"', 'line 2 is not JSON'),
        ('a.jsonl', b'{"speaker": "A", "text": "x"}\n[]', r'line 2: \[\] is not a turn'),
        ('a.jsonl', b'[1]', r'line 1: \[1\] is not a list of turns'),
        ('a.json', b'{', 'not JSON'),
        ('a.json', b'[{"speaker": "A", "text": 5}]', r'a\.json, turn 0: the text is 5'),
        ('a.json', b'[' * 100_000, 'not JSON'),
        ('a.txt', b'hello there', "line 1: 'hello there' has no 'Speaker: '"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        conversation_table(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match='is a folder; give a file'):
        conversation_table(tmp_path)
    with pytest.raises(FileNotFoundError, match='no file'):
        conversation_table(tmp_path / 'a.csv')


def test_a_messenger_export(tmp_path):
    (tmp_path / 'chat.txt').write_text(
        '24/12/25, 18:01 - Ann B.: You came: at last\r\n'
        'all of you\r\n'
        '[24.12.25, 18:02:33] +49 30 1234: Yes\r\n',
        encoding='utf-8',
        newline='',
    )
    assert turns(conversation_table(tmp_path / 'chat.txt')) == [
        ('Ann B.', 'You came: at last\nall of you'),
        ('+49 30 1234', 'Yes'),
    ]


def test_nothing_is_said_of_a_sound_conversation():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        conversation_table(TALK)
