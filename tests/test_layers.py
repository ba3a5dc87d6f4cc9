"""The direction of DESIGN §3, by machine: a module imports only from modules of a strictly lower rank.

The table is the map of the package. A new module has to be put into it; where it does not fit, it is
the module that is in the wrong place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import shadowcat_registry

PACKAGE = Path(shadowcat_registry.__file__).parent

RANKS: dict[str, float] = {
    # plain values
    "marks": 0,
    "metadata": 0.1,
    "codes": 0.2,
    "pages": 0.3,
    "forks": 0,
    "latch": 0,
    "turns": 0,
    "exits": 0.1,
    "bounded": 0,
    "directories": 0,
    "private": 0.1,
    "backoff": 0,
    "location": 0,
    "dependencies": 0,
    "callers": 0,
    "frame_index": 0,
    # errors, formats, files of the package
    "errors": 1,
    "schema_files": 1,
    "control_socket": 1,
    "tape": 1.1,
    "aio": 1.1,
    # contracts and small tools: none knows what a registry is
    "backend": 2,
    "retention": 2,
    "document": 2,
    "core_schema": 2,
    "syntax_errors": 2.1,
    "parse": 2.2,
    "end_marker": 2,
    "events": 2,
    "event_feed": 2.1,
    "second_look": 2,
    "sight": 2,
    "mounts": 2,
    "settle": 2.1,
    "hints": 2.1,
    "patterns": 2,
    "accelerate": 2,
    "supervise": 2.2,
    "doctor": 3.1,
    "settled": 2.2,
    "watching": 2.25,
    "watch": 2.3,
    # what stands on the contracts
    "interpolate": 3,
    "fingerprints": 3.1,
    "schema_walk": 3,
    "defaults": 3.1,
    "dialect": 3.1,
    "schema_errors": 3.1,
    "schema_faults": 3.2,
    "schema": 3.3,
    "catalog": 3,
    "plugins": 3,
    "plugins.records": 3,
    "plugins.pinning": 3.1,
    "plugins.blame": 3,
    "plugins.effects": 3.1,
    "plugins.decorator": 2.9,
    "plugins.shape": 3.3,
    "plugins.modules": 3.4,
    "plugins.names": 3,
    "plugins.refusals": 3.1,
    "plugins.held": 3.2,
    "plugins.owned": 3.25,
    "plugins.trust": 3.3,
    "plugins.packages": 3.3,
    "plugins.sources": 3.4,
    "plugins.entry_points": 3.4,
    "plugins.probe": 3.5,
    "plugins.probe_child": 3.6,
    "plugins.section": 3.4,
    "plugins.loading": 3.6,
    "translation": 2.1,
    "housekeeping": 2.15,
    "awaited": 2.2,
    "following": 2.1,
    "durability": 2.2,
    "use": 2.3,
    "gathering": 2.2,
    "frame_queue": 2.3,
    "open_tape": 2.35,
    "recorder": 2.4,
    "reader": 2.4,
    "storage": 3,
    "providers": 3,
    "providers.filesystem.files": 3.1,
    "providers.filesystem.locks": 3.2,
    "providers.filesystem.places": 3.3,
    "providers.filesystem.compression": 3.1,
    "providers.filesystem.tails": 3.2,
    "providers.filesystem.blocks": 3.3,
    "providers.filesystem.tape_file": 3.4,
    "providers.filesystem.frame_reader": 3.45,
    "providers.filesystem.appender": 3.3,
    "providers.filesystem.sealing": 3.4,
    "providers.filesystem.offsets": 3.3,
    "providers.filesystem.listing": 3.4,
    "providers.filesystem.views": 3.45,
    "providers.filesystem.tape_opener": 3.45,
    "providers.filesystem.metadata_files": 3.46,
    "providers.filesystem.overview": 3.47,
    "providers.filesystem.backend": 3.5,
    "providers.filesystem": 3.6,
    "providers.memory": 3.1,
    "providers.sqlite.layout": 3.1,
    "providers.sqlite.failures": 3.1,
    "providers.sqlite.durable": 3.1,
    "providers.sqlite.locks": 3.1,
    "providers.sqlite.words": 3.1,
    "providers.sqlite.segments": 3.2,
    "providers.sqlite.connections": 3.2,
    "providers.sqlite.index": 3.3,
    "providers.sqlite.files": 3.4,
    "providers.sqlite.upkeep": 3.5,
    "providers.sqlite.frame_reader": 3.5,
    "providers.sqlite.appender": 3.6,
    "providers.sqlite.backend": 3.7,
    "providers.sqlite": 3.8,
    # the two sides, which meet only in `reconcile`: a manifest, and a live registry
    "manifest": 4,
    "excerpts": 4,
    "includes": 4,
    "advice": 4,
    "types_in_use": 4,
    "candidate": 4.1,
    "plugin_types": 4.2,
    "declarations": 4.2,
    "source_digest": 4.2,
    "rules": 4.2,
    "assemble": 4.3,
    "load": 4.4,
    "editor": 4,
    "plan": 4,
    "status": 4.05,
    "journal": 4.1,
    "progress": 4.1,
    "guards": 4.2,
    "conditions": 4.2,
    "leases": 4,
    "checks": 4.1,
    "snapshot": 4.1,
    "constructing": 4.05,
    "closing": 4.05,
    "tally": 4.05,
    "openings": 4.1,
    "configs": 4.2,
    "overrides": 4.2,
    "generations": 4.2,
    "staging": 4.3,
    "acquisition": 4.4,
    "registry": 4.5,
    "tapes": 4,
    "tapes.batches": 4,
    "tapes.copying": 4.1,
    "tapes.exporting": 4.1,
    "tapes.importing": 4.1,
    "tapes.probing": 4.1,
    "tapes.pruning": 4.1,
    "tapes.verifying": 4.1,
    "tapes.wholes": 4.1,
    # what brings them together
    "preview": 5,
    "prepare": 5,
    "reconcile": 5.1,
    "control_requests": 5,
    "control": 5.1,
    "health_monitor": 5,
    "last_good": 4.02,
    "standing": 5,
    "announce": 5.2,
    "reload_worker": 5.3,
    "reload": 5.2,
    "outcomes": 5.3,
    "runtime": 6,
    "startup": 6.1,
    "notify": 6.1,
    # the doors
    "": 7,
    "testing": 7.5,
    "cli": 8,
    "__main__": 9,
}

ONLY_WORDS = {
    # Names in signatures, imported under TYPE_CHECKING: nothing of these is loaded.
    ("backend", "storage"),
    ("use", "open_tape"),
    ("use", "storage"),
    ("recorder", "storage"),
    ("reader", "storage"),
    ("awaited", "reader"),
    ("leases", "storage"),
}


@cache
def _modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def _name(module: str) -> str:
    """The entry of the table that a module counts as: the parts of the command line are one, and those of the
    suite."""
    first = module.split(".")[0]
    return first if first in ("cli", "testing") else module


def _imports(module: str, path: Path) -> Iterator[tuple[str, bool]]:
    """Which modules of the package it imports, and whether only for a type checker."""
    tree = ast.parse(path.read_bytes())
    only_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = [*module.split("."), ""] if path.name == "__init__.py" and module else module.split(".")
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([PACKAGE.name, *package[: len(package) - node.level]]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            names = [f"{source}.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == PACKAGE.name:
                yield _existing(rest), node in only_types


def _existing(name: str) -> str:
    """`errors.Finding` → `errors`: the longest part of a name that is a module."""
    modules = _modules()
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


@cache
def _all_imports() -> frozenset[tuple[str, str, bool]]:
    """Not where this module is imported: each process that runs a part of the tests does that."""
    return frozenset(
        (_name(module), _name(imported), is_only_types)
        for module, path in _modules().items()
        for imported, is_only_types in _imports(module, path)
        if _name(module) != _name(imported)
    )


class TestLayers:
    def test_the_table_names_every_module_and_no_other(self) -> None:
        assert {_name(module) for module in _modules()} == set(RANKS)

    @pytest.mark.parametrize("module", sorted(RANKS))
    def test_a_module_imports_only_from_lower_ranks(self, module: str) -> None:
        upwards = {
            imported
            for importer, imported, _ in _all_imports()
            if importer == module
            and RANKS[imported] >= RANKS[module]
            and (module, imported) not in ONLY_WORDS
        }
        assert not upwards, f"{module or PACKAGE.name} imports from its own rank or above"

    def test_every_exception_is_needed_and_is_only_for_type_checkers(self) -> None:
        assert {
            (importer, imported): is_only_types
            for importer, imported, is_only_types in _all_imports()
            if (importer, imported) in ONLY_WORDS
        } == dict.fromkeys(ONLY_WORDS, True)

    @pytest.mark.parametrize(
        ("importer", "imported"),
        [("openings", "storage"), ("cli", ""), ("providers.memory", "backend"), ("runtime", "watch")],
    )
    def test_imports_are_found_in_all_their_forms(self, importer: str, imported: str) -> None:
        assert any((importer, imported) == found[:2] for found in _all_imports())

    def test_the_core_never_imports_a_provider(self) -> None:
        assert not [
            importer
            for importer, imported, _ in _all_imports()
            if imported.startswith("providers") and not importer.startswith(("providers", "cli"))
        ]
