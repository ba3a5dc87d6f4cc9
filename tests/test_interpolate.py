"""The grammar of `${…}`, and that what is secret is never said."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.errors import Problem
from shadowcat_registry.interpolate import (
    MASK,
    MAX_FILE_BYTES,
    Resolved,
    has_reference,
    mask,
    redact,
    resolve,
)
from shadowcat_registry.marks import Pointer

ENVIRON = {"A": "a", "EMPTY": "", "N": "42", "TRUE": "true", "REF": "${env:A}", "DOLLARS": "$$"}


def run(
    value: Any, *, types: Mapping[Pointer, frozenset[str]] | None = None, base: Path = Path("/nowhere")
) -> Resolved:
    """Resolve `{"x": value}`."""
    known = types or {}
    return resolve(
        {"x": value},
        environ=ENVIRON,
        base_directory=base,
        types_at=lambda pointer: known.get(pointer, frozenset()),
    )


def the_problem(value: Any, base: Path = Path("/nowhere")) -> Problem:
    resolved = run(value, base=base)
    (problem,) = resolved.problems
    assert resolved.unresolved == {problem.pointer}
    return problem


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("plain", "plain"),
            ("${env:A}", "a"),
            ("-${env:A}-${env:A}-", "-a-a-"),
            ("${env:EMPTY}", ""),
            ("${env:EMPTY:-d}", "d"),
            ("${env:UNSET:-d}", "d"),
            ("${env:UNSET:-}", ""),
            ("${env:A:-d}", "a"),
            ("${env:UNSET:-a:b?c-d e/f}", "a:b?c-d e/f"),
            ("${env:UNSET:-x\ny}", "x\ny"),
            ("${env:UNSET:-5$$}", "5$"),
            ("${env:A:?say}", "a"),
            ("$$", "$"),
            ("$$$$", "$$"),
            ("$${env:A}", "${env:A}"),
            ("$$${env:A}", "$a"),
            ("$A $ 5$ $(x)", "$A $ 5$ $(x)"),  # only `${` is a reference
            ("}", "}"),
            ("${env:A}}", "a}"),
        ],
    )
    def test_what_a_text_becomes(self, text: str, value: str) -> None:
        resolved = run(text)
        assert resolved.problems == ()
        assert resolved.config == {"x": value}

    @pytest.mark.parametrize("name", ["REF", "DOLLARS"])
    def test_what_comes_out_is_not_looked_at_again(self, name: str) -> None:
        assert run(f"${{env:{name}}}").config == {"x": ENVIRON[name]}

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("${env:UNSET}", "SC401"),
            ("${env:UNSET:?}", "SC401"),
            ("${env:EMPTY:?say}", "SC401"),
            ("${A}", "SC402"),
            ("${}", "SC402"),
            ("${env:}", "SC402"),
            ("${env:1A}", "SC402"),
            ("${env:A-B}", "SC402"),
            ("${env:A:}", "SC402"),
            ("${env:A:+x}", "SC402"),
            ("${env: A}", "SC402"),
            ("${ENV:A}", "SC402"),
            ("${file:}", "SC402"),
            ("${http://x}", "SC402"),
            ("${env:A", "SC402"),
            ("a${", "SC402"),
            ("${env:UNSET:-${env:A}}", "SC403"),
            ("${env:${env:A}}", "SC403"),
            ("${env:É}", "SC402"),
        ],
    )
    def test_what_is_wrong_has_a_code(self, text: str, code: str) -> None:
        assert the_problem(text).code == code
        assert has_reference(text)

    def test_the_message_of_the_author_is_the_message(self) -> None:
        assert "ask Ada for it" in the_problem("${env:UNSET:?ask Ada for it}").message

    def test_an_unset_variable_is_named(self) -> None:
        assert "UNSET" in the_problem("${env:UNSET}").message

    def test_everything_wrong_is_said_at_once_with_its_place(self) -> None:
        resolved = run([{"y": "${env:UNSET}"}, "${foo}", "${env:A}"])
        assert [problem.pointer for problem in resolved.problems] == [("x", 0, "y"), ("x", 1)]
        assert resolved.referenced == {("x", 0, "y"), ("x", 1), ("x", 2)}

    def test_a_key_is_not_resolved(self) -> None:
        (problem,) = run({"${env:A}": 1}).problems
        assert (problem.code, problem.pointer, problem.on_key) == ("SC404", ("x", "${env:A}"), True)

    @given(st.text("$ab{}", max_size=12))
    def test_doubling_the_dollars_keeps_any_text(self, text: str) -> None:
        assert run(text.replace("$", "$$")).config == {"x": text}

    @given(st.text("${}env:A-? \n", max_size=20))
    def test_any_text_gives_a_value_or_a_problem(self, text: str) -> None:
        resolved = run(text)
        assert (len(resolved.problems) == 1) == (("x",) in resolved.unresolved)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text("abc"),
            lambda v: st.lists(v) | st.dictionaries(st.text("abc"), v),
        )
    )
    def test_a_config_without_references_stays_as_it_is(self, value: Any) -> None:
        assert run(value).config == {"x": value}

    def test_the_given_config_is_not_changed(self) -> None:
        config = {"a": ["${env:A}"]}
        resolve(config, environ=ENVIRON, base_directory=Path(), types_at=lambda _: frozenset())
        assert config == {"a": ["${env:A}"]}


class TestConversion:
    @pytest.mark.parametrize(
        ("text", "types", "value"),
        [
            ("${env:N}", {"integer"}, 42),
            ("${env:N}", {"number"}, 42),
            ("${env:UNSET:-1.5}", {"number"}, 1.5),
            ("${env:UNSET:--2}", {"integer"}, -2),
            ("${env:TRUE}", {"boolean"}, True),
            ("${env:UNSET:-false}", {"boolean", "null"}, False),
            ("${env:N}", {"string"}, "42"),
            ("${env:N}", {"string", "integer"}, "42"),
            ("${env:N}", set(), "42"),
            ("${env:N}0", {"integer"}, "420"),  # not one reference as a whole
            ("${env:N}${env:N}", {"integer"}, "4242"),
            ("$$", {"integer"}, "$"),
            ("42", {"integer"}, "42"),  # not a reference at all: quotes are meant
            ("${env:UNSET:-yes}", {"boolean"}, "yes"),
            ("${env:UNSET:-007}", {"integer"}, "007"),
            ("${env:UNSET:-1.0}", {"integer"}, "1.0"),
            ("${env:UNSET:-1e999}", {"number"}, "1e999"),
            ("${env:UNSET:-0x1}", {"integer"}, "0x1"),
            ("${env:UNSET:- 1}", {"integer"}, " 1"),
            ("${env:UNSET:-٤}", {"integer"}, "٤"),
            ("${env:EMPTY}", {"integer"}, ""),
        ],
    )
    def test_only_where_a_number_or_boolean_is_wanted(
        self, text: str, types: set[str], value: object
    ) -> None:
        got = run(text, types={("x",): frozenset(types)}).config["x"]
        assert got == value
        assert type(got) is type(value)

    def test_a_number_of_very_many_digits_stays_a_text(self) -> None:
        text = "9" * 5000
        assert run(f"${{env:U:-{text}}}", types={("x",): frozenset({"integer"})}).config["x"] == text


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "value"),
        [
            (b"s\n", "s"),
            (b"s", "s"),
            (b"s\n\n", "s\n"),
            (b"s\r\n", "s"),
            (b"", ""),
            (b"\n", ""),
            ("é".encode(), "é"),
        ],
    )
    def test_one_newline_at_the_end_is_dropped(self, tmp_path: Path, content: bytes, value: str) -> None:
        (tmp_path / "secret").write_bytes(content)
        assert run("${file:secret}", base=tmp_path).config == {"x": value}

    def test_it_is_secret_watched_and_relative_to_the_manifest(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("word")
        resolved = run({"url": "db://u:${file:s}@h", "other": "${env:A}"}, base=tmp_path)
        assert resolved.config["x"]["url"] == "db://u:word@h"
        assert resolved.secrets == {("x", "url")}
        assert resolved.files == (tmp_path / "s",)
        absolute = run(f"${{file:{tmp_path / 's'}}}")
        assert absolute.config == {"x": "word"}

    def test_a_secret_number_is_converted_and_secret(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("7\n")
        resolved = run("${file:s}", base=tmp_path, types={("x",): frozenset({"integer"})})
        assert resolved.config == {"x": 7}
        assert resolved.secrets == {("x",)}

    def test_a_missing_file_is_watched_too(self, tmp_path: Path) -> None:
        resolved = run("${file:missing}", base=tmp_path)
        assert [problem.code for problem in resolved.problems] == ["SC405"]
        assert resolved.files == (tmp_path / "missing",)

    def test_a_directory_is_refused(self, tmp_path: Path) -> None:
        assert the_problem(f"${{file:{tmp_path}}}").code == "SC405"

    @pytest.mark.parametrize("content", [b"\xff", b"a\0b", b"x" * (MAX_FILE_BYTES + 1)])
    def test_what_is_no_text_or_too_long_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "s").write_bytes(content)
        assert the_problem("${file:s}", tmp_path).code == "SC405"

    def test_the_longest_file_is_accepted(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_bytes(b"x" * MAX_FILE_BYTES)
        assert run("${file:s}", base=tmp_path).problems == ()

    def test_a_path_that_is_none_is_refused(self, tmp_path: Path) -> None:
        assert the_problem("${file:a\0b}", tmp_path).code == "SC405"
        assert the_problem("${file:" + "a" * 5000 + "}", tmp_path).code == "SC405"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_that_nobody_writes_to_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert the_problem("${file:pipe}", tmp_path).code == "SC405"

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
    def test_an_endless_device_is_refused(self) -> None:
        assert the_problem("${file:/dev/zero}").code == "SC405"


class TestMask:
    def test_a_long_text_takes_no_time_that_grows_with_its_square(self) -> None:
        # The timeout of the tests would end this one.
        for text in ("x" * 1_000_000, "x://" * 250_000, "x://y:" * 150_000):
            assert mask({"a": text}, []) == {"a": text}
        assert mask({"a": "x" * 1_000_000 + "://me:pass@host"}, [])["a"].endswith("x://me:***@host")

    def test_secrets_and_passwords_in_urls_are_replaced(self) -> None:
        config = {
            "a": {"b": ["canary", "x"]},
            "url": "s3://key:canary@host/p",
            "n": 1,
            "whole": {"k": "canary"},
        }
        shown = mask(config, [("a", "b", 0), ("whole",)])
        assert shown == {"a": {"b": [MASK, "x"]}, "url": f"s3://key:{MASK}@host/p", "n": 1, "whole": MASK}
        assert config["whole"] == {"k": "canary"}

    def test_a_url_without_a_password_stays(self) -> None:
        config = {"a": "https://host:80/p@q", "b": "s3://user@host", "c": "C:\\x@y"}
        assert mask(config, []) == config

    def test_foreign_words_are_redacted(self) -> None:
        config = {"a": "canary", "b": ["canary2", {"c": 12345}], "d": True, "e": ""}
        text = redact(
            "canary2 and canary and 12345, 'canary', true", config, [("a",), ("b",), ("d",), ("e",)]
        )
        assert text == f"{MASK} and {MASK} and {MASK}, '{MASK}', true"

    def test_a_secret_in_quotes_with_escape_sequences_is_redacted(self) -> None:
        secret = "can\nary"
        assert redact(f"not {secret!r}", {"a": secret}, [("a",)]) == f"not '{MASK}'"

    def test_a_resolved_config_shows_nothing(self) -> None:
        assert "canary" not in repr(run("canary ${env:A}"))
