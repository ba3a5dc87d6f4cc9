"""`tapes` as its users run it, on real recordings."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import MANIFEST, Command, environment

DATA = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).parents[3] / "shared" / "tapes"
SMALL = "888ce258-926c-43d5-8acc-d935dbae9f8f"


def recordings(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.jsonl"))


class TestImportAndExport:
    @pytest.mark.parametrize("directory", [DATA, SHARED], ids=["small", "all"])
    def test_every_recording_comes_back_byte_for_byte(
        self, command: Command, manifest: Path, directory: Path
    ) -> None:
        files = recordings(directory)
        if not files:
            pytest.skip("the real recordings are not on this machine")
        done = command("tapes", "import", *files)
        assert (done.returncode, done.stderr) == (0, b"")
        assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["imported"] * len(files)
        for path in files:
            assert command("tapes", "export", path.stem).stdout == path.read_bytes()
            metadata = command("tapes", "export", "--metadata", path.stem).stdout
            assert metadata == path.with_suffix(".meta.json").read_bytes()
        listed = json.loads(command("tapes", "list", "--json").stdout)
        assert [tape["tape_id"] for tape in listed["tapes"]] == [path.stem for path in files]

    def test_again_it_is_identical_and_fine(self, command: Command, manifest: Path) -> None:
        files = recordings(DATA)
        assert command("tapes", "import", *files).returncode == 0
        done = command("tapes", "import", "--json", *files)
        assert done.returncode == 0
        assert {json.loads(line)["outcome"] for line in done.stdout.splitlines()} == {"identical"}

    def test_another_tape_of_that_id_differs_and_nothing_is_changed(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        original = DATA / f"{SMALL}.jsonl"
        assert command("tapes", "import", original).returncode == 0
        other = tmp_path / original.name
        other.write_bytes(original.read_bytes().replace(b'"seq":3,', b'"seq":4,'))
        done = command("tapes", "import", other)
        assert done.returncode == 1
        assert done.stdout.startswith(b"differs")
        assert command("tapes", "export", SMALL).stdout == original.read_bytes()

    def test_what_is_no_tape_is_refused_and_the_others_go_in(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        bad = {
            "empty.jsonl": b"",
            "text.jsonl": b"hello\n",
            "binary.jsonl": bytes(range(256)),
            "cut.jsonl": b"{",
        }
        for name, content in bad.items():
            (tmp_path / name).write_bytes(content)
        done = command("tapes", "import", *bad, DATA / f"{SMALL}.jsonl", "missing.jsonl", tmp_path)
        assert done.returncode == 1
        assert done.stdout.count(b"\n") == 1
        assert done.stdout.startswith(b"imported")
        said = done.stderr.decode()
        for name in bad:
            assert f"{name}:1:1: " in said
        assert "missing.jsonl" in said
        assert "Traceback" not in said
        assert {path.stem for path in (tmp_path / "tapes").glob("*.jsonl")} == {SMALL}

    def test_an_id_that_is_no_file_name_is_an_error(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "evil.jsonl").write_bytes(
            b'{"type":"init","version":"2.0","tape_id":"../evil","session_id":"s","created_at":"x"}\n'
        )
        done = command("tapes", "import", "evil.jsonl")
        assert done.returncode == 1
        assert b"cannot be a tape id" in done.stderr
        for tape_id in ("../registry", "a/b", ".lock", ""):
            done = command("tapes", "export", tape_id)
            assert done.returncode == 1
            assert b"cannot be a tape id" in done.stderr
            assert done.stdout == b""

    def test_a_tape_that_is_not_there_is_an_error(self, command: Command, manifest: Path) -> None:
        done = command("tapes", "export", "nothing-here")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"there is no tape 'nothing-here'" in done.stderr

    def test_a_torn_tail_is_left_out_and_said(self, process: Command, manifest: Path, tmp_path: Path) -> None:
        whole = (DATA / f"{SMALL}.jsonl").read_bytes()
        (tmp_path / "torn.jsonl").write_bytes(whole + b'{"type":"fra')
        done = process("tapes", "import", "torn.jsonl")
        assert done.returncode == 0
        assert b"12 bytes behind the last line end" in done.stderr
        assert process("tapes", "export", SMALL).stdout == whole

    def test_a_reader_that_leaves_is_no_traceback(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        command("tapes", "import", *recordings(DATA))
        with subprocess.Popen(
            [sys.executable, "-m", "shadowcat_registry", "tapes", "export", recordings(DATA)[-2].stem],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            said = process.stderr.read()
            process.wait(50)
        assert process.returncode in (0, 1)
        assert b"Traceback" not in said
        assert b"Exception ignored" not in said


class TestProviderOption:
    def test_without_a_default_it_says_what_there_is(self, command: Command, manifest: Path) -> None:
        manifest.write_text("version: 1\nproviders:\n  scratch: {type: memory}\n")
        done = command("tapes", "list")
        assert done.returncode == 1
        assert b"no default provider is set (there is: scratch)" in done.stderr

    def test_it_names_the_storage(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        manifest.write_text(MANIFEST + "  archive: {type: filesystem, config: {directory: ./archive}}\n")
        source = DATA / f"{SMALL}.jsonl"
        assert command("tapes", "import", "--provider", "archive", source).returncode == 0
        assert command("tapes", "export", SMALL).returncode == 1
        assert command("tapes", "export", SMALL, "--provider", "archive").stdout == source.read_bytes()
        assert not (tmp_path / "tapes" / source.name).exists()

    def test_one_that_is_not_declared_is_an_error_with_a_suggestion(
        self, command: Command, manifest: Path
    ) -> None:
        done = command("tapes", "list", "--provider", "filesytem")
        assert done.returncode == 1
        assert b"did you mean `filesystem`?" in done.stderr

    def test_a_directory_that_cannot_be_made_is_an_error(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "tapes").write_text("in the way")
        done = command("tapes", "list")
        assert done.returncode == 1
        assert b"cannot open the storage of provider 'filesystem'" in done.stderr
        assert b"Traceback" not in done.stderr


class TestList:
    def test_an_empty_storage_is_an_empty_table(self, command: Command, manifest: Path) -> None:
        done = command("tapes", "list")
        assert done.returncode == 0
        assert done.stdout.split() == b"TAPE ID NAME STATUS FRAMES SIZE CREATED".split()

    def test_a_name_cannot_drive_the_terminal(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        shutil.copy(DATA / f"{SMALL}.jsonl", tmp_path)
        metadata = json.loads((DATA / f"{SMALL}.meta.json").read_text())
        metadata["name"] = "\x1b[2J\nclear \ud800"
        (tmp_path / f"{SMALL}.meta.json").write_text(json.dumps(metadata))
        assert command("tapes", "import", f"{SMALL}.jsonl").returncode == 0
        done = command("tapes", "list")
        assert done.returncode == 0
        assert b"\x1b" not in done.stdout
        assert rb"\x1b[2J\nclear \ud800" in done.stdout
