"""The line of a finding, with the place in it, and nothing on it that may be a secret."""

# ruff: noqa: E501 - one case a line reads better than seven lines a case
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import Excerpt, ManifestError
from shadowcat_registry.excerpts import MAX_CONTEXT, MAX_PLACE
from shadowcat_registry.load import parse_manifest

from .test_load import VAULT_SCHEMA, VaultFactory

PATH = Path("r.yaml")
SCHEMA: dict[str, Any] = VAULT_SCHEMA | {
    "properties": VAULT_SCHEMA["properties"]
    | {
        "servers": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"host": {"type": "string"}, "key": {"type": "string", "x-secret": True}},
                "additionalProperties": False,
            },
        },
        "vaults": {
            "type": "object",
            "x-secret": True,
            "additionalProperties": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
        "either": {"anyOf": [{"type": "integer"}, {"type": "string", "x-secret": True}]},
        "free": {},
    }
}


def shown(text: str) -> dict[str, str]:
    """`code line:column` → the line with the place between ‹ and ›."""
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text.encode(), PATH, Catalog([VaultFactory(SCHEMA)]), {})
    by_mark = {it.mark: it for it in caught.value.excerpts}
    return {
        f"{it.code} {it.mark.line}:{it.mark.column}": marked(by_mark[it.mark])
        for it in caught.value.findings
        if it.mark in by_mark
    }


def marked(it: Excerpt) -> str:
    assert 0 <= it.start <= it.end <= len(it.text)
    return f"{it.text[: it.start]}‹{it.text[it.start : it.end]}›{it.text[it.end :]}"


def vault(config: str) -> str:
    """The one line that is shown of a vault with this config and a field that does not exist."""
    text = f"version: 1\nproviders:\n  v: {{type: vault, config: {{token: t, {config}, zzz: 1}}}}\n"
    (line,) = {line.replace("‹", "").replace("›", "") for line in shown(text).values()}
    before, after = "  v: {type: vault, config: {token: ***, ", ", zzz: ***}}"
    assert line.startswith(before)
    assert line.endswith(after)
    return line[len(before) : -len(after)]


class TestWhatIsShown:
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ("path: ./x", "path: ./x"),
            ("path: './x y'", "path: './x y'"),
            ("retries: 7, on: true", "retries: 7, on: true"),
            ("labels: [a, 'b', c d]", "labels: [a, 'b', c d]"),
            ("options: {deep: 1}", "options: {deep: 1}"),
            ("servers: [{host: h}]", "servers: [{host: h}]"),
            ("path: '${env:HOME:?say where}/x'", "path: '${env:HOME:?say where}/x'"),
            ("retries: '${env:N}'", "retries: '${env:N}'"),
            ("path: 'a$$b'", "path: 'a$$b'"),
        ],
    )
    def test_a_value_whose_field_is_known_and_not_secret(self, config: str, expected: str) -> None:
        assert vault(config) == expected

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ("url: c", "url: ***"),
            ("url: 'c c, c: #c'", "url: ***"),
            ("tokens: [c, 'c', \"c\"]", "tokens: [***, ***, ***]"),
            ("servers: [{host: h, key: c}]", "servers: [{host: h, key: ***}]"),
            ("vaults: {c: {name: c}}", "vaults: {***: {***: ***}}"),
            ("either: 5", "either: ***"),
            ("free: c", "free: ***"),
            ("free: {c: c}", "free: {***: ***}"),
            ("tokn: c", "tokn: ***"),
            ("tokn: {c: [c]}", "tokn: {***: [***]}"),
            ("retries: c", "retries: ***"),
            ("retries: 'c${env:N}'", "retries: ***"),
            ("on: 1", "on: ***"),
            ("labels: {c: c}", "labels: {***: ***}"),
            ("path: [c]", "path: [***]"),
            ("options: {deep: c, c: c}", "options: {deep: ***, c: ***}"),
            ("path: '${env:X:-c}'", "path: ***"),
            ("path: '${env:X-c}'", "path: ***"),
            ("path: '${env:X:?a${b'", "path: ***"),
            ("path: 's3://key:c@host/'", "path: ***"),
            ("path: &c x", "path: ***"),
            ("labels: [&c x, *c]", "labels: [***, ***]"),
            ("labels: &c [x, y]", "labels: ***"),
            ("path: x, 'a c': 1", "path: x, ***: ***"),
        ],
    )
    def test_anything_else_is_masked_whatever_its_length(self, config: str, expected: str) -> None:
        assert vault(config) == expected

    def test_a_comment_is_cut_off(self) -> None:
        text = "version: 1\nproviders:\n  v:\n    type: nope # secret\n  # secret\n  w: {typ: memory, display_name: 'a # b'}\t# secret\n"
        assert shown(text) == {
            "SC302 4:11": "    type: ‹nope›",
            "SC201 6:7": "  w: {‹typ›: ***, display_name: 'a # b'}",
        }

    def test_a_text_of_several_lines_is_masked(self) -> None:
        text = "version: 1\nproviders:\n  v:\n    type: vault\n    config:\n      path: |\n        key\n        file\n      token: >-\n        t\n      retries: a\n        b # c\n"
        assert shown(text) == {"SC203 11:16": "      retries: ‹***›"}

    def test_defaults_are_judged_by_the_schema_of_their_type(self) -> None:
        text = "version: 1\ndefaults: {provider: x, config: {vault: {token: c, path: p}, memory: {max_tapes: 0}, nope: {a: c}}}\nproviders: {v: {type: vault}, m: {type: memory}}\n"
        lines = shown(text)
        assert set(lines) == {"SC301 2:22", "SC205 2:82", "SC304 2:86"}
        assert {line.replace("‹", "").replace("›", "") for line in lines.values()} == {
            "defaults: {provider: x, config: {vault: {token: ***, path: p}, memory: {max_tapes: 0}, nope: {***: ***}}}"
        }

    def test_of_a_config_whose_type_is_unknown_no_value_is(self) -> None:
        text = "version: 1\nproviders:\n  v: {type: nope, config: {path: c, c: [c]}}\n"
        assert shown(text) == {"SC302 3:13": "  v: {type: ‹nope›, config: {***: ***, ***: [***]}}"}

    def test_a_place_of_several_lines_is_shown_to_the_end_of_the_first(self) -> None:
        assert shown("version: 1\nproviders:\n  - a\n  - b\n") == {"SC203 3:3": "  ‹- ***›"}

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_line_ends_do_not_matter(self, end: str) -> None:
        text = "version: 1\n\nproviders:\n  é: {type: nope}\n  w: {typ: memory}\n".replace("\n", end)
        lines = shown(text)
        assert lines["SC302 4:13"] == "  é: {type: ‹nope›}"
        assert lines["SC201 5:7"] == "  w: {‹typ›: ***}"

    def test_a_line_behind_very_many_is_found(self) -> None:
        # Counted in blocks of an even size: the odd space has their ends between CR and LF.
        text = "version:  1\r\n" + "\r\n" * 70_000 + "providers: {a: {type: nope}}\r\n"
        assert shown(text) == {"SC302 70002:23": "providers: {a: {type: ‹nope›}}"}

    def test_of_a_long_line_only_the_surroundings_are(self) -> None:
        labels = ", ".join(f"l{i}" for i in range(500))
        text = f"version: 1\nproviders: {{v: {{type: vault, config: {{token: t, labels: [{labels}], zzz: 1, options: {{}}, path: {'p' * 999}}}}}}}"
        (line,) = shown(text).values()
        assert line.startswith("…")
        assert line.endswith("…")
        assert ", l499], ‹zzz›: ***, options: {}, path: ppp" in line
        assert len(line) <= 2 * MAX_CONTEXT + MAX_PLACE

    def test_of_a_long_place_only_the_beginning_is(self) -> None:
        (line,) = shown(f"version: 1\nproviders: {{v: {{type: {'n' * 999}, display_name: x}}}}").values()
        assert line.count("n") == MAX_PLACE + MAX_CONTEXT
        assert f"type: ‹{'n' * MAX_PLACE}›n" in line


class TestABrokenText:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("    type memory\n    config: x", "    ‹***›"),
            ("    type: x\n     config: x", "     config‹:› ***"),
            ("    type: memory\n    type: c", "    ‹type›: ***"),
            ("    c: c\n    c: c", "    ‹c›***"),
            ("    config: {max_tapes: 012, token: c} # c", "    config: {max_tapes: ‹***›"),
            ("    config: {directory: 'c", "    config: {directory: ‹'›***"),
            ("    config: {directory: \"c\\q c\"}", "    config: {directory: ***‹\\›***"),
            ("    config: {directory: ${env:X}}", "    config: {directory: ‹$›***"),
            ("    config: {token: c: c}", "    config: ‹{›***"),
            ("    config: {directory: c", "    config: ‹{›directory: ***"),
            ("    config: {directory: @c}", "    config: {directory: ‹@›***"),
            ("    config: !c {a: c}", "    config: ‹!›***"),
            ("    config: *c", "    config: ‹***›"),
            ("    <<: {a: c}", "    ‹<<›***"),
            ("    1: c", "    ‹***›"),
            ("\tc: c", "‹\t›***"),
            ("    type: memory\n---\nc: c", "‹-›***"),
        ],
    )  # fmt: skip
    def test_shows_names_of_fields_and_the_sign_that_is_wrong(self, line: str, expected: str) -> None:
        assert expected in shown(f"version: 1\nproviders:\n  v:\n{line}\n").values()

    def test_that_is_no_text_has_no_lines(self) -> None:
        for data in (b"\xff\xfe", b"a: \xff", b"a: \x00", b"", b"a: \xe2\x80\xa8"):
            with pytest.raises(ManifestError) as caught:
                parse_manifest(data, PATH, Catalog(), {})
            assert caught.value.excerpts == ()


SECRETS = """\
version: 1
defaults: {config: {vault: {url: "Zq://Zq:Zq@h", tokens: ['Zq, Zq', Zq]}}} # Zq
providers:
  v:
    # Zq
    type: vault
    display_name: The vault
    config:
      token: Zq Zq #Zq
      path: ./mine
      url: |
        Zq: Zq
         Zq
      tokens: ["Zq: \\"Zq", 'Zq''Zq', Zq]
      servers: [{host: h, key: Zq}, {key: 'Zq', host: h}]
      zzz: {a: [Zq], b: {c: Zq}}
  w: {type: vault, config: {token: Zq, retries: Zq, on: [Zq], path: '${env:N:-Zq}'}}
"""


class TestNoMistakeShowsASecret:
    @given(st.data())
    @example(None)
    def test_wherever_a_few_characters_are_lost_added_or_changed(self, data: Any) -> None:
        text = SECRETS
        for _ in range(data.draw(st.integers(1, 3)) if data else 0):
            at = data.draw(st.integers(0, len(text)))
            # Never inside of a secret: half of one is found by no search.
            if text[at - 1 : at + 1] == "Zq":
                continue
            until = at if data.draw(st.booleans()) else at + (text[at : at + 2] != "Zq")
            text = (
                text[:at]
                + data.draw(st.sampled_from(["", *"\n\t '\"{}[]:,#&*!|>-?%@\\", ": ", " #"]))
                + text[until:]
            )
        try:
            parse_manifest(text.encode(), PATH, Catalog([VaultFactory(SCHEMA)]), {})
        except ManifestError as error:
            # What became a key is a name: the message has it too.
            named = any("Zq" in it.message for it in error.findings)
            for it in error.excerpts:
                assert "Zq" not in it.text or named, it.text
                assert 0 <= it.start <= it.end <= len(it.text)
