"""Bearer tokens: every view needs one unless it is declared public.

Only the Authorization header is read, never a cookie, so another web site cannot send requests as a user.
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

#: Key of the environment of a request under which the web server finds the number of the user.
USER_KEY = "umbel.user"
#: Longest valid header, characters.
_MAX_HEADER = 256


def open_to_all(view: View) -> View:
    """Declare that a view needs no token."""
    view._open_to_all = True  # type: ignore[attr-defined]
    return view


def with_one_time_code(view: View) -> View:
    """Declare that a view needs a one-time code instead of a token."""
    view._with_one_time_code = True  # type: ignore[attr-defined]
    return view


def install(app: Flask) -> None:
    """Authenticate every request of ``app``, except those for URLs that do not exist."""
    app.before_request(_authenticate)


def _authenticate() -> None:
    if request.endpoint is None or request.endpoint == "static":
        return
    view = current_app.view_functions[request.endpoint]
    if getattr(view, "_open_to_all", False):
        return
    if getattr(view, "_with_one_time_code", False):
        g.user = codes.owner(fed(), token())
    else:
        g.user = users.authenticate(fed(), token())
    request.environ[USER_KEY] = g.user.no


def token() -> str:
    """Return the bearer token of the current request. Raises Unauthorized."""
    return token_of(request.headers.get("Authorization", ""))


def token_of(header: str) -> str:
    """Return the bearer token in a header ``Authorization``. Raises Unauthorized."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "bearer" or len(header) > _MAX_HEADER:
        raise Unauthorized(
            "no valid token: send the header 'Authorization: Bearer <token>' with a token of this service"
        )
    return value.strip()


def user() -> User:
    """Return the user of the current request."""
    return cast(User, g.user)
