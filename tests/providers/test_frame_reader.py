"""Readers of files: what they find, whatever becomes of the files, and what they hold."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowcat_registry.errors import (
    FrameNotFoundError,
    InvalidTapeError,
    StorageDamagedError,
    StorageUnavailableError,
    TapeNotFoundError,
)
from shadowcat_registry.frame_index import FrameIndex
from shadowcat_registry.providers.filesystem import files, frame_reader, sealing
from shadowcat_registry.providers.filesystem.blocks import Blocks
from shadowcat_registry.providers.filesystem.frame_reader import FileFrameReader
from shadowcat_registry.reader import TapeReader
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction, frame_seq, lines_after

from ..storages import RECORDINGS, handle, open_backend

C2S: Direction = "client_to_server"
INIT = b'{"type":"init","version":"2.0","tape_id":"t","session_id":"s"}\n'


def frame(seq: int, size: int = 0) -> bytes:
    return b'{"type":"frame","seq":%d,"x":"%s"}\n' % (seq, b"x" * size)


def opened(directory: Path, kind: str = "none", **config: Any) -> TapeStorage:
    fields = {"directory": ".", "compression": kind, "durability": "none", **config}
    return handle(open_backend("filesystem", directory, fields))


def inner(reader: TapeReader) -> FileFrameReader:
    found = reader._opened.reader
    assert isinstance(found, FileFrameReader)
    return found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every boundary is met."""
    monkeypatch.setattr(frame_reader, "_PASS_BYTES", 90)
    monkeypatch.setattr(frame_reader, "_LINE_BYTES", 16)
    monkeypatch.setattr(frame_reader, "_MOST_BYTES", 40)
    monkeypatch.setattr(frame_reader, "READ_BYTES", 64)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_LEAST_BYTES", 100)
    monkeypatch.setattr(sealing, "_SEAL_BYTES", 2_000)
    monkeypatch.setattr(sealing, "_BLOCK_BYTES", 700)


_lines = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 40), st.integers(0, 60)).map(lambda it: frame(*it)),
        st.sampled_from([frame(10**30), frame(2**63), frame(2**63 - 1), b'{"seq":7,"type":"frame"}\n']),
        st.sampled_from([b"{}\n", b"\n", b"\xff\n", b'{"type":"checkpoint","frame":1}\n']),
    ),
    max_size=40,
)


class TestAnyTape:
    @settings(max_examples=30)
    @given(
        parts=st.lists(_lines, min_size=1, max_size=3),
        asked=st.lists(st.integers(0, 42) | st.sampled_from([2**63 - 1, 2**63, 10**29, 10**30]), min_size=1),
        kind=st.sampled_from(["none", "gzip"]),
    )
    def test_a_reader_gives_what_a_look_through_the_tape_gives(
        self, tmp_path_factory: pytest.TempPathFactory, parts: list[list[bytes]], asked: list[int], kind: str
    ) -> None:
        directory = tmp_path_factory.mktemp("reading")
        with pytest.MonkeyPatch.context() as patch, opened(directory, kind) as storage:
            patch.setattr(sealing, "_LEAST_BYTES", 0)
            patch.setattr(sealing, "_SEAL_BYTES", 300)
            patch.setattr(sealing, "_BLOCK_BYTES", 70)
            patch.setattr(frame_reader, "_PASS_BYTES", 90)
            patch.setattr(frame_reader, "_LINE_BYTES", 16)
            patch.setattr(frame_reader, "_MOST_BYTES", 40)
            with storage.record("s", tape_id="t") as tape, storage.reader("t") as reader:
                for part in parts:  # it grows while it is read
                    for line in part:
                        tape.append_lines([line])
                    self.compare(reader, list(storage.read("t")), asked)
                tape.finalize()
                self.compare(reader, list(storage.read("t")), asked)
        shutil.rmtree(directory)

    @staticmethod
    def compare(reader: TapeReader, lines: list[bytes], asked: list[int]) -> None:
        for seq in asked:
            found = next((line for line in lines if frame_seq(line) == seq), None)
            if found is None:
                with pytest.raises(FrameNotFoundError):
                    reader.frame(seq)
            else:
                assert reader.frame(seq) == found
            assert list(reader.read(seq)) == list(lines_after(lines, seq))

    @pytest.mark.usefixtures("small_parts")
    @pytest.mark.parametrize("path", RECORDINGS[:6], ids=lambda path: path.stem[:8])
    def test_real_recordings(self, tmp_path: Path, path: Path) -> None:
        shutil.copy(path, tmp_path / "t.jsonl")
        lines = path.read_bytes().splitlines(keepends=True)
        frames = {seq: line for line in lines if (seq := frame_seq(line)) is not None}
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            for seq in random.Random(3).sample(sorted(frames), len(frames)):
                assert reader.frame(seq) == frames[seq]
            assert list(reader.read()) == lines

    def test_a_tape_that_does_not_begin_with_its_init_line(self, tmp_path: Path) -> None:
        (tmp_path / "t.jsonl").write_bytes(frame(0) + frame(1))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            assert [reader.frame(1), reader.frame(0)] == [frame(1), frame(0)]

    def test_long_lines_are_whole(self, tmp_path: Path) -> None:
        sizes = [0, 70_000, 300_000, 3_000_000, 5]
        (tmp_path / "t.jsonl").write_bytes(INIT + b"".join(frame(n, size) for n, size in enumerate(sizes)))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            for seq in (4, 3, 0, 2, 1, 3):
                assert reader.frame(seq) == frame(seq, sizes[seq])


class TestTornTail:
    def test_it_is_held_back_until_it_is_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_bytes(INIT + frame(0))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            line = frame(1, 1_000)
            for position in (1, 22, 500, len(line) - 1):
                path.write_bytes(INIT + frame(0) + line[:position])
                with pytest.raises(FrameNotFoundError):
                    reader.frame(1)
                assert list(reader.read(0)) == []
            path.write_bytes(INIT + frame(0) + line)
            assert reader.frame(1) == line
            assert list(reader.read(0)) == [line]

    def test_what_was_taken_back_and_written_otherwise_is_what_it_is_now(self, tmp_path: Path) -> None:
        """So it is where a disk became full in the middle of a batch."""
        path = tmp_path / "t.jsonl"
        before = INIT + b"".join(frame(n, 30) for n in range(5))
        path.write_bytes(before + frame(5, 100) + frame(6, 10) + frame(7, 50))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            assert reader.frame(7) == frame(7, 50)
            with path.open("r+b") as file:
                file.truncate(len(before))
            with pytest.raises(FrameNotFoundError):
                reader.frame(7)
            with path.open("ab") as file:
                file.write(frame(5, 20) + frame(6, 200) + frame(8, 70))
            assert reader.frame(5) == frame(5, 20)
            assert reader.frame(6) == frame(6, 200)
            assert reader.frame(8) == frame(8, 70)
            with pytest.raises(FrameNotFoundError):
                reader.frame(7)
            assert reader.frame(2) == frame(2, 30)


class TestForeignHands:
    """What others do to an open file."""

    @pytest.mark.parametrize(
        "content",
        [
            INIT + b"".join(frame(n, 11) for n in range(4, 30)),
            INIT + frame(3, 5) + b"{}\n" * 40 + frame(4),
            INIT + b'{"type":"note","in":' + frame(3)[:-1] + b"}\n" + frame(9) * 9,
            b"",
            INIT,
            b"\0" * 500,
        ],
        ids=["others", "moved", "nested", "empty", "init", "zeros"],
    )
    def test_an_index_that_is_out_of_date_gives_no_wrong_line(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "t.jsonl"
        path.write_bytes(INIT + b"".join(frame(n, 7) for n in range(20)))
        with opened(tmp_path) as storage:
            for order in (range(32), range(31, -1, -1)):
                with storage.reader("t") as reader:
                    assert reader.frame(19) == frame(19, 7)
                    before = path.read_bytes()
                    path.write_bytes(content)
                    lines = content.splitlines(keepends=True)
                    for seq in order:
                        found = [line for line in lines if frame_seq(line) == seq]
                        if found:
                            assert reader.frame(seq) == found[0]
                        else:
                            with pytest.raises(FrameNotFoundError):
                                reader.frame(seq)
                        assert list(reader.read(seq)) == list(
                            lines_after(lines, seq)
                        ) or not content.endswith(b"\n")
                    path.write_bytes(before)

    def test_a_frame_within_another_line_is_none(self, tmp_path: Path) -> None:
        """Exactly where one was: what it says of itself would do."""
        path = tmp_path / "t.jsonl"
        frames = b"".join(frame(n, 7) for n in range(3))
        path.write_bytes(INIT + frames + frame(3, 7))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            assert reader.frame(3) == frame(3, 7)
            before, within = b'{"pad":"', b'","in":'
            pad = b"x" * (len(frames) - len(before) - len(within))
            path.write_bytes(INIT + before + pad + within + frame(3, 7)[:-1] + b"}\n" + frame(4))
            with pytest.raises(FrameNotFoundError):
                reader.frame(3)
            assert reader.frame(4) == frame(4)

    def test_one_that_changes_all_the_time_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "t.jsonl"
        path.write_bytes(INIT + frame(0))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            monkeypatch.setattr(FileFrameReader, "_line_of", lambda *_: None)
            with pytest.raises(StorageUnavailableError, match=r"t\.jsonl"):
                reader.frame(0)
            with pytest.raises(StorageUnavailableError, match=r"t\.jsonl"):
                list(reader.read(0))

    def test_a_tape_that_is_removed_is_read_on_and_what_is_not_on_it_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_bytes(INIT + frame(0) + frame(1))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            path.unlink()
            assert reader.frame(1) == frame(1)
            for _ in range(2):
                with pytest.raises(TapeNotFoundError):
                    reader.frame(2)
                path.write_bytes(INIT + frame(0, 5) + frame(1) + frame(2))
            assert reader.frame(0) == frame(0)
            assert list(reader.read()) == [INIT, frame(0), frame(1)]

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real.jsonl").write_bytes(INIT)
        (tmp_path / "t.jsonl").symlink_to("real.jsonl")
        with opened(tmp_path) as storage, pytest.raises(TapeNotFoundError):
            storage.reader("t")


class TestTheIndex:
    def test_the_pass_goes_as_far_as_somebody_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "t.jsonl").write_bytes(INIT + b"".join(frame(n, 900) for n in range(1_000)))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            assert inner(reader)._index.end == 0
            reader.frame(3)
            assert 0 < inner(reader)._index.end <= frame_reader._PASS_BYTES
            reader.frame(999)
            index = inner(reader)._index
            sizes: list[int] = []
            read_at = files.read_at

            def counting(fd: int, size: int, offset: int) -> bytes:
                sizes.append(size)
                return read_at(fd, size, offset)

            monkeypatch.setattr(frame_reader, "read_at", counting)
            for seq in range(1_000):
                reader.frame(seq)
            assert len(sizes) == 1_000, "one call a frame"
            assert max(sizes) < 1_000
            assert inner(reader)._index is index

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
    def test_one_that_was_interrupted_anywhere_begins_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
    ) -> None:
        (tmp_path / "t.jsonl").write_bytes(INIT + b"".join(frame(n) for n in range(200)))
        add = FrameIndex.add
        calls: list[int] = []

        def interrupted(index: FrameIndex, seq: int, place: int) -> None:
            calls.append(seq)
            if len(calls) == 100:
                index._places.append(place)
                raise error
            add(index, seq, place)

        monkeypatch.setattr(FrameIndex, "add", interrupted)
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            with pytest.raises((KeyboardInterrupt, StorageUnavailableError)):
                reader.frame(150)
            for seq in (150, 99, 100, 199):
                assert reader.frame(seq) == frame(seq)


class TestDescriptors:
    def test_they_are_closed_with_the_reader_or_when_nobody_has_it(self, tmp_path: Path) -> None:
        (tmp_path / "t.jsonl").write_bytes(INIT + frame(0))
        with opened(tmp_path) as storage:
            reader = storage.reader("t")
            fd = inner(reader)._opened().tail.fd
            held = inner(reader)._opened()  # somebody is in the middle of a call
            reader.close()
            assert os.fstat(fd).st_size
            assert held.read(0, 5) == INIT[:5]
            del held
            with pytest.raises(OSError, match="descriptor"):
                os.fstat(fd)

    def test_what_cannot_be_opened_leaves_none(self, tmp_path: Path) -> None:
        (tmp_path / "t.jsonl").write_bytes(b'{"type":"blocks", no\n')
        with opened(tmp_path) as storage, pytest.raises(InvalidTapeError, match="not a tape"):
            storage.reader("t")  # the fixture of all tests looks

    def test_without_pread_it_works_one_after_the_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frame_reader, "read_at", files._seek_and_read)
        (tmp_path / "t.jsonl").write_bytes(INIT + b"".join(frame(n) for n in range(20)))
        with opened(tmp_path) as storage, storage.reader("t") as reader:
            assert [reader.frame(seq) for seq in (5, 3)] == [frame(5), frame(3)]


@pytest.mark.usefixtures("small_blocks")
class TestBlocks:
    @pytest.fixture
    def recorded(self, tmp_path: Path) -> Callable[[], tuple[TapeStorage, list[bytes]]]:
        def record() -> tuple[TapeStorage, list[bytes]]:
            storage = opened(tmp_path, "gzip")
            with storage.record("s", tape_id="t") as tape:
                for n in range(300):
                    tape.append(C2S, b'"%s"' % os.urandom(n % 90).hex().encode())
            return storage, list(storage.read("t"))

        return record

    def test_as_many_are_kept_as_fit(
        self, recorded: Callable[[], tuple[TapeStorage, list[bytes]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage, lines = recorded()
        monkeypatch.setattr(frame_reader, "_KEPT_BYTES", 3_000)
        with storage, storage.reader("t") as reader:
            for seq in random.Random(4).choices(range(300), k=900):
                assert reader.frame(seq) == lines[seq + 1]
                blocks = inner(reader)._opened().blocks
                assert blocks is not None
                assert sum(map(len, blocks._kept.values())) == blocks._kept_bytes <= 3_000
                assert len(blocks._kept) >= 1

    def test_a_tape_whose_lines_become_blocks_is_the_same_tape(self, tmp_path: Path) -> None:
        with opened(tmp_path, "gzip") as storage, storage.record("s", tape_id="t") as tape:
            reader = storage.reader("t")
            with reader:
                for n in range(200):
                    tape.append(C2S, b'"%d%s"' % (n, b"x" * (n % 90)))
                    for seq in (n, n // 2, 0):
                        assert frame_seq(reader.frame(seq)) == seq
                    with pytest.raises(FrameNotFoundError):
                        reader.frame(n + 1)
                assert list(reader.read()) == list(storage.read("t"))

    def test_what_is_read_on_goes_on_where_the_tape_does(self, tmp_path: Path) -> None:
        with opened(tmp_path, "gzip") as storage, storage.record("s", tape_id="t") as tape:
            with storage.reader("t") as reader:
                lines = reader.read()
                seen = [next(lines)]
                for n in range(200):
                    tape.append(C2S, b'"%d%s"' % (n, b"x" * 500))
                seen += lines
            assert seen == list(storage.read("t"))

    def test_one_thread_at_a_time_decompresses(
        self, recorded: Callable[[], tuple[TapeStorage, list[bytes]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage, lines = recorded()
        with storage, storage.reader("t") as reader:
            locked: list[bool] = []
            read = Blocks.read

            def looking(self: Blocks, position: int, most: int) -> bytes:
                locked.append(inner(reader)._opened().unpacking.locked())
                return read(self, position, most)

            monkeypatch.setattr(Blocks, "read", looking)
            assert [reader.frame(5), *reader.read(290)] == [lines[6], *lines[292:]]
            assert locked
            assert all(locked)

    def test_damage_is_told(
        self, recorded: Callable[[], tuple[TapeStorage, list[bytes]]], tmp_path: Path
    ) -> None:
        storage, lines = recorded()
        path = tmp_path / "t.jsonl.gz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with storage, storage.reader("t") as reader:
            assert reader.frame(0) == lines[1]
            with pytest.raises(StorageDamagedError):
                reader.frame(299)
            assert reader.frame(0) == lines[1]
