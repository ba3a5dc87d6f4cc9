"""Loading again: what is the same is not done again, and what may come out differently is."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry import includes
from shadowcat_registry.backend import CreateContext, TapeStorageBackend
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.document import Document
from shadowcat_registry.errors import ManifestError
from shadowcat_registry.load import ManifestLoader, load_manifest
from shadowcat_registry.metadata import Config, ProviderCapability
from shadowcat_registry.parse import Budget, parse_document


class Vault:
    """A type that counts how often it is asked about which token."""

    name = "vault"
    display_name = "Vault"
    version = "1.0"
    description = "For a test"
    capabilities: frozenset[ProviderCapability] = frozenset()

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.schema: dict[str, Any] = {
            "properties": {"token": {"x-secret": True}, "n": {"type": ["integer", "boolean"]}}
        }

    def config_schema(self) -> Mapping[str, Any]:
        return deepcopy(self.schema)

    def validate_config(self, config: Config) -> None:
        self.asked.append(config.get("token"))

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        raise AssertionError("loading a manifest creates nothing")


class World:
    """A manifest with two fragments, its loader, and what has been done for it since it was last asked."""

    def __init__(self, directory: Path, parsed: list[str]) -> None:
        self.directory, self.environ, self.vault = directory, {"E": "env"}, Vault()
        self._parsed = parsed
        self.write("r.yaml", "include: ['d/*.yaml']\nproviders: {top: {type: vault, config: {token: top}}}")
        self.write("d/a.yaml", "providers: {a: {type: vault, config: {token: a}}}")
        self.write("d/b.yaml", "providers: {b: {type: vault, config: {token: b}}}")
        self.loader = ManifestLoader(directory / "r.yaml", Catalog([self.vault]), environ=self.environ)
        self.load = self.loader.load

    def write(self, name: str, text: str) -> None:
        (self.directory / name).parent.mkdir(exist_ok=True)
        (self.directory / name).write_text(f"version: 1\n{text}\n", encoding="utf-8")

    @property
    def parsed(self) -> list[str]:
        done, self._parsed[:] = [Path(name).name for name in self._parsed], []
        return done

    @property
    def asked(self) -> list[Any]:
        done, self.vault.asked = self.vault.asked, []
        return done


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    parsed: list[str] = []
    real = parse_document

    def counted(data: bytes, source: str, budget: Budget) -> Document:
        parsed.append(source)
        return real(data, source, budget)

    monkeypatch.setattr(includes, "parse_document", counted)
    world = World(tmp_path, parsed)
    world.load()
    assert (world.parsed, world.asked) == (["r.yaml", "a.yaml", "b.yaml"], ["top", "a", "b"])
    return world


class TestWhatIsTheSame:
    def test_nothing_is_done_twice(self, world: World) -> None:
        first, second = world.load(), world.load()
        assert (world.parsed, world.asked) == ([], [])
        assert first == second

    def test_of_several_files_only_what_changed_is_done(self, world: World) -> None:
        world.write("d/b.yaml", "providers: {b: {type: vault, config: {token: b}}, b2: {type: vault}}")
        assert list(world.load().providers) == ["top", "a", "b", "b2"]
        assert (world.parsed, world.asked) == (["b.yaml"], [None])

    def test_a_changed_file_with_the_same_providers_is_parsed_and_no_more(self, world: World) -> None:
        world.write("d/b.yaml", "# moved\nproviders:\n  b:\n    type: vault\n    config:\n      token: b\n")
        before = world.load()
        assert (world.parsed, world.asked) == (["b.yaml"], [])
        assert before.provider_marks["b"].line == 4

    def test_what_comes_of_it_is_what_a_first_load_gives(self, world: World) -> None:
        for number in range(4):
            world.write("d/a.yaml", f"providers: {{a: {{type: vault, config: {{n: {number // 2}}}}}}}")
            world.write("d/c.yaml", f"providers: {{c{number}: {{type: vault, config: {{token: x}}}}}}")
            again = world.load()
            path = world.directory / "r.yaml"
            assert again == load_manifest(path, Catalog([world.vault]), environ=world.environ)

    def test_a_rejected_load_keeps_what_was_right(self, world: World) -> None:
        world.write("d/b.yaml", "providers: {b: {type: nope}}")
        with pytest.raises(ManifestError):
            world.load()
        world.write("d/b.yaml", "providers: {b: {type: vault, config: {token: c}}}")
        world.load()
        assert (world.parsed, world.asked) == (["b.yaml", "b.yaml"], ["c"])

    def test_what_is_wrong_is_said_again_each_time(self, world: World) -> None:
        world.write("d/b.yaml", "providers: {b: {type: vault, config: {n: x}}}\ndefaults: {}")
        findings = []
        for _ in range(2):
            with pytest.raises(ManifestError) as caught:
                world.load()
            findings.append(caught.value)
        assert findings[0] == findings[1]
        codes = [finding.code for finding in findings[0].findings]
        assert codes == ["SC406", "SC203", "SC201", "SC406"]


class TestWhatMayComeOutDifferently:
    def test_a_variable(self, world: World) -> None:
        world.write("d/b.yaml", "providers: {b: {type: vault, config: {token: '${env:E}'}}}")
        assert world.load().providers["b"].config["token"] == "env"
        world.load()
        assert world.asked == ["env"]
        world.environ["E"] = "new"
        assert world.load().providers["b"].config["token"] == "new"
        assert world.asked == ["new"]

    def test_a_variable_that_turns_one_into_true(self, world: World) -> None:
        world.write("d/b.yaml", "providers: {b: {type: vault, config: {n: '${env:E}'}}}")
        for text, value in (("1", 1), ("true", True), ("1", 1)):
            world.environ["E"] = text
            assert world.load().providers["b"].config["n"] is value

    def test_a_variable_that_is_gone(self, world: World) -> None:
        world.write("d/b.yaml", "providers: {b: {type: vault, config: {token: '${env:E}'}}}")
        world.load()
        del world.environ["E"]
        with pytest.raises(ManifestError, match="SC401"):
            world.load()

    def test_a_file_of_a_reference(self, world: World) -> None:
        world.write("d/b.yaml", "providers: {b: {type: vault, config: {token: '${file:s}'}}}")
        for secret in ("one", "two"):
            (world.directory / "s").write_text(secret)
            manifest = world.load()
            assert manifest.providers["b"].config["token"] == secret
            assert world.directory / "s" in manifest.files

    def test_the_defaults(self, world: World) -> None:
        for value in ("1", "true"):
            text = f"defaults: {{config: {{vault: {{n: {value}}}}}}}\ninclude: ['d/*.yaml']"
            world.write("r.yaml", text)
            assert world.load().providers["a"].config["n"] is (value == "true" or 1)
            assert world.asked == ["a", "b"]

    def test_the_schema_of_the_type(self, world: World) -> None:
        world.vault.schema["properties"]["n"]["default"] = 7
        assert world.load().providers["a"].config["n"] == 7
        world.vault.schema["required"] = ["z"]
        with pytest.raises(ManifestError, match="SC202"):
            world.load()

    def test_what_is_secret_in_the_digest(self, world: World) -> None:
        before = world.load().digest
        world.vault.schema["properties"]["token"] = {}
        assert world.load().digest != before

    def test_where_a_name_is_declared(self, world: World) -> None:
        world.write("d/b.yaml", "providers: {a: {type: vault, config: {token: a}}}")
        with pytest.raises(ManifestError, match="SC307"):
            world.load()


class TestWhatIsKept:
    def test_a_text_that_is_gone_is_not_kept(self, world: World) -> None:
        kept = [weakref.ref(it) for it in world.loader._known.documents.values()]
        assert len(kept) == 3
        world.write("d/b.yaml", "providers: {b2: {type: vault, config: {token: b}}}")
        (world.directory / "d" / "a.yaml").unlink()
        world.load()
        gc.collect()
        assert [it() is not None for it in kept] == [True, False, False]
        assert {name for name, _ in world.loader._known.verdicts} == {"top", "b2"}

    def test_nothing_of_it_is_shown(self, world: World) -> None:
        assert "top" not in repr(world.loader) + repr(world.loader._known)

    def test_threads_may_load_at_once(self, world: World) -> None:
        wrong: list[object] = []

        def run(number: int) -> None:
            for turn in range(15):
                if number == 0:
                    world.write("d/b.yaml", f"providers: {{b{turn}: {{type: vault}}}}")
                manifest = world.load()
                if [*manifest.providers][:2] != ["top", "a"] or len(manifest.providers) != 3:
                    wrong.append(manifest)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run(0)
        assert not wrong
