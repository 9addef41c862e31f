"Prompts: token by token as the authors' code writes them, the extra questions, and bad options."

import numpy as np
import pandas as pd
import pytest

from erc.data.prompts import _SPEAKER_POOL, _clean_text, _WordTokenizer, build_prompts
from erc.data.registry import load_corpus
from erc.data.sentence_encoders import encoder_path
from erc.studies.mmspcl import load_prompts


def dialogue(lines):
    "Return the table of a dialogue from lines 'speaker|text|label'."
    speaker, text, label = zip(*(str(line).split('|') for line in lines))
    table = pd.DataFrame(dict(dialogue='d', turn=range(len(lines)), speaker=speaker, text=text))
    return table.assign(label=[int(k) for k in label], split='train')


def padded(prompts, width):
    return np.array([[*ids, *[1] * (width - len(ids))] for ids in prompts.ids])


def test_prompts_match_authors(golden):
    "Tokens of two lengths and of a long dialogue, from the released code."
    expected = golden('mmspcl/spcl_prompt')
    table, words = dialogue(expected['dialogue']), _WordTokenizer(expected['vocab'].tolist())
    for name, length in (('short', 64), ('tight', 40)):
        prompts = build_prompts(table, words, max_len=length)
        assert (padded(prompts, length) == expected[f'{name}_input_ids']).all()
        assert table.label[prompts.row].tolist() == expected[f'{name}_labels'].tolist()
    ids = expected['window_input_ids']
    prompts = build_prompts(dialogue(expected['window_dialogue']), words)
    assert (padded(prompts, ids.shape[1]) == ids).all()
    assert (prompts['at'] - prompts['first']).max() == 8


def test_extra_questions():
    "Only in training, after the fourth turn, in about a fifth of these; about an earlier turn."
    table = load_corpus('demo').table
    prompts = build_prompts(table, _WordTokenizer(), extra=0.2)
    own, extra = prompts[prompts.extra == 0], prompts[prompts.extra == 1]
    assert (own.row == own['at']).all()
    assert own.row.tolist() == table.index[table.label >= 0].tolist()
    at = extra['at'].to_numpy()
    assert (table.split[at] == 'train').all() and (table.turn[at] > 3).all()
    assert (extra.row < extra['at']).all() and (extra.row >= extra['first']).all()
    assert (table.dialogue[extra.row].to_numpy() == table.dialogue[at].to_numpy()).all()
    possible = ((table.split == 'train') & (table.turn > 3) & (table.label >= 0)).sum()
    assert abs(len(extra) / possible - 0.2) < 0.05


def test_only_extra_questions_contain_later_turns():
    table = load_prompts('demo').table
    table = table[(table.extra == 0) & (table.split != 'train')]
    later = table.text.groupby(table.dialogue).shift(-1)
    unique = ~table.text.duplicated(keep=False) & ~later.duplicated(keep=False) & later.notna()
    assert unique.sum() > 5
    for prompt, text in zip(table.prompt[unique], later[unique]):
        assert _clean_text(text) not in prompt


def test_speakers_and_spelling():
    table = dialogue(['F|It’s "fine".|0', 'M|ok|1', 'F|so|0'])
    prompts = build_prompts(table, _WordTokenizer(), pool=_SPEAKER_POOL)
    question = "Roy:It's fine. </s> Weldon:ok </s> For utterance:Weldon:ok </s> Weldon feels <mask>"
    assert prompts.text[1] == question
    assert prompts.text[2].endswith('Roy feels <mask>')
    with pytest.raises(ValueError, match='has 2 speakers, but the pool has 1 names'):
        build_prompts(table, _WordTokenizer(), pool=('Roy',))


def test_text_and_ids_are_the_same_prompt(data):
    "The text of a prompt, through the sentence encoder's own tokenizer, gives its ids."
    transformers = pytest.importorskip('transformers')
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_path('minilm'))
    except ValueError:
        pytest.skip('MiniLM is not installed')
    prompts = build_prompts(load_corpus('meld').table[:200], tokenizer)
    for ids, text in zip(prompts.ids, prompts.text):
        assert tokenizer(text)['input_ids'] == ids


def test_meld(data):
    table = load_prompts('meld').table
    extra = table[table.extra == 1]
    assert len(table) - len(extra) == 9989 + 1109 + 2610
    assert abs(len(extra) / 6221 - 0.4) < 0.03
    assert (extra.split == 'train').all()


def test_an_encoder_without_a_mask(tmp_path):
    "The error names what the encoder lacks and one that would do; it does not call it missing."
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({'end': 0}, unk_token='end'))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token='end').save_pretrained(tmp_path)
    (tmp_path / 'config.json').write_text('{"model_type": "gpt2"}')
    message = "no mask token: a prompt needs a masked-language model .* such as 'minilm'"
    with pytest.raises(ValueError, match=message):
        load_prompts('demo', tokens=str(tmp_path))


def test_a_tokenizer_without_a_mask():
    class NoMask:
        cls_token_id = sep_token_id = 1
        mask_token_id = None

    with pytest.raises(ValueError, match='no mask token'):
        build_prompts(load_corpus('demo').table, NoMask())


@pytest.mark.parametrize(
    'options,message',
    [
        (dict(max_len=0), 'max_len=0'),
        (dict(max_len=1), 'the mask and the end'),
        (dict(past=-1), 'past=-1'),
        (dict(past=2.5), 'past=2.5'),
        (dict(extra=2), 'extra=2: give a share of turns'),
        (dict(extra=-0.1), 'extra=-0.1'),
        (dict(past=0, extra=0.2), 'past=0: an extra question is about an earlier turn'),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        load_prompts('demo', **{'extra': 0.0, **options})
    assert load_prompts('demo', past=0, extra=0.0, max_len=2).table.extra.sum() == 0
