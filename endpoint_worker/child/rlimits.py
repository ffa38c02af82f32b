"""What a runner lets its calls take: limits that the system holds for the whole process."""

from __future__ import annotations

import resource


def limit_memory(extra: int | None) -> None:
    """Let this process take ``extra`` more bytes than now (None: no limit)."""
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
    except OSError:  # no /proc: count what an interpreter takes at most
        return 512 * 1024 * 1024


def limit_files(most: int) -> None:
    """Let this process and what it starts have at most so many files open (0: as many as before)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most and (hard == resource.RLIM_INFINITY or most < hard):
        hard = most
    if most:
        # the hard limit, too: a call must not raise it again
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def lower_files(most: int) -> int:
    """Let calls have at most so many files open; return how many it were, for ``raise_files``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return soft


def raise_files(most: int) -> None:
    """Let calls have so many files open again, or as many as a call that lowered its own limit has left."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and (most == resource.RLIM_INFINITY or most > hard):
        most = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
