"""Table ``[sandbox]`` of ``endpoint.toml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .mounts import Mount

#: Kinds of sandboxes, each with the program that starts it.
KINDS = {
    "none": "",
    "bubblewrap": "bwrap",
    "podman": "podman",
    "docker": "docker",
    "apptainer": "apptainer",
    "singularity": "singularity",
    "charliecloud": "ch-run",
    "shifter": "shifter",
}
#: Kinds that cannot restrict access to the network.
NETWORKED = ("charliecloud", "shifter")
#: Kinds that need an image.
CONTAINERS = tuple(kind for kind in KINDS if kind not in ("none", "bubblewrap"))


@dataclass(frozen=True)
class Sandbox:
    """How runners are isolated from the machine. Raises ValueError for settings that cannot be used."""

    kind: str = field(default="none", metadata={"docs": f"One of {', '.join(KINDS)}."})
    image: str = field(
        default="",
        metadata={
            "docs": "Image for calls: its name, or a directory with its files. Optional for bubblewrap."
        },
    )
    python: str = field(
        default="python3",
        metadata={"docs": "Python in the image, 3.10 or later; it needs no packages."},
    )
    network: bool = field(default=True, metadata={"docs": "Allow calls to use the network."})
    binds: tuple[str, ...] = field(
        default=(),
        metadata={
            "docs": 'Paths of this machine that calls see: "/path", "/path:ro" or "/path:/inside:ro".',
            "example": ["/data:ro", "/scratch"],
        },
    )
    command: tuple[str, ...] = field(
        default=(),
        metadata={
            "docs": "The sandbox's program and its global options. Empty: the usual program, found on PATH.",
            "example": ["/opt/podman/bin/podman", "--runtime", "crun"],
        },
    )
    options: tuple[str, ...] = field(
        default=(), metadata={"docs": "Additional options for each start.", "example": ["--gpus", "all"]}
    )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"setting 'kind' must be one of {', '.join(KINDS)}, got {self.kind[:40]!r}")
        if self.kind in CONTAINERS and not self.image:
            raise ValueError(f"kind '{self.kind}' needs an image: set 'image'")
        if self.kind in NETWORKED and not self.network:
            raise ValueError(
                f"kind '{self.kind}' cannot disable the network: use another kind, or network = true"
            )
        for text in self.binds:
            Mount.parse(text)

    def mounts(self, private: Path) -> list[Mount]:
        """The binds. Raises ValueError for one that exposes ``private``, the endpoint's own directory."""
        mounts = [Mount.parse(text) for text in self.binds]
        for mount in mounts:
            if mount.shows(private):
                raise ValueError(
                    f"setting 'binds': '{mount.source}' exposes the endpoint's own directory {private}, "
                    "with its credentials, to calls: bind directories outside it"
                )
        return mounts
