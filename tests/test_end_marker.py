from __future__ import annotations

from pathlib import Path

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.end_marker import has_end_marker, unfinished
from shadowcat_registry.errors import Finding, ManifestError
from shadowcat_registry.load import ManifestLoader
from shadowcat_registry.marks import Mark
from shadowcat_registry.parse import parse_document

GOOD = "version: 1\nproviders: {a: {type: memory}}\n"
STRICT = "version: 1\nreload: {require_end_marker: true}\nproviders: {a: {type: memory}}\n"


def codes(path: Path, *, require: bool = False) -> list[str]:
    loader = ManifestLoader(path, Catalog(), environ={})
    try:
        loader.load(require_end_marker=require)
    except ManifestError as error:
        return [finding.code for finding in error.findings]
    return []


class TestTheSectionReload:
    def test_is_taken_over(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        path.write_text(
            GOOD + "reload: {mode: poll, poll_interval_seconds: 5, require_end_marker: true}\n...\n"
        )
        policy = ManifestLoader(path, Catalog()).load().reload
        assert (policy.mode, policy.poll_interval_seconds, policy.require_end_marker) == ("poll", 5, True)

    @pytest.mark.parametrize("interval", ["0", "0.01", "-1", "3601", "fast", "true"])
    def test_an_interval_out_of_reason_is_a_finding(self, tmp_path: Path, interval: str) -> None:
        path = tmp_path / "registry.yaml"
        path.write_text(f"{GOOD}reload: {{poll_interval_seconds: {interval}}}\n")
        assert codes(path) in (["SC203"], ["SC205"])


class TestTheEndMarker:
    @pytest.mark.parametrize(
        "text", ["...", "...\n", "a: 1\n...", "a: 1\n...\n", "a: 1\r\n...\r\n", "a: 1\n...  \n"]
    )
    def test_is_the_last_line(self, text: str) -> None:
        assert has_end_marker(text)
        parse_document(f"b: 2\n{text}".encode() if text.startswith("a") else b"b: 2\n...\n", "f")

    @pytest.mark.parametrize(
        "text", ["", "a: 1\n", "a: 1\n..", "a: 1\n...\n\n\n# more", "a: ...", "a: 1\n ...\n", "a: b...\n"]
    )
    def test_is_nothing_else(self, text: str) -> None:
        assert not has_end_marker(text)

    def test_is_missed_where_the_text_ends(self) -> None:
        (finding,) = unfinished("r.yaml", "a: 1\r\nb: 22\r\n\r\n")
        assert (finding.code, finding.mark) == ("SC118", Mark("r.yaml", 2, 6, 2, 6))

    def test_of_one_line_without_an_end(self) -> None:
        (finding,) = unfinished("r.yaml", "a: 1")
        assert finding.mark == Mark("r.yaml", 1, 5, 1, 5)

    def test_is_asked_for_by_the_manifest_itself(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        path.write_text(STRICT)
        assert codes(path) == ["SC118"]
        path.write_text(STRICT + "...\n")
        assert codes(path) == []

    def test_is_asked_for_by_what_runs(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        path.write_text(GOOD)
        assert codes(path, require=True) == ["SC118"]
        path.write_text(GOOD + "...\n")
        assert codes(path, require=True) == []

    def test_has_to_be_in_each_file(self, tmp_path: Path) -> None:
        (tmp_path / "other.yaml").write_text("version: 1\n")
        path = tmp_path / "registry.yaml"
        path.write_text(STRICT.replace("reload", "include: [other.yaml]\nreload") + "...\n")
        with pytest.raises(ManifestError) as caught:
            ManifestLoader(path, Catalog()).load()
        (finding,) = caught.value.findings
        assert isinstance(finding, Finding)
        assert (finding.code, Path(finding.mark.source).name) == ("SC118", "other.yaml")

    def test_is_missed_also_where_the_rest_is_no_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        path.write_text('version: 1\nproviders: {a: {type: "mem')
        assert "SC118" in codes(path, require=True)
        assert "SC118" not in codes(path)
