"""Resource limits for calls, enforced by the system for the whole process."""

from __future__ import annotations

import resource


def limit_memory(extra: int | None) -> None:
    """Limit the address space of this process to its current size plus ``extra`` bytes (None: no limit)."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = hard
    if extra:
        wanted = _address_space() + extra
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def _address_space() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # no /proc: assume the maximum that an interpreter uses
        return 512 * 1024 * 1024


def limit_files(most: int) -> None:
    """Limit open files of this process and its children to ``most`` (0: unchanged)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most and (hard == resource.RLIM_INFINITY or most < hard):
        hard = most
    if most:
        # the hard limit, too: a call must not be able to raise it again
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def lower_files(most: int) -> int:
    """Lower the limit of open files to ``most``; return the previous limit, for ``raise_files``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return soft


def raise_files(most: int) -> None:
    """Restore the limit of open files to ``most``, or to the hard limit if a call has lowered that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and (most == resource.RLIM_INFINITY or most > hard):
        most = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
