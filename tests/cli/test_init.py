"""`init` as its users run it."""

from __future__ import annotations

import shlex
import stat
import sys
from pathlib import Path

import pytest

from shadowcat_registry.cli import files
from shadowcat_registry.schema_files import starter_manifest

from .conftest import Command


class TestInit:
    def test_it_writes_the_shipped_manifest_but_for_the_path_of_the_schema(
        self, command: Command, tmp_path: Path
    ) -> None:
        done = command("init")
        assert (done.returncode, done.stderr) == (0, b"")
        written = (tmp_path / "registry.yaml").read_bytes().decode()
        (ours, theirs), *others = [
            pair
            for pair in zip(written.splitlines(), starter_manifest().splitlines(), strict=True)
            if pair[0] != pair[1]
        ]
        assert not others
        assert ours == "# yaml-language-server: $schema=registry.editor.schema.json"
        assert theirs == "# yaml-language-server: $schema=schemas/registry.editor.schema.json"
        assert "\r" not in written
        if sys.platform != "win32":
            assert stat.S_IMODE((tmp_path / "registry.yaml").stat().st_mode) == 0o644

    def test_each_step_that_it_names_works(self, command: Command, tmp_path: Path) -> None:
        name = "other name.yaml"
        done = command("init", "-f", name)
        head, *lines = done.stdout.decode().splitlines()
        assert head == f"{name}: written. Next:"
        steps = [shlex.split(line, comments=True) for line in lines]
        assert [step[:2] for step in steps] == [
            ["shadowcat-registry", "schema"],
            ["shadowcat-registry", "validate"],
            ["shadowcat-registry", "providers"],
            ["shadowcat-registry", "run"],
        ]
        for _, *arguments in steps[:-1]:
            done = command(*arguments)
            assert (done.returncode, done.stderr) == (0, b""), arguments
        assert {path.name for path in tmp_path.iterdir()} == {name, "registry.editor.schema.json"}

    def test_it_never_replaces_anything(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "registry.yaml").write_text("mine")
        done = command("init")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"is there already: nothing was written" in done.stderr
        assert (tmp_path / "registry.yaml").read_text() == "mine"
        assert [path.name for path in tmp_path.iterdir()] == ["registry.yaml"]

    @pytest.mark.skipif(sys.platform == "win32", reason="symlinks need a privilege there")
    def test_a_link_to_nowhere_is_something_too(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "registry.yaml").symlink_to("nowhere.yaml")
        assert command("init").returncode == 1
        assert not (tmp_path / "nowhere.yaml").exists()

    def test_it_goes_where_the_variable_says(self, command: Command, tmp_path: Path) -> None:
        assert command("init", SHADOWCAT_REGISTRY="there.yaml").returncode == 0
        assert (tmp_path / "there.yaml").exists()

    def test_where_nothing_can_be_written_it_says_why(self, command: Command, tmp_path: Path) -> None:
        done = command("init", "-f", "missing/registry.yaml")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"cannot write" in done.stderr
        assert b"Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []


class TestWriteWhole:
    def test_who_comes_second_replaces_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Somebody writes the file between the look and the writing."""
        path = tmp_path / "registry.yaml"
        path.write_text("first")
        monkeypatch.setattr("os.path.lexists", lambda _: False)
        assert files.write_whole(path, "second", replace=False) is False
        assert path.read_text() == "first"
        assert [it.name for it in tmp_path.iterdir()] == ["registry.yaml"]

    def test_without_hard_links_it_is_written_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: Path, target: object) -> None:
            raise PermissionError

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        path = tmp_path / "registry.yaml"
        assert files.write_whole(path, "text", replace=False) is True
        assert path.read_text() == "text"
        assert files.write_whole(path, "more", replace=False) is False
        assert [it.name for it in tmp_path.iterdir()] == ["registry.yaml"]
