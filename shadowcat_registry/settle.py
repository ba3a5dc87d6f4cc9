"""When the content of a path may be taken: the rules of settling, as a state machine without a clock.

Pure: time is an argument (seconds, monotonic), files are looked at by somebody else, who tells what
was seen. The dialogue: `hint()` says that something happened; when `due` has come, `is_quiet()` is given
a fresh signature; when that agrees, `settle()` is given a full look, and decides.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from .sight import BLANK, MOVING, NOTHING, Sight, Signature

REPLACED_QUIET_SECONDS: Final = 0.005
"""What was moved onto the name is whole; this only makes one change of a burst of replacements."""
CLOSED_QUIET_SECONDS: Final = 0.05
STIRRED_QUIET_SECONDS: Final = 0.5
"""Without an event nobody knows whether a writer is done: 50 ms of quiet took halves."""
OPEN_WAIT_SECONDS: Final = 5.0
"""How long a writer may have the file open before we stop waiting for its end."""
LONGEST_WAIT_SECONDS: Final = 5.0
"""How long movement may keep us waiting; later the first whole content is taken."""
BLANK_WAIT_SECONDS: Final = 1.25
"""How long nothing has to last to be a fact; deploys that delete and write anew take up to a second."""


class Hint(Enum):
    """What may have happened to a path. The latest hint counts."""

    REPLACED = auto()
    """Another file, link or directory took the name, in one step."""
    OPENED = auto()
    """Somebody is writing; where the platform tells, a `CLOSED` will follow."""
    CLOSED = auto()
    """A writer closed the file."""
    GONE = auto()
    STIRRED = auto()
    """It is not what it was, and nobody said how that came."""


class Settling:
    """One path. `taken` is the content that was passed on last, None: unknown, so that any is news."""

    def __init__(self, *, has_close_events: bool) -> None:
        self.due: float | None = None
        """When to look; None: nothing is going on."""
        self.sight: Sight | None = None
        """The last look that was decisive."""
        self.taken: str | None = None
        self.was_told = False
        """Whether an event (and not only a periodic check) spoke of what is going on."""
        self._has_close_events = has_close_events
        self._since = 0.0  # of the first hint of what is going on
        self._opened_at: float | None = None
        self._blank_since: float | None = None
        self._quiet_seconds = 0.0
        self._candidate: Signature | None = None  # what it was when the quiet began; None: not begun

    @property
    def is_news(self) -> bool:
        """Whether what settled last differs from what was passed on."""
        return self.sight is not None and self.sight.content != self.taken

    def hint(self, hint: Hint, now: float) -> None:
        if self.due is None:
            self._since = now
            self.was_told = False
        if hint is not Hint.STIRRED:
            self.was_told = True
        self._candidate = None
        if hint is Hint.OPENED and self._has_close_events:
            if self._opened_at is None:
                self._opened_at = now
            # A writer that never closes is one of whom nobody says that he is done.
            self._quiet_seconds = STIRRED_QUIET_SECONDS
            self.due = self._opened_at + OPEN_WAIT_SECONDS
            return
        self._opened_at = None
        if hint is Hint.REPLACED:
            self._quiet_seconds = REPLACED_QUIET_SECONDS
        elif hint in (Hint.CLOSED, Hint.GONE):
            self._quiet_seconds = CLOSED_QUIET_SECONDS
        else:
            self._quiet_seconds = STIRRED_QUIET_SECONDS
        self.due = now

    def is_quiet(self, signature: Signature, now: float) -> bool:
        """Whether the time for a full look has come; otherwise `due` says when to ask again."""
        began, self._candidate = self._candidate, signature
        if began == signature or self._is_overdue(now):
            return True
        if began == NOTHING or (began is not None and self._blank_since is not None):
            self._quiet_seconds = STIRRED_QUIET_SECONDS  # it came out of nothing, and no event told how
        self.due = now + self._quiet_seconds
        return False

    def settle(self, sight: Sight, now: float) -> bool:
        """Whether this look is decisive: then `sight` and `is_news` tell, and nothing is due."""
        moved = sight.signature != self._candidate and not self._is_overdue(now)
        if moved or sight.content == MOVING:
            self._candidate = None if sight.content == MOVING else sight.signature
            self.due = now + max(self._quiet_seconds, CLOSED_QUIET_SECONDS)
            return False
        if sight.content in BLANK and sight.content != self.taken:
            if self._blank_since is None:
                self._blank_since = now
            lasts_until = self._blank_since + BLANK_WAIT_SECONDS
            if now < lasts_until:
                self.due = lasts_until
                return False
        self._blank_since = self._opened_at = self._candidate = None
        self.due = None
        self.sight = sight
        return True

    def rest(self, seconds: float) -> None:
        """Nobody looked for so long (the process was stopped): that time tells nothing of the file."""
        self._since += seconds
        self._opened_at = None if self._opened_at is None else self._opened_at + seconds
        self._blank_since = None if self._blank_since is None else self._blank_since + seconds
        self._candidate = None

    def is_doubtful(self, signature: Signature) -> bool:
        """Whether a periodic check that sees this signature must look at the content again."""
        seen = self.sight
        return seen is None or seen.signature != signature or seen.is_young or seen.content == "unreadable"

    def _is_overdue(self, now: float) -> bool:
        # A writer who came late in a long burst gets the whole wait for his end, too.
        since = self._since if self._opened_at is None else self._opened_at + OPEN_WAIT_SECONDS
        return now >= since + LONGEST_WAIT_SECONDS
