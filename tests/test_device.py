"""Limits of containers, from made-up files of Linux control groups, and the threads that follow from them."""

import contextlib
import json
import math
import os
import platform
import subprocess
import sys

import pytest
import torch

import alexnet
from alexnet import device


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty root in place of the machine's, with eight processors and 2^34 bytes of memory."""
    monkeypatch.setattr(device, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**22}[name])
    return tmp_path


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_control_groups_the_machine_is_the_limit(root):
    assert (device.processors(), device.memory()) == (8, 2**34)


def test_version_2(root):
    write(
        root,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "1073741824\n",
            "sys/fs/cgroup/cpu.max": "250000 100000\n",
        },
    )
    assert (device.processors(), device.memory()) == (3, 2**30)
    assert device.fits_memory(0.8 * 2**30) and not device.fits_memory(2**30)


def test_limits_of_parents_hold_and_max_is_none(root):
    write(
        root,
        {
            "proc/self/cgroup": "0::/pods/mine\n",
            "sys/fs/cgroup/pods/mine/memory.max": "max\n",
            "sys/fs/cgroup/pods/mine/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pods/memory.max": "4096\n",
            "sys/fs/cgroup/pods/cpu.max": "50000 100000\n",
        },
    )
    assert (device.processors(), device.memory()) == (1, 4096)


def test_version_1(root):
    write(
        root,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n",  # a container sees its own as the root
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert (device.processors(), device.memory()) == (4, 2**20)
    write(root, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"})
    write(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert (device.processors(), device.memory()) == (8, 2**34)


def test_version_1_where_controllers_share_a_mount(root):
    files = {"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"}
    write(root, {f"sys/fs/cgroup/cpu,cpuacct/mine/{name}": text for name, text in files.items()})
    write(root, {"proc/self/cgroup": "5:cpu,cpuacct:/mine\n"})
    assert device.processors() == 2


def test_unknown_memory_is_unlimited(root, monkeypatch):
    def fail(name):
        raise ValueError

    monkeypatch.setattr(os, "sysconf", fail)
    assert device.memory() == math.inf and device.fits_memory(1e18)


def test_an_unknown_precision_names_the_known_ones():
    with pytest.raises(ValueError, match="precision must be auto, fp32 or bf16, got 'half'"):
        device.pick_precision("half", device.pick_device("cpu"))


@pytest.mark.parametrize("in_hardware", [False, True])
def test_bf16_is_chosen_only_where_the_hardware_has_it(monkeypatch, in_hardware):
    """A T4 (compute capability 7.5) emulates it, an A100 (8.0) has it."""

    def is_supported(including_emulation=True):
        return including_emulation or in_hardware

    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert device.pick_precision("auto", torch.device("cuda")) == ("bf16" if in_hardware else "fp32")


def test_missing_kernels_are_said(each_way):
    words = device.describe_device(torch.device("cpu"), "fp32")
    assert words.startswith("cpu, ") and words.endswith("no C kernels") == (each_way == "plain torch")


@pytest.fixture
def default_threads(root, monkeypatch):
    """A process to which nobody has said how many threads it has; torch then has one for each core."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "_threads_are_set", False)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield root
    torch.set_num_threads(before)


QUOTA_OF_3 = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}


def threads_of_classifier():
    alexnet.Classifier("cifar-18", "cpu", "fp32")
    return torch.get_num_threads()


def test_threads_follow_the_quota_of_the_container(default_threads):
    write(default_threads, QUOTA_OF_3)
    assert (threads_of_classifier(), device.decoders()) == (3, 3)


def test_torch_has_a_thread_per_core_and_decoding_one_per_processor(default_threads):
    siblings = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    write(default_threads, {siblings.format(index): f"{index % 4},{index % 4 + 4}\n" for index in range(8)})
    assert (threads_of_classifier(), device.decoders()) == (4, 8)


@pytest.mark.parametrize(("processes", "expected"), [(2, 4), (3, 2), (8, 1), (20, 1)])
def test_each_process_of_a_machine_has_its_part(default_threads, monkeypatch, processes, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert (threads_of_classifier(), device.decoders()) == (expected, expected)
    words = device.describe_device(torch.device("cpu"), "fp32")
    assert f"{expected} thread{'s' * (expected > 1)} in each of {processes} processes" in words


def test_threads_of_processes_that_are_about_to_be_started_are_said(default_threads, monkeypatch):
    assert device.describe_device(torch.device("cpu"), "fp32", 3).startswith("cpu, 2 threads in each of 3 processes,")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert device.describe_device(torch.device("cpu"), "fp32", 3).startswith("cpu, 8 threads in each of 3 processes,")


def test_processes_that_the_launcher_has_bound_have_all_of_their_processors(default_threads, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    own, launcher = {*range(16, 32)}, {*range(32)}  # two of the four processes on each half of the machine
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: launcher if pid else own)
    assert device.threads() == 8


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_users_variable_wins(default_threads, monkeypatch, variable):
    write(default_threads, QUOTA_OF_3)
    monkeypatch.setenv(variable, "8")
    assert threads_of_classifier() == 8


def test_the_users_call_wins_before_and_after(default_threads):
    write(default_threads, QUOTA_OF_3)
    torch.set_num_threads(5)
    assert threads_of_classifier() == 5
    torch.set_num_threads(2)
    assert threads_of_classifier() == 2


@pytest.mark.parametrize(("users", "expected"), [("", 4), ("OMP_NUM_THREADS=1", 1)])
def test_the_one_thread_of_torchrun_is_no_users_wish(default_threads, monkeypatch, users, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    write(default_threads, {f"proc/{os.getppid()}/environ": f"HOME=/root\0{users}\0PATH=/bin\0"})
    assert threads_of_classifier() == expected


def test_torchrun_itself_leaves_each_process_its_part(tmp_path):
    script = "import torch; from alexnet import device; device.set_threads(); print('threads', torch.get_num_threads())"
    (tmp_path / "script.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, str(tmp_path / "script.py")], env=environment, capture_output=True, text=True)
    part = max(1, device.threads() // 2)
    assert done.stdout.splitlines() == [f"threads {part}"] * 2, done.stderr


def test_importing_changes_nothing_and_the_command_sets_what_the_user_did_not():
    program = """
import json, os, sys
before = dict(os.environ)
import alexnet
from alexnet import cli
assert os.environ == before
sys.argv = ["alexnet", "--version"]
cli.main()
print(json.dumps({name: value for name, value in os.environ.items() if before.get(name) != value}))
"""

    def set_by_command(**given):
        unset = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", *device.SPINNING)
        environment = {name: value for name, value in os.environ.items() if name not in unset} | given
        output = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        return json.loads(output.stdout.splitlines()[-1])

    ours = device.SPINNING | {"OPENBLAS_NUM_THREADS": str(device.threads())}
    assert set_by_command() == ours
    assert set_by_command(OMP_WAIT_POLICY="active", OMP_NUM_THREADS="2") == {}
    assert set_by_command(GOMP_SPINCOUNT="7") == {name: ours[name] for name in ours if name != "GOMP_SPINCOUNT"}


def test_other_software_is_started_in_the_users_environment(monkeypatch):
    monkeypatch.setattr(device, "OF_COMMAND", {"GOMP_SPINCOUNT": "10000"})
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    with device.users_environment():
        assert "GOMP_SPINCOUNT" not in os.environ
    assert os.environ["GOMP_SPINCOUNT"] == "10000"


RETURNS = """
import numpy as np
from pathlib import Path
from alexnet.device import keep_freed_memory, return_freed_memory
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
keep_freed_memory()
images = np.ones(100_000_000, np.uint8)
del images
kept = resident()
return_freed_memory()
print(kept - resident() > 90_000_000)
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_that_the_command_keeps_is_returned_when_others_need_it():
    assert subprocess.run([sys.executable, "-c", RETURNS], capture_output=True, text=True).stdout == "True\n"
