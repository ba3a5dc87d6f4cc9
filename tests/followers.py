"""Processes that follow a manifest, seen from outside: their events are read as they come, and a test waits
for what they state, with a bound, never for a guess.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.load import parse_manifest

PATIENCE_SECONDS = 30.0
DRIVER = Path(__file__).with_name("driver.py")

_OVERRIDES = "-dac_override,-dac_read_search"
OBEYING = (
    ("setpriv", f"--bounding-set={_OVERRIDES}", f"--inh-caps={_OVERRIDES}")
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("setpriv")
    else ()
)
"""What takes from root what lets it read everything."""

Event = dict[str, Any]


def manifest_text(
    version: int | str, *, providers: int = 20, mode: str = "auto", poll_seconds: float = 0.25
) -> str:
    """A valid manifest that differs from every other version of it, cut at any line a valid one too."""
    lines = [
        f"  p{number}: {{type: memory, config: {{max_tapes: {number + 1}}}}}" for number in range(providers)
    ]
    return "\n".join(
        [
            "version: 1",
            # A half of it that was taken for the whole must not be refused for another reason.
            f"reload: {{mode: {mode}, poll_interval_seconds: {poll_seconds}, allow_mass_removal: true}}",
            "providers:",
            f"  v{version}: {{type: memory}}",
            *lines,
            "",
        ]
    )


def digest_of(text: str) -> str:
    return parse_manifest(text.encode(), Path("/registry.yaml"), Catalog(), {}).digest


class Follower:
    """One process; `events` grows as it speaks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[Event] = []
        self.is_over = False
        self.changed = threading.Condition()  # guards the two above; nothing is called under it
        self.reader = threading.Thread(target=self._read, name="reads-events", daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self.changed:
                    self.events.append(json.loads(line))
                    self.changed.notify_all()
        with self.changed:
            self.is_over = True
            self.changed.notify_all()

    def wait_for(
        self, is_it: Callable[[Event], bool], *, after: int = 0, seconds: float = PATIENCE_SECONDS
    ) -> Event:
        """The first event from number `after` on that is it."""

        def found() -> bool:
            return self.is_over or any(map(is_it, self.events[after:]))

        with self.changed:
            self.changed.wait_for(found, seconds)
            for event in self.events[after:]:
                if is_it(event):
                    return event
            raise AssertionError(f"it never said so; it said {self.events[-5:]}")

    def wait_for_digest(self, digest: str, *, seconds: float = PATIENCE_SECONDS) -> Event:
        """Until this text is what runs: the last that was told."""

        def is_live() -> bool:
            return self.is_over or self.live_digest == digest

        with self.changed:
            self.changed.wait_for(is_live, seconds)
            assert self.live_digest == digest, f"not live: {digest}; it said {self.events[-5:]}"
            return self.events[-1]

    @property
    def live_digest(self) -> str | None:
        return self.events[-1]["digest"] if self.events else None

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        self.tell(signal.SIGTERM)
        code = self.process.wait(PATIENCE_SECONDS)
        self.reader.join(PATIENCE_SECONDS)
        return code

    @property
    def thread_count(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))  # noqa: PTH208 - /proc

    @property
    def descriptor_count(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 - /proc

    @property
    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def following(
    path: Path,
    *,
    command: Sequence[str] | None = None,
    stderr: Path | None = None,
    obeys_permissions: bool = False,
    environ: dict[str, str] | None = None,
) -> Iterator[Follower]:
    """`run --json` on a manifest, or another command that speaks so; it has started when this begins. If
    it is to obey permissions, it does so also where root runs the tests."""
    run = [sys.executable, "-W", "error", "-m", "shadowcat_registry", "run", "--json"]
    line = [*(OBEYING if obeys_permissions else ()), *(command or [*run, "--log-level", "info", str(path)])]
    errors = stderr or path.parent.parent / f"stderr-{time.monotonic_ns()}"
    with errors.open("w") as said:
        process = subprocess.Popen(
            line,
            cwd="/",
            env={k: v for k, v in os.environ.items() if not k.startswith("SHADOWCAT")} | (environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    follower = Follower(process)
    try:
        try:
            follower.wait_for(lambda event: event["event"] == "started")
        except AssertionError:
            raise AssertionError(errors.read_text()) from None
        yield follower
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
        follower.reader.join(PATIENCE_SECONDS)
