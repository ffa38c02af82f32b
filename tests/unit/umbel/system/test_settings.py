"""The one reader of settings: which values it accepts, and what it says about those it rejects."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from umbel.system.setting_types import SECRET, Count, Number, Port, Positive, Secret, Size, parse_size
from umbel.system.settings import InvalidSettings, Source, read, read_toml, suggestion


@dataclass(frozen=True)
class Inner:
    depth: Count = 0
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Everything:
    home: str
    count: Count = 0
    workers: Positive = 1
    port: Port = 8642
    seconds: Number = 1.0
    walltime: Annotated[float, Meta(ge=60)] = 60.0
    ratio: float = 0.5
    memory: Size = 0
    on: bool = False
    text: str = ""
    level: Literal["low", "middle", "high"] = "low"
    names: tuple[str, ...] = ()
    allowed: frozenset[str] | None = None
    table: Mapping[str, str] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)
    password: Secret = ""
    hidden: Annotated[tuple[str, ...], SECRET] = ()
    variables: Annotated[Mapping[str, str], SECRET] = field(default_factory=dict)
    outer: Outer = field(default_factory=Outer)

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("setting 'count' must not be 13")


def one(name: str, value: Any, syntax: Any = "toml") -> Any:
    """What the reader makes of one value."""
    key = f"UMBEL_{name.upper()}" if syntax == "environment" else name
    return getattr(read(Everything, Source("x.toml", {key: value}, syntax), home="h"), name)


def error(name: str, value: Any, syntax: Any = "toml") -> str:
    """What the reader says about one value."""
    with pytest.raises(InvalidSettings) as caught:
        one(name, value, syntax)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "made"),
    [
        ("count", 2**63 - 1, 2**63 - 1),
        ("port", 0, 0),
        ("seconds", 3, 3.0),
        ("ratio", -1, -1.0),
        ("memory", "1.5 GiB", 3 * 2**29),
        ("memory", "10", 10),
        ("memory", "2kb", 2048),
        ("memory", 7, 7),
        ("on", True, True),
        ("text", "", ""),
        ("names", ["a", ""], ("a", "")),
        ("allowed", ["a", "a"], frozenset("a")),
        ("table", {"a": "b"}, {"a": "b"}),
        ("free", {"a": [1]}, {"a": [1]}),
        ("outer", {"inner": {"depth": 3}}, Outer(Inner(3))),
        ("outer", {"inner": {"names": []}}, Outer(Inner(names=()))),
    ],
)
def test_values_that_fit(name: str, value: Any, made: Any) -> None:
    found = one(name, value)
    assert (found, type(found)) == (made, type(made))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", True, "a non-negative integer, got true"),
        ("count", -1, "a non-negative integer, got -1"),
        ("count", 3.0, "a non-negative integer, got 3.0"),
        ("count", "3", "a non-negative integer, got '3'"),
        ("count", "", "a non-negative integer, got ''"),
        ("count", 2**63, "a non-negative integer, got an integer of more than 64 bits"),
        ("count", 10**400, "a non-negative integer, got an integer of more than 64 bits"),
        ("count", {}, "a non-negative integer, got a table"),
        ("workers", 0, "a positive integer, got 0"),
        ("port", 65536, "an integer from 0 to 65535, got 65536"),
        ("seconds", math.nan, "a number from 0 to 1000000000, got nan, which is not a finite number"),
        ("seconds", math.inf, "a number from 0 to 1000000000, got inf, which is not a finite number"),
        ("seconds", -0.5, "a number from 0 to 1000000000, got -0.5"),
        ("seconds", False, "a number from 0 to 1000000000, got false"),
        ("seconds", 10**400, "a number from 0 to 1000000000, got an integer of more than 64 bits"),
        ("ratio", -math.inf, "a number, got -inf, which is not a finite number"),
        ("walltime", 59, "a number of at least 60, got 59"),
        ("memory", "4 GiB each", "a non-negative integer or a size such as \"4GiB\", got '4 GiB each'"),
        ("memory", "-4GiB", "'-4GiB'"),
        ("memory", "4XB", "'4XB'"),
        ("memory", "1e3", "'1e3'"),
        ("memory", "", "got ''"),
        ("memory", "9" * 400, "got '" + "9" * 40 + "'..."),
        ("memory", "9999999T", "got '9999999T'"),
        ("memory", True, "got true"),
        ("on", 1, "true or false, got 1"),
        ("on", "true", "true or false, got 'true'"),
        ("text", 3, "a string, got 3"),
        ("text", None, "a string, got null"),
        ("text", "x".split(), "a string, got a list"),
        ("level", "loud", "low, middle or high, got 'loud'"),
        ("level", 10**400, "low, middle or high, got an integer of more than 64 bits"),
        ("names", "PATH", "a list of strings, got 'PATH'"),
        ("names", ["a", 3], "a list of strings, got 3 as item 2"),
        ("names", [["a"]], "a list of strings, got a list as item 1"),
        ("allowed", {"a": 1}, "a list of strings, got a table"),
        ("table", [], "a table of strings, got a list"),
        ("table", {"a": "b", "c": {}}, "a table of strings, got a table for 'c'"),
        ("free", 3, "a table, got 3"),
        ("outer", 3, "a table, got 3"),
    ],
)
def test_values_that_do_not_fit(name: str, value: Any, said: str) -> None:
    message = error(name, value)
    assert message.startswith(f"x.toml: setting '{name}' must be ") and message.endswith(said)
    assert len(message) < 200 and "\n" not in message


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("password", 123456, "an integer"),
        ("password", ["hunter2"], "a list"),
        ("password", {"word": "hunter2"}, "a table"),
        ("hidden", "--key hunter2", "a string"),
        ("hidden", ["hunter2", 123456], "an integer as item 2"),
        ("variables", {"TOKEN": "hunter2", "PIN": 123456}, "an integer for 'PIN'"),
    ],
)
def test_secrets_are_never_shown(name: str, value: Any, kind: str) -> None:
    message = error(name, value)
    assert message.endswith(f"got {kind}")
    assert "hunter2" not in message and "123456" not in message


def test_tables_in_tables_are_named() -> None:
    assert error("outer", {"inner": {"depth": -1}}).startswith("x.toml, [outer.inner]: setting 'depth' must")
    assert error("outer", {"inner": {"depht": 1}}) == (
        "x.toml, [outer.inner]: unknown setting 'depht'; did you mean 'depth'?"
    )
    assert error("outer", {"inner": []}).startswith("x.toml, [outer]: setting 'inner' must be a table, got a")


def test_integers_that_python_cannot_print_are_rejected() -> None:
    for name in ("count", "text", "seconds", "memory", "on", "names", "level"):
        assert error(name, 10**5000).endswith("got an integer of more than 64 bits")


def test_values_nested_deeply_do_no_harm() -> None:
    value: Any = []
    for _ in range(20_000):
        value = [value]
    for name in ("count", "text", "names", "table", "outer"):
        assert f"'{name}'" in error(name, value)


def test_unknown_settings_get_a_suggestion() -> None:
    assert "'x.toml'" not in error("prot", 3) and error("prot", 3).endswith("did you mean 'port'?")
    assert error("PORT", 3).endswith("'PORT'; did you mean 'port'?")
    assert "known settings: allowed, count" in error("zzz", 3)
    assert "home" not in error("hme", 3), "what the caller sets is no setting"
    assert len(error("z" * 10_000, 3)) < 400 and "\n" not in error("a\nb", 3)
    assert suggestion("limt", ["Limit", "cursor"], "fields") == "did you mean 'Limit'?"


def test_a_setting_outside_its_table_is_told_its_table() -> None:
    assert error("depth", 3).endswith("unknown setting 'depth'; it belongs in table [outer.inner]")
    with pytest.raises(InvalidSettings, match=r"it belongs in table \[outer.inner\]"):
        read(Outer, Source("x.toml", {"depth": 3}, table="outer"))


def test_a_long_text_is_soon_no_size() -> None:
    """One pass over the text, not one for each of its spaces."""
    for text in ("1" + " " * 1_000_000 + "x", " " * 1_000_000 + "x", "1" + " " * 1_000_000):
        start = time.process_time()
        assert text.endswith(" ") or error("memory", text)
        if text.endswith(" "):
            assert parse_size(text) == 1
        assert time.process_time() - start < 5


def test_json_does_not_tell_3_from_3_0() -> None:
    assert one("count", 3.0, "json") == 3 and type(one("count", 3.0, "json")) is int
    assert error("count", 3.5, "json").endswith("got 3.5")
    assert error("count", math.nan, "json") and error("count", math.inf, "json")
    assert error("count", "3", "json").endswith("got '3'")
    assert error("count", 1e300, "json").endswith("got 1e+300")


@pytest.mark.parametrize(
    ("name", "value", "made"),
    [
        ("count", "3", 3),
        ("count", " 3 ", 3),
        ("seconds", "2.5", 2.5),
        ("seconds", "2", 2.0),
        ("memory", "4GiB", 2**32),
        ("memory", "4096", 4096),
        ("on", "true", True),
        ("on", "0", False),
        ("text", " 3 ", " 3 "),
        ("text", "", ""),
        ("level", "high", "high"),
        ("password", "p", "p"),
    ],
)
def test_variables_are_read_by_the_type_of_their_setting(name: str, value: str, made: Any) -> None:
    found = one(name, value, "environment")
    assert (found, type(found)) == (made, type(made))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", "x"),
        ("count", ""),
        ("count", "-1"),
        ("count", "3.5"),
        ("count", "9" * 400),
        ("seconds", "nan"),
        ("seconds", "inf"),
        ("seconds", "9" * 400),
        ("on", "maybe"),
        ("on", ""),
        ("level", "LOW"),
        ("memory", "much"),
        ("names", "a,b"),
        ("table", "a=b"),
        ("outer", "x"),
    ],
)
def test_variables_that_do_not_fit_are_named(name: str, value: str) -> None:
    assert error(name, value, "environment").startswith(f"x.toml: variable 'UMBEL_{name.upper()}' must be ")


def test_unknown_variables_are_ignored() -> None:
    source = Source("environment", {"UMBEL_PROT": "x", "UMBEL_HOME": "y", "PATH": "z"}, "environment")
    assert read(Everything, source, home="h") == Everything("h")


def test_the_last_source_wins_and_a_value_that_loses_is_not_checked() -> None:
    file, flags = Source("x.toml", {"port": "bad", "count": 1}), Source("command line", {"port": 3})
    variables = Source("environment", {"UMBEL_COUNT": "2", "UMBEL_PORT": "bad"}, "environment")
    chosen = read(Everything, file, variables, flags, home="h")
    assert (chosen.port, chosen.count) == (3, 2)
    with pytest.raises(InvalidSettings, match="environment: variable 'UMBEL_PORT'"):
        read(Everything, file, variables, home="h")
    with pytest.raises(InvalidSettings, match="command line: setting 'port'"):
        read(Everything, file, variables, Source("command line", {"port": -1}), home="h")


def test_what_the_type_itself_rejects_names_the_source() -> None:
    assert error("count", 13) == "x.toml: setting 'count' must not be 13"
    with pytest.raises(InvalidSettings, match="x.toml: setting 'home' is missing"):
        read(Everything, Source("x.toml", {}))


@given(st.text(max_size=9))
def test_any_text_is_a_size_or_an_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError:
        assert error("memory", text)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([name for name in Everything.__dataclass_fields__ if name != "home"]), _ANY)
def test_any_value_gives_settings_or_the_error(name: str, value: Any) -> None:
    for syntax in ("toml", "json"):
        try:
            one(name, value, syntax)
        except InvalidSettings as error:
            assert str(error).startswith("x.toml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"port = x", "not valid TOML.*line 1"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b'a = "\xff"', "not UTF-8 text"),
        (b"a = " + b"[" * 100_000, "not valid TOML|nested too deeply"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidSettings, match=said) as caught:
        read_toml(file)
    assert str(caught.value).startswith(f"{file} ")


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_toml(tmp_path / "x.toml") == {"a": 1}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert read_toml(tmp_path / "none.toml") == {}
    (tmp_path / "x").touch()
    assert read_toml(tmp_path / "x" / "none.toml") == {}
    with pytest.raises(InvalidSettings, match=f"{tmp_path} cannot be read: Is a directory"):
        read_toml(tmp_path)
    (tmp_path / "x").chmod(0)
    if os.geteuid():
        with pytest.raises(InvalidSettings, match="cannot be read: Permission denied"):
            read_toml(tmp_path / "x")
