"""Readers of what users, other machines and earlier runs hand over, with a sound file of each kind.

Conversations to predict, tables and vectors of one's own, saved models, records that were sent in,
sentence stores, manifests of runs, artefacts, and corpora of text. See `torture.py`."""

import contextlib
import functools
import hashlib
import io
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

TEXTS = ['So it was great', 'Oh no, "lost", again', 'Ünd so; weiter\tnow', '']


def part_of(path: Path, good: dict) -> tuple:  # folder, name of the part
    "Write a folder of sound files in which the one that is named before ' of ' is damaged."
    folder, part = path.with_suffix('.folder'), path.name.split(' of ')[0]
    for name, raw in good.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() if Path(name).name == part else raw)
    return folder, part


def files_in(folder) -> dict:  # path relative to it -> bytes
    paths = (p for p in Path(folder).rglob('*') if p.is_file() and '.locks' not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


# ---- conversations, tables, vectors


def read_conversation(path):
    from erc.prediction.conversations import conversation_table

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        return conversation_table(path)


def read_stream(path):
    from erc.prediction.streams import _Lines

    return list(_Lines(path, {}).turns())


def read_place(path):
    "Where a killed prediction stood; a file that is none counts for nothing."
    from erc.prediction.streams import _Place, _read_place

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        return _read_place(path, path, _Place('run'))


def read_own_corpus(path):
    from erc.data.reading import read_corpus

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore', UserWarning)
        return read_corpus(path)


def read_vectors(path):
    from erc.data.feature_files import _read_features

    return _read_features(path)


def _frame(labels=False):
    import pandas as pd

    columns = {'dialogue': ['a', 'a', 'b', 'b'], 'speaker': ['A', 'B', 'A', 'B'], 'text': TEXTS}
    if labels:
        columns |= {
            'label': ['glad', 'glum', 'glad', 'glad'],
            'split': ['train'] * 2 + ['test'] * 2,
        }
    return pd.DataFrame(columns)


def _tables(labels=False) -> dict:  # name -> bytes
    frame = _frame(labels)
    texts = {
        'x.csv': frame.to_csv(index=False),
        'x.tsv': frame.to_csv(index=False, sep='\t'),
        'x.json': frame.to_json(orient='records'),
        'x.jsonl': frame.to_json(orient='records', lines=True),
    }
    return {name: text.encode() for name, text in texts.items()}


def _vector_files() -> dict:
    from safetensors.numpy import save

    x = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    found = {'v.safetensors': save({'text': x}), 'v.csv': b'id,v0,v1\nu1,1,2.5\nu2,,3\n'}
    for name, write, arrays in (('v.npy', np.save, [x]), ('v.npz', np.savez, [x, x + 1])):
        buffer = io.BytesIO()
        write(buffer, *arrays)
        found[name] = buffer.getvalue()
    return found


# ---- models, records that were sent in, stores of sentences


@functools.cache
def _model() -> dict:
    from own_chats import trained

    with tempfile.TemporaryDirectory() as folder:
        return files_in(trained(seeds=1).save(Path(folder, 'model')))


def read_model(path):
    "A saved model, whose facts hold the checksum of damaged weights."
    import erc

    folder, part = part_of(path, _model())
    if part == 'model.safetensors':
        facts = json.loads(_model()['model.json'])
        facts['sha256'][part] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / 'model.json').write_text(json.dumps(facts))
    return erc.load(folder)


def read_submission(path):
    "What the ranking says of a record that was sent in."
    from erc.runs.records import _load_record
    from erc.runs.submissions import _submission_faults

    record = _load_record(path)
    return _submission_faults(record, [record])


@functools.cache
def _submission() -> bytes:
    from erc.runs.keys import RunKey
    from erc.runs.recipes import _PROTOCOL, _SEARCH
    from erc.runs.records import Fold, Record, save_record

    counts = np.ones((2, 3, 2, 2), np.int16)
    fold = Fold([0, 1], [{}] * 2, [1.0] * 2, [3] * 2, [0.5] * 2, [0.5] * 2)
    fold.confusions = {'all': counts}
    settings = {'hyperparameters': dict(_PROTOCOL), 'search': _SEARCH}
    record = Record(RunKey('theirs', 'net', 'tuned', 'demo'), settings, classes=['glad', 'glum'])
    record.cross, record.folds = ['paper'], {'paper': fold}
    with tempfile.TemporaryDirectory() as folder:
        return save_record(record, folder).read_bytes()


def read_shard(path):
    "A shard under the name that its bytes have; one that is damaged is a warning."
    from erc.data.sentence_store import _find_sentences, _text_keys

    store = path.with_suffix('.store')
    store.mkdir(exist_ok=True)
    raw = path.read_bytes()
    shard = store / f'{hashlib.sha256(raw).hexdigest()[:32]}.safetensors'
    shard.write_bytes(raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)
            found = _find_sentences(store, _text_keys(TEXTS))
    except UserWarning as warning:
        message = str(warning).replace(shard.name, path.name)
        raise ValueError(message) from None
    shard.unlink(missing_ok=True)
    return found


def _shard() -> bytes:
    from erc.data.sentence_store import _text_keys, _write_shard

    with tempfile.TemporaryDirectory() as folder:
        x = np.arange(12.0, dtype=np.float32).reshape(4, 3)
        return _write_shard(folder, _text_keys(TEXTS), x).read_bytes()


# ---- runs of notebooks, and what they drew


@functools.cache
def _build() -> dict:
    import pandas as pd

    from erc.report.reproduction import _artefacts_in
    from erc.report.tables import facts_table

    with tempfile.TemporaryDirectory() as folder:
        facts_table(pd.DataFrame({'x': ['a'], 'n': [1]}), 'shapes', 'table1').save(folder)
        entry = {'name': '100_a', 'status': 'ok', 'files': [], 'seconds': 1.0, 'started': 0.0}
        entry |= {'parameters': {}, 'error': '', 'traceback': '', 'notebook': ''}
        about = {'profile': 'demo', 'versions': {'python': '3'}, 'source': {}, 'failed': 0}
        about |= {'seconds': 1.0, 'started': '', 'parameters': {}, 'notebooks': [entry]}
        about['artefacts'] = _artefacts_in(folder, folder)
        (Path(folder) / 'manifest.json').write_text(json.dumps(about))
        return files_in(folder)


def read_manifest(path):
    from erc.report.reproduction import _read_manifest

    return _read_manifest(part_of(path, _build())[0])


def read_artefact(path):
    from erc.report.reproduction import _artefacts_in

    folder = part_of(path, _build())[0]
    return _artefacts_in(folder, folder)


# ---- corpora of text


@functools.cache
def _text_corpora() -> dict:  # corpus -> files
    from test_text_corpora import emowoz, m3ed

    found = {}
    for make in (m3ed, emowoz):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            found[make.__name__] = files_in(folder)
    return found


def read_text_corpus(path):
    from erc.data.registry import load_corpus

    part = path.name.split(' of ')[0]
    for name, files in _text_corpora().items():
        if part in {Path(file).name for file in files}:
            return load_corpus(name, root=part_of(path, files)[0])


def read_transcript(path):
    from erc.media.segments import read_turns

    return read_turns(path)


SAID = (('A', 0.5, 1.25, 'So it was'), ('B', 1.5, 3.0, 'Oh no'))


def _transcripts() -> dict:  # name -> bytes
    "The same turns in every format with times."
    srt = '\n'.join(
        f'{i}\n00:00:{a:06.3f} --> 00:00:{b:06.3f}\n{who}: {text}\n'
        for i, (who, a, b, text) in enumerate(SAID, 1)
    )
    grid = ['"ooTextFile"', '"TextGrid"', '0 3 <exists> 2']
    grid += [f'"IntervalTier" "{who}" 0 3 1 {a} {b} "{text}"' for who, a, b, text in SAID]
    slots = ''.join(
        f'<TIME_SLOT TIME_SLOT_ID="{who}{i}" TIME_VALUE="{int(1000 * t)}"/>'
        for who, *times, _ in SAID
        for i, t in enumerate(times)
    )
    tiers = ''.join(
        f'<TIER TIER_ID="{who}"><ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="{who}0" '
        f'TIME_SLOT_REF2="{who}1"><ANNOTATION_VALUE>{text}</ANNOTATION_VALUE>'
        '</ALIGNABLE_ANNOTATION></ANNOTATION></TIER>'
        for who, _, _, text in SAID
    )
    eaf = f'<ANNOTATION_DOCUMENT><TIME_ORDER>{slots}</TIME_ORDER>{tiers}</ANNOTATION_DOCUMENT>'
    rttm = [f'SPEAKER talk 1 {a} {b - a} <NA> <NA> {who} <NA> <NA>' for who, a, b, _ in SAID]
    csv = ['start,end,speaker,text'] + [f'{a},{b},{who},{text}' for who, a, b, text in SAID]
    texts = {
        'x.srt': srt,
        'x.vtt': 'WEBVTT\n\n' + srt.replace(',', '.'),
        'x.TextGrid': '\n'.join(grid),
        'x.eaf': eaf,
        'x.rttm': '\n'.join(rttm),
        'x.csv': '\n'.join(csv),
    }
    return {name: text.encode() for name, text in texts.items()}


READERS = {
    'conversation': read_conversation,
    'stream': read_stream,
    'place': read_place,
    'own corpus': read_own_corpus,
    'vectors': read_vectors,
    'model': read_model,
    'submission': read_submission,
    'shard': read_shard,
    'manifest': read_manifest,
    'artefact': read_artefact,
    'text corpus': read_text_corpus,
    'transcript': read_transcript,
}


def good_files() -> dict:
    "Sound files by reader: lists of (name, bytes)."
    chat = _tables() | {'x.txt': b'A: So it was\nand more\nB: Oh no\n[12/03/21, 10:11] A: well\n'}
    place = dict(run='run', offset=0, line=1, first=0, begin=2, turns=2, written=5, blank=0)
    artefact = next(name for name in _build() if name.endswith('.json') and '/' in name)
    texts = [(Path(n).name, raw) for files in _text_corpora().values() for n, raw in files.items()]
    return {
        'conversation': list(chat.items()),
        'stream': [('x.jsonl', _tables()['x.jsonl'])],
        'place': [('x.part.json', json.dumps(place).encode())],
        'own corpus': list(_tables(labels=True).items()),
        'vectors': list(_vector_files().items()),
        'model': [(f'{n} of x', _model()[n]) for n in ('model.json', 'model.safetensors')],
        'submission': [('net--tuned--demo.json', _submission())],
        'shard': [('x.safetensors', _shard())],
        'manifest': [('manifest.json of x', _build()['manifest.json'])],
        'artefact': [(f'{Path(artefact).name} of x', _build()[artefact])],
        'text corpus': [(f'{name} of x', raw) for name, raw in texts],
        'transcript': list(_transcripts().items()),
    }
