"""What can go wrong on the way between Python objects and bytes.

Errors of the service and of tasks live in ``umbel.protocol.errors``; these have the same base.
"""

from __future__ import annotations

from .protocol.errors import UmbelError


class SerializeError(UmbelError):
    """An object cannot be turned into bytes."""

    default_code = "NOT_SERIALIZABLE"


class DeserializeError(UmbelError):
    """Bytes cannot be turned back into the object that they were made of."""

    default_code = "DESERIALIZE_ERROR"


class VersionMismatch(DeserializeError):
    """The bytes were made by another Python version and hold code, which does not travel between versions."""

    default_code = "VERSION_MISMATCH"
