"""Where the control sockets of running processes are, and whose.

A socket is a file in a directory that only its user may enter. Its name tells the manifest (a digest of
its absolute path) and the process: the id, and a token, since containers that share a directory do not
share their ids. No two ever have the same name, and between being made and listening there are
microseconds; so an old one that refuses a connection is that of a process which has died, and whoever
finds it may remove it at any time.

Knows sockets and their files; what is said over them is the business of `control` and of the commands.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from .private import check_private_directory, is_ours, make_private_directory

IS_SUPPORTED: Final = sys.platform != "win32" and hasattr(socket, "AF_UNIX")
UNSUPPORTED: Final = (
    "this system has no Unix domain sockets for Python, so a running process cannot be asked; "
    "its own output and `Runtime.status()` say the same"
)

_DIRECTORY: Final = "shadowcat-registry"
_LAST_RESORT: Final = "/tmp"  # noqa: S108 - the directory of ours in it is checked
_LONGEST_PATH_BYTES: Final = 103
"""Of the name of a socket: `sun_path` has 104 bytes on macOS and 108 on Linux, with the NUL."""
_BACKLOG: Final = 64
_YOUNG_SECONDS: Final = 60.0
"""A socket younger than this that refuses a connection may be about to listen."""
_name: Final = re.compile(r"([0-9a-f]{16})-(\d{1,10})-[0-9a-f]{8}\.sock")


@dataclass(frozen=True, slots=True)
class ControlSocket:
    """The file of one process's control socket."""

    path: Path
    manifest_key: str
    pid: int
    """As that process sees itself."""


def manifest_key(manifest: Path) -> str:
    """What a name holds of a manifest: a digest of its absolute path, links not followed."""
    return sha256(os.fsencode(os.path.abspath(manifest))).hexdigest()[:16]  # noqa: PTH100 - keeps links


def listen(manifest: Path, environ: Mapping[str, str] | None = None) -> tuple[socket.socket, Path]:
    """A listening socket for this process, which only its user can connect to.

    Raises:
        OSError: no directory can be used for it; the text says why each cannot. Or this system has none.
    """
    if not IS_SUPPORTED:
        raise OSError(errno.ENOTSUP, UNSUPPORTED)
    name = f"{manifest_key(manifest)}-{os.getpid()}-{secrets.token_hex(4)}.sock"
    problems: list[str] = []
    for directory in _own_directories(os.environ if environ is None else environ):
        path = directory / name
        if len(os.fsencode(path)) > _LONGEST_PATH_BYTES:
            problems.append(f"{directory} is too long for the name of a socket")
            continue
        try:
            make_private_directory(directory)
            _remove_stale(directory)
            return _listen_at(path), path
        except OSError as error:
            problems.append(error.strerror or str(error))
    raise OSError(errno.EADDRNOTAVAIL, "; ".join(problems))


def find(environ: Mapping[str, str] | None = None) -> list[ControlSocket]:
    """The sockets of this user, live ones and those of processes that have died; touches nothing.

    It looks wherever a process may have put one: a service is seldom told of `$XDG_RUNTIME_DIR`.
    """
    found: dict[Path, ControlSocket] = {}
    if not IS_SUPPORTED:
        return []
    for directory in _all_directories(os.environ if environ is None else environ):
        try:
            check_private_directory(directory)
            names = sorted(os.listdir(directory))  # noqa: PTH208 - names are wanted
        except OSError:
            continue
        for name in names:
            matched = _name.fullmatch(name)
            if matched is not None and is_ours(directory / name):
                path = directory / name
                found.setdefault(path, ControlSocket(path, matched[1], int(matched[2])))
    return list(found.values())


def _own_directories(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where a socket of this process may be, the best first."""
    named = environ.get("XDG_RUNTIME_DIR", "")
    if named and Path(named).is_dir():  # which is not ours to make
        yield Path(named).absolute() / _DIRECTORY
    for parent in dict.fromkeys((_temporary_directory(), _LAST_RESORT)):
        if parent is not None:
            yield Path(parent) / f"{_DIRECTORY}-{os.geteuid()}"


def _all_directories(environ: Mapping[str, str]) -> Iterator[Path]:
    yield from dict.fromkeys((*_own_directories(environ), Path("/run/user", str(os.geteuid()), _DIRECTORY)))


def _temporary_directory() -> str | None:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # none can be written to
        return None


def _listen_at(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)  # from here on, one can connect
    except BaseException:
        listener.close()
        with suppress(OSError):
            path.unlink()
        raise
    return listener


def _remove_stale(directory: Path) -> None:
    for name in os.listdir(directory):  # noqa: PTH208 - names are wanted
        path = directory / name
        if _name.fullmatch(name) is None:
            continue
        with suppress(OSError):  # somebody else is removing it too
            if time.time() - path.lstat().st_mtime >= _YOUNG_SECONDS and is_dead(path):
                path.unlink()


def is_dead(path: Path) -> bool:
    """Whether nobody listens there. In doubt, somebody does."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(os.fspath(path))
    except ConnectionRefusedError:
        # Linux refuses only where nobody listens; others also where too many wait.
        return sys.platform == "linux" or not _is_process(int(path.name.split("-")[1]))
    except OSError:
        return False
    finally:
        probe.close()
    return False


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
