"""What a manifest may say about reloads, and about the removal of its providers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry import backoff
from shadowcat_registry.errors import ProviderProtectedError

from .fakes import Gate, Running, give_up_at, until
from .worlds import World, refuse_connection


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.runtime.close()


def _codes(world: World) -> list[str]:
    return [finding.code for finding in world.runtime.reload().findings]


class TestProtect:
    def _put(self, world: World, **providers: Any) -> None:
        world.put({"version": 1, "providers": {n: {"type": "fake"} | e for n, e in providers.items()}})

    def test_keeps_a_provider_whose_declaration_is_deleted(self, world: World) -> None:
        self._put(world, a={}, b={"protect": True})
        world.runtime.start()
        self._put(world, a={})
        assert _codes(world) == ["SC706"]
        assert list(world.serves()) == ["a", "b"]

    def test_is_lifted_only_by_a_generation_of_its_own(self, world: World) -> None:
        self._put(world, a={}, b={"protect": True})
        world.runtime.start()
        self._put(world, a={}, b={"protect": False})
        assert world.runtime.reload().result == "committed"
        self._put(world, a={})
        assert world.runtime.reload().result == "committed"
        assert list(world.serves()) == ["a"]

    def test_lifting_it_and_changing_the_type_at_once_is_refused(self, world: World) -> None:
        self._put(world, a={}, b={"protect": True})
        world.runtime.start()
        self._put(world, a={}, b={"type": "other"})
        assert _codes(world) == ["SC706"]

    def test_allows_a_change_of_the_config(self, world: World) -> None:
        self._put(world, a={}, b={"protect": True})
        world.runtime.start()
        self._put(world, a={}, b={"protect": True, "config": {"n": 1}})
        assert world.runtime.reload().result == "committed"

    def test_holds_for_code_too(self, world: World) -> None:
        self._put(world, a={}, b={"protect": True})
        world.runtime.start()
        with pytest.raises(ProviderProtectedError, match="protect: false"):
            world.runtime.registry.unregister("b")
        assert "b" in world.runtime.registry

    def test_makes_no_new_revision(self, world: World) -> None:
        self._put(world, a={})
        world.runtime.start()
        with world.runtime.registry.open_storage("a") as storage:
            self._put(world, a={"protect": True, "version": ">=1", "requires": []})
            assert world.runtime.reload().result == "committed"
            assert not storage.superseded


class TestMassRemoval:
    @pytest.mark.parametrize(
        ("before", "after", "is_refused"),
        [(4, 2, False), (5, 2, True), (6, 3, False), (3, 1, False), (2, 1, False), (8, 3, True)],
    )
    def test_more_than_two_and_more_than_half_are_refused(
        self, world: World, before: int, after: int, is_refused: bool
    ) -> None:
        providers = {f"p{n}": {"type": "fake"} for n in range(before)}
        world.put({"version": 1, "providers": providers})
        world.runtime.start()
        world.put({"version": 1, "providers": {f"p{n}": providers[f"p{n}"] for n in range(after)}})
        assert (_codes(world) == ["SC707"]) == is_refused
        assert len(world.serves()) == (before if is_refused else after)

    def test_counts_what_goes_not_what_comes(self, world: World) -> None:
        world.start(a={}, b={}, c={})
        world.write(d={}, e={}, f={}, g={})
        assert _codes(world) == ["SC707"]

    def test_is_allowed_by_the_same_change_that_asks_for_it(self, world: World) -> None:
        world.start(a={}, b={}, c={})
        world.write(None, {"allow_mass_removal": True}, d={})
        assert world.runtime.reload().result == "committed"

    def test_a_permission_that_is_taken_away_holds_no_longer(self, world: World) -> None:
        world.start(None, {"allow_mass_removal": True}, a={}, b={}, c={})
        world.write(d={})
        assert _codes(world) == ["SC707"]


class TestRemovalInUse:
    @pytest.mark.parametrize(("running", "new"), [("reject", "retire"), ("retire", "reject")])
    def test_the_stricter_of_the_running_and_the_new_manifest_applies(
        self, world: World, running: str, new: str
    ) -> None:
        runtime = world.start("a", {"on_removal_in_use": running}, a={}, b={})
        with runtime.registry.open_storage("b") as storage:
            world.write("a", {"on_removal_in_use": new}, a={"n": 1})
            assert _codes(world) == ["SC708"]
            assert (world.serves()["a"], storage.superseded) == ({}, False)
            runtime.registry.open_storage("b").close()
        until(lambda: "b" not in runtime.registry)
        assert world.serves() == {"a": {"n": 1}}

    def test_what_is_refused_is_done_soon_after_the_last_lease(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backoff, "_FIRST_SECONDS", 60.0)
        runtime = world.start("a", {"on_removal_in_use": "reject"}, a={}, b={})
        with runtime.registry.open_storage("b"):
            world.write("a", a={"n": 1})
            assert runtime.reload().result == "rejected"
            assert (runtime.status().retry_in_seconds or 0) > 50
        until(lambda: world.said[-1] == "committed")

    def test_a_refusal_is_said_once_and_names_its_holders_in_the_status(self, world: World) -> None:
        runtime = world.start("a", {"on_removal_in_use": "reject"}, a={}, b={})
        with runtime.registry.open_storage("b"):
            world.write("a", a={})
            for _ in range(3):
                runtime.reload()
            assert world.said == ["started", "rejected"]
            assert runtime.status().holders["b"][0].acquired_at.startswith(__file__)


class TestTryingAgain:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backoff, "_FIRST_SECONDS", 0.01)

    def test_a_service_that_comes_back_needs_no_new_file(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.other.on_create = refuse_connection
        world.write("b", b="other")
        assert runtime.reload().result == "rejected"
        until(lambda: world.other.create_count > 3)
        assert world.said == ["started", "rejected"], "the same refusal is said once"
        world.other.on_create = None
        until(lambda: world.said[-1] == "committed")
        assert list(world.serves()) == ["b"]
        assert runtime.status().retry_in_seconds is None

    def test_what_is_wrong_for_good_is_not_tried_again(self, world: World) -> None:
        def refuse(*_: object) -> None:
            raise ValueError("never")

        runtime = world.start("a", a={})
        runtime.registry.add_init_hook(refuse)
        world.write("a", a={}, b={})
        assert runtime.reload().result == "rejected"
        assert runtime.status().retry_in_seconds is None
        world.put("version: 2")
        runtime.reload()
        assert runtime.status().retry_in_seconds is None

    def test_what_hangs_is_tried_when_it_comes_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate()
        give_up_at(monkeypatch, gate)
        runtime = world.start("a", a={})
        world.other.on_create = gate
        world.write("b", b="other")
        (finding,) = runtime.reload().findings
        assert finding.code == "SC705"
        assert (runtime.status().retry_in_seconds or 0) > 30, "it is in no hurry as long as it hangs"
        world.other.on_create = None
        gate.open()
        until(lambda: world.said[-1] == "committed")
        assert world.other.open_count == 1, "the one that came late is closed"

    def test_is_visible_with_its_phase_while_it_runs(self, world: World) -> None:
        gate = Gate()
        runtime = world.start("a", a={})
        runtime.registry.add_init_hook(gate)
        world.write("a", a={}, b={})
        reloading = Running(runtime.reload)
        gate.reached()
        phase = runtime.status().phase
        gate.open()
        reloading.result()
        assert phase is not None
        assert phase.step is not None
        assert "init hook" in phase.step.what
        assert phase.step.provider == "b"


class TestBackoff:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(backoff, "monotonic", lambda: now[0])
        return now

    def test_doubles_up_to_a_minute(self, now: list[float]) -> None:
        it, waits = backoff.Backoff(), []
        for _ in range(8):
            it.after_failure("the same")
            waits.append(it.remaining_seconds())
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]

    def test_begins_anew_for_something_else_and_after_a_success(self, now: list[float]) -> None:
        it = backoff.Backoff()
        for _ in range(3):
            it.after_failure("one")
        it.after_failure("other")
        assert it.remaining_seconds() == 1
        it.after_failure("other")
        it.stop()
        assert it.remaining_seconds() is None
        it.after_failure("other")
        assert it.remaining_seconds() == 1

    def test_hurries_only_what_is_due(self, now: list[float]) -> None:
        it = backoff.Backoff()
        it.hurry()
        assert it.remaining_seconds() is None
        it.after_failure("one", patiently=True)
        assert it.remaining_seconds() == 60
        it.hurry()
        assert it.remaining_seconds() == 0
