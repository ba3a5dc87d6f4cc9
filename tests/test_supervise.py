from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowcat_registry.supervise import EventSource, Message

from .fakes import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into the threads of inotify")


class World:
    def __init__(self, base: Path) -> None:
        self.told: list[Message] = []
        self.source = EventSource(self.told.append, "events", time.monotonic)
        self.kept, self.gone = str(base / "kept"), str(base / "gone")
        for directory in (self.kept, self.gone):
            Path(directory).mkdir()

    def arm(self, *directories: str) -> tuple[bool, bool]:
        return self.source.arm(directories, {f"{d}/file" for d in directories}, {})

    def emitter_count(self) -> int:
        hints = self.source._hints
        return 0 if hints is None else sum(e.is_alive() for e in hints._observer.emitters)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path.resolve())
    yield world
    world.source.close()


class TestArming:
    def test_tells_what_changed_and_whether_again(self, world: World) -> None:
        assert world.arm(world.kept) == (True, False)
        assert world.arm(world.kept) == (False, False)
        assert world.arm(world.kept, world.gone) == (True, True)
        assert world.source.directories == tuple(sorted((world.kept, world.gone)))
        assert world.arm(world.kept) == (True, True)

    def test_a_directory_that_goes_takes_its_observer_with_it_and_no_other(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        # As each update of a ConfigMap does to the directory of the one before.
        world.arm(world.kept, world.gone)
        before = world.source._hints
        Path(world.gone).rmdir()
        until(lambda: world.emitter_count() == 1)
        world.arm(world.kept, world.gone)
        assert world.source._hints is before
        assert world.source.directories == (world.kept,)
        assert caplog.text == ""
        Path(world.kept, "file").touch()
        until(lambda: any(path.endswith("file") for _, path in world.told))

    def test_an_event_under_way_when_a_directory_is_let_go_is_no_error(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.arm(world.kept)
        logger = logging.getLogger("watchdog.observers.inotify")
        logger.error("InotifyEmitter.queue_events() called when the thread is inactive")
        assert caplog.text == ""
        logger.error("something else")
        assert "something else" in caplog.text

    def test_one_that_dies_for_no_reason_is_replaced(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.arm(world.kept)
        before = world.source._hints
        assert before is not None
        for emitter in before._observer.emitters.copy():
            emitter.stop()
        until(lambda: world.emitter_count() == 0)
        assert world.arm(world.kept) == (True, True)
        assert world.source._hints is not before
        assert "the observer of file events died" in caplog.text
