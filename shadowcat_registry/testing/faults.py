"""Storages that fail when a test says so: in the backend, and in the calls of the system beneath it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ..backend import Appender, CreateContext, FrameReader, StorageProviderFactory, TapeStorageBackend
from ..metadata import Config, ProviderCapability


@dataclass
class Faults:
    """What goes wrong next: `errors["append"]` is raised by each `append` until it is taken away."""

    errors: dict[str, BaseException] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def pass_by(self, operation: str) -> None:
        self.calls.append(operation)
        if (error := self.errors.get(operation)) is not None:
            raise error


class FaultyFactory:
    """A factory around another, whose backends fail as `faults` says: in each method of a backend, by its
    name, and in `append`, `sync`, `frame` and `next_line`."""

    def __init__(self, factory: StorageProviderFactory, faults: Faults) -> None:
        self._factory = factory
        self._faults = faults
        self.name: str = factory.name
        self.display_name: str = factory.display_name
        self.version: str = factory.version
        self.description: str = factory.description
        self.capabilities: frozenset[ProviderCapability] = factory.capabilities

    def config_schema(self) -> Mapping[str, Any] | None:
        return self._factory.config_schema()

    def validate_config(self, config: Config) -> None:
        self._factory.validate_config(config)

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        backend: Any = _FaultyBackend(self._factory.create(config, context), self._faults)
        return backend  # type: ignore[no-any-return]


class _FaultyBackend:
    def __init__(self, backend: TapeStorageBackend, faults: Faults) -> None:
        self._backend = backend
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if name not in _OPERATIONS:
            return value

        def call(*arguments: object) -> object:
            self._faults.pass_by(name)
            result = value(*arguments)
            if name == "create":
                return _FaultyAppender(result, self._faults)
            if name == "resume":
                return _FaultyAppender(result[0], self._faults), result[1]
            if name == "reader":
                return _FaultyReader(result, self._faults)
            return self._lines(result) if name == "read" else result

        return call

    def _lines(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        for line in lines:
            yield line
            self._faults.pass_by("next_line")


_OPERATIONS = frozenset(
    {
        "create",
        "resume",
        "read",
        "reader",
        "list",
        "get_meta",
        "set_meta",
        "delete",
        "stats",
        "search",
        "transaction",
    }
)  # not `close`: a test has to end


class _FaultyReader:
    def __init__(self, reader: FrameReader, faults: Faults) -> None:
        self._reader = reader
        self._faults = faults

    def frame(self, seq: int) -> bytes | None:
        self._faults.pass_by("frame")
        return self._reader.frame(seq)

    def read(self, after_seq: int) -> Iterator[bytes]:
        self._faults.pass_by("read")
        return self._reader.read(after_seq)

    def close(self) -> None:
        self._reader.close()


class _FaultyAppender:
    def __init__(self, appender: Appender, faults: Faults) -> None:
        self._appender = appender
        self._faults = faults

    def append(self, lines: Sequence[bytes]) -> None:
        self._faults.pass_by("append")
        self._appender.append(lines)

    def sync(self) -> None:
        self._faults.pass_by("sync")
        self._appender.sync()

    def close(self) -> None:
        self._appender.close()


@dataclass
class SystemFaults:
    """How the writing calls of `os` behave; change it at any time."""

    shorten: bool = False
    """Each write takes only the first half of what it is given."""
    error: int | None = None
    """Each write fails with this number of `errno`."""
    error_after_writes: int = 0
    """So many succeed before."""
    sync_error: int | None = None
    delay_seconds: float = 0.0
    write_count: int = 0
    sync_count: int = 0


@contextmanager
def faulty_system() -> Iterator[SystemFaults]:
    """Patches `os.write`, `writev`, `pwrite`, `fsync` and `fdatasync` for files, not for pipes and terminals.
    A storage that writes through something else (SQLite) does not notice: see `write_count`."""
    faults = SystemFaults()

    def write(original: Callable[..., int], fd: int, data: Any, *more: int) -> int:
        if not _is_file(fd):
            return original(fd, data, *more)
        faults.write_count += 1
        if faults.delay_seconds:
            time.sleep(faults.delay_seconds)
        if faults.error is not None:
            if not faults.error_after_writes:
                raise OSError(faults.error, os.strerror(faults.error))  # of the class that fits the number
            faults.error_after_writes -= 1
        if not faults.shorten:
            return original(fd, data, *more)
        if isinstance(data, list | tuple):
            whole = b"".join(data)
            return os.write.original(fd, whole[: max(1, len(whole) // 2)])  # type: ignore[attr-defined,no-any-return]
        return original(fd, memoryview(data)[: max(1, len(data) // 2)], *more)

    def sync(original: Callable[[int], None], fd: int) -> None:
        faults.sync_count += 1
        if faults.sync_error is not None and _is_file(fd):
            raise OSError(faults.sync_error, os.strerror(faults.sync_error))
        original(fd)

    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in (
            ("write", write),
            ("writev", write),
            ("pwrite", write),
            ("fsync", sync),
            ("fdatasync", sync),
        ):
            original = getattr(os, name, None)
            if original is not None:
                patch.setattr(os, name, _Patched(stand_in, original))
        yield faults


class _Patched:
    def __init__(self, stand_in: Callable[..., Any], original: Callable[..., Any]) -> None:
        self._stand_in = stand_in
        self.original = original

    def __call__(self, *arguments: Any) -> Any:
        return self._stand_in(self.original, *arguments)


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)
