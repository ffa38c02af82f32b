"""Output of commands on a site, as SSH may deliver it."""

from __future__ import annotations

import time
from typing import Any

from federation.provision.connection import output


class Channel:
    """Plays a channel on which things arrive one after another, each asked for once before."""

    closed = False

    def __init__(self, *events: bytes | str):
        self._events = list(events)
        self._data = b""
        self.eof_received = False
        self._exited = False

    def exit_status_ready(self) -> bool:
        """Also lets the next event arrive."""
        before = self._exited
        if self._events:
            event = self._events.pop(0)
            if event == "exit":
                self._exited = True
            elif event == "eof":
                self.eof_received = True
            else:
                self._data += event  # type: ignore[operator]
        return before

    def recv_ready(self) -> bool:
        return bool(self._data)

    def recv(self, size: int) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data

    def recv_stderr_ready(self) -> bool:
        return False

    recv_stderr = recv


def _gather(channel: Any) -> str:
    return output.read_all(channel, time.monotonic() + 20.0)[0]


def test_an_exit_status_that_comes_before_the_output_cuts_nothing_off() -> None:
    assert _gather(Channel(b"one ", "exit", b"two ", b"three", "eof")) == "one two three"


def test_a_process_left_behind_does_not_hold_the_answer_for_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr(output, "LINGER", 0.05)
    assert _gather(Channel(b"all", "exit")) == "all"
