"""A bundle on its way through the worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from umbel.protocol.messages import Bundle, Interruption, Outcome, Status

from .process import RunnerOptions

#: Receives outcomes of one bundle, by its id; called from any thread.
Sink = Callable[[str, list[Outcome]], None]
#: Called when a slot accepts a bundle: the bundle's id ("" if no call of it runs) and the runner's process
#: id.
Accepted = Callable[[str, int], None]

#: Messages for calls that had to be stopped, by the code of their ``Interruption``.
_STOPPED = {
    Interruption.STOPPED: "the worker was stopped",
    Interruption.WALLTIME: "the batch job of the worker ended",
}


def ignore(*_: object) -> None:
    """Ignore a notification."""


@dataclass
class Job:
    """A verified bundle with its function's bytes, and callbacks.

    ``on_accept`` is called when a slot accepts the bundle, ``on_done`` when its last call has an outcome, and
    ``on_broken`` with the reason if a runner with its ``options`` cannot start. ``arrived``: monotonic clock,
    set by the supervisor. ``options``: how to start its runner, if different from the supervisor's default.
    ``access``: address of the service and grant of a bundle whose calls may submit, else None.
    """

    bundle: Bundle
    function: bytes
    on_accept: Accepted = ignore
    on_done: Callable[[], None] = ignore
    on_broken: Callable[[str], None] = ignore
    arrived: float = 0.0
    options: RunnerOptions | None = None
    access: Mapping[str, str] | None = field(default=None, repr=False)
    #: ids of calls that were cancelled while the bundle waited
    cancelled: set[str] = field(default_factory=set)
    #: its calls were returned while it waited: it only occupies a place in Celery's prefetch window
    returned: bool = False
    #: calls of the message that may not run and are not in ``bundle``
    refused: int = 0
    #: calls that failed, and the error code of the first of them
    failed: int = 0
    first_code: str = ""

    def count(self, outcomes: Iterable[Outcome]) -> None:
        """Count the failed calls among outcomes; calls that the site has interrupted do not count."""
        for each in outcomes:
            lost = each.status == Status.LOST and each.code not in _STOPPED
            if lost or each.status == Status.FAILED:
                self.failed += 1
                self.first_code = self.first_code or each.code or "WORKER_LOST"

    def failure(self) -> str:
        """Return a sentence about the failed calls, without data of users; empty: none has failed."""
        if not self.failed:
            return ""
        return f"{self.failed} of {len(self.bundle.calls) + self.refused} calls failed: {self.first_code}"

    @property
    def cores(self) -> int:
        """Number of slots that it occupies."""
        return self.bundle.options.cores or 1


def unstarted(
    bundle: Bundle, message: str | None = None, cancelled: frozenset[str] | set[str] = frozenset()
) -> list[Outcome]:
    """Return outcomes of a bundle of which no call has started: RETURNED, or SKIPPED if cancelled."""
    return [
        Outcome(
            c.task_id,
            c.attempt,
            Status.SKIPPED if c.task_id in cancelled else Status.RETURNED,
            message=message,
        )
        for c in bundle.calls
    ]


def lost(bundle: Bundle, message: str) -> list[Outcome]:
    """Return outcomes of a bundle that cannot be followed any more: LOST for each call."""
    return [Outcome(c.task_id, c.attempt, Status.LOST, message=message) for c in bundle.calls]


def describe_end(how: str, why: str | None) -> tuple[str, str | None]:
    """Return message and code for a call whose runner has ended.

    ``how``: a sentence; ``why``: code of the ``Interruption`` for which the runner was stopped, if it was.
    """
    if why is not None:
        return _STOPPED[why], why
    # batch systems end all processes of a job with this signal, runners no later than their worker
    return how, Interruption.STOPPED if how.endswith("SIGTERM") else None


def refused(bundle: Bundle, code: str, message: str, cancelled: Collection[str] = ()) -> list[Outcome]:
    """Return outcomes of a bundle of which no call can run: FAILED, or SKIPPED if cancelled."""
    return [
        (
            Outcome(c.task_id, c.attempt, Status.SKIPPED)
            if c.task_id in cancelled
            else Outcome(c.task_id, c.attempt, Status.FAILED, code=code, message=message)
        )
        for c in bundle.calls
    ]
