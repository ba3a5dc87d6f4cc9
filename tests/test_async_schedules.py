"""Interleavings of tasks, loops and the threads behind them: first what is found in code with the classic
bugs of asyncio, then what must not be found in the registry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from shadowcat_registry import (
    acquisition,
    aio,
    closing,
    constructing,
    generations,
    latch,
    leases,
    openings,
    registry,
    staging,
    storage,
    use,
)
from shadowcat_registry.aio import Lane, off_loop
from shadowcat_registry.errors import (
    CreationFailedError,
    InstanceExistsError,
    ProviderExistsError,
    ProviderInUseError,
    ProviderNotFoundError,
    RegistryError,
)
from shadowcat_registry.generations import Change
from shadowcat_registry.metadata import ProviderSpec
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage

from .fakes import Backend, Factory
from .loops import Loop, run
from .schedules import DeadlockError, Scenario, ScheduleFailedError, explore, replay

HERE = {__file__}
CORE = {
    str(module.__file__)
    for module in (
        aio,
        registry,
        acquisition,
        generations,
        staging,
        openings,
        constructing,
        closing,
        latch,
        leases,
        storage,
        use,
    )
}
Action = Callable[[], Coroutine[Any, Any, object]]


# ---------------------------------------------------------------------- the classic bugs


class ChecksThenAwaits:
    """Two tasks find nothing there, and both make it."""

    def __init__(self) -> None:
        self.made = 0
        self._it: object = None

    async def get(self) -> object:
        if self._it is None:
            self._it = await off_loop(self._make)
        return self._it

    def _make(self) -> object:
        self.made += 1
        return object()


class LosesWhatIsCancelled:
    """Makes something in a thread; a task that is cancelled meanwhile leaves it to nobody."""

    def __init__(self) -> None:
        self.open = 0

    async def use(self) -> None:
        await off_loop(self._acquire)
        try:
            await asyncio.sleep(0)
        finally:
            self.open -= 1

    def _acquire(self) -> None:
        self.open += 1


class WakesWithoutALock:
    """Sets a future from another thread: whether its loop ever looks, is chance."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    def wake(self) -> None:
        for future in self.waiting:
            future.set_result(None)


class WaitsForAThreadInItsLoop:
    """A task holds a lock over an await that another one needs in order to let it go on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    async def use(self) -> None:
        with self.lock:
            await asyncio.sleep(0)


def _checks_then_awaits() -> Scenario:
    it = ChecksThenAwaits()
    return Scenario([lambda: run(it.get()), lambda: run(it.get())], lambda: _equal(it.made, 1))


def _loses_what_is_cancelled() -> Scenario:
    it = LosesWhatIsCancelled()
    return Scenario([lambda: run(_cancelled(it.use(), 2))], lambda: _equal(it.open, 0))


def _wakes_without_a_lock() -> Scenario:
    it = WakesWithoutALock()

    def wake() -> None:
        while not it.waiting:
            threading.Event().wait(1.0)
        it.wake()

    return Scenario([lambda: run(it.wait()), wake])


def _waits_in_its_loop() -> Scenario:
    it = WaitsForAThreadInItsLoop()

    async def both() -> None:
        await asyncio.gather(it.use(), it.use())

    return Scenario([lambda: run(both())])


BUGS: dict[str, tuple[Callable[[], Scenario], type[BaseException]]] = {
    "check, then await": (_checks_then_awaits, AssertionError),
    "lost when cancelled": (_loses_what_is_cancelled, AssertionError),
    "set from another thread": (_wakes_without_a_lock, DeadlockError),
    "a lock over an await": (_waits_in_its_loop, DeadlockError),
}


def _equal(found: object, wanted: object) -> None:
    assert found == wanted


async def _cancelled(coroutine: Coroutine[Any, Any, object], after_steps: int) -> None:
    """Runs this, and cancels it when the loop has gone round so many times."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(after_steps):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class TestClassicBugs:
    @pytest.mark.parametrize("name", BUGS)
    def test_each_is_found_soon_and_again_from_its_number(self, name: str) -> None:
        build, kind = BUGS[name]
        with pytest.raises(ScheduleFailedError) as found:
            explore(build, 100, HERE | {str(aio.__file__)})
        assert isinstance(found.value.__cause__, kind)
        with pytest.raises(ScheduleFailedError) as again:
            replay(build, found.value.number, HERE | {str(aio.__file__)})
        assert again.value.switches == found.value.switches


class TestTheLoop:
    def test_runs_what_others_run(self) -> None:
        async def main() -> list[int]:
            async def slow(number: int) -> int:
                await asyncio.sleep(0.001 * (3 - number))
                return await off_loop(lambda: number)

            return await asyncio.gather(*map(slow, range(3)))

        assert run(main()) == [0, 1, 2]

    def test_a_lane_keeps_its_order_over_two_loops(self) -> None:
        def build() -> Scenario:
            lane, made = Lane(), list[str]()

            async def ask(who: str) -> None:
                await asyncio.gather(
                    *(lane.run(partial(made.append, f"{who}{number}")) for number in range(3))
                )

            def in_order() -> None:
                assert sorted(made) == ["a0", "a1", "a2", "b0", "b1", "b2"]
                assert [name for name in made if name < "b"] == ["a0", "a1", "a2"]

            return Scenario([lambda: run(ask("a")), lambda: run(ask("b"))], in_order)

        explore(build, 200, {str(aio.__file__)})


# ---------------------------------------------------------------------- the registry


class AsyncFactory(Factory):
    """Its backends are made in the registry's own loop."""

    async def acreate(self, config: Any, context: Any) -> Backend:
        await asyncio.sleep(0)
        return self.create(config, context)


class World:
    """A registry, what its tasks do, and what must hold at the end."""

    def __init__(self, *factories: Factory) -> None:
        self.registry = StorageProviderRegistry()
        self.factories = list(factories) or [Factory("a")]
        self.outcomes: list[str] = []
        for factory in self.factories:
            self.registry.register(factory)

    async def attempt(self, call: Awaitable[object], *refusals: type[RegistryError]) -> None:
        try:
            await call
        except refusals as error:
            self.outcomes.append(type(error).__name__)
        else:
            self.outcomes.append("done")

    async def use(self, take: Callable[[], Coroutine[Any, Any, TapeStorage]]) -> None:
        async with await take() as handle:
            backend = handle.use.source.backend
            assert isinstance(backend, Backend)
            await asyncio.sleep(0)
            assert backend.close_count == 0, "closed under a lease"

    async def opening(self, name: str = "a") -> None:
        await self.attempt(self.use(partial(self.registry.aopen_storage, name)), ProviderNotFoundError)

    async def creating(self, name: str = "a", instance_id: str | None = None) -> None:
        take = partial(self.registry.acreate_storage, name, None, instance_id)
        await self.attempt(self.use(take), ProviderNotFoundError, InstanceExistsError)

    async def unregistering(self, name: str = "a") -> None:
        await self.attempt(self.registry.aunregister(name), ProviderNotFoundError, ProviderInUseError)

    def reloading(self) -> None:
        """A thread commits a new revision, as a runtime does."""
        before = self.registry.snapshot()["a"]
        factory = Factory("a")
        self.factories.append(factory)
        after = self.registry.stage(ProviderSpec("a", "a"), factory)
        self.registry.retire(self.registry.commit([Change("a", before, after)]))

    def scenario(self, *actions: Callable[[], object]) -> Scenario:
        return Scenario([*actions], self.nothing_is_left)

    def nothing_is_left(self) -> None:
        registry = self.registry
        held = [str(holder) for name in registry for holder in registry.holders(name)]
        assert not held, held
        # One that was given back while the registry was closed may be noticed too, and is passed over.
        lost = [guard for guard in registry._openings.dropped if guard.use.is_open]
        assert not lost, "a handle was lost on its way"
        for name in registry:
            registry.create_storage(name).close()  # it still works
        assert registry.close() == ()
        for factory in self.factories:
            assert all(backend.close_count == 1 for backend in factory.backends), "each is closed once"


def two_loops_open_it_first() -> Scenario:
    world = World()

    async def both() -> None:
        await asyncio.gather(world.opening(), world.opening())

    def once() -> None:
        assert world.outcomes == ["done"] * 3
        assert world.factories[0].create_count == 1
        world.nothing_is_left()

    return Scenario([lambda: run(both()), lambda: run(world.opening())], once)


def of_three_waiters_one_is_cancelled() -> Scenario:
    world = World()

    async def three() -> None:
        await asyncio.gather(world.opening(), _cancelled(world.opening(), 2), world.opening())

    return world.scenario(lambda: run(three()))


def every_waiter_is_cancelled() -> Scenario:
    world = World()

    async def both() -> None:
        await asyncio.gather(_cancelled(world.opening(), 1), _cancelled(world.opening(), 3))

    return world.scenario(lambda: run(both()), lambda: run(_cancelled(world.opening(), 2)))


def it_is_created_and_cancelled_twice() -> Scenario:
    world = World()

    async def twice() -> None:
        task = asyncio.ensure_future(world.creating(instance_id="mine"))
        for _ in range(2):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return world.scenario(lambda: run(twice()), lambda: run(world.creating(instance_id="mine")))


def it_is_unregistered_meanwhile() -> Scenario:
    world = World()

    async def use() -> None:
        await asyncio.gather(world.opening(), world.creating())

    async def leave() -> None:
        await world.unregistering()

    return world.scenario(lambda: run(use()), lambda: run(leave()))


def it_is_unregistered_and_cancelled_in_one_loop() -> Scenario:
    world = World()

    async def all_at_once() -> None:
        await asyncio.gather(
            _cancelled(world.creating(), 2), world.unregistering(), _cancelled(world.opening(), 1)
        )

    return world.scenario(lambda: run(all_at_once()))


def it_is_reloaded_meanwhile() -> Scenario:
    world = World()

    async def use() -> None:
        await asyncio.gather(world.opening(), _cancelled(world.opening(), 2))

    return world.scenario(lambda: run(use()), world.reloading)


def it_is_closed_meanwhile() -> Scenario:
    world = World()

    async def use() -> None:
        with suppress(AssertionError):  # who closes a registry takes its storages away
            await world.opening()

    async def close() -> None:
        await world.registry.aclose()

    def closed() -> None:
        assert not [holder for name in world.registry for holder in world.registry.holders(name)]
        world.registry.close()
        backends = [backend for factory in world.factories for backend in factory.backends]
        assert all(backend.close_count == 1 for backend in backends)

    return Scenario([lambda: run(use()), lambda: run(close())], closed)


def an_async_factory_serves_a_loop_and_a_thread() -> Scenario:
    world = World(AsyncFactory("a"))
    ended = [threading.Event(), threading.Event()]

    def open_it() -> None:
        with world.registry.open_storage("a"):
            pass
        ended[0].set()

    def await_it() -> None:
        run(_cancelled(world.opening(), 2))
        ended[1].set()

    def close() -> None:
        for event in ended:
            event.wait()
        world.registry.close()  # or the thread of its loop would live on

    return world.scenario(await_it, open_it, close)


def a_construction_fails_for_all_who_wait() -> Scenario:
    failures = ["first"]

    def fail(*_: object) -> None:
        if failures:
            failures.pop()
            raise OSError("told to fail")

    world = World(Factory("a", on_create=fail))

    async def both() -> None:
        for _ in range(2):
            await asyncio.gather(*(world.attempt(world.opening(), CreationFailedError) for _ in range(2)))

    return world.scenario(
        lambda: run(both()), lambda: run(world.attempt(world.opening(), CreationFailedError))
    )


def a_registration_is_cancelled() -> Scenario:
    world = World()
    factory = Factory("b")
    world.factories.append(factory)

    async def accept(name: str) -> None:
        await asyncio.sleep(0)

    world.registry.add_init_hook(accept)

    async def register() -> None:
        await world.attempt(world.registry.aregister(factory), ProviderExistsError)

    async def both() -> None:
        await asyncio.gather(_cancelled(register(), 3), register())

    return world.scenario(lambda: run(both()))


SCENARIOS = [
    two_loops_open_it_first,
    of_three_waiters_one_is_cancelled,
    every_waiter_is_cancelled,
    it_is_created_and_cancelled_twice,
    it_is_unregistered_meanwhile,
    it_is_unregistered_and_cancelled_in_one_loop,
    it_is_reloaded_meanwhile,
    it_is_closed_meanwhile,
    an_async_factory_serves_a_loop_and_a_thread,
    a_construction_fails_for_all_who_wait,
    a_registration_is_cancelled,
]


@pytest.mark.parametrize("build", SCENARIOS, ids=lambda build: build.__name__)
class TestTheRegistry:
    @pytest.fixture(autouse=True)
    def loops_that_the_scheduler_sees(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also that of the registry's own thread."""
        monkeypatch.setattr(asyncio.events, "new_event_loop", Loop)

    def test_holds_in_every_order(self, build: Callable[[], Scenario]) -> None:
        explore(build, 15, CORE)

    @pytest.mark.ci
    def test_holds_in_many_orders(self, build: Callable[[], Scenario]) -> None:
        explore(build, 500, CORE)

    @pytest.mark.long
    def test_holds_in_a_great_many_orders(self, build: Callable[[], Scenario]) -> None:
        explore(build, 1000, CORE)
