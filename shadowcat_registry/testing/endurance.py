"""What takes longer: kills in a loop, long tapes, long frames."""

from __future__ import annotations

import json
import tracemalloc
from typing import ClassVar

from ..storage import TapeStorage
from ..tapes.verifying import verify_tape
from .places import C2S, S2C, Place, UnderTest
from .processes import ProcessConformance


class TapeStorageEndurance(UnderTest):
    """The heavy part of the suite. `factory` and `config` as for `TapeStorageConformance`; `kills` is how
    often a recording process is killed at a random point. Mark the class as your project marks what is slow.
    """

    kills: ClassVar[int] = 10

    test_kills_in_a_loop_lose_no_acknowledged_frame = (
        ProcessConformance.test_a_kill_loses_no_acknowledged_frame
    )

    def test_a_hundred_thousand_frames_come_back_in_order_in_constant_memory(
        self, storage: TapeStorage
    ) -> None:
        count = 100_000
        with storage.record("s", tape_id="t") as tape:
            for first in range(0, count, 1000):
                tape.append_many((C2S, b'{"id":%d}' % n) for n in range(first, first + 1000))
        stats = storage.get_meta("t")[0]["stats"]
        assert (stats["frame_count"], stats["last_sequence"]) == (count, count - 1)
        tracemalloc.start()
        try:
            seq = -1
            for line in storage.read("t"):
                if line.startswith(b'{"type":"frame"'):
                    seq += 1
                    assert line.startswith(b'{"type":"frame","seq":%d,' % seq)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert seq == count - 1
        assert peak_bytes < stats["file_size_bytes"] // 2
        assert [json.loads(line)["seq"] for line in storage.read("t", count - 3)] == [count - 2, count - 1]
        report = verify_tape(storage, "t")
        assert (report.ok, report.frame_count, report.checksum) == (True, count, "matches")

    def test_a_message_of_22_mb_goes_in_and_out(self, storage: TapeStorage) -> None:
        message = b'"' + b"x" * 22_000_000 + b'"'
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
            tape.append(S2C, message)
            tape.append(C2S, b"2")
        lines = list(storage.read("t"))
        assert message in lines[2]
        assert len(lines) == 4
        assert verify_tape(storage, "t").ok

    def test_a_thousand_tapes_are_listed_and_found(self, place: Place) -> None:
        with place.open() as storage:
            for n in range(1_000):
                storage.record(
                    f"s-{n % 10}", tape_id=f"t{n:04}", tags=["even"] if n % 2 == 0 else []
                ).finalize()
            assert [meta["tape_id"] for meta in storage.list_all()] == [f"t{n:04}" for n in range(1_000)]
            assert storage.stats().tape_count == 1_000
