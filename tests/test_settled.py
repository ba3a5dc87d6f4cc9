from __future__ import annotations

import os
from pathlib import Path

import pytest

from shadowcat_registry.settled import Settled
from shadowcat_registry.sight import look


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text("old")
    os.utime(path, (1, 1))
    return path


def settled(path: Path) -> Settled:
    return Settled({str(path): look(str(path))})


class TestAFileThatHadSettled:
    def test_has_not_moved_as_long_as_it_is_the_same(self, path: Path) -> None:
        assert not settled(path).has_moved([path])

    def test_has_moved_when_somebody_writes_it(self, path: Path) -> None:
        before = settled(path)
        path.write_text("new")
        assert before.has_moved([path])

    def test_has_moved_when_it_is_gone(self, path: Path) -> None:
        before = settled(path)
        path.unlink()
        assert before.has_moved([path])

    def test_that_was_young_is_looked_into_when_its_stamps_are_the_same(self, path: Path) -> None:
        # Two writes in one tick of the kernel's clock: the size and all stamps are the same.
        path.write_text("new")
        young = look(str(path))
        assert young.is_young
        path.write_text("odd")
        before = Settled({str(path): look(str(path))})
        sight = before.sights[str(path)]
        assert sight is not None
        mixed = Settled({str(path): type(sight)(sight.signature, young.content, is_young=True)})
        assert mixed.has_moved([path])
        assert not before.has_moved([path])

    def test_of_which_nothing_was_there_has_moved_when_it_comes(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing.yaml"
        before = settled(missing)
        assert not before.has_moved([missing])
        missing.write_text("new")
        assert before.has_moved([missing])


class TestAFileThatNobodyWaitsForAnyMore:
    def test_may_be_anything(self, path: Path) -> None:
        before = Settled({str(path): None})
        path.write_text("new")
        assert not before.has_moved([path])


class TestAFileThatWasNotWatched:
    def test_may_be_half_written_if_it_is_fresh(self, path: Path) -> None:
        assert not Settled().has_moved([path])
        path.write_text("new")
        assert Settled().has_moved([path])

    def test_and_is_not_there_is_no_matter(self, tmp_path: Path) -> None:
        assert not Settled().has_moved([tmp_path / "missing.yaml"])
