"""What the system may do to whoever follows a file: real limits, mounts and permissions, on a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shadowcat_registry.watch import Watch

from .fakes import until
from .followers import OBEYING, Follower, digest_of, following, manifest_text

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
OLD, NEW, NEWER = (manifest_text(word) for word in ("old", "new", "newer"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    path = tmp_path / "conf" / "registry.yaml"
    path.write_text(OLD)
    os.utime(path, (1, 1))
    return path


def replace(path: Path, text: str) -> None:
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.replace(path)


def limited(name: str, value: int) -> list[str]:
    """In a user namespace of its own, whose limits are nobody else's."""
    set_it = f'echo {value} > /proc/sys/user/{name} && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "sh", "-c", set_it, "sh"]


def raise_limit(pid: int, name: str) -> None:
    set_it = f"echo 1000 > /proc/sys/user/{name}"
    command = ["nsenter", "--user", "--preserve-credentials", f"--target={pid}", "sh", "-c", set_it]
    subprocess.run(command, check=True)


def can_limit() -> bool:
    try:
        command = [*limited("max_inotify_instances", 1), "true"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def run(path: Path) -> list[str]:
    return [sys.executable, "-m", "shadowcat_registry", "run", "--json", "--log-level", "info", str(path)]


@linux_only
class TestLimits:
    @contextmanager
    def following(self, manifest: Path, name: str, errors: Path) -> Iterator[Follower]:
        if not can_limit():
            pytest.skip("no user namespace with limits of its own can be made here")
        with following(manifest, command=[*limited(name, 0), *run(manifest)], stderr=errors) as follower:
            yield follower

    @pytest.mark.ci
    @pytest.mark.parametrize("name", ["max_inotify_instances", "max_inotify_watches"])
    def test_that_are_exhausted_leave_the_look(self, manifest: Path, tmp_path: Path, name: str) -> None:
        errors = tmp_path / "stderr"
        with self.following(manifest, name, errors) as follower:
            replace(manifest, NEW)
            follower.wait_for_digest(digest_of(NEW))
            manifest.write_text(NEWER)
            follower.wait_for_digest(digest_of(NEWER))
            assert follower.end() == 0
        assert errors.read_text().count("no file events, only a look now and then: ") == 1
        assert "Traceback" not in errors.read_text()

    @pytest.mark.long
    @pytest.mark.timeout(200)
    def test_that_are_raised_again_bring_the_events_back(self, manifest: Path, tmp_path: Path) -> None:
        errors = tmp_path / "stderr"
        name = "max_inotify_instances"
        with self.following(manifest, name, errors) as follower:
            # It says that it has started before it watches.
            until(lambda: "no file events" in errors.read_text())
            raise_limit(follower.process.pid, name)
            deadline = time.monotonic() + 120
            while "file events are back" not in errors.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.5)
            replace(manifest, NEW)
            follower.wait_for_digest(digest_of(NEW))
            assert follower.end() == 0


@linux_only
class TestPlaces:
    @pytest.mark.ci
    @pytest.mark.skipif(not OBEYING and IS_ROOT, reason="root may read everything")
    @pytest.mark.parametrize("what", ["file", "directory"])
    def test_a_permission_that_is_lost_is_told_and_its_return_too(self, manifest: Path, what: str) -> None:
        where = manifest if what == "file" else manifest.parent
        with following(manifest, obeys_permissions=True) as follower:
            mode = where.stat().st_mode & 0o777
            where.chmod(0)
            lost = follower.wait_for(lambda event: event["event"] == "degraded")
            assert lost["digest"] == digest_of(OLD)
            assert "ermission denied" in lost["findings"][0]["message"]
            where.chmod(mode)
            follower.wait_for(lambda event: event["event"] == "recovered")
            replace(manifest, NEW)
            follower.wait_for_digest(digest_of(NEW))
            assert follower.end() == 0

    @pytest.mark.ci
    @pytest.mark.skipif(not IS_ROOT or not shutil.which("mount"), reason="needs root")
    def test_a_mount_that_goes_and_comes_back(self, manifest: Path) -> None:
        directory = manifest.parent

        def mount(text: str) -> None:
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(directory)], check=True)
            manifest.write_text(text)

        def unmount() -> None:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)

        manifest.unlink()
        mount(OLD)
        try:
            with following(manifest) as follower:
                unmount()
                follower.wait_for(lambda event: event["event"] == "degraded")
                mount(NEW)
                follower.wait_for_digest(digest_of(NEW))
                count = len(follower.events)
                replace(manifest, NEWER)
                follower.wait_for_digest(digest_of(NEWER))
                assert len(follower.events) == count + 1
                assert follower.end() == 0
        finally:
            unmount()


class TestClocks:
    def test_a_file_from_the_future_is_followed_as_any_other(self, manifest: Path) -> None:
        # As after the clock of the machine, or of a file server, was set back.
        os.utime(manifest, (time.time() + 86_400, time.time() + 86_400))
        seen: list[str] = []
        watch = Watch(
            lambda: [manifest], lambda: seen.append(manifest.read_text()), poll_interval_seconds=0.05
        )
        watch.start()
        try:
            until(lambda: seen == [OLD])
            checks = watch.status().checks
            until(lambda: watch.status().checks > checks)
            replace(manifest, NEW)
            os.utime(manifest, (time.time() + 86_400, time.time() + 86_400))
            until(lambda: seen[-1] == NEW)
            checks = watch.status().checks
            until(lambda: watch.status().checks >= checks + 15)
            assert seen == [OLD, NEW]
        finally:
            watch.stop()
