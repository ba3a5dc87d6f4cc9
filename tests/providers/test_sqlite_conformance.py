"""The public suite over the built-in type `sqlite`."""

from __future__ import annotations

import pytest

from shadowcat_registry.providers.sqlite import SqliteProviderFactory
from shadowcat_registry.testing import TapeStorageConformance, TapeStorageEndurance

from ..storages import RECORDINGS


class TestSqlite(TapeStorageConformance):
    factory = SqliteProviderFactory
    recordings = RECORDINGS


@pytest.mark.ci
class TestSqliteEndurance(TapeStorageEndurance):
    factory = SqliteProviderFactory


@pytest.mark.long
class TestSqliteKills(TapeStorageEndurance):
    factory = SqliteProviderFactory
    kills = 60
