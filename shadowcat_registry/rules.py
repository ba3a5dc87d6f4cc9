"""What has to hold between the fields of a manifest, and between its providers: what no schema can say.

A rule reads a candidate and notes findings in it; `RULES` has them in the order in which they run, after each
declaration was checked by itself. A new rule is a function here and a line there.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .advice import comparable, overlaps
from .candidate import Candidate, exists_at, mapping_in
from .dependencies import find_cycles
from .errors import did_you_mean
from .interpolate import has_reference
from .location import PLUGIN_VARIABLE
from .marks import Pointer
from .parse import MAX_FINDINGS

_MAX_LISTED: Final = 20
"""Names in one message."""
NEVER_ALL: Final = (
    "a manifest without providers never means that all are to go, "
    "unless it says `reload: {allow_mass_removal: true}`"
)


def default_is_declared(candidate: Candidate) -> None:
    """And there is something to be one of."""
    if not candidate.is_whole:
        return
    declared = candidate.declared
    is_meant = mapping_in(candidate.root, "reload").get("allow_mass_removal") is True
    includes = isinstance(candidate.root.get("include"), list)
    if not declared and includes and not is_meant and not candidate.has_errors:
        message = "no provider is declared, neither here nor in an included file"
        candidate.add("SC202", message, ("include",), NEVER_ALL, on_key=True)
        return
    name = candidate.defaults.get("provider")
    written = candidate.root.get("providers")
    if not declared and not isinstance(written, dict):
        return  # the schema of the manifest has said what is wrong: this would only follow from it
    if isinstance(written, dict) and isinstance(name, str) and name in written:
        return  # declared, if perhaps under a name of the wrong form
    if isinstance(name, str) and name and name not in declared and not has_reference(name):
        known = [str(one) for one in declared]
        hint = did_you_mean(name, known) or "declare it under `providers`, or name one that is there"
        message = f"the default provider `{name[:64]}` is not declared"
        candidate.add("SC301", message, ("defaults", "provider"), hint)


def needed_providers_are_declared(candidate: Candidate) -> None:
    """What `requires` and the configs name, as far as can be said: it may be in a file that could not be
    read."""
    if not candidate.is_whole:
        return
    declared = [str(one) for one in candidate.declared]
    missing = 0
    for name, spec in candidate.specs.items():
        wanted: list[tuple[Pointer, str, bool]] = [
            (("providers", name, "requires", index), needed, False)
            for index, needed in enumerate(_items(candidate.declared[name].get("requires")))
            if isinstance(needed, str)
        ]
        wanted += [
            (candidate.place_of(name, spec.type, at), needed, True) for at, needed in spec.references.items()
        ]
        for pointer, needed, is_value in wanted:
            if needed in candidate.declared or (not is_value and has_reference(needed)):
                continue
            if candidate.is_full:
                return
            missing += 1
            others = [one for one in declared if one != name] if missing <= MAX_FINDINGS else []
            there = ", ".join(others[:_MAX_LISTED])[:200] or "no other"
            hint = did_you_mean(needed, others)
            message = f"`{name}` requires the provider `{needed[:64]}`, which is not declared"
            candidate.add("SC313", message, pointer, f"{hint or 'declare it'} (there is: {there})")


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []  # anything else, the schema of the manifest has refused


def nobody_needs_itself(candidate: Candidate) -> None:
    """Over however many steps: there would be no order to prepare them in."""
    needs = {name: spec.needs for name, spec in candidate.specs.items() if spec.needs}
    for cycle in find_cycles(needs):
        pointer: Pointer = ("providers", cycle[0])
        if cycle[1] in candidate.specs[cycle[0]].requires:
            pointer = (*pointer, "requires", candidate.declared[cycle[0]]["requires"].index(cycle[1]))
        steps = cycle if len(cycle) <= _MAX_LISTED else (*cycle[: _MAX_LISTED - 1], "…", cycle[-1])
        path = " -> ".join(steps)
        message = (
            f"these providers require each other: {path}" if len(cycle) > 2 else f"it requires itself: {path}"
        )
        candidate.add("SC312", message, pointer, "take one of the steps away")


def versions_are_met(candidate: Candidate) -> None:
    """The version of each type is in the range that its provider asks for."""
    for name, spec in candidate.specs.items():
        if spec.version is None or has_reference(spec.version):
            continue
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
        from packaging.version import InvalidVersion, Version

        pointer = ("providers", name, "version")
        try:
            wanted = SpecifierSet(spec.version)
        except InvalidSpecifier:
            hint = "write a comparison, or several with commas between them: `>=1.0,<2`, `==1.4.*`, `~=1.4`"
            candidate.add("SC207", "this is no range of versions", pointer, hint)
            continue
        there = str(candidate.types[spec.type].factory.version)
        try:
            is_met = wanted.contains(Version(there), prereleases=True)
        except InvalidVersion:
            is_met = False
        if not is_met:
            message = f"the type `{spec.type}` is there in version {there[:64]}, which is not in this range"
            candidate.add("SC314", message, pointer, "install another version of it, or widen the range")


def default_configs_are_used(candidate: Candidate) -> None:
    """As far as can be said: a type that is misspelt, or in a file that could not be read, may be the one."""
    used = [entry.get("type") if isinstance(entry, dict) else None for entry in candidate.declared.values()]
    is_clear = candidate.is_whole and all(isinstance(it, str) and it in candidate.catalog for it in used)
    is_clear = is_clear and not candidate.has_unseen_types
    for name in candidate.default_configs:
        if candidate.is_full:
            return
        pointer = ("defaults", "config", name)
        if name not in candidate.catalog:
            candidate.add_unknown_type("SC304", name, pointer, on_key=True)
        elif name not in used and is_clear:
            message = f"no provider is of type `{name}`"
            candidate.add("SC305", message, pointer, "remove it", on_key=True, severity="warning")


def places_are_not_shared(candidate: Candidate) -> None:
    """What two providers want for themselves."""
    places, left_out = comparable(candidate.places)
    if left_out is not None:
        message = "from here on, paths are not compared with those of other providers: they are too deep"
        hint = "nobody knows whether two of them share a place; shorten the paths"
        candidate.add(
            "SC612", message, ("providers", left_out.provider), hint, on_key=True, severity="warning"
        )
    for place, other, is_same in overlaps(places):
        if candidate.is_full:
            return
        at = candidate.owners[other.provider].key_mark(("providers", other.provider))
        type_name = candidate.specs[place.provider].type
        pointer = candidate.place_of(place.provider, type_name, place.pointer)
        if pointer[0] == "defaults" or not exists_at(candidate.owners[place.provider].value, pointer):
            pointer = ("providers", place.provider)  # it is the default: what is declared is to be mended
        hint = f"`{other.provider}` is at {at}; give each a place of its own"
        if is_same:
            message = f"the providers `{other.provider}` and `{place.provider}` are at the same place"
            candidate.add("SC309", message, pointer, hint, on_key=len(pointer) == 2)
        else:
            message = f"the provider `{place.provider}` is inside of the directory of `{other.provider}`"
            candidate.add("SC310", message, pointer, hint, on_key=len(pointer) == 2, severity="warning")


def no_storage_holds_plugins(candidate: Candidate) -> None:
    """To write a tape must never be to write a plugin."""
    plugins = [(Path(_real(it.path)), it) for it in candidate.plugin_places]
    for place in [*candidate.places, *candidate.paths] if plugins else ():
        storage = Path(_real(place.path))
        # What is beside a plugin that is one file is not in its way.
        found = [
            it
            for source, it in plugins
            if source.is_relative_to(storage) or (it.is_directory and storage.is_relative_to(source))
        ]
        if not found:
            continue
        type_name = candidate.specs[place.provider].type
        pointer = candidate.place_of(place.provider, type_name, place.pointer)
        if pointer[0] == "defaults" or not exists_at(candidate.owners[place.provider].value, pointer):
            pointer = ("providers", place.provider)  # it is the default: what is declared is to be mended
        at = found[0].pointer
        named = f"at {candidate.top.mark(at)}" if at else f"by ${PLUGIN_VARIABLE}"
        what = "the directory of plugins" if found[0].is_directory else "the plugin"
        message = f"the storage of `{place.provider}` overlaps with {what} that is named {named}"
        hint = "give it a place of its own: who writes a tape must not be able to write a plugin"
        candidate.add("SC807", message, pointer, hint, on_key=len(pointer) == 2)


def _real(path: str | Path) -> str:
    try:
        return os.path.normcase(os.path.realpath(path))
    except ValueError:  # with a NUL in it: nothing can be there
        return os.path.normcase(path)


def secrets_are_for_few(candidate: Candidate) -> None:
    """Who may read a file may read the secrets that are in it."""
    if os.name != "posix":
        return  # what the mode says elsewhere is not who may read
    for part in candidate.parts:
        secret = candidate.digests[part.key].secret
        try:
            mode = stat.S_IMODE(part.path.stat().st_mode) if secret is not None else 0
        except OSError:  # it is gone since it was read, or never was there
            continue
        if secret is not None and mode & stat.S_IROTH:
            message = f"a secret in a file that every user of this machine may read (mode {mode:04o})"
            hint = f"chmod o-r {shlex.quote(str(part.path))}, or refer to it by ${{env:…}} or ${{file:…}}"
            candidate.add("SC406", message, secret, hint, severity="warning", document=part.document)


def health_can_be_asked_for(candidate: Candidate) -> None:
    for name, spec in candidate.specs.items():
        type_ = candidate.types.get(spec.type)
        if spec.health is None or type_ is None or hasattr(type_.factory, "check"):
            continue
        message = f"the type `{spec.type}` has no check: the health of this provider stays unknown"
        candidate.add(
            "SC315", message, ("providers", name, "health"), "remove it", on_key=True, severity="warning"
        )


RULES: Final[tuple[Callable[[Candidate], None], ...]] = (
    default_is_declared,
    needed_providers_are_declared,
    nobody_needs_itself,
    versions_are_met,
    health_can_be_asked_for,
    default_configs_are_used,
    places_are_not_shared,
    no_storage_holds_plugins,
    secrets_are_for_few,
)
