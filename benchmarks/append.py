"""Appending frames to the filesystem provider, beside the bare calls that it cannot beat, in one run.

The baseline of a batch is a file with a buffer of 64 KiB into which the same envelopes are built; that of a
frame is one `os.write` of a line that is there already; that of a durable frame is a write and an
`fdatasync`. Prints ratios. Absolute times depend on the machine, and so does how much the threads of
asyncio and of the waiting appenders get in each other's way.

Threads that wait for the disk at once have two limits: the disk, times how many wait, and how fast threads
can be woken one after the other. The second is that of `a bare crowd`, which gathers, writes, syncs and
wakes, and does nothing else: where the disk does many thousand syncs a second, it is the nearer one.

The baseline of coroutines that await each frame is the barest queue that there can be: a future a frame, and
one thread that builds and writes what has gathered. It checks nothing, counts nothing, knows one loop, and
cannot be cancelled. A task that awaits anything at all costs as much as a frame of a batch (look at `a task
that only yields`), so that no queue of this kind comes near to twice the time of the batch path.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from shadowcat_registry.backend import UNSYNCED, Durability
from shadowcat_registry.providers.filesystem.backend import FilesystemBackend
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction, FrameEncoder
from shadowcat_registry.use import Source, Use

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 7
BATCH = 64
COROUTINES = 256
THREADS = 256
FRAMES = 11_209
MEMORY_10K = ROOT.parent / "shared" / "tapes" / "5fde4927-efc3-438b-8a77-f11e08dafe97.jsonl"

Frame = tuple[Direction, bytes]
T = TypeVar("T")


def load_frames() -> tuple[str, list[Frame]]:
    """The messages of `memory-10k`; where it is not there, those of the small recordings, repeated."""
    paths = [MEMORY_10K] if MEMORY_10K.exists() else sorted((ROOT / "tests" / "data").glob("*.jsonl"))
    frames: list[Frame] = []
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            if line.startswith(b'{"type":"frame"'):
                start = line.index(b'"message":') + len(b'"message":')
                end = line.rindex(b',"direction":"', 0, line.rindex(b'"timestamp":'))
                frames.append((json.loads(line)["dir"], line[start:end]))
    source = "memory-10k" if MEMORY_10K.exists() else "tests/data, repeated"
    return source, (frames * (FRAMES // len(frames) + 1))[:FRAMES]


def open_storage(directory: Path, durability: Durability = UNSYNCED) -> TapeStorage:
    backend = FilesystemBackend(directory, logging.getLogger("benchmark"), durability=durability)
    return TapeStorage(Use(Source.of(backend, "benchmark")))


def record(
    directory: Path, frames: list[Frame], *, batch: int = 1, durability: Durability = UNSYNCED
) -> float:
    """Seconds for the appends alone."""
    with open_storage(directory, durability) as storage, storage.record("s", tape_id="t") as tape:
        start = time.perf_counter()
        if batch == 1:
            append = tape.append
            for direction, message in frames:
                append(direction, message)
        else:
            for first in range(0, len(frames), batch):
                tape.append_many(frames[first : first + batch])
        return time.perf_counter() - start


def record_from_coroutines(directory: Path, frames: list[Frame]) -> float:
    """Each of many coroutines awaits each of its frames."""

    async def main() -> float:
        with open_storage(directory) as storage:
            async with await storage.arecord("s", tape_id="t") as tape:

                async def append(own: Sequence[Frame]) -> None:
                    for direction, message in own:
                        await tape.aappend(direction, message)

                return await _all_at_once(append, frames)

    return asyncio.run(main())


async def _all_at_once(
    append: Callable[[Sequence[Frame]], Coroutine[Any, Any, None]], frames: list[Frame]
) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(append(frames[first::COROUTINES]) for first in range(COROUTINES)))
    return time.perf_counter() - start


def yield_from_coroutines(frames: list[Frame]) -> float:
    """What the loop alone needs to come back to each of them."""

    async def append(own: Sequence[Frame]) -> None:
        for _ in own:
            await asyncio.sleep(0)

    return asyncio.run(_all_at_once(append, frames))


def write_from_coroutines(path: Path, frames: list[Frame]) -> float:
    """The barest queue; see above."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        waiting: list[tuple[Frame, asyncio.Future[int]]] = []
        posted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        encode = FrameEncoder("s", datetime.now(UTC)).encode_many

        async def append(own: Sequence[Frame]) -> None:
            for frame in own:
                future: asyncio.Future[int] = loop.create_future()
                waiting.append((frame, future))
                if len(waiting) == 1:
                    posted.put(True)
                await future

        def answer(batch: list[tuple[Frame, asyncio.Future[int]]], first: int) -> None:
            for seq, (_, future) in enumerate(batch, first):
                future.set_result(seq)

        def work() -> None:
            nonlocal waiting
            seq = 0
            while posted.get():
                batch, waiting = waiting, []
                os.write(fd, b"".join(encode([frame for frame, _ in batch], seq)))
                loop.call_soon_threadsafe(answer, batch, seq)
                seq += len(batch)

        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        thread = threading.Thread(target=work)
        thread.start()
        try:
            return await _all_at_once(append, frames)
        finally:
            posted.put(False)
            thread.join()
            os.close(fd)

    return asyncio.run(main())


def record_batches_from_a_coroutine(directory: Path, frames: list[Frame]) -> float:
    async def main() -> float:
        with open_storage(directory) as storage:
            async with await storage.arecord("s", tape_id="t") as tape:
                start = time.perf_counter()
                for first in range(0, len(frames), BATCH):
                    await tape.aappend_many(frames[first : first + BATCH])
                return time.perf_counter() - start

    return asyncio.run(main())


def record_from_threads(directory: Path, frames: list[Frame], durability: Durability) -> float:
    """Each of many threads waits until each of its frames is durable."""
    with open_storage(directory, durability) as storage, storage.record("s", tape_id="t") as tape:
        return _in_threads(lambda frame: tape.append(*frame), frames)


def _in_threads(append: Callable[[T], object], items: Sequence[T]) -> float:
    start = threading.Barrier(THREADS + 1)

    def work(own: Sequence[T]) -> None:
        start.wait()
        for each in own:
            append(each)

    threads = [threading.Thread(target=work, args=(items[n::THREADS],)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


class BareCrowd:
    """What waiting threads cannot do without: one of them writes and syncs for all who have gathered, and
    each that is woken wakes the next."""

    def __init__(self, path: Path, sync: Callable[[int], object]) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._sync = sync
        self._guard = threading.Lock()
        self._gathered: list[_InCrowd] = []
        self._is_led = False

    def append(self, line: bytes) -> None:
        mine = _InCrowd(line)
        with self._guard:
            self._gathered.append(mine)
            leads, self._is_led = not self._is_led, True
        if not leads:
            mine.turn.acquire()
            if not mine.leads:
                if mine.next is not None:
                    mine.next.turn.release()
                return
        with self._guard:
            batch, self._gathered = self._gathered, []
        os.write(self._fd, b"".join([each.line for each in batch]))
        self._sync(self._fd)
        others = [each for each in batch if each is not mine]
        for each, following in pairwise(others):
            each.next = following
        if others:
            others[0].turn.release()
        with self._guard:
            self._is_led = bool(self._gathered)
            if self._gathered:
                self._gathered[0].leads = True
                self._gathered[0].turn.release()

    def close(self) -> None:
        os.close(self._fd)


class _InCrowd:
    __slots__ = ("leads", "line", "next", "turn")

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.leads = False
        self.next: _InCrowd | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


def write_from_threads(path: Path, lines: list[bytes], sync: Callable[[int], object]) -> float:
    crowd = BareCrowd(path, sync)
    try:
        return _in_threads(crowd.append, lines)
    finally:
        crowd.close()


def write_each(path: Path, lines: list[bytes], sync: Callable[[int], object] = lambda _: None) -> float:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        start = time.perf_counter()
        for line in lines:
            os.write(fd, line)
            sync(fd)
        return time.perf_counter() - start
    finally:
        os.close(fd)


def write_buffered(path: Path, frames: list[Frame]) -> float:
    """The same envelopes, built one by one, into a buffer of 64 KiB."""
    encode = FrameEncoder("s", datetime.now(UTC)).encode
    with path.open("ab", buffering=1 << 16) as file:
        start = time.perf_counter()
        for seq, (direction, message) in enumerate(frames):
            file.write(encode(direction, message, seq))
        file.flush()
        return time.perf_counter() - start


def write_dumped(path: Path, records: list[Any]) -> float:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        start = time.perf_counter()
        for each in records:
            os.write(fd, json.dumps(each, separators=(",", ":")).encode() + b"\n")
        return time.perf_counter() - start
    finally:
        os.close(fd)


def peak_growth_bytes(frames: list[Frame]) -> int:
    with tempfile.TemporaryDirectory() as directory:
        tracemalloc.start()
        try:
            record(Path(directory), frames)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def best_of(ways: dict[str, Callable[[Path], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """The shortest seconds of each, which take turns, so that a busy moment meets all of them."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as directory:
                best[name] = min(best[name], way(Path(directory)))
    return best


def main() -> None:
    source, frames = load_frames()
    with tempfile.TemporaryDirectory() as directory:
        record(Path(directory), frames)
        lines = (Path(directory) / "t.jsonl").read_bytes().splitlines(keepends=True)[1:]
    records = [json.loads(line) for line in lines]
    ways: dict[str, Callable[[Path], float]] = {
        "os.write per line": lambda d: write_each(d / "x", lines),
        "buffer of 64 KiB, same envelopes": lambda d: write_buffered(d / "x", frames),
        "json.dumps + os.write per record": lambda d: write_dumped(d / "x", records),
        "append": lambda d: record(d, frames),
        "append, durability: interval": lambda d: record(d, frames, durability=Durability("interval")),
        f"append_many of {BATCH}": lambda d: record(d, frames, batch=BATCH),
        f"a task that only yields, {COROUTINES}": lambda _: yield_from_coroutines(frames),
        f"a bare queue, {COROUTINES} coroutines": lambda d: write_from_coroutines(d / "x", frames),
        f"aappend_many of {BATCH}": lambda d: record_batches_from_a_coroutine(d, frames),
        f"aappend, {COROUTINES} coroutines": lambda d: record_from_coroutines(d, frames),
    }
    best = best_of(ways)
    each, buffered = best["os.write per line"], best["buffer of 64 KiB, same envelopes"]
    batched = best[f"append_many of {BATCH}"]
    print(f"{len(frames)} frames of {source}, {sum(map(len, lines)) / len(lines):.0f} bytes a line")
    print(f"{'':34}{'frames/s':>12}{'x write':>9}{'x buffer':>9}{'x batch':>9}")
    for name, seconds in best.items():
        ratios = "".join(f"{base / seconds:>9.2f}" for base in (each, buffered, batched))
        print(f"{name:34}{len(frames) / seconds:>12,.0f}{ratios}")

    few = frames[:100]  # short and many rounds: what a disk can do changes from one moment to the next
    sync = getattr(os, "fdatasync", os.fsync)
    durable = best_of(
        {
            "write + fdatasync per line": lambda d: write_each(d / "x", lines[: len(few)], sync),
            "append, durability: frame": lambda d: record(d, few, durability=Durability("frame")),
            f"the same, {THREADS} threads wait at once": lambda d: (
                record_from_threads(d, frames, Durability("frame")) * len(few) / len(frames)
            ),
            f"a bare crowd, {THREADS} threads": lambda d: (
                write_from_threads(d / "x", lines, sync) * len(few) / len(lines)
            ),
        },
        20,
    )
    bare = durable["write + fdatasync per line"]
    print(f"\n{'durable frames':38}{'frames/s':>10}{'ratio':>8}")
    for name, seconds in durable.items():
        print(f"{name:38}{len(few) / seconds:>10,.0f}{bare / seconds:>8.2f}")

    least, most = peak_growth_bytes(frames[:1000]), peak_growth_bytes(frames)
    print(
        f"\npeak memory while recording: 1,000 frames {least:,} bytes, {len(frames):,} frames {most:,} bytes"
    )
