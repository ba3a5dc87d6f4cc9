"""Bytes → plain values, with a mark for every key and value. Refuses whatever is ambiguous.

One pass over the events of libyaml, which builds the values, holds the budgets and refuses duplicate
keys, tags and the like before anything else looks at the data: a text that exhausts or crashes a YAML
loader never gets to one. Scalars are read by the core schema of YAML 1.2. Knows nothing of manifests.
"""

from __future__ import annotations

import logging
import math
import re
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple, NoReturn

import yaml

from .errors import Finding, ManifestError
from .marks import Mark, Pointer

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_NODES: Final = 400_000
"""Keys and values: a manifest of 10,000 providers of 16 lines has 340,000. The worst texts within it took 1.5
to 2 s of CPU (`[[[…]]]` again and again, nothing but anchors) and 125 MB (`[{},{},…]`) on a slow core, where
10,000 providers take 0.7 s. With 2,000,000 it was 7.6 s and 425 MB."""
MAX_SCALAR_CHARACTERS: Final = 1024 * 1024
MAX_DIGITS: Final = 100
MAX_ALIASED_NODES: Final = 100_000
"""Aliases are accepted, as they spare repetition, and counted at what they stand for: nothing that walks
the values later can meet more of them than the budgets allow, however they refer to each other."""
MAX_FINDINGS: Final = 50

_logger = logging.getLogger(__name__)

# Line separators of YAML 1.1 that YAML 1.2 does not know and editors do not show are among them.
_not_text = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_ascii_text: Final = bytes([*b"\t\n\r", *range(0x20, 0x7F)])
_not_in_value = re.compile("[\x00\ud800-\udfff]")
_tag_directive = re.compile(r"(?:\A|(?<=[\r\n]))%(?!YAML)")

# The core schema of YAML 1.2.2, section 10.3.2.
_words: Final[dict[str, bool | None]] = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_number = re.compile(
    r"(?P<decimal>[-+]?[0-9]+)|(?P<based>0o[0-7]+|0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
)
_not_finite = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_leading_zero = re.compile(r"[-+]?0[0-9]")
_number_starts: Final = frozenset("-+.0123456789")
_may_be_special: Final = _number_starts | {word[0] for word in _words if word}
"""The first characters of all plain scalars that are not text; the empty one is looked at apart."""
_special_keys: Final = frozenset({*_words, "<<"})


class Document:
    """The values of one YAML text, and where each of them stands.

    Nodes are numbered in the order of the text, a key before its value; two arrays hold their spans and a
    dict says where the numbers go on behind a collection. Everything else is worked out when asked for.
    """

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.text = text
        """Without a byte order mark."""
        self.value: Any = None
        self._starts = array("I")
        self._ends = array("I")
        self._after: dict[int, int] = {}
        self._targets: dict[int, int] = {}
        """Node of an alias → node that it stands for."""
        self._places: dict[int, dict[str | int, tuple[int | None, int]]] = {}
        """Collections that were looked into: their keys and the nodes of key and value."""
        self._marks: dict[tuple[int, int], Mark] = {}
        self._seen = (0, 1)
        """The last character whose line was asked for, and that line."""

    def __repr__(self) -> str:
        return f"<Document {self.source!r}>"  # no values: they may be secret

    @property
    def node_count(self) -> int:
        """Its keys and values; what aliases stand for is not counted again."""
        return len(self._starts)

    def mark(self, pointer: Pointer) -> Mark:
        """Where the value stands; of a value that is empty, its key; else its nearest ancestor."""
        key, value = self._find(pointer)
        start, end = self._span(value)
        return self._mark(*(self._span(key) if start == end and key is not None else (start, end)))

    def key_mark(self, pointer: Pointer) -> Mark:
        """Where the key stands; for an item of a list or the whole document, its value."""
        key, value = self._find(pointer)
        return self._mark(*self._span(value if key is None else key))

    def key_marks(self, pointer: Pointer) -> dict[str, Mark]:
        """The places of all keys of one mapping."""
        container = self.value
        for part in pointer:
            container = container[part]
        return {name: self.key_mark((*pointer, name)) for name in container}

    def span(self, pointer: Pointer) -> tuple[int, int]:
        """The characters of `text` that the value takes."""
        return self._span(self._find(pointer)[1])

    def mark_at(self, start: int, end: int | None = None) -> Mark:
        """The mark of a span of `text`, or of the one character at `start`."""
        if end is None:
            end = start + 1 if start < len(self.text) and self.text[start] not in "\r\n" else start
        return self._mark(start, end)

    def leaves(self, start: int, end: int) -> Iterator[tuple[Pointer, bool, int, int]]:
        """What has characters between `start` and `end`, in no order: keys (True) and values that are no
        collection, each with its span. An alias, and a collection with an anchor, counts as a value."""
        stack: list[tuple[Pointer, int, Any]] = [((), 0, self.value)]
        while stack:
            pointer, node, value = stack.pop()
            first, last = self._span(node)
            keyed = isinstance(value, dict)
            if node in self._targets or not isinstance(value, dict | list) or self.text[first] in "&!":
                if first < end and last > start:
                    yield pointer, False, first, last
                continue
            names = value if keyed else range(len(value))
            for name, (key, child) in zip(names, self._children(node, keyed=keyed), strict=False):
                if key is not None:
                    first, last = self._span(key)
                    if first >= end:
                        break
                    if last > start:
                        yield (*pointer, name), True, first, last
                first, last = self._span(child)
                if first >= end:
                    break
                if last > start:
                    stack.append(((*pointer, name), child, value[name]))

    def _find(self, pointer: Pointer) -> tuple[int | None, int]:
        """The nodes of the key and the value of the deepest part of `pointer` that exists."""
        key: int | None = None
        node = 0
        value: Any = self.value
        for part in pointer:
            keyed = isinstance(value, dict)
            if not (keyed or isinstance(value, list)):
                break
            places = self._places.get(node)
            if places is None:
                children = self._children(node, keyed=keyed)
                names = value if keyed else range(len(value))
                places = self._places[node] = dict(zip(names, children, strict=False))
            if part not in places:
                break
            key, node = places[part]
            node = self._targets.get(node, node)
            value = value[part]
        return key, node

    def _children(self, node: int, *, keyed: bool) -> Iterator[tuple[int | None, int]]:
        """The nodes of the keys and values in a collection, endlessly: its values know their number."""
        child = node + 1
        while True:
            key = None
            if keyed:
                key, child = child, child + 1
            yield key, child
            child = self._after.get(child, child + 1)

    def _span(self, node: int | None) -> tuple[int, int]:
        if node is None or node >= len(self._starts):
            return 0, 0
        return self._starts[node], self._ends[node]

    def _mark(self, start: int, end: int) -> Mark:
        mark = self._marks.get((start, end))
        if mark is None:
            mark = self._marks[start, end] = Mark(self.source, *self._place(start), *self._place(end))
        return mark

    def _place(self, index: int) -> tuple[int, int]:
        """Line and column of a character. Lines are counted on from the last place that was asked for:
        marks are mostly wanted in order, and a table of all lines could be larger than the text."""
        text = self.text
        if text[index - 1 : index + 1] == "\r\n":
            index -= 1  # inside of a line end, which belongs to the line before it
        seen, line = self._seen  # read once: another thread may ask for another place
        if seen > index:
            seen, line = 0, 1
        line += (
            text.count("\n", seen, index) + text.count("\r", seen, index) - text.count("\r\n", seen, index)
        )
        self._seen = (index, line)
        start = max(text.rfind("\n", 0, index), text.rfind("\r", 0, index)) + 1
        return line, index - start + 1


def parse_document(data: bytes, source: str) -> Document:
    """Read one YAML document; `source` is its name in marks.

    Raises:
        ManifestError: it is refused; no input raises anything else.
    """
    return _Reader(source, _decode(data, source)).read()


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
    if data.translate(None, _ascii_text) and (found := _not_text.search(text)):
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


_Frame = tuple[dict[Any, Any] | list[Any], Any, int, str | None, int]
"""A collection that is being built, while the reader is inside one of its values: the collection, the key of
that value, the collection's node and anchor, and how many nodes there were before it. A plain tuple, as one
is made for each collection."""


class _Reader:
    """Drives the event pass over one text."""

    def __init__(self, source: str, text: str) -> None:
        self.document = Document(source, text)
        self.findings: list[Finding] = []
        self.anchors: dict[str, _Anchor | None] = {}
        """None while the anchored collection is still open."""
        self.aliased_nodes = 0

    def read(self) -> Document:
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
            self.walk(_loader()(text.encode("utf-8")))
        except ManifestError:
            raise
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            failure = error
        # Out of the `except`, so that no traceback shows the text that the fallback's errors quote.
        if isinstance(failure, yaml.MarkedYAMLError):
            self.translate(failure)
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
        starts, ends, after = document._starts, document._ends, document._after  # noqa: SLF001 - its builder
        add_start, add_end = starts.append, ends.append
        scalar_event, alias_event = yaml.ScalarEvent, yaml.AliasEvent
        mapping_start, mapping_end = yaml.MappingStartEvent, yaml.MappingEndEvent
        sequence_start, sequence_end = yaml.SequenceStartEvent, yaml.SequenceEndEvent
        has_tags, has_anchors, has_escapes = "!" in text, "&" in text, "\\" in text
        may_be_long, may_be_many = len(text) > MAX_SCALAR_CHARACTERS, len(text) >= MAX_NODES
        due, special, special_keys, number_starts = _DUE, _may_be_special, _special_keys, _number_starts
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
        while (event := get_event()) is not None:
            kind = type(event)
            if kind is scalar_event:
                start = event.start_mark.index
                end = event.end_mark.index
                add_start(start)
                add_end(end)
                value = event.value
                if has_tags and event.tag is not None:
                    self.refuse_tag(start)
                if may_be_long and len(value) > MAX_SCALAR_CHARACTERS:
                    self.fail("SC604", f"a text has more than {MAX_SCALAR_CHARACTERS:,} characters", start)
                plain = event.implicit[0]
                if key is due:
                    if value in container or (plain and (value in special_keys or value[0] in number_starts)):
                        key = self.odd_key(container, node, value, plain, start, end)
                    else:
                        key = value
                    if has_anchors and event.anchor is not None:
                        self.anchors[event.anchor] = _Anchor(value, len(starts) - 1, 1, 0)
                    continue
                if plain:
                    if not value or value[0] in special:
                        value = self.resolve(value, start, end)
                elif has_escapes and _not_in_value.search(value):
                    message = "an escape sequence for a character that cannot be in a value"
                    self.report("SC102", message, start, end)
                if has_anchors and event.anchor is not None:
                    self.anchors[event.anchor] = _Anchor(value, len(starts) - 1, 1, 0)
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
                        self.anchors[event.anchor] = None
                    heights.append(0)
                    nodes_before = len(starts) + self.aliased_nodes
                node, anchor = len(starts), event.anchor
                add_start(start)
                add_end(start)
                if kind is mapping_start:
                    container, key = {}, due
                else:
                    container, key = [], None
                if node >= MAX_NODES:
                    self.fail_too_many(start)
                continue
            elif kind is mapping_end or kind is sequence_end:
                number = len(starts)
                after[node] = number
                start, end = event.start_mark.index, event.end_mark.index
                # The end of a block is where the next token starts; that of its last value is meant.
                if end > start:
                    flow_end = ends[node] = end
                else:
                    ends[node] = max(ends[number - 1], flow_end)
                value = container
                if has_anchors:
                    height = heights.pop() + 1
                    if height > heights[-1]:
                        heights[-1] = height
                    if anchor is not None:
                        nodes = number + self.aliased_nodes - nodes_before
                        self.anchors[anchor] = _Anchor(value, node, nodes, height)
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
                document._targets[len(starts)] = target.node  # noqa: SLF001 - its builder
                add_start(start)
                add_end(event.end_mark.index)
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
            else:
                continue
            # A scalar or an alias, as a value.
            if may_be_many and len(starts) > MAX_NODES:
                self.fail_too_many(start)
            if key is None:
                container.append(value)  # type: ignore[union-attr]  # no key: a list
            else:
                container[key] = value
                key = due
        if not root or (root[0] is None and starts[0] == ends[0]):
            hint = "a manifest starts with `version: 1`; an empty one never means that everything is to go"
            self.fail("SC103", "the file is empty", 0, hint=hint)
        document.value = root[0]

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

    def fail_too_many(self, start: int) -> NoReturn:
        self.fail("SC603", f"more than {MAX_NODES:,} values", start)

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
            document = self.document
            position = list(container).index(key)
            children = enumerate(document._children(node, keyed=True))  # noqa: SLF001 - its builder
            first = next(number for i, (number, _) in children if i == position)
            place = document.mark_at(*document._span(first))  # noqa: SLF001
            hint = f"it is on line {place.line}, column {place.column} already; remove one of the two"
            self.report("SC109", f"the key {key[:64]!r} is there twice", start, end, hint)
            return _Refused()
        return key

    def resolve(self, value: str, start: int, end: int) -> Any:
        """The value of a plain scalar by the core schema of YAML 1.2."""
        if value in _words:
            return _words[value]
        if value[0] not in _number_starts:
            return value
        found = _number.fullmatch(value)
        if found is None:
            if _not_finite.fullmatch(value):
                return self.refuse_number("SC115", "not a finite number", start, end)
            return value
        if len(value) > MAX_DIGITS:  # converting takes time that grows with the square
            return self.refuse_number("SC605", f"a number of more than {MAX_DIGITS} digits", start, end)
        if found.lastgroup == "based":
            return int(value, 0)
        if _leading_zero.match(value):
            message = "a number with a leading zero, which some read as octal"
            return self.refuse_number(
                "SC114", message, start, end, "drop the zero, or put it in quotes if it is a text"
            )
        if found.lastgroup == "decimal":
            return int(value)
        number = float(value)
        if not math.isfinite(number):
            return self.refuse_number("SC115", "a number that is too large", start, end)
        return number

    def refuse_number(
        self, code: str, message: str, start: int, end: int, hint: str = "put it in quotes if it is a text"
    ) -> int:
        self.report(code, message, start, end, hint)
        return 0

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
        if self.aliased_nodes > MAX_ALIASED_NODES:
            self.fail("SC606", f"aliases stand for more than {MAX_ALIASED_NODES:,} values", start, end)
        if depth + target.height > MAX_DEPTH:
            self.fail("SC602", f"nested more than {MAX_DEPTH} levels deep, by an alias", start, end)
        return target

    def translate(self, error: yaml.MarkedYAMLError) -> NoReturn:
        """Say what libyaml means, where a person would look for it.

        Its own words are not passed on: they speak of tokens, and those of the fallback hold characters
        of the text.
        """
        text = self.document.text
        context, problem = error.context or "", error.problem or ""
        at = error.problem_mark.index if error.problem_mark else 0
        since = error.context_mark.index if error.context_mark else at
        line = text[text.rfind("\n", 0, at) + 1 : at + 1]
        if "nesting depth" in problem:
            # libyaml from 0.2.6 on holds a bound of its own (1,000), and looks ahead: ours was passed before
            # that, in what it has not told yet. It tells where the text ends in front of its own bound.
            _Reader(self.document.source, text[:at]).read()
            self.fail("SC602", f"nested more than {MAX_DEPTH} levels deep", at)
        if "quoted scalar" in context and ("end of stream" in problem or "document" in problem):
            self.fail("SC105", "this quote is never closed", since)
        if "quoted scalar" in context:
            hint = (
                "in double quotes a backslash starts an escape sequence: write it twice, or use single quotes"
            )
            self.fail(
                "SC107", "a backslash that starts no escape sequence", text.rfind("\\", 0, at + 1), hint=hint
            )
        if text[at : at + 1] == "\t" or ("\t" in line and line.isspace()):
            self.fail("SC106", "a tab where YAML wants spaces", at, hint="indent with spaces")
        if text[at : at + 1] == "{" and text[at - 1 : at] == "$":
            hint = 'inside of [ ] or { } a reference needs quotes: "${…}"'
            self.fail("SC108", "a `${…}` reference without quotes", at - 1, hint=hint)
        if "flow" in context:
            bracket = text[since : since + 1]
            if bracket in "[{" and bracket:
                close = "]" if bracket == "[" else "}"
                hint = f"expected `,` or `{close}` at line {self.document.mark_at(at).line}"
                self.fail("SC104", f"this `{bracket}` is not closed, or a comma is missing", since, hint=hint)
            self.fail("SC104", "the text ends inside of [ ] or { }", at)
        if "simple key" in context:
            self.fail(
                "SC104", "no `:` follows this key", since, hint="a key is followed by a colon and a space"
            )
        if "mapping values are not allowed" in problem:
            if (key := _key_without_colon(text, at)) is not None:
                hint = "a key is followed by a colon and a space"
                self.fail("SC104", "no `:` follows this key", *key, hint=hint)
            hint = "put quotes around a value that holds `: `, and indent the keys of one level alike"
            self.fail("SC104", "a `:` cannot be here", at, hint=hint)
        if "cannot start any token" in problem or "directive" in context:
            character = text[at : at + 1]
            reserved = (
                f"a value cannot start with `{character}`" if character in "@`%" else "this is not valid YAML"
            )
            self.fail("SC104", reserved, at, hint="put quotes around it")
        if "sequence entries" in problem:
            hint = "start the list on a line of its own, or write it as [a, b]"
            self.fail("SC104", "a list cannot start here", at, hint=hint)
        if "block mapping" in context or "block collection" in context:
            hint = "check the indentation of this line, and the quotes and brackets before it"
            self.fail("SC104", "this does not go on with what is before it", at, hint=hint)
        if "document start" in problem:
            self.fail("SC104", "this does not belong to the document before it", at)
        if "alias" in context or "anchor" in context:
            self.fail("SC104", "`*` and `&` need a name behind them", since, hint="put quotes around a text")
        if "tag" in context:
            self.refuse_tag(since)
        self.fail("SC104", "this is not valid YAML", at)


def _key_without_colon(text: str, at: int) -> tuple[int, int] | None:
    """Where the `:` at `at` is wrong only because one is missing in the line before, that line's first word:
    to YAML, the two lines are one text up to there."""
    start = text.rfind("\n", 0, at) + 1
    indent = len(text[start:at]) - len(text[start:at].lstrip(" "))
    if ": " in text[start:at]:
        return None
    while start > 0:
        end = start - 1
        start = text.rfind("\n", 0, end) + 1
        line = text[start:end].rstrip()
        body = line.lstrip(" ")
        if not body or body.startswith("#"):
            continue
        is_key = ":" not in body and not body.startswith(("- ", "? "))
        if not is_key or len(line) - len(body) != indent:
            return None
        return start + indent, start + indent + len(body.split()[0])
    return None
