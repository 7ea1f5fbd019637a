"""Type checkers accept what users write, refuse what is wrong, and know every public name."""

import ast
import importlib.util
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

import alexnet
from alexnet.specs.overrides import Overrides

SOURCE = Path(alexnet.__file__)
RIGHT = Path(__file__).parent / "typed_use.py"
WRONG = """
import alexnet

alexnet.Classifier().fit("photos", epoch=5)
alexnet.Classifier().fit("photos", epochs="5")
alexnet.classify("cat.jpg")
rank: int = alexnet.load("saved").predict_n("cat.jpg")[0][0]
"""
CHECKERS = {
    "mypy": ["--strict", "--follow-imports=silent", "--cache-dir", os.devnull, "--python-executable", sys.executable],
    "pyright": ["--pythonpath", sys.executable],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_accept_right_use_and_refuse_wrong_use(checker, tmp_path):
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", checker, *CHECKERS[checker], str(RIGHT), str(tmp_path / "wrong.py")]
    folder = SOURCE.parent.parent
    environment = os.environ | ({} if folder.name == "site-packages" else {"MYPYPATH": str(folder)})
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    if checker == "pyright" and "informations" not in result.stdout:
        pytest.skip("pyright needs node.js, and has none")
    errors = [line for line in result.stdout.splitlines() if "error:" in line or " - error" in line]
    assert [line for line in errors if "wrong.py" not in line] == [], result.stdout + result.stderr
    lines = sorted({int(line.split("wrong.py:")[1].split(":")[0]) for line in errors})
    assert lines == [4, 5, 6, 7], result.stdout + result.stderr


def test_type_checkers_are_told_every_public_name():
    """The names that are loaded on first use, and the same under `if TYPE_CHECKING`."""
    told = {
        alias.asname: node.module
        for statement in ast.parse(SOURCE.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
        for node in statement.body
        for alias in node.names
        if alias.name == alias.asname
    }
    assert told == alexnet._MODULES
    assert all(hasattr(alexnet, name) for name in alexnet.__all__)
    assert (SOURCE.parent / "py.typed").exists()


def test_the_keywords_of_fit_are_the_settings():
    hints = get_type_hints(alexnet.TrainSettings)
    expected = {field.name: hints[field.name] for field in fields(alexnet.TrainSettings)}
    assert get_type_hints(Overrides) == expected, "run python tools/write_settings_doc.py"
