"""A manifest of several files: which they are, what is wrong with them, and that a process follows each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from shadowcat_registry import includes, parse
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import Finding, ManifestError
from shadowcat_registry.includes import MAX_FILES, MAX_INCLUDE_DEPTH, expand, listings
from shadowcat_registry.load import ManifestLoader, load_manifest
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.parse import MAX_BYTES
from shadowcat_registry.runtime import Runtime

from .fakes import Factory, until


class Folder:
    """A directory with a manifest and its fragments."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, files: Mapping[str, str]) -> None:
        """`version: 1` is put in front of each."""
        for name, text in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_text(f"version: 1\n{text}", encoding="utf-8")
            new.replace(path)

    @property
    def manifest(self) -> Path:
        return self.path / "registry.yaml"

    def load(self) -> Manifest:
        return load_manifest(self.manifest, Catalog(), environ={})

    def refused(self) -> tuple[Finding, ...]:
        with pytest.raises(ManifestError) as caught:
            self.load()
        return caught.value.findings

    def places(self) -> list[str]:
        """Each finding as `code file:line:column`, the file relative to the folder."""
        return [
            f"{it.code} {Path(name).relative_to(self.path).as_posix()}:{line}:{column}"
            for it in self.refused()
            for name, line, column in [(it.mark.source, it.mark.line, it.mark.column)]
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def memory(*names: str) -> str:
    return "providers:\n" + "".join(f"  {name}: {{type: memory}}\n" for name in names)


class TestAManifestOfSeveralFiles:
    def test_its_providers_are_those_of_all_in_the_order_of_reading(self, folder: Folder) -> None:
        folder.write(
            {
                "registry.yaml": "include: [registry.d/*.yaml, teams/a.yaml]\n" + memory("own"),
                "registry.d/20.yaml": memory("d", "c"),
                "registry.d/10.yaml": memory("b"),
                "teams/a.yaml": "include: [more/*.yaml]\n" + memory("team"),
                "teams/more/x.yaml": memory("more"),
            }
        )
        manifest = folder.load()
        assert list(manifest.providers) == ["own", "b", "d", "c", "team", "more"]
        names = [
            "registry.yaml",
            "registry.d/10.yaml",
            "registry.d/20.yaml",
            "teams/a.yaml",
            "teams/more/x.yaml",
        ]
        assert manifest.files == tuple(folder.path / name for name in names)
        assert str(manifest.provider_marks["more"]) == f"{folder.path / 'teams/more/x.yaml'}:3:3"

    def test_marks_are_named_as_the_manifest_was(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.write({"registry.yaml": "include: [d/*.yaml]", "d/a.yaml": memory("a")})
        monkeypatch.chdir(folder.path)
        manifest = load_manifest(Path("registry.yaml"), Catalog(), environ={})
        assert str(manifest.provider_marks["a"]) == f"{Path('d/a.yaml')}:3:3"

    def test_the_default_may_be_declared_in_any_of_them(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "defaults: {provider: a}\ninclude: [a.yaml]", "a.yaml": memory("a")})
        assert folder.load().default == "a"

    def test_default_configs_lie_beneath_the_providers_of_all_of_them(self, folder: Folder) -> None:
        folder.write(
            {
                "registry.yaml": "defaults: {config: {memory: {max_tapes: 7}}}\ninclude: [a.yaml]",
                "a.yaml": memory("a"),
            }
        )
        manifest = folder.load()
        assert manifest.providers["a"].config["max_tapes"] == 7
        assert manifest.warnings == ()

    def test_relative_paths_of_configs_stay_relative_to_the_manifest(self, folder: Folder) -> None:
        text = "providers: {a: {type: filesystem, config: {directory: tapes}}}"
        folder.write({"registry.yaml": "include: [sub/a.yaml]", "sub/a.yaml": text})
        assert folder.load().providers["a"].config["directory"] == str(folder.path / "tapes")

    def test_a_file_that_is_named_and_matched_counts_once(self, folder: Folder) -> None:
        text = "include: [d/a.yaml, 'd/*.yaml', d/../d/a.yaml]"
        folder.write({"registry.yaml": text, "d/a.yaml": memory("a"), "d/b.yaml": memory("b")})
        assert list(folder.load().providers) == ["a", "b"]

    def test_each_file_is_part_of_the_digest(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: [a.yaml]", "a.yaml": memory("a")})
        before = folder.load().digest
        assert folder.load().digest == before
        folder.write({"a.yaml": memory("a") + "# a comment\n"})
        assert folder.load().digest != before

    def test_a_manifest_without_includes_has_the_digest_of_its_text(self, folder: Folder) -> None:
        folder.write({"registry.yaml": memory("a")})
        assert folder.load().digest == sha256(folder.manifest.read_bytes()).hexdigest()

    def test_a_pattern_that_matches_nothing_is_fine(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: ['no/*.yaml', '*.yml']\n" + memory("a")})
        assert list(folder.load().providers) == ["a"]

    def test_the_files_of_references_in_fragments_are_followed_too(self, folder: Folder) -> None:
        text = "providers: {a: {type: filesystem, config: {directory: '${file:where}'}}}"
        folder.write({"registry.yaml": "include: [d/a.yaml]", "d/a.yaml": text})
        (folder.path / "where").write_text("tapes")
        assert folder.path / "where" in folder.load().files


class TestWhatIsWrong:
    def test_a_name_in_two_files_names_both_places(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: [a.yaml]\n" + memory("x", "y"), "a.yaml": memory("y")})
        (found,) = folder.refused()
        assert (found.code, str(found.mark)) == ("SC307", f"{folder.path / 'a.yaml'}:3:3")
        assert found.hint is not None
        assert f"{folder.manifest}:5:3" in found.hint

    def test_a_file_that_is_named_has_to_be_there(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include:\n  - a.yaml\n  - b.yaml\n", "a.yaml": memory("a")})
        assert folder.places() == ["SC117 registry.yaml:4:5"]

    @pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
    def test_a_link_that_leads_nowhere_is_not_passed_over(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: ['d/*.yaml']", "d/a.yaml": memory("a")})
        (folder.path / "d" / "b.yaml").symlink_to("nowhere")
        assert folder.places() == ["SC117 registry.yaml:2:11"]

    @pytest.mark.skipif(sys.platform == "win32", reason="no FIFOs there")
    def test_what_is_no_file_is_not_waited_for(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: ['d/*.yaml']", "d/a.yaml": memory("a")})
        os.mkfifo(folder.path / "d" / "b.yaml")
        assert folder.places() == ["SC117 registry.yaml:2:11"]

    def test_all_findings_of_all_files_come_at_once(self, folder: Folder) -> None:
        folder.write(
            {
                "registry.yaml": "include: ['d/*.yaml', gone.yaml]\ndefaults: {provider: it}\nversio: 2\n",
                "d/a.yaml": "providers: {a: {type: memory, config: {max_tapes: 0}}}",
                "d/b.yaml": "providers: {b: [}",
                "d/c.yaml": "defaults: {provider: a}\nproviders: {c: {type: memroy}}",
                "d/d.yaml": "providers: {}",
            }
        )
        # Whether `it` is declared is not known while files cannot be read.
        assert folder.places() == [
            "SC205 d/a.yaml:2:51", "SC104 d/b.yaml:2:17", "SC201 d/c.yaml:2:1", "SC302 d/c.yaml:3:23",
            "SC206 d/d.yaml:2:12", "SC117 registry.yaml:2:23", "SC201 registry.yaml:4:1",
        ]  # fmt: skip

    def test_each_has_the_line_of_its_own_file(self, folder: Folder) -> None:
        folder.write(
            {"registry.yaml": "include: ['*.yml']\nversio: 2", "a.yml": "provider: {}", "b.yml": "include: ["}
        )
        with pytest.raises(ManifestError) as caught:
            folder.load()
        shown = {Path(it.mark.source).name: it.text for it in caught.value.excerpts}
        assert shown == {"registry.yaml": "versio: ***", "a.yml": "provider: {}", "b.yml": "include: ["}

    def test_an_empty_fragment_never_means_that_its_providers_are_to_go(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: [a.yaml]\n" + memory("x")})
        (folder.path / "a.yaml").write_text("")
        assert folder.places() == ["SC103 a.yaml:1:1"]

    def test_a_fragment_says_its_version(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: [a.yaml]\n" + memory("x")})
        (folder.path / "a.yaml").write_text(memory("a"))
        assert folder.places() == ["SC202 a.yaml:1:1"]

    def test_without_any_provider_in_any_file_nothing_goes(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: ['*.yml']", "a.yml": "include: []"})
        (found,) = folder.refused()
        assert (found.code, found.mark.line) == ("SC202", 2)
        assert "never means that all are to go" in str(found)

    @pytest.mark.parametrize(
        ("files", "place"),
        [
            ({"registry.yaml": "include: [registry.yaml]"}, "registry.yaml:2:11"),
            ({"registry.yaml": "include: ['*.yaml']"}, "registry.yaml:2:11"),
            ({"registry.yaml": "include: [d/a.yaml]", "d/a.yaml": "include: [../d/b.yaml]",
              "d/b.yaml": "include: [../registry.yaml]"}, "d/b.yaml:2:11"),
        ],
        ids=["itself", "by a pattern", "by way of others"],
    )  # fmt: skip
    def test_a_cycle_is_named(self, folder: Folder, files: dict[str, str], place: str) -> None:
        folder.write({name: f"{text}\n{memory(f'p{i}')}" for i, (name, text) in enumerate(files.items())})
        assert folder.places() == [f"SC308 {place}"]

    def test_two_ways_to_a_file_are_no_cycle(self, folder: Folder) -> None:
        folder.write(
            {
                "registry.yaml": "include: [a.yaml, b.yaml]",
                "a.yaml": "include: [c.yaml]",
                "b.yaml": "include: [c.yaml]",
                "c.yaml": memory("c"),
            }
        )
        assert list(folder.load().providers) == ["c"]

    def test_there_is_a_depth_that_is_the_last(self, folder: Folder) -> None:
        names = ["registry.yaml", *(f"{i}.yml" for i in range(1, MAX_INCLUDE_DEPTH + 2))]
        files = {name: f"include: [{deeper}]" for name, deeper in pairwise(names)}
        folder.write({**files, names[-2]: memory("a")})
        assert list(folder.load().providers) == ["a"]
        folder.write({names[-2]: f"include: [{names[-1]}]", names[-1]: memory("a")})
        assert folder.places() == [f"SC608 {names[-2]}:2:11"]

    @pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
    def test_a_link_to_a_directory_does_not_make_the_way_endless(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: [d/a.yaml]", "d/a.yaml": "include: ['*/a.yaml']"})
        (folder.path / "d" / "d").symlink_to(".")
        assert [it.split()[0] for it in folder.places()] == ["SC608"]

    def test_there_are_not_more_files_than_are_watched(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert MAX_FILES == 1_000
        monkeypatch.setattr(includes, "MAX_FILES", 3)
        folder.write({"registry.yaml": "include: ['*.yml']", "a.yml": memory("a"), "b.yml": memory("b")})
        assert list(folder.load().providers) == ["a", "b"]
        folder.write({"c.yml": memory("c"), "d.yml": memory("d")})
        assert folder.places() == ["SC609 registry.yaml:2:11"]

    def test_the_budgets_are_those_of_all_files_together(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.write({"registry.yaml": "include: ['*.yml']", "a.yml": memory("a"), "b.yml": memory("b")})
        (folder.path / "c.yml").write_text("#" * (MAX_BYTES - 20))
        assert [it.split()[0] for it in folder.places()] == ["SC601"]
        (folder.path / "c.yml").unlink()
        monkeypatch.setattr(parse, "MAX_NODES", 18)
        assert folder.places() == ["SC603 b.yml:3:3"]

    def test_a_list_is_not_followed_without_an_end(self, folder: Folder) -> None:
        entries = "".join(f"- none{number}*.yaml\n" for number in range(MAX_FILES + 1))
        folder.write({"registry.yaml": f"include:\n{entries}{memory('a')}"})
        assert folder.places() == [f"SC609 registry.yaml:{MAX_FILES + 3}:3"]

    def test_nor_are_more_names_looked_at_than_in_a_moment(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(includes, "_MAX_LOOKS", 6)
        folder.write({"registry.yaml": f"include: ['a*', 'b*']\n{memory('a')}"})
        assert list(folder.load().providers) == ["a"]
        folder.write({"c": "", "d": ""})
        assert folder.places() == ["SC117 registry.yaml:2:17"]

    def test_what_is_watched_for_is_bounded_by_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(12):
            (tmp_path / f"d{number}" / "conf.d").mkdir(parents=True)
        listed: list[Path] = []

        def names(directory: Path) -> list[str]:
            listed.append(directory)
            return [it.name for it in directory.iterdir()]

        monkeypatch.setattr(includes, "_names", names)
        patterns = [tmp_path / "d*" / "conf.d" / "*.yaml", tmp_path / "d*" / "*" / "x.yaml"]
        found = listings(patterns)
        assert found[tmp_path] == {"d*"}
        assert found[tmp_path / "d7" / "conf.d"] == {"*.yaml", "x.yaml"}
        assert len(listed) == 13, "each once, for both patterns"
        monkeypatch.setattr(includes, "_MAX_LOOKS", 30)
        listed.clear()
        found = listings(patterns)
        assert (len(listed), len(found)) == (4, 25), "what was found before is watched on"
        monkeypatch.setattr(includes, "_MAX_PATTERN_MATCHES", 10)
        assert listings(patterns[:1]) == {tmp_path: {"d*"}}

    def test_what_is_broken_takes_its_part_of_them(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Else a thousand files, each as large as can be, would all be read.
        monkeypatch.setattr(parse, "MAX_NODES", 40)
        broken = {f"{number}.yml": "a: [" + "x, " * 20 for number in range(9)}
        folder.write({"registry.yaml": "include: ['*.yml']", **broken})
        assert [it.split(":")[0] for it in folder.places()] == ["SC104 0.yml", "SC603 1.yml"]
        folder.write({f"{number}.yml": "a: [\n" + "#" * (MAX_BYTES // 3) for number in range(9)})
        assert [it.split(":")[0] for it in folder.places()] == [
            *(f"SC104 {number}.yml" for number in range(2)),
            "SC601 registry.yaml",
        ]

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("include: a.yaml", "SC203 registry.yaml:2:10"),
            ("include: ['']", "SC206 registry.yaml:2:11"),
            ("include: [1]", "SC203 registry.yaml:2:11"),
            ("include: ['**/*.yaml']", "SC207 registry.yaml:2:11"),
            ("include: ['d/**']", "SC207 registry.yaml:2:11"),
            ("include: ['${env:X}.yaml']", "SC404 registry.yaml:2:11"),
            ("inclde: [a.yaml]", "SC201 registry.yaml:2:1"),
        ],
    )
    def test_an_entry_of_the_wrong_form_is_not_followed(self, folder: Folder, text: str, place: str) -> None:
        folder.write({"registry.yaml": f"{text}\n{memory('x')}"})
        assert folder.places() == [place]

    @pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
    def test_a_directory_that_cannot_be_read_is_not_an_empty_one(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: ['d/*.yaml']\n" + memory("x"), "d/a.yaml": memory("a")})
        (folder.path / "d").chmod(0)
        try:
            assert folder.places() == ["SC117 registry.yaml:2:11"]
        finally:
            (folder.path / "d").chmod(0o700)


class TestPatterns:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("b.yaml", "a.yaml", ".h.yaml", "c.yml", "x/1.yaml", "y/1.yaml", ".z/1.yaml", "d.yaml/1"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("*.yaml", ["a.yaml", "b.yaml"]),
            (".*.yaml", [".h.yaml"]),
            ("[bc].y*", ["b.yaml", "c.yml"]),
            ("?.yml", ["c.yml"]),
            ("*/1.yaml", ["x/1.yaml", "y/1.yaml"]),
            ("*/2.yaml", []),
            ("nowhere/*", []),
            ("a.yaml/*", []),
            ("*", ["a.yaml", "b.yaml", "c.yml"]),
        ],
    )
    def test_they_match_files_in_the_order_of_their_names(
        self, tree: Path, pattern: str, names: list[str]
    ) -> None:
        assert expand(tree / pattern) == [tree / name for name in names]

    def test_too_many_matches_are_an_error_and_no_selection(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(includes, "_MAX_PATTERN_MATCHES", 2)
        with pytest.raises(OSError, match="more than 2 files"):
            expand(tree / "*")


class TestFilesToWatch:
    def test_a_new_match_is_one_of_them(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: ['d/*.yaml']\n" + memory("x")})
        loader = ManifestLoader(folder.manifest, Catalog(), environ={})
        assert loader.files() == (folder.manifest,)
        loader.load()
        assert loader.files() == (folder.manifest,)
        folder.write({"d/a.yaml": memory("a")})
        assert loader.files() == (folder.manifest, folder.path / "d/a.yaml")

    def test_those_of_a_rejected_manifest_are_too(self, folder: Folder) -> None:
        folder.write({"registry.yaml": "include: [a.yaml, b.yaml]", "a.yaml": "providers: ["})
        loader = ManifestLoader(folder.manifest, Catalog(), environ={})
        with pytest.raises(ManifestError):
            loader.load()
        assert {path.name for path in loader.files()} == {"registry.yaml", "a.yaml", "b.yaml"}


class TestAProcessThatFollows:
    @pytest.fixture
    def runtime(self, folder: Folder) -> Iterator[Runtime]:
        folder.write(
            {
                "registry.yaml": "include: ['d/*.yaml', named.yaml]\nproviders: {own: {type: fake}}",
                "d/a.yaml": "providers: {a: {type: fake}}",
                "named.yaml": "providers: {n: {type: fake}}",
            }
        )
        runtime = Runtime(folder.manifest, catalog=Catalog([Factory("fake")]), poll_interval_seconds=0.1)
        runtime.start()
        yield runtime
        runtime.close()

    def test_a_changed_a_new_and_a_vanished_fragment(self, folder: Folder, runtime: Runtime) -> None:
        assert sorted(runtime.registry) == ["a", "n", "own"]
        folder.write({"d/a.yaml": "providers: {a: {type: fake}, a2: {type: fake}}"})
        until(lambda: "a2" in runtime.registry)
        folder.write({"d/b.yaml": "providers: {b: {type: fake}}"})
        until(lambda: "b" in runtime.registry)
        (folder.path / "d" / "a.yaml").unlink()
        until(lambda: sorted(runtime.registry) == ["b", "n", "own"])
        assert runtime.status().state == "ok"

    def test_a_new_file_that_is_wrong_is_followed_until_it_is_right(
        self, folder: Folder, runtime: Runtime
    ) -> None:
        folder.write({"d/b.yaml": "providers: {b: {type: nope}}"})
        until(lambda: runtime.status().state == "rejected")
        assert [Path(it.mark.source).name for it in runtime.status().findings] == ["b.yaml"]
        assert sorted(runtime.registry) == ["a", "n", "own"]
        folder.write({"d/b.yaml": "providers: {b: {type: fake}}"})
        until(lambda: "b" in runtime.registry)

    def test_a_named_file_that_vanishes_takes_nothing_with_it(self, folder: Folder, runtime: Runtime) -> None:
        (folder.path / "named.yaml").unlink()
        until(lambda: runtime.status().state == "rejected")
        assert sorted(runtime.registry) == ["a", "n", "own"]
        folder.write({"named.yaml": "providers: {n: {type: fake}, n2: {type: fake}}"})
        until(lambda: "n2" in runtime.registry)
