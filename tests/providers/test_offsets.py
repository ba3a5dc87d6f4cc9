"""Reading from the middle of a file: the same lines as from the start, and less to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.providers.filesystem import offsets
from shadowcat_registry.providers.filesystem.files import whole_lines
from shadowcat_registry.providers.filesystem.offsets import Offsets
from shadowcat_registry.tape import Direction, lines_after

from ..storages import handle, open_backend

C2S: Direction = "client_to_server"


def frame(seq: int) -> bytes:
    return b'{"type":"frame","seq":%d,"x":"%s"}\n' % (seq, b"x" * (seq % 50))


lines = st.lists(
    st.one_of(
        st.integers(0, 30).map(frame),
        st.just(10**30).map(frame),
        st.sampled_from([b"{}\n", b"\xff\n", b'{"type":"checkpoint"}\n']),
    ),
    max_size=40,
)


def read(known: Offsets, path: Path, after_seq: int) -> list[bytes]:
    with path.open("rb") as file:
        return list(known.lines_behind("t", file, after_seq))


class TestOffsets:
    @given(parts=st.lists(lines, max_size=4), asked=st.lists(st.integers(0, 32), min_size=1, max_size=6))
    @pytest.mark.parametrize("distance", [1, 200, 4096])
    def test_the_lines_are_those_that_a_reader_from_the_start_finds(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        distance: int,
        parts: list[list[bytes]],
        asked: list[int],
    ) -> None:
        path = tmp_path_factory.mktemp("offsets") / "t"
        path.touch()
        known, content = Offsets(), list[bytes]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(offsets, "_DISTANCE_BYTES", distance)
            for part in [[], *parts]:  # it grows while it is read
                content += part
                path.write_bytes(b"".join(content) + b"torn")
                for after_seq in asked:
                    assert read(known, path, after_seq) == list(lines_after(content, after_seq))

    def test_what_was_looked_at_is_not_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "t"
        path.write_bytes(b"".join(map(frame, range(10_000))))
        known, counts = Offsets(), [0]

        def counting(file: BinaryIO) -> Iterator[bytes]:
            for line in whole_lines(file):
                counts[0] += 1
                yield line

        monkeypatch.setattr(offsets, "whole_lines", counting)
        for after_seq in (9_000, 8_999, 9_000, 17, 0, 5_000):
            counts[0] = 0
            with path.open("rb") as file:
                assert next(known.lines_behind("t", file, after_seq)) == frame(after_seq + 1)
            assert counts[0] < 200 or counts == [9_002]
        assert counts[0] < 200
        assert len(known._marks["t"].seqs) < 10_000 / 20

    def test_a_file_that_was_changed_by_hand_is_read_from_the_start(self, tmp_path: Path) -> None:
        path = tmp_path / "t"
        path.write_bytes(b"".join(map(frame, range(2_000))))
        known = Offsets()
        assert len(read(known, path, 1_000)) == 999
        other = [frame(seq) for seq in range(5_000, 9_000)]
        path.write_bytes(b"".join(other))
        for after_seq in (1_000, 6_000, 8_998):
            assert read(known, path, after_seq) == list(lines_after(other, after_seq))

    def test_a_tape_of_the_same_name_is_another_one(self, tmp_path: Path) -> None:
        with handle(open_backend("filesystem", tmp_path)) as storage:
            for count in (300, 200):
                with storage.record("s", tape_id="t") as tape:
                    tape.append_many((C2S, b'"%d"' % (n * count)) for n in range(count))
                assert len(list(storage.read("t", count - 2))) == 1
                assert len(list(storage.read("t", 100))) == count - 101
                storage.delete("t")

    def test_few_tapes_are_remembered(self, tmp_path: Path) -> None:
        path = tmp_path / "t"
        path.write_bytes(frame(0) + frame(1))
        known = Offsets()
        for number in range(100):
            with path.open("rb") as file:
                assert list(known.lines_behind(f"t{number}", file, 0)) == [frame(1)]
        assert len(known._marks) == offsets._MOST_TAPES
