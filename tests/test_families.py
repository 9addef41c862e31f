"Pickle families: every structure, what is refused, what is odd, files that belong together."

import os
import pickle

import numpy as np
import pytest
from corpus_files import KINDS, family

from erc.data.families import _STRUCTURES, _structure_of
from erc.data.iemocap import _IEMOCAP4
from erc.data.reading import convert, read_corpus
from erc.data.registry import load_corpus

pytestmark = pytest.mark.filterwarnings('ignore:.*(codes without names|no turn has class)')


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('kind', KINDS)
def test_every_structure_is_converted(tmp_path, kind, protocol):
    x = family(kind, KINDS[kind])
    path = tmp_path / f'{kind}.pkl'
    path.write_bytes(pickle.dumps(x, protocol=protocol))
    structure = 'multilogue9' if kind == 'multilogue_real' else kind
    assert _STRUCTURES[_structure_of(x, path)] == _STRUCTURES[structure]
    made, c = convert(path, tmp_path / 'out'), load_corpus(tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out')) == [
        'corpus.json',
        'features.safetensors',
        'table.jsonl',
    ]
    assert (
        c.digest() == made.digest()
        and c.name == kind
        and c.provenance['files'].keys() == {path.name}
    )
    parts = dict(zip(_STRUCTURES[structure], x))
    values = kind in ('avec9', 'multilogue_real')
    codes = '01' if kind == 'multilogue9' else '012345'
    assert (c.task, c.classes) == (('regression', ()) if values else ('emotion', tuple(codes)))
    assert {k: v.shape[1] for k, v in c.features.items()} == {
        m: s for m, s in zip(('text', 'audio', 'visual'), KINDS[kind]) if m in parts
    }
    for d, rows in c.table.groupby('dialogue', sort=False).indices.items():
        key = int(d) if 'meld' in kind else d
        assert list(c.table['text'].iloc[rows]) == parts['sentence'][key]
        np.testing.assert_allclose(c.table['label'].iloc[rows], parts['label'][key])
        for m in c.features:
            np.testing.assert_array_equal(c.features[m][rows], np.float32(parts[m][key]))
        if 'meld' in kind:
            assert list(c.table['speaker'].iloc[rows]) == [
                f'P{np.argmax(v)}' for v in parts['speaker'][key]
            ]
    assert c.table.groupby('split')['dialogue'].nunique().to_dict() == {
        'train': 10,
        'dev': 1,
        'test': 1,
    }


def test_four_class_file_and_own_name(tmp_path):
    x = list(family('dialoguernn9', (4, 3, 2)))
    x[2] = {d: [v % 4 for v in y] for d, y in x[2].items()}
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(tuple(x), protocol=2))
    c = convert(tmp_path / 'x.pkl', tmp_path / 'out', name='mine', classes='iemocap4')
    assert c.classes == _IEMOCAP4 and load_corpus(tmp_path / 'out').name == 'mine'
    assert convert(tmp_path / 'x.pkl', tmp_path / 'out2', structure='mmgcn9').task == 'emotion'
    with pytest.raises(ValueError, match="unknown structure 'mmgcn'"):
        convert(tmp_path / 'x.pkl', tmp_path / 'out3', structure='mmgcn')


def test_python2_pickle_is_converted(tmp_path):
    "Protocol 2 as Python 2 wrote it: byte strings, here with an accent."
    raw, line, text = (
        pickle.dumps(family('avec9', (4, 3, 2)), protocol=2),
        b'Line 0, of "Ses01F_0".',
        b'caf\xe9 0, of "Ses01F_0".',
    )
    token = b'X' + len(line).to_bytes(4, 'little') + line
    assert raw.count(token) == 1
    raw = raw.replace(token, b'U' + bytes([len(text)]) + text)
    (tmp_path / 'old.pkl').write_bytes(raw)
    assert (
        convert(tmp_path / 'old.pkl', tmp_path / 'out').table['text'].str.contains('café 0').sum()
        == 1
    )


def test_multiemo(tmp_path):
    speakers = family('dialoguernn9', (4, 3, 2))
    r = np.random.default_rng(1)
    vectors = {
        m: {d: [r.normal(size=s) for _ in y] for d, y in speakers[2].items()}
        for m, s in (('Text', 768), ('Audio', 512), ('Visual', 1000))
    }
    (tmp_path / 'in').mkdir()
    for m, v in vectors.items():
        (tmp_path / f'in/{m}Features.pkl').write_bytes(pickle.dumps(v))
    (tmp_path / 'in/Speakers.pkl').write_bytes(pickle.dumps(speakers))
    c = convert(tmp_path / 'in', tmp_path / 'out', name='multiemo')
    assert {k: v.shape[1] for k, v in load_corpus(tmp_path / 'out').features.items()} == {
        'text': 768,
        'audio': 512,
        'visual': 1000,
    }
    i = int(np.flatnonzero(c.table['dialogue'] == 'Ses02F_1')[0])
    np.testing.assert_array_equal(
        c.features['visual'][i], np.float32(vectors['Visual']['Ses02F_1'][0])
    )
    vectors['Audio']['Ses02F_1'].pop()
    (tmp_path / 'in/AudioFeatures.pkl').write_bytes(pickle.dumps(vectors['Audio']))
    with pytest.raises(ValueError, match=r"dialogue 'Ses02F_1' differs in length: .*audio 1"):
        convert(tmp_path / 'in', tmp_path / 'out2')
    with pytest.raises(ValueError, match='need one tuple'):
        convert(tmp_path / 'in/TextFeatures.pkl', tmp_path / 'out2')
    assert not (tmp_path / 'out2').exists()


@pytest.mark.parametrize(
    'spoil,message',
    [
        (lambda x: x[4]['Ses03F_2'].pop(), "dialogue 'Ses03F_2' differs in length"),
        (lambda x: x[6].pop('Ses03F_2'), "dialogue 'Ses03F_2' has no sentence"),
        (
            lambda x: x[3]['Ses03F_2'].__setitem__(0, np.zeros(5)),
            "dialogue 'Ses03F_2' turn 0, text: a vector of size 5",
        ),
        (lambda x: x[2]['Ses03F_2'].__setitem__(1, 9), "dialogue 'Ses03F_2' turn 1: label 9"),
        (lambda x: x[7].clear(), 'x.pkl: no dialogue in train'),
        (lambda x: x[8].clear(), 'x.pkl: no dialogue in test'),
    ],
)
def test_bad_family_files(tmp_path, spoil, message):
    x = family('dialoguernn9', (4, 3, 2))
    spoil(x)
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(x))
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / 'x.pkl', tmp_path / 'out', classes='iemocap6')
    assert not (tmp_path / 'out').exists()


def test_a_dialogue_in_two_splits_is_in_both_and_said(tmp_path):
    x = family('dialoguernn9', (4, 3, 2))
    x[8].append('Ses03F_2')
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(x))
    with pytest.warns(
        UserWarning, match=r'1 dialogue name in more than one split \(such as Ses03F_2'
    ):
        c = read_corpus(tmp_path / 'x.pkl', classes='iemocap6')
    assert {'train_Ses03F_2', 'test_Ses03F_2'} <= set(c.table['dialogue'])
    assert any('more than one split' in note for note in c.provenance['notes'])


@pytest.mark.parametrize('hole', [None, np.full(2, np.nan), np.array([np.inf, 1]), np.zeros(2)])
def test_a_hole_in_a_modality_is_marked(tmp_path, hole):
    x = family('dialoguernn9', (4, 3, 2))
    x[5]['Ses03F_2'][1] = hole
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(x))
    with pytest.warns(UserWarning, match='visual: 1 of 28 turns have no vector'):
        c = read_corpus(tmp_path / 'x.pkl', classes='iemocap6')
    row = c.table.index[(c.table['dialogue'] == 'Ses03F_2') & (c.table['turn'] == 1)]
    assert list(np.flatnonzero(~c.has['visual'])) == list(row)
    assert not c.features['visual'][row].any()


def in_layout(structure):
    "A tuple of a structure, made of the fields of the DialogueRNN family; dev is two dialogues."
    fields = dict(zip(_STRUCTURES['dialoguernn9'], family('dialoguernn9', (4, 4, 2))))
    train = sorted(fields['train'])
    fields |= {'train': train[2:], 'dev': train[:2]} if 'dev' in _STRUCTURES[structure] else {}
    fields |= dict.fromkeys(('text_2', 'text_3', 'text_4'), fields['text'])
    fields |= {'sentiment': fields['label'], 'unused': None}
    return tuple(fields[name] for name in _STRUCTURES[structure])


@pytest.mark.parametrize('structure', _STRUCTURES)
def test_every_structure_is_read_with_its_own_splits(tmp_path, structure):
    path = tmp_path / 'x.pkl'
    path.write_bytes(pickle.dumps(in_layout(structure)))
    fields = _STRUCTURES[structure]
    options = {} if structure == 'avec9' else {'classes': 'iemocap6'}
    if structure.startswith('train_'):
        with pytest.raises(ValueError, match='fit train_dev_test10 and train_test_dev10'):
            read_corpus(path, **options)
    c = read_corpus(path, structure=structure, **options)
    assert c.table.groupby('split')['dialogue'].nunique().to_dict() == (
        {'train': 9, 'dev': 2, 'test': 1} if 'dev' in fields else {'train': 10, 'dev': 1, 'test': 1}
    )
    vectors = ('text', 'text_2', 'text_3', 'text_4', 'audio', 'visual')
    assert list(c.features) == [m for m in vectors if m in fields]
    assert c.provenance['own_dev'] == ('dev' in fields)


def test_a_modality_without_vectors_is_left_out(tmp_path):
    x = family('dialoguernn9', (4, 3, 2))
    x[5].update({d: [] for d in x[5]})
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(x))
    assert convert(tmp_path / 'x.pkl', tmp_path / 'out').features.keys() == {'text', 'audio'}


def test_not_of_the_family(tmp_path):
    for obj, message in (
        ([1, 2], 'list of 2'),
        ({'a': 1}, 'dict of 1'),
        (tuple(range(9)), 'in an unknown order'),
    ):
        (tmp_path / 'x.pkl').write_bytes(pickle.dumps(obj))
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / 'x.pkl', tmp_path / 'out')
    (tmp_path / 'x.pkl').write_bytes(b'cposix\nsystem\n(S"true"\ntR.')
    with pytest.raises(ValueError, match='posix.system'):
        convert(tmp_path / 'x.pkl', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_converted_files_belong_together(tmp_path):
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(family('dialoguernn9', (4, 3, 2))))
    convert(tmp_path / 'x.pkl', tmp_path / 'out')
    table = tmp_path / 'out/table.jsonl'
    table.write_text(table.read_text().replace('Line 0', 'Lime 0', 1))
    with pytest.raises(ValueError, match='table.jsonl is not what corpus.json describes'):
        load_corpus(tmp_path / 'out')
    table.unlink()
    with pytest.raises(FileNotFoundError, match='no table.jsonl'):
        load_corpus(tmp_path / 'out')


def test_the_real_mosei_pickle_of_pairs_is_no_corpus(data, tmp_path):
    with pytest.raises(ValueError, match='list of 4655'):
        convert(data / 'shift_pairs/MOSEI/siamese_data/siamese_test.pickle', tmp_path / 'out')
