"""`tapes verify`, `prune` and `delete`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import MANIFEST, Command, default_storage

DATA = Path(__file__).parents[1] / "data"
FILES = sorted(DATA.glob("*.jsonl"))


@pytest.fixture
def filled(command: Command, manifest: Path) -> Path:
    """Three tapes, the second of which has a turned bit, and a torn tail behind the third."""
    with default_storage(manifest) as storage:
        for name in "abc":
            with storage.record("s", tape_id=name) as tape:
                tape.append("client_to_server", b'"mine"')
    return manifest


class TestVerify:
    def test_the_recordings_are_fine(self, command: Command, manifest: Path) -> None:
        command("tapes", "import", *FILES)
        done = command("tapes", "verify")
        assert (done.returncode, done.stderr) == (0, b"")
        assert [line.split()[:2] for line in done.stdout.decode().splitlines()] == [
            ["ok", path.stem] for path in FILES
        ]

    def test_what_is_wrong_is_told_with_its_place(
        self, command: Command, filled: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "tapes" / "b.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"seq":0', b'"seq":1').replace(b"mine", b"yurs"))
        done = command("tapes", "verify")
        assert done.returncode == 1
        said = done.stdout.decode().splitlines()
        assert [line.split()[0] for line in said if not line.startswith(" ")] == ["ok", "bad", "ok"]
        offset = len(path.read_bytes().splitlines(keepends=True)[0])
        assert f"     line 2 (byte {offset}): frame 1 follows here, frame 0 is missing" in said
        assert "     the records are not those that were finalized: their SHA-256 is another" in said

    def test_for_programs_it_is_a_line_a_tape(self, command: Command, filled: Path) -> None:
        done = command("tapes", "verify", "--json", "a", "x", "c")
        assert done.returncode == 1
        first, missing, last = map(json.loads, done.stdout.splitlines())
        assert (first["tape_id"], first["ok"], first["checksum"], first["flaws"]) == (
            "a",
            True,
            "matches",
            [],
        )
        assert (missing["tape_id"], missing["ok"]) == ("x", False)
        assert "there is no tape 'x'" in missing["error"]
        assert last["tape_id"] == "c"

    def test_metadata_that_is_none_does_not_stop_it(
        self, command: Command, filled: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "tapes" / "a.meta.json").write_text("[]")
        done = command("tapes", "verify")
        assert done.returncode == 1
        assert b"the metadata of tape 'a' is invalid" in done.stderr
        assert [line.split()[1] for line in done.stdout.decode().splitlines()] == ["b", "c"]
        assert b"Traceback" not in done.stderr

    def test_an_id_that_is_none_is_told(self, command: Command, filled: Path) -> None:
        done = command("tapes", "verify", "../x", "a")
        assert done.returncode == 1
        assert b"cannot be a tape id" in done.stderr


class TestPrune:
    @pytest.fixture
    def bounded(self, filled: Path) -> Path:
        filled.write_text(MANIFEST.replace("./tapes}", "./tapes, retention: {max_tapes: 1}}"))
        return filled

    def test_a_dry_run_says_what_would_go(self, command: Command, bounded: Path) -> None:
        done = command("tapes", "prune", "--dry-run")
        assert (done.returncode, done.stderr) == (0, b"")
        said = done.stdout.decode().splitlines()
        assert [line.split()[3] for line in said[:-1]] == ["a", "b"]
        assert said[0].startswith("would be removed  a  ")
        assert said[-1].startswith("2 tapes would be removed")
        assert json.loads(command("tapes", "list", "--json").stdout)["tapes"][0]["tape_id"] == "a"

    def test_it_removes_them(self, command: Command, bounded: Path) -> None:
        answer = json.loads(command("tapes", "prune", "--json").stdout)
        assert [(gone["tape_id"], gone["rule"]) for gone in answer["removed"]] == [
            ("a", "max_tapes"),
            ("b", "max_tapes"),
        ]
        assert (answer["tape_count"], answer["exceeded"], answer["dry_run"]) == (1, [], False)
        assert command("tapes", "prune").stdout.startswith(b"0 tapes removed, 0 B; 1 left, ")

    def test_without_a_retention_it_says_so(self, command: Command, filled: Path) -> None:
        done = command("tapes", "prune")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"its config has no `retention`" in done.stderr


class TestDelete:
    def test_it_deletes_what_it_is_told_to(self, command: Command, filled: Path, tmp_path: Path) -> None:
        done = command("tapes", "delete", "--yes", "a", "c")
        assert (done.returncode, done.stdout) == (0, b"deleted  a\ndeleted  c\n")
        assert {path.name for path in (tmp_path / "tapes").glob("*.json*")} == {"b.jsonl", "b.meta.json"}

    def test_one_that_is_not_there_does_not_stop_it(self, command: Command, filled: Path) -> None:
        done = command("tapes", "delete", "-y", "x", "../y", "a", "--json")
        assert done.returncode == 1
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert ["error" in answer for answer in answers] == [True, True, False]

    def test_where_nobody_can_be_asked_it_wants_a_yes(self, process: Command, filled: Path) -> None:
        done = process("tapes", "delete", "a")
        assert done.returncode == 2
        assert b"say --yes" in done.stderr

    def test_one_that_is_recorded_is_busy(self, command: Command, filled: Path) -> None:
        with default_storage(filled) as storage:
            tape, _ = storage.resume("a")
            done = command("tapes", "delete", "-y", "a")
            tape.finalize()
        assert done.returncode == 1
        assert b"tape 'a' is being recorded" in done.stderr
