"""schemathesis against a running API: thousands of requests made from its own document."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: What may follow the time that schemathesis is given: start, shrinking, its report.
MARGIN = 60.0
#: Time for the requests, and how many are made up for each operation.
SECONDS, EXAMPLES = 40, 15
STORAGE = Path(__file__).resolve().parents[2] / ".hypothesis"
#: Operations of the document.
OPERATIONS = 38


def fuzz(
    url: str,
    token: str,
    folder: Path,
    *,
    phases: str,
    known: Mapping[str, str],
    without: Sequence[str] = (),
) -> str:
    """Run every check in some ``phases`` of schemathesis, for less than a minute; return the report.

    Raises AssertionError with the report when schemathesis found something or did not get around.
    ``without``: names of operations that are left alone.
    ``known``: path parameters with one value for all requests, such as the id of a task that exists; without
    it schemathesis rarely finds one. ``folder`` keeps what it remembers between runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(f'path.{name}')} = {json.dumps(value)}" for name, value in known.items()]
    # long polls that wait would use up the time
    lines.append('"query.wait" = 0.01')
    (folder / "schemathesis.toml").write_text("\n".join(["[parameters]", *lines]) + "\n")
    (folder / "openapi.json").write_text(json.dumps(_document(url)))
    argv = [Path(sys.executable).parent / "st", "run", "openapi.json", "--url", url, "--no-color"]
    argv += ["--checks", "all", "--phases", phases, "--max-examples", str(EXAMPLES)]
    for name in without:
        argv += ["--exclude-operation-id", name]
    # a schema that examples are hard to draw from, or a slow machine, says nothing of the API
    argv += ["--suppress-health-check", "all"]
    argv += ["--max-time", str(SECONDS), "--seed", "1", "--header", f"Authorization: Bearer {token}"]
    run = subprocess.run(
        argv,
        cwd=folder,
        # a report that looks the same everywhere; tables of Unicode that are made once
        env={**os.environ, "COLUMNS": "120", "TERM": "dumb", "HYPOTHESIS_STORAGE_DIRECTORY": str(STORAGE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS + MARGIN,
    )
    assert run.returncode == 0, _found(run.stdout)
    # on a machine that is busy with other things the time may be over before all is tested
    if "Time limit reached" not in run.stdout:
        assert f"Tested: {OPERATIONS - len(without)}" in run.stdout, run.stdout[-20_000:]
    return run.stdout


def _found(report: str) -> str:
    """What schemathesis has found, without the banner that would hide it from the summary of a test run."""
    parts = re.split(r"^=+ (?:ERRORS|FAILURES) =+$", report, maxsplit=1, flags=re.MULTILINE)
    return parts[-1].strip()[-20_000:]


def _document(url: str) -> Any:
    """The API's document, without what schemathesis cannot satisfy.

    A bound makes it build lists of 10,001 payloads; the numbers of calls of several functions must add up.
    """
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=10) as answer:
        document = json.load(answer)
    submission = document["components"]["schemas"]["SubmissionIn"]
    del submission["properties"]["payloads"]["maxItems"]
    del submission["properties"]["functions"]
    submission["required"].append("function_id")
    return document
