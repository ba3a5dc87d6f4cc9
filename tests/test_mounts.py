from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from shadowcat_registry import mounts
from shadowcat_registry.mounts import filesystem_of, inotify_limits, is_of_a_network

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TABLE = r"""22 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 28 0:50 / /mnt/team rw,relatime shared:5 master:1 - nfs4 server:/team rw,vers=4.2
41 40 0:51 / /mnt/team/local rw - tmpfs tmpfs rw
42 28 0:52 / /mnt/with\040space rw - cifs //server/share rw
43 28 0:53 / /mnt/twice rw - ext4 /dev/vdb rw
44 43 0:54 / /mnt/twice rw - fuse.sshfs me@there: rw
45 28
"""


class TestFileSystems:
    @pytest.mark.parametrize(
        ("path", "filesystem"),
        [
            ("/etc/registry.yaml", "ext4"),
            ("/mnt/team", "nfs4"),
            ("/mnt/team/conf", "nfs4"),
            ("/mnt/teams", "ext4"),
            ("/mnt/team/local/conf", "tmpfs"),
            ("/mnt/with space/conf", "cifs"),
            ("/mnt/twice/conf", "fuse.sshfs"),
        ],
    )
    def test_the_deepest_mount_on_top_counts(
        self, path: str, filesystem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mountinfo").write_text(TABLE)
        monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "mountinfo")
        assert filesystem_of(path) == filesystem

    def test_is_not_known_where_there_is_no_table(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "none")
        assert filesystem_of("/") is None

    @linux_only
    def test_is_what_the_system_says(self) -> None:
        assert filesystem_of("/proc/self") == "proc"

    @pytest.mark.parametrize("filesystem", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"])
    def test_some_do_not_tell_what_others_do(self, filesystem: str) -> None:
        assert is_of_a_network(filesystem)

    @pytest.mark.parametrize("filesystem", ["ext4", "tmpfs", "overlay", "btrfs", "fuseblk", "xfs"])
    def test_the_others_tell_everything(self, filesystem: str) -> None:
        assert not is_of_a_network(filesystem)


@linux_only
class TestLimits:
    def test_count_what_this_process_has(self) -> None:
        from shadowcat_registry.hints import Hints

        hints = Hints(lambda _: None)
        try:
            hints.arm({os.getcwd(): (0,), "/": (0,)}, (), {})  # noqa: PTH109 - plain strings
            with_it = inotify_limits()
        finally:
            hints.close()
        assert with_it is not None
        assert with_it.instances >= 1
        assert with_it.watches >= 2
        assert with_it.max_watches >= with_it.watches
        assert set(with_it.as_json()) == {
            "max_watches",
            "max_instances",
            "max_queued_events",
            "watches",
            "instances",
        }

    def test_are_not_known_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mounts, "_LIMITS", tmp_path)
        assert inotify_limits() is None
