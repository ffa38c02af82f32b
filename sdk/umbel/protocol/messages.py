"""The records that travel between the service and endpoints inside signed envelopes.

A **bundle** has some calls of one function for one endpoint. Its body is the concatenated arguments of the
calls; the header maps bytes to tasks, so equal arguments are sent once.

A **report** of a worker node has outcomes of calls, or a goodbye. Its body is the concatenated
results.

Both are plain data: this module unpickles nothing.
"""

# One concept: what is written of a field and what is checked when it is read belong together.
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate, repeat
from operator import add
from typing import Any, NamedTuple

from . import checks
from .envelope import Signer, Verifier, check_body
from .errors import ProtocolError
from .limits import BUNDLE_LIFETIME, MAX_ATTEMPT, MAX_CALLS_PER_BUNDLE, MAX_OUTCOMES
from .records import Items, Log, Place, TaskItems, TaskLog, read_items, read_logs, write_items, write_logs
from .run_options import ISOLATIONS
from .run_options import RunOptions as RunOptions

#: Audience of what endpoints sign: reports and grants.
SERVICE = "service"
#: Longest message of an outcome that is read, characters.
MAX_MESSAGE = 8000


class Status:
    """Statuses of a call in a report."""

    SUCCEEDED = "succeeded"  # finished with a result
    FAILED = "failed"  # finished with a code
    LOST = "lost"  # started, and its runner died or was stopped, not because of the call
    RETURNED = "returned"  # certainly not started: may be sent again at once and does not count as an attempt
    RUNNING = "running"  # started and not finished
    SKIPPED = "skipped"  # not started, or stopped, because it was cancelled


_STATUSES = frozenset(value for name, value in vars(Status).items() if name.isupper())


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
    if nothing (or nothing new); ``place``: where it ran, the same for all calls of a bundle, but
    ``local`` may grow; ``items``: what it has yielded since the previous report.
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
    #: it runs before the bundles that wait at its node
    passes: bool = False

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
        if self.passes:
            header["passes"] = True
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
                id=checks.identifier(header["id"]),
                endpoint=endpoint,
                function=_function(header["function"]),
                calls=_calls(header),
                options=_options(header["options"]),
                user=checks.text(header["user"], 255),
                seconds=checks.seconds(header.get("seconds", 0.0)),
                passes=header.get("passes") is True,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a field of the bundle's header is missing or not valid: {error}") from None
        return bundle, header

    def with_body(self, header: dict[str, Any], body: bytes) -> Bundle:
        """Return the bundle with ``body``, checked against ``header``. Raises ProtocolError."""
        check_body(header, body)
        return replace(self, body=body)


@dataclass(frozen=True)
class Report:
    """One message of a worker node to the service.

    ``node``: name of the worker node, unique in its endpoint, the same after a restart; ``instance``: random
    id of one run of the node, so that a restart is detected at once. Either ``outcomes`` (bundle id →
    outcomes) or ``goodbye`` (the node shuts down and has reported everything) is set.
    """

    endpoint: str
    node: str
    instance: str
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
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
        if self.goodbye:
            header["goodbye"] = True
        body = b""
        if self.outcomes:
            header["outcomes"] = {
                bundle: [(*outcome[:8], len(outcome.payload)) for outcome in outcomes]
                for bundle, outcomes in self.outcomes.items()
            }
            every = [outcome for outcomes in self.outcomes.values() for outcome in outcomes]
            # the last one of a bundle knows the packages of all calls before it
            places = {b: outcomes[-1].place for b, outcomes in self.outcomes.items() if outcomes}
            header["places"] = {b: place[:3] for b, place in places.items() if place}
            header["local"] = {b: place.local for b, place in places.items() if place and place.local}
            header["said"], logs = write_logs(every)
            header["items"], items = write_items(self.outcomes)
            body = b"".join([*(o.payload for o in every), *logs, *items])
        return b"".join(signer.seal(header, body))

    @classmethod
    def open(cls, verifier: Verifier, data: bytes, *, endpoint: str | None = None) -> OpenReport:
        """Verify an envelope and read the report in it.

        ``endpoint``: id of the endpoint whose report it must be. Raises ProtocolError.
        """
        # no date is checked: a node's clock may be wrong, and applying an old report again changes nothing
        header, body = verifier.open(data, typ="report", aud=SERVICE, now=None)
        if endpoint is not None and header.get("endpoint") != endpoint:
            raise ProtocolError("the report names another endpoint as its sender")
        try:
            return _read_report(header, body)
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


#: Makes a Row from a tuple; ``Row._make`` is slower.
_row: Callable[[tuple[Any, ...]], Row] = partial(tuple.__new__, Row)


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
    goodbye: bool
    body: bytes
    places: dict[str, Place] = field(default_factory=dict)
    logs: list[TaskLog] = field(default_factory=list)
    items: list[TaskItems] = field(default_factory=list)


def _read_report(header: dict[str, Any], body: bytes) -> OpenReport:
    """Check every field of a report's header. Raises KeyError, TypeError or ValueError."""
    rows = list(_rows(header.get("outcomes", {}), len(body)))
    end = rows[-1].offset + rows[-1].size if rows else 0
    logs = list(read_logs(header.get("said", []), body, end))
    items_at = end + sum(len(each.log.head) + len(each.log.tail) for each in logs)
    places = checks.mapping(header.get("places", {}), MAX_OUTCOMES)
    local = checks.mapping(header.get("local", {}), MAX_OUTCOMES)
    return OpenReport(
        id=checks.identifier(header["id"]),
        endpoint=checks.identifier(header["endpoint"]),
        node=checks.label(header["node"], 255),
        instance=checks.identifier(header["instance"]),
        issued=checks.seconds(header["iat"]),
        rows=rows,
        goodbye=bool(header.get("goodbye")),
        body=body[:end],
        places={checks.identifier(b): _place(place, local.get(b)) for b, place in places.items()},
        logs=logs,
        items=list(read_items(header.get("items", []), body, items_at)),
    )


def _rows(outcomes: Any, length: int) -> Iterable[Row]:
    """Read the outcomes of a report whose body has ``length`` bytes."""
    offset = count = 0
    for bundle_id, rows in checks.mapping(outcomes, MAX_OUTCOMES).items():
        checks.identifier(bundle_id)
        count += len(checks.array(rows, MAX_OUTCOMES))
        if count > MAX_OUTCOMES:
            raise ValueError(f"the report has more than {MAX_OUTCOMES} outcomes")
        if not rows:
            continue
        # checked by column, which costs a fraction of a check of each value
        ids, attempts, statuses, started, wall, codes, messages, usages, sizes = zip(*rows, strict=True)
        for status in set(statuses) - _STATUSES:
            raise ValueError(f"{checks.shown(status)} is not a status")
        offsets = list(accumulate(checks.integers(sizes, length), initial=offset))
        offset = checks.integer(offsets.pop(), length)
        yield from map(
            _row,
            zip(
                repeat(bundle_id),
                checks.identifiers(ids),
                checks.integers(attempts, MAX_ATTEMPT),
                statuses,
                checks.all_seconds(started),
                checks.all_seconds(wall),
                _unless_none(codes, lambda code: checks.text(code, 64)),
                _unless_none(messages, lambda message: checks.text(message, MAX_MESSAGE)),
                _unless_none(usages, lambda usage: checks.plain(usage, 100)),
                offsets,
                sizes,
            ),
        )


def _unless_none(values: Sequence[Any], check: Callable[[Any], Any]) -> Sequence[Any]:
    """Return the values; those that are not None are checked."""
    if values.count(None) == len(values):
        return values
    return [None if value is None else check(value) for value in values]


def _place(place: Any, local: Any) -> Place:
    host, pid, slot = place
    packages = None if local is None else checks.plain(local, 100)
    return Place(checks.text(host, 255), checks.integer(pid), checks.integer(slot), packages)


def _function(record: Any) -> FunctionRef:
    values = checks.mapping(record, 20)
    return FunctionRef(
        checks.identifier(values["id"]),
        checks.text(values["name"], 1000),
        checks.identifier(values["sha256"]),
        checks.integer(values["size"]),
    )


def _calls(header: dict[str, Any]) -> list[Call]:
    size = checks.integer(header["size"])
    calls = [Call(*row) for row in checks.array(header["calls"], MAX_CALLS_PER_BUNDLE)]
    if calls:
        ids, attempts, offsets, sizes = zip(*calls)
        checks.identifiers(ids)
        checks.integers(attempts, MAX_ATTEMPT)
        checks.integers(list(map(add, checks.integers(offsets, size), checks.integers(sizes, size))), size)
    return calls


def _options(record: Any) -> RunOptions:
    values = checks.mapping(record, 20)
    for name, value in values.items():
        if value is None or (name == "isolation" and value in ISOLATIONS):
            continue
        if not (value is True if name == "nested" else checks.seconds(value) == value):
            raise ValueError(f"{checks.shown(value)} is not a limit")
    return RunOptions(**values)
