"""Health over time: when a provider counts as failing, and checks that hang, fail and come late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import StorageUnavailableError
from shadowcat_registry.generations import Change
from shadowcat_registry.health_monitor import HealthMonitor
from shadowcat_registry.metadata import Config, Health, HealthPolicy, HealthState, ProviderSpec
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.runtime import Runtime
from shadowcat_registry.status import Condition

from .fakes import Factory, Gate, Running, until

NOW = datetime(2026, 11, 25, tzinfo=UTC)
QUICK = HealthPolicy(interval_seconds=0.01, timeout_seconds=10.0)
IMPATIENT = HealthPolicy(interval_seconds=0.01, timeout_seconds=0.01)


class Checked(Factory):
    """Of which `on_check` is the check."""

    def __init__(self, name: str = "fake", on_check: Callable[[], object] = lambda: None) -> None:
        super().__init__(name)
        self.on_check = on_check
        self.check_count = 0

    def check(self, config: Config, context: object) -> None:
        self.check_count += 1
        self.on_check()


def fail() -> None:
    raise PermissionError(13, "Permission denied", "/tapes")


def ask_for_health(registry: StorageProviderRegistry, name: str, policy: HealthPolicy) -> None:
    """As a manifest does that says `health:`."""
    provider = registry.snapshot()[name]
    asking = replace(provider, spec=replace(provider.spec, health=policy))
    registry.retire(registry.commit([Change(name, provider, asking)]))


@contextmanager
def monitored(factory: Factory, policy: HealthPolicy) -> Iterator[StorageProviderRegistry]:
    registry = StorageProviderRegistry()
    registry.register(factory)
    ask_for_health(registry, factory.name, policy)
    monitor = HealthMonitor(registry, random_part=lambda: 0.0)
    monitor.look()
    try:
        yield registry
    finally:
        monitor.stop(10)
        registry.close()


class TestWhatChecksMakeOfIt:
    def states(self, *errors: str | TimeoutError | None) -> list[HealthState]:
        health, found = Health(), []
        for error in errors:
            is_timeout = isinstance(error, TimeoutError)
            health = health.after(str(error) if error is not None else None, NOW, is_timeout=is_timeout)
            found.append(health.state)
        return found

    def test_one_failure_degrades_three_in_a_row_fail(self) -> None:
        assert self.states(None, "x", "x", "x", "x") == [
            "healthy",
            "degraded",
            "degraded",
            "failing",
            "failing",
        ]

    def test_a_success_in_between_begins_the_count_anew(self) -> None:
        assert self.states("x", "x", None, "x", "x") == [
            "degraded",
            "degraded",
            "healthy",
            "degraded",
            "degraded",
        ]

    def test_two_timeouts_fail(self) -> None:
        late = TimeoutError()
        assert self.states(late, late, None) == ["degraded", "failing", "healthy"]
        assert self.states(late, "x", late)[-1] == "failing"
        assert self.states(late, None, late)[-1] == "degraded"

    def test_since_is_when_the_state_came_about(self) -> None:
        first = Health().after("x", NOW)
        second = first.after("y", NOW + timedelta(1))
        assert (second.since, second.checked_at, second.error) == (NOW, NOW + timedelta(1), "y")
        assert str(second) == "degraded: y"


class TestMonitoring:
    def test_is_seen_in_the_registry_and_in_the_info(self) -> None:
        with monitored(Checked(), QUICK) as registry:
            until(lambda: registry.health("fake").state == "healthy")
            assert registry.get_provider_info("fake").health.state == "healthy"

    def test_notes_failures_and_recoveries(self, caplog: pytest.LogCaptureFixture) -> None:
        factory = Checked(on_check=fail)
        with monitored(factory, QUICK) as registry:
            until(lambda: registry.health("fake").state == "failing")
            assert registry.health("fake").error == "the storage failed: Permission denied: /tapes"
            factory.on_check = lambda: None
            until(lambda: registry.health("fake").state == "healthy")
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == [
            f"provider 'fake' is {state}: the storage failed: Permission denied: /tapes"
            for state in ("degraded", "failing")
        ]

    def test_leaves_who_did_not_ask_alone_and_has_no_thread_for_them(self) -> None:
        registry = StorageProviderRegistry()
        factory = Checked()
        registry.register(factory)
        monitor = HealthMonitor(registry)
        monitor.look()
        assert not [thread for thread in threading.enumerate() if thread.name == "shadowcat-health"]
        monitor.stop(1)
        assert (factory.check_count, registry.health("fake").state) == (0, "unknown")

    def test_leaves_a_type_alone_that_cannot_be_checked(self) -> None:
        with monitored(Factory(), QUICK) as registry:
            registry.register(other := Checked("other"))
            ask_for_health(registry, "other", QUICK)
            until(lambda: other.check_count == 0)
            assert registry.health("fake").state == "unknown"

    def test_a_check_that_raises_what_is_no_exception_is_a_failure(self) -> None:
        def leave() -> None:
            raise SystemExit(3)

        with monitored(Checked(on_check=leave), QUICK) as registry:
            until(lambda: registry.health("fake").state == "failing")
            assert registry.health("fake").error == "its check failed with SystemExit"

    def test_what_has_left_is_checked_no_more(self) -> None:
        factory = Checked()
        with monitored(factory, QUICK) as registry:
            until(lambda: factory.check_count)
            registry.unregister("fake")
            registry.register(other := Checked("other"))
            ask_for_health(registry, "other", QUICK)
            count = factory.check_count
            until(lambda: other.check_count > 3 or other.check_count == 0)
            assert factory.check_count <= count + 1


class TestAHangingCheck:
    def test_is_named_fails_and_is_not_started_twice(self) -> None:
        gate = Gate()
        factory = Checked(on_check=gate)
        with monitored(factory, IMPATIENT) as registry:
            until(lambda: registry.health("fake").state == "failing")
            error = registry.health("fake").error
            assert error is not None
            assert error.startswith("its check has not answered for ")
            assert factory.check_count == 1
            gate.open()
            factory.on_check = lambda: None
            until(lambda: registry.health("fake").state == "healthy")

    def test_holds_up_no_other(self) -> None:
        gate = Gate()
        with monitored(Checked(on_check=gate), QUICK) as registry:
            gate.reached()
            registry.register(Checked("other"))
            ask_for_health(registry, "other", QUICK)
            monitor = HealthMonitor(registry, random_part=lambda: 0.0)
            monitor.look()
            until(lambda: registry.health("other").state == "healthy")
            monitor.stop(10)
            gate.open()

    def test_does_not_hold_up_the_end(self) -> None:
        gate = Gate()
        with monitored(Checked(on_check=gate), QUICK):
            gate.reached()
        gate.open()


class TestAskingOnce:
    def test_does_not_wait_for_ever(self) -> None:
        gate = Gate()
        registry = StorageProviderRegistry()
        registry.register(factory := Checked(on_check=gate))
        health = registry.check("fake", timeout_seconds=0.01)
        assert health.state == "failing"
        assert str(health).startswith("failing: its check has not answered for ")
        second = Running(lambda: registry.check("fake"))  # waits for the same answer
        gate.open()
        assert second.result().state == "healthy"
        assert factory.check_count == 1


class TestInARuntime:
    def test_is_a_condition_and_follows_the_manifest(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        head = "version: 1\ndefaults: {provider: fake}\nproviders:\n  fake: {type: fake"
        path.write_text(head + "}\n")
        factory = Checked(on_check=fail)
        with Runtime(path, catalog=Catalog([factory]), watch=False) as runtime:

            def condition() -> Condition:
                return next(it for it in runtime.status().conditions if it.name == "healthy")

            runtime.start()
            assert (condition().is_true, condition().reason) == (True, "unchecked")
            path.write_text(head + ", health: {interval_seconds: 1}}\n")
            assert runtime.reload().result == "committed"
            assert runtime.registry.get_provider_info("fake").revision == 1, "its storage stays as it is"
            until(lambda: not condition().is_true)
            assert condition().reason == "degraded"
            assert condition().message == "fake is degraded: the storage failed: Permission denied: /tapes"
            path.write_text(head + "}\n")
            runtime.reload()
            count = factory.check_count
        assert factory.check_count == count

    def test_what_is_looked_at_only_is_not_checked(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        path.write_text("version: 1\nproviders: {fake: {type: fake, health: {}}}\n")
        with Runtime(path, catalog=Catalog([Checked()]), eager=False, watch=False) as runtime:
            runtime.start()
            assert not [thread for thread in threading.enumerate() if thread.name == "shadowcat-health"]

    def test_shows_no_secret_that_a_check_has_told(self) -> None:
        def tell() -> None:
            raise StorageUnavailableError("cannot connect with Zq7canary")

        registry = StorageProviderRegistry()
        schema = {"type": "object", "properties": {"token": {"type": "string", "x-secret": True}}}
        factory = Checked(on_check=tell)
        factory.schema = schema
        spec = ProviderSpec("fake", "fake", {"token": "Zq7canary"}, None, frozenset({("token",)}))
        provider = registry.stage(spec, factory, origin="manifest")
        registry.retire(registry.commit([Change("fake", None, provider)]))
        assert registry.check("fake").error == "the storage failed: cannot connect with ***"
