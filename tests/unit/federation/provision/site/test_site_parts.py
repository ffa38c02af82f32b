"""Addresses, keys and settings of sites."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from federation.provision.connection import keys
from federation.provision.connection.shell import SiteError
from federation.provision.connection.ssh import Address
from federation.provision.records.sites import SiteSettings
from federation.provision.site.bootstrap import wheels
from umbel.protocol.errors import BadRequest

ID = "0123abcd-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://me@login.example:2222", Address("me", "login.example", 2222)),
        ("me@10.0.0.1", Address("me", "10.0.0.1", 22)),
        ("ssh://me@[::1]:22", Address("me", "::1", 22)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "login.example",
        "ssh://-oProxyCommand=x@h",
        "ssh://me@-h",
        "ssh://me@h:0",
        "ssh://me@h:99999",
        "ssh://me@h\n",
        "",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadRequest):
        Address.parse(text)


def test_the_service_makes_one_private_key_per_site(tmp_path: Path) -> None:
    key = keys.site_key(tmp_path, ID)
    assert keys.site_key(tmp_path, ID).get_base64() == key.get_base64()
    file = keys.key_file(tmp_path, ID)
    assert file.stat().st_mode & 0o777 == 0o600
    line = keys.authorized_line(key, "umbel:lab\n ssh-rsa evil")
    assert line.startswith("restrict ssh-ed25519 ") and "\n" not in line and len(line.split(" ")) == 4
    assert "port-forwarding" in keys.authorized_line(key, "lab", tunnel=True)


def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    key = keys.site_key(tmp_path, ID)
    file = tmp_path / "key.pub"
    file.write_text(f"{key.get_name()} {key.get_base64()} x\n")
    try:
        done = subprocess.run(
            ["ssh-keygen", "-lf", str(file)], capture_output=True, text=True, check=True, timeout=20
        )
    except FileNotFoundError:
        pytest.skip("not installed: ssh-keygen")
    assert done.stdout.split()[1] == keys.fingerprint(f"{key.get_name()} {key.get_base64()}").split()[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scheduler": "cron"}, "'scheduler'.*slurm.*got 'cron'"),
        ({"scheduler": "hosts"}, "'hosts'"),
        ({"folder": "../x"}, "'folder'.*got '../x'"),
        ({"folder": ""}, "'folder'.*got ''"),
        ({"python": "a b"}, "'python'.*got 'a b'"),
        ({"network": "vpn"}, "'network'.*tunnel.*got 'vpn'"),
        ({"nonsense": 1}, "'nonsense'.*scheduler"),
        ({"addres": "x"}, "did you mean 'address'"),
        ({"hosts": "h"}, "'hosts'.*got 'h'"),
        ({"hosts": ["a", 3]}, "'hosts'.*got 3 as item 2"),
        ({"agent": 1}, "'agent'.*got 1"),
        ({"interval": "30"}, "'interval'.*got '30'"),
        ({"interval": float("nan")}, "'interval'.*got nan"),
        ({"tunnel_port": 65535}, "'tunnel_port'.*got 65535"),
        ({"tunnel_port": True}, "'tunnel_port'.*got true"),
        ({"tunnel_bind": "a b"}, "'tunnel_bind'.*got 'a b'"),
        ({"relay_listen": ["ok", "a b"]}, "'relay_listen'.*got 'a b'"),
        ({"address": None}, "'address'.*got null"),
        ({"setup": {"a": "b"}}, "'setup'.*got a table"),
    ],
)
def test_odd_settings_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        SiteSettings.from_dict({"address": "ssh://a@b", "scheduler": "slurm", **change})
    assert caught.value.code == "BAD_REQUEST" and caught.value.message.startswith("site: ")


def test_a_site_needs_an_address_and_a_scheduler_and_comes_back_from_json() -> None:
    for given in ({"address": "local"}, {"scheduler": "slurm"}):
        with pytest.raises(BadRequest, match="is missing"):
            SiteSettings.from_dict(given)
    settings = SiteSettings.from_dict(
        {"address": "local", "scheduler": "slurm", "setup": ["x"], "interval": 3}
    )
    assert settings.setup == ("x",) and settings.interval == 3.0
    assert SiteSettings.from_dict(json.loads(settings.to_json())) == settings


def test_a_wheelhouse_without_umbel_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="provision wheelhouse"):
        wheels(tmp_path)
