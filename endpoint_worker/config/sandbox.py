"""Table ``[sandbox]`` of ``endpoint.toml``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from .mounts import Mount

#: Kinds of sandboxes; each with what stands for it in front of a runner's command.
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
#: Kinds that leave the machine's network as it is.
NETWORKED = ("charliecloud", "shifter")
#: Kinds that want an image.
CONTAINERS = tuple(kind for kind in KINDS if kind not in ("none", "bubblewrap"))


@dataclass(frozen=True)
class Sandbox:
    """How runners are closed in. Raises ValueError for what cannot be."""

    kind: str = field(default="none", metadata={"docs": f"One of {', '.join(KINDS)}."})
    image: str = field(
        default="",
        metadata={"docs": "Image for calls: its name, or a folder with its files. bubblewrap: may be empty."},
    )
    python: str = field(
        default="python3",
        metadata={"docs": "Python in the image, 3.10 or later; nothing need be installed in it."},
    )
    network: bool = field(default=True, metadata={"docs": "Whether calls reach the network."})
    binds: Collection[str] = field(
        default=(),
        metadata={
            "docs": 'What calls see of this machine besides: "/path", "/path:ro" or "/path:/inside:ro".',
            "example": ["/data:ro", "/scratch"],
        },
    )
    command: Collection[str] = field(
        default=(),
        metadata={
            "docs": "The sandbox's program, and options of its own. Empty: what the kind is called, on PATH.",
            "example": ["/opt/podman/bin/podman", "--runtime", "crun"],
        },
    )
    options: Collection[str] = field(
        default=(), metadata={"docs": "Further options of each start.", "example": ["--gpus", "all"]}
    )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"setting 'kind' wants {', '.join(KINDS)}, not '{self.kind}'")
        if self.kind in CONTAINERS and not self.image:
            raise ValueError(f"kind '{self.kind}' needs an image: set 'image'")
        if self.kind in NETWORKED and not self.network:
            raise ValueError(
                f"kind '{self.kind}' cannot keep calls from the network: use another kind, or network = true"
            )
        for text in self.binds:
            Mount.parse(text)

    def mounts(self, private: Path) -> list[Mount]:
        """The binds. Raises ValueError for one that shows ``private``, the endpoint's own folder."""
        mounts = [Mount.parse(text) for text in self.binds]
        for mount in mounts:
            if mount.shows(private):
                raise ValueError(
                    f"bind '{mount.source}' shows calls the endpoint's own folder {private}, "
                    "with its credentials: bind folders beside it"
                )
        return mounts
