"""`types` as its users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shadowcat_registry.catalog import Catalog

from .conftest import Command, environment


class TestTypes:
    def test_it_is_a_table_for_people(self, command: Command) -> None:
        done = command("types")
        assert (done.returncode, done.stderr) == (0, b"")
        head, *rows = done.stdout.decode().splitlines()
        assert head.split() == ["TYPE", "VERSION", "CAPABILITIES", "DESCRIPTION"]
        assert [row.split()[:3] for row in rows] == [
            ["filesystem", "1.0.0", "compression,"],
            ["memory", "1.0.0", "-"],
            ["sqlite", "1.0.0", "local_storage,"],
        ]
        assert rows[1].endswith("Tapes in the memory of the process, bounded, for tests")

    def test_it_is_an_object_for_programs(self, command: Command) -> None:
        done = command("types", "--json")
        assert (done.returncode, done.stderr) == (0, b"")
        answer = json.loads(done.stdout)
        assert answer["version"] == 1
        assert [it["name"] for it in answer["types"]] == list(Catalog().names())
        assert answer["types"][0] == {
            "name": "filesystem",
            "display_name": "Filesystem",
            "version": "1.0.0",
            "description": "Tapes as JSON Lines files in a directory",
            "capabilities": ["compression", "local_storage", "streaming"],
        }

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
    def test_on_a_full_disk_it_says_so(self, tmp_path: Path) -> None:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "shadowcat_registry", "types"],
                cwd=tmp_path,
                env=environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=50,
                check=False,
            )
        assert done.returncode == 1
        assert done.stderr == b"shadowcat-registry: cannot write the output: No space left on device\n"

    def test_it_takes_no_argument(self, command: Command) -> None:
        assert command("types", "memory").returncode == 2
