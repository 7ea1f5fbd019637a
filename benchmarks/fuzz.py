"""Damaged files, networks, runs and addresses, given to everything that reads them, by a seed.

    python benchmarks/fuzz.py                      # 100,000 cases; a summary, and each that is not refused properly
    python benchmarks/fuzz.py 1000 --only weights  # of one reader
    python benchmarks/fuzz.py --case weights 4711  # one again, with its traceback

A case is fine if it is read, or refused by an error that a user is shown (ValueError, OSError or ImportError), within
LIMIT_S seconds and MEMORY bytes, with nothing written outside its folder. Each reader has a process of its own with
these limits, so that a crash is seen: the case is counted, and another process goes on after it. Linux.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, features

LIMIT_S, MEMORY = 20, 4 << 30
"""Seconds of processor time for a case, and bytes of a process beyond what it has when it begins."""
SHARES = {"images": 40, "labels": 20, "lists": 4, "archives": 4, "weights": 6, "headers": 6, "runs": 8}
SHARES |= {"settings": 4, "urls": 8}
"""By reader: how many of a hundred cases."""

# Intact data: small, made here, of every kind that is read.


def picture(draw, mode="RGB", size=(24, 20)):
    image = Image.frombytes("RGB", size, draw.randbytes(size[0] * size[1] * 3)).resize(size, box=(0, 0, 6, 5))
    return image.convert(mode)


def image_of(format, mode="RGB", frames=1, seed=0, **options):
    draw, buffer = random.Random(seed), io.BytesIO()
    image = picture(draw, mode)
    if frames > 1:
        options |= {"save_all": True, "append_images": [picture(draw, mode) for _ in range(frames - 1)]}
    image.save(buffer, format, **options)
    return buffer.getvalue()


def intact_images():
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (20, 24), np.uint16))
    buffers = {suffix: io.BytesIO() for suffix in ("png", "tif", "pgm")}
    for suffix, buffer in buffers.items():
        deep.save(buffer, {"png": "PNG", "tif": "TIFF", "pgm": "PPM"}[suffix])
    compressions = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    images = [
        *(("jpg", image_of("JPEG", exif=exif)), ("jpg", image_of("JPEG", progressive=True))),
        *(("jpg", image_of("JPEG", "L")), ("jpg", image_of("JPEG", "CMYK")), ("jpg", image_of("MPO", frames=2))),
        *(("png", image_of("PNG", mode)) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *(("png", image_of("PNG", frames=3)), ("png", interlaced(random.Random(0)))),
        *((suffix, buffer.getvalue()) for suffix, buffer in buffers.items()),
        *(("gif", image_of("GIF", "P", frames)) for frames in (1, 4)),
        *(("bmp", image_of("BMP", mode)) for mode in ("RGB", "RGBA", "P", "1")),
        *(("tif", image_of("TIFF", compression=compression)) for compression in compressions),
        *(("tif", image_of("TIFF", "1", compression=fax)) for fax in ("group3", "group4")),
        *(("tif", image_of("TIFF", mode)) for mode in ("CMYK", "P", "F", "I", "LAB")),
        *(("ppm", image_of("PPM", mode)) for mode in ("RGB", "L", "1")),
        ("ppm", b"P3 2 2 255\n255 0 0  0 255 0\n0 0 255  9 9 9\n"),
    ]
    if features.check("webp"):
        images += [
            ("webp", image_of("WEBP")),
            ("webp", image_of("WEBP", lossless=True)),
            ("webp", image_of("WEBP", frames=3)),
        ]
    if features.check("jpg_2000"):
        images += [("jp2", image_of("JPEG2000")), ("j2k", image_of("JPEG2000", no_jp2=True))]
    if features.check("avif"):
        images += [("avif", image_of("AVIF"))]
    return images


def chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def interlaced(draw):
    """A PNG file of 8 × 8 in Adam7's seven passes, which Pillow reads but does not write."""
    passes = ((1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8))  # rows and columns
    rows = b"".join(b"\0" + draw.randbytes(3 * width) for height, width in passes for _ in range(height))
    header = chunk(b"IHDR", bytes((0, 0, 0, 8, 0, 0, 0, 8, 8, 2, 0, 0, 1)))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


TOKENS = [
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\r",
        b"\n",
        b"\r\n",
        b"\xe2\x80\xa8",
        b"\x0c",
        b'"',
        b"'",
    ),
    *(
        b",",
        b";",
        b"\t",
        b" ",
        b"/",
        b"\\",
        b"..",
        b"../../x.png",
        b"/etc/passwd",
        b"/dev/zero",
        b"~",
        b"#",
        b"# images of ",
    ),
    *(
        b"-1",
        b"-5",
        b"0",
        b"1.5",
        b"1e999",
        b"NaN",
        b"-Infinity",
        b"9" * 30,
        b"9" * 5000,
        b"-" + b"9" * 5000,
        b"\xd9\xa3",
    ),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b":",
        b"null",
        b"true",
        b"[" * 3000,
        b'{"a":' * 3000,
        b'"\\ud800"',
        b"\\udcff",
        b'"":',
        b'"", ',
    ),
    *(
        b"image",
        b"label",
        b"split",
        b"train",
        b"val",
        b"0.png",
        b"1",
        b"x" * 200_000,
        b"unused 3",
        b"{}",
        b"[]",
        b"[[0, 1], 2]",
    ),
]


def label_files():
    images = [f"{n}.png" for n in range(6)]
    labels = ["cat", "dog", "cat", "dog", "a cow", "a cow"]
    rows = list(zip(images, labels, ["train"] * 4 + ["val", "test"], strict=True))
    numbers = [0, 1, 0, 1, 2, 2]
    records = [dict(zip(("image", "label", "split"), row, strict=True)) for row in rows]
    table = "".join(f"{','.join(row)}\n" for row in rows)
    return {
        "labels.csv": f"image,label,split\n{table}",
        "bare.csv": table,
        "table.tsv": "filename\tclass\n" + "".join(f"{image}\t{label}\n" for image, label, _ in rows),
        "semicolons.csv": table.replace(",", ";"),
        "labels.txt": "".join(f"{image} {n}\n" for image, n in zip(images, numbers, strict=True)),
        "map.json": json.dumps(dict(zip(images, labels, strict=True)), indent=1),
        "numbers.json": json.dumps(dict(zip(images, numbers, strict=True))),
        "records.json": json.dumps(records),
        "records.jsonl": "".join(json.dumps(record) + "\n" for record in records),
        "quoted.csv": "image,label\n" + "".join(f'"{image}","{label}"\n' for image, label, _ in rows),
    }


# What damages it.


def damaged(content, draw, others=(b"",), tokens=()):
    """The content, damaged in one to three positions."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        start = draw.randrange(len(content) + 1) if draw.random() < 0.6 else draw.randrange(min(len(content), 64) + 1)
        span = draw.choice((1, 2, 4, 16, 200))
        what = draw.choice(
            ("flip", "cut", "splice", "double", "length", "zeros", "noise", "drop", *["token"] * 4)[
                : 12 if tokens else 8
            ]
        )
        if what == "flip" and content:
            content[start % len(content)] ^= 1 << draw.randrange(8)
        elif what == "cut":
            del content[start:]
        elif what == "splice":
            other = draw.choice(others)
            content[start:] = other[draw.randrange(len(other) + 1) :]
        elif what == "double":
            content[start:start] = content[start : start + span] * draw.choice((1, 1, 50))
        elif what == "length":
            number = draw.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, draw.randrange(2**32)))
            content[start : start + 4] = number.to_bytes(4, draw.choice(("big", "little")))
        elif what == "zeros":
            content[start : start + span] = bytes(span)
        elif what == "noise":
            content[start : start + span] = draw.randbytes(span)
        elif what == "drop":
            del content[start : start + span]
        elif what == "token":
            content[start : start + draw.choice((0, 0, 1, 4))] = draw.choice(tokens)
    return bytes(content)


HOSTILE = [None, 0, -1, 1, 2**31, 10**13, 1.5, 1e308, float("nan"), float("inf"), True, "", "x", "../../x"]
HOSTILE += ["\x1b[2J", "\ud800", "9" * 5000, "relu", [], [None], [[[]]], {}]
HOSTILE += [{"is": "Pool"}, {"is": "Conv"}, {"is": "no such"}, {"is": []}]


def damaged_json(value, draw):
    """A value of JSON in which one to three parts are replaced, removed or doubled."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 3))):
        parent, key = None, None
        node = value
        while isinstance(node, (dict, list)) and node and (parent is None or draw.random() < 0.7):
            parent, key = node, draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = node[key]
        if parent is None:
            return draw.choice(HOSTILE)
        what = draw.choice(("replace", "replace", "replace", "remove", "double", "deep"))
        if what == "replace":
            parent[key] = draw.choice(HOSTILE)
        elif what == "remove":
            del parent[key]
        elif what == "double" and isinstance(parent, list):
            parent[key:key] = [node] * draw.choice((1, 3, 300))
        elif what == "deep":
            for _ in range(draw.choice((1, 50, 200))):
                parent[key] = [parent[key]]
    return value


# The readers: each makes from a folder of its own a function of one damage.


def images(root: Path) -> Callable:
    from alexnet.preprocessing.images import stored_image

    contents = [content for _, content in intact_images()]
    return lambda draw: stored_image(damaged(draw.choice(contents), draw, contents), 8)


def labels(root: Path) -> Callable:
    from alexnet.data.labels.label_files import read_labels

    files = {name: text.encode() for name, text in label_files().items()}

    def read(draw):
        name = draw.choice(list(files))
        read_labels(name, damaged(files[name], draw, list(files.values()), TOKENS), lambda key: key.endswith(".png"))

    return read


def lists(root: Path) -> Callable:
    from alexnet.data.sources.detection import detect_source

    for number in range(6):
        (root / f"{number}.png").write_bytes(image_of("PNG", seed=number))
    files = {name: text.encode() for name, text in label_files().items() if name.endswith("v")}

    def read(draw):
        name = draw.choice(list(files))
        (root / name).write_bytes(damaged(files[name], draw, list(files.values()), TOKENS))
        try:
            detect_source(root / name)
        finally:
            (root / name).unlink()

    return read


def archives(root: Path) -> Callable:
    from alexnet.data.sources.detection import detect_source

    files = {f"{name}/{n}.png": image_of("PNG", seed=n) for name in ("cat", "dog") for n in range(2)}
    files |= {"labels.csv": b"image,label\ncat/1.png,cat\n"}
    intact = {"zip": zip_of(files), "tar": tar_of(files), "tar.gz": gzip.compress(tar_of(files))}

    def read(draw):
        suffix = draw.choice(list(intact))
        path = root / f"x.{suffix}"
        path.write_bytes(damaged(intact[suffix], draw, list(intact.values())))
        source = detect_source(path)
        for index in range(len(source)):
            source.open(index)

    return read


def small_bundle():
    """A network of four layers with everything that its file holds, 20 KB."""
    import torch

    from alexnet.model.bundle import ModelBundle
    from alexnet.model.network import AlexNet
    from alexnet.preprocessing.preprocessing import Preprocessing
    from alexnet.specs.architecture import Architecture
    from alexnet.specs.operations import Conv, Linear, Local, Norm

    rows = (
        Conv("conv1", 8, 3, pad=1, then=("relu", "norm", "pool")),
        Local("local2", 4, 3),
        Linear("fc3", 6, then=("relu", "dropout")),
        Linear("fc4", None),
    )
    network = AlexNet(Architecture("tiny", "For damage.", rows, 12, 14, norm=Norm()), 3).eval()
    return ModelBundle(network, Preprocessing(14, 12, torch.zeros(1, 1, 3), torch.ones(3)), ("a", "b", "c"))


def weights(root: Path) -> Callable:
    import torch
    from safetensors.torch import save

    from alexnet.interchange.exporting import export_weights
    from alexnet.interchange.importing import import_weights

    bundle = small_bundle()
    bundle.save(root / "own")
    state = {name.replace("fc3", "classifier.1"): tensor for name, tensor in bundle.network.state_dict().items()}
    (root / "foreign").write_bytes(save(state))
    torch.save({"state_dict": state, "epoch": 3}, root / "torch")
    torch.save(state, root / "legacy", _use_new_zipfile_serialization=False)
    arrays = {name: [np.zeros((3, 3, 3, 4), np.float32), np.zeros(4, np.float32)] for name in ("conv1", "conv2")}
    with open(root / "npy", "wb") as file:
        np.save(file, np.array(arrays, dtype=object), allow_pickle=True)
    for format in ("caffe", "keras"):  # as far as their packages are installed
        try:
            export_weights(_plain(), root / f"{format}.{'h5' if format == 'keras' else 'dir'}", format)
        except (ImportError, ValueError):
            continue
    files = [path for path in root.rglob("*") if path.is_file() and path.stat().st_size]
    contents = [path.read_bytes() for path in files]

    def read(draw):
        content = draw.choice(contents)
        edge = 300 if draw.random() < 0.6 else len(content)  # the header, rather than the numbers
        (root / "x").write_bytes(damaged(content[:edge], draw, contents) + content[edge:])
        import_weights(root / "x")

    return read


def _plain():
    """A network that other frameworks can express."""
    import torch

    from alexnet.model.bundle import ModelBundle
    from alexnet.model.network import AlexNet
    from alexnet.preprocessing.preprocessing import Preprocessing
    from alexnet.specs.architecture import Architecture
    from alexnet.specs.operations import Conv, Linear

    rows = Conv("conv1", 4, 3, then=("relu", "pool")), Linear("fc2", None)
    network = AlexNet(Architecture("plain", "For damage.", rows, 12, 14), 3).eval()
    return ModelBundle(network, Preprocessing(14, 12, torch.zeros(1, 1, 3), torch.ones(3)), ("a", "b", "c"))


def headers(root: Path) -> Callable:
    """The header of our own format, with the checksums that fit; what is read must predict."""
    import torch
    from safetensors.torch import save_file

    from alexnet.evaluation.inference import probabilities
    from alexnet.model import bundle as module

    bundle = small_bundle()
    tensors = {name: tensor.contiguous() for name, tensor in bundle.tensors().items()}
    sums = json.dumps({name: module._checksum(tensor) for name, tensor in tensors.items()})
    image = torch.zeros(1, 14, 14, 3, dtype=torch.uint8)

    def read(draw):
        header = {"alexnet": json.dumps(damaged_json(bundle.facts(), draw)), "notes": "{}", "sums": sums}
        save_file(tensors, root / "x", header | {"head": module._header_checksum(header)})
        loaded = module.ModelBundle.load(root / "x")
        if loaded.preprocessing.stored_size == 14:
            probabilities(loaded, image)

    return read


def runs(root: Path) -> Callable:
    from alexnet.runs.run import Run
    from alexnet.session import facts_of
    from alexnet.specs.reading import settings_of_run
    from alexnet.specs.recipes import recipe
    from alexnet.specs.storage import to_json

    bundle, none = (
        small_bundle(),
        ("labels", "label_indices", "pretrained", "pretrained_sha256", "augment", "jpeg", "log"),
    )
    record = dict.fromkeys(none) | {"data": "/nowhere", "variant": "tiny", "seed": 0, "split_seed": 0, "images": 1}
    record |= {"device": "cpu", "precision": "fp32", "micro_batch": "auto", "threads": 1, "versions": {"torch": "2"}}
    record |= {"recipe": to_json(recipe("modern")), "architecture": to_json(bundle.network.architecture)}
    record |= {"weights": "last.safetensors", "results": {}, "changed": ["x"], "checkpoint_minutes": 10.0}
    epoch = {"epoch": 1, "steps": 2, "train_loss": 1.0, "train_error": 0.5, "lr": 0.1, "elapsed_s": 1.0}
    files = {"run.json": json.dumps(record), "metrics.jsonl": json.dumps(epoch) + "\n"}
    files |= {"split.csv": "image,class,split\na.png,cat,train\n"}
    files |= {"layers.jsonl": '{"epoch": 1, "layers": {}, "data": {}}'}
    contents = {name: text.encode() for name, text in files.items()}
    bundle.save(root / "last.safetensors")

    def read(draw):
        name = draw.choice(("run.json", "run.json", *contents))
        content = damaged(contents[name], draw, list(contents.values()), TOKENS)
        if name == "run.json" and draw.random() < 0.7:
            content = json.dumps(damaged_json(record, draw)).encode()
        for each, intact in contents.items():
            (root / each).write_bytes(content if each == name else intact)
        run = Run(root)
        settings, facts = lambda: run.record() and settings_of_run(run.record()), lambda: facts_of(root)
        for part in (settings, run.weights, run.history, run.splits, facts):
            with contextlib.suppress(ValueError):
                part()

    return read


def settings(root: Path) -> Callable:
    from alexnet.specs.reading import find_recipe, read_settings

    table = {"base": "modern", "mixup": 0.2, "color_shift": {"std": 0.2}, "schedule": "cosine", "epochs": 3}
    asked = {"epochs": 5, "lr": 0.1, "milestones": [2, 3], "set": {"mixup": 0.1}, "seed": 3, "mean": [1, 2, 3]}
    toml = b'base = "modern"\nepochs = 3\ncolor_shift = {std = 0.2}\n'

    def read(draw):
        if draw.random() < 0.2:
            (root / "x.toml").write_bytes(damaged(toml, draw, [toml], TOKENS))
            return find_recipe(root / "x.toml")
        kind, fields = draw.choice(((find_recipe, table), (read_settings, asked)))
        (root / "x.json").write_text(json.dumps(damaged_json(fields, draw)))
        return kind(root / "x.json")

    return read


def urls(root: Path) -> Callable:
    from alexnet.data.storage.download import _parse_url, redact

    known = [b"https://anna:SECRET@host:80/a%20b/c.zip?token=SECRET#sha256=" + b"0" * 64, b"http://[::1]:8080/x.tar"]
    tokens = [b"[", b"]", b"@", b":", b"//", b"?", b"#", b"%", b"%zz", b"\0", b"\n", b"..", b"\xff", b"\xe2\x84\x80"]

    def read(draw):
        url = damaged(draw.choice(known), draw, known, tokens).decode("utf-8", "surrogateescape")
        redact(url)
        try:
            _parse_url(url)
        except ValueError as error:
            assert not (url.startswith("https://anna:SECRET@") and "anna:SECRET" in str(error)), str(error)

    return read


READERS = {each.__name__: each for each in (images, labels, lists, archives, weights, headers, runs, settings, urls)}


def run_cases(name: str, seed: int, first: int, last: int) -> None:
    """Run cases of a reader in this process, and print each that fails; the last line printed says how far it is."""
    with tempfile.TemporaryDirectory() as folder:
        for each in ("data", "cwd", "cache"):
            Path(folder, each).mkdir()
        os.chdir(Path(folder, "cwd"))
        os.environ["ALEXNET_CACHE"] = str(Path(folder, "cache"))
        warnings.simplefilter("ignore")
        read = READERS[name](Path(folder, "data"))
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + MEMORY,) * 2)
        for index in range(first, last):
            print(index, flush=True)
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # ends the process, also in the middle of a library
            try:
                read(random.Random(f"{seed} {name} {index}"))
            except (ValueError, OSError, ImportError) as error:
                if isinstance(error, UnicodeError):
                    print(f"{index} {error!r:.300}", flush=True)
            except BaseException as error:
                if first + 1 == last:
                    raise
                print(f"{index} {error!r:.300}", flush=True)
            if any(Path(folder, "cwd").iterdir()) or len(list(Path(folder).iterdir())) != 3:
                print(f"{index} wrote outside its folder", flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)


def fuzz(count: int, seed: int = 0, only: str | None = None) -> dict[str, list[str]]:
    """By reader: the cases that failed, and how. `count` cases in all, or of the only reader."""
    failed: dict[str, list[str]] = {}
    for name in [only] if only else READERS:
        failed[name], start = [], 0
        total = count if only else count * SHARES[name] // sum(SHARES.values())
        while start < total:
            command = [sys.executable, __file__, "--child", name, str(seed), str(start), str(total)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            lines = done.stdout.splitlines()
            failed[name] += [line for line in lines if not line.isdigit()]
            last = int(next((line for line in reversed(lines) if line.isdigit()), start))
            if done.returncode == 0:
                break
            failed[name].append(f"{last} ended its process ({done.returncode}): {done.stderr[-200:]}")
            start = last + 1
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=100_000, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=READERS, help="one reader")
    parser.add_argument("--case", nargs=2, metavar=("READER", "INDEX"), help="one case, in this process")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, *numbers = arguments.child
        return run_cases(name, *map(int, numbers))
    if arguments.case:
        name, index = arguments.case
        return run_cases(name, arguments.seed, int(index), int(index) + 1)
    failed = fuzz(arguments.count, arguments.seed, arguments.only)
    for name, cases in failed.items():
        print(f"{name}: {len(cases)} failed", *cases, sep="\n  ")
    sys.exit(any(failed.values()))


if __name__ == "__main__":
    main()
