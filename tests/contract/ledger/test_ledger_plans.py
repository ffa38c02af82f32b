"""No statement scans a big table or visits far more rows than it returns, however full the ledger is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from federation import dispatch
from federation.db import shared
from federation.db.engine import Database
from federation.db.tables import tasks
from federation.flower.controls import EndpointLookup
from federation.ledger import cancel, epochs, logs, own, query, results, samples, streams, task_list, totals
from federation.ledger.pruning import Pruner
from federation.ledger.submit import Submission, submit
from federation.provision import cleanup
from federation.provision.planning import demand
from federation.provision.planning.policy import Policy
from federation.provision.records import blocks, changes, sites
from federation.registry import broker_accounts, call_tokens, codes, endpoints, functions, users
from federation.services import health, rollback
from federation.services.lost_bundles import begin_all_epochs, begin_epoch
from federation.standalone import start
from tests.support.big_ledger import fill
from tests.support.clock import movable_clock
from tests.support.endpoint import FakeEndpoint, outcome
from tests.support.ledger import Ledger, open_watched
from tests.support.places import sites_of_statements, statements
from tests.support.plans import Execution, Recorder, recorded
from umbel.protocol import grant, names
from umbel.protocol.errors import NotFound
from umbel.protocol.messages import Status
from umbel.protocol.records import Items, Log

DAY = 86400.0
#: Statements may visit so much, and so much more for each row that they return, change or are given.
SQLITE_STEPS, SQLITE_STEPS_PER_ROW = 2_000, 400
POSTGRESQL_ROWS, POSTGRESQL_ROWS_PER_ROW = 15_000, 20
#: Steps or rows for each row of a statement that returns or changes most of what it visits.
MOST_OF_A_TABLE = 60
#: Tables with many rows; all others have few.
BIG = {"tasks", "bundles", "nodes", "submissions", "groups", "blobs", "loads", "functions", "endpoints"}
_NODES = "reads the nodes of one endpoint, at most MAX_NODES"
_PACED = "at a limited share of the time"
HUGE = {"tasks", "bundles", "nodes"}
#: Statements that may visit more: place, part of the SQL, and why.
ALLOWED = [
    ("dispatch/refill.py:_situation", "sum(nodes.slots)", f"{_NODES}, in an index"),
    (
        "dispatch/catch_up.py:endpoints_to_refill",
        "",
        "adds up loads, and slots of endpoints with queued calls",
    ),
    ("flower/controls.py:_only", "endpoints.name", "a button of an administrator"),
    ("ledger/cancel.py:_live_slots", "sum(nodes.slots)", f"{_NODES}, in an index"),
    ("ledger/cancel.py:fail_oversized", "tasks.cores > 1", "an index of queued calls of several slots only"),
    ("ledger/epochs.py:activity", "sum(loads.live)", "adds up loads; few are 0"),
    ("ledger/node_rows.py:_make_room", "count(*)", f"{_NODES}, for each new node"),
    (
        "ledger/submit.py:_check_fits",
        "max(nodes.slots)",
        f"{_NODES}, in an index, for calls of several slots",
    ),
    ("ledger/task_list.py:_filters", "endpoints.name", "reads the endpoints of one user"),
    ("ledger/task_list.py:tasks_page", "= 'dispatched'", "reads the sent calls of one user"),
    ("ledger/task_list.py:tasks_page", "= 'running'", "reads past the newest queued calls of one user"),
    ("ledger/task_list.py:tasks_page", "= 'succeeded'", "reads past the unfinished calls of one user"),
    ("ledger/task_list.py:tasks_page", "functions.id AS", "PostgreSQL joins tables of some thousand rows"),
    ("ledger/pruning.py:_delete_functions", "DELETE FROM functions", f"checks open bundles, {_PACED}"),
    ("ledger/totals.py:differences", "", f"counts the rows of one endpoint, {_PACED}"),
    ("ledger/totals.py:delete_idle", "count(*)", "counts loads; few are 0"),
    ("provision/planning/demand.py:_queued", "LIMIT", "reads at most SAMPLE tasks"),
    ("provision/planning/demand.py:_sent", "LIMIT", "reads at most SAMPLE tasks"),
    ("provision/planning/demand.py:endpoints_without_blocks", "", "reads the elastic endpoints"),
    ("provision/records/changes.py:states", "", "reads the elastic endpoints with their nodes and blocks"),
    ("provision/records/blocks.py:", "FROM nodes", _NODES),
    ("registry/endpoint_status.py:_nodes", "FROM nodes", _NODES),
    ("registry/endpoint_status.py:_totals", "FROM nodes", _NODES),
    ("services/future_times.py:", "", f"scans bundles and nodes, {_PACED}"),
    ("ledger/node_rows.py:live_instances", "FROM nodes", _NODES),
    ("ledger/node_rows.py:last_loss", "FROM nodes", _NODES),
    ("services/sweeper.py:_live_nodes", "FROM nodes", "reads the live nodes, every few seconds"),
    ("services/sweeper.py:watch_nodes", "FROM endpoints", "reads the endpoints, every few seconds"),
    ("services/lost_bundles.py:check", "FROM endpoints", "reads the endpoints with unfinished tasks"),
    ("services/lost_bundles.py:_open_bundles", "FROM bundles", f"reads those of one endpoint, {_PACED}"),
    ("services/lost_bundles.py:begin_all_epochs", "endpoints", "changes all endpoints"),
]
#: Places that execute nothing on SQLite: it has one writer at a time.
POSTGRESQL_ONLY = {
    "federation/db/arrivals.py:by_endpoint",
    *(f"federation.db.arrivals:{name}" for name in ("_add", "_take", "_waiting")),
    *(f"federation.db.shared:{name}" for name in ("_lock", "_free", "_delete")),
}
#: Places that this journey does not reach, and why.
UNVISITED = {
    "federation/db/engine.py:_schema_change": "changes the schema",
    "federation/db/engine.py:_version": "changes the schema",
    "federation/db/shared.py:try_advisory_lock": "PostgreSQL only",
    "federation/db/shared.py:lock_limit": "needs a limit of unfinished tasks that is nearly reached",
    "federation/ledger/node_rows.py:_make_room": "needs MAX_NODES nodes of one endpoint",
    "federation/provision/actions.py:_drain": "needs a site",
    "federation/provision/records/blocks.py:delete_old_nodes": "deletes nodes by number",
    "federation/provision/site/bootstrap.py:install_credentials": "needs a site",
    "federation/registry/call_tokens.py:delete_expired": "deletes tokens by number",
    "federation/services/broker_quota.py:_record": "changes one endpoint, by id",
    "federation/services/broker_quota.py:_restore": "reads one endpoint, by id",
}


@pytest.fixture
def big(tmp_path: Path, database_url: str, broker_url: str) -> Iterator[tuple[Ledger, FakeEndpoint]]:
    """A ledger with many rows and its largest endpoint."""
    with movable_clock() as clock:
        fed, broker = open_watched(
            tmp_path, database_url=database_url, broker_url=broker_url, retention=2 * DAY
        )
        try:
            ledger = Ledger(fed, broker, clock)
            lab = ledger.endpoint("lab")
            fill(ledger, lab)
            yield ledger, lab
        finally:
            fed.close()


@pytest.mark.timeout(600)
def test_no_statement_visits_far_more_rows_than_it_returns(
    big: tuple[Ledger, FakeEndpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, lab = big
    monkeypatch.setattr(totals, "IDLE_ROWS", 100)
    for statement in statements().values():
        statement._compiled.clear()
    with recorded(ledger.fed.database) as recorder:
        for step in (_registry, _calls, _lists, _provision, _periodic, _loss):
            step(ledger, lab)
    worst: dict[tuple[str, str], Execution] = {}
    for execution in recorder.executions:
        if execution.site and _is_slow(ledger.fed.database, execution):
            key = execution.site, execution.sql
            if key not in worst or worst[key].visited < execution.visited:
                worst[key] = execution
    found = [each for each in worst.values() if not _is_allowed(each)]
    assert not found, "\n".join(map(_described, found))
    assert not _unvisited(ledger.fed.database, recorder)


def _is_allowed(execution: Execution) -> bool:
    return any(f"/{place}" in execution.site and part in execution.sql for place, part, _ in ALLOWED)


def _is_slow(database: Database, execution: Execution) -> bool:
    # scanning a table is right where most of its rows are returned or changed
    few = execution.visited > MOST_OF_A_TABLE * execution.rows
    if database.sqlite:
        if few and execution.scanned & BIG:
            return True
        return execution.visited > SQLITE_STEPS + SQLITE_STEPS_PER_ROW * execution.rows
    # PostgreSQL knows how many rows there are: it scans tables of some thousand rows
    if few and execution.scanned & HUGE:
        return True
    return execution.visited > POSTGRESQL_ROWS + POSTGRESQL_ROWS_PER_ROW * execution.rows


def _described(execution: Execution) -> str:
    return (
        f"{execution.site} visits {execution.visited} for {execution.rows} rows, scans {execution.scanned}: "
        f"{execution.sql[:300]}\n    {execution.plan[:600]}"
    )


def _unvisited(database: Database, recorder: Recorder) -> list[str]:
    missing = [
        name
        for name, places in sites_of_statements().items()
        if not all(any((module, line) in recorder.lines for line in lines) for module, lines in places)
    ]
    dialect = "sqlite" if database.sqlite else "postgresql"
    missing += [name for name, each in statements().items() if dialect not in each._compiled]
    ignored = {*UNVISITED, *POSTGRESQL_ONLY} if database.sqlite else set(UNVISITED)
    return [name for name in missing if name not in ignored]


def _registry(ledger: Ledger, lab: FakeEndpoint) -> None:
    fed = ledger.fed
    bob = ledger.user("bob")
    users.authenticate(fed, users.create_token(fed, bob, "laptop"))
    code = codes.create(fed, bob, "new")["code"]
    codes.owner(fed, code)
    codes.redeem(fed, bob, code, name="new", public_key=bytes(32))
    with suppress(Exception):
        codes.redeem(fed, bob, codes.create(fed, bob, "new")["code"], name="new", public_key=bytes(32))
    endpoints.update(fed, bob, "new", description="x")
    endpoints.delete(fed, bob, "new")
    endpoints.get(fed, ledger.me, "lab")
    endpoints.get(fed, ledger.me, lab.id)
    endpoints.page(fed, ledger.me)
    function = ledger.function(ledger.me, "short")
    ledger.function(ledger.me, "short")
    functions.get(fed, ledger.me, function)
    functions.page(fed, ledger.me)
    functions.delete(fed, ledger.me, function)
    fed.functions.get(1000)


def _calls(ledger: Ledger, lab: FakeEndpoint) -> None:
    fed, me, quick = ledger.fed, ledger.me, ledger.function(ledger.me, "quick")
    node = lab.node("n1")
    ledger.collect()

    def take(**how: Any) -> Any:
        answer = ledger.submit(lab, how.pop("calls", 1), function_id=quick, priority=9, **how)
        return answer, node.take()

    answer, taken = take(key="once", calls=20, nested=True)
    ledger.submit(lab, 20, function_id=quick, priority=9, key="once", nested=True)
    task = answer["task_ids"][0]
    node.beat()
    ledger.collect()

    def report(bundle: Any, status: str, **how: Any) -> None:
        node.report({bundle.id: [outcome(bundle, call, status, **how) for call in bundle.calls]})
        ledger.collect()

    for bundle in taken:
        report(bundle, Status.RUNNING, log=Log(b"one", b"", 3), items=Items(0, [b"a"], None))
        node.held[bundle.id] = bundle
    users.create_token(fed, me, "laptop")
    caller = taken[0].calls[0].task_id
    token = call_tokens.create(fed, grant.write(lab.signer, lab.id, taken[0].id, time.time()), caller)[
        "token"
    ]
    called = users.authenticate(fed, token)
    with suppress(NotFound):
        own.check_group(fed, called, "group10")
    own.own_tasks(fed, called, [caller])
    task_list.tasks_page(fed, called)
    node.beat(packages={"numpy": "2.0"})
    ledger.collect()
    for bundle in taken:
        report(bundle, Status.SUCCEEDED, log=Log(b"two", b"", 6), items=Items(1, [b"b"], 2))
    _, (bundle, *_) = take(retries=2)
    report(bundle, Status.FAILED)
    report(node.take()[0], Status.RETURNED)
    report(node.take()[0], Status.LOST)
    report(node.take()[0], Status.SUCCEEDED)
    node.goodbye()
    ledger.collect()
    node.restart()
    ledger.collect()
    results.results_after(fed, me, answer["group_id"], 0, 100)
    results.result(fed, me, task)
    logs.group_of(fed, me, task)
    logs.log_from(fed, me, task, 0, None)
    streams.items_after(fed, me, task, 0, None, 100, time.time())
    samples.summary(fed, me, quick)
    functions.delete(fed, me, quick)
    answer = ledger.submit(lab, 5, cores=2)
    cancel.cancel_task(fed, me, answer["task_ids"][0])
    cancel.cancel_tasks(fed, me, answer["task_ids"][1:3], started=False)
    cancel.cancel_group(fed, me, answer["group_id"], started=False)
    cancel.cancel_group(fed, me, answer["group_id"])
    cancel.cancel_task(fed, me, "sent7")
    ledger.submit(lab, 1, group_id=answer["group_id"])
    # another user's queue on the same endpoint
    with fed.database.write() as connection:
        owner = f"SELECT user_no FROM loads WHERE endpoint_no <> {lab.no} LIMIT 1"
        ids = [f"queued{no}" for no in range(100)]
        connection.execute(update(tasks).where(tasks.c.id.in_(ids)).values(user_no=text(f"({owner})")))
        shared.change_loads(connection, totals.differences(connection, lab.no))
    quick = ledger.function(me, "quick")
    ledger.submit(lab, 1, function_id=quick, priority=9)
    if not fed.database.sqlite:
        _arrivals(ledger, lab, quick)


def _arrivals(ledger: Ledger, lab: FakeEndpoint, quick: str) -> None:
    """Accept calls while another transaction has the endpoint's lock."""
    fed, me = ledger.fed, ledger.me
    with fed.database.write() as connection:
        shared.lock_endpoints(connection, [lab.no])
        answer = ledger.submit(lab, 20, function_id=quick, priority=9)
        ledger.submit(lab, 2, function_id=quick, priority=9, group_id=answer["group_id"], key="again")
        results.results_after(fed, me, answer["group_id"], 0, 100)
        endpoints.get(fed, me, "lab")
        task_list.tasks_page(fed, me, state="queued")
        with fed.database.read() as other:
            demand.observe(other, lab.no, time.time())
            assert not totals.differences(other, lab.no)
    dispatch.catch_up(fed, [lab.no])


def _lists(ledger: Ledger, lab: FakeEndpoint) -> None:
    fed, me, now = ledger.fed, ledger.me, time.time()
    unused = ledger.function(me, "unused")
    idle = ledger.endpoint("idle")
    filters: list[dict[str, Any]] = [{}, {"function_id": unused}, {"endpoint_id": idle.id}]
    filters += [{"function_id": "function4"}, {"endpoint_id": "e40"}, {"group_id": "group10"}]
    filters += [{"since": now + DAY}, {"until": now - DAY}, {"since": now - 30_000, "until": now - 29_990}]
    states = ("queued", "dispatched", "running", "succeeded", "failed", "cancelled", "expired")
    filters += [{"state": state} for state in states]
    filters += [{"state": "failed", "function_id": "function4"}, {"state": "failed", "group_id": "group10"}]
    for wanted in filters:
        found, cursor = task_list.tasks_page(fed, me, **wanted)
        if cursor is not None:
            task_list.tasks_page(fed, me, cursor=cursor, **wanted)
    query.task(fed, me, "done10")
    query.group(fed, me, "group10")


def _loss(ledger: Ledger, lab: FakeEndpoint) -> None:
    fed = ledger.fed
    other = ledger.endpoint("other")
    for name in ("n1", "n2"):
        node = other.node(name)
        ledger.collect()
        ledger.submit(other, 1)
        node.take()
    node.held.clear()
    node.sync()
    ledger.broker.deaf = True
    ledger.submit(other, 1)
    ledger.broker.deaf = False
    for _ in range(20):
        ledger.clock.forward(4)
        ledger.sweeper.watch_nodes()
        ledger.sweeper.find_lost_bundles()
        node.beat()
    ledger.broker.redis.delete(names.epoch_key(other.id))
    ledger.sweeper.find_lost_bundles()
    begin_epoch(fed, lab.no, lab.id, 1)
    begin_all_epochs(fed)
    lookup = EndpointLookup(fed.database)
    with suppress(LookupError):
        lookup.of_worker("worker@lab.umbel-0-0.n1")
    with suppress(LookupError):
        lookup.of_message("00000000-0000-0000-0000-000000000000")
    health.health(fed)
    start._has_sites(fed)


def _provision(ledger: Ledger, lab: FakeEndpoint) -> None:
    fed, now = ledger.fed, time.time()
    sites.add(fed, lab.no, sites.SiteSettings("local", "processes"), Policy())
    sites.all_sites(fed)
    sites.of_user(fed, ledger.me)
    site = sites.find(fed, lab.no)
    sites.set_columns(fed, lab.no, message="x")
    sites.record_decision(fed, site, "x", now)
    sites.pause(fed, ledger.me, "lab", "x")
    sites.resume(fed, ledger.me, "lab")
    sites.set_policy(fed, ledger.me, "lab", {"max_blocks": 3})
    blocks.add(fed, lab.no, "umbel-0-0", Policy(), now)
    blocks.change(fed, "umbel-0-0", job_id="1")
    blocks.apply_heartbeats(fed, lab.no, now)
    with fed.database.read() as connection:
        blocks.route_of(connection, lab.no, "umbel-0-0")
        blocks.last_seen(connection, lab.no, "umbel-0-0")
        blocks.find(connection, "umbel-0-0")
        blocks.names(connection, lab.no)
        blocks.used_hours_total(connection, lab.no)
        blocks.page(connection, lab.no)
        demand.observe(connection, lab.no, now)
        demand.endpoints_without_blocks(connection)
        changes.states(connection)
    blocks.delete_old_nodes(fed, lab.no, now)
    blocks.delete_old_nodes(fed, lab.no, now + 30 * DAY)
    cleanup.delete_old_blocks(fed, now)
    cleanup.delete_old_blocks(fed, now + 30 * DAY)
    sites.remove(fed, lab.no)


def _periodic(ledger: Ledger, lab: FakeEndpoint) -> None:
    fed = ledger.fed
    later = time.time() + DAY
    with fed.database.write() as connection:
        connection.execute(text("UPDATE loads SET sent = sent + 1 WHERE live > 0"))
        for table, column in (("bundles", "sent"), ("nodes", "seen")):
            connection.execute(text(f"UPDATE {table} SET {column} = {later} WHERE no = 1200"))
        connection.execute(text(f"UPDATE nodes SET live = 0 WHERE endpoint_no = {lab.no} AND no < 1500"))
    ledger.submit(lab, 3, expires=5.0)
    submit(fed, ledger.me, Submission(ledger.function_id, "lab", [b""]))
    for _ in range(3):
        ledger.sweep(10.0)
    rollback.drop_unknown_bundles(fed)
    broker_accounts.ensure_endpoint_users(fed)
    with fed.database.write() as connection:
        epochs.start_new_epoch(connection, time.time())
    ledger.clock.forward(3 * DAY)
    ledger.sweeper.delete_old()
    ledger.sweeper.sweep()
    ledger.function(ledger.me, "unused")
    pruner = Pruner(fed)
    for _ in range(7):
        pruner.prune(fed.clock() + 400 * DAY)
