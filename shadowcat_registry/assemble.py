"""The documents of a manifest → the `Manifest`, or every finding at once.

Validates in two steps, each file by the schema of the manifest, then each config by that of its type, and
checks what no schema can say. Opens the files that configs refer to and no others; of the providers it
uses nothing but what their factories say of themselves.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from .advice import Place, advice, exclusive_places, overlaps
from .backend import StorageProviderFactory
from .catalog import NOT_YET, Catalog
from .defaults import fill_defaults, merge
from .document import MAX_FINDINGS, Document
from .errors import Excerpt, Finding, InvalidConfigError, Problem, Severity, did_you_mean
from .excerpts import of_broken_text, of_document
from .includes import BrokenPart, Part, PartKey, PartReader
from .interpolate import MASK, Resolved, has_reference, redact, resolve
from .manifest import Manifest
from .marks import Pointer
from .metadata import ProviderSpec
from .schema import Compiled, compiled
from .schema_errors import shown_key
from .schema_faults import check_schema
from .schema_files import fragment_schema, manifest_schema
from .schema_walk import mentions, types_at

_only_a_reference: Final = re.compile(r"\$\{(?:env:[A-Za-z_][A-Za-z0-9_]*|file:[^}]*)\}")
_NEVER_ALL: Final = "a manifest without providers never means that all are to go: stop the process for that"


@dataclass(frozen=True, slots=True)
class _Type:
    """A provider type that is in use, with its schema; without one if that is broken."""

    factory: StorageProviderFactory
    compiled: Compiled | None
    is_broken: bool = False
    has_defaults: bool = False
    has_paths: bool = False
    has_secrets: bool = False
    has_advice: bool = False
    has_exclusive: bool = False

    @property
    def schema(self) -> Mapping[str, Any] | None:
        return None if self.compiled is None else self.compiled.schema


@dataclass(frozen=True, slots=True, eq=False)
class _Verdict:
    """A provider that was found right."""

    spec: ProviderSpec
    type: _Type
    resolved: bytes | None
    """What its references gave, digested; None: it has none."""
    advice: tuple[Problem, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class _Digest:
    """Of the text of one file, and where the first secret stands in it that is no reference."""

    value: str
    secret: Pointer | None


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What one load leaves to the next: of the files and providers it used, and of nothing older. Holds what
    the manifest holds, secrets included. Never changed, so loads in several threads may share it."""

    documents: Mapping[PartKey, Document] = field(default_factory=dict)
    types: Mapping[str, _Type] = field(default_factory=dict)
    well_formed: frozenset[PartKey] = frozenset()
    """The files that the schema of the manifest has nothing against."""
    verdicts: Mapping[tuple[str, bytes], _Verdict] = field(default_factory=dict)
    """By name, and the digest of all that a provider is declared by."""
    digests: Mapping[PartKey, _Digest] = field(default_factory=dict)
    """Of the masked texts, for these types."""

    def __repr__(self) -> str:
        return "<Known>"  # no values: they may be secret


@dataclass(frozen=True, slots=True, eq=False)
class Assembled:
    """What came of it: a manifest, or findings with at least one error."""

    manifest: Manifest | None
    findings: tuple[Finding, ...]
    excerpts: tuple[Excerpt, ...]
    files: tuple[Path, ...]
    """That were asked for."""
    known: Known

    def __repr__(self) -> str:
        return "<Assembled>"  # as above


def assemble(
    reader: PartReader,
    path: Path,
    catalog: Catalog,
    environ: Mapping[str, str],
    *,
    unresolved: bool,
    known: Known,
) -> Assembled:
    """Check what `reader` has read. `path` is absolute, `known` what the load before this has left."""
    broken = [finding for part in reader.broken for finding in part.findings]
    if not reader.parts:
        findings = _in_order(broken)
        excerpts = _excerpts_of_broken(reader.broken, findings)
        return Assembled(None, findings, excerpts, tuple(reader.files), known)
    builder = _Builder(reader, path, catalog, environ, unresolved=unresolved, known=known)
    manifest = builder.build()
    if manifest is not None:
        return Assembled(manifest, (), (), manifest.files, builder.left(manifest))
    findings = _in_order([*broken, *builder.errors])
    excerpts = (*builder.excerpts(findings), *_excerpts_of_broken(reader.broken, findings))
    return Assembled(None, findings, excerpts, tuple(builder.files), builder.left(None))


def _excerpts_of_broken(parts: Iterable[BrokenPart], findings: Sequence[Finding]) -> tuple[Excerpt, ...]:
    excerpts: list[Excerpt] = []
    for part in parts:
        try:
            text = part.data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue  # there are no lines
        # Of what is larger, or has characters that drive a terminal, the place has to do.
        shown = [it for it in part.findings if it.code not in ("SC102", "SC103", "SC601") and it in findings]
        excerpts += of_broken_text(text, shown)
    return tuple(excerpts)


def _in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by place, each once, and no more than somebody will read."""
    ordered = sorted(
        dict.fromkeys(findings), key=lambda finding: (finding.mark, finding.code, finding.message)
    )
    if len(ordered) <= MAX_FINDINGS:
        return tuple(ordered)
    rest = ordered[MAX_FINDINGS:]
    more = Finding("SC607", f"and {len(rest)} more findings", rest[0].mark)
    return (*ordered[:MAX_FINDINGS], more)


@cache
def _form_of(*, is_fragment: bool) -> Compiled:
    return compiled(fragment_schema() if is_fragment else manifest_schema())


class _Builder:
    """Makes a manifest out of its documents, or gathers what is wrong with them."""

    def __init__(
        self,
        reader: PartReader,
        path: Path,
        catalog: Catalog,
        environ: Mapping[str, str],
        *,
        unresolved: bool,
        known: Known,
    ) -> None:
        self.parts = reader.parts
        self.top = reader.parts[0].document
        self.is_whole = not reader.broken and not reader.findings
        self.unresolved = unresolved
        self.known = known
        self.path = path
        self.catalog = catalog
        self.environ = environ
        self.errors: list[Finding] = list(reader.findings)
        self.warnings: list[Finding] = []
        self.types: dict[str, _Type | None] = {}
        self.files: list[Path] = list(reader.files)
        self.well_formed: set[PartKey] = set()
        self.verdicts: dict[tuple[str, bytes], _Verdict] = {}
        self.digests: dict[PartKey, _Digest] = {}
        self.places: list[Place] = []
        self.root: Mapping[str, Any] = self.top.value if isinstance(self.top.value, dict) else {}
        self.defaults = _mapping(self.root, "defaults")
        self.default_configs = _mapping(self.defaults, "config")
        self.declared: dict[str, Any] = {}
        """What is declared under each name, in all files."""
        self.owners: dict[str, Document] = {}
        """Where that is."""

    def build(self) -> Manifest | None:
        """None where there are errors."""
        for part in self.parts:
            self.check_form(part)
            self.gather(part)
        if self.is_whole:  # else what is missing may be in what could not be read
            self.check_default()
        specs = [self.provider(name, entry) for name, entry in self.declared.items()]
        self.check_default_configs()
        self.check_places()
        if self.errors or not self.is_whole:
            return None
        digest = self.digest()
        self.check_permissions()
        default = self.defaults.get("provider")
        warnings = _in_order(self.warnings)
        return Manifest(
            path=self.path,
            digest=digest,
            providers=MappingProxyType({spec.name: spec for spec in specs if spec is not None}),
            default=default,
            provider_marks=MappingProxyType(
                {name: document.key_mark(("providers", name)) for name, document in self.owners.items()}
            ),
            files=tuple(dict.fromkeys(self.files)),
            warnings=warnings,
            excerpts=self.excerpts(warnings),
        )

    def left(self, manifest: Manifest | None) -> Known:
        """What the next load may use."""
        return Known(
            {part.key: part.document for part in self.parts},
            {name: type_ for name, type_ in self.types.items() if type_ is not None},
            frozenset(self.well_formed),
            self.verdicts,
            self.digests if manifest is not None else {},
        )

    def excerpts(self, findings: tuple[Finding, ...]) -> tuple[Excerpt, ...]:
        """The lines of findings; no value of a config is shown whose type could not be used."""
        if not findings:
            return ()
        schemas = {name: type_.schema for name, type_ in self.types.items() if type_ is not None}
        excerpts: list[Excerpt] = []
        for part in self.parts:
            own = [it for it in findings if it.mark.source == part.document.source]
            excerpts += of_document(part.document, own, schemas) if own else ()
        return tuple(excerpts)

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
        if document is None:
            is_in_provider = len(pointer) > 1 and pointer[0] == "providers"
            document = self.owners.get(str(pointer[1]), self.top) if is_in_provider else self.top
        mark = document.key_mark(pointer) if on_key else document.mark(pointer)
        if on_key and pointer and isinstance(pointer[-1], str):
            pointer = (*pointer[:-1], shown_key(pointer[-1]))
        into = self.errors if severity == "error" else self.warnings
        into.append(Finding(code, message, mark, pointer, hint, severity))

    def check_form(self, part: Part) -> None:
        """One file by the schema of the manifest."""
        if part.key in self.known.well_formed:
            self.well_formed.add(part.key)
            return
        document, before = part.document, len(self.errors)
        is_fragment = document is not self.top
        for problem in _form_of(is_fragment=is_fragment).problems(document.value):
            hint = problem.hint
            if problem.pointer == ("providers",) and problem.code in ("SC202", "SC206"):
                hint = _NEVER_ALL
            elif is_fragment and problem.pointer == ("defaults",):
                hint = f"there is one for all files, in {self.top.source}"
            self.add(
                problem.code,
                problem.message,
                problem.pointer,
                hint,
                on_key=problem.on_key,
                document=document,
            )
        self.check_references(document.value, (), document)
        if len(self.errors) == before:
            self.well_formed.add(part.key)

    def check_references(self, value: Any, pointer: Pointer, document: Document) -> None:
        """There are none outside of configs."""
        is_config = pointer[-1:] == ("config",) and len(pointer) in (2, 3)
        if isinstance(value, dict) and not is_config:
            for key, item in value.items():
                if has_reference(key):
                    message = "a reference in a key is not resolved"
                    self.add("SC404", message, (*pointer, key), on_key=True, document=document)
                self.check_references(item, (*pointer, key), document)
        elif isinstance(value, list) and pointer == ("include",):
            for index, item in enumerate(value):
                self.check_references(item, (*pointer, index), document)
        elif isinstance(value, str) and has_reference(value):
            hint = "references are for the values of a config"
            self.add("SC404", "a reference is not resolved here", pointer, hint, document=document)

    def gather(self, part: Part) -> None:
        """The providers of one file: a name is there once in all of them."""
        document = part.document
        value = document.value if isinstance(document.value, dict) else {}
        for name, entry in _mapping(value, "providers").items():
            first = self.owners.get(name)
            if first is None:
                self.declared[name], self.owners[name] = entry, document
                continue
            place = first.key_mark(("providers", name))
            message = f"the provider `{name[:64]}` is declared in two files"
            hint = f"it is at {place} already; remove or rename one of the two"
            self.add("SC307", message, ("providers", name), hint, on_key=True, document=document)

    def check_default(self) -> None:
        """And that there is something to be one of."""
        if not self.declared and isinstance(self.root.get("include"), list) and not self.errors:
            message = "no provider is declared, neither here nor in an included file"
            self.add("SC202", message, ("include",), _NEVER_ALL, on_key=True)
            return
        name = self.defaults.get("provider")
        written = self.root.get("providers")
        if not self.declared and not isinstance(written, dict):
            return  # the schema of the manifest has said what is wrong: this would only follow from it
        if isinstance(written, dict) and isinstance(name, str) and name in written:
            return  # declared, if perhaps under a name of the wrong form
        if isinstance(name, str) and name and name not in self.declared and not has_reference(name):
            known = [str(declared) for declared in self.declared]
            hint = did_you_mean(name, known) or "declare it under `providers`, or name one that is there"
            self.add(
                "SC301", f"the default provider `{name[:64]}` is not declared", ("defaults", "provider"), hint
            )

    def check_default_configs(self) -> None:
        used = [entry.get("type") for entry in self.declared.values() if isinstance(entry, dict)]
        for name in self.default_configs:
            pointer = ("defaults", "config", name)
            if name not in self.catalog:
                self.add_unknown_type("SC304", name, pointer, on_key=True)
            elif name not in used:
                self.look_up(name, pointer, on_key=True)  # the digest has to know what is secret in it
                message = f"no provider is of type `{name}`"
                self.add("SC305", message, pointer, "remove it", on_key=True, severity="warning")

    def add_unknown_type(self, code: str, name: str, pointer: Pointer, *, on_key: bool = False) -> None:
        known = self.catalog.names()
        if name in NOT_YET:
            self.add("SC303", NOT_YET[name], pointer, f"there are: {', '.join(known)}", on_key=on_key)
            return
        hint = did_you_mean(name, known)
        listing = f"there are: {', '.join(known)}"
        message = f"there is no provider type `{name[:64]}`"
        self.add(code, message, pointer, f"{hint} {listing}" if hint else listing, on_key=on_key)

    def type_of(self, entry: Mapping[str, Any], pointer: Pointer) -> _Type | None:
        """The type of a provider; None, and a finding, where it cannot be used."""
        name = entry.get("type")
        if not isinstance(name, str) or not name or has_reference(name):
            return None  # the schema of the manifest has said so
        if name not in self.catalog:
            self.add_unknown_type("SC302", name, (*pointer, "type"))
            return None
        return self.look_up(name, (*pointer, "type"))

    def look_up(self, name: str, pointer: Pointer, *, on_key: bool = False) -> _Type:
        """A type that exists, its schema checked."""
        found = self.types.get(name)
        if found is None:
            factory = self.catalog.factory(name)
            schema = factory.config_schema()
            known = self.known.types.get(name)
            if known is not None and not known.is_broken and _is_same_type(known, factory, schema):
                self.types[name] = known
                return known
            wrong = () if schema is None else check_schema(schema)
            if wrong:
                message = f"the schema of the type `{name}` is broken: {'; '.join(wrong[:3])}"
                hint = "this is a fault of whoever wrote the type"
                self.add("SC501", message, pointer, hint, on_key=on_key)
            found = self.types[name] = _Type(
                factory,
                None if wrong or schema is None else compiled(schema),
                bool(wrong),
                has_defaults=not wrong and mentions(schema, "default"),
                has_paths=not wrong and mentions(schema, "x-path"),
                has_secrets=not wrong and mentions(schema, "x-secret"),
                has_advice=not wrong and (mentions(schema, "x-path") or mentions(schema, "deprecated")),
                has_exclusive=not wrong and mentions(schema, "x-exclusive"),
            )
        return found

    def provider(self, name: str, entry: Any) -> ProviderSpec | None:
        """One declaration with its config complete; what is wrong with it is noted."""
        pointer = ("providers", name)
        own = entry.get("config", {}) if isinstance(entry, dict) else None
        if not isinstance(own, dict):
            return None  # the schema of the manifest has said so
        type_ = self.type_of(entry, pointer)
        if type_ is None or type_.is_broken:
            return None
        schema, base_directory = type_.schema, self.path.parent
        beneath = _mapping(self.default_configs, entry["type"])
        key = (name, _content([entry["type"], entry.get("display_name"), beneath, own]))
        verdict = self.known.verdicts.get(key)
        if verdict is not None and verdict.type is type_ and verdict.resolved is None:
            return self.passed(key, verdict)
        merged = merge(beneath, own)
        resolved = resolve(
            merged,
            environ=self.environ,
            base_directory=base_directory,
            types_at=lambda place: types_at(schema, merged).get(place, frozenset()),
            unresolved=self.unresolved,
        )
        self.files.extend(resolved.files)
        content = _content(resolved.config) if resolved.referenced else None
        if verdict is not None and verdict.type is type_ and verdict.resolved == content:
            return self.passed(key, verdict)
        config = fill_defaults(schema, resolved.config) if type_.has_defaults else resolved.config
        secrets = resolved.secrets
        if type_.compiled is not None and type_.has_paths:
            config = type_.compiled.with_absolute_paths(config, base_directory)
        if type_.compiled is not None and type_.has_secrets:
            secrets |= type_.compiled.secret_pointers(config)
        spec = ProviderSpec(name, entry["type"], config, entry.get("display_name"), secrets)
        found = _problems(type_, spec, resolved)
        for problem in found:
            place = self.place(name, entry["type"], problem.pointer)
            self.add(problem.code, problem.message, place, problem.hint, on_key=problem.on_key)
        if found:
            return spec
        counsel: tuple[Problem, ...] = ()
        places: tuple[Place, ...] = ()
        if type_.compiled is not None and type_.has_advice:
            counsel = tuple(
                it for it in advice(type_.compiled, resolved.config) if it.pointer not in resolved.unresolved
            )
        if type_.compiled is not None and type_.has_exclusive:
            found_places = exclusive_places(name, type_.compiled, config)
            places = tuple(it for it in found_places if it.pointer not in resolved.unresolved)
        return self.passed(key, _Verdict(spec, type_, content, counsel, places))

    def passed(self, key: tuple[str, bytes], verdict: _Verdict) -> ProviderSpec:
        """Note what comes with a provider that is right."""
        spec = verdict.spec
        for problem in verdict.advice:
            place = self.place(spec.name, spec.type, problem.pointer)
            self.add(
                problem.code,
                problem.message,
                place,
                problem.hint,
                on_key=problem.on_key,
                severity="warning",
            )
        self.places += verdict.places
        if not self.unresolved:
            self.verdicts[key] = verdict
        return spec

    def check_places(self) -> None:
        """What two providers want for themselves."""
        for place, other, is_same in overlaps(self.places):
            at = self.owners[other.provider].key_mark(("providers", other.provider))
            pointer = self.place(place.provider, self.declared[place.provider]["type"], place.pointer)
            if pointer[0] == "defaults" or not _exists(self.owners[place.provider].value, pointer):
                pointer = ("providers", place.provider)  # it is the default: what is declared is to be mended
            hint = f"`{other.provider}` is at {at}; give each a directory of its own"
            if is_same:
                message = f"the providers `{other.provider}` and `{place.provider}` are at the same place"
                self.add("SC309", message, pointer, hint, on_key=len(pointer) == 2)
            else:
                message = f"the provider `{place.provider}` is inside of the directory of `{other.provider}`"
                self.add("SC310", message, pointer, hint, on_key=len(pointer) == 2, severity="warning")

    def check_permissions(self) -> None:
        """Who may read a file may read the secrets that are in it."""
        if os.name != "posix":
            return  # what the mode says elsewhere is not who may read
        for part in self.parts:
            secret = self.digests[part.key].secret
            try:
                mode = stat.S_IMODE(part.path.stat().st_mode) if secret is not None else 0
            except OSError:  # it is gone since it was read, or never was there
                continue
            if secret is not None and mode & stat.S_IROTH:
                message = f"a secret in a file that every user of this machine may read (mode {mode:04o})"
                hint = f"chmod o-r {shlex.quote(str(part.path))}, or refer to it by ${{env:…}} or ${{file:…}}"
                self.add("SC406", message, secret, hint, severity="warning", document=part.document)

    def place(self, name: str, type_name: str, pointer: Pointer) -> Pointer:
        """Where in the manifest a part of a merged config comes from."""
        own: Pointer = ("providers", name, "config", *pointer)
        beneath: Pointer = ("defaults", "config", type_name, *pointer)
        is_own = _exists(self.owners[name].value, own)
        return own if is_own or not _exists(self.root, beneath) else beneath

    def digest(self) -> str:
        """Of the texts of all files."""
        is_known = self.types == self.known.types
        for part in self.parts:
            known = self.known.digests.get(part.key) if is_known else None
            self.digests[part.key] = known or self.digest_of(part.document)
        first, *others = (self.digests[part.key].value for part in self.parts)
        return sha256(" ".join([first, *others]).encode()).hexdigest() if others else first

    def digest_of(self, document: Document) -> _Digest:
        """Of one text, with every literal under `x-secret` masked."""
        root = document.value
        default_configs = self.default_configs if document is self.top else ()
        layers = [(name, ("defaults", "config", name)) for name in default_configs]
        layers += [
            (entry["type"], ("providers", name, "config"))
            for name, entry in _mapping(root, "providers").items()
        ]
        spans: list[tuple[int, int]] = []
        secrets: list[Pointer] = []
        for type_name, pointer in layers:
            type_ = self.types.get(type_name)
            if type_ is None or type_.compiled is None or not type_.has_secrets or not _exists(root, pointer):
                continue
            layer = _at(root, pointer)
            for place in type_.compiled.secret_pointers(layer):
                value = _at(layer, place)
                if not (isinstance(value, str) and _only_a_reference.fullmatch(value)):
                    spans.append(document.span((*pointer, *place)))
                    secrets.append((*pointer, *place))
        text, pieces, end = document.text, [], 0
        for start, stop in sorted(spans):
            if start >= end:  # an alias has the place of what it stands for
                pieces += [text[end:start], MASK]
                end = stop
        value = sha256("".join([*pieces, text[end:]]).encode()).hexdigest()
        return _Digest(value, min(secrets, key=document.span, default=None))


def _problems(type_: _Type, spec: ProviderSpec, resolved: Resolved) -> list[Problem]:
    """All that is wrong with a complete config, by its references, its schema and its type."""
    found = list(resolved.problems)
    for problem in type_.compiled.problems(spec.config) if type_.compiled is not None else ():
        at = problem.pointer[: len(problem.pointer) - problem.on_key]  # a wrong key is wrong with any value
        if any(at[:depth] in resolved.unresolved for depth in range(len(at) + 1)):
            continue  # what the value would be is not known
        if problem.code == "SC209" and any(
            place[: len(problem.pointer)] == problem.pointer for place in resolved.unresolved
        ):
            continue  # nor whether a rule holds for what it is in
        if problem.code == "SC203" and problem.pointer in resolved.referenced:
            problem = replace(problem, hint="what the reference gives does not read as one")
        found.append(problem)
    if not found and not resolved.unresolved:
        found.extend(_ask_the_factory(type_.factory, spec.config, spec.secrets))
    return found


def _content(value: Any) -> bytes:
    """The same for the same values, in the same order; `repr` tells 1, 1.0 and True apart."""
    return sha256(repr(value).encode("utf-8", "surrogatepass")).digest()


def _ask_the_factory(
    factory: StorageProviderFactory, config: Mapping[str, Any], secrets: Iterable[Pointer]
) -> list[Problem]:
    """What the type itself has to say to a config that fits its schema."""
    try:
        factory.validate_config(config)
    except InvalidConfigError as error:
        return [Problem((), "SC210", redact(text, config, secrets)) for text in error.problems]
    except ValueError as error:
        return [Problem((), "SC210", redact(str(error), config, secrets))]
    except Exception as error:  # noqa: BLE001 - foreign code; its text may hold anything, its type does not
        return [Problem((), "SC502", f"the check of this type failed with {type(error).__name__}")]
    return []


def _is_same_type(known: _Type, factory: StorageProviderFactory, schema: Mapping[str, Any] | None) -> bool:
    return known.factory is factory and _content(known.schema) == _content(schema)


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _at(value: Any, pointer: Pointer) -> Any:
    for part in pointer:
        value = value[part]
    return value


def _exists(value: Any, pointer: Pointer) -> bool:
    try:
        _at(value, pointer)
    except (LookupError, TypeError):  # no such key, or nothing that has keys
        return False
    return True
