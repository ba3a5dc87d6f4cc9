"""A provider with a stand-in for a while: in every thread, restored whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.errors import (
    ProviderInUseError,
    ProviderNotFoundError,
    ProviderRetiringError,
    UnsupportedCapabilityError,
)
from shadowcat_registry.generations import Change
from shadowcat_registry.metadata import ProviderCapability, ProviderSpec
from shadowcat_registry.providers.memory import MemoryBackend, MemoryProviderFactory
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.startup import open_registry

from .fakes import Factory, Running


@pytest.fixture
def registry() -> Iterator[StorageProviderRegistry]:
    registry = StorageProviderRegistry()
    yield registry
    registry.close()


def backend_of(registry: StorageProviderRegistry, name: str = "fake") -> object:
    with registry.open_storage(name) as storage:
        return storage.use.source.backend


class TestOverride:
    def test_within_the_block_leases_are_on_the_factory_also_in_other_threads(
        self, registry: StorageProviderRegistry
    ) -> None:
        real, stand_in = Factory(), Factory("stand-in", capabilities=frozenset({ProviderCapability.SEARCH}))
        registry.register(real, config={"n": 1})
        registry.set_default("fake")
        with registry.override("fake", stand_in):
            assert backend_of(registry) is stand_in.backends[0]
            assert Running(lambda: backend_of(registry)).result() is stand_in.backends[0]
            with registry.get_default_storage() as storage:
                assert (storage.provider, storage.capabilities) == ("fake", stand_in.capabilities)
            registry.create_storage("fake", {"a": 1}).close()
            assert [backend.config for backend in stand_in.backends] == [{}, {"a": 1}]
            assert registry.find_by_capability("search") == ["fake"]
        assert stand_in.open_count == 0
        assert backend_of(registry) is real.backends[0]
        assert registry.get_default_config("fake") == {"n": 1}
        registry.unregister("fake")

    def test_a_backend_serves_all_and_stays_its_makers(self, registry: StorageProviderRegistry) -> None:
        real = Factory(capabilities=frozenset({ProviderCapability.SEARCH}))
        registry.register(real)
        backend = MemoryBackend(logging.getLogger("tests"), max_bytes=1 << 20, max_tapes=10)
        with registry.override("fake", backend), registry.open_storage("fake") as storage:
            storage.record("s", tape_id="t-1").finalize()
            with pytest.raises(UnsupportedCapabilityError):
                storage.search("x")
        assert len(list(backend.read("t-1"))) == 1, "it is not closed"
        assert real.create_count == 0

    def test_what_was_open_stays_open_and_is_not_superseded(self, registry: StorageProviderRegistry) -> None:
        real = Factory()
        registry.register(real)
        with registry.open_storage("fake") as held:
            with registry.override("fake", Factory()):
                assert not held.superseded
                held.record("s").finalize()
                with pytest.raises(ProviderInUseError):
                    registry.unregister("fake")
            assert backend_of(registry) is held.use.source.backend
        assert real.create_count == 1

    def test_is_restored_after_an_error(self, registry: StorageProviderRegistry) -> None:
        real = Factory()
        registry.register(real)
        with pytest.raises(ZeroDivisionError), registry.override("fake", Factory()):
            raise ZeroDivisionError
        assert backend_of(registry) is real.backends[0]

    def test_a_lease_that_outlives_the_block_keeps_its_stand_in_until_it_is_closed(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())
        stand_in = Factory()
        with registry.override("fake", stand_in):
            storage = registry.open_storage("fake")
        assert storage.superseded
        storage.record("s").finalize()
        assert stand_in.open_count == 1
        storage.close()
        assert stand_in.open_count == 0
        registry.unregister("fake")

    @given(st.permutations(range(3)))
    def test_blocks_may_end_in_any_order_and_the_youngest_counts(self, order: list[int]) -> None:
        registry, real = StorageProviderRegistry(), Factory()
        registry.register(real)
        factories = [Factory() for _ in range(3)]
        blocks = [ExitStack() for _ in factories]
        for block, factory in zip(blocks, factories, strict=True):
            block.enter_context(registry.override("fake", factory))
        living = [*range(3)]
        for number in order:
            assert backend_of(registry) is factories[living[-1]].backends[0]
            blocks[number].close()
            living.remove(number)
        assert backend_of(registry) is real.backends[0]
        assert [factory.open_count for factory in factories] == [0, 0, 0]
        assert not registry._generations._layers
        registry.unregister("fake")

    def test_a_change_that_is_committed_meanwhile_counts_more(
        self, registry: StorageProviderRegistry
    ) -> None:
        real, new = Factory(), Factory()
        registry.register(real)
        backend_of(registry)
        with registry.override("fake", Factory()):
            staged = registry.stage(ProviderSpec("fake", "fake", {"n": 2}), new, origin="manifest")
            registry.retire(registry.commit([Change("fake", registry.snapshot()["fake"], staged)]))
            assert backend_of(registry) is new.backends[0]
        assert backend_of(registry) is new.backends[0]
        assert real.open_count == 0, "nobody will ever use it again"
        registry.unregister("fake")

    def test_what_is_unregistered_meanwhile_is_not_brought_back(
        self, registry: StorageProviderRegistry
    ) -> None:
        real = Factory()
        registry.register(real)
        backend_of(registry)
        with registry.override("fake", Factory()):
            registry.unregister("fake")
        assert (list(registry), real.open_count) == ([], 0)
        registry.register(Factory())

    def test_what_is_not_there_cannot_be_overridden(self, registry: StorageProviderRegistry) -> None:
        with pytest.raises(ProviderNotFoundError), registry.override("fake", Factory()):
            pass
        registry.register(Factory())
        with registry.open_storage("fake"):
            registry.retire(registry.commit([Change("fake", registry.snapshot()["fake"], None)]))
            with pytest.raises(ProviderRetiringError), registry.override("fake", Factory()):
                pass

    def test_a_factory_that_lacks_something_is_named(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())

        class Half:
            name = "half"

            def config_schema(self) -> None: ...

        with pytest.raises(TypeError, match="Half is no"), registry.override("fake", Half()):  # type: ignore[arg-type]
            pass

    def test_a_reload_of_the_same_manifest_does_not_end_it(self, tmp_path: Path) -> None:
        manifest = tmp_path / "registry.yaml"
        manifest.write_text(
            "version: 1\ndefaults: {provider: tapes}\n"
            "providers: {tapes: {type: filesystem, config: {directory: ./tapes}}}\n"
        )
        with open_registry(manifest, watch=False) as runtime:
            with runtime.registry.override("tapes", MemoryProviderFactory()):
                assert runtime.reload().result == "unchanged"
                with runtime.registry.get_default_storage() as storage:
                    assert storage.storage_type == "memory"
            with runtime.registry.get_default_storage() as storage:
                assert storage.storage_type == "filesystem"
