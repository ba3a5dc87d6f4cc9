"""`run`: a process that follows a manifest, and prints every event as a line."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from types import FrameType
from typing import Final

import click

from ..control_socket import IS_SUPPORTED
from ..events import Event
from ..notify import ServiceNotifier
from ..runtime import Runtime
from .options import json_option, manifest_options
from .output import printable, say, say_json

_RELOAD: Final = getattr(signal, "SIGHUP", None)  # Windows has none
# Waiting for a queue cannot be interrupted by Ctrl-C on Windows, and nowhere by a signal that comes just
# before the wait begins, or to another thread: its handler runs when the main thread looks up.
_LOOK_UP_SECONDS: Final = 0.5
_INSISTING_SECONDS: Final = 1.0
"""A second Ctrl-C after this ends what does not want to end."""


@click.command()
@manifest_options(positional=True)
@json_option
@click.pass_context
def command(context: click.Context, manifest: Path, as_json: bool) -> None:
    """Load the manifest, follow it, and print what happens.

    Reloads at once on SIGHUP. Ends on SIGINT or SIGTERM, with every storage closed and exit code 0. A
    manifest that is wrong at the start ends it with all findings and exit code 1; later, the last good one
    stays in force. Where systemd wants to know (NOTIFY_SOCKET), it is told how things stand.
    """
    # These lines say what the events say.
    logging.getLogger("shadowcat_registry.events").setLevel(logging.CRITICAL)
    todo: SimpleQueue[int | None] = SimpleQueue()  # its put() may be called from a signal handler
    exit_code = 0
    ending_since: float | None = None

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
        nonlocal ending_since
        if number != _RELOAD:
            # Raising here may break whatever is running, so once is only noted, also during the start. A
            # supervisor and a terminal may both tell us at once; a person who insists does so later.
            if ending_since is not None and monotonic() - ending_since > _INSISTING_SECONDS:
                raise KeyboardInterrupt
            ending_since = ending_since or monotonic()
        todo.put(number)

    def show(event: Event) -> None:
        nonlocal exit_code
        try:
            if as_json:
                say_json(event.as_json(), line=True)
            else:
                lines = [printable(line) for line in str(event).split("\n")]
                say(f"{event.at.astimezone():%H:%M:%S}  " + "\n".join(lines))
        except OSError:  # whoever read this has left: there is nothing to run for
            exit_code = 1
            todo.put(None)

    numbers = [signal.SIGINT, signal.SIGTERM] + ([_RELOAD] if _RELOAD is not None else [])
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    runtime = Runtime(manifest, control=IS_SUPPORTED)
    runtime.subscribe(show)
    notifier = ServiceNotifier(runtime)
    try:
        runtime.start()
        notifier.start()
        while True:
            try:
                number = todo.get(timeout=_LOOK_UP_SECONDS)
            except Empty:
                continue
            if number is None or number != _RELOAD:
                break
            notifier.reload()
    finally:
        try:
            notifier.close()
            runtime.close()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    context.exit(exit_code)
