from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.errors import (
    InvalidMessageError,
    InvalidMetadataError,
    InvalidTapeError,
    InvalidTapeIdError,
)
from shadowcat_registry.marks import Mark
from shadowcat_registry.tape import (
    Direction,
    FrameEncoder,
    TapeCounters,
    check_message,
    check_tape_id,
    dump_line,
    dump_metadata,
    frame_seq,
    lines_after,
    load_metadata,
    make_init_line,
    parse_init_line,
    parse_line,
)

from .storages import RECORDINGS

START = datetime(2026, 11, 22, 20, 14, 19, 358000, UTC)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Clock:
    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def __call__(self) -> int:
        return self.now_ns


class TestTapeId:
    @pytest.mark.parametrize(
        "tape_id", ["a", "0", "A.b_c-d", "x" * 128, "6b9d1b99-87d0-4e55-8d74-ed1293260964"]
    )
    def test_a_safe_id_comes_back_as_it_is(self, tape_id: str) -> None:
        assert check_tape_id(tape_id) == tape_id

    @pytest.mark.parametrize(
        "tape_id",
        ["", ".", "..", "a..b", "../a", "a/b", "a\\b", "/a", ".a", "-a", "a.", "a b", "a\n", "a\0", "ä",
         "x" * 129, "CON", "nul.txt", "com1", "LPT9.x", "a:b", "~a", "\ud800"],
    )  # fmt: skip
    def test_an_unsafe_id_is_refused(self, tape_id: str) -> None:
        with pytest.raises(InvalidTapeIdError) as caught:
            check_tape_id(tape_id)
        assert caught.value == InvalidTapeIdError(tape_id)

    @given(st.text())
    def test_whatever_is_accepted_is_one_plain_file_name(self, tape_id: str) -> None:
        try:
            check_tape_id(tape_id)
        except InvalidTapeIdError:
            return
        assert not set(tape_id) & set("/\\:\0\n\r")
        assert not tape_id.startswith((".", "-"))


class TestInitLine:
    def test_what_is_made_can_be_parsed(self) -> None:
        line = make_init_line("t-1", "s-1", START, "2025-11-25")
        assert parse_init_line(line, "x") == {
            "type": "init",
            "version": "2.0",
            "tape_id": "t-1",
            "session_id": "s-1",
            "created_at": "2026-11-22T20:14:19.358Z",
            "protocol_version": "2025-11-25",
        }

    @pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem[:8])
    def test_it_is_written_as_the_recorders_in_the_field_do(self, path: Path) -> None:
        with path.open("rb") as file:
            line = file.readline()
        init = parse_init_line(line, "x")
        assert dump_line(init) == line

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"", "it is empty"),
            (b'{"type":"init"', "cut off"),
            (b"hello\n", "a tape is JSON Lines"),
            (b'{"type":"frame"}\n', "a tape is JSON Lines"),
            (b"[1]\n", "a tape is JSON Lines"),
            (b'{"type":"init","version":"1.0"}\n', "'1.0'"),
            (b'{"type":"init","version":2}\n', "'2'"),
            (b'{"type":"init","version":"2.0"}\n', "tape_id"),
            (b'{"type":"init","version":"2.0","tape_id":"a"}\n', "session_id"),
            (b"[" * 100_000 + b"\n", "a tape is JSON Lines"),
            (b"\xff\xfe\n", "a tape is JSON Lines"),
        ],
    )
    def test_what_is_no_init_line_is_refused_with_its_place(self, line: bytes, reason: str) -> None:
        with pytest.raises(InvalidTapeError) as caught:
            parse_init_line(line, "x.jsonl")
        assert caught.value.mark == Mark.at_start("x.jsonl")
        assert reason in str(caught.value)

    def test_an_unsafe_id_in_it_is_refused(self) -> None:
        with pytest.raises(InvalidTapeIdError):
            parse_init_line(make_init_line("../x", "s", START), "x")


class TestMessage:
    @pytest.mark.parametrize("message", [b"", b" ", b"\t", b"{}\n", b"{}\r", b'{"a":\r\n1}'])
    def test_what_is_not_one_line_is_refused(self, message: bytes) -> None:
        with pytest.raises(InvalidMessageError):
            check_message(message)

    def test_text_is_refused(self) -> None:
        with pytest.raises(TypeError):
            check_message("{}")  # type: ignore[arg-type]


class TestFrameEncoder:
    @given(
        st.binary(min_size=1).filter(lambda m: not m.isspace() and not set(m) & {10, 13}),
        st.integers(0, 10**9),
    )
    def test_the_message_is_in_the_line_verbatim_and_the_seq_can_be_found(
        self, message: bytes, seq: int
    ) -> None:
        line = FrameEncoder("s-1", START).encode("server_to_client", message, seq)
        assert b'"env":{"message":' + message + b',"direction":"server_to_client"' in line
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert frame_seq(line) == seq

    @given(json_values)
    def test_a_json_message_makes_a_json_frame(self, value: object) -> None:
        message = json.dumps(value).encode()
        record = parse_line(FrameEncoder('s"1', START).encode("client_to_server", message, 7))
        assert record is not None
        assert record["env"]["message"] == value
        assert record["env"]["session_id"] == 's"1'
        assert record["seq"] == 7

    def test_ts_and_timestamp_agree_and_go_on(self) -> None:
        clock = Clock()
        encoder = FrameEncoder("s", START, elapsed_ms=250, clock_ns=clock)
        seen = []
        for step_ns in (0, 999_999, 1, 400_000_000):
            clock.now_ns += step_ns
            record = json.loads(encoder.encode("client_to_server", b"1", 0))
            seen.append((record["ts"], record["env"]["timestamp"]))
        assert seen == [
            (250, "2026-11-22T20:14:19.608Z"),
            (250, "2026-11-22T20:14:19.608Z"),
            (251, "2026-11-22T20:14:19.609Z"),
            (651, "2026-11-22T20:14:20.009Z"),
        ]

    def test_many_at_one_moment_are_what_each_would_be(self) -> None:
        clock = Clock()
        frames: list[tuple[Direction, bytes]] = [
            ("client_to_server", b"1"), ("server_to_client", b"{}"), ("client_to_server", b'"x"'),
        ]  # fmt: skip
        one, many = (FrameEncoder("s", START, elapsed_ms=250, clock_ns=clock) for _ in range(2))
        for step_ns in (0, 999_999, 1, 400_000_000):
            clock.now_ns += step_ns
            lines = [one.encode(direction, message, 7 + n) for n, (direction, message) in enumerate(frames)]
            assert many.encode_many(frames, 7) == lines
            assert many.last_ms == one.last_ms
        assert many.encode_many([], 0) == []
        with pytest.raises(ValueError, match="client_to_server, server_to_client"):
            many.encode_many([("sideways", b"1")], 0)  # type: ignore[list-item]

    def test_a_direction_that_is_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match="client_to_server, server_to_client"):
            FrameEncoder("s", START).encode("sideways", b"1", 0)  # type: ignore[arg-type]


class TestLinesAfter:
    LINES = (b'{"type":"init"}\n', *(b'{"type":"frame","seq":%d,"ts":0}\n' % n for n in range(3)), b"odd\n")

    def test_minus_one_is_everything(self) -> None:
        assert tuple(lines_after(self.LINES, -1)) == self.LINES

    @pytest.mark.parametrize(("after", "first"), [(0, 2), (1, 3), (2, 4), (3, 5), (99, 5)])
    def test_it_begins_behind_that_frame(self, after: int, first: int) -> None:
        assert tuple(lines_after(self.LINES, after)) == self.LINES[first:]

    @pytest.mark.parametrize(
        ("line", "seq"),
        [(b'{"seq":4,"type":"frame"}\n', 4), (b'{"type":"frame","seq":true}\n', None),
         (b'{"type":"checkpoint","seq":4}\n', None), (b"\xff\n", None)],
    )  # fmt: skip
    def test_the_seq_is_found_however_it_is_written(self, line: bytes, seq: int | None) -> None:
        assert frame_seq(line) == seq


class TestCounters:
    @pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem[:8])
    def test_they_agree_with_what_the_recorders_counted(self, path: Path) -> None:
        meta = json.loads(path.with_name(path.stem + ".meta.json").read_bytes())
        with path.open("rb") as file:
            counters = TapeCounters(size_bytes=len(file.readline()))
            for line in file:
                counters.add_line(line)
        # They counted the time until the session ended, which nothing in the tape tells.
        assert counters.as_stats() == {**meta["stats"], "duration_ms": counters.last_ts_ms}
        assert counters.unparsed_count == 0

    def test_lines_that_are_no_records_are_counted_as_such(self) -> None:
        counters = TapeCounters()
        for line in (b"\n", b"nope\n", b"[]\n", b'{"a":1}\n', b'{"type":"x_new"}\n', b"\xff\n"):
            counters.add_line(line)
        assert (counters.unparsed_count, counters.frame_count, counters.line_count) == (5, 0, 7)

    def test_odd_directions_and_orders_do_not_make_it_grow_or_fall_back(self) -> None:
        counters = TapeCounters()
        for seq in (5, 3):
            counters.add_line(dump_line({"type": "frame", "seq": seq, "ts": 1, "dir": f"d{seq}"}))
        assert counters.last_seq == 5
        assert counters.frames == {"client_to_server": 0, "server_to_client": 0}


class TestMetadata:
    @pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem[:8])
    def test_it_is_written_as_the_recorders_in_the_field_do(self, path: Path) -> None:
        text = path.with_name(path.stem + ".meta.json").read_bytes()
        assert dump_metadata(path.stem, load_metadata(path.stem, text)) == text

    @given(st.dictionaries(st.text().filter(lambda key: key != "tape_id"), json_values, max_size=4))
    def test_load_undoes_dump(self, metadata: dict[str, object]) -> None:
        assert load_metadata("t", dump_metadata("t", metadata)) == metadata

    def test_a_lone_surrogate_survives(self) -> None:
        assert load_metadata("t", dump_metadata("t", {"name": "\ud800"})) == {"name": "\ud800"}

    @pytest.mark.parametrize("metadata", [{"tape_id": "other"}, {"a": {1}}, {"a": float("nan")}])
    def test_what_cannot_be_this_tapes_metadata_is_refused(self, metadata: dict[str, object]) -> None:
        with pytest.raises(InvalidMetadataError):
            dump_metadata("t", metadata)

    @pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"tape_id": "other"}', b"\xff"])
    def test_a_broken_file_is_refused(self, text: bytes) -> None:
        with pytest.raises(InvalidMetadataError):
            load_metadata("t", text)
