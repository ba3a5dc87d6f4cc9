"""What the tests of the live core share: a provider type that does as it is told, and threads that
are watched.

A `Factory` is a real one (its backends are those of the memory provider) which calls the test at each
step, so that a test can hold a step up, or make it fail.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import pytest

from shadowcat_registry import progress
from shadowcat_registry.backend import CreateContext, Durability, Reconfiguration
from shadowcat_registry.metadata import Config, ProviderCapability
from shadowcat_registry.providers.memory import MemoryBackend

T = TypeVar("T")
PATIENCE_SECONDS = 10.0
"""How long a test waits for what has to happen; only a failing test ever waits that long."""


class Backend(MemoryBackend):
    durability = Durability("none")

    def __init__(
        self,
        config: Config,
        context: CreateContext,
        on_close: Callable[[], object] | None,
        on_reconfigure: Callable[[Backend, Config], Reconfiguration | None] | None = None,
    ) -> None:
        super().__init__(logging.getLogger("tests.fakes"), max_bytes=1 << 20, max_tapes=100)
        self.config, self.context = config, context
        self.close_count = 0
        self._on_close = on_close
        self._on_reconfigure = on_reconfigure

    def reconfigure(self, config: Config) -> Any:
        return None if self._on_reconfigure is None else self._on_reconfigure(self, config)

    def close(self) -> None:
        self.close_count += 1
        super().close()
        if self._on_close is not None:
            self._on_close()


class Factory:
    """`on_create(config, context)` and `on_close()` run where a real factory and backend would work."""

    version = "1.0.0"
    description = "does as it is told"

    def __init__(
        self,
        name: str = "fake",
        *,
        schema: Mapping[str, Any] | None = None,
        capabilities: frozenset[ProviderCapability] = frozenset(),
        on_create: Callable[[Config, CreateContext], object] | None = None,
        on_close: Callable[[], object] | None = None,
        on_validate: Callable[[Config], object] | None = None,
        on_reconfigure: Callable[[Backend, Config], Reconfiguration | None] | None = None,
    ) -> None:
        self.name = name
        self.display_name = name.title()
        self.schema, self.capabilities = schema, capabilities
        self.on_create, self.on_close, self.on_validate = on_create, on_close, on_validate
        self.on_reconfigure = on_reconfigure
        self.backends: list[Backend] = []
        self._lock = threading.Lock()  # guards the two counts
        self.create_count = 0

    def config_schema(self) -> Mapping[str, Any] | None:
        return self.schema

    def validate_config(self, config: Config) -> None:
        if self.on_validate is not None:
            self.on_validate(config)

    def create(self, config: Config, context: CreateContext) -> Backend:
        with self._lock:
            self.create_count += 1
        if self.on_create is not None:
            self.on_create(config, context)
        backend = Backend(config, context, self.on_close, self.on_reconfigure)
        with self._lock:
            self.backends.append(backend)
        return backend

    @property
    def open_count(self) -> int:
        return sum(1 for backend in self.backends if not backend.close_count)


class Running(Generic[T]):
    """A call in a thread of its own; `result()` is what came of it."""

    def __init__(self, call: Callable[[], T], name: str | None = None) -> None:
        self._call = call
        self._value: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._call())
        except BaseException as error:  # noqa: BLE001 - kept for who asks
            self._error = error

    @property
    def is_running(self) -> bool:
        return self.thread.is_alive()

    def result(self) -> T:
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive(), "the call hangs"
        if self._error is not None:
            raise self._error
        return self._value[0]

    def error(self) -> BaseException | None:
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive(), "the call hangs"
        return self._error


class Gate:
    """A place where foreign code stops until the test lets it go on: `gate()` there, then
    `gate.reached()` and `gate.open()` here."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, *_: object) -> None:
        self._thread = threading.current_thread()
        self._reached.set()
        assert self._opened.wait(PATIENCE_SECONDS), "nobody opened the gate"

    def reached(self) -> None:
        assert self._reached.wait(PATIENCE_SECONDS), "nobody came to the gate"

    def open(self) -> None:
        self._opened.set()

    def holds(self, thread: threading.Thread | None) -> bool:
        """Whether this thread is stopped here."""
        return thread is not None and self._thread is thread and not self._opened.is_set()


def give_up_at(monkeypatch: pytest.MonkeyPatch, *gates: Gate) -> None:
    """Let a step of a reload take as long as it likes, but for one that stands at a gate: that is overdue."""

    def wait_for(job: progress._Job, _: float) -> bool:
        until(lambda: job.done.is_set() or any(gate.holds(job.thread) for gate in gates))
        return job.done.is_set()

    monkeypatch.setattr(progress, "_wait_for", wait_for)


def until(condition: Callable[[], object]) -> None:
    """Wait for a state that no event tells of, such as another thread's being in a wait."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.001)
