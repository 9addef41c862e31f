"The curriculum: golden numbers of the authors' module, and its limits."

import numpy as np
import pytest
import torch
from helpers import close

from erc.nn.curriculum import Curriculum, _class_means, _difficulty, _distance, _keep_probability


def test_curriculum_matches_authors(golden):
    g = golden('mmspcl/spcl_curriculum')
    z, labels = torch.from_numpy(g['reps']), torch.from_numpy(g['labels'])
    centres, members = _class_means(z, labels, 3)
    close(centres, g['centers'])
    assert members.tolist() == np.bincount(g['labels']).tolist()
    close(_distance(z, centres), g['distance'])
    hard = _difficulty(z, labels, centres)
    close(hard, g['difficulty'])
    assert hard.argsort().tolist() == g['order_easy_to_hard'].tolist()
    for epoch, probability in enumerate(g['keep_prob_by_rank']):
        close(_keep_probability(11, epoch, 4), probability)
        close(probability.sum(), g['expected_size'][epoch])


def test_later_epochs_and_single_rows():
    close(_keep_probability(5, 9, 4), np.full(5, 0.5))
    close(_keep_probability(1, 0, 4), [0.5])
    assert len(_keep_probability(0, 0, 4)) == 0


def test_bad_options():
    with pytest.raises(ValueError, match='epochs=0'):
        _keep_probability(3, 0, 0)
    with pytest.raises(ValueError, match="unknown curriculum 'hard'"):
        Curriculum('hard')
    for extra in (-0.1, 2):
        with pytest.raises(ValueError, match=f'extra={extra}: give a share of the extra questions'):
            Curriculum(extra=extra)
    with pytest.raises(ValueError, match='has a row 23, but the model has rows=10'):
        Curriculum(rows=10).eligible(torch.arange(24), None)
