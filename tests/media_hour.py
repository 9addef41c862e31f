"""Read an hour of film, and print time and memory: `python tests/media_hour.py > docs/media/hour.txt`, with the media extra."""

import contextlib
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from media_files import noise_pictures, tones

from erc.cli import app
from erc.media.decode import _toy_recording
from erc.media.faces import _toy_vision

FRAMES, HEIGHT, WIDTH = 90_000, 144, 176  # an hour at 25 a second


def make(home: Path):
    "Make a film of an hour, a transcript of 600 turns, and a small reader of pictures."
    sound = np.tile(tones(range(110, 170)), 60)
    _toy_recording(home / 'hour.mkv', sound, pictures=noise_pictures(FRAMES, (HEIGHT, WIDTH)))
    turns = [(6.0 * i, 6.0 * i + 5.5, 'AB'[i % 2], f'turn {i}') for i in range(600)]
    table = pd.DataFrame(turns, columns=['start', 'end', 'speaker', 'text'])
    table.to_csv(home / 'hour.csv', index=False)
    _toy_vision(home / 'eye')


def peak() -> float:  # MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read(home: Path):
    "Run `erc features` on the film."
    command = (
        f'features {home}/hour.mkv --turns {home}/hour.csv --audio egemaps --visual {home}/eye'
    )
    try:
        app([*command.split(), '--out', f'{home}/corpus'])
    except SystemExit as end:
        assert not end.code, end


if __name__ == '__main__':
    if len(sys.argv) > 1:
        begun, said = time.process_time(), io.StringIO()
        with contextlib.redirect_stdout(said):
            read(Path(sys.argv[1]))
        print(said.getvalue().replace(f'{sys.argv[1]}/', ''), end='')
        print(f'{time.process_time() - begun:.0f} s of the processor, {peak():.0f} MiB at most')
    else:
        import os
        import subprocess

        with tempfile.TemporaryDirectory() as place:
            make(Path(place))
            print(f'{FRAMES} frames of {WIDTH} x {HEIGHT}, an hour, 600 turns', flush=True)
            where = {**os.environ, 'ERC_CACHE': f'{place}/cache'}
            subprocess.run([sys.executable, __file__, place], env=where, check=True)
