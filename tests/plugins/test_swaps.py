"""A swap between the check and the use never wins: by schedule, at each system call, and by another process
that does nothing else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shadowcat_registry.errors import PluginError
from shadowcat_registry.plugins import held, owned
from shadowcat_registry.plugins.records import SourceDeclaration
from shadowcat_registry.plugins.sources import verify
from shadowcat_registry.plugins.trust import read_owned, read_pinned

from .places import EVIL, GOOD, STRANGER, needs_posix, needs_root

pytestmark = needs_posix

LOADS = 3_000
PIN = sha256(GOOD).hexdigest()


class Place:
    """`opt/plugins/glacier.py` and a package beside it, all ours, and what an attacker has prepared."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.parent = base / "opt"
        self.directory = self._tree(self.parent, GOOD)
        self.file = self.directory / "glacier.py"
        self.module = self.directory / "arctic" / "cold" / "store.py"

    def _tree(self, parent: Path, content: bytes) -> Path:
        directory = parent / "plugins"
        (directory / "arctic" / "cold").mkdir(parents=True)
        for name in ("glacier.py", "arctic/__init__.py", "arctic/cold/store.py"):
            (directory / name).write_bytes(content)
        for path in (parent, *parent.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return directory

    def evil_file(self, name: str = "evil.py", mode: int = 0o644) -> Path:
        path = self.base / name
        path.write_bytes(EVIL)
        path.chmod(mode)
        return path

    def evil_tree(self, mode: int = 0o755) -> Path:
        """A parent of plugins: ours but for its mode, which lets others put there what they like."""
        parent = self.base / "evil"
        self._tree(parent, EVIL)
        parent.chmod(mode)
        return parent

    def link_to(self, path: Path) -> Path:
        link = self.base / f"link-{path.name}"
        link.symlink_to(path)
        return link


Swap = tuple[Path, Path]
"""What is at the first path, and what the attacker has at the second, change places."""

SWAPS: dict[str, Callable[[Place], Swap]] = {
    "a file that everybody may write": lambda it: (it.file, it.evil_file(mode=0o666)),
    "a link to a file": lambda it: (it.file, it.link_to(it.evil_file())),
    "a file with another name": lambda it: (it.file, _hard_linked(it.evil_file())),
    "a module that everybody may write": lambda it: (it.module, it.evil_file(mode=0o666)),
    "a link for a module": lambda it: (it.module, it.link_to(it.evil_file())),
    "a link for a directory of a package": lambda it: (
        it.module.parent,
        it.link_to(it.evil_tree() / "plugins/arctic/cold"),
    ),
    "a link for a package": lambda it: (
        it.directory / "arctic",
        it.link_to(it.evil_tree() / "plugins/arctic"),
    ),
    "a link for the directory": lambda it: (it.directory, it.link_to(it.evil_tree() / "plugins")),
    "a link for its parent": lambda it: (it.parent, it.link_to(it.evil_tree())),
    "a parent that everybody may write": lambda it: (it.parent, it.evil_tree(0o777)),
    "a FIFO": lambda it: (it.file, _fifo(it.base / "fifo")),
}
FILE_SWAPS = ("a file that everybody may write", "a link to a file", "a link for its parent", "a FIFO")
ROOT_SWAPS: dict[str, Callable[[Place], Swap]] = {
    "a stranger's file": lambda it: (it.file, _given_away(it.evil_file())),
    "a stranger's parent": lambda it: (it.parent, _given_away(it.evil_tree())),
    "a device": lambda it: (it.file, _device(it.base / "device")),
}
PIN_SWAPS: dict[str, Callable[[Place], Swap]] = {
    "another file": lambda it: (it.file, it.evil_file()),
    "a link": lambda it: (it.file, it.link_to(it.evil_file())),
    "a link to a device": lambda it: (it.file, it.link_to(Path("/dev/zero"))),
    "another directory": lambda it: (it.parent, it.evil_tree()),
    "a FIFO": lambda it: (it.file, _fifo(it.base / "fifo")),
}


def _hard_linked(path: Path) -> Path:
    path.with_name("other").hardlink_to(path)
    return path


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _device(path: Path) -> Path:
    os.mknod(path, 0o20644, os.makedev(1, 5))
    return path


def _given_away(path: Path) -> Path:
    os.chown(path, STRANGER, -1)
    return path


class Schedule:
    """Changes two paths before the `first`-th system call of a load, and back before the `last`-th."""

    def __init__(self, swap: Swap, first: int, last: int) -> None:
        self.swap, self.first, self.last = swap, first, last
        self.calls = 0
        self.is_swapped = False
        self.opened: set[str] = set()
        """Kinds of what was opened, and not only held."""
        self.os: Any = SimpleNamespace(**vars(os))
        for name in ("open", "fstat", "stat", "lstat", "scandir", "lseek", "close"):
            setattr(self.os, name, self._watched(getattr(os, name)))
        self.read = self._watched(os.read)

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if self.calls in (self.first, self.last):
                self._change()
            self.calls += 1
            given = call(*arguments, **options)
            if call is os.open and not arguments[1] & (os.O_DIRECTORY | getattr(os, "O_PATH", 0)):
                self.opened.add("file" if stat.S_ISREG(os.fstat(given).st_mode) else "not a file")
            return given

        return watched

    def _change(self) -> None:
        one, other = self.swap
        aside = other.with_name("aside")
        one.rename(aside)
        other.rename(one)
        aside.rename(other)
        self.is_swapped = not self.is_swapped

    def restore(self) -> None:
        if self.is_swapped:
            self._change()


Load = Callable[[Place], list[bytes]]


def owned_file(place: Place) -> list[bytes]:
    return [read_owned(place.file)]


def owned_directory(place: Place) -> list[bytes]:
    declaration = SourceDeclaration(place.directory, is_directory=True)
    return [content for source in verify(declaration).sources for content in source.files.values()]


def pinned_file(place: Place) -> list[bytes]:
    return [read_pinned(place.file, PIN)]


def careless_file(place: Place) -> list[bytes]:
    """As one does it who looks first, and then opens: by the `os` of the module under test."""
    here, watched = place.file, vars(held)["os"]
    while here != here.parent:
        status = watched.stat(here, follow_symlinks=False)
        if (status.st_mode & 0o022 and not status.st_mode & 0o1000) or here.is_symlink():
            raise PluginError(str(here), "writable", "")
        here = here.parent
    descriptor = watched.open(place.file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return [held._read(descriptor, 1_000)]
    finally:
        os.close(descriptor)


def by_every_schedule(
    place: Place, swap: Swap, load: Load, patch: pytest.MonkeyPatch
) -> tuple[int, list[bytes], set[str]]:
    """How many loads there were, all that they gave, and the kinds of what was opened."""
    loads = 0
    opened: set[str] = set()
    given: list[bytes] = []
    for stays in (1, 2, 1_000_000):  # that many system calls long it is the attacker's
        for first in count():
            schedule = Schedule(swap, first, first + stays)
            with patch.context() as during:
                during.setattr(held, "os", schedule.os)
                during.setattr(owned, "os", schedule.os)
                during.setattr(held, "_read", schedule.read)
                with suppress(PluginError):
                    given += load(place)
            schedule.restore()
            opened |= schedule.opened
            loads += 1
            if schedule.calls <= first:
                break
    return loads, given, opened


def cases(swaps: dict[str, Callable[[Place], Swap]]) -> pytest.MarkDecorator:
    """Each swap with what reads there; a whole directory takes longer, for each of its system calls."""
    found = []
    for name, make in swaps.items():
        is_in_package = "module" in name or "package" in name
        if not is_in_package:
            found.append(pytest.param(make, owned_file, id=name))
        marks = () if is_in_package else (pytest.mark.ci,)
        found.append(pytest.param(make, owned_directory, id=f"{name}, in a directory", marks=marks))
    return pytest.mark.parametrize(("make", "load"), found)


class TestASwapAtAnySystemCall:
    def check(self, base: Path, make: Callable[[Place], Swap], load: Load, patch: pytest.MonkeyPatch) -> None:
        place = Place(base)
        loads, given, opened = by_every_schedule(place, make(place), load, patch)
        assert loads > 3 * 8
        assert GOOD in given
        assert set(given) == {GOOD}
        if held._HELD:
            assert opened == {"file"}

    @cases(SWAPS)
    def test_for_what_is_not_owned_never_wins(
        self, tmp_path: Path, make: Callable[[Place], Swap], load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.check(tmp_path, make, load, monkeypatch)

    @needs_root
    @cases(ROOT_SWAPS)
    def test_for_what_is_a_strangers_never_wins(
        self, tmp_path: Path, make: Callable[[Place], Swap], load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.check(tmp_path, make, load, monkeypatch)

    @pytest.mark.parametrize("make", PIN_SWAPS.values(), ids=PIN_SWAPS)
    def test_for_other_bytes_than_the_pinned_never_wins(
        self, tmp_path: Path, make: Callable[[Place], Swap], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = Place(tmp_path)
        _, given, opened = by_every_schedule(place, make(place), pinned_file, monkeypatch)
        assert set(given) == {GOOD}
        if held._HELD:
            assert opened == {"file"}, "opening a device can do things"

    @pytest.mark.parametrize("make", [SWAPS[it] for it in FILE_SWAPS], ids=FILE_SWAPS)
    def test_never_wins_where_nothing_is_held_unopened(
        self, tmp_path: Path, make: Callable[[Place], Swap], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(held, "_HELD", 0)
        self.check(tmp_path, make, owned_file, monkeypatch)

    @pytest.mark.parametrize("name", ["a file that everybody may write", "a link for its parent"])
    def test_wins_against_who_looks_first_and_opens_then(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = Place(tmp_path)
        _, given, _ = by_every_schedule(place, SWAPS[name](place), careless_file, monkeypatch)
        assert EVIL in given, "this is what the schedules are there to find"


SWAPPER = """
import itertools, os, sys
print("swapping", flush=True)
pairs = [sys.argv[i : i + 2] for i in range(1, len(sys.argv), 2)]
for one, other in itertools.cycle(pairs):
    aside = other + ".aside"
    os.rename(one, aside); os.rename(other, one)
    os.rename(one, other); os.rename(aside, one)
"""


class TestASwappingProcess:
    """Loads until there were enough of them, with both outcomes among them."""

    def load(self, place: Place, swaps: list[Swap], load: Load) -> None:
        program = [sys.executable, "-c", SWAPPER, *(str(path) for swap in swaps for path in swap)]
        given: set[bytes] = set()
        refused: set[str] = set()
        with subprocess.Popen(program, stdout=subprocess.PIPE) as attacker:
            try:
                assert attacker.stdout is not None
                assert attacker.stdout.readline() == b"swapping\n"
                loads = 0
                while loads < LOADS or not (given and refused - {"missing"}):
                    loads += 1
                    assert loads < 100 * LOADS, (given, refused)
                    try:
                        given.update(load(place))
                    except PluginError as error:
                        refused.add(error.rule)
                assert attacker.poll() is None, "it went on all the time"
            finally:
                attacker.kill()
        assert given == {GOOD}

    @pytest.mark.ci
    def test_never_wins_against_ownership(self, tmp_path: Path) -> None:
        place = Place(tmp_path)
        swaps = [
            SWAPS[it](place) for it in ("a link to a file", "a parent that everybody may write", "a FIFO")
        ]
        self.load(place, swaps, owned_file)

    @pytest.mark.ci
    @needs_root
    def test_never_wins_against_ownership_with_files_of_its_own(self, tmp_path: Path) -> None:
        place = Place(tmp_path)
        self.load(place, [make(place) for make in ROOT_SWAPS.values()], owned_file)

    def test_never_wins_against_pins(self, tmp_path: Path) -> None:
        place = Place(tmp_path)
        names = ("a link", "another directory", "a FIFO")
        self.load(place, [PIN_SWAPS[it](place) for it in names], pinned_file)
