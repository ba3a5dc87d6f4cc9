"""What stands at a path: the way to it over links, its signature, its content while nobody moves it.

Knows files, never what is in them, and nothing of events, clocks or threads. Every function may be
called from any thread; none waits, and none opens what is not a regular file (a FIFO would never end).
"""

# ruff: noqa: PTH115, PTH116, PTH118, PTH120  -- plain strings: this runs each second, for many paths
from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import PurePath
from typing import Final, TypeVar

Signature = tuple[int, ...]
"""`(dev, ino, size, mtime_ns, ctime_ns)`: differs after every real change (inode or mtime alone do not)."""

NOTHING: Final[Signature] = ()
"""The signature of a path where nothing can be seen."""

MOVING: Final = "moving"
"""The content of a file that changed while it was read."""

BLANK: Final = frozenset({"missing", "empty", "unreadable"})
"""Contents that are none: never a change by themselves, they have to last."""

YOUNG_SECONDS: Final = 0.05
"""Two writes in one tick of the kernel's clock can share stamps; a file older than this had none."""

_MOST_LINKS: Final = 40  # where Linux gives up too (ELOOP)
_READ_ATTEMPTS: Final = 3

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Way:
    """How a path leads to its file."""

    file: str
    """The real path, whether or not there is a file."""
    entries: frozenset[str]
    """The real paths that decide: the file, each link on the way, and the directories that hold them."""
    directories: frozenset[str]
    """Where a change of an entry shows up, as real paths: a watch on a link to a directory is deaf."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a file."""

    signature: Signature
    content: str
    """The SHA-256 in hex, or `moving`, or one of `BLANK`."""
    is_young: bool = False
    """The signature cannot be trusted to differ after the next change: look at the content again."""


def trace(path: str) -> Way:
    """Follow an absolute path over every link, also where it ends in nothing."""
    here, parts = _split(path)
    held: list[tuple[str, str]] = []
    file = path
    links = 0
    while parts:
        name = parts.pop(0)
        if name == "..":
            here = os.path.dirname(here)  # `here` has no link in it: this is the real parent
            continue
        file = os.path.join(here, name)
        try:
            target = os.readlink(file) if links < _MOST_LINKS else None
        except (OSError, ValueError):
            target = None
        if target is not None:
            links += 1
            held.append((here, name))
            anchor, more = _split(target)
            here, parts = anchor or here, more + parts
        elif parts:
            here = file
        else:
            held.append((here, name))
    return Way(
        file,
        frozenset(os.path.join(directory, name) for directory, name in held)
        | frozenset(directory for directory, _ in held),
        frozenset(directory for directory, _ in held)
        | frozenset(os.path.dirname(directory) for directory, _ in held),
    )


def _split(path: str) -> tuple[str, list[str]]:
    pure = PurePath(path)
    return pure.anchor, list(pure.parts[1:] if pure.anchor else pure.parts)


def probe(path: str) -> Signature:
    """The signature of what the path leads to now, `NOTHING` where it cannot be seen."""
    try:
        return signature_of(os.stat(path))
    except (OSError, ValueError):
        return NOTHING


def look(path: str) -> Sight:
    """Read and digest the file at `path`, in constant memory; never raises for what it finds there."""
    try:
        status, digest = _while_steady(path, lambda file: hashlib.file_digest(file, "sha256").hexdigest())
    except BlockingIOError:
        return Sight(NOTHING, MOVING)
    except (FileNotFoundError, NotADirectoryError):
        return Sight(NOTHING, "missing")
    except (OSError, ValueError):
        return Sight(probe(path), "unreadable")
    return Sight(signature_of(status), digest if status.st_size else "empty", is_young(status))


def read_settled(path: str | os.PathLike[str], *, limit_bytes: int | None = None) -> bytes:
    """The content of a file that nobody touched while it was read, at most its first `limit_bytes`.

    Raises:
        BlockingIOError: it changed under each of several reads; it is being written, try again later.
        OSError: there is no such file, it cannot be read, or it is not a regular file.
    """
    most = -1 if limit_bytes is None else limit_bytes

    def read(file: FileIO) -> bytes:
        data = bytearray()
        while most < 0 or len(data) < most:
            chunk = file.read(1 << 20 if most < 0 else min(1 << 20, most - len(data)))
            if not chunk:
                break
            data += chunk
        return bytes(data)

    return _while_steady(os.fspath(path), read)[1]


def _while_steady(path: str, consume: Callable[[FileIO], _T]) -> tuple[os.stat_result, _T]:
    # Four witnesses: the open file before and after, and the path itself, which may lead elsewhere by now.
    # Without O_NONBLOCK, opening a pipe that nobody writes to does not return.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_BINARY", 0)
    for _ in range(_READ_ATTEMPTS):
        descriptor = os.open(path, flags)
        try:
            before = os.fstat(descriptor)
            if stat.S_ISDIR(before.st_mode):
                raise IsADirectoryError(errno.EISDIR, "it is a directory", path)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", path)
            file = FileIO(descriptor, "r", closefd=False)
            consumed = consume(file)
            if is_young(before):
                # A write stamps the file when it begins; while it goes on, the stamps stand still.
                file.seek(0)
                if consume(file) != consumed:
                    continue
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if signature_of(before) == signature_of(after) == signature_of(os.stat(path)):
            return after, consumed
    raise BlockingIOError(errno.EAGAIN, "the file is being written", path)


def is_young(status: os.stat_result) -> bool:
    """Whether the signature of this file may stand still while it is changed once more."""
    # Wall clock against the file system's clock: where they disagree, the worst is a superfluous look.
    return time.time_ns() - status.st_mtime_ns < YOUNG_SECONDS * 1e9


def signature_of(status: os.stat_result) -> Signature:
    """What tells this state of a file from those before and after it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
