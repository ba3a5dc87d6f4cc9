"""The rule alone: which tapes have to go. Its laws hold for any storage."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.retention import Measure, Removal, Retention, StoredTape, select

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def ended(days_ago: float) -> datetime:
    return NOW - timedelta(days=days_ago)


def tape(
    tape_id: str, days_ago: float | None = 1, size: int = 100, *tags: str, ok: bool = True
) -> StoredTape:
    moment = None if days_ago is None else ended(days_ago)
    return StoredTape(tape_id, moment, size, frozenset(tags), ok)


def measured(tapes: list[StoredTape], free_bytes: int | None = None) -> Measure:
    return Measure(len(tapes), sum(tape.size_bytes for tape in tapes), free_bytes)


def chosen(tapes: list[StoredTape], retention: Retention, free_bytes: int | None = None) -> list[str]:
    return [removal.tape_id for removal in select(tapes, retention, measured(tapes, free_bytes), NOW)]


TAPES = [tape("c", 1), tape("a", 3), tape("b", 2)]


class TestRules:
    def test_without_a_bound_everything_is_kept(self) -> None:
        assert chosen(TAPES, Retention()) == []

    def test_the_oldest_go_first_until_the_number_fits(self) -> None:
        assert chosen(TAPES, Retention(max_tapes=1)) == ["a", "b"]
        assert chosen(TAPES, Retention(max_tapes=3)) == []

    def test_the_oldest_go_first_until_the_size_fits(self) -> None:
        assert chosen(TAPES, Retention(max_total_bytes=299)) == ["a"]
        assert chosen(TAPES, Retention(max_total_bytes=100)) == ["a", "b"]
        assert chosen(TAPES, Retention(max_total_bytes=300)) == []

    def test_what_ended_too_long_ago_goes(self) -> None:
        assert chosen(TAPES, Retention(max_age_days=2)) == ["a"]
        assert chosen(TAPES, Retention(max_age_days=1.5)) == ["a", "b"]
        assert chosen(TAPES, Retention(max_age_days=1e300)) == []

    def test_a_tape_from_the_future_has_no_age(self) -> None:
        assert chosen([tape("a", -5)], Retention(max_age_days=1)) == []

    def test_one_that_does_not_say_when_it_ended_is_the_oldest_but_not_too_old(self) -> None:
        tapes = [tape("a", 3), tape("x", None)]
        assert chosen(tapes, Retention(max_age_days=1)) == ["a"]
        assert chosen(tapes, Retention(max_tapes=1)) == ["x"]

    def test_the_floor_of_free_space(self) -> None:
        assert chosen(TAPES, Retention(min_free_bytes=1000), free_bytes=850) == ["a", "b"]
        assert chosen(TAPES, Retention(min_free_bytes=1000), free_bytes=1000) == []
        assert chosen(TAPES, Retention(min_free_bytes=1000), free_bytes=None) == []
        assert chosen(TAPES, Retention(min_free_bytes=1000, may_remove=False), free_bytes=0) == []

    def test_what_has_not_ended_or_has_a_tag_that_keeps_stays(self) -> None:
        tapes = [tape("a", 3, 100, "x", "keep"), tape("b", 2, ok=False), tape("c", 1, 100, "x")]
        assert chosen(tapes, Retention(max_tapes=1, keep_tags=frozenset({"keep"}))) == ["c"]

    def test_the_first_reason_is_told(self) -> None:
        retention = Retention(max_age_days=2, max_tapes=1)
        assert select(TAPES, retention, measured(TAPES), NOW) == (
            Removal("a", "max_age_days", 100),
            Removal("b", "max_tapes", 100),
        )

    def test_one_of_unknown_size_counts_as_an_average_one(self) -> None:
        tapes = [tape(name, 9, 0) for name in "abcd"]
        removals = select(tapes, Retention(max_total_bytes=250), Measure(4, 400), NOW)
        assert [removal.tape_id for removal in removals] == ["a", "b"]

    def test_headroom_undercuts_only_a_bound_that_is_exceeded(self) -> None:
        tapes = [tape(f"{n:03}", 1) for n in range(130)]
        retention = Retention(max_tapes=128)
        assert len(select(tapes, retention, measured(tapes), NOW, headroom=64)) == 4
        assert select(tapes[:128], retention, measured(tapes[:128]), NOW, headroom=64) == ()


class TestFromAConfig:
    def test_the_fields(self) -> None:
        assert Retention.of({"retention": {"max_tapes": 3, "keep_tags": ["a"]}, "min_free_bytes": 5}) == (
            Retention(max_tapes=3, keep_tags=frozenset("a"), min_free_bytes=5)
        )

    @pytest.mark.parametrize("config", [{}, {"retention": {}}, {"retention": {"keep_tags": []}}, {"x": 1}])
    def test_nothing_said_keeps_everything(self, config: dict[str, object]) -> None:
        assert Retention.of(config) is None
        assert Retention.of({**config, "min_free_bytes": 0}) is None

    def test_a_floor_alone_removes_nothing(self) -> None:
        assert Retention.of({"min_free_bytes": 5}) == Retention(min_free_bytes=5, may_remove=False)


class TestFromMetadata:
    def test_what_it_says(self) -> None:
        meta = {
            "tape_id": "t",
            "status": "finalized",
            "finalized_at": "2026-11-24T12:00:00Z",
            "tags": ["a", 7],
            "stats": {"file_size_bytes": 9},
        }
        assert StoredTape.of(meta) == tape("t", 1, 9, "a")
        assert StoredTape.of({**meta, "status": "aborted", "finalized_at": None}).ended_at is None
        assert not StoredTape.of({**meta, "status": "recording"}).removable
        assert not StoredTape.of(meta, in_use=True).removable

    @pytest.mark.parametrize(
        "meta", [{}, {"tape_id": "t", "tags": "x", "stats": 7, "finalized_at": 3, "status": ["finalized"]}]
    )
    def test_what_is_not_as_it_should_be_is_not_removed(self, meta: dict[str, object]) -> None:
        assert not StoredTape.of(meta).removable


tapes_ = st.lists(
    st.builds(
        StoredTape,
        st.text("abcdef", min_size=1, max_size=4),
        st.one_of(st.none(), st.floats(-10, 100).map(ended)),
        st.integers(0, 1000),
        st.frozensets(st.sampled_from(["x", "keep"])),
        st.booleans(),
    ),
    unique_by=lambda tape: tape.tape_id,
    max_size=20,
)
retentions = st.builds(
    Retention,
    st.one_of(st.none(), st.floats(0.1, 50)),
    st.one_of(st.none(), st.integers(1, 5000)),
    st.one_of(st.none(), st.integers(1, 20)),
    st.none(),
    st.sampled_from([0, 0, 500, 5000]),
    st.sampled_from([frozenset(), frozenset({"keep"})]),
    st.booleans(),
)
free = st.one_of(st.none(), st.integers(0, 6000))


class TestLaws:
    @given(tapes_, retentions, free)
    def test_only_what_may_go_goes_and_once(
        self, tapes: list[StoredTape], retention: Retention, free_bytes: int | None
    ) -> None:
        ids = chosen(tapes, retention, free_bytes)
        assert len(set(ids)) == len(ids)
        for tape in tapes:
            if tape.tape_id in ids:
                assert tape.removable
                assert retention.may_remove
                assert not tape.tags & retention.keep_tags

    @given(tapes_, retentions, free)
    def test_after_it_there_is_nothing_more_to_do(
        self, tapes: list[StoredTape], retention: Retention, free_bytes: int | None
    ) -> None:
        tapes = [replace(tape, size_bytes=tape.size_bytes or 1) for tape in tapes]
        removals = select(tapes, retention, measured(tapes, free_bytes), NOW)
        ids = {removal.tape_id for removal in removals}
        rest = [tape for tape in tapes if tape.tape_id not in ids]
        freed = sum(removal.size_bytes for removal in removals)
        assert chosen(rest, retention, None if free_bytes is None else free_bytes + freed) == []

    @given(tapes_, retentions, free)
    def test_nobody_goes_for_want_of_room_before_somebody_older(
        self, tapes: list[StoredTape], retention: Retention, free_bytes: int | None
    ) -> None:
        removals = select(tapes, retention, measured(tapes, free_bytes), NOW)
        by_id = {tape.tape_id: tape for tape in tapes}
        gone = {removal.tape_id for removal in removals}
        for removal in removals:
            if removal.rule == "max_age_days":
                continue
            for tape in tapes:
                may_go = tape.removable and not tape.tags & retention.keep_tags
                if may_go and tape.tape_id not in gone and tape.ended_at is not None:
                    moment = by_id[removal.tape_id].ended_at
                    assert moment is None or moment <= tape.ended_at

    @given(tapes_, retentions, free)
    def test_no_more_go_than_needed(
        self, tapes: list[StoredTape], retention: Retention, free_bytes: int | None
    ) -> None:
        tapes = [replace(tape, size_bytes=tape.size_bytes or 1) for tape in tapes]
        removals = select(tapes, retention, measured(tapes, free_bytes), NOW)
        if not removals or removals[-1].rule == "max_age_days":
            return
        before_last = {removal.tape_id for removal in removals[:-1]}
        rest = [tape for tape in tapes if tape.tape_id not in before_last]
        freed = sum(removal.size_bytes for removal in removals[:-1])
        size = sum(tape.size_bytes for tape in rest)
        assert (
            (retention.max_tapes is not None and len(rest) > retention.max_tapes)
            or (retention.max_total_bytes is not None and size > retention.max_total_bytes)
            or (free_bytes is not None and free_bytes + freed < retention.min_free_bytes)
        )
