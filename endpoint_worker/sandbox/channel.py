"""The worker's end of the connection to one runner: a socket and two descriptors.

The descriptors are those of the shared memory and of the output pipe. A runner started directly inherits all
of them. A runner inside a container cannot, so a listening socket waits in a directory of its own that is
mounted there: the runner connects, receives the descriptors, and the directory is removed. Nothing here
blocks.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
#: Not in module socket on all systems.
_SCM_CREDENTIALS = getattr(socket, "SCM_CREDENTIALS", 2)


class SocketPair:
    """A pair of connected sockets, one of which the runner inherits, and its other descriptors.

    Like ``MountedSocket``, it closes the descriptors, unless its creation fails.
    """

    def __init__(self, progress: int, output: int):
        self.sock, self._theirs = socket.socketpair()
        self.sock.setblocking(False)
        self._descriptors = progress, output
        self.receive = self.sock.recv
        #: process ids on this machine, if they differ from that of the started process
        self.first_pid: int | None = None
        self.runner_pid: int | None = None

    @property
    def passed(self) -> tuple[int, ...]:
        """Descriptors that the runner inherits: its socket, the shared memory, the output pipe."""
        return self._theirs.fileno(), *self._descriptors

    def started(self) -> None:
        """Close this side's copies of the runner's descriptors."""
        self._theirs.close()
        for fd in self._descriptors:
            os.close(fd)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class MountedSocket:
    """A listening socket in a directory of its own, for a runner that connects from inside a container."""

    passed: tuple[int, ...] = ()

    def __init__(self, progress: int, output: int):
        self._descriptors: tuple[int, ...] = ()
        self.first_pid: int | None = None
        self.runner_pid: int | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="umbel-line-"))
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.sock.bind(str(self.directory / "line"))
                self.sock.listen(1)
                self.sock.setblocking(False)
            except BaseException:
                self.sock.close()
                raise
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        # from now on this object closes them
        self._descriptors = progress, output

    def started(self) -> None:
        """Do nothing: the runner receives its descriptors when it connects."""

    def receive(self, size: int) -> bytes:
        """Like ``socket.recv``. Raises BlockingIOError while there is no data, and OSError."""
        if self.first_pid is None:
            self._accept()
        if self.runner_pid is not None:
            return self.sock.recv(size)
        data, extra, _, _ = self.sock.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, _SCM_CREDENTIALS):
                # the kernel reports the sender's process id in this process's namespace
                self.runner_pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        return data

    def _accept(self) -> None:
        connection, _ = self.sock.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.first_pid = _CREDENTIALS.unpack(peer)[0]
        # the runner sends nothing before this
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
        """Close the socket and remove the directory."""
        self._release()
        self.sock.close()
