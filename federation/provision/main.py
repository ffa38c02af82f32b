"""``python -m federation provision``: keep the blocks of all elastic endpoints, or try a policy out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import simulate


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``simulate``, or serve until SIGTERM; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["simulate"]:
        return simulate.main(words[1:])
    return 2
