"Artefacts: what papers print, one state for tables and figures, files that change only with their content."

import json
from dataclasses import dataclass

import pytest

from erc.report.artefacts import (
    Artefact,
    _artefact_path,
    _missing_command,
    _notebook_anchor,
    _state_of,
    description,
    heading,
    paper_title,
    printed,
    reference,
    saved_artefact,
)


@dataclass
class Words(Artefact):
    text: str = ''

    kind = 'table'

    def content(self):
        return {'.txt': self.text}


def test_unknown_paper_artefact_and_place():
    with pytest.raises(ValueError, match="did you mean 'shapes'"):
        reference('shapess')
    numbers = reference('shapes')
    with pytest.raises(ValueError, match='Known'):
        printed(numbers, 'table99', 'a', 'b')
    with pytest.raises(ValueError, match="unknown row of table6 'MOSEI'"):
        printed(numbers, 'table6', 'MOSEI', 'F1')
    with pytest.raises(ValueError, match="unknown column of table6 'F2'"):
        printed(numbers, 'table6', 'CMU-MOSEI', 'F2')
    with pytest.raises(ValueError, match='name a dataset'):
        printed(numbers, 'appendixb', 'text', 'input dim')
    assert printed(numbers, 'appendixb', 'text', 'input dim', 'IEMOCAP').isdigit()


@pytest.mark.parametrize(
    'kinds,state',
    [
        (['printed', 'ours'], 'drawn'),
        (['printed'], 'not run'),
        ([], 'not run'),
        (['ours', 'not run'], 'partly'),
        (['stale', 'stale'], 'drawn'),
        (['printed', 'not run'], 'not run'),
        (['needs data', 'not run'], 'not run'),
        (['needs data'], 'needs data'),
        (['needs data', 'ours'], 'partly'),
    ],
)
def test_state(kinds, state):
    assert _state_of(kinds) == state


def test_names():
    assert heading('shapes', 'table6') == 'Shapes of Emotions, Table 6'
    assert heading('shapes', 'fig1') == 'Shapes of Emotions, Figure 1'
    assert heading('shapes', 'our_own') == 'Shapes of Emotions, our_own'
    assert paper_title('nobody') == 'nobody'
    assert description('shapes', 'table6').endswith('.') and description('shapes', 'our_own') == ''


def test_a_state_has_its_command():
    assert Words('shapes', 'table6', state='partly').command == _missing_command('shapes')
    assert Words('shapes', 'table6', state='partly', command='fetch').command == 'fetch'
    assert Words('shapes', 'table6').command == '', 'nothing is missing'
    demo = Words('shapes', 'table6', state='not run', profile='demo')
    assert demo.command == 'erc reproduce --profile demo'
    with pytest.raises(ValueError, match='Known: drawn'):
        Words('shapes', 'table6', state='fine')


def test_saving(tmp_path):
    artefact = Words('shapes', 'table6', text='one', basis=['demo'])
    path = artefact.save(tmp_path)
    assert path == _artefact_path('table', 'shapes', 'table6', tmp_path)
    facts = saved_artefact('shapes', 'table6', tmp_path)
    assert (facts['state'], facts['basis'], facts['path']) == ('drawn', ['demo'], str(path))
    assert saved_artefact('shapes', 'table7', tmp_path) == {}


def test_files_that_do_not_change_are_not_written(tmp_path):
    path = Words('shapes', 'table6', text='one').save(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in path.parent.iterdir()}
    Words('shapes', 'table6', text='one', profile='full').save(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in path.parent.iterdir()} == before, (
        'who drew the same records is not said'
    )
    Words('shapes', 'table6', text='two').save(tmp_path)
    assert path.with_suffix('.txt').read_text() == 'two'


def test_anchors(tmp_path):
    cells = [
        '## Results',
        '### Tables 4 and 5: IEMOCAP',
        '#### Figure 1',
        '### Tables 6 to 8',
        'Table 9',
    ]
    book = {
        'cells': [{'cell_type': 'markdown', 'source': [cell]} for cell in [*cells, '### Cases']]
    }
    path = tmp_path / 'book.ipynb'
    path.write_text(json.dumps(book))
    want = {
        'table5': 'Tables 4 and 5: IEMOCAP',
        'fig1': 'Figure 1',
        'table7': 'Tables 6 to 8',
        'table9': '',
        'case_short': 'Cases',
        'our_own': '',
    }
    assert {name: _notebook_anchor(path, name) for name in want} == want
    assert _notebook_anchor(tmp_path / 'none.ipynb', 'table5') == ''
