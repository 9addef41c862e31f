"A file that is predicted in parts: every turn is in one part, and joined they are the whole."

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from erc.cli import app
from erc.prediction.joined import _join
from erc.prediction.parts import _span
from erc.prediction.streams import _Lines, predict_stream


class Letters:
    "Count letters, in place of a trained model."

    classes, features, encoders, stop = ['short', 'long'], ['text'], {'text': 'hashing'}, None

    def encode(self, corpus, progress):
        return corpus.with_features(text=corpus.table.text.str.len().to_numpy()[:, None])

    def probabilities(self, corpus):
        if corpus.table.text.eq(self.stop).any():
            raise KeyboardInterrupt
        long = 1 / (1 + np.exp(7 - corpus.features['text'][:, 0]))
        return np.stack([1 - long, long], 1)

    def shift_probabilities(self, corpus, p):
        return p[:, 0]


def write(path, lengths, blank=False):
    "Write conversations of so many turns."
    turns = [(d, i) for d, n in enumerate(lengths) for i in range(n)]
    lines = [json.dumps({'dialogue': f'd{d}', 'speaker': 'AB'[i % 2], 'text': f'turn {d} {i} é'}, ensure_ascii=False) for d, i in turns]  # fmt: skip
    path.write_text(('\n\n' if blank else '\n').join(lines) + '\n', encoding='utf-8')
    return path


@pytest.mark.parametrize('parts', [1, 2, 3, 7, 40])
@pytest.mark.parametrize('kind', ['.jsonl', '.csv'])
def test_parts_are_the_whole(tmp_path, parts, kind):
    lengths = np.random.default_rng(parts).integers(1, 9, 30)
    source = write(tmp_path / 'x.jsonl', lengths, blank=parts == 3)
    predict_stream(Letters(), source, tmp_path / f'whole{kind}', progress=False)
    files = [tmp_path / f'{k}{kind}' for k in range(1, parts + 1)]
    for k, file in enumerate(files, 1):
        predict_stream(Letters(), source, file, part=f'{k}/{parts}', progress=False)
    counts = _join(tmp_path / f'joined{kind}', files, [source])
    assert sum(counts.values()) == lengths.sum()
    assert (tmp_path / f'joined{kind}').read_text() == (tmp_path / f'whole{kind}').read_text()


def test_one_long_conversation_is_in_one_part(tmp_path):
    source = write(tmp_path / 'x.jsonl', [500])
    spans = [_span(_Lines(source, {}), f'{k}/4') for k in range(1, 5)]
    size = source.stat().st_size
    assert spans == [(0, size), (size, size), (size, size), (size, size)]
    assert predict_stream(Letters(), source, tmp_path / 'y.jsonl', part='2/4').turns == 0


def test_a_part_that_was_stopped_goes_on(tmp_path):
    source, model = write(tmp_path / 'x.jsonl', [3] * 6000), Letters()
    predict_stream(model, source, tmp_path / 'a.jsonl', part='2/2', progress=False)
    model.stop = 'turn 5500 1 é'
    with pytest.raises(KeyboardInterrupt):
        predict_stream(model, source, tmp_path / 'b.jsonl', part='2/2', progress=False)
    with pytest.raises(ValueError, match='not finished'):
        _join(tmp_path / 'whole.jsonl', [tmp_path / 'b.jsonl'])
    model.stop = None
    result = predict_stream(model, source, tmp_path / 'b.jsonl', part='2/2', progress=False)
    assert 0 < result.before < result.turns
    assert (tmp_path / 'b.jsonl').read_text() == (tmp_path / 'a.jsonl').read_text()


def test_a_damaged_line_is_named_by_its_number_in_the_file(tmp_path):
    source = write(tmp_path / 'x.jsonl', [2] * 50)
    lines = source.read_text().splitlines()
    lines[90] = '{'
    source.write_text('\n'.join(lines))
    with pytest.raises(ValueError, match='line 91: not JSON'):
        predict_stream(Letters(), source, tmp_path / 'y.jsonl', part='2/2', progress=False)


@pytest.mark.parametrize('part', ['0/4', '5/4', 'x', '1', '1/0'])
def test_parts_that_are_none(tmp_path, part):
    source = write(tmp_path / 'x.jsonl', [2])
    with pytest.raises(ValueError, match='write 1/4 for the first of four'):
        predict_stream(Letters(), source, tmp_path / 'y.jsonl', part=part, progress=False)


def test_a_part_that_is_missing_or_twice_there_is_noticed(tmp_path):
    source = write(tmp_path / 'x.jsonl', [2] * 10)
    for k in (1, 2):
        predict_stream(Letters(), source, tmp_path / f'{k}.jsonl', part=f'{k}/2', progress=False)
    out = tmp_path / 'whole.jsonl'
    made = CliRunner().invoke(
        app, ['join', str(out), str(tmp_path / '1.jsonl'), '--of', str(source)]
    )
    assert made.exit_code == 2 and 'turns were predicted of 20' in made.output and not out.exists()
    with pytest.raises(ValueError, match=r'different \.jsonl files'):
        _join(out, [tmp_path / '1.jsonl'] * 2, [source])
    made = CliRunner().invoke(app, ['join', str(out), *(str(tmp_path / f'{k}.jsonl') for k in (1, 2)), '--of', str(source)])  # fmt: skip
    assert made.exit_code == 0 and '20 turns of 2 parts' in made.output
    made = CliRunner().invoke(app, ['predict', str(source), '--part', '1/2'])
    assert made.exit_code == 2 and '--part is of a .jsonl file' in made.output
