"""Event loops for schedules: one that has nothing to do gives way until it is woken from elsewhere.

A loop runs in the thread of an action; whatever it does off itself are threads of the schedule as well. So
one number decides over tasks, loops and threads alike. Inside of a loop the order is asyncio's own; what
comes into it first is what differs. Files and sockets have no place here, and time is not real.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Loop(asyncio.BaseEventLoop):
    """It waits in a `threading.Event`, which the scheduler sees, where others wait in the system."""

    def __init__(self) -> None:
        super().__init__()
        self._woken = threading.Event()
        self._selector = self

    def select(self, timeout_seconds: float | None) -> list[object]:
        if timeout_seconds is None or timeout_seconds > 0:
            self._woken.wait(timeout_seconds)
        self._woken.clear()  # before what is ready is looked at: nothing that comes later is forgotten
        return []

    def _write_to_self(self) -> None:
        self._woken.set()

    def _process_events(self, _: object) -> None:
        """There are none."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, as an action of a schedule."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(coroutine)
