"""Findings for other programs: SARIF 2.1.0 for code scanning, workflow commands for GitHub.

Places and messages only, never a line of the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ..errors import Finding
from ..marks import format_pointer
from ..pages import page
from .output import printable

_SARIF_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: Iterable[Finding]) -> dict[str, Any]:
    """A SARIF log with one run; its rules are those codes that have a finding."""
    findings = tuple(findings)
    codes = sorted({finding.code for finding in findings})
    return {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "shadowcat-registry",
                        "version": version("shadowcat-registry"),
                        "rules": [_rule(code) for code in codes],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, codes.index(finding.code)) for finding in findings],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    it = page(code)
    return {
        "id": code,
        "shortDescription": {"text": it.title},
        "fullDescription": {"text": it.meaning},
        "help": {"text": f"{it.reason}\n\n{it.remedy}", "markdown": str(it)},
    }


def _result(finding: Finding, rule_index: int) -> dict[str, Any]:
    mark = finding.mark
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(mark.source)},
            "region": {
                "startLine": mark.line,
                "startColumn": mark.column,
                "endLine": mark.end_line,
                "endColumn": mark.end_column,
            },
        }
    }
    if finding.pointer:
        location["logicalLocations"] = [{"fullyQualifiedName": format_pointer(finding.pointer)}]
    return {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": finding.severity,
        "message": {"text": _message(finding)},
        "locations": [location],
    }


def _uri(source: str) -> str:
    path = Path(source)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix(), errors="surrogateescape")


def _message(finding: Finding) -> str:
    return printable(f"{finding.message} ({finding.hint})" if finding.hint else finding.message)


def github(findings: Iterable[Finding]) -> Iterator[str]:
    """A workflow command for each finding, by which GitHub annotates the lines of a pull request."""
    for finding in findings:
        mark = finding.mark
        properties: dict[str, object] = {"file": mark.source, "line": mark.line}
        if mark.end_line == mark.line:
            properties |= {"col": mark.column, "endLine": mark.end_line, "endColumn": mark.end_column}
        else:  # GitHub takes columns only within one line
            properties["endLine"] = mark.end_line
        properties["title"] = finding.code
        listing = ",".join(f"{name}={_escaped(str(value))}" for name, value in properties.items())
        yield f"::{finding.severity} {listing}::{_escaped(_message(finding), is_property=False)}"


def _escaped(text: str, *, is_property: bool = True) -> str:
    """As the runner takes it apart: `%` first, it is what the others are written with."""
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")]
    if is_property:
        pairs += [(":", "%3A"), (",", "%2C")]
    for character, code in pairs:
        text = text.replace(character, code)
    return text
