"""Table ``[environments]`` of ``endpoint.toml``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: A runner needs a Python that Umbel knows.
OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Environments:
    """How environments are built and kept. Times in seconds, sizes in bytes. Raises ValueError."""

    folder: str = field(
        default="",
        metadata={
            "docs": "Folder of built environments; nodes may share it. Empty: in cache beside this file."
        },
    )
    size: int = field(
        default=20 * 1024**3,
        metadata={"docs": "Most bytes of it: what was used longest ago goes. 0: no limit.", "size": True},
    )
    options: Collection[str] = field(
        default=(),
        metadata={
            "docs": "Options for uv pip install, or pip install: where packages come from.",
            "example": ["--index-url", "https://packages.example/simple"],
        },
    )
    sources: bool = field(
        default=False,
        metadata={"docs": "Whether packages may be built from source: that runs their code as this account."},
    )
    build_seconds: float = field(
        default=1800.0, metadata={"docs": "Longest time that building one may take."}
    )
    retry_seconds: float = field(
        default=600.0, metadata={"docs": "One that could not be built is tried again after this time."}
    )
    named: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "docs": "Environments that are ready, by name; each is its Python.",
            "example": {"chemistry": "/opt/chemistry/bin/python"},
        },
    )

    def __post_init__(self) -> None:
        for name, python in self.named.items():
            if not Path(python).is_absolute():
                raise ValueError(
                    f"environment '{name}' in 'named' wants its Python's whole path, not '{python}'"
                )

    def place(self, cache: Path) -> Path:
        """Folder of built environments; ``cache``: the endpoint's own cache."""
        return Path(self.folder).expanduser().absolute() if self.folder else cache / "environments"
