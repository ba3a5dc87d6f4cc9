"""What the tests of storages share: contexts, handles, and where the recordings are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.backend import StorageProviderFactory, TapeStorageBackend
from shadowcat_registry.errors import StorageUnavailableError
from shadowcat_registry.metadata import ProviderCapability
from shadowcat_registry.providers.filesystem import FilesystemProviderFactory
from shadowcat_registry.providers.filesystem.compression import zstd_library
from shadowcat_registry.providers.memory import MemoryProviderFactory
from shadowcat_registry.providers.sqlite import SqliteProviderFactory
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.use import Source, Use

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared" / "tapes"
RECORDINGS = sorted(DATA.glob("*.jsonl")) + [
    path for path in sorted(SHARED.glob("*.jsonl")) if not (DATA / path.name).exists()
]
"""The six small recordings, which are always there, and where there are more, those too."""


def _has_zstd() -> bool:
    try:
        zstd_library()
    except StorageUnavailableError:
        return False
    return True


HAS_ZSTD = _has_zstd()
needs_zstd = pytest.mark.skipif(
    not HAS_ZSTD, reason="this Python has no zstd: it takes 3.14, or the extra [zstd]"
)
ZSTD = pytest.param("zstd", marks=needs_zstd)
"""For `parametrize`."""

FACTORIES: Mapping[str, Callable[[], StorageProviderFactory]] = {
    "filesystem": FilesystemProviderFactory,
    "memory": MemoryProviderFactory,
    "sqlite": SqliteProviderFactory,
}


@dataclass(frozen=True)
class Context:
    base_directory: Path
    provider: str = "tapes"
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("tests.storages"))

    def open(self, name: str) -> TapeStorage:
        raise AssertionError(f"nothing here stands on {name}")

    async def aopen(self, name: str) -> TapeStorage:
        return self.open(name)


def open_backend(
    type_name: str, directory: Path, config: Mapping[str, Any] | None = None
) -> TapeStorageBackend:
    return FACTORIES[type_name]().create(config or {}, Context(directory))


class FreeUse(Use):
    """Of no registry: nobody counts it."""

    __slots__ = ("_release",)

    def __init__(self, source: Source, release: Callable[[], None] = lambda: None) -> None:
        super().__init__(source)
        self._release = release

    def leave(self) -> Callable[[], object] | None:
        super().leave()
        return self._release


def handle(
    backend: TapeStorageBackend,
    *,
    release: Callable[[], None] = lambda: None,
    capabilities: frozenset[ProviderCapability] = frozenset(),
) -> TapeStorage:
    return TapeStorage(FreeUse(Source.of(backend, "tapes", capabilities), release))
