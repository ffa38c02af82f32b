"""One frozen settings object per server process: ``umbel.toml`` < environment < flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from umbel.protocol import limits
from umbel.protocol.errors import UmbelError
from umbel.system.files import home_directory
from umbel.system.setting_types import Count, Number, Port, Positive, Secret
from umbel.system.settings import InvalidSettings, Source, read, read_toml


class SettingsError(UmbelError):
    """A setting is unknown or has a value that cannot be used."""

    default_code = "BAD_REQUEST"


@dataclass(frozen=True)
class Settings:
    """The settings of a server process. Times in seconds, sizes in bytes.

    Read from the table ``[server]`` of ``$UMBEL_HOME/umbel.toml``, then from ``UMBEL_<NAME>`` variables,
    then from flags. An unknown setting in the file is an error.
    """

    #: Directory of everything that one service keeps: database, keys, token file, logs.
    home: Path
    #: SQLAlchemy URL of the ledger; empty: SQLite in the home.
    database_url: Secret = ""
    #: How long a transaction waits for others on SQLite.
    busy_timeout: Number = 20.0
    #: Redis URL with the service's own account; empty: the embedded broker of the home.
    broker_url: Secret = ""
    #: Address at which endpoints reach the broker (host:port); empty: the one of broker_url.
    broker_address: str = ""
    #: Address and port that the web server listens on; port 0: any free one.
    host: str = "127.0.0.1"
    port: Port = 8642
    #: Threads of the embedded web server; waiting polls occupy none.
    web_threads: Positive = 48
    #: How long finished tasks and their results are kept.
    retention: Number = 14 * 86400.0
    #: How long functions are kept that no task uses; 0: indefinitely. Executors register them again.
    function_retention: Number = 180 * 86400.0
    #: Interval between two sweeps.
    sweep_interval: Number = 2.0
    #: A node without a heartbeat for longer than this is considered lost.
    node_lost_after: Number = limits.NODE_LOST_AFTER
    #: A bundle sent this long ago that no worker has and no queue contains is sent again.
    resend_after: Number = 10.0
    #: A bundle's worth of work, and how many bundles wait per slot of an endpoint.
    bundle_seconds: Number = 0.1
    window: Positive = 3
    #: Limit of the unfinished tasks of one user, and of one endpoint; beyond it, submissions get status 429.
    max_user_calls: Count = 1_000_000
    max_endpoint_calls: Count = 1_000_000
    #: Memory of the broker that one endpoint may occupy; beyond it, the endpoint is suspended for a minute.
    broker_quota: Count = 512 * 1024 * 1024
    #: Level of the log.
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    @property
    def database(self) -> str:
        """The ledger's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.home / 'ledger.sqlite'}"

    @property
    def service_key_file(self) -> Path:
        """File of the service's signing key (mode 0600)."""
        return self.home / "keys" / "service.key"


@dataclass(frozen=True)
class _File:
    """The tables of ``umbel.toml``."""

    server: Mapping[str, Any] = field(default_factory=dict, metadata={"settings": Settings})


def load(home: Path | None = None, *, environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """Read the settings of ``home``. Flags that are None are ignored. Raises SettingsError."""
    home = home_directory(home)
    file = home / "umbel.toml"
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        table = read(_File, Source(str(file), read_toml(file))).server
        return read(
            Settings,
            Source(str(file), table, table="server"),
            Source("environment", os.environ if environ is None else environ, syntax="environment"),
            Source("command line", given),
            home=home,
        )
    except InvalidSettings as error:
        raise SettingsError(str(error)) from None
