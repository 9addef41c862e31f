"Downloads: pinned, resumed, checked; and corpora from a local mirror."

import dataclasses
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from erc.core import sha256_of
from erc.data.sources import (
    FILES,
    _fetch,
    _git_blob_sha1,
    _mismatch,
    _Pin,
    download_corpus,
    pins,
)


class Server(ThreadingHTTPServer):
    "Serve `files` and log each request's path and Range header."

    stop_after = None  # bytes after which each body is cut
    ranges = True  # whether Range headers are honoured

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.files, self.log = {}, []
        self.url = f'http://127.0.0.1:{self.server_address[1]}'


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        body = self.server.files.get(self.path.lstrip('/'))
        wanted = self.headers.get('Range')
        self.server.log.append((self.path, wanted))
        if body is None:
            return self.send_error(404)
        start = int(wanted.split('=')[1].rstrip('-')) if wanted and self.server.ranges else 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.server.stop_after])


@pytest.fixture
def server():
    s = Server()
    threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()


BODY = bytes(range(256)) * 2000


@pytest.fixture
def pin(tmp_path, server):
    (tmp_path / 'true').write_bytes(BODY)
    p = _Pin(
        'someone/repo', 'c' * 40, 'data/a file.pkl', _git_blob_sha1(tmp_path / 'true'), len(BODY)
    )
    server.files[f'someone/repo/{"c" * 40}/data/a%20file.pkl'] = BODY
    return p


def files_in(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != '.locks')


def changed(body):
    return body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]


def test_git_blob_sha1_is_gits():
    here = __file__
    try:
        want = subprocess.run(
            ['git', 'hash-object', here], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip('git is not here')
    assert _git_blob_sha1(here) == want


def test_download(tmp_path, server, pin, capfd):
    dest = _fetch(pin, tmp_path / 'out' / 'file.pkl', server.url)
    assert dest.read_bytes() == BODY and files_in(tmp_path / 'out') == ['file.pkl']
    assert 'a file.pkl' in capfd.readouterr().err  # the progress bar
    n = len(server.log)
    _fetch(pin, dest, server.url)
    assert len(server.log) == n  # already correct: not requested again


def test_truncated_body_is_kept_and_resumed(tmp_path, server, pin):
    dest, server.stop_after = tmp_path / 'file.pkl', 100_000
    with pytest.raises(ValueError, match='100000 of 512000 bytes.*run again to resume'):
        _fetch(pin, dest, server.url, progress=False)
    assert not dest.exists() and (tmp_path / 'file.pkl.part').stat().st_size == 100_000
    server.stop_after = None
    assert _fetch(pin, dest, server.url, progress=False).read_bytes() == BODY
    assert server.log[-1][1] == 'bytes=100000-' and not (tmp_path / 'file.pkl.part').exists()


def test_truncated_body_of_unknown_size(tmp_path, server, pin):
    unsized, server.stop_after = dataclasses.replace(pin, size=None), 777
    with pytest.raises(ValueError, match='777 of 512000 bytes'):
        _fetch(unsized, tmp_path / 'f', server.url, progress=False)
    server.stop_after = None
    assert _fetch(unsized, tmp_path / 'f', server.url, progress=False).read_bytes() == BODY


def test_server_without_ranges_starts_over(tmp_path, server, pin):
    (tmp_path / 'f.part').write_bytes(BODY[:5])
    server.ranges = False
    assert _fetch(pin, tmp_path / 'f', server.url, progress=False).read_bytes() == BODY


def test_changed_byte_is_refused_with_both_hashes(tmp_path, server, pin):
    server.files = {k: changed(v) for k, v in server.files.items()}
    with pytest.raises(
        ValueError, match=f'data/a file.pkl.*expected {pin.git_blob_sha1}; refused'
    ) as e:
        _fetch(pin, tmp_path / 'f', server.url, progress=False)
    (tmp_path / 'bad').write_bytes(changed(BODY))
    assert _git_blob_sha1(tmp_path / 'bad') in str(e.value)
    assert not (tmp_path / 'f').exists() and not (tmp_path / 'f.part').exists()


@pytest.mark.parametrize('junk', [changed(BODY)[:5000], changed(BODY)])
def test_a_corrupt_part_is_fetched_again_from_zero(tmp_path, server, pin, junk):
    (tmp_path / 'f.part').write_bytes(junk)
    assert _fetch(pin, tmp_path / 'f', server.url, progress=False).read_bytes() == BODY
    assert server.log[-1][1] is None and len(server.log) == (2 if len(junk) < len(BODY) else 1)


def test_a_part_of_a_wrong_file_is_refused_after_one_more_try(tmp_path, server, pin):
    server.files = {k: changed(v) for k, v in server.files.items()}
    (tmp_path / 'f.part').write_bytes(changed(BODY)[:5000])
    with pytest.raises(ValueError, match='refused'):
        _fetch(pin, tmp_path / 'f', server.url, progress=False)
    assert [r for _, r in server.log] == ['bytes=5000-', None] and not list(tmp_path.glob('f*'))


def test_wrong_file_in_place_stays_until_the_right_one_is_here(tmp_path, server, pin):
    (tmp_path / 'f').write_bytes(b'mine')
    server.stop_after = 10
    with pytest.raises(ValueError, match='10 of'):
        _fetch(pin, tmp_path / 'f', server.url, progress=False)
    assert (tmp_path / 'f').read_bytes() == b'mine'


def test_lfs_is_checked_by_sha256(tmp_path, server):
    (tmp_path / 'true').write_bytes(BODY)
    p = _Pin(
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
        _fetch(p, tmp_path / 'f', server.url, progress=False)
    (tmp_path / 'f.part').unlink()
    server.files['a/b/c/x.pkl'] = changed(BODY)
    with pytest.raises(ValueError, match=f'sha256 .*expected {p.lfs["oid_sha256"]}'):
        _fetch(p, tmp_path / 'f', server.url, progress=False)
    server.files['a/b/c/x.pkl'] = BODY
    assert not _mismatch(_fetch(p, tmp_path / 'f', server.url, progress=False), p)


def test_no_server_and_no_file(tmp_path, server, pin):
    with pytest.raises(ConnectionError, match='answers 404'):
        _fetch(dataclasses.replace(pin, path='nope'), tmp_path / 'f', server.url)
    with pytest.raises(ConnectionError, match='--from DIR'):
        _fetch(pin, tmp_path / 'f', 'http://127.0.0.1:9')
    assert not (tmp_path / 'f').exists()


# ---- corpora from a mirror ------------------------------------------------------


def test_every_name_stands_for_files():
    for name in FILES:
        assert bool(pins(name)) == (name not in ('dailydialog', 'm3ed', 'emowoz')), name
    assert download_corpus('demo') == {}
    assert len(pins()) > 150
    for p in pins():
        assert p.public or (p.file_here and len(p.git_blob_sha1) == 40)


def test_get_from_server(tmp_path, server, data):
    for p in pins('emorynlp'):
        server.files[f'{p.repo}/{p.commit}/{p.path}'] = (data / p.rel).read_bytes()
    assert set(
        download_corpus('emorynlp', base_url=server.url, root=tmp_path, progress=False).values()
    ) == {'downloaded'}
    assert set(
        download_corpus('emorynlp', base_url='http://127.0.0.1:9', root=tmp_path).values()
    ) == {'already here'}


def test_get_from_our_layout(tmp_path, data):
    got = download_corpus('iemocap6', from_dir=data, root=tmp_path)
    assert (
        set(got.values()) == {'copied'}
        and (tmp_path / 'iemocap_text/iemocap_utterances.csv').exists()
    )


def test_get_from_repository_layout_and_a_wrong_byte(tmp_path, data):
    mirror, home = tmp_path / 'mirror', tmp_path / 'home'
    for p in pins('mosei_released'):
        if p.public:
            to = mirror / p.repo / p.path
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes((data / p.rel).read_bytes())
    assert sorted(download_corpus('mosei_released', from_dir=mirror, root=home).values()) == [
        'copied',
        'copied',
        'not in the mirror',
    ]
    to.write_bytes(changed(to.read_bytes()))
    with pytest.raises(ValueError, match=f'{to.name}.*git blob sha1 .*refused'):
        download_corpus('mosei_released', from_dir=mirror, root=tmp_path / 'other')
    assert not (tmp_path / 'other' / p.rel).exists() and not list(
        (tmp_path / 'other').rglob(f'*{to.name}*')
    )


def test_the_corpora_here_are_the_pinned_ones(data):
    for p in pins():
        if p.file_here and (data / p.file_here).exists():
            assert not _mismatch(data / p.file_here, p), p.file_here
