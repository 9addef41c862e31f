"The command line: quick help, one-line errors, exit codes, suggestions."

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from typer.testing import CliRunner

import erc.runs.bench
from erc.cli import app
from erc.commands.run import _run_in_time
from erc.core import root
from erc.report.artefacts import artefacts
from erc.runs.bench import _bench_encoder, _bench_training
from erc.runs.recipes import System, find_system, load_recipe
from erc.runs.records import find_record
from erc.training.checkpoint import OutOfTime

runner = CliRunner()


def erc_(*args, code=0):
    result = runner.invoke(app, list(args))
    assert result.exit_code == code, result.output
    return result.output


def shell(*args, **env):
    command = [sys.executable, '-c', 'from erc.cli import app; app()', *args]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, cwd='/'
    )


# ---- help and errors


def test_help_is_quick():
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        result = shell('--help')
        best = min(best, time.perf_counter() - start)
    commands = ('data', 'features', 'run', 'status', 'reproduce', 'report', 'bench')
    assert result.returncode == 0 and all(c in result.stdout for c in commands)
    assert best < 1, f'erc --help took {best:.2f} s'


def test_help_imports_nothing_heavy():
    heavy = ('torch', 'pandas', 'numpy', 'matplotlib', 'papermill', 'sklearn')
    code = (
        "import sys\nfrom erc.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass\n"
        f'print([m for m in {heavy} if m in sys.modules])'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip().endswith('[]'), result.stdout


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
        (['run', 'shape'], 'write paper/system:variant@corpus'),
        (['run', 'shapes/shift_papr', '--dry-run'], "did you mean 'shift_paper'"),
        (['run', 'shapes', '--corpora', 'mossi', '--dry-run'], "did you mean 'mosi'"),
        (['run', 'shapes', '--variant', 'papr', '--dry-run'], "did you mean 'paper'"),
        (['run', 'all', '--recipe', '/nowhere.toml'], 'no recipe file'),
        (['reproduce', '--profile', 'dem'], "did you mean 'demo'"),
        (['reproduce', '--only', '400_shfit'], "did you mean '400_shift'"),
        (['status', 'shape'], "did you mean 'shapes'"),
        (['bench', 'trainin'], "did you mean 'training'"),
        (['report', '/nowhere'], 'erc reproduce'),
    ],
)
def test_wrong_names_are_one_line_and_exit_2(args, words):
    out = erc_(*args, code=2)
    assert words in out and out.startswith('erc: ')
    assert len(out.strip().splitlines()) == 1 and 'Traceback' not in out


def test_debug_shows_the_traceback():
    result = shell('--debug', 'data', 'get', 'melt')
    assert result.returncode == 1 and 'Traceback' in result.stderr and 'ValueError' in result.stderr
    result = shell('data', 'get', 'melt')
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert result.stderr.startswith('erc: unknown corpus')


def test_what_failed_before_time_was_over_is_named(monkeypatch, capsys):
    def some(plan, failed, **_):
        failed.append('  a: ValueError: bad')
        raise OutOfTime

    monkeypatch.setattr('erc.commands.run._run_plan', some)
    with pytest.raises(RuntimeError, match='1 of 2 runs failed:\n  a: ValueError: bad'):
        _run_in_time(pd.DataFrame(index=['a', 'b']), 60.0, seeds=None, folds=[])
    assert '60 s are over' in capsys.readouterr().out


def test_what_a_plan_takes_is_a_part_of_the_budget(capsys):
    _run_in_time(pd.DataFrame(index=['no/system']), 60.0, spent=61.0, seeds=None, folds=[])
    assert '60 s are over' in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == 'win32', reason='no SIGINT to a child')
def test_an_interruption_says_how_to_go_on():
    code = (
        'import erc.cli, erc.commands.run, signal, time; '
        'signal.signal(signal.SIGINT, signal.default_int_handler); '  # a background shell ignores it
        'erc.commands.run._run_plan = lambda *a, **k: (print("started", flush=True), time.sleep(60)); '
        'erc.cli.app()'
    )
    command = [sys.executable, '-c', code, 'run', 'baselines/majority:fixed@demo', '--corpora', '']
    command[3:] = ['run', 'baselines/majority:fixed@mosi']
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while 'started' not in child.stdout.readline():
        pass
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=30)
    assert (
        child.returncode == 130 and 'Finished runs are kept' in error and 'Traceback' not in error
    )


def test_completion_is_offered():
    assert '--install-completion' in erc_('--help')


# ---- corpora


def test_data_list_and_check():
    out = erc_('data', 'list')
    assert all(c in out for c in ('demo', 'meld', 'iemocap6', 'mosei', 'Apache'))
    listed = {r['corpus'] for r in json.loads(erc_('data', 'list', '--json'))}
    assert listed >= {'demo', 'meld', 'iemocap4_shapes', 'iemocap_vad', 'mosi'}
    assert 'facts hold' in erc_('data', 'check', 'demo')


def test_data_list_without_corpora(tmp_path):
    assert 'erc data get meld' in erc_('data', 'list', '--root', str(tmp_path))
    assert 'there is no folder' in erc_('data', 'list', '--root', str(tmp_path / 'none'))


def test_a_damaged_corpus_does_not_stop_the_others(tmp_path):
    (tmp_path / 'meld').mkdir()
    for split in ('train', 'dev', 'test'):
        (tmp_path / f'meld/{split}_sent_emo.csv').write_text('Utterance,"Spea')
    out = erc_('data', 'check', '--root', str(tmp_path), code=1)
    assert 'demo' in out and 'facts hold' in out
    assert 'erc: meld: ' in out and 'train_sent_emo.csv: damaged' in out
    assert 'damaged' in erc_('data', 'list', '--root', str(tmp_path))


def test_data_check_fails_loudly(monkeypatch):
    facts = {
        'fact': ['rows', 'more'],
        'found': [1, None],
        'ok': pd.array([False, None], dtype='boolean'),
    }
    monkeypatch.setattr('erc.data.checks.check', lambda c, root=None: pd.DataFrame(facts))
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


def test_dry_run_runs_nothing(monkeypatch):
    monkeypatch.setattr('erc.runs.run.run_system', lambda *a, **k: pytest.fail('it ran'))
    out = erc_('run', 'shapes/shift_paper', '--dry-run')
    assert 'shapes/shift_paper:tuned@mosi' in out and ' runs' in out
    plan = json.loads(erc_('run', 'shapes/shift_paper', '--dry-run', '--json'))
    assert {'key', 'why', 'seconds'} <= set(plan[0])


def fake_record(key, seeds=(0, 1)):
    return SimpleNamespace(
        key=key,
        metric='accuracy',
        test=[0.5],
        interval=lambda: '60.0 [50.0, 70.0]',
        seeds=list(seeds),
        seconds=3,
    )


def test_a_failing_run_is_named_and_the_others_go_on(monkeypatch):
    ran = []

    def fake(system, key, *, seeds, **options):
        ran.append(key)
        if len(ran) == 1:
            raise ValueError('no such file')
        return fake_record(key, seeds)

    monkeypatch.setattr('erc.runs.run.run_system', fake)
    out = erc_('run', 'shapes/shift_paper', '--corpora', 'mosi,mosei', '--seeds', '2', code=1)
    assert (
        len(ran) == 4
        and '1 of 4 runs failed' in out
        and f'{ran[0]}: ValueError: no such file' in out
    )
    assert f'{ran[1]}: accuracy 60.0 [50.0, 70.0], 2 seeds, 3 s' in out
    quiet = erc_('run', 'shapes/shift_paper', '--corpora', 'mosi', '--quiet')
    assert quiet.count('\n') == 2, 'results alone'


def test_missing_leaves_out_what_is_there(monkeypatch):
    gone = pd.DataFrame(
        [('shapes/shift_paper:tuned@mosi', 'absent')], columns=['key', 'why']
    ).set_index('key')
    monkeypatch.setattr('erc.runs.plan._missing_runs', lambda *a, **k: gone)
    plan = json.loads(erc_('run', 'shapes', '--missing', '--dry-run', '--json'))
    assert [(r['key'], r['why']) for r in plan] == [('shapes/shift_paper:tuned@mosi', 'absent')]
    assert 'up to date' in erc_('run', 'shapes', '--dry-run')
    monkeypatch.setattr('erc.runs.plan._missing_runs', lambda *a, **k: gone[:0])
    assert 'nothing is missing' in erc_('run', 'shapes', '--missing')


def test_a_run_takes_as_many_seeds_as_its_recipe_says(monkeypatch):
    asked = []
    monkeypatch.setattr(
        'erc.runs.run.run_system',
        lambda s, key, *, seeds, **o: (asked.append(len(seeds)), fake_record(key, seeds))[1],
    )
    for target, *more in (
        ('sagru/S3:tuned@iemocap4',),
        ('shapes/gruarc:paper@iemocap6',),
        ('sagru/S3:tuned@iemocap4', '--seeds', '2'),
    ):
        erc_('run', target, *more)
    assert asked == [load_recipe('sagru').seeds, System.seeds, 2]


def test_a_run_takes_the_folds_that_were_named(monkeypatch):
    "Settings as printed are run on the paper's split alone."
    asked = {}
    monkeypatch.setattr(
        'erc.runs.run.run_system',
        lambda s, key, *, folds, **o: (asked.update({key: folds}), fake_record(key))[1],
    )
    paper, tuned = (f'sagru/S5:{variant}@iemocap4' for variant in ('paper', 'tuned'))
    for folds, expected in {
        'paper,session1': {paper: ['paper'], tuned: ['paper', 'session1']},
        'session1': {tuned: ['session1']},
        '': {paper: None, tuned: None},
    }.items():
        asked.clear()
        erc_('run', 'sagru/S5', '--folds', folds)
        assert asked == expected


MAJORITY = (
    '[systems.most]\nlabel="majority"\nnotebook=""\nkind="baseline"\n'
    'model="erc.models.baselines:majority"\ncorpora=["demo"]\nvariants={fixed={}}\n'
)


def test_a_fold_that_does_not_exist_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr('erc.runs.recipe_files._ADDED', {})
    (tmp_path / 'mine.toml').write_text(MAJORITY)
    run = ['run', 'mine', '--recipe', str(tmp_path / 'mine.toml'), '--home', str(tmp_path)]
    assert "unknown fold 'fodl2'; did you mean 'fold2'" in erc_(*run, '--folds', 'fodl2', code=1)
    erc_(*run, '--folds', 'fold1')
    record = find_record('mine/most:fixed@demo', tmp_path)
    assert list(record.folds) == ['fold1'] and len(record.cross) == 5


def test_a_recipe_of_the_user_runs(tmp_path, monkeypatch):
    monkeypatch.setattr('erc.runs.recipe_files._ADDED', {})
    (tmp_path / 'mine.toml').write_text(MAJORITY)
    out = erc_('run', 'mine', '--recipe', str(tmp_path / 'mine.toml'), '--home', str(tmp_path))
    assert 'mine/most:fixed@demo: weighted_f1' in out
    assert (tmp_path / 'records' / 'mine' / 'most--fixed--demo.json').exists()


def test_status(tmp_path):
    out = erc_('status', 'shapes', '--home', str(tmp_path))
    assert 'shapes table6' in out and 'erc run shapes --missing' in out and 'not run' in out
    rows = json.loads(erc_('status', '--json', '--home', str(tmp_path)))
    assert len(rows) == len(artefacts())
    six = next(r for r in rows if (r['paper'], r['artefact']) == ('shapes', 'table6'))
    assert six['state'] == 'not run' and six['present'] == 0 and six['wanted'] > 0
    assert six['command'] == 'erc run shapes --missing'
    assert 'to complete: erc run baselines --missing' in out, 'floors have a recipe of their own'


def test_stale_records_are_listed_by_reason(capsys):
    from erc.commands.terminal import _print_status

    row = dict(paper='toy', artefact='table1', state='drawn', present=4, wanted=4, seeds='2')
    row |= dict(newest='', basis=[], notebook='', beyond=[], command='erc run toy --missing')
    keys = [f'toy/net{i}:tuned@demo' for i in range(4)]
    why = ['settings changed: args'] * 3 + ['the model computes something else']
    row['stale'] = [f'{key}: {reason}' for key, reason in zip(keys, why)]
    _print_status(pd.DataFrame([row, row]), [])
    out = capsys.readouterr().out
    assert '2 drawn of 2; 4 stale records' in out and '4/4, 4 stale' in out
    assert f'stale: {why[0]}: {keys[0]}, {keys[1]} and 1 more' in out
    assert f'stale: {why[3]}: {keys[3]}' in out and out.count('erc run toy') == 1


# ---- reproduction and report


def test_reproduce_exit_codes_and_report(tmp_path, monkeypatch):
    from test_notebooks_runner import write

    write(tmp_path / 'nbs', '100_good', '1')
    write(tmp_path / 'nbs', '200_bad', 'undefined_name')
    (tmp_path / 'settings.ini').write_text('[DEFAULT]\n')
    monkeypatch.setenv('ERC_ROOT', str(tmp_path))
    out = erc_('reproduce', '--every', '--profile', 'recorded', '--jobs', '1', code=1)
    assert '200_bad, cell 1: NameError' in out and '1 notebooks ok, 1 failed' in out
    page = tmp_path / '_build/recorded/report.html'
    assert page.exists()
    again = ['--only', '100_good', '--jobs', '1', '--out', str(tmp_path / 'b'), '--quiet']
    assert '1 notebooks ok, 0 failed' in erc_('reproduce', '--profile', 'recorded', *again)
    page.unlink()
    assert 'report.html' in erc_('report', str(page.parent)) and page.exists()


def test_reproduce_without_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_ROOT', str(tmp_path))
    assert 'source checkout' in erc_('reproduce', code=2)
    assert 'no records in' in erc_('report', code=2)


def test_commands_of_the_readme_exist():
    blocks = re.findall(r'```bash\n(.*?)```', (root() / 'README.md').read_text(), re.S)
    said = re.findall(r'erc (\w+)(?: (\w+))?', '\n'.join(blocks))
    known = set(erc_('--help').split()) | set(erc_('data', '--help').split())
    assert said and all(a in known and (a != 'data' or b in known) for a, b in said)


# ---- benchmarks


def test_bench_training(monkeypatch):
    toy = dict(shape=(4, 8, 3), sizes={'sentence': 8, 'previous': 8}, classes=2)
    table = _bench_training('shapes/shift_paper', seeds=(1, 2), **toy)
    assert table.seeds.tolist() == [1, 2] and table['captured ms'].isna().all()
    assert (table[['alone ms', 'stacked ms', 'product ms', 'best / product']] > 0).all().all()
    one_logit = (
        8 * 2 * 24 * 2 / 1e9
    )  # of 24 numbers for 8 rows: forward, and backward to the weights
    assert table.GFLOP[1] == 2 * table.GFLOP[0] == 2 * one_logit
    small = {k: {**v, 'shape': (2, 3, 2)} for k, v in erc.runs.bench._BENCHES.items()}
    monkeypatch.setattr(erc.runs.bench, '_BENCHES', small)
    rows = json.loads(erc_('bench', '--seeds', '1,2', '--json'))
    assert [(r['system'], r['seeds']) for r in rows] == [(k, n) for k in small for n in (1, 2)]
    sizes = 'text=4,audio=3,visual=3,sentence=4'
    own = ['--system', 'shapes/gruarc_mosi', '--seeds', '1', '--shape', '2,3,2', '--sizes', sizes]
    assert 'stacked ms' in erc_('bench', *own)


@pytest.mark.parametrize(
    'args,words',
    [
        (['encoder', '--system', 'sagru/S1'], 'sagru/S1 fine-tunes no encoder'),
        (['--shape', '2,3'], 'three numbers'),
        (['--system', 'shapes/shift_papr'], "did you mean 'shift_paper'"),
    ],
)
def test_bench_refuses(args, words):
    assert words in erc_('bench', *args, code=2)


def test_bench_of_an_encoder(tmp_path, monkeypatch):
    import dataclasses

    from erc.data.registry import load_corpus
    from erc.data.sentence_encoders import toy_encoder

    monkeypatch.setenv('ERC_CACHE', str(tmp_path))
    texts = load_corpus('demo').table.text.tolist()
    folder = str(toy_encoder(tmp_path / 'enc', texts, width=32, length=64))
    small = {'preset': 'small', 'encoder': folder, 'width': 32, 'heads': 2, 'ffn': 32, 'layers': 1}
    system = dataclasses.replace(find_system('dialoguetrm/U_ft'), encoder=folder, args=small)
    table = _bench_encoder(system, 'demo', steps=2)
    assert len(table) == 1 and table.pairs[0] > 1 and 3 < table['tokens a pair'][0] <= 64
    seconds = table.pairs[0] / table['pairs a second'][0]
    assert table.seconds[0] == pytest.approx(seconds, abs=0.001)  # printed in milliseconds
