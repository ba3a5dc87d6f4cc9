"""What a running process answers to those who operate it: one HTTP request each.

The HTTP is that of Python's own `http.server`: it needs no dependency, and what its documentation warns of
(it faces no hostile network) does not arise on a socket that only its user can connect to.

    GET  /v1/status    how the runtime stands, and which process this is
    GET  /v1/history   the last commits, refusals and retirements
    GET  /v1/plan      what a reload would do now; `text`: the same for people
    GET  /v1/why       ?name=NAME: a provider, who holds it, and what keeps it
    POST /v1/reload    202, it was asked for; ?wait=SECONDS: the outcome of a run that began after this
    GET  /v1/events    JSON lines: the last ?replay=COUNT, with ?follow=1 then each that happens, to the end

An answer is a JSON object with `version`; one that is no success has `error`. Knows a runtime by what it
asks of it, and neither sockets nor threads.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.metadata import version
from typing import Any, Final, Literal, Protocol, overload
from urllib.parse import parse_qs, urlsplit

from .errors import ProviderNotFoundError, RegistryForkedError, RuntimeClosedError
from .event_feed import MOST_STREAMS, RECENT_EVENTS, EventFeed, Stream
from .events import WIRE_VERSION, Event, Subscriber
from .manifest import Manifest
from .metadata import format_time
from .registry import StorageProviderRegistry

_PATIENCE_SECONDS: Final = 10.0
"""How long a client may say nothing, or take nothing, before it is left."""
_LONGEST_WAIT_SECONDS: Final = 600.0
_LONGEST_BODY_BYTES: Final = 64 * 1024
_REPLAYED_EVENTS: Final = 20
_PULSE_SECONDS: Final = 5.0
"""An idle stream has an empty line this often: it tells either side whether the other is still there."""

_logger = logging.getLogger(__name__)


class Answer(Protocol):
    def as_json(self) -> dict[str, Any]: ...


class Controlled(Protocol):
    """What is asked of a runtime."""

    @property
    def registry(self) -> StorageProviderRegistry: ...
    @property
    def manifest(self) -> Manifest | None: ...
    def status(self) -> Answer: ...
    def history(self) -> Sequence[Answer]: ...
    def plan(self) -> Answer: ...
    @overload
    def reload(self, *, timeout_seconds: float | None = None) -> Answer: ...
    @overload
    def reload(self, *, wait: Literal[False]) -> None: ...
    def subscribe(self, subscriber: Subscriber, /) -> Callable[[], None]: ...


class _BadRequestError(Exception):
    """What a client asked cannot be meant."""


class RequestHandler(BaseHTTPRequestHandler):
    """One request, which is answered while this is made. `on_request` is called when it has come in whole.

    Raises:
        OSError: the client has left, or took too long.
    """

    timeout = _PATIENCE_SECONDS
    server_version = "shadowcat-registry"
    sys_version = ""

    def __init__(
        self,
        client: socket.socket,
        runtime: Controlled,
        feed: EventFeed,
        started_at: datetime,
        on_request: Callable[[], object],
    ) -> None:
        self._runtime, self._feed, self._started_at = runtime, feed, started_at
        self._on_request = on_request
        # What `http.server` does with its server is nothing at all, with the address of a client: log it.
        super().__init__(client, "local", self)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._act(
            {
                "/v1/status": self._status,
                "/v1/history": self._history,
                "/v1/plan": self._plan,
                "/v1/why": self._why,
                "/v1/events": self._events,
            }
        )

    def do_POST(self) -> None:
        self._act({"/v1/reload": self._reload})

    def _act(self, actions: Mapping[str, Callable[[Mapping[str, str]], None]]) -> None:
        address = urlsplit(self.path)
        action = actions.get(address.path)
        try:
            self._take_body()
            self._on_request()
            if action is None:
                self.send_error(HTTPStatus.NOT_FOUND, "there is no such resource")
            else:
                action({name: values[-1] for name, values in parse_qs(address.query).items()})
        except _BadRequestError as error:
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
        except ProviderNotFoundError as error:
            self.send_error(HTTPStatus.NOT_FOUND, str(error))
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
        process = {
            "pid": os.getpid(),
            "started_at": format_time(self._started_at),
            "package_version": version("shadowcat-registry"),
        }
        self._send(HTTPStatus.OK, self._runtime.status().as_json() | process)

    def _history(self, query: Mapping[str, str]) -> None:  # noqa: ARG002 - it takes none
        entries = [entry.as_json() for entry in self._runtime.history()]
        self._send(HTTPStatus.OK, {"version": WIRE_VERSION, "history": entries})

    def _plan(self, query: Mapping[str, str]) -> None:  # noqa: ARG002 - it takes none
        report = self._runtime.plan()
        self._send(HTTPStatus.OK, report.as_json() | {"text": str(report)})

    def _why(self, query: Mapping[str, str]) -> None:
        name = query.get("name", "")
        registry, manifest = self._runtime.registry, self._runtime.manifest
        info, holders = registry.get_provider_info(name), registry.holders(name)
        specs = manifest.providers if manifest is not None else {}
        is_declared = info.state == "active" and name in specs
        self._send(
            HTTPStatus.OK,
            {
                "version": WIRE_VERSION,
                "provider": info.as_json(),
                "holders": [holder.as_json() for holder in holders],
                "protected": is_declared and specs[name].protect,
                "required_by": [other for other, spec in specs.items() if name in spec.needs],
            },
        )

    def _reload(self, query: Mapping[str, str]) -> None:
        if "wait" not in query:
            self._runtime.reload(wait=False)
            self._send(HTTPStatus.ACCEPTED, {"version": WIRE_VERSION, "result": "asked"})
            return
        seconds = _number(query["wait"], at_most=_LONGEST_WAIT_SECONDS)
        try:
            outcome = self._runtime.reload(timeout_seconds=seconds)
        except TimeoutError as error:
            self.send_error(HTTPStatus.GATEWAY_TIMEOUT, str(error))
        else:
            self._send(HTTPStatus.OK, {"version": WIRE_VERSION} | outcome.as_json())

    def _events(self, query: Mapping[str, str]) -> None:
        count = int(_number(query.get("replay", str(_REPLAYED_EVENTS)), at_most=RECENT_EVENTS))
        stream = self._feed.follow()
        if stream is None:
            message = f"{MOST_STREAMS} clients follow the events already"
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, message)
            return
        try:
            self._begin(HTTPStatus.OK, "application/x-ndjson")
            for event in stream.recent[max(0, len(stream.recent) - count) :]:
                self._write_event(event)
            while query.get("follow") == "1" and self._pass_on(stream):
                pass
        finally:
            self._feed.leave(stream)

    def _pass_on(self, stream: Stream) -> bool:
        """The next event of a stream; whether there may be more."""
        try:
            event = stream.next(_PULSE_SECONDS)
        except TimeoutError:
            self.wfile.write(b"\n")
            return True
        if event is not None:
            self._write_event(event)
        return event is not None

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
