"""Each code has its page, and what a page shows is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowcat_registry import advice, candidate, core_schema, interpolate, pages, parse
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.codes import CODES
from shadowcat_registry.errors import Finding, ManifestError
from shadowcat_registry.load import parse_manifest
from shadowcat_registry.pages import page

WITHOUT_EXAMPLE = {
    "SC101": "about bytes",
    "SC117": "about the file",
    "SC207": "no built-in type has such a rule",
    "SC209": "no built-in type has such a rule",
    "SC210": "about a provider type",
    "SC211": "no built-in type has such a field",
    "SC306": "about a process",
    "SC307": "about several files",
    "SC308": "about several files",
    "SC315": "about a provider type",
    "SC406": "about the permissions of a file",
    "SC407": "too long",
    "SC501": "about a provider type",
    "SC502": "about a provider type",
    "SC601": "too long",
    "SC603": "too long",
    "SC604": "too long",
    "SC607": "too long",
    "SC608": "about several files",
    "SC609": "about several files",
    "SC610": "too long",
    "SC611": "too long",
    "SC612": "too long",
    "SC701": "about a process",
    "SC702": "about a process",
    "SC703": "about a process",
    "SC704": "about a process",
    "SC705": "about a process",
    "SC706": "about a process",
    "SC707": "about a process",
    "SC708": "about a process",
    "SC709": "about a process",
    "SC710": "about a process",
    "SC801": "about plugins",
    "SC802": "about plugins",
    "SC803": "about plugins",
    "SC804": "about plugins",
    "SC805": "about plugins",
    "SC806": "about plugins",
    "SC807": "about plugins",
    "SC808": "about plugins",
    "SC901": "about a process",
}
WITH_EXAMPLE = sorted(CODES.keys() - WITHOUT_EXAMPLE.keys())


def findings(text: str) -> tuple[Finding, ...]:
    try:
        return parse_manifest(text.encode(), Path("registry.yaml"), Catalog(), {}).warnings
    except ManifestError as error:
        return error.findings


class TestPages:
    def test_every_code_has_one_and_there_is_no_other(self) -> None:
        directory = Path(pages.__file__).parent / "explain"
        assert {path.name for path in directory.iterdir()} == {f"{code}.md" for code in CODES}

    @pytest.mark.parametrize("code", sorted(CODES))
    def test_each_says_what_it_means_why_it_is_refused_and_what_to_do(self, code: str) -> None:
        it = page(code)
        assert all(text.endswith(".") for text in (it.meaning, it.reason, it.remedy)), it
        assert str(it).startswith(f"# {code}: {CODES[code]}\n\n")
        assert max(map(len, str(it).splitlines())) <= 120
        assert it.as_json()["help"] == it.remedy == Finding(code, "m", None).help  # type: ignore[arg-type]

    @pytest.mark.parametrize("code", WITH_EXAMPLE)
    def test_the_wrong_example_has_this_finding_and_no_other(self, code: str) -> None:
        wrong = page(code).wrong
        assert wrong is not None
        assert {finding.code for finding in findings(wrong)} == {code}

    @pytest.mark.parametrize("code", WITH_EXAMPLE)
    def test_the_right_example_has_none(self, code: str) -> None:
        right = page(code).right
        assert right is not None
        assert findings(right) == ()

    @pytest.mark.parametrize("code", sorted(WITHOUT_EXAMPLE))
    def test_a_page_without_examples_says_why(self, code: str) -> None:
        it = page(code)
        assert (it.wrong, it.right) == (None, None)
        assert it.no_example
        assert it.no_example in str(it)

    @pytest.mark.parametrize(
        ("code", "bound"),
        [
            ("SC601", f"{parse.MAX_BYTES >> 20} MiB"),
            ("SC602", f"{parse.MAX_DEPTH} levels"),
            ("SC603", f"{parse.MAX_NODES:,} values"),
            ("SC603", f"{parse.MAX_COLLECTIONS:,} lists and mappings"),
            ("SC603", f"{parse.MAX_ANCHORS:,} anchors"),
            ("SC407", f"{interpolate.MAX_RESOLVED_CHARACTERS >> 20} MiB"),
            ("SC610", f"{candidate.MAX_PROVIDERS:,} providers"),
            ("SC610", f"{candidate.MAX_DEFAULT_CONFIGS:,} types"),
            ("SC611", f"{parse.MAX_NODES:,} values"),
            ("SC611", f"{parse.MAX_BYTES >> 20} MiB"),
            ("SC612", f"{advice._MAX_PATHS_EFFORT:,} characters times directories"),
            ("SC604", f"{parse.MAX_SCALAR_CHARACTERS:,} characters"),
            ("SC605", f"{core_schema.MAX_DIGITS} digits"),
            ("SC606", f"{parse.MAX_ALIASED_NODES:,} values"),
        ],
    )
    def test_a_budget_is_the_one_that_is_held(self, code: str, bound: str) -> None:
        assert f"more than {bound}" in page(code).meaning

    def test_what_is_no_code_has_none(self) -> None:
        with pytest.raises(KeyError):
            page("SC999")
