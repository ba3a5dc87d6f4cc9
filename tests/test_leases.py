"""Records only: what they count, and who they say holds something."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from shadowcat_registry.callers import Caller, caller, find_caller
from shadowcat_registry.leases import Lease, Opening, Revision
from shadowcat_registry.providers.memory import MemoryBackend
from shadowcat_registry.use import Source

from .fakes import Running


def _opened(*, shared: bool = True) -> tuple[Revision, Opening]:
    revision = Revision("archive", 3)
    opening = Opening(revision, shared)
    revision.openings[opening] = None
    return revision, opening


def _called() -> Caller:
    """Stands for a method of the package: it is not the one who is looked for."""
    return find_caller()


def _text(who: Caller) -> str:
    return Lease(Opening(Revision("a", 1), shared=True), threading.Lock(), who).acquired_at


class TestFindCaller:
    def test_names_the_line_outside_of_the_package(self) -> None:
        here = _text(_called())
        file, line = here.rsplit(":", 1)
        assert file == __file__
        assert (
            int(line) == TestFindCaller.test_names_the_line_outside_of_the_package.__code__.co_firstlineno + 1
        )

    def test_of_a_call_over_many_lines_the_line_is_one_of_them(self) -> None:
        who = (
            None,
            _called(),
            None,
        )[1]
        first = TestFindCaller.test_of_a_call_over_many_lines_the_line_is_one_of_them.__code__.co_firstlineno
        assert _text(who) == f"{__file__}:{first + 3}"

    def test_frames_of_the_package_are_passed_over(self) -> None:
        inside = {"__name__": "shadowcat_registry.anything", "find_caller": find_caller}
        exec("def inner():\n    return find_caller()\ndef call():\n    return inner()", inside)
        assert _text(inside["call"]()).startswith(__file__)  # type: ignore[operator]

    def test_a_package_whose_name_only_begins_alike_is_outside(self) -> None:
        outside = {"__name__": "shadowcat_registry_tools", "called": _called}
        exec(compile("def call():\n    return called()", "tools.py", "exec"), outside)
        assert _text(outside["call"]()) == "tools.py:2"  # type: ignore[operator]

    def test_words_are_no_line(self) -> None:
        lease = Lease(Opening(Revision("a", 1), shared=True), threading.Lock(), caller("unknown"))
        assert (lease.acquired_at, lease.place) == ("unknown", ("unknown", 0))

    def test_the_thread_is_that_of_the_caller(self) -> None:
        who = Running(_called, name="somebody").result()
        lease = Lease(Opening(Revision("a", 1), shared=True), threading.Lock(), who)
        assert lease.as_holder(monotonic()).thread == "somebody"


class TestRevision:
    def test_counts_the_leases_of_all_its_openings(self) -> None:
        revision, shared = _opened()
        own = Opening(revision, shared=False)
        revision.openings[own] = None
        for opening in (shared, shared, own):
            opening.leases[Lease(opening, threading.Lock(), caller("here.py:1"))] = None
        assert revision.lease_count() == 3

    def test_lists_its_holders_with_all_that_is_known_of_them(self) -> None:
        revision, opening = _opened()
        opening.leases[Lease(opening, threading.Lock(), caller("here.py:7"), instance_id="mine")] = None
        (holder,) = revision.holders(monotonic())
        assert (holder.provider, holder.revision, holder.acquired_at, holder.instance_id, holder.thread) == (
            "archive",
            3,
            "here.py:7",
            "mine",
            threading.current_thread().name,
        )
        assert holder.age_seconds >= 0

    def test_can_be_read_while_others_change_it(self) -> None:
        class Growing(dict[Opening, None]):
            """Is changed by another thread in the middle of any iteration over it."""

            def __iter__(self) -> Iterator[Opening]:
                for opening in super().__iter__():
                    self[Opening(revision, shared=False)] = None
                    yield opening

        revision, opening = _opened()
        opening.leases[Lease(opening, threading.Lock(), caller("here.py:1"))] = None
        revision.openings = Growing(revision.openings)
        assert revision.lease_count() == 1
        assert len(revision.holders(monotonic())) == 1


class Owner:
    def __init__(self) -> None:
        self.closed: list[Opening] = []

    def close(self, opening: Opening) -> None:
        self.closed.append(opening)

    def pass_on_instance(self, lease: Lease) -> None:
        raise AssertionError("none of these has an id")

    def is_default(self, provider: str) -> bool:
        return True


class TestLeaving:
    @pytest.mark.parametrize(
        ("shared", "superseded", "unused", "ends"),
        [
            (False, False, False, True),
            (True, False, False, False),
            (True, True, False, True),
            (True, False, True, True),
        ],
        ids=["own", "shared", "shared, superseded", "shared, and nobody ever had it"],
    )
    def test_the_last_lease_ends_what_nobody_can_come_back_to(
        self, shared: bool, superseded: bool, unused: bool, ends: bool
    ) -> None:
        revision, opening = _opened(shared=shared)
        owner = opening.owner = Owner()
        opening.source = Source.of(MemoryBackend(logging.getLogger(), max_bytes=1, max_tapes=1), "archive")
        revision.superseded = superseded
        leases = [Lease(opening, threading.Lock(), caller("here.py:1")) for _ in range(2)]
        opening.leases.update(dict.fromkeys(leases))
        assert leases[0].leave(unused=unused) is None, "there is another one"
        assert leases[0].leave(unused=unused) is None, "twice is once"
        rest = leases[1].leave(unused=unused)
        assert (rest is not None, opening.closing, leases[1].is_counted) == (ends, ends, ends)
        if rest is not None:
            rest()
        assert owner.closed == [opening] * ends
