"""Every parser of another party's bytes: any input is accepted or rejected with the parser's own error.

A few thousand inputs each in ``make test``; ``make fuzz`` tries a million each. A failure names its input:
add it to ``FOUND``, whose inputs are tried every time.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from federation.broker.celery_message import bundle_id, bundle_message
from federation.provision.connection.shell import CommandResult
from federation.provision.schedulers.base import JOB_NAME, Job, NoAnswer, Scheduler
from federation.provision.schedulers.gridengine import GridEngine
from federation.provision.schedulers.htcondor import HTCondor
from federation.provision.schedulers.lsf import LSF
from federation.provision.schedulers.pbs import PBS
from federation.provision.schedulers.processes import Processes
from federation.provision.schedulers.slurm import Slurm
from federation.registry.pagination import decode_cursor, encode_cursor
from tests.fuzz.mutate import mutations
from umbel.protocol import names, parcel
from umbel.protocol.envelope import MAGIC, SIGNATURE_BYTES, Signer, Verifier
from umbel.protocol.environment import FUNCTION_MAGIC, of_function
from umbel.protocol.errors import BadRequest, ProtocolError
from umbel.protocol.limits import MAX_ATTEMPT
from umbel.protocol.messages import (
    SERVICE,
    Bundle,
    Call,
    FunctionRef,
    OpenReport,
    Outcome,
    Report,
    RunOptions,
    Status,
)
from umbel.protocol.node_state import Beat, NodeState
from umbel.protocol.pointer import read_pointer, write_pointer
from umbel.protocol.records import Items, Log, Place
from umbel.protocol.run_options import limits_of_function

#: Read once, because the test guards remove UMBEL_ variables.
COUNT = int(os.environ.get("FUZZ_INPUTS", "3000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
#: Inputs that once failed, by parser.
FOUND: dict[str, list[bytes]] = {}

SIGNER = Signer(bytes(range(32)))
VERIFIER = Verifier(SIGNER.public_key)
ENDPOINT, TASK, BUNDLE = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(3))


class _AnyKey:
    """Accepts any signature, so that what is behind it is reached."""

    def verify(self, signature: bytes, data: bytes) -> None:
        pass


LENIENT = Verifier(SIGNER.public_key)
LENIENT._key = _AnyKey()  # type: ignore[assignment]


def _reports() -> list[bytes]:
    outcomes = [
        Outcome(
            TASK, 1, Status.SUCCEEDED, 1.0, 0.5, usage={"cpu": 1.5}, payload=b"abc", place=Place("h", 1, 0)
        ),
        Outcome(TASK, 2, Status.FAILED, 1.0, 0.5, "TASK_ERROR", "no", None, b"{}", Log(b"out", b"", 3)),
        Outcome(TASK, 3, Status.RUNNING, 1.0, 0.5, items=Items(0, [b"1", b"22"], None)),
    ]
    return [
        report.seal(SIGNER, 1.0, BUNDLE)
        for report in (
            Report(ENDPOINT, "n1", BUNDLE, {BUNDLE: outcomes}),
            Report(ENDPOINT, "n1", BUNDLE, goodbye=True),
        )
    ]


def _bundle() -> bytes:
    calls = [Call(TASK, 1, 0, 3), Call(BUNDLE, 1, 3, 0)]
    function = FunctionRef(TASK, "dock", "ab" * 32, 10)
    return Bundle(BUNDLE, ENDPOINT, function, calls, RunOptions(timeout=3.0), "ada", b"abc").seal(
        SIGNER, 1.0
    )[0]


def _framed(frame: bytes) -> bytes:
    """Correct the length of the header, so that changes of it do not end at the frame."""
    end = frame.rfind(b"}", 0, len(frame) - SIGNATURE_BYTES)
    return MAGIC + max(0, end - 7).to_bytes(4, "big") + frame[8:]


def _report(data: bytes) -> None:
    for frame in (data, _framed(data)):
        try:
            _storable(Report.open(LENIENT, frame, endpoint=ENDPOINT))
        except ProtocolError:
            continue


def _storable(report: OpenReport) -> None:
    """Fail unless any database can store the fields."""
    texts = [report.id, report.endpoint, report.node, report.instance]
    numbers: list[float] = [report.issued]
    for row in report.rows:
        texts += [row.bundle_id, row.task_id, row.status, row.code or "", row.message or ""]
        numbers += [row.started, row.wall, row.size, row.offset]
        assert 0 <= row.attempt <= MAX_ATTEMPT and row.offset + row.size <= len(report.body)
        json.dumps(row.usage, allow_nan=False)
    for bundle, place in report.places.items():
        texts += [bundle, place.host]
        numbers += [place.pid, place.slot]
    numbers += [each.log.total for each in report.logs] + [each.items.first for each in report.items]
    _plain(texts, numbers)


def _plain(texts: Sequence[str], numbers: Sequence[float]) -> None:
    assert all(math.isfinite(number) and 0 <= number < 2**62 for number in numbers)
    assert all("\0" not in text and text.encode() is not None for text in texts)


def _node_states() -> list[bytes]:
    facts = {
        "python": "3.12",
        "packages": {"numpy": "2.0"},
        "gpus": ["A100"],
        "problem": "none",
        "memory": 2**40,
    }
    return [NodeState(ENDPOINT, "n1", BUNDLE, 7, 3, 4, each).seal(SIGNER, 1.0) for each in (facts, {})]


def _node_state(data: bytes) -> None:
    for frame in (data, _framed(data)):
        try:
            state = NodeState.open(LENIENT, frame, endpoint=ENDPOINT, instance=BUNDLE)
        except ProtocolError:
            continue
        _plain([state.node], [state.incarnation, state.version, state.slots])
        assert "\\u0000" not in json.dumps(state.facts, allow_nan=False)


def _beat(data: bytes) -> None:
    beat = Beat.read(data)
    _plain([], [*beat[:4], abs(beat.load), abs(beat.clock_ahead)])
    assert Beat.read(beat.write())[:4] == beat[:4]


def _open_bundle(data: bytes) -> None:
    for frame in (data, _framed(data)):
        try:
            bundle, _ = Bundle.open_head(LENIENT, frame, endpoint=ENDPOINT, now=1.0)
        except ProtocolError:
            continue
        assert all(type(call.size) is int and call.size >= 0 for call in bundle.calls)


def _function(body: bytes) -> None:
    for read in (of_function, limits_of_function):
        try:
            read(body)
        except ValueError:
            continue


def _results(data: bytes) -> None:
    try:
        parcel.unpack_results(data)
    finally:
        head, joined = parcel.split(data)
        try:
            sizes = json.loads(head)["sizes"]
        except (ValueError, KeyError, TypeError, RecursionError):
            sizes = None
        assert sum(map(len, parcel.cut(sizes, joined))) == len(joined)


def _functions() -> list[bytes]:
    head = json.dumps(
        {"environment": {"requirements": ["numpy==2.*"], "python": "3.12"}, "limits": {"timeout": 3.0}}
    ).encode()
    return [FUNCTION_MAGIC + len(head).to_bytes(4, "big") + head + b"body"]


class _Answer:
    """A shell on which every command succeeds: ``command`` prints ``out``, and each other one ``nothing``."""

    def __init__(self, command: str, out: str, nothing: str):
        self._command, self._out, self._nothing = command, out, nothing

    def run(self, words: Sequence[str], **_: Any) -> CommandResult:
        return CommandResult(0, self._out if self._command in words else self._nothing, "")


class Printed(NamedTuple):
    """What a command of a batch system prints about a job; ``nothing``: what others print without one."""

    scheduler: Scheduler
    command: str
    text: str
    nothing: str = ""

    def jobs(self, data: bytes) -> list[Job]:
        shell: Any = _Answer(self.command, data.decode("utf-8", "replace"), self.nothing)
        found = self.scheduler.jobs(shell, ["812"])
        for job in found:
            assert JOB_NAME.match(job.name) and len(job.hosts) <= 10_000
            assert job.ran is None or 0 <= job.ran < float("inf")
        return found


PRINTED = {
    "squeue": Printed(
        Slurm(), "squeue", "812|RUNNING|1-02:03:04|cn[1-3,07],gpu1|umbel-0a1b2c3d-00000001|(None)\n"
    ),
    "sacct": Printed(Slurm(), "sacct", "812|COMPLETED|cn1|61|umbel-0a1b2c3d-00000001\n"),
    "qstat of GridEngine": Printed(
        GridEngine(),
        "qstat",
        "<?xml version='1.0'?><job_info><queue_info><job_list><JB_job_number>812</JB_job_number>"
        "<JB_name>umbel-0a1b2c3d-00000001</JB_name>"
        "<state>r</state><queue_name>all.q@cn1</queue_name></job_list>"
        "</queue_info></job_info>",
    ),
    "qacct": Printed(
        GridEngine(),
        "qacct",
        "jobname      umbel-0a1b2c3d-00000001\nfailed       100 : h_rt\nexit_status  137\n"
        "ru_wallclock 12.5s\nhostname cn1\n",
        "<job_info/>",
    ),
    "condor_q": Printed(
        HTCondor(), "condor_q", "812\t2\tumbel-0a1b2c3d-00000001\t0\tfalse\tslot1@cn1\tundefined\n"
    ),
    "condor_history": Printed(
        HTCondor(), "condor_history", "812\t4\tumbel-0a1b2c3d-00000001\t0\tfalse\tslot1@cn1\tundefined\n"
    ),
    "bjobs": Printed(LSF(), "bjobs", "812|RUN|4*cn1:4*cn2|umbel-0a1b2c3d-00000001|-\n"),
    "qstat of PBS": Printed(
        PBS(),
        "sh",
        "Job Id: 812.server\n    Job_Name = umbel-0a1b2c3d-00000001\n    job_state = F\n"
        "    Exit_status = 271\n    exec_host = cn1/0*4+cn2/0\n"
        "    resources_used.walltime = 00:01:02\n    comment = a\n\tb\n",
    ),
    "list of processes": Printed(
        Processes("work"),
        "sh",
        "umbel-0a1b2c3d-00000001 12 running 0\numbel-0a1b2c3d-00000001 13 ended 143\n",
    ),
}


class Parser(NamedTuple):
    """``parse`` may raise ``error`` and nothing else."""

    seeds: list[bytes]
    parse: Callable[[bytes], Any]
    error: type[Exception] | tuple[()]


_ROW = {"task_id": TASK, "state": "succeeded", "completion": 1, "result": b"abc", "exception": None}
PARSERS = {
    "envelope": Parser(
        _reports(), lambda d: VERIFIER.open(d, typ="report", aud=SERVICE, now=1.0), ProtocolError
    ),
    "report": Parser(_reports(), _report, ()),
    "bundle": Parser([_bundle()], _open_bundle, ()),
    "description of a node": Parser(_node_states(), _node_state, ()),
    "beat of a node": Parser(
        [Beat(1, 2, 3, 4, 0.5, -0.25).write(), Beat(10**14, 10**14, 0, 0, 1e12, -1e12).write()],
        _beat,
        ProtocolError,
    ),
    "pointer": Parser([write_pointer(TASK, 300_000)], read_pointer, ProtocolError),
    "queue content": Parser([bundle_message(ENDPOINT, BUNDLE, "aGVhZA==", None, "dock", 2)], bundle_id, ()),
    "cursor": Parser([encode_cursor(255).encode()], lambda d: decode_cursor(d.decode("latin-1")), BadRequest),
    "parcel": Parser(
        [b"".join(parcel.result_pieces({"results": [_ROW], "next": 1}))], _results, ProtocolError
    ),
    "function header": Parser(_functions(), _function, ()),
    **{name: Parser([each.text.encode()], each.jobs, NoAnswer) for name, each in PRINTED.items()},
}


@pytest.mark.parametrize("name", PARSERS)
def test_any_input_is_accepted_or_rejected(name: str) -> None:
    parser = PARSERS[name]
    inputs = [b"", b"\x00", *parser.seeds, *FOUND.get(name, ())]
    for number, data in enumerate(inputs):
        _try(parser, data, number)
    for number, data in enumerate(mutations(parser.seeds, COUNT, SEED)):
        _try(parser, data, number)


def _try(parser: Parser, data: bytes, number: int) -> None:
    try:
        parser.parse(data)
    except parser.error:
        return
    except Exception as error:
        raise AssertionError(f"input {number}: {error!r} for {data[:2000]!r}") from error


def test_seeds_are_accepted() -> None:
    """Otherwise the mutations would never get past the first check."""
    for data in _reports():
        assert Report.open(VERIFIER, data, endpoint=ENDPOINT) and Report.open(LENIENT, _framed(data))
    for data in _node_states():
        assert NodeState.open(VERIFIER, data, endpoint=ENDPOINT, instance=BUNDLE)
        assert NodeState.open(LENIENT, _framed(data), endpoint=ENDPOINT, instance=BUNDLE)
    assert Bundle.open_head(VERIFIER, _bundle(), endpoint=ENDPOINT, now=1.0)
    for printed in PRINTED.values():
        assert printed.jobs(printed.text.encode())
    assert bundle_id(PARSERS["queue content"].seeds[0]) == BUNDLE
    assert of_function(_functions()[0]) is not None and limits_of_function(_functions()[0]) is not None
    assert names.is_id(TASK)
