"""The one reader of settings: plain values in, a frozen dataclass out, or an error that says what to correct.

Values come from TOML files, JSON requests, environment variables and flags. The types of the dataclass's
fields (``setting_types``) define what is accepted, and msgspec checks it. msgspec is installed with the
extras ``endpoint`` and ``server`` only: neither the SDK nor a runner process may import these two modules.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from .setting_types import convert, expected, got, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


class InvalidSettings(ValueError):
    """Settings cannot be used. The message names source and setting, and says what is expected."""


@dataclass(frozen=True)
class Source:
    """Where values come from.

    ``origin``: what messages call it. ``syntax``: in JSON, 3.0 is an integer; in an environment, all values
    are strings and the setting ``port`` is the variable ``UMBEL_PORT``. ``table``: the table they are in.
    """

    origin: str
    values: Mapping[str, Any]
    syntax: Literal["toml", "json", "environment"] = "toml"
    table: str = ""

    @property
    def where(self) -> str:
        """The origin and the table, for messages."""
        return f"{self.origin}, [{self.table}]" if self.table else self.origin

    def given(self, known: Collection[str], tables: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The values by setting. Raises InvalidSettings for unknown settings, except in an environment.

        ``tables``: where settings of tables belong, for the message.
        """
        if self.syntax == "environment":
            names = {name: f"UMBEL_{name.upper()}" for name in known}
            return {name: self.values[key] for name, key in names.items() if key in self.values}
        for name in self.values:
            if name not in known:
                table = (tables or {}).get(name)
                hint = f"it belongs in table [{table}]" if table else suggestion(name, known, "settings")
                raise InvalidSettings(f"{self.where}: unknown setting {shown(name)}; {hint}")
        return dict(self.values)

    def invalid(self, name: str, hint: Any, value: Any) -> InvalidSettings:
        """The error for a value that a setting cannot have."""
        called = f"variable 'UMBEL_{name.upper()}'" if self.syntax == "environment" else f"setting '{name}'"
        return InvalidSettings(f"{self.where}: {called} must be {expected(hint)}, got {got(value, hint)}")


def read(kind: type[T], *sources: Source, **fixed: Any) -> T:
    """Return a ``kind`` made of the values of ``sources``; of several, the later wins.

    ``fixed``: fields that are not settings. What no source sets has its default. A ValueError that ``kind``
    raises is reported with its source. Raises InvalidSettings.
    """
    hints = _hints(kind)  # type: ignore[arg-type]
    known = {f.name: f for f in fields(kind) if f.name not in fixed}  # type: ignore[arg-type]
    tables = _tables(kind, sources[0].table)  # type: ignore[arg-type]
    found = {
        name: (source, value) for source in sources for name, value in source.given(known, tables).items()
    }
    made = {name: _value(name, hints[name], value, source) for name, (source, value) in found.items()}
    where = sources[0].where
    for name, f in known.items():
        if name not in made and f.default is MISSING and f.default_factory is MISSING:
            raise InvalidSettings(f"{where}: setting '{name}' is missing; it must be {expected(hints[name])}")
    try:
        return kind(**fixed, **made)
    except ValueError as error:
        raise InvalidSettings(f"{where}: {error}") from None


def read_toml(file: Path) -> dict[str, Any]:
    """Return the content of a TOML file; {} if there is none. Raises InvalidSettings."""
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        return table
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text: {error.reason} at byte {error.start}"
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError as error:
        problem = f"is not valid TOML: {error}"
    raise InvalidSettings(f"{file} {problem}")


def suggestion(name: str, known: Collection[str], what: str) -> str:
    """Return "did you mean ...?" for an unknown name, or all ``known`` ones; ``what``: their plural."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name[:60].lower(), by_lower, 1)
    return f"did you mean '{by_lower[near[0]]}'?" if near else f"known {what}: {', '.join(sorted(known))}"


@lru_cache(maxsize=None)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


@lru_cache(maxsize=None)
def _tables(kind: type, above: str) -> dict[str, str]:
    """Return the table of each setting that belongs into a table of ``kind``.

    A field that is a table without a dataclass as its type has one as ``metadata["settings"]``.
    """
    hints, found = _hints(kind), dict[str, str]()
    for f in fields(kind):
        inner = f.metadata.get("settings", hints[f.name])
        if is_dataclass(inner):
            path = f"{above}.{f.name}" if above else f.name
            found.update(_tables(inner, path))  # type: ignore[arg-type]
            found.update((one.name, path) for one in fields(inner))
    return found


def _value(name: str, hint: Any, value: Any, source: Source) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise source.invalid(name, hint, value)
        table = f"{source.table}.{name}" if source.table else name
        return read(hint, replace(source, values=value, table=table))  # type: ignore[arg-type]
    try:
        return convert(hint, value, source.syntax)
    except ValueError:
        raise source.invalid(name, hint, value) from None
