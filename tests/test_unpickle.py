"What a pickle may do, and what an array file must be."

import codecs
import io
import os
import pickle
from collections import OrderedDict, defaultdict

import numpy as np
import pytest

from erc.data.array_files import _safe_load_npz, safe_load_npy
from erc.data.plain_data import Refused
from erc.data.unpickle import _unpickle, safe_unpickle


class Call:
    "Pickles to a call of `f(*args)`."

    def __init__(self, f, *args):
        self.f, self.args = f, args

    def __reduce__(self):
        return self.f, self.args


def dumped(tmp_path, obj, protocol=2, name='x.pkl'):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(obj, protocol=protocol))
    return path


def test_os_system_is_refused_by_name_before_it_runs(tmp_path):
    mark = tmp_path / 'it-ran'
    path = dumped(tmp_path, {'a': [Call(os.system, f'touch {mark}')]})
    with pytest.raises(ValueError, match=r'x\.pkl.*posix\.system.*nothing was run'):
        safe_unpickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    'what',
    [
        eval,
        exec,
        getattr,
        __import__,
        open,
        os.popen,
        object,
        np.load,
        np.frombuffer,
        codecs.decode,
        pickle.loads,
    ],
)
def test_other_globals_are_refused(tmp_path, what):
    path = dumped(tmp_path, Call(what, '1'))
    with pytest.raises(Refused, match=f'{what.__name__}.*allow-list'):
        safe_unpickle(path)


@pytest.mark.parametrize(
    'raw,name',
    [
        (b'cposix\nsystem\n(S"true"\ntR.', 'posix.system'),
        (b'c__builtin__\neval\n(S"1"\ntR.', '__builtin__.eval'),
        (b'(S"true"\niposix\nsystem\n.', 'posix.system'),
        (b'cnumpy.core.multiarray\nfromfile\n.', 'fromfile'),
        (b'cbuiltins\nlist.append\n.', 'list.append'),
    ],
)
def test_refused_in_every_spelling(raw, name):
    with pytest.raises(ValueError, match=name):
        _unpickle(io.BytesIO(raw), 'raw')


def test_codec_takes_an_error_handler():
    assert (
        _unpickle(io.BytesIO(b'c_codecs\nencode\n(V\xe9\nVlatin1\nVstrict\ntR.'), 'raw') == b'\xe9'
    )
    with pytest.raises(ValueError, match='rot13'):
        _unpickle(io.BytesIO(b'c_codecs\nencode\n(Vabc\nVrot13\nVstrict\ntR.'), 'raw')


def test_a_zip_is_called_a_zip(tmp_path):
    np.savez(tmp_path / 'model.pt', x=np.arange(3))  # torch.save writes such an archive
    (tmp_path / 'model.pt.npz').rename(tmp_path / 'model.pt')
    with pytest.raises(Refused, match=r'model\.pt: a zip archive, as torch\.save'):
        safe_unpickle(tmp_path / 'model.pt')


def test_codec_is_latin1_only():
    with pytest.raises(ValueError, match='rot13'):
        _unpickle(io.BytesIO(b'c_codecs\nencode\n(Vabc\nVrot13\ntR.'), 'raw')
    assert _unpickle(io.BytesIO(b'c_codecs\nencode\n(V\xe9\nVlatin1\ntR.'), 'raw') == b'\xe9'


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_and_arrays_come_back(tmp_path, protocol):
    d = defaultdict(list, a=[1])
    obj = (
        OrderedDict(x={1, 2}),
        d,
        frozenset('ab'),
        b'\xff\x00',
        1 + 2j,
        bytearray(b'z'),
        np.arange(6, dtype=np.float32).reshape(2, 3, order='F'),
        np.float64(0.5),
        np.int32(7),
        np.array(['é', 'b']),
        np.array([{'k': 1}, None], object),
        np.dtype('<i4'),
    )
    got = safe_unpickle(dumped(tmp_path, obj, protocol))
    assert got[:6] == obj[:6] and got[1].default_factory is list
    for a, b in zip(got[6:], obj[6:]):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('module', [b'numpy.core', b'numpy._core'])
def test_both_names_of_numpys_core(module):
    raw = pickle.dumps(np.arange(3), protocol=0).replace(b'numpy._core', module)
    assert module in raw
    np.testing.assert_array_equal(_unpickle(io.BytesIO(raw), 'raw'), np.arange(3))


def test_python2_file_is_latin1(tmp_path):
    raw = (
        b'\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01b\x87Rq\x04(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10'
        + np.array([1.0, -2.0]).tobytes()
        + b'tb.'
    )
    (tmp_path / 'old.pickle').write_bytes(raw)
    np.testing.assert_array_equal(safe_unpickle(tmp_path / 'old.pickle'), [1, -2])
    assert _unpickle(io.BytesIO(b"S'caf\\xe9'\n."), 'raw') == 'café'


@pytest.mark.parametrize('cut', [1, 3, 20, 60])
def test_truncated_pickle_is_a_clear_error(tmp_path, cut):
    path = dumped(tmp_path, [np.arange(9.0), 'text'], 4)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r'x\.pkl: damaged or truncated'):
        safe_unpickle(path)


def test_empty_and_nonsense_files(tmp_path):
    for raw in (b'', b'version https://git-lfs.github.com/spec/v1\n', b'<html>'):
        (tmp_path / 'x.pkl').write_bytes(raw)
        with pytest.raises(ValueError, match='damaged or truncated'):
            safe_unpickle(tmp_path / 'x.pkl')


def test_npz_and_npy_with_objects(tmp_path):
    mark = tmp_path / 'it-ran'
    good = np.array({'u': {'emo': 1, 'val': -10}}, object)
    np.savez(
        tmp_path / 'good.npz', whole_corpus=good, plain=np.arange(3), words=np.array(['a', 'bc'])
    )
    z = _safe_load_npz(tmp_path / 'good.npz')
    assert (
        z['whole_corpus'].item() == good.item()
        and list(z['plain']) == [0, 1, 2]
        and list(z['words']) == ['a', 'bc']
    )
    with pytest.raises(ValueError, match='good.npz, member whole_corpus.npy: an array of objects'):
        _safe_load_npz(tmp_path / 'good.npz', objects=False)
    np.savez(
        tmp_path / 'evil.npz',
        plain=np.arange(3),
        x=np.array([Call(os.system, f'touch {mark}')], object),
    )
    with pytest.raises(ValueError, match=r'evil\.npz, member x\.npy.*posix\.system'):
        _safe_load_npz(tmp_path / 'evil.npz')
    np.save(tmp_path / 'evil.npy', np.array([Call(os.system, f'touch {mark}')], object))
    with pytest.raises(ValueError, match='posix.system'):
        safe_load_npy(tmp_path / 'evil.npy')
    assert not mark.exists()
    np.save(tmp_path / 'fortran.npy', np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    np.testing.assert_array_equal(
        safe_load_npy(tmp_path / 'fortran.npy'), np.arange(6.0).reshape(2, 3)
    )


def test_truncated_arrays(tmp_path):
    np.savez(tmp_path / 'a.npz', x=np.arange(99.0))
    (tmp_path / 'b.npz').write_bytes((tmp_path / 'a.npz').read_bytes()[:-30])
    with pytest.raises(ValueError, match='b.npz: damaged or truncated'):
        _safe_load_npz(tmp_path / 'b.npz')
    np.save(tmp_path / 'a.npy', np.arange(99.0))
    (tmp_path / 'b.npy').write_bytes((tmp_path / 'a.npy').read_bytes()[:-30])
    with pytest.raises(ValueError, match='b.npy: 762 bytes for an array of float64'):
        safe_load_npy(tmp_path / 'b.npy')


def test_values_that_share_are_shared_again():
    vector, word = np.arange(3.0), 'a word'
    got = _unpickle(io.BytesIO(pickle.dumps([vector, vector, {word: [word]}])), 'raw')
    assert got[0] is got[1] and got[0].flags.writeable
    assert next(iter(got[2])) is got[2][word][0]


def test_pythons_reader_is_not_used(monkeypatch, tmp_path):
    path = dumped(tmp_path, [np.arange(3), {'a'}])
    monkeypatch.setattr(pickle, 'load', None)
    monkeypatch.setattr(pickle, 'loads', None)
    monkeypatch.setattr(pickle, 'Unpickler', None)
    assert safe_unpickle(path)[1] == {'a'}


@pytest.mark.parametrize('order', 'CF')
@pytest.mark.parametrize('protocol', [0, 2, 5])
@pytest.mark.parametrize('kind', ['>f8', '<i2', 'bool', '<U3', 'S2', 'c16', object])
def test_arrays_of_every_kind(kind, protocol, order):
    array = np.array([[1, 0, 1], [0, 1, 1]]).astype(kind, order=order)
    for wanted in (array, array[:, ::2], array[:0], array[1, 1:2].reshape(())):
        got = _unpickle(io.BytesIO(pickle.dumps(wanted, protocol)), 'raw')
        assert got.dtype == wanted.dtype.newbyteorder('=')
        np.testing.assert_array_equal(got, wanted)


def test_an_array_without_an_end_is_refused():
    blank = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR'
    for raw in (blank, b']' + blank + b'a', b'}K\x01' + blank + b's'):
        with pytest.raises(Refused, match='raw: an array, a type or a name that is not complete'):
            _unpickle(io.BytesIO(raw + b'.'), 'raw')


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / 'x.pkl', 'wb') as file:
        file.truncate(1 << 31)  # sparse
    with pytest.raises(Refused, match='2147483648 bytes, more than'):
        safe_unpickle(tmp_path / 'x.pkl')
