"""endpoint.toml, and the endpoint's folder."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from endpoint_worker.broker import client
from endpoint_worker.config import identity, settings
from endpoint_worker.config.directory import (
    Credentials,
    DirectoryError,
    EndpointDirectory,
    configured,
)
from endpoint_worker.config.environments import Environments
from endpoint_worker.config.identity import default_node_name, next_incarnation, node_name
from endpoint_worker.config.policy import Rules
from endpoint_worker.config.sandbox import Sandbox
from endpoint_worker.config.settings import SettingsError, load
from umbel.protocol.envelope import new_private_key


def write(folder: Path, text: str) -> Path:
    file = folder / "endpoint.toml"
    file.write_text(text)
    return file


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    chosen = load(tmp_path / "none.toml", "lab")
    assert (chosen.name, chosen.timeout, chosen.memory, chosen.drain_seconds) == ("lab", 0.0, 0, 5.0)
    assert chosen.worker_slots == len(os.sched_getaffinity(0))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'slots = 3\ntimeout = 10\nmemory = "1.5 GiB"\npass_environment = ["A*"]\n[environment]\nX = "1"\n',
    )
    chosen = load(file, "lab", slots=5, broker_address=None)
    assert (chosen.slots, chosen.timeout, chosen.memory) == (5, 10.0, 3 * 2**29)
    assert chosen.runner_environment({"AB": "2", "B": "3", "UMBEL_TOKEN": "4"}) == {"AB": "2", "X": "1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slosts = 3", "did you mean 'slots'"),
        ("zzz = 3", "'zzz'.*slots"),
        ("name = 'other'", "unknown setting 'name'"),
        ("slots = 'three'", "'slots'.*got 'three'"),
        ("slots = -1", "'slots'.*got -1"),
        ("slots = true", "'slots'.*got true"),
        ("slots = 1.0", "'slots'.*got 1.0"),
        ("slots = {}", "'slots'.*got a table"),
        ("slots = 1" + "0" * 400, "'slots'.*more than 64 bits"),
        ("timeout = 'long'", "'timeout'.*got 'long'"),
        ("timeout = nan", "'timeout'.*got nan"),
        ("timeout = inf", "'timeout'.*got inf"),
        ("timeout = 1" + "0" * 400, "'timeout'.*more than 64 bits"),
        ("work = 3", "'work'.*got 3"),
        ("work = 2026-01-01", "'work'.*got a date"),
        ("memory = 'much'", "'memory'.*4GiB.*got 'much'"),
        ("memory = -1", "'memory'.*got -1"),
        ("memory = '9999999T'", "'memory'.*got '9999999T'"),
        ("output = '2MiB'", "'output'.*1048576.*got '2MiB'"),
        ("cgroup = 'yes'", "'cgroup'.*got 'yes'"),
        ("pass_environment = 'PATH'", "'pass_environment'.*got 'PATH'"),
        ("pass_environment = ['PATH', 3]", "'pass_environment'.*got 3 as item 2"),
        ("pass_environment = [[[[[[[[]]]]]]]]", "'pass_environment'.*got a list as item 1"),
        ("environment = 3", "'environment'.*got an integer"),
        ("log_level = 'LOUD'", "'log_level'.*DEBUG.*got 'LOUD'"),
        ("slots =", "endpoint.toml"),
        ("log_format = 'xml'", "'log_format'.*json.*got 'xml'"),
        ("open_files = 3", "'open_files'.*32.*got 3"),
        ("rule = 3", "did you mean 'rules'"),
        ("rules = 3", "'rules'.*got 3"),
        ("rules = [[]]", "'rules'.*got a list"),
        ("[rules]\nallowed_user = ['ada']", r"\[rules\]: unknown setting.*did you mean 'allowed_users'"),
        ("[rules]\nallowed_users = 'ada'", "'allowed_users'.*got 'ada'"),
        ("[rules]\nallowed_functions = ['dock']", "'allowed_functions'.*'dock'"),
        ("[rules]\nlargest_payload = 'much'", "'largest_payload'.*4GiB.*got 'much'"),
        ("[rules]\nenvironments = 'some'", "'environments'.*got 'some'"),
        ("[environments]\nnamed = {a = 'python'}", "'named'.*got 'python' for 'a'"),
        ("[environments]\nnamed = {a = 3}", "'named'.*got 3 for 'a'"),
        ("[environments]\nsize = '20 gigabytes'", "'size'.*got '20 gigabytes'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load(write(tmp_path, text), "lab")
    assert caught.value.code == "BAD_REQUEST"


@pytest.mark.parametrize(
    "text",
    [
        "[environment]\nTOKEN = 'hunter2'\nPIN = 123456",
        "environment = 'hunter2'",
        "setup = ['export TOKEN=hunter2', 123456]",
        "[environments]\noptions = '--index-url https://u:hunter2@h'",
    ],
)
def test_what_may_be_secret_is_never_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text), "lab")
    assert "hunter2" not in str(caught.value) and "123456" not in str(caught.value)


def test_a_wrong_flag_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'slots'.*got -1"):
        load(tmp_path / "none.toml", "lab", slots=-1, broker_address=None)
    with pytest.raises(SettingsError, match="endpoint.toml"):
        (tmp_path / "endpoint.toml").mkdir()
        load(tmp_path / "endpoint.toml", "lab")
    with pytest.raises(SettingsError, match="did you mean 'slots'"):
        load(tmp_path / "none.toml", "lab", slot=1)


def test_the_written_file_holds_every_setting_and_changes_none(tmp_path: Path) -> None:
    text = settings.template("lab", slots=2, broker_address=None)
    assert load(write(tmp_path, text), "lab") == settings.Settings(name="lab", slots=2)
    bare = "\n".join(
        line.removeprefix("#") if not line.startswith("# ") else line for line in text.splitlines()
    )
    every = load(write(tmp_path, bare), "lab")
    assert every == settings.Settings(
        name="lab",
        slots=2,
        environment={"OMP_NUM_THREADS": "1"},
        rules=Rules(
            allowed_functions=["0123456789abcdef" * 4],
            allowed_users=["ada"],
            allowed_requirements=("numpy", "scikit-*"),
        ),
        environments=Environments(
            options=("--index-url", "https://packages.example/simple"),
            named={"chemistry": "/opt/chemistry/bin/python"},
        ),
        sandbox=Sandbox(
            binds=("/data:ro", "/scratch"),
            command=("/opt/podman/bin/podman", "--runtime", "crun"),
            options=("--gpus", "all"),
        ),
    )


def test_rules_are_read_in_the_units_of_people(tmp_path: Path) -> None:
    digest = "AB" * 32
    file = write(
        tmp_path,
        f'[rules]\nallowed_functions = ["{digest}"]\nallowed_users = []\nlargest_payload = "2 MiB"\n',
    )
    rules = load(file, "lab", slots=2).rules
    assert rules == Rules(allowed_functions=[digest.lower()], allowed_users=[], largest_payload=2**21)
    assert load(tmp_path / "none.toml", "lab").rules == Rules(None, None, 0)


def test_no_secret_passes_to_runners_by_default() -> None:
    environ = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "s", "UMBEL_TOKEN": "t", "SLURM_JOB_ID": "1"}
    assert settings.Settings().runner_environment(environ) == {"PATH": "/bin", "SLURM_JOB_ID": "1"}


def test_the_broker_can_be_reached_another_way() -> None:
    url = "redis://ep-1:p%40ss@10.0.0.1:6379/0"
    moved = settings.Settings(broker_address="login:7000").broker_url(url)
    assert moved == "redis://ep-1:p%2540ss@login:7000/0" or moved == "redis://ep-1:p%40ss@login:7000/0"
    assert settings.Settings().broker_url(url) == url
    assert "p%40ss" not in client.without_password(url)


def make(home: Path, name: str = "lab") -> EndpointDirectory:
    folder = EndpointDirectory(home, name)
    key = new_private_key()
    folder.write(Credentials("id-1", name, "http://api", "redis://u:p@h:1/0", bytes(32)), key, "")
    return folder


def test_secrets_are_private_and_come_back(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert folder.credentials() == Credentials("id-1", "lab", "http://api", "redis://u:p@h:1/0", bytes(32))
    assert len(folder.signing_key()) == 32
    for name in ("credentials.json", "signing.key"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600
    assert not list(folder.path.glob(".*")), "no drafts are left"
    assert [found.name for found in configured(tmp_path)] == ["lab"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 64])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(DirectoryError) as raised:
        EndpointDirectory(tmp_path, name)
    assert raised.value.code == "BAD_REQUEST" and f"'{name}'" in raised.value.message


def test_what_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="'lab'.*umbel-endpoint configure lab"):
        EndpointDirectory(tmp_path, "lab").credentials()
    folder = make(tmp_path)
    (folder.path / "credentials.json").write_text("{}")
    with pytest.raises(DirectoryError, match=r"credentials\.json.*umbel-endpoint configure lab"):
        folder.credentials()
    (folder.path / "signing.key").write_bytes(b"short")
    with pytest.raises(DirectoryError, match=r"signing\.key.*umbel-endpoint configure lab"):
        folder.signing_key()


def test_one_node_runs_once(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert folder.running() == {}
    with folder.lock("n1"):
        assert folder.running() == {"n1": os.getpid()}
        with pytest.raises(DirectoryError, match=f"process {os.getpid()}"), folder.lock("n1"):
            raise AssertionError("locked twice")
        with folder.lock("n2"):
            assert set(folder.running()) == {"n1", "n2"}
    assert folder.running() == {}


def test_node_names_are_fit_for_files_and_celery() -> None:
    assert node_name("a b@c/d") == "a-b-c-d"
    assert node_name()


def test_copies_of_a_directory_are_different_nodes(tmp_path: Path) -> None:
    names = []
    for copy in ("one", "two"):
        (tmp_path / copy).mkdir()
        names.append(default_node_name(tmp_path / copy))
    assert names[0] != names[1]
    assert names[0] == default_node_name(tmp_path / "one")
    assert all(name.startswith(f"{node_name()}-") for name in names)
    assert (
        default_node_name(tmp_path / "one", "umbel-0a0a0a0a-00000001")
        == f"umbel-0a0a0a0a-00000001.{names[0]}"
    )


def test_hosts_and_containers_of_one_name_are_different_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, name = identity.host(), default_node_name(tmp_path)
    for machine in (("another boot", "pid:[1]"), ("another boot", "pid:[2]")):
        monkeypatch.setattr(identity, "_machine", lambda machine=machine: machine)
        assert identity.host() != here and default_node_name(tmp_path) != name
        here, name = identity.host(), default_node_name(tmp_path)


def test_an_incarnation_grows_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run" / "incarnation"
    first = next_incarnation(file)
    assert abs(first / 1000 - time.time()) < 60
    monkeypatch.setattr(identity.time, "time", lambda: 1000.0)
    assert next_incarnation(file) == first + 1
    file.unlink()
    assert next_incarnation(file) == 1_000_000
    file.unlink()
    file.mkdir()  # it cannot be written
    assert next_incarnation(file) == 1_000_000
