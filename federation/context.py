"""What every server process needs: settings, database, broker and the service's signing key."""

from __future__ import annotations

from dataclasses import dataclass

from umbel.protocol.envelope import Signer, new_private_key
from umbel.system.files import create_private

from .broker.client import Broker
from .config.settings import Settings, SettingsError
from .db.engine import Database
from .db.function_cache import FunctionCache


@dataclass(frozen=True)
class Federation:
    """The open resources of one service; safe to share between threads."""

    settings: Settings
    database: Database
    broker: Broker
    signer: Signer
    functions: FunctionCache

    def close(self) -> None:
        """Close all connections."""
        self.broker.close()
        self.database.close()


def open_federation(settings: Settings) -> Federation:
    """Open the database (and upgrade its schema if needed), the broker and the signing key.

    The broker is not contacted yet. Raises SettingsError if no broker is set and none is embedded.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.database, busy_timeout=settings.busy_timeout)
    database.create()
    signer = Signer(create_private(settings.service_key_file, new_private_key))
    return Federation(settings, database, Broker(broker_url(settings)), signer, FunctionCache(database))


def broker_url(settings: Settings) -> str:
    """Return the service's Redis URL: the setting, or the embedded broker's URL from the home directory."""
    if settings.broker_url:
        return settings.broker_url
    file = settings.home / "redis" / "service.url"
    try:
        return file.read_text().strip()
    except OSError:
        raise SettingsError(
            f"no broker configured ({file} is missing): set UMBEL_BROKER_URL, or start the embedded one "
            "with 'python -m federation up'"
        ) from None
