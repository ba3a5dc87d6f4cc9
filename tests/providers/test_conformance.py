"""The public suite over each built-in type: the difference is only where tapes live."""

from __future__ import annotations

import pytest

from shadowcat_registry.providers.filesystem import FilesystemProviderFactory
from shadowcat_registry.providers.memory import MemoryProviderFactory
from shadowcat_registry.providers.sqlite import SqliteProviderFactory
from shadowcat_registry.testing import TapeStorageConformance, TapeStorageEndurance

from ..storages import RECORDINGS


class TestFilesystem(TapeStorageConformance):
    factory = FilesystemProviderFactory
    recordings = RECORDINGS


class TestMemory(TapeStorageConformance):
    factory = MemoryProviderFactory
    recordings = RECORDINGS


class TestSqlite(TapeStorageConformance):
    factory = SqliteProviderFactory
    recordings = RECORDINGS


@pytest.mark.ci
class TestFilesystemEndurance(TapeStorageEndurance):
    factory = FilesystemProviderFactory


@pytest.mark.ci
class TestMemoryEndurance(TapeStorageEndurance):
    factory = MemoryProviderFactory


@pytest.mark.ci
class TestSqliteEndurance(TapeStorageEndurance):
    factory = SqliteProviderFactory


@pytest.mark.long
class TestFilesystemKills(TapeStorageEndurance):
    factory = FilesystemProviderFactory
    kills = 60


@pytest.mark.long
class TestSqliteKills(TapeStorageEndurance):
    factory = SqliteProviderFactory
    kills = 60
