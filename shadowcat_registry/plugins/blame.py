"""From an exception that comes out of a plugin to the one line that an operator is shown.

That is the plugin's own line and the kind of error. Its text is shown only where Python or this package has
written it: one of the plugin's may hold what it read from its environment. The whole exception is the cause.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from opcode import opmap
from traceback import walk_tb
from typing import Final

from ..errors import RegistryError
from . import decorator

_MAX_CHARACTERS: Final = 200
# What the interpreter says of the code, with names out of the code in it. Exactly these types: a class of the
# plugin's may have a text of its own.
_TELLING: Final = (
    SyntaxError,
    IndentationError,
    TabError,
    ImportError,
    ModuleNotFoundError,
    NameError,
    UnboundLocalError,
    AttributeError,
    TypeError,
    RecursionError,
)

Shown = Callable[[str], str | None]
"""A file name, as code objects have it → as it is shown to people; None: it is none of the plugin's."""
Blame = Callable[[BaseException], str]
"""An exception → `glacier.py:12: ValueError`."""


def line_of(error: BaseException, shown: Shown) -> str:
    """The innermost line of the plugin's, and what happened there."""
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        if (file := shown(frame.f_code.co_filename)) is not None:
            place = f"{file}:{line}: "  # the innermost is the last
    if isinstance(error, SyntaxError) and (file := shown(error.filename or "")) is not None:
        place = f"{file}:{error.lineno}: "
    text = _text_of(error)
    if len(text) > _MAX_CHARACTERS:
        text = text[:_MAX_CHARACTERS] + "…"
    return f"{place}{type(error).__name__}" + (f": {text}" if text else "")


def advice(plugin: str, error: BaseException) -> str | None:
    """What to do about what authors get wrong first."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == plugin:
        return "import the plugin's own modules relatively: from . import …"
    if _is_of_environment(error):
        return "read the environment in `create`: when a plugin is imported, a probe has none to show it"
    return None


def _text_of(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return error.msg
    if type(error) in _TELLING:
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename is not None else "")
    is_ours = type(error).__module__ == RegistryError.__module__ or _raised_in(error) == decorator.__name__
    return str(error) if is_ours or _is_of_environment(error) else ""


def _is_of_environment(error: BaseException) -> bool:
    """Whether it is that of `os.environ[…]`; its text is the name of what is missing."""
    return type(error) is KeyError and _raised_in(error) == "os"


def _raised_in(error: BaseException) -> str:
    """The module whose code has raised it."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


def is_interrupt(error: BaseException) -> bool:
    """Whether this is a Ctrl-C of the user, which goes on, and not an exception of the plugin's.

    Only the main thread is ever interrupted. There, a signal strikes between two instructions, and a
    `raise` statement is one: what it raised is the plugin's own doing.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    frame, at = None, -1
    trace = error.__traceback__
    while trace is not None:
        frame, at, trace = trace.tb_frame, trace.tb_lasti, trace.tb_next
    return frame is None or frame.f_code.co_code[at] != opmap["RAISE_VARARGS"]
