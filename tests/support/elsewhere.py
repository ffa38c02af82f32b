"""Another Python process that runs serialized calls, as a runner does."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umbel.serialize import dump_call, load_exception, load_result

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import pickle, sys
from umbel.serialize import dump_exception, dump_result, load_call, load_function
data, answers, functions = sys.stdin.buffer, sys.stdout.buffer, {}
sys.stdout = sys.stderr
while True:
    try:
        function, call = pickle.load(data)
    except EOFError:
        break
    try:
        fn = functions.get(function) or functions.setdefault(function, load_function(function))
        args, kwargs = load_call(call)
        answer = True, dump_result(fn(*args, **kwargs))
    except BaseException as error:
        answer = False, dump_exception(error)
    pickle.dump(answer, answers)
    answers.flush()
"""


class Elsewhere:
    """A process with an empty ``__main__`` that imports nothing of the tests. Use it in a ``with`` block.

    ``environment``: variables to set; the process finds no module in this process's working directory.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None):
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
            env={"PYTHONPATH": str(ROOT / "sdk"), **(environment or {})},
        )

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)

    def send(self, function: bytes, *args: Any, **kwargs: Any) -> tuple[bool, bytes]:
        """Run a call of a serialized function; return whether it succeeded, and the serialized outcome."""
        return self._send(function, dump_call(args, kwargs))

    def _send(self, function: bytes, payload: bytes) -> tuple[bool, bytes]:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump((function, payload), self._process.stdin)
        self._process.stdin.flush()
        outcome: tuple[bool, bytes] = pickle.load(self._process.stdout)
        return outcome

    def call(self, function: bytes, *args: Any, **kwargs: Any) -> Any:
        """Run a call of a serialized function; return its result or raise its exception."""
        return self.run(function, dump_call(args, kwargs))

    def run(self, function: bytes, payload: bytes) -> Any:
        """Run a call with serialized arguments; return its result or raise its exception."""
        succeeded, data = self._send(function, payload)
        if not succeeded:
            raise load_exception(data)
        return load_result(data)
