"""`demo` keeps its promise, and says so."""

from __future__ import annotations

import re
from pathlib import Path

from .conftest import Command


class TestDemo:
    def test_no_frame_is_lost_and_nothing_is_left(self, process: Command, tmp_path: Path) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        done = process("demo", TMPDIR=str(scratch), TEMP=str(scratch), TMP=str(scratch))
        said = done.stdout.decode()
        assert (done.returncode, done.stderr) == (0, b"")
        for event in ("committed", "rejected", "recovered", "retired"):
            assert re.search(rf"^   {event} ", said, re.MULTILINE)
        proof = re.search(
            r"^(\d+) frames acknowledged, (\d+) read back, .* No frame was lost\.$", said, re.MULTILINE
        )
        assert proof is not None
        assert proof[1] == proof[2]
        assert int(proof[1]) >= 500
        assert list(scratch.iterdir()) == []
        assert "\x1b" not in said  # not a terminal
