"""Where the manifest is, and what the environment names. Loads nothing else: commands that only ask a running
process begin here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MANIFEST_VARIABLE: Final = "SHADOWCAT_REGISTRY"
PLUGIN_VARIABLE: Final = "SHADOWCAT_PLUGIN_DIR"
MANIFEST_NAME: Final = "registry.yaml"


def find_manifest(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> Path:
    """`path` if there is one, else `$SHADOWCAT_REGISTRY`, else `./registry.yaml`; it need not exist."""
    named = path or (os.environ if environ is None else environ).get(MANIFEST_VARIABLE)
    return Path(named or MANIFEST_NAME)
