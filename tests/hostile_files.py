"Hostile files, made by hand: each a name, the bytes and what reads them. None is stored."

import io
import json
import pickle
import struct
import zipfile

import numpy as np
from corpus_files import family

MARK = 'hostile-code-ran'  # a file that hostile code would make in the working folder
COMMAND = f'echo > {MARK}'


# ---- pickles that name what they must not

_NAMES = """
posix.system nt.system os.system os.popen os.execv subprocess.Popen subprocess.call builtins.eval
builtins.exec builtins.compile builtins.getattr builtins.setattr builtins.open builtins.object
builtins.type builtins.memoryview builtins.map builtins.__import__ builtins.breakpoint
__builtin__.execfile __builtin__.apply builtins.list.append builtins.str.format operator.attrgetter
operator.methodcaller functools.partial functools.reduce importlib.import_module runpy.run_path
shutil.rmtree ctypes.CDLL code.interact timeit.timeit pdb.run webbrowser.open socket.socket
codecs.decode _codecs.decode pickle.loads _pickle.loads copyreg._reconstructor copyreg.__newobj__
numpy.load numpy.frombuffer numpy.fromfile numpy.memmap numpy.ndarray.tofile numpy.dtype.type
numpy.testing._private.utils.runstring numpy.core.multiarray.fromfile numpy.core.multiarray.array
numpy.core.numeric.frombuffer numpy._core.multiarray.frombuffer numpy.random._pickle.__randomstate_ctor
pandas.read_pickle pandas.core.internals.managers._unpickle_block torch._utils._rebuild_tensor
joblib.load collections.namedtuple collections.abc.Callable types.CodeType types.FunctionType
"""
FORBIDDEN = tuple(_NAMES.split())


def text(value: str) -> bytes:
    "An operation that pushes a string."
    raw = value.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(raw)) + raw


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition('.')
    return f'c{module}\n{attribute}\n'.encode()


def forbidden() -> dict:
    "Each forbidden name, called in each way that pickles know."
    argument, found = text(COMMAND), {}
    for name in FORBIDDEN:
        module, _, attribute = name.rpartition('.')
        found |= {
            f'{name} by REDUCE': b'\x80\x02' + named(name) + argument + b'\x85R.',
            f'{name} from the stack': b'\x80\x04'
            + text(module)
            + text(attribute)
            + b'\x93'
            + argument
            + b'\x85R.',
            f'{name} by INST': b'(' + argument + f'i{module}\n{attribute}\n.'.encode(),
            f'{name} by OBJ': b'(' + named(name) + argument + b'o.',
            f'{name} by NEWOBJ': b'\x80\x02' + named(name) + argument + b'\x85\x81.',
            f'{name} by NEWOBJ_EX': b'\x80\x04' + named(name) + argument + b'\x85}\x92.',
            f'{name} as a default': named('collections.defaultdict') + named(name) + b'\x85R.',
            f'{name} as a state': b']' + named(name) + b'b.',
        }
    return found


# ---- pickles that use nothing but what is allowed

DTYPE, NDARRAY = named('numpy.dtype'), named('numpy.ndarray')
RECONSTRUCT = named('numpy.core.multiarray._reconstruct')
SCALAR = named('numpy.core.multiarray.scalar')
FROM_BUFFER = named('numpy._core.numeric._frombuffer')
BLANK = RECONSTRUCT + b'(' + NDARRAY + b'K\x00\x85C\x01btR'


def data(value: bytes) -> bytes:
    return b'B' + struct.pack('<I', len(value)) + value


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(raw)]) + raw


def shape(*sizes) -> bytes:
    return b'(' + b''.join(map(number, sizes)) + b't'


def dtype(code='f8', order='<', base=b'N', names=b'N', fields=b'N', size=-1, flags=0, more=b''):
    state = b'(K\x03' + text(order) + base + names + fields + number(size) + number(-1)
    return DTYPE + b'(' + text(code) + b'K\x00K\x01tR' + state + number(flags) + more + b'tb'


def array(type_=None, sizes=(1,), content=None, blank=BLANK):
    type_ = dtype() if type_ is None else type_
    content = data(bytes(8)) if content is None else content
    return blank + b'(K\x01' + shape(*sizes) + type_ + b'\x89' + content + b'tb'


def numpy_traps() -> dict:
    objects, address = dtype('O8', '|', flags=63), data(b'A' * 8)
    record = dict(base=b'N', names=text('a') + b'\x85')
    offset = b'}' + text('a') + dtype() + number(1 << 30) + b'\x86s'
    return {
        'ndarray called': NDARRAY + shape(1) + text('O') + address + b'\x87R.',
        'ndarray called with strides': NDARRAY
        + b'('
        + shape(1)
        + text('f8')
        + address
        + number(1 << 40)
        + b'tR.',
        'objects from bytes': array(objects, content=address) + b'.',
        'objects from text': array(objects, content=text('AAAAAAAA')) + b'.',
        'objects that say they are none': array(dtype('O8', '|', flags=0), content=address) + b'.',
        'objects from a short list': array(objects, (1000,), b']') + b'.',
        'objects from a long list': array(objects, (1,), b'(K\x01K\x02l') + b'.',
        'objects from a tuple': array(objects, (2,), b'K\x01K\x02\x86') + b'.',
        'objects from a dictionary': array(objects, (0,), b'}') + b'.',
        'objects in objects': array(objects, (1,), b'(' + array(objects, (1,), b'(K\x01l') + b'l')
        + b'.',
        'a scalar object': SCALAR + objects + address + b'\x86R.',
        'a scalar object without state': SCALAR
        + DTYPE
        + b'('
        + text('O8')
        + b'tR'
        + address
        + b'\x86R.',
        'a scalar of no bytes': SCALAR + dtype() + data(b'') + b'\x86R.',
        'a scalar of a number': SCALAR + dtype() + number(1 << 60) + b'\x86R.',
        'a buffer of objects': FROM_BUFFER
        + b'('
        + address
        + objects
        + shape(1)
        + text('C')
        + b'tR.',
        'a short buffer': FROM_BUFFER
        + b'('
        + address
        + dtype()
        + shape(1 << 30)
        + text('C')
        + b'tR.',
        'a buffer with axes': FROM_BUFFER
        + b'('
        + address
        + dtype()
        + shape(1)
        + text('K')
        + shape(7, 9)
        + b'tR.',
        'records': array(dtype('V8', '|', **record, fields=offset, size=8)) + b'.',
        'records in numbers': array(dtype(**record, fields=offset)) + b'.',
        'a base': array(dtype('V8', '|', base=dtype() + shape(4) + b'\x86')) + b'.',
        'wide items': array(dtype(size=1 << 40)) + b'.',
        'narrow text': array(dtype('U1000', size=4)) + b'.',
        'wide text': array(dtype('U1000', size=4000)) + b'.',
        'text of no width': array(dtype('U0', size=0), (1 << 39,), data(b'')) + b'.',
        'metadata': array(dtype(more=b'}')) + b'.',
        'dates': array(dtype('M8')) + b'.',
        'an order that is none': array(dtype(order='?')) + b'.',
        'an unknown code': array(dtype('z9')) + b'.',
        'a code of a module': array(dtype('os.system')) + b'.',
        'a code with fields': array(dtype('f8,O')) + b'.',
        'a dtype from itself': DTYPE + dtype() + b'\x85R.',
        'a dtype with a state of text': DTYPE + text('f8') + b'\x85R' + text('abc') + b'b.',
        'a dtype with a short state': DTYPE + text('f8') + b'\x85RK\x03\x85b.',
        'too few bytes': array(sizes=(1000,)) + b'.',
        'too many bytes': array(content=data(bytes(800))) + b'.',
        'a negative shape': array(sizes=(-1,)) + b'.',
        'a shape that overflows': array(sizes=(1 << 32, 1 << 32), content=data(b'')) + b'.',
        'a shape that wraps to one': array(sizes=(1 << 63, 2), content=data(b'')) + b'.',
        'an empty shape of many rows': array(sizes=(1 << 39, 0), content=data(b'')) + b'.',
        'a shape of sixty sizes': array(sizes=(1,) * 60) + b'.',
        'a shape of text': BLANK + b'(K\x01' + text('ab') + dtype() + b'\x89' + address + b'tb.',
        'a dtype that is text': array(text('O')) + b'.',
        'a dtype without state': array(DTYPE + text('f8') + b'\x85R') + b'.',
        'an array without state': BLANK + b'.',
        'arrays without state in a list': b'(' + BLANK * 3 + b'l.',
        'a state of a list': b']' + shape(1) + b'b.',
        'a state of an array, twice': array() + shape(1) + b'b.',
        'a state of a name': NDARRAY + shape(1) + b'b.',
        'a short state': BLANK + b'(K\x01tb.',
        'a state of text': BLANK + text('state') + b'b.',
        'another class': array(blank=RECONSTRUCT + b'(' + DTYPE + b'K\x00\x85C\x01btR') + b'.',
        'text outside Unicode': array(dtype('U1', size=4), content=data(b'\xff' * 4)) + b'.',
        'a name as a value': NDARRAY + b'.',
        'names in a dictionary': b'}' + text('a') + SCALAR + b's.',
        'a call of a list': b']' + b')R.',
        'a call of an array': array() + b')R.',
        'a call without arguments': SCALAR + b')R.',
        'a call with a list': SCALAR + b']R.',
        'complex of text': named('builtins.complex') + text('1' * 4000) + b'\x85R.',
        'a codec that runs': named('_codecs.encode') + text('abc') + text('rot13') + b'\x86R.',
        'a codec of bytes': named('_codecs.encode') + text('abc') + array() + b'\x86R.',
    }


def bombs() -> dict:
    laughs = b']' + b''.join(b'q%c(h%ch%cl' % (i, i, i) for i in range(60))
    keys = b')' + b''.join(b'q%ch%c\x86' % (i, i) for i in range(60))
    megabyte = b'\x80\x02' + data(bytes(1 << 20)) + b'q\x000'
    byte_array, new_set = named('builtins.bytearray'), named('builtins.set')
    copies = b'(' + (BLANK + b'(K\x01' + shape(1 << 17) + dtype() + b'\x89h\x00tb') * 3000 + b'l.'
    collide = b'}(' + b''.join(number(i * ((1 << 61) - 1)) + b'N' for i in range(1, 30000)) + b'u.'
    return {
        'a memo place of gigabytes': b'\x80\x02Nr' + struct.pack('<I', 4 * 10**8) + b'(0.',
        'a memo place as text': b'Np4000000000000\n0.',
        'a bytearray of gigabytes': byte_array + number(3 * 10**9) + b'\x85R.',
        'bytes of gigabytes': named('builtins.bytes') + number(3 * 10**9) + b'\x85R.',
        'a list of a set': new_set + named('builtins.list') + b'\x85R.',
        'void of gigabytes': DTYPE + text('V2000000000') + b'\x85R.',
        'text of gigabytes': array(dtype('U99999999', size=399999996)) + b'.',
        'lists that laugh': laughs + b'.',
        'tuples that laugh as a key': b'}' + keys + b'Ns.',
        'tuples that laugh in a set': b'\x80\x04\x8f(' + keys + b'\x90.',
        'tuples that laugh as a name': b'\x80\x04' + keys + text('a') + b'\x93.',
        'tuples that laugh as a code': DTYPE + keys + b'\x85RK\x03\x85b.',
        'tuples that laugh as a codec': named('_codecs.encode') + text('a') + keys + b'\x86R.',
        'tuples that laugh as a shape': BLANK + b'(K\x01' + keys + dtype() + b'\x89Ntb.',
        'tuples that laugh in a scalar': SCALAR + keys + keys + b'\x86R.',
        'lists nested': b'(' * 200000 + b'l' * 200000 + b'.',
        'tuples nested': b')' + b'\x85' * 200000 + b'.',
        'dictionaries nested': b'(K\x00' * 100000 + b'N' + b'd' * 100000 + b'.',
        'sets as items': b'\x80\x04\x8f(\x8f\x90.',
        'a list that holds itself': b']q\x00h\x00a.',
        'a dictionary that holds itself': b'}q\x00K\x00h\x00s.',
        'a tuple that holds itself': b']q\x00h\x00\x85a.',
        'a number of a megabyte': b'\x8b' + struct.pack('<I', 1 << 20) + b'\x7f' * (1 << 20) + b'.',
        'a number of many digits': b'L' + b'9' * 100000 + b'L\n.',
        'a whole number of many digits': b'I' + b'9' * 4000 + b'\n.',
        'text that is longer than the file': b'\x8d' + struct.pack('<Q', 1 << 62) + b'a.',
        'bytes that are longer than the file': b'\x8e' + struct.pack('<Q', 1 << 62) + b'a.',
        'a bytearray longer than the file': b'\x80\x05\x96' + struct.pack('<Q', 1 << 62) + b'a.',
        'text of four gigabytes': b'X\xff\xff\xff\xffa.',
        'a frame of exabytes': b'\x80\x04\x95' + struct.pack('<Q', 1 << 62) + b'(.',
        'the same megabyte, often': megabyte + copies,
        'the same set, often': b'('
        + b'N' * 50000
        + b'lq\x000('
        + (new_set + b'h\x00\x85R') * 9000
        + b'l.',
        'the same text, often': text('a' * 100000) + b'q\x00(' + b'h\x00' * 50000 + b'l.',
        'millions of lists': b'(' + b']' * 2_200_000 + b'l.',
        'keys that are all one': collide,
        'a list as a key': b'}]Ns.',
        'an array as a key': b'}' + array() + b'Ns.',
        'an odd dictionary': b'}(K\x01u.',
    }


def broken() -> dict:
    return {
        'nothing': b'',
        'only an end': b'.',
        'two marks': b'((.',
        'a value under a mark': b'K\x01(.',
        'items without a mark': b']K\x01e.',
        'items for a number': b'K\x01(K\x02e.',
        'an unknown memo': b'h\x07.',
        'an unknown memo by name': b'gabc\n.',
        'a memo of nothing': b'q\x00.',
        'an extension': b'\x82\x01.',
        'an extension of four bytes': b'\x84\x01\x00\x00\x00.',
        'a persistent name': b'Pabc\n.',
        'a persistent value': b'NQ.',
        'a buffer from outside': b'\x80\x05\x97.',
        'a buffer made read-only': b'\x80\x05N\x98.',
        'twice the top': b'N2.',
        'the top thrown away': b'NN0.',
        'all to a mark thrown away': b'(NN1.',
        'an unknown operation': b'\xff.',
        'protocol 255': b'\x80\xff\x82.',
        'a web page': b'<!doctype html><html>',
        'a pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n',
        'no end': pickle.dumps([1, 2, 3])[:-1],
        'a string without quotes': b'Sabc\n.',
        'a string with one quote': b"S'abc\n.",
        'a string with a bad escape': b"S'\\x'\n.",
        'text that is not Unicode': b'X\x02\x00\x00\x00\xff\xfe.',
        'a fraction of text': b'Fabc\n.',
        'a name with control characters': b'cos\x1b[2J\x07\nsys\x1b]0;tem\n.',
        'a name of a megabyte': b'c' + b'a' * (1 << 20) + b'\nb\n.',
        'a zip archive': b'PK\x03\x04abc',
    }


# ---- array files


def npy(header: str, content=bytes(8), version=1, length=None) -> bytes:
    raw = header.encode()
    size = len(raw) if length is None else length
    return (
        b'\x93NUMPY'
        + bytes([version, 0])
        + size.to_bytes(2 if version == 1 else 4, 'little')
        + raw
        + content
    )


def header(code="'<f8'", sizes='(1,)', fortran='False') -> str:
    return f"{{'descr': {code}, 'fortran_order': {fortran}, 'shape': {sizes}, }}\n"


def array_files() -> dict:
    trap = b'cposix\nsystem\n' + text(COMMAND) + b'\x85R.'
    objects = pickle.dumps(np.array([1, None], object), protocol=4)
    return {
        'nothing': b'',
        'only a magic': b'\x93NUMPY',
        'version 9': npy(header(), version=9),
        'a header of four gigabytes': npy(header(), version=2, length=(1 << 32) - 1),
        'a header that ends early': npy(header(), length=4000)[:60],
        'no header': npy(''),
        'a header without a shape': npy("{'descr': '<f8', 'fortran_order': False}"),
        'a header that calls': npy(header(sizes="__import__('os').system('" + COMMAND + "')")),
        'a header of parentheses': npy(header(sizes='(' * 30000), version=2),
        'a header of signs': npy(header(sizes='-' * 60000 + '1'), version=2),
        'a large shape': npy(header(sizes='(1000000, 1000000)')),
        'a shape that overflows': npy(header(sizes='(4294967296, 4294967296)'), b''),
        'a negative shape': npy(header(sizes='(-1,)')),
        'a shape of many digits': npy(header(sizes='(' + '9' * 300 + ',)')),
        'many empty rows': npy(header(sizes='(549755813888, 0)'), b''),
        'too little': npy(header(sizes='(3,)')),
        'too much': npy(header(), bytes(80)),
        'records': npy(header("[('a', '<f8')]")),
        'void': npy(header("'|V8'")),
        'dates': npy(header("'<M8[ns]'")),
        'text outside Unicode': npy(header("'<U2'"), b'\xff' * 8),
        'text of no width': npy(header("'<U0'", '(549755813888,)'), b''),
        'objects with a trap': npy(header("'|O'"), trap),
        'objects of another shape': npy(header("'|O'", '(3,)'), objects),
        'objects that are a list': npy(header("'|O'", '(3,)'), pickle.dumps([1, 2, 3])),
        'objects without a pickle': npy(header("'|O'"), b''),
        'objects of bytes': npy(header("'|O'"), array(dtype('O8', '|', flags=63)) + b'.'),
    }


def archive(members, method=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', method) as z:
        for name, content in members:
            z.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def patched(raw: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    "Overwrite a field in every record of a zip archive that begins with a signature."
    raw, start = bytearray(raw), raw.find(signature)
    while start >= 0:
        raw[start + offset : start + offset + len(value)] = value
        start = bytes(raw).find(signature, start + 4)
    return bytes(raw)


def archives() -> dict:
    good = npy(header())
    one, packed = archive([('x.npy', good)]), archive([('x.npy', good * 50)], zipfile.ZIP_DEFLATED)
    central, local = b'PK\1\2', b'PK\3\4'
    many = [(f'{i}.npy', good) for i in range(3000)]
    bomb = archive([('x.npy', good + bytes(150_000_000))], zipfile.ZIP_DEFLATED)
    huge = struct.pack('<I', (1 << 32) - 2)
    return {
        **{f'npz: {name}': archive([('x.npy', raw)]) for name, raw in array_files().items()},
        'a zip bomb': bomb,
        'a zip bomb that hides its size': patched(bomb, central, 24, struct.pack('<I', 136)),
        'a member that lies': patched(packed, central, 24, huge),
        'a member longer than the archive': patched(one, central, 20, huge + huge),
        'a member that starts elsewhere': patched(one, central, 42, huge),
        'an encrypted member': patched(patched(one, central, 8, b'\1'), local, 6, b'\1'),
        **{
            f'a member packed by {method}': patched(
                patched(packed, central, 10, bytes([method, 0])), local, 8, bytes([method, 0])
            )
            for method in (6, 9, 12, 14, 95, 99)
        },
        'a wrong checksum': patched(one, central, 16, b'abcd'),
        'thousands of members': archive(many),
        'members of one name': patched(
            archive([('x.npy', good), ('y.npy', good)]), b'y.npy', 0, b'x'
        ),
        'an archive in an archive': archive([('x.npy', one)]),
        'an archive that ends early': one[:-9],
        'an archive without a beginning': one[30:],
        'no archive': good,
        'a member of control characters': archive([('\x1b[2J.npy', b'abc')]),
        'a member of a parent folder': archive([('../../x.npy', b'abc')]),
        'only an end': b'PK\5\6' + bytes(18),
        'an end that lies': b'PK\5\6' + b'\xff' * 18,
    }


# ---- tuples of the family, and converted corpora


def families() -> dict:
    "A field of a good tuple, replaced."
    deep = [1]
    for _ in range(30):
        deep = [deep, deep]
    wrong = {
        'a number': 7,
        'nothing': None,
        'text': 'abc',
        'a list': [[1, 2]],
        'no dialogue': {},
        'numbers by dialogue': {'Ses01F_0': 1, 'Ses05M_0': 2},
        'laughs': {'Ses01F_0': deep, 'Ses05M_0': deep},
        'large numbers': {f'Ses0{i}F_0': [1 << 60, 1e308] for i in range(9)},
        'half a character': {'Ses01F_0': ['\ud800'] * 3, 'Ses05M_0': ['\udfff'] * 3},
    }
    found = {}
    for place in range(9):
        for name, value in wrong.items():
            items = list(family('dialoguernn9', (4, 3, 2)))
            items[place] = value
            found[f'field {place} is {name}'] = pickle.dumps(tuple(items), protocol=4)
    items = list(family('dialoguernn9', (4, 3, 2)))
    items[6] = {name: ['\ud800'] * len(turns) for name, turns in items[6].items()}
    return found | {'sentences of half characters': pickle.dumps(tuple(items), protocol=4)}


def safetensors(about, content=bytes(64), length=None) -> bytes:
    raw = (about if isinstance(about, str) else json.dumps(about)).encode()
    return struct.pack('<Q', len(raw) if length is None else length) + raw + content


def converted_parts() -> dict:
    "A file of a converted corpus, replaced: name -> (file, bytes); checksums are made to agree."
    tensor = {'dtype': 'F32', 'shape': [4, 4], 'data_offsets': [0, 64]}
    flags = {'dtype': 'BOOL', 'shape': [64], 'data_offsets': [0, 64]}
    tensors = {
        'nothing': b'',
        'a long header': safetensors({'features/text': tensor}, length=1 << 60),
        'no json': safetensors('{{{{'),
        'a nested header': safetensors('{"a":' * 5000),
        'a shape that lies': safetensors({'features/text': {**tensor, 'shape': [1 << 40, 4]}}),
        'a shape that overflows': safetensors(
            {'features/text': {**tensor, 'shape': [1 << 62, 1 << 62]}}
        ),
        'offsets that lie': safetensors(
            {'features/text': {**tensor, 'data_offsets': [0, 1 << 50]}}
        ),
        'offsets that run backwards': safetensors(
            {'features/text': {**tensor, 'data_offsets': [64, 0]}}
        ),
        'an unknown type': safetensors({'features/text': {**tensor, 'dtype': 'PY_OBJECT'}}),
        'a small type': safetensors({'has/text': {**tensor, 'dtype': 'F8_E4M3', 'shape': [64]}}),
        'flags without features': safetensors({'has/text': flags}, b'\xff' * 64),
        'too few rows': safetensors(
            {'features/text': tensor, 'has/text': {**flags, 'shape': [64]}}
        ),
    }
    abouts = {
        'nothing': '',
        'a list': '[]',
        'text': '"abc"',
        'brackets': '[' * 100000,
        'numbers': '{"name": 1, "task": 2, "classes": 3, "provenance": 4, "sha256": 5}',
        'checksums of elsewhere': '{"name": "a", "task": "emotion", "classes": [], "provenance": {}, '
        '"columns": {}, "sha256": {"../../../etc/passwd": "0"}}',
        'many digits': '{"name": ' + '9' * 5000 + '}',
        'no provenance': '{"name": "a", "task": "emotion", "classes": [], "sha256": '
        '{"table.jsonl": "0", "features.safetensors": "0"}}',
        'half a character': b'{"name": "\xff"}',
    }
    row = '{"dialogue": "d", "turn": 0, "speaker": "A", "text": "b", "label": 0, "split": "train"'
    tables = {
        'nothing': '',
        'no JSON': 'dialogue,turn\nd,0\n',
        'an open quote': row + ', "id": "x\n',
        'another column': row + ', "other": "x"}\n',
        'columns in another order': '{"turn": 0, "dialogue": "d"}\n',
        'brackets': '[' * 100000 + '\n',
        'a list': '[1, 2]\n',
        'a large turn': row.replace('"turn": 0', '"turn": 99999999999999999999') + ', "id": "x"}\n',
        'many digits': row.replace('"turn": 0', '"turn": ' + '9' * 5000) + ', "id": "x"}\n',
        'a turn of text': row.replace('"turn": 0', '"turn": "first"') + ', "id": "x"}\n',
        'an endless label': row.replace('"label": 0', '"label": Infinity') + ', "id": "x"}\n',
        'an unknown split': row.replace('train', 'exam') + ', "id": "x"}\n',
        'another encoding': (row + ', "id": "é"}\n').encode('utf-16'),
        'a list as text': row.replace('"text": "b"', '"text": ["b"]') + ', "id": "x"}\n',
    }
    files = {'features.safetensors': tensors, 'corpus.json': abouts, 'table.jsonl': tables}
    return {
        f'{file}: {name}': (file, raw if isinstance(raw, bytes) else raw.encode())
        for file, cases in files.items()
        for name, raw in cases.items()
    }


def hostile() -> list:
    "All of them: (reader, name, content)."
    pickles = forbidden() | numpy_traps() | bombs() | broken()
    groups = {
        'pickle': pickles,
        'npy': array_files(),
        'npz': archives(),
        'family': families(),
        'converted': converted_parts(),
    }
    return [(reader, name, raw) for reader, cases in groups.items() for name, raw in cases.items()]
