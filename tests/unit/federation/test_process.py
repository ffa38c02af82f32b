"""What the server processes share."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# page faults of a process that repeatedly allocates and frees a large block, before and after
FAULTS = """
import resource
from federation.process import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytes(8 * 1024 * 1024)[::2]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
assert keep_memory()
faults()
print(before, faults())
"""


def test_freed_memory_is_used_again() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc is told")
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=60, check=True
    )
    before, after = map(int, ran.stdout.split())
    assert after < before / 10, (before, after)
