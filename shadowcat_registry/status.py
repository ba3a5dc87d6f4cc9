"""What a runtime can say about itself: how it stands, what it is doing, and what it has done.

Plain immutable records that serialise to JSON; whoever shows them decides how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from .errors import Finding
from .events import WIRE_VERSION, EventName
from .last_good import Keeping
from .metadata import Holder, PluginInfo, ProviderInfo, RevisionInfo, format_time
from .watch import WatchStatus

RuntimeState = Literal["ok", "rejected", "degraded", "stopped"]
Result = Literal["started", "committed", "unchanged", "rejected", "degraded"]
PhaseName = Literal["load", "plan", "prepare", "commit", "retire", "notify"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reload came to.

    `unchanged`: the file says what is running. `rejected`: it is wrong, nothing was changed.
    `degraded`: there is no manifest to read.
    """

    result: Result
    at: datetime
    generation: int
    digest: str | None
    """Of the manifest that was read, where one could be."""
    duration_seconds: float
    findings: tuple[Finding, ...] = ()
    phase_seconds: Mapping[PhaseName, float] = field(default_factory=dict)
    """What of the duration each phase took; `load` is reading, parsing and checking."""

    def as_json(self) -> dict[str, Any]:
        return {
            "result": self.result,
            "at": format_time(self.at),
            "generation": self.generation,
            "digest": self.digest,
            "duration_seconds": round(self.duration_seconds, 6),
            "phase_seconds": {name: round(seconds, 6) for name, seconds in self.phase_seconds.items()},
            "findings": [finding.as_json() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Step:
    """A call of foreign code: an init hook, the opening or closing of a storage, an import."""

    what: str
    provider: str | None
    age_seconds: float
    at: str | None
    """`file:line` where it stands now; None: it runs no Python any more."""

    def __str__(self) -> str:
        at = f", at {self.at}" if self.at else ""
        return f"{self.what} for {self.age_seconds:.1f} s{at}"

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "provider": self.provider,
            "age_seconds": round(self.age_seconds, 3),
            "at": self.at,
        }


@dataclass(frozen=True, slots=True)
class Phase:
    """Where a reload is right now, and for how long it has been there."""

    name: PhaseName
    since: datetime
    age_seconds: float
    step: Step | None = None
    """The foreign code that it waits for."""

    def __str__(self) -> str:
        step = f": {self.step}" if self.step is not None else ""
        return f"{self.name} for {self.age_seconds:.1f} s{step}"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "since": format_time(self.since),
            "age_seconds": round(self.age_seconds, 3),
            "step": self.step.as_json() if self.step is not None else None,
        }


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is so or not: `applied`, `retiring`, `hanging`, `healthy`; others may join them.

    `applied`: what runs is what the file says. `retiring`: a provider that was removed waits for its last
    lease. `hanging`: foreign code has not come back since it was given up. `healthy`: no provider that is
    checked has failed its last check.
    """

    name: str
    is_true: bool
    reason: str
    """One word, for programs."""
    message: str
    """For people."""
    since: datetime | None
    """When it last became what it is; None: it was so from the start."""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "is_true": self.is_true,
            "reason": self.reason,
            "message": self.message,
            "since": format_time(self.since) if self.since is not None else None,
        }


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that became of the registry: a generation, a refusal, a retirement."""

    at: datetime
    outcome: EventName
    generation: int
    digest: str | None
    """Of the manifest that it was about, where that could be read."""
    summary: str

    def __str__(self) -> str:
        return f"{format_time(self.at)}  generation {self.generation}  {self.outcome}: {self.summary}"

    def as_json(self) -> dict[str, Any]:
        return {
            "at": format_time(self.at),
            "outcome": self.outcome,
            "generation": self.generation,
            "digest": self.digest,
            "summary": self.summary,
        }


@dataclass(frozen=True, slots=True)
class Status:
    """How the runtime stands. `findings` are what is wrong with the file now; what runs is not affected."""

    state: RuntimeState
    manifest: str | None
    generation: int
    digest: str | None
    """Of the manifest that is running."""
    default: str | None
    last_reload: Outcome | None
    providers: tuple[ProviderInfo, ...]
    holders: Mapping[str, tuple[Holder, ...]]
    """Who has leases, by provider."""
    findings: tuple[Finding, ...]
    watch: WatchStatus | None
    last_good: Keeping | None = None
    """How what runs is kept for a start on which the manifest is not good; None: it is not."""
    control: str | None = None
    """The path of the control socket."""
    phase: Phase | None = None
    """Of the reload that is under way; None: there is none."""
    hanging: tuple[Step, ...] = ()
    """Foreign code that a reload gave up, and that still runs: Python cannot cut it off. What it makes in the
    end is closed. And the `close()` of a storage that has not come back."""
    conditions: tuple[Condition, ...] = ()
    revisions: Mapping[str, tuple[RevisionInfo, ...]] | None = None
    """By provider, the newest last."""
    retry_in_seconds: float | None = None
    """When what was refused is tried again without being asked; None: when the file changes."""
    reloads: Mapping[Result, int] = field(default_factory=dict)
    """How many there were, by what came of them; a look that only put off its verdict is none."""
    plugins: tuple[PluginInfo, ...] = ()
    """Those of the manifest that runs, and those that it no longer asks for while their code is in use."""

    def as_json(self) -> dict[str, Any]:
        return {
            "version": WIRE_VERSION,
            "state": self.state,
            "manifest": self.manifest,
            "generation": self.generation,
            "digest": self.digest,
            "default": self.default,
            "last_reload": self.last_reload.as_json() if self.last_reload else None,
            "providers": [provider.as_json() for provider in self.providers],
            "holders": {name: [holder.as_json() for holder in held] for name, held in self.holders.items()},
            "findings": [finding.as_json() for finding in self.findings],
            "watch": self.watch.as_json() if self.watch else None,
            "control": self.control,
            "last_good": self.last_good.as_json() if self.last_good else None,
            "phase": self.phase.as_json() if self.phase else None,
            "hanging": [step.as_json() for step in self.hanging],
            "conditions": [condition.as_json() for condition in self.conditions],
            "revisions": {
                name: [revision.as_json() for revision in revisions]
                for name, revisions in (self.revisions or {}).items()
            },
            "reloads": dict(self.reloads),
            "plugins": [plugin.as_json() for plugin in self.plugins],
            "retry_in_seconds": None if self.retry_in_seconds is None else round(self.retry_in_seconds, 3),
        }
