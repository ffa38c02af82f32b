"""What always holds in the ledger's tables: checked by triggers at every statement, by queries afterwards."""

from __future__ import annotations

from sqlalchemy import Connection, text

from federation.db.engine import Database
from umbel.protocol.states import TRANSITIONS, TaskState

#: Queries that must find nothing, by what a row found would mean.
NEVER = {
    "a task is finished in a state that is not final, or the other way round": """
        SELECT id, state, finished, completion FROM tasks
        WHERE (finished IS NOT NULL) <> (state IN ('succeeded', 'failed', 'cancelled', 'expired'))
           OR (completion IS NOT NULL) <> (finished IS NOT NULL)""",
    "a task is in a bundle though it was not sent, or sent and in none": """
        SELECT id, state, bundle_no FROM tasks
        WHERE (bundle_no IS NOT NULL) <> (state IN ('dispatched', 'running'))""",
    "a task is in a bundle that does not exist, or belongs to another endpoint or function": """
        SELECT tasks.id, tasks.bundle_no FROM tasks LEFT JOIN bundles ON bundles.no = tasks.bundle_no
        WHERE tasks.bundle_no IS NOT NULL
          AND (bundles.no IS NULL OR bundles.endpoint_no <> tasks.endpoint_no
               OR bundles.function_no <> tasks.function_no)""",
    "a bundle counts its open calls wrong, or is kept without any": """
        SELECT bundles.id, bundles.open, count(tasks.no) FROM bundles
        LEFT JOIN tasks ON tasks.bundle_no = bundles.no
        GROUP BY bundles.no, bundles.id, bundles.open
        HAVING bundles.open <> count(tasks.no) OR bundles.open < 1""",
    "the completion numbers of a group have a gap or a double": """
        SELECT group_no, count(*), count(DISTINCT completion), max(completion), groups.completions FROM tasks
        JOIN groups ON groups.no = tasks.group_no
        WHERE completion IS NOT NULL GROUP BY group_no, groups.completions
        HAVING count(*) <> count(DISTINCT completion) OR max(completion) <> groups.completions
            OR max(completion) - min(completion) + 1 <> count(*)""",
    "the load of a user on an endpoint is counted wrong": """
        SELECT loads.endpoint_no, loads.user_no, loads.live, count(tasks.no) FROM loads
        LEFT JOIN tasks ON tasks.endpoint_no = loads.endpoint_no AND tasks.user_no = loads.user_no
             AND tasks.finished IS NULL
        GROUP BY loads.endpoint_no, loads.user_no, loads.live HAVING loads.live <> count(tasks.no)""",
    "the calls in bundles of a user on an endpoint, or their slots, are counted wrong": """
        SELECT loads.endpoint_no, loads.user_no, loads.sent, loads.running, loads.occupied, found.*
        FROM loads LEFT JOIN (
            SELECT endpoint_no, user_no, count(*) AS sent, sum(running) AS running,
                sum(CASE WHEN place = 1 THEN cores ELSE 0 END) AS occupied
            FROM (SELECT tasks.endpoint_no, tasks.user_no, bundles.cores,
                CASE WHEN tasks.state = 'running' THEN 1 ELSE 0 END AS running,
                row_number() OVER (PARTITION BY bundle_no ORDER BY tasks.no) AS place
                FROM tasks JOIN bundles ON bundles.no = tasks.bundle_no) AS calls
            GROUP BY endpoint_no, user_no) AS found
        ON loads.endpoint_no = found.endpoint_no AND loads.user_no = found.user_no
        WHERE loads.sent <> coalesce(found.sent, 0) OR loads.running <> coalesce(found.running, 0)
            OR loads.occupied <> coalesce(found.occupied, 0)""",
    "a group counts its live tasks wrong": """
        SELECT groups.id, groups.size, groups.completions, count(tasks.no) FROM groups
        LEFT JOIN tasks ON tasks.group_no = groups.no AND tasks.finished IS NULL
        GROUP BY groups.id, groups.size, groups.completions
        HAVING groups.size - groups.completions <> count(tasks.no)""",
    "calls that were accepted are not counted": "SELECT * FROM arrivals",
    "live tasks have no load": """
        SELECT tasks.id FROM tasks LEFT JOIN loads
            ON tasks.endpoint_no = loads.endpoint_no AND tasks.user_no = loads.user_no
        WHERE tasks.finished IS NULL AND loads.live IS NULL""",
    "a blob counts its references wrong, or is kept without any": """
        SELECT blobs.no, blobs.refs,
               (SELECT count(*) FROM tasks WHERE blob_no = blobs.no)
               + (SELECT count(*) FROM tasks WHERE result_blob_no = blobs.no) AS used
        FROM blobs WHERE refs < 1 OR refs <>
               (SELECT count(*) FROM tasks WHERE blob_no = blobs.no)
               + (SELECT count(*) FROM tasks WHERE result_blob_no = blobs.no)""",
    "items are kept of no task, or of no stream": """
        SELECT items.task_no, items.first FROM items LEFT JOIN tasks ON tasks.no = items.task_no
        LEFT JOIN streams ON streams.task_no = items.task_no
        WHERE tasks.no IS NULL OR streams.task_no IS NULL""",
    "a task points to a blob that is not there": """
        SELECT id FROM tasks WHERE blob_no NOT IN (SELECT no FROM blobs)
            OR (result_blob_no IS NOT NULL AND result_blob_no NOT IN (SELECT no FROM blobs))""",
    "a task was never sent and has an attempt, or was sent and has none": """
        SELECT id, state, attempt FROM tasks
        WHERE attempt < 0 OR retried > attempt OR (state IN ('dispatched', 'running') AND attempt < 1)""",
}


def check(connection: Connection) -> None:
    """Fail, naming what is wrong, unless the tables agree with each other."""
    for meaning, query in NEVER.items():
        found = connection.execute(text(query)).fetchmany(5)
        assert not found, f"{meaning}: {[tuple(row) for row in found]}"


def guard(database: Database) -> None:
    """Let the database itself refuse moves that ``protocol.states`` does not allow, and changes of ends."""
    allowed = ", ".join(
        f"'{before.value}>{after.value}'" for before in TaskState for after in sorted(TRANSITIONS[before])
    )
    bad = (
        f"(OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN ({allowed}))"
        " OR (OLD.completion IS NOT NULL AND OLD.completion <> NEW.completion)"
        " OR (OLD.finished IS NOT NULL AND OLD.finished <> NEW.finished)"
    )
    with database.write() as connection:
        for statement in _SQLITE if database.sqlite else _POSTGRESQL:
            connection.execute(text(statement.replace("$bad", bad)))


_SQLITE = [
    "CREATE TRIGGER task_moves BEFORE UPDATE ON tasks WHEN $bad "
    "BEGIN SELECT RAISE(ABORT, 'a task makes a move that is not allowed'); END",
    "CREATE TRIGGER task_starts BEFORE INSERT ON tasks WHEN NEW.state NOT IN ('waiting', 'queued') "
    "BEGIN SELECT RAISE(ABORT, 'a task begins in a state that is not allowed'); END",
    "CREATE UNIQUE INDEX test_completions ON tasks (group_no, completion)",
]
_POSTGRESQL = [
    """CREATE FUNCTION task_moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF $bad THEN RAISE EXCEPTION 'task % moves from % to %', OLD.id, OLD.state, NEW.state; END IF;
        RETURN NEW; END $$""",
    """CREATE FUNCTION task_starts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.state NOT IN ('waiting', 'queued') THEN RAISE EXCEPTION 'task % starts %', NEW.id, NEW.state;
        END IF; RETURN NEW; END $$""",
    "CREATE TRIGGER task_moves BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION task_moves()",
    "CREATE TRIGGER task_starts BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION task_starts()",
    "CREATE UNIQUE INDEX test_completions ON tasks (group_no, completion)",
]
