"""What a storage claims, and has to fail at if it does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial

import pytest

from ..backend import SearchHit
from ..errors import (
    FrameNotFoundError,
    TapeExistsError,
    TapeNotFoundError,
    TransactionError,
    UnsupportedCapabilityError,
)
from ..metadata import ProviderCapability
from ..storage import TapeStorage
from ..tapes.verifying import verify_tape
from .places import C2S, PATIENCE_SECONDS, S2C, Place, UnderTest, capable, in_background, messages_in


class CapabilityConformance(UnderTest):
    @pytest.mark.parametrize(
        ("capability", "use"),
        [
            (ProviderCapability.SEARCH, lambda storage: storage.search("x")),
            (ProviderCapability.TRANSACTIONS, lambda storage: storage.transaction()),
        ],
    )
    def test_what_it_does_not_claim_fails_with_one_error(
        self, storage: TapeStorage, capability: ProviderCapability, use: Callable[[TapeStorage], object]
    ) -> None:
        if capability in storage.capabilities:
            use(storage)
            return
        with pytest.raises(UnsupportedCapabilityError):
            use(storage)

    def test_an_instance_claims_no_more_than_its_type(self, place: Place, storage: TapeStorage) -> None:
        assert storage.capabilities <= place.claimed


class SearchConformance(UnderTest):
    @pytest.fixture
    def searchable(self, storage: TapeStorage) -> TapeStorage:
        return capable(storage, ProviderCapability.SEARCH)

    def test_a_word_is_found_in_the_frame_that_has_it(self, searchable: TapeStorage) -> None:
        with searchable.record("s", tape_id="a") as tape:
            tape.append(C2S, b'{"method":"tools/call","params":{"name":"read_file"}}')
            tape.append(S2C, b'{"result":{"text":"a zebra\\nand a \\u00e9clair"}}')
        with searchable.record("s", tape_id="b") as tape:
            tape.append(C2S, b'{"method":"tools/list"}')
        for text, found in (
            ("zebra", [("a", 1)]),
            ("ZEBRA \u00e9clair", [("a", 1)]),
            ("zebra read_file", []),
            ("read_file", [("a", 0)]),
            ("tools/list", [("b", 0)]),
            ("elephant", []),
            ("session_id", []),  # of the envelope, not of a message
        ):
            hits = searchable.search(text).items
            assert [(hit.tape_id, hit.seq) for hit in hits] == found, text
        assert {hit.tape_id for hit in searchable.search("tools").items} == {"a", "b"}
        hit = searchable.search("zebra").items[0]
        assert "[zebra]" in hit.snippet
        assert hit.score == hit.score  # a number

    @pytest.mark.parametrize(
        "text",
        ["", " ", "*", '"', "C++", "NEAR(a b)", "a AND", "-a", "a:b", "^a", "(", "{a b}:c", "\0", "\ud800",
         "a'b", 'say "x', "OR", "tool*", "\x1b[31m", "%", "x" * 100_000],
    )  # fmt: skip
    def test_no_character_is_syntax_and_none_an_error(self, searchable: TapeStorage, text: str) -> None:
        with searchable.record("s", tape_id="t") as tape:
            tape.append(C2S, b'"something else"')
        assert searchable.search(text).items == ()

    @pytest.mark.parametrize(
        "word", ["tools/call", "C++", '"quoted"', "a.b-c_d", "NEAR", "*star*", "50%", "x:y"]
    )
    def test_odd_words_are_found_as_they_are(self, searchable: TapeStorage, word: str) -> None:
        with searchable.record("s", tape_id="t") as tape:
            tape.append(C2S, json.dumps(f"before {word} after").encode())
        assert [hit.seq for hit in searchable.search(word).items] == [0]

    def test_what_was_appended_before_is_found_also_while_it_is_recorded(
        self, searchable: TapeStorage
    ) -> None:
        with searchable.record("s", tape_id="t") as tape:
            for number in range(3):
                tape.append(C2S, b'"common word%d"' % number)
                assert len(searchable.search("common").items) == number + 1
                assert [hit.seq for hit in searchable.search(f"word{number}").items] == [number]

    def test_the_best_comes_first_and_pages_are_complete(self, searchable: TapeStorage) -> None:
        with searchable.record("s", tape_id="t") as tape:
            for number in range(7):
                tape.append(C2S, b'"%s"' % b" ".join([b"fish"] * (number + 1) + [b"other"] * (20 - number)))
        seen: list[SearchHit] = []
        cursor = None
        for _ in range(3):
            page = searchable.search("fish", cursor, 3)
            seen += page.items
            cursor = page.cursor
            if cursor is None:
                break
            assert len(page.items) == 3
        assert cursor is None
        assert [hit.seq for hit in seen] == [6, 5, 4, 3, 2, 1, 0]
        assert sorted(seen, key=lambda hit: -hit.score) == seen

    def test_a_deleted_tape_is_not_found(self, searchable: TapeStorage) -> None:
        for tape_id in ("a", "b"):
            with searchable.record("s", tape_id=tape_id) as tape:
                tape.append(C2S, b'"zebra"')
        assert len(searchable.search("zebra").items) == 2
        searchable.delete("a")
        assert [hit.tape_id for hit in searchable.search("zebra").items] == ["b"]


class TransactionConformance(UnderTest):
    @pytest.fixture
    def transactional(self, storage: TapeStorage) -> TapeStorage:
        return capable(storage, ProviderCapability.TRANSACTIONS)

    @staticmethod
    def _change(storage: TapeStorage) -> None:
        with storage.record("s", tape_id="new") as tape:
            tape.append(C2S, b"1")
        storage.delete("old")
        storage.set_meta("kept", {"name": "changed"})
        assert messages_in(storage, "new") == [1], "a thread sees what it did"
        assert [item["tape_id"] for item in storage.list().items] == ["kept", "new"]

    def test_all_of_it_is_there_at_the_end(self, transactional: TapeStorage) -> None:
        for tape_id in ("kept", "old"):
            transactional.record("s", tape_id=tape_id).finalize()
        with transactional.transaction():
            self._change(transactional)
            seen: list[object] = []
            other = threading.Thread(target=lambda: seen.extend(transactional.list_all()))
            other.start()
            other.join()
            assert [item["tape_id"] for item in seen] == ["kept", "old"]  # type: ignore[index]
        assert [item["tape_id"] for item in transactional.list_all()] == ["kept", "new"]
        assert messages_in(transactional, "new") == [1]
        assert transactional.get_meta("kept")[0]["name"] == "changed"

    def test_after_an_error_nothing_of_it_is(self, transactional: TapeStorage) -> None:
        for tape_id in ("kept", "old"):
            transactional.record("s", tape_id=tape_id).finalize()
        before = [transactional.get_meta(tape_id) for tape_id in ("kept", "old")]

        def fail() -> None:
            with transactional.transaction():
                self._change(transactional)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert [transactional.get_meta(tape_id) for tape_id in ("kept", "old")] == before
        assert len(list(transactional.read("old"))) == 1
        transactional.record("s", tape_id="new").finalize()  # the id is free, and nobody holds it

    def test_a_refused_operation_leaves_the_others_in_it(self, transactional: TapeStorage) -> None:
        with transactional.transaction():
            transactional.record("s", tape_id="a").finalize()
            with pytest.raises(TapeExistsError):
                transactional.record("s", tape_id="a")
            with pytest.raises(TapeNotFoundError):
                transactional.delete("b")
        assert [item["tape_id"] for item in transactional.list_all()] == ["a"]

    def test_one_within_another_is_refused(self, transactional: TapeStorage) -> None:
        with transactional.transaction():
            transactional.record("s", tape_id="a").finalize()
            with pytest.raises(TransactionError), transactional.transaction():
                pass
        assert [item["tape_id"] for item in transactional.list_all()] == ["a"]

    def test_a_recorder_from_outside_of_it_takes_no_part(self, transactional: TapeStorage) -> None:
        with transactional.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
            with transactional.transaction(), pytest.raises(TransactionError):
                tape.append(C2S, b"2")
            tape.append(C2S, b"3")
        assert messages_in(transactional, "t") == [1, 3]

    def test_a_recorder_that_was_opened_in_it_outlives_its_end(self, transactional: TapeStorage) -> None:
        with transactional.transaction():
            tape = transactional.record("s", tape_id="t")
            tape.append(C2S, b"1")
        tape.append(C2S, b"2")
        tape.finalize()
        assert messages_in(transactional, "t") == [1, 2]

    def test_a_recorder_whose_transaction_was_rolled_back_is_dead(self, transactional: TapeStorage) -> None:
        tapes = []

        def fail() -> None:
            with transactional.transaction():
                tapes.append(transactional.record("s", tape_id="t"))
                tapes[0].append(C2S, b"1")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        tape = tapes[0]
        with pytest.raises(TransactionError):
            tape.append(C2S, b"2")
        tape.detach()
        with transactional.record("s", tape_id="t") as again:
            again.append(C2S, b"3")
        assert messages_in(transactional, "t") == [3]

    def test_an_open_reader_sees_it_in_its_thread_only_and_forgets_what_was_taken_back(
        self, transactional: TapeStorage
    ) -> None:
        with transactional.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b'"before"') for _ in range(5))
        with transactional.reader("t") as reader:
            assert b"before" in reader.frame(4)

            def elsewhere(seq: int) -> None:
                with pytest.raises(FrameNotFoundError):
                    reader.frame(seq)

            def fail() -> None:
                with transactional.transaction():
                    again, _ = transactional.resume("t")
                    again.append_many((C2S, b'"%s"' % (b"taken back" * n)) for n in range(3))
                    assert b"taken back" in reader.frame(6)
                    assert b"before" in reader.frame(0)
                    assert len(list(reader.read(4))) == 3
                    with pytest.raises(FrameNotFoundError):
                        reader.frame(8)
                    in_background(partial(elsewhere, 6)).result(PATIENCE_SECONDS)
                    again.detach()
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                fail()
            elsewhere(6)
            assert list(reader.read(4)) == []
            again, _ = transactional.resume("t")
            with again:
                again.append_many((C2S, b'"kept"') for _ in range(3))
            assert b"kept" in reader.frame(6)
            assert len(list(reader.read(4))) == 3

    def test_a_tape_that_was_recorded_in_it_verifies(self, transactional: TapeStorage) -> None:
        with transactional.transaction(), transactional.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(10))
        report = verify_tape(transactional, "t")
        assert (report.ok, report.checksum) == (True, "matches")
