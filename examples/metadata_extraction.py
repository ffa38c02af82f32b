"""Bulk metadata extraction: look into every file of this Python's standard library, on an endpoint.

``make demo`` runs this. It starts a whole Umbel of its own (see ``embedded.py``), sends one call per file to
the endpoint, shows what was found, and checks its own answer. It exits 0 only if everything was true, and
leaves no process and no file behind. With a service of yours, the lines around ``Executor`` are all you need.
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
}  # not the library, or not the same from run to run
DEADLINE = 120.0  # seconds for all calls together: a demo must not hang
SAMPLE = 50  # digests that are computed again


# --- what runs on the endpoint: ordinary Python, nothing of Umbel in it -------------------------------------


def list_files(folder: str) -> list[str]:
    """Return the path of every file below ``folder``."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found += [os.path.join(where, name) for name in names if os.path.isfile(os.path.join(where, name))]
    return found


def examine(path: str) -> dict[str, Any]:
    """Return size (bytes), SHA-256, type and lines of a file; for Python also what it defines and imports."""
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
    """Return the number of functions and classes of a module, and which modules it imports."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:  # the library holds some on purpose, to test its own parser
        return {"unparsable": error.msg}
    imports = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {
        "functions": sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "imports": sorted({name.split(".")[0] for name in imports}),
    }


# --- what runs here -----------------------------------------------------------------------------------------


def main() -> int:
    """Run the demo; return the exit status."""
    interrupt_on_signals()
    print("Starting Umbel in a temporary home: web API, ledger, broker, collector, sweeper, one endpoint ...")
    with embedded_federation() as url:
        print(f"Ready at {url} (the API is described at {url}/docs).\n", flush=True)
        with Executor("local") as executor:
            try:
                paths = executor.submit(list_files, STDLIB).result(timeout=60)
                started = time.monotonic()
                found = examine_all(executor, paths)
                seconds = time.monotonic() - started
            except KeyboardInterrupt:
                executor.shutdown(cancel_futures=True)  # else leaving the block waits for all calls
                raise
    report(found, seconds)
    return check(paths, found)


def examine_all(executor: Executor, paths: list[str]) -> list[dict[str, Any]]:
    """Have every file examined, one call each; show the progress; return the answers in order."""
    futures = [executor.submit(examine, path) for path in paths]
    with click.progressbar(length=len(paths), label=f"Examining {len(paths):,} files") as bar:
        for _ in as_completed(futures, timeout=DEADLINE):
            bar.update(1)
    return [future.result() for future in futures]


def report(found: list[dict[str, Any]], seconds: float) -> None:
    """Print what was found, how fast, and where."""
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
        print(f"Not parsable   {broken} Python files (bad syntax on purpose, in the library's own tests)")

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
    """Compare the answers with what this process sees on the disk; return 0 if all is true, else 1."""
    here = sorted(list_files(STDLIB))
    if not here or here != sorted(paths) or here != sorted(file["path"] for file in found):
        print(f"\nCHECK FAILED: {len(here)} files here, {len(paths)} listed and {len(found)} examined there")
        return 1
    sample = random.sample(found, min(SAMPLE, len(found)))
    wrong = [file["path"] for file in sample if file["sha256"] != examine(file["path"])["sha256"]]
    if wrong:
        print(f"\nCHECK FAILED: the digests of {wrong} differ from those computed here")
        return 1
    print(f"\nChecked: the same {len(here):,} files are on the disk; {len(sample)} digests agree with ours.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nInterrupted. Everything is stopped and removed.")
        sys.exit(130)
