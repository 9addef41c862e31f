"What a training step costs: operations, seconds, and batches of random dialogues."

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import erc.runs.bench as bench
from erc.nn.cells import Out
from erc.runs.recipes import find_system
from erc.training.bench import (
    _fine_tuning_speed,
    _lengths_of,
    _operations,
    _step_seconds,
    _toy_dialogues,
    _training_costs,
)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 2)

    def forward(self, batch):
        return Out(self.out(batch.features['text']))


BATCH = _toy_dialogues({'text': 8}, 'emotion', (4, 9, 3))


@pytest.mark.parametrize(
    'shape',
    [(108, 5361, 110), (1, 7, 7), (3, 5, 3), (3, 9, 3), (64, 64, 1), (10, 100, 91), (10, 99, 10)],
)
def test_lengths_of_a_toy_batch(shape):
    n = _lengths_of(*shape)
    assert (len(n), sum(n), max(n)) == shape and min(n) >= 1


@pytest.mark.parametrize('shape', [(3, 4, 3), (3, 10, 3)])
def test_impossible_lengths(shape):
    with pytest.raises(ValueError, match='cannot have'):
        _lengths_of(*shape)


def test_random_dialogues_have_the_wanted_shape():
    assert len(BATCH) == 9 and len(BATCH.sizes) == 3 and BATCH.sizes[0] == 4
    assert BATCH.features['text'].shape == (9, 8) and BATCH.features['text'].dtype == torch.float32
    again = _toy_dialogues({'text': 8}, 'emotion', (4, 9, 3))
    assert torch.equal(BATCH.features['text'], again.features['text'])


def test_operations_count_forward_and_backward():
    assert _operations(Linear, BATCH, 'emotion') == 2 * (2 * 9 * 8 * 2)


def test_costs_have_a_line_for_each_number_of_seeds():
    costs = _training_costs(Linear, BATCH, 'emotion', (1, 3))
    assert costs.seeds.tolist() == [1, 3] and costs.GFLOP[1] == pytest.approx(3 * costs.GFLOP[0])
    times = costs[['alone ms', 'stacked ms', 'product ms', 'best / product']]
    assert (times > 0).all().all() and costs['captured ms'].isna().all()


def test_a_step_cannot_be_captured_on_a_cpu():
    assert math.isnan(_step_seconds(Linear, BATCH, 'emotion', 1, 'captured'))


def test_unknown_target_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'emotion'"):
        _operations(Linear, BATCH, 'emotio')


def test_fine_tuning_counts_tokens_that_are_not_padding():
    padded = _toy_dialogues({'text': 8}, 'emotion', (4, 9, 3))
    padded.features['text'][:, 5:] = 0
    batches = [replace(b, widths={'text': (8,) * 9}) for b in (BATCH, padded)]
    speed = _fine_tuning_speed(Linear, batches, 'emotion', {'epochs': 1}, steps=2)
    assert speed['pairs'] == 18 and speed['tokens a pair'] == round((8 + 5) / 2)


# ---- limits of a device


def test_limits_are_those_of_the_device_and_are_compared(monkeypatch):
    small = {'shape': (2, 3, 2), 'sizes': {'sentence': 4}, 'limits': {'cpu': {'1': 1e6, '2': 1e-6}}}
    monkeypatch.setattr(bench, '_BENCHES', {'shapes/gruarc_mosi': small})
    lines = bench._check_limits('cpu')
    assert [line['seeds'] for line in lines] == [1, 2]
    assert [line['ok'] for line in lines] == [True, False]
    assert all(line['ms'] > 0 for line in lines) and lines[0]['limit ms'] == 1e6


def test_a_device_without_limits_is_not_timed():
    assert bench._check_limits('cpu') == []
    assert bench._limits_of('shapes/gruarc_mosi', 'cuda') == {1: 60, 20: 100}


def test_benchmarks_name_systems_and_options_that_exist():
    known = {'shape', 'sizes', 'classes', 'limits'}
    for name, options in bench._BENCHES.items():
        assert find_system(name).kind == 'model' and set(options) <= known
