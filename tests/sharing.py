"""Several processes at one file: records that gain seeds, downloads of one file, readers meanwhile."""

import functools
import hashlib
import multiprocessing
import os
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from interruptions import environment, leftovers, prepare_run

SPAWN = multiprocessing.get_context('spawn')


# ---- seeds


def _add_seed(home: str, seed: int, start):
    "Run one seed of the toy system when all are ready."
    os.environ.update(environment(Path(home)))
    from erc.runs.recipes import find_system
    from erc.runs.run import run_system

    system = find_system('toy/net')
    system.variants['paper'] = {'epochs': 1, 'batch': 64, 'lr': 1e-2}
    start.wait(600)
    run_system(system, 'toy/net:paper@demo', seeds=[seed], home=f'{home}/results', progress=False)


def _round(home: Path, start) -> list:  # sentences on what is wrong
    from erc.runs.records import find_record, read_records

    workers = [SPAWN.Process(target=_add_seed, args=(str(home), k, start)) for k in range(3)]
    for worker in workers:
        worker.start()
    wrong = []
    while any(worker.is_alive() for worker in workers):
        wrong += [f'a reader saw: {sentence}' for sentence in read_records(home / 'results')[1]]
        time.sleep(0.001)
    record = find_record('toy/net:paper@demo', home / 'results')
    if record is None or sorted(record.seeds) != [0, 1, 2]:
        wrong.append(f'seeds {record and record.seeds}')
    wrong += [f'exit code {w.exitcode}' for w in workers if w.exitcode]
    return wrong + [f'left: {path}' for path in leftovers(home)]


def add_seeds(rounds: int) -> list:
    "Let three processes add a seed each to one record, so many times."
    wrong = []
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            prepare_run(Path(scratch))
            wrong += [f'round {i}: {text}' for text in _round(Path(scratch), SPAWN.Barrier(3))]
    print(f'seeds: {rounds} rounds of three processes, {len(wrong)} wrong', *wrong, sep='\n  ')
    return wrong


# ---- downloads

BODY = bytes(range(256)) * 4000


class _Server(ThreadingHTTPServer):
    "Sends one file slowly, in 40 pieces; without an end if it is told so."

    endless = False
    sent = 0


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        wanted = self.headers.get('Range')
        start = int(wanted.split('=')[1].rstrip('-')) if wanted else 0
        self.send_response(206 if start else 200)
        if not self.server.endless:
            self.send_header('Content-Length', str(len(BODY) - start))
        self.end_headers()
        step = len(BODY) // 40
        try:
            for at in range(start, len(BODY), step):
                self.wfile.write(BODY[at : at + step])
                time.sleep(0.002)
            while self.server.endless:
                self.server.sent += self.wfile.write(BODY[:step])
        except OSError:  # the client hung up
            return


def serve(endless=False) -> _Server:
    server = _Server(('127.0.0.1', 0), _Handler)
    server.endless = endless
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@functools.cache
def pin():
    from erc.data.sources import _Pin

    sha1 = hashlib.sha1(b'blob %d\0' % len(BODY) + BODY).hexdigest()
    return _Pin('someone/repo', 'c' * 40, 'data/file.bin', sha1, len(BODY))


def download(dest: str, url: str, start=None):
    from erc.data.sources import _fetch

    if start:
        start.wait(600)
    _fetch(pin(), dest, url, progress=False)


def _pair(folder: Path, url: str) -> list:
    start, dest, wrong = SPAWN.Barrier(2), folder / 'file.bin', []
    both = [SPAWN.Process(target=download, args=(str(dest), url, start)) for _ in range(2)]
    for process in both:
        process.start()
    while any(process.is_alive() for process in both):
        if dest.exists() and dest.read_bytes() != BODY:
            wrong.append('a reader saw half a file')
        time.sleep(0.001)
    wrong += [f'exit code {process.exitcode}' for process in both if process.exitcode]
    if not dest.exists() or dest.read_bytes() != BODY:
        wrong.append('the file is not there')
    return wrong + [f'left: {path}' for path in leftovers(folder)]


def download_pairs(pairs: int) -> list:
    "Let two processes download one file at once, so many times."
    server, wrong = serve(), []
    for i in range(pairs):
        with tempfile.TemporaryDirectory() as scratch:
            found = _pair(Path(scratch), f'http://127.0.0.1:{server.server_port}')
            wrong += [f'pair {i}: {text}' for text in found]
    server.shutdown()
    server.server_close()
    print(f'downloads: {pairs} pairs at once, {len(wrong)} wrong', *wrong, sep='\n  ')
    return wrong
