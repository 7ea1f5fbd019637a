"""README and docs: their Python runs, their commands and links exist, and what is generated is up to date."""

import re
import runpy
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from conftest import write_colors
from PIL import Image

import alexnet
from alexnet.cli import COMMANDS, main
from alexnet.interchange.exporting import FORMATS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "alexnet"
README, SETTINGS = ROOT / "README.md", ROOT / "docs" / "settings.md"
PAGES = [README, *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks" / "RESULTS.md", ROOT / "CHANGELOG.md"]
COMMAND = re.compile(r"(?:^ {4}|`|&& |\| )alexnet (\w[\w-]*)([^`|#\n]*)", re.MULTILINE)
FLAG = re.compile(r"--[a-z][a-z0-9-]*")
pytestmark = pytest.mark.skipif(not README.exists(), reason="needs the checkout")


@pytest.mark.filterwarnings("error:.* is now called")
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    write_colors(tmp_path / "photos", 20)
    Image.new("RGB", (80, 60), "red").save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(block, names)
    evaluation = names["classifier"].evaluate("photos", "test", verbose=False)
    assert len(evaluation.indices) == 6 and evaluation.all_views.top1 == 1, "three colors are easily told apart"
    assert (tmp_path / "curves.png").exists() and (tmp_path / "pets" / "model.safetensors").exists()


def test_the_table_of_settings_is_up_to_date():
    page = runpy.run_path(str(ROOT / "tools" / "write_settings_doc.py"))["page"]
    assert SETTINGS.read_text(encoding="utf-8") == page(), "run python tools/write_settings_doc.py"


def test_every_flag_in_the_docs_exists(capsys):
    used: dict[str, set[str]] = {}
    alone: set[str] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command, arguments in COMMAND.findall(text):
            used.setdefault(command, set()).update(FLAG.findall(arguments))
        if page.name not in ("CHANGELOG.md", "compare.md"):  # which have old flags, and those of other tools
            alone |= {flag for span in re.findall(r"`(--[^`]+)`", text) for flag in FLAG.findall(span)}
    known: dict[str, set[str]] = {}
    for command in used:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known[command] = set(FLAG.findall(capsys.readouterr().out))
    assert set(used) == set(COMMANDS)
    assert {(command, flag) for command, flags in used.items() for flag in flags - known[command]} == set()
    assert alone - set().union(*known.values()) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_in_the_docs_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings], target


def test_every_path_in_the_map_for_contributors_exists():
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    for path in re.findall(r"`([\w/.]+(?:/|\.py))`", text):
        assert any((root / path).exists() for root in (ROOT, PACKAGE)), path


def test_every_network_and_recipe_stands_in_the_docs():
    networks, training = (path.read_text(encoding="utf-8") for path in (README, ROOT / "docs" / "training.md"))
    assert [name for name in alexnet.variants() if f"`{name}`" not in networks] == []
    names = [name.removeprefix("cifar") if name.startswith("cifar-") else name for name in alexnet.recipes()]
    assert [name for name in names if not re.search(rf"`(cifar)?{name}`", training)] == []


def test_the_command_exports_every_format():
    annotation = get_type_hints(COMMANDS["export"])["format"]
    assert set(get_args(annotation)) == set(FORMATS)
