"""schemathesis against the API with an endpoint that is played: quick enough for every day."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from federation.broker.client import BrokerError
from federation.ledger.submit import Submission, submit
from federation.registry import functions
from tests.contract.test_api_serve import Server
from tests.support.fuzz import fuzz
from tests.support.played import PlayedEndpoint

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def server(tmp_path: Path, broker_url: str) -> Iterator[Server]:
    server = Server(tmp_path / "home", broker_url)
    yield server
    server.stop()


@pytest.fixture
def local(server: Server) -> Iterator[PlayedEndpoint]:
    """The endpoint ``local``, which ends whatever it is sent."""
    played = PlayedEndpoint(server.fed, server.user, "local")
    played.beat()
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            try:
                played.play()
            except redis.AuthenticationError:
                return  # schemathesis has deleted the endpoint
            except BrokerError:
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield played
    stop.set()
    thread.join(10)
    played.close()


@pytest.mark.parametrize(
    ("phases", "with_known"),
    [("examples,coverage", True), ("fuzzing,stateful", False)],
    ids=["known", "made up"],
)
def test_no_request_breaks_the_api(
    server: Server, local: PlayedEndpoint, tmp_path: Path, phases: str, with_known: bool
) -> None:
    function = functions.register(server.fed, server.user, name="f", body=b"f")["id"]
    accepted = submit(server.fed, server.user, Submission(function, "local", [b"1", b"2"]))
    known = {"task_id": accepted["task_ids"][0], "group_id": accepted["group_id"]} if with_known else {}
    token = server.headers["Authorization"].removeprefix("Bearer ")
    # what these accept depends on several values together, which no schema can say
    without = ("add_elastic_endpoint", "change_policy")
    url = f"http://127.0.0.1:{server.port}"
    report = fuzz(url, token, tmp_path / "fuzz", phases=phases, known=known, without=without)
    assert " passed" in report
