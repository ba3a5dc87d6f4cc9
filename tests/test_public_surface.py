"""What `import shadowcat_registry` offers, and what it costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import shadowcat_registry
from shadowcat_registry import errors

SLOW = {"yaml", "jsonschema", "jsonschema_rs", "watchdog", "asyncio", "importlib.metadata", "click"}
"""What may only be loaded when it is used: each costs more than all the rest together."""

ALLOWED_ON_IMPORT = {"__future__", "typing", "shadowcat_registry"}
"""And what these load themselves, in a bare interpreter."""

SOURCE = Path(shadowcat_registry.__file__)


def _loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=SOURCE.parents[1],
    )
    return set(done.stdout.split())


def _imported_for_type_checkers() -> dict[str, str]:
    """Name → module, as the block under TYPE_CHECKING has it."""
    (block,) = (node for node in ast.parse(SOURCE.read_bytes()).body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


class TestNames:
    def test_all_is_sorted_and_names_each_once(self) -> None:
        constants = [name for name in shadowcat_registry.__all__ if name.isupper()]
        classes = [name for name in shadowcat_registry.__all__ if not name.isupper() and name[0].isupper()]
        functions = [name for name in shadowcat_registry.__all__ if name[0].islower()]
        assert shadowcat_registry.__all__ == [*sorted(constants), *sorted(classes), *sorted(functions)]
        assert len(set(shadowcat_registry.__all__)) == len(shadowcat_registry.__all__)

    def test_the_three_lists_of_names_agree(self) -> None:
        assert set(shadowcat_registry._home_of) == set(shadowcat_registry.__all__)
        assert shadowcat_registry._home_of == _imported_for_type_checkers()

    @pytest.mark.parametrize("name", shadowcat_registry.__all__)
    def test_a_name_is_what_its_module_has_under_it(self, name: str) -> None:
        value = getattr(shadowcat_registry, name)
        module = importlib.import_module(f"shadowcat_registry.{shadowcat_registry._home_of[name]}")
        assert value is getattr(module, name)
        if isinstance(value, type | types.FunctionType):
            assert (value.__module__, value.__name__) == (module.__name__, name), "one place for each name"

    @pytest.mark.parametrize("name", shadowcat_registry.__all__)
    def test_a_public_name_says_what_it_is(self, name: str) -> None:
        value = getattr(shadowcat_registry, name)
        is_plain_error = isinstance(value, type) and issubclass(value, Exception)
        if (
            isinstance(value, type | types.FunctionType) and not is_plain_error
        ):  # a tree in `errors` tells those
            assert value.__doc__, f"{name} has no docstring"

    def test_every_error_is_public_and_under_the_one_root(self) -> None:
        found = {
            name
            for name, value in vars(errors).items()
            if isinstance(value, type) and issubclass(value, BaseException) and not name.startswith("_")
        }
        assert found <= set(shadowcat_registry.__all__)
        for name in found:
            assert issubclass(getattr(errors, name), errors.RegistryError)

    def test_dir_lists_what_has_not_been_loaded_yet(self) -> None:
        assert set(shadowcat_registry.__all__) <= set(dir(shadowcat_registry))

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'open_registri'"):
            shadowcat_registry.open_registri  # noqa: B018

    def test_a_star_brings_exactly_the_public_names(self) -> None:
        namespace: dict[str, object] = {}
        exec("from shadowcat_registry import *", namespace)
        assert namespace.keys() - {"__builtins__"} == set(shadowcat_registry.__all__)


class TestImport:
    def test_loads_nothing_but_what_is_on_the_list(self) -> None:
        bare = _loaded_by("import __future__, typing")
        loaded = _loaded_by("import shadowcat_registry")
        assert loaded - bare <= ALLOWED_ON_IMPORT

    @pytest.mark.parametrize("module", ["errors", "tape", "backend", "storage", "registry"])
    def test_what_a_user_of_a_registry_needs_loads_nothing_slow(self, module: str) -> None:
        assert not _loaded_by(f"import shadowcat_registry.{module}") & SLOW

    def test_starts_no_thread(self) -> None:
        names = "; ".join(f"shadowcat_registry.{name}" for name in shadowcat_registry.__all__)
        program = f"import threading, shadowcat_registry; {names}; assert threading.active_count() == 1"
        subprocess.run([sys.executable, "-c", program], check=True, cwd=SOURCE.parents[1])
