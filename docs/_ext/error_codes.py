"""Directive and role ``errorcode``: an entry for one error code, and a link to it.

The HTTP status and the exception of the SDK are taken from ``umbel.protocol.errors``, not written by hand.
"""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from umbel.exceptions import DeserializeError, SerializeError, VersionMismatch
from umbel.protocol.errors import (
    HTTP_STATUS,
    STATE_CODES,
    STREAM_CODES,
    TASK_CODES,
    ProtocolError,
    StreamRestarted,
    service_error,
)

#: Exceptions of codes that are not raised as a plain TaskError.
EXCEPTIONS = {
    **{cls.default_code: cls.__name__ for cls in (DeserializeError, ProtocolError, SerializeError)},
    StreamRestarted.default_code: StreamRestarted.__name__,
    VersionMismatch.default_code: VersionMismatch.__name__,
    "CANCELLED": "concurrent.futures.CancelledError",
}


def annotation(code: str) -> str:
    """Return what follows a code in its heading. Raises ValueError for a code that does not exist."""
    if code in HTTP_STATUS:
        return f"HTTP {HTTP_STATUS[code]}, {type(service_error(HTTP_STATUS[code], code, code)).__name__}"
    if code in TASK_CODES or code in STATE_CODES or code in STREAM_CODES:
        return EXCEPTIONS.get(code, "TaskError")
    raise ValueError(f"errorcode {code}: umbel.protocol.errors has no code of this name")


def _parse(env: BuildEnvironment, text: str, node: addnodes.desc_signature) -> str:
    node += addnodes.desc_name(text, text)
    note = f" ({annotation(text)})"
    node += addnodes.desc_annotation(note, "", nodes.Text(note))
    return text


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the role."""
    app.add_object_type("errorcode", "errorcode", "pair: %s; error code", _parse, objname="error code")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
