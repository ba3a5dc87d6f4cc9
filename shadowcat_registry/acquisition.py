"""How a lease comes about: the provider is looked up, the lease counts, the backend is opened or waited for.

Nearly every handle is one more on a backend that is open: `open_again` makes those, and nothing else.
Knows no hook and no commit. Factories are called here, without the lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from .backend import TapeStorageBackend
from .callers import Caller, caller
from .configs import complete, config_of
from .errors import InstanceNotFoundError, ProviderNotFoundError, ProviderRetiringError
from .exits import close_at_exit
from .generations import Generations
from .interpolate import redact
from .leases import Lease, Opening
from .metadata import FALLBACK_DEFAULT, Config
from .snapshot import Provider
from .staging import find_staged, what_is_staged
from .storage import TapeStorage
from .translation import translate
from .use import Source

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
        self._base_directory = base_directory
        # Guards what follows; nothing is called under it.
        self._loop_lock = threading.Lock()
        self._loop_thread: LoopThread | None = None

    # ------------------------------------------------------------------ one more on what is open

    def open_again(self, name: str | None, who: Caller) -> TapeStorage | None:
        """What `open_shared` does for what is open; None: that is not possible. Spelt out, since nearly every
        handle comes this way."""
        generations, openings = self._generations, self._openings
        if openings.dropped or what_is_staged():
            return None
        snapshot = generations.snapshot
        provider = snapshot.providers.get(name if name is not None else snapshot.default or FALLBACK_DEFAULT)
        if provider is None:
            return None
        live = provider.live
        opening = live.shared
        if opening is None or opening.source is None:
            return None
        lease = Lease(opening, generations.lock, who, None, name is None)
        storage = TapeStorage(lease, openings.note_dropped)  # before its lease counts, as in `Openings.lease`
        with generations.lock:  # held for moments; not `acquire`, behind which a signal's handler could raise
            if live.shared is not opening or live.superseded:
                lease.guard = None  # nobody misses this handle
                return None
            opening.leases[lease] = None
        return storage

    # ------------------------------------------------------------------ everything else

    def open_shared(self, name: str | None, who: Caller) -> TapeStorage:
        """As `StorageProviderRegistry.open_storage`."""
        return self._open_shared(name, who, awaited=False)

    async def aopen_shared(self, name: str | None, who: Caller) -> TapeStorage:
        # Without waiting for anybody, not even for moments: this is a loop.
        if not self._generations.lock.locked() and (storage := self.open_again(name, who)) is not None:
            return storage
        return await self._awaited(partial(self._open_shared, name, who, awaited=True))

    def create(self, name: str, config: Config | None, instance_id: str | None, who: Caller) -> TapeStorage:
        """As `StorageProviderRegistry.create_storage`."""
        return self._create(name, config, instance_id, who, awaited=False)

    async def acreate(
        self, name: str, config: Config | None, instance_id: str | None, who: Caller
    ) -> TapeStorage:
        return await self._awaited(partial(self._create, name, config, instance_id, who, awaited=True))

    def find_instance(self, instance_id: str, who: Caller) -> TapeStorage:
        """As `StorageProviderRegistry.find_instance`."""
        self._openings.drain()
        generations = self._generations
        with generations.lock:
            opening = self._openings.find_instance(instance_id)
            if opening is None:
                raise InstanceNotFoundError(instance_id)
            declared = generations.snapshot.get(opening.revision.provider)
            if declared is not None and declared.state == "retiring":
                raise ProviderRetiringError(declared.name, generations.snapshot.default)
            storage = self._openings.lease(opening, who)
        return self._waited(storage)

    async def afind_instance(self, instance_id: str, who: Caller) -> TapeStorage:
        return await self._awaited(partial(self.find_instance, instance_id, who))

    def warm(self, provider: Provider) -> None:
        """Open the shared backend of a provider, without a lease."""
        self._open(lambda: provider, caller("reload"), of_default=False, awaited=False).close()

    def probe(self, provider: Provider) -> str | None:
        """What the provider's own check finds wrong now; None: nothing."""
        probe = getattr(provider.factory, "check", None)
        if probe is None:
            return None
        opening = Opening(provider.live, shared=False)
        try:
            probe(config_of(provider, self.base_directory_of(provider)), _Context(self, provider, opening))
        except Exception as error:  # noqa: BLE001 - foreign code; whatever it raises is the answer
            return redact(str(translate(error)), provider.spec.config, provider.spec.secrets)
        finally:
            self._openings.close(opening)
        return None

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

    def _open_shared(self, name: str | None, who: Caller, *, awaited: bool) -> TapeStorage:
        self._openings.drain()
        return self._open(partial(self._usable, name), who, of_default=name is None, awaited=awaited)

    def _open(
        self, find: Callable[[], Provider], who: Caller, *, of_default: bool, awaited: bool
    ) -> TapeStorage:
        mine: list[Opening] = []
        with self._giving_up(mine):
            with self._generations.lock:
                provider = find()
                opening = provider.live.shared
                if opening is None:
                    opening = self._openings.begin(provider.live, shared=True)
                    mine.append(opening)
                storage = self._openings.lease(opening, who, of_default=of_default)
            if mine:
                self._construct(provider, opening, None, awaited=awaited)
        return self._waited(storage)

    def _create(
        self, name: str, config: Config | None, instance_id: str | None, who: Caller, *, awaited: bool
    ) -> TapeStorage:
        self._openings.drain()
        mine: list[Opening] = []
        with self._giving_up(mine):
            with self._generations.lock:
                provider = self._usable(name)
                if instance_id is not None:
                    self._openings.check_instance(instance_id)
                opening = self._openings.begin(provider.live, shared=False)
                mine.append(opening)
                storage = self._openings.lease(opening, who, instance_id)
            self._construct(provider, opening, config, awaited=awaited)
        return self._waited(storage)

    @contextmanager
    def _giving_up(self, mine: list[Opening]) -> Iterator[None]:
        """Whoever has to construct something and is interrupted before that begins, or at its very end,
        leaves nobody waiting."""
        try:
            yield
        except BaseException as error:
            for opening in mine:
                self._openings.give_up(opening, error)
            raise

    def _waited(self, storage: TapeStorage) -> TapeStorage:
        """The handle, when what it is a lease on is open."""
        lease = cast(Lease, storage.use)
        if lease.opening.source is None:
            self._openings.wait(lease)
        lease.source = cast(Source, lease.opening.source)
        return storage

    def _usable(self, name: str | None) -> Provider:
        """Under the lock: the provider to lease from."""
        generations = self._generations
        if name is None:
            name = generations.name_of_default()
        provider = find_staged(self._owner, name) or generations.active(name)
        if provider.live.superseded:  # staged, and discarded since
            raise ProviderNotFoundError(name, tuple(generations.snapshot))
        return provider

    async def _awaited(self, acquire: Callable[[], TapeStorage]) -> TapeStorage:
        from .aio import off_loop

        return await off_loop(acquire, self._give_back_unused)

    def _give_back_unused(self, storage: TapeStorage) -> None:
        self._openings.release(cast(Lease, storage.use), unused=True)

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
            # Nothing is called with what comes from here before it is noted down: a signal could strike.
            made: TapeStorageBackend = factory.create(config, context)
            return made

        close_at_exit(self._owner)
        self._openings.construct(opening, create, provider.metadata.capabilities)


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
