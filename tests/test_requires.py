"""`requires`, `version`, and references between providers: what a manifest may say about who needs whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowcat_registry import rules
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import Finding, ManifestError
from shadowcat_registry.load import parse_manifest
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.plan import State, diff

from .fakes import Factory

MIRROR = {
    "type": "object",
    "properties": {
        "first": {"type": "string", "x-provider": True},
        "others": {"type": "array", "items": {"type": "string", "x-provider": True}},
    },
}


def _parse(*providers: str) -> Manifest:
    text = "version: 1\nproviders:\n" + "".join(f"  {it}\n" for it in providers)
    odd = Factory("odd")
    odd.version = "one"
    catalog = Catalog([Factory("fake"), Factory("mirror", schema=MIRROR), odd])
    return parse_manifest(text.encode(), Path("registry.yaml"), catalog, {})


def _refused(*providers: str) -> list[Finding]:
    with pytest.raises(ManifestError) as caught:
        _parse(*providers)
    return list(caught.value.findings)


class TestRequires:
    def test_what_is_declared_is_met_in_any_order(self) -> None:
        manifest = _parse("a: {type: fake, requires: [b]}", "b: {type: fake}")
        assert manifest.providers["a"].requires == ("b",)

    def test_what_is_not_is_answered_with_what_is_there(self) -> None:
        (found,) = _refused("a: {type: fake, requires: [archiv]}", "archive: {type: fake}", "b: {type: fake}")
        assert (found.code, found.mark.line, found.mark.column) == ("SC313", 3, 30)
        assert found.hint == "did you mean `archive`? (there is: archive, b)"

    def test_itself_is_a_circle(self) -> None:
        (found,) = _refused("a: {type: fake, requires: [a]}")
        assert (found.code, found.message) == ("SC312", "it requires itself: a -> a")

    def test_a_circle_is_named_with_its_path(self) -> None:
        (found,) = _refused(
            "a: {type: fake, requires: [b]}",
            "b: {type: fake, requires: [c]}",
            "c: {type: fake, requires: [d, b]}",
            "d: {type: fake}",
        )
        assert (found.code, found.mark.line) == ("SC312", 4)
        assert found.message == "these providers require each other: b -> c -> b"

    def test_of_a_long_circle_the_ends_are_named(self) -> None:
        (found,) = _refused(*(f"p{n}: {{type: fake, requires: [p{(n + 1) % 500}]}}" for n in range(500)))
        steps = found.message.removeprefix("these providers require each other: ").split(" -> ")
        assert (steps[:3], steps[-2:], len(steps)) == (["p0", "p1", "p2"], ["…", "p0"], 21)

    def test_what_is_near_is_looked_for_only_as_often_as_somebody_reads_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def nearest(name: str, known: list[str]) -> str | None:
            asked.extend(known[:1])
            return None

        monkeypatch.setattr(rules, "did_you_mean", nearest)
        found = _refused(*(f"p{n}: {{type: fake, requires: [nobody{n}]}}" for n in range(1_200)))
        assert {it.code for it in found} == {"SC313", "SC607"}
        assert len(asked) == 50
        assert found[0].hint is not None
        assert len(found[0].hint) < 300, "of many, some are named"

    def test_it_is_prepared_before_and_removed_after(self) -> None:
        new = _parse("a: {type: fake, requires: [b]}", "b: {type: fake, requires: [c]}", "c: {type: fake}")
        state = State(new.providers)
        assert [action.name for action in diff(State(), state)] == ["c", "b", "a"]
        assert [action.name for action in diff(state, State())] == ["a", "b", "c"]


class TestReferences:
    """By a config whose schema says `x-provider`."""

    def test_count_as_requirements(self) -> None:
        manifest = _parse(
            "m: {type: mirror, config: {first: a, others: [b]}}", "a: {type: fake}", "b: {type: fake}"
        )
        assert set(manifest.providers["m"].needs) == {"a", "b"}
        plan = diff(State(), State(manifest.providers))
        assert plan.actions[-1].name == "m", "it is prepared behind both"

    def test_to_what_is_not_declared_are_findings_where_they_stand(self) -> None:
        (found,) = _refused("m: {type: mirror, config: {others: [a, c]}}", "a: {type: fake}")
        assert (found.code, found.mark.line, found.mark.column) == ("SC313", 3, 42)

    def test_can_be_a_circle(self) -> None:
        (found,) = _refused("m: {type: mirror, config: {first: n}}", "n: {type: fake, requires: [m]}")
        assert (found.code, found.message) == ("SC312", "these providers require each other: m -> n -> m")


class TestVersion:
    @pytest.mark.parametrize("wanted", ["'>=1.0,<2'", "'==1.*'", "'~=1.0'", "'!=2'", "'>=1.0.0rc1'"])
    def test_one_that_is_met_is_none_of_the_registrys_business(self, wanted: str) -> None:
        _parse(f"a: {{type: fake, version: {wanted}}}")

    def test_one_that_is_not_says_which_is_there(self) -> None:
        (found,) = _refused("a: {type: fake, version: '>=2'}")
        assert (found.code, found.mark.column) == ("SC314", 28)
        assert found.message == "the type `fake` is there in version 1.0.0, which is not in this range"

    def test_of_a_type_whose_version_is_none_is_never_met(self) -> None:
        (found,) = _refused("a: {type: odd, version: '>=0'}")
        assert (found.code, "version one" in found.message) == ("SC314", True)

    def test_that_is_no_range_is_answered_with_how_to_write_one(self) -> None:
        for text in ("'1.0'", "'>=one'", "'>= 1 <2'", "latest"):
            (found,) = _refused(f"a: {{type: fake, version: {text}}}")
            assert (found.code, "`>=1.0,<2`" in (found.hint or "")) == ("SC207", True)
