"""All plugins that are asked for, together: verified, probed, imported, and what came of each.

Puts the steps of this package in their order and remembers what was imported, so that the same bytes are not
imported twice. Knows no manifest: whoever has one says what is wanted, and which of what was loaded runs.
"""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, Final

from .. import forks
from ..backend import StorageProviderFactory
from ..errors import PluginError, PluginRule, RuntimeClosedError
from ..marks import Pointer
from ..metadata import Config, PluginInfo, PluginStateName, PluginUse, ProviderCapability
from ..settled import MovedError, Settled
from . import entry_points, modules, probe, sources
from .entry_points import Installed, LoadedDistribution
from .modules import LoadedPlugin
from .records import TypeReport, VerifiedSource
from .section import Wanted

_MOST_PROBES: Final = min(4, os.cpu_count() or 1)
"""At once."""

_TIDY_AGAIN_SECONDS: Final = 10.0
_PROBE_AGAIN_SECONDS: Final = 60.0
"""One that ends, crashes or hangs its process does so again, and that takes time: not with every reload."""

_Key = tuple[str, str]
"""The name of a plugin, and the digest of its bytes; of a distribution, of the list of its files."""
Loaded = LoadedPlugin | LoadedDistribution


@dataclass(frozen=True, slots=True)
class Refusal:
    """A plugin that is refused, and where it is asked for; the place is empty where no manifest does so."""

    error: PluginError
    pointer: Pointer = ()


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPlugins:
    """What came of all that was wanted."""

    infos: tuple[PluginInfo, ...] = ()
    """Every plugin, right or wrong, in the order in which they are asked for."""
    refusals: tuple[Refusal, ...] = ()
    types: Mapping[str, StorageProviderFactory] = field(default_factory=dict)
    """By name. Unless they were imported, they say what they are and can do nothing."""
    implementations: Mapping[str, str] = field(default_factory=dict)
    """By type: which code it is. Differs when the bytes of its plugin do."""
    are_unseen: bool = False
    """There are plugins of which nobody has asked which types they have."""
    files: tuple[Path, ...] = ()
    """Whose change can change this, also those that are not there."""
    patterns: tuple[Path, ...] = ()
    """Where plugins may come to be, as `includes.expand` has them."""
    imported: Mapping[_Key, Loaded] = field(default_factory=dict)
    """Whose code is here for it, by this load or an earlier one."""


@dataclass(slots=True, eq=False)
class _Plugin:
    """One that is asked for, on its way."""

    name: str
    pointer: Pointer
    source: VerifiedSource | None = None
    installed: Installed | None = None
    """What it comes from: one of the two, or none where it was refused before."""
    error: PluginError | None = None
    loaded: Loaded | None = None
    reports: tuple[TypeReport, ...] | None = None

    @property
    def key(self) -> _Key:
        # A distribution is imported once in a process: what was, stays, whatever is installed by now.
        origin = self.loaded or self.source or self.installed
        return self.name, origin.sha256 if origin is not None else ""

    @property
    def implementation(self) -> str:
        return f"sha256:{self.key[1]}" if self.installed is None else (self.distribution or "")

    @property
    def distribution(self) -> str | None:
        """Its name and the version that runs, or would."""
        if self.installed is None:
            return None
        loaded = self.loaded if isinstance(self.loaded, LoadedDistribution) else None
        return f"{self.name} {(loaded or self.installed).version}"

    @property
    def place(self) -> str:
        if (origin := self.source or self.installed) is not None:
            return str(origin.path)
        return (self.error.path if self.error is not None else None) or self.name

    def refuse(self, rule: PluginRule, reason: str, remedy: str) -> None:
        self.error = PluginError(self.name, rule, reason, remedy, self.place)

    def info(self) -> PluginInfo:
        error, state = self.error, self._state()
        path = self.place if self.source or self.installed or error is None else error.path
        types = {report.name: report.version for report in self.reports or () if error is None}
        problem = None if error is None else f"{error.rule}: {error.reason}"
        generations = 1 if isinstance(self.loaded, LoadedDistribution) else 0
        return PluginInfo(
            self.name, state, path, self.distribution, self.key[1] or None, types, problem, generations
        )

    def _state(self) -> PluginStateName:
        if self.error is not None:
            return "shadowed" if self.error.rule == "name-taken" else "refused"
        if self.source is None:
            return "installed"
        return "pinned" if self.source.trust == "pinned" else "owned"


class PluginLoader:
    """Loads plugins again and again. What was imported is kept as long as it is what runs, or what was loaded
    last, so that a second attempt imports nothing twice. Any thread may call it; nothing is called under its
    lock. Once `cancelled` is set, it waits for no probe any more."""

    def __init__(self, cancelled: threading.Event | None = None) -> None:
        self._cancelled = cancelled if cancelled is not None else threading.Event()
        # Guards the fields below.
        self._lock = threading.Lock()
        self._imported: dict[_Key, Loaded] = {}
        self._probed: dict[_Key, tuple[TypeReport, ...]] = {}
        self._failed: dict[tuple[_Key, float], tuple[float, PluginError]] = {}
        """Of a probe with so much time: when it has failed, and how."""
        self._running: frozenset[_Key] = frozenset()
        self._generations: list[tuple[str, weakref.ref[Any]]] = []
        """Of all that was imported and is not known to be gone, with the name of its plugin."""
        self._tidied: Hashable = None
        self._tidied_at = -inf
        forks.in_child(self, PluginLoader._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()

    def load(
        self,
        wanted: Wanted,
        taken: Container[str],
        use: PluginUse = "import",
        settled: Settled | None = None,
    ) -> LoadedPlugins:
        """Look at everything that is wanted, as far as `use` says; one that is refused takes no other down.

        `taken` are the names of types that there are without plugins. With `verify`, nothing of a plugin
        runs; with `probe`, it runs only elsewhere. What was imported before counts as it is. With `settled`,
        nothing else runs than what had settled: half a file may be valid too.

        Raises:
            RuntimeClosedError: it was cancelled while it waited for a probe.
            MovedError: what would run now may be half of something.
        """
        plugins, files, patterns = _verified(wanted)
        _refuse_shared_names(plugins)
        self._recall(plugins)
        is_new = any(it.error is None and it.source is not None and it.loaded is None for it in plugins)
        if use in ("import", "probe") and is_new and settled is not None and settled.has_moved(files):
            raise MovedError(files, patterns)
        if use == "probe" or (use == "import" and wanted.probes):
            self._probe(plugins, wanted.probe_timeout_seconds)
            if self._cancelled.is_set():
                raise RuntimeClosedError
        if use == "import":
            _import(plugins)
        _refuse_taken_types(plugins, taken)
        right = [it for it in plugins if it.error is None]
        if use in ("import", "probe"):
            self._remember(plugins, is_import=use == "import")
        types: dict[str, StorageProviderFactory] = {}
        implementations: dict[str, str] = {}
        for plugin in right:
            reports = plugin.reports or ()
            implementations |= {report.name: plugin.implementation for report in reports}
            types |= {report.name: ReportedType(report) for report in reports}
            if plugin.loaded is not None:
                types |= {factory.name: factory for factory in plugin.loaded.factories}
        return LoadedPlugins(
            infos=tuple(plugin.info() for plugin in plugins),
            refusals=tuple(Refusal(it.error, it.pointer) for it in plugins if it.error is not None),
            types=types,
            implementations=implementations,
            are_unseen=any(plugin.reports is None for plugin in right),
            files=files,
            patterns=patterns,
            imported={it.key: it.loaded for it in right if it.loaded is not None},
        )

    def keep(self, running: LoadedPlugins | None) -> None:
        """This is what runs now; the code of everything else is given up, and lives as long as it is used."""
        kept = {} if running is None else dict(running.imported)
        with self._lock:
            stale = [it for key, it in self._imported.items() if kept.get(key) is not it]
            self._imported, self._running = kept, frozenset(kept)
            self._probed = {key: it for key, it in self._probed.items() if key in kept}
        _forget(stale)

    def as_they_stand(self, infos: Iterable[PluginInfo]) -> tuple[PluginInfo, ...]:
        """The plugins of what runs as they are now; and those that are not asked for any more, as long as
        something uses their code."""
        with self._lock:
            self._generations = [it for it in self._generations if it[1]() is not None]
            living = Counter(name for name, _ in self._generations)
            imported = dict(self._imported)
        found = []
        for info in infos:
            if info.distribution is None:
                found.append(replace(info, generations=living.pop(info.name, 0)))
                continue
            loaded = _distribution(imported, info.name)
            news = entry_points.moved_on(loaded) if loaded is not None else None
            found.append(info if news is None else replace(info, state="restart needed", problem=news))
        attempted = {name for name, _ in imported}
        gone = [name for name in living if name not in attempted]
        found += [PluginInfo(name, "retiring", generations=living[name]) for name in gone]
        return tuple(found)

    def tidy(self, users: Callable[[], Hashable]) -> None:
        """Have what was given up and is not used any more go now. `users` says who may still use it.

        Modules are circles, which go when the collector finds them: by itself, in a large process, after a
        hundred reloads, and until then all that hangs on them stays. It is asked once for each answer of
        `users`, as each time costs a moment, and not oftener than now and then. Called by one thread.
        """
        old = self._given_up()
        if not old:
            self._tidied = None
            return
        now, state = monotonic(), (old, users())
        if state == self._tidied or now < self._tidied_at + _TIDY_AGAIN_SECONDS:
            return
        gc.collect()
        self._tidied, self._tidied_at = (self._given_up(), state[1]), now

    def _given_up(self) -> frozenset[int]:
        """Generations that live and are superseded, by their address."""
        with self._lock:
            kept = {id(it.generation) for it in self._imported.values() if isinstance(it, LoadedPlugin)}
            alive = {id(it) for _, reference in self._generations if (it := reference()) is not None}
        return frozenset(alive - kept)

    def _recall(self, plugins: Iterable[_Plugin]) -> None:
        """What was found out about the same bytes before."""
        with self._lock:
            imported, probed = dict(self._imported), dict(self._probed)
        for plugin in plugins:
            if plugin.error is None:
                known = imported.get(plugin.key)
                plugin.loaded = known if plugin.installed is None else _distribution(imported, plugin.name)
                plugin.reports = (
                    plugin.loaded.reports if plugin.loaded is not None else probed.get(plugin.key)
                )

    def _probe(self, plugins: Iterable[_Plugin], timeout_seconds: float) -> None:
        new = [it for it in plugins if it.error is None and it.reports is None]
        interrupted = threading.Event()

        def is_over() -> bool:
            return interrupted.is_set() or self._cancelled.is_set()

        now = monotonic()
        with self._lock:
            self._failed = {key: it for key, it in self._failed.items() if now < it[0] + _PROBE_AGAIN_SECONDS}
            failed = dict(self._failed)

        def ask(plugin: _Plugin) -> None:
            key = plugin.key, timeout_seconds
            if key in failed:
                plugin.error = failed[key][1]
                return
            try:
                if plugin.source is not None:
                    plugin.reports = probe.probe(
                        plugin.source, timeout_seconds=timeout_seconds, is_over=is_over
                    )
                elif plugin.installed is not None and entry_points.is_imported(plugin.name):
                    # Another process would import what is installed now, and that may be another one.
                    plugin.reports = entry_points.load(plugin.installed).reports
                elif plugin.installed is not None:
                    plugin.reports = probe.probe_installed(
                        plugin.installed, timeout_seconds=timeout_seconds, is_over=is_over
                    )
            except PluginError as error:
                plugin.error = error
                if error.rule == "probe" and not is_over():
                    with self._lock:
                        self._failed[key] = monotonic(), error

        if len(new) < 2:
            for plugin in new:
                ask(plugin)
            return
        with ThreadPoolExecutor(_MOST_PROBES, "shadowcat-probe") as pool:
            try:
                list(pool.map(ask, new))
            except BaseException:  # a Ctrl-C: what goes on here is waited for
                interrupted.set()
                raise

    def _remember(self, plugins: Sequence[_Plugin], *, is_import: bool) -> None:
        """For the next load: what runs, and what is right now."""
        right = [it for it in plugins if it.error is None]
        stale = [it.loaded for it in plugins if it.error is not None and it.loaded is not None]
        with self._lock:
            used = {plugin.key for plugin in right} | self._running
            probed = self._probed | {it.key: it.reports for it in right if it.reports is not None}
            self._probed = {key: it for key, it in probed.items() if key in used}
            for plugin in right if is_import else ():
                loaded = plugin.loaded
                if loaded is not None:
                    if plugin.key not in self._imported and isinstance(loaded, LoadedPlugin):
                        self._generations.append((plugin.name, weakref.ref(loaded.generation)))
                    # Another thread may have been quicker: one of the same bytes is enough.
                    plugin.loaded = self._imported.setdefault(plugin.key, loaded)
                    stale += [loaded] if plugin.loaded is not loaded else []
            if is_import:
                stale += [self._imported.pop(key) for key in self._imported.keys() - used]
            kept = list(self._imported.values())
        _forget(it for it in stale if it not in kept)


def _verified(wanted: Wanted) -> tuple[list[_Plugin], tuple[Path, ...], tuple[Path, ...]]:
    """Everything that there is where it is asked for, and what to watch for more."""
    plugins: list[_Plugin] = []
    files: list[Path] = []
    patterns: list[Path] = []
    for declaration, found in zip(wanted.sources, sources.verify_all(wanted.sources), strict=True):
        plugins += [_Plugin(it.name, declaration.pointer, it) for it in found.sources]
        plugins += [_Plugin(it.plugin, declaration.pointer, error=it) for it in found.refusals]
        files += found.files
        patterns += found.patterns
    asked: dict[str, str] = {}
    for requirement in wanted.requirements:
        plugin = _Plugin(requirement.text, requirement.pointer)
        plugins.append(plugin)
        try:
            plugin.installed = entry_points.find(requirement.text)
        except PluginError as error:
            plugin.name, plugin.error = error.plugin, error
            continue
        plugin.name = plugin.installed.name
        first = asked.setdefault(plugin.name, requirement.text)
        if first is not requirement.text:
            reason = f"it is asked for twice: {first} and {requirement.text}"
            plugin.refuse("distribution", reason, "ask for it once")
    return plugins, tuple(dict.fromkeys(files)), tuple(dict.fromkeys(patterns))


def _refuse_shared_names(plugins: Iterable[_Plugin]) -> None:
    """Of several with one name the first one counts, also if it is refused itself: which of them runs must
    not depend on what somebody does to another."""
    first: dict[str, _Plugin] = {}
    for plugin in plugins:
        if plugin.error is not None and plugin.error.rule == "unpinned":
            continue  # nobody asked for it: it takes no name from one that is asked for
        other = first.setdefault(plugin.name, plugin)
        if other is not plugin and plugin.error is None:
            reason = f"there is another plugin of that name at {other.place}, which comes first"
            plugin.refuse("name-taken", reason, "rename one of the two")


def _refuse_taken_types(plugins: Iterable[_Plugin], taken: Container[str]) -> None:
    first: dict[str, str] = {}
    for plugin in plugins:
        names = [report.name for report in plugin.reports or ()] if plugin.error is None else []
        for name in names:
            owner = f"the plugin {first[name]} has" if name in first else "this process has itself"
            if name in first or name in taken:
                reason = f"its type `{name}` has the name of a type that {owner}"
                plugin.refuse("name-taken", reason, "give the type another name")
                break
        else:
            first |= dict.fromkeys(names, plugin.name)


def _import(plugins: Iterable[_Plugin]) -> None:
    for plugin in plugins:
        if plugin.error is None:
            try:
                plugin.loaded = _loaded(plugin)
                plugin.reports = plugin.loaded.reports
            except PluginError as error:
                plugin.error = error


def _loaded(plugin: _Plugin) -> Loaded:
    """Raises: PluginError: its code cannot be used."""
    if plugin.source is not None:
        return plugin.loaded or modules.load(plugin.source, probed=plugin.reports)
    if plugin.installed is None:
        raise ValueError(f"{plugin.name} comes from nothing")
    known = plugin.loaded
    if isinstance(known, LoadedDistribution) and plugin.installed.allows(known.version):
        return known
    return entry_points.load(plugin.installed, probed=None if known else plugin.reports)


def _distribution(imported: Mapping[_Key, Loaded], name: str) -> LoadedDistribution | None:
    found = (it for it in imported.values() if isinstance(it, LoadedDistribution) and it.name == name)
    return next(found, None)


def _forget(loaded: Iterable[Loaded]) -> None:
    """What is installed stays imported until the end of the process."""
    for it in loaded:
        if isinstance(it, LoadedPlugin):
            modules.forget(it)


class ReportedType:
    """A provider type that was told of and not imported: it says what it is, and can do nothing."""

    def __init__(self, report: TypeReport) -> None:
        self.name, self.display_name = report.name, report.display_name
        self.version, self.description = report.version, report.description
        self.capabilities: frozenset[ProviderCapability] = report.capabilities
        self._schema = report.schema

    def config_schema(self) -> Mapping[str, Any] | None:
        return self._schema

    def validate_config(self, config: Config) -> None:
        """What its own code would say to a config is not known here."""

    def create(self, *_: object) -> Any:
        raise RuntimeError(f"the type {self.name!r} was not imported")
