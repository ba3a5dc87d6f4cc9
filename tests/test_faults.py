"""Faults of foreign code in every phase of a reload, with every kind of change around them.

Beside the change, the new manifest has a provider `x` whose type does as the fault says. Whatever it does:
the registry serves exactly one of the two generations, the status tells the truth, nothing is left behind,
and the next good reload succeeds. The rows with `kill -9` are in `test_killed`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry import reconcile as reconcile_module
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import ManifestError
from shadowcat_registry.metadata import Config
from shadowcat_registry.runtime import Runtime

from .fakes import PATIENCE_SECONDS, Backend, Factory, Gate, Running, give_up_at, until

_CLOSE_SECONDS = 0.05

CHANGES: dict[str, dict[str, Any]] = {
    "add": {"providers": {"a": {}, "b": {}, "new": {}}},
    "update": {"providers": {"a": {"n": 1}, "b": {}}},
    "remove": {"providers": {"a": {}}},
    "default": {"providers": {"a": {}, "b": {}}, "default": "b"},
}
BEFORE = ("load", "import", "hook", "open", "reconfigure")
"""Phases before the commit: what fails there, fails the reload."""
AFTER = ("apply", "close", "notify")


class Fault:
    """What the foreign code of a phase does, once it is armed."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.gate = Gate()
        self.is_armed = False

    def __call__(self, *_: object) -> None:
        if not self.is_armed:
            return
        if self.kind == "hangs":
            self.gate()
        elif self.kind == "exits":
            raise SystemExit(3)
        else:
            raise RuntimeError("S3CRET")


class _Offer:
    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def apply(self) -> None:
        self._fault()

    def discard(self) -> None:
        """Nothing was got ready."""


class _Types(Catalog):
    """Whose import of `x` is a fault, if that is asked for."""

    on_import: Callable[[], None] = staticmethod(lambda: None)

    def factory(self, type_name: str) -> Any:
        # The loader asks as well, before there is anything to prepare.
        if type_name == "other" and self.is_preparing():
            self.on_import()
        return super().factory(type_name)

    is_preparing: Callable[[], bool] = staticmethod(lambda: False)


class World:
    def __init__(self, directory: Path, phase: str, fault: Fault) -> None:
        self.path = directory / "registry.yaml"
        self.phase, self.fault = phase, fault
        self.fake, self.other = Factory("fake"), Factory("other")
        self.catalog = _Types([self.fake, self.other])
        self.runtime = Runtime(self.path, catalog=self.catalog, watch=False)
        if phase == "load":
            self.other.on_validate = fault
        elif phase == "import":
            self.catalog.on_import = fault
            self.catalog.is_preparing = self._is_preparing
        elif phase == "hook":
            self.runtime.registry.add_init_hook(lambda name: fault() if name == "x" else None)
        elif phase == "open":
            self.other.on_create = fault
        elif phase == "reconfigure":
            self.other.on_reconfigure = self._refuse
        elif phase == "apply":
            self.other.on_reconfigure = lambda *_: _Offer(fault)
        elif phase == "close":
            self.other.on_close = fault
        else:
            self.runtime.subscribe(fault)

    def _is_preparing(self) -> bool:
        phase = self.runtime._progress.phase()
        return phase is not None and phase.name == "prepare"

    def _refuse(self, _: Backend, __: Config) -> None:
        self.fault()

    def write(self, providers: dict[str, Any], default: str = "a") -> None:
        entries = {
            name: {"type": "other" if name == "x" else "fake", "config": config}
            for name, config in providers.items()
        }
        document = {
            "version": 1,
            "defaults": {"provider": default},
            "providers": entries,
        }
        self.path.write_text(json.dumps(document), encoding="utf-8")

    def serves(self) -> tuple[str | None, dict[str, Any]]:
        snapshot = self.runtime.registry.snapshot()
        configs = {name: dict(provider.spec.config) for name, provider in snapshot.items()}
        assert all(provider.state == "active" for provider in snapshot.values())
        return snapshot.default, configs

    def open_count(self) -> int:
        """How many storages the registry has to have open."""
        return sum(provider.live.shared is not None for provider in self.runtime.registry.snapshot().values())


@pytest.fixture
def fault(kind: str) -> Fault:
    return Fault(kind)


@pytest.fixture
def world(tmp_path: Path, phase: str, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(reconcile_module, "CLOSE_PATIENCE_SECONDS", _CLOSE_SECONDS)
    give_up_at(monkeypatch, fault.gate)
    world = World(tmp_path, phase, fault)
    yield world
    fault.is_armed = False
    fault.gate.open()
    world.runtime.close()


@pytest.mark.parametrize("kind", ["raises", "hangs", "exits"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("phase", [*BEFORE, *AFTER])
class TestAFault:
    def test_leaves_one_of_the_two_generations_whole(
        self, world: World, fault: Fault, phase: str, change: str, kind: str
    ) -> None:
        runtime = world.runtime
        x_before: dict[str, Any] = {} if phase == "hook" else {"x": {}}
        old = {"a": {}, "b": {}, **x_before}
        world.write(old)
        runtime.start()
        if x_before:
            runtime.registry.open_storage("x").close()
        new = {**CHANGES[change]["providers"], "x": {"n": 1}}
        default = CHANGES[change].get("default", "a")
        world.write(new, default)
        fault.is_armed = True
        reloading = Running(runtime.reload)
        if phase == "notify" and kind == "hangs":
            fault.gate.reached()
            stuck = runtime.status().phase
            assert stuck is not None
            assert stuck.name == "notify"
            fault.gate.open()
        outcome = reloading.result()

        is_committed = phase in AFTER
        assert world.serves() == ((default, new) if is_committed else ("a", old))
        status = runtime.status()
        assert (status.state, outcome.result) == (
            ("ok", "committed") if is_committed else ("rejected", "rejected")
        )
        assert bool(status.findings) == (not is_committed)
        assert status.digest == (outcome.digest if is_committed else runtime.history()[0].digest)
        assert status.generation == runtime.registry.snapshot().generation
        assert runtime.history()[-1].outcome == outcome.result
        assert "S3CRET" not in json.dumps(status.as_json())
        if not is_committed:
            codes = {finding.code for finding in status.findings}
            wanted = {
                "raises": {"SC701", "SC702", "SC502"},
                "hangs": {"SC705"},
                "exits": {"SC701", "SC702", "SC901"},
            }
            assert codes <= wanted[kind], codes
        if kind == "hangs" and phase not in ("close", "notify"):
            assert status.conditions[2].is_true
            assert status.hanging[0].at is not None

        fault.is_armed = False
        fault.gate.open()
        until(lambda: not runtime.status().hanging)
        until(lambda: world.fake.open_count + world.other.open_count == world.open_count())
        assert not any(runtime.registry.holders(name) for name in runtime.registry)
        world.write({"a": {"n": 2}, "x": {"n": 2}}, "x")
        result = runtime.reload(timeout_seconds=PATIENCE_SECONDS).result
        assert result in ("committed", "unchanged"), "it may have been retried when the step came back"
        assert world.serves() == ("x", {"a": {"n": 2}, "x": {"n": 2}})
        assert runtime.status().conditions[0].is_true


@pytest.mark.parametrize("kind", ["raises", "hangs", "exits"])
@pytest.mark.parametrize("phase", ["hook", "open"])
class TestAFaultAtTheStart:
    def test_is_an_error_and_leaves_nothing(self, world: World, fault: Fault) -> None:
        world.write({"a": {}, "x": {}}, "x")
        fault.is_armed = True
        with pytest.raises(ManifestError):
            world.runtime.start()
        assert list(world.runtime.registry) == []
        fault.is_armed = False
        fault.gate.open()
        until(lambda: not world.runtime.status().hanging)
        assert world.fake.open_count + world.other.open_count == 0
        world.runtime.start()
        assert world.runtime.status().state == "ok"
