"""What is one user's alone: modes, owners, links, and writing whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shadowcat_registry.private import (
    check_private_directory,
    is_ours,
    make_private_directory,
    read_private,
    write_private,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")
SOMEBODY_ELSE = 54321
is_root = os.name == "posix" and os.geteuid() == 0


class TestADirectory:
    def test_is_made_for_its_user_alone_on_every_level(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            make_private_directory(tmp_path / "a" / "b")
        finally:
            os.umask(before)
        assert [stat.S_IMODE((tmp_path / part).stat().st_mode) for part in ("a", "a/b")] == [0o700, 0o700]
        make_private_directory(tmp_path / "a" / "b")

    def test_that_others_may_use_is_refused_and_left_as_it_is(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        with pytest.raises(OSError, match=r"others may use .* \(mode 0755\); chmod 700 it"):
            make_private_directory(tmp_path)
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755

    def test_that_is_a_link_is_refused_wherever_it_leads(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(OSError, match="no directory of ours; remove it"):
            make_private_directory(tmp_path / "link")

    def test_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="no directory of ours"):
            make_private_directory(tmp_path / "file")

    @pytest.mark.skipif(not is_root, reason="only root can give a directory away")
    def test_of_another_user_is_refused(self, tmp_path: Path) -> None:
        directory = tmp_path / "theirs"
        directory.mkdir(mode=0o700)
        os.chown(directory, SOMEBODY_ELSE, -1)
        assert not is_ours(directory)
        with pytest.raises(OSError, match=f"belongs to another user \\(uid {SOMEBODY_ELSE}\\)"):
            check_private_directory(directory)


class TestAFile:
    def test_is_written_for_its_user_alone_and_replaces_what_was_there(self, tmp_path: Path) -> None:
        path = tmp_path / "kept"
        path.write_bytes(b"old")
        path.chmod(0o644)
        write_private(path, b"new")
        assert path.read_bytes() == b"new"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]

    def test_that_cannot_be_written_leaves_the_old_one_and_no_draft(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "kept"
        write_private(path, b"old")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_private(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_is_read_up_to_its_bound(self, tmp_path: Path) -> None:
        path = tmp_path / "kept"
        write_private(path, b"12345")
        assert read_private(path, 5) == b"12345"
        with pytest.raises(OSError, match="larger than 4 bytes"):
            read_private(path, 4)

    @pytest.mark.parametrize("kind", ["link", "fifo", "directory", "writable by others"])
    def test_that_is_none_of_ours_is_not_read(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "kept"
        if kind == "link":
            write_private(tmp_path / "real", b"x")
            path.symlink_to("real")
        elif kind == "fifo":
            os.mkfifo(path, 0o600)
        elif kind == "directory":
            path.mkdir()
        else:
            path.write_bytes(b"x")
            path.chmod(0o666)
        with pytest.raises(OSError, match=r".+"):
            read_private(path, 10)
