"""Opening what a command works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...runtime import Runtime
from ...storage import TapeStorage


@contextmanager
def open_storage(manifest: Path, provider: str | None) -> Iterator[TapeStorage]:
    """The storage that is asked for, and no other."""
    with Runtime(manifest, eager=False, watch=False) as runtime:
        runtime.start()
        registry = runtime.registry
        with registry.open_storage(provider) if provider else registry.get_default_storage() as storage:
            yield storage
