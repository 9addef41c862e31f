"Settings, the selection of an epoch, the loss of the logits, and the learning rate."

import json

import numpy as np
import pytest
import torch
from helpers import toy_batch

from erc.core import digest, root
from erc.nn.cells import Out
from erc.training.settings import Settings, _rate, _select, complete, criterion


def hyperparameters_of_records():
    "Every dict of training settings in the committed records, pretraining included."
    for path in sorted((root() / 'results' / 'records').rglob('*.json')):
        settings = json.loads(path.read_text(encoding='utf-8'))['settings']
        while settings:
            if settings['kind'] == 'model':
                yield path.stem, settings['hyperparameters']
            settings = settings.get('pretrain', {}).get('settings')


def test_settings_of_committed_records_keep_their_digest():
    "The digest of `to_dict()` is part of every record: it may never change."
    seen, defaults = 0, Settings().to_dict()
    for name, recorded in hyperparameters_of_records():
        given = {k: v for k, v in recorded.items() if k not in defaults or v != defaults[k]}
        for settings in (recorded, given):
            assert digest(Settings.from_dict(settings).to_dict()) == digest(recorded), name
        seen += 1
    assert seen > 100


def test_defaults():
    assert complete({}) == {
        'epochs': 20,
        'batch': 32,
        'optimiser': 'adamw',
        'lr': 1e-3,
        'weight_decay': 0.0,
        'warmup': 0.0,
        'decay': False,
        'clip': 0.0,
        'patience': 0,
        'class_weights': 'none',
        'dtype': 'float32',
    }


def test_optional_settings_appear_only_if_given():
    assert 'encoder_lr' not in complete({}) and 'betas' not in complete({})
    assert complete({'encoder_lr': 2e-5, 'tokens': 0})['encoder_lr'] == 2e-5
    assert complete({'tokens': 0})['tokens'] == 0
    assert complete({'betas': [0.9, 0.98]})['betas'] == [0.9, 0.98]


def test_settings_go_through_a_dict_and_back():
    settings = Settings(epochs=3, lr=[1e-4, 1e-3], class_weights=[1.0, 2.0], drop=0.5, drop_every=2)
    assert Settings.from_dict(settings.to_dict()) == settings
    assert Settings.from_dict(settings) is settings and complete(settings) == settings.to_dict()


def test_given_settings_are_not_changed():
    given = {'epochs': 1}
    complete(given)
    assert given == {'epochs': 1}


@pytest.mark.parametrize(
    'wrong, message',
    [
        ({'epoch': 3}, "unknown training setting 'epoch'; did you mean 'epochs'"),
        ({'learning_rate': 1.0}, "unknown training setting 'learning_rate'"),
        ({'epochs': 0}, 'epochs=0: expected a whole number of at least 1'),
        ({'epochs': 2.5}, 'epochs=2.5: expected a whole number'),
        ({'batch': [32, 0]}, 'batch=0'),
        ({'lr': 'fast'}, "lr='fast': expected a number of at least 0"),
        ({'lr': [1e-3, -1.0]}, 'lr=-1.0'),
        ({'clip': float('nan')}, 'clip=nan'),
        ({'dtype': 'float31'}, "unknown dtype 'float31'; did you mean 'float32'"),
        ({'decay': 'epoch'}, "unknown decay 'epoch'; did you mean 'epochs'"),
        ({'optimiser': 'sgd'}, "unknown optimiser 'sgd'"),
        ({'betas': [0.9, 1.0]}, 'two numbers from 0 to below 1'),
        ({'drop_every': 3}, 'drop_every=3 needs `drop`'),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError) as error:
        complete(wrong)
    assert message in str(error.value)


def test_selection_takes_the_first_best_finite_epoch():
    assert _select([0.1, 0.4, 0.4]) == 1
    assert list(_select([[np.nan, 0.2], [0.5, np.nan]])) == [1, 0]


def test_rate_with_warmup_and_linear_decay():
    falling = [(10 - i) / 8 for i in range(3, 10)]
    assert [_rate(i, 10, 0.2, True) for i in range(10)] == [0.5, 1, 1, *falling]
    assert _rate(9, 10, 0.0, False) == 1


def test_warmup_counted_in_steps():
    assert [_rate(i, 100, 4, False) for i in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert _rate(1199, 3240, 1200, True) == 1 and _rate(0, 3240, 1200, True) == 1 / 1200


def test_rate_along_a_cosine_in_every_epoch():
    cosine = [_rate(i, 20, 0.1, 'epochs', 5) for i in range(20)]
    assert cosine[:3] == [0.5, 1, 1]
    np.testing.assert_allclose(cosine[2:5], 0.5 + 0.5 * np.cos(np.pi * np.arange(3) / 3))
    np.testing.assert_allclose(cosine[5:10], 0.5 + 0.5 * np.cos(np.pi * np.arange(5) / 5))
    assert cosine[5:10] == cosine[10:15] == cosine[15:]


def test_loss_of_classes_equals_the_library():
    batch = toy_batch({'text': 4})
    logits = torch.randn(len(batch), 3, dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    ours = criterion('emotion', weight)(Out(logits), batch)
    theirs = torch.nn.functional.cross_entropy(logits, batch.targets['emotion'], weight)
    torch.testing.assert_close(ours, theirs)


def test_loss_of_values_ignores_missing_ones():
    batch = toy_batch({'text': 4}, classes=None)
    values = batch.targets['emotion']
    values[2] = float('nan')
    predictions = torch.zeros(len(batch), dtype=torch.float64)
    loss = criterion('emotion')(Out(predictions), batch)
    torch.testing.assert_close(loss, values[~values.isnan()].pow(2).mean())


def test_a_real_target_needs_one_value_a_row():
    batch = toy_batch({'text': 4}, classes=None)
    with pytest.raises(ValueError, match="target 'emotion' has shape .*, but the model returns"):
        criterion('emotion')(Out(torch.zeros(len(batch), 3)), batch)


def test_an_unknown_target_names_the_nearest():
    batch = toy_batch({'text': 4})
    with pytest.raises(ValueError, match="unknown target 'emotio'; did you mean 'emotion'"):
        criterion('emotio')(Out(torch.zeros(len(batch), 3)), batch)
