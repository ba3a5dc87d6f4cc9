"""From a declaration to the bytes of its plugins: found, checked, read once.

What stands in a directory of plugins and is neither `NAME.py` nor a directory with an `__init__.py`, or is
hidden, is no plugin and nobody's business. What is one is either read, or refused with the reason: nothing is
left out in silence. Knows no manifest; imports nothing of what it reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Final

from ..errors import PluginError
from . import names, refusals
from .held import Directory, open_any, refusing
from .owned import normal, open_owned
from .packages import digest, read_package
from .records import SourceDeclaration, Verification, VerifiedSource
from .trust import until_vouched

MAX_PLUGINS: Final = 100
"""In a directory."""


def verify(declaration: SourceDeclaration) -> Verification:
    """Find and read what was declared, and check all of it. Raises nothing for what it finds.

    Under `ownership` all that is in a directory is asked for, and a pin that is there has to be met as well.
    Under `pinned` what has no pin is refused and not read; the rest does not depend on it.
    """
    looking = _Looking(declaration)
    try:
        with refusing(declaration.path):
            looking.look()
    except PluginError as refusal:
        error = refusal
        if error.rule == "missing" and declaration.is_directory:
            error = refusals.missing_directory(declaration.path)
        plugin = str(declaration.path) if declaration.is_directory else _name_of(declaration.path.name)
        looking.refusals.append(refusals.about(error, plugin))
    return Verification(
        tuple(sorted(looking.sources, key=lambda it: it.name)),
        tuple(looking.refusals),
        tuple(dict.fromkeys(looking.files)),
        tuple(dict.fromkeys(looking.patterns)),
    )


def verify_all(declarations: Iterable[SourceDeclaration]) -> tuple[Verification, ...]:
    """`verify` each, in this order; a name belongs to the first that has it, another plugin of that name is
    refused. So it is where the first one is refused itself: which of them runs must not depend on what
    somebody does to another; but what is refused because nobody asked for it (it has no pin) takes no name.
    One plugin that was declared twice is one."""
    taken: dict[str, tuple[Path, str | None]] = {}
    found = []
    for declaration in declarations:
        verification = verify(declaration)
        kept, refused = [], list(verification.refusals)
        for source in verification.sources:
            own = normal(source.path), source.sha256
            first = taken.get(source.name)
            if first is None:
                taken[source.name] = own
                kept.append(source)
            elif first != own:
                is_entry = declaration.is_directory
                error = refusals.name_taken(source.path, first[0], source.name, is_entry=is_entry)
                refused.append(refusals.about(error, source.name))
        for error in verification.refusals:
            if error.rule != "unpinned":
                taken.setdefault(error.plugin, (Path(error.path or declaration.path), None))
        found.append(replace(verification, sources=tuple(kept), refusals=tuple(refused)))
    return tuple(found)


def digests(declaration: SourceDeclaration) -> tuple[Mapping[str, str], tuple[PluginError, ...]]:
    """What would have to be pinned for the plugins that are there now to run: the name of each entry → its
    digest, whoever could have written it; and what cannot be a plugin, pinned or not."""
    path = declaration.path
    found: dict[str, str] = {}
    refused: list[PluginError] = []
    try:
        with refusing(path), open_any(path if declaration.is_directory else path.parent) as directory:
            entries = [path.name]
            if declaration.is_directory:
                entries = [name for name in directory.names() if _is_plugin(directory, name)]
            for entry in entries:
                name = _name_of(entry)
                try:
                    _check_name(directory.path / entry, name, is_entry=declaration.is_directory)
                    with refusing(directory.path / entry):
                        found[entry] = _digest(entry, _read(directory, entry))
                except PluginError as error:
                    refused.append(refusals.about(error, name))
    except PluginError as error:
        refused.append(refusals.about(error, str(path)))
    return found, tuple(refused)


class _Looking:
    """At one declaration."""

    def __init__(self, declaration: SourceDeclaration) -> None:
        self.declaration = declaration
        self.sources: list[VerifiedSource] = []
        self.refusals: list[PluginError] = []
        self.files: list[Path] = []
        self.patterns: list[Path] = []
        self._is_pinned = declaration.trust == "pinned"

    def look(self) -> None:
        """Raises: PluginError: about all that was declared."""
        path = self.declaration.path
        if self.declaration.is_directory:
            self.patterns += [_literal(path) / "*.py", _literal(path) / "*" / "__init__.py"]
            with self._open(path) as directory:
                self._look_into(directory)
            return
        path = path if self._is_pinned else normal(path)
        self._watch(path)
        with self._open(path.parent, path) as directory:
            self._add(directory, path.name)

    def _open(self, path: Path, whole: Path | None = None) -> Directory:
        return open_any(path) if self._is_pinned else open_owned(path, whole=whole)

    def _look_into(self, directory: Directory) -> None:
        pins = self.declaration.pins
        entries = self._entries(directory)
        if self._is_pinned:
            self._refuse_unpinned(directory, [name for name in entries if name not in pins])
            entries = []
        elif len(entries) > MAX_PLUGINS:
            raise refusals.too_large(directory.path, f"more than {MAX_PLUGINS} plugins")
        for entry in self._unambiguous(directory, sorted({*entries, *pins})):
            self._watch(directory.path / entry)
            try:
                with refusing(directory.path / entry):
                    self._add(directory, entry)
            except PluginError as error:
                self._refuse(entry, error)

    def _entries(self, directory: Directory) -> list[str]:
        try:
            return [name for name in directory.names() if _is_plugin(directory, name)]
        except PluginError as error:
            if not self._is_pinned:
                raise
            # What somebody has put beside them, or who may list them, does not take down those with a pin.
            self.refusals.append(error)
            return []

    def _refuse_unpinned(self, directory: Directory, entries: Sequence[str]) -> None:
        for entry in entries[:MAX_PLUGINS]:
            self._refuse(entry, refusals.unpinned(directory.path / entry))
        if len(entries) > MAX_PLUGINS:
            self.refusals.append(
                refusals.too_large(directory.path, f"{len(entries):,} entries without a pin")
            )

    def _unambiguous(self, directory: Directory, entries: Sequence[str]) -> list[str]:
        """Without those that would have one name: neither is better than the other."""
        by_name = defaultdict(list)
        for entry in entries:
            by_name[_name_of(entry)].append(entry)
        for name, rivals in by_name.items():
            if len(rivals) > 1:
                package, file = (directory.path / rival for rival in sorted(rivals, key=len))
                self._refuse(name, refusals.name_taken(file, package, name, is_entry=True))
        return [entry for entry in entries if len(by_name[_name_of(entry)]) == 1]

    def _add(self, directory: Directory, entry: str) -> None:
        """Raises: PluginError: about this one."""
        path, name, pin = directory.path / entry, _name_of(entry), self.declaration.pins.get(entry)
        _check_name(path, name, is_entry=self.declaration.is_directory)
        if pin is not None:
            files = until_vouched(path, pin, lambda: _read(directory, entry), lambda it: _digest(entry, it))
        elif self._is_pinned:
            raise refusals.unpinned(path)
        else:
            files = _read(directory, entry)
        is_package = entry not in files
        if is_package:
            self._watch_package(path, files)
        sha = _digest(entry, files)
        self.sources.append(
            VerifiedSource(
                name, path, is_package, files, sha, self.declaration.trust, self.declaration.pointer
            )
        )

    def _watch(self, path: Path) -> None:
        if path.suffix == ".py":
            self.files.append(path)
        else:
            self.files.append(path / "__init__.py")
            self.patterns.append(_literal(path) / "*.py")

    def _watch_package(self, path: Path, files: Iterable[str]) -> None:
        self.files += [path / name for name in files]
        for directory in dict.fromkeys((path / name).parent for name in files):
            self.patterns += [_literal(directory) / "*.py", _literal(directory) / "*" / "*.py"]

    def _refuse(self, entry: str, error: PluginError) -> None:
        self.refusals.append(refusals.about(error, _name_of(entry)))


def _check_name(path: Path, name: str, *, is_entry: bool) -> None:
    if (fault := names.fault(name)) is not None:
        raise refusals.bad_name(path, name, fault, is_entry=is_entry)


def _read(directory: Directory, entry: str) -> dict[str, bytes]:
    if entry.endswith(".py"):
        return {entry: directory.read(entry)}
    with directory.enter(entry) as package:
        # Before anything else is said of a directory that is somebody's, and no plugin.
        if package.status("__init__.py", follow=False) is None:
            raise refusals.no_package(package.path)
        files = read_package(package)
    if "__init__.py" not in files:  # it went away
        raise refusals.no_package(directory.path / entry)
    return files


def _digest(entry: str, files: Mapping[str, bytes]) -> str:
    return sha256(files[entry]).hexdigest() if entry in files else digest(files)


def _is_plugin(directory: Directory, entry: str) -> bool:
    if entry.endswith(".py"):
        return True
    try:
        return directory.status(f"{entry}/__init__.py", follow=False) is not None
    except PermissionError:  # a `lost+found` is no plugin; else nobody can tell, and it has to be said
        return names.fault(entry) is None


def _name_of(entry: str) -> str:
    return entry.removesuffix(".py")


def _literal(path: Path) -> Path:
    return Path(escape(str(path)))
