"""Files of others that call our operators are loaded after `import alexnet`, before torch or after it."""

import subprocess
import sys

import pytest
import torch

from alexnet import response_norm

IMPORTS = ["import alexnet, torch", "import torch, alexnet", "from alexnet import optim"]


class Normalizing(torch.nn.Module):
    def forward(self, x):
        return torch.ops.alexnet.response_norm(x, 5, 2e-5, 0.75, 2.0, 1, False)


def test_files_that_call_an_operator_load_in_either_order_of_imports(tmp_path):
    x = torch.arange(6.0).view(1, 6, 1, 1)
    exported, traced = str(tmp_path / "exported.pt2"), str(tmp_path / "traced.pt")
    torch.export.save(torch.export.export(Normalizing(), (x,)), exported)
    torch.jit.trace(Normalizing(), x).save(traced)
    for imports in IMPORTS:
        loaded = f"torch.export.load({exported!r}).module()(x), torch.jit.load({traced!r})(x)"
        setup = f"{imports}; import torch; x = torch.arange(6.).view(1, 6, 1, 1)"
        code = f"{setup}; print(*(y.sum().item() for y in ({loaded})))"
        result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
        found = [float(each) for each in result.stdout.split()]
        assert found == pytest.approx([response_norm(x).sum().item()] * 2), result.stderr


def test_torch_is_not_imported_early():
    code = "import sys, alexnet, importlib.util; importlib.util.find_spec('torch'); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
