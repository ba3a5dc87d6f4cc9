"""What the contract asks for, on plain files.

A tape exists when its `.jsonl` does; what has no id for a name, no `init` line, or is no regular file
is not a tape and is never followed. A tape without metadata (copied in by hand) has what its `init`
line says, status `aborted`, since nobody said that it was finished. Knows no frames. Ids come checked.
One writer per tape over all processes holds a `flock` on the `.jsonl`; readers never lock.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from itertools import islice
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Final

from ...backend import UNSYNCED, Appender, Durability, Page, RepairReport, StorageStats, TapeQuery
from ...directories import make_directories, sync_directory
from ...errors import (
    InvalidMetadataError,
    InvalidTapeError,
    InvalidTapeIdError,
    MetadataConflictError,
    TapeExistsError,
    TapeNotFoundError,
)
from ...metadata import ProviderCapability
from ...retention import Retention
from ...tape import (
    Metadata,
    dump_metadata,
    frame_seq,
    lines_after,
    load_metadata,
    make_metadata,
    parse_init_line,
)
from .appender import FileAppender
from .compression import SUFFIXES, Compression, codec_of
from .files import (
    COPY_BYTES,
    SAFELY,
    GrowingLines,
    naming,
    reader,
    whole_lines,
)
from .frame_reader import FileFrameReader
from .listing import MOST_REMEMBERED, NO_FILE, Known, Listing, Signature
from .locks import WriteLock, directory_lock
from .offsets import Offsets
from .places import TAPE, Layout, Places
from .sealing import SealingAppender
from .tails import blocks_path, is_at, rename_path
from .tape_file import TapeFile, open_tape
from .views import View

_META: Final = ".meta.json"
_TORN: Final = ".torn"
VIEW_SECONDS: Final = 10.0
"""How long a listing may go by what was seen, if nothing came, went or was replaced in the folders."""
_LONGEST_INIT_BYTES: Final = 1 << 20
"""A first line beyond this is no init line: some other file must not be read whole to find that out."""


class FilesystemBackend:
    storage_type = "filesystem"
    capabilities = frozenset({ProviderCapability.LOCAL_STORAGE, ProviderCapability.STREAMING})

    def __init__(
        self,
        directory: Path,
        logger: logging.Logger,
        *,
        durability: Durability = UNSYNCED,
        retention: Retention | None = None,
        layout: Layout = "flat",
        compression: Compression = "none",
    ) -> None:
        """Raises: StorageUnavailableError: it cannot be compressed here, see `compression`."""
        if compression != "none":
            codec_of(compression)
            self.capabilities |= {ProviderCapability.COMPRESSION}
        self._compression: Final = compression
        self.durability: Final = durability
        self.retention: Final = retention
        self._directory = directory
        self._logger = logger
        make_directories(directory)
        self._places = Places(directory, layout)
        self._listing = Listing(self._places)
        self._offsets = Offsets()
        # Replaced in one step: the signature that was seen last, what is remembered for it, and until when.
        self._seen: tuple[Signature | None, View | None, float] = (None, None, 0.0)

    # -- writing --------------------------------------------------------------------------------

    def create(self, tape_id: str, init_line: bytes, meta: Metadata) -> Appender:
        metadata = dump_metadata(tape_id, meta)
        with self._directory_lock():
            path = self._places.find(tape_id) / (tape_id + TAPE)
            if os.path.lexists(path) and not self._remove_stillborn(path):
                raise TapeExistsError(tape_id)
            folder = self._places.of_new(tape_id, parse_init_line(init_line, tape_id))
            if folder != self._directory:
                self._make_folder(folder)
            path = folder / (tape_id + TAPE)
            try:
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | SAFELY, 0o600)
            except FileExistsError:  # another id, on a file system that takes both for one
                raise TapeExistsError(tape_id) from None
            lock = WriteLock(fd, path)
            appender = FileAppender(lock, path, 0, named=True)
            try:
                lock.acquire(tape_id)
                # The init line comes last: a tape that has one has its metadata too. What makes the name of
                # the metadata durable does it for both.
                self._write_metadata(folder, tape_id, metadata)
                appender.append((init_line,))
                if self.durability.mode != "none":
                    appender.sync()
            except BaseException:
                appender.close()
                self._unlink(path)
                self._unlink(folder / (tape_id + _META))
                self._remove_folder(folder)
                raise
            self._unlink_blocks(path)  # of a tape of this name whose deletion was killed
            self._places.remember(tape_id, folder)
        return self._sealing(appender, path, tape_id)

    def _sealing(
        self, appender: FileAppender, path: Path, tape_id: str, tape: TapeFile | None = None
    ) -> Appender:
        """An appender that compresses, where that is asked for; `tape` has something in it already."""
        if self._compression == "none":
            return appender
        sealed, head_bytes = (None, 0) if tape is None else (tape.sealed, tape.head_bytes)
        return SealingAppender(
            appender, path, tape_id, self._compression, self._logger, sealed=sealed, head_bytes=head_bytes
        )

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            if folder.is_symlink() or not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
        else:
            sync_directory(self._directory)

    def _remove_folder(self, folder: Path) -> None:
        """If it is empty now; under the lock, so that nobody is about to put something into it."""
        if folder != self._directory:
            with suppress(OSError):
                folder.rmdir()

    def _remove_stillborn(self, path: Path) -> bool:
        """Remove a file without a byte in it that a creator left behind when it was killed. Under the
        directory's lock nobody else is at that point, so nobody can be about to write to it."""
        with suppress(FileNotFoundError):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size:
                return False
            self._logger.warning(
                "replacing the empty file %s, left behind by a recorder that was killed", path
            )
            self._unlink(path)
        return True

    def resume(self, tape_id: str) -> tuple[Appender, RepairReport]:
        with self._directory_lock():  # so that it cannot be deleted between opening and locking
            folder = self._places.find(tape_id)
            path = folder / (tape_id + TAPE)
            lock = self._open_to_write(folder, tape_id, os.O_RDWR | os.O_APPEND)
        fd = lock.fd
        try:
            file, tape = open_tape(fd, path, tape_id, close=False)
            with file:
                parse_init_line(file.readline(_LONGEST_INIT_BYTES), str(path))
                file.seek(0)
                size, line_count, last_seq = 0, 0, -1
                for line in whole_lines(file):
                    size += len(line)
                    line_count += 1
                    seq = frame_seq(line)
                    last_seq = last_seq if seq is None else max(last_seq, seq)
            size = tape.file_offset(size)
            torn_bytes = os.fstat(fd).st_size - size
            set_aside = self._set_aside(folder, tape_id, fd, size) if torn_bytes else None
            appender = self._sealing(FileAppender(lock, path, size), path, tape_id, tape)
        except BaseException:
            lock.release()
            raise
        report = RepairReport(tape_id, last_seq, line_count, torn_bytes, set_aside)
        return appender, report

    def _set_aside(self, folder: Path, tape_id: str, fd: int, size: int) -> str:
        """Move what follows the first `size` bytes to the end of `<tape_id>.torn`."""
        target = folder / (tape_id + _TORN)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | SAFELY
        with naming(target), os.fdopen(os.open(target, flags, 0o600), "ab") as torn:
            with reader(fd, close=False) as file:
                file.seek(size)
                while chunk := file.read(COPY_BYTES):
                    torn.write(chunk)
            torn.flush()
            os.fsync(torn.fileno())
        sync_directory(folder)
        os.ftruncate(fd, size)
        os.fsync(fd)
        self._logger.warning("tape %s ended in an unfinished line; it was moved to %s", tape_id, target)
        return str(target)

    def delete(self, tape_id: str) -> None:
        with self._directory_lock():
            folder = self._places.find(tape_id)
            path = folder / (tape_id + TAPE)
            lock = self._open_to_write(folder, tape_id, os.O_RDWR)
            try:
                if os.name == "nt":  # an open file cannot be removed there
                    lock.release()
                path.unlink()  # first: from here on there is no tape
                self._offsets.forget(tape_id)
                self._unlink(folder / (tape_id + _META))
                self._unlink(folder / (tape_id + _TORN))
                self._unlink_blocks(path)
                self._remove_folder(folder)
            finally:
                lock.release()

    # -- reading --------------------------------------------------------------------------------

    def read(self, tape_id: str, after_seq: int = -1) -> Iterator[bytes]:
        os.close(self._open_to_read(tape_id))  # a tape that is missing is told at the call
        return self._read(tape_id, after_seq)

    def _read(self, tape_id: str, after_seq: int) -> Iterator[bytes]:
        file, tape = self._open_tape(tape_id)
        with file:
            if after_seq < 0:
                yield from whole_lines(file)
            elif (place := tape.place_before(after_seq)) is None:
                yield from self._offsets.lines_behind(tape_id, file, after_seq)
            else:
                file.seek(place)
                yield from lines_after(whole_lines(file), after_seq)

    def reader(self, tape_id: str) -> FileFrameReader:
        folder = self._places.find(tape_id)
        path = folder / (tape_id + TAPE)
        return FileFrameReader(self._open(folder, tape_id, os.O_RDONLY), path, tape_id)

    def tail(self, tape_id: str) -> GrowingLines:
        return GrowingLines(self._open_tape(tape_id)[0])

    def torn(self, tape_id: str) -> bytes:
        with reader(self._open_to_read(tape_id)) as file:
            end = start = file.seek(0, os.SEEK_END)
            while start:
                start = max(0, start - COPY_BYTES)
                file.seek(start)
                newline = file.read(min(COPY_BYTES, end - start)).rfind(b"\n")
                if newline >= 0:
                    start += newline + 1
                    break
            file.seek(start)
            return file.read(end - start)

    def list(self, query: TapeQuery, cursor: str | None, limit: int) -> Page:
        self._listing.load()
        view = self._current_view()
        if view is not None:
            return view.page(query, cursor, limit, self._listed)
        names = self._listing.names()
        first = 0 if cursor is None else bisect_right(names, cursor, key=itemgetter(0))
        items: list[dict[str, Any]] = []
        more = False
        for tape_id, folder in islice(names, first, None):
            known = self._listed(folder, tape_id)
            if known is not None and query.matches(known.metadata):
                if len(items) == limit:
                    more = True
                    break
                items.append(known.copy())
        self._save_listing()
        return Page(tuple(items), items[-1]["tape_id"] if more else None)

    def _current_view(self) -> View | None:
        """One that still holds; made for the second who asks while nothing changes. A metadata file that
        somebody writes in its place, as only foreign tools do, leaves no trace in its folder: it is seen when
        the view has become old."""
        signature = self._listing.signature()
        seen, view, until = self._seen
        if signature is None:
            return None
        if signature != seen:
            self._seen = signature, None, 0.0
            return None
        if view is None or monotonic() >= until:
            until = monotonic() + VIEW_SECONDS
            names = self._listing.names()
            if len(names) > MOST_REMEMBERED:
                return None
            tapes = []
            for tape_id, folder in names:
                known = self._listed(folder, tape_id)
                tapes.append((tape_id, folder, known if known is not None and known.is_of_a_file else None))
            view = View(tapes)
            self._seen = signature, view, until
            self._save_listing()
        return view

    def _save_listing(self) -> None:
        if self._listing.is_worth_saving:
            with suppress(OSError), self._directory_lock():
                self._listing.save()

    def stats(self) -> StorageStats:
        count = size_bytes = 0
        blocks = self._sizes_of_blocks()
        for tape_id, folder in self._listing.names():
            tape = self._tape_status(folder, tape_id)
            if tape is None or self._listed(folder, tape_id) is None:
                continue
            count += 1
            size_bytes += tape.st_size + blocks.get((folder, tape_id), 0)
            with suppress(FileNotFoundError):
                size_bytes += os.lstat(f"{folder}/{tape_id}{_META}").st_size
        return StorageStats(count, size_bytes)

    def _sizes_of_blocks(self) -> dict[tuple[Path, str], int]:
        """By folder and id, of whatever is named so."""
        sizes: dict[tuple[Path, str], int] = {}
        for folder in self._places.folders():
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    tape_id, tape, suffix = entry.name.rpartition(TAPE)
                    if tape and suffix in SUFFIXES.values():
                        with suppress(FileNotFoundError):
                            sizes[folder, tape_id] = entry.stat(follow_symlinks=False).st_size
        return sizes

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._directory).free

    @staticmethod
    def _tape_status(folder: Path, tape_id: str) -> os.stat_result | None:
        """Of what may be a tape: a regular file with something in it."""
        try:
            status = os.lstat(f"{folder}/{tape_id}{TAPE}")
        except FileNotFoundError:  # deleted while we look
            return None
        return status if stat.S_ISREG(status.st_mode) and status.st_size else None

    def _listed(self, folder: Path, tape_id: str) -> Known | None:
        """Metadata for a listing, which one bad file must not break; None: no tape after all."""
        are_tapes = self._listing.are_tapes(folder)
        if tape_id not in are_tapes:
            if self._tape_status(folder, tape_id) is None:
                return None
            are_tapes.add(tape_id)
        try:
            status = os.lstat(f"{folder}/{tape_id}{_META}")
        except FileNotFoundError:
            pass
        else:
            known = self._listing.known(tape_id, status)
            if known is not None:
                return known
            try:
                text = self._metadata_text(folder, tape_id)
                if text is not None:
                    meta = {**load_metadata(tape_id, text), "tape_id": tape_id}
                    return self._listing.remember(tape_id, status, meta)
            except (InvalidMetadataError, OSError) as error:
                self._logger.warning("listing tape %s by its init line: %s", tape_id, error)
        try:
            return Known.of(NO_FILE, self._made_metadata(folder, tape_id))
        except (InvalidTapeError, InvalidTapeIdError, TapeNotFoundError):
            return None

    # -- metadata -------------------------------------------------------------------------------

    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]:
        text = self._current_metadata(self._places.find(tape_id), tape_id)
        return load_metadata(tape_id, text), _etag(text)

    def set_meta(self, tape_id: str, meta: Metadata, if_match: str | None) -> str:
        text = dump_metadata(tape_id, meta)
        with self._directory_lock():
            folder = self._places.find(tape_id)
            if if_match is not None:
                if if_match != _etag(self._current_metadata(folder, tape_id)):
                    raise MetadataConflictError(tape_id)
            else:
                os.close(self._open(folder, tape_id, os.O_RDONLY))
            self._write_metadata(folder, tape_id, text)
        return _etag(text)

    def _current_metadata(self, folder: Path, tape_id: str) -> bytes:
        os.close(self._open(folder, tape_id, os.O_RDONLY))
        text = self._metadata_text(folder, tape_id)
        return dump_metadata(tape_id, self._made_metadata(folder, tape_id)) if text is None else text

    def _metadata_text(self, folder: Path, tape_id: str) -> bytes | None:
        try:
            fd = os.open(folder / (tape_id + _META), os.O_RDONLY | SAFELY)
        except FileNotFoundError:
            return None
        with reader(fd) as file:
            return file.read()

    def _made_metadata(self, folder: Path, tape_id: str) -> dict[str, Any]:
        path = folder / (tape_id + TAPE)
        file, _ = open_tape(self._open(folder, tape_id, os.O_RDONLY), path, tape_id)
        with file:
            init = parse_init_line(file.readline(_LONGEST_INIT_BYTES), str(path))
            # Only what is known: counting would mean to read the whole tape.
            size_bytes = file.seek(0, os.SEEK_END)
        return make_metadata({**init, "tape_id": tape_id}, "aborted", stats={"file_size_bytes": size_bytes})

    def _write_metadata(self, folder: Path, tape_id: str, text: bytes) -> None:
        """Under the directory's lock: the temporary file has one name, so that none can pile up."""
        temporary = folder / f".{tape_id}{_META}.tmp"
        self._unlink(temporary)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY
            with naming(temporary), os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / (tape_id + _META))  # noqa: PTH105  (beside the other calls of os)
        except BaseException:
            self._unlink(temporary)
            raise
        sync_directory(folder)

    # -- files ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is held between two calls; an appender is closed by its own recorder."""

    def _open_to_read(self, tape_id: str) -> int:
        return self._open(self._places.find(tape_id), tape_id, os.O_RDONLY)

    def _open_tape(self, tape_id: str) -> tuple[BinaryIO, TapeFile]:
        folder = self._places.find(tape_id)
        return open_tape(self._open(folder, tape_id, os.O_RDONLY), folder / (tape_id + TAPE), tape_id)

    def _open_to_write(self, folder: Path, tape_id: str, flags: int) -> WriteLock:
        """The lock of the tape, whose file a recorder may replace until we have it."""
        path = folder / (tape_id + TAPE)
        while True:
            lock = WriteLock(self._open(folder, tape_id, flags), path)
            try:
                lock.acquire(tape_id)
                if is_at(lock.fd, path):
                    return lock
            except BaseException:
                lock.release()
                raise
            lock.release()

    def _open(self, folder: Path, tape_id: str, flags: int) -> int:
        """Raises: TapeNotFoundError: there is no regular file of that name."""
        name = tape_id + TAPE
        try:
            fd = os.open(f"{folder}/{name}", flags | SAFELY)
        except FileNotFoundError:
            raise TapeNotFoundError(tape_id) from None
        except OSError as error:
            # A link (ELOOP; EMLINK on BSD), a directory, a FIFO or a socket.
            if error.errno in {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO}:
                raise TapeNotFoundError(tape_id) from None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not self._places.has_exactly(folder, name):
            os.close(fd)
            raise TapeNotFoundError(tape_id)
        return fd

    def _unlink_blocks(self, path: Path) -> None:
        for compression in SUFFIXES:
            self._unlink(blocks_path(path, compression))
        self._unlink(rename_path(path))

    @staticmethod
    def _unlink(path: Path) -> None:
        path.unlink(missing_ok=True)

    def _directory_lock(self) -> AbstractContextManager[None]:
        return directory_lock(self._directory)


def _etag(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
