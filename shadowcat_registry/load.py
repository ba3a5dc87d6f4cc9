"""A path → a valid `Manifest`, or every finding at once.

Validates in two steps, the manifest by its schema, then each config by that of its type, and checks what
no schema can say. Opens the manifest and the files that it refers to; of the providers it uses nothing
but what their factories say of themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from .backend import StorageProviderFactory
from .catalog import NOT_YET, Catalog
from .document import MAX_BYTES, MAX_FINDINGS, Document, parse_document
from .errors import (
    Excerpt,
    Finding,
    InvalidConfigError,
    ManifestError,
    ManifestNotFoundError,
    Problem,
    Severity,
    did_you_mean,
)
from .excerpts import of_broken_text, of_document
from .interpolate import MASK, describe, has_reference, redact, resolve
from .manifest import Manifest
from .marks import Mark, Pointer
from .metadata import ProviderSpec
from .schema import (
    check_schema,
    fill_defaults,
    make_paths_absolute,
    mentions,
    merge,
    problems,
    secret_pointers,
    types_at,
)
from .schema_files import manifest_schema
from .sight import read_settled

_only_a_reference: Final = re.compile(r"\$\{(?:env:[A-Za-z_][A-Za-z0-9_]*|file:[^}]*)\}")


def load_manifest(
    path: Path, catalog: Catalog, *, environ: Mapping[str, str] | None = None, unresolved: bool = False
) -> Manifest:
    """Read and check the manifest at `path`; `environ` stands for the environment.

    With `unresolved`, neither the environment nor a `${file:…}` is looked at: a reference stands for any
    value that its field may have. What comes out is right or wrong, and not to be used otherwise.

    Raises:
        ManifestNotFoundError: it cannot be read, with the reason.
        ManifestError: it is invalid, with all findings.
    """
    try:
        data = read_settled(path, limit_bytes=MAX_BYTES + 1)
    except FileNotFoundError:
        raise ManifestNotFoundError(str(path)) from None
    except OSError as error:
        raise ManifestNotFoundError(str(path), describe(error)) from None
    except ValueError:
        raise ManifestNotFoundError(repr(str(path)), "this is no path") from None
    result = _build(data, path, catalog, environ, unresolved=unresolved)
    # What is printed of this frame along with an error must not show what was read.
    del data, environ
    return _manifest_of(result)


def parse_manifest(
    data: bytes, path: Path, catalog: Catalog, environ: Mapping[str, str] | None = None
) -> Manifest:
    """Check `data` as the manifest at `path`, which is not read.

    Raises:
        ManifestError: it is invalid, with all findings.
    """
    result = _build(data, path, catalog, environ)
    del data, environ  # as above
    return _manifest_of(result)


_Refusal = tuple[tuple[Finding, ...], tuple[Excerpt, ...]]


def _manifest_of(result: Manifest | _Refusal) -> Manifest:
    if isinstance(result, Manifest):
        return result
    raise ManifestError(*result)


def _build(
    data: bytes,
    path: Path,
    catalog: Catalog,
    environ: Mapping[str, str] | None,
    *,
    unresolved: bool = False,
) -> Manifest | _Refusal:
    try:
        document = parse_document(data, str(path))
    except ManifestError as error:
        findings = _in_order(error.findings)
        return findings, _excerpts_of_broken(data, findings)
    builder = _Builder(
        document, path, catalog, os.environ if environ is None else environ, unresolved=unresolved
    )
    manifest = builder.build()
    if manifest is not None:
        return manifest
    findings = _in_order(builder.errors)
    return findings, builder.excerpts(findings)


def _excerpts_of_broken(data: bytes, findings: tuple[Finding, ...]) -> tuple[Excerpt, ...]:
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return ()  # there are no lines
    # Of what is larger, or has characters that drive a terminal, the place has to do.
    shown = [finding for finding in findings if finding.code not in ("SC102", "SC103", "SC601")]
    return of_broken_text(text, shown)


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


@dataclass(frozen=True, slots=True)
class _Type:
    """A provider type that is in use, with its schema; without one if that is broken."""

    factory: StorageProviderFactory
    schema: Mapping[str, Any] | None
    is_broken: bool = False
    has_paths: bool = False
    has_secrets: bool = False


class _Builder:
    """Makes a manifest out of one document, or gathers what is wrong with it."""

    def __init__(
        self,
        document: Document,
        path: Path,
        catalog: Catalog,
        environ: Mapping[str, str],
        *,
        unresolved: bool,
    ) -> None:
        self.document = document
        self.unresolved = unresolved
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        self.catalog = catalog
        self.environ = environ
        self.errors: list[Finding] = []
        self.warnings: list[Finding] = []
        self.types: dict[str, _Type | None] = {}
        self.files: list[Path] = [self.path]
        value = document.value
        self.root: Mapping[str, Any] = value if isinstance(value, dict) else {}
        self.defaults = _mapping(self.root, "defaults")
        self.default_configs = _mapping(self.defaults, "config")
        self.declared = _mapping(self.root, "providers")

    def build(self) -> Manifest | None:
        """None where there are errors."""
        self.check_shape()
        self.check_references(self.root, ())
        self.check_default()
        specs = [self.provider(name, entry) for name, entry in self.declared.items()]
        self.check_default_configs()
        if self.errors:
            return None
        default = self.defaults.get("provider")
        warnings = _in_order(self.warnings)
        return Manifest(
            path=self.path,
            digest=self.digest(),
            providers=MappingProxyType({spec.name: spec for spec in specs if spec is not None}),
            default=default,
            provider_marks=MappingProxyType(self.document.key_marks(("providers",))),
            files=tuple(dict.fromkeys(self.files)),
            warnings=warnings,
            excerpts=self.excerpts(warnings),
        )

    def excerpts(self, findings: tuple[Finding, ...]) -> tuple[Excerpt, ...]:
        """The lines of findings; no value of a config is shown whose type could not be used."""
        schemas = {name: type_.schema for name, type_ in self.types.items() if type_ is not None}
        return of_document(self.document, findings, schemas) if findings else ()

    def add(
        self,
        code: str,
        message: str,
        pointer: Pointer,
        hint: str | None = None,
        *,
        on_key: bool = False,
        severity: Severity = "error",
    ) -> None:
        mark: Mark = self.document.key_mark(pointer) if on_key else self.document.mark(pointer)
        into = self.errors if severity == "error" else self.warnings
        into.append(Finding(code, message, mark, pointer, hint, severity))

    def check_shape(self) -> None:
        """By the schema of the manifest."""
        for problem in problems(manifest_schema(), self.document.value):
            hint = problem.hint
            if problem.pointer == ("providers",) and problem.code in ("SC202", "SC206"):
                hint = (
                    "a manifest without providers never means that all are to go: stop the process for that"
                )
            self.add(problem.code, problem.message, problem.pointer, hint, on_key=problem.on_key)

    def check_references(self, value: Any, pointer: Pointer) -> None:
        """There are none outside of configs."""
        is_config = pointer[-1:] == ("config",) and len(pointer) in (2, 3)
        if isinstance(value, dict) and not is_config:
            for key, item in value.items():
                if has_reference(key):
                    message = "a reference in a key is not resolved"
                    self.add("SC404", message, (*pointer, key), on_key=True)
                self.check_references(item, (*pointer, key))
        elif isinstance(value, str) and has_reference(value):
            hint = "references are for the values of a config"
            self.add("SC404", "a reference is not resolved here", pointer, hint)

    def check_default(self) -> None:
        name = self.defaults.get("provider")
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
            wrong = () if schema is None else check_schema(schema)
            if wrong:
                message = f"the schema of the type `{name}` is broken: {'; '.join(wrong[:3])}"
                hint = "this is a fault of whoever wrote the type"
                self.add("SC501", message, pointer, hint, on_key=on_key)
            found = self.types[name] = _Type(
                factory,
                None if wrong else schema,
                bool(wrong),
                has_paths=not wrong and mentions(schema, "x-path"),
                has_secrets=not wrong and mentions(schema, "x-secret"),
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
        beneath = self.default_configs.get(entry["type"], {})
        merged = merge(beneath if isinstance(beneath, dict) else {}, own)
        resolved = resolve(
            merged,
            environ=self.environ,
            base_directory=base_directory,
            types_at=lambda place: types_at(schema, merged).get(place, frozenset()),
            unresolved=self.unresolved,
        )
        self.files.extend(resolved.files)
        config = fill_defaults(schema, resolved.config)
        secrets = resolved.secrets
        if type_.has_paths:
            config = make_paths_absolute(schema, config, base_directory)
        if type_.has_secrets:
            secrets |= secret_pointers(schema, config)
        found = list(resolved.problems)
        for problem in problems(schema, config):
            if any(
                problem.pointer[:depth] in resolved.unresolved for depth in range(len(problem.pointer) + 1)
            ):
                continue  # what the value would be is not known
            if problem.code == "SC209" and any(
                place[: len(problem.pointer)] == problem.pointer for place in resolved.unresolved
            ):
                continue  # nor whether a rule holds for what it is in
            if problem.code == "SC203" and problem.pointer in resolved.referenced:
                problem = replace(problem, hint="what the reference gives does not read as one")
            found.append(problem)
        if not found and not resolved.unresolved:
            found.extend(_ask_the_factory(type_.factory, config, secrets))
        for problem in found:
            place = self.place(name, entry["type"], problem.pointer)
            self.add(problem.code, problem.message, place, problem.hint, on_key=problem.on_key)
        display_name = entry.get("display_name")
        return ProviderSpec(name, entry["type"], config, display_name, secrets)

    def place(self, name: str, type_name: str, pointer: Pointer) -> Pointer:
        """Where in the manifest a part of a merged config comes from."""
        own: Pointer = ("providers", name, "config", *pointer)
        beneath: Pointer = ("defaults", "config", type_name, *pointer)
        return own if _exists(self.root, own) or not _exists(self.root, beneath) else beneath

    def digest(self) -> str:
        """Of the text, with every literal under `x-secret` masked."""
        layers = [(name, ("defaults", "config", name)) for name in self.default_configs]
        layers += [(entry["type"], ("providers", name, "config")) for name, entry in self.declared.items()]
        spans: list[tuple[int, int]] = []
        for type_name, pointer in layers:
            type_ = self.types.get(type_name)
            if type_ is None or not type_.has_secrets or not _exists(self.root, pointer):
                continue
            layer = _at(self.root, pointer)
            for place in secret_pointers(type_.schema, layer):
                value = _at(layer, place)
                if not (isinstance(value, str) and _only_a_reference.fullmatch(value)):
                    spans.append(self.document.span((*pointer, *place)))
        text, pieces, end = self.document.text, [], 0
        for start, stop in sorted(spans):
            if start >= end:  # an alias has the place of what it stands for
                pieces += [text[end:start], MASK]
                end = stop
        return sha256("".join([*pieces, text[end:]]).encode()).hexdigest()


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
