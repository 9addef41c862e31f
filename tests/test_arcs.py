"The arc of a conversation: everything is there, readable without colour, and escaped."

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from erc.prediction.arcs import _arc_html, _class_colours, _emotions, _letters, arc_page
from erc.prediction.predictor import _as_predictions

CLASSES = ['neutral', 'surprise', 'fear', 'sadness', 'joy', 'disgust', 'anger']


def predictions(n=90, speakers='AB', seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(len(CLASSES)), n)
    frame = pd.DataFrame(
        {
            'turn': range(n),
            'speaker': [speakers[i % len(speakers)] for i in range(n)],
            'text': [f'text {i}' for i in range(n)],
            'emotion': [CLASSES[i] for i in p.argmax(1)],
            'confidence': p.max(1),
        }
    )
    frame = frame.assign(**{f'p_{c}': p[:, i] for i, c in enumerate(CLASSES)})
    return frame.assign(p_shift=np.r_[[np.nan] * len(speakers), rng.random(n - len(speakers))])


class Tags(HTMLParser):
    "Which tags a page has; every one that is opened is closed."

    def __init__(self, page):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ('meta', 'br', 'input', 'link'):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_turn_is_drawn_and_listed():
    frame = predictions()
    page = arc_page(frame, 'A chat')
    found = Tags(page)
    assert not found.open
    marks = [a for tag, a in found.tags if tag == 'rect' and a.get('class') == 'erc-mark']
    assert len(marks) == len(frame)
    colours = _class_colours(CLASSES)
    assert [m['fill'] for m in marks] == [colours[e] for e in frame.emotion]
    opacity = np.array([float(m['fill-opacity']) for m in marks])
    assert np.corrcoef(opacity, frame.confidence)[0, 1] > 0.999
    assert opacity.min() >= 0.25 and opacity.max() <= 1
    assert len(re.findall('<tr>', page)) == len(frame) + 1
    assert page.count('<svg viewBox') == 3  # forty turns a strip


def test_shifts_are_marked_where_the_speaker_had_another_emotion():
    frame = predictions()
    before = frame.groupby('speaker').emotion.shift()
    shifts = int((before.notna() & (before != frame.emotion)).sum())
    key = 1
    assert _arc_html(frame).count('class="erc-shift"') == shifts + key


@pytest.mark.parametrize('column', ['text', 'speaker', 'dialogue'])
def test_what_users_write_is_escaped(column):
    bad = '"><script>alert(1)</script><img src=x onerror=alert(1)>\' {{ 7 * 7 }}'
    frame = predictions(4).assign(dialogue='d')
    frame[column] = bad
    for page in (arc_page(frame, bad, bad), _arc_html(frame)):
        tags = [tag for tag, _ in Tags(page).tags]
        assert 'script' not in tags and 'img' not in tags
        assert '{{ 7 * 7 }}' in page


def test_text_runs_in_its_own_direction():
    frame = predictions(3).assign(text=['שלום', 'hello 🙂', 'مرحبا'])
    cells = [a for tag, a in Tags(arc_page(frame)).tags if a.get('class') == 'erc-said']
    assert [a['dir'] for a in cells] == ['auto'] * 3


def test_several_conversations_have_arcs_of_their_own():
    frame = pd.concat([predictions(5).assign(dialogue=name) for name in ('x', 'y')])
    page = arc_page(frame)
    assert page.count('<svg viewBox') == 2 and '<h2 dir="auto">x</h2>' in page


def _seen(colour, kind):
    "A colour as dichromats see it (Viénot, Brettel and Mollon; linear RGB)."
    matrix = {
        'protan': [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        'deutan': [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }[kind]
    return np.clip(np.array(matrix) @ np.array(to_rgb(colour)) ** 2.2, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize('kind', ['protan', 'deutan'])
def test_colours_are_told_apart_by_colour_blind_people(kind):
    seen = [_seen(c, kind) for c in _class_colours(CLASSES).values()]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(apart) > 0.12, min(apart)


def test_letters_tell_classes_apart_without_any_colour():
    for classes in (CLASSES, ['happy', 'sad', 'neutral', 'angry', 'excited', 'frustrated'], ['a']):
        assert len(set(_letters(classes).values())) == len(classes)
    assert _letters(['joy', 'joyful']) == {'joy': 'Joy', 'joyful': 'Joyf'}


def test_a_page_that_no_browser_opens_is_refused():
    with pytest.raises(ValueError, match='too many for one page'):
        arc_page(predictions(20_001))


def test_a_class_called_shift_keeps_its_probability():
    "The column is the class's, not that of a change of emotion, and the class has a colour."
    turns = pd.DataFrame({'turn': [0, 1], 'speaker': ['a', 'b'], 'text': ['x', 'y']})
    p = np.array([[0.7, 0.3], [0.2, 0.8]])
    model = SimpleNamespace(classes=['shift', 'inertia'])
    frame = _as_predictions(model, turns, p, [np.nan, 0.5])
    assert frame.p_shift.tolist() == [0.7, 0.2] and frame.emotion.tolist() == ['shift', 'inertia']
    assert _emotions(frame) == ['shift', 'inertia']
    assert 'inertia' in arc_page(frame, 'a page')
