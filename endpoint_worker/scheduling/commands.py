"""Commands for a thread that waits in a selector."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

Command = Callable[[], None]


class CommandQueue:
    """A queue of commands; adding one wakes the thread that waits for ``sock`` to be readable."""

    def __init__(self) -> None:
        self._wake, self.sock = socket.socketpair()
        self._wake.setblocking(False)
        self.sock.setblocking(False)
        self._commands: SimpleQueue[Command] = SimpleQueue()

    def put(self, command: Command) -> None:
        """Have ``command`` called by the thread that owns the queue; safe in a signal handler."""
        self._commands.put(command)
        try:
            self._wake.send(b"\0")
        except OSError:
            # full: the thread is awake anyway; closed: it has ended
            pass

    def take_all(self) -> Iterator[Command]:
        """Yield the commands added since the last time, in order."""
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
        """Close the sockets; later commands are ignored."""
        self.sock.close()
        self._wake.close()
