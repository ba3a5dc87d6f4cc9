"""When to try again what has failed for a reason that may pass by itself."""

from __future__ import annotations

from time import monotonic
from typing import Final

_FIRST_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 60.0


class Backoff:
    """Ever longer, up to a minute, as long as it is about the same subject. Not safe for several threads."""

    def __init__(self) -> None:
        self.due_at: float | None = None
        """By `monotonic()`; None: nothing is due."""
        self._subject: object = None
        self._seconds = _FIRST_SECONDS

    def after_failure(self, subject: object, *, patiently: bool = False) -> None:
        """It failed, once more if `subject` is the same; `patiently`: it waits the longest from the start."""
        if subject != self._subject:
            self._seconds = _FIRST_SECONDS
        elif self.due_at is not None:
            self._seconds = min(2 * self._seconds, _MOST_SECONDS)
        self._subject = subject
        self.due_at = monotonic() + (_MOST_SECONDS if patiently else self._seconds)

    def hurry(self) -> None:
        """What it waited for has happened: if anything is due, it is due now."""
        if self.due_at is not None:
            self.due_at = monotonic()

    def stop(self) -> None:
        """Nothing is to be tried again."""
        self.due_at, self._subject = None, None
        self._seconds = _FIRST_SECONDS

    def remaining_seconds(self) -> float | None:
        """Until it is due; 0 if it is, None if nothing is."""
        return None if self.due_at is None else max(0.0, self.due_at - monotonic())
