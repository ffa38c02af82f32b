"""Plot the records of a benchmark: ``python -m benchmarks.plot FILE PLOT`` (needs matplotlib)."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .tables import COLUMNS, Record, by_round
from .works import WORKS

#: Colour of Umbel, and of all other systems.
_OURS, _OTHERS = "#2e7d32", "#9e9e9e"
_LESS = {"p50_ms", "stretch"}
_PANELS = ("W1", "W2", "W3", "W4", "W5", "W6")


def draw(records: Sequence[Record], file: Path) -> None:
    """Plot medians with their extremes, one panel per work; the file name extension selects the format.

    Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    # keep text as text, and make the output reproducible
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "umbel"})
    from matplotlib import pyplot

    works = [work for work in _PANELS if any(record["work"] == work for record in records)]
    columns = min(3, max(1, len(works)))
    rows = max(1, -(-len(works) // columns))
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False)
    panels = [panel for row in axes for panel in row]
    for panel in panels[len(works) :]:
        panel.set_visible(False)
    for panel, work in zip(panels, works):
        _panel(panel, records, work)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)


def _panel(panel: Any, records: Sequence[Record], work: str) -> None:
    n = max(record["n"] for record in records if record["work"] == work)
    column = COLUMNS[work][0]
    peers = list(dict.fromkeys(record["peer"] for record in records if record["work"] == work))
    values = [list(by_round(records, peer, work, n, column.key).values()) for peer in peers]
    middles = [statistics.median(each) for each in values]
    spread = [
        [middle - min(each) for middle, each in zip(middles, values)],
        [max(each) - middle for middle, each in zip(middles, values)],
    ]
    colours = [_OURS if peer == "umbel" else _OTHERS for peer in peers]
    panel.barh(peers, middles, xerr=spread, color=colours, capsize=2)
    panel.invert_yaxis()
    panel.set_title(f"{work}: {n:,} {WORKS[work].title}", fontsize=8)
    better = "less" if column.key in _LESS else "more"
    panel.set_xlabel(f"{column.head} ({better} is better)", fontsize=8)
    panel.tick_params(labelsize=8)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["records"], Path(sys.argv[2]))
