"""The public suite over the built-in type `memory`."""

from __future__ import annotations

import pytest

from shadowcat_registry.providers.memory import MemoryProviderFactory
from shadowcat_registry.testing import TapeStorageConformance, TapeStorageEndurance

from ..storages import RECORDINGS


class TestMemory(TapeStorageConformance):
    factory = MemoryProviderFactory
    recordings = RECORDINGS


@pytest.mark.ci
class TestMemoryEndurance(TapeStorageEndurance):
    factory = MemoryProviderFactory
