"""When a file is to be looked at again before anything is said of it: it is wrong, and may be in the making,
so the same has to be found twice; or it moved while it was read.

Knows findings and a clock; who looks is somebody else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from .errors import Finding

SECOND_LOOK_SECONDS: Final = 1.0
"""How long a wrong file has to stay the same before it is reported."""
LONGEST_DOUBT_SECONDS: Final = 5.0
"""A file that is wrong in ever new ways is reported after this, one that never stands still is taken."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A wrong file that may be in the making. Times are those of `monotonic()`."""

    findings: tuple[Finding, ...]
    until: float
    """If it is the same by then, it is meant."""
    at_most_until: float


class SecondLook:
    """`look_again(seconds)` is asked for a look in so long. Not safe for several threads."""

    def __init__(self, look_again: Callable[[float], object]) -> None:
        self._look_again = look_again
        self._doubt: _Doubt | None = None
        self._moving_until: float | None = None
        """It moved while it was read, and is not waited for any longer than this."""

    @property
    def waits_for_rest(self) -> bool:
        """Whether a file that moves while it is read is not to be taken."""
        return self._moving_until is None or monotonic() < self._moving_until

    def has_moved(self) -> None:
        """What was read may be anything: as soon as it has settled, it is to be looked at again."""
        if self._moving_until is None:
            self._moving_until = monotonic() + LONGEST_DOUBT_SECONDS
        self._look_again(0.0)

    def is_due(self, findings: tuple[Finding, ...]) -> bool:
        """Whether a file that is wrong in this way is to be looked at again before that is reported."""
        now, doubt = monotonic(), self._doubt
        if doubt is not None and doubt.findings == findings:
            return now < doubt.until  # this look was not the second one, that is still to come
        at_most_until = now + LONGEST_DOUBT_SECONDS if doubt is None else doubt.at_most_until
        if now >= at_most_until:
            return False
        self._doubt = _Doubt(findings, now + SECOND_LOOK_SECONDS, at_most_until)
        self._look_again(SECOND_LOOK_SECONDS)
        return True

    def end(self) -> None:
        """There was a verdict: the next doubt is a new one."""
        self._doubt = self._moving_until = None
