"""Findings for other programs: what these programs require of the form is checked here, by hand."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.cli.reports import github, sarif
from shadowcat_registry.errors import Finding
from shadowcat_registry.marks import Mark

FINDINGS = (
    Finding("SC301", "no `x`", Mark("a b/ü.yaml", 3, 13, 3, 22), ("defaults", "provider"), "name another"),
    Finding("SC305", "unused", Mark("a b/ü.yaml", 5, 1, 9, 4), severity="warning"),
    Finding("SC301", "no `y`", Mark("other.yaml", 1, 1, 1, 1)),
)

_TEXT: dict[str, Any] = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string", "minLength": 1}, "markdown": {"type": "string"}},
    "additionalProperties": False,
}
# What SARIF 2.1.0 requires of the parts that are used here (sections 3.13, 3.14, 3.19, 3.27 to 3.30, 3.49),
# and nothing that it does not know.
SARIF: dict[str, Any] = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "pattern": "^https://.*sarif.*2\\.1\\.0"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "additionalProperties": False,
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "additionalProperties": False,
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": {"type": "string"},
                                    "version": {"type": "string"},
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "type": "object",
                                            "required": ["id"],
                                            "additionalProperties": False,
                                            "properties": {
                                                "id": {"type": "string"},
                                                "shortDescription": _TEXT,
                                                "fullDescription": _TEXT,
                                                "help": _TEXT,
                                            },
                                        },
                                    },
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "additionalProperties": False,
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": _TEXT,
                                "locations": {"type": "array", "items": {"$ref": "#/$defs/location"}},
                            },
                        },
                    },
                },
            },
        },
    },
    "$defs": {
        "location": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "physicalLocation": {
                    "type": "object",
                    "required": ["artifactLocation"],
                    "additionalProperties": False,
                    "properties": {
                        "artifactLocation": {
                            "type": "object",
                            "required": ["uri"],
                            "additionalProperties": False,
                            # RFC 3986: no spaces, nothing that is not ASCII.
                            "properties": {"uri": {"type": "string", "pattern": "^[!-;=?-Z_a-z~%]+$"}},
                        },
                        "region": {
                            "type": "object",
                            "required": ["startLine"],
                            "additionalProperties": False,
                            "properties": {
                                name: {"type": "integer", "minimum": 1}
                                for name in ("startLine", "startColumn", "endLine", "endColumn")
                            },
                        },
                    },
                },
                "logicalLocations": {
                    "type": "array",
                    "items": {"properties": {"fullyQualifiedName": {"type": "string"}}},
                },
            },
        }
    },
}


class TestSarif:
    def test_it_has_the_form(self) -> None:
        jsonschema.Draft202012Validator.check_schema(SARIF)
        jsonschema.validate(sarif(FINDINGS), SARIF)
        jsonschema.validate(sarif(()), SARIF)

    def test_each_result_has_its_rule_and_place(self) -> None:
        (run,) = sarif(FINDINGS)["runs"]
        rules = run["tool"]["driver"]["rules"]
        assert [rule["id"] for rule in rules] == ["SC301", "SC305"]
        for finding, result in zip(FINDINGS, run["results"], strict=True):
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == finding.code
            assert result["level"] == finding.severity
            place = result["locations"][0]["physicalLocation"]
            assert unquote(place["artifactLocation"]["uri"]) == finding.mark.source
            assert tuple(place["region"].values()) == (
                finding.mark.line,
                finding.mark.column,
                finding.mark.end_line,
                finding.mark.end_column,
            )
        assert run["results"][0]["message"]["text"] == "no `x` (name another)"
        assert run["results"][0]["locations"][0]["logicalLocations"] == [
            {"fullyQualifiedName": "/defaults/provider"}
        ]

    def test_an_absolute_path_is_a_file_uri(self, tmp_path: Path) -> None:
        path = tmp_path / "r e.yaml"
        answer = sarif([Finding("SC301", "m", Mark.at_start(str(path)))])
        place = answer["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == path.as_uri()

    @pytest.mark.skipif(sys.platform == "win32", reason="names are texts there")
    def test_a_name_that_is_not_utf_8_is_one_too(self) -> None:
        source = os.fsdecode(b"r\xfe.yaml")
        answer = sarif([Finding("SC301", "m", Mark.at_start(source))])
        place = answer["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "r%FE.yaml"

    def test_columns_are_those_of_characters(self) -> None:
        assert sarif(())["runs"][0]["columnKind"] == "unicodeCodePoints"


def runner(line: str) -> tuple[str, dict[str, str], str]:
    """Takes a workflow command apart in the way of the runner of GitHub."""
    found = re.fullmatch(r"::(\w+) (.*?)::(.*)", line)
    assert found is not None
    properties = dict(pair.split("=", 1) for pair in found[2].split(","))
    return found[1], {name: _plain(value) for name, value in properties.items()}, _plain(found[3])


def _plain(text: str) -> str:
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, character)
    return text


class TestGithub:
    def test_each_finding_is_a_command(self) -> None:
        assert list(github(FINDINGS)) == [
            "::error file=a b/ü.yaml,line=3,col=13,endLine=3,endColumn=22,title=SC301::no `x` (name another)",
            "::warning file=a b/ü.yaml,line=5,endLine=9,title=SC305::unused",
            "::error file=other.yaml,line=1,col=1,endLine=1,endColumn=1,title=SC301::no `y`",
        ]

    @given(st.text(st.sampled_from("a:,=%0A3C\n\r:é"), max_size=20), st.text(max_size=20))
    def test_the_runner_reads_what_was_meant(self, source: str, message: str) -> None:
        (line,) = github([Finding("SC201", message, Mark(source, 1, 2, 1, 3))])
        assert len(line.splitlines()) == 1
        kind, properties, text = runner(line)
        assert (kind, properties["title"], properties["col"]) == ("error", "SC201", "2")
        assert properties["file"] == source
        if message.isprintable():
            assert text == message
