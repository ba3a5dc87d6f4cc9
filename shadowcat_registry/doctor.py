"""Tries the ways to save a file in a directory, and tells which of them events report there, which only the
regular look finds, and after how long.

Works in a scratch directory of its own, which is gone when it returns. Knows files and the watch, never
manifests.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from .interpolate import describe
from .mounts import InotifyLimits, filesystem_of, inotify_limits, is_of_a_network
from .sight import read_settled
from .watch import Watch, WatchStatus

SCRATCH_PREFIX: Final = ".shadowcat-doctor-"
_POLL_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 10.0
_LOOK_UP_SECONDS: Final = 0.05
"""How often to see whether it was cancelled."""
_SLOW_SECONDS: Final = 0.2
_SCARCE: Final = 0.9
_NAME: Final = "registry.yaml"
_OLD: Final = b"version: 1\n" + b"# old\n" * 40
_NEW: Final = b"version: 1\n" + b"# new\n" * 40


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to save, and how the change was found."""

    way: str
    found_by: Literal["events", "poll"] | None
    """None: it was not, or could not be tried."""
    seconds: float | None
    """From the end of the save to the tick."""
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "way": self.way,
            "found_by": self.found_by,
            "seconds": None if self.seconds is None else round(self.seconds, 4),
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found out about one directory."""

    directory: Path
    filesystem: str | None
    trials: tuple[Trial, ...]
    inotify: InotifyLimits | None
    problems: tuple[str, ...]

    @property
    def is_of_a_network(self) -> bool:
        return self.filesystem is not None and is_of_a_network(self.filesystem)

    def as_json(self) -> dict[str, Any]:
        return {
            "directory": str(self.directory),
            "filesystem": self.filesystem,
            "is_of_a_network": self.is_of_a_network,
            "ways": [trial.as_json() for trial in self.trials],
            "inotify": None if self.inotify is None else self.inotify.as_json(),
            "problems": list(self.problems),
        }


def diagnose(
    directory: Path, cancelled: threading.Event, *, poll_seconds: float = _POLL_SECONDS
) -> Diagnosis:
    """Try everything in a new directory under `directory`, which takes some seconds. Once `cancelled` is set,
    it returns with what it has. Never raises for what the system refuses: that is a problem, too."""
    trials: list[Trial] = []
    problems: list[str] = []
    try:
        with _scratch(directory) as scratch:
            for number, (name, (lay_out, save)) in enumerate(WAYS.items()):
                if cancelled.is_set():
                    break
                try:
                    trial = _try(
                        name, lay_out(scratch / str(number)), save, cancelled, poll_seconds, problems
                    )
                except OSError as error:
                    trial = Trial(name, None, None, f"cannot be tried here: {describe(error)}")
                trials.append(trial)
    except OSError as error:
        problems.append(f"nothing can be tried in {directory}: {describe(error)}")
    problems += [
        f"{trial.way}: {trial.problem}" for trial in trials if trial.problem and not _is_refusal(trial)
    ]
    if trials and all(map(_is_refusal, trials)):
        problems.append(f"nothing can be tried in {directory}: {trials[0].problem}")
    limits = inotify_limits()
    if limits is not None:
        problems += _scarce(limits)
    filesystem = filesystem_of(os.path.realpath(directory)) if directory.is_dir() else None
    return Diagnosis(directory, filesystem, tuple(trials), limits, tuple(dict.fromkeys(problems)))


def _is_refusal(trial: Trial) -> bool:
    return trial.problem is not None and trial.problem.startswith("cannot be tried")


def _scarce(limits: InotifyLimits) -> Iterator[str]:
    for what, used, most in (
        ("watches", limits.watches, limits.max_watches),
        ("instances", limits.instances, limits.max_instances),
    ):
        if used >= _SCARCE * most:
            yield f"{used} of {most} inotify {what} are in use: raise fs.inotify.max_user_{what} (sysctl)"


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=directory))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Reader:
    """Reads the file at each tick, as whoever follows it does."""

    def __init__(self, path: Path, poll_seconds: float) -> None:
        self._path = path
        self._changed = threading.Condition()  # guards `_seen`; nothing is called under it
        self._seen: list[tuple[float, bytes | None]] = []
        self.watch = Watch(lambda: [path], self._tick, mode="events", poll_interval_seconds=poll_seconds)

    def _tick(self) -> None:
        try:
            content: bytes | None = read_settled(self._path)
        except OSError:
            content = None
        with self._changed:
            self._seen.append((time.monotonic(), content))
            self._changed.notify_all()

    def wait_for(self, content: bytes, cancelled: threading.Event) -> tuple[float | None, bool]:
        """When it was read, and whether anything was read before that never was the whole file."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with self._changed:
            while not any(seen == content for _, seen in self._seen):
                if cancelled.is_set() or time.monotonic() > deadline:
                    break
                self._changed.wait(_LOOK_UP_SECONDS)
            at = next((at for at, seen in self._seen if seen == content), None)
            return at, any(seen not in (_OLD, _NEW, None) for _, seen in self._seen)

    def wait_until_calm(self, cancelled: threading.Event) -> WatchStatus:
        """Past the first tick, with everything observed."""
        self.wait_for(_OLD, cancelled)
        status = self.watch.status()
        settings = status.checks
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while status.checks <= settings and not cancelled.is_set() and time.monotonic() < deadline:
            cancelled.wait(_LOOK_UP_SECONDS)
            status = self.watch.status()
        return status


def _try(
    name: str,
    path: Path,
    save: Callable[[Path], None],
    cancelled: threading.Event,
    poll_seconds: float,
    problems: list[str],
) -> Trial:
    reader = _Reader(path, poll_seconds)
    reader.watch.start()
    try:
        before = reader.wait_until_calm(cancelled)
        if before.degraded is not None:
            problems.append(before.degraded)
        save(path)
        saved_at = time.monotonic()
        found_at, was_torn = reader.wait_for(_NEW, cancelled)
        after = reader.watch.status()
    finally:
        reader.watch.stop()
    if found_at is None:
        return Trial(name, None, None, None if cancelled.is_set() else "the change was not found")
    is_told = before.mode == "events" and after.rescues == before.rescues and after.events > before.events
    torn = "a half-written file was taken for the whole" if was_torn else None
    return Trial(name, "events" if is_told else "poll", max(0.0, found_at - saved_at), torn)


# --------------------------------------------------------------------------- layouts


def _plain(base: Path) -> Path:
    path = base / "conf" / _NAME
    path.parent.mkdir(parents=True)
    return _aged(path)


def _linked(base: Path) -> Path:
    (base / "versions").mkdir(parents=True)
    (base / "conf").mkdir()
    path = base / "conf" / _NAME
    path.symlink_to(_aged(base / "versions" / "1.yaml"))
    return path


def _released(base: Path) -> Path:
    (base / "releases" / "1").mkdir(parents=True)
    _aged(base / "releases" / "1" / _NAME)
    (base / "current").symlink_to("releases/1")
    return base / "current" / _NAME


def _config_map(base: Path) -> Path:
    (base / "..1").mkdir(parents=True)
    _aged(base / "..1" / _NAME)
    (base / "..data").symlink_to("..1")
    (base / _NAME).symlink_to(f"..data/{_NAME}")
    return base / _NAME


def _hard_linked(base: Path) -> Path:
    (base / "elsewhere").mkdir(parents=True)
    (base / "conf").mkdir()
    path = base / "conf" / _NAME
    path.hardlink_to(_aged(base / "elsewhere" / _NAME))
    return path


def _aged(path: Path) -> Path:
    path.write_bytes(_OLD)
    os.utime(path, (1, 1))  # or the watch would wait for a writer who may not be done
    return path


# --------------------------------------------------------------------------- ways to save


def _replace(path: Path) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(_NEW)
    draft.replace(path)


def _in_place(path: Path) -> None:
    path.write_bytes(_NEW)


def _slowly(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(_NEW[: len(_NEW) // 2])
        time.sleep(_SLOW_SECONDS)
        file.write(_NEW[len(_NEW) // 2 :])


def _anew(path: Path) -> None:
    path.unlink()
    path.write_bytes(_NEW)


def _with_old_times(path: Path) -> None:
    before = path.stat()
    path.write_bytes(_NEW)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _by_memory(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), len(_NEW)) as mapped:
        mapped[:] = _NEW
        mapped.flush()


def _by_link(path: Path) -> None:
    target = path.parents[1] / "versions" / "2.yaml"
    target.write_bytes(_NEW)
    link = path.with_name(".link")
    link.symlink_to(target)
    link.replace(path)


def _behind_link(path: Path) -> None:
    _replace(path.resolve())


def _by_release(path: Path) -> None:
    base = path.parents[1]
    (base / "releases" / "2").mkdir()
    (base / "releases" / "2" / _NAME).write_bytes(_NEW)
    link = base / ".current"
    link.symlink_to("releases/2")
    link.replace(base / "current")


def _by_config_map(path: Path) -> None:
    (path.parent / "..2").mkdir()
    (path.parent / "..2" / _NAME).write_bytes(_NEW)
    link = path.parent / "..data_tmp"
    link.symlink_to("..2")
    link.replace(path.parent / "..data")
    shutil.rmtree(path.parent / "..1")


def _by_directory(path: Path) -> None:
    other = path.parents[1] / "other"
    other.mkdir()
    (other / _NAME).write_bytes(_NEW)
    path.parent.rename(path.parents[1] / "gone")
    other.rename(path.parent)


def _elsewhere(path: Path) -> None:
    (path.parents[1] / "elsewhere" / _NAME).write_bytes(_NEW)


WAYS: Final[dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]]] = {
    "replaced in one step": (_plain, _replace),
    "written in place": (_plain, _in_place),
    "written slowly": (_plain, _slowly),
    "deleted and written anew": (_plain, _anew),
    "its old times put back": (_plain, _with_old_times),
    "stored through memory": (_plain, _by_memory),
    "its directory swapped": (_plain, _by_directory),
    "a link swapped": (_linked, _by_link),
    "the target of a link replaced": (_linked, _behind_link),
    "a release link swapped": (_released, _by_release),
    "a ConfigMap updated": (_config_map, _by_config_map),
    "written through a hard link": (_hard_linked, _elsewhere),
}
