"""A running process, for whoever operates it: HTTP over a Unix domain socket.

The HTTP is that of Python's own `http.server`: it needs no dependency, and what its documentation warns of
(it faces no hostile network) does not arise on a socket that only its user can connect to. Every request
has a thread of its own and a bounded time for coming in and going out; a stream of events has a bounded
queue; so no client holds up a reload, another client, or the end of the process.

    GET  /v1/status    how the runtime stands, and which process this is
    POST /v1/reload    202, it was asked for; ?wait=SECONDS: the outcome of a run that began after this
    GET  /v1/events    JSON lines: the recent events, then each as it happens, until the runtime is closed

An answer is a JSON object with `version`; one that is no success has `error`. Knows the runtime by what it
asks of it, and no command.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Full, Queue
from time import monotonic
from typing import Any, Final, Literal, Protocol, overload
from urllib.parse import parse_qs, urlsplit

from . import forks
from .control_socket import listen
from .errors import RegistryForkedError, RuntimeClosedError
from .events import WIRE_VERSION, Event, Subscriber
from .metadata import format_time

_MOST_CONNECTIONS: Final = 32
_MOST_FOLLOWERS: Final = 16
"""Of these: a crowd that follows the events leaves room for who asks."""
_PATIENCE_SECONDS: Final = 10.0
"""How long a client may say nothing, or take nothing, before it is left."""
_LONGEST_WAIT_SECONDS: Final = 600.0
_LONGEST_BODY_BYTES: Final = 64 * 1024
_RECENT_EVENTS: Final = 100
_QUEUED_EVENTS: Final = 1_000
"""Who is this far behind is left."""
_PULSE_SECONDS: Final = 5.0
"""An idle stream has an empty line this often: it tells either side whether the other is still there."""
_REST_SECONDS: Final = 0.5
_LAST_SECONDS: Final = 0.5
"""What who is cut off has for noticing it."""

_logger = logging.getLogger(__name__)


class _BadRequestError(Exception):
    """What a client asked cannot be meant."""


class Answer(Protocol):
    def as_json(self) -> dict[str, Any]: ...


class Controlled(Protocol):
    """What is asked of a runtime."""

    def status(self) -> Answer: ...
    @overload
    def reload(self, *, timeout_seconds: float | None = None) -> Answer: ...
    @overload
    def reload(self, *, wait: Literal[False]) -> None: ...
    def subscribe(self, subscriber: Subscriber, /) -> Callable[[], None]: ...


@dataclass(eq=False)
class _Connection:
    """One client, from `accept` on."""

    socket: socket.socket
    thread: threading.Thread | None = None
    is_reading: bool = True
    """It has not said yet what it wants: the first to go where there are too many."""

    def shut(self) -> None:
        """Whoever waits for it, waits no longer."""
        with suppress(OSError):  # it has gone already
            self.socket.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False)
class Follower:
    """One stream of events; None in it is its end."""

    queue: Queue[Event | None] = field(default_factory=lambda: Queue(_QUEUED_EVENTS))
    is_late: bool = False
    """It has missed one, and gets no more: a stream has no gaps."""

    def put(self, event: Event | None) -> None:
        """Locked: never waits."""
        if self.is_late:
            return
        try:
            self.queue.put_nowait(event)
        except Full:
            self.is_late = True


class ControlServer:
    """Answers for `runtime` from `start` to `stop`. In a forked child it does nothing, and leaves the
    socket and its file to the parent."""

    def __init__(self, runtime: Controlled, manifest: Path) -> None:
        self.runtime = runtime
        self.manifest = manifest
        self.path: Path | None = None
        """Where it listens, while it does."""
        self._started_at = datetime.now(UTC)
        # Guards the fields below; nothing foreign is called under it, and nobody waits under it.
        self._lock = threading.Lock()
        self._recent: deque[Event] = deque(maxlen=_RECENT_EVENTS)
        self._followers: set[Follower] = set()
        self._connections: dict[_Connection, None] = {}
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._cancel = runtime.subscribe(self._note)
        forks.in_child(self, ControlServer._start_anew)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Raises: OSError: there is no place for a socket. RuntimeError: there is no thread to be had."""
        listener, path = listen(self.manifest)
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
            for follower in self._followers:
                follower.put(None)
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
        self._followers, self._connections = set(), {}
        self._is_over = True
        for one in inherited:
            if one is not None and (descriptor := one.detach()) >= 0:
                with suppress(OSError):
                    os.close(descriptor)

    # ------------------------------------------------------------------ what is asked

    def about(self) -> dict[str, Any]:
        """Which process this is."""
        return {
            "pid": os.getpid(),
            "manifest": str(self.manifest),
            "started_at": format_time(self._started_at),
            "package_version": version("shadowcat-registry"),
        }

    def follow(self) -> tuple[list[Event], Follower] | None:
        """The recent events, and a stream that misses none after them; None: too many have one."""
        follower = Follower()
        with self._lock:
            if len(self._followers) >= _MOST_FOLLOWERS:
                return None
            recent = list(self._recent)
            if self._is_over:
                follower.put(None)
            self._followers.add(follower)
        return recent, follower

    def unfollow(self, follower: Follower) -> None:
        with self._lock:
            self._followers.discard(follower)

    def _note(self, event: Event) -> None:
        """In the thread that reloads: it never waits."""
        with self._lock:
            self._recent.append(event)
            for follower in self._followers:
                follower.put(event)

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
            _Handler(connection, self)
        except OSError:
            _logger.debug("a client of the control socket has left")
        finally:
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        connection.socket.close()
        with self._lock:
            self._connections.pop(connection, None)


class _Handler(BaseHTTPRequestHandler):
    """One request: each connection has one."""

    timeout = _PATIENCE_SECONDS
    server_version = "shadowcat-registry"
    sys_version = ""

    def __init__(self, connection: _Connection, control: ControlServer) -> None:
        self._connection, self._control = connection, control
        # What `http.server` does with its server is nothing at all, with the address of a client: log it.
        super().__init__(connection.socket, "local", control)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._act({"/v1/status": self._status, "/v1/events": self._events})

    def do_POST(self) -> None:
        self._act({"/v1/reload": self._reload})

    def _act(self, actions: Mapping[str, Callable[[Mapping[str, str]], None]]) -> None:
        address = urlsplit(self.path)
        action = actions.get(address.path)
        try:
            self._take_body()
            self._connection.is_reading = False
            if action is None:
                self.send_error(HTTPStatus.NOT_FOUND, "there is no such resource")
            else:
                action({name: values[-1] for name, values in parse_qs(address.query).items()})
        except _BadRequestError as error:
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
        except (RuntimeClosedError, RegistryForkedError) as error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except OSError:  # of the socket: there is nobody to tell
            raise
        except Exception as error:  # its text may hold anything, its type does not
            _logger.exception("an answer on the control socket failed")
            message = f"failed with {type(error).__name__}, see the log of the process"
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, message)

    # ------------------------------------------------------------------ the resources

    def _status(self, query: Mapping[str, str]) -> None:  # noqa: ARG002 - it takes none
        self._send(HTTPStatus.OK, self._control.runtime.status().as_json() | self._control.about())

    def _reload(self, query: Mapping[str, str]) -> None:
        runtime = self._control.runtime
        if "wait" not in query:
            runtime.reload(wait=False)
            self._send(HTTPStatus.ACCEPTED, {"version": WIRE_VERSION, "result": "asked"})
            return
        seconds = _number(query["wait"], at_most=_LONGEST_WAIT_SECONDS)
        try:
            outcome = runtime.reload(timeout_seconds=seconds)
        except TimeoutError as error:
            self.send_error(HTTPStatus.GATEWAY_TIMEOUT, str(error))
        else:
            self._send(HTTPStatus.OK, {"version": WIRE_VERSION} | outcome.as_json())

    def _events(self, query: Mapping[str, str]) -> None:
        replayed = int(_number(query.get("replay", "20"), at_most=_RECENT_EVENTS))
        followed = self._control.follow()
        if followed is None:
            self.send_error(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{_MOST_FOLLOWERS} clients follow the events already"
            )
            return
        recent, follower = followed
        try:
            self._begin(HTTPStatus.OK, "application/x-ndjson")
            for event in recent[len(recent) - replayed :] if replayed < len(recent) else recent:
                self._write_event(event)
            while query.get("follow") == "1" and self._pass_on(follower):
                pass
        finally:
            self._control.unfollow(follower)

    def _pass_on(self, follower: Follower) -> bool:
        """The next event of a stream; whether there may be more."""
        try:
            event = follower.queue.get(timeout=_PULSE_SECONDS)
        except Empty:
            self.wfile.write(b"\n")
            return True
        if event is not None:
            self._write_event(event)
        return event is not None and not (follower.is_late and follower.queue.empty())

    # ------------------------------------------------------------------ how it is said

    def _take_body(self) -> None:
        """Nothing that is asked has one; what is not read would be a connection broken off for the client.

        Raises:
            _BadRequestError: it is too long, or its length is none.
        """
        length = _number(self.headers.get("Content-Length", "0"), at_most=_LONGEST_BODY_BYTES)
        self.rfile.read(int(length))

    def _write_event(self, event: Event) -> None:
        self.wfile.write(json.dumps(event.as_json()).encode() + b"\n")

    def _send(self, status: HTTPStatus, value: Mapping[str, Any]) -> None:
        body = json.dumps(value).encode() + b"\n"
        self._begin(status, "application/json", len(body))
        self.wfile.write(body)

    def _begin(self, status: int, content_type: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-store")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """As JSON, in the place of the page that `http.server` would send."""
        status = HTTPStatus(code)
        self._send(status, {"version": WIRE_VERSION, "error": message or status.phrase})

    def address_string(self) -> str:
        return "a local client"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of `http.server`
        _logger.debug(format, *args)


def _number(text: str, *, at_most: float) -> float:
    """Raises: _BadRequestError: it is none, or out of its range."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= at_most:  # nor is NaN
        raise _BadRequestError(f"a number between 0 and {at_most:g} is needed")
    return number


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
