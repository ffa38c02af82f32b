"""Wheels of Umbel and its requirements, for machines that reach only this service (simple repository API)."""

from __future__ import annotations

import re
from urllib.parse import quote

from flask import Response, render_template, request
from werkzeug.wsgi import wrap_file

from federation.packages.directory import Wheel
from umbel.protocol.errors import BadRequest, NotFound

from ..auth import open_to_all
from ..blueprint import Blueprint
from ..state import state

blp = Blueprint("packages", __name__, url_prefix="/packages", description=__doc__)

#: What may stand in a command that people paste into a shell.
_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_TEXT = {"type": "string"}
_BYTES = {"type": "string", "format": "binary"}


@blp.route("/", methods=["GET"])
@blp.doc(security=[])
@open_to_all
@blp.response(200, _TEXT, content_type="text/html")
def list_packages() -> Response:
    """List the packages that can be installed from this service

    The page shows the command that installs the SDK, with the hash of its wheel.
    """
    packages = state().packages
    origin, own = _origin(), packages.own()
    names = sorted({wheel.project for wheel in packages.wheels()})
    links = [(f"{name}/", name) for name in names]
    requirement = f"{origin}/packages/{_href(own, 'umbel/')}" if own else ""
    return _page("Packages", links, index=True, origin=origin, requirement=requirement)


@blp.route("/all", methods=["GET"])
@blp.doc(security=[])
@open_to_all
@blp.response(200, _TEXT, content_type="text/html")
def list_all_package_files() -> Response:
    """List the wheels of all packages on one page, for pip's option --find-links"""
    wheels = state().packages.wheels()
    return _page("All files", [(_href(wheel, f"{wheel.project}/"), wheel.file) for wheel in wheels])


@blp.route("/<project>/", methods=["GET"])
@blp.doc(security=[])
@open_to_all
@blp.fails("NOT_FOUND")
@blp.response(200, _TEXT, content_type="text/html")
def list_package_files(project: str) -> Response:
    """List the wheels of one package with their SHA-256

    `project` is the normalized name: lower case, with `-` for each run of `-`, `_` and `.`.
    """
    wheels = [wheel for wheel in state().packages.wheels() if wheel.project == project]
    if not wheels:
        raise NotFound(f"there is no package '{project[:200]}' here: /packages/ lists the packages")
    return _page(project, [(_href(wheel), wheel.file) for wheel in wheels])


@blp.route("/<project>/<file>", methods=["GET"])
@blp.doc(security=[])
@open_to_all
@blp.fails("NOT_FOUND")
@blp.response(200, _BYTES, content_type="application/octet-stream")
def get_package_file(project: str, file: str) -> Response:
    """Download a wheel; its ETag is its SHA-256"""
    wheel, content = state().packages.open(project, file, request.remote_addr or "")
    # waitress sends the file itself, part by part, and no thread waits for a slow reader
    body = wrap_file(request.environ, content, buffer_size=65536)
    response = Response(body, mimetype="application/octet-stream", direct_passthrough=True)
    response.content_length = wheel.size
    response.set_etag(wheel.sha256)
    response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    return response


def _href(wheel: Wheel, folder: str = "") -> str:
    return f"{folder}{quote(wheel.file)}#sha256={wheel.sha256}"


def _origin() -> str:
    """Scheme and host as the reader has them, also behind a proxy that ends TLS. Raises BadRequest."""
    if not _HOST.match(request.host):
        raise BadRequest("the header 'Host' is not a host name")
    # of several proxies, the first one has the reader's connection
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    scheme = "https" if request.is_secure or forwarded == "https" else "http"
    return f"{scheme}://{request.host}"


def _page(title: str, links: list[tuple[str, str]], *, index: bool = False, **more: str) -> Response:
    text = render_template("packages.html", title=title, links=links, index=index, **more)
    response = Response(text, mimetype="text/html")
    # the page shows the host name that the reader used
    response.headers["Cache-Control"] = "no-cache"
    return response
