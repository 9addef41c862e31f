"""Count steps, tokens and kernels of every run that fine-tunes an encoder: `python docs/gpu/count_steps.py > docs/gpu/steps.csv`.

The corpora have to be there; 364_lease reads the table. Its last two lines are benchmarks that were timed."""

import sys
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from erc.core import resolve
from erc.models.spcl import _PromptEncoder
from erc.nn import cells
from erc.nn.encoders import TextEncoder
from erc.nn.length_blocks import _cut_by_width, _in_blocks
from erc.runs.bench import _BENCHES, _sizes_of
from erc.runs.fold import _wanted_seeds
from erc.runs.prepare import _model_maker, _prepare, _split_batches
from erc.runs.recipes import find_system, settings_of, wanted_runs
from erc.training.bench import _toy_dialogues
from erc.training.captured import _layout
from erc.training.engine import Keyed, Single, Steps
from erc.training.search import grid
from erc.training.settings import criterion

MOST = 65536  # tokens of a block, as on a GPU


class Kernels(TorchDispatchMode):
    "Count operations that write something: each is a kernel on a GPU, or a few."

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = not func.is_view and not func.overloadpacket.__name__.startswith(('empty', 'detach'))
        self.count += made
        return out


def kernels(engine, batch, target: str, settings) -> int:
    "Count the kernels of a training step, casts to bfloat16 included where an encoder learns."
    steps = Steps(engine, [batch.to(dtype=torch.float32)], criterion(target), settings)
    steps(0, 0)  # makes the optimiser's state
    with (
        torch.autocast('cpu', torch.bfloat16, enabled=type(engine) is Single),
        Kernels() as counted,
    ):
        steps(0, 1)
    return counted.count


def forward_kernels(engine, batch) -> int:
    "Count the kernels of one look at a batch, without a step."
    with Kernels() as counted:
        engine.compute(batch.to(dtype=torch.float32))
    return counted.count


def of_one_and_two_blocks(count) -> list:
    "Count what is done where an encoder reads a batch in one block, and in two."
    counts = []
    for n in (1, 2):
        TextEncoder._blocks = lambda self, x, widths, n=n: cut(x, n)
        counts.append(count())
    return counts


def in_blocks(one: int, two: int, blocks: float) -> int:
    "Return what is done with a number of blocks, by what one block and two blocks need."
    return round(one + (blocks - 1) * (two - one))


def cut(x, blocks: int) -> tuple:
    "Cut rows into blocks of equal size, which a GPU reads in another order."
    sizes = [len(part) for part in np.array_split(np.arange(len(x)), blocks)]
    return _in_blocks((x != 0).sum(1).argsort(), sizes, [x.shape[1]] * blocks)


def read_blocks(batch, names) -> list:
    "Return number of rows and width of the blocks in which a GPU encodes a batch."
    widths = sorted(sum((batch.widths[name] for name in names), ()), reverse=True)
    return _cut_by_width(tuple(widths), MOST)


def all_prompts(self, batch, keep=None):
    "Encode all rows, as a GPU does, which does not wait for the number of those to keep."
    return self.text(batch.features[self.feature], batch.widths[self.feature])


def count_run(system, variant: str, corpus: str) -> dict:
    "Count what seed 0 reads in an epoch, and the steps of a run: a search, then the other seeds."
    ready, _ = _prepare(system, corpus)
    points = grid(settings_of(system, variant)['hyperparameters'])
    batches = _split_batches(system, ready, points[0], 0)[0]
    seeds = _wanted_seeds(system, [], range(system.seeds))['paper']
    ids = [b.features[name] for b in batches for name in system.token_features]
    trained = len(points) + len(seeds) - 1
    blocks = [read_blocks(b, system.token_features) for b in batches]
    engine = Single(_model_maker(system, ready), [0])
    smallest = min((b for b in batches if len(b) > 1), key=len)
    mean = np.mean(list(map(len, blocks)))
    looks = hasattr(engine.model, 'on_epoch_end')  # at all training batches, after each epoch
    step = partial(kernels, engine, smallest, system.target, points[0])
    of_step = of_one_and_two_blocks(step)
    of_look = of_one_and_two_blocks(partial(forward_kernels, engine, smallest))
    epochs = points[0]['epochs']
    return {
        'run': f'{system.id}:{variant}@{corpus}',
        'batches': len(batches),
        'graphs': len({_layout(b) for b in batches}),
        'tokens': sum(int(np.count_nonzero(x)) for x in ids),
        'in one block': sum(x.shape[0] * int((x != 0).sum(1).max()) for x in ids),
        'blocks': sum(map(len, blocks)),
        'padded': sum(rows * width for block in blocks for rows, width in block),
        'kernels in one block': of_step[0],
        'kernels': in_blocks(*of_step, mean),
        'trained': trained,
        'epochs': epochs,
        'steps': len(batches) * epochs * trained,
        'looks': looks * len(batches) * (epochs + 1) * trained,
        'kernels of a look': in_blocks(*of_look, mean),
    }


def count_benchmark(name: str) -> dict:
    "Count the kernels of a step that `erc check` holds to a limit."
    system, known = find_system(name), {k: v for k, v in _BENCHES[name].items() if k != 'limits'}
    sizes = _sizes_of(system, known.get('sizes'))
    batch = _toy_dialogues(sizes, system.target, known['shape'], known.get('classes', 6))
    make = partial(
        resolve(system.model), sizes=sizes, classes=known.get('classes', 6), **system.args
    )
    engine = Keyed(make, [0])
    return {'run': name, 'kernels': kernels(engine, batch, system.target, {'clip': 1.0})}


if __name__ == '__main__':
    _PromptEncoder.forward = all_prompts
    cells._CACHED = 2**40  # a mask is drawn at once, as on a GPU
    runs = [(find_system(key.system_id), key) for key in wanted_runs()]
    tuned = [(s, key) for s, key in runs if s.kind == 'model' and not s.vectorise]
    lines = [count_run(s, key.variant, key.corpus) for s, key in tuned]
    timed = [name for name, about in _BENCHES.items() if 'cuda' in about.get('limits', {})]
    table = pd.DataFrame([*lines, *map(count_benchmark, timed)])
    table.convert_dtypes().to_csv(sys.stdout, index=False)
