"""The Python of the README, run as it stands."""

import re
from pathlib import Path

import pytest
from conftest import write_colors
from PIL import Image

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.skipif(not README.exists(), reason="needs the checkout")
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    write_colors(tmp_path / "photos", 20)
    Image.new("RGB", (80, 60), "red").save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(block, {})
    assert (tmp_path / "curves.png").exists() and (tmp_path / "pets" / "model.safetensors").exists()
