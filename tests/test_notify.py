"""What systemd hears: over real sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from shadowcat_registry.notify import ServiceNotifier
from shadowcat_registry.runtime import Runtime

from .fakes import PATIENCE_SECONDS, until

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("needs UNIX sockets", allow_module_level=True)

GOOD = "version: 1\nproviders: {a: {type: memory}}\n"


class Manager:
    """A service manager: a socket, and what it was told, a list of lines a message."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self.socket.settimeout(PATIENCE_SECONDS)

    def hear(self) -> list[str]:
        return self.socket.recv(65536).decode().split("\n")

    def hear_until(self, line: str) -> list[str]:
        """The message with a line that begins so."""
        while True:
            message = self.hear()
            if any(said.startswith(line) for said in message):
                return message

    def hear_what_is_there(self) -> int:
        """How many messages are under way."""
        self.socket.setblocking(False)
        count = 0
        try:
            while True:
                self.hear()
                count += 1
        except BlockingIOError:
            return count
        finally:
            self.socket.settimeout(PATIENCE_SECONDS)

    def stuff(self) -> int:
        """Fill the queue; returns with how many messages."""
        count = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect("\0" + self.address[1:] if self.address[0] == "@" else self.address)
            try:
                while True:
                    other.send(b"noise")
                    count += 1
            except BlockingIOError:
                return count


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with TemporaryDirectory(prefix="notify-") as directory:  # short: such a path has 108 bytes at most
        if request.param == "abstract":
            if sys.platform != "linux":
                pytest.skip("abstract sockets are Linux's")
            manager = Manager(f"@shadowcat-{os.getpid()}-{Path(directory).name}")
        else:
            manager = Manager(f"{directory}/notify")
        with manager.socket:
            yield manager


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    (tmp_path / "registry.yaml").write_text(GOOD)
    with Runtime(tmp_path / "registry.yaml", watch=False) as runtime:
        runtime.start()
        yield runtime


def usec(line: str) -> int:
    name, _, value = line.partition("=")
    assert name == "MONOTONIC_USEC"
    return int(value)


class TestWhatItSays:
    def test_from_ready_to_stopping(self, manager: Manager, runtime: Runtime) -> None:
        with ServiceNotifier(runtime, environ={"NOTIFY_SOCKET": manager.address}):
            assert manager.hear() == ["READY=1", "STATUS=generation 1, 1 providers, no default"]
        assert manager.hear() == ["STOPPING=1", "STATUS=stopping"]

    def test_of_a_reload_when_it_begins_and_when_it_is_over(self, manager: Manager, runtime: Runtime) -> None:
        with ServiceNotifier(runtime, environ={"NOTIFY_SOCKET": manager.address}) as notifier:
            manager.hear_until("READY=1")
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert runtime.path is not None
            runtime.path.write_text(GOOD + "defaults: {provider: a}\n")
            notifier.reload()
            reloading, at = manager.hear_until("RELOADING=1")
            assert reloading == "RELOADING=1"
            assert before <= usec(at) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            ready, status = manager.hear_until("READY=1")
            assert (ready, status) == ("READY=1", "STATUS=generation 2, 1 providers, default a")

    def test_what_is_wrong_with_the_file(self, manager: Manager, runtime: Runtime) -> None:
        with ServiceNotifier(runtime, environ={"NOTIFY_SOCKET": manager.address}):
            manager.hear_until("READY=1")
            assert runtime.path is not None
            runtime.path.write_text("version: 1\nproviders: {a: {type: nosuch}}\n")
            runtime.reload()
            (status,) = manager.hear_until("STATUS=")
            assert status.startswith("STATUS=generation 1, 1 providers, no default, rejected: ")
            assert "SC302" in status

    def test_signs_of_life_for_as_long_as_it_follows(self, manager: Manager, runtime: Runtime) -> None:
        environ = {
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": "20000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        with ServiceNotifier(runtime, environ=environ):
            for _ in range(3):
                manager.hear_until("WATCHDOG=1")
            runtime.close()
            assert not runtime.is_following
            assert manager.hear_what_is_there() < 100
            manager.socket.settimeout(0.2)  # ten of its intervals
            with pytest.raises(TimeoutError):
                manager.hear()
            manager.socket.settimeout(PATIENCE_SECONDS)

    @pytest.mark.parametrize(
        "variables",
        [
            {},
            {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
            {"WATCHDOG_USEC": "soon"},
            {"WATCHDOG_USEC": "0"},
        ],
    )
    def test_no_signs_of_life_for_whom_they_are_not_meant(
        self, manager: Manager, runtime: Runtime, variables: dict[str, str]
    ) -> None:
        with ServiceNotifier(runtime, environ={"NOTIFY_SOCKET": manager.address, **variables}) as notifier:
            assert notifier._pulse is None

    def test_none_where_the_process_gives_its_own(self, manager: Manager, runtime: Runtime) -> None:
        environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000"}
        with ServiceNotifier(runtime, environ=environ, watchdog=False) as notifier:
            assert notifier._pulse is None


class TestWhoDoesNotListen:
    def test_is_not_waited_for_and_hears_it_later(self, manager: Manager, runtime: Runtime) -> None:
        stuffed = manager.stuff()
        with ServiceNotifier(runtime, environ={"NOTIFY_SOCKET": manager.address}):
            for _ in range(stuffed):
                assert manager.hear() == ["noise"]
        assert manager.hear() == [
            "READY=1",
            "STATUS=generation 1, 1 providers, no default",
            "STOPPING=1",
            "STATUS=stopping",
        ]

    @pytest.mark.parametrize("address", ["/nowhere/at/all", "relative", "vsock:2:1"])
    def test_is_said_once_and_hurts_nobody(
        self, runtime: Runtime, address: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with ServiceNotifier(runtime, environ={"NOTIFY_SOCKET": address}) as notifier:
            notifier.reload()
            until(lambda: runtime.status().reloads.get("unchanged"))
        assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1

    def test_where_there_is_no_manager_nothing_is_done(self, runtime: Runtime) -> None:
        with ServiceNotifier(runtime, environ={}) as notifier:
            notifier.reload()
            until(lambda: runtime.status().reloads.get("unchanged"))
            assert notifier._channel is None


class TestRun:
    def test_tells_of_its_whole_life(self, manager: Manager, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        path.write_text(GOOD)
        variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "shadowcat_registry", "run", str(path)],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as process:
            try:
                manager.hear_until("READY=1")
                manager.hear_until("WATCHDOG=1")
                process.send_signal(signal.SIGHUP)
                manager.hear_until("RELOADING=1")
                manager.hear_until("READY=1")
                process.send_signal(signal.SIGTERM)
                manager.hear_until("STOPPING=1")
                assert process.wait(PATIENCE_SECONDS) == 0
            finally:
                process.kill()
