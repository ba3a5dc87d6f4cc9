"""Providers that nobody sees yet: how one is made and checked, who may see it, and who may refuse it.

Knows no state of a registry; what belongs to one is keyed by it. Factories and hooks are called, so never
under a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .backend import StorageProviderFactory
from .configs import check, complete_unchecked
from .errors import InitHookError, InvalidConfigError, InvalidNameError, RegistryError, RunningLoopError
from .leases import Revision
from .metadata import Origin, ProviderSpec, is_valid_name
from .schema_faults import check_schema
from .snapshot import Provider, describe

if TYPE_CHECKING:
    from .aio import LoopThread

InitHook = Callable[[str], object]
"""A plain function or a coroutine function."""

_staged: Final[ContextVar[tuple[tuple[object, Mapping[str, Provider]], ...]]] = ContextVar(
    "staged", default=()
)
what_is_staged: Final = _staged.get
"""Here, in any registry; empty, nearly always."""


def make_provider(
    spec: ProviderSpec,
    factory: StorageProviderFactory,
    *,
    origin: Origin,
    replaceable: bool,
    unchecked: bool,
    base_directory: Path | None,
) -> Provider:
    """One with a revision of its own, of which nothing is open. Its config is as it was given.

    Raises:
        InvalidNameError, TypeError: the name is none, or the factory is none.
    """
    metadata = describe(factory, spec, datetime.now(UTC))
    if not is_valid_name(spec.name):
        raise InvalidNameError(spec.name)
    return Provider(
        spec=spec,
        metadata=metadata,
        factory=factory,
        live=Revision(spec.name, 1),
        origin=origin,
        state="pending",
        replaceable=replaceable,
        validated=not unchecked,
        base_directory=base_directory,
    )


def complete_provider(provider: Provider, base_directory: Path) -> Provider:
    """The provider with its whole config, which is checked unless there is none yet.

    Raises:
        InvalidConfigError: it is refused, or the schema of the type is broken.
    """
    schema = provider.factory.config_schema()
    if schema is not None and (faults := check_schema(schema)):
        raise InvalidConfigError(provider.name, [f"the schema of its type is broken: {it}" for it in faults])
    config = complete_unchecked(provider, {}, base_directory)
    if provider.validated:
        check(provider.name, provider.factory, config)
    return replace(provider, spec=replace(provider.spec, config=config))


@contextmanager
def staging(registry: object, providers: Iterable[Provider]) -> Iterator[None]:
    """Within the block, in this thread and tasks that copy its context, `find_staged` finds these."""
    staged = {provider.name: provider for provider in providers}
    token = _staged.set((*_staged.get(), (registry, staged)))
    try:
        yield
    finally:
        _staged.reset(token)
        staged.clear()  # a context that was copied inside the block may outlive it


def find_staged(registry: object, name: str) -> Provider | None:
    """The youngest of that name that is staged here."""
    for owner, providers in reversed(_staged.get()):
        if owner is registry and (provider := providers.get(name)) is not None:
            return provider
    return None


def run_hooks(hooks: Iterable[InitHook], name: str, loop: Callable[[], LoopThread]) -> None:
    """Ask every hook; a coroutine function among them runs in `loop()`.

    Raises:
        InitHookError: one refused it.
        RunningLoopError: one is a coroutine function, and this thread runs an event loop.
    """
    for hook in hooks:
        with _refusals(name, hook):
            answer = hook(name)
            if isawaitable(answer):
                loop().run(answer, "an async init hook", "registry.aregister")


async def arun_hooks(hooks: Iterable[InitHook], name: str) -> None:
    """`run_hooks`, awaited. Coroutine functions run in this loop, plain ones off it."""
    from .aio import call_here

    for hook in hooks:
        with _refusals(name, hook):
            await call_here(hook, name)


@contextmanager
def _refusals(provider: str, hook: InitHook) -> Iterator[None]:
    """What a hook raises is its refusal."""
    try:
        yield
    except RunningLoopError:
        raise
    except Exception as error:
        name = getattr(hook, "__qualname__", type(hook).__qualname__)
        reason = str(error) if isinstance(error, RegistryError) else type(error).__name__
        raise InitHookError(provider, name, reason) from error
