"Figures: drawn from records alone, the same bytes each time, readable without colour."

import json
from dataclasses import replace

import matplotlib

matplotlib.use('agg')
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from toy_report import draw, save_toy

from erc.report.figures import (
    Figure,
    _confusion_figure,
    _curves_figure,
    _lightness,
    _missing_figure,
    diagram_figure,
    figure_style,
    interval_figure,
    interval_rows,
    palette,
)
from erc.runs.keys import RunKey
from erc.runs.records import Fold, Record

EMOTIONS = ['happy', 'sad', 'neutral', 'angry', 'excited', 'frustrated', 'fear']


@pytest.fixture(autouse=True)
def theme():
    "The theme of the project, and nothing open afterwards."
    with mpl.rc_context():
        figure_style()
        yield
    plt.close('all')


def toy(classes='abc', **fold):
    random = np.random.default_rng(0)
    dev, test = random.random((2, 3, 4)).astype(np.float32)
    fold = {
        'seeds': [0, 1, 2],
        'selected': [1, 3, 2],
        'confusions': {'all': random.integers(0, 5, (3, 20, 3, 3))},
        'curves': {'dev': dev, 'test': test},
        **fold,
    }
    key = RunKey.parse('shapes/net:paper@demo')
    return Record(key, classes=list(classes), folds={'paper': Fold(**fold)})


@pytest.mark.parametrize('n', [1, 2, 3, 4, 6, 7])
def test_palette_reads_in_grey(n):
    p = palette(EMOTIONS[:n])
    light = [_lightness(c) for c in p.values()]
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
    record = toy()
    ax = _confusion_figure(record).axes[0]
    c = record.confusions['all'].sum((0, 1))
    want = [f'{100 * c[i, j] / c[i].sum():.0f}' for i in range(3) for j in range(3)]
    assert [text.get_text() for text in ax.texts] == want
    assert [label.get_text() for label in ax.get_yticklabels()] == ['a', 'b', 'c']
    assert [label.get_text() for label in ax.get_xticklabels()] == ['a', 'b', 'c']
    with pytest.raises(ValueError, match='Known: all'):
        _confusion_figure(record, 'al')


def test_confusion_of_a_class_that_never_occurs():
    c = np.zeros((1, 2, 2, 2), int)
    c[..., 0, 0] = 1
    ax = _confusion_figure(toy('ab', confusions={'all': c})).axes[0]
    assert ax.texts[3].get_text() == '0'


def test_confusion_on_given_axes():
    fig, (left, right) = plt.subplots(1, 2)
    assert _confusion_figure(toy(), ax=right) is fig and right.texts and not left.texts


def test_curves_mark_the_selected_epoch():
    record = toy()
    alone = toy(curves={'dev': record.curves['dev']})
    axes = _curves_figure([record, None, alone]).axes
    dots = next(line for line in axes[0].lines if line.get_marker() == 'o')
    scores = [record.curves['dev'][i, epoch] for i, epoch in enumerate(record.selected)]
    assert list(dots.get_xdata()) == record.selected
    assert list(dots.get_ydata()) == pytest.approx([100 * score for score in scores])
    seeds = [[line for line in ax.lines if len(line.get_xdata()) == 4] for ax in axes]
    assert [len(lines) for lines in seeds] == [6, 3], 'dev and test of three seeds; dev alone'
    assert {line.get_color() for line in seeds[0]} == {'#2c3f8f', '#d1495b'}
    assert axes[0].get_title(loc='left') == 'net\npaper@demo'
    with pytest.raises(ValueError, match='run the systems'):
        _curves_figure([None])


def labels_of(rows):
    return [label.get_text() for label in interval_figure(rows).axes[0].get_yticklabels()]


def test_intervals_show_ours_the_papers_and_gaps():
    ours = dict(row='A', line='net', variant='tuned', kind='ours', mean=70.0, low=68.0, high=72.0)
    rows = [
        dict(row='A', line='paper prints', kind='printed', printed='72.5'),
        ours,
        dict(row='B', line='paper prints', kind='printed', printed='-'),
        dict(row='B', line='net', kind='not run'),
    ]
    assert labels_of(rows) == [
        'A',
        'paper prints',
        'net, tuned',
        'B',
        'paper prints',
        'net (not run)',
    ]
    ax = interval_figure(rows).axes[0]
    marks = {line.get_marker(): list(line.get_xdata()) for line in ax.lines}
    assert marks['D'] == [72.5] and marks['o'] == [70.0], 'a dash and a gap have no mark'
    bars = [c.get_segments() for c in ax.collections if len(c.get_segments())]
    assert [list(x[0][:, 0]) for x in bars] == [[68.0, 72.0], [72.5, 72.5]]


def test_intervals_of_nothing():
    assert labels_of([dict(row='B', line='net', kind='not run')]) == ['B', 'net (not run)']


def test_lines_name_what_stands_in_where_that_differs():
    def line(row, basis):
        numbers = dict(mean=70.0, low=68.0, high=72.0)
        return dict(row=row, line='net', variant='tuned', basis=basis, kind='ours', **numbers)

    rows = [
        line('A', 'stand-in: IEMOCAP'),
        line('A', 'stand-in: MOSI'),
        line('on MOSI', 'stand-in: MOSI'),
        line('B', 'own features, text'),
    ]
    both = ['A', 'net, tuned, IEMOCAP', 'net, tuned, MOSI', 'on MOSI', 'net, tuned']
    assert labels_of(rows) == [*both, 'B', 'net, tuned']
    alone = ['A', 'net, tuned', 'on MOSI', 'net, tuned', 'B', 'net, tuned']
    assert labels_of(rows[1:]) == alone, 'one corpus alone: the caption names it'


def test_rows_of_a_table(tmp_path):
    save_toy(tmp_path)
    table = draw(tmp_path)
    rows = interval_rows(table, 'F1')
    assert len(rows) == len(table.frame) and (rows.kind == 'ours').sum() == 1
    assert len(labels_of(rows)) == len(rows) + 3
    assert len(labels_of(rows[rows.line != 'a rule'])) < len(rows) + 3
    with pytest.raises(ValueError, match='Known: Accuracy, F1'):
        interval_rows(table, 'F2')
    demo = replace(table, profile='demo')
    assert set(interval_rows(demo, 'F1').kind) == {'ours', 'not run'}, 'nothing compares'


def test_files_are_whole_and_repeatable(tmp_path):
    made = []
    for name in 'ab':
        figure = Figure(
            'shapes',
            'fig9',
            _confusion_figure(toy()),
            caption='A caption.',
            state='partly',
            basis=['demo'],
        )
        path = figure.save(tmp_path / name)
        made.append({p.suffix: p.read_bytes() for p in path.parent.iterdir()})
    assert set(made[0]) == {'.png', '.svg', '.json'} and made[0] == made[1]
    assert made[0]['.png'][:8] == b'\x89PNG\r\n\x1a\n' and b'<dc:date>' not in made[0]['.svg']
    dpi = Image.open(tmp_path / 'a/figures/shapes_fig9.png').info['dpi'][0]
    assert dpi == pytest.approx(200, abs=1)
    facts = json.loads(made[0]['.json'])
    assert (facts['kind'], facts['state'], facts['basis']) == ('figure', 'partly', ['demo'])
    assert (facts['command'], facts['caption']) == ('erc run shapes --missing', 'A caption.')
    with pytest.raises(ValueError, match='Known: drawn'):
        Figure('shapes', 'fig9', plt.figure(), state='good')


def test_shown_twice_gives_the_same_bytes():
    figure = Figure('shapes', 'fig9', _curves_figure([toy()]))
    plt.close(figure.fig)
    assert figure._repr_png_() == figure._repr_png_()


def test_failed_save_leaves_nothing(tmp_path):
    class Broken:
        def savefig(self, file, **_):
            file.write(b'half')
            raise OSError('disk full')

    with pytest.raises(OSError):
        Figure('shapes', 'fig9', Broken()).save(tmp_path)
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == []


def test_a_missing_figure_says_what_to_run():
    figure = _missing_figure('shapes', 'fig1')
    text = figure.fig.axes[0].texts[0].get_text()
    assert 'erc run shapes --missing' in text and figure.state == 'not run'
    demo = _missing_figure('shapes', 'fig1', 'demo').fig.axes[0].texts[0].get_text()
    assert 'profile demo' in demo


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
    arrow = next(
        t for t in ax.texts if getattr(t, 'arrow_patch', None)
    ).arrow_patch.get_window_extent()
    assert (
        arrow.x0 > ax.patches[0].get_window_extent().x0
        and arrow.x1 < ax.patches[1].get_window_extent().x0 + 3
    ), 'an arrow ends at the frame'
    with pytest.raises(KeyError):
        diagram_figure(boxes, [('in', 'nowhere')])
