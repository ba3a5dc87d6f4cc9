"""Planning and reloading: beside a comparison of dicts, beside a reader who is to notice nothing, and beside
the parsing and validation that a reload cannot do without.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from shadowcat_registry.backend import CreateContext, TapeStorageBackend
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.load import ManifestLoader, parse_manifest
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.metadata import Config
from shadowcat_registry.plan import State, diff
from shadowcat_registry.providers.memory import MemoryBackend
from shadowcat_registry.runtime import Runtime

from .concurrency import PACED_PER_SECOND, paced
from .manifest import Demo, best, manifest

PROVIDERS = 1_000
RELOADED_PROVIDERS = 100
RELOADS_PER_SECOND = 100
ROUNDS = 7
PAUSE_ROUNDS = 3


class Stored(Demo):
    """The type of the manifest benchmark, with a storage."""

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        return MemoryBackend(context.logger, max_bytes=config["max_bytes"], max_tapes=100)


def planning() -> None:
    """From the 500th of 1,000 providers in another directory."""
    catalog = Catalog([Stored()])
    data = manifest(0, PROVIDERS)
    changed = data.replace(b"/srv/tapes/000500", b"/srv/tapes/changed")

    def load(text: bytes) -> Manifest:
        return parse_manifest(text, Path("registry.yaml"), catalog, {})

    def plain(loaded: Manifest) -> dict[str, object]:
        return {
            name: {"type": spec.type, "display_name": spec.display_name, "config": spec.config}
            for name, spec in loaded.providers.items()
        }

    old, new = load(data), load(changed)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "registry.yaml"
        path.write_bytes(data)
        loader = ManifestLoader(path, catalog, environ={})
        first = loader.load()
        path.write_bytes(changed)
        second = loader.load()
    before, after = plain(old), plain(new)

    def compare() -> None:
        """All of it: `before == after` would stop at the difference."""
        assert sum(value != after[name] for name, value in before.items()) == 1

    def plan(left: Manifest, right: Manifest) -> None:
        assert len(diff(State(left.providers), State(right.providers)).actions) == 1

    ways: dict[str, Callable[[], object]] = {
        "comparison of dicts": compare,
        "plan, both loaded from nothing": partial(plan, old, new),
        "plan, loaded one after the other": partial(plan, first, second),
    }
    times = best(ways, calls=20, rounds=15)
    print(f"plan of {PROVIDERS:,} providers, one changed")
    for name, spent in times.items():
        print(f"{name:>36}{spent:>9.3f} ms{spent / times['comparison of dicts']:>8.2f} x")


def reloading() -> None:
    """End to end, from the call of `reload()` to its outcome, by wall clock."""
    catalog = Catalog([Stored()])
    texts = [
        manifest(0, RELOADED_PROVIDERS).replace(b"level: 3", b"level: %d" % (n % 9 + 1), 1)
        for n in range(20 * ROUNDS)
    ]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "registry.yaml"
        path.write_bytes(texts[-1])
        with Runtime(path, catalog=catalog, watch=False) as runtime:
            runtime.start()
            spent: dict[str, list[float]] = {"from nothing": [], "as the runtime does it": [], "reload": []}
            loader = ManifestLoader(path, catalog, environ={})
            for text in texts:
                path.write_bytes(text)
                ways: dict[str, Callable[[], object]] = {
                    "from nothing": partial(parse_manifest, text, path, catalog, {}),
                    "as the runtime does it": loader.load,
                    "reload": runtime.reload,
                }
                for label, way in ways.items():
                    began = time.perf_counter()
                    way()
                    spent[label].append(time.perf_counter() - began)
    print(f"reload of {RELOADED_PROVIDERS} providers, one changed; median of {len(texts)}")
    medians = {label: sorted(seconds)[len(seconds) // 2] * 1000 for label, seconds in spent.items()}
    base = medians["from nothing"]
    print(f"{'parse + validate, from nothing':>36}{base:>9.3f} ms{1:>8.2f} x")
    warm = medians["as the runtime does it"]
    print(f"{'parse + validate, once more':>36}{warm:>9.3f} ms{warm / base:>8.2f} x")
    print(f"{'reload, end to end':>36}{medians['reload']:>9.3f} ms{medians['reload'] / base:>8.2f} x")


@contextmanager
def reloads(path: Path, runtime: Runtime) -> Iterator[list[int]]:
    """At a steady rate while the block lasts, each of them a generation; counted."""
    over, count = threading.Event(), [0]
    text = manifest(0, RELOADED_PROVIDERS)

    def work() -> None:
        due = time.perf_counter()
        while not over.wait(max(0.0, due - time.perf_counter())):
            path.write_bytes(text.replace(b"level: 3", b"level: %d" % (count[0] % 9 + 1), 1))
            runtime.reload()
            count[0] += 1
            due = max(due + 1 / RELOADS_PER_SECOND, time.perf_counter() - 0.1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join()


def pausing() -> None:
    """As in the concurrency benchmark: the control does nothing when it wakes up, so what it is late by is
    the machine's and the interpreter's, whoever works beside it."""
    catalog = Catalog([Stored()])
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "registry.yaml"
        path.write_bytes(manifest(0, RELOADED_PROVIDERS))
        with Runtime(path, catalog=catalog, watch=False) as runtime:
            runtime.start()
            registry = runtime.registry
            ways: dict[str, Callable[[], object]] = {
                "control": lambda: None,
                "snapshot()[name]": lambda: registry.snapshot()["p50"],
                "open_storage + close": lambda: registry.open_storage("p50").close(),
            }
            print(f"{PACED_PER_SECOND} calls a second, {RELOADS_PER_SECOND} reloads a second; milliseconds")
            print(f"{'':24}{'calls':>8}{'late p99':>10}{'latest':>10}{'/ control':>11}{'longest call':>14}")
            for _ in range(PAUSE_ROUNDS):
                measured: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
                threads = [threading.Thread(target=paced, args=(ways[it], *measured[it])) for it in ways]
                with reloads(path, runtime) as count:
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                latest = {it: max(late) * 1e3 for it, (late, _) in measured.items()}
                for it, (late, took) in measured.items():
                    p99 = sorted(late)[len(late) * 99 // 100] * 1e3
                    print(
                        f"{it:24}{len(late):>8}{p99:>10.3f}{latest[it]:>10.3f}"
                        f"{latest[it] / latest['control']:>11.2f}{max(took) * 1e3:>14.3f}"
                    )
                print(f"{count[0]} reloads, {registry.snapshot().generation} generations so far")


def main() -> None:
    planning()
    print()
    reloading()
    print()
    pausing()


if __name__ == "__main__":
    main()
