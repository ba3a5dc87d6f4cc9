"""What an error of libyaml means, said where a person would look for it.

Its own words are not passed on: they speak of tokens, and those of PyYAML in pure Python hold characters of
the text. Its places are where it gave up, which may be far behind the mistake.
"""

from __future__ import annotations

from typing import NamedTuple

import yaml

from .document import Document


class SyntaxFault(NamedTuple):
    """A finding of which the text is at hand: `start` and `end` are characters of it."""

    code: str
    message: str
    start: int
    end: int | None = None
    hint: str | None = None


def syntax_fault(document: Document, error: yaml.MarkedYAMLError) -> SyntaxFault:
    """The finding that an error in the text of `document` is."""
    text = document.text
    context, problem = error.context or "", error.problem or ""
    at = error.problem_mark.index if error.problem_mark else 0
    since = error.context_mark.index if error.context_mark else at
    line = text[text.rfind("\n", 0, at) + 1 : at + 1]
    if "quoted scalar" in context and ("end of stream" in problem or "document" in problem):
        return SyntaxFault("SC105", "this quote is never closed", since)
    if "quoted scalar" in context:
        hint = "in double quotes a backslash starts an escape sequence: write it twice, or use single quotes"
        return SyntaxFault(
            "SC107", "a backslash that starts no escape sequence", text.rfind("\\", 0, at + 1), hint=hint
        )
    if text[at : at + 1] == "\t" or ("\t" in line and line.isspace()):
        return SyntaxFault("SC106", "a tab where YAML wants spaces", at, hint="indent with spaces")
    if text[at : at + 1] == "{" and text[at - 1 : at] == "$":
        hint = 'inside of [ ] or { } a reference needs quotes: "${…}"'
        return SyntaxFault("SC108", "a `${…}` reference without quotes", at - 1, hint=hint)
    if "flow" in context:
        bracket = text[since : since + 1]
        if bracket in "[{" and bracket:
            close = "]" if bracket == "[" else "}"
            hint = f"expected `,` or `{close}` at line {document.mark_at(at).line}"
            return SyntaxFault(
                "SC104", f"this `{bracket}` is not closed, or a comma is missing", since, hint=hint
            )
        return SyntaxFault("SC104", "the text ends inside of [ ] or { }", at)
    if "simple key" in context:
        return SyntaxFault(
            "SC104", "no `:` follows this key", since, hint="a key is followed by a colon and a space"
        )
    if "mapping values are not allowed" in problem:
        if (key := _key_without_colon(text, at)) is not None:
            hint = "a key is followed by a colon and a space"
            return SyntaxFault("SC104", "no `:` follows this key", *key, hint=hint)
        hint = "put quotes around a value that holds `: `, and indent the keys of one level alike"
        return SyntaxFault("SC104", "a `:` cannot be here", at, hint=hint)
    if "cannot start any token" in problem or "directive" in context:
        character = text[at : at + 1]
        reserved = (
            f"a value cannot start with `{character}`" if character in "@`%" else "this is not valid YAML"
        )
        return SyntaxFault("SC104", reserved, at, hint="put quotes around it")
    if "sequence entries" in problem:
        hint = "start the list on a line of its own, or write it as [a, b]"
        return SyntaxFault("SC104", "a list cannot start here", at, hint=hint)
    if "block mapping" in context or "block collection" in context:
        hint = "check the indentation of this line, and the quotes and brackets before it"
        return SyntaxFault("SC104", "this does not go on with what is before it", at, hint=hint)
    if "document start" in problem:
        return SyntaxFault("SC104", "this does not belong to the document before it", at)
    if "alias" in context or "anchor" in context:
        return SyntaxFault(
            "SC104", "`*` and `&` need a name behind them", since, hint="put quotes around a text"
        )
    if "tag" in context:
        return SyntaxFault("SC111", "YAML tags (!…) are not used in a manifest", since, hint="remove the tag")
    return SyntaxFault("SC104", "this is not valid YAML", at)


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
