"""Many threads at once, with a switch as often as the interpreter can. A smoke test: what it finds once,
`test_schedules` finds again."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest

from shadowcat_registry.errors import (
    InstanceExistsError,
    InstanceNotFoundError,
    ProviderExistsError,
    ProviderInUseError,
    ProviderNotFoundError,
    ProviderRetiringError,
    StalePlanError,
)
from shadowcat_registry.generations import Change
from shadowcat_registry.metadata import ProviderSpec
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage

from .fakes import Factory, Running

THREADS = 8
SECONDS = 1.0
NAMES = ("a", "b", "c")
REFUSALS = (
    InstanceExistsError,
    InstanceNotFoundError,
    ProviderExistsError,
    ProviderInUseError,
    ProviderNotFoundError,
    ProviderRetiringError,
    StalePlanError,
)


@pytest.fixture(autouse=True)
def _restless() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class _Crowd:
    """A pool of threads that begin each round together and do something different in each."""

    def __init__(self) -> None:
        self.registry = StorageProviderRegistry(construction_timeout_seconds=10)
        self.rounds = threading.Barrier(THREADS, action=self._begin)
        self.factories: list[Factory] = []
        self.actions: list[Callable[[str], None]] = [
            self.register,
            self.unregister,
            self.reload,
            self.open,
            self.create,
            self.find,
            self.read,
        ]
        self.round_count = 0
        self._ends_at = time.monotonic() + SECONDS
        self._is_over = False

    def _begin(self) -> None:
        self.round_count += 1
        self._is_over = time.monotonic() > self._ends_at  # one answer for all of them

    def work(self, seed: int) -> int:
        random, done = Random(seed), 0
        try:
            while self.rounds.wait(20) >= 0 and not self._is_over:
                for _ in range(5):
                    action = random.choice(self.actions)
                    try:
                        action(random.choice(NAMES))
                        done += 1
                    except REFUSALS:
                        pass
        except BaseException:
            self.rounds.abort()
            raise
        return done

    def factory(self, name: str) -> Factory:
        factory = Factory(name)
        self.factories.append(factory)
        return factory

    def register(self, name: str) -> None:
        self.registry.register(self.factory(name))

    def unregister(self, name: str) -> None:
        self.registry.unregister(name)

    def reload(self, name: str) -> None:
        existing = self.registry.snapshot().get(name)
        staged = self.registry.stage(ProviderSpec(name, name, {}), self.factory(name), origin="manifest")
        with self.registry.staging([staged]):
            self.registry.warm(staged)
        try:
            committed = self.registry.commit([Change(name, existing, staged)])
        except StalePlanError:
            self.registry.discard(staged)
            raise
        self.registry.retire(committed)

    def use(self, handle: TapeStorage) -> None:
        with handle, handle.record("s-1") as tape:
            tape.append("client_to_server", b"{}")

    def open(self, name: str) -> None:
        self.use(self.registry.open_storage(name))

    def create(self, name: str) -> None:
        self.use(self.registry.create_storage(name, instance_id=name))

    def find(self, name: str) -> None:
        self.use(self.registry.find_instance(name))

    def read(self, _: str) -> None:
        snapshot = self.registry.snapshot()
        assert [snapshot[name].name for name in snapshot] == list(snapshot)
        infos = self.registry.list_providers()
        assert len({info.name for info in infos}) == len(infos)
        assert all(info.instance_count >= 0 for info in infos)


def test_a_crowd_leaves_everything_closed_once_and_nothing_counted() -> None:
    crowd = _Crowd()
    calls = [Running(lambda seed=seed: crowd.work(seed)) for seed in range(THREADS)]  # type: ignore[misc]
    assert all(call.result() > 0 for call in calls)
    assert crowd.round_count > 1
    assert all(info.instance_count == 0 for info in crowd.registry.list_providers())
    assert all(info.state == "active" for info in crowd.registry.list_providers())
    assert sum(factory.open_count for factory in crowd.factories) <= len(crowd.registry)
    crowd.registry.close()
    backends = [backend for factory in crowd.factories for backend in factory.backends]
    assert backends
    assert {backend.close_count for backend in backends} == {1}
