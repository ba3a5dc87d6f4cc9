"""What is said about plugins, as plain immutable values: what was asked for, what passed, what came of it.

Nothing here acts: no file is looked at, nothing is imported. All of them can be pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import PluginError
from ..marks import Pointer
from ..metadata import ProviderCapability

Trust = Literal["ownership", "pinned"]
"""What makes bytes trusted: whose they are and that nobody else could have written them, or their digest."""


@dataclass(frozen=True, slots=True)
class SourceDeclaration:
    """One place that was asked for: an entry of `plugins.sources`, or `SHADOWCAT_PLUGIN_DIR`."""

    path: Path
    """Absolute and not resolved: which links lead there matters."""
    is_directory: bool
    """A directory of plugins; else one plugin: a file, or a package's directory."""
    trust: Trust = "ownership"
    pins: Mapping[str, str] = field(default_factory=dict)
    """The name of an entry (`glacier.py`, `arctic`) → SHA-256 in lower-case hex, as `VerifiedSource.sha256`
    has it. Of one plugin the name is `path.name`."""
    pointer: Pointer = ()
    """Where the manifest says so; empty for the environment and for code."""


@dataclass(frozen=True, slots=True)
class VerifiedSource:
    """One plugin's bytes, read once, that passed the checks: these are what runs."""

    name: str
    """Of the plugin: that of its file without `.py`, or of its directory."""
    path: Path
    """Of the file, or of the package's directory; only to be shown, never to be opened again."""
    is_package: bool
    files: Mapping[str, bytes] = field(repr=False)
    """Relative name, with `/` → content: `glacier.py`, or `__init__.py`, `cold/store.py` of a package."""
    sha256: str
    """In lower-case hex. Of a file: of its bytes. Of a package: of the lines that `sha256sum` prints for its
    files, `<sha256>  <relative name>`, sorted by name."""
    trust: Trust
    pointer: Pointer = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of one declaration. One refused plugin says nothing about the others."""

    sources: tuple[VerifiedSource, ...]
    """Sorted by name."""
    refusals: tuple[PluginError, ...]
    """Each of one plugin, or of the whole declaration."""
    files: tuple[Path, ...]
    """Whose change can change this, absolute, also those that are not there."""
    patterns: tuple[Path, ...]
    """Where plugins may come to be: absolute, as `includes.expand` has them."""


@dataclass(frozen=True, slots=True)
class TypeReport:
    """A provider type of a plugin, as told by a probe that imported it elsewhere, or by its factory."""

    name: str
    display_name: str
    version: str
    description: str
    capabilities: frozenset[ProviderCapability]
    schema: Mapping[str, Any] | None
    """Of its config."""
