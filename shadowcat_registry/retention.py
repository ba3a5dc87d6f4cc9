"""Which tapes have to go: the rule of `retention`, as a pure function of what there is.

Knows no storage. `housekeeping` drives it while tapes are written, `tapes.pruning` when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from .metadata import Config
from .tape import Metadata, size_of

Rule = Literal["max_age_days", "max_tapes", "max_total_bytes", "min_free_bytes"]

_ENDED: Final = ("finalized", "aborted")
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Retention:
    """What a storage keeps; a bound that is None does not bind."""

    max_age_days: float | None = None
    """Since a tape has ended."""
    max_total_bytes: int | None = None
    max_tapes: int | None = None
    max_tape_bytes: int | None = None
    """No tape is ever removed for it: a recorder takes no more frames than fit."""
    min_free_bytes: int = 0
    """On the medium."""
    keep_tags: frozenset[str] = frozenset()
    """A tape with one of these is never removed."""
    may_remove: bool = True
    """Otherwise nothing is ever removed: there is only a floor, below which frames are refused."""

    @classmethod
    def of(cls, config: Config) -> Self | None:
        """From the fields `retention` and `min_free_bytes` of a config; None: everything is kept."""
        fields = config.get("retention") or {}
        has_bounds = any(fields.values())
        if not has_bounds and not config.get("min_free_bytes"):
            return None
        return cls(
            fields.get("max_age_days"),
            fields.get("max_total_bytes"),
            fields.get("max_tapes"),
            fields.get("max_tape_bytes"),
            config.get("min_free_bytes") or 0,
            frozenset(fields.get("keep_tags") or ()),
            has_bounds,
        )


@dataclass(frozen=True, slots=True)
class StoredTape:
    """What the rule wants to know about a tape."""

    tape_id: str
    ended_at: datetime | None
    """None: its metadata does not say when; then it counts as older than all others, but as no age."""
    size_bytes: int
    """0: its metadata does not say; it is taken for one of average size then."""
    tags: frozenset[str] = frozenset()
    removable: bool = True
    """It has ended, and nobody reads it."""

    @classmethod
    def of(cls, meta: Metadata, *, in_use: bool = False) -> Self:
        tags = meta.get("tags")
        moments = (_moment(meta.get(key)) for key in ("finalized_at", "updated_at", "created_at"))
        return cls(
            str(meta.get("tape_id")),
            next((moment for moment in moments if moment is not None), None),
            size_of(meta),
            frozenset(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else frozenset(),
            meta.get("status") in _ENDED and not in_use,
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """A tape that has to go, and the first reason for it."""

    tape_id: str
    rule: Rule
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        return {"tape_id": self.tape_id, "rule": self.rule, "size_bytes": self.size_bytes}


@dataclass(frozen=True, slots=True)
class Measure:
    """How full a storage is."""

    tape_count: int
    size_bytes: int
    free_bytes: int | None = None
    """None: nobody can say."""


def select(
    tapes: Iterable[StoredTape],
    retention: Retention,
    measure: Measure,
    now: datetime,
    *,
    headroom: int = 0,
) -> tuple[Removal, ...]:
    """The tapes that have to go, in the order in which they should: the ones that ended first, and no more
    than needed. What may not be removed never is, even if a bound is exceeded then.

    With a `headroom` of n, a bound on size or number that is exceeded is undercut by 1/n of itself, so that
    the next tape does not exceed it again at once.
    """
    count, size_bytes, free_bytes = measure.tape_count, measure.size_bytes, measure.free_bytes
    average = size_bytes // count if count > 0 else 0
    most_tapes = _goal(retention.max_tapes, count, headroom)
    most_bytes = _goal(retention.max_total_bytes, size_bytes, headroom)
    least_free = 0
    if free_bytes is not None and free_bytes < retention.min_free_bytes:
        least_free = retention.min_free_bytes + (retention.min_free_bytes // headroom if headroom else 0)
    removals: list[Removal] = []
    for tape in sorted(tapes, key=lambda tape: (tape.ended_at or _EARLIEST, tape.tape_id)):
        if not tape.removable or not retention.may_remove or tape.tags & retention.keep_tags:
            continue
        rule: Rule
        if _is_too_old(tape, retention, now):
            rule = "max_age_days"
        elif most_tapes is not None and count > most_tapes:
            rule = "max_tapes"
        elif most_bytes is not None and size_bytes > most_bytes:
            rule = "max_total_bytes"
        elif free_bytes is not None and free_bytes < least_free:
            rule = "min_free_bytes"
        else:
            continue
        freed = tape.size_bytes or average
        removals.append(Removal(tape.tape_id, rule, tape.size_bytes))
        count -= 1
        size_bytes -= freed
        if free_bytes is not None:
            free_bytes += freed
    return tuple(removals)


def _goal(bound: int | None, measured: int, headroom: int) -> int | None:
    if bound is None or measured <= bound:
        return bound
    return bound - (bound // headroom if headroom else 0)


def _is_too_old(tape: StoredTape, retention: Retention, now: datetime) -> bool:
    if retention.max_age_days is None or tape.ended_at is None:
        return False
    try:
        return now - tape.ended_at > timedelta(days=retention.max_age_days)
    except OverflowError:  # so many days that nothing is that old
        return False


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo is not None else moment.replace(tzinfo=UTC)
