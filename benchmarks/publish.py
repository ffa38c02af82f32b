"""The figures of the manual from the reference records: ``python -m benchmarks.publish`` updates them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .peers.base import ROOT
from .plot import draw
from .report import as_rst, render

#: Records that are kept with the project, and what is made of them.
REFERENCE = ROOT / "benchmarks" / "results" / "reference.json"
FIGURES = ROOT / "docs" / "explanation" / "performance_figures.inc"
PICTURE = ROOT / "docs" / "explanation" / "performance.svg"


def write_records(file: Path, data: Mapping[str, Any]) -> None:
    """Write records, machine and settings as JSON, one record per line, for readable diffs."""
    head = ",\n".join(f"{json.dumps(name)}: {json.dumps(data[name])}" for name in ("machine", "settings"))
    rows = ",\n".join(json.dumps(record) for record in data["records"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{{{head},\n"records": [\n{rows}\n]}}\n', encoding="utf-8")


def read_records(file: Path) -> dict[str, Any]:
    """Read a file of ``write_records``."""
    return dict(json.loads(file.read_text(encoding="utf-8")))


def figures(data: Mapping[str, Any]) -> str:
    """Return the tables of the manual, with the machine and the versions."""
    machine, records = data["machine"], data["records"]
    versions = {
        record["peer"]: ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        for record in records
        if "versions" in record
    }
    lines = [
        "Figures",
        "-------",
        "",
        f"{machine['date']}: {machine['processors']} processors ({machine['architecture']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}; {data['settings']['rounds']} round(s).",
        "",
        *(f"* {peer}: {text}" for peer, text in versions.items()),
        "",
        ".. image:: performance.svg",
        "   :alt: Medians of all systems, one panel per work",
        "",
        render(records, as_rst),
    ]
    return "\n".join(lines)


def main() -> int:
    """Update figures and plot from the reference records."""
    data = read_records(REFERENCE)
    FIGURES.write_text(figures(data), encoding="utf-8")
    draw(data["records"], PICTURE)
    print(f"Written: {FIGURES.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
