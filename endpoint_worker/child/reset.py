"""Restores the process between calls, so that the next call finds it unchanged.

After every call: working directory, environment, signal handlers and timers, standard streams. After every
bundle also what would cost too much per call: the settings in ``state``, descriptors 0 to 2. What cannot be
undone inside the process is reported. After threads, child processes and replaced functions the runner serves
the same function only; after changes that affect every later call it is replaced at once.
"""

from __future__ import annotations

import _thread
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

try:
    # the function behind signal.getsignal, without the enum lookup, which takes ten times as long
    from _signal import getsignal as _handler  # type: ignore[import-not-found]
except ImportError:
    from signal import getsignal as _handler

from umbel.system.processes import end_with_parent

from ..ipc.output import OutputWriter, open_stream
from . import leftovers, linux
from .call_directory import CallDirectory
from .state import State, reseed

#: Descriptors that a runner may have when it runs another function: modules keep some open.
MAX_LEFT_OPEN = 64


class Baseline:
    """The state of this process now, which ``after_call`` and ``after_bundle`` restore.

    ``parent``: process whose end must end this one, or 0.

    Changes of signal handlers are detected by wrapping the functions of module ``signal`` that make them:
    reading sixty handlers after every call would cost more than most calls.
    """

    def __init__(self, output: OutputWriter, directory: CallDirectory, parent: int = 0) -> None:
        self._output = output
        self._parent = parent
        self._directory = directory
        # dicts of bytes, as os.environ keeps them: comparing them takes less than a microsecond
        self._environment = dict(os.environ._data)  # type: ignore[attr-defined]
        self._handlers = {number: _handler(number) for number in _catchable()}
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._threads = _thread._count()
        self._tasks = leftovers.tasks()
        self._own_threads = frozenset(thread.ident for thread in threading.enumerate())
        self._variables_touched: set[bytes] = set()
        self._function: str | None = None
        self._signals_touched = False
        #: True in a child process forked by a call: it must not continue as a runner
        self.forked = False
        for name in ("signal", "alarm", "setitimer", "siginterrupt", "set_wakeup_fd"):
            setattr(signal, name, self._watch(getattr(signal, name)))
        # os.environ uses them, too
        os.putenv, os.unsetenv = self._watch_variable(os.putenv), self._watch_variable(os.unsetenv)
        os.register_at_fork(after_in_child=self._after_fork)
        self._state = State()

    def after_call(self, kept_as: str | None = None) -> None:
        """Undo the changes of a call; costs about two microseconds if it changed nothing.

        ``kept_as``: keep the files in its directory by this name.
        """
        if os.environ._data != self._environment:  # type: ignore[attr-defined]
            self._restore_environment()
        if self._directory.used():
            self._directory.renew(kept_as)
        if self._signals_touched:
            self._restore_signals()
        try:
            # fails for a closed descriptor, at a quarter of the cost of fstat
            os.get_blocking(1), os.get_blocking(2)
        except OSError:
            _reopen()
            self._output.repair()
        if (sys.stdin, sys.stdout, sys.stderr) != self._streams or sys.stdout.closed or sys.stderr.closed:
            self._restore_streams()

    def before_bundle(self, function: str) -> None:
        """Do what only another function than the last one needs."""
        if function != self._function:
            if self._function is not None:
                reseed()
            self._function = function

    def after_bundle(self) -> tuple[str, str]:
        """Undo the remaining changes.

        Returns (what another function must not meet, what no call must meet), each a few words or "".
        """
        if self._variables_touched:
            self._restore_variables()
        self._restore_signals()
        linux.adopt_orphans()
        if self._parent:
            end_with_parent(self._parent)
        spoiled, replaced = self._state.restore()
        return self._leftovers(replaced), " and ".join(spoiled)

    def _leftovers(self, replaced: list[str]) -> str:
        found = [f"replaced functions of {', '.join(replaced)}"] if replaced else []
        known, self._tasks = self._tasks, leftovers.tasks()
        if self._tasks > known:
            leftovers.wait_for_threads(self._threads)
        more = _thread._count() - self._threads
        if more > 0 and leftovers.threads(self._own_threads, more):
            found.append("threads")
        if leftovers.children():
            found.append("child processes")
        if self._lost_descriptors():
            found.append("closed standard streams")
        if self._few_files_left():
            found.append("open files")
        return " and ".join(found)

    def _lost_descriptors(self) -> bool:
        try:
            lost = os.fstat(0).st_rdev != os.stat(os.devnull).st_rdev
        except OSError:
            return True
        return lost or not self._output.repair()

    def _few_files_left(self) -> bool:
        """Return whether files left open by calls are many, or use more than half of the limit."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = MAX_LEFT_OPEN if most == resource.RLIM_INFINITY else min(MAX_LEFT_OPEN, most // 2)
        try:
            return len(os.listdir("/proc/self/fd")) > most
        except FileNotFoundError:  # no /proc on this system
            return False
        except OSError:
            return True

    def _restore_environment(self) -> None:
        wanted = {os.fsdecode(key): os.fsdecode(value) for key, value in self._environment.items()}
        for name in [name for name in os.environ if name not in wanted]:
            del os.environ[name]
        for name, value in wanted.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        time.tzset()

    def _restore_variables(self) -> None:
        """Undo direct calls of ``os.putenv`` and ``os.unsetenv``, which ``os.environ`` does not show."""
        touched = list(self._variables_touched)
        for name in touched:
            value = self._environment.get(name)
            if value is None:
                os.unsetenv(name)
            else:
                os.putenv(name, value)
        self._variables_touched.clear()

    def _restore_signals(self) -> None:
        for number, handler in self._handlers.items():
            if handler is not None and _handler(number) != handler:
                signal.signal(number, handler)
        if self._signals_touched:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._signals_touched = False

    def _restore_streams(self) -> None:
        _reopen()
        self._output.repair()
        fresh = []
        for number, (stream, mode) in enumerate(zip(self._streams, "rww", strict=True)):
            if stream is None or stream.closed:
                # lives as long as the process; closing the stream leaves the descriptor open
                stream = open_stream(number) if number else open(number, mode, closefd=False)
            fresh.append(stream)
            setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
        self._streams = (fresh[0], fresh[1], fresh[2])
        self._output.flush = fresh[1].flush

    def _watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            self._signals_touched = True
            return function(*args)

        watched.__name__ = function.__name__
        watched.__doc__ = function.__doc__
        return watched

    def _watch_variable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(name: str | bytes, *value: Any) -> Any:
            function(name, *value)
            self._variables_touched.add(os.fsencode(name))

        watched.__name__ = function.__name__
        return watched

    def _after_fork(self) -> None:
        self.forked = True


def _reopen() -> None:
    """Reopen closed standard descriptors on the null device."""
    for fd in (0, 1, 2):
        try:
            os.get_blocking(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)


def _catchable() -> list[int]:
    return [int(s) for s in signal.Signals if s not in (signal.SIGKILL, signal.SIGSTOP)]
