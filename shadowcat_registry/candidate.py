"""What may become a manifest: its files put together, the types they use, and all that was found so far.

Every check of the assembly reads it and notes its findings here, which then have their place in the right
file. Checks nothing itself but that a name is declared once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .advice import Place
from .catalog import NOT_YET, Catalog
from .document import Document
from .errors import Excerpt, Finding, Severity, did_you_mean
from .excerpts import of_document
from .includes import PartKey, PartReader
from .marks import Pointer
from .metadata import ProviderSpec
from .schema_errors import shown_key
from .types_in_use import TypeInUse, type_in_use

if TYPE_CHECKING:
    from .plugins.loading import LoadedPlugins

MAX_PROVIDERS: Final = 20_000
MAX_DEFAULT_CONFIGS: Final = 1_000
_MAX_NOTED: Final = 1_000
"""Errors, and as many warnings: nobody mends more by hand, and each takes time."""


@dataclass(frozen=True, slots=True)
class SourceDigest:
    """Of the text of one file, and where the first secret stands in it that is no reference."""

    value: str
    secret: Pointer | None


@dataclass(frozen=True, slots=True)
class PluginPlace:
    """Where the bytes of plugins come from: a file, or a directory with all that is in it."""

    path: Path
    is_directory: bool
    pointer: Pointer
    """Where the manifest says so; empty: it does not, the environment does."""


class Candidate:
    """The documents of one manifest as one; `path` is absolute, `known` are the types of the last load."""

    def __init__(
        self, reader: PartReader, path: Path, catalog: Catalog, known: Mapping[str, TypeInUse]
    ) -> None:
        self.parts = reader.parts
        self.top = reader.parts[0].document
        self.is_whole = not reader.broken and not reader.findings
        """Else what is missing may be in what could not be read."""
        self.path = path
        self.catalog = catalog
        """With the types of its plugins, once `plugin_types` has looked for them."""
        self.plugins: LoadedPlugins | None = None
        """What came of those that it asks for."""
        self.plugin_places: tuple[PluginPlace, ...] = ()
        self.lost_types: Mapping[str, str] = {}
        """Types that run, and that no plugin has any more → where it was."""
        self.has_unseen_types = False
        """There are plugins of which nobody has asked which types they have."""
        self.findings: list[Finding] = list(reader.findings)
        self.counts: dict[Severity, int] = {"error": len(reader.findings), "warning": 0}
        self.is_too_large = reader.has_too_many_entries
        """Beyond what is looked at any further."""
        self.types: dict[str, TypeInUse] = {}
        """Those that were asked for."""
        self._known = known
        self.root: Mapping[str, Any] = self.top.value if isinstance(self.top.value, dict) else {}
        self.defaults = mapping_in(self.root, "defaults")
        self.default_configs = mapping_in(self.defaults, "config")
        self.declared: dict[str, Any] = {}
        """What is declared under each name, in all files."""
        self.owners: dict[str, Document] = {}
        """Where that is."""
        for part in self.parts:
            if not self.is_too_large:
                self._gather(part.document)
        if len(self.default_configs) > MAX_DEFAULT_CONFIGS:
            self._refuse_as_too_large(
                "SC610", f"more than {MAX_DEFAULT_CONFIGS:,} provider types", ("defaults", "config"), self.top
            )
        self.specs: dict[str, ProviderSpec] = {}
        """What could be completed of what is declared, right or wrong; filled in by `declarations`."""
        self.places: list[Place] = []
        """What the right ones want for themselves."""
        self.paths: list[Place] = []
        """Where others of them may keep something."""
        self.digests: dict[PartKey, SourceDigest] = {}
        """Of each file, once the types are known."""

    def _gather(self, document: Document) -> None:
        """The providers of one file: a name is there once in all of them."""
        value = document.value if isinstance(document.value, dict) else {}
        for name, entry in mapping_in(value, "providers").items():
            first = self.owners.get(name)
            if len(self.declared) >= MAX_PROVIDERS:
                message = f"more than {MAX_PROVIDERS:,} providers"
                self._refuse_as_too_large("SC610", message, ("providers", name), document)
                return
            if first is None:
                self.declared[name], self.owners[name] = entry, document
                continue
            place = first.key_mark(("providers", name))
            message = f"the provider `{name[:64]}` is declared in two files"
            hint = f"it is at {place} already; remove or rename one of the two"
            self.add("SC307", message, ("providers", name), hint, on_key=True, document=document)

    def _refuse_as_too_large(self, code: str, message: str, pointer: Pointer, document: Document) -> None:
        self.is_too_large = True
        self.add(code, message, pointer, on_key=True, document=document)

    @property
    def has_errors(self) -> bool:
        return self.counts["error"] > 0

    @property
    def is_full(self) -> bool:
        """So many errors were found that it is time to stop looking for more."""
        return self.counts["error"] >= _MAX_NOTED

    def add(
        self,
        code: str,
        message: str,
        pointer: Pointer,
        hint: str | None = None,
        *,
        on_key: bool = False,
        severity: Severity = "error",
        document: Document | None = None,
    ) -> None:
        """Note a finding in `document`; without one, where the pointer leads: a provider is in its own."""
        if self.counts[severity] >= _MAX_NOTED:
            self.counts[severity] += 1
            return
        if document is None:
            is_in_provider = len(pointer) > 1 and pointer[0] == "providers"
            document = self.owners.get(str(pointer[1]), self.top) if is_in_provider else self.top
        mark = document.key_mark(pointer) if on_key else document.mark(pointer)
        if on_key and pointer and isinstance(pointer[-1], str):
            pointer = (*pointer[:-1], shown_key(pointer[-1]))
        self.note(Finding(code, message, mark, pointer, hint, severity))

    def note(self, finding: Finding) -> None:
        """As `add`, for one whose place is known."""
        self.counts[finding.severity] += 1
        self.findings.append(finding)

    def add_unknown_type(self, code: str, name: str, pointer: Pointer, *, on_key: bool = False) -> None:
        if self.has_unseen_types:
            message = f"the type `{name[:64]}` can only come from a plugin, and none was looked into"
            hint = "what its config holds was not checked; `validate --probe` does that"
            self.add("SC806", message, pointer, hint, on_key=on_key, severity="warning")
            return
        known = self.catalog.names()
        if name in NOT_YET:
            self.add("SC303", NOT_YET[name], pointer, f"there are: {', '.join(known)}", on_key=on_key)
            return
        nearest = did_you_mean(name, known)
        listing = f"there are: {', '.join(known)}"
        infos = self.plugins.infos if self.plugins is not None else ()
        if refused := [it.name for it in infos if it.state in ("refused", "shadowed")]:
            shown = ", ".join(f"`{it[:64]}`" for it in refused[:3])
            more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
            listing += f"; refused: the plugin{'s' if len(refused) > 1 else ''} {shown}{more}"
        if name in self.lost_types:
            listing += f"; the one that runs came from {self.lost_types[name]}, which is no plugin any more"
        message = f"there is no provider type `{name[:64]}`"
        self.add(code, message, pointer, f"{nearest} {listing}" if nearest else listing, on_key=on_key)

    def use_type(self, name: str, pointer: Pointer, *, on_key: bool = False) -> TypeInUse:
        """A type that is in the catalog; that its schema is broken is said where it is asked for first."""
        found = self.types.get(name)
        if found is None:
            found = self.types[name] = type_in_use(self.catalog.factory(name), self._known.get(name))
            if found.faults:
                message = f"the schema of the type `{name}` is broken: {'; '.join(found.faults[:3])}"
                hint = "this is a fault of whoever wrote the type"
                self.add("SC501", message, pointer, hint, on_key=on_key)
        return found

    def place_of(self, name: str, type_name: str, pointer: Pointer) -> Pointer:
        """Where in the manifest a part of a merged config comes from."""
        own: Pointer = ("providers", name, "config", *pointer)
        beneath: Pointer = ("defaults", "config", type_name, *pointer)
        is_own = exists_at(self.owners[name].value, own)
        return own if is_own or not exists_at(self.root, beneath) else beneath

    def excerpts(self, findings: tuple[Finding, ...]) -> tuple[Excerpt, ...]:
        """The lines of findings; no value of a config is shown whose type could not be used."""
        if not findings:
            return ()
        schemas = {name: type_.schema for name, type_ in self.types.items()}
        excerpts: list[Excerpt] = []
        for part in self.parts:
            own = [it for it in findings if it.mark.source == part.document.source]
            excerpts += of_document(part.document, own, schemas) if own else ()
        return tuple(excerpts)


def mapping_in(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What is under `key`, if that is a mapping; else an empty one."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def value_at(value: Any, pointer: Pointer) -> Any:
    for part in pointer:
        value = value[part]
    return value


def exists_at(value: Any, pointer: Pointer) -> bool:
    try:
        value_at(value, pointer)
    except (LookupError, TypeError):  # no such key, or nothing that has keys
        return False
    return True
