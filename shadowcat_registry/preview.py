"""What a reload would do, for people and programs: a plan, what each action comes to, and what is in its way.

Looks and never touches: nothing is opened, asked, or committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Finding
from .events import WIRE_VERSION
from .guards import Blocker, blockers
from .manifest import Manifest
from .metadata import Holder
from .plan import Action, FieldChange, Plan, State, diff
from .snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """One action of a plan as it would come out now."""

    kind: str
    """`add`, `update`, `replace`, `metadata`, `remove` or `default`."""
    name: str | None
    """Of the provider; of `default` the new default, None: none."""
    reason: str
    effect: str
    """What it means for whoever uses the provider."""
    changes: tuple[FieldChange, ...] = ()
    blockers: tuple[Blocker, ...] = ()

    @property
    def is_blocked(self) -> bool:
        return bool(self.blockers)

    def __str__(self) -> str:
        what = f"set default {self.name}" if self.name else "unset the default"
        title = what if self.kind == "default" else f"{self.kind} {self.name}"
        lines = [f"{title}: {self.effect}"]
        lines += [f"  {change}" for change in self.changes]
        lines += [f"  BLOCKED: {blocker}" for blocker in self.blockers]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "reason": self.reason,
            "effect": self.effect,
            "changes": [change.as_json() for change in self.changes],
            "blockers": [blocker.as_json() for blocker in self.blockers],
        }


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a reload would do now. With findings the manifest is wrong, and there is nothing to plan."""

    manifest: str
    generation: int
    """That the plan is made against."""
    running_digest: str | None
    digest: str | None
    """Of the manifest as it is now."""
    actions: tuple[PlannedAction, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    """What is in the way of the plan as a whole."""
    findings: tuple[Finding, ...] = ()

    @property
    def is_blocked(self) -> bool:
        """Something of it cannot be done, or not be finished, as things are."""
        return bool(self.findings or self.blockers) or any(action.is_blocked for action in self.actions)

    @property
    def is_rejected(self) -> bool:
        """Nothing at all of it would be done."""
        found = [*self.blockers, *(blocker for action in self.actions for blocker in action.blockers)]
        return bool(self.findings) or any(blocker.rejects for blocker in found)

    def __str__(self) -> str:
        if self.findings:
            return "\n".join(["this manifest would be rejected:", *(f"  {it}" for it in self.findings)])
        if not self.actions:
            return "no changes: the manifest says what is running"
        lines = [f"BLOCKED: {blocker}" for blocker in self.blockers]
        lines += [str(action) for action in self.actions]
        counts = ", ".join(
            f"{count} to {verb}"
            for verb, kinds in (
                ("add", ("add",)),
                ("change", ("update", "replace", "metadata", "default")),
                ("remove", ("remove",)),
            )
            if (count := sum(1 for action in self.actions if action.kind in kinds))
        )
        end = "; nothing of it would be done" if self.is_rejected else ""
        return "\n".join([*lines, f"{counts}{end}"])

    def as_json(self) -> dict[str, Any]:
        return {
            "version": WIRE_VERSION,
            "manifest": self.manifest,
            "generation": self.generation,
            "running_digest": self.running_digest,
            "digest": self.digest,
            "is_blocked": self.is_blocked,
            "is_rejected": self.is_rejected,
            "actions": [action.as_json() for action in self.actions],
            "blockers": [blocker.as_json() for blocker in self.blockers],
            "findings": [finding.as_json() for finding in self.findings],
        }


def preview(
    plan: Plan,
    snapshot: Snapshot,
    manifest: Manifest,
    running: Manifest,
    holders: Mapping[str, Sequence[Holder]],
) -> PlanReport:
    """`plan`, from `snapshot`, on which `running` was applied, to `manifest`; `holders` by provider."""
    policy = manifest.reload.with_stricter(running.reload)
    found = blockers(plan, snapshot, policy, holders, len(running.providers))
    actions = tuple(
        _planned(action, snapshot, holders, [blocker for blocker in found if blocker.provider == action.name])
        for action in plan
    )
    return PlanReport(
        manifest=str(manifest.path),
        generation=snapshot.generation,
        running_digest=running.digest,
        digest=manifest.digest,
        actions=actions,
        blockers=tuple(blocker for blocker in found if not blocker.provider),
    )


def compare(old: Manifest, new: Manifest) -> PlanReport:
    """What a process that runs `old` would do about `new`, as far as files tell: nobody holds anything."""
    plan = diff(State(old.providers, old.default), State(new.providers, new.default))
    return preview(plan, Snapshot({}, old.default, 0), new, old, {})


def _planned(
    action: Action, snapshot: Snapshot, holders: Mapping[str, Sequence[Holder]], found: Sequence[Blocker]
) -> PlannedAction:
    return PlannedAction(
        action.kind,
        action.name,
        action.reason,
        _effect(action, snapshot, len(holders.get(action.name or "", ()))),
        action.changes(),
        tuple(found) if action.kind != "default" else (),
    )


def _effect(action: Action, snapshot: Snapshot, lease_count: int) -> str:
    if action.kind == "default":
        return "what get_default_storage() opens from then on"
    existing = snapshot.get(action.name or "")
    leases = "1 lease" if lease_count == 1 else f"{lease_count} leases"
    if action.kind == "add":
        is_back = existing is not None and existing.state == "retiring"
        return "its removal is cancelled" if is_back else "opened when it is first used"
    if action.kind == "metadata":
        return "no storage is touched"
    shared = existing.live.shared if existing is not None else None
    is_volatile = shared is not None and shared.source is not None and shared.source.durability.volatile
    if action.kind == "remove":
        verb = "is" if lease_count == 1 else "are"
        gone = "closed, and gone" + (" with all tapes in it" if is_volatile else "")
        return f"retires until {leases} {verb} closed" if lease_count else gone
    if action.kind == "replace" and is_volatile:
        return "a new revision; refused as long as it holds tapes, which are nowhere else"
    is_other_code = "implementation" in action.changed
    if existing is not None and action.kind == "update" and not is_other_code and _may_take_it(shared):
        return "in place, if its storage can take it; otherwise a new revision"
    stay = (
        f"; {leases} {'stays' if lease_count == 1 else 'stay'} on revision {existing.revision}"
        if lease_count and existing is not None
        else ""
    )
    return f"a new revision{stay}"


def _may_take_it(opening: Any) -> bool:
    return opening is not None and hasattr(opening.backend, "reconfigure")
