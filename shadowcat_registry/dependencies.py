"""Who needs whom: the order that follows from it, and the circles that leave none.

Knows names only. Nothing here recurses: a chain may be as long as a manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

Needs = Mapping[str, Iterable[str]]
"""Name → the names that it needs; a name that is no key needs nothing."""


def in_order(names: Iterable[str], needs: Needs) -> list[str]:
    """`names`, each behind whatever of them it needs, over however many steps; otherwise as they came."""
    names = tuple(names)
    wanted = frozenset(names)
    return [name for name, _ in _walk(names, needs) if name in wanted]


def find_cycles(needs: Needs) -> list[tuple[str, ...]]:
    """Circles as paths that end where they begin, `("a", "b", "a")`. No name is in two of them: of circles
    that share one, the first that was met is told. An empty list: there is none."""
    found: list[tuple[str, ...]] = []
    told: set[str] = set()
    for _, cycles in _walk(needs, needs):
        for cycle in cycles:
            if told.isdisjoint(cycle):
                found.append(cycle)
                told.update(cycle)
    return found


def _walk(names: Iterable[str], needs: Needs) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Depth first: each name once, behind what it needs, with the circles that were met below it."""
    done: set[str] = set()
    for start in names:
        if start in done:
            continue
        path: dict[str, Iterator[str]] = {start: iter(needs.get(start, ()))}
        cycles: dict[str, list[tuple[str, ...]]] = {start: []}
        while path:
            name = next(reversed(path))
            for needed in path[name]:
                if needed in path:
                    way = list(path)
                    cycles[name].append((*way[way.index(needed) :], needed))
                elif needed not in done:
                    path[needed] = iter(needs.get(needed, ()))
                    cycles[needed] = []
                    break
            else:
                del path[name]
                done.add(name)
                yield name, cycles.pop(name)
