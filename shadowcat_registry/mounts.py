"""What the system says of its mounts and of its file events: which file systems tell nobody of the changes
that another machine makes, and how many watches there are to be had.

Reads `/proc`, where there is one; knows nothing of who asks. Every function may be called from any thread.
"""

# ruff: noqa: PTH115, PTH208  -- plain strings, as in `sight`; /proc is listed by number
from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

NETWORK_TYPES: Final = frozenset(
    {
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs"),
        *("lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs"),
        *("vboxsf", "virtiofs", "vmhgfs"),
    }
)
"""Whose files others may change, of which this kernel's events know nothing."""

_MOUNTS: Final = Path("/proc/self/mountinfo")
_LIMITS: Final = Path("/proc/sys/fs/inotify")
_OWN_LIMITS: Final = Path("/proc/sys/user")
"""Those of a user namespace: in a container they may be lower."""
_PROCESSES: Final = Path("/proc")
_escaped: Final = re.compile(r"\\([0-7]{3})")


def is_of_a_network(filesystem: str) -> bool:
    """Whether events of this type of file system do not tell everything. `fuseblk` is a local disk."""
    return filesystem in NETWORK_TYPES or filesystem == "fuse" or filesystem.startswith("fuse.")


def filesystem_of(path: str) -> str | None:
    """The type of the file system that a real, absolute path is on; None where that is not known."""
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    best, found = "", None
    for line in lines:
        place, filesystem = _mount(line)
        # Of several mounts at one place, the last one is on top.
        if place is not None and len(place) >= len(best) and _is_under(path, place):
            best, found = place, filesystem
    return found


def _mount(line: str) -> tuple[str | None, str]:
    # proc(5): id parent major:minor root PLACE options [optional…] - TYPE source options
    before, _, after = line.partition(" - ")
    fields, kinds = before.split(" "), after.split(" ")
    if len(fields) < 5 or not kinds[0]:
        return None, ""
    return _escaped.sub(lambda octal: chr(int(octal[1], 8)), fields[4]), kinds[0]


def _is_under(path: str, place: str) -> bool:
    return place == "/" or path == place or path.startswith(place + "/")


@dataclass(frozen=True, slots=True)
class InotifyLimits:
    """What a user may have of inotify, and what this one has now, as far as it can be seen."""

    max_watches: int
    max_instances: int
    max_queued_events: int
    watches: int
    instances: int

    def as_json(self) -> dict[str, Any]:
        return {
            "max_watches": self.max_watches,
            "max_instances": self.max_instances,
            "max_queued_events": self.max_queued_events,
            "watches": self.watches,
            "instances": self.instances,
        }


def inotify_limits() -> InotifyLimits | None:
    """None where there is no inotify. Of other users' processes nobody but root sees anything."""
    try:
        watches, instances, queued = (
            int((_LIMITS / name).read_text())
            for name in ("max_user_watches", "max_user_instances", "max_queued_events")
        )
    except (OSError, ValueError):
        return None
    with suppress(OSError, ValueError):
        watches = min(watches, int((_OWN_LIMITS / "max_inotify_watches").read_text()))
        instances = min(instances, int((_OWN_LIMITS / "max_inotify_instances").read_text()))
    used_watches = used_instances = 0
    for process in filter(str.isdigit, _names(_PROCESSES)):
        for watch_count in _inotify_of(_PROCESSES / process):
            used_instances += 1
            used_watches += watch_count
    return InotifyLimits(watches, instances, queued, used_watches, used_instances)


def _inotify_of(process: Path) -> list[int]:
    """For each inotify instance of a process of this user, how many watches it has."""
    found: list[int] = []
    with suppress(OSError):  # it has ended meanwhile, or is none of ours
        if process.stat().st_uid != _user():
            return found
        for descriptor in _names(process / "fd"):
            with suppress(OSError):
                if os.readlink(process / "fd" / descriptor) == "anon_inode:inotify":
                    told = (process / "fdinfo" / descriptor).read_text()
                    found.append(told.count("inotify wd:"))
    return found


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _user() -> int:
    ask: Callable[[], int] | None = getattr(os, "geteuid", None)
    return -1 if ask is None else ask()
