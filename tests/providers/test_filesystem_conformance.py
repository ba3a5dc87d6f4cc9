"""The public suite over the built-in type `filesystem`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shadowcat_registry.providers.filesystem import FilesystemProviderFactory, sealing
from shadowcat_registry.testing import TapeStorageConformance, TapeStorageEndurance

from ..storages import DATA, RECORDINGS, ZSTD


class TestFilesystem(TapeStorageConformance):
    factory = FilesystemProviderFactory
    recordings = RECORDINGS


class TestFilesystemByDateAndFrame(TapeStorageConformance):
    """What a config changes: where the files are, and when they are synced."""

    factory = FilesystemProviderFactory

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        return {"layout": "date", "durability": "frame"}


class TestFilesystemInBlocks(TapeStorageConformance):
    """Of a few lines each, so that tapes become blocks all the time; not so in other processes."""

    factory = FilesystemProviderFactory
    recordings = sorted(DATA.glob("*.jsonl"))

    @pytest.fixture(params=[ZSTD, pytest.param("gzip", marks=pytest.mark.ci)])
    def config(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
        monkeypatch.setattr(sealing, "_LEAST_BYTES", 300)
        monkeypatch.setattr(sealing, "_SEAL_BYTES", 4_000)
        monkeypatch.setattr(sealing, "_BLOCK_BYTES", 1_000)
        return {"compression": request.param}


@pytest.mark.ci
class TestFilesystemCompressed(TapeStorageConformance):
    """As it is."""

    factory = FilesystemProviderFactory
    recordings = RECORDINGS

    @pytest.fixture(params=[ZSTD, "gzip"])
    def config(self, request: pytest.FixtureRequest) -> Mapping[str, Any]:
        return {"compression": request.param, "layout": "session"}


@pytest.mark.ci
class TestFilesystemEndurance(TapeStorageEndurance):
    factory = FilesystemProviderFactory


@pytest.mark.long
class TestFilesystemKills(TapeStorageEndurance):
    factory = FilesystemProviderFactory
    kills = 60
