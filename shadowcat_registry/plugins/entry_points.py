"""Provider types of installed distributions: those that were asked for by name, and no other.

A distribution says in its metadata which of its modules export types (the entry-point group
`shadowcat_registry.providers`). It is imported as any library is: once in a process, by name, and found on
`sys.path`. So what is checked is that the name means one distribution, that its version is one that was asked
for, and that its own files are what would be imported; and that another was not installed since.
"""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ..errors import PluginError, did_you_mean
from . import shape
from .blame import advice, is_interrupt, line_of
from .effects import Surroundings
from .records import TypeReport

GROUP: Final = "shadowcat_registry.providers"

_imported: Final[dict[str, tuple[str, str]]] = {}
"""Name → version and digest of what this process has imported. Each step on it is one operation of a dict, so
it needs no lock."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A distribution that was asked for, as it is installed; nothing of it has been imported for this."""

    requirement: str
    """As it was asked for."""
    name: str
    """In the spelling that all spellings of it have in common (PEP 503)."""
    version: str
    path: Path
    """Of its metadata."""
    sha256: str
    """Of the list of its files with their digests (`RECORD`): another installation has another one."""
    entries: tuple[str, ...]
    """What its entry points lead to: `module`, whose `PROVIDERS` are meant, or `module:name`."""
    site: Path
    """Where it is installed."""
    files: frozenset[str] = field(repr=False, compare=False)
    """Its files, as `RECORD` names them: relative to `site`."""
    project: Path | None = None
    """Of an editable installation: where it works on its files."""

    def allows(self, version: str) -> bool:
        """Whether this version is one that was asked for."""
        return Requirement(self.requirement).specifier.contains(Version(version), prereleases=True)

    def shown(self, file: str) -> str | None:
        """As of `blame.line_of`."""
        if not Path(file).is_absolute():  # `<frozen os>`, wherever this process works
            return None
        # Directories may have more than one name; a file may be a link, where an installer saves space.
        real = Path(os.path.realpath(os.path.dirname(file)), os.path.basename(file))  # noqa: PTH119, PTH120
        if real.is_relative_to(self.site) and (name := real.relative_to(self.site).as_posix()) in self.files:
            return name
        if self.project is not None and real.is_relative_to(self.project):
            return real.relative_to(self.project).as_posix()
        return None


@dataclass(frozen=True, slots=True, eq=False)
class LoadedDistribution:
    """A distribution whose modules are imported. They stay until the end of the process."""

    name: str
    version: str
    """Of what has been imported, which another installation does not change."""
    path: Path
    sha256: str
    factories: tuple[shape.PluginFactory, ...]
    reports: tuple[TypeReport, ...]
    """What the factories said of themselves, in the same order."""


def find(requirement: str) -> Installed:
    """The one distribution that meets a requirement: a name, and perhaps versions (`glacier>=1.2,<2`).

    Raises:
        PluginError: rule `distribution`: this is no such requirement, none is installed, two are, or it has
            no types; rule `version`: it is another version, or one that nobody can tell.
    """
    importlib.invalidate_caches()  # it may have been installed a moment ago
    wanted = _parse(requirement)
    name = canonicalize_name(wanted.name)
    found = _the_one(name, _called(name), requirement)
    path = _path_of(found)
    version = _version_of(name, found, path)
    if not wanted.specifier.contains(version, prereleases=True):
        reason = f"{name} {version} is installed, and {wanted.specifier} is asked for"
        raise PluginError(name, "version", reason, _pip_install(requirement), str(path))
    entries = tuple(sorted({_entry(name, it, path) for it in found.entry_points.select(group=GROUP)}))
    if not entries:
        reason = f"{name} {version} has no entry point in the group {GROUP}: it brings no provider types"
        raise PluginError(name, "distribution", reason, path=str(path))
    return Installed(
        requirement,
        name,
        str(found.version),
        path,
        _digest_of(found),
        entries,
        Path(os.path.realpath(str(found.locate_file("")))),
        _files_of(found),
        _project_of(found),
    )


def find_all(requirements: Iterable[str]) -> tuple[tuple[Installed, ...], tuple[PluginError, ...]]:
    """`find` for each, in this order: what was found, and what was refused. One that is asked for twice is
    refused the second time."""
    found: dict[str, Installed] = {}
    refusals: list[PluginError] = []
    for requirement in requirements:
        try:
            installed = find(requirement)
        except PluginError as error:
            refusals.append(error)
            continue
        if installed.name in found:
            reason = f"it is asked for twice: {found[installed.name].requirement} and {requirement}"
            refusals.append(PluginError(installed.name, "distribution", reason, "ask for it once"))
        else:
            found[installed.name] = installed
    return tuple(found.values()), tuple(refusals)


def load(
    installed: Installed, *, probed: Sequence[TypeReport] | None = None, with_schemas: bool = True
) -> LoadedDistribution:
    """Import what the entry points lead to; `probed` and `with_schemas` as of `modules.load`.

    What this process has imported already stays what it is: the version that it had then counts.

    Raises:
        PluginError: rule `distribution`: another file would be imported than one of the distribution's; rule
            `version`: another version is imported already, and is none that was asked for; rule `import`;
            and as `shape.check`. Of a failed import, no module of it is left in `sys.modules`.
    """
    name = installed.name
    version, digest = _imported.get(name, (installed.version, installed.sha256))
    if not installed.allows(version):
        reason = f"{name} {version} is what runs in this process, and {installed.requirement} is asked for"
        raise PluginError(name, "version", reason, f"restart the process: {installed.version} is installed")
    before, surroundings = set(sys.modules), Surroundings()
    try:
        factories, reports = _run(installed, with_schemas)
        if fault := surroundings.mend_builtins():
            raise PluginError(name, "import", fault)
        shape.check_same(name, probed, reports)
    except BaseException:
        surroundings.mend_builtins()
        _forget(installed, before)
        raise
    _imported.setdefault(name, (version, digest))
    return LoadedDistribution(name, version, installed.path, digest, factories, reports)


def is_imported(name: str) -> bool:
    """Whether this process has imported the distribution, in whatever version; `name` as `Installed.name`."""
    return name in _imported


def moved_on(loaded: LoadedDistribution) -> str | None:
    """What is installed now instead of what runs, where that is another: only a restart brings it."""
    importlib.invalidate_caches()
    found = _called(loaded.name)
    if not found:
        return f"{loaded.name} {loaded.version} runs, and is not installed any more"
    if len(found) == 1 and _digest_of(found[0]) == loaded.sha256:
        return None
    versions = " and ".join(sorted({str(it.version) for it in found}))
    if versions == loaded.version:
        return f"{loaded.name} {loaded.version} runs, and was installed anew since"
    return f"{loaded.name} {loaded.version} runs, and {versions} is installed"


def _parse(requirement: str) -> Requirement:
    example = "write its name, and versions if you like, as glacier>=1.2,<2"
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement as error:
        reason = f"{requirement[:80]!r} names no distribution: {str(error).partition(chr(10))[0]}"
        raise PluginError(requirement[:80], "distribution", reason, example) from error
    if wanted.extras or wanted.url or wanted.marker:
        reason = f"{requirement[:80]!r} is more than a name and versions"
        raise PluginError(requirement[:80], "distribution", reason, example)
    return wanted


def _called(name: str) -> list[importlib.metadata.Distribution]:
    """Every distribution of that name on `sys.path`, once: one directory may be there under two names."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(name=name):
        found.setdefault(os.path.realpath(_path_of(distribution)), distribution)
    installed = [it for it in found.values() if it.read_text("METADATA") is not None]
    # What a build leaves beside its sources (`egg-info`) was not put there by an installer.
    return installed or list(found.values())


def _the_one(
    name: str, found: Sequence[importlib.metadata.Distribution], requirement: str
) -> importlib.metadata.Distribution:
    if not found:
        offered = sorted(
            {
                canonicalize_name(it.dist.name)
                for it in importlib.metadata.entry_points(group=GROUP)
                if it.dist is not None
            }
        )
        hint = did_you_mean(name, offered)
        known = f" (there are types in: {', '.join(offered[:20]) or 'none'}{f'; {hint}' if hint else ''})"
        reason = f"no distribution {name} is installed here{known}"
        raise PluginError(name, "distribution", reason, _pip_install(requirement))
    if len(found) > 1:
        places = " and ".join(sorted(str(_path_of(it)) for it in found))
        reason = f"{len(found)} distributions are called {name}, and which one runs is chance: {places}"
        raise PluginError(name, "distribution", reason, "uninstall all but one")
    (distribution,) = found
    told = distribution.metadata["Name"] if distribution.metadata is not None else None
    if told is None or canonicalize_name(told) != name:
        reason = f"its metadata calls it {told!r}, the name of their directory {name}"
        raise PluginError(name, "distribution", reason, "install it anew", str(_path_of(distribution)))
    return distribution


def _path_of(distribution: importlib.metadata.Distribution) -> Path:
    # No public name has it. A finder of somebody else's may have no path at all.
    path = getattr(distribution, "_path", None)
    return Path(str(path)) if path is not None else Path(str(distribution.locate_file("")))


def _digest_of(distribution: importlib.metadata.Distribution) -> str:
    record = distribution.read_text("RECORD") or distribution.read_text("METADATA") or ""
    return sha256(record.encode("utf-8", "surrogateescape")).hexdigest()


def _files_of(distribution: importlib.metadata.Distribution) -> frozenset[str]:
    """Some have thousands, and `Distribution.files` takes its time for each."""
    record = distribution.read_text("RECORD") or ""
    return frozenset(row[0] for row in csv.reader(record.splitlines()) if row)


def _version_of(name: str, distribution: importlib.metadata.Distribution, path: Path) -> Version:
    told = str(distribution.version)
    try:
        version = Version(told)
    except InvalidVersion as error:
        reason = f"its metadata gives it a version that is none (PEP 440): {told[:64]!r}"
        raise PluginError(name, "version", reason, path=str(path)) from error
    if path.suffix == ".dist-info":
        with suppress(InvalidVersion):
            # Installers go by the one, this and whoever imports it by the other.
            named = Version(path.stem.rpartition("-")[2])
            if named != version:
                reason = f"its metadata gives it version {version}, the name of their directory {named}"
                raise PluginError(name, "version", reason, "install it anew", str(path))
    return version


def _entry(name: str, entry: EntryPoint, path: Path) -> str:
    match = EntryPoint.pattern.match(entry.value)
    if match is None:
        reason = f"its entry point {entry.name} leads nowhere: {entry.value[:80]!r} is no module"
        raise PluginError(name, "distribution", reason, path=str(path))
    return f"{match['module']}:{match['attr']}" if match["attr"] else str(match["module"])


def _project_of(distribution: importlib.metadata.Distribution) -> Path | None:
    """Where an editable installation has its files (PEP 610)."""
    try:
        told: Any = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not told.get("dir_info", {}).get("editable"):
            return None
        return Path(os.path.realpath(url2pathname(urlsplit(told["url"]).path)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _pip_install(requirement: str) -> str:
    return f"python -m pip install '{requirement}'"


def _run(installed: Installed, with_schemas: bool) -> shape.Checked:
    def blame(error: BaseException) -> str:
        return line_of(error, installed.shown)

    items: list[object] = []
    for entry in installed.entries:
        module, _, name = entry.partition(":")
        try:
            _check_origin(installed, module)
            found: object = importlib.import_module(module)
            for part in name.split(".") if name else ():
                found = getattr(found, part)
        except PluginError:
            raise
        except BaseException as error:
            if is_interrupt(error):
                raise
            remedy = advice(installed.name, error)
            raise PluginError(installed.name, "import", blame(error), remedy, str(installed.path)) from error
        if not name:
            found = vars(found).get("PROVIDERS", shape.MISSING)
        exported = (found,) if name and not isinstance(found, tuple) else found
        for item in shape.items(installed.name, exported):
            if not any(item is other for other in items):  # two entry points may lead to one tuple
                items.append(item)
    return shape.check(installed.name, tuple(items), blame, with_schemas=with_schemas)


def _check_origin(installed: Installed, module: str) -> None:
    """Whether importing it would run the distribution's own file: a file of that name in the working
    directory may go before."""
    name, _, rest = module.partition(".")
    spec = find_spec(name)
    while spec is not None and spec.origin is None and rest:  # a namespace is in many places
        part, _, rest = rest.partition(".")
        name = f"{name}.{part}"
        spec = find_spec(name)
    if spec is None or spec.origin is None or not Path(spec.origin).is_absolute():
        return
    if installed.shown(spec.origin) is None and (installed.files or installed.project):
        reason = f"{name} would be imported from {spec.origin}, which is no file of {installed.name}"
        raise PluginError(installed.name, "distribution", reason, f"remove or rename {spec.origin}")


def _forget(installed: Installed, before: set[str]) -> None:
    tops = {entry.partition(":")[0].partition(".")[0] for entry in installed.entries}
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in tops:
            sys.modules.pop(name, None)
