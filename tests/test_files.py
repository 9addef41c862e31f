"What is missing or damaged is named."

import numpy as np
import pandas as pd
import pytest

from erc.data.files import (
    _label_codes,
    _require_rows,
    numeric_column,
    read_table,
    require_file,
)


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'latin1'])
def test_another_encoding_is_refused(tmp_path, encoding):
    (tmp_path / 'x.csv').write_bytes('text,label\nd\xe9j\xe0 vu,1\n'.encode(encoding))
    with pytest.raises(ValueError, match=r'x\.csv: '):
        read_table(tmp_path / 'x.csv', ('text',))


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match='a.csv is not in .*`erc data get meld` downloads'):
        require_file(tmp_path, 'a.csv', 'meld')


def test_text_stays_text(tmp_path):
    (tmp_path / 'x.csv').write_text('id,text\n007,NA\n')
    assert read_table(tmp_path / 'x.csv', ['id']).to_dict('records') == [
        {'id': '007', 'text': 'NA'}
    ]


@pytest.mark.parametrize(
    'names,allow_blank,message',
    [
        (['glad', 'Glum'], True, "x.csv, row 1: unknown label 'Glum'; did you mean 'glum'?"),
        (['', 'glad'], False, "x.csv, row 0: unknown label ''. Known: glum, glad"),
    ],
)
def test_unknown_labels_are_named(names, allow_blank, message):
    assert _label_codes(['glad', '', 'glum'], ('glum', 'glad'), 'x.csv').tolist() == [1, -1, 0]
    with pytest.raises(ValueError, match=message.replace('.', r'\.').replace('?', r'\?')):
        _label_codes(names, ('glum', 'glad'), 'x.csv', allow_blank=allow_blank)


@pytest.mark.parametrize(
    'value,kind,ok',
    [('3', int, True), ('3.0', int, False), ('', int, False), ('inf', float, False)],
)
def test_columns_are_finite_numbers(value, kind, ok):
    table = pd.DataFrame({'n': ['1', value]})
    if ok:
        assert numeric_column(table, 'n', 'x.csv', kind).tolist() == [1, int(value)]
    else:
        with pytest.raises(ValueError, match=f"x.csv: column 'n', row 1: '{value}' is not a"):
            numeric_column(table, 'n', 'x.csv', kind)


def test_blanks_become_nan_where_they_are_allowed():
    table = pd.DataFrame({'n': ['1.5', '']})
    np.testing.assert_array_equal(
        numeric_column(table, 'n', 'x.csv', float, allow_blank=True), [1.5, np.nan]
    )


def test_arrays_have_the_right_length():
    arrays = {'a': np.zeros((2, 3))}
    assert _require_rows(arrays, 'a', 2, 'x.npz') is arrays['a']
    with pytest.raises(ValueError, match="x.npz: no array 'b'; it has a"):
        _require_rows(arrays, 'b', 2, 'x.npz')
    with pytest.raises(ValueError, match=r"x.npz: array 'a' has shape \(2, 3\), expected 3 rows"):
        _require_rows(arrays, 'a', 3, 'x.npz')


def test_what_a_killed_writer_put_aside_is_its_own_folders(tmp_path):
    "A folder, another one whose name goes on with a point, and files of the same name."
    from erc.data.files import _restored

    for name in ('.mine.v2.ab_c1.tmp', '.mine.d2_ef.tmp'):
        (tmp_path / name / 'old').mkdir(parents=True)
        (tmp_path / name / 'old' / 'made').write_text(name)
        (tmp_path / name / 'lock').write_bytes(b'')
    for name in ('.mine.csv.gh3.erc.tmp', '.mine.ij4.erc.tmp'):
        (tmp_path / name).write_text('half')
    assert (_restored(tmp_path / 'mine') / 'made').read_text() == '.mine.d2_ef.tmp'
    assert not (tmp_path / 'mine.v2').exists()
    assert (_restored(tmp_path / 'mine.v2') / 'made').read_text() == '.mine.v2.ab_c1.tmp'
    left = {path.name for path in tmp_path.glob('.*')}
    assert left == {'.mine.csv.gh3.erc.tmp', '.mine.ij4.erc.tmp'}
