"""Which regular expressions a schema may hold: those that cannot explode on any text.

Python's `re` tries one way through a text after the other, and `^(a+)+$` has 2ⁿ of them. Here an
expression is read as what it is made of, and at each point where it can go two ways it is asked whether
the next character decides which. Where it does, there is only one way. Where it does not, there are as
many as the repetition is long; outside of a loop that is bearable once, inside of a loop never. What
cannot be read this way is refused too. Knows nothing of schemas.

The idea is that of deterministic content models (Brüggemann-Klein and Wood, "One-unambiguous regular
languages", 1998), with one character to look ahead.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

MAX_TEXT_CHARACTERS: Final = 4096
"""Longer texts are not matched at all: what is left of the trouble is quadratic."""
MAX_PATTERN_CHARACTERS: Final = 1000
_MAX_WAYS: Final = 10_000
"""One repetition without a bound that the next character does not end, and a little more."""
_MAX_DEPTH: Final = 20

Characters = frozenset[str]
# Sets of characters are compared by what they hold of these and of what the expression names: where two
# ranges meet, one of them ends inside of the other.
_ALPHABET: Final = "".join(map(chr, range(0x180))) + "αЖא١中あ€—😀\u2028\u3000"
_NOTHING: Final[Characters] = frozenset()

_quantifier = re.compile(r"(?:([*+?])|\{(\d+)(,?)(\d*)\})[?+]?")
_group = re.compile(r"\((?:\?(?::|P<\w+>|(=|!|<=|<!)))?")
_atom = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|0|[^0-9xuUN])|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\]()|*+?]",
    re.DOTALL,
)
_escaped = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})")
_EMPTY: Final = frozenset({"$", r"\Z", r"\b", r"\B"})
_STARTS: Final = frozenset({"^", r"\A"})


class _UnreadableError(Exception):
    """It has a construct that this cannot judge, named by the message."""


@dataclass(frozen=True, slots=True)
class _Node:
    """Part of an expression: what it may begin with, and whether it can be empty."""

    first: Characters
    is_nullable: bool


@dataclass(frozen=True, slots=True)
class _Start(_Node):
    """Nothing, at the start of the text."""


@dataclass(frozen=True, slots=True)
class _Look(_Node):
    """What has to stand here, or not, without being taken."""

    body: _Node
    anything: Characters


@dataclass(frozen=True, slots=True)
class _Sequence(_Node):
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice(_Node):
    branches: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat(_Node):
    body: _Node
    least: int
    most: int | None


@cache
def fault_of(pattern: str) -> str | None:
    """Why a schema may not hold `pattern`, or None if it may."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return f"a pattern has more than {MAX_PATTERN_CHARACTERS} characters"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return "a pattern is not a regular expression"
    try:
        tree = _Reader(pattern).read()
        ways = _ways(tree, _NOTHING, in_loop=False)
    except _UnreadableError as error:
        return f"a pattern has {error}"
    if ways is None:
        return "a pattern repeats what can be read in several ways: on some texts it would never end"
    if ways > _MAX_WAYS:
        return "a pattern can be read in too many ways: let what follows a repetition not be part of it"
    if not _is_anchored(tree) and ways * MAX_TEXT_CHARACTERS > _MAX_WAYS:  # it is tried at every character
        return "a pattern can be read in too many ways: begin it with ^"
    return None


class _Reader:
    """Recursive descent over an expression that `re` has accepted."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        named = {ast.literal_eval(f"'{escape[0]}'") for escape in _escaped.finditer(text)}
        self.alphabet = frozenset({*_ALPHABET, *text, *named})

    def read(self) -> _Node:
        node = self.choice()
        if self.at != len(self.text):
            raise _UnreadableError("a construct that is not supported")
        return node

    def choice(self) -> _Node:
        branches = [self.sequence()]
        while self.text.startswith("|", self.at):
            self.at += 1
            branches.append(self.sequence())
        if len(branches) == 1:
            return branches[0]
        return _Choice(
            _NOTHING.union(*(branch.first for branch in branches)),
            any(branch.is_nullable for branch in branches),
            tuple(branches),
        )

    def sequence(self) -> _Node:
        parts: list[_Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self.repeated(self.item()))
        return _Sequence(_first(parts), all(part.is_nullable for part in parts), tuple(parts))

    def repeated(self, node: _Node) -> _Node:
        found = _quantifier.match(self.text, self.at)
        if found is None:
            return node
        self.at = found.end()
        sign, least_text, comma, most_text = found.groups()
        if sign:
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        else:
            least = int(least_text)
            most = int(most_text) if most_text else None if comma else least
        return _Repeat(node.first, node.is_nullable or least == 0, node, least, most)

    def item(self) -> _Node:
        if self.text[self.at] == "(":
            return self.group()
        found = _atom.match(self.text, self.at)
        if found is None:
            raise _UnreadableError("a back reference, or an escape that is not supported")
        self.at = found.end()
        if found[0] in _STARTS:
            return _Start(_NOTHING, is_nullable=True)
        if found[0] in _EMPTY:
            return _Node(_NOTHING, is_nullable=True)
        matches = re.compile(found[0]).fullmatch
        return _Node(frozenset(c for c in self.alphabet if matches(c)), is_nullable=False)

    def group(self) -> _Node:
        found = _group.match(self.text, self.at)
        if found is None or (self.text.startswith("(?", self.at) and found.end() == self.at + 1):
            raise _UnreadableError("a kind of group that is not supported")
        self.at = found.end()
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _UnreadableError("too many groups inside of each other")
        body = self.choice()
        self.depth -= 1
        self.at += 1  # the closing bracket: `re` has accepted the whole
        return _Look(_NOTHING, True, body, self.alphabet) if found[1] else body


def _first(parts: list[_Node] | tuple[_Node, ...], follow: Characters = _NOTHING) -> Characters:
    """What a sequence may begin with; `follow` is what comes behind it."""
    characters: Characters = _NOTHING
    for part in parts:
        characters |= part.first
        if not part.is_nullable:
            return characters
    return characters | follow


def _is_anchored(node: _Node) -> bool:
    match node:
        case _Sequence():
            return bool(node.parts) and _is_anchored(node.parts[0])
        case _Choice():
            return all(map(_is_anchored, node.branches))
        case _:
            return isinstance(node, _Start)


def _ways(node: _Node, follow: Characters, *, in_loop: bool) -> int | None:
    """At most so many ways to read a text; None: no bound, as a loop multiplies them with itself."""
    match node:
        case _Sequence():
            product = 1
            for index, part in enumerate(node.parts):
                ways = _ways(part, _first(node.parts[index + 1 :], follow), in_loop=in_loop)
                if ways is None:
                    return None
                product *= ways
            return product
        case _Choice():
            product = 1
            seen: Characters = _NOTHING
            overlapping = 1
            for branch in node.branches:
                begins = branch.first | follow if branch.is_nullable else branch.first
                overlapping += bool(begins & seen)
                seen |= begins
                ways = _ways(branch, follow, in_loop=in_loop)
                if ways is None:
                    return None
                product = max(product, ways)
            return None if in_loop and overlapping > 1 else product * overlapping
        case _Repeat():
            is_loop = node.most is None or node.most > 1
            if is_loop and node.is_nullable and node.body.is_nullable:
                return None  # to repeat nothing is one more way each time
            behind = follow | node.first if is_loop else follow
            inside = _ways(node.body, behind, in_loop=in_loop or is_loop)
            if inside is None:
                return None
            if node.most == node.least or not node.first & follow:
                return inside
            if in_loop:
                return None
            most = MAX_TEXT_CHARACTERS if node.most is None else min(node.most, MAX_TEXT_CHARACTERS)
            return inside * (most - min(node.least, most) + 1)
        case _Look():
            # What follows inside of it is not known: anything.
            return _ways(node.body, node.anything, in_loop=in_loop)
        case _:
            return 1
