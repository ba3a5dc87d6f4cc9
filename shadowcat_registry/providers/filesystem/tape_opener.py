"""Opens the file of a tape: only what is one, and to write only together with its lock. Knows no metadata."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from ...errors import TapeNotFoundError
from .files import SAFELY
from .locks import WriteLock
from .places import TAPE, Places
from .tails import is_at
from .tape_file import TapeFile, open_tape


class TapeOpener:
    """By ids that were checked."""

    def __init__(self, places: Places) -> None:
        self._places: Final = places

    def to_read(self, tape_id: str) -> int:
        """Raises: TapeNotFoundError."""
        return self.fd(self._places.find(tape_id), tape_id, os.O_RDONLY)

    def tape(self, tape_id: str) -> tuple[BinaryIO, TapeFile]:
        """Raises: TapeNotFoundError; as `TapeFile`."""
        folder = self._places.find(tape_id)
        return open_tape(self.fd(folder, tape_id, os.O_RDONLY), folder / (tape_id + TAPE), tape_id)

    def to_write(self, folder: Path, tape_id: str, flags: int) -> WriteLock:
        """The lock of the tape, whose file a recorder may replace until we have it."""
        path = folder / (tape_id + TAPE)
        while True:
            lock = WriteLock(self.fd(folder, tape_id, flags), path)
            try:
                lock.acquire(tape_id)
                if is_at(lock.fd, path):
                    return lock
            except BaseException:
                lock.release()
                raise
            lock.release()

    def fd(self, folder: Path, tape_id: str, flags: int) -> int:
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

    @staticmethod
    def status(folder: Path, tape_id: str) -> os.stat_result | None:
        """Of what may be a tape: a regular file with something in it."""
        try:
            status = os.lstat(f"{folder}/{tape_id}{TAPE}")
        except FileNotFoundError:  # deleted while we look
            return None
        return status if stat.S_ISREG(status.st_mode) and status.st_size else None
