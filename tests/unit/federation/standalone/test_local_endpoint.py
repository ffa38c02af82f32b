"""The endpoint of an embedded federation: in both home and registry, or created again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from federation.context import Federation
from federation.db.tables import loads
from federation.registry import endpoints, users
from federation.registry.users import User
from federation.standalone import local_endpoint
from federation.standalone.files import StartError
from tests.support.service import open_recording
from umbel.protocol.errors import Conflict, NotFound

URL = "http://127.0.0.1:8642"


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    fed, _ = open_recording(tmp_path / "home")
    yield fed
    fed.close()


@pytest.fixture
def ada(fed: Federation) -> User:
    return users.ensure_user(fed, "ada")


def _register(fed: Federation, user: User) -> dict[str, str]:
    record = endpoints.register(fed, user, name=local_endpoint.NAME, public_key=bytes(32))
    return dict(record["credentials"])


def _file(fed: Federation) -> Path:
    return fed.settings.home / "endpoints" / local_endpoint.NAME / "credentials.json"


def _keep(fed: Federation, credentials: dict[str, str]) -> None:
    _file(fed).parent.mkdir(parents=True)
    _file(fed).write_text(json.dumps(credentials))


def test_one_that_both_know_is_used_as_it_is(fed: Federation, ada: User) -> None:
    _keep(fed, {**_register(fed, ada), "api_url": URL})
    before = _file(fed).read_bytes()
    assert local_endpoint.reconcile(fed, ada, URL)
    assert _file(fed).read_bytes() == before


def test_one_that_nobody_knows_is_to_be_made(fed: Federation, ada: User) -> None:
    assert not local_endpoint.reconcile(fed, ada, URL)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"endpoint_id": "another"}'])
def test_a_folder_that_is_not_the_registered_ones_makes_room(fed: Federation, ada: User, text: str) -> None:
    _register(fed, ada)
    _keep(fed, {})
    _file(fed).write_text(text)
    assert not local_endpoint.reconcile(fed, ada, URL)
    assert not _file(fed).parent.exists()
    with pytest.raises(NotFound):
        endpoints.find(fed, ada, local_endpoint.NAME)


def test_one_without_folder_keeps_its_name_while_it_has_tasks(fed: Federation, ada: User) -> None:
    _register(fed, ada)
    row = endpoints.find(fed, ada, local_endpoint.NAME)
    with fed.database.write() as connection:
        connection.execute(insert(loads).values(endpoint_no=row.no, user_no=ada.no, live=1))
    with pytest.raises(Conflict):
        local_endpoint.reconcile(fed, ada, URL)
    assert endpoints.find(fed, ada, local_endpoint.NAME).id == row.id


def test_it_follows_a_broker_that_has_moved(fed: Federation, ada: User) -> None:
    credentials = {**_register(fed, ada), "api_url": URL}
    moved = credentials["broker_url"].replace("broker.example:6379", "broker.example:1")
    _keep(fed, {**credentials, "broker_url": moved})
    assert local_endpoint.reconcile(fed, ada, URL)
    assert json.loads(_file(fed).read_text()) == credentials
    assert _file(fed).stat().st_mode & 0o777 == 0o600


def test_what_configure_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('because', *sys.argv[1:], file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(local_endpoint, "command", lambda *words: [sys.executable, "-c", code, *words])
    with pytest.raises(StartError, match="because configure local --slots 3"):
        local_endpoint.configure(3, {}, tmp_path)


def test_a_configure_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_endpoint, "CONFIGURE_TIMEOUT", 0.2)
    code = "import time; time.sleep(60)"
    monkeypatch.setattr(local_endpoint, "command", lambda *words: [sys.executable, "-c", code])
    with pytest.raises(StartError, match="within 0.2 s"):
        local_endpoint.configure(1, {}, tmp_path)


def test_an_api_that_is_not_there_is_neither_up_nor_online() -> None:
    api = local_endpoint.ApiProbe("http://127.0.0.1:9", "token")
    assert not api.is_ready(with_broker=False) and not api.endpoint_online()


@pytest.mark.parametrize(
    ("health", "ready", "can_register"),
    [
        ({"database": "ok", "broker": "ok"}, True, True),
        ({"database": "ok", "broker": "unreachable"}, True, False),
        ({"database": "unreachable", "broker": "ok"}, False, False),
        (None, False, False),
    ],
)
def test_an_endpoint_is_registered_when_the_broker_is_there(
    monkeypatch: pytest.MonkeyPatch, health: dict[str, str] | None, ready: bool, can_register: bool
) -> None:
    api = local_endpoint.ApiProbe("http://127.0.0.1:9", "token")
    monkeypatch.setattr(api, "_get", lambda *_: health)
    assert api.is_ready(with_broker=False) is ready
    assert api.is_ready(with_broker=True) is can_register


def test_the_address_of_a_service_that_has_moved_is_written(fed: Federation, ada: User) -> None:
    _keep(fed, {**_register(fed, ada), "api_url": "http://127.0.0.1:1"})
    assert local_endpoint.reconcile(fed, ada, URL)
    assert json.loads(_file(fed).read_text())["api_url"] == URL
