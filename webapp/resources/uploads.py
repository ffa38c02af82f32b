"""Uploads: large request bodies in parts, for connections that are slow or often cut."""

from __future__ import annotations

from typing import Any

from flask import request

from ..auth import for_scope, user
from ..blueprint import Blueprint
from ..schemas.uploads import Upload, UploadQuery
from ..state import state

blp = Blueprint("uploads", __name__, url_prefix="/v1/uploads", description=__doc__)

_BODY = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}


@blp.route("/<upload>", methods=["PUT"])
@for_scope("tasks:submit")
@blp.doc(requestBody=_BODY)
@blp.arguments(UploadQuery, location="query")
@blp.fails("UPLOAD_NOT_FOUND", "CONFLICT", "PAYLOAD_TOO_LARGE")
@blp.response(200, Upload)
def put_upload(place: dict[str, Any], upload: str) -> dict[str, Any]:
    """Send a part of a large request body

    Choose a UUID as id and send the parts in order. Then send the request itself without a body, with the
    headers `Umbel-Upload` (the id) and `Umbel-Upload-SHA256` (of the whole body). An upload is kept for an
    hour after its last part; a user's oldest uploads are deleted beyond 60 MiB. If `offset` exceeds the size
    so far, the error CONFLICT has that size in `details`.
    """
    size = state().uploads.put(user(), upload, place["offset"], request.get_data(cache=False))
    return {"id": upload, "size": size}
