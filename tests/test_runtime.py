"""A registry that follows its manifest. Reloads are asked for; a few tests at the end let the watch do it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry import second_look
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import (
    DefaultNotSetError,
    Finding,
    ManifestError,
    ManifestNotFoundError,
    RuntimeClosedError,
)
from shadowcat_registry.events import Event
from shadowcat_registry.load import ManifestLoader
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.marks import Mark
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.reload import Refused
from shadowcat_registry.runtime import Runtime
from shadowcat_registry.settled import Settled

from .fakes import PATIENCE_SECONDS, Factory, Gate, Running, give_up_at, until


class World:
    """A manifest in a directory of its own, a runtime on it, and what that has said."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "registry.yaml"
        self.fake, self.other = Factory("fake"), Factory("other")
        self.runtime = self.make()
        self.events: list[Event] = []
        self.runtime.subscribe(self.events.append)

    def make(self, **options: Any) -> Runtime:
        options = {"catalog": Catalog([self.fake, self.other]), "watch": False, **options}
        return Runtime(self.path, **options)

    def use(self, runtime: Runtime) -> Runtime:
        """Let this one be the runtime of the world, which ends with it."""
        self.runtime = runtime
        runtime.subscribe(self.events.append)
        return runtime

    def write(self, default: str | None = None, **providers: Any) -> None:
        """A provider is its config, or, as a text, its type."""
        defaults = {} if default is None else {"provider": default}
        entries = {
            name: {"type": given} if isinstance(given, str) else {"type": "fake", "config": given}
            for name, given in providers.items()
        }
        self.put(json.dumps({"version": 1, "defaults": defaults, "providers": entries}, indent=1))

    def put(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self.path)

    def start(self, default: str | None = None, **providers: Any) -> Runtime:
        self.write(default, **providers)
        self.runtime.start()
        return self.runtime

    @property
    def said(self) -> list[str]:
        return [event.event for event in self.events]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.runtime.close()


def _fail(*_: object) -> None:
    raise PermissionError(13, "Permission denied", "/tapes")


class TestStart:
    def test_applies_the_manifest_and_says_so(self, world: World) -> None:
        runtime = world.start("a", a={}, b={})
        (event,) = world.events
        status = runtime.status()
        assert (event.event, event.generation, event.added, event.default) == ("started", 1, ("a", "b"), "a")
        assert event.digest == status.digest == (runtime.manifest and runtime.manifest.digest)
        assert (status.state, status.generation, status.default, status.findings) == ("ok", 1, "a", ())
        assert status.last_reload is not None
        assert status.last_reload.result == "started"
        assert [provider.name for provider in status.providers] == ["a", "b"]

    def test_a_manifest_that_is_missing_is_an_error(self, world: World) -> None:
        with pytest.raises(ManifestNotFoundError):
            world.runtime.start()
        assert world.runtime.status().state == "stopped"

    def test_an_invalid_manifest_is_an_error_with_all_findings(self, world: World) -> None:
        world.write("missing", a={}, b="nosuch")
        with pytest.raises(ManifestError) as caught:
            world.runtime.start()
        assert {finding.code for finding in caught.value.findings} == {"SC301", "SC302"}
        assert (list(world.runtime.registry), world.events) == ([], [])

    def test_a_default_that_cannot_be_opened_is_an_error_with_its_place(self, world: World) -> None:
        world.fake.on_create = _fail
        with pytest.raises(ManifestError, match="Permission denied: /tapes") as caught:
            world.start("a", a={})
        (finding,) = caught.value.findings
        assert (finding.code, finding.pointer, finding.mark.line) == ("SC701", ("providers", "a"), 7)
        assert list(world.runtime.registry) == []

    def test_after_an_error_it_can_be_tried_again(self, world: World) -> None:
        with pytest.raises(ManifestNotFoundError):
            world.runtime.start()
        world.start("a", a={})
        assert world.said == ["started"]

    def test_twice_is_an_error(self, world: World) -> None:
        runtime = world.start("a", a={})
        with pytest.raises(RuntimeError, match="started already"):
            runtime.start()
        assert runtime.status().state == "ok"

    def test_after_the_end_is_an_error(self, world: World) -> None:
        world.write("a", a={})
        runtime = world.use(world.make(watch=True))
        runtime.close()
        with pytest.raises(RuntimeClosedError):
            runtime.start()
        assert list(runtime.registry) == []

    def test_paths_are_relative_to_the_manifest(self, world: World, tmp_path: Path) -> None:
        runtime = world.start("files", files="filesystem")
        with runtime.registry.get_default_storage():
            assert (tmp_path / "tapes").is_dir()

    def test_without_a_manifest_it_gives_a_registry_an_owner(self) -> None:
        registry = StorageProviderRegistry()
        factory = Factory("filesystem")
        registry.register(factory)
        runtime = Runtime(None, registry=registry)
        runtime.start()
        with runtime:
            registry.get_default_storage().close()
            assert (runtime.status().state, runtime.status().manifest) == ("ok", None)
            with pytest.raises(RuntimeClosedError):
                runtime.reload()
        assert (list(registry), factory.open_count) == ([], 0)

    def test_opens_nothing_unless_eager(self, world: World) -> None:
        world.use(world.make(eager=False))
        world.start("a", a={})
        assert world.fake.create_count == 0


class TestReload:
    def test_follows_the_file(self, world: World) -> None:
        runtime = world.start("a", a={}, b={}, c={})
        with runtime.registry.open_storage("c"):
            world.write("d", a={"n": 1}, d={})
            outcome = runtime.reload()
            assert (outcome.result, outcome.generation, outcome.findings) == ("committed", 2, ())
            event = world.events[-1]
            assert (event.event, event.generation, event.digest) == ("committed", 2, outcome.digest)
            assert (event.added, event.updated, event.removed) == (("d",), ("a",), ("b",))
            assert (event.retiring, event.default) == (("c",), "d")

    def test_the_same_content_is_neither_a_generation_nor_an_event(self, world: World) -> None:
        asked: list[str] = []
        runtime = world.start("a", a={})
        runtime.registry.add_init_hook(asked.append)
        before = runtime.registry.snapshot()
        world.write("a", a={})
        outcome = runtime.reload()
        assert (outcome.result, outcome.generation) == ("unchanged", 1)
        assert runtime.registry.snapshot() is before
        assert (world.said, asked) == (["started"], [])

    def test_another_text_that_says_the_same_changes_the_digest_only(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.put("# commented\n" + world.path.read_text(encoding="utf-8"))
        outcome = runtime.reload()
        assert (outcome.result, outcome.generation, world.said) == ("unchanged", 1, ["started"])
        assert runtime.status().digest == outcome.digest != world.events[0].digest

    def test_an_invalid_file_is_rejected_and_what_runs_is_kept(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.put("version: 1\nproviders: {a: {type: nosuch}}\n")
        outcome = runtime.reload()
        assert (outcome.result, outcome.generation, outcome.digest) == ("rejected", 1, None)
        status = runtime.status()
        assert (status.state, status.findings, status.last_reload) == (
            "rejected",
            outcome.findings,
            outcome,
        )
        assert status.digest == world.events[0].digest, "that of what runs"
        assert (world.events[-1].event, world.events[-1].findings) == ("rejected", outcome.findings)
        with runtime.registry.get_default_storage() as storage:
            storage.record("s-1").finalize()

    def test_a_failure_in_the_preparation_is_a_rejection_too(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.other.on_create = _fail
        world.write("b", b="other")
        outcome = runtime.reload()
        assert (outcome.result, [f.code for f in outcome.findings]) == ("rejected", ["SC701"])
        assert list(runtime.registry) == ["a"]

    def test_a_rejection_is_said_once(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.put("version: 2")
        for _ in range(3):
            assert runtime.reload().result == "rejected"
        assert world.said == ["started", "rejected"]

    def test_the_next_good_file_clears_it_also_when_it_equals_what_runs(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.put("version: 2")
        runtime.reload()
        world.write("a", a={})
        assert runtime.reload().result == "unchanged"
        assert (world.said, runtime.status().state) == (["started", "rejected", "recovered"], "ok")
        assert runtime.status().findings == ()

    @pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
    def test_an_empty_file_is_no_change(self, world: World, text: str) -> None:
        runtime = world.start("a", a={})
        world.put(text)
        assert runtime.reload().result == "degraded"
        assert (runtime.status().state, list(runtime.registry)) == ("degraded", ["a"])
        world.write("a", a={})
        runtime.reload()
        assert world.said == ["started", "degraded", "recovered"]

    def test_a_missing_file_is_no_change(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.path.unlink()
        outcome = runtime.reload()
        assert (outcome.result, list(runtime.registry)) == ("degraded", ["a"])
        assert "there is no such file; what runs is kept" in str(outcome.findings[0])
        world.path.mkdir()
        assert runtime.reload().result == "degraded"

    def test_no_providers_at_all_is_a_mistake(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.put("version: 1\nproviders: {}\n")
        assert runtime.reload().result == "rejected"
        assert list(runtime.registry) == ["a"]

    def test_a_fault_of_foreign_code_is_a_finding_and_not_the_end(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        def leave(*_: object) -> None:
            raise SystemExit(1)

        runtime = world.start("a", a={})
        world.fake.on_create = leave
        world.write("a", a={"n": 1})
        outcome = runtime.reload()
        assert (outcome.result, [f.code for f in outcome.findings]) == ("rejected", ["SC701"])
        assert "it raised SystemExit" in caplog.text
        world.fake.on_create = None
        assert runtime.reload().result == "committed"

    def test_the_outcome_is_that_of_a_run_that_began_after_the_question(self, world: World) -> None:
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
        assert runtime.registry.snapshot().generation == 1
        gate.open()
        assert second.result().generation == 3
        assert first.result().result == "committed"
        assert runtime.registry.get_default_config("a") == {"n": 2}

    def test_many_questions_during_a_run_are_one_run(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate()
        reads: list[object] = []
        runtime = world.start("a", a={})
        world.fake.on_create = gate
        assert runtime._loader is not None
        load = runtime._loader.load

        def counted(**options: Any) -> Manifest:
            reads.append(None)
            return load(**options)

        monkeypatch.setattr(runtime._loader, "load", counted)
        world.write("a", a={"n": 1})
        first = Running(runtime.reload)
        gate.reached()
        others = [Running(runtime.reload) for _ in range(10)]
        until(lambda: runtime._worker.asked == 11)
        gate.open()
        first.result()
        assert {other.result().result for other in others} == {"unchanged"}
        assert len(reads) == 2

    def test_takes_no_longer_than_it_may_and_goes_on(self, world: World) -> None:
        gate = Gate()
        runtime = world.start("a", a={})
        world.fake.on_create = gate
        world.write("a", a={"n": 1})
        with pytest.raises(TimeoutError):
            runtime.reload(timeout_seconds=0.01)
        gate.open()
        assert runtime.wait_for(2, PATIENCE_SECONDS)

    def test_where_it_would_wait_for_itself_it_is_refused(self, world: World) -> None:
        errors: list[str] = []

        def reload(*_: object) -> None:
            try:
                world.runtime.reload(timeout_seconds=5)
            except (RuntimeError, TimeoutError) as error:
                errors.append(type(error).__name__)

        world.runtime.subscribe(reload)
        runtime = world.start("a", a={})
        assert errors == ["RuntimeError"], "in the subscriber to `started`, before there is a worker"
        world.fake.on_create = reload
        world.write("a", a={"n": 1})
        runtime.reload()
        assert errors == ["RuntimeError"] * 3

    def test_can_be_asked_for_from_a_subscriber_without_waiting(self, world: World) -> None:
        again = threading.Event()

        def subscriber(event: Event) -> None:
            if event.event == "committed" and event.generation == 2:
                world.write("a", a={"n": 2})
                world.runtime.reload(wait=False)
            again.set()

        runtime = world.start("a", a={})
        runtime.subscribe(subscriber)
        world.write("a", a={"n": 1})
        runtime.reload()
        assert runtime.wait_for(3, PATIENCE_SECONDS)

    def test_one_that_is_not_running_says_so(self, world: World) -> None:
        for call in (world.runtime.reload, partial(world.runtime.reload, wait=False)):
            with pytest.raises(RuntimeClosedError):
                call()
        world.start("a", a={}).close()
        for call in (world.runtime.reload, partial(world.runtime.reload, wait=False)):
            with pytest.raises(RuntimeClosedError):
                call()

    def test_a_default_that_code_has_set_holds(self, world: World) -> None:
        runtime = world.start("a", a={}, b={})
        runtime.registry.set_default("b")
        world.write("a", a={}, b={"n": 1})
        runtime.reload()
        assert runtime.status().default == "b"


class TestAFileThatMovesWhileItIsRead:
    """A writer begins between the look that found the file settled and the reading of it."""

    WHOLE, HALF = (
        "version: 1\nproviders:\n" + "".join(f"  {name}: {{type: fake}}\n" for name in names)
        for names in ("abcde", "abcd")
    )

    @pytest.mark.parametrize("is_settled_again", [False, True])
    def test_is_not_taken(
        self, world: World, monkeypatch: pytest.MonkeyPatch, is_settled_again: bool
    ) -> None:
        runtime = world.use(world.make(watch=True, poll_interval_seconds=0.05))
        world.start("a", a={}, b={}, c={})
        until(lambda: (watch := runtime.status().watch) is not None and watch.ticks)
        real, read = ManifestLoader.load, list[str]()

        def load(loader: ManifestLoader, **options: Any) -> Manifest:
            """As it is, with the writer busy around the first reading."""
            if read:
                return real(loader, **options)
            with world.path.open("w", encoding="utf-8") as file:
                file.write(self.HALF)
                file.flush()
                manifest = real(loader, **options)
                read.append(manifest.digest)
                watch = runtime.status().watch
                assert watch is not None
                file.write(self.WHOLE.removeprefix(self.HALF))
            if is_settled_again:
                until(lambda: (now := runtime.status().watch) is not None and now.ticks > watch.ticks)
            return manifest

        monkeypatch.setattr(ManifestLoader, "load", load)
        world.write("a", a={}, b={}, c={}, x={})
        assert runtime.wait_for(2, PATIENCE_SECONDS)
        runtime.close()
        (committed,) = [event for event in world.events if event.event == "committed"]
        assert committed.digest not in read
        assert committed.added == ("d", "e")

    def test_is_taken_when_it_never_stands_still(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(second_look, "LONGEST_DOUBT_SECONDS", 0.0)
        runtime = world.use(world.make(watch=True, poll_interval_seconds=0.05))
        world.start("a", a={}, b={}, c={})
        monkeypatch.setattr(Settled, "has_moved", lambda *_: True)
        world.write("a", a={}, b={}, c={}, x={})
        assert runtime.wait_for(2, PATIENCE_SECONDS)

    def test_is_taken_when_somebody_asks_for_it(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        runtime = world.use(world.make(watch=True))
        world.start("a", a={})
        monkeypatch.setattr(Settled, "has_moved", lambda *_: True)
        world.write("a", a={}, b={})
        assert runtime.reload().result == "committed"


class TestSubscribers:
    @pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(1), KeyboardInterrupt()], ids=repr)
    def test_whatever_one_raises_does_not_end_the_following(
        self, world: World, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(event: Event) -> None:
            if event.event == "committed":
                raise error

        world.runtime.subscribe(fail)
        runtime = world.start("a", a={})
        for n in (1, 2):
            world.write("a", a={"n": n})
            assert runtime.reload(timeout_seconds=PATIENCE_SECONDS).result == "committed"
        assert "failed" in caplog.text

    def test_are_called_without_a_lock(self, world: World) -> None:
        statuses: list[str] = []

        def ask(event: Event) -> None:
            asking = Running(lambda: world.runtime.status().state)
            statuses.append(asking.result())
            world.runtime.registry.register(Factory(f"by-{event.event}"))

        world.runtime.subscribe(ask)
        world.start("a", a={})
        world.runtime.close()
        assert statuses == ["ok", "stopped"]

    def test_one_that_has_ended_hears_no_more(self, world: World) -> None:
        told: list[Event] = []
        cancel = world.runtime.subscribe(told.append)
        cancel()
        world.start("a", a={})
        assert told == []


class TestRetired:
    def test_is_said_when_the_last_lease_has_gone(self, world: World) -> None:
        runtime = world.start("a", a={}, b={})
        storage = runtime.registry.open_storage("b")
        world.write("a", a={})
        runtime.reload()
        assert runtime.status().holders["b"][0].acquired_at.startswith(__file__)
        storage.close()
        until(lambda: world.said[-1] == "retired")
        event = world.events[-1]
        assert (event.removed, event.generation) == (("b",), 3)
        assert runtime.wait_for(3, 0)

    def test_comes_after_the_commit_that_began_it(self, world: World) -> None:
        runtime = world.start("a", a={}, b={})
        storage = runtime.registry.open_storage("b")
        # The lease ends in the middle of the retirement, before anything was said of the commit.
        world.fake.on_close = None
        runtime.registry.on_retired(lambda _: None)
        world.runtime.subscribe(lambda event: storage.close() if event.event == "committed" else None)
        world.write("a", a={})
        runtime.reload()
        until(lambda: world.said[-1] == "retired")
        assert world.said == ["started", "committed", "retired"]

    def test_several_are_said_in_one_event_while_the_worker_is_busy(self, world: World) -> None:
        gate = Gate()
        runtime = world.start("a", a={}, b={}, c={})
        storages = [runtime.registry.open_storage(name) for name in ("b", "c")]
        world.write("a", a={})
        runtime.reload()
        world.fake.on_create = gate
        world.write("a", a={"n": 1})
        reloading = Running(runtime.reload)
        gate.reached()
        for storage in storages:
            storage.close()
        gate.open()
        reloading.result()
        until(lambda: world.said[-1] == "retired")
        assert world.events[-1].removed == ("b", "c")


class TestWaitFor:
    def test_a_generation_that_is_there(self, world: World) -> None:
        runtime = world.start("a", a={})
        assert runtime.wait_for(1, 0)
        assert not runtime.wait_for(2, 0)

    def test_one_that_a_reload_makes(self, world: World) -> None:
        runtime = world.start("a", a={})
        waiting = Running(lambda: runtime.wait_for(2))
        world.write("a", a={"n": 1})
        runtime.reload()
        assert waiting.result()

    def test_one_that_code_makes(self, world: World) -> None:
        runtime = world.start("a", a={})
        waiting = Running(lambda: runtime.wait_for(2))
        runtime.registry.register(Factory("mine"))
        assert waiting.result()

    def test_ends_with_the_runtime(self, world: World) -> None:
        runtime = world.start("a", a={})
        waiting = Running(lambda: runtime.wait_for(99))
        runtime.close()
        assert not waiting.result()


class TestClose:
    def test_closes_everything_and_says_so_last(self, world: World) -> None:
        runtime = world.start("a", a={})
        runtime.registry.get_default_storage().close()
        runtime.close()
        runtime.close()
        assert world.said == ["started", "stopped"]
        assert (world.fake.open_count, list(runtime.registry)) == (0, [])
        assert runtime.status().state == "stopped"
        assert runtime.registry._generations._retired_listeners == (), (
            "a registry that lives on does not keep it alive"
        )
        with pytest.raises(DefaultNotSetError):
            runtime.registry.get_default_storage()

    def test_who_waits_for_a_reload_is_told(self, world: World) -> None:
        gate = Gate()
        runtime = world.start("a", a={})
        world.fake.on_create = gate
        world.write("a", a={"n": 1})
        first = Running(runtime.reload)
        gate.reached()
        second = Running(runtime.reload)
        until(lambda: runtime._worker.asked == 2)
        closing = Running(runtime.close)
        until(runtime._stopping.is_set)
        gate.open()
        closing.result()
        assert isinstance(second.error(), RuntimeClosedError)
        first.error()
        assert (world.fake.open_count, list(runtime.registry)) == (0, [])

    def test_a_reload_that_does_not_end_is_left_and_commits_nothing(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = Gate()
        runtime = world.start("a", a={})
        world.fake.on_create = gate
        world.write("b", b={}, c={})
        reloading = Running(runtime.reload)
        gate.reached()
        runtime.close(timeout_seconds=0.01)
        assert "still runs and is left: prepare for " in caplog.text
        assert "opening the storage of provider" in caplog.text
        assert isinstance(reloading.error(), RuntimeClosedError)
        gate.open()
        assert runtime._worker.thread is not None
        runtime._worker.thread.join(PATIENCE_SECONDS)
        assert (list(runtime.registry), world.fake.open_count) == ([], 0)
        assert world.said == ["started", "stopped"], "`stopped` is the last event"

    def test_a_reload_that_is_left_can_fail_and_says_nothing(self, world: World) -> None:
        gate = Gate()

        def create(*_: object) -> None:
            gate()
            raise OSError("no")

        runtime = world.start("a", a={})
        world.fake.on_create = create
        world.write("a", a={"n": 1})
        reloading = Running(runtime.reload)
        gate.reached()
        runtime.close(timeout_seconds=0.01)
        gate.open()
        reloading.error()
        assert runtime._worker.thread is not None
        runtime._worker.thread.join(PATIENCE_SECONDS)
        assert (world.said, runtime.status().state) == (["started", "stopped"], "stopped")

    @pytest.mark.parametrize("when", ["started", "committed", "rejected", "stopped"])
    def test_may_be_called_from_a_subscriber(self, world: World, when: str) -> None:
        runtime = world.use(world.make(watch=True, watch_mode="poll"))
        runtime.subscribe(lambda event: runtime.close() if event.event == when else None)
        world.start("a", a={})
        if when in ("committed", "rejected"):
            if when == "committed":
                world.write("a", a={"n": 1})
            else:
                world.put("version: 2")
            assert runtime.reload().result == when
        runtime.close()
        assert world.said[-1] == "stopped"
        assert world.said.count("stopped") == 1
        assert (runtime.status().state, list(runtime.registry), world.fake.open_count) == ("stopped", [], 0)

    def test_may_be_called_from_a_factory_of_a_reload(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.fake.on_create = lambda *_: runtime.close()
        world.write("b", b={}, c={})
        with pytest.raises(RuntimeClosedError):
            runtime.reload()
        assert runtime._worker.thread is not None
        runtime._worker.thread.join(PATIENCE_SECONDS)
        assert (list(runtime.registry), world.fake.open_count) == ([], 0)
        assert world.said == ["started", "stopped"]

    def test_may_be_called_from_a_factory_of_the_start(self, world: World) -> None:
        runtime = world.use(world.make(watch=True))
        world.fake.on_create = lambda *_: runtime.close()
        with pytest.raises(RuntimeClosedError):
            world.start("a", a={})
        assert (list(runtime.registry), world.fake.open_count, world.said) == ([], 0, [])

    def test_a_second_call_waits_for_the_first(self, world: World) -> None:
        gate = Gate()
        world.fake.on_close = gate
        runtime = world.start("a", a={})
        first = Running(runtime.close)
        gate.reached()

        def close() -> str:
            runtime.close()
            return runtime.status().state

        second = Running(close)
        second.thread.join(0.05)  # a call that does not wait gets the time to show it
        gate.open()
        first.result()
        assert second.result() == "stopped"

    def test_where_no_thread_is_to_be_had_nothing_is_left_open(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            world.start("a", a={})
        monkeypatch.undo()
        assert (world.fake.open_count, list(world.runtime.registry)) == (0, [])
        assert world.runtime.status().state == "stopped"


class TestStatus:
    def test_as_json_is_json(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.put("version: 2")
        runtime.reload()
        with runtime.registry.open_storage("a"):
            status = json.loads(json.dumps(runtime.status().as_json()))
        assert (status["version"], status["state"], status["manifest"]) == (1, "rejected", str(world.path))
        assert status["last_reload"]["result"] == "rejected"
        assert status["findings"][0]["code"] == "SC202"
        assert status["providers"][0]["instance_count"] == 1
        assert status["holders"]["a"][0]["acquired_at"].startswith(__file__)

    def test_says_how_long_each_phase_of_the_last_reload_took(self, world: World) -> None:
        runtime = world.start("a", a={})
        first = runtime.status().last_reload
        assert first is not None
        assert {"prepare", "commit"} <= first.phase_seconds.keys()
        world.write("a", a={"n": 1})
        outcome = runtime.reload()
        assert outcome.phase_seconds.keys() == {"load", "plan", "prepare", "commit", "retire"}
        assert sum(outcome.phase_seconds.values()) <= outcome.duration_seconds
        assert outcome.as_json()["phase_seconds"].keys() == outcome.phase_seconds.keys()
        assert runtime.reload().phase_seconds.keys() <= {"load", "plan"}, "nothing was prepared"

    def test_counts_reloads_by_what_came_of_them(self, world: World) -> None:
        runtime = world.start("a", a={})
        runtime.reload()
        world.put("version: 2")
        runtime.reload()
        runtime.reload()
        world.write("a", a={"n": 1})
        runtime.reload()
        assert runtime.status().reloads == {"started": 1, "unchanged": 1, "rejected": 2, "committed": 1}
        assert runtime.status().as_json()["reloads"]["rejected"] == 2

    def test_says_whether_it_follows(self, world: World) -> None:
        runtime = world.use(world.make(watch=True))
        said = [runtime.is_following]
        world.start("a", a={})
        said.append(runtime.is_following)
        runtime.close()
        said.append(runtime.is_following)
        assert said == [False, True, False]

    def test_does_not_wait_for_a_reload_and_says_where_that_is(self, world: World) -> None:
        gate = Gate()
        runtime = world.start("a", a={})
        assert runtime.status().phase is None
        world.fake.on_create = gate
        world.write("a", a={"n": 1})
        reloading = Running(runtime.reload)
        gate.reached()
        status = runtime.status()
        gate.open()
        reloading.result()
        assert (status.generation, status.phase and status.phase.name) == (1, "prepare")
        assert status.phase is not None
        assert status.phase.step is not None
        assert status.phase.step.what == "opening the storage of provider 'a'"
        assert str(status.phase.step.at).startswith(str(Path(__file__).parent))
        assert runtime.status().phase is None

    def test_conditions_say_what_is_so_why_and_since_when(self, world: World) -> None:
        runtime = world.start("a", a={}, b={})
        with runtime.registry.open_storage("b"):
            world.write("a", a={})
            runtime.reload()
            world.put("version: 2")
            runtime.reload()
            applied, retiring, hanging, healthy = runtime.status().conditions
        assert (applied.name, applied.is_true, applied.reason) == ("applied", False, "rejected")
        assert "SC202" in applied.message
        assert (retiring.name, retiring.is_true, retiring.message.split()[-1]) == ("retiring", True, "b")
        assert (hanging.name, hanging.is_true) == ("hanging", False)
        assert (healthy.name, healthy.is_true) == ("healthy", True)
        assert applied.since is not None
        assert retiring.since is not None
        assert world.events[1].at >= retiring.since <= applied.since
        until(lambda: not runtime.status().conditions[1].is_true)

    def test_names_a_replaced_storage_that_does_not_close(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.reconcile.CLOSE_PATIENCE_SECONDS", 0.01)
        gate = Gate()
        world.fake.on_close = gate
        runtime = world.start("a", a={})
        world.fake.on_close = None
        world.write("a", a={"n": 1})
        assert runtime.reload().result == "committed"
        status = runtime.status()
        (step,) = status.hanging
        assert (step.what, step.provider) == ("closing the storage of provider 'a', revision 1,", "a")
        assert "fakes.py:" in str(step.at)
        hanging = status.conditions[2]
        assert (hanging.name, hanging.is_true, hanging.reason) == ("hanging", True, "overdue")
        assert hanging.message.startswith("closing the storage of provider 'a', revision 1, for 0.")
        assert hanging.since == runtime.status().conditions[2].since is not None
        gate.open()
        until(lambda: not runtime.status().hanging)
        assert not runtime.status().conditions[2].is_true

    def test_names_a_storage_that_does_not_close_in_the_thread_of_its_last_holder(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.openings.CLOSE_PATIENCE_SECONDS", 0.0)
        gate = Gate()
        world.other.on_close = gate
        runtime = world.start("a", a={}, b="other")
        storage = runtime.registry.open_storage("b")
        world.write("a", a={})
        runtime.reload()
        closing = Running(storage.close)
        gate.reached()
        runtime.registry.sweep()
        (step,) = runtime.status().hanging
        assert (step.provider, "fakes.py:" in str(step.at)) == ("b", True)
        gate.open()
        closing.result()
        assert not runtime.status().hanging

    def test_has_every_revision_with_its_leases(self, world: World) -> None:
        runtime = world.start("a", a={})
        with runtime.registry.open_storage("a"):
            world.write("a", a={"n": 1})
            runtime.reload()
            revisions = (runtime.status().revisions or {})["a"]
            found = [(it.number, it.lease_count, it.is_open, it.superseded) for it in revisions]
            assert found == [(1, 1, True, True), (2, 0, True, False)]

    def test_a_refused_manifest_is_named_by_its_digest(self, world: World) -> None:
        runtime = world.start("a", a={})
        world.write("b", a={})
        refused = runtime.reload()
        world.write("b", a={}, b={})
        assert refused.digest not in (None, runtime.status().digest)
        world.put("version: 1\nproviders: {a: {type: nosuch}}\n")
        assert runtime.reload().digest is None, "where its secrets are is not known"


class TestHistory:
    def test_has_commits_refusals_and_retirements(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "shadowcat_registry.audit")
        runtime = world.start("a", a={}, b={})
        with runtime.registry.open_storage("b"):
            world.write("a", a={})
            runtime.reload()
        until(lambda: world.said[-1] == "retired")
        world.write("b", a={})
        runtime.reload()
        runtime.reload()
        found = [(entry.outcome, entry.generation, entry.summary) for entry in runtime.history()]
        assert found == [
            ("started", 1, "added a, b; default a"),
            ("committed", 2, "retiring b; default a"),
            ("retired", 3, "removed b"),
            ("rejected", 3, "SC301 the default provider `b` is not declared"),
        ]
        audit = [vars(record)["audit"] for record in caplog.records if "audit" in vars(record)]
        assert [(it["outcome"], it["cause"]) for it in audit] == [
            ("started", "start"),
            ("committed", "request"),
            ("retired", "release"),
            ("rejected", "request"),
        ]
        json.dumps(audit)

    def test_keeps_the_last_fifty(self, world: World) -> None:
        runtime = world.start("a", a={})
        for n in range(60):
            world.write("a", a={"n": n})
            runtime.reload()
        assert [entry.generation for entry in runtime.history()] == list(range(12, 62))


class TestDoubt:
    """When a wrong file that nobody asked about is reported, on a clock of the test."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(second_look, "monotonic", lambda: now[0])
        return now

    @pytest.fixture
    def is_in_doubt(self, world: World, clock: list[float]) -> Callable[[str], bool]:
        runtime = world.use(world.make(watch=True))

        def ask(message: str) -> bool:
            finding = Finding("SC110", message, Mark.at_start("registry.yaml"))
            return runtime._outcomes._is_in_the_making(Refused("rejected", (finding,)))

        return ask

    def test_the_same_is_reported_at_the_second_look(
        self, is_in_doubt: Callable[[str], bool], clock: list[float]
    ) -> None:
        assert is_in_doubt("half")
        clock[0] += second_look.SECOND_LOOK_SECONDS
        assert not is_in_doubt("half")

    def test_a_look_that_comes_early_is_not_the_second_one(
        self, is_in_doubt: Callable[[str], bool], clock: list[float]
    ) -> None:
        assert is_in_doubt("a quarter")
        clock[0] += second_look.SECOND_LOOK_SECONDS - 0.01
        assert is_in_doubt("half")
        clock[0] += 0.01
        assert is_in_doubt("half"), "that look was for the quarter"
        clock[0] += second_look.SECOND_LOOK_SECONDS
        assert not is_in_doubt("half")

    def test_ever_new_mistakes_are_reported_in_the_end(
        self, is_in_doubt: Callable[[str], bool], clock: list[float]
    ) -> None:
        began, looks = clock[0], 0
        while is_in_doubt(f"at {clock[0]}"):
            clock[0] += second_look.SECOND_LOOK_SECONDS
            looks += 1
            assert looks < 20
        assert clock[0] == began + second_look.LONGEST_DOUBT_SECONDS

    def test_what_has_been_reported_is_not_doubted_again(
        self, world: World, is_in_doubt: Callable[[str], bool]
    ) -> None:
        world.runtime._standing.findings = (Finding("SC110", "half", Mark.at_start("registry.yaml")),)
        assert not is_in_doubt("half")

    def test_who_has_asked_before_does_not_count_for_what_the_watch_finds(
        self, world: World, clock: list[float]
    ) -> None:
        runtime = world.use(world.make(watch=True, watch_mode="poll", poll_interval_seconds=60))
        world.start("a", a={})
        runtime.reload()
        world.put("version: 2")
        runtime._tick()
        until(lambda: runtime._worker.done == runtime._worker.asked)
        assert (world.said, runtime.status().state) == (["started"], "ok")

    def test_what_hangs_is_not_called_twice_to_make_sure(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate()
        give_up_at(monkeypatch, gate)
        world.fake.on_create = None
        runtime = world.use(world.make(watch=True, watch_mode="poll", poll_interval_seconds=60))
        world.start("a", a={})
        calls: list[str] = []

        def hook(name: str) -> None:
            calls.append(name)
            gate()

        runtime.registry.add_init_hook(hook)
        world.write("a", a={}, b={})
        runtime._tick()
        until(lambda: world.said[-1] == "rejected")
        assert calls == ["b"]
        world.write("a", a={})
        runtime.reload()
        gate.open()
        until(lambda: not runtime.status().hanging)

    def test_who_asks_gets_a_verdict_at_once(self, world: World) -> None:
        world.use(world.make(watch=True, watch_mode="poll", poll_interval_seconds=60))
        runtime = world.start("a", a={})
        world.put("version: 2")
        assert runtime.reload().result == "rejected"
        assert world.said[-1] == "rejected"


class TestTheWayItFollows:
    """What the manifest says under `reload`, and what code says."""

    def put(self, world: World, **reload: Any) -> None:
        providers = {"a": {"type": "fake"}}
        world.put(json.dumps({"version": 1, "reload": reload, "providers": providers}))

    def watched(self, world: World, **options: Any) -> Any:
        runtime = world.use(world.make(watch=True, **options))
        runtime.start()
        return lambda: (runtime._watch and runtime._watch._settings.mode, runtime.status().watch)

    def test_is_what_the_manifest_says_and_changes_with_it(self, world: World) -> None:
        self.put(world, mode="poll", poll_interval_seconds=0.05)
        ask = self.watched(world)
        until(lambda: ask()[1].poll_interval_seconds == 0.05 and ask()[1].mode == "poll")
        self.put(world, mode="events", poll_interval_seconds=0.5)
        until(lambda: ask()[0] == "events" and ask()[1].poll_interval_seconds == 0.5)
        self.put(world)
        until(lambda: ask()[0] == "auto" and ask()[1].poll_interval_seconds == 1.0)
        assert world.said == ["started"], "nothing else has changed"

    def test_is_what_code_says_where_it_does(self, world: World) -> None:
        self.put(world, mode="poll", poll_interval_seconds=3600)
        ask = self.watched(world, watch_mode="events", poll_interval_seconds=0.05)
        assert ask()[0] == "events"
        self.put(world, mode="poll", poll_interval_seconds=60)
        world.runtime.reload()
        until(lambda: ask()[1].poll_interval_seconds == 0.05)
        assert ask()[0] == "events"

    def test_a_refused_manifest_changes_nothing_of_it(self, world: World) -> None:
        self.put(world, mode="poll", poll_interval_seconds=3600)
        ask = self.watched(world)
        world.put('{"version": 1, "reload": {"mode": "events"}, "providers": {"a": {"type": "nosuch"}}}')
        assert world.runtime.reload().result == "rejected"
        assert ask()[0] == "poll"

    def test_an_end_marker_that_runs_is_needed_until_a_file_with_one_lifts_it(self, world: World) -> None:
        text = "version: 1\nproviders: {a: {type: fake}}\n"
        strict = text + "reload: {require_end_marker: true}\n"
        world.put(strict + "...\n")
        runtime = world.runtime
        runtime.start()
        world.put(text)
        outcome = runtime.reload()
        assert (outcome.result, [finding.code for finding in outcome.findings]) == ("rejected", ["SC118"])
        world.put(text + "...\n")
        assert runtime.reload().result == "unchanged"
        world.put(text)
        assert runtime.reload().result == "unchanged"
        assert world.said == ["started", "rejected", "recovered"]


class TestWatching:
    """The whole of it, with the real watch."""

    def test_follows_good_edits_reports_bad_ones_and_recovers(self, world: World) -> None:
        runtime = world.use(world.make(watch=True, poll_interval_seconds=0.05))
        world.start("a", a={})
        world.write("b", a={}, b={})
        assert runtime.wait_for(2, PATIENCE_SECONDS)
        world.put("version: 1\nproviders: {a: {type: nosuch}}\n")
        until(lambda: world.said[-1] == "rejected")
        world.write("b", a={}, b={})
        until(lambda: world.said[-1] == "recovered")
        assert world.said == ["started", "committed", "rejected", "recovered"]
        status = runtime.status()
        assert status.watch is not None
        assert status.watch.is_running
        runtime.close()
        assert not runtime.status().watch.is_running  # type: ignore[union-attr]

    def test_a_change_between_the_load_and_the_watch_is_not_lost(self, world: World) -> None:
        runtime = world.use(world.make(watch=True, watch_mode="poll", poll_interval_seconds=0.05))
        runtime.subscribe(lambda event: world.write("a", a={}, late={}) if event.event == "started" else None)
        world.start("a", a={})
        assert runtime.wait_for(2, PATIENCE_SECONDS)
        assert "late" in runtime.registry

    def test_a_file_of_the_manifest_is_watched_too(self, world: World, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("one", encoding="utf-8")
        runtime = world.use(world.make(watch=True, poll_interval_seconds=0.05))
        world.start("a", a={"token": "${file:" + str(secret).replace(os.sep, "/") + "}"})
        new = tmp_path / "new"
        new.write_text("two", encoding="utf-8")
        new.replace(secret)
        assert runtime.wait_for(2, PATIENCE_SECONDS)
        assert runtime.registry.get_default_config("a") == {"token": "two"}
