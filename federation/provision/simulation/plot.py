"""Plot a simulated run. Only this module needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .cluster import Sample


def draw(samples: Sequence[Sample], file: Path) -> None:
    """Plot demand and blocks over time; the file name extension selects the format.

    Raises OSError, ValueError.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    times = [sample.time for sample in samples]
    above.step(times, [sample.waiting for sample in samples], where="post", label="calls waiting")
    above.legend()
    lines = {
        "blocks pending": ([sample.pending for sample in samples], "-"),
        "blocks running": ([sample.running for sample in samples], "-"),
        "slots": ([sample.slots for sample in samples], "--"),
        "slots busy": ([sample.busy for sample in samples], ":"),
    }
    for label, (values, style) in lines.items():
        below.step(times, values, where="post", label=label, linestyle=style)
    below.set_xlabel("seconds")
    below.legend()
    figure.savefig(file)
