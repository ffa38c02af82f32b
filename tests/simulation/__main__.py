"""``python -m tests.simulation SEED`` replays a schedule; ``FIRST COUNT`` runs many on all processors."""

from __future__ import annotations

import os
import sys

from tests.simulation.run import main

if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # sets of strings must have the same order in every process
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
