"""The pure difference between two states of the declared providers.

`diff` looks at values only: no registry, no factory, no clock. Three laws hold: `diff(a, a)` is empty,
`apply(diff(a, b), a)` is `b`, and applied to a state in which what it changes is no longer as it was, a
plan is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from .dependencies import in_order
from .errors import StalePlanError
from .fingerprints import shown
from .marks import Pointer, format_dotted
from .metadata import Config, HealthPolicy, ProviderSpec

ActionKind = Literal["add", "update", "replace", "metadata", "remove", "default"]

_METADATA: Final = ("display_name", "version", "requires", "protect", "health")
"""Fields of a spec that no storage knows of."""
_CODE: Final = "implementation"
"""The field that says which code a storage is of."""


@dataclass(frozen=True, slots=True)
class State:
    """What is declared: providers by name, and the name of the default."""

    providers: Mapping[str, ProviderSpec] = field(default_factory=dict)
    default: str | None = None


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field that differs, to show: its values as JSON, None where there is none. A secret is `***`, with
    a fingerprint that differs when the secret does."""

    path: str
    """Dotted: `config.directory`."""
    old: str | None
    new: str | None

    def __str__(self) -> str:
        return f"{self.path}: {self.old or '(none)'} -> {self.new or '(none)'}"

    def as_json(self) -> dict[str, Any]:
        return {"path": self.path, "old": self.old, "new": self.new}


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a plan.

    `add` and `remove` are about whole providers; `update` changes a config, or the code of the plugin that
    the type comes from, `replace` the type, `metadata` only what no storage knows of; `default` has no specs,
    its `name` is the new default.
    """

    kind: ActionKind
    name: str | None
    old: ProviderSpec | None = None
    new: ProviderSpec | None = None
    changed: tuple[str, ...] = ()
    """Which fields differ, dotted, without their values: `config.directory`."""
    old_default: str | None = None
    """Of `default`: what it is instead of."""

    def __str__(self) -> str:
        if self.kind == "default":
            return f"set default {self.name}" if self.name else "unset the default"
        fields = f" ({', '.join(self.changed)})" if self.changed else ""
        return f"{self.kind} {self.name}{fields}"

    @property
    def reason(self) -> str:
        """Why it has to be done, in a sentence without a value of a config."""
        if self.kind == "add":
            return "it is declared, and does not run"
        if self.kind == "remove":
            return "it is no longer declared"
        if self.kind == "default":
            return f"the manifest no longer says {self.old_default}" if self.old_default else "there was none"
        if self.old is not None and self.new is not None and self.kind == "replace":
            return f"its type is {self.new.type}, and no longer {self.old.type}"
        what = "its config differs" if self.kind == "update" else "what no storage knows of differs"
        if self.kind == "update" and _CODE in self.changed:
            is_all = not any(name.startswith("config") for name in self.changed)
            what = (
                "the plugin of its type differs" if is_all else "its config and the plugin of its type differ"
            )
        return f"{what}: {', '.join(self.changed)}"

    def changes(self) -> tuple[FieldChange, ...]:
        """What differs, with the values as they may be shown."""
        old, new = self.old, self.new
        if self.kind == "default":
            return (FieldChange("defaults.provider", _text(self.old_default), _text(self.name)),)
        if old is None or new is None:
            return ()
        found = [
            FieldChange(name, _text(getattr(old, name)), _text(getattr(new, name)))
            for name in ("type", _CODE, *_METADATA)
            if getattr(old, name) != getattr(new, name)
        ]
        for pointer in _config_changes(old, new):
            before, after = _shown_at(old, pointer), _shown_at(new, pointer)
            found.append(FieldChange(format_dotted(("config", *pointer)), before, after))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they are carried out; an empty plan is false."""

    actions: tuple[Action, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions)

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions)

    def names(self, *kinds: ActionKind) -> tuple[str, ...]:
        """The providers of the actions of these kinds."""
        return tuple(action.name for action in self.actions if action.kind in kinds and action.name)


def diff(old: State, new: State) -> Plan:
    """What turns `old` into `new`: additions and changes in the order of `new`, each behind those it
    requires; then removals in the reverse order of `old`, each before those it required; then the default."""
    changes: dict[str, Action] = {}
    known = old.providers
    for name, spec in new.providers.items():
        before = known.get(name)
        if before is spec:
            continue  # a load that finds a declaration unchanged has the very spec of the load before
        if before is None:
            changes[name] = Action("add", name, new=spec)
        elif not _is_same_spec(before, spec):
            fields = tuple(_changed(before, spec))
            changes[name] = Action(_kind(before, spec), name, before, spec, fields)
    gone = [name for name in known if name not in new.providers]
    ordered = [changes[name] for name in _ordered(list(changes), new)]
    ordered += [Action("remove", name, old=known[name]) for name in reversed(_ordered(gone, old))]
    if old.default != new.default:
        ordered.append(Action("default", new.default, old_default=old.default))
    return Plan(tuple(ordered))


def apply(plan: Plan, state: State) -> State:
    """The state after `plan`; the definition of what a plan means.

    Raises:
        StalePlanError: something that it changes is not as it was when the plan was made.
    """
    providers, default = dict(state.providers), state.default
    for action in plan:
        if action.kind == "default":
            if default != action.old_default:
                raise StalePlanError(None)
            default = action.name
            continue
        name = action.name or ""
        before = providers.get(name)
        is_as_it_was = before is None or (action.old is not None and _is_same_spec(before, action.old))
        if (before is None) != (action.old is None) or not is_as_it_was:
            raise StalePlanError(name)
        if action.new is not None:
            providers[name] = action.new
        else:
            del providers[name]
    return State(providers, default)


def is_same(old: Config, new: Config) -> bool:
    """Whether two configs mean the same; unlike `==`, this tells `1` from `true` and from `1.0`."""
    return old is new or (old == new and _has_same_types(old, new))


def needs_of(specs: Mapping[str, ProviderSpec]) -> dict[str, tuple[str, ...]]:
    """Which providers each needs, where it needs any."""
    return {name: spec.needs for name, spec in specs.items() if spec.needs}


def _ordered(names: list[str], state: State) -> list[str]:
    if len(names) < 2:
        return names
    needs = needs_of(state.providers)
    return in_order(names, needs) if needs else names


def _is_same_spec(old: ProviderSpec, new: ProviderSpec) -> bool:
    return (
        old.type == new.type
        and old.implementation == new.implementation
        and old.display_name == new.display_name
        and old.requires == new.requires
        and old.version == new.version
        and old.protect == new.protect
        and old.health == new.health
        # Two that were loaded anew are told apart by what the loader knows of them; most are the same.
        and ((old.content == new.content and old.content != b"") or is_same(old.config, new.config))
    )


def _kind(old: ProviderSpec, new: ProviderSpec) -> ActionKind:
    if old.type != new.type:
        return "replace"
    is_untouched = old.implementation == new.implementation and is_same(old.config, new.config)
    return "metadata" if is_untouched else "update"


def _changed(old: ProviderSpec, new: ProviderSpec) -> Iterator[str]:
    for name in ("type", _CODE, *_METADATA):
        if getattr(old, name) != getattr(new, name):
            yield name
    yield from (format_dotted(("config", *pointer)) for pointer in _config_changes(old, new))


def _config_changes(old: ProviderSpec, new: ProviderSpec) -> Iterator[Pointer]:
    return _differences(old.config, new.config, (), old.secrets | new.secrets)


def _differences(old: Any, new: Any, at: Pointer, secrets: frozenset[Pointer]) -> Iterator[Pointer]:
    """Where they differ; not inside of a secret, whose keys are as secret as its values."""
    if at in secrets:
        if not _is_same_value(old, new):
            yield at
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                yield (*at, key)
            else:
                yield from _differences(old[key], new[key], (*at, key), secrets)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, (*at, index), secrets)
    elif not _is_same_value(old, new):
        yield at


def _is_same_value(old: Any, new: Any) -> bool:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return is_same(old, new)
    return type(old) is type(new) and old == new and (type(old) is not list or _has_same_types(old, new))


def _has_same_types(old: Any, new: Any) -> bool:
    """Of two mappings or two lists that are equal."""
    for key in old if isinstance(old, Mapping) else range(len(old)):
        value = old[key]
        kind = type(value)
        if kind is str:
            continue  # nothing else equals a text
        other = new[key]
        if kind is not type(other):
            return False
        if (kind is dict or kind is list) and not _has_same_types(value, other):
            return False
    return True


def _text(value: str | bool | tuple[str, ...] | HealthPolicy | None) -> str | None:
    """Of a field that holds no secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, HealthPolicy):
        return json.dumps(value.as_json())
    return ", ".join(value) or None if isinstance(value, tuple) else value or None


def _shown_at(spec: ProviderSpec, pointer: Pointer) -> str | None:
    value: Any = spec.config
    for part in pointer:
        if isinstance(value, Mapping) and part not in value:
            return None
        value = value[part]
    return shown(spec.name, pointer, value, spec.secrets)
