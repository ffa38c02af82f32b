"""The site's rules: refused calls are told of one by one, and nothing of them is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis

from endpoint_worker.config.policy import Rules
from endpoint_worker.intake.receive import FunctionCache, Intake, Unavailable
from tests.unit.endpoint_worker.bench import ENDPOINT, make_bundle
from tests.unit.endpoint_worker.intake.test_receive import SERVICE, double, message, place
from umbel.protocol import names
from umbel.protocol.envelope import Verifier
from umbel.protocol.messages import Status

OTHER = "ff" * 32


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    with fakeredis.FakeRedis() as client:
        yield client


def intake(broker: Any, folder: Path, **rules: Any) -> Intake:
    cache = FunctionCache(folder / "functions")
    return Intake(ENDPOINT, Verifier(SERVICE.public_key), cache, broker, rules=Rules(**rules))


def test_without_rules_everything_may_run() -> None:
    bundle, _ = make_bundle(double, [(1,)])
    assert Rules().judge(bundle) == (bundle, [])


@pytest.mark.parametrize("by", ["id", "sha256"])
def test_a_function_is_allowed_by_its_id_or_its_digest(by: str) -> None:
    bundle, _ = make_bundle(double, [(1,)])
    rules = Rules(allowed_functions=[OTHER, getattr(bundle.function, by).upper()])
    assert rules.judge(bundle) == (bundle, [])


@pytest.mark.parametrize(
    ("rules", "name", "about"),
    [
        ({"allowed_functions": [OTHER]}, "allowed_functions", "'double'"),
        ({"allowed_functions": []}, "allowed_functions", "'double'"),
        ({"allowed_users": ["bob", "ADA"]}, "allowed_users", "'ada'"),
        ({"allowed_users": []}, "allowed_users", "'ada'"),
        ({"largest_payload": 1}, "largest_payload", "limit: 1)"),
        ({"sandbox": True}, "sandbox", "'kind' in [sandbox]"),
    ],
)
def test_a_refusal_names_the_rule_and_touches_nothing(
    broker: redis.Redis, tmp_path: Path, rules: dict[str, Any], name: str, about: str
) -> None:
    bundle, function = make_bundle(double, [(1,), (2,)])
    place(broker, bundle, function)
    broker.set(names.body_key(ENDPOINT, bundle.id), bundle.body)
    opened = intake(broker, tmp_path, **rules).open(message(bundle, inline=False))
    assert (opened.bundle.calls, opened.function) == ([], b"")
    assert [o.task_id for o in opened.refused] == [c.task_id for c in bundle.calls]
    for outcome in opened.refused:
        assert (outcome.status, outcome.code) == (Status.FAILED, "NOT_ALLOWED")
        assert f"rule {name} " in (outcome.message or "")
        assert about in (outcome.message or "")
    assert not list((tmp_path / "functions").iterdir()), "its function was not fetched"
    assert broker.get(names.body_key(ENDPOINT, bundle.id)) is None, "nobody else would remove it"


def test_only_calls_that_are_too_large_are_refused(broker: redis.Redis, tmp_path: Path) -> None:
    bundle, function = make_bundle(double, [("x",), ("y" * 500,), ("z",)])
    place(broker, bundle, function)
    largest = bundle.calls[0].size
    opened = intake(broker, tmp_path, largest_payload=largest).open(message(bundle))
    assert list(opened.bundle.calls) == [bundle.calls[0], bundle.calls[2]]
    assert opened.bundle.body == bundle.body
    assert opened.function == function
    assert [o.task_id for o in opened.refused] == [bundle.calls[1].task_id]
    assert intake(broker, tmp_path, largest_payload=bundle.calls[1].size).open(message(bundle)).refused == []


def test_what_cannot_run_now_goes_back_without_the_refused_calls(broker: redis.Redis, tmp_path: Path) -> None:
    bundle, _ = make_bundle(double, [("x",), ("y" * 500,)])
    with pytest.raises(Unavailable, match="FUNCTION_MISSING") as missing:
        intake(broker, tmp_path, largest_payload=100).open(message(bundle))
    ends = [(o.task_id, o.code or o.status) for o in missing.value.outcomes]
    assert ends == [(bundle.calls[0].task_id, "returned"), (bundle.calls[1].task_id, "NOT_ALLOWED")]


def test_another_function_under_an_allowed_digest_does_not_come_through(
    broker: redis.Redis, tmp_path: Path
) -> None:
    bundle, _ = make_bundle(double, [(1,)])
    wanted = bundle.function.sha256
    _, evil = make_bundle(len, [(1,)])
    claimed = replace(bundle, function=replace(bundle.function, sha256=wanted))
    place(broker, claimed, evil)
    with pytest.raises(Unavailable, match="FUNCTION_MISSING"):
        intake(broker, tmp_path, allowed_functions=[wanted]).open(message(claimed))


def test_an_entry_that_can_never_match_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="'allowed_functions'.*'double'"):
        Rules(allowed_functions=["double"])
