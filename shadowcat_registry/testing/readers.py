"""Readers that stay open: any frame of a tape, in any order, also while it is recorded."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from ..errors import (
    FrameNotFoundError,
    InvalidTapeIdError,
    StorageClosedError,
    StorageUnavailableError,
    TapeNotFoundError,
)
from ..storage import TapeStorage
from ..tape import frame_seq, lines_after
from .faults import Faults, FaultyFactory
from .places import C2S, PATIENCE_SECONDS, Place, UnderTest, in_background

ODD_LINES = [
    b'{"type":"correlation","id":"c","request_seq":0,"response_seq":1}\n',
    b'{"type":"frame","seq":5,"dir":"client_to_server"}\n',  # a gap before it
    b'{"type":"checkpoint","seq":900,"stats":{"frame_count":7}}\n',
    b'{"seq":6,"type":"frame"}\n',  # written otherwise
    b'{ "type": "frame", "seq": 7 }\n',
    b"\xff\xfe no record\n",
    b"\n",
    b'{"type":"frame","seq":6,"again":true}\n',
    b'{"type":"frame","seq":4,"late":true}\n',
    b'{"type":"frame","seq":-1}\n',
    b'{"type":"frame","seq":"8"}\n',
    b'{"type":"frame","seq":true}\n',
    b'{"type":"note","text":"{\\"type\\":\\"frame\\",\\"seq\\":8,"}\n',
    b'{"type":"note","in":{"type":"frame","seq":8,"x":1}}\n',
    b'{"type":"\\u0066rame","seq":11}\n',
    b'{"type":"correlation","seq":12,"type":"frame"}\n',
    b'{"type":"frame","seq":20}\n',
    b'{"type":"frame","seq":99999999999999999999999}\n',
    b'{"type":"frame","seq":21,"pad":"%s"}\n' % (b"x" * 200_000),
    b'{"type":"frame","seq":22}\n',
]
"""What a tape from elsewhere may hold. The storage makes the frames 0 and 1 before them."""


def record_odd_lines(storage: TapeStorage) -> list[bytes]:
    with storage.record("s", tape_id="t") as tape:
        tape.append_many([(C2S, b"0"), (C2S, b'{"type":"frame","seq":8,"x":1}')])
        tape.append_lines(ODD_LINES)
    return list(storage.read("t"))


class ReaderConformance(UnderTest):
    def test_any_frame_is_found_in_any_order(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            for first in range(0, 300, 50):
                tape.append_many(
                    (C2S, b'[%d,"%s"]' % (n, b"x" * (n * 37 % 500))) for n in range(first, first + 50)
                )
        lines = list(storage.read("t"))[1:]
        order = [*range(300)] * 2
        random.Random(1).shuffle(order)  # noqa: S311 - any order will do
        with storage.reader("t") as reader:
            assert reader.tape_id == "t"
            for seq in order:
                assert reader.frame(seq) == lines[seq]

    def test_a_frame_that_is_not_there_is_told(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"0")
        with storage.reader("t") as reader:
            for seq in (1, -1, 10**9, 10**30):
                with pytest.raises(FrameNotFoundError) as caught:
                    reader.frame(seq)
                assert (caught.value.tape_id, caught.value.seq) == ("t", seq)
            with pytest.raises(TypeError):
                reader.frame("0")  # type: ignore[arg-type]
        storage.record("s", tape_id="empty").finalize()
        with storage.reader("empty") as reader, pytest.raises(FrameNotFoundError):
            reader.frame(0)

    def test_gaps_disorder_and_lines_that_are_no_frames_are_what_they_are(self, storage: TapeStorage) -> None:
        lines = record_odd_lines(storage)
        seqs = [*range(-3, 25), 900, 10**18, 99999999999999999999999]
        first = {seq: line for line in reversed(lines) if (seq := frame_seq(line)) is not None}
        assert len(first) >= 12
        random.Random(2).shuffle(seqs)  # noqa: S311
        with storage.reader("t") as reader:
            for seq in seqs * 2:
                if seq in first:
                    assert reader.frame(seq) == first[seq]
                else:
                    with pytest.raises(FrameNotFoundError):
                        reader.frame(seq)

    @pytest.mark.parametrize("known", [False, True])
    def test_what_follows_a_frame_is_what_read_gives(self, storage: TapeStorage, known: bool) -> None:
        lines = record_odd_lines(storage)
        for after_seq in [*range(-2, 25), 900, 10**18, 99999999999999999999999, 10**30]:
            with storage.reader("t") as reader:
                if known:
                    reader.frame(22)
                expected = list(lines_after(lines, after_seq))
                assert list(reader.read(after_seq)) == expected
                assert list(reader.read(after_seq, 2)) == expected[:2]
                assert list(reader.read(after_seq, limit=0)) == []
                with pytest.raises(ValueError, match="limit"):
                    reader.read(after_seq, -1)

    def test_what_is_recorded_meanwhile_is_there_from_the_next_call_on(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape, storage.reader("t") as reader:
            for number in range(30):
                with pytest.raises(FrameNotFoundError):
                    reader.frame(number)
                assert list(reader.read(number - 1)) == ([] if number else list(storage.read("t")))
                tape.append(C2S, b'"%s"' % (b"x" * (number * 1_000)))
                line = reader.frame(number)
                assert frame_seq(line) == number
                assert list(reader.read(number - 1))[-1] == line
            tape.append_lines([b'{"type":"frame","seq":50}\n', b'{"type":"frame","seq":40}\n'])
            assert [reader.frame(seq) for seq in (40, 50)] == list(storage.read("t"))[:-3:-1]
            assert frame_seq(reader.frame(3)) == 3

    def test_several_threads_use_one_while_it_grows(self, storage: TapeStorage) -> None:
        last = 399
        with storage.record("s", tape_id="t") as tape, storage.reader("t") as reader:

            def look(seed: int) -> int:
                chance = random.Random(seed)  # noqa: S311
                count = 0
                while True:
                    seq = min(chance.randrange(last + 40), last)
                    try:
                        line = reader.frame(seq)
                    except FrameNotFoundError:
                        continue
                    assert frame_seq(line) == seq
                    assert b',"%d"]' % seq in line
                    count += 1
                    if seq == last:
                        return count

            threads = [in_background(partial(look, seed)) for seed in range(3)]
            for first in range(0, last, 20):
                tape.append_many(
                    (C2S, b'["%s","%d"]' % (b"x" * (n * 31 % 700), n)) for n in range(first, first + 20)
                )
            assert all(thread.result(PATIENCE_SECONDS) for thread in threads)

    def test_a_reader_ends_once_and_refuses_every_use_then(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many([(C2S, b"0"), (C2S, b"1")])
        with storage.reader("t") as reader:
            lines = reader.read()
            next(lines)
            states = [reader.closed]
        states.append(reader.closed)
        assert states == [False, True]
        reader.close()
        uses: list[Callable[[], object]] = [
            lambda: reader.frame(0),
            lambda: reader.read(),
            lambda: reader.aread(),
            lambda: list(lines),
            reader.__enter__,
        ]
        for use in uses:
            with pytest.raises(StorageClosedError):
                use()
        assert len(list(storage.read("t"))) == 3

    def test_it_is_closed_with_its_handle(self, place: Place) -> None:
        ways: list[Callable[[TapeStorage], object]] = [
            lambda other: other.close(),
            lambda other: other.__exit__(None, None, None),
        ]
        with place.share() as storage:
            with storage.record("s", tape_id="t") as tape:
                tape.append(C2S, b"0")
            with storage.reader("t") as undisturbed:
                for leave in ways:
                    other = place.share()
                    reader = other.reader("t")
                    assert reader.frame(0)
                    leave(other)
                    assert reader.closed
                    with pytest.raises(StorageClosedError):
                        reader.frame(0)
                    reader.close()
                    with pytest.raises(StorageClosedError):
                        other.reader("t")
                assert undisturbed.frame(0)

    def test_a_tape_that_is_not_there_has_none(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            storage.reader("t")
        with pytest.raises(InvalidTapeIdError):
            storage.reader("../t")

    def test_a_tape_that_is_deleted_is_read_on_or_that_is_told_and_never_another_one(
        self, storage: TapeStorage
    ) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b'"old"') for _ in range(5))
        with storage.reader("t") as reader:
            before = [reader.frame(seq) for seq in range(5)]
            try:
                storage.delete("t")
            except StorageUnavailableError:  # Windows does not remove what somebody reads
                return
            # With the same session, in the same millisecond, its first line would be the same.
            with storage.record("other", tape_id="t") as tape:
                tape.append_many((C2S, b'"new"') for _ in range(9))
            for seq in range(5):
                try:
                    assert reader.frame(seq) == before[seq]
                except TapeNotFoundError:
                    continue
            with pytest.raises(TapeNotFoundError):
                reader.frame(7)

    def test_what_the_reader_of_a_backend_raises_is_translated(self, place: Place) -> None:
        faults = Faults()
        other = place.with_factory(partial(FaultyFactory, faults=faults))
        with closing(other.registry), other.open() as storage:
            with storage.record("s", tape_id="t") as tape:
                tape.append_many((C2S, b"%d" % n) for n in range(10))
            for error in (OSError(errno.EIO, "Input/output error"), RuntimeError("a fault of the backend")):
                faults.errors["reader"] = faults.errors["read"] = error
                with pytest.raises(StorageUnavailableError):
                    storage.reader("t")
            faults.errors.clear()
            with storage.reader("t") as reader:
                for error in (
                    OSError(errno.EIO, "Input/output error"),
                    RuntimeError("a fault of the backend"),
                ):
                    faults.errors["frame"] = faults.errors["read"] = error
                    uses: list[Callable[[], object]] = [lambda: reader.frame(3), lambda: list(reader.read(3))]
                    for use in uses:
                        with pytest.raises(StorageUnavailableError):
                            use()
                faults.errors.clear()
                assert frame_seq(reader.frame(3)) == 3
                assert len(list(reader.read(3))) == 6

    def test_one_that_is_closed_in_the_middle_of_a_call_lets_that_come_to_its_end(
        self, storage: TapeStorage
    ) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b'"%d"' % n) for n in range(2_000))
        for _ in range(5):
            reader = storage.reader("t")
            begun = threading.Barrier(3)

            def look(seed: int) -> int:
                chance = random.Random(seed)  # noqa: S311
                begun.wait(PATIENCE_SECONDS)  # noqa: B023 - it is over before the next one begins
                try:
                    while True:
                        seq = chance.randrange(2_000)
                        assert frame_seq(reader.frame(seq)) == seq  # noqa: B023
                except StorageClosedError:
                    return 1

            threads = [in_background(partial(look, seed)) for seed in range(2)]
            begun.wait(PATIENCE_SECONDS)
            reader.frame(1_000)
            reader.close()
            assert [thread.result(PATIENCE_SECONDS) for thread in threads] == [1, 1]
