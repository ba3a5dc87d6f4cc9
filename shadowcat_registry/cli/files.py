"""Writing a file that somebody asked for: whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path

import click

from ..directories import sync_directory
from ..interpolate import describe
from .output import fail


def write_whole(path: Path, text: str, *, replace: bool) -> bool:
    """Write `text`, readable by everybody, so that nobody ever sees a part of it.

    False, and nothing is changed, if something is there and is not to be replaced. Where it cannot be
    written, the command ends with exit code 1.
    """
    try:
        if not replace and os.path.lexists(path):
            return False
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            Path(name).chmod(0o644)
            if replace:
                os.replace(name, path)  # noqa: PTH105 - what is there is a name, not a Path
            else:
                _put(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108 - as above
    except FileExistsError:
        return False
    except OSError as error:
        fail(f"cannot write {path}: {describe(error)}")
        raise click.exceptions.Exit(1) from None
    return True


def rewrite(path: Path, data: bytes, *, before: bytes) -> None:
    """Put `data` in the place of the file at `path`, whole or not at all, with the mode, the owner and the
    access list that it has; a link is not replaced, but what it leads to. On return it outlives a loss of
    power.

    Where it does not hold `before` any more, or cannot be written, the command ends with exit code 1, and
    the file is as it was.
    """
    try:
        real = Path(os.path.realpath(path))
        descriptor, draft = tempfile.mkstemp(prefix=f".{real.name}.", suffix=".tmp", dir=real.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                _make_like(real, file.fileno())
                os.fsync(file.fileno())
            if real.read_bytes() != before:
                fail(f"{path} was changed in the meantime, and is left as it is: run this again")
                raise click.exceptions.Exit(1)
            os.replace(draft, real)  # noqa: PTH105 - as above
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)  # noqa: PTH108 - as above
    except OSError as error:
        hint = "; run this as whom it belongs to" if isinstance(error, PermissionError) else ""
        fail(f"cannot write {path}, which is as it was: {describe(error)}{hint}")
        raise click.exceptions.Exit(1) from None
    try:
        sync_directory(real.parent)
    except OSError as error:
        fail(f"{path} is written, and may not outlive a loss of power: {describe(error)}")


def _make_like(path: Path, descriptor: int) -> None:
    """Give an open file what says who may do what with the one at `path`."""
    status = path.stat()
    if not hasattr(os, "fchown"):  # Windows, where the directory says it
        return
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    if hasattr(os, "listxattr"):
        for name in os.listxattr(path):
            # Labels that are not ours to set: whoever looks after them gives new files theirs.
            with suppress(OSError) if not name.startswith("system.") else nullcontext():
                os.setxattr(descriptor, name, os.getxattr(path, name))


def _put(name: str, path: Path) -> None:
    """Give a file its place, unless somebody else has taken it (FileExistsError)."""
    try:
        path.hardlink_to(name)  # unlike a rename, it never replaces anything
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: to look first is the best there is
        if os.path.lexists(path):
            raise FileExistsError from None
        os.replace(name, path)  # noqa: PTH105 - as above
