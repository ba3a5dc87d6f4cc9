"""A running process, for whoever operates it: answers on a Unix domain socket of its own.

Every request has a thread of its own and a bounded time for coming in and going out; a stream of events has
a bounded queue; so no client holds up a reload, another client, or the end of the process. What is asked
and answered is in `control_requests`, where the socket is in `control_socket`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

from . import forks
from .control_requests import Controlled, RequestHandler
from .control_socket import listen
from .event_feed import EventFeed

_MOST_CONNECTIONS: Final = 32
"""More than there are streams: a crowd that follows the events leaves room for who asks."""
_REST_SECONDS: Final = 0.5
_LAST_SECONDS: Final = 0.5
"""What who is cut off has for noticing it."""

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Connection:
    """One client, from `accept` on."""

    socket: socket.socket
    thread: threading.Thread | None = None
    is_reading: bool = True
    """It has not said yet what it wants: the first to go where there are too many."""

    def has_asked(self) -> None:
        self.is_reading = False

    def shut(self) -> None:
        """Whoever waits for it, waits no longer."""
        with suppress(OSError):  # it has gone already
            self.socket.shutdown(socket.SHUT_RDWR)


class ControlServer:
    """Answers for `runtime` from `start` to `stop`. In a forked child it does nothing, and leaves the
    socket and its file to the parent."""

    def __init__(self, runtime: Controlled, manifest: Path) -> None:
        self._runtime = runtime
        self._manifest = manifest
        self.path: Path | None = None
        """Where it listens, while it does."""
        self._started_at = datetime.now(UTC)
        # Guards the fields below; nothing foreign is called under it, and nobody waits under it.
        self._lock = threading.Lock()
        self._connections: dict[_Connection, None] = {}
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._feed = EventFeed()
        self._cancel = runtime.subscribe(self._feed.note)
        forks.in_child(self, ControlServer._start_anew)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Raises: OSError: there is no place for a socket. RuntimeError: there is no thread to be had."""
        listener, path = listen(self._manifest)
        thread = threading.Thread(
            target=self._accept, args=(listener,), name="shadowcat-control", daemon=True
        )
        with self._lock:
            is_over = self._is_over
            if not is_over:
                self._listener, self.path, self._thread = listener, path, thread
        if not is_over:
            try:
                thread.start()
            except BaseException:
                self.stop(0)
                listener.close()
                raise
            return
        listener.close()
        _remove(path)

    def stop(self, timeout_seconds: float) -> None:
        """End every stream, after what is queued for it, and every answer; leave no file. Idempotent."""
        deadline = monotonic() + timeout_seconds
        self._cancel()
        with self._lock:
            self._is_over = True
            listener, self._listener = self._listener, None
            path, self.path = self.path, None
            thread, self._thread = self._thread, None
            connections = list(self._connections)
        self._feed.end()
        if listener is not None and path is not None:
            _wake(listener, path)
            _remove(path)
        for connection in connections:
            if connection.is_reading:
                connection.shut()
        threads = [thread, *(connection.thread for connection in connections)]
        _join(threads, deadline)
        for connection in connections:  # those that still take what is meant for them take too long
            connection.shut()
        _join(threads, max(deadline, monotonic() + _LAST_SECONDS))

    def _start_anew(self) -> None:
        """In a forked child: close our copies, so that who is connected sees the end of the parent; remove
        nothing."""
        self._lock = threading.Lock()
        inherited = [self._listener, *(connection.socket for connection in tuple(self._connections))]
        self._listener, self.path, self._thread = None, None, None
        self._connections = {}
        self._is_over = True
        for one in inherited:
            if one is not None and (descriptor := one.detach()) >= 0:
                with suppress(OSError):
                    os.close(descriptor)

    # ------------------------------------------------------------------ connections

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while not self._is_over:
                try:
                    accepted, _ = listener.accept()
                except OSError as error:
                    if not self._is_over:  # out of descriptors: whoever waits is served when there are some
                        _logger.warning("the control socket cannot accept now: %s", error.strerror)
                        time.sleep(_REST_SECONDS)
                else:
                    self._admit(_Connection(accepted))

    def _admit(self, connection: _Connection) -> None:
        """Give it a thread; where there are too many, in the place of who has been silent for longest."""
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="shadowcat-control-client", daemon=True
        )
        with self._lock:
            has_room = len(self._connections) < _MOST_CONNECTIONS
            silent = None if has_room else next((it for it in self._connections if it.is_reading), None)
            is_admitted = not self._is_over and (has_room or silent is not None)
            if is_admitted:
                connection.thread = thread
                self._connections[connection] = None
            if silent is not None:
                del self._connections[silent]
        if silent is not None:
            silent.shut()
        if is_admitted:
            try:
                thread.start()
            except RuntimeError:  # there is none to be had
                self._end(connection)
        else:
            connection.socket.close()

    def _serve(self, connection: _Connection) -> None:
        try:
            RequestHandler(
                connection.socket, self._runtime, self._feed, self._started_at, connection.has_asked
            )
        except OSError:
            _logger.debug("a client of the control socket has left")
        finally:
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        connection.socket.close()
        with self._lock:
            self._connections.pop(connection, None)


def _wake(listener: socket.socket, path: Path) -> None:
    """Whoever waits in `accept` returns from it."""
    with suppress(OSError):  # enough on Linux, refused elsewhere
        listener.shutdown(socket.SHUT_RDWR)
    knock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with knock, suppress(OSError):
        knock.setblocking(False)
        knock.connect(str(path))


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _join(threads: Iterable[threading.Thread | None], deadline: float) -> None:
    for thread in threads:
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - monotonic()))
