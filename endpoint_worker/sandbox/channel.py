"""The worker's end of the line to one runner: the socket that both talk over, and two descriptors.

They are those of the journal and of the pipe of what calls write. A runner that is started in place inherits
all. One inside a container cannot, so a socket waits for it in a folder of its own that is mounted there: it
calls, is given the descriptors, and the folder goes away. Nothing here blocks.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
#: Not in module socket everywhere.
_SCM_CREDENTIALS = getattr(socket, "SCM_CREDENTIALS", 2)


class SocketPair:
    """A pair of connected sockets, of which the runner inherits one; and its other descriptors."""

    def __init__(self, progress: int, output: int):
        self.sock, self._theirs = socket.socketpair()
        self.sock.setblocking(False)
        self._descriptors = progress, output
        self.receive = self.sock.recv
        #: process ids on this machine, where they are not those of the process that was started
        self.first_pid: int | None = None
        self.runner_pid: int | None = None

    @property
    def passed(self) -> tuple[int, ...]:
        """Descriptors that the runner inherits: its socket, the journal, the pipe of what calls write."""
        return self._theirs.fileno(), *self._descriptors

    def started(self) -> None:
        """The runner has its ends: drop ours of them."""
        self._theirs.close()
        for fd in self._descriptors:
            os.close(fd)

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


class MountedSocket:
    """A socket in a folder of its own, for a runner that calls from inside a container."""

    passed: tuple[int, ...] = ()

    def __init__(self, progress: int, output: int):
        self._descriptors: tuple[int, ...] = progress, output
        self.first_pid: int | None = None
        self.runner_pid: int | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="umbel-line-"))
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.bind(str(self.directory / "line"))
            self.sock.listen(1)
            self.sock.setblocking(False)
        except BaseException:
            self.close()
            raise

    def started(self) -> None:
        """The descriptors go to the runner when it calls."""

    def receive(self, size: int) -> bytes:
        """As ``socket.recv``. Raises BlockingIOError while there is nothing, OSError."""
        if self.first_pid is None:
            self._accept()
        if self.runner_pid is not None:
            return self.sock.recv(size)
        data, extra, _, _ = self.sock.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, _SCM_CREDENTIALS):
                # the kernel says who wrote it, by the number that this side knows
                self.runner_pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        return data

    def _accept(self) -> None:
        connection, _ = self.sock.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.first_pid = _CREDENTIALS.unpack(peer)[0]
        # only after this does the runner say anything
        socket.send_fds(connection, [b"j"], list(self._descriptors))
        self._release()
        self.sock.close()
        self.sock = connection

    def _release(self) -> None:
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors = ()
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self) -> None:
        """Hang up, and leave nothing."""
        self._release()
        self.sock.close()
