"""`tapes list`, `show`, `search` and `follow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import shadowcat_registry as sr

from .conftest import MANIFEST, Command, default_storage, environment

DATA = Path(__file__).parents[1] / "data"
FILES = sorted(DATA.glob("*.jsonl"))
HOSTILE = "\x1b[2J\nclear \ud800"


def listed(command: Command, *options: str) -> list[str]:
    done = command("tapes", "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [tape["tape_id"] for tape in json.loads(done.stdout)["tapes"]]


@pytest.fixture
def filled(command: Command, manifest: Path) -> Path:
    with default_storage(manifest) as storage:
        for number, day in enumerate(("2026-11-01", "2026-11-02", "2026-11-03")):
            tape = storage.record(f"s-{number % 2}", tape_id=f"t{number}", tags=["x"] if number else [])
            tape.append("client_to_server", b"1")
            (tape.abort if number == 2 else tape.finalize)()
            meta, _ = storage.get_meta(tape.tape_id)
            storage.set_meta(tape.tape_id, {**meta, "created_at": f"{day}T12:00:00.000Z", "name": HOSTILE})
    return manifest


class TestList:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ((), "t0 t1 t2"),
            (("--session", "s-0"), "t0 t2"),
            (("--tag", "x"), "t1 t2"),
            (("--status", "aborted"), "t2"),
            (("--after", "2026-11-02"), "t1 t2"),
            (("--before", "2026-11-02T12:00:00Z"), "t0"),
            (("--after", "2026-11-02T13:00:00+01:00", "--before", "2026-11-03"), "t1"),
            (("--session", "s-0", "--tag", "x"), "t2"),
            (("--tag", "nothing"), ""),
        ],
    )
    def test_filters(self, command: Command, filled: Path, options: tuple[str, ...], expected: str) -> None:
        assert listed(command, *options) == expected.split()

    def test_pages(self, command: Command, filled: Path) -> None:
        first = json.loads(command("tapes", "list", "--json", "--limit", "2").stdout)
        assert ([tape["tape_id"] for tape in first["tapes"]], first["cursor"]) == (["t0", "t1"], "t1")
        assert listed(command, "--limit", "2", "--cursor", "t1") == ["t2"]
        done = command("tapes", "list", "--limit", "2")
        assert done.stderr == b"shadowcat-registry: there are more: go on with --cursor t1\n"

    @pytest.mark.parametrize("options", [("--status", "x"), ("--limit", "0"), ("--after", "yesterday")])
    def test_wrong_use(self, command: Command, filled: Path, options: tuple[str, ...]) -> None:
        done = command("tapes", "list", *options)
        assert (done.returncode, done.stdout) == (2, b"")


class TestShow:
    def test_it_is_a_page_for_people(self, command: Command, filled: Path) -> None:
        done = command("tapes", "show", "t1")
        assert (done.returncode, done.stderr) == (0, b"")
        facts = dict(line.split(":", 1) for line in done.stdout.decode().splitlines())
        assert facts["tape_id"].strip() == "t1"
        assert facts["tags"].strip() == "x"
        assert facts["stats.frame_count"].strip() == "1"
        assert facts["checksum"].strip().startswith("sha256:")
        assert facts["name"].strip() == r"\x1b[2J\nclear \ud800"

    def test_for_programs_it_is_the_metadata(self, command: Command, filled: Path) -> None:
        answer = json.loads(command("tapes", "show", "t1", "--json").stdout)
        assert (answer["version"], answer["provider"]) == (1, "filesystem")
        assert answer["metadata"]["name"] == HOSTILE

    def test_one_that_is_not_there(self, command: Command, filled: Path) -> None:
        done = command("tapes", "show", "x")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"there is no tape 'x'" in done.stderr


class TestSearch:
    def test_a_storage_that_cannot_says_so(self, command: Command, filled: Path) -> None:
        done = command("tapes", "search", "ping")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"a storage of type 'filesystem' does not support search" in done.stderr

    def test_one_that_can_finds_frames(self, command: Command, manifest: Path) -> None:
        if "sqlite" not in sr.Catalog().names():
            pytest.skip("there is no type here that can search")
        manifest.write_text(
            MANIFEST.replace("type: filesystem", "type: sqlite").replace(
                "config: {directory: ./tapes}", "config: {path: ./tapes.db}"
            )
        )
        assert command("tapes", "import", *FILES).returncode == 0
        done = command("tapes", "search", "sequentialthinking", "--limit", "3", "--json")
        answer = json.loads(done.stdout)
        assert (done.returncode, len(answer["hits"])) == (0, 3)
        assert {"tape_id", "seq", "snippet", "score"} == answer["hits"][0].keys()
        rest = json.loads(
            command("tapes", "search", "sequentialthinking", "--json", "--cursor", answer["cursor"]).stdout
        )
        found = [(hit["tape_id"], hit["seq"]) for hit in [*answer["hits"], *rest["hits"]]]
        assert len(set(found)) == len(found)
        done = command("tapes", "search", 'C++ "tools/call" AND (')
        assert done.returncode == 1
        assert done.stderr.endswith(b"nothing was found\n")
        assert command("tapes", "search", "sequentialthinking").stdout.startswith(b"TAPE ID")


class TestFollow:
    def test_it_ends_with_the_tape(self, command: Command, filled: Path, tmp_path: Path) -> None:
        done = command("tapes", "follow", "t1")
        assert done.stdout == (tmp_path / "tapes" / "t1.jsonl").read_bytes()
        assert command("tapes", "follow", "t1", "--after", "0").stdout == b""

    def test_it_shows_what_another_process_records(self, manifest: Path, tmp_path: Path) -> None:
        with default_storage(manifest) as storage:
            tape = storage.record("s", tape_id="t")
            with subprocess.Popen(
                [sys.executable, "-m", "shadowcat_registry", "tapes", "follow", "t"],
                cwd=tmp_path,
                env=environment(),
                stdout=subprocess.PIPE,
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline().startswith(b'{"type":"init"')
                tape.append("client_to_server", b'"one"')
                assert b'"one"' in process.stdout.readline()
                tape.append("client_to_server", b'"two"')
                tape.finalize()
                assert b'"two"' in process.stdout.read()
            assert process.returncode == 0

    def test_one_that_is_not_there(self, command: Command, filled: Path) -> None:
        done = command("tapes", "follow", "x")
        assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
class TestOnATerminal:
    @pytest.mark.parametrize("words", ["export evil", "follow evil", "show evil", "list"])
    def test_a_tape_cannot_drive_it(self, manifest: Path, tmp_path: Path, words: str) -> None:
        import os
        import pty

        with (
            default_storage(manifest) as storage,
            storage.record("s", tape_id="evil", name=HOSTILE) as tape,
        ):
            tape.append_lines([b'\x1b[2J\xff \x07{"a":1}\r\n'])
        here, there = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "shadowcat_registry", "tapes", *words.split()],
            cwd=tmp_path,
            env=environment(),
            stdout=there,
            stderr=subprocess.PIPE,
        ) as process:
            os.close(there)
            shown = b""
            while True:
                try:
                    chunk = os.read(here, 65536)
                except OSError:  # the other side is closed
                    break
                if not chunk:
                    break
                shown += chunk
        os.close(here)
        assert process.returncode == 0
        assert b"evil" in shown
        assert b"\x1b" not in shown
        assert b"\x07" not in shown
