"""Save → live: ours beside raw inotify with the same parsing (the limit), watchfiles, and a polling observer.

In one run and in turn, so that a busy moment meets all of them; idle, and with one core busy. Prints medians
and 99th percentiles in milliseconds, and what is left over the limit. Then what following costs a process
that has nothing to do, and one whose directory is full of noise.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import RegistryError
from shadowcat_registry.load import ManifestLoader
from shadowcat_registry.runtime import Runtime
from shadowcat_registry.watch import WatchMode

ROUNDS = 60
SLOW_ROUNDS = 8
PATIENCE_SECONDS = 20.0
IDLE_SECONDS = 20.0
BURST = 10_000
IN_CLOSE_WRITE, IN_MOVED_TO = 0x8, 0x80
NAME = "registry.yaml"


def text(version: int, providers: int) -> str:
    lines = [
        f"  p{n}:\n    type: memory\n    display_name: provider {n}\n    config: {{max_tapes: {n + 1}}}"
        for n in range(providers - 1)
    ]
    head = f"version: 1\nproviders:\n  first: {{type: memory, config: {{max_tapes: {version + 1}}}}}"
    return "\n".join([head, *lines, ""])


class Live:
    """What a follower has loaded last, and when."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._version, self._at = -1, 0.0

    def set(self, version: int) -> None:
        now = time.perf_counter()
        with self._changed:
            self._version, self._at = version, now
            self._changed.notify_all()

    def wait_for(self, version: int) -> float:
        """When it was there."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._version == version, PATIENCE_SECONDS):
                raise TimeoutError(f"version {version} never became live; {self._version} is")
            return self._at


def _loading(path: Path, live: Live) -> Callable[[], None]:
    """What the peers do at each change: read, parse and check as ours does; half a file is passed over."""
    loader = ManifestLoader(path, Catalog())

    def load() -> None:
        try:
            manifest = loader.load()
        except RegistryError:
            return
        live.set(int(manifest.providers["first"].config["max_tapes"]) - 1)

    return load


Follower = Callable[[Path, Live], Any]


@contextmanager
def ours(path: Path, live: Live, mode: WatchMode = "auto") -> Iterator[None]:
    with Runtime(path, watch_mode=mode) as runtime:
        runtime.subscribe(
            lambda _: (
                live.set(int(runtime.registry.get_default_config("first")["max_tapes"]) - 1)
                if "first" in runtime.registry
                else None
            )
        )
        runtime.start()
        yield


@contextmanager
def ours_polling(path: Path, live: Live) -> Iterator[None]:
    with ours(path, live, "poll"):
        yield


@contextmanager
def raw_inotify(path: Path, live: Live) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    libc.inotify_add_watch(descriptor, os.fsencode(path.parent), IN_CLOSE_WRITE | IN_MOVED_TO)
    load = _loading(path, live)
    load()

    def follow() -> None:
        while data := os.read(descriptor, 65536):
            offset, concerned = 0, False
            while offset < len(data):
                _, _, _, size = struct.unpack_from("iIII", data, offset)
                name = data[offset + 16 : offset + 16 + size].rstrip(b"\0")
                offset += 16 + size
                if name == b".over":
                    return
                concerned |= name == path.name.encode()
            if concerned:
                load()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        path.with_name(".over").write_bytes(b"")
        thread.join()
        os.close(descriptor)


@contextmanager
def watchfiles_and_load(path: Path, live: Live) -> Iterator[None]:
    watchfiles: Any = import_module("watchfiles")
    load = _loading(path, live)
    load()
    over, ready = threading.Event(), threading.Event()

    def follow() -> None:
        for _ in watchfiles.watch(path.parent, stop_event=over, yield_on_timeout=True, rust_timeout=100):
            ready.set()
            load()

    thread = threading.Thread(target=follow)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def polling_observer(path: Path, live: Live) -> Iterator[None]:
    """What dynaconf and many others do: watchdog's observer for everywhere, once a second."""
    events: Any = import_module("watchdog.events")
    polling: Any = import_module("watchdog.observers.polling")
    load = _loading(path, live)
    load()

    class Handler(events.FileSystemEventHandler):  # type: ignore[misc]  # imported late
        def on_any_event(self, event: object) -> None:  # noqa: ARG002 - watchdog's signature
            load()

    observer = polling.PollingObserver(timeout=1)
    observer.schedule(Handler(), str(path.parent))
    observer.start()
    try:
        yield
    finally:
        observer.stop()
        observer.join()


def save_atomically(path: Path, content: str) -> None:
    draft = path.with_name(".draft")
    draft.write_text(content)
    draft.replace(path)


def save_in_place(path: Path, content: str) -> None:
    path.write_text(content)


def save_by_config_map(path: Path, content: str) -> None:
    volume, data = path.parent, path.parent / "..data"
    old = data.readlink()
    new = Path(tempfile.mkdtemp(prefix="..", dir=volume))
    (new / NAME).write_text(content)
    (volume / "..tmp").symlink_to(new.name)
    (volume / "..tmp").replace(data)
    shutil.rmtree(volume / old)


def save_by_link(path: Path, content: str) -> None:
    target = path.parents[1] / f"version-{time.monotonic_ns()}.yaml"
    target.write_text(content)
    link = path.with_name(".link")
    link.symlink_to(target)
    link.replace(path)


Save = Callable[[Path, str], None]


def lay_out(base: Path, save: Save, content: str) -> Path:
    (base / "conf").mkdir(parents=True)
    path = base / "conf" / NAME
    if save is save_by_config_map:
        (path.parent / "..1").mkdir()
        (path.parent / "..1" / NAME).write_text(content)
        (path.parent / "..data").symlink_to("..1")
        path.symlink_to(f"..data/{NAME}")
    else:
        path.write_text(content)
    os.utime(path, (1, 1))
    return path


def measure(
    followers: dict[str, Follower], save: Save, providers: int, rounds: int, pause_seconds: float = 0.02
) -> dict[str, list[float]]:
    """For each follower the seconds from the end of a save to the new content's being live."""
    took: dict[str, list[float]] = {name: [] for name in followers}
    with tempfile.TemporaryDirectory(prefix="reload-") as directory, ExitStack() as stack:
        lives: dict[str, tuple[Path, Live]] = {}
        for number, (name, follow) in enumerate(followers.items()):
            path, live = lay_out(Path(directory) / str(number), save, text(0, providers)), Live()
            stack.enter_context(follow(path, live))
            lives[name] = path, live
        time.sleep(0.5)  # all of them are past their start
        for version in range(1, rounds + 1):
            for name, (path, live) in lives.items():
                save(path, text(version, providers))
                saved_at = time.perf_counter()
                took[name].append(max(0.0, live.wait_for(version) - saved_at))
                time.sleep(pause_seconds)
    return took


@contextmanager
def one_core_busy() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            yield
        finally:
            spinning.kill()


def show(title: str, took: dict[str, list[float]], limit: str = "raw inotify + parse") -> None:
    print(f"{title}, ms")
    print(f"  {'':28}{'median':>9}{'p99':>9}{'over the limit':>16}{'p99 over it':>13}")
    base = took.get(limit)
    for name, seconds in took.items():
        ordered = sorted(seconds)
        median, high = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        over = ""
        if base is not None:
            reference = sorted(base)
            more = median - reference[len(reference) // 2]
            high_more = high - reference[min(len(reference) - 1, len(reference) * 99 // 100)]
            over = f"{more * 1e3:>16.1f}{high_more * 1e3:>13.1f}"
        print(f"  {name:28}{median * 1e3:>9.1f}{high * 1e3:>9.1f}{over}")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare_cost() -> None:
    """Of a process of its own that follows a manifest of 10 providers."""
    with tempfile.TemporaryDirectory(prefix="reload-") as directory:
        path = lay_out(Path(directory), save_atomically, text(0, 10))
        command = [sys.executable, "-m", "shadowcat_registry", "run", "--json", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(2.0)
            before = cpu_seconds(process.pid)
            time.sleep(IDLE_SECONDS)
            idle = (cpu_seconds(process.pid) - before) / IDLE_SECONDS
            before, began = cpu_seconds(process.pid), time.perf_counter()
            for number in range(BURST):
                other = path.with_name(f"noise-{number}")
                other.touch()
                other.unlink()
            save_atomically(path, text(1, 10))
            saved_at = time.perf_counter()
            process.stdout.readline()
            live_at = time.perf_counter()
            time.sleep(1.0)
            burst = cpu_seconds(process.pid) - before
            process.terminate()
    print("a process of its own, 10 providers")
    print(f"  idle: {idle * 100:.3f} % of a core, {idle * 3600:.2f} s of CPU an hour")
    print(
        f"  {BURST:,} files made and removed beside it in {saved_at - began:.2f} s: {burst:.2f} s of CPU;"
        f" a save right behind them was live after {(live_at - saved_at) * 1e3:.0f} ms"
    )


def main() -> None:
    if sys.platform != "linux":
        print("needs Linux: the limit is inotify's")
        return
    quick: dict[str, Follower] = {"raw inotify + parse": raw_inotify, "ours": ours}
    try:
        import_module("watchfiles")
        quick["watchfiles + parse"] = watchfiles_and_load
    except ImportError:  # who is not installed is not compared
        print("(watchfiles is not installed)")
    slow: dict[str, Follower] = {
        "ours, poll only": ours_polling,
        "PollingObserver(1) + parse": polling_observer,
    }
    for busy in (False, True):
        with one_core_busy() if busy else ExitStack():
            state = "one core busy" if busy else "idle"
            for providers in (10, 100):
                for name, save in (("atomic replace", save_atomically), ("in place", save_in_place)):
                    show(f"{name}, {providers} providers, {state}", measure(quick, save, providers, ROUNDS))
            only_ours: dict[str, Follower] = {"ours": ours}
            for name, save in (("ConfigMap", save_by_config_map), ("symlink swap", save_by_link)):
                show(f"{name}, 10 providers, {state}", measure(only_ours, save, 10, ROUNDS))
            show(f"atomic replace, 10 providers, {state}", measure(slow, save_atomically, 10, SLOW_ROUNDS))
    compare_cost()
