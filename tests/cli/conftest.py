"""The command, run as its users do: as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]

MANIFEST = """\
version: 1
defaults: {provider: filesystem}
providers:
  filesystem:
    type: filesystem
    config: {directory: ./tapes}
"""


def environment() -> dict[str, str]:
    """The surroundings, without what would change where the command looks."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SHADOWCAT")}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs `shadowcat-registry …` in a directory of its own; warnings are errors there too."""

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "shadowcat_registry", *map(str, arguments)],
            cwd=tmp_path,
            env=environment() | variables,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=50,
            check=False,
        )

    return run


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(MANIFEST)
    return path
