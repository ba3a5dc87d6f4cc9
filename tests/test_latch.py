"""An event of locks alone: everybody who waits is woken, whenever he came, and time is kept."""

from __future__ import annotations

from shadowcat_registry import latch
from shadowcat_registry.latch import Latch

from .fakes import Running, until
from .schedules import Scenario, explore


class TestLatch:
    def test_wakes_everybody_who_waits(self) -> None:
        it = Latch()
        waiting = [Running(lambda: it.wait(10.0)) for _ in range(3)]
        until(lambda: len(it._waiting) == 3)
        it.set()
        assert [call.result() for call in waiting] == [True] * 3
        assert it.is_set()

    def test_holds_nobody_up_who_comes_later_and_may_be_set_again(self) -> None:
        it = Latch()
        it.set()
        it.set()
        assert it.wait(0.0)

    def test_keeps_the_time(self) -> None:
        assert not Latch().wait(0.001)

    def test_misses_nobody_in_any_order(self) -> None:
        def build() -> Scenario:
            it = Latch()

            def wait() -> None:
                assert it.wait(5.0)

            return Scenario([wait, it.set, wait])

        explore(build, 500, {str(latch.__file__)})
