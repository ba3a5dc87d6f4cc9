"""Recorders that are killed at a random moment, with real processes on real files.

The child says on its standard output what was acknowledged, one `write` a line: whatever the parent has read
there has to be on the tape.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import shadowcat_registry
from shadowcat_registry.errors import TapeNotFoundError
from shadowcat_registry.storage import TapeStorage

from ..storages import FACTORIES, handle, open_backend

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9")

PERSISTENT = sorted(set(FACTORIES) - {"memory"})
CHILD = """
import os, random, sys
from pathlib import Path
from tests.storages import handle, open_backend
type_name, directory, seed, mode = sys.argv[1:]
random = random.Random(int(seed))
storage = handle(open_backend(type_name, Path(directory), {"durability": mode, "sync_interval_ms": 1}))
os.write(1, b"ready\\n")
number = 0
while True:
    tape = storage.record("s", tape_id=f"t{number}")
    number += 1
    for _ in range(random.randrange(1, 200)):
        if random.random() < 0.2:
            frames = [("client_to_server", b'"%d"' % n) for n in range(random.randrange(1, 20))]
            last = tape.append_many(frames)[-1]
        else:
            size = random.choice((1, 100, 10_000, 300_000)) if random.random() < 0.1 else 100
            last = tape.append("client_to_server", b'"' + b"x" * size + b'"')
        os.write(1, b"%d %d\\n" % (number - 1, last))
    tape.finalize()
"""


def run_until_killed(type_name: str, directory: Path, seed: int, mode: str) -> dict[str, int]:
    """Tape → the last `seq` that was acknowledged before the kill."""
    root = Path(shadowcat_registry.__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), type_name, str(directory), str(seed), mode],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parents[2])])},
    )
    acknowledged: dict[str, int] = {}
    assert child.stdout is not None
    with child.stdout as out:
        assert out.readline() == b"ready\n"
        killer = threading.Timer(random.Random(seed).uniform(0.005, 0.15), child.kill)
        killer.start()
        for line in out:
            if line.endswith(b"\n"):
                tape, seq = line.split()
                acknowledged[f"t{int(tape)}"] = int(seq)
    killer.join()
    assert child.wait(30) == -signal.SIGKILL
    return acknowledged


def check(storage: TapeStorage, acknowledged: dict[str, int]) -> None:
    """No acknowledged frame is lost, the order is kept, and each tape can be gone on with."""
    listed = [item["tape_id"] for item in storage.list_all()]
    assert set(acknowledged) <= set(listed)
    for tape_id in listed:
        seqs = [json.loads(line)["seq"] for line in list(storage.read(tape_id))[1:]]
        assert seqs == list(range(len(seqs)))
        assert len(seqs) > acknowledged.get(tape_id, -1)
        recorder, report = storage.resume(tape_id)  # also what was finalized
        assert report.last_seq == len(seqs) - 1
        assert recorder.append("client_to_server", b"1") == len(seqs)
        recorder.finalize()
        assert len(list(storage.read(tape_id))) == len(seqs) + 2
        assert storage.get_meta(tape_id)[0]["status"] == "finalized"


def loop(type_name: str, directory: Path, count: int) -> None:
    total = 0
    for seed in range(count):
        mode = ("none", "interval", "frame")[seed % 3]
        place = directory / str(seed)
        place.mkdir()
        acknowledged = run_until_killed(type_name, place, seed, mode)
        total += sum(acknowledged.values())
        backend = open_backend(type_name, place)
        try:
            with handle(backend) as storage:
                check(storage, acknowledged)
        finally:
            backend.close()
    assert total > count  # they were killed while they recorded, not before


@pytest.mark.parametrize("type_name", PERSISTENT)
class TestKilled:
    def test_once_every_day(self, type_name: str, tmp_path: Path) -> None:
        loop(type_name, tmp_path, 1)

    @pytest.mark.ci
    def test_ten_times(self, type_name: str, tmp_path: Path) -> None:
        loop(type_name, tmp_path, 10)

    @pytest.mark.long
    def test_fifty_times(self, type_name: str, tmp_path: Path) -> None:
        loop(type_name, tmp_path, 50)


class TestTwoProcesses:
    @pytest.mark.parametrize("type_name", PERSISTENT)
    def test_each_sees_what_the_other_records_and_only_one_records_a_tape(
        self, type_name: str, tmp_path: Path
    ) -> None:
        root = Path(shadowcat_registry.__file__).parents[1]
        code = """
            import sys
            from pathlib import Path
            from tests.storages import handle, open_backend
            storage = handle(open_backend(sys.argv[1], Path(sys.argv[2])))
            tape = storage.record("s", tape_id="t")
            print("recording", flush=True)
            for line in sys.stdin:
                if line.startswith("end"):
                    break
                print(tape.append("client_to_server", line.strip().encode()), flush=True)
            tape.finalize(); storage.close()
        """
        backend = open_backend(type_name, tmp_path)
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), type_name, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parents[2])])},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with handle(backend) as storage, child.stdin, child.stdout:
                with pytest.raises(TapeNotFoundError):
                    storage.read("nobodys")
                assert child.stdout.readline() == "recording\n"
                lines = storage.follow("t")
                next(lines)
                for number in range(5):
                    child.stdin.write(f"{number}\n")
                    child.stdin.flush()
                    assert json.loads(next(lines))["env"]["message"] == number
                    assert child.stdout.readline() == f"{number}\n"
                child.stdin.write("end\n")
                child.stdin.flush()
                assert list(lines) == []
                assert child.wait(30) == 0
        finally:
            child.kill()
            child.wait()
            backend.close()
