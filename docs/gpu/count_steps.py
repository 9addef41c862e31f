"""Count the training steps and tokens of every run that fine-tunes an encoder: `python docs/gpu/count_steps.py > docs/gpu/steps.csv`.

The corpora have to be there; 364_lease reads the table."""

import sys

import numpy as np
import pandas as pd

from erc.runs.fold import _wanted_seeds
from erc.runs.prepare import _prepare, _split_batches
from erc.runs.recipes import find_system, settings_of, wanted_runs
from erc.training.search import grid


def count(system, variant: str, corpus: str) -> dict:
    "Count what seed 0 reads in an epoch, and the steps of a run: a search, then the other seeds."
    ready, _ = _prepare(system, corpus)
    points = grid(settings_of(system, variant)['hyperparameters'])
    batches = _split_batches(system, ready, points[0], 0)[0]
    seeds = _wanted_seeds(system, [], range(system.seeds))['paper']
    ids = [x for b in batches for name, x in b.features.items() if name in system.token_features]
    trained = len(points) + len(seeds) - 1
    return {
        'run': f'{system.id}:{variant}@{corpus}',
        'batches': len(batches),
        'tokens': sum(int(np.count_nonzero(x)) for x in ids),
        'trained': trained,
        'epochs': points[0]['epochs'],
        'steps': len(batches) * points[0]['epochs'] * trained,
    }


if __name__ == '__main__':
    runs = [(find_system(key.system_id), key) for key in wanted_runs()]
    tuned = [(s, key) for s, key in runs if s.kind == 'model' and not s.vectorise]
    table = pd.DataFrame([count(s, key.variant, key.corpus) for s, key in tuned])
    table.to_csv(sys.stdout, index=False)
