"""Tapes as plain files in a directory: `<tape_id>.jsonl` and `<tape_id>.meta.json`.

`places` says in which folder a tape lies, `offsets` where in it a frame is, `locks` who may write it,
`listing` what is remembered of all; `backend` and `appender` are what the contract asks for, `files` the
calls that they make. With compression, `sealing` writes lines and makes them blocks, `tails` says how far,
`blocks` reads them with the codecs of `compression`, and `tape_file` makes one tape of all of it.
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
from .backend import FilesystemBackend
from .compression import zstd_library

_DEFAULT_DIRECTORY: Final = "./tapes"


class FilesystemProviderFactory:
    name = "filesystem"
    display_name = "Filesystem"
    version = "1.0.0"
    description = "Tapes as JSON Lines files in a directory"
    capabilities = frozenset(
        {
            ProviderCapability.COMPRESSION,
            ProviderCapability.LOCAL_STORAGE,
            ProviderCapability.STREAMING,
        }
    )

    def config_schema(self) -> Mapping[str, Any]:
        return provider_schema(self.name)

    def validate_config(self, config: Config) -> None:
        """Raises: ValueError: `directory` is no path on any system; what `compression` needs is missing."""
        directory = config.get("directory", _DEFAULT_DIRECTORY)
        if not isinstance(directory, str) or not directory or "\0" in directory:
            raise ValueError("`directory` is not a path")
        if config.get("compression") == "zstd":
            try:
                zstd_library()
            except StorageUnavailableError as error:
                raise ValueError(f"`compression`: {error.reason}") from error

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
            layout=config.get("layout", "flat"),
            compression=config.get("compression", "none"),
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
