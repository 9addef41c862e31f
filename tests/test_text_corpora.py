"EmoryNLP and DailyDialog from their files; M3ED and EmoWOZ from invented files of the published layout."

import json

import pytest

from erc.data.checks import check
from erc.data.m3ed import _ANNOTATION, _LISTS
from erc.data.registry import CORPORA, load_corpus


@pytest.mark.parametrize('name', ['emorynlp', 'dailydialog'])
def test_counts_are_those_that_are_stated(data, name):
    facts = check(name, root=data)
    assert len(facts) > 10 and facts['ok'].all(), facts[~facts['ok']]


def test_scenes_are_dialogues_and_speakers_are_names(data):
    table = load_corpus('emorynlp', root=data).table
    assert table.groupby('dialogue')['split'].nunique().max() == 1
    assert not table['speaker'].str.contains(r'[\[\]]').any()
    assert table['speaker'].str.contains(' and ').sum() > 50
    assert table['id'].is_unique


def test_no_training_dialogue_of_dailydialog_is_a_test_dialogue(data):
    table = load_corpus('dailydialog', root=data).table
    words = table.groupby('dialogue', sort=False)['text'].agg(tuple)
    split = table.groupby('dialogue', sort=False)['split'].first()
    assert not set(words[split == 'train']) & set(words[split == 'test'])
    assert not set(words[split == 'dev']) & set(words[split == 'test'])


def m3ed(root, **change):
    for split, file in _LISTS.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(f'{split}_a\n{split}_b\n', encoding='utf-8')
    turn = {
        'StartTime': '00:01:02',
        'EndTime': '00:01:03',
        'Text': '真的吗?',
        'Speaker': 'A',
        'EmoAnnotation': {'EmoAnnotator1': 'Anger', 'final_main_emo': 'Anger'},
    } | change
    scenes = {
        f'{s}_{x}': {f'{s}_{x}_{i}': {'Dialog': {f'u{t}': turn for t in range(3)}} for i in (1, 2)}
        for s in _LISTS
        for x in 'ab'
    }
    (root / _ANNOTATION).write_text(json.dumps(scenes), encoding='utf-8')


def test_m3ed(tmp_path):
    m3ed(tmp_path)
    corpus = load_corpus('m3ed', root=tmp_path)
    assert corpus.table.groupby('split')['dialogue'].nunique().to_dict() == dict.fromkeys(_LISTS, 4)
    assert set(corpus.table['text']) == {'真的吗?'}
    assert {corpus.classes[code] for code in corpus.table['label']} == {'anger'}
    m3ed(tmp_path, EmoAnnotation={'final_main_emo': 'Angre'})
    with pytest.raises(ValueError, match="row 0: unknown label 'angre'; did you mean 'anger'"):
        load_corpus('m3ed', root=tmp_path)
    m3ed(tmp_path, EmoAnnotation={})
    with pytest.raises(ValueError, match='annotation.json: damaged'):
        load_corpus('m3ed', root=tmp_path)


def emowoz(root, emotion=2):
    (root / 'emowoz').mkdir(exist_ok=True)
    marked = [{'emotion': 0}, {'emotion': 1}, {'emotion': 2}, {'final': '', 'emotion': emotion}]
    log = [{'text': 'I need a hotel.', 'emotion': marked}, {'text': 'Where?', 'emotion': []}]
    names = {'multiwoz': ['a.json', 'b.json', 'c.json'], 'dialmage': ['d.json', 'e.json', 'f.json']}
    for source, files in names.items():
        logs = {file: {'log': log * 2} for file in files}
        (root / f'emowoz/emowoz-{source}.json').write_text(json.dumps(logs))
    parts = {
        split: {source: [files[i]] for source, files in names.items()}
        for i, split in enumerate(('train', 'dev', 'test'))
    }
    (root / 'emowoz/data-split.json').write_text(json.dumps(parts))


def test_emowoz(tmp_path):
    emowoz(tmp_path)
    user = load_corpus('emowoz', root=tmp_path)
    both = load_corpus('emowoz', root=tmp_path, keep_unlabelled=True)
    assert (len(user), len(both)) == (12, 24) and set(user.table['speaker']) == {'user'}
    assert list(both.table['label'][:4]) == [2, -1, 2, -1] and both.classes[2] == 'dissatisfied'
    assert list(both.table['split'].unique()) == ['train', 'dev', 'test']
    emowoz(tmp_path, emotion=9)
    with pytest.raises(ValueError, match='a.json turn 0: emotion 9'):
        load_corpus('emowoz', root=tmp_path)


@pytest.mark.parametrize('name', ['emorynlp', 'dailydialog', 'm3ed', 'emowoz'])
def test_missing_files_name_the_command(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f'erc data get {name}'):
        load_corpus(name, root=tmp_path)


@pytest.mark.parametrize(
    'name, where',
    [('m3ed', 'RUCM3ED'), ('emowoz', 'zenodo.6506504'), ('dailydialog', 'XDailyDialog')],
)
def test_what_is_not_pinned_says_where_it_is_and_what_it_must_look_like(tmp_path, name, where):
    from typer.testing import CliRunner

    from erc.cli import app

    asked = CliRunner().invoke(app, ['data', 'get', name, '--root', str(tmp_path)])
    assert asked.exit_code == 1 and f'{name} must be fetched by hand, from ' in asked.output
    missing = CORPORA[name].missing(tmp_path)
    assert where in asked.output and missing and all(file in asked.output for file in missing)
    assert asked.output.count('\n') == 1
    for file in missing:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert (
        'all here' in CliRunner().invoke(app, ['data', 'get', name, '--root', str(tmp_path)]).output
    )
