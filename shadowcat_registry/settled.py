"""What had settled when a watch said so, for whoever reads it afterwards: was it that which was read?

Between a look that found a file settled and the reading of it there is time enough for a writer to begin.
Knows files, and nothing of the watch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .settle import STIRRED_QUIET_SECONDS
from .sight import Sight, look, probe


class MovedError(Exception):
    """What was read may be half of something. `files` and `patterns` are what else to watch for its end."""

    def __init__(self, files: Iterable[Path] = (), patterns: Iterable[Path] = ()) -> None:
        self.files, self.patterns = tuple(files), tuple(patterns)
        super().__init__(self.files, self.patterns)


@dataclass(frozen=True, slots=True)
class Settled:
    """Of one tick. A path that is None had moved for so long that nobody waited for its end any more."""

    sights: Mapping[str, Sight | None] = field(default_factory=dict)

    def has_moved(self, paths: Iterable[Path]) -> bool:
        """Whether one of these (absolute) is no longer what had settled, or was not watched then and may be
        half written: what was read since then may be anything. Ask when all is read."""
        return any(map(self._has_moved, map(os.fspath, paths)))

    def _has_moved(self, path: str) -> bool:
        if path not in self.sights:
            return is_fresh(path)
        sight = self.sights[path]
        if sight is None:
            return False
        return probe(path) != sight.signature or (sight.is_young and look(path).content != sight.content)


def is_fresh(path: str) -> bool:
    """Whether somebody may still be writing it, for all that its modification time tells."""
    signature = probe(path)
    return bool(signature) and time.time_ns() - signature[3] < STIRRED_QUIET_SECONDS * 1e9
