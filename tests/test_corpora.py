"Corpora: counts, splits, alignment; what is refused; what the converter makes of each structure."

import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from erc import corpora
from erc.data.checks import check, expected, listing
from erc.data.corpus import Corpus, dev_dialogues, read_table, validate
from erc.data.families import STRUCTURES, convert, load_converted, structure_of
from erc.data.iemocap import IEMOCAP4, IEMOCAP6, iemocap_turns
from erc.data.meld import MELD_CLASSES
from erc.data.mosi import SENTIMENT
from erc.data.registry import CORPORA, load_corpus
from erc.data.shift_pairs import shift_pairs
from erc.core import sha256_of
from erc.data.sources import pins
from erc.data.unpickle import safe_unpickle

REAL = [n for n in CORPORA if n != 'demo']


def linked(src, dest, *skip):
    "A folder of corpora with links to another's files."
    for f in src.rglob('*'):
        rel = f.relative_to(src)
        if f.is_file() and not str(rel).startswith(skip):
            (dest / rel).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(f, dest / rel)
    return dest


# ---- counts --------------------------------------------------------------------

COUNTS = {  # dialogues, then utterances: train (with what became dev), dev if official, test
    'meld': ((1038, 114, 280), (9989, 1109, 2610)),
    'iemocap6': ((120, 31), (5810, 1623)),
    'iemocap4': ((120, 31), (4290, 1241)),
    'iemocap4_shapes': ((120, 31), (3600, 943)),
    'mosi': ((62, 31), (1447, 752)),
    'mosei': ((2546, 675), (18191, 4655)),
}


@pytest.mark.parametrize('name', COUNTS)
def test_counts(data, name):
    c = load_corpus(name, root=data)
    split = c.table['split'] if name == 'meld' else c.table['split'].replace('dev', 'train')
    order = [s for s in ('train', 'dev', 'test') if s in set(split)]
    assert tuple(c.table.groupby(split)['dialogue'].nunique()[order]) == COUNTS[name][0]
    assert tuple(split.value_counts()[order]) == COUNTS[name][1]


@pytest.mark.parametrize('name', CORPORA)
def test_every_stated_fact_is_found(data, name):
    t = check(name, root=data)
    wrong = t[~t['ok'].fillna(False)]
    assert len(t) and wrong.empty, wrong.to_string()


def test_a_wrong_count_is_seen(data, monkeypatch):
    stated = expected('mosi')
    stated.loc[0, 'expected'] += 1
    monkeypatch.setattr(corpora, 'expected', lambda name: stated.copy())
    assert list(check('mosi', root=data)['ok'][:2]) == [False, True]


def test_all_turns_of_iemocap_with_a_rating(data):
    c = load_corpus('iemocap_vad', root=data)
    assert len(c) == 10039 and c.task == 'regression' and c.classes == () and c.has['audio'].all()
    assert (
        np.isfinite(c.table[['label', 'valence', 'activation', 'dominance']]).all().all()
        and (c.table['label'] == c.table['valence']).all()
    )
    y = np.load(data / 'iemocap_audio/y_egemaps.npy')
    rows = (
        pd.read_csv(data / 'iemocap_audio/row_ids.csv')
        .set_index('utterance_id')['row'][c.table['id']]
        .to_numpy()
    )
    np.testing.assert_allclose(c.table[['valence', 'activation', 'dominance']], y[rows])
    np.testing.assert_array_equal(
        c.features['audio'], np.load(data / 'iemocap_audio/feat_ws_3.npy')[rows].astype(np.float32)
    )


@pytest.mark.parametrize(
    'name,classes', [('iemocap6', IEMOCAP6), ('iemocap4', IEMOCAP4), ('iemocap4_shapes', IEMOCAP4)]
)
def test_unlabelled_turns_are_context(data, name, classes):
    full, c = load_corpus(name, root=data, keep_unlabelled=True), load_corpus(name, root=data)
    assert (
        len(full) == 10087
        and (full.table['label'] >= 0).sum() == len(c)
        and set(full.table['label']) == {-1, *range(len(classes))}
    )
    assert (~full.has['audio']).sum() == 48 and not full.features['audio'][~full.has['audio']].any()
    said = full.table[full.table['label'] >= 0].reset_index(drop=True)
    assert (said['id'] == c.table['id']).all() and (said['split'] == c.table['split']).all()
    assert (full.table['turn'] == full.table['position']).all()


def test_the_three_happy_sets(data):
    six, four, shapes = (
        load_corpus(n, root=data).table.set_index('id')['label']
        for n in ('iemocap6', 'iemocap4', 'iemocap4_shapes')
    )
    merged = six[six.isin([0, 4])].index
    assert len(set(merged) - set(four.index)) == 53 and set(four[four == 0].index) <= set(merged)
    assert set(shapes[shapes == 0].index) == set(six[six == 0].index)


def test_meld_order_is_the_pickles(data):
    emotions = safe_unpickle(data / 'meld/meld.pkl')[1]
    t = load_corpus('meld', root=data).table
    assert list(t.loc[t['dialogue'] == 'train_0', 'label']) == list(emotions[0])
    assert list(t.loc[t['dialogue'] == 'test_279', 'label']) == list(emotions[1432])
    assert MELD_CLASSES[0] == 'neutral' and MELD_CLASSES[6] == 'anger'


def test_meld_features_are_where_they_are(data):
    c = load_corpus('meld', root=data)
    at = {k: Counter(c.table['split'][h]) for k, h in c.has.items()}
    assert at == {
        'visual': {'dev': 1102, 'test': 2599},
        'text_roberta': {'dev': 1108},
        'audio_wav2vec2': {'dev': 1108},
    }
    aus = safe_unpickle(data / 'meld/dev_vis_3_35_intervals_aus.pickle')
    i = int(np.flatnonzero(c.table['id'] == 'dev_dia47_utt4')[0])
    np.testing.assert_allclose(c.features['visual'][i], aus['47_4'], rtol=1e-5)


def test_old_encoding_of_meld_dev_gives_the_same_table(data, tmp_path):
    root = linked(data / 'meld', tmp_path / 'meld', 'dev_sent_emo')
    os.symlink(data / 'meld/old_encoding/dev_sent_emo.csv', root / 'dev_sent_emo.csv')
    old, new = load_corpus('meld', root=tmp_path), load_corpus('meld', root=data)
    pd.testing.assert_frame_equal(old.table, new.table)
    assert old.digest() == new.digest()
    assert (
        not old.table['text'].str.contains('[\x80-\x9f]', regex=True).any()
        and old.table['text'].str.contains('’').sum() > 1000
    )


def test_mosei_is_the_rebuilt_videos(data):
    t, v = (
        load_corpus('mosei', root=data).table,
        pd.read_csv(data / 'shift_pairs/mosei_videos.csv', keep_default_na=False),
    )
    for ours, theirs in (
        ('text', 'text'),
        ('label', 'sentiment'),
        ('sentiment', 'sentiment'),
        ('shift', 'shift_as_released'),
        ('pair_row', 'pair_row'),
        ('turn', 'position'),
        ('ambiguous', 'ambiguous_chain'),
    ):
        assert (t[ours] == v[theirs]).all(), ours
    assert (t['split'].replace('dev', 'train') == v['split']).all()


@pytest.mark.parametrize('name', CORPORA)
def test_shape_speed_and_provenance(data, name):
    start = time.perf_counter()
    c = load_corpus(name, root=data)
    assert time.perf_counter() - start < 2
    assert c.provenance['stands_for'] is None and c.provenance['licence'] and c.provenance['notes']
    assert all(len(h) == 64 for h in c.provenance['files'].values()) and (
        name == 'demo' or c.provenance['files']
    )
    assert (
        c.table.index.equals(pd.RangeIndex(len(c)))
        and not c.table.drop(columns=['valence', 'activation', 'dominance'], errors='ignore')
        .isna()
        .any()
        .any()
    )
    for k, x in c.features.items():
        assert x.dtype == np.float32 and x.shape[0] == len(c) and c.has[k].dtype == bool
    assert c.digest() == load_corpus(name, root=data).digest()


def test_import_needs_no_torch():
    code = "import sys; import erc.data.corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


# ---- dev ----------------------------------------------------------------------------


@pytest.mark.parametrize('name,n', [('iemocap6', 12), ('mosi', 6), ('mosei', 255)])
def test_dev_is_a_tenth_of_training_dialogues(data, name, n):
    t = load_corpus(name, root=data).table
    assert t.loc[t['split'] == 'dev', 'dialogue'].nunique() == n
    assert t.groupby('dialogue')['split'].nunique().max() == 1
    train, dev = (
        t.loc[t['split'] == s, 'label'].value_counts(normalize=True) for s in ('train', 'dev')
    )
    assert (train - dev).abs().max() < (0.15 if n == 6 else 0.1)  # six videos allow no better


def test_one_dev_cut_for_all_of_iemocap(data):
    dev = {
        tuple(sorted(set(t.loc[t['split'] == 'dev', 'dialogue'])))
        for t in (load_corpus(n, root=data).table for n in CORPORA if n.startswith('iemocap'))
    }
    assert len(dev) == 1 and Counter(d[4] for d in next(iter(dev))) == {
        '1': 3,
        '2': 3,
        '3': 3,
        '4': 3,
    }


def test_dev_cut_is_keyed():
    t = pd.DataFrame(
        [(f'd{i}', 'train' if i < 50 else 'test', i % 3) for i in range(60) for _ in range(3)],
        columns=['dialogue', 'split', 'label'],
    )
    np.random.seed(1)
    a = dev_dialogues(t)
    np.random.seed(2)
    assert a == dev_dialogues(t) == dev_dialogues(t.sample(frac=1, random_state=3)) and len(a) == 5
    assert a != dev_dialogues(t, seed=1) and not {int(d[1:]) for d in a} & set(range(50, 60))


# ---- shift pairs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name,train,test', [('mosei', 18191, 4655), ('iemocap4', 3480, 912), ('iemocap6', 5690, 1592)]
)
def test_shift_pairs_are_the_released_ones(data, name, train, test):
    p = shift_pairs(name, root=data)
    assert ((p['split'] != 'test').sum(), (p['split'] == 'test').sum()) == (train, test)
    for split in ('train', 'test'):
        released = safe_unpickle(data / corpora.PAIR_FILES[name].format(split))
        mine = p[(p['split'] == 'test') == (split == 'test')]
        assert Counter(map(tuple, released)) == Counter(
            mine[['previous', 'text', 'label']].itertuples(index=False, name=None)
        )
    c = load_corpus({'iemocap4': 'iemocap4_shapes'}.get(name, name), root=data).table.set_index(
        ['dialogue', 'turn']
    )
    here = c.loc[pd.MultiIndex.from_frame(p[['dialogue', 'turn']])]
    assert (here['text'].to_numpy() == p['text'].to_numpy()).all() and (
        here['split'].to_numpy() == p['split'].to_numpy()
    ).all()


def test_changed_pairs_are_refused(data, tmp_path):
    root = linked(data, tmp_path, 'shift_pairs/IEMOCAP/six_class/siamese_data/siamese_test')
    path = root / corpora.PAIR_FILES['iemocap6'].format('test')
    pairs = safe_unpickle(data / corpora.PAIR_FILES['iemocap6'].format('test'))
    path.write_bytes(pickle.dumps([(pairs[0][0], pairs[0][1], 1 - pairs[0][2]), *pairs[1:]]))
    with pytest.raises(ValueError, match='1 of its pairs are not in iemocap6'):
        shift_pairs('iemocap6', root=root)


# ---- from public files alone ---------------------------------------------------------------


@pytest.fixture(scope='module')
def public(data, tmp_path_factory):
    made = tuple(p.rel for p in pins() if not p.public)
    return linked(data, tmp_path_factory.mktemp('public'), *made)


@pytest.mark.parametrize('name', REAL)
def test_public_files_give_the_same_corpus(data, public, name):
    a, b = load_corpus(name, root=data), load_corpus(name, root=public)
    same = [k for k in a.table if k not in ('id', 'text', 'valence', 'position')]
    pd.testing.assert_frame_equal(a.table[same], b.table[same])
    if 'id' in a.table:
        assert (a.table['id'] == b.table['id']).all()
    if 'position' in a.table:
        assert (a.table['position'] != b.table['position']).sum() <= (
            name == 'iemocap_vad'
        )  # one unlabelled turn is a guess
    squeezed = [t['text'].str.split().str.join(' ') for t in (a.table, b.table)]
    assert (squeezed[0] == squeezed[1]).mean() > 0.93 and (
        name == 'iemocap_vad' or (a.table['text'] == b.table['text']).all()
    )
    if 'valence' in a.table:
        np.testing.assert_allclose(a.table['valence'], b.table['valence'], atol=1e-4)
    for k in b.features:
        np.testing.assert_allclose(
            b.features[k][b.has[k]], a.features[k][b.has[k]], rtol=1e-5, atol=1e-6
        )
    assert set(b.features) == set(a.features) - {'text_roberta', 'audio_wav2vec2'}
    for k in b.features:
        where = (
            a.table['split'] == 'dev' if name == 'meld' else slice(None)
        )  # MELD's test features are not in the folder
        assert (a.has[k][where] == b.has[k][where]).all() and b.has[k].any()


def test_joining_iemocap_gets_the_ids_right(data, public):
    a, b = iemocap_turns(data, 'iemocap6'), iemocap_turns(public, 'iemocap6')
    assert (a['dialogue'] == b['dialogue']).all() and (a['label4'] == b['label4']).all()
    wrong = a['audio_row'] != b['audio_row']
    assert (
        wrong.sum() == 2 and not a['label6'][wrong].any()
    )  # one turn of a speaker without an id changed places with its neighbour
    assert (a['id'] != b['id'])[a['audio_row'] >= 0].sum() == 1


def test_missing_files_say_what_to_do(data, tmp_path):
    for name in REAL:
        with pytest.raises(FileNotFoundError, match=f'erc data get {name}'):
            load_corpus(name, root=tmp_path)
    root = linked(data, tmp_path / 'some', 'meld/test_', 'shift_pairs/IEMOCAP')
    with pytest.raises(FileNotFoundError, match='meld/test_sent_emo.csv is not in'):
        load_corpus('meld', root=root)
    with pytest.raises(FileNotFoundError, match='erc data get shift_pairs'):
        shift_pairs('iemocap6', root=root)


def test_listing(data, tmp_path):
    here, away = listing(root=data).set_index('corpus'), listing(root=tmp_path).set_index('corpus')
    assert list(here.index) == list(CORPORA) and set(here['here']) == {'yes'}
    assert (here.loc['meld', 'dialogues'], here.loc['mosei', 'utterances']) == (1432, 22846)
    assert (
        'signed agreement' in here.loc['iemocap6', 'lacks']
        and 'visual' in here.loc['iemocap6', 'lacks']
        and 'dev' not in here.loc['mosi', 'missing']
    )
    assert (
        list(away.index[away['here'] == 'yes']) == ['demo']
        and 'meld/dev_sent_emo.csv' in away.loc['meld', 'missing']
    )
    assert here.loc['meld', 'missing'] == '' and here.loc['meld', 'get'] == ''
    assert (
        away.loc['meld', 'utterances'] == 13708 and away.loc['meld', 'get'] == 'erc data get meld'
    )


# ---- what is refused ---------------------------------------------------------------------------


@pytest.fixture
def toy():
    t = pd.DataFrame(
        [
            ('a', 0, 'x', 'Hm.', 0, 'train'),
            ('a', 1, 'y', 'Ha!', 1, 'train'),
            ('b', 0, 'x', 'Oh.', -1, 'dev'),
            ('c', 0, 'x', 'No.', 1, 'test'),
        ],
        columns=['dialogue', 'turn', 'speaker', 'text', 'label', 'split'],
    )
    return validate(
        Corpus(
            'toy',
            'emotion',
            ('glum', 'glad'),
            t,
            {'audio': np.zeros((4, 2), np.float32)},
            {'audio': np.ones(4, bool)},
        )
    )


@pytest.mark.parametrize(
    'change,message',
    [
        (lambda t: t.drop(columns='speaker'), "no column 'speaker'"),
        (lambda t: t.assign(label=[0, 2, -1, 1]), 'unknown label 2 in row 1'),
        (lambda t: t.assign(label=[0, 1, -2, 1]), 'unknown label -2 in row 2'),
        (lambda t: t.assign(label=[0.5, 1, 0, 1]), 'labels are float64'),
        (lambda t: t.assign(split=['train', 'test', 'dev', 'test']), "dialogue 'a' is in 2 splits"),
        (lambda t: t.assign(split=['training'] * 2 + ['dev', 'test']), "unknown split 'training'"),
        (lambda t: t.assign(turn=[1, 0, 0, 0]), "dialogue 'a' row 0 is turn 1, expected 0"),
        (lambda t: t.iloc[[0, 2, 1, 3]].reset_index(drop=True), "dialogue 'a' is not in one piece"),
        (lambda t: t.assign(dialogue=['a', 'a', '', 'c']), 'row 2 has no dialogue name'),
        (lambda t: t.assign(dialogue=['a', 'a', 'b', np.nan]), 'row 3 has no dialogue name'),
        (lambda t: t.iloc[::-1], '0..N-1 index'),
    ],
)
def test_bad_tables(toy, change, message):
    with pytest.raises(ValueError, match=f'corpus toy.*{message}'):
        validate(toy.replace(table=change(toy.table)))


def test_regression_labels_are_finite(toy):
    real = toy.replace(task='regression', classes=(), table=toy.table.assign(label=[0.5, 1, 2, 3]))
    validate(real)
    with pytest.raises(ValueError, match='unknown label nan in row 1'):
        validate(real.replace(table=real.table.assign(label=[0.5, np.nan, 2, 3])))


def test_bad_features(toy):
    x = np.zeros((4, 2), np.float32)
    x[2, 1] = np.nan
    for bad, message in (
        (x, "features 'audio': nan in row 2, column 1"),
        (np.zeros((3, 2)), r'shape \(3, 2\), but the table has 4 rows'),
        (np.zeros(4), 'shape'),
    ):
        with pytest.raises(ValueError, match=message):
            toy.with_features(audio=bad)
    with pytest.raises(ValueError, match='float64, expected float32'):
        validate(toy.replace(features={'audio': np.zeros((4, 2))}))
    with pytest.raises(ValueError, match='flags'):
        validate(toy.replace(has={}))
    with pytest.raises(ValueError, match='flags'):
        validate(toy.replace(has={'audio': np.ones(3, bool)}))
    assert (
        toy.with_features(text=(np.ones((4, 3)), [True, False, True, True])).has['text'].sum() == 3
    )


def test_digest_sees_everything(toy):
    x = np.zeros((4, 2), np.float32)
    x[0, 0] = 1
    changed = [
        toy,
        toy.replace(table=toy.table.assign(label=[1, 1, -1, 1])),
        toy.replace(features={'audio': x}),
        toy.replace(has={'audio': np.array([True] * 3 + [False])}),
        toy.replace(classes=('glad', 'glum')),
        toy.with_features(text=x),
    ]
    assert len({c.digest() for c in changed}) == len(changed)
    assert toy.replace(name='other', provenance={'licence': 'x'}).digest() == toy.digest()


@pytest.mark.parametrize(
    'change,message',
    [
        (lambda s: s.replace('Emotion', 'Feeling', 1), r"dev_sent_emo\.csv: no column 'Emotion'"),
        (
            lambda s: s.replace(',anger,', ',angry,', 1),
            r"dev_sent_emo\.csv: unknown label 'angry' in row \d+",
        ),
        (
            lambda s: s.replace(',anger,', ',,', 1),
            r"dev_sent_emo\.csv: unknown label '' in row \d+",
        ),
        (
            lambda s: re.sub(
                r'(,(?:positive|negative|neutral),\d+,\d+),\d+,', r'\1,two,', s, count=1
            ),
            r"dev_sent_emo\.csv: column 'Season', row 0: 'two' is no whole number",
        ),
        (lambda s: s[: s.index('"') + 4], r'dev_sent_emo\.csv: damaged.*fetch it again'),
        (lambda s: '', r'dev_sent_emo\.csv: damaged.*fetch it again'),
        (lambda s: s.splitlines()[0] + '\n', r'dev_sent_emo\.csv: a header and no rows'),
    ],
)
def test_bad_csv_is_named(data, tmp_path, change, message):
    root = linked(data / 'meld', tmp_path / 'meld', 'dev_sent_emo')
    (root / 'dev_sent_emo.csv').write_text(
        change((data / 'meld/dev_sent_emo.csv').read_text(encoding='utf-8')), encoding='utf-8'
    )
    with pytest.raises(ValueError, match=message):
        load_corpus('meld', root=tmp_path)


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'latin1'])
def test_another_encoding_is_refused(tmp_path, encoding):
    (tmp_path / 'x.csv').write_bytes('text,label\nd\xe9j\xe0 vu,1\n'.encode(encoding))
    with pytest.raises(ValueError, match=r'x\.csv: '):
        read_table(tmp_path / 'x.csv', ('text',))


@pytest.mark.parametrize('name', ['iemocap4', 'iemocap4_shapes', 'iemocap6'])
@pytest.mark.parametrize('column', ['label6', 'label4', 'valence', 'position'])
def test_a_wrong_cell_of_iemocap_is_named(data, tmp_path, name, column):
    root = linked(data, tmp_path, corpora.IEMOCAP_TABLE)
    t = pd.read_csv(data / corpora.IEMOCAP_TABLE, dtype=str, keep_default_na=False)
    t.loc[7, column] = 'hapy'
    t.to_csv(root / corpora.IEMOCAP_TABLE, index=False)
    if column == 'label4' and name != 'iemocap4':
        assert len(load_corpus(name, root=root))  # it is not read
    else:
        message = (
            r"unknown label 'hapy' in row 7"
            if column.startswith('label')
            else rf"column '{column}', row 7: 'hapy' is no"
        )
        with pytest.raises(ValueError, match=r'iemocap_utterances\.csv: ' + message):
            load_corpus(name, root=root)


def test_wrong_numbers_of_mosi_are_named(data, tmp_path):
    root = linked(data, tmp_path, corpora.MOSI_JOINED[0])
    for column in ('sentiment', 'valence'):
        t = pd.read_csv(data / corpora.MOSI_JOINED[0], dtype=str, keep_default_na=False)
        t.loc[3, column] = 'much'
        t.to_csv(root / corpora.MOSI_JOINED[0], index=False)
        with pytest.raises(
            ValueError, match=rf"mosi_utterances\.csv: column '{column}', row 3: 'much'"
        ):
            load_corpus('mosi', root=root)


@pytest.mark.parametrize(
    'change,message',
    [
        (lambda x: x[:-1], 'pairs belong to no video'),
        (lambda x: dict(enumerate(x)), 'a dict, expected a list of pairs'),
        (lambda x: [p[:2] for p in x], 'pair 0 is not'),
        (lambda x: [*x[:5], (*x[5][:2], 7)], 'pair 5 is not'),
    ],
)
def test_bad_pairs_are_named(data, tmp_path, change, message):
    p = corpora.MOSEI_PAIRS['test']
    root = linked(
        data / 'shift_pairs', tmp_path / 'shift_pairs', 'MOSEI/siamese_data/siamese_test'
    ).parent
    (root / p).write_bytes(pickle.dumps(change(safe_unpickle(data / p))))
    with pytest.raises(ValueError, match=r'siamese_test\.pickle: .*' + message):
        load_corpus('mosei', root=root)


@pytest.mark.parametrize('name', corpora.PAIR_FILES)
def test_provenance_of_pairs(data, name):
    p = corpora.pair_provenance(name, root=data)
    assert {corpora.PAIR_FILES[name].format(s) for s in ('train', 'test')} <= set(
        p['files']
    ) and 'CC BY-NC 4.0' in p['licence']
    assert all(sha256_of(data / f) == h for f, h in p['files'].items()) and p['stands_for'] is None


def test_a_damaged_corpus_is_listed_beside_the_others(data, tmp_path):
    root = linked(data, tmp_path, 'meld/dev_sent_emo', 'mosi/mosi_features')
    (root / 'meld/dev_sent_emo.csv').write_bytes(
        (data / 'meld/dev_sent_emo.csv').read_bytes()[:5000] + b'"'
    )
    (root / 'mosi/mosi_features.npz').write_bytes(b'PK')
    t = listing(root=root).set_index('corpus')
    assert t['here'].to_dict() == {
        n: 'damaged' if n in ('meld', 'mosi') else 'yes' for n in CORPORA
    }
    assert (
        'dev_sent_emo.csv' in t.loc['meld', 'missing']
        and t.loc['mosi', 'get'] == 'erc data get mosi'
        and t.loc['meld', 'utterances'] == 13708
    )


def test_features_of_other_rows_are_refused(data, tmp_path):
    root = linked(data, tmp_path, 'meld/features_dev', 'mosi/mosi_features')
    z = dict(np.load(data / 'meld/features_dev.npz'))
    np.savez(
        root / 'meld/features_dev.npz', **{k: v[:-1] if len(v) == 1109 else v for k, v in z.items()}
    )
    with pytest.raises(
        ValueError, match="features_dev.npz: array 'dialogue_id' has shape .*expected 1109 rows"
    ):
        load_corpus('meld', root=root)
    np.savez(root / 'meld/features_dev.npz', **{**z, 'utterance_id': z['utterance_id'][::-1]})
    with pytest.raises(ValueError, match='features_dev.npz: its rows are not those of'):
        load_corpus('meld', root=root)
    np.savez(root / 'meld/features_dev.npz', **{**z, 'audio_wav2vec2': z['audio_wav2vec2'][:-1]})
    with pytest.raises(
        ValueError, match="features_dev.npz: array 'audio_wav2vec2' has shape .*expected 1109 rows"
    ):
        load_corpus('meld', root=root)
    np.savez(root / 'meld/features_dev.npz', **{k: v for k, v in z.items() if k != 'has_audio'})
    with pytest.raises(ValueError, match="features_dev.npz: no array 'has_audio'"):
        load_corpus('meld', root=root)
    z = dict(np.load(data / 'mosi/mosi_features.npz'))
    np.savez(root / 'mosi/mosi_features.npz', **{**z, 'audio': z['audio'][:-1]})
    with pytest.raises(
        ValueError,
        match=r"mosi_features\.npz: array 'audio' has shape \(2198, \d+\), expected 2199 rows",
    ):
        load_corpus('mosi', root=root)
    np.savez(root / 'mosi/mosi_features.npz', **{**z, 'audio': z['audio'].astype(object)})
    with pytest.raises(ValueError, match='member audio.npy: an array of objects'):
        load_corpus('mosi', root=root)


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown corpus 'iemocap_6'; did you mean 'iemocap6'"):
        load_corpus('iemocap_6')
    with pytest.raises(ValueError, match='set of shift pairs'):
        shift_pairs('mosi')


# ---- converter ----------------------------------------------------------------------------------------


def family(structure, dims, seed=0, lengths=(3, 2, 4, 1, 2, 3, 2, 2, 2, 2, 2, 3)):
    "A tiny file of one structure: eleven training dialogues and a test one."
    r = np.random.default_rng(seed)
    meld = structure.startswith('meld')
    names = (
        list(range(len(lengths)))
        if meld
        else [f'Ses0{1 + i % 4}F_{i}' for i in range(len(lengths) - 1)] + ['Ses05M_0']
    )
    per = lambda f: {d: f(d, n) for d, n in zip(names, lengths)}
    vec = lambda size: per(lambda d, n: [r.normal(size=size) for _ in range(n)])
    real = structure in ('avec9', 'multilogue_real')
    hot = lambda: [1 if j == i else 0 for i in [int(r.integers(9))] for j in range(9)]
    field = dict(
        id=per(lambda d, n: [f'{d}_{i}' for i in range(n)]),
        speaker=per(lambda d, n: [hot() if meld else 'MF'[i % 2] for i in range(n)]),
        label=per(
            lambda d, n: [
                float(r.normal())
                if real
                else (d if isinstance(d, int) else int(d[-1])) * 7 % 2
                if structure == 'multilogue9'
                else (i + n) % 6
                for i in range(n)
            ]
        ),
        sentence=per(lambda d, n: [f'Line {i}, of "{d}".' for i in range(n)]),
        train=set(names[:-1]) if not meld else names[:-1],
        test=names[-1:],
        sentiment=per(lambda d, n: [int(r.integers(3)) for _ in range(n)]),
        **{m: vec(s) for m, s in zip(('text', 'audio', 'visual'), dims)},
    )
    return tuple(
        field[k] for k in STRUCTURES['multilogue9' if structure == 'multilogue_real' else structure]
    )


KINDS = {
    'dialoguernn9': (100, 100, 512),
    'mmgcn9': (100, 1582, 342),
    'meld9': (600, 300, 1),
    'meld10': (600, 300, 342),
    'avec9': (100, 7, 5),
    'multilogue9': (300, 384, 35),
    'multilogue_real': (300, 384, 35),
}


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('kind', KINDS)
def test_every_structure_is_converted(tmp_path, kind, protocol):
    x = family(kind, KINDS[kind])
    path = tmp_path / f'{kind}.pkl'
    path.write_bytes(pickle.dumps(x, protocol=protocol))
    structure = 'multilogue9' if kind == 'multilogue_real' else kind
    assert structure_of(x, path) == structure
    made, c = convert(path, tmp_path / 'out'), load_converted(tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out')) == [
        'corpus.json',
        'features.safetensors',
        'table.csv',
    ]
    assert (
        c.digest() == made.digest()
        and c.name == kind
        and c.provenance['files'].keys() == {path.name}
    )
    parts = dict(zip(STRUCTURES[structure], x))
    want = {
        'avec9': ('regression', ()),
        'multilogue9': ('sentiment', SENTIMENT),
        'multilogue_real': ('regression', ()),
    }.get(kind, ('emotion', MELD_CLASSES if 'meld' in kind else IEMOCAP6))
    assert (c.task, c.classes) == want
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
    c = convert(tmp_path / 'x.pkl', tmp_path / 'out', name='mine')
    assert c.classes == IEMOCAP4 and load_converted(tmp_path / 'out').name == 'mine'
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
    assert {k: v.shape[1] for k, v in load_converted(tmp_path / 'out').features.items()} == {
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
            "dialogue 'Ses03F_2' has a text vector of size 5",
        ),
        (lambda x: x[5]['Ses03F_2'][0].__setitem__(0, np.nan), "features 'visual': nan in row"),
        (lambda x: x[2]['Ses03F_2'].__setitem__(0, 9), 'unknown label 9'),
        (lambda x: x[7].clear(), 'x.pkl: no dialogue in train'),
        (lambda x: x[8].clear(), 'x.pkl: no dialogue in test'),
        (lambda x: x[8].append('Ses03F_2'), "'Ses03F_2' is in train and in test"),
    ],
)
def test_bad_family_files(tmp_path, spoil, message):
    x = family('dialoguernn9', (4, 3, 2))
    spoil(x)
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(x))
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / 'x.pkl', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_modality_without_vectors_is_left_out(tmp_path):
    x = family('dialoguernn9', (4, 3, 2))
    x[5].update({d: [] for d in x[5]})
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(x))
    assert convert(tmp_path / 'x.pkl', tmp_path / 'out').features.keys() == {'text', 'audio'}


def test_not_of_the_family(tmp_path):
    for obj, message in (
        ([1, 2], 'list of 2'),
        ({'a': 1}, 'dict of 1'),
        (tuple(range(9)), 'not in an order that is known'),
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
    table = tmp_path / 'out/table.csv'
    table.write_text(table.read_text().replace('Line 0', 'Lime 0', 1))
    with pytest.raises(ValueError, match='table.csv is not what corpus.json was written with'):
        load_converted(tmp_path / 'out')
    table.unlink()
    with pytest.raises(FileNotFoundError, match='no table.csv'):
        load_converted(tmp_path / 'out')


def test_the_real_mosei_pickle_of_pairs_is_no_corpus(data, tmp_path):
    with pytest.raises(ValueError, match='list of 4655'):
        convert(data / 'shift_pairs/MOSEI/siamese_data/siamese_test.pickle', tmp_path / 'out')


def test_reference_counts_are_of_known_corpora():
    t = pd.read_csv(corpora.package_file('reference/corpora.csv'))
    assert (
        list(t.columns) == ['corpus', 'split', 'fact', 'expected', 'source']
        and set(t['corpus']) == set(CORPORA)
        and not t.isna().any().any()
    )
    assert not t.duplicated(['corpus', 'split', 'fact']).any()
    json.loads(corpora.package_file('reference/pins.json').read_text(encoding='utf-8'))
