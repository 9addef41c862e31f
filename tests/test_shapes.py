"Pairs against what the authors released, and what records of Shapes of Emotions keep."

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from erc.core import package_file
from erc.data.batches import make_batches
from erc.data.registry import load_corpus
from erc.evidence.metrics import accuracy, confusion, weighted_f1
from erc.models.gruarc import GRUArcModel
from erc.runs.prepare import _prepare, _split_batches
from erc.runs.recipes import find_system
from erc.studies.shapes import (
    _rebuild_pairs,
    always_inertia,
    arc_figure,
    arc_probe,
    corpus_statistics,
    empty_is_shift,
    leak_probe,
    load_arcs,
    load_pairs,
    pair_statistics,
    shift_decisions,
    table1_frame,
)

# pairs


@pytest.mark.parametrize(
    'name,corpus',
    [('mosei', 'mosei_released'), ('iemocap4', 'iemocap4_shapes'), ('iemocap6', 'iemocap6')],
)
def test_released_pairs_counts(data, name, corpus):
    "What erc/reference/corpora.csv documents, counted from the files."
    facts = pd.read_csv(package_file('reference/corpora.csv'))
    facts = facts.set_index(['corpus', 'split', 'fact']).expected
    counts = pair_statistics(load_pairs(f'released_{name}'))
    for split in ('train', 'test'):
        assert counts[split]['pairs'] == float(facts[corpus, split, 'pairs'])
        share = float(facts[corpus, split, 'pair shift %'])
        assert round(100 * counts[split]['shift'], 2) == share


def test_mosei_without_the_empty_predecessor(data):
    released = pair_statistics(load_pairs('released_mosei'))
    assert [round(100 * released[k]['shift_of_two'], 2) for k in ('train', 'test')] == [
        26.67,
        27.81,
    ]
    assert [released[k]['empty_shifts'] for k in ('train', 'test')] == [1941, 505]
    rebuilt = pair_statistics(load_pairs('mosei_released'))
    assert [round(100 * rebuilt[k]['shift'], 2) for k in ('train', 'test')] == [26.67, 27.81]
    assert rebuilt['train']['empty'] == 0
    full = released['train']['pairs'] - released['train']['empty']
    assert rebuilt['train']['pairs'] == full


def test_empty_predecessor_rule(data):
    pairs = load_pairs('released_mosei')
    rows = pairs.rows('test')

    def scores(baseline):
        counts = confusion(pairs.table.label.to_numpy()[rows], baseline(pairs)[rows], 2)
        return [round(100 * float(metric(counts)), 2) for metric in (accuracy, weighted_f1)]

    assert scores(empty_is_shift) == [72.57, 68.78]
    assert scores(always_inertia) == [65.37, 51.68]


@pytest.mark.parametrize(
    'released,corpus', [('released_iemocap6', 'iemocap6'), ('released_iemocap4', 'iemocap4_shapes')]
)
def test_pairs_rebuilt_from_the_corpus_are_the_released_ones(data, released, corpus):
    "Same sentences, same labels, same splits."
    key = ['split', 'previous', 'text', 'label']

    def ordered(name):
        table = load_pairs(name).table[key]
        table = table.assign(split=table.split.replace('dev', 'train'))
        return table.sort_values(key).reset_index(drop=True)

    pd.testing.assert_frame_equal(ordered(released), ordered(corpus), check_dtype=False)


def test_paper_rule_on_iemocap(data):
    "Neutral never shifts, as the paper words it; then few utterances shift."
    counts = corpus_statistics(load_corpus('iemocap6'))
    shares = [counts[k]['shift']['polarity_paper']['of_all'] for k in ('train', 'test')]
    assert [round(100 * share, 2) for share in shares] == [2.41, 2.28]


def test_released_protocol_selects_where_the_authors_did(data):
    for name, split in (('released_mosei', 'train'), ('released_iemocap6', 'test')):
        honest, released = load_pairs(name), load_pairs(name, protocol='released')
        assert len(released.rows('test')) == len(honest.rows('test'))
        train = len(honest.rows('train')) + len(honest.rows('dev'))
        assert len(released.rows('train')) == train
        assert len(released.rows('dev')) == len(released.rows(split))


def test_rebuilt_pairs_do_not_cross_dialogues():
    pairs, turns = load_pairs('demo').table, load_corpus('demo').table
    texts = {d: list(t.text) for d, t in turns.groupby('dialogue')}
    for row in pairs.itertuples():
        assert row.previous == texts[row.dialogue][row.turn]
        assert row.text == texts[row.dialogue][row.turn + 1]


def test_a_name_may_end_with_a_rule():
    by_paper, released = load_pairs('demo_polarity_paper'), load_pairs('demo')
    assert by_paper.name == 'demo_polarity_paper' and len(by_paper) == len(released)
    assert by_paper.table['shift'].sum() < released.table['shift'].sum()
    first = load_pairs('demo_polarity_released_first').table
    assert first['shift'].equals(released.table['shift']), 'first turns are in no pair'


def test_unknown_names_are_answered():
    with pytest.raises(ValueError, match='unknown corpus'):
        load_pairs('demo_polarity_released_frist')
    with pytest.raises(ValueError, match='unknown shift rule'):
        _rebuild_pairs(load_corpus('demo'), 'polarity_released_frist')
    with pytest.raises(ValueError, match="unknown corpus 'demoo'"):
        load_pairs('demoo')
    with pytest.raises(ValueError, match='unknown protocol'):
        load_pairs('demo', protocol='theirs')


def test_real_valued_labels_are_refused():
    demo = load_corpus('demo')
    table = demo.table.assign(label=demo.table.valence)
    with pytest.raises(ValueError, match='real values|class'):
        _rebuild_pairs(demo.replace(task='regression', classes=(), table=table))


def test_unlabelled_turns_are_skipped():
    "A pair then joins the labelled turns on either side."
    demo = load_corpus('demo')
    label = demo.table.label.where(demo.table.turn != 1, -1)
    pairs = _rebuild_pairs(demo.replace(table=demo.table.assign(label=label))).table
    first = demo.table[demo.table.dialogue == pairs.dialogue[0]].text.to_list()
    assert (pairs.previous[0], pairs.text[0]) == (first[0], first[2])


# Table 1


def test_table1_says_what_was_not_counted():
    facts = SimpleNamespace(facts=pair_statistics(load_pairs('demo')))
    ways = [
        ('pair_counts:fixed@released_iemocap6', 'pairs'),
        ('corpus_counts:fixed@x', 'polarity_paper'),
    ]
    frame = table1_frame({'IEMOCAP': ways}, {ways[0][0]: facts}.get)
    assert frame['counted as'][0] == 'paper prints' and frame['corpus'].tolist() == [
        'IEMOCAP',
        '',
        '',
    ]
    assert frame['counted as'][1] == 'released pairs, 6 labels'
    assert (
        frame['# train'][1] == facts.facts['train']['pairs']
        and frame.loc[2, '# train':].isna().all()
    )


# probes


class Trained:
    "What `fit` gives, of models that were not trained."

    def __init__(self, *models):
        self.models = models

    def modules(self):
        yield from self.models


@pytest.fixture(scope='module')
def demo_test():
    "Corpus, test batches and two seeds of the released reading."
    hashed = replace(find_system('shapes/gruarc_released'), encoder='hashing')
    corpus, _ = _prepare(hashed, 'demo')
    sizes = {name: corpus.features[name].shape[1] for name in hashed.features}
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(GRUArcModel(sizes, len(corpus.classes), preset='released_iemocap').eval())
    batches = _split_batches(hashed, corpus, {'batch': 16})[2]
    return corpus, [b.to(dtype=torch.float32) for b in batches], Trained(*models)


def test_decisions_of_the_shift_network_follow_the_corpus(demo_test):
    corpus, batches, fit = demo_test
    turns = corpus.table.iloc[corpus.rows('test')].reset_index(drop=True)
    truth, decided = shift_decisions(fit, corpus, batches)['shift_network']
    assert decided.shape == (2, len(turns))
    assert (truth[turns.turn == 0] == -1).all()
    assert (truth[turns.turn > 0] == turns.inertia[turns.turn > 0]).all()
    place = {int(row): i for i, row in enumerate(corpus.rows('test'))}
    p = fit.models[1](batches[0]).probes['p_shift']
    for row, value in zip(batches[0].ids, p):
        assert decided[1, place[int(row)]] == int(value <= 0.5)


def test_leak_probe_counts_what_padding_changes(demo_test):
    corpus, batches, fit = demo_test
    probe, model = leak_probe(fit, corpus, batches), fit.models[0]
    assert model.options['padding'] == 'masked', 'the model is left as it was'
    masked = torch.cat([model(b).logits for b in batches]).detach()
    model.options['padding'] = 'released'
    released = torch.cat([model(b).logits for b in batches]).detach()
    model.options['padding'] = 'masked'
    changed = (masked.argmax(-1) != released.argmax(-1)).float().mean()
    assert np.isclose(probe['leak_changed_by_seed'][0], changed)
    largest = (masked.softmax(-1) - released.softmax(-1)).abs().max()
    assert np.isclose(probe['leak_largest_by_seed'][0], largest) and largest > 0


def test_a_dialogue_alone_does_not_leak(demo_test):
    corpus, _, fit = demo_test
    features, targets = ['text', 'audio', 'sentence'], {'emotion': 'label'}
    alone = make_batches(corpus, 'test', size=1, features=features, targets=targets)
    probe = leak_probe(fit, corpus, [b.to(dtype=torch.float32) for b in alone])
    assert probe['leak_largest_by_seed'].max() < 1e-6


def test_the_arc_is_the_dialogue_with_most_shifts():
    pairs = load_pairs('demo')
    rows = pairs.rows('test')
    shuffled = SimpleNamespace(ids=torch.tensor(rows[::-1].copy()))
    by_row = Trained(lambda batch: SimpleNamespace(probes={'p_shift': batch.ids / 1e4}))
    arc = arc_probe(by_row, pairs, [shuffled])
    test = pairs.table.iloc[rows]
    shifts = test.groupby('dialogue')['shift'].sum()
    pairs_of = test.groupby('dialogue').size()
    assert arc['shift'].sum() == shifts[pairs_of.between(9, 29)].max()
    assert len(arc['valence']) == len(arc['shift']) + 1
    first = round(1e4 * float(arc['p_shift_by_seed'][0, 0]))
    own = pairs.table.iloc[first : first + len(arc['shift'])]
    assert own.dialogue.nunique() == 1 and (own['shift'].to_numpy() == arc['shift']).all()
    assert np.allclose(arc['valence'][1:], own.valence)
    assert len(arc_figure(**arc).axes) == 2


def test_licensed_corpora_give_no_arc():
    assert arc_probe(Trained(), load_pairs('demo').replace(name='iemocap6'), []) == {}


# dialogues


def test_arcs_of_one_emotion_against_the_rest():
    arcs, happy = load_arcs('demo'), load_arcs('demo', emotion='happy')
    assert happy.classes == ('absent', 'present')
    assert happy.table.label.sum() == (arcs.table.label == arcs.classes.index('happy')).sum()
    assert happy.table.inertia.equals(arcs.table.inertia)
    with pytest.raises(ValueError, match="did you mean 'happy'"):
        load_arcs('demo', emotion='hapy')
