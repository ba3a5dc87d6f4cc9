"""`validate` as its users run it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ..followers import OBEYING
from .conftest import MANIFEST, Command

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


class TestAValidManifest:
    def test_says_so_and_touches_nothing(self, process: Command, manifest: Path, tmp_path: Path) -> None:
        done = process("validate")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"registry.yaml: valid, 1 provider, default filesystem\n"
        assert [path.name for path in tmp_path.iterdir()] == ["registry.yaml"]

    def test_is_an_object_for_programs(self, command: Command, manifest: Path) -> None:
        done = command("validate", "--json", manifest)
        answer = json.loads(done.stdout)
        assert done.returncode == 0
        assert (answer["version"], answer["valid"], answer["findings"]) == (1, True, [])
        assert len(answer["digest"]) == 64

    def test_warnings_do_not_make_it_invalid(self, command: Command, manifest: Path) -> None:
        manifest.write_text(
            MANIFEST.replace(
                "{provider: filesystem}", "{provider: filesystem, config: {memory: {max_tapes: 3}}}"
            )
        )
        done = command("validate")
        assert done.returncode == 0
        lines = done.stdout.decode().splitlines()
        assert lines[0].startswith("warning[SC305]: ")
        assert lines[1] == " --> registry.yaml:2:43"
        assert lines[-1] == "registry.yaml: valid, 1 provider, default filesystem"

    def test_the_variable_names_the_manifest(self, command: Command, manifest: Path) -> None:
        elsewhere = manifest.rename(manifest.with_name("other.yaml"))
        assert command("validate").returncode == 1
        assert command("validate", SHADOWCAT_REGISTRY=str(elsewhere)).returncode == 0


WRONG = {
    "unknown type": ("type: filesystem", "type: filesistem", "5:11", "SC302"),
    "a type that is planned": ("type: filesystem", "type: s3", "5:11", "SC303"),
    "unknown key of a provider": ("    type:", "    tpye: x\n    type:", "5:5", "SC201"),
    "unknown key of a config": ("directory:", "directroy:", "6:14", "SC201"),
    "wrong type of value": ("./tapes", "[1]", "6:25", "SC203"),
    "missing required key": ("    type: filesystem\n", "", "4:3", "SC202"),
    "bad YAML": ("{directory: ./tapes}", "{directory: ./tapes", "6:13", "SC104"),
    "an undeclared default": ("{provider: filesystem}", "{provider: archive}", "2:22", "SC301"),
    "an unset variable": ("./tapes", '"${env:SHADOWCAT_NOT_SET}"', "6:25", "SC401"),
    "no version": ("version: 1\n", "", "1:1", "SC202"),
}


class TestAnInvalidManifest:
    @pytest.mark.parametrize("case", WRONG)
    def test_each_mistake_is_a_finding_with_its_place(
        self, command: Command, manifest: Path, tmp_path: Path, case: str
    ) -> None:
        old, new, place, code = WRONG[case]
        assert old in MANIFEST
        manifest.write_text(MANIFEST.replace(old, new))
        done = command("validate")
        assert done.returncode == 1, done.stdout
        assert done.stderr == b""
        first, arrow, bar, line, carets, *_ = done.stdout.decode().splitlines()
        assert first.startswith(f"error[{code}]: ")
        assert arrow == f" --> registry.yaml:{place}"
        assert (bar, line[:4]) == ("  |", f"{place.split(':')[0]} | ")
        column = int(place.split(":")[1])
        assert carets[: 4 + column] == "  | " + " " * (column - 1) + "^"
        assert set(carets[4 + column :]) <= {"^"}
        assert [path.name for path in tmp_path.iterdir()] == ["registry.yaml"]

    def test_a_misspelt_field_that_has_a_default_is_recognised(
        self, command: Command, manifest: Path
    ) -> None:
        manifest.write_text(MANIFEST.replace("directory", "directroy"))
        assert b"= help: did you mean `directory`?" in command("validate").stdout

    @pytest.mark.parametrize(
        ("old", "new", "codes"),
        [("providers:", "provders:", ["SC201"]), ("filesystem", "File_System", ["SC208"])],
    )
    def test_what_only_follows_from_a_mistake_is_not_said(
        self, command: Command, manifest: Path, old: str, new: str, codes: list[str]
    ) -> None:
        text = MANIFEST.replace("type: filesystem", "type: memory").replace(
            "    config: {directory: ./tapes}\n", ""
        )
        manifest.write_text(text.replace(old, new))
        findings = json.loads(command("validate", "--json").stdout)["findings"]
        assert [finding["code"] for finding in findings] == codes

    def test_all_mistakes_come_at_once_sorted_by_place(self, command: Command, manifest: Path) -> None:
        manifest.write_text(
            MANIFEST.replace("filesystem}", "nowhere}").replace("directory", "directroy") + "extra: 1\n"
        )
        done = command("validate", "--json")
        answer = json.loads(done.stdout)
        assert done.returncode == 1
        assert answer["valid"] is False
        assert [finding["line"] for finding in answer["findings"]] == [2, 6, 7]

    @pytest.mark.parametrize("arguments", [("validate",), ("providers",), ("run",), ("tapes", "list")])
    def test_a_missing_manifest_is_an_error_that_says_so(
        self, command: Command, arguments: tuple[str, ...]
    ) -> None:
        done = command(*arguments)
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 1
        first, *others = said.splitlines()
        assert first.endswith("there is no such file")
        assert len(others) == (3 if arguments == ("validate",) else 0)

    def test_a_directory_is_no_manifest(self, command: Command, tmp_path: Path) -> None:
        done = command("validate", tmp_path)
        assert done.returncode == 1
        assert b"it is a directory" in done.stdout

    @pytest.mark.skipif(not OBEYING and IS_ROOT, reason="root may read everything")
    @pytest.mark.parametrize("option", [(), ("-f",)])
    def test_one_that_may_not_be_read_is_a_finding_as_well(
        self, manifest: Path, tmp_path: Path, option: tuple[str, ...]
    ) -> None:
        manifest.chmod(0)
        arguments = [sys.executable, "-m", "shadowcat_registry", "validate", "--format", "json", *option]
        done = subprocess.run(
            [*OBEYING, *arguments, manifest], cwd=tmp_path, capture_output=True, check=False, timeout=60
        )
        (finding,) = json.loads(done.stdout)["findings"]
        assert (done.returncode, done.stderr, finding["code"]) == (1, b"", "SC117")
        assert finding["message"].endswith("Permission denied")

    def test_control_characters_do_not_reach_the_terminal(self, command: Command, manifest: Path) -> None:
        manifest.write_text(MANIFEST.replace("type: filesystem", 'type: "\\e[31mred"'))
        done = command("validate")
        assert done.returncode == 1
        assert b"\x1b" not in done.stdout


class TestWrongUse:
    def test_naming_it_twice_is_wrong_use(self, command: Command, manifest: Path) -> None:
        done = command("validate", "-f", manifest, manifest)
        assert done.returncode == 2
        assert b"name the manifest once" in done.stderr

    @pytest.mark.parametrize(
        "arguments", [(), ("nonsense",), ("validate", "--nonsense"), ("tapes", "import"), ("tapes", "export")]
    )
    def test_what_does_not_exist_is_wrong_use(self, command: Command, arguments: tuple[str, ...]) -> None:
        done = command(*arguments)
        assert done.returncode == 2
        assert b"Usage:" in done.stdout + done.stderr

    def test_help_and_version_are_fine(self, command: Command) -> None:
        for argument in ("--help", "-h", "--version"):
            assert command(argument).returncode == 0
        for name in ("validate", "run", "providers", "tapes", "demo", "explain"):
            assert name.encode() in command("--help").stdout
            assert command(name, "--help").returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
class TestAnUnreadableManifest:
    def test_it_says_why(self, command: Command, manifest: Path) -> None:
        manifest.chmod(0)
        try:
            if stat.S_IMODE(manifest.stat().st_mode) == 0 and _can_read(manifest):
                pytest.skip("root reads everything")
            done = command("validate")
        finally:
            manifest.chmod(0o600)
        assert done.returncode == 1
        assert b"ermission denied" in done.stdout


def _can_read(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True
