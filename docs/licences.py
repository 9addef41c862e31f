"Print the licences of everything in constraints.txt, from what is installed: docs/licences.md."

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def licence_of(name: str) -> str:
    "Return a package's licence in a few words; '' if the package is not installed."
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return ''
    classified = [
        c.split(' :: ')[-1] for c in about.get_all('Classifier', []) if c[:9] == 'License :'
    ]
    classified = [c for c in classified if c != 'OSI Approved']
    stated = (about['License'] or '').strip().splitlines() or ['']
    short = stated[0] if len(stated[0]) < 60 else ''
    return about['License-Expression'] or '; '.join(classified) or short or 'see its files'


def table() -> str:
    "Return the list as Markdown."
    pins = re.findall(r'^([\w.-]+)==(\S+)', (ROOT / 'constraints.txt').read_text(), re.M)
    lines = [f'| {name} | {version} | {licence_of(name)} |' for name, version in pins]
    head = [
        '# Licences of what is installed',
        '',
        'As each package states it; `python docs/licences.py > docs/licences.md` writes this list.',
        '',
        '| package | version | licence |',
        '|---|---|---|',
    ]
    return '\n'.join([*head, *lines])


if __name__ == '__main__':
    print(table())
