"""The registry as its users drive it. Schedules of threads are forced by factories and hooks that wait."""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shadowcat_registry.errors import (
    ConstructionTimeoutError,
    CreationFailedError,
    DefaultNotSetError,
    DependencyCycleError,
    InitHookError,
    InstanceExistsError,
    InstanceNotFoundError,
    InvalidConfigError,
    InvalidNameError,
    ProviderExistsError,
    ProviderInUseError,
    ProviderNotFoundError,
    ProviderRetiringError,
    RuntimeClosedError,
    StalePlanError,
    StorageClosedError,
)
from shadowcat_registry.generations import Change, Committed, SetDefault, Terms
from shadowcat_registry.metadata import ProviderCapability, ProviderSpec
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.snapshot import Provider
from shadowcat_registry.storage import TapeStorage

from .fakes import Factory, Gate, Running, until

SCHEMA = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "default": 7},
        "directory": {"type": "string", "x-path": True},
        "nested": {"type": "object"},
    },
    "additionalProperties": False,
}


@pytest.fixture
def registry() -> StorageProviderRegistry:
    return StorageProviderRegistry()


def _update(
    registry: StorageProviderRegistry, name: str, factory: Factory, config: dict[str, Any] | None = None
) -> Committed:
    """What a reload does when the config of a provider has changed."""
    new = registry.stage(ProviderSpec(name, factory.name, config or {}), factory, origin="manifest")
    committed = registry.commit([Change(name, registry.snapshot().get(name), new)])
    registry.retire(committed)
    return committed


def _remove(registry: StorageProviderRegistry, name: str) -> Committed:
    """What a reload does when a declaration is gone."""
    committed = registry.commit([Change(name, registry.snapshot()[name], None)])
    registry.retire(committed)
    return committed


class TestRegister:
    def test_the_name_is_that_of_the_factory_unless_it_is_given(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())
        registry.register(Factory(), name="archive", display_name="The archive")
        assert list(registry) == ["fake", "archive"]
        assert registry.get_provider_info("archive").display_name == "The archive"
        assert registry.get_provider_info("archive").type == "fake"
        assert "archive" in registry
        assert len(registry) == 2

    def test_a_name_that_is_taken_is_refused_and_changes_nothing(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())
        before = registry.snapshot()
        with pytest.raises(ProviderExistsError) as caught:
            registry.register(Factory())
        assert caught.value == ProviderExistsError("fake")
        assert registry.snapshot() is before

    @pytest.mark.parametrize("config", [None, {"a": "b"}])
    def test_a_type_whose_schema_is_broken_is_refused(
        self, registry: StorageProviderRegistry, config: dict[str, str] | None
    ) -> None:
        schema = {"properties": {"a": {"pattern": "^(a+)+$"}, "b": {"$ref": "http://127.0.0.1:9/"}}}
        with pytest.raises(InvalidConfigError) as caught:
            registry.register(Factory(schema=schema), config=config)
        assert "fake" not in registry
        assert caught.value.provider == "fake"
        assert "the schema of its type is broken: properties/b: $ref leads to no place" in str(caught.value)
        assert "the schema of its type is broken: properties/a: a pattern" in str(caught.value)

    @pytest.mark.parametrize("name", ["", "Archive", "9", "a" * 64, "a b", "a\n"])
    def test_a_name_that_is_none_is_refused(self, registry: StorageProviderRegistry, name: str) -> None:
        with pytest.raises(InvalidNameError):
            registry.register(Factory(name))
        assert len(registry) == 0

    @pytest.mark.parametrize("thing", [object(), None, Factory], ids=["an object", "None", "the class"])
    def test_what_is_no_factory_is_refused(self, registry: StorageProviderRegistry, thing: Any) -> None:
        with pytest.raises(TypeError):
            registry.register(thing)
        assert len(registry) == 0

    def test_a_config_is_checked_at_once_all_faults_of_it(self, registry: StorageProviderRegistry) -> None:
        with pytest.raises(InvalidConfigError) as caught:
            registry.register(Factory(schema=SCHEMA), config={"size": "big", "sise": 1})
        assert len(caught.value.problems) == 2
        assert "big" not in str(caught.value)
        assert len(registry) == 0

    def test_what_the_factory_has_to_say_to_a_config_counts(self, registry: StorageProviderRegistry) -> None:
        def refuse(_: object) -> None:
            raise ValueError("size and directory exclude each other")

        with pytest.raises(InvalidConfigError, match="exclude each other"):
            registry.register(Factory(on_validate=refuse), config={})
        assert len(registry) == 0

    def test_without_a_config_it_is_checked_when_it_is_used(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory(schema={**SCHEMA, "required": ["directory"]}))
        with pytest.raises(InvalidConfigError):
            registry.open_storage("fake")
        with registry.create_storage("fake", {"directory": "/x"}):
            pass

    def test_later_changes_of_the_callers_config_do_not_count(
        self, registry: StorageProviderRegistry
    ) -> None:
        config = {"nested": {"a": 1}}
        registry.register(Factory(schema=SCHEMA), config=config)
        config["nested"]["a"] = 2
        assert registry.get_default_config("fake")["nested"] == {"a": 1}

    def test_it_is_one_generation(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        assert registry.snapshot().generation == 1

    def test_of_two_threads_with_one_name_exactly_one_wins(self, registry: StorageProviderRegistry) -> None:
        both = threading.Barrier(2)
        registry.add_init_hook(lambda _: both.wait(10))
        calls = [Running(lambda: registry.register(Factory())) for _ in range(2)]
        errors = [call.error() for call in calls]
        assert sorted(map(repr, errors)) == ["None", repr(ProviderExistsError("fake"))]
        with registry.open_storage("fake"):
            pass
        registry.unregister("fake")


class TestInitHooks:
    def test_run_in_their_order_for_every_provider_from_then_on(
        self, registry: StorageProviderRegistry
    ) -> None:
        asked: list[str] = []
        registry.register(Factory("before"))
        registry.add_init_hook(lambda name: asked.append(f"1 {name}"))
        registry.add_init_hook(lambda name: asked.append(f"2 {name}"))
        registry.register(Factory("after"))
        assert asked == ["1 after", "2 after"]

    def test_one_that_refuses_leaves_nothing_behind(self, registry: StorageProviderRegistry) -> None:
        factory = Factory()

        def refuse(name: str) -> None:
            with registry.open_storage(name):
                raise RuntimeError("the text may hold a secret")

        registry.add_init_hook(refuse)
        with pytest.raises(InitHookError) as caught:
            registry.register(factory)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert "refuse" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert len(registry) == 0
        assert factory.open_count == 0
        with pytest.raises(ProviderNotFoundError):
            registry.get_provider_info("fake")

    def test_one_that_is_interrupted_leaves_nothing_behind(self, registry: StorageProviderRegistry) -> None:
        factory = Factory()

        def interrupt(name: str) -> None:
            registry.open_storage(name).close()
            raise KeyboardInterrupt

        registry.add_init_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            registry.register(factory)
        assert (len(registry), factory.open_count) == (0, 0)

    def test_may_look_up_and_open_the_one_that_it_is_asked_about(
        self, registry: StorageProviderRegistry
    ) -> None:
        seen: list[Any] = []

        def hook(name: str) -> None:
            seen.append(registry.get_provider_info(name).state)
            seen.append(name in registry)
            with registry.create_storage(name) as storage:
                storage.record("s-1").finalize()
                seen.append(registry.get_provider_info(name).instance_count)

        registry.add_init_hook(hook)
        registry.register(Factory())
        assert seen == ["pending", False, 1]
        assert registry.get_provider_info("fake").state == "active"

    def test_nobody_else_sees_it_before_they_have_passed(self, registry: StorageProviderRegistry) -> None:
        gate = Gate()
        registry.add_init_hook(gate)
        registering = Running(lambda: registry.register(Factory()))
        gate.reached()
        assert list(registry) == []
        for look_up in (registry.get_provider_info, registry.open_storage, registry.create_storage):
            with pytest.raises(ProviderNotFoundError):
                look_up("fake")
        gate.open()
        registering.result()
        assert list(registry) == ["fake"]

    def test_may_register_another_provider(self, registry: StorageProviderRegistry) -> None:
        def hook(name: str) -> None:
            if name == "outer":
                registry.register(Factory("inner"))
                assert registry.get_provider_info("outer").state == "pending"

        registry.add_init_hook(hook)
        registry.register(Factory("outer"))
        assert list(registry) == ["inner", "outer"]

    def test_a_context_that_is_copied_sees_it_and_afterwards_what_is_committed(
        self, registry: StorageProviderRegistry
    ) -> None:
        contexts: list[contextvars.Context] = []
        states: list[str] = []

        def hook(name: str) -> None:
            context = contextvars.copy_context()
            Running(lambda: states.append(context.run(registry.get_provider_info, name).state)).result()
            contexts.append(context)

        registry.add_init_hook(hook)
        factory = Factory()
        registry.register(factory)
        assert states == ["pending"]
        _update(registry, "fake", factory, {"a": 2})
        info = contexts[0].run(registry.get_provider_info, "fake")
        assert (info.state, info.revision) == ("active", 2)
        contexts[0].run(registry.open_storage, "fake").close()
        _remove(registry, "fake")
        with pytest.raises(ProviderNotFoundError):
            contexts[0].run(registry.get_provider_info, "fake")


class TestUnregister:
    def test_what_is_not_there_cannot_go(self, registry: StorageProviderRegistry) -> None:
        with pytest.raises(ProviderNotFoundError):
            registry.unregister("fake")

    def test_closes_the_shared_backend(self, registry: StorageProviderRegistry) -> None:
        factory = Factory()
        registry.register(factory)
        registry.open_storage("fake").close()
        assert factory.open_count == 1
        registry.unregister("fake")
        assert factory.open_count == 0
        assert "fake" not in registry

    def test_with_leases_it_says_whose_they_are_and_changes_nothing(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())
        before = registry.snapshot()
        with registry.open_storage("fake"), registry.create_storage("fake", instance_id="mine"):
            with pytest.raises(ProviderInUseError) as caught:
                registry.unregister("fake")
            assert caught.value.active_count == 2
            assert [holder.instance_id for holder in caught.value.holders] == [None, "mine"]
            assert __file__ in str(caught.value)
            assert registry.snapshot() is before
            registry.open_storage("fake").close()
        registry.unregister("fake")

    def test_holders_are_in_the_order_of_their_acquisition_however_late_they_are_asked(
        self, registry: StorageProviderRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry.register(Factory())
        ticks = itertools.count()  # as if each look came much later than the one before
        for module in ("leases", "openings"):
            monkeypatch.setattr(f"shadowcat_registry.{module}.monotonic", lambda: float(2 ** next(ticks)))
        with (
            registry.create_storage("fake", instance_id="a"),
            registry.create_storage("fake", instance_id="b"),
        ):
            assert [holder.instance_id for holder in registry.holders("fake")] == ["a", "b"]
        monkeypatch.undo()

    def test_during_a_creation_the_provider_is_in_use(self, registry: StorageProviderRegistry) -> None:
        gate = Gate()
        registry.register(Factory(on_create=gate))
        creating = Running(lambda: registry.create_storage("fake"))
        gate.reached()
        with pytest.raises(ProviderInUseError):
            registry.unregister("fake")
        gate.open()
        creating.result().close()
        registry.unregister("fake")

    def test_until_the_last_backend_is_closed_the_provider_is_in_use(
        self, registry: StorageProviderRegistry
    ) -> None:
        gate = Gate()
        registry.register(Factory(on_close=gate))
        storage = registry.create_storage("fake")
        closing = Running(storage.close)
        gate.reached()
        with pytest.raises(ProviderInUseError):
            registry.unregister("fake")
        gate.open()
        closing.result()
        registry.unregister("fake")


class TestOpenStorage:
    def test_all_share_one_backend_each_with_a_lease(self, registry: StorageProviderRegistry) -> None:
        factory = Factory()
        registry.register(factory)
        with registry.open_storage("fake") as one, registry.open_storage("fake") as other:
            assert one is not other
            assert registry.get_provider_info("fake").instance_count == 2
        assert registry.get_provider_info("fake").instance_count == 0
        registry.open_storage("fake").close()
        assert factory.create_count == 1, "it stays open between leases"
        assert factory.open_count == 1

    def test_fifty_who_ask_at_once_get_one_construction(self, registry: StorageProviderRegistry) -> None:
        gate = Gate()
        factory = Factory("filesystem", on_create=gate)
        registry.register(factory)
        calls = [Running(registry.get_default_storage) for _ in range(50)]
        gate.reached()
        until(lambda: registry.get_provider_info("filesystem").instance_count == 50)
        gate.open()
        storages = [call.result() for call in calls]
        assert factory.create_count == 1
        for storage in storages:
            storage.close()

    def test_a_failure_is_everybodys_and_the_next_caller_tries_anew(
        self, registry: StorageProviderRegistry
    ) -> None:
        gate, broken = Gate(), [True]

        def create(*_: object) -> None:
            if broken[0]:
                gate()
                raise PermissionError(13, "Permission denied", "/tapes")

        factory = Factory(on_create=create)
        registry.register(factory)
        calls = [Running(lambda: registry.open_storage("fake")) for _ in range(8)]
        gate.reached()
        until(lambda: registry.get_provider_info("fake").instance_count == 8)
        gate.open()
        errors = [call.error() for call in calls]
        assert errors == [CreationFailedError("fake", "the storage failed: Permission denied: /tapes")] * 8
        assert registry.get_provider_info("fake").instance_count == 0
        broken[0] = False
        registry.open_storage("fake").close()
        assert factory.create_count == 2

    def test_unrelated_constructions_run_side_by_side(self, registry: StorageProviderRegistry) -> None:
        both = threading.Barrier(2)
        for name in ("a", "b"):
            registry.register(Factory(name, on_create=lambda *_: both.wait(10)))
        calls = [Running(lambda name=name: registry.open_storage(name)) for name in ("a", "b")]  # type: ignore[misc]
        for call in calls:
            call.result().close()

    def test_readers_do_not_wait_for_a_construction(self, registry: StorageProviderRegistry) -> None:
        gate = Gate()
        registry.register(Factory(on_create=gate))
        opening = Running(lambda: registry.open_storage("fake"))
        gate.reached()
        assert [info.instance_count for info in registry.list_providers()] == [1]
        registry.register(Factory("other"))
        gate.open()
        opening.result().close()

    def test_waiting_for_somebody_else_has_an_end(self) -> None:
        registry = StorageProviderRegistry(construction_timeout_seconds=0.01)
        gate = Gate()
        registry.register(Factory(on_create=gate))
        opening = Running(lambda: registry.open_storage("fake"))
        gate.reached()
        with pytest.raises(ConstructionTimeoutError):
            registry.open_storage("fake")
        assert registry.get_provider_info("fake").instance_count == 1
        gate.open()
        opening.result().close()

    def test_a_backend_that_cannot_say_its_type_leaves_no_lease(
        self, registry: StorageProviderRegistry
    ) -> None:
        class Silent:
            @property
            def storage_type(self) -> str:
                raise OSError(5, "Input/output error")

            def close(self) -> None: ...

        factory = Factory()
        factory.create = lambda *_: Silent()  # type: ignore[assignment,method-assign]
        registry.register(factory)
        for acquire in (registry.open_storage, registry.create_storage):
            with pytest.raises(CreationFailedError, match="Input/output error"):
                acquire("fake")
        registry.unregister("fake")


class TestCreateStorage:
    def test_is_the_callers_own_and_ends_with_its_lease(self, registry: StorageProviderRegistry) -> None:
        factory = Factory()
        registry.register(factory)
        with registry.create_storage("fake"), registry.create_storage("fake"):
            assert factory.open_count == 2
        assert factory.open_count == 0

    def test_the_callers_config_lies_over_that_of_the_provider(
        self, registry: StorageProviderRegistry
    ) -> None:
        factory = Factory(schema=SCHEMA)
        registry.register(factory, config={"nested": {"a": 1, "b": 2}})
        registry.create_storage("fake", {"nested": {"b": 3}}).close()
        assert factory.backends[0].config == {"nested": {"a": 1, "b": 3}, "size": 7}
        assert registry.get_default_config("fake") == {"nested": {"a": 1, "b": 2}, "size": 7}

    def test_both_together_are_checked(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory(schema=SCHEMA), config={})
        with pytest.raises(InvalidConfigError):
            registry.create_storage("fake", {"size": None})
        assert registry.get_provider_info("fake").instance_count == 0

    def test_what_a_factory_does_to_its_config_stays_with_it(self, registry: StorageProviderRegistry) -> None:
        def spoil(config: Any, _: object) -> None:
            config["nested"]["a"] = "spoilt"

        registry.register(Factory(on_create=spoil), config={"nested": {"a": 1}})
        registry.create_storage("fake").close()
        registry.open_storage("fake").close()
        assert registry.get_default_config("fake") == {"nested": {"a": 1}}

    def test_an_unknown_provider_is_answered_with_what_there_is(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory("archive"))
        with pytest.raises(ProviderNotFoundError, match="did you mean `archive`"):
            registry.create_storage("archiv")


class TestInstances:
    def test_a_live_one_is_found_and_shared(self, registry: StorageProviderRegistry) -> None:
        factory = Factory()
        registry.register(factory)
        with registry.create_storage("fake", instance_id="mine") as storage:
            with registry.find_instance("mine") as found:
                found.record("s-1", tape_id="t-1").finalize()
                assert found.provider == "fake"
            assert [meta["tape_id"] for meta in storage.list_all()] == ["t-1"]
            assert registry.get_provider_info("fake").instance_count == 1
        assert factory.create_count == 1

    def test_a_live_id_is_never_overwritten(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("a"))
        registry.register(Factory("b"))
        with registry.create_storage("a", instance_id="mine"):
            with pytest.raises(InstanceExistsError) as caught:
                registry.create_storage("b", instance_id="mine")
            assert caught.value == InstanceExistsError("mine", "a")
        registry.create_storage("b", instance_id="mine").close()

    def test_it_outlives_its_creator_as_long_as_somebody_has_it(
        self, registry: StorageProviderRegistry
    ) -> None:
        factory = Factory()
        registry.register(factory)
        storage = registry.create_storage("fake", instance_id="mine")
        with registry.find_instance("mine"):
            storage.close()
            assert factory.open_count == 1
            registry.find_instance("mine").close()
        assert factory.open_count == 0
        with pytest.raises(InstanceNotFoundError):
            registry.find_instance("mine")

    def test_a_failed_creation_frees_the_id(self, registry: StorageProviderRegistry) -> None:
        def fail(*_: object) -> None:
            raise OSError("no")

        factory = Factory(on_create=fail)
        registry.register(factory)
        with pytest.raises(CreationFailedError):
            registry.create_storage("fake", instance_id="mine")
        factory.on_create = None
        registry.create_storage("fake", instance_id="mine").close()

    def test_one_that_is_being_created_is_waited_for(self, registry: StorageProviderRegistry) -> None:
        gate = Gate()
        registry.register(Factory(on_create=gate))
        creating = Running(lambda: registry.create_storage("fake", instance_id="mine"))
        gate.reached()
        finding = Running(lambda: registry.find_instance("mine"))
        until(lambda: registry.get_provider_info("fake").instance_count == 2)
        gate.open()
        creating.result().close()
        finding.result().close()

    def test_its_own_factory_cannot_wait_for_it(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory(on_create=lambda *_: registry.find_instance("mine")))
        with pytest.raises(DependencyCycleError):
            registry.create_storage("fake", instance_id="mine")
        assert registry.get_provider_info("fake").instance_count == 0

    def test_of_a_retiring_provider_there_is_no_new_lease(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        with registry.create_storage("fake", instance_id="mine"):
            _remove(registry, "fake")
            with pytest.raises(ProviderRetiringError):
                registry.find_instance("mine")
        assert "fake" not in registry


class TestDependencies:
    def test_are_opened_through_the_context_and_closed_after_who_asked(
        self, registry: StorageProviderRegistry
    ) -> None:
        order: list[str] = []
        registry.register(Factory("below", on_close=lambda: order.append("below")))
        registry.register(
            Factory(
                "above",
                on_create=lambda _, context: context.open("below"),
                on_close=lambda: order.append("above"),
            )
        )
        with registry.open_storage("above"):
            assert registry.get_provider_info("below").instance_count == 1
            with pytest.raises(ProviderInUseError):
                registry.unregister("below")
        registry.unregister("above")
        registry.unregister("below")
        assert order == ["above", "below"]

    def test_a_failure_above_gives_back_what_is_below(self, registry: StorageProviderRegistry) -> None:
        def create(_: object, context: Any) -> None:
            context.open("below")
            raise OSError("no")

        registry.register(Factory("below"))
        registry.register(Factory("above", on_create=create))
        with pytest.raises(CreationFailedError):
            registry.open_storage("above")
        registry.unregister("below")

    def test_one_that_is_asked_for_after_the_end_is_refused(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("below"))
        factory = Factory("above")
        registry.register(factory)
        registry.create_storage("above").close()
        with pytest.raises(StorageClosedError):
            factory.backends[0].context.open("below")
        registry.unregister("below")

    @pytest.mark.parametrize("acquire", ["open_storage", "create_storage"])
    def test_a_cycle_in_one_thread_is_named(self, registry: StorageProviderRegistry, acquire: str) -> None:
        for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
            registry.register(
                Factory(name, on_create=lambda *_, other=other: getattr(registry, acquire)(other))
            )
        with pytest.raises(DependencyCycleError) as caught:
            getattr(registry, acquire)("a")
        assert caught.value.names == ("a", "b", "c", "a")
        assert [info.instance_count for info in registry.list_providers()] == [0, 0, 0]

    def test_a_cycle_over_two_threads_is_found(self, registry: StorageProviderRegistry) -> None:
        both = threading.Barrier(2)

        def needs(other: str) -> Callable[..., object]:
            def create(_: object, context: Any) -> None:
                if not both.broken and threading.current_thread() is not threading.main_thread():
                    both.wait(10)
                context.open(other)

            return create

        registry.register(Factory("a", on_create=needs("b")))
        registry.register(Factory("b", on_create=needs("a")))
        calls = [Running(lambda name=name: registry.open_storage(name)) for name in ("a", "b")]  # type: ignore[misc]
        errors = [call.error() for call in calls]
        assert [type(error) for error in errors] == [DependencyCycleError, DependencyCycleError]
        assert [info.instance_count for info in registry.list_providers()] == [0, 0]

    def test_relative_paths_are_those_of_the_registry(self, tmp_path: Path) -> None:
        registry = StorageProviderRegistry(base_directory=tmp_path)
        factory = Factory(schema=SCHEMA)
        registry.register(factory, config={"directory": "tapes"})
        registry.open_storage("fake").close()
        registry.create_storage("fake", {"directory": "other"}).close()
        assert [Path(b.config["directory"]) for b in factory.backends] == [
            tmp_path / "tapes",
            tmp_path / "other",
        ]
        assert factory.backends[0].context.base_directory == tmp_path
        assert factory.backends[0].context.provider == "fake"
        registry.close()

    def test_without_one_they_are_those_of_the_working_directory_at_the_time(
        self, registry: StorageProviderRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        factory = Factory(schema=SCHEMA)
        registry.register(factory, config={"directory": "tapes"})
        assert Path(registry.get_default_config("fake")["directory"]) == tmp_path / "tapes"

    def test_a_provider_of_a_manifest_has_the_directory_of_that(
        self, registry: StorageProviderRegistry, tmp_path: Path
    ) -> None:
        factory = Factory(schema=SCHEMA)
        spec = ProviderSpec("fake", "fake", {"size": 7})
        staged = registry.stage(spec, factory, origin="manifest", base_directory=tmp_path)
        registry.commit([Change("fake", None, staged)])
        registry.create_storage("fake", {"directory": "other"}).close()
        assert Path(factory.backends[0].config["directory"]) == tmp_path / "other"
        assert factory.backends[0].context.base_directory == tmp_path


class TestDefault:
    def test_is_the_filesystem_while_nobody_has_set_one(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("other"))
        with pytest.raises(DefaultNotSetError) as caught:
            registry.get_default_storage()
        assert caught.value == DefaultNotSetError(("other",))
        registry.register(Factory("filesystem"))
        assert registry.get_provider_info("filesystem").is_default
        with registry.get_default_storage() as storage:
            assert storage.provider == "filesystem"

    def test_is_resolved_at_each_call(self, registry: StorageProviderRegistry) -> None:
        for name in ("a", "b"):
            registry.register(Factory(name))
        registry.set_default("a")
        with registry.get_default_storage() as one, registry.open_storage("a") as by_name:
            registry.set_default("b")
            with registry.get_default_storage() as other:
                assert (one.provider, other.provider) == ("a", "b")
                assert (one.superseded, by_name.superseded, other.superseded) == (True, False, False)
            registry.set_default("a")
            assert not one.superseded

    def test_what_is_not_there_cannot_be_it(self, registry: StorageProviderRegistry) -> None:
        with pytest.raises(ProviderNotFoundError):
            registry.set_default("a")

    def test_what_is_retiring_cannot_be_it(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("a"))
        with registry.open_storage("a"):
            _remove(registry, "a")
            with pytest.raises(ProviderRetiringError):
                registry.set_default("a")

    def test_to_set_the_same_again_is_no_generation(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("a"))
        registry.set_default("a")
        before = registry.snapshot()
        registry.set_default("a")
        assert registry.snapshot() is before


class TestQueries:
    def test_list_everything_in_the_order_of_registration(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("b"))
        registry.register(Factory("a"), name="c")
        registry.set_default("c")
        listed = registry.list_providers()
        assert [(i.name, i.type, i.state, i.revision, i.is_default, i.origin) for i in listed] == [
            ("b", "b", "active", 1, False, "code"),
            ("c", "a", "active", 1, True, "code"),
        ]

    def test_find_by_capability(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("plain"))
        registry.register(Factory("deep", capabilities=frozenset({ProviderCapability.SEARCH})))
        assert registry.find_by_capability(ProviderCapability.SEARCH) == ["deep"]
        assert registry.find_by_capability("search") == ["deep"]
        assert registry.find_by_capability("encryption") == []
        with pytest.raises(ValueError, match="telepathy"):
            registry.find_by_capability("telepathy")
        with registry.open_storage("deep"):
            _remove(registry, "deep")
            assert registry.find_by_capability("search") == [], "it gives out no lease"

    def test_a_config_is_given_out_as_a_copy(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory(), config={"nested": {"a": 1}})
        registry.get_default_config("fake")["nested"]["a"] = 2
        assert registry.get_default_config("fake") == {"nested": {"a": 1}}

    def test_holders_are_the_oldest_first(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        with registry.open_storage("fake"), registry.create_storage("fake", instance_id="mine"):
            first, second = registry.holders("fake")
            assert (first.instance_id, second.instance_id) == (None, "mine")
            assert first.acquired_at.startswith(__file__)
        with pytest.raises(ProviderNotFoundError):
            registry.holders("other")

    def test_a_snapshot_is_the_whole_of_one_generation(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("a"))
        before = registry.snapshot()
        registry.register(Factory("b"))
        assert (list(before), before.generation) == (["a"], 1)
        assert (list(registry.snapshot()), registry.snapshot().generation) == (["a", "b"], 2)

    def test_a_check_says_what_the_type_says(self, registry: StorageProviderRegistry) -> None:
        factory = Factory()
        registry.register(factory)
        assert str(registry.check("fake")) == "unknown"
        factory.check = lambda *_: None  # type: ignore[attr-defined]
        assert str(registry.check("fake")) == "healthy"

        def fail(*_: object) -> None:
            raise PermissionError(13, "Permission denied", "/tapes")

        factory.check = fail  # type: ignore[attr-defined]
        assert str(registry.check("fake")) == "failing: the storage failed: Permission denied: /tapes"
        assert registry.health("fake").state == "unknown", "nobody asked for it to be followed"
        assert registry.get_provider_info("fake").instance_count == 0


class TestUpdate:
    def test_new_leases_get_the_new_revision_and_old_ones_keep_theirs(
        self, registry: StorageProviderRegistry
    ) -> None:
        factory = Factory()
        registry.register(factory, config={"n": 1})
        old = registry.open_storage("fake")
        _update(registry, "fake", factory, {"n": 2})
        assert old.superseded
        with old.record("s-1", tape_id="t-1") as recorder:
            recorder.append("client_to_server", b"{}")
        with registry.open_storage("fake") as new:
            assert (old.revision, new.revision, new.superseded) == (1, 2, False)
            assert registry.get_provider_info("fake").instance_count == 2
            assert [h.revision for h in registry.holders("fake")] == [1, 2]
            assert factory.backends[0].close_count == 0
            old.close()
            assert [b.close_count for b in factory.backends] == [1, 0]
        assert factory.backends[1].close_count == 0

    def test_an_idle_backend_is_closed_after_the_swap(self, registry: StorageProviderRegistry) -> None:
        revisions: list[int] = []
        factory = Factory(on_close=lambda: revisions.append(registry.get_provider_info("fake").revision))
        registry.register(factory)
        registry.open_storage("fake").close()
        _update(registry, "fake", factory)
        assert revisions == [2]

    def test_one_that_is_being_constructed_closes_with_its_last_lease(
        self, registry: StorageProviderRegistry
    ) -> None:
        gate = Gate()
        factory = Factory(on_create=gate)
        registry.register(factory)
        opening = Running(lambda: registry.open_storage("fake"))
        gate.reached()
        _update(registry, "fake", Factory())
        gate.open()
        storage = opening.result()
        assert storage.superseded
        storage.close()
        assert [b.close_count for b in factory.backends] == [1]

    def test_a_release_that_races_with_it_closes_the_old_backend_once(
        self, registry: StorageProviderRegistry
    ) -> None:
        for _ in range(20):
            name = f"fake{registry.snapshot().generation}"
            factory = Factory()
            registry.register(factory, name=name)
            storage = registry.open_storage(name)
            both = threading.Barrier(2)

            def release(storage: TapeStorage = storage, both: threading.Barrier = both) -> None:
                both.wait(10)
                storage.close()

            releasing = Running(release)
            new = registry.stage(ProviderSpec(name, "fake"), factory, origin="manifest")
            both.wait(10)
            registry.retire(registry.commit([Change(name, registry.snapshot()[name], new)]))
            releasing.result()
            assert [b.close_count for b in factory.backends] == [1]

    def test_a_plan_that_is_out_of_date_is_refused_whole(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory("a"))
        expected = registry.snapshot()["a"]
        _update(registry, "a", Factory("a"))
        before = registry.snapshot()
        staged = registry.stage(ProviderSpec("b", "b"), Factory("b"), origin="manifest")
        with pytest.raises(StalePlanError) as caught:
            registry.commit([Change("b", None, staged), Change("a", expected, None)], SetDefault("b"))
        assert caught.value == StalePlanError("a")
        assert registry.snapshot() is before

    def test_nothing_is_committed_once_it_is_cancelled(self, registry: StorageProviderRegistry) -> None:
        cancelled = threading.Event()
        staged = registry.stage(ProviderSpec("b", "b"), Factory("b"), origin="manifest")
        cancelled.set()
        with pytest.raises(RuntimeClosedError):
            registry.commit([Change("b", None, staged)], terms=Terms(None, cancelled=cancelled))
        assert len(registry) == 0


class TestRetiring:
    def test_it_stays_for_its_holders_and_leaves_with_the_last(
        self, registry: StorageProviderRegistry
    ) -> None:
        left: list[str] = []
        registry.on_retired(left.append)
        registry.register(Factory())
        one, other = registry.open_storage("fake"), registry.create_storage("fake")
        assert _remove(registry, "fake").retiring == ("fake",)
        assert registry.get_provider_info("fake").state == "retiring"
        assert one.superseded
        assert other.superseded
        for acquire in (registry.open_storage, registry.create_storage):
            with pytest.raises(ProviderRetiringError):
                acquire("fake")
        one.record("s-1").finalize()
        one.close()
        assert (left, "fake" in registry) == ([], True)
        generation = registry.snapshot().generation
        other.close()
        assert (left, "fake" in registry) == (["fake"], False)
        assert registry.snapshot().generation == generation + 1

    def test_it_leaves_after_its_backend_is_closed(self, registry: StorageProviderRegistry) -> None:
        was_there: list[bool] = []
        registry.register(Factory(on_close=lambda: was_there.append("fake" in registry)))
        storage = registry.open_storage("fake")
        _remove(registry, "fake")
        storage.close()
        assert was_there == [True]

    def test_a_failed_creation_can_be_the_last_lease(self, registry: StorageProviderRegistry) -> None:
        left: list[str] = []
        gate = Gate()

        def create(*_: object) -> None:
            gate()
            raise OSError("no")

        registry.on_retired(left.append)
        registry.register(Factory(on_create=create))
        opening = Running(lambda: registry.open_storage("fake"))
        gate.reached()
        assert _remove(registry, "fake").retiring == ("fake",)
        gate.open()
        assert isinstance(opening.error(), CreationFailedError)
        assert (left, "fake" in registry) == (["fake"], False)

    def test_its_name_is_free_only_once_it_has_left(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        with registry.open_storage("fake"):
            _remove(registry, "fake")
            with pytest.raises(ProviderExistsError):
                registry.register(Factory())
            with pytest.raises(ProviderInUseError):
                registry.unregister("fake")
        registry.register(Factory())

    def test_without_a_lease_it_goes_at_once(self, registry: StorageProviderRegistry) -> None:
        left: list[str] = []
        registry.on_retired(left.append)
        registry.register(Factory())
        assert _remove(registry, "fake").retiring == ()
        assert ("fake" in registry, left) == (False, [])

    def test_listeners_are_called_without_the_lock_and_one_that_fails_is_logged(
        self, registry: StorageProviderRegistry, caplog: pytest.LogCaptureFixture
    ) -> None:
        told: list[str] = []

        def fail(name: str) -> None:
            registry.register(Factory("another"))
            raise RuntimeError("no")

        registry.on_retired(fail)
        cancel = registry.on_retired(told.append)
        registry.register(Factory())
        for _ in range(2):
            storage = registry.open_storage("fake")
            _remove(registry, "fake")
            storage.close()
            cancel()
            if "another" in registry:
                registry.unregister("another")
            registry.register(Factory())
        assert told == ["fake"]
        assert "a listener failed" in caplog.text


class TestClose:
    def test_everything_is_closed_the_last_opened_first_and_forgotten(
        self, registry: StorageProviderRegistry
    ) -> None:
        order: list[str] = []
        for name in ("a", "b", "c"):
            registry.register(Factory(name, on_close=partial(order.append, name)))
            registry.open_storage(name).close()
        registry.set_default("b")
        registry.close()
        assert order == ["c", "b", "a"]
        assert (list(registry), registry.snapshot().default) == ([], None)
        registry.close()
        assert order == ["c", "b", "a"]

    def test_who_still_holds_something_is_named(
        self, registry: StorageProviderRegistry, caplog: pytest.LogCaptureFixture
    ) -> None:
        factory = Factory()
        registry.register(factory)
        storage = registry.open_storage("fake")
        registry.close()
        assert "provider 'fake' is closed under its holder" in caplog.text
        assert __file__ in caplog.text
        assert factory.open_count == 0
        storage.close()
        assert [b.close_count for b in factory.backends] == [1]

    def test_a_lease_that_ends_meanwhile_closes_nothing_a_second_time(
        self, registry: StorageProviderRegistry
    ) -> None:
        gate = Gate()
        factory = Factory(on_close=gate)
        registry.register(factory)
        storage = registry.create_storage("fake")
        closing = Running(registry.close)
        gate.reached()
        storage.close()
        gate.open()
        closing.result()
        assert [b.close_count for b in factory.backends] == [1]

    def test_it_can_be_filled_again(self, registry: StorageProviderRegistry) -> None:
        for _ in range(2):
            registry.register(Factory())
            with registry.open_storage(
                "fake",
            ) as storage:
                assert storage.revision == 1
            registry.close()

    def test_a_backend_that_fails_does_not_keep_the_others_open(
        self, registry: StorageProviderRegistry, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise SystemExit(1)

        first = Factory("a")
        registry.register(first)
        registry.register(Factory("b", on_close=fail))
        registry.open_storage("a").close()
        registry.open_storage("b").close()
        registry.close()
        assert first.open_count == 0
        assert "closing the storage of provider 'b' failed" in caplog.text

    def test_what_is_just_being_constructed_closes_with_its_lease(
        self, registry: StorageProviderRegistry
    ) -> None:
        gate = Gate()
        factory = Factory(on_create=gate)
        registry.register(factory)
        opening = Running(lambda: registry.open_storage("fake"))
        gate.reached()
        registry.close()
        gate.open()
        opening.result().close()
        assert factory.open_count == 0

    def test_no_default_is_left_behind_that_is_not_registered(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory("a"))
        registry.set_default("a")
        registry.unregister("a")
        registry.close()
        assert registry.snapshot().default is None


NAMES = st.sampled_from(["a", "b", "c"])


class RegistryModel(RuleBasedStateMachine):
    """A registry beside the simplest thing that could be one: dicts and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = StorageProviderRegistry()
        self.factory = Factory()
        self.state: dict[str, str] = {}
        self.leases: list[TapeStorage] = []
        self.left: list[str] = []
        self.expected_left: list[str] = []
        self.registry.on_retired(self.left.append)

    def held(self, name: str) -> int:
        return sum(1 for storage in self.leases if storage.provider == name)

    @rule(name=NAMES)
    def register(self, name: str) -> None:
        if name in self.state:
            with pytest.raises(ProviderExistsError):
                self.registry.register(self.factory, name=name)
        else:
            self.registry.register(self.factory, name=name)
            self.state[name] = "active"

    @rule(name=NAMES)
    def unregister(self, name: str) -> None:
        if name not in self.state:
            with pytest.raises(ProviderNotFoundError):
                self.registry.unregister(name)
        elif self.held(name):
            with pytest.raises(ProviderInUseError) as caught:
                self.registry.unregister(name)
            assert caught.value.active_count == self.held(name)
        else:
            self.registry.unregister(name)
            del self.state[name]

    @rule(name=NAMES, shared=st.booleans())
    def acquire(self, name: str, shared: bool) -> None:
        call = self.registry.open_storage if shared else self.registry.create_storage
        if self.state.get(name) == "active":
            self.leases.append(call(name))
        else:
            with pytest.raises((ProviderNotFoundError, ProviderRetiringError)):
                call(name)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        storage = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        storage.close()
        if self.state.get(storage.provider) == "retiring" and not self.held(storage.provider):
            del self.state[storage.provider]
            self.expected_left.append(storage.provider)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if self.state.get(name) == "active":
            _remove(self.registry, name)
            if self.held(name):
                self.state[name] = "retiring"
            else:
                del self.state[name]

    @rule(name=NAMES)
    def declare_anew(self, name: str) -> None:
        if name in self.state:
            _update(self.registry, name, self.factory)
            self.state[name] = "active"

    @rule(name=NAMES)
    def declare_as_before(self, name: str) -> None:
        if name in self.state:
            existing: Provider = self.registry.snapshot()[name]
            self.registry.retire(self.registry.commit([Change(name, existing, existing)]))
            self.state[name] = "active"

    @invariant()
    def the_registry_is_as_the_model_says(self) -> None:
        infos = {info.name: info for info in self.registry.list_providers()}
        assert {name: info.state for name, info in infos.items()} == self.state
        for name, info in infos.items():
            assert info.instance_count == self.held(name) == len(self.registry.holders(name))
        assert self.left == self.expected_left

    @invariant()
    def what_is_held_is_open_and_nothing_is_closed_twice(self) -> None:
        assert all(backend.close_count <= 1 for backend in self.factory.backends)
        for storage in self.leases:
            storage.stats()  # raises if its backend is closed
        for storage in self.leases:
            assert storage.superseded == (
                self.state[storage.provider] == "retiring"
                or storage.revision != self.registry.get_provider_info(storage.provider).revision
            )

    def teardown(self) -> None:
        with ExitStack() as stack:
            for storage in self.leases:
                stack.callback(storage.close)
        self.registry.close()
        assert self.factory.open_count == 0


TestTheModel = RegistryModel.TestCase
TestTheModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
