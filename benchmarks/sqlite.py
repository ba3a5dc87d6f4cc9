"""Tapes in a SQLite file: ours beside what one would write by hand, in one run.

By hand: a row a line and `executemany`, in the same mode (WAL, NORMAL), the batches committed as ours are;
with search, the texts of the same frames inserted into an FTS5 table of the same kind in the same
transaction. Then what a filled file answers: searches beside ripgrep over the same tapes as files, where that
is installed, and a query of metadata beside reading it from the files. Prints ratios; absolute times depend
on the machine.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from shadowcat_registry.backend import TapeQuery
from shadowcat_registry.providers.sqlite import SqliteProviderFactory
from shadowcat_registry.providers.sqlite.words import TOKENIZER, text_of
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import make_init_line, make_metadata
from shadowcat_registry.use import Source, Use

from .append import load_frames

ROUNDS: Final = 5
BATCH: Final = 64
TAPES: Final = int(os.environ.get("BENCHMARK_TAPES", "10000"))
FRAMES_EACH: Final = 100
WAITING: Final = 64
FRAMES_SYNCED: Final = 1_500


class _Context:
    provider = "benchmark"
    logger = logging.getLogger("benchmark")

    def __init__(self, directory: Path) -> None:
        self.base_directory = directory

    def open(self, name: str) -> TapeStorage:
        raise NotImplementedError(name)

    async def aopen(self, name: str) -> TapeStorage:
        raise NotImplementedError(name)


class Opened:
    """A backend and a handle on it, for a `with` block."""

    def __init__(self, directory: Path, **config: Any) -> None:
        config = {"durability": "none", "search": False, **config}
        self.backend = SqliteProviderFactory().create(config, _Context(directory))

    def __enter__(self) -> TapeStorage:
        return TapeStorage(Use(Source.of(self.backend, "benchmark")))

    def __exit__(self, *_: object) -> None:
        self.backend.close()


def lines_of(count: int | None = None) -> list[bytes]:
    """The frames as they stand on a tape, envelope and all."""
    _, frames = load_frames()
    with tempfile.TemporaryDirectory() as directory, Opened(Path(directory)) as storage:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many(frames[:count])
        return list(storage.read("t"))[1:]


def ours(directory: Path, lines: list[bytes], batch: int, **config: Any) -> float:
    """Seconds until all is committed, and, with search, found."""
    with Opened(directory, **config) as storage:
        init = make_init_line("t", "s", datetime.now(UTC))
        backend = storage.use.source.backend
        start = time.perf_counter()
        appender = backend.create("t", init, make_metadata(json.loads(init), "recording"))
        for first in range(0, len(lines), batch):
            appender.append(lines[first : first + batch])
        appender.close()
        return time.perf_counter() - start


def by_hand(directory: Path, lines: list[bytes], batch: int, *, search: bool = False) -> float:
    db = sqlite3.connect(directory / "hand.db", isolation_level=None)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE frame (id INTEGER PRIMARY KEY, tape INTEGER, line BLOB) STRICT")
    if search:
        db.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='{TOKENIZER}')")
    start = time.perf_counter()
    for first in range(0, len(lines), batch):
        part = lines[first : first + batch]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO frame VALUES (?, 1, ?)", list(enumerate(part, first)))
        if search:
            rows = [(number, text_of(line)) for number, line in enumerate(part, first)]
            db.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        db.execute("COMMIT")
    seconds = time.perf_counter() - start
    db.close()
    return seconds


def appends(lines: list[bytes]) -> None:
    few = lines[:3000]
    pairs: dict[str, tuple[int, Callable[[Path], float], Callable[[Path], float]]] = {
        "frame by frame": (len(few), lambda d: ours(d, few, 1), lambda d: by_hand(d, few, 1)),
        f"batches of {BATCH}": (
            len(lines),
            lambda d: ours(d, lines, BATCH),
            lambda d: by_hand(d, lines, BATCH),
        ),
        "batches of 256": (len(lines), lambda d: ours(d, lines, 256), lambda d: by_hand(d, lines, 256)),
        f"search, batches of {BATCH}": (
            len(lines),
            lambda d: ours(d, lines, BATCH, search=True),
            lambda d: by_hand(d, lines, BATCH, search=True),
        ),
    }
    print(f"{'frames/s':34}{'ours':>12}{'by hand':>12}{'ratio':>8}")
    for name, (count, mine, hand) in pairs.items():
        best = [float("inf")] * 2
        for _ in range(ROUNDS):  # in turn, so that a busy moment meets both
            for number, way in enumerate((mine, hand)):
                with tempfile.TemporaryDirectory() as directory:
                    best[number] = min(best[number], way(Path(directory)))
        print(f"{name:34}{count / best[0]:>12,.0f}{count / best[1]:>12,.0f}{best[1] / best[0]:>8.2f}")


def synced(lines: list[bytes]) -> None:
    """`durability: frame`: one that waits for the disk, many that share a wait, and FULL by hand."""

    def waiting(threads: int) -> float:
        with (
            tempfile.TemporaryDirectory() as directory,
            Opened(Path(directory), durability="frame") as storage,
        ):
            tapes = [storage.record("s") for _ in range(threads)]
            each = FRAMES_SYNCED // threads

            def work(number: int) -> None:
                for _ in range(each):
                    tapes[number].append("client_to_server", b'{"jsonrpc":"2.0","id":1,"method":"ping"}')

            workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
            start = time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            seconds = time.perf_counter() - start
            for tape in tapes:
                tape.finalize()
            return each * threads / seconds

    def full() -> float:
        with tempfile.TemporaryDirectory() as directory:
            db = sqlite3.connect(Path(directory) / "hand.db", isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("CREATE TABLE frame (id INTEGER PRIMARY KEY, tape INTEGER, line BLOB) STRICT")
            start = time.perf_counter()
            for number in range(FRAMES_SYNCED):
                db.execute("INSERT INTO frame VALUES (?, 1, ?)", (number, lines[number % len(lines)]))
            seconds = time.perf_counter() - start
            db.close()
            return FRAMES_SYNCED / seconds

    by_full = max(full() for _ in range(3))
    for threads in (1, WAITING):
        rate = max(waiting(threads) for _ in range(3))
        print(f"durable, {threads:>3} waiting{'':16}{rate:>12,.0f}{by_full:>12,.0f}{rate / by_full:>8.2f}")


def best_ms(call: Callable[[], object], rounds: int = 7) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best * 1000


def answers(lines: list[bytes]) -> None:
    """A file of many tapes, and the same as files: how fast does each answer?"""
    with tempfile.TemporaryDirectory() as name, Opened(Path(name), search=True) as storage:
        directory = Path(name) / "files"
        directory.mkdir()
        start = time.perf_counter()
        for number in range(TAPES):
            tape_id = f"t{number:05}"
            with storage.record(f"s{number % 500}", tape_id=tape_id, tags=[f"tag{number % 100}"]) as tape:
                first = number * 37 % (len(lines) - FRAMES_EACH)
                part = list(lines[first : first + FRAMES_EACH])
                if number % (TAPES // 10 or 1) == 7:
                    part[3] = part[3].replace(b'"message":', b'"message":"zebrafish ', 1)
                tape.append_lines(part)
            (directory / f"{tape_id}.jsonl").write_bytes(b"".join(storage.read(tape_id)))
            (directory / f"{tape_id}.meta.json").write_text(
                json.dumps(storage.get_meta(tape_id)[0], indent=2)
            )
        print(
            f"{TAPES:,} tapes, {TAPES * FRAMES_EACH:,} frames, filled in {time.perf_counter() - start:.0f} s"
        )
        file = Path(name) / "tapes.db"
        size = sum(each.stat().st_size for each in directory.glob("*.jsonl"))
        print(f"as files {size / 1e6:.0f} MB, as one with its index {file.stat().st_size / 1e6:.0f} MB")
        words = {
            "a rare word": "zebrafish",
            "a word of every second frame": "tools",
            "two of them": "tools/call name",
        }
        rare = 0.0
        for what, word in words.items():
            hits = len(storage.search(word, limit=20).items)
            took = best_ms(lambda word=word: storage.search(word, limit=20))  # type: ignore[misc]
            rare = rare or took
            print(f"search, {what:34}{took:>10.2f} ms  {hits} hits")
        if rg := shutil.which("rg"):
            command = [rg, "-c", "zebrafish", str(directory), "-g", "*.jsonl"]
            took = best_ms(lambda: subprocess.run(command, capture_output=True, check=True), 3)
            print(f"ripgrep, the rare word{'':20}{took:>10.2f} ms  ours takes {rare / took:.4f} of it")
        else:
            print("ripgrep is not installed")

        def read_files() -> list[dict[str, Any]]:
            found = (json.loads(each.read_bytes()) for each in sorted(directory.glob("*.meta.json")))
            return [meta for meta in found if "tag7" in meta["tags"]]

        files = best_ms(read_files, 3)
        for what, query in {
            "tag": TapeQuery(tag="tag7"),
            "session": TapeQuery(session_id="s7"),
            "tag and status": TapeQuery(tag="tag7", status="finalized"),
        }.items():
            took = best_ms(lambda query=query: storage.list(query, limit=1000))  # type: ignore[misc]
            print(f"query by {what:33}{took:>10.2f} ms  files {files:.0f} ms: {took / files:.4f}")
        took = best_ms(lambda: list(storage.list_all()), 3)
        print(f"list of all{'':31}{took:>10.2f} ms")


def main() -> None:
    lines = lines_of()
    mean = sum(map(len, lines)) / len(lines)
    print(f"{len(lines)} frames, {mean:.0f} bytes a line, SQLite {sqlite3.sqlite_version}")
    appends(lines)
    synced(lines)
    answers(lines)
