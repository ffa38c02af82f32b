"""Commands for a thread that waits in a selector."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

Command = Callable[[], None]


class CommandQueue:
    """Any thread puts commands in and wakes the one that waits for ``sock`` to be readable."""

    def __init__(self) -> None:
        self._wake, self.sock = socket.socketpair()
        self._wake.setblocking(False)
        self.sock.setblocking(False)
        self._commands: SimpleQueue[Command] = SimpleQueue()

    def put(self, command: Command) -> None:
        """Have ``command`` called by the thread that owns this inbox; safe in a signal handler."""
        self._commands.put(command)
        try:
            self._wake.send(b"\0")
        except OSError:
            # full: the thread is awake anyway; closed: it has ended
            pass

    def take_all(self) -> Iterator[Command]:
        """What was put in since the last time, in order."""
        try:
            while self.sock.recv(4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                yield self._commands.get_nowait()
            except Empty:
                return

    def close(self) -> None:
        """Let go of the sockets; commands put in later are ignored."""
        self.sock.close()
        self._wake.close()
