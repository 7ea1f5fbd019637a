"""The Triton kernels against formulas in float64: on a GPU, or, where there is none, in Triton's interpreter.

The interpreter is chosen by an environment variable for a whole process, before triton is imported. So that no other
test sees it, the checks then run in a process of their own.
"""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from references import normalization as reference

from alexnet.preprocessing.crops import Crops
from alexnet.preprocessing.preprocessing import Preprocessing

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if READY := torch.cuda.is_available() or INTERPRETED:
    from alexnet.normalization import gpu as normalization
    from alexnet.preprocessing import gpu as data
    from alexnet.training import gpu as training

DEVICE = "cpu" if INTERPRETED else "cuda"
FLOATS = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Relative tolerance by dtype; of the 16-bit ones, their last bit."""
LAYOUTS = [torch.contiguous_format, torch.channels_last]
SIZES = [1, 2, 3, 4, 5, 9]

runs_kernels = pytest.mark.skipif(not READY, reason="runs within test_kernels_in_the_interpreter")


@pytest.mark.skipif(READY, reason="the kernels run in this process")
def test_kernels_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--showlocals", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@runs_kernels
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "last"])
@pytest.mark.parametrize(
    ("shape", "groups", "relu", "dtype"),
    [
        ((2, 9, 3, 5), 1, False, torch.float32),
        ((3, 20, 7, 5), 2, True, torch.float32),
        ((1, 24, 3, 1), 1, True, torch.float32),
        ((1, 24, 3, 3), 1, False, torch.bfloat16),
        ((2, 32, 1, 3), 2, True, torch.bfloat16),
        ((1, 16, 3, 3), 2, False, torch.float16),
    ],
)
def test_response_norm_and_its_gradient(shape, groups, relu, dtype, layout):
    x, g = signed(shape, dtype, layout), signed(shape, dtype, layout, seed=1)
    for size in SIZES:
        constants = (size, 0.3, 0.75, 2.0, groups, relu)
        y, dx = normalization.response_norm(x, *constants), normalization.response_norm(x, *constants, g)
        assert_same(y, dx, x, g, reference.response_norm, constants)


@runs_kernels
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "last"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 3, 11, 5), torch.float32), ((1, 8, 5, 3), torch.bfloat16), ((2, 4, 1, 3), torch.float16)],
)
def test_spatial_norm_and_its_gradient(shape, dtype, layout):
    x, g = signed(shape, dtype, layout), signed(shape, dtype, layout, seed=1)
    for size in SIZES:
        constants = (size, 0.2, 0.75, 1.0)
        y, dx = normalization.spatial_norm(x, *constants), normalization.spatial_norm(x, *constants, g)
        assert_same(y, dx, x, g, reference.spatial_norm, constants)


@runs_kernels
def test_another_power_than_the_papers():
    x, g = signed((2, 6, 3, 3)), signed((2, 6, 3, 3), seed=1)
    constants = (3, 0.3, 0.6, 2.0)
    y, dx = normalization.spatial_norm(x, *constants), normalization.spatial_norm(x, *constants, g)
    assert_same(y, dx, x, g, reference.spatial_norm, constants)
    constants += (2, False)
    y, dx = normalization.response_norm(x, *constants), normalization.response_norm(x, *constants, g)
    assert_same(y, dx, x, g, reference.response_norm, constants)


@runs_kernels
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "last"])
def test_two_runs_give_the_same_bits(layout):
    x, g = signed((2, 20, 3, 3), torch.bfloat16, layout), signed((2, 20, 3, 3), torch.bfloat16, layout, seed=1)
    response = [normalization.response_norm(x, 5, 0.3, 0.75, 2.0, 1, True, g) for _ in range(2)]
    spatial = [normalization.spatial_norm(x, 2, 0.3, 0.75, 1.0, g) for _ in range(2)]
    assert torch.equal(*response)
    assert torch.equal(*spatial)


@runs_kernels
def test_nan_propagates():
    x = signed((1, 8, 1, 2))
    x[0, 4, 0, 0] = torch.nan
    y = normalization.response_norm(x, 3, 0.3, 0.75, 2.0, 1, True)
    assert y[0, :, 0, 0].isnan().nonzero().flatten().tolist() == [3, 4, 5]
    assert y[0, :, 0, 1].isfinite().all()


@runs_kernels
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "last"])
def test_infinity_stays_in_its_window(layout):
    x, g = signed((1, 16, 3, 2), layout=layout), signed((1, 16, 3, 2), layout=layout, seed=1)
    x[0, 4, 0, 0] = torch.inf
    constants = (5, 0.3, 0.75, 2.0, 1, False)
    exact = x.clone().requires_grad_()
    expected = reference.response_norm(exact, *constants)
    expected.backward(g)
    for found, wanted in (
        (normalization.response_norm(x, *constants), expected.detach()),
        (normalization.response_norm(x, *constants, g), exact.grad),
    ):
        torch.testing.assert_close(found, wanted, equal_nan=True)
    y = normalization.spatial_norm(x, 3, 0.3, 0.75, 1.0)
    torch.testing.assert_close(y, reference.spatial_norm(x, 3, 0.3, 0.75, 1.0), equal_nan=True)


@runs_kernels
def test_mixed_layouts_are_refused():
    x = signed((2, 6, 3, 3))
    with pytest.raises(ValueError, match="channels last"):
        normalization.spatial_norm(x, 3, 0.1, 0.75, 1.0, x.to(memory_format=torch.channels_last))
    with pytest.raises(ValueError, match="contiguous"):
        normalization.response_norm(x.transpose(2, 3), 3, 0.1, 0.75, 1.0, 1, False)


@runs_kernels
@pytest.mark.parametrize("mean_follows_crop", [False, True])
@pytest.mark.parametrize("mean_side", [1, 23])
def test_crops_are_those_of_preprocessing(mean_side, mean_follows_crop):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 23, 23, 3), generator=generator, dtype=torch.uint8)
    indices, top, left = (torch.randint(5, (7,), generator=generator) for _ in range(3))
    mean = torch.rand(mean_side, mean_side, 3, generator=generator) * 255
    inputs = Preprocessing(23, 19, mean, torch.tensor([50.0, 60.0, 70.0]), mean_follows_crop)
    mean = mean if mean_follows_crop else inputs.center_crop.mean
    color = torch.randn(7, 3, generator=generator)
    for shift, dtype in itertools.product((None, color), FLOATS):
        expected = inputs.normalized_crops(images, Crops(top, left, top > left, indices), shift)
        crops = Crops(*(each.to(DEVICE) for each in (top, left, top > left, indices)))
        settings = 19, mean.to(DEVICE), inputs.std.to(DEVICE), mean_follows_crop
        settings += None if shift is None else shift.to(DEVICE), dtype
        found = data.normalized_crops(images.to(DEVICE), crops.indices, crops, *settings)
        assert (found.dtype, found.stride()) == (dtype, expected.stride())
        torch.testing.assert_close(found.float().cpu(), expected, rtol=FLOATS[dtype], atol=1e-5)


@runs_kernels
def test_the_update_is_that_of_the_formula():
    w, g, v = (signed((37, 53), seed=seed) for seed in range(3))
    exact = [each.double() for each in (w, g, v)]
    velocity = 0.9 * exact[2] - 0.01 * 0.0005 * exact[0] - 0.01 * exact[1]
    training.paper_update(w, g, v, 0.9, 0.01, 0.0005)
    torch.testing.assert_close(v.double(), velocity, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(w.double(), exact[0] + velocity, rtol=1e-6, atol=1e-6)


def signed(shape, dtype=torch.float32, layout=torch.contiguous_format, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    return x.to(DEVICE, dtype, memory_format=layout)


def assert_same(y, dx, x, g, formula, constants):
    """y and dx are the value and the gradient of a formula, taken in float64."""
    exact = x.double().requires_grad_()
    expected = formula(exact, *constants)
    expected.backward(g.double())
    for found, wanted in ((y, expected.detach()), (dx, exact.grad)):
        assert (found.dtype, found.stride()) == (x.dtype, x.stride())
        torch.testing.assert_close(found.double(), wanted, rtol=FLOATS[x.dtype], atol=1e-5)
