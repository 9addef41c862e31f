"""Memory and time of training at 1, 10 and 100 times MELD's size with 768 numbers a turn.

    python tests/cluster/memory.py [TIMES ...]

Features are made a block at a time on the disk (100 times MELD takes 4 GB), so that nothing here needs
memory for them either. Each size is trained for an epoch in a process of its own, which prints its peak
memory; up to ten times MELD the same is done with all features in memory, and must give the same record."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scale import MELD, Clock, corpus_of, system

WIDTH, BLOCK = 768, 20_000
IN_MEMORY = 10  # the largest size that is also tried in memory


def header(rows: int) -> bytes:
    end = rows * WIDTH * 4
    about = {
        'features/text': {'dtype': 'F32', 'shape': [rows, WIDTH], 'data_offsets': [0, end]},
        'has/text': {'dtype': 'BOOL', 'shape': [rows], 'data_offsets': [end, end + rows]},
    }
    text = json.dumps(about).encode()
    text += b' ' * (-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text


def write_features(path: Path, labels: np.ndarray, classes: int):
    "Write vectors that say something about the label, some rows at a time."
    rng = np.random.default_rng(0)
    means = rng.normal(size=(classes, WIDTH)).astype(np.float32) * 0.3
    with open(path, 'wb') as file:
        file.write(header(len(labels)))
        for start in range(0, len(labels), BLOCK):
            own = labels[start : start + BLOCK]
            noise = rng.standard_normal((len(own), WIDTH), np.float32)
            file.write((means[own] + noise).tobytes())
        file.write(np.ones(len(labels), bool).tobytes())


def write_corpus(times: int, folder: Path):
    "Save a corpus whose features are written by `write_features`."
    dialogues, turns, classes = (n * m for n, m in zip(MELD, (times, times, 1)))
    corpus = corpus_of(dialogues, turns, classes, width=1)
    corpus.save(folder)
    path = folder / 'features.safetensors'
    write_features(path, corpus.table.label.to_numpy(), classes)
    about = json.loads((folder / 'corpus.json').read_text())
    with open(path, 'rb') as file:
        about['sha256'][path.name] = hashlib.file_digest(file, 'sha256').hexdigest()
    (folder / 'corpus.json').write_text(json.dumps(about))


def work(home: str, in_memory: bool) -> dict:
    "Train an epoch; return seconds of the processor, peak memory, and a digest of the record."
    os.environ |= {'ERC_DATA': home, 'ERC_CACHE': f'{home}/cache'}
    import erc.data.saved
    from erc.data.registry import load_corpus
    from erc.runs.records import find_record
    from erc.runs.run import run_system

    if in_memory:
        erc.data.saved._MAPPED = sys.maxsize
    clock, key, results = Clock(), 'scale/gru:tuned@own', f'{home}/results-{in_memory}'
    load_corpus('own')
    clock('load')
    run_system(system(), key, seeds=[0], home=results, progress=False)
    clock('run')
    fold = find_record(key, results).folds['paper']
    seen = fold.predictions.tobytes() + fold.curves['loss'].tobytes() + fold.curves['dev'].tobytes()
    return {**clock.steps, 'digest': hashlib.sha256(seen).hexdigest()}


def measured(home: str, in_memory=False) -> dict:
    command = [sys.executable, __file__, '--work', home, str(int(in_memory))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def show(times: int, where: str, found: dict, size: int):
    (load, held), (run, peak) = found['load'], found['run']
    print(
        f'{times:4} times MELD, {size / 2**20:6.0f} MB of features {where}: load {load:.0f} s, '
        f'{held} MB; with an epoch of training {load + run:.0f} s, peak {peak} MB',
        flush=True,
    )


def measure(times: int) -> bool:
    "Measure a size; return whether the record is the same as with all features in memory."
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, 'own')
        write_corpus(times, folder)
        size = (folder / 'features.safetensors').stat().st_size
        found = measured(home)
        show(times, 'as erc reads them', found, size)
        if times > IN_MEMORY:
            return True
        with contextlib.suppress(OSError):
            shutil.rmtree(Path(home, 'cache'))
        other = measured(home, in_memory=True)
        show(times, 'all in memory    ', other, size)
        return found['digest'] == other['digest']


if __name__ == '__main__':
    if sys.argv[1:2] == ['--work']:
        print(json.dumps(work(sys.argv[2], sys.argv[3] == '1')))
    else:
        same = [measure(int(n)) for n in sys.argv[1:] or (1, 10, 100)]
        print('records are the same to the last bit' if all(same) else 'records DIFFER')
        sys.exit(not all(same))
