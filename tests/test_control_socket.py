"""Where control sockets are: one's own directory, names that nobody shares, and the remains of the dead."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shadowcat_registry.control_socket import (
    IS_SUPPORTED,
    ControlSocket,
    find,
    is_dead,
    listen,
    manifest_key,
)

from .conftest import short_directory
from .fakes import Running

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="this system has no Unix domain sockets")
MANIFEST = Path("/etc/shadowcat/registry.yaml")
OLD_SECONDS = 3600


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(autouse=True)
def _nothing_of_others(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """What else runs on this machine is not found."""
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    monkeypatch.setattr("shadowcat_registry.control_socket._LAST_RESORT", str(directory))


@pytest.fixture
def environ(directory: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(directory)}


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def age(path: Path) -> None:
    long_ago = time.time() - OLD_SECONDS
    os.utime(path, (long_ago, long_ago))


def dead_socket(environ: dict[str, str]) -> Path:
    """As a process leaves it that was killed."""
    listener, path = listen(MANIFEST, environ)
    listener.close()
    age(path)
    return path


class TestListening:
    def test_is_for_its_user_alone(self, environ: dict[str, str], closing: ExitStack) -> None:
        before = os.umask(0)
        try:
            listener, path = listen(MANIFEST, environ)
        finally:
            os.umask(before)
        closing.enter_context(listener)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent == Path(environ["XDG_RUNTIME_DIR"], "shadowcat-registry")

    def test_has_a_name_of_manifest_and_process(self, environ: dict[str, str], closing: ExitStack) -> None:
        listener, path = listen(MANIFEST, environ)
        closing.enter_context(listener)
        assert path.name.startswith(f"{manifest_key(MANIFEST)}-{os.getpid()}-")
        assert find(environ) == [ControlSocket(path, manifest_key(MANIFEST), os.getpid())]
        assert manifest_key(MANIFEST) != manifest_key(MANIFEST.with_name("other.yaml"))

    def test_twice_for_one_manifest_gives_two(self, environ: dict[str, str], closing: ExitStack) -> None:
        paths = set()
        for _ in range(2):
            listener, path = listen(MANIFEST, environ)
            closing.enter_context(listener)
            paths.add(path)
        assert {it.path for it in find(environ)} == paths

    def test_goes_elsewhere_where_the_name_would_be_too_long(
        self, directory: Path, closing: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = directory / ("x" * 90)
        long.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(directory))
        environ = {"XDG_RUNTIME_DIR": str(long)}
        listener, path = listen(MANIFEST, environ)
        closing.enter_context(listener)
        assert path.parent == directory / f"shadowcat-registry-{os.geteuid()}"
        assert len(os.fsencode(path)) <= 103
        assert [it.path for it in find(environ)] == [path]

    @pytest.mark.parametrize("kind", ["link", "open to others", "file", "theirs"])
    def test_never_uses_what_somebody_has_put_there(
        self, directory: Path, kind: str, monkeypatch: pytest.MonkeyPatch, closing: ExitStack
    ) -> None:
        hostile = directory / "shadowcat-registry"
        if kind == "link":
            (directory / "elsewhere").mkdir(mode=0o700)
            hostile.symlink_to("elsewhere")
        elif kind == "open to others":
            hostile.mkdir()
            hostile.chmod(0o777)
        elif kind == "file":
            hostile.touch()
        else:
            if os.geteuid() != 0:
                pytest.skip("only root can give a directory away")
            hostile.mkdir(mode=0o700)
            os.chown(hostile, 54321, -1)
        monkeypatch.setattr("tempfile.tempdir", str(directory))
        listener, path = listen(MANIFEST, {"XDG_RUNTIME_DIR": str(directory)})
        closing.enter_context(listener)
        assert path.parent.name == f"shadowcat-registry-{os.geteuid()}"
        assert not list(hostile.iterdir() if hostile.is_dir() else ())

    def test_says_why_no_directory_can_be_used(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hostile = directory / f"shadowcat-registry-{os.geteuid()}"
        hostile.touch()
        monkeypatch.setattr("tempfile.tempdir", str(directory))
        monkeypatch.setattr("shadowcat_registry.control_socket._LAST_RESORT", str(directory))
        with pytest.raises(OSError, match="is no directory of ours; remove it"):
            listen(MANIFEST, {})


class TestTheDead:
    def test_are_removed_by_the_next_that_starts(self, environ: dict[str, str], closing: ExitStack) -> None:
        dead = dead_socket(environ)
        listener, path = listen(MANIFEST, environ)
        closing.enter_context(listener)
        assert not dead.exists()
        assert path.exists()

    def test_are_not_taken_for_dead_while_they_may_be_about_to_listen(
        self, environ: dict[str, str], closing: ExitStack
    ) -> None:
        listener, path = listen(MANIFEST, environ)
        starting = path.with_name(path.name.replace(path.name[-13:-5], "00000000"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
            bound.bind(str(starting))  # and does not listen yet
            closing.enter_context(listener)
            other, _ = listen(MANIFEST, environ)
            closing.enter_context(other)
            assert starting.exists()
            age(starting)
            third, _ = listen(MANIFEST, environ)
            closing.enter_context(third)
            assert not starting.exists()

    def test_the_living_are_never_removed_however_old(
        self, environ: dict[str, str], closing: ExitStack
    ) -> None:
        listener, path = listen(MANIFEST, environ)
        closing.enter_context(listener)
        age(path)
        other, _ = listen(MANIFEST, environ)
        closing.enter_context(other)
        assert path.exists()
        assert not is_dead(path)

    def test_a_foreign_file_in_the_directory_stays(self, environ: dict[str, str], closing: ExitStack) -> None:
        dead = dead_socket(environ)
        strange = dead.with_name("strange.sock")
        strange.touch()
        age(strange)
        listener, _ = listen(MANIFEST, environ)
        closing.enter_context(listener)
        assert strange.exists()
        assert len(find(environ)) == 1

    def test_many_that_start_at_once_remove_none_of_each_other(
        self, environ: dict[str, str], closing: ExitStack
    ) -> None:
        stale = [dead_socket(environ) for _ in range(5)]
        started = [Running(lambda: listen(MANIFEST, environ)) for _ in range(16)]
        listening = [it.result() for it in started]
        for listener, _ in listening:
            closing.enter_context(listener)
        assert {it.path for it in find(environ)} == {path for _, path in listening}
        assert not any(path.exists() for path in stale)
        assert not any(is_dead(path) for _, path in listening)

    def test_of_a_process_that_was_killed_refuses(self, environ: dict[str, str]) -> None:
        program = (
            "import signal; from pathlib import Path\n"
            "from shadowcat_registry.control_socket import listen\n"
            f"listener, path = listen(Path({str(MANIFEST)!r})); print(path, flush=True); signal.pause()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], env=os.environ | environ, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            path = Path(process.stdout.readline().strip())
            assert not is_dead(path)
            process.kill()
            process.wait()
        assert is_dead(path)


class TestFinding:
    def test_skips_a_directory_and_a_file_that_are_not_ours(
        self, directory: Path, environ: dict[str, str], closing: ExitStack
    ) -> None:
        listener, path = listen(MANIFEST, environ)
        closing.enter_context(listener)
        path.parent.chmod(0o755)
        assert find(environ) == []
        path.parent.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(path, 54321, -1)
            assert find(environ) == []
