"""Threads and processes that calls leave behind: which of them may meet another function.

Libraries keep threads and helper processes for later use: idle workers of a pool, monitors, resource
trackers. They do nothing for a call that has ended, so they stay. A thread that runs anything else might
still work for its call, and its runner is used for that function only.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Collection
from types import FrameType
from typing import Any

#: Attributes with the process id of a helper process, by module.
HELPERS = {
    "multiprocessing.resource_tracker": ("_resource_tracker", "_pid"),
    "multiprocessing.forkserver": ("_forkserver", "_forkserver_pid"),
    "loky.backend.resource_tracker": ("_resource_tracker", "_pid"),
    "joblib.externals.loky.backend.resource_tracker": ("_resource_tracker", "_pid"),
}
#: Modules whose threads may be other than daemons: idle workers of pools.
POOLS = ("concurrent.futures.thread", "multiprocessing.pool")
#: Ended children that nothing has waited for: only this many of them are ignored.
MAX_ENDED = 16
_INSTALLED = tuple(
    os.path.join(path, "")
    for path in {
        *sys.path,
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
    if path and os.path.isabs(path)
)
_STANDARD = (os.path.join(sysconfig.get_path("stdlib"), ""), "<frozen ")


def threads(before: Collection[int | None], more: int) -> bool:
    """Return whether a thread is left that may still work for a call.

    ``before``: identifiers of the runner's own threads; ``more``: number of other threads.
    """
    new = [thread for thread in threading.enumerate() if thread.ident not in before]
    if len(new) < more:
        return True  # started without module threading
    frames = sys._current_frames()
    return not all(_harmless(thread, frames.get(thread.ident or 0)) for thread in new)


def tasks() -> int:
    """Return the number of threads of this process, whoever started them; 0 where the system does not say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def wait_for_threads(known: int, patience: float = 0.01) -> None:
    """Give new threads a moment (seconds) until Python counts more than ``known``: it does once they run."""
    until = time.monotonic() + patience
    while _thread._count() <= known and time.monotonic() < until:
        time.sleep(0.0005)


def _harmless(thread: threading.Thread, frame: FrameType | None) -> bool:
    """Return whether a thread belongs to an installed library and runs only code of such libraries now."""
    target: Any = getattr(thread, "_target", None) or type(thread).run
    module = getattr(target, "__module__", None)
    if module in (None, "threading", "builtins") or not _installed(sys.modules.get(str(module))):
        return False
    if not thread.daemon and module not in POOLS and not _waits_for_the_end(frame):
        return False
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_INSTALLED, "<frozen ")):
            return False
        if module in POOLS and (not file.startswith(_STANDARD) or "-packages" in file):
            return False  # the worker of the pool is not idle
        frame = frame.f_back
    return True


def _waits_for_the_end(frame: FrameType | None) -> bool:
    """Return whether a thread waits without limit for the main thread, as exit handlers of libraries do."""
    while frame is not None and frame.f_code.co_filename == threading.__file__:
        if frame.f_code is threading.Thread.join.__code__:
            values = frame.f_locals
            return values.get("self") is threading.main_thread() and values.get("timeout") is None
        frame = frame.f_back
    return False


def _installed(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.startswith(_INSTALLED)


def children() -> bool:
    """Return whether there are child processes other than known helpers."""
    try:
        # query without reaping: a child's exit status belongs to the code that started it
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    helpers = {_helper(*names) for names in HELPERS.items()}
    try:
        running, ended = _children()
    except OSError:
        return True  # no /proc on this system
    return bool(running - helpers) or len(ended) > MAX_ENDED


def running() -> set[int]:
    """Return process ids of children that run; empty where the system does not list them."""
    try:
        return _children()[0]
    except OSError:
        return set()


def kill(pids: set[int]) -> None:
    """Kill children and wait for their end."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError, PermissionError):
            pass


def _helper(module: str, path: tuple[str, str]) -> int | None:
    owner = getattr(sys.modules.get(module), path[0], None)
    return getattr(owner, path[1], None)


def _children() -> tuple[set[int], set[int]]:
    """Return process ids of children that run, and of those that have ended."""
    running: set[int] = set()
    ended: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found = [int(word) for word in file.read().split()]
        except FileNotFoundError:
            if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
                raise  # a kernel without this file
            continue
        for pid in found:
            (ended if _has_ended(pid) else running).add(pid)
    return running, ended


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return False
