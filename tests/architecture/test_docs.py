"""The documents name what the code has, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import click
import pytest

from endpoint_worker.cli import main as endpoint_cli
from endpoint_worker.config import environments, hardware, policy, sandbox
from endpoint_worker.config import settings as endpoint_settings
from federation import __main__ as federation_main
from federation.config import settings as service_settings
from federation.config.settings import Settings
from federation.provision.planning.policy import Policy
from federation.provision.records.sites import SiteSettings
from tests.architecture.blocks import PAGES, blocks
from tests.architecture.sources import PACKAGES, ROOT
from umbel.cli import main as user_cli
from umbel.protocol.errors import TASK_CODES
from umbel.protocol.states import TRANSITIONS

DOCS = ROOT / "docs"


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _first_column(text: str) -> set[str]:
    """The ``literals`` that begin a line."""
    return set(re.findall(r"^``([^`]+)``", text, re.MULTILINE))


def _section(text: str, title: str, until: str = "\n[A-Z][^\n]*\n(?:---|~~~)") -> str:
    """What stands under a heading, up to the next one."""
    below = text.partition(f"\n{title}\n")[2]
    assert below, title
    return re.split(until, below, maxsplit=1)[0]


def _names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


CONFIGURATION = "docs/reference/configuration.rst"
#: Heading of each table of settings, what is documented there, and what of it is not a setting.
TABLES: dict[str, tuple[Any, set[str]]] = {
    "The service": (Settings, set()),
    "An endpoint": (endpoint_settings.Settings, {"name"}),
    "Table [rules]": (policy.Rules, set()),
    "Table [sandbox]": (sandbox.Sandbox, set()),
    "Table [hardware]": (hardware.Hardware, set()),
    "Table [environments]": (environments.Environments, set()),
    "The policy of an elastic endpoint": (Policy, set()),
    "The site of an elastic endpoint": (SiteSettings, set()),
}


@pytest.mark.parametrize("title", TABLES)
def test_every_setting_is_documented_and_no_other(title: str) -> None:
    kind, internal = TABLES[title]
    lines = _section(_text(CONFIGURATION), title).splitlines()
    rules = [number for number, line in enumerate(lines) if re.match(r"=+ =+", line)]
    assert rules, f"no table under '{title}'"
    assert _first_column("\n".join(lines[rules[0] : rules[-1]])) == _names(kind) - internal


@pytest.mark.parametrize(
    ("title", "name", "default"),
    [
        (title, field.name, field.default)
        for title in ("The service", "The policy of an elastic endpoint")
        for field in fields(TABLES[title][0])
        if isinstance(field.default, (int, float))
    ],
)
def test_documented_defaults_are_the_real_ones(title: str, name: str, default: float) -> None:
    row = re.search(rf"^``{name}``\s+(\S+)", _section(_text(CONFIGURATION), title), re.MULTILINE)
    assert row, name
    assert float(row[1]) == default


def _shell_lines() -> list[tuple[str, list[str]]]:
    """(place, words) of every command in the shell blocks of the manual, those that are not run included."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            if block.language != "sh":
                continue
            text = re.sub(r" +#.*", "", block.text.replace("\\\n", " "))
            for command in re.split(r"[\n;|]|&&|\$\(", text):
                words = command.strip(" )&").split()
                while words and re.match(r"[A-Z_]+=|export$", words[0]):
                    words.pop(0)
                if words:
                    found.append((f"{page}:{block.line}", words))
    return found


#: What reads a file of settings, by the name of the file.
READERS: dict[str, Callable[[Path], object]] = {
    "endpoint.toml": lambda file: endpoint_settings.load(file, "lab"),
    "umbel.toml": lambda file: service_settings.load(file.parent, environ={}),
}


def test_settings_in_toml_blocks_are_accepted(tmp_path: Path) -> None:
    found = [(page, block) for page in PAGES for block in blocks(page) if block.language == "toml"]
    assert {block.caption for _, block in found} == set(READERS)
    for page, block in found:
        file = tmp_path / str(block.caption)
        file.write_text(block.text, encoding="utf-8")
        settings = READERS[file.name](file)
        file.unlink()
        assert settings != READERS[file.name](file), f"{page}:{block.line} changes no setting"


COMMANDS: dict[str, click.Group] = {"umbel": user_cli.main, "umbel-endpoint": endpoint_cli.main}


def test_commands_in_shell_blocks_exist_with_their_options() -> None:
    checked = 0
    for place, words in _shell_lines():
        command: click.Command | None = COMMANDS.get(words[0])
        rest = words[1:]
        while isinstance(command, click.Group) and rest:
            name = rest.pop(0)
            command = command.commands.get(name)
            assert command is not None, f"{place}: no command '{name}' in {words}"
        if command is not None:
            known = {option for parameter in command.params for option in parameter.opts}
            used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
            assert used <= known | {"--help"}, f"{place}: {sorted(used - known)} of {words[:2]}"
            checked += 1
        elif words[:3] == ["python", "-m", "federation"]:
            programs = re.findall(r"^  (\w+)  ", federation_main.USAGE, re.MULTILINE)
            assert words[3] in programs, f"{place}: {words}"
            checked += 1
    assert checked > 60


@pytest.mark.parametrize("program", COMMANDS)
def test_every_command_is_shown_in_a_tutorial_or_guide(program: str) -> None:
    shown = {words[1] for _, words in _shell_lines() if words[0] == program and len(words) > 1}
    assert set(COMMANDS[program].commands) == shown


def test_every_command_of_elastic_endpoints_is_shown() -> None:
    shown = {words[2] for _, words in _shell_lines() if words[:2] == ["umbel", "endpoint"]}
    assert set(cast(click.Group, user_cli.main.commands["endpoint"]).commands) == shown


def test_every_move_between_states_has_its_sentence() -> None:
    documented = set()
    for source, targets in re.findall(r"``(\w+) → ([\w |]+)``", _text("docs/explanation/states.rst")):
        documented.update((source, target.strip()) for target in targets.split("|"))
    assert documented == {(str(a), str(b)) for a, targets in TRANSITIONS.items() for b in targets}


def test_every_code_of_a_failed_task_is_explained_and_no_other() -> None:
    assert set(
        re.findall(r"^([A-Z]+(?:_[A-Z]+)+|TIMEOUT) ", _text("docs/explanation/states.rst"), re.MULTILINE)
    ) == set(TASK_CODES)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", _text("Makefile"), re.MULTILINE))
    for place, words in _shell_lines():
        if words[0] == "make":
            named = {word for word in words[1:2] if re.fullmatch(r"[a-z0-9]+", word)}
            assert named <= targets, f"{place}: {sorted(named - targets)}"
    for page in PAGES:
        literals = " ".join(re.findall(r"``make[^`]*``", _text(page)))
        named = set(re.findall(r"\bmake ([a-z0-9]+)\b(?= |$|`|&)", literals))
        assert named <= targets, f"{page}: {sorted(named - targets)}"


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"<([^>:]+\.rst)>`_", _text("README.rst"))
    assert len(links) > 8
    assert not [link for link in links if not (ROOT / link).is_file()]


def test_the_readme_is_a_door_not_a_manual() -> None:
    assert len(_text("README.rst").splitlines()) <= 150


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_page_can_be_reached(page: str) -> None:
    file = ROOT / page
    if file == DOCS / "index.rst":
        return
    nearest = file.parent / "index.rst"
    for index in {nearest, DOCS / "index.rst"} - {file}:
        if index.is_file() and _lists(index, file):
            return
    pytest.fail(f"{page} is in no table of contents")


def _lists(index: Path, file: Path) -> bool:
    if not file.is_relative_to(index.parent):
        return False
    text = index.read_text(encoding="utf-8")
    name = str(file.relative_to(index.parent).with_suffix(""))
    return bool(re.search(rf"^   {re.escape(name)}$", text, re.MULTILINE)) or (
        ":glob:" in text and name.startswith("0")
    )


#: What begins a path of the project, and files at its top.
PLACES = {file.name for file in ROOT.iterdir() if not file.name.startswith(".")}


def _paths(text: str) -> set[str]:
    return {path for path in re.findall(r"``([\w./-]+)``", text) if path.partition("/")[0] in PLACES}


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_exists(page: str) -> None:
    missing = [path for path in _paths(_text(page)) if "/" in path and not (ROOT / path).exists()]
    assert not missing


def test_the_architecture_names_every_folder_of_the_packages() -> None:
    folders = {
        f"{folder.relative_to(ROOT)}/"
        for package in PACKAGES.values()
        for folder in [package, *package.rglob("*/")]
        if folder.is_dir() and "__pycache__" not in folder.parts and any(folder.iterdir())
    }
    rows = set(re.findall(r"^``([\w/]+/)``  *\S", _text("docs/architecture.rst"), re.MULTILINE))
    assert rows == folders


def test_the_architecture_says_where_to_look() -> None:
    table = _text("docs/architecture.rst").partition("To change X, look in Y\n---")[2]
    rows = re.split(r"^   \* - ", table, flags=re.MULTILINE)[2:]
    assert len(rows) >= 20
    assert not [row.splitlines()[0] for row in rows if not _paths(row)]
