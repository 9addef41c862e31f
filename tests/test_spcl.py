"SPCL: golden numbers of the authors' module, and what must hold of loss, model and section."

import ast
import dataclasses

import nbformat
import numpy as np
import pytest
import torch
from helpers import close

from erc.core import root
from erc.data.batches import from_padded, make_batches
from erc.data.sentence_encoders import toy_encoder
from erc.models.spcl import SPCL, _similarity, _spcl_anchors, spcl_loss, supcon_loss
from erc.nn.curriculum import _class_means, _difficulty, _keep_probability
from erc.nn.encoders import _tokenizer_of
from erc.report.artefacts import artefacts
from erc.report.comparison import comparison
from erc.runs.recipes import find_system, load_recipe
from erc.runs.run import run_system
from erc.studies.mmspcl import _text_rows, load_prompts
from erc.training.engine import Single, Stack, Steps
from erc.training.fit import fit
from erc.training.settings import criterion

T = torch.from_numpy
LOSSES = ['spcl', 'supcon', 'ce']


# ---- golden numbers ----------------------------------------------------------------------------


@pytest.fixture(scope='session')
def g(golden):
    return golden('mmspcl/spcl_loss')


def check_loss(reps, labels, prototypes, loss, grad, **options):
    "Compare loss and gradient with golden numbers."
    x = T(reps).clone().requires_grad_()
    ours = spcl_loss(x, labels, prototypes, tau=0.08, **options)
    ours.backward()
    close(ours, loss)
    close(x.grad, grad)


@pytest.mark.parametrize('case', ['caseA', 'caseB', 'caseC'])
@pytest.mark.parametrize('variant', ['coupled', 'decoupled'])
def test_loss_as_coded(g, case, variant):
    expected = {k: g[f'{case}_{variant}_{k}'] for k in ('loss', 'grad', 'per_sample')}
    labels, prototypes = T(g['labels']), T(g[f'{case}_prototypes'])
    loss, grad = expected['loss'], expected['grad']
    check_loss(g['reps'], labels, prototypes, loss, grad, variant=variant)
    anchors, positives = _spcl_anchors(T(g['reps']), labels, prototypes, tau=0.08, variant=variant)
    close(anchors, expected['per_sample'])
    close(positives, g['n_pos_incl_prototype'])


@pytest.mark.parametrize('case', ['caseA', 'caseB', 'caseC'])
def test_loss_as_printed(g, case):
    inputs = T(g['reps']), T(g['labels']), T(g[f'{case}_prototypes'])
    options = dict(tau=0.08, denominator='paper')
    close(_spcl_anchors(*inputs, **options)[0], g[f'{case}_paper_eq_per_sample'])
    close(spcl_loss(*inputs, **options), g[f'{case}_paper_eq_mean'])


def test_threshold(g):
    "A batch that is nearly solved, with and without the filter."
    reps, labels, prototypes = g['easy_reps'], T(g['easy_labels']), T(g['easy_queues']).mean(1)
    coupled = g['easy_coupled_loss_thr0.3'], g['easy_coupled_grad_thr0.3']
    check_loss(reps, labels, prototypes, *coupled)
    decoupled = g['easy_decoupled_loss_thr0'], g['easy_decoupled_grad_thr0']
    check_loss(reps, labels, prototypes, *decoupled, variant='decoupled')
    unfiltered = spcl_loss(T(reps), labels, prototypes, tau=0.08, threshold=0)
    close(unfiltered, g['easy_coupled_loss_thr0'])
    anchors, _ = _spcl_anchors(T(reps), labels, prototypes, tau=0.08)
    close(anchors, g['easy_per_sample'])
    close(anchors.mean(), g['easy_coupled_loss_mean_nofilter'])


def test_filtered_anchors(g):
    labels, prototypes = T(g['filter_labels']), T(g['easy_queues']).mean(1)
    expected = g['filter_loss_thr03'], g['filter_grad_thr03']
    check_loss(g['filter_reps'], labels, prototypes, *expected)
    inputs = T(g['filter_reps']), labels, prototypes
    anchors, _ = _spcl_anchors(*inputs, tau=0.08)
    close(anchors, g['filter_per_sample'])
    assert ((anchors > 0.3) == T(g['filter_kept']).bool()).all()
    printed, _ = _spcl_anchors(*inputs, tau=0.08, denominator='paper')
    close(printed, g['filter_paper_eq_per_sample'])


def test_a_batch_without_positives(g):
    reps, labels, prototypes = g['reps'][:3], T(g['single_labels']), T(g['queues']).mean(1)
    expected = g['single_coupled_loss'], g['single_coupled_grad']
    check_loss(reps, labels, prototypes, *expected)
    anchors, _ = _spcl_anchors(T(reps), labels, prototypes, tau=0.08)
    close(anchors, g['single_per_sample'])


def test_without_prototypes_it_is_eq_6(g):
    inputs = T(g['reps']), T(g['labels']), torch.zeros(3, 5)
    anchors, positives = _spcl_anchors(*inputs, tau=0.08, denominator='paper')
    expected = g['sup_per_sample_nan_if_no_positive']
    defined = ~np.isnan(expected)
    close(anchors[defined], expected[defined])
    assert (positives.numpy() > 0).tolist() == defined.tolist()


def test_prediction(g):
    s = _similarity(T(g['reps']), T(g['caseA_prototypes']))
    close(s, g['eval_similarity_caseA'])
    assert s.argmax(1).tolist() == g['eval_pred_caseA'].tolist()


# ---- the loss ----------------------------------------------------------------------------------


def toy(n=9, d=4, classes=3, seed=0):
    "Return random vectors, labels and prototypes."
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return z, labels, torch.randn(classes, d, generator=generator, dtype=torch.float64)


def test_own_prototype_is_on_both_sides():
    "The ratio stays below one: the closer the prototype, the smaller the loss, down to 0."
    z, _, prototypes = toy(1)
    labels = torch.tensor([1])
    for a in (0.5, 0.9, 0.999):
        prototypes[1] = a * z[0] / z[0].norm() + (1 - a) * prototypes[1]
        assert _spcl_anchors(z, labels, prototypes)[0] >= 0
    prototypes[1] = z[0]
    printed, _ = _spcl_anchors(z, labels, prototypes, denominator='paper')
    coded, _ = _spcl_anchors(z, labels, prototypes)
    assert printed < 0 <= coded
    s = (_similarity(z, prototypes) / 0.05).exp()[0]
    close(coded, -(s[1] / s.sum()).log(), 1e-6)


@pytest.mark.parametrize('denominator', ['all', 'paper'])
@pytest.mark.parametrize('variant', ['coupled', 'decoupled'])
@pytest.mark.parametrize('labels', [[0] * 5, [2], [-1] * 4, [0, -1, -1], [0, 1, 2]])
@pytest.mark.parametrize('known', [[1, 1, 1], [0, 0, 0], [1, 0, 0]])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_never_nan(labels, known, denominator, variant, dtype):
    "With any labels, and with prototypes of all, no or one class."
    z, _, prototypes = toy(len(labels))
    prototypes = (prototypes * torch.tensor(known)[:, None]).to(dtype)
    labels, options = torch.tensor(labels), dict(denominator=denominator, variant=variant)
    for tau in (0.05, 1e-3):
        x = z.to(dtype).requires_grad_()
        spcl = spcl_loss(x, labels, prototypes, tau=tau, **options)
        for loss in (spcl, supcon_loss(x, labels, tau=tau)):
            x.grad = None
            loss.backward()
            assert loss.isfinite() and x.grad.isfinite().all()


def test_rows_of_zeros():
    z, labels, prototypes = toy()
    z[0] = 0
    x = z.requires_grad_()
    loss = spcl_loss(x, labels, prototypes)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


def test_unlabelled_rows_are_ignored():
    z, labels, prototypes = toy(12)
    gone = torch.arange(12) % 3 == 0
    masked, z_kept, kept = torch.where(gone, -1, labels), z[~gone], labels[~gone]
    close(spcl_loss(z, masked, prototypes), spcl_loss(z_kept, kept, prototypes), 1e-12)
    close(supcon_loss(z, masked), supcon_loss(z_kept, kept), 1e-12)


def test_no_gradient_reaches_prototypes():
    z, labels, prototypes = toy()
    prototypes.requires_grad_()
    spcl_loss(z.requires_grad_(), labels, prototypes).backward()
    assert prototypes.grad is None


def test_the_constant_keeps_anchors():
    "log(positives): one positive in the batch is enough to stay above the threshold."
    eye = torch.eye(3, dtype=torch.float64)
    anchors, positives = _spcl_anchors(eye[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), eye, tau=0.01)
    close(anchors, positives.double().log(), 1e-6)
    assert (anchors > 0.3).all()


def test_supcon_against_its_definition():
    z, labels, _ = toy(8)
    s, expected = _similarity(z, z) / 0.05, []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            total = s[i, others].logsumexp(0)
            expected.append(-np.mean([float(s[i, j] - total) for j in positives]))
    close(supcon_loss(z, labels), np.mean(expected))


@pytest.mark.parametrize('tau', [0, -0.05, float('nan')])
def test_a_temperature_is_positive(tau):
    z, labels, prototypes = toy()
    message = 'the temperature must be greater than 0'
    for variant in ('coupled', 'decoupled'):
        with pytest.raises(ValueError, match=message):
            spcl_loss(z, labels, prototypes, tau=tau, variant=variant)
    with pytest.raises(ValueError, match=message):
        supcon_loss(z, labels, tau=tau)
    with pytest.raises(ValueError, match=message):
        SPCL({'text': 6}, 3, tau=tau)


# ---- the model ---------------------------------------------------------------------------------


def make_batch(n=24, classes=3, seed=0, extra=None):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (1, n), generator=generator)
    noise = torch.randn(1, n, 6, generator=generator, dtype=torch.float64)
    x = noise + 2 * torch.eye(6, dtype=torch.float64)[labels]
    targets = {'emotion': labels} | ({} if extra is None else {'extra': extra[None]})
    return from_padded({'text': x}, torch.zeros(1, n), [n], targets)


def make_model(classes=4, seed=0, **options):
    torch.manual_seed(seed)
    options = {'width': 8, 'length': 16, 'support': 4, 'rows': 100, **options}
    return SPCL({'text': 6}, classes, **options).double()


def encoder_of(model, batches, epochs=16):
    "Return the function that the training loop gives to a hook."

    def encode():
        return [(model(batch), batch) for batch in batches]

    encode.epochs = epochs
    return encode


def participants(model, batch):
    return torch.where(model.curriculum.keep[batch.ids], batch.targets['emotion'], -1)


def is_zero(gradient):
    return gradient is None or not gradient.any()


def test_queues_and_predictor_are_detached():
    model, batch = make_model(), make_batch()
    model(batch.at(0, 0)).logits.logsumexp(-1).sum().backward()
    assert all(is_zero(p.grad) for p in model.encoder.parameters())
    assert model.predictor.weight.grad.any()
    model.zero_grad()
    model(batch.at(0, 1)).losses['spcl'].backward()
    assert model.encoder.outer.weight.grad.any() and is_zero(model.predictor.weight.grad)
    assert not model.queues.vectors.requires_grad and model.queues.counts().sum() > 3


def test_prototypes_are_drawn_before_the_push():
    "In a new epoch they are the class means."
    model, batch = make_model(), make_batch()
    model.on_epoch_start(encoder_of(model, [batch]))
    z, centres = model(batch).probes['z'], model.queues.centres
    expected = spcl_loss(z, participants(model, batch), centres, **model.loss_options)
    model.encoder.rate = 0
    close(model(batch.at(0, 0)).losses['spcl'], expected)
    assert not centres[3].any(), 'the fourth class has no member'


def test_prototypes_drawn_after_the_push():
    "With one vector in each queue, the prototype is that vector."
    model = make_model(prototypes='after', rate=0.0, length=64, support=64)
    batch = make_batch()
    model.on_epoch_start(encoder_of(model, [batch]))
    model.queues.arrived.fill_(-1)
    model.queues.least.fill_(1)
    z, labels = model(batch).probes['z'].detach(), participants(model, batch)
    first = torch.tensor([next(iter((labels == k).nonzero()[:, 0]), -1) for k in range(4)])
    model.curriculum.keep.zero_()
    model.curriculum.keep[batch.ids[first[first >= 0]]] = True
    prototypes = torch.where((first >= 0)[:, None], z[first], 0)
    expected = spcl_loss(z, participants(model, batch), prototypes, **model.loss_options)
    close(model(batch.at(0, 0)).losses['spcl'], expected)


def test_a_linear_layer_behind_the_encoder():
    "Loss, prediction and predictor all use g of the encoder's vector."
    model, batch = make_model(linear=True, rate=0.0), make_batch()
    model.on_epoch_start(encoder_of(model, [batch]))
    out = model(batch)
    z = out.probes['z']
    close(z, model.g(model.encoder(batch)), 1e-12)
    close(out.logits, model.predictor(z), 1e-12)
    loss = model(batch.at(0, 0)).losses['spcl']
    labels, centres = participants(model, batch), model.queues.centres
    close(loss, spcl_loss(z, labels, centres, **model.loss_options))
    loss.backward()
    assert model.g.weight.grad.any() and model.encoder.outer.weight.grad.any()
    without = make_model().state_dict()
    assert not any(k.startswith('g.') for k in without), 'off by default, and without weights'


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('evict', ['fifo', 'random'])
def test_stacked_seeds_equal_single_ones(loss, evict):
    def make():
        return make_model(loss=loss, evict=evict)

    batch, loss_of = make_batch(), criterion('emotion')
    stack = Stack(make, [3, 5], torch.float64)
    single = [Single(make, [seed], torch.float64) for seed in (3, 5)]
    for step in map(torch.tensor, range(6)):
        expected = torch.cat([engine.loss(batch, step, loss_of) for engine in single])
        close(stack.loss(batch, step, loss_of), expected)
    for name, buffers in stack.buffers.items():
        for buffer, engine in zip(buffers, single):
            close(buffer.double(), engine.buffers[name].double())


def test_rows_that_take_no_part_have_no_gradient():
    model, batch = make_model(rate=0.0), make_batch()
    model.curriculum.keep[batch.ids[::2]] = False
    x = batch.features['text'].requires_grad_()
    out = model(batch.at(0, 0))
    (criterion('emotion')(out, batch) + sum(out.losses.values())).backward()
    assert not x.grad[::2].any() and x.grad[1::2].any()
    assert model.queues.counts().sum() == len(batch) // 2


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('engine', [Single, Stack])
def test_the_mean_is_over_rows_that_take_part(engine, loss):
    "The gradient equals that of a batch in which only these rows have a label."

    def make(keep):
        model = make_model(loss=loss, rate=0.0)
        model.curriculum.keep[:] = keep
        return model

    def gradients(keep, batch):
        e = engine(lambda: make(keep), [3], torch.float64)
        e.loss(batch, torch.tensor(0), criterion('emotion')).sum().backward()
        return {k: torch.zeros(1) if p.grad is None else p.grad for k, p in e.params.items()}

    batch, keep = make_batch(), torch.arange(100) % 3 != 0
    batch.targets['emotion'][1] = -1
    alone = make_batch()
    alone.targets['emotion'] = torch.where(keep[batch.ids], batch.targets['emotion'], -1)
    ours, expected = gradients(keep, batch), gradients(True, alone)
    assert ours['predictor.weight'].any()
    for name, gradient in expected.items():
        close(ours[name], gradient, 1e-12)
    logits = [make(k)(batch.at(3, 0)).logits for k in (True, keep)]
    assert torch.equal(*logits), 'the values do not change'


def test_extra_questions_take_part_at_random():
    extra = torch.arange(60) % 2
    model, batch = make_model(curriculum='all'), make_batch(60, extra=extra)
    encode, shares = encoder_of(model, [batch]), []
    for _ in range(200):
        model.on_epoch_end(encode)
        model.on_epoch_start(encode)
        on = model.curriculum.keep[batch.ids]
        assert on[extra == 0].all()
        shares.append(float(on[extra == 1].double().mean()))
    assert abs(np.mean(shares) - 0.5) < 0.03


def test_centres_are_the_means_of_eligible_rows():
    model, batch = make_model(), make_batch(60, extra=torch.arange(60) % 2)
    model.on_epoch_end(encoder_of(model, [batch]))
    used, z = model.curriculum.hard[batch.ids] >= 0, model(batch).probes['z']
    for k in range(3):
        close(model.centres[k], z[used & (batch.targets['emotion'] == k)].mean(0))
    assert not model.centres[3].any()
    assert (model.predict(model(batch)) < 3).all(), 'a class without training rows'


def test_the_curriculum_is_as_long_as_the_run():
    "Unless the model has a number of epochs of its own."
    model, seen = SPCL({'text': 6}, 3, rows=1000), []
    model.centres[:] = 1
    for epoch in range(1, 5):
        model.curriculum.epoch.fill_(epoch)
        model.curriculum.record_difficulty(torch.arange(1000), torch.linspace(0, 1, 1000))
        torch.manual_seed(0)
        model.on_epoch_start(encoder_of(model, [], epochs=5))
        seen.append(float(model.curriculum.keep[:200].float().mean()))
    expected = [float(_keep_probability(1000, epoch, 5)[:200].mean()) for epoch in range(1, 5)]
    assert np.abs(np.subtract(seen, expected)).max() < 0.12


@pytest.mark.parametrize(
    'options,message',
    [
        (dict(length=10), 'support=64, length=10'),
        (dict(denominator='both'), "unknown denominator 'both'"),
        (dict(loss='triplet'), "unknown loss 'triplet'"),
        (dict(curriculum='hard'), "unknown curriculum 'hard'"),
        (dict(prototypes='later'), "unknown moment to draw prototypes 'later'"),
        (dict(extra=2), 'extra=2: give a share of the extra questions'),
        (dict(lenght=10), "unknown option of SPCL 'lenght'; did you mean 'length'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SPCL({'text': 6}, 3, **options)


def test_bad_input():
    with pytest.raises(ValueError, match="unknown denominator 'both'"):
        spcl_loss(*toy(), denominator='both')
    model = make_model(rows=10)
    with pytest.raises(ValueError, match='has a row 23, but the model has rows=10'):
        model.on_epoch_start(encoder_of(model, [make_batch()]))


# ---- training ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def corpus():
    "The demo corpus's prompts, with its sound in place of vectors of text."
    corpus = load_prompts('demo')
    return corpus.with_features(text=corpus.features['audio'])


def batches_of(corpus, split, feature='text', size=60):
    targets = {'emotion': 'label', 'extra': 'extra'}
    options = dict(size=size, features=[feature], targets=targets, unit='turn')
    return make_batches(corpus, split, **options)


def accuracy_on_dev(corpus):
    labels = corpus.table.label.to_numpy()[corpus.rows('dev')]
    return lambda predictions: (predictions == labels).mean(1)


def train(corpus, checkpoint=None, **options):
    def make():
        sizes, classes = {'text': corpus.features['text'].shape[1]}, len(corpus.classes)
        parts = {'width': 16, 'length': 64, 'support': 16, 'rows': 3000, 'epochs': 3, **options}
        return SPCL(sizes, classes, **parts)

    return fit(
        make,
        batches_of(corpus, 'train'),
        batches_of(corpus, 'dev'),
        accuracy_on_dev(corpus),
        seeds=(0, 1),
        settings={'epochs': 3, 'lr': 3e-3, 'clip': 5.0},
        target='emotion',
        checkpoint=checkpoint,
        every=0.0,
        progress=False,
    )


@pytest.mark.parametrize(
    'options', [{}, {'evict': 'random'}, {'loss': 'supcon', 'curriculum': 'random'}]
)
def test_an_interrupted_run_goes_on(corpus, tmp_path, monkeypatch, options):
    "Queues, difficulties and the epoch's rows are part of the state."
    whole, step, count = train(corpus, **options), Steps.run, iter(range(10**6))
    last = len(batches_of(corpus, 'train')) + 5

    def interrupted(self, b):
        if next(count) == last:
            raise KeyboardInterrupt
        return step(self, b)

    path = tmp_path / 'c.safetensors'
    monkeypatch.setattr(Steps, 'run', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, checkpoint=path, **options)
    monkeypatch.setattr(Steps, 'run', step)
    again = train(corpus, checkpoint=path, **options)
    assert (whole.dev == again.dev).all() and (whole.losses == again.losses).all()
    for a, b in zip(whole.modules(), again.modules()):
        ours = b.state_dict()
        assert all(torch.equal(v, ours[k]) for k, v in a.state_dict().items())


def test_centres_belong_to_the_selected_weights(corpus):
    "They are class means under the weights that were kept, not under those of the epoch's start."
    batches = batches_of(corpus, 'train')
    ids = torch.cat([batch.ids for batch in batches])
    labels = torch.cat([batch.targets['emotion'] for batch in batches])
    for model in train(corpus).modules():
        with torch.no_grad():
            z = torch.cat([model(batch).probes['z'] for batch in batches])
        used, hard = model.curriculum.hard[ids] >= 0, model.curriculum.hard
        close(model.centres, _class_means(z, torch.where(used, labels, -1), 6)[0], 1e-5)
        close(hard[ids[used]], _difficulty(z[used], labels[used], model.centres), 1e-5)


def test_seeds_differ_and_learn(corpus):
    result = train(corpus)
    assert result.dev.max(1).min() > 0.25, 'six classes'
    assert not (result.losses[0] == result.losses[1]).any()


@pytest.mark.parametrize('name', ['spcl', 'spcl_random', 'spcl_supcon', 'spcl_ce'])
def test_recipe_in_demo(name, tmp_path):
    system = dataclasses.replace(find_system(f'mmspcl/{name}'), encoder='hashing')
    small = load_recipe('mmspcl').demo['settings']
    options = dict(seeds=[0, 1], home=tmp_path, demo=small, progress=False)
    record = run_system(system, system.key('tuned', 'demo'), **options)
    assert min(record.test) > 0.5
    assert record.probes['fallen_by_seed'].shape == (2, 6)
    assert record.probes['predictor_by_seed'].shape == (2,)
    assert (record.probes['members'] > 50).all()
    own_angles = record.probes['angles_by_seed'].diagonal(axis1=1, axis2=2)
    close(own_angles, np.ones((2, 6)), 1e-5)


# ---- an encoder that is trained ----------------------------------------------------------------


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    "A tiny random BERT that knows the words of the demo corpus's prompts."
    folder = tmp_path_factory.mktemp('toy')
    prompts = ' '.join(load_prompts('demo').table.prompt)
    words = prompts.replace('[SEP]', '').replace('[MASK]', '').split()
    toy_encoder(folder, sorted(set(words)), width=16, length=300)
    return str(folder)


@pytest.fixture(scope='module')
def tokens(encoder):
    "The demo corpus with the token ids of its prompts."
    return load_prompts('demo', tokens=encoder, max_len=128)


def make_tuned(encoder, loss='spcl', **options):
    torch.manual_seed(0)
    parts = dict(rows=3000, length=32, support=8, **options)
    return SPCL({'prompt': 128}, 6, loss=loss, encoder=encoder, **parts)


def test_token_ids_are_the_prompts(encoder, tokens):
    tokenizer, x = _tokenizer_of(encoder), tokens.features['prompt']
    for i in (0, 7, len(x) - 1):
        ids = x[i][x[i] > 0].astype(int) - 1
        assert (ids == tokenizer.mask_token_id).sum() == 1
        assert ids[-2:].tolist() == [tokenizer.mask_token_id, tokenizer.sep_token_id]
        if ids[0] == tokenizer.cls_token_id:
            assert ids.tolist() == tokenizer(tokens.table.prompt[i])['input_ids']
    assert (x >= 0).all() and x.shape[1] <= 128, 'segment 0 alone'
    with pytest.raises(FileNotFoundError, match='unknown encoder'):
        load_prompts('demo', tokens='not/an/encoder')


@pytest.mark.parametrize('loss', LOSSES)
def test_rows_that_take_no_part_are_not_encoded(encoder, tokens, loss):
    batch, loss_of = batches_of(tokens, 'train', 'prompt', 70)[0], criterion('emotion')
    model = make_tuned(encoder, loss).eval()
    model.curriculum.keep[batch.ids[::3]] = False
    on = model.curriculum.keep[batch.ids]
    out, everything = model(batch.at(0, 0)), model(batch).probes['z']
    close(out.probes['z'][on], everything[on], 1e-4)
    assert not out.probes['z'][~on].any()
    if loss == 'supcon':
        close(out.losses['supcon'], supcon_loss(everything, participants(model, batch)), 1e-3)
    (loss_of(out, batch) + sum(out.losses.values())).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert any(not is_zero(p.grad) for p in model.encoder.parameters())
    model.curriculum.keep.zero_()  # a batch in which no row takes part
    empty = model(batch.at(0, 1))
    (loss_of(empty, batch) + sum(empty.losses.values())).backward()


@pytest.mark.parametrize('loss', LOSSES)
def test_fine_tuning(encoder, tokens, loss):
    "One seed at a time, through the same loop."
    result = fit(
        lambda: make_tuned(encoder, loss, epochs=2),
        batches_of(tokens, 'train', 'prompt', 70)[:6],
        batches_of(tokens, 'dev', 'prompt', 4096),
        accuracy_on_dev(tokens),
        seeds=[0, 1],
        settings={'epochs': 2, 'lr': 3e-3, 'clip': 5.0, 'warmup': 0.1, 'decay': 'epochs'},
        target='emotion',
        vectorise=False,
        progress=False,
    )
    assert result.dev.shape == (2, 2) and np.isfinite(result.losses).all()
    assert not (result.losses[0] == result.losses[1]).any()
    for model in result.modules():
        assert model.centres.any(1).all() and model.members.min() > 0


# ---- the section -------------------------------------------------------------------------------


def test_text_rows_read_the_text_of_meld(tmp_path):
    "No fusion, no ensemble, no other corpus; what Table 1 prints of SPCL stays."
    recipe = load_recipe('mmspcl')
    whole = comparison('mmspcl', 'table1', home=tmp_path, recipe=recipe).data
    text = comparison('mmspcl', 'table1', home=tmp_path, recipe=_text_rows(recipe)).data
    assert set(text.corpus) <= {'', 'meld'} < set(whole.corpus)
    floors = {'', 'majority', 'tfidf', 'text', 'text_context'}
    assert all(name.startswith('spcl') for name in set(text.system) - floors)
    printed = text[text.kind == 'printed']
    assert len(printed) and printed.row.str.startswith('Unimodal SPCL').all()


def test_the_section_leaves_table_1_to_its_owner():
    owner = artefacts().query("paper == 'mmspcl' and id == 'table1'").notebook.item()
    cells = nbformat.read(root() / 'nbs' / '800_spcl.ipynb', 4).cells
    code = '\n'.join(cell.source for cell in cells if cell.cell_type == 'code')
    assert owner != '800_spcl'
    assert "section.table('table1')" not in code and 'table.save(' not in code


def test_the_section_claims_what_it_trains():
    cells = nbformat.read(root() / 'nbs' / '800_spcl.ipynb', 4).cells
    source = next(cell.source for cell in cells if cell.source.startswith('CLAIMS ='))
    claims = {claim[:2] for claim in ast.literal_eval(source.removeprefix('CLAIMS = '))}
    beside = {(a, f'{a}_{b}') for a in ('spcl', 'spcl_minilm') for b in ('ce', 'supcon')}
    assert beside <= claims
    assert {name for pair in claims for name in pair} <= set(load_recipe('mmspcl').systems)
