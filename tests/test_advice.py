"""Beyond the schemas: who shares a place with whom, where paths lead, what is deprecated, who may read."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.advice import Place, comparable, overlaps
from shadowcat_registry.backend import CreateContext, TapeStorageBackend
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import Finding, ManifestError
from shadowcat_registry.load import ManifestLoader, load_manifest
from shadowcat_registry.metadata import Config, ProviderCapability

SCHEMA: dict[str, Any] = {
    "properties": {
        "home": {"type": "string", "x-path": True, "x-exclusive": True, "default": "./home"},
        "certificate": {"type": "string", "x-path": True},
        "token": {"type": "string", "x-secret": True},
        "dir": {"type": "string", "deprecated": True, "x-replaced-by": "home"},
        "retry": {"properties": {"times": {"deprecated": True, "default": 3}}},
    },
    "additionalProperties": False,
}


class Vault:
    name = "vault"
    display_name = "Vault"
    version = "1.0"
    description = "For a test"
    capabilities: frozenset[ProviderCapability] = frozenset()

    def config_schema(self) -> Mapping[str, Any]:
        return SCHEMA

    def validate_config(self, config: Config) -> None:
        pass

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        raise AssertionError("loading a manifest creates nothing")


class World:
    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / "registry.yaml"
        self.catalog = Catalog([Vault()])

    def write(self, name: str = "registry.yaml", top: str = "", **configs: str) -> None:
        lines = [f"  {provider}: {{type: vault, config: {config}}}\n" for provider, config in configs.items()]
        path = self.directory / name
        path.write_text("version: 1\n" + top + "providers:\n" + "".join(lines), encoding="utf-8")
        path.chmod(0o600)

    def found(self, environ: Mapping[str, str] | None = None, **options: Any) -> list[Finding]:
        try:
            return list(load_manifest(self.path, self.catalog, environ=environ or {}, **options).warnings)
        except ManifestError as error:
            return list(error.findings)

    def places(self, **options: Any) -> list[str]:
        return [
            f"{it.severity} {it.code} {Path(it.mark.source).name}:{it.mark.line}:{it.mark.column}"
            for it in self.found(**options)
        ]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestOverlappingDirectories:
    def test_two_at_one_place_are_refused_with_both_named(self, world: World) -> None:
        world.write(a="{home: ./x}", b="{home: y/../x/}")
        (found,) = world.found()
        assert (found.severity, found.code, found.mark.line, found.mark.column) == ("error", "SC309", 4, 35)
        assert found.message == "the providers `a` and `b` are at the same place"
        assert found.hint is not None
        assert f"{world.path}:3:3" in found.hint

    def test_one_inside_of_another_is_a_warning(self, world: World) -> None:
        world.write(inner="{home: x/y/z}", outer="{home: x}", beside="{home: xy}")
        (found,) = world.found()
        assert (found.severity, found.code, found.mark.line) == ("warning", "SC310", 3)
        assert found.message == "the provider `inner` is inside of the directory of `outer`"

    def test_two_at_the_default_of_their_type_are_marked_at_their_names(self, world: World) -> None:
        world.write(a="{}", b="{}")
        assert world.places() == ["error SC309 registry.yaml:4:3"]
        world.write(top="defaults: {config: {vault: {home: z}}}\n", a="{}", b="{}")
        assert world.places() == ["error SC309 registry.yaml:5:3"]

    def test_files_of_one_manifest_are_compared(self, world: World) -> None:
        world.write(top="include: [f.yaml]\n", a="{home: x}")
        world.write("f.yaml", b="{home: x}")
        assert world.places() == ["error SC309 f.yaml:3:35"]

    @pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
    def test_links_are_followed(self, world: World) -> None:
        (world.directory / "real" / "deep").mkdir(parents=True)
        (world.directory / "link").symlink_to("real/deep")
        (world.directory / "up").symlink_to("real")
        world.write(a="{home: link}", b="{home: real/deep}", c="{home: up/deep/tapes}")
        assert world.places() == ["error SC309 registry.yaml:4:35", "warning SC310 registry.yaml:5:35"]
        world.write(a="{home: link}", c="{home: up/deep/tapes}")
        assert world.places() == ["warning SC310 registry.yaml:4:35"]

    def test_what_may_be_shared_may_be(self, world: World) -> None:
        world.write(a="{home: a, certificate: c}", b="{home: b, certificate: c}")
        assert world.places() == []

    def test_a_place_that_is_not_known_is_not_judged(self, world: World) -> None:
        world.write(a="{home: '${env:A}'}", b="{home: '${env:A}'}")
        assert world.places(unresolved=True) == []
        assert world.places(environ={"A": "x"}) == ["error SC309 registry.yaml:4:35"]

    def test_paths_that_no_system_has_are_not_followed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        followed: list[str] = []
        monkeypatch.setattr("os.path.realpath", followed.append)
        long = "/" + "a/" * 100_000
        places = [Place("p", (), long + "b"), Place("q", (), long + "c")]
        assert list(overlaps(comparable(places)[0])) == []
        assert followed == []

    def test_of_very_many_deep_paths_only_the_first_are_compared_and_that_is_said(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        places = [Place(f"p{n}", (), f"/{n}" + "/d" * 1000) for n in range(4000)]
        compared, left_out = comparable(places)
        assert 10 < len(compared) < 50
        assert left_out is places[len(compared)]
        monkeypatch.setattr("shadowcat_registry.advice._MAX_PATHS_EFFORT", 0)
        world.write(a="{home: x}", b="{home: y}")
        assert world.places() == ["warning SC612 registry.yaml:3:3"]

    @given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), max_size=8))
    def test_it_finds_what_a_comparison_of_all_pairs_finds(self, paths: list[list[str]]) -> None:
        places = [Place(f"p{i}", (), "/nowhere/" + "/".join(path)) for i, path in enumerate(paths)]
        found = {(place.provider, is_same) for place, _, is_same in overlaps(places)}
        same = {(f"p{i}", True) for i, path in enumerate(paths) if path in paths[:i]}
        firsts = [(i, path) for i, path in enumerate(paths) if path not in paths[:i]]
        inside = {
            (f"p{i}", False)
            for i, path in firsts
            if any(len(other) < len(path) and path[: len(other)] == other for _, other in firsts)
        }
        assert found == same | inside


class TestPathsThatLeadOut:
    @pytest.mark.parametrize("path", ["../x", "..", "x/../../y", "./../x"])
    def test_a_relative_one_is_a_warning(self, world: World, path: str) -> None:
        world.write(a=f"{{certificate: {path}}}")
        assert world.places() == ["warning SC311 registry.yaml:3:42"]

    @pytest.mark.parametrize("path", ["x/../y", "..x", "./x", "."])
    def test_one_that_stays_is_none(self, world: World, path: str) -> None:
        world.write(a=f"{{certificate: {path}}}")
        assert world.places() == []

    def test_an_absolute_one_is_none(self, world: World) -> None:
        world.write(a=f"{{certificate: {(world.directory.parent / 'x').as_posix()}}}")
        assert world.places() == []


class TestDeprecatedFields:
    def test_it_is_a_warning_at_the_field_that_names_the_other(self, world: World) -> None:
        world.write(a="{dir: x}")
        (found,) = world.found()
        assert (found.severity, found.code, found.mark.column) == ("warning", "SC211", 29)
        assert (found.message, found.hint) == ("`dir` is deprecated", "use `home`")

    def test_what_nobody_wrote_is_none(self, world: World) -> None:
        world.write(a="{retry: {}}")
        assert world.places() == []
        world.write(a="{retry: {times: 1}}")
        assert world.places() == ["warning SC211 registry.yaml:3:37"]

    def test_it_is_found_in_the_defaults(self, world: World) -> None:
        world.write(top="defaults: {config: {vault: {dir: z}}}\n", a="{home: a}", b="{home: b}")
        assert world.places() == ["warning SC211 registry.yaml:2:29"]


@pytest.mark.skipif(sys.platform == "win32", reason="who may read is not in the mode there")
class TestSecretsThatEverybodyMayRead:
    def test_it_is_a_warning_with_the_command(self, world: World) -> None:
        world.write(a="{home: a}", b="{home: b, token: canary}")
        world.path.chmod(0o644)
        (found,) = world.found()
        assert (found.severity, found.code, found.mark.line, found.mark.column) == ("warning", "SC406", 4, 45)
        assert "canary" not in str(found)
        assert found.hint is not None
        command = found.hint.split(",")[0]
        assert os.system(command) == 0
        assert world.places() == []

    @pytest.mark.parametrize("config", ["{token: '${env:T}'}", "{token: '${file:t}'}", "{home: x}"])
    def test_without_a_literal_secret_it_is_nobodys_business(self, world: World, config: str) -> None:
        (world.directory / "t").write_text("t")
        world.write(a=config)
        world.path.chmod(0o644)
        assert world.places(environ={"T": "t"}) == []

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o660])
    def test_a_file_for_few_is_fine(self, world: World, mode: int) -> None:
        world.write(a="{token: t}")
        world.path.chmod(mode)
        assert world.places() == []

    def test_each_file_is_looked_at(self, world: World) -> None:
        world.write(top="include: [f.yaml]\n", a="{home: x}")
        world.write("f.yaml", b="{token: t}")
        world.path.chmod(0o644)
        assert world.places() == []
        (world.directory / "f.yaml").chmod(0o604)
        assert world.places() == ["warning SC406 f.yaml:3:36"]


class TestLoadingAgain:
    def test_warnings_are_those_of_the_first_time(self, world: World) -> None:
        world.write(a="{home: a, dir: x, certificate: ../c, token: t}", b="{home: a/b}")
        world.path.chmod(0o644)
        loader = ManifestLoader(world.path, world.catalog, environ={})
        first = loader.load().warnings
        assert [it.code for it in first] == ["SC211", "SC311", "SC406", "SC310"]
        assert loader.load().warnings == first
        world.path.chmod(0o600)
        assert [it.code for it in loader.load().warnings] == ["SC211", "SC311", "SC310"]
