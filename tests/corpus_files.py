"Files of corpora for tests: folders of links to real ones, and tiny pickles of each structure."

import os

import numpy as np

from erc.data.families import _STRUCTURES


def linked(src, dest, *skip):
    "Fill a folder with links to the files of another one, without those that start with `skip`."
    for f in src.rglob('*'):
        rel = f.relative_to(src)
        if f.is_file() and not str(rel).startswith(skip):
            (dest / rel).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(f, dest / rel)
    return dest


def family(structure, dims, seed=0, lengths=(3, 2, 4, 1, 2, 3, 2, 2, 2, 2, 2, 3)):
    "Make a tiny tuple of one structure: eleven training dialogues and a test one."
    rng = np.random.default_rng(seed)
    meld = structure.startswith('meld')
    names = [f'Ses0{1 + i % 4}F_{i}' for i in range(len(lengths) - 1)] + ['Ses05M_0']
    if meld:
        names = list(range(len(lengths)))

    def for_each(turns):
        return {name: turns(name, length) for name, length in zip(names, lengths)}

    def vectors(size):
        return for_each(lambda _, length: [rng.normal(size=size) for _ in range(length)])

    def speaker(i):
        return np.eye(9, dtype=int)[rng.integers(9)].tolist() if meld else 'MF'[i % 2]

    def label(name, length, i):
        if structure in ('avec9', 'multilogue_real'):
            return float(rng.normal())
        if structure == 'multilogue9':
            return int(name[-1]) % 2
        return (i + length) % 6

    fields = {
        'id': for_each(lambda name, length: [f'{name}_{i}' for i in range(length)]),
        'speaker': for_each(lambda _, length: [speaker(i) for i in range(length)]),
        'label': for_each(lambda name, length: [label(name, length, i) for i in range(length)]),
        'sentence': for_each(
            lambda name, length: [f'Line {i}, of "{name}".' for i in range(length)]
        ),
        'train': names[:-1] if meld else set(names[:-1]),
        'test': names[-1:],
        'sentiment': for_each(lambda _, length: [int(rng.integers(3)) for _ in range(length)]),
        **{m: vectors(size) for m, size in zip(('text', 'audio', 'visual'), dims)},
    }
    if structure == 'multilogue_real':
        structure = 'multilogue9'
    return tuple(fields[name] for name in _STRUCTURES[structure])


KINDS = {  # structure, or a variant of one -> sizes of text, audio and visual vectors
    'dialoguernn9': (100, 100, 512),
    'mmgcn9': (100, 1582, 342),
    'meld9': (600, 300, 1),
    'meld10': (600, 300, 342),
    'avec9': (100, 7, 5),
    'multilogue9': (300, 384, 35),
    'multilogue_real': (300, 384, 35),
}
