"""Reading and listing tapes of the filesystem provider, and "append frames, read all back" beside peers.

The baseline of reading is to iterate over the lines of the same file; that of a listing, to read the
metadata file of every tape. Peers that are not installed are not compared: mitmproxy's flow writer, the
YAML cassette of vcrpy, diskcache's Deque, fsspec's local files. (fsspec is a file with a buffer that is
flushed: it adds no envelope, syncs nothing, and reads nothing back to take a digest of it, as ours does.)
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from shadowcat_registry.backend import TapeQuery
from shadowcat_registry.storage import TapeStorage

from .append import Frame, load_frames, open_storage

ROUNDS = 5
COPIES = 90
"""Of `memory-10k`: a million frames."""
TAPES = 10_000
RANDOM_READS = 5_000
SEQS = 200_000
GOAL = 100_000
"""Random reads a second."""


def timed(call: Callable[[], Any], rounds: int = ROUNDS) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _count_read(storage: TapeStorage) -> int:
    count = 0
    for _ in storage.read("t"):
        count += 1
    return count


def _count_lines(path: Path) -> int:
    count = 0
    with path.open("rb") as file:
        for _ in file:
            count += 1
    return count


def _open_and_read(path: Path, seqs: list[int]) -> float:
    def each() -> None:
        for seq in seqs:
            fd = os.open(path, os.O_RDONLY)
            os.fstat(fd)
            os.lseek(fd, seq * 1000, os.SEEK_SET)
            os.read(fd, 1000)
            os.close(fd)

    return timed(each)


def _spans(path: Path) -> list[tuple[int, int]]:
    """Offset and size of each frame."""
    spans: list[tuple[int, int]] = []
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b'{"type":"frame",'):
                spans.append((offset, len(line)))
            offset += len(line)
    return spans


def at_random(storage: TapeStorage, path: Path, frame_count: int) -> None:
    """Frames by their seq through one reader, beside `pread` at places that are known, checked by nobody."""
    chance = random.Random(1)
    seqs = [chance.randrange(frame_count) for _ in range(SEQS)]
    spans = _spans(path)
    places = [spans[seq] for seq in seqs]
    fd = os.open(path, os.O_RDONLY)
    pread, loads = os.pread, json.loads
    with storage.reader("t") as reader:
        pass_seconds = timed(lambda: reader.frame(frame_count - 1), 1)
        frame = reader.frame

        def bare() -> None:
            for offset, size in places:
                pread(fd, size, offset)

        def ours() -> None:
            for seq in seqs:
                frame(seq)

        def bare_parsed() -> None:
            for offset, size in places:
                loads(pread(fd, size, offset))

        def ours_parsed() -> None:
            for seq in seqs:
                loads(frame(seq))

        best: dict[Callable[[], None], float] = {}
        for _ in range(ROUNDS):  # in turn
            for way in (bare, ours, bare_parsed, ours_parsed):
                best[way] = min(best.get(way, float("inf")), timed(way, 1))
    os.close(fd)
    rate = {way: SEQS / seconds for way, seconds in best.items()}
    print(f"random reads of {frame_count:,} frames through one reader, on one core ", end="")
    print(f"(its one pass over the tape {pass_seconds:.2f} s, index {8 * frame_count:,} bytes)")
    print(f"{'':28}{'ours/s':>10}{'pread/s':>10}{'ratio':>8}{'to the goal':>13}")
    for name, way, limit in (("raw lines", ours, bare), ("parsed by json", ours_parsed, bare_parsed)):
        print(f"{name:28}{rate[way]:>10,.0f}{rate[limit]:>10,.0f}", end="")
        print(f"{rate[way] / rate[limit]:>8.2f}{rate[way] / GOAL:>11.2f} x")


def reading(frames: list[Frame]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with open_storage(directory) as storage:
            with storage.record("s", tape_id="t") as tape:
                for _ in range(COPIES):
                    tape.append_many(frames)
            ours = bare = float("inf")
            for _ in range(ROUNDS):  # in turn
                bare = min(bare, timed(lambda: _count_lines(directory / "t.jsonl"), 1))
                ours = min(ours, timed(lambda: _count_read(storage), 1))
            seqs = random.Random(1).sample(range(len(frames) * COPIES - 1), RANDOM_READS)
            for _ in storage.read("t", max(seqs), limit=1):  # from here on it is known where to begin
                pass
            each = timed(lambda: [list(storage.read("t", seq, limit=1)) for seq in seqs]) / RANDOM_READS
            bare_each = _open_and_read(directory / "t.jsonl", seqs) / RANDOM_READS
            at_random(storage, directory / "t.jsonl", len(frames) * COPIES)
            tracemalloc.start()
            count = _count_read(storage)
            peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    print(f"a tape of {count:,} lines: iterating the file {count / bare:,.0f} lines/s, ", end="")
    print(f"read() {count / ours:,.0f}, ratio {bare / ours:.2f}; peak memory {peak_bytes:,} bytes")
    print(f"one frame somewhere in it: read(after_seq=, limit=1) {1 / each:,.0f}/s; ", end="")
    print(f"open, fstat, one read of 1,000 bytes and close {1 / bare_each:,.0f}/s")


def listing(frame: Frame) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with open_storage(directory) as storage, storage.record("s", tape_id="seed") as tape:
            tape.append(*frame)
        line, meta = (directory / "seed.jsonl").read_bytes(), (directory / "seed.meta.json").read_text()
        for number in range(TAPES):
            (directory / f"t{number:05}.jsonl").write_bytes(line)
            (directory / f"t{number:05}.meta.json").write_text(meta.replace('"seed"', f'"t{number:05}"'))
        files = sorted(directory.glob("*.meta.json"))
        query = TapeQuery(tag="nobodys")
        time.sleep(3)  # a folder that changed less than 2.5 s ago is looked into each time
        bare = timed(lambda: [json.loads(path.read_bytes()) for path in files])
        with open_storage(directory) as storage:
            cold = timed(lambda: storage.list(query), 1)
            time.sleep(3)  # that has written the index
            warm = timed(lambda: storage.list(query))
            every = timed(lambda: list(storage.list_all()))
        with open_storage(directory) as storage:
            indexed = timed(lambda: storage.list(query), 1)
    print(f"{TAPES:,} tapes: reading all metadata files {bare * 1e3:.0f} ms; a query ", end="")
    print(f"the first time {cold * 1e3:.0f} ms, in the next process {indexed * 1e3:.0f} ms, ", end="")
    print(f"warm {warm * 1e3:.3f} ms ({warm / bare:.5f} of it); list_all() {every * 1e3:.0f} ms")


def _ours(directory: Path, frames: list[Frame]) -> None:
    with open_storage(directory) as storage:
        with storage.record("s", tape_id="t") as tape:
            for direction, message in frames:
                tape.append(direction, message)
        assert sum(1 for _ in storage.read("t")) == len(frames) + 1


def _mitmproxy(directory: Path, frames: list[Frame]) -> None:
    flows: Any = import_module("mitmproxy.io")
    examples: Any = import_module("mitmproxy.test.tflow")
    with (directory / "flows").open("wb") as file:
        writer = flows.FlowWriter(file)
        flow = examples.tflow(resp=True)
        for _, message in frames:
            flow.response.content = message
            writer.add(flow)
            file.flush()
    with (directory / "flows").open("rb") as file:
        assert sum(1 for _ in flows.FlowReader(file).stream()) == len(frames)


def _vcrpy(directory: Path, frames: list[Frame]) -> None:
    yamlserializer: Any = import_module("vcr.serializers.yamlserializer")
    interactions = [{"request": direction, "response": message} for direction, message in frames]
    path = directory / "cassette.yaml"
    path.write_text(yamlserializer.serialize({"version": 1, "interactions": interactions}))
    assert len(yamlserializer.deserialize(path.read_text())["interactions"]) == len(frames)


def _diskcache(directory: Path, frames: list[Frame]) -> None:
    diskcache: Any = import_module("diskcache")
    deque = diskcache.Deque(directory=str(directory))
    for frame in frames:
        deque.append(frame)
    assert sum(1 for _ in deque) == len(frames)
    deque.cache.close()


def _fsspec(directory: Path, frames: list[Frame]) -> None:
    fsspec: Any = import_module("fsspec")
    files = fsspec.filesystem("file")
    path = str(directory / "frames")
    with files.open(path, "ab") as file:
        for _, message in frames:
            file.write(message + b"\n")
            file.flush()
    with files.open(path, "rb") as file:
        assert sum(1 for _ in file) == len(frames)


PEERS: dict[str, Callable[[Path, list[Frame]], None]] = {
    "ours": _ours,
    "mitmproxy's flow writer": _mitmproxy,
    "vcrpy's YAML cassette": _vcrpy,
    "diskcache.Deque": _diskcache,
    "fsspec, local append": _fsspec,
}


def peers(frames: list[Frame]) -> None:
    print(f"append {len(frames):,} frames, each out of the process on return, and read all back")
    ours = 0.0
    for name, way in PEERS.items():
        seconds = float("inf")
        try:
            for _ in range(2):
                with tempfile.TemporaryDirectory() as directory:
                    seconds = min(seconds, timed(lambda: way(Path(directory), frames), 1))  # noqa: B023
        except ImportError:
            print(f"{name:28}{'not installed':>14}")
            continue
        ours = ours or seconds
        print(f"{name:28}{len(frames) / seconds:>14,.0f} frames/s, ours is {seconds / ours:.1f} x as fast")


def main() -> None:
    _, frames = load_frames()
    reading(frames)
    listing(frames[0])
    peers(frames)
