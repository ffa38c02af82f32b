"""The documents name what the code has, and nothing else."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from endpoint_worker.cli import main as endpoint_cli
from endpoint_worker.config import settings as endpoint_settings
from federation.config.settings import Settings
from tests.architecture.sources import ROOT
from umbel.cli import main as user_cli
from umbel.protocol.errors import TASK_CODES
from umbel.protocol.states import TRANSITIONS

DOCS = ROOT / "docs"


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _first_column(text: str) -> set[str]:
    """The ``literals`` that begin a line."""
    return set(re.findall(r"^``([^`]+)``", text, re.MULTILINE))


def test_every_setting_of_the_service_is_documented_and_no_other() -> None:
    section = _text("docs/configuration.rst").partition("The service\n---")[2]
    assert _first_column(section.partition("\nFlags")[0]) == {field.name for field in fields(Settings)}


def test_every_setting_of_an_endpoint_is_documented_and_no_other() -> None:
    section = _text("docs/configuration.rst").partition("An endpoint\n---")[2].partition("=\n``")[2]
    known = {field.name for field in fields(endpoint_settings.Settings)} - {"name"}
    assert _first_column("``" + section) == known


def test_every_command_of_a_user_is_shown() -> None:
    shown = set(re.findall(r"(?<!from )\bumbel ([a-z]+)\b", _text("docs/quickstart.rst")))
    assert set(user_cli.main.commands) == shown


def test_every_command_of_an_endpoint_is_shown() -> None:
    shown = set(re.findall(r"^    umbel-endpoint ([a-z-]+)", _text("docs/endpoints.rst"), re.MULTILINE))
    assert shown == set(endpoint_cli.main.commands)


@pytest.mark.parametrize("field", [f for f in fields(Settings) if isinstance(f.default, (int, float))])
def test_documented_defaults_are_the_real_ones(field: object) -> None:
    name, default = field.name, field.default  # type: ignore[attr-defined]
    row = re.search(rf"^``{name}``\s+(\S+)", _text("docs/configuration.rst"), re.MULTILINE)
    assert row, name
    assert float(row[1]) == default


def test_every_move_between_states_has_its_sentence() -> None:
    documented = set()
    for source, targets in re.findall(r"``(\w+) → ([\w |]+)``", _text("docs/states.rst")):
        documented.update((source, target.strip()) for target in targets.split("|"))
    assert documented == {(str(a), str(b)) for a, targets in TRANSITIONS.items() for b in targets}


def test_every_code_of_a_failed_task_is_explained_and_no_other() -> None:
    assert set(re.findall(r"^([A-Z]+(?:_[A-Z]+)+|TIMEOUT) ", _text("docs/states.rst"), re.MULTILINE)) == set(
        TASK_CODES
    )


def test_every_make_target_that_is_spoken_of_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", _text("Makefile"), re.MULTILINE))
    files = [
        "README.rst",
        "CONTRIBUTING.rst",
        "tests/README.rst",
        *(str(f.relative_to(ROOT)) for f in DOCS.rglob("*.rst")),
    ]
    for name in files:
        spoken = set(
            re.findall(
                r"\bmake ([a-z0-9]+)\b(?= |$|`|&)", " ".join(re.findall(r"``make[^`]*``", _text(name)))
            )
        )
        assert spoken <= targets, f"{name}: {sorted(spoken - targets)}"


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"<([^>:]+\.rst)>`_", _text("README.rst"))
    assert len(links) > 8
    assert not [link for link in links if not (ROOT / link).is_file()]


def test_the_readme_is_a_door_not_a_manual() -> None:
    assert len(_text("README.rst").splitlines()) <= 150


@pytest.mark.parametrize("file", sorted(DOCS.rglob("*.rst")), ids=lambda f: str(f.relative_to(DOCS)))
def test_every_page_can_be_reached(file: Path) -> None:
    if file == DOCS / "index.rst":
        return
    index = file.parent / "index.rst"
    if file == index:
        index = DOCS / "index.rst"
    text = index.read_text(encoding="utf-8")
    name = str(file.relative_to(index.parent).with_suffix(""))
    assert re.search(rf"^   {re.escape(name)}$", text, re.MULTILINE) or (
        ":glob:" in text and name.startswith("0")
    )
