"""The public suite over the built-in type `filesystem`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shadowcat_registry.providers.filesystem import FilesystemProviderFactory
from shadowcat_registry.testing import TapeStorageConformance, TapeStorageEndurance

from ..storages import RECORDINGS


class TestFilesystem(TapeStorageConformance):
    factory = FilesystemProviderFactory
    recordings = RECORDINGS


class TestFilesystemByDateAndFrame(TapeStorageConformance):
    """What a config changes: where the files are, and when they are synced."""

    factory = FilesystemProviderFactory

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        return {"layout": "date", "durability": "frame"}


@pytest.mark.ci
class TestFilesystemEndurance(TapeStorageEndurance):
    factory = FilesystemProviderFactory


@pytest.mark.long
class TestFilesystemKills(TapeStorageEndurance):
    factory = FilesystemProviderFactory
    kills = 60
