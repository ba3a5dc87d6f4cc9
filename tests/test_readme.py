"""Everything in the README was run: here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from .reference import with_reference

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
if not README.exists():
    pytest.skip("the README is in a checkout only", allow_module_level=True)
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
MANIFESTS = [block for language, block in BLOCKS if language == "yaml"]
PROGRAMS = [block for language, block in BLOCKS if language == "python"]
PLUGIN = next(program for program in PROGRAMS if "@provider" in program)


def surroundings() -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SHADOWCAT")}
    scripts = str(Path(sys.executable).parent)
    return variables | {
        "PATH": scripts + os.pathsep + variables.get("PATH", ""),
        "TAPES": str(ROOT / "tests" / "data"),
    }


def put_plugin(directory: Path) -> Path:
    path = directory / "plugins" / "glacier.py"
    path.parent.mkdir(0o755)
    path.write_text(PLUGIN)
    path.chmod(0o644)  # whatever the umask is
    return path


class TestExamples:
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_every_program_runs_without_a_warning(self, tmp_path: Path, program: str) -> None:
        (tmp_path / "registry.yaml").write_text(MANIFESTS[0])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            env=surroundings(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.ci
    def test_the_plugin_is_a_storage(self, tmp_path: Path) -> None:
        from shadowcat_registry.testing.plugins import check_plugin

        report = check_plugin(put_plugin(tmp_path), quiet=True)
        assert report.failures == ()
        assert report.passed > 100

    @pytest.mark.skipif(
        sys.platform == "win32" or shutil.which("shadowcat-registry", path=surroundings()["PATH"]) is None,
        reason="needs a POSIX shell and the installed command",
    )
    def test_the_tutorial_prints_what_it_says(self, tmp_path: Path) -> None:
        (tmp_path / "registry.yaml").write_text(MANIFESTS[0])
        (tmp_path / "broken.yaml").write_text(MANIFESTS[1])
        (tmp_path / "health.yaml").write_text(next(text for text in MANIFESTS if "health:" in text))
        (tmp_path / "glacier.yaml").write_text(next(text for text in MANIFESTS if "plugins:" in text))
        (tmp_path / "glacier.yaml").chmod(0o644)
        put_plugin(tmp_path)
        try:
            self.follow_the_tutorial(tmp_path)
        finally:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended what it has begun
                os.kill(int((tmp_path / "run.pid").read_text()), signal.SIGKILL)

    def follow_the_tutorial(self, tmp_path: Path) -> None:
        for language, block in BLOCKS:
            if language != "console":
                continue
            for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                line, _, expected = step.partition("\n")
                done = subprocess.run(
                    ["sh", "-c", line],
                    cwd=tmp_path,
                    env=surroundings(),
                    capture_output=True,
                    text=True,
                    timeout=30,
                    check=False,
                )
                pattern = ".*".join(map(re.escape, expected.split("…")))
                assert re.fullmatch(pattern, done.stdout), (line, done.stdout, done.stderr)

    def test_every_manifest_is_valid_but_the_broken_one(self, tmp_path: Path) -> None:
        import shadowcat_registry as sr

        put_plugin(tmp_path)
        for number, text in enumerate(MANIFESTS):
            path = tmp_path / f"{number}.yaml"
            path.write_text(text)
            if number == 1:
                with pytest.raises(sr.ManifestError):
                    sr.load_manifest(path, sr.Catalog())
            else:
                assert sr.load_manifest(path, sr.Catalog()).default == "filesystem"


class TestWords:
    def test_every_command_is_documented(self) -> None:
        from shadowcat_registry.cli import cli

        for name in cli.list_commands(None):  # type: ignore[arg-type]
            assert f"| `{name}" in TEXT

    def test_the_reference_of_the_manifest_is_current(self) -> None:
        assert with_reference(TEXT) == TEXT, "run: python -m tests.reference"

    @pytest.mark.parametrize("name", ["`defaults.config.<name>`", "`providers.<name>.type`", "`max_bytes`"])
    def test_the_reference_has_the_fields_of_all_schemas(self, name: str) -> None:
        assert f"\n| {name} | " in TEXT

    def test_the_two_commands_are_there(self) -> None:
        assert len(re.findall(r"^sh \.ci/setup.*$", TEXT, re.MULTILINE)) == 2

    def test_the_shipped_manifest_is_valid(self) -> None:
        import shadowcat_registry as sr

        manifest = sr.load_manifest(ROOT / "registry.yaml", sr.Catalog(), environ={})
        assert manifest.default == "filesystem"
        assert manifest.warnings == ()
