"The examples of CONTRIBUTING.md run, in their order, as somebody who follows them would run them."

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest
from test_readme import chats
from typer.testing import CliRunner

from erc.cli import app
from erc.core import package_file
from erc.data import registry
from erc.prediction import named
from erc.report import claims
from erc.report.judgements import _VERDICTS
from erc.runs import recipe_files, recipes

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w+)\n(.*?)^```', TEXT, re.M | re.S)


def write_file(block):
    "Write a block whose first line names a file; return whether it does."
    if named := re.match(r'# ([\w.]+)\n', block):
        Path(named[1]).write_text(block, encoding='utf-8')
    return bool(named)


def run_commands(block):
    "Run the commands that need no checkout; return what they print."
    lines = [line for line in block.splitlines() if line.startswith('erc ')]
    outputs = []
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.output)
        outputs.append(done.output)
    return outputs


def claims_file(rows, folder):
    "Return a copy of the claims of the house with more rows; the heads must be the same."
    own = package_file('reference/claims.csv').read_text(encoding='utf-8')
    head, _, more = rows.partition('\n')
    assert head == own.splitlines()[0]
    path = folder / 'claims.csv'
    path.write_text(f'{own.rstrip()}\n{more}', encoding='utf-8')
    return path


def execute(block, names):
    "Execute a block as a notebook does; return the value of its last line, None for a statement."
    *body, last = ast.parse(block).body
    exec(compile(ast.Module(body, []), 'CONTRIBUTING.md', 'exec'), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), 'CONTRIBUTING.md', 'eval'), names)
    exec(compile(ast.Module([last], []), 'CONTRIBUTING.md', 'exec'), names)


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    "A folder that has the chats and little else; whatever the examples register is forgotten."
    folder = tmp_path / 'corpora' / 'chats'
    folder.mkdir(parents=True)
    chats().drop(columns='turn').to_csv(folder / 'chats.csv', index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('ERC_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(registry, 'CORPORA', {**registry.CORPORA})
    monkeypatch.setattr(recipe_files, '_ADDED', {})
    monkeypatch.setitem(recipes._PROTOCOL, 'epochs', 2)
    yield tmp_path
    sys.modules.pop('pooled', None)


def test_examples_run(surroundings, monkeypatch):
    names, values, printed = {'__name__': 'contributing'}, [], []
    for language, block in BLOCKS:
        if language == 'bash':
            printed += run_commands(block)
        elif language == 'csv':
            path = claims_file(block, surroundings)
            monkeypatch.setattr(claims, 'package_file', lambda name, path=path: path)
        elif not write_file(block):
            values.append(execute(block, names))
    corpus, comparison, table, judged = [v for v in values if v is not None]
    assert corpus.name == 'chats' and len(corpus.rows('dev')) == 8
    assert isinstance(comparison, named.Comparison)
    assert '2 runs' in printed[0] and 'mine/pooled_ta:tuned@demo: weighted_f1' in printed[1]
    assert {'Pooled, text', 'Pooled, text and audio'} <= set(table.frame.line)
    assert judged.claim == 'Audio helps' and judged.verdict in _VERDICTS


def test_map_is_that_of_the_package():
    "Every package has a row in the map, and every link leads somewhere."
    rows = TEXT[TEXT.index('| package |') : TEXT.index('Beside the package')]
    packages = {p.parent.name for p in (ROOT / 'erc').glob('*/__init__.py')}
    modules = {p.stem for p in (ROOT / 'erc').glob('[a-z]*.py')}
    missing = [n for n in packages | modules if f'`erc.{n}`' not in rows]
    assert not missing, missing
    links = re.findall(r'\]\((?!http)([^)#]+)', TEXT)
    assert all((ROOT / link).exists() for link in links), links
