"""What is tested is what is installed, and it is whole."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shadowcat_registry

PACKAGE = Path(shadowcat_registry.__file__).parent
ROOT = Path(__file__).parents[1]


class TestInstallation:
    def test_the_tests_run_against_what_is_installed(self) -> None:
        distribution = importlib.metadata.distribution("shadowcat-registry")
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            assert PACKAGE.parent == ROOT
        else:
            assert Path(str(distribution.locate_file("shadowcat_registry"))) == PACKAGE

    def test_the_command_is_installed(self) -> None:
        (script,) = importlib.metadata.entry_points(group="console_scripts", name="shadowcat-registry")
        from shadowcat_registry.cli import main

        assert script.load() is main

    def test_it_is_typed(self) -> None:
        assert (PACKAGE / "py.typed").exists()

    def test_importing_a_name_that_does_not_exist_is_an_ordinary_error(self) -> None:
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            shadowcat_registry.nonsense  # noqa: B018


class TestSchemaFiles:
    def check(self, site: Path) -> None:
        """Both kinds of schema are found by the package in `site`, whatever the working directory."""
        program = (
            "from shadowcat_registry.schema_files import manifest_schema, provider_schema\n"
            "print(manifest_schema()['$id'], provider_schema('filesystem')['$id'])"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{program}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        assert "registry.schema.json" in done.stdout
        assert "filesystem.schema.json" in done.stdout

    def copy(self, to: Path) -> None:
        shutil.copytree(
            PACKAGE, to / "shadowcat_registry", ignore=shutil.ignore_patterns("__pycache__", "schemas")
        )

    def schemas(self) -> Path:
        from shadowcat_registry.schema_files import schema_directory

        return schema_directory()

    def test_they_are_found_from_a_wheel(self, tmp_path: Path) -> None:
        self.copy(tmp_path)
        shutil.copytree(self.schemas(), tmp_path / "shadowcat_registry" / "schemas")
        self.check(tmp_path)

    def test_they_are_found_from_a_checkout(self, tmp_path: Path) -> None:
        self.copy(tmp_path)
        shutil.copytree(self.schemas(), tmp_path / "schemas")
        self.check(tmp_path)

    def test_a_broken_installation_says_what_to_do(self, tmp_path: Path) -> None:
        self.copy(tmp_path)
        (tmp_path / "schemas").mkdir()  # somebody else's
        with pytest.raises(AssertionError, match="install shadowcat-registry again"):
            self.check(tmp_path)
