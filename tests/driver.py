"""A process that follows a manifest as `run --json` does, and can be mistreated from outside: SIGUSR1 kills
the threads that tell of file events, SIGUSR2 makes them deaf. On SIGTERM it says how its watch stands, and
ends. A program, for `followers`.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from shadowcat_registry.runtime import Runtime


def say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def mistreat(hints: Any, number: int) -> None:
    if number == signal.SIGUSR1:
        for emitter in hints._observer.emitters.copy():
            emitter.stop()
    else:
        hints._handler.dispatch = lambda _: None


def wait_for(asked: SimpleQueue[int]) -> int:
    while True:
        with suppress(Empty):  # a signal may come to another thread, which wakes nobody up
            return asked.get(timeout=0.5)


def main() -> None:
    asked: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: asked.put(received))
    with Runtime(sys.argv[1]) as runtime:
        runtime.subscribe(lambda event: say(event.as_json()))
        runtime.start()
        while (received := wait_for(asked)) != signal.SIGTERM:
            loop = runtime._watch._loop if runtime._watch is not None else None
            if loop is not None and loop.source._hints is not None:
                mistreat(loop.source._hints, received)
        status = runtime.status()
        assert status.watch is not None
        say({"event": "status", "digest": status.digest} | status.watch.as_json())


if __name__ == "__main__":
    main()
