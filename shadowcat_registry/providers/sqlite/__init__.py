"""Tapes in one SQLite file that several processes may have open: with transactions and a search.

`layout` says what is in the file, `connections` who may use it when, `locks` who may write which tape;
`backend` and `appender` are what the contract asks for, `index` and `words` the search, `durable` what
outlives a loss of power, `upkeep` everything that nobody waits for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ...backend import CreateContext, Durability
from ...errors import StorageUnavailableError
from ...metadata import Config, ProviderCapability
from ...retention import Retention
from ...schema_files import provider_schema
from . import layout
from .backend import SqliteBackend
from .files import File
from .locks import is_open_here

_DEFAULT_PATH: Final = "./tapes.db"
_BUSY_TIMEOUT_MS: Final = 5000
_MIN_FREE_BYTES: Final = 16 * 1024 * 1024


class SqliteProviderFactory:
    name = "sqlite"
    display_name = "SQLite"
    version = "1.0.0"
    description = "Tapes in one SQLite file, with search and transactions"
    capabilities = frozenset(
        {ProviderCapability.LOCAL_STORAGE, ProviderCapability.SEARCH, ProviderCapability.TRANSACTIONS}
    )

    def config_schema(self) -> Mapping[str, Any]:
        return provider_schema(self.name)

    def validate_config(self, config: Config) -> None:
        """Raises: ValueError: `path` is no path on any system."""
        path = config.get("path", _DEFAULT_PATH)
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError("`path` is not a path")

    def create(self, config: Config, context: CreateContext) -> SqliteBackend:
        """Open the file, and make it where it is missing.

        Raises:
            StorageUnavailableError: it is no SQLite file, another application's, or of a newer layout.
            OSError: it, or its directory, cannot be made.
        """
        file = File(
            _path(config, context),
            search=config.get("search", True),
            busy_timeout_seconds=config.get("busy_timeout_ms", _BUSY_TIMEOUT_MS) / 1000,
            min_free_bytes=config.get("min_free_bytes", _MIN_FREE_BYTES),
        )
        # Without the floor of free space, which is kept here: what is deleted is used again inside the file.
        retention = Retention.of({"retention": config.get("retention")})
        return SqliteBackend(file, Durability.of(config), context.logger, retention)

    def check(self, config: Config, context: CreateContext) -> None:
        """Touches nothing.

        Raises:
            StorageUnavailableError: the file could not be opened, made or written to now.
        """
        layout.check_library()
        path = _path(config, context)
        nearest = path
        while not os.path.lexists(nearest) and nearest != nearest.parent:
            nearest = nearest.parent
        try:
            mode = nearest.stat().st_mode
            if nearest == path:
                if not stat.S_ISREG(mode):
                    raise StorageUnavailableError(f"Not a regular file: {path}")
                if not is_open_here(path):
                    layout.check_header(path)
                if not os.access(path, os.W_OK):
                    raise StorageUnavailableError(f"no permission to write to {path}")
                nearest = path.parent
        except OSError as error:
            if isinstance(error, StorageUnavailableError):
                raise
            raise StorageUnavailableError(f"{error.strerror}: {nearest}") from error
        if not nearest.is_dir():
            raise StorageUnavailableError(f"Not a directory: {nearest}")
        if not os.access(nearest, os.W_OK | os.X_OK):  # also for the log, which lies beside the file
            raise StorageUnavailableError(f"no permission to create a file in {nearest}")


def _path(config: Config, context: CreateContext) -> Path:
    """As the system knows it: SQLite puts its log beside what a link leads to."""
    return Path(os.path.realpath(Path(context.base_directory, config.get("path", _DEFAULT_PATH))))
