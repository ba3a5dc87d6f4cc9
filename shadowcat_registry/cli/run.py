"""`run`: a process that follows a manifest, and prints every event as a line."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from types import FrameType
from typing import Final

import click

from ..control_socket import IS_SUPPORTED
from ..errors import ManifestError, ManifestNotFoundError, RuntimeClosedError
from ..events import Event
from ..last_good import LastGood, NothingKeptError
from ..metadata import format_time
from ..notify import ServiceNotifier
from ..runtime import Runtime
from .options import json_option, manifest_options
from .output import answers_only, fail, moment, say_event

_RELOAD: Final = getattr(signal, "SIGHUP", None)  # Windows has none
_INSISTING_SECONDS: Final = 1.0
"""A second Ctrl-C after this ends what does not want to end."""


class _Todo:
    """What signals and events ask of the main thread.

    A signal may reach any thread of the process, and then wakes no other: a main thread that waits for a
    lock would sleep on. What wakes it is the byte that the interpreter writes to a socket for each.
    """

    def __init__(self) -> None:
        self._numbers: SimpleQueue[int | None] = SimpleQueue()  # its put() may be called in a handler
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._previous = -1

    def listen(self) -> None:
        """Of the main thread, before there are handlers."""
        self._previous = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)

    def put(self, number: int | None) -> None:
        """From a handler or any thread; None: there is nothing to run for any more."""
        self._numbers.put(number)
        with suppress(OSError):  # it is full of bytes, each of which wakes
            self._sender.send(b"\0")

    def get(self) -> int | None:
        while True:
            with suppress(Empty):
                return self._numbers.get_nowait()
            self._receiver.recv(
                4096
            )  # a handler runs a moment after the interpreter's byte, and adds its own

    def close(self) -> None:
        signal.set_wakeup_fd(self._previous)
        self._receiver.close()
        self._sender.close()


@click.command()
@manifest_options(positional=True)
@json_option
@click.option(
    "--use-last-good",
    is_flag=True,
    help="Where the manifest cannot be used at the start, begin with the last good one, as degraded.",
)
@click.pass_context
def command(context: click.Context, manifest: Path, as_json: bool, use_last_good: bool) -> None:
    """Load the manifest, follow it, and print what happens.

    Reloads at once on SIGHUP. Ends on SIGINT or SIGTERM, with every storage closed and exit code 0. A
    manifest that is wrong at the start ends it with all findings and exit code 1; later, the last good one
    stays in force. Where systemd wants to know (NOTIFY_SOCKET), it is told how things stand.
    """
    # These lines say what the events say.
    logging.getLogger("shadowcat_registry.events").setLevel(logging.CRITICAL)
    todo = _Todo()
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
            say_event(event, as_json=as_json)
        except OSError:  # whoever read this has left: there is nothing to run for
            exit_code = 1
            todo.put(None)

    todo.listen()
    numbers = [signal.SIGINT, signal.SIGTERM] + ([_RELOAD] if _RELOAD is not None else [])
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    runtime = Runtime(manifest, control=IS_SUPPORTED, last_good="use" if use_last_good else "keep")
    runtime.subscribe(show)
    notifier = ServiceNotifier(runtime)
    try:
        # That it was told to end before it had begun is no error.
        with suppress(RuntimeClosedError), answers_only(), closing(runtime), closing(notifier):
            with _ending_a_start(runtime, todo):
                _start(runtime, says_last_good=not use_last_good)
            notifier.start()
            while True:
                number = todo.get()
                if number is None or number != _RELOAD:
                    break
                notifier.reload()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        todo.close()
    context.exit(exit_code)


@contextmanager
def _ending_a_start(runtime: Runtime, todo: _Todo) -> Iterator[None]:
    """Who tells it to end while it starts need not wait for what a start waits for."""
    has_started = 0  # no signal has this number

    def look() -> None:
        later: list[int | None] = []
        while (number := todo.get()) != has_started:
            later.append(number)
            if number != _RELOAD:
                runtime.close()
        for number in later:
            todo.put(number)

    looking = Thread(target=look, name="shadowcat-start", daemon=True)
    looking.start()
    try:
        yield
    finally:
        todo.put(has_started)
        looking.join()


def _start(runtime: Runtime, *, says_last_good: bool) -> None:
    """Where it cannot, but could have from what was kept, that is said."""
    try:
        runtime.start()
    except (ManifestError, ManifestNotFoundError):
        if says_last_good and runtime.path is not None:
            with suppress(NothingKeptError):
                at = moment(format_time(LastGood(runtime.path).read().at))
                fail(f"`run --use-last-good` would start from the manifest that was good at {at}")
        raise
