"""What a reload would do, on a real runtime: nothing of it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import RuntimeClosedError
from shadowcat_registry.load import load_manifest
from shadowcat_registry.preview import PlanReport, compare
from shadowcat_registry.runtime import Runtime

from .fakes import Factory

SCHEMA = {"type": "object", "properties": {"token": {"type": "string", "x-secret": True}}}


class World:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "registry.yaml"
        self.fake = Factory("fake")
        self.catalog = Catalog([self.fake, Factory("other"), Factory("vault", schema=SCHEMA)])
        self.runtime = Runtime(self.path, catalog=self.catalog, watch=False)

    def write(
        self, default: str | None = None, reload: dict[str, Any] | None = None, **providers: Any
    ) -> None:
        defaults = {} if default is None else {"provider": default}
        entries = {
            name: {"type": "fake"} | given if isinstance(given, dict) else {"type": given}
            for name, given in providers.items()
        }
        document = {"version": 1, "defaults": defaults, "reload": reload or {}, "providers": entries}
        self.path.write_text(json.dumps(document, indent=1), encoding="utf-8")

    def start(
        self, default: str | None = None, reload: dict[str, Any] | None = None, **providers: Any
    ) -> None:
        self.write(default, reload, **providers)
        self.runtime.start()

    def plan(
        self, default: str | None = None, reload: dict[str, Any] | None = None, **providers: Any
    ) -> PlanReport:
        self.write(default, reload, **providers)
        before, opened = self.runtime.registry.snapshot(), self.fake.create_count
        report = self.runtime.plan()
        assert (self.runtime.registry.snapshot(), self.fake.create_count) == (before, opened), "it only looks"
        json.dumps(report.as_json())
        return report


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.runtime.close()


class TestPlan:
    def test_says_what_a_reload_would_do_and_does_nothing(self, world: World) -> None:
        world.start("a", a={}, b={}, c={})
        report = world.plan("d", a={"config": {"n": 1}}, b="other", c={"display_name": "C"}, d={})
        assert str(report) == (
            "update a: in place, if its storage can take it; otherwise a new revision\n"
            "  config.n: (none) -> 1\n"
            "replace b: a new revision\n"
            "  type: fake -> other\n"
            "metadata c: no storage is touched\n"
            "  display_name: (none) -> C\n"
            "add d: opened when it is first used\n"
            "set default d: what get_default_storage() opens from then on\n"
            "  defaults.provider: a -> d\n"
            "1 to add, 4 to change"
        )
        assert not report.is_blocked
        assert world.runtime.reload().result == "committed"
        assert str(world.runtime.plan()) == "no changes: the manifest says what is running"

    def test_of_a_manifest_that_is_wrong_is_its_findings(self, world: World) -> None:
        world.start("a", a={})
        report = world.plan("b", a={})
        assert [finding.code for finding in report.findings] == ["SC301"]
        assert (report.is_rejected, report.actions) == (True, ())
        world.path.unlink()
        (finding,) = world.runtime.plan().findings
        assert finding.code == "SC117"

    def test_a_removal_in_use_names_its_holders(self, world: World) -> None:
        world.start("a", a={}, b={})
        with world.runtime.registry.open_storage("b"):
            (action,) = world.plan("a", a={}).actions
            assert (action.kind, action.effect) == ("remove", "retires until 1 lease is closed")
            (blocker,) = action.blockers
            assert (blocker.rejects, blocker.holders[0].acquired_at.split(":")[0]) == (False, __file__)
            report = world.plan("a", {"on_removal_in_use": "reject"}, a={})
            assert (report.is_rejected, report.actions[0].blockers[0].code) == (True, "SC708")
        assert not world.plan("a", a={}).is_blocked

    def test_protection_and_mass_removal_are_shown_before_they_refuse(self, world: World) -> None:
        world.start("a", a={}, b={"protect": True}, c={}, d={})
        report = world.plan("a", a={})
        assert [blocker.code for blocker in report.blockers] == ["SC707"]
        assert {action.name: [it.code for it in action.blockers] for action in report.actions} == {
            "d": [],
            "c": [],
            "b": ["SC706"],
        }
        assert str(report).endswith("3 to remove; nothing of it would be done")
        assert world.runtime.reload().findings

    def test_a_secret_is_masked_and_its_change_can_be_seen(self, world: World) -> None:
        world.start("a", a={"type": "vault", "config": {"token": "S3CRET-1"}})
        (action,) = world.plan("a", a={"type": "vault", "config": {"token": "S3CRET-2"}}).actions
        (change,) = action.changes
        assert change.path == "config.token"
        assert str(change.old).startswith("*** (")
        assert change.old != change.new
        assert "S3CRET" not in json.dumps(action.as_json())

    def test_in_a_runtime_that_does_not_run_is_an_error(self, world: World) -> None:
        with pytest.raises(RuntimeClosedError):
            world.runtime.plan()
        world.start("a", a={})
        world.runtime.close()
        with pytest.raises(RuntimeClosedError):
            world.runtime.plan()


class TestCompare:
    def test_is_the_plan_between_two_files(self, world: World, tmp_path: Path) -> None:
        world.write("a", a={}, b={}, c={}, d={})
        old = load_manifest(world.path, world.catalog)
        world.write("a", a={"config": {"n": 1}})
        report = compare(old, load_manifest(world.path, world.catalog))
        assert [str(action).split(":")[0] for action in report.actions] == [
            "update a",
            "remove d",
            "remove c",
            "remove b",
        ]
        assert [blocker.code for blocker in report.blockers] == ["SC707"]
