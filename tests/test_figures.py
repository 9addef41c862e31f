"Figures: drawn from records alone, the same bytes each time, readable without colour."

import json

import matplotlib

matplotlib.use('agg')
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from erc.report.figures import (
    confusion_figure,
    curves_figure,
    diagram_figure,
    figure_style,
    interval_figure,
    lightness,
    not_run_figure,
    palette,
    rows_of,
    save_figure,
)
from erc.runs.records import Record

EMOTIONS = ['happy', 'sad', 'neutral', 'angry', 'excited', 'frustrated', 'fear']


@pytest.fixture(autouse=True)
def fresh():
    with mpl.rc_context():
        figure_style()
        yield
    plt.close('all')


def toy(**over):
    g = np.random.default_rng(0)
    c = g.integers(0, 5, (3, 20, 3, 3))
    r = Record(
        'shapes/net',
        'demo',
        'paper',
        classes=['a', 'b', 'c'],
        seeds=[0, 1, 2],
        selected=[1, 3, 2],
        confusions={'all': c},
        curves={
            'dev': g.random((3, 4)).astype(np.float32),
            'test': g.random((3, 4)).astype(np.float32),
        },
    )
    for k, v in over.items():
        setattr(r, k, v)
    return r


@pytest.mark.parametrize('n', [1, 2, 3, 4, 6, 7])
def test_palette_reads_in_grey(n):
    p = palette(EMOTIONS[:n])
    light = [lightness(c) for c in p.values()]
    assert (
        list(p) == EMOTIONS[:n] and (np.diff(light) > 0.04).all() and max(light, default=0) < 0.85
    )


@pytest.mark.parametrize(
    'see',
    [
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],  # protanopia (Machado 2009)
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],  # deuteranopia
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ],
)  # tritanopia
def test_palette_reads_to_the_colour_blind(see):
    seen = np.array(
        [np.clip(np.array(see) @ mpl.colors.to_rgb(c), 0, 1) for c in palette(EMOTIONS).values()]
    )
    apart = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
    assert min(apart) > 0.08


def test_repeated_classes_are_refused():
    with pytest.raises(ValueError, match='repeat'):
        palette(['a', 'a'])


def test_confusion_shows_row_percent():
    r = toy()
    fig = confusion_figure(r)
    c = r.confusions['all'].sum((0, 1))
    said = [t.get_text() for t in fig.axes[0].texts]
    assert said == [f'{100 * c[i, j] / c[i].sum():.0f}' for i in range(3) for j in range(3)]
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ['a', 'b', 'c']
    with pytest.raises(ValueError, match='Known: all'):
        confusion_figure(r, 'al')


def test_confusion_of_a_class_that_never_occurs():
    c = np.zeros((1, 2, 2, 2), int)
    c[..., 0, 0] = 1
    assert (
        confusion_figure(toy(confusions={'all': c}, classes=['a', 'b'])).axes[0].texts[3].get_text()
        == '0'
    )


def test_curves_mark_the_selected_epoch():
    r = toy()
    ax = curves_figure([r, None, toy(curves={'dev': r.curves['dev']})]).axes
    dots = [(ln.get_xdata()[0], ln.get_ydata()[0]) for ln in ax[0].lines if ln.get_marker() == 'o']
    assert dots == [
        (s, pytest.approx(100 * r.curves['dev'][i, s])) for i, s in enumerate(r.selected)
    ]
    assert (
        len(ax) == 2
        and sum(ln.get_linestyle() == '--' for ln in ax[0].lines) == 3
        and not any(ln.get_linestyle() == '--' for ln in ax[1].lines)
    )
    with pytest.raises(ValueError, match='run the systems'):
        curves_figure([None])


def test_intervals_show_ours_the_papers_and_gaps():
    rows = [
        dict(
            row='A', line='paper prints', kind='printed', printed='72.5', mean='', low='', high=''
        ),
        dict(
            row='A',
            line='net',
            setting='tuned',
            kind='ours',
            printed='',
            mean=70.0,
            low=68.0,
            high=72.0,
        ),
        dict(row='B', line='paper prints', kind='printed', printed='-', mean='', low='', high=''),
        dict(row='B', line='net', kind='not run', printed='', mean='', low='', high=''),
    ]
    ax = interval_figure(rows).axes[0]
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == ['A', 'paper prints', 'net, tuned', 'B', 'paper prints', 'net (not run)']
    marks = {
        ln.get_marker(): ln.get_xdata()[0] if np.ndim(ln.get_xdata()) else ln.get_xdata()
        for ln in ax.lines
        if ln.get_marker() in 'oD'
    }
    assert marks == {'D': 72.5, 'o': 70.0}, 'a dash and a gap have no mark'
    assert [68.0, 72.0] in [list(ln.get_xdata()) for ln in ax.lines]


def test_lines_name_what_stands_in_where_that_differs():
    line = lambda row, basis: dict(
        row=row,
        line='net',
        setting='tuned',
        basis=basis,
        kind='ours',
        mean=70.0,
        low=68.0,
        high=72.0,
    )
    rows = [
        line('A', 'stand-in: IEMOCAP'),
        line('A', 'stand-in: MOSI'),
        line('on MOSI', 'stand-in: MOSI'),
        line('B', 'own features, text'),
    ]
    labels = lambda rows: [t.get_text() for t in interval_figure(rows).axes[0].get_yticklabels()]
    assert labels(rows) == [
        'A',
        'net, tuned, IEMOCAP',
        'net, tuned, MOSI',
        'on MOSI',
        'net, tuned',
        'B',
        'net, tuned',
    ]
    assert labels(rows[1:]) == ['A', 'net, tuned', 'on MOSI', 'net, tuned', 'B', 'net, tuned'], (
        'one corpus alone: the caption says it'
    )


def test_rows_of_a_table(tmp_path):
    from erc.report.tables import comparison
    from test_tables import put, recipe

    put(tmp_path)
    t = comparison('shapes', 'table6', home=tmp_path, recipe=recipe(), stale=False)
    rows = rows_of(t, 'F1')
    assert len(rows) == len(t.frame) and sum(r['kind'] == 'ours' for r in rows) == 1
    assert len(interval_figure(rows).axes[0].get_yticklabels()) == len(rows) + 3
    with pytest.raises(ValueError, match='Known: Accuracy, F1'):
        rows_of(t, 'F2')


def test_files_are_whole_and_repeatable(tmp_path):
    made = []
    for k in 'ab':
        stem = save_figure(
            confusion_figure(toy()),
            'shapes',
            'fig9',
            tmp_path / k,
            'A caption.',
            'partly',
            basis=['demo'],
        )
        made.append({p.suffix: p.read_bytes() for p in stem.parent.iterdir()})
    assert set(made[0]) == {'.png', '.svg', '.json'} and made[0] == made[1]
    assert made[0]['.png'][:8] == b'\x89PNG\r\n\x1a\n' and b'<dc:date>' not in made[0]['.svg']
    assert Image.open(tmp_path / 'a/figures/shapes_fig9.png').info['dpi'][0] == pytest.approx(
        200, abs=1
    )
    said = json.loads(made[0]['.json'])
    assert (said['kind'], said['state'], said['command'], said['basis'], said['caption']) == (
        'figure',
        'partly',
        'erc run shapes --missing',
        ['demo'],
        'A caption.',
    )
    with pytest.raises(ValueError, match='Known: drawn'):
        save_figure(plt.figure(), 'shapes', 'fig9', tmp_path / 'c', state='good')
    assert not (tmp_path / 'c').exists()


def test_failed_save_leaves_nothing(tmp_path):
    class Broken:
        def savefig(self, path, **_):
            open(path, 'w').write('half')
            raise OSError('disk full')

    with pytest.raises(OSError):
        save_figure(Broken(), 'shapes', 'fig9', tmp_path)
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == []


def test_a_missing_figure_says_what_to_run():
    assert (
        'erc run shapes --missing' in not_run_figure('shapes', 'fig1').axes[0].texts[0].get_text()
    )
    assert 'profile demo' in not_run_figure('shapes', 'fig1', 'demo').axes[0].texts[0].get_text()


def test_diagram():
    boxes = {
        'in': (0, 0, '$x$', 'data'),
        'unit': (1.5, 0, 'a unit\nof two lines'),
        'out': (3, 1, '$h$', 'data'),
    }
    fig = diagram_figure(boxes, [('in', 'unit'), ('unit', 'out', '<|-|>', 0.2)])
    ax = fig.axes[0]
    assert {'$x$', '$h$', 'a unit\nof two lines'} <= {t.get_text() for t in ax.texts} and len(
        ax.patches
    ) == 3
    fig.canvas.draw()
    for p in ax.patches:
        b = p.get_window_extent()
        assert b.x0 >= 0 and b.y0 >= 0 and b.x1 <= fig.bbox.x1 and b.y1 <= fig.bbox.y1, (
            'a box is cut off'
        )
    arrow = ax.texts[-2].arrow_patch.get_window_extent()
    assert (
        arrow.x0 > ax.patches[0].get_window_extent().x0
        and arrow.x1 < ax.patches[1].get_window_extent().x0 + 3
    ), 'an arrow ends at the frame'
    with pytest.raises(KeyError):
        diagram_figure(boxes, [('in', 'nowhere')])
