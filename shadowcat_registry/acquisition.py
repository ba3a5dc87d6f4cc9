"""How a lease comes about: the provider is looked up, the lease counts, the backend is opened or waited for.

Nearly every handle is one more on a backend that is open: `open_again` makes those, and nothing else.
Knows no hook and no commit. Factories are called here, without the lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from .backend import TapeStorageBackend
from .configs import complete, config_of
from .errors import InstanceNotFoundError, ProviderNotFoundError, ProviderRetiringError
from .exits import close_at_exit
from .generations import FALLBACK_DEFAULT, Generations
from .leases import Caller, Lease, Opening, caller
from .metadata import Config
from .snapshot import Provider
from .staging import find_staged, is_anything_staged
from .storage import TapeStorage
from .translation import translate

if TYPE_CHECKING:
    from .aio import LoopThread


class Owner(Protocol):
    """The registry, as far as factories use it, and the exit of the interpreter."""

    def open_storage(self, name: str) -> TapeStorage: ...

    def aopen_storage(self, name: str) -> Coroutine[Any, Any, TapeStorage]: ...

    def close(self, timeout_seconds: float = ...) -> object: ...


class Acquisition:
    """What gives out the storages of one registry. `name` is that of a provider; None: the default."""

    def __init__(self, owner: Owner, generations: Generations, base_directory: Path | None) -> None:
        self._owner = owner
        self._generations = generations
        self._openings = generations.openings
        self._note_dropped = generations.openings.note_dropped
        self._base_directory = base_directory
        # Guards what follows; nothing is called under it.
        self._loop_lock = threading.Lock()
        self._loop_thread: LoopThread | None = None

    # ------------------------------------------------------------------ one more on what is open

    def open_again(self, name: str | None, who: Caller) -> TapeStorage | None:
        """What `open_shared` does for what is open, without waiting for anybody; None: that is not possible.
        Spelt out, since nearly every handle comes this way."""
        generations, openings = self._generations, self._openings
        if openings.dropped or is_anything_staged() or generations.lock.locked():
            return None
        snapshot = generations.snapshot
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
        with generations.lock:  # held for moments; not `acquire`, behind which such a handler could strike
            if live.shared is not opening or live.superseded:
                return None
            opening.leases[lease] = None
            opening.uses += 1
            lease.released = False
        return storage

    # ------------------------------------------------------------------ everything else

    def open_shared(self, name: str | None, who: Caller) -> TapeStorage:
        """As `StorageProviderRegistry.open_storage`."""
        return self._handle(self._acquire_shared(name, who))

    async def aopen_shared(self, name: str | None, who: Caller) -> TapeStorage:
        storage = self.open_again(name, who)
        if storage is not None:
            return storage
        return await self._awaited(partial(self._acquire_shared, name, who, awaited=True))

    def create(self, name: str, config: Config | None, instance_id: str | None, who: Caller) -> TapeStorage:
        """As `StorageProviderRegistry.create_storage`."""
        return self._handle(self._acquire_own(name, config, instance_id, who))

    async def acreate(
        self, name: str, config: Config | None, instance_id: str | None, who: Caller
    ) -> TapeStorage:
        return await self._awaited(partial(self._acquire_own, name, config, instance_id, who, awaited=True))

    def find_instance(self, instance_id: str, who: Caller) -> TapeStorage:
        """As `StorageProviderRegistry.find_instance`."""
        return self._handle(self._acquire_instance(instance_id, who))

    async def afind_instance(self, instance_id: str, who: Caller) -> TapeStorage:
        return await self._awaited(partial(self._acquire_instance, instance_id, who))

    def warm(self, provider: Provider) -> None:
        """Open the shared backend of a provider, without a lease."""
        with self._generations.lock:
            opening, lease, mine = self._lease_shared(provider, caller("reload"))
        self._ensure_open(provider, opening, lease, mine=mine)
        self._openings.release(lease)

    def health(self, provider: Provider) -> str:
        """As `StorageProviderRegistry.health`."""
        probe = getattr(provider.factory, "check", None)
        if probe is None:
            return "unknown"
        opening = Opening(provider.live, shared=False)
        try:
            probe(config_of(provider, self.base_directory_of(provider)), _Context(self, provider, opening))
        except Exception as error:  # noqa: BLE001 - foreign code; whatever it raises is the answer
            return f"failing: {translate(error)}"
        finally:
            self._openings.close(opening)
        return "healthy"

    def find(self, name: str) -> Provider:
        """What this thread may look up under this name.

        Raises:
            ProviderNotFoundError: there is none.
        """
        return find_staged(self._owner, name) or self._generations.snapshot[name]

    def base_directory_of(self, provider: Provider) -> Path:
        return provider.base_directory or self._base_directory or Path.cwd()

    # ------------------------------------------------------------------ the loop of those who have none

    def loop(self) -> LoopThread:
        from .aio import LoopThread

        fresh = LoopThread()
        with self._loop_lock:
            if self._loop_thread is None:
                self._loop_thread = fresh
            return self._loop_thread

    def take_loop(self) -> LoopThread | None:
        """There is none from now on; the caller has to stop it."""
        with self._loop_lock:
            loop_thread, self._loop_thread = self._loop_thread, None
            return loop_thread

    def start_anew(self) -> None:
        """In a forked child: the loop's thread is the parent's."""
        self._loop_lock = threading.Lock()
        self._loop_thread = None

    # ------------------------------------------------------------------ inside

    def _acquire_shared(self, name: str | None, who: Caller, *, awaited: bool = False) -> Lease:
        self._openings.drain()
        with self._generations.lock:
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
        with self._generations.lock:
            provider = self._usable(name)
            if instance_id is not None:
                self._openings.check_instance(instance_id)
            opening = self._openings.begin(provider.live, shared=False)
            lease = self._openings.add_lease(opening, who, instance_id)
        self._construct(provider, opening, config, awaited=awaited)
        return lease

    def _acquire_instance(self, instance_id: str, who: Caller) -> Lease:
        self._openings.drain()
        generations = self._generations
        with generations.lock:
            opening = self._openings.find_instance(instance_id)
            if opening is None:
                raise InstanceNotFoundError(instance_id)
            declared = generations.snapshot.get(opening.revision.provider)
            if declared is not None and declared.state == "retiring":
                raise ProviderRetiringError(declared.name, generations.snapshot.default)
            lease = self._openings.add_lease(opening, who)
        self._openings.wait(opening, lease)
        return lease

    def _usable(self, name: str | None) -> Provider:
        """Under the lock: the provider to lease from."""
        generations = self._generations
        if name is None:
            name = generations.name_of_default()
        provider = find_staged(self._owner, name) or generations.active(name)
        if provider.live.superseded:  # staged, and discarded since
            raise ProviderNotFoundError(name, tuple(generations.snapshot))
        return provider

    async def _awaited(self, acquire: Callable[[], Lease]) -> TapeStorage:
        from .aio import off_loop

        # The handle is made there, not here: a lease that gets lost with a loop that is closed goes with it.
        return await off_loop(lambda: self._handle(acquire()), self._give_back_unused)

    def _give_back_unused(self, storage: TapeStorage) -> None:
        self._openings.release(cast(Lease, storage.use.lease), unused=True)

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
            base_directory = self.base_directory_of(provider)
            if over is None:
                config = config_of(provider, base_directory)
            else:
                config = complete(provider, over, base_directory)
            context = _Context(self, provider, opening)
            if hasattr(factory, "acreate") and (awaited or not hasattr(factory, "create")):
                # Not in the caller's loop: others wait for it too, and use what it makes for longer.
                creating: Awaitable[TapeStorageBackend] = factory.acreate(config, context)
                return self.loop().run(
                    creating, "an async factory", "registry.aopen_storage", lambda backend: backend.close()
                )
            return cast(TapeStorageBackend, factory.create(config, context))

        close_at_exit(self._owner)
        self._openings.construct(opening, create, provider.metadata.capabilities)

    def _handle(self, lease: Lease) -> TapeStorage:
        opening = lease.opening
        source: Any = opening.source  # it is open: there is a lease
        number = opening.revision.number
        storage = TapeStorage(source, lease, number, lease.instance_id, self._note_dropped)
        lease.use = storage.use
        return storage


class _Context:
    """What a factory is given: see `CreateContext`."""

    def __init__(self, acquisition: Acquisition, provider: Provider, opening: Opening) -> None:
        self.provider = provider.name
        self.base_directory = acquisition.base_directory_of(provider)
        self.logger = logging.getLogger(f"{__package__}.providers.{provider.name}")
        self._owner = acquisition._owner  # noqa: SLF001 - one module, one noun
        self._keep = partial(acquisition._openings.add_dependency, opening)  # noqa: SLF001 - as above

    def open(self, name: str) -> TapeStorage:
        storage = self._owner.open_storage(name)
        self._keep(storage)
        return storage

    async def aopen(self, name: str) -> TapeStorage:
        from .aio import off_loop

        storage = await self._owner.aopen_storage(name)
        await off_loop(partial(self._keep, storage), surely=True)
        return storage
