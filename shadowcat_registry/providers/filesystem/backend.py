"""What the contract asks for, on plain files.

A tape exists when its `.jsonl` does; what has no id for a name, no `init` line, or is no regular file
is not a tape and is never followed. A tape without metadata (copied in by hand) has what its `init`
line says, status `aborted`, since nobody said that it was finished. Knows no frames. Ids come checked.
One writer per tape over all processes holds a `flock` on the `.jsonl`; readers never lock.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

from ...backend import UNSYNCED, Appender, Durability, Page, RepairReport, StorageStats, TapeQuery
from ...directories import make_directories, sync_directory
from ...errors import (
    MetadataConflictError,
    TapeExistsError,
)
from ...metadata import ProviderCapability
from ...retention import Retention
from ...tape import (
    Metadata,
    dump_metadata,
    frame_seq,
    lines_after,
    load_metadata,
    new_tape_id,
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
from .locks import WriteLock, directory_lock
from .metadata_files import LONGEST_INIT_BYTES, META, MetadataFiles, etag_of
from .offsets import Offsets
from .overview import Overview
from .places import TAPE, Layout, Places
from .sealing import SealingAppender
from .tails import blocks_path, rename_path
from .tape_file import TapeFile, open_tape
from .tape_opener import TapeOpener

_TORN: Final = ".torn"
_MOST_FRESH: Final = 1000
"""Ids that were made and not used are forgotten then: for those it is looked after all."""


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
        self._opener = TapeOpener(self._places)
        self._metadata = MetadataFiles(self._opener)
        self._overview = Overview(self._places, self._metadata, logger)
        self._offsets = Offsets()
        self._fresh: dict[str, bool] = {}  # ids that were made here; one step each

    # -- writing --------------------------------------------------------------------------------

    def new_tape_id(self) -> str:
        """One that `create` need not look for in every folder: nobody can have recorded under it before."""
        if len(self._fresh) >= _MOST_FRESH:
            self._fresh.clear()
        tape_id = new_tape_id()
        self._fresh[tape_id] = True
        return tape_id

    def create(self, tape_id: str, init_line: bytes, meta: Metadata) -> Appender:
        metadata = dump_metadata(tape_id, meta)
        with self._directory_lock():
            is_fresh = self._fresh.pop(tape_id, None) is not None
            path = (self._directory if is_fresh else self._places.find(tape_id)) / (tape_id + TAPE)
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
                self._metadata.write(folder, tape_id, metadata)
                appender.append((init_line,))
                if self.durability.mode != "none":
                    appender.sync()
            except BaseException:
                appender.close()
                self._unlink(path)
                self._unlink(folder / (tape_id + META))
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
            lock = self._opener.to_write(folder, tape_id, os.O_RDWR | os.O_APPEND)
        fd = lock.fd
        try:
            file, tape = open_tape(fd, path, tape_id, close=False)
            with file:
                parse_init_line(file.readline(LONGEST_INIT_BYTES), str(path))
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
            lock = self._opener.to_write(folder, tape_id, os.O_RDWR)
            try:
                if os.name == "nt":  # an open file cannot be removed there
                    lock.release()
                path.unlink()  # first: from here on there is no tape
                self._offsets.forget(tape_id)
                self._unlink(folder / (tape_id + META))
                self._unlink(folder / (tape_id + _TORN))
                self._unlink_blocks(path)
                self._remove_folder(folder)
            finally:
                lock.release()

    # -- reading --------------------------------------------------------------------------------

    def read(self, tape_id: str, after_seq: int = -1) -> Iterator[bytes]:
        os.close(self._opener.to_read(tape_id))  # a tape that is missing is told at the call
        return self._read(tape_id, after_seq)

    def _read(self, tape_id: str, after_seq: int) -> Iterator[bytes]:
        file, tape = self._opener.tape(tape_id)
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
        return FileFrameReader(self._opener.fd(folder, tape_id, os.O_RDONLY), path, tape_id)

    def tail(self, tape_id: str) -> GrowingLines:
        return GrowingLines(self._opener.tape(tape_id)[0])

    def torn(self, tape_id: str) -> bytes:
        with reader(self._opener.to_read(tape_id)) as file:
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
        return self._overview.list(query, cursor, limit)

    def stats(self) -> StorageStats:
        return self._overview.stats()

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._directory).free

    # -- metadata -------------------------------------------------------------------------------

    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]:
        text = self._metadata.current(self._places.find(tape_id), tape_id)
        return load_metadata(tape_id, text), etag_of(text)

    def set_meta(self, tape_id: str, meta: Metadata, if_match: str | None) -> str:
        text = dump_metadata(tape_id, meta)
        with self._directory_lock():
            folder = self._places.find(tape_id)
            if if_match is not None:
                if if_match != etag_of(self._metadata.current(folder, tape_id)):
                    raise MetadataConflictError(tape_id)
            else:
                os.close(self._opener.fd(folder, tape_id, os.O_RDONLY))
            self._metadata.write(folder, tape_id, text)
        return etag_of(text)

    # -- files ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is held between two calls; an appender is closed by its own recorder."""

    def _unlink_blocks(self, path: Path) -> None:
        for compression in SUFFIXES:
            self._unlink(blocks_path(path, compression))
        self._unlink(rename_path(path))

    @staticmethod
    def _unlink(path: Path) -> None:
        path.unlink(missing_ok=True)

    def _directory_lock(self) -> AbstractContextManager[None]:
        return directory_lock(self._directory)
