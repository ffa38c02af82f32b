"""Startup of a runner inside a container: connect to the worker, receive descriptors, fork the runner.

The *keeper* is the first process in the container. It only waits: for the end of the runner, whose exit code
it returns, and for the end of the worker, after which it kills the runner.
"""

from __future__ import annotations

import os
import select
import signal
import socket

from ..child import linux
from ..child.main import main as run


def main(path: str, directory: str, files: int = 0, keeper: bool = False) -> None:
    """Connect to the worker at ``path`` and serve as a runner; does not return.

    ``directory``, ``files``: as for ``child.main``; ``keeper``: a process is needed that ends the runner.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    _, (progress, output, *_), _, _ = socket.recv_fds(sock, 1, 2)
    if keeper:
        child = os.fork()
        if child:
            os.close(progress)
            os.close(output)
            _keep(sock, child)
        os.setsid()
    run(sock.detach(), progress, output, os.getppid() if keeper else 0, directory, files)


def _keep(sock: socket.socket, child: int) -> None:
    """Wait until the runner has ended or the worker has closed the socket; does not return."""
    linux.adopt_orphans()
    ours, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    poll = select.poll()
    poll.register(sock, 0)  # no events: hang-ups are always reported
    poll.register(ours, select.POLLIN)
    while True:
        status = _reap(child)
        if status is not None:
            _end(os.waitstatus_to_exitcode(status))
        ready = [fd for fd, _ in poll.poll()]
        if sock.fileno() in ready:
            os.killpg(child, signal.SIGKILL)  # not reaped yet, so the number is still its own
            _end(-signal.SIGKILL)
        os.read(ours, 512)


def _reap(child: int) -> int | None:
    """Reap ended processes; return the runner's status if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _end(code: int) -> None:
    """Exit with the runner's exit code as a shell reports it, after killing what it left behind."""
    # the first process of a pid namespace ends the others; any other process must kill them
    while os.getpid() != 1 and (left := _children()):
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    os._exit(code if code >= 0 else 128 - code)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []
