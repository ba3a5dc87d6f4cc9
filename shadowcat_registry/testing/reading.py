"""Reading a tape, while it is written, and while it goes."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from time import monotonic

import pytest

from ..errors import (
    StorageUnavailableError,
    TapeNotFoundError,
)
from ..storage import TapeStorage
from ..tape import lines_after
from .places import C2S, UnderTest, messages_in


class ReadingConformance(UnderTest):
    def test_only_what_follows_a_frame(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(5))
        assert messages_in(storage, "t", 2) == [3, 4]
        assert list(storage.read("t", 4)) == []
        assert len(list(storage.read("t", -1))) == 6

    def test_what_follows_a_frame_begins_behind_the_first_that_is_not_before_it(
        self, storage: TapeStorage
    ) -> None:
        """In whatever order frames stand, and however absurd their `seq` is, as on tapes from elsewhere."""
        seqs = [1, 5, 3, 10**25, 6, 7, -1, 2**63, 8]
        with storage.record("s", tape_id="t") as tape:
            for seq in seqs:  # each on its own: where a storage keeps them together, it is not in one piece
                tape.append_lines([b'{"type":"frame","seq":%d}\n' % seq])
        lines = list(storage.read("t"))
        for after_seq in [*range(-1, 10), 2**63 - 1, 2**63, 10**25, 10**26]:
            assert list(storage.read("t", after_seq)) == list(lines_after(lines, after_seq)), after_seq

    def test_a_reader_sees_whole_lines_of_a_stable_prefix_while_it_is_written(
        self, storage: TapeStorage
    ) -> None:
        done = threading.Event()

        def write() -> None:
            try:
                for number in range(300):
                    tape.append(C2S, b'"%s"' % (b"x" * (number * 37 % 5000)))
            finally:
                done.set()

        with storage.record("s", tape_id="t") as tape:
            thread = threading.Thread(target=write)
            thread.start()
            seen: list[bytes] = []
            while True:
                last = done.is_set()
                now = list(storage.read("t"))
                assert now[: len(seen)] == seen
                assert all(line.endswith(b"}\n") for line in now)
                seen = now
                if last:
                    break
            thread.join()
        assert len(seen) == 301

    def test_a_tape_that_is_not_there_is_told(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            next(storage.read("t"))

    def test_a_reader_outlives_the_deletion_of_its_tape_or_is_told(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(5))
        reader = storage.read("t")
        next(reader)
        try:
            storage.delete("t")
        except StorageUnavailableError:  # Windows does not remove what somebody reads
            reader.close()
            return
        assert len(list(reader)) == 5

    def test_a_limit_ends_it(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(5))
        assert len(list(storage.read("t", limit=2))) == 2
        assert len(list(storage.read("t", 1, 2))) == 2
        assert list(storage.read("t", limit=0)) == []
        assert len(list(storage.read("t", raw=True))) == 6

    def test_several_readers_are_at_different_places(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(50))
        whole = list(storage.read("t"))
        with closing(storage.read("t")) as one, closing(storage.read("t")) as other:
            assert [next(one) for _ in range(30)] == whole[:30]
            assert [next(other) for _ in range(10)] == whole[:10]
            assert list(one) == whole[30:]
            assert list(other) == whole[10:]

    def test_one_that_is_left_half_way_holds_nothing_up(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(50))
        lines = storage.read("t")
        next(lines)
        lines.close()
        again, _ = storage.resume("t")
        again.append(C2S, b"1")
        again.finalize()
        storage.delete("t")

    def test_deleting_while_others_read_breaks_nobody(self, storage: TapeStorage) -> None:
        """Each reader sees a prefix of the tape, or is told that there is none."""
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(400))
        whole = list(storage.read("t"))
        started = threading.Barrier(4)
        seen: list[list[bytes]] = []

        def read() -> None:
            started.wait()
            found: list[bytes] = []
            with suppress(TapeNotFoundError):
                for line in storage.read("t"):
                    found.append(line)  # noqa: PERF402 - what was read before an error counts
            seen.append(found)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait()
        deadline = monotonic() + 30
        while True:
            try:
                storage.delete("t")
            except StorageUnavailableError:  # a system that does not remove what somebody reads
                assert monotonic() < deadline
                continue
            break
        for thread in threads:
            thread.join()
        assert all(found == whole[: len(found)] for found in seen)
        with pytest.raises(TapeNotFoundError):
            next(storage.read("t"))
