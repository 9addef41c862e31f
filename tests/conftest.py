"Where the tests find real corpora and golden arrays; a test skips, with the reason, without its own."

import os
from pathlib import Path

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault(
    'OMP_NUM_THREADS', '1'
)  # small tensors: more threads only wait for each other
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get('ERC_SHARED', ROOT.parent / 'shared'))
GOLDEN = (ROOT / 'tests' / 'golden', SHARED / 'golden')
if not os.environ.get('ERC_DATA') and (SHARED / 'data').is_dir():
    os.environ['ERC_DATA'] = str(SHARED / 'data')


@pytest.fixture(scope='session')
def data():
    "The folder of real corpora."
    home = Path(os.environ.get('ERC_DATA', ''))
    if not (home / 'meld').is_dir():
        pytest.skip('real corpora are not here: set ERC_DATA to their folder')
    return home


@pytest.fixture(scope='session')
def golden():
    "Return a function from a name to a dict of arrays; tests/golden/README.md says their origin."

    def load(name):
        path = next((p for folder in GOLDEN if (p := folder / f'{name}.npz').exists()), None)
        if path is None:
            pytest.skip(f'no golden arrays {name}: set ERC_SHARED to the folder that has golden/')
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope='session')
def public(data, tmp_path_factory):
    "The folder of real corpora without the files that were joined from public ones."
    from corpus_files import linked

    from erc.data.sources import pins

    joined = tuple(pin.rel for pin in pins() if not pin.public)
    return linked(data, tmp_path_factory.mktemp('public'), *joined)
