"From recordings to features: equal to the libraries, aligned, and clear about what is missing."

import time
import tracemalloc
import wave

import numpy as np
import pandas as pd
import pytest
from media_files import (
    RATE,
    SPANS,
    TURNS,
    buzz,
    cut_short,
    face_pictures,
    has_espeak,
    noise_pictures,
    scene_pictures,
    speech,
    talk,
    tones,
    turned,
    with_code,
    write_turns,
)

from erc.media import decode
from erc.media.audio import _Functionals, _Speech, _toy_speech, _Voice
from erc.media.clips import _Film, _sounds
from erc.media.decode import _about, _has_package, _Limits, _toy_recording
from erc.media.faces import VisExtNet, _Face, _Mtcnn, _toy_face, _toy_vision, _VggFace2, _Vision
from erc.media.features import with_media
from erc.media.turns import _turns_corpus


def needs(*packages):
    missing = [name for name in packages if not _has_package(name)]
    how = ', '.join(decode._HOW.get(name, "pip install '.[media]'") for name in missing)
    skip = pytest.mark.skipif(bool(missing), reason=f'{", ".join(missing)}: {how}')
    usual = {*packages} <= {'av', 'dlib'}  # in every checkout
    return skip if usual else lambda test: pytest.mark.media(skip(test))


needs_av = needs('av')
needs_smile = needs('av', 'opensmile')
needs_faces = needs('av', 'dlib', 'face_recognition_models')
needs_detector = needs('av', 'dlib')
needs_voice = needs('av', 'resemblyzer')


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ERC_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


FEW = {'visual': ('dlib', (('frames', 4),))}  # frames of a turn


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def read(path, spans=SPANS):
    return {row: (x, why) for row, x, why in _sounds(path, spans)}


# ---- sound


@needs_smile
@pytest.mark.parametrize('name', ['egemaps', 'compare', 'is09', 'is13'])
def test_functionals_are_the_librarys_own(name, tmp_path, cache):
    path = talk(tmp_path / 'talk.wav')
    corpus = with_media(_turns_corpus(TURNS, path), path, audio=name, progress=False)
    with wave.open(str(path)) as file:  # read without our decoder
        x = np.frombuffer(file.readframes(10**9), np.int16).astype(np.float32) / 32768
    smile = _Functionals(name).smile
    for row, (start, end) in enumerate(SPANS):
        own = smile.process_signal(x[int(start * RATE) : int(end * RATE)], RATE).to_numpy()[0]
        np.testing.assert_array_equal(corpus.features['audio'][row], own.astype(np.float32))
    assert corpus.has['audio'].all()


@needs_av
@pytest.mark.parametrize('speakers', [False, True])
def test_speech_models_are_the_librarys_own(speakers, tmp_path):
    import torch
    from transformers import AutoFeatureExtractor, Wav2Vec2ForXVector, Wav2Vec2Model

    folder = _toy_speech(tmp_path / 'toy', speakers)
    x = buzz(seconds=1.0)
    inputs = AutoFeatureExtractor.from_pretrained(folder)(
        x, sampling_rate=RATE, return_tensors='pt'
    )
    model = (Wav2Vec2ForXVector if speakers else Wav2Vec2Model).from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(**inputs)
    own = found.embeddings[0] if speakers else found.last_hidden_state[0].mean(0)
    np.testing.assert_allclose(_Speech(str(folder))(x), own.numpy(), atol=1e-6)


def test_speech_model_reads_a_long_turn_in_pieces(tmp_path):
    speech_model = _Speech(str(_toy_speech(tmp_path / 'toy')))
    x = buzz(seconds=61.0)
    whole = speech_model(x)
    parts = [speech_model.states(x[i : i + 30 * RATE]).numpy() for i in (0, 30 * RATE, 60 * RATE)]
    np.testing.assert_allclose(whole, np.concatenate(parts).mean(0), atol=1e-6)


def test_unknown_weights_are_one_sentence(monkeypatch):
    with pytest.raises(
        ValueError, match="'wavlm': its weights are neither in a folder.*need no hub"
    ):
        _ = _Speech('wavlm').width


@needs('resemblyzer')
def test_speaker_vector_is_the_librarys_own(golden):
    np.testing.assert_allclose(_Voice()(buzz()), golden('media/dvector')['vector'], atol=1e-6)


@needs_voice
@pytest.mark.skipif(not has_espeak(), reason='espeak-ng, which speaks, is not installed')
def test_two_voices_are_told_apart(tmp_path, cache):
    said = ['Where have you been all this time?', 'I came as soon as I heard about it.'] * 2
    ann, bob = ('en-us+f3', 60), ('en-gb-scotland', 15)
    voices = [ann, bob, bob, ann]
    sounds = [speech(text, *voice) for text, voice in zip(said, voices)]
    ends = np.cumsum([len(x) / RATE for x in sounds])
    turns = [(e - len(x) / RATE, e, f'{v[0]}', t) for e, x, v, t in zip(ends, sounds, voices, said)]
    path = _toy_recording(tmp_path / 'talk.wav', np.concatenate(sounds))
    corpus = with_media(_turns_corpus(turns, path), path, audio='speaker=dvector', progress=False)
    x = corpus.features['speaker']
    same = [cosine(x[0], x[3]), cosine(x[1], x[2])]
    other = [cosine(x[i], x[j]) for i in (0, 3) for j in (1, 2)]
    assert min(same) > max(other) + 0.1, (same, other)


@needs_smile
def test_sound_shifted_by_a_turn_lowers_the_match(tmp_path, cache):
    "A turn's pitch follows from its number, so that pitch and number belong together only in place."
    pitches = 100 + 20 * np.array([0, 3, 1, 5, 2, 7, 4, 6])
    path = _toy_recording(tmp_path / 'talk.wav', tones(pitches))
    feature = _Functionals('egemaps').smile.feature_names.index('F0semitoneFrom27.5Hz_sma3nz_amean')

    def match(shift):
        turns = [(i + shift, i + shift + 1.0, 'A', 'x') for i in range(7)]
        found = with_media(_turns_corpus(turns, path), path, audio='egemaps', progress=False)
        return np.corrcoef(found.features['audio'][:, feature], np.log(pitches[:7]))[0, 1]

    assert match(0) > 0.99 and match(1) < 0.5


@needs_av
@pytest.mark.parametrize('suffix', ['.wav', '.mp4', '.mkv', '.webm'])
def test_containers_give_the_same_sound(suffix, tmp_path):
    sound, rate = tones([110, 180, 140]), 48_000 if suffix == '.webm' else RATE
    if rate != RATE:
        sound = np.repeat(sound, 3)
    found = read(_toy_recording(tmp_path / f'talk{suffix}', sound, rate))
    for row, (x, why) in found.items():
        own = tones([110, 180, 140])[row * RATE : (row + 1) * RATE]
        assert not why and len(x) == RATE
        lag = np.argmax(
            [cosine(x[1000:-1000], np.roll(own, s)[1000:-1000]) for s in range(-400, 401, 5)]
        )
        shifted = np.roll(own, range(-400, 401, 5)[lag])
        assert cosine(x[1000:-1000], shifted[1000:-1000]) > 0.9


@needs_av
@pytest.mark.parametrize(
    ('codec', 'rate'), [('pcm_u8', 16_000), ('pcm_s24le', 96_000), ('pcm_s16le', 11_025)]
)
def test_odd_rates_and_depths(codec, rate, tmp_path):
    t = np.arange(3 * rate) / rate
    path = _toy_recording(
        tmp_path / 'odd.wav', 0.5 * np.sin(2 * np.pi * 200 * t), rate, codec=codec
    )
    for x, why in read(path).values():
        assert not why and abs(len(x) - RATE) <= 1
        crossings = np.count_nonzero(np.diff(np.signbit(x)))
        assert abs(crossings - 400) <= 6 and abs(np.abs(x).max() - 0.5) < 0.02


@needs_av
def test_stereo_becomes_one_channel(tmp_path):
    path = tmp_path / 'stereo.wav'
    left = (0.5 * np.sin(np.arange(3 * RATE) * 0.1) * 32767).astype(np.int16)
    with wave.open(str(path), 'wb') as file:
        file.setnchannels(2), file.setsampwidth(2), file.setframerate(RATE)
        file.writeframes(np.stack([left, np.zeros_like(left)], 1).tobytes())
    x, why = read(path)[0]
    assert not why and 0.2 < np.abs(x).max() < 0.4


@needs_av
def test_turns_that_overlap_or_come_late_get_their_own_sound(tmp_path):
    sound = tones([110, 180, 140])
    path = _toy_recording(tmp_path / 'talk.wav', sound)
    spans = [(2.5, 3.0), (0.0, 2.0), (0.5, 0.9), (0.5, 2.9)]
    for row, (x, _) in read(path, spans).items():
        first, last = (round(t * RATE) for t in spans[row])
        np.testing.assert_allclose(x, sound[first:last], atol=1e-4)


# ---- what is missing


@needs_av
def test_reasons_of_missing_sound(tmp_path):
    sound = np.r_[tones([110]), np.zeros(RATE), tones([140])]
    path = _toy_recording(tmp_path / 'talk.wav', sound)
    spans = [(0, 1), (1.1, 1.9), (2, 2.05), (2.5, 4), (9, 10), (2, 1), (-1, 1)]
    why = {row: why for row, (_, why) in read(path, spans).items()}
    assert why == {
        0: '',
        1: 'silent',
        2: 'too short: 0.05 s',
        3: 'out of range: the sound ends at 3.0 s, 33% of the turn is there',
        4: 'out of range: the sound ends at 3.0 s, 0% of the turn is there',
        5: 'it ends before it begins',
        6: 'out of range: it begins before the recording',
    }


def film(path, count=75, **options):
    return _toy_recording(path, pictures=noise_pictures(count), **options)


BROKEN = {
    'empty.mp4': (lambda p: p.write_bytes(b''), 'the file is empty (zero bytes)'),
    'note.mp4': (lambda p: p.write_text('a note'), 'FFmpeg finds no recording in it'),
    'list.mp4': (
        lambda p: p.write_text('#EXTM3U\n#EXTINF:1,\nfile:///etc/hosts\n'),
        'no recording',
    ),
    'cut.mp4': (lambda p: cut_short(talk(p), 0.5), 'truncated, encrypted, or no sound'),
    'noise.wav': (lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000)), 'no recording'),
}


@needs_av
@pytest.mark.parametrize('name', BROKEN)
def test_what_is_no_recording_is_one_sentence_and_the_rest_goes_on(name, tmp_path, cache):
    make, sentence = BROKEN[name]
    make(tmp_path / name)
    talk(tmp_path / 'good.wav')
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the sentence is compared below)
        _about(tmp_path / name)
    assert sentence in str(error.value) and str(tmp_path / name) in str(error.value)
    assert '\n' not in str(error.value)
    table = pd.DataFrame([*TURNS, *TURNS], columns=['start', 'end', 'speaker', 'text'])
    table = table.assign(recording=['good'] * 3 + [name] * 3)
    toy = str(_toy_speech(tmp_path / 'toy'))
    with pytest.warns(UserWarning, match='its turns are marked as missing'):
        corpus = with_media(_turns_corpus(table, tmp_path), tmp_path, audio=toy, progress=False)
    good = (corpus.table.recording == 'good').to_numpy()
    np.testing.assert_array_equal(corpus.has['audio'], good)
    assert not corpus.features['audio'][~good].any()
    assert all(sentence in why for why in corpus.table.missing_audio[~good])


@needs_av
def test_a_cut_sound_file_gives_what_is_there(tmp_path):
    path = cut_short(talk(tmp_path / 'cut.wav'), 0.5)
    why = [read(path)[row][1] for row in range(3)]
    assert why[0] == '' and why[1].startswith('out of range: the sound ends at 1.5 s')
    assert cut_short(talk(tmp_path / 'cut.mkv'), 0.6) and read(tmp_path / 'cut.mkv')[0][1] == ''


@needs_av
def test_encrypted_streams_are_named(tmp_path):
    path = with_code(talk(tmp_path / 'secret.mp4'), b'mp4a', b'enca')
    assert {why for _, why in read(path).values()} == {'the sound is encrypted'}
    path = with_code(film(tmp_path / 'hidden.mp4'), b'mp4v', b'encv')
    hidden = _Film(path, SPANS)
    assert not list(hidden) and hidden.problem(0) == 'the film is encrypted'


@needs_av
def test_one_stream_alone(tmp_path):
    silent = film(tmp_path / 'silent.mp4')
    assert {why for _, why in read(silent).values()} == {'the recording has no sound'}
    heard = _Film(talk(tmp_path / 'heard.mp4'), SPANS)
    assert not list(heard) and heard.problem(1) == 'the recording has no film'


@needs_av
def test_a_misnamed_recording_is_what_it_is(tmp_path):
    path = talk(tmp_path / 'talk.wav').rename(tmp_path / 'talk.mp4')
    assert _about(path)['kind'] == 'wav' and read(path)[0][1] == ''


@needs_av
@pytest.mark.parametrize(
    ('limits', 'sentence'),
    [
        (_Limits(gigabytes=1e-6), 'more than 1e-06 GB'),
        (_Limits(hours=1 / 3600), 'longer than'),
        (_Limits(frames=10), 'too many frames'),
        (_Limits(pixels=100), 'too many pixels'),
    ],
)
def test_limits(limits, sentence, tmp_path):
    path = film(tmp_path / 'film.mp4')
    with pytest.raises(ValueError, match=f'{sentence}.*; cut it into smaller recordings'):
        list(_Film(path, SPANS, limits=limits))


def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch):
    (tmp_path / 'a.wav').write_bytes(b'x')
    monkeypatch.setattr(decode, '_has_package', lambda name: False)
    for what in (
        lambda: _about(tmp_path / 'a.wav'),
        lambda: _Functionals('egemaps').width,
        lambda: _Functionals('egemaps').about,
    ):
        with pytest.raises(ImportError) as error:
            what()
        assert "pip install '.[media]' in a clone" in str(error.value)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('reader', 'command'),
    [
        (lambda: _Voice().about, 'pip install --no-deps resemblyzer'),
        (lambda: _Mtcnn().about, 'pip install --no-deps facenet-pytorch'),
        (lambda: VisExtNet('dlib').about, "pip install '.[media]'"),
    ],
)
def test_each_missing_package_is_named_with_its_command(reader, command, monkeypatch):
    "What the extra cannot install, for what it needs itself, has a command of its own."
    from erc.media import audio, faces

    for module in (decode, audio, faces):
        monkeypatch.setattr(module, '_has_package', lambda name: False)
    with pytest.raises(ImportError) as error:
        reader()
    assert command in str(error.value) and '\n' not in str(error.value)


# ---- pictures


@needs_av
def test_frames_are_those_shown_at_the_moments(tmp_path):
    "Also where the frame rate changes: the second half has one frame in half a second."
    times = np.r_[np.arange(0, 1, 0.04), np.arange(1, 3, 0.5)]
    grey = (np.full((64, 64, 3), 8 * i, np.uint8) for i in range(len(times)))
    path = _toy_recording(tmp_path / 'grey.mp4', pictures=grey, times=times)
    seen = {row: [] for row in range(2)}
    made = _Film(path, [(0.0, 1.0), (1.0, 3.0)], frames=20)
    for rows, picture in made:
        for row in rows:
            seen[row].append(round(picture.mean() / 8))
    moments = (np.arange(20) + 0.5) / 20
    first = [int(np.flatnonzero(times <= t)[-1]) for t in moments]
    assert np.abs(np.array(seen[0]) - first).max() <= 1 and seen[1] == [25, 26, 27, 28]
    assert made.seen == {0: 20, 1: 20} and not made.problem(1)


@needs_av
def test_each_frame_is_decoded_once(tmp_path, monkeypatch):
    from erc.media import clips

    path, count = film(tmp_path / 'film.mp4'), []
    own = clips._decoded

    def counted(*args):
        for frame in own(*args):
            count.append(frame)
            yield frame

    monkeypatch.setattr(clips, '_decoded', counted)
    assert len(list(_Film(path, SPANS * 5))) == 60 and len(count) == 75


@needs_av
def test_a_turned_film_is_upright_and_large_frames_are_made_small(tmp_path):
    wide = np.zeros((90, 1280, 3), np.uint8)
    wide[:, :640] = 200
    path = _toy_recording(tmp_path / 'wide.mp4', pictures=[wide] * 30)
    (_, plain), *_ = _Film(path, [(0, 1)])
    assert plain.shape == (45, 640, 3)
    (_, upright), *_ = _Film(turned(path, 90), [(0, 1)])
    assert upright.shape == (640, 45, 3) and upright[:300].mean() > 150 > 50 > upright[340:].mean()


@needs_av
def test_reasons_of_missing_film(tmp_path):
    made = _Film(film(tmp_path / 'film.mp4', 50), [(0, 1), (1, 3), (5, 6), (1, 1.01)])
    list(made)
    assert made.problem(0) == ''
    assert made.problem(1) == 'out of range: the film ends at 2.0 s, 50% of it is there'
    assert made.problem(2).startswith('out of range') and made.problem(3) == 'too short: 0.01 s'


def seen(path, count, reader):
    "What a reader of pictures sees in the first turns of a film."
    how = {'visual': (reader, (('frames', 4),))}
    return with_media(_turns_corpus(TURNS[:count], path), path, visual=how, progress=False)


@needs_detector
def test_a_face_video_and_one_without(tmp_path, cache):
    "The encoder has random weights; what is found, and what is missing, is the detector's."
    sound, reader = tones([110, 180]), f'dlib+{_toy_vision(tmp_path / "toy")}'
    face = _toy_recording(tmp_path / 'face.mp4', sound, pictures=face_pictures(50))
    found = seen(face, 2, reader)
    assert found.has['visual'].all() and found.features['visual'].any(1).all()
    for name, pictures in (('noise', noise_pictures(50)), ('scene', scene_pictures(50))):
        missing = seen(
            _toy_recording(tmp_path / f'{name}.mp4', sound, pictures=pictures), 2, reader
        )
        assert not missing.has['visual'].any() and not missing.features['visual'].any()
        assert list(missing.table.missing_visual) == ['no face in its 4 frames'] * 2


@needs_detector
def test_a_face_in_a_turned_film_is_found(tmp_path, cache):
    reader = f'dlib+{_toy_vision(tmp_path / "toy")}'
    path = _toy_recording(tmp_path / 'side.mp4', pictures=face_pictures(25, upright=False))
    before, after = seen(path, 1, reader), seen(turned(path, 90), 1, reader)
    assert [before.has['visual'][0], after.has['visual'][0]] == [False, True]


@needs_faces
def test_one_person_has_like_vectors(tmp_path, cache):
    path = _toy_recording(tmp_path / 'face.mp4', pictures=face_pictures(50))
    found = seen(path, 2, 'dlib')
    assert found.features['visual'].shape == (2, 128) and cosine(*found.features['visual']) > 0.95


@needs_faces
def test_faces_are_the_librarys_own(tmp_path, cache):
    import av
    import dlib

    from erc.media.faces import _dlib_file

    path = _toy_recording(tmp_path / 'face.mp4', pictures=face_pictures(25))
    corpus = with_media(_turns_corpus([(0, 1, 'A', 'x')], path), path, visual=FEW, progress=False)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
    landmarks = dlib.shape_predictor(str(_dlib_file('shape_predictor_5_face_landmarks.dat')))
    network = dlib.face_recognition_model_v1(
        str(_dlib_file('dlib_face_recognition_resnet_model_v1.dat'))
    )
    vectors = []
    for i in sorted({int(((j + 0.5) / 4) / 0.04) for j in range(4)}):
        boxes, _, _ = dlib.get_frontal_face_detector().run(pictures[i], 0, 0.1)
        vectors += [
            network.compute_face_descriptor(pictures[i], landmarks(pictures[i], b)) for b in boxes
        ]
    np.testing.assert_allclose(corpus.features['visual'][0], np.mean(vectors, 0), atol=1e-5)


@needs_av
@pytest.mark.parametrize('clip', [False, True])
def test_scene_vectors_are_the_librarys_own(clip, tmp_path, cache):
    import torch
    from transformers import AutoImageProcessor, AutoModel

    folder = _toy_vision(tmp_path / 'toy', clip)
    path = film(tmp_path / 'film.mp4')
    corpus = with_media(_turns_corpus(TURNS, path), path, visual=str(folder), progress=False)
    pictures = [picture for rows, picture in _Film(path, SPANS) if 0 in rows]
    prepare, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder)
    inputs = prepare(pictures, return_tensors='pt')['pixel_values']
    with torch.no_grad():
        if clip:
            found = model.get_image_features(pixel_values=inputs)
            found = found if torch.is_tensor(found) else found.pooler_output
        else:
            found = model.eval()(pixel_values=inputs).pooler_output.flatten(1)
    np.testing.assert_allclose(corpus.features['visual'][0], found.mean(0).numpy(), atol=1e-5)


def test_parts_of_visextnet_can_be_exchanged(tmp_path):
    "A detector may be any function; two faces in one frame weigh as the pooling says."

    def halves(picture):
        middle = picture.shape[1] // 2
        return [_Face(0, 0, middle, 40, 0.9), _Face(middle, 0, 2 * middle, 40, 0.9)]

    halves.name = halves.about = 'halves'
    net = VisExtNet(halves, _Vision(str(_toy_vision(tmp_path / 'toy'))))
    picture = next(noise_pictures(1))
    vectors = net(picture)
    assert vectors.shape == (2, net.width) and net.about['encoder'].startswith('halves+')
    one = net(picture)[:1]
    np.testing.assert_allclose(net.pool([vectors, one]), np.r_[vectors, one].mean(0), rtol=1e-5)
    by_frame = VisExtNet(halves, net.encoder, pooling='frames').pool([vectors, one])
    np.testing.assert_allclose(by_frame, (vectors.mean(0) + one[0]) / 2, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown detector 'dlb'; did you mean 'dlib'"):
        VisExtNet('dlb')


@needs('facenet_pytorch')
def test_mtcnn_is_the_librarys_own_and_needs_no_torchvision(golden):
    import sys

    from erc.media.faces import _STOOD_IN

    wanted, picture = golden('media/mtcnn'), _toy_face()
    beside = np.concatenate([picture[:, ::-1], picture], 1)[::2, ::2]
    for name, seen in (('one', picture), ('two', beside)):
        found = np.array(_Mtcnn()(seen))
        assert found.shape == wanted[name].shape
        np.testing.assert_allclose(found[:, :4], wanted[name][:, :4], atol=1)
        np.testing.assert_allclose(found[:, 4], wanted[name][:, 4], atol=1e-3)
    assert all(sys.modules[name].__spec__ for name in _STOOD_IN if name in sys.modules)


@needs('facenet_pytorch')
def test_mtcnn_finds_nothing_where_nothing_is():
    from sklearn.datasets import load_sample_image

    detect = _Mtcnn()
    for picture in (load_sample_image('china.jpg'), np.zeros((10, 99, 3), np.uint8)):
        assert VisExtNet(detect, _VggFace2(None))(picture).shape == (0, 512)


@needs('facenet_pytorch')
def test_vggface2_gets_faces_as_the_library_cuts_them(golden):
    "With random weights, as the trained ones are downloaded."
    import torch

    torch.manual_seed(0)
    net = VisExtNet('mtcnn', _VggFace2(None))
    faces = net.detector(_toy_face())
    inputs = net.encoder.inputs(_toy_face(), faces)
    blocks = inputs.double().numpy().reshape(3, 10, 16, 10, 16).mean((2, 4))
    np.testing.assert_allclose(blocks, golden('media/mtcnn')['crop'], atol=0.02)
    found = net(_toy_face())
    with torch.no_grad():
        own = net.encoder.network(inputs).numpy()
    np.testing.assert_allclose(found, own, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1], atol=1e-5)


@needs('facenet_pytorch')
def test_weights_that_cannot_be_downloaded_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    with pytest.raises(ValueError, match="'vggface2': its weights cannot be downloaded") as error:
        _ = _VggFace2().network
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('overlap', [0.3, 0.5, 0.7])
def test_boxes_that_overlap_a_better_one_are_left_out(overlap):
    "By the definition: a box is kept if none that is better and kept overlaps it by more."
    import torch

    from erc.media.faces import _best_boxes

    rng = np.random.default_rng(0)
    corner = rng.integers(0, 40, (60, 2))
    boxes = torch.tensor(np.hstack([corner, corner + rng.integers(5, 30, (60, 2))])).float()
    scores = torch.tensor(rng.permutation(60) / 60)

    def share(a, b):
        w, h = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
        both = w * h
        return both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both)

    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(share(boxes[i], boxes[j]) <= overlap for j in kept):
            kept.append(i)
    assert _best_boxes(boxes, scores, overlap).tolist() == kept and 1 < len(kept) < 60
    assert not len(_best_boxes(boxes[:0], scores[:0], overlap))


# ---- cache, workers, cost


@needs_av
def test_what_was_read_is_kept(tmp_path, cache, monkeypatch):
    from erc.media import clips, reading

    path, toy = talk(tmp_path / 'talk.wav'), str(_toy_speech(tmp_path / 'toy'))
    first = with_media(_turns_corpus(TURNS, path), path, audio=toy, progress=False)
    calls = []
    own = reading._sounds
    monkeypatch.setattr(reading, '_sounds', lambda *a: calls.append(a) or own(*a))
    other_words = [(*turn[:3], 'other') for turn in TURNS]
    again = with_media(_turns_corpus(other_words, path), path, audio=toy, progress=False)
    np.testing.assert_array_equal(first.features['audio'], again.features['audio'])
    assert not calls
    moved = [(a + 0.1, b - 0.1, *rest) for a, b, *rest in TURNS]
    with_media(_turns_corpus(moved, path), path, audio=toy, progress=False)
    assert len(calls) == 1
    talk(path, rate=RATE).write_bytes(path.read_bytes()[:-2000])
    with_media(_turns_corpus(TURNS, path), path, audio=toy, progress=False)
    assert len(calls) == 2
    for kept in (cache / 'media').glob('*.safetensors'):
        kept.write_bytes(b'damaged')
    with_media(_turns_corpus(TURNS, path), path, audio=toy, progress=False)
    assert len(calls) == 3
    assert clips._RATE == RATE


@needs_av
def test_a_reader_is_made_once_for_all_recordings(tmp_path, cache, monkeypatch):
    "And anew for the next call: weights may have changed in their folder."
    from transformers import AutoModel

    toy, made = _toy_speech(tmp_path / 'toy'), []
    load = AutoModel.from_pretrained
    monkeypatch.setattr(AutoModel, 'from_pretrained', lambda path: made.append(path) or load(path))
    for name in 'abc':
        talk(tmp_path / f'{name}.wav')
    table = pd.DataFrame([(*turn, name) for name in 'abc' for turn in TURNS])
    table.columns = ['start', 'end', 'speaker', 'text', 'recording']
    corpus = _turns_corpus(table, tmp_path)
    before = with_media(corpus, tmp_path, audio=str(toy), progress=False).features['audio']
    assert len(made) == 1
    _toy_speech(toy, seed=1)
    after = with_media(corpus, tmp_path, audio=str(toy), progress=False).features['audio']
    assert len(made) == 2 and np.abs(before - after).max() > 0.01


@needs_av
def test_two_readers_of_pictures_keep_their_own_frames(tmp_path, cache):
    path, toy = film(tmp_path / 'film.mp4'), str(_toy_vision(tmp_path / 'toy'))
    corpus = _turns_corpus(TURNS, path)
    specs = {'few': (toy, (('frames', 2),)), 'many': (toy, (('frames', 9),))}
    both = with_media(corpus, path, visual=specs, progress=False)
    for name, spec in specs.items():
        alone = with_media(corpus, path, visual={name: spec}, progress=False, cache=tmp_path / name)
        np.testing.assert_array_equal(both.features[name], alone.features[name])
    assert np.abs(both.features['few'] - both.features['many']).max() > 1e-3


@needs_av
def test_two_workers_give_what_one_does(tmp_path, cache):
    toy, seen = str(_toy_speech(tmp_path / 'toy')), str(_toy_vision(tmp_path / 'eyes'))
    path = _toy_recording(tmp_path / 'a.mp4', tones([110, 180, 140]), pictures=noise_pictures(75))
    how = dict(audio=toy, visual=seen, progress=False)
    corpus = _turns_corpus(TURNS, path)
    one = with_media(corpus, path, **how, cache=tmp_path / 'one')
    two = with_media(corpus, path, **how, cache=tmp_path / 'two', workers=2)
    for name in ('audio', 'visual'):
        np.testing.assert_array_equal(one.features[name], two.features[name])
    assert set(two.provenance['seconds']) == {
        'decoding audio',
        'decoding visual',
        'audio',
        'visual',
    }


def times_as_long(ours, theirs):
    "How many times the processor time of `theirs` `ours` takes, each at its best of three."

    def seconds(function):
        begun = time.process_time()
        function()
        return time.process_time() - begun

    theirs(), ours()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(3)]
    return min(a for a, _ in pairs) / min(b for _, b in pairs)


@needs_smile
def test_it_costs_little_more_than_the_libraries_themselves(tmp_path):
    "On the same seconds of sound; the best of three, on a processor that others may use."
    import av

    turns = [(i * 0.75, i * 0.75 + 0.75, 'A', 'x') for i in range(16)]
    path = _toy_recording(tmp_path / 'talk.wav', buzz(seconds=12.0, loud=0.2))
    smile, corpus = _Functionals('egemaps').smile, _turns_corpus(turns, path)

    def theirs():
        with av.open(str(path)) as container:
            x = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)]) / 32768
        for start, end, *_ in turns:
            smile.process_signal(x[int(start * RATE) : int(end * RATE)], RATE)

    def ours(i=[0]):  # noqa: B006 (each time another cache)
        i[0] += 1
        with_media(corpus, path, audio='egemaps', progress=False, cache=tmp_path / f'{i[0]}')

    assert times_as_long(ours, theirs) < 1.2


@needs_detector
def test_faces_cost_little_more_than_the_libraries_themselves(tmp_path):
    import av
    import dlib

    path = _toy_recording(tmp_path / 'face.mp4', pictures=face_pictures(100))
    folder = str(_toy_vision(tmp_path / 'toy'))
    turns = [(float(i), i + 1.0, 'A', 'x') for i in range(4)]
    corpus = _turns_corpus(turns, path)
    looked_at = {int((i + (j + 0.5) / 20) / 0.04) for i in range(4) for j in range(20)}

    def theirs():
        detect, toy = dlib.get_frontal_face_detector(), _Vision(folder)
        with av.open(str(path)) as container:
            for i, frame in enumerate(container.decode(video=0)):
                if i in looked_at:
                    picture = frame.to_ndarray(format='rgb24')
                    boxes, scores, _ = detect.run(picture, 0, 0.1)
                    corners = [(b.left(), b.top(), b.right(), b.bottom()) for b in boxes]
                    toy(picture, [_Face(*box, s) for box, s in zip(corners, scores)])

    def ours(i=[0]):  # noqa: B006 (each time another cache)
        i[0] += 1
        how = dict(visual=f'dlib+{folder}', progress=False, cache=tmp_path / f'{i[0]}')
        assert with_media(corpus, path, **how).has['visual'].all()

    assert times_as_long(ours, theirs) < 1.2


@needs_av
def test_memory_does_not_grow_with_the_film(tmp_path):
    "Pictures and sound are let go of: what is held at most is the same for a film three times as long."

    def peak(seconds):
        path = _toy_recording(
            tmp_path / f'{seconds}.mkv',
            buzz(seconds=float(seconds)),
            pictures=noise_pictures(5 * seconds, (240, 320)),
            times=np.arange(5 * seconds) / 5,
        )
        spans = [(float(i), i + 1.0) for i in range(seconds)]
        tracemalloc.start()
        for _ in _sounds(path, spans):
            pass
        for _ in _Film(path, spans):
            pass
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    assert peak(60) < 1.5 * peak(20) + 1e6


# ---- the whole way


@needs_smile
def test_from_a_recording_to_a_prediction(tmp_path, cache):
    "erc features, train and predict: sound says what the text does not."
    from typer.testing import CliRunner

    from erc.cli import app

    rng = np.random.default_rng(0)
    folder = tmp_path / 'clips'
    folder.mkdir()
    rows = []
    for d in range(8):
        labels = rng.integers(0, 2, 6)
        _toy_recording(folder / f'd{d}.wav', tones(110 + 90 * labels))
        split = 'train' if d < 5 else 'dev' if d < 6 else 'test'
        rows += [
            (f'd{d}', i, i + 1, 'AB'[i % 2], 'the same words', ('low', 'high')[k], split)
            for i, k in enumerate(labels)
        ]
    names = ['recording', 'start', 'end', 'speaker', 'text', 'emotion', 'split']
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / 'turns.csv', index=False)

    def call(*args):
        done = CliRunner().invoke(app, [*map(str, args)])
        assert done.exit_code == 0, done.output
        return done.output

    said = call(
        *('features', folder, '--turns', tmp_path / 'turns.csv', '--label', 'emotion'),
        *('--audio', 'egemaps', '--encoder', 'hashing', '--out', tmp_path / 'corpus'),
    )
    assert 'audio: 88 numbers, 48 of 48 turns' in said and 'decoding audio' in said

    import erc

    corpus = erc.load_corpus(tmp_path / 'corpus')
    assert corpus.provenance['encoders']['audio']['encoder'] == 'egemaps'
    model = erc.train(
        'context_gru',
        corpus,
        ['text', 'audio'],
        seeds=1,
        hyperparameters={'epochs': 8},
        progress=False,
    )
    assert model.score('test').mean > 0.9 and model.encoders == {'text': 'hashing'}
    model.save(tmp_path / 'model')
    _toy_recording(tmp_path / 'new.wav', tones([110, 200, 200, 110]))
    turns = [(i, i + 1.0, 'AB'[i % 2], 'the same words') for i in range(4)]
    write_turns(tmp_path / 'new.csv', turns)
    call(
        *('predict', tmp_path / 'new.wav', '--turns', tmp_path / 'new.csv'),
        *('--model', tmp_path / 'model', '--out', tmp_path / 'found.csv'),
    )
    found = pd.read_csv(tmp_path / 'found.csv')
    assert list(found.emotion) == ['low', 'high', 'high', 'low']


def test_command_says_what_it_needs(tmp_path):
    from typer.testing import CliRunner

    from erc.cli import app

    def said(*args):
        done = CliRunner().invoke(app, [*map(str, args)])
        assert done.exit_code == 2 and done.output.count('\n') == 1, done.output
        return done.output

    write_turns(tmp_path / 't.csv')
    out = ('--out', tmp_path / 'c')
    assert 'say --turns FILE' in said('features', 'talk.mp4', '--audio', 'egemaps')
    assert 'say --out FOLDER' in said('features', 'talk.mp4', '--turns', tmp_path / 't.csv')
    assert 'nothing to read' in said('features', 'a.mp4', '--turns', tmp_path / 't.csv', *out)
    unknown = said('features', 'a.mp4', '--turns', tmp_path / 't.csv', '--audio', 'egmaps', *out)
    assert "did you mean 'egemaps'" in unknown


@needs_smile
def test_no_recording_of_that_name(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match='there is no recording'):
        with_media(_turns_corpus(TURNS, tmp_path / 'a.mp4'), tmp_path / 'a.mp4', audio='egemaps')
    table = pd.DataFrame(TURNS, columns=['start', 'end', 'speaker', 'text']).assign(
        recording='../x'
    )
    with pytest.raises(ValueError, match='lies outside of'):
        with_media(_turns_corpus(table, tmp_path), tmp_path, audio='egemaps')
