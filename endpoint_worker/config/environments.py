"""Table ``[environments]`` of ``endpoint.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from umbel.system.setting_types import SECRET, Number, Size

#: The oldest Python version that runners support.
OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Environments:
    """How environments are built and stored. Times in seconds, sizes in bytes. Raises ValueError."""

    folder: str = field(
        default="",
        metadata={
            "docs": "Directory of built environments; nodes may share it. Empty: in cache next to this file."
        },
    )
    size: Size = field(
        default=20 * 1024**3,
        metadata={"docs": "Size limit of that directory; the least recently used go first. 0: no limit."},
    )
    options: Annotated[tuple[str, ...], SECRET] = field(
        default=(),
        metadata={
            "docs": "Options for uv pip install, or pip install, such as the package index.",
            "example": ["--index-url", "https://packages.example/simple"],
        },
    )
    sources: bool = field(
        default=False,
        metadata={"docs": "Allow packages to be built from source; this runs their code as this account."},
    )
    build_seconds: Number = field(
        default=1800.0, metadata={"docs": "Time limit of building one environment, seconds."}
    )
    retry_seconds: Number = field(
        default=600.0, metadata={"docs": "Time before a failed build is tried again, seconds."}
    )
    named: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "docs": "Ready-made environments: a name and the absolute path of a Python for each.",
            "example": {"chemistry": "/opt/chemistry/bin/python"},
        },
    )

    def __post_init__(self) -> None:
        for name, python in self.named.items():
            if not Path(python).is_absolute():
                raise ValueError(
                    f"setting 'named' must be a table of absolute paths, got {python[:60]!r} for '{name}'"
                )

    def place(self, cache: Path) -> Path:
        """Directory of built environments; ``cache``: the endpoint's own cache."""
        return Path(self.folder).expanduser().absolute() if self.folder else cache / "environments"
