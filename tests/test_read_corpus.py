"read_corpus: tables of every kind, what is refused with place and remedy, what is odd, saved and registered."

import csv
import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest

import erc
from erc.data import saved
from erc.data.registry import _register, converted, load_corpus

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


def turns(dialogues=6, length=3, **more) -> pd.DataFrame:
    rows = [
        {
            'dialogue': f'd{d}',
            'speaker': 'AB'[t % 2],
            'text': f'Line {t} of {d}.',
            'label': ('sad', 'glad', 'neutral')[(d + t) % 3],
        }
        for d in range(dialogues)
        for t in range(length)
    ]
    return pd.DataFrame(rows).assign(**more)


def read(source, **options):
    "Return the corpus and the warnings."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        corpus = erc.read_corpus(source, **options)
    return corpus, [str(warning.message) for warning in caught]


def same(a, b):
    assert (a.name, a.task, a.classes) == (b.name, b.task, b.classes)
    assert a.provenance == b.provenance and a.digest() == b.digest()
    pd.testing.assert_frame_equal(a.table, b.table)
    assert list(a.features) == list(b.features)
    for name, x in a.features.items():
        np.testing.assert_array_equal(x, b.features[name])
        np.testing.assert_array_equal(a.has[name], b.has[name])


# ---- kinds of source

WRITERS = {
    'csv': lambda t, p: t.to_csv(p, index=False),
    'tsv': lambda t, p: t.to_csv(p, index=False, sep='\t'),
    'json': lambda t, p: t.to_json(p, orient='records'),
    'jsonl': lambda t, p: t.to_json(p, orient='records', lines=True),
}


@pytest.mark.parametrize('kind', WRITERS)
def test_every_kind_of_table_gives_the_same_turns(tmp_path, kind, capsys):
    path = tmp_path / f'chats.{kind}'
    WRITERS[kind](turns(), path)
    corpus, said = read(path)
    expected, _ = read(turns(), name='chats')
    pd.testing.assert_frame_equal(corpus.table, expected.table)
    assert said == [] and corpus.classes == ('glad', 'neutral', 'sad') and corpus.task == 'emotion'
    assert list(corpus.provenance['files']) == [path.name]
    line = capsys.readouterr().out.splitlines()[0]
    assert (
        'chats' in line and '3 classes (glad, neutral, sad)' in line and 'left out: nothing' in line
    )


def test_parquet_is_read_where_pandas_can(tmp_path):
    pytest.importorskip('pyarrow')
    turns().to_parquet(tmp_path / 'chats.parquet')
    corpus, _ = read(tmp_path / 'chats.parquet')
    pd.testing.assert_frame_equal(corpus.table, read(turns())[0].table)


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    def missing(path):
        raise ImportError('no engine')

    (tmp_path / 'chats.parquet').write_bytes(b'PAR1')
    monkeypatch.setattr(pd, 'read_parquet', missing)
    with pytest.raises(ImportError, match='pip install pyarrow'):
        read(tmp_path / 'chats.parquet')


def test_sets_of_datasets_are_read_where_it_is_installed(tmp_path):
    datasets = pytest.importorskip('datasets')
    table = turns().assign(label=lambda t: t['label'].map({'sad': 0, 'glad': 1, 'neutral': 2}))
    features = datasets.Features(
        {
            **{name: datasets.Value('string') for name in ('dialogue', 'speaker', 'text')},
            'label': datasets.ClassLabel(names=['sad', 'glad', 'neutral']),
        }
    )
    pyarrow = pytest.importorskip('pyarrow')

    def part(split, names):
        rows = table[table['dialogue'].isin(names)]
        rows = pyarrow.Table.from_pandas(rows, features.arrow_schema, preserve_index=False)
        info = datasets.DatasetInfo(features=features)
        return datasets.Dataset(datasets.table.InMemoryTable(rows), info, fingerprint=split)

    parts = {'train': part('train', ['d0', 'd1', 'd2']), 'test': part('test', ['d3', 'd4', 'd5'])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / 'chats')
    corpus, _ = read(tmp_path / 'chats')
    assert corpus.classes == ('sad', 'glad', 'neutral')
    assert set(corpus.table.loc[corpus.table['split'] == 'test', 'dialogue']) == {'d3', 'd4', 'd5'}
    with pytest.raises(ValueError, match='check its name and the network'):
        read('nobody/nothing')


def test_a_hub_name_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'datasets', None)
    with pytest.raises(ImportError, match='pip install datasets'):
        read('somebody/chats')


def test_a_folder_has_a_file_a_split(tmp_path):
    for d, split in enumerate(('train', 'valid', 'test')):
        turns(3).assign(dialogue=lambda t, d=d: t['dialogue'] + f'_{d}').to_csv(
            tmp_path / f'chats_{split}.csv', index=False
        )
    corpus, _ = read(tmp_path)
    assert corpus.table.groupby('split')['dialogue'].nunique().to_dict() == {
        'train': 3,
        'dev': 3,
        'test': 3,
    }
    assert corpus.provenance['own_dev']
    (tmp_path / 'more.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='more.csv: its name says no split'):
        read(tmp_path)


@pytest.mark.parametrize(
    'shape',
    [
        lambda rows: rows,
        lambda rows: [rows[i : i + 3] for i in range(0, len(rows), 3)],
        lambda rows: {f'd{i}': rows[3 * i : 3 * i + 3] for i in range(6)},
        lambda rows: {'train': rows[:9], 'dev': rows[9:12], 'test': rows[12:]},
    ],
)
def test_json_of_every_shape(tmp_path, shape):
    (tmp_path / 'x.json').write_text(json.dumps(shape(turns().to_dict('records'))))
    corpus, _ = read(tmp_path / 'x.json')
    assert list(corpus.table['text']) == list(turns()['text'])


# ---- columns

MELD_LIKE = {
    'dialogue': 'Dialogue_ID',
    'speaker': 'Speaker',
    'text': 'Utterance',
    'label': 'Emotion',
}


def test_other_names_of_columns_are_suggested_and_not_taken():
    table = turns().rename(columns=MELD_LIKE)
    with pytest.raises(
        ValueError, match="say dialogue='Dialogue_ID', speaker='Speaker', text='Utt"
    ):
        read(table)
    corpus, _ = read(table, **MELD_LIKE)
    assert list(corpus.table.columns) == ['dialogue', 'turn', 'speaker', 'text', 'label', 'split']


def test_other_columns_stay_and_do_not_collide():
    table = turns().assign(utterance='as spoken', rating=1.5, tags=[['a', 1]] * 18)
    corpus, _ = read(table, text='utterance')
    assert set(corpus.table['text']) == {'as spoken'}
    assert list(corpus.table['source_text']) == list(table['text'])
    assert corpus.table['rating'].dtype == float and corpus.table['tags'][0] == '["a", 1]'


def test_one_speaker_or_one_dialogue_is_said_by_the_caller():
    with pytest.raises(ValueError, match='or speaker=None: one speaker only'):
        read(turns().drop(columns='speaker'))
    corpus, said = read(turns().drop(columns=['speaker', 'dialogue']), speaker=None, dialogue=None)
    assert corpus.table['speaker'].nunique() == corpus.table['dialogue'].nunique() == 1
    assert any('no speakers' in sentence for sentence in said)


# ---- bad input


@pytest.mark.parametrize(
    'raw,message',
    [
        (b'', 'an empty file'),
        (b'dialogue,speaker,text,label\n', 'no rows'),
        (b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR', 'not a text file'),
        ('dialogue,speaker,text,label\nd,A,caf\xe9,x\n'.encode('latin1'), 'line 2 is not utf-8'),
        (b'dialogue;speaker,text;label\nd;A,Hm.;x\n', "may be separated by ',' or ';'"),
        (b'\0d\0,', 'not a text file'),
        (b'dialogue,speaker,text,label\nd,A,Well, no,x\n', 'row 0 has 5 columns, the header 4'),
        (b'dialogue,speaker,text,label\nd,A,Hm.\n', 'row 0 has 3 columns, the header 4'),
        (b'dialogue,speaker,text,text\nd,A,Hm.,x\n', "two columns 'text'"),
        (b'dialogue,speaker,text,label\nd,A,"Hm.,x\n', 'line 2'),
        (b'dialogue,speaker,text,label\nd,,Hm.,x\n', 'row 0 has no speaker'),
        (b'dialogue,speaker,text,label\nd,A,Hm.,x\n , B,Hm.,x\n', 'row 1 has no dialogue'),
        (b'dialogue,speaker,text,label\nd,A,Hm.,\n', 'no turn has a label'),
        (b'dialogue,speaker,text,label\nd,A,Hm.,-3\n', 'row 0: label -3 is no code'),
        (
            b'dialogue,speaker,text,label\nd,A,Hm.,70000\n',
            'row 0: label 70000; if labels are values',
        ),
        (
            b'dialogue,speaker,text,label,split\nd,A,Hm.,x,exam\n',
            "row 0: split 'exam'; expected train",
        ),
    ],
)
def test_bad_csv_is_refused_with_place_and_remedy(tmp_path, raw, message):
    (tmp_path / 'chats.csv').write_bytes(raw)
    with pytest.raises(ValueError, match=message) as e:
        read(tmp_path / 'chats.csv')
    assert str(e.value).startswith(str(tmp_path / 'chats.csv'))


@pytest.mark.parametrize('separator', [';', '\t', '|'])
@pytest.mark.parametrize('kind', ['csv', 'tsv'])
def test_the_header_says_what_separates_cells(tmp_path, separator, kind):
    table = turns().assign(text=lambda t: t['text'] + [', well', ', well, well'] * 9)
    table = table.rename(columns={'label': 'label, as given'})
    table.to_csv(tmp_path / f'chats.{kind}', sep=separator, quoting=csv.QUOTE_NONE)
    corpus, _ = read(tmp_path / f'chats.{kind}', label='label, as given')
    assert list(corpus.table['text']) == list(table['text'])
    assert list(corpus.table) == list(read(turns())[0].table)


@pytest.mark.parametrize(
    'change,message',
    [
        ({'text': 5}, 'row 0: 5 is a int, not text'),
        ({'text': pd.Series(['half \ud800'] * 18, dtype=object)}, 'half a character'),
        ({'speaker': None}, 'row 0 has no speaker'),
        ({'label': [[0.5, 0.5]] * 18}, 'neither a name, a number nor a one-hot row'),
        ({'label': np.inf}, 'row 0: the label is infinite'),
    ],
)
def test_bad_frames_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read(turns(**change))


def test_a_missing_file_and_another_kind():
    with pytest.raises(FileNotFoundError, match='chats.csv: no such file'):
        read('chats.csv')
    with pytest.raises(ValueError, match='cannot read a int'):
        read(3)
    with pytest.raises(ValueError, match="structure='meld9' is for pickles"):
        read(turns(), structure='meld9')


@pytest.mark.parametrize('coding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_emoji_right_to_left_and_marks_are_kept(tmp_path, coding):
    table = turns()
    table['text'] = [
        'سلام ‏علیکم',
        '🙂👩‍👩‍👧',
        'NA',
        '007',
        'a\rb',
        'line\nbreak',
        '\u2028',
        '"q", ',
        "'",
    ] * 2
    (tmp_path / 'c.csv').write_bytes(
        table.to_csv(index=False, quoting=csv.QUOTE_ALL).encode(coding)
    )
    corpus, _ = read(tmp_path / 'c.csv')
    assert list(corpus.table['text']) == list(table['text'])
    same(corpus, load_corpus(corpus.save(tmp_path / 'saved')))


def test_five_thousand_turns(tmp_path):
    corpus, said = read(turns(1, 5000, split='train'))
    assert len(corpus) == 5000 and any('of more than 1000 turns' in sentence for sentence in said)
    same(corpus, load_corpus(corpus.save(tmp_path / 'saved')))


# ---- labels


@pytest.mark.parametrize(
    'values,classes,found,codes',
    [
        ([0, 2, 1], None, ('0', '1', '2'), [0, 2, 1]),
        ([0.0, 2.0, np.nan], None, ('0', '1', '2'), [0, 2, -1]),
        (['0', '2', ''], ['a', 'b', 'c'], ('a', 'b', 'c'), [0, 2, -1]),
        (['b', 'a', None], ['b', 'a'], ('b', 'a'), [0, 1, -1]),
        ([True, False, True], None, ('False', 'True'), [1, 0, 1]),
        (
            ['hap', 'exc', 'sad'],
            {'hap': 'joy', 'exc': 'joy', 'sad': 'grief'},
            ('joy', 'grief'),
            [0, 0, 1],
        ),
        ([-1, 1, 3], {-1: 'bad', 1: 'fair', 3: 'good'}, ('bad', 'fair', 'good'), [0, 1, 2]),
        ([[0, 1], [1, 0], [0, 1]], None, ('0', '1'), [1, 0, 1]),
        (['4', '0', '1'], 'meld', None, [4, 0, 1]),
    ],
)
def test_labels(values, classes, found, codes):
    corpus, said = read(turns(1).assign(label=pd.Series(values, dtype=object)), classes=classes)
    assert corpus.classes == found or found is None and corpus.classes[4] == 'joy'
    assert list(corpus.table['label']) == codes
    assert any('`classes=` names them' in s for s in said) == (classes is None and found[0] == '0')


def test_real_values_are_regression_and_missing_ones_are_counted(capsys):
    corpus, _ = read(turns(2).assign(label=[0.5, None, -3, 1.5, 2, 0]))
    assert corpus.task == 'regression' and corpus.classes == () and len(corpus) == 5
    assert list(corpus.table['turn']) == [0, 1, 0, 1, 2]
    assert 'left out: 1 turn without a value' in capsys.readouterr().out
    assert read(turns(1).assign(label=[1, 2, 3]), classes=())[0].task == 'regression'


def test_a_label_that_the_caller_does_not_know_names_its_row():
    with pytest.raises(ValueError, match="row 0: unknown label 'sad'; did you mean 'sadness'"):
        read(turns(), classes=['sadness', 'glad', 'neutral'])
    with pytest.raises(ValueError, match='row 1: label 1, but `classes=` has 1 names'):
        read(turns(1).assign(label=[0, 1, 0]), classes=['only'])
    with pytest.raises(ValueError, match='two classes of one name'):
        read(turns(), classes=['a', 'a'])
    with pytest.raises(ValueError, match="did you mean 'meld'"):
        read(turns(), classes='meldd')


def test_nameless_classes_have_no_polarity():
    from erc.evidence.shifts import _polarities

    corpus, _ = read(turns(1).assign(label=[0, 1, 2]))
    with pytest.raises(ValueError, match='classes='):
        _polarities(corpus.classes)


# ---- splits and order


def test_splits_are_cut_by_dialogue_and_always_the_same():
    corpus, _ = read(turns(40))
    sizes = corpus.table.groupby('split')['dialogue'].nunique()
    assert sizes.to_dict() == {'train': 29, 'dev': 3, 'test': 8}
    assert 'dev cut from train' in corpus.provenance['notes'] and not corpus.provenance['own_dev']
    shuffled = turns(40).sample(frac=1, random_state=0).sort_values('dialogue', kind='stable')
    again = read(shuffled)[0].table.groupby('dialogue')['split'].first()
    assert (corpus.table.groupby('dialogue')['split'].first() == again).all()


def test_splits_by_column_and_by_dictionary():
    parts = dict(zip((f'd{i}' for i in range(6)), ['Training', 'VAL', 'test'] * 2))
    by_column, _ = read(turns().assign(part=lambda t: t['dialogue'].map(parts)), split='part')
    by_name, _ = read(turns(), split=parts)
    assert list(by_column.table['split']) == list(by_name.table['split'])
    with pytest.raises(ValueError, match="no dialogue 'd5'"):
        read(turns(), split={f'd{i}': 'train' for i in range(5)})
    with pytest.raises(ValueError, match="no column 'part' for split"):
        read(turns(), split='part')


def test_a_name_in_two_splits_is_two_dialogues():
    table = pd.concat([turns(2, split='train'), turns(2, split='dev'), turns(2, split='test')])
    corpus, said = read(table)
    assert corpus.table['dialogue'].nunique() == 6
    assert any('2 dialogue names in more than one split' in s for s in said)
    assert any('word for word the same as another, 2 across splits' in s for s in said)
    assert set(said) <= {f'table: {note}' for note in corpus.provenance['notes']}


def test_order_by_turn_numbers_and_rows_that_lie_apart():
    table = turns(2).assign(turn=[2, 0, 5, 0, 1, 1]).iloc[[3, 0, 1, 4, 2, 5]]
    corpus, said = read(table)
    assert list(corpus.table['text'][3:]) == ['Line 1 of 0.', 'Line 0 of 0.', 'Line 2 of 0.']
    assert list(corpus.table['source_turn']) == [0, 1, 1, 0, 2, 5]
    assert any('lie apart' in s for s in said) and any('turn number twice' in s for s in said)


def test_repeats_and_absent_classes_are_counted():
    table = pd.concat([turns(3), turns(3).iloc[:1]])
    corpus, said = read(table, classes=['sad', 'glad', 'neutral', 'cross'])
    assert len(corpus) == 10
    assert any('1 row like an earlier one in every column, kept' in s for s in said)
    assert any('no turn has class cross' in s for s in said)


def test_clips_that_share_their_times_are_counted(data, capsys):
    columns = dict(dialogue='Dialogue_ID', speaker='Speaker', text='Utterance', label='Emotion')
    corpus, said = read(data / 'meld' / 'dev_sent_emo.csv', **columns, classes='meld')
    clips = load_corpus('meld', root=data).table.query('split == "dev"')['clip']
    shared = clips.duplicated(keep=False)
    assert any(f'{shared.sum()} rows with the same clip times' in s for s in said)


# ---- features


def test_features_by_order_follow_their_turns(tmp_path):
    table = turns(2).assign(turn=[2, 1, 0] * 2)
    x = np.arange(1, 13, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / 'audio.npy', x)
    corpus, _ = read(table, features=tmp_path / 'audio.npy')
    np.testing.assert_array_equal(corpus.features['audio'], x[[2, 1, 0, 5, 4, 3]])
    with pytest.raises(ValueError, match='5 vectors for 6 turns'):
        read(table, features={'audio': x[:5]})


@pytest.mark.parametrize('kind', ['npz', 'npz rows', 'safetensors', 'csv', 'dict'])
def test_features_by_id_mark_what_is_missing(tmp_path, kind):
    from safetensors.numpy import save_file

    ids = [f'u{i}' for i in range(6)]
    vectors = {i: np.array([k + 1, -k], np.float32) for k, i in enumerate(ids) if k != 3} | {
        'other': np.ones(2, np.float32)
    }
    path = tmp_path / f'audio.{kind[:3]}'
    if kind == 'npz':
        np.savez(path, id=list(vectors), audio=np.stack(list(vectors.values())))
    elif kind == 'npz rows':
        np.savez(path, **vectors)
    elif kind == 'safetensors':
        path = tmp_path / 'audio.safetensors'
        save_file(vectors, path)
    elif kind == 'csv':
        pd.DataFrame.from_dict(vectors, orient='index').rename_axis('id').to_csv(path)
    features = {'audio': vectors if kind == 'dict' else path}
    corpus, said = read(turns(2, id=ids), features=features)
    assert list(corpus.has['audio']) == [True, True, True, False, True, True]
    np.testing.assert_array_equal(corpus.features['audio'][4], vectors['u4'])
    assert any('1 of 6 turns have no vector (1 none)' in s for s in said)
    assert any('1 vectors belong to no turn' in s for s in said)
    same(corpus, load_corpus(corpus.save(tmp_path / 'saved')))


def test_features_without_ids_in_the_table_go_by_dialogue_and_turn():
    vectors = {f'd{d}_{t}': [d + 1, t] for d in range(2) for t in range(3)}
    corpus, _ = read(turns(2), features={'audio': vectors})
    assert corpus.features['audio'].tolist() == list(vectors.values())
    with pytest.raises(ValueError, match='no id of theirs'):
        read(turns(2), features={'audio': {'x': [1]}})


@pytest.mark.parametrize(
    'vectors,message',
    [
        ([[1, 2]] * 5 + [[1, 2, 3]], 'row 5, audio: a vector of size 3, expected 2'),
        ([['a', 'b']] * 6, 'row 0, audio: .* expected numbers'),
        (np.zeros((6, 2)), 'no turn has a vector of finite numbers'),
    ],
)
def test_bad_features(vectors, message):
    with pytest.raises(ValueError, match=message):
        read(turns(2), features={'audio': vectors})


# ---- saved


def test_a_saved_corpus_is_equal_and_holds_no_pickle(tmp_path):
    table = turns().assign(
        rating=[0.1, np.nan] * 9, kept=[True, False] * 9, count=range(18), note=['a', None] * 9
    )
    corpus, _ = read(table, features={'audio': np.random.default_rng(0).normal(size=(18, 4))})
    folder = corpus.save(tmp_path / 'mine')
    same(corpus, load_corpus(folder))
    same(corpus, load_corpus(str(folder)))
    same(corpus, read(folder)[0])
    assert sorted(os.listdir(folder)) == ['corpus.json', 'features.safetensors', 'table.jsonl']
    assert len((folder / 'table.jsonl').read_text().splitlines()) == len(corpus)


@pytest.mark.parametrize('name', ['demo', 'meld', 'iemocap6', 'iemocap_vad', 'mosi_released'])
def test_corpora_of_the_package_are_saved_and_equal(data, tmp_path, name):
    corpus = load_corpus(name, root=data)
    same(corpus, load_corpus(corpus.save(tmp_path / name)))


def test_saving_is_complete_or_not_at_all(tmp_path, monkeypatch):
    corpus, _ = read(turns())
    corpus.save(tmp_path / 'mine')
    before = {p.name: p.read_bytes() for p in (tmp_path / 'mine').iterdir()}
    from erc.data import saved

    def broken(path, data):
        if path.name == 'corpus.json':
            raise OSError('disk full')
        path.write_bytes(data)

    monkeypatch.setattr(saved, 'write_atomic', broken)
    for folder in ('mine', 'new'):
        with pytest.raises(OSError, match='disk full'):
            corpus.replace(name='other').save(tmp_path / folder, replace=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / 'mine').iterdir()} == before
    assert os.listdir(tmp_path) == ['mine']


def test_saving_replaces_a_corpus_and_nothing_else(tmp_path):
    corpus, _ = read(turns())
    folder = corpus.save(tmp_path / 'mine')
    more, _ = read(turns(8))
    assert len(load_corpus(more.save(folder))) == len(more) > len(corpus), 'the same, grown'
    for change in ({'name': 'other'}, {'classes': corpus.classes[::-1]}):
        with pytest.raises(FileExistsError, match='another corpus .table: emotion, 3 classes.'):
            corpus.replace(**change).save(folder)
        assert len(load_corpus(folder)) == len(more)
    corpus.replace(name='other').save(folder, replace=True)
    assert load_corpus(folder).name == 'other'
    (tmp_path / 'mine' / 'thesis.tex').write_text('')
    with pytest.raises(FileExistsError, match='holds other files .thesis.tex'):
        corpus.save(tmp_path / 'mine', replace=True)
    with pytest.raises(FileExistsError, match='is a file'):
        corpus.save(tmp_path / 'mine' / 'thesis.tex')


def test_a_saved_corpus_is_read_piece_by_piece(tmp_path, monkeypatch):
    demo = erc.load_corpus('demo')
    demo.save(tmp_path / 'x')
    monkeypatch.setattr(saved, '_BLOCK', 1000)
    found = erc.load_corpus(tmp_path / 'x')
    assert found.digest() == demo.digest()
    for name, x in demo.features.items():
        np.testing.assert_array_equal(found.features[name], x)


def test_a_corpus_that_is_not_valid_is_not_saved(tmp_path):
    corpus, _ = read(turns())
    with pytest.raises(ValueError, match='row 0 has no dialogue'):
        corpus.replace(table=corpus.table.assign(dialogue='')).save(tmp_path / 'mine')
    assert not os.listdir(tmp_path)


# ---- registered


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'corpora'))
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'own'))
    return tmp_path / 'corpora'


def command(*arguments):
    from typer.testing import CliRunner

    from erc.cli import app

    return CliRunner().invoke(app, ['data', *map(str, arguments)])


def test_data_add_registers_a_file_that_every_command_knows(home, tmp_path):
    turns().to_csv(tmp_path / 'my.csv', index=False)
    added = command('add', tmp_path / 'my.csv')
    assert added.exit_code == 0 and 'added as my' in added.output, added.output
    assert load_corpus('my').digest() == read(tmp_path / 'my.csv')[0].digest()
    assert 'my' in {row['corpus'] for row in json.loads(command('list', '--json').output)}
    assert command('check', 'my').exit_code == 0
    assert command('add', tmp_path / 'my.csv').exit_code == 0, 'the same again'
    turns(4).to_csv(tmp_path / 'my.csv', index=False)
    refused = command('add', tmp_path / 'my.csv')
    assert refused.exit_code == 2 and 'another corpus of that name' in refused.output
    assert command('add', tmp_path / 'my.csv', '--replace').exit_code == 0
    assert load_corpus('my').table['dialogue'].nunique() == 4


def test_data_remove_takes_back_what_add_did_and_keeps_the_source(home, tmp_path):
    turns().to_csv(tmp_path / 'my.csv', index=False)
    source = (tmp_path / 'my.csv').read_bytes()
    command('add', tmp_path / 'my.csv')
    for name, says in (('mi', 'Known: my'), ('meld', 'is a corpus of the package')):
        refused = command('remove', name)
        assert refused.exit_code == 2 and says in refused.output, refused.output
        assert refused.output.count('\n') == 1 and converted() == ['my']
    removed = command('remove', 'my')
    assert removed.exit_code == 0 and 'removed my' in removed.output
    assert converted() == [] and (tmp_path / 'my.csv').read_bytes() == source
    assert not any(home.glob('*/*')) and command('remove', 'my').exit_code == 2
    assert command('add', tmp_path / 'my.csv').exit_code == 0


def test_data_remove_leaves_what_is_not_its_own(home):
    folder = _register(read(turns(), name='mine')[0])
    (folder / 'thesis.tex').write_text('')
    refused = command('remove', 'mine')
    assert refused.exit_code == 2 and 'holds other files (thesis.tex)' in refused.output
    assert load_corpus('mine') and (folder / 'thesis.tex').exists()


def test_data_remove_takes_a_link_away_and_not_what_it_points_to(home, tmp_path):
    folder = read(turns(), name='mine')[0].save(tmp_path / 'elsewhere')
    home.mkdir()
    (home / 'mine').symlink_to(folder)
    assert command('remove', 'mine').exit_code == 0 and not (home / 'mine').exists()
    assert len(load_corpus(folder)) == 18


def test_data_add_with_every_option(home, tmp_path):
    table = (
        turns()
        .rename(columns=MELD_LIKE)
        .assign(
            Emotion=lambda t: t['Emotion'].map({'sad': 0, 'glad': 1, 'neutral': 2}), part='train'
        )
    )
    table.to_csv(tmp_path / 'my.csv', index=False)
    np.save(tmp_path / 'x.npy', np.eye(18))
    columns = [f'--{what}={name}' for what, name in MELD_LIKE.items()]
    more = ['--split=part', '--classes=sad,glad,neutral', f'--features=audio={tmp_path / "x.npy"}']
    added = command('add', tmp_path / 'my.csv', '--name=chats', *columns, *more)
    assert added.exit_code == 0, added.output
    corpus = load_corpus('chats')
    assert corpus.classes == ('sad', 'glad', 'neutral') and corpus.features['audio'].shape == (
        18,
        18,
    )
    assert 'warning: chats: no dialogue in test' in added.output


def test_names_that_are_taken_or_no_names(home):
    corpus, _ = read(turns())
    with pytest.raises(ValueError, match='that of a corpus of the package'):
        _register(corpus.replace(name='meld'))
    with pytest.raises(ValueError, match='expected letters'):
        _register(corpus.replace(name='../mine'))
    with pytest.raises(ValueError, match="unknown corpus 'mime'; did you mean 'mine'"):
        _register(corpus.replace(name='mine'))
        load_corpus('mime')


def test_a_shared_folder_that_cannot_be_written_is_left_alone(home, tmp_path):
    corpus, _ = read(turns())
    home.mkdir()
    home.chmod(0o555)
    folder = _register(corpus.replace(name='mine'))
    assert folder == tmp_path / 'own' / 'erc' / 'mine' and not os.listdir(home)
    assert converted() == ['mine'] and load_corpus('mine').name == 'mine'


def test_a_damaged_registered_corpus_is_listed_as_such(home):
    corpus, _ = read(turns())
    folder = _register(corpus.replace(name='mine'))
    (folder / 'table.jsonl').write_text('{}\n')
    rows = {row['corpus']: row for row in json.loads(command('list', '--json').output)}
    assert rows['mine']['here'] == 'damaged' and rows['demo']['here'] == 'yes'
