"""Settings of sandboxes, and the exact command line of each kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from endpoint_worker.config.mounts import Mount, Start
from endpoint_worker.config.sandbox import KINDS, Sandbox
from endpoint_worker.config.settings import SettingsError, load
from endpoint_worker.sandbox import launchers
from endpoint_worker.sandbox.launchers import Launcher, launcher

START = Start(
    ["python3", "-c", "code"],
    Path("/site/ada"),
    [
        Mount(Path("/data"), "/data", "ro"),
        Mount(Path("/kit"), "/run/umbel/kit"),
        Mount(Path("/l"), "/run/umbel/line", "rw"),
    ],
    {"OMP_NUM_THREADS": "2", "PATH": "/usr/bin", "HOME": "/home/lab", "CONDA_PREFIX": "/conda"},
    [Path("/site/home")],
)


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "DEVICES", ())
    monkeypatch.setattr(launchers, "SYSTEM", ("/usr",))
    monkeypatch.setattr(launchers, "glob", lambda pattern: [])
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 100)


def line(kind: str, **more: object) -> str:
    image = {"image": "lab/py:1"} if kind not in ("none", "bubblewrap") else {}
    settings: dict[str, Any] = {"kind": kind, **image, **more}
    return " ".join(launcher(Sandbox(**settings)).command(START))


def test_without_a_sandbox_the_command_is_as_it_is() -> None:
    assert line("none") == "python3 -c code"
    assert Launcher().environment(START) == dict(START.environment)


def test_bubblewrap() -> None:
    said = line("bubblewrap", network=False, options=["--hostname", "box"])
    assert said == (
        "bwrap --unshare-all --die-with-parent --new-session --cap-drop ALL --ro-bind /usr /usr "
        "--tmpfs /var/tmp --dev /dev --proc /proc --tmpfs /tmp --tmpfs /run --ro-bind /data /data "
        "--bind /site/ada /site/ada --ro-bind /kit /run/umbel/kit --bind /l /run/umbel/line "
        "--setenv HOME /site/ada --unsetenv TMPDIR --chdir /site/ada --hostname box "
        "-- python3 -c code"
    )
    assert " --share-net " in line("bubblewrap")
    assert " --ro-bind /images/py / " in line("bubblewrap", image="/images/py")


def test_bubblewrap_hides_a_home_that_a_mount_would_show() -> None:
    shown = Start(START.argv, START.work, [Mount(Path("/site"), "/site", "ro")], {}, START.hidden)
    argv = launcher(Sandbox("bubblewrap")).command(shown)
    said = " ".join(argv)
    assert (
        said.index("--ro-bind /site /site")
        < said.index("--tmpfs /site/home")
        < said.index("--bind /site/ada")
    )


def test_podman() -> None:
    assert line("podman", network=False, command=["/opt/podman", "--runtime", "crun"]) == (
        "/opt/podman --runtime crun run --rm --pull never --log-driver none --init=false --network none "
        "--security-opt no-new-privileges --cap-drop ALL --security-opt label=disable --userns keep-id "
        "--volume /data:/data:ro --volume /kit:/run/umbel/kit:ro --volume /l:/run/umbel/line:rw "
        "--volume /site/ada:/site/ada:rw --env HOME=/site/ada --env OMP_NUM_THREADS "
        "--workdir /site/ada --entrypoint python3 lab/py:1 -c code"
    )


def test_podman_leaves_a_folder_of_files_as_it_is(tmp_path: Path) -> None:
    assert f" --rootfs {tmp_path}:O -c code" in line("podman", image=str(tmp_path))


def test_docker() -> None:
    assert line("docker", options=["--gpus", "all"]) == (
        "docker run --rm --pull never --log-driver none --init=false --network host "
        "--security-opt no-new-privileges --cap-drop ALL --security-opt label=disable --user 1000:100 "
        "--volume /data:/data:ro --volume /kit:/run/umbel/kit:ro --volume /l:/run/umbel/line:rw "
        "--volume /site/ada:/site/ada:rw --env HOME=/site/ada --env OMP_NUM_THREADS "
        "--workdir /site/ada --gpus all --entrypoint python3 lab/py:1 -c code"
    )


@pytest.mark.parametrize("kind", ["apptainer", "singularity"])
def test_apptainer_and_its_older_name(kind: str) -> None:
    assert line(kind, network=False) == (
        f"{kind} exec --containall --cleanenv --no-home --pid --ipc --net --network none "
        "--bind /data:/data:ro --bind /kit:/run/umbel/kit:ro --bind /l:/run/umbel/line:rw "
        "--bind /site/ada:/site/ada:rw --pwd /site/ada lab/py:1 python3 -c code"
    )
    environ = launcher(Sandbox(kind, "lab/py:1")).environment(START)
    prefix = f"{kind.upper()}ENV_"
    assert environ[f"{prefix}OMP_NUM_THREADS"] == "2" and environ[f"{prefix}HOME"] == "/site/ada"
    assert f"{prefix}PATH" not in environ and environ["PATH"] == "/usr/bin"


def test_charliecloud(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    chosen = launcher(Sandbox("charliecloud", str(tmp_path)))
    assert chosen.in_place and chosen.inside("kit") == "/tmp/.umbel/kit"
    assert " ".join(chosen.command(START)) == (
        "ch-run --private-tmp --cd /tmp/work --bind /data:/data --bind /kit:/run/umbel/kit "
        f"--bind /l:/run/umbel/line --bind /site/ada:/tmp/work {tmp_path} -- python3 -c code"
    )
    assert chosen.work(Path("/scratch")) == "/scratch"
    assert chosen.environment(START) == {
        "USER": "umbel",
        "PATH": "/usr/bin",
        "HOME": "/tmp/work",
        "OMP_NUM_THREADS": "2",
    }


def test_shifter() -> None:
    assert line("shifter") == (
        "shifter --image=lab/py:1 --workdir=/site/ada --volume=/data:/data:ro "
        "--volume=/kit:/run/umbel/kit:ro --volume=/l:/run/umbel/line --volume=/site/ada:/site/ada "
        "-- python3 -c code"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_accelerators_are_passed_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "DEVICES", ("/dev/nvidia*",))
    monkeypatch.setattr(launchers, "glob", lambda pattern: ["/dev/nvidia0"])
    said = line(kind)
    wanted = {
        "bubblewrap": "--dev-bind /dev/nvidia0 /dev/nvidia0",
        "podman": "--device /dev/nvidia0",
        "docker": "--device /dev/nvidia0",
        "apptainer": "--nv",
        "singularity": "--nv",
    }
    assert wanted.get(kind, "") in said  # charliecloud and shifter hide no devices


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('kind = "bublewrap"', "'kind'.*bubblewrap.*got 'bublewrap'"),
        ('kind = "podman"', "'podman'.*'image'"),
        ('kind = "charliecloud"\nimage = "/i"\nnetwork = false', "'charliecloud'.*network"),
        ('kind = "bubblewrap"\nbinds = ["data"]', "'binds'.*got 'data'"),
        ('kind = "bubblewrap"\nbinds = ["/a:/b:/c"]', "'binds'.*got '/a:/b:/c'"),
        ("network = 1", "'network'.*got 1"),
        ('knd = "none"', "did you mean 'kind'"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "endpoint.toml"
    file.write_text(f"[sandbox]\n{text}\n")
    with pytest.raises(SettingsError, match=said):
        load(file, "lab")


def test_binds_are_read_and_none_shows_the_endpoints_folder(tmp_path: Path) -> None:
    folder = tmp_path / "endpoints/lab"
    folder.mkdir(parents=True)
    good = Sandbox("bubblewrap", binds=["/data:ro", "/scratch", "/a:/b:ro", "/dev/kvm:dev"])
    assert [(str(m.source), m.target, m.mode) for m in good.mounts(folder)] == [
        ("/data", "/data", "ro"),
        ("/scratch", "/scratch", "rw"),
        ("/a", "/b", "ro"),
        ("/dev/kvm", "/dev/kvm", "dev"),
    ]
    for bad in (tmp_path, folder, folder / "logs"):
        with pytest.raises(ValueError, match="'binds'.*exposes the endpoint's own directory"):
            Sandbox("bubblewrap", binds=[f"{bad}:ro"]).mounts(folder)
