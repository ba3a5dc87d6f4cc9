"""Changes of a config that an open storage takes as it is: all of them with the commit, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import InvalidConfigError
from shadowcat_registry.metadata import Config
from shadowcat_registry.runtime import Runtime

from .fakes import Backend, Gate, give_up_at, until
from .worlds import World, refuse_connection


@dataclass
class Login:
    """Backends that can log in anew with another password, and what was asked of them."""

    current: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    fails_in_apply: bool = False

    def reconfigure(self, _: Backend, config: Config) -> Offer | None:
        self.said.append(f"offer {config.get('password')}")
        if config.get("password") == "wrong":
            raise InvalidConfigError("a", ["the service refuses the password"])
        if "bucket" in config:
            return None
        return Offer(self, dict(config))


@dataclass
class Offer:
    login: Login
    config: dict[str, Any]

    def apply(self) -> None:
        self.login.said.append("apply")
        if self.login.fails_in_apply:
            raise RuntimeError("it cannot fail, and does")
        self.login.current = self.config

    def discard(self) -> None:
        self.login.said.append("discard")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.runtime.close()


@pytest.fixture
def login(world: World) -> Login:
    login = Login()
    world.fake.on_reconfigure = login.reconfigure
    return login


class TestReconfigure:
    def test_keeps_the_storage_and_takes_its_leases_along(self, world: World, login: Login) -> None:
        runtime = world.start("a", a={"password": "one"})
        before = runtime.registry.snapshot()
        with runtime.registry.open_storage("a") as storage:
            recorder = storage.record("s-1", tape_id="tape")
            recorder.append("client_to_server", b'{"n":1}')
            world.write("a", a={"password": "two"})
            assert runtime.reload().result == "committed"
            recorder.append("client_to_server", b'{"n":2}')
            recorder.finalize()
            assert not storage.superseded
        assert (login.said, login.current) == (["offer two", "apply"], {"password": "two"})
        assert (world.fake.create_count, world.fake.open_count) == (1, 1)
        info = runtime.registry.get_provider_info("a")
        assert [snapshot["a"].revision for snapshot in (before, runtime.registry.snapshot())] == [1, 2]
        assert (info.revision, world.events[-1].updated) == (2, ("a",))
        with runtime.registry.open_storage("a") as again:
            assert len(list(again.read("tape"))) == 3

    def test_an_old_handle_has_the_revision_of_the_config_that_it_works_with(
        self, world: World, login: Login
    ) -> None:
        runtime = world.start("a", a={"password": "one"})
        with runtime.registry.open_storage("a") as storage:
            assert storage.revision == 1
            world.write("a", a={"password": "two"})
            runtime.reload()
            (holder,) = runtime.registry.holders("a")
            (revision,) = runtime.registry.revisions("a")
            assert (storage.revision, holder.revision, revision.number, revision.lease_count) == (2, 2, 2, 1)
            world.write("a", a={"bucket": "other"})
            runtime.reload()
            assert (storage.revision, storage.superseded) == (2, True), "what cannot be taken is not its"
            with runtime.registry.open_storage("a") as again:
                assert (again.revision, again.superseded) == (3, False)

    def test_is_not_asked_of_what_is_not_open(self, world: World, login: Login) -> None:
        runtime = world.start(a={})
        world.write(a={"password": "two"})
        runtime.reload()
        assert login.said == []
        runtime.registry.open_storage("a").close()
        assert world.fake.backends[-1].config == {"password": "two"}

    def test_what_it_cannot_take_is_a_new_revision(self, world: World, login: Login) -> None:
        runtime = world.start("a", a={})
        world.write("a", a={"bucket": "other"})
        assert runtime.reload().result == "committed"
        assert (world.fake.create_count, [b.close_count for b in world.fake.backends]) == (2, [1, 0])

    def test_what_it_refuses_is_a_finding_and_nothing_is_changed(self, world: World, login: Login) -> None:
        runtime = world.start("a", a={"password": "one"}, b={})
        world.write("a", a={"password": "wrong"}, b={"n": 1})
        (finding,) = runtime.reload().findings
        assert (finding.code, finding.message) == ("SC703", "the service refuses the password")
        assert world.serves() == {"a": {"password": "one"}, "b": {}}

    def test_is_taken_back_when_something_else_fails(self, world: World, login: Login) -> None:
        runtime = world.start("a", a={"password": "one"})
        world.other.on_create = refuse_connection
        world.write("b", a={"password": "two"}, b="other")
        assert runtime.reload().result == "rejected"
        assert (login.said, login.current) == (["offer two", "discard"], {})
        assert world.serves() == {"a": {"password": "one"}}

    def test_an_offer_that_comes_late_is_discarded(
        self, world: World, login: Login, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate()
        give_up_at(monkeypatch, gate)

        def late(backend: Backend, config: Config) -> Offer | None:
            gate()
            return login.reconfigure(backend, config)

        runtime = world.start("a", a={})
        world.fake.on_reconfigure = late
        world.fake.backends[0]._on_reconfigure = late
        world.write("a", a={"password": "two"})
        (finding,) = runtime.reload().findings
        assert finding.code == "SC705"
        world.write("a", a={})  # so that nothing is to be tried again
        assert runtime.reload().result == "unchanged"
        gate.open()
        until(lambda: not runtime.status().hanging)
        assert (login.said, login.current) == (["offer two", "discard"], {})

    def test_where_applying_fails_after_all_a_new_revision_has_the_config(
        self, world: World, login: Login, caplog: pytest.LogCaptureFixture
    ) -> None:
        runtime = world.start("a", a={"password": "one"})
        login.fails_in_apply = True
        with runtime.registry.open_storage("a") as storage:
            world.write("a", a={"password": "two"})
            assert runtime.reload().result == "committed"
            assert storage.superseded
            with runtime.registry.open_storage("a") as new:
                assert world.fake.backends[-1].config == {"password": "two"}
                assert not new.superseded
        assert world.fake.open_count == 1
        assert "although it had been accepted" in caplog.text
        assert runtime.reload().result == "unchanged"

    def test_a_storage_of_a_callers_own_keeps_what_it_was_made_with(self, world: World, login: Login) -> None:
        runtime = world.start("a", a={"password": "one"})
        with runtime.registry.create_storage("a", {"extra": 1}) as own:
            world.write("a", a={"password": "two"})
            assert runtime.reload().result == "committed"
            assert (own.superseded, login.said) == (True, [])


class TestMemory:
    """The real thing."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "registry.yaml"

    @pytest.fixture
    def runtime(self, path: Path) -> Iterator[Runtime]:
        self._write(path, max_tapes=10)
        with Runtime(path, catalog=Catalog(), watch=False) as runtime:
            runtime.start()
            with runtime.registry.open_storage("a") as storage:
                for n in range(3):
                    storage.record("s-1", tape_id=f"tape-{n}").finalize()
            yield runtime

    def _write(self, path: Path, type_: str = "memory", **config: Any) -> None:
        entry = {"type": type_, "config": config}
        document = {"version": 1, "defaults": {"provider": "a"}, "providers": {"a": entry}}
        path.write_text(json.dumps(document), encoding="utf-8")

    def _tapes(self, runtime: Runtime) -> list[str]:
        with runtime.registry.open_storage("a") as storage:
            return [item["tape_id"] for item in storage.list().items]

    def test_is_resized_in_place_and_keeps_its_tapes(self, path: Path, runtime: Runtime) -> None:
        self._write(path, max_tapes=3)
        assert runtime.reload().result == "committed"
        assert self._tapes(runtime) == ["tape-0", "tape-1", "tape-2"]
        with runtime.registry.open_storage("a") as storage:
            storage.record("s-1", tape_id="tape-3").finalize()
        assert self._tapes(runtime) == ["tape-1", "tape-2", "tape-3"], "the new bound holds"

    def test_made_smaller_it_loses_nothing_before_there_is_something_new(
        self, path: Path, runtime: Runtime
    ) -> None:
        self._write(path, max_tapes=1)
        runtime.reload()
        assert len(self._tapes(runtime)) == 3

    def test_refuses_any_other_change_while_it_holds_tapes(self, path: Path, runtime: Runtime) -> None:
        self._write(path, "filesystem")
        (action,) = runtime.plan().actions
        assert "refused as long as it holds tapes" in action.effect
        (finding,) = runtime.reload().findings
        assert finding.code == "SC709"
        assert "holds 3 tapes" in finding.message
        assert len(self._tapes(runtime)) == 3
        with runtime.registry.open_storage("a") as storage:
            for n in range(3):
                storage.delete(f"tape-{n}")
        runtime.reload()  # or by itself, a moment later
        assert runtime.registry.get_provider_info("a").type == "filesystem"

    def test_can_be_removed_which_takes_its_tapes_along(self, path: Path, runtime: Runtime) -> None:
        document = {"version": 1, "providers": {"b": {"type": "memory"}}}
        path.write_text(json.dumps(document), encoding="utf-8")
        assert runtime.reload().result == "committed"
