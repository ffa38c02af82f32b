"""Cost of ``isolation="process"``: milliseconds for each call that does nothing, with and without it.

Needs a running service with the endpoint ``local``: ``python -m federation up``.
"""

from __future__ import annotations

import time

from umbel import Executor

CALLS = 1000


def nothing(_: int) -> None:
    """Do nothing."""


def main() -> None:
    """Print one line for each kind."""
    for isolation in (None, "process"):
        with Executor("local", isolation=isolation) as executor:
            list(executor.map(nothing, range(100)))
            began = time.perf_counter()
            list(executor.map(nothing, range(CALLS)))
            cost = (time.perf_counter() - began) / CALLS * 1000
        print(f"isolation={isolation}: {cost:.2f} ms a call")


if __name__ == "__main__":
    main()
