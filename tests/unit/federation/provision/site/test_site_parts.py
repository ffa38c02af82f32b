"""Addresses, keys and settings of sites."""

from __future__ import annotations

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
    "change",
    [
        {"scheduler": "cron"},
        {"folder": "../x"},
        {"python": "a b"},
        {"network": "vpn"},
        {"nonsense": 1},
        {"hosts": "h"},
    ],
)
def test_odd_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        SiteSettings.from_dict({"address": "ssh://a@b", "scheduler": "slurm", **change})


def test_a_wheelhouse_without_umbel_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="provision wheelhouse"):
        wheels(tmp_path)
