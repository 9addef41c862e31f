"What is installed is pinned, hashed and licensed; the public workflows run nothing that can change."

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pins(name):
    text = (ROOT / name).read_text(encoding='utf-8')
    return dict(re.findall(r'^([\w.-]+)==([^\s\\]+)', text, re.M))


def plain(found):
    "Names as an index compares them."
    return {re.sub('[-_.]+', '-', name).lower(): version for name, version in found.items()}


def test_hashes_are_of_the_pinned_versions():
    "Every one but torch, whose build differs from index to index."
    wanted, hashed = plain(pins('constraints.txt')), plain(pins('requirements-hashed.txt'))
    assert wanted.pop('torch') and hashed == wanted
    text = (ROOT / 'requirements-hashed.txt').read_text(encoding='utf-8')
    blocks = re.split(r'^(?=[\w.-]+==)', text, flags=re.M)[1:]
    assert all(re.search(r'--hash=sha256:[0-9a-f]{64}\b', block) for block in blocks)
    assert 'http' not in re.sub(r'^http\w+==|^[\w.-]+==', '', text, flags=re.M), 'no address'


def test_what_reads_recordings_is_hashed_and_listed_once():
    "The extra `media` with all that it installs: in the one list or in the other."
    extra, base = plain(pins('requirements-media.txt')), plain(pins('constraints.txt'))
    text = (ROOT / 'requirements-media.txt').read_text(encoding='utf-8')
    blocks = re.split(r'^(?=[\w.-]+==)', text, flags=re.M)[1:]
    assert all(re.search(r'--hash=sha256:[0-9a-f]{64}\b', block) for block in blocks)
    wanted = re.search(r'^media_requirements = (.*)$', (ROOT / 'settings.ini').read_text(), re.M)[1]
    names = plain(dict(re.findall(r'([\w-]+)>=(\S+)', wanted)))
    assert len(names) == 4 and names.keys() <= extra.keys() | base.keys()
    assert not extra.keys() & base.keys()


def test_workflows_pin_actions_and_may_only_read():
    for path in (ROOT / '.github' / 'workflows').glob('*.yml'):
        text = path.read_text(encoding='utf-8')
        used = re.findall(r'uses: (\S+)', text)
        assert used and all(re.fullmatch(r'[\w/-]+@[0-9a-f]{40}', action) for action in used)
        assert re.findall(r'^permissions:\n((?:  .*\n)+)', text, re.M) == ['  contents: read\n']
        assert text.count('persist-credentials: false') == sum('checkout' in a for a in used)


def test_every_package_has_a_licence_in_the_docs():
    text = (ROOT / 'docs' / 'licences.md').read_text(encoding='utf-8')
    listed = dict(re.findall(r'^\| ([\w.-]+) \| (\d\S*) \| \S', text, re.M))
    assert listed == pins('constraints.txt')
