"""What the import of a plugin has to leave as it was: the names of `builtins`, and the process's threads.

Everybody in the process uses the one; nobody could ever end the others, and as long as they run, their code
cannot go. Knows nothing of what is imported.
"""

from __future__ import annotations

import builtins
import sys
import threading
import time
from collections.abc import Mapping
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
    """Which thread the import of a plugin has left behind, by the code that it runs: its line."""
    deadline = time.monotonic() + _GRACE_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.ident in _running(builtins_of_plugin, shown):
            thread.join(max(0.0, deadline - time.monotonic()))
    for place in _running(builtins_of_plugin, shown).values():
        return f"its import left a thread running, at {place}"
    return None


def _running(builtins_of_plugin: Mapping[str, Any], shown: Shown) -> dict[int, str]:
    """Thread → the line of the plugin that it is in, by its youngest frame of the plugin's."""
    found: dict[int, str] = {}
    for ident, youngest in sys._current_frames().items():  # noqa: SLF001 - documented, if for debugging
        if ident == threading.get_ident():
            continue
        frame = youngest
        while frame is not None:
            if frame.f_builtins is builtins_of_plugin:
                found[ident] = f"{shown(frame.f_code.co_filename) or '?'}:{frame.f_lineno}"
                break
            frame = frame.f_back  # type: ignore[assignment] # typeshed gives the frames of a dict no None
    return found
