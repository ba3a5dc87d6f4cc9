"""`check`: whether storages could be opened, and whether they keep a tape; and that nothing is left of it."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowcat_registry.errors import StorageUnavailableError, TapeNotFoundError
from shadowcat_registry.providers.memory import MemoryBackend
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.tapes.probing import ProbeCancelledError, probe_storage

from ..fakes import Factory
from .conftest import MANIFEST, Command
from .test_run import started

TWO = MANIFEST + "  other: {type: filesystem, config: {directory: ./other}}\n"


def tapes(directory: Path) -> list[str]:
    return [path.name for path in directory.glob("*.json*")]


class TestChecking:
    def test_looks_without_touching(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        manifest.write_text(TWO)
        done = command("check")
        assert (done.returncode, done.stderr) == (0, b"")
        rows = [line.split() for line in done.stdout.decode().splitlines()]
        assert [(row[0], row[-1]) for row in rows[1:]] == [("filesystem", "healthy"), ("other", "healthy")]
        assert list(tmp_path.iterdir()) == [manifest]

    def test_one_that_fails_is_said_and_is_bad(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        manifest.write_text(TWO)
        (tmp_path / "other").write_text("in the way")
        for arguments in (("check",), ("check", "--probe")):
            done = command(*arguments)
            assert done.returncode == 1
            assert b"failing: " in done.stdout
            assert done.stderr == b"shadowcat-registry: 1 of 2 failed: other\n"
        assert command("check", "filesystem").returncode == 0
        assert command("check", "other").returncode == 1

    def test_of_a_name_that_is_not_there_says_what_is(self, command: Command, manifest: Path) -> None:
        done = command("check", "nothing")
        assert done.returncode == 1
        assert b"no provider 'nothing' (there is: filesystem)" in done.stderr

    def test_for_programs(self, command: Command, manifest: Path) -> None:
        value = json.loads(command("check", "--json").stdout)
        assert (value["version"], value["probed"]) == (1, False)
        (result,) = value["results"]
        assert (result["provider"], result["healthy"], result["error"]) == ("filesystem", True, None)


class TestProbing:
    def test_leaves_no_tape(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        done = command("check", "--probe")
        assert (done.returncode, done.stderr) == (0, b"")
        assert tapes(tmp_path / "tapes") == []

    @pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent there")
    def test_leaves_no_tape_where_it_is_interrupted(self, manifest: Path, tmp_path: Path) -> None:
        # A storage that is slow once the tape is there: the signal comes in the middle.
        (tmp_path / "sitecustomize.py").write_text(
            "import sys, time\n"
            "from shadowcat_registry.recorder import TapeRecorder\n"
            "flush = TapeRecorder.flush\n"
            "def slowly(self, *args, **named):\n"
            "    print('in the middle', file=sys.__stdout__, flush=True)\n"
            "    time.sleep(0.5)\n"
            "    return flush(self, *args, **named)\n"
            "TapeRecorder.flush = slowly\n"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
            with started(tmp_path, "check", "--probe", stderr=subprocess.PIPE) as check:
                assert check.line() == "in the middle"
                assert tapes(tmp_path / "tapes") != []
                assert check.end(signal.SIGINT) == 130
                assert check.process.stderr is not None
                assert check.process.stderr.read().strip() == "shadowcat-registry: interrupted"
        assert tapes(tmp_path / "tapes") == []


class Broken(MemoryBackend):
    """Fails at one step."""

    def __init__(self, step: str) -> None:
        super().__init__(logging.getLogger("tests"), max_bytes=1 << 20, max_tapes=10)
        self.step = step

    def read(self, tape_id: str, after_seq: int = -1) -> Iterator[bytes]:
        if self.step == "read":
            raise StorageUnavailableError("the disk is gone")
        if self.step == "differs":
            return iter([b"{}\n"])
        return super().read(tape_id, after_seq)

    def delete(self, tape_id: str) -> None:
        if self.step != "delete":
            super().delete(tape_id)


class TestTheProbe:
    @pytest.mark.parametrize(
        ("step", "text"),
        [
            ("read", "the disk is gone"),
            ("differs", "reads differently"),
            ("delete", "a tape that was deleted is still there"),
        ],
    )
    def test_says_what_went_wrong_and_leaves_nothing(self, step: str, text: str) -> None:
        backend = Broken(step)
        registry = StorageProviderRegistry()
        registry.register(Factory())
        with registry.override("fake", backend), registry.open_storage("fake") as storage:
            with pytest.raises(StorageUnavailableError, match=text):
                probe_storage(storage)
            assert list(storage.list_all()) == [] or step == "delete"
        backend.close()
        registry.close()

    def test_that_is_cancelled_leaves_nothing(self) -> None:
        registry = StorageProviderRegistry()
        registry.register(Factory())
        cancelled = threading.Event()
        cancelled.set()
        with registry.open_storage("fake") as storage:
            with pytest.raises(ProbeCancelledError):
                probe_storage(storage, cancelled)
            assert list(storage.list_all()) == []
        registry.close()

    def test_of_a_storage_that_works_leaves_nothing(self) -> None:
        registry = StorageProviderRegistry()
        registry.register(Factory())
        with registry.open_storage("fake") as storage:
            probe_storage(storage)
            assert list(storage.list_all()) == []
            with pytest.raises(TapeNotFoundError):
                storage.get_meta("probe")
        registry.close()
