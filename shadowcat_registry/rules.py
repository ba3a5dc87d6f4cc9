"""What has to hold between the fields of a manifest, and between its providers: what no schema can say.

A rule reads a candidate and notes findings in it; `RULES` has them in the order in which they run, after each
declaration was checked by itself. A new rule is a function here and a line there.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable
from typing import Final

from .advice import overlaps
from .candidate import Candidate, exists_at
from .errors import did_you_mean
from .interpolate import has_reference

NEVER_ALL: Final = "a manifest without providers never means that all are to go: stop the process for that"


def default_is_declared(candidate: Candidate) -> None:
    """And there is something to be one of."""
    if not candidate.is_whole:
        return
    declared = candidate.declared
    if not declared and isinstance(candidate.root.get("include"), list) and not candidate.has_errors:
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


def default_configs_are_used(candidate: Candidate) -> None:
    """As far as can be said: a type that is misspelt, or in a file that could not be read, may be the one."""
    used = [entry.get("type") if isinstance(entry, dict) else None for entry in candidate.declared.values()]
    is_clear = candidate.is_whole and all(isinstance(it, str) and it in candidate.catalog for it in used)
    for name in candidate.default_configs:
        pointer = ("defaults", "config", name)
        if name not in candidate.catalog:
            candidate.add_unknown_type("SC304", name, pointer, on_key=True)
        elif name not in used and is_clear:
            message = f"no provider is of type `{name}`"
            candidate.add("SC305", message, pointer, "remove it", on_key=True, severity="warning")


def places_are_not_shared(candidate: Candidate) -> None:
    """What two providers want for themselves."""
    for place, other, is_same in overlaps(candidate.places):
        at = candidate.owners[other.provider].key_mark(("providers", other.provider))
        type_name = candidate.specs[place.provider].type
        pointer = candidate.place_of(place.provider, type_name, place.pointer)
        if pointer[0] == "defaults" or not exists_at(candidate.owners[place.provider].value, pointer):
            pointer = ("providers", place.provider)  # it is the default: what is declared is to be mended
        hint = f"`{other.provider}` is at {at}; give each a directory of its own"
        if is_same:
            message = f"the providers `{other.provider}` and `{place.provider}` are at the same place"
            candidate.add("SC309", message, pointer, hint, on_key=len(pointer) == 2)
        else:
            message = f"the provider `{place.provider}` is inside of the directory of `{other.provider}`"
            candidate.add("SC310", message, pointer, hint, on_key=len(pointer) == 2, severity="warning")


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


RULES: Final[tuple[Callable[[Candidate], None], ...]] = (
    default_is_declared,
    default_configs_are_used,
    places_are_not_shared,
    secrets_are_for_few,
)
