"""The pure difference between two states of the declared providers.

`diff` looks at values only: no registry, no factory, no clock. Two laws hold: `diff(a, a)` is empty,
and `apply(diff(a, b), a)` is `b`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .marks import Pointer, format_dotted
from .metadata import Config, ProviderSpec

ActionKind = Literal["add", "update", "replace", "relabel", "remove", "default"]


@dataclass(frozen=True, slots=True)
class State:
    """What is declared: providers by name, and the name of the default."""

    providers: Mapping[str, ProviderSpec] = field(default_factory=dict)
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a plan.

    `add` and `remove` are about whole providers; `update` changes a config, `replace` the type,
    `relabel` only what people read; `default` has no specs, its `name` is the new default.
    """

    kind: ActionKind
    name: str | None
    old: ProviderSpec | None = None
    new: ProviderSpec | None = None
    changed: tuple[str, ...] = ()
    """Which fields differ, dotted, without their values: `config.directory`."""

    def __str__(self) -> str:
        if self.kind == "default":
            return f"set default {self.name}" if self.name else "unset the default"
        fields = f" ({', '.join(self.changed)})" if self.changed else ""
        return f"{self.kind} {self.name}{fields}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they are carried out; an empty plan is false."""

    actions: tuple[Action, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions)

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions)


def diff(old: State, new: State) -> Plan:
    """What turns `old` into `new`: additions and changes in the order of `new`, then removals in the
    reverse order of `old`, then the default."""
    actions = []
    for name, spec in new.providers.items():
        before = old.providers.get(name)
        if before is None:
            actions.append(Action("add", name, new=spec))
        elif changed := tuple(_changed(before, spec)):
            actions.append(Action(_kind(before, spec), name, before, spec, changed))
    gone = [spec for name, spec in old.providers.items() if name not in new.providers]
    actions += [Action("remove", spec.name, old=spec) for spec in reversed(gone)]
    if old.default != new.default:
        actions.append(Action("default", new.default))
    return Plan(tuple(actions))


def apply(plan: Plan, state: State) -> State:
    """The state after `plan`; the definition of what a plan means."""
    providers, default = dict(state.providers), state.default
    for action in plan:
        if action.kind == "default":
            default = action.name
        elif action.new is not None:
            providers[action.new.name] = action.new
        elif action.old is not None:
            del providers[action.old.name]
    return State(providers, default)


def is_same(old: Config, new: Config) -> bool:
    """Whether two configs mean the same; unlike `==`, this tells `1` from `true` and from `1.0`."""
    return next(_differences(old, new, ()), None) is None


def _kind(old: ProviderSpec, new: ProviderSpec) -> ActionKind:
    if old.type != new.type:
        return "replace"
    return "relabel" if is_same(old.config, new.config) else "update"


def _changed(old: ProviderSpec, new: ProviderSpec) -> Iterator[str]:
    if old.type != new.type:
        yield "type"
    if old.display_name != new.display_name:
        yield "display_name"
    yield from map(format_dotted, _differences(old.config, new.config, ("config",)))


def _differences(old: Any, new: Any, at: Pointer) -> Iterator[Pointer]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                yield (*at, key)
            else:
                yield from _differences(old[key], new[key], (*at, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, (*at, index))
    elif type(old) is not type(new) or old != new:
        yield at
