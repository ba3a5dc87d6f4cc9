"""The metadata of tapes, each in a file beside its tape; one that has none has what its `init` line says."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Final

from ...directories import sync_directory
from ...tape import dump_metadata, make_metadata, parse_init_line
from .files import SAFELY, naming, reader
from .places import TAPE
from .tape_file import open_tape
from .tape_opener import TapeOpener

META: Final = ".meta.json"
LONGEST_INIT_BYTES: Final = 1 << 20
"""A first line beyond this is no init line: some other file must not be read whole to find that out."""


class MetadataFiles:
    def __init__(self, opener: TapeOpener) -> None:
        self._opener: Final = opener

    def current(self, folder: Path, tape_id: str) -> bytes:
        """The text of its file, or what that would be. Raises: TapeNotFoundError."""
        os.close(self._opener.fd(folder, tape_id, os.O_RDONLY))
        text = self.text(folder, tape_id)
        return dump_metadata(tape_id, self.made(folder, tape_id)) if text is None else text

    def text(self, folder: Path, tape_id: str) -> bytes | None:
        """None: there is no such file."""
        try:
            fd = os.open(folder / (tape_id + META), os.O_RDONLY | SAFELY)
        except FileNotFoundError:
            return None
        with reader(fd) as file:
            return file.read()

    def made(self, folder: Path, tape_id: str) -> dict[str, Any]:
        """Of a tape without such a file. Raises: TapeNotFoundError, InvalidTapeError, InvalidTapeIdError."""
        path = folder / (tape_id + TAPE)
        file, _ = open_tape(self._opener.fd(folder, tape_id, os.O_RDONLY), path, tape_id)
        with file:
            init = parse_init_line(file.readline(LONGEST_INIT_BYTES), str(path))
            # Only what is known: counting would mean to read the whole tape.
            size_bytes = file.seek(0, os.SEEK_END)
        return make_metadata({**init, "tape_id": tape_id}, "aborted", stats={"file_size_bytes": size_bytes})

    def write(self, folder: Path, tape_id: str, text: bytes) -> None:
        """Under the directory's lock: the temporary file has one name, so that none can pile up."""
        temporary = folder / f".{tape_id}{META}.tmp"
        temporary.unlink(missing_ok=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY
            with naming(temporary), os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / (tape_id + META))  # noqa: PTH105  (beside the other calls of os)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(folder)


def etag_of(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
