"""Calls of foreign code that may never return, in threads that are left alone when they take too long.

Knows neither storages nor a registry.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

_THREAD_NAME: Final = "shadowcat-close"


def call_each(calls: Sequence[Callable[[], object]], timeout_seconds: float) -> list[float | None]:
    """Make these calls, each in a thread of its own, within `timeout_seconds` together.

    A call begins when the one before has ended, or has had an equal share of the time that was left;
    whoever is late may go on while there is time. Returns for each None, or for how many seconds it has
    been running: nobody waits for that one any more. Calls must not raise.
    """
    deadline = monotonic() + timeout_seconds
    running: list[tuple[threading.Thread | None, float]] = []
    for number, call in enumerate(calls):
        thread = threading.Thread(target=call, name=_THREAD_NAME, daemon=True)
        began = monotonic()
        try:
            thread.start()
        except RuntimeError:  # no thread to be had; some versions of Python give none at their exit
            call()
            running.append((None, began))
            continue
        running.append((thread, began))
        thread.join(max(0.0, deadline - monotonic()) / (len(calls) - number))
    late: list[float | None] = []
    for started, began in running:
        if started is not None:
            started.join(max(0.0, deadline - monotonic()))
        is_late = started is not None and started.is_alive()
        late.append(monotonic() - began if is_late else None)
    return late
