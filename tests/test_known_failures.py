"""What goes wrong when others follow a file, each by its name: none of it may happen here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.errors import ProviderNotFoundError, ProviderRetiringError
from shadowcat_registry.storage import TapeStorage

from .fakes import PATIENCE_SECONDS, Gate, Running, until
from .worlds import World, refuse_connection


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.runtime.close()


class TestKnownFromOthers:
    def test_the_old_one_closed_before_the_new_one_was_accepted(self, world: World) -> None:
        runtime = world.start("a", a={})
        opened_at_close: list[int] = []
        world.fake.backends[0]._on_close = lambda: opened_at_close.append(world.fake.create_count)
        world.fake.on_create = refuse_connection
        world.write("a", a={"n": 1})
        assert runtime.reload().result == "rejected"
        assert opened_at_close == [], "a new one that fails costs the old one nothing"
        world.fake.on_create = None
        assert runtime.reload().result == "committed"
        assert opened_at_close == [3], "the one that serves, the one that failed, and its replacement"

    def test_a_rejected_update_leaves_a_part_behind(self, world: World) -> None:
        runtime = world.start("a", a={}, gone={})
        before = runtime.registry.snapshot()
        world.other.on_create = refuse_connection
        world.write("bad", a={"n": 1}, new={}, bad="other")
        assert runtime.reload().result == "rejected"
        assert runtime.registry.snapshot() is before
        assert world.fake.open_count == 1
        with runtime.registry.get_default_storage() as storage:
            assert (storage.provider, storage.revision, storage.superseded) == ("a", 1, False)

    def test_the_generation_advanced_though_the_state_did_not(self, world: World) -> None:
        runtime = world.start("a", a={})
        text = world.path.read_text()
        world.other.on_create = refuse_connection
        for attempt in (text, f"{text}\n# touched\n", "version: 2", "", text):
            world.put(attempt)
            runtime.reload()
            assert runtime.status().generation == 1
        world.write("b", b="other")
        runtime.reload()
        assert (runtime.status().generation, world.events[-1].generation) == (1, 1)

    @pytest.mark.parametrize("bad", ["version: 2", "providers: [", "", None])
    def test_a_revert_to_the_good_file_leaves_the_failure_standing(
        self, world: World, bad: str | None
    ) -> None:
        runtime = world.start("a", a={})
        good = world.path.read_text()
        world.put(bad) if bad is not None else world.path.unlink()
        runtime.reload()
        assert runtime.status().state != "ok"
        world.put(good)
        assert runtime.reload().result == "unchanged"
        status = runtime.status()
        assert (status.state, status.findings, status.conditions[0].is_true) == ("ok", (), True)
        assert world.said[-1] == "recovered"

    def test_a_revert_clears_a_failure_of_the_preparation_too(self, world: World) -> None:
        runtime = world.start("a", a={})
        good = world.path.read_text()
        world.other.on_create = refuse_connection
        world.write("b", b="other")
        runtime.reload()
        assert runtime.status().retry_in_seconds is not None
        world.put(good)
        runtime.reload()
        assert (runtime.status().state, runtime.status().retry_in_seconds) == ("ok", None)

    def test_deleting_the_last_entry_ignored_as_empty(self, world: World) -> None:
        runtime = world.start(a={}, b={})
        empty: dict[str, Any] = {"version": 1, "providers": {}}
        world.put(empty)
        outcome = runtime.reload()
        assert (outcome.result, outcome.findings[0].code) == ("rejected", "SC206"), "it is said, not ignored"
        world.put(empty | {"reload": {"allow_mass_removal": True}})
        assert runtime.reload().result == "committed"
        assert (world.serves(), world.fake.open_count) == ({}, 0)
        world.write(a={})
        assert runtime.reload().result == "committed"
        assert list(world.serves()) == ["a"]

    def test_a_parse_error_taken_for_deletion(self, world: World) -> None:
        runtime = world.start("a", a={}, b={}, c={})
        text = world.path.read_text()
        for end in range(0, len(text), 7):
            world.put(text[:end])
            runtime.reload()
            assert list(world.serves()) == ["a", "b", "c"], text[:end]
        world.put(text)
        assert runtime.reload().result == "unchanged"

    def test_a_cut_off_file_that_parses_taken_for_deletion(self, world: World) -> None:
        runtime = world.start(None, a={}, b={}, c={}, d={}, e={})
        head = "version: 1\nproviders:\n  a: {type: fake}\n  b: {type: fake}\n"
        world.put(head)
        outcome = runtime.reload()
        assert (outcome.result, outcome.findings[0].code) == ("rejected", "SC707")
        assert len(world.serves()) == 5
        world.put(f"{head}reload: {{allow_mass_removal: true}}\n")
        assert runtime.reload().result == "committed"
        assert list(world.serves()) == ["a", "b"]

    def test_a_second_reload_during_the_first_reported_as_done(self, world: World) -> None:
        gate = Gate()
        runtime = world.start("a", a={})
        world.fake.on_create = gate
        world.write("a", a={"n": 1})
        first = Running(runtime.reload)
        gate.reached()
        world.fake.on_create = None
        world.write("a", a={"n": 2})
        second = Running(runtime.reload)
        until(lambda: runtime._worker.asked == 2)
        assert second.is_running
        gate.open()
        assert (first.result().generation, second.result().generation) == (2, 3)
        assert world.serves() == {"a": {"n": 2}}

    @pytest.mark.filterwarnings("ignore:a storage of provider 'b' was dropped:ResourceWarning")
    def test_retirement_never_retried_after_a_missed_event(self, world: World) -> None:
        runtime = world.start("a", a={}, b={})
        kept: list[TapeStorage] = [runtime.registry.open_storage("b")]
        world.write("a", a={})
        runtime.reload()
        assert "b" in runtime.registry
        kept.clear()  # nobody closes it, so nobody is told: only the sweep can see it
        until(lambda: "b" not in runtime.registry)
        until(lambda: world.said[-1] == "retired")

    def test_a_check_then_release_race(self, world: World) -> None:
        """The lease ends, and another begins, between the look at the leases and the removal."""
        runtime = world.start("a", {"on_removal_in_use": "reject"}, a={}, b={})
        storages: list[TapeStorage] = []
        # The preparation runs between the two: by then, the look before it has found nobody.
        world.other.on_create = lambda *_: storages.append(runtime.registry.open_storage("b"))
        world.write("new", {"on_removal_in_use": "reject"}, a={}, new="other")
        outcome = runtime.reload()
        assert (outcome.result, [it.code for it in outcome.findings]) == ("rejected", ["SC708"])
        assert not storages[0].superseded
        storages[0].record("s-1").finalize()
        world.other.on_create = None
        storages[0].close()
        until(lambda: "b" not in runtime.registry)  # it is tried again by itself
        with pytest.raises(ProviderNotFoundError):
            runtime.registry.open_storage("b")

    def test_a_check_then_release_race_of_the_other_kind(self, world: World) -> None:
        """Whoever gets a lease while a provider is being removed has it, or is refused: none is closed."""
        runtime = world.start("a", a={}, b={})
        stop, wrong = threading.Event(), []

        def use() -> None:
            while not stop.is_set():
                try:
                    with runtime.registry.open_storage("b") as storage:
                        storage.record("s-1").finalize()
                except (ProviderRetiringError, ProviderNotFoundError):
                    continue
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is wrong
                    wrong.append(error)
                    return

        users = [Running(use) for _ in range(2)]
        for n in range(8):
            world.write("a", a={"n": n})
            runtime.reload(timeout_seconds=PATIENCE_SECONDS)
            world.write("a", a={"n": n}, b={})
            runtime.reload(timeout_seconds=PATIENCE_SECONDS)
        stop.set()
        for user in users:
            user.result()
        assert wrong == []

    def test_secrets_compared_unresolved_so_that_it_reloads_for_ever(
        self, world: World, tmp_path: Path
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_text("one", encoding="utf-8")
        world.environ["TOKEN"] = "one"
        entries = {
            "env": {"type": "vault", "config": {"token": "${env:TOKEN}"}},
            "file": {"type": "vault", "config": {"token": "${file:secret}"}},
        }
        world.put({"version": 1, "providers": entries})
        runtime = world.runtime
        runtime.start()
        for _ in range(3):
            assert runtime.reload().result == "unchanged"
        secret.write_text("two", encoding="utf-8")
        assert runtime.reload().result == "committed"
        assert runtime.reload().result == "unchanged"
        world.environ["TOKEN"] = "two"
        assert runtime.reload().result == "committed"
        assert runtime.reload().result == "unchanged"
        assert world.serves() == {"env": {"token": "two"}, "file": {"token": "two"}}
