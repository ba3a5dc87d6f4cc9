"""The digest of a manifest's texts, with every literal secret masked: it can be shown and stored.

A fingerprint of the text itself would let anybody try out secrets. References stay in: they are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

from .candidate import Candidate, SourceDigest, exists_at, mapping_in, value_at
from .document import Document
from .includes import PartKey
from .interpolate import MASK, has_wrong_reference
from .marks import Pointer

_only_a_reference: Final = re.compile(r"\$\{(?:env:[A-Za-z_][A-Za-z0-9_]*|file:[^}]*)\}")


def source_digests(
    candidate: Candidate, known: Mapping[PartKey, SourceDigest]
) -> dict[PartKey, SourceDigest]:
    """Of each file, by the types that the candidate uses; `known` are those of the same types."""
    return {
        part.key: known.get(part.key) or _source_digest(candidate, part.document) for part in candidate.parts
    }


def combined(digests: Iterable[SourceDigest]) -> str:
    """One for all files; that of a single file is its own."""
    first, *others = (digest.value for digest in digests)
    return sha256(" ".join([first, *others]).encode()).hexdigest() if others else first


def _source_digest(candidate: Candidate, document: Document) -> SourceDigest:
    root = document.value if isinstance(document.value, dict) else {}
    default_configs = candidate.default_configs if document is candidate.top else ()
    layers: list[tuple[Any, Pointer]] = [(name, ("defaults", "config", name)) for name in default_configs]
    layers += [
        (entry.get("type"), ("providers", name, "config"))
        for name, entry in mapping_in(root, "providers").items()
        if isinstance(entry, dict)
    ]
    spans: list[tuple[int, int]] = []
    secrets: list[Pointer] = []
    for type_name, pointer in layers:
        type_ = candidate.types.get(type_name) if isinstance(type_name, str) else None
        if type_ is None and candidate.has_unseen_types and exists_at(root, pointer):
            spans.append(document.span(pointer))  # anything in it may be secret
        if type_ is None or type_.compiled is None or not type_.has_secrets or not exists_at(root, pointer):
            continue
        layer = value_at(root, pointer)
        for place in type_.compiled.secret_pointers(layer):
            value = value_at(layer, place)
            if isinstance(value, str) and _only_a_reference.fullmatch(value):
                continue
            spans.append(document.span((*pointer, *place)))
            if not (isinstance(value, str) and has_wrong_reference(value)):  # which is said, and is no secret
                secrets.append((*pointer, *place))
    text, pieces, end = document.text, [], 0
    for start, stop in sorted(spans):
        if start >= end:  # an alias has the place of what it stands for
            pieces += [text[end:start], MASK]
            end = stop
    masked = "".join([*pieces, text[end:]])
    return SourceDigest(sha256(masked.encode()).hexdigest(), min(secrets, key=document.span, default=None))
