"""Steps of foreign code, on real threads. What hangs here, hangs on an event of the test."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator

import pytest

from shadowcat_registry import progress as module
from shadowcat_registry.progress import EscapedError, OverdueError, Progress

from .fakes import PATIENCE_SECONDS, Gate, Running, until


@pytest.fixture
def progress() -> Iterator[Progress]:
    it = Progress()
    yield it
    it.close()


def _run(progress: Progress, call: object, timeout_seconds: float = PATIENCE_SECONDS) -> object:
    return progress.run("the step", "a", call, timeout_seconds)  # type: ignore[arg-type]


class TestAStep:
    def test_gives_what_the_call_gives_and_raises_what_it_raises(self, progress: Progress) -> None:
        assert _run(progress, lambda: 7) == 7
        with pytest.raises(KeyError, match="no"):
            _run(progress, lambda: dict[str, int]()["no"])

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
    def test_what_is_no_exception_does_not_escape(self, progress: Progress, error: BaseException) -> None:
        def leave() -> None:
            raise error

        with pytest.raises(EscapedError, match=type(error).__name__) as caught:
            _run(progress, leave)
        assert caught.value.__cause__ is error
        assert _run(progress, lambda: 7) == 7

    def test_sees_the_context_of_the_caller(self, progress: Progress) -> None:
        variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
        variable.set(7)
        assert _run(progress, variable.get) == 7

    def test_those_that_come_back_share_a_thread(self, progress: Progress) -> None:
        threads = {_run(progress, threading.current_thread) for _ in range(3)}
        assert len(threads) == 1
        assert threading.current_thread() not in threads

    def test_runs_in_the_callers_where_there_is_no_other(
        self, progress: Progress, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        assert _run(progress, lambda: (threading.current_thread(), progress.runs_here())) == (
            threading.current_thread(),
            True,
        )
        assert not progress.runs_here()


class TestAPhase:
    def test_is_there_with_its_age_and_its_step(self, progress: Progress) -> None:
        assert progress.phase() is None
        progress.enter("prepare")
        gate = Gate()
        running = Running(lambda: _run(progress, gate))
        gate.reached()
        phase = progress.phase()
        gate.open()
        running.result()
        progress.enter(None)
        assert phase is not None
        assert phase.step is not None
        assert (phase.name, phase.step.what, phase.step.provider) == ("prepare", "the step", "a")
        assert phase.age_seconds >= phase.step.age_seconds >= 0
        assert "fakes.py:" in str(phase), "the line where it stands"
        assert progress.phase() is None


class TestWhatHangs:
    def test_is_given_up_and_named_until_it_comes_back(self) -> None:
        returned = threading.Event()
        late: list[str] = []
        progress = Progress(returned.set)
        gate = Gate()

        def step() -> str:
            gate()
            return "too late"

        with pytest.raises(OverdueError, match=r"not come back after 0\.01 s"):
            progress.run("the step", "a", step, 0.01, late.append)
        (hanging,) = progress.hanging()
        assert (hanging.what, hanging.provider) == ("the step", "a")
        assert hanging.at is not None
        assert progress.hanging_since() is not None
        assert not late
        gate.open()
        assert returned.wait(PATIENCE_SECONDS)
        assert (late, progress.hanging(), progress.hanging_since()) == (["too late"], (), None)

    def test_does_not_hold_up_the_next_step(self, progress: Progress) -> None:
        gate = Gate()
        with pytest.raises(OverdueError):
            _run(progress, gate, 0.01)
        assert _run(progress, lambda: 7) == 7
        gate.open()
        until(lambda: not progress.hanging())

    def test_may_fail_in_the_end_and_so_may_closing_what_came_of_it(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate, returned = Gate(), threading.Event()
        progress = Progress(returned.set)

        def fail(_: object = None) -> None:
            raise RuntimeError("no")

        with pytest.raises(OverdueError):
            progress.run("the step", "a", gate, 0.01, fail)
        gate.open()
        assert returned.wait(PATIENCE_SECONDS)
        assert "could not be closed" in caplog.text

    def test_too_much_of_it_and_nothing_foreign_is_called_any_more(self, progress: Progress) -> None:
        gates = [Gate() for _ in range(module._MOST_HANGING)]
        for gate in gates:
            with pytest.raises(OverdueError):
                _run(progress, gate, 0.01)
        with pytest.raises(OverdueError, match="8 earlier calls still hang"):
            _run(progress, lambda: pytest.fail("it is called"))
        assert progress.run("closing", "a", lambda: 7, PATIENCE_SECONDS, has_to_be=True) == 7
        gates[0].open()
        until(lambda: len(progress.hanging()) < len(gates))
        assert _run(progress, lambda: 7) == 7
        for gate in gates[1:]:
            gate.open()
        until(lambda: not progress.hanging())
