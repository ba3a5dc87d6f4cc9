from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from shadowcat_registry.plugins import modules


@pytest.fixture(autouse=True)
def no_plugin_stays() -> Iterator[None]:
    """What a test has loaded and not forgotten is nobody else's business."""
    yield
    mine = [name for name in sys.modules if name.startswith(f"{modules.PACKAGE}.")]
    for name in mine:
        del sys.modules[name]
    if mine:
        gc.collect()
