"""Looking a provider up, and leasing one, beside a plain dict and a lock around one."""

from __future__ import annotations

import threading
import timeit
from collections.abc import Callable

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.registry import StorageProviderRegistry

ROUNDS = 9
CALLS = 200_000
PROVIDERS = 100


class PlainDict:
    """The least that a look-up by method can be."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def get(self, name: str) -> object:
        return self._values[name]


class LockedDict(PlainDict):
    """What a registry with one lock for readers and writers does."""

    _lock = threading.RLock()

    def get(self, name: str) -> object:
        with self._lock:
            return self._values[name]


def lease(registry: StorageProviderRegistry) -> Callable[[], object]:
    def once() -> None:
        registry.open_storage("p50").close()

    return once


def main() -> None:
    factory = Catalog().factory("memory")
    registry = StorageProviderRegistry()
    for number in range(PROVIDERS):
        registry.register(factory, name=f"p{number}")
    registry.set_default("p50")
    values: dict[str, object] = {name: registry.snapshot()[name] for name in registry}
    plain, locked = PlainDict(values), LockedDict(values)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "dict[name] through a method": (lambda: plain.get("p50"), CALLS),
        "the same with an RLock": (lambda: locked.get("p50"), CALLS),
        "registry.snapshot()[name]": (lambda: registry.snapshot()["p50"], CALLS),
        "registry.get_provider_info(name)": (lambda: registry.get_provider_info("p50"), CALLS // 20),
        "open_storage(name) + close()": (lease(registry), CALLS // 20),
    }
    best = dict.fromkeys(ways, float("inf"))
    empty = float("inf")
    for _ in range(ROUNDS):  # in turn, so that a busy moment meets all of them
        empty = min(empty, timeit.timeit(lambda: None, number=CALLS) / CALLS)
        for name, (way, calls) in ways.items():
            best[name] = min(best[name], timeit.timeit(way, number=calls) / calls)
    base = best["dict[name] through a method"] - empty
    print(f"{PROVIDERS} providers; the call of an empty function ({empty * 1e9:.0f} ns) is subtracted")
    print(f"{'':34}{'ns':>10}{'ratio':>10}")
    for name, seconds in best.items():
        print(f"{name:34}{(seconds - empty) * 1e9:>10.0f}{(seconds - empty) / base:>10.2f}")
    registry.close()
