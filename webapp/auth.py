"""Bearer tokens: every view needs one unless it is declared public.

A token with a scope opens only the views that are declared for a word of it (``for_scope``), and of the tasks
and groups in their paths only its own.

Only the Authorization header is read, never a cookie, so another web site cannot send requests as a user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Flask, current_app, g, request

from federation.ledger import own
from federation.registry import codes, users
from federation.registry.users import User
from umbel.protocol.errors import Forbidden, Unauthorized
from umbel.protocol.grant import MAX_GRANT

from .state import fed

View = TypeVar("View", bound=Callable[..., Any])

#: Key of the environment of a request under which the web server finds the number of the user.
USER_KEY = "umbel.user"
#: Longest valid header, characters.
_MAX_HEADER = 16 + MAX_GRANT


def open_to_all(view: View) -> View:
    """Declare that a view needs no token."""
    view._open_to_all = True  # type: ignore[attr-defined]
    return view


def with_one_time_code(view: View) -> View:
    """Declare that a view needs a one-time code instead of a token."""
    view._with_one_time_code = True  # type: ignore[attr-defined]
    return view


def with_grant(view: View) -> View:
    """Declare that a view needs the grant of an endpoint instead of a token."""
    view._with_grant = True  # type: ignore[attr-defined]
    return view


def for_scope(verb: str) -> Callable[[View], View]:
    """Declare that tokens whose scope has this word open a view; others need a token without a scope."""

    def declare(view: View) -> View:
        view._verb = verb  # type: ignore[attr-defined]
        return view

    return declare


def install(app: Flask) -> None:
    """Authenticate every request of ``app``, except those for URLs that do not exist."""
    app.before_request(_authenticate)


def _authenticate() -> None:
    if request.endpoint is None or request.endpoint == "static":
        return
    view = current_app.view_functions[request.endpoint]
    if getattr(view, "_open_to_all", False):
        return
    if getattr(view, "_with_grant", False):
        token()
        return
    if getattr(view, "_with_one_time_code", False):
        g.user = codes.owner(fed(), token())
    else:
        g.user = users.authenticate(fed(), token())
        if g.user.scope is not None:
            _check_scope(getattr(view, "_verb", None))
    request.environ[USER_KEY] = g.user.no


def _check_scope(verb: str | None) -> None:
    """Check that the scope of the token covers the view and the objects in its path.

    Raises Forbidden, NotFound.
    """
    if verb is None or not user().may(verb):
        raise Forbidden(
            f"the token may not be used for {request.method} {request.path[:200]}: it is that of a call, for "
            "registering functions and for the tasks that the call submits"
        )
    found = request.view_args or {}
    if "task_id" in found:
        own.check_task(fed(), user(), found["task_id"])
    if "group_id" in found:
        own.check_group(fed(), user(), found["group_id"])


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
