import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from references import normalization as reference

from alexnet import response_norm, spatial_norm
from alexnet.kernels import library


def signed(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 3


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 20])
def test_matches_pytorch_for_odd_and_even_windows(size):
    x = signed(2, 7, 3, 4).requires_grad_()
    theirs = x.detach().clone().requires_grad_()
    y = response_norm(x, size, alpha=0.3, beta=0.75, k=2)
    expected = F.local_response_norm(theirs, size, alpha=0.3, beta=0.75, k=2)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(reference.response_norm(x, size, 0.3 / size, 0.75, 2.0, 1, False), expected)
    g = signed(2, 7, 3, 4).flip(0)
    y.backward(g)
    expected.backward(g)
    torch.testing.assert_close(x.grad, theirs.grad)


@pytest.mark.parametrize(("beta", "k"), [(0.75, 1.0), (0.5, 2.0), (1.0, 0.25)])
def test_alpha_times_size_gives_the_printed_formula(beta, k):
    x, alpha, n = signed(1, 6, 1, 1), 0.1, 5
    expected = x.clone()
    for i in range(6):
        energy = sum(x[0, j] ** 2 for j in range(max(0, i - n // 2), min(6 - 1, i + n // 2) + 1))
        expected[0, i] = x[0, i] / (k + alpha * energy) ** beta
    torch.testing.assert_close(response_norm(x, n, alpha * n, beta, k), expected)


def test_towers_do_not_see_each_other():
    x = signed(2, 12, 3, 3)
    halves = [F.local_response_norm(half, 5, alpha=0.3, k=2.0) for half in x.chunk(2, 1)]
    torch.testing.assert_close(response_norm(x, alpha=0.3, groups=2), torch.cat(halves, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_spatial_norm_is_its_formula(size):
    x, alpha = signed(2, 3, 6, 7), 0.5
    expected = torch.empty_like(x)
    for i in range(6):
        for j in range(7):
            rows = slice(max(0, i - size // 2), max(0, i - size // 2 + size))
            columns = slice(max(0, j - size // 2), max(0, j - size // 2 + size))
            energy = x[:, :, rows, columns].square().sum((2, 3))
            if i - size // 2 + size <= 0 or j - size // 2 + size <= 0:
                energy = 0
            expected[:, :, i, j] = x[:, :, i, j] * (1 + alpha / size**2 * energy) ** -0.75
    torch.testing.assert_close(spatial_norm(x, size, alpha), expected)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_gradients_are_those_of_finite_differences(size):
    x = signed(2, 6, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: response_norm(x, size, 0.5, 0.75, 2.0, groups=2), x)
    assert torch.autograd.gradcheck(lambda x: response_norm(x, size, 0.5, 0.6), x)
    assert torch.autograd.gradcheck(lambda x: spatial_norm(x, size, 0.5), x)


LAYOUTS = [torch.channels_last, torch.contiguous_format]
EPSILON = {torch.float32: 1e-5, torch.bfloat16: 1.03 * 2**-8}
"""Relative: of the sums, and of rounding the result to eight bits, whose roots have four digits."""


@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels last", "contiguous"])
@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("groups", "relu", "beta"), [(1, False, 0.75), (2, True, 0.75), (3, False, 0.5)])
def test_response_norm_follows_float64(each_way, layout, dtype, size, groups, relu, beta):
    """96 channels of 13 × 11, as in original; strips and rows that do not divide evenly."""
    constants = size, 0.1 / size, beta, 2.0, groups, relu
    check_against_reference("response_norm", signed(3, 96, 13, 11), layout, dtype, constants)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels last", "contiguous"])
@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize(("size", "beta"), [(1, 0.75), (2, 0.75), (3, 0.6), (4, 0.75), (5, 0.75), (9, 0.75)])
def test_spatial_norm_follows_float64(each_way, layout, dtype, size, beta):
    """41 channels, so that the last block is smaller; windows that are larger than the image."""
    check_against_reference("spatial_norm", signed(2, 41, 7, 9), layout, dtype, (size, 0.1 / size**2, beta, 1.0))


@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels last", "contiguous"])
@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("size", [3, 4, 5, 9])
def test_kernels_for_each_processor_follow_float64(each_processor, layout, dtype, size):
    """42 channels and 7 × 9 positions leave vectors of every size incomplete."""
    x = signed(2, 42, 7, 9)
    check_against_reference("response_norm", x, layout, dtype, (size, 0.1 / size, 0.75, 2.0, 2, True))
    check_against_reference("response_norm", x, layout, dtype, (size, 0.1 / size, 0.6, 2.0, 1, False))
    check_against_reference("spatial_norm", x, layout, dtype, (size, 0.1 / size**2, 0.75, 1.0))


@pytest.mark.parametrize("k", [2e-38, 1e-20, 1.0, 1e20, 1e38])
@pytest.mark.parametrize("magnitude", [1e-18, 1e-6, 1.0, 1e6, 1e17])
def test_roots_are_within_a_millionth_at_every_magnitude(each_processor, k, magnitude):
    """One channel alone, s from the smallest number to the largest, infinity included."""
    x = torch.logspace(-1.5, 1.5, 1000, dtype=torch.float64).mul(magnitude).float().view(1, 1, 10, 100)
    s = k + (x * x).double()  # the square itself is float32
    expected = (x.double() * s**-0.75).where(s <= torch.finfo(torch.float32).max, 0)
    torch.testing.assert_close(response_norm(x, 1, 1.0, 0.75, k).double(), expected, rtol=1e-6, atol=1e-38)
    torch.testing.assert_close(spatial_norm(x, 1, 1.0, 0.75, k).double(), expected, rtol=1e-6, atol=1e-38)


def test_the_processor_is_limited_as_torchs_is():
    code = "import alexnet.kernels; print(alexnet.kernels.library().processor())"
    if library() is None:
        pytest.skip("the kernels were not compiled")
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "0\n"


def check_against_reference(name, x, layout, dtype, constants):
    """Values and gradients of an operator, and those of the formula in float64; layout and type are kept."""
    narrow = x.to(dtype).contiguous(memory_format=layout).requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    y = getattr(torch.ops.alexnet, name)(narrow, *constants)
    expected = getattr(reference, name)(wide, *constants)
    g = signed(*x.shape).flip(0).to(dtype).contiguous(memory_format=layout)
    y.backward(g)
    expected.backward(g.double())
    for ours, exact in ((y, expected), (narrow.grad, wide.grad)):
        assert ours.dtype == dtype and ours.is_contiguous(memory_format=layout)
        # A gradient is a difference, so its error is relative to what is subtracted, not to what is left.
        difference = (ours.double() - exact).abs()
        assert (difference <= EPSILON[dtype] * exact.abs().clamp(min=exact.abs().mean())).all()


def test_the_number_of_threads_changes_no_bit(each_way):
    x, g = signed(4, 48, 20, 20, dtype=torch.float32), signed(4, 48, 20, 20, dtype=torch.float32).flip(1)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for norm in (response_norm, spatial_norm):
            own = x.clone().requires_grad_()
            norm(own).backward(g)
            results.append(torch.stack([norm(x), own.grad]))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[2]) and torch.equal(results[2], results[4])
    assert torch.equal(results[1], results[3]) and torch.equal(results[3], results[5])


def test_threads_without_torchs_team(monkeypatch):
    """If no OpenMP library of torch is found, the kernels start threads of their own."""
    if library() is None:
        pytest.skip("the kernels were not compiled")
    x = signed(4, 48, 20, 20, dtype=torch.float32)
    expected = response_norm(x)
    library().use_team(None)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert torch.equal(response_norm(x), expected)
    finally:
        torch.set_num_threads(before)
        library.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operators_pass_the_checks_of_torch(each_way, dtype):
    """Schema, gradient, shapes for tracing, and the same results when traced."""
    x = signed(2, 6, 4, 5, dtype=dtype).requires_grad_()
    torch.library.opcheck(torch.ops.alexnet.response_norm, (x, 5, 0.1, 0.75, 2.0, 2, True))
    torch.library.opcheck(torch.ops.alexnet.spatial_norm, (x, 5, 0.1, 0.75, 1.0))


def test_compiles_as_one_graph(each_way):
    x = signed(2, 6, 4, 5, dtype=torch.float32).requires_grad_()

    def both(x):
        return spatial_norm(response_norm(x.sin(), relu=True)).sum()

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    (ours,), (theirs,) = torch.autograd.grad(compiled(x), x), torch.autograd.grad(both(x), x)
    torch.testing.assert_close(ours, theirs)


def test_vmap_is_one_larger_batch(each_way):
    x = signed(3, 2, 6, 4, 5, dtype=torch.float32)
    for norm in (response_norm, spatial_norm):
        torch.testing.assert_close(torch.vmap(norm)(x), torch.stack([norm(part) for part in x]))


def test_autocast_leaves_the_type_alone(each_way):
    """Sums are float32 whatever x is, so that there is nothing to cast."""
    x = signed(2, 6, 4, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(response_norm(x), response_norm(x.clone())) and response_norm(x).dtype == torch.float32
        assert response_norm(x.bfloat16()).dtype == torch.bfloat16


def test_strided_and_empty_tensors(each_way):
    x = signed(2, 6, 8, 5, dtype=torch.float32)
    part = x[:, :, ::2]
    torch.testing.assert_close(response_norm(part), response_norm(part.clone()))
    torch.testing.assert_close(spatial_norm(part), spatial_norm(part.clone()))
    assert response_norm(x[:0]).shape == (0, 6, 8, 5) and spatial_norm(x[:0]).shape == (0, 6, 8, 5)


def test_settings_out_of_range_are_named():
    x = signed(1, 6, 2, 2)
    for norm in (response_norm, spatial_norm):
        with pytest.raises(ValueError, match="size must be >= 1, got 0"):
            norm(x, 0)
    with pytest.raises(ValueError, match="groups must divide the 6 channels, got 4"):
        response_norm(x, groups=4)
    for norm in (response_norm, F.local_response_norm):
        with pytest.raises(ValueError, match=r"Expected 3D or higher dimensionality\s+input \(got 2 dimensions\)"):
            norm(x[0, 0], 3)
    with pytest.raises(ValueError, match=r"x must have shape \(N, C, H, W\), got \(1, 1, 6, 2, 2\)"):
        spatial_norm(x[None])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.complex64])
def test_other_types_are_refused_in_pytorchs_words(each_way, dtype):
    x = torch.ones(1, 6, 2, 2).to(dtype)
    name = {torch.int64: "Long", torch.bool: "Bool", torch.uint8: "Byte", torch.complex64: "ComplexFloat"}[dtype]
    with pytest.raises(NotImplementedError, match=f"\"response_norm\" not implemented for '{name}'"):
        response_norm(x)
    with pytest.raises(NotImplementedError, match=f"\"spatial_norm\" not implemented for '{name}'"):
        spatial_norm(x)


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 3, 4, 2), (1, 6, 2, 2, 2, 2), (2, 6, 0, 3), (0, 6, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_number_of_dimensions_as_in_pytorch(each_way, shape, dtype):
    x = signed(*shape).to(dtype).requires_grad_()
    theirs = x.detach().double().requires_grad_()
    y, expected = response_norm(x, 3, 2.0), F.local_response_norm(theirs, 3, 2.0, 0.75, 2.0)
    y.sum().backward()
    expected.sum().backward()
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y.double(), expected, **tolerance)
    torch.testing.assert_close(x.grad.double(), theirs.grad, **tolerance)


def test_one_image_alone_is_normalized_over_positions(each_way):
    x = signed(6, 5, 4, dtype=torch.float32)
    assert torch.equal(spatial_norm(x), spatial_norm(x[None])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("k", "alpha", "beta"), [(0.0, 1.0, 0.75), (0.0, 1.0, 0.5), (-0.5, 1.0, 1.0), (2.0, -0.1, 0.75)]
)
def test_constants_of_either_sign_as_in_pytorch(each_way, k, alpha, beta, dtype):
    x = signed(2, 7, 3, 4, dtype=dtype)
    x[0, :, 0, 0] = 0  # 0 / 0 if k is 0
    expected = F.local_response_norm(x, 5, alpha, beta, k)
    torch.testing.assert_close(response_norm(x, 5, alpha, beta, k), expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("size", [13, 14, 64, 1001, 10**9])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels last", "contiguous"])
def test_a_window_larger_than_all_channels_sums_them_all(each_way, layout, size):
    x = signed(2, 7, 3, 4, dtype=torch.float32).contiguous(memory_format=layout).requires_grad_()
    expected = x / (2 + 0.5 * x.square().sum(1, keepdim=True)) ** 0.75
    y = response_norm(x, size, alpha=0.5 * size)
    torch.testing.assert_close(y, expected)
    y, expected = (torch.autograd.grad(each.square().sum(), x)[0] for each in (y, expected))
    torch.testing.assert_close(y, expected)
    expected = x / (1 + 0.5 * x.square().sum((2, 3), keepdim=True)) ** 0.75
    torch.testing.assert_close(spatial_norm(x, size, alpha=0.5 * size**2), expected)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e30])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (4, 0.75), (3, 0.5)])
def test_what_is_not_finite_stays_in_its_window_as_in_pytorch(each_way, size, beta, dtype, layout, value):
    x = signed(2, 40, 9, 9).to(dtype)
    x[0, 7, 3, 2] = value
    x = x.contiguous(memory_format=layout).requires_grad_()
    theirs = x.detach().to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    y, expected = response_norm(x, size, 0.5, beta, groups=2), []
    for tower in theirs.chunk(2, 1):
        expected.append(F.local_response_norm(tower, size, 0.5, beta, 2.0))
    expected = torch.cat(expected, 1)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y.to(expected.dtype), expected, equal_nan=True, **tolerance)
    y.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(x.grad.to(expected.dtype), theirs.grad, equal_nan=True, **tolerance)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels last", "contiguous"])
def test_infinity_stays_in_its_window_over_positions(each_way, layout):
    x = signed(2, 33, 9, 9, dtype=torch.float32).contiguous(memory_format=layout)
    y = spatial_norm(x, 3)
    x[0, 3, 4, 4] = torch.inf
    y[0, 3, 3:6, 3:6] = 0
    y[0, 3, 4, 4] = torch.nan
    torch.testing.assert_close(spatial_norm(x, 3), y, equal_nan=True)


def test_no_memory_is_an_error(each_way):
    """The buffers of a kernel cannot be allocated under a limit that the tensor itself just fits."""
    code = """if True:
        import resource, torch, alexnet
        from alexnet.kernels import library
        x = torch.zeros(1, 4_000_000, 1, 1)
        alexnet.response_norm(torch.zeros(1, 8, 1, 1))
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 40_000_000, -1))
        try:
            alexnet.response_norm(x.view(1, 4_000_000, 1, 1))
        except (MemoryError, RuntimeError) as error:
            print(type(error).__name__, error)
    """
    if sys.platform != "linux":
        pytest.skip("limits are those of Linux")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "memory" in result.stdout and not result.returncode, result
