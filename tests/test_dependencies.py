from __future__ import annotations

import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

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
