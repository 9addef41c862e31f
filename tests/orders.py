"""The same seed in other groups, processes and orders of dialogues is the same bit for bit; what other
numbers of threads change is measured."""

import dataclasses
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from interruptions import own_corpus, write_corpus

THREADS = (2, 4)
HYPERPARAMETERS = {'epochs': 2, 'batch': 8, 'lr': 1e-3, 'class_weights': 'inverse'}


def systems() -> dict:
    "Return one system for each model that reads text alone and has no target of its own, by class."
    from erc.runs.recipes import load_recipe, papers

    found: dict = {}
    for system in (s for paper in papers() for s in load_recipe(paper).systems.values()):
        plain = not (system.pretrain or system.targets or system.weights)
        if system.kind == 'model' and system.vectorise and plain:
            found.setdefault(system.model.partition(':')[2], system)
    return found


def on_own_texts(system):
    "Return a system as it is trained on the texts of one's own corpus."
    return dataclasses.replace(
        system,
        data='erc.data.registry:load_corpus',
        data_args={},
        encode={'text': 'text'},
        encoder='hashing',
        features=['text'],
        target='emotion',
        slices='',
        probe='',
        decisions='',
        cross=False,
        variants={'tuned': HYPERPARAMETERS},
    )


def shuffled(corpus, seed=1):
    "Return a corpus whose dialogues are listed in another order."
    names = corpus.table.dialogue.unique()
    rank = dict(zip(np.random.default_rng(seed).permutation(names), range(len(names))))
    order = np.argsort(corpus.table.dialogue.map(rank), kind='stable')
    return corpus.replace(table=corpus.table.iloc[order].reset_index(drop=True))


def folds_of(system, home: Path, data: str, groups, threads=1) -> dict:
    "Train seeds in groups, one call each; return what the record says of each seed."
    from erc.runs.run import run_system

    os.environ['ERC_DATA'], before = str(home / data), torch.get_num_threads()
    os.environ['OMP_NUM_THREADS'] = str(threads)  # else one thread trains
    torch.set_num_threads(threads)
    key = f'{system.id}:tuned@own'
    with tempfile.TemporaryDirectory() as results:
        for seeds in groups:
            options = dict(seeds=seeds, home=results, progress=False)
            record = run_system(system, key, **options)
    torch.set_num_threads(before)
    fold = record.folds['paper']
    parts = {'loss': fold.curves['loss'], 'dev': fold.curves['dev'], 'test': np.array(fold.test)}
    parts |= {'predictions': fold.predictions, 'confusions': fold.confusions['all']}
    order = np.argsort(fold.seeds)
    return {name: np.asarray(x)[order] for name, x in parts.items()}


def differing(a: dict, b: dict) -> list:
    return [name for name in a if not np.array_equal(a[name], b[name], equal_nan=True)]


def compare_system(name: str, system, home: Path) -> list:
    "Return sentences on what is not the same for one model, and print what threads change."
    system, wrong = on_own_texts(system), []
    base = folds_of(system, home, 'listed', [[0, 1, 2]])
    others = {
        'seeds one after another': folds_of(system, home, 'listed', [[2], [0], [1]]),
        'dialogues in another order': folds_of(system, home, 'shuffled', [[0, 1, 2]]),
    }
    for what, other in others.items():
        wrong += [f'{name}, {what}: {part} differs' for part in differing(base, other)]
    changes = []
    for threads in THREADS:
        other = folds_of(system, home, 'listed', [[0, 1, 2]], threads)
        loss = np.nanmax(np.abs(base['loss'] - other['loss']) / np.abs(base['loss']))
        moved = int((base['predictions'] != other['predictions']).sum())
        changes.append(f'{threads} threads: loss by {loss:.1e}, {moved} predictions')
    size = base['predictions'].size
    print(f'{name}: {len(wrong)} wrong; of {size} predictions and losses change with {changes}')
    return wrong


def compare_orders(only=()) -> list:
    "Compare each model; a model that cannot read this corpus is named and left out."
    wrong, refused, compared, before = [], [], 0, os.environ.get('ERC_DATA')
    with tempfile.TemporaryDirectory() as scratch:
        home, corpus = Path(scratch), own_corpus(40, 9)
        write_corpus(corpus, home / 'listed' / 'own')
        write_corpus(shuffled(corpus), home / 'shuffled' / 'own')
        os.environ['ERC_CACHE'] = str(home / 'cache')
        for name, system in systems().items():
            if only and name not in only:
                continue
            try:
                wrong += compare_system(name, system, home)
                compared += 1
            except (ValueError, KeyError, TypeError, RuntimeError) as e:
                refused.append(f'{name} ({str(e)[:60]})')
    os.environ['ERC_DATA'] = before or ''
    print(f'orders: {compared} models compared, {len(wrong)} wrong; left out: {"; ".join(refused)}')
    for sentence in wrong:
        print(f'  {sentence}')
    return wrong
