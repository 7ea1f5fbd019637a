"""More than 10,000 damaged images, archives, label files and arrays: read, or skipped or refused by name.

Everything is drawn from seeds, so failures are reproducible. ALEXNET_DAMAGE multiplies the number of cases.
"""

import gzip
import hashlib
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from fuzz import TOKENS, chunk, damaged, image_of, intact_images, label_files, tar_of, zip_of

from alexnet.data.check import check_source
from alexnet.data.pack import packing
from alexnet.data.pack.packing import PackOptions, make_pack
from alexnet.data.sources import idx
from alexnet.data.sources.detection import detect_source, open_source
from alexnet.runs.run import Run

TIMES = int(os.environ.get("ALEXNET_DAMAGE", "1"))
CASES: dict[str, int] = {}
"""How many cases each test runs."""
LONGEST_MESSAGE = 10_000


def raise_errors(source):
    """What `open_source` does with what it detects."""
    for finding in source.findings:
        if finding.level == "error":
            raise ValueError(finding.text)


def cases(count):
    """A test that is given how many cases to run, and returns how many it ran."""

    def mark(test):
        def counted(root):
            assert test(root, count * TIMES) == count * TIMES

        counted.__name__, counted.__doc__ = test.__name__, test.__doc__
        CASES[test.__name__] = count
        return counted

    return mark


def test_there_are_ten_thousand_cases():
    assert sum(CASES.values()) >= 10_000


# What must hold.


def state_of(folder):
    """The hash of every file below a folder."""
    state = {}
    for above, _, files in os.walk(folder):
        for file in files:
            path = os.path.join(above, file)
            with open(path, "rb") as opened:
                state[path] = hashlib.sha256(opened.read()).hexdigest()
    return state


@pytest.fixture
def root(tmp_path, monkeypatch, must_end):
    """A folder for the data; nothing must be written beside it or to the current folder."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(packing, "MAX_UNREADABLE", 1.0)
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of what it mends by itself
        yield tmp_path / "root"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "root"]
    assert not list((tmp_path / "elsewhere").iterdir())


class Outcomes:
    """How many cases were read, at least in part, and how many were refused."""

    def __init__(self):
        self.read = self.refused = 0

    @property
    def count(self):
        return self.read + self.refused

    def of(self, root, names, note):
        """Recognise, look at and pack a root of few images; an error must name it, or one of `names` in it."""
        before = state_of(root if root.is_dir() else root.parent)
        try:
            source = detect_source(root)
            report = check_source(source, 8, PackOptions(workers=1))
            assert report.checked == len(source) == len(source.names) == len(source.labels)
            assert not len(source) or 0 <= source.labels.min() <= source.labels.max() < len(source.classes)
            raise_errors(source)
            packed = make_pack(source, 8, options=PackOptions(workers=1))
            assert all(reason for reason in packed.unreadable.values()) and len(packed.names) == len(source)
            self.read += 1
        except ValueError as error:
            message = str(error)
            assert any(name in message for name in (root.name, root.name.split(".")[0], *names)), (note, message[:300])
            assert len(message) < LONGEST_MESSAGE, (note, message[:300])
            assert not isinstance(error, UnicodeError), (note, message[:300])
            self.refused += 1
        except BaseException as error:
            raise AssertionError(f"{note}: {error!r:.300}") from error
        assert state_of(root if root.is_dir() else root.parent) == before, note


@cases(6000)
def test_images(root, count):
    """Each is decoded or skipped with a reason, by check and by pack alike, in processes that may crash."""
    draw, intact = random.Random(2012), intact_images()
    contents = [content for _, content in intact]
    for number in range(count):
        suffix, content = intact[number % len(intact)]
        path = root / f"class {number % 3}" / f"{number:06}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damaged(content, draw, contents))
    before = state_of(root)
    source = detect_source(root)
    looked = check_source(source, 16)
    packed = make_pack(source, 16)
    assert len(source) * 0.2 < len(packed.unreadable) < len(source) * 0.9
    assert all(isinstance(reason, str) and reason for reason in packed.unreadable.values())
    (unreadable,) = (finding for finding in looked.findings if "cannot be read" in finding.text)
    assert all(any(name in example for name in source.names) for example in unreadable.examples[:1])
    read = np.setdiff1d(np.arange(len(source)), list(packed.unreadable))
    assert set(packed.splits[read].tolist()) <= {0, 1, 2} and packed.images[read].any((1, 2, 3)).mean() > 0.5
    assert state_of(root) == before
    return len(source)


def classes_of_images(draw, intact):
    return {
        f"{name}/{n}.{intact[n][0]}": intact[n][1]
        for name in ("cat", "dog")
        for n in draw.sample(range(len(intact)), 2)
    }


@cases(1500)
def test_archives(root, count):
    draw, outcomes = random.Random(1), Outcomes()
    small = [(suffix, content) for suffix, content in intact_images() if len(content) < 1500]
    files = classes_of_images(draw, small) | {"labels.csv": b"image,label\ncat/1.png,cat\n"}
    intact = {"zip": zip_of(files), "tar": tar_of(files), "tar.gz": gzip.compress(tar_of(files))}
    intact["tars.tar"] = tar_of({f"{name}.tar": tar_of(files) for name in ("cat", "dog")})
    for number in range(count):
        suffix = list(intact)[number % len(intact)]
        path = root / f"some-{number}.{suffix}"
        path.write_bytes(damaged(intact[suffix], draw, list(intact.values())))
        outcomes.of(path, (), f"archive {number}")
        path.unlink()
    assert outcomes.read > 20 and outcomes.refused > 100
    return outcomes.count


INDEX_FILES = {
    "classes.txt": "cat\ndog\na cow\n",
    "classes.json": '["cat", "dog", "a cow"]',
    "class_to_idx.json": '{"cat": 0, "dog": 1, "a cow": 2}',
    "idx_to_class.json": '{"0": "cat", "1": "dog", "2": ["n3", "a cow"]}',
}


def write_flat(root):
    for n in range(6):
        (root / f"{n}.png").write_bytes(image_of("PNG", seed=n))


@cases(2500)
def test_label_files(root, count):
    """Beside a folder's images, with and without a file that gives an index to each class."""
    draw, outcomes, intact = random.Random(2), Outcomes(), label_files()
    intact_bytes = {name: text.encode() for name, text in (intact | INDEX_FILES).items()}
    flat = root / "flat"
    flat.mkdir()
    write_flat(flat)
    for number in range(count):
        name = draw.choice(list(intact_bytes))
        written = {name: damaged(intact_bytes[name], draw, list(intact_bytes.values()), TOKENS)}
        if name in INDEX_FILES:
            written["labels.txt"] = intact_bytes["labels.txt"]
        elif draw.random() < 0.3:
            written |= {draw.choice(list(INDEX_FILES)): intact_bytes["classes.txt"]}
        for file, content in written.items():
            (flat / file).write_bytes(content)
        outcomes.of(flat, written, f"labels {number} {name}")
        for file in written:
            (flat / file).unlink()
    assert min(outcomes.read, outcomes.refused) > 100
    return outcomes.count


@cases(800)
def test_lists(root, count):
    """Given as the data set; their images are in the same folder, or where the list says."""
    draw, outcomes = random.Random(3), Outcomes()
    write_flat(root)
    intact = {name: text.encode() for name, text in label_files().items()}
    intact["chosen.csv"] = f"# images of {root}\n".encode() + intact["labels.csv"]
    for number in range(count):
        name = draw.choice(list(intact))
        path = root / name
        path.write_bytes(damaged(intact[name], draw, list(intact.values()), TOKENS))
        outcomes.of(path, [root.name], f"list {number} {name}")
        path.unlink()
    assert min(outcomes.read, outcomes.refused) > 50
    return outcomes.count


def cifar_binary(draw):
    batches = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    files = {name: b"".join(bytes([n]) + draw.randbytes(3072) for n in range(10)) for name in batches}
    return files | {"batches.meta.txt": b"\n".join(b"class%d" % n for n in range(10)) + b"\n\n"}


def cifar_python(draw):
    def batch():
        data = np.frombuffer(draw.randbytes(30_720), np.uint8).reshape(10, 3072)
        return pickle.dumps({b"data": data, b"labels": [*range(10)], b"batch_label": b"x"}, 3)

    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    meta = pickle.dumps({b"label_names": [b"class%d" % n for n in range(10)]}, 3)
    return {name: batch() for name in names} | {"batches.meta": meta}


def of_files(root, intact, count, seed, damage=damaged, tokens=()):
    draw, outcomes = random.Random(seed), Outcomes()
    for name, content in intact.items():
        (root / name).write_bytes(content)
    for number in range(count):
        name = draw.choice(list(intact))
        (root / name).write_bytes(damage(intact[name], draw, list(intact.values()), tokens))
        outcomes.of(root, [*intact], f"{name} {number}")
        (root / name).write_bytes(intact[name])
    assert min(outcomes.read, outcomes.refused) > count / 50, vars(outcomes)
    return outcomes.count


@cases(500)
def test_binary_files_of_cifar(root, count):
    return of_files(root, cifar_binary(random.Random(4)), count, 4)


@cases(500)
def test_pickles_of_cifar(root, count):
    def damage(content, draw, others, tokens):
        edge = 200 if draw.random() < 0.8 else len(content)  # the program, rather than the pixels
        return damaged(content[:edge], draw, others, tokens) + content[edge:]

    tokens = [
        b"\x93",
        b"R",
        b"b",
        b"0",
        b"2",
        b"]",
        b"}",
        b"(",
        b"t",
        b"a",
        b"e",
        b"s",
        b"u",
        b"\x8a\x09" + b"\xff" * 9,
    ]
    tokens += [
        b"j\xff\xff\xff\x7f",
        b"r\xff\xff\xff\x7f",
        b"cos\nsystem\n",
        b"cnumpy\nndarray\n",
        b"\x82\x01",
        b"Pid\n",
    ]
    return of_files(root, cifar_python(random.Random(5)), count, 5, damage, tokens)


@cases(800)
def test_idx_files(root, count):
    draw = random.Random(6)
    intact = {}
    for split in ("train", "t10k"):
        images = bytes((0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 5, 0, 0, 0, 4)) + draw.randbytes(6 * 5 * 4)
        labels = bytes((0, 0, 8, 1, 0, 0, 0, 6)) + bytes((0, 1, 2, 0, 1, 2))
        packed = gzip.compress if split == "t10k" else bytes
        end = ".gz" if split == "t10k" else ""
        intact |= {f"{split}-images-idx3-ubyte{end}": packed(images), f"{split}-labels-idx1-ubyte{end}": packed(labels)}
    return of_files(root, intact | {"classes.txt": b"a\nb\nc\n"}, count, 6)


# What chance does not find.

BOUND = 3 << 30
"""Bytes of address space of a process that is given something hostile."""
LOOK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from alexnet.data import check
from alexnet.data.sources.detection import detect_source, open_source
check.EXAMPLES = 10
for root in sys.argv[2:]:
    try:
        findings = check.check_source(detect_source(root), 8, check.PackOptions(workers=1)).findings
        print(*(f"{finding.text} {finding.examples}" for finding in findings))
    except ValueError as error:
        print(str(error).replace("\\n", " "))
"""


def looked_at(*places):
    """What a process with little memory says about each data set, in a line."""
    command = [sys.executable, "-W", "ignore", "-c", LOOK, str(BOUND), *map(str, places)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def png_of(width, height, *before):
    header = chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0)))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + chunk(b"IEND", b"")


def tiff_of(width, height, compression, rows):
    strip = bytes(100)
    tags = [
        (256, width),
        (257, height),
        (258, 8),
        (259, compression),
        (262, 1),
        (273, 8),
        (278, rows),
        (279, len(strip)),
    ]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + table + bytes(4)


needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")


@needs_limits
def test_images_that_claim_to_be_huge(root):
    bomb = zlib.compress(bytes(300_000_000))
    huge = {
        "side.png": png_of(50_000, 50_000),
        "text.png": png_of(8, 8, chunk(b"zTXt", b"a\0\0" + bomb)),
        "profile.png": png_of(8, 8, chunk(b"iCCP", b"a\0\0" + bomb)),
        "side.tif": tiff_of(60_000, 60_000, 1, 60_000),
        "most.tif": tiff_of(2**32 - 1, 2**32 - 1, 5, 1),
        "strip.tif": tiff_of(10_000, 10_000, 5, 10_000),
        "line.ppm": b"P6 " + b"1" * 1_000_000,
        "side.ppm": b"P6 60000 60000 255\n",
    }
    for name in ("cat", "dog"):
        (root / name).mkdir()
        (root / name / "0.png").write_bytes(image_of("PNG", seed=len(name) + ord(name[0])))
    for name, content in huge.items():
        (root / "cat" / name).write_bytes(content)
    (message,) = looked_at(root)
    assert all(f"cat/{name}: " in message for name in huge), message


HOSTILE_LABELS = [
    ("x.json", b"[" * 200_000, "x.json: nested too deeply"),
    ("x.jsonl", b'{"a":' * 15_000, "x.jsonl, line 1: nested too deeply"),
    ("x.jsonl", b'{"a":' * 200_000, "without labels; it must have"),
    ("x.json", b"[" + b"[]," * 20_000_000 + b"[]]", "without labels; it must have"),
    ("x.json", b'{"0.png": ' + b"9" * 5000 + b"}", "x.json: '999999999999...9999999999999' has 5,000 digits"),
    (
        "x.json",
        b'{"0.png": "a", "1.png": "\\ud800"}',
        r"x.json: a label must be text of <= 255 characters, got '\ud800'",
    ),
    ("x.csv", b"image,label\n0.png," + b"x" * 100_000_000, "x.csv, line 2: a line must have <= 100,000 characters"),
    ("x.csv", b"image,label\n" + b"a," * 5_000_000, "x.csv, line 2: a line must have <= 100,000 characters"),
    ("x.csv", b"," * 10_000_000, "without labels; it must have"),
    (
        "x.txt",
        b"0.png cat\n1.png " + b"9" * 5000,
        "x.txt, line 2: a label must be text of <= 255 characters",
    ),
    ("classes.txt", b"", "classes.txt: it must name a class in each line, but is empty"),
    ("idx_to_class.json", b'{"' + b"9" * 5000 + b'": "cat"}', "without labels; it must have"),
]


@needs_limits
def test_hostile_label_files(root):
    for number, (name, content, _) in enumerate(HOSTILE_LABELS):
        (root / str(number)).mkdir()
        write_flat(root / str(number))
        (root / str(number) / name).write_bytes(content)
    (root / "10" / "labels.txt").write_bytes(b"0.png 0\n1.png 1\n")
    message = looked_at(*(root / str(number) for number in range(len(HOSTILE_LABELS))))
    for (name, content, words), line in zip(HOSTILE_LABELS, message, strict=True):
        assert words in line, (name, content[:40])


def test_negative_class_indices(root):
    for split, label in (("train", "cat"), ("train", "dog"), ("val", -2), ("val", -(10**30))):
        (root / split).mkdir(exist_ok=True)
        (root / split / f"{label}.png").write_bytes(image_of("PNG"))
        with (root / f"{split}.jsonl").open("a") as file:
            file.write(json.dumps({"image": f"{label}.png", "label": label}) + "\n")
    source = detect_source(root)
    assert source.classes == ("cat", "dog") and source.labels.tolist() == [0, 1]
    assert sorted(finding.text.split("/")[2][:5] for finding in source.findings) == ["-1000", "-2 is"]


HOSTILE_PICKLES = [
    b"}r\xff\xff\xff\x3f.",  # remembered under the number of a billion, for which a table would be made
    b"\x80\x05\x96" + (20 << 30).to_bytes(8, "little") + b".",  # an array of bytes of 20 GiB
    b"\x80\x04\x8e" + (20 << 30).to_bytes(8, "little") + b".",
    b"]" + b"".join(b"q%c](h%ch%ch%ch%ce" % (n, n, n, n, n) for n in range(40)) + b".",  # 4 to the power of 40
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(J\xff\xff\xff\x7ftU\1btR.",
    b"cos\nsystem\n(S'touch owned'\ntR.",
    b'cbuiltins\neval\n(S\'open("owned", "w")\'\ntR.',
]


@needs_limits
def test_hostile_pickles(root):
    for number, program in enumerate(HOSTILE_PICKLES):
        (root / str(number)).mkdir()
        for name, content in cifar_python(random.Random(7)).items():
            (root / str(number) / name).write_bytes(content)
        (root / str(number) / "data_batch_3").write_bytes(program)
    for number, line in enumerate(looked_at(*(root / str(number) for number in range(len(HOSTILE_PICKLES))))):
        assert f"{number}/data_batch_3 cannot be read as a file of CIFAR-10: " in line


def test_an_idx_file_that_expands_beyond_the_limit(root, monkeypatch):
    monkeypatch.setattr(idx, "MAX_BYTES", 10_000_000)
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + bytes(200_000_000), 1))
    (root / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 1, 0)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz or .* it expands to more than 10,000,000 bytes"):
        detect_source(root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000


@pytest.fixture
def classes(root):
    for number in range(8):
        path = root / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image_of("PNG", seed=number))
    return root


@pytest.mark.skipif(os.name == "nt", reason="links, pipes and devices as Unix has them")
def test_links_pipes_and_devices(classes):
    os.symlink("nowhere.png", classes / "cat" / "to nothing.png")
    os.symlink("itself.png", classes / "cat" / "itself.png")
    os.symlink(classes, classes / "cat" / "up")
    os.symlink("/dev/zero", classes / "cat" / "zero.png")
    os.mkfifo(classes / "cat" / "pipe.png")
    assert len(detect_source(classes)) == 8
    listed = [(f"cat/{n}.png", "cat") for n in (0, 2, 4, 6)] + [(f"dog/{n}.png", "dog") for n in (1, 3)]
    listed += [(path, "cat") for path in ("cat/pipe.png", "cat/zero.png", "/dev/zero", "cat", "cat/to nothing.png")]
    (classes / "some.csv").write_text("".join(f"{path},{label}\n" for path, label in listed))
    packed = make_pack(detect_source(classes / "some.csv"), 8)
    assert (
        len(packed.unreadable) == 5
        and sum("not a regular file" in reason for reason in packed.unreadable.values()) == 4
    )


@pytest.mark.skipif(os.name == "nt", reason="links as Unix has them")
def test_endless_folders(classes):
    deep = classes / "dog"
    for _ in range(700):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "deep.png").write_bytes(image_of("PNG"))
    assert len(detect_source(classes)) == 9
    ring = classes / "ring"
    for one in range(12):
        (ring / str(one)).mkdir(parents=True)
        for other in range(12):
            os.symlink(ring / str(other), ring / str(one) / f"to {other}")
    with pytest.raises(ValueError, match=r"ring.*: links in links must be <= 8 deep, got 9"):
        detect_source(classes)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_files_without_permission(classes):
    (classes / "cat" / "0.png").chmod(0)
    assert ["Permission denied" in reason for reason in make_pack(detect_source(classes), 8).unreadable.values()] == [
        True
    ]
    (classes / "cat").chmod(0)
    try:
        with pytest.raises(ValueError, match="cat cannot be read: Permission denied"):
            detect_source(classes)
    finally:
        (classes / "cat").chmod(0o755)


def test_a_file_removed_between_listing_and_reading(classes):
    source = detect_source(classes)
    (classes / source.names[3]).unlink()
    assert "No such file" in make_pack(source, 8).unreadable[3]
    assert any(
        source.names[3] in example for finding in check_source(source, 8).findings for example in finding.examples
    )


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_any_bytes(classes):
    os.rename(classes / "cat" / "0.png", os.fsencode(classes) + b"/cat/\xff\xfe.png")
    os.rename(classes / "dog" / "1.png", classes / "dog" / "a\nb.png")
    packed = make_pack(detect_source(classes), 8)
    assert "cat/\udcff\udcfe.png" in packed.names
    assert [packed.names[number] for number in packed.unreadable] == ["dog/a␤b.png"]
    run = Run(classes)
    run.write_splits(packed)
    assert (run.with_splits(packed).splits == np.where(packed.splits == 255, 255, packed.splits)).all()
    for file in ("split.csv", "left_out.csv"):
        (classes / file).unlink()
    os.rename(classes / "cat", os.fsencode(classes) + b"/c\xffat")
    with pytest.raises(ValueError, match=r"root: the name of folder b'c\\xffat' is not UTF-8; rename the folder"):
        open_source(classes)


def test_long_names(classes):
    long = classes / ("x" * 250)
    (classes / "cat").rename(long)
    assert long.name in make_pack(detect_source(classes), 8).classes
    (long / "1").mkdir()
    (long / "2").mkdir()
    for number, file in enumerate(long.glob("*.png")):
        file.rename(long / str(number % 2 + 1) / file.name)
    assert len(make_pack(detect_source(long), 8).labels) == 4
    content = zip_of({path.relative_to(long).as_posix(): path.read_bytes() for path in long.rglob("*.png")})
    (classes / f"{'é' * 120}.zip").write_bytes(content)
    assert len(make_pack(detect_source(classes / f"{'é' * 120}.zip"), 8).labels) == 4


def test_paths_that_are_not_a_data_set(root, monkeypatch):
    (root / "self.csv").write_text(f"# images of {root}/self.csv\nimage,label\na.png,cat\n")
    with pytest.raises(ValueError, match=r"self.csv is a list of images of itself"):
        detect_source(root / "self.csv")
    for name in ("~nobody-of-that-name", "x" * 5000, "a\0b", root / "self.csv" / "b"):
        with pytest.raises(ValueError, match=r"cannot be read|does not exist"):
            detect_source(name)
