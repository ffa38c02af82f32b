"""An endpoint that fills the broker is suspended for a while; others are not."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from federation.config.settings import Settings
from federation.context import Federation, open_federation
from federation.registry import endpoints, users
from federation.services import broker_quota
from federation.services.broker_quota import BrokerQuota, suspended
from tests.support.broker import running_broker
from umbel.protocol import names
from umbel.protocol.envelope import Signer, new_private_key


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    with running_broker(tmp_path) as url:
        fed = open_federation(Settings(home=tmp_path, broker_url=url, broker_quota=1_000_000))
        yield fed
        fed.close()


def _endpoint(fed: Federation, name: str) -> tuple[str, redis.Redis]:
    ada = users.ensure_user(fed, "ada")
    made = endpoints.register(fed, ada, name=name, public_key=Signer(new_private_key()).public_key)
    return made["id"], redis.Redis.from_url(made["credentials"]["broker_url"])


def test_the_one_beyond_its_quota_is_suspended_and_comes_back(
    fed: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy, its_client = _endpoint(fed, "greedy")
    modest, other_client = _endpoint(fed, "modest")
    other_client.lpush(names.reports_key(modest), "x")
    for number in range(30):
        its_client.set(f"{names.prefix(greedy)}k{number}", "x" * 100_000)
    quota = BrokerQuota(fed)
    quota.limit_endpoints()
    assert list(suspended(fed)) == [greedy] and suspended(fed)[greedy]["bytes"] > 3_000_000
    with pytest.raises(redis.RedisError):
        its_client.lpush(names.reports_key(greedy), "x")
    assert not fed.broker.redis.keys(names.prefix(greedy) + "*")
    assert "suspended" in fed.broker.dead_letters.latest(greedy)[0]["reason"]
    assert other_client.llen(names.reports_key(modest)) == 1
    ada = users.ensure_user(fed, "ada")
    told = endpoints.get(fed, ada, "greedy")["suspended"]
    assert told["until"] == told["since"] + broker_quota.SUSPENDED_SECONDS and "1000000" in told["reason"]
    assert endpoints.get(fed, ada, "modest")["suspended"] is None
    quota.limit_endpoints()
    assert list(suspended(fed)) == [greedy], "not yet"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + broker_quota.SUSPENDED_SECONDS + 1)
    quota.limit_endpoints()
    assert suspended(fed) == {}
    later = dataclasses.replace(fed, clock=lambda: told["until"] + 1)
    assert endpoints.get(later, ada, "greedy")["suspended"] is None
    assert its_client.lpush(names.reports_key(greedy), "x") == 1
    its_client.close()
    other_client.close()


def test_many_keys_take_several_sweeps(fed: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_quota, "KEYS_PER_SWEEP", 1000)
    greedy, its_client = _endpoint(fed, "greedy")
    fed.broker.redis.mset({f"{names.prefix(greedy)}k{number}": "x" * 300 for number in range(5000)})
    its_client.close()
    quota = BrokerQuota(fed)
    quota.limit_endpoints()
    assert suspended(fed) == {}
    for _ in range(20):
        quota.limit_endpoints()
    assert list(suspended(fed)) == [greedy]
