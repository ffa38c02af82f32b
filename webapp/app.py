"""The application factory."""

from __future__ import annotations

from typing import Any

import flask_smorest
from flask import Flask, Response, request
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from federation.broker.notifications import Notifier
from federation.context import Federation
from federation.packages.publish import Packages
from federation.registry.uploads import Uploads
from umbel.protocol import limits
from umbel.protocol.version import __version__

from . import auth, errors, pages, uploads
from .long_polls import LongPolls
from .resources import BLUEPRINTS
from .schemas.common import Error
from .state import State, attach

#: Threads that are never used by polls that wait in threads, so that other requests are served.
RESERVED_THREADS = 8

DESCRIPTION = """\
Run Python functions on your own machines: register a function, submit calls of it to an endpoint, and read
the results. Every request needs the header `Authorization: Bearer <token>`, except `/health` and `/version`.
Every error has the form `{"code", "message", "details"}`. Times are seconds since 1970-01-01 UTC.
"""

#: Pages load nothing from other origins and cannot be framed.
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
    """flask-smorest's API with the errors of this API."""

    ERROR_SCHEMA = Error

    def _register_error_handlers(self) -> None:
        errors.install(self._app)


def create_app(fed: Federation, notifier: Notifier | None = None, places: int = 0) -> Flask:
    """Create the WSGI application that serves ``fed``.

    ``notifier`` wakes waiting polls (default: a new one); the caller must stop it. ``places``: most polls
    that wait without a thread, under a web server that parks them.
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
    slots = max(1, fed.settings.web_threads - RESERVED_THREADS)
    polls = LongPolls(fed, notifier or Notifier(fed.broker), slots, places)
    attach(
        app,
        State(fed, polls, Packages(fed.settings.home / "packages"), Uploads(fed.settings.home / "uploads")),
    )
    app.before_request(_check_request)
    auth.install(app)
    uploads.install(app)
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
                "token": {"type": "http", "scheme": "bearer", "description": "A token, `umb_…`."}
            }
        },
        "security": [{"token": []}],
    }


def _check_request() -> None:
    """Reject requests that are invalid for every route, even if the route does not read the body."""
    if (request.content_length or 0) > limits.MAX_REQUEST_BYTES:
        raise RequestEntityTooLarge
    # no name or id contains NUL, and PostgreSQL rejects it in parameters
    if request.view_args and any("\0" in value for value in request.view_args.values()):
        raise NotFound


def _finish(response: Response) -> Response:
    response.headers.extend(SECURITY_HEADERS)
    if response.status_code == 308 and response.location:
        # to a path only: behind a proxy, this process knows neither the scheme nor the port of the reader
        response.location = "/" + response.location.split("/", 3)[-1].lstrip("/\\")
    if request.path.startswith("/v1"):
        response.headers["Cache-Control"] = "no-store"
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response
