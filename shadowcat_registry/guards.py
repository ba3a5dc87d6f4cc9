"""What stands in the way of a plan before anything is prepared: protection, holders, too many removals.

Pure: looks at a plan, a snapshot, who holds what, and the policy. The same answers are what a reload is
refused for and what a plan shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .errors import Finding
from .manifest import Manifest, ReloadPolicy
from .marks import Mark
from .metadata import Holder
from .plan import Plan
from .snapshot import Snapshot

NAME_IS_TAKEN: Final = "code of this process has registered a provider of this name already"
_MASS: Final = 2
"""So many providers may always go in one reload."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why an action cannot be done, or not be finished, as things are."""

    code: str | None
    """Of the finding that refuses the whole reload; None: all of it is done but this, which waits."""
    provider: str
    message: str
    hint: str | None = None
    holders: tuple[Holder, ...] = ()

    @property
    def rejects(self) -> bool:
        return self.code is not None

    def __str__(self) -> str:
        held = "".join(f"\n    {holder}" for holder in self.holders)
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.message}{hint}{held}"

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "rejects": self.rejects,
            "message": self.message,
            "hint": self.hint,
            "holders": [holder.as_json() for holder in self.holders],
        }


def blockers(
    plan: Plan,
    snapshot: Snapshot,
    policy: ReloadPolicy,
    holders: Mapping[str, Sequence[Holder]],
    declared_count: int,
) -> list[Blocker]:
    """Everything that stands in the way of `plan`; `holders` are those of what it removes, and so many
    providers were declared until now."""
    found: list[Blocker] = []
    for name in plan.names("add"):
        existing = snapshot.get(name)
        if existing is not None and existing.origin == "code" and not existing.replaceable:
            found.append(Blocker("SC306", name, NAME_IS_TAKEN))
    for action in plan:
        if action.old is None or not action.old.protect or action.kind not in ("remove", "replace"):
            continue
        what = "be removed" if action.kind == "remove" else "change its type"
        message = f"the provider `{action.old.name}` is protected and cannot {what}"
        hint = "set `protect: false` first, and let that be applied"
        found.append(Blocker("SC706", action.old.name, message, hint))
    removed = plan.names("remove")
    if not policy.allow_mass_removal and (mass := _mass_removal(removed, declared_count)):
        found.append(mass)
    is_refused = policy.on_removal_in_use == "reject"
    found += [in_use(name, held, rejects=is_refused) for name in removed if (held := holders.get(name))]
    return found


def in_use(name: str, holders: Sequence[Holder], *, rejects: bool) -> Blocker:
    """A removal that has to wait, or is refused, for those who hold the provider."""
    if rejects:  # without a number: as long as it stays so, it is the same refusal
        message = f"the provider `{name}` is in use and cannot be removed"
        return Blocker("SC708", name, message, "`reload.on_removal_in_use` is `reject`", tuple(holders))
    leases = "1 lease" if len(holders) == 1 else f"{len(holders)} leases"
    message = f"the provider `{name}` waits for {leases}; it gives out no new one"
    return Blocker(None, name, message, None, tuple(holders))


def as_findings(found: Sequence[Blocker], manifest: Manifest) -> list[Finding]:
    """Those that refuse the reload; holders are for the status, which knows them as they are when asked."""
    start = Mark.at_start(str(manifest.path))
    return [
        Finding(
            blocker.code,
            blocker.message,
            manifest.provider_marks.get(blocker.provider, start),
            ("providers", blocker.provider) if blocker.provider else ("providers",),
            blocker.hint,
        )
        for blocker in found
        if blocker.code is not None
    ]


def _mass_removal(removed: Sequence[str], declared_count: int) -> Blocker | None:
    if len(removed) <= _MASS or 2 * len(removed) <= declared_count:
        return None
    listing = ", ".join(sorted(removed)[:10]) + (", …" if len(removed) > 10 else "")
    message = f"this would remove {len(removed)} of {declared_count} providers: {listing}"
    return Blocker("SC707", "", message, "if that is meant, set `reload.allow_mass_removal: true`")
