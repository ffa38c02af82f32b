"""Packages that both sides have: their functions and classes travel by name, if nothing differs.

A package that is not in ``site-packages``, such as one of ``pip install --editable``, travels as code with a
digest of its files. A process that can import a package with the same files uses its own instead, so that
``isinstance`` and the identity of enumerations hold. The digest stands for what a process has loaded, not for
what is on the disk: it is unknown if a file changed after the process started, or if the program has replaced
something in the package. By value is always right; by name is only used where both are the same.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator
from enum import Enum
from operator import is_
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from .source import code_in

#: Largest package: files and their bytes.
MAX_FILES, MAX_BYTES = 2_000, 20 * 1024**2
#: Largest source text (bytes) of newly loaded modules that is compared with what is loaded.
MAX_LOADED = 2 * 1024**2
_STARTED = time.time()
#: Attributes of classes that Python sets itself.
_OWN = {"__slotnames__", "_abc_impl", "__abstractmethods__", "__annotations__", "__annotations_cache__"}
_CONTAINERS = (list, dict, set)


class _Verified(NamedTuple):
    """A package as it was when it was compared with its files: what its modules contain, by name."""

    content: dict[str, list[Any]]
    digest: str | None


#: Packages of what was read since this was cleared, and whether this process used its own copy for all of it.
chosen: dict[str, bool] = {}
_lock = threading.RLock()
_verified: dict[str, _Verified] = {}
_digests: dict[str, str | None] = {}


def loaded_digest(package: str) -> str | None:
    """Return the digest of a loaded package, or None if its content may differ from its files."""
    with _lock:
        known = _verified.get(package) or _Verified({}, file_digest(package))
        if known.digest is None:
            return None
        added: dict[str, list[Any]] = {}
        modules = _modules(package)
        new = [module for module in modules if module.__name__ not in known.content]
        if sum(map(_size, new)) > MAX_LOADED:
            modules, known = [], known._replace(digest=None)
            _verified[package] = known
        for module in modules:
            content, before = list(_content(module)), known.content.get(module.__name__)
            if before is None:
                added[module.__name__] = content
                if not _is_as_written(module):
                    # for good: comparing a package with its files takes long
                    known = known._replace(digest=None)
                    break
            elif len(content) != len(before) or not all(map(is_, content, before)):
                return None
        if added:
            _verified[package] = _Verified({**known.content, **added}, known.digest)
        return known.digest


def find(reference: tuple[str, str, str, str]) -> Any:
    """Return the object with that package, digest, module and name, or None if it is not the same here."""
    package, digest, module, qualname = reference
    if file_digest(package) != digest:
        return None
    found: Any = sys.modules.get(module)
    try:
        if found is None:
            found = importlib.import_module(module)
            if _changed(Path(found.__file__)):
                return None
        for name in qualname.split(".") if qualname else ():
            found = getattr(found, name)
    except Exception:  # importing runs the code of the package
        return None
    return found


def file_digest(package: str) -> str | None:
    """Return the digest of the files of a package that can be imported, or None. Computed once."""
    with _lock:
        if package not in _digests:
            try:
                _digests[package] = _digest(package)
            except (OSError, ImportError, ValueError, AttributeError):
                _digests[package] = None
        return _digests[package]


def _digest(package: str) -> str | None:
    spec = getattr(sys.modules.get(package), "__spec__", None) or importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        return None
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    files = sorted((file, root) for root in roots for file in root.rglob("*.py")) if roots else []
    if not roots:
        files = [(Path(spec.origin), Path(spec.origin).parent)]
    digest, size = hashlib.sha256(), 0
    for file, root in files:
        data = file.read_bytes()
        size += len(data)
        if _changed(file) or size > MAX_BYTES or len(files) > MAX_FILES:
            return None
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:32]


def _changed(file: Path) -> bool:
    """Return whether a file is newer than this process, which may have loaded the one before."""
    return os.stat(file).st_mtime > _STARTED


def _size(module: ModuleType) -> int:
    try:
        return os.stat(str(module.__file__)).st_size
    except (OSError, AttributeError):
        return 0


def _modules(package: str) -> list[ModuleType]:
    prefix = package + "."
    loaded = sys.modules.copy().items()
    found = [m for name, m in loaded if name == package or name.startswith(prefix)]
    return [m for m in found if isinstance(m, ModuleType)]


def _content(module: ModuleType) -> Iterator[Any]:
    """Yield everything in a module that a program may replace, or change in place."""
    rebound = _rebound(module)
    for name, value in vars(module).copy().items():
        if not isinstance(value, ModuleType) and name not in rebound:
            yield value
            yield from _parts(name, value, module.__name__)


def _parts(name: str, value: Any, module: str) -> Iterator[Any]:
    kind = type(value)
    if kind is FunctionType and value.__module__ == module:
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
    elif issubclass(kind, type) and value.__module__ == module:
        for own, attribute in vars(value).copy().items():
            if own not in _OWN:
                yield attribute
                yield from _parts(own, getattr(attribute, "__func__", attribute), module)
    elif kind in (list, dict, set) and not name.startswith("_"):
        # private ones are caches of the package itself
        yield from list(value)
        yield from list(value.values()) if kind is dict else ()


def _rebound(module: ModuleType) -> set[str]:
    """Return the variables that functions of a module assign with ``global``."""
    known = vars(module).get("__file__")
    return _names_rebound(known) if isinstance(known, str) else set()


_rebound_names: dict[str, set[str]] = {}


def _names_rebound(file: str) -> set[str]:
    if file not in _rebound_names:
        names: set[str] = set()
        try:
            for node in ast.walk(ast.parse(Path(file).read_bytes())):
                if isinstance(node, ast.Global):
                    names.update(node.names)
        except (OSError, SyntaxError, ValueError):
            pass
        _rebound_names[file] = names
    return _rebound_names[file]


def _is_as_written(module: ModuleType) -> bool:
    """Return whether functions, methods and constants of a module are those of its file."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return file is None  # a namespace package; extension modules are not compared
    try:
        if _changed(Path(file)):
            return False
        text = Path(file).read_text("utf-8")
        tree, code = ast.parse(text), code_in(text)
    except (OSError, SyntaxError, ValueError):
        return False
    for fn in _functions(vars(module), module.__name__):
        if fn.__code__.co_filename == file:
            if fn.__code__ not in code:
                return False
        elif fn.__module__ == "__main__" or _is_foreign(fn):
            return False
    return _constants_match(tree, tree.body, vars(module), _rebound(module))


def _is_foreign(fn: FunctionType) -> bool:
    """Return whether the code of a function was replaced by code of the program."""
    file = fn.__code__.co_filename
    if (
        file == getattr(sys.modules["__main__"], "__file__", None)
        or "ipykernel" in file
        or "<ipython" in file
    ):
        return True
    # generated methods, of data classes for example, have no file but the right name
    return file.startswith("<") and fn.__code__.co_name != fn.__name__


def _functions(variables: Any, module: str) -> Iterator[FunctionType]:
    for value in list(variables.values()):
        value = getattr(value, "__func__", value) if isinstance(value, (staticmethod, classmethod)) else value
        if type(value) is property:
            yield from _functions({n: getattr(value, n) for n in ("fget", "fset", "fdel")}, module)
        elif type(value) is FunctionType:
            yield value
        elif issubclass(type(value), type) and value.__module__ == module and vars(value) is not variables:
            yield from _functions(dict(vars(value)), module)


def _constants_match(tree: ast.AST, body: list[ast.stmt], variables: Any, rebound: set[str]) -> bool:
    """Compare the constants that are assigned once, by literals."""
    stored = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            cls = variables.get(statement.name)
            if isinstance(cls, type) and not issubclass(cls, Enum):
                if not _constants_match(statement, statement.body, vars(cls), set()):
                    return False
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if not isinstance(target, ast.Name) or stored.count(target.id) != 1 or target.id in rebound:
                continue
            try:
                written = ast.literal_eval(statement.value)
            except (ValueError, TypeError, SyntaxError):
                continue
            present = variables.get(target.id, statement)
            private = isinstance(written, _CONTAINERS) and target.id.startswith("_")
            if not private and not _is_equal(written, present):
                return False
    return True


def _is_equal(written: Any, present: Any) -> bool:
    # slots and fields of data classes replace the value by a descriptor
    if hasattr(type(present), "__get__") and not isinstance(present, (FunctionType, type)):
        return True
    return type(present) is type(written) and bool(present == written)
