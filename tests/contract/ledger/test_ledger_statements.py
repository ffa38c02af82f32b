"""The hot path costs no statement and no message per call."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import text

from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger
from tests.support.statements import counted

FEW, MANY = 2_000, 10_000


@dataclass
class Cost:
    """The cost of a journey."""

    statements: int
    bundles: int
    reports: int
    answers: int


def _more(few: Counter[str], many: Counter[str]) -> dict[str, int]:
    """Statements that ran more often for many calls."""
    return {statement[:200]: many[statement] - few[statement] for statement in many - few}


def test_a_submission_costs_the_same_whatever_its_size(ledger: Ledger) -> None:
    costs = []
    for name, count in (("warm", FEW), ("few", FEW), ("many", MANY)):
        lab = ledger.endpoint(name)
        with counted(ledger.fed.database) as statements:
            ledger.submit(lab, [b"%05d" % number for number in range(count)])
        assert len(ledger.broker.queues[lab.id]) == 3
        costs.append(statements)
    assert not _more(costs[1], costs[2])
    assert 5 < costs[2].total() < 40


def _run(ledger: Ledger, name: str, count: int) -> tuple[Counter[str], str]:
    """Run short calls, all in one report; return the cost of applying it, and the group's id."""
    node = ledger.endpoint(name).node(slots=4)
    ledger.collect()
    ledger.submit(node.endpoint, 1)
    node.take()
    node.finish(wall=1e-6)
    ledger.collect()
    answer = ledger.submit(node.endpoint, count)
    node.take()
    assert node.finish(wall=1e-6) == count
    with counted(ledger.fed.database) as statements:
        assert ledger.collect() == {"ended": count, "dropped": 0}
    return statements, str(answer["group_id"])


def test_a_report_costs_the_same_whatever_its_size(ledger: Ledger) -> None:
    _run(ledger, "warm", 10)
    few, _ = _run(ledger, "few", 800)
    many, _ = _run(ledger, "many", 8_000)
    assert not _more(few, many)
    assert 5 < many.total() < 40


def test_reading_results_costs_the_same_whatever_their_number(ledger: Ledger) -> None:
    costs = []
    for name, count in (("warm", 10), ("few", 800), ("many", 8_000)):
        _, group_id = _run(ledger, name, count)
        with counted(ledger.fed.database) as statements:
            assert len(ledger.results(group_id)["results"]) == count
        costs.append(statements)
    assert not _more(costs[1], costs[2])
    assert 0 < costs[2].total() < 10


def _journey(ledger: Ledger, lab: FakeEndpoint, count: int) -> Cost:
    """Submit, run everything in the queue repeatedly, and read the results as the SDK does."""
    node = lab.node(slots=2)
    ledger.collect()
    sent = ledger.broker.sends
    reports = answers = cursor = read = 0
    with counted(ledger.fed.database) as statements:
        answer = ledger.submit(lab, [b"%05d" % number for number in range(count)])
        while node.take():
            node.finish(wall=1e-6)
            reports += 1
            ledger.collect()
        while found := ledger.results(answer["group_id"], cursor, limit=1000)["results"]:
            cursor = found[-1]["completion"]
            read += len(found)
            answers += 1
    assert read == count
    return Cost(statements.total(), ledger.broker.sends - sent, reports, answers)


def test_a_map_costs_statements_and_messages_by_the_bundle(ledger: Ledger) -> None:
    """Bundles, reports and responses grow slowly with the calls, and statements only with those."""
    _journey(ledger, ledger.endpoint("warm"), 10)
    few = _journey(ledger, ledger.endpoint("few"), FEW)
    many = _journey(ledger, ledger.endpoint("many"), MANY)
    assert many.bundles <= MANY / 400 and many.reports <= 10 and many.answers == MANY / 1000
    more = (many.bundles - few.bundles) + (many.reports - few.reports) + (many.answers - few.answers)
    assert many.statements - few.statements <= 20 * more
    assert many.statements < MANY / 40


def test_finished_tasks_cost_nothing(ledger: Ledger) -> None:
    _journey(ledger, ledger.endpoint("warm"), FEW)
    before = _journey(ledger, ledger.endpoint("before"), FEW)
    for number in range(2):
        _journey(ledger, ledger.endpoint(f"old{number}"), FEW)
    assert _journey(ledger, ledger.endpoint("after"), FEW) == before


def test_the_counter_counts(ledger: Ledger) -> None:
    with counted(ledger.fed.database) as statements, ledger.fed.database.read() as connection:
        for number in range(3):
            connection.execute(text("SELECT :number"), [{"number": number}])
    assert statements.total() == 3
    with counted(ledger.fed.database) as statements:
        ledger.submit(ledger.endpoint("a"), 1)
        ledger.submit(ledger.endpoint("b"), 1)
    assert max(statements.values()) >= 2


def test_a_lone_call_costs_few_statements(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    _journey(ledger, lab, 1)
    with counted(ledger.fed.database) as statements:
        ledger.submit(lab, 1)
        node.take()
        node.finish()
        ledger.collect()
    assert statements.total() <= 40, statements
