"The style guide, as far as it can be run."

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'nbs').glob('[0-9]*.ipynb'))


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


def number(path):
    return int(path.name[:2])


def code_cells(path):
    return [''.join(c['source']) for c in read(path)['cells'] if c['cell_type'] == 'code']


def exported(path):
    return [s for s in code_cells(path) if re.search(r'^#\|\s*export\b', s, re.M)]


def module(path):
    return next(
        (
            m[1]
            for s in code_cells(path)
            if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))
        ),
        None,
    )


def test_one_module_per_notebook():
    names = {p.stem: module(p) for p in NOTEBOOKS}
    assert names and all(m == stem.split('_', 1)[1] for stem, m in names.items() if m), names
    made = {f'{m}.py' for m in names.values() if m} | {'__init__.py', '_modidx.py'}
    assert {p.name for p in (ROOT / 'erc').glob('*.py')} | {'_modidx.py'} == made


def test_imports_point_down():
    numbers = {module(p): number(p) for p in NOTEBOOKS}
    for p in NOTEBOOKS:
        for source in exported(p):
            for dep in re.findall(r'^\s*(?:from|import)\s+erc\.(\w+)', source, re.M):
                assert numbers[dep] < number(p), f'{p.name} imports upward: {dep}'


def test_papers_do_not_import_each_other():
    decade = {module(p): number(p) // 10 for p in NOTEBOOKS if 40 <= number(p) < 90}
    for p in NOTEBOOKS:
        deps = re.findall(r'from erc\.(\w+) import', '\n'.join(exported(p)))
        assert all(decade[d] == number(p) // 10 for d in deps if d in decade), p.name


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_readable(path):
    nb = read(path)
    assert nb['metadata']['kernelspec'].get('name') and nb['metadata']['kernelspec'].get('language')
    first = ''.join(nb['cells'][0]['source'])
    assert nb['cells'][0]['cell_type'] == 'markdown' and re.match(r'# .+\n> .+', first), (
        'H1 title and a claim line first'
    )
    assert len(nb['cells']) <= 75 and path.stat().st_size <= 500_000
    for s in exported(path):
        assert s.count('\n') <= 40, (
            f'{path.name}: an exported cell of {s.count(chr(10))} lines:\n{s[:200]}'
        )
        for line in s.splitlines():
            assert not re.match(r'\s*from \S+ import \*', line), f'{path.name}: star import'
    for s in code_cells(path):
        hidden = re.search(r'^#\|\s*hide\b', s, re.M)
        assert not (hidden and re.search(r'\bassert\b|test_(eq|close)', s)), (
            f'{path.name}: a hidden check belongs in tests/'
        )
    for c in nb['cells']:
        assert c.get('execution_count') is None, f'{path.name}: run nbdev_clean'
        assert all(o['output_type'] != 'error' for o in c.get('outputs', [])), (
            f'{path.name}: a committed error'
        )


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_imports_stand_alone(path):
    "nbdev loses what shares a cell with an import."
    for s in code_cells(path):
        body = ast.parse(re.sub(r'^[%!].*$', '', s, flags=re.M)).body
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in body}
        assert len(kinds) < 2, f'{path.name}: imports share a cell with other code:\n{s[:200]}'


@pytest.mark.parametrize(
    'path', [p for p in NOTEBOOKS if 40 <= number(p) < 90], ids=lambda p: p.stem
)
def test_section_has_one_parameters_cell(path):
    tagged = [
        ''.join(c['source'])
        for c in read(path)['cells']
        if 'parameters' in c['metadata'].get('tags', [])
    ]
    assert len(tagged) == 1
    values = {n.targets[0].id: n.value.value for n in ast.parse(tagged[0]).body}
    assert (
        list(values) == ['profile', 'corpora', 'seeds', 'device', 'out']
        and values['profile'] == 'recorded'
    )
    assert any('## Reproduce' in ''.join(c['source']) for c in read(path)['cells'])


def test_exported_package_is_in_sync(tmp_path):
    "What nbdev_export makes of the notebooks now is what erc/ holds, and the notebooks are clean."
    pytest.importorskip('nbdev')
    for name in ('nbs', 'erc'):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'),
        )
    for name in ('settings.ini', 'README.md'):
        shutil.copy(ROOT / name, tmp_path)
    for tool in ('nbdev_export', 'nbdev_clean'):
        subprocess.run(
            [Path(sys.executable).parent / tool], cwd=tmp_path, check=True, capture_output=True
        )
    for f in (*ROOT.glob('erc/*.py'), *ROOT.glob('nbs/*.ipynb')):
        assert (tmp_path / f.relative_to(ROOT)).read_text() == f.read_text(), (
            f'{f.name}: run nbdev_export and nbdev_clean'
        )


def test_no_result_is_typed_in():
    "A printed number of four or more digits stands in erc/reference/ and nowhere else."
    import csv

    printed = set()
    for f in (ROOT / 'erc' / 'reference').glob('*.csv'):
        if f.stem in ('artefacts', 'corpora', 'claims'):
            continue
        for row in csv.DictReader(f.open(encoding='utf-8')):
            v = row['value'].strip()
            telling = (
                '.' in v or not (int(v) % 10 == 0 or int(v) & (int(v) - 1) == 0)
                if re.fullmatch(r'\d+(\.\d+)?', v)
                else False
            )
            if telling and len(v.replace('.', '')) >= 4:
                printed.add(v)
    assert len(printed) > 200
    pattern = re.compile(
        r'(?<![\w.])(' + '|'.join(map(re.escape, sorted(printed))) + r')(?![\w.]|\.\d)'
    )
    texts = {
        p.name: '\n'.join(''.join(c['source']) for c in read(p)['cells'])
        for p in ROOT.glob('nbs/*.ipynb')
    }
    texts |= {
        p.name: p.read_text(encoding='utf-8')
        for pat in ('*.md', 'erc/*.py', 'erc/recipes/*.toml')
        for p in ROOT.glob(pat)
    }
    found = {
        name: sorted(set(pattern.findall(t))) for name, t in texts.items() if pattern.search(t)
    }
    assert not found, found


def test_import_is_light():
    code = (
        'import sys,time; t=time.perf_counter(); import erc, erc.core; s=time.perf_counter()-t; '
        "heavy=[m for m in ('torch','nbdev','pandas','fastcore','transformers') if m in sys.modules]; assert not heavy, heavy; print(s)"
    )
    took = min(
        float(
            subprocess.run(
                [sys.executable, '-c', code], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    )
    assert took < 0.3


def test_package_needs_no_development_tool():
    "No exported module imports nbdev or fastcore."
    for p in (ROOT / 'erc').glob('*.py'):
        if p.name != '_modidx.py':
            assert not re.search(
                r'^\s*(from|import) (nbdev|fastcore|execnb)', p.read_text(), re.M
            ), p.name


def test_project_speaks_of_itself_alone():
    "No machine path and no package registry's address in anything that is tracked."
    files = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True
    ).stdout.split('\0')
    words = ['/' + 'home/', '/' + 'root/', '/' + 'work/', 'pypi' + '.org', 'site-' + 'packages/']
    for f in filter(None, files):
        p = ROOT / f
        if not p.exists() or p.suffix in ('.png', '.svg', '.json', '.csv') or p.name == 'LICENSE':
            continue
        text = p.read_text(encoding='utf-8', errors='ignore')
        assert not [w for w in words if w in text], (f, [w for w in words if w in text])
