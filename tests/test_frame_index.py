"""The index of one tape against the plainest one that there could be."""

from __future__ import annotations

import sys
from types import FrameType

from hypothesis import example, given
from hypothesis import strategies as st

from shadowcat_registry.frame_index import HIGHEST, FrameIndex

SEQS = st.lists(
    st.one_of(
        st.integers(-3, 20),
        st.sampled_from([HIGHEST - 1, HIGHEST, HIGHEST + 1, HIGHEST + 2, 10**30, -(10**30)]),
    ),
    max_size=30,
)
ASKED = [*range(-4, 22), HIGHEST - 1, HIGHEST, HIGHEST + 1, HIGHEST + 2, 10**30, 10**31, -(10**30)]


def _index_of(seqs: list[int]) -> FrameIndex:
    index = FrameIndex()
    for number, seq in enumerate(seqs):
        index.add(seq, number * 10)
        index.end = number * 10 + 10
    return index


class TestFrameIndex:
    @given(SEQS)
    @example([0, 1, 2, 5, 6, 9])
    @example([3, 2, 1, 0])
    @example([HIGHEST + 1, 4, 5])
    def test_the_first_frame_of_each_seq_is_where_it_stands(self, seqs: list[int]) -> None:
        index = _index_of(seqs)
        for asked in ASKED:
            span = index.span(asked)
            if asked not in seqs:
                assert span is None
                continue
            assert span is not None
            place = seqs.index(asked) * 10
            assert span[0] == place
            assert span[1] <= place or span[1] - place <= 10 * len(seqs)

    @given(SEQS)
    @example([0, 1, 2, 5, 6, 9])
    @example([HIGHEST + 1, 4, 5])
    def test_before_the_first_from_a_seq_on_there_is_none_of_that_seq_or_more(self, seqs: list[int]) -> None:
        index = _index_of(seqs)
        for asked in filter(lambda seq: seq >= 0, ASKED):
            found = index.first_from(asked)
            higher = [place for place, seq in enumerate(seqs) if seq >= asked]
            if not higher:
                # Nothing higher can come before it, wherever that is.
                assert found is None or found[0] > HIGHEST
                continue
            assert found is not None
            seq, place = found
            assert seqs[place // 10] == seq
            assert place // 10 <= higher[0]
            if asked <= HIGHEST:
                assert place // 10 == higher[0]

    @given(SEQS)
    def test_the_next_frame_is_the_nearest_place_behind(self, seqs: list[int]) -> None:
        """Where each has a higher seq than all before it, as recorders write them."""
        rising = sorted({seq for seq in seqs if 0 <= seq <= HIGHEST})
        index = _index_of(rising)
        for number, seq in enumerate(rising):
            assert index.span(seq) == (number * 10, number * 10 + 10)

    def test_a_frame_takes_eight_bytes(self) -> None:
        index = _index_of(list(range(10_000)))
        size_bytes = sum(
            array.itemsize * len(array) for array in (index._places, index._begins, index._firsts)
        )
        assert size_bytes == 8 * 10_000 + 16
        assert not index._late

    def test_what_is_being_added_is_missing_or_there_and_nothing_else_is_found(self) -> None:
        """Another thread may look between any two steps of an addition."""
        seqs = [0, 1, 2, 7, 8, 3, HIGHEST + 1, 20]
        index = FrameIndex()
        known: dict[int, int] = {}
        problems: list[tuple[object, ...]] = []

        def look(frame: FrameType, event: str, argument: object) -> object:
            frame.f_trace_opcodes = True
            for asked in range(22):
                span, found = index.span(asked), index.first_from(asked)
                if span is not None and (asked not in seqs or span[0] != seqs.index(asked)):
                    problems.append((asked, span, dict(known)))
                if span is None and asked in known:
                    problems.append((asked, None, dict(known)))
                if found is not None and seqs[found[1]] != found[0]:
                    problems.append((asked, found))
            return look

        def trace(frame: FrameType, event: str, argument: object) -> object:
            return look if frame.f_code is FrameIndex.add.__code__ else None

        before = sys.gettrace()
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            for number, seq in enumerate(seqs):
                index.add(seq, number)
                known[seq] = number
        finally:
            sys.settrace(before)
        assert not problems
