"""What a data set of ImageNet's size takes: memory and seconds of listing, packing and reading, and the disk.

The images are simulated: 1,281,167 of ImageNet's names, whose content is one of a few small JPEGs. Each part runs in a
process of its own, so that the most memory that it took is its own. Prints a Markdown table.

    python benchmarks/imagenet_size.py [--images 1281167] [--side 8] [--folder FOLDER] [PART ...]

FOLDER is where all is written and removed again: 1.4 million files, then an archive of 2 GB, then a pack of 0.25 GB.
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
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.data.pack.packing import make_pack
from alexnet.data.pack.reading import open_pack
from alexnet.data.pack.workers import run_task
from alexnet.data.source import TRAIN, VAL, Source
from alexnet.data.sources.detection import detect_source
from alexnet.data.storage.string_table import StringTable
from alexnet.device import processors

IMAGES, CLASSES, KINDS = 1_281_167, 1000, 8
"""Of ILSVRC2012's train part; and different contents."""


def names(count: int):
    """ImageNet's: n01440764/n01440764_10026.JPEG."""
    for number in range(count):
        word = f"n{1440764 + number * CLASSES // count:08}"
        yield f"{word}/{word}_{number % 100_000}.JPEG"


def jpegs() -> list[bytes]:
    made = []
    for number in range(KINDS):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "JPEG")
        made.append(buffer.getvalue())
    return made


class Repeated:
    """Reads the same few images again and again."""

    def __init__(self):
        self.contents = jpegs()

    def open(self, location: int) -> Image.Image:
        return Image.open(io.BytesIO(self.contents[location % KINDS]))

    def read_bytes(self, location: int) -> bytes:
        return self.contents[location % KINDS]


class Nothing:
    """A task that leaves all but handing images to processes and back."""

    def run(self, index: int, location: int) -> int:
        return index


def simulated(count: int) -> Source:
    from imagenet_size import Repeated  # by this name the processes that decode know it

    splits = np.full(count, TRAIN, np.uint8)
    splits[::100] = VAL
    return Source(
        name="simulated",
        layout="simulated",
        classes=tuple(f"n{number:08}" for number in range(CLASSES)),
        names=StringTable.from_strings(names(count)),
        labels=np.arange(count) * CLASSES // count,
        splits=splits,
        reader=Repeated(),
        locate=lambda index: index,
        files_fingerprint="",
    )


def of_folder(folder: Path, count: int, side: int):
    """A folder of a folder per class, the files empty; begun after it was written."""
    detect_source(folder / "tree")


def of_list(folder: Path, count: int, side: int):
    detect_source(folder / "tree.csv")


def of_archive(folder: Path, count: int, side: int):
    """A tar file of tar files; listed for the first time."""
    detect_source(folder / "images.tar")


def of_archive_again(folder: Path, count: int, side: int):
    detect_source(folder / "images.tar")


def of_source(folder: Path, count: int, side: int):
    simulated(count)


def of_handing(folder: Path, count: int, side: int):
    from imagenet_size import Nothing

    for some in run_task(Nothing(), ((number, number) for number in range(count)), count, processors()):
        del some


def of_packing(folder: Path, count: int, side: int):
    make_pack(simulated(count), side, folder)


def of_opening(folder: Path, count: int, side: int):
    packed = open_pack(next((folder / "packs").glob("*.safetensors")))
    return packed.indices("train")


def of_order(folder: Path, count: int, side: int, shuffle: str = "epoch"):
    from alexnet.data.batches import epoch_order

    return epoch_order(of_opening(folder, count, side), 0, 0, shuffle)


def of_blocks(folder: Path, count: int, side: int):
    return of_order(folder, count, side, "blocks")


def of_epoch(folder: Path, count: int, side: int, shuffle: str = "epoch"):
    from alexnet.data.batches import epoch_order, read_batches

    packed = open_pack(next((folder / "packs").glob("*.safetensors")))
    for batch in read_batches(packed, epoch_order(packed.indices("train"), 0, 0, shuffle), 128):
        del batch


def of_epoch_by_blocks(folder: Path, count: int, side: int):
    of_epoch(folder, count, side, "blocks")


def write_tree(folder: Path, count: int):
    (folder / "tree").mkdir()
    made = ""
    with (folder / "tree.csv").open("w") as listed:
        for name in names(count):
            if made != (made := name.partition("/")[0]):
                (folder / "tree" / made).mkdir()
            os.close(os.open(folder / "tree" / name, os.O_CREAT | os.O_WRONLY))
            listed.write(f"tree/{name},{made}\n")


def write_archive(folder: Path, count: int):
    """As ILSVRC2012_img_train.tar: a tar file for each class."""
    contents, of_class = jpegs(), {}
    for number, name in enumerate(names(count)):
        of_class.setdefault(name.partition("/")[0], []).append((number, name.partition("/")[2]))
    with tarfile.open(folder / "images.tar", "w", format=tarfile.GNU_FORMAT) as outer:
        for word, members in of_class.items():
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as inner:
                for number, name in members:
                    add(inner, name, contents[number % KINDS])
                    inner.members.clear()
            add(outer, f"{word}.tar", buffer.getvalue())


def add(archive: tarfile.TarFile, name: str, content: bytes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


PARTS = {
    "the simulated source": of_source,
    "listing a folder": of_folder,
    "listing by a CSV file": of_list,
    "listing a tar file of tar files": of_archive,
    "the same, listed before": of_archive_again,
    "handing images to processes and back": of_handing,
    "packing": of_packing,
    "opening the pack, numbers of train": of_opening,
    "order of an epoch": of_order,
    "order of an epoch, by blocks": of_blocks,
    "reading an epoch": of_epoch,
    "reading an epoch by blocks": of_epoch_by_blocks,
}
WRITTEN = {"listing a folder": write_tree, "listing a tar file of tar files": write_archive}
"""What is written before a part."""
IMPORTS, TORCH = "imports", "imports, torch too"
"""Parts that do nothing else: what they take is no part's own."""


def measured(part: str, folder: Path, count: int, side: int) -> dict:
    """Seconds and the most memory of a part and of the processes that it started, bytes."""
    command = [sys.executable, __file__, "--folder", str(folder), "--images", str(count), "--side", str(side)]
    environment = os.environ | {"ALEXNET_CACHE": str(folder / "cache"), "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([*command, "--measure", part], stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(done.stdout)


def measure(part: str, folder: Path, count: int, side: int):
    if part == TORCH or "epoch" in part:
        import alexnet.data.batches  # noqa: F401
    of_worker = [0]
    threading.Thread(target=watch_workers, args=(of_worker,), daemon=True).start()
    started = time.perf_counter()
    kept = PARTS[part](folder, count, side) if part in PARTS else None  # noqa: F841
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "memory": most_memory("self"), "of_worker": max(of_worker)}))


def most_memory(process: str) -> int:
    """Bytes that a process had in memory at most. What getrusage says of it may be its parent's."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 if "VmHWM:" in status else 0


def watch_workers(most: list[int]):
    while True:
        for process in Path("/proc/self/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has just ended
                most += [most_memory(number) for number in process.read_text().split()]
        most[:] = [max(most)]
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="words in the names of the parts; all where none is given"
    )
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        return measure(asked.measure, asked.folder, asked.images, asked.side)
    folder, millions = Path(tempfile.mkdtemp(dir=asked.folder)), asked.images / 1e6
    chosen = [part for part in PARTS if not asked.parts or any(word in part for word in asked.parts)]
    base = {part: measured(part, folder, asked.images, asked.side)["memory"] for part in (IMPORTS, TORCH)}
    print(f"{asked.images:,} images; {', '.join(f'{part}: {size / 1e6:.0f} MB' for part, size in base.items())}\n")
    print("| part | seconds | seconds a million | memory beyond imports | bytes an image | of a worker |")
    print("| --- | --- | --- | --- | --- | --- |")
    try:
        for part in chosen:
            if part in WRITTEN:
                WRITTEN[part](folder, asked.images)
            found = measured(part, folder, asked.images, asked.side)
            seconds, memory = found["seconds"], found["memory"] - base[TORCH if "epoch" in part else IMPORTS]
            worker = f"{found['of_worker'] / 1e6:.0f} MB" if found["of_worker"] else ""
            cells = (
                f"{seconds:.1f}",
                f"{seconds / millions:.1f}",
                f"{memory / 1e6:.0f} MB",
                f"{memory / asked.images:.0f}",
            )
            print(f"| {part} | {' | '.join(cells)} | {worker} |", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
