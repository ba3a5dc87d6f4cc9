"""An event that a signal cannot break. Knows nobody.

If a handler raises in the middle of `threading.Event.set()`, the lock inside of the event may stay held
for ever, since it is taken by a function that is written in Python: whoever comes next hangs.
"""

from __future__ import annotations

import threading


class Latch:
    """Set once. `set` may be called again, and has to be where it may have been interrupted."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        # A held lock of each who waits. Whoever comes looks at the flag behind his own entry, and the flag is
        # set before the entries are looked at: nobody is missed.
        self._waiting: list[threading.Lock] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """By one thread at a time."""
        self._is_set = True
        for lock in tuple(self._waiting):
            if lock.locked():
                lock.release()

    def wait(self, timeout_seconds: float) -> bool:
        """Whether it is set, by then."""
        if self._is_set:
            return True
        lock = threading.Lock()
        lock.acquire()
        self._waiting.append(lock)
        return self._is_set or lock.acquire(timeout=timeout_seconds) or self._is_set
