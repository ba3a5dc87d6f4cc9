"""The documents of a manifest → the `Manifest`, or every finding at once.

Puts the steps together: each file by the schema of the manifest, each declaration by that of its type
(`declarations`), then what has to hold between them (`rules`). Whatever a step finds, the next ones run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from .candidate import Candidate, SourceDigest, mapping_in
from .catalog import Catalog
from .declarations import Declarations, Verdict, VerdictKey
from .document import Document
from .end_marker import unfinished
from .errors import Excerpt, Finding
from .excerpts import of_broken_text
from .includes import BrokenPart, Part, PartKey, PartReader
from .interpolate import has_literal_password, has_reference
from .manifest import Manifest, ReloadPolicy
from .marks import Mark, Pointer
from .parse import MAX_FINDINGS
from .rules import NEVER_ALL, RULES
from .schema import Compiled, compiled
from .schema_files import fragment_schema, manifest_schema
from .source_digest import combined, source_digests
from .types_in_use import TypeInUse

_UNKNOWN_TYPE: Final = frozenset({"SC302", "SC303", "SC304", "SC806"})


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What one load leaves to the next: of the files and providers it used, and of nothing older. Holds what
    the manifest holds, secrets included. Never changed, so loads in several threads may share it."""

    documents: Mapping[PartKey, Document] = field(default_factory=dict)
    types: Mapping[str, TypeInUse] = field(default_factory=dict)
    well_formed: frozenset[PartKey] = frozenset()
    """The files that the schema of the manifest has nothing against."""
    verdicts: Mapping[VerdictKey, Verdict] = field(default_factory=dict)
    digests: Mapping[PartKey, SourceDigest] = field(default_factory=dict)
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
    patterns: tuple[Path, ...] = ()
    """What new files of plugins may come to match."""
    digest: str | None = None
    """Of what was refused, if it is known where its secrets are."""

    def __repr__(self) -> str:
        return "<Assembled>"  # as above


def assemble(
    reader: PartReader,
    path: Path,
    catalog: Catalog,
    environ: Mapping[str, str],
    *,
    plug_in: Callable[[Candidate], object],
    unresolved: bool,
    known: Known,
    require_end_marker: bool = False,
) -> Assembled:
    """Check what `reader` has read. `path` is absolute, `known` what the load before this has left; `plug_in`
    gives a candidate the types of its plugins. With `require_end_marker` each file has to have one, whatever
    the manifest itself says."""
    broken = [finding for part in reader.broken for finding in part.findings]
    if require_end_marker:
        broken += [finding for part in reader.broken for finding in unfinished(part.source, part.text)]
    if not reader.parts:
        findings = _in_order(broken)
        excerpts = _excerpts_of_broken(reader.broken, findings)
        return Assembled(None, findings, excerpts, tuple(reader.files), known)
    candidate = Candidate(reader, path, catalog, known.types)
    if candidate.is_too_large:
        findings = _in_order([*broken, *candidate.findings])
        excerpts = (*candidate.excerpts(findings), *_excerpts_of_broken(reader.broken, findings))
        return Assembled(None, findings, excerpts, tuple(dict.fromkeys(reader.files)), known)
    well_formed = frozenset(
        part.key
        for part in candidate.parts
        if part.key in known.well_formed or _has_good_form(candidate, part)
    )
    plug_in(candidate)
    plugins = candidate.plugins
    declarations = Declarations(candidate, environ, known.verdicts, unresolved=unresolved)
    declarations.check_all()
    is_known = candidate.types == known.types
    candidate.digests = source_digests(candidate, known.digests if is_known else {})
    for rule in RULES:
        if not candidate.is_full:
            rule(candidate)
    if require_end_marker or mapping_in(candidate.root, "reload").get("require_end_marker") is True:
        documents = [part.document for part in candidate.parts]
        for document in documents:
            for finding in unfinished(document.source, document.text):
                candidate.note(finding)
    left = Known(
        {part.key: part.document for part in candidate.parts},
        candidate.types,
        well_formed,
        declarations.verdicts,
        candidate.digests,
    )
    patterns = plugins.patterns if plugins is not None else ()
    files = tuple(dict.fromkeys([*reader.files, *(plugins.files if plugins else ()), *declarations.files]))
    is_cut = candidate.is_full or sum(candidate.counts.values()) > len(candidate.findings)
    findings = _in_order([*broken, *candidate.findings], is_cut=is_cut)
    excerpts = (*candidate.excerpts(findings), *_excerpts_of_broken(reader.broken, findings))
    if broken or candidate.has_errors:
        is_clear = candidate.is_whole and well_formed == {part.key for part in candidate.parts}
        is_clear = is_clear and not any(type_.faults for type_ in candidate.types.values())
        is_clear = is_clear and not any(finding.code in _UNKNOWN_TYPE for finding in findings)
        digest = combined(candidate.digests.values()) if is_clear else None
        return Assembled(None, findings, excerpts, files, left, patterns, digest)
    manifest = Manifest(
        path=path,
        digest=combined(candidate.digests.values()),
        providers=MappingProxyType(candidate.specs),
        default=candidate.defaults.get("provider"),
        provider_marks=MappingProxyType(
            {name: document.key_mark(("providers", name)) for name, document in candidate.owners.items()}
        ),
        files=files,
        warnings=findings,
        excerpts=excerpts,
        reload=ReloadPolicy(**mapping_in(candidate.root, "reload")),
        texts=MappingProxyType({part.path: part.document.text for part in candidate.parts}),
        literal_secret=_literal_secret(candidate),
        catalog=None if plugins is None else candidate.catalog,
        plugins=plugins,
    )
    return Assembled(manifest, (), (), files, left, patterns)


def _literal_secret(candidate: Candidate) -> Mark | None:
    for part in candidate.parts:
        secret = candidate.digests[part.key].secret
        if secret is not None:
            return part.document.mark(secret)
        if has_literal_password(part.document.text):
            return Mark.at_start(part.document.source)
    return None


@cache
def _form_of(*, is_fragment: bool) -> Compiled:
    return compiled(fragment_schema() if is_fragment else manifest_schema())


def _has_good_form(candidate: Candidate, part: Part) -> bool:
    """Whether the schema of the manifest has nothing against one file; what it has is noted."""
    document, before = part.document, candidate.counts["error"]
    is_fragment = document is not candidate.top
    for problem in _form_of(is_fragment=is_fragment).problems(document.value):
        hint = problem.hint
        if problem.pointer == ("providers",) and problem.code in ("SC202", "SC206"):
            hint = NEVER_ALL
        elif is_fragment and problem.pointer in (("defaults",), ("plugins",), ("reload",)):
            hint = f"there is one for all files, in {candidate.top.source}"
        candidate.add(
            problem.code, problem.message, problem.pointer, hint, on_key=problem.on_key, document=document
        )
    _check_references(candidate, document.value, (), document)
    return candidate.counts["error"] == before


def _check_references(candidate: Candidate, value: Any, pointer: Pointer, document: Document) -> None:
    """There are none outside of configs."""
    is_config = pointer[-1:] == ("config",) and len(pointer) in (2, 3)
    if isinstance(value, dict) and not is_config:
        for key, item in value.items():
            if has_reference(key):
                message = "a reference in a key is not resolved"
                candidate.add("SC404", message, (*pointer, key), on_key=True, document=document)
            _check_references(candidate, item, (*pointer, key), document)
    elif isinstance(value, list) and not is_config:
        for index, item in enumerate(value):
            _check_references(candidate, item, (*pointer, index), document)
    elif isinstance(value, str) and has_reference(value):
        hint = "references are for the values of a config"
        candidate.add("SC404", "a reference is not resolved here", pointer, hint, document=document)


def _excerpts_of_broken(parts: Iterable[BrokenPart], findings: Sequence[Finding]) -> tuple[Excerpt, ...]:
    excerpts: list[Excerpt] = []
    for part in parts:
        text = part.text
        if not text:
            continue  # it is not UTF-8: there are no lines
        # Of what is larger, or has characters that drive a terminal, the place has to do.
        shown = [it for it in part.findings if it.code not in ("SC102", "SC103", "SC601") and it in findings]
        excerpts += of_broken_text(text, shown)
    return tuple(excerpts)


def _in_order(findings: Iterable[Finding], *, is_cut: bool = False) -> tuple[Finding, ...]:
    """Sorted by place, each once, and no more than somebody will read; what is left out are warnings before
    it is errors. With `is_cut` there are more than these."""

    def by_place(finding: Finding) -> tuple[object, ...]:
        return finding.mark, finding.code, finding.message

    # What aliases share is at one place, for several pointers.
    ordered = sorted({by_place(finding): finding for finding in findings}.values(), key=by_place)
    if len(ordered) <= MAX_FINDINGS:
        return tuple(ordered)
    ordered.sort(key=lambda finding: finding.severity == "warning")
    rest = ordered[MAX_FINDINGS:]
    number = f"at least {len(rest)}" if is_cut else len(rest)
    more = Finding("SC607", f"and {number} more findings", rest[0].mark, severity=rest[0].severity)
    return (*sorted(ordered[:MAX_FINDINGS], key=by_place), more)
