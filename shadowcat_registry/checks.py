"""Asks providers whether their storages could be opened now, without waiting for ever for an answer.

A check is foreign code: it runs in a thread of its own, with no lock held. One that has not come back is
left alone and not started a second time: whoever asks meanwhile waits for the same answer. Knows how a
check is carried out, and neither a registry nor what its answer leads to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from time import monotonic
from typing import Final

from . import forks
from .leases import Revision
from .metadata import Health

CHECK_SECONDS: Final = 10.0
"""What a check has for its answer, unless somebody says otherwise."""

Probe = Callable[[], str | None]
"""Returns what is wrong."""


class Check:
    """One call of a provider's check."""

    def __init__(self, on_answer: Callable[[], object] | None) -> None:
        self.on_answer = on_answer
        self.began = monotonic()
        self.answered = threading.Event()
        self.error: str | None = None
        """What is wrong, once it has answered; None: nothing."""

    @property
    def overdue(self) -> str:
        """What is wrong as long as it has not answered."""
        return f"its check has not answered for {monotonic() - self.began:.1f} s"

    def verdict(self, timeout_seconds: float) -> Health:
        """By this one check: `healthy`, or `failing` with the reason."""
        error = self.error if self.answered.wait(timeout_seconds) else self.overdue
        return Health("failing" if error is not None else "healthy", error)


class Checks:
    """Those that are running: at most one a revision."""

    def __init__(self) -> None:
        # Guards the dict; nothing foreign is called under it.
        self._lock = threading.Lock()
        self._running: dict[Revision, Check] = {}
        forks.in_child(self, Checks._start_anew)

    def begin(self, revision: Revision, probe: Probe, on_answer: Callable[[], object] | None = None) -> Check:
        """Start `probe`, unless it runs already. `on_answer` is called in its thread, if this has started it.

        Raises:
            RuntimeError: there is no thread to be had.
        """
        with self._lock:
            running = self._running.get(revision)
            if running is not None:
                return running
            check = self._running[revision] = Check(on_answer)
        context = copy_context()  # that of an init hook knows providers which nobody else does
        thread = threading.Thread(
            target=lambda: context.run(self._run, revision, check, probe),
            name=f"shadowcat-check-{revision.provider}",
            daemon=True,
        )
        try:
            thread.start()
        except BaseException:
            self._end(revision)
            raise
        return check

    def _run(self, revision: Revision, check: Check, probe: Probe) -> None:
        try:
            check.error = probe()
        except BaseException as error:  # noqa: BLE001 - `probe` passes on what is no Exception: an answer too
            check.error = f"its check failed with {type(error).__name__}"
        finally:
            self._end(revision)
            check.answered.set()
        if check.on_answer is not None:
            check.on_answer()

    def _end(self, revision: Revision) -> None:
        with self._lock:
            self._running.pop(revision, None)

    def _start_anew(self) -> None:
        """In a forked child: the threads are the parent's."""
        self._lock = threading.Lock()
        self._running = {}
