"""Calls back before each bytecode instruction of some files, in the threads that asked for it.

Up to Python 3.11 by `sys.settrace`. From 3.12 on that misses instructions of functions which it meets for
the first time, so that one number would not always mean one schedule; `sys.monitoring` misses none.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType
from typing import Any, Final

if sys.version_info >= (3, 12):
    _TOOL: Final = 4  # 0 to 2 and 5 are spoken for
    _EVENT: Final = sys.monitoring.events.INSTRUCTION
    _this_thread = threading.local()

    @contextmanager
    def each_instruction(files: Collection[str]) -> Iterator[None]:
        """Within the block, `reporting` works for the functions of these files that exist by now."""
        functions = [one for one in gc.get_objects() if isinstance(one, FunctionType)]
        codes = [f.__code__ for f in functions if f.__code__.co_filename in files]
        for code in codes:
            codes += [const for const in code.co_consts if isinstance(const, CodeType)]
        sys.monitoring.use_tool_id(_TOOL, __name__)
        try:
            sys.monitoring.register_callback(_TOOL, _EVENT, _on_instruction)
            for code in codes:
                sys.monitoring.set_local_events(_TOOL, code, _EVENT)
            yield
        finally:
            for code in codes:
                sys.monitoring.set_local_events(_TOOL, code, 0)
            sys.monitoring.register_callback(_TOOL, _EVENT, None)
            sys.monitoring.free_tool_id(_TOOL)

    def _on_instruction(_code: CodeType, _offset: int) -> None:
        step = getattr(_this_thread, "step", None)
        if step is not None:
            step()

    @contextmanager
    def reporting(_files: Collection[str], step: Callable[[], None]) -> Iterator[None]:
        """Within the block, `step` is called before each instruction of this thread in these files. What
        it raises is raised there."""
        _this_thread.step = step
        try:
            yield
        finally:
            _this_thread.step = None

else:

    @contextmanager
    def each_instruction(_files: Collection[str]) -> Iterator[None]:
        """Within the block, `reporting` works for the functions of these files that exist by now."""
        yield

    @contextmanager
    def reporting(files: Collection[str], step: Callable[[], None]) -> Iterator[None]:
        """Within the block, `step` is called before each instruction of this thread in these files. What
        it raises is raised there."""

        def in_function(_frame: FrameType, event: str, _argument: object) -> Any:
            if event == "opcode":
                step()
            return in_function

        def at_call(frame: FrameType, _event: str, _argument: object) -> Any:
            if frame.f_code.co_filename not in files:
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return in_function

        sys.settrace(at_call)
        try:
            yield
        finally:
            sys.settrace(None)
