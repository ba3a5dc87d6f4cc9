"""What holds for every test: whoever starts a thread or opens a file, ends and closes it."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shadowcat_registry import forks
from shadowcat_registry.registry import StorageProviderRegistry

# Deterministic, and without a verdict about how fast this machine is.
settings.register_profile(
    "everyday",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],  # how busy the machine is, is no property of what is tested
)
settings.load_profile("everyday")


def pytest_xdist_auto_num_workers() -> int:
    """Half of the tests wait for a process or a file: each core has two workers."""
    return 2 * (os.cpu_count() or 1)


_GRACE_SECONDS = 2.0
_DESCRIPTORS = Path("/proc/self/fd")


def _open_files() -> dict[str, str]:
    """Descriptor → what it is open on; empty where the platform does not tell."""
    found: dict[str, str] = {}
    if sys.platform == "linux":
        for descriptor in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - this runs twice in every test
            with suppress(OSError):  # the one that lists the directory
                found[descriptor] = os.readlink(_DESCRIPTORS / descriptor)  # noqa: PTH115 - dito
    return found


def _registries() -> set[StorageProviderRegistry]:
    """All that live: each has asked to be told of forks."""
    return {owner for owner in forks.owners() if isinstance(owner, StorageProviderRegistry)}


def _holders(registry: StorageProviderRegistry) -> list[str]:
    return [str(holder) for name in registry for holder in registry.holders(name)]


@contextmanager
def short_directory() -> Iterator[Path]:
    """A private one with a name that leaves room for that of a socket, which `tmp_path` may not."""
    directory = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp" if os.name == "posix" else None))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def _surroundings_of_our_own() -> Iterator[None]:
    """No test finds or leaves anything in the developer's home or among his running processes; and Ctrl-C
    reaches the processes that it starts, which a shell's `&` would have them ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch, short_directory() as directory:
        for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            (directory / variable).mkdir(mode=0o700)
            patch.setenv(variable, str(directory / variable))
        yield


@pytest.fixture(autouse=True)
def nothing_is_leaked() -> Iterator[None]:
    """Fails a test that leaves a thread, a file descriptor or a lease behind."""
    threads, files, before = set(threading.enumerate()), _open_files(), _registries()
    yield
    held = [holder for registry in _registries() - before for holder in _holders(registry)]
    started = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in started:
        thread.join(_GRACE_SECONDS)
    alive = [thread.name for thread in started if thread.is_alive()]
    assert not alive, f"threads left running: {alive}"
    assert not held, f"leases left out: {', '.join(held)}"
    opened = {item for item in _open_files().items() if item not in files.items()}
    if opened:  # perhaps only garbage that has not been collected yet
        gc.collect()
        opened &= set(_open_files().items())
    assert not opened, f"files left open: {sorted(target for _, target in opened)}"
