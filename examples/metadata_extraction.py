"""Bulk metadata extraction: examine every file of this Python's standard library on an endpoint.

``make demo`` runs this. It starts a temporary Umbel service (see ``embedded.py``), submits one call per file
to the endpoint, prints a summary and checks the results. The exit status is 0 only if all checks pass; no
process and no file is left behind. With an existing service, you need only the lines around ``Executor``.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import random
import sys
import sysconfig
import time
import warnings
from collections import Counter
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import click
from embedded import embedded_federation, interrupt_on_signals

from umbel import Executor

STDLIB = sysconfig.get_path("stdlib")
SKIPPED = {
    "site-packages",
    "dist-packages",
    "__pycache__",
}  # not part of the library, or different from run to run
DEADLINE = 120.0  # time limit of all calls together, seconds
SAMPLE = 50  # number of digests to verify


# --- runs on the endpoint: plain Python without Umbel
# --------------------------------------------------------


def list_files(folder: str) -> list[str]:
    """Return the paths of all files in ``folder`` and its subdirectories."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found += [os.path.join(where, name) for name in names if os.path.isfile(os.path.join(where, name))]
    return found


def examine(path: str) -> dict[str, Any]:
    """Return size (bytes), SHA-256, type and lines; for Python files also definitions and imports."""
    data = Path(path).read_bytes()
    found = {
        "path": path,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "type": Path(path).suffix or "(none)",
        "lines": 0 if b"\0" in data else data.count(b"\n"),
        "ran_on": f"{platform.node()}, process {os.getpid()}",
    }
    return {**found, **examine_python(data)} if path.endswith(".py") else found


def examine_python(source: bytes) -> dict[str, Any]:
    """Return the number of functions and classes of a module, and the modules that it imports."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:  # the tests of the library contain invalid files on purpose
        return {"unparsable": error.msg}
    imports = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {
        "functions": sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "imports": sorted({name.split(".")[0] for name in imports}),
    }


# --- runs in this process
# ------------------------------------------------------------------------------------


def main() -> int:
    """Run the demo; return the exit status."""
    interrupt_on_signals()
    print(
        "Starting Umbel in a temporary directory: API, ledger, broker, collector, sweeper, one endpoint ..."
    )
    with embedded_federation() as url:
        print(f"Ready at {url} (API documentation: {url}/docs).\n", flush=True)
        with Executor("local") as executor:
            try:
                paths = executor.submit(list_files, STDLIB).result(timeout=60)
                started = time.monotonic()
                found = examine_all(executor, paths)
                seconds = time.monotonic() - started
            except KeyboardInterrupt:
                executor.shutdown(cancel_futures=True)  # otherwise the end of the block waits for all calls
                raise
    report(found, seconds)
    return check(paths, found)


def examine_all(executor: Executor, paths: list[str]) -> list[dict[str, Any]]:
    """Examine every file with one call each; show the progress; return the results in order."""
    futures = [executor.submit(examine, path) for path in paths]
    with click.progressbar(length=len(paths), label=f"Examining {len(paths):,} files") as bar:
        for _ in as_completed(futures, timeout=DEADLINE):
            bar.update(1)
    return [future.result() for future in futures]


def report(found: list[dict[str, Any]], seconds: float) -> None:
    """Print a summary of the results, the rate, and where the calls ran."""
    print(f"\n{'type':<10} {'files':>7} {'MB':>8} {'lines':>9} {'functions':>10} {'classes':>8}")
    kinds = [kind for kind, _ in Counter(file["type"] for file in found).most_common()]
    for kind in kinds[:7]:
        print_row(kind, [file for file in found if file["type"] == kind])
    print_row("others", [file for file in found if file["type"] in kinds[7:]])
    print_row("all", found)

    imports = Counter(name for file in found for name in file.get("imports", ()))
    largest = max(found, key=lambda file: int(file["size"]))
    broken = sum("unparsable" in file for file in found)
    print("\nMost imported  " + ", ".join(f"{name} ({count:,})" for name, count in imports.most_common(8)))
    print(f"Largest file   {os.path.relpath(largest['path'], STDLIB)} ({largest['size'] / 1e6:.1f} MB)")
    if broken:
        print(f"Not parsable   {broken} Python files (invalid on purpose, for the tests of the library)")

    print(f"\n{len(found):,} tasks in {seconds:.1f} s, {len(found) / seconds:,.0f} tasks/s:")
    for place, count in sorted(Counter(file["ran_on"] for file in found).items()):
        print(f"{count:>7,} ran on {place}")


def print_row(kind: str, files: list[dict[str, Any]]) -> None:
    """Print one line of the table."""
    size, lines, functions, classes = (
        sum(file.get(key, 0) for file in files) for key in ("size", "lines", "functions", "classes")
    )
    print(f"{kind:<10} {len(files):>7,} {size / 1e6:>8.1f} {lines:>9,} {functions:>10,} {classes:>8,}")


def check(paths: list[str], found: list[dict[str, Any]]) -> int:
    """Compare the results with the files on disk; return 0 if they agree, else 1."""
    here = sorted(list_files(STDLIB))
    if not here or here != sorted(paths) or here != sorted(file["path"] for file in found):
        print(f"\nCHECK FAILED: {len(here)} files on disk, {len(paths)} listed, {len(found)} examined")
        return 1
    sample = random.sample(found, min(SAMPLE, len(found)))
    wrong = [file["path"] for file in sample if file["sha256"] != examine(file["path"])["sha256"]]
    if wrong:
        print(f"\nCHECK FAILED: wrong digests: {wrong}")
        return 1
    print(f"\nChecked: all {len(here):,} files are on disk; {len(sample)} digests verified.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nInterrupted. The service is stopped and its files are deleted.")
        sys.exit(130)
