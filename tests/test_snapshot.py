from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from shadowcat_registry.errors import ProviderNotFoundError
from shadowcat_registry.leases import Revision
from shadowcat_registry.metadata import ProviderCapability, ProviderSpec
from shadowcat_registry.snapshot import Provider, Snapshot, describe

from .fakes import Factory

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def _provider(name: str) -> Provider:
    spec = ProviderSpec(name, "fake")
    return Provider(spec, describe(Factory(), spec, NOW), Factory(), Revision(name, 4))


class TestDescribe:
    def test_takes_what_the_factory_says_under_the_name_of_the_provider(self) -> None:
        factory = Factory(capabilities=frozenset({ProviderCapability.SEARCH}))
        metadata = describe(factory, ProviderSpec("archive", "fake"), NOW)
        assert (metadata.name, metadata.display_name, metadata.version) == ("archive", "Fake", "1.0.0")
        assert (metadata.capabilities, metadata.registered_at) == (
            frozenset({ProviderCapability.SEARCH}),
            NOW,
        )

    def test_the_display_name_of_the_declaration_comes_first(self) -> None:
        spec = ProviderSpec("archive", "fake", display_name="On the big disk")
        assert describe(Factory(), spec, NOW).display_name == "On the big disk"

    @pytest.mark.parametrize(
        "missing", ["config_schema", "create", "validate_config", "version", "capabilities"]
    )
    def test_whatever_a_factory_lacks_is_named(self, missing: str) -> None:
        members = {name: getattr(Factory(), name) for name in dir(Factory()) if not name.startswith("_")}
        del members[missing]
        with pytest.raises(TypeError, match=f"Half is no StorageProviderFactory: it has no {missing}$"):
            describe(type("Half", (), members)(), ProviderSpec("a", "a"), NOW)

    @pytest.mark.parametrize("capabilities", [["telepathy"], 7])
    def test_capabilities_that_are_none_are_refused(self, capabilities: Any) -> None:
        with pytest.raises(TypeError, match="Factory is no StorageProviderFactory"):
            describe(Factory(capabilities=capabilities), ProviderSpec("a", "a"), NOW)


class TestProvider:
    def test_shows_neither_its_config_nor_its_factory(self) -> None:
        spec = ProviderSpec("a", "fake", {"password": "hunter2"})
        provider = Provider(spec, describe(Factory(), spec, NOW), Factory(), Revision("a", 1))
        assert "hunter2" not in repr(provider)
        assert "Factory" not in repr(provider)

    def test_its_revision_is_that_of_what_is_open(self) -> None:
        assert _provider("a").revision == 4


class TestSnapshot:
    def test_is_a_mapping_in_the_order_of_registration(self) -> None:
        providers = {name: _provider(name) for name in ("b", "a")}
        snapshot = Snapshot(providers, "a", 7)
        assert (list(snapshot), len(snapshot), snapshot["a"]) == (["b", "a"], 2, providers["a"])
        assert snapshot.get("b") is providers["b"]
        assert snapshot.get("c") is None
        assert snapshot.get("c", providers["a"]) is providers["a"]
        assert "b" in snapshot
        assert "c" not in snapshot

    def test_an_unknown_name_is_answered_with_what_there_is(self) -> None:
        snapshot = Snapshot({"archive": _provider("archive")}, None, 1)
        with pytest.raises(ProviderNotFoundError, match="did you mean `archive`") as caught:
            snapshot["archiv"]
        assert caught.value == ProviderNotFoundError("archiv", ["archive"])

    def test_says_what_it_is(self) -> None:
        assert repr(Snapshot({"a": _provider("a")}, "a", 7)) == (
            "Snapshot(generation=7, default='a', providers=['a'])"
        )
