"""Every module can be imported first, and imports do not drag in what they have no use for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, PYTHONPATH, ROOT, all_modules, modules

#: Modules that do something when imported.
PROGRAMS = {"__main__"}
#: `import umbel` is for notebooks and short scripts: nothing of the server's or the worker's.
HEAVY = set("alembic celery flask kombu marshmallow numpy paramiko psutil redis sqlalchemy".split())
#: How many modules `import umbel` may load beyond a bare interpreter's: its names are loaded on first use.
LIGHT = 60
#: ... and with Client and Executor in use.
IN_USE = 420


def _loaded(statement: str) -> set[str]:
    """Run ``statement`` in a fresh interpreter, return the modules that it loaded."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.timeout(300)
def test_every_module_can_be_imported_alone() -> None:
    names = [module for module, _ in all_modules() if module.rpartition(".")[2] not in PROGRAMS]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("importer.py"))],
        input="\n".join(names), cwd=ROOT, env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert len(names) > len(PACKAGES)


def test_importing_umbel_is_light() -> None:
    loaded = _loaded("import umbel")
    assert not {name.split(".")[0] for name in loaded} & HEAVY
    assert len(loaded) <= LIGHT, sorted(loaded)


def test_using_umbel_is_clean() -> None:
    loaded = _loaded("from umbel import Client, Executor")
    assert not {name.split(".")[0] for name in loaded} & (HEAVY | {"federation", "webapp", "endpoint_worker"})
    assert len(loaded) <= IN_USE, len(loaded)


#: The reader of settings.
READER = {"umbel.system.settings", "umbel.system.setting_types"}


def test_the_sdk_reads_no_settings() -> None:
    names = [module for module, _ in modules("umbel") if module.rpartition(".")[2] not in PROGRAMS]
    assert READER & set(names), "has it moved?"
    assert not _loaded(f"import {', '.join(sorted(set(names) - READER))}") & READER


def test_runners_read_no_settings() -> None:
    """They may run on pure-Python copies of umbel and endpoint_worker."""
    names = [module for module, _ in modules("endpoint_worker") if module.startswith("endpoint_worker.child")]
    names += ["endpoint_worker.sandbox.bootstrap", "umbel.serialize", "umbel.shell"]
    blocked = "; ".join(f"sys.modules['{name}'] = None" for name in sorted(READER | {"msgspec"}))
    loaded = _loaded(f"{blocked}; import {', '.join(names)}")
    assert "endpoint_worker.child.main" in loaded


@pytest.mark.parametrize("package", ["federation", "webapp"])
def test_server_processes_never_load_an_unpickler_of_calls(package: str) -> None:
    names = [module for module, _ in modules(package) if module.rpartition(".")[2] not in PROGRAMS]
    assert names, f"{package} has no modules"
    loaded = _loaded(f"import {', '.join(names)}")
    assert not loaded & {"cloudpickle", "umbel.serialization", "umbel.api.client", "umbel.executor"}


def test_the_celery_process_of_an_endpoint_never_unpickles() -> None:
    """Only the runner, which is its own process, may load what turns bytes into objects."""
    other = ("endpoint_worker.sandbox.bootstrap", "endpoint_worker.__main__")
    names = [m for m, _ in modules("endpoint_worker") if not m.startswith("endpoint_worker.child.")]
    names = [module for module in names if module not in other]
    loaded = _loaded(f"import {', '.join(names)}")
    assert not loaded & {"cloudpickle", "umbel.serialization"}
