"""What the soak runs on the endpoint. Each call first writes its number into the functions' own log."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def _note(folder: str, number: int) -> bool:
    """Write down that this call starts; tell whether it is the first start of it."""
    # one write() of a few bytes with O_APPEND: lines of many processes never mix, and survive a kill
    log = os.open(os.path.join(folder, "starts"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(log, f"{number}\n".encode())
    finally:
        os.close(log)
    try:
        Path(folder, "first", str(number)).mkdir(parents=True)
        return True
    except FileExistsError:
        return False


def quick(folder: str, number: int) -> int:
    """Return at once."""
    _note(folder, number)
    return number


def nap(folder: str, number: int, seconds: float) -> int:
    """Sleep."""
    _note(folder, number)
    time.sleep(seconds)
    return number


def echo(folder: str, number: int, data: bytes) -> tuple[int, bytes]:
    """Return a large argument."""
    _note(folder, number)
    return number, data


def fail(folder: str, number: int) -> None:
    """Raise an exception each time."""
    _note(folder, number)
    raise ValueError(number)


def fail_first(folder: str, number: int) -> int:
    """Raise an exception the first time only."""
    if _note(folder, number):
        raise ValueError(number)
    return number


def die_first(folder: str, number: int) -> int:
    """Kill the own process the first time only."""
    if _note(folder, number):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(folder: str, number: int) -> None:
    """Kill the own process each time."""
    _note(folder, number)
    os.kill(os.getpid(), signal.SIGKILL)
