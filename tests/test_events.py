from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from shadowcat_registry.errors import Finding
from shadowcat_registry.events import Event, Subscribers
from shadowcat_registry.marks import Mark

AT = datetime(2026, 11, 22, 20, 14, 19, 358_000, tzinfo=UTC)
FINDING = Finding(
    "SC301", "no such provider", Mark("r.yaml", 4, 13, 4, 16), ("defaults", "provider"), "add it"
)


def _event(**fields: object) -> Event:
    given = {"event": "committed", "at": AT, "generation": 3, "digest": "abc", **fields}
    return Event(**given)  # type: ignore[arg-type]


class TestEvent:
    def test_as_json_it_has_every_field_always(self) -> None:
        event = _event(added=("a",), retiring=("b",), default="a", findings=(FINDING,))
        assert json.loads(json.dumps(event.as_json())) == {
            "version": 1,
            "event": "committed",
            "at": "2026-11-22T20:14:19.358Z",
            "generation": 3,
            "digest": "abc",
            "added": ["a"],
            "updated": [],
            "removed": [],
            "retiring": ["b"],
            "default": "a",
            "findings": [FINDING.as_json()],
        }

    def test_for_people_it_is_a_line_that_says_what_changed(self) -> None:
        event = _event(added=("a", "b"), updated=("c",), removed=("d",), retiring=("e",), default="a")
        assert str(event) == (
            "committed  generation 3; added a, b; updated c; removed d; "
            "retiring, in use until its last lease is closed: e; default a"
        )

    def test_for_people_a_rejection_has_a_line_for_each_finding(self) -> None:
        first, second = str(_event(event="rejected", default="a", findings=(FINDING,))).splitlines()
        assert first == "rejected   generation 3; unchanged, because of the manifest:"
        assert second == "  r.yaml:4:13: error SC301: no such provider (add it)"

    def test_for_people_the_end_is_said_without_a_default(self) -> None:
        assert str(_event(event="stopped")) == "stopped    generation 3"


class TestSubscribers:
    def test_are_called_in_the_order_of_subscription(self) -> None:
        subscribers: Subscribers = Subscribers()
        told: list[str] = []
        for name in ("first", "second", "third"):
            subscribers.add(lambda event, name=name: told.append(f"{name} {event.generation}"))  # type: ignore[misc]
        subscribers.publish(_event())
        assert told == ["first 3", "second 3", "third 3"]

    @pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(1)], ids=["an error", "an exit"])
    def test_one_that_raises_is_logged_and_passed_over(
        self, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        subscribers: Subscribers = Subscribers()
        told: list[Event] = []

        def fail(_: Event) -> None:
            raise error

        subscribers.add(fail)
        subscribers.add(told.append)
        subscribers.publish(_event())
        assert told == [_event()]
        assert "a subscriber failed on committed of generation 3" in caplog.text

    def test_an_interrupt_is_not_swallowed(self) -> None:
        def interrupt(_: Event) -> None:
            raise KeyboardInterrupt

        subscribers = Subscribers()
        subscribers.add(interrupt)
        with pytest.raises(KeyboardInterrupt):
            subscribers.publish(_event())

    def test_the_list_may_change_from_inside(self) -> None:
        subscribers: Subscribers = Subscribers()
        told: list[str] = []

        def once(_: Event) -> None:
            told.append("once")
            cancel()
            subscribers.add(lambda _: told.append("late"))

        cancel = subscribers.add(once)
        subscribers.publish(_event())
        assert told == ["once"]
        subscribers.publish(_event())
        assert told == ["once", "late"]

    def test_the_same_callable_twice_is_two_subscriptions(self) -> None:
        subscribers: Subscribers = Subscribers()
        told: list[Event] = []
        cancel = subscribers.add(told.append)
        subscribers.add(told.append)
        cancel()
        cancel()
        subscribers.publish(_event())
        assert len(told) == 1
