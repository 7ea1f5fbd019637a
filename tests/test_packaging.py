"""The distributions are complete: a wheel is built from the unpacked sdist, imports, and passes tests of the sdist."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import alexnet
from alexnet.cli import main

ROOT = Path(__file__).parent.parent
PARTS = ("src", "tests", "docs", "benchmarks", "tools")
FILES = ("README.md", "CHANGELOG.md", "LICENSE", "MANIFEST.in", "pyproject.toml", "setup.py")
MADE = shutil.ignore_patterns("*.egg-info", "*.so", "*.pyd", "__pycache__")
OTHERS = (".py", ".md", ".c", ".h", ".png", ".txt", ".webp", ".csv", ".json", ".typed")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, output: Path) -> Path:
    """Build as pip does, in a process of its own, with the setuptools that is installed here."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(output)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return output / result.stdout.splitlines()[-1]


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in OTHERS}


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the checkout")
def test_the_sdist_builds_a_wheel_that_passes_its_tests(tmp_path):
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77")
    checkout = tmp_path / "checkout"
    for name in PARTS:
        shutil.copytree(ROOT / name, checkout / name, ignore=MADE)
    for name in FILES:
        shutil.copy(ROOT / name, checkout)
    sdist = build("sdist", checkout, tmp_path)
    with tarfile.open(sdist) as file:
        filtered = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python before 3.11.4 lacks it
        file.extractall(tmp_path / "sdist", **filtered)
    (unpacked,) = (tmp_path / "sdist").iterdir()
    assert unpacked.name == f"alexnet-{alexnet.__version__}"
    for folder in ("src/alexnet", *PARTS[1:]):
        assert files_below(unpacked / folder) == files_below(checkout / folder), folder
    assert {path.name for path in unpacked.iterdir()} >= set(FILES)

    site = tmp_path / "site"
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path)) as file:
        file.extractall(site)
    sources = {name for name in files_below(checkout / "src/alexnet") if not name.endswith((".c", ".h"))}
    assert files_below(site / "alexnet") >= sources
    if shutil.which("cc") or shutil.which("gcc"):
        assert list((site / "alexnet").glob("_kernels*")), "the kernels in C were not compiled"
    program = "import alexnet, sys; print(alexnet.__file__, flush=True); alexnet.create('cifar-18'); "
    program += "import pytest; sys.exit(pytest.main(['-n', '0', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    command = [sys.executable, "-c", program, "tests/test_specs.py", "tests/test_imports.py"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(command, env=environment, cwd=unpacked, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith(f"{site / 'alexnet' / '__init__.py'}\n")


def test_the_version_is_that_of_the_package(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"alexnet {alexnet.__version__}\n"
    command = [sys.executable, "-m", "alexnet", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"alexnet {alexnet.__version__}\n"


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the checkout")
def test_every_extra_stands_in_the_readme():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in project["optional-dependencies"] if f"'alexnet[{name}]'" not in readme]
    assert missing == ["clients", "test"]
