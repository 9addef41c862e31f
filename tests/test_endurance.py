"Short forms of `make endurance`."

import json
import signal
import subprocess
import sys
import time

import interruptions
import orders
import places
import pytest
import sharing

from erc.data.sources import _fetch


def test_every_command_that_writes_is_killed():
    "A new command that writes gets an entry in `interruptions.COMMANDS`."
    names = {'run', 'reproduce', 'report', 'features', 'predict', 'predict_stream', 'data_add'}
    names |= {'features_of_recording', 'predict_recording', 'join', 'save_corpus', 'save_model'}
    assert set(interruptions.COMMANDS) >= names


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted({*interruptions.COMMANDS} - {'reproduce'}))
def test_a_killed_command_goes_on_and_leaves_nothing(name):
    times = 1 if 'recording' in name else 2
    code = f'import interruptions, sys; sys.exit(len(interruptions.kill_often({name!r}, {times})))'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=interruptions.HERE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


SLOW = """import pathlib, time
while not pathlib.Path(out, 'go').exists():
    time.sleep(0.05)"""


@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_a_killed_reproduction_keeps_its_notebooks_and_leaves_no_process(tmp_path, how):
    "Killed in its second notebook; the next call runs that one alone."
    write_notebook, build = interruptions.write_notebook, tmp_path / '_build' / 'demo' / 'notebooks'
    (tmp_path / 'nbs').mkdir()
    write_notebook(tmp_path / 'nbs' / '100_table1.ipynb', "print('ran')")
    write_notebook(tmp_path / 'nbs' / '900_slow.ipynb', SLOW)
    command = interruptions.COMMANDS['reproduce']
    with open(tmp_path / 'output', 'w+') as output:
        process = interruptions.started(command, tmp_path, output)
        while not list(build.glob('.900_slow*')) and process.poll() is None:
            time.sleep(0.1)
        interruptions.interrupt(process, how)
    assert interruptions.left_behind(tmp_path) == []
    before = (build / '100_table1.ipynb').stat().st_mtime_ns
    (build.parent / 'go').write_text('')
    code, output, _ = interruptions.attempt(command, tmp_path)
    assert code == 0, output
    assert (build / '100_table1.ipynb').stat().st_mtime_ns == before
    manifest = json.loads((build.parent / 'manifest.json').read_text())
    assert [entry['status'] for entry in manifest['notebooks']] == ['ok', 'ok']
    assert 'unfinished' not in manifest and not list(build.glob('.*'))


@pytest.mark.slow
def test_two_downloads_of_one_file_both_end_well():
    assert sharing.download_pairs(1) == []


def test_a_server_without_an_end_is_cut_off(tmp_path):
    server = sharing.serve(endless=True)
    try:
        with pytest.raises(ValueError, match='not the pinned file.*bytes'):
            _fetch(sharing.pin(), tmp_path / 'x', f'http://127.0.0.1:{server.server_port}')
    finally:
        server.shutdown()
        server.server_close()
    assert not list(tmp_path.glob('*.part'))


@pytest.mark.slow
def test_groups_and_orders_change_nothing():
    assert orders.compare_orders(['ContextGRU']) == []


@pytest.mark.slow
@pytest.mark.parametrize('name', ['odd_paths', 'read_only', 'full_disk', 'clock_goes_backwards'])
def test_unusual_places(name):
    assert places.try_places([name]) == []
