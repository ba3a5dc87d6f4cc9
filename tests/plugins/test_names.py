"""What a plugin may be called."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.plugins.names import fault, suggestion


class TestAName:
    @pytest.mark.parametrize("name", ["glacier", "a", "s3_cold", "x" * 63, "match", "type", "numpy"])
    def test_is_that_of_a_module(self, name: str) -> None:
        assert fault(name) is None

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "Glacier",
            "9lives",
            "_glacier",
            "two words",
            "a-b",
            "a.b",
            "x" * 64,
            "glacier\n",
            "gläcier",
            "a/b",
        ],
    )
    def test_is_of_few_characters(self, name: str) -> None:
        assert "use 1 to 63" in (fault(name) or "")

    @pytest.mark.parametrize("name", ["class", "import", "async", "lambda"])
    def test_is_no_keyword(self, name: str) -> None:
        assert "keyword" in (fault(name) or "")

    @pytest.mark.parametrize(
        "name", sorted(it for it in sys.stdlib_module_names if it[0] != "_" and it.islower())[::25]
    )
    def test_is_no_module_of_the_standard_library(self, name: str) -> None:
        assert "standard library" in (fault(name) or "")

    def test_of_a_megabyte_is_not_repeated_in_whole(self) -> None:
        assert len(fault("x" * 1_000_000) or "") < 300


class TestASuggestion:
    @given(st.text(max_size=100))
    def test_has_no_fault(self, name: str) -> None:
        assert fault(suggestion(name)) is None

    @pytest.mark.parametrize(
        ("name", "better"),
        [("My-Plugin", "my_plugin"), ("json", "json_plugin"), ("9lives", "plugin_9lives"), ("", "plugin")],
    )
    def test_is_near(self, name: str, better: str) -> None:
        assert suggestion(name) == better
