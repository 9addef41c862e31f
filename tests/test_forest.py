"Words and figures of the claims, with all, some and none of them judged."

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from erc.report.forest import _forest_figure, _power_figure
from erc.report.judgements import _JUDGED, _VERDICTS, judge_claims
from erc.report.summary import _claims_table, _in_turns, _in_words, _ledger_sentence, verdict_figure


@pytest.fixture(scope='module')
def none():
    return _in_words(judge_claims(records={}))


@pytest.fixture(scope='module')
def every(none):
    "Every claim with an invented verdict of each kind, and numbers where there are any."
    rng, table = np.random.default_rng(0), none.copy()
    table['verdict'] = np.resize(_VERDICTS, len(table))
    known = table.verdict.isin(_VERDICTS[:5])
    mean = np.where(known, rng.normal(1, 3, len(table)), np.nan)
    table = table.assign(mean=mean, low=mean - 2, high=mean + 2, one_run=np.where(known, 4, np.nan))
    table['ours'] = [f'{x:+.1f}' if x == x else '' for x in mean]
    table['power'] = np.where(table.verdict.isin(_JUDGED) & table.printed.notna(), 0.6, np.nan)
    table['basis'] = np.where(known, 'stand-in, another corpus', '')
    table['note'] = np.where(table.verdict == 'confirmed', 'smaller than printed', '')
    return _in_words(table)


def test_words_of_no_claim(none):
    text = _ledger_sentence(none)
    assert (
        'None could be judged so far' in text and 'nan' not in text and 'one run a side' not in text
    )


def test_words_of_all_claims(every):
    text, n = _ledger_sentence(every), every.verdict.value_counts()
    judged = every[every.verdict.isin(_JUDGED)]
    assert f'{len(judged)} could be judged' in text
    assert (
        f'{n["confirmed"]} confirmed, {n["confirmed"]} of these with an effect under half' in text
    )
    for name, after in (('reversed', 'reversed'), ('open', 'open'), ('not run', 'wait for runs')):
        assert f'{n[name]} {after}' in text
    measured = every[every.one_run.notna() & (every.printed > 0)]
    shown = int((measured.printed >= 4).sum())
    assert f'could have told {shown} of {len(measured)} printed effects from chance' in text


def test_lists_have_some_of_every_paper(every):
    listed = _in_turns(every, 'confirmed')
    assert len({c['paper'] for c in listed[:4]}) == 4


@pytest.mark.parametrize('state', ['none', 'every'])
def test_figures_are_drawn(state, request):
    table = request.getfixturevalue(state)
    for paper, own in table.groupby('paper'):
        ax = _forest_figure(own).axes[0]
        names = [label.get_text() for label in ax.get_yticklabels()] if ax.axison else []
        assert len(names) == own['mean'].notna().sum() + own[own['mean'].notna()].verdict.nunique()
        assert _claims_table(table, paper).frame.map(lambda x: isinstance(x, str)).all(None)
    assert len(_power_figure(table).axes) == (2 if state == 'every' else 1)
    verdict_figure(table)
    plt.close('all')


def test_correlations_share_the_axis(every):
    row = every[(every.scale == 1) & every['mean'].notna()].head(1)
    row = row.assign(mean=0.05, low=0.01, high=0.09, printed=0.08)
    ax = _forest_figure(pd.DataFrame(row)).axes[0]
    right = max(max(line.get_xdata(), default=0) for line in ax.lines)
    assert right == pytest.approx(8)  # the printed r of 0.08, in points
    plt.close('all')
