"""The public suite over the built-in type `filesystem`."""

from __future__ import annotations

import pytest

from shadowcat_registry.providers.filesystem import FilesystemProviderFactory
from shadowcat_registry.testing import TapeStorageConformance, TapeStorageEndurance

from ..storages import RECORDINGS


class TestFilesystem(TapeStorageConformance):
    factory = FilesystemProviderFactory
    recordings = RECORDINGS


@pytest.mark.ci
class TestFilesystemEndurance(TapeStorageEndurance):
    factory = FilesystemProviderFactory


@pytest.mark.long
class TestFilesystemKills(TapeStorageEndurance):
    factory = FilesystemProviderFactory
    kills = 60
