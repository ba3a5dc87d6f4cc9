"""What a manifest asks for in the way of plugins: what is loaded, what is not, and what is said of it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import Finding, ManifestError, PluginError
from shadowcat_registry.load import ManifestLoader, load_manifest
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.metadata import PluginUse
from shadowcat_registry.plugins import entry_points, loading, probe
from shadowcat_registry.plugins.loading import LoadedPlugins, PluginLoader
from shadowcat_registry.plugins.records import SourceDeclaration, TypeReport, VerifiedSource
from shadowcat_registry.plugins.section import Wanted, read_section
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.runtime import Runtime
from shadowcat_registry.settled import MovedError, Settled
from shadowcat_registry.sight import Sight, look
from shadowcat_registry.startup import load_plugin_providers

from ..fakes import Factory, Running
from . import wheels
from .worlds import World, digest, manifest, plugin

OWNED = {"sources": [{"path": "plugins/glacier.py"}]}
DIRECTORY = {"sources": [{"directory": "plugins"}]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.put("plugins/glacier.py", plugin("one"))
    yield world
    world.runtime.close()


def load(
    world: World,
    plugins: dict[str, Any] | None,
    *,
    catalog: Catalog | None = None,
    use: PluginUse = "import",
    **providers: Any,
) -> Manifest:
    world.write(plugins, **providers)
    return load_manifest(world.path, catalog or Catalog(), environ=world.environ, plugins=use)


def findings(world: World, plugins: dict[str, Any] | None, **more: Any) -> tuple[Finding, ...]:
    """All, also of a manifest that is right."""
    try:
        return load(world, plugins, **more).warnings
    except ManifestError as error:
        return error.findings


def told(found: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    return [(it.code, it.severity, "/".join(map(str, it.pointer))) for it in found]


def marks_its_import(world: World) -> Path:
    """What comes to be there holds the process ids of whoever imported the plugin."""
    marker = world.directory / "imported"
    line = f"with open({str(marker)!r}, 'a') as file:\n    print(os.getpid(), file=file)\n"
    world.put("plugins/glacier.py", "import os\n" + plugin("one") + line)
    return marker


class TestWhatIsLoaded:
    def test_a_plugin_adds_its_types(self, world: World) -> None:
        loaded = load(world, OWNED, cold={"depth": 5}, deep={})
        assert dict(loaded.providers["cold"].config) == {"depth": 5}
        assert dict(loaded.providers["deep"].config) == {"depth": 3}
        assert loaded.providers["cold"].implementation == f"sha256:{digest(plugin('one'))}"
        assert loaded.warnings == ()

    def test_its_configs_are_checked_like_any_other(self, world: World) -> None:
        found = findings(world, OWNED, a={"deep": 5}, b={"depth": "x"}, c={"depth": 12})
        assert [(it.code, it.pointer[1]) for it in found] == [("SC201", "a"), ("SC203", "b"), ("SC210", "c")]

    def test_defaults_count_for_its_types(self, world: World) -> None:
        text = json.loads(manifest(OWNED, cold={}))
        text["defaults"] = {"config": {"glacier": {"depth": 7, "directory": "ice"}}}
        world.put("registry.yaml", json.dumps(text))
        loaded = load_manifest(world.path, Catalog(), environ={})
        assert loaded.providers["cold"].config["depth"] == 7
        assert loaded.providers["cold"].config["directory"] == str(world.directory / "ice")

    def test_a_built_in_type_stays_what_it_is(self, world: World) -> None:
        loaded = load(world, OWNED, warm="memory", cold={})
        assert loaded.providers["warm"].implementation == ""

    def test_nothing_runs_that_had_not_settled(self, world: World) -> None:
        # Half a plugin may be valid, too; and it may be new to whoever watches.
        marker = marks_its_import(world)
        world.write({"sources": [{"directory": "plugins"}]}, cold={})
        loader = ManifestLoader(world.path, Catalog(), environ=world.environ)
        file = world.directory / "plugins/glacier.py"
        for settled in (Settled(), Settled({str(file): Sight((0,), "another")})):
            with pytest.raises(MovedError):
                loader.load(settled=settled)
            assert not marker.exists()
        assert file in loader.files()
        assert file.parent in loader.listings()
        rested = Settled({str(path): look(str(path)) for path in loader.files()})
        assert loader.load(settled=rested).providers["cold"].type == "glacier"
        assert marker.exists()

    def test_nothing_is_loaded_that_was_not_asked_for(self, world: World) -> None:
        marker = marks_its_import(world)
        world.put("plugins/arctic.py", plugin("arctic", type="arctic"))
        load(world, {"sources": [{"path": "plugins/arctic.py"}]}, cold="arctic")
        load(world, None, warm="memory")
        assert not marker.exists()

    def test_a_version_is_that_of_the_type(self, world: World) -> None:
        text = json.loads(manifest(OWNED, cold={}))
        text["providers"]["cold"]["version"] = ">=2"
        world.put("registry.yaml", json.dumps(text))
        with pytest.raises(ManifestError, match=r"SC314.*`glacier` is there in version 1.0"):
            load_manifest(world.path, Catalog(), environ={})

    def test_the_bytes_are_those_of_the_pin_whatever_the_mode(self, world: World) -> None:
        (world.directory / "plugins/glacier.py").chmod(0o666)
        pinned = {"sources": [{"path": "plugins/glacier.py", "sha256": digest(plugin("one"))}]}
        assert load(world, pinned, cold={}).warnings == ()
        in_directory = {"directory": "plugins", "sha256": {"glacier.py": digest(plugin("one"))}}
        assert load(world, {"sources": [in_directory]}, cold={}).warnings == ()

    def test_without_plugins_nothing_of_them_is_even_imported(self, world: World) -> None:
        world.write(None, warm="memory")
        script = (
            "import sys\n"
            "from shadowcat_registry import open_registry\n"
            "with open_registry(sys.argv[1], watch=False) as runtime:\n"
            "    runtime.reload(), runtime.plan(), runtime.status()\n"
            "print(*(name for name in sys.modules if 'shadowcat_registry.plugins' in name))\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", script, str(world.path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
        assert ran.stdout.strip() == ""


class TestRefusals:
    def test_one_is_a_warning_and_an_error_where_its_type_is_missing(self, world: World) -> None:
        world.put("plugins/arctic.py", "1 / 0")
        assert told(findings(world, DIRECTORY, cold={})) == [("SC804", "warning", "plugins/sources/0")]
        assert told(findings(world, DIRECTORY, cold={}, pole="arctic")) == [
            ("SC804", "warning", "plugins/sources/0"),
            ("SC302", "error", "providers/pole/type"),
        ]

    def test_it_is_an_error_where_the_manifest_is_strict(self, world: World) -> None:
        world.put("plugins/arctic.py", "1 / 0")
        found = findings(world, {**DIRECTORY, "strict": True}, cold={})
        assert told(found) == [("SC804", "error", "plugins/sources/0")]

    def test_it_is_shown_with_its_line_and_the_place_in_the_manifest(self, world: World) -> None:
        world.put("plugins/glacier.py", "\n\nraise OSError('no ice')\n")
        refused, _ = findings(world, OWNED, cold={})
        assert str(refused).startswith(
            f"{world.path}:6:4: warning SC804: the plugin glacier is refused (import): "
        )
        assert "glacier.py:3: OSError" in refused.message

    def test_a_file_that_others_may_write_comes_with_the_command_that_mends_it(self, world: World) -> None:
        path = world.directory / "plugins/glacier.py"
        path.chmod(0o664)
        refused, _ = findings(world, OWNED, cold={})
        assert (refused.code, refused.hint) == ("SC801", f"chmod go-w {path}")
        assert str(path) in refused.message

    def test_a_wrong_pin_is_marked_itself(self, world: World) -> None:
        wrong = "0" * 64
        found = findings(world, {"sources": [{"path": "plugins/glacier.py", "sha256": wrong}]}, cold={})
        assert told(found)[0] == ("SC801", "warning", "plugins/sources/0/sha256")
        in_directory = {"directory": "plugins", "sha256": {"glacier.py": wrong}}
        found = findings(world, {"sources": [in_directory]}, cold={})
        assert told(found)[0] == ("SC801", "warning", "plugins/sources/0/sha256/glacier.py")

    def test_what_is_not_pinned_in_a_pinned_directory_is_refused(self, world: World) -> None:
        found = findings(world, {"sources": [{"directory": "plugins", "trust": "pinned"}]}, cold={})
        assert [it.code for it in found] == ["SC801", "SC302"]
        assert "plugins pin" in str(found[0].hint)

    def test_a_missing_file_is_said(self, world: World) -> None:
        found = findings(world, {"sources": [{"path": "plugins/glacer.py"}]}, cold={})
        assert told(found)[0] == ("SC802", "warning", "plugins/sources/0")

    @pytest.mark.parametrize("name", ["os.py", "class.py", "Glacier.py", "ice-age.py"])
    def test_a_name_that_is_none_is_said(self, world: World, name: str) -> None:
        world.put(f"plugins/{name}", plugin("other", type="other"))
        assert told(findings(world, DIRECTORY, cold={})) == [("SC803", "warning", "plugins/sources/0")]

    def test_a_name_is_there_once_over_all_sources(self, world: World) -> None:
        world.put("more/glacier.py", plugin("two", type="other"))
        both = {"sources": [{"directory": "plugins"}, {"path": "more/glacier.py"}]}
        found = findings(world, both, cold={})
        assert told(found) == [("SC803", "warning", "plugins/sources/1")]

    def test_the_name_of_one_that_is_refused_is_not_given_to_another(self, world: World) -> None:
        world.put("more/glacier.py", plugin("two"))
        world.put("plugins/glacier.py", "1 / 0")
        both = {"sources": [{"directory": "plugins"}, {"path": "more/glacier.py"}]}
        world.put("plugins/glacier.py", plugin("one")).chmod(0o666)
        assert [it.code for it in findings(world, both, cold={})] == ["SC801", "SC803", "SC302"]

    def test_what_is_planted_beside_pinned_ones_takes_no_name_from_others(self, world: World) -> None:
        world.put("mounted/glacier.py", plugin("planted"))
        (world.directory / "mounted").chmod(0o1777)
        both = {"sources": [{"directory": "mounted", "trust": "pinned"}, {"path": "plugins/glacier.py"}]}
        loaded = load(world, both, cold={})
        assert told(loaded.warnings) == [("SC801", "warning", "plugins/sources/0")]
        assert loaded.providers["cold"].implementation == f"sha256:{digest(plugin('one'))}"

    def test_one_that_is_named_twice_is_one(self, world: World) -> None:
        both = {"sources": [{"directory": "plugins"}, {"path": "plugins/glacier.py"}]}
        assert load(world, both, cold={}).warnings == ()

    def test_a_type_of_the_process_is_not_replaced(self, world: World) -> None:
        mine = Factory("glacier")
        found = findings(world, OWNED, catalog=Catalog([mine]), cold={})
        assert told(found) == [("SC803", "warning", "plugins/sources/0")]

    def test_of_two_plugins_with_one_type_the_first_has_it(self, world: World) -> None:
        world.put("plugins/other.py", plugin("two"))
        loaded = load(world, DIRECTORY, cold={})
        assert told(loaded.warnings) == [("SC803", "warning", "plugins/sources/0")]
        assert loaded.providers["cold"].implementation == f"sha256:{digest(plugin('one'))}"

    def test_an_included_file_cannot_ask_for_plugins(self, world: World) -> None:
        world.put("more.yaml", manifest(OWNED, cold={}))
        text = json.loads(manifest(None, warm="memory"))
        world.put("registry.yaml", json.dumps({**text, "include": ["more.yaml"]}))
        with pytest.raises(ManifestError) as caught:
            load_manifest(world.path, Catalog(), environ={})
        first = caught.value.findings[0]
        assert (first.code, first.pointer, Path(first.mark.source).name) == (
            "SC201",
            ("plugins",),
            "more.yaml",
        )
        assert first.hint == f"there is one for all files, in {world.path}"

    def test_a_section_of_the_wrong_form_loads_nothing(self, world: World) -> None:
        marker = marks_its_import(world)
        found = findings(world, {"sources": [{"path": "plugins/glacier.py", "sha": "0"}]}, cold={})
        assert [it.code for it in found] == ["SC201", "SC806"]
        assert not marker.exists()

    @pytest.mark.parametrize("section", [3, None, {"sources": [None]}, {"sources": {"path": "a.py"}}])
    def test_nor_does_one_among_more_errors_than_are_told(self, world: World, section: object) -> None:
        providers = {f"p{number}": {"type": 3, "nope": 4} for number in range(2_000)}
        world.put("registry.yaml", json.dumps({"version": 1, "providers": providers, "plugins": section}))
        with pytest.raises(ManifestError):
            load_manifest(world.path, Catalog(), environ={})


class TestTheEnvironment:
    def test_adds_a_directory(self, world: World) -> None:
        world.environ["SHADOWCAT_PLUGIN_DIR"] = str(world.directory / "plugins")
        assert load(world, None, cold={}).providers["cold"].type == "glacier"

    def test_relative_to_the_working_directory(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(world.directory)
        world.environ["SHADOWCAT_PLUGIN_DIR"] = "plugins"
        assert load(world, None, cold={}).providers["cold"].type == "glacier"

    def test_comes_before_the_manifest(self, world: World) -> None:
        world.put("more/glacier.py", plugin("two", type="other"))
        world.environ["SHADOWCAT_PLUGIN_DIR"] = str(world.directory / "plugins")
        loaded = load(world, {"sources": [{"directory": "more"}]}, cold={})
        assert told(loaded.warnings) == [("SC803", "warning", "plugins/sources/0")]

    def test_is_named_where_it_is_wrong(self, world: World) -> None:
        world.environ["SHADOWCAT_PLUGIN_DIR"] = str(world.directory / "nowhere")
        (found,) = findings(world, None, warm="memory")
        assert (found.code, found.mark.line, found.mark.column) == ("SC802", 1, 1)
        assert "$SHADOWCAT_PLUGIN_DIR" in found.message

    def test_what_is_no_path_is_said(self, world: World) -> None:
        world.environ["SHADOWCAT_PLUGIN_DIR"] = "a\0b"
        providers = {"tapes": {"type": "filesystem"}}
        world.put("registry.yaml", json.dumps({"version": 1, "providers": providers}))
        loaded = load_manifest(world.path, Catalog(), environ=world.environ)
        assert [it.code for it in loaded.warnings] == ["SC802"]

    def test_empty_means_none(self, world: World) -> None:
        world.environ["SHADOWCAT_PLUGIN_DIR"] = ""
        assert findings(world, None, warm="memory") == ()


class TestChecking:
    def test_imports_nothing(self, world: World) -> None:
        marker = marks_its_import(world)
        loaded = load(world, OWNED, use="verify", cold={"depth": "x"}, warm="memory")
        assert told(loaded.warnings) == [("SC806", "warning", "providers/cold/type")]
        assert not marker.exists()

    def test_says_what_is_refused_all_the_same(self, world: World) -> None:
        (world.directory / "plugins/glacier.py").chmod(0o666)
        assert [it.code for it in findings(world, OWNED, use="verify", cold={})] == ["SC801", "SC302"]

    def test_by_a_probe_imports_elsewhere_and_checks_by_what_it_is_told(self, world: World) -> None:
        marker = marks_its_import(world)
        found = findings(world, OWNED, use="probe", cold={"depth": "x"}, warm="memory")
        assert told(found) == [("SC203", "error", "providers/cold/config/depth")]
        assert str(os.getpid()) not in marker.read_text().split()

    def test_unresolved_looks_at_no_plugin(self, world: World) -> None:
        marker = marks_its_import(world)
        world.environ["SHADOWCAT_PLUGIN_DIR"] = str(world.directory / "nowhere")
        world.write({"sources": [{"path": "plugins/gone.py"}, *DIRECTORY["sources"]]}, cold={"depth": "x"})
        loaded = load_manifest(world.path, Catalog(), environ=world.environ, unresolved=True)
        assert told(loaded.warnings) == [("SC806", "warning", "providers/cold/type")]
        assert not marker.exists()

    def test_a_secret_of_a_type_that_is_not_known_is_in_no_digest(self, world: World) -> None:
        one = load(world, OWNED, use="verify", cold={"token": "hunter2"}).digest
        assert one == load(world, OWNED, use="verify", cold={"token": "hunter3"}).digest

    def test_defaults_of_a_type_that_is_not_known_are_not_unused(self, world: World) -> None:
        text = json.loads(manifest(OWNED, cold={}))
        text["defaults"] = {"config": {"glacier": {}, "memory": {}}}
        world.put("registry.yaml", json.dumps(text))
        loaded = load_manifest(world.path, Catalog(), environ={}, plugins="verify")
        assert [it.code for it in loaded.warnings] == ["SC806", "SC806"]


class TestPlacesOfPlugins:
    """To write a tape must never be to write a plugin."""

    @pytest.mark.parametrize(
        ("plugins", "directory"),
        [
            (DIRECTORY, "plugins"),
            (DIRECTORY, "plugins/tapes"),
            (DIRECTORY, "."),
            (DIRECTORY, "link/tapes"),
            (OWNED, "plugins"),
            (OWNED, "."),
        ],
    )
    def test_a_storage_that_overlaps_is_refused(self, world: World, plugins: Any, directory: str) -> None:
        (world.directory / "link").symlink_to("plugins")
        text = json.loads(manifest(plugins, cold={}))
        text["providers"]["tapes"] = {"type": "filesystem", "config": {"directory": directory}}
        world.put("registry.yaml", json.dumps(text))
        with pytest.raises(ManifestError) as caught:
            load_manifest(world.path, Catalog(), environ={})
        assert told(caught.value.findings) == [("SC807", "error", "providers/tapes/config/directory")]

    @pytest.mark.parametrize(
        ("plugins", "directory"),
        [(DIRECTORY, "tapes"), (OWNED, "plugins/tapes"), (DIRECTORY, "plugins-of-tapes")],
    )
    def test_one_beside_them_is_not(self, world: World, plugins: Any, directory: str) -> None:
        text = json.loads(manifest(plugins, cold={}))
        text["providers"]["tapes"] = {"type": "filesystem", "config": {"directory": directory}}
        world.put("registry.yaml", json.dumps(text))
        assert load_manifest(world.path, Catalog(), environ={}).warnings == ()

    def test_a_path_counts_where_a_type_does_not_say_which_it_wants_for_itself(self, world: World) -> None:
        found = findings(world, DIRECTORY, cold={"directory": "plugins/ice"})
        assert told(found) == [("SC807", "error", "providers/cold/config/directory")]

    def test_the_directory_of_the_environment_counts_too(self, world: World) -> None:
        world.environ["SHADOWCAT_PLUGIN_DIR"] = str(world.directory / "plugins")
        found = findings(world, None, cold={"directory": "plugins/ice"})
        assert told(found) == [("SC807", "error", "providers/cold/config/directory")]
        assert "$SHADOWCAT_PLUGIN_DIR" in found[0].message

    def test_a_manifest_with_pins_is_held_to_ownership(self, world: World) -> None:
        marker = marks_its_import(world)
        text = (world.directory / "plugins/glacier.py").read_text()
        pinned = {"sources": [{"path": "plugins/glacier.py", "sha256": digest(text)}]}
        world.write(pinned, warm="memory")
        world.path.chmod(0o666)
        with pytest.raises(ManifestError) as caught:
            load_manifest(world.path, Catalog(), environ={})
        (found,) = caught.value.findings
        assert (found.code, found.pointer, found.hint) == ("SC808", ("plugins",), f"chmod go-w {world.path}")
        assert not marker.exists()
        world.path.chmod(0o644)
        assert load_manifest(world.path, Catalog(), environ={}).warnings == ()
        assert marker.exists()

    def test_one_without_is_not(self, world: World) -> None:
        world.write(OWNED, cold={})
        world.path.chmod(0o666)
        assert load_manifest(world.path, Catalog(), environ={}).warnings == ()


class TestTheLoader:
    def wanted(self, world: World, **more: Any) -> Wanted:
        return Wanted(sources=(SourceDeclaration(world.directory / "plugins", True),), probes=False, **more)

    def test_does_not_import_the_same_bytes_twice(self, world: World) -> None:
        marker = marks_its_import(world)
        loader = PluginLoader()
        first = loader.load(self.wanted(world), ())
        again = loader.load(self.wanted(world), ())
        assert len(marker.read_text().split()) == 1
        assert first.types["glacier"] is again.types["glacier"]

    def test_gives_up_what_does_not_run_any_more(self, world: World) -> None:
        loader = PluginLoader()
        first = loader.load(self.wanted(world), ())
        loader.keep(first)
        world.put("plugins/glacier.py", plugin("two"))
        second = loader.load(self.wanted(world), ())
        names = [name for name in sys.modules if name.startswith("shadowcat_registry_plugins.glacier_")]
        assert len(names) == 2
        loader.keep(second)
        left = [name for name in sys.modules if name.startswith("shadowcat_registry_plugins.glacier_")]
        assert (len(left), left) == (1, names[1:])

    def test_says_of_each_what_came_of_it(self, world: World) -> None:
        world.put("plugins/broken.py", "1 / 0")
        world.put("plugins/other.py", plugin("two"))
        loaded = PluginLoader().load(self.wanted(world), ())
        states = {info.name: info.state for info in loaded.infos}
        assert states == {"broken": "refused", "glacier": "owned", "other": "shadowed"}
        assert [info.types for info in loaded.infos if info.state == "owned"] == [{"glacier": "1.0"}]
        assert all(info.problem for info in loaded.infos if info.state != "owned")

    def test_two_at_once_import_one(self, world: World) -> None:
        loader = PluginLoader()
        both = threading.Barrier(2)

        def load() -> LoadedPlugins:
            both.wait(10)
            return loader.load(self.wanted(world), ())

        one, other = Running(load), Running(load)
        assert one.result().imported.keys() == other.result().imported.keys()
        third = loader.load(self.wanted(world), ())
        loader.keep(third)
        assert len([it for it in sys.modules if it.startswith("shadowcat_registry_plugins.glacier_")]) == 1

    def test_does_not_probe_what_has_crashed_with_every_reload(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments, probed = [0.0], []
        monkeypatch.setattr(loading, "monotonic", lambda: moments[0])

        def ask(source: VerifiedSource, *, timeout_seconds: float, **_: object) -> tuple[TypeReport, ...]:
            probed.append(timeout_seconds)
            raise PluginError(source.name, "probe", "its import ended the process (exit code 0)")

        monkeypatch.setattr(probe, "probe", ask)
        loader, wanted = PluginLoader(), replace(self.wanted(world), probes=True)
        first = loader.load(wanted, ())
        assert loader.load(wanted, ()).refusals == first.refusals
        assert len(probed) == 1
        loader.load(replace(wanted, probe_timeout_seconds=20.0), ())
        world.put("plugins/glacier.py", plugin("two"))
        loader.load(wanted, ())
        assert probed == [10.0, 20.0, 10.0]
        moments[0] = 61.0
        loader.load(wanted, ())
        assert len(probed) == 4

    def test_a_section_says_what_is_wanted(self, tmp_path: Path) -> None:
        section = {
            "sources": [
                {"path": "a.py"},
                {"directory": "/opt/p", "trust": "pinned"},
                {"path": "b", "sha256": "00"},
            ],
            "entry_points": ["shadowcat-glacier>=1"],
            "probe": False,
            "probe_timeout_seconds": 3,
            "strict": True,
        }
        wanted = read_section(section, tmp_path, None)
        assert wanted.sources == (
            SourceDeclaration(tmp_path / "a.py", False, "ownership", {}, ("plugins", "sources", 0)),
            SourceDeclaration(Path("/opt/p"), True, "pinned", {}, ("plugins", "sources", 1)),
            SourceDeclaration(tmp_path / "b", False, "pinned", {"b": "00"}, ("plugins", "sources", 2)),
        )
        assert [(it.text, it.pointer) for it in wanted.requirements] == [
            ("shadowcat-glacier>=1", ("plugins", "entry_points", 0))
        ]
        assert (wanted.probes, wanted.probe_timeout_seconds, wanted.is_strict) == (False, 3.0, True)


class TestDistributions:
    """Those that the manifest lists, out of real wheels."""

    ASKED: ClassVar[dict[str, Any]] = {"entry_points": ["shadowcat-glacier>=1"]}

    @pytest.fixture(autouse=True)
    def site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        monkeypatch.setattr(entry_points, "_imported", {})
        (tmp_path / "site").mkdir()
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        self.install(tmp_path / "site", "one")
        yield tmp_path / "site"
        sys.modules.pop("glacier_of_ours", None)

    def install(self, site: Path, code: str, version: str = "1.2.0") -> None:
        for old in site.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        files = {"glacier_of_ours.py": plugin(code, version=version)}
        wheels.unpack(wheels.wheel(site.parent, files, version=version), site)

    def test_one_that_is_listed_adds_its_types(self, world: World) -> None:
        runtime = world.start(self.ASKED, cold={})
        assert world.code() == "one"
        (info,) = runtime.status().plugins
        assert (info.name, info.state, info.distribution, info.types, info.generations) == (
            "shadowcat-glacier",
            "installed",
            "shadowcat-glacier 1.2.0",
            {"glacier": "1.2.0"},
            1,
        )

    def test_one_that_is_not_listed_is_not_even_imported(self, world: World) -> None:
        assert [it.code for it in findings(world, None, cold={})] == ["SC302"]
        assert "glacier_of_ours" not in sys.modules

    def test_checking_imports_none(self, world: World) -> None:
        assert told(load(world, self.ASKED, use="verify", cold={}).warnings)[0][0] == "SC806"
        found = findings(world, self.ASKED, use="probe", cold={"deep": 1})
        assert told(found) == [("SC201", "error", "providers/cold/config/deep")]
        assert "glacier_of_ours" not in sys.modules

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (["shadowcat-glacier>=2"], "1.2.0 is installed, and >=2 is asked for"),
            (["shadowcat-glacer"], "did you mean"),
            (["shadowcat-glacier", "shadowcat_glacier"], "asked for twice"),
            (["shadowcat-glacier>>1"], "names no distribution"),
        ],
    )
    def test_one_that_cannot_be_used_is_said_where_it_is_listed(
        self, world: World, asked: list[str], said: str
    ) -> None:
        found = findings(world, {"entry_points": asked}, warm="memory")
        place = f"plugins/entry_points/{len(asked) - 1}"
        assert told(found) == [("SC805", "warning", place)]
        assert said in found[0].message

    def test_another_version_waits_for_a_restart(self, world: World, site: Path) -> None:
        runtime = world.start(self.ASKED, cold={})
        self.install(site, "two", "1.3.0")
        world.write(self.ASKED, cold={"depth": 4})
        assert world.reload() == "committed"
        assert (world.code(), world.events[-1].updated) == ("one", ("cold",))
        (info,) = runtime.status().plugins
        assert (info.state, info.distribution) == ("restart needed", "shadowcat-glacier 1.2.0")
        assert info.problem == "shadowcat-glacier 1.2.0 runs, and 1.3.0 is installed"
        assert runtime.plan().actions == ()

    def test_one_that_is_asked_for_in_the_version_of_the_next_start_says_so(
        self, world: World, site: Path
    ) -> None:
        world.start(self.ASKED, cold={})
        self.install(site, "two", "2.0")
        world.write({"entry_points": ["shadowcat-glacier>=2"]}, cold={})
        assert world.reload() == "rejected"
        assert [it.code for it in world.findings] == ["SC805", "SC302"]
        assert "restart the process" in str(world.findings[0].hint)
        assert world.code() == "one"


class TestInAProcess:
    def test_a_plugin_is_imported_under_no_lock(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        runtime = world.start(None, warm="memory")
        asked: list[str] = []

        def use_everything() -> None:
            runtime.registry.register(Factory("by_the_plugin"))
            with runtime.registry.open_storage("warm"):
                asked.append(runtime.status().state)
            runtime.reload(wait=False)

        hook = SimpleNamespace(call=lambda: Running(use_everything).result())
        monkeypatch.setitem(sys.modules, "hook_of_a_test", hook)
        world.put("plugins/glacier.py", "import hook_of_a_test\nhook_of_a_test.call()\n" + plugin("one"))
        world.write(OWNED, warm="memory", cold={})
        assert world.reload() in (
            "committed",
            "unchanged",
        )  # of this reload, or of the one that the plugin asked for
        assert asked == ["ok"]
        assert {"by_the_plugin", "cold"} <= set(runtime.registry)

    def test_a_start_without_its_plugin_says_why(self, world: World) -> None:
        world.put("plugins/glacier.py", "1 / 0")
        with pytest.raises(ManifestError) as caught:
            world.start(OWNED, cold={})
        assert [it.code for it in caught.value.findings] == ["SC804", "SC302"]

    def test_the_last_good_manifest_starts_with_its_plugins(self, world: World) -> None:
        with Runtime(world.path, environ=world.environ, watch=False, last_good="keep") as first:
            world.environ["XDG_STATE_HOME"] = str(world.directory / "state")
            world.write(OWNED, cold={})
            first.start()
        world.put("registry.yaml", "nothing of it")
        with Runtime(world.path, environ=world.environ, watch=False, last_good="use") as second:
            second.start()
            assert second.status().state == "degraded"
            assert second.registry.get_provider_info("cold").type == "glacier"
            assert [it.name for it in second.status().plugins] == ["glacier"]


class TestLoadPluginProviders:
    @pytest.fixture
    def registry(self) -> Iterator[StorageProviderRegistry]:
        registry = StorageProviderRegistry()
        yield registry
        registry.close()

    def test_registers_a_provider_for_each_type(
        self, world: World, registry: StorageProviderRegistry
    ) -> None:
        world.put("plugins/arctic.py", plugin("arctic", type="arctic"))
        assert load_plugin_providers(world.directory / "plugins", registry) == ("arctic", "glacier")
        with registry.open_storage("arctic") as storage:
            assert storage.provider == "arctic"

    def test_leaves_a_name_that_is_taken(self, world: World, registry: StorageProviderRegistry) -> None:
        directory = world.directory / "plugins"
        load_plugin_providers(directory, registry, probe=False)
        assert load_plugin_providers(directory, registry, probe=False) == ()

    def test_one_that_is_refused_takes_no_other_down(
        self, world: World, registry: StorageProviderRegistry, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.put("plugins/arctic.py", "1 / 0")
        with caplog.at_level(logging.WARNING):
            assert load_plugin_providers(world.directory / "plugins", registry, probe=False) == ("glacier",)
        assert "plugin arctic is refused (import)" in caplog.text

    def test_strict_registers_nothing_then(self, world: World, registry: StorageProviderRegistry) -> None:
        world.put("plugins/arctic.py", "1 / 0")
        with pytest.raises(PluginError, match="arctic"):
            load_plugin_providers(world.directory / "plugins", registry, probe=False, strict=True)
        assert len(registry) == 0

    def test_a_directory_that_cannot_be_used_is_an_error(
        self, world: World, registry: StorageProviderRegistry
    ) -> None:
        with pytest.raises(PluginError, match="missing"):
            load_plugin_providers(world.directory / "nowhere", registry)
        (world.directory / "plugins").chmod(0o777)
        with pytest.raises(PluginError, match="writable"):
            load_plugin_providers(world.directory / "plugins", registry)
