"""A broker that keeps its data and loses its accounts, or that accepts no commands that write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from federation.registry import broker_accounts, endpoints
from federation.services.health import health
from tests.support.endpoint import FakeEndpoint, FakeNode
from tests.support.ledger import Ledger
from umbel.protocol import names


def _accounts(ledger: Ledger) -> set[str]:
    return {user.decode() for user in ledger.broker.redis.execute_command("ACL", "USERS")}


def test_accounts_return_if_the_broker_kept_its_data(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Redis saves its data, but no account that was created by a command."""
    account = names.broker_user(lab.id)
    assert account in _accounts(ledger)
    ledger.broker.redis.execute_command("ACL", "DELUSER", account, broker_accounts.SENTINEL)
    ledger.sweep()
    assert account in _accounts(ledger)


def test_accounts_return_after_a_restart_of_the_broker(ledger: Ledger, lab: FakeEndpoint) -> None:
    """An administrator may have saved some of the accounts, with the sentinel among them."""
    account = names.broker_user(lab.id)
    ledger.broker.redis.execute_command("ACL", "DELUSER", account)
    ledger.sweep()
    assert account not in _accounts(ledger)
    ledger.broker.redis.set(broker_accounts.RUN_KEY, "another process")
    ledger.sweep()
    assert account in _accounts(ledger)


def test_the_account_of_an_endpoint_that_was_deleted_meanwhile_is_removed(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    ledger.broker.down = True
    endpoints.delete(ledger.fed, ledger.me, lab.id)
    ledger.broker.down = False
    assert names.broker_user(lab.id) in _accounts(ledger)
    ledger.broker.redis.set(broker_accounts.RUN_KEY, "another process")
    ledger.sweep()
    assert names.broker_user(lab.id) not in _accounts(ledger)


@pytest.fixture(params=["full", "read-only"])
def refusing(request: pytest.FixtureRequest, ledger: Ledger, node: FakeNode) -> Iterator[str]:
    """The broker refuses to write until the fixture ends, or ``_accept``."""
    redis = ledger.broker.redis
    if request.param == "full":
        redis.config_set("maxmemory", "1")
    else:
        redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield request.param
    _accept(ledger)


def _accept(ledger: Ledger) -> None:
    ledger.broker.redis.config_set("maxmemory", "0")
    ledger.broker.redis.execute_command("REPLICAOF", "NO", "ONE")


def test_the_service_goes_on_while_the_broker_accepts_nothing(
    ledger: Ledger, node: FakeNode, refusing: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert health(ledger.fed)["broker"] == refusing and health(ledger.fed)["status"] == "degraded"
    answer = ledger.submit(node.endpoint, 2)
    ledger.sweeper.sweep()
    assert ledger.state(answer) == "dispatched"
    assert "unexpected error" not in caplog.text
    _accept(ledger)
    assert health(ledger.fed)["broker"] == "ok"
    for _ in range(4):
        node.take()
        node.finish()
        node.beat()
        ledger.collect()
        ledger.sweep(after=15)
    assert ledger.state(answer) == "succeeded"
