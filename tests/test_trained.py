"A trained model answers for any corpus, is saved whole, and is loaded without running anything from its files."

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import erc
from erc.data.corpus import validate
from erc.data.files import _whole_folder
from erc.nn.cells import Out
from erc.prediction.model_files import _read_model
from erc.runs.recipes import _PROTOCOL, _SEARCH

QUICK = dict(progress=False, seeds=2, hyperparameters={'epochs': 2, 'lr': 1e-3})


class Mine(nn.Module):
    def __init__(self, sizes, classes, width=8):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(sum(sizes.values()), width),
            nn.Dropout(0.3),
            nn.Linear(width, max(classes, 1)),
        )
        self.classes = classes

    def forward(self, batch):
        scores = self.net(torch.cat(list(batch.features.values()), -1))
        return Out(scores if self.classes else scores[:, 0])


@pytest.fixture(scope='module')
def corpus():
    return erc.encode(erc.load_corpus('demo'), 'hashing', feature='words')


@pytest.fixture(scope='module')
def model(corpus):
    return erc.train('context_gru', corpus, ['words', 'audio'], **QUICK)


@pytest.fixture
def saved(model, tmp_path):
    return model.save(tmp_path / 'gru')


def without_labels(corpus):
    return corpus.replace(table=corpus.table.assign(label=-1, split='test'), name='new')


# ---- the protocol


def test_a_call_follows_the_protocol(corpus, monkeypatch):
    monkeypatch.setitem(_PROTOCOL, 'epochs', 3)
    info = erc.train('context_gru', corpus, ['words'], seeds=1, progress=False).info
    chosen, tried = info.training['hyperparameters'], info.training['tried']
    assert {k: chosen[k] for k in ('epochs', 'warmup', 'decay', 'clip')} == {
        k: _PROTOCOL[k] for k in ('epochs', 'warmup', 'decay', 'clip')
    }
    assert {point['lr'] for point in tried} >= set(_PROTOCOL['lr'])
    assert chosen['lr'] == max(tried, key=lambda point: point['dev'])['lr']


def test_what_a_caller_fixes_is_not_searched(corpus, model):
    assert model.info.training['tried'] == []
    assert model.info.training['hyperparameters']['lr'] == 1e-3
    given = {'lr': [1e-3, 3e-3], 'epochs': 1, 'batch': 4}
    two = erc.train(
        'context_gru', corpus, ['words'], seeds=1, hyperparameters=given, progress=False
    )
    assert [point['lr'] for point in two.info.training['tried']][:2] == given['lr']
    assert _SEARCH['epochs'] > 1 and two.info.training['hyperparameters']['batch'] == 4


def test_training_is_the_same_each_time(corpus):
    "Also for a class that draws from torch's own generator, whatever was drawn before."
    first = erc.train(Mine, corpus, ['words'], **QUICK).probabilities('test')
    torch.rand(7)
    assert np.array_equal(erc.train(Mine, corpus, ['words'], **QUICK).probabilities('test'), first)


def test_seeds_differ(model):
    a, b = (dict(module.named_parameters()) for module in model.modules)
    assert all(not torch.equal(a[k], b[k]) for k in a)


# ---- answers


def test_probabilities_of_any_corpus(corpus, model):
    p = model.probabilities(without_labels(corpus))
    assert p.shape == (len(corpus), len(corpus.classes)) and np.allclose(p.sum(1), 1)
    assert np.abs(p[corpus.rows('dev')] - model.probabilities('dev')).max() < 1e-6
    assert model.classes == list(corpus.classes) and model.features == ['words', 'audio']
    assert model.encoders == {'words': 'hashing'}


def test_dialogues_do_not_see_each_other(corpus, model):
    one = corpus.table.dialogue == corpus.table.dialogue.iloc[0]
    rows = np.flatnonzero(one)
    alone = validate(
        corpus.replace(
            table=corpus.table.iloc[rows].reset_index(drop=True),
            features={k: x[rows] for k, x in corpus.features.items()},
            has={k: x[rows] for k, x in corpus.has.items()},
        )
    )
    assert np.abs(model.probabilities(alone) - model.probabilities(corpus)[rows]).max() < 1e-6


def test_shift_is_against_the_speakers_previous_turn(corpus, model):
    p, shift, table = model.probabilities(corpus), model.shift_probabilities(corpus), corpus.table
    last = {}
    for row, (dialogue, speaker) in enumerate(zip(table.dialogue, table.speaker)):
        before = last.get((dialogue, speaker))
        if before is None:
            assert np.isnan(shift[row])
        else:
            assert shift[row] == pytest.approx(1 - p[row] @ p[before])
        last[dialogue, speaker] = row


def test_temperature_is_of_dev_alone(corpus, model):
    table = corpus.table.copy()
    is_test = table.split == 'test'
    table.loc[is_test, 'label'] = (table.label[is_test] + 1) % len(corpus.classes)
    other = erc.train('context_gru', corpus.replace(table=table), ['words', 'audio'], **QUICK)
    assert other.info.temperature == model.info.temperature
    assert other.info.calibration['test'] != model.info.calibration['test']


def test_encoding_as_in_training(corpus, model):
    again = model.encode(without_labels(erc.load_corpus('demo')))
    assert np.array_equal(again.features['words'], corpus.features['words'])


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda c: erc.load_corpus('demo'), "unknown feature of corpus demo 'words'"),
        (lambda c: c.with_features(audio=c.features['audio'][:, :3]), 'has 3 columns'),
        (lambda c: erc.encode(c, 'hashing', feature='words', column='speaker'), 'encode it again'),
    ],
)
def test_other_features_are_refused(corpus, model, change, says):
    with pytest.raises(ValueError, match=says):
        model.probabilities(change(corpus))


def test_values_have_no_probabilities(corpus):
    labels = np.random.default_rng(0).normal(size=len(corpus))
    values = corpus.replace(task='regression', classes=(), table=corpus.table.assign(label=labels))
    model = erc.train(Mine, values, ['words'], **QUICK)
    assert model.predictions(values).shape == (2, len(values))
    with pytest.raises(ValueError, match='predicts values'):
        model.probabilities('test')


def test_a_corpus_without_test_is_trained_on(corpus):
    table = corpus.table.assign(split=corpus.table.split.replace('test', 'train'))
    model = erc.train('context_gru', corpus.replace(table=table), ['words'], **QUICK)
    assert set(model.info.calibration) == {'dev'} and 'dev' in model._repr_html_()


# ---- saved and loaded


def test_loaded_is_what_was_saved(corpus, model, saved):
    loaded = erc.load(saved)
    assert loaded.corpus is None and repr(loaded) == repr(model)
    for of in (corpus, without_labels(corpus)):
        assert np.abs(loaded.probabilities(of) - model.probabilities(of)).max() < 1e-6
        assert np.array_equal(loaded.predictions(of), model.predictions(of))
    assert loaded.on(corpus).score('test') == model.score('test')
    assert erc.compare(loaded.on(corpus), model).difference.mean == 0
    assert 'weighted_f1' in loaded._repr_html_()
    with pytest.raises(ValueError, match=r'model\.on\(corpus\)'):
        loaded.score('test')


def test_another_process_answers_the_same(corpus, model, saved):
    code = (
        'import sys, numpy, erc\n'
        "corpus = erc.encode(erc.load_corpus('demo'), 'hashing', feature='words')\n"
        'numpy.save(sys.argv[2], erc.load(sys.argv[1]).probabilities(corpus))\n'
    )
    out = saved.parent / 'p.npy'
    subprocess.run([sys.executable, '-W', 'error', '-c', code, saved, out], check=True)
    assert np.abs(np.load(out) - model.probabilities(corpus)).max() < 1e-6


def test_half_precision_is_half_the_size(corpus, model, saved, tmp_path):
    half = model.save(tmp_path / 'half', dtype='float16')
    sizes = [(folder / 'model.safetensors').stat().st_size for folder in (saved, half)]
    assert sizes[1] < 0.6 * sizes[0]
    gap = np.abs(erc.load(half).probabilities(corpus) - model.probabilities(corpus)).max()
    assert 0 < gap < 0.02


def test_saving_again_replaces(model, saved):
    again = erc.load(saved).save(saved)
    assert sorted(path.name for path in again.parent.iterdir()) == ['gru']
    assert erc.load(again).info.scores == erc.load(saved).info.scores != {}


def test_what_is_no_model_is_not_replaced(model, tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    for anyway in (False, True):
        with pytest.raises(FileExistsError, match='holds no model'):
            model.save(tmp_path, replace=anyway)
        with pytest.raises(FileExistsError, match=r'notes\.txt is a file'):
            model.save(tmp_path / 'notes.txt', replace=anyway)


def test_another_model_is_replaced_only_if_the_caller_says_so(corpus, model, saved):
    before = (saved / 'model.json').read_bytes()
    other = replace(model, info=replace(model.info, name='bclstm'))
    elsewhere = replace(model, info=replace(model.info, corpus={'name': 'own', 'splits': {}}))
    classes = replace(model, info=replace(model.info, classes=model.classes[::-1]))
    for another in (other, elsewhere, classes):
        with pytest.raises(FileExistsError, match=r'holds another model \(context_gru on demo, \d'):
            replace(another, corpus=None).save(saved)
    assert (saved / 'model.json').read_bytes() == before
    replace(other, corpus=None).save(saved, replace=True)
    assert erc.load(saved).name == 'bclstm'


def test_the_same_model_trained_again_is_replaced(corpus, model, saved):
    options = {**QUICK, 'seeds': 1}
    erc.train('context_gru', corpus, ['words'], **options).save(saved)
    assert erc.load(saved).seeds == 1


def test_what_lies_beside_a_model_is_kept(model, saved):
    (saved / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'holds other files \(notes.txt\).*replace=True'):
        model.save(saved)
    assert (saved / 'notes.txt').read_text() == 'mine'


def test_a_save_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    import erc.prediction.model_files as files

    def full(*args):
        raise OSError('no space left')

    monkeypatch.setattr(files, '_facts_text', full)
    with pytest.raises(OSError, match='no space'):
        model.save(tmp_path / 'gru')
    assert not list(tmp_path.iterdir())


def test_half_written_is_no_model(saved):
    (saved / 'model.json').unlink()
    with pytest.raises(ValueError, match=r'holds no whole model: model\.json is missing'):
        erc.load(saved)


def test_own_class_is_given_by_the_caller(corpus, tmp_path):
    mine = erc.train(Mine, corpus, ['words'], width=5, **QUICK)
    folder = mine.save(tmp_path / 'mine')
    with pytest.raises(ValueError, match=r'no model of erc.*give its class.*model=Mine'):
        erc.load(folder)
    loaded = erc.load(folder, model=Mine)
    assert np.abs(loaded.probabilities(corpus) - mine.probabilities(corpus)).max() < 1e-6
    with pytest.raises(ValueError, match=r'cannot be built: TypeError'):
        erc.load(folder, model='context_gru')


def test_arguments_that_json_cannot_hold(corpus, tmp_path):
    class Odd(Mine):
        def __init__(self, sizes, classes, f):
            super().__init__(sizes, classes)

    with pytest.raises(ValueError, match='an argument of Odd cannot be saved'):
        erc.train(Odd, corpus, ['words'], f=print, **QUICK).save(tmp_path / 'odd')


@pytest.mark.parametrize('name', ['dialoguernn', 'msve', 'gruarc'])
def test_named_models_are_loaded_by_name(tmp_path, name):
    demo, given = erc.load_corpus('demo'), {'epochs': 1, 'lr': 1e-3}
    model = erc.train(name, demo, seeds=1, progress=False, hyperparameters=given)
    loaded = erc.load(model.save(tmp_path / name))
    assert np.abs(loaded.probabilities(demo) - model.probabilities(demo)).max() < 1e-6


# ---- hostile files


def edited(folder, **changes):
    "Change fields of a model's JSON; None removes one."
    path = folder / 'model.json'
    facts = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))
    return folder


HOSTILE = [
    ({'classes': None}, "field 'classes' is missing"),
    ({'surprise': 1}, "field 'surprise' is unknown"),
    ({'format': 2}, 'format that is known here'),
    ({'classes': ['a', 'a']}, 'classes is'),
    ({'classes': 'sad'}, 'classes is'),
    ({'temperature': 0}, 'temperature is 0'),
    ({'temperature': True}, 'temperature is True'),
    ({'temperature': '1'}, "temperature is '1'"),
    ({'seeds': []}, 'seeds is'),
    ({'seeds': [0] * 5000}, 'seeds is'),
    ({'features': {'words': {'width': 10**9, 'encoder': None}}}, 'features is'),
    ({'features': {'words': 3}}, 'features is'),
    ({'args': {'hidden': 10**9}}, 'args is'),
    ({'args': {'hidden': 9999}}, 'has shape'),
    ({'args': {'hidden': -3}}, 'cannot be built'),
    ({'args': {'surprise': 3}}, 'cannot be built'),
    ({'unit': 7}, 'unit is 7'),
    ({'training': {'selected': 'x'}}, 'training is'),
    ({'scores': {'test': 3}}, 'scores is'),
    ({'calibration': {'dev': 1}}, 'calibration is'),
    ({'corpus': []}, 'corpus is'),
    ({'model': 'os:system'}, 'no model of erc'),
    ({'model': 'erc.core:write_atomic'}, 'no model of erc'),
    ({'model': 'erc.models.recurrent:torch'}, 'is not a model'),
    ({'model': 'erc.models.recurrent:nn'}, 'is not a model'),
    ({'model': 'erc.models.nowhere:Model'}, 'cannot find'),
    ({'sha256': {}}, 'damaged'),
    ({'sha256': {'model.safetensors': 'x'}}, 'not the file that was saved with it'),
]


@pytest.mark.parametrize(('changes', 'says'), HOSTILE, ids=[says for _, says in HOSTILE])
def test_hostile_facts_are_one_sentence(saved, changes, says):
    with pytest.raises(ValueError, match=says) as found:
        erc.load(edited(saved, **changes))
    text = str(found.value)
    assert '\n' not in text and str(saved) in text and len(text) < 600


@pytest.mark.parametrize('text', ['', '[]', '{"format": NaN}', '[' * 100_000, '{"format": 1', '\0'])
def test_broken_json_names_the_file(saved, text):
    (saved / 'model.json').write_text(text)
    with pytest.raises(ValueError, match=r'model\.json'):
        erc.load(saved)


def rewritten(folder, change):
    "Change a model's tensors, with a checksum that fits."
    from erc.core import sha256_of

    path = folder / 'model.safetensors'
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return edited(folder, sha256={'model.safetensors': sha256_of(path)})


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda t: t.pop('mean/words'), "scale of feature 'words' is not 256 numbers"),
        (lambda t: t.update({'scale/audio': np.ones(3)}), "scale of feature 'audio'"),
        (lambda t: t.pop(next(k for k in t if k.startswith('seed1/'))), 'is missing'),
        (lambda t: t.update({'seed0/more': np.ones(3)}), 'is not part of the model'),
        (
            lambda t: t.update({k: x * np.nan for k, x in t.items() if '/' in k and 'seed0' in k}),
            'not finite',
        ),
    ],
)
def test_tensors_that_do_not_fit(saved, change, says):
    with pytest.raises(ValueError, match=says):
        erc.load(rewritten(saved, change))


def test_damaged_weights(saved):
    path = saved / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match='not the file that was saved with it'):
        erc.load(saved)


def test_no_pickle_is_read(saved, monkeypatch):
    import pickle

    def forbidden(*args, **kwargs):
        raise AssertionError('a pickle was read')

    for name in ('load', 'loads', 'Unpickler'):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, 'load', forbidden)
    assert _read_model(saved)[0].name == 'context_gru'


# ---- the card


def test_card_has_metadata_and_numbers(model, saved):
    from huggingface_hub import ModelCard

    card = ModelCard.load(saved / 'README.md')
    assert card.data.library_name == 'erc' and card.data.datasets == ['demo']
    scored = {r.metric_name: r.metric_value for r in card.data.eval_results}
    info = erc.load(saved).info
    assert scored['weighted F1'] == info.scores['test']['average']['weighted_f1']['mean']
    for heading in ('Intended use', 'Data', 'Training', 'Scores', 'Calibration', 'Limits'):
        assert f'\n## {heading}\n' in card.content
    before, after = (f'{100 * info.calibration["dev"][k]:.1f}' for k in ('before', 'after'))
    assert f'| dev | {before} | {after} |' in card.content
    assert '256 hashed words' in card.content and str(model.score('test')) in card.content


def test_card_states_a_licence_or_that_there_is_none(model, tmp_path):
    from huggingface_hub import ModelCard, metadata_load

    plain = model.save(tmp_path / 'plain')
    card = ModelCard.load(plain / 'README.md', ignore_metadata_errors=False)
    assert (card.data.license, card.data.license_name) == ('other', 'not-stated')
    assert 'has not said under which licence' in card.content
    given = model.save(tmp_path / 'given', licence='cc-by-4.0')
    again = erc.load(given).save(tmp_path / 'again')
    for folder in (given, again):
        assert metadata_load(folder / 'README.md')['license'] == 'cc-by-4.0'
        text = (folder / 'README.md').read_text()
        assert 'given out under cc-by-4.0' in text and 'license_name' not in text
        assert ModelCard(text).data.to_dict() == ModelCard.load(folder / 'README.md').data.to_dict()
    for wrong in ('CC BY 4.0', 'a: b', 'x\n---'):
        with pytest.raises(ValueError, match='write it as the hub does'):
            model.save(tmp_path / 'wrong', licence=wrong)


def test_models_without_a_stated_licence_are_still_loaded(saved):
    facts = json.loads((saved / 'model.json').read_text())
    del facts['licence']
    (saved / 'model.json').write_text(json.dumps(facts))
    assert erc.load(saved).info.licence == ''


def test_loaded_without_corpus_keeps_its_scores(saved, tmp_path):
    again = erc.load(saved).save(tmp_path / 'again')
    assert (again / 'README.md').read_text() == (saved / 'README.md').read_text()


# ---- the hub


def test_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="give the folder of one, or 'user/name'"):
        erc.load('nowhere')
    with pytest.raises(ValueError, match="no model 'some/where': there is no such folder"):
        erc.load('some/where')


def test_pushed_and_loaded_through_a_server(corpus, model, saved, tmp_path):
    "A server of one process stands in for the hub; two others push to it and load from it."
    from local_hub import serving

    here = Path(__file__).parent
    push = "import sys, erc; print(erc.load(sys.argv[1]).push_to_hub('me/gru', private=True))"
    pull = (
        'import sys, numpy, erc\n'
        "corpus = erc.encode(erc.load_corpus('demo'), 'hashing', feature='words')\n"
        "numpy.save(sys.argv[1], erc.load('me/gru').probabilities(corpus))\n"
    )
    with serving(tmp_path / 'hub') as environment:
        for code, argument in ((push, saved), (pull, tmp_path / 'p.npy')):
            done = subprocess.run(
                [sys.executable, '-c', code, argument],
                env=environment,
                cwd=here,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-2000:]
    assert np.abs(np.load(tmp_path / 'p.npy') - model.probabilities(corpus)).max() < 1e-6
    assert (tmp_path / 'hub' / 'me' / 'gru' / 'README.md').read_text() == (
        saved / 'README.md'
    ).read_text()


def test_a_model_may_be_replaced_by_facts(model):
    assert replace(model, corpus=None).features == model.features


def test_a_model_that_a_killed_writer_put_aside_is_found_again(tmp_path):
    place = tmp_path / 'mine'
    with _whole_folder(place) as new:
        (new / 'model.json').write_text('{}')
    aside = tmp_path / '.mine.x.tmp'
    aside.mkdir()
    place.rename(aside / 'old')
    os.utime(aside, (0, 0))
    with pytest.raises(ValueError, match='model.safetensors is missing'):
        erc.load(place)
    assert [path.name for path in tmp_path.iterdir()] == ['mine']
