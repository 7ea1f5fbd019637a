"""Everything that needs a GPU, in one command: tests, correctness against the CPU in float64, and speed.

    python benchmarks/gpu.py --output FOLDER [PART ...] [--small]

Each part runs in a process of its own with a time limit, so that a part that hangs or crashes costs no other. After
each part the results so far are in FOLDER/gpu.json and FOLDER/gpu.md, and its output in FOLDER/PART.log. The exit
status is 1 if a part failed. Without CUDA, nothing is run; `--device cpu` tries the command itself, with `--small` the
part for several GPUs in miniature.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import scaling
import torch
import torch.nn.functional as F
from torch import Tensor

import alexnet
from alexnet.bench.measure import HEADER, Row, Settings, median_seconds
from alexnet.bench.parts import PARTS as BENCH_PARTS
from alexnet.data.batches import Batch
from alexnet.preprocessing.augmentation import training_views
from alexnet.preprocessing.crops import Crops
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.specs.recipes import recipe
from alexnet.training.optimizer import PaperSGD

FLOAT_LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest relative error of one operation whose result has this type."""
NETWORK_LIMITS = {"fp32": (1e-4, 1e-2), "bf16": (0.03, 0.4)}
"""Largest relative errors of scores and gradients of a network, in which rounding may switch a ReLU or a maximum."""

IS_SMALL = False
"""Whether `--small` was given."""
SEVERAL = "GPUs", "batch size", "way", "images/s", "speedup", "after backward", "MB sent"
Result = dict[str, object]
"""A row of one of the tables: a check, a speed or a note."""


def check(name: str, actual: Tensor, expected: Tensor, limit: float) -> Result:
    """The error relative to the expected value, both by their Euclidean norms."""
    error = ((actual.detach().cpu().double() - expected).norm() / expected.norm()).item()
    return {"check": name, "error": error, "limit": limit, "passed": error <= limit}


def kernel_tests(device: torch.device) -> Iterator[Result]:
    """The tests of the Triton kernels."""
    tests = Path(__file__).parents[1] / "tests" / "test_gpu_kernels.py"
    code = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", str(tests)]).returncode
    yield {"check": tests.name, "error": float(code), "limit": 0.0, "passed": code == 0}


def norms(device: torch.device) -> Iterator[Result]:
    """LRN across channels and across space, with their gradients, at the sizes of `original`."""
    functions = {
        "response_norm": (lambda x: alexnet.response_norm(x, groups=2), (5, 1e-4 / 5, 0.75, 2.0, 2, False)),
        "spatial_norm": (alexnet.spatial_norm, (5, 1e-3 / 25, 0.75, 1.0)),
    }
    for (name, (function, constants)), dtype in ((f, d) for f in functions.items() for d in FLOAT_LIMITS):
        for layout in (torch.contiguous_format, torch.channels_last):
            x, g = (torch.randn(8, 96, 55, 55).mul_(30).to(dtype) for _ in range(2))
            exact = x.double().requires_grad_()
            expected = getattr(torch.ops.alexnet, name)(exact, *constants)  # in plain PyTorch, as exact is float64
            expected.backward(g.double())
            given = x.to(device, memory_format=layout).requires_grad_()
            y = function(given)
            y.backward(g.to(device, memory_format=layout))
            what = f"{name}, {dtype}, {layout}"
            yield check(what, y, expected.detach(), FLOAT_LIMITS[dtype])
            yield check(f"gradient of {what}", given.grad, exact.grad, FLOAT_LIMITS[dtype])


def crops(device: torch.device) -> Iterator[Result]:
    """Crop, flip, mean, color and std of 128 images of 256 pixels."""
    images, color = torch.randint(256, (128, 256, 256, 3), dtype=torch.uint8), torch.randn(128, 3) * 20
    top, left = torch.randint(33, (2, 128))
    flipped, std = torch.rand(128) < 0.5, torch.tensor([50.0, 60.0, 70.0])
    for name, mean, follows in (
        ("mean color", torch.rand(1, 1, 3) * 255, False),
        ("mean image", torch.rand(256, 256, 3) * 255, False),
        ("mean image that follows the crop", torch.rand(256, 256, 3) * 255, True),
    ):
        expected = torch.empty(128, 3, 224, 224, dtype=torch.float64)
        for i, (image, y, x) in enumerate(zip(images.double(), top.tolist(), left.tolist(), strict=True)):
            window = slice(y, y + 224), slice(x, x + 224)
            crop = image[window] - mean[window] if follows else image[window]
            crop = crop.flip(1) if flipped[i] else crop
            crop = crop if follows else crop - (mean if len(mean) == 1 else mean[16:240, 16:240])
            expected[i] = ((crop + color[i]) / std).permute(2, 0, 1)
        preprocessing = Preprocessing(256, 224, mean, std, follows).to(device)
        given = Crops(top.to(device), left.to(device), flipped.to(device))
        for dtype, limit in FLOAT_LIMITS.items():
            actual = preprocessing.normalized_crops(images.to(device), given, color.to(device), dtype=dtype)
            yield check(f"crops, {name}, {dtype}", actual, expected, limit)


def optimizer(device: torch.device) -> Iterator[Result]:
    """Ten updates by the paper's rule, against its formula."""
    shapes = {"fc.weight": (4096, 1000), "conv.weight": (256, 48, 5, 5), "fc.bias": (1000,)}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    moved = {name: w.to(device).requires_grad_() for name, w in weights.items()}
    sgd = PaperSGD([{"params": [w], "name": name, "lr": 0.01, "weight_decay": 0.0005} for name, w in moved.items()])
    exact = {name: w.double() for name, w in weights.items()}
    velocity = {name: torch.zeros_like(w) for name, w in exact.items()}
    for _ in range(10):
        for name, w in exact.items():
            g = torch.randn(w.shape)
            moved[name].grad = g.to(device)
            velocity[name] = 0.9 * velocity[name] - 0.0005 * 0.01 * w - 0.01 * g.double()
            exact[name] = w + velocity[name]
        sgd.step()
    for name, w in moved.items():
        yield check(f"{name} after ten updates", w, exact[name], 1e-6)


def networks(device: torch.device) -> Iterator[Result]:
    """Scores and gradients of every variant, without dropout."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32, as on the CPU
    for name in alexnet.variants():
        network = alexnet.create(name, 10).eval()
        x, labels = torch.randn(2, 3, network.input_size, network.input_size) * 60, torch.tensor([3, 7])
        exact = alexnet.create(name, 10).eval().double()
        expected = exact(x.double())
        F.cross_entropy(expected, labels).backward()
        expected_gradient = torch.cat([p.grad.flatten() for p in exact.parameters()])
        network.to(device)
        for precision, (scores_limit, gradient_limit) in NETWORK_LIMITS.items():
            network.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                scores = network(x.to(device)).float()
            F.cross_entropy(scores, labels.to(device)).backward()
            gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
            yield check(f"scores of {name}, {precision}", scores, expected.detach(), scores_limit)
            yield check(f"gradient of {name}, {precision}", gradient, expected_gradient, gradient_limit)


def training(device: torch.device) -> Iterator[Result]:
    """Five epochs of `cifar-11` on the bundled drawings: the loss must fall, also with CUDA graphs."""
    for precision, graph in (("fp32", "0"), ("bf16", "0"), ("fp32", "1")):
        os.environ["ALEXNET_CUDA_GRAPH"] = graph
        history = alexnet.Classifier("cifar-11", str(device), precision).fit("emoji", epochs=5, verbose=False)
        first, last = history["train_loss"][0], history["train_loss"][-1]
        name = f"loss of epoch 5 / epoch 1, {precision}{', CUDA graph' * int(graph)}"
        yield {"check": name, "error": last / first, "limit": 0.9, "passed": last / first <= 0.9}


def speed(device: torch.device, parts: tuple[str, ...] = ("machine", "norm", "step", "inference")) -> Iterator[Result]:
    """`alexnet bench`, in fp32 and bf16."""
    for precision in ("fp32", "bf16"):
        settings = Settings(device, precision)
        for row in (row for part in parts for row in BENCH_PARTS[part](settings)):
            is_row = isinstance(row, Row)
            yield {"precision": precision} | (dict(zip(HEADER, row.cells(), strict=True)) if is_row else {"note": row})


def crop_speed(device: torch.device) -> Iterator[Result]:
    """Training views of `original` from images in the device's memory."""
    settings, chosen = Settings(device, "bf16"), replace(recipe("original"), color_shift=None)
    images = torch.randint(256, (1024, 256, 256, 3), dtype=torch.uint8, device=device)
    batch = Batch(images, torch.zeros(1024), np.arange(1024), 0)
    preprocessing = Preprocessing(256, 224, torch.full((1, 1, 3), 120.0), torch.ones(3)).to(device)
    work = partial(training_views, batch, chosen, preprocessing, None, 0, 0, dtype=settings.dtype)
    yield {"precision": "bf16", "note": f"training views: {1024 / median_seconds(work, 10):,.0f} images/s"}


def several(device: torch.device) -> Iterator[Result]:
    """Steps of `original` on 1, 2, 4 and 8 GPUs: a whole batch of 1,024, and 1,024 for each, in all ways."""
    if device.type == "cuda":
        counts = [count for count in (1, 2, 4, 8) if count <= torch.cuda.device_count()]
        case = scaling.Case("original", 1024, device="cuda", precision="bf16", seconds=5)
    else:
        counts, case = [1, 2], scaling.Case("small-towers" if IS_SMALL else "original", 16, seconds=0.2)
    single = 0.0
    for count in counts:
        divided = replace(case, processes=count)
        cases = [divided, replace(divided, batch_size=count * case.batch_size)] if count > 1 else [divided]
        cases += [replace(divided, way="towers")] * (count == 2) + [replace(divided, way="hybrid")] * (count > 1)
        for each in cases:
            measured = scaling.measured(each, 120)
            single = single or measured.images_per_s
            yield {
                "GPUs": count,
                "batch size": each.batch_size,
                "way": each.way,
                "images/s": f"{measured.images_per_s:,.0f}",
                "speedup": f"{measured.images_per_s / single:.2f}",
                "after backward": f"{measured.after_backward:.1%}",
                "MB sent": f"{measured.megabytes:,.1f}",
            }


PARTS: dict[str, tuple[Callable[[torch.device], Iterator[Result]], int]] = {
    "kernel-tests": (kernel_tests, 300),
    "norms": (norms, 120),
    "crops": (crops, 120),
    "optimizer": (optimizer, 120),
    "networks": (networks, 600),
    "training": (training, 300),
    "speed": (speed, 900),
    "crop-speed": (crop_speed, 120),
    "several": (several, 400),
}
"""Each part and its time limit, seconds."""


def run_part(part: str, device: torch.device, folder: Path) -> None:
    """Run a part in this process, writing its results after each row, so that those before a crash are kept."""
    torch.manual_seed(0)
    results = []
    for result in PARTS[part][0](device):
        print(result, flush=True)
        results.append(result)
        (folder / f"{part}.json").write_text(json.dumps(results), encoding="utf-8")


def run_in_process(part: str, device: str, folder: Path) -> dict[str, object]:
    """Run a part in a process of its own, which is killed with its children when the time is up."""
    results = folder / f"{part}.json"
    results.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--run", part, "--device", device, "--output", str(folder)]
    command += ["--small"] * IS_SMALL
    started = time.monotonic()
    with (folder / f"{part}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = "finished" if process.wait(PARTS[part][1]) == 0 else f"failed, see {part}.log"
        except subprocess.TimeoutExpired:
            status = f"did not finish within {PARTS[part][1]} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    rows = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    if status == "finished" and not all(row.get("passed", True) for row in rows):
        status = "failed"
    return {"part": part, "status": status, "seconds": round(time.monotonic() - started, 1), "results": rows}


def describe(device: str) -> dict[str, str]:
    """The device and the versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or device
    versions = {"torch": torch.__version__, "CUDA": str(torch.version.cuda), "Python": platform.python_version()}
    with contextlib.suppress(ImportError):
        import triton

        versions["Triton"] = triton.__version__
    return {"device": name} | versions


def markdown(about: dict[str, str], parts: list[dict]) -> str:
    """All results as tables."""
    rows = [row for part in parts for row in part["results"]]
    checks = [row | {"error": f"{row['error']:.2g}"} for row in rows if "check" in row]
    tables = [
        table(parts, ("part", "status", "seconds")),
        table(checks, ("check", "error", "limit", "passed")),
        table([row for row in rows if HEADER[0] in row], ("precision", *HEADER)),
        table([row for row in rows if "GPUs" in row], SEVERAL),
    ]
    notes = [f"- {row['precision']}: {row['note']}" for row in rows if "note" in row]
    title = ", ".join([about["device"], *(f"{name} {about[name]}" for name in list(about)[1:])])
    return "\n\n".join([title, *filter(None, tables), "\n".join(notes)]) + "\n"


def table(rows: list[dict], columns: tuple[str, ...]) -> str:
    cells = [columns, ("---",) * len(columns), *([str(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) if rows else ""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="less of what takes long")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    global IS_SMALL
    IS_SMALL = given.small
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"parts must be among {', '.join(PARTS)}, got {unknown[0]!r}")
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device on this machine")
        return
    given.output.mkdir(parents=True, exist_ok=True)
    if given.run:
        return run_part(given.run, torch.device(given.device), given.output)
    about, parts = describe(given.device), []
    for part in given.parts or PARTS:
        parts.append(run_in_process(part, given.device, given.output))
        print(f"{part}: {parts[-1]['status']} ({parts[-1]['seconds']} s)", flush=True)
        (given.output / "gpu.json").write_text(json.dumps(about | {"parts": parts}, indent=1), encoding="utf-8")
        (given.output / "gpu.md").write_text(markdown(about, parts), encoding="utf-8")
    if any(part["status"] != "finished" for part in parts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
