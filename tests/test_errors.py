"""Every error is a value: fields, equality, pickling, a text that says what to do."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

import shadowcat_registry
from shadowcat_registry import errors
from shadowcat_registry.codes import CODES
from shadowcat_registry.errors import (
    Excerpt,
    Finding,
    ManifestError,
    Problem,
    RegistryError,
    StorageError,
    did_you_mean,
)
from shadowcat_registry.marks import Mark
from shadowcat_registry.metadata import Holder

HOLDER = Holder("archive", 3, "app.py:7", "MainThread", 1.25, "i-1")
FINDING = Finding("SC201", "there is no field `x` here", Mark("r.yaml", 2, 3, 2, 4), ("a", 0), "remove it")

# What stands for a parameter of a constructor, by its name.
SAMPLES: dict[str, object] = {
    "findings": (FINDING,),
    "excerpts": (Excerpt(FINDING.mark, "  x: ***", 2, 3),),
    "digest": "5e2f",
    "path": "r.yaml",
    "reason": "it broke",
    "name": "archive",
    "names": ("a", "b", "a"),
    "provider": "archive",
    "problems": ("`a` is missing",),
    "known": ("memory", "archiv"),
    "active_count": 1,
    "seq": 12,
    "durable_seq": 6,
    "holders": (HOLDER,),
    "default": "memory",
    "instance_id": "i-1",
    "hook": "app.py:1",
    "waited_seconds": 2.5,
    "running": "a.yaml",
    "asked": "b.yaml",
    "tape_id": "t-1",
    "pid": 4711,
    "tape_ids": ("t-1", "t-2"),
    "mark": Mark("t.jsonl", 1, 1, 1, 1),
    "storage_type": "memory",
    "operation": "search",
    "what": "the storage",
    "instead": "registry.aregister",
    "plugin": "glacier",
    "rule": "owner",
    "remedy": "chown root: /opt/plugins/glacier.py",
}


def all_errors() -> list[type[RegistryError]]:
    classes = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, RegistryError)]
    return [it for it in classes if not it.__name__.startswith("_")]


def dir_of(kind: type[RegistryError]) -> set[str]:
    """What a class and its bases in the module define."""
    return {name for it in kind.__mro__ if it.__module__ == errors.__name__ for name in vars(it)}


def concrete() -> list[RegistryError]:
    made = []
    for kind in all_errors():
        if kind in (RegistryError, StorageError):
            continue
        # Without a constructor of its own, an error has no fields.
        names = list(inspect.signature(kind).parameters) if "__init__" in dir_of(kind) else []
        made.append(kind(*(SAMPLES[name] for name in names)))
    return made


@pytest.mark.parametrize("error", concrete(), ids=lambda it: type(it).__name__)
class TestEveryError:
    def test_it_survives_pickling_and_copying(self, error: RegistryError) -> None:
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert other == error
            assert other is not error
            assert vars(other) == vars(error)
            assert str(other) == str(error)

    def test_it_equals_only_its_like(self, error: RegistryError) -> None:
        assert error == type(error)(*error.args)
        assert hash(error) == hash(type(error)(*error.args))
        assert error != RegistryError(*error.args)

    def test_its_text_is_a_sentence_and_no_repr_of_arguments(self, error: RegistryError) -> None:
        assert len(str(error).split()) >= 3
        assert not re.search(r"Holder\(|Mark\(|Finding\(", str(error))

    def test_the_tree_in_the_docstring_shows_it_with_its_base(self, error: RegistryError) -> None:
        (line,) = [
            it for it in (errors.__doc__ or "").splitlines() if f" {type(error).__name__} " in f"{it} "
        ]
        builtin = next(it.__name__ for it in type(error).__mro__ if it.__module__ == "builtins")
        assert f"({builtin})" in line
        assert builtin != "Exception"


class TestTheTree:
    def test_everything_in_it_exists(self) -> None:
        drawn = set(re.findall(r"── (\w+)", errors.__doc__ or "")) | {"RegistryError"}
        assert drawn == {it.__name__ for it in all_errors()}

    def test_what_is_under_storage_error_is_drawn_there(self) -> None:
        for line in (errors.__doc__ or "").splitlines():
            if found := re.match(r"    (    )?[├└]── (\w+)", line):
                kind = getattr(errors, found[2])
                assert issubclass(kind, StorageError) == bool(found[1]) or kind is StorageError


class TestTexts:
    def test_an_unknown_name_is_answered_with_what_there_is(self) -> None:
        text = str(errors.ProviderNotFoundError("archve", ["archive", "memory"]))
        assert text == "no provider 'archve' (there is: archive, memory); did you mean `archive`?"

    def test_a_provider_in_use_says_whose_it_is(self) -> None:
        text = str(errors.ProviderInUseError("archive", 12, [HOLDER] * 12))
        assert "12 active leases" in text
        assert "app.py:7" in text
        assert "and 2 more" in text

    def test_a_finding_is_one_line_that_an_editor_jumps_from(self) -> None:
        assert str(FINDING) == "r.yaml:2:3: error SC201: there is no field `x` here (remove it)"
        assert FINDING.as_json()["pointer"] == "/a/0"

    def test_a_refused_plugin_says_the_rule_and_what_mends_it(self) -> None:
        error = errors.PluginError("glacier", "owner", "/opt/p.py belongs to uid 7", "chown root: /opt/p.py")
        assert str(error) == (
            "plugin glacier is refused (owner): /opt/p.py belongs to uid 7; to mend it: chown root: /opt/p.py"
        )

    def test_a_refused_plugin_is_one_line_that_no_terminal_acts_on(self) -> None:
        text = str(errors.PluginError("a\nb\x1b[2J\udcff", "name", "no\rname"))
        assert text == r"plugin a\nb\x1b[2J\udcff is refused (name): no\rname"

    def test_all_findings_are_in_the_text(self) -> None:
        assert str(ManifestError([FINDING, FINDING])).count("SC201") == 2


class TestDidYouMean:
    def test_it_names_the_nearest(self) -> None:
        assert did_you_mean("directroy", ["directory", "path"]) == "did you mean `directory`?"

    def test_it_is_silent_where_nothing_is_near(self) -> None:
        assert did_you_mean("zzz", ["directory"]) is None

    def test_of_very_many_it_still_finds_the_nearest(self) -> None:
        names = [f"provider-{number:050}" for number in range(20_000)]
        assert did_you_mean("provider-" + "0" * 49 + "7", names) == f"did you mean `{names[7]}`?"

    def test_a_name_of_a_megabyte_costs_nothing(self) -> None:
        assert did_you_mean("a" * 1_000_000, ["a" * 1_000_000, "b"]) is None


class TestCodes:
    def test_every_code_in_the_source_is_in_the_table_and_every_code_there_is_used(self) -> None:
        used: set[str] = set()
        for path in Path(shadowcat_registry.__file__).parent.rglob("*.py"):
            if path.name != "codes.py":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                texts = [
                    it.value
                    for it in ast.walk(tree)
                    if isinstance(it, ast.Constant) and isinstance(it.value, str)
                ]
                used.update(text for text in texts if re.fullmatch(r"SC\d{3}", text))
        assert used == CODES.keys()

    def test_meanings_differ(self) -> None:
        assert len(set(CODES.values())) == len(CODES)

    def test_a_problem_is_a_value(self) -> None:
        assert Problem(("a",), "SC201", "m") == Problem(("a",), "SC201", "m")
