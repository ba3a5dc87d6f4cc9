from __future__ import annotations

import hashlib
import itertools
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry import sight
from shadowcat_registry.sight import MOVING, NOTHING, look, probe, read_settled, trace

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege on Windows")


class TestTheWay:
    def test_of_a_plain_file_is_its_directory_and_the_one_above(self, tmp_path: Path) -> None:
        base = tmp_path.resolve()
        (base / "conf").mkdir()
        way = trace(str(base / "conf" / "registry.yaml"))
        assert way.file == str(base / "conf" / "registry.yaml")
        assert way.directories == {str(base / "conf"), str(base)}
        assert way.entries == {str(base / "conf"), way.file}

    @needs_links
    def test_over_a_config_map_names_every_link(self, tmp_path: Path) -> None:
        base = tmp_path.resolve()
        (base / "..2024").mkdir()
        (base / "..data").symlink_to("..2024")
        (base / "registry.yaml").symlink_to("..data/registry.yaml")
        way = trace(str(base / "registry.yaml"))
        assert way.file == str(base / "..2024" / "registry.yaml")
        assert way.entries >= {
            str(base / "registry.yaml"),
            str(base / "..data"),
            str(base / "..2024"),
            way.file,
        }
        assert way.directories == {str(base), str(base.parent), str(base / "..2024")}

    @needs_links
    def test_goes_up_from_where_a_link_leads(self, tmp_path: Path) -> None:
        base = tmp_path.resolve()
        (base / "a" / "b").mkdir(parents=True)
        (base / "link").symlink_to("a/b")
        assert trace(f"{base}/link/../file").file == str(base / "a" / "file")

    @needs_links
    def test_in_a_circle_ends(self, tmp_path: Path) -> None:
        (tmp_path / "one").symlink_to("two")
        (tmp_path / "two").symlink_to("one")
        way = trace(str(tmp_path / "one"))
        assert str(tmp_path.resolve() / "two") in way.entries

    @needs_links
    @given(data=st.data())
    def test_ends_where_realpath_does(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        base = tmp_path_factory.mktemp("way").resolve()
        places = [base]
        for i in range(data.draw(st.integers(0, 6))):
            at = data.draw(st.sampled_from(places))
            new = at / f"n{i}"
            if data.draw(st.booleans()):
                new.mkdir()
            else:
                target = data.draw(st.sampled_from(places))
                new.symlink_to(target if data.draw(st.booleans()) else os.path.relpath(target, at.resolve()))
            places.append(new)
        path = f"{data.draw(st.sampled_from(places))}/file"
        assert trace(path).file == os.path.realpath(path)


class TestALook:
    def test_gives_signature_and_digest(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        os.utime(path, (1, 1))
        seen = look(str(path))
        assert seen == sight.Sight(probe(str(path)), hashlib.sha256(b"content").hexdigest(), is_young=False)

    def test_says_that_a_file_written_just_now_is_young(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        ahead = path.stat().st_mtime + 60  # whatever the clock of the file system says
        os.utime(path, (ahead, ahead))
        assert look(str(path)).is_young

    def test_of_an_empty_file_a_missing_one_and_below_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        assert look(str(path)) == sight.Sight(NOTHING, "missing")
        path.touch()
        assert look(str(path)).content == "empty"
        assert look(str(path / "below")).content == "missing"

    def test_never_opens_what_is_no_regular_file(self, tmp_path: Path) -> None:
        assert look(str(tmp_path)).content == "unreadable"
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / "pipe")
            assert look(str(tmp_path / "pipe")).content == "unreadable"

    def test_of_a_file_that_moves_under_it_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        digest = hashlib.file_digest

        def digest_while_written(*args: object) -> object:
            found = digest(*args)  # type: ignore[arg-type]
            with path.open("ab") as file:
                file.write(b"more")
            return found

        monkeypatch.setattr(hashlib, "file_digest", digest_while_written)
        assert look(str(path)).content == MOVING

    def test_sees_another_signature_after_each_way_to_change(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"one")
        os.utime(path, ns=(1, 1))
        before = probe(str(path))
        other = tmp_path / "other"
        other.write_bytes(b"two")
        os.utime(other, ns=(1, 1))
        other.replace(path)
        assert probe(str(path)) != before


class TestReadSettled:
    def test_gives_the_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        content = os.urandom(3_000_000)
        path.write_bytes(content)
        assert read_settled(path) == content
        assert read_settled(path, limit_bytes=10) == content[:10]
        assert read_settled(path, limit_bytes=2_000_000) == content[:2_000_000]

    def test_raises_what_the_system_says(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_settled(tmp_path / "file")
        with pytest.raises(OSError, match=r"it is a directory|Permission"):
            read_settled(tmp_path)

    def test_reads_a_young_file_twice_because_a_write_stamps_it_when_it_begins(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        reads = itertools.count()
        ahead = path.stat().st_mtime + 60
        os.utime(path, (ahead, ahead))
        with pytest.raises(BlockingIOError):
            sight._while_steady(str(path), lambda _: next(reads))
        os.utime(path, (1, 1))
        reads = itertools.count()
        assert sight._while_steady(str(path), lambda _: next(reads))[1] == 0

    def test_refuses_a_file_that_grows_under_every_read(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        os.utime(path, (1, 1))

        def write_on(_: object) -> int:
            with path.open("ab") as file:
                return file.write(b"more")

        with pytest.raises(BlockingIOError) as caught:
            sight._while_steady(str(path), write_on)
        assert caught.value.filename == str(path)

    @needs_links
    def test_refuses_a_path_that_leads_elsewhere_after_every_read(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")

        def swap(_: object) -> int:
            other = tmp_path / "other"
            other.write_bytes(b"content")
            other.replace(path)
            return 0

        with pytest.raises(BlockingIOError):
            sight._while_steady(str(path), swap)
