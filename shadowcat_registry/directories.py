"""Directories of storages: made for their owner, and made durable. Knows nothing of what is kept in them."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def make_directories(directory: Path) -> None:
    """For the owner only, on every level that is created; what is there stays as it is."""
    try:
        directory.mkdir(mode=0o700)
    except FileNotFoundError:
        make_directories(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from None


def sync_directory(directory: Path) -> None:
    """Makes names durable. Where directories cannot be opened (Windows), the system sees to it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
