"""Large request bodies over bad connections: in parts, each of which is kept by the service."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ..protocol import names
from ..protocol.errors import Conflict, NotFound, ServiceUnavailable
from .answers import RetryableError

#: A body from this size on whose connection was cut is sent again in parts of ``PART`` bytes.
RESUMED_FROM, PART = 512 * 1024, 128 * 1024
ID_HEADER, DIGEST_HEADER = "Umbel-Upload", "Umbel-Upload-SHA256"

#: Sends one part: path, query and body; returns the answer.
Put = Callable[[str, dict[str, Any], bytes], Any]


class Upload:
    """One body on its way to the service. ``stored``: how many of its bytes the service has."""

    def __init__(self, body: bytes):
        self.stored = 0
        self._body = body
        self._id = names.new_id()

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a request without a body that replace its body by this one."""
        return {ID_HEADER: self._id, DIGEST_HEADER: hashlib.sha256(self._body).hexdigest()}

    def send(self, put: Put) -> None:
        """Send the parts that the service does not have. Raises what ``put`` raises."""
        while self.stored < len(self._body):
            part = self._body[self.stored : self.stored + PART]
            try:
                answer = put(f"/v1/uploads/{self._id}", {"offset": self.stored}, part)
                self.stored = int(answer["size"])
            except Conflict as error:  # a part arrived whose answer was lost, or the upload has expired
                if "size" not in error.details:
                    raise
                self.stored = int(error.details["size"])

    def refused(self, error: NotFound | Conflict) -> None:
        """Begin anew if the service no longer has the upload, else raise the error of the request."""
        if error.code != "UPLOAD_NOT_FOUND":
            raise error
        self._id, self.stored = names.new_id(), 0
        raise RetryableError(ServiceUnavailable(error.message))
