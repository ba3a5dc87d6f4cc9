"""The values of one YAML text, and where each of them stands. Made by `parse`; knows no YAML itself."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from .marks import Mark, Pointer


class Size(NamedTuple):
    """What makes reading a text and holding its values expensive."""

    nodes: int
    """Its keys and values; what aliases stand for is not counted again."""
    collections: int
    """The lists and mappings among them."""
    anchors: int


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
        self._anchor_count = 0
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
    def size(self) -> Size:
        return Size(len(self._starts), len(self._after), self._anchor_count)

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
