"Invented conversations in which a word tells the emotion, and a model trained on them."

import numpy as np
import pandas as pd

import erc

WORDS = {'joy': ['great', 'love', 'sunny'], 'sadness': ['lost', 'rain', 'alone'], 'neutral': ['so']}


def chats(dialogues=60, turns=8, seed=0):
    "Return a corpus; dialogues 0 to 9 are for test, 10 to 14 for dev."
    rng, rows = np.random.default_rng(seed), []
    classes = tuple(WORDS)
    for d in range(dialogues):
        for t in range(turns):
            label = int(rng.integers(3))
            words = rng.choice(WORDS[classes[label]]), rng.choice(['and then', 'you see', 'well'])
            split = 'test' if d < 10 else 'dev' if d < 15 else 'train'
            text = f'{words[1]} it was {words[0]} {rng.integers(9)}'
            rows.append((f'd{d}', t, 'ABC'[rng.integers(3)], text, label, split))
    columns = ['dialogue', 'turn', 'speaker', 'text', 'label', 'split']
    return erc.Corpus('chats', 'emotion', classes, pd.DataFrame(rows, columns=columns))


def trained(encoder='hashing', seeds=2, **options):
    "Return a small model of these conversations."
    corpus = erc.encode(chats(), encoder, progress=False)
    settings = {'epochs': 10, 'lr': 1e-2, 'batch': 8}
    return erc.train(
        'context_gru',
        corpus,
        ['text'],
        seeds=seeds,
        hyperparameters=settings,
        progress=False,
        hidden=8,
        **options,
    )
