"""Why a plugin is refused, and what exactly mends it: the texts of every rule about files, in one place.

A remedy is a shell command where one is enough, and can be pasted: whatever is in a path is quoted. Else it
is a sentence. Nothing here looks at a file, but for where a link leads to.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Final

from ..errors import PluginError, PluginRule
from . import names

PIN_COMMAND: Final = "shadowcat-registry plugins pin"
_SHARED: Final = frozenset(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/private/tmp")))  # noqa: S108 - named, not used
_HOMES: Final = frozenset(map(Path, ("/home", "/Users")))
_SYSTEM: Final = frozenset(("/", name) for name in ("dev", "proc", "sys"))
_hex: Final = re.compile(r"[0-9a-f]{64}")


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as one word of a POSIX shell, printable whatever it holds."""
    text = os.fspath(path)
    if text.isprintable():
        return shlex.quote(text)
    data = os.fsencode(text)
    escaped = (chr(it) if 32 <= it < 127 and it not in b"'\\" else f"\\{it:03o}" for it in data)
    return "$'" + "".join(escaped) + "'"


def about(error: PluginError, plugin: str) -> PluginError:
    """The same refusal, of the plugin of this name: what looks at files knows only paths."""
    return PluginError(plugin, error.rule, error.reason, error.remedy, error.path)


def _refusal(path: Path, rule: PluginRule, reason: str, remedy: str | None) -> PluginError:
    return PluginError(str(path), rule, reason, remedy, str(path))


def owner(path: Path, uid: int, own_uid: int) -> PluginError:
    allowed = "root" if own_uid == 0 else f"root or to uid {own_uid}, who runs this"
    reason = f"{path} belongs to uid {uid}, not to {allowed}"
    if path.parent in _HOMES:
        remedy = f"move the plugin to where only root writes, or pin it: {PIN_COMMAND}"
        return _refusal(path, "owner", reason, remedy)
    return _refusal(path, "owner", reason, f"chown root: {quoted(path)}")


def mounted(path: Path) -> PluginError:
    """Who mounts a file system may say of its files that they are root's."""
    reason = f"{path} is a mount in a directory where everybody may make one"
    return _refusal(path, "owner", reason, f"mount it elsewhere, or pin it: {PIN_COMMAND}")


def owner_unknown(path: Path) -> PluginError:
    remedy = f"pin it: {PIN_COMMAND}"
    return _refusal(path, "owner", f"whose {path} is cannot be told on this system", remedy)


def writable(path: Path, mode: int) -> PluginError:
    who = {0o020: "its group", 0o002: "everybody"}.get(mode & 0o022, "its group and everybody")
    reason = f"{who} may write {path} (mode {mode & 0o7777:04o})"
    if path in _SHARED:
        remedy = "move the plugin into a directory of its own, made with: mkdir -m 0755 DIRECTORY"
        return _refusal(path, "writable", reason, remedy)
    return _refusal(path, "writable", reason, f"chmod go-w {quoted(path)}")


def symlink(path: Path, *, leads_to_directory: bool) -> PluginError:
    """A link that is what was to be read."""
    real = os.path.realpath(path)
    if not os.path.exists(path):  # noqa: PTH110 - that of `Path` may raise
        reason = f"{path} is a symbolic link that leads to nothing"
        return _refusal(path, "symlink", reason, f"rm -- {quoted(path)}")
    reason = f"{path} is a symbolic link to {real}"
    if leads_to_directory:
        remedy = f"rm -- {quoted(path)} && cp -R -- {quoted(real)} {quoted(path)}"
        return _refusal(path, "symlink", reason, remedy)
    return _refusal(path, "symlink", reason, _copy_in_place(real, path))


def symlink_on_the_way(path: Path, whole: Path) -> PluginError:
    """A link on the way to `whole`."""
    real = os.path.realpath(whole)
    remedy = f"name it by its real path: {quoted(real)}"
    return _refusal(path, "symlink", f"{path}, on the way to {whole}, is a symbolic link", remedy)


def hard_link(path: Path, count: int) -> PluginError:
    reason = f"{path} has {count} names (hard links), and who may write one of the others writes this plugin"
    return _refusal(path, "hard-link", reason, _copy_in_place(path, path))


def not_a_file(path: Path, kind: str) -> PluginError:
    remedy = f"rm -- {quoted(path)}"
    if kind == "a directory" and path.suffix == ".py":
        remedy = (
            f"mv -n -- {quoted(path)} {quoted(path.with_suffix(''))}"  # a package has a name without `.py`
        )
    elif kind == "a directory" or path.parts[:2] in _SYSTEM:
        remedy = "name a regular file"
    return _refusal(path, "not-a-file", f"{path} is {kind}, not a regular file", remedy)


def not_a_directory(path: Path) -> PluginError:
    remedy = "name a file NAME.py, or the directory of a package, that is there"
    return _refusal(path, "not-a-file", f"{path} is not a directory", remedy)


def no_package(path: Path) -> PluginError:
    reason = f"{path} is no package: there is no __init__.py in it"
    return _refusal(
        path,
        "missing",
        reason,
        "name a file NAME.py, a package with an __init__.py, or with `directory` a directory of such",
    )


def setuid(path: Path, mode: int) -> PluginError:
    reason = f"{path} is set-user-ID or set-group-ID (mode {mode & 0o7777:04o})"
    return _refusal(path, "setuid", reason, f"chmod u-s,g-s {quoted(path)}")


def too_large(path: Path, what: str) -> PluginError:
    return _refusal(
        path,
        "size",
        f"{path} has {what}",
        "ship it as a distribution and name that in `plugins.entry_points`",
    )


def changed(path: Path) -> PluginError:
    return _refusal(
        path, "changed", f"{path} changed while it was read", "wait until it is written, then try again"
    )


def missing(path: Path) -> PluginError:
    return _refusal(path, "missing", f"{path} does not exist", "put it there, or declare it no longer")


def missing_directory(path: Path) -> PluginError:
    reason = f"{path} does not exist"
    return _refusal(path, "missing", reason, f"(umask 022; mkdir -p -- {quoted(path)})")


def unreadable(path: Path, error: OSError | ValueError) -> PluginError:
    text = error.strerror if isinstance(error, OSError) else None
    remedy = None
    if isinstance(error, PermissionError):
        remedy = f"chmod a+rX {quoted(path)}"
    return _refusal(path, "unreadable", f"{path} cannot be read: {text or error}", remedy)


def wrong_digest(path: Path, found: str, pinned: str) -> PluginError:
    reason = f"the SHA-256 of {path} is {found}, not {pinned}, which is pinned"
    return _refusal(path, "sha256", reason, f"if this is the plugin that you mean: {PIN_COMMAND}")


def no_digest(path: Path, pinned: str) -> PluginError | None:
    """For a pin that cannot be one; None where it can."""
    if _hex.fullmatch(pinned):
        return None
    if _hex.fullmatch(pinned.lower()):
        return _refusal(path, "sha256", f"the pin of {path} is not in lower case", f"write {pinned.lower()}")
    return _refusal(path, "sha256", f"the pin of {path} is not 64 hexadecimal digits", PIN_COMMAND)


def unpinned(path: Path) -> PluginError:
    reason = f"{path} has no pin, and this source is trusted by its pins"
    remedy = f"if this is a plugin that you mean: {PIN_COMMAND}; if not: rm -r -- {quoted(path)}"
    return _refusal(path, "unpinned", reason, remedy)


def bad_name(path: Path, name: str, fault: str, *, is_entry: bool) -> PluginError:
    if name == "__init__":
        reason = f"{path.parent} is itself a package"
        return _refusal(path, "name", reason, f"name it with `path`, not with `directory`: {path.parent}")
    if path.name in ("", "..") or path.name.removesuffix(".py") != name:
        return _refusal(path, "name", fault, "name an entry of the directory")
    better = path.with_name(names.suggestion(name) + (".py" if path.suffix == ".py" else ""))
    remedy = f"mv -n -- {quoted(path)} {quoted(better)}"
    return _refusal(path, "name", fault, remedy if is_entry else f"{remedy}, and name that")


def name_taken(path: Path, by: Path, name: str, *, is_entry: bool) -> PluginError:
    reason = f"{path} and {by} are both the plugin {name!r}"
    better = path.with_name(f"{name[:60]}_2{path.suffix}")
    remedy = f"mv -n -- {quoted(path)} {quoted(better)}"
    return _refusal(path, "name-taken", reason, remedy if is_entry else f"{remedy}, and name that")


def _copy_in_place(source: str | Path, path: Path) -> str:
    draft = path.with_name(path.name + ".new")
    return f"cp -- {quoted(source)} {quoted(draft)} && mv -f -- {quoted(draft)} {quoted(path)}"
