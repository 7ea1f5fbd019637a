"""Packs that are interrupted, damaged, made by two processes at once, or do not fit the disk."""

import contextlib
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import write_colors
from PIL import Image

from alexnet.data.pack import packing
from alexnet.data.pack.packing import PackOptions, make_pack
from alexnet.data.pack.reading import damaged_images, open_pack
from alexnet.data.sources.detection import open_source
from alexnet.files import file_lock

PACKER = """
import sys
from pathlib import Path
from alexnet.data.pack import packing, workers
from alexnet.data.sources.detection import open_source

packing.LOG_S, packing.TOLD_WAITS, workers.MAX_INLINE = 0.01, 1, 0
say = lambda words: print(words, flush=True)
options = packing.PackOptions(int(sys.argv[4]) or None, workers=int(sys.argv[3]))
print(packing.make_pack(open_source(sys.argv[1]), 64, Path(sys.argv[2]), options, notify=say).path)
"""


@pytest.fixture
def photos(tmp_path):
    """400 pictures of 200 × 160 in two classes, three of them damaged."""
    generator = np.random.default_rng(0)
    for number in range(400):
        path = tmp_path / "photos" / f"class{number % 2}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (160, 200, 3), dtype=np.uint8)).save(path)
        if number in (7, 111, 399):
            path.write_bytes(path.read_bytes()[:5000])
    return tmp_path / "photos"


def packer(photos, cache, workers=2, jpeg=0):
    """A process that packs them, and takes another second or so."""
    command = [sys.executable, "-c", PACKER, str(photos), str(cache), str(workers), str(jpeg)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def until_it_begins(process, cache, has_done_some=False):
    def begun():
        return any(log.stat().st_size or not has_done_some for log in cache.glob("packs/*.log"))

    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            if begun():
                return
        time.sleep(0.01)


def seconds_from_its_beginning(process, cache):
    until_it_begins(process, cache)
    started = time.perf_counter()
    process.communicate()
    return time.perf_counter() - started


@pytest.mark.parametrize(("jpeg", "times"), [(0, 20), (90, 6)])
def test_packing_that_is_killed_often_makes_the_same_bytes(photos, tmp_path, jpeg, times):
    intact = make_pack(open_source(photos), 64, tmp_path / "intact", PackOptions(jpeg or None)).path
    assert len(open_pack(intact).unreadable) == 3
    dice, kills, resumed = random.Random(0), 0, set()
    usual = seconds_from_its_beginning(packer(photos, tmp_path / "undisturbed", jpeg=jpeg), tmp_path / "undisturbed")
    for attempt in range(times):
        cache = tmp_path / f"cache {attempt // 3}"
        killed = packer(photos, cache, 1 + attempt % 2, jpeg)
        until_it_begins(killed, cache, has_done_some=attempt % 3 == 1)
        time.sleep(0 if attempt % 3 == 1 else dice.uniform(0.0, 0.9) * usual)
        killed.send_signal(signal.SIGKILL)
        kills += killed.wait() == -signal.SIGKILL
        resumed |= {log.read_text().count("\n") > 0 for log in cache.glob("packs/*.log")}
    assert kills >= times / 2 and True in resumed  # some moments are after the end
    for cache in [*tmp_path.glob("cache *"), tmp_path / "undisturbed"]:
        last = packer(photos, cache, jpeg=jpeg)
        assert last.wait() == 0
        packs = list((cache / "packs").glob("*.safetensors*"))
        assert [path.name for path in packs if not path.name.endswith(".lock")] == [intact.name]
        assert (cache / "packs" / intact.name).read_bytes() == intact.read_bytes()


def test_an_interrupted_packing_resumes(photos, tmp_path, monkeypatch):
    source, done = open_source(photos), []
    monkeypatch.setattr(packing, "LOG_S", 0.0)

    def stops_after(counts, total):
        for count in counts:
            done.append(count)
            if sum(done) >= total / 2:
                raise KeyboardInterrupt
            yield count

    with pytest.raises(KeyboardInterrupt):
        make_pack(source, 64, tmp_path / "cache", track=stops_after)
    log = next((tmp_path / "cache" / "packs").glob("*.log"))
    log.write_text(log.read_text() + '{"done": 39')  # an incomplete line, as after a power failure
    assert json.loads(log.read_text().splitlines()[-2])["done"] >= 200
    counted = []
    make_pack(
        source,
        64,
        tmp_path / "cache",
        track=lambda counts, total: (counted.append(count) or count for count in counts),
    )
    assert counted[0] >= 200 and sum(counted) == 400


DIVIDED = """
import os, time
from alexnet.data.pack import unfinished

class Counting(unfinished.UnfinishedPack):
    def take_images(self):
        while {together} > len([*self.path.parent.glob("*.log")]):
            time.sleep(0.01)
        return super().take_images()

    def add(self, results):
        until = time.monotonic() + {seconds}
        while time.monotonic() < until:
            os.utime(self.log)
            time.sleep(0.05)
        images.extend(results)
        super().add(results)

unfinished.CHUNK_IMAGES, images = 16, []
"""


def dividing_packer(photos, cache, jpeg, together=1, seconds=0, more=""):
    """A process that packs chunks of 16, and at its end prints how many images it did."""
    program = DIVIDED.format(together=together, seconds=seconds) + more
    program += PACKER.replace("options =", "packing.UnfinishedPack = Counting\noptions =") + "\nprint(len(images))"
    command = [sys.executable, "-c", program, str(photos), str(cache), "1", str(jpeg)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("jpeg", [0, 90])
def test_processes_divide_a_pack(photos, tmp_path, jpeg):
    intact = make_pack(open_source(photos), 64, tmp_path / "intact", PackOptions(jpeg or None)).path
    packers = [dividing_packer(photos, tmp_path / "cache", jpeg, together=3) for _ in range(3)]
    counts = [int(process.communicate()[0].splitlines()[-1]) for process in packers]
    assert sum(counts) == 400 and min(counts) > 0, counts
    left = [path.name for path in (tmp_path / "cache" / "packs").iterdir() if path.suffix != ".lock"]
    assert left == [intact.name]
    assert (tmp_path / "cache" / "packs" / intact.name).read_bytes() == intact.read_bytes()


ELSEWHERE = """
unfinished.machine = lambda: "{}"
unfinished.SILENT_S = 2.0
unfinished.is_locked = lambda path: False  # as where other machines do not see a lock
"""


@pytest.mark.parametrize("machines", [(), ("one", "another")], ids=["one machine", "two without locks"])
def test_what_a_killed_process_has_taken_is_taken_over(photos, tmp_path, machines):
    intact = make_pack(open_source(photos), 64, tmp_path / "intact").path
    more, others = map(ELSEWHERE.format, machines) if machines else ("", "")
    killed = dividing_packer(photos, tmp_path / "cache", 0, seconds=3600, more=more)
    until_it_begins(killed, tmp_path / "cache")
    other = dividing_packer(photos, tmp_path / "cache", 0, together=2, more=others)
    line = other.stdout.readline()
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert line == f"other processes are making the rest of {intact.name}; waiting for them\n"
    rest = other.communicate()[0].splitlines()
    assert other.returncode == 0 and 0 < int(rest[-1]) <= 400
    assert (tmp_path / "cache" / "packs" / intact.name).read_bytes() == intact.read_bytes()


def test_waiting_for_another_process_is_announced(photos, tmp_path):
    source = open_source(photos)
    path = make_pack(source, 8, tmp_path / "cache").path
    path.unlink()
    with file_lock(path):
        program = "import alexnet.files as f; f.WAIT_NOTICE_S = 0.1\n" + PACKER.replace("64", "8")
        command = [sys.executable, "-c", program, str(photos), str(tmp_path / "cache"), "1", "0"]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = waiting.stdout.readline()
    assert line == f"another process is making {path.name}; waiting for it\n"
    assert waiting.communicate()[0].strip() == str(path)


@pytest.mark.parametrize(
    "harm", ["cut short", "another version", "a bit in its tables", "a bit in an image", "no pack"]
)
def test_a_damaged_pack_is_detected_and_packed_again(tmp_path, harm):
    source = open_source(write_colors(tmp_path / "colors", 20))
    packed = make_pack(source, 16)
    intact = packed.path.read_bytes()
    labels = intact.index(np.asarray(packed.labels).tobytes())
    harmed = {
        "cut short": intact[:-1],
        "another version": intact.replace(rb"{\"version\": 3", rb"{\"version\": 2"),
        "a bit in its tables": intact[:labels] + b"\1" + intact[labels + 1 :],
        "a bit in an image": intact[: labels - 1] + bytes([intact[labels - 1] ^ 4]) + intact[labels:],
        "no pack": b"\xff" * 999,
    }[harm]
    assert harmed != intact
    packed.path.write_bytes(harmed)
    message = {
        "cut short": "is truncated",
        "another version": "the version of a pack must be 3, got 2",
        "a bit in its tables": "checksum mismatch in its tables",
        "a bit in an image": "checksum mismatch in image 59",
        "no pack": "is not a pack of images",
    }[harm]
    with pytest.raises(ValueError, match=message):
        open_pack(packed.path)
    messages = []
    assert make_pack(source, 16, notify=messages.append).path.read_bytes() == intact
    assert len(messages) == 1 and message in messages[0] and messages[0].endswith("; packing again")


def test_every_image_has_a_checksum(tmp_path):
    packed = make_pack(open_source(write_colors(tmp_path / "colors", 20)), 16)
    assert list(damaged_images(packed, range(60))) == []
    with open(packed.path, "r+b") as file:
        content = file.read()
        file.seek(content.index(packed.images[33].tobytes()) + 5)
        file.write(b"\0\1\0")
    assert list(damaged_images(packed, range(60))) == [33]


@pytest.mark.parametrize("when", ["at the beginning", "in the middle"])
def test_a_full_disk_leaves_no_partial_file(tmp_path, monkeypatch, when):
    source = open_source(write_colors(tmp_path / "colors", 20))

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if when == "at the beginning":
        monkeypatch.setattr(os, "posix_fallocate", full)
    else:
        full_file = {"__init__": lambda *a: None, "seek": lambda *a: 0, "write": full}
        monkeypatch.setattr(packing, "FileIO", type("FullFile", (), full_file))
    with pytest.raises(ValueError, match=r"no room in .*packs for .*No space left on device"):
        make_pack(source, 16, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache" / "packs").iterdir() if path.suffix != ".lock"] == []


def test_strict_allows_no_unreadable_image(photos, tmp_path):
    source = open_source(photos)
    assert len(make_pack(source, 8, tmp_path / "cache").unreadable) == 3
    for _ in range(2):  # also of a pack that is there
        with pytest.raises(ValueError, match=r"3 of 400 images cannot be read; none may be skipped \(strict=True\)"):
            make_pack(source, 8, tmp_path / "cache", options=PackOptions(strict=True))
    with pytest.raises(ValueError, match=r"cannot be read; none may be skipped"):
        make_pack(source, 8, tmp_path / "other", options=PackOptions(strict=True))


def test_an_unfinished_pack_of_other_images_is_removed(tmp_path):
    root = write_colors(tmp_path / "colors", 20)

    def stops(counts, total):
        yield next(iter(counts))
        raise KeyboardInterrupt

    for name in ("one", "two"):
        Image.new("RGB", (9, 9)).save(root / "red" / f"{name}.png")
        with pytest.raises(KeyboardInterrupt):
            make_pack(open_source(root), 16, tmp_path / "cache", track=stops)
        assert len(list((tmp_path / "cache" / "packs").glob("*.part"))) == 1


def test_a_pack_of_jpegs_holds_what_pillow_writes_and_is_smaller(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(30):
        smooth = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        path = tmp_path / "photos" / f"class{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth).resize((80, 64), Image.Resampling.BICUBIC).save(path)
    (tmp_path / "photos" / "class0" / "00.png").write_bytes(b"no picture")
    source = open_source(tmp_path / "photos")
    raw, small = make_pack(source, 64), make_pack(source, 64, options=PackOptions(jpeg=90))
    assert small.path != raw.path and small.path.stat().st_size < raw.path.stat().st_size / 4
    assert small.images.shape == raw.images.shape and small.images.nbytes < raw.images.nbytes / 4
    expected = []
    for square in raw.images:
        file = io.BytesIO()
        Image.fromarray(square).save(file, "JPEG", quality=90)
        expected.append(np.asarray(Image.open(file)))
    expected[0] = np.zeros_like(expected[0])  # the one that cannot be read
    np.testing.assert_array_equal(small.images[np.arange(30)], expected)
    np.testing.assert_array_equal(small.images[5], expected[5])
    np.testing.assert_array_equal(small.images[3:9:2], expected[3:9:2])
    assert small.unreadable == raw.unreadable and (small.splits == raw.splits).all()
    assert list(damaged_images(small, range(30))) == []
    content = small.path.read_bytes()
    small.path.write_bytes(content.replace(small.images.stored(7), small.images.stored(7)[:-3] + b"abc"))
    with pytest.raises(ValueError, match="checksum mismatch in image 7"):
        open_pack(small.path)


def test_a_network_is_trained_on_jpegs(tmp_path, capsys):
    from alexnet.cli import main

    data = write_colors(tmp_path / "colors", 20)
    few = ["--variant", "small", "--epochs", "2", "--batch-size", "16", "--precision", "fp32", "--jpeg", "90"]
    main(["train", str(data), *few, "--output", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["split"] == "test"
    with pytest.raises(SystemExit):
        main(["pack", str(data), "--jpeg", "100"])
    assert "jpeg must be an integer from 1 to 95, got 100" in capsys.readouterr().err
