"""The command line that starts a runner in each kind of sandbox.

Attributes of a launcher:

* ``in_place``: the program becomes the runner itself and keeps descriptors, process id and process group.
  Otherwise the runner connects to a socket in a directory that is mounted for it (``line``, ``inside``).
* ``keeper``: nothing else ends the runner when the worker dies, so its first process watches that socket.
* ``shares_processes``: runner and leftovers are in the machine's own process namespace.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from glob import glob
from pathlib import Path

from ..config.mounts import ROOM, Mount, Start
from ..config.sandbox import KINDS, Sandbox

#: Directories of the machine that a bubblewrap sandbox without an image sees, read-only.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/sys")
#: Accelerators and fast networks, passed to every sandbox that would hide them.
DEVICES = ("/dev/nvidia*", "/dev/kfd", "/dev/dri", "/dev/infiniband")
#: Variables with paths of the machine, which do not exist in an image.
HOST_VARIABLES = tuple("PATH HOME SHELL TMPDIR LD_LIBRARY_PATH VIRTUAL_ENV MODULEPATH LOADEDMODULES".split())
HOST_PREFIXES = ("CONDA_", "LMOD_", "XDG_", "PYTHON")


class Launcher:
    """No sandbox: the runner is an ordinary process."""

    in_place = True
    keeper = False
    shares_processes = True
    #: the runner stays in the control group in which the command was started
    keeps_cgroup = True

    def __init__(self, settings: Sandbox | None = None):
        self.settings = settings or Sandbox()

    @property
    def sandboxed(self) -> bool:
        """True if calls run in a sandbox."""
        return self.settings.kind != "none"

    def inside(self, name: str) -> str:
        """Path of one of Umbel's own mounts inside the sandbox."""
        return f"{ROOM}/{name}"

    def work(self, directory: Path) -> str:
        """Path of the directory in which runners start."""
        return str(directory)

    def command(self, start: Start) -> list[str]:
        """The complete command line."""
        return list(start.argv)

    def environment(self, start: Start) -> dict[str, str]:
        """Variables of that command."""
        return dict(start.environment)

    def _program(self) -> list[str]:
        return list(self.settings.command) or [KINDS[self.settings.kind]]


class Bubblewrap(Launcher):
    """``bwrap``: a file system made of the machine's own directories, or of an image's, per runner."""

    in_place = False
    shares_processes = False

    def command(self, start: Start) -> list[str]:
        """All namespaces are unshared; only mounted paths exist."""
        argv = [*self._program(), "--unshare-all"]
        if self.settings.network:
            argv += ["--share-net"]
        argv += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        argv += ["--ro-bind", self.settings.image, "/"] if self.settings.image else self._system()
        argv += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run"]
        for device in _devices():
            argv += ["--dev-bind", device, device]
        resolver = Path("/etc/resolv.conf")
        if self.settings.network and resolver.is_symlink() and resolver.exists():
            argv += ["--ro-bind", str(resolver.resolve()), str(resolver.resolve())]
        own = [mount for mount in start.mounts if _after_hidden(mount, start)]
        for mount in start.mounts:
            argv += _bwrap(mount) if mount not in own else []
        for directory in start.hidden:
            if any(_covers(mount, directory) for mount in (*start.mounts, *self._roots())):
                argv += ["--tmpfs", str(directory)]
        argv += ["--bind", str(start.work), str(start.work)]
        for mount in own:
            argv += _bwrap(mount)
        argv += ["--setenv", "HOME", str(start.work), "--unsetenv", "TMPDIR", "--chdir", str(start.work)]
        return [*argv, *self.settings.options, "--", *start.argv]

    def _roots(self) -> list[Mount]:
        return [] if self.settings.image else [Mount(Path(name), name) for name in SYSTEM]

    @staticmethod
    def _system() -> list[str]:
        argv: list[str] = []
        for name in SYSTEM:
            if os.path.islink(name):
                argv += ["--symlink", os.readlink(name), name]
            elif os.path.isdir(name):
                argv += ["--ro-bind", name, name]
        return [*argv, "--tmpfs", "/var/tmp"]


class _Image(Launcher):
    """A container from an image with its own variables and directories."""

    in_place = False
    keeper = True
    shares_processes = False

    def _variables(self, start: Start) -> dict[str, str]:
        chosen = {
            name: value
            for name, value in start.environment.items()
            if name not in HOST_VARIABLES and not name.startswith(HOST_PREFIXES)
        }
        return {**chosen, "HOME": self.work(start.work)}

    def _mounts(self, start: Start) -> list[Mount]:
        return [*start.mounts, Mount(start.work, self.work(start.work), "rw")]


class Podman(_Image):
    """``podman run``, rootless or not; an image that is a directory is used in place and never changed."""

    #: containers get groups of their own
    keeps_cgroup = False

    def command(self, start: Start) -> list[str]:
        """The container is removed when it ends; nothing is downloaded."""
        argv = [*self._program(), "run", "--rm", "--pull", "never", "--log-driver", "none", "--init=false"]
        argv += [
            "--network",
            "host" if self.settings.network else "none",
            "--security-opt",
            "no-new-privileges",
        ]
        argv += ["--cap-drop", "ALL", "--security-opt", "label=disable", *self._user()]
        for mount in self._mounts(start):
            argv += ["--volume", f"{mount.source}:{mount.target}:{'ro' if mount.mode == 'ro' else 'rw'}"]
        for device in _devices():
            argv += ["--device", device]
        for name, value in sorted(self._variables(start).items()):
            # pass a value that the program has by name only, so that it does not show in process lists
            argv += ["--env", name if start.environment.get(name) == value else f"{name}={value}"]
        argv += ["--workdir", self.work(start.work), *self.settings.options]
        return [*argv, "--entrypoint", start.argv[0], *self._image(), *start.argv[1:]]

    def _user(self) -> list[str]:
        # the same account inside, so that the endpoint owns the files of calls
        return [] if os.getuid() == 0 else ["--userns", "keep-id"]

    def _image(self) -> list[str]:
        image = self.settings.image
        return ["--rootfs", f"{image}:O"] if Path(image).is_dir() else [image]


class Docker(Podman):
    """``docker run``: like podman, but the daemon starts the container, as the endpoint's account."""

    def _user(self) -> list[str]:
        return ["--user", f"{os.getuid()}:{os.getgid()}"]

    def _image(self) -> list[str]:
        return [self.settings.image]


class Apptainer(_Image):
    """``apptainer exec``."""

    prefix = "APPTAINERENV_"

    def command(self, start: Start) -> list[str]:
        """Home, /tmp and the environment contain only what is named here."""
        argv = [*self._program(), "exec", "--containall", "--cleanenv", "--no-home", "--pid", "--ipc"]
        if not self.settings.network:
            argv += ["--net", "--network", "none"]
        if glob("/dev/nvidia*"):
            argv += ["--nv"]
        if os.path.exists("/dev/kfd"):
            argv += ["--rocm"]
        for mount in self._mounts(start):
            argv += ["--bind", f"{mount.source}:{mount.target}:{'ro' if mount.mode == 'ro' else 'rw'}"]
        argv += ["--pwd", self.work(start.work), *self.settings.options]
        return [*argv, self.settings.image, *start.argv]

    def environment(self, start: Start) -> dict[str, str]:
        """Its own variables, and those for the container with a prefix."""
        inner = {f"{self.prefix}{name}": value for name, value in self._variables(start).items()}
        return {**start.environment, **inner}


class Singularity(Apptainer):
    """``singularity exec``: like Apptainer, by its old name."""

    prefix = "SINGULARITYENV_"


class Charliecloud(_Image):
    """``ch-run``: the image's files instead of the machine's, in place; shares processes and network."""

    in_place = True
    keeper = False
    shares_processes = True

    def inside(self, name: str) -> str:
        """Below the private /tmp: the image is read-only and need not have a directory for it."""
        return f"/tmp/.umbel/{name}"

    def work(self, directory: Path) -> str:
        """The same path if the image has it or /tmp can have it; otherwise /tmp/work."""
        there = Path(self.settings.image) / directory.relative_to("/")
        return str(directory) if there.is_dir() or directory.is_relative_to("/tmp") else "/tmp/work"

    def command(self, start: Start) -> list[str]:
        """ch-run creates mount points in its private /tmp, which is mounted first."""
        argv = [*self._program(), "--private-tmp", "--cd", self.work(start.work)]
        for mount in self._mounts(start):
            argv += ["--bind", f"{mount.source}:{mount.target}"]
        return [*argv, *self.settings.options, self.settings.image, "--", *start.argv]

    def environment(self, start: Start) -> dict[str, str]:
        """Variables are passed unchanged; ch-run itself needs the account's name."""
        kept = {name: start.environment[name] for name in ("PATH",) if name in start.environment}
        return {"USER": "umbel", "PATH": os.defpath, **kept, **self._variables(start)}


class Shifter(_Image):
    """``shifter``: images prepared by the site's gateway; shares processes and network."""

    shares_processes = True

    def inside(self, name: str) -> str:
        """Below /tmp, which every image has."""
        return f"/tmp/.umbel/{name}"

    def command(self, start: Start) -> list[str]:
        """Mounts are volumes; the gateway's settings restrict which directories may be mounted."""
        argv = [*self._program(), f"--image={self.settings.image}", f"--workdir={self.work(start.work)}"]
        for mount in self._mounts(start):
            argv += [f"--volume={mount.source}:{mount.target}{':ro' if mount.mode == 'ro' else ''}"]
        return [*argv, *self.settings.options, "--", *start.argv]

    def environment(self, start: Start) -> dict[str, str]:
        """Variables are passed unchanged."""
        kept = {name: start.environment[name] for name in ("PATH",) if name in start.environment}
        return {**kept, **self._variables(start)}


_LAUNCHERS: Mapping[str, type[Launcher]] = {
    "none": Launcher,
    "bubblewrap": Bubblewrap,
    "podman": Podman,
    "docker": Docker,
    "apptainer": Apptainer,
    "singularity": Singularity,
    "charliecloud": Charliecloud,
    "shifter": Shifter,
}


def launcher(settings: Sandbox) -> Launcher:
    """Return the launcher for these settings."""
    return _LAUNCHERS[settings.kind](settings)


def missing(settings: Sandbox) -> str:
    """Return the sandbox's program if it is not installed, else ""."""
    program = (list(settings.command) or [KINDS[settings.kind]])[0]
    return "" if settings.kind == "none" or shutil.which(program) else program


def _devices() -> list[str]:
    return sorted(path for pattern in DEVICES for path in glob(pattern))


def _bwrap(mount: Mount) -> list[str]:
    word = {"ro": "--ro-bind", "rw": "--bind", "dev": "--dev-bind"}[mount.mode]
    return [word, str(mount.source), mount.target]


def _after_hidden(mount: Mount, start: Start) -> bool:
    """Return whether it must be mounted after the hidden directories, because it may lie in one of them."""
    return mount.target.startswith(ROOM) or any(
        Path(mount.target).is_relative_to(directory) for directory in start.hidden
    )


def _covers(mount: Mount, directory: Path) -> bool:
    return Path(directory).is_relative_to(mount.target)
