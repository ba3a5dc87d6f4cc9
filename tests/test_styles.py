"""Every way to save, through a real process: `run --json` follows the file, its events are read."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from .followers import Follower, digest_of, following, manifest_text
from .save_styles import STYLES, apply, needs_save_styles, save_styles

MODES = ["events", "poll"]
PLACES = ["plain", "behind a link", "tmpfs", "overlay"]
BURST = 50
POLLED_PAUSE_SECONDS = 0.5
"""A pause in the middle of a save that only the regular look sees has to be shorter."""
_BLANK_MAY_SHOW_SECONDS = 1.2
"""A machine on which a deploy leaves the name without a file for longer may be told of that."""


class Story:
    """One style in one mode: what was saved, and what the process said of it."""

    def __init__(self, style: str, mode: str, base: Path) -> None:
        assert save_styles is not None
        self.info = save_styles.INFO[style]
        self.texts = [manifest_text(word, mode=mode) for word in ("old", "new", "fence")]
        self.old, self.new, self.fence = map(digest_of, self.texts)
        self.mode = mode
        self.seconds = 0.0
        path = save_styles.prepare(style, base, self.texts[0])
        os.utime(path, (1, 1))
        errors = base / "stderr"
        try:
            with following(path, stderr=errors) as follower:
                self._save(style, path, base, 1, follower)
                # What nobody should have reacted to would have been reacted to before this is live.
                fence_style = style if self.info.changes else "os_replace"
                self._save(fence_style, path, base, 2, follower)
                assert follower.end() == 0
                self.events = follower.events
        finally:
            save_styles.cleanup(style, path)
        self.log = errors.read_text()

    def _save(self, style: str, path: Path, base: Path, index: int, follower: Follower) -> None:
        began = time.monotonic()
        apply(style, path, self.texts[index], base)
        self.seconds = max(self.seconds, time.monotonic() - began)
        if self.info.name.startswith("burst"):
            # The saves of one burst differ in a comment: whichever was committed says the same as the last.
            until = self._of_burst(self.texts[index])
            follower.wait_for(lambda event: event["digest"] in until)
        elif self.info.changes or index == 2:
            follower.wait_for_digest(digest_of(self.texts[index]))

    def judge(self) -> None:
        events = self.events
        if self.info.absent and self.seconds > _BLANK_MAY_SHOW_SECONDS:
            events = [event for event in events if event["event"] not in ("degraded", "recovered")]
        assert [events[0]["event"], events[-1]["event"]] == ["started", "stopped"]
        commits = [event["digest"] for event in events[1:-1] if event["event"] == "committed"]
        assert len(commits) == len(events) - 2, events
        assert [event["generation"] for event in events[1:-1]] == list(range(2, len(events)))
        if not self.info.changes:
            assert commits == [self.fence]
        elif self.info.name.startswith("burst"):
            assert len(commits) == 2
            for digest, text in zip(commits, self.texts[1:], strict=True):
                assert digest in self._of_burst(text)
        elif self.info.name == "two_closes":
            # Two changes each by definition; whoever polls may miss the first.
            halves = {digest_of(self._half(text)) for text in self.texts[1:]}
            assert [digest for digest in commits if digest not in halves] == [self.new, self.fence]
            assert len(commits) <= 4
        elif self.mode == "poll" and self.info.partial and self.seconds >= POLLED_PAUSE_SECONDS:
            # This machine made the writer pause for longer than anybody who only looks can wait.
            assert [digest for digest in commits if digest in (self.new, self.fence)] == [
                self.new,
                self.fence,
            ]
        else:
            assert commits == [self.new, self.fence]
        # What watchdog says of a queue that ran over, we heal.
        ours = [line for line in self.log.splitlines() if " WARNING watchdog." not in line]
        assert not [line for line in ours if " WARNING " in line or " ERROR " in line]
        assert "Traceback" not in self.log

    def _half(self, text: str) -> str:
        assert save_styles is not None
        first: str = save_styles._halves(text, on_line=True)[0]
        return first

    def _of_burst(self, text: str) -> set[str]:
        return {digest_of(saved) for saved in (text, *(f"{text}# burst {i}\n" for i in range(BURST - 1)))}


def stories(styles: list[str], mode: str, base: Path, workers: int) -> dict[str, Future[Story]]:
    assert save_styles is not None
    names = [style for style in styles if not save_styles.unavailable(style)]
    with ThreadPoolExecutor(workers) as pool:
        return {name: pool.submit(Story, name, mode, base / name) for name in names}


@contextmanager
def place(kind: str) -> Iterator[Path]:
    """A directory of that kind, which is gone afterwards."""
    parent = "/dev/shm" if kind == "tmpfs" else None
    with TemporaryDirectory(prefix="styles-", dir=parent) as name:
        base = Path(name).resolve()
        if kind == "behind a link":
            (base / "real").mkdir()
            (base / "link").symlink_to("real")
            yield base / "link"
        elif kind == "overlay":
            for part in ("lower", "upper", "work", "merged"):
                (base / part).mkdir()
            options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
            command = ["mount", "-t", "overlay", "overlay", "-o", options, str(base / "merged")]
            try:
                mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
            except FileNotFoundError:
                mounted = False
            if not mounted:
                pytest.skip("no overlay can be mounted here")
            try:
                yield base / "merged"
            finally:
                subprocess.run(["umount", str(base / "merged")], check=True)
        else:
            yield base


@pytest.fixture(scope="module", params=MODES)
def told(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Story]]]:
    with place("plain") as base:
        yield stories(STYLES, request.param, base, workers=8)


@needs_save_styles
class TestEveryWayToSave:
    @pytest.mark.ci
    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("style", STYLES)
    def test_is_one_generation(self, style: str, told: dict[str, Future[Story]]) -> None:
        if style not in told:
            assert save_styles is not None
            pytest.skip(save_styles.unavailable(style))
        told[style].result().judge()

    @pytest.mark.long
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("kind", PLACES)
    def test_is_one_generation_everywhere(self, kind: str, mode: str) -> None:
        with place(kind) as base:
            told = stories(STYLES, mode, base, workers=6)
        failed = []
        for style, job in told.items():
            try:
                job.result().judge()
            except AssertionError as error:
                failed.append(f"{style}: {error}")
        assert not failed
