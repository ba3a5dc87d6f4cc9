"""`schema` as its users run it."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.editor import editor_schema
from shadowcat_registry.schema_files import manifest_schema, provider_schema

from .conftest import Command


class TestSchema:
    def test_without_a_type_it_is_that_of_the_manifest(self, command: Command) -> None:
        done = command("schema")
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout) == manifest_schema()

    @pytest.mark.parametrize("type_name", ["filesystem", "memory"])
    def test_that_of_a_type_is_that_of_its_config(self, command: Command, type_name: str) -> None:
        done = command("schema", type_name)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout) == provider_schema(type_name)

    def test_that_for_editors_is_written_whole_and_replaces_the_one_before(
        self, command: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "s.json").write_text("old")
        done = command("schema", "--editor", "-o", "s.json")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert json.loads((tmp_path / "s.json").read_text()) == editor_schema(Catalog())
        assert (tmp_path / "s.json").read_bytes() == command("schema", "--editor").stdout.replace(b"\r", b"")
        assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
        if sys.platform != "win32":
            assert stat.S_IMODE((tmp_path / "s.json").stat().st_mode) == 0o644

    def test_an_unknown_type_is_answered_with_those_there_are(self, command: Command) -> None:
        done = command("schema", "memry")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"(there is: filesystem, memory, sqlite); did you mean `memory`?" in done.stderr

    def test_a_type_has_no_schema_for_editors_of_its_own(self, command: Command) -> None:
        done = command("schema", "memory", "--editor")
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"give no TYPE with --editor" in done.stderr

    def test_where_nothing_can_be_written_it_says_why(self, command: Command, tmp_path: Path) -> None:
        done = command("schema", "-o", tmp_path / "missing" / "s.json")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"cannot write" in done.stderr
        assert b"Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []
