"""The environment of a function: packages and a Python version, or the name of a site's environment.

It is part of the serialized function, so the function's digest covers its environment.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

#: First bytes of a serialized function. The length of the header (4 bytes, big endian) and the header follow.
FUNCTION_MAGIC = b"UMBF"
MAX_REQUIREMENTS, MAX_REQUIREMENT_LENGTH = 200, 500

#: A name, extras, a URL or versions, a marker; not an option, a path or a URL without a name.
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._, -]*\])?\s*"
    r"(?:@\s*[a-z+]+://\S+|\(?[<>=!~][A-Za-z0-9.*+!<>=~, )_]*)?\s*(?:;[ -~]*)?"
)
_PYTHON = re.compile(r"3\.[0-9]{1,3}(\.[0-9]{1,3})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Environment:
    """The environment that a function needs: packages and a Python version, or the name of a site's own.

    >>> Environment(requirements=["numpy==2.*"], python="3.11")
    Environment(requirements=('numpy==2.*',), python='3.11', name=None)

    Environments with the same packages are equal; order and duplicates do not matter.

    Args:
        requirements: Packages, as pip reads them, without options: at most 200 of at most 500 characters.
        python: Python version, such as ``"3.12"``. Default: the endpoint's.
        name: Name of an environment that the site provides, in place of the other two.

    Raises:
        ValueError: A value is not valid, none is given, or ``name`` is combined with another one.
    """

    requirements: Collection[str] = ()
    python: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.requirements, str):
            raise ValueError(f"requirements must be a list of strings, got the string {self.requirements!r}")
        given = sorted({_checked(item) for item in self.requirements})
        if len(given) > MAX_REQUIREMENTS:
            raise ValueError(f"there may be at most {MAX_REQUIREMENTS} requirements, got {len(given)}")
        object.__setattr__(self, "requirements", tuple(given))
        if self.python is not None and not _PYTHON.fullmatch(str(self.python)):
            raise ValueError(f"python must be a version such as '3.12', got {self.python!r}")
        if self.name is not None and not _NAME.fullmatch(str(self.name)):
            raise ValueError(f"name must have 1 to 63 letters, digits and _ . -, got {self.name!r}")
        if self.name is not None and (given or self.python):
            raise ValueError("an environment has either a name, or requirements and python, not both")
        if self.name is None and not given and not self.python:
            raise ValueError("an environment needs requirements, python or a name")

    @property
    def packages(self) -> list[str]:
        """Names of the required packages, normalized: lower case, with dashes."""
        found = [_PACKAGE.match(item) for item in self.requirements]
        return [re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match]

    @property
    def digest(self) -> str:
        """SHA-256 of the environment's canonical form, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the environment as a JSON object, without values that are not set."""
        if self.name is not None:
            return {"name": self.name}
        record: dict[str, Any] = {"requirements": list(self.requirements)}
        if self.python is not None:
            record["python"] = self.python
        return record

    @classmethod
    def from_json(cls, record: Any) -> Environment:
        """Return the environment of an object of ``to_json``.

        Args:
            record: The object.

        Returns:
            The environment.

        Raises:
            ValueError: The object is not valid.
        """
        if not isinstance(record, dict) or not set(record) <= {"requirements", "python", "name"}:
            raise ValueError("an environment must be an object with requirements, python or name")
        requirements = record.get("requirements", [])
        if not isinstance(requirements, list) or not all(isinstance(item, str) for item in requirements):
            raise ValueError("requirements must be a list of strings")
        return cls(tuple(requirements), record.get("python"), record.get("name"))


def of_function(body: bytes) -> Environment | None:
    """Return the environment of a serialized function, or None. Raises ValueError if it is not valid."""
    record = function_header(body, "environment")
    return None if record is None else Environment.from_json(record)


def local_of_function(body: bytes) -> list[str]:
    """Return the names of the packages that travel with a serialized function. Raises ValueError."""
    found = function_header(body, "local")
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("the names of local packages must be a list of strings")
    return found


def function_header(body: bytes, name: str) -> Any:
    """Return a field of the header of a serialized function, or None. Raises ValueError."""
    if body[:4] != FUNCTION_MAGIC:
        return None
    head = body[8 : 8 + int.from_bytes(body[4:8], "big")]
    if b'"%s"' % name.encode() not in head:
        return None
    try:
        return json.loads(head).get(name)
    except (ValueError, AttributeError, RecursionError):
        raise ValueError("the header of the serialized function is damaged") from None


def _checked(requirement: Any) -> str:
    text = " ".join(requirement.split()) if isinstance(requirement, str) else ""
    forbidden = " -" in text or "$" in text or "\\" in text or len(text) > MAX_REQUIREMENT_LENGTH
    if forbidden or not _REQUIREMENT.fullmatch(text):
        raise ValueError(
            f"{requirement!r} is not a valid requirement: write a package as pip reads it, such as "
            "'numpy==2.*', without options"
        )
    return text
