"""What a forked child puts right before anything else runs in it: locks that no living thread holds.

Knows nobody: each object that has locks, or holds what is the parent's, says here how it starts anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

_objects: Final[WeakKeyDictionary[Any, Callable[[Any], None]]] = WeakKeyDictionary()
_around: Final[WeakKeyDictionary[Any, tuple[Callable[[Any], None], Callable[[Any], None]]]] = (
    WeakKeyDictionary()
)
_waiting: Final[list[Any]] = []
_modules: Final[list[Callable[[], None]]] = []
_kept: Final[list[object]] = []


def in_child(owner: Any, start_anew: Callable[[Any], None]) -> None:
    """Call `start_anew(owner)` in every child that is forked while `owner` lives. It runs in the only
    thread of the child and may find `owner` in the middle of a change; it takes no inherited lock."""
    _objects[owner] = start_anew


def owners() -> list[Any]:
    """Whoever would be called."""
    return list(_objects)


def around(owner: Any, before: Callable[[Any], None], in_parent: Callable[[Any], None]) -> None:
    """Call `before(owner)` in the thread that is about to fork, and `in_parent(owner)` in the parent
    afterwards: for what a child must not inherit at all. It may wait for other threads, but not long."""
    _around[owner] = before, in_parent


def module_in_child(start_anew: Callable[[], None]) -> None:
    """The same for what a module holds."""
    _modules.append(start_anew)


def keep(inherited: object) -> None:
    """Never let go of what is the parent's: a finalizer might flush, unlock or close it."""
    _kept.append(inherited)


def _before() -> None:
    for owner, (before, _) in list(_around.items()):
        _waiting.append(owner)
        before(owner)


def _in_parent() -> None:
    while _waiting:
        owner = _waiting.pop()
        _around[owner][1](owner)


def _start_anew() -> None:
    _waiting.clear()
    for start_module in _modules:
        start_module()
    for owner, start_object in list(_objects.items()):
        start_object(owner)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_start_anew)
