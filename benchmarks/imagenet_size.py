"""Memory and time to list, pack and read a data set of ImageNet's size.

The images are simulated: 1,281,167 of ImageNet's names, each with one of a few small JPEGs as content. Each part runs
in a process of its own, so that its peak memory is its own. Prints a Markdown table.

    python benchmarks/imagenet_size.py [--images 1281167] [--side 8] [--folder FOLDER] [PART ...]

Everything is written to a temporary folder in FOLDER and removed at the end: 1.4 million files, an archive of 2 GB, and
a pack of 0.25 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.data.pack.packing import make_pack
from alexnet.data.pack.reading import Pack, open_pack
from alexnet.data.pack.workers import run_task
from alexnet.data.source import TRAIN, VAL, Source
from alexnet.data.sources.detection import detect_source
from alexnet.data.storage.string_table import StringTable
from alexnet.device import processors

IMAGES, CLASSES, CONTENTS = 1_281_167, 1000, 8
"""Images and classes of ILSVRC2012's train split; distinct contents."""


def names(count: int) -> Iterator[str]:
    """Names like ImageNet's, n01440764/n01440764_10026.JPEG."""
    for index in range(count):
        wnid = f"n{1440764 + index * CLASSES // count:08}"
        yield f"{wnid}/{wnid}_{index % 100_000}.JPEG"


def jpegs() -> list[bytes]:
    contents = []
    for seed in range(CONTENTS):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    return contents


class RepeatingReader:
    """Reads the same few images again and again."""

    def __init__(self):
        self.contents = jpegs()

    def open(self, location: int) -> Image.Image:
        return Image.open(io.BytesIO(self.contents[location % CONTENTS]))

    def read_bytes(self, location: int) -> bytes:
        return self.contents[location % CONTENTS]


class EmptyTask:
    """A task for worker processes that leaves only the cost of sending images to them and back."""

    def run(self, index: int, location: int) -> int:
        return index


def simulated(count: int) -> Source:
    from imagenet_size import RepeatingReader  # under this name, worker processes can import it

    splits = np.full(count, TRAIN, np.uint8)
    splits[::100] = VAL
    return Source(
        name="simulated",
        layout="simulated",
        classes=tuple(f"n{label:08}" for label in range(CLASSES)),
        names=StringTable.from_strings(names(count)),
        labels=np.arange(count) * CLASSES // count,
        splits=splits,
        reader=RepeatingReader(),
        locate=lambda index: index,
        files_fingerprint="",
    )


def detect(folder: Path, count: int, side: int, name: str) -> None:
    detect_source(folder / name)


def send_to_workers(folder: Path, count: int, side: int) -> None:
    from imagenet_size import EmptyTask

    for _ in run_task(EmptyTask(), ((index, index) for index in range(count)), count, processors()):
        pass


def packed(folder: Path) -> Pack:
    return open_pack(next((folder / "packs").glob("*.safetensors")))


def order(folder: Path, count: int, side: int, shuffle: str) -> np.ndarray:
    from alexnet.data.batches import epoch_order

    return epoch_order(packed(folder).indices("train"), 0, 0, shuffle)


def read_epoch(folder: Path, count: int, side: int, shuffle: str) -> None:
    from alexnet.data.batches import read_batches

    for _ in read_batches(packed(folder), order(folder, count, side, shuffle), 128):
        pass


def write_tree(folder: Path, count: int) -> None:
    """A folder with a folder of empty files per class, and its list."""
    (folder / "tree").mkdir()
    wnid = ""
    with (folder / "tree.csv").open("w") as rows:
        for name in names(count):
            if wnid != (wnid := name.partition("/")[0]):
                (folder / "tree" / wnid).mkdir()
            os.close(os.open(folder / "tree" / name, os.O_CREAT | os.O_WRONLY))
            rows.write(f"tree/{name},{wnid}\n")


def write_archive(folder: Path, count: int) -> None:
    """An archive like ILSVRC2012_img_train.tar, with a tar file for each class."""
    contents, members_by_class = jpegs(), {}
    for index, name in enumerate(names(count)):
        wnid, _, file = name.partition("/")
        members_by_class.setdefault(wnid, []).append((index, file))
    with tarfile.open(folder / "images.tar", "w", format=tarfile.GNU_FORMAT) as outer:
        for wnid, members in members_by_class.items():
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as inner:
                for index, file in members:
                    add(inner, file, contents[index % CONTENTS])
                    inner.members.clear()
            add(outer, f"{wnid}.tar", buffer.getvalue())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


PARTS = {
    "the simulated source": lambda folder, count, side: simulated(count),
    "listing a folder": partial(detect, name="tree"),
    "listing by a CSV file": partial(detect, name="tree.csv"),
    "listing a tar file of tar files": partial(detect, name="images.tar"),
    "the same, listed before": partial(detect, name="images.tar"),
    "sending images to processes and back": send_to_workers,
    "packing": lambda folder, count, side: make_pack(simulated(count), side, folder),
    "opening the pack, indices of train": lambda folder, count, side: packed(folder).indices("train"),
    "order of an epoch": partial(order, shuffle="epoch"),
    "order of an epoch, by blocks": partial(order, shuffle="blocks"),
    "reading an epoch": partial(read_epoch, shuffle="epoch"),
    "reading an epoch by blocks": partial(read_epoch, shuffle="blocks"),
}
WRITE_BEFORE = {"listing a folder": write_tree, "listing a tar file of tar files": write_archive}
"""What is written before a part."""
HEADER = "part", "seconds", "seconds per million", "memory besides imports", "bytes per image", "memory of a worker"
IMPORTS, TORCH_IMPORTS = "imports", "imports with torch"
"""Parts that only import; their memory is subtracted from that of the others."""


def measure_in_process(part: str, folder: Path, count: int, side: int) -> dict:
    """Seconds and peak memory of a part in a process of its own, and of the processes that it started, bytes."""
    command = [sys.executable, __file__, "--folder", str(folder), "--images", str(count), "--side", str(side)]
    environment = os.environ | {"ALEXNET_CACHE": str(folder / "cache"), "PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run([*command, "--measure", part], stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(result.stdout)


def measure(part: str, folder: Path, count: int, side: int) -> None:
    if part == TORCH_IMPORTS or "epoch" in part:
        import alexnet.data.batches  # noqa: F401
    worker_peaks = [0]
    threading.Thread(target=watch_workers, args=(worker_peaks,), daemon=True).start()
    started = time.perf_counter()
    result = PARTS[part](folder, count, side) if part in PARTS else None  # noqa: F841 (freed after measuring)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "memory": peak_memory("self"), "worker": max(worker_peaks)}))


def peak_memory(process: str) -> int:
    """Peak memory of a process, bytes. getrusage may report its parent's."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 if "VmHWM:" in status else 0


def watch_workers(peaks: list[int]) -> None:
    while True:
        for children in Path("/proc/self/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a process has just ended
                peaks += [peak_memory(process) for process in children.read_text().split()]
        peaks[:] = [max(peaks)]
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="words in the names of parts (default: all parts)")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    count, side = arguments.images, arguments.side
    if arguments.measure:
        return measure(arguments.measure, arguments.folder, count, side)
    folder, millions = Path(tempfile.mkdtemp(dir=arguments.folder)), count / 1e6
    try:
        base = {part: measure_in_process(part, folder, count, side)["memory"] for part in (IMPORTS, TORCH_IMPORTS)}
        print(f"{count:,} images; {', '.join(f'{part}: {size / 1e6:.0f} MB' for part, size in base.items())}\n")
        print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
        for part in PARTS:
            if arguments.parts and not any(word in part for word in arguments.parts):
                continue
            if part in WRITE_BEFORE:
                WRITE_BEFORE[part](folder, count)
            result = measure_in_process(part, folder, count, side)
            seconds, memory = result["seconds"], result["memory"] - base[TORCH_IMPORTS if "epoch" in part else IMPORTS]
            worker = f"{result['worker'] / 1e6:.0f} MB" if result["worker"] else ""
            cells = f"{seconds:.1f}", f"{seconds / millions:.1f}", f"{memory / 1e6:.0f} MB", f"{memory / count:.0f}"
            print(f"| {part} | {' | '.join(cells)} | {worker} |", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
