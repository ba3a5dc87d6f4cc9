"""Readers beside a writer, and what a lease costs beside the look-ups of other libraries."""

from __future__ import annotations

import threading
import time
import timeit
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.generations import Change
from shadowcat_registry.registry import StorageProviderRegistry

from .lookups import LockedDict, PlainDict

PROVIDERS = 100
NAME = "p50"
THREADS = (1, 2, 8, 32)
ROUND_SECONDS = 0.25
ROUNDS = 5
BATCH = 500
GENERATIONS_PER_SECOND = 100
PACED_SECONDS = 3.0
PACED_PER_SECOND = 1000
LEASES = 5000


def make_registry() -> StorageProviderRegistry:
    factory = Catalog().factory("memory")
    registry = StorageProviderRegistry()
    for number in range(PROVIDERS):
        registry.register(factory, name=f"p{number}")
    return registry


class Writer:
    """Commits a generation at a steady rate while the block lasts."""

    def __init__(self, registry: StorageProviderRegistry) -> None:
        self._registry = registry
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.count = 0

    def _work(self) -> None:
        due = time.perf_counter()
        while not self._over.wait(max(0.0, due - time.perf_counter())):
            name = f"p{self.count % PROVIDERS}"
            current = self._registry.snapshot()[name]
            self._registry.commit([Change(name, current, replace(current))])
            self.count += 1
            due += 1 / GENERATIONS_PER_SECOND

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def reads_per_second(read: Callable[[], object], thread_count: int) -> float:
    counts = [0] * thread_count
    barrier, over = threading.Barrier(thread_count + 1), threading.Event()

    def work(index: int) -> None:
        count, is_over = 0, over.is_set
        barrier.wait()
        while not is_over():
            for _ in range(BATCH):
                read()
            count += BATCH
        counts[index] = count

    threads = [threading.Thread(target=work, args=(index,)) for index in range(thread_count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    time.sleep(ROUND_SECONDS)
    over.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def compare_reads(registry: StorageProviderRegistry) -> None:
    values: dict[str, object] = {name: registry.snapshot()[name] for name in registry}
    plain, locked = PlainDict(values), LockedDict(values)
    print(f"reads of one of {PROVIDERS}, million per second; writer: {GENERATIONS_PER_SECOND} generations/s")
    print(
        f"{'threads':>8}{'dict':>9}{'RLock':>9}{'ours':>9}{'+writer':>9}{'writer/none':>13}{'ours/dict':>11}"
    )
    for thread_count in THREADS:
        best = [0.0] * 4
        for _ in range(ROUNDS):  # in turn, so that a busy moment meets all of them
            speeds = [
                reads_per_second(lambda: plain.get(NAME), thread_count),
                reads_per_second(lambda: locked.get(NAME), thread_count),
                reads_per_second(lambda: registry.snapshot()[NAME], thread_count),
            ]
            with Writer(registry):
                speeds.append(reads_per_second(lambda: registry.snapshot()[NAME], thread_count))
            best = [max(pair) for pair in zip(best, speeds, strict=True)]
        columns = "".join(f"{speed / 1e6:>9.2f}" for speed in best)
        print(f"{thread_count:>8}{columns}{best[3] / best[2]:>13.2f}{best[3] / best[0]:>11.2f}")


def paced(call: Callable[[], object], lateness_seconds: list[float], call_seconds: list[float]) -> None:
    due = time.perf_counter()
    until = due + PACED_SECONDS
    while due < until:
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        call()
        call_seconds.append(time.perf_counter() - began)
        lateness_seconds.append(began - due)
        due = max(due + 1 / PACED_PER_SECOND, began)


def compare_pauses(registry: StorageProviderRegistry) -> None:
    """The control does nothing when it wakes up: what it is late by is the machine's and the GIL's."""
    ways: dict[str, Callable[[], object]] = {
        "control": lambda: None,
        "snapshot()[name]": lambda: registry.snapshot()[NAME],
    }
    measured: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    threads = [threading.Thread(target=paced, args=(ways[name], *measured[name])) for name in ways]
    with Writer(registry) as writer:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{PACED_PER_SECOND} calls a second while {writer.count} generations were committed; milliseconds")
    print(f"{'':20}{'calls':>8}{'late p99':>10}{'latest':>10}{'longest call':>14}")
    for name, (late, took) in measured.items():
        p99 = sorted(late)[len(late) * 99 // 100]
        print(f"{name:20}{len(late):>8}{p99 * 1e3:>10.3f}{max(late) * 1e3:>10.3f}{max(took) * 1e3:>14.3f}")


class Service:
    pass


def _svcs() -> Callable[[], object]:
    svcs: Any = import_module("svcs")
    services = svcs.Registry()
    services.register_factory(Service, Service)
    container = svcs.Container(services)
    return lambda: container.get(Service)


def _dishka() -> Callable[[], object]:
    dishka: Any = import_module("dishka")
    provider = dishka.Provider(scope=dishka.Scope.APP)
    provider.provide(Service)
    container = dishka.make_container(provider, lock_factory=threading.Lock)
    return lambda: container.get(Service)


def _dependency_injector() -> Callable[[], object]:
    providers: Any = import_module("dependency_injector.providers")
    singleton: Callable[[], object] = providers.ThreadSafeSingleton(Service)
    return lambda: singleton()


def _stevedore() -> Callable[[], object]:
    stevedore: Any = import_module("stevedore.extension")
    extension = stevedore.Extension(NAME, None, Service, Service())
    manager = stevedore.ExtensionManager.make_test_instance([extension])
    return lambda: manager[NAME].obj


def compare_leases(registry: StorageProviderRegistry) -> None:
    values: dict[str, object] = {name: registry.snapshot()[name] for name in registry}
    locked = LockedDict(values)
    lock = threading.Lock()

    def with_lock() -> None:
        with lock:
            pass

    def lease() -> None:
        registry.open_storage(NAME).close()

    ways: dict[str, Callable[[], object]] = {
        "RLock around a dict": lambda: locked.get(NAME),
        "with lock: pass": with_lock,
    }
    others = {
        "svcs container.get, cached": _svcs,
        "dishka container.get, locked": _dishka,
        "dependency-injector ThreadSafe": _dependency_injector,
        "stevedore manager[name].obj": _stevedore,
    }
    for name, make in others.items():
        with suppress(ImportError):  # who is not installed is not compared
            ways[name] = make()
    ways["open_storage + close"] = lease
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS * 3):
        for name, way in ways.items():
            way()
            best[name] = min(best[name], timeit.timeit(way, number=LEASES) / LEASES)
    base = best.get("svcs container.get, cached")
    print("one thread; all but the last only look something up, and count nothing")
    print(f"{'':34}{'ns':>8}{'/ svcs':>9}")
    for name, seconds in best.items():
        ratio = f"{seconds / base:>9.2f}" if base is not None else f"{'-':>9}"
        print(f"{name:34}{seconds * 1e9:>8.0f}{ratio}")


def main() -> None:
    registry = make_registry()
    compare_reads(registry)
    print()
    compare_pauses(registry)
    print()
    compare_leases(registry)
    registry.close()
