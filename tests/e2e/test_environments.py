"""Functions that need packages, through the SDK on real endpoints: built once from local wheels, and kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import umbel as sdk
from tests.support import sandboxes, scripts, wheels
from tests.support.embedded import Embedded, HandEndpoint
from tests.support.wait import wait_until
from umbel import TaskError

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    wheels.make(folder, "umbeltoy", "1.0")
    wheels.make(folder, "umbeltoy", "2.0", needs=["umbelhelp"])
    wheels.make(folder, "umbelhelp", "0.3")
    wheels.make(folder, "umbelbroken", "1.0", needs=["umbelnowhere>=7"])
    # 3 MB in one file
    wheels.make(folder, "umbelheavy", "1.0", code=f"DATA = {'x' * 3_000_000!r}")
    return folder


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("environments"), workers=0) as embedded:
        yield embedded


def _settings(index: Path, **more: object) -> str:
    values = {"options": ["--no-index", "--find-links", str(index)], **more}
    return "\n[environments]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


@pytest.fixture(scope="module")
def lab(umbel: Embedded, index: Path) -> HandEndpoint:
    named = f'[environments.named]\nready = "{sys.executable}"\n'
    return umbel.endpoint("lab", slots=2, settings=_settings(index) + named)


def _built(endpoint: HandEndpoint) -> list[dict[str, Any]]:
    folder = endpoint.folder / "cache/environments"
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def _log(endpoint: HandEndpoint) -> str:
    return (endpoint.home / "endpoint.out").read_text()


@sdk.function(requirements=["umbeltoy==1.*"])
def _toy_one() -> tuple[str, str]:
    import sys

    import umbeltoy  # type: ignore[import-not-found]

    return umbeltoy.__version__, sys.prefix


@sdk.function(requirements=["umbeltoy==1.*"])
def _toy_too(number: int) -> tuple[int, str]:
    import umbeltoy

    return number, umbeltoy.__version__


@sdk.function(requirements=["umbeltoy >= 2"])
def _toy_two() -> tuple[str, str, int]:
    import os

    import umbelhelp  # type: ignore[import-not-found]
    import umbeltoy

    return umbeltoy.__version__, umbelhelp.__version__, os.getpid()


@sdk.function(requirements=["umbelbroken"])
def _broken() -> None:
    pass


@sdk.function(requirements=["umbeltoy"], python="3.10")
def _of_other_python() -> None:
    pass


def _other_python(folder: Path, script: str) -> str:
    """Settings of a site whose Python 3.10 is a script of shell, which uv has a look at."""
    python = scripts.write(folder / "bin" / "python3.10", script)
    return f'\n[environment]\nPATH = "{python.parent}:/usr/bin:/bin"\n'


def test_two_functions_at_once_share_an_environment_that_is_built_once(
    umbel: Embedded, lab: HandEndpoint
) -> None:
    with umbel.executor("lab") as executor:
        futures = [executor.submit(_toy_one), *(executor.submit(_toy_too, number) for number in range(50))]
        version, prefix = futures[0].result(timeout=120)
        assert version == "1.0"
        assert [future.result(timeout=120) for future in futures[1:]] == [(n, "1.0") for n in range(50)]
    (built,) = _built(lab)
    assert prefix == built["folder"]
    assert _log(lab).count(": ready after") == 1


def test_an_environment_is_part_of_the_function_and_shown(umbel: Embedded) -> None:
    client = umbel.client()
    shown = client.get_function(client.register_function(_toy_two))["environment"]
    wanted = sdk.Environment(["umbeltoy >= 2"])
    assert shown == {"digest": wanted.digest, "requirements": ["umbeltoy >= 2"]}
    plain = client.get_function(client.register_function(pow))
    assert plain["environment"] is None


def test_runners_of_an_environment_stay_warm_beside_others(umbel: Embedded, lab: HandEndpoint) -> None:
    with umbel.executor("lab") as executor:
        version, helper, pid = executor.submit(_toy_two).result(timeout=120)
        assert (version, helper) == ("2.0", "0.3")
        began = time.monotonic()
        for _ in range(5):
            assert executor.submit(pow, 2, 5).result(timeout=60) == 32
            assert executor.submit(_toy_two).result(timeout=60)[2] == pid
        assert time.monotonic() - began < 30


def test_a_build_that_fails_says_why_and_is_remembered(umbel: Embedded, lab: HandEndpoint) -> None:
    with umbel.executor("lab") as executor:
        futures = [executor.submit(_broken) for _ in range(3)]
        for future in futures:
            with pytest.raises(TaskError, match="umbelnowhere") as caught:
                future.result(timeout=120)
            assert caught.value.code == "ENVIRONMENT_ERROR"
        before = _log(lab).count(": build failed")
        with pytest.raises(TaskError, match="umbelnowhere"):
            executor.submit(_broken).result(timeout=60)
        # others went on; the second time nothing was run to find out
        assert executor.submit(pow, 2, 5).result(timeout=60) == 32
    assert before >= 1


def test_a_build_keeps_nobody_else_waiting_and_outlives_runners(
    umbel: Embedded, index: Path, tmp_path: Path
) -> None:
    real = Path(sys.executable).with_name("uv")
    assert real.exists() or shutil.which("uv")
    first = tmp_path / "first"
    other_python = _other_python(tmp_path, f"touch {first}\nsleep 6\nexit 1")
    endpoint = umbel.endpoint("patient", slots=1, settings=_settings(index) + other_python)
    with umbel.executor("patient") as executor, umbel.executor("patient", max_attempts=1) as other:
        late = executor.submit(_of_other_python)
        wait_until(first.exists, 60.0, what="the build's beginning")
        began = time.monotonic()
        assert other.submit(pow, 2, 5).result(timeout=60) == 32
        quick = time.monotonic() - began
        # a runner's end has orphans of calls looked for: the build is none
        with pytest.raises(TaskError, match="WORKER_LOST"):
            other.submit(os._exit, 3).result(timeout=60)
        with pytest.raises(TaskError) as caught:
            late.result(timeout=120)
        assert caught.value.code == "ENVIRONMENT_ERROR" and "3.10" in caught.value.message
        assert quick < 5
    endpoint.stop()


def test_a_build_that_its_worker_leaves_behind_is_no_failure(
    umbel: Embedded, index: Path, tmp_path: Path
) -> None:
    # the first look at this Python lasts until the worker stops; the second one says what is wrong
    first = tmp_path / "first"
    other_python = _other_python(tmp_path, f"[ -e {first} ] && exit 1\ntouch {first}\nexec sleep 60")
    endpoint = umbel.endpoint("leaving", slots=1, settings=_settings(index) + other_python)
    with umbel.executor("leaving") as executor:
        future = executor.submit(_of_other_python)
        wait_until(first.exists, 60.0, what="the build's beginning")
        endpoint.stop()
        endpoint.start()
        error = future.exception(timeout=120)
    assert isinstance(error, TaskError) and "3.10" in error.message and "killed" not in error.message
    endpoint.stop()


def test_environments_that_a_site_has_ready(umbel: Embedded, lab: HandEndpoint) -> None:
    @sdk.function(environment="ready")
    def prefix() -> str:
        import sys

        return sys.prefix

    @sdk.function(environment="unheard-of")
    def nothing() -> None:
        pass

    with umbel.executor("lab") as executor:
        assert executor.submit(prefix).result(timeout=60) == sys.prefix
        with pytest.raises(TaskError, match="'unheard-of'.* ready") as caught:
            executor.submit(nothing).result(timeout=60)
    assert caught.value.code == "ENVIRONMENT_ERROR"


def test_what_was_used_longest_ago_makes_room(umbel: Embedded, index: Path) -> None:
    @sdk.function(requirements=["umbelheavy"])
    def heavy() -> int:
        import umbelheavy  # type: ignore[import-not-found]

        return len(umbelheavy.DATA)

    @sdk.function(requirements=["umbelheavy", "umbeltoy==1.0"])
    def heavier() -> int:
        import umbelheavy

        return len(umbelheavy.DATA)

    small = umbel.endpoint("small", settings=_settings(index, size="4MiB"))
    with umbel.executor("small") as executor:
        assert executor.submit(heavy).result(timeout=120) == 3_000_000
        # a worker keeps what its runners use: only after a restart may it go
        small.stop()
        first = _built(small)
        small.start()
        assert executor.submit(heavier).result(timeout=120) == 3_000_000
    small.stop()
    assert len(first) == 1 and [entry["digest"] for entry in _built(small)] != [first[0]["digest"]]
    assert len(_built(small)) == 1 and not Path(first[0]["folder"]).exists()


def test_a_site_that_forbids_environments(umbel: Embedded, index: Path) -> None:
    rules = '[rules]\nallowed_requirements = ["umbelhelp"]\n'
    strict = umbel.endpoint("strict", settings=_settings(index) + rules)
    with umbel.executor("strict") as executor:
        with pytest.raises(TaskError, match="rule allowed_requirements") as caught:
            executor.submit(_toy_one).result(timeout=60)
        assert executor.submit(pow, 2, 5).result(timeout=60) == 32
    assert caught.value.code == "NOT_ALLOWED" and _built(strict) == []
    strict.stop()


def test_environments_and_setup_lines_in_a_sandbox(umbel: Embedded, index: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("not installed: bwrap")

    @sdk.function(requirements=["umbeltoy==1.*"])
    def look() -> tuple[str, str]:
        import os

        import umbeltoy

        return umbeltoy.__version__, os.environ["FROM_SETUP"]

    settings = sandboxes.toml("bubblewrap", None, network=False) + _settings(index)
    endpoint = umbel.endpoint("boxed", settings=settings)
    endpoint.stop()
    file = endpoint.folder / "endpoint.toml"
    file.write_text("setup = ['export FROM_SETUP=loaded']\n" + file.read_text())
    endpoint.start()
    with umbel.executor("boxed") as executor:
        assert executor.submit(look).result(timeout=120) == ("1.0", "loaded")
    endpoint.stop()
