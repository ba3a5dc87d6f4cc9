"""`show` as its users run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command

RICH = """\
version: 1
defaults:
  provider: archive
  config:
    memory: {max_tapes: 7}
providers:
  archive:
    type: filesystem
    display_name: The archive
    config:
      directory: ${file:secret}
  scratch:
    type: memory
    config:
      max_bytes: 70000
  plain:
    type: memory
"""


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(RICH)
    (tmp_path / "secret").write_text("canary-3b9e\n")
    return path


class TestShow:
    def test_it_is_a_page_for_people_and_touches_nothing(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        done = command("show", "filesystem")
        assert (done.returncode, done.stderr) == (0, b"")
        text = done.stdout.decode()
        facts = dict(line.split(":", 1) for line in text.partition("\n\n")[0].splitlines())
        assert {name: fact.strip() for name, fact in facts.items()} == {
            "name": "filesystem",
            "display name": "Filesystem",
            "type": "filesystem 1.0.0",
            "description": "Tapes as JSON Lines files in a directory",
            "capabilities": "compression, local_storage, streaming",
            "declared at": f"{manifest}:4:3",
            "default": "yes",
            "health": "healthy",
        }
        rows = [line.split() for line in text.splitlines()]
        assert ["directory", str(tmp_path / "tapes"), f"{manifest}:6:25"] in rows
        assert [path.name for path in tmp_path.iterdir()] == ["registry.yaml"]

    def test_each_value_says_where_it_comes_from(self, command: Command, rich: Path) -> None:
        rows = [line.split() for line in command("show", "scratch").stdout.decode().splitlines()[-3:]]
        assert sorted(rows) == [
            ["deterministic_ids", "false", "default", "of", "the", "type"],
            ["max_bytes", "70000", f"{rich}:15:18"],
            ["max_tapes", "7", f"{rich}:5:25"],
        ]
        rows = [line.split(None, 2) for line in command("show", "plain").stdout.decode().splitlines()[-3:]]
        assert ["max_bytes", "67108864", "default of the type"] in rows

    def test_it_is_an_object_for_programs(self, command: Command, rich: Path) -> None:
        answer = json.loads(command("show", "scratch", "--json").stdout)
        assert answer["version"] == 1
        provider = answer["provider"]
        assert (provider["name"], provider["type"], provider["is_default"]) == ("scratch", "memory", False)
        assert provider["health"]["state"] == "healthy"
        assert provider["config"] == {"deterministic_ids": False, "max_bytes": 70000, "max_tapes": 7}
        assert provider["origins"] == {
            "/deterministic_ids": "default of the type",
            "/max_bytes": f"{rich}:15:18",
            "/max_tapes": f"{rich}:5:25",
        }

    @pytest.mark.parametrize("option", [(), ("--json",)])
    def test_a_secret_is_masked(self, command: Command, rich: Path, option: tuple[str, ...]) -> None:
        done = command("show", "archive", *option, "--log-level", "debug")
        assert done.returncode == 0
        assert b"***" in done.stdout
        assert b"canary-3b9e" not in done.stdout + done.stderr
        assert f"{rich}:11:18".encode() in done.stdout

    def test_a_name_that_is_not_declared_is_answered_with_those_that_are(
        self, command: Command, rich: Path
    ) -> None:
        done = command("show", "archiv")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"archive, scratch, plain" in done.stderr
        assert b"did you mean `archive`?" in done.stderr

    def test_what_could_not_be_opened_is_said(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        (tmp_path / "tapes").write_text("in the way")
        done = command("show", "filesystem")
        assert done.returncode == 1
        assert b"health:       failing: " in done.stdout

    def test_an_invalid_manifest_shows_its_findings(self, command: Command, manifest: Path) -> None:
        manifest.write_text("version: 1\nproviders: {a: {type: nothing}}\n")
        done = command("show", "a")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"SC302" in done.stderr
        assert b"Traceback" not in done.stderr

    def test_a_name_has_to_be_given(self, command: Command) -> None:
        assert command("show").returncode == 2
