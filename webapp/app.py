"""The application factory."""

from __future__ import annotations

from typing import Any

import flask_smorest
from flask import Flask, Response, request
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from federation.broker.notifications import Notifier
from federation.context import Federation
from federation.packages.publish import Packages
from umbel.protocol import limits
from umbel.protocol.version import __version__

from . import auth, errors, pages
from .polls import Polls
from .resources import BLUEPRINTS
from .schemas.common import Error
from .state import State, attach

#: Threads that waiting polls leave to all other requests.
RESERVED_THREADS = 8

DESCRIPTION = """\
Run your Python functions on your machines: register a function, submit calls of it to an endpoint, follow
their results. Every request but `/health` and `/version` needs the header `Authorization: Bearer <token>`;
every error is `{"code", "message", "details"}`; times are seconds since 1970, UTC.
"""

#: Nothing of ours is framed, guessed at, or made of anything from elsewhere.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Api(flask_smorest.Api):
    """flask-smorest's API with our errors."""

    ERROR_SCHEMA = Error

    def _register_error_handlers(self) -> None:
        errors.install(self._app)


def create_app(fed: Federation, notifier: Notifier | None = None) -> Flask:
    """Make the WSGI application that serves ``fed``.

    ``notifier`` tells waiting polls of news (default: a new one); the caller stops it at the end.
    """
    app = Flask("webapp")
    app.config.update(
        MAX_CONTENT_LENGTH=limits.MAX_REQUEST_BYTES,
        API_TITLE="Umbel",
        API_VERSION=__version__,
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX=None,  # pages.py serves the document
        API_SPEC_OPTIONS=_spec_options(),
    )
    places = max(1, fed.settings.web_threads - RESERVED_THREADS)
    polls = Polls(fed, notifier or Notifier(fed.broker), places)
    attach(app, State(fed, polls, Packages(fed.settings.home / "packages")))
    app.before_request(_check_request)
    auth.install(app)
    app.after_request(_finish)
    api = Api(app)
    for blueprint in BLUEPRINTS:
        api.register_blueprint(blueprint)
    pages.install(app, api.spec.to_dict())
    return app


def _spec_options() -> dict[str, Any]:
    return {
        "info": {"description": DESCRIPTION, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token as `umb_…`."}
            }
        },
        "security": [{"token": []}],
    }


def _check_request() -> None:
    """Refuse what no route may see, whether or not it reads its body."""
    if (request.content_length or 0) > limits.MAX_REQUEST_BYTES:
        raise RequestEntityTooLarge
    # no name or id holds a NUL, and PostgreSQL takes none in a parameter
    if request.view_args and any("\0" in value for value in request.view_args.values()):
        raise NotFound


def _finish(response: Response) -> Response:
    response.headers.extend(SECURITY_HEADERS)
    if request.path.startswith("/v1"):
        response.headers["Cache-Control"] = "no-store"
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response
