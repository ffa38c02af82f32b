"""Directive and role ``errorcode``: an entry for one error code, and a link to it.

The HTTP status and the exception of the SDK are taken from ``umbel.protocol.errors``, not written by hand.
"""

from __future__ import annotations

from concurrent.futures import CancelledError

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import umbel
from umbel.exceptions import DeserializeError, SerializeError, VersionMismatch
from umbel.protocol.errors import (
    HTTP_STATUS,
    STATE_CODES,
    STREAM_CODES,
    TASK_CODES,
    ProtocolError,
    StreamRestarted,
    TaskError,
    service_error,
)

_OWN = (DeserializeError, ProtocolError, SerializeError, StreamRestarted, VersionMismatch)
#: Exceptions of codes that are not raised as a plain TaskError.
EXCEPTIONS: dict[str, type] = {"CANCELLED": CancelledError, **{cls.default_code: cls for cls in _OWN}}


def exception(code: str) -> type:
    """Return the class that the SDK raises for a code. Raises ValueError for a code that does not exist."""
    if code in HTTP_STATUS:
        return type(service_error(HTTP_STATUS[code], code, code))
    if code in TASK_CODES or code in STATE_CODES or code in STREAM_CODES:
        return EXCEPTIONS.get(code, TaskError)
    raise ValueError(f"errorcode {code}: umbel.protocol.errors has no code of this name")


def _parse(env: BuildEnvironment, text: str, node: addnodes.desc_signature) -> str:
    cls = exception(text)
    target = f"umbel.{cls.__name__}" if cls.__name__ in umbel.__all__ else f"{cls.__module__}.{cls.__name__}"
    link = addnodes.pending_xref("", refdomain="py", reftype="exc", reftarget=target, refwarn=False)
    link += nodes.Text(cls.__name__)
    status = f"HTTP {HTTP_STATUS[text]}, " if text in HTTP_STATUS else ""
    node += addnodes.desc_name(text, text)
    node += addnodes.desc_annotation("", "", nodes.Text(f" ({status}"), link, nodes.Text(")"))
    return text


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the role."""
    app.add_object_type("errorcode", "errorcode", "pair: %s; error code", _parse, objname="error code")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
