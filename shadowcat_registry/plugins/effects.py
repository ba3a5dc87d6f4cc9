"""What the import of a plugin has to leave as it was: the names of `builtins`, and the process's threads.

Everybody in the process uses the one; nobody could ever end the others, and as long as they run, their code
cannot go. Knows nothing of what is imported.
"""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any, Final

from .blame import Shown

_GRACE_SECONDS: Final = 0.5
"""What a thread that is ending has for that."""
_MAX_NAMED: Final = 5


class Surroundings:
    """As they are now."""

    def __init__(self) -> None:
        self._builtins = dict(vars(builtins))

    def mend_builtins(self) -> str | None:
        """What is wrong with `builtins` since; it is as it was afterwards."""
        now, before = vars(builtins), self._builtins
        missing = object()
        changed = [name for name, value in before.items() if now.get(name, missing) is not value]
        added = [name for name in list(now) if name not in before]
        if not changed and not added:
            return None
        now.update({name: before[name] for name in changed})
        for name in added:
            now.pop(name, None)
        names = sorted(changed + added)
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        return (
            f"its import changed {', '.join(names[:_MAX_NAMED])}{more} in `builtins`, for the whole process"
        )


def left_running(builtins_of_plugin: Mapping[str, Any], shown: Shown) -> str | None:
    """Which thread the import of a plugin has left behind: where the code begins that it was started with."""
    deadline = time.monotonic() + _GRACE_SECONDS
    for thread in threading.enumerate():
        # Not by what it runs just now: to look at the stack of a running thread can crash the interpreter.
        for function in _started_with(thread):
            if function.__builtins__ is builtins_of_plugin:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    code = function.__code__
                    place = f"{shown(code.co_filename) or '?'}:{code.co_firstlineno}"
                    return f"its import left a thread running, with what begins at {place}"
    return None


def _started_with(thread: threading.Thread) -> Iterator[Any]:
    """Its functions that are written in Python."""
    for given in (getattr(thread, "_target", None), getattr(thread, "function", None), type(thread).run):
        while isinstance(given, partial):
            given = given.func
        function = getattr(given, "__func__", given)
        if isinstance(function, FunctionType):
            yield function
