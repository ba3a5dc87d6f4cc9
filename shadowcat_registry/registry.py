"""The live set of providers of a process, safe to use from any thread.

Reads look at one immutable snapshot and never wait. Writes build the next snapshot and swap it under
the only lock over registry state; factories, hooks and backends are always called outside of it. The
registry knows no manifest and no file: the reconciler drives it through `stage`, `run_hooks`, `warm`,
`commit` and `discard`, which are also what `register` is made of.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from inspect import isawaitable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from . import forks
from .backend import StorageProviderFactory, TapeStorageBackend
from .configs import check, complete, complete_unchecked, config_of
from .errors import (
    DefaultNotSetError,
    InitHookError,
    InstanceNotFoundError,
    InvalidConfigError,
    InvalidNameError,
    ProviderExistsError,
    ProviderInUseError,
    ProviderNotFoundError,
    ProviderRetiringError,
    RegistryError,
    RunningLoopError,
    RuntimeClosedError,
    StalePlanError,
)
from .exits import close_at_exit
from .leases import Caller, Lease, Opening, Revision, caller, find_caller
from .metadata import (
    Config,
    Holder,
    Origin,
    ProviderCapability,
    ProviderInfo,
    ProviderSpec,
    Unclosed,
    is_valid_name,
)
from .openings import CLOSE_PATIENCE_SECONDS, Openings
from .overrides import stand_in
from .schema import check_schema
from .snapshot import Provider, Snapshot, describe
from .storage import TapeStorage, translate

if TYPE_CHECKING:
    from .aio import LoopThread

FALLBACK_DEFAULT: Final = "filesystem"
"""What `get_default_storage` opens as long as nobody has set a default."""

InitHook = Callable[[str], object]
"""A plain function or a coroutine function."""
RetiredListener = Callable[[str], object]

_logger = logging.getLogger(__name__)

# What is being registered in this thread (or a task that copied its context): visible to its hooks
# and factories only, until it is committed.
_staged: ContextVar[tuple[tuple[StorageProviderRegistry, Mapping[str, Provider]], ...]] = ContextVar(
    "staged", default=()
)


@dataclass(frozen=True, slots=True)
class Change:
    """One provider's part of a commit: it becomes `provider`, or leaves if that is None.

    `expected` is what was there when the change was planned; the commit is refused if it no longer is.
    """

    name: str
    expected: Provider | None
    provider: Provider | None


@dataclass(frozen=True, slots=True)
class SetDefault:
    """The other part of a commit: from now on, the default is this one (None: nobody set one)."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did: the generation that it made, and who could not leave yet."""

    generation: int
    retiring: tuple[str, ...] = ()
    superseded: tuple[Opening, ...] = field(default=(), repr=False)
    """Idle backends of superseded revisions, for `retire` to close."""


class StorageProviderRegistry:
    """Providers by name, the storages opened from them, and who holds those.

    `base_directory` is what relative paths in configs are relative to (default: the working directory
    at the time of use). A caller that needs a storage which somebody else is just constructing waits at
    most `construction_timeout_seconds`. `capture_acquisition=False` saves the walk to the caller's frame
    (about half a microsecond a lease, more in a deep stack of this package); holders are then `unknown`.

    Whatever is still open when the interpreter exits is closed then. A forked child has the providers and
    opens storages of its own; what is open in the parent is neither used nor touched there.
    """

    def __init__(
        self,
        *,
        base_directory: Path | None = None,
        construction_timeout_seconds: float = 30.0,
        capture_acquisition: bool = True,
    ) -> None:
        self._base_directory = base_directory
        # Guards every change of the fields below and of the records in leases.py. Nothing foreign is
        # called under it: no factory, hook, backend, listener; no handler of a log either.
        self._lock = threading.Lock()
        self._snapshot = Snapshot({}, None, 0)
        self._openings = Openings(
            self._lock, construction_timeout_seconds, self._settle, self._tell_left, self._is_default
        )
        self._note_dropped = self._openings.note_dropped
        self._hooks: tuple[InitHook, ...] = ()
        self._retired_listeners: tuple[RetiredListener, ...] = ()
        # Of overridden providers: what was there first, then what has come over it.
        self._layers: dict[str, list[Provider]] = {}
        self._loop_thread: LoopThread | None = None
        self._find_caller = find_caller if capture_acquisition else partial(caller, "unknown")
        forks.in_child(self, StorageProviderRegistry._start_anew)

    # ------------------------------------------------------------------ reading, never waits

    def snapshot(self) -> Snapshot:
        """The whole of one generation; take one for a decision of several steps."""
        return self._snapshot

    def __contains__(self, name: object) -> bool:
        return name in self._snapshot

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshot)

    def __len__(self) -> int:
        return len(self._snapshot)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._snapshot!r}>"

    def list_providers(self) -> list[ProviderInfo]:
        """All providers in the order of their registration, the retiring ones included."""
        snapshot = self._snapshot
        return [self._info(provider, snapshot) for provider in snapshot.values()]

    def find_by_capability(self, capability: ProviderCapability | str) -> list[str]:
        """Names of the providers that can do this and give out leases.

        Raises:
            ValueError: there is no such capability.
        """
        wanted = ProviderCapability(capability)
        return [
            provider.name
            for provider in self._snapshot.values()
            if wanted in provider.metadata.capabilities and provider.state == "active"
        ]

    def get_provider_info(self, name: str) -> ProviderInfo:
        """One provider as it stands; a hook also finds the one that it is asked about.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        return self._info(self._find(name), self._snapshot)

    def get_default_config(self, name: str) -> dict[str, Any]:
        """A copy of what `create_storage(name)` uses where the caller says nothing. It may hold secrets.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        return deepcopy(dict(self._find(name).spec.config))

    def holders(self, name: str) -> list[Holder]:
        """Who holds a lease of this provider, on whatever revision, the oldest first.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        self._find(name)
        return self._openings.holders(name)

    def health(self, name: str) -> str:
        """Ask the provider whether its storage could be opened now: `healthy`, `failing: …`, or `unknown`
        where its type has no `check`. Touches nothing.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        provider = self._find(name)
        probe = getattr(provider.factory, "check", None)
        if probe is None:
            return "unknown"
        opening = Opening(provider.live, shared=False)
        try:
            probe(config_of(provider, self._base_directory_of(provider)), _Context(self, provider, opening))
        except Exception as error:  # noqa: BLE001 - foreign code; whatever it raises is the answer
            return f"failing: {translate(error)}"
        finally:
            self._openings.close(opening)
        return "healthy"

    # ------------------------------------------------------------------ providers

    def register(
        self,
        factory: StorageProviderFactory,
        *,
        name: str | None = None,
        config: Config | None = None,
        display_name: str | None = None,
        replaceable: bool = False,
    ) -> None:
        """Add a provider, called as its factory unless `name` says otherwise.

        Its config is checked now if there is one, else when it is used. Nobody sees the provider before
        every init hook has accepted it. `replaceable`: a manifest may declare a provider of this name,
        which then takes its place.

        Raises:
            ProviderExistsError, InvalidNameError, TypeError: the name is taken, or it is none, or the
                factory is none.
            InvalidConfigError: the config is refused, or the schema of the type is broken.
            InitHookError: a hook refused it. Nothing is left behind.
        """
        provider = self._stage_new(factory, name, config, display_name, replaceable=replaceable)
        try:
            with self.staging([provider]):
                self.run_hooks(provider)
            self._commit_new(provider)
        except BaseException:
            self.discard(provider)
            raise

    async def aregister(
        self,
        factory: StorageProviderFactory,
        *,
        name: str | None = None,
        config: Config | None = None,
        display_name: str | None = None,
        replaceable: bool = False,
    ) -> None:
        """`register`, awaited. Coroutine functions among the hooks run in this loop, plain ones off it. If
        it is cancelled, nothing is left behind."""
        from .aio import call_here, off_loop

        stage = partial(self._stage_new, factory, name, config, display_name, replaceable=replaceable)
        provider = await off_loop(stage)
        try:
            with self.staging([provider]):
                for hook in self._hooks:
                    with _refusals(provider.name, hook):
                        await call_here(hook, provider.name)
            self._commit_new(provider)  # in this thread: a cancellation comes before it or after it
        except BaseException:
            await off_loop(partial(self.discard, provider))
            raise

    def _stage_new(
        self,
        factory: StorageProviderFactory,
        name: str | None,
        config: Config | None,
        display_name: str | None,
        *,
        replaceable: bool,
    ) -> Provider:
        self._openings.drain()
        type_name = getattr(factory, "name", "")  # `stage` says what is missing
        spec = ProviderSpec(name or type_name, type_name, dict(config or {}), display_name)
        if spec.name in self._snapshot:
            raise ProviderExistsError(spec.name)
        return self.stage(spec, factory, replaceable=replaceable, unchecked=config is None)

    def _commit_new(self, provider: Provider) -> None:
        try:
            self.commit([Change(provider.name, None, provider)])
        except StalePlanError:
            raise ProviderExistsError(provider.name) from None

    def unregister(self, name: str) -> None:
        """Take a provider away, if nobody holds a lease of it.

        Raises:
            ProviderNotFoundError: there is none of that name.
            ProviderInUseError: it has leases; says whose. Nothing is changed.
        """
        self._openings.drain()
        with self._lock:
            provider = self._snapshot[name]
            if self._openings.lease_count(name):
                holders = self._openings.holders(name)
                raise ProviderInUseError(name, len(holders), holders)
            committed = self._commit([Change(name, provider, None)], None)
        self.retire(committed)

    async def aunregister(self, name: str) -> None:
        """`unregister`, awaited. Once begun, it goes on also if it is cancelled."""
        from .aio import off_loop

        await off_loop(partial(self.unregister, name))

    def set_default(self, name: str) -> None:
        """From now on, `get_default_storage` opens this provider.

        Raises:
            ProviderNotFoundError: there is none of that name.
            ProviderRetiringError: it gives out no new lease.
        """
        with self._lock:
            if self._snapshot[name].state == "retiring":
                raise ProviderRetiringError(name, self._snapshot.default)
            self._commit([], SetDefault(name))

    def add_init_hook(self, hook: InitHook) -> None:
        """Ask `hook(name)` about every provider that is added, or whose type changes, from now on.

        It runs before anybody else sees the provider, may use the registry, and refuses by raising. A
        coroutine function runs in the loop of whoever awaits `aregister`, otherwise in a loop of the
        registry's own; `register` called inside of a running loop refuses it.
        """
        with self._lock:
            self._hooks = (*self._hooks, hook)

    @contextmanager
    def override(self, name: str, other: StorageProviderFactory | TapeStorageBackend) -> Iterator[None]:
        """For a test: within the block, in every thread, this factory or backend is the provider `name`.

        What is open stays open, and is used again after the block. A factory gets the defaults of its own
        schema as its config; a backend is not closed. Blocks may overlap in any order: the youngest
        counts. A change of the provider that is committed meanwhile counts more than any override.

        Raises:
            ProviderNotFoundError, ProviderRetiringError: there is nothing to override.
        """
        self._openings.drain()
        with self._lock:
            base = self._snapshot[name]
            if base.state == "retiring":
                raise ProviderRetiringError(name, self._snapshot.default)
        layer = stand_in(base, other)
        with self._lock:
            base = self._snapshot[name]
            layers = self._layers.setdefault(name, [])
            if not layers or layers[-1].live is not base.live:
                layers.append(base)
            layers.append(layer)
            self._put(layer)
        try:
            yield
        finally:
            with self._lock:
                idle = self._end_override(layer)
            for opening in idle:
                self._openings.close(opening)

    # ------------------------------------------------------------------ storages

    def open_storage(self, name: str) -> TapeStorage:
        """A lease on the provider's one shared backend, which is opened on first use.

        The backend stays open between leases, until the provider changes or leaves.

        Raises:
            ProviderNotFoundError, ProviderRetiringError: there is none to lease.
            CreationFailedError: the factory failed; everybody who waited gets this, the next one tries anew.
            ConstructionTimeoutError: somebody else's construction of it takes too long.
            DependencyCycleError: it is being constructed by a factory that needs this call to return.
        """
        who = self._find_caller()
        return self._open_again(name, who) or self._handle(self._acquire_shared(name, who))

    def aopen_storage(self, name: str) -> Coroutine[Any, Any, TapeStorage]:
        """`open_storage`, awaited. A cancelled call cancels nobody else; a storage that was opened only for
        callers who are gone is closed again."""
        return self._aopen(name, self._find_caller())

    def get_default_storage(self) -> TapeStorage:
        """`open_storage` of the default provider, which is looked up at each call.

        Raises:
            DefaultNotSetError: nobody has set one, and there is no provider `filesystem` to fall back to.
            ProviderNotFoundError: the default is not registered; and as `open_storage`.
        """
        who = self._find_caller()
        return self._open_again(None, who) or self._handle(self._acquire_shared(None, who))

    def aget_default_storage(self) -> Coroutine[Any, Any, TapeStorage]:
        """`get_default_storage`, awaited; as `aopen_storage`."""
        return self._aopen(None, self._find_caller())

    def create_storage(
        self, provider: str, config: Config | None = None, instance_id: str | None = None
    ) -> TapeStorage:
        """A backend of the caller's own, from the provider's config with `config` laid over it.

        It is closed with its last lease. `instance_id` makes it findable by `find_instance`.

        Raises:
            InvalidConfigError: the two configs together are refused.
            InstanceExistsError: the instance id is live already.
            ProviderNotFoundError, ProviderRetiringError, CreationFailedError, DependencyCycleError: as
                `open_storage`.
        """
        return self._handle(self._acquire_own(provider, config, instance_id, self._find_caller()))

    def acreate_storage(
        self, provider: str, config: Config | None = None, instance_id: str | None = None
    ) -> Coroutine[Any, Any, TapeStorage]:
        """`create_storage`, awaited. If it is cancelled, what was created is closed."""
        who = self._find_caller()
        return self._awaited(partial(self._acquire_own, provider, config, instance_id, who, awaited=True))

    def find_instance(self, instance_id: str) -> TapeStorage:
        """A new lease on the live storage that was created under this id.

        Raises:
            InstanceNotFoundError: there is none, or it is being closed.
            ProviderRetiringError: its provider gives out no new lease.
            CreationFailedError, ConstructionTimeoutError: it was still being created.
        """
        return self._handle(self._acquire_instance(instance_id, self._find_caller()))

    def afind_instance(self, instance_id: str) -> Coroutine[Any, Any, TapeStorage]:
        """`find_instance`, awaited."""
        return self._awaited(partial(self._acquire_instance, instance_id, self._find_caller()))

    def sweep(self) -> None:
        """Give back the leases of handles that were dropped without `close()`, with a `ResourceWarning` for
        each, and log whose `close()` hangs. Most operations do the former; a runtime does both each second.
        """
        self._openings.sweep()

    def close(self, timeout_seconds: float = 10.0) -> tuple[Unclosed, ...]:
        """Close everything that is open, the last opened first, and forget every provider.

        Each backend is closed in a thread of its own. Returns, and logs, those that failed and those that
        took too long: they are left alone, and count until they have closed. An empty answer: all is
        well. Leases that are still out lose their backend; they are named in the log. The registry is
        empty afterwards, and can be filled again.
        """
        deadline = monotonic() + timeout_seconds
        self._openings.drain(min(timeout_seconds, CLOSE_PATIENCE_SECONDS))
        with self._lock:
            held = [h for name in self._openings.providers() for h in self._openings.holders(name)]
            openings = self._openings.take_all()
            if self._snapshot or self._snapshot.default is not None:
                self._snapshot = Snapshot({}, None, self._snapshot.generation + 1)
            loop_thread, self._loop_thread = self._loop_thread, None
        for holder in held:
            _logger.warning("provider %r is closed under its holder %s", holder.provider, holder)
        unclosed = self._openings.close_each(openings[::-1], max(0.0, deadline - monotonic()))
        if loop_thread is not None:
            loop_thread.stop(max(0.0, deadline - monotonic()))
        return unclosed

    async def aclose(self, timeout_seconds: float = 10.0) -> tuple[Unclosed, ...]:
        """`close`, awaited. Once begun, it goes on also if it is cancelled."""
        from .aio import off_loop

        return await off_loop(partial(self.close, timeout_seconds))

    # ------------------------------------------------------------------ for the reconciler

    def stage(
        self,
        spec: ProviderSpec,
        factory: StorageProviderFactory,
        *,
        origin: Origin = "code",
        replaceable: bool = False,
        unchecked: bool = False,
        base_directory: Path | None = None,
    ) -> Provider:
        """A checked provider that nobody sees yet: its own revision, nothing open.

        Raises:
            InvalidNameError, InvalidConfigError, TypeError: as `register`.
        """
        metadata = describe(factory, spec, datetime.now(UTC))
        if not is_valid_name(spec.name):
            raise InvalidNameError(spec.name)
        provider = Provider(
            spec=spec,
            metadata=metadata,
            factory=factory,
            live=Revision(spec.name, 1),
            origin=origin,
            state="pending",
            replaceable=replaceable,
            validated=not unchecked,
            base_directory=base_directory,
        )
        if origin == "manifest":  # its config is complete, and was checked where one can name the place
            return provider
        schema = factory.config_schema()
        if schema is not None and (faults := check_schema(schema)):
            raise InvalidConfigError(spec.name, [f"the schema of its type is broken: {it}" for it in faults])
        config = complete_unchecked(provider, {}, self._base_directory_of(provider))
        if not unchecked:
            check(spec.name, factory, config)
        return replace(provider, spec=replace(spec, config=config))

    @contextmanager
    def staging(self, providers: Iterable[Provider]) -> Iterator[None]:
        """Within the block, in this thread and tasks that copy its context, these can be looked up and
        opened as if they were committed."""
        staged = {provider.name: provider for provider in providers}
        token = _staged.set((*_staged.get(), (self, staged)))
        try:
            yield
        finally:
            _staged.reset(token)
            staged.clear()  # a context that was copied inside the block may outlive it

    def run_hooks(self, provider: Provider) -> None:
        """Ask every init hook about a staged provider.

        Raises:
            InitHookError: one refused it.
            RunningLoopError: one is a coroutine function, and this thread runs an event loop.
        """
        for hook in self._hooks:
            with _refusals(provider.name, hook):
                answer = hook(provider.name)
                if isawaitable(answer):
                    self._loop().run(answer, "an async init hook", "registry.aregister")

    def warm(self, provider: Provider) -> None:
        """Open the shared backend of a staged provider, without a lease.

        Raises:
            CreationFailedError, ConstructionTimeoutError, DependencyCycleError: as `open_storage`.
        """
        with self._lock:
            opening, lease, mine = self._lease_shared(provider, caller("reload"))
        self._ensure_open(provider, opening, lease, mine=mine)
        self._openings.release(lease)

    def commit(
        self,
        changes: Iterable[Change],
        default: SetDefault | None = None,
        *,
        cancelled: threading.Event | None = None,
    ) -> Committed:
        """Make all of this visible in one swap, as one generation. Call `retire` with the result.

        Once `cancelled` is set, nothing is committed: who sets it and calls `close()` then can be sure
        that the registry stays empty.

        Raises:
            StalePlanError: one of the providers is not what the change expected. Nothing is changed.
            RuntimeClosedError: it was cancelled. Nothing is changed.
        """
        changes = tuple(changes)
        self._openings.drain()
        with self._lock:
            if cancelled is not None and cancelled.is_set():
                raise RuntimeClosedError
            return self._commit(changes, default)

    def retire(self, committed: Committed, timeout_seconds: float | None = None) -> None:
        """Close what a commit left idle; failures are logged. With a `timeout_seconds`, what takes longer is
        logged too, and left alone."""
        idle = committed.superseded[::-1]
        if timeout_seconds is not None:
            self._openings.close_each(idle, timeout_seconds)
            return
        for opening in idle:
            self._openings.close(opening)

    def discard(self, provider: Provider) -> None:
        """Undo `stage`, `run_hooks` and `warm`: what is open and unused closes now, the rest when it is
        released."""
        with self._lock:
            provider.live.superseded = True
            idle = self._openings.take_idle(provider.live)
            left = self._settle(provider.name)
        if left:
            self._tell_left(provider.name)
        if idle is not None:
            self._openings.close(idle)

    def on_retired(self, listener: RetiredListener) -> Callable[[], None]:
        """Call `listener(name)` whenever a retiring provider has left, in whatever thread closed its last
        lease. Returns what ends that."""
        with self._lock:
            self._retired_listeners = (*self._retired_listeners, listener)

        def cancel() -> None:
            with self._lock:
                self._retired_listeners = tuple(one for one in self._retired_listeners if one is not listener)

        return cancel

    # ------------------------------------------------------------------ inside: look-ups

    def _find(self, name: str) -> Provider:
        for registry, providers in reversed(_staged.get()):
            if registry is self and (provider := providers.get(name)) is not None:
                return provider
        return self._snapshot[name]

    def _usable(self, name: str | None) -> Provider:
        """Under the lock: the provider to lease from; None: the default."""
        if name is None:
            name = self._snapshot.default or FALLBACK_DEFAULT
            if self._snapshot.default is None and name not in self._snapshot:
                raise DefaultNotSetError(tuple(self._snapshot))
        provider = self._find(name)
        if provider.state == "retiring":
            raise ProviderRetiringError(name, self._snapshot.default)
        if provider.live.superseded:  # staged, and discarded since
            raise ProviderNotFoundError(name, tuple(self._snapshot))
        return provider

    def _info(self, provider: Provider, snapshot: Snapshot) -> ProviderInfo:
        return ProviderInfo(
            metadata=provider.metadata,
            type=provider.type,
            state=provider.state,
            revision=provider.revision,
            instance_count=self._openings.lease_count(provider.name, provider.live),
            is_default=provider.name == (snapshot.default or FALLBACK_DEFAULT),
            origin=provider.origin,
        )

    def _base_directory_of(self, provider: Provider) -> Path:
        return provider.base_directory or self._base_directory or Path.cwd()

    # ------------------------------------------------------------------ inside: opening and closing

    def _acquire_shared(self, name: str | None, who: Caller, *, awaited: bool = False) -> Lease:
        self._openings.drain()
        with self._lock:
            provider = self._usable(name)
            opening, lease, mine = self._lease_shared(provider, who, of_default=name is None)
        self._ensure_open(provider, opening, lease, mine=mine, awaited=awaited)
        return lease

    def _acquire_own(
        self,
        name: str,
        config: Config | None,
        instance_id: str | None,
        who: Caller,
        *,
        awaited: bool = False,
    ) -> Lease:
        self._openings.drain()
        with self._lock:
            provider = self._usable(name)
            if instance_id is not None:
                self._openings.check_instance(instance_id)
            opening = self._openings.begin(provider.live, shared=False)
            lease = self._openings.add_lease(opening, who, instance_id)
        self._construct(provider, opening, config, awaited=awaited)
        return lease

    def _acquire_instance(self, instance_id: str, who: Caller) -> Lease:
        self._openings.drain()
        with self._lock:
            opening = self._openings.find_instance(instance_id)
            if opening is None:
                raise InstanceNotFoundError(instance_id)
            declared = self._snapshot.get(opening.revision.provider)
            if declared is not None and declared.state == "retiring":
                raise ProviderRetiringError(declared.name, self._snapshot.default)
            lease = self._openings.add_lease(opening, who)
        self._openings.wait(opening, lease)
        return lease

    async def _aopen(self, name: str | None, who: Caller) -> TapeStorage:
        storage = self._open_again(name, who)
        if storage is not None:
            return storage
        return await self._awaited(partial(self._acquire_shared, name, who, awaited=True))

    def _open_again(self, name: str | None, who: Caller) -> TapeStorage | None:
        """What `_acquire_shared` and `_handle` do, for what is open, without waiting for anybody; None: that
        is not possible. Spelt out, since nearly every handle comes this way."""
        if self._openings.dropped or _staged.get() or self._lock.locked():
            return None
        snapshot = self._snapshot
        provider = snapshot.providers.get(name if name is not None else snapshot.default or FALLBACK_DEFAULT)
        if provider is None:
            return None
        live = provider.live
        opening = live.shared
        if opening is None or opening.source is None:
            return None
        lease = Lease(opening, who, None, name is None)
        lease.released = True  # until it counts
        # The handle is there before its lease counts: if a signal's handler raises anywhere from here on,
        # the lease goes with the handle.
        storage = TapeStorage(opening.source, lease, live.number, None, self._note_dropped)
        lease.use = storage.use
        with self._lock:  # held for moments; not `acquire`, behind which such a handler could strike
            if live.shared is not opening or live.superseded:
                return None
            opening.leases[lease] = None
            opening.uses += 1
            lease.released = False
        return storage

    async def _awaited(self, acquire: Callable[[], Lease]) -> TapeStorage:
        from .aio import off_loop

        return self._handle(await off_loop(acquire, partial(self._openings.release, unused=True)))

    def _lease_shared(
        self, provider: Provider, who: Caller, *, of_default: bool = False
    ) -> tuple[Opening, Lease, bool]:
        """Under the lock: a lease on the shared backend, and whether the caller has to construct that."""
        opening = provider.live.shared
        mine = opening is None
        if opening is None:
            opening = self._openings.begin(provider.live, shared=True)
        return opening, self._openings.add_lease(opening, who, of_default=of_default), mine

    def _ensure_open(
        self, provider: Provider, opening: Opening, lease: Lease, *, mine: bool, awaited: bool = False
    ) -> None:
        if mine:
            self._construct(provider, opening, None, awaited=awaited)
        elif opening.source is None:
            self._openings.wait(opening, lease)

    def _construct(self, provider: Provider, opening: Opening, over: Config | None, *, awaited: bool) -> None:
        factory: Any = provider.factory

        def create() -> TapeStorageBackend:
            base_directory = self._base_directory_of(provider)
            if over is None:
                config = config_of(provider, base_directory)
            else:
                config = complete(provider, over, base_directory)
            context = _Context(self, provider, opening)
            if hasattr(factory, "acreate") and (awaited or not hasattr(factory, "create")):
                # Not in the caller's loop: others wait for it too, and use what it makes for longer.
                creating: Awaitable[TapeStorageBackend] = factory.acreate(config, context)
                return self._loop().run(
                    creating, "an async factory", "registry.aopen_storage", lambda backend: backend.close()
                )
            return cast(TapeStorageBackend, factory.create(config, context))

        close_at_exit(self)
        self._openings.construct(opening, create, provider.metadata.capabilities)

    def _loop(self) -> LoopThread:
        from .aio import LoopThread

        fresh = LoopThread()
        with self._lock:
            if self._loop_thread is None:
                self._loop_thread = fresh
            return self._loop_thread

    def _handle(self, lease: Lease) -> TapeStorage:
        opening = lease.opening
        source: Any = opening.source  # it is open: there is a lease
        number = opening.revision.number
        storage = TapeStorage(source, lease, number, lease.instance_id, self._note_dropped)
        lease.use = storage.use
        return storage

    def _is_default(self, name: str) -> bool:
        return name == (self._snapshot.default or FALLBACK_DEFAULT)

    # ------------------------------------------------------------------ inside: commits, overrides, forks

    def _settle(self, name: str) -> bool:
        """Under the lock: let a retiring provider go of which nothing is left; whether it went."""
        if not self._openings.is_done(name):
            return False
        provider = self._snapshot.get(name)
        if provider is None or provider.state != "retiring":
            return False
        providers = {other: kept for other, kept in self._snapshot.items() if other != name}
        self._snapshot = Snapshot(providers, self._snapshot.default, self._snapshot.generation + 1)
        return True

    def _tell_left(self, name: str) -> None:
        for listener in self._retired_listeners:
            try:
                listener(name)
            except Exception:
                _logger.exception("a listener failed when provider %r had left", name)

    def _commit(self, changes: Sequence[Change], default: SetDefault | None) -> Committed:
        """Under the lock: check, then build the next snapshot and swap it."""
        for change in changes:
            if self._snapshot.get(change.name) is not change.expected:
                raise StalePlanError(change.name)
        providers = dict(self._snapshot)
        retiring: list[str] = []
        idle: list[Opening] = []
        for change in changes:
            old, new = change.expected, change.provider
            if old is not None and (new is None or new.live is not old.live):
                old.live.superseded = True
                if (opening := self._openings.take_idle(old.live)) is not None:
                    idle.append(opening)
            if new is not None:
                new.live.superseded = False
                if old is None or new.live is not old.live:
                    new.live.number = old.live.number + 1 if old is not None else 1
                self._openings.adopt(new.live)
                providers[change.name] = replace(new, state="active")
            elif old is not None and self._openings.lease_count(change.name):
                providers[change.name] = replace(old, state="retiring")
                retiring.append(change.name)
            else:
                providers.pop(change.name, None)
        name = self._snapshot.default if default is None else default.name
        if changes or name != self._snapshot.default:
            self._snapshot = Snapshot(providers, name, self._snapshot.generation + 1)
        for change in changes:
            if change.provider is None:
                self._settle(change.name)
        return Committed(self._snapshot.generation, tuple(retiring), tuple(idle))

    def _put(self, provider: Provider) -> None:
        """Under the lock: the next snapshot, with this one in its place."""
        self._openings.adopt(provider.live)
        providers = {**self._snapshot, provider.name: provider}
        self._snapshot = Snapshot(providers, self._snapshot.default, self._snapshot.generation + 1)

    def _end_override(self, layer: Provider) -> list[Opening]:
        """Under the lock: take it away, wherever in the pile it is; what the caller has to close."""
        layers = self._layers.get(layer.name, [])
        if layer not in layers:  # this is a forked child, and the block began in its parent
            return []
        current = self._snapshot.get(layer.name)
        layers.remove(layer)
        if current is not None and current.live is layer.live:
            current = layers[-1]
            self._put(current)
        gone = [layer]
        if all(each.declared is None for each in layers):  # it was the last override
            gone += [each for each in layers if current is None or each.live is not current.live]
            del self._layers[layer.name]
        for provider in gone:
            provider.live.superseded = True
        idle = [self._openings.take_idle(provider.live) for provider in gone]
        self._settle(layer.name)
        return [opening for opening in idle if opening is not None]

    def _start_anew(self) -> None:
        """In a forked child: keep what was registered, and nothing of what is open."""
        self._lock = threading.Lock()
        self._openings.start_anew(self._lock)
        self._loop_thread = None
        self._layers = {}
        snapshot = self._snapshot
        providers = {
            name: replace(provider, live=Revision(name, provider.revision))
            for name, provider in snapshot.items()
            if provider.state == "active"  # a retiring one was there for its holders only
        }
        for provider in providers.values():
            self._openings.adopt(provider.live)
        self._snapshot = Snapshot(providers, snapshot.default, snapshot.generation)


@contextmanager
def _refusals(provider: str, hook: InitHook) -> Iterator[None]:
    """What a hook raises is its refusal."""
    try:
        yield
    except RunningLoopError:
        raise
    except Exception as error:
        name = getattr(hook, "__qualname__", type(hook).__qualname__)
        reason = str(error) if isinstance(error, RegistryError) else type(error).__name__
        raise InitHookError(provider, name, reason) from error


class _Context:
    """What a factory is given: see `CreateContext`."""

    def __init__(self, registry: StorageProviderRegistry, provider: Provider, opening: Opening) -> None:
        self.provider = provider.name
        self.base_directory = registry._base_directory_of(provider)  # noqa: SLF001 - its own registry
        self.logger = logging.getLogger(f"{__package__}.providers.{provider.name}")
        self._registry = registry
        self._opening = opening

    def open(self, name: str) -> TapeStorage:
        storage = self._registry.open_storage(name)
        self._registry._openings.add_dependency(self._opening, storage)  # noqa: SLF001 - its own registry
        return storage

    async def aopen(self, name: str) -> TapeStorage:
        from .aio import off_loop

        storage = await self._registry.aopen_storage(name)
        add = partial(self._registry._openings.add_dependency, self._opening, storage)  # noqa: SLF001 - as above
        await off_loop(add)
        return storage
