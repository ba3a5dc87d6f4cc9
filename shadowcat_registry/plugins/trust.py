"""Bytes that may run: those that only their owner could have written, and those that a digest vouches for.

Knows files, and nothing of plugins. What stands at a path is looked at by `held` and `owned`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

from . import held, refusals
from .held import open_any, refusing
from .owned import ManifestDirectory, normal, open_owned

_READ_ATTEMPTS: Final = 3
_MOST_LINKS: Final = 40  # where Linux gives up too


_T = TypeVar("_T")


def read_owned(path: Path) -> bytes:
    """The content of the file at an absolute path, if nobody but root and the effective user could have
    written it: every directory on the way and the file are theirs, others may not write them, nothing is a
    link. A directory that everybody may write but that is sticky (`/tmp`) may be on the way, and not be the
    one that holds the file. The file is regular, has one name, is not set-user-ID or set-group-ID, has at
    most `MAX_BYTES`, and did not change while it was read.

    Raises:
        PluginError: it breaks a rule, or it is not there; says which and what mends it.
    """
    path = normal(path)
    with refusing(path), open_owned(path.parent, whole=path) as directory:
        return directory.read(path.name)


def read_pinned(path: Path, pin: str) -> bytes:
    """The content of the file at an absolute path, if `pin` is its SHA-256 in lower-case hex. Links, owners
    and modes may be any; it is a regular file of at most `MAX_BYTES`.

    Raises:
        PluginError: these are not the bytes, it is not such a file, or it is not there.
    """
    with refusing(path), open_any(path.parent) as directory:
        return until_vouched(
            path, pin, lambda: directory.read(path.name), lambda data: sha256(data).hexdigest()
        )


def check_owned_manifest(path: Path) -> None:
    """Hold a manifest, which says what is trusted, to the rules of `read_owned`, but for its size; it is not
    read. Where a mount is read-only, whose a file or directory is does not matter, and links are followed:
    as in a container into which a ConfigMap is mounted. Each part of the way is asked by itself.

    Where ownership cannot be told (Windows), there is nothing to check: the access list of the manifest then
    decides who says what runs.

    Raises:
        PluginError: others could have written it, or it is not there; says what mends it.
    """
    if not held.CAN_HOLD:
        return
    if not path.is_absolute():
        raise ValueError(f"not an absolute path: {path}")
    with refusing(path), ExitStack() as stack:
        way = [stack.enter_context(ManifestDirectory.root())]
        parts = list(reversed(path.parts[1:]))
        links = 0
        while parts:
            here, name = way[-1], parts.pop()
            target = here.link(name)
            if target is not None:
                links += 1
                if links > _MOST_LINKS or not here.is_read_only():
                    raise refusals.symlink_on_the_way(here.path / name, path)
                if target.startswith("/"):
                    del way[1:]
                parts += reversed([part for part in target.split("/") if part not in ("", ".")])
            elif name == "..":
                del way[max(1, len(way) - 1) :]
            elif parts:
                way.append(stack.enter_context(here.enter(name)))
            else:
                here.check_entry(name)
                return
    raise refusals.not_a_file(path, "a directory")


def until_vouched(path: Path, pin: str, read: Callable[[], _T], digest: Callable[[_T], str]) -> _T:
    """What `read` gives once its digest is the pinned one. What changes from one reading to the next is being
    written: it gets a few.

    Raises:
        PluginError: it is something else, or still changing; or what `read` raises.
    """
    if (refusal := refusals.no_digest(path, pin)) is not None:
        raise refusal
    before = ""
    for _ in range(_READ_ATTEMPTS):
        found = read()
        actual = digest(found)
        if actual == pin:
            return found
        if actual == before:
            raise refusals.wrong_digest(path, actual, pin)
        before = actual
    raise refusals.changed(path)
