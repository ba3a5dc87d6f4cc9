"""`run` as a deployment runs it: a process, a file that is edited, signals."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..plugins.worlds import plugin
from .conftest import MANIFEST, environment

ADDED = MANIFEST + "  archive: {type: filesystem, config: {directory: ./archive}}\n"


class Running:
    """A `run` process and its stream of lines; reading one ends with the process at the latest, and that
    with the timeout of the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.line())
        return event

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def started(directory: Path, *arguments: str, stderr: int | None = None) -> Iterator[Running]:
    """A command as a process that goes on."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "shadowcat_registry", *arguments],
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.kill()


def running(directory: Path, *arguments: str, stderr: int | None = None) -> AbstractContextManager[Running]:
    return started(directory, "run", *arguments, stderr=stderr)


def save_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def save_atomically(path: Path, text: str) -> None:
    draft = path.with_name(".draft")
    draft.write_text(text)
    draft.replace(path)


def save_by_link(path: Path, text: str) -> None:
    """As a release script does: the name is a link, and a new link takes its place."""
    target = path.with_name(f"release-{len(list(path.parent.iterdir()))}.yaml")
    target.write_text(text)
    link = path.with_name(".link")
    link.symlink_to(target.name)
    link.replace(path)


class TestFollowing:
    @pytest.mark.parametrize("save", [save_in_place, save_atomically, save_by_link])
    def test_each_way_to_save_gives_one_event(
        self, manifest: Path, save: Callable[[Path, str], None]
    ) -> None:
        if save is save_by_link and sys.platform == "win32":
            pytest.skip("links need a privilege there")
        with running(manifest.parent, "--json") as run:
            started = run.event()
            assert (started["version"], started["event"], started["generation"]) == (1, "started", 1)
            assert started["added"] == ["filesystem"]
            assert started["default"] == "filesystem"
            save(manifest, ADDED)
            committed = run.event()
            assert (committed["event"], committed["generation"]) == ("committed", 2)
            assert committed["added"] == ["archive"]
            assert committed["digest"] != started["digest"]
            save(manifest, ADDED.replace("type: filesystem\n", "type: filesistem\n"))
            rejected = run.event()
            assert (rejected["event"], rejected["generation"]) == ("rejected", 2)
            assert rejected["digest"] == committed["digest"]
            (finding,) = rejected["findings"]
            assert (finding["code"], finding["line"], finding["column"]) == ("SC302", 5, 11)
            save(manifest, MANIFEST)
            assert run.event()["removed"] == ["archive"]
            assert run.end() == 0
            assert run.event()["event"] == "stopped"
            assert run.line() == ""

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
    def test_sighup_reports_a_bad_file_at_once_and_the_good_one_clears_it(self, manifest: Path) -> None:
        with running(manifest.parent, "--json") as run:
            assert run.event()["event"] == "started"
            manifest.write_text("nonsense")
            run.process.send_signal(signal.SIGHUP)
            assert run.event()["event"] == "rejected"
            save_atomically(manifest, MANIFEST)
            assert run.event()["event"] == "recovered"
            assert run.end(signal.SIGINT) == 0

    def test_a_missing_file_is_no_change_and_is_said(self, manifest: Path) -> None:
        with running(manifest.parent, "--json") as run:
            assert run.event()["event"] == "started"
            manifest.unlink()
            degraded = run.event()
            assert (degraded["event"], degraded["generation"]) == ("degraded", 1)
            manifest.write_text(MANIFEST)
            assert run.event()["event"] == "recovered"
            assert run.end() == 0

    def test_for_people_an_event_is_a_line_and_findings_are_more(self, manifest: Path) -> None:
        with running(manifest.parent) as run:
            assert (
                run.line().split("  ", 1)[1]
                == "started    generation 1; added filesystem; default filesystem"
            )
            save_atomically(manifest, MANIFEST.replace("directory", "directroy"))
            assert "rejected" in run.line()
            assert "registry.yaml:6:14: error SC201: " in run.line()
            assert run.end() == 0


class TestStarting:
    def test_an_invalid_manifest_ends_it_with_its_findings(self, manifest: Path) -> None:
        manifest.write_text(MANIFEST.replace("filesystem}", "nowhere}").replace("directory", "directroy"))
        with running(manifest.parent, stderr=subprocess.PIPE) as run:
            _, said = run.process.communicate(timeout=30)
        assert run.process.returncode == 1
        assert re.findall(r"^error\[(\w+)\]: .*\n --> .*registry\.yaml:([\d:]+)$", said, re.MULTILINE) == [
            ("SC301", "2:22"),
            ("SC201", "6:14"),
        ]
        assert "6 |     config: {directroy: ***}\n  |              ^^^^^^^^^\n" in said

    def test_a_directory_that_cannot_be_made_is_a_finding(self, manifest: Path, tmp_path: Path) -> None:
        (tmp_path / "tapes").write_text("in the way")
        with running(manifest.parent, stderr=subprocess.PIPE) as run:
            _, said = run.process.communicate(timeout=30)
        assert run.process.returncode == 1
        assert "error[SC701]: cannot open the storage of provider 'filesystem'" in said
        assert "registry.yaml:4:3\n" in said
        assert "Traceback" not in said

    def test_what_a_plugin_prints_is_no_event(self, manifest: Path) -> None:
        file = manifest.with_name("glacier.py")
        file.write_text(f"print('loaded')\n{plugin()}")
        file.chmod(0o644)
        manifest.write_text(MANIFEST + "plugins: {probe: false, sources: [{path: glacier.py}]}\n")
        with running(manifest.parent, "--json", stderr=subprocess.PIPE) as run:
            assert run.event()["event"] == "started"
            assert run.process.stderr is not None
            assert run.process.stderr.readline() == "loaded\n"
            assert run.end() == 0


class TestEnding:
    @pytest.mark.skipif(sys.platform != "linux", reason="sends to a thread by its number")
    def test_a_signal_that_reaches_another_thread_ends_it_too(self, manifest: Path) -> None:
        with running(manifest.parent, "--json") as run:
            assert run.event()["event"] == "started"
            save_atomically(manifest, ADDED)
            assert run.event()["event"] == "committed"  # by now the main thread has nothing to do but wait
            pid = run.process.pid
            others = [int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid]  # noqa: PTH208
            ctypes.CDLL(None).tgkill(pid, others[0], signal.SIGTERM)
            assert run.event()["event"] == "stopped"
            assert run.process.wait(20) == 0

    @pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent there")
    def test_a_signal_that_comes_twice_at_once_ends_it_as_cleanly(self, manifest: Path) -> None:
        with running(manifest.parent, "--json", stderr=subprocess.PIPE) as run:
            assert run.event()["event"] == "started"
            run.process.send_signal(signal.SIGINT)  # as a terminal and a supervisor do together
            run.process.send_signal(signal.SIGTERM)
            run.process.send_signal(signal.SIGINT)
            assert run.event()["event"] == "stopped"
            assert run.process.wait(20) == 0
            assert run.process.stderr is not None
            assert run.process.stderr.read() == ""

    def test_a_reader_that_leaves_ends_it(self, manifest: Path) -> None:
        with running(manifest.parent, "--json", stderr=subprocess.PIPE) as run:
            assert run.event()["event"] == "started"
            assert run.process.stdout is not None
            run.process.stdout.close()
            save_atomically(manifest, ADDED)
            assert run.process.wait(20) == 1
            assert run.process.stderr is not None
            assert "Traceback" not in run.process.stderr.read()

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a FIFO")
    def test_a_fifo_is_no_manifest_and_does_not_hang_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "registry.yaml")
        with running(tmp_path, stderr=subprocess.PIPE) as run:
            _, said = run.process.communicate(timeout=30)
        assert run.process.returncode == 1
        assert "cannot read the manifest" in said
