"Simulated test sets whose true score is known."

import math

import numpy as np
from scipy import stats
from scipy.special import ndtr

from erc.evidence.metrics import weighted_f1


def turns_of(dialogues):
    "Return the range of dialogue lengths of IEMOCAP (few dialogues) or MELD (many)."
    return (5, 15) if dialogues > 100 else (30, 80)


def utterances(g, dialogues, C=4, turns=None):
    "Return dialogue, class, difficulty and shared noise of each utterance, (N,) each."
    T = g.integers(*(turns or turns_of(dialogues)), dialogues)
    d = np.repeat(np.arange(dialogues), T)
    y = g.choice(C, len(d), p=[0.45, 0.3, 0.15, 0.1])
    base = 0.65 + g.normal(0, 0.08, dialogues)[d] + np.array([0.1, 0, -0.1, -0.15])[y]
    return d, y, base, g.normal(size=len(d))


def world(g, dialogues, seeds=5, seed_sd=0.02, C=4, gain=0.0, turns=None, same=None):
    """Return counts (S, D, C, C) of a simulated system, and the utterances it was tested on.

    Classes are imbalanced, dialogues and classes differ in difficulty, seeds share a part of
    their errors. `same` are the utterances of another system."""
    same = utterances(g, dialogues, C, turns) if same is None else same
    d, y, base, noise = same
    u = stats.norm.cdf(math.sqrt(0.6) * noise + math.sqrt(0.4) * g.normal(size=(seeds, len(d))))
    right = u < np.clip(base + gain + g.normal(0, seed_sd, (seeds, 1)), 0.01, 0.99)
    p = np.where(right, y, (y + g.integers(1, C, (seeds, len(d)))) % C)
    cell = ((np.arange(seeds)[:, None] * dialogues + d) * C + y) * C + p
    counts = np.bincount(cell.ravel(), minlength=seeds * dialogues * C * C)
    return counts.reshape(seeds, dialogues, C, C), same


def truth(dialogues, seed_sd=0.02, gain=0.0, worlds=60):
    "Return weighted F1 of the mean seed on endlessly many dialogues of that kind."
    turns, many = turns_of(dialogues), 800 if dialogues > 100 else 250
    scores = []
    for i in range(worlds):
        g = np.random.default_rng([99, i])
        counts, _ = world(g, many, 60, seed_sd, gain=gain, turns=turns)
        scores.append(weighted_f1(counts.sum(1)).mean())
    return np.mean(scores)


def dialogues_of(g, dialogues, turns=None, C=4):
    """Return dialogue, class, difficulty and shared noise of each utterance, (N,) each.

    As `utterances`, with a mixture of classes of its own in each dialogue: overdispersed counts."""
    T = g.integers(*(turns or turns_of(dialogues)), dialogues)
    d = np.repeat(np.arange(dialogues), T)
    mixtures = g.dirichlet(6 * np.array([0.45, 0.3, 0.15, 0.1]), dialogues).cumsum(1)
    y = (g.random(len(d))[:, None] > mixtures[d, : C - 1]).sum(1)
    base = 0.65 + g.normal(0, 0.08, dialogues)[d] + np.array([0.1, 0, -0.1, -0.15])[y]
    return d, y, base, g.normal(size=len(d))


def folds_of(g, same, seeds=(2, 2), seed_sd=0.02, gain=0.0, own_sd=0.04, C=4):
    """Return counts by fold, (S_f, D_f, C, C) each, of a system tested once on each dialogue.

    `seeds` is the number of runs of each fold; dialogues take turns among folds. `own_sd` is what
    the system makes of single dialogues, `seed_sd` the luck of each run."""
    d, y, base, noise = same
    dialogues = d[-1] + 1
    level = base + gain + g.normal(0, own_sd, dialogues)[d]
    folds = []
    for f, S in enumerate(seeds):
        rows = d % len(seeds) == f
        own = g.normal(size=(S, rows.sum()))
        u = ndtr(math.sqrt(0.6) * noise[rows] + math.sqrt(0.4) * own)
        right = u < np.clip(level[rows] + g.normal(0, seed_sd, (S, 1)), 0.01, 0.99)
        p = np.where(right, y[rows], (y[rows] + g.integers(1, C, own.shape)) % C)
        D = len(range(f, dialogues, len(seeds)))
        cell = ((np.arange(S)[:, None] * D + d[rows] // len(seeds)) * C + y[rows]) * C + p
        folds.append(np.bincount(cell.ravel(), minlength=S * D * C * C).reshape(S, D, C, C))
    return folds


def true_score(turns, worlds=10, **options):
    "Return weighted F1 of a system on endlessly many dialogues of that kind, with many seeds."
    scores = []
    for i in range(worlds):
        g = np.random.default_rng([98, i])
        same = dialogues_of(g, 2000, turns)
        folds = folds_of(g, same, [40], **options)
        scores.append(weighted_f1(folds[0].sum(1)).mean())
    return float(np.mean(scores))
