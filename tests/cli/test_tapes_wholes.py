"""`tapes backup` and `check`, as their users run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command

DATA = Path(__file__).parents[1] / "data"
MANIFEST = """\
version: 1
defaults: {provider: archive}
providers:
  archive: {type: sqlite}
  copy: {type: sqlite, config: {path: copy.db}}
  plain: {type: filesystem}
"""


@pytest.fixture
def filled(command: Command, tmp_path: Path) -> Path:
    (tmp_path / "registry.yaml").write_text(MANIFEST)
    assert command("tapes", "import", *sorted(DATA.glob("*.jsonl"))).returncode == 0
    return tmp_path


class TestBackup:
    def test_the_copy_holds_every_tape_byte_for_byte(self, command: Command, filled: Path) -> None:
        done = command("tapes", "backup", "copy.db")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"copy.db: all of archive, ")
        for path in sorted(DATA.glob("*.jsonl")):
            assert command("tapes", "export", "--provider", "copy", path.stem).stdout == path.read_bytes()
        assert command("tapes", "check", "--provider", "copy").stdout == b"copy: no damage\n"

    def test_nothing_is_replaced_unless_that_is_asked_for(self, command: Command, filled: Path) -> None:
        (filled / "copy.db").write_bytes(b"mine")
        done = command("tapes", "backup", "copy.db")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"--replace" in done.stderr
        assert (filled / "copy.db").read_bytes() == b"mine"
        answer = json.loads(command("tapes", "backup", "copy.db", "--replace", "--json").stdout)
        assert answer["provider"] == "archive"
        assert answer["size_bytes"] == (filled / "copy.db").stat().st_size > 10_000

    def test_where_it_cannot_be_made_says_so(self, command: Command, filled: Path) -> None:
        done = command("tapes", "backup", "nowhere/copy.db")
        assert done.returncode == 1
        assert b"No such file or directory" in done.stderr
        assert b"Traceback" not in done.stderr

    @pytest.mark.parametrize("words", [("backup", "x"), ("check",)])
    def test_a_storage_that_cannot_says_so(
        self, command: Command, filled: Path, words: tuple[str, ...]
    ) -> None:
        done = command("tapes", *words, "--provider", "plain")
        assert done.returncode == 1
        assert b"does not support" in done.stderr
        assert not (filled / "x").exists()


class TestCheck:
    def test_damage_is_told_by_the_tape(self, command: Command, filled: Path) -> None:
        path = filled / "tapes.db"
        content = bytearray(path.read_bytes())
        at = content.index(b'"env":{"message":')
        content[at] ^= 1
        path.write_bytes(content)
        done = command("tapes", "check")
        assert done.returncode == 1
        assert done.stdout.count(b"is damaged") == 1
        assert len(json.loads(command("tapes", "check", "--json").stdout)["damages"]) == 1
