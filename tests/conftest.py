"Where the tests find real corpora and golden numbers; each test that needs one skips, with the reason, where it is missing."

import os
from pathlib import Path

os.environ.setdefault('HF_HUB_OFFLINE', '1')
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get('ERC_SHARED', ROOT.parent / 'shared'))
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
    "name -> dict of arrays computed with the authors' own code."

    def load(name):
        path = SHARED / 'golden' / f'{name}.npz'
        if not path.exists():
            pytest.skip(f'golden numbers {name} are not here')
        with np.load(path, allow_pickle=False) as z:
            return {k: z[k] for k in z}

    return load


@pytest.fixture(scope='session')
def public(data, tmp_path_factory):
    "The folder of real corpora without the files that were joined from public ones."
    from corpus_files import linked

    from erc.data.sources import pins

    joined = tuple(pin.rel for pin in pins() if not pin.public)
    return linked(data, tmp_path_factory.mktemp('public'), *joined)
