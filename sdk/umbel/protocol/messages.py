"""The records that travel between the service and endpoints inside signed envelopes.

A **bundle** has some calls of one function for one endpoint. Its body is the concatenated arguments of the
calls; the header maps bytes to tasks, so equal arguments are sent once.

A **report** of a worker node has outcomes of calls, a heartbeat, or a goodbye. Its body is the concatenated
results.

Both are plain data: this module unpickles nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from .envelope import Signer, Verifier, check_body
from .errors import ProtocolError
from .limits import BUNDLE_LIFETIME
from .records import Items, Log, Place, TaskItems, TaskLog, read_items, read_logs, write_items, write_logs
from .run_options import RunOptions as RunOptions

#: Audience of reports.
SERVICE = "service"


class Status:
    """Statuses of a call in a report."""

    SUCCEEDED = "succeeded"  # finished with a result
    FAILED = "failed"  # finished with a code
    LOST = "lost"  # started, and its runner died or was stopped, not because of the call
    RETURNED = "returned"  # certainly not started: may be sent again at once and does not count as an attempt
    RUNNING = "running"  # started and not finished
    SKIPPED = "skipped"  # not started, or stopped, because it was cancelled


class Interruption:
    """Codes of LOST for which the call is not responsible: up to a limit, they do not count as attempts."""

    WALLTIME = "WALLTIME_EXCEEDED"  # the batch job of its worker ended
    STOPPED = "WORKER_STOPPED"  # its worker was stopped, or killed by its site


class Call(NamedTuple):
    """One call of a bundle, and the position of its arguments in the bundle's body."""

    task_id: str
    attempt: int
    offset: int
    size: int


class Outcome(NamedTuple):
    """The outcome or the progress of one call.

    ``started``: seconds since 1970 (0.0 if it did not start); ``wall``: run time, seconds; ``code`` and
    ``message`` of failures; ``usage``: resource record, or None; ``payload``: the serialized result, or for
    TASK_ERROR the JSON description of the exception (see ``umbel.serialize``); ``log``: what it wrote, None
    if nothing (or nothing new); ``place``: where it ran, the same for all calls of a bundle; ``items``: what
    it has yielded since the previous report.
    """

    task_id: str
    attempt: int
    status: str
    started: float = 0.0
    wall: float = 0.0
    code: str | None = None
    message: str | None = None
    usage: dict[str, Any] | None = None
    payload: bytes = b""
    log: Log | None = None
    place: Place | None = None
    items: Items | None = None


@dataclass(frozen=True)
class FunctionRef:
    """The function of a bundle. Its body is fetched by ``sha256`` and checked against it."""

    id: str
    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Bundle:
    """Calls of one function that are sent to one endpoint together."""

    id: str
    endpoint: str
    function: FunctionRef
    calls: Sequence[Call]
    options: RunOptions = field(default_factory=RunOptions)
    user: str = ""
    body: bytes = b""
    #: estimated run time of one call, seconds; 0.0: unknown or short
    seconds: float = 0.0

    def seal(self, signer: Signer, now: float) -> tuple[bytes, bytes]:
        """Sign the bundle; return (head, body), which may travel separately."""
        header = {
            "typ": "bundle",
            "aud": self.endpoint,
            "iat": now,
            "exp": now + BUNDLE_LIFETIME,
            "id": self.id,
            "function": asdict(self.function),
            "options": {k: v for k, v in asdict(self.options).items() if v is not None},
            "user": self.user,
            "calls": self.calls,
        }
        if self.seconds:
            header["seconds"] = self.seconds
        return signer.seal(header, self.body)

    @classmethod
    def open_head(
        cls, verifier: Verifier, head: bytes, *, endpoint: str, now: float
    ) -> tuple[Bundle, dict[str, Any]]:
        """Verify a bundle's head; return the bundle without its body, and the header for ``with_body``.

        Raises ProtocolError.
        """
        header = verifier.open_head(head, typ="bundle", aud=endpoint, now=now)
        try:
            bundle = cls(
                id=str(header["id"]),
                endpoint=endpoint,
                function=FunctionRef(**header["function"]),
                calls=[Call(*row) for row in header["calls"]],
                options=RunOptions(**header["options"]),
                user=str(header["user"]),
                seconds=float(header.get("seconds", 0.0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a field of the bundle's header is missing or not valid: {error}") from None
        return bundle, header

    def with_body(self, header: dict[str, Any], body: bytes) -> Bundle:
        """Return the bundle with ``body``, checked against ``header``. Raises ProtocolError."""
        check_body(header, body)
        return replace(self, body=body)


class Heartbeat(NamedTuple):
    """The state of a worker node.

    ``slots``: number of calls that it runs at once; ``busy``: slots in use; ``held``: ids of the bundles that
    it has received and not finished; ``facts``: hostname, pid, python, platform, versions, queue and other
    facts for people.
    """

    slots: int
    busy: int
    held: Sequence[str]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """One message of a worker node to the service.

    ``node``: name of the worker node, unique in its endpoint, the same after a restart; ``instance``: random
    id of one run of the node, so that a restart is detected at once. Exactly one of ``outcomes`` (bundle id →
    outcomes), ``heartbeat`` and ``goodbye`` (the node shuts down; its unreported calls are requeued) is set.
    """

    endpoint: str
    node: str
    instance: str
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    heartbeat: Heartbeat | None = None
    goodbye: bool = False

    def seal(self, signer: Signer, now: float, report_id: str) -> bytes:
        """Sign the report; return the envelope."""
        header: dict[str, Any] = {
            "typ": "report",
            "aud": SERVICE,
            "iat": now,
            "id": report_id,
            "endpoint": self.endpoint,
            "node": self.node,
            "instance": self.instance,
        }
        if self.heartbeat is not None:
            header["heartbeat"] = self.heartbeat._asdict()
        if self.goodbye:
            header["goodbye"] = True
        body = b""
        if self.outcomes:
            header["outcomes"] = {
                bundle: [(*outcome[:8], len(outcome.payload)) for outcome in outcomes]
                for bundle, outcomes in self.outcomes.items()
            }
            every = [outcome for outcomes in self.outcomes.values() for outcome in outcomes]
            header["places"] = {
                b: o.place for b, outcomes in self.outcomes.items() for o in outcomes[:1] if o.place
            }
            header["said"], logs = write_logs(every)
            header["items"], items = write_items(self.outcomes)
            body = b"".join([*(o.payload for o in every), *logs, *items])
        return b"".join(signer.seal(header, body))

    @classmethod
    def open(cls, verifier: Verifier, data: bytes, now: float, *, endpoint: str | None = None) -> OpenReport:
        """Verify an envelope and read the report in it.

        ``endpoint``: id of the endpoint whose report it must be. Raises ProtocolError.
        """
        header, body = verifier.open(data, typ="report", aud=SERVICE, now=now)
        if endpoint is not None and header.get("endpoint") != endpoint:
            raise ProtocolError("the report names another endpoint as its sender")
        try:
            beat = header.get("heartbeat")
            rows = list(_rows(header.get("outcomes", {})))
            end = sum(row.size for row in rows)
            logs = list(read_logs(header.get("said", ()), body, end))
            items_at = end + sum(len(each.log.head) + len(each.log.tail) for each in logs)
            return OpenReport(
                id=str(header["id"]),
                endpoint=str(header["endpoint"]),
                node=str(header["node"]),
                instance=str(header["instance"]),
                issued=float(header["iat"]),
                rows=rows,
                heartbeat=Heartbeat(**beat) if beat is not None else None,
                goodbye=bool(header.get("goodbye")),
                body=body[:end],
                places={bundle: Place(*place) for bundle, place in header.get("places", {}).items()},
                logs=logs,
                items=list(read_items(header.get("items", ()), body, items_at)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"a field of the report's header is missing or not valid: {error}") from None


class Row(NamedTuple):
    """An outcome in a received report; its payload is at ``offset`` in the report's body."""

    bundle_id: str
    task_id: str
    attempt: int
    status: str
    started: float
    wall: float
    code: str | None
    message: str | None
    usage: dict[str, Any] | None
    offset: int
    size: int


def _rows(outcomes: dict[str, list[list[Any]]]) -> Iterable[Row]:
    offset = 0
    for bundle_id, rows in outcomes.items():
        for task_id, attempt, status, started, wall, code, message, usage, size in rows:
            yield Row(bundle_id, task_id, attempt, status, started, wall, code, message, usage, offset, size)
            offset += size


@dataclass(frozen=True)
class OpenReport:
    """A verified report. Its ``rows`` have positions in ``body``, which is not split.

    ``places``: where the calls of each bundle ran, by its id; ``logs`` and ``items``: what calls wrote and
    yielded, the latest last.
    """

    id: str
    endpoint: str
    node: str
    instance: str
    issued: float
    rows: list[Row]
    heartbeat: Heartbeat | None
    goodbye: bool
    body: bytes
    places: dict[str, Place] = field(default_factory=dict)
    logs: list[TaskLog] = field(default_factory=list)
    items: list[TaskItems] = field(default_factory=list)
