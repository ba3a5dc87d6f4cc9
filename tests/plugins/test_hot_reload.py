"""A changed plugin is a changed manifest: new code for new leases, the old code for the old ones, and on any
failure what was good. Reloads are asked for; a few tests at the end let the watch do it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowcat_registry import reload_worker
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import ManifestError
from shadowcat_registry.load import load_manifest
from shadowcat_registry.plugins import loading, modules, owned
from shadowcat_registry.runtime import Runtime

from ..fakes import until
from .worlds import World, code_of, digest, manifest, plugin

OWNED = {"sources": [{"path": "plugins/glacier.py"}]}
DIRECTORY = {"sources": [{"directory": "plugins"}]}


def pinned(text: str) -> dict[str, object]:
    return {"sources": [{"path": "plugins/glacier.py", "sha256": digest(text)}]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.put("plugins/glacier.py", plugin("one"))
    yield world
    world.runtime.close()


def living(world: World) -> int:
    """Generations of its plugins, by its status; not those of other tests."""
    gc.collect()
    return sum(info.generations for info in world.runtime.status().plugins)


class TestAChangedPlugin:
    def test_is_a_new_revision_and_old_leases_keep_their_code(self, world: World) -> None:
        world.start(OWNED, cold={})
        with world.open() as old:
            assert code_of(old) == "one"
            world.put("plugins/glacier.py", plugin("two"))
            assert world.reload() == "committed"
            assert world.events[-1].updated == ("cold",)
            assert (code_of(old), world.code(), old.superseded) == ("one", "two", True)
            info = world.runtime.registry.get_provider_info("cold")
            assert (info.revision, info.instance_count) == (2, 1)
            assert living(world) == 2
        del old
        assert living(world) == 1

    def test_with_other_facts_says_them(self, world: World) -> None:
        world.start(OWNED, cold={})
        world.put("plugins/glacier.py", plugin("two", version="2.0"))
        world.reload()
        assert world.runtime.registry.get_provider_info("cold").version == "2.0"

    def test_touches_no_provider_of_another_type(self, world: World) -> None:
        world.start(OWNED, cold={}, warm="memory")
        world.put("plugins/glacier.py", plugin("two"))
        assert world.reload() == "committed"
        assert world.events[-1].updated == ("cold",)
        assert world.runtime.registry.get_provider_info("warm").revision == 1

    def test_is_never_taken_in_place(self, world: World) -> None:
        taker = "    def reconfigure(self, config):\n        raise AssertionError\n\n\nclass Factory:"
        world.put("plugins/glacier.py", plugin("one").replace("class Factory:", taker))
        world.start(OWNED, cold={})
        with world.open():
            world.put("plugins/glacier.py", plugin("two").replace("class Factory:", taker))
            world.write(OWNED, cold={"depth": 4})
            assert world.reload() == "committed"
        assert world.code() == "two"

    def test_that_nobody_uses_is_no_generation(self, world: World) -> None:
        world.start(OWNED, warm="memory")
        world.put("plugins/glacier.py", plugin("two"))
        assert world.reload() == "unchanged"
        assert living(world) == 1

    def test_rewritten_with_the_same_bytes_is_no_change(self, world: World) -> None:
        world.start(OWNED, cold={})
        world.put("plugins/glacier.py", plugin("one"))
        assert world.reload() == "unchanged"
        assert world.runtime.registry.get_provider_info("cold").revision == 1
        assert living(world) == 1

    def test_is_shown_by_a_plan_without_being_imported(self, world: World) -> None:
        world.start(OWNED, cold={})
        marker = world.directory / "imported"
        leaves = f"import os, pathlib\npathlib.Path({str(marker)!r}).write_text(str(os.getpid()))\n"
        world.put("plugins/glacier.py", plugin("two") + leaves)
        (action,) = world.runtime.plan().actions
        assert (action.kind, [change.path for change in action.changes]) == ("update", ["implementation"])
        assert action.effect == "a new revision"
        assert action.reason == "the plugin of its type differs: implementation"
        assert marker.read_text() != str(os.getpid())
        assert world.code() == "one"

    def test_together_with_the_config_is_one_change(self, world: World) -> None:
        world.start(OWNED, cold={})
        world.put("plugins/glacier.py", plugin("two"))
        world.write(OWNED, cold={"depth": 5})
        assert world.reload() == "committed"
        assert world.code() == "two"
        assert world.runtime.registry.get_default_config("cold") == {"depth": 5}


class TestABrokenChange:
    @pytest.mark.parametrize(
        ("text", "code", "said"),
        [
            ("PROVIDERS = (", "SC804", "glacier.py:1"),
            ("raise SystemExit(3)", "SC804", "glacier.py:1: SystemExit"),
            ("PROVIDERS = ()", "SC804", "PROVIDERS is empty"),
            (plugin("two").replace('"type": "object"', '"typ": "object"'), "SC804", "no keyword 'typ'"),
            (plugin("two", type="memory"), "SC803", "memory"),
        ],
    )
    def test_keeps_the_last_good_and_says_why_and_where(
        self, world: World, text: str, code: str, said: str
    ) -> None:
        runtime = world.start(OWNED, cold={})
        world.put("plugins/glacier.py", text)
        assert world.reload() == "rejected"
        assert (world.code(), runtime.status().state) == ("one", "rejected")
        refused, missing = world.findings
        assert (refused.code, refused.severity, refused.pointer) == (
            code,
            "warning",
            ("plugins", "sources", 0),
        )
        assert refused.mark.line == 6
        assert said in refused.message
        assert (missing.code, missing.severity, missing.pointer) == (
            "SC302",
            "error",
            ("providers", "cold", "type"),
        )
        assert "refused: the plugin `glacier`" in str(missing.hint)

    def test_that_is_mended_recovers(self, world: World) -> None:
        world.start(OWNED, cold={})
        world.put("plugins/glacier.py", "1 / 0")
        assert world.reload() == "rejected"
        world.put("plugins/glacier.py", plugin("two"))
        assert world.reload() == "committed"
        assert (world.code(), world.runtime.status().state, world.findings) == ("two", "ok", ())

    def test_that_is_taken_back_recovers_without_a_new_import(self, world: World) -> None:
        world.start(OWNED, cold={})
        generation = world.runtime.registry.snapshot()["cold"].factory
        world.put("plugins/glacier.py", "1 / 0")
        assert world.reload() == "rejected"
        world.put("plugins/glacier.py", plugin("one"))
        assert world.reload() == "unchanged"
        assert world.said[-1] == "recovered"
        assert world.runtime.registry.snapshot()["cold"].factory is generation

    def test_of_the_schema_refuses_a_config_that_does_not_fit_any_more(self, world: World) -> None:
        world.start(OWNED, cold={"depth": 5})
        world.put("plugins/glacier.py", plugin("two").replace('"depth"', '"deep"'))
        assert world.reload() == "rejected"
        (finding,) = world.findings
        assert (finding.code, finding.pointer) == ("SC201", ("providers", "cold", "config", "depth"))
        assert world.code() == "one"
        assert living(world) == 2  # tried again without another import, should the manifest be mended
        world.write(OWNED, cold={"deep": 5})
        world.put("plugins/glacier.py", plugin("three").replace('"depth"', '"deep"'))
        assert world.reload() == "committed"
        assert (world.code(), living(world)) == ("three", 1)

    def test_whose_storage_cannot_be_opened_keeps_the_last_good(self, world: World) -> None:
        world.start(OWNED, cold={})
        assert world.code() == "one"
        broken = plugin("two").replace(
            "return Backend(", "raise PermissionError(13, 'no ice')\n        return Backend("
        )
        world.put("plugins/glacier.py", broken)
        assert world.reload() == "rejected"
        assert (world.findings[0].code, world.code()) == ("SC701", "one")

    def test_takes_no_other_plugin_down(self, world: World) -> None:
        world.put("plugins/arctic.py", plugin("arctic", type="arctic"))
        world.start(DIRECTORY, cold="arctic")
        world.put("plugins/glacier.py", "1 / 0")
        world.put("plugins/arctic.py", plugin("new", type="arctic"))
        assert world.reload() == "committed"
        assert world.code() == "new"
        manifest = world.runtime.manifest
        assert manifest is not None
        assert [(it.code, it.severity) for it in manifest.warnings] == [("SC804", "warning")]

    def test_takes_them_all_down_where_the_manifest_is_strict(self, world: World) -> None:
        world.put("plugins/arctic.py", plugin("arctic", type="arctic"))
        world.start({**DIRECTORY, "strict": True}, cold="arctic")
        world.put("plugins/glacier.py", "1 / 0")
        assert world.reload() == "rejected"
        assert [(it.code, it.severity) for it in world.findings] == [("SC804", "error")]
        assert world.code() == "arctic"

    def test_of_a_mode_is_tried_again_without_being_asked(self, world: World) -> None:
        runtime = world.start(OWNED, cold={})
        file = world.put("plugins/glacier.py", plugin("two"))
        file.chmod(0o666)
        assert world.reload() == "rejected"
        (finding, _) = world.findings
        assert (finding.code, finding.hint) == ("SC801", f"chmod go-w {file}")
        assert runtime.status().retry_in_seconds is not None
        file.chmod(0o644)
        until(lambda: runtime.status().state == "ok")
        assert world.code() == "two"

    def test_of_the_mode_of_a_manifest_with_pins_is_tried_again_too(self, world: World) -> None:
        world.start(pinned(plugin("one")), cold={})
        world.path.chmod(0o666)
        assert world.reload() == "rejected"
        assert world.findings[0].code == "SC808"
        assert (world.code(), world.runtime.status().retry_in_seconds is not None) == ("one", True)
        world.path.chmod(0o644)
        assert world.reload() == "unchanged"
        assert world.runtime.status().state == "ok"

    def test_beside_another_error_waits_for_that_to_be_mended(self, world: World) -> None:
        world.start(DIRECTORY, warm="memory")
        world.put("plugins/glacier.py", "1 / 0")
        world.write(DIRECTORY, warm="memry")
        assert world.reload() == "rejected"
        assert [finding.code for finding in world.findings] == ["SC804", "SC302"]
        assert world.runtime.status().retry_in_seconds is not None  # it may be the type of the plugin
        world.write(DIRECTORY, warm="memory", tapes={"no": "such field"}, deep=3)
        assert world.reload() == "rejected"
        assert world.runtime.status().retry_in_seconds is None


class TestComingAndGoing:
    def test_a_new_file_in_a_directory_is_there(self, world: World) -> None:
        world.start(DIRECTORY, cold={})
        world.put("plugins/arctic.py", plugin("arctic", type="arctic"))
        world.write(DIRECTORY, cold={}, pole="arctic")
        assert world.reload() == "committed"
        assert (world.code(), world.code("pole")) == ("one", "arctic")

    def test_a_deleted_file_keeps_the_last_good(self, world: World) -> None:
        world.start(OWNED, cold={})
        (world.directory / "plugins/glacier.py").unlink()
        assert world.reload() == "rejected"
        assert [finding.code for finding in world.findings] == ["SC802", "SC302"]
        assert world.code() == "one"

    def test_a_file_deleted_from_a_directory_keeps_the_last_good(self, world: World) -> None:
        world.start(DIRECTORY, cold={})
        (world.directory / "plugins/glacier.py").unlink()
        assert world.reload() == "rejected"
        (finding,) = world.findings
        assert finding.code == "SC302"
        assert f"came from {world.directory / 'plugins/glacier.py'}" in str(finding.hint)
        assert world.code() == "one"

    def test_a_plugin_that_is_dropped_with_its_providers_keeps_its_code_while_leased(
        self, world: World
    ) -> None:
        world.start(OWNED, cold={}, warm="memory")
        with world.open() as old:
            (world.directory / "plugins/glacier.py").unlink()
            world.write(None, warm="memory")
            assert world.reload() == "committed"
            assert world.events[-1].retiring == ("cold",)
            assert code_of(old) == "one"
            (info,) = world.runtime.status().plugins
            assert (info.name, info.state, info.generations) == ("glacier", "retiring", 1)
        del old
        until(lambda: "cold" not in world.runtime.registry)
        assert living(world) == 0
        assert world.runtime.status().plugins == ()

    def test_one_that_comes_back_while_leased_is_new_code(self, world: World) -> None:
        world.start(OWNED, cold={}, warm="memory")
        with world.open() as old:
            world.write(None, warm="memory")
            world.reload()
            world.put("plugins/glacier.py", plugin("two"))
            world.write(OWNED, cold={}, warm="memory")
            assert world.reload() == "committed"
            assert (code_of(old), world.code()) == ("one", "two")

    def test_a_pin_that_changes_with_its_file_is_one_change(self, world: World) -> None:
        one, two = plugin("one"), plugin("two")
        world.start(pinned(one), cold={})
        world.put("plugins/glacier.py", two)
        assert world.reload() == "rejected"
        refused, _ = world.findings
        assert (refused.code, refused.pointer) == ("SC801", ("plugins", "sources", 0, "sha256"))
        world.write(pinned(two), cold={})
        assert world.reload() == "committed"
        assert world.code() == "two"

    def test_a_package_changes_by_any_of_its_files(self, world: World) -> None:
        world.put("plugins/arctic/__init__.py", "from .code import PROVIDERS\n")
        world.put("plugins/arctic/code.py", plugin("one", type="arctic"))
        world.start({"sources": [{"path": "plugins/arctic"}]}, cold="arctic")
        with world.open() as old:
            world.put("plugins/arctic/code.py", plugin("two", type="arctic"))
            assert world.reload() == "committed"
            assert (code_of(old), world.code()) == ("one", "two")


class TestTheStatus:
    def test_says_what_is_loaded_and_how_much_of_it_lives(self, world: World) -> None:
        runtime = world.start(DIRECTORY, cold={})
        (info,) = runtime.status().plugins
        assert info.as_json() == {
            "name": "glacier",
            "state": "owned",
            "path": str(world.directory / "plugins/glacier.py"),
            "distribution": None,
            "sha256": digest(plugin("one")),
            "types": {"glacier": "1.0"},
            "problem": None,
            "generations": 1,
        }
        with world.open() as old:
            world.put("plugins/glacier.py", plugin("two"))
            world.reload()
            assert [it.generations for it in runtime.status().plugins] == [2]
            assert old.superseded
        del old
        gc.collect()
        assert [it.generations for it in runtime.status().plugins] == [1]
        assert runtime.status().as_json()["plugins"][0]["sha256"] == digest(plugin("two"))

    def test_old_code_goes_with_its_last_lease_without_waiting_for_the_collector(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments = [0.0]
        monkeypatch.setattr(loading, "monotonic", lambda: moments[0])
        monkeypatch.setattr(reload_worker, "_SWEEP_SECONDS", 3600.0)  # the test does that
        runtime = world.start(OWNED, cold={})
        gc.collect()
        collect, collected = gc.collect, list[int]()
        monkeypatch.setattr(gc, "collect", lambda: collected.append(collect()))

        def alive() -> int:
            """As the worker finds it, a while later."""
            moments[0] += 60
            runtime._tend(())
            return sum(info.generations for info in runtime.status().plugins)

        gc.disable()
        try:
            assert (alive(), len(collected)) == (1, 0)
            with world.open() as old:
                world.put("plugins/glacier.py", plugin("two"))
                world.reload()
                assert (alive(), alive(), len(collected)) == (2, 2, 1)
                assert code_of(old) == "one"
            del old
            assert (alive(), alive(), len(collected)) == (1, 1, 2)
        finally:
            gc.enable()

    def test_is_empty_without_plugins(self, world: World) -> None:
        assert world.start(None, warm="memory").status().plugins == ()


def big(code: str) -> str:
    """Twenty KiB of code."""
    text = plugin(code)
    functions = [f"def f{number}(x):\n    return x + {number}\n\n\n" for number in range(500)]
    return (text + "\n\n" + "".join(functions))[: 20 * 1024].rpartition("\n\n\n")[0] + "\n"


class TestForEver:
    @pytest.mark.ci
    def test_two_hundred_reloads_leave_no_old_module_alive(self, world: World) -> None:
        world.put("plugins/glacier.py", big("v0"))
        world.start(OWNED, cold={})
        before = {name for name in sys.modules if name.startswith(modules.PACKAGE)}
        for number in range(1, 201):
            world.put("plugins/glacier.py", big(f"v{number}"))
            assert world.reload() == "committed"
            if number % 50 == 0:
                assert world.code() == f"v{number}"
        assert living(world) == 1
        assert len({name for name in sys.modules if name.startswith(modules.PACKAGE)}) == len(before)
        assert world.runtime.registry.get_provider_info("cold").revision == 201

    def test_refused_reloads_leave_none_either(self, world: World) -> None:
        world.start(OWNED, cold={"depth": 5})
        for number in range(10):
            text = plugin(f"v{number}").replace('"depth"', '"deep"')
            world.put("plugins/glacier.py", text)
            assert world.reload() == "rejected"
        assert living(world) == 2
        world.put("plugins/glacier.py", plugin("one"))
        world.reload()
        assert (living(world), world.code()) == (1, "one")

    def test_neither_does_a_runtime_that_is_closed_nor_one_that_does_not_start(self, world: World) -> None:
        def names() -> list[str]:
            return [name for name in sys.modules if name.startswith(f"{modules.PACKAGE}.")]

        world.write(OWNED, cold={})
        before = names()
        for _ in range(3):
            with Runtime(world.path, environ={}, watch=False) as runtime:
                runtime.start()
                assert len(names()) == len(before) + 1
            load_manifest(world.path, Catalog(), environ={})
        world.write(OWNED, cold={"depth": 99})
        with pytest.raises(ManifestError):
            Runtime(world.path, environ={}, watch=False).start()
        assert names() == before


class TestWatching:
    """With the watch: what is done to files is enough."""

    @pytest.fixture
    def watched(self, world: World) -> World:
        world.runtime.close()
        world.runtime = Runtime(world.path, environ=world.environ)
        world.runtime.subscribe(world.events.append)
        return world

    def test_a_changed_file_is_taken(self, watched: World) -> None:
        watched.start(OWNED, cold={})
        watched.put("plugins/glacier.py", plugin("two"))
        until(lambda: watched.said[-1] == "committed")
        assert watched.code() == "two"

    def test_a_new_file_in_a_directory_is_taken(self, watched: World) -> None:
        watched.put("plugins/glacier.py", "1 / 0")
        watched.put("registry.yaml", "")
        (watched.directory / "plugins/glacier.py").unlink()
        watched.start(DIRECTORY, warm="memory")
        watched.put("plugins/arctic.py", plugin("arctic", type="arctic"))
        until(lambda: [it.name for it in watched.runtime.status().plugins] == ["arctic"])

    def test_a_config_map_that_swaps_manifest_and_plugin_together_is_one_change(
        self, watched: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(owned, "_is_read_only", lambda _: True)  # as it is mounted in a container

        def release(number: int, code: str) -> None:
            """All of a mount is links, and one of them is replaced."""
            text = plugin(code)
            pinned = {"sources": [{"path": "glacier.py", "sha256": digest(text)}]}
            watched.put(f"..{number}/glacier.py", text).chmod(0o666)
            watched.put(f"..{number}/registry.yaml", manifest(pinned, cold={}))
            (watched.directory / "..new").symlink_to(f"..{number}")
            (watched.directory / "..new").replace(watched.directory / "..data")

        release(1, "one")
        for name in ("glacier.py", "registry.yaml"):
            (watched.directory / name).symlink_to(f"..data/{name}")
        watched.runtime.start()
        release(2, "two")
        until(lambda: watched.said[-1] == "committed")
        assert (watched.said, watched.code()) == (["started", "committed"], "two")
