"Files of any length: constant memory, no turn twice, and the same answer as at once."

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from own_chats import trained

import erc.prediction.streams as S
from erc.prediction.streams import predict_stream


@pytest.fixture(scope='module')
def model():
    return trained(seeds=1)


def write(path, rows):
    path.write_text('\n'.join(json.dumps(row, ensure_ascii=False) for row in rows), 'utf-8')
    return path


def rows(n, per=7, **more):
    words = ['great', 'lost', 'so', 'rain']
    return [
        {
            'chat': i // per,
            'user': 'ABC'[i % 3],
            'message': f'it was {words[i % 4]} {i % 9}',
            **more,
        }
        for i in range(n)
    ]


def read(path):
    return pd.read_json(path, lines=True, dtype={'dialogue': str})


def same(a, b):
    assert list(a.emotion) == list(b.emotion) and list(a.turn) == list(b.turn)
    assert list(a.text) == list(b.text)
    for column in ('confidence', 'p_shift'):
        np.testing.assert_allclose(a[column].astype(float), b[column].astype(float), atol=1e-5)


@pytest.mark.parametrize('per', [1, 7, 10_000])
def test_a_stream_gives_what_is_given_at_once(model, tmp_path, per, monkeypatch):
    monkeypatch.setattr(S, '_BLOCK', 1000)
    source = write(tmp_path / 'in.jsonl', rows(5003, per))
    result = predict_stream(model, source, tmp_path / 'out.jsonl', progress=False)
    assert result.turns == 5003 and result.before == 0 and 'turns a second' in str(result)
    at_once = model.predict(source)
    same(read(tmp_path / 'out.jsonl'), at_once)
    predict_stream(model, source, tmp_path / 'out.csv', progress=False)
    same(pd.read_csv(tmp_path / 'out.csv'), at_once)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in.jsonl', 'out.csv', 'out.jsonl']


@pytest.mark.parametrize('per', [7, 10_000])
@pytest.mark.parametrize('cut', [0, -1, 'half'])
def test_a_stopped_stream_goes_on_where_it_was(model, tmp_path, monkeypatch, per, cut):
    "It stops in each block in turn; what stands beyond the last whole block is cut off."
    monkeypatch.setattr(S, '_BLOCK', 1000)
    source = write(tmp_path / 'in.jsonl', rows(5003, per))
    predict_stream(model, source, tmp_path / 'whole.jsonl', progress=False)
    real, calls = S._predicted, []

    def stops(*args):
        calls.append(1)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(S, '_predicted', stops)
    out, stopped = tmp_path / 'out.jsonl', 0
    part = tmp_path / 'out.jsonl.part'
    while not out.exists():
        try:
            predict_stream(model, source, out, progress=False)
        except KeyboardInterrupt:
            stopped += 1
            if cut == 'half':
                with open(part, 'ab') as file:
                    file.write(b'{"dialogue": "half a li')
            elif cut == -1:  # a block that was written, but not noted
                data = part.read_bytes()
                part.write_bytes(data + data[-3000:])
    assert stopped >= 3
    same(read(out), read(tmp_path / 'whole.jsonl'))


@pytest.fixture(scope='module')
def saved(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp('saved') / 'model')


def start(code, *args):
    "Run code in another process, with arguments."
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, '-c', code, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


SCRIPT = """
import sys, time
import erc
import erc.prediction.streams as S
S._BLOCK = 500
model = erc.load(sys.argv[3])
real = S._predicted
def slow(*args):
    time.sleep(0.05)
    return real(*args)
S._predicted = slow
print('ready', flush=True)
print(S.predict_stream(model, sys.argv[1], sys.argv[2], progress=False), flush=True)
"""


def test_killed_and_started_again(model, saved, tmp_path):
    source = write(tmp_path / 'in.jsonl', rows(8000))
    out, part = tmp_path / 'out.jsonl', tmp_path / 'out.jsonl.part'
    first = start(SCRIPT, source, out, saved)
    assert first.stdout.readline() == 'ready\n'
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 200_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert part.exists() and not out.exists()
    again = start(SCRIPT, source, out, saved)
    assert 'by an earlier run' in again.communicate()[0] and again.returncode == 0
    found = read(out)
    assert len(found) == 8000 and not found.duplicated(['dialogue', 'turn']).any()
    same(found, model.predict(source))


def test_another_model_or_input_is_begun_again(model, tmp_path, monkeypatch):
    monkeypatch.setattr(S, '_BLOCK', 100)
    source, out = write(tmp_path / 'in.jsonl', rows(500)), tmp_path / 'out.jsonl'

    def stop(*args):
        raise KeyboardInterrupt

    real, after = S._predicted, iter([1, 1])
    monkeypatch.setattr(S, '_predicted', lambda *a: real(*a) if next(after, 0) else stop())
    with pytest.raises(KeyboardInterrupt):
        predict_stream(model, source, out, progress=False)
    monkeypatch.setattr(S, '_predicted', real)
    write(source, rows(500)[::-1])
    with pytest.warns(UserWarning, match='of another model or input: it is begun again'):
        result = predict_stream(model, source, out, progress=False)
    assert result.before == 0 and len(read(out)) == 500


def test_two_processes_do_not_write_one_file(model, tmp_path):
    from filelock import FileLock

    from erc.core import cache_home, digest

    source, out = write(tmp_path / 'in.jsonl', rows(5)), tmp_path / 'out.jsonl'
    predict_stream(model, source, out, progress=False)
    taken = FileLock(cache_home() / 'locks' / f'{digest(str(out.resolve()))}.lock')
    with taken, pytest.raises(RuntimeError, match='another process writes'):
        predict_stream(model, source, out, progress=False)


@pytest.mark.parametrize(
    'line, message',
    [
        ('{"user": "A"', 'line 4: not JSON'),
        ('["A", "x"]', r"line 4: \['A', 'x'\] is not a turn"),
        ('{"user": "A", "text": "x"}', "line 4: the turn has no 'message'"),
        ('{"user": "A", "message": 5}', r'line 4: the text is 5 \(int\)'),
        ('{"user": ["A"], "message": "x"}', r"line 4: the speaker is \['A'\]"),
    ],
)
def test_a_bad_line_is_named_and_what_was_before_is_kept(
    model, tmp_path, line, message, monkeypatch
):
    monkeypatch.setattr(S, '_BLOCK', 2)
    good = [json.dumps(row) for row in rows(6, per=1)]
    source, out = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
    source.write_text('\n'.join([*good[:3], line, *good[3:]]))
    with pytest.raises(ValueError, match=message + '.*the 2 turns before are kept in .*part'):
        predict_stream(model, source, out, progress=False)
    assert not out.exists()
    source.write_text('\n'.join(good))
    result = predict_stream(model, source, out, progress=False)
    assert result.before == 2 and len(read(out)) == 6


def test_odd_files(model, tmp_path):
    bad = tmp_path / 'bad.jsonl'
    bad.write_text('{"speaker"')
    with pytest.raises(ValueError, match='line 1: not JSON'):
        predict_stream(model, bad, tmp_path / 'bad.csv', progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ['bad.jsonl'], 'nothing was to be kept'
    out = tmp_path / 'out.jsonl'
    empty = tmp_path / 'empty.jsonl'
    empty.write_text('\n\n')
    with pytest.raises(ValueError, match='no turn to predict'):
        predict_stream(model, empty, out, progress=False)
    with pytest.raises(FileNotFoundError, match='no file'):
        predict_stream(model, tmp_path / 'none.jsonl', out, progress=False)
    with pytest.raises(ValueError, match='unknown kind of file'):
        predict_stream(model, empty, tmp_path / 'out.html', progress=False)
    bom = tmp_path / 'bom.jsonl'
    bom.write_bytes(
        b'\xef\xbb\xbf{"speaker": null, "text": ""}\r\n\r\n{"speaker": "A", "text": "\xd7\xa9"}'
    )
    result = predict_stream(model, bom, out, progress=False)
    assert '1 turns have no text; 1 turns have no speaker' in str(result)
    assert list(read(out).text) == ['', 'ש']


def test_a_conversation_that_comes_back_is_said(model, tmp_path):
    source = write(tmp_path / 'in.jsonl', rows(14) + rows(7))
    with pytest.warns(UserWarning, match="conversation '0' comes back after others"):
        predict_stream(model, source, tmp_path / 'out.jsonl', progress=False)


MEMORY = """
import resource, sys
import erc
from erc.prediction.streams import predict_stream
predict_stream(erc.load(sys.argv[3]), sys.argv[1], sys.argv[2], progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_is_flat(saved, tmp_path):
    "From 10,000 to 40,000 turns the peak grows by less than 20 MB."
    peak = []
    for n in (10_000, 40_000):
        source = write(tmp_path / f'{n}.jsonl', rows(n, 9))
        run = start(MEMORY, source, tmp_path / f'{n}.out.jsonl', saved)
        peak.append(float(run.communicate()[0]))
    assert peak[1] - peak[0] < 20, peak


def test_memory_is_given_back_after_each_block(model, tmp_path, monkeypatch):
    "The heap of glibc does not shrink by itself."
    calls = []
    monkeypatch.setattr(S, '_BLOCK', 100)
    monkeypatch.setattr(S, '_give_back_memory', lambda: calls.append(1))
    predict_stream(model, write(tmp_path / 'in.jsonl', rows(250, 1)), tmp_path / 'o.csv')
    assert len(calls) == 3
