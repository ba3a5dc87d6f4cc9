from __future__ import annotations

from pathlib import Path

from shadowcat_registry.location import find_manifest


class TestFindManifest:
    def test_an_argument_comes_before_the_environment_before_the_name(self) -> None:
        environ = {"SHADOWCAT_REGISTRY": "/etc/shadowcat.yaml"}
        assert find_manifest("mine.yaml", environ) == Path("mine.yaml")
        assert find_manifest(None, environ) == Path("/etc/shadowcat.yaml")
        assert find_manifest(None, {"SHADOWCAT_REGISTRY": ""}) == Path("registry.yaml")
        assert find_manifest(None, {}) == Path("registry.yaml")
