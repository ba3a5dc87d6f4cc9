"""A manifest is checked where the variables and files of production are absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import ManifestError
from shadowcat_registry.load import load_manifest

from .cli.conftest import Command, command
from .test_load import VAULT_SCHEMA, VaultFactory

__all__ = ["command"]  # a fixture


def codes(
    path: Path, config: str, schema: dict[str, Any] = VAULT_SCHEMA, *, unresolved: bool = True
) -> list[str]:
    path.write_text(f"version: 1\nproviders:\n  v: {{type: vault, config: {config}}}\n")
    refusal = ValueError("asked about a value that is not there")
    catalog = Catalog([VaultFactory(schema, refusal)])
    try:
        load_manifest(path, catalog, environ={"N": "no number"}, unresolved=unresolved)
    except ManifestError as error:
        return [finding.code for finding in error.findings]
    return []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.yaml"


class TestUnresolved:
    @pytest.mark.parametrize(
        "config",
        [
            "{token: '${env:UNSET}'}",
            "{token: '${env:UNSET:?say}'}",
            "{token: '${file:missing}'}",
            "{token: t, retries: '${env:N}'}",
            "{token: t, retries: '${env:UNSET:-x}', on: '${env:N}'}",
            "{token: t, tokens: ['${env:UNSET}', 'a-${env:UNSET}-b']}",
            "{token: '${env:UNSET}${env:UNSET}${env:UNSET}${env:UNSET}'}",
        ],
    )
    def test_a_reference_stands_for_any_value_of_its_field(self, path: Path, config: str) -> None:
        assert codes(path, config) == []
        assert codes(path, config, unresolved=False) != []

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ("{token: '${evn:X}'}", ["SC402"]),
            ("{token: '${env:X'}", ["SC402"]),
            ("{token: '${env:X:-${env:Y}}'}", ["SC403"]),
            ("{token: '${env:X}${nope}'}", ["SC402"]),
            ("{token: '${env:X}', '${env:Y}': 1}", ["SC201", "SC404"]),
            ("{tokn: '${env:X}'}", ["SC201"]),
            ("{token: '${env:X}', retries: -1}", ["SC205"]),
            ("{token: '${env:X}', labels: '${env:X}', options: {deep: x}}", ["SC203"]),
        ],
    )
    def test_everything_else_is_found(self, path: Path, config: str, expected: list[str]) -> None:
        assert codes(path, config) == expected

    def test_a_type_is_not_asked_about_what_is_not_known(self, path: Path) -> None:
        assert codes(path, "{token: '${env:X}'}") == []
        assert codes(path, "{token: t}") == ["SC210", "SC406"]

    def test_nor_does_a_rule_hold_that_looks_at_what_is_not_known(self, path: Path) -> None:
        schema = {
            "type": "object",
            "properties": {"a": {}, "b": {}},
            "not": {"properties": {"a": {"type": "string"}}, "required": ["a"]},
        }
        assert codes(path, "{a: '${env:X}'}", schema) == []
        assert codes(path, "{a: x}", schema) == ["SC209"]

    def test_neither_the_environment_nor_a_file_is_looked_at(self, path: Path) -> None:
        (path.parent / "secret").write_text("from the file")
        path.write_text(
            "version: 1\nproviders: {v: {type: vault, config: {token: '${file:secret}', url: '${env:N}'}}}"
        )
        loaded = load_manifest(path, Catalog([VaultFactory()]), environ={"N": "x"}, unresolved=True)
        assert loaded.providers["v"].config["token"] == "${file:secret}"
        assert loaded.providers["v"].config["url"] == "${env:N}"


class TestTheCommand:
    def test_it_is_for_ci(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "registry.yaml").write_text(
            "version: 1\nproviders: {m: {type: memory, config: {max_tapes: '${env:SHADOWCAT_NOT_SET}'}}}\n"
        )
        assert command("validate").returncode == 1
        done = command("validate", "--unresolved")
        assert (done.returncode, done.stderr) == (0, b"")
        assert b": valid, 1 provider" in done.stdout

    def test_two_formats_are_wrong_use(self, command: Command, tmp_path: Path) -> None:
        done = command("validate", "--json", "--format", "sarif")
        assert done.returncode == 2
        assert b"choose one format" in done.stderr
