"""Directories and files that nobody but root and the effective user could have written.

A path is walked once, from `/`, one component at a time; each is opened in the one before it, links not
followed, and checked as what was opened. The rules look at owners and modes. A POSIX access list that lets
somebody write shows in the group's bits and is found; those of NFSv4 do not show. Where a directory cannot be
held open (Windows), ownership cannot be told: such sources are refused, and have to be pinned.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from ..errors import PluginError
from ..sight import is_young, signature_of
from . import held, refusals
from .held import Directory, kind_of

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_READ_ATTEMPTS: Final = 3


class OwnedDirectory(Directory):
    """One that only root and the effective user could have changed. So is all that is reached through it."""

    follows_links = False

    def check(self) -> None:
        status = self._status()
        _check_owner(self.path, status)
        if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
            raise refusals.writable(self.path, status.st_mode)

    def check_below(self, below: Directory) -> None:
        # What is mounted in a directory for everybody says itself whose it is.
        here, there = self._status(), below.status(".", follow=False)
        if here.st_mode & _OTHERS_WRITE and (there is None or there.st_dev != here.st_dev):
            raise refusals.mounted(below.path)

    def check_holder(self) -> None:
        # Sticky, others may not take away what is there, but they may put something beside it.
        status = self._status()
        if status.st_mode & _OTHERS_WRITE:
            raise refusals.writable(self.path, status.st_mode)

    def check_file(self, path: Path, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode):
            leads_to_directory = os.path.isdir(path)  # noqa: PTH112 - that of `Path` may raise
            raise refusals.symlink(path, leads_to_directory=leads_to_directory)
        super().check_file(path, status)
        _check_owned(path, status)

    def read(self, name: str) -> bytes:
        self.check_holder()
        for _ in range(_READ_ATTEMPTS):
            descriptor, before = self._open_file(name)
            try:
                data = self._content(descriptor, name)
                is_steady = True
                if is_young(before):
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    is_steady = self._content(descriptor, name) == data
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if is_steady and signature_of(before) == signature_of(after) and len(data) == after.st_size:
                return data
        raise refusals.changed(self.path / name)

    def _status(self) -> os.stat_result:
        return os.fstat(self._held())

    def _held(self) -> int:
        if self.descriptor is None:
            raise ValueError(f"closed: {self.path}")
        return self.descriptor

    def _no_directory(self, name: str, error: OSError | ValueError) -> PluginError:
        status = None if isinstance(error, PermissionError) else self.status(name, follow=False)
        if status is not None and stat.S_ISLNK(status.st_mode):
            return refusals.symlink(self.path / name, leads_to_directory=True)
        return super()._no_directory(name, error)


class ManifestDirectory(OwnedDirectory):
    """As an owned one, but on a mount where nothing can be written at all, anything goes: also links."""

    def check(self) -> None:
        if not self.is_read_only():
            super().check()

    def check_holder(self) -> None:
        if not self.is_read_only():
            super().check_holder()

    def is_read_only(self) -> bool:
        """Whether nobody can write what is in here, by this mount."""
        return _is_read_only(self._held())

    def link(self, name: str) -> str | None:
        """Where the entry leads to, None where it is no link. Whether it may, is not asked."""
        try:
            return os.readlink(name, dir_fd=self.descriptor)
        except (OSError, ValueError):
            return None

    def check_entry(self, name: str) -> None:
        """Raises: PluginError: this file could have been written by others; as `read`, of any size."""
        self.check_holder()
        path = self.path / name
        try:
            handle = self._hold(name)
        except FileNotFoundError as error:
            raise refusals.missing(path) from error
        except (OSError, ValueError) as error:
            raise refusals.unreadable(path, error) from error
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise refusals.not_a_file(path, kind_of(status.st_mode))
            if not _is_read_only(handle):
                _check_owned(path, status)
        finally:
            os.close(handle)


def open_owned(path: Path, *, whole: Path | None = None) -> OwnedDirectory:
    """The directory at an absolute path, if only root and the effective user could have changed it, or what
    is on the way; see `read_owned`. `whole` is what was asked for, if that is further down.

    Raises:
        PluginError: there is none, something on the way breaks a rule, or this system cannot tell.
    """
    path = normal(path)
    if not held.CAN_HOLD:
        raise refusals.owner_unknown(whole or path)
    here = OwnedDirectory.root()
    try:
        for name in path.parts[1:]:
            with here:
                below = here.enter(name)
            here = below
    except BaseException as error:
        here.__exit__(None, None, None)
        if isinstance(error, PluginError) and error.rule == "symlink" and error.path is not None:
            raise refusals.symlink_on_the_way(Path(error.path), whole or path) from None
        raise
    return here


def normal(path: Path) -> Path:
    """Without `..`, which means what it says where no link is followed.

    Raises:
        ValueError: it is not absolute.
    """
    if not path.is_absolute():
        raise ValueError(f"not an absolute path: {path}")
    return Path(os.path.normpath(path))


def _check_owner(path: Path, status: os.stat_result) -> None:
    own = os.geteuid()
    if status.st_uid not in (0, own):
        raise refusals.owner(path, status.st_uid, own)


def _check_owned(path: Path, status: os.stat_result) -> None:
    _check_owner(path, status)
    if status.st_mode & _OTHERS_WRITE:
        raise refusals.writable(path, status.st_mode)
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise refusals.setuid(path, status.st_mode)
    if status.st_nlink > 1:
        raise refusals.hard_link(path, status.st_nlink)


def _is_read_only(descriptor: int) -> bool:
    return bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
