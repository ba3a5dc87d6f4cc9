"""Records only: what they count, and who they say holds something."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from shadowcat_registry.leases import Caller, Lease, Opening, Revision, caller, find_caller

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
    return Lease(Opening(Revision("a", 1), shared=True), who).acquired_at


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
        lease = Lease(Opening(Revision("a", 1), shared=True), caller("unknown"))
        assert (lease.acquired_at, lease.place) == ("unknown", ("unknown", 0))

    def test_the_thread_is_that_of_the_caller(self) -> None:
        who = Running(_called, name="somebody").result()
        lease = Lease(Opening(Revision("a", 1), shared=True), who)
        assert lease.as_holder().thread == "somebody"


class TestRevision:
    def test_counts_the_leases_of_all_its_openings(self) -> None:
        revision, shared = _opened()
        own = Opening(revision, shared=False)
        revision.openings[own] = None
        for opening in (shared, shared, own):
            opening.leases[Lease(opening, caller("here.py:1"))] = None
        assert revision.lease_count() == 3

    def test_lists_its_holders_with_all_that_is_known_of_them(self) -> None:
        revision, opening = _opened()
        opening.leases[Lease(opening, caller("here.py:7"), instance_id="mine")] = None
        (holder,) = revision.holders()
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
        opening.leases[Lease(opening, caller("here.py:1"))] = None
        revision.openings = Growing(revision.openings)
        assert revision.lease_count() == 1
        assert len(revision.holders()) == 1


class TestOpening:
    def test_one_of_its_own_ends_with_its_last_lease(self) -> None:
        assert _opened(shared=False)[1].ends_with_last_lease

    def test_a_shared_one_only_once_it_is_superseded(self) -> None:
        revision, opening = _opened()
        assert not opening.ends_with_last_lease
        revision.superseded = True
        assert opening.ends_with_last_lease
