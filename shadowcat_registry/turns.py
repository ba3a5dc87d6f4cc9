"""Whose turn it is to do something for all who wait for it: one does it, the others share it, and the turn is
never lost.

A signal's handler may raise wherever Python looks for it. A turn is known by a list that each caller brings
along, so that whoever was struck can tell whether the turn is still his, and passes it on. Knows nobody.
"""

from __future__ import annotations

import threading


class Waiter:
    """Somebody who came while somebody else had the turn."""

    __slots__ = ("failure", "is_woken", "mine", "turn")

    def __init__(self, mine: list[Waiter]) -> None:
        self.mine = mine
        self.turn = threading.Lock()
        self.turn.acquire()
        self.is_woken = False
        self.failure: OSError | None = None
        """For whoever passes the turn on, to say so to those who shared it."""

    def wait(self) -> None:
        self.turn.acquire()

    def wake(self) -> None:
        if not self.is_woken:
            self.is_woken = True
            self.turn.release()


class Turns:
    """What says "locked" is called under `lock`. Who is interrupted in any of it calls `leave`."""

    __slots__ = ("lock", "owner", "waiting")

    def __init__(self) -> None:
        # Guards the two below, and what users guard with it. Nothing is waited for under it.
        self.lock = threading.Lock()
        self.owner: list[Waiter] | None = None
        """Of the turn that is taken: those who share it."""
        self.waiting: list[Waiter] = []

    def take(self, mine: list[Waiter]) -> Waiter | None:
        """Locked: the turn, which is passed on by `pass_on`; or what to wait with until somebody wakes us:
        then the turn is ours if `owner` is `mine`, and otherwise was shared."""
        if self.owner is None:
            self.owner = mine
            return None
        waiter = Waiter(mine)
        self.waiting.append(waiter)
        return waiter

    def share(self, mine: list[Waiter]) -> None:
        """Locked: with all who wait until now."""
        mine += self.waiting
        self.waiting = []

    def pass_on(self, mine: list[Waiter]) -> None:
        """Locked: those who shared it are done, and the first who waits is the next. Until the last line
        the turn is that of whoever is interrupted in this."""
        for waiter in mine:
            waiter.wake()
        waiting = self.waiting
        if waiting:
            heir = waiting[0]
            self.waiting = waiting[1:]
            self.owner = heir.mine
            heir.is_woken = True
            heir.turn.release()
        else:
            self.owner = None

    def leave(self, mine: list[Waiter]) -> None:
        """Not locked: nobody waits for this one any more. Those who shared a turn that came to nothing wait
        for the next."""
        with self.lock:
            self.waiting = [one for one in self.waiting if one.mine is not mine]
            if self.owner is mine:
                self.waiting = [one for one in mine if not one.is_woken] + self.waiting
                self.pass_on([])
