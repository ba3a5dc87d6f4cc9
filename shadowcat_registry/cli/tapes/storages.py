"""Opening what a command works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...registry import StorageProviderRegistry
from ...runtime import Runtime
from ...storage import TapeStorage


@contextmanager
def _registry(manifest: Path) -> Iterator[StorageProviderRegistry]:
    with Runtime(manifest, eager=False, watch=False) as runtime:
        runtime.start()
        yield runtime.registry


@contextmanager
def open_storage(manifest: Path, provider: str | None) -> Iterator[TapeStorage]:
    """The storage that is asked for, and no other."""
    with (
        _registry(manifest) as registry,
        registry.open_storage(provider) if provider else registry.get_default_storage() as storage,
    ):
        yield storage


@contextmanager
def open_both(manifest: Path, source: str, target: str) -> Iterator[tuple[TapeStorage, TapeStorage]]:
    """The two storages that are asked for, and no other."""
    with (
        _registry(manifest) as registry,
        registry.open_storage(source) as opened_source,
        registry.open_storage(target) as opened_target,
    ):
        yield opened_source, opened_target
