"""Whether a storage keeps what it is given: a tape that is written, read, and removed again."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final
from uuid import uuid4

from ..errors import StorageUnavailableError, TapeNotFoundError
from ..storage import TapeStorage

_MESSAGE: Final = b'{"jsonrpc":"2.0","method":"probe"}'
_NAME: Final = "probe"


class ProbeCancelledError(Exception):
    """The probe was told to stop; nothing of it is left."""


def probe_storage(storage: TapeStorage, cancelled: threading.Event | None = None) -> None:
    """Write a tape of one frame, so that it outlives a loss of power, read it, and delete it. Whatever goes
    wrong, the tape is gone afterwards, unless it is the deleting that fails.

    Raises:
        StorageError: what went wrong first.
        ProbeCancelledError: `cancelled` was set between two steps.
    """
    tape_id = f"{_NAME}-{uuid4().hex}"
    try:
        _check(cancelled)
        with storage.record(_NAME, tape_id=tape_id, name=_NAME, tags=(_NAME,)) as tape:
            tape.append("client_to_server", _MESSAGE)
            tape.flush(durable=True)
        _check(cancelled)
        if not any(_MESSAGE in line for line in storage.read(tape_id)):
            raise StorageUnavailableError("a tape that was written and finalized reads differently")
        _check(cancelled)
    except BaseException:
        with suppress(Exception):  # what went wrong first says more
            storage.delete(tape_id)
        raise
    storage.delete(tape_id)
    with suppress(TapeNotFoundError):
        storage.get_meta(tape_id)
        raise StorageUnavailableError("a tape that was deleted is still there")


def _check(cancelled: threading.Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise ProbeCancelledError
