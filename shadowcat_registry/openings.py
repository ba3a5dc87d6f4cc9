"""Opens backends, counts their leases, and closes them: once each, and never while somebody uses one.

The engine of the registry, on the records of `leases.py` and under the registry's lock; who uses what is
counted in `tally`, who waits for whose construction is in `constructing`, the end of one backend in
`closing`. Methods whose docstring says "locked" are called with it and call nothing foreign; all others are
called without it. Knows no provider, no manifest, no default.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final, cast

from . import forks
from .backend import TapeStorageBackend
from .bounded import call_each
from .callers import Caller
from .closing import (
    HangingClose,
    close_backend,
    close_dependencies,
    find_hanging,
    say_dropped,
    say_late,
)
from .constructing import as_failure, check_construction, constructing, construction_chain, find_cycle
from .errors import (
    ConstructionTimeoutError,
    CreationFailedError,
    DependencyCycleError,
    InstanceExistsError,
    RegistryError,
    StorageClosedError,
)
from .leases import Lease, Opening, Revision
from .metadata import Holder, ProviderCapability, Unclosed
from .storage import TapeStorage
from .tally import Tally
from .use import Guard, Source

CLOSE_PATIENCE_SECONDS: Final = 5.0
"""How long anybody waits for the `close()` of a backend that is not his own."""

_logger = logging.getLogger(__name__)


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
        is_default: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._lock = lock
        self._construction_timeout_seconds = construction_timeout_seconds
        self._settle = settle
        self._tell_left = tell_left
        self._is_default = is_default
        self.tally: Final = Tally()
        # Guarded by the registry's lock, as the records are.
        self._opened: dict[Opening, None] = {}
        self._instances: dict[str, Lease] = {}
        # Of handles that were dropped unclosed. Written by the collector, which may run under any lock; and
        # not by code of ours, so that nothing else can ever happen there, not even a signal.
        self.dropped: deque[Guard] = deque()
        self.note_dropped = self.dropped.append

    def start_anew(self, lock: threading.Lock) -> None:
        """In a forked child: what was open is the parent's, is left alone for ever, and refuses its users."""
        for lease in (lease for opening in self.tally.openings() for lease in opening.leases):
            lease.mark_forked()
        forks.keep((self.tally.start_anew(), self._opened, self.dropped))
        self._lock = lock
        self._opened, self._instances, self.dropped = {}, {}, deque()
        self.note_dropped = self.dropped.append

    # ------------------------------------------------------------------ opening

    def begin(self, revision: Revision, *, shared: bool) -> Opening:
        """Locked: what the caller now has to `lease`, and then to `construct`.

        Raises:
            DependencyCycleError: this thread is constructing from the same revision already.
        """
        check_construction(revision)
        self.tally.adopt(revision)
        return Opening(revision, shared, owner=self)

    def lease(
        self, opening: Opening, caller: Caller, instance_id: str | None = None, *, of_default: bool = False
    ) -> TapeStorage:
        """Locked: a handle whose lease counts: from here on, the provider is in use. An opening that is new
        is seen from here on, too.

        Raises:
            InstanceExistsError: the instance id is live already.
        """
        if instance_id is not None:
            self.check_instance(instance_id)
        lease = Lease(opening, self._lock, caller, instance_id, of_default)
        # The handle is there before its lease counts: wherever a signal's handler raises from here on, the
        # lease goes with the handle. And nothing is called from here on, so that none raises in between.
        storage = TapeStorage(lease, self.note_dropped)
        revision = opening.revision
        revision.openings[opening] = None
        if opening.shared:
            revision.shared = opening
        opening.leases[lease] = None
        if instance_id is not None:
            self._instances[instance_id] = lease
        return storage

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

    def construct(
        self,
        opening: Opening,
        create: Callable[[], TapeStorageBackend],
        capabilities: frozenset[ProviderCapability] = frozenset(),
    ) -> None:
        """Carry out what `begin` began. On failure nothing is left of it, and whoever waits is told.

        Raises:
            CreationFailedError: `create` raised. Our own errors that say more than that pass through.
        """
        name = opening.revision.provider
        chain = construction_chain()
        token = constructing.set((*chain, opening))
        made: TapeStorageBackend | None = None
        try:
            if chain:
                chain[-1].waits_for = opening
            made = create()
            if made is None:  # a forgotten `return`, in code that nobody checks types of
                raise CreationFailedError(name, "its factory returned no backend")
            source = Source.of(made, name, capabilities)
            with self._lock:
                self._opened[opening] = None
                opening.source = source
            opening.constructed.set()
        except BaseException as error:  # noqa: BLE001 - raised again
            failure = as_failure(name, error)
            try:
                self.give_up(opening, failure, made)
                if failure is error:
                    raise
                raise failure from error
            finally:
                del failure  # or a cycle keeps this frame, and the handle in the one that called
        finally:
            constructing.reset(token)
            if chain:
                chain[-1].waits_for = None

    def give_up(
        self, opening: Opening, failure: BaseException, made: TapeStorageBackend | None = None
    ) -> None:
        """Nobody waits for this construction any more, whatever has become of it. `made` is closed, unless
        the construction was complete: then that stands."""
        try:
            with self._lock:
                if opening.source is not None:
                    return
                if isinstance(failure, RegistryError):
                    opening.error = failure
                else:  # not to be kept: it knows all frames, and one of them knows the handle
                    opening.error = CreationFailedError(
                        opening.revision.provider, "its construction was interrupted"
                    )
            if made is not None:
                try:
                    made.close()
                except Exception:
                    _logger.exception("closing a backend that could not be used failed")
            close_dependencies(opening)
        finally:
            if opening.source is None:
                self._end(opening)
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

    def wait(self, lease: Lease) -> None:
        """Until somebody else has constructed what this is a lease on; gives it back on any failure.

        Raises:
            DependencyCycleError: that construction waits, over whatever threads, for one of this thread's.
            ConstructionTimeoutError: it takes too long.
            CreationFailedError: it failed.
        """
        opening = lease.opening
        chain = construction_chain()
        try:
            if chain:
                with self._lock:
                    names = find_cycle(chain, opening)
                    if names is not None:
                        raise DependencyCycleError(names)
                    chain[-1].waits_for = opening
            if not opening.constructed.wait(self._construction_timeout_seconds):
                raise ConstructionTimeoutError(opening.revision.provider, self._construction_timeout_seconds)
        except BaseException:
            self.release(lease, unused=True)
            raise
        finally:
            if chain:
                chain[-1].waits_for = None
        if opening.error is not None:
            raise type(opening.error)(*opening.error.args) from opening.error

    # ------------------------------------------------------------------ closing

    def release(self, lease: Lease, *, unused: bool = False) -> None:
        """Give a lease back. The last one closes what ends with it, and counts until that is closed.

        `unused`: nobody has ever had it. A storage of which all leases were such is closed, not kept.
        """
        with self._lock:
            rest = lease.leave(unused=unused)
        if rest is not None:
            rest()

    def sweep(self) -> None:
        """Release what was dropped unclosed, with a warning for each, and say whose `close()` hangs. What
        somebody had to close who was interrupted before he came to it, is closed now."""
        self.drain()
        left: list[Opening] = []
        for opening in self._opened.copy():
            since = opening.closing_since
            if since is None or monotonic() - since < CLOSE_PATIENCE_SECONDS:
                continue
            if not opening.is_taken:
                left.append(opening)
            elif opening.late_since is None:
                say_late(opening, monotonic() - since)
        self.close_each(left, CLOSE_PATIENCE_SECONDS)

    def drain(self, timeout_seconds: float = CLOSE_PATIENCE_SECONDS) -> None:
        """The part of `sweep` that every operation does first."""
        if self.dropped:
            self._end_dropped(timeout_seconds)

    def is_default(self, provider: str) -> bool:
        return self._is_default(provider)

    def take_idle(self, revision: Revision) -> Opening | None:
        """Locked: the shared backend of a revision, if nobody uses it; the caller now has to close it."""
        opening = revision.shared
        if opening is None or opening.leases or opening.closing:
            return None
        opening.mark_closing()
        return opening

    def take_all(self) -> list[Opening]:
        """Locked: everything that is open, in the order of opening; the caller now has to close it."""
        openings = [opening for opening in self._opened if not opening.is_taken]
        for opening in openings:
            opening.mark_closing()
        self.tally.supersede_all()
        return openings

    def hanging(self) -> list[HangingClose]:
        """Whose `close()` was given up and has not come back, the oldest first: a moment's list."""
        return find_hanging(self._opened.copy())

    def outside_holders(self) -> list[Holder]:
        """Locked: who holds anything, apart from the backends here that stand on others."""
        return self.tally.outside_holders(self._opened)

    def close(self, opening: Opening) -> Unclosed | None:
        """Close a backend that was marked as closing, if nobody else is at it. A failure is logged, returned,
        and changes nothing. If this is interrupted, the next sweep goes on where it was."""
        mine = False
        try:
            with self._lock:
                if opening.is_taken:
                    return None
                mine = True
                opening.closer = threading.current_thread()
            try:
                return close_backend(opening)
            finally:
                if opening.is_closed:
                    close_dependencies(opening)
                    self._end(opening)
        except BaseException:
            if mine:
                opening.closer = None
            raise

    def close_each(self, openings: Sequence[Opening], timeout_seconds: float) -> tuple[Unclosed, ...]:
        """Close these, in their order, within this time. What takes longer is named, goes on in a thread of
        its own, and keeps its leases until it has ended."""
        results: dict[Opening, Unclosed | None] = {}

        def close(opening: Opening) -> None:
            results[opening] = self.close(opening)

        late = call_each([partial(close, opening) for opening in openings], timeout_seconds)
        return tuple(
            unclosed
            for opening, seconds in zip(openings, late, strict=True)
            if (unclosed := results.get(opening) if seconds is None else say_late(opening, seconds))
            is not None
        )

    # ------------------------------------------------------------------ inside

    def _end_dropped(self, timeout_seconds: float) -> None:
        leases: list[Lease] = []
        try:
            while True:
                leases.append(cast(Lease, self.dropped.popleft().use))
        except IndexError:  # another thread may be at it too
            pass
        # Unless its registry was closed in the meantime, or it never came to count.
        leases = [lease for lease in leases if lease.is_counted]
        unclosed = [lease.is_open for lease in leases]
        late = call_each([partial(self._end_lease, lease) for lease in leases], timeout_seconds)
        for lease, was_open, seconds in zip(leases, unclosed, late, strict=True):
            if seconds is not None:
                say_late(lease.opening, seconds)
            if was_open:  # else its `close()` was interrupted
                say_dropped(lease)

    def _end_lease(self, lease: Lease) -> None:
        lease.end()
        self.release(lease)  # if an interrupted `close()` came no further than to say that it is closed

    def pass_on_instance(self, lease: Lease) -> None:
        """Locked: this lease goes. Its id lives as long as the storage does: another one carries it on."""
        instance_id = lease.instance_id
        if instance_id is None or self._instances.get(instance_id) is not lease:
            return
        heir = next((other for other in lease.opening.leases if other is not lease), None)
        if heir is None:
            del self._instances[instance_id]
        else:
            heir.instance_id = instance_id
            self._instances[instance_id] = heir

    def _end(self, opening: Opening) -> None:
        """The opening is over: nothing counts for it any more."""
        name = opening.revision.provider
        with self._lock:
            opening.mark_closing()
            for lease in tuple(opening.leases):
                lease.guard = None
                if lease.instance_id is not None and self._instances.get(lease.instance_id) is lease:
                    del self._instances[lease.instance_id]
            opening.leases.clear()
            opening.revision.openings.pop(opening, None)
            left = self._settle(name)
            self._opened.pop(opening, None)  # last: as long as it is there, a sweep goes on with what is left
        if left:
            self._tell_left(name)
