"One name for a run: read in one place, the same on disk and in text."

import pytest

from erc.runs.keys import RunKey


@pytest.mark.parametrize(
    'text', ['shapes/gruarc:tuned@iemocap6', 'a/b:c', 'a/b@c', 'a/b', 'mmspcl/map_text.2:fixed@x-1']
)
def test_text_and_key_are_one(text):
    assert str(RunKey.parse(text)) == text
    assert RunKey.parse(RunKey.parse(text)) == RunKey.parse(text)


@pytest.mark.parametrize(
    'text', ['', 'a', 'a/b/c', 'a/b:c:d', 'a/b@c@d', 'a/b--c', 'a b/c', 'a/b:@c']
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match='write paper/system:variant@corpus'):
        RunKey.parse(text)


def test_paper_and_corpus_may_be_given():
    assert str(RunKey.parse('net:tuned', 'p', 'c')) == 'p/net:tuned@c'
    assert str(RunKey.parse('q/net:tuned@d', 'p', 'c')) == 'q/net:tuned@d'


def test_a_record_is_named_by_its_key(tmp_path):
    key = RunKey.parse('shapes/gruarc:tuned@iemocap6')
    path = key.path(tmp_path)
    assert path == tmp_path / 'records' / 'shapes' / 'gruarc--tuned--iemocap6.json'
    assert RunKey.from_path(path) == key
    for other in (
        path.with_suffix('.csv'),
        path.with_name('.' + path.name),
        path.with_name('x.json'),
    ):
        with pytest.raises(ValueError, match='not named like a record'):
            RunKey.from_path(other)
