"""Tapes as plain files in one flat directory: `<tape_id>.jsonl` and `<tape_id>.meta.json`.

A tape exists when its `.jsonl` does; what has no id for a name, no `init` line, or is no regular file
is not a tape and is never followed. A tape without metadata (copied in by hand) has what its `init`
line says, status `aborted`, since nobody said that it was finished. Knows paths, locks and bytes, no
frames. Ids come checked.

One writer per tape over all processes holds a `flock` on the `.jsonl`; readers never lock. What changes
which tapes there are, or their metadata, holds a `flock` on `.lock` in the directory. Where there is no
`fcntl` (Windows) both hold within this process only. A file system that refuses `flock` is refused:
better no recording than two of them in one file.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import logging
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Final

from ..backend import (
    UNSYNCED,
    Appender,
    CreateContext,
    Durability,
    Page,
    RepairReport,
    StorageStats,
    TapeQuery,
)
from ..errors import (
    InvalidMetadataError,
    InvalidTapeError,
    InvalidTapeIdError,
    MetadataConflictError,
    StorageUnavailableError,
    TapeBusyError,
    TapeExistsError,
    TapeNotFoundError,
)
from ..metadata import Config, ProviderCapability
from ..retention import Retention
from ..schema_files import provider_schema
from ..tape import (
    Metadata,
    check_tape_id,
    dump_metadata,
    frame_seq,
    lines_after,
    load_metadata,
    make_metadata,
    parse_init_line,
)

try:
    _fcntl: Any = importlib.import_module("fcntl")
except ImportError:
    _fcntl = None

_TAPE: Final = ".jsonl"
_META: Final = ".meta.json"
_DEFAULT_DIRECTORY: Final = "./tapes"
_COPY_BYTES: Final = 1 << 20
_LONGEST_INIT_BYTES: Final = 1 << 20
"""A first line beyond this is no init line: some other file must not be read whole to find that out."""
_LOOK_SECONDS: Final = 0.1
"""How often, at most, an appender looks whether its file still has a name."""

# A FIFO must not block us: O_NONBLOCK means nothing to a regular file. Each may be missing somewhere.
_SAFELY: Final = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
_sync_data = getattr(os, "fdatasync", os.fsync)


class FilesystemProviderFactory:
    name = "filesystem"
    display_name = "Filesystem"
    version = "1.0.0"
    description = "Tapes as JSON Lines files in a directory"
    capabilities = frozenset({ProviderCapability.LOCAL_STORAGE})

    def config_schema(self) -> Mapping[str, Any]:
        return provider_schema(self.name)

    def validate_config(self, config: Config) -> None:
        """Raises: ValueError: `directory` is no path on any system."""
        directory = config.get("directory", _DEFAULT_DIRECTORY)
        if not isinstance(directory, str) or not directory or "\0" in directory:
            raise ValueError("`directory` is not a path")

    def create(self, config: Config, context: CreateContext) -> FilesystemBackend:
        """Open the directory, and create it where it is missing.

        Raises:
            OSError: it cannot be created, or is no directory.
        """
        return FilesystemBackend(
            _directory(config, context),
            context.logger,
            durability=Durability.of(config),
            retention=Retention.of(config),
        )

    def check(self, config: Config, context: CreateContext) -> None:
        """Touches nothing.

        Raises:
            StorageUnavailableError: the directory could not be created or written to now.
        """
        directory = _directory(config, context)
        nearest = directory
        while not os.path.lexists(nearest) and nearest != nearest.parent:
            nearest = nearest.parent
        try:
            mode = nearest.stat().st_mode
        except OSError as error:
            raise StorageUnavailableError(f"{error.strerror}: {nearest}") from error
        if not stat.S_ISDIR(mode):
            raise StorageUnavailableError(f"Not a directory: {nearest}")
        if not os.access(nearest, os.W_OK | os.X_OK):
            action = "write to" if nearest == directory else f"create {directory} in"
            raise StorageUnavailableError(f"no permission to {action} {nearest}")


def _directory(config: Config, context: CreateContext) -> Path:
    return Path(context.base_directory, config.get("directory", _DEFAULT_DIRECTORY)).absolute()


class FilesystemBackend:
    storage_type = "filesystem"

    def __init__(
        self,
        directory: Path,
        logger: logging.Logger,
        *,
        durability: Durability = UNSYNCED,
        retention: Retention | None = None,
    ) -> None:
        self.durability: Final = durability
        self.retention: Final = retention
        self._directory = directory
        self._logger = logger
        _make_directories(directory)

    # -- writing --------------------------------------------------------------------------------

    def create(self, tape_id: str, init_line: bytes, meta: Metadata) -> Appender:
        metadata = dump_metadata(tape_id, meta)
        path = self._path(tape_id, _TAPE)
        with self._directory_lock():
            try:
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600)
            except FileExistsError:
                if not self._remove_stillborn(tape_id):
                    raise TapeExistsError(tape_id) from None
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600)
            lock = _WriteLock(fd, path)
            appender = _FileAppender(lock, path, 0, named=True)
            try:
                lock.acquire(tape_id)
                # The init line comes last: a tape that has one has its metadata too. What makes the name of
                # the metadata durable does it for both.
                self._write_metadata(tape_id, metadata)
                appender.append((init_line,))
                if self.durability.mode != "none":
                    appender.sync()
            except BaseException:
                appender.close()
                self._unlink(path)
                self._unlink(self._path(tape_id, _META))
                raise
        return appender

    def _remove_stillborn(self, tape_id: str) -> bool:
        """Remove a file without a byte in it that a creator left behind when it was killed. Under the
        directory's lock nobody else is at that point, so nobody can be about to write to it."""
        path = self._path(tape_id, _TAPE)
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
        path = self._path(tape_id, _TAPE)
        with self._directory_lock():  # so that it cannot be deleted between opening and locking
            fd = self._open(tape_id, os.O_RDWR | os.O_APPEND)
            lock = _WriteLock(fd, path)
            try:
                lock.acquire(tape_id)
            except BaseException:
                lock.release()
                raise
        try:
            with self._reader(fd, close=False) as file:
                parse_init_line(file.readline(_LONGEST_INIT_BYTES), str(path))
                file.seek(0)
                size, line_count, last_seq = 0, 0, -1
                for line in _whole_lines(file):
                    size += len(line)
                    line_count += 1
                    seq = frame_seq(line)
                    last_seq = last_seq if seq is None else max(last_seq, seq)
            torn_bytes = os.fstat(fd).st_size - size
            set_aside = self._set_aside(tape_id, fd, size) if torn_bytes else None
        except BaseException:
            lock.release()
            raise
        report = RepairReport(tape_id, last_seq, line_count, torn_bytes, set_aside)
        return _FileAppender(lock, path, size), report

    def _set_aside(self, tape_id: str, fd: int, size: int) -> str:
        """Move what follows the first `size` bytes to the end of `<tape_id>.torn`."""
        target = self._path(tape_id, ".torn")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _SAFELY
        with _naming(target), os.fdopen(os.open(target, flags, 0o600), "ab") as torn:
            with self._reader(fd, close=False) as file:
                file.seek(size)
                while chunk := file.read(_COPY_BYTES):
                    torn.write(chunk)
            torn.flush()
            os.fsync(torn.fileno())
        _sync_directory(self._directory)
        os.ftruncate(fd, size)
        os.fsync(fd)
        self._logger.warning("tape %s ended in an unfinished line; it was moved to %s", tape_id, target)
        return str(target)

    def delete(self, tape_id: str) -> None:
        path = self._path(tape_id, _TAPE)
        with self._directory_lock():
            lock = _WriteLock(self._open(tape_id, os.O_RDWR), path)
            try:
                lock.acquire(tape_id)
                if os.name == "nt":  # an open file cannot be removed there
                    lock.release()
                path.unlink()  # first: from here on there is no tape
                self._unlink(self._path(tape_id, _META))
                self._unlink(self._path(tape_id, ".torn"))
            finally:
                lock.release()

    # -- reading --------------------------------------------------------------------------------

    def read(self, tape_id: str, after_seq: int = -1) -> Iterator[bytes]:
        os.close(self._open(tape_id, os.O_RDONLY))  # a tape that is missing is told at the call
        return lines_after(self._read(tape_id), after_seq)

    def _read(self, tape_id: str) -> Iterator[bytes]:
        with self._reader(self._open(tape_id, os.O_RDONLY)) as file:
            yield from _whole_lines(file)

    def list(self, query: TapeQuery, cursor: str | None, limit: int) -> Page:
        items: list[dict[str, Any]] = []
        for tape_id, _ in sorted(self._tapes()):
            if cursor is not None and tape_id <= cursor:
                continue
            meta = self._listed(tape_id)
            if meta is not None and query.matches(meta):
                if len(items) == limit:
                    return Page(tuple(items), items[-1]["tape_id"])
                items.append(meta)
        return Page(tuple(items))

    def stats(self) -> StorageStats:
        tapes = [(tape_id, size) for tape_id, size in self._tapes() if self._listed(tape_id) is not None]
        size_bytes = sum(size for _, size in tapes)
        for tape_id, _ in tapes:
            with suppress(FileNotFoundError):
                size_bytes += self._path(tape_id, _META).lstat().st_size
        return StorageStats(len(tapes), size_bytes)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._directory).free

    def _tapes(self) -> Iterator[tuple[str, int]]:
        """Id and size of everything that may be a tape by its name and kind."""
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if not entry.name.endswith(_TAPE):
                    continue
                try:
                    tape_id = check_tape_id(entry.name.removesuffix(_TAPE))
                    if entry.is_file(follow_symlinks=False) and (
                        size := entry.stat(follow_symlinks=False).st_size
                    ):
                        yield tape_id, size
                except (InvalidTapeIdError, FileNotFoundError):  # no tape, or deleted while we look
                    continue

    def _listed(self, tape_id: str) -> dict[str, Any] | None:
        """Metadata for a listing, which one bad file must not break; None: no tape after all."""
        try:
            text = self._metadata_text(tape_id)
            if text is not None:
                return {**load_metadata(tape_id, text), "tape_id": tape_id}
        except (InvalidMetadataError, OSError) as error:
            self._logger.warning("listing tape %s by its init line: %s", tape_id, error)
        try:
            return self._made_metadata(tape_id)
        except (InvalidTapeError, InvalidTapeIdError, TapeNotFoundError):
            return None

    # -- metadata -------------------------------------------------------------------------------

    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]:
        text = self._current_metadata(tape_id)
        return load_metadata(tape_id, text), _etag(text)

    def set_meta(self, tape_id: str, meta: Metadata, if_match: str | None) -> str:
        text = dump_metadata(tape_id, meta)
        with self._directory_lock():
            if if_match is not None:
                if if_match != _etag(self._current_metadata(tape_id)):
                    raise MetadataConflictError(tape_id)
            else:
                os.close(self._open(tape_id, os.O_RDONLY))
            self._write_metadata(tape_id, text)
        return _etag(text)

    def _current_metadata(self, tape_id: str) -> bytes:
        os.close(self._open(tape_id, os.O_RDONLY))
        text = self._metadata_text(tape_id)
        return dump_metadata(tape_id, self._made_metadata(tape_id)) if text is None else text

    def _metadata_text(self, tape_id: str) -> bytes | None:
        try:
            fd = os.open(self._path(tape_id, _META), os.O_RDONLY | _SAFELY)
        except FileNotFoundError:
            return None
        with self._reader(fd) as file:
            return file.read()

    def _made_metadata(self, tape_id: str) -> dict[str, Any]:
        fd = self._open(tape_id, os.O_RDONLY)
        with self._reader(fd) as file:
            path = str(self._path(tape_id, _TAPE))
            init = parse_init_line(file.readline(_LONGEST_INIT_BYTES), path)
            # Only what is known: counting would mean to read the whole tape.
            size_bytes = os.fstat(fd).st_size
        return make_metadata({**init, "tape_id": tape_id}, "aborted", stats={"file_size_bytes": size_bytes})

    def _write_metadata(self, tape_id: str, text: bytes) -> None:
        """Under the directory's lock: the temporary file has one name, so that none can pile up."""
        temporary = self._path("." + tape_id, _META + ".tmp")
        self._unlink(temporary)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY
            with _naming(temporary), os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path(tape_id, _META))  # noqa: PTH105  (beside the other calls of os)
        except BaseException:
            self._unlink(temporary)
            raise
        _sync_directory(self._directory)

    # -- files ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is held between two calls; an appender is closed by its own recorder."""

    def _path(self, tape_id: str, suffix: str) -> Path:
        return self._directory / (tape_id + suffix)

    def _open(self, tape_id: str, flags: int) -> int:
        """Raises: TapeNotFoundError: there is no regular file of that name."""
        path = self._path(tape_id, _TAPE)
        try:
            fd = os.open(path, flags | _SAFELY)
        except FileNotFoundError:
            raise TapeNotFoundError(tape_id) from None
        except OSError as error:
            # A link (ELOOP; EMLINK on BSD), a directory, a FIFO or a socket.
            if error.errno in {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO}:
                raise TapeNotFoundError(tape_id) from None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise TapeNotFoundError(tape_id)
        return fd

    @staticmethod
    def _reader(fd: int, *, close: bool = True) -> BinaryIO:
        return os.fdopen(fd, "rb", buffering=_COPY_BYTES // 16, closefd=close)

    @staticmethod
    def _unlink(path: Path) -> None:
        path.unlink(missing_ok=True)

    @contextmanager
    def _directory_lock(self) -> Iterator[None]:
        """Makes create, resume, delete and changes of metadata exclude each other, over threads and
        processes: each use has a descriptor of its own, and `flock` tells those apart. Held for a few
        system calls; nothing outside of this module is called under it."""
        fd = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
        try:
            if _fcntl is None:
                with _process_lock:
                    yield
                return
            with _naming(self._directory):
                _fcntl.flock(fd, _fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Closing alone would leave the lock with a child that was forked meanwhile.
                _fcntl.flock(fd, _fcntl.LOCK_UN)
        finally:
            os.close(fd)


# Stands in for `flock` on the directory where there is no fcntl: one at a time in this process.
_process_lock = threading.Lock()
# Guards `_held_here`, which stands in for `flock` on tapes; nothing is called under it.
_held_lock = threading.Lock()
_held_here: set[str] = set()


class _WriteLock:
    """The right to write one tape, held together with the descriptor that it writes through."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self._key = str(path)
        self._held = False
        self._closed = False

    def acquire(self, tape_id: str) -> None:
        """Raises: TapeBusyError, at once: nobody waits for a recorder to end."""
        if _fcntl is None:
            with _held_lock:
                if self._key in _held_here:
                    raise TapeBusyError(tape_id)
                _held_here.add(self._key)
        else:
            try:
                with _naming(self._key):
                    _fcntl.flock(self.fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
            except BlockingIOError:
                raise TapeBusyError(tape_id) from None
        self._held = True

    def release(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._held and _fcntl is None:
                with _held_lock:
                    _held_here.discard(self._key)
            elif self._held:
                # Closing alone would leave the lock with a child that was forked meanwhile.
                _fcntl.flock(self.fd, _fcntl.LOCK_UN)
        finally:
            os.close(self.fd)


class _FileAppender:
    """Appends to the file whose lock it holds; `_size_bytes` is where the acknowledged part ends."""

    def __init__(self, lock: _WriteLock, path: Path, size_bytes: int, *, named: bool = False) -> None:
        self._lock = lock
        self._fd = lock.fd
        self._path = path
        self._size_bytes = size_bytes
        self._unsettled = False
        self._named = named  # durably
        self._look_at = monotonic() + _LOOK_SECONDS

    def append(self, lines: Sequence[bytes]) -> None:
        if self._unsettled:
            self._settle()
        if monotonic() >= self._look_at:
            self._look()
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        # Until the whole of it is in, whatever interrupts us leaves something to be cut off.
        self._unsettled = True
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                self._write_rest(memoryview(data)[written:])
        except OSError as error:
            error.filename = str(self._path)
            # The next append tries again what fails here: nothing is written behind a torn line.
            with suppress(OSError):
                self._settle()
            raise
        self._size_bytes += len(data)
        self._unsettled = False

    def _write_rest(self, rest: memoryview) -> None:
        while rest:
            written = os.write(self._fd, rest)
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            rest = rest[written:]

    def _settle(self) -> None:
        os.ftruncate(self._fd, self._size_bytes)
        self._unsettled = False

    def _look(self) -> None:
        """What is written to a file without a name is lost with its descriptor, and no call says so."""
        if os.fstat(self._fd).st_nlink == 0:
            raise FileNotFoundError(
                errno.ENOENT, "the tape was removed while it is recorded", str(self._path)
            )
        self._look_at = monotonic() + _LOOK_SECONDS

    def sync(self) -> None:
        self._look()
        with _naming(self._path):
            _sync_data(self._fd)
        if not self._named:
            _sync_directory(self._path.parent)
            self._named = True

    def close(self) -> None:
        try:
            if self._unsettled:
                with suppress(OSError):  # a torn tail is what `resume` and readers know how to meet
                    self._settle()
        finally:
            self._lock.release()


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Calls on a descriptor do not say which file it is, and the operator has to know."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n"):  # being written, or torn: not data yet
            return
        yield line


def _etag(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _make_directories(directory: Path) -> None:
    """For the owner only, on every level that is created; what is there stays as it is."""
    try:
        directory.mkdir(mode=0o700)
    except FileNotFoundError:
        _make_directories(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from None


def _sync_directory(directory: Path) -> None:
    """Makes names durable. Where directories cannot be opened (Windows), the system sees to it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | _SAFELY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
