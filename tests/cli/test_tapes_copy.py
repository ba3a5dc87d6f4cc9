"""`tapes copy`, as an operator runs it who moves to another storage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import shadowcat_registry as sr

from .conftest import Command, environment

DATA = Path(__file__).parents[1] / "data"
FILES = sorted(DATA.glob("*.jsonl"))
MANIFEST = """\
version: 1
defaults: {provider: old}
providers:
  old: {type: filesystem, config: {directory: ./old}}
  new: {type: filesystem, config: {directory: ./new}}
"""
COPY = ("tapes", "copy", "--from", "old", "--to", "new")


@pytest.fixture
def filled(command: Command, tmp_path: Path) -> Path:
    (tmp_path / "registry.yaml").write_text(MANIFEST)
    assert command("tapes", "import", *FILES).returncode == 0
    return tmp_path


def lines(text: bytes) -> list[str]:
    return text.decode().splitlines()


class TestCopy:
    def test_everything_arrives_and_a_second_time_nothing_happens(
        self, command: Command, filled: Path
    ) -> None:
        done = command(*COPY)
        assert (done.returncode, done.stderr) == (0, b"")
        assert [line.split()[0] for line in lines(done.stdout)[:-1]] == ["copied"] * len(FILES)
        assert lines(done.stdout)[-1] == f"{len(FILES)} copied"
        for path in FILES:
            assert (filled / "new" / path.name).read_bytes() == path.read_bytes()
        again = command(*COPY)
        assert (again.returncode, again.stdout) == (0, f"{len(FILES)} identical\n".encode())

    def test_for_programs_it_is_a_line_a_tape(self, command: Command, filled: Path) -> None:
        done = command(*COPY, "--json", FILES[0].stem)
        assert json.loads(done.stdout) == {
            "version": 1,
            "tape_id": FILES[0].stem,
            "outcome": "copied",
            "ok": True,
            "line_count": FILES[0].read_bytes().count(b"\n"),
            "size_bytes": FILES[0].stat().st_size,
            "problem": None,
        }

    def test_a_query_chooses(self, command: Command, filled: Path) -> None:
        done = command(*COPY, "--tag", "edge", "--json")
        tags = {
            json.loads(path.with_suffix(".meta.json").read_text())["tape_id"]
            for path in FILES
            if "edge" in json.loads(path.with_suffix(".meta.json").read_text())["tags"]
        }
        assert {json.loads(line)["tape_id"] for line in lines(done.stdout)} == tags

    def test_one_that_differs_there_is_left_alone_and_told(self, command: Command, filled: Path) -> None:
        command(*COPY)
        path = filled / "new" / FILES[0].name
        path.write_bytes(path.read_bytes() + b"{}\n")
        done = command(*COPY)
        assert done.returncode == 1
        assert f"differs    {FILES[0].stem}" in done.stdout.decode()
        assert b"was left as it is" in done.stderr
        assert path.read_bytes().endswith(b"{}\n")

    def test_an_empty_storage_is_fine(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "registry.yaml").write_text(MANIFEST)
        done = command(*COPY)
        assert (done.returncode, done.stdout) == (0, b"there is nothing to copy\n")

    @pytest.mark.parametrize(
        ("arguments", "code", "told"),
        [
            (("--from", "old"), 2, b"Missing option '--to'"),
            (("--from", "old", "--to", "old"), 2, b"name the same provider"),
            (("--from", "old", "--to", "nwe"), 1, b"did you mean `new`?"),
            (("--from", "old", "--to", "new", "x", "--tag", "y"), 2, b"not both"),
            (("--from", "old", "--to", "new", "x"), 1, b"there is no tape 'x'"),
            (("--from", "old", "--to", "new", "../x"), 1, b"cannot be a tape id"),
            (("--from", "old", "--to", "new", "--after", "soon"), 2, b"'soon' is no moment"),
        ],
    )
    def test_wrong_use_is_told(
        self, command: Command, filled: Path, arguments: tuple[str, ...], code: int, told: bytes
    ) -> None:
        done = command("tapes", "copy", *arguments)
        assert (done.returncode, told in done.stderr) == (code, True), done.stderr
        assert not list((filled / "new").glob("*.jsonl"))

    def test_a_full_disk_is_told_and_what_had_room_is_there(
        self, command: Command, filled: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append_lines = sr.TapeRecorder.append_lines

        def full(recorder: sr.TapeRecorder, lines: Iterable[bytes], *, counted: bool) -> int:
            if recorder.tape_id == FILES[2].stem:
                raise sr.StorageFullError("No space left on device")
            return append_lines(recorder, lines, counted=counted)

        with monkeypatch.context() as patch:
            patch.setattr(sr.TapeRecorder, "append_lines", full)
            done = command(*COPY)
        assert done.returncode == 1
        assert lines(done.stdout)[-1] == "2 copied"
        assert b"not everything was copied; run this again" in done.stderr
        assert done.stderr.endswith(b"the storage is full: No space left on device\n")
        assert lines(command(*COPY).stdout)[-1] == f"2 identical, 1 resumed, {len(FILES) - 3} copied"


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
class TestInterrupted:
    def start(self, directory: Path) -> subprocess.Popen[bytes]:
        """A copy that stops, as on a slow disk, when the first batch of a tape is in."""
        program = (
            "import signal, sys, time\n"
            # Whoever runs these tests in the background of a shell ignores it, and children inherit that.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from shadowcat_registry.tapes import copying\n"
            "batches = copying.batches\n"
            "def slow(lines):\n"
            "    for batch in batches(lines):\n"
            "        yield batch[:10]\n"
            "        print('here', flush=True)\n"
            "        time.sleep(60)\n"
            "copying.batches = slow\n"
            "from shadowcat_registry.cli import main\n"
            f"sys.argv = ['shadowcat-registry', *{COPY!r}]\n"
            "main()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        return process

    @pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
    def test_the_next_one_goes_on(self, command: Command, filled: Path, sent: signal.Signals) -> None:
        with self.start(filled) as process:
            other = command(*COPY, FILES[0].stem)  # at the same time
            os.kill(process.pid, sent)
            _, said = process.communicate(timeout=50)
        assert other.returncode == 1
        assert b"somebody writes to it there" in other.stderr
        if sent == signal.SIGINT:
            assert process.returncode == 130
            assert b"run this again, and it goes on where it was\n" in said
            assert said.splitlines()[-1] == b"shadowcat-registry: interrupted"
            assert b"Traceback" not in said
        assert (
            json.loads((filled / "new" / f"{FILES[0].stem}.meta.json").read_text())["status"] == "recording"
        )
        done = command(*COPY)
        assert done.returncode == 0
        assert lines(done.stdout)[-1] == f"1 resumed, {len(FILES) - 1} copied"
        for path in FILES:
            assert (filled / "new" / path.name).read_bytes() == path.read_bytes()
