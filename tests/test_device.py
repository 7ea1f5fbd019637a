"""Limits of containers, from made-up files of Linux control groups."""

import contextlib
import math
import os

import pytest
import torch

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
