"""The settings of an endpoint: ``endpoint.toml`` in its directory, one frozen object per process."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from umbel.protocol.errors import UmbelError
from umbel.protocol.limits import DEFAULT_OUTPUT_BYTES, FEWEST_FILES, MAX_OUTPUT_BYTES
from umbel.system.setting_types import SECRET, SIZE, Count, Number, Size
from umbel.system.settings import InvalidSettings, Source, read, read_toml

from ..broker.client import at_address
from .environments import Environments
from .hardware import Hardware
from .policy import Rules
from .sandbox import Sandbox

#: Variables that runners get from the worker's environment by default; patterns are allowed.
PASSED = tuple("""PATH HOME USER LOGNAME SHELL LANG LC_* TZ TMPDIR LD_LIBRARY_PATH VIRTUAL_ENV CONDA_* XDG_*
    MODULEPATH LOADEDMODULES LMOD_* OMP_* MKL_* OPENBLAS_* NUMEXPR_* CUDA_* NVIDIA_* ROCR_* HIP_*
    SLURM_* PBS_* LSB_* SGE_* JOB_ID NSLOTS NHOSTS PE_HOSTFILE PMI* OMPI_* I_MPI_*""".split())


class SettingsError(UmbelError):
    """A setting of an endpoint is unknown or has a value that cannot be used."""

    default_code = "BAD_REQUEST"


@dataclass(frozen=True)
class Settings:
    """The settings of a worker. Times in seconds, sizes in bytes; 0 and "" mean none.

    ``docs`` of each field is the comment that ``configure`` writes above it. Raises ValueError for values
    that cannot be used.
    """

    name: str = field(default="", metadata={"docs": ""})
    slots: Count = field(
        default=0,
        metadata={
            "docs": "Calls that run at once on one node. 0: one per processor, or limited by [hardware]."
        },
    )
    timeout: Number = field(
        default=0.0,
        metadata={"docs": "Time limit of a call, seconds. A submission may set a lower one. 0: no limit."},
    )
    memory: Size = field(
        default=0,
        metadata={"docs": 'Memory limit of a call, such as "4GiB". 0: no limit.'},
    )
    cgroup: bool = field(
        default=True,
        metadata={"docs": "Limit memory with control groups where available, else by address space."},
    )
    cpu: Number = field(
        default=0.0,
        metadata={"docs": "Processor time limit of a call, seconds, checked every 0.1 s. 0: no limit."},
    )
    output: Annotated[int, Meta(ge=0, le=MAX_OUTPUT_BYTES), SIZE] = field(
        default=DEFAULT_OUTPUT_BYTES,
        metadata={
            "docs": "Bytes kept of a call's standard output and error: half from the start, half from the "
            'end; such as "256KiB". A call may write more. 0: nothing is kept.',
        },
    )
    open_files: Count = field(
        default=0,
        metadata={
            "docs": f"Open file limit of a call, at least {FEWEST_FILES}; its runner uses some. 0: no limit."
        },
    )
    drain_seconds: Number = field(
        default=5.0,
        metadata={"docs": "Time for running calls to finish when the endpoint is stopped, seconds."},
    )
    work: str = field(
        default="",
        metadata={
            "docs": "Directory that calls share ($UMBEL_WORK); each starts in an empty one below it. "
            "Empty: the directory work next to this file."
        },
    )
    keep_files: Literal["never", "failed", "always"] = field(
        default="never",
        metadata={
            "docs": "Keep the directory of a call as kept/TASK-ID below work: never, failed or always. "
            "Nothing removes kept directories."
        },
    )
    isolation: Literal["none", "process"] = field(
        default="none",
        metadata={
            "docs": "process: every call runs in a process of its own, forked from one that has the function."
        },
    )
    nested_submit: bool = field(
        default=False,
        metadata={
            "docs": "Calls may submit further calls as their user, if their submission has nested=True."
        },
    )
    api_url: str = field(
        default="",
        metadata={"docs": "Address of the service for such calls. Empty: the one of the registration."},
    )
    recycle_calls: Count = field(
        default=0, metadata={"docs": "Replace a runner process after this many calls. 0: never."}
    )
    recycle_memory: Size = field(
        default=0,
        metadata={"docs": 'Replace a runner process that uses more memory, such as "2GiB". 0: never.'},
    )
    warm_runners: Count = field(
        default=4,
        metadata={
            "docs": "Idle runner processes that a node keeps beyond its slots, so that a slot that changes "
            "between users, environments or functions need not start one. 0: none."
        },
    )
    broker_address: str = field(
        default="",
        metadata={"docs": 'Connect to the broker at this "host:port" instead of the registered address.'},
    )
    pass_environment: tuple[str, ...] = field(
        default=PASSED,
        metadata={"docs": "Environment variables of the endpoint that calls see; patterns are allowed."},
    )
    environment: Annotated[Mapping[str, str], SECRET] = field(
        default_factory=dict, metadata={"docs": "Additional environment variables of calls."}
    )
    setup: Annotated[tuple[str, ...], SECRET] = field(
        default=(),
        metadata={"docs": 'Shell lines to execute before a runner starts, such as "module load gcc/12".'},
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = field(
        default="INFO", metadata={"docs": "DEBUG, INFO, WARNING or ERROR."}
    )
    log_format: Literal["text", "json"] = field(
        default="text", metadata={"docs": "text, or json: one JSON object per line, for programs."}
    )
    rules: Rules = field(
        default_factory=Rules, metadata={"docs": "What may run here, regardless of what the service sends."}
    )
    sandbox: Sandbox = field(
        default_factory=Sandbox,
        metadata={"docs": "The sandbox that isolates calls from this machine."},
    )
    hardware: Hardware = field(
        default_factory=Hardware,
        metadata={"docs": "How a node's processors, memory and accelerators are divided into slots."},
    )
    environments: Environments = field(
        default_factory=Environments,
        metadata={"docs": "How the environments that functions request are built and stored."},
    )

    def __post_init__(self) -> None:
        if 0 < self.open_files < FEWEST_FILES:
            raise ValueError(
                f"setting 'open_files' must be 0 or at least {FEWEST_FILES}, got {self.open_files}"
            )

        if self.api_url and not self.api_url.startswith(("http://", "https://")):
            raise ValueError(
                f"setting 'api_url' must start with http:// or https://, got {self.api_url[:80]!r}"
            )

    @property
    def worker_slots(self) -> int:
        """Calls that run at once: ``slots``, or the number that the hardware allows."""
        return self.hardware.count(self.slots)

    def broker_url(self, registered: str) -> str:
        """URL of the broker: the registered one, with ``broker_address`` as its host and port if set."""
        return at_address(registered, self.broker_address) if self.broker_address else registered

    def work_folder(self, default: Path) -> Path:
        """Directory in which calls start."""
        return Path(self.work).expanduser().absolute() if self.work else default

    def runner_environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Variables of runners: what ``pass_environment`` allows, never UMBEL_*, and ``environment``."""
        passed = {
            name: value
            for name, value in environ.items()
            if not name.startswith("UMBEL_")
            and any(fnmatch.fnmatchcase(name, p) for p in self.pass_environment)
        }
        return {**passed, **self.environment}


def load(file: Path, name: str, **flags: Any) -> Settings:
    """Read ``endpoint.toml``. Flags that are None are ignored. Raises SettingsError."""
    given = {flag: value for flag, value in flags.items() if value is not None}
    try:
        chosen = read(Settings, Source(str(file), read_toml(file)), Source("command line", given), name=name)
    except InvalidSettings as error:
        raise SettingsError(str(error)) from None
    problem = chosen.hardware.problem(chosen.slots)
    if problem:
        raise SettingsError(f"{file}, [hardware]: {problem}")
    return chosen


def template(name: str, **values: Any) -> str:
    """Return a new ``endpoint.toml``: every setting with its meaning, all but ``values`` commented out."""
    lines = [
        f"# How the endpoint '{name}' runs calls. Restart it after changes: umbel-endpoint restart {name}",
        "",
    ]
    tables: list[str] = []
    default = Settings()
    for f in fields(Settings):
        if f.name == "name":
            continue
        docs, value = f"# {f.metadata['docs']}", getattr(default, f.name)
        if f.name == "environment":
            tables += [docs, "#[environment]", '#OMP_NUM_THREADS = "1"', ""]
        elif is_dataclass(value):
            tables += [docs, f"#[{f.name}]", *_table_template(value), ""]
        elif values.get(f.name) is not None:
            lines += [docs, f"{f.name} = {_toml(values[f.name])}", ""]
        else:
            lines += [docs, f"#{f.name} = {_toml(value)}", ""]
    return "\n".join([*lines, *tables, ""])


def _table_template(kind: Any) -> list[str]:
    lines = []
    for f in fields(kind):
        lines += [f"# {f.metadata['docs']}", f"#{f.name} = {_toml(f.metadata.get('example', f.default))}"]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    return repr(value)
