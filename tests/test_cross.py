"The protocol on a small system: each fold by itself, every dialogue tested once, a seed the same in any grouping."

import dataclasses
import multiprocessing
import sys

import numpy as np
import pytest
from torch import nn

import erc.runs.fold as F
from erc.core import cache_home
from erc.data.registry import load_corpus
from erc.nn.cells import Out, dropout
from erc.runs import recipes
from erc.runs.fold import _cross_folds, _Job, _run_all_of_fold, _train_seed, _wanted_seeds
from erc.runs.prepare import _load_encoded, _split_batches
from erc.runs.recipes import find_system, settings_of
from erc.runs.records import find_record
from erc.runs.run import run_system
from erc.runs.stale import _missing_runs
from erc.training.loop import _order

FOLDS = [f'fold{i}' for i in range(1, 6)]
RATES = [1e-3, 3e-2]
TOY = """
seeds = 3
[systems.net]
label = "net"
notebook = ""
model = "test_cross:Net"
features = ["audio"]
corpora = ["demo"]
as_printed = true
[systems.net.variants]
tuned = {protocol = true, lr = [1e-3, 3e-2], epochs = 3, batch = 16}
paper = {epochs = 1, batch = 16}
[systems.after]
like = "net"
label = "after"
pretrain = {system = "net", parts = {body = "body"}}
[systems.floor]
label = "floor"
notebook = ""
kind = "baseline"
model = "erc.models.baselines:vector_logreg"
args = {features = ["audio"]}
corpora = ["demo"]
variants.tuned = {C = [0.003, 0.3]}
"""


class Net(nn.Module):
    "Two layers and a keyed dropout."

    def __init__(self, sizes, classes):
        super().__init__()
        self.body, self.out = nn.Linear(sizes['audio'], 8), nn.Linear(8, classes)

    def forward(self, batch):
        h = self.body(batch.features['audio']).tanh()
        return Out(self.out(dropout(h, 0.3, batch, 'h')))


def small_search():
    "Two epochs a point, and no wider grid."
    recipes._SEARCH.update(epochs=2, margin=1.0)


@pytest.fixture(scope='module', autouse=True)
def toy(tmp_path_factory):
    "A recipe of its own, and a cache of its own."
    folder = tmp_path_factory.mktemp('toy')
    (folder / 'toy.toml').write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ERC_RECIPES', str(folder))
        patch.setenv('ERC_CACHE', str(folder / 'cache'))
        for key, value in recipes._SEARCH.items():
            patch.setitem(recipes._SEARCH, key, value)
        small_search()
        yield


@pytest.fixture(scope='module')
def demo():
    return load_corpus('demo')


def system_of(name):
    return find_system(f'toy/{name}')


def job_of(name='net', fold='fold1', kind=_Job, **options):
    system = dataclasses.replace(system_of(name), **options)
    return kind(system, _load_encoded(system, 'demo')[0], fold=fold, progress=False)


def run(home, name='net', seeds=(0, 1), variant='tuned', **options):
    system, options = system_of(name), {'progress': False, **options}
    return run_system(system, system.key(variant, 'demo'), seeds=list(seeds), home=home, **options)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp('whole'))


def one_seed(record, fold, seed):
    "What a fold says of a seed, times aside."
    found = record.folds[fold]
    i = found.seeds.index(seed)
    by_seed = {k: getattr(found, k)[i] for k in ('selected', 'dev', 'test', 'predictions')}
    arrays = {**found.curves, **found.confusions}
    return {**by_seed, **{k: v[i] for k, v in arrays.items()}, 'facts': found.facts}


def dialogues(corpus, split):
    return set(corpus.table.dialogue[corpus.table.split == split])


# ---- folds


def test_every_dialogue_is_tested_once(whole, demo):
    assert whole.cross == FOLDS and list(whole.folds) == ['paper', *FOLDS]
    tested = []
    for fold in whole.cross:
        corpus = job_of(fold=fold).data(0)
        rows = corpus.rows('test')
        assert whole.folds[fold].predictions.shape == (2, len(rows))
        assert (
            whole.folds[fold].confusions['all'].sum() == 2 * (corpus.table.label[rows] >= 0).sum()
        )
        tested += sorted(dialogues(corpus, 'test'))
    assert len(tested) == len(set(tested)) and set(tested) == set(demo.table.dialogue)


def test_the_papers_split_takes_the_place_of_the_fold_that_it_is(demo):
    "As session 5 of IEMOCAP is."
    is_test = demo.table.split == 'test'
    session = np.where(is_test, '5', 1 + demo.table.dialogue.factorize()[0] % 4)
    sessions = demo.replace(table=demo.table.assign(session=session.astype(str)))
    cross = _cross_folds(system_of('net'), 'tuned', sessions)
    assert cross == ['session1', 'session2', 'session3', 'session4', 'paper']
    seeds = _wanted_seeds(system_of('net'), cross, range(5))
    assert list(seeds) == ['paper', *cross[:-1]]
    assert {k: len(v) for k, v in seeds.items()} == {'paper': 5, **dict.fromkeys(cross[:-1], 2)}


def test_settings_as_printed_are_run_on_the_papers_split_alone(tmp_path):
    record = run(tmp_path, variant='paper', seeds=[0])
    assert record.cross == [] and list(record.folds) == ['paper']
    assert 'search' not in record.settings and record.facts['tried'] == []
    with pytest.raises(ValueError, match="unknown fold 'fold1'"):
        run(tmp_path, variant='paper', folds=['fold1'])


def test_a_baseline_has_one_seed_and_a_choice_of_its_own_in_each_fold(tmp_path):
    record = run(tmp_path, 'floor', range(5))
    assert record.cross == FOLDS and {tuple(f.seeds) for f in record.folds.values()} == {(0,)}
    assert all([t['C'] for t in f.facts['tried']] == [0.003, 0.3] for f in record.folds.values())
    devs = [f.facts['tried'][0]['dev'] for f in record.folds.values()]
    assert len(set(devs)) == len(devs)


@pytest.mark.parametrize('fold', ['paper', 'fold2'])
def test_inputs_are_standardised_on_the_training_rows_of_the_fold(fold):
    job = job_of(fold=fold)
    corpus = job.data(0)
    train = corpus.rows('train')
    z = corpus.features['audio'][train][corpus.has['audio'][train]]
    assert np.abs(z.mean(0)).max() < 1e-5 and np.abs(z.std(0) - 1).max() < 1e-3
    raw = job.corpus.features['audio'].copy()
    others = np.setdiff1d(np.arange(len(raw)), train)
    raw[others] = 7 * raw[others] + 100
    changed = dataclasses.replace(job, corpus=job.corpus.with_features(audio=raw)).data(0)
    assert np.array_equal(changed.features['audio'][train], corpus.features['audio'][train])
    assert not np.allclose(changed.features['audio'][others], corpus.features['audio'][others])


# ---- the search


def test_each_fold_searches_alone(whole):
    tried = {name: fold.facts['tried'] for name, fold in whole.folds.items()}
    assert all([t['lr'] for t in points] == RATES for points in tried.values())
    assert len({t['dev'] for points in tried.values() for t in points}) == 2 * len(tried)
    for name, fold in whole.folds.items():
        best = max(tried[name], key=lambda t: t['dev'])
        assert fold.facts['chosen']['lr'] == best['lr'] and fold.facts['chosen']['epochs'] == 3


def test_the_search_trains_seed_0_shortly_and_every_seed_takes_what_it_found(monkeypatch):
    trained = []

    def noted(job, seed, point, begin=None):
        trained.append((job.fold, seed, point['lr'], point['epochs'], job.system.watch))
        return _train_seed(job, seed, point, begin)

    monkeypatch.setattr(F, '_train_seed', noted)
    job, settings = job_of(), settings_of(system_of('net'), 'tuned')
    (fold,) = _run_all_of_fold(job, settings, [1], {})
    lr = fold.facts['chosen']['lr']
    search = [('fold1', 0, rate, 2, False) for rate in RATES]
    assert trained == [*search, ('fold1', 1, lr, 3, True)], 'test is not scored in a search'
    trained.clear()
    other = next(rate for rate in RATES if rate != lr)
    list(_run_all_of_fold(job, settings, [2], {'chosen': {**fold.facts['chosen'], 'lr': other}}))
    assert trained == [('fold1', 2, other, 3, True)], 'a fold that has seeds is not searched again'


def test_a_grid_without_a_search_of_its_own_trains_its_best_point_once(monkeypatch, tmp_path):
    "It is as long as the final run, which finds it finished."
    steps, step = [], F.fit

    def counted(*args, **options):
        made = step(*args, **options)
        steps.append(made.seconds)
        return made

    monkeypatch.setattr(F, 'fit', counted)
    system = dataclasses.replace(
        system_of('net'), variants={'tuned': {'lr': RATES, 'epochs': 2, 'batch': 16}}
    )
    record = run_system(system, 'toy/net:tuned@demo', seeds=[0], home=tmp_path, progress=False)
    assert list(record.folds) == ['paper'] and len(steps) == 3
    assert record.curves['test'].shape == (1, 2) and np.isfinite(record.curves['test']).all()
    assert record.dev[0] == max(t['dev'] for t in record.facts['tried'])


class Shuffled(_Job):
    "A job whose test labels are shuffled."

    def split(self, seed):
        corpus = super().split(seed)
        table, rows = corpus.table.copy(), corpus.rows('test')
        table.loc[rows, 'label'] = np.random.default_rng(0).permutation(table.label[rows])
        return corpus.replace(table=table)


@pytest.mark.parametrize('name', ['net', 'after', 'floor'])
def test_nothing_that_selects_in_a_fold_sees_its_test_labels(name):
    settings = settings_of(system_of(name), 'tuned')
    a, b = (
        next(iter(_run_all_of_fold(job_of(name, kind=kind), settings, [0], {})))
        for kind in (_Job, Shuffled)
    )
    assert (a.selected, a.dev, a.facts) == (b.selected, b.dev, b.facts)
    assert np.array_equal(a.predictions, b.predictions) and a.test != b.test
    for curve in {'dev', 'loss'} & set(a.curves):
        assert np.array_equal(a.curves[curve], b.curves[curve])
    if name != 'floor':
        assert not np.array_equal(a.curves['test'], b.curves['test']), 'only the report looks'


# ---- seeds


def test_seeds_have_their_own_batches_and_their_own_order(monkeypatch):
    job, settings = job_of(), settings_of(system_of('net'), 'tuned')['hyperparameters']
    corpus = job.data(0)
    first = [_split_batches(job.system, corpus, settings, seed)[0][0] for seed in (0, 0, 1)]
    ids = [set(batch.ids.tolist()) for batch in first]
    assert ids[0] == ids[1] != ids[2]
    assert _order(0, 0, 9).tolist() != _order(1, 0, 9).tolist() != _order(1, 1, 9).tolist()
    told = []
    monkeypatch.setattr(F, 'fit', lambda *a, **options: told.append(options))
    for seed in (0, 3):
        _train_seed(job, seed, {**settings, 'lr': 1e-3})
    assert [(options['seeds'], options['shuffle']) for options in told] == [([0], 0), ([3], 3)]


def test_seeds_cut_dev_anew_where_it_is_ours(demo):
    a, b = (job_of().data(seed) for seed in (0, 1))
    assert dialogues(a, 'dev') != dialogues(b, 'dev')
    assert dialogues(a, 'test') == dialogues(b, 'test')
    for own_dev in (True, False):
        corpus = demo.replace(provenance={**demo.provenance, 'own_dev': own_dev})
        job = dataclasses.replace(job_of(fold='paper'), corpus=corpus)
        cuts = [dialogues(job.data(seed), 'dev') for seed in (0, 1)]
        assert (cuts[0] == cuts[1]) == own_dev


def same(a, b, folds=('paper', 'fold3'), seeds=(0, 1)):
    for fold in folds:
        for seed in seeds:
            np.testing.assert_equal(one_seed(a, fold, seed), one_seed(b, fold, seed))


def test_a_seed_alone_is_the_seed_among_others(whole, tmp_path):
    alone = run(tmp_path, seeds=[1], folds=['paper', 'fold3'])
    assert [fold.seeds for fold in alone.folds.values()] == [[1], [1]]
    same(whole, alone, seeds=[1])
    same(whole, run(tmp_path, seeds=[0, 1, 2], folds=['fold3', 'paper']))


def test_a_seed_after_an_interruption_is_the_same(whole, tmp_path, monkeypatch):
    "Whether the run stopped in the search or in a seed, in the first fold or in the next."
    fit = F.fit

    def interrupted_at(n):
        calls = iter(range(1000))

        def stopping(*args, watch=None, **options):
            if next(calls) != n:
                return fit(*args, watch=watch, every=0.0, **options)

            def stop(engine, epoch):
                if epoch == 1:
                    raise KeyboardInterrupt
                if watch:
                    watch(engine, epoch)

            stop.state = watch.state if watch else lambda engine: {}
            stop.load = watch.load if watch else lambda engine, saved: None
            return fit(*args, watch=stop, every=0.0, **options)

        return stopping

    for n in (1, 2, 3, 6):
        monkeypatch.setattr(F, 'fit', interrupted_at(n))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / str(n), folds=['paper', 'fold3'])
        assert list(cache_home().rglob('*.safetensors'))
        monkeypatch.setattr(F, 'fit', fit)
        same(whole, run(tmp_path / str(n), folds=['paper', 'fold3']))
    assert not list(cache_home().rglob('*.safetensors'))


# ---- pretraining


def test_pretraining_happens_inside_the_fold(monkeypatch):
    "No test dialogue of the fold is in train or dev of what is trained before; dev is the seed's own."
    seen = []

    def noted(job, seed, point, begin=None):
        seen.append((job, job.data(seed), seed))
        return _train_seed(job, seed, point, begin)

    monkeypatch.setattr(F, '_train_seed', noted)
    job = job_of('after', watch=False)
    fold = list(_run_all_of_fold(job, settings_of(system_of('after'), 'tuned'), [0, 1], {}))[0]
    before = [(corpus, seed) for own, corpus, seed in seen if own.system.name == 'net']
    assert [seed for _, seed in before] == [0, 0, 0, 0, 1], 'search, then one for each seed'
    for corpus, seed in before:
        mine = job.data(seed)
        for split in ('train', 'dev', 'test'):
            assert dialogues(corpus, split) == dialogues(mine, split)
        assert not dialogues(mine, 'test') & (dialogues(corpus, 'train') | dialogues(corpus, 'dev'))
    assert [t['lr'] for t in fold.facts['tried_before']] == RATES
    assert fold.facts['pretrained']['lr'] in RATES


# ---- several processes


def shard(task):
    folder, cache, folds = task
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ERC_RECIPES', folder)
        patch.setenv('ERC_CACHE', cache)
        small_search()
        run(folder, folds=folds)


@pytest.mark.skipif(sys.platform == 'win32', reason='spawned workers cannot import this module')
def test_folds_run_by_two_processes_are_one_record(whole, tmp_path):
    (tmp_path / 'toy.toml').write_text(TOY)
    shards = [['paper', 'fold1', 'fold2'], ['fold3', 'fold4', 'fold5']]
    tasks = [(str(tmp_path), str(tmp_path / 'cache'), folds) for folds in shards]
    with multiprocessing.get_context('spawn').Pool(2) as pool:
        pool.map(shard, tasks, 1)
    found = find_record('toy/net:tuned@demo', tmp_path)
    assert list(found.folds) == ['paper', *FOLDS] == list(whole.folds) and found.cross == FOLDS
    same(whole, found, found.folds)
    assert all(len(f.environments) == len(f.seconds) == 2 for f in found.folds.values())


def test_missing_runs_name_the_folds_that_lack_seeds(tmp_path):
    def why():
        return _missing_runs('toy', home=tmp_path, seeds=3).why.get('toy/net:tuned@demo')

    assert why() == 'absent'
    run(tmp_path, seeds=[0], folds=['paper', 'fold2'])
    lacking = ['1 of 3 seeds of paper', '0 of 2 seeds of fold1', '1 of 2 seeds of fold2']
    lacking += [f'0 of 2 seeds of {fold}' for fold in FOLDS[2:]]
    assert why() == ', '.join(lacking)
    run(tmp_path, seeds=[0, 1, 2], folds=['paper'])
    run(tmp_path, seeds=[0, 1, 2], folds=FOLDS[:-1])
    assert why() == '0 of 2 seeds of fold5'
    run(tmp_path, seeds=[0, 1, 2])
    assert why() is None
