"""Where a provider under test keeps its tapes, and the fixtures that open it there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import HealthCheck

from ..backend import StorageProviderFactory, TapeQuery
from ..metadata import Config, ProviderCapability
from ..registry import StorageProviderRegistry
from ..storage import TapeStorage
from ..tape import Direction
from .child import factory_of

C2S: Final[Direction] = "client_to_server"
S2C: Final[Direction] = "server_to_client"
PATIENCE_SECONDS: Final = 20.0
"""How long a test waits for what has to happen; only a failing test ever waits that long."""
NO_FAULT_OF_THE_STORAGE: Final = (
    HealthCheck.function_scoped_fixture,
    HealthCheck.differing_executors,
    HealthCheck.too_slow,
)
"""One storage serves all examples of a test, and how busy the machine is says nothing of it."""

T = TypeVar("T")


class Place:
    """One place, through a real registry, as a user has it; it may be opened any number of times at once."""

    def __init__(
        self, make_factory: Callable[[], StorageProviderFactory], config: Config, directory: Path
    ) -> None:
        self.make_factory = make_factory
        self.config = dict(config)
        self.directory = directory
        self.registry = StorageProviderRegistry(base_directory=directory)
        self._factory = factory_of(make_factory)
        self._name = self._factory.name
        self.registry.register(self._factory, config=self.config)

    def open(self) -> TapeStorage:
        """A backend of its own, as another process would have it."""
        return self.registry.create_storage(self._name)

    def share(self) -> TapeStorage:
        """A handle on the one backend that all have who ask for this."""
        return self.registry.open_storage(self._name)

    @property
    def claimed(self) -> frozenset[ProviderCapability]:
        """By the type."""
        return frozenset(self._factory.capabilities)

    @property
    def is_lasting(self) -> bool:
        """Whether tapes outlive the process, and another one sees them."""
        return bool(self.claimed & {ProviderCapability.LOCAL_STORAGE, ProviderCapability.REMOTE_STORAGE})

    def with_factory(self, wrap: Callable[[StorageProviderFactory], StorageProviderFactory]) -> Place:
        """The same place, opened by a factory around this one; close its `registry`."""
        make = self.make_factory
        return Place(lambda: wrap(factory_of(make)), self.config, self.directory)


class UnderTest:
    """The fixtures of both suites."""

    factory: ClassVar[Callable[[], StorageProviderFactory]]
    """Makes the factory under test: usually its class, or a backend class below `@provider`."""

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        """The config that the provider is opened with. Relative paths in it are relative to `tmp_path`."""
        return {}

    @pytest.fixture
    def place(self, config: Mapping[str, Any], tmp_path: Path) -> Iterator[Place]:
        place = Place(type(self).__dict__.get("factory") or type(self).factory, config, tmp_path)
        yield place
        place.registry.close()

    @pytest.fixture
    def storage(self, place: Place) -> Iterator[TapeStorage]:
        with place.open() as storage:
            yield storage


def in_background(call: Callable[[], T]) -> Future[T]:
    """A call in a thread of its own; `result(PATIENCE_SECONDS)` is what came of it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - the caller's, who asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def messages_in(storage: TapeStorage, tape_id: str, after_seq: int = -1) -> list[object]:
    records = map(json.loads, storage.read(tape_id, after_seq))
    return [record["env"]["message"] for record in records if record["type"] == "frame"]


def pages(
    storage: TapeStorage, query: TapeQuery | None = None, *, limit: int, most: int = 1_000
) -> Iterator[list[str]]:
    """The ids on each page; a listing that does not end fails."""
    cursor: str | None = None
    for _ in range(most):
        page = storage.list(query, cursor, limit)
        assert len(page.items) <= limit
        yield [meta["tape_id"] for meta in page.items]
        cursor = page.cursor
        if cursor is None:
            return
    pytest.fail(f"{most} pages, and no end")


def capable(storage: TapeStorage, capability: ProviderCapability) -> TapeStorage:
    if capability not in storage.capabilities:
        pytest.skip(f"it does not claim {capability}")
    return storage


def lasting(place: Place) -> Place:
    if not place.is_lasting:
        pytest.skip(
            "it claims neither local_storage nor remote_storage: its tapes need not outlive a process"
        )
    return place
