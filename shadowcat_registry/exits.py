"""What is still open when the interpreter exits is closed then, in bounded time."""

from __future__ import annotations

import atexit
from functools import cache
from time import monotonic
from typing import Final, Protocol
from weakref import WeakSet

_EXIT_SECONDS: Final = 10.0
_LEAST_SECONDS: Final = 0.1


class Closable(Protocol):
    def close(self, timeout_seconds: float = ...) -> object: ...


_open: Final[WeakSet[Closable]] = WeakSet()


def close_at_exit(owner: Closable) -> None:
    """Close `owner` at the exit, if it still lives then; it is not kept alive for that."""
    _register()
    _open.add(owner)


@cache
def _register() -> None:
    atexit.register(_close_all)


def _close_all() -> None:
    deadline = monotonic() + _EXIT_SECONDS
    for owner in list(_open):
        owner.close(max(_LEAST_SECONDS, deadline - monotonic()))
