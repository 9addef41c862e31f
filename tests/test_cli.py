"The command line: quick help, one-line errors, exit codes, suggestions."

import json
import os
import pickle
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import erc.cli
from erc.cli import app, bench_training, estimate, planned
from erc.core import root
from erc.report.artefacts import artefacts

runner = CliRunner()


def erc_(*args, code=0):
    r = runner.invoke(app, list(args))
    assert r.exit_code == code, r.output
    return r.output


def shell(*args, **env):
    return subprocess.run(
        [sys.executable, '-c', 'from erc.cli import app; app()', *args],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        cwd='/',
    )


def test_help_is_quick():
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        r = shell('--help')
        best = min(best, time.perf_counter() - start)
    assert r.returncode == 0 and all(
        c in r.stdout for c in ('data', 'features', 'run', 'status', 'reproduce', 'report', 'bench')
    )
    assert best < 1, f'erc --help took {best:.2f} s'


def test_help_imports_nothing_heavy():
    code = "import sys\nfrom erc.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass\nprint([m for m in ('torch','pandas','numpy','matplotlib','papermill','sklearn') if m in sys.modules])"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.stdout.strip().endswith('[]'), r.stdout


def test_version():
    assert erc_('--version').startswith('erc ')


@pytest.mark.parametrize(
    'args,words',
    [
        (['reproduc'], "Did you mean 'reproduce'"),
        (['reproduce', '--profil', 'demo'], '--profile'),
        (['data', 'lst'], "'list'"),
        (['run'], "Missing argument 'target'"),
        (['reproduce', '--seeds', '0'], 'seeds'),
        (['run', 'shapes', '--seeds', 'many'], 'seeds'),
    ],
)
def test_wrong_usage_is_answered_with_the_right_one(args, words):
    assert words in erc_(*args, code=2)


@pytest.mark.parametrize(
    'args,words',
    [
        (['data', 'get', 'melt'], "did you mean 'meld'"),
        (['data', 'check', 'melt'], "did you mean 'meld'"),
        (['features', 'demmo'], "did you mean 'demo'"),
        (['run', 'shape'], "did you mean 'shapes'"),
        (['run', 'shapes/shift_papr', '--dry-run'], "did you mean 'shapes/shift_paper'"),
        (['run', 'shapes', '--corpora', 'mossi', '--dry-run'], "did you mean 'mosi'"),
        (['run', 'shapes', '--setting', 'papr', '--dry-run'], "did you mean 'paper'"),
        (['reproduce', '--profile', 'dem'], "did you mean 'demo'"),
        (['reproduce', '--only', '40_shfit'], "did you mean '400_shift'"),
        (['status', 'shape'], "did you mean 'shapes'"),
        (['bench', 'trainin'], "did you mean 'training'"),
        (['report', '/nowhere'], 'erc reproduce'),
    ],
)
def test_wrong_names_are_one_line_and_exit_2(args, words):
    out = erc_(*args, code=2)
    assert (
        words in out
        and out.startswith('erc: ')
        and len(out.strip().splitlines()) == 1
        and 'Traceback' not in out
    )


def test_debug_shows_the_traceback():
    r = shell('--debug', 'data', 'get', 'melt')
    assert r.returncode == 1 and 'Traceback' in r.stderr and 'ValueError' in r.stderr
    r = shell('data', 'get', 'melt')
    assert (
        r.returncode == 2
        and 'Traceback' not in r.stderr
        and r.stderr.startswith('erc: unknown corpus')
    )


def test_data_list_and_check():
    out = erc_('data', 'list')
    assert (
        all(c in out for c in ('demo', 'meld', 'iemocap6', 'mosei'))
        and 'licen' in out.lower()
        or 'Apache' in out
    )
    assert {r['corpus'] for r in json.loads(erc_('data', 'list', '--json'))} >= {
        'demo',
        'meld',
        'iemocap4_shapes',
        'iemocap_vad',
        'mosi',
    }
    assert 'hold' in erc_('data', 'check', 'demo')


def test_data_list_without_corpora(tmp_path):
    out = erc_('data', 'list', '--root', str(tmp_path))
    assert 'erc data get meld' in out


def test_a_damaged_corpus_does_not_stop_the_others(tmp_path):
    (tmp_path / 'meld').mkdir()
    for s in ('train', 'dev', 'test'):
        (tmp_path / f'meld/{s}_sent_emo.csv').write_text('Utterance,"Spea')
    out = erc_('data', 'check', '--root', str(tmp_path), code=1)
    assert (
        'demo' in out
        and 'facts that can be checked hold' in out
        and 'erc: meld: ' in out
        and 'train_sent_emo.csv: damaged' in out
    )
    assert 'damaged' in erc_('data', 'list', '--root', str(tmp_path))


def test_data_check_fails_loudly(monkeypatch):
    import pandas as pd

    import erc.data.corpus as corpora

    monkeypatch.setattr(
        corpora,
        'check',
        lambda c, root=None: pd.DataFrame(
            {
                'fact': ['rows', 'more'],
                'found': [1, None],
                'ok': pd.array([False, None], dtype='boolean'),
            }
        ),
    )
    out = erc_('data', 'check', 'demo', code=1)
    assert (
        'erc:' not in out
        and 'WRONG' in out
        and 'not here' in out
        and '1 of 2 facts are wrong' in out
    )


def test_a_missing_corpus_is_one_line(tmp_path):
    out = erc_('data', 'check', 'meld', '--root', str(tmp_path), code=2)
    assert 'meld' in out and 'Traceback' not in out


def test_features_on_demo(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    assert 'sentences' in erc_('features', 'demo', '--encoder', 'hashing')


# ---- runs


def test_plan_says_what_and_how_long(tmp_path):
    t = planned('shapes', corpora=['mosi'], setting='tuned', home=tmp_path)
    assert (
        len(t)
        and set(t.corpus) == {'mosi'}
        and set(t.setting) == {'tuned'}
        and set(t.why) == {'absent'}
        and t.seconds.isna().all()
    )
    one = planned('shapes/shift_paper', home=tmp_path)
    assert set(one.system) == {'shapes/shift_paper'} and len(one) > len(t)


def test_estimates_come_from_records():
    rec = lambda s, c, k, t: SimpleNamespace(system=s, corpus=c, setting=k, seconds=t)
    have = [
        rec('p/a', 'x', 'paper', 10.0),
        rec('p/a', 'y', 'paper', 30.0),
        rec('p/a', 'y', 'tuned', 100.0),
    ]
    assert estimate('p/a', 'x', 'paper', have) == 10 and estimate('p/a', 'z', 'paper', have) == 20
    assert (
        estimate('p/a', 'x', 'tuned', have) == 100 and estimate('p/b', 'x', 'paper', have) is None
    )
    assert estimate('p/a', 'x', 'other', have) == 30


def test_times_of_another_kind_of_machine_tell_nothing(monkeypatch):
    import erc.runs.records

    made = lambda device, seconds: SimpleNamespace(
        system='shapes/shift_paper',
        corpus='mosi',
        setting='tuned',
        seconds=seconds,
        environment={'device': device},
    )
    monkeypatch.setattr(
        erc.runs.records,
        'all_records',
        lambda home=None: [made('cpu', 900.0), made('NVIDIA H200', 9.0)],
    )
    how = dict(corpora=['mosi'], setting='tuned')
    assert planned('shapes/shift_paper', **how).seconds.tolist() == [900.0] and planned(
        'shapes/shift_paper', **how, device='cuda'
    ).seconds.tolist() == [9.0]


def test_a_fetched_pickle_names_the_command_that_converts_it(tmp_path, monkeypatch):
    from test_corpora import KINDS, family

    from erc.cli import convert_step
    from erc.data.registry import converted
    from erc.data.sources import pins

    monkeypatch.setenv('ERC_DATA', str(tmp_path))
    path = tmp_path / pins('meld_mmgcn')[0].rel
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(family('mmgcn9', KINDS['mmgcn9'])))
    erc_(*shlex.split(convert_step('meld_mmgcn'))[1:])
    assert converted() == ['meld_mmgcn']
    assert planned('mmspcl/meld_text', corpora=['meld_mmgcn'], home=tmp_path).setting.tolist() == [
        'paper',
        'tuned',
    ], 'each once'
    assert 'meld_mmgcn' in set(planned('mmspcl', True, home=tmp_path).corpus), (
        'wired rows are due once their corpus is there'
    )
    assert convert_step('meld') == convert_step('avec') == '', 'read as it is; several corpora'
    assert len(shlex.split(convert_step('iemocap_multiemo'))) == 3 + 4 + 3, (
        'one corpus of four files'
    )


def test_a_converted_corpus_runs_under_every_system_that_can_read_it(tmp_path, monkeypatch):
    from test_corpora import KINDS, family

    from erc.runs.recipes import wanted
    from erc.report.section import Section

    monkeypatch.setenv('ERC_DATA', str(tmp_path / 'data'))
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(family('mmgcn9', KINDS['mmgcn9'])))
    assert 'fetched: ' in erc_(
        'data',
        'convert',
        str(tmp_path / 'x.pkl'),
        str(tmp_path / 'data' / 'fetched'),
        '--name',
        'fetched',
    )
    t = planned('shapes/gruarc_mosi', corpora=['fetched'], home=tmp_path)
    assert t[['system', 'corpus', 'setting', 'why']].values.tolist() == [
        ['shapes/gruarc_mosi', 'fetched', k, 'absent'] for k in ('paper', 'tuned')
    ]
    assert {s.id for s, _, _ in wanted('sagru', ['fetched'])} and not any(
        s.kind != 'model' for s, _, _ in wanted('shapes', ['fetched'])
    )
    assert Section('shapes', '410_gruarc', corpora='fetched').corpora == ['fetched']
    assert 'fetched' not in {c for _, c, _ in wanted('shapes')}, 'unless it is asked for'
    with pytest.raises(ValueError, match='unknown corpus of shapes/gruarc_mosi'):
        planned('shapes/gruarc_mosi', corpora=['fetch'])
    with pytest.raises(
        ValueError,
        match='nothing of shapes/always_inertia can be trained on fetched, which has audio, text, visual alone',
    ):
        planned('shapes/always_inertia', corpora=['fetched'])


def test_dry_run_runs_nothing(monkeypatch):
    import erc.runs.run

    monkeypatch.setattr(erc.runs.run, 'run_system', lambda *a, **k: 1 / 0)
    out = erc_('run', 'shapes/shift_paper', '--dry-run')
    assert 'shapes/shift_paper' in out and 'runs' in out


def test_a_failing_run_is_named_and_the_others_go_on(monkeypatch, tmp_path):
    import erc.runs.run

    ran = []

    def fake(s, corpus, setting, *, seeds, device):
        ran.append((s.id, corpus, setting))
        if len(ran) == 1:
            raise ValueError('no such file')
        return SimpleNamespace(
            name=f'{s.id}--{corpus}--{setting}',
            metric='accuracy',
            test=[0.5, 0.7],
            seeds=list(seeds),
            seconds=3,
        )

    monkeypatch.setattr(erc.runs.run, 'run_system', fake)
    out = erc_('run', 'shapes/shift_paper', '--corpora', 'mosi,mosei', '--seeds', '2', code=1)
    assert len(ran) == 4 and '1 of 4 runs failed' in out and 'ValueError: no such file' in out
    assert 'accuracy 60.0 over 2 seeds, 3 s' in out


def test_missing_leaves_out_what_is_there(monkeypatch):
    import pandas as pd

    import erc.runs.run

    monkeypatch.setattr(
        erc.runs.run,
        'missing',
        lambda *a, **k: pd.DataFrame(
            [('shapes/shift_paper', 'mosi', 'tuned', 'absent')],
            columns=['system', 'corpus', 'setting', 'why'],
        ),
    )
    t = planned('shapes', True)
    assert t[['system', 'corpus', 'setting', 'why']].values.tolist() == [
        ['shapes/shift_paper', 'mosi', 'tuned', 'absent']
    ]
    assert 'up to date' in set(planned('shapes').why)
    monkeypatch.setattr(
        erc.runs.run,
        'missing',
        lambda *a, **k: pd.DataFrame([], columns=['system', 'corpus', 'setting', 'why']),
    )
    assert 'nothing is missing' in erc_('run', 'shapes', '--missing')


def test_status(tmp_path):
    out = erc_('status', 'shapes', '--home', str(tmp_path))
    assert 'shapes table6' in out and 'erc run shapes --missing' in out and 'not run' in out
    rows = json.loads(erc_('status', '--json', '--home', str(tmp_path)))
    assert len(rows) == len(artefacts())
    six = next(r for r in rows if (r['paper'], r['artefact']) == ('shapes', 'table6'))
    assert (
        six['state'] == 'not run'
        and six['present'] == 0
        and six['wanted'] > 0
        and six['command'] == 'erc run shapes --missing'
    )


# ---- reproduce


def test_reproduce_exit_codes_and_report(tmp_path, monkeypatch):
    from test_runner import write

    write(tmp_path / 'nbs', '10_good', '1')
    write(tmp_path / 'nbs', '20_bad', 'undefined_name')
    (tmp_path / 'settings.ini').write_text('[DEFAULT]\n')
    monkeypatch.setenv('ERC_ROOT', str(tmp_path))
    out = erc_('reproduce', '--profile', 'recorded', '--jobs', '1', code=1)
    assert (
        'FAILED  20_bad, cell 1: NameError' in out
        and '1 notebooks ok, 1 failed' in out
        and (tmp_path / '_build/recorded/report.html').exists()
    )
    assert '1 notebooks ok, 0 failed' in erc_(
        'reproduce',
        '--profile',
        'recorded',
        '--only',
        '10_good',
        '--jobs',
        '1',
        '--out',
        str(tmp_path / 'b'),
    )
    (tmp_path / '_build/recorded/report.html').unlink()
    assert (
        'report.html' in erc_('report', str(tmp_path / '_build/recorded'))
        and (tmp_path / '_build/recorded/report.html').exists()
    )


def test_reproduce_without_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_ROOT', str(tmp_path))
    assert 'source checkout' in erc_('reproduce', code=2)
    assert 'erc reproduce' in erc_('report', code=2)


def test_bench(monkeypatch):
    t = bench_training(
        'shapes/shift_paper',
        seeds=(1, 2),
        shape=(4, 8, 3),
        sizes={'sentence': 8, 'previous': 8},
        classes=2,
    )
    assert (
        t.seeds.tolist() == [1, 2]
        and (t[['alone ms', 'stacked ms', 'product ms', 'best / product']] > 0).all().all()
        and t['captured ms'].isna().all()
    )
    assert t.GFLOP[1] == 2 * t.GFLOP[0] == 2 * 8 * 2 * 24 * 2 / 1e9, (
        'one logit of 24 numbers for 8 rows: forward, and backward to the weights'
    )
    both = [(k, {**v, 'shape': (2, 3, 2)}) for k, v in erc.cli.BENCHES.items()]
    monkeypatch.setattr(erc.cli, 'BENCHES', dict(both))
    rows = json.loads(erc_('bench', '--seeds', '1,2', '--json'))
    assert [(r['system'], r['seeds']) for r in rows] == [
        (k, n) for k, _ in both for n in (1, 2)
    ] and both[1][1]['classes'] == 7
    assert 'stacked ms' in erc_(
        'bench',
        '--system',
        'shapes/gruarc_mosi',
        '--seeds',
        '1',
        '--shape',
        '2,3,2',
        '--sizes',
        'text=4,audio=3,visual=3,sentence=4',
    )
    assert 'sagru/S1 fine-tunes no encoder' in erc_(
        'bench', 'encoder', '--system', 'sagru/S1', code=2
    )
    assert 'three numbers' in erc_(
        'bench', '--shape', '2,3', code=2
    ) and "did you mean 'shapes/shift_paper'" in erc_(
        'bench', '--system', 'shapes/shift_papr', code=2
    )


def test_commands_of_the_readme_exist():
    import re

    said = re.findall(
        r'erc (\w+)(?: (\w+))?',
        '\n'.join(re.findall(r'```bash\n(.*?)```', (root() / 'README.md').read_text(), re.S)),
    )
    known = set(erc_('--help').split()) | set(erc_('data', '--help').split())
    assert said and all(a in known and (a != 'data' or b in known) for a, b in said)


def test_a_run_takes_as_many_seeds_as_its_recipe_says(monkeypatch):
    import erc.runs.run as X

    asked = []

    def fake(s, corpus, setting, *, seeds, device):
        asked.append(len(seeds))
        return SimpleNamespace(
            name='x', metric='accuracy', test=[0.5], seeds=list(seeds), seconds=3
        )

    monkeypatch.setattr(X, 'run_system', fake)
    for target, more in (('sagru/S3', ()), ('shapes/gruarc', ()), ('sagru/S3', ('--seeds', '2'))):
        erc_(
            'run',
            target,
            '--setting',
            'paper',
            '--corpora',
            'iemocap4' if 'sagru' in target else 'iemocap6',
            *more,
        )
    assert asked == [X.load_recipe('sagru')['seeds'], X.System.seeds, 2]


def test_bench_of_an_encoder(tmp_path, monkeypatch):
    import dataclasses

    from erc.cli import bench_encoder
    from erc.data.registry import load_corpus
    from erc.runs.recipes import system
    from erc.data.sentence_encoders import toy_encoder

    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    folder = str(
        toy_encoder(tmp_path / 'enc', load_corpus('demo').table.text.tolist(), width=32, length=64)
    )
    s = dataclasses.replace(
        system('dialoguetrm/U_ft'),
        encoder=folder,
        args={
            'preset': 'small',
            'encoder': folder,
            'width': 32,
            'heads': 2,
            'ffn': 32,
            'layers': 1,
        },
    )
    t = bench_encoder(s, 'demo', steps=2)
    assert (
        len(t) == 1
        and t.pairs[0] > 1
        and 3 < t['tokens a pair'][0] <= 64
        and t['pairs a second'][0] == pytest.approx(t.pairs[0] / t.seconds[0], rel=0.02)
    )
