"""Favours of the system for runners."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

# asks with the system call that the module does not use
ASK = """
import ctypes, json, os, struct, sys
from endpoint_worker.child import linux
os.nice(3)
done = linux.short_time_slices(0.0005)
attributes = ctypes.create_string_buffer(48)
number = {"x86_64": 315, "aarch64": 275}[os.uname().machine]
failed = ctypes.CDLL(None).syscall(number, 0, attributes, 48, 0)
_, policy, _, nice, _, turn, _, _ = struct.unpack("=IIQiIQQQ", attributes.raw)
print(json.dumps([done, failed, policy, nice, turn]))
"""


def test_short_turns_are_asked_for_and_the_rest_stays() -> None:
    machine, version = platform.machine(), tuple(map(int, platform.release().split(".")[:2]))
    if machine not in ("x86_64", "aarch64") or version < (6, 12):
        pytest.skip(f"Linux {platform.release()} on {machine} has no turns of one's own")
    ran = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == [True, 0, 0, 3, 500_000]


def test_who_has_another_policy_keeps_it() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("policies are Linux's")
    code = (
        "import os; from endpoint_worker.child import linux; "
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); "
        "print(linux.short_time_slices(0.0005), os.sched_getscheduler(0) == os.SCHED_BATCH)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["False", "True"]
