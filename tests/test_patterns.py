"""Expressions that explode are refused, those that people write are not."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shadowcat_registry.metadata import NAME_PATTERN
from shadowcat_registry.patterns import MAX_PATTERN_CHARACTERS, MAX_TEXT_CHARACTERS, fault_of

USUAL = [
    "",
    "[a-z]",
    "^.*$",
    f"^{NAME_PATTERN}$",
    r"^\d{4}-\d{2}-\d{2}$",
    "^[a-z]+(-[a-z]+)*$",
    r"^([a-z0-9]+\.)+[a-z]+$",
    "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
    "^(?:s3|gs|az|sftp)://[^/]+/.+$",
    r"^(?:[0-9]{1,3}\.){3}[0-9]{1,3}$",
    r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$",
    r"^[^@]+@[^@]+\.[^@]+$",
    "^(foo|bar)*$",
    "^(http|https)://",
    r"^(?!\.)[a-z.]+$",
    r"\.json$",
    "^x-",
    "^a*$|^b*$",
    "^[]a]+$",
    r"^[^\]]*$",
    "^[а-я]+$",
    r"^(?P<size>[0-9]+)(?:kB|MB|GB)?$",
]

EXPLOSIVE = [
    "^(a+)+$",
    "^(a*)*$",
    "^(a|a)*$",
    "^(a|aa)+$",
    "^(a|b|ab)*$",
    "^(a|a?)+$",
    "^(a?){50}$",
    "^(a{1,2})*$",
    "^((ab)*)*$",
    "^([a-z]+)*$",
    "^(.*)*$",
    "^(x+x+)+y$",
    "^(a+b?)+$",
    "^(?:a+?)+$",
    "^(?=(a+)+$)a",
    r"^(?:[а-яё]|\w)*$",
    r"^(?:\x61|a)*$",
    r"^(?:\u0430|[\u0400-\u04ff])*$",
    "^(?:){99999999}$",
    "^" + "a?" * 30 + "a" * 30 + "$",
    "^a*a*a*$",
    "^.*foo.*bar$",
    "a*b*ab",
    "(a+)+",
    "^a|a*ab",
]

# Built from parts that are fine by themselves and often explode together.
parts = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "a?", "a*", "b+", "(?:ab)?", "a{1,3}", "b{2}", "c"])
expressions = st.recursive(
    parts,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda them: f"(?:{'|'.join(them)})"),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda both: f"(?:{both[0]}){both[1]}"),
    ),
    max_leaves=6,
)
texts = st.lists(st.sampled_from(["a", "b", "ab", "aab", "c"]), min_size=1, max_size=3).map("".join)


class TestPatterns:
    @pytest.mark.parametrize("pattern", USUAL)
    def test_what_people_write_is_allowed(self, pattern: str) -> None:
        assert fault_of(pattern) is None

    @pytest.mark.parametrize("pattern", EXPLOSIVE)
    def test_what_explodes_is_refused(self, pattern: str) -> None:
        assert re.search("several ways|too many ways", fault_of(pattern) or "")

    @pytest.mark.parametrize(
        ("pattern", "words"),
        [
            ("(", "not a regular expression"),
            ("a{99999999999999999999}", "not a regular expression"),
            (r"^(a)\1$", "back reference"),
            ("^(?P<a>x)(?P=a)$", "kind of group"),
            ("(?i)a", "kind of group"),
            ("^(a)(?(1)b|c)$", "kind of group"),
            ("(" * 21 + "a" + ")" * 21, "too many groups"),
            ("(" * 500 + ")" * 500, "a pattern"),
            ("a" * (MAX_PATTERN_CHARACTERS + 1), "more than 1000 characters"),
        ],
    )
    def test_what_cannot_be_judged_is_refused(self, pattern: str, words: str) -> None:
        assert words in (fault_of(pattern) or "")

    @given(expressions, texts)
    def test_whatever_is_allowed_ends(self, expression: str, text: str) -> None:
        """One that explodes would take longer than the universe: the time limit of the tests sees it."""
        pattern = f"^{expression}$"
        assume(fault_of(pattern) is None)
        re.search(pattern, text * 100 + "!")

    @pytest.mark.parametrize("pattern", USUAL)
    def test_the_longest_text_ends(self, pattern: str) -> None:
        for part in ("a", "a-", "a.", "ab", "foo", "1", "x@"):
            re.search(pattern, (part * MAX_TEXT_CHARACTERS)[: MAX_TEXT_CHARACTERS - 1] + "!")
