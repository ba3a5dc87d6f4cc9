"""The command, as its users run it: most tests call its entry point in a directory of their own, which takes
a tenth of the time; those that are about the process itself start one."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shadowcat_registry as sr
from shadowcat_registry.cli import main

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
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls `shadowcat-registry …` in `tmp_path`; keywords are variables of the environment."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
        argv = ["shadowcat-registry", *map(str, arguments)]
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, logging_as_it_was():
            patch.setattr(sys, "argv", argv)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        said, complained = (stream.detach() for stream in (out, err))
        assert isinstance(said, io.BytesIO)
        assert isinstance(complained, io.BytesIO)
        return subprocess.CompletedProcess(argv, code or 0, said.getvalue(), complained.getvalue())

    return run


@pytest.fixture
def process(tmp_path: Path) -> Command:
    """The same as a process of its own, where warnings are errors."""

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


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """A command sets up the logging of its process."""
    root, events = logging.getLogger(), logging.getLogger("shadowcat_registry.events")
    before = root.level, root.handlers[:], events.level
    try:
        yield
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        events.setLevel(before[2])


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(MANIFEST)
    return path


@contextmanager
def default_storage(manifest: Path) -> Iterator[sr.TapeStorage]:
    """What the commands work on, from within the test."""
    with (
        sr.open_registry(manifest, watch=False) as runtime,
        runtime.registry.get_default_storage() as storage,
    ):
        yield storage
