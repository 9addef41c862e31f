"Build the book: notebooks as they were committed, and the API, as a static site without a network."

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from sphinx.cmd.build import main as sphinx

import erc

ROOT = Path(__file__).resolve().parents[1]
SHELF = {  # first digit of a notebook -> heading
    '0': 'Data',
    '1': 'Evidence',
    '2': 'Blocks and baselines',
    '3': 'Training, runs, report',
    '4': 'Shapes of Emotions',
    '5': 'DialogueTRM',
    '6': 'MultiEMO',
    '7': 'SA-GRU',
    '8': 'MM-SPCL',
    '9': 'All of it, and how to use it',
}
PACKAGES = {
    'data': 'Corpora, features, batches',
    'evidence': 'Metrics, intervals, power, verdicts',
    'nn': 'Blocks that models share',
    'models': 'Models and baselines',
    'training': 'Settings, engine, fitting, search',
    'runs': 'Keys, recipes, records, runs',
    'report': 'Artefacts, tables, figures, claims',
    'studies': 'What belongs to one paper',
    'media': 'Recordings to features',
    'prediction': 'Trained models, predictions, comparisons',
}


def write(path: Path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def title(text: str) -> str:
    return f'{text}\n{"=" * len(text)}\n\n'


PAGES = ('README', 'CONTRIBUTING', 'CHANGELOG')


def page_link(match) -> str:
    "Keep a link into the book or to another site; leave only the text of any other."
    text, target = match.groups()
    page = target.removesuffix('.md') in PAGES or target.startswith('nbs/')
    return match[0] if page or target.startswith(('http', '#')) else text


def add_pages(source: Path):
    "Copy README, CONTRIBUTING and CHANGELOG, whose pictures stay behind, and the licences."
    for name in PAGES:
        text = (ROOT / f'{name}.md').read_text(encoding='utf-8')
        text = re.sub(r'!\[[^\]]*\]\([^)]*\)\n', '', text)
        write(source / f'{name}.md', re.sub(r'\[([^\]]+)\]\(([^)]+)\)', page_link, text))
    write(source / 'licences.md', (ROOT / 'docs' / 'licences.md').read_text(encoding='utf-8'))


def add_notebooks(source: Path) -> list[Path]:
    "Copy the notebooks; return them."
    notebooks = sorted((ROOT / 'nbs').glob('*.ipynb'))
    for path in notebooks:
        write(source / 'nbs' / path.name, json.dumps(without_directives(path)))
    return notebooks


def without_directives(path: Path) -> dict:
    "Return a notebook without nbdev's `#|` lines, and without the cells that hold nothing else."
    notebook = json.loads(path.read_text(encoding='utf-8'))
    cells = []
    for cell in notebook['cells']:
        text = re.sub(r'^#\|.*\n?', '', ''.join(cell['source']), flags=re.M)
        if cell['cell_type'] == 'markdown' or text.strip():
            cells.append({**cell, 'source': text})
    return {**notebook, 'cells': cells}


def add_shelf(source: Path, notebooks: list[Path]):
    "Append a table of contents for each hundred to the index."
    index = (ROOT / 'docs' / 'index.md').read_text(encoding='utf-8')
    for digit, heading in SHELF.items():
        names = '\n'.join(f'nbs/{p.stem}' for p in notebooks if p.stem[0] == digit)
        index += f'\n```{{toctree}}\n:caption: {heading}\n:maxdepth: 1\n\n{names}\n```\n'
    write(source / 'index.md', index)


def add_api(source: Path):
    "Write a page for the front door and one for each package."
    write(source / 'api' / 'front_door.rst', front_door())
    write(source / 'api' / 'top.rst', title('erc: core') + module('core'))
    for package, heading in PACKAGES.items():
        names = sorted(p.stem for p in (ROOT / 'erc' / package).glob('[a-z]*.py'))
        body = ''.join(module(f'{package}.{name}') for name in names)
        write(source / 'api' / f'{package}.rst', title(f'erc.{package}: {heading}') + body)
    pages = '\n'.join(f'   {name}' for name in ('front_door', 'top', *PACKAGES))
    toctree = f'.. toctree::\n   :maxdepth: 1\n\n{pages}\n'
    write(source / 'api' / 'index.rst', title('API reference') + toctree)


def front_door() -> str:
    text = title('import erc')
    for name in dir(erc):
        kind = 'class' if name[0].isupper() else 'function'
        text += f'.. auto{kind}:: erc.{name}\n   :no-index:\n'
        text += '   :members:\n\n' if kind == 'class' else '\n'
    return text


def module(name: str) -> str:
    heading = f'erc.{name}'
    return f'{heading}\n{"-" * len(heading)}\n\n.. automodule:: erc.{name}\n   :members:\n\n'


def link_outputs(folder: Path):
    "Let links to notebooks in what cells gave, which Sphinx leaves alone, lead to their pages."

    def page(match) -> str:
        return f'href="{match[1]}.html"' if (folder / f'{match[1]}.html').exists() else match[0]

    for path in folder.glob('*.html'):
        write(path, re.sub(r'href="([\w-]+)\.ipynb"', page, path.read_text(encoding='utf-8')))


def build(out: Path) -> int:
    "Assemble the sources beside the site and run Sphinx; return its exit code."
    source = out.with_name(f'{out.name}_source')
    for folder in (source, out):
        shutil.rmtree(folder, ignore_errors=True)
    add_pages(source)
    add_shelf(source, add_notebooks(source))
    add_api(source)
    cores = min(4, os.cpu_count() or 1)
    options = ['-q', '-j', str(cores), '-c', str(ROOT / 'docs'), '-d', str(source / '.doctrees')]
    code = sphinx(['-b', 'html', *options, str(source), str(out)])
    link_outputs(out / 'nbs')
    return code


if __name__ == '__main__':
    start, out = time.time(), Path(sys.argv[1] if len(sys.argv) > 1 else '_build/book').resolve()
    code = build(out)
    print(f'{out / "index.html"}: {time.time() - start:.0f} s')
    sys.exit(code)
