"""The runner: the child process in which user code runs.

The supervisor starts it with a socket and shared memory (two descriptors), in its own session, with a clean
environment and without broker credentials. It reads bundles from the socket, runs their calls one after
another and writes outcomes to shared memory; outcomes that do not fit go over the socket. It ends when the
socket is closed.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import resource
import signal
import socket
import time
from array import array
from collections.abc import Callable, Generator
from typing import Any

from umbel.serialization.packages import chosen
from umbel.serialize import dump_result, load_function
from umbel.system.processes import end_with_parent

from ..ipc import frames, stream
from ..ipc.output import OutputWriter
from ..ipc.shared_memory import FAILED, SKIPPED, SUCCEEDED, WROTE, SharedProgress, protect
from . import access, leftovers, linux, main_module, rlimits
from .call import Data, arguments_in, describe, details_of, end_child, end_like, run_call, with_details
from .call_directory import WORK_VARIABLE, CallDirectory, Kept
from .reset import Baseline
from .state import reseed
from .usage import MEASURED_FROM, Meter

#: Its own reference: a call may replace the function of module os.
_exit = os._exit
#: A runner's time slice on a contended processor (seconds).
TIME_SLICE = 0.0005
#: The end of so few calls is reported before the state of the process is restored.
FEW_CALLS = 16


class Runner:
    """Runs bundles received over ``sock``; ``progress`` is shared with the supervisor."""

    def __init__(
        self,
        sock: socket.socket,
        progress: SharedProgress,
        output: OutputWriter,
        directory: CallDirectory,
        parent: int = 0,
    ):
        self._sock = sock
        self._progress = progress
        self._output = output
        self._functions: dict[str, Callable[..., Any]] = {}
        # by function, the local packages of its code and whether this process has them
        self._local: dict[str, dict[str, bool]] = {}
        # how many local packages the outcomes of this bundle have named so far
        self._named = 0
        self._baseline = Baseline(output, directory, parent)
        self._meter = Meter()
        self._streamed = False
        self._exit_handlers = atexit._ncallbacks()

    def serve(self) -> None:
        """Send HELLO and run bundles until the supervisor closes the socket."""
        self._sock.sendall(frames.pack(frames.HELLO, {"pid": os.getpid(), "mark": self._output.secret.hex()}))
        while (frame := frames.receive(self._sock)) is not None:
            files = frame.header.get("files")
            before = rlimits.lower_files(files) if files else None
            self._baseline.before_bundle(frame.header["sha256"])
            # variables of the context, such as that of module decimal, end with the bundle
            ran = contextvars.copy_context().run(self._bundle, frame.header, frame.body)
            if before is not None:
                rlimits.raise_files(before)
            if frame.header["calls"] <= FEW_CALLS:
                # their outcomes must not wait for what follows, which takes longer than short calls
                self._sock.sendall(frames.pack(frames.RAN, {"ran": ran}))
            left, spoiled = self._baseline.after_bundle()
            handlers = atexit._ncallbacks() > self._exit_handlers
            loaded = frame.header["sha256"] in self._functions
            done = {"ran": ran, "left": left, "spoiled": spoiled, "loaded": loaded, "handlers": handlers}
            self._sock.sendall(frames.pack(frames.DONE, done))

    def _bundle(self, header: dict[str, Any], body: bytes) -> int:
        """Run the calls of a bundle; return how many of the first ones were started."""
        count: int = header["calls"]
        table = array("I", body[: 8 * count])
        function = self._function(header, body[8 * count : 8 * count + header["function"]], count)
        if function is None:
            return count
        payloads = arguments_in(body, 8 * count + header["function"], count)
        rlimits.limit_memory(header.get("memory"))
        # a control group may enforce the limit, and the system may refuse allocations far beyond it
        limited = bool(header.get("limited"))
        kept = Kept(header.get("keep"), header.get("names", ()))
        calls = self._isolated_calls if header.get("isolated") else self._calls
        with main_module.offering(function), access.offering(header, self._progress):
            return calls(function, table, payloads, limited, kept)

    def _function(self, header: dict[str, Any], data: bytes, count: int) -> Callable[..., Any] | None:
        """Load the function of the bundle, or fail all its calls."""
        self._named = 0
        for digest in header["forget"]:
            self._functions.pop(digest, None)
            self._local.pop(digest, None)
        chosen.clear()
        function = self._functions.get(header["sha256"])
        if function is not None:
            chosen.update(self._local.get(header["sha256"], {}))
            return function
        self._progress.load(True, time.monotonic())
        try:
            function = load_function(data)
        except BaseException as error:  # loading runs user code, which may raise anything
            code = getattr(error, "code", None)
            known = code if code in ("DESERIALIZE_ERROR", "VERSION_MISMATCH") else "DESERIALIZE_ERROR"
            details = details_of(known, getattr(error, "message", None) or describe(error))
            for index in range(count):
                self._progress.start(index, time.monotonic(), 0.0)
                status = FAILED | WROTE if self._output.wrote() and self._output.mark(index) else FAILED
                self._put(index, status, time.time(), 0.0, details, b"")
            self._baseline.after_call()
            return None
        finally:
            self._progress.load(False, time.monotonic())
        self._functions[header["sha256"]] = function
        if chosen:
            self._local[header["sha256"]] = dict(chosen)
        self._baseline.after_call()
        return function

    def _calls(
        self, function: Callable[..., Any], table: array[int], payloads: Data, limited: bool, kept: Kept
    ) -> int:
        """Run the calls: the hot loop, about nine microseconds for a call that does nothing."""
        progress, baseline, output = self._progress, self._baseline, self._output
        self._meter.begin()
        reset = baseline.after_call
        start, finish, write, skip = progress.start, progress.finish, progress.write, progress.skip
        wrote, send_items, pid = output.wrote, self._stream, os.getpid()
        clock, processor = time.monotonic, time.process_time
        epoch = time.time() - clock()
        count = len(table) // 2
        for index in range(count):
            offset = table[2 * index]
            data = payloads[offset : offset + table[2 * index + 1]]
            began, cpu = clock(), processor()
            if not start(index, began, cpu):
                return index
            if skip[index]:
                self._put(index, SKIPPED, 0.0, 0.0, b"", b"")
                continue
            status, details, payload = run_call(function, data, limited, send_items, pid)
            if baseline.forked:
                # the call forked and also returned in the child: only the parent reports and continues
                end_child(None)
            wall = clock() - began
            if wall > MEASURED_FROM:
                details = with_details(details, usage=self._meter.end(cpu))
            if len(chosen) != self._named:
                self._named, details = len(chosen), with_details(details, local=chosen)
            if wrote() and output.mark(index):
                status |= WROTE
            # items went over the socket, and the outcome must not overtake them
            if self._streamed or not write(index, status, epoch + began, wall, details, payload):
                self._send(index, status, epoch + began, wall, details, payload)
            finish(index)
            reset(kept.name(index, status) if kept.when else None)
        return count

    def _isolated_calls(
        self, function: Callable[..., Any], table: array[int], payloads: Data, limited: bool, kept: Kept
    ) -> int:
        """Run each call in a process of its own, forked from this one."""
        progress = self._progress
        helpers = leftovers.running()
        for index in range(len(table) // 2):
            offset = table[2 * index]
            data = payloads[offset : offset + table[2 * index + 1]]
            if not progress.start(index, time.monotonic(), time.process_time()):
                return index
            if progress.skip[index]:
                self._put(index, SKIPPED, 0.0, 0.0, b"", b"")
                continue
            runner = os.getpid()
            child = os.fork()
            if not child:
                self._forked_call(function, data, limited, index, runner)
            _, ended = os.waitpid(child, 0)
            if progress.finished <= index:
                end_like(ended)
            leftovers.kill(leftovers.running() - helpers)
            status = SUCCEEDED if ended == 0 else FAILED
            self._named = len(chosen)  # as the child did, which loads the arguments
            self._baseline.after_call(kept.name(index, status) if kept.when else None)
        return len(table) // 2

    def _forked_call(
        self, function: Callable[..., Any], data: Data, limited: bool, index: int, runner: int
    ) -> None:
        """Run a call in this new process and end it; does not return."""
        end_with_parent(runner)
        self._baseline.forked = False
        reseed(("numpy.random",))  # module random does this itself
        atexit._clear()  # those so far belong to the parent
        self._meter.begin()
        began, cpu = time.monotonic(), time.process_time()
        started = time.time()
        status, details, payload = run_call(function, data, limited, self._stream, os.getpid())
        if self._baseline.forked:
            end_child(None)
        atexit._run_exitfuncs()
        wall = time.monotonic() - began
        if wall > MEASURED_FROM:
            details = with_details(details, usage=self._meter.end(cpu))
        if len(chosen) != self._named:
            self._named, details = len(chosen), with_details(details, local=chosen)
        written = WROTE if self._output.wrote() and self._output.mark(index) else 0
        if self._streamed or not self._progress.write(
            index, status | written, started, wall, details, payload
        ):
            self._send(index, status | written, started, wall, details, payload)
        self._progress.finish(index)
        _exit(0 if status == SUCCEEDED else 1)

    def _stream(self, generator: Generator[Any, Any, Any]) -> Any:
        """Send the items that the running call yields; return its generator's return value."""
        header = {"index": self._progress.started - 1}
        self._streamed = True

        def put(item: bytes) -> None:
            if self._baseline.forked:
                # the generator forked, and this is the child: the parent sends the items
                end_child(None)
            try:
                self._sock.sendall(frames.pack(frames.ITEM, header, item))
            except OSError as error:
                # the call closed the socket: its outcome goes through shared memory
                self._streamed = False
                raise RuntimeError(
                    "the call closed the runner's socket, so its items cannot be sent"
                ) from error

        return stream.send(generator, dump_result, put)

    def _put(
        self, index: int, status: int, started: float, wall: float, details: bytes, payload: bytes
    ) -> None:
        if not self._progress.write(index, status, started, wall, details, payload):
            self._send(index, status, started, wall, details, payload)
        self._progress.finish(index)

    def _send(
        self, index: int, status: int, started: float, wall: float, details: bytes, payload: bytes
    ) -> None:
        """Send an outcome that does not fit in shared memory, or that follows items."""
        header = {"index": index, "status": status, "started": started, "wall": wall, "note": len(details)}
        if self._streamed:
            header["streamed"], self._streamed = True, False
        self._sock.sendall(frames.pack(frames.OUTCOME, header, details, payload))


def main(sock_fd: int, progress_fd: int, output_fd: int, parent: int, directory: str, files: int = 0) -> None:
    """Serve as a runner on three descriptors; does not return.

    ``parent``: process id of the worker, or 0 if something else ends the runner together with it;
    ``directory``: name for the runner's own directory; ``files``: maximum number of open files (0: no limit).
    """
    if parent:
        end_with_parent(parent)
    linux.adopt_orphans()
    linux.exact_timers()
    linux.short_time_slices(TIME_SLICE)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # a crashing call must not fill the site's disk with core dumps
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    rlimits.limit_files(files)
    calls = CallDirectory(directory)
    os.environ[WORK_VARIABLE] = calls.work
    sock = socket.socket(fileno=sock_fd)
    sock.set_inheritable(False)
    progress = SharedProgress(progress_fd)
    protect(progress_fd)
    os.close(progress_fd)
    # standard error showed problems during startup; from now on it belongs to the calls
    os.set_inheritable(output_fd, False)
    output = OutputWriter(output_fd, progress)
    linux.unbuffer_c()
    try:
        Runner(sock, progress, output, calls, parent).serve()
    except (OSError, frames.FrameError):
        # the socket is closed, possibly by a call: outcomes so far are in shared memory
        _exit(70)
    atexit._run_exitfuncs()
    # threads left behind by calls must not keep this process alive
    _exit(0)
