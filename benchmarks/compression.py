"""Compressed tapes of the filesystem provider: how small they become, and what that costs whoever writes and
reads them, beside the same without compression and the codec by itself on the same lines, in one run.

"By itself" a codec compresses the whole file at once, or decompresses it, and knows neither blocks nor tapes.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shadowcat_registry.providers.filesystem.backend import FilesystemBackend
from shadowcat_registry.providers.filesystem.compression import Compression, zstd_library
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.use import Source, Use

from .append import BATCH, MEMORY_10K, Frame, load_frames

ROUNDS = 5
KINDS: tuple[Compression, ...] = ("none", "gzip", "zstd")


def open_storage(directory: Path, kind: Compression) -> TapeStorage:
    backend = FilesystemBackend(directory, logging.getLogger("benchmark"), compression=kind)
    return TapeStorage(Use(Source.of(backend, "benchmark")))


def record(storage: TapeStorage, tape_id: str, frames: list[Frame]) -> float:
    """Seconds from the first frame to the end of the tape."""
    with storage.record("s", tape_id=tape_id) as tape:
        start = time.perf_counter()
        for first in range(0, len(frames), BATCH):
            tape.append_many(frames[first : first + BATCH])
        tape.finalize()
        return time.perf_counter() - start


def slowest(storage: TapeStorage, frames: list[Frame]) -> float:
    """The seconds of that append of one frame which took longest: what a block costs, one frame pays."""
    worst = 0.0
    with storage.record("s", tape_id="slowest") as tape:
        for direction, message in frames:
            start = time.perf_counter()
            tape.append(direction, message)
            worst = max(worst, time.perf_counter() - start)
    return worst


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def count(storage: TapeStorage, after_seq: int = -1) -> int:
    return sum(1 for _ in storage.read("t", after_seq))


def first_behind(storage: TapeStorage, seqs: range) -> None:
    for seq in seqs:
        lines = storage.read("t", seq)
        next(lines)


def tapes(frames: list[Frame]) -> None:
    writing, reading, sizes = (dict.fromkeys(KINDS, float("inf")) for _ in range(3))
    seeking, waits = dict(writing), dict(writing)
    raw = b""
    for _ in range(ROUNDS):  # in turn
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as name, open_storage(Path(name), kind) as storage:
                writing[kind] = min(writing[kind], record(storage, "t", frames))
                reading[kind] = min(reading[kind], timed(lambda: count(storage)))
                seqs = range(7, len(frames) - 1, len(frames) // 100)
                first_behind(storage, seqs)
                seeking[kind] = min(seeking[kind], timed(lambda: first_behind(storage, seqs)) / len(seqs))  # noqa: B023
                waits[kind] = min(waits[kind], slowest(storage, frames))
                sizes[kind] = sum(path.stat().st_size for path in Path(name).glob("t.jsonl*"))
                raw = b"".join(storage.read("t"))
    print(f"{'a tape':10}{'bytes':>12}{'smaller':>9}{'frames/s':>12}{'ratio':>7}", end="")
    print(f"{'read MB/s':>11}{'ratio':>7}{'one in the middle':>19}{'slowest append':>16}")
    for kind in KINDS:
        print(f"{kind:10}{sizes[kind]:>12,.0f}{len(raw) / sizes[kind]:>9.1f}", end="")
        print(f"{len(frames) / writing[kind]:>12,.0f}{writing['none'] / writing[kind]:>7.2f}", end="")
        print(f"{len(raw) / reading[kind] / 1e6:>11,.0f}{reading['none'] / reading[kind]:>7.2f}", end="")
        print(f"{seeking[kind] * 1e6:>16,.0f} us{waits[kind] * 1e3:>13,.1f} ms")
    zstd = zstd_library()
    codecs: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
        "gzip": (lambda data: gzip.compress(data, 6), gzip.decompress),
        "zstd": (lambda data: bytes(zstd.compress(data, 3)), lambda data: bytes(zstd.decompress(data))),
    }
    for name, (compress, decompress) in codecs.items():
        packed = compress(raw)
        there = min(timed(lambda: compress(raw)) for _ in range(ROUNDS))  # noqa: B023
        back = min(timed(lambda: decompress(packed)) for _ in range(ROUNDS))  # noqa: B023
        print(f"{name} by itself: {len(raw) / len(packed):.1f} times smaller, ", end="")
        print(f"{len(raw) / there / 1e6:,.0f} MB/s there, {len(raw) / back / 1e6:,.0f} MB/s back")


def recordings() -> None:
    """The tapes of the field as they are."""
    paths = sorted(MEMORY_10K.parent.glob("*.jsonl"))
    if not paths:
        return
    raw = sum(path.stat().st_size for path in paths)
    for kind in KINDS[1:]:
        with tempfile.TemporaryDirectory() as name, open_storage(Path(name), kind) as storage:
            for path in paths:
                lines = path.read_bytes().splitlines(keepends=True)
                tape = storage.adopt(lines[0], {})
                tape.append_lines(lines[1:])
                tape.finalize()
                assert b"".join(storage.read(path.stem)) == path.read_bytes()
            packed = sum(path.stat().st_size for path in Path(name).glob("*.jsonl*"))
        print(
            f"{len(paths)} real recordings, {raw:,} bytes; {kind}: {packed:,}, {raw / packed:.1f} x smaller"
        )


def main() -> None:
    source, frames = load_frames()
    print(f"{len(frames)} frames of {source}, append_many of {BATCH}")
    tapes(frames)
    recordings()
