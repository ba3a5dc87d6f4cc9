"""Processes of their own that work on a storage, for tests of what several processes do to it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

OPEN = """
import os, sys
from pathlib import Path
from tests.storages import handle, open_backend
def open_storage(type_name, directory, **config):
    return handle(open_backend(type_name, Path(directory), config))
"""


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Runs `code`, which has `open_storage(type_name, directory, **config)`, beside this process."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OPEN) + textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )
