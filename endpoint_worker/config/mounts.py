"""What of the machine is visible inside a sandbox, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Where runners find what is theirs, inside.
ROOM = "/run/umbel"


@dataclass(frozen=True)
class Mount:
    """A file or folder of the machine at ``target``; ``mode``: ro, rw or dev (a device)."""

    source: Path
    target: str
    mode: str = "ro"

    @classmethod
    def parse(cls, text: str) -> Mount:
        """Read ``SOURCE[:TARGET][:ro|rw|dev]``; without a mode it is writable. Raises ValueError."""
        parts = text.split(":")
        mode = parts.pop() if len(parts) > 1 and parts[-1] in ("ro", "rw", "dev") else "rw"
        if len(parts) > 2 or not all(part.startswith("/") for part in parts):
            raise ValueError(f"'{text}' is no bind: write /path, /path:ro, or /path:/inside:ro")
        return cls(Path(parts[0]), parts[-1], mode)

    def shows(self, folder: Path) -> bool:
        """True when the content of ``folder``, or a part of it, would be seen through this."""
        mine, other = self.source.resolve(), folder.resolve()
        return other.is_relative_to(mine) or mine.is_relative_to(other)


@dataclass(frozen=True)
class Start:
    """One runner to be started.

    ``argv``: its command, as it is inside; ``work``: the folder in which it starts, the only one of the
    machine that it may write to beside binds; ``mounts``: what else it needs; ``environment``: its variables;
    ``hidden``: folders that it must not see whatever is mounted.
    """

    argv: Sequence[str]
    work: Path
    mounts: Sequence[Mount] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    hidden: Sequence[Path] = ()
