"""A bundle on its way through the worker."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from umbel.protocol.messages import Bundle, Interruption, Outcome, Status

from .process import RunnerOptions

#: Takes outcomes of one bundle, by its id; called from any thread.
Sink = Callable[[str, list[Outcome]], None]
#: Hears that a slot took a bundle: the bundle's id ("" if nothing of it runs) and the runner's process id.
Accepted = Callable[[str, int], None]

#: What is said of calls that had to be stopped, by the code of their ``Interruption``.
_STOPPED = {
    Interruption.STOPPED: "its worker was stopped",
    Interruption.WALLTIME: "the batch job of its worker came to its end",
}


def ignore(*_: object) -> None:
    """Nobody wants to know."""


@dataclass
class Job:
    """A checked bundle with its function's bytes, and whom to tell.

    ``on_accept`` is called when a slot takes the bundle, ``on_done`` when its last call has an outcome.
    ``on_broken`` hears why a runner of its ``options`` could not start.
    ``arrived``: monotonic clock, set by the supervisor. ``options``: how its runner is started, where that
    is not the supervisor's own way.
    """

    bundle: Bundle
    function: bytes
    on_accept: Accepted = ignore
    on_done: Callable[[], None] = ignore
    on_broken: Callable[[str], None] = ignore
    arrived: float = 0.0
    options: RunnerOptions | None = None
    #: ids of calls that were cancelled while the bundle waited
    cancelled: set[str] = field(default_factory=set)
    #: its calls were given back while it waited: only its place in Celery's window is left
    given_back: bool = False

    @property
    def cores(self) -> int:
        """Slots that it occupies."""
        return self.bundle.options.cores or 1


def unstarted(
    bundle: Bundle, message: str | None = None, cancelled: frozenset[str] | set[str] = frozenset()
) -> list[Outcome]:
    """Outcomes of a bundle of which no call has started: RETURNED, or SKIPPED where cancelled."""
    return [
        Outcome(
            c.task_id,
            c.attempt,
            Status.SKIPPED if c.task_id in cancelled else Status.RETURNED,
            message=message,
        )
        for c in bundle.calls
    ]


def describe_end(how: str, why: str | None) -> tuple[str, str | None]:
    """The sentence and the code for a call whose runner has ended.

    ``how``: a sentence; ``why``: code of the ``Interruption`` for which it was stopped, if it was.
    """
    if why is not None:
        return _STOPPED[why], why
    # with this signal batch systems tell all processes of a job to end, runners no later than their worker
    return how, Interruption.STOPPED if how.endswith("SIGTERM") else None


def refused(bundle: Bundle, code: str, message: str, cancelled: Collection[str] = ()) -> list[Outcome]:
    """Outcomes of a bundle of which no call can run: FAILED, or SKIPPED where cancelled."""
    return [
        (
            Outcome(c.task_id, c.attempt, Status.SKIPPED)
            if c.task_id in cancelled
            else Outcome(c.task_id, c.attempt, Status.FAILED, code=code, message=message)
        )
        for c in bundle.calls
    ]
