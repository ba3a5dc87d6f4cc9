"""A listing from memory gives what the files say: while nothing changes, and as soon as something does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.backend import TapeQuery
from shadowcat_registry.providers.filesystem import overview
from shadowcat_registry.providers.filesystem.listing import NO_FILE, Known
from shadowcat_registry.providers.filesystem.overview import Overview
from shadowcat_registry.providers.filesystem.views import View
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction

from ..storages import handle, open_backend

C2S: Direction = "client_to_server"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FILE = (1, 1, 1, 1)

words = st.sampled_from(["a", "b", "c"])
moments = st.integers(0, 4).map(lambda hours: NOON + timedelta(hours=hours))
metadata: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "session_id": words | st.just(7),
        "status": words | st.none(),
        "tags": st.lists(words | st.just([]), max_size=3) | st.just("a"),
        "created_at": moments.map(datetime.isoformat) | st.just("2026-03-01T13:00:00") | st.just("?"),
    },
)
queries = st.builds(
    TapeQuery,
    session_id=st.none() | words,
    tag=st.none() | words,
    status=st.none() | words,
    created_after=st.none() | moments,
    created_before=st.none() | moments,
)


class TestView:
    @given(
        tapes=st.lists(st.tuples(metadata, st.booleans()), max_size=12),
        query=queries,
        limit=st.integers(1, 4),
    )
    def test_its_pages_are_what_a_look_at_every_tape_finds(
        self, tapes: list[tuple[dict[str, Any], bool]], query: TapeQuery, limit: int
    ) -> None:
        every = [
            (f"t{number:02}", {**each, "tape_id": f"t{number:02}"}, is_of_a_file)
            for number, (each, is_of_a_file) in enumerate(tapes)
        ]
        loose = {
            tape_id: Known.of(NO_FILE, each) for tape_id, each, is_of_a_file in every if not is_of_a_file
        }
        view = View([(i, Path(), Known.of(FILE, each) if is_file else None) for i, each, is_file in every])
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = view.page(query, cursor, limit, lambda _, tape_id: loose[tape_id])
            assert len(page.items) <= limit
            found += page.items
            cursor = page.cursor
            if cursor is None:
                break
        assert found == [each for _, each, _ in every if query.matches(each)]

    def test_what_is_no_tape_is_in_no_page(self) -> None:
        view = View([("t", Path(), None)])
        assert view.page(TapeQuery(), None, 1, lambda *_: None).items == ()


LAYOUTS = ["flat", "date", "session", "sharded"]


@contextmanager
def opened(tmp_path: Path, layout: str) -> Iterator[TapeStorage]:
    with handle(open_backend("filesystem", tmp_path, {"layout": layout})) as storage:
        yield storage


def record(storage: TapeStorage, tape_id: str) -> None:
    with storage.record("s", tape_id=tape_id) as tape:
        tape.append(C2S, b"1")


def ids(storage: TapeStorage, query: TapeQuery | None = None) -> list[str]:
    return [item["tape_id"] for item in storage.list_all(query)]


def let_rest(tmp_path: Path) -> None:
    """As if nothing had changed for a minute."""
    for folder in (tmp_path / "tapes", *(tmp_path / "tapes").iterdir()):
        if folder.is_dir():
            status = folder.stat()
            os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns - 60_000_000_000))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """At the files of which tapes somebody has looked."""
    found: list[str] = []
    listed = Overview._listed

    def counting(self: Overview, folder: Path, tape_id: str) -> Known | None:
        found.append(tape_id)
        return listed(self, folder, tape_id)

    monkeypatch.setattr(Overview, "_listed", counting)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
class TestListing:
    def test_nothing_is_looked_at_while_nothing_changes(
        self, tmp_path: Path, layout: str, looks: list[str]
    ) -> None:
        with opened(tmp_path, layout) as storage:
            for number in range(5):
                record(storage, f"t{number}")
            let_rest(tmp_path)
            everything = [storage.list(), storage.list()]
            del looks[:]
            everything += [storage.list(), storage.list()]
            assert looks == []
            assert all(page == everything[0] for page in everything)
            assert ids(storage, TapeQuery(status="recording")) == []
            assert ids(storage, TapeQuery(session_id="s")) == [f"t{number}" for number in range(5)]
            assert looks == []
            everything[-1].items[0]["tags"].append("mine")  # is his own who asked
            assert storage.list() == everything[0]

    def test_what_another_process_does_is_seen_at_once(self, tmp_path: Path, layout: str) -> None:
        with opened(tmp_path, layout) as storage, opened(tmp_path, layout) as other:
            record(storage, "t1")
            for change in ("record", "set", "delete"):
                let_rest(tmp_path)
                for _ in range(3):
                    before = ids(storage)
                if change == "record":
                    record(other, "t0")
                    assert ids(storage) == ["t0", *before]
                elif change == "set":
                    meta, etag = other.get_meta("t0")
                    other.set_meta("t0", {**meta, "name": "changed", "tags": ["new"]}, etag)
                    assert storage.list().items[0]["name"] == "changed"
                    assert ids(storage, TapeQuery(tag="new")) == ["t0"]
                else:
                    other.delete("t0")
                    assert ids(storage) == ["t1"]

    def test_what_has_just_changed_may_change_again_unseen_and_is_not_remembered(
        self, tmp_path: Path, layout: str, looks: list[str]
    ) -> None:
        with opened(tmp_path, layout) as storage:
            record(storage, "t")
            for _ in range(5):
                storage.list()
            assert looks == ["t"] * 5


class TestWhatLeavesNoTrace:
    def test_metadata_that_is_written_in_its_place_is_seen_when_the_view_is_old(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "tapes" / "t.meta.json"
        with opened(tmp_path, "flat") as storage:
            record(storage, "t")
            let_rest(tmp_path)
            for _ in range(3):
                storage.list()
            text = json.dumps({**json.loads(path.read_bytes()), "name": "by hand"})
            with path.open("r+") as file:
                file.write(text)
                file.truncate()
            clock = monotonic() + overview.VIEW_SECONDS
            monkeypatch.setattr(overview, "monotonic", lambda: clock)
            assert storage.list().items[0]["name"] == "by hand"

    def test_a_tape_without_metadata_is_looked_at_each_time(self, tmp_path: Path) -> None:
        path = tmp_path / "tapes" / "t.jsonl"
        with opened(tmp_path, "flat") as storage:
            record(storage, "t")
            (tmp_path / "tapes" / "t.meta.json").unlink()
            (tmp_path / "tapes" / "u.jsonl").touch()
            let_rest(tmp_path)
            for _ in range(3):
                (item,) = storage.list().items
                assert item["stats"]["file_size_bytes"] == path.stat().st_size
                with path.open("ab") as file:
                    file.write(b"{}\n")
            (tmp_path / "tapes" / "u.jsonl").write_bytes(path.read_bytes().replace(b'"t"', b'"u"'))
            assert ids(storage) == ["t", "u"]
