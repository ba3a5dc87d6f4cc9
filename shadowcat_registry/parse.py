"""Bytes → plain values, with a mark for every key and value. Refuses whatever is ambiguous.

One pass over the events of libyaml, which builds the values, holds the budgets and refuses duplicate
keys, tags and the like before anything else looks at the data: a text that exhausts or crashes a YAML
loader never gets to one. Scalars are read by the core schema of YAML 1.2. Knows nothing of manifests.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple, NoReturn

import yaml

from .core_schema import MAY_BE_SPECIAL, NUMBER_STARTS, SPECIAL_KEYS, RefusedScalar, plain_value
from .document import Document, Size
from .errors import Finding, ManifestError
from .marks import Mark
from .syntax_errors import syntax_fault

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_NODES: Final = 400_000
"""Keys and values: a manifest of 10,000 providers of 16 lines has 340,000. With the two bounds below, no text
takes much longer than that one; without any, libyaml alone takes a second for 2,000,000."""
MAX_COLLECTIONS: Final = 100_000
"""Lists and mappings among them, which take three times as long as others: 10,000 providers have 40,000."""
MAX_ANCHORS: Final = 10_000
"""Each is kept, as an alias may come."""
MAX_SCALAR_CHARACTERS: Final = 1024 * 1024
MAX_ALIASED_NODES: Final = 100_000
"""Aliases are accepted, as they spare repetition, and counted at what they stand for: nothing that walks
the values later can meet more of them than the budgets allow, however they refer to each other."""
MAX_FINDINGS: Final = 50

_logger = logging.getLogger(__name__)

# Line separators of YAML 1.1 that YAML 1.2 does not know and editors do not show are among them.
_not_text = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_PIECE_BYTES: Final = 64 * 1024
"""What is not in one piece needs no new memory from the system."""
_KEPT_PLACES: Final = 500
_KEPT_SCALARS: Final = 1_024
"""Most keys and many values of a manifest are there again and again: of so many it is known what they are."""
_ascii_text: Final = bytes([*b"\t\n\r", *range(0x20, 0x7F)])
_not_in_value = re.compile("[\x00\ud800-\udfff]")
_tag_directive = re.compile(r"(?:\A|(?<=[\r\n]))%(?!YAML)")


class Budget:
    """What several texts may hold together: each takes its part when it is read, right or wrong."""

    def __init__(self) -> None:
        self.nodes, self.collections, self.anchors = MAX_NODES, MAX_COLLECTIONS, MAX_ANCHORS
        self.is_shared = False

    def take(self, size: Size) -> None:
        self.nodes -= size.nodes
        self.collections -= size.collections
        self.anchors -= size.anchors
        self.is_shared = True

    @property
    def is_exceeded(self) -> bool:
        return min(self.nodes, self.collections, self.anchors) < 0


def parse_document(data: bytes, source: str, budget: Budget | None = None) -> Document:
    """Read one YAML document; `source` is its name in marks.

    Raises:
        ManifestError: it is refused; no input raises anything else.
    """
    budget = budget or Budget()
    reader = _Reader(source, _decode(data, source), budget)
    try:
        return reader.read(data.removeprefix(codecs.BOM_UTF8))
    finally:
        reader.keep_places()
        budget.take(reader.document.size)


def _decode(data: bytes, source: str) -> str:
    start = Mark.at_start(source)
    if len(data) > MAX_BYTES:
        message = f"the file has more than {MAX_BYTES // 1024 // 1024} MiB"
        raise ManifestError([Finding("SC601", message, start, hint="is it the right file?")])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError([Finding("SC101", "the file is UTF-16", start, hint="save it as UTF-8")])
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        # Whatever is before the bad byte is valid: it says how many lines and characters that is.
        before = Document(source, data[: error.start].decode("utf-8").removeprefix("\ufeff"))
        end = len(before.text)
        place = before.mark_at(end)
        mark = Mark(source, place.line, place.column, place.line, place.column + 1)
        message = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise ManifestError([Finding("SC101", message, mark, hint="save the file as UTF-8")]) from None
    # Most manifests are plain ASCII, which is seen in a tenth of the time.
    pieces = (data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES))
    if any(piece.translate(None, _ascii_text) for piece in pieces) and (found := _not_text.search(text)):
        message = f"the character U+{ord(found[0]):04X} cannot be in a manifest"
        hint = "remove it; in a text in double quotes it can be written as an escape sequence"
        raise ManifestError(
            [Finding("SC102", message, Document(source, text).mark_at(found.start()), (), hint)]
        )
    return text


@cache
def _loader() -> Callable[[bytes], Any]:
    # The event pass in pure Python is some twenty times slower: it must not be used unnoticed.
    if yaml.__with_libyaml__:
        return yaml.CSafeLoader
    _logger.warning("PyYAML is installed without libyaml: reading a large manifest will be slow")
    return yaml.SafeLoader


class _Refused:
    """Stands in a mapping for a key that was refused, so that keys and node numbers stay in step."""


class _Due:
    """The type of `_DUE`: the next node in a mapping is a key."""


_DUE: Final = _Due()


class _Anchor(NamedTuple):
    value: Any
    node: int
    nodes: int
    height: int
    characters: int


_Frame = tuple[dict[Any, Any] | list[Any], Any, int, str | None, int]
"""A collection that is being built, while the reader is inside one of its values: the collection, the key of
that value, the collection's node and anchor, and how many nodes there were before it. A plain tuple, as one
is made for each collection."""


class _Reader:
    """Drives the event pass over one text."""

    def __init__(self, source: str, text: str, budget: Budget) -> None:
        self.document = Document(source, text)
        self.budget = budget
        self.findings: list[Finding] = []
        self.anchors: dict[str, _Anchor | None] = {}
        """None while the anchored collection is still open."""
        self.starts: list[int] = []
        self.ends: list[int] = []
        """The places of the last nodes: adding to a list is quicker than to an array, in which the document
        keeps them and where they are small."""
        self.key_nodes: dict[int, tuple[dict[object, int | None], Iterator[tuple[int | None, int]]]] = {}
        """Of mappings in which a key is there twice: the nodes of their keys, as far as was looked."""
        self.plains: dict[str, Any] = {}
        """Plain scalars that were found right: what they stand for."""
        self.aliased_nodes = self.aliased_characters = 0
        self.characters_before: list[int] = []
        """Of each anchored collection that is open."""

    def read(self, data: bytes) -> Document:
        """Read the text; `data` is what it was decoded from, for libyaml."""
        text = self.document.text
        may_have_directive = text.startswith("%") or "\n%" in text or "\r%" in text
        if may_have_directive and (found := _tag_directive.search(text)):
            # libyaml takes time that grows with the square of their number, and nothing here needs one.
            self.fail(
                "SC111",
                "a line that starts with % is a YAML directive",
                found.start(),
                hint="remove the line",
            )
        failure: Exception | None = None
        try:
            self.walk(_loader()(data))
        except ManifestError:
            raise
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            failure = error
        # Out of the `except`, so that no traceback shows the text that the fallback's errors quote.
        if isinstance(failure, yaml.MarkedYAMLError):
            self.fail_for(failure)
        elif failure is not None:
            # Only the fallback in pure Python gets here, with escapes of impossible characters.
            self.fail("SC104", "this is not valid YAML", 0)
        if self.findings:
            raise ManifestError(self.findings)
        return self.document

    def walk(self, parser: Any) -> None:
        """Build the values. The path of a scalar is the hot one: it is written out in the loop, and what a
        text cannot have, by a look at its characters, is not looked for in each event."""
        document = self.document
        text = document.text
        starts, ends, after = self.starts, self.ends, document._after  # noqa: SLF001 - its builder
        base = 0
        scalar_event, alias_event = yaml.ScalarEvent, yaml.AliasEvent
        mapping_start, mapping_end = yaml.MappingStartEvent, yaml.MappingEndEvent
        sequence_start, sequence_end = yaml.SequenceStartEvent, yaml.SequenceEndEvent
        has_tags, has_anchors, has_escapes = "!" in text, "&" in text, "\\" in text
        most_nodes, most_collections = self.budget.nodes, self.budget.collections
        may_be_long, may_be_many = len(text) > MAX_SCALAR_CHARACTERS, len(text) >= most_nodes
        is_odd = has_tags or may_be_long
        look_again = min(most_nodes, most_collections)
        due, special, special_keys, number_starts = _DUE, MAY_BE_SPECIAL, SPECIAL_KEYS, NUMBER_STARTS
        keys: dict[str, str] = {}
        plains = self.plains
        get_event = parser.get_event
        stack: list[_Frame] = []
        heights = [0]
        container: dict[Any, Any] | list[Any] = []
        root = container
        key: Any = None
        node = 0
        anchor: str | None = None
        nodes_before = 0
        flow_end = 0
        documents = 0
        value: Any
        while True:
            event = get_event()
            kind = type(event)
            if kind is scalar_event:
                start = event.start_mark.index
                end = event.end_mark.index
                starts.append(start)
                ends.append(end)
                value = event.value
                if is_odd:
                    if has_tags and event.tag is not None:
                        self.refuse_tag(start)
                    if len(value) > MAX_SCALAR_CHARACTERS:
                        message = f"a text has more than {MAX_SCALAR_CHARACTERS:,} characters"
                        self.fail("SC604", message, start)
                if key is due:
                    key = keys.get(value)
                    if key is None or key in container:
                        plain = event.implicit[0]
                        if value in container or (
                            plain and (value in special_keys or value[0] in number_starts)
                        ):
                            base = self.keep_places()
                            key = self.odd_key(container, node, value, plain, start, end)
                        else:
                            key = value
                            if plain and len(keys) < _KEPT_SCALARS:
                                keys[key] = key
                    if has_anchors and event.anchor is not None:
                        self.add_anchor(
                            event.anchor, start, _Anchor(value, base + len(starts) - 1, 1, 0, end - start)
                        )
                    continue
                if event.implicit[0]:
                    known = plains.get(value, due)
                    if known is not due:
                        value = known
                    elif not value or value[0] in special:
                        value = self.resolve(value, start, end)
                    elif len(plains) < _KEPT_SCALARS:
                        plains[value] = value
                elif has_escapes and _not_in_value.search(value):
                    message = "an escape sequence for a character that cannot be in a value"
                    self.report("SC102", message, start, end)
                if has_anchors and event.anchor is not None:
                    self.add_anchor(
                        event.anchor, start, _Anchor(value, base + len(starts) - 1, 1, 0, end - start)
                    )
            elif kind is mapping_start or kind is sequence_start:
                start = event.start_mark.index
                if key is due:
                    self.fail_complex_key(start)
                if has_tags and event.tag is not None:
                    self.refuse_tag(start)
                if len(stack) >= MAX_DEPTH:
                    self.fail("SC602", f"nested more than {MAX_DEPTH} levels deep", start)
                stack.append((container, key, node, anchor, nodes_before))
                if has_anchors:
                    if event.anchor is not None:
                        self.add_anchor(event.anchor, start, None)
                        self.characters_before.append(self.aliased_characters)
                    heights.append(0)
                    nodes_before = base + len(starts) + self.aliased_nodes
                if len(starts) > _KEPT_PLACES:
                    base = self.keep_places()
                node, anchor = base + len(starts), event.anchor
                starts.append(start)
                ends.append(start)
                if kind is mapping_start:
                    container, key = {}, due
                else:
                    container, key = [], None
                if node >= look_again:  # earlier there cannot be too many, as each collection is a node
                    if node >= most_nodes:
                        self.fail_too_many(MAX_NODES, "values", start)
                    left = most_collections - len(after) - len(stack)
                    if left < 0:
                        self.fail_too_many(MAX_COLLECTIONS, "lists and mappings", start)
                    look_again = min(most_nodes, node + left + 1)
                continue
            elif kind is mapping_end or kind is sequence_end:
                after[node] = number = base + len(starts)
                start, end = event.start_mark.index, event.end_mark.index
                # The end of a block is where the next token starts; that of its last value is meant.
                if end > start:
                    flow_end = end
                else:
                    end = max(ends[-1], flow_end)
                if node >= base:
                    ends[node - base] = end
                else:
                    document._ends[node] = end  # noqa: SLF001 - its builder
                value = container
                if has_anchors:
                    height = heights.pop() + 1
                    if height > heights[-1]:
                        heights[-1] = height
                    if anchor is not None:
                        nodes = number + self.aliased_nodes - nodes_before
                        characters = self.aliased_characters - self.characters_before.pop()
                        characters += end - (starts[node - base] if node >= base else document._starts[node])  # noqa: SLF001
                        self.anchors[anchor] = _Anchor(value, node, nodes, height, characters)
                container, key, node, anchor, nodes_before = stack.pop()
                if key is None:
                    container.append(value)  # type: ignore[union-attr]  # no key: a list
                else:
                    container[key] = value
                    key = due
                continue
            elif kind is alias_event:
                start = event.start_mark.index
                if key is due:
                    self.fail_complex_key(start)
                target = self.target(event, depth=len(stack))
                document._targets[base + len(starts)] = target.node  # noqa: SLF001 - its builder
                starts.append(start)
                ends.append(event.end_mark.index)
                heights[-1] = max(heights[-1], target.height)
                value = target.value
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    hint = "one file holds one manifest: remove the `---`, or make it two files"
                    self.fail(
                        "SC110", "a second YAML document starts here", event.start_mark.index, hint=hint
                    )
                continue
            elif event is None:
                break
            else:
                continue
            # A scalar or an alias, as a value.
            if may_be_many and base + len(starts) > most_nodes:
                self.fail_too_many(MAX_NODES, "values", start)
            if key is None:
                container.append(value)  # type: ignore[union-attr]  # no key: a list
            else:
                container[key] = value
                key = due
        self.keep_places()
        if not root or (root[0] is None and document._starts[0] == document._ends[0]):  # noqa: SLF001
            hint = "a manifest starts with `version: 1`; an empty one never means that everything is to go"
            self.fail("SC103", "the file is empty", 0, hint=hint)
        document.value = root[0]

    def keep_places(self) -> int:
        """Give the document the places of the last nodes; returns how many it has now."""
        document = self.document
        document._starts.fromlist(self.starts)  # noqa: SLF001 - its builder
        document._ends.fromlist(self.ends)  # noqa: SLF001
        self.starts.clear()
        self.ends.clear()
        return len(document._starts)  # noqa: SLF001

    def report(
        self, code: str, message: str, start: int, end: int | None = None, hint: str | None = None
    ) -> None:
        """Note a finding that reading can go on behind."""
        self.findings.append(Finding(code, message, self.document.mark_at(start, end), (), hint))
        if len(self.findings) >= MAX_FINDINGS:
            raise ManifestError(self.findings)

    def fail(
        self, code: str, message: str, start: int, end: int | None = None, hint: str | None = None
    ) -> NoReturn:
        """Note a finding that reading cannot go on behind."""
        self.report(code, message, start, end, hint)
        raise ManifestError(self.findings)

    def fail_too_many(self, bound: int, what: str, start: int) -> NoReturn:
        together = ", all files together" if self.budget.is_shared else ""
        self.fail("SC603", f"more than {bound:,} {what}{together}", start)

    def add_anchor(self, name: str, start: int, anchor: _Anchor | None) -> None:
        """An anchor with the name of an earlier one takes its place, and counts as well."""
        self.document._anchor_count += 1  # noqa: SLF001 - its builder
        if self.document._anchor_count > self.budget.anchors:  # noqa: SLF001
            self.fail_too_many(MAX_ANCHORS, "anchors", start)
        self.anchors[name] = anchor

    def fail_complex_key(self, start: int) -> NoReturn:
        hint = "put quotes around a value that starts with {, [ or *"
        self.fail("SC113", "a list, a mapping or an alias cannot be a key", start, hint=hint)

    def refuse_tag(self, start: int) -> None:
        self.report("SC111", "YAML tags (!…) are not used in a manifest", start, hint="remove the tag")

    def odd_key(self, container: Any, node: int, key: str, plain: bool, start: int, end: int) -> object:
        """The key to store a value under, of one that may be no text, or twice; what is wrong is reported."""
        if plain:
            if key == "<<":
                hint = "use defaults.config for what several providers share"
                self.report("SC112", "merge keys (<<) are not used in a manifest", start, end, hint)
                return _Refused()
            if not isinstance(self.resolve(key, start, end), str):
                self.report("SC113", "a key must be a text", start, end, "put it in quotes")
                return _Refused()
        if key in container:
            first = self.first_of(container, node, key)
            place = self.document.mark_at(*self.document._span(first))  # noqa: SLF001 - its builder
            hint = f"it is on line {place.line}, column {place.column} already; remove one of the two"
            self.report("SC109", f"the key {key[:64]!r} is there twice", start, end, hint)
            return _Refused()
        return key

    def first_of(self, container: dict[Any, Any], node: int, key: str) -> int | None:
        """The node of a key that is there, in the mapping at `node`, which is still open. However many are
        there twice, each key is looked at once."""
        if node not in self.key_nodes:
            self.key_nodes[node] = {}, self.document._children(node, keyed=True)  # noqa: SLF001 - its builder
        nodes, children = self.key_nodes[node]
        for name in islice(container, len(nodes), None):
            nodes[name], _ = next(children)
        return nodes[key]

    def resolve(self, value: str, start: int, end: int) -> Any:
        """The value of a plain scalar; of one that is refused, a number, for reading to go on."""
        resolved = plain_value(value)
        if type(resolved) is RefusedScalar:
            self.report(resolved.code, resolved.message, start, end, resolved.hint)
            return 0
        if len(self.plains) < _KEPT_SCALARS:
            self.plains[value] = resolved
        return resolved

    def target(self, event: Any, depth: int) -> _Anchor:
        """What an alias stands for, within the budgets."""
        start, end = event.start_mark.index, event.end_mark.index
        target = self.anchors.get(event.anchor)
        if target is None:
            inside = event.anchor in self.anchors
            message = (
                "an alias inside of what it stands for"
                if inside
                else "an alias whose anchor is not before it"
            )
            hint = None if inside else "put quotes around a text that starts with *"
            self.fail("SC116", message, start, end, hint)
        self.aliased_nodes += target.nodes
        self.aliased_characters += target.characters
        if self.aliased_characters > MAX_BYTES:
            self.fail("SC606", f"aliases stand for more than {MAX_BYTES >> 20} MiB of text", start, end)
        if self.aliased_nodes > MAX_ALIASED_NODES:
            self.fail("SC606", f"aliases stand for more than {MAX_ALIASED_NODES:,} values", start, end)
        if depth + target.height > MAX_DEPTH:
            self.fail("SC602", f"nested more than {MAX_DEPTH} levels deep, by an alias", start, end)
        return target

    def fail_for(self, error: yaml.MarkedYAMLError) -> NoReturn:
        text = self.document.text
        if "nesting depth" in (error.problem or ""):
            # libyaml from 0.2.6 on holds a bound of its own (1,000), and looks ahead: ours was passed before
            # that, in what it has not told yet. It tells where the text ends in front of its own bound.
            at = error.problem_mark.index if error.problem_mark else 0
            _Reader(self.document.source, text[:at], self.budget).read(text[:at].encode("utf-8"))
            self.fail("SC602", f"nested more than {MAX_DEPTH} levels deep", at)
        self.fail(*syntax_fault(self.document, error))
