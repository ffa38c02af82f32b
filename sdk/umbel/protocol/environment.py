"""What a function needs beside its code: packages and a Python, or an environment that a site has ready.

It is part of the function's bytes, so the digest that names a function names its environment, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

#: First bytes of a serialized function: a header's length (4 bytes, big endian) and the header follow.
FUNCTION_MAGIC = b"UMBF"
MOST_REQUIREMENTS, LONGEST_REQUIREMENT = 200, 500

#: A name, extras, an address or versions, a marker: no option, no path, no address alone.
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._, -]*\])?\s*"
    r"(?:@\s*[a-z+]+://\S+|\(?[<>=!~][A-Za-z0-9.*+!<>=~, )_]*)?\s*(?:;[ -~]*)?"
)
_PYTHON = re.compile(r"3\.[0-9]{1,3}(\.[0-9]{1,3})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Environment:
    """Packages (``requirements``, as pip reads them) and a Python version, or the ``name`` of a site's own.

    >>> Environment(requirements=["numpy==2.*"], python="3.11")

    Order and doubles do not matter. ``python``: such as ``"3.12"``; None: the endpoint's. Raises ValueError
    for what cannot be one: neither requirements nor name nor python, a name with either, options of pip.
    """

    requirements: Collection[str] = ()
    python: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.requirements, str):
            raise ValueError(f"requirements is the text {self.requirements!r}: give a list of texts")
        given = sorted({_checked(item) for item in self.requirements})
        if len(given) > MOST_REQUIREMENTS:
            raise ValueError(f"{len(given)} requirements are too many: at most {MOST_REQUIREMENTS}")
        object.__setattr__(self, "requirements", tuple(given))
        if self.python is not None and not _PYTHON.fullmatch(str(self.python)):
            raise ValueError(f"python is {self.python!r}: write a version such as '3.12'")
        if self.name is not None and not _NAME.fullmatch(str(self.name)):
            raise ValueError(f"name is {self.name!r}: use up to 63 letters, digits and _ . -")
        if self.name is not None and (given or self.python):
            raise ValueError("an environment has a name, or requirements and a python, not both")
        if self.name is None and not given and not self.python:
            raise ValueError("an environment needs requirements, a python or a name")

    @property
    def packages(self) -> list[str]:
        """Names of the required packages, in lower case with dashes."""
        found = [_PACKAGE.match(item) for item in self.requirements]
        return [re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match]

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical form, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object, without what is not set."""
        if self.name is not None:
            return {"name": self.name}
        record: dict[str, Any] = {"requirements": list(self.requirements)}
        if self.python is not None:
            record["python"] = self.python
        return record

    @classmethod
    def from_json(cls, record: Any) -> Environment:
        """Read ``to_json``'s object. Raises ValueError."""
        if not isinstance(record, dict) or not set(record) <= {"requirements", "python", "name"}:
            raise ValueError("an environment is an object with requirements, python or name")
        requirements = record.get("requirements", [])
        if not isinstance(requirements, list) or not all(isinstance(item, str) for item in requirements):
            raise ValueError("requirements is not a list of texts")
        return cls(tuple(requirements), record.get("python"), record.get("name"))


def of_function(body: bytes) -> Environment | None:
    """Return the environment of a serialized function, or None. Raises ValueError for a damaged one."""
    record = function_header(body, "environment")
    return None if record is None else Environment.from_json(record)


def function_header(body: bytes, name: str) -> Any:
    """Return one thing that the header of a serialized function says, or None. Raises ValueError."""
    if body[:4] != FUNCTION_MAGIC:
        return None
    head = body[8 : 8 + int.from_bytes(body[4:8], "big")]
    if b'"%s"' % name.encode() not in head:
        return None
    try:
        return json.loads(head).get(name)
    except (ValueError, AttributeError, RecursionError):
        raise ValueError("the function's header is damaged") from None


def _checked(requirement: Any) -> str:
    text = " ".join(requirement.split()) if isinstance(requirement, str) else ""
    strange = " -" in text or "$" in text or "\\" in text or len(text) > LONGEST_REQUIREMENT
    if strange or not _REQUIREMENT.fullmatch(text):
        raise ValueError(
            f"{requirement!r} is no requirement: write a package as pip reads it, such as 'numpy==2.*', "
            "without options"
        )
    return text
