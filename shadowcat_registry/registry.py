"""The live set of providers of a process, safe to use from any thread: the door.

Reads look at one immutable snapshot and never wait. Writes build the next snapshot and swap it under
the only lock over registry state (`generations`); leases come about in `acquisition`; factories, hooks and
backends are always called without that lock. The registry knows no manifest and no file: the reconciler
drives it through `stage`, `run_hooks`, `warm`, `commit` and `discard`, which are also what `register` is
made of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from . import forks
from .acquisition import Acquisition
from .backend import StorageProviderFactory, TapeStorageBackend
from .callers import caller, find_caller
from .catalog import factory_behind
from .checks import CHECK_SECONDS, Check, Checks
from .closing import HangingClose
from .errors import ProviderExistsError, StalePlanError
from .generations import (
    Change,
    Committed,
    Generations,
    RetiredListener,
    SetDefault,
    Terms,
)
from .metadata import (
    FALLBACK_DEFAULT,
    UNKNOWN_HEALTH,
    Config,
    Health,
    Holder,
    Origin,
    ProviderCapability,
    ProviderInfo,
    ProviderSpec,
    RevisionInfo,
    Unclosed,
)
from .openings import CLOSE_PATIENCE_SECONDS
from .overrides import stand_in
from .snapshot import Provider, Snapshot
from .staging import InitHook, arun_hooks, complete_provider, make_provider, run_hooks, staging
from .storage import TapeStorage

_logger = logging.getLogger(__name__)


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
        self._generations = Generations(construction_timeout_seconds)
        self._openings = self._generations.openings
        self._acquisition = Acquisition(self, self._generations, base_directory)
        self._checks = Checks()
        self._hooks: tuple[InitHook, ...] = ()
        self._find_caller = find_caller if capture_acquisition else partial(caller, "unknown")
        forks.in_child(self, StorageProviderRegistry._start_anew)

    # ------------------------------------------------------------------ reading, never waits

    def snapshot(self) -> Snapshot:
        """The whole of one generation; take one for a decision of several steps."""
        return self._generations.snapshot

    def __contains__(self, name: object) -> bool:
        return name in self._generations.snapshot

    def __iter__(self) -> Iterator[str]:
        return iter(self._generations.snapshot)

    def __len__(self) -> int:
        return len(self._generations.snapshot)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._generations.snapshot!r}>"

    def list_providers(self) -> list[ProviderInfo]:
        """All providers in the order of their registration, the retiring ones included."""
        snapshot = self._generations.snapshot
        return [self._info(provider, snapshot) for provider in snapshot.values()]

    def find_by_capability(self, capability: ProviderCapability | str) -> list[str]:
        """Names of the providers that can do this and give out leases.

        Raises:
            ValueError: there is no such capability.
        """
        wanted = ProviderCapability(capability)
        return [
            provider.name
            for provider in self._generations.snapshot.values()
            if wanted in provider.metadata.capabilities and provider.state == "active"
        ]

    def get_provider_info(self, name: str) -> ProviderInfo:
        """One provider as it stands; a hook also finds the one that it is asked about.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        return self._info(self._acquisition.find(name), self._generations.snapshot)

    def get_default_config(self, name: str) -> dict[str, Any]:
        """A copy of what `create_storage(name)` uses where the caller says nothing. It may hold secrets.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        return deepcopy(dict(self._acquisition.find(name).spec.config))

    def holders(self, name: str) -> list[Holder]:
        """Who holds a lease of this provider, on whatever revision, the oldest first.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        self._acquisition.find(name)
        return self._openings.tally.holders(name)

    def revisions(self, name: str) -> list[RevisionInfo]:
        """The revisions of this provider that give out leases or are still in use, the newest last.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        live = self._acquisition.find(name).live
        return self._openings.tally.revisions(name, live)

    def health(self, name: str) -> Health:
        """How a provider stands by the checks that its declaration asks for; `unknown` before the first, and
        where it asks for none. Asks nobody: `check` does.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        return self._acquisition.find(name).live.health

    def check(self, name: str, timeout_seconds: float = CHECK_SECONDS) -> Health:
        """Ask the provider whether its storage could be opened now. Touches nothing.

        `healthy`; `failing` with the reason, which may be that it does not answer in time; or `unknown`,
        where its type has no `check`. One that has not answered is left alone, and is not started a second
        time while it runs.

        Raises:
            ProviderNotFoundError: there is none of that name.
        """
        provider = self._acquisition.find(name)
        if not provider.can_be_checked:
            return UNKNOWN_HEALTH
        return self.begin_check(provider).verdict(timeout_seconds)

    # ------------------------------------------------------------------ providers

    def register(
        self,
        factory: StorageProviderFactory | type,
        *,
        name: str | None = None,
        config: Config | None = None,
        display_name: str | None = None,
        replaceable: bool = False,
    ) -> None:
        """Add a provider, called as its factory unless `name` says otherwise. A class below `@provider` does
        for its factory.

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
        factory: StorageProviderFactory | type,
        *,
        name: str | None = None,
        config: Config | None = None,
        display_name: str | None = None,
        replaceable: bool = False,
    ) -> None:
        """`register`, awaited. Coroutine functions among the hooks run in this loop, plain ones off it. If
        it is cancelled, nothing is left behind."""
        from .aio import off_loop

        stage = partial(self._stage_new, factory, name, config, display_name, replaceable=replaceable)
        provider = await off_loop(stage)
        try:
            with self.staging([provider]):
                await arun_hooks(self._hooks, provider.name)
            self._commit_new(provider)  # in this thread: a cancellation comes before it or after it
        except BaseException:
            await off_loop(partial(self.discard, provider), surely=True)
            raise

    def _stage_new(
        self,
        given: StorageProviderFactory | type,
        name: str | None,
        config: Config | None,
        display_name: str | None,
        *,
        replaceable: bool,
    ) -> Provider:
        self._openings.drain()
        factory = factory_behind(given)
        type_name = getattr(factory, "name", "")  # `stage` says what is missing
        spec = ProviderSpec(name or type_name, type_name, dict(config or {}), display_name)
        if spec.name in self._generations.snapshot:
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
            ProviderProtectedError: it is declared with `protect: true`.
            ProviderInUseError: it has leases; says whose. Nothing is changed.
        """
        self._openings.drain()
        with self._generations.lock:
            committed = self._generations.remove(name)
        self.retire(committed)

    async def aunregister(self, name: str) -> None:
        """`unregister`, awaited. It goes on also if it is cancelled."""
        from .aio import off_loop

        await off_loop(partial(self.unregister, name), surely=True)

    def set_default(self, name: str) -> None:
        """From now on, `get_default_storage` opens this provider.

        Raises:
            ProviderNotFoundError: there is none of that name.
            ProviderRetiringError: it gives out no new lease.
        """
        with self._generations.lock:
            self._generations.active(name)
            self._generations.commit([], SetDefault(name))

    def add_init_hook(self, hook: InitHook) -> None:
        """Ask `hook(name)` about every provider that is added, or whose type changes, from now on.

        It runs before anybody else sees the provider, may use the registry, and refuses by raising. A
        coroutine function runs in the loop of whoever awaits `aregister`, otherwise in a loop of the
        registry's own; `register` called inside of a running loop refuses it.
        """
        with self._generations.lock:
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
        with self._generations.lock:
            base = self._generations.active(name)
        layer = stand_in(base, other)
        with self._generations.lock:
            self._generations.begin_override(layer)
        try:
            yield
        finally:
            with self._generations.lock:
                idle = self._generations.end_override(layer)
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
        return self._acquisition.open_again(name, who) or self._acquisition.open_shared(name, who)

    def aopen_storage(self, name: str) -> Coroutine[Any, Any, TapeStorage]:
        """`open_storage`, awaited. A cancelled call cancels nobody else; a storage that was opened only for
        callers who are gone is closed again."""
        return self._acquisition.aopen_shared(name, self._find_caller())

    def get_default_storage(self) -> TapeStorage:
        """`open_storage` of the default provider, which is looked up at each call.

        Raises:
            DefaultNotSetError: nobody has set one, and there is no provider `filesystem` to fall back to.
            ProviderNotFoundError: the default is not registered; and as `open_storage`.
        """
        who = self._find_caller()
        return self._acquisition.open_again(None, who) or self._acquisition.open_shared(None, who)

    def aget_default_storage(self) -> Coroutine[Any, Any, TapeStorage]:
        """`get_default_storage`, awaited; as `aopen_storage`."""
        return self._acquisition.aopen_shared(None, self._find_caller())

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
        return self._acquisition.create(provider, config, instance_id, self._find_caller())

    def acreate_storage(
        self, provider: str, config: Config | None = None, instance_id: str | None = None
    ) -> Coroutine[Any, Any, TapeStorage]:
        """`create_storage`, awaited. If it is cancelled, what was created is closed."""
        return self._acquisition.acreate(provider, config, instance_id, self._find_caller())

    def find_instance(self, instance_id: str) -> TapeStorage:
        """A new lease on the live storage that was created under this id.

        Raises:
            InstanceNotFoundError: there is none, or it is being closed.
            ProviderRetiringError: its provider gives out no new lease.
            CreationFailedError, ConstructionTimeoutError: it was still being created.
        """
        return self._acquisition.find_instance(instance_id, self._find_caller())

    def afind_instance(self, instance_id: str) -> Coroutine[Any, Any, TapeStorage]:
        """`find_instance`, awaited."""
        return self._acquisition.afind_instance(instance_id, self._find_caller())

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
        with self._generations.lock:
            held, openings = self._generations.take_all()
        loop_thread = self._acquisition.take_loop()
        for holder in held:
            _logger.warning("provider %r is closed under its holder %s", holder.provider, holder)
        unclosed = self._openings.close_each(openings[::-1], max(0.0, deadline - monotonic()))
        if loop_thread is not None:
            loop_thread.stop(max(0.0, deadline - monotonic()))
        return unclosed

    async def aclose(self, timeout_seconds: float = 10.0) -> tuple[Unclosed, ...]:
        """`close`, awaited. It goes on also if it is cancelled."""
        from .aio import off_loop

        return await off_loop(partial(self.close, timeout_seconds), surely=True)

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
        provider = make_provider(
            spec,
            factory,
            origin=origin,
            replaceable=replaceable,
            unchecked=unchecked,
            base_directory=base_directory,
        )
        if origin == "manifest":  # its config is complete, and was checked where one can name the place
            return provider
        return complete_provider(provider, self._acquisition.base_directory_of(provider))

    def staging(self, providers: Iterable[Provider]) -> AbstractContextManager[None]:
        """Within the block, in this thread and tasks that copy its context, these can be looked up and
        opened as if they were committed."""
        return staging(self, providers)

    def init_hooks(self) -> tuple[InitHook, ...]:
        """Those that are asked about a new provider."""
        return self._hooks

    def run_hooks(self, provider: Provider, hooks: Iterable[InitHook] | None = None) -> None:
        """Ask every init hook, or these, about a staged provider.

        Raises:
            InitHookError: one refused it.
            RunningLoopError: one is a coroutine function, and this thread runs an event loop.
        """
        run_hooks(self._hooks if hooks is None else hooks, provider.name, self._acquisition.loop)

    def warm(self, provider: Provider) -> None:
        """Open the shared backend of a staged provider, without a lease.

        Raises:
            CreationFailedError, ConstructionTimeoutError, DependencyCycleError: as `open_storage`.
        """
        self._acquisition.warm(provider)

    def commit(
        self,
        changes: Iterable[Change],
        default: SetDefault | None = None,
        terms: Terms | None = None,
    ) -> Committed:
        """Make all of this visible in one swap, as one generation. Call `retire` with the result.

        Once the event of the terms is set, nothing is committed: who sets it and calls `close()` then can be
        sure that the registry stays empty.

        Raises:
            StalePlanError: a provider is not what its change expected, or the default not what the terms do.
            ProviderInUseError, RuntimeClosedError: the terms forbid it. Nothing is changed by any of them.
        """
        changes = tuple(changes)
        self._openings.drain()
        with self._generations.lock:
            return self._generations.commit(changes, default, terms)

    def retire(self, committed: Committed, timeout_seconds: float | None = None) -> None:
        """Close what a commit left idle; failures are logged. With a `timeout_seconds`, what takes longer is
        logged too, and left alone."""
        idle = committed.superseded[::-1]
        if timeout_seconds is not None:
            self._openings.close_each(idle, timeout_seconds)
            return
        for opening in idle:
            self._openings.close(opening)

    def begin_check(self, provider: Provider, on_answer: Callable[[], object] | None = None) -> Check:
        """For the monitor: `check`, without waiting."""
        return self._checks.begin(provider.live, partial(self._acquisition.probe, provider), on_answer)

    def hanging(self) -> list[HangingClose]:
        """For the status: the storages whose `close()` was given up and has not come back."""
        return self._openings.hanging()

    def discard(self, provider: Provider) -> None:
        """Undo `stage`, `run_hooks` and `warm`: what is open and unused closes now, the rest when it is
        released."""
        with self._generations.lock:
            idle, left = self._generations.withdraw(provider)
        if left:
            self._generations.tell_left(provider.name)
        if idle is not None:
            self._openings.close(idle)

    def on_retired(self, listener: RetiredListener) -> Callable[[], None]:
        """Call `listener(name)` whenever a retiring provider has left, in whatever thread closed its last
        lease. Returns what ends that."""
        return self._generations.on_retired(listener)

    # ------------------------------------------------------------------ inside

    def _info(self, provider: Provider, snapshot: Snapshot) -> ProviderInfo:
        return ProviderInfo(
            metadata=provider.metadata,
            type=provider.type,
            state=provider.state,
            revision=provider.revision,
            instance_count=self._openings.tally.lease_count(provider.name, provider.live),
            is_default=provider.name == (snapshot.default or FALLBACK_DEFAULT),
            origin=provider.origin,
            health=provider.live.health,
        )

    def _start_anew(self) -> None:
        """In a forked child."""
        self._generations.start_anew()
        self._acquisition.start_anew()
