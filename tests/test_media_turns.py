"Transcripts of every format, sound or damaged, become one table or one clear sentence."

import pandas as pd
import pytest
from media_files import TURNS

from erc.media.segments import _seconds, read_turns
from erc.media.turns import _turns_corpus

EAF = """<?xml version="1.0"?><ANNOTATION_DOCUMENT><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="1000"/>
<TIME_SLOT TIME_SLOT_ID="c" TIME_VALUE="2000"/><TIME_SLOT TIME_SLOT_ID="d" TIME_VALUE="3000"/>
<TIME_SLOT TIME_SLOT_ID="e"/></TIME_ORDER>
<TIER TIER_ID="x" PARTICIPANT="Ann"><ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="a"
TIME_SLOT_REF2="b"><ANNOTATION_VALUE>You came!</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="c" TIME_SLOT_REF2="d"><ANNOTATION_VALUE>Sit down.
</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION><ANNOTATION><ALIGNABLE_ANNOTATION
TIME_SLOT_REF1="d" TIME_SLOT_REF2="e"><ANNOTATION_VALUE>no time</ANNOTATION_VALUE>
</ALIGNABLE_ANNOTATION></ANNOTATION></TIER><TIER TIER_ID="Bob"><ANNOTATION><ALIGNABLE_ANNOTATION
TIME_SLOT_REF1="b" TIME_SLOT_REF2="c"><ANNOTATION_VALUE>Late.</ANNOTATION_VALUE>
</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""

LONG_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "Ann"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "You came!"
        intervals [2]:
            xmin = 1
            xmax = 2
            text = ""
        intervals [3]:
            xmin = 2
            xmax = 3
            text = "Sit down."
    item [2]:
        class = "IntervalTier"
        name = "Bob"
        xmin = 0
        xmax = 3
        intervals: size = 1
        intervals [1]:
            xmin = 1
            xmax = 2
            text = "Late."
"""

SRT = """1
00:00:00,000 --> 00:00:01,000
Ann: You came!

2
00:00:01,000 --> 00:00:02,000
Bob: <i>Late.</i>

3
00:00:02,000 --> 00:00:03,000
Ann: Sit
down.
"""

VTT = """WEBVTT

NOTE nothing

first
00:00.000 --> 00:01.000 align:start
<v Ann>You came!

00:01.000 --> 00:02.000
<v.loud Bob>Late.</v>

00:02.000 --> 00:03.000
<v Ann>Sit down.
"""

GOOD = {
    'talk.csv': 'StartTime,EndTime,Speaker,Utterance\n'
    '"00:00:00,000","00:00:01,000",Ann,You came!\n2,3,Ann,Sit down.\n1,2,Bob,Late.\n',
    'talk.json': '[{"begin": 0, "end": 1, "speaker": "Ann", "text": "You came!"}, {"begin": 1, "end": '
    '2, "speaker": "Bob", "text": "Late."}, {"begin": 2, "end": 3, "speaker": "Ann", "text": "Sit down."}]',
    'talk.srt': SRT,
    'talk.SRT': SRT.replace('\n', '\r\n'),
    'talk.vtt': VTT,
    'talk.eaf': EAF,
    'talk.TextGrid': LONG_GRID,
}


@pytest.mark.parametrize('name', GOOD)
def test_formats_say_the_same(name, tmp_path):
    (tmp_path / name).write_bytes(GOOD[name].encode())
    table = read_turns(tmp_path / name)
    assert (
        list(table[['start', 'end', 'speaker', 'text']].itertuples(index=False, name=None)) == TURNS
    )


def test_utf16_textgrid(tmp_path):
    path = tmp_path / 'a.TextGrid'
    path.write_bytes(LONG_GRID.replace('Late.', 'Spät "da".'.replace('"', '""')).encode('utf-16'))
    assert read_turns(path).text[1] == 'Spät "da".'


def test_rttm_has_no_words(tmp_path):
    path = tmp_path / 'a.rttm'
    path.write_text('SPEAKER film 1 0.5 1.25 <NA> <NA> Ann <NA> <NA>\nSPKR-INFO film 1 <NA>\n')
    row = read_turns(path).iloc[0]
    assert (row.start, row.end, row.speaker, row.text, row.recording) == (
        0.5,
        1.75,
        'Ann',
        '',
        'film',
    )


BAD = {
    'a.csv': ('start,speaker,text\n0,A,hi\n', "no column 'end'"),
    'b.csv': ('start,end,text\n0,soon,hi\n', "b.csv: row 0, column 'end': 'soon' is no time"),
    'c.csv': ('start,end,text\n0,nan,hi\n', 'is no time'),
    'a.json': (
        '[{"start": 0, "end": 1, "text": "\\ud800"}]',
        'a.json: row 0: ',
        'half a character',
    ),
    'a.srt': ('hello\n', 'no turn was found'),
    'a.vtt': ('WEBVTT\n\n00:99:99:99 --> 1\nx\n', 'line 3'),
    'a.eaf': ('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', 'has a document type'),
    'b.eaf': ('<ANNOTATION_DOCUMENT>', 'not an ELAN file'),
    'a.TextGrid': ('hello', 'not a TextGrid'),
    'b.TextGrid': (LONG_GRID[:400], 'breaks off'),
    'c.TextGrid': (LONG_GRID.replace('size = 3', 'size = 99999999'), 'breaks off'),
    'a.rttm': ('SPEAKER film 1 0.5\n', 'line 1 has 4 columns'),
    'a.docx': ('x', "unknown kind of transcript (a.docx) '.docx'"),
}


@pytest.mark.parametrize('name', BAD)
def test_damaged_transcripts(name, tmp_path):
    text, *sentences = BAD[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the sentence is compared below)
        read_turns(tmp_path / name)
    assert all(s in str(error.value) for s in sentences) and '\n' not in str(error.value)


def test_times():
    assert _seconds('1:00:00.5', '') == 3600.5 and _seconds('-1', '') == -1
    for text in ('', 'inf', '1:2:3:4', '١:٢x', None):
        with pytest.raises(ValueError, match='is no time'):
            _seconds(text, 'x')


def test_columns_of_the_users_own_stay(tmp_path):
    path = tmp_path / 'a.csv'
    path.write_text('start,end,text,emotion,onset\n0,1,hi,joy,9\n')
    table = read_turns(path)
    assert list(table) == ['start', 'end', 'speaker', 'text', 'emotion', 'onset']
    assert table.speaker[0] == 'unknown'


def test_several_recordings_in_one_transcript(tmp_path):
    table = pd.DataFrame(TURNS, columns=['start', 'end', 'speaker', 'text'])
    table = table.assign(recording=['a.mp4', 'b', 'a.mp4'])
    assert len(_turns_corpus(table, tmp_path / 'a.mp4')) == 2
    whole = _turns_corpus(table, tmp_path)
    assert list(whole.table.dialogue) == ['a', 'a', 'b'] and list(whole.table.turn) == [0, 1, 0]


def test_speech_to_text_is_called_by_name(monkeypatch, tmp_path):
    "With a stand-in for the package, which has no weights here."
    import sys
    import types

    class Model:
        def __init__(self, name):
            self.name = name

        def transcribe(self, path):
            assert path.endswith('a.wav')
            return iter([types.SimpleNamespace(start=0.5, end=1.0, text=f' {self.name} ')]), None

    with pytest.raises(ImportError, match='pip install faster-whisper'):
        _turns_corpus('whisper:tiny', tmp_path / 'a.wav')
    module = types.ModuleType('faster_whisper')
    module.WhisperModel, module.__spec__ = Model, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, 'faster_whisper', module)
    assert list(_turns_corpus('whisper:tiny', tmp_path / 'a.wav').table.text) == ['tiny']
