"""The norms, alone and within networks, under everything with which PyTorch takes derivatives."""

import pytest
import torch
import torch.nn.functional as F
from references import normalization as reference
from torch import func
from torch.autograd import forward_ad

import alexnet
from alexnet import response_norm, spatial_norm


def signed(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ours(x):
    return response_norm(x, 5, alpha=2.0, k=1.0)


def theirs(x):
    return F.local_response_norm(x, 5, alpha=2.0, k=1.0)


DERIVATIVES = {
    "jvp": lambda f, x, t: func.jvp(f, (x,), (t,))[1],
    "linearize": lambda f, x, t: func.linearize(f, x)[1](t),
    "jacfwd": lambda f, x, t: func.jacfwd(f)(x),
    "jacrev": lambda f, x, t: func.jacrev(f)(x),
    "grad": lambda f, x, t: func.grad(lambda x: cubes(f(x)))(x),
    "vjp": lambda f, x, t: func.vjp(f, x)[1](t)[0],
    "vmap of grad": lambda f, x, t: torch.vmap(func.grad(lambda x: cubes(f(x[None]))))(x),
    "vmap of jvp": lambda f, x, t: torch.vmap(lambda x, t: func.jvp(lambda x: f(x[None]), (x,), (t,))[1])(x, t),
    "hessian": lambda f, x, t: func.hessian(lambda x: cubes(f(x)))(x),
    "jacrev of jacfwd": lambda f, x, t: func.jacrev(func.jacfwd(lambda x: cubes(f(x))))(x),
    "jacfwd of jacfwd": lambda f, x, t: func.jacfwd(func.jacfwd(lambda x: cubes(f(x))))(x),
    "jacrev of jacrev": lambda f, x, t: func.jacrev(func.jacrev(lambda x: cubes(f(x))))(x),
    "third derivative": lambda f, x, t: func.jvp(func.grad(lambda x: cubes(func.grad(cubes_of(f))(x))), (x,), (t,))[1],
    "Hessian-vector product": lambda f, x, t: torch.autograd.functional.hvp(lambda x: cubes(f(x)), x, t)[1],
    "gradient penalty": lambda f, x, t: penalty(f, x),
    "forward_ad": lambda f, x, t: dual(f, x, t),
}


def cubes(y):
    return (y**3).sum()


def cubes_of(f):
    return lambda x: cubes(f(x))


def penalty(f, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cubes(f(x)), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), x)[0]


def dual(f, x, t):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, t))).tangent


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_those_of_pytorchs_norm(each_way, name, dtype):
    x, t = signed(2, 6, 2, 3, dtype=dtype), signed(2, 6, 2, 3, dtype=dtype, seed=1)
    found, expected = DERIVATIVES[name](ours, x, t), DERIVATIVES[name](theirs, x, t)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4 if dtype == torch.float32 else 1e-7, atol=1e-5)


FORMS = {
    "response": lambda x: response_norm(x, 3, alpha=2.0, k=1.0),
    "response, even": lambda x: response_norm(x, 4, alpha=2.0, beta=0.6, k=1.0),
    "response, larger than all": lambda x: response_norm(x, 10**9, alpha=2e9, k=1.0),
    "response of towers after ReLU": lambda x: response_norm(x, 3, alpha=2.0, groups=2, relu=True),
    "spatial": lambda x: spatial_norm(x, 3, alpha=2.0),
    "spatial, even": lambda x: spatial_norm(x, 2, alpha=2.0, beta=0.6),
}


@pytest.mark.parametrize("name", FORMS)
def test_gradcheck_of_first_and_second_derivatives_in_every_mode(name):
    x = signed(2, 4, 3, 2).requires_grad_()
    batched = {"check_batched_grad": True}
    assert torch.autograd.gradcheck(FORMS[name], x, check_forward_ad=True, check_batched_forward_grad=True, **batched)
    assert torch.autograd.gradgradcheck(FORMS[name], x, check_fwd_over_rev=True, check_rev_over_rev=True, **batched)


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "strided", "expanded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMS)
def test_other_types_and_layouts_follow_float64(each_way, name, dtype, layout):
    def arranged(x):
        x = x.to(dtype)
        if layout == "channels last":
            return x.contiguous(memory_format=torch.channels_last)
        if layout == "strided":
            return x.repeat_interleave(2, 3)[..., ::2]
        return x[:1].expand(3, -1, -1, -1) if layout == "expanded" else x

    x, t = arranged(signed(3, 8, 4, 6)), arranged(signed(3, 8, 4, 6, seed=1))
    for derivative in ("vjp", "jvp", "grad", "gradient penalty"):
        found, expected = (DERIVATIVES[derivative](FORMS[name], x.to(to), t.to(to)) for to in (dtype, torch.float64))
        assert found.dtype == dtype
        # Second derivatives of few bits are differences of rounded values.
        tolerance = torch.finfo(dtype).eps * expected.abs().max() * 20
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["jvp", "grad", "hessian", "gradient penalty"])
@pytest.mark.parametrize(("operator", "towers"), [("response_norm", (2, True)), ("spatial_norm", ())])
def test_operators_called_directly_have_the_same_derivatives(each_way, operator, towers, name, dtype):
    """As a loaded `torch.export` or TorchScript file calls them."""
    x, t, g = (signed(2, 6, 2, 3, dtype=dtype, seed=seed) for seed in range(3))
    constants = 3, 0.5, 0.75, 1.0, *towers

    def formula(x):
        return getattr(reference, operator)(x, *constants)

    found = DERIVATIVES[name](lambda x: getattr(torch.ops.alexnet, operator)(x, *constants), x, t)
    torch.testing.assert_close(found, DERIVATIVES[name](formula, x, t), rtol=1e-4, atol=1e-5)
    backward = getattr(torch.ops.alexnet, f"{operator}_backward")
    found = func.jvp(lambda g, x: backward(g, x, *constants), (g, x), (t, t))[1]
    expected = func.jvp(lambda g, x: func.vjp(formula, x)[1](g)[0], (g, x), (t, t))[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
def test_derivatives_within_compiled_functions(each_way, relu):
    x, t = signed(2, 6, 2, 3, dtype=torch.float32), signed(2, 6, 2, 3, dtype=torch.float32, seed=1)

    def tangent(x, t):
        return func.jvp(lambda x: spatial_norm(response_norm(x, alpha=2.0, relu=relu)), (x,), (t,))[1]

    def gradient(x, t):
        return func.grad(lambda x: (spatial_norm(response_norm(x, alpha=2.0, relu=relu)) * t).sum())(x)

    for each in (tangent, gradient):
        compiled = torch.compile(each, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, t), each(x, t))
        assert each(x, t).abs().max() > 0.1


@pytest.fixture(scope="module")
def network():
    network = alexnet.create("cifar-18").double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, 1.5 / weight[0].numel() ** 0.5 if weight.dim() > 1 else 0.2, generator=generator)
    return network


@pytest.mark.parametrize("name", ["original", "paper", "cifar-18", "cifar-keras"])
def test_the_tangent_of_a_network_is_a_difference_quotient(name):
    network = alexnet.create(name, 10).double().eval()
    side = network.architecture.input_size
    x, t = signed(1, 3, side, side) * 60, signed(1, 3, side, side, seed=1)
    step = 1e-7
    with torch.no_grad():
        quotient = (network(x + step * t) - network(x - step * t)) / (2 * step)
    tangent = func.jvp(network, (x,), (t,))[1]
    torch.testing.assert_close(tangent, quotient, rtol=1e-4, atol=1e-4 * quotient.abs().max().item())


def test_the_hessian_of_a_network_is_a_difference_quotient(each_way, network):
    """v · H v of conv2 of cifar-18, a norm behind it and one before."""
    x, labels = signed(4, 3, 32, 32) * 60, torch.arange(4)
    weight = network.conv2.weight
    v = signed(*weight.shape, seed=2)

    def gradient(create_graph=False):
        loss = F.cross_entropy(network(x), labels)
        return torch.autograd.grad(loss, weight, create_graph=create_graph)[0]

    found = (torch.autograd.grad((gradient(create_graph=True) * v).sum(), weight)[0] * v).sum()
    step, slopes = 1e-9, []
    for sign in (1, -1):
        weight.data += sign * step * v
        slopes.append((gradient() * v).sum())
        weight.data -= sign * step * v
    torch.testing.assert_close(found, (slopes[0] - slopes[1]) / (2 * step), rtol=1e-3, atol=1e-3)


def test_gradients_of_a_network_for_each_image(network):
    x, labels = signed(3, 3, 32, 32) * 60, torch.tensor([0, 1, 2])
    weights = dict(network.named_parameters())

    def loss(weights, x, label):
        return F.cross_entropy(func.functional_call(network, weights, (x[None],)), label[None])

    found = torch.vmap(func.grad(loss), (None, 0, 0))(weights, x, labels)
    for i in range(3):
        expected = torch.autograd.grad(loss(weights, x[i], labels[i]), list(weights.values()))
        for name, gradient in zip(weights, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient)
