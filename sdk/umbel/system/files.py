"""The home directory, and files that only their owner can read."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def home_directory(home: str | os.PathLike[str] | None = None) -> Path:
    """Return Umbel's home directory.

    Args:
        home: The directory. Default: ``$UMBEL_HOME``, else ``~/.umbel``.

    Returns:
        An absolute path. The directory need not exist.

    Raises:
        FileNotFoundError: The path begins with ``~``, and the account has no home directory.
    """
    path = Path(home or os.environ.get("UMBEL_HOME") or "~/.umbel")
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        message = "the account's home directory is unknown: set UMBEL_HOME to an absolute path"
        raise FileNotFoundError(errno.ENOENT, message, str(path)) from None


def write_private(file: Path, data: bytes | str) -> None:
    """Replace the content of ``file`` in one step, with mode 0600.

    Readers see the old or the new content, never a part of it. The content is on disk when this returns.

    Args:
        file: The file; its directory must exist.
        data: The content. A string is written as UTF-8.

    Raises:
        OSError: It cannot be written; the old content is unchanged.
    """
    with _draft(file, data) as draft:
        os.replace(draft, file)
    _sync_directory(file.parent)


def create_private(file: Path, make: Callable[[], bytes]) -> bytes:
    """Return the content of ``file``; create it with mode 0600 if it does not exist.

    Processes that create it at the same time get the same content.

    Args:
        file: The file. A missing parent directory is created with mode 0700.
        make: Returns the content of a new file.

    Raises:
        OSError: It cannot be read or written.
    """
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _draft(file, make()) as draft:
            try:
                # unlike a rename, a link does not replace a file that another process has just created
                os.link(draft, file)
                _sync_directory(file.parent)
            except FileExistsError:
                pass
    return file.read_bytes()


def _sync_directory(directory: Path) -> None:
    """Write a directory's entries to disk, so that a new name survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems cannot; the file itself is written
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def append_private(file: Path) -> int:
    """Open ``file`` for appending, created with mode 0600 if it does not exist; return the descriptor."""
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


@contextmanager
def _draft(file: Path, data: bytes | str) -> Iterator[str]:
    """Yield the path of a new file with the content, next to ``file``; delete it unless it was renamed."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mkstemp: mode 0600
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data.encode() if isinstance(data, str) else data)
            out.flush()
            os.fsync(out.fileno())
        yield draft
    finally:
        Path(draft).unlink(missing_ok=True)
