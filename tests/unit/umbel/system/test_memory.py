"""Rarer garbage collections: cycles are found, in what is new."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import gc, weakref
from umbel.system.memory import NEW_OBJECTS, collect_less_often

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

collect_less_often()
assert gc.isenabled() and gc.get_freeze_count() > 1000
left = cycle()
kept = [[] for _ in range(1000)]
assert left() is not None, "the default would have found it"
kept += [[] for _ in range(2 * NEW_OBJECTS)]
assert left() is None, "it is found"
"""


def test_cycles_are_found_later() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
