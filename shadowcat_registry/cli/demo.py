"""`demo`: the promise on one screen, kept by the public API and the real watcher in a scratch directory."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import click

import shadowcat_registry as sr

from .options import logging_options
from .output import printable, say

_PATIENCE_SECONDS: Final = 10.0
_SOME_FRAMES: Final = 100
_PAUSE_SECONDS: Final = 0.001
"""Between two frames: about what a busy MCP session does."""

_FIRST: Final = """\
version: 1
defaults:
  provider: filesystem
providers:
  filesystem:
    type: filesystem
    config: {directory: ./tapes}
"""
_ADDED: Final = """\
  archive:
    type: filesystem
    config: {directory: ./archive}
"""
_MOVED: Final = "version: 1\ndefaults:\n  provider: archive\nproviders:\n" + _ADDED


class _DemoError(Exception):
    """The promise was not kept, or not in time."""


class _Session(threading.Thread):
    """An MCP session that is being recorded: a client that calls tools, a server that answers."""

    def __init__(self, storage: sr.TapeStorage) -> None:
        super().__init__(name="recorder")
        self._storage = storage
        self._stop_asked = threading.Event()
        self.tape_id = ""
        self.acknowledged = 0
        self.sent = sha256()
        self.error: Exception | None = None
        self._written = threading.Condition()  # guards the number and the error; nothing is called under it

    def run(self) -> None:
        try:
            with self._storage, self._storage.record(session_id="demo", name="demo") as tape:
                self.tape_id = tape.tape_id
                for direction, message in _conversation():
                    tape.append(direction, message)
                    self.sent.update(message)
                    with self._written:
                        self.acknowledged += 1
                        self._written.notify_all()
                    if self._stop_asked.wait(_PAUSE_SECONDS):
                        break
        except Exception as error:  # noqa: BLE001 - shown by whoever waits for the session
            with self._written:
                self.error = error
                self._written.notify_all()

    def go_on(self) -> int:
        """Wait until it has written some more; the number of frames by then."""
        target = self.acknowledged + _SOME_FRAMES
        with self._written:
            if not self._written.wait_for(
                lambda: self.acknowledged >= target or self.error, _PATIENCE_SECONDS
            ):
                raise _DemoError("the recorder does not go on")
        return self.acknowledged

    def finish(self) -> None:
        self._stop_asked.set()
        self.join()
        if self.error is not None:
            raise _DemoError(f"the recorder failed: {self.error}")


def _conversation() -> Iterator[tuple[sr.Direction, bytes]]:
    yield (
        "client_to_server",
        (
            b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
            b'"capabilities":{},"clientInfo":{"name":"demo","version":"1"}}}'
        ),
    )
    yield (
        "server_to_client",
        (
            b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},'
            b'"serverInfo":{"name":"demo-server","version":"1"}}}'
        ),
    )
    yield "client_to_server", b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    for number in count(1):
        yield (
            "client_to_server",
            (
                b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"add","arguments":{"a":%d,"b":1}}}'
                % (number, number)
            ),
        )
        yield (
            "server_to_client",
            (
                b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%d"}]}}'
                % (number, number + 1)
            ),
        )


class _Stage:
    """The manifest in its scratch directory, the runtime that follows it, and what is said about both."""

    def __init__(self, manifest: Path, runtime: sr.Runtime) -> None:
        self._manifest = manifest
        self._runtime = runtime
        self._events: SimpleQueue[sr.Event] = SimpleQueue()
        self._step = count(1)
        runtime.subscribe(self._events.put)

    def tell(self, text: str) -> None:
        say()
        say(click.style(f"{next(self._step)}. {text}", bold=True))

    def save(self, text: str) -> None:
        """As a careful editor saves: a new file takes the name."""
        draft = self._manifest.with_name("registry.yaml.new")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, self._manifest)  # noqa: PTH105 - the word that operators know

    def expect(self, name: str) -> sr.Event:
        """Wait for the next event, show it, and insist that it is this one."""
        try:
            event = self._events.get(timeout=_PATIENCE_SECONDS)
        except Empty:
            raise _DemoError(f"no event {name!r} in {_PATIENCE_SECONDS:g} s") from None
        color = {"rejected": "red", "committed": "green", "recovered": "green"}.get(event.event, "cyan")
        shown = str(event).replace(f"{self._manifest.parent}{os.sep}", "")
        for line in shown.split("\n"):
            say("   " + click.style(printable(line), fg=color))
        if event.event != name:
            raise _DemoError(f"the event was {event.event!r}, not {name!r}")
        return event

    def show_frames(self, session: _Session) -> None:
        say(f"   the recorder has written {session.go_on()} frames, and goes on")


def _play(manifest: Path) -> str:
    """The whole demonstration; returns the proof."""
    manifest.write_text(_FIRST, encoding="utf-8")
    with sr.open_registry(manifest) as runtime:
        registry = runtime.registry
        stage = _Stage(manifest, runtime)
        stage.tell("A manifest declares one storage. A recorder starts on it.")
        say("".join(f"   | {line}\n" for line in _FIRST.splitlines()).rstrip())
        session = _Session(registry.get_default_storage())
        session.start()
        try:
            stage.show_frames(session)

            stage.tell("While it records, a second storage is added to the file.")
            stage.save(_FIRST + _ADDED)
            stage.expect("committed")
            stage.show_frames(session)

            stage.tell("Somebody breaks the file. What runs stays as it is.")
            stage.save(_FIRST + _ADDED.replace("directory", "directry"))
            stage.expect("rejected")
            stage.show_frames(session)

            stage.tell("It is mended.")
            stage.save(_FIRST + _ADDED)
            stage.expect("recovered")

            stage.tell("The storage in use is removed from the file; the other one is the default now.")
            stage.save(_MOVED)
            event = stage.expect("committed")
            if event.retiring != ("filesystem",):
                raise _DemoError("the storage in use was not kept")
            for holder in runtime.status().holders["filesystem"]:
                say(f"   filesystem is held by {printable(holder)}")
            try:
                registry.open_storage("filesystem").close()
            except sr.ProviderRetiringError as refusal:
                say(f"   a new recorder that asks for it is told: {refusal}")
            stage.show_frames(session)
        finally:
            session.finish()

        stage.tell("The recorder ends. Now the storage leaves.")
        stage.expect("retired")

        stage.tell("Its tape is still there: declared again, it is read back.")
        stage.save(_FIRST + _ADDED)
        stage.expect("committed")
        with registry.open_storage("filesystem") as storage:
            received, frames = _read_back(storage, session.tape_id)
        if frames != session.acknowledged or received != session.sent.hexdigest():
            raise _DemoError(f"{session.acknowledged} frames were acknowledged, {frames} were read back")
        return (
            f"{frames} frames acknowledged, {frames} read back, in order and byte for byte the same "
            f"(SHA-256 {received[:16]}…), over {runtime.status().generation} generations. No frame was lost."
        )


def _read_back(storage: sr.TapeStorage, tape_id: str) -> tuple[str, int]:
    """The digest of all messages, cut out of their lines as they stand there, and their number."""
    digest, expected = sha256(), 0
    for line in storage.read(tape_id):
        record = json.loads(line)
        if record["type"] != "frame":
            continue
        if record["seq"] != expected:
            raise _DemoError(f"frame {expected} is missing")
        expected += 1
        start = line.index(b'"message":') + len(b'"message":')
        digest.update(line[start : line.rindex(b',"direction":')])
    return digest.hexdigest(), expected


@click.command()
@logging_options
@click.pass_context
def command(context: click.Context) -> None:
    """The promise on one screen: record, edit the manifest underneath, lose nothing.

    Works in a scratch directory that is removed at the end. Exit code: 0 kept, 1 not.
    """
    # The events are shown in their place; the log would only say them twice.
    logging.getLogger("shadowcat_registry.events").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="shadowcat-demo-") as scratch:
        try:
            proof = _play(Path(scratch, "registry.yaml"))
        except _DemoError as error:
            say()
            say(click.style(f"Not kept: {error}", fg="red", bold=True))
            context.exit(1)
    say()
    say(click.style(proof, fg="green", bold=True))
