"""A CPU that passes for a CUDA device, so that what only a GPU refuses fails here.

    with pretended_device() as device:
        x = torch.randn(3, device='cuda')
        x + torch.ones(3)  # Refused: tensors of the host and of the device

Values are real: the CPU computes them. Every storage knows its place, and operations are watched
below autograd and `vmap`. Refused are tensors of both places in one operation, NumPy arrays of
device tensors, and, in a capture, whatever waits for the device or copies from the host. A captured
graph is the list of its operations on fixed memory; a replay runs them again, so a number that was
frozen in the capture shows as a wrong result. A refused capture leaves the random generator broken,
as in torch 2.11. Not seen: streams, memory that is freed under a graph, limits of real kernels.
"""

import contextlib
import sys
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import torch
from torch.nn.utils import clip_grad
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

HOST, DEVICE, ANY = 'cpu', 'cuda', 'any'  # ANY: made inside torch, which knows the right place
CUDA, CPU = torch.device('cuda', 0), torch.device('cpu')

WAITS = {'_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_dim', 'bincount'}
WAITS |= {
    'unique_consecutive',
    'equal',
    'multinomial',
    '_linalg_check_errors',
    'histc',
    'is_nonzero',
}
TAKES_A_HOST_SCALAR = {'where', 'lerp', 'masked_fill', 'addcmul', 'addcdiv', 'clamp', 'pow'}
PRODUCTS = {'mm', 'bmm', 'addmm', 'baddbmm', 'dot', 'mv', 'addmv'}
DRAWS = {'bernoulli', 'rand', 'randn', 'randint', 'randperm', 'normal', 'uniform', 'random'}
DRAWS |= {'native_dropout', 'rand_like', 'randn_like', 'randint_like', 'exponential', 'multinomial'}
FACTORIES = {'zeros', 'ones', 'empty', 'full', 'arange', 'eye', 'rand', 'randn', 'randint'}
FACTORIES |= {'randperm', 'linspace', 'logspace', 'tril_indices', 'triu_indices', 'hann_window'}
FROM_THE_HOST = {'tensor', 'new_tensor', 'as_tensor', 'asarray'}


class Refused(RuntimeError):
    "What CUDA would raise."


def caller() -> str:
    "Return file and line of the innermost frame outside torch and this file."
    frame = sys._getframe(1)
    while frame and (frame.f_code.co_filename == __file__ or '/torch/' in frame.f_code.co_filename):
        frame = frame.f_back
    return f'{frame.f_code.co_filename.rpartition("/")[2]}:{frame.f_lineno}' if frame else '?'


def _storage(x):
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.untyped_storage()


def place(x: torch.Tensor) -> str:
    "Return where a tensor pretends to be."
    with torch._C.DisableTorchFunction():
        return getattr(_storage(x), 'place', HOST)


def put(x: torch.Tensor, where: str) -> torch.Tensor:
    "Let a tensor, and all its views, pretend to be somewhere."
    with torch._C.DisableTorchFunction():
        _storage(x).place = where
    return x


def _tensors(*trees) -> list:
    return [x for x in tree_leaves(trees) if isinstance(x, torch.Tensor)]


class Graph:
    "A captured graph."

    def __init__(self):
        self.operations, self.own, self.before = [], set(), []

    def save(self, tensors):
        "Remember memory from outside that an operation is about to change."
        for x in tensors:
            storage = x.untyped_storage()
            if storage._cdata not in self.own:
                self.own.add(storage._cdata)
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self.before.append((whole, whole.clone()))

    def record(self, func, args, kwargs, out, fresh):
        self.own |= {x.untyped_storage()._cdata for x in fresh}
        if fresh or func._schema.is_mutable:
            self.operations.append((func, args, kwargs, out, fresh))

    def undo(self):
        "Put back what was: a capture computes nothing."
        with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
            for whole, old in self.before:
                whole.copy_(old)

    def replay(self):
        with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
            for func, args, kwargs, out, fresh in self.operations:
                new = func(*args, **kwargs)
                for old, x in zip(_tensors(out), _tensors(new)):
                    if any(old is y for y in fresh):
                        old.copy_(x)


class Operations(TorchDispatchMode):
    "Watch every operation, and know where its results are."

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func, args, kwargs):
        name, given = func.overloadpacket.__name__.rstrip('_'), _tensors(args, kwargs)
        places, graph = [place(x) for x in given], self.device.graph
        if DEVICE in places:
            self._check(func, name, args, given, places)
        if graph and func._schema.is_mutable:
            graph.save(given)
        out = func(*args, **kwargs)
        old = {x.untyped_storage()._cdata for x in given}
        fresh = [x for x in _tensors(out) if x.untyped_storage()._cdata not in old]
        where = self._place_of_result(name, places)
        for x in fresh:
            put(x, where)
        if where == DEVICE and name in DRAWS and self.device.generator_is_broken:
            raise Refused('Offset increment outside graph capture encountered unexpectedly.')
        if graph and (where != HOST or DEVICE in places):
            graph.record(func, args, kwargs, out, fresh)
        return out

    def _place_of_result(self, name, places):
        makes = not places or name.startswith('new_') or name.endswith('_like')
        if self.device.wanted and (makes or name in ('clone', '_to_copy', 'lift_fresh')):
            return self.device.wanted
        known = set(places) - {ANY}
        return DEVICE if DEVICE in known else HOST if known else ANY

    def _check(self, func, name, args, given, places):
        note, away = self.device.note, [x for x, p in zip(given, places) if p == HOST]
        if name in ('index', 'index_put', '_index_put_impl'):
            return self._check_index(name, args)
        if name == 'copy' and away:
            return note('copy', 'copy_ between host and device')
        scalar = all(x.ndim == 0 for x in away)
        if away and not (
            scalar and (torch.Tag.pointwise in func.tags or name in TAKES_A_HOST_SCALAR)
        ):
            note('mix', f'{name} of tensors {[tuple(x.shape) for x in given]} on {places}')
        if name in WAITS:
            note('wait', name)
        if name in PRODUCTS and not (given[0].is_floating_point() or given[0].is_complex()):
            note('kernel', f'{name} of {given[0].dtype}')

    def _check_index(self, name, args):
        x, indices = args[0], [i for i in args[1] if i is not None]
        masks = any(i.dtype in (torch.bool, torch.uint8) for i in indices)
        value = None if name == 'index' else args[2]
        if place(x) == HOST or (value is not None and value.ndim and place(value) == HOST):
            self.device.note('mix', f'{name} of host and device')
        if any(place(i) == HOST for i in [*indices, *([] if value is None else [value])]):
            self.device.note('copy', f'{name} with host indices or values')
        fills = value is not None and len(indices) == 1 and value.numel() == 1
        if masks and not fills:
            self.device.note('wait', f'{name} with a mask')


def _is_cuda(device) -> bool:
    return device is not None and torch.device(device).type == 'cuda'


class Names(TorchFunctionMode):
    "What Python sees of devices, and what it calls for them."

    def __init__(self, device):
        super().__init__()
        self.device, T = device, torch.Tensor
        self.special = {
            T.device.__get__: lambda x: CUDA if place(x) == DEVICE else CPU,
            T.is_cuda.__get__: lambda x: place(x) == DEVICE,
            T.is_cpu.__get__: lambda x: place(x) != DEVICE,
            T.get_device: lambda x: 0 if place(x) == DEVICE else -1,
            T.cpu: lambda x, *a, **k: self.move(x, HOST),
            T.cuda: lambda x, *a, **k: self.move(x, DEVICE),
            T.to: self.to,
            T.backward: self.backward,
            T.tolist: self.to_python(T.tolist, 'wait'),
            T.numpy: self.to_python(T.numpy, 'numpy'),
            T.__array__: self.to_python(T.__array__, 'numpy'),
            T.__deepcopy__: lambda x, memo: put(T.__deepcopy__(x, memo), place(x)),
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.special:
            return self.special[func](*args, **kwargs)
        name = getattr(func, '__name__', '')
        if name in FROM_THE_HOST:
            return self.from_the_host(func, name, args, kwargs)
        if name in FACTORIES or name.startswith('new_') or name.endswith('_like'):
            return self.make(func, name, args, kwargs)
        return func(*args, **kwargs)

    def make(self, func, name, args, kwargs):
        asked = kwargs.get('device')
        if asked is None and name not in FACTORIES:
            return func(*args, **kwargs)
        with self.device.want(DEVICE if _is_cuda(asked) else HOST):
            return func(*args, **{**kwargs, 'device': CPU})

    def from_the_host(self, func, name, args, kwargs):
        "Make a tensor of Python numbers, which are copied to the device if that is where it is."
        asked = kwargs.pop('device', None)
        is_tensor = name != 'new_tensor' and isinstance(args[0], torch.Tensor)
        if is_tensor and name != 'tensor':
            x = func(*args, **kwargs)
            return x if asked is None else self.move(x, DEVICE if _is_cuda(asked) else HOST)
        on_device = _is_cuda(asked) if asked else name == 'new_tensor' and place(args[0]) == DEVICE
        if on_device:
            self.device.note('copy', f'{name} of Python numbers')
        with self.device.want(DEVICE if on_device else HOST):
            return put(func(*args, **kwargs), DEVICE if on_device else HOST)

    def to(self, x, *args, **kwargs):
        if args and isinstance(args[0], torch.Tensor):
            device, dtype = (CUDA if place(args[0]) == DEVICE else CPU), args[0].dtype
        else:
            copy = kwargs.pop('copy', False)
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
            x = x.clone() if copy else x
        x = x if dtype is None or dtype == x.dtype else torch.Tensor.to(x, dtype)
        return x if device is None else self.move(x, DEVICE if _is_cuda(device) else HOST)

    def move(self, x, where):
        if place(x) == where:
            return x
        self.device.note('copy' if where == DEVICE else 'wait', f'{tuple(x.shape)} to {where}')
        with self.device.want(where):
            return x.clone()

    def backward(self, x, gradient=None, retain_graph=None, create_graph=False, inputs=None):
        with self:  # what is computed again in the backward pass sees devices too
            torch.autograd.backward(x, gradient, retain_graph, create_graph, inputs=inputs)

    def to_python(self, func, kind):
        def call(x, *args, **kwargs):
            if place(x) == DEVICE:
                self.device.note(kind, func.__name__)
            return func(x, *args, **kwargs)

        return call


class Device:
    "The pretended device: what it has noted, and the graph that is being captured."

    def __init__(self):
        self.notes, self.wanted, self.graph = Counter(), None, None
        self.generator_is_broken, self.open_pools, self.captures = False, set(), 0

    def note(self, kind: str, what: str):
        "Refuse what CUDA refuses, and count the rest: it is slow."
        message = f'{kind}: {what}, at {caller()}'
        if kind in ('mix', 'numpy', 'kernel'):
            raise Refused(message)
        if self.graph:
            raise Refused(f'operation not permitted when stream is capturing: {message}')
        self.notes[message] += 1

    @contextlib.contextmanager
    def want(self, where):
        before, self.wanted = self.wanted, where
        try:
            yield
        finally:
            self.wanted = before

    @contextlib.contextmanager
    def capture(self, graph, pool=None, stream=None):
        if pool in self.open_pools:
            raise Refused('beginAllocateToPool: already recording to mempool_id')
        self.graph, self.captures = graph, self.captures + 1
        try:
            yield
        except BaseException as error:
            self.generator_is_broken = True
            self.open_pools.add(pool)
            message = 'operation failed due to a previous error during capture'
            raise Refused(message) from error
        else:
            self.generator_is_broken = False
        finally:
            self.graph = None
            graph.undo()


@contextlib.contextmanager
def _cuda(device: Device):
    "Replace `torch.cuda` as far as training uses it."
    stream = SimpleNamespace(wait_stream=lambda s: None, synchronize=lambda: None, device=CUDA)
    pools = iter(range(1, 10**6))
    functions = dict(
        Stream=lambda *a: stream,
        stream=lambda s: contextlib.nullcontext(),
        current_stream=lambda *a: stream,
        graph_pool_handle=lambda: (0, next(pools)),
        CUDAGraph=Graph,
        graph=device.capture,
        is_available=lambda: True,
        is_current_stream_capturing=lambda: device.graph is not None,
        synchronize=lambda *a: None,
        empty_cache=lambda: None,
        mem_get_info=lambda *a: (80 << 30, 80 << 30),
        get_device_name=lambda *a: 'pretended',
        reset_peak_memory_stats=lambda *a: None,
        memory_reserved=lambda *a: 0,
        memory_allocated=lambda *a: 0,
        max_memory_allocated=lambda *a: 1 << 20,
    )

    class Autocast(torch.autocast):
        def __init__(self, device_type, *args, **kwargs):
            super().__init__('cpu', *args, **kwargs)

    grouped = optimizer._group_tensors_by_device_and_dtype

    def group(lists, *args):
        found = {(CUDA if place(_tensors(lists)[0]) == DEVICE else CPU)}
        return {(*found, dtype): v for (_, dtype), v in grouped(lists, *args).items()}

    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(torch, 'autocast', Autocast))
        for module in (optimizer, clip_grad):
            stack.enter_context(mock.patch.object(module, grouped.__name__, group))
        name, end = '_cuda_endAllocateToPool', lambda d, pool: device.open_pools.discard(pool)
        stack.enter_context(mock.patch.object(torch._C, name, end, create=True))
        yield


@contextlib.contextmanager
def pretended_device():
    "Let this CPU pass for a CUDA device."
    device = Device()
    with _cuda(device), Operations(device), Names(device):
        yield device
