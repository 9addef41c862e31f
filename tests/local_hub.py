"A server that answers what huggingface_hub asks to make a repository, upload a folder and download it."

import base64
import hashlib
import json
import os
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = 'a' * 40


class Hub(BaseHTTPRequestHandler):
    root: Path

    def log_message(self, *args):
        pass

    def answer(self, status, body=b'', **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {'Content-Length': len(body), **headers}.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        address = f'http://{self.headers["Host"]}'
        if self.path == '/api/repos/create':
            facts = json.loads(body)
            name = '/'.join(filter(None, [facts.get('organization'), facts['name']]))
            (self.root / name).mkdir(parents=True, exist_ok=True)
            return self.answer(200, {'url': f'{address}/{name}', 'name': name})
        if self.path == '/api/validate-yaml':
            return self.answer(200, {'errors': [], 'warnings': []})
        if '/preupload/' in self.path:
            files = json.loads(body)['files']
            modes = [
                {'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for f in files
            ]
            return self.answer(200, {'files': modes})
        if '/commit/' in self.path:
            folder = self.root / '/'.join(self.path.split('/')[3:5])
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file':
                    (folder / line['value']['path']).write_bytes(
                        base64.b64decode(line['value']['content'])
                    )
            name = '/'.join(self.path.split('/')[3:5])
            url = f'{address}/{name}/commit/{COMMIT}'
            return self.answer(200, {'commitUrl': url, 'commitOid': COMMIT})
        self.answer(404, {'error': self.path})

    def do_GET(self):
        parts = self.path.split('?')[0].strip('/').split('/')
        if parts[:2] == ['api', 'models']:
            folder = self.root / '/'.join(parts[2:4])
            if not folder.is_dir():
                return self.answer(
                    404, {'error': 'Repository not found'}, X_Error_Code='RepoNotFound'
                )
            if 'tree' in parts:
                return self.answer(200, [entry(path) for path in sorted(folder.iterdir())])
            files = [{'rfilename': path.name} for path in sorted(folder.iterdir())]
            return self.answer(200, {'id': '/'.join(parts[2:4]), 'sha': COMMIT, 'siblings': files})
        path = self.root.joinpath(*parts[:2], *parts[4:])
        if parts[2:3] != ['resolve'] or not path.is_file():
            return self.answer(404, {'error': self.path}, X_Error_Code='EntryNotFound')
        data = path.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        self.answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


def entry(path):
    "Describe a file as the hub lists it."
    etag = hashlib.sha256(path.read_bytes()).hexdigest()
    return {'type': 'file', 'path': path.name, 'size': path.stat().st_size, 'oid': etag}


@contextmanager
def serving(root: Path):
    "Serve a folder as a hub; yield the environment of a process that uses it."
    root.mkdir()
    server = ThreadingHTTPServer(('127.0.0.1', 0), type('LocalHub', (Hub,), {'root': root}))
    Thread(target=server.serve_forever, daemon=True).start()
    environment = {k: v for k, v in os.environ.items() if k != 'HF_HUB_OFFLINE'}
    environment |= {
        'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
        'HF_HOME': str(root.parent / 'cache'),
        'HF_TOKEN': 'hf_local',
        'HF_HUB_DISABLE_XET': '1',
        'no_proxy': '127.0.0.1',
    }
    try:
        yield environment
    finally:
        server.shutdown()
        server.server_close()
