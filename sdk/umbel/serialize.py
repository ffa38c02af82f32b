"""Serialization of functions, arguments, results and exceptions.

Needed only to use ``Client.submit``, ``Client.register_body`` and ``Client.get_task_result``, which
transfer serialized values; the other methods of ``Client`` and the ``Executor`` serialize by themselves.
Only the SDK and the endpoint's runner processes load serialized values; the service stores them unread.

>>> from umbel import serialize
>>> serialize.load_call(serialize.dump_call((2, 10), {"mod": 7}))
((2, 10), {'mod': 7})
>>> serialize.load_result(serialize.dump_result([1, 2]))
[1, 2]
"""

from __future__ import annotations

from .serialization.codec import (
    FunctionBody,
    dump_call,
    dump_function,
    dump_result,
    load_call,
    load_function,
    load_result,
)
from .serialization.exceptions import dump_exception, load_exception

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
