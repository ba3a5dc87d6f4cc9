"""One declaration of a provider → its complete config, or what is wrong with it.

Merges, resolves references, fills in defaults, and asks the schema and the type. Opens the files that
configs refer to and no others; of a provider it uses nothing but what its factory says of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .advice import Place, advice, exclusive_places
from .backend import StorageProviderFactory
from .candidate import Candidate, mapping_in
from .defaults import fill_defaults, merge
from .errors import InvalidConfigError, Problem
from .interpolate import Lookups, Resolved, has_reference, redact, resolve
from .marks import Pointer
from .metadata import HealthPolicy, ProviderSpec
from .parse import MAX_BYTES, MAX_NODES
from .schema_walk import types_at
from .types_in_use import TypeInUse, content_of

VerdictKey = tuple[str, bytes]
"""A name, and the digest of all that a provider of that name is declared by."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """A provider that was found right."""

    spec: ProviderSpec
    type: TypeInUse
    resolved: bytes | None
    """What its references gave, digested; None: it has none."""
    advice: tuple[Problem, ...]
    places: tuple[Place, ...]
    paths: tuple[Place, ...] = ()
    """Where it may keep something, if its type does not say which places it wants for itself."""


class Declarations:
    """Checks the declarations of one candidate. `known` are verdicts of the last load: what is among them is
    not checked again, unless something that it is made of has changed."""

    def __init__(
        self,
        candidate: Candidate,
        environ: Mapping[str, str],
        known: Mapping[VerdictKey, Verdict],
        *,
        unresolved: bool,
    ) -> None:
        self.verdicts: dict[VerdictKey, Verdict] = {}
        """For the next load."""
        self.files: list[Path] = []
        """That references asked for."""
        self._candidate = candidate
        self._environ = environ
        self._known = known
        self._unresolved = unresolved
        self._lookups = Lookups()
        self._beneath: dict[str, bytes] = {}
        """The digests of `defaults.config` by type, for those that were asked for."""
        self._too_much: set[str] = set()
        """The types whose defaults are too large to be merged."""

    def check_all(self) -> None:
        """Note what is wrong, and put into the candidate what could be completed."""
        self._check_what_defaults_stand_for()
        for name, entry in self._candidate.declared.items():
            if self._candidate.is_full:
                return
            self._check(name, entry)
        for name in self._candidate.default_configs:
            if name in self._candidate.catalog:  # unused or not, the digest has to know what is secret in it
                self._candidate.use_type(name, ("defaults", "config", name), on_key=True)

    def _check_what_defaults_stand_for(self) -> None:
        """They are merged into each provider of their type, and count as if they were written there."""
        candidate = self._candidate
        entries = [entry for entry in candidate.declared.values() if isinstance(entry, dict)]
        users = Counter(entry["type"] for entry in entries if isinstance(entry.get("type"), str))
        for name, config in candidate.default_configs.items():
            nodes, characters = _weight(config)
            if nodes * users[name] > MAX_NODES or characters * users[name] > MAX_BYTES:
                self._too_much.add(name)
                message = f"too much for each of the {users[name]:,} providers of this type"
                hint = f"all that defaults add may be {MAX_NODES:,} values and {MAX_BYTES >> 20} MiB of text"
                candidate.add("SC611", message, ("defaults", "config", name), hint, on_key=True)

    def _check(self, name: str, entry: Any) -> None:
        candidate = self._candidate
        own = entry.get("config", {}) if isinstance(entry, dict) else None
        if not isinstance(own, dict):
            return  # the schema of the manifest has said so
        type_ = self._type_of(entry, ("providers", name))
        if type_ is None or type_.faults or entry["type"] in self._too_much:
            return
        schema, base_directory = type_.schema, candidate.path.parent
        beneath = mapping_in(candidate.default_configs, entry["type"])
        if entry["type"] not in self._beneath:
            self._beneath[entry["type"]] = content_of(beneath)
        key = (name, content_of([_without_config(entry), self._beneath[entry["type"]], own]))
        verdict = self._known.get(key)
        if verdict is not None and verdict.type is type_ and verdict.resolved is None:
            self._pass(key, verdict)
            return
        merged = merge(beneath, own)
        resolved = resolve(
            merged,
            environ=self._environ,
            base_directory=base_directory,
            types_at=lambda place: types_at(schema, merged).get(place, frozenset()),
            unresolved=self._unresolved,
            lookups=self._lookups,
        )
        self.files.extend(resolved.files)
        content = content_of(resolved.config) if resolved.referenced else None
        if verdict is not None and verdict.type is type_ and verdict.resolved == content:
            self._pass(key, verdict)
            return
        config = fill_defaults(schema, resolved.config) if type_.has_defaults else resolved.config
        secrets = resolved.secrets
        if type_.compiled is not None and type_.has_paths:
            config = type_.compiled.with_absolute_paths(config, base_directory)
        if type_.compiled is not None and type_.has_secrets:
            secrets |= type_.compiled.secret_pointers(config)
        references: dict[Pointer, str] = {}
        if type_.compiled is not None and type_.has_references:
            marked = type_.compiled.marked("x-provider", config)
            references = {
                at: to for at, to in marked if isinstance(to, str) and at not in resolved.unresolved
            }
        spec = ProviderSpec(
            name,
            entry["type"],
            config,
            entry.get("display_name"),
            secrets,
            version=entry.get("version"),
            requires=_texts(entry.get("requires")),
            protect=entry.get("protect") is True,
            references=MappingProxyType(references),
            content=content_of(config),
            health=_health(entry.get("health")),
            implementation=candidate.catalog.implementation(entry["type"]),
        )
        counsel: tuple[Problem, ...] = ()
        if type_.compiled is not None and type_.has_advice:
            found = advice(type_.compiled, resolved.config)
            counsel = tuple(it for it in found if it.pointer not in resolved.unresolved)
        if wrong := _problems(type_, spec, resolved):
            candidate.specs[name] = spec
            for problem in wrong:
                self._add(spec, problem)
            for problem in counsel:
                self._add(spec, problem, is_advice=True)
            return
        places: tuple[Place, ...] = ()
        if type_.compiled is not None and type_.has_exclusive:
            found_places = exclusive_places(name, type_.compiled, config)
            places = tuple(it for it in found_places if it.pointer not in resolved.unresolved)
        paths: tuple[Place, ...] = ()
        if type_.compiled is not None and type_.has_paths and not type_.has_exclusive:
            found_paths = type_.compiled.marked("x-path", config)
            paths = tuple(Place(name, at, it) for at, it in found_paths if isinstance(it, str) and it)
            paths = tuple(it for it in paths if it.pointer not in resolved.unresolved)
        self._pass(key, Verdict(spec, type_, content, counsel, places, paths))

    def _type_of(self, entry: Mapping[str, Any], pointer: Pointer) -> TypeInUse | None:
        """The type of a provider; None, and a finding, where there is none."""
        name = entry.get("type")
        if not isinstance(name, str) or not name or has_reference(name):
            return None  # the schema of the manifest has said so
        if name not in self._candidate.catalog:
            self._candidate.add_unknown_type("SC302", name, (*pointer, "type"))
            return None
        return self._candidate.use_type(name, (*pointer, "type"))

    def _pass(self, key: VerdictKey, verdict: Verdict) -> None:
        """Note what comes with a provider that is right."""
        spec = verdict.spec
        self._candidate.specs[spec.name] = spec
        self._candidate.places += verdict.places
        self._candidate.paths += verdict.paths
        for problem in verdict.advice:
            self._add(spec, problem, is_advice=True)
        if not self._unresolved:
            self.verdicts[key] = verdict

    def _add(self, spec: ProviderSpec, problem: Problem, *, is_advice: bool = False) -> None:
        self._candidate.add(
            problem.code,
            problem.message,
            self._candidate.place_of(spec.name, spec.type, problem.pointer),
            problem.hint,
            on_key=problem.on_key,
            severity="warning" if is_advice else "error",
        )


def _without_config(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "config"}


def _health(value: Any) -> HealthPolicy | None:
    """What is not of the right form, the schema of the manifest has said."""
    if not isinstance(value, dict):
        return None
    fields = {name: value[name] for name in ("interval_seconds", "timeout_seconds") if name in value}
    return HealthPolicy(**fields)


def _texts(value: Any) -> tuple[str, ...]:
    """Of a list, each once; what else is in it, or instead of it, the schema of the manifest has said."""
    items = value if isinstance(value, list) else ()
    return tuple(dict.fromkeys(item for item in items if isinstance(item, str)))


def _weight(value: Any) -> tuple[int, int]:
    """How many values, and characters of text, there are in a value; aliases count at what they stand for."""
    nodes = characters = 0
    stack = [value]
    while stack:
        item = stack.pop()
        nodes += 1
        if isinstance(item, str):
            characters += len(item)
        elif isinstance(item, dict):
            nodes += len(item)
            characters += sum(map(len, item))
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return nodes, characters


def _problems(type_: TypeInUse, spec: ProviderSpec, resolved: Resolved) -> list[Problem]:
    """All that is wrong with a complete config, by its references, its schema and its type."""
    found = list(resolved.problems)
    for problem in type_.compiled.problems(spec.config) if type_.compiled is not None else ():
        at = problem.pointer[: len(problem.pointer) - problem.on_key]  # a wrong key is wrong with any value
        if any(at[:depth] in resolved.unresolved for depth in range(len(at) + 1)):
            continue  # what the value would be is not known
        if problem.code == "SC209" and any(
            place[: len(problem.pointer)] == problem.pointer for place in resolved.unresolved
        ):
            continue  # nor whether a rule holds for what it is in
        if problem.code == "SC203" and problem.pointer in resolved.referenced:
            problem = replace(problem, hint="what the reference gives does not read as one")
        found.append(problem)
    if not found and not resolved.unresolved:
        found.extend(_ask_the_factory(type_.factory, spec.config, spec.secrets))
    return found


def _ask_the_factory(
    factory: StorageProviderFactory, config: Mapping[str, Any], secrets: Iterable[Pointer]
) -> list[Problem]:
    """What the type itself has to say to a config that fits its schema."""
    try:
        factory.validate_config(config)
    except InvalidConfigError as error:
        return [Problem((), "SC210", redact(text, config, secrets)) for text in error.problems]
    except ValueError as error:
        return [Problem((), "SC210", redact(str(error), config, secrets))]
    except Exception as error:  # noqa: BLE001 - foreign code; its text may hold anything, its type does not
        return [Problem((), "SC502", f"the check of this type failed with {type(error).__name__}")]
    return []
