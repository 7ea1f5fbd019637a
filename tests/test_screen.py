"""What commands print fits 80 columns, also where there is no terminal."""

import contextlib

import pytest
from conftest import write_colors
from PIL import Image

from alexnet.cli import COMMANDS, main
from alexnet.specs.recipes import RECIPES
from alexnet.specs.variants import VARIANTS

TRAIN = "train colors --variant cifar-18 --epochs 2 --batch-size 16"
PRINTED = {
    "check": "check colors",
    "pack": "pack colors --size 32",
    "train": f"{TRAIN} --freeze conv1 --lr 1e-9 --output other",
    "evaluate": "evaluate run",
    "evaluate in int8": "evaluate run --fc-precision int8",
    "evaluate an ensemble": "evaluate run run --average --weights search",
    "predict": "predict run colors/red",
    "describe": "describe",
    "describe recipes": "describe --recipes",
    "doctor": "doctor run",
    "show": "show network run",
    "export": "export run --format safetensors",
    "import": "import run/last.safetensors --output imported",
    "find-lr": "find-lr colors --variant cifar-18 --batch-size 16 --steps 10",
    "bench": "bench norm --rounds 1",
    "features": "features run colors --output features",
    "search": "search run --compare --among colors",
    "patches": "patches run colors --layer conv1 --units 0",
    "explain": "explain run colors/red/00.png --by occlusion",
    "shift": "shift run colors --images 4",
    "compare": "compare run run --data colors --images 20",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen")
    write_colors(folder / "colors", 20)
    Image.new("RGB", (40, 40)).save(folder / "colors" / "red" / "the same as another.png")
    Image.new("RGB", (40, 40)).save(folder / "colors" / "blue" / "the same as another.png")
    (folder / "colors" / "red" / "cut short.png").write_bytes(b"\x89PNG\r\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        main([*TRAIN.split(), "--output", "run"])
    return folder


def test_every_command_is_here():
    assert {command.split()[0] for command in PRINTED.values()} == set(COMMANDS)


@pytest.mark.parametrize("name", PRINTED)
def test_lines_fit_80_columns(folder, name, monkeypatch, capsys):
    if name == "explain":
        pytest.importorskip("captum")
    monkeypatch.setenv("ALEXNET_CACHE", "cache")
    monkeypatch.chdir(folder)
    with contextlib.suppress(SystemExit):  # check and doctor end so where they find something
        main(PRINTED[name].split())
    printed = capsys.readouterr()
    assert printed.out, printed.err
    assert too_long(printed.out) == []


def test_descriptions_fit_80_columns(capsys):
    for variant in VARIANTS:
        main(["describe", variant])
    for recipe in RECIPES:
        main(["describe", "--recipe", recipe])
    assert too_long(capsys.readouterr().out) == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert too_long(capsys.readouterr().out) == []


def too_long(printed):
    return [line for line in printed.splitlines() if len(line.rstrip()) > 80]
