"""The most common mistakes, and what is said about each, byte for byte in every format.

`SHADOWCAT_UPDATE_GOLDEN=1 pytest tests/cli/test_golden.py` writes the expected outputs anew; read the
difference before it is committed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from shadowcat_registry.cli import cli
from shadowcat_registry.cli.reports import sarif

GOLDEN = Path(__file__).parents[1] / "golden"
MISTAKES = sorted(GOLDEN.glob("*.yaml"))
FORMATS = ("text", "json", "sarif", "github")
UPDATE = "SHADOWCAT_UPDATE_GOLDEN"

_VERSION = sarif(())["runs"][0]["tool"]["driver"]["version"]


@pytest.fixture
def root_logger() -> Iterator[None]:
    """The command sets logging up for its process; here that is the process of all tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def output(mistake: Path, form: str) -> str:
    variables = {name: None for name in os.environ if name.startswith("SHADOWCAT")}
    arguments = ["validate", mistake.name, "--format", form]
    done = CliRunner(env=variables).invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == (0 if mistake.stem == "unused-defaults" else 1)
    return done.stdout.replace(f'"version": "{_VERSION}"', '"version": "…"')


@pytest.mark.usefixtures("root_logger")
class TestGolden:
    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("mistake", MISTAKES, ids=lambda path: path.stem)
    def test_what_is_said_is_what_was_agreed(
        self, mistake: Path, form: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        update = os.environ.get(UPDATE)
        monkeypatch.chdir(GOLDEN)
        said = output(mistake, form)
        expected = mistake.with_suffix(f".{form}")
        if update:
            expected.write_bytes(said.encode())
        assert said.encode() == expected.read_bytes()

    def test_there_are_those_twenty_and_nothing_is_left_over(self) -> None:
        assert len(MISTAKES) >= 20
        wanted = {path.with_suffix(f".{form}") for path in MISTAKES for form in ("yaml", *FORMATS)}
        assert set(GOLDEN.iterdir()) == wanted
