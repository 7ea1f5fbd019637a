import subprocess
import sys
import time

import pytest

from alexnet import files
from alexnet.files import atomic_write, file_lock

COUNT = """
import sys, time
from pathlib import Path
from alexnet.files import file_lock

path = Path(sys.argv[1])
for _ in range(20):
    with file_lock(path):
        count = int(path.read_text())
        time.sleep(0.002)
        path.write_text(str(count + 1))
"""
HOLD = """
import sys, time
from pathlib import Path
from alexnet.files import file_lock

with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class Clock:
    """Runs only while the program sleeps."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        time.sleep(0.001)
        self.now += seconds


def test_one_process_at_a_time_holds_a_lock(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, path]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert path.read_text() == "80"


def test_a_waiting_process_is_notified_once_and_a_killed_holder_releases_the_lock(tmp_path, monkeypatch):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "file"], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    clock, notified = Clock(), []
    monkeypatch.setattr(files, "time", clock)

    def on_wait():
        notified.append(clock.now)
        holder.kill()

    with file_lock(tmp_path / "file", on_wait):
        assert holder.wait() != 0
        assert len(notified) == 1 and files.WAIT_NOTICE_S < notified[0] < files.WAIT_NOTICE_S + 0.1
    with file_lock(tmp_path / "file", on_wait):  # free again
        assert len(notified) == 1
    holder.stdout.close()


def test_an_error_leaves_nothing_half_written(tmp_path):
    (tmp_path / "file").write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == "before"
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "after"
