"The front door has types: a user's script passes mypy, and a wrong one does not."

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mypy')
ROOT = Path(__file__).resolve().parents[1]


def check(*files):
    return subprocess.run(
        [sys.executable, '-m', 'mypy', '--config-file', ROOT / 'mypy.ini', *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_front_door_and_a_users_script_have_types():
    done = check()
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_type_is_found(tmp_path):
    wrong = shutil.copy(ROOT / 'tests' / 'typed_script.py', tmp_path)
    with open(wrong, 'a', encoding='utf-8') as file:
        file.write("\nn: int = erc.papers()\nerc.load_corpora('demo')\n")
    out = check(wrong).stdout
    assert 'Incompatible types' in out and '"load_corpora"' in out, out


def test_package_says_that_it_has_types():
    assert (ROOT / 'erc' / 'py.typed').exists()
