"""Whatever a call changes in its process, the next call of another function finds the process as new."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.unit.endpoint_worker.bench import Bench
from umbel.serialize import load_result

#: Ways to spoil the next call: a name, and statements. Each was seen to reach a later call once, or could.
SPOIL = {
    "builtins.len": "import builtins; builtins.len = lambda x: 42; builtins.added = 1",
    "json.dumps": "import json; json.dumps = lambda *a, **k: 'POISON'",
    "sys.modules": "import sys; sys.modules['math'] = None; sys.modules['json'] = None",
    "sys.path": "import sys; sys.path.insert(0, '/evil')",
    "sys.argv": "import sys; sys.argv[:] = ['evil']",
    "cwd": "import os; os.chdir('/')",
    "env": "import os; os.environ['PATH'] = '/evil'; os.environ['HOME'] = '/evil'",
    "putenv": "import os; os.putenv('PUTENV', '1'); os.putenv('PATH', '/evil'); os.unsetenv('HOME')",
    "umask": "import os; os.umask(0)",
    "rlimit_fsize": "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))",
    "rlimit_nproc": "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))",
    "rlimit_stack": "resource.setrlimit(resource.RLIMIT_STACK, (16384, 16384))",
    "rlimit_nofile_hard": "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))",
    "rlimit_cpu_hard": "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))",
    "nice": "import os; os.nice(19)",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')",
    "tz": "import os, time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "tz_left": "import os, time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset(); del os.environ['TZ']",
    "affinity": "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "gc": "import gc; gc.disable(); gc.set_threshold(1)",
    "random": "import random; random.seed(1)",
    "settrace": "import sys; sys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)",
    "threading_trace": "import threading; threading.settrace(lambda *a: None)",
    "thread": "import threading, time; threading.Thread(target=time.sleep, args=(300,), daemon=True).start()",
    "raw_thread": "import _thread, time; _thread.start_new_thread(time.sleep, (300,))",
    "alarm": "import os, signal; signal.signal(signal.SIGALRM, lambda *a: os._exit(9)); signal.alarm(1)",
    "alarm_raw": "import ctypes; ctypes.CDLL(None).alarm(1)",
    "timer_create": (
        "import ctypes; lib = ctypes.CDLL(None); timer = ctypes.c_void_p()\n"
        "lib.timer_create(1, None, ctypes.byref(timer))\n"
        "lib.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 1, 0), None)"
    ),
    "faulthandler": "import faulthandler; faulthandler.dump_traceback_later(1, exit=True)",
    "sigmask": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})",
    "sigign": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "sigign_raw": "import ctypes; ctypes.CDLL(None).signal(17, ctypes.c_void_p(1))",
    "excepthook": "import sys; sys.excepthook = sys.unraisablehook = lambda *a: None; sys.stdout = None",
    "threading_excepthook": "import threading; threading.excepthook = lambda *a: None",
    "recursion": "import sys; sys.setrecursionlimit(120)",
    "switch": "import sys; sys.setswitchinterval(5)",
    "int_digits": "import sys; getattr(sys, 'set_int_max_str_digits', abs)(0)",
    "socket_default": "import socket; socket.setdefaulttimeout(0.001)",
    "logging": (
        "import logging; logging.disable(logging.CRITICAL)\n"
        "logging.getLogger().addHandler(logging.NullHandler()); logging.getLogger().setLevel(1)"
    ),
    "warnings": "import warnings; warnings.simplefilter('error'); warnings.showwarning = print",
    "dump_result": "import endpoint_worker.child.main as m; m.dump_result = lambda v: b'P'",
    "run_call": "import endpoint_worker.child.main as m; m.run_call = lambda *a: (0, b'', b'P')",
    "frames": (
        "import sys\nframe = sys._getframe()\n"
        "while frame:\n"
        "    if 'baseline' in frame.f_locals: frame.f_locals['baseline']._streams = ()\n"
        "    frame = frame.f_back"
    ),
    "os._exit": "import os; os._exit = lambda code: None",
    "time.monotonic": "import time; time.monotonic = lambda: 0.0; time.time = lambda: 0.0",
    "daemon": (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(500)\n"
        "    os._exit(0)\n"
    ),
    "popen_detached": "import subprocess; subprocess.Popen(['sleep', '487'], start_new_session=True)",
    "fds": "import sys; sys.kept = [open('/dev/null') for _ in range(400)]",
    "privileges": "import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)",
    "chroot": "import os; os.mkdir('jail'); os.chroot('jail')",
    "setuid": "import os; os.setgid(65534); os.setuid(65534)",
    "pdeathsig": "import ctypes; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)",
    "subreaper": "import ctypes; ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)",
    "decimal": "import decimal; decimal.getcontext().prec = 2",
    "environ_cleared": "import os; os.environ.clear()",
    "stdin": "import os; os.close(0); os.close(1); os.close(2)",
    "workdir": "import os, shutil; shutil.rmtree(os.getcwd(), ignore_errors=True)",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "start_method": "import multiprocessing; multiprocessing.set_start_method('spawn')",
    "tracemalloc": "import tracemalloc; tracemalloc.start()",
    "contextvar": "import decimal; decimal.setcontext(decimal.Context(prec=3))",
}
#: Those that need root's permission, or that only the kernel of Linux offers.
ROOT = {"chroot", "setuid"}


def spoil(kind: str) -> None:
    import resource

    exec(SPOIL[kind], {"resource": resource})


def clean() -> dict[str, Any]:
    """Everything that must be as in a new runner."""
    import asyncio
    import builtins
    import ctypes
    import decimal
    import gc
    import json
    import locale
    import logging
    import math
    import multiprocessing
    import random
    import resource
    import signal
    import socket
    import subprocess
    import sys
    import threading
    import time
    import tracemalloc
    import warnings

    import endpoint_worker.child.main as runner

    status = dict(
        line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line
    )
    environment = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True).stdout
    deathsig, subreaper = ctypes.c_int(), ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(deathsig), 0, 0, 0)
    ctypes.CDLL(None).prctl(37, ctypes.byref(subreaper), 0, 0, 0)
    umask = os.umask(0o22)
    os.umask(umask)
    loop = asyncio.get_event_loop_policy().new_event_loop()
    loop.close()
    return {
        "builtins": (builtins.len([1]), hasattr(builtins, "added")),
        "json": json.dumps([1]),
        "math": math.sqrt(4),
        "path": "/evil" in sys.path,
        "argv": sys.argv,
        "cwd": os.path.basename(os.path.dirname(os.path.dirname(os.getcwd()))),
        "files": os.listdir("."),
        "environ": {k: v for k, v in os.environ.items()},
        "environment": sorted(line for line in environment.splitlines() if "UMBEL_WORK" not in line),
        "umask": umask,
        "limits": [
            resource.getrlimit(getattr(resource, name))
            for name in sorted(dir(resource))
            if name.startswith("RLIMIT_")
        ],
        "nice": os.nice(0),
        "locale": locale.setlocale(locale.LC_ALL),
        "tz": (time.tzname, time.timezone),
        "affinity": sorted(os.sched_getaffinity(0)),
        "gc": (gc.isenabled(), gc.get_threshold()),
        "trace": (sys.gettrace(), sys.getprofile(), threading.gettrace()),
        "threads": (len(threading.enumerate()), status["Threads"].strip()),
        "signals": [str(signal.getsignal(n)) for n in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)],
        "masks": (sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), status["SigIgn"], status["SigBlk"]),
        "streams": (sys.stdin is None, sys.stdout is None, os.readlink("/proc/self/fd/1")[:4]),
        "hooks": (
            sys.excepthook is sys.__excepthook__,
            sys.unraisablehook is sys.__unraisablehook__,
            threading.excepthook is threading.__excepthook__,
        ),
        "interpreter": (sys.getrecursionlimit(), sys.getswitchinterval()),
        "digits": getattr(sys, "get_int_max_str_digits", lambda: None)(),
        "socket": socket.getdefaulttimeout(),
        "logging": (logging.root.manager.disable, logging.root.handlers, logging.root.level),
        "warnings": (any(f[0] == "error" for f in warnings.filters), warnings.showwarning is print),
        "runner": (runner.dump_result(1), runner.run_call.__name__),
        "exit": (os._exit.__module__, time.monotonic.__name__),
        "clock": time.time() > 1e9 and time.monotonic() > 0,
        "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
        "descriptors": len(os.listdir("/proc/self/fd")) < 100,
        "identity": (os.getresuid(), os.getresgid(), os.path.exists("/usr/bin")),
        "privileges": (status.get("NoNewPrivs"), status["CapEff"]),
        "prctl": (deathsig.value, subreaper.value),
        "decimal": (decimal.getcontext().prec, decimal.Decimal(1) / 3),
        "asyncio": asyncio.get_event_loop_policy()._local._set_called,  # type: ignore[attr-defined]
        "multiprocessing": multiprocessing.get_start_method(allow_none=True),
        "tracemalloc": tracemalloc.is_tracing(),
        "random": random.random() == random.Random(1).random(),
    }


def wait_a_moment() -> None:
    import time

    time.sleep(1.5)


def _found(bench: Bench) -> dict[str, Any]:
    (outcome,) = bench.run(clean)
    assert outcome.status == "succeeded", outcome
    return load_result(outcome.payload)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", SPOIL)
def test_no_change_reaches_a_call_of_another_function(bench: Bench, kind: str) -> None:
    if kind in ROOT and os.getuid() != 0:
        pytest.skip("needs root's permission")
    before = _found(bench)
    bench.run(spoil, [(kind,)])
    after = _found(bench)
    # the parent of the second call may be another process of the same kind
    assert after == before
    if kind in ("alarm", "alarm_raw", "timer_create", "faulthandler"):
        (outcome,) = bench.run(wait_a_moment)
        assert outcome.status == "succeeded", outcome
