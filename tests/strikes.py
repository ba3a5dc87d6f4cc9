"""A signal's handler that raises, at the place that a test has chosen."""

from __future__ import annotations

import dis
import sys
from functools import cache
from types import CodeType
from typing import Final

HANDED_OVER: Final = {"made"}
"""What a factory has made is nobody's until it is stored under this name. Behind a call of a function that
is written in Python no handler runs; where a factory is written in C, that one moment cannot be closed."""


class Interrupt(BaseException):
    pass


@cache
def _points(code: CodeType) -> frozenset[int]:
    """The instructions before which a signal's handler may run."""
    found: set[int] = set()
    looks = False
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("CACHE", "PRECALL"):
            continue
        if looks and not (instruction.opname.startswith("STORE") and instruction.argval in HANDED_OVER):
            found.add(instruction.offset)
        looks = instruction.opname.startswith(("CALL", "JUMP_BACKWARD", "RESUME"))
    return frozenset(found)


class Strike:
    """Raises at the `number`-th point that this thread comes to; counts them."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.where: str | None = None

    def step(self) -> None:
        frame = sys._getframe(2)  # whose instruction comes next
        if self.where is not None or frame.f_code.co_name == "__del__":
            return
        if frame.f_lasti in _points(frame.f_code):
            self.left -= 1
            if self.left < 0:
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                raise Interrupt
