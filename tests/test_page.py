"The page: one file, the results first, every artefact under a heading of its own."

import json
import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_tables import Tags

from erc.report.figures import Figure
from erc.report.page import _format_seconds, _image_data, _report_page, _results_by_paper
from erc.report.reproduction import _artefacts_in
from erc.report.tables import facts_table


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "A folder with two artefacts, and a manifest of them."
    folder = tmp_path_factory.mktemp('build')
    frame = pd.DataFrame({'x': ['<b>', None], 'n': [1, None]})
    facts_table(frame, 'shapes', 'table1').save(folder)
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    plt.close(fig)
    Figure('shapes', 'fig1', fig, caption='A line & more.', notes=['One note.']).save(folder)
    failed = dict(name='410_x', status='failed', cell=2, error='E: x', source='<f>', trace='t')
    manifest = {
        'profile': 'recorded',
        'started': 'today',
        'seconds': 3,
        'versions': {'python': '3'},
        'source': {'commit': 'a' * 40, 'changed': True},
        'failed': 1,
        'notebooks': [
            {'name': '400_shift', 'status': 'ok', 'seconds': 1.0, 'files': []},
            {**failed, 'seconds': 1.0, 'files': []},
        ],
        'artefacts': _artefacts_in(folder, folder),
    }
    return folder, manifest


@pytest.fixture(scope='module')
def page(built):
    return _report_page(built[1], built[0])[0]


def test_it_asks_the_network_for_nothing(page):
    tags = Tags(page).found
    assert not [tag for tag, _ in tags if tag in ('link', 'iframe', 'object', 'embed')]
    sources = [a[k] for _, a in tags for k in ('src', 'srcset', 'poster') if k in a]
    assert sources and all(source.startswith('data:') for source in sources)
    assert not re.search(r'@import|url\(|https?://', page)


def test_its_structure(page):
    tags = Tags(page).found
    names = [tag for tag, _ in tags]
    assert names.count('main') == 1 and names.count('h1') == 1 and 'nav' in names
    ids = [a['id'] for _, a in tags if 'id' in a]
    assert len(ids) == len(set(ids)) and {'main', 'search', 'contents', 'notebooks'} <= set(ids)
    links = [a['href'] for tag, a in tags if tag == 'a']
    inside = {link[1:] for link in links if link.startswith('#')}
    assert inside and inside <= set(ids), 'every link leads somewhere'
    assert {'shapes', 'shapes-table1', 'shapes-fig1'} <= inside
    assert all('scope' in a for tag, a in tags if tag == 'th')
    assert all(a.get('alt') for tag, a in tags if tag == 'img')


def test_results_come_first(page):
    places = [
        page.index(text) for text in ('Results by paper', 'id="contents"', 'id="shapes-table1"')
    ]
    assert places == sorted(places)


def test_text_is_escaped(page):
    assert 'A line &amp; more.' in page and '&lt;b&gt;' in page and '&lt;f&gt;' in page
    assert '<f>' not in page and 'One note.' in page


def test_states_and_failures_are_told(page):
    assert 'partly: 1 of 2 lines not run' in page and '1 failed' in page and 'E: x' in page


def test_markdown(built):
    _, markdown = _report_page(built[1], built[0])
    assert '![Shapes of Emotions, Figure 1](figures/shapes_fig1.png)' in markdown
    assert '1 ok, 1 failed' in markdown and '## Failed: 410_x' in markdown and '| x ' in markdown


def test_colours_can_be_read():
    "Text colours have a contrast of 4.5 to 1 with the page, in both schemes (WCAG AA)."
    from erc.core import package_file

    style = package_file('report/templates/page.css').read_text()
    for block in re.findall(r':root \{([^}]*)\}', style):
        colours = dict(re.findall(r'--([\w-]+): (#[0-9a-f]{3,6})', block))
        page = colours['erc-page']
        inks = {k: v for k, v in colours.items() if k not in ('erc-page', 'erc-soft', 'erc-edge')}
        assert len(inks) == 6 and all(contrast(ink, page) > 4.5 for ink in inks.values())
        assert contrast(colours['erc-edge'], page) > 3, 'borders of what one can use'


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else ''.join(c * 2 for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


def test_first_screen_has_the_first_comparison_with_a_number_of_ours():
    base = {'paper': 'shapes', 'title': 'Shapes of Emotions, Table 2', 'state': 'drawn'}
    empty = {'column': 'F1', 'printed': '70.0', 'ours': '', 'floor': '', 'basis': ''}
    full = {**empty, 'column': 'accuracy', 'ours': '68.0 [60.0, 71.0]', 'basis': 'own features'}
    artefacts = [
        {**base, 'headline': {}},
        {**base, 'headline': empty, 'state': 'partly'},
        {**base, 'headline': full},
        {**base, 'paper': 'sagru'},
    ]
    table = _results_by_paper(artefacts)
    assert table.frame.paper.tolist() == ['Shapes of Emotions', 'SA-GRU']
    assert table.frame.drawn.tolist() == ['2 drawn, 1 partly', '1 drawn']
    assert table.frame.iloc[0]['measured here'] == '68.0 [60.0, 71.0]'
    assert table.frame.iloc[0].measure == 'Table 2, accuracy' and table.links[1] == '#sagru'
    assert list(_results_by_paper(artefacts[:1]).frame) == ['paper', 'drawn']


def test_images(tmp_path):
    assert _image_data(tmp_path / 'x') == ''
    (tmp_path / 'x.png').write_bytes(b'png')
    assert _image_data(tmp_path / 'x').startswith('data:image/png;base64,')
    (tmp_path / 'x.svg').write_text('<svg/>')
    assert _image_data(tmp_path / 'x').startswith('data:image/svg+xml;base64,')
    (tmp_path / 'x.svg').write_text('x' * 300_000)
    assert _image_data(tmp_path / 'x').startswith('data:image/png'), (
        'a large drawing goes in as png'
    )


def test_durations():
    assert [_format_seconds(s) for s in (3.2, 119, 130)] == ['3 s', '119 s', '2 min 10 s']


def test_the_manifest_stays_small(built):
    assert all('table' not in facts for facts in built[1]['artefacts'])
    assert len(json.dumps(built[1])) < 20_000
