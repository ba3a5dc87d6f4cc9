"""Who needs whom: the order that follows from it, and the circles that leave none.

Knows names only. Nothing here recurses: a chain may be as long as a manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

Needs = Mapping[str, Iterable[str]]
"""Name → the names that it needs; a name that is no key needs nothing."""

_MAX_STEPS: Final = 1_000_000
"""On the ways of circles: as many are on those of 1,000 circles of 1,000 names."""


def in_order(names: Iterable[str], needs: Needs) -> list[str]:
    """`names`, each behind whatever of them it needs, over however many steps; otherwise as they came."""
    names = tuple(names)
    wanted = frozenset(names)
    return [name for name, _, _ in _walk(names, needs) if name in wanted]


def find_cycles(needs: Needs) -> list[tuple[str, ...]]:
    """Circles as paths that end where they begin, `("a", "b", "a")`. No name is in two of them: of circles
    that share one, the first that was met is told. An empty list: there is none."""
    found: list[tuple[str, ...]] = []
    told: set[str] = set()
    steps_left = _MAX_STEPS
    for name, path, above in _walk(needs, needs):
        for needed in above:
            if name in told or needed in told:
                continue
            way = [name]
            if needed != name:
                for one in reversed(path):
                    way.append(one)
                    steps_left -= 1
                    if one == needed or one in told or steps_left < 0:
                        break
            if steps_left < 0:
                return found  # what would be told now shares a name with another; that took all these steps
            if told.isdisjoint(way):
                found.append((*reversed(way), needed))
                told.update(way)
    return found


def _walk(names: Iterable[str], needs: Needs) -> Iterator[tuple[str, dict[str, Iterator[str]], list[str]]]:
    """Depth first: each name once, behind what it needs; with it the way that led there, and those of its
    needs that close a circle: they are on the way, or the name itself."""
    done: set[str] = set()
    for start in names:
        if start in done:
            continue
        path: dict[str, Iterator[str]] = {start: iter(needs.get(start, ()))}
        above: dict[str, list[str]] = {start: []}
        while path:
            name = next(reversed(path))
            for needed in path[name]:
                if needed in path:
                    above[name].append(needed)
                elif needed not in done:
                    path[needed] = iter(needs.get(needed, ()))
                    above[needed] = []
                    break
            else:
                del path[name]
                done.add(name)
                yield name, path, above.pop(name)
