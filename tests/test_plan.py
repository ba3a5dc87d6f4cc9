from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.errors import StalePlanError
from shadowcat_registry.metadata import ProviderSpec
from shadowcat_registry.plan import Action, Plan, State, apply, diff, is_same

_scalars = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5]) | st.text(max_size=2)
)
_configs = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.recursive(
        _scalars,
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)
        ),
        max_leaves=5,
    ),
    max_size=3,
)


@st.composite
def states(draw: st.DrawFn) -> State:
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True))
    specs = {
        name: ProviderSpec(
            name,
            draw(st.sampled_from(["memory", "filesystem"])),
            draw(_configs),
            draw(st.sampled_from([None, "One", "Two"])),
            version=draw(st.sampled_from([None, ">=1"])),
            # Without a circle, as those that the loader lets through.
            requires=tuple(draw(st.lists(st.sampled_from(names[:position]), unique=True, max_size=2)))
            if position
            else (),
            protect=draw(st.booleans()),
            implementation=draw(st.sampled_from(["", "sha256:1"])),
        )
        for position, name in enumerate(names)
    }
    specs = {name: specs[name] for name in draw(st.permutations(names))}
    return State(specs, draw(st.none() | st.sampled_from(["a", "b"])))


def _exactly(value: Any) -> Any:
    """A form in which `1`, `1.0` and `True` differ."""
    if isinstance(value, Mapping):
        return {key: _exactly(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exactly(item) for item in value]
    return (type(value).__name__, value)


def _exact_state(state: State) -> Any:
    return state.default, {
        name: (
            spec.type,
            spec.display_name,
            spec.version,
            spec.requires,
            spec.protect,
            spec.implementation,
            _exactly(spec.config),
        )
        for name, spec in state.providers.items()
    }


def _spec(
    name: str = "a", type_: str = "memory", display_name: str | None = None, **config: Any
) -> ProviderSpec:
    return ProviderSpec(name, type_, config, display_name)


class TestLaws:
    @given(states())
    def test_between_a_state_and_itself_there_is_nothing(self, state: State) -> None:
        assert not diff(state, state)

    @given(states(), states())
    def test_applied_to_the_old_state_it_gives_exactly_the_new_one(self, old: State, new: State) -> None:
        assert _exact_state(apply(diff(old, new), old)) == _exact_state(new)

    @given(states(), states())
    def test_a_second_time_there_is_nothing_to_do(self, old: State, new: State) -> None:
        assert not diff(apply(diff(old, new), old), new)

    @given(states(), states())
    def test_no_name_is_touched_twice_and_every_change_says_where(self, old: State, new: State) -> None:
        actions = [action for action in diff(old, new) if action.kind != "default"]
        assert len({action.name for action in actions}) == len(actions)
        for action in actions:
            assert bool(action.changed) == (action.kind in ("update", "replace", "metadata"))

    @given(states(), states())
    def test_who_is_required_is_changed_before_and_removed_after(self, old: State, new: State) -> None:
        plan = diff(old, new)
        changed = [a.name for a in plan if a.kind not in ("remove", "default")]
        removed = [a.name for a in plan if a.kind == "remove"]
        for name, spec in new.providers.items():
            for needed in spec.requires:
                if name in changed and needed in changed:
                    assert changed.index(needed) < changed.index(name)
        for name, spec in old.providers.items():
            for needed in spec.requires:
                if name in removed and needed in removed:
                    assert removed.index(name) < removed.index(needed)
        kinds = [action.kind for action in plan]
        assert kinds == sorted(kinds, key=lambda kind: {"remove": 1, "default": 2}.get(kind, 0))

    @given(states(), states(), states())
    def test_made_for_what_is_gone_it_is_refused_and_else_does_only_what_it_says(
        self, old: State, new: State, there: State
    ) -> None:
        plan = diff(old, new)
        touched = {action.name for action in plan if action.kind != "default"}
        sets_default = any(action.kind == "default" for action in plan)
        exact = [
            _exact_state(State({n: s for n, s in state.providers.items() if n in touched}))
            for state in (old, there)
        ]
        is_gone = exact[0] != exact[1] or (sets_default and old.default != there.default)
        if is_gone:
            with pytest.raises(StalePlanError):
                apply(plan, there)
            return
        after = apply(plan, there)
        untouched = {name: spec for name, spec in there.providers.items() if name not in touched}
        wanted = {name: spec for name, spec in new.providers.items() if name in touched}
        assert _exact_state(State({**untouched, **wanted}))[1] == _exact_state(after)[1]
        assert after.default == (new.default if sets_default else there.default)

    @given(states(), states())
    def test_every_change_is_shown_with_what_it_was_and_what_it_will_be(self, old: State, new: State) -> None:
        for action in diff(old, new):
            changes = action.changes()
            assert action.reason
            assert all(change.old != change.new for change in changes)
            if action.kind in ("update", "replace", "metadata"):
                assert tuple(change.path for change in changes) == action.changed

    @given(states(), states())
    def test_no_line_of_it_shows_a_value(self, old: State, new: State) -> None:
        marked = {
            name: ProviderSpec(name, spec.type, {**spec.config, "a": "S3CRET"})
            for name, spec in new.providers.items()
        }
        plan = diff(old, State(marked, new.default))
        assert "S3CRET" not in "".join(map(str, plan)) + repr(plan)

    @given(states(), states())
    def test_nothing_of_it_shows_a_secret(self, old: State, new: State) -> None:
        marked = {
            name: replace(
                spec, config={**spec.config, "a": {"S3CRET": ["S3CRET"]}}, secrets=frozenset({("a",)})
            )
            for name, spec in new.providers.items()
        }
        for action in [*diff(old, State(marked)), *diff(State(marked), old)]:
            assert "S3CRET" not in f"{action}{action.reason}{action.changes()}"

    @given(_configs, _configs)
    def test_configs_are_the_same_when_they_are_exactly_equal(
        self, old: dict[str, Any], new: dict[str, Any]
    ) -> None:
        assert is_same(old, new) == (_exactly(old) == _exactly(new))


class TestDiff:
    def test_additions_and_changes_come_in_the_new_order_then_removals_reversed_then_the_default(
        self,
    ) -> None:
        old = State({name: _spec(name) for name in ("gone", "kept", "also-gone", "changed")}, "gone")
        new = State({"changed": _spec("changed", n=1), "new": _spec("new"), "kept": _spec("kept")}, "new")
        assert [str(action) for action in diff(old, new)] == [
            "update changed (config.n)",
            "add new",
            "remove also-gone",
            "remove gone",
            "set default new",
        ]

    @pytest.mark.parametrize(
        ("old", "new", "kind", "changed"),
        [
            (_spec(n=1), _spec(n=2), "update", ("config.n",)),
            (_spec(n=1), _spec(n=True), "update", ("config.n",)),
            (_spec(n=[1, {"b": 0}]), _spec(n=[1, {"b": False}]), "update", ("config.n[1].b",)),
            (_spec(n=[1]), _spec(n=[1, 2]), "update", ("config.n",)),
            (
                _spec(n={"a": 1, "b": 2}),
                _spec(n={"b": 3, "c": 4}),
                "update",
                ("config.n.a", "config.n.b", "config.n.c"),
            ),
            (_spec(n=None), _spec(), "update", ("config.n",)),
            (_spec(), _spec(display_name="Alpha"), "metadata", ("display_name",)),
            (_spec(n=1), _spec(n=2, display_name="Alpha"), "update", ("display_name", "config.n")),
            (_spec(), _spec(type_="filesystem"), "replace", ("type",)),
            (_spec(n=1), replace(_spec(n=1), implementation="sha256:1"), "update", ("implementation",)),
            (_spec(), replace(_spec(n=1), implementation="1"), "update", ("implementation", "config.n")),
        ],
    )
    def test_every_change_has_its_kind_and_its_fields(
        self, old: ProviderSpec, new: ProviderSpec, kind: str, changed: tuple[str, ...]
    ) -> None:
        (action,) = diff(State({"a": old}), State({"a": new}))
        assert (action.kind, action.name, action.old, action.new) == (kind, "a", old, new)
        assert action.changed == changed

    def test_another_order_of_the_same_is_no_change(self) -> None:
        one, other = _spec("one", n={"a": 1, "b": 2}), _spec("other")
        again = _spec("one", n={"b": 2, "a": 1})
        assert not diff(State({"one": one, "other": other}), State({"other": other, "one": again}))

    def test_a_default_that_is_gone_is_unset(self) -> None:
        (action,) = diff(State({}, "a"), State({}))
        assert action == Action("default", None, old_default="a")
        assert str(action) == "unset the default"

    def test_an_empty_plan_is_false(self) -> None:
        assert not Plan()
        assert Plan((Action("default", "a"),))
