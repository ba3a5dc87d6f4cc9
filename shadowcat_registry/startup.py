"""The ways in: a registry of one's own that follows a manifest, or the one of the process."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Final

from . import forks
from .catalog import BUILTIN_TYPES, Catalog
from .errors import AlreadyInitializedError
from .generations import FALLBACK_DEFAULT, Change, SetDefault
from .location import MANIFEST_NAME, MANIFEST_VARIABLE, find_manifest
from .registry import StorageProviderRegistry
from .runtime import Runtime
from .snapshot import Snapshot
from .watch import WatchMode

STORAGE_REGISTRY: Final = StorageProviderRegistry()
"""The one registry of those who want one a process. Empty until `initialize_storage`."""

_logger = logging.getLogger(__name__)
# Guards `_running`, and that `initialize_storage` runs once at a time: two callers at startup want the
# same runtime, so the second has to wait for the first, foreign code in factories and hooks included.
_initializing = threading.RLock()
_running: Runtime | None = None


def _start_anew() -> None:
    """In a forked child: as in `forks`."""
    global _initializing
    _initializing = threading.RLock()


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
    """
    global _running
    with _initializing:
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


def _take_builtins_back(before: Snapshot) -> None:
    """Leave `STORAGE_REGISTRY` to what code has registered there."""
    now = STORAGE_REGISTRY.snapshot()
    added = [now[name] for name in BUILTIN_TYPES if name in now and name not in before]
    changes = [Change(provider.name, provider, None) for provider in added if provider.replaceable]
    STORAGE_REGISTRY.retire(STORAGE_REGISTRY.commit(changes, SetDefault(before.default)))
