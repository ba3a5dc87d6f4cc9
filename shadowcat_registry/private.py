"""Directories and files that are one user's alone: made so, and checked to be so.

Knows nothing of what is kept in them. Who may read is told by modes and owners on POSIX; elsewhere
(Windows) these are the business of whoever made the home directory.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from .directories import sync_directory

_IS_POSIX: Final = os.name == "posix"


def make_private_directory(directory: Path) -> None:
    """Make `directory` 0700, with what is missing above it, or check that what is there is ours alone.

    Raises:
        OSError: it is a link or no directory, belongs to another user, others may use it, or it cannot be
            made. The text says which, and what to do.
    """
    _make(directory)
    check_private_directory(directory)


def check_private_directory(directory: Path) -> None:
    """Raises: OSError, as `make_private_directory`, also where there is none."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _refusal(f"{directory} is no directory of ours; remove it", errno.ENOTDIR)
    if not _IS_POSIX:
        return
    if status.st_uid != os.geteuid():
        raise _refusal(f"{directory} belongs to another user (uid {status.st_uid})")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise _refusal(f"others may use {directory} (mode {mode:04o}); chmod 700 it")


def is_ours(path: Path) -> bool:
    """Whether what stands at `path`, a link not followed, belongs to this user."""
    try:
        return not _IS_POSIX or path.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def write_private(path: Path, data: bytes) -> None:
    """Put `data` at `path`, 0600, whole or not at all; on return it outlives a loss of power.

    Raises:
        OSError: it could not be written. What was there is as it was.
    """
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)  # noqa: PTH105 - what `mkstemp` gives is a name, not a Path
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)  # noqa: PTH108 - as above
        raise
    sync_directory(path.parent)


def read_private(path: Path, limit_bytes: int) -> bytes:
    """The content of a file of ours that nobody else could have written.

    Raises:
        OSError: there is none, it is too large, a link, no regular file, or another user's.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(f"{path} is no regular file", errno.EINVAL)
        if _IS_POSIX and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise _refusal(f"others could have written {path}")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit_bytes:
        raise _refusal(f"{path} is larger than {limit_bytes} bytes", errno.EFBIG)
    return data


def _make(directory: Path) -> None:
    with suppress(FileExistsError):
        try:
            directory.mkdir(mode=0o700)
        except FileNotFoundError:
            if directory.parent == directory:
                raise
            _make(directory.parent)
            directory.mkdir(mode=0o700)


def _refusal(text: str, number: int = errno.EPERM) -> OSError:
    return OSError(number, text)
