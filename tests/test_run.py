"From recipe to record: what is run, what is kept, and that nothing which selects sees a test label."

import dataclasses
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import erc.runs.fold as F
import erc.runs.run as R
from erc.core import root
from erc.data.registry import load_corpus
from erc.runs.fold import _Job, _train_seed
from erc.runs.prepare import (
    _load_encoded,
    _make_deterministic,
    _prepare,
    check_device,
    class_weights,
    scorer,
)
from erc.runs.recipes import find_system, settings_of
from erc.runs.records import find_record, save_record
from erc.runs.run import run_system
from erc.training.settings import complete

SMALL = {'epochs': 2, 'batch': 32, 'lr': 3e-3}
KEY = 'shapes/shift_released:paper@demo'


def demo_system(name='shapes/shift_released', **changes):
    return dataclasses.replace(find_system(name), encoder='hashing', **changes)


def run(home, seeds=(0, 1), system=None, key=KEY, demo=SMALL):
    return run_system(
        system or demo_system(), key, seeds=list(seeds), home=home, demo=demo, progress=False
    )


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    home = tmp_path_factory.mktemp('home')
    return run(home), home


def test_seconds_are_counted_once(tmp_path):
    start = time.perf_counter()
    record = run(tmp_path)
    assert 0 < record.seconds <= time.perf_counter() - start


# ---- preparing


def test_class_weights():
    labels = np.array([0, 0, 0, 1, -1])
    assert np.allclose(class_weights('inverse', labels, 'ab'), [4 / 3, 4])
    assert np.allclose(class_weights('swapped', labels, 'ab'), [4, 4 / 3])
    assert class_weights('none', labels, 'ab') is None
    assert list(class_weights([1, 2], labels, 'ab')) == [1, 2]
    assert list(class_weights({'b': 3, 'a': 1}, labels, 'ab')) == [1, 3]
    for wrong in ([1], [-1, 1], [float('nan'), 1], [0, 0]):
        with pytest.raises(ValueError, match='weights'):
            class_weights(wrong, labels, 'ab')
    with pytest.raises(ValueError, match='no weight for class b'):
        class_weights({'a': 1}, labels, 'ab')
    with pytest.raises(ValueError, match="unknown class of weights 'c'"):
        class_weights({'a': 1, 'b': 1, 'c': 1}, labels, 'ab')
    with pytest.raises(ValueError, match="class 'c' has no training row"):
        class_weights('inverse', labels, 'abc')
    with pytest.raises(ValueError, match="did you mean 'inverse'"):
        class_weights('invers', labels, 'ab')


def test_a_metric_must_fit_the_labels():
    demo = load_corpus('demo')
    with pytest.raises(ValueError, match='whose labels are classes'):
        scorer(demo, 'dev', 'pearson_r')
    with pytest.raises(ValueError, match="select on 'pearson_r'"):
        scorer(demo.replace(task='regression'), 'dev', 'mse')


def test_an_unavailable_device_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr('erc.runs.prepare.resolve', lambda *a: pytest.fail('loaded first'))
    for device in ('cuda:99', 'abacus'):
        with pytest.raises(ValueError, match=f"device '{device}' is unavailable .+use 'cpu'"):
            _prepare(find_system('shapes/shift_paper'), 'mosi', device)
    assert check_device('cpu') == 'cpu'


# ---- one system trained before another


def test_pretrained_parts_are_those_of_the_first_system(tmp_path, monkeypatch):
    system, began, fitted = demo_system('shapes/gruarc'), [], F.fit

    def watched(*args, begin=None, seeds, **options):
        trained = fitted(*args, begin=begin, seeds=seeds, **options)
        head = getattr(next(trained.modules()), 'head', None)
        weight = head.classifier.weight.clone() if hasattr(head, 'classifier') else None
        began.append((seeds[0], options['settings']['lr'], begin, weight))
        return trained

    monkeypatch.setattr(F, 'fit', watched)
    rates = [1e-3, 1e-2]
    made = run(tmp_path, system=system, key='shapes/gruarc:tuned@demo', demo={**SMALL, 'lr': rates})
    first = [(seed, lr, head) for seed, lr, begin, head in began if begin is None]
    chosen = made.facts['pretrained']['lr']
    assert [x[:2] for x in first] == [(0, lr) for lr in rates] + [(0, chosen)] * 2 + [(1, chosen)]
    heads = {seed: head for seed, lr, head in first if lr == chosen}
    after = [(seed, begin[seed]) for seed, _, begin, _ in began if begin]
    assert [seed for seed, _ in after] == [0, 0, 0, 1], 'two rates, then two seeds'
    for seed, begin in after:
        assert torch.equal(begin['shift.classifier.weight'], heads[seed])
    assert made.settings['pretrain']['settings']['hyperparameters']['epochs'] == SMALL['epochs']
    whole, dialogues = int(made.confusions['all'][0].sum()), made.confusions['all'].shape[1]
    decided = made.confusions['shift_network'].sum((1, 2, 3)).tolist()
    assert decided == [whole - dialogues] * 2, 'every turn but the first of each dialogue'
    alone = dataclasses.replace(system, pretrain={})
    assert settings_of(system, 'tuned') != settings_of(alone, 'tuned')


def test_weights_of_a_further_target(monkeypatch):
    system, made = demo_system('shapes/gruarc_released'), []
    corpus, _ = _load_encoded(system, 'demo')
    monkeypatch.setattr(F, 'fit', lambda make, *a, **k: made.append(make()))
    _train_seed(_Job(system, corpus), 0, complete({}))
    inertia = corpus.table.inertia[corpus.table.split == 'train']
    frequencies = [len(inertia) / (inertia == k).sum() for k in (0, 1)]
    assert np.allclose(made[0].shift_weights, frequencies)


# ---- the record


def test_deterministic_algorithms_are_recorded_and_change_nothing_on_a_cpu(
    done, tmp_path, monkeypatch
):
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    try:
        _make_deterministic()
        assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
        made = run(tmp_path)
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop('CUBLAS_WORKSPACE_CONFIG', None)
    assert np.array_equal(made.curves['dev'], done[0].curves['dev'])
    assert all(e['deterministic'] for e in made.environments)
    assert not any('deterministic' in e for e in done[0].environments)


def test_deterministic_algorithms_come_before_a_gpu_is_used(monkeypatch):
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    with pytest.raises(RuntimeError, match='in use already'):
        _make_deterministic()


def test_a_record_says_what_was_done(done):
    made, home = done
    n = int(made.confusions['all'][0].sum())
    assert made.seeds == [0, 1] and len(made.test) == len(made.environments) == 2
    assert made.curves['dev'].shape == made.curves['test'].shape == (2, 2)
    assert made.predictions.shape == (2, n) and made.predictions.dtype == np.int8
    assert set(made.confusions) == {'all', 'two_utterances'}
    for i in range(2):
        assert abs(made.test[i] - made.curves['test'][i, made.selected[i]]) < 1e-6
    assert [np.nanargmax(c) for c in made.curves['dev']] == made.selected
    text = made.key.path(home).read_text()
    assert not any(t in text for t in load_corpus('demo').table.text if len(t) > 12), (
        'no transcript'
    )


def test_adding_seeds_equals_running_them_all(done, tmp_path):
    _, home = done
    more, fresh = run(home, [0, 1, 2]), run(tmp_path, [0, 1, 2])
    assert more.seeds == [0, 1, 2] and more.selected == fresh.selected
    assert np.array_equal(more.predictions, fresh.predictions)
    assert np.array_equal(more.curves['dev'], fresh.curves['dev'])


def test_a_record_that_is_there_is_not_run_again(done):
    made, home = done
    before = made.key.path(home).read_bytes()
    run(home)
    assert made.key.path(home).read_bytes() == before


@pytest.mark.parametrize(
    'name,variant', [('baselines/majority', 'fixed'), ('shapes/corpus_counts', 'fixed')]
)
def test_baselines_and_facts_that_are_there_stay_as_they_are(tmp_path, name, variant):
    key = f'{name}:{variant}@demo'
    made = run_system(find_system(name), key, home=tmp_path)
    before = made.key.path(tmp_path).read_bytes()
    run_system(find_system(name), key, home=tmp_path)
    assert made.key.path(tmp_path).read_bytes() == before


def test_other_settings_start_a_new_record(tmp_path):
    run(tmp_path)
    assert run(tmp_path, [5], demo={**SMALL, 'lr': 1e-3}).seeds == [5]


def test_seeds_of_another_encoder_do_not_join(done, tmp_path):
    save_record(dataclasses.replace(done[0], encoders={'sentence': {'files': 'another'}}), tmp_path)
    new = run(tmp_path, [0, 1, 2])
    assert new.encoders['sentence']['encoder'] == 'hashing'
    assert new.seeds == [0, 1, 2], 'all seeds ran again'


def test_seeds_that_another_process_added_meanwhile_are_kept(tmp_path, monkeypatch):
    first, train = run(tmp_path / 'other', [0]), R._run_all_of_fold

    def slow(*args, **options):
        for fold in train(*args, **options):
            save_record(first, tmp_path)
            yield fold

    monkeypatch.setattr(R, '_run_all_of_fold', slow)
    assert run(tmp_path, [1]).seeds == [0, 1]


@pytest.mark.parametrize('cut', [0, 7])
def test_a_record_says_what_an_encoder_cut(tmp_path, monkeypatch, cut):
    def cutting(*args):
        corpus, digest = _load_encoded(*args)
        return corpus.replace(provenance={**corpus.provenance, 'cut': {'text': cut}}), digest

    monkeypatch.setattr(R, '_load_encoded', cutting)
    assert run(tmp_path, [0]).facts.get('cut') == ({'text': 7} if cut else None)


# ---- what goes wrong


def broken_model(monkeypatch, at_seed=None):
    "A shift network whose logits are NaN, for one seed or for all."
    from erc.models.shift import ShiftNet

    class Broken(ShiftNet):
        def forward(self, batch):
            out = super().forward(batch)
            if at_seed is None:
                bad = float('nan') if len(batch) > 20 else 0.0
            elif batch.seed is None:
                return out
            else:
                bad = torch.where(batch.seed == at_seed, float('nan'), 0.0)
            return dataclasses.replace(out, logits=out.logits + bad)

    monkeypatch.setattr('erc.models.shift.Broken', Broken, raising=False)
    return 'erc.models.shift:Broken'


def test_a_run_without_a_finite_loss_writes_nothing(tmp_path, monkeypatch):
    system = demo_system(model=broken_model(monkeypatch))
    with (
        pytest.warns(UserWarning, match='seed [01] never had a finite loss') as warned,
        pytest.raises(ValueError, match='no seed had a finite loss'),
    ):
        run(tmp_path, system=system)
    assert sum('never had' in str(w.message) for w in warned) == 2, 'each seed is named'
    assert not list(tmp_path.rglob('*.json'))


@pytest.mark.parametrize('vectorise', [True, False])
def test_a_seed_without_a_finite_loss_leaves_the_others_their_record(
    tmp_path, monkeypatch, vectorise
):
    system = demo_system(model=broken_model(monkeypatch, 1), vectorise=vectorise, watch=True)
    with pytest.warns(
        UserWarning, match='seed 1 never had a finite loss.*the record leaves it out'
    ):
        made = run(tmp_path, [0, 1, 2], system)
    sound = dataclasses.replace(system, model='erc.models.shift:ShiftNet')
    whole = run(tmp_path / 'whole', [0, 2], sound)
    assert made.seeds == [0, 2] and len(find_record(KEY, tmp_path).test) == 2
    assert np.array_equal(made.predictions, whole.predictions)
    assert np.array_equal(made.curves['test'], whole.curves['test'])


def test_a_correlation_below_zero_is_a_score(monkeypatch, tmp_path):
    scored = F.scorer
    monkeypatch.setattr(F, 'scorer', lambda *a: lambda predictions: -0.5 * scored(*a)(predictions))
    made = run(tmp_path, [0])
    assert made.seeds == [0] and -0.5 < made.dev[0] < 0


def test_test_labels_change_nothing_but_the_score(tmp_path, monkeypatch):
    "With shuffled test labels the same epochs are chosen and the same classes predicted."
    from erc.studies.shapes import load_pairs

    def shuffled(name, **options):
        corpus = load_pairs(name, **options)
        table, rows = corpus.table.copy(), corpus.rows('test')
        table.loc[rows, 'label'] = np.random.default_rng(0).permutation(
            table.label.to_numpy()[rows]
        )
        return corpus.replace(table=table)

    monkeypatch.setattr('erc.models.shift.shuffled', shuffled, raising=False)
    a = run(tmp_path / 'a')
    b = run(tmp_path / 'b', system=demo_system(data='erc.models.shift:shuffled'))
    assert a.selected == b.selected and np.array_equal(a.predictions, b.predictions)
    assert np.array_equal(a.curves['dev'], b.curves['dev']) and a.test != b.test


def test_recorded_needs_no_corpus_and_trains_nothing(tmp_path):
    "A process without corpora, cache or network draws a table from results/."
    code = (
        'from erc.report.section import Section; '
        f"s = Section('shapes', '400_shift', out={str(tmp_path)!r}); s.run(); print(s.table('table6').state)"
    )
    cache = tmp_path / 'cache'
    where = {'ERC_DATA': str(tmp_path / 'none'), 'ERC_CACHE': str(cache), 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=root(),
        env={**os.environ, **where},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'tables' / 'shapes_table6.csv').exists()
    assert not list(cache.rglob('*.safetensors')), 'no checkpoint, no encoded text'
