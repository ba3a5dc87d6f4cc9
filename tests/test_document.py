"""The event pass: values, places, and everything that is refused with its exact place."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowcat_registry import parse as parse_module
from shadowcat_registry.codes import CODES
from shadowcat_registry.errors import Finding, ManifestError
from shadowcat_registry.marks import Mark
from shadowcat_registry.parse import (
    MAX_ALIASED_NODES,
    MAX_ANCHORS,
    MAX_BYTES,
    MAX_COLLECTIONS,
    MAX_DEPTH,
    MAX_FINDINGS,
    MAX_NODES,
    MAX_SCALAR_CHARACTERS,
    parse_document,
)

from . import fuzz
from .fuzz import PIECES, SEEDS, mutant, parsed, walk


def parse(text: str | bytes) -> object:
    return parse_document(text.encode() if isinstance(text, str) else text, "m").value


def findings(text: str | bytes) -> tuple[Finding, ...]:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    return caught.value.findings


def places(text: str | bytes) -> list[str]:
    """Each finding as `code line:column`."""
    return [f"{it.code} {it.mark.line}:{it.mark.column}" for it in findings(text)]


class TestCoreSchema:
    @pytest.mark.parametrize(
        "text", ["no", "on", "off", "yes", "y", "n", "1:20", "1_000", "2026-11-22", "0b1", "+.5x"]
    )
    def test_what_yaml_1_1_reads_as_something_else_is_text(self, text: str) -> None:
        assert parse(f"a: {text}") == {"a": text}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("true", True), ("False", False), ("TRUE", True), ("null", None), ("~", None), ("", None),
            ("Null", None), ("0", 0), ("-12", -12), ("+3", 3), ("0o17", 15), ("0xfF", 255), ("1.5", 1.5),
            ("1e3", 1000.0), (".5", 0.5), ("-0.0", -0.0), ("1.", 1.0), ("1E-2", 0.01), ("tRue", "tRue"),
            ("nUll", "nUll"), (".", "."), ("e3", "e3"), ("'1'", "1"), ('"true"', "true"), ("0x", "0x"),
            ("0o8", "0o8"),
            ("1.2.3", "1.2.3"), ("--1", "--1"), (".nano", ".nano"),
            ("|\n  1", "1"), ("-0x1", "-0x1"),
        ],
    )  # fmt: skip
    def test_scalars_are_those_of_yaml_1_2(self, text: str, value: object) -> None:
        got = parse(f"a: {text}")
        assert got == {"a": value}
        assert isinstance(got, dict)
        assert type(got["a"]) is type(value)

    @pytest.mark.parametrize("text", ["012", "-012", "+00", "01.5", "00", "007e1"])
    def test_a_leading_zero_is_refused(self, text: str) -> None:
        assert places(f"a: {text}") == ["SC114 1:4"]

    @pytest.mark.parametrize("text", [".inf", "-.INF", "+.Inf", ".nan", ".NaN", "1e999", "-1e400"])
    def test_what_json_cannot_say_is_refused(self, text: str) -> None:
        assert places(f"a: {text}") == ["SC115 1:4"]

    @pytest.mark.parametrize("text", ["1" * 101, "1" * 5000, "0x" + "f" * 5000, "1." + "0" * 200])
    def test_a_number_of_too_many_digits_is_refused_before_it_is_converted(self, text: str) -> None:
        assert places(f"a: {text}")[0] in ("SC605 1:4", "SC115 1:4")
        assert parse(f"a: '{text}'") == {"a": text}

    @given(st.one_of(st.integers(-(10**90), 10**90), st.floats(allow_nan=False, allow_infinity=False)))
    def test_numbers_come_back_as_they_were_written(self, number: float) -> None:
        assert parse(f"a: {number!r}") == {"a": number}


# What is wrong, and where. Places count characters; `findings` are all, in the order of the text.
NASTY: list[tuple[str, bytes, list[str]]] = [
    # bytes
    ("nothing", b"", ["SC103 1:1"]),
    ("only a mark", b"\xef\xbb\xbf", ["SC103 1:1"]),
    ("only blanks", b" \n\n  \n", ["SC103 1:1"]),
    ("only comments", b"# a\n# b\n", ["SC103 1:1"]),
    ("only a marker", b"---\n", ["SC103 1:1"]),
    ("only an end", b"...\n", ["SC104 1:1"]),
    ("latin-1", "a: b\nc: é".encode("latin-1"), ["SC101 2:4"]),
    ("latin-1 behind a mark", b"\xef\xbb\xbfa: \xe9", ["SC101 1:4"]),
    ("latin-1 behind wide characters", "日本: ".encode() + b"\xff", ["SC101 1:5"]),
    ("bad byte behind CRLF", b"a: 1\r\nb: \xff", ["SC101 2:4"]),
    ("bad byte behind CR", b"a: 1\rb: \xff", ["SC101 2:4"]),
    ("overlong", b"a: \xc0\x80", ["SC101 1:4"]),
    ("surrogate", b"a: \xed\xa0\x80", ["SC101 1:4"]),
    ("cut off", b"a: \xe2\x82", ["SC101 1:4"]),
    ("beyond Unicode", b"a: \xf5\x80\x80\x80", ["SC101 1:4"]),
    ("UTF-16 LE", "a: 1".encode("utf-16"), ["SC101 1:1"]),
    ("UTF-16 BE", b"\xfe\xff\x00a", ["SC101 1:1"]),
    ("UTF-16 without a mark", "a: 1".encode("utf-16-le"), ["SC102 1:2"]),
    ("NUL", b"a: b\0c", ["SC102 1:5"]),
    ("NUL at the end", b"a: b\n\0", ["SC102 2:1"]),
    ("escape", b"a: \x1b[31m", ["SC102 1:4"]),
    ("bell in a comment", b"a: 1 # \x07", ["SC102 1:8"]),
    ("delete", b"a: \x7f", ["SC102 1:4"]),
    ("C1", "a: \x9b".encode(), ["SC102 1:4"]),
    ("next line", "a: b\x85c".encode(), ["SC102 1:5"]),
    ("line separator", "a: b\u2028c".encode(), ["SC102 1:5"]),
    ("a mark in the middle", "a: \ufeffb".encode(), ["SC102 1:4"]),
    ("not a character", "a: \uffff".encode(), ["SC102 1:4"]),
    ("form feed", b"a: 1\n\x0cb: 2", ["SC102 2:1"]),
    ("NUL by escape", b'a: "x\\0"', ["SC102 1:4"]),
    ("surrogate by escape", b'a: "\\ud800"', ["SC107 1:5"]),
    ("beyond Unicode by escape", b'a: "\\UFFFFFFFF"', ["SC107 1:5"]),
    ("random bytes", bytes(range(128, 256)), ["SC101 1:1"]),
    ("gzip", b"\x1f\x8b\x08\x00\x00", ["SC101 1:2"]),
    # quotes and escapes
    ("double quote left open", b'a: "b\nc: 1\n', ["SC105 1:4"]),
    ("single quote left open", b"a: 1\nb: 'c\nd: 2\n", ["SC105 2:4"]),
    ("quote left open before a document", b'a: "b\n---\n"', ["SC105 1:4"]),
    ("quote in an open list", b'a: [1, "b\n', ["SC105 1:8"]),
    ("Windows path", b'a: "C:\\data"', ["SC107 1:7"]),
    ("short escape", b'a: "\\x4"', ["SC107 1:5"]),
    ("text behind a quote", b'a: "b" c', ["SC104 1:8"]),
    ("apostrophe", b"a: 'it's'", ["SC104 1:8"]),
    ("wide characters before", "日: \"本\\q\"".encode(), ["SC107 1:6"]),
    # tabs and indentation
    ("tab as indentation", b"a:\n\tb: 1", ["SC106 2:1"]),
    ("tab behind spaces", b"a:\n  b: 1\n \tc: 1", ["SC106 3:2"]),
    ("tab in a later line", b"a: 1\n\tb: 2", ["SC106 2:1"]),
    ("tab in a block", b"a: >\n\tb", ["SC106 2:1"]),
    ("indented too far", b"a: 1\n b: 2", ["SC104 2:3"]),
    ("indented too little", b"a:\n  b: 1\n c: 2", ["SC104 3:2"]),
    ("list beside a mapping", b"a: 1\n- b", ["SC104 2:1"]),
    ("mapping beside a list", b"- a\nb: 1", ["SC104 2:1"]),
    ("mapping in a list, too far left", b"a:\n  - b\n  c: d", ["SC104 3:3"]),
    # colons, brackets, reserved characters
    ("no colon", b"a: 1\nb\nc: 2", ["SC104 2:1"]),
    ("no colon in front of a value", b"a:\n  type memory\n  c: {}", ["SC104 2:3"]),
    ("no colon in the first line", b"version 1\r\n\r\nb: 2", ["SC104 1:1"]),
    ("no colon in front of a mapping", b"a: 1\nb\n  c: 2", ["SC104 2:1"]),
    ("a text over two lines, and a key in it", b"a:\n  - b\n    c: 2", ["SC104 3:6"]),
    ("two colons", b"a: b: c", ["SC104 1:5"]),
    ("at sign", b"a: @b", ["SC104 1:4"]),
    ("backtick", b"a: `b`", ["SC104 1:4"]),
    ("per cent", b"a: %b", ["SC104 1:4"]),
    ("open bracket", b"a: [1, 2\nb: 3", ["SC104 1:4"]),
    ("open brace", b"a: {b: 1\n", ["SC104 1:4"]),
    ("no comma", b"a: [1 2, [3] 4]", ["SC104 1:4"]),
    ("open bracket at the end", b"a: [", ["SC104 1:5"]),
    ("closed without being opened", b"a: ]", ["SC104 1:4"]),
    ("closed twice", b"a: [b]]", ["SC104 1:7"]),
    ("wrong bracket", b"a: [b}", ["SC104 1:4"]),
    ("list in a line", b"a: - b", ["SC104 1:4"]),
    ("no key", b": b", ["SC104 1:1"]),
    ("block header", b"a: |x\n  b", ["SC104 1:5"]),
    ("reference in a list", b"a: [${env:B}]", ["SC108 1:5"]),
    ("reference in a mapping", b"a: {b: ${env:C}}", ["SC108 1:8"]),
    ("template", b"a: {{ b }}", ["SC113 1:5"]),
    ("star", b"a: *", ["SC104 1:4"]),
    ("glob", b"a: *.yaml", ["SC104 1:4"]),
    ("ampersand", b"a: & b", ["SC104 1:4"]),
    # keys
    ("duplicate", b"a: 1\nb: 2\na: 3", ["SC109 3:1"]),
    ("duplicate in another spelling", b'a: 1\n"a": 2', ["SC109 2:1"]),
    ("duplicate in a line", b"{a: 1, a: 2}", ["SC109 1:8"]),
    ("duplicates, twice", b"a: 1\na: 2\na: 3", ["SC109 2:1", "SC109 3:1"]),
    ("duplicate deep inside", b"a:\n  - b: {c: 1, d: [x, y], c: 2}", ["SC109 2:26"]),
    ("number as a key", b"1: a", ["SC113 1:1"]),
    ("null as a key", b"~: a", ["SC113 1:1"]),
    ("boolean as a key", b"true: a", ["SC113 1:1"]),
    ("empty key in braces", b"{: a}", ["SC104 1:2"]),
    ("float as a key", b"1.5: a", ["SC113 1:1"]),
    ("list as a key", b"[a]: b", ["SC113 1:1"]),
    ("mapping as a key", b"? {a: b}\n: c", ["SC113 1:3"]),
    ("alias as a key", b"a: &x b\n*x : c", ["SC113 2:1"]),
    ("merge key", b"a: &x {b: 1}\nc:\n  <<: *x", ["SC112 3:3"]),
    ("leading zero as a key", b"012: a", ["SC114 1:1", "SC113 1:1"]),
    # documents, tags, directives
    ("two documents", b"a: 1\n---\nb: 2", ["SC110 2:1"]),
    ("many documents", b"---\n" * 1000, ["SC110 2:1"]),
    ("text behind the end", b"a: 1\n...\nb: 2", ["SC104 3:1"]),
    ("JSON and more", b'{"a": 1} x', ["SC104 1:10"]),
    ("tag", b"a: !x b", ["SC111 1:4"]),
    ("standard tag", b"a: !!str 1", ["SC111 1:4"]),
    ("verbatim tag", b"a: !<tag:yaml.org,2002:int> 1", ["SC111 1:4"]),
    ("tag of a Python object", b"a: !!python/object/apply:os.system [id]", ["SC111 1:4"]),
    ("no tag at all, said", b"a: ! 12", ["SC111 1:4"]),
    ("tag behind an anchor", b"a: &x ! 12", ["SC111 1:4"]),
    ("tag on a mapping", b"!m\na: 1", ["SC111 1:1"]),
    ("tag on a key", b"!k a: 1", ["SC111 1:1"]),
    ("two tags", b"a: !x 1\nb: !y 2", ["SC111 1:4", "SC111 2:4"]),
    ("tag directive", b"%TAG ! x\n---\na: 1", ["SC111 1:1"]),
    ("tag directives behind the end", b"a: 1\n...\n" + b"%TAG !a! b\n" * 1000, ["SC111 3:1"]),
    ("unknown directive", b"%FOO\n---\na: 1", ["SC111 1:1"]),
    ("YAML of the future", b"%YAML 2.0\n---\na: 1", ["SC104 1:1"]),
    # anchors
    ("no anchor", b"a: *x", ["SC116 1:4"]),
    ("anchor behind its alias", b"a: *x\nb: &x 1", ["SC116 1:4"]),
    ("alias in itself", b"a: &x [*x]", ["SC116 1:8"]),
    ("alias deep in itself", b"a: &x {b: {c: *x}}", ["SC116 1:15"]),
    # several at once
    ("many small ones", b"a: 012\nb: .inf\na: 3\n1: x", ["SC114 1:4", "SC115 2:4", "SC109 3:1", "SC113 4:1"]),
    ("one and a syntax error", b"a: 012\nb: [", ["SC114 1:4", "SC104 2:5"]),
    # line ends
    ("CRLF", b"a: 1\r\nb: @", ["SC104 2:4"]),
    ("CR", b"a: 1\rb: @", ["SC104 2:4"]),
    ("mixed line ends", b"a: 1\r\n\r\nb: 2\n\rc: @", ["SC104 5:4"]),
    ("combining characters", "e\u0301: @".encode(), ["SC104 1:5"]),
    ("beyond the BMP", "\U0001f600: @".encode(), ["SC104 1:4"]),
    # budgets
    ("brackets", b"[" * 25_000, [f"SC602 1:{MAX_DEPTH + 1}"]),
    ("lists in lines", b"- " * 1000, [f"SC602 1:{2 * MAX_DEPTH + 1}"]),
    ("braces", b"{a: " * 1000, [f"SC602 1:{4 * MAX_DEPTH + 1}"]),
    ("a long text", b"a: " + b"b" * (MAX_SCALAR_CHARACTERS + 1), ["SC604 1:4"]),
    ("a long key", b"? " + b"b" * (MAX_SCALAR_CHARACTERS + 1), ["SC604 1:3"]),
    ("a large file", b"#" * (MAX_BYTES + 1), ["SC601 1:1"]),
    ("many values", b"- a\n" * MAX_NODES, [f"SC603 {MAX_NODES}:3"]),
    ("many lists", b"[" + b"[]," * MAX_COLLECTIONS + b"]", [f"SC603 1:{3 * MAX_COLLECTIONS - 1}"]),
    ("many anchors", b"- &a b\n" * (MAX_ANCHORS + 1), [f"SC603 {MAX_ANCHORS + 1}:3"]),
    ("many anchors of keys", b"".join(b"&a k%d: &b []\n" % i for i in range(MAX_ANCHORS)), ["SC603 5001:1"]),
    # more of each kind
    ("two marks", b"\xef\xbb\xbf\xef\xbb\xbfa: 1", ["SC102 1:1"]),
    ("UTF-32", "a: 1".encode("utf-32"), ["SC101 1:1"]),
    ("UTF-7", b"a: +AGE-\n+AGE-: @", ["SC104 2:8"]),
    ("lone continuation", b"a: \x80", ["SC101 1:4"]),
    ("five byte sequence", b"a: \xf8\x88\x80\x80\x80", ["SC101 1:4"]),
    ("surrogate pair in CESU", b"a: \xed\xa0\xbd\xed\xb8\x80", ["SC101 1:4"]),
    ("bad byte in a comment", b"a: 1 # \xe9", ["SC101 1:8"]),
    ("bad byte behind a wide line", "# 日本語\n".encode()+b"a: \xe9", ["SC101 2:4"]),
    ("vertical tab", b"a: b\x0bc", ["SC102 1:5"]),
    ("backspace in a key", b"a\x08: 1", ["SC102 1:2"]),
    ("paragraph separator", "a: b\u2029c".encode(), ["SC102 1:5"]),
    ("not a character, reversed", "a: \ufffe".encode(), ["SC102 1:4"]),
    ("file separator", b"a: 1\n\x1c", ["SC102 2:1"]),
    ("ELF", b"\x7fELF\x02\x01\x01", ["SC102 1:1"]),
    ("zip", b"PK\x03\x04\x14\x00", ["SC102 1:3"]),
    ("PNG", b"\x89PNG\r\n\x1a\n", ["SC101 1:1"]),
    ("only a tab", b"\t", ["SC106 1:1"]),
    ("only a comment and a marker", b"--- # nothing\n", ["SC103 1:1"]),
    ("only a null", b"--- \n...\n", ["SC103 1:1"]),
    ("quote in a key left open", b'"a: 1\nb: 2\n', ["SC105 1:1"]),
    ("quote left open behind CRLF", b"a: 1\r\nb: \"c\r\n", ["SC105 2:4"]),
    ("escape of a new line in single quotes", b"a: 'b\\'c'", ["SC104 1:8"]),
    ("escape of nothing", b'a: "b\\', ["SC107 1:6"]),
    ("unknown escape behind lines", b'a: "b\n  c\\y"', ["SC107 2:4"]),
    ("short unicode escape", b'a: "\\u12"', ["SC107 1:5"]),
    ("tab behind a dash", b"a:\n-\t\tb: 1\n\tc: 2", ["SC106 2:2"]),
    ("reserved character in braces", b"{\n  a: 1,\n  @}", ["SC104 3:3"]),
    ("only an indicator", b"?", ["SC113 1:2"]),
    ("a block left of its parent", b"  a: 1\nb: 2", ["SC104 2:1"]),
    ("a list left of its parent", b"a:\n    - b\n  - c", ["SC104 3:3"]),
    ("a key in a list", b"- a\n  b: c", ["SC104 2:4"]),
    ("colon without a space", b"a:1\nb: 2", ["SC104 2:2"]),
    ("equals sign", b"a = 1\nb: 2", ["SC104 1:1"]),
    ("three colons", b"a: b: c: d", ["SC104 1:5"]),
    ("JSON with a comma too many", b'{"a": 1,, "b": 2}', ["SC104 1:9"]),
    ("JSON with single line comment", b'{"a": 1 // x\n, "b": @}', ["SC104 2:8"]),
    ("comment in brackets", b"a: [1, # x\n2, @]", ["SC104 2:4"]),
    ("brace closed by nothing", b"a: {b: {c: d}\ne: f", ["SC104 1:4"]),
    ("bracket over lines", b"a: [\n  b,\n  c\nd: e\n", ["SC104 1:4"]),
    ("question marks", b"? ? ? a", ["SC113 1:3"]),
    ("explicit key with a list", b"? - a\n: b", ["SC113 1:3"]),
    ("pipe", b"a: | b", ["SC104 1:6"]),
    ("folded header twice", b"a: >>\n b", ["SC104 1:5"]),
    ("block indentation of nought", b"a: |0\n b", ["SC104 1:5"]),
    ("block less indented than its first line", b"a: |\n   b\n  c\nd: @", ["SC104 3:3"]),
    ("reference with quotes in a list", b"a: ['${env:B}', ${env:C}]", ["SC108 1:17"]),
    ("percent at the start", b"%", ["SC111 1:1"]),
    ("percent behind CR", b"a: 1\r%TAG ! x\r", ["SC111 2:1"]),
    ("Windows line ends and a tab", b"a:\r\n\tb: 1\r\n", ["SC106 2:1"]),
    ("exclamation mark alone", b"!", ["SC111 1:1"]),
    ("tag without an end", b"a: !<x b", ["SC111 1:4"]),
    ("tag in a list", b"a: [!x b, c]", ["SC111 1:5"]),
    ("binary tag", b"a: !!binary aGk=", ["SC111 1:4"]),
    ("tag on an alias", b"a: &x 1\nb: !t *x", ["SC111 2:4", "SC104 2:7"]),
    ("set", b"a: !!set {b, c}", ["SC111 1:4"]),
    ("ordered map", b"a: !!omap [b: 1]", ["SC111 1:4"]),
    ("anchor twice", b"a: &x &y 1", ["SC104 1:7"]),
    ("anchor of nothing used", b"a: &x\nb: *x\nc: *y", ["SC116 3:4"]),
    ("anchor on a key used before", b"*x : 1\n&x a: 2", ["SC113 1:1"]),
    ("alias with a tail", b"a: &x 1\nb: *x y", ["SC104 2:7"]),
    ("merge key in braces", b"a: &x {b: 1}\nc: {<<: *x}", ["SC112 2:5"]),
    ("merge of a list", b"a: &x {b: 1}\n<<: [*x]", ["SC112 2:1"]),
    ("duplicate of a refused key", b"~: 1\n~: 2", ["SC113 1:1", "SC113 2:1"]),
    ("duplicate that is quoted twice", b"'a': 1\n\"a\": 2\na: 3", ["SC109 2:1", "SC109 3:1"]),
    ("duplicate by escape", b'"\\x61": 1\na: 2', ["SC109 2:1"]),
    ("duplicate empty text", b'"": 1\n\'\': 2', ["SC109 2:1"]),
    ("octal key", b"0o17: a", ["SC113 1:1"]),
    ("hexadecimal key", b"0x1f: a", ["SC113 1:1"]),
    ("negative infinity", b"a: -.inf", ["SC115 1:4"]),
    ("a float of a thousand digits", b"a: 0."+b"1"*1000, ["SC605 1:4"]),
    ("an exponent beyond", b"a: 1e99999", ["SC115 1:4"]),
    ("zeros", b"a: 0000", ["SC114 1:4"]),
    ("a date with a leading zero of its own", b"a: 2026-01-02\nb: 01", ["SC114 2:4"]),
    ("YAML twice", b"%YAML 1.2\n%YAML 1.2\n---\na: 1", ["SC104 2:1"]),
    ("document behind an end", b"a: 1\n...\n---\nb: 2", ["SC110 3:1"]),
    ("document in a document", b"a: 1\n--- b\n", ["SC110 2:1"]),
    ("end in a quote", b'a: "\n...\n"', ["SC105 1:4"]),
    ("deep in braces and brackets", b"[{a: "*100, ["SC602 1:161"]),
    ("deep by question marks", b"? "*200, ["SC113 1:3"]),
    ("deeper than libyaml goes", b"[{a: "*2_000, ["SC602 1:161"]),
    ("deeper than it goes, behind a fault", b"a: .inf\nb: "+b"["*2_000, ["SC115 1:4", "SC602 2:67"]),
    ("deep by indentation", b"".join(b" "*i+b"a:\n" for i in range(100)), ["SC602 65:65"]),
]  # fmt: skip


class TestNastyInput:
    @pytest.mark.parametrize(("text", "expected"), [it[1:] for it in NASTY], ids=[it[0] for it in NASTY])
    def test_it_is_refused_at_its_exact_place(self, text: bytes, expected: list[str]) -> None:
        assert places(text) == expected

    def test_the_table_has_each_case_once(self) -> None:
        assert len({it[0] for it in NASTY}) == len({it[1] for it in NASTY}) == len(NASTY)

    def test_every_code_is_documented(self) -> None:
        used = {place.split()[0] for it in NASTY for place in it[2]}
        assert used <= CODES.keys()

    def test_a_duplicate_names_the_first_place(self) -> None:
        (found,) = findings("x: {y: 1}\nb: [1, {c: 2}]\na: 1\nb: 2\n")
        assert found.hint is not None
        assert "line 2, column 1" in found.hint

    def test_the_first_place_is_right_behind_other_refused_keys(self) -> None:
        found = findings("1: {x: y}\n1.5: [a, b]\nb: 1\nb: 2\n")
        assert "line 3, column 1" in str(found[-1])

    def test_no_more_findings_than_somebody_reads(self) -> None:
        assert len(findings("".join(f"k{i}: 012\n" for i in range(1000)))) == MAX_FINDINGS

    def test_a_message_holds_no_value(self) -> None:
        for text in [
            'a: "canary\\q"',
            "a: canary: x",
            "a: canary\n b: canary2: x",
            "a: 'canary",
            "a: [canary x: ]y",
        ]:
            assert "canary" not in str(findings(text)), text

    def test_a_finding_spans_its_token(self) -> None:
        (found,) = findings("abc: 0123")
        assert found.mark == Mark("m", 1, 6, 1, 10)


class TestAliases:
    def test_they_stand_for_their_anchor(self) -> None:
        assert parse("a: &x {b: [1, 2]}\nc: *x\nd: &y z\ne: *y") == {
            "a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": "z", "e": "z",
        }  # fmt: skip

    def test_an_anchor_may_be_given_again(self) -> None:
        assert parse("a: &x 1\nb: *x\nc: &x 2\nd: *x") == {"a": 1, "b": 1, "c": 2, "d": 2}

    def test_a_bomb_is_counted_at_what_it_stands_for(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 10)]
        assert [it.code for it in findings("\n".join(lines))] == ["SC606"]

    def test_many_aliases_of_a_scalar_are_counted_too(self) -> None:
        text = "- &a x\n" + "- *a\n" * MAX_ALIASED_NODES
        assert isinstance(parse(text), list)
        assert [it.code for it in findings(text + "- *a\n")] == ["SC606"]

    def test_aliases_count_by_their_text_too(self) -> None:
        # Whoever joins or copies each text would have more of it than any machine has memory for.
        text = "- &a " + "x" * 1_000_000 + "\n" + "- *a\n" * 16
        assert isinstance(parse(text), list)
        assert places(text + "- *a\n") == ["SC606 18:3"]
        nested = "- &a " + "x" * 100_000 + "\n- &b [" + "*a, " * 10 + "]\n" + "- *b\n" * 15
        assert isinstance(parse(nested), list)
        assert places(nested + "- *b\n") == ["SC606 18:3"]

    def test_depth_is_counted_through_aliases(self) -> None:
        def chain(levels: int) -> str:
            deeper = [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, levels)]
            return "\n".join(["a0: &a0 [x]", *deeper])  # a0 has height 1, in a mapping

        assert isinstance(parse(chain(MAX_DEPTH - 1)), dict)
        assert [it.code for it in findings(chain(MAX_DEPTH))] == ["SC602"]

    def test_a_place_inside_an_alias_is_that_of_the_anchor(self) -> None:
        document = parse_document(b"a: &x {b: [1, 2]}\nc: *x\n", "m")
        assert str(document.mark(("c", "b", 1))) == "m:1:15"
        assert str(document.mark(("c",))) == "m:1:4"


class TestMarks:
    TEXT = b"a:\n  b: [1, 22]\n  c: x y\n  d:\ne: 'z'\n"

    @pytest.mark.parametrize(
        ("pointer", "value", "key"),
        [
            ((), (1, 1, 5, 7), (1, 1, 5, 7)),
            (("a",), (2, 3, 4, 5), (1, 1, 1, 2)),
            (("a", "b"), (2, 6, 2, 13), (2, 3, 2, 4)),
            (("a", "b", 1), (2, 10, 2, 12), (2, 10, 2, 12)),
            (("a", "c"), (3, 6, 3, 9), (3, 3, 3, 4)),
            (("a", "d"), (4, 3, 4, 4), (4, 3, 4, 4)),  # an empty value has no place of its own
            (("e",), (5, 4, 5, 7), (5, 1, 5, 2)),
            (("a", "b", 7), (2, 6, 2, 13), (2, 3, 2, 4)),  # the nearest ancestor
            (("a", "c", "x"), (3, 6, 3, 9), (3, 3, 3, 4)),
            (("nothing", "here"), (1, 1, 5, 7), (1, 1, 5, 7)),
        ],
    )
    def test_value_and_key_have_their_spans(
        self, pointer: tuple[str | int, ...], value: tuple[int, ...], key: tuple[int, ...]
    ) -> None:
        document = parse_document(self.TEXT, "m")
        assert document.mark(pointer) == Mark("m", *value)
        assert document.key_mark(pointer) == Mark("m", *key)

    def test_a_byte_order_mark_takes_no_column(self) -> None:
        assert parse_document(b"\xef\xbb\xbfa: 1", "m").mark(("a",)) == Mark("m", 1, 4, 1, 5)

    def test_key_marks_are_those_of_all_keys(self) -> None:
        document = parse_document(self.TEXT, "m")
        assert document.key_marks(("a",)) == {key: document.key_mark(("a", key)) for key in "bcd"}

    def test_a_place_inside_of_a_line_end_is_on_the_line_before_it(self) -> None:
        document = parse_document(b"a: 1\r\nb: 2\r\n", "m")
        assert document.mark_at(5, 6) == Mark("m", 1, 5, 2, 1)
        assert document.mark_at(11, 12) == Mark("m", 2, 5, 3, 1)

    def test_places_may_be_asked_for_in_any_order(self) -> None:
        text = "".join(f"k{i}: v\r\n" for i in range(200)).encode()
        document = parse_document(text, "m")
        order = list(range(200))
        random.Random(1).shuffle(order)
        assert [document.key_mark((f"k{i}",)).line for i in order] == [i + 1 for i in order]

    def test_a_document_shows_no_value(self) -> None:
        assert repr(parse_document(b"a: canary", "m")) == "<Document 'm'>"

    @given(
        st.recursive(
            st.text("abc é日", min_size=1, max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(st.text("xyz", min_size=1), inner, max_size=4)
            ),
            max_leaves=20,
        ).filter(lambda it: not isinstance(it, str)),
        st.sampled_from([True, False, None]),
    )
    def test_the_span_of_every_value_reads_as_that_value(self, value: object, flow: bool | None) -> None:
        text = yaml.dump(value, default_flow_style=flow, allow_unicode=True, default_style='"', width=30)
        document = parse_document(text.encode(), "m")
        assert document.value == value
        for pointer, item in walk(value):
            start, end = document.span(pointer)
            part = document.text[start:end]
            line_start = document.text.rfind("\n", 0, start) + 1
            assert yaml.safe_load(" " * (start - line_start) + part) == item


class TestManyNodes:
    """What is kept of one node for the next shows in no value and no place, nor when there is more of it."""

    def test_places_are_right_however_many_nodes_there_are(self) -> None:
        lines = [f"k{i}: {{a: [{i}, true], 'b': &x{i} [q, {{}}]}}" for i in range(3_000)]
        document = parse_document("\n".join(lines).encode(), "m")
        assert document.value["k2999"] == {"a": [2999, True], "b": ["q", {}]}
        for number in (0, 61, 62, 63, 1_499, 2_999):
            line = lines[number]
            mark = document.mark((f"k{number}", "b", 1))
            assert (mark.line, mark.column) == (number + 1, line.index("{}") + 1)
            whole = document.mark((f"k{number}",))
            assert (whole.line, whole.column) == (number + 1, line.index("{a") + 1)
            assert (whole.end_line, whole.end_column) == (number + 1, len(line) + 1)
        assert document.mark(()).end_line == 3_000

    def test_a_key_that_is_known_from_elsewhere_is_still_there_twice(self) -> None:
        text = "".join(f"k{i}: {{type: a}}\n" for i in range(600)) + "k600: {type: a, x: 1, type: b}\n"
        assert places(text) == ["SC109 601:23"]

    def test_a_scalar_is_refused_as_often_as_it_is_there(self) -> None:
        assert places("a: 012\nb: 012\nc: .inf\nd: .inf\n") == [
            "SC114 1:4", "SC114 2:4", "SC115 3:4", "SC115 4:4",
        ]  # fmt: skip

    def test_equal_texts_in_quotes_and_plain_stay_what_they_are(self) -> None:
        assert parse("a: true\nb: 'true'\nc: true\nd: '1'\ne: 1\n1x: '1x'\n") == {
            "a": True, "b": "true", "c": True, "d": "1", "e": 1, "1x": "1x",
        }  # fmt: skip

    def test_a_key_in_quotes_does_not_let_its_plain_form_pass(self) -> None:
        assert places("- {'on': 1, '1': 2}\n- {on: 1, 1: 2}\n") == ["SC113 2:11"]


class TestRobustness:
    @given(st.binary(max_size=200))
    def test_any_bytes_give_a_value_or_findings(self, text: bytes) -> None:
        parsed(text)

    @given(st.lists(st.sampled_from([*PIECES, b"a", b"b: ", b" ", b"1"]), max_size=30).map(b"".join))
    def test_any_heap_of_syntax_gives_a_value_or_findings(self, text: bytes) -> None:
        parsed(text)

    @pytest.mark.parametrize(
        ("seed", "count", "seconds"),
        [
            (0, 2_000, 45.0),
            pytest.param(2_000, 20_000, 120.0, marks=pytest.mark.ci),
            pytest.param(1_000_000, 10_000_000, 600.0, marks=pytest.mark.long),
        ],
        ids=["everyday", "ci", "long"],
    )
    @pytest.mark.timeout(700)
    def test_the_loader_survives_mutants_in_a_thread_with_a_small_stack(
        self, seed: int, count: int, seconds: float, tmp_path: Path
    ) -> None:
        # In a process of its own: a segmentation fault would end this one.
        command = [sys.executable, "-P", fuzz.__file__, str(seed), str(count), str(seconds)]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 60,
        )
        *before, last = done.stdout.splitlines() or [""]
        assert (done.returncode, last[:8]) == (0, "survived"), (
            f"behind seed {before[-1:]}: {done.stderr[-3000:]}"
        )

    @pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
    def test_what_pyyaml_and_we_accept_has_the_same_shape(self) -> None:
        def shape(value: object) -> object:
            if isinstance(value, dict):
                return {str(key): shape(item) for key, item in value.items()}
            return [shape(item) for item in value] if isinstance(value, list) else "scalar"

        accepted = 0
        for text in map(mutant, range(500)):
            try:
                value = parse_document(text, "m").value
            except ManifestError:
                continue
            accepted += 1
            assert shape(value) == shape(yaml.load(text, Loader=yaml.CBaseLoader)), text
        assert accepted > 20

    @pytest.mark.parametrize(
        "text", [b"[" * 25_000, b"{a: " * 10_000, SEEDS[0]], ids=["list", "mapping", "good"]
    )
    def test_a_thread_with_a_small_stack_survives(self, text: bytes) -> None:
        # In a process of its own: an overflow would end this one.
        script = (
            "import sys, threading\n"
            "from shadowcat_registry.parse import parse_document\n"
            "from shadowcat_registry.errors import ManifestError\n"
            "data = sys.stdin.buffer.read()\n"
            "def run():\n"
            "    try: parse_document(data, 'm')\n"
            "    except ManifestError: pass\n"
            "    print('survived')\n"
            "threading.stack_size(256 * 1024)\n"
            "thread = threading.Thread(target=run); thread.start(); thread.join()\n"
        )
        done = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, timeout=50)
        assert done.stdout.strip() == b"survived"
        assert done.returncode == 0

    def test_threads_do_not_disturb_each_other(self) -> None:
        expected = parse(SEEDS[0].replace(b'"a\\tb"', b"a"))
        got: list[object] = []

        def run() -> None:
            got.extend(parse(SEEDS[0].replace(b'"a\\tb"', b"a")) for _ in range(20))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [expected] * 80


@pytest.fixture
def pure_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyYAML as it is where it was installed without libyaml."""
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    parse_module._loader.cache_clear()
    yield
    parse_module._loader.cache_clear()


@pytest.mark.usefixtures("pure_python")
class TestWithoutLibyaml:
    def test_it_says_once_that_it_is_slow(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            parse("a: 1")
            parse("a: 1")
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    def test_values_are_the_same(self) -> None:
        assert parse(b"a: [1, no, 0x1f, 'x', ~]\nb: {c: &d e, f: 1}\ng: |\n  h") == {
            "a": [1, "no", 31, "x", None],
            "b": {"c": "e", "f": 1},
            "g": "h",
        }

    @pytest.mark.parametrize(
        ("text", "expected"),
        [it[1:] for it in NASTY if len(it[1]) < 10_000],
        ids=[it[0] for it in NASTY if len(it[1]) < 10_000],
    )
    def test_the_same_is_refused(self, text: bytes, expected: list[str]) -> None:
        assert [it.split()[0] for it in places(text)][:1] in ([expected[0].split()[0]], ["SC104"], ["SC102"])

    @settings(max_examples=50)
    @given(st.lists(st.sampled_from([*PIECES, b"a", b"b: ", b" ", b"1"]), max_size=30).map(b"".join))
    def test_nothing_else_comes_out(self, text: bytes) -> None:
        parsed(text)
