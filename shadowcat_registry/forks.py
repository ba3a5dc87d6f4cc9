"""What a forked child puts right before anything else runs in it: locks that no living thread holds.

Knows nobody: each object that has locks, or holds what is the parent's, says here how it starts anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

_objects: Final[WeakKeyDictionary[Any, Callable[[Any], None]]] = WeakKeyDictionary()
_modules: Final[list[Callable[[], None]]] = []
_kept: Final[list[object]] = []


def in_child(owner: Any, start_anew: Callable[[Any], None]) -> None:
    """Call `start_anew(owner)` in every child that is forked while `owner` lives. It runs in the only
    thread of the child and may find `owner` in the middle of a change; it takes no inherited lock."""
    _objects[owner] = start_anew


def owners() -> list[Any]:
    """Whoever would be called."""
    return list(_objects)


def module_in_child(start_anew: Callable[[], None]) -> None:
    """The same for what a module holds."""
    _modules.append(start_anew)


def keep(inherited: object) -> None:
    """Never let go of what is the parent's: a finalizer might flush, unlock or close it."""
    _kept.append(inherited)


def _start_anew() -> None:
    for start_module in _modules:
        start_module()
    for owner, start_object in list(_objects.items()):
        start_object(owner)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_start_anew)
