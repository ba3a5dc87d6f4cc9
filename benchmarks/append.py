"""Appending frames to a file: ours beside the bare calls that it cannot beat, in one run.

Prints ratios to one `os.write` per line of the same bytes, and how much memory grows while few and many
frames are recorded. Absolute times depend on the machine.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shadowcat_registry.providers.filesystem.backend import FilesystemBackend
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction
from shadowcat_registry.use import Source, Use

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 7
BATCH = 64
FRAMES = 11_209
MEMORY_10K = ROOT.parent / "shared" / "tapes" / "5fde4927-efc3-438b-8a77-f11e08dafe97.jsonl"

Frame = tuple[Direction, bytes]


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


def open_storage(directory: Path) -> TapeStorage:
    backend = FilesystemBackend(directory, logging.getLogger("benchmark"))
    return TapeStorage(Use(Source.of(backend, "benchmark")))


def record(directory: Path, frames: list[Frame], *, batch: int = 1) -> float:
    """Seconds for the appends alone."""
    with open_storage(directory) as storage, storage.record("s", tape_id="t") as tape:
        start = time.perf_counter()
        if batch == 1:
            append = tape.append
            for direction, message in frames:
                append(direction, message)
        else:
            for first in range(0, len(frames), batch):
                tape.append_many(frames[first : first + batch])
        return time.perf_counter() - start


def write_each(path: Path, lines: list[bytes]) -> float:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        start = time.perf_counter()
        for line in lines:
            os.write(fd, line)
        return time.perf_counter() - start
    finally:
        os.close(fd)


def write_buffered(path: Path, lines: list[bytes]) -> float:
    with path.open("ab") as file:
        start = time.perf_counter()
        for line in lines:
            file.write(line)
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


def main() -> None:
    source, frames = load_frames()
    with tempfile.TemporaryDirectory() as directory:
        record(Path(directory), frames)
        lines = (Path(directory) / "t.jsonl").read_bytes().splitlines(keepends=True)[1:]
    records = [json.loads(line) for line in lines]
    ways: dict[str, Callable[[Path], float]] = {
        "os.write per line": lambda d: write_each(d / "x", lines),
        "buffered write + flush per line": lambda d: write_buffered(d / "x", lines),
        "json.dumps + os.write per record": lambda d: write_dumped(d / "x", records),
        "append": lambda d: record(d, frames),
        f"append_many of {BATCH}": lambda d: record(d, frames, batch=BATCH),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):  # in turn, so that a busy moment meets all of them
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as directory:
                best[name] = min(best[name], way(Path(directory)))
    bare = best["os.write per line"]
    print(f"{len(frames)} frames of {source}, {sum(map(len, lines)) / len(lines):.0f} bytes a line")
    print(f"{'':34}{'frames/s':>12}{'ratio':>8}")
    for name, seconds in best.items():
        print(f"{name:34}{len(frames) / seconds:>12,.0f}{bare / seconds:>8.2f}")
    few, many = peak_growth_bytes(frames[:1000]), peak_growth_bytes(frames)
    print(f"peak memory while recording: 1,000 frames {few:,} bytes, {len(frames):,} frames {many:,} bytes")
