"""What lies on which process, against numbers computed by hand, and the modules that are made of it."""

from dataclasses import replace

import pytest

from alexnet.cli import main
from alexnet.parallel.description import traffic
from alexnet.parallel.placement import placement_of
from alexnet.specs.operations import Local, Norm
from alexnet.specs.variants import VARIANTS

TOWERS = ("original", "paper", "conv6", "caffe", "caffenet", "batch-norm", "no-conv3", "small-towers")


def sent(name, way="towers", processes=2):
    placement = placement_of(VARIANTS[name], way, processes)
    return {each.reader: each.sent(processes) for each in placement.exchanges}


def test_the_towers_of_2012_exchange_before_four_layers():
    values = sent("original")
    assert values.pop("scores") == 500  # for the loss; in 2012, the scores were on the first GPU alone
    assert values == {"conv3": 13 * 13 * 128, "fc6": 6 * 6 * 128, "fc7": 2048, "fc8": 2048}
    assert sum(values.values()) == 30_336
    placement = placement_of(VARIANTS["original"], "towers", 2)
    assert placement.exchanged_bytes(placement.exchanges[:-1]) == 2 * 4 * 30_336 == 242_688
    assert placement.step_bytes(128) == 128 * (242_688 + 4 * 500)
    assert 2 * placement.parameters(0) == 60_965_224 and placement.replicated == 0


def test_the_sixth_convolution_reads_both_towers():
    assert sent("conv6").keys() == {"conv3", "conv6", "fc6", "fc7", "fc8", "scores"}
    assert sent("no-conv3").keys() == {"fc6", "fc7", "fc8", "scores"}


def test_towers_are_described(capsys, tmp_path):
    main(["describe", "original", "--towers", "--output", str(tmp_path / "towers.svg")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "conv3 128 feature maps of 13 × 13 21,632 86,528 86,528" in printed
    assert "30,336 values an image each way, 242,688 bytes forward and backward" in printed
    assert "128 31.3 243.9 0.13" in printed and "997 images (1,005 without the scores)" in printed
    assert (tmp_path / "towers.svg").stat().st_size > 10_000


@pytest.mark.parametrize(("name", "first", "second"), [("caffe", 55, 27), ("paper", 55, 27), ("caffenet", 27, 13)])
def test_norms_over_both_towers_need_two_channels_of_the_other(name, first, second):
    values = sent(name)
    assert (values["norm1"], values["norm2"]) == (2 * first**2, 2 * second**2)


def test_windows_of_even_size_reach_further_down_than_up():
    """c − size // 2 ≤ j < c − size // 2 + size: a window of 4 reads two channels below its own and one above."""
    network = replace(VARIANTS["caffe"], norm=Norm(size=4))
    exchange = next(each for each in placement_of(network, "towers", 2).exchanges if each.reader == "norm1")
    assert exchange.parts == (2, 1)


@pytest.mark.parametrize(
    ("processes", "batch", "hybrid", "data"),
    [(8, 1024, 145.65, 427.7), (2, 128, 19.05, 244.4), (8, 128, 33.3, 427.7), (64, 8192, 1174.7, 481.2)],
)
def test_the_hybrid_of_2014_sends_fewer_bytes_for_small_batches(processes, batch, hybrid, data):
    """Convolutions by a ring, features of conv5, units of fc6 and fc7, scores: megabytes, computed by hand."""
    for way, expected in (("hybrid", hybrid), ("data", data)):
        placement = placement_of(VARIANTS["one-tower"], way, processes)
        assert placement.step_bytes(batch) / 1e6 == pytest.approx(expected, abs=0.06)


def test_the_hybrid_breaks_even_at_the_same_batch_for_any_number_of_processes():
    for processes in (2, 4, 8, 64):
        placement = placement_of(VARIANTS["one-tower"], "hybrid", processes)
        assert placement.breaks_even_at() == pytest.approx(3274.02, abs=0.01)


def test_who_chooses_a_way_is_told_what_it_sends():
    hybrid, data = (placement_of(VARIANTS["one-tower"], way, 8) for way in ("hybrid", "data"))
    expected = "each process sends 145.7 MB a step; data parallel would send 427.7 MB, and less from a batch size of"
    assert traffic(hybrid, data, 1024) == f"{expected} 3,274 on"


@pytest.mark.parametrize("processes", [1, 2, 512])
def test_data_parallel_sums_four_bytes_a_parameter(processes):
    placement = placement_of(VARIANTS["original"], "data", processes)
    assert placement.exchanges == [] and placement.replicated == 60_965_224
    assert placement.step_bytes(128) == 243_860_896 * 2 * (processes - 1) / processes


@pytest.mark.parametrize("way", ["towers", "hybrid"])
@pytest.mark.parametrize("name", TOWERS)
def test_parts_make_up_the_network(name, way):
    """Parameters, cost and outputs of the parts add up to those of the whole."""
    for processes in (2,) if way == "towers" else (2, 3):
        placement = placement_of(VARIANTS[name], way, processes, num_classes=13)
        for division in placement.divisions:
            locals_ = [division.local(rank) for rank in range(processes)]
            if division.divided == "images":
                assert all(local == division.step for local in locals_)
                continue
            assert sum(local.parameters for local in locals_) == division.step.parameters
            assert sum(local.multiply_adds for local in locals_) == division.step.multiply_adds
            assert sum(local.output_shape[0] for local in locals_) == division.step.output_shape[0]
            for local in locals_:
                assert local.operation.output_shape(local.input_shape) == local.output_shape


def test_units_and_classes_need_not_divide():
    placement = placement_of(VARIANTS["small"], "hybrid", 3, num_classes=2)
    fc6, fc8 = (next(each for each in placement.divisions if each.step.name == name) for name in ("fc6", "fc8"))
    assert fc6.gives == (171, 171, 170) and fc6.tensors == dict.fromkeys(("weight", "bias"), (0, (171, 171, 170)))
    assert fc8.gives == (1, 1, 0) and fc8.local(2) is None and fc8.tensors["bias"] == (0, (1, 1, 0))
    assert [placement.parameters(rank) for rank in range(3)][2] < placement.parameters(1) == placement.parameters(0)


def test_unshared_convolutions_are_divided_along_their_last_dimension():
    local = Local("local5", 32, kernel=3, pad=1)
    network = VARIANTS["small-towers"].without("conv5").insert_after("conv4", local)
    division = next(each for each in placement_of(network, "towers", 2).divisions if each.step.name == "local5")
    assert division.tensors == {"weight": (2, (16, 16)), "bias": (1, (16, 16))} and division.exchange.kind == "channels"


@pytest.mark.parametrize("name", ["half", "one-tower", "torchvision", "zfnet", "small", "cifar-11"])
def test_towers_are_refused_where_there_are_none(name):
    with pytest.raises(ValueError, match=rf"^the network must have two towers, .* original, .*; got {name}$"):
        placement_of(VARIANTS[name], "towers", 2)


def test_towers_are_two():
    with pytest.raises(ValueError, match=r"^processes must be 2 for towers, one for each, got 3$"):
        placement_of(VARIANTS["original"], "towers", 3)
    odd = VARIANTS["original"].with_layers(conv4={"groups": 3})
    with pytest.raises(ValueError, match=r"^original: groups of conv4 must be 1 or a multiple of 2, got 3$"):
        placement_of(odd, "towers", 2)
