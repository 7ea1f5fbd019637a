"""What machines and accidents do: folders with unlucky names, disks that come back, processes that end, no locks."""

import contextlib
import errno
import hashlib
import http.server
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import fit, write_colors

from alexnet import Classifier, files, session
from alexnet.cli import main
from alexnet.data.check import check_source
from alexnet.data.pack import packing, workers
from alexnet.data.pack.packing import PackOptions, make_pack
from alexnet.data.pack.statistics import pack_statistics
from alexnet.data.sources.detection import open_source
from alexnet.files import atomic_write, remove_abandoned
from alexnet.runs.run import Run
from alexnet.training import loop
from alexnet.training.loop import Epoch

needs_root_to_be_absent = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")


@pytest.fixture
def in_processes(monkeypatch):
    monkeypatch.setattr(workers, "MAX_INLINE", 0)


@pytest.mark.parametrize("module", ["numpy", "alexnet", "random", "PIL", "typing"])
def test_decoders_import_nothing_from_the_current_folder(folder, module, monkeypatch, in_processes):
    (folder / f"{module}.py").write_text("open('ran', 'w')\nraise ImportError")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep)  # two empty entries, each of which is the current folder
    assert not make_pack(open_source(folder), 8, options=PackOptions(workers=1)).unreadable
    assert not (folder / "ran").exists()


def test_neither_does_the_module_as_a_command(folder):
    (folder / "numpy.py").write_text("open('ran', 'w')\nraise ImportError")
    done = subprocess.run([sys.executable, "-m", "alexnet", "check", ".", "--brief"], cwd=folder, capture_output=True)
    assert done.returncode == 0 and not (folder / "ran").exists(), done.stderr


def test_decoders_that_cannot_start_are_no_fault_of_the_images(folder, monkeypatch, in_processes):
    monkeypatch.setattr(workers, "START", "raise ImportError")
    with pytest.raises(OSError, match=r"a process that decodes images cannot start \(exit code 1\)"):
        check_source(open_source(folder), 8)


GONE = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("jpeg", [None, 90])
@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("error", [GONE, MemoryError(), PermissionError(errno.EACCES, "Permission denied")])
def test_a_passing_failure_is_not_remembered(folder, monkeypatch, error, count, jpeg):
    """Of three images, which are left out of the pack, or of forty, too many for one."""
    source, options = open_source(folder), PackOptions(jpeg)
    real, failing = packing.stored_square, True

    def square(image, *how):
        if failing and image.fp.name.endswith(names):
            raise error
        return real(image, *how)

    names = tuple(f"{number:02}.png" for number in range(20))[-(count // 3) or -1 :] if count > 3 else ("05.png",)
    monkeypatch.setattr(packing, "LOG_S", 0.0)
    monkeypatch.setattr(packing, "stored_square", square)
    if count > 3:
        with pytest.raises(ValueError, match=r"red/|green/|blue/"):
            make_pack(source, 8, options=options)
    else:
        assert len(make_pack(source, 8, options=options).unreadable) == 3
        assert len(make_pack(source, 8, options=options).unreadable) == 3
    failing, messages = False, []
    packed = make_pack(source, 8, options=options, notify=messages.append)
    assert not packed.unreadable and not packed.passing and np.asarray(packed.images[:]).any((1, 2, 3)).all()
    assert [message.rpartition(" ")[2] for message in messages] == ["again"] * (count == 3)


def test_a_damaged_image_is_tried_once(folder, monkeypatch):
    (folder / "red" / "05.png").write_bytes(b"\x89PNG")
    source = open_source(folder)
    assert list(make_pack(source, 8).unreadable.values()) == [
        "not an image of a known format, or its header is damaged"
    ]
    monkeypatch.setattr(packing, "stored_square", None)
    assert len(make_pack(source, 8).unreadable) == 1


KILLED = """
import os, signal

class Killed:
    def run(self, index, location):
        if index == 3:
            os.kill(os.getpid(), getattr(signal, location))
"""


@linux
@pytest.mark.parametrize(
    ("name", "passes"), [("SIGKILL", True), ("SIGTERM", True), ("SIGSEGV", False), ("SIGPROF", False)]
)
def test_who_ended_a_decoder(tmp_path, monkeypatch, name, passes, in_processes):
    (tmp_path / "killed.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("killed", None)
    import killed

    images = [(index, name) for index in range(5)]
    results = [each for some in workers.run_task(killed.Killed(), images, 5, 1) for each in some]
    assert [isinstance(each, workers.Failed) for each in results] == [False, False, False, True, False]
    assert results[3].is_passing is passes and ("seconds" in results[3].reason) == (name == "SIGPROF")


SLOW_OR_LARGE = """
class SlowOrLarge:
    def run(self, index, location):
        if location == "slow":
            while True:
                pass
        return len(bytearray(int(location)))
"""


@linux
def test_an_image_has_limits_of_time_and_memory(tmp_path, monkeypatch, in_processes):
    (tmp_path / "slow_or_large.py").write_text(SLOW_OR_LARGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(workers, "START", "import alexnet.device as d; d.memory = lambda: 1e9; " + LIMITED)
    import slow_or_large

    images = enumerate(["1000", "slow", str(900_000_000), "1001"])
    run = workers.run_task(slow_or_large.SlowOrLarge(), images, 4, 1)
    results = []
    with pytest.raises(MemoryError):
        results += [each for some in run for each in some]
    images = enumerate(["1000", "slow", "1001"])
    run = workers.run_task(slow_or_large.SlowOrLarge(), images, 3, 1)
    assert [each for some in run for each in some] == [
        1000,
        workers.Failed("it takes more than 30 seconds to decode"),
        1001,
    ]


LIMITED = "import alexnet.data.pack.workers as w; w.IMAGE_CPU_S = 0.3; w.serve(1)"


def test_one_set_does_not_remove_the_unfinished_pack_of_another_of_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "LOG_S", 0.0)

    def stop(counts, total):
        yield next(counts)
        yield next(counts)
        raise KeyboardInterrupt

    for place in ("a", "b"):
        write_colors(tmp_path / place / "photos", 30)
        with pytest.raises(KeyboardInterrupt):
            make_pack(open_source(tmp_path / place / "photos"), 8, tmp_path / "cache", track=stop)
    packs = tmp_path / "cache" / "packs"
    assert len(list(packs.glob("*.log"))) == 2
    (tmp_path / "a" / "photos" / "red" / "00.png").unlink()
    make_pack(open_source(tmp_path / "a" / "photos"), 8, tmp_path / "cache")  # whose images have changed
    (left,) = packs.glob("*.log")
    os.utime(left, (time.time() - 40 * 86400,) * 2)
    make_pack(open_source(tmp_path / "a" / "photos"), 9, tmp_path / "cache")
    assert not list(packs.glob("*.log")) and not list(packs.glob("*.part"))


NO_LOCKS = """
import errno, fcntl, sys, time
from pathlib import Path

def flock(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = flock
from alexnet.data.pack.packing import make_pack
from alexnet.data.pack.statistics import pack_statistics
from alexnet.data.sources.detection import open_source

print(make_pack(open_source(sys.argv[1]), 32, Path(sys.argv[2])).images[:].any((1, 2, 3)).all())
"""


@linux
def test_two_packings_without_locks_do_not_meet(folder, tmp_path):
    command = [sys.executable, "-c", NO_LOCKS, str(folder), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["True\n"] * 2
    names = [path.name for path in (tmp_path / "cache" / "packs").iterdir() if path.suffix != ".lock"]
    assert len(names) == 1 and names[0].endswith(".safetensors")


KILLED_WRITER = """
import os, sys
from pathlib import Path
from alexnet.files import atomic_write

with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.with_name(".tmpXyz").write_text("a library's own")
    print(flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    path = tmp_path / "last.safetensors"
    command = [sys.executable, "-c", KILLED_WRITER, str(path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.stdout.readline()
    (tmp_path / "run.json.abcd_123.part").mkdir()  # of a process that has not yet locked it
    (tmp_path / "mine.part").write_text("of somebody else")
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    both[0].kill()
    both[0].wait()
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert len(list(tmp_path.iterdir())) == 4 and path.read_text() == "new"
    both[1].communicate()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "last.safetensors",
        "mine.part",
        "run.json.abcd_123.part",
    ]
    long_ago = time.time() - 2 * 86400
    os.utime(tmp_path / "run.json.abcd_123.part", (long_ago, long_ago))
    remove_abandoned(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["last.safetensors", "mine.part"]


def test_old_files_and_folders_of_a_user_stay_whatever_they_are_called(tmp_path):
    photos = [tmp_path / name / "IMG_1.jpg" for name in ("archive.part", "archive.abcd_123.part")]
    for path in photos:
        path.parent.mkdir()
        path.touch()
    mine = [*photos, tmp_path / "film.001.part", tmp_path / "film.abcd_123.part"]
    for path in mine:
        path.touch()
    (tmp_path / "empty.part").mkdir()
    long_ago = time.time() - 2 * 86400
    for path in (*mine, *tmp_path.iterdir()):
        os.utime(path, (long_ago, long_ago))
    with atomic_write(tmp_path / "network.onnx") as temporary:
        temporary.write_text("new")
    assert all(path.exists() for path in (*mine, tmp_path / "empty.part"))


@needs_root_to_be_absent
def test_a_cache_that_cannot_be_written_to_names_the_remedy(folder, tmp_path, monkeypatch, capsys):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    try:
        with pytest.raises(SystemExit):
            main(["pack", str(folder)])
    finally:
        tmp_path.chmod(0o700)
    assert "Permission denied; set the environment variable ALEXNET_CACHE" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_cache_names_the_remedy(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(SystemExit):
        main(["pack", str(folder)])
    assert "packs, for packs and downloads, cannot be written to: Not a directory; set the" in capsys.readouterr().err


def test_the_cache_is_in_the_home_that_its_name_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ALEXNET_CACHE", "~/kept")
    assert files.cache_folder() == tmp_path / "kept"
    monkeypatch.setenv("ALEXNET_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder() == tmp_path / ".cache" / "alexnet"


class Server(http.server.BaseHTTPRequestHandler):
    bodies: ClassVar = []
    log_message = lambda *_: None  # noqa: E731

    def do_GET(self):
        self.send_response(200)
        self.end_headers()  # without Content-Length: nobody knows whether it is whole
        self.wfile.write(self.bodies.pop(0))


@pytest.mark.parametrize("wrong", ["a login page", "half of it"])
def test_a_wrong_download_is_asked_for_again(folder, tmp_path, wrong):
    content = Path(shutil.make_archive(tmp_path / "photos", "zip", folder)).read_bytes()
    Server.bodies = [{"a login page": b"<html>Please log in", "half of it": content[:3000]}[wrong], content]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/photos.zip"
        with pytest.raises(ValueError, match=r"(must be a zip|cannot be read as an arch).*; removed, so that the next"):
            open_source(url)
        assert len(open_source(url)) == len(open_source(url)) == 60
        server.shutdown()


def harmed(content):
    return [b"", content[:-20], content[:100], b"junk" * 50, content[:300] + b"\xff" + content[301:]]


@pytest.mark.parametrize("kind", ["the list of an archive", "a decompressed archive", "statistics"])
def test_damaged_files_of_the_cache_are_made_anew(folder, tmp_path, kind):
    archive = shutil.make_archive(tmp_path / "photos", "gztar", folder)
    packed = make_pack(open_source(archive), 8)
    intact = vars(pack_statistics(packed))
    pattern = {"statistics": "packs/*.statistics.safetensors", "the list of an archive": "archives/*.npz"}
    (path,) = files.cache_folder().glob(pattern.get(kind, "archives/*.tar"))
    content = path.read_bytes()
    for damage in harmed(content)[: 3 if kind == "a decompressed archive" else None]:
        path.write_bytes(damage)
        source = open_source(archive)
        assert len(source) == 60 and source.open(0).size == (40, 36)
        assert all((intact[name] == array).all() for name, array in vars(pack_statistics(packed)).items())
    assert path.read_bytes() == content or kind != "statistics"


def test_ctrl_c_during_the_evaluation_says_how_to_go_on(folder, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "write_report", interrupt)
    command = ["train", str(folder), "--epochs", "1", "--variant", "cifar-18", "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main(command)
    assert f"progress is saved, to go on: alexnet {shlex.join(command)} --resume" in capsys.readouterr().err


NO_MEMORY = [RuntimeError("can't allocate memory: you tried to allocate 8 bytes"), MemoryError()]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_what_was_learned_is_not_lost_when_the_evaluation_fails(folder, tmp_path, monkeypatch, error, capsys):
    def evaluate(*arguments, **named):
        raise error

    command = ["train", str(folder), "--epochs", "1", "--variant", "cifar-18", "--output", str(tmp_path / "run")]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(session, "write_report", evaluate)
        main(command)
    message = capsys.readouterr().err
    assert "last.safetensors has the trained network, but it could not be evaluated" in message
    assert f"To try that again: --resume --output {tmp_path / 'run'}" in message and "Traceback" not in message
    main(["train", str(folder), "--resume", "--output", str(tmp_path / "run")])
    assert (tmp_path / "run" / "report.html").exists()


def test_what_was_learned_is_not_lost_when_a_validation_fails(folder, tmp_path, monkeypatch, capsys):
    """The checkpoint of the first epoch is there when the validation of the second one lacks memory."""
    calls, evaluate = [], loop.evaluate

    def failing(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("could not create a primitive")  # oneDNN's words
        return evaluate(*arguments, **named)

    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop, "evaluate", failing)
        patch.setattr("alexnet.runs.checkpoints.EPOCH_S", 0)
        main(["train", str(folder), "--epochs", "2", "--variant", "cifar-18", "--output", str(run)])
    message = capsys.readouterr().err
    assert "out of memory after epoch 1 and" in message and "Traceback" not in message
    assert f"to go on from the last checkpoint: --resume --output {run}" in message
    main(["train", str(folder), "--resume", "--output", str(run)])
    assert len(Run(run).history()) == 2 and (run / "report.html").exists()


@pytest.mark.parametrize("error", NO_MEMORY)
def test_any_command_says_that_memory_is_out(monkeypatch, error, capsys):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr("alexnet.classifier.load", fail)
    with pytest.raises(SystemExit):
        main(["predict", "run", "image.png"])
    assert capsys.readouterr().err.startswith("alexnet: out of memory (")


def test_a_run_survives_that_its_record_is_removed_meanwhile(folder, tmp_path):
    classifier = Classifier("cifar-18", "cpu", "fp32")
    fit(classifier, folder, 2, (tmp_path / "run" / "run.json").unlink, epochs=1, output=tmp_path / "run")
    assert Run(tmp_path / "run").record()["results"]


@pytest.mark.parametrize("line", ["text.usetex: True", 'axes.prop_cycle: cycler("color", [])', "font.size: -3"])
def test_the_report_obeys_no_style_of_the_folder(folder, tmp_path, line):
    (tmp_path / "matplotlibrc").write_text(f"{line}\n")
    command = [sys.executable, "-m", "alexnet", "train", str(folder), "--epochs", "1", "--variant", "cifar-18"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and list(tmp_path.glob("runs/*/report.html")), done.stderr[-1000:]


@linux
def test_names_that_are_not_utf_8_stop_nothing(folder, tmp_path):
    os.rename(folder / "red" / "00.png", os.fsencode(folder) + b"/red/br\xf6ken.png")
    with open(os.fsencode(folder) + b"/red/br\xf6ken.png", "wb") as file:
        file.write(b"\x89PNG")
    for encoding in ("utf-8:strict", "latin-1:strict", "ascii:strict"):
        environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "200"}
        command = [sys.executable, "-m", "alexnet", "check", str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0 and rb"red/br\udcf6ken.png" in done.stdout, done.stderr


SLOW = """
import sys, time
from alexnet.data.pack import workers

class Slow:
    def run(self, index, location):
        print(__import__("os").getpid(), file=sys.stderr, flush=True)
        time.sleep(60)

if __name__ == "__main__":
    from slow import Slow

    list(workers.run_task(Slow(), enumerate("abc"), 3, 1))
"""


@linux
def test_decoders_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, tmp_path / "slow.py"], stderr=subprocess.PIPE, env=environment)
    child = int(parent.stderr.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():  # "" of a zombie
        assert time.monotonic() < deadline
        time.sleep(0.05)


def error_of(command, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*map(str, command)])
    return capsys.readouterr().err


@linux
def test_a_pipe_instead_of_a_file_is_refused_and_does_not_block(folder, tmp_path, capsys):
    pipe, image, run = tmp_path / "pipe.png", folder / "red" / "00.png", tmp_path / "run"
    os.mkfifo(pipe)
    classifier = Classifier("cifar-18", "cpu", "fp32")
    classifier.fit(folder, epochs=1, output=run, verbose=False)
    commands = [
        *(["predict", pipe, image], ["predict", run, pipe], ["train", folder, "--pretrained", pipe], ["check", pipe]),
        *(["train", folder, "--labels", pipe], ["import", pipe, "--output", tmp_path / "new"], ["pack", pipe]),
    ]
    for command in commands:
        error = error_of(command, capsys)
        assert "pipe.png" in error and "not a" in error and error.count("\n") == 1, error
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({name: record[name] for name in record if name != "results"}))
    for name in ("run.json", "split.csv", "last.safetensors", "metrics.jsonl"):
        theirs = shutil.copytree(run, tmp_path / name)
        (theirs / name).unlink()
        os.mkfifo(theirs / name)
        error = error_of(["train", folder, "--resume", "--output", theirs], capsys)
        assert "is neither a file nor a folder" in error or "no run to resume" in error
        if name == "last.safetensors":
            assert "not a regular file" in error_of(["predict", theirs, image], capsys)


def test_lists_of_comments_or_of_nothing_take_little_memory_and_time(folder, tmp_path):
    rows = "image,label\ncolors/red/00.png,red\ncolors/blue/00.png,blue\n"
    (tmp_path / "list.csv").write_text("#\n" * 300_000 + rows)
    tracemalloc.start()
    assert len(open_source(tmp_path / "list.csv")) == 2 and tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    for end in ("\n", "\r", "\r\n", " \n", "\n\t"):
        (tmp_path / "list.csv").write_text(rows + 1_000_010 * end, newline="")
        with pytest.raises(ValueError, match=r"list.csv: it must have <= 1,000,000 empty lines"):
            open_source(tmp_path / "list.csv")
        (tmp_path / "list.csv").write_text(rows + 1000 * end, newline="")
        assert len(open_source(tmp_path / "list.csv")) == 2


def test_large_files_are_compared_without_holding_them(folder):
    with (folder / "red" / "00.png").open("ab") as file:
        file.truncate(50_000_000)
    source = open_source(folder)
    index = list(source.names).index("red/00.png")
    tracemalloc.start()
    digest = source.reader.digest(source.locate(index))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert digest == hashlib.blake2b((folder / "red" / "00.png").read_bytes(), digest_size=16).digest()


@contextlib.contextmanager
def full_disk():
    """A write beyond 10 KB fails with EFBIG, as on a full disk with ENOSPC."""
    import resource

    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@linux
def test_a_full_disk_names_the_file(folder, tmp_path, capsys):
    classifier = Classifier("cifar-18", "cpu", "fp32")
    classifier.fit(folder, epochs=1, output=tmp_path / "run", verbose=False)
    names = {"safetensors": "x", "huggingface": "x/model.safetensors", "npy": "x", "torch-export": "x"}
    commands = {
        str(tmp_path / format / name): ["export", tmp_path / "run", "--format", format, "--output"]
        for format, name in names.items()
    } | {str(tmp_path / "x.png"): ["show", "kernels", tmp_path / "run", "--output"]}
    for file, command in commands.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        with full_disk():
            error = error_of([*command, file.removesuffix("/model.safetensors")], capsys)
        assert error == f"alexnet: {file} cannot be written: File too large\n" and not Path(file).exists()


def test_the_folder_of_pretrained_weights_may_be_gone_after_the_first_checkpoint(folder, tmp_path, capsys):
    classifier = Classifier("cifar-18", "cpu", "fp32")
    classifier.fit(folder, epochs=1, output=tmp_path / "other", verbose=False)
    settings = {"pretrained": tmp_path / "other", "epochs": 3, "output": tmp_path / "run"}
    with contextlib.closing(Classifier("cifar-18", "cpu", "fp32").fit_events(folder, **settings)) as events:
        next(event for event in events if isinstance(event, Epoch))
    shutil.rmtree(tmp_path / "other")
    main(["train", str(folder), "--pretrained", str(tmp_path / "other"), "--resume", "--output", str(tmp_path / "run")])
    assert "resuming after epoch 1" in capsys.readouterr().out and Run(tmp_path / "run").is_finished


def test_where_there_is_nothing_to_resume_the_way_on_is_named(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in ([], ["--output", "new"]):
        error = error_of(["train", folder, "--resume", *output], capsys)
        assert "without --resume a new one starts, and goes on with packing that was interrupted" in error
    with pytest.raises(ValueError, match="without resume=True a new one starts"):
        Classifier("cifar-18").fit(folder, resume=True, output="auto")


def test_an_output_that_is_taken_is_refused_before_packing(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "got the file" in error_of(["train", folder, "--output", tmp_path / "file"], capsys)
    assert not (files.cache_folder() / "packs").exists()


def test_a_run_on_data_with_a_long_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = folder.rename(tmp_path / ("n" * 250))
    Classifier("cifar-18", "cpu", "fp32").fit(named, epochs=1, output="auto", verbose=False)
    assert [len(path.name) for path in (tmp_path / "runs").iterdir()] == [152]


@linux
def test_a_training_whose_output_is_closed_is_saved(folder, tmp_path):
    command = [sys.executable, "-m", "alexnet", "train", folder, "--variant", "cifar-18", "--epochs", "1000"]
    command += ["--batch-size", "8", "--output", tmp_path / "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not process.stdout.readline().startswith("output"):
        pass
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 130
    assert "standard output was closed" in error and "progress is saved, to go on: alexnet train" in error
    assert (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize("size", [0, -1, 20_001])
@pytest.mark.parametrize("command", ["check", "pack"])
def test_a_size_that_is_none_is_refused(folder, command, size, capsys):
    assert "--size must be 1 to 20,000" in error_of([command, folder, "--size", size], capsys)


def test_a_device_that_computes_nothing_is_refused():
    with pytest.raises(ValueError, match="device 'meta' cannot be used here"):
        Classifier(device="meta")


def test_a_picture_that_nobody_named_overwrites_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        main(["show", "network", "small"])
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["network-2.png", "network-3.png", "network.png"]


def test_where_nothing_can_be_written_the_reason_is_named(tmp_path):
    for path, reason in ((tmp_path, "it is a folder"), (tmp_path / "no" / "x", f"{tmp_path / 'no'} is no folder")):
        with pytest.raises(OSError, match=f"{path} cannot be written: {reason}"), atomic_write(path):
            pass
