"""Any sequence of operations on a registry, beside a model that does the same in one thread with plain
lists: what is registered, which revision serves, what is open, who holds it, and what is closed when."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shadowcat_registry.backend import CreateContext
from shadowcat_registry.errors import (
    CreationFailedError,
    DefaultNotSetError,
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

from .fakes import Backend, Factory

SELDOM = st.integers(0, 9).map(lambda number: number == 7)
NAMES = st.sampled_from(["a", "b", "filesystem"])
IDS = st.sampled_from(["one", "two"])


@dataclass(eq=False)
class Revision:
    """A provider as of one generation, in the model."""

    name: str
    number: int
    below: str | None
    """What its storage stands on."""
    superseded: bool = False
    shared: Opening | None = None
    openings: list[Opening] = field(default_factory=list)


@dataclass(eq=False)
class Opening:
    revision: Revision
    is_shared: bool
    instance_id: str | None = None
    leases: list[Lease] = field(default_factory=list)
    below: Lease | None = None
    backend: Backend | None = None
    """The real one, where a handle has shown it."""


@dataclass(eq=False)
class Lease:
    opening: Opening
    of_default: bool = False
    handle: TapeStorage | None = None
    """None: it is a storage above that holds this one."""


class Model:
    def __init__(self) -> None:
        self.current: dict[str, Revision] = {}
        self.retiring: set[str] = set()
        self.older: list[Revision] = []
        self.default: str | None = None
        self.failing: set[str] = set()

    def openings(self, name: str) -> list[Opening]:
        revisions = {*self.older, *self.current.values()}
        return [o for revision in revisions if revision.name == name for o in revision.openings]

    def lease_count(self, name: str) -> int:
        return sum(len(opening.leases) for opening in self.openings(name))

    def find(self, name: str) -> Revision:
        if name not in self.current:
            raise ProviderNotFoundError(name)
        return self.current[name]

    def usable(self, name: str) -> Revision:
        revision = self.find(name)
        if name in self.retiring:
            raise ProviderRetiringError(name)
        return revision

    def instance(self, instance_id: str) -> Opening | None:
        every = [o for name in {*self.current, *(r.name for r in self.older)} for o in self.openings(name)]
        return next((opening for opening in every if opening.instance_id == instance_id), None)

    def open(self, name: str | None, chain: tuple[Revision, ...] = ()) -> Lease:
        wanted = name
        if wanted is None:
            wanted = self.default or "filesystem"
            if self.default is None and wanted not in self.current:
                raise DefaultNotSetError
        revision = self.usable(wanted)
        if revision in chain:
            raise DependencyCycleError([])
        if revision.shared is None:
            opening = Opening(revision, is_shared=True)
            self._construct(opening, chain)
            revision.shared = opening
        return self.lease(revision.shared, of_default=name is None)

    def create(self, name: str, instance_id: str | None) -> Lease:
        revision = self.usable(name)
        if instance_id is not None and self.instance(instance_id) is not None:
            raise InstanceExistsError(instance_id, "")
        opening = Opening(revision, is_shared=False, instance_id=instance_id)
        self._construct(opening, ())
        return self.lease(opening)

    def _construct(self, opening: Opening, chain: tuple[Revision, ...]) -> None:
        revision = opening.revision
        if revision.below is not None:
            try:
                opening.below = self.open(revision.below, (*chain, revision))
            except DependencyCycleError:
                raise
            except RegistryError as error:
                raise CreationFailedError(revision.name, "") from error
        if revision.name in self.failing:
            if opening.below is not None:
                self.release(opening.below)
            raise CreationFailedError(revision.name, "")
        revision.openings.append(opening)

    def lease(self, opening: Opening, *, of_default: bool = False) -> Lease:
        lease = Lease(opening, of_default)
        opening.leases.append(lease)
        return lease

    def release(self, lease: Lease) -> None:
        opening = lease.opening
        if lease not in opening.leases:  # the registry was closed under it
            return
        opening.leases.remove(lease)
        if not opening.leases and (not opening.is_shared or opening.revision.superseded):
            self.close(opening)
        self.settle(opening.revision.name)

    def close(self, opening: Opening) -> None:
        revision = opening.revision
        revision.openings.remove(opening)
        if revision.shared is opening:
            revision.shared = None
        if opening.below is not None:
            self.release(opening.below)

    def settle(self, name: str) -> None:
        if name in self.retiring and not self.openings(name):
            self.retiring.remove(name)
            self.older.append(self.current.pop(name))

    def supersede(self, revision: Revision) -> None:
        revision.superseded = True
        if revision.shared is not None and not revision.shared.leases:
            self.close(revision.shared)

    def replace(self, name: str, below: str | None) -> None:
        old = self.current.get(name)
        number = 1
        if old is not None:
            number = old.number + 1
            self.older.append(old)
        self.current[name] = Revision(name, number, below)
        self.retiring.discard(name)
        if old is not None:
            self.supersede(old)

    def remove(self, name: str) -> None:
        if self.lease_count(name):
            self.retiring.add(name)
            self.supersede(self.current[name])
            self.settle(name)
        else:
            revision = self.current.pop(name)
            self.older.append(revision)
            self.supersede(revision)

    def close_all(self) -> None:
        for revision in {*self.older, *self.current.values()}:
            for opening in revision.openings:
                opening.leases.clear()
            revision.openings.clear()
        self.__init__()  # type: ignore[misc]  # it starts anew


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registry = StorageProviderRegistry(construction_timeout_seconds=5)
        self.model = Model()
        self.factories: list[Factory] = []
        self.leases: list[Lease] = []
        self.backends: dict[int, Opening] = {}
        self.refused: set[str] = set()
        self.close_fails = False
        self.registry.add_init_hook(self._hook)
        self.seen, self.generation = self._visible(), 0
        self.may_be_a_generation = False  # new labels, or a new one that is like the old one

    def _hook(self, name: str) -> None:
        if name in self.refused:
            with self.registry.open_storage(name):
                raise RuntimeError("told to refuse")

    def _factory(self, name: str, below: str | None) -> Factory:
        def create(_: Config, context: CreateContext) -> None:
            if below is not None:
                context.open(below)
            if context.provider in self.model.failing:
                raise OSError("told to fail")

        def close() -> None:
            if self.close_fails:
                raise OSError("told to fail")

        factory = Factory(name, on_create=create, on_close=close)
        self.factories.append(factory)
        return factory

    def _visible(self) -> tuple[Any, ...]:
        snapshot = self.registry.snapshot()
        return [(p.name, p.state, p.revision) for p in snapshot.values()], snapshot.default

    def both(self, call: Callable[[], Any], expected: Callable[[], Any]) -> tuple[Any, Any]:
        """The same on both sides: the same kind of error, or no error."""
        refusal: RegistryError | None = None
        modelled: Any = None
        try:
            modelled = expected()
        except RegistryError as error:
            refusal = error
        if refusal is None:
            return call(), modelled
        with pytest.raises(type(refusal)):
            call()
        return None, None

    def acquire(self, call: Callable[[], TapeStorage], expected: Callable[[], Lease]) -> None:
        handle, lease = self.both(call, expected)
        if handle is None:
            return
        lease.handle = handle
        opening = lease.opening
        assert isinstance(handle.use.source.backend, Backend)
        assert opening.backend in (None, handle.use.source.backend), "two backends where there should be one"
        opening.backend = handle.use.source.backend
        assert self.backends.setdefault(id(handle.use.source.backend), opening) is opening, (
            "one backend twice"
        )
        assert (handle.provider, handle.revision) == (opening.revision.name, opening.revision.number)
        self.leases.append(lease)

    # -- providers

    @initialize()
    def begin(self) -> None:
        for name in ("a", "b"):
            self.register(name, None, refused=False)

    @rule(name=NAMES, below=st.none() | NAMES, refused=SELDOM)
    def register(self, name: str, below: str | None, refused: bool) -> None:
        self.refused = {name} if refused else set()

        def expected() -> None:
            if name in self.model.current:
                raise ProviderExistsError(name)
            self.model.replace(name, below)
            if refused:
                with suppress(RegistryError):
                    self.model.release(self.model.open(name))
                self.model.remove(name)
                raise InitHookError(name, "", "")

        self.both(lambda: self.registry.register(self._factory(name, below)), expected)
        self.refused = set()

    @rule(name=NAMES)
    def unregister(self, name: str) -> None:
        def expected() -> None:
            self.model.find(name)
            if self.model.lease_count(name):
                raise ProviderInUseError(name, self.model.lease_count(name))
            self.model.remove(name)

        self.both(lambda: self.registry.unregister(name), expected)

    @rule(name=NAMES)
    def set_default(self, name: str) -> None:
        def expected() -> None:
            self.model.default = self.model.usable(name).name

        self.both(lambda: self.registry.set_default(name), expected)

    @rule(
        wishes=st.dictionaries(NAMES, st.sampled_from(["new", "remove", "again"]), min_size=1, max_size=3),
        below=st.none() | NAMES,
        default=st.none() | NAMES,
        stale=SELDOM,
        warm=st.booleans(),
    )
    def commit(
        self, wishes: dict[str, str], below: str | None, default: str | None, stale: bool, warm: bool
    ) -> None:
        """As the reconciler does it; `stale`: somebody else has changed one of the providers meanwhile."""
        changes: list[Change] = []
        snapshot = self.registry.snapshot()
        for name, wish in wishes.items():
            existing = snapshot.get(name)
            if wish == "new" or existing is None:
                # What it stands on may be part of this plan: not in this model.
                changes.append(Change(name, existing, self._stage(name, None if warm else below)))
            else:
                changes.append(Change(name, existing, None if wish == "remove" else existing))
        staged = [c.provider for c in changes if c.provider is not None and c.provider is not c.expected]
        warmed: list[Provider] = []
        with self.registry.staging(staged):
            for provider in staged if warm else ():
                if provider.name not in self.model.failing:
                    self.registry.warm(provider)
                    warmed.append(provider)
        left = {change.name for change in changes if change.provider is not None} | {
            name for name in snapshot if wishes.get(name) != "remove"
        }
        wanted = SetDefault(default) if default in left else None
        if stale:
            self._commit_stale(changes, staged, wanted)
            return
        self.may_be_a_generation = True
        committed = self.registry.commit(changes, wanted)
        self.registry.retire(committed)
        for change in changes:
            name = change.name
            if change.provider is None:
                self.model.remove(name)
            elif change.provider is change.expected:
                self.model.retiring.discard(name)
                self.model.current[name].superseded = False
            else:
                self.model.replace(name, None if warm else below)
                if change.provider in warmed:
                    revision = self.model.current[name]
                    revision.shared = Opening(revision, is_shared=True)
                    revision.openings.append(revision.shared)
        if wanted is not None:
            self.model.default = wanted.name

    @precondition(lambda self: self.leases)
    @rule(position=st.integers(0, 100), wish=st.sampled_from(["new", "remove"]), below=st.none() | NAMES)
    def commit_what_is_held(self, position: int, wish: str, below: str | None) -> None:
        name = self.leases[position % len(self.leases)].opening.revision.name
        if name in self.model.current:
            self.commit({name: wish}, below, default=None, stale=False, warm=False)

    def _stage(self, name: str, below: str | None) -> Provider:
        factory = self._factory(name, below)
        return self.registry.stage(ProviderSpec(name, name, {}), factory, origin="manifest")

    def _commit_stale(
        self, changes: list[Change], staged: list[Provider], default: SetDefault | None
    ) -> None:
        other = self._stage(changes[-1].name, None)
        changes[-1] = Change(changes[-1].name, other, changes[-1].provider)
        with pytest.raises(StalePlanError):
            self.registry.commit(changes, default)
        for provider in staged:
            self.registry.discard(provider)
        self.registry.discard(other)

    @rule(names=st.sets(NAMES, max_size=1), close_fails=SELDOM)
    def fail(self, names: set[str], close_fails: bool) -> None:
        self.model.failing = names
        self.close_fails = close_fails

    # -- storages

    @rule(name=st.none() | NAMES)
    def open(self, name: str | None) -> None:
        call = (
            self.registry.get_default_storage if name is None else partial(self.registry.open_storage, name)
        )
        self.acquire(call, lambda: self.model.open(name))

    @rule(name=NAMES, instance_id=st.none() | IDS)
    def create(self, name: str, instance_id: str | None) -> None:
        self.acquire(
            lambda: self.registry.create_storage(name, instance_id=instance_id),
            lambda: self.model.create(name, instance_id),
        )

    @rule(instance_id=IDS)
    def find_instance(self, instance_id: str) -> None:
        def expected() -> Lease:
            opening = self.model.instance(instance_id)
            if opening is None:
                raise InstanceNotFoundError(instance_id)
            if opening.revision.name in self.model.retiring:
                raise ProviderRetiringError(opening.revision.name)
            return self.model.lease(opening)

        self.acquire(lambda: self.registry.find_instance(instance_id), expected)

    @precondition(lambda self: self.leases)
    @rule(position=st.integers(0, 100), twice=st.booleans())
    def close(self, position: int, twice: bool) -> None:
        lease = self.leases.pop(position % len(self.leases))
        assert lease.handle is not None
        lease.handle.close()
        if twice:
            lease.handle.close()
        assert lease.handle.closed
        self.model.release(lease)

    if hasattr(StorageProviderRegistry, "sweep"):

        @precondition(lambda self: self.leases)
        @rule(position=st.integers(0, 100))
        def drop(self, position: int) -> None:
            """The program forgets a handle; whoever has lost it with its registry is told nothing more."""
            lease = self.leases.pop(position % len(self.leases))
            lost = lease not in lease.opening.leases
            lease.handle = None
            gc.collect(0)
            warned: AbstractContextManager[object] = nullcontext()
            if not lost:
                warned = pytest.warns(ResourceWarning, match=lease.opening.revision.name)
            with warned:
                self.registry.sweep()
            self.model.release(lease)

    @rule(really=SELDOM)
    def close_registry(self, really: bool) -> None:
        if not really:
            return
        failing = self.model.failing
        self.registry.close()
        self.model.close_all()
        self.model.failing = failing

    # -- what is the same on both sides

    @invariant()
    def is_as_modelled(self) -> None:
        infos = self.registry.list_providers()
        assert [info.name for info in infos] == list(self.registry)
        assert {info.name for info in infos} == set(self.model.current)
        for info in infos:
            model = self.model.current[info.name]
            assert info.state == ("retiring" if info.name in self.model.retiring else "active")
            assert info.revision == model.number
            assert info.instance_count == self.model.lease_count(info.name)
            assert len(self.registry.holders(info.name)) == info.instance_count
            assert info.is_default == (info.name == (self.model.default or "filesystem"))
        assert self.registry.snapshot().default == self.model.default

    @invariant()
    def nobody_lost_what_is_held(self) -> None:
        for lease in self.leases:
            handle, opening = lease.handle, lease.opening
            assert handle is not None
            assert not handle.closed
            assert opening.backend is not None
            assert opening.backend.close_count == (lease not in opening.leases)
            if lease in opening.leases:
                default = self.model.default or "filesystem"
                moved = lease.of_default and opening.revision.name != default
                assert handle.superseded == (opening.revision.superseded or moved)

    @invariant()
    def everything_else_is_closed_once(self) -> None:
        names = {revision.name for revision in {*self.model.older, *self.model.current.values()}}
        modelled = [opening for name in names for opening in self.model.openings(name)]
        assert sum(factory.open_count for factory in self.factories) == len(modelled)
        assert all(backend.close_count < 2 for factory in self.factories for backend in factory.backends)

    @invariant()
    def each_change_is_a_generation(self) -> None:
        visible, generation = self._visible(), self.registry.snapshot().generation
        if visible != self.seen:
            assert generation > self.generation
        elif not self.may_be_a_generation:
            assert generation == self.generation
        self.seen, self.generation, self.may_be_a_generation = visible, generation, False

    def teardown(self) -> None:
        self.registry.close()
        assert all(factory.open_count == 0 for factory in self.factories)
        for lease in self.leases:
            assert lease.handle is not None
            lease.handle.close()


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=60, stateful_step_count=50)


@pytest.mark.long
def test_at_length() -> None:
    run_state_machine_as_test(RegistryMachine, settings=settings(max_examples=3000, stateful_step_count=60))
