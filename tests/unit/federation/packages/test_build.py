"""The wheel holds the sources of umbel and endpoint_worker, and nothing else."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.packages import build
from tests.architecture.sources import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Built while the environment holds a secret."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UMBEL_TOKEN", "umb_topsecret")
        yield build.build(tmp_path_factory.mktemp("dist"))


def test_it_holds_the_sources_and_nothing_else(wheel: Path) -> None:
    wanted = {
        str(file.relative_to(folder.parent)): file.read_bytes()
        for folder in (ROOT / "sdk" / "umbel", ROOT / "endpoint_worker")
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    info = f"{build.WHEEL.rpartition('-py3')[0]}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    meta = {name.removeprefix(info) for name in found if name.startswith(info)}
    assert meta == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    assert {name: found[name] for name in found if not name.startswith(info)} == wanted


def test_nothing_of_this_machine_gets_into_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    for secret in ("umb_topsecret", str(ROOT), str(wheel.parent), str(Path.home()) + "/"):
        assert secret.encode() not in content, secret


def test_equal_sources_give_an_equal_wheel(wheel: Path, tmp_path: Path) -> None:
    again = build.build(tmp_path)
    assert again.read_bytes() == wheel.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [build.WHEEL], "a draft is left behind"


def test_the_release_tree_is_only_read(wheel: Path, tmp_path: Path) -> None:
    tree = _copy(tmp_path / "tree")
    (tree / "client.json").write_text("a secret beside the sources")
    (tree / "build" / "lib" / "umbel").mkdir(parents=True)
    (tree / "build" / "lib" / "umbel" / "old.py").write_text("left by an earlier build")
    before = sorted(tree.rglob("*"))
    assert build.build(tmp_path / "dist", root=tree).read_bytes() == wheel.read_bytes()
    assert sorted(tree.rglob("*")) == before


def test_the_command_prints_the_file_and_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert build.main(["dist"]) == 0
    path, fragment = capsys.readouterr().out.split()
    assert Path(path) == tmp_path / "dist" / build.WHEEL
    assert fragment == f"sha256={hashlib.sha256(Path(path).read_bytes()).hexdigest()}"


def test_what_is_missing_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(build.BuildError, match=r"setup\.cfg"):
        build.build(tmp_path / "dist", root=tmp_path)
    (tmp_path / "file").write_text("")
    assert build.main([str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error and len(error.splitlines()) == 1


def test_an_old_setuptools_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_BUILD", build._BUILD.replace("(70, 1)", "(9000, 0)"))
    with pytest.raises(build.BuildError, match="setuptools 70.1"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_changes_with_any_source(tmp_path: Path) -> None:
    _copy(tmp_path)
    seen = {build.digest(), build.digest(tmp_path)}
    assert len(seen) == 1
    for name in ("setup.cfg", "endpoint_worker/__init__.py", "sdk/umbel/new.py"):
        with (tmp_path / name).open("a") as out:
            out.write("# changed\n")
        seen.add(build.digest(tmp_path))
    assert len(seen) == 4


def _copy(tree: Path) -> Path:
    """The sources once more, at another place."""
    for file in build.sources():
        copy = tree / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return tree
