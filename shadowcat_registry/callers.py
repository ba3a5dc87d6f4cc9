"""Who acquires something: the line of a program outside of this package, and the thread.

Knows nothing that can be acquired.
"""

from __future__ import annotations

import sys
import threading
import warnings
from types import CodeType, FrameType
from typing import Final, TypeAlias

Caller: TypeAlias = tuple[CodeType | str, int, threading.Thread]
"""Who acquires something: code and the offset in its instructions, or just words; and the thread. Cheap
to take; it becomes a text when somebody asks."""

_OURS: Final = f"{__package__}."
_OUTSIDE: Final = f"{__package__}.cli."


class _Here(threading.local):
    """A quicker `current_thread()`."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()


_here: Final = _Here()


def find_caller() -> Caller:
    """The nearest frame outside of this package (its command line counts as outside) that has called whoever
    calls this."""
    try:
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - inspect.stack() reads source files, 1,000 × slower
    except ValueError:  # the interpreter itself has called it, as the work of a thread may be
        frame = None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_OURS) or module.startswith(_OUTSIDE):
            return frame.f_code, frame.f_lasti, _here.thread
        frame = frame.f_back
    return caller("unknown")


def caller(words: str) -> Caller:
    """This thread, at a place that is no line of a program."""
    return words, 0, _here.thread


def place_of(who: Caller) -> tuple[str, int]:
    """File and line; line 0: the first is all there is to say."""
    code, offset, _ = who
    return (code, 0) if isinstance(code, str) else (code.co_filename, _line_of(code, offset))


class UnclosedWarning:
    """Warns when it dies, as an unclosed file does: where warnings are errors, the interpreter reports this
    one by `sys.unraisablehook`, and the operation that happened to come by does not fail."""

    def __init__(self, text: str, who: Caller) -> None:
        """`text` is about what `who` acquired and did not close, and goes on with where that was."""
        self._text = text
        self._who = who

    def __del__(self) -> None:
        file, line = place_of(self._who)
        at = f"{file}:{line}" if line else file
        text = f"{self._text} at {at} in thread {self._who[2].name}"
        warnings.warn_explicit(text, ResourceWarning, file, max(line, 1))


def _line_of(code: CodeType, offset: int) -> int:
    lines = (line for start, end, line in code.co_lines() if start <= offset < end and line is not None)
    return next(lines, code.co_firstlineno)
