"""Read the complete output of a command on a site."""

from __future__ import annotations

import time

import paramiko

#: Seconds to wait for the end of the output after a command has exited: a background process may keep it
#: open.
LINGER = 3.0
#: Most bytes of a command's output that are kept.
MAX_OUTPUT = 16 * 1024 * 1024


def read_all(channel: paramiko.Channel, deadline: float) -> tuple[str, str]:
    """Return the standard output and error of a command. Raises TimeoutError at the deadline."""
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    size, pause, exited = 0, 0.002, 0.0
    while True:
        # the exit status may arrive before the last output; end of file arrives after it
        if channel.exit_status_ready() and not exited:
            exited = time.monotonic()
        late = exited and time.monotonic() - exited > LINGER
        ended = channel.closed or late or (exited and channel.eof_received)
        got = b""
        for ready, receive, into in (
            (channel.recv_ready, channel.recv, parts[0]),
            (channel.recv_stderr_ready, channel.recv_stderr, parts[1]),
        ):
            while ready():
                got = receive(65536)
                size += len(got)
                if size <= MAX_OUTPUT:
                    into.append(got)
        if ended and not got:
            return b"".join(parts[0]).decode(errors="replace"), b"".join(parts[1]).decode(errors="replace")
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
        if not got:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
