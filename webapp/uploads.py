"""Requests whose body was sent in parts before: ``Umbel-Upload`` and ``Umbel-Upload-SHA256`` name it."""

from __future__ import annotations

import io
import threading

from flask import Flask, g, request

from umbel.protocol.errors import BadRequest, TooMany

from .auth import user
from .state import state

ID_HEADER, DIGEST_HEADER = "Umbel-Upload", "Umbel-Upload-SHA256"
#: Requests with such a body that are processed at the same time, and seconds that another one waits.
TOGETHER, WAIT = 3, 5.0


def install(app: Flask) -> None:
    """Replace the body of requests that name an upload; after ``auth``."""
    places = threading.Semaphore(TOGETHER)

    def insert_body() -> None:
        upload = request.headers.get(ID_HEADER)
        if upload is None or not hasattr(g, "user"):
            return
        if request.content_length:
            raise BadRequest(f"a request with the header '{ID_HEADER}' has no body of its own")
        if not places.acquire(timeout=WAIT):
            raise TooMany("too many large requests at the same time: try again in 1 s")
        g.upload_place = True
        data = state().uploads.read(user(), upload, request.headers.get(DIGEST_HEADER, ""))
        request.environ["wsgi.input"] = io.BytesIO(data)
        request.environ["CONTENT_LENGTH"] = str(len(data))

    def release(_: BaseException | None) -> None:
        if g.pop("upload_place", False):
            places.release()

    app.before_request(insert_body)
    app.teardown_request(release)
