"""Directories that plugins are put into, and what an attacker puts there instead."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shadowcat_registry.errors import PluginError
from shadowcat_registry.plugins.records import SourceDeclaration, Verification
from shadowcat_registry.plugins.sources import verify

GOOD = b"PROVIDERS = ('good',)\n"
EVIL = b"PROVIDERS = ('evil',)\n"
STRANGER = 12_345
"""The uid of somebody else."""

needs_posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root gives files to others, or makes devices",
)


def _can_mount() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None and subprocess.run([unshare, "-m", "true"], capture_output=True).returncode == 0
    )


CAN_MOUNT = _can_mount()


def declared(directory: Path, **more: object) -> SourceDeclaration:
    return SourceDeclaration(directory, is_directory=True, **more)  # type: ignore[arg-type]  # the test's own


def look(path: Path) -> Verification:
    """At a directory of plugins, by ownership."""
    return verify(declared(path))


def only_refusal(verification: Verification) -> PluginError:
    assert verification.sources == ()
    (error,) = verification.refusals
    return error


def carry_out(remedy: str | None) -> None:
    """As an operator who pastes it."""
    assert remedy is not None
    subprocess.run(["bash", "-euc", remedy], check=True, capture_output=True)


def mend(path: Path, *, most: int = 4) -> Verification:
    """Paste remedies for as long as there is one to paste; what came of it."""
    for _ in range(most):
        verification = look(path)
        if not verification.refusals:
            return verification
        carry_out(verification.refusals[0].remedy)
    return look(path)


@contextmanager
def public_directory() -> Iterator[Path]:
    """Beneath a sticky `/tmp`, for everybody to look into: `tmp_path` lies in one that is root's alone."""
    directory = Path(tempfile.mkdtemp(prefix="sc-plugins-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    own = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)


Arrange = Callable[[Path, Path], object]
"""Makes something of a sound plugin file and the directory that it is in."""


def _make_link(file: Path, directory: Path) -> None:
    file.rename(directory.parent / "elsewhere.py")
    file.symlink_to(directory.parent / "elsewhere.py")


def _make_dangling_link(file: Path, _: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def _make_socket(file: Path, _: Path) -> None:
    file.unlink()
    here = Path.cwd()
    os.chdir(file.parent)  # the name of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(file.name)
    finally:
        os.chdir(here)


def _make_device(file: Path, _: Path) -> None:
    file.unlink()
    os.mknod(file, 0o20644, os.makedev(1, 5))  # /dev/zero


def _make_fifo(file: Path, _: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o644)


def _make_directory(file: Path, _: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "__init__.py").write_bytes(GOOD)


# What it is, by which rule it is refused, how it is made, and whether the remedy leaves a plugin.
ATTACKS: list[tuple[str, str, Arrange, bool]] = [
    ("a file that is a link", "symlink", _make_link, True),
    ("a link that leads nowhere", "symlink", _make_dangling_link, False),
    ("a group-writable directory", "writable", lambda _, d: d.chmod(0o775), True),
    ("a world-writable directory", "writable", lambda _, d: d.chmod(0o757), True),
    ("a sticky world-writable directory", "writable", lambda _, d: d.chmod(0o1777), True),
    ("a group-writable parent", "writable", lambda _, d: d.parent.chmod(0o775), True),
    ("a world-writable file", "writable", lambda f, _: f.chmod(0o646), True),
    ("a group-writable file", "writable", lambda f, _: f.chmod(0o664), True),
    ("a hard link", "hard-link", lambda f, d: (d.parent / "other").hardlink_to(f), True),
    ("a FIFO", "not-a-file", _make_fifo, False),
    ("a socket", "not-a-file", _make_socket, False),
    ("a directory with the name of a file", "not-a-file", _make_directory, True),
    ("a set-user-ID file", "setuid", lambda f, _: f.chmod(0o4755), True),
    ("a set-group-ID file", "setuid", lambda f, _: f.chmod(0o2755), True),
]
ROOT_ATTACKS: list[tuple[str, str, Arrange, bool]] = [
    ("a stranger's file", "owner", lambda f, _: os.chown(f, STRANGER, -1), True),
    ("a stranger's directory", "owner", lambda _, d: os.chown(d, STRANGER, -1), True),
    ("a stranger's parent", "owner", lambda _, d: os.chown(d.parent, STRANGER, -1), True),
    ("a device", "not-a-file", _make_device, False),
]
