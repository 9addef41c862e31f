"The leaderboard: only the protocol ranks, records from outside are checked, and what it prints is in the records."

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import erc.report.leaderboard as B
import erc.report.leaderboard_page as P
from erc.cli import app
from erc.core import results_home, root
from erc.report.artefacts import reference
from erc.runs.keys import RunKey
from erc.runs.recipe_files import papers
from erc.runs.records import _record_files, find_record, read_records, save_record
from erc.runs.stale import stale_records
from erc.runs.submissions import _is_from_outside, _submission_faults


@pytest.fixture(scope='module')
def found():
    records, broken = read_records(root() / 'results')
    assert records and not broken
    return records


@pytest.fixture(scope='module')
def stale(found):
    return stale_records(found.values(), progress=False)


@pytest.fixture(scope='module')
def boards(found, stale):
    return B._leaderboard(records=found, stale=stale)


# ---- every record under results/, those that were sent in as well


def test_every_record_is_sound_and_every_one_from_outside_keeps_the_protocol(found):
    assert len(found) == len(_record_files(root() / 'results'))
    house = [r for r in found.values() if not _is_from_outside(r)]
    assert {r.key.paper for r in house} <= set(papers())
    faults = {
        str(r.key): _submission_faults(r, house) for r in found.values() if _is_from_outside(r)
    }
    assert not {key: own for key, own in faults.items() if own}


@pytest.fixture(scope='module')
def sent(found, stale):
    "A record of a trained system under the protocol, as somebody else would send it in."
    key = next(
        k
        for k, r in found.items()
        if k not in stale and r.cross and r.task == 'emotion' and r.settings['kind'] == 'model'
    )
    named = replace(found[key], key=RunKey('mine', 'net', 'tuned', key.corpus))
    return with_settings(named, weight_decay=1e-7)  # the same settings would be the same system


def changed(record, **fold):
    return replace(record, folds={**record.folds, 'paper': replace(record.folds['paper'], **fold)})


def with_settings(record, **more):
    own = {**record.settings['hyperparameters'], **more}
    return replace(record, settings={**record.settings, 'hyperparameters': own})


def test_what_was_sent_in_is_checked(sent, found):
    house = [r for r in found.values() if not _is_from_outside(r)]
    assert _is_from_outside(sent) and _submission_faults(sent, house) == []
    wrong = {
        'epochs is 300, not 30': with_settings(sent, epochs=300),
        'clip is None, not 1.0': with_settings(sent, clip=None),
        'stops after 3 epochs': with_settings(sent, patience=3),
        'search is None': replace(
            sent, settings={k: v for k, v in sent.settings.items() if k != 'search'}
        ),
        "on the paper's split alone": replace(sent, cross=[]),
        'not those of its counts': changed(sent, test=[x + 0.02 for x in sent.test]),
        'not those of': replace(sent, classes=sent.classes[::-1]),
        'to compare its dialogues with': replace(
            sent, key=RunKey('mine', 'net', 'tuned', 'nowhere')
        ),
    }
    for reason, record in wrong.items():
        assert reason in ' '.join(_submission_faults(record, house)), reason
    fewer = {f: x[:, 1:] for f, x in sent.confusions.items()}
    scores = [float(B.interval(c[None], 'weighted_f1', 2).mean) for c in fewer['all']]
    assert _submission_faults(changed(sent, confusions=fewer, test=scores), house)


def test_a_row_from_outside_ranks_and_is_said_to_be_one(sent, found, stale, tmp_path):
    shutil.copytree(results_home() / 'records' / 'baselines', tmp_path / 'records' / 'baselines')
    save_record(sent, tmp_path)
    (board,) = B._leaderboard(tmp_path, sent.key.corpus, stale={})
    row = board.frame.set_index('key').loc[str(sent.key)]
    assert row.system == 'mine: net' and 'sent in' in row.marks
    assert row.weighted_f1 > board.frame.weighted_f1.min()
    save_record(with_settings(sent, epochs=300), tmp_path)
    (board,) = B._leaderboard(tmp_path, sent.key.corpus, stale={})
    assert str(sent.key) not in set(board.frame.key)
    assert 'epochs is 300' in board.left_out[sent.key]


# ---- what ranks


def test_only_fresh_records_of_the_protocol_rank(boards, found, stale):
    ranked = [RunKey.parse(key) for board in boards for key in board.frame.key]
    assert len(ranked) == len(set(ranked)) and not set(ranked) & set(stale)
    assert all(
        found[key].cross and set(found[key].cross) <= set(found[key].folds) for key in ranked
    )
    assert all(key.variant != 'paper' for key in ranked)
    for board in boards:
        out = [
            k
            for k in found
            if k.corpus == board.corpus and k in stale and B._scores_emotions(found[k])
        ]
        assert set(out) <= set(board.left_out), board.corpus
        sentence = ' '.join(P._board_sentences(board))
        assert (
            not board.left_out
            or f'Left out: {max(pd.Series(board.left_out).value_counts())}' in sentence
        )


def test_corpora_that_serve_parity_alone_have_no_board(boards, found, stale):
    fresh = [k for k in found if k.corpus in B._FOR_PARITY and k not in stale]
    assert len(fresh) > 3, 'records that would rank but for their corpus'
    assert not {board.corpus for board in boards} & set(B._FOR_PARITY)


def test_a_stale_record_leaves_the_board(boards, found, stale):
    board = boards[0]
    first = RunKey.parse(board.frame.key[0])
    without = B._leaderboard(
        records=found, stale={**stale, first: 'settings changed: args'}, corpus=board.corpus
    )[0]
    assert str(first) not in set(without.frame.key) and len(without.frame) == len(board.frame) - 1
    assert without.left_out[first] == 'stale: settings changed'


def test_scores_are_those_of_the_records(boards, found):
    for board in boards:
        for row in board.frame.itertuples():
            record = found[RunKey.parse(row.key)]
            counts = [record.folds[f].confusions['all'] for f in record.cross]
            slots = np.lcm.reduce([len(x) for x in counts])
            pooled = sum(np.resize(x.sum(1), (slots, *x.shape[2:])).astype(float) for x in counts)
            right = np.trace(pooled, axis1=-2, axis2=-1) / pooled.sum((1, 2))
            assert row.accuracy == pytest.approx(100 * right.mean(), abs=1e-6)
            assert row.weighted_f1_low < row.weighted_f1 < row.weighted_f1_high
            assert row.rank_low <= row.rank <= row.rank_high


def test_printed_numbers_are_the_papers():
    beside = B._printed_beside()
    printed = {
        value
        for paper in papers()
        if paper not in ('baselines', 'ledger')
        for value in reference(paper).value
    }
    for (key, metric), text in beside.items():
        assert metric in B._METRICS, key
        assert all(part.split(' (')[0] in printed for part in text.split('; ')), (key, text)
    ours = RunKey.parse('baselines/dialoguegcn_both:tuned@iemocap6')
    table = reference('multiemo').query('artefact == "table1" and row == "DialogueGCN"')
    assert beside[ours, 'weighted_f1'].startswith(table[table.column == 'Weighted-F1'].value.item())
    stand_in = RunKey.parse('shapes/gruarc:tuned@mosi')
    assert (stand_in, 'weighted_f1') not in beside, (
        'MOSI stands in for MOSEI: that number is of another corpus'
    )


def test_what_is_below_its_floor_is_marked(found, stale):
    "A trained record whose counts are those of the majority is below a regression on its vectors."
    key = RunKey.parse('multiemo/context_gru:tuned@iemocap6')
    floor = B._floor_key(key)
    if key in stale or floor in stale or key not in found:
        pytest.skip('no fresh record of the context GRU')
    majority = found[RunKey.parse('baselines/majority:fixed@iemocap6')]
    folds = {
        name: replace(
            fold,
            confusions={
                'all': np.repeat(majority.folds[name].confusions['all'], len(fold.seeds), 0)
            },
        )
        for name, fold in found[key].folds.items()
        if name in majority.folds
    }
    low = replace(found[key], folds={**found[key].folds, **folds})
    assert 'below its floor' in B._marks(low, found)
    assert 'below its floor' not in B._marks(found[key], found)


# ---- what is drawn


def test_cliques_are_the_longest_runs_of_equals():
    p = np.full((5, 5), 0.01)
    for i, j in ((0, 1), (1, 2), (2, 3), (1, 3)):
        p[i, j] = p[j, i] = 0.4
    np.fill_diagonal(p, np.nan)
    assert P._cliques(p) == [(0, 1), (1, 3)]
    assert P._lanes([(0, 1), (1, 3), (2, 4), (5, 6)]) == [0, 1, 0, 0]
    assert P._cliques(np.array([[np.nan]])) == []


def test_names_in_a_picture_tell_systems_apart():
    names = ['a: MSVE (uni)', 'a: MSVE (bi), our own run', 'GRU (after BC-LSTM), text']
    assert P._short_names(names) == ['a: MSVE (uni)', 'a: MSVE (bi)', 'GRU, text']


def test_the_picture_shows_every_system_once(boards):
    import matplotlib.pyplot as plt

    fig = P._board_figure(boards[0])
    names = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    plt.close(fig)
    assert len(names) == len(boards[0].frame) and not any(len(name) > 64 for name in names)


def test_the_command_prints_what_the_file_says(boards, tmp_path):
    path = P._write_csv(boards, tmp_path / 'leaderboard.csv')
    table = pd.read_csv(path)
    assert len(table) == sum(len(b.frame) for b in boards)
    runner = CliRunner()
    corpus = boards[0].corpus
    done = runner.invoke(app, ['leaderboard', '--corpus', corpus, '--home', str(results_home())])
    assert done.exit_code == 0 and corpus in done.output and 'differences are real' in done.output
    only = runner.invoke(app, ['leaderboard', '--corpus', corpus, '--features', 'text', '--json'])
    assert only.exit_code == 0
    assert {row['reads'] for row in json.loads(only.output)} == {'text'}
    wrong = runner.invoke(app, ['leaderboard', '--features', 'txt'])
    assert wrong.exit_code == 2 and "did you mean 'text'" in wrong.output
    empty = runner.invoke(app, ['leaderboard', '--home', str(tmp_path)])
    assert empty.exit_code == 0 and 'no corpus has two systems' in empty.output


def test_a_new_record_says_how_many_numbers_a_system_trains(tmp_path):
    from erc.runs.recipes import find_system
    from erc.runs.run import run_system

    system = replace(find_system('baselines/bclstm_text'), encoder='hashing', args={'hidden': 4})
    key = RunKey('baselines', 'bclstm_text', 'tuned', 'demo')
    record = run_system(system, key, seeds=[0], home=tmp_path, demo={'epochs': 1, 'lr': 1e-3}, progress=False)  # fmt: skip
    widths = 2 * 4 * 4 * (256 + 4 + 2) + 2 * 4 * 4 * (8 + 4 + 2)  # two layers, two directions
    head = 8 * 100 + 100 + 100 * len(record.classes) + len(record.classes)
    assert record.facts['parameters'] == widths + head
    assert find_record(key, tmp_path).facts == record.facts
