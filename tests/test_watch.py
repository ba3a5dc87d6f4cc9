from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from queue import Empty

import pytest

from shadowcat_registry import hints, supervise, watching
from shadowcat_registry.settle import STIRRED_QUIET_SECONDS, Settling
from shadowcat_registry.sight import Signature, probe, read_settled
from shadowcat_registry.watch import Watch, WatchMode, WatchStatus

from .save_styles import STYLES, apply, needs_save_styles, save_styles

PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.05
STYLE_POLL_SECONDS = 0.25  # for the sake of a slow machine that runs a dozen styles at once
OLD = "version: 1\nitems:\n" + "".join(f"  - id: old-{i}\n" for i in range(50))
NEW = "version: 2\nitems:\n" + "".join(f"  - id: new-{i}\n" for i in range(60))

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


class Recorder:
    """Reads the files at each tick, as a runtime would, and lets a test wait for what it has read."""

    def __init__(self, *paths: Path, mode: WatchMode = "auto", poll_seconds: float = POLL_SECONDS) -> None:
        self.paths = list(paths)
        self.changed = threading.Condition()  # guards `seen`; only appended and read under it
        self.seen: list[str] = []
        self.during_tick: Callable[[], None] = lambda: None
        self.watch = Watch(lambda: self.paths, self.on_tick, poll_interval_seconds=poll_seconds, mode=mode)

    def on_tick(self) -> None:
        self.during_tick()
        try:
            content = "|".join(read_settled(path).decode() for path in self.paths)
        except OSError as error:
            content = type(error).__name__
        with self.changed:
            self.seen.append(content)
            self.changed.notify_all()

    def wait_for(self, is_enough: Callable[[list[str]], bool]) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: is_enough(self.seen), PATIENCE_SECONDS), self.seen
            return list(self.seen)

    def wait_for_count(self, count: int) -> list[str]:
        return self.wait_for(lambda seen: len(seen) >= count)

    def wait_until(self, is_so: Callable[[WatchStatus], bool]) -> WatchStatus:
        """For what has no event of its own: looks each time that the watch may have moved on."""
        step = threading.Event()
        for _ in range(int(PATIENCE_SECONDS / 0.005)):
            status = self.watch.status()
            if is_so(status):
                return status
            step.wait(0.005)
        raise AssertionError(self.watch.status())

    def settle_down(self) -> None:
        """Until the first tick is over: what moves while it lasts gives another. Forgets what was seen."""
        self.wait_for_count(1)
        checks = self.watch.status().checks
        self.watch.configure(
            mode=self.watch._settings.mode, poll_interval_seconds=self.watch._settings.poll_interval_seconds
        )  # brings a check
        self.wait_until(lambda status: status.checks > checks)
        with self.changed:
            self.seen.clear()

    def wait_for_checks(self, count: int) -> None:
        until = self.watch.status().checks + count
        self.wait_until(lambda status: status.checks >= until)


@contextmanager
def recording(
    *paths: Path, mode: WatchMode = "auto", poll_seconds: float = POLL_SECONDS, first: bool = True
) -> Iterator[Recorder]:
    """A running watch whose first tick has come and been forgotten."""
    recorder = Recorder(*paths, mode=mode, poll_seconds=poll_seconds)
    recorder.watch.start()
    try:
        if first:
            recorder.settle_down()
        yield recorder
    finally:
        assert recorder.watch.stop(PATIENCE_SECONDS)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    directory = tmp_path / "conf"
    directory.mkdir()
    return settled(directory / "registry.yaml", OLD)


def settled(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    os.utime(path, (1, 1))  # or the watch would wait for a writer who may not be done
    return path


def replace(path: Path, text: str) -> None:
    other = path.with_name(path.name + ".tmp")
    other.write_text(text, encoding="utf-8", newline="")
    other.replace(path)


def descriptors() -> set[str]:
    directory = Path("/proc/self/fd")
    return set(os.listdir(directory)) if directory.is_dir() else set()  # noqa: PTH208 (a closed one has no path)


# --------------------------------------------------------------------------- every way to save


def save(style: str, base: Path, mode: WatchMode, poll_seconds: float) -> list[str]:
    """What was read at each tick that this style led to."""
    assert save_styles is not None
    path = save_styles.prepare(style, base, OLD)
    os.utime(path, (1, 1))
    try:
        with recording(path, mode=mode, poll_seconds=poll_seconds) as recorder:
            apply(style, path, NEW, base)
            if save_styles.INFO[style].changes:
                recorder.wait_for(lambda seen: seen[-1:] == [NEW])
            # Long enough for a tick that should not be: the longest quiet, in checks.
            recorder.wait_for_checks(int(0.6 / poll_seconds) + 2)
            return recorder.seen[:]
    finally:
        save_styles.cleanup(style, path)


def judge(style: str, seen: list[str]) -> None:
    assert save_styles is not None
    info = save_styles.INFO[style]
    if info.absent:
        # A slow machine may stretch the second without a file until it counts as a fact.
        seen = [content for content in seen if content != "FileNotFoundError"]
    if not info.changes:
        assert seen == []
    elif style == "two_closes":
        # Two changes by definition, but whoever sees them only by polling may miss the first.
        assert seen in ([NEW[: len(seen[0])], NEW], [NEW])
    elif style.startswith("burst"):
        # Saves that a slow machine spreads are changes of their own; test_settle holds, on a clock that
        # stands still, that those which are not spread are one. What moved while it was read may be told
        # again as it is: it is not known which of the two was read.
        assert {content.partition("# burst")[0] for content in seen} == {NEW}
        seen = [content for content, _ in groupby(seen)]
        assert len(seen) == len(set(seen)) <= 50
        assert seen[-1] == NEW
    else:
        assert seen == [NEW]


def outcomes(
    styles: list[str], base: Path, mode: WatchMode, poll_seconds: float, workers: int
) -> dict[str, Future[list[str]]]:
    assert save_styles is not None
    names = [style for style in styles if not save_styles.unavailable(style)]
    with ThreadPoolExecutor(workers) as pool:
        return {name: pool.submit(save, name, base / name, mode, poll_seconds) for name in names}


SLOW_STYLES = frozenset({"overflow_noise"})
POLLED_STYLES = ["os_replace", "slow_write_lines", "k8s_configmap", "keep_mtime", "delete_recreate", "touch"]


@pytest.fixture(scope="module")
def with_events(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[list[str]]]:
    styles = [style for style in STYLES if style not in SLOW_STYLES]
    return outcomes(styles, tmp_path_factory.mktemp("events"), "auto", STYLE_POLL_SECONDS, workers=12)


@pytest.fixture(scope="module")
def with_poll(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[list[str]]]:
    return outcomes(POLLED_STYLES, tmp_path_factory.mktemp("poll"), "poll", STYLE_POLL_SECONDS, workers=6)


@needs_save_styles
class TestEveryWayToSave:
    @pytest.mark.parametrize("style", STYLES)
    def test_is_one_change_with_events(self, style: str, with_events: dict[str, Future[list[str]]]) -> None:
        if style in SLOW_STYLES:
            pytest.skip("takes long: runs with -m long")
        if style not in with_events:
            assert save_styles is not None
            pytest.skip(save_styles.unavailable(style))
        judge(style, with_events[style].result())

    @pytest.mark.ci
    @pytest.mark.parametrize("style", POLLED_STYLES)
    def test_is_one_change_without_events(self, style: str, with_poll: dict[str, Future[list[str]]]) -> None:
        judge(style, with_poll[style].result())

    @pytest.mark.long
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("mode", ["auto", "poll"])
    @pytest.mark.parametrize("where", ["disk", "memory", "behind a link"])
    def test_is_one_change_everywhere(self, where: str, mode: WatchMode, tmp_path: Path) -> None:
        base = tmp_path
        if where == "memory":
            base = Path("/dev/shm") / f"watch-{os.getpid()}-{mode}"  # cleaned up below
        elif where == "behind a link":
            (tmp_path / "real").mkdir()
            base = tmp_path / "link"
            base.symlink_to("real")
        try:
            results = outcomes(STYLES, base, mode, 1.0, workers=6)
            for style, job in results.items():
                judge(style, job.result())
        finally:
            if where == "memory":
                subprocess.run(["rm", "-rf", str(base)], check=True)


# --------------------------------------------------------------------------- ticks


class TestTicks:
    def test_the_first_comes_at_the_start(self, manifest: Path) -> None:
        with recording(manifest, first=False) as recorder:
            assert recorder.wait_for_count(1) == [OLD]

    @pytest.mark.parametrize("mode", ["auto", "poll"])
    def test_a_change_gives_one(self, manifest: Path, mode: WatchMode) -> None:
        with recording(manifest, mode=mode) as recorder:
            replace(manifest, NEW)
            recorder.wait_for_count(1)
            recorder.wait_for_checks(12)
            assert recorder.seen == [NEW]
            assert recorder.watch.status().ticks == 2

    def test_what_moves_while_the_reader_reads_gives_another(self, manifest: Path) -> None:
        # The reader may have seen the half; that the content is back must not hide it.
        with recording(manifest) as recorder:

            def disturb() -> None:
                recorder.during_tick = lambda: None
                manifest.write_text("half")
                manifest.write_text(NEW, encoding="utf-8", newline="")

            recorder.during_tick = disturb
            replace(manifest, NEW)
            assert recorder.wait_for_count(2) == [NEW, NEW]

    def test_a_poke_gives_one_without_a_change(self, manifest: Path) -> None:
        with recording(manifest) as recorder:
            recorder.watch.poke()
            assert recorder.wait_for_count(1) == [OLD]

    def test_a_poke_may_be_for_later(self, manifest: Path) -> None:
        with recording(manifest) as recorder:
            recorder.watch.poke(after_seconds=1000.0)
            recorder.watch.poke(after_seconds=0.01)
            recorder.wait_for_checks(6)
            assert recorder.seen == [OLD]

    @pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
    def test_a_signal_handler_may_poke(self, manifest: Path) -> None:
        with recording(manifest) as recorder:
            before = signal.signal(signal.SIGUSR1, lambda *_: recorder.watch.poke())
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
                recorder.wait_for_count(1)
            finally:
                signal.signal(signal.SIGUSR1, before)

    def test_a_missing_file_gives_one_and_its_return_another(self, manifest: Path) -> None:
        with recording(manifest) as recorder:
            manifest.unlink()
            assert recorder.wait_for_count(1) == ["FileNotFoundError"]
            recorder.wait_for_checks(6)
            replace(manifest, OLD)
            assert recorder.wait_for_count(2) == ["FileNotFoundError", OLD]


class TestSeveralFiles:
    def test_change_together_in_one_tick(self, manifest: Path) -> None:
        other = settled(manifest.with_name("other.yaml"), "1")
        with recording(manifest, other) as recorder:
            with other.open("w") as file:
                file.write("unfinished")
                file.flush()
                replace(manifest, NEW)
                recorder.wait_for_checks(6)
                assert recorder.seen == []
                file.truncate(0)
                file.seek(0)
                file.write("2")
            recorder.wait_for_count(1)
            recorder.wait_for_checks(6)
            assert recorder.seen == [f"{NEW}|2"]

    def test_that_appear_or_vanish_give_a_tick(self, manifest: Path) -> None:
        other = settled(manifest.with_name("other.yaml"), "1")
        with recording(manifest) as recorder:
            recorder.paths = [manifest, other]
            assert recorder.wait_for_count(1) == [f"{OLD}|1"]
            replace(other, "2")
            recorder.wait_for(lambda seen: seen[-1] == f"{OLD}|2")
            recorder.paths = [manifest]
            recorder.wait_for(lambda seen: seen[-1] == OLD)


class TestListings:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        directory = tmp_path / "registry.d"
        directory.mkdir()
        return directory

    @contextmanager
    def listing(self, manifest: Path, directory: Path) -> Iterator[Recorder]:
        """Whoever watches what matches `*.yaml`, with a check an hour."""
        recorder = Recorder(manifest)
        recorder.watch = Watch(
            lambda: [manifest, *sorted(directory.glob("*.yaml"))],
            recorder.on_tick,
            listings=lambda: {directory: {"*.yaml"}},
            poll_interval_seconds=3600.0,
        )
        recorder.watch.start()
        try:
            recorder.settle_down()
            yield recorder
        finally:
            assert recorder.watch.stop(PATIENCE_SECONDS)

    @linux_only
    def test_a_new_file_is_found_by_its_events(self, manifest: Path, directory: Path) -> None:
        with self.listing(manifest, directory) as recorder:
            replace(directory / "new.yaml", "1")
            recorder.wait_for_count(1)
            recorder.wait_until(lambda status: str(directory / "new.yaml") in status.paths)
            (directory / "other.yaml").write_text("2")
            recorder.wait_until(lambda status: str(directory / "other.yaml") in status.paths)
            recorder.wait_for_count(2)
            (directory / "new.yaml").unlink()
            recorder.wait_until(lambda status: str(directory / "new.yaml") not in status.paths)
            recorder.wait_for_count(3)

    @linux_only
    def test_what_does_not_match_is_nothing(self, manifest: Path, directory: Path) -> None:
        with self.listing(manifest, directory) as recorder:
            (directory / "new.txt").write_text("1")
            replace(manifest, NEW)
            recorder.wait_for_count(1)
            events = recorder.watch.status().events
            (directory / "newer.txt").write_text("1")
            replace(manifest, OLD)
            recorder.wait_for_count(2)
            assert recorder.watch.status().events <= 2 * events

    @linux_only
    def test_a_directory_may_come_late(self, manifest: Path, directory: Path) -> None:
        directory.rmdir()
        with self.listing(manifest, directory) as recorder:
            directory.mkdir()
            recorder.wait_until(lambda status: str(directory.resolve()) in status.directories)
            replace(directory / "new.yaml", "1")
            recorder.wait_for_count(1)


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege on Windows")
class TestTheWay:
    def test_goes_up_from_where_a_link_leads(self, tmp_path: Path) -> None:
        (tmp_path / "releases" / "1").mkdir(parents=True)
        (tmp_path / "current").symlink_to("releases/1")
        settled(tmp_path / "releases" / "shared.yaml", OLD)
        path = tmp_path / "current" / ".." / "shared.yaml"
        with recording(path) as recorder:
            replace(tmp_path / "releases" / "shared.yaml", NEW)
            assert recorder.wait_for_count(1) == [NEW]


# --------------------------------------------------------------------------- modes


class TestModes:
    def test_can_be_changed_while_it_runs(self, manifest: Path) -> None:
        with recording(manifest, mode="poll", poll_seconds=3600.0) as recorder:
            assert recorder.watch.status().mode == "poll"
            recorder.watch.configure(mode="auto", poll_interval_seconds=0.05)
            recorder.wait_until(lambda status: status.mode == "events")
            replace(manifest, NEW)
            recorder.wait_for_count(1)
            recorder.watch.configure(mode="poll", poll_interval_seconds=0.05)
            recorder.wait_until(lambda status: status.mode == "poll")
            assert recorder.watch.status().directories == ()
            replace(manifest, OLD)
            assert recorder.wait_for_count(2) == [NEW, OLD]

    @linux_only
    def test_auto_does_not_believe_a_file_system_of_a_network(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervise, "filesystem_of", lambda _: "nfs4")
        with recording(manifest, mode="auto") as recorder:
            status = recorder.watch.status()
            assert (status.mode, status.directories, status.degraded) == ("poll", (), None)
            assert (
                f"{manifest.parent.resolve()}: nfs4 does not tell what other machines do" in status.unobserved
            )
            replace(manifest, NEW)
            assert recorder.wait_for_count(1) == [NEW]
            assert recorder.watch.status().rescues == 0

    @linux_only
    def test_events_takes_what_there_is(self, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervise, "filesystem_of", lambda _: "nfs4")
        with recording(manifest, mode="events") as recorder:
            assert recorder.watch.status().mode == "events"

    @linux_only
    def test_a_file_beside_a_network_is_told_of(
        self, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "far").mkdir()
        other = settled(tmp_path / "far" / "secret", "1")
        monkeypatch.setattr(
            supervise, "filesystem_of", lambda path: "cifs" if path.endswith("far") else "ext4"
        )
        with recording(manifest, other) as recorder:
            assert recorder.watch.status().mode == "events"
            replace(other, "2")
            recorder.wait_for(lambda seen: seen[-1:] == [f"{OLD}|2"])
            assert recorder.watch.status().rescues == 0


# --------------------------------------------------------------------------- supervision


class TestSupervision:
    def test_survives_what_it_calls(self, manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
        def fail() -> None:
            recorder.during_tick = lambda: None
            sys.exit("meant for the main thread")

        with recording(manifest) as recorder:
            recorder.during_tick = fail
            replace(manifest, NEW)
            recorder.wait_until(lambda status: status.degraded is not None)
            assert recorder.watch.status().degraded == "the last reaction to a change failed (SystemExit)"
            replace(manifest, OLD)
            assert recorder.wait_for_count(1) == [OLD]
            recorder.wait_until(lambda status: status.degraded is None)
        assert "what the watch called on a change failed" in caplog.text

    def test_goes_on_with_the_files_it_knows(self, manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
        with recording(manifest) as recorder:
            recorder.paths = None  # type: ignore[assignment]
            recorder.wait_until(lambda status: status.degraded is not None)
            assert "TypeError" in str(recorder.watch.status().degraded)
            recorder.paths = [manifest]
            recorder.wait_until(lambda status: status.degraded is None)
            replace(manifest, NEW)
            assert recorder.wait_for_count(1) == [NEW]
        assert caplog.text.count("cannot ask which files to watch") == 1

    def test_survives_its_own_faults(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(watching, "_REST_AFTER_FAULT_SECONDS", 0.01)
        with recording(manifest) as recorder:
            with monkeypatch.context() as patch:
                patch.setattr(watching, "look", None)
                replace(manifest, NEW)
                recorder.wait_until(lambda status: status.degraded is not None)
            recorder.wait_for(lambda seen: seen == [NEW])
            recorder.wait_until(lambda status: status.degraded is None)
        assert "the watch failed and goes on" in caplog.text

    def test_polls_while_the_system_has_no_events_to_give(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(_: object) -> None:
            raise OSError(errno.ENOSPC, "inotify watch limit reached")

        monkeypatch.setattr(supervise, "_RETRY_SECONDS", 0.01)
        with monkeypatch.context() as patch:
            patch.setattr(hints, "Hints", refuse)
            recorder = Recorder(manifest)
            recorder.watch.start()
            recorder.wait_for_count(1)
            status = recorder.watch.status()
            assert (status.mode, status.directories) == ("poll", ())
            assert "inotify watch limit reached" in str(status.degraded)
            replace(manifest, NEW)
            assert recorder.wait_for_count(2) == [OLD, NEW]
        status = recorder.wait_until(lambda status: status.mode == "events")
        assert status.degraded is None
        assert recorder.watch.stop(PATIENCE_SECONDS)
        assert caplog.text.count("no file events") == 1

    @linux_only
    def test_replaces_a_dead_observer(self, manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
        with recording(manifest) as recorder:
            loop = recorder.watch._loop
            assert loop is not None
            assert loop.source._hints is not None
            for emitter in loop.source._hints._observer.emitters.copy():
                emitter.stop()
            recorder.wait_until(lambda status: status.rearms == 1)
            recorder.wait_for_checks(2)
            replace(manifest, NEW)
            recorder.wait_for_count(1)
            assert recorder.watch.status().rescues == 0
        assert "the observer of file events died" in caplog.text

    @linux_only
    def test_replaces_a_deaf_observer(self, manifest: Path) -> None:
        with recording(manifest) as recorder:
            loop = recorder.watch._loop
            assert loop is not None
            assert loop.source._hints is not None
            loop.source._hints._handler.dispatch = lambda _: None  # type: ignore
            replace(manifest, NEW)
            recorder.wait_for_count(1)
            status = recorder.wait_until(lambda status: status.rescues == 1)
            assert status.events == 0
            replace(manifest, OLD)
            recorder.wait_for_count(2)
            status = recorder.watch.status()
            assert status.events > 0
            assert status.rescues == 1

    @linux_only
    def test_lost_events_bring_the_next_look_forward(self, manifest: Path) -> None:
        with recording(manifest, poll_seconds=3600.0) as recorder:
            loop = recorder.watch._loop
            assert loop is not None
            with manifest.open("w") as file:
                file.write(NEW)
                file.flush()
                recorder.wait_until(lambda status: status.events > 0)
                loop.source._hints._handler.dispatch = lambda _: None  # type: ignore
            loop.inbox.put((hints.OVERFLOW, ""))  # the end of the writer was among them
            assert recorder.wait_for_count(1) == [NEW]
            assert recorder.watch.status().overflows == 1

    @linux_only
    @pytest.mark.long
    def test_a_queue_that_runs_over_is_told(self, manifest: Path) -> None:
        with recording(manifest, poll_seconds=3600.0) as recorder:
            for number in range(40_000):
                other = manifest.with_name(f"noise-{number}")
                other.touch()
                other.unlink()
            replace(manifest, NEW)
            assert recorder.wait_for_count(1) == [NEW]

    @linux_only
    def test_a_directory_that_may_not_be_read_is_polled_until_it_may(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forbidden, access = str(manifest.parent.resolve()), os.access

        def ask(path: str, mode: int) -> bool:
            return path != forbidden and access(path, mode)

        with monkeypatch.context() as patch:
            patch.setattr(os, "access", ask)
            with recording(manifest) as recorder:
                status = recorder.watch.status()
                assert f"{forbidden}: no permission to read it" in status.unobserved
                assert forbidden not in status.directories
                replace(manifest, NEW)
                recorder.wait_for_count(1)
                patch.undo()
                status = recorder.wait_until(lambda status: forbidden in status.directories)
                assert status.unobserved == ()

    def test_time_in_which_the_process_stood_still_does_not_count(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rested: list[float] = []
        monkeypatch.setattr(Settling, "rest", lambda _, seconds: rested.append(seconds))
        now = [0.0]
        loop = watching.Loop(
            lambda: [manifest], lambda: None, dict, watching.Settings("poll", 1.0), lambda: now[0]
        )
        loop.step([])

        class Stopped:
            """A queue in which the time stands still for others."""

            def get(self, timeout: float) -> None:
                now[0] += timeout + 60.0

            def get_nowait(self) -> None:
                raise Empty

        loop.inbox = Stopped()  # type: ignore[assignment]
        loop._receive()
        assert rested == [pytest.approx(60.0)]

    def test_quiet_begins_where_a_look_that_took_long_ends(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Held up between the two, it had seen nothing of what happened in between.
        now = [0.0]

        def slow(path: str) -> Signature:
            now[0] += 0.4
            return probe(path)

        monkeypatch.setattr(watching, "probe", slow)
        manifest.touch()
        loop = watching.Loop(
            lambda: [manifest], lambda: None, dict, watching.Settings("poll", 1.0), lambda: now[0]
        )
        loop.step([])
        assert loop._watched[str(manifest)].settling.due == pytest.approx(0.4 + STIRRED_QUIET_SECONDS)

    def test_status_is_json(self, manifest: Path) -> None:
        with recording(manifest) as recorder:
            status = recorder.watch.status().as_json()
            assert status["is_running"]
            assert status["paths"] == [str(manifest)]
            assert str(manifest.parent.resolve()) in status["directories"]
            assert status["ticks"] == 1
            assert status["last_check_at"].endswith("Z")
        assert recorder.watch.status().is_running is False
        assert Watch(list, lambda: None).status().as_json()["last_tick_at"] is None


# --------------------------------------------------------------------------- the end


class TestStopping:
    @pytest.mark.parametrize("mode", ["auto", "poll"])
    def test_leaves_no_thread_and_no_descriptor(self, manifest: Path, mode: WatchMode) -> None:
        with recording(manifest, mode=mode):
            pass  # what is opened once and for all is open now
        threads, files = set(threading.enumerate()), descriptors()
        for _ in range(3):
            with recording(manifest, mode=mode) as recorder:
                replace(manifest, NEW if manifest.read_text() == OLD else OLD)
                recorder.wait_for_count(1)
        assert set(threading.enumerate()) == threads
        assert descriptors() == files

    def test_works_from_inside_a_tick(self, manifest: Path) -> None:
        answers = []

        with recording(manifest) as recorder:
            loop = recorder.watch._loop
            assert loop is not None
            recorder.during_tick = lambda: answers.append(recorder.watch.stop())
            replace(manifest, NEW)
            recorder.wait_for_count(1)
            loop.thread.join(PATIENCE_SECONDS)
            assert not loop.thread.is_alive()
            assert answers == [False]
            assert recorder.watch.stop()

    def test_says_so_when_a_tick_holds_it_up(self, manifest: Path) -> None:
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            leave.wait(PATIENCE_SECONDS)

        with recording(manifest) as recorder:
            recorder.during_tick = hold
            replace(manifest, NEW)
            assert entered.wait(PATIENCE_SECONDS)
            assert not recorder.watch.stop(timeout_seconds=0.01)
            recorder.watch.poke()
            leave.set()
            assert recorder.watch.stop(PATIENCE_SECONDS)
            assert recorder.seen == [NEW]  # the poke came to nothing

    def test_between_the_look_and_the_tick_lets_no_tick_begin(self, manifest: Path) -> None:
        ticks: list[None] = []
        loop = watching.Loop(
            lambda: [manifest],
            lambda: ticks.append(None),
            dict,
            watching.Settings("poll", 1.0),
            iter(range(99)).__next__,
        )
        loop.stopping.set()
        for _ in range(5):
            loop.step([])
        assert ticks == []
        loop.stopping.clear()
        loop.step([])
        assert ticks == [None]

    def test_then_starting_again_works(self, manifest: Path) -> None:
        with recording(manifest) as recorder:
            with pytest.raises(RuntimeError, match="runs already"):
                recorder.watch.start()
            assert recorder.watch.stop(PATIENCE_SECONDS)
            replace(manifest, NEW)
            recorder.watch.start()
            assert recorder.wait_for_count(1) == [NEW]

    def test_before_starting_is_nothing(self) -> None:
        unused = Watch(list, lambda: None)
        unused.poke()
        assert unused.stop()

    @linux_only
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_in_a_forked_child_leaves_the_parent_its_events(self, manifest: Path) -> None:
        with recording(manifest) as recorder:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    was_idle = not recorder.watch.status().is_running and recorder.watch.stop()
                    recorder.changed = threading.Condition()
                    recorder.seen = []
                    recorder.watch.start()
                    own_works = recorder.wait_for_count(1) == [OLD]
                    status = 0 if was_idle and own_works and recorder.watch.stop(PATIENCE_SECONDS) else 2
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            replace(manifest, NEW)
            assert recorder.wait_for_count(1) == [NEW]
            assert recorder.watch.status().rescues == 0
            assert recorder.watch.status().events > 0


class TestImport:
    def test_loads_watchdog_only_to_observe(self) -> None:
        code = "import sys, shadowcat_registry.watch; sys.exit('watchdog' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)
