from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.settle import (
    BLANK_WAIT_SECONDS,
    CLOSED_QUIET_SECONDS,
    LONGEST_WAIT_SECONDS,
    OPEN_WAIT_SECONDS,
    REPLACED_QUIET_SECONDS,
    STIRRED_QUIET_SECONDS,
    Hint,
    Settling,
)
from shadowcat_registry.sight import BLANK, MOVING, NOTHING, Sight, Signature

HALF = "half"


@dataclass
class World:
    """A file whose changes are scripted, a watch that polls it, and the time, which only moves in `play`."""

    has_close_events: bool = True
    poll_seconds: float = 1.0
    script: list[tuple[float, str | None, Hint | None]] = field(default_factory=list)
    taken: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at = 0.0
        self.content = "old"
        self.version = 0
        self.settling = Settling(has_close_events=self.has_close_events)
        self.settling.sight, self.settling.taken = self._sight(), "old"

    def then(self, after: float, content: str | None, hint: Hint | None) -> World:
        """`after` seconds later there is this content (None: as before), and this event."""
        self.script.append((self.at + after, content, hint))
        self.at += after
        return self

    def play(self, until: float) -> list[tuple[float, str]]:
        actions = sorted(self.script, key=lambda action: action[0])
        next_poll = self.poll_seconds
        settling = self.settling
        while True:
            due = settling.due if settling.due is not None else until
            now = min(due, next_poll, actions[0][0] if actions else until)
            if now >= until:
                return self.taken
            if actions and actions[0][0] <= now:
                _, content, hint = actions.pop(0)
                if content is not None:
                    self.content, self.version = content, self.version + 1
                if hint is not None:
                    settling.hint(hint, now)
            elif next_poll <= now:
                next_poll += self.poll_seconds
                if settling.due is None and settling.is_doubtful(self._signature()):
                    settling.hint(Hint.STIRRED, now)
            elif settling.is_quiet(self._signature(), now) and settling.settle(self._sight(), now):
                if settling.is_news:
                    self.taken.append((now, self.content))
                settling.taken = self.content

    def _signature(self) -> Signature:
        return NOTHING if self.content == "missing" else (self.version,)

    def _sight(self) -> Sight:
        return Sight(self._signature(), self.content)


def only(taken: list[tuple[float, str]]) -> tuple[float, str]:
    assert len(taken) == 1, taken
    at, content = taken[0]
    return round(at, 6), content


def contents(taken: list[tuple[float, str]]) -> list[str]:
    return [content for _, content in taken]


class TestAReplacement:
    def test_is_taken_at_once(self) -> None:
        world = World().then(0.3, "new", Hint.REPLACED)
        assert world.play(until=5.0) == [(0.3 + REPLACED_QUIET_SECONDS, "new")]

    def test_in_a_burst_is_one_change(self) -> None:
        world = World().then(0.3, "new 0", Hint.REPLACED)
        for i in range(1, 50):
            world.then(0.001, f"new {i}", Hint.REPLACED)
        assert contents(world.play(until=5.0)) == ["new 49"]

    def test_by_the_same_content_is_no_news(self) -> None:
        assert World().then(0.3, "old", Hint.REPLACED).play(until=5.0) == []

    def test_ends_the_wait_for_a_writer_of_the_file_before(self) -> None:
        world = World().then(0.3, HALF, Hint.OPENED).then(0.1, "new", Hint.REPLACED)
        assert only(world.play(until=5.0)) == (round(0.4 + REPLACED_QUIET_SECONDS, 6), "new")


class TestAWriterInPlace:
    def test_is_waited_for_until_closed_and_quiet(self) -> None:
        world = (
            World().then(0.3, HALF, Hint.OPENED).then(3.0, "new", Hint.OPENED).then(0.0, None, Hint.CLOSED)
        )
        assert only(world.play(until=9.0)) == (round(3.3 + CLOSED_QUIET_SECONDS, 6), "new")

    def test_that_never_closes_is_not_waited_for_forever(self) -> None:
        world = World().then(0.3, "new", Hint.OPENED)
        assert only(world.play(until=20.0)) == (
            round(0.3 + OPEN_WAIT_SECONDS + STIRRED_QUIET_SECONDS, 6),
            "new",
        )

    def test_that_never_pauses_is_not_waited_for_forever(self) -> None:
        world = World()
        for i in range(200):
            world.then(0.1, f"new {i}", Hint.OPENED)
        first, _ = world.play(until=30.0)[0]
        assert first <= 0.1 + OPEN_WAIT_SECONDS + LONGEST_WAIT_SECONDS + 0.1

    def test_that_closes_an_empty_file_first_makes_one_change(self) -> None:
        world = World().then(0.3, "empty", Hint.OPENED).then(0.0, None, Hint.CLOSED)
        world.then(0.3, "new", Hint.OPENED).then(0.0, None, Hint.CLOSED)
        assert contents(world.play(until=9.0)) == ["new"]

    def test_that_closes_twice_makes_two_changes(self) -> None:
        world = World().then(0.3, "one", Hint.OPENED).then(0.0, None, Hint.CLOSED)
        world.then(0.3, "two", Hint.OPENED).then(0.0, None, Hint.CLOSED)
        assert contents(world.play(until=9.0)) == ["one", "two"]

    def test_gets_the_stirred_quiet_where_nobody_tells_of_its_end(self) -> None:
        world = World(has_close_events=False).then(0.3, HALF, Hint.OPENED).then(0.4, "new", Hint.OPENED)
        assert only(world.play(until=9.0)) == (round(0.7 + STIRRED_QUIET_SECONDS, 6), "new")

    def test_whose_next_event_is_late_is_seen_by_the_signature(self) -> None:
        # Closed, and opened again 20 ms later; that event has not arrived when the quiet is over.
        world = World().then(0.3, "one", Hint.CLOSED).then(0.02, HALF, None)
        world.then(0.05, "two", Hint.OPENED).then(0.0, None, Hint.CLOSED)
        assert contents(world.play(until=9.0)) == ["two"]


class TestABurst:
    def test_of_closed_writes_is_taken_after_the_longest_wait_and_whole(self) -> None:
        world = World()
        for i in range(400):
            world.then(0.01, HALF, Hint.OPENED).then(0.015, f"new {i}", Hint.CLOSED)
        taken = world.play(until=30.0)
        assert taken[0][0] <= 0.01 + LONGEST_WAIT_SECONDS + 0.025
        assert HALF not in contents(taken)
        assert taken[-1][1] == "new 399"


class TestATimeInWhichNobodyLooked:
    def test_does_not_make_a_file_overdue(self) -> None:
        settling = Settling(has_close_events=True)
        settling.hint(Hint.REPLACED, 0.0)
        assert not settling.is_quiet((1,), 0.0)
        settling.rest(60.0)
        assert not settling.is_quiet((2,), 60.1), "a writer is in the middle of it"
        assert settling.is_quiet((2,), 60.2)

    def test_does_not_make_nothing_a_fact(self) -> None:
        settling = Settling(has_close_events=True)
        settling.taken = "old"
        settling.hint(Hint.GONE, 0.0)
        settling.is_quiet(NOTHING, 0.0)
        assert settling.is_quiet(NOTHING, 0.1)
        assert not settling.settle(Sight(NOTHING, "missing"), 0.1)
        settling.rest(60.0)
        settling.is_quiet(NOTHING, 60.2)
        assert not settling.settle(Sight(NOTHING, "missing"), 60.2)


class TestNothing:
    @pytest.mark.parametrize("blank", sorted(BLANK))
    def test_that_lasts_is_told_once(self, blank: str) -> None:
        taken = World().then(0.3, blank, Hint.GONE).play(until=20.0)
        assert only(taken) == (round(0.3 + CLOSED_QUIET_SECONDS + BLANK_WAIT_SECONDS, 6), blank)

    @pytest.mark.parametrize("blank", sorted(BLANK))
    def test_for_a_second_is_not_told(self, blank: str) -> None:
        world = World().then(0.3, blank, Hint.GONE).then(1.0, "new", Hint.REPLACED)
        assert contents(world.play(until=20.0)) == ["new"]

    def test_for_a_second_and_the_same_again_is_not_told(self) -> None:
        assert World().then(0.3, "missing", Hint.GONE).then(1.0, "old", Hint.REPLACED).play(until=20.0) == []

    def test_that_was_told_makes_the_same_content_news(self) -> None:
        world = World().then(0.3, "missing", Hint.GONE).then(5.0, "old", Hint.REPLACED)
        assert contents(world.play(until=20.0)) == ["missing", "old"]

    def test_that_becomes_a_file_without_an_event_waits_as_long_as_a_poll(self) -> None:
        world = World(poll_seconds=100.0).then(0.3, "missing", Hint.GONE).then(1.2, HALF, None)
        world.then(0.4, "new", None)
        assert contents(world.play(until=20.0)) == ["new"]


class TestAMovingFile:
    def test_is_never_taken(self) -> None:
        settling = Settling(has_close_events=True)
        settling.hint(Hint.REPLACED, 0.0)
        for at in range(20):
            if settling.is_quiet((1,), float(at)):
                assert not settling.settle(Sight(NOTHING, MOVING), float(at))
            assert settling.due is not None

    def test_that_moved_between_the_two_looks_is_looked_at_again(self) -> None:
        settling = Settling(has_close_events=True)
        settling.hint(Hint.REPLACED, 0.0)
        assert not settling.is_quiet((1,), 0.0)
        assert settling.is_quiet((1,), 0.1)
        assert not settling.settle(Sight((2,), "half"), 0.1)
        assert settling.due == pytest.approx(0.1 + CLOSED_QUIET_SECONDS)


class TestDoubt:
    def test_is_cast_by_another_signature_a_young_file_and_an_unreadable_one(self) -> None:
        settling = Settling(has_close_events=True)
        assert settling.is_doubtful((1,))
        for sight, is_doubtful in [
            (Sight((1,), "a"), False),
            (Sight((2,), "a"), True),
            (Sight((1,), "a", is_young=True), True),
            (Sight((1,), "unreadable"), True),
        ]:
            settling.sight = sight
            assert settling.is_doubtful((1,)) is is_doubtful


pauses = st.floats(0.0, 0.45)


class TestTheLaws:
    @given(
        st.lists(st.tuples(st.floats(0.0, 3.0), st.lists(st.floats(0.0, 1.2), max_size=4)), max_size=6),
        st.floats(0.05, 2.0),
    )
    def test_with_events_no_half_is_taken_and_the_last_content_always(
        self, writers: list[tuple[float, list[float]]], poll_seconds: float
    ) -> None:
        world = World(poll_seconds=poll_seconds)
        for i, (pause, gaps) in enumerate(writers):
            world.then(pause, HALF, Hint.OPENED)
            for gap in gaps:
                world.then(gap, HALF, Hint.OPENED)
            world.then(0.0, f"new {i}", Hint.OPENED).then(0.0, None, Hint.CLOSED)
        taken = contents(world.play(until=world.at + 20.0))
        assert HALF not in taken
        assert not writers or taken[-1] == f"new {len(writers) - 1}"
        assert len(taken) == len(set(taken))

    @given(st.lists(st.tuples(st.floats(0.0, 3.0), st.lists(pauses, max_size=4)), max_size=6))
    def test_without_events_no_half_is_taken_of_writers_that_pause_briefly(
        self, writers: list[tuple[float, list[float]]]
    ) -> None:
        world = World()
        for i, (pause, gaps) in enumerate(writers):
            # Long enough apart to be writers on their own; never moving for longer than the longest wait.
            world.then(pause + 1.6, HALF, None)
            for gap in gaps:
                world.then(gap, HALF, None)
            world.then(0.0, f"new {i}", None)
        taken = contents(world.play(until=world.at + 20.0))
        assert HALF not in taken
        assert not writers or taken[-1] == f"new {len(writers) - 1}"

    @given(st.lists(st.tuples(st.floats(0.0, 2.0), st.sampled_from([None, *Hint])), max_size=30))
    def test_any_noise_about_an_unchanged_file_leads_to_nothing_and_ends(
        self, noise: list[tuple[float, Hint | None]]
    ) -> None:
        world = World()
        for pause, hint in noise:
            world.then(pause, "old", hint)
        assert world.play(until=world.at + 30.0) == []
        assert world.settling.due is None

    @given(
        st.lists(
            st.tuples(
                st.floats(0.0, 2.0),
                st.sampled_from([None, "a", "b", "missing", "empty"]),
                st.sampled_from([None, *Hint]),
            ),
            max_size=30,
        )
    )
    def test_whatever_is_told_it_ends_on_what_is_there(
        self, actions: list[tuple[float, str | None, Hint | None]]
    ) -> None:
        world = World()
        for action in actions:
            world.then(*action)
        world.play(until=world.at + 30.0)
        assert world.settling.due is None
        assert world.settling.taken == world.content
