"Recipes: misspelt keys are refused, grids are products, and every system can be built."

import re

import numpy as np
import pytest

from erc.core import package_file, resolve
from erc.data.registry import load_corpus
from erc.report.artefacts import artefacts
from erc.runs import recipe_files
from erc.runs.keys import RunKey
from erc.runs.prepare import _of_fold
from erc.runs.recipe_files import _add_recipe, papers
from erc.runs.recipes import (
    _PROTOCOL,
    _SEARCH,
    System,
    _cross_validated,
    _follows_protocol,
    _read_recipe,
    find_system,
    load_recipe,
    settings_of,
    wanted_runs,
)
from erc.training.search import grid

NET = 'label="a"\nnotebook="x"\nmodel="m:n"\n'


@pytest.mark.parametrize('paper', papers())
def test_every_system_can_be_built(paper):
    recipe = load_recipe(paper)
    rows = [row for spec in recipe.artefacts.values() for row in spec.rows]
    waiting = {e.key.system for row in rows for e in row.wired}
    waiting |= {e.key.system for row in rows if row.needs for e in row.entries}
    for system in recipe.systems.values():
        for name in (system.model, system.data, system.slices, system.probe, system.decisions):
            assert not name or callable(resolve(name)), (system.id, name)
        assert system.variants and (system.corpora or system.name in waiting), system.id
        for variant in system.variants:
            assert grid(settings_of(system, variant)['hyperparameters'])


@pytest.mark.parametrize('paper', papers())
def test_every_artefact_is_one_that_the_papers_owe(paper):
    owed = artefacts()
    assert set(load_recipe(paper).artefacts) <= set(owed[owed.paper == paper].id)


def trained_systems():
    return [s for p in papers() for s in load_recipe(p).systems.values() if s.kind == 'model']


def test_one_protocol_trains_every_system():
    "An encoder that learns has a search of its own: it is too slow for the common one."
    for system in trained_systems():
        tuned = settings_of(system, 'tuned')
        assert _follows_protocol(system, 'tuned') == system.vectorise, system.id
        if system.vectorise:
            assert {k: tuned['hyperparameters'][k] for k in _PROTOCOL} == _PROTOCOL, system.id
            assert tuned['search'] == _SEARCH and not tuned['hyperparameters']['patience']
            assert _cross_validated(system, 'tuned') == ('protocol' not in system.data_args)


def test_settings_as_printed_are_of_a_tables_own_system():
    "Run on the paper's split alone, as is what is trained before it."
    printed = [s for s in trained_systems() if s.as_printed]
    assert {s.paper for s in printed} == {'dialoguetrm', 'mmspcl', 'multiemo', 'sagru', 'shapes'}
    assert len(printed) < len(trained_systems()) / 10
    for system in trained_systems():
        assert isinstance(system.as_printed, bool), f'{system.id}: a word of a choice?'
        assert set(system.variants) == ({'paper', 'tuned'} if system.as_printed else {'tuned'})
    for system in printed:
        assert not _cross_validated(system, 'paper') and 'search' not in settings_of(
            system, 'paper'
        )
        assert len(grid(settings_of(system, 'paper')['hyperparameters'])) == 1, system.id


def test_a_system_does_not_take_printed_from_the_one_it_is_like(tmp_path):
    text = """[systems.a]
label = "a"
notebook = "x"
model = "m:n"
as_printed = true
variants = {paper = {lr = 0.1}, tuned = {protocol = true, lr = 0.2}}
[systems.b]
like = "a"
label = "b"
"""
    a, b = _read_recipe(write(tmp_path, text)).systems.values()
    assert list(a.variants) == ['paper', 'tuned'] and list(b.variants) == ['tuned']
    assert settings_of(b, 'tuned')['hyperparameters']['lr'] == 0.2, 'what is written goes before'
    assert settings_of(b, 'tuned')['hyperparameters']['epochs'] == _PROTOCOL['epochs']
    with pytest.raises(ValueError, match="unknown variant of toy/b 'paper'"):
        settings_of(b, 'paper')


@pytest.mark.parametrize('paper', papers())
def test_a_demonstration_searches_for_nothing(paper):
    recipe = load_recipe(paper)
    small = recipe.demo.get('settings', {})
    for system in recipe.systems.values():
        for variant in system.variants if system.demo and system.kind == 'model' else ():
            whole = settings_of(system, variant)['hyperparameters']
            assert len(grid({**whole, **small})) == 1, system.id


def test_inputs_are_standardised_but_for_tokens():
    for system in trained_systems():
        tokens = system.token_features
        assert sorted(tokens + system.standardised) == sorted(system.features), system.id
        if not system.vectorise:  # an encoder that learns reads ids, whatever its corpus calls them
            assert set(tokens) == set(system.features) - {'audio', 'visual'}, system.id
        else:
            assert set(tokens) == {system.args.get('words')} - {None}, system.id


def test_token_ids_are_left_as_they_are():
    corpus = load_corpus('demo')
    ids = np.arange(3 * len(corpus)).reshape(-1, 3)
    corpus = corpus.with_features(words=ids, text=ids)
    about = dict(paper='toy', name='net', label='', notebook='', model='m:n')
    for how in ({'tokens': ['words']}, {'encode': {'words': {'tokens': True}}}):
        read = _of_fold(System(**about, features=['text', 'words'], **how), corpus)
        assert (read.features['words'] == ids).all()
        assert abs(read.features['text'][read.rows('train')].mean()) < 1e-6


def test_recipes_stay_short():
    lines = sum(len(p.read_text().splitlines()) for p in package_file('recipes').glob('*.toml'))
    assert lines < 2500


def write(folder, text, name='toy'):
    path = folder / f'{name}.toml'
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    'text,message',
    [
        (f'[systems.a]\n{NET}corpra=["demo"]', "'corpra'; did you mean 'corpora'"),
        ('[systems.a]\nlike="b"', "unknown system that a is like 'b'"),
        (f'[systems.a]\n{NET}kind="modle"', "did you mean 'model'"),
        ('titel = "x"', "did you mean 'title'"),
        (f'[systems.a]\n{NET}variants={{x={{}}}}\n[artefacts.t]\nrows=[{{row="r",systems=["b@demo"]}}]', "unknown system of toy 'b'"),
        (f'[systems.a]\n{NET}variants={{x={{}}}}\n[artefacts.t]\nrows=[{{row="r",systems=["a:y@demo"]}}]', "unknown variant of toy/a 'y'"),
        ('[artefacts.t]\nrows=["floors"]', "unknown row of artefact t of toy 'floors'"),
        ('[artefacts.t]\nrows=[{row="r",lable="x"}]', "did you mean 'label'"),
        ('[artefacts.t]\ncolumns=[{name="r",metrics="x"}]', "did you mean 'metric'"),
        ('[choices.f.x]\n[grid.g]\nname="{f}"\nlabel="{f}"\nf=["y"]', "unknown choice of f in grid g of toy 'y'"),
    ],
)  # fmt: skip
def test_a_misspelt_recipe_is_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        _read_recipe(path)
    assert str(path) in str(error.value)


GRID = """
[choices.fusion]
add = {label = "sum", args = {fusion = "add"}}
cross = {args = {fusion = "cross", heads = 2}, toy = 16}
[choices.loss]
ce = {name = ""}
spcl = {name = "_spcl", args = {loss = "spcl"}}
[systems.base]
label = "base"
notebook = "x"
model = "m:n"
args = {deep = true}
variants = {tuned = {lr = [0.1, 0.01]}}
[grid.all]
like = "base"
name = "{fusion}{loss}"
label = "{fusion}, {loss}"
fusion = ["add", "cross"]
loss = ["ce", "spcl"]
[artefacts.table1]
corpus = "demo"
rows = [{row = "{fusion}", each = {fusion = ["add", "cross"]}, systems = ["{fusion}", "{fusion}_spcl"]}]
"""


def test_a_grid_is_a_product(tmp_path):
    recipe = _read_recipe(write(tmp_path, GRID))
    assert list(recipe.systems) == ['base', 'add', 'add_spcl', 'cross', 'cross_spcl']
    both = recipe.systems['cross_spcl']
    assert (both.label, both.toy) == ('cross, spcl', 16)
    assert both.args == {'fusion': 'cross', 'heads': 2, 'loss': 'spcl'}
    assert both.variants == recipe.systems['base'].variants
    rows = recipe.artefact('table1').rows
    assert [r.row for r in rows] == ['sum', 'cross']
    assert [str(e.key) for e in rows[1].entries] == [
        'toy/cross:tuned@demo',
        'toy/cross_spcl:tuned@demo',
    ]


def test_like_overlays_hyperparameters():
    a, b = find_system('shapes/shift_paper'), find_system('shapes/shift_released')
    assert b.variants['paper'] == {**a.variants['paper'], 'class_weights': 'inverse'}
    assert b.args == {'reading': 'released'} and b.encode == a.encode


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'shift_paper'"):
        find_system('shapes/shift_papr')
    with pytest.raises(ValueError, match="did you mean 'shapes'"):
        load_recipe('shape')
    with pytest.raises(ValueError, match="unknown variant of shapes/shift_paper 'best'"):
        settings_of(find_system('shapes/shift_paper'), 'best')
    with pytest.raises(ValueError, match="did you mean 'table4'"):
        load_recipe('shapes').artefact('tabel4')


def test_recipes_of_the_user_are_found(tmp_path, monkeypatch):
    write(tmp_path, GRID, 'mine')
    monkeypatch.setenv('ERC_RECIPES', str(tmp_path))
    assert 'mine' in papers() and find_system('mine/cross').args['heads'] == 2
    monkeypatch.setattr(recipe_files, '_ADDED', {})
    monkeypatch.delenv('ERC_RECIPES')
    assert 'mine' not in papers() and _add_recipe(tmp_path / 'mine.toml') == 'mine'
    assert find_system('mine/add')
    with pytest.raises(ValueError, match='no recipe file'):
        _add_recipe(tmp_path / 'yours.toml')


def test_a_user_cannot_take_the_name_of_a_paper(tmp_path, monkeypatch):
    write(tmp_path, GRID, 'shapes')
    monkeypatch.setenv('ERC_RECIPES', str(tmp_path))
    with pytest.raises(ValueError, match='have one name'):
        papers()


def test_wanted_runs_are_keys_of_the_recipes():
    keys = wanted_runs('shapes')
    assert len(keys) == len(set(keys)) > 100
    assert all(k.variant in find_system(k.system_id).variants for k in keys)
    assert wanted_runs('shapes', ['mosi']) == [k for k in keys if k.corpus == 'mosi']
    assert RunKey.parse('shapes/gruarc:tuned@iemocap6') in keys
