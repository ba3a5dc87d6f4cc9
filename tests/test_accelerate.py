"""The quick yes: it is the same verdict as that of jsonschema, or none."""

from __future__ import annotations

import builtins
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowcat_registry import accelerate
from shadowcat_registry.accelerate import acceptor
from shadowcat_registry.schema import Compiled
from shadowcat_registry.schema_faults import check_schema
from shadowcat_registry.schema_files import manifest_schema, provider_schema

try:
    import jsonschema_rs  # noqa: F401
except ImportError:
    has_library = False
else:
    has_library = True

needs_library = pytest.mark.skipif(
    not has_library, reason="jsonschema-rs is not installed (the extra `fast`)"
)


def verdict(schema: dict[str, Any], value: Any) -> bool:
    """That of jsonschema alone."""
    slow = Compiled(schema)
    slow._accepts = None
    return not slow.problems(value)


SAMPLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,7}$"},
        "size": {"type": "integer", "minimum": 1, "maximum": 9_000_000_000},
        "rate": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "mode": {"enum": ["a", "b", 1, None, [1, {"x": True}]]},
        "fixed": {"const": {"v": 1}},
        "list": {"type": "array", "items": {"$ref": "#/$defs/item"}, "uniqueItems": True, "maxItems": 4},
        "pair": {"prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": False},
        "one": {"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}, {"minimum": 5}]},
        "any": {"anyOf": [{"minLength": 2}, {"type": "object", "minProperties": 1}]},
        "not": {"not": {"pattern": "^(ab|c+)$"}},
        "map": {"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        "names": {"propertyNames": {"maxLength": 3}},
        "open": {"allOf": [{"properties": {"p": True}}], "unevaluatedProperties": False},
        "needs": {"dependentRequired": {"a": ["b"]}, "contains": {"type": "string"}},
    },
    "if": {"required": ["size"]},
    "then": {"required": ["name"]},
    "required": ["mode"],
    "additionalProperties": False,
    "$defs": {"item": {"type": ["string", "integer", "boolean", "array"]}},
}

# What the two might see in different ways: ends of lines, digits of other scripts, numbers at the edges.
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 0.0, -0.0, 0.5, 1e300, 2**53, 2**53 - 1, 2**64, 10**90, -(2**63),
    "", "a", "a\n", "\na", "ab", "ccc", "ab\n", "é", "٣", "a٣", "İ", "x" * 1024, "x" * 1025, "x" * 5000,
    "\ud800",
    "1", [], {}, [1, 1.0], [1, True], [True, 1], [{}, {}], ["a", True], ["a", True, 1], ["a", 1],
    {"v": 1}, {"v": 1.0}, {"v": True}, [1, {"x": True}], [1, {"x": 1}], {"x-a": 1}, {"x-a": "b"}, {"x-": 1.0},
    {"abc": 1}, {"abcd": 1}, {"p": 1}, {"q": 1}, {"a": 1}, {"a": 1, "b": 2}, ["a", "a"], [[1], [1]],
]  # fmt: skip


def values(chance: random.Random) -> Any:
    value: Any = chance.choice(ODD)
    if chance.random() < 0.2:
        value = [chance.choice(ODD) for _ in range(chance.randint(0, 4))]
    return value


@needs_library
class TestTheSameVerdict:
    @pytest.mark.parametrize("seed", range(4))
    def test_nothing_is_accepted_that_jsonschema_refuses(self, seed: int) -> None:
        accept = acceptor(SAMPLE)
        assert accept is not None
        chance = random.Random(seed)
        accepted = 0
        for _ in range(1_500):
            value = {"mode": "a", "name": "ab"}
            for name in chance.sample(sorted(SAMPLE["properties"]), chance.randint(1, 4)):
                value[name] = values(chance)
            if accept(value):
                accepted += 1
                assert verdict(SAMPLE, value), value
        assert accepted > 50

    @pytest.mark.parametrize("name", sorted(SAMPLE["properties"]))
    def test_each_rule_is_read_alike_for_every_odd_value(self, name: str) -> None:
        schema = {"properties": {name: SAMPLE["properties"][name]}, "$defs": SAMPLE["$defs"]}
        accept = acceptor(schema)
        assert accept is not None
        for value in ODD:
            assert not accept({name: value}) or verdict(schema, {name: value}), value

    @settings(max_examples=300)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
            | st.text("ab1\n٣é", max_size=4) | st.sampled_from(["filesystem", "memory", "./tapes"]),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["version", "providers", "defaults", "type", "config", "directory", "a"]),
                inner, max_size=4,
            ),
            max_leaves=15,
        )
    )  # fmt: skip
    def test_shipped_schemas_have_one_verdict(self, value: Any) -> None:
        for schema in (manifest_schema(), provider_schema("filesystem"), provider_schema("memory")):
            accept = acceptor(schema)
            assert accept is not None
            assert not accept(value) or verdict(schema, value), value

    @pytest.mark.parametrize(
        "pattern", [r"^\d+$", r"^\D+$", r"\w", r"^[\d]$", r"^[^\s]$", "a.b", "^(?!a)", r"\bx", "a$b", "(?i)a"]
    )  # fmt: skip
    def test_a_pattern_that_they_may_read_differently_is_not_its_own(self, pattern: str) -> None:
        assert acceptor({"type": "string", "pattern": pattern}) is None
        assert acceptor({"patternProperties": {pattern: {}}}) is None
        assert acceptor({"properties": {"a": {"not": {"pattern": pattern}}}}) is None

    @pytest.mark.parametrize(
        "pattern", ["^[a-z][a-z0-9_-]{0,62}$", "^(a|b)+$", r"^[^;\n\t]\r?$", r"^s3://[^/]+/\*\.txt$", ""]
    )
    def test_a_pattern_that_they_read_alike_is(self, pattern: str) -> None:
        assert acceptor({"type": "string", "pattern": pattern}) is not None

    @pytest.mark.parametrize("schema", [{"multipleOf": 0.1}, {"format": "date"}, {"a": {"$ref": "#"}}])
    def test_a_rule_that_they_may_read_differently_is_not_its_own(self, schema: dict[str, Any]) -> None:
        assert acceptor({"properties": {"x": schema}}) is None

    @pytest.mark.parametrize(
        "value", ["x" * 5000, {"x" * 5000: 1}, 2.0, [3.0], 2**53, -(2**70), {1: 2}, (1,), {"a": "\ud800"}]
    )
    def test_a_value_that_they_may_see_differently_is_not_its_own(self, value: Any) -> None:
        accept = acceptor({"type": ["object", "array", "string", "number"], "pattern": "^x*$"})
        assert accept is not None
        assert not accept(value)
        assert accept("x")

    def test_it_is_asked_in_earnest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fine = Compiled(SAMPLE)
        monkeypatch.setattr(Compiled, "_validator", property(lambda _: pytest.fail("jsonschema was asked")))
        assert fine.problems({"mode": "a", "name": "x", "size": 3, "list": ["a", 1]}) == ()

    def test_what_it_does_not_accept_is_explained(self) -> None:
        assert [it.code for it in Compiled(SAMPLE).problems({"mode": "c"})] == ["SC204"]

    def test_threads_share_one(self) -> None:
        accept = acceptor(SAMPLE)
        wrong: list[int] = []
        assert accept is not None

        def run() -> None:
            sizes = [number % 2 for number in range(500)]
            wrong.extend(n for n in sizes if accept({"mode": "a", "size": n, "name": "a"}) != (n == 1))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestWithoutTheLibrary:
    @pytest.fixture(autouse=True)
    def nowhere(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        real = builtins.__import__

        def without(name: str, *rest: Any, **more: Any) -> Any:
            if name == "jsonschema_rs":
                raise ImportError(name)
            return real(name, *rest, **more)

        accelerate._library.cache_clear()
        monkeypatch.setattr(builtins, "__import__", without)
        yield
        accelerate._library.cache_clear()

    def test_jsonschema_does_all(self) -> None:
        assert acceptor(SAMPLE) is None
        assert Compiled(SAMPLE).problems({"mode": "a"}) == ()
        assert [it.code for it in Compiled(SAMPLE).problems({"mode": "c"})] == ["SC204"]


class TestNothingIsFetched:
    """Neither over the network nor from the disk, at no time, by neither library."""

    @pytest.fixture
    def listener(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            yield server

    @pytest.mark.parametrize("fast", [True, False])
    def test_a_reference_to_elsewhere_is_not_followed(
        self, tmp_path: Path, listener: socket.socket, fast: bool
    ) -> None:
        (tmp_path / "s.json").write_text('{"type": "integer"}')
        targets = [f"http://127.0.0.1:{listener.getsockname()[1]}/s.json", (tmp_path / "s.json").as_uri()]
        for target in targets:
            schema = {"properties": {"a": {"$ref": target}}}
            assert check_schema(schema) != ()
            it = Compiled(schema)
            if not fast:
                it._accepts = None
            # It was refused when it was registered. Should it ever be asked, the reference leads nowhere:
            # had it been followed, the text would be refused and the number accepted.
            for value in ({"a": "text"}, {"a": 1}):
                with pytest.raises(Exception, match=r"Unresolvable|Unretrievable|not exist"):
                    it.problems(value)
        with pytest.raises(BlockingIOError):
            listener.accept()

    def test_the_listener_would_have_noticed(self, listener: socket.socket) -> None:
        with socket.create_connection(listener.getsockname()):
            listener.setblocking(True)
            listener.accept()[0].close()
