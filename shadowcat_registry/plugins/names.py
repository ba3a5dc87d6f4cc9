"""What a plugin may be called: it is the name of a module, and must not pass for another.

Knows words, no files.
"""

from __future__ import annotations

import re
import sys
from keyword import iskeyword
from typing import Final

NAME_PATTERN: Final = r"[a-z][a-z0-9_]{0,62}"
_name: Final = re.compile(NAME_PATTERN)
_foreign: Final = re.compile(r"[^a-z0-9_]+")
_MAX_SHOWN: Final = 80


def fault(name: str) -> str | None:
    """Why `name` cannot name a plugin; None where it can.

    It matches `[a-z][a-z0-9_]{0,62}`, is no keyword and no module of the standard library of this Python.
    Soft keywords (`match`, `type`) are fine: a module may have such a name, and each Python has more of them.
    """
    if _name.fullmatch(name) is None:
        shown = name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "…"
        return f"{shown!r} cannot name a plugin: use 1 to 63 of a-z, 0-9 and '_', with a letter first"
    if iskeyword(name):
        return f"{name!r} cannot name a plugin: it is a keyword of Python"
    if name in sys.stdlib_module_names:
        return f"{name!r} cannot name a plugin: it is a module of the standard library"
    return None


def suggestion(name: str) -> str:
    """A name like this one that has no fault."""
    words = _foreign.sub("_", name.lower()).strip("_")[:56].rstrip("_")
    if not words:
        return "plugin"
    if not words[0].isalpha():
        return f"plugin_{words}"
    return words if fault(words) is None else f"{words}_plugin"
