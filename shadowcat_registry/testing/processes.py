"""Several backends at one place, several processes, and the death of one of them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from typing import IO, ClassVar

import pytest

from ..errors import TapeBusyError, TapeExistsError, TapeNotFoundError
from ..storage import TapeStorage
from .child import message_of, name_of, recording
from .places import C2S, Place, UnderTest, lasting, messages_in

FRAMES = 100_000
"""More than any child ever gets to."""


def importable(place: Place) -> str:
    name = name_of(place.make_factory)
    if name is None:
        pytest.skip("another process cannot import this factory: make `factory` a name of a module")
    return name


def wait_for(out: IO[bytes], word: bytes) -> None:
    for line in out:
        if line.strip() == word:
            return
    pytest.fail(f"the child ended before it said {word.decode()}")


def check_after_a_kill(storage: TapeStorage, tape_id: str, acknowledged: int) -> int:
    """Every acknowledged frame is there, in order, and at most what was under way behind them; the tape can
    be gone on with, and finalized. Returns how many frames there are."""
    lines = list(storage.read(tape_id))
    assert all(line.endswith(b"\n") for line in lines)
    records = [json.loads(line) for line in lines]
    seqs = [record["seq"] for record in records[1:]]
    assert seqs == list(range(len(seqs))), "order kept, without gaps"
    assert len(seqs) > acknowledged, f"frame {acknowledged} was acknowledged, and is lost"
    for record, line in zip(records[1:], lines[1:], strict=True):
        assert message_of(record["seq"]) in line
    tape, report = storage.resume(tape_id)
    assert report.last_seq == len(seqs) - 1
    assert tape.append(C2S, message_of(len(seqs))) == len(seqs)
    tape.detach()
    return len(seqs) + 1


class ProcessConformance(UnderTest):
    kills: ClassVar[int] = 1
    """How often a recording process is killed."""

    def test_what_one_wrote_another_reads(self, place: Place) -> None:
        lasting(place)
        with place.open() as one, place.open() as other:
            with one.record("s", tape_id="t", name="n") as tape:
                tape.append(C2S, b"1")
                assert messages_in(other, "t") == [1], "at once"
                assert other.get_meta("t")[0]["status"] == "recording"
            assert other.get_meta("t")[0]["status"] == "finalized"
            assert [meta["name"] for meta in other.list_all()] == ["n"]
            other.delete("t")
            with pytest.raises(TapeNotFoundError):
                one.get_meta("t")

    def test_it_is_all_there_when_it_is_opened_again(self, place: Place) -> None:
        lasting(place)
        with place.open() as storage, storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(100))
        with place.open() as storage:
            before = list(storage.read("t")), storage.get_meta("t"), storage.stats()
        with place.open() as storage:
            assert (list(storage.read("t")), storage.get_meta("t"), storage.stats()) == before
            assert messages_in(storage, "t") == list(range(100))

    def test_of_two_writers_through_two_backends_one_is_refused(self, place: Place) -> None:
        lasting(place)
        with place.open() as one, place.open() as other:
            tape = one.record("s", tape_id="t")
            with pytest.raises(TapeBusyError):
                other.resume("t")
            with pytest.raises(TapeBusyError):
                other.delete("t")
            with pytest.raises((TapeBusyError, TapeExistsError)):
                other.record("s", tape_id="t")
            tape.append(C2S, b"1")
            tape.detach()
            again, _ = other.resume("t")
            again.append(C2S, b"2")
            again.finalize()
            assert messages_in(one, "t") == [1, 2]

    def test_another_process_that_records_is_left_alone_until_it_is_gone(self, place: Place) -> None:
        factory = importable(lasting(place))
        order = {"tape_id": "t", "frames": 20}
        with place.open() as storage:
            with recording(factory, place.config, place.directory, **order) as (process, out):
                wait_for(out, b"done")
                with pytest.raises(TapeBusyError):
                    storage.resume("t")
                with pytest.raises(TapeBusyError):
                    storage.delete("t")
                assert len(list(storage.read("t"))) == 21
                assert [meta["status"] for meta in storage.list_all()] == ["recording"]
                process.kill()
                process.wait()
                check_after_a_kill(storage, "t", 19)
            storage.delete("t")
            assert storage.list().items == ()

    @pytest.mark.skipif(sys.platform == "win32", reason="this system has no such limit")
    def test_a_process_that_may_write_no_more_keeps_what_was_acknowledged(self, place: Place) -> None:
        """The limit of the system on the size of a file, which binds root as well. A storage that does not
        write files does not notice."""
        factory = importable(lasting(place))
        order = {"tape_id": "t", "frames": 400, "limit_bytes": 2_000_000}
        with recording(factory, place.config, place.directory, **order) as (process, out):
            said = []
            for line in out:
                said.append(line.decode().split())
                if said[-1] == ["done"]:
                    break
            process.kill()
            process.wait()
        assert said[-1] == ["done"], "an error of a storage, and no crash"
        refused = [words for words in said if len(words) == 2]
        assert all(words[0] in ("StorageFullError", "StorageUnavailableError") for words in refused)
        acknowledged = int(said[-2][-1])
        with place.open() as storage:
            check_after_a_kill(storage, "t", acknowledged)

    def test_a_kill_loses_no_acknowledged_frame(self, place: Place) -> None:
        factory = importable(lasting(place))
        dice = random.Random(20261125)  # noqa: S311 - which frame the kill comes behind
        acknowledged = -1
        for number in range(self.kills):
            order = {
                "tape_id": "t",
                "frames": FRAMES,
                "batch": dice.choice([1, 1, 7]),
                "resume": number > 0,
            }
            with recording(factory, place.config, place.directory, **order) as (process, out):
                wait_for(out, b"open")
                for _ in range(dice.randint(1, 60)):
                    acknowledged = int(out.readline())
                acknowledged = max([acknowledged, *_killed(process, out)])
            with place.open() as storage:
                acknowledged = check_after_a_kill(storage, "t", acknowledged) - 1
        with place.open() as storage:
            tape, _ = storage.resume("t")
            tape.finalize()
            assert storage.get_meta("t")[0]["stats"]["frame_count"] == acknowledged + 1


def _killed(process: subprocess.Popen[bytes], out: IO[bytes]) -> list[int]:
    """What it had acknowledged until then; a line that was cut off does not count."""
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    process.wait()
    return [int(line) for line in out.read().splitlines(keepends=True) if line.endswith(b"\n")]
