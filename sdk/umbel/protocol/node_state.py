"""What a worker node writes about itself in the broker: a signed description, and a beat.

Both are state, not messages: each overwrites the one before. The description changes rarely. The beat changes
every few seconds and is not signed: only the endpoint's own broker account can write it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import checks
from .envelope import Signer, Verifier
from .errors import ProtocolError
from .limits import MAX_SLOTS

#: Audience of descriptions.
SERVICE = "service"
#: Largest description, and largest beat, bytes.
MAX_STATE_BYTES, MAX_BEAT_BYTES = 64 * 1024, 200
#: Message on an endpoint's news channel after a description was written.
NODE_NEWS = b"n"

_NUMBER = r"-?\d{1,15}(?:\.\d{1,3})?"
_BEAT = re.compile(rf"(\d{{1,15}}):(\d{{1,15}}):(\d{{1,9}}):(\d{{1,9}}):({_NUMBER}):({_NUMBER})", re.ASCII)


@dataclass(frozen=True)
class NodeState:
    """The description of a worker node.

    ``node``: its name, unique in its endpoint, the same after a restart; ``instance``: random id of one run;
    ``incarnation``: grows with each start of the node; ``version``: grows with each change within one run;
    ``slots``: number of calls that it runs at once; ``facts``: hostname, pid, python, platform, packages and
    other facts for people.
    """

    endpoint: str
    node: str
    instance: str
    incarnation: int
    version: int
    slots: int
    facts: dict[str, Any] = field(default_factory=dict)

    def seal(self, signer: Signer, now: float) -> bytes:
        """Sign the description; return the envelope."""
        header = {"typ": "node", "aud": SERVICE, "iat": now, **vars(self)}
        return b"".join(signer.seal(header))

    @classmethod
    def open(cls, verifier: Verifier, data: bytes, *, endpoint: str, instance: str) -> NodeState:
        """Verify an envelope and read the description of this instance of this endpoint.

        Raises ProtocolError.
        """
        header, _ = verifier.open(data, typ="node", aud=SERVICE, now=None)
        if header.get("endpoint") != endpoint or header.get("instance") != instance:
            raise ProtocolError("the description is of another node")
        try:
            return cls(
                endpoint=endpoint,
                node=checks.label(header["node"], 128),
                instance=checks.identifier(header["instance"]),
                incarnation=checks.integer(header["incarnation"]),
                version=checks.integer(header["version"]),
                slots=checks.integer(header["slots"], MAX_SLOTS),
                facts=checks.plain(header["facts"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a field of the description is missing or not valid: {error}") from None


class Beat(NamedTuple):
    """A sign of life of an instance.

    ``version``: of its description; ``number``: grows with each beat; ``busy``: slots in use; ``queue``:
    calls that wait on the node; ``load``: of its machine; ``clock_ahead``: of its clock, seconds.
    """

    version: int
    number: int
    busy: int = 0
    queue: int = 0
    load: float = 0.0
    clock_ahead: float = 0.0

    def write(self) -> bytes:
        """Return the beat as bytes."""
        load, ahead = (min(1e12, max(-1e12, each)) for each in (self.load, self.clock_ahead))
        return b"%d:%d:%d:%d:%.2f:%.3f" % (*self[:4], load, ahead)

    @classmethod
    def read(cls, data: bytes) -> Beat:
        """Read a beat. Raises ProtocolError."""
        found = _BEAT.fullmatch(data.decode("ascii", "replace")) if len(data) <= MAX_BEAT_BYTES else None
        if found is None:
            raise ProtocolError(f"{checks.shown(data[:60])} is not a beat of a node")
        version, number, busy, queue = (int(each) for each in found.groups()[:4])
        return cls(version, number, busy, queue, float(found[5]), float(found[6]))
