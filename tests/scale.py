"""Processor time and memory at 1, 10 and 100 times MELD's size, and corpora of unusual shape."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

MELD = (1432, 13708, 7)  # dialogues, utterances and classes
WIDTH = 384


def corpus_of(dialogues, utterances, classes, *, speakers=6, longest=0, width=WIDTH, seed=0):
    "Make a corpus of random texts and vectors that say something about the label."
    from erc.data.corpus import Corpus

    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, utterances), dialogues - 1, replace=False))
    if longest:
        cuts = np.r_[longest, longest + 1 + np.arange(dialogues - 2)]
    lengths = np.diff(np.r_[0, cuts, utterances])
    number = np.repeat(np.arange(dialogues), lengths)
    turn = np.arange(utterances) - np.repeat(np.r_[0, cuts], lengths)
    label = rng.integers(0, classes, utterances)
    split = np.repeat(['train', 'dev', 'test'], [7, 1, 2])
    # the speakers of a dialogue are three of all
    speaker = (number * 3 + rng.integers(0, 3, utterances)) % speakers
    table = pd.DataFrame(
        {
            'dialogue': [f'd{i:07d}' for i in number],
            'turn': turn,
            'speaker': [f's{i}' for i in speaker],
            'text': [f'words {i}' for i in range(utterances)],
            'label': label,
            'split': split[number % 10],
        }
    )
    means = rng.normal(size=(classes, width)).astype(np.float32)
    x = np.empty((utterances, width), np.float32)
    for rows in np.array_split(np.arange(utterances), 1 + utterances // 50_000):
        x[rows] = means[label[rows]] * 0.3 + rng.normal(size=(len(rows), width))
    names = tuple(f'c{i}' for i in range(classes))
    return Corpus('own', 'emotion', names, table).with_features(text=x)


def peak() -> int:  # MB
    "Return the peak memory of this process; Linux's usage counts that of the parent as well."
    status = Path('/proc/self/status')
    if status.exists():
        return int(status.read_text().split('VmHWM:')[1].split()[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Clock:
    "Seconds of the processor and peak memory of named steps."

    def __init__(self):
        self.steps, self.start = {}, time.process_time()

    def __call__(self, name: str):
        now = time.process_time()
        self.steps[name] = (round(now - self.start, 2), peak())
        self.start = time.process_time()


def system():
    "Return the contextual GRU that reads a corpus's own text vectors."
    from erc.runs.recipes import System

    return System(
        'scale',
        'gru',
        'GRU',
        '',
        'erc.models.recurrent:ContextGRU',
        corpora=['own'],
        features=['text'],
        cross=False,
        variants={'tuned': {'epochs': 1, 'batch': 16}},
    )


def work(home: str) -> dict:
    "Load a corpus, train an epoch, evaluate, and write and read what a report shows."
    import torch

    os.environ |= {'ERC_DATA': home, 'ERC_CACHE': f'{home}/cache'}
    from erc.data.registry import load_corpus
    from erc.runs.records import find_record
    from erc.runs.run import run_system

    torch.set_num_threads(1)
    clock = Clock()
    load_corpus('own')
    clock('load')
    run_system(system(), 'scale/gru:tuned@own', seeds=[0], home=f'{home}/results', progress=False)
    clock('run: load, an epoch, dev and test, record')
    record = find_record('scale/gru:tuned@own', f'{home}/results')
    repr(record), record._repr_html_(), record.interval('macro_f1')
    clock('report: read the record, two intervals')
    return clock.steps


def measured(*shape, **options) -> dict:
    "Write a corpus, and measure the work on it in a process of its own."
    from interruptions import write_corpus

    with tempfile.TemporaryDirectory() as home:
        write_corpus(corpus_of(*shape, **options), Path(home, 'own'))
        command = [sys.executable, __file__, home]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return {'failed': done.stderr.strip().splitlines()[-1:]}
        return json.loads(done.stdout.splitlines()[-1])


UNUSUAL = {
    'a dialogue of 5,000 turns': dict(shape=(12, 5200, 7), longest=5000),
    '10,000 speakers': dict(shape=(4000, 20_000, 7), speakers=10_000),
    '500 classes': dict(shape=(1432, 13708, 500)),
}


def measure(times=(1, 10, 100)) -> list:
    "Print seconds and peak memory for each size and shape; return sentences on what failed."
    wrong, dialogues, utterances, classes = [], *MELD
    for n in times:
        steps = measured(dialogues * n, utterances * n, classes)
        wrong += [f'{n} times MELD: {steps}'] if 'failed' in steps else []
        for name, found in steps.items():
            print(f'{n:4} times MELD, {name}: {found[0]} s, peak {found[-1]} MB', flush=True)
    for name, options in UNUSUAL.items():
        steps = measured(*options['shape'], **{k: v for k, v in options.items() if k != 'shape'})
        wrong += [f'{name}: {steps}'] if 'failed' in steps else []
        print(f'{name}: {steps}', flush=True)
    return wrong


if __name__ == '__main__':
    print(json.dumps(work(sys.argv[1])))
