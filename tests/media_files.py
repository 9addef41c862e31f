"Recordings that are made on the spot, and what is wrong with some of them."

import shutil
import subprocess
from pathlib import Path

import numpy as np

from erc.media.decode import _toy_recording
from erc.media.faces import _toy_face

RATE = 16_000
TURNS = [(0.0, 1.0, 'Ann', 'You came!'), (1.0, 2.0, 'Bob', 'Late.'), (2.0, 3.0, 'Ann', 'Sit down.')]
SPANS = [turn[:2] for turn in TURNS]


def buzz(pitch=130.0, seconds=3.0, loud=0.02, seed=0):
    "A hum with overtones that swells three times a second, with a little noise."
    rng, t = np.random.default_rng(seed), np.arange(round(RATE * seconds)) / RATE
    square = np.sign(np.sin(2 * np.pi * pitch * t)) * (1 + np.sin(2 * np.pi * 3 * t))
    return (loud * square + 0.002 * rng.normal(size=t.size)).astype(np.float32)


def tones(pitches):
    "One second of a hum for each pitch."
    return np.concatenate([buzz(pitch, 1.0, 0.2, i) for i, pitch in enumerate(pitches)])


def speech(text, voice, pitch=50):
    "A sentence that espeak-ng says; samples at RATE."
    import io
    import wave

    command = ['espeak-ng', '-v', voice, '-p', str(pitch), '--stdout', text]
    found = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(found)) as file:
        rate, data = file.getframerate(), file.readframes(10**9)
    x = np.frombuffer(data, np.int16) / 32768
    places = np.arange(0, len(x) - 1, rate / RATE)
    return np.interp(places, np.arange(len(x)), x).astype(np.float32)


def has_espeak():
    return shutil.which('espeak-ng') is not None


def noise_pictures(count, size=(96, 128), seed=0):
    "Pictures without a face: coarse noise that changes each second."
    rng = np.random.default_rng(seed)
    for i in range(count):
        if i % 25 == 0:
            coarse = rng.integers(0, 255, (size[0] // 16, size[1] // 16, 3), np.uint8)
        yield np.kron(coarse, np.ones((16, 16, 1), np.uint8))


def face_pictures(count, size=256, upright=True):
    "A photograph of a face (US Navy, public domain), a little moved in each frame."
    photo = _toy_face()[: 2 * size : 2, : 2 * size : 2]
    for i in range(count):
        moved = np.roll(photo, i % 8, 1)
        yield moved if upright else np.ascontiguousarray(np.rot90(moved))


def scene_pictures(count):
    "A photograph without a face, a little moved in each frame."
    from sklearn.datasets import load_sample_image

    photo = load_sample_image('china.jpg')[:256, :256]
    for i in range(count):
        yield np.roll(photo, i % 8, 1)


def turned(path: Path, degrees=90):
    "Write into the film's header of an mp4 that it is to be turned when it is shown."
    data = bytearray(path.read_bytes())
    at = data.rfind(b'tkhd') + 4 + 40  # version 0: the matrix follows forty bytes
    one = 1 << 16
    rows = {90: (0, one, 0, -one % 2**32, 0, 0), 180: (-one % 2**32, 0, 0, 0, -one % 2**32, 0)}
    for i, value in enumerate(rows[degrees]):
        data[at + 4 * i : at + 4 * i + 4] = value.to_bytes(4, 'big')
    path.write_bytes(bytes(data))
    return path


def with_code(path: Path, old: bytes, new: bytes):
    "Replace the code of a kind of stream, as encryption does."
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def cut_short(path: Path, share):
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    return path


def write_turns(path: Path, turns=TURNS, label=None):
    "Write turns as a csv."
    import pandas as pd

    table = pd.DataFrame(turns, columns=['start', 'end', 'speaker', 'text'])
    (table if label is None else table.assign(label=label)).to_csv(path, index=False)
    return path


def talk(path: Path, **options):
    "Three turns of sound, and if pictures are given a film."
    return _toy_recording(path, tones([110, 180, 140]), **options)
