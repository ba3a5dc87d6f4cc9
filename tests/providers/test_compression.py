"""Tapes in blocks: what is in which file, and that no line is lost or told twice whatever comes between.

The blocks here are of a few lines each, so that a short tape has many of them.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shadowcat_registry
from shadowcat_registry.errors import (
    InvalidConfigError,
    InvalidTapeError,
    StorageDamagedError,
    StorageFullError,
    StorageUnavailableError,
    TapeBusyError,
    TapeNotFoundError,
)
from shadowcat_registry.metadata import ProviderCapability
from shadowcat_registry.providers.filesystem import (
    FilesystemProviderFactory,
    appender,
    compression,
    files,
    sealing,
)
from shadowcat_registry.providers.filesystem.compression import NOTE_SIZE, Codec, Note, codec_of
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction, lines_after
from shadowcat_registry.tapes.importing import import_tape
from shadowcat_registry.tapes.verifying import verify_tape

from ..fakes import Running
from ..storages import HAS_ZSTD, RECORDINGS, ZSTD, handle, needs_zstd, open_backend

C2S: Direction = "client_to_server"
KINDS = ("gzip", ZSTD)
KINDS_HERE = ("gzip", "zstd") if HAS_ZSTD else ("gzip",)
SUFFIX = {"gzip": ".gz", "zstd": ".zst"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_LEAST_BYTES", 100)
    monkeypatch.setattr(sealing, "_SEAL_BYTES", 2_000)
    monkeypatch.setattr(sealing, "_BLOCK_BYTES", 700)


@pytest.fixture
def tapes(tmp_path: Path) -> Path:
    return tmp_path / "tapes"


def opened(directory: Path, kind: str = "none", **config: Any) -> TapeStorage:
    return handle(open_backend("filesystem", directory, {"compression": kind, **config}))


def seqs(storage: TapeStorage, tape_id: str = "t") -> list[int]:
    return [record["seq"] for record in map(json.loads, storage.read(tape_id)) if record["type"] == "frame"]


def decompressed(path: Path) -> bytes:
    """By the library itself, which knows nothing of blocks: what `zcat` and `zstdcat` do."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(content)
    raw: bytes = compression.zstd_library().decompress(content)
    return raw


class TestCodecs:
    @given(raw=st.binary(max_size=3_000))
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_comes_out_is_what_went_in(self, kind: str, raw: bytes) -> None:
        codec = codec_of(kind)
        assert codec.decompress(codec.compress(raw), len(raw)) == raw

    @given(place=st.integers(0, 10**6), change=st.integers(1, 255))
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_changed_byte_is_noticed(self, kind: str, place: int, change: int) -> None:
        codec, raw = codec_of(kind), b"".join(b'{"a":%d}\n' % n for n in range(50))
        packed = bytearray(codec.compress(raw))
        packed[place % len(packed)] ^= change
        with contextlib.suppress(ValueError):
            assert codec.decompress(bytes(packed), len(raw)) == raw  # a bit that says nothing

    def test_a_bomb_does_not_go_off(self, kind: str) -> None:
        codec = codec_of(kind)
        with pytest.raises(ValueError, match="another"):
            codec.decompress(codec.compress(b"x" * 10_000_000), 10)

    def test_what_is_cut_off_or_goes_on_is_noticed(self, kind: str) -> None:
        codec = codec_of(kind)
        packed = codec.compress(b"x" * 100)
        for wrong in (packed[:-1], packed[:5], b"", packed + b"\0"):
            with pytest.raises(ValueError, match=r"."):
                codec.decompress(wrong, 100)

    @given(
        numbers=st.tuples(*[st.integers(0, 2**63 - 1)] * 3),
        seq=st.integers(-1, compression.HIGHEST),
        tape=st.integers(0, 2**32 - 1),
    )
    def test_a_note_is_read_as_it_was_written_or_not_at_all(
        self, numbers: tuple[int, int, int], seq: int, tape: int
    ) -> None:
        note = Note(*numbers, seq, tape)
        packed = note.pack()
        assert Note.unpack(packed) == note
        assert Note.unpack(packed[:-1]) is None
        assert Note.unpack(b"x" + packed[1:]) is None

    def test_blocks_in_a_row_are_what_the_usual_tools_read(self, kind: str, tmp_path: Path) -> None:
        codec: Codec = codec_of(kind)
        path = tmp_path / f"x{SUFFIX[kind]}"
        with path.open("wb") as file:
            for number in range(5):
                packed = codec.compress(b"%d\n" % number * 50)
                file.write(codec.head + Note(0, 100, len(packed), -1, 0).pack() + packed)
        assert decompressed(path) == b"".join(b"%d\n" % number * 50 for number in range(5))
        assert len(codec.head) + NOTE_SIZE < 80


class TestFiles:
    @pytest.mark.usefixtures("small_blocks")
    def test_a_tape_is_its_blocks_and_a_line_that_says_so(
        self, tmp_path: Path, tapes: Path, kind: str
    ) -> None:
        blocks = tapes / f"t.jsonl{SUFFIX[kind]}"
        with opened(tmp_path, kind) as storage:
            with storage.record("s", tape_id="t") as tape:
                for number in range(100):
                    tape.append(C2S, b'"%d"' % number)
            lines = b"".join(storage.read("t"))
            names = sorted(path.name for path in tapes.iterdir())
            assert names == [".lock", "t.jsonl", blocks.name, "t.meta.json"]
            assert decompressed(blocks) == lines
            said = json.loads((tapes / "t.jsonl").read_bytes())
            assert (said["type"], said["compression"], said["raw_bytes"]) == ("blocks", kind, len(lines))
            assert said["packed_bytes"] == blocks.stat().st_size
            assert blocks.stat().st_size < len(lines) / 2
            sizes = sum((tapes / name).stat().st_size for name in names)
            assert storage.stats().size_bytes == sizes
            assert verify_tape(storage, "t").ok
            storage.delete("t")
            assert [path.name for path in tapes.iterdir()] == [".lock"]
            assert storage.stats().size_bytes == 0

    @pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
    @pytest.mark.usefixtures("small_blocks")
    def test_all_of_them_are_the_owners_alone(self, tmp_path: Path, tapes: Path, kind: str) -> None:
        with opened(tmp_path, kind) as storage, storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"1") for _ in range(100))
        assert {path.stat().st_mode & 0o777 for path in tapes.iterdir()} == {0o600}

    def test_a_short_tape_stays_as_it_is(self, tmp_path: Path, tapes: Path, kind: str) -> None:
        with opened(tmp_path, kind) as storage:
            storage.record("s", tape_id="t").finalize()
        assert sorted(path.name for path in tapes.iterdir()) == [".lock", "t.jsonl", "t.meta.json"]

    def test_every_recording_comes_back_byte_for_byte_and_takes_an_eighth_of_the_room(
        self, tmp_path: Path, tapes: Path, kind: str
    ) -> None:
        with opened(tmp_path, kind) as storage:
            for path in RECORDINGS:
                import_tape(storage, path)
                assert b"".join(storage.read(path.stem)) == path.read_bytes()
        with opened(tmp_path) as storage:  # also where nothing is compressed any more
            for path in RECORDINGS:
                assert verify_tape(storage, path.stem).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        packed = sum(path.stat().st_size for path in tapes.glob("*.jsonl*"))
        assert packed * 8 <= sum(path.stat().st_size for path in RECORDINGS)

    def test_what_an_instance_can_do_is_what_it_does(self, tmp_path: Path) -> None:
        for kind in ("none", *KINDS_HERE):
            with opened(tmp_path, kind) as storage:
                assert (ProviderCapability.COMPRESSION in storage.capabilities) is (kind != "none")

    @pytest.mark.usefixtures("small_blocks")
    def test_a_tape_without_metadata_has_what_its_init_line_says(
        self, tmp_path: Path, tapes: Path, kind: str
    ) -> None:
        with opened(tmp_path, kind) as storage:
            with storage.record("s-9", tape_id="t") as tape:
                tape.append_many((C2S, b"1") for _ in range(100))
            (tapes / "t.meta.json").unlink()
            meta = storage.get_meta("t")[0]
            assert (meta["session_id"], meta["status"]) == ("s-9", "aborted")
            assert meta["stats"] == {"file_size_bytes": sum(map(len, storage.read("t")))}
            assert [item["session_id"] for item in storage.list().items] == ["s-9"]


@pytest.mark.usefixtures("small_blocks")
class TestSettings:
    @pytest.mark.parametrize("later", ["none", *KINDS])
    @pytest.mark.parametrize("first", ["none", *KINDS])
    def test_a_tape_is_read_and_gone_on_with_under_any_other(
        self, tmp_path: Path, first: str, later: str
    ) -> None:
        with opened(tmp_path, first) as storage:
            tape = storage.record("s", tape_id="t")
            tape.append_many((C2S, b'"%d"' % n) for n in range(50))
            tape.detach()
        with opened(tmp_path, later) as storage:
            assert seqs(storage) == list(range(50))
            tape, report = storage.resume("t")
            assert (report.last_seq, report.line_count, report.torn_bytes) == (49, 51, 0)
            for number in range(50, 100):
                assert tape.append(C2S, b'"%d"' % number) == number
            tape.finalize()
            assert seqs(storage) == list(range(100))
            assert verify_tape(storage, "t").ok
        with opened(tmp_path, first) as storage:
            assert seqs(storage) == list(range(100))
            for after_seq in (-1, 0, 30, 49, 50, 98, 99, 1000):
                assert len(list(storage.read("t", after_seq))) == (
                    101 if after_seq < 0 else max(0, 99 - after_seq)
                )

    @pytest.mark.parametrize("layout", ["date", "session", "sharded"])
    def test_the_blocks_are_where_the_tape_is(self, tmp_path: Path, kind: str, layout: str) -> None:
        with opened(tmp_path, kind, layout=layout) as storage:
            with storage.record("s", tape_id="t") as tape:
                tape.append_many((C2S, b"1") for _ in range(100))
            (path,) = tmp_path.rglob("t.jsonl")
            assert path.with_name("t.jsonl" + SUFFIX[kind]).exists()
            assert path.parent != tmp_path / "tapes"
            assert storage.stats().size_bytes == sum(it.stat().st_size for it in path.parent.iterdir())
            storage.delete("t")
            assert not path.parent.exists()

    @needs_zstd
    def test_what_a_config_needs_is_told_before_it_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(tmp_path, "zstd") as storage, storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"1") for _ in range(100))
        codec_of.cache_clear()
        monkeypatch.setitem(sys.modules, "compression.zstd", None)
        monkeypatch.setitem(sys.modules, "backports.zstd", None)
        try:
            registry = StorageProviderRegistry(base_directory=tmp_path)
            with pytest.raises(InvalidConfigError, match=r"shadowcat-registry\[zstd\]"):
                registry.register(FilesystemProviderFactory(), config={"compression": "zstd"})
            registry.register(FilesystemProviderFactory(), config={"compression": "gzip"})
            registry.close()
            with opened(tmp_path) as storage:
                assert storage.get_meta("t")[0]["status"] == "finalized"
                assert len(storage.list().items) == 1
                with pytest.raises(StorageUnavailableError, match=r"shadowcat-registry\[zstd\]"):
                    list(storage.read("t"))
                with pytest.raises(StorageUnavailableError, match=r"shadowcat-registry\[zstd\]"):
                    storage.resume("t")
        finally:
            codec_of.cache_clear()


_lines = st.lists(
    st.one_of(
        st.integers(0, 40).map(lambda seq: b'{"type":"frame","seq":%d,"x":"%s"}\n' % (seq, b"x" * seq)),
        st.sampled_from([b'{"type":"frame","seq":%d}\n' % 10**30, b'{"type":"frame","seq":%d}\n' % 2**63]),
        st.sampled_from([b"{}\n", b"\xff\n", b'{"type":"checkpoint"}\n']),
    ),
    max_size=60,
)


class TestReading:
    @settings(max_examples=40)
    @given(
        lines=_lines, asked=st.lists(st.integers(0, 42) | st.just(2**63 - 2) | st.just(10**29), min_size=1)
    )
    def test_behind_any_frame_there_are_the_same_lines(
        self, tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], asked: list[int]
    ) -> None:
        directory = tmp_path_factory.mktemp("reading")
        with pytest.MonkeyPatch.context() as patch, opened(directory, "gzip") as storage:
            patch.setattr(sealing, "_LEAST_BYTES", 0)
            patch.setattr(sealing, "_SEAL_BYTES", 300)
            patch.setattr(sealing, "_BLOCK_BYTES", 70)
            with storage.record("s", tape_id="t") as tape:
                for line in lines:
                    tape.append_lines([line])
                whole = list(storage.read("t"))
                assert whole[1:] == lines
                for after_seq in asked:
                    assert list(storage.read("t", after_seq)) == list(lines_after(whole, after_seq))
            for after_seq in asked:
                assert list(storage.read("t", after_seq)) == list(lines_after(whole, after_seq))
        shutil.rmtree(directory)

    @pytest.mark.usefixtures("small_blocks")
    @pytest.mark.parametrize("after_seq", [-1, 3])
    def test_a_reader_that_meets_blocks_goes_on_where_it_is(
        self, tmp_path: Path, kind: str, after_seq: int
    ) -> None:
        with opened(tmp_path, kind) as storage, storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b'"%s"' % os.urandom(500).hex().encode()) for _ in range(200))
            lines = storage.read("t", after_seq)
            seen = [next(lines)]
            for _ in range(3):
                tape.append_many((C2S, b"1") for _ in range(100))
                seen += [next(lines) for _ in range(20)]
            tape.append_many((C2S, b"1") for _ in range(100))
            seen += lines
            assert seen == list(storage.read("t", after_seq))
            assert len(seen) == 600 + (1 if after_seq < 0 else -after_seq - 1)

    @pytest.mark.usefixtures("small_blocks")
    def test_who_follows_gets_every_line_once(self, tmp_path: Path, kind: str) -> None:
        with opened(tmp_path, kind) as storage, opened(tmp_path) as other:
            tape = storage.record("s", tape_id="t")
            follower = other.follow("t")
            seen = [next(follower)]
            for number in range(300):
                tape.append(C2S, b'"%d"' % number)
                if number % 7 == 0:
                    while len(seen) < number + 2:
                        seen.append(next(follower))
            tape.finalize()
            seen += follower
            assert seen == list(storage.read("t"))

    @pytest.mark.usefixtures("small_blocks")
    def test_a_tape_that_is_deleted_is_read_to_its_end_and_never_into_another(
        self, tmp_path: Path, kind: str
    ) -> None:
        with opened(tmp_path, kind) as storage:
            for ends in (True, False):
                tape = storage.record("s", tape_id="t")
                tape.append_many((C2S, b'"%s"' % os.urandom(500).hex().encode()) for _ in range(200))
                if ends:
                    tape.finalize()
                whole = list(storage.read("t"))
                lines = storage.read("t")
                seen = [next(lines)]
                tape.detach()
                storage.delete("t")
                with storage.record("other", tape_id="t") as another:
                    another.append_many((C2S, b"2") for _ in range(2_000))
                assert seen + list(lines) == whole
                storage.delete("t")
                with pytest.raises(TapeNotFoundError):
                    storage.read("t")

    @pytest.mark.usefixtures("small_blocks")
    def test_who_asks_for_a_torn_end_gets_it_last_and_resume_sets_it_aside(
        self, tmp_path: Path, tapes: Path, kind: str
    ) -> None:
        with opened(tmp_path, kind) as storage:
            with storage.record("s", tape_id="t") as tape:
                tape.append_many((C2S, b"1") for _ in range(100))
            whole = list(storage.read("t"))
            assert list(storage.read("t", raw=True)) == whole
            with (tapes / "t.jsonl").open("ab") as file:
                file.write(b'{"type":"frame","se')
            assert list(storage.read("t")) == whole
            assert list(storage.read("t", raw=True)) == [*whole, b'{"type":"frame","se']
            tape, report = storage.resume("t")
            assert (report.torn_bytes, report.set_aside) == (19, str(tapes / "t.torn"))
            assert tape.append(C2S, b"1") == 100
            tape.finalize()
            assert seqs(storage) == list(range(101))


@pytest.mark.usefixtures("small_blocks")
class TestDamage:
    @pytest.fixture
    def storage(self, tmp_path: Path, kind: str) -> Iterator[TapeStorage]:
        with opened(tmp_path, kind) as storage:
            for tape_id in ("t", "u"):
                with storage.record("s", tape_id=tape_id) as tape:
                    tape.append_many((C2S, b'"%d"' % n) for n in range(100))
            yield storage

    def refused(self, storage: TapeStorage, error: type[Exception], match: str) -> None:
        for use in (lambda: list(storage.read("t")), lambda: storage.resume("t")):
            with pytest.raises(error, match=match):
                use()
        assert seqs(storage, "u") == list(range(100))
        assert len(storage.list().items) == 2
        storage.delete("t")

    def test_blocks_that_are_missing_are_named(self, storage: TapeStorage, tapes: Path, kind: str) -> None:
        (tapes / f"t.jsonl{SUFFIX[kind]}").unlink()
        self.refused(storage, StorageDamagedError, rf"tape 't' is damaged: .*t\.jsonl\{SUFFIX[kind]}")

    def test_and_so_are_those_of_another_tape(self, storage: TapeStorage, tapes: Path, kind: str) -> None:
        shutil.copy(tapes / f"u.jsonl{SUFFIX[kind]}", tapes / f"t.jsonl{SUFFIX[kind]}")
        self.refused(storage, StorageDamagedError, "no block of it is where one should be")

    def test_and_those_that_are_cut_off(self, storage: TapeStorage, tapes: Path, kind: str) -> None:
        path = tapes / f"t.jsonl{SUFFIX[kind]}"
        path.write_bytes(path.read_bytes()[:-10])
        self.refused(storage, StorageDamagedError, "a block cannot be decompressed")

    def test_what_is_before_the_damage_is_read(self, storage: TapeStorage, tapes: Path, kind: str) -> None:
        path = tapes / f"t.jsonl{SUFFIX[kind]}"
        content = bytearray(path.read_bytes())
        content[-20] ^= 0xFF
        path.write_bytes(content)
        seen: list[bytes] = []
        with pytest.raises(StorageDamagedError):
            seen.extend(storage.read("t"))
        assert 0 < len(seen) < 101

    @pytest.mark.parametrize(
        "line", [b'{"type":"blocks",}\n', b'{"type":"blocks","x":1}\n', b'{"type":"blocks",']
    )
    def test_a_first_line_that_makes_no_sense_is_told(
        self, storage: TapeStorage, tapes: Path, line: bytes
    ) -> None:
        (tapes / "t.jsonl").write_bytes(line)
        self.refused(storage, InvalidTapeError, "not a tape: the line that says where its beginning is")


Step = Callable[[str], None]
CALLS = ("replace", "fsync", "open", "ftruncate", "unlink")


def each_call(patch: pytest.MonkeyPatch, step: Step) -> None:
    """Have `step` called around every call of the system that sealing makes."""
    for name in CALLS:
        real = getattr(os, name)

        def called(*args: Any, real: Any = real, name: str = name, **options: Any) -> Any:
            step(f"before {name}")
            result = real(*args, **options)
            step(f"after {name}")
            return result

        patch.setattr(os, name, called)


@pytest.mark.usefixtures("small_blocks")
class TestSealing:
    def test_at_whatever_call_the_process_dies_nothing_is_lost(
        self, tmp_path: Path, tapes: Path, kind: str
    ) -> None:
        """What lies on the disk at each call, looked at by somebody else, who goes on with it."""
        at = 0

        def look(when: str) -> None:
            nonlocal at
            at += 1
            copy = tmp_path / "copies" / str(at)
            shutil.copytree(tapes, copy / "tapes")
            copies.append((copy, when))

        copies: list[tuple[Path, str]] = []
        with opened(tmp_path, kind, durability="none") as storage:
            tape = storage.record("s", tape_id="t")
            for number in range(60):
                with pytest.MonkeyPatch.context() as patch:
                    if number >= 30 and storage_is_due(tape):
                        each_call(patch, look)
                    assert tape.append(C2S, b'"%d"' % number) == number
                for copy, when in copies:
                    with opened(copy, kind) as other:
                        assert seqs(other) == list(range(number)), when
                        again, report = other.resume("t")
                        assert (report.last_seq, report.torn_bytes) == (number - 1, 0), when
                        again.append_many((C2S, b"1") for _ in range(100))
                        again.finalize()
                        assert seqs(other) == list(range(number + 100)), when
                        assert verify_tape(other, "t").ok
                        names = {path.name for path in (copy / "tapes").iterdir()}
                        assert len(names) == 4, when
                copies.clear()
            tape.finalize()
        assert at > 15

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    def test_at_whatever_call_it_is_interrupted_recording_goes_on(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        stop_at = 0
        while True:
            stop_at += 1
            calls = 0

            def stop(when: str) -> None:
                nonlocal calls
                calls += 1
                if calls == stop_at and when != "after open":  # nobody could close what it gave  # noqa: B023 - used in this round only
                    raise error(5, when)

            tape_id = f"t{stop_at}"
            with opened(tmp_path, "gzip", durability="none") as storage:
                tape = storage.record("s", tape_id=tape_id)
                accepted = []
                for _ in range(27):
                    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                        if storage_is_due(tape):
                            each_call(patch, stop)
                        accepted.append(tape.append(C2S, b"1"))  # an interrupt leaves a gap, as anywhere
                assert seqs(storage, tape_id) == accepted
                tape.finalize()
                assert seqs(storage, tape_id) == accepted
                assert len(accepted) >= 26
            if calls < stop_at:
                break
        assert stop_at > 25

    def test_it_is_said_once_and_tried_again(
        self, tmp_path: Path, tapes: Path, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(5, "broken")

        with opened(tmp_path, kind) as storage, storage.record("s", tape_id="t") as tape:
            with caplog.at_level(logging.WARNING), pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "replace", refuse)
                for _ in range(100):
                    tape.append(C2S, b"1")
            assert len(caplog.records) == 1
            assert "tape t goes on uncompressed for now" in caplog.text
            assert seqs(storage) == list(range(100))
            tape.append_many((C2S, b"1") for _ in range(100))
            tape.append(C2S, b"1")
            assert (tapes / "t.jsonl").read_bytes().startswith(b'{"type":"blocks"')
            assert seqs(storage) == list(range(201))

    def test_there_is_one_writer_also_of_what_is_in_blocks(self, tmp_path: Path, kind: str) -> None:
        with opened(tmp_path, kind) as one, opened(tmp_path, kind) as other:
            tape = one.record("s", tape_id="t")
            for _ in range(100):
                tape.append(C2S, b"1")
                with pytest.raises(TapeBusyError):
                    other.resume("t")
            with pytest.raises(TapeBusyError):
                other.delete("t")
            tape.detach()
            again, report = other.resume("t")
            assert report.last_seq == 99
            again.finalize()

    def test_a_tape_that_was_removed_by_hand_does_not_come_back(
        self, tmp_path: Path, tapes: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(appender, "_LOOK_SECONDS", 0)
        with opened(tmp_path, kind, durability="none") as storage:
            tape = storage.record("s", tape_id="t")
            tape.append_many((C2S, b"1") for _ in range(100))
            (tapes / "t.jsonl").unlink()
            with pytest.raises(StorageUnavailableError):
                tape.append(C2S, b"1")
            tape.detach()
            assert not (tapes / "t.jsonl").exists()
            assert storage.list().items == ()

    def test_what_a_deletion_that_was_killed_left_is_not_of_the_next_tape(
        self, tmp_path: Path, tapes: Path, kind: str
    ) -> None:
        with opened(tmp_path, kind) as storage:
            with storage.record("s", tape_id="t") as tape:
                tape.append_many((C2S, b"1") for _ in range(100))
            (tapes / "t.jsonl").unlink()
            tape = storage.record("s", tape_id="t")
            assert not (tapes / f"t.jsonl{SUFFIX[kind]}").exists()
            tape.append_many((C2S, b"1") for _ in range(100))
            tape.finalize()
            assert seqs(storage) == list(range(100))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
    def test_a_forked_child_that_drops_its_copy_takes_nothing_away(
        self, tmp_path: Path, tapes: Path, kind: str
    ) -> None:
        with opened(tmp_path, kind, durability="none") as storage, storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"1") for _ in range(100))
            made: Any = tape._appender
            pid = os.fork()
            if not pid:
                made._try_to_seal()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert made._tail.plain_bytes == (tapes / "t.jsonl").stat().st_size
            tape.append_many((C2S, b"1") for _ in range(100))
            assert seqs(storage) == list(range(200))

    def test_a_sync_that_runs_is_waited_for(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file that it syncs is closed by sealing."""
        real, begun, go_on = files.sync_data, threading.Event(), threading.Event()

        def slow(fd: int) -> None:
            begun.set()
            assert go_on.wait(20)
            real(fd)

        with opened(tmp_path, kind, durability="none") as storage, storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"1") for _ in range(100))
            with monkeypatch.context() as patch:
                patch.setattr(appender, "sync_data", slow)
                flushing = Running(lambda: tape.flush(durable=True))
                assert begun.wait(20)
                appending = Running(lambda: tape.append(C2S, b"1"))
                go_on.set()
                assert appending.result() == 100
                flushing.result()
            tape.append(C2S, b"1")
            tape.flush(durable=True)
            assert tape.durable_seq == 101
            assert seqs(storage) == list(range(102))


def storage_is_due(tape: Any) -> bool:
    """Whether the next append makes blocks first."""
    made: sealing.SealingAppender = tape._appender
    return made._tail.plain_bytes >= made._seal_at_bytes


PATCH = """
from shadowcat_registry.providers.filesystem import sealing
sealing._LEAST_BYTES, sealing._SEAL_BYTES, sealing._BLOCK_BYTES = 100, 4_000, 1_000
"""
WRITER = (
    PATCH
    + """
import os, random, sys
from pathlib import Path
from tests.storages import handle, open_backend
directory, kind, seed, mode, limit = sys.argv[1:]
random = random.Random(int(seed))
storage = handle(open_backend("filesystem", Path(directory),
                              {"compression": kind, "durability": mode, "sync_interval_ms": 1}))
tape = storage.record("s", tape_id="t")
os.write(1, b"ready\\n")
last = -1
while last < int(limit):
    if random.random() < 0.2:
        last = tape.append_many(("client_to_server", b'"%d"' % n) for n in range(random.randrange(1, 30)))[-1]
    else:
        size = random.choice((1, 100, 9_000)) if random.random() < 0.1 else 40
        last = tape.append("client_to_server", b'"' + b"x" * size + b'"')
    os.write(1, b"%d\\n" % last)
tape.finalize()
storage.close()
"""
)
READER = """
import json, sys
from pathlib import Path
from tests.storages import handle, open_backend
with handle(open_backend("filesystem", Path(sys.argv[1]))) as storage:
    count = -1
    for line in storage.follow("t"):
        if count >= 0:
            assert json.loads(line).get("seq") == count, (line[:200], count)
            if count % 500 == 100:
                assert json.loads(next(storage.read("t", count - 50)))["seq"] == count - 49
        count += 1
    print(count)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    root, own = Path(shadowcat_registry.__file__).parents[1], Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(own)])},
    )


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
class TestKilled:
    def kill(self, directory: Path, count: int) -> None:
        blocks = 0
        for seed in range(count):
            kind = KINDS_HERE[seed % len(KINDS_HERE)]
            place = directory / str(seed)
            place.mkdir()
            mode = ("none", "interval", "frame")[seed % 3]
            child = start(WRITER, str(place), kind, str(seed), mode, "1000000000")
            last = -1
            assert child.stdout is not None
            with child.stdout as out:
                assert out.readline() == b"ready\n"
                killer = threading.Timer(random.Random(seed).uniform(0.01, 0.25), child.kill)
                killer.start()
                for line in out:
                    if line.endswith(b"\n"):
                        last = int(line)
            killer.join()
            assert child.wait(30) == -signal.SIGKILL
            blocks += (place / "tapes" / f"t.jsonl{SUFFIX[kind]}").exists()
            with opened(place, kind) as storage:
                there = seqs(storage)
                assert there == list(range(len(there)))
                assert len(there) > last
                tape, report = storage.resume("t")
                assert report.last_seq == len(there) - 1
                assert tape.append(C2S, b"1") == len(there)
                tape.finalize()
                assert seqs(storage) == [*there, len(there)]
                assert verify_tape(storage, "t").ok
                storage.delete("t")
                assert {path.name for path in (place / "tapes").iterdir()} <= {".lock", ".index"}
        assert blocks > count / 3  # they were killed behind or within a seal, and not before

    def test_twice_every_day(self, tmp_path: Path) -> None:
        self.kill(tmp_path, 2)

    @pytest.mark.ci
    def test_ten_times(self, tmp_path: Path) -> None:
        self.kill(tmp_path, 10)

    @pytest.mark.long
    def test_fifty_times(self, tmp_path: Path) -> None:
        self.kill(tmp_path, 50)


class TestProcesses:
    def test_two_read_what_a_third_writes_each_line_once(self, tmp_path: Path) -> None:
        writer = start(WRITER, str(tmp_path), KINDS_HERE[-1], "7", "none", "4000")
        assert writer.stdout is not None
        with writer.stdout as out:
            assert out.readline() == b"ready\n"
            readers = [start(READER, str(tmp_path)) for _ in range(2)]
            last = [int(line) for line in out][-1]
        assert writer.wait(30) == 0
        for reader in readers:
            said, _ = reader.communicate(timeout=30)
            assert (reader.returncode, int(said)) == (0, last + 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to mount")
class TestFullDisk:
    @pytest.mark.parametrize("room", range(20_000, 60_000, 8_192))
    def test_a_real_small_disk_that_fills_up_while_blocks_are_made(
        self, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, room: int
    ) -> None:
        monkeypatch.setattr(sealing, "_SEAL_BYTES", 16_000)
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this container may not mount")
        try:
            with opened(disk, KINDS_HERE[-1], durability="none") as storage:
                tape = storage.record("s", tape_id="t")
                (disk / "ballast").write_bytes(b"x" * (131_072 - 20_480 - room // 4096 * 4096))
                count = 0

                def fill() -> None:
                    nonlocal count
                    while count < 10_000:
                        assert tape.append(C2S, b'"%s"' % os.urandom(300).hex().encode()) == count
                        count += 1

                with pytest.raises(StorageFullError):
                    fill()
                assert seqs(storage) == list(range(count))
                (disk / "ballast").unlink()
                for _ in range(50):
                    assert tape.append(C2S, b"1") == count
                    count += 1
                tape.finalize()
                assert seqs(storage) == list(range(count))
                assert verify_tape(storage, "t").ok
        finally:
            subprocess.run(["umount", str(disk)], check=True)
