"""Events of directories by way of watchdog. Imported only when somebody starts to observe.

Knows directories, never what is looked for in them, and never why. watchdog is a source of hints and
no more: its handler passes on what may matter to a queue, and whoever owns this object supervises it.
All methods are for one thread, the owner's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch
from watchdog.observers.polling import PollingObserver

_KINDS: Final = frozenset({"moved", "created", "modified", "closed", "deleted"})
"""Not `opened` and `closed_no_write`: our own reading makes those."""

OVERFLOW: Final = "overflow"
"""The kind of what is told when events were lost; its path is empty."""

_logger = logging.getLogger(__name__)

Identity = tuple[int, ...]
Put = Callable[[tuple[str, str]], object]


class _Handler(FileSystemEventHandler):
    """Must neither raise (it would kill the observer's thread) nor wait (it runs under its lock)."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self.wanted: Collection[str] = frozenset()
        self.listings: Mapping[str, re.Pattern[str]] = {}

    def dispatch(self, event: FileSystemEvent) -> None:
        kind = event.event_type
        if kind not in _KINDS or (event.is_directory and kind == "modified"):
            return
        source = str(event.src_path)
        if self._is_wanted(source):
            self._put(("deleted" if kind == "moved" else kind, source))
        if kind == "moved" and self._is_wanted(str(event.dest_path)):
            self._put((kind, str(event.dest_path)))

    def _is_wanted(self, path: str) -> bool:
        if path in self.wanted:
            return True
        directory, _, name = path.rpartition(os.sep)
        listing = self.listings.get(directory)
        return listing is not None and listing.match(name) is not None


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Not what watchdog calls an error: that an event was under way when its directory was let go."""
    return "called when the thread is inactive" not in record.getMessage()


class Hints:
    """A running observer. `put` gets `(kind, path)` for the wanted paths, on watchdog's thread.

    Raises:
        OSError: the system has no more watches or descriptors to give (`ENOSPC`, `EMFILE`).
        RuntimeError: no thread can be started, or this platform has no file events.
    """

    def __init__(self, put: Put) -> None:
        self._handler = _Handler(put)
        self._armed: dict[str, tuple[Identity, ObservedWatch]] = {}
        self._observer, self._reader = _make_observer(put)
        try:
            self._observer.start()
        except BaseException:
            self._close_reader()
            raise

    def arm(
        self,
        directories: Mapping[str, Identity],
        wanted: Collection[str],
        listings: Mapping[str, re.Pattern[str]],
    ) -> bool:
        """Watch these directories, each as the very one that its identity names, for events of the `wanted`
        paths, and of those in a directory of `listings` whose names its pattern matches. Returns whether
        anything had to change.

        Raises:
            OSError: a directory cannot be watched; the others are.
        """
        self._handler.wanted, self._handler.listings = frozenset(wanted), listings
        before = set(self._armed)
        stale = self.keep_only(directories)
        missing = [path for path in directories if path not in self._armed]
        failed: OSError | None = None
        for path in missing:
            try:
                watch = self._observer.schedule(self._handler, path, recursive=False)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone since it was looked up; the next check knows
            except OSError as error:
                failed = error
                continue
            self._armed[path] = (directories[path], watch)
        if failed is not None:
            raise failed
        return bool(stale) or before != set(self._armed)

    def keep_only(self, directories: Mapping[str, Identity]) -> list[str]:
        """Let go of all but the directories that are still the same; returns of which."""
        stale = [path for path, (identity, _) in self._armed.items() if directories.get(path) != identity]
        for path in stale:
            self.forget(path)
        return stale

    def forget(self, path: str) -> None:
        """Let go of a directory, so that `arm` watches anew what stands there then."""
        armed = self._armed.pop(path, None)
        if armed is not None:
            with contextlib.suppress(KeyError, OSError):  # a dead emitter may have left already
                self._observer.unschedule(armed[1])

    @property
    def directories(self) -> tuple[str, ...]:
        return tuple(sorted(self._armed))

    @property
    def is_alive(self) -> bool:
        """False is certain; True is not: an emitter can go deaf."""
        return (
            self._observer.is_alive()
            and (self._reader is None or self._reader.is_alive())
            and len(self._observer.emitters) == len(self._armed)
            and all(emitter.is_alive() for emitter in self._observer.emitters)
        )

    def close(self) -> None:
        """End every thread and free every descriptor. Never in a forked child: the parent would go deaf."""
        self._armed.clear()
        try:
            self._observer.stop()
            self._observer.join()
        finally:
            self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.stop()
            with contextlib.suppress(RuntimeError):  # never started
                self._reader.join()


def _make_observer(put: Put) -> tuple[BaseObserver, Any]:
    """An observer, and the thread that reads inotify's descriptor where that is ours to end."""
    if Observer is PollingObserver:
        raise RuntimeError("this platform has none")
    if sys.platform != "linux":
        return Observer(), None
    from watchdog.observers import inotify_c
    from watchdog.observers.inotify import InotifyFullEmitter

    logging.getLogger(InotifyFullEmitter.__module__).addFilter(_is_worth_saying)

    bits = inotify_c.InotifyConstants
    # Without IN_MOVED_FROM: watchdog holds back everything for 500 ms behind a file that was moved out.
    # Without IN_ATTRIB: 6.x calls that a modification, and nobody would ever close it.
    mask = (
        bits.IN_CLOSE_WRITE
        | bits.IN_MOVED_TO
        | bits.IN_CREATE
        | bits.IN_MODIFY
        | bits.IN_DELETE
        | bits.IN_DELETE_SELF
        | bits.IN_DONT_FOLLOW
    )

    class Emitter(InotifyFullEmitter):  # "full" tells a file moved in from one that was created
        def get_event_mask_from_filter(self) -> Any:
            return mask

    descriptor_class = getattr(inotify_c, "InotifyFD", None)
    if descriptor_class is None:  # watchdog 6: each emitter has a descriptor of its own
        return BaseObserver(Emitter), None

    class Reader(descriptor_class):  # type: ignore[misc,valid-type]  # only newer versions have the name
        def handle_event(self, event: Any) -> None:
            if event.mask & bits.IN_Q_OVERFLOW:
                put((OVERFLOW, ""))
            super().handle_event(event)

    reader = Reader()
    reader.start()
    return BaseObserver(Emitter, inotify_fd=reader), reader
