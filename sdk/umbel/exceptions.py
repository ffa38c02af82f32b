"""Errors of the conversion between Python objects and bytes.

``umbel.protocol.errors`` has the errors of the service and of tasks. All have the base ``UmbelError``.
"""

from __future__ import annotations

from .protocol.errors import UmbelError


class SerializeError(UmbelError):
    """An object cannot be serialized.

    Raised, or set as a future's exception, when a function or an argument cannot be pickled. The message
    names the object and the reason. Code: ``NOT_SERIALIZABLE``.
    """

    default_code = "NOT_SERIALIZABLE"


class DeserializeError(UmbelError):
    """Serialized bytes cannot be loaded.

    Usually a package that a result needs is not installed here. The message has the reason. Code:
    ``DESERIALIZE_ERROR``.
    """

    default_code = "DESERIALIZE_ERROR"


class VersionMismatch(DeserializeError):
    """Serialized bytes contain code of another Python version.

    ``details`` names both versions. Use the same minor version of Python on both sides. Code:
    ``VERSION_MISMATCH``.
    """

    default_code = "VERSION_MISMATCH"


class Absent:
    """Stands for an argument or attribute of an exception that did not travel.

    Objects other than builtin values, dates, paths, numbers, enumerations, arrays and exceptions stay where
    the call ran. The object has the texts of the original, but is neither true nor false.

    Attributes:
        type (str): Module and name of the class of the original.
        text (str): ``repr`` of the original, shortened.
    """

    def __init__(self, type: str, text: str, string: str):
        self.type = type
        self.text = text
        self._string = string

    def __repr__(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self._string

    def __bool__(self) -> bool:
        raise TypeError(f"this {self.type} of an exception did not travel from the endpoint: {self.text}")
