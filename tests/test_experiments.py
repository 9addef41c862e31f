"From recipe to record: what decides a result, when it is stale, what is missing, and that adding seeds changes nothing."

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import erc.runs.run as X
from erc.runs.recipes import GRID, grid, load_recipe, papers, settings_of, system, wanted, wired
from erc.report.section import Section, jobs
from erc.runs.run import class_weights, run_system, toy_fingerprint
from erc.runs.stale import missing, stale
from erc.runs.records import Record, all_records, find_record, load_record, merge, save_record
from erc.training.settings import complete

ROOT = Path(__file__).resolve().parents[1]
SMALL = {'epochs': 2, 'batch': 32, 'lr': 3e-3}


def demo_system(name='shapes/shift_released'):
    return dataclasses.replace(system(name), encoder='hashing')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp('home')
    return run_system(
        demo_system(), 'demo', 'paper', seeds=[0, 1], home=home, demo=SMALL, progress=False
    ), home


# ---- recipes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('paper', papers())
def test_every_system_resolves(paper):
    from erc.core import resolve

    recipe = load_recipe(paper)
    rows = [
        r for a in recipe.get('artefacts', {}).values() for r in a.get('rows', [])
    ]  # some wait for files that are to be fetched
    waiting = {s for s, _ in wired(paper, recipe)} | {
        f'{paper}/{e.partition("/")[0]}'
        for r in rows
        if r.get('needs')
        for e in r.get('systems', [])
        if isinstance(e, str)
    }
    for s in recipe['systems'].values():
        assert callable(resolve(s.model)) and callable(resolve(s.data)) and s.settings
        assert s.corpora or s.id in waiting
        for hook in (s.slices, s.probe):
            if hook:
                assert callable(resolve(hook))
        for k in s.settings:
            assert grid(settings_of(s, k)['setting'])


def test_the_common_grid_is_common():
    for s in load_recipe('shapes')['systems'].values():
        if s.kind == 'model' and s.vectorise:
            assert {k: settings_of(s, 'tuned')['setting'][k] for k in GRID} == GRID, s.id


@pytest.mark.parametrize(
    'bad,message',
    [
        (
            '[systems.a]\nlabel="a"\nnotebook="x"\nmodel="m:n"\ncorpra=["demo"]',
            "unknown key of system a in toy.toml 'corpra'; did you mean 'corpora'",
        ),
        ('[systems.a]\nlike="b"', "unknown system that a is like 'b'"),
        ('[systems.a]\nlabel="a"\nnotebook="x"\nmodel="m:n"\nkind="modle"', "did you mean 'model'"),
    ],
)
def test_a_misspelt_recipe_is_refused(tmp_path, monkeypatch, bad, message):
    (tmp_path / 'recipes').mkdir()
    (tmp_path / 'recipes' / 'toy.toml').write_text(bad)
    monkeypatch.setattr(X, 'package_file', lambda name: tmp_path / name)
    with pytest.raises(ValueError, match=message):
        load_recipe('toy')


def test_like_lays_settings_over_each_other():
    a, b = system('shapes/shift_paper'), system('shapes/shift_released')
    assert (
        b.settings['paper'] == {**a.settings['paper'], 'class_weights': 'inverse'}
        and b.args == {'reading': 'released'}
        and b.encode == a.encode
    )


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'shapes/shift_paper'"):
        system('shapes/shift_papr')
    with pytest.raises(ValueError, match='unknown setting of shapes/shift_paper'):
        settings_of(system('shapes/shift_paper'), 'best')
    with pytest.raises(ValueError, match='unknown corpus of 400_shift'):
        Section('shapes', '400_shift', corpora='released_mosei,meld')
    with pytest.raises(ValueError, match='seeds=-1'):
        Section('shapes', '400_shift', seeds=-1)


def test_number_of_seeds():
    "What was asked for; else what the profile has; else what the paper ran, if its recipe says so; else five."
    n = lambda paper, notebook, **k: max(
        len(seeds) for s, _, _, seeds, _ in jobs(Section(paper, notebook, **k)) if s.kind == 'model'
    )
    assert (
        n('shapes', '400_shift', profile='full') == 5
        and n('shapes', '400_shift', profile='demo') == load_recipe('shapes')['demo']['seeds']
    )
    assert (
        n('sagru', '700_sagru', profile='full') == load_recipe('sagru')['seeds'] == 20
        and n('sagru', '700_sagru', profile='full', seeds=3) == 3
    )
    assert n('sagru', '700_sagru', profile='demo') == load_recipe('sagru')['demo']['seeds'] == 2


def test_class_weights():
    y = np.array([0, 0, 0, 1, -1])
    assert np.allclose(class_weights('inverse', y, 'ab'), [4 / 3, 4]) and np.allclose(
        class_weights('swapped', y, 'ab'), [4, 4 / 3]
    )
    assert class_weights('none', y, 'ab') is None and list(class_weights([1, 2], y, 'ab')) == [1, 2]
    with pytest.raises(ValueError, match="class 'c' has no training row"):
        class_weights('inverse', y, 'abc')


# ---- one system trained before another ---------------------------------------------------------------------


def test_what_another_system_trains_first_is_where_it_begins(tmp_path, monkeypatch):
    "The parts are those of the first system alone, under the same demonstration; the record says which grid point it took."
    s, began = demo_system('shapes/gruarc'), []
    fitted = X.fit

    def watched(*args, begin=None, **k):
        f = fitted(*args, begin=begin, **k)
        began.append(
            (
                begin,
                [
                    m.head.classifier.weight.clone()
                    if hasattr(m, 'head') and hasattr(m.head, 'classifier')
                    else None
                    for m in f.modules()
                ],
            )
        )
        return f

    monkeypatch.setattr(X, 'fit', watched)
    rec = run_system(
        s,
        'demo',
        'tuned',
        seeds=[0, 1],
        home=tmp_path,
        demo={**SMALL, 'lr': [1e-3, 1e-2]},
        progress=False,
    )
    assert [b is None for b, _ in began] == [True, True, False, False], (
        'two grid points each, the shift network first'
    )
    first = began[[1e-3, 1e-2].index(rec.facts['pretrained']['lr'])][1]
    for seed in (0, 1):
        assert torch.equal(began[2][0][seed]['shift.classifier.weight'], first[seed])
    assert rec.settings['pretrain']['settings']['setting']['epochs'] == SMALL['epochs']
    n = rec.confusions['shift_network'].sum((1, 2, 3)).tolist()
    assert n == [int(rec.confusions['all'][0].sum()) - rec.confusions['all'].shape[1]] * 2, (
        'every turn but the first of each dialogue'
    )
    assert settings_of(s, 'tuned') != settings_of(dataclasses.replace(s, pretrain={}), 'tuned')


def test_weights_of_a_further_target(monkeypatch):
    s = demo_system('shapes/gruarc_released')
    c, _ = X.prepare(s, 'demo')
    made = []
    monkeypatch.setattr(X, 'fit', lambda make, *a, **k: made.append(make()))
    X.train_one(s, c, X.complete({}), [0], 'cpu', False)
    y = c.table.inertia[c.table.split == 'train']
    assert np.allclose(made[0].shift_weights, [len(y) / (y == 0).sum(), len(y) / (y == 1).sum()])


# ---- records ----------------------------------------------------------------------------------------------


def test_record_says_what_was_done(run):
    rec, home = run
    assert (
        rec.seeds == [0, 1]
        and len(rec.test) == 2
        and rec.curves['dev'].shape == rec.curves['test'].shape == (2, 2)
    )
    n = int(rec.confusions['all'][0].sum())
    assert rec.predictions.shape == (2, n) and rec.predictions.dtype == np.int8
    assert rec.confusions['all'].sum((1, 2, 3)).tolist() == [n, n] and set(rec.confusions) == {
        'all',
        'two_utterances',
    }
    for i in range(2):
        assert abs(rec.test[i] - rec.curves['test'][i, rec.selected[i]]) < 1e-6, (
            'the test score is that of the selected epoch'
        )
    assert [np.nanargmax(c) for c in rec.curves['dev']] == rec.selected
    again = find_record(rec.system, 'demo', 'paper', home)
    assert (
        again.confusions['all'].tolist() == rec.confusions['all'].tolist()
        and again.settings == rec.settings
    )
    text = (home / 'records' / 'shapes' / 'shift_released--demo--paper.json').read_text()
    from erc.data.registry import load_corpus

    assert not any(t in text for t in load_corpus('demo').table.text if len(t) > 12), (
        'no transcript in a record'
    )


def test_adding_seeds_equals_running_them_all(run, tmp_path):
    rec, home = run
    more = run_system(
        demo_system(), 'demo', 'paper', seeds=[0, 1, 2], home=home, demo=SMALL, progress=False
    )
    fresh = run_system(
        demo_system(), 'demo', 'paper', seeds=[0, 1, 2], home=tmp_path, demo=SMALL, progress=False
    )
    assert more.seeds == [0, 1, 2] and more.selected == fresh.selected
    assert np.array_equal(more.predictions, fresh.predictions) and np.allclose(
        more.curves['dev'], fresh.curves['dev'], atol=1e-6
    )


def test_a_record_that_is_there_is_not_run_again(run):
    rec, home = run
    path = home / 'records' / 'shapes' / 'shift_released--demo--paper.json'
    before = path.read_bytes()
    run_system(demo_system(), 'demo', 'paper', seeds=[0, 1], home=home, demo=SMALL, progress=False)
    assert path.read_bytes() == before


def test_other_settings_start_a_new_record(run):
    rec, home = run
    other = run_system(
        demo_system(),
        'demo',
        'paper',
        seeds=[5],
        home=home,
        demo={**SMALL, 'lr': 1e-3},
        progress=False,
    )
    assert other.seeds == [5]
    with pytest.raises(ValueError, match='settings_hash differs'):
        merge(rec, other)
    run_system(demo_system(), 'demo', 'paper', seeds=[0, 1], home=home, demo=SMALL, progress=False)


@pytest.mark.parametrize('cut', [0.3, 0.9])
def test_a_cut_record_is_refused(run, tmp_path, cut):
    rec, home = run
    path = save_record(rec, tmp_path)
    text = path.read_text()
    path.write_text(text[: int(cut * len(text))])
    with pytest.raises(ValueError, match='not a whole record'):
        load_record(path)


def test_an_edited_record_is_refused(run, tmp_path):
    rec, home = run
    path = save_record(rec, tmp_path)
    d = json.loads(path.read_text())
    d['test'][0] = 0.99
    path.write_text(json.dumps(d))
    with pytest.raises(ValueError, match='never edited'):
        load_record(path)


def test_a_large_probe_is_refused(run, tmp_path):
    rec = dataclasses.replace(run[0], probes={'z': np.zeros((300, 300))})
    with pytest.raises(ValueError, match="probe 'z'"):
        save_record(rec, tmp_path)
    assert not list(tmp_path.rglob('*.json')), 'nothing is written'


# ---- staleness and what is missing ------------------------------------------------------------------------


def recorded(setting='paper', **changes):
    s = system('shapes/shift_paper')
    return dataclasses.replace(
        Record(
            s.id,
            'released_mosei',
            setting,
            settings_of(s, setting),
            fingerprint=toy_fingerprint(s),
            seeds=[0, 1, 2, 3, 4],
        ),
        **changes,
    )


def test_stale():
    rec = recorded()
    assert stale(rec) is None
    assert (
        stale(dataclasses.replace(rec, settings={**rec.settings, 'metric': 'accuracy'}))
        == 'settings changed: metric'
    )
    assert 'something else' in stale(
        dataclasses.replace(rec, fingerprint=[v * 1.0001 for v in rec.fingerprint])
    )
    assert 'no recipe' in stale(
        dataclasses.replace(rec, system='shapes/gone')
    ) and 'no recipe' in stale(dataclasses.replace(rec, setting='gone'))


@pytest.fixture
def no_corpora(tmp_path, monkeypatch):
    "As in a clone without corpora."
    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'none'))
    X.data_digest.cache_clear()
    yield
    X.data_digest.cache_clear()


def test_missing(tmp_path, no_corpora):
    want = {(s.id, c, k) for s, c, k in wanted('shapes')}
    find = lambda: {
        tuple(r[:3]): r[3] for r in missing('shapes', home=tmp_path).itertuples(index=False)
    }
    assert set(find()) == want and set(find().values()) == {'absent'}
    key = ('shapes/shift_paper', 'released_mosei', 'paper')
    save_record(recorded(seeds=[0]), tmp_path)
    assert find()[key] == '1 of 5 seeds'
    save_record(recorded(fingerprint=[1.0, 2.0, 3.0]), tmp_path)
    assert 'something else' in find()[key]
    save_record(recorded(), tmp_path)
    assert key not in find() and len(find()) == len(want) - 1


def test_changed_data_or_encoder_makes_a_record_stale(run, tmp_path, monkeypatch, data):
    from erc.studies.shapes import load_pairs

    digest = load_pairs('released_iemocap4').digest()
    rec = recorded(data_digest=digest, corpus='released_iemocap4')
    assert stale(rec, data=True) is None
    assert stale(dataclasses.replace(rec, data_digest='0' * 64)) is None, (
        'a quick look does not load corpora'
    )
    assert stale(dataclasses.replace(rec, data_digest='0' * 64), data=True) == 'the corpus changed'
    monkeypatch.setattr(X, 'encoder_path', lambda name: name)
    monkeypatch.setattr(X, 'encoder_identity', lambda path: 'b')
    assert (
        stale(dataclasses.replace(rec, encoders={'sentence': {'files': 'a'}}), data=True)
        == 'the encoder of sentence changed'
    )
    assert stale(dataclasses.replace(rec, encoders={'sentence': {'files': 'b'}}), data=True) is None


def test_seeds_of_another_encoder_do_not_join(run, tmp_path):
    rec = dataclasses.replace(run[0], encoders={'sentence': {'files': 'another'}})
    save_record(rec, tmp_path)
    new = run_system(
        demo_system(), 'demo', 'paper', seeds=[0, 1, 2], home=tmp_path, demo=SMALL, progress=False
    )
    assert new.encoders == {} and new.seeds == [0, 1, 2], 'all seeds ran again'


def test_seeds_another_process_added_meanwhile_are_kept(tmp_path, monkeypatch):
    first = run_system(
        demo_system(),
        'demo',
        'paper',
        seeds=[0],
        home=tmp_path / 'other',
        demo=SMALL,
        progress=False,
    )
    fill = X._run_model

    def slow(*a, **k):
        got = fill(*a, **k)
        save_record(first, tmp_path)
        return got

    monkeypatch.setattr(X, '_run_model', slow)
    assert run_system(
        demo_system(), 'demo', 'paper', seeds=[1], home=tmp_path, demo=SMALL, progress=False
    ).seeds == [0, 1]


def test_a_seed_without_a_finite_loss_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    from erc.models.shift import ShiftNet

    class Broken(ShiftNet):
        def forward(self, batch):
            out = super().forward(batch)
            return X.replace(out, logits=out.logits * float('nan')) if len(batch) > 20 else out

    monkeypatch.setattr('erc.models.shift.Broken', Broken, raising=False)
    s = dataclasses.replace(demo_system(), model='erc.models.shift:Broken')
    with (
        pytest.warns(UserWarning, match='loss is not finite'),
        pytest.raises(ValueError, match='seeds 0, 1 never had a finite loss'),
    ):
        run_system(s, 'demo', 'paper', seeds=[0, 1], home=tmp_path, demo=SMALL, progress=False)
    assert not list(tmp_path.rglob('*.json'))


def test_seeds_of_a_demonstration():
    numbers = lambda **how: {len(seeds) for _, _, _, seeds, _ in jobs(Section(**how))}
    shift = dict(paper='shapes', notebook='400_shift')
    assert numbers(**shift, profile='demo') == {load_recipe('shapes')['demo']['seeds']}
    assert [numbers(**shift, profile=p, seeds=3) for p in ('demo', 'full')] == [{3}, {3}]
    assert numbers(**shift, profile='full') == {5}
    assert numbers(paper='mmspcl', notebook='800_spcl', profile='full') == {10, 5}, (
        'fine-tuned systems have a number of their own'
    )


def test_committed_records_hold():
    "Every record in results/ is whole and belongs to a recipe as it is now."
    records = all_records(ROOT / 'results')
    assert {r.name: stale(r) for r in records if stale(r)} == {}
    for r in records:
        if system(r.system).kind == 'model':
            assert len(r.seeds) >= 5, r.name


def test_test_labels_change_nothing_but_the_score(tmp_path, monkeypatch):
    "The whole way, through a recipe: with shuffled test labels the same epochs are chosen and the same classes predicted."
    from erc.studies.shapes import load_pairs

    def shuffled(name, **kw):
        c = load_pairs(name, **kw)
        t, rows = c.table.copy(), c.rows('test')
        t.loc[rows, 'label'] = np.random.default_rng(0).permutation(t.label.to_numpy()[rows])
        return c.replace(table=t)

    monkeypatch.setattr('erc.models.shift.shuffled', shuffled, raising=False)
    s = demo_system()
    a = run_system(
        s, 'demo', 'paper', seeds=[0, 1], home=tmp_path / 'a', demo=SMALL, progress=False
    )
    b = run_system(
        dataclasses.replace(s, data='erc.models.shift:shuffled'),
        'demo',
        'paper',
        seeds=[0, 1],
        home=tmp_path / 'b',
        demo=SMALL,
        progress=False,
    )
    assert (
        a.selected == b.selected
        and np.array_equal(a.predictions, b.predictions)
        and np.array_equal(a.curves['dev'], b.curves['dev'])
    )
    assert a.test != b.test


# ---- sections ---------------------------------------------------------------------------------------------


def test_a_failing_system_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    section = Section('shapes', '400_shift', profile='demo', out=tmp_path)
    keep = ('shapes/always_inertia', 'shapes/empty_is_shift')
    section.systems = [
        s if s.id != keep[0] else dataclasses.replace(s, model='erc.models.shift:nothing')
        for s in section.systems
        if s.id in keep
    ]
    with pytest.raises(
        RuntimeError,
        match="1 systems failed:\nshapes/always_inertia .fixed. on demo: ValueError: cannot find 'erc.models.shift:nothing'",
    ):
        section.run()
    assert section.record('empty_is_shift', 'released_mosei', 'fixed') is not None


def test_recorded_needs_no_corpus_and_trains_nothing(tmp_path):
    "A process without corpora, cache or network draws the tables from results/."
    code = (
        'from erc.runs.run import Section; from erc.report.tables import comparison; '
        f"s=Section('shapes','400_shift',out={str(tmp_path)!r}); s.run(); t=comparison('shapes','table6',home=s.home); t.save(s.out); print(t.state)"
    )
    env = {
        **os.environ,
        'ERC_DATA': str(tmp_path / 'none'),
        'ERC_CACHE': str(tmp_path / 'cache'),
        'HF_HUB_OFFLINE': '1',
    }
    out = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert (tmp_path / 'tables' / 'shapes_table6.csv').exists() and not (
        tmp_path / 'cache'
    ).exists()


def test_a_removed_record_turns_into_not_run(tmp_path):
    import shutil
    from erc.report.tables import comparison

    (tmp_path / 'records').mkdir(parents=True)
    if (ROOT / 'results' / 'records').exists():
        shutil.copytree(ROOT / 'results' / 'records', tmp_path / 'records', dirs_exist_ok=True)
    path = tmp_path / 'records' / 'shapes' / 'always_inertia--released_mosei--fixed.json'
    if not path.exists():
        pytest.skip('no committed record')
    count = lambda: sum(k == 'not run' for k in comparison('shapes', 'table6', home=tmp_path).kinds)
    before = count()
    path.unlink()
    assert count() == before + 1
    t = comparison('shapes', 'table6', home=tmp_path)
    assert t.state == 'partly' and t.command == 'erc run shapes --missing'


@pytest.mark.parametrize('vectorise', [True, False])
def test_a_seed_without_a_finite_loss_leaves_the_others_their_record(
    tmp_path, monkeypatch, vectorise
):
    from erc.models.shift import ShiftNet

    class Fragile(ShiftNet):
        def forward(self, batch):
            out = super().forward(batch)
            if batch.seed is None:
                return out
            return X.replace(
                out, logits=out.logits + torch.where(batch.seed == 1, float('nan'), 0.0)
            )

    monkeypatch.setattr('erc.models.shift.Fragile', Fragile, raising=False)
    s = dataclasses.replace(
        demo_system(), model='erc.models.shift:Fragile', vectorise=vectorise, watch=True
    )
    with pytest.warns(
        UserWarning, match='seeds 1 never had a finite loss.*the record goes without them'
    ):
        r = run_system(
            s, 'demo', 'paper', seeds=[0, 1, 2], home=tmp_path, demo=SMALL, progress=False
        )
    whole = run_system(
        dataclasses.replace(s, model='erc.models.shift:ShiftNet'),
        'demo',
        'paper',
        seeds=[0, 2],
        home=tmp_path / 'whole',
        demo=SMALL,
        progress=False,
    )
    assert r.seeds == [0, 2] and len(find_record(s.id, 'demo', 'paper', tmp_path).test) == 2
    assert np.array_equal(r.predictions, whole.predictions) and np.array_equal(
        r.curves['test'], whole.curves['test']
    )


def test_settings_that_are_lists_are_no_grid():
    s = complete({'lr': [1e-3, 1e-2], 'betas': [0.9, 0.99], 'class_weights': [1.0, 2.0]})
    assert [p['lr'] for p in X.grid(s)] == [1e-3, 1e-2] and all(
        p['betas'] == [0.9, 0.99] for p in X.grid(s)
    )
    assert X.varied(s, X.grid(s)[0]) == {'lr': 1e-3}


@pytest.mark.parametrize('cut', [0, 7])
def test_a_record_says_what_an_encoder_cut(tmp_path, monkeypatch, cut):
    prepare = X.prepare

    def cutting(*a):
        c, data = prepare(*a)
        return c.replace(provenance={**c.provenance, 'cut': {'text': cut}}), data

    monkeypatch.setattr(X, 'prepare', cutting)
    run_system(demo_system(), 'demo', 'paper', seeds=[0], home=tmp_path, demo=SMALL, progress=False)
    assert find_record('shapes/shift_released', 'demo', 'paper', tmp_path).facts.get('cut') == (
        {'text': 7} if cut else None
    )


def test_a_device_that_is_not_there_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(X, 'resolve', lambda *a: pytest.fail('loaded first'))
    for device in ('cuda:99', 'abacus'):
        with pytest.raises(
            ValueError, match=f"device '{device}' is not to be had here .+: cpu is everywhere"
        ):
            X.prepare(X.system('shapes/shift_paper'), 'mosi', device)
    assert X.there('cpu') == 'cpu'
