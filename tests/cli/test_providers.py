"""`providers` as its users run it."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import MANIFEST, Command


class TestProviders:
    def test_it_is_a_table_for_people_and_touches_nothing(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        done = command("providers")
        assert (done.returncode, done.stderr) == (0, b"")
        head, row = done.stdout.decode().splitlines()
        assert head.split()[:5] == ["NAME", "TYPE", "VERSION", "DEFAULT", "HEALTH"]
        assert row.split()[:5] == ["filesystem", "filesystem", "1.0.0", "yes", "healthy"]
        assert row.endswith("registry.yaml:4:3")
        assert [path.name for path in tmp_path.iterdir()] == ["registry.yaml"]

    def test_it_is_an_object_for_programs(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        answer = json.loads(command("providers", "--json").stdout)
        assert answer["version"] == 1
        assert answer["default"] == "filesystem"
        (provider,) = answer["providers"]
        assert provider["origin"] == "manifest"
        assert provider["is_default"] is True
        assert provider["capabilities"] == ["compression", "local_storage", "streaming"]
        assert provider["config"]["directory"] == str(tmp_path / "tapes")

    def test_a_storage_that_could_not_be_opened_is_named(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "tapes").write_text("in the way")
        done = command("providers")
        assert done.returncode == 1
        assert b"failing: " in done.stdout
        assert b"Not a directory" in done.stdout

    def test_a_secret_from_a_file_is_masked(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("canary-7a1f\n")
        manifest.write_text(MANIFEST.replace("./tapes", '"${file:secret}"'))
        for arguments in (("providers",), ("providers", "--json"), ("validate", "--json")):
            done = command(*arguments, "--log-level", "debug")
            assert done.returncode == 0
            assert b"canary-7a1f" not in done.stdout + done.stderr

    def test_an_invalid_manifest_shows_its_findings(self, process: Command, manifest: Path) -> None:
        manifest.write_text(MANIFEST.replace("type: filesystem", "type: nothing"))
        done = process("providers")
        assert done.returncode == 1
        assert b"error[SC302]: " in done.stderr
        assert b"registry.yaml:5:11\n" in done.stderr
        assert b"5 |     type: nothing\n  |           ^^^^^^^\n" in done.stderr
        assert b"Traceback" not in done.stderr
