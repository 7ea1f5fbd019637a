"""Some of the cases of benchmarks/fuzz.py: each is read or refused, within limits of time and memory."""

import os
import sys

import pytest
from fuzz import SHARES, fuzz

CASES = int(os.environ.get("ALEXNET_FUZZ", "10000"))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
@pytest.mark.parametrize("reader", SHARES)
def test_damaged_input_is_read_or_refused(reader):
    assert fuzz(CASES * SHARES[reader] // 100, seed=1, only=reader) == {reader: []}
