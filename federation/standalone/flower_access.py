"""Who may look at Flower: a user and a password of this home, kept in a private file."""

from __future__ import annotations

import secrets
from pathlib import Path

from umbel.system.files import write_private

from .files import private_folder

USER = "umbel"


def prepare(home: Path) -> None:
    """Make the password unless there is one."""
    file = _file(home)
    private_folder(file.parent)
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24) + "\n")


def password(home: Path) -> str:
    """The password that ``prepare`` made. Raises OSError."""
    return _file(home).read_text(encoding="utf-8").strip()


def hint(home: Path) -> str:
    """What to tell a person who wants to look: the user's name, and where the password is."""
    return f"user {USER}, password in {_file(home)}"


def _file(home: Path) -> Path:
    return home / "keys" / "flower.password"
