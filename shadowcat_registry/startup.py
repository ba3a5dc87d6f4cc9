"""The ways in: a registry of one's own that follows a manifest, or the one of the process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from . import forks
from .catalog import BUILTIN_TYPES, Catalog
from .errors import AlreadyInitializedError
from .generations import Change, SetDefault
from .location import MANIFEST_NAME, MANIFEST_VARIABLE, find_manifest
from .metadata import FALLBACK_DEFAULT
from .registry import StorageProviderRegistry
from .runtime import Runtime
from .snapshot import Snapshot
from .watch import WatchMode

STORAGE_REGISTRY: Final = StorageProviderRegistry()
"""The one registry of those who want one a process. Empty until `initialize_storage`."""

_logger = logging.getLogger(__name__)
# Guards the two below; nothing is called under it. Two callers at startup want the same runtime, so the
# second waits for the first; neither holds a lock meanwhile, as a start imports plugins and calls hooks.
_lock = threading.Lock()
_starting: _Start | None = None
_running: Runtime | None = None


# The start that this runs in, also in the threads in which it calls what is foreign: they copy the context.
_start_here: Final[ContextVar[_Start | None]] = ContextVar("start_here", default=None)


class _Start:
    """A call of `initialize_storage` that is under way."""

    def __init__(self) -> None:
        self.ended = threading.Event()


def _start_anew() -> None:
    """In a forked child: as in `forks`."""
    global _lock, _starting
    _lock, _starting = threading.Lock(), None


forks.module_in_child(_start_anew)


def open_registry(
    path: str | os.PathLike[str] | None = None,
    *,
    watch: bool = True,
    watch_mode: WatchMode | None = None,
    poll_interval_seconds: float | None = None,
    control: bool = False,
    use_last_good: bool = False,
) -> Runtime:
    """A new registry on what the manifest at `path` says, which follows it until `close()`.

    `path` defaults as `find_manifest` has it. A relative path in the manifest is relative to the manifest.
    `watch_mode` and `poll_interval_seconds` come before what the manifest says under `reload`.
    With `control`, the commands `status`, `plan`, `why`, `reload` and `events` can talk to this process.
    With `use_last_good`, the last good manifest is kept in the state directory (`$XDG_STATE_HOME`, else
    `~/.local/state`). Where the one at `path` cannot be used, the registry starts from that one, as
    `degraded`, until there is a good one.

    Raises:
        ManifestNotFoundError: it cannot be read.
        ManifestError: it is invalid, or a storage that it needs cannot be opened; with all findings.
    """
    runtime = Runtime(
        find_manifest(path),
        watch=watch,
        watch_mode=watch_mode,
        poll_interval_seconds=poll_interval_seconds,
        control=control,
        last_good="use" if use_last_good else "ignore",
    )
    runtime.start()
    return runtime


def register_builtin_providers(registry: StorageProviderRegistry = STORAGE_REGISTRY) -> None:
    """Register a provider for each built-in type, with its default config, where its name is free, and make
    `filesystem` the default unless there is one.

    A manifest that declares a provider of one of these names takes its place.
    """
    catalog = Catalog()
    for type_name in BUILTIN_TYPES:
        if type_name not in registry:
            registry.register(catalog.factory(type_name), replaceable=True)
    if registry.snapshot().default is None:
        registry.set_default(FALLBACK_DEFAULT)


def initialize_storage(path: str | os.PathLike[str] | None = None) -> Runtime:
    """Fill `STORAGE_REGISTRY`: the built-in providers, then what the manifest says, which is followed.

    Without `path`, `$SHADOWCAT_REGISTRY` and `./registry.yaml`, the built-in default serves: `filesystem`
    in `./tapes`. Called again for the same manifest, it returns the runtime that is there; after that has
    been closed, a new one; also in a forked child, where the parent's does not run.

    Raises:
        ManifestNotFoundError: a manifest that was named cannot be read.
        ManifestError: it is invalid, or a storage that it needs cannot be opened; with all findings.
        AlreadyInitializedError: it runs for another manifest.
        RuntimeError: it was called by a hook, a factory or a plugin that it waits for itself.
    """
    global _running
    with _one_at_a_time():
        manifest: Path | None = Path(os.path.abspath(find_manifest(path)))  # noqa: PTH100 - keeps links
        named = path or os.environ.get(MANIFEST_VARIABLE)
        if manifest is not None and not named and not manifest.exists():
            manifest = None
        if _running is not None and _running.status().state != "stopped":
            if _running.path == manifest:
                return _running
            builtin = "the built-in default"
            raise AlreadyInitializedError(str(_running.path or builtin), str(manifest or builtin))
        before = STORAGE_REGISTRY.snapshot()
        try:
            register_builtin_providers(STORAGE_REGISTRY)
            runtime = Runtime(manifest, registry=STORAGE_REGISTRY)
            runtime.start()
        except BaseException:
            _take_builtins_back(before)
            raise
        if manifest is None:
            _logger.info("no %s: tapes go to ./tapes, by the built-in default", MANIFEST_NAME)
        _running = runtime
        return runtime


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    global _starting
    mine = _Start()
    while True:
        with _lock:
            other = _starting
            if other is None:
                _starting = mine
                break
        if other is _start_here.get():
            raise RuntimeError("initialize_storage() would wait for what it was called in")
        other.ended.wait()
    token = _start_here.set(mine)
    try:
        yield
    finally:
        _start_here.reset(token)
        with _lock:
            if _starting is mine:  # else this is a forked child
                _starting = None
        mine.ended.set()


def load_plugin_providers(
    directory: str | os.PathLike[str],
    registry: StorageProviderRegistry = STORAGE_REGISTRY,
    *,
    probe: bool = True,
    strict: bool = False,
) -> tuple[str, ...]:
    """Load every plugin in `directory`, and register a provider for each of their types, with its default
    config, where its name is free. Returns the names of those.

    What is loaded has to be trusted by ownership: nobody but root and this user could have written it.
    Unless `probe` is false, each is tried in another process first. One that is refused takes no other down,
    and is logged; with `strict`, nothing is registered then. A manifest that declares a provider of one of
    these names takes its place.

    Raises:
        PluginError: the directory itself cannot be used; with `strict`, also for the first plugin that is
            refused. Says by which rule, and what mends it.
        InitHookError: a hook refused a provider.
    """
    from .plugins.loading import PluginLoader
    from .plugins.records import SourceDeclaration
    from .plugins.section import Wanted

    path = Path(os.path.abspath(directory))  # noqa: PTH100 - not `resolve()`: links are refused
    wanted = Wanted(sources=(SourceDeclaration(path, True),), probes=probe)
    loaded = PluginLoader().load(wanted, Catalog())
    for refusal in loaded.refusals:
        if strict or refusal.error.plugin == str(path):
            raise refusal.error
        _logger.warning("%s", refusal.error)
    registered = []
    for name, factory in loaded.types.items():
        if name not in registry:
            registry.register(factory, replaceable=True)
            registered.append(name)
    return tuple(registered)


def _take_builtins_back(before: Snapshot) -> None:
    """Leave `STORAGE_REGISTRY` to what code has registered there."""
    now = STORAGE_REGISTRY.snapshot()
    added = [now[name] for name in BUILTIN_TYPES if name in now and name not in before]
    changes = [Change(provider.name, provider, None) for provider in added if provider.replaceable]
    STORAGE_REGISTRY.retire(STORAGE_REGISTRY.commit(changes, SetDefault(before.default)))
