"""A cache of registered functions for dispatch; functions are immutable."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from sqlalchemy import select

from umbel.protocol.run_options import Limits, limits_of_function

from .engine import Database
from .tables import functions

#: Maximum bytes of function bodies cached by one process.
CACHE_BYTES = 64 * 1024 * 1024


class Function(NamedTuple):
    """A registered function."""

    id: str
    name: str
    sha256: str
    body: bytes
    limits: Limits | None


class FunctionCache:
    """The functions dispatched most recently, by number."""

    def __init__(self, database: Database):
        self._database = database
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Function] = OrderedDict()
        self._size = 0

    def get(self, no: int) -> Function:
        """Return function ``no``, which must exist; it may be marked as deleted."""
        with self._lock:
            known = self._kept.get(no)
            if known is not None:
                self._kept.move_to_end(no)
                return known
        columns = functions.c.id, functions.c.name, functions.c.sha256, functions.c.body
        with self._database.read() as connection:
            row = connection.execute(select(*columns).where(functions.c.no == no)).one()
        function = Function(*row, limits_of_function(row.body))
        with self._lock:
            if no not in self._kept:
                self._kept[no] = function
                self._size += len(function.body)
            while self._size > CACHE_BYTES and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1].body)
        return function
