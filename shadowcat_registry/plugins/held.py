"""Directories that are held open, and files read through them, without a gap between the check and the use.

What is found in a directory is opened by its name in it, and what was opened is what is checked (`fstat`) and
read; nothing is looked up a second time, so there is nothing to be swapped in between. What is not a regular
file is never opened for reading: a FIFO would not end, and opening a device can do things.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from ..errors import PluginError
from . import refusals

MAX_BYTES: Final = 1 << 20
"""Of a file, and of all files of a package."""

MAX_NAMES: Final = 10_000
"""In a directory."""

_HELD: Final = getattr(os, "O_PATH", 0)
"""A descriptor of that kind stands for a file without opening it: no effect, no wait."""
_BASE: Final = getattr(os, "O_CLOEXEC", 0)
_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_TO_READ: Final = (
    os.O_RDONLY
    | _BASE
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_REOPEN: Final = "/proc/self/fd/{}"
"""Opens what a descriptor stands for, and nothing that has taken its name since."""
_read: Final = os.read
CAN_HOLD: Final = os.open in os.supports_dir_fd and bool(_NOFOLLOW and _DIRECTORY)
"""Whether this system can open a name in an open directory."""


class Directory:
    """A directory that is held open: its entries are reached through it, not by a path. Follows links and
    trusts nobody; what is read from it, a digest has to vouch for."""

    follows_links: ClassVar[bool] = True

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        """Only to be shown, where there is a descriptor."""
        self.descriptor = descriptor

    @classmethod
    def root(cls) -> Self:
        """`/`, on systems where it can be held.

        Raises:
            PluginError: it breaks a rule.
        """
        root = cls(Path("/"), os.open("/", _HELD | _DIRECTORY | _BASE))
        try:
            root.check()
        except BaseException:
            root.__exit__(None, None, None)
            raise
        return root

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def enter(self, name: str) -> Self:
        """The directory of this name in it.

        Raises:
            PluginError: there is none, or it breaks a rule.
        """
        path = self.path / name
        try:
            descriptor = None
            if CAN_HOLD:
                descriptor = self._open(name, _HELD | _DIRECTORY | _BASE)
            elif not stat.S_ISDIR(path.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            below = type(self)(path, descriptor)
        except (OSError, ValueError) as error:
            raise self._no_directory(name, error) from error
        try:
            below.check()
            self.check_below(below)
        except BaseException:
            below.__exit__(None, None, None)
            raise
        return below

    def names(self) -> list[str]:
        """Of its entries, sorted, without the hidden ones.

        Raises:
            PluginError: it cannot be listed, there are more than `MAX_NAMES`, or it breaks a rule.
        """
        self.check_holder()
        try:
            listed: int | Path = (
                self.path if self.descriptor is None else self._open(".", os.O_RDONLY | _DIRECTORY)
            )
            try:
                with os.scandir(listed) as entries:
                    names = [entry.name for entry in islice(entries, MAX_NAMES + 1)]
            finally:
                if isinstance(listed, int):
                    os.close(listed)
        except OSError as error:
            raise refusals.unreadable(self.path, error) from error
        if len(names) > MAX_NAMES:
            raise refusals.too_large(self.path, f"more than {MAX_NAMES:,} entries")
        return sorted(name for name in names if not name.startswith("."))

    def status(self, name: str, *, follow: bool) -> os.stat_result | None:
        """Of an entry, or of one that is further down; None where there is none. Decides nothing about trust.

        Raises:
            PermissionError: one may not look.
        """
        try:
            return os.stat(self._place(name), dir_fd=self.descriptor, follow_symlinks=follow)
        except PermissionError:
            raise
        except (OSError, ValueError):
            return None

    def read(self, name: str) -> bytes:
        """The content of a regular file of at most `MAX_BYTES`.

        Raises:
            PluginError: it is none, is not there, or it breaks a rule.
        """
        descriptor, _ = self._open_file(name)
        try:
            return self._content(descriptor, name)
        finally:
            os.close(descriptor)

    def check(self) -> None:
        """Raises: PluginError: nothing may be reached through this directory."""

    def check_below(self, below: Directory) -> None:
        """Raises: PluginError: that directory may not be reached through this one."""

    def check_holder(self) -> None:
        """Raises: PluginError: this directory may not be the one that holds plugins."""

    def check_file(self, path: Path, status: os.stat_result) -> None:
        """Raises: PluginError: this file may not be read, or not be trusted."""
        if not stat.S_ISREG(status.st_mode):
            raise refusals.not_a_file(path, kind_of(status.st_mode))
        if status.st_size > MAX_BYTES:
            raise refusals.too_large(path, f"more than {MAX_BYTES // 1024:,} KiB")

    def _place(self, name: str) -> str | Path:
        return self.path / name if self.descriptor is None else name

    def _open(self, name: str, flags: int) -> int:
        flags |= 0 if self.follows_links else _NOFOLLOW
        return os.open(self._place(name), flags, dir_fd=self.descriptor)

    def _hold(self, name: str) -> int:
        # Where nothing stands for a file without opening it, it has to be opened.
        return self._open(name, _HELD | _BASE if _HELD else _TO_READ)

    def _no_directory(self, name: str, error: OSError | ValueError) -> PluginError:
        path = self.path / name
        if isinstance(error, FileNotFoundError):
            return refusals.missing(path)
        if isinstance(error, NotADirectoryError):
            return refusals.not_a_directory(path)
        return refusals.unreadable(path, error)

    def _open_file(self, name: str) -> tuple[int, os.stat_result]:
        # Looked at before it is opened, and opened as the very thing that was looked at; or, where that
        # cannot be, looked at again.
        path = self.path / name
        try:
            if not _HELD:
                look = os.stat(self._place(name), dir_fd=self.descriptor, follow_symlinks=self.follows_links)
                self.check_file(path, look)
                descriptor = self._open(name, _TO_READ)
            else:
                handle = self._hold(name)
                try:
                    self.check_file(path, os.fstat(handle))
                    descriptor = self._reopen(handle, name)
                finally:
                    os.close(handle)
        except FileNotFoundError as error:
            raise refusals.missing(path) from error
        except BlockingIOError as error:  # somebody holds a lease on it
            raise refusals.changed(path) from error
        except (OSError, ValueError) as error:
            raise refusals.unreadable(path, error) from error
        try:
            status = os.fstat(descriptor)
            self.check_file(path, status)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status

    def _reopen(self, handle: int, name: str) -> int:
        try:
            return os.open(_REOPEN.format(handle), _TO_READ)
        except FileNotFoundError:  # no /proc here
            return self._open(name, _TO_READ)

    def _content(self, descriptor: int, name: str) -> bytes:
        data = bytearray()
        try:
            while len(data) <= MAX_BYTES and (chunk := _read(descriptor, MAX_BYTES + 1 - len(data))):
                data += chunk
        except OSError as error:
            raise refusals.unreadable(self.path / name, error) from error
        if len(data) > MAX_BYTES:
            raise refusals.too_large(self.path / name, f"more than {MAX_BYTES // 1024:,} KiB")
        return bytes(data)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """What the system fails with where nothing was expected (a stale handle of NFS, no descriptor left) is a
    refusal too, of what was asked for."""
    try:
        yield
    except OSError as error:
        raise refusals.unreadable(path, error) from error


def open_any(path: Path) -> Directory:
    """The directory at an absolute path, whoever it belongs to and wherever links lead.

    Raises:
        PluginError: there is none.
    """
    return Directory(path.parent, None).enter(path.name) if path.name else Directory(path, None).enter(".")


def kind_of(mode: int) -> str:
    """In words, of what is no regular file."""
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "something else"
