"""Counts: which revisions of each provider of a registry there are, what is open of them, and who holds that.

On the records of `leases.py`, with no lock of its own: the registry's guards the changes, and a method whose
docstring says "locked" is called with it. Values are replaced, never changed, so that all others may look at
them without.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from .leases import Opening, Revision
from .metadata import Holder, RevisionInfo


class Tally:
    """Of one registry."""

    def __init__(self) -> None:
        self._revisions: dict[str, tuple[Revision, ...]] = {}

    def openings(self) -> list[Opening]:
        """All that are begun and not over: a moment's list."""
        return [
            opening
            for revisions in self._revisions.copy().values()
            for revision in revisions
            for opening in revision.openings.copy()
        ]

    def start_anew(self) -> object:
        """In a forked child; returns what is the parent's, to be kept for ever."""
        inherited, self._revisions = self._revisions, {}
        return inherited

    def lease_count(self, provider: str, *more: Revision) -> int:
        """Leases on all revisions of a provider, `more` included: a moment's number."""
        return sum(revision.lease_count() for revision in {*self._revisions.get(provider, ()), *more})

    def holders(self, provider: str) -> list[Holder]:
        """Who has those leases, the oldest first."""
        now = monotonic()  # once for all: ages of different moments would not say who is older
        held = [holder for revision in self._revisions.get(provider, ()) for holder in revision.holders(now)]
        return sorted(held, key=lambda holder: -holder.age_seconds)

    def revisions(self, provider: str, *more: Revision) -> list[RevisionInfo]:
        """All of a provider, `more` included, the newest last: a moment's list."""
        known = {*self._revisions.get(provider, ()), *more}
        return [
            RevisionInfo(r.number, r.lease_count(), bool(r.openings), r.superseded)
            for r in sorted(known, key=lambda revision: revision.number)
        ]

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

    def supersede_all(self) -> None:
        """Locked: no revision gives out a lease any more."""
        for name, revisions in tuple(self._revisions.items()):
            for revision in revisions:
                revision.superseded = True
            self.is_done(name)

    def outside_holders(self, opened: Iterable[Opening]) -> list[Holder]:
        """Locked: who holds anything, apart from the backends of `opened` that stand on others."""
        kept = {dependency.use for opening in opened for dependency in opening.dependencies}
        now = monotonic()
        leases = [lease for opening in self.openings() for lease in opening.leases]
        return [lease.as_holder(now) for lease in leases if lease not in kept]
