"""The user and password of Flower in this home; the password is stored in a private file."""

from __future__ import annotations

import secrets
from pathlib import Path

from umbel.system.files import write_private

from .files import private_folder

USER = "umbel"


def prepare(home: Path) -> None:
    """Create the password if it does not exist."""
    file = _file(home)
    private_folder(file.parent)
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24) + "\n")


def password(home: Path) -> str:
    """Return the password created by ``prepare``. Raises OSError."""
    return _file(home).read_text(encoding="utf-8").strip()


def hint(home: Path) -> str:
    """Return the login hint for users: the user name, and the file of the password."""
    return f"user {USER}, password in {_file(home)}"


def _file(home: Path) -> Path:
    return home / "keys" / "flower.password"
