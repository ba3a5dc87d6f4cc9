"""Running processes, as commands find and ask them: `http.client` over their control sockets."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import click

from ..control_socket import IS_SUPPORTED, UNSUPPORTED, ControlSocket, find, manifest_key
from ..errors import RegistryError
from .output import fail

PATIENCE_SECONDS: Final = 5.0
"""How long a process has for its answer, unless it is asked for something that takes its time."""
_SILENCE_SECONDS: Final = 30.0
"""A stream of events says something every few seconds, if only that it is there."""


class NoAnswerError(RegistryError):
    """The process did not answer, or not to the question; the text says why."""


class GoneError(NoAnswerError):
    """There is no process behind this socket any more."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class Process:
    """A process with a control socket; whether it lives and answers is seen when it is asked."""

    pid: int
    path: Path

    def ask(
        self,
        resource: str,
        *,
        method: str = "GET",
        timeout_seconds: float | None = None,
        **query: object,
    ) -> dict[str, Any]:
        """The answer to one question, in time: within `PATIENCE_SECONDS`, if nothing else is said.

        Raises:
            GoneError: it has died.
            NoAnswerError: it does not answer in time, or says that it cannot.
        """
        patience = PATIENCE_SECONDS if timeout_seconds is None else timeout_seconds
        connection = _Connection(self.path, patience)
        try:
            connection.request(method, _address(resource, query))
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._no_answer(error, patience) from None
        finally:
            connection.close()
        if response.status >= 400:
            raise NoAnswerError(f"process {self.pid}: {answer.get('error', response.reason)}")
        return answer if isinstance(answer, dict) else {}

    def stream(self, resource: str, **query: object) -> Iterator[dict[str, Any]]:
        """Each object as it comes, until the process ends the stream, or ends itself.

        Raises:
            GoneError, NoAnswerError: as `ask`; also where it says nothing for long.
        """
        patience = PATIENCE_SECONDS
        connection = _Connection(self.path, patience)
        try:
            connection.request("GET", _address(resource, query))
            channel = connection.sock  # which the connection gives away with the last header
            response = connection.getresponse()
            patience = _SILENCE_SECONDS
            channel.settimeout(patience)
            if response.status >= 400:
                raise NoAnswerError(f"process {self.pid}: {json.loads(response.read())['error']}")
            while line := _line(response):
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._no_answer(error, patience) from None
        finally:
            connection.close()

    def _no_answer(self, error: Exception, timeout_seconds: float) -> NoAnswerError:
        if isinstance(error, TimeoutError):
            return NoAnswerError(
                f"process {self.pid} does not answer within {timeout_seconds:g} s: it is stopped or hangs"
            )
        if isinstance(error, ConnectionRefusedError | FileNotFoundError):
            return GoneError(f"process {self.pid} has ended")
        if isinstance(error, PermissionError):
            return NoAnswerError(f"process {self.pid} belongs to another user: ask as that user")
        if isinstance(error, ConnectionError):
            return GoneError(f"process {self.pid} broke off its answer: it is ending, or has died")
        return NoAnswerError(f"process {self.pid} gave no answer that makes sense ({type(error).__name__})")


def processes_of(manifest: Path) -> list[Process]:
    """Those that live and follow this manifest, by process id."""
    sockets = find()
    own = [it for it in sockets if it.manifest_key == manifest_key(manifest)]
    # The same file may have another name there: a link, or another way to its directory.
    return _living(own) or [process for process, other in _others(sockets) if _is_same(other, manifest)]


def the_process(manifest: Path, pid: int | None) -> Process:
    """The one that is meant; where that is none or not clear, the command ends with a line that says so."""
    if not IS_SUPPORTED:
        fail(UNSUPPORTED)
        raise click.exceptions.Exit(1)
    found = processes_of(manifest)
    chosen = [process for process in found if pid in (None, process.pid)]
    if len(chosen) == 1:
        return chosen[0]
    pids = ", ".join(str(process.pid) for process in found)
    if found and pid is not None:
        fail(f"process {pid} does not follow {manifest}; these do: {pids}")
    elif found:
        fail(
            f"{len(found)} processes follow {manifest}: name one with --pid ({pids}),"
            " or see them all with `status --all`"
        )
        raise click.exceptions.Exit(2)
    else:
        fail(nobody(manifest))
    raise click.exceptions.Exit(1)


def nobody(manifest: Path) -> str:
    """That no process follows it, and what might be the reason."""
    absolute = os.path.abspath(manifest)  # noqa: PTH100 - keeps links
    others = ", ".join(f"{other} (pid {process.pid})" for process, other in _others(find()))
    if others:
        return f"no running process follows {absolute}; there are some for {others}: name one with -f"
    return f"no running process of this user follows {absolute}; `shadowcat-registry run` starts one"


def _living(sockets: list[ControlSocket]) -> list[Process]:
    living = []
    for it in sorted(sockets, key=lambda it: it.pid):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PATIENCE_SECONDS)
            try:
                probe.connect(str(it.path))
            except (ConnectionRefusedError, FileNotFoundError):
                continue
            except OSError:  # it is there, and asking it says what is wrong
                pass
        living.append(Process(it.pid, it.path))
    return living


def _others(sockets: list[ControlSocket]) -> Iterator[tuple[Process, str]]:
    """Processes with the manifest that each says it follows."""
    for process in _living(sockets):
        try:
            manifest = process.ask("/v1/status", timeout_seconds=1.0)["manifest"]
        except (NoAnswerError, KeyError):
            continue
        yield process, str(manifest)


def _is_same(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - one is a name
    except OSError:
        return False


def _line(response: http.client.HTTPResponse) -> bytes:
    """The next one; nothing: it is over, one way or the other."""
    try:
        return response.readline()
    except (ConnectionError, http.client.IncompleteRead):
        return b""


def _address(resource: str, query: dict[str, object]) -> str:
    return f"{resource}?{urlencode(query)}" if query else resource
