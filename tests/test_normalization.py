import pytest
import torch
import torch.nn.functional as F

from alexnet import response_norm, spatial_norm


def signed(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 3


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 20])
def test_matches_pytorch_for_odd_and_even_windows(size):
    x = signed(2, 7, 3, 4).requires_grad_()
    theirs = x.detach().clone().requires_grad_()
    y = response_norm(x, size, alpha=0.3, beta=0.75, k=2)
    expected = F.local_response_norm(theirs, size, alpha=0.3, beta=0.75, k=2)
    torch.testing.assert_close(y, expected)
    g = signed(2, 7, 3, 4).flip(0)
    y.backward(g)
    expected.backward(g)
    torch.testing.assert_close(x.grad, theirs.grad)


@pytest.mark.parametrize(("beta", "k"), [(0.75, 1.0), (0.5, 2.0), (1.0, 0.25)])
def test_the_printed_formula_is_had_by_alpha_times_size(beta, k):
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


def test_memory_order_changes_nothing_and_is_kept():
    x = signed(2, 8, 5, 5, dtype=torch.float32)
    last = x.to(memory_format=torch.channels_last)
    for norm in (response_norm, spatial_norm):
        torch.testing.assert_close(norm(last), norm(x), rtol=1e-6, atol=1e-6)
        assert norm(last).is_contiguous(memory_format=torch.channels_last)


def test_half_precision_sums_in_single():
    x = signed(2, 96, 4, 4, dtype=torch.float32).bfloat16()
    expected = response_norm(x.double(), alpha=10).bfloat16()
    torch.testing.assert_close(response_norm(x, alpha=10), expected, rtol=2**-7, atol=0)


def test_settings_out_of_range_are_named():
    x = signed(1, 6, 2, 2)
    with pytest.raises(ValueError, match="size is 0"):
        response_norm(x, 0)
    with pytest.raises(ValueError, match="groups is 4; it may be a divisor of the 6 channels"):
        response_norm(x, groups=4)
    with pytest.raises(ValueError, match=r"shape \(6, 2, 2\); it may be \(N, C, H, W\)"):
        response_norm(x[0])
    with pytest.raises(ValueError, match="size is 0"):
        spatial_norm(x, 0)
