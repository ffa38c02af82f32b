"""Python objects to bytes and back: the public names of ``umbel.serialization``.

Only the SDK and the endpoint's runner processes import this; the service moves the bytes unread.
"""

from __future__ import annotations

from .serialization.codec import (
    FunctionBody,
    dump_call,
    dump_exception,
    dump_function,
    dump_result,
    load_call,
    load_exception,
    load_function,
    load_result,
)

__all__ = [
    "FunctionBody",
    "dump_call",
    "dump_exception",
    "dump_function",
    "dump_result",
    "load_call",
    "load_exception",
    "load_function",
    "load_result",
]
