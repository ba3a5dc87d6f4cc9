"""Defaults, paths, secrets and problems by JSON Schema; nothing is fetched, no value is said."""

# ruff: noqa: E501 - one case a line reads better than seven lines a case
from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.defaults import fill_defaults, merge
from shadowcat_registry.editor import EDITOR_SCHEMA
from shadowcat_registry.errors import Problem
from shadowcat_registry.marks import Pointer
from shadowcat_registry.schema import make_paths_absolute, problems, secret_pointers
from shadowcat_registry.schema_faults import check_schema
from shadowcat_registry.schema_files import manifest_schema, schema_directory
from shadowcat_registry.schema_walk import subschemas, types_at

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=1), inner, max_size=3)
    ),
    max_leaves=10,
)
UNITS = {"bytes", "tapes", "frames", "seconds", "days", "percent", "ms"}
"""What the numbers of a config are in, at the end of their names."""
WRITTEN = sorted(path for path in schema_directory().rglob("*.json") if path.name != EDITOR_SCHEMA)
"""The schemas that are not made of the others."""

mappings = st.dictionaries(st.text("abc", max_size=1), json_values, max_size=3)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "directory": {"type": "string", "minLength": 1, "x-path": True, "default": "./tapes"},
        "password": {"type": "string", "x-secret": True, "minLength": 8},
        "keys": {"type": "array", "items": {"type": "string", "x-secret": True}, "maxItems": 3},
        "mode": {"enum": ["interval", "always", "never"], "default": "interval"},
        "retries": {"type": "integer", "minimum": 0, "maximum": 10},
        "ratio": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "sync": {"type": "boolean"},
        "region": {"type": "string", "pattern": "^[a-z]+$", "patternErrorMessage": "small letters"},
        "plain": {"type": "string", "pattern": "^[a-z]+$"},
        "limits": {"$ref": "#/$defs/limits"},
        "servers": {"type": "array", "items": {"$ref": "#/$defs/server"}, "uniqueItems": True},
        "labels": {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "maxProperties": 2},
        "maybe": {"anyOf": [{"type": "string", "x-path": True}, {"type": "null"}]},
        "choice": {"oneOf": [{"type": "string", "minLength": 3}, {"type": "integer", "minimum": 5}]},
        "even": {"type": "integer", "multipleOf": 2},
        "two": {"const": 2},
        "gone": False,
        "cert": {"type": "string"},
        "key": {"type": "string"},
    },
    "required": ["directory"],
    "dependentRequired": {"cert": ["key"]},
    "additionalProperties": False,
    "$defs": {
        "limits": {
            "type": "object",
            "properties": {"bytes": {"type": "integer", "default": 10}, "deep": {"type": "object", "default": {"a": [1]}}},
            "additionalProperties": False,
        },
        "server": {
            "type": "object",
            "properties": {"host": {"type": "string"}, "token": {"type": "string", "x-secret": True}, "port": {"type": "integer", "default": 80}},
            "required": ["host"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip


def found(config: dict[str, Any], schema: dict[str, Any] = SCHEMA) -> list[Problem]:
    return list(problems(schema, {"directory": "d", **config}))


def one(config: dict[str, Any]) -> Problem:
    (problem,) = found(config)
    return problem


class TestMerge:
    def test_mappings_merge_deeply_lists_replace_and_null_is_a_value(self) -> None:
        base = {"a": {"b": 1, "c": [1, 2]}, "d": 1, "e": {"f": 1}}
        over = {"a": {"c": [3], "g": 2}, "d": None, "e": 5}
        assert merge(base, over) == {"a": {"b": 1, "c": [3], "g": 2}, "d": None, "e": 5}

    @given(mappings)
    def test_nothing_changes_nothing(self, config: dict[str, Any]) -> None:
        assert merge(config, {}) == merge({}, config) == merge(config, config) == config

    @given(mappings, mappings, mappings)
    def test_it_is_associative(self, a: Any, b: Any, c: Any) -> None:
        # As long as nobody says of one place that it is a mapping and of the same that it is not.
        if not any(clash(x, y) for x, y in ((a, b), (b, c), (a, c))):
            assert merge(merge(a, b), c) == merge(a, merge(b, c))

    @given(mappings, mappings)
    def test_it_shares_nothing_with_what_it_was_given(self, base: Any, over: Any) -> None:
        before = deepcopy((base, over))
        spoil(merge(base, over))
        assert (base, over) == before


def clash(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return any(clash(a[key], b[key]) for key in a.keys() & b.keys())
    return isinstance(a, dict) or isinstance(b, dict)


def spoil(value: Any) -> None:
    """Change everything that can be changed."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        spoil(item)
    if isinstance(value, dict):
        value["spoilt"] = True
    elif isinstance(value, list):
        value.append("spoilt")


class TestDefaults:
    def test_they_are_filled_in_through_references_and_lists(self) -> None:
        config = {"limits": {}, "servers": [{"host": "h"}]}
        assert fill_defaults(SCHEMA, config) == {
            "limits": {"bytes": 10, "deep": {"a": [1]}},
            "servers": [{"host": "h", "port": 80}],
            "directory": "./tapes",
            "mode": "interval",
        }

    def test_what_is_there_stays_null_included(self) -> None:
        assert fill_defaults(SCHEMA, {"directory": None, "mode": "x"}) == {"directory": None, "mode": "x"}

    def test_neither_the_config_nor_the_schema_is_shared_or_changed(self) -> None:
        config: dict[str, Any] = {"limits": {}}
        schema = deepcopy(SCHEMA)
        spoil(fill_defaults(schema, config))
        assert config == {"limits": {}}
        assert schema == SCHEMA

    def test_a_branch_that_may_not_apply_gives_none(self) -> None:
        part = {"properties": {"a": {"default": 1}}}
        assert fill_defaults({"allOf": [part]}, {}) == {"a": 1}
        for schema in ({"anyOf": [part]}, {"oneOf": [part]}, {"if": part}, {"if": True, "then": part}):
            assert fill_defaults(schema, {}) == {}

    def test_no_schema_gives_none(self) -> None:
        assert fill_defaults(None, {"a": [1]}) == {"a": [1]}

    def test_a_schema_that_refers_to_itself_ends(self) -> None:
        schema = {"properties": {"a": {"$ref": "#"}, "b": {"default": 1}}, "allOf": [{"$ref": "#"}]}
        assert fill_defaults(schema, {"a": {"a": {}}}) == {"a": {"a": {"b": 1}, "b": 1}, "b": 1}


class TestPaths:
    def test_relative_ones_are_relative_to_the_given_directory(self, tmp_path: Path) -> None:
        absolute = str(tmp_path / "elsewhere")
        config = {"directory": "./t/../u", "maybe": absolute, "region": "./no-path"}
        assert make_paths_absolute(SCHEMA, config, tmp_path / "m") == {
            "directory": str(tmp_path / "m" / "t" / ".." / "u"),
            "maybe": absolute,
            "region": "./no-path",
        }

    def test_what_is_no_text_is_left_to_the_schema(self, tmp_path: Path) -> None:
        values: list[object] = [None, 1, "", [], {}]
        for value in values:
            assert make_paths_absolute(SCHEMA, {"directory": value}, tmp_path) == {"directory": value}

    def test_they_do_not_depend_on_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert make_paths_absolute(SCHEMA, {"directory": "t"}, Path()) == {"directory": str(tmp_path / "t")}


class TestSecrets:
    def test_they_are_found_in_lists_and_behind_references(self) -> None:
        config = {
            "password": "p",
            "keys": ["a", "b"],
            "servers": [{"host": "h", "token": "t"}],
            "region": "r",
        }
        assert secret_pointers(SCHEMA, config) == {
            ("password",), ("keys", 0), ("keys", 1), ("servers", 0, "token"),
        }  # fmt: skip

    @pytest.mark.parametrize(
        "schema",
        [
            {"additionalProperties": {"x-secret": True}},
            {"patternProperties": {"^p": {"x-secret": True}}},
            {"anyOf": [{"properties": {"p": {"x-secret": True}}}, {}]},
            {"if": {}, "then": {"properties": {"p": {"x-secret": True}}}},
            {"properties": {"p": {"oneOf": [{"type": "null"}, {"x-secret": True}]}}},
            {"properties": {"p": {"$ref": "#here"}}, "$defs": {"x": {"$anchor": "here", "x-secret": True}}},
            {"allOf": [{"$ref": "#/$defs/0"}], "$defs": {"0": {"properties": {"p": {"x-secret": True}}}}},
            {"dependentSchemas": {"p": {"properties": {"p": {"x-secret": True}}}}},
        ],
    )
    def test_one_part_that_may_apply_is_enough(self, schema: dict[str, Any]) -> None:
        assert check_schema(schema) == ()
        assert secret_pointers(schema, {"p": "x"}) == {("p",)}

    def test_a_value_of_the_wrong_type_is_no_less_secret(self) -> None:
        assert ("password",) in secret_pointers(SCHEMA, {"password": ["a", {"b": "c"}]})

    def test_types_are_those_of_all_parts(self) -> None:
        config = {"retries": "x", "choice": "y", "mode": "z", "two": 2}
        assert types_at(SCHEMA, config) == {
            ("retries",): {"integer"}, ("choice",): {"string", "integer"}, ("mode",): set(),
        }  # fmt: skip


class TestProblems:
    @pytest.mark.parametrize(
        ("config", "pointer", "code", "message", "hint"),
        [
            ({"retrys": 1}, ("retrys",), "SC201", "there is no field `retrys` here", "did you mean `retries`?"),
            ({"servers": [{"port": 1}]}, ("servers", 0, "host"), "SC202", "the field `host` is missing", None),
            ({"cert": "c"}, ("cert",), "SC202", "`cert` needs the field `key` beside it", None),
            ({"retries": "x"}, ("retries",), "SC203", "`retries` has to be an integer, not a text", None),
            ({"retries": None}, ("retries",), "SC203", "`retries` has to be an integer, not nothing", None),
            ({"retries": True}, ("retries",), "SC203", "`retries` has to be an integer, not true or false", None),
            ({"retries": 2.0}, ("retries",), "SC203", "`retries` has to be an integer", "write it without a decimal point or an exponent"),
            ({"retries": "1_0"}, ("retries",), "SC203", "`retries` has to be an integer, not a text", "in YAML 1.2 a number with `_` is a text: write digits only"),
            ({"retries": "1:20"}, ("retries",), "SC203", "`retries` has to be an integer, not a text", "in YAML 1.2 digits with colons are a text: write one number"),
            ({"retries": "3"}, ("retries",), "SC203", "`retries` has to be an integer, not a text", "remove the quotes"),
            ({"sync": "no"}, ("sync",), "SC203", "`sync` has to be true or false, not a text", "in YAML 1.2 `yes`, `no`, `on` and `off` are texts: write true or false"),
            ({"sync": "True"}, ("sync",), "SC203", "`sync` has to be true or false, not a text", "remove the quotes"),
            ({"region": 5}, ("region",), "SC203", "`region` has to be a text, not a number", "small letters"),
            ({"cert": 5, "key": "k"}, ("cert",), "SC203", "`cert` has to be a text, not a number", "put it in quotes"),
            ({"limits": [1]}, ("limits",), "SC203", "`limits` has to be a mapping, not a list", None),
            ({"keys": {}}, ("keys",), "SC203", "`keys` has to be a list, not a mapping", None),
            ({"maybe": 1}, ("maybe",), "SC203", "`maybe` has to be a text or null, not a number", "put it in quotes"),
            ({"mode": "allways"}, ("mode",), "SC204", "`mode` has to be one of `interval`, `always`, `never`", "did you mean `always`?"),
            ({"two": 3}, ("two",), "SC204", "`two` has to be `2`", None),
            ({"retries": -1}, ("retries",), "SC205", "`retries` has to be at least 0", None),
            ({"retries": 11}, ("retries",), "SC205", "`retries` has to be at most 10", None),
            ({"ratio": 0}, ("ratio",), "SC205", "`ratio` has to be more than 0", None),
            ({"ratio": 1}, ("ratio",), "SC205", "`ratio` has to be less than 1", None),
            ({"even": 3}, ("even",), "SC205", "`even` has to be a multiple of 2", None),
            ({"choice": 4}, ("choice",), "SC205", "`choice` has to be at least 5", None),
            ({"choice": "ab"}, ("choice",), "SC206", "`choice` has to have at least 3 characters", None),
            ({"password": "short"}, ("password",), "SC206", "`password` has to have at least 8 characters", None),
            ({"directory": ""}, ("directory",), "SC206", "`directory` cannot be empty", None),
            ({"keys": ["a"] * 4}, ("keys",), "SC206", "`keys` can have at most 3 items", None),
            ({"labels": {"a": 1, "b": 2, "c": 3}}, ("labels",), "SC206", "`labels` can have at most 2 fields", None),
            ({"region": "A"}, ("region",), "SC207", "`region` has the wrong form", "small letters"),
            ({"plain": "a\n"}, ("plain",), "SC207", "`plain` has the wrong form", "it has to match ^[a-z]+$"),
            ({"labels": {"A": 1}}, ("labels", "A"), "SC208", "a name of the wrong form", "it has to match ^[a-z]+$"),
            ({"servers": [{"host": "h"}, {"host": "h"}]}, ("servers",), "SC209", "`servers` breaks the rule `uniqueItems` of its type", None),
            ({"gone": 1}, ("gone",), "SC209", "`gone` is not allowed here", None),
            ({"keys": ["a", 1]}, ("keys", 1), "SC203", "the value has to be a text, not a number", "put it in quotes"),
        ],
    )  # fmt: skip
    def test_each_says_what_was_expected(
        self, config: dict[str, Any], pointer: Pointer, code: str, message: str, hint: str | None
    ) -> None:
        assert one(config) == Problem(pointer, code, message, hint, code in ("SC201", "SC202", "SC208"))

    def test_a_valid_config_has_none(self) -> None:
        config = {"limits": {"bytes": 1}, "maybe": None, "choice": 5, "mode": "never", "labels": {}, "two": 2}
        assert found(config) == []
        assert problems(None, {"anything": "goes"}) == ()

    def test_an_unknown_field_that_is_near_nothing_is_answered_with_the_fields(self) -> None:
        hint = one({"zzzzzz": 1}).hint or ""
        assert hint.startswith("it has: cert, choice, directory")

    def test_a_field_that_is_there_already_is_not_suggested(self) -> None:
        assert "did you mean" not in str(one({"directoryy": 1}).hint)

    def test_a_misspelt_required_field_is_one_problem(self) -> None:
        (problem,) = problems(SCHEMA, {"directroy": "d"})
        assert (problem.code, problem.hint) == ("SC201", "did you mean `directory`?")

    def test_an_unknown_and_an_unrelated_missing_field_are_two(self) -> None:
        assert {it.code for it in problems(SCHEMA, {"zzz": "d"})} == {"SC201", "SC202"}

    def test_all_are_found_at_once(self) -> None:
        assert len(found({"retries": -1, "sync": "no", "x1": 1, "x2": 2, "limits": {"y": 1}})) == 5

    def test_unevaluated_properties_are_named(self) -> None:
        schema = {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}
        (problem,) = problems(schema, {"a": 1, "aa": 2})
        assert problem.pointer == ("aa",)

    def test_no_value_is_ever_said(self) -> None:
        canary = "canary1234"
        schema = {**SCHEMA, "minProperties": 99, "not": {"required": ["directory"]}}
        for name in SCHEMA["properties"]:
            for value in (
                canary,
                [canary],
                {canary[:3]: canary},
                {"host": canary, "b": canary},
                [[canary], canary] * 5,
            ):
                text = repr(problems(schema, {"directory": canary, name: value, "unknown": canary}))
                assert canary not in text, (name, value)

    def test_a_schema_that_refers_to_itself_without_end_is_its_own_fault(self) -> None:
        assert [it.code for it in problems({"$ref": "#"}, {})] == ["SC501"]

    def test_a_text_too_long_for_its_pattern_is_not_matched(self) -> None:
        schema = {"properties": {"a": {"pattern": "^a*[ab]*$"}}}
        assert problems(schema, {"a": "a" * 4096}) == ()
        (problem,) = problems(schema, {"a": "a" * 4097})
        assert problem == Problem(("a",), "SC206", "`a` can have at most 4096 characters")

    def test_a_name_too_long_for_patterns_is_not_matched(self) -> None:
        schema: dict[str, Any] = {"properties": {"a": {"items": {"patternProperties": {"^a*[ab]*$": {}}}}}}
        assert problems(schema, {"a": [{"a" * 1024: 1}]}) == ()
        (problem,) = problems(schema, {"a": [{"a" * 1025: 1}]})
        assert (problem.code, problem.on_key, problem.pointer[:2]) == ("SC208", True, ("a", 0))

    def test_unique_items_of_a_long_list_take_no_time_that_grows_with_its_square(self) -> None:
        schema = {"properties": {"a": {"uniqueItems": True}}}
        items = [{"host": f"h{n}", "ports": [n, {"x": n}]} for n in range(20_000)]
        assert problems(schema, {"a": items}) == ()
        assert [it.code for it in problems(schema, {"a": [*items, deepcopy(items[7])]})] == ["SC209"]

    @given(st.lists(json_values | st.floats(-2, 2).map(round).map(float), max_size=4))
    def test_unique_items_mean_what_the_standard_means(self, items: list[Any]) -> None:
        import jsonschema

        schema = {"uniqueItems": True}
        expected = jsonschema.Draft202012Validator(schema).is_valid(items)
        assert (problems(schema, items) == ()) == expected

    def test_threads_may_share_a_schema(self) -> None:
        got: list[object] = []
        schema = {**SCHEMA, "title": "for threads"}
        start = threading.Barrier(4)

        def run() -> None:
            start.wait()
            got.extend(problems(schema, {"directory": "d", "retries": -1}) for _ in range(50))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 200
        assert len(set(map(str, got))) == 1

    def test_deep_data_against_a_recursive_schema_ends_on_a_small_stack(self) -> None:
        schema = {"type": "object", "additionalProperties": {"anyOf": [{"$ref": "#"}, {"type": "integer"}]}}
        config: Any = 1
        for _ in range(64):
            config = {"a": config}
        got: list[object] = []
        before = threading.stack_size(512 * 1024)
        try:
            thread = threading.Thread(target=lambda: got.append(problems(schema, config)))
            thread.start()
            thread.join()
        finally:
            threading.stack_size(before)
        assert got == [()]


class TestCheckSchema:
    def test_a_good_one_passes(self) -> None:
        assert check_schema(SCHEMA) == ()

    @pytest.mark.parametrize("path", sorted(schema_directory().rglob("*.json")), ids=lambda it: it.name)
    def test_ours_pass_and_say_what_a_person_needs(self, path: Path) -> None:
        schema = json.loads(path.read_text(encoding="utf-8"))
        assert check_schema(schema) == ()
        assert schema["$schema"].endswith("2020-12/schema")
        assert schema["$id"].endswith("/" + path.relative_to(schema_directory()).as_posix())
        for name, part in fields(schema):
            assert {"title", "description", "examples"} <= part.keys() or "$ref" in part, name
            if "default" in part:
                assert problems({**part, "$defs": schema.get("$defs", {})}, part["default"]) == (), name
            for example in part.get("examples", ()):
                assert problems({**part, "$defs": schema.get("$defs", {})}, example) == (), name

    @pytest.mark.parametrize("path", WRITTEN, ids=lambda it: it.name)
    def test_every_field_of_ours_is_explained_and_has_its_unit_in_its_name(self, path: Path) -> None:
        for name, part, is_required in declared(json.loads(path.read_text(encoding="utf-8"))):
            assert all(part[keyword] for keyword in ("title", "description", "examples")), name
            assert is_required or "default" in part or "Without it" in part["description"], name
            if part["type"] in ("integer", "number"):
                assert "const" in part or name.rpartition("_")[2] in UNITS, name

    def test_a_field_that_several_types_share_reads_the_same_everywhere(self) -> None:
        schemas = [
            json.loads(path.read_text(encoding="utf-8"))["properties"]
            for path in sorted((schema_directory() / "providers").glob("*.json"))
        ]
        for field in ("durability", "sync_interval_ms", "retention"):
            assert len({json.dumps(schema[field]) for schema in schemas if field in schema}) == 1

    def test_the_manifest_schema_accepts_only_what_acts(self) -> None:
        schema = manifest_schema()
        assert schema["properties"].keys() == {
            "version",
            "include",
            "defaults",
            "reload",
            "plugins",
            "providers",
        }
        assert schema["properties"]["plugins"]["properties"].keys() == {
            "entry_points",
            "sources",
            "probe",
            "probe_timeout_seconds",
            "strict",
        }
        assert schema["properties"]["reload"]["properties"].keys() == {
            "on_removal_in_use",
            "allow_mass_removal",
            "step_timeout_seconds",
            "mode",
            "poll_interval_seconds",
            "require_end_marker",
        }
        assert schema["$defs"]["provider"]["properties"].keys() == {
            "type",
            "display_name",
            "version",
            "requires",
            "protect",
            "health",
            "config",
        }

    @pytest.mark.parametrize(
        ("schema", "words"),
        [
            ([], "not a mapping"),
            ({"type": {1, 2}}, "not JSON"),
            ({"default": float("nan")}, "not JSON"),
            ({"type": "strin"}, "there is no type 'strin'; did you mean `string`?"),
            ({"properties": {"a": {"minimum": "1"}}}, "properties/a/minimum"),
            ({"requierd": ["a"]}, "did you mean `required`"),
            ({"properties": {"a": {"typ": "string"}}}, "did you mean `type`"),
            ({"$ref": "http://127.0.0.1:9/x.json"}, "no place inside"),
            ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "no place inside"),
            ({"$ref": "other.json"}, "no place inside"),
            ({"$ref": "#/$defs/missing"}, "no place inside"),
            ({"$ref": "#anchor"}, "no place inside"),
            ({"properties": {"a": {"$id": "x"}}}, "$id is not supported"),
            ({"$dynamicRef": "#x"}, "not supported"),
            ({"pattern": "("}, "regular expression"),
            ({"patternProperties": {"[": {}}}, "regular expression"),
            ({"properties": {"a": {"pattern": "^(a+)+$"}}}, "properties/a: a pattern repeats what"),
            ({"patternProperties": {"^(a|a)*$": {}}}, "the schema: a pattern repeats what"),
            ({"propertyNames": {"pattern": "^(a*)*$"}}, "propertyNames: a pattern repeats what"),
            ({"$ref": "#"}, "the schema: refers to itself without an end"),
            ({"anyOf": [{}, {"not": {"$ref": "#/anyOf/1"}}]}, "refers to itself without an end"),
            (
                {
                    "properties": {"a": {"$ref": "#/$defs/b"}},
                    "$defs": {"b": {"allOf": [{"$ref": "#/$defs/c"}]}, "c": {"if": {"$ref": "#/$defs/b"}}},
                },
                "refers to itself without an end",
            ),
            (
                {
                    "$ref": "#/$defs/0",
                    "$defs": {
                        str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} if n < 40 else {}
                        for n in range(41)
                    },
                },
                "branches are too many",
            ),
            ({"$schema": "http://json-schema.org/draft-07/schema#"}, "$schema has to be"),
        ],
    )
    def test_what_is_wrong_is_said(self, schema: object, words: str) -> None:
        assert words in " ".join(check_schema(schema))

    @pytest.mark.parametrize(
        "schema",
        [
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
            {"properties": {"a": {"$ref": "#/$defs/yes"}}, "$defs": {"yes": True}},
            {
                "properties": {
                    "$ref": {"type": "string"},
                    "all": {"items": {"$ref": "#"}},
                    "typ": {"const": {"typ": 1}},
                },
                "x-mine": 1,
                "default": {"typ": 1},
            },
        ],
    )
    def test_what_is_right_passes(self, schema: dict[str, Any]) -> None:
        assert check_schema(schema) == ()

    def test_a_long_chain_of_references_is_fine(self) -> None:
        chain = {str(n): {"$ref": f"#/$defs/{n + 1}"} if n < 300 else {} for n in range(301)}
        assert check_schema({"$ref": "#/$defs/0", "$defs": chain}) == ()

    @pytest.mark.parametrize("keyword", ["$ref", "$schema", "$id", "$dynamicRef"])
    @pytest.mark.parametrize("checked", [True, False])
    def test_nothing_is_fetched(self, keyword: str, checked: bool) -> None:
        """Neither when a schema is checked, nor when somebody forgot to."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0)
            schema = {"properties": {"a": {keyword: f"http://127.0.0.1:{server.getsockname()[1]}/x.json"}}}
            if checked:
                assert check_schema(schema) != ()
            else:
                with suppress(Exception):  # whatever happens then
                    problems(schema, {"a": 1})
            with pytest.raises(BlockingIOError):
                server.accept()

    @pytest.mark.parametrize("checked", [True, False])
    def test_no_file_is_read(self, tmp_path: Path, checked: bool) -> None:
        """A file that would make the config valid makes no difference; opening it would be seen."""
        path = tmp_path / "other.json"
        path.write_text("true")
        schema = {"properties": {"a": {"$ref": path.as_uri()}}}
        opened: list[object] = []

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if watching and event == "open" and str(arguments[0]).endswith("other.json"):
                opened.append(arguments[0])

        watching = True
        sys.addaudithook(watch)  # stays for good: it does nothing once the test has ended
        try:
            if checked:
                assert "leads to no place inside" in " ".join(check_schema(schema))
            else:
                with suppress(Exception):
                    problems(schema, {"a": 1})
            assert not opened
            path.read_bytes()
            assert opened, "the hook sees it"
        finally:
            watching = False

    def test_a_schema_is_checked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        schema = {"title": "checked once", "type": "strin"}
        first = check_schema(schema)
        monkeypatch.setattr("shadowcat_registry.schema_faults._faults", None)  # would fail if it were called
        assert check_schema(deepcopy(schema)) == first != ()


def declared(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any], bool]]:
    """Every field with what is said of it, and whether it has to be there."""
    found = []
    for pointer, part in subschemas(schema):
        if "allOf" in pointer:  # conditions of fields that are declared elsewhere
            continue
        # `providers` has to be there where nothing is included.
        required = [*part.get("required", ()), *part.get("else", {}).get("required", ())]
        for name, child in part.get("properties", {}).items():
            found.append((name, child, name in required))
    return found


def fields(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All fields that an operator can write, and what they are made of."""
    got = []
    for holder in (schema, *schema.get("$defs", {}).values()):
        got.append((holder.get("title", ""), {"examples": [], **holder}))
        stack = list(holder.get("properties", {}).items())
        while stack:
            name, part = stack.pop()
            got.append((name, part))
            stack.extend(part.get("properties", {}).items())
    return got


class TestImport:
    def test_the_module_does_not_load_jsonschema(self) -> None:
        script = "import sys, shadowcat_registry.schema; assert 'jsonschema' not in sys.modules"
        subprocess.run([sys.executable, "-c", script], check=True, timeout=50)
