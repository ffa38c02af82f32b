"""The checks of ``umbel-endpoint check``.

They change nothing: no message is taken from the queue, and no report is sent.
"""

from __future__ import annotations

import json
import platform
import select
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import celery
import redis
import urllib3
from redis.exceptions import AuthenticationError

from umbel.protocol import envelope, names
from umbel.protocol.errors import UmbelError
from umbel.protocol.version import PROTOCOL_VERSION, __version__

from ...broker.client import BROKER_ERRORS, connect, without_password
from ...config import settings as site
from ...config.directory import Credentials, EndpointDirectory
from ...runners.options import runner_options
from ...runners.slot import Slot
from ..register import other_address
from . import sandbox

#: Seconds to wait for a response of service and broker, and for a runner to start.
TIMEOUT, RUNNER_TIMEOUT = 5.0, 20.0
#: Checks that are skipped if credentials or settings are missing.
NEED_CREDENTIALS = ("broker", "credentials", "clock", "sandbox", "runner")
#: Clocks may differ by this much (seconds) before a warning.
MAX_SKEW = envelope.LEEWAY / 5
#: Minimum free space (bytes) for results, functions and logs.
LEAST_SPACE = 256 * 1024**2


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``ok``: None: skipped; ``advice``: what to do; ``warning``: ok, improve."""

    name: str
    ok: bool | None
    said: str
    advice: str = ""
    warning: bool = False


def check(directory: EndpointDirectory, *, api: bool = True) -> list[Finding]:
    """Run all checks; ``api``: also of the service's API, which a running worker does not need."""
    found = [_python()]
    credentials = _try(found, "files", lambda: _files(directory))
    chosen = _try(found, "settings", lambda: _settings(directory))
    found.append(_disk(directory, chosen))
    clock = None
    if credentials is not None and api:
        finding, clock = _api(credentials.api_url)
        if not finding.ok and (answer := _api(other_address(directory, credentials.api_url)))[0].ok:
            finding, clock = answer
        found.append(finding)
    if credentials is None or chosen is None:
        why = "skipped: fix the files and settings above first"
        return found + [Finding(name, None, why) for name in NEED_CREDENTIALS]
    url = chosen.broker_url(credentials.broker_url)
    found.append(_broker(url))
    if found[-1].ok:
        finding, broker_clock = _permissions(url, credentials.endpoint_id)
        found.append(finding)
        clock = broker_clock if clock is None else clock
    else:
        found.append(Finding("credentials", None, "skipped: the broker cannot be reached"))
    found.append(_clock(clock))
    found.append(Finding("sandbox", *sandbox.check(directory, chosen)))
    return [*found, _runner(directory, chosen)]


def to_json(name: str, found: list[Finding]) -> str:
    """Return the findings as a JSON object."""
    return json.dumps(
        {"endpoint": name, "ok": healthy(found), "checks": [asdict(f) for f in found]}, indent=1
    )


def healthy(found: list[Finding]) -> bool:
    """Return whether all checks passed."""
    return all(finding.ok for finding in found)


def _try(found: list[Finding], name: str, run_check: Callable[[], tuple[Finding, Any]]) -> Any:
    try:
        finding, value = run_check()
    except UmbelError as error:
        advice = "correct or replace the file or setting named here"
        finding, value = Finding(name, False, error.message, advice), None
    found.append(finding)
    return value


def _python() -> Finding:
    python = f"Python {platform.python_version()} ({sys.executable})"
    said = f"{python}, umbel {__version__}, Celery {celery.__version__}"
    if sys.version_info < (3, 10):
        return Finding("python", False, said, "install umbel[endpoint] with Python 3.10 or later")
    return Finding("python", True, said)


def _files(directory: EndpointDirectory) -> tuple[Finding, Credentials]:
    credentials = directory.credentials()
    directory.signing_key()
    for file in (directory.path / "credentials.json", directory.path / "signing.key"):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            said = f"other accounts can read or change {file} (mode {mode:04o})"
            return Finding("files", False, said, f"chmod 600 {file}"), credentials
    return Finding("files", True, f"endpoint {credentials.endpoint_id} in {directory.path}"), credentials


def _settings(directory: EndpointDirectory) -> tuple[Finding, site.Settings]:
    chosen = site.load(directory.settings_file, directory.name)
    return Finding("settings", True, f"{directory.settings_file}: {chosen.worker_slots} slots"), chosen


def _disk(directory: EndpointDirectory, chosen: site.Settings | None) -> Finding:
    work = chosen.work_folder(directory.path / "work") if chosen is not None else directory.path / "work"
    least = None
    for path in (directory.path, directory.spool, directory.cache, directory.logs, work):
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path) as probe:
                probe.write(b"\0" * 4096)
                probe.flush()
            free = shutil.disk_usage(path).free
        except OSError as error:
            advice = f"free space or allow this account to write: see 'df {path}' and 'ls -ld {path}'"
            return Finding("disk", False, f"{path} cannot be written: {error.strerror}", advice)
        least = free if least is None else min(least, free)
        if free < LEAST_SPACE:
            said = f"only {free // 1024**2} MiB free for {path}"
            return Finding("disk", False, said, f"free space: {LEAST_SPACE // 1024**2} MiB are required")
    return Finding("disk", True, f"{(least or 0) / 1024**3:.1f} GiB free, all directories writable")


def _api(url: str) -> tuple[Finding, float | None]:
    """Check the service; also return how far its clock is ahead of this one (seconds)."""
    reach = f"check that the service is running and reachable from this machine: curl {url}/health"
    advice = reach + "; use --no-api if only the broker needs to be reachable"
    began = time.time()
    try:
        with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as http:
            answer = http.request("GET", f"{url}/version")
            record = json.loads(answer.data)
            version, protocol = str(record["version"]), int(record["protocol"])
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return Finding("api", False, f"{url} does not respond: {error}", advice), None
    except (ValueError, KeyError, TypeError):
        said = f"the server at {url} is not an Umbel service (status {answer.status})"
        return Finding("api", False, said, "check whether a proxy or another program uses that address"), None
    clock = _clock_offset(answer.headers.get("Date"), began)
    if protocol != PROTOCOL_VERSION:
        said = f"{url} uses protocol {protocol}, this endpoint protocol {PROTOCOL_VERSION}"
        return Finding("api", False, said, f"install umbel {version} here, or update the service"), clock
    return Finding("api", True, f"{url}, umbel {version}"), clock


def _clock_offset(date: str | None, began: float) -> float | None:
    try:
        # the header has whole seconds, rounded down
        return parsedate_to_datetime(date or "").timestamp() + 0.5 - (began + time.time()) / 2
    except (ValueError, TypeError):
        return None


def _broker(url: str) -> Finding:
    path = urlsplit(url)
    address = without_password(url)
    advice = (
        "check that the broker is running and that no firewall blocks it; "
        "if it has another address from this machine, set broker_address in endpoint.toml"
    )
    try:
        with socket.create_connection((path.hostname or "", path.port or 6379), TIMEOUT) as sock:
            sock.settimeout(TIMEOUT)
            # a Redis responds even without a login, if only with an error
            sock.sendall(b"PING\r\n")
            said = sock.recv(64)
    except OSError as error:
        return Finding("broker", False, f"{address} cannot be reached: {error}", advice)
    if not said.startswith((b"+", b"-")):
        return Finding("broker", False, f"the server at {address} is not Redis", advice)
    return Finding("broker", True, address)


def _permissions(url: str, endpoint: str) -> tuple[Finding, float | None]:
    """Log in and check a worker's permissions; also return the broker's clock, as ``_api``."""
    again = "let the service recreate the account, or delete and configure the endpoint again"
    clock = None
    refused = []
    try:
        with connect(url, timeout=TIMEOUT) as pool, pool.client() as client:
            client.ping()
            clock = _broker_clock(client)
            # the broker checks permissions when a command is queued; discarded commands are never executed
            client.execute_command("MULTI")
            for command in _needed(endpoint):
                try:
                    client.execute_command(*command)
                except redis.ResponseError as error:
                    refused.append(f"{command[0]} {command[1]} ({error})")
            client.execute_command("DISCARD")
    except AuthenticationError as error:
        said = f"the broker does not accept {names.broker_user(endpoint)}: {error}"
        return Finding("credentials", False, said, f"check whether the endpoint was deleted; {again}"), clock
    except BROKER_ERRORS as error:
        said = f"{names.broker_user(endpoint)} cannot use the broker: {error}"
        return Finding("credentials", False, said, again), clock
    if refused:
        return Finding("credentials", False, "the broker rejects " + "; ".join(refused), again), clock
    said = f"{names.broker_user(endpoint)} may receive work and send reports"
    return Finding("credentials", True, said), clock


def _broker_clock(client: redis.Redis) -> float:
    began = time.time()
    seconds, micros = client.time()
    return float(seconds + micros / 1e6 - (began + time.time()) / 2)


def _needed(endpoint: str) -> list[tuple[Any, ...]]:
    """Return commands that a worker must be allowed to run."""
    return [
        ("BRPOP", names.queue_key(endpoint), 1),
        ("LPUSH", names.reports_key(endpoint), ""),
        ("GET", names.function_key(endpoint, "0" * 64)),
        ("DEL", names.body_key(endpoint, "0")),
        ("ZRANGEBYSCORE", names.cancelled_key(endpoint), 0, 0),
    ]


def _clock(ahead: float | None) -> Finding:
    if ahead is None:
        return Finding("clock", None, "skipped: neither the service nor the broker reported its time")
    said = f"this clock is {abs(ahead):.1f} s {'ahead of' if ahead < 0 else 'behind'} the service's"
    if abs(ahead) <= MAX_SKEW:
        return Finding("clock", True, said)
    advice = (
        "use NTP (timedatectl set-ntp true): the worker corrects it, but times in logs and files are wrong"
    )
    return Finding("clock", True, said, advice, warning=True)


def _runner(directory: EndpointDirectory, chosen: site.Settings) -> Finding:
    began = time.monotonic()
    advice = "read its output; PATH, LD_LIBRARY_PATH and limits of runners come from endpoint.toml"
    try:
        slot = Slot(0, runner_options(directory, chosen))
    except (OSError, UmbelError) as error:
        return Finding("runner", False, f"cannot start a runner: {error}", advice)
    try:
        how = _wait_until_ready(slot, began + RUNNER_TIMEOUT)
    finally:
        _stop(slot)
    if slot.was_ready:
        return Finding("runner", True, f"a runner started in {time.monotonic() - began:.1f} s")
    return Finding("runner", False, how or f"a runner did not start in {RUNNER_TIMEOUT:g} s", advice)


def _wait_until_ready(slot: Slot, deadline: float) -> str | None:
    """Wait until a runner is ready; return how it ended if it did."""
    while not slot.was_ready and not slot.eof and time.monotonic() < deadline:
        if select.select([slot.sock], [], [], 0.1)[0]:
            slot.read()
        elif (how := slot.ended()) is not None:
            return how
    while slot.eof and time.monotonic() < deadline:
        how = slot.ended()
        if how is not None:
            return how
        time.sleep(0.01)
    return None


def _stop(slot: Slot) -> None:
    deadline = time.monotonic() + 2.0
    while slot.state != "dead" and time.monotonic() < deadline:
        slot.kill()
        slot.ended()
        time.sleep(0.005)
    slot.process.close()
