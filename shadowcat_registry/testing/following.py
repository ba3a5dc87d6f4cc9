"""Following a tape while it is recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..errors import TapeNotFoundError
from ..storage import TapeStorage
from .places import C2S, PATIENCE_SECONDS, Place, UnderTest, in_background, lasting


class FollowingConformance(UnderTest):
    def test_who_follows_gets_what_is_there_then_each_line_as_it_comes_until_the_tape_has_ended(
        self, storage: TapeStorage
    ) -> None:
        tape = storage.record("s", tape_id="t")
        tape.append_many([(C2S, b"0"), (C2S, b"1")])
        lines = storage.follow("t")
        seen = [next(lines) for _ in range(3)]
        for number in range(2, 5):
            waiting = in_background(lambda: next(lines))
            tape.append(C2S, b"%d" % number)
            seen.append(waiting.result(PATIENCE_SECONDS))
        tape.append_lines([b"\xff\n", b'{"type":"frame","seq":3,"odd":true}\n', b"{}\n"])
        rest = in_background(lambda: list(lines))
        tape.append(C2S, b"5")
        tape.finalize()
        assert seen + rest.result(PATIENCE_SECONDS) == list(storage.read("t"))

    def test_only_what_comes_behind_a_frame_is_followed(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(5))
        assert list(storage.follow("t", 2)) == list(storage.read("t", 2))
        assert list(storage.follow("t", 9)) == []

    def test_following_ends_with_its_handle(self, place: Place) -> None:
        ways: list[Callable[[TapeStorage], object]] = [
            lambda other: other.close(),
            lambda other: other.__exit__(None, None, None),
        ]
        with place.share() as storage, storage.record("s", tape_id="t") as tape:
            for leave in ways:
                other = place.share()
                lines = other.follow("t")
                assert len([next(lines)]) == 1
                following = in_background(lambda lines=lines: list(lines))  # type: ignore[misc]
                leave(other)
                assert following.result(PATIENCE_SECONDS) == []
            tape.append(C2S, b"1")

    def test_what_others_record_is_followed_too(self, place: Place) -> None:
        """Another backend has recorders that ring for nobody here, as another process does."""
        lasting(place)
        with place.open() as storage, place.open() as elsewhere:
            tape = elsewhere.record("s", tape_id="t")
            lines = storage.follow("t")
            next(lines)
            waiting = in_background(lambda: next(lines))
            tape.append(C2S, b"1")
            assert b'"message":1,' in waiting.result(PATIENCE_SECONDS)
            tape.finalize()
            assert list(lines) == []

    def test_a_tape_that_is_not_there_or_goes_cannot_be_followed(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            storage.follow("t")
        tape = storage.record("s", tape_id="t")
        lines = storage.follow("t")
        next(lines)
        tape.detach()
        storage.delete("t")
        with pytest.raises(TapeNotFoundError):
            next(lines)

    def test_following_can_be_given_up(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t"):
            lines = storage.follow("t")
            next(lines)
            lines.close()
            assert storage.use.source.followers.all == ()
