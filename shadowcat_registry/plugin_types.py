"""The plugins that a manifest asks for → more types in its catalog, and findings where they are asked for.

Everything about plugins is `plugins.loading`'s, of which nothing is imported before a manifest, or the
environment, asks for one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import forks
from .candidate import Candidate, PluginPlace, exists_at, mapping_in
from .errors import Finding, PluginError, PluginRule, one_line
from .location import PLUGIN_VARIABLE
from .marks import Mark, Pointer
from .metadata import PluginInfo, PluginUse
from .schema import Compiled, compiled
from .schema_files import manifest_schema
from .settled import Settled

if TYPE_CHECKING:
    from .plugins.loading import LoadedPlugins, PluginLoader

_CODES: Final[Mapping[PluginRule, str]] = {
    **dict.fromkeys(("missing", "unreadable"), "SC802"),
    **dict.fromkeys(("name", "name-taken"), "SC803"),
    **dict.fromkeys(("import", "shape", "schema", "probe"), "SC804"),
    **dict.fromkeys(("distribution", "version"), "SC805"),
}
"""All others are about trust."""
_UNTRUSTED: Final = "SC801"
_MAY_PASS: Final = frozenset({_UNTRUSTED, "SC802", "SC804", "SC805", "SC808"})
_FOLLOWS: Final = frozenset({"SC302", "SC304"})
"""What is wrong then with those who use a plugin that is refused."""


def may_pass(findings: Iterable[Finding]) -> bool:
    """Whether all that is wrong can be mended without a change of any file's content, so that no watch would
    see it: by `chmod`, `chown`, `pip install`."""
    found = tuple(findings)
    errors = {finding.code for finding in found if finding.severity == "error"}
    return errors <= _MAY_PASS | _FOLLOWS and any(finding.code in _MAY_PASS for finding in found)


class PluginTypes:
    """Of one manifest, load by load: a plugin whose bytes are the same is not imported again. Any thread may
    call it."""

    def __init__(self, environ: Mapping[str, str], cancelled: threading.Event | None = None) -> None:
        self._environ, self._cancelled = environ, cancelled
        # Guards that there is one loader; nothing is called under it.
        self._lock = threading.Lock()
        self._loader: PluginLoader | None = None
        self._running: LoadedPlugins | None = None
        forks.in_child(self, PluginTypes._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()

    def plug_in(
        self, candidate: Candidate, use: PluginUse, manifest: Path | None, settled: Settled | None
    ) -> None:
        """Add to the candidate what its plugins have, and note what is wrong with them. `manifest` is the
        file that it was read from, if any: pins have to stand where nobody else can write.

        Raises:
            RuntimeClosedError, MovedError: as `PluginLoader.load`.
        """
        section = mapping_in(candidate.root, "plugins")
        directory = self._environ.get(PLUGIN_VARIABLE) if use != "ignore" else None
        # Asked anew, as a manifest with very many errors is not told all of them.
        has_wrong_form = "plugins" in candidate.root and bool(_form().problems(candidate.root["plugins"]))
        if not has_wrong_form and not (section.get("sources") or section.get("entry_points") or directory):
            candidate.lost_types = self._lost_types(None)
            return
        if has_wrong_form or use == "ignore":
            candidate.has_unseen_types = True
            return
        from .plugins.section import read_section

        wanted = read_section(section, candidate.path.parent, directory)
        candidate.plugin_places = tuple(
            PluginPlace(it.path, it.is_directory, it.pointer) for it in wanted.sources
        )
        if wanted.has_pins and manifest is not None and (error := _fault_of_owner(manifest)) is not None:
            message = f"it says which digests plugins have, and others may write it: {one_line(error.reason)}"
            candidate.add("SC808", message, ("plugins",), error.remedy, on_key=True)
            candidate.has_unseen_types = True
            return
        loaded = self._the_loader().load(wanted, candidate.catalog, use, settled)
        for refusal in loaded.refusals:
            _note(candidate, refusal.error, refusal.pointer, is_strict=wanted.is_strict)
        candidate.plugins = loaded
        candidate.lost_types = self._lost_types(loaded)
        candidate.catalog = candidate.catalog.extended(loaded.types, loaded.implementations)
        candidate.has_unseen_types = loaded.are_unseen

    def keep(self, loaded: LoadedPlugins | None) -> None:
        """These run now: the code of all others is given up, and alive only as long as something uses it."""
        with self._lock:
            loader, self._running = self._loader, loaded
        if loader is not None:
            loader.keep(loaded)

    def tidy(self, users: Callable[[], Hashable]) -> None:
        """As `PluginLoader.tidy`."""
        with self._lock:
            loader = self._loader
        if loader is not None:
            loader.tidy(users)

    def as_they_stand(self, running: LoadedPlugins | None) -> tuple[PluginInfo, ...]:
        """The plugins of what runs as they are now, and those of which only the code is still there."""
        with self._lock:
            loader = self._loader
        infos = running.infos if running is not None else ()
        return infos if loader is None else loader.as_they_stand(infos)

    def _the_loader(self) -> PluginLoader:
        from .plugins.loading import PluginLoader

        made = PluginLoader(self._cancelled)
        with self._lock:
            if self._loader is None:
                self._loader = made
            return self._loader

    def _lost_types(self, loaded: LoadedPlugins | None) -> dict[str, str]:
        """The types that run and are not there any more → where they came from."""
        with self._lock:
            running = self._running
        found = loaded.infos if loaded is not None else ()
        there = {info.name for info in found}
        gone = [info for info in running.infos if info.name not in there] if running is not None else []
        return {name: info.path or info.name for info in gone for name in info.types}


@cache
def _form() -> Compiled:
    """Of the section alone."""
    schema = manifest_schema()
    return compiled({"$defs": schema["$defs"], **schema["properties"]["plugins"]})


def _fault_of_owner(manifest: Path) -> PluginError | None:
    from .plugins.trust import check_owned_manifest

    try:
        check_owned_manifest(manifest)
    except PluginError as error:
        return error
    return None


def _note(candidate: Candidate, error: PluginError, pointer: Pointer, *, is_strict: bool) -> None:
    severity: Any = "error" if is_strict else "warning"
    code = _CODES.get(error.rule, _UNTRUSTED)
    message = f"the plugin {one_line(error.plugin)} is refused ({error.rule}): {one_line(error.reason)}"
    hint = None if error.remedy is None else one_line(error.remedy)
    if not pointer:
        start = Mark.at_start(candidate.top.source)
        named = f"{message}; it is named by ${PLUGIN_VARIABLE}"
        candidate.note(Finding(code, named, start, (), hint, severity))
        return
    if error.rule == "sha256":
        pinned: list[Pointer] = [
            (*pointer, "sha256", error.plugin),
            (*pointer, "sha256", f"{error.plugin}.py"),
        ]
        pinned += [(*pointer, "sha256")]
        pointer = next((it for it in pinned if exists_at(candidate.root, it)), pointer)
    candidate.add(code, message, pointer, hint, severity=severity)
