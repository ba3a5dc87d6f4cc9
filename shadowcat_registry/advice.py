"""What no schema can say of configs that are right by theirs: what is deprecated, where paths lead, and who
shares a place with whom.

Knows configs and their schemas, not where they were written. Looks at links on the disk, opens nothing.

"A provider that nobody can reach" is not among it: every declared provider can be opened by its name, so
there is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import Problem
from .marks import Pointer, format_dotted
from .schema import Compiled
from .schema_walk import declared_at

_MAX_PATH_CHARACTERS: Final = 4_096
_MAX_PATHS_EFFORT: Final = 50_000_000
"""Characters times directories, over all paths: 20,000 paths of ten directories have less than half."""


def advice(compiled: Compiled, config: Mapping[str, Any]) -> Iterator[Problem]:
    """What is worth a warning in a config as it was written: references resolved, no defaults filled in."""
    for pointer, _ in compiled.marked("deprecated", config):
        parts = declared_at(compiled.schema, pointer)
        other = next((part["x-replaced-by"] for part in parts if "x-replaced-by" in part), None)
        hint = f"use `{other}`" if isinstance(other, str) else None
        yield Problem(pointer, "SC211", f"`{format_dotted(pointer)}` is deprecated", hint, on_key=True)
    for pointer, value in compiled.marked("x-path", config):
        if isinstance(value, str) and _leads_out(value):
            message = f"`{format_dotted(pointer)}` leads out of the directory of the manifest"
            hint = "write an absolute path if that is meant: a relative one moves with the manifest"
            yield Problem(pointer, "SC311", message, hint)


def _leads_out(path: str) -> bool:
    return ".." in path and not Path(path).is_absolute() and Path(os.path.normpath(path)).parts[:1] == ("..",)


@dataclass(frozen=True, slots=True)
class Place:
    """A path that a provider wants for itself."""

    provider: str
    pointer: Pointer
    path: str


def exclusive_places(provider: str, compiled: Compiled, config: Mapping[str, Any]) -> Iterator[Place]:
    """Those that the schema of a complete config marks `x-exclusive`."""
    for pointer, value in compiled.marked("x-exclusive", config):
        if isinstance(value, str) and value:
            yield Place(provider, pointer, value)


def comparable(places: Iterable[Place]) -> tuple[list[Place], Place | None]:
    """Those that can be compared in a moment, and the first that was left out because there were so many of
    such depth before it."""
    found: list[Place] = []
    effort = 0
    for place in places:
        if len(place.path) > _MAX_PATH_CHARACTERS:
            continue  # no system has one, and its links would take time that grows with the square
        effort += len(place.path) * place.path.count(os.sep)
        if effort > _MAX_PATHS_EFFORT:
            return found, place
        found.append(place)
    return found, None


def overlaps(places: Iterable[Place]) -> Iterator[tuple[Place, Place, bool]]:
    """Each of these, which are `comparable`, with the one before it that is the same (True), or that one of
    the two is inside of, after all links. Of several, the nearest; the later or the inner one comes first."""
    resolve = _Resolver()
    first: dict[str, Place] = {}
    for place in places:
        path = resolve(place.path)
        other = first.setdefault(path, place)
        if other is not place:
            yield place, other, True
    nearest: dict[str, Place | None] = {}  # of a directory: the place that it is, or is in
    for path, place in first.items():
        above = os.path.dirname(path)  # noqa: PTH120 - plain strings: there may be many
        around = _nearest(above, first, nearest)
        if around is not None and around.provider != place.provider:
            yield place, around, False


def _nearest(directory: str, places: Mapping[str, Place], nearest: dict[str, Place | None]) -> Place | None:
    passed = []
    while directory not in nearest:
        passed.append(directory)
        parent = os.path.dirname(directory)  # noqa: PTH120 - dito
        if directory in places or parent == directory:
            nearest[directory] = places.get(directory)
            break
        directory = parent
    found = nearest[directory]
    nearest.update(dict.fromkeys(passed, found))
    return found


class _Resolver:
    """`realpath`, with the directories that many paths have in common followed once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        parent, name = os.path.split(os.path.normpath(path))
        if parent not in self._known:
            self._known[parent] = os.path.realpath(parent)
        real = os.path.join(self._known[parent], name)  # noqa: PTH118 - dito
        if os.path.islink(real):  # noqa: PTH114 - dito
            real = os.path.realpath(real)
        return os.path.normcase(real)
