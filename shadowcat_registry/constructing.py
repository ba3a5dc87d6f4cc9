"""Who constructs what, and what that waits for: how cycles are found, also over several threads.

On the records of `leases.py`; knows no registry, and calls nothing foreign.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from .errors import (
    ConstructionTimeoutError,
    CreationFailedError,
    DependencyCycleError,
    InvalidConfigError,
    RunningLoopError,
)
from .leases import Opening, Revision
from .translation import translate

constructing: Final[ContextVar[tuple[Opening, ...]]] = ContextVar("constructing", default=())
"""What this thread (or task) is constructing, outermost first."""


def construction_chain() -> tuple[Opening, ...]:
    """What of that is not over: a context that was copied inside a factory may outlive the construction."""
    return tuple(opening for opening in constructing.get() if not opening.constructed.is_set())


def check_construction(revision: Revision) -> None:
    """Whether this thread may construct something of it.

    Raises:
        DependencyCycleError: it is constructing from the same revision already.
    """
    chain = construction_chain()
    for start, opening in enumerate(chain):
        if opening.revision is revision:
            raise DependencyCycleError([*(o.revision.provider for o in chain[start:]), revision.provider])


def find_cycle(chain: tuple[Opening, ...], opening: Opening) -> list[str] | None:
    """Whether `opening` waits, over however many threads, for something that this thread constructs."""
    path: list[str] = []
    step: Opening | None = opening
    while step is not None:
        path.append(step.revision.provider)
        if step in chain:
            return [*(inner.revision.provider for inner in chain[chain.index(step) :]), *path]
        step = step.waits_for
    return None


def as_failure(provider: str, error: BaseException) -> BaseException:
    """What a construction of `provider` failed with, as those are told who wanted it."""
    if not isinstance(error, Exception):
        return error  # KeyboardInterrupt and its like are nobody's to rename
    if isinstance(
        error, InvalidConfigError | DependencyCycleError | ConstructionTimeoutError | RunningLoopError
    ):
        return error
    if isinstance(error, CreationFailedError) and error.provider == provider:
        return error
    return CreationFailedError(provider, str(translate(error)))
