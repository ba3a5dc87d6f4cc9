"""A signal's handler that raises anywhere while a tapes file is written, see `tests/test_interrupts.py`: the
turn to write is given back, no transaction stays open, and no line is lost or doubled."""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from shadowcat_registry.backend import Appender
from shadowcat_registry.errors import TapeNotFoundError
from shadowcat_registry.providers.sqlite import appender, backend, connections, files, locks, segments
from shadowcat_registry.providers.sqlite.backend import SqliteBackend
from shadowcat_registry.tape import make_init_line, make_metadata

from ..fakes import Running
from ..instructions import each_instruction, reporting
from ..storages import open_backend
from ..strikes import Interrupt, Strike

FILES: Final = frozenset(
    str(module.__file__) for module in (appender, backend, connections, files, locks, segments)
)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqliteBackend]:
    opened = open_backend("sqlite", tmp_path, {"busy_timeout_ms": 200, "durability": "none"})
    assert isinstance(opened, SqliteBackend)
    with each_instruction(FILES):
        gc.collect()
        gc.freeze()
        yield opened
        gc.unfreeze()
    opened.close()


def create(storage: SqliteBackend, tape_id: str) -> Appender:
    init = make_init_line(tape_id, "s", datetime(2026, 1, 1, tzinfo=UTC))
    return storage.create(tape_id, init, make_metadata(json.loads(init), "recording"))


def line(seq: int) -> bytes:
    return b'{"type":"frame","seq":%d}\n' % seq


def check_at_rest(directory: Path) -> None:
    """Others can write at once: no transaction was left open."""
    with closing(sqlite3.connect(directory / "tapes.db", timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


@pytest.mark.parametrize("lines_each", [1, 2], ids=["in one row", "in two rows"])
def test_an_append_that_is_struck_anywhere_is_there_once_or_not_at_all(
    storage: SqliteBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines_each: int
) -> None:
    monkeypatch.setattr(segments, "_SEGMENT_BYTES", 1)
    tape = create(storage, "t")
    number = seq = 0
    expected: list[bytes] = []
    for number in count():
        strike, told = Strike(number), False
        mine = [line(seq + at) for at in range(lines_each)]
        with suppress(Interrupt), reporting(FILES, strike.step):
            tape.append(mine)
            told = True
        check_at_rest(tmp_path)
        behind = line(seq + lines_each)
        Running(lambda behind=behind: tape.append([behind])).result()  # type: ignore[misc]
        found = list(storage.read("t"))[1:][len(expected) :]
        assert found == [*mine, behind] or (found == [behind] and not told), strike.where
        expected += found
        seq += lines_each + 1
        if strike.where is None:
            break
    assert number > 10, "it was seen"
    tape.close()
    assert list(storage.read("t"))[1:] == expected


def test_a_transaction_that_is_struck_anywhere_is_there_whole_or_not_at_all(
    storage: SqliteBackend, tmp_path: Path
) -> None:
    number = 0
    for number in count():
        strike, tape_id = Strike(number), f"t{number}"
        with suppress(Interrupt), reporting(FILES, strike.step), storage.transaction():
            tape = create(storage, tape_id)
            tape.append([line(0)])
            tape.close()
        check_at_rest(tmp_path)
        Running(lambda: create(storage, "other").close()).result()
        storage.delete("other")
        with suppress(TapeNotFoundError):
            assert list(storage.read(tape_id))[1:] == [line(0)], strike.where
            storage.delete(tape_id)  # nobody has it
        if strike.where is None:
            break
    assert number > 60, "it was seen"
