"""What a manifest asks for in the way of plugins, also where something else in it is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...catalog import Catalog
from ...document import Document
from ...errors import Finding, ManifestError, ManifestNotFoundError, PluginError
from ...load import parse_manifest, read_manifest
from ...location import MANIFEST_NAME, PLUGIN_VARIABLE
from ...parse import parse_document
from ...plugins.records import SourceDeclaration
from ...plugins.section import Wanted, read_section
from ...plugins.trust import check_owned_manifest
from ..output import fail


@dataclass(frozen=True, slots=True)
class Asked:
    """A manifest that was read, and its section `plugins`."""

    path: Path
    data: bytes
    document: Document

    @property
    def section(self) -> Mapping[str, Any]:
        return self.document.value.get("plugins", {})  # type: ignore[no-any-return] # its schema was asked

    def wanted(self) -> Wanted:
        """With what the environment asks for."""
        return read_section(self.section, self._base, os.environ.get(PLUGIN_VARIABLE))

    def sources_without_pins(self) -> tuple[SourceDeclaration, ...]:
        """What the manifest names, whatever is there now for pins."""
        entries = self.section.get("sources", ())
        bare = [{key: value for key, value in it.items() if key != "sha256"} for it in entries]
        return read_section({"sources": bare}, self._base, None).sources

    @property
    def _base(self) -> Path:
        return Path(os.path.abspath(self.path)).parent  # noqa: PTH100 - not `resolve()`, which follows links


def is_elsewhere(finding: Finding) -> bool:
    """Not about plugins: no business of who only looks at them."""
    return finding.pointer[:1] not in ((), ("plugins",))


def read_asked(path: Path, is_excused: Callable[[Finding], bool] = is_elsewhere) -> Asked:
    """Read the manifest; no plugin is looked at.

    Raises:
        ManifestNotFoundError: it cannot be read.
        ManifestError: it is no YAML, or something is wrong that is not excused.
    """
    data = read_manifest(path)
    document = parse_document(data, str(path))
    try:
        parse_manifest(data, path, Catalog(), unresolved=True)
    except ManifestError as error:
        findings = [it for it in error.findings if it.severity == "error" and not is_excused(it)]
        if findings:
            raise ManifestError(findings, error.excerpts) from None
    return Asked(path, data, document)


def outside_of_manifests(paths: Iterable[Path]) -> Wanted:
    """A file, a package, or a directory of plugins each, trusted for whose they are."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - as above
    return Wanted(
        tuple(
            SourceDeclaration(path, path.is_dir() and not (path / "__init__.py").exists())
            for path in dict.fromkeys(absolute)
        )
    )


def wanted_here(manifest: Path) -> tuple[Wanted, PluginError | None]:
    """What the manifest and the environment ask for, and why none of the pins counts, if that is so. Where
    there is no manifest and none was named, what the environment asks for is all.

    Raises:
        ManifestNotFoundError, ManifestError: as `read_asked`.
    """
    try:
        asked = read_asked(manifest)
    except ManifestNotFoundError:
        directory = os.environ.get(PLUGIN_VARIABLE)
        if not directory or manifest != Path(MANIFEST_NAME):
            raise
        return read_section({}, Path(), directory), None
    return asked.wanted(), _fault_of_manifest(asked)


def _fault_of_manifest(asked: Asked) -> PluginError | None:
    """Why none of its pins counts: others could have written them."""
    if not asked.wanted().has_pins:
        return None
    try:
        check_owned_manifest(Path(os.path.abspath(asked.path)))  # noqa: PTH100 - as above
    except PluginError as error:
        return error
    return None


def say_whose(errors: Iterable[PluginError]) -> None:
    """What an operator with `sudo` may not know."""
    if os.name == "posix" and os.geteuid() == 0 and any(error.rule == "owner" for error in errors):
        fail("this runs as root, who trusts nobody else: run it as the user of the process that is meant")


def known_types(manifest: Path) -> Catalog:
    """The types that are built in, with those of the plugins that the manifest, if there is one, and the
    environment ask for. What is left out is said."""
    catalog = Catalog()
    try:
        wanted, _ = wanted_here(manifest)
    except ManifestNotFoundError:
        if manifest != Path(MANIFEST_NAME):
            raise
        return catalog
    except ManifestError:
        fail(f"the types of its plugins are left out: see `shadowcat-registry validate {manifest}`")
        return catalog
    if not wanted.sources and not wanted.requirements:
        return catalog
    from ...plugins.loading import PluginLoader

    loaded = PluginLoader().load(wanted, catalog, "probe")
    for refusal in loaded.refusals:
        fail(str(refusal.error))
    return catalog.extended(loaded.types, loaded.implementations)
