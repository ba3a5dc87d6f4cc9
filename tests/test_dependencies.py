from __future__ import annotations

import sys
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry import dependencies
from shadowcat_registry.dependencies import find_cycles, in_order

_names = st.sampled_from("abcdef")
_graphs = st.dictionaries(_names, st.lists(_names, max_size=3), max_size=6)


def _reaches(needs: dict[str, list[str]], start: str) -> set[str]:
    """Whatever `start` needs, over any number of steps."""
    found: set[str] = set()
    todo = list(needs.get(start, ()))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += needs.get(name, ())
    return found


class TestCycles:
    @given(_graphs)
    def test_there_is_one_exactly_where_something_needs_itself(self, needs: dict[str, list[str]]) -> None:
        assert bool(find_cycles(needs)) == any(name in _reaches(needs, name) for name in needs)

    @given(_graphs)
    def test_each_is_a_path_of_real_steps_that_ends_where_it_begins(
        self, needs: dict[str, list[str]]
    ) -> None:
        for path in find_cycles(needs):
            assert path[0] == path[-1]
            assert all(step in needs[name] for name, step in pairwise(path))

    @given(_graphs)
    def test_none_is_told_twice(self, needs: dict[str, list[str]]) -> None:
        told = [name for path in find_cycles(needs) for name in path[1:]]
        assert len(told) == len(set(told))

    def test_the_path_begins_where_it_was_met_first(self) -> None:
        assert find_cycles({"z": ["b"], "a": ["b"], "b": ["c"], "c": ["b"]}) == [("b", "c", "b")]
        assert find_cycles({"a": ["a"]}) == [("a", "a")]

    def test_a_chain_of_which_each_needs_the_first_is_told_once_and_takes_no_more_room_than_it(self) -> None:
        last = 10_000  # kept as paths, the circles would be 50 million names
        needs = {f"p{n}": ["p0", f"p{n + 1}"] for n in range(last)} | {"p0": ["p1"], f"p{last}": ["p0"]}
        tracemalloc.start()
        try:
            (cycle,) = find_cycles(needs)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (cycle[0], len(cycle), cycle[-1]) == ("p0", last + 2, "p0")
        assert peak_bytes < 64 * 1024 * 1024

    def test_looking_for_more_than_are_told_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Each of the q is in a circle by way of all of the p, of which one was told with another before.
        monkeypatch.setattr(dependencies, "_MAX_STEPS", 500)
        needs = {f"p{n}": [f"p{n + 1}"] for n in range(100)}
        needs["p50"] = ["x", "p51"]
        needs |= {"x": ["p50"], "p100": [f"q{n}" for n in range(50)]} | {f"q{n}": ["p0"] for n in range(50)}
        asked = _Counted(needs)
        assert find_cycles(asked) == [("p50", "x", "p50")]
        assert asked.count < len(needs) - 30


class _Counted(dict[str, list[str]]):
    """Counts how often somebody's needs are asked for."""

    count = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.count += 1
        return super().get(key, default)


class TestOrder:
    @given(st.permutations("abcdef"), _graphs)
    def test_has_each_once_behind_what_it_needs(self, names: list[str], needs: dict[str, list[str]]) -> None:
        ordered = in_order(names, needs)
        assert sorted(ordered) == sorted(names)
        for name in names:
            for needed in needs.get(name, ()):
                if name not in _reaches(needs, needed) and needed != name:
                    assert ordered.index(needed) < ordered.index(name)

    @given(st.permutations("abcdef"))
    def test_without_needs_everything_stays_where_it_is(self, names: list[str]) -> None:
        assert in_order(names, {}) == names

    def test_a_need_over_something_that_is_not_asked_for_counts(self) -> None:
        assert in_order(["a", "c"], {"a": ["b"], "b": ["c"]}) == ["c", "a"]

    def test_a_chain_may_be_longer_than_the_stack(self) -> None:
        length = 10 * sys.getrecursionlimit()
        needs = {str(n): [str(n + 1)] for n in range(length)}
        assert in_order(["0", str(length)], needs) == [str(length), "0"]
