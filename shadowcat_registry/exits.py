"""What is still open when the interpreter exits is closed then, in bounded time.

The children of `multiprocessing` leave without the interpreter's `atexit`, but not without that of their own.
"""

from __future__ import annotations

import atexit
import sys
from time import monotonic
from typing import Any, Final, Protocol
from weakref import WeakSet

from . import forks

_EXIT_SECONDS: Final = 10.0
_LEAST_SECONDS: Final = 0.1


class Closable(Protocol):
    def close(self, timeout_seconds: float = ...) -> object: ...


_open: Final[WeakSet[Closable]] = WeakSet()


def close_at_exit(owner: Closable) -> None:
    """Close `owner` at the exit, if it still lives then; it is not kept alive for that."""
    _register()
    _open.add(owner)


class _Registration:
    """Whether the exit knows of us, in this process."""

    at_exit = False  # a forked child inherits it
    at_exit_of_child = False


def _register() -> None:
    if not _Registration.at_exit:
        _Registration.at_exit = True
        atexit.register(_close_all)
    if not _Registration.at_exit_of_child:
        _Registration.at_exit_of_child = True
        process: Any = sys.modules.get("multiprocessing.process")  # a child of its has it loaded
        if process is not None and process.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, _close_all, exitpriority=0)


def _start_anew() -> None:
    _Registration.at_exit_of_child = False  # `multiprocessing` has forgotten what its parent had registered


forks.module_in_child(_start_anew)


def _close_all() -> None:
    deadline = monotonic() + _EXIT_SECONDS
    for owner in list(_open):
        owner.close(max(_LEAST_SECONDS, deadline - monotonic()))
