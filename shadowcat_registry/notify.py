"""Tells the service manager how the process stands, by systemd's notify protocol (sd_notify(3)).

A message is one datagram to the socket that `NOTIFY_SOCKET` names; where that is not set, nothing is done at
all. Nobody waits for the service manager: a message that it does not take at once goes with the next one.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from time import monotonic_ns
from types import TracebackType
from typing import Final, Self

from .errors import RegistryError
from .events import Event
from .runtime import Runtime

_MOST_UNSENT: Final = 20
_MOST_STATUS: Final = 500
_logger = logging.getLogger(__name__)


class ServiceNotifier:
    """Says of a started runtime: `READY=1`, a `STATUS=` with each event, `WATCHDOG=1` twice an interval as
    long as the runtime follows its manifest, and at the end `STOPPING=1`.

        with sr.open_registry() as runtime, sr.ServiceNotifier(runtime):
            serve()

    For a unit with `Type=notify` or `notify-reload`. Where the process decides for itself whether it is
    alive, `watchdog=False` leaves `WATCHDOG=1` to it. All methods may be called from any thread.
    """

    def __init__(
        self, runtime: Runtime, *, environ: Mapping[str, str] | None = None, watchdog: bool = True
    ) -> None:
        variables = os.environ if environ is None else environ
        self._runtime = runtime
        self._channel = _Channel.to(variables.get("NOTIFY_SOCKET", ""))
        self._interval_seconds = _watchdog_seconds(variables) if watchdog else None
        self._stopping = threading.Event()
        self._pulse: threading.Thread | None = None
        self._cancel = runtime.subscribe(self._tell) if self._channel is not None else None

    def start(self) -> None:
        """Say that the service is ready, and keep saying that it lives.

        Raises:
            RuntimeError: no thread can be started.
        """
        if self._channel is None:
            return
        self._channel.send("READY=1", f"STATUS={self._summary()}")
        if self._interval_seconds is not None and self._pulse is None:
            self._pulse = threading.Thread(target=self._beat, name="shadowcat-notify", daemon=True)
            self._pulse.start()

    def reload(self) -> None:
        """Ask for a reload, as `Runtime.reload(wait=False)`, and say when it begins and when it is over.

        Raises:
            RuntimeClosedError: the runtime was closed.
            RuntimeError: no thread can be started.
        """
        if self._channel is None:
            self._runtime.reload(wait=False)
            return
        # Python's monotonic clock is CLOCK_MONOTONIC, which the service manager compares with.
        self._channel.send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")
        threading.Thread(target=self._reload, name="shadowcat-notify-reload", daemon=True).start()

    def close(self) -> None:
        """Say that the service ends. Idempotent."""
        if self._stopping.is_set() or self._channel is None:
            return
        self._stopping.set()
        if self._cancel is not None:
            self._cancel()
        if self._pulse is not None:
            self._pulse.join()
        self._channel.send("STOPPING=1", "STATUS=stopping")
        self._channel.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ inside

    def _tell(self, event: Event) -> None:
        if self._channel is not None and event.event not in ("started", "stopped"):
            self._channel.send(f"STATUS={self._summary()}")

    def _reload(self) -> None:
        try:
            self._runtime.reload()
        except (RegistryError, RuntimeError) as error:
            _logger.debug("a reload for the service manager has no outcome: %s", error)
        if self._channel is not None and not self._stopping.is_set():
            self._channel.send("READY=1", f"STATUS={self._summary()}")

    def _beat(self) -> None:
        channel, interval = self._channel, self._interval_seconds
        while channel is not None and not self._stopping.is_set():
            if self._runtime.is_following:
                channel.send("WATCHDOG=1")
            self._stopping.wait(interval)

    def _summary(self) -> str:
        status = self._runtime.status()
        parts = [f"generation {status.generation}", f"{len(status.providers)} providers"]
        parts.append(f"default {status.default}" if status.default else "no default")
        if status.findings:
            parts.append(f"{status.state}: {status.findings[0]}")
        text = ", ".join(parts)
        return "".join(c if c.isprintable() else " " for c in text)[:_MOST_STATUS]


class _Channel:
    """A socket that is never waited for."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._lock = threading.Lock()  # guards the two below; the send under it cannot wait
        self._unsent: list[str] = []
        self._has_failed = False

    @classmethod
    def to(cls, address: str) -> _Channel | None:
        if not address or not hasattr(socket, "AF_UNIX"):
            return None
        if address[0] not in "/@":
            _logger.warning("NOTIFY_SOCKET names no UNIX socket: %r", address)
            return None
        return cls("\0" + address[1:] if address[0] == "@" else address)

    def send(self, *lines: str) -> None:
        with self._lock:
            message = [*self._unsent, *lines]
            try:
                self._socket.sendto("\n".join(message).encode(errors="replace"), self._address)
            except BlockingIOError:
                self._unsent = list(dict.fromkeys(message))[-_MOST_UNSENT:]
            except OSError as error:
                if not self._has_failed:
                    _logger.warning("the service manager cannot be told: %s", error)
                self._has_failed = True
            else:
                self._unsent = []

    def close(self) -> None:
        with self._lock:
            self._socket.close()


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Half of what the service manager waits for a sign of life; None: it does not wait for one of us."""
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        is_ours = int(environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except ValueError:
        return None
    return microseconds / 2e6 if is_ours and microseconds > 0 else None
