import bz2
import gzip
import io
import lzma
import pickle
import random
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import pytest

from alexnet.data.storage import archives
from alexnet.data.storage.archives import Archive, is_archive

LONG = "/".join(f"folder-{n}-{'x' * 50}" for n in range(5))
FILES = {
    "a/1.jpg": b"one" * 400,
    "a/2.jpg": b"",
    "b/3 ü.jpg": bytes(range(256)) * 9,
    f"{LONG}/4.jpg": b"long",
}
COMPRESSED = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}


def tar_of(files=FILES, format=tarfile.PAX_FORMAT, **changes):
    """A tar file; `changes` are made to the header of every member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, encoding="utf-8") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in changes.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files=FILES, method=zipfile.ZIP_DEFLATED, **changes):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            for field, value in changes.items():
                setattr(info, field, value)
            archive.writestr(info, content)
    return buffer.getvalue()


def archive_of(tmp_path, content, name="some.archive"):
    path = tmp_path / name
    path.write_bytes(content)
    return Archive(path, tmp_path / "cache")


def contents(archive):
    return {name: archive.read(archive.member(number)) for number, name in enumerate(archive.names)}


FORMS = {
    "tar, pax": tar_of(),
    "tar, GNU": tar_of(format=tarfile.GNU_FORMAT),
    "zip, deflated": zip_of(),
    "zip, stored": zip_of(method=zipfile.ZIP_STORED),
    **{form: compress(tar_of()) for form, compress in COMPRESSED.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_members_are_read_in_place(tmp_path, form):
    archive = archive_of(tmp_path, FORMS[form])
    assert contents(archive) == FILES and list(archive.names) == list(FILES)
    assert contents(archive_of(tmp_path, FORMS[form])) == FILES  # now from the list that was kept
    kept = sorted(path.suffix for path in (tmp_path / "cache").iterdir())
    assert set(kept) == {".npz", ".lock"} | ({".tar"} if form in COMPRESSED else set())


def test_what_the_tar_command_writes(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    try:
        subprocess.run(["tar", "czf", tmp_path / "tree.tgz", "-C", tmp_path / "tree", "."], check=True)
    except FileNotFoundError:
        pytest.skip("there is no tar command")
    assert contents(Archive(tmp_path / "tree.tgz", tmp_path / "cache")) == FILES


def test_tar_files_in_a_tar_file_are_folders(tmp_path):
    """As ILSVRC2012_img_train.tar is: a tar file for each class."""
    classes = {f"n{n:08}": {f"n{n:08}_{i}.JPEG": b"%d" % (n + i) * 600 for i in range(3)} for n in (1440764, 7, 9)}
    outer = tar_of({f"{name}.tar": tar_of(files, tarfile.GNU_FORMAT) for name, files in classes.items()})
    expected = {f"{name}/{file}": content for name, files in classes.items() for file, content in files.items()}
    assert contents(archive_of(tmp_path, outer)) == expected
    twice = tar_of({"outer.tar": tar_of({"inner.tar": tar_of()}), "no.tar": b"words"})
    assert contents(archive_of(tmp_path, twice)) == {"outer/inner.tar": tar_of(), "no.tar": b"words"}


def test_little_is_pickled(tmp_path):
    archive = archive_of(tmp_path, zip_of({f"{n:0200}.jpg": b"%d" % n for n in range(500)}))
    sent = pickle.dumps((archive, archive.member(321)))
    assert len(sent) < 2000
    program = "import pickle, sys; a, start = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(a.read(start))"
    assert subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True).stdout == b"321"


def test_archives_are_detected_by_content(tmp_path):
    path = tmp_path / "picture.png"
    for content in (*FORMS.values(), zip_of({})):
        path.write_bytes(content)
        assert is_archive(path)
    for content in (b"", b"PK", b"words" * 999, bytes(10240), gzip.compress(b"words" * 999), gzip.compress(b"")[:9]):
        path.write_bytes(content)
        assert not is_archive(path)
        with pytest.raises(ValueError, match=r"picture.png is not an archive; it must be a zip file, or a tar file"):
            Archive(path, tmp_path / "cache")


def test_names_are_normalized(tmp_path):
    plain = {"./a//1.jpg": b"1", "a/./2.jpg": b"2"}
    for content in (tar_of(plain), zip_of(plain)):
        assert contents(archive_of(tmp_path, content)) == {"a/1.jpg": b"1", "a/2.jpg": b"2"}
    latin = tar_of({"caf?.jpg": b"x"}, tarfile.USTAR_FORMAT).replace(b"caf?", b"caf\xe9")
    with pytest.raises(ValueError, match="is not an archive"):  # the checksum is another
        archive_of(tmp_path, latin)
    checksum = b"%06o\0 " % (sum(latin[:148]) + 8 * 32 + sum(latin[156:512]))
    assert archive_of(tmp_path, latin[:148] + checksum + latin[156:]).names == ("café.jpg",)


def with_header(name, start, content):
    """A zip file of a member, with some bytes of its entry in the directory at the end overwritten."""
    intact = bytearray(zip_of({name: bytes(1000)}))
    start = intact.index(b"PK\1\2") + start
    intact[start : start + len(content)] = content
    return bytes(intact)


OUTSIDE = ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "C:/x.jpg", "c:x.jpg", "a\\x.jpg", "a/.."]
REFUSED = {
    **{f"tar {name}": (tar_of({name: b""}), "unsafe name") for name in OUTSIDE},
    **{f"zip {name}": (zip_of({name: b""}), "unsafe name") for name in OUTSIDE if name != "a\\x.jpg"},
    **{f"zip {name}": (zip_of({name: b""}), "unsafe name") for name in ("..\\x.jpg", "a\\..\\..\\x.jpg", "c:\\x.jpg")},
    "tar in tar, outside": (tar_of({"a.tar": tar_of({"/x.jpg": b"1"})}), "unsafe name"),
    "zip NUL": (with_header("a+b", 47, b"\0"), "unsafe name"),
    "tar NUL": (tar_of({"a": b"1"}, pax_headers={"path": "a\0b"}), "unsafe name"),
    **{
        f"tar {kind}": (tar_of({"x": b""}, type=kind, linkname="/etc/passwd"), "'x' is a link, a device or")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V", b"D")
    },
    "tar sparse": (
        tar_of({"x": b"1"}, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}),
        "'x' is a link, a device or a sparse file",
    ),
    "zip link": (zip_of({"x": b"/etc"}, external_attr=(stat.S_IFLNK | 0o777) << 16), "'x' is a link or a device"),
    "zip fifo": (zip_of({"x": b""}, external_attr=(stat.S_IFIFO | 0o644) << 16), "'x' is a link or a device"),
    "zip encrypted": (with_header("x", 8, b"\1"), "'x' is encrypted; decrypt"),
    "zip bzip2": (zip_of(method=zipfile.ZIP_BZIP2), "must be stored or deflated, got compression method 12"),
    "tar twice": (tar_of({"a/x": b"1", "a//x": b"2"}), "duplicate name 'a/x'"),
    "zip twice": (zip_of({"a/x": b"1", "./a/x": b"2"}), "duplicate name 'a/x'"),
    "tar twice by folder": (tar_of({"a.tar": tar_of({"x": b"1"}), "a/x": b"2"}), "duplicate name 'a/x'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_unsafe_archives_are_refused(tmp_path, what):
    content, words = REFUSED[what]
    with pytest.raises(ValueError, match=words) as caught:
        archive_of(tmp_path, content)
    assert "some.archive" in str(caught.value)
    for compress in COMPRESSED.values() if what.startswith("tar") else ():
        with pytest.raises(ValueError, match=words):
            archive_of(tmp_path, compress(content))
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}  # nothing is kept of it


@pytest.mark.parametrize("form", FORMS)
def test_truncated_archives_are_refused(tmp_path, form):
    intact = FORMS[form]
    trailer = 1024 + 10240 if form.startswith("tar, ") else 1  # a tar file ends in zeros, of which one block is enough
    for length in range(600 if form.startswith("tar, ") else 100, len(intact) - trailer, 97):
        with pytest.raises(ValueError, match=r"some.archive (cannot be|is not an archive)"):
            archive_of(tmp_path, intact[:length])


def test_a_damaged_header_is_not_mistaken_for_the_end(tmp_path):
    intact = bytearray(tar_of({f"{n}.jpg": b"x" for n in range(5)}))
    intact[2 * 1024] ^= 1  # the name of the third; tarfile alone would list two and stop
    with pytest.raises(ValueError, match="damaged or truncated at byte 2,048"):
        archive_of(tmp_path, intact)
    inner = tar_of({"1.jpg": b"x"})[:1024]  # without its end, it runs into the next one
    with pytest.raises(ValueError, match=r"truncated in 'b.tar'"):
        archive_of(tmp_path, tar_of({"a.tar": inner, "b.tar": inner}))


@pytest.mark.parametrize(
    "size, words",
    [
        ((-1024).to_bytes(12, "big", signed=True), "the header of 'b' is damaged"),  # tarfile would go back, for ever
        (b"00000000001\0", "damaged or truncated"),
        (b"77777777777\0", "truncated in 'b'"),
        (b"?", "damaged or truncated at byte 1,024"),
    ],
)
def test_invalid_sizes(tmp_path, size, words):
    intact = bytearray(tar_of({"a": b"x" * 512, "b": b"x" * 1024, "c": b"x"}))
    intact[1024 + 124 : 1024 + 124 + len(size)] = size
    intact[1024 + 148 : 1024 + 156] = b"%06o\0 " % (sum(intact[1024:1172]) + 8 * 32 + sum(intact[1180:1536]))
    with pytest.raises(ValueError, match=words):
        archive_of(tmp_path, intact)


def test_huge_headers_are_not_read(tmp_path):
    intact = tar_of({"x" * 200_000: b"1"}, tarfile.GNU_FORMAT)
    with pytest.raises(ValueError, match="a header must have <= 65,536 bytes, got 200,192"):
        archive_of(tmp_path, intact)


def test_listing_takes_little_memory(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of({f"{n:040}.jpg": b"" for n in range(5000)}))
    tracemalloc.start()
    Archive(tmp_path / "a.tar", tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5000 * 400  # with tarfile's own records of them it is three times as much


def test_a_damaged_member_is_an_error_and_the_others_are_read(tmp_path):
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        intact = bytearray(zip_of({"a": b"first" * 20, "b": random.Random(0).randbytes(500)}, method))
        intact[intact.index(b"PK\1\2") - 100] ^= 1
        archive = archive_of(tmp_path, intact)
        assert archive.read(archive.member(0)) == b"first" * 20
        with pytest.raises(ValueError, match=r"damaged or truncated at byte \d+ of \S+some.archive"):
            archive.read(archive.member(1))


def test_a_member_is_not_inflated_beyond_its_size(tmp_path):
    intact = bytearray(zip_of({"bomb": bytes(200_000_000)}))
    entry = intact.index(b"PK\1\2")
    intact[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    archive = archive_of(tmp_path, intact)
    tracemalloc.start()
    with pytest.raises(ValueError, match="damaged or truncated"):
        archive.read(archive.member(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_limits(tmp_path, monkeypatch):
    zeros = {str(n): bytes(100_000) for n in range(10)}
    monkeypatch.setattr(archives, "FREE_EXPANSION_BYTES", 999_999)
    forms = {"its members expand": zip_of(zeros), "it expands": gzip.compress(tar_of(zeros))}
    for number, (words, content) in enumerate(forms.items()):
        with pytest.raises(ValueError, match=f"{words} to more than 999,999 bytes, the limit for its size"):
            archive_of(tmp_path, content)
        with monkeypatch.context() as more:
            more.setattr(archives, "FREE_EXPANSION_BYTES", 2_000_000)
            assert contents(archive_of(tmp_path, content, f"fits-{number}")) == zeros
    assert contents(archive_of(tmp_path, tar_of(zeros))) == zeros
    monkeypatch.setattr(archives, "MAX_MEMBERS", 9)
    with pytest.raises(ValueError, match="more than 9 members"):
        archive_of(tmp_path, tar_of(zeros), "many")
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    archive = archive_of(tmp_path, tar_of({"fits": bytes(1000), "large": bytes(1001)}))
    assert archive.read(archive.member(0)) == bytes(1000)
    with pytest.raises(ValueError, match="a file in an archive must have <= 1,000 bytes, got 1,001"):
        archive.read(archive.member(1))


def test_a_compressed_tar_file_is_decompressed_once_with_progress(tmp_path):
    decompressed = []

    def track(counts, total):
        for count in counts:
            decompressed.append((count, total))
            yield count

    (tmp_path / "a.tgz").write_bytes(content := gzip.compress(tar_of({"a": random.Random(0).randbytes(5_000_000)})))
    for _ in range(2):
        Archive(tmp_path / "a.tgz", tmp_path / "cache", track)
        assert sum(count for count, _ in decompressed) == len(content) and {total for _, total in decompressed} == {
            len(content)
        }
    before = Archive(tmp_path / "a.tgz", tmp_path / "cache").fingerprint
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar_of({"b": b"1"})))
    after = Archive(tmp_path / "a.tgz", tmp_path / "cache")
    assert after.names == ("b",) and after.fingerprint != before


def test_damage_of_every_kind_is_an_error_that_names_the_file(tmp_path, must_end):
    """2,000 archives with bytes overwritten, cut out, doubled or cut off: read, or refused by a ValueError."""
    draw = random.Random(2012)
    small = {"a/1.jpg": b"one" * 40, "b/2.jpg": b"two", f"{LONG}/3.jpg": b"3"}
    intact = [
        tar_of(small)[:6144],
        tar_of(small, tarfile.GNU_FORMAT)[:6144],
        tar_of({"a.tar": tar_of(small)[:6144], "b": b"1"}),
        zip_of(small),
        zip_of(small, zipfile.ZIP_STORED),
        gzip.compress(tar_of(small)),
    ]
    outcomes = {"read": 0, "refused": 0}
    for number in range(2000):
        content = bytearray(intact[number % len(intact)])
        for _ in range(draw.choice((1, 1, 2, 8))):
            start = draw.randrange(len(content))
            span = draw.choice((1, 1, 4, 100))
            content[start : start + span] = draw.choice(
                (
                    *(bytes([draw.randrange(256)]), draw.randbytes(span), b"\xff" * span, b"\0" * span, b"7" * span),
                    *(b"", bytes(content[start : start + span]) * 2),
                )
            )
        if number % 2 and content[257:262] == b"ustar":  # a checksum that hides the damage
            content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * 32 + sum(content[156:512]))
        try:
            archive = archive_of(tmp_path, content, f"{number}")
            contents(archive)
            outcomes["read"] += 1
        except ValueError as error:
            assert f"{tmp_path / str(number)}" in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 200
    assert all(path.is_file() or path.name == "cache" for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2001
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".npz", ".lock", ".tar"}


@pytest.mark.parametrize("folder", [b"photos\\red\\", "表\\".encode("cp932"), "ソ表/".encode("cp932")])
def test_names_in_a_zip_file_of_another_system(tmp_path, folder):
    """Old versions of .NET write backslashes; in Shift JIS they are also the second half of a letter."""
    names = {folder: b"", folder + b"0.png": b"image", folder + b"1.png": b"another"}
    content = zip_of({"n" * (len(name) - 1) + str(index): data for index, (name, data) in enumerate(names.items())})
    for index, name in enumerate(names):
        content = content.replace(("n" * (len(name) - 1) + str(index)).encode(), name)
    (tmp_path / "x.zip").write_bytes(content)
    archive = Archive(tmp_path / "x.zip", tmp_path / "cache")
    text = folder.decode("cp932").replace("\\", "/")
    assert archive.names == (f"{text}0.png", f"{text}1.png")
    assert [archive.read(archive.member(index)) for index in (0, 1)] == [b"image", b"another"]
