"""What a manifest and the environment ask for in the way of plugins, as values.

Looks at no file. What is not of the right form in a section, the schema of the manifest has refused before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..marks import Pointer
from .records import SourceDeclaration, Trust

PROBE_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Requirement:
    """A distribution that may register types: `shadowcat-glacier>=1.2`, and where the manifest says so."""

    text: str
    pointer: Pointer = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The plugins that are asked for. Of two with one name, the first one counts."""

    sources: tuple[SourceDeclaration, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    probes: bool = True
    """Whether what was not imported yet is probed first."""
    probe_timeout_seconds: float = PROBE_TIMEOUT_SECONDS
    is_strict: bool = False
    """Whether one that is refused makes the whole manifest wrong."""

    @property
    def has_pins(self) -> bool:
        return any(it.trust == "pinned" for it in self.sources)


def read_section(section: Mapping[str, Any], base_directory: Path, plugin_directory: str | None) -> Wanted:
    """From the section `plugins` of a manifest in `base_directory`; `plugin_directory` is what
    `SHADOWCAT_PLUGIN_DIR` says, relative to the working directory. It comes first."""
    sources = []
    if plugin_directory:
        sources.append(SourceDeclaration(_absolute(plugin_directory), True))
    for index, entry in enumerate(section.get("sources", ())):
        pointer: Pointer = ("plugins", "sources", index)
        pinned = entry.get("sha256")
        if "directory" in entry:
            path = _absolute(base_directory / entry["directory"])
            trust: Trust = entry.get("trust") or ("ownership" if pinned is None else "pinned")
            sources.append(SourceDeclaration(path, True, trust, dict(pinned or {}), pointer))
            continue
        path = _absolute(base_directory / entry["path"])
        if pinned is None:
            sources.append(SourceDeclaration(path, False, pointer=pointer))
        else:
            sources.append(SourceDeclaration(path, False, "pinned", {path.name: pinned}, pointer))
    return Wanted(
        sources=tuple(sources),
        requirements=tuple(
            Requirement(text, ("plugins", "entry_points", index))
            for index, text in enumerate(section.get("entry_points", ()))
        ),
        probes=section.get("probe", True),
        probe_timeout_seconds=float(section.get("probe_timeout_seconds", PROBE_TIMEOUT_SECONDS)),
        is_strict=section.get("strict", False),
    )


def _absolute(path: str | Path) -> Path:
    # Not `resolve()`: over which links it leads there matters. `..` behind a link is left to whoever looks.
    return Path(os.path.abspath(path))  # noqa: PTH100
