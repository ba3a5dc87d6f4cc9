"""What a registry is made of at a moment, and how it becomes the next: one snapshot, one lock, one swap.

Everything that changes which providers there are goes through here: commits, overrides, the leaving of a
retiring provider, the end, and the new start of a forked child. Knows no factory, no hook and no file, and
calls nothing foreign but the listeners, which it calls without the lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .errors import (
    DefaultNotSetError,
    ProviderInUseError,
    ProviderProtectedError,
    ProviderRetiringError,
    RuntimeClosedError,
    StalePlanError,
)
from .leases import Opening, Revision
from .metadata import FALLBACK_DEFAULT, Holder
from .openings import Openings
from .snapshot import Provider, Snapshot

RetiredListener = Callable[[str], object]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """One provider's part of a commit: it becomes `provider`, or leaves if that is None.

    `expected` is what was there when the change was planned; the commit is refused if it no longer is.
    """

    name: str
    expected: Provider | None
    provider: Provider | None
    in_place: bool = False
    """Its storage takes the new config as it is, and with it everybody who has a lease."""


@dataclass(frozen=True, slots=True)
class SetDefault:
    """The other part of a commit: from now on, the default is this one (None: nobody set one)."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Terms:
    """On which conditions something is committed at all; all of them are looked at in the same moment."""

    default: str | None
    """What the default has to be until then."""
    is_removal_in_use_refused: bool = False
    cancelled: threading.Event | None = None
    """Once this is set, nothing is committed any more."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did: the generation that it made, and who could not leave yet."""

    generation: int
    retiring: tuple[str, ...] = ()
    superseded: tuple[Opening, ...] = field(default=(), repr=False)
    """Idle backends of superseded revisions, for `retire` to close."""


class Generations:
    """The state of one registry.

    Methods whose docstring says "locked" are called with `lock`; all others are called without it.
    """

    def __init__(self, construction_timeout_seconds: float) -> None:
        # Guards every change of the fields below and of the records in leases.py. Nothing foreign is
        # called under it: no factory, hook, backend, listener; no handler of a log either.
        self.lock = threading.Lock()
        self.snapshot = Snapshot({}, None, 0)
        self.openings = Openings(
            self.lock, construction_timeout_seconds, self._settle, self.tell_left, self.is_default
        )
        # Of overridden providers: what was there first, then what has come over it.
        self._layers: dict[str, list[Provider]] = {}
        self._retired_listeners: tuple[RetiredListener, ...] = ()

    # ------------------------------------------------------------------ the default

    def name_of_default(self) -> str:
        """Locked.

        Raises:
            DefaultNotSetError: nobody has set one, and what serves as one then is not there.
        """
        snapshot = self.snapshot
        if snapshot.default is None and FALLBACK_DEFAULT not in snapshot:
            raise DefaultNotSetError(tuple(snapshot))
        return snapshot.default or FALLBACK_DEFAULT

    def is_default(self, name: str) -> bool:
        return name == (self.snapshot.default or FALLBACK_DEFAULT)

    def active(self, name: str) -> Provider:
        """Locked: a provider that gives out leases.

        Raises:
            ProviderNotFoundError, ProviderRetiringError: there is none.
        """
        provider = self.snapshot[name]
        if provider.state == "retiring":
            raise ProviderRetiringError(name, self.snapshot.default)
        return provider

    # ------------------------------------------------------------------ commits

    def commit(
        self, changes: Sequence[Change], default: SetDefault | None = None, terms: Terms | None = None
    ) -> Committed:
        """Locked: check, then build the next snapshot and swap it.

        Raises:
            StalePlanError: a provider is not what its change expected, or the default not what the terms do.
            ProviderInUseError, RuntimeClosedError: the terms forbid it.
                Nothing is changed by any of them.
        """
        for change in changes:
            if self.snapshot.get(change.name) is not change.expected:
                raise StalePlanError(change.name)
        if terms is not None:
            self._check(terms, changes)
        providers = dict(self.snapshot)
        retiring: list[str] = []
        idle: list[Opening] = []
        for change in changes:
            old, new = change.expected, change.provider
            if old is not None and (new is None or new.live is not old.live):
                old.live.superseded = True
                if (opening := self.openings.take_idle(old.live)) is not None:
                    idle.append(opening)
            if new is not None:
                new.live.superseded = False
                if old is None or new.live is not old.live:
                    new.live.number = old.live.number + 1 if old is not None else 1
                elif change.in_place:
                    new.live.number += 1
                self.openings.tally.adopt(new.live)
                providers[change.name] = replace(new, state="active", number=new.live.number)
            elif old is not None and self.openings.tally.lease_count(change.name):
                providers[change.name] = replace(old, state="retiring")
                retiring.append(change.name)
            else:
                providers.pop(change.name, None)
        name = self.snapshot.default if default is None else default.name
        if changes or name != self.snapshot.default:
            self._swap(providers, name)
        for change in changes:  # of a revision that nobody ever opened, nothing else will ever end
            self._settle(change.name)
        return Committed(self.snapshot.generation, tuple(retiring), tuple(idle))

    def remove(self, name: str) -> Committed:
        """Locked: a commit without one provider.

        Raises:
            ProviderNotFoundError: there is none of that name.
            ProviderProtectedError: its declaration forbids that.
            ProviderInUseError: it has leases; says whose. Nothing is changed.
        """
        provider = self.snapshot[name]
        if (provider.declared or provider.spec).protect:
            raise ProviderProtectedError(name)
        self._check_unused(name)
        return self.commit([Change(name, provider, None)])

    def _check(self, terms: Terms, changes: Sequence[Change]) -> None:
        """Locked."""
        if terms.cancelled is not None and terms.cancelled.is_set():
            raise RuntimeClosedError
        if self.snapshot.default != terms.default:
            raise StalePlanError(None)
        if terms.is_removal_in_use_refused:
            for change in changes:
                if change.provider is None:
                    self._check_unused(change.name)

    def _check_unused(self, name: str) -> None:
        """Locked."""
        if self.openings.tally.lease_count(name):
            holders = self.openings.tally.holders(name)
            raise ProviderInUseError(name, len(holders), holders)

    def withdraw(self, provider: Provider) -> tuple[Opening | None, bool]:
        """Locked: nothing is leased from what was staged any more. What the caller has to close, and whether
        a retiring provider of that name has left with it."""
        provider.live.superseded = True
        return self.openings.take_idle(provider.live), self._settle(provider.name)

    def take_all(self) -> tuple[list[Holder], list[Opening]]:
        """Locked: nothing is registered any more. Who still holds what, and what the caller has to close, in
        the order of opening."""
        held = self.openings.outside_holders()
        openings = self.openings.take_all()
        if self.snapshot or self.snapshot.default is not None:
            self._swap({}, None)
        return held, openings

    def _swap(self, providers: dict[str, Provider], default: str | None) -> None:
        """Locked."""
        self.snapshot = Snapshot(providers, default, self.snapshot.generation + 1)

    # ------------------------------------------------------------------ who leaves

    def _settle(self, name: str) -> bool:
        """Locked: let a retiring provider go of which nothing is left; whether it went."""
        if not self.openings.tally.is_done(name):
            return False
        provider = self.snapshot.get(name)
        if provider is None or provider.state != "retiring":
            return False
        providers = {other: kept for other, kept in self.snapshot.items() if other != name}
        self._swap(providers, self.snapshot.default)
        return True

    def tell_left(self, name: str) -> None:
        """Tell every listener that a retiring provider has left."""
        for listener in self._retired_listeners:
            try:
                listener(name)
            except Exception:
                _logger.exception("a listener failed when provider %r had left", name)

    def on_retired(self, listener: RetiredListener) -> Callable[[], None]:
        """Call `listener(name)` whenever one has left; returns what ends that."""
        with self.lock:
            self._retired_listeners = (*self._retired_listeners, listener)

        def cancel() -> None:
            with self.lock:
                self._retired_listeners = tuple(one for one in self._retired_listeners if one is not listener)

        return cancel

    # ------------------------------------------------------------------ overrides

    def begin_override(self, layer: Provider) -> None:
        """Locked: `layer` comes over whatever is there.

        Raises:
            ProviderNotFoundError: nothing is.
        """
        base = self.snapshot[layer.name]
        layers = self._layers.setdefault(layer.name, [])
        if not layers or layers[-1].live is not base.live:
            layers.append(base)
        layers.append(layer)
        self._put(layer)

    def end_override(self, layer: Provider) -> list[Opening]:
        """Locked: take it away, wherever in the pile it is; what the caller has to close."""
        layers = self._layers.get(layer.name, [])
        if layer not in layers:  # this is a forked child, and the block began in its parent
            return []
        current = self.snapshot.get(layer.name)
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
        idle = [self.openings.take_idle(provider.live) for provider in gone]
        self._settle(layer.name)
        return [opening for opening in idle if opening is not None]

    def _put(self, provider: Provider) -> None:
        """Locked: the next snapshot, with this one in its place."""
        self.openings.tally.adopt(provider.live)
        self._swap({**self.snapshot, provider.name: provider}, self.snapshot.default)

    # ------------------------------------------------------------------ forks

    def start_anew(self) -> None:
        """In a forked child: keep what was registered, and nothing of what is open."""
        self.lock = threading.Lock()
        self.openings.start_anew(self.lock)
        self._layers = {}
        snapshot = self.snapshot
        providers = {
            name: replace(provider, live=Revision(name, provider.revision))
            for name, provider in snapshot.items()
            if provider.state == "active"  # a retiring one was there for its holders only
        }
        for provider in providers.values():
            self.openings.tally.adopt(provider.live)
        self.snapshot = Snapshot(providers, snapshot.default, snapshot.generation)
