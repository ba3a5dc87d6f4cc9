from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from shadowcat_registry.backend import CreateContext, StorageProviderFactory, TapeStorageBackend
from shadowcat_registry.catalog import BUILTIN_TYPES, NOT_YET, Catalog
from shadowcat_registry.errors import InvalidNameError, ProviderExistsError, UnknownTypeError
from shadowcat_registry.metadata import Config, ProviderCapability


class Factory:
    display_name = "A type"
    version = "1.0"
    description = "For a test"
    capabilities: frozenset[ProviderCapability] = frozenset()

    def __init__(self, name: str) -> None:
        self.name = name

    def config_schema(self) -> Mapping[str, Any] | None:
        return None

    def validate_config(self, config: Config) -> None:
        pass

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        raise NotImplementedError


class TestCatalog:
    def test_the_built_in_types_are_there(self) -> None:
        catalog = Catalog()
        assert set(BUILTIN_TYPES) == set(catalog.names())
        for name in BUILTIN_TYPES:
            assert name in catalog
            factory = catalog.factory(name)
            assert isinstance(factory, StorageProviderFactory)
            assert factory.name == name

    def test_a_type_has_one_factory(self) -> None:
        catalog = Catalog()
        found: list[StorageProviderFactory] = []
        threads = [threading.Thread(target=lambda: found.append(catalog.factory("memory"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len({id(factory) for factory in found}) == 1

    def test_a_type_can_be_added(self) -> None:
        mine = Factory("mine")
        catalog = Catalog([mine])
        assert catalog.factory("mine") is mine
        assert "mine" in catalog.names()

    def test_an_unknown_type_is_answered_with_those_there_are(self) -> None:
        with pytest.raises(UnknownTypeError, match=r"filesystem, memory.*did you mean `memory`"):
            Catalog().factory("memroy")

    @pytest.mark.parametrize("name", ["memory", "mine"])
    def test_a_name_is_given_once(self, name: str) -> None:
        catalog = Catalog([Factory("mine")])
        with pytest.raises(ProviderExistsError):
            catalog.add(Factory(name))

    @pytest.mark.parametrize("name", ["", "Mine", "1a", "a b", "a\n", "../x", "a" * 64])
    def test_a_name_has_to_be_one(self, name: str) -> None:
        with pytest.raises(InvalidNameError):
            Catalog([Factory(name)])

    def test_what_is_not_yet_there_is_not_there(self) -> None:
        assert not set(NOT_YET) & set(Catalog().names())

    def test_a_built_in_type_is_imported_when_it_is_used(self) -> None:
        script = (
            "import sys\n"
            "from shadowcat_registry.catalog import Catalog\n"
            "catalog = Catalog(); catalog.names(); 'memory' in catalog\n"
            "loaded = [m for m in sys.modules if m.startswith('shadowcat_registry.providers.')]\n"
            "assert not loaded, loaded\n"
            "catalog.factory('memory')\n"
            "assert 'shadowcat_registry.providers.filesystem' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=50)


class TestExtended:
    def test_has_the_types_of_both(self) -> None:
        mine, theirs = Factory("mine"), Factory("theirs")
        extended = Catalog([mine]).extended({"theirs": theirs}, {"theirs": "sha256:1"})
        assert extended.names() == tuple(sorted([*BUILTIN_TYPES, "mine", "theirs"]))
        assert (extended.factory("mine"), extended.factory("theirs")) == (mine, theirs)
        assert [extended.implementation(it) for it in ("mine", "theirs", "memory")] == ["", "sha256:1", ""]
        with pytest.raises(UnknownTypeError, match="theirs"):
            extended.factory("nope")

    def test_changes_nothing_of_the_other(self) -> None:
        catalog = Catalog()
        catalog.extended({"theirs": Factory("theirs")}, {})
        assert "theirs" not in catalog
        assert catalog.extended({}, {}) is catalog

    def test_a_built_in_factory_is_the_same_in_both(self) -> None:
        catalog = Catalog()
        extended = catalog.extended({"theirs": Factory("theirs")}, {})
        assert extended.factory("memory") is catalog.factory("memory")

    def test_no_name_is_taken_from_the_other_not_even_later(self) -> None:
        catalog, mine = Catalog(), Factory("ice")
        extended = catalog.extended({"ice": Factory("ice")}, {"ice": "sha256:1"})
        catalog.add(mine)
        assert (extended.factory("ice"), extended.implementation("ice")) == (mine, "")
        with pytest.raises(ProviderExistsError):
            extended.add(Factory("ice"))
