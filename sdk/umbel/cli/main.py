"""The ``umbel`` command.

Exit codes: 0 success; 1 the task failed or was cancelled; 2 wrong usage; 3 the service cannot be reached;
4 not found; 5 rejected by the service (login, rights, limits, conflicts); 6 not finished in time; 130
interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import click

from ..api.account import Account, save_account
from ..api.client import Client
from ..executor import Executor
from ..futures import UmbelFuture
from ..protocol.errors import TaskError, UmbelError
from ..protocol.states import TaskState
from ..protocol.version import __version__
from ..serialization.codec import dump_call
from . import logs
from .endpoint import endpoint as endpoint_group
from .flush import flush
from .output import (
    NOT_READY,
    PATIENCE,
    TASK_FAILED,
    Commands,
    Record,
    connect,
    duration,
    json_option,
    print_json,
    print_record,
    print_table,
    service_url,
    suspension,
    when,
)
from .target import find_function, parse_arguments

timeout_option = click.option(
    "--timeout", type=float, help="How long to wait for the result, seconds. Default: indefinitely."
)
limit_option = click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1), help="Maximum number of entries."
)

TASK_FIELDS = (
    "id state code message function_name function_id endpoint_id group_id attempt priority created "
    "dispatched queued started finished wall node options tags usage result_size"
).split()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(__doc__ or "").partition("\n\n")[2],
)
@click.version_option(__version__, prog_name="umbel")
def main() -> None:
    """Run Python functions on your own machines and follow their tasks."""


main.add_command(endpoint_group)
main.add_command(flush)
main.add_command(logs.logs)
main.add_command(logs.summary)


@main.command()
@click.argument("url")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input instead of prompting.")
def login(url: str, token_stdin: bool) -> None:
    """Log in at the service at URL: store its address and your token.

    The token is not an argument, because other users of this machine could read it there.
    """
    token = sys.stdin.readline().strip() if token_stdin else click.prompt("Token", hide_input=True)
    if not token:
        raise click.UsageError(
            "the token is empty: pass the one that the administrator of the service gave you"
        )
    account = Account(url.rstrip("/"), token)
    with Client(account.url, token, patience=PATIENCE) as client:
        user = client.whoami()
    path = save_account(account)
    click.echo(f"Logged in at {account.url} as {user['name']}. Stored in {path}, which only you can read.")


@main.command()
@json_option
def whoami(as_json: bool) -> None:
    """Show the service and your user name."""
    with connect() as client:
        user = {**client.whoami(), "url": service_url()}
    print_json(user) if as_json else click.echo(f"{user['name']} at {user['url']}")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("function", metavar="FILE:FUNCTION")
@click.argument("arguments", nargs=-1, metavar="[ARGS]...")
@click.option("--endpoint", "-e", required=True, help="Name or id of the endpoint.")
@timeout_option
@click.option("--no-wait", is_flag=True, help="Print the id of the task and do not wait for the result.")
@json_option
def run(
    function: str,
    arguments: tuple[str, ...],
    endpoint: str,
    timeout: float | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Run a function of a Python file (or module) at an endpoint and print its result.

    ARGS are Python literals (3, 2.5, "[1, 2]", None), otherwise strings; NAME=VALUE is a keyword argument.
    Put -- before arguments that begin with a dash.
    """
    fn = find_function(function)
    args, kwargs = parse_arguments(arguments)
    with connect() as client:
        if no_wait:
            payload = dump_call(args, kwargs)
            answer = client.submit(client.register_function(fn), endpoint, [payload])
            task_id = answer["task_ids"][0]
            print_json({"task_id": task_id}) if as_json else click.echo(task_id)
            return
        executor = Executor(endpoint, client=client)
        future = executor.submit(fn, *args, **kwargs)
        executor.shutdown(wait=False)
        sys.exit(_print_result(future, timeout, as_json))


@main.command()
@click.option(
    "--state", type=click.Choice([state.value for state in TaskState]), help="Only tasks in this state."
)
@click.option("--endpoint", "-e", "endpoint_id", help="Only tasks at this endpoint (name or id).")
@click.option("--function", "function_id", help="Only tasks of this function (id).")
@click.option("--group", "group_id", help="Only tasks of this group (id).")
@limit_option
@json_option
def tasks(limit: int, as_json: bool, **filters: Any) -> None:
    """List your tasks, newest first."""
    with connect() as client:
        found = list(client.tasks(limit, **filters))
    if as_json:
        print_json(found)
        return
    columns: list[tuple[str, Callable[[Record], Any]]] = [
        ("TASK", lambda task: task["id"]),
        ("STATE", lambda task: task["state"]),
        ("FUNCTION", lambda task: task["function_name"]),
        ("CREATED", lambda task: when(task["created"])),
        ("TIME", lambda task: duration(task["wall"])),
        ("NODE", lambda task: task["node"]),
        ("CODE", lambda task: task["code"]),
    ]
    print_table(found, columns, "There are no matching tasks.")


@main.command()
@click.argument("task_id", metavar="TASK")
@click.option("--result", is_flag=True, help="Wait for the result and print it.")
@timeout_option
@json_option
def task(task_id: str, result: bool, timeout: float | None, as_json: bool) -> None:
    """Show a task, or its result."""
    with connect() as client:
        if result:
            try:
                value = client.get_result(task_id, timeout=timeout)
            except UmbelError as error:
                if not isinstance(error, TaskError):
                    raise
                sys.exit(_print_failure(error, {"task_id": task_id}, as_json))
            except BaseException as error:  # the function's own exception
                sys.exit(_print_failure(error, {"task_id": task_id}, as_json))
            print_json({"task_id": task_id, "result": value}) if as_json else _print_value(value)
            return
        record = client.get_task(task_id)
    print_json(record) if as_json else print_record(record, TASK_FIELDS)


@main.command()
@click.argument("task_id", metavar="TASK")
@json_option
def cancel(task_id: str, as_json: bool) -> None:
    """Cancel a task, waiting or running. A finished task does not change."""
    with connect() as client:
        record = client.cancel_task(task_id)
    print_json(record) if as_json else click.echo(f"Task {task_id} is {record['state']}.")


@main.command()
@limit_option
@json_option
def functions(limit: int, as_json: bool) -> None:
    """List your functions, newest first."""
    with connect() as client:
        found = list(client.functions(limit))
    if as_json:
        print_json(found)
        return
    columns: list[tuple[str, Callable[[Record], Any]]] = [
        ("FUNCTION", lambda function: function["id"]),
        ("NAME", lambda function: function["name"]),
        ("BYTES", lambda function: function["size"]),
        ("CREATED", lambda function: when(function["created"])),
        ("DESCRIPTION", lambda function: function["description"][:60]),
    ]
    print_table(
        found, columns, "There are no functions yet: 'umbel run' registers the function that it runs."
    )


@main.command()
@json_option
def endpoints(as_json: bool) -> None:
    """List the endpoints that you may use."""
    with connect() as client:
        found = list(client.endpoints())
    if as_json:
        print_json(found)
        return
    columns: list[tuple[str, Callable[[Record], Any]]] = [
        ("NAME", lambda endpoint: endpoint["name"]),
        ("STATE", lambda endpoint: "suspended" if endpoint.get("suspended") else endpoint["state"]),
        ("SLOTS", lambda endpoint: endpoint["slots_total"]),
        ("FREE", lambda endpoint: endpoint["slots_free"]),
        ("PYTHON", lambda endpoint: endpoint.get("python")),
        ("QUEUE", lambda endpoint: endpoint["queue"]),
        ("DESCRIPTION", lambda endpoint: endpoint["description"][:60]),
    ]
    print_table(found, columns, "There are no endpoints: create one with 'umbel-endpoint configure NAME'.")
    for each in found:
        if each.get("suspended"):
            click.echo(f"{each['name']}: {suspension(each)}")


def _print_result(future: UmbelFuture, timeout: float | None, as_json: bool) -> int:
    try:
        value = future.result(timeout)
    except KeyboardInterrupt:
        click.echo(f"\nTask {future.task_id} continues: see 'umbel task' and 'umbel cancel'.", err=True)
        return 130
    except BaseException as error:  # whatever the function raised
        if not future.done():
            subject = f"Task {future.task_id}" if future.task_id else "The call"
            click.echo(f"{subject} has not finished within {timeout} s; it continues.", err=True)
            return NOT_READY
        if isinstance(error, UmbelError) and not isinstance(error, TaskError):
            raise
        return _print_failure(error, {**(future.record or {}), "task_id": future.task_id}, as_json)
    print_json({**(future.record or {}), "result": value}) if as_json else _print_value(value)
    return 0


def _print_value(value: Any) -> None:
    if value is not None:
        click.echo(value if isinstance(value, str) else repr(value))


def _print_failure(error: BaseException, record: Record, as_json: bool) -> int:
    """Print why a task failed; return the exit code."""
    cause = error if isinstance(error, TaskError) else error.__cause__
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, CancelledError):
        text = f"task {record['task_id']} was cancelled"
    elif isinstance(cause, TaskError):
        text = cause.traceback or f"{cause.message} [{cause.code}]"
    if as_json:
        print_json({**record, "error": text})
    else:
        click.echo(text.rstrip(), err=True)
    return TASK_FAILED
