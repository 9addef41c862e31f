"CHFusion: numbers of an own reading of the authors' Keras code (SenticNet/hfusion at f18597e), which cannot run here."

import pytest
from baseline_golden import T, check_dialogues_are_independent, check_seeds_stack, flat, part
from helpers import close, toy_batch

from erc.data.batches import from_padded
from erc.models.chfusion import CHFusion
from erc.nn.cells import weighted_nll

SIZES = {'text': 4, 'audio': 3, 'visual': 2}
PAIRS = {'ta': 'text audio', 'tv': 'text visual', 'av': 'audio visual'}


def batch_of(g):
    features = {m: T(g[f'in.{m}']) for m in SIZES}
    return from_padded(features, T(g['in.label']) * 0, g['in.lengths'], {'emotion': g['in.label']})


def real_rows(g, x):
    return x[g['in.umask'] > 0]


def test_the_levels_are_the_reading(golden):
    g = golden('baselines/chfusion_own_reading')
    model, batch = CHFusion.from_released(part(g, 'param.')), batch_of(g)
    pairs = model.read_pairs(batch)
    x = {m: linear(batch.features[m]).tanh() for m, linear in model.project.items()}
    for short, name in PAIRS.items():
        fused = model.pairs[name].fuse([x[m] for m in name.split(' ')])
        close(flat(batch, fused), real_rows(g, g[f'out.{short}.fused']))
        feature, logits = pairs[name]
        close(flat(batch, feature), real_rows(g, g[f'out.{short}.features']))
        close(flat(batch, logits.log_softmax(-1)), g[f'out.{short}.log_prob'])
    fused = model.top.fuse([pairs[name][0] for name in PAIRS.values()])
    close(flat(batch, fused), real_rows(g, g['out.tri.fused']))
    close(flat(batch, model(batch).logits.log_softmax(-1)), g['out.tri.log_prob'])


def test_the_gradients_are_the_readings(golden):
    g = golden('baselines/chfusion_own_reading')
    batch = batch_of(g)
    model = CHFusion.from_released(part(g, 'param.'))
    for net in (*model.pairs.values(), model.top):
        net.rate = net.gru.rate = 0
    out = model(batch.at(0, 0))
    for short, name in PAIRS.items():
        close(out.losses[name], g[f'out.{short}.loss'])
    loss = weighted_nll(out.logits.log_softmax(-1), batch.targets['emotion'])
    close(loss, g['out.tri.loss'])
    (loss + sum(out.losses.values())).backward()
    expected = dict(CHFusion.from_released(part(g, 'grad.')).named_parameters())
    for name, p in model.named_parameters():
        close(p.grad, expected[name])


@pytest.mark.parametrize('names', [('text', 'audio'), ('text', 'audio', 'visual')], ids=len)
def test_what_holds_of_any_model(names):
    sizes = {m: SIZES[m] for m in names}
    batch = toy_batch(sizes)

    def make():
        return CHFusion(sizes, 3, width=5, units=4, feature=3)

    check_dialogues_are_independent(make().double(), batch)
    check_seeds_stack(make, batch)


def test_parameters():
    model = CHFusion(dict.fromkeys(SIZES, 100), 4)
    assert sum(p.numel() for p in model.parameters()) == 8_677_716
