"""How a site runs calls: ``endpoint.toml`` in the endpoint's folder, one frozen object per process."""

from __future__ import annotations

import difflib
import fnmatch
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from umbel.protocol.errors import UmbelError
from umbel.protocol.limits import DEFAULT_OUTPUT_BYTES, FEWEST_FILES, MAX_OUTPUT_BYTES

from ..broker.client import at_address
from .environments import Environments
from .hardware import Hardware
from .logs import FORMATS
from .policy import Rules
from .sandbox import Sandbox

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Variables that runners get from the worker's environment unless endpoint.toml says otherwise.
PASSED = tuple("""PATH HOME USER LOGNAME SHELL LANG LC_* TZ TMPDIR LD_LIBRARY_PATH VIRTUAL_ENV CONDA_* XDG_*
    MODULEPATH LOADEDMODULES LMOD_* OMP_* MKL_* OPENBLAS_* NUMEXPR_* CUDA_* NVIDIA_* ROCR_* HIP_*
    SLURM_* PBS_* LSB_* SGE_* JOB_ID NSLOTS NHOSTS PE_HOSTFILE PMI* OMPI_* I_MPI_*""".split())

#: Settings that are tables with settings of their own.
TABLES: dict[str, Any] = {
    "rules": Rules,
    "sandbox": Sandbox,
    "hardware": Hardware,
    "environments": Environments,
}

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*\Z", re.IGNORECASE)


class SettingsError(UmbelError):
    """A setting of an endpoint is unknown or has a value that cannot be used."""

    default_code = "BAD_REQUEST"


@dataclass(frozen=True)
class Settings:
    """What a worker of an endpoint needs to know. Times in seconds, sizes in bytes, 0 and "" for none.

    ``docs`` of each field is the comment that ``configure`` writes above it.
    """

    name: str = field(default="", metadata={"docs": ""})
    slots: int = field(
        default=0,
        metadata={"docs": "Calls that run at once on one node. 0: one per processor, or as [hardware] says."},
    )
    timeout: float = field(
        default=0.0,
        metadata={"docs": "Longest run of a call, seconds. A submission may ask for less. 0: no limit."},
    )
    memory: int = field(
        default=0,
        metadata={"docs": 'Most memory that a call may take, such as "4GiB". 0: no limit.', "size": True},
    )
    cgroup: bool = field(
        default=True,
        metadata={"docs": "Limit memory by control groups where there are some, not by address space."},
    )
    cpu: float = field(
        default=0.0,
        metadata={"docs": "Most processor time of a call, seconds, checked every 0.1 s. 0: no limit."},
    )
    output: int = field(
        default=DEFAULT_OUTPUT_BYTES,
        metadata={
            "docs": "Bytes kept of what a call writes to standard output and error, half of them its "
            'last ones; such as "256KiB". A call may write more. 0: nothing is kept.',
            "size": True,
        },
    )
    open_files: int = field(
        default=0,
        metadata={"docs": "Most files that a call may have open, its runner's few included. 0: no limit."},
    )
    drain_seconds: float = field(
        default=5.0,
        metadata={"docs": "How long running calls may go on when the endpoint is stopped, seconds."},
    )
    work: str = field(
        default="", metadata={"docs": "Folder in which calls start. Empty: the folder work beside this file."}
    )
    recycle_calls: int = field(
        default=0, metadata={"docs": "Replace a runner process after that many calls. 0: never."}
    )
    recycle_memory: int = field(
        default=0,
        metadata={"docs": 'Replace a runner that has grown beyond, such as "2GiB". 0: never.', "size": True},
    )
    broker_address: str = field(
        default="",
        metadata={"docs": 'Reach the broker at this "host:port" instead of the registered address.'},
    )
    pass_environment: tuple[str, ...] = field(
        default=PASSED,
        metadata={"docs": "Variables that calls see of the environment in which the endpoint was started."},
    )
    environment: Mapping[str, str] = field(
        default_factory=dict, metadata={"docs": "Variables that calls see besides."}
    )
    setup: tuple[str, ...] = field(
        default=(), metadata={"docs": 'Shell lines before a runner starts, such as "module load gcc/12".'}
    )
    log_level: str = field(default="INFO", metadata={"docs": "DEBUG, INFO, WARNING or ERROR."})
    log_format: str = field(
        default="text", metadata={"docs": "text, or json: one JSON object per line, for programs."}
    )
    rules: Rules = field(
        default_factory=Rules, metadata={"docs": "What may run here, whatever the service says."}
    )
    sandbox: Sandbox = field(
        default_factory=Sandbox,
        metadata={"docs": "What calls are closed in, so that they see only what they may."},
    )
    hardware: Hardware = field(
        default_factory=Hardware, metadata={"docs": "What of a node a slot is, and which calls see of it."}
    )
    environments: Environments = field(
        default_factory=Environments, metadata={"docs": "How what functions need is built and kept."}
    )

    @property
    def worker_slots(self) -> int:
        """Calls that run at once: ``slots``, or as many as there is hardware for."""
        return self.hardware.count(self.slots)

    def broker_url(self, registered: str) -> str:
        """URL of the broker: the registered one, at ``broker_address`` if that is set."""
        return at_address(registered, self.broker_address) if self.broker_address else registered

    def work_folder(self, default: Path) -> Path:
        """Folder in which calls start."""
        return Path(self.work).expanduser().absolute() if self.work else default

    def runner_environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment of runners: what may pass, never one of Umbel's own, and what is set besides."""
        passed = {
            name: value
            for name, value in environ.items()
            if not name.startswith("UMBEL_")
            and any(fnmatch.fnmatchcase(name, p) for p in self.pass_environment)
        }
        return {**passed, **self.environment}


def load(file: Path, name: str, **flags: Any) -> Settings:
    """Read ``endpoint.toml``; flags that are None count as not given. Raises SettingsError."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        table = {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from None
    inner = {name: table.pop(name, {}) for name in TABLES}
    values = _values(Settings, table, flags, f"{file}")
    for key, kind in TABLES.items():
        if not isinstance(inner[key], dict):
            raise SettingsError(f"setting '{key}' wants a table, [{key}], not {inner[key]!r}")
        try:
            values[key] = kind(**_values(kind, inner[key], {}, f"{file}, [{key}]"))
        except ValueError as error:
            raise SettingsError(f"{file}, [{key}]: {error}") from None
    chosen = Settings(**{**values, "name": name})
    problem = chosen.hardware.problem(chosen.slots)
    if problem:
        raise SettingsError(f"{file}: {problem}")
    return chosen


def _values(kind: Any, table: dict[str, Any], flags: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check and convert a table's values for the fields of ``kind``. Raises SettingsError."""
    known = {f.name: f for f in fields(kind) if kind is not Settings or f.name not in ("name", *TABLES)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, [*known, *TABLES] if kind is Settings else known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(sorted(known))}"
            raise SettingsError(f"{where}: unknown setting '{key}'{hint}")
    given = {**table, **{key: value for key, value in flags.items() if value is not None}}
    defaults = kind()
    return {
        key: _convert(key, value, getattr(defaults, key), size="size" in known[key].metadata)
        for key, value in given.items()
    }


def template(name: str, **values: Any) -> str:
    """Text of a new ``endpoint.toml``: every setting with its meaning, all but ``values`` commented out."""
    lines = [
        f"# How the endpoint '{name}' runs calls. Restart it after changes: umbel-endpoint restart {name}",
        "",
    ]
    tables: list[str] = []
    for f in fields(Settings):
        if f.name == "name":
            continue
        lines_of = [f"# {f.metadata['docs']}"]
        if f.name == "environment":
            tables += [*lines_of, "#[environment]", '#OMP_NUM_THREADS = "1"', ""]
            continue
        if f.name in TABLES:
            tables += [*lines_of, f"#[{f.name}]", *_table_template(TABLES[f.name]), ""]
            continue
        mark = "" if values.get(f.name) is not None else "#"
        value = values.get(f.name)
        text = _toml(value if value is not None else getattr(Settings(), f.name))
        lines += [*lines_of, f"{mark}{f.name} = {text}", ""]
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


def _convert(name: str, value: Any, default: Any, *, size: bool = False) -> Any:
    """Turn a value of TOML into the kind that a setting has. Raises SettingsError."""
    if size and isinstance(value, str):
        return _convert(name, _bytes(name, value), default)
    if default is None or isinstance(default, tuple):
        return _texts(name, value)
    if isinstance(default, dict):
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return dict(value)
        raise SettingsError(f"setting '{name}' wants a table of texts, not {value!r}")
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise SettingsError(f"setting '{name}' wants true or false, not {value!r}")
    good = (str,) if isinstance(default, str) else (int, float) if isinstance(default, float) else (int,)
    if isinstance(value, bool) or not isinstance(value, good) or (not isinstance(value, str) and value < 0):
        kind = {
            str: "a text",
            float: "a number that is not negative",
            int: "a whole number that is not negative",
        }
        raise SettingsError(f"setting '{name}' wants {kind[type(default)]}, not {value!r}")
    _check(name, value)
    return type(default)(value)


def _check(name: str, value: Any) -> None:
    """Refuse values of the right kind that cannot be used all the same. Raises SettingsError."""
    if name == "open_files" and 0 < value < FEWEST_FILES:
        raise SettingsError(f"setting 'open_files' wants 0 or at least {FEWEST_FILES}, not {value!r}")
    if name == "output" and value > MAX_OUTPUT_BYTES:
        raise SettingsError(f"setting 'output' wants at most {MAX_OUTPUT_BYTES} bytes, not {value!r}")
    if name == "log_level" and value not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise SettingsError(f"setting 'log_level' wants DEBUG, INFO, WARNING or ERROR, not {value!r}")
    if name == "log_format" and value not in FORMATS:
        raise SettingsError(f"setting 'log_format' wants {' or '.join(FORMATS)}, not {value!r}")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if name == "accelerators" and type(value) is int and value > 0:
        return tuple(map(str, range(value)))
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise SettingsError(f"setting '{name}' wants a list of texts, not {value!r}")


def _bytes(name: str, text: str) -> int:
    match = _SIZE.match(text)
    if match is None:
        raise SettingsError(f"setting '{name}' wants a size such as \"4GiB\", not {text!r}")
    return int(float(match[1]) * _UNITS[match[2].upper()])
