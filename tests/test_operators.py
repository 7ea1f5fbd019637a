"""Files of others that call our operators are loaded after `import alexnet`, before torch or after it."""

import subprocess
import sys

import pytest
import torch

import alexnet
from alexnet import response_norm


class Normalizing(torch.nn.Module):
    def forward(self, x):
        return torch.ops.alexnet.response_norm(x, 5, 2e-5, 0.75, 2.0, 1, False)


LOAD = {
    "export": "torch.export.load(path).module()",
    "jit": "torch.jit.load(path)",
}


@pytest.mark.parametrize(
    "imports", ["import alexnet, torch", "import torch, alexnet", "from alexnet import load, optim"]
)
@pytest.mark.parametrize("kind", LOAD)
def test_a_file_that_calls_an_operator_loads(tmp_path, kind, imports):
    x = torch.arange(6.0).view(1, 6, 1, 1)
    path = str(tmp_path / "file.pt2")
    if kind == "export":
        torch.export.save(torch.export.export(Normalizing(), (x,)), path)
    else:
        torch.jit.trace(Normalizing(), x).save(path)
    code = (
        f"{imports}; import torch; path = {path!r}; print({LOAD[kind]}(torch.arange(6.).view(1, 6, 1, 1)).sum().item())"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert float(result.stdout or "nan") == pytest.approx(response_norm(x).sum().item()), result.stderr


def test_torch_is_not_imported_early():
    code = "import sys, alexnet, importlib.util as util; util.find_spec('torch'); alexnet.variants(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "alexnet.normalization" in sys.modules and alexnet.variants()
