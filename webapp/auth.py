"""Bearer tokens: every view needs one unless it is declared open.

Only the Authorization header counts, never a cookie, so that no foreign web page can act for a user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Flask, current_app, g, request

from federation.registry import codes, users
from federation.registry.users import User
from umbel.protocol.errors import Unauthorized

from .state import fed

View = TypeVar("View", bound=Callable[..., Any])

#: Longer headers are no tokens of ours.
_MAX_HEADER = 256


def open_to_all(view: View) -> View:
    """Declare that a view answers without a token."""
    view._open_to_all = True  # type: ignore[attr-defined]
    return view


def by_code(view: View) -> View:
    """Declare that a view is for bearers of one-time codes, not of tokens."""
    view._by_code = True  # type: ignore[attr-defined]
    return view


def install(app: Flask) -> None:
    """Guard every view of ``app``. A URL that does not exist is answered as such without a token."""
    app.before_request(_guard)


def _guard() -> None:
    if request.endpoint is None or request.endpoint == "static":
        return
    view = current_app.view_functions[request.endpoint]
    if getattr(view, "_by_code", False):
        g.user = codes.owner(fed(), token())
    elif not getattr(view, "_open_to_all", False):
        g.user = users.authenticate(fed(), token())


def token() -> str:
    """What the present request bears. Raises Unauthorized."""
    header = request.headers.get("Authorization", "")
    scheme, _, borne = header.partition(" ")
    if scheme.lower() != "bearer" or len(header) > _MAX_HEADER:
        raise Unauthorized("send the header 'Authorization: Bearer <token>' with a token of this service")
    return borne.strip()


def user() -> User:
    """The user who makes the present request."""
    return cast(User, g.user)
