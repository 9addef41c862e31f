"What a file may do, and what it must be."

import codecs
import io
import os
import pickle
import threading
from collections import OrderedDict, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from erc.core import sha256_of
from erc.data.sources import FILES, Pin, fetch, get, git_blob_sha1, mismatch, pins
from erc.data.unpickle import Refused, safe_load_npy, safe_load_npz, safe_unpickle, unpickle


class Call:
    "Pickles to a call of `f(*args)`."

    def __init__(self, f, *args):
        self.f, self.args = f, args

    def __reduce__(self):
        return self.f, self.args


def dumped(tmp_path, obj, protocol=2, name='x.pkl'):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(obj, protocol=protocol))
    return path


def test_os_system_is_refused_by_name_before_it_runs(tmp_path):
    mark = tmp_path / 'it-ran'
    path = dumped(tmp_path, {'a': [Call(os.system, f'touch {mark}')]})
    with pytest.raises(ValueError, match=r'x\.pkl.*posix\.system.*nothing was run'):
        safe_unpickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    'what',
    [
        eval,
        exec,
        getattr,
        __import__,
        open,
        os.popen,
        object,
        np.load,
        np.frombuffer,
        codecs.decode,
        pickle.loads,
    ],
)
def test_other_globals_are_refused(tmp_path, what):
    path = dumped(tmp_path, Call(what, '1'))
    with pytest.raises(Refused, match=f'{what.__name__}.*allow-list'):
        safe_unpickle(path)


@pytest.mark.parametrize(
    'raw,name',
    [
        (b'cposix\nsystem\n(S"true"\ntR.', 'posix.system'),
        (b'c__builtin__\neval\n(S"1"\ntR.', '__builtin__.eval'),
        (b'(S"true"\niposix\nsystem\n.', 'posix.system'),
        (b'cnumpy.core.multiarray\nfromfile\n.', 'fromfile'),
        (b'cbuiltins\nlist.append\n.', 'list.append'),
    ],
)
def test_refused_in_every_spelling(raw, name):
    with pytest.raises(ValueError, match=name):
        unpickle(io.BytesIO(raw), 'raw')


def test_codec_may_say_how_errors_are_handled():
    assert (
        unpickle(io.BytesIO(b'c_codecs\nencode\n(V\xe9\nVlatin1\nVstrict\ntR.'), 'raw') == b'\xe9'
    )
    with pytest.raises(ValueError, match='rot13'):
        unpickle(io.BytesIO(b'c_codecs\nencode\n(Vabc\nVrot13\nVstrict\ntR.'), 'raw')


def test_a_zip_is_called_a_zip(tmp_path):
    np.savez(tmp_path / 'model.pt', x=np.arange(3))  # torch.save writes such an archive
    (tmp_path / 'model.pt.npz').rename(tmp_path / 'model.pt')
    with pytest.raises(Refused, match=r'model\.pt: a zip, as torch\.save'):
        safe_unpickle(tmp_path / 'model.pt')


def test_codec_is_latin1_only():
    with pytest.raises(ValueError, match='rot13'):
        unpickle(io.BytesIO(b'c_codecs\nencode\n(Vabc\nVrot13\ntR.'), 'raw')
    assert unpickle(io.BytesIO(b'c_codecs\nencode\n(V\xe9\nVlatin1\ntR.'), 'raw') == b'\xe9'


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_and_arrays_come_back(tmp_path, protocol):
    d = defaultdict(list, a=[1])
    obj = (
        OrderedDict(x={1, 2}),
        d,
        frozenset('ab'),
        b'\xff\x00',
        1 + 2j,
        bytearray(b'z'),
        np.arange(6, dtype=np.float32).reshape(2, 3, order='F'),
        np.float64(0.5),
        np.int32(7),
        np.array(['é', 'b']),
        np.array([{'k': 1}, None], object),
        np.dtype('<i4'),
    )
    got = safe_unpickle(dumped(tmp_path, obj, protocol))
    assert got[:6] == obj[:6] and got[1].default_factory is list
    for a, b in zip(got[6:], obj[6:]):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('module', [b'numpy.core', b'numpy._core'])
def test_both_names_of_numpys_core(module):
    raw = pickle.dumps(np.arange(3), protocol=0).replace(b'numpy._core', module)
    assert module in raw
    np.testing.assert_array_equal(unpickle(io.BytesIO(raw), 'raw'), np.arange(3))


def test_python2_file_is_latin1(tmp_path):
    raw = (
        b'\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01b\x87Rq\x04(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10'
        + np.array([1.0, -2.0]).tobytes()
        + b'tb.'
    )
    (tmp_path / 'old.pickle').write_bytes(raw)
    np.testing.assert_array_equal(safe_unpickle(tmp_path / 'old.pickle'), [1, -2])
    assert unpickle(io.BytesIO(b"S'caf\\xe9'\n."), 'raw') == 'café'


@pytest.mark.parametrize('cut', [1, 3, 20, 60])
def test_truncated_pickle_is_a_clear_error(tmp_path, cut):
    path = dumped(tmp_path, [np.arange(9.0), 'text'], 4)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r'x\.pkl: damaged or truncated'):
        safe_unpickle(path)


def test_empty_and_nonsense_files(tmp_path):
    for raw in (b'', b'version https://git-lfs.github.com/spec/v1\n', b'<html>'):
        (tmp_path / 'x.pkl').write_bytes(raw)
        with pytest.raises(ValueError, match='damaged or truncated'):
            safe_unpickle(tmp_path / 'x.pkl')


def test_npz_and_npy_with_objects(tmp_path):
    mark = tmp_path / 'it-ran'
    good = np.array({'u': {'emo': 1, 'val': -10}}, object)
    np.savez(
        tmp_path / 'good.npz', whole_corpus=good, plain=np.arange(3), words=np.array(['a', 'bc'])
    )
    z = safe_load_npz(tmp_path / 'good.npz')
    assert (
        z['whole_corpus'].item() == good.item()
        and list(z['plain']) == [0, 1, 2]
        and list(z['words']) == ['a', 'bc']
    )
    with pytest.raises(ValueError, match='good.npz, member whole_corpus.npy: an array of objects'):
        safe_load_npz(tmp_path / 'good.npz', objects=False)
    np.savez(
        tmp_path / 'evil.npz',
        plain=np.arange(3),
        x=np.array([Call(os.system, f'touch {mark}')], object),
    )
    with pytest.raises(ValueError, match=r'evil\.npz, member x\.npy.*posix\.system'):
        safe_load_npz(tmp_path / 'evil.npz')
    np.save(tmp_path / 'evil.npy', np.array([Call(os.system, f'touch {mark}')], object))
    with pytest.raises(ValueError, match='posix.system'):
        safe_load_npy(tmp_path / 'evil.npy')
    assert not mark.exists()
    np.save(tmp_path / 'fortran.npy', np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    np.testing.assert_array_equal(
        safe_load_npy(tmp_path / 'fortran.npy'), np.arange(6.0).reshape(2, 3)
    )


def test_truncated_arrays(tmp_path):
    np.savez(tmp_path / 'a.npz', x=np.arange(99.0))
    (tmp_path / 'b.npz').write_bytes((tmp_path / 'a.npz').read_bytes()[:-30])
    with pytest.raises(ValueError, match='b.npz: not a whole npz'):
        safe_load_npz(tmp_path / 'b.npz')
    np.save(tmp_path / 'a.npy', np.arange(99.0))
    (tmp_path / 'b.npy').write_bytes((tmp_path / 'a.npy').read_bytes()[:-30])
    with pytest.raises(ValueError, match='b.npy: damaged or truncated'):
        safe_load_npy(tmp_path / 'b.npy')


# ---- downloads ---------------------------------------------------------------


class Server(ThreadingHTTPServer):
    "Serves `files`; `stop_after` cuts each body short, `ranges` says whether it knows Range."

    files, stop_after, ranges, log, chunked = {}, None, True, [], False


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        s, body = self.server, self.server.files.get(self.path.lstrip('/'))
        s.log.append((self.path, self.headers.get('Range')))
        if body is None:
            return self.send_error(404)
        start = (
            int(self.headers['Range'].split('=')[1].rstrip('-'))
            if s.ranges and 'Range' in self.headers
            else 0
        )
        if start >= len(body) and start:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        if not s.chunked:
            self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: s.stop_after])


@pytest.fixture
def server():
    s = Server(('127.0.0.1', 0), Handler)
    s.files, s.log = {}, []
    thread = threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    s.url = f'http://127.0.0.1:{s.server_address[1]}'
    yield s
    s.shutdown()
    s.server_close()


BODY = bytes(range(256)) * 2000


@pytest.fixture
def pin(tmp_path, server):
    (tmp_path / 'true').write_bytes(BODY)
    p = Pin(
        'someone/repo', 'c' * 40, 'data/a file.pkl', git_blob_sha1(tmp_path / 'true'), len(BODY)
    )
    server.files[f'someone/repo/{"c" * 40}/data/a%20file.pkl'] = BODY
    return p


def changed(body):
    return body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]


def test_git_blob_sha1_is_gits():
    import subprocess

    here = __file__
    try:
        want = subprocess.run(
            ['git', 'hash-object', here], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip('git is not here')
    assert git_blob_sha1(here) == want


def test_download(tmp_path, server, pin, capfd):
    dest = fetch(pin, tmp_path / 'out' / 'file.pkl', server.url)
    assert dest.read_bytes() == BODY and sorted(os.listdir(tmp_path / 'out')) == ['file.pkl']
    assert 'a file.pkl' in capfd.readouterr().err  # the bar
    n = len(server.log)
    fetch(pin, dest, server.url)
    assert len(server.log) == n  # right already: not asked for again


def test_truncated_body_is_kept_and_resumed(tmp_path, server, pin):
    dest, server.stop_after = tmp_path / 'file.pkl', 100_000
    with pytest.raises(ValueError, match='100000 of 512000 bytes.*run again to resume'):
        fetch(pin, dest, server.url, progress=False)
    assert not dest.exists() and (tmp_path / 'file.pkl.part').stat().st_size == 100_000
    server.stop_after = None
    assert fetch(pin, dest, server.url, progress=False).read_bytes() == BODY
    assert server.log[-1][1] == 'bytes=100000-' and not (tmp_path / 'file.pkl.part').exists()


def test_truncated_body_of_unknown_size(tmp_path, server, pin):
    import dataclasses

    unsized, server.stop_after = dataclasses.replace(pin, size=None), 777
    with pytest.raises(ValueError, match='777 of 512000 bytes'):
        fetch(unsized, tmp_path / 'f', server.url, progress=False)
    server.stop_after = None
    assert fetch(unsized, tmp_path / 'f', server.url, progress=False).read_bytes() == BODY


def test_server_without_ranges_starts_over(tmp_path, server, pin):
    (tmp_path / 'f.part').write_bytes(BODY[:5])
    server.ranges = False
    assert fetch(pin, tmp_path / 'f', server.url, progress=False).read_bytes() == BODY


def test_changed_byte_is_refused_with_both_hashes(tmp_path, server, pin):
    server.files = {k: changed(v) for k, v in server.files.items()}
    with pytest.raises(
        ValueError, match=f'data/a file.pkl.*expected {pin.git_blob_sha1}; refused'
    ) as e:
        fetch(pin, tmp_path / 'f', server.url, progress=False)
    (tmp_path / 'bad').write_bytes(changed(BODY))
    assert git_blob_sha1(tmp_path / 'bad') in str(e.value)
    assert not (tmp_path / 'f').exists() and not (tmp_path / 'f.part').exists()


@pytest.mark.parametrize('junk', [changed(BODY)[:5000], changed(BODY)])
def test_a_corrupt_part_is_fetched_again_from_zero(tmp_path, server, pin, junk):
    (tmp_path / 'f.part').write_bytes(junk)
    assert fetch(pin, tmp_path / 'f', server.url, progress=False).read_bytes() == BODY
    assert server.log[-1][1] is None and len(server.log) == (2 if len(junk) < len(BODY) else 1)


def test_a_part_of_a_wrong_file_is_refused_after_one_more_try(tmp_path, server, pin):
    server.files = {k: changed(v) for k, v in server.files.items()}
    (tmp_path / 'f.part').write_bytes(changed(BODY)[:5000])
    with pytest.raises(ValueError, match='refused'):
        fetch(pin, tmp_path / 'f', server.url, progress=False)
    assert [r for _, r in server.log] == ['bytes=5000-', None] and not list(tmp_path.glob('f*'))


def test_wrong_file_in_place_stays_until_the_right_one_is_here(tmp_path, server, pin):
    (tmp_path / 'f').write_bytes(b'mine')
    server.stop_after = 10
    with pytest.raises(ValueError, match='10 of'):
        fetch(pin, tmp_path / 'f', server.url, progress=False)
    assert (tmp_path / 'f').read_bytes() == b'mine'


def test_lfs_is_checked_by_sha256(tmp_path, server):
    (tmp_path / 'true').write_bytes(BODY)
    p = Pin(
        'a/b',
        'c',
        'x.pkl',
        'f' * 40,
        lfs=dict(oid_sha256=sha256_of(tmp_path / 'true'), size=len(BODY)),
    )
    assert p.url().startswith('https://media.githubusercontent.com/media/a/b/c/')
    server.files['a/b/c/x.pkl'] = (
        b'version https://git-lfs.github.com/spec/v1\n'  # the pointer instead of the content
    )
    with pytest.raises(ValueError, match='43 of 512000 bytes'):
        fetch(p, tmp_path / 'f', server.url, progress=False)
    (tmp_path / 'f.part').unlink()
    server.files['a/b/c/x.pkl'] = changed(BODY)
    with pytest.raises(ValueError, match=f'sha256 .*expected {p.lfs["oid_sha256"]}'):
        fetch(p, tmp_path / 'f', server.url, progress=False)
    server.files['a/b/c/x.pkl'] = BODY
    assert not mismatch(fetch(p, tmp_path / 'f', server.url, progress=False), p)


def test_no_server_and_no_file(tmp_path, server, pin):
    import dataclasses

    with pytest.raises(ConnectionError, match='answers 404'):
        fetch(dataclasses.replace(pin, path='nope'), tmp_path / 'f', server.url)
    with pytest.raises(ConnectionError, match='--from DIR'):
        fetch(pin, tmp_path / 'f', 'http://127.0.0.1:9')
    assert not (tmp_path / 'f').exists()


# ---- corpora from a mirror ------------------------------------------------------


def test_every_name_stands_for_files():
    for name in FILES:
        assert pins(name), name
    assert get('demo') == {}
    assert len(pins()) > 150
    for p in pins():
        assert p.public or (p.file_here and len(p.git_blob_sha1) == 40)


def test_get_from_server(tmp_path, server, data):
    for p in pins('emorynlp'):
        server.files[f'{p.repo}/{p.commit}/{p.path}'] = (data / p.rel).read_bytes()
    assert set(get('emorynlp', base_url=server.url, root=tmp_path, progress=False).values()) == {
        'fetched'
    }
    assert set(get('emorynlp', base_url='http://127.0.0.1:9', root=tmp_path).values()) == {
        'already here'
    }


def test_get_from_our_layout(tmp_path, data):
    got = get('iemocap6', from_dir=data, root=tmp_path)
    assert (
        set(got.values()) == {'copied'}
        and (tmp_path / 'iemocap_text/iemocap_utterances.csv').exists()
    )


def test_get_from_repository_layout_and_a_wrong_byte(tmp_path, data):
    mirror, home = tmp_path / 'mirror', tmp_path / 'home'
    for p in pins('mosei'):
        if p.public:
            to = mirror / p.repo / p.path
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes((data / p.rel).read_bytes())
    assert sorted(get('mosei', from_dir=mirror, root=home).values()) == [
        'copied',
        'copied',
        'not in the mirror',
    ]
    to.write_bytes(changed(to.read_bytes()))
    with pytest.raises(ValueError, match=f'{to.name}.*git blob sha1 .*refused'):
        get('mosei', from_dir=mirror, root=tmp_path / 'other')
    assert not (tmp_path / 'other' / p.rel).exists() and not list(
        (tmp_path / 'other').rglob(f'*{to.name}*')
    )


def test_the_corpora_here_are_the_pinned_ones(data):
    for p in pins():
        if p.file_here and (data / p.file_here).exists():
            assert not mismatch(data / p.file_here, p), p.file_here
