"""Interleavings of threads, one instruction at a time: first what the scheduler finds in code with the
classic bugs, then what it must not find in the registry."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from itertools import count
from typing import Any

import pytest

from shadowcat_registry import (
    acquisition,
    bounded,
    closing,
    constructing,
    generations,
    latch,
    leases,
    openings,
    overrides,
    registry,
    snapshot,
    staging,
    storage,
)
from shadowcat_registry.backend import CreateContext
from shadowcat_registry.errors import (
    CreationFailedError,
    DependencyCycleError,
    InitHookError,
    InstanceExistsError,
    InstanceNotFoundError,
    ProviderExistsError,
    ProviderInUseError,
    ProviderNotFoundError,
    ProviderRetiringError,
    RegistryError,
    StalePlanError,
)
from shadowcat_registry.generations import Change, SetDefault
from shadowcat_registry.metadata import Config, ProviderSpec
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.snapshot import Provider
from shadowcat_registry.storage import TapeStorage

from . import schedules
from .fakes import Backend, Factory
from .schedules import DeadlockError, Scenario, ScheduleFailedError, explore, replay

HERE = {__file__}
CORE = {
    str(module.__file__)
    for module in (
        registry,
        acquisition,
        generations,
        staging,
        closing,
        constructing,
        openings,
        overrides,
        bounded,
        latch,
        leases,
        snapshot,
        storage,
    )
}


# ---------------------------------------------------------------------- the classic bugs


class Counter:
    """Publishes without a lock: of two additions, one is lost."""

    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        self.value += 1


class Copying:
    """Copies and swaps as a registry does, but builds the copy before it takes the lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.snapshot: dict[str, int] = {}

    def add(self, name: str) -> None:
        following = {**self.snapshot, name: 1}
        with self.lock:
            self.snapshot = following


class CheckThenAct:
    """Two threads find the name free, and both register it."""

    def __init__(self) -> None:
        self.providers: dict[str, object] = {}
        self.winners = 0

    def register(self, name: str) -> None:
        if name not in self.providers:
            self.providers[name] = object()
            self.winners += 1


class CountsTooLate:
    """Counts a lease when the storage is made, so that the provider can leave in between."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.leases = {"a": 0}
        self.orphans = 0

    def create(self) -> None:
        with self.lock:
            if "a" not in self.leases:
                return
        with self.lock:
            if "a" in self.leases:
                self.leases["a"] += 1
            else:
                self.orphans += 1

    def unregister(self) -> None:
        with self.lock:
            if self.leases.get("a") == 0:
                del self.leases["a"]


class TwoFields:
    """Publishes a generation in two steps; a reader may see the half of one."""

    def __init__(self) -> None:
        self.names, self.default = ("a",), "a"

    def commit(self) -> None:
        self.names = ("b",)
        self.default = "b"

    def read(self) -> None:
        assert self.default in self.names, "a mix of two generations"


class ClosesTwice:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.leases, self.closed = 2, 0

    def release(self) -> None:
        with self.lock:
            self.leases -= 1
        if self.leases == 0:
            self.closed += 1


class LockOrder:
    def __init__(self) -> None:
        self.one, self.other = threading.Lock(), threading.RLock()

    def up(self) -> None:
        with self.one, self.other:
            pass

    def down(self) -> None:
        with self.other, self.one:
            pass


class LostWakeUp:
    """Looks, and clears the event behind the look: what was set in between is forgotten."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.items: list[int] = []

    def put(self) -> None:
        self.items.append(1)
        self.event.set()

    def take(self) -> None:
        while not self.items:
            self.event.clear()
            self.event.wait()
        self.items.pop()


def _counter() -> Scenario:
    it = Counter()
    return Scenario([it.add, it.add], lambda: _equal(it.value, 2))


def _copying() -> Scenario:
    it = Copying()
    return Scenario([partial(it.add, "a"), partial(it.add, "b")], lambda: _equal(len(it.snapshot), 2))


def _check_then_act() -> Scenario:
    it = CheckThenAct()
    return Scenario([partial(it.register, "a"), partial(it.register, "a")], lambda: _equal(it.winners, 1))


def _counts_too_late() -> Scenario:
    it = CountsTooLate()
    return Scenario([it.create, it.unregister], lambda: _equal(it.orphans, 0))


def _two_fields() -> Scenario:
    it = TwoFields()
    return Scenario([it.commit, it.read])


def _closes_twice() -> Scenario:
    it = ClosesTwice()
    return Scenario([it.release, it.release], lambda: _equal(it.closed, 1))


def _lock_order() -> Scenario:
    it = LockOrder()
    return Scenario([it.up, it.down])


def _lost_wake_up() -> Scenario:
    it = LostWakeUp()
    return Scenario([it.take, it.put])


def _equal(value: object, expected: object) -> None:
    assert value == expected, f"{value} instead of {expected}"


BUGS: dict[str, tuple[Callable[[], Scenario], type[BaseException]]] = {
    "publish without a lock": (_counter, AssertionError),
    "copy outside, swap inside": (_copying, AssertionError),
    "check, then act": (_check_then_act, AssertionError),
    "unregister during a creation": (_counts_too_late, AssertionError),
    "half of a generation": (_two_fields, AssertionError),
    "close twice": (_closes_twice, AssertionError),
    "lock order": (_lock_order, DeadlockError),
    "lost wake-up": (_lost_wake_up, DeadlockError),
}


class TestClassicBugs:
    @pytest.mark.parametrize("name", BUGS)
    def test_each_is_found_soon_and_again_from_its_number(self, name: str) -> None:
        build, kind = BUGS[name]
        with pytest.raises(ScheduleFailedError) as found:
            explore(build, 100, HERE)
        assert isinstance(found.value.__cause__, kind)
        with pytest.raises(ScheduleFailedError) as again:
            replay(build, found.value.number, HERE)
        assert again.value.switches == found.value.switches
        assert isinstance(again.value.__cause__, kind)
        assert f"schedule {found.value.number} failed" in str(again.value)
        assert "test_schedules.py:" in str(again.value)

    def test_none_is_found_where_each_thread_runs_to_its_end(self) -> None:
        for build, _ in BUGS.values():
            explore(build, 1, HERE)

    def test_a_deadlock_is_told_with_both_stacks(self) -> None:
        with pytest.raises(ScheduleFailedError) as found:
            explore(_lock_order, 100, HERE)
        text = str(found.value.__cause__)
        assert "thread 0 waits for thread 1" in text
        assert "thread 1 waits for thread 0" in text
        assert "in up" in text
        assert "in down" in text


class TestTheScheduler:
    def test_repeats_itself_on_the_real_code(self) -> None:
        def switches(number: int) -> tuple[str, ...]:
            runs = count()
            with pytest.raises(ScheduleFailedError) as caught:
                replay(lambda: _failing_at_its_end(from_run=1, run=next(runs)), number, CORE)
            return caught.value.switches

        told = {number: switches(number) for number in range(1, 9)}
        assert "registry.py" in str(told)
        assert len(set(told.values())) >= 4
        for number, first in told.items():
            assert switches(number) == first

    def test_sees_everything_that_stands_on_a_lock(self) -> None:
        def build() -> Scenario:
            jobs: queue.Queue[int] = queue.Queue(1)
            condition = threading.Condition()
            ready: list[int] = []
            semaphore, barrier = threading.Semaphore(0), threading.Barrier(2)

            def one() -> None:
                for number in range(3):
                    jobs.put(number)
                with condition:
                    assert condition.wait_for(lambda: ready)
                semaphore.release()
                barrier.wait()

            def other() -> None:
                assert [jobs.get() for _ in range(3)] == [0, 1, 2]
                with condition:
                    ready.append(1)
                    condition.notify()
                with semaphore:
                    barrier.wait()

            return Scenario([one, other])

        explore(build, 60, HERE)

    def test_time_passes_only_when_nothing_else_can_happen(self) -> None:
        def build() -> Scenario:
            event, never = threading.Event(), threading.Event()
            order: list[str] = []

            def waits() -> None:
                assert event.wait(0.001), "it timed out although the event was still to come"
                assert not never.wait(1e9)
                order.append("long")

            def sets() -> None:
                event.set()
                assert not never.wait(1.0)
                order.append("short")

            return Scenario([waits, sets], lambda: _equal(order, ["short", "long"]))

        explore(build, 60, HERE)

    def test_a_thread_that_is_started_is_one_more(self) -> None:
        def build() -> Scenario:
            it = Counter()

            def start() -> None:
                thread = threading.Thread(target=it.add, name="another", daemon=True)
                thread.start()
                it.add()
                thread.join()
                assert not thread.is_alive()

            return Scenario([start], lambda: _equal(it.value, 2))

        explore(build, 1, HERE)
        with pytest.raises(ScheduleFailedError, match="1 instead of 2"):
            explore(build, 100, HERE)

    def test_tells_what_fails_at_a_step(self) -> None:
        it = Counter()
        build = partial(Scenario, [it.add], at_each_step=lambda: _equal(it.value, 0))
        with pytest.raises(ScheduleFailedError, match="1 instead of 0"):
            explore(build, 1, HERE)

    def test_a_step_that_fails_cannot_be_swallowed(self) -> None:
        failing = [False]

        def careless() -> None:
            failing[0] = True
            try:
                len(failing)
            except Exception:  # noqa: BLE001 - what foreign code does
                failing[0] = False

        build = partial(Scenario, [careless], at_each_step=lambda: _equal(failing[0], False))
        with pytest.raises(ScheduleFailedError):
            explore(build, 1, HERE)

    def test_tells_of_a_thread_that_gets_nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(schedules, "_STEP_LIMIT", 1000)

        def spin() -> None:
            while True:
                pass

        with pytest.raises(ScheduleFailedError, match="no end after 1000 steps"):
            explore(lambda: Scenario([spin]), 1, HERE)

    def test_tells_of_a_thread_that_blocks_out_of_its_sight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(schedules, "_PATIENCE_SECONDS", 0.05)
        elsewhere = threading.Lock()
        with elsewhere, pytest.raises(ScheduleFailedError, match=r"stuck[\s\S]*elsewhere.acquire"):
            explore(lambda: Scenario([lambda: elsewhere.acquire()]), 1, HERE)

    def test_leaves_the_locks_of_everybody_else_alone(self) -> None:
        before = threading.Lock, type(threading.Lock()), type(threading.RLock())
        with pytest.raises(ScheduleFailedError):
            explore(_counter, 100, HERE)
        assert before == (threading.Lock, type(threading.Lock()), type(threading.RLock()))


# ---------------------------------------------------------------------- the registry


class Watched(Factory):
    """Says what is being constructed. Not one of the `files`: nothing is switched in here, except at its
    locks."""

    constructing = 0
    failures = 0

    def create(self, config: Config, context: CreateContext) -> Backend:
        self.constructing += 1
        try:
            if self.failures:
                self.failures -= 1
                raise OSError("told to fail")
            return super().create(config, context)
        finally:
            self.constructing -= 1


class World:
    """A registry, what is held of it, and what must hold at each step and at the end."""

    def __init__(self, *names: str) -> None:
        self.registry = StorageProviderRegistry()
        self.factories: list[Watched] = []
        self.gone: list[Watched] = []
        self.held: list[TapeStorage] = []
        self.outcomes: list[str] = []
        self.may_lose_it = False  # a registry that is closed takes its storages away
        self.hooks_let_in = False  # others hold what is not committed yet, or never will be
        self._pause = threading.Lock()
        self._seen = self.registry.snapshot()
        for name in names:
            self.register(name)

    def factory(self, name: str, **options: Any) -> Watched:
        factory = Watched(name, **options)
        self.factories.append(factory)
        return factory

    def register(self, name: str, **options: Any) -> None:
        self.registry.register(self.factory(name, **options))

    # -- actions: what may be refused is said, anything else is a failure

    def attempt(self, call: Callable[[], object], *refusals: type[RegistryError]) -> None:
        try:
            call()
        except refusals as error:
            self.outcomes.append(type(error).__name__)
        else:
            self.outcomes.append("done")

    def using(self, take: Callable[[], TapeStorage], *refusals: type[RegistryError]) -> Callable[[], None]:
        """Take a lease, hold it for a while, and give it back."""

        def use() -> None:
            handle = take()
            self.hold(handle)
            self.drop(handle)

        return lambda: self.attempt(use, *refusals)

    def opening(self, name: str = "a", *more: type[RegistryError]) -> Callable[[], None]:
        take = partial(self.registry.open_storage, name)
        return self.using(take, ProviderNotFoundError, ProviderRetiringError, *more)

    def creating(
        self, name: str = "a", instance_id: str | None = None, *more: type[RegistryError]
    ) -> Callable[[], None]:
        take = partial(self.registry.create_storage, name, instance_id=instance_id)
        return self.using(take, ProviderNotFoundError, ProviderRetiringError, *more)

    def unregistering(self, name: str = "a") -> Callable[[], None]:
        def unregister() -> None:
            factory = self.registry.snapshot()[name].factory
            self.registry.unregister(name)
            assert isinstance(factory, Watched)
            self.gone.append(factory)

        return lambda: self.attempt(unregister, ProviderNotFoundError, ProviderInUseError)

    def registering(self, name: str = "a", **options: Any) -> Callable[[], None]:
        return lambda: self.attempt(partial(self.register, name, **options), ProviderExistsError)

    def committing(self, *changes: Change, default: SetDefault | None = None) -> Callable[[], None]:
        """What the reconciler does with what it has prepared."""

        def commit() -> None:
            try:
                committed = self.registry.commit(changes, default)
            except StalePlanError:
                for change in changes:
                    if change.provider is not None:
                        self.registry.discard(change.provider)
                raise
            self.registry.retire(committed)

        return lambda: self.attempt(commit, StalePlanError)

    def hold(self, handle: TapeStorage) -> None:
        self.held.append(handle)
        for _ in range(20):
            with self._pause:
                pass

    def drop(self, handle: TapeStorage) -> None:
        self.held.remove(handle)
        handle.close()

    # -- what a manifest would bring

    def staged(self, name: str = "a", **config: Any) -> Provider:
        factory = self.factory(name)
        return self.registry.stage(ProviderSpec(name, name, config), factory, origin="manifest")

    def change(self, name: str = "a", **config: Any) -> Change:
        return Change(name, self.registry.snapshot().get(name), self.staged(name, **config))

    def removal(self, name: str = "a") -> Change:
        return Change(name, self.registry.snapshot()[name], None)

    # -- what must hold

    def check_step(self) -> None:
        current = self.registry._generations.snapshot
        if current is not self._seen:
            assert current.generation == self._seen.generation + 1
            configs = {p.spec.config.get("n") for p in current.values()}
            assert len(configs) < 2, "a mix of two generations"
            assert current.default is None or current.default in current, "the default is not there"
            self._seen = current
        for handle in self.held if not self.may_lose_it else ():
            backend = handle.use.source.backend
            assert isinstance(backend, Backend)
            assert not backend.close_count, "a storage was closed under its holder"
            seen = handle.provider in current or self.hooks_let_in
            assert seen, "a lease on a provider that is gone"
        for factory in self.gone:
            assert not factory.constructing, "a storage of a provider that is gone"
            for handle in self.held:
                assert handle.use.source.backend not in factory.backends, "a lease on a provider that is gone"

    def check_end(self) -> None:
        assert not self.held
        serving = [provider.factory for provider in self.registry.snapshot().values()]
        for info in self.registry.list_providers():
            assert info.state == "active", "nobody has let the retiring one go"
            assert info.instance_count == 0, "a lease is left"
        for factory in self.factories:
            assert factory.open_count <= (1 if factory in serving else 0), "a storage was left open"
            assert all(backend.close_count < 2 for backend in factory.backends), "closed twice"
        self.registry.close()
        for factory in self.factories:
            assert factory.open_count == 0
            assert all(backend.close_count == 1 for backend in factory.backends)

    def scenario(self, *actions: Callable[[], object], at_end: Callable[[], None] | None = None) -> Scenario:
        def check() -> None:
            if at_end is not None:
                at_end()
            self.check_end()

        self._seen = self.registry.snapshot()
        return Scenario(actions, check, self.check_step)


def _failing_at_its_end(*, from_run: int, run: int) -> Scenario:
    def fail() -> None:
        assert run < from_run

    world = World("a")
    return world.scenario(world.opening(), world.unregistering(), at_end=fail)


def open_and_unregister() -> Scenario:
    world = World("a")
    return world.scenario(world.opening(), world.unregistering())


def create_and_unregister() -> Scenario:
    world = World("a")
    return world.scenario(world.creating(), world.unregistering())


def two_open_and_one_unregisters() -> Scenario:
    world = World("a")

    def once() -> None:
        assert world.factories[0].create_count <= 1, "constructed twice"

    return world.scenario(world.opening(), world.opening(), world.unregistering(), at_end=once)


def a_name_is_taken_from_one_and_given_to_another() -> Scenario:
    world = World("a")
    return world.scenario(world.unregistering(), world.registering(), world.opening())


def two_register_one_name() -> Scenario:
    world = World()

    def one_winner() -> None:
        assert sorted(world.outcomes[-3:]).count("done") >= 1
        assert len(world.registry) == 1

    world.registry.add_init_hook(lambda name: world.registry.open_storage(name).close())
    return world.scenario(world.registering(), world.registering(), world.opening(), at_end=one_winner)


def the_last_lease_is_closed_and_unregistered() -> Scenario:
    world = World("a")
    handle = world.registry.create_storage("a")
    return world.scenario(handle.close, world.unregistering(), world.opening())


def one_handle_is_closed_by_two() -> Scenario:
    world = World("a")
    handle, other = world.registry.create_storage("a"), world.registry.open_storage("a")

    def both() -> None:
        handle.close()
        other.close()

    return world.scenario(both, both, world.unregistering())


def the_default_changes_while_it_is_used() -> Scenario:
    world = World("a", "b")
    world.registry.set_default("a")

    def move() -> None:
        world.registry.set_default("b")
        world.unregistering("a")()

    take = world.registry.get_default_storage
    return world.scenario(move, world.using(take), world.using(take))


def three_change_the_registry() -> Scenario:
    world = World("a", "b")

    def nothing_is_lost() -> None:
        assert list(world.registry) == ["b", "c"]
        assert world.registry.snapshot().default == "b"

    default = partial(world.registry.set_default, "b")
    return world.scenario(default, world.registering("c"), world.unregistering("a"), at_end=nothing_is_lost)


def it_is_closed_while_it_is_used() -> Scenario:
    world = World("a", "b")
    world.may_lose_it = True
    handle = world.registry.open_storage("b")

    def close() -> None:
        handle.close()
        handle.close()

    return world.scenario(world.registry.close, close, world.creating("a"))


def it_is_overridden_while_it_is_used() -> Scenario:
    world = World("a")
    world.registry.open_storage("a").close()
    other = world.factory("a")

    def override() -> None:
        with world.registry.override("a", other), world.registry.open_storage("a") as handle:
            assert handle.use.source.backend in other.backends
            world.hold(handle)
            world.held.remove(handle)

    def restored() -> None:
        assert world.registry.snapshot()["a"].factory is world.factories[0]
        assert world.factories[0].create_count == 1, "what was open was not used again"

    return world.scenario(override, world.opening(), world.opening(), at_end=restored)


def two_overrides_overlap() -> Scenario:
    world = World("a")

    def override() -> None:
        with world.registry.override("a", world.factory("a")):
            world.opening()()

    def restored() -> None:
        assert world.registry.snapshot()["a"].factory is world.factories[0]

    return world.scenario(override, override, world.opening(), at_end=restored)


def a_handle_is_dropped() -> Scenario:
    """Unclosed; the next operation of whichever thread gives its lease back."""
    world = World("a")
    handles = [world.registry.create_storage("a"), world.registry.open_storage("a")]

    def sweep() -> None:
        world.registry.sweep()

    return world.scenario(handles.clear, world.opening(), world.unregistering(), at_end=sweep)


def reload_while_it_is_used() -> Scenario:
    world = World("a")
    return world.scenario(world.opening(), world.committing(world.change()), world.opening())


def reload_of_all_is_one_generation() -> Scenario:
    world = World()
    changes = [world.change("a", n=1), world.change("b", n=1)]
    world.registry.commit(changes, SetDefault("a"))
    follow = [world.change("a", n=2), world.change("b", n=2)]

    def read() -> None:
        for infos in (world.registry.list_providers(), world.registry.list_providers()):
            assert len({info.revision for info in infos if info.state == "active"}) <= 1
        with world.registry.get_default_storage() as handle:
            world.hold(handle)
            world.held.remove(handle)

    return world.scenario(world.committing(*follow, default=SetDefault("b")), read, read)


def removed_by_a_reload_while_it_is_used() -> Scenario:
    world = World("a")
    left: list[str] = []
    world.registry.on_retired(left.append)

    def told_once() -> None:
        assert left in ([], ["a"]), "it was told more than once that it had left"
        assert len(world.registry) == 0

    reload = world.committing(world.removal())
    return world.scenario(world.opening(), reload, world.creating(), at_end=told_once)


def removed_and_declared_again_before_the_last_lease_has_gone() -> Scenario:
    world = World("a")
    handle = world.registry.open_storage("a")
    world.committing(world.removal())()
    retiring = world.registry.snapshot()["a"]
    again = Change("a", retiring, retiring)
    return world.scenario(handle.close, world.committing(again), world.opening())


def of_two_plans_one_is_stale() -> Scenario:
    world = World("a")
    one, other = world.change(), world.change()

    def one_wins() -> None:
        assert sorted(world.outcomes[-2:]) == ["StalePlanError", "done"]

    return world.scenario(world.committing(one), world.committing(other), at_end=one_wins)


def _hook_that_lets_another_thread_in(world: World, hook: Callable[[], object]) -> Scenario:
    contexts: queue.Queue[Context] = queue.Queue()
    world.hooks_let_in = True

    def pass_on(name: str) -> None:
        contexts.put(copy_context())
        world.attempt(partial(world.registry.get_provider_info, name))
        hook()

    world.registry.add_init_hook(pass_on)
    use = world.creating()
    return world.scenario(
        lambda: world.attempt(world.registering(), InitHookError),
        lambda: contexts.get().run(use),
    )


def a_hook_accepts_what_another_thread_uses() -> Scenario:
    return _hook_that_lets_another_thread_in(World(), lambda: None)


def a_hook_refuses_what_another_thread_uses() -> Scenario:
    return _hook_that_lets_another_thread_in(World(), lambda: 1 / 0)


def an_instance_id_is_asked_for_by_two_and_looked_for() -> Scenario:
    world = World("a")
    find = partial(world.registry.find_instance, "i")
    return world.scenario(
        world.creating("a", "i", InstanceExistsError),
        world.creating("a", "i", InstanceExistsError),
        world.using(find, InstanceNotFoundError),
    )


def an_instance_is_found_and_closed() -> Scenario:
    world = World("a")
    handle = world.registry.create_storage("a", instance_id="i")
    find = partial(world.registry.find_instance, "i")
    return world.scenario(
        handle.close, world.using(find, InstanceNotFoundError), world.using(find, InstanceNotFoundError)
    )


def a_construction_fails_while_others_wait() -> Scenario:
    world = World("a")
    world.factories[0].failures = 1

    def told_to_who_was_there() -> None:
        assert world.outcomes.count("CreationFailedError") + world.outcomes.count("done") == 2
        assert "CreationFailedError" in world.outcomes

    opening = world.opening("a", CreationFailedError)
    return world.scenario(opening, opening, at_end=told_to_who_was_there)


def a_storage_stands_on_another_that_shall_leave() -> Scenario:
    world = World("below")
    world.register("above", on_create=lambda _, context: context.open("below"))
    return world.scenario(
        world.creating("above", None, CreationFailedError),
        world.unregistering("below"),
        world.unregistering("above"),
    )


def two_need_each_other() -> Scenario:
    world = World()
    world.register("a", on_create=lambda _, context: context.open("b"))
    world.register("b", on_create=lambda _, context: context.open("a"))

    def nobody_timed_out() -> None:
        assert set(world.outcomes) == {"DependencyCycleError"}

    return world.scenario(
        world.opening("a", DependencyCycleError),
        world.opening("b", DependencyCycleError),
        at_end=nobody_timed_out,
    )


SCENARIOS: list[Callable[[], Scenario]] = [
    open_and_unregister,
    create_and_unregister,
    two_open_and_one_unregisters,
    a_name_is_taken_from_one_and_given_to_another,
    two_register_one_name,
    the_last_lease_is_closed_and_unregistered,
    one_handle_is_closed_by_two,
    the_default_changes_while_it_is_used,
    three_change_the_registry,
    it_is_closed_while_it_is_used,
    it_is_overridden_while_it_is_used,
    two_overrides_overlap,
    a_handle_is_dropped,
    reload_while_it_is_used,
    reload_of_all_is_one_generation,
    removed_by_a_reload_while_it_is_used,
    removed_and_declared_again_before_the_last_lease_has_gone,
    of_two_plans_one_is_stale,
    a_hook_accepts_what_another_thread_uses,
    a_hook_refuses_what_another_thread_uses,
    an_instance_id_is_asked_for_by_two_and_looked_for,
    an_instance_is_found_and_closed,
    a_construction_fails_while_others_wait,
    a_storage_stands_on_another_that_shall_leave,
    two_need_each_other,
]


@pytest.mark.filterwarnings("ignore:.*dropped without close:ResourceWarning")
@pytest.mark.parametrize("build", SCENARIOS, ids=lambda build: build.__name__)
class TestTheRegistry:
    def test_holds_in_every_order(self, build: Callable[[], Scenario]) -> None:
        explore(build, 30, CORE)

    @pytest.mark.ci
    def test_holds_in_many_orders(self, build: Callable[[], Scenario]) -> None:
        explore(build, 500, CORE)

    @pytest.mark.long
    def test_holds_in_a_great_many_orders(self, build: Callable[[], Scenario]) -> None:
        explore(build, 2000, CORE)
