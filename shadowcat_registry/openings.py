"""Opens backends, counts their leases, and closes them: once each, and never while somebody uses one.

The engine of the registry, on the records of `leases.py` and under the registry's lock. Methods whose
docstring says "locked" are called with it and call nothing foreign; all others are called without it.
Knows no provider, no manifest, no default.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar

from .backend import TapeStorageBackend
from .errors import (
    ConstructionTimeoutError,
    CreationFailedError,
    DependencyCycleError,
    InstanceExistsError,
    InvalidConfigError,
    RegistryError,
    StorageClosedError,
)
from .leases import Lease, Opening, Revision
from .metadata import Holder
from .storage import TapeStorage, translate

_logger = logging.getLogger(__name__)

# What this thread (or task) is constructing, outermost first.
_constructing: ContextVar[tuple[Opening, ...]] = ContextVar("constructing", default=())


def _construction_chain() -> tuple[Opening, ...]:
    # A context that was copied inside a factory may outlive the construction.
    return tuple(opening for opening in _constructing.get() if not opening.constructed.is_set())


class Openings:
    """Everything that is open in one registry.

    `settle(provider)` is called locked whenever something of a provider has ended: it returns whether
    the provider has left the registry with it. `tell_left(provider)` is then called without the lock.
    """

    def __init__(
        self,
        lock: threading.Lock,
        construction_timeout_seconds: float,
        settle: Callable[[str], bool],
        tell_left: Callable[[str], None],
    ) -> None:
        self._lock = lock
        self._construction_timeout_seconds = construction_timeout_seconds
        self._settle = settle
        self._tell_left = tell_left
        # Guarded by the registry's lock, as the records are. Values are replaced, never changed, so that
        # counting may look at them without it.
        self._revisions: dict[str, tuple[Revision, ...]] = {}
        self._opened: dict[Opening, None] = {}
        self._instances: dict[str, Lease] = {}

    # ------------------------------------------------------------------ counting

    def lease_count(self, provider: str, *more: Revision) -> int:
        """Leases on all revisions of a provider, `more` included: a moment's number."""
        return sum(revision.lease_count() for revision in {*self._revisions.get(provider, ()), *more})

    def holders(self, provider: str) -> list[Holder]:
        """Who has those leases, the oldest first."""
        held = [holder for revision in self._revisions.get(provider, ()) for holder in revision.holders()]
        return sorted(held, key=lambda holder: -holder.age_seconds)

    def adopt(self, revision: Revision) -> None:
        """Locked: count this revision's leases as its provider's."""
        known = self._revisions.get(revision.provider, ())
        if revision not in known:
            self._revisions[revision.provider] = (*known, revision)

    def is_done(self, provider: str) -> bool:
        """Locked: forget revisions that have ended; whether that was all there was of the provider."""
        kept = tuple(r for r in self._revisions.get(provider, ()) if r.openings or not r.superseded)
        if kept:
            self._revisions[provider] = kept
            return False
        self._revisions.pop(provider, None)
        return True

    # ------------------------------------------------------------------ opening

    def begin(self, revision: Revision, *, shared: bool) -> Opening:
        """Locked: a construction, which the caller now has to carry out with `construct`.

        Raises:
            DependencyCycleError: this thread is constructing from the same revision already.
        """
        chain = _construction_chain()
        for start, constructing in enumerate(chain):
            if constructing.revision is revision:
                raise DependencyCycleError([*(o.revision.provider for o in chain[start:]), revision.provider])
        opening = Opening(revision, shared)
        revision.openings[opening] = None
        self.adopt(revision)
        if shared:
            revision.shared = opening
        return opening

    def add_lease(
        self, opening: Opening, acquired_at: str, instance_id: str | None = None, *, of_default: bool = False
    ) -> Lease:
        """Locked: from here on, the provider is in use.

        Raises:
            InstanceExistsError: the instance id is live already.
        """
        if instance_id is not None:
            self.check_instance(instance_id)
        lease = Lease(opening, acquired_at, instance_id, of_default)
        opening.leases[lease] = None
        if instance_id is not None:
            self._instances[instance_id] = lease
        return lease

    def check_instance(self, instance_id: str) -> None:
        """Locked.

        Raises:
            InstanceExistsError: the instance id is live already.
        """
        if (taken := self._instances.get(instance_id)) is not None:
            raise InstanceExistsError(instance_id, taken.opening.revision.provider)

    def find_instance(self, instance_id: str) -> Opening | None:
        """Locked: what is live under this id, unless it is being closed."""
        lease = self._instances.get(instance_id)
        return None if lease is None or lease.opening.closing else lease.opening

    def construct(self, opening: Opening, create: Callable[[], TapeStorageBackend]) -> None:
        """Carry out what `begin` began. On failure nothing is left of it, and whoever waits is told.

        Raises:
            CreationFailedError: `create` raised. Our own errors that say more than that pass through.
        """
        name = opening.revision.provider
        chain = _construction_chain()
        token = _constructing.set((*chain, opening))
        if chain:
            chain[-1].waits_for = opening
        try:
            backend = create()
        except BaseException as error:
            failure = _failure(name, error)
            with self._lock:
                opening.error = failure
            try:
                self._close_dependencies(opening)
            finally:
                self._end(opening)
                opening.constructed.set()
            if failure is error:
                raise
            raise failure from error
        finally:
            _constructing.reset(token)
            if chain:
                chain[-1].waits_for = None
        with self._lock:
            opening.backend = backend
            self._opened[opening] = None
        opening.constructed.set()

    def add_dependency(self, opening: Opening, storage: TapeStorage) -> None:
        """Give `storage` back when `opening` is closed.

        Raises:
            StorageClosedError: it is closed already; `storage` has been given back.
        """
        with self._lock:
            is_over = opening.closing or opening.error is not None
            if not is_over:
                opening.dependencies.append(storage)
        if is_over:
            storage.close()
            raise StorageClosedError(f"the storage of provider {opening.revision.provider!r}")

    def wait(self, opening: Opening, lease: Lease) -> None:
        """Until somebody else has constructed `opening`; gives `lease` back on any failure.

        Raises:
            DependencyCycleError: that construction waits, over whatever threads, for one of this thread's.
            ConstructionTimeoutError: it takes too long.
            CreationFailedError: it failed.
        """
        chain = _construction_chain()
        try:
            if chain:
                with self._lock:
                    names = _find_cycle(chain, opening)
                    if names is not None:
                        raise DependencyCycleError(names)
                    chain[-1].waits_for = opening
            if not opening.constructed.wait(self._construction_timeout_seconds):
                raise ConstructionTimeoutError(opening.revision.provider, self._construction_timeout_seconds)
        except BaseException:
            self.release(lease)
            raise
        finally:
            if chain:
                chain[-1].waits_for = None
        if isinstance(opening.error, RegistryError):
            raise type(opening.error)(*opening.error.args) from opening.error
        if opening.error is not None:
            raise CreationFailedError(opening.revision.provider, "its construction was interrupted")

    # ------------------------------------------------------------------ closing

    def release(self, lease: Lease) -> None:
        """Give a lease back. The last one closes what ends with it, and counts until that is closed."""
        opening = lease.opening
        with self._lock:
            if lease.released:
                return
            lease.released = True
            last = (
                len(opening.leases) == 1
                and opening.ends_with_last_lease
                and opening.constructed.is_set()
                and not opening.closing
            )
            if last:
                self._mark_closing(opening)
            else:
                self._drop_lease(lease)
        if last:
            self.close(opening)

    def take_idle(self, revision: Revision) -> Opening | None:
        """Locked: the shared backend of a revision, if nobody uses it; the caller now has to close it."""
        opening = revision.shared
        if opening is None or opening.leases or opening.closing:
            return None
        self._mark_closing(opening)
        return opening

    def take_all(self) -> list[Opening]:
        """Locked: everything that is open, in the order of opening; the caller now has to close it."""
        openings = [opening for opening in self._opened if not opening.closing]
        for opening in openings:
            self._mark_closing(opening)
        for name, revisions in tuple(self._revisions.items()):
            for revision in revisions:
                revision.superseded = True
            self.is_done(name)
        return openings

    def providers(self) -> tuple[str, ...]:
        """Locked: whoever has a revision."""
        return tuple(self._revisions)

    def close(self, opening: Opening) -> None:
        """Close a backend that was taken to be closed; a failure is logged, and changes nothing."""
        try:
            if opening.backend is not None:
                opening.backend.close()
        except KeyboardInterrupt:
            raise
        except BaseException:  # whatever it is, the next storage has to be closed too
            _logger.exception("closing the storage of provider %r failed", opening.revision.provider)
        finally:
            self._close_dependencies(opening)
            self._end(opening)

    # ------------------------------------------------------------------ inside

    @staticmethod
    def _mark_closing(opening: Opening) -> None:
        """Locked."""
        opening.closing = True
        if opening.revision.shared is opening:
            opening.revision.shared = None

    def _drop_lease(self, lease: Lease) -> None:
        """Locked."""
        lease.opening.leases.pop(lease, None)
        if lease.instance_id is not None and self._instances.get(lease.instance_id) is lease:
            # The id lives as long as the storage does: another lease on it carries it on.
            heir = next(iter(lease.opening.leases), None)
            if heir is None:
                del self._instances[lease.instance_id]
            else:
                heir.instance_id = lease.instance_id
                self._instances[lease.instance_id] = heir

    def _end(self, opening: Opening) -> None:
        """The opening is over: nothing counts for it any more."""
        name = opening.revision.provider
        with self._lock:
            self._mark_closing(opening)
            opening.revision.openings.pop(opening, None)
            self._opened.pop(opening, None)
            for lease in tuple(opening.leases):
                lease.released = True
                self._drop_lease(lease)
            left = self._settle(name)
        if left:
            self._tell_left(name)

    @staticmethod
    def _close_dependencies(opening: Opening) -> None:
        for dependency in reversed(opening.dependencies):
            try:
                # Not `close()`: the lease has to be given back even if something still records there.
                dependency.__exit__(None, None, None)
            except Exception:
                _logger.exception(
                    "provider %r could not give back the storage of %r",
                    opening.revision.provider,
                    dependency.provider,
                )


def _failure(provider: str, error: BaseException) -> BaseException:
    if not isinstance(error, Exception):
        return error  # KeyboardInterrupt and its like are nobody's to rename
    if isinstance(error, InvalidConfigError | DependencyCycleError | ConstructionTimeoutError):
        return error
    if isinstance(error, CreationFailedError) and error.provider == provider:
        return error
    return CreationFailedError(provider, str(translate(error)))


def _find_cycle(chain: tuple[Opening, ...], opening: Opening) -> list[str] | None:
    """Whether `opening` waits, over however many threads, for something that this thread constructs."""
    path: list[str] = []
    step: Opening | None = opening
    while step is not None:
        path.append(step.revision.provider)
        if step in chain:
            return [*(constructing.revision.provider for constructing in chain[chain.index(step) :]), *path]
        step = step.waits_for
    return None
