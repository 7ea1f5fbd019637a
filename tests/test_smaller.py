import json

import pytest
import torch
from conftest import write_colors
from torch import nn

import alexnet
from alexnet.cli import main
from alexnet.model.quantization import FewRowsLinear, InferenceCopies, Int8Linear


def test_integers_are_multiplied_exactly():
    """Against sums in float64 of the values that the integers stand for, rounded by hand."""
    torch.manual_seed(0)
    linear, x = nn.Linear(300, 40), torch.randn(20, 300)
    exact = {}
    for name, rows in (("weight", linear.weight.detach()), ("x", x)):
        step = rows.abs().max(1).values.double()[:, None] / 127
        exact[name] = (rows.double() / step).round() * step
    expected = exact["x"] @ exact["weight"].T + linear.bias.detach().double()
    torch.testing.assert_close(Int8Linear(linear)(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(Int8Linear(linear)(torch.zeros(2, 300)), linear.bias.detach().expand(2, -1))


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
@pytest.mark.parametrize(("inputs", "outputs"), [(300, 41), (31, 3), (64, 8)])
def test_products_of_few_rows_follow_float64(each_processor, rows, inputs, outputs):
    """Numbers of weights that leave vectors and tiles incomplete."""
    torch.manual_seed(0)
    network, x = (
        nn.Sequential(nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)),
        torch.randn(rows, inputs),
    )
    for linear, copied in zip(network, InferenceCopies().copy_of(network, torch.bfloat16), strict=True):
        assert isinstance(copied, FewRowsLinear)
        bias = 0 if linear.bias is None else linear.bias.detach().bfloat16().double()
        expected = x.bfloat16().double() @ linear.weight.detach().bfloat16().double().T + bias
        with torch.inference_mode():
            y = copied(x.bfloat16())
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.double(), expected, rtol=2**-8 + 1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 4, 8, 9])
@pytest.mark.parametrize(("inputs", "outputs"), [(9216, 5), (31, 3), (64, 8)])
def test_integers_of_few_rows_are_summed_exactly(each_processor, rows, inputs, outputs):
    """The largest sums of fc6, of values of one sign, are beyond the integers of float32."""
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(inputs * outputs).view(outputs, inputs) % 128 / 127)
        linear.weight[:, 0] = 1
        x = (torch.arange(rows * inputs).view(rows, inputs) % 120 + 8) / 127
        x[:, -1] = 1
        y = Int8Linear(linear)(x)
    sums = (x * 127).round().double() @ (linear.weight * 127).round().double().T
    torch.testing.assert_close(y.double(), sums / 127**2 + linear.bias.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("fc_precision", "least", "most"), [("bf16", 1e-4, 0.01), ("int8", 1e-3, 0.05)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_scores_hardly_change_and_do_change(fc_precision, least, most, precision):
    network = alexnet.create("small", num_classes=5).eval()
    x = torch.randn(4, 3, 56, 56)
    smaller = InferenceCopies().copy_of(network, precision, fc_precision)
    with torch.inference_mode():
        scores = network(x)
        change = (smaller(x.to(precision)).float() - scores).norm() / scores.norm()
    assert least < change < most


def test_evaluate_says_what_smaller_weights_change(tmp_path, capsys):
    data = write_colors(tmp_path / "colors", 20)
    classifier = alexnet.Classifier("small", precision="fp32")
    classifier.fit(data, epochs=2, batch_size=8, lr=0.02, verbose=False)
    saved = str(classifier.save(tmp_path / "saved"))
    command = ["evaluate", saved, str(data), "--precision", "fp32", "--fc_precision", "int8"]
    main(command)
    printed = capsys.readouterr().out
    assert "change with fully connected layers in int8, all views " in " ".join(printed.split())
    main([*command, "--json"])
    result = json.loads(capsys.readouterr().out)
    main([*command[:-2], "--json"])
    exact = json.loads(capsys.readouterr().out)
    assert result["fc_precision"] == "int8" and result["same"]["all_views"] == exact["all_views"]
    assert 0 < abs(result["all_views"]["loss"] - exact["all_views"]["loss"]) < 0.05
    with pytest.raises(ValueError, match="fc_precision must be one of same, bf16, int8, got 'int4'"):
        alexnet.load(saved, fc_precision="int4")
