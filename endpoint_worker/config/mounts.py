"""Which paths of the machine are visible inside a sandbox, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Directory of the runner's own files inside a sandbox.
ROOM = "/run/umbel"


@dataclass(frozen=True)
class Mount:
    """A file or directory of the machine at ``target``; ``mode``: ro, rw or dev (a device)."""

    source: Path
    target: str
    mode: str = "ro"

    @classmethod
    def parse(cls, text: str) -> Mount:
        """Read ``SOURCE[:TARGET][:ro|rw|dev]``; writable by default. Raises ValueError."""
        parts = text.split(":")
        mode = parts.pop() if len(parts) > 1 and parts[-1] in ("ro", "rw", "dev") else "rw"
        if len(parts) > 2 or not all(part.startswith("/") for part in parts):
            raise ValueError(
                f"setting 'binds' must be a list of /path, /path:ro or /path:/inside:ro, got {text[:60]!r}"
            )
        return cls(Path(parts[0]), parts[-1], mode)

    def shows(self, folder: Path) -> bool:
        """True if this mount exposes the content of ``folder`` or a part of it."""
        mine, other = self.source.resolve(), folder.resolve()
        return other.is_relative_to(mine) or mine.is_relative_to(other)


@dataclass(frozen=True)
class Start:
    """How to start one runner in a sandbox.

    ``argv``: its command, with paths as they are inside. ``work``: the directory in which it starts, the only
    writable one of the machine apart from binds. ``mounts``: further mounts. ``environment``: its variables.
    ``hidden``: directories that stay hidden whatever is mounted.
    """

    argv: Sequence[str]
    work: Path
    mounts: Sequence[Mount] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    hidden: Sequence[Path] = ()
