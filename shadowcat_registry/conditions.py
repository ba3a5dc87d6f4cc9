"""What is so about a runtime, why, and since when: in words for people, and one word for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from .errors import Finding
from .metadata import ProviderInfo
from .status import Condition, RuntimeState, Step


def conditions(
    state: RuntimeState,
    state_since: datetime | None,
    findings: Sequence[Finding],
    retiring_since: Mapping[str, datetime | None],
    hanging: Sequence[Step],
    hanging_since: datetime | None,
    providers: Sequence[ProviderInfo],
) -> tuple[Condition, ...]:
    """`applied`, `retiring`, `hanging` and `healthy`, in this order; `retiring_since` are those that wait, by
    name."""
    return (
        _applied(state, state_since, findings),
        _retiring(retiring_since),
        _hanging(hanging, hanging_since),
        _healthy(providers),
    )


def _applied(state: RuntimeState, since: datetime | None, findings: Sequence[Finding]) -> Condition:
    if state == "ok":
        return Condition("applied", True, "applied", "what runs is what the manifest says", since)
    if not findings:
        return Condition("applied", False, state, "nothing follows the manifest", since)
    more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    return Condition("applied", False, state, f"{findings[0]}{more}", since)


def _retiring(since: Mapping[str, datetime | None]) -> Condition:
    if not since:
        return Condition("retiring", False, "none", "no provider waits for its last lease", None)
    first = min((at for at in since.values() if at is not None), default=None)
    message = f"removed, and in use until the last lease is closed: {', '.join(since)}"
    return Condition("retiring", True, "in_use", message, first)


def _hanging(steps: Sequence[Step], since: datetime | None) -> Condition:
    if not steps:
        return Condition("hanging", False, "none", "all foreign code has come back", None)
    return Condition("hanging", True, "overdue", "; ".join(map(str, steps)), since)


def _healthy(providers: Sequence[ProviderInfo]) -> Condition:
    checked = [info for info in providers if info.health.state != "unknown"]
    bad = [info for info in checked if info.health.state != "healthy"]
    if not bad:
        message = "every check has succeeded" if checked else "no provider has been checked"
        return Condition("healthy", True, "healthy" if checked else "unchecked", message, None)
    worst = "failing" if any(info.health.state == "failing" for info in bad) else "degraded"
    since = min((info.health.since for info in bad if info.health.since is not None), default=None)
    return Condition(
        "healthy", False, worst, "; ".join(f"{info.name} is {info.health}" for info in bad), since
    )
