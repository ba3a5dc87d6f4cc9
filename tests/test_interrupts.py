"""A signal's handler that raises, as that of Ctrl-C does, at every place where one can: whatever was going
on, nothing is left leased or open that nobody has, nobody is left waiting, and the next call works.

Handlers run where Python looks for them: at the beginning of a function, behind a call, at a jump backward.
The test raises at each instruction that follows one of these, one after the other, until a run comes through.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from typing import Final

import pytest

from shadowcat_registry import (
    acquisition,
    closing,
    constructing,
    exits,
    generations,
    latch,
    leases,
    openings,
    registry,
    staging,
    storage,
    use,
)
from shadowcat_registry.backend import CreateContext
from shadowcat_registry.errors import ConstructionTimeoutError, CreationFailedError
from shadowcat_registry.leases import Opening
from shadowcat_registry.metadata import Config
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage

from .fakes import Factory, Gate, Running
from .instructions import each_instruction, reporting
from .strikes import Interrupt, Strike

FILES: Final = frozenset(
    str(module.__file__)
    for module in (
        acquisition,
        exits,
        generations,
        latch,
        leases,
        closing,
        constructing,
        openings,
        registry,
        staging,
        storage,
        use,
        threading,
    )
)
"""`threading`, since an event is set and waited for by its Python code."""


class World:
    def __init__(self) -> None:
        self.registry = StorageProviderRegistry(construction_timeout_seconds=5.0)
        self.factory, self.below, self.failing = (
            Factory("fake"),
            Factory("below"),
            Factory("failing", on_create=fail),
        )
        self.above = Factory("above", on_create=lambda _, context: context.open("below"))
        for factory in (self.factory, self.below, self.failing, self.above):
            self.registry.register(factory)
        self.storages: list[TapeStorage] = []

    def opened(self) -> None:
        self.storages.append(self.registry.open_storage("fake"))

    def check(self, where: str) -> None:
        registry = self.registry
        self.storages.clear()
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            registry.sweep()
        held = [str(holder) for name in registry for holder in registry.holders(name)]
        assert not held, f"{where}: {held}"
        assert not registry._generations.lock.locked(), where
        for name in ("fake", "above"):
            Running(lambda name=name: registry.open_storage(name).close()).result()  # type: ignore[misc]
            registry.create_storage(name, instance_id=f"of-{name}").close()
        registry.unregister("above")
        assert registry.close() == (), where
        factories = (self.factory, self.below, self.above)
        left = {factory.name: factory.open_count for factory in factories if factory.open_count}
        assert not left, f"{where}: left open: {left}"


def fail(_config: Config, _context: CreateContext) -> None:
    raise OSError("told to fail")


def first(world: World) -> None:
    world.opened()


def again(world: World) -> None:
    world.opened()
    world.opened()
    world.storages.pop().close()


def own(world: World) -> None:
    world.registry.create_storage("fake", {}, "mine").close()


def found(world: World) -> None:
    with world.registry.create_storage("fake", None, "mine"):
        world.registry.find_instance("mine").close()


def dependent(world: World) -> None:
    world.registry.create_storage("above").close()


def failing(world: World) -> None:
    with suppress(CreationFailedError):
        world.registry.open_storage("failing")


def superseded(world: World) -> None:
    with world.registry.override("fake", Factory("other")):
        world.opened()
    world.storages.pop().close()


def waiting(world: World) -> None:
    with suppress(ConstructionTimeoutError):
        world.opened()


@contextmanager
def somebody_constructs(world: World) -> Iterator[None]:
    """In another thread, and longer than anybody waits."""
    gate = Gate()
    world.factory.on_create = gate
    constructing = Running(lambda: world.registry.open_storage("fake").close())
    gate.reached()
    world.factory.on_create = None
    world.registry._openings._construction_timeout_seconds = 0.0
    try:
        yield
    finally:
        world.registry._openings._construction_timeout_seconds = 5.0
        gate.open()
        constructing.result()


@pytest.fixture
def each_step_is_seen() -> Iterator[None]:
    with each_instruction(FILES):
        gc.collect()
        gc.freeze()  # or each collection would go over everything that was ever imported
        yield
        gc.unfreeze()


@pytest.mark.usefixtures("each_step_is_seen")
@pytest.mark.parametrize(
    "what",
    [
        first,
        again,
        *(
            pytest.param(it, marks=pytest.mark.ci)
            for it in (waiting, own, found, dependent, failing, superseded)
        ),
    ],
)
def test_nothing_is_left_wherever_it_strikes(
    what: Callable[[World], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openings, "CLOSE_PATIENCE_SECONDS", 0.0)
    number = 0
    for number in count():
        world, strike = World(), Strike(number)
        surroundings = somebody_constructs(world) if what is waiting else nullcontext()
        with surroundings, suppress(Interrupt), reporting(FILES, strike.step):
            what(world)
        world.check(f"{number}: {strike.where}")
        if strike.where is None:  # it came through
            break
    assert number > 30, "it was seen"


def test_what_it_struck_is_freed_without_the_collector() -> None:
    """What a handler raises is no part of a cycle: the next call finds the handle that nobody got."""
    world = World()
    gc.disable()
    try:
        owner = world.registry._openings
        world.factory.on_create = interrupt
        with suppress(Interrupt):
            world.opened()
        assert not [one for one in gc.get_objects() if isinstance(one, Opening) and one.owner is owner]
    finally:
        gc.enable()
    world.factory.on_create = None
    world.check("in a factory")


def interrupt(_config: Config, _context: CreateContext) -> None:
    raise Interrupt
