"""Plans carried out on a real registry. Manifests are real ones, read by the loader."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import (
    DefaultNotSetError,
    InstanceNotFoundError,
    ProviderRetiringError,
    RuntimeClosedError,
)
from shadowcat_registry.load import parse_manifest
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.progress import Progress
from shadowcat_registry.reconcile import Report, make_plan, reconcile
from shadowcat_registry.registry import StorageProviderRegistry

from .fakes import Factory, Gate, Running, give_up_at, until


class World:
    """A registry, the types `fake` and `other`, and manifests that are applied one after the other."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "registry.yaml"
        self.registry = StorageProviderRegistry(construction_timeout_seconds=5)
        self.fake, self.other = Factory("fake"), Factory("other")
        self.catalog = Catalog([self.fake, self.other])
        self.applied: Manifest | None = None

    def manifest(self, default: str | None = None, **providers: Any) -> Manifest:
        """A provider is its config, or, as a text, its type."""
        entries = {
            name: {"type": given} if isinstance(given, str) else {"type": "fake", "config": given}
            for name, given in providers.items()
        }
        return self.parse(default, entries)

    def parse(self, default: str | None, entries: dict[str, Any]) -> Manifest:
        defaults = {} if default is None else {"defaults": {"provider": default}}
        text = json.dumps({"version": 1, **defaults, "providers": entries}, indent=1)
        return parse_manifest(text.encode(), self.path, self.catalog)

    def apply(self, manifest: Manifest, **options: Any) -> Report:
        report = reconcile(self.registry, self.catalog, manifest, running=self.applied, **options)
        if not report.findings:
            self.applied = manifest
        return report

    def declare(self, default: str | None = None, **providers: Any) -> Report:
        return self.apply(self.manifest(default, **providers))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _fail(*_: object) -> None:
    raise PermissionError(13, "Permission denied", "/tapes")


class TestAPlanThatSucceeds:
    def test_is_one_generation(self, world: World) -> None:
        report = world.declare("a", a={}, b={})
        assert (report.generation, report.added, report.findings) == (1, ("a", "b"), ())
        report = world.declare("b", b={"n": 1}, c={})
        assert report.generation == 2
        assert (report.added, report.updated, report.removed) == (("c",), ("b",), ("a",))
        assert list(world.registry) == ["b", "c"]
        assert world.registry.snapshot().default == "b"

    def test_what_says_the_same_is_none(self, world: World) -> None:
        world.declare("a", a={"n": 1})
        before = world.registry.snapshot()
        report = world.declare("a", a={"n": 1})
        assert report == Report.nothing(1)
        assert world.registry.snapshot() is before

    def test_opens_the_default_and_the_replacements_of_what_is_open(self, world: World) -> None:
        world.declare("a", a={}, b={}, c={})
        assert world.fake.create_count == 1
        world.registry.open_storage("b").close()
        world.declare("a", a={}, b={"n": 1}, c={"n": 1})
        assert [b.context.provider for b in world.fake.backends] == ["a", "b", "b"]
        world.registry.open_storage("b").close()
        assert world.fake.create_count == 3, "what was opened in the preparation serves"

    def test_opens_the_filesystem_where_no_default_is_named(self, world: World) -> None:
        world.declare(None, filesystem={}, a={})
        assert [b.context.provider for b in world.fake.backends] == ["filesystem"]

    def test_opens_nothing_unless_eager(self, world: World) -> None:
        world.apply(world.manifest("a", a={}), eager=False)
        assert world.fake.create_count == 0
        world.registry.get_default_storage().close()

    def test_closes_what_is_replaced_after_the_swap(self, world: World) -> None:
        revisions: list[int] = []
        world.fake.on_close = lambda: revisions.append(world.registry.get_provider_info("a").revision)
        world.declare("a", a={})
        world.declare("a", a={"n": 1})
        assert revisions == [2]

    def test_hooks_are_asked_of_a_new_provider_and_a_new_type_only(self, world: World) -> None:
        asked: list[str] = []
        world.registry.add_init_hook(asked.append)
        world.declare("a", a={}, b={})
        assert asked == ["a", "b"]
        world.declare("a", a={"n": 1}, b="other")
        assert asked == ["a", "b", "b"]
        assert world.registry.get_provider_info("b").type == "other"

    def test_a_new_label_keeps_the_storage_and_its_revision(self, world: World) -> None:
        world.declare("a", a={})
        with world.registry.open_storage("a") as storage:
            report = world.apply(world.parse("a", {"a": {"type": "fake", "display_name": "Alpha"}}))
            assert report.updated == ("a",)
            assert not storage.superseded
        info = world.registry.get_provider_info("a")
        assert (info.display_name, info.revision, world.fake.create_count) == ("Alpha", 1, 1)

    def test_true_instead_of_1_is_a_change(self, world: World) -> None:
        world.declare("a", a={"n": 1})
        assert world.declare("a", a={"n": True}).updated == ("a",)
        assert world.registry.get_default_config("a")["n"] is True

    def test_a_storage_that_stands_on_another_new_one_finds_it(self, world: World) -> None:
        world.other.on_create = lambda _, context: context.open("below")
        report = world.declare("above", above="other", below={})
        assert report.findings == ()
        assert world.registry.get_provider_info("below").instance_count == 1
        world.registry.close()

    def test_paths_are_those_of_the_manifest(self, world: World) -> None:
        world.declare("a", a={})
        assert world.fake.backends[0].context.base_directory == world.path.parent


class TestAPlanThatFails:
    def test_changes_nothing_and_disposes_of_everything(self, world: World) -> None:
        world.declare("a", a={})
        before = world.registry.snapshot()
        world.other.on_create = _fail
        report = world.declare("broken", a={"n": 1}, b={}, broken="other")
        assert [f.code for f in report.findings] == ["SC701"]
        assert (report.generation, world.registry.snapshot() is before) == (1, True)
        assert [b.close_count for b in world.fake.backends] == [0, 1], "the replacement is closed again"
        with world.registry.get_default_storage() as storage:
            assert (storage.provider, storage.revision, storage.superseded) == ("a", 1, False)

    def test_disposes_in_reverse(self, world: World) -> None:
        closed: list[str] = []

        def hook(name: str) -> None:
            world.registry.open_storage(name).close()
            if name == "c":
                raise RuntimeError("no")

        def remember(_: object, context: Any) -> None:
            name = context.provider
            world.fake.on_close = lambda: closed.append(name)

        world.fake.on_create = remember
        world.registry.add_init_hook(hook)
        assert world.declare("a", a={}, b={}, c={}).findings
        assert closed == ["c", "b", "a"]

    def test_reports_every_error_at_its_place(self, world: World) -> None:
        def refuse(name: str) -> None:
            if name == "b":
                raise RuntimeError("no")

        world.registry.add_init_hook(refuse)
        world.registry.register(Factory("taken"))
        world.fake.on_create = _fail
        manifest = world.manifest("a", a={}, b={}, taken={})
        report = world.apply(manifest)
        assert {finding.pointer[1]: finding.code for finding in report.findings} == {
            "a": "SC701",
            "b": "SC702",
            "taken": "SC306",
        }
        for finding in report.findings:
            assert finding.mark == manifest.provider_marks[str(finding.pointer[1])]
        assert list(world.registry) == ["taken"]

    def test_a_provider_that_a_hook_refused_is_not_opened(self, world: World) -> None:
        def refuse(_: str) -> None:
            raise RuntimeError("no")

        world.registry.add_init_hook(refuse)
        report = world.declare("a", a={})
        assert [f.code for f in report.findings] == ["SC702"]
        assert world.fake.create_count == 0

    def test_a_default_that_cannot_be_opened_keeps_the_old_one(self, world: World) -> None:
        world.declare("a", a={}, b="other")
        world.other.on_create = _fail
        report = world.declare("b", a={}, b="other")
        (finding,) = report.findings
        assert (finding.code, finding.pointer) == ("SC701", ("providers", "b"))
        assert "Permission denied: /tapes" in finding.message
        assert world.registry.snapshot().default == "a"

    def test_a_type_that_is_gone_from_the_catalog_is_a_finding(self, world: World) -> None:
        manifest = world.manifest("a", a="other")
        world.catalog = Catalog()
        (finding,) = world.apply(manifest).findings
        assert finding.code == "SC701"
        assert "other" in finding.message

    @pytest.mark.parametrize("what", ["description", "capabilities"])
    def test_a_factory_that_does_not_say_what_it_is_is_given_up(
        self, world: World, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        gate, progress = Gate(), Progress()

        class Slow(Factory):
            def __getattribute__(self, name: str) -> Any:
                if name == what and asked:
                    gate()
                return super().__getattribute__(name)

        asked: list[bool] = []
        world.catalog = Catalog([world.fake, Slow("other")])
        world.declare("a", a={})
        manifest = world.manifest("b", a={}, b="other")
        give_up_at(monkeypatch, gate)
        asked.append(True)
        (finding,) = world.apply(manifest, progress=progress).findings
        assert (finding.code, finding.pointer) == ("SC705", ("providers", "b"))
        assert finding.message.startswith("asking type 'other' what it is: it has not come back after")
        (hanging,) = progress.hanging()
        assert (hanging.provider, "fakes.py:" in str(hanging.at)) == ("b", True)
        assert (world.registry.snapshot().generation, list(world.registry)) == (1, ["a"])
        gate.open()
        until(lambda: not progress.hanging())
        assert world.apply(manifest, progress=progress).findings == ()
        progress.close()

    def test_what_is_no_factory_is_a_finding_that_says_what_is_missing(self, world: World) -> None:
        class Broken(Factory):
            capabilities = property(lambda _: ["telepathy"], lambda *_: None)

        manifest = world.manifest("a", a="other")
        world.catalog = Catalog([world.fake, Broken("other")])
        (finding,) = world.apply(manifest).findings
        assert finding.code == "SC703"
        assert "Broken is no StorageProviderFactory: 'telepathy'" in finding.message

    @pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=["exit", "interrupt"])
    def test_whatever_ends_it_everything_is_disposed_of(self, world: World, error: BaseException) -> None:
        def create(*_: object) -> None:
            raise error

        world.other.on_create = create
        world.declare("a", a={})
        (finding,) = world.declare("b", a={"n": 1}, b="other").findings
        assert finding.code == "SC701"
        assert f"it raised {type(error).__name__}" in finding.message
        assert [b.close_count for b in world.fake.backends] == [0, 1]
        assert world.registry.get_provider_info("a").revision == 1

    def test_is_cancelled_before_its_commit(self, world: World) -> None:
        cancelled = threading.Event()
        world.registry.add_init_hook(lambda _: cancelled.set())
        with pytest.raises(RuntimeClosedError):
            world.apply(world.manifest("a", a={}), cancelled=cancelled)
        assert (list(world.registry), world.fake.open_count) == ([], 0)


class TestWhatIsInUse:
    def test_a_new_config_is_a_new_revision_and_old_leases_keep_theirs(self, world: World) -> None:
        world.declare("a", a={})
        with world.registry.get_default_storage() as old:
            world.declare("a", a={"n": 1})
            with world.registry.get_default_storage() as new:
                assert (old.revision, old.superseded, new.revision, new.superseded) == (1, True, 2, False)
                old.record("s-1").finalize()
            assert [b.close_count for b in world.fake.backends] == [0, 0]
        assert [b.close_count for b in world.fake.backends] == [1, 0]

    def test_a_revision_that_nobody_opened_leaves_nothing_behind(self, world: World) -> None:
        for number in range(3):
            world.declare(other={}, a={"path": f"{number}"})
        assert [it.number for it in world.registry.revisions("a")] == [3]

    def test_a_removal_waits_for_the_last_lease_and_the_rest_is_applied(self, world: World) -> None:
        world.declare("a", a={}, b={})
        storage = world.registry.open_storage("b")
        report = world.declare("a", a={}, c={})
        assert (report.added, report.removed, report.retiring) == (("c",), (), ("b",))
        assert world.registry.get_provider_info("b").state == "retiring"
        with pytest.raises(ProviderRetiringError) as caught:
            world.registry.open_storage("b")
        assert caught.value == ProviderRetiringError("b", "a")
        assert world.declare("a", a={}, c={}) == Report.nothing(2), "it is not removed twice"
        storage.close()
        assert list(world.registry) == ["a", "c"]

    def test_to_declare_it_as_it_was_cancels_the_removal(self, world: World) -> None:
        world.declare("a", a={}, b={"n": 1})
        with world.registry.open_storage("b") as storage:
            world.declare("a", a={})
            superseded = [storage.superseded]
            report = world.declare("a", a={}, b={"n": 1})
            assert report.added == ("b",)
            assert [*superseded, storage.superseded] == [True, False]
            with world.registry.open_storage("b") as again:
                assert again.revision == storage.revision == 1
        assert "b" in world.registry
        assert world.fake.create_count == 2, "its storage stayed open"

    def test_to_declare_it_otherwise_is_a_new_revision(self, world: World) -> None:
        world.declare("a", a={}, b={"n": 1})
        with world.registry.open_storage("b") as storage:
            world.declare("a", a={})
            world.declare("a", a={}, b={"n": 2})
            assert storage.superseded
            assert world.registry.get_provider_info("b").state == "active"
            world.registry.open_storage("b").close()
        assert "b" in world.registry
        assert world.registry.get_provider_info("b").revision == 2

    def test_it_can_come_back_while_its_last_lease_is_being_closed(self, world: World) -> None:
        world.declare("a", a={}, b="other")
        gate = Gate()
        world.other.on_close = gate
        storage = world.registry.open_storage("b")
        world.declare("a", a={})
        closing = Running(storage.close)
        gate.reached()
        world.declare("a", a={}, b="other")
        gate.open()
        closing.result()
        with world.registry.open_storage("b") as again:
            assert not again.superseded
        assert world.other.open_count == 1


class TestTheDefault:
    def test_changes_in_the_same_swap_with_what_it_needs(self, world: World) -> None:
        seen: set[tuple[str | None, bool]] = set()

        def look(*_: object) -> None:
            snapshot = world.registry.snapshot()
            seen.add((snapshot.default, snapshot.default in snapshot))

        world.fake.on_close = look
        world.declare("a", a={})
        world.fake.on_create = look
        world.declare("b", b={})
        assert seen == {("a", True), ("b", True)}

    def test_set_by_code_holds_until_the_manifests_own_changes(self, world: World) -> None:
        world.declare("a", a={}, b={})
        world.registry.set_default("b")
        world.declare("a", a={"n": 1}, b={})
        assert world.registry.snapshot().default == "b"
        world.declare("c", a={}, b={}, c={})
        assert world.registry.snapshot().default == "c"

    def test_set_by_code_and_removed_gives_way_to_the_manifests_own(self, world: World) -> None:
        world.declare("a", a={}, b={})
        world.registry.set_default("b")
        world.declare("a", a={})
        assert world.registry.snapshot().default == "a"

    def test_one_that_the_manifest_no_longer_names_is_unset(self, world: World) -> None:
        world.declare("a", a={})
        world.declare(None, a={})
        with pytest.raises(DefaultNotSetError):
            world.registry.get_default_storage()


class TestOwnership:
    def test_what_code_has_registered_is_left_alone(self, world: World) -> None:
        world.registry.register(Factory("mine"))
        world.declare("a", a={})
        world.declare("b", b={})
        assert list(world.registry) == ["mine", "b"]
        assert world.registry.get_provider_info("mine").origin == "code"
        assert world.registry.get_provider_info("b").origin == "manifest"

    def test_a_builtin_default_is_taken_over_and_goes_with_its_declaration(self, world: World) -> None:
        world.registry.register(Factory("b"), replaceable=True)
        with world.registry.open_storage("b") as builtin:
            world.declare("a", a={}, b={"n": 1})
            assert builtin.superseded
            assert world.registry.get_provider_info("b").origin == "manifest"
        world.declare("a", a={})
        assert list(world.registry) == ["a"]

    def test_the_plan_is_about_declared_providers_only(self, world: World) -> None:
        world.declare("a", a={})
        world.registry.register(Factory("mine"))
        assert not make_plan(world.registry.snapshot(), world.manifest("a", a={}), world.applied)


class TestCodeThatInterferes:
    def _meanwhile(self, world: World, times: int, action: Callable[[], object]) -> None:
        """Do something to the registry while a reload prepares, the first few times."""
        count = [0]

        def hook(_: str) -> None:
            count[0] += 1
            if count[0] <= times:
                action()

        world.registry.add_init_hook(hook)

    def test_a_plan_that_has_become_stale_is_made_anew(self, world: World) -> None:
        world.declare("a", a={}, b={})
        self._meanwhile(world, 1, lambda: world.registry.unregister("b"))
        report = world.declare("a", a={}, c={})
        assert (report.added, report.removed) == (("c",), ())
        assert list(world.registry) == ["a", "c"]
        assert world.registry.get_provider_info("c").revision == 1

    def test_a_default_that_code_sets_meanwhile_is_not_left_dangling(self, world: World) -> None:
        world.declare("a", a={}, b={})
        self._meanwhile(world, 1, lambda: world.registry.set_default("b"))
        report = world.declare("a", a={}, c={})
        assert (report.added, report.removed) == (("c",), ("b",))
        assert world.registry.snapshot().default == "a", "the manifest's own takes over again"
        world.registry.get_default_storage().close()

    def test_one_that_never_stops_is_a_finding(self, world: World) -> None:
        world.declare("a", a={}, b={})

        def flip() -> None:
            if "c" in world.registry:
                world.registry.unregister("c")
            else:
                world.registry.register(Factory("c"), replaceable=True)

        flipping = [False]

        def hook(name: str) -> None:
            if not flipping[0]:
                flipping[0] = True
                flip()
                flipping[0] = False

        world.registry.add_init_hook(hook)
        report = world.declare("a", a={}, b={}, c={})
        assert [finding.code for finding in report.findings] == ["SC704"]
        assert world.fake.open_count == 1, "only the default is open"

    def test_a_lease_that_ends_meanwhile_makes_the_retiring_one_new(self, world: World) -> None:
        world.declare("a", a={}, b={})
        storage = world.registry.create_storage("b", instance_id="mine")
        world.declare("a", a={})
        self._meanwhile(world, 1, storage.close)
        report = world.declare("a", a={}, b={}, c={})
        assert report.added == ("b", "c")
        assert world.registry.get_provider_info("b").state == "active"
        with pytest.raises(InstanceNotFoundError):
            world.registry.find_instance("mine")
        world.registry.open_storage("b").close()
