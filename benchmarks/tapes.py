"""Whole tapes: a query of metadata beside reading the files, and how fast tapes are verified and copied.

The query looks for one of 10,000 tapes in a thousand by its tag; beside it, all their files are read, and
all their metadata files are parsed. Verifying reads and parses every line, copying writes it and reads it
back: the limits beside them are the SHA-256 of the same bytes, and a `copyfile` with one on each side.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shadowcat_registry.backend import TapeQuery
from shadowcat_registry.providers.filesystem import FilesystemProviderFactory
from shadowcat_registry.providers.memory import MemoryProviderFactory
from shadowcat_registry.providers.sqlite import SqliteProviderFactory
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tapes.copying import copy_tapes
from shadowcat_registry.tapes.importing import import_tape
from shadowcat_registry.tapes.verifying import verify_tape

from .append import MEMORY_10K, ROOT

TAPES = 10_000
ROUNDS = 5
SMALL = ROOT / "tests" / "data" / "8470d00f-c0ef-4770-bf2f-64d31205fc40.jsonl"
QUERY = TapeQuery(tag="rare")


def _tapes(count: int) -> list[tuple[str, list[bytes], dict[str, Any]]]:
    """Copies of a small real recording under ids of their own; one of a thousand has the tag."""
    text = SMALL.read_bytes()
    meta = json.loads(SMALL.with_name(SMALL.stem + ".meta.json").read_bytes())
    made = []
    for number in range(count):
        tape_id = f"tape-{number:05}"
        tags = ["rare"] if number % 1_000 == 0 else ["common"]
        lines = text.replace(SMALL.stem.encode(), tape_id.encode()).splitlines(keepends=True)
        made.append((tape_id, lines, {**meta, "tape_id": tape_id, "tags": tags}))
    return made


def _write_files(directory: Path) -> None:
    """As the provider leaves them behind, without its fsyncs."""
    directory.mkdir()
    for tape_id, lines, meta in _tapes(TAPES):
        (directory / f"{tape_id}.jsonl").write_bytes(b"".join(lines))
        (directory / f"{tape_id}.meta.json").write_text(json.dumps(meta, indent=2))


def _fill(storage: TapeStorage) -> None:
    with storage.transaction():
        for _, lines, meta in _tapes(TAPES):
            recorder = storage.adopt(lines[0], meta)
            recorder.append_lines(lines[1:])
            recorder.finalize(meta)


def _read_all(paths: list[Path]) -> None:
    for path in paths:
        path.read_bytes()


def _parse_all(paths: list[Path]) -> int:
    return sum("rare" in json.loads(path.read_bytes())["tags"] for path in paths)


def _found(storage: TapeStorage) -> None:
    assert len(list(storage.list_all(QUERY))) == TAPES // 1_000


def _best(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def query(directory: Path, registry: StorageProviderRegistry) -> None:
    _write_files(directory / "tapes")
    tapes = sorted((directory / "tapes").glob("*.jsonl"))
    metas = sorted((directory / "tapes").glob("*.meta.json"))
    size_bytes = sum(path.stat().st_size for path in tapes)
    with registry.open_storage("filesystem") as files, registry.open_storage("sqlite") as database:
        _fill(database)
        _found(files)  # what is warm afterwards, is warm for all
        times = {
            "reading the files of the tapes": _best(lambda: _read_all(tapes)),
            "parsing their metadata files": _best(lambda: _parse_all(metas)),
            "filesystem: list(tag=…)": _best(lambda: _found(files)),
            "sqlite: list(tag=…)": _best(lambda: _found(database)),
        }
    whole = times["reading the files of the tapes"]
    print(f"one of a thousand of {TAPES:,} tapes, {size_bytes / 1e6:.0f} MB, from the cache of the system")
    print(f"{'':34}{'ms':>10}{'ratio':>10}")
    for name, seconds in times.items():
        print(f"{name:34}{seconds * 1e3:>10.2f}{whole / seconds:>10.1f}")


def throughput(directory: Path, registry: StorageProviderRegistry) -> None:
    path = MEMORY_10K if MEMORY_10K.exists() else SMALL
    size_bytes = path.stat().st_size

    def copied() -> None:
        shutil.copyfile(path, directory / "copy")
        assert (
            hashlib.sha256(path.read_bytes()).digest()
            == hashlib.sha256((directory / "copy").read_bytes()).digest()
        )

    with ExitStack() as opened:
        memory, files, database = (
            opened.enter_context(registry.create_storage(name)) for name in ("memory", "filesystem", "sqlite")
        )
        import_tape(memory, path)
        import_tape(files, path)

        def copy(source: TapeStorage, target: TapeStorage) -> float:
            best = float("inf")
            for _ in range(ROUNDS):
                if target is not memory:
                    for result in copy_tapes(source, target, tape_ids=[path.stem]):
                        target.delete(result.tape_id)
                start = time.perf_counter()
                assert copy_tapes(source, target, tape_ids=[path.stem])[0].outcome == "copied"
                best = min(best, time.perf_counter() - start)
                target.delete(path.stem)
            return best

        limit = _best(lambda: hashlib.sha256(path.read_bytes()))
        times = {
            "SHA-256 of the file": limit,
            "copyfile, SHA-256 of both": _best(copied),
            "filesystem: verify": _best(lambda: verify_tape(files, path.stem)),
            "memory to sqlite: copy": copy(memory, database),
            "filesystem to sqlite: copy": copy(files, database),
        }
        files.delete(path.stem)
        times["memory to filesystem: copy"] = copy(memory, files)
    print(f"{path.stem[:8]}, {size_bytes / 1e6:.1f} MB")
    print(f"{'':34}{'MB/s':>10}{'ratio':>10}")
    for name, seconds in times.items():
        print(f"{name:34}{size_bytes / seconds / 1e6:>10.0f}{limit / seconds:>10.2f}")


def main() -> None:
    for part in (query, throughput):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            registry = StorageProviderRegistry(base_directory=directory)
            registry.register(FilesystemProviderFactory(), config={"directory": "tapes"})
            registry.register(SqliteProviderFactory(), config={"path": "tapes.db"})
            registry.register(MemoryProviderFactory())
            try:
                part(directory, registry)
            finally:
                registry.close()
