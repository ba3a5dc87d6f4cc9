"""The control socket of a runtime: what it answers, and that no client can hold anything up."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.cli.processes import GoneError, NoAnswerError, Process, processes_of
from shadowcat_registry.control_socket import IS_SUPPORTED
from shadowcat_registry.runtime import Runtime

from .cli.conftest import MANIFEST
from .fakes import Gate, Running, until

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="this system has no Unix domain sockets")
BROKEN = MANIFEST.replace("directory", "directroy")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def runtime(manifest: Path) -> Iterator[Runtime]:
    with Runtime(manifest, watch=False, control=True) as runtime:
        runtime.start()
        yield runtime


@pytest.fixture
def process(runtime: Runtime) -> Process:
    assert runtime.path is not None
    (process,) = processes_of(runtime.path)
    return process


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(process: Process) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(str(process.path))
    return client


def say(process: Process, request: bytes) -> bytes:
    """What comes back for these bytes, until the end."""
    with connect(process) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.recv(65536):
            answer += data
    return answer


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "shadowcat-control-client"]


class TestAnswers:
    def test_the_status_is_that_of_the_runtime_and_says_which_process(
        self, runtime: Runtime, process: Process
    ) -> None:
        status = process.ask("/v1/status")
        expected = runtime.status().as_json()
        assert status["version"] == 1
        assert {name: status[name] for name in expected} == expected
        assert status["pid"] == os.getpid() == process.pid
        assert status["manifest"] == str(runtime.path)
        assert status["control"] == str(process.path)

    def test_a_reload_that_is_waited_for_gives_its_outcome(self, process: Process, manifest: Path) -> None:
        assert process.ask("/v1/reload", method="POST", wait=10)["result"] == "unchanged"
        manifest.write_text(MANIFEST + "  archive: {type: filesystem, config: {directory: ./archive}}\n")
        assert process.ask("/v1/reload", method="POST", wait=10)["result"] == "committed"
        manifest.write_text(BROKEN)
        outcome = process.ask("/v1/reload", method="POST", wait=10)
        assert outcome["result"] == "rejected"
        assert [finding["code"] for finding in outcome["findings"]] == ["SC201"]

    def test_a_reload_that_is_asked_for_happens(
        self, runtime: Runtime, process: Process, manifest: Path
    ) -> None:
        manifest.write_text(MANIFEST + "  archive: {type: filesystem, config: {directory: ./archive}}\n")
        assert process.ask("/v1/reload", method="POST") == {"version": 1, "result": "asked"}
        assert runtime.wait_for(2, 10)

    def test_a_reload_that_takes_too_long_goes_on(
        self, runtime: Runtime, process: Process, manifest: Path
    ) -> None:
        gate = Gate()
        runtime.registry.add_init_hook(gate)
        manifest.write_text(MANIFEST + "  archive: {type: filesystem, config: {directory: ./archive}}\n")
        with pytest.raises(NoAnswerError, match=r"has no outcome after 0\.01 s"):
            process.ask("/v1/reload", method="POST", wait=0.01)
        gate.reached()
        assert process.ask("/v1/status")["state"] == "ok"  # nobody waits for a reload who did not ask for it
        gate.open()
        assert runtime.wait_for(2, 10)

    def test_events_come_with_the_recent_ones_first(
        self, runtime: Runtime, process: Process, manifest: Path
    ) -> None:
        events = process.stream("/v1/events", follow=1)
        with closing(events):  # type: ignore[type-var]  # it is a generator
            assert next(events)["event"] == "started"
            manifest.write_text(BROKEN)
            runtime.reload(wait=False)
            assert next(events)["event"] == "rejected"
            manifest.write_text(MANIFEST)
            runtime.reload(wait=False)
            assert next(events)["event"] == "recovered"
        until(lambda: not client_threads() or runtime.reload())

    def test_events_that_are_not_followed_end(self, runtime: Runtime, process: Process) -> None:
        assert [event["event"] for event in process.stream("/v1/events")] == ["started"]
        assert list(process.stream("/v1/events", replay=0)) == []

    def test_a_stream_ends_with_the_end_of_the_runtime(self, runtime: Runtime, process: Process) -> None:
        events = process.stream("/v1/events", follow=1)
        assert next(events)["event"] == "started"
        closer = Running(runtime.close)
        assert [event["event"] for event in events] == ["stopped"]
        closer.result()


class TestBadRequests:
    @pytest.mark.parametrize(
        ("request_line", "status"),
        [
            (b"GET /v1/nothing HTTP/1.1\r\n\r\n", 404),
            (b"POST /v1/status HTTP/1.1\r\n\r\n", 404),
            (b"DELETE /v1/status HTTP/1.1\r\n\r\n", 501),
            (b"nonsense\r\n\r\n", 400),
            (b"POST /v1/reload?wait=soon HTTP/1.1\r\n\r\n", 400),
            (b"POST /v1/reload?wait=nan HTTP/1.1\r\n\r\n", 400),
            (b"POST /v1/reload?wait=1e9 HTTP/1.1\r\n\r\n", 400),
            (b"GET /v1/events?replay=-1 HTTP/1.1\r\n\r\n", 400),
            (b"POST /v1/reload HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", 400),
            (b"POST /v1/reload HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"GET /v1/" + b"x" * 65_540 + b" HTTP/1.1\r\n\r\n", 414),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 431),
        ],
    )
    def test_are_told_so_in_json_and_change_nothing(
        self, runtime: Runtime, process: Process, request_line: bytes, status: int
    ) -> None:
        head, _, body = say(process, request_line).partition(b"\r\n\r\n")
        if head.startswith(b"{"):  # to something so old that it knows no headers
            head, body = b"HTTP/1.0 400", head
        assert head.split()[1] == str(status).encode()
        answer = json.loads(body)
        assert answer["version"] == 1
        assert answer["error"]
        assert runtime.status().generation == 1

    def test_that_break_off_do_no_harm(self, process: Process) -> None:
        for part in (b"", b"GET", b"POST /v1/reload HTTP/1.1\r\nContent-Length: 10\r\n\r\n12"):
            with connect(process) as client:
                client.sendall(part)
        assert process.ask("/v1/status")["state"] == "ok"

    def test_a_fault_of_ours_is_told_without_its_text(
        self, runtime: Runtime, process: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> Any:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(runtime, "status", fail)
        with pytest.raises(NoAnswerError, match="failed with ZeroDivisionError, see the log of the process"):
            process.ask("/v1/status")


class TestClientsThatHoldThingsUp:
    def test_silent_ones_make_room_for_who_asks(
        self, process: Process, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.control._MOST_CONNECTIONS", 3)
        silent = [stack.enter_context(connect(process)) for _ in range(5)]
        for _ in range(3):
            assert process.ask("/v1/status")["state"] == "ok"
        assert silent[0].recv(1) == b""

    def test_followers_leave_room_for_who_asks(
        self, process: Process, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.event_feed.MOST_STREAMS", 1)
        events = process.stream("/v1/events", follow=1)
        with closing(events):  # type: ignore[type-var]  # it is a generator
            next(events)
            with pytest.raises(NoAnswerError, match="clients follow the events already"):
                next(process.stream("/v1/events", follow=1))
            assert process.ask("/v1/status")["state"] == "ok"

    def test_one_that_never_reads_holds_up_neither_reloads_nor_others_nor_the_end(
        self,
        runtime: Runtime,
        process: Process,
        stack: ExitStack,
        manifest: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.event_feed._QUEUED_EVENTS", 10)
        deaf = stack.enter_context(connect(process))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        deaf.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\n\r\n")
        until(lambda: runtime._control is not None and runtime._control._feed.stream_count)
        for number in range(400):  # more than all buffers hold
            runtime._announcer.subscribers.publish(_event(runtime, number))
        assert runtime.reload().result == "unchanged"
        assert process.ask("/v1/status")["state"] == "ok"
        runtime.close()
        until(lambda: not client_threads())

    def test_one_that_is_too_slow_is_let_go(
        self, runtime: Runtime, process: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.event_feed._QUEUED_EVENTS", 5)
        events = process.stream("/v1/events", follow=1, replay=0)
        got: list[Any] = []
        reader = Running(lambda: got.extend(events))
        until(lambda: runtime._control is not None and runtime._control._feed.stream_count)
        number = 0
        while reader.is_running:  # sooner or later, it is behind
            runtime._announcer.subscribers.publish(_event(runtime, number))
            number += 1
        generations = [event["generation"] for event in got]
        assert generations == list(range(len(generations))), "what it got has no gap"


def _event(runtime: Runtime, number: int) -> Any:
    from datetime import UTC, datetime

    from shadowcat_registry.events import Event

    names = tuple(f"provider-{index}" for index in range(100))
    return Event("committed", datetime.now(UTC), number, None, added=names)


class TestTheEnd:
    def test_leaves_no_file_and_no_thread(self, runtime: Runtime, process: Process) -> None:
        assert process.path.exists()
        runtime.close()
        assert not process.path.exists()
        assert not [thread for thread in threading.enumerate() if "shadowcat-control" in thread.name]
        with pytest.raises(GoneError, match="has ended"):
            process.ask("/v1/status")
        assert runtime.status().control is None

    def test_ends_who_waits_for_a_reload(self, runtime: Runtime, process: Process, manifest: Path) -> None:
        gate = Gate()
        runtime.registry.add_init_hook(gate)
        manifest.write_text(MANIFEST + "  archive: {type: filesystem, config: {directory: ./archive}}\n")
        waiting = Running(lambda: process.ask("/v1/reload", method="POST", wait=60, timeout_seconds=60))
        gate.reached()
        closer = Running(runtime.close)
        until(runtime._stopping.is_set)
        gate.open()
        closer.result()
        assert isinstance(waiting.error(), NoAnswerError)

    def test_of_a_start_that_failed_leaves_nothing(self, manifest: Path) -> None:
        manifest.write_text(BROKEN)
        with pytest.raises(ValueError, match="SC201"):
            Runtime(manifest, control=True).start()
        assert processes_of(manifest) == []

    def test_a_runtime_that_gets_no_socket_runs_and_says_so(
        self,
        manifest: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))
        monkeypatch.setattr("shadowcat_registry.control_socket._LAST_RESORT", str(tmp_path / ("x" * 100)))
        with Runtime(manifest, watch=False, control=True) as runtime:
            runtime.start()
            assert runtime.status().state == "ok"
            assert runtime.status().control is None
        assert "there is no control socket: " in caplog.text
        assert "is too long for the name of a socket" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestAForkedChild:
    def test_neither_serves_nor_removes_the_socket_of_its_parent(self, manifest: Path) -> None:
        program = """
import os, sys, warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)  # newer Pythons warn of forks with threads
from pathlib import Path
import shadowcat_registry as sr
from shadowcat_registry.cli.processes import processes_of
manifest = Path(sys.argv[1])
runtime = sr.open_registry(manifest, control=True)
(process,) = processes_of(manifest)
events = process.stream("/v1/events", follow=1)
next(events)
first, second = os.pipe()
child = os.fork()
if child == 0:
    code = 1
    try:
        assert runtime.status().control is None
        runtime.close()
        assert process.path.exists()
        with sr.open_registry(manifest, control=True) as own:
            assert own.status().control != str(process.path)
            assert [it.pid for it in processes_of(manifest) if it.pid == os.getpid()] == [os.getpid()]
        code = 0
        os.close(second)
        os.read(first, 1)  # lives on until the parent's socket has been seen to end
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(code)
os.close(first)
assert process.ask("/v1/status")["pid"] == os.getpid()
runtime.close()
assert [event["event"] for event in events] == ["stopped"]
assert not process.path.exists()
os.close(second)
_, status = os.waitpid(child, 0)
assert status == 0, status
"""
        done = subprocess.run(
            [sys.executable, "-c", program, str(manifest)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
