"""Settings of this interpreter and process that calls change: a snapshot, and how they are restored."""

# One concept: one list of settings, each with how it is read and set.

from __future__ import annotations

import builtins
import gc
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from operator import itemgetter
from signal import setitimer
from types import ModuleType
from typing import Any, NamedTuple

from umbel.system.processes import prctl_value

_NO_NEW_PRIVILEGES, _SECCOMP = 39, 21
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: Modules of the standard library whose functions and classes are compared after each bundle.
WATCHED = (
    *(
        "base64",
        "collections",
        "copyreg",
        "datetime",
        "functools",
        "gc",
        "hashlib",
        "io",
        "itertools",
        "json",
    ),
    *(
        "json.decoder",
        "json.encoder",
        "math",
        "os",
        "pathlib",
        "pickle",
        "random",
        "re",
        "select",
        "selectors",
    ),
    *("shutil", "socket", "struct", "subprocess", "tempfile", "threading", "time", "zlib"),
)
#: Packages of the runner itself, whose functions are restored.
OWN = ("endpoint_worker", "umbel")


class Setting(NamedTuple):
    """One setting: its name for messages, how to read it, and how to set it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


class Functions:
    """The functions and classes of one module."""

    def __init__(self, module: ModuleType):
        self.module = module
        found = {k: v for k, v in vars(module).items() if callable(v) and not k.startswith("__")}
        # two at least, so that the getter returns a tuple
        names = [*found, "__name__", "__doc__"]
        self._get = itemgetter(*names)
        self._found = found
        self._values = self._get(vars(module))

    def changed(self) -> bool:
        """Return whether one of them was replaced or deleted."""
        try:
            now = self._get(vars(self.module))
        except KeyError:
            return True
        return any(map(_differs, now, self._values)) if now != self._values else False

    def restore(self) -> None:
        """Put them back."""
        vars(self.module).update(self._found)


def _differs(one: Any, other: Any) -> bool:
    return one is not other


def _set_gc(value: tuple[bool, tuple[int, int, int], int]) -> None:
    (gc.enable if value[0] else gc.disable)()
    gc.set_threshold(*value[1])
    gc.set_debug(value[2])


def _hooks() -> tuple[Any, ...]:
    return (
        sys.excepthook,
        sys.unraisablehook,
        sys.displayhook,
        sys.breakpointhook,
        threading.excepthook,
        sys.dont_write_bytecode,
    )


def _set_hooks(value: tuple[Any, ...]) -> None:
    sys.excepthook, sys.unraisablehook, sys.displayhook, sys.breakpointhook = value[:4]
    threading.excepthook, sys.dont_write_bytecode = value[4:]


def _warnings() -> tuple[Any, ...]:
    return list(warnings.filters), warnings.showwarning, warnings.formatwarning


def _set_warnings(value: tuple[Any, ...]) -> None:
    warnings.filters[:] = value[0]  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]
    warnings.showwarning, warnings.formatwarning = value[1:]


def _set_list(target: list[str]) -> Callable[[list[str]], None]:
    def write(value: list[str]) -> None:
        target[:] = value

    return write


def _tracing() -> tuple[Any, ...]:
    return sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()


def _set_tracing(_: Any) -> None:
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)
    threading.setprofile(None)


def _umask() -> int:
    value = os.umask(0o022)
    os.umask(value)
    return value


def _settings() -> list[Setting]:
    found = [
        Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Setting("switch interval", sys.getswitchinterval, sys.setswitchinterval),
        Setting("gc", lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug()), _set_gc),
        Setting("tracing", _tracing, _set_tracing),
        Setting("hooks", _hooks, _set_hooks),
        Setting("arguments", lambda: list(sys.argv), _set_list(sys.argv)),
        Setting("import path", lambda: list(sys.path), _set_list(sys.path)),
        Setting("time zone", lambda: (time.tzname, time.timezone, time.altzone), lambda _: time.tzset()),
        Setting("locale", lambda: locale.setlocale(locale.LC_ALL), _set_locale),
        Setting("socket timeout", socket.getdefaulttimeout, socket.setdefaulttimeout),
        Setting("warnings", _warnings, _set_warnings),
        Setting("umask", _umask, os.umask),
        Setting(
            "priority",
            lambda: os.getpriority(os.PRIO_PROCESS, 0),
            lambda value: os.setpriority(os.PRIO_PROCESS, 0, value),
        ),
    ]
    if hasattr(sys, "get_int_max_str_digits"):
        found.append(Setting("int digits", sys.get_int_max_str_digits, sys.set_int_max_str_digits))
    if hasattr(os, "sched_getaffinity"):
        affinity = Setting(
            "affinity", lambda: os.sched_getaffinity(0), lambda value: os.sched_setaffinity(0, value)
        )
        found.append(affinity)
    for name in sorted(name for name in dir(resource) if name.startswith("RLIMIT_")):
        found += _limit(name, getattr(resource, name))
    return found


def _set_locale(value: str) -> None:
    locale.setlocale(locale.LC_ALL, value)


def _limit(name: str, kind: int) -> list[Setting]:
    try:
        resource.getrlimit(kind)
    except (ValueError, OSError):
        return []
    return [Setting(name, lambda: resource.getrlimit(kind), lambda value: resource.setrlimit(kind, value))]


def _fixed() -> tuple[Any, ...]:
    """What no process can undo: identity, root directory, privileges."""
    return (
        os.getresuid(),
        os.getresgid(),
        os.stat("/")[1:3],
        prctl_value(_NO_NEW_PRIVILEGES, 0),
        prctl_value(_SECCOMP, 0),
        _system_timers(),
        _ignored_signals(),
    )


def _system_timers() -> bytes:
    """Timers of the process that C code has created."""
    return _file("/proc/self/timers")


def _ignored_signals() -> bytes:
    """Signals that are ignored, also by C code, which Python does not notice."""
    words = _file("/proc/self/stat").rpartition(b")")[2].split()
    return words[30] if len(words) > 30 else b""


def _file(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


class State:
    """The settings of this process now."""

    def __init__(self) -> None:
        self._settings = [(setting, setting.read()) for setting in _settings()]
        self._builtins = dict(vars(builtins))
        self._modules = dict(sys.modules)
        self._fixed = _fixed()
        self._watched = [Functions(sys.modules[name]) for name in WATCHED if name in sys.modules]
        own = [module for name, module in sys.modules.items() if name.partition(".")[0] in OWN]
        self._own = [Functions(module) for module in own]

    def restore(self) -> tuple[list[str], list[str]]:
        """Restore everything that can be restored, after the environment and signal handlers are.

        Returns (changes that only a new process undoes, replaced functions of the standard library).
        """
        failed = []
        for timer in _TIMERS:
            setitimer(timer, 0)
        if vars(builtins) != self._builtins:
            vars(builtins).clear()
            vars(builtins).update(self._builtins)
        for functions in self._own:
            if functions.changed():
                functions.restore()
        for setting, value in self._settings:
            if setting.read() != value:
                try:
                    setting.write(value)
                except (OSError, ValueError, RecursionError):
                    failed.append(setting.name)
        self._restore_modules()
        for restore in _RESTORE:
            restore()
        if _fixed() != self._fixed:
            failed.append("identity, privileges or timers")
        return failed, [found.module.__name__ for found in self._watched if found.changed()]

    def _restore_modules(self) -> None:
        if not self._modules.items() <= sys.modules.items():
            sys.modules.update(self._modules)
        if None in sys.modules.values():
            for name in [name for name, module in sys.modules.items() if module is None]:
                del sys.modules[name]


def _logging() -> None:
    logging: Any = sys.modules.get("logging")
    if logging is None:
        return
    root = logging.root
    if root.handlers or root.filters or root.level != logging.WARNING or root.manager.disable:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        root.filters.clear()
        root.setLevel(logging.WARNING)
        logging.disable(logging.NOTSET)
    if logging.raiseExceptions is not True or logging.getLogRecordFactory() is not logging.LogRecord:
        logging.raiseExceptions = True
        logging.setLogRecordFactory(logging.LogRecord)


def _decimal() -> None:
    decimal: Any = sys.modules.get("decimal")
    if decimal is not None:
        # of the thread; the contexts of calls are copies that end with their bundle
        decimal.DefaultContext.prec, decimal.DefaultContext.rounding = 28, decimal.ROUND_HALF_EVEN


def _asyncio() -> None:
    events: Any = sys.modules.get("asyncio.events")
    if events is not None and getattr(events, "_event_loop_policy", None) is not None:
        events._event_loop_policy = None


def _multiprocessing() -> None:
    context: Any = sys.modules.get("multiprocessing.context")
    if context is not None:
        context._default_context._actual_context = None


def _faulthandler() -> None:
    found: Any = sys.modules.get("faulthandler")
    if found is not None:
        found.cancel_dump_traceback_later()


def _tracemalloc() -> None:
    found: Any = sys.modules.get("tracemalloc")
    if found is not None and found.is_tracing():
        found.stop()


def _numpy() -> None:
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "seterr"):
        numpy.seterr(divide="warn", over="warn", under="ignore", invalid="warn")


_RESTORE = (_logging, _decimal, _asyncio, _multiprocessing, _faulthandler, _tracemalloc, _numpy)


def reseed(names: Iterable[str] = ("random", "numpy.random")) -> None:
    """Seed the global random generators again, so that no function sees the seed of another one."""
    for name in names:
        module: Any = sys.modules.get(name)
        if module is not None:
            module.seed()
