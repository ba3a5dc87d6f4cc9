from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from types import MappingProxyType

import pytest

from shadowcat_registry.interpolate import MASK
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.marks import Mark
from shadowcat_registry.metadata import ProviderSpec

SPEC = ProviderSpec(
    "archive", "vault", {"token": "canary", "list": ["canary", 1], "path": "/x"}, None,
    frozenset({("token",), ("list", 0)}),
)  # fmt: skip
MANIFEST = Manifest(
    path=Path("/r.yaml"),
    digest="0" * 64,
    providers=MappingProxyType({"archive": SPEC}),
    default="archive",
    provider_marks=MappingProxyType({"archive": Mark("r.yaml", 3, 3, 3, 10)}),
    files=(Path("/r.yaml"),),
)


class TestManifest:
    def test_a_config_is_shown_without_its_secrets(self) -> None:
        assert MANIFEST.masked_config("archive") == {"token": MASK, "list": [MASK, 1], "path": "/x"}
        assert SPEC.config["token"] == "canary"

    def test_only_a_declared_one_is_shown(self) -> None:
        with pytest.raises(KeyError):
            MANIFEST.masked_config("other")

    def test_its_repr_shows_no_config(self) -> None:
        assert "canary" not in repr(MANIFEST)

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(FrozenInstanceError):
            MANIFEST.default = "other"  # type: ignore[misc]
        with pytest.raises(TypeError):
            MANIFEST.providers["x"] = SPEC  # type: ignore[index]

    def test_two_specs_are_equal_when_their_configs_are(self) -> None:
        # What is secret is a matter of the schema: it makes no difference to what has to be done.
        assert ProviderSpec("archive", "vault", SPEC.config) == SPEC
        assert ProviderSpec("archive", "vault", {}) != SPEC
