"""One frozen settings object per server process: ``umbel.toml`` < environment < flags."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from umbel.protocol import limits
from umbel.protocol.errors import UmbelError
from umbel.system.files import home_directory

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class SettingsError(UmbelError):
    """A setting is unknown or has a value that cannot be used."""

    default_code = "BAD_REQUEST"


@dataclass(frozen=True)
class Settings:
    """What a server process needs to know. Times in seconds, sizes in bytes.

    Read from the table ``[server]`` of ``$UMBEL_HOME/umbel.toml``, then from ``UMBEL_<NAME>``
    variables, then from flags; an unknown key in the file is an error.
    """

    #: Folder of everything that one service keeps: database, keys, token file, logs.
    home: Path
    #: SQLAlchemy URL of the ledger; empty: SQLite in the home.
    database_url: str = ""
    #: Redis URL with the service's own account; empty: the embedded broker of the home.
    broker_url: str = ""
    #: Address of the broker that endpoints are given (host:port); empty: the one of broker_url.
    broker_address: str = ""
    #: Address and port that the web server listens on.
    host: str = "127.0.0.1"
    port: int = 8642
    #: Threads of the embedded web server; each waiting long poll holds one.
    web_threads: int = 48
    #: How long finished tasks and their results are kept.
    retention: float = 14 * 86400.0
    #: Interval between two sweeps.
    sweep_interval: float = 2.0
    #: A node silent for longer than this is taken for dead.
    node_lost_after: float = limits.NODE_LOST_AFTER
    #: A bundle sent this long ago that nobody holds and no queue contains is sent again.
    resend_after: float = 10.0
    #: A bundle's worth of work, and how many bundles wait per slot of an endpoint.
    bundle_seconds: float = 0.1
    window: int = 3
    #: Most unfinished calls of one user, and of one endpoint; more is answered 429.
    max_user_calls: int = 1_000_000
    max_endpoint_calls: int = 1_000_000
    #: Level of the log.
    log_level: str = "INFO"

    @property
    def database(self) -> str:
        """The ledger's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.home / 'ledger.sqlite'}"

    @property
    def service_key_file(self) -> Path:
        """File of the service's signing key (mode 0600)."""
        return self.home / "keys" / "service.key"


def load(home: Path | None = None, *, environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """Read the settings of ``home``; flags that are None count as not given.

    Raises SettingsError for unknown keys and values of the wrong kind.
    """
    environ = os.environ if environ is None else environ
    home = home_directory(home)
    values: dict[str, Any] = {}
    file = home / "umbel.toml"
    if file.exists():
        values.update(_read_table(file))
    kinds = {f.name: f.type for f in fields(Settings) if f.name != "home"}
    for name in kinds:
        text = environ.get("UMBEL_" + name.upper())
        if text is not None:
            values[name] = text
    values.update({name: value for name, value in flags.items() if value is not None})
    settings = Settings(home=home)
    for name, value in values.items():
        settings = replace(settings, **{name: _convert(name, value, getattr(settings, name))})
    return settings


def _read_table(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text()).get("server", {})
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from None
    known = [f.name for f in fields(Settings) if f.name != "home"]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise SettingsError(f"{file}: unknown key '{key}' in [server]{hint}")
    return dict(table)


def _convert(name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    try:
        if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
            raise ValueError(value)
        return kind(value)
    except (TypeError, ValueError):
        raise SettingsError(f"setting '{name}' wants a {kind.__name__}, not {value!r}") from None
