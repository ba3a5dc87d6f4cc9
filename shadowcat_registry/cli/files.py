"""Writing a file that somebody asked for: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import click

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
